#pragma once

// What a training iteration runs on the device beside its losses: the points it draws (training_points.cu, and
// training_points.hpp where a kernel draws them itself) and its update (optimiser.cu). Conventions as in launch.hpp.
#include <cstdint>

#include "data_launch.hpp"
#include "fokker/formulas/form.hpp"
#include "fokker/formulas/sde.hpp"
#include "fokker/formulas/train.hpp"

namespace fokker::kernels {

struct TrainingDraw {
  DataSource data;
  SdeFormulas sde;
  TimeDraw time;  // its edges on the device
  std::uint64_t seed;
  const std::int64_t*
      iteration;  // device: the Philox step of all draws; read by the kernel, so that a graph can run on
  std::int64_t denoising_points, collocation_points;
  float box;
  LossWeight loss_weight = LossWeight::unit;
  int condition = 0;                              // how many numbers at the end of a row of the data are its condition
  float condition_drop = 0;                       // probability with which a point has zeros instead
  const LossWeightTable* loss_weights = nullptr;  // of `given`: device, as its rows are

  FOKKER_HOST_DEVICE int dimension() const { return data.dimension - condition; }
};

// Denoising points first … first + n − 1 of the iteration that draw.iteration holds, as a network in this form takes
// them: t [n] τ, x [n, d] C x_t, target [n, d] of its output, weight [n] and, where draw.condition is not 0, condition
// [n, draw.condition].
Status launch_denoising_points(const TrainingDraw& draw, const NetworkForm& form, std::int64_t first, std::int64_t n,
                               float* t, float* x, float* target, float* weight, Stream stream,
                               float* condition = nullptr);
// Collocation points first … first + n − 1 of the model: t [n], x [n, d] and the condition of data that no denoising
// point of the iteration has.
Status launch_collocation_points(const TrainingDraw& draw, std::int64_t first, std::int64_t n, float* t, float* x,
                                 Stream stream, float* condition = nullptr);

// What an iteration's update takes from the host: computed there in double, for the iterations of a run.
struct UpdateStep {
  AdamStep adam;  // without clipping
  bool restart;   // the moments start from zero
  double share;   // average += share · (parameters − average); 0: not in the average
};

// The loss of an iteration before its update.
struct UpdateRecord {
  double denoising, residual, total, gradient_norm;
};

// Iterations run in slices of at most so many: what a slice takes goes to the device ahead of it, and what it leaves
// comes back behind it.
inline constexpr int most_iterations = 1024;
struct UpdatePlan {
  std::int64_t first;  // iteration of entry 0
  UpdateStep steps[most_iterations];
};
struct UpdateReport {
  std::int64_t iteration;  // the next one, which the draws read
  UpdateRecord records[most_iterations];
};

// Σ g² of a gradient, in parts that the loss's last kernel leaves with it: how many, and what each of them sums,
// depends on the network alone.
inline constexpr int most_square_parts = 256;
struct GradientSquares {
  std::int64_t iteration;  // of the points. An update's blocks read it here, while one of them moves the report's on.
  int count;
  double parts[most_square_parts];

  FOKKER_HOST_DEVICE void leave(int part, int of, std::int64_t of_iteration, double sum) {
    parts[part] = sum;
    if (part > 0) return;
    iteration = of_iteration;
    count = of;
  }
};

// One model's update; pointers are to device memory.
struct UpdateTask {
  std::int64_t parameter_count;
  float *parameters, *first_moment, *second_moment;  // [P]
  double* average;                                   // [P], or nullptr where no iteration enters an average
  const float* gradient;                             // [P]
  const double* values;                              // [3], as in LossTask
  const GradientSquares* squares;
  double clip_norm;  // 0: never
  const UpdatePlan* plan;
  UpdateReport* report;
};

// The update of every task's iteration: its record, and then, where loss and gradient are finite and the norm is at
// most largest_norm, Adam, the average and the next iteration. Elsewhere nothing else changes, so that an iteration
// that failed fails again, without a trace in slices after its own. tasks [count] on the device; the result for one
// does not depend on the others. most_parameters: the largest of their P.
Status launch_update(const UpdateTask* tasks, int count, std::int64_t most_parameters, Stream stream);
Status prepare_update();

}  // namespace fokker::kernels
