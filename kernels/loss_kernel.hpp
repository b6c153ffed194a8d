#pragma once

// The resident loss's kernels as loss.cu launches them. Each has a file of its own, loss_PRECISION_WIDTH.cu, in which it is
// compiled from loss_body.hpp.
#include <cstdint>

#include "device.hpp"
#include "loss_launch.hpp"
#include "loss_memory.hpp"

namespace fokker::kernels {

struct ResidentLossArguments {
  ResidentLossPlan plan;
  NetworkForm form;
  LaunchedShare shares[most_models];  // one after another in the grid
  LossTask tasks[most_models];
};
static_assert(sizeof(ResidentLossArguments) <= 4096, "a kernel's parameters");

// Tiles of a block's warps that points take, `warps` · 16 points a tile.
FOKKER_HOST_DEVICE inline std::int64_t block_tiles(std::int64_t points, int warps) {
  return (points + tile_rows * warps - 1) / (tile_rows * warps);
}
FOKKER_HOST_DEVICE inline std::int64_t block_tiles(const TrainingDraw& points, int warps) {
  return block_tiles(points.denoising_points, warps) + block_tiles(points.collocation_points, warps);
}

template <Precision P, int W>
struct LossKernel {
  static Status prepare(int shared_bytes);  // at set-up
  static Status launch(const LaunchShape& shape, Stream stream, const ResidentLossArguments& arguments);
};

}  // namespace fokker::kernels
