#pragma once

// Formulas of training that host and device share: a denoising time from a uniform, and Adam's step. In float on every
// backend.
#include <cmath>
#include <cstdint>

#include "fokker/formulas/host_device.hpp"

namespace fokker {

// How denoising times are drawn. paper: t = t_min + (T − t_min) Beta(1, 2) by inversion (for T = 10 and t_min = 1e-4
// the paper's T·Beta(1, 2) + 1e-4 to within 1e-5). uniform: on [t_min, T]. importance: density q ∝ p/σ² with p the
// paper's law (mixed with a sixteenth of the log-uniform one, which keeps the tail of a steep σ² covered), weight p/q,
// so that the expected loss is the paper's and its variance is bounded: weight/σ² is at most 1.4 times its mean.
// log_normal: ln(σ/m) normal (Karras et al. 2022), cut to [t_min, T].
enum class TimeLaw { paper, uniform, importance, log_normal };

// The weight λ(t) of a denoising point's squares |s − ∇ log p(x_t | x_0)|². unit: 1/B², B of the network's form, which
// is 1 for the score and makes the target of the others' own output count alike at every t. score: 1. variance: σ².
enum class LossWeight { unit, score, variance };

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
  const float* edges;
  std::int32_t cells;

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
