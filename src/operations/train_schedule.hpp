#pragma once

// What every backend's trainer takes from the host alike: learning rates, the cells of the laws of times, and
// when the average of the weights runs. All of it follows from the options and the iteration number; there is no other
// state.
#include <cstdint>
#include <vector>

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

// The rows of the table of LossWeight::given; none without it.
std::vector<LossWeightAt<float>> loss_weight_rows(const TrainOptions& options);

// Cells of a time law in a training, on every backend.
inline constexpr std::int32_t time_cells = 4096;

// The edges [cells + 1] of a law that has some, importance or log_normal; empty for the others. sde: valid, so that its
// t_min is above 0. Throws Error where the law lies outside [t_min, T].
std::vector<float> time_law_edges(const ForwardSde& sde, const TrainOptions& options, std::int32_t cells);

}  // namespace fokker
