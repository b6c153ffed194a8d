#pragma once

// Formulas of training that host and device share: a denoising time from a uniform, and Adam's step. In float on every
// backend.
#include <cmath>
#include <cstdint>

#include "fokker/formulas/form.hpp"
#include "fokker/formulas/host_device.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/formulas/sde.hpp"

namespace fokker {

// How denoising times are drawn. paper: t = t_min + (T − t_min) Beta(1, 2) by inversion (for T = 10 and t_min = 1e-4
// the paper's T·Beta(1, 2) + 1e-4 to within 1e-5). uniform: on [t_min, T]. importance: density q ∝ p/σ² with p the
// paper's law (mixed with a sixteenth of the log-uniform one, which keeps the tail of a steep σ² covered), weight p/q,
// so that the expected loss is the paper's and its variance is bounded where the loss grows as 1/σ², as the score's does:
// weight/σ² is at most 1.4 times its mean. With the weight `unit` of another form it wastes points: take uniform there.
// log_normal: ln(σ/m) normal (Karras et al. 2022), cut to [t_min, T].
enum class TimeLaw { paper, uniform, importance, log_normal };

// The weight λ(t) of a denoising point's squares |s − ∇ log p(x_t | x_0)|². unit: 1/B², B of the network's form, which
// is 1 for the score and makes the target of the others' own output count alike at every t. score: 1. variance: σ².
// given: by a table, linear between its times and constant beyond them.
enum class LossWeight { unit, score, variance, given };

// A row of the table of LossWeight::given.
template <class T>
struct LossWeightAt {
  T t, weight;

  bool operator==(const LossWeightAt&) const = default;
};

// λ by a table, linear between its times and constant beyond them.
struct LossWeightTable {
  std::int32_t count;               // ≥ 1
  const LossWeightAt<float>* rows;  // [count], their times strictly ascending

  template <class T>
  FOKKER_HOST_DEVICE T at(T t) const {
    std::int32_t after = 0;  // rows up to t
    for (std::int32_t end = count; after < end;) {
      const std::int32_t middle = after + (end - after) / 2;
      if (static_cast<T>(rows[middle].t) <= t) {
        after = middle + 1;
      } else {
        end = middle;
      }
    }
    const LossWeightAt<float>&low = rows[after > 0 ? after - 1 : 0], &high = rows[after < count ? after : count - 1];
    const T from = static_cast<T>(low.weight), width = static_cast<T>(high.t) - static_cast<T>(low.t);
    if (!(width > 0)) return from;
    return from + (static_cast<T>(high.weight) - from) * ((t - static_cast<T>(low.t)) / width);
  }
};

// The seed that Hutchinson's probes of the residual have in an iteration of a training: point i's probe j is then the one
// of (this seed, i, j), and so a function of the training's seed, iteration, point and probe.
FOKKER_HOST_DEVICE inline std::uint64_t probe_seed(std::uint64_t seed, std::uint64_t iteration) {
  const PhiloxBlock block = philox4x32_10(seed, 0, philox_offset(RandomUse::probe_seed, 0, iteration));
  return (std::uint64_t{block.word[0]} << 32) | block.word[1];
}

// A denoising time and its weight as a function of one uniform; a value type that kernels take by copy.
//   paper       density p(t) = 2 (T − t)/(T − t_min)², by inversion
//   uniform     density 1/(T − t_min)
//   importance  edges [cells + 1] cut [t_min, T] into cells of equal mass under 15/16 of p/σ² and 1/16 of 1/t, both
//               normalised; t is uniform inside its cell. The density drawn from is thus known exactly,
//               1/(cells · width), and with it the weight.
//   log_normal  the same by edges of its own, with weight 1
struct TimeDraw {
  TimeLaw law;
  float t_min, horizon;
  std::int32_t cells;
  const float* edges;

  FOKKER_HOST_DEVICE float operator()(float u, float& weight) const {
    const float span = horizon - t_min;
    weight = 1;
    if (law == TimeLaw::uniform) return t_min + span * u;
    if (law == TimeLaw::paper)
      return t_min + span * (u / (1 + std::sqrt(1 - u)));  // 1 − √(1 − u), without cancellation
    const float position = u * static_cast<float>(cells);
    const std::int32_t at = static_cast<std::int32_t>(position), cell = at < cells ? at : cells - 1;
    const float low = edges[cell], width = edges[cell + 1] - low;
    const float t = low + width * (position - static_cast<float>(cell));
    if (law == TimeLaw::importance) weight = 2 * (horizon - t) / (span * span) * static_cast<float>(cells) * width;
    return t;
  }
};

// What a network is given and compared with at a denoising time t, x_t = m x_0 + σ z: its own time, C x_t, and of_data x_0
// + of_noise z, the squares times λ B² (form.hpp).
template <class T>
struct DenoisingPoint {
  T time, weight;

  // given: of LossWeight::given.
  FOKKER_HOST_DEVICE DenoisingPoint(const NetworkForm& form, const SdeFormulas& formulas, LossWeight loss_weight, T t,
                                    const LossWeightTable* given = nullptr) {
    const SdeCoefficients<T> sde = formulas.at(t);
    const FormCoefficients<T> c = form_at(form, formulas, t);
    const FormTarget<T> target = form_target(form, formulas.kind, sde);
    mean_ = sde.mean, deviation_ = std::sqrt(sde.variance), in_ = c.in;
    of_data_ = target.of_data, of_noise_ = target.of_noise;
    time = c.time;
    weight = loss_weight == LossWeight::unit       ? T(1)
             : loss_weight == LossWeight::score    ? c.out * c.out
             : loss_weight == LossWeight::variance ? sde.variance * (c.out * c.out)
                                                   : given->at(t) * (c.out * c.out);
  }
  // For each coordinate: x_0 becomes C x_t, and z what the network is compared with.
  FOKKER_HOST_DEVICE void operator()(T& x, T& z) const {
    const T at = mean_ * x + deviation_ * z;
    z = of_data_ == T(0) ? of_noise_ * z : of_data_ * x + of_noise_ * z;
    x = in_ * at;
  }

 private:
  T mean_, deviation_, in_, of_data_, of_noise_;
};

// Training stops on a gradient whose norm, after clipping, is above this: Adam squares the gradient in float.
inline constexpr double largest_norm = 1e18;

// One step of Adam (Kingma and Ba 2015), in PyTorch's order of operations: first ← first + (1 − β₁)(g − first),
// second ← β₂ second + (1 − β₂) g², parameter ← parameter − rate/(1 − β₁ᵗ) first/(√second/√(1 − β₂ᵗ) + ε).
struct AdamStep {
  static constexpr double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  float gradient_scale;  // of clipping; 1: none
  float step;            // rate/(1 − β₁ᵗ)
  float root;            // 1/√(1 − β₂ᵗ)

  // step_number: t, counted from 1 at a restart.
  AdamStep(double rate, std::int64_t step_number, double clip_scale)
      : gradient_scale(static_cast<float>(clip_scale)),
        step(static_cast<float>(rate / (1 - std::pow(beta1, static_cast<double>(step_number))))),
        root(static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, static_cast<double>(step_number))))) {}

  FOKKER_HOST_DEVICE void operator()(float gradient, float& parameter, float& first, float& second) const {
    const float g = gradient_scale * gradient;
    first += static_cast<float>(1 - beta1) * (g - first);
    second = static_cast<float>(beta2) * second + static_cast<float>(1 - beta2) * (g * g);
    parameter -= step * first / (std::sqrt(second) * root + static_cast<float>(epsilon));
  }
};

}  // namespace fokker
