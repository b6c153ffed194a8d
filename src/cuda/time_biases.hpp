#pragma once

// A network whose layers take an embedding of the time, as a resident sampler does: all points of a stage have one time,
// so U_l e + b_l is a bias, found here on the host in double for every time of a path, and what is left is a plain
// network.
#include <cstdint>
#include <map>
#include <vector>

#include "cuda/runtime.hpp"
#include "fokker/model.hpp"

namespace fokker::cuda {

// The network without its time: the W_l alone, with zeros for the time in the first, as a plain one.
Mlp without_time(const Mlp& mlp);

// The biases of all layers at each of some times, each time once.
class TimeBiases {
 public:
  // `width`: of a hidden layer's part of a row.
  TimeBiases(const Mlp& mlp, int width) : mlp_(&mlp), width_(width) {}

  // The row of a time; makes it where there is none yet.
  std::int32_t row(float time);
  int stride() const;  // of a row, even
  DeviceMemory upload() const { return cuda::upload(rows_); }

 private:
  const Mlp* mlp_;
  int width_;
  std::map<float, std::int32_t> index_;
  std::vector<float> rows_;
};

}  // namespace fokker::cuda
