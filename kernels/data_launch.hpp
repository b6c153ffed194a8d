#pragma once

// Draws of x_0 (data.cu); conventions as in launch.hpp.
#include <cstdint>

#include "fokker/formulas/data.hpp"
#include "launch.hpp"

namespace fokker::kernels {

// As MixtureTables, on the device.
struct MixtureDraw {
  int components;
  const float* thresholds;  // [K − 1]
  const float* means;       // [K, d]
  const float* deviations;  // [K], or nullptr
  const float* factors;     // [K, d, d], or nullptr
};

// What x_0 is drawn from. Which of the tables are there follows from the kind; they are on the device.
struct DataSource {
  DataKind kind;
  int dimension;
  MixtureDraw mixture;
  const float* samples;  // [count, dimension]
  std::uint64_t count;   // < 2^32
};

struct DrawArguments {
  std::int64_t n;
  std::uint64_t seed, first_index, step;
  float* out;  // [n, d]
};
Status launch_draw(const DataSource& data, const DrawArguments& draw, Stream stream);

}  // namespace fokker::kernels
