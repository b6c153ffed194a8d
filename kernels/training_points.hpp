#pragma once

// The points of a training iteration as functions of (seed, iteration, index): what the CPU's trainer draws, by the same
// formulas and the same Philox words (src/cpu/trainer.cpp).
#include <cstdint>

#include "data_launch.hpp"
#include "fokker/data.hpp"
#include "fokker/sde.hpp"
#include "fokker/train_formulas.hpp"

namespace fokker::kernels {

// What x_0 is drawn from. The tables are those of data_launch.hpp, on the device; which of them are there follows from
// the kind.
struct DataSource {
  DataSet::Kind kind;
  int dimension;
  MixtureDraw mixture;
  const float* samples;  // [count, dimension]
  std::uint64_t count;
};

struct TrainingDraw {
  DataSource data;
  ForwardSde sde;
  TimeDraw time;  // its edges on the device
  std::uint64_t seed;
  const std::int64_t* iteration;  // device: the Philox step of all draws; read by the kernel, so that a graph can run on
  std::int64_t denoising_points, collocation_points;
  float box;
};

}  // namespace fokker::kernels
