#pragma once

// What a training iteration runs on the device beside its losses: the points it draws (training_points.cu, and
// training_points.hpp where a kernel draws them itself) and its update (optimiser.cu). Conventions as in launch.hpp.
#include <cstdint>

#include "data_launch.hpp"
#include "fokker/sde.hpp"
#include "fokker/train_formulas.hpp"

namespace fokker::kernels {

struct TrainingDraw {
  DataSource data;
  ForwardSde sde;
  TimeDraw time;  // its edges on the device
  std::uint64_t seed;
  const std::int64_t*
      iteration;  // device: the Philox step of all draws; read by the kernel, so that a graph can run on
  std::int64_t denoising_points, collocation_points;
  float box;
};

// Denoising points first … first + n − 1 of the iteration that draw.iteration holds: t [n], x [n, d], target [n, d],
// weight [n].
Status launch_denoising_points(const TrainingDraw& draw, std::int64_t first, std::int64_t n, float* t, float* x,
                               float* target, float* weight, Stream stream);
// Collocation points first … first + n − 1: t [n], x [n, d].
Status launch_collocation_points(const TrainingDraw& draw, std::int64_t first, std::int64_t n, float* t, float* x,
                                 Stream stream);

}  // namespace fokker::kernels
