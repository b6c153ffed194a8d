#pragma once

// What every backend's trainer computes alike: learning rates, denoising times with their weights, Adam's step, and
// when the average of the weights runs. All of it follows from the options and the iteration number; there is no other
// state.
#include <cmath>
#include <cstdint>
#include <vector>

#include "fokker/host_device.hpp"
#include "fokker/sde.hpp"
#include "fokker/trainer.hpp"

namespace fokker {

// The rate of an iteration, and how many steps Adam has taken with it since its moments were last zero.
struct RateStep {
  double rate;
  std::int64_t steps_before;  // 0: the moments start from zero at this iteration
};

// iteration in [0, options.iterations).
RateStep rate_step(const TrainOptions& options, std::int64_t iteration);

// The first iteration whose parameters enter the average; options.iterations where none do.
std::int64_t average_begin(const TrainOptions& options);

// How an iteration's parameters enter the average: average += share · (parameters − average), `count` of them being in
// it.
inline double average_share(const TrainOptions& options, std::int64_t count) {
  if (count == 0) return 1;
  return options.average == WeightAverage::tail ? 1 / static_cast<double>(count + 1) : 1 - options.average_decay;
}

// A denoising time and its weight as a function of one uniform; a value type that kernels take by copy.
//   paper       density p(t) = 2 (T − t)/(T − t_min)², by inversion
//   uniform     density 1/(T − t_min)
//   importance  edges [cells + 1] cut [t_min, T] into cells of equal mass under 15/16 of p/σ² and 1/16 of 1/t, both
//               normalised; t is uniform inside its
//               cell. The density drawn from is thus known exactly, 1/(cells · width), and with it the weight.
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
    weight = 2 * (horizon - t) / (span * span) * static_cast<float>(cells) * width;
    return t;
  }
};

// The edges of TimeLaw::importance [cells + 1]. Throws Error where t_min is 0: p/σ² has no finite mass then.
std::vector<float> importance_edges(const ForwardSde& sde, std::int32_t cells);

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
