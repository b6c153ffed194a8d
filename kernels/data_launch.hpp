#pragma once

// Draws of x_0 (data.cu); conventions as in launch.hpp.
#include <cstdint>

#include "launch.hpp"

namespace fokker::kernels {

struct DrawArguments {
  std::int64_t n;
  int dimension;
  std::uint64_t seed, first_index, step;
  float* out;  // [n, d]
};

Status launch_circles2(const DrawArguments& draw, Stream stream);
Status launch_checker(const DrawArguments& draw, Stream stream);
// samples [count, d], count < 2^32.
Status launch_stored(const DrawArguments& draw, const float* samples, std::uint64_t count, Stream stream);

// As MixtureTables, on the device.
struct MixtureDraw {
  int components;
  const float* thresholds;  // [K − 1]
  const float* means;       // [K, d]
  const float* deviations;  // [K], or nullptr
  const float* factors;     // [K, d, d], or nullptr
};
Status launch_mixture_draw(const DrawArguments& draw, const MixtureDraw& mixture, Stream stream);

}  // namespace fokker::kernels
