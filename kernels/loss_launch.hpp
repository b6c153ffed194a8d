#pragma once

// Losses of resident networks and their gradients (loss.cu); conventions as in launch.hpp.
#include <cstddef>
#include <cstdint>

#include "launch.hpp"
#include "shared_layout.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {

// One network's loss; device pointers.
struct ResidentLossTask {
  PackTask network;  // packed anew by every launch
  // Workspace, of resident_loss_workspace() bytes.
  float* planes;
  float* partial;
  double* partial_values;
  // Points as in DenoisingBatch and CollocationBatch, or all nullptr: drawn. `points` holds their counts and the SDE.
  const float *denoising_t, *denoising_x, *denoising_target, *denoising_weight, *collocation_t, *collocation_x;
  bool drawn;
  TrainingDraw points;
  double residual_weight;
  double* values;            // [3]
  float* gradient;           // [P], or nullptr
  GradientSquares* squares;  // of a gradient of drawn points, or nullptr
};

// A gradient as a block sums it up, in floats from its start. Products of two tiles lie in fragments: blocks of 16 × 8,
// row after row of blocks, each as its 32 lanes hold it after mma.m16n8k16.
struct LossGradientLayout {
  int first = 0;      // [width, first_columns] in fragments
  int first_columns;  // 1 + d, padded to 16
  int hidden;         // [hidden − 1][width, width] in fragments
  int bias;           // [hidden, width]
  int output;         // a potential: [width]; a vector net: [outputs padded to 16, width] in fragments
  int output_bias;    // [outputs padded to 16]
  int size;
};

inline LossGradientLayout loss_gradient_layout(const ResidentMlp& net) {
  LossGradientLayout at;
  at.first_columns = (1 + net.dimension + 15) / 16 * 16;
  const int outputs = (net.outputs + 15) / 16 * 16;
  at.hidden = net.width * at.first_columns;
  at.bias = at.hidden + (net.hidden - 1) * net.width * net.width;
  at.output = at.bias + net.hidden * net.width;
  at.output_bias = at.output + (net.potential ? 1 : outputs) * net.width;
  at.size = at.output_bias + outputs;
  return at;
}

// What a warp has in shared memory beside planes, in bytes from its start.
struct LossWarpLayout {
  static constexpr int counters = 0;  // int [3, 32]: of each lane; the offset 0 saves a register
  int inputs;                         // float [tile_rows, input_stride]: (t, x) of a sample
  int input_stride;                   // as in WarpLayout
  int seeds;                          // float [tile_rows, input_stride]: c, first the target
  int rows;                           // float [tile_rows]: w, first the sample's weight
  int values;                         // double [2, tile_rows]: sums of weight (s − s*)² and of R² over the tiles
  int scales;                         // float [2] of the stages
  int stage[2];                       // a tile as the left and as the right side of a product over the block's samples
  int bytes;
};

inline LossWarpLayout loss_warp_layout(const ResidentMlp& net) {
  const int number = static_cast<int>(sizeof(float));
  const auto up = [](int bytes) { return (bytes + 15) / 16 * 16; };
  LossWarpLayout at;
  at.input_stride = (1 + net.dimension) | 1;
  const int points = tile_rows * at.input_stride * number;
  at.inputs = at.counters + 3 * 32 * number;
  at.seeds = at.inputs + points;
  at.rows = at.seeds + points;
  at.values = at.rows + tile_rows * number;
  at.scales = at.values + 2 * tile_rows * static_cast<int>(sizeof(double));
  at.stage[0] = up(at.scales + 2 * number);
  // split: high and low halves [tile_rows, width + 8] each; fp32: [tile_rows, width + 4].
  const int stage = tile_rows * number * (net.width + (net.precision == Precision::fp32 ? 4 : 8));
  at.stage[1] = at.stage[0] + stage;
  at.bytes = at.stage[1] + stage;
  return at;
}

// Planes of tile_rows × width numbers that a tile's sweeps leave for later ones.
inline int loss_planes(const ResidentMlp& net) {
  return net.potential && net.hidden > 1 ? 5 * (net.hidden - 1) : net.hidden;
}

inline constexpr int loss_task_bytes = 512;  // of shared memory, for the task that a block works on

// Warps of a block where a block may have `shared_bytes` of shared memory; 0: the loss goes the wide way.
inline int resident_loss_warps(const ResidentMlp& net, int shared_bytes) {
  if (net.width == 0 || net.width > widest_resident_curvature || net.precision == Precision::half) return 0;
  const int number = static_cast<int>(sizeof(float));
  const int of_block = image_layout(net).bytes + loss_gradient_layout(net).size * number + loss_task_bytes;
  const int fit = (shared_bytes - of_block) / loss_warp_layout(net).bytes;
  return fit < 0 ? 0 : fit < most_warps ? fit : most_warps;
}

// Bytes of a task's workspace on a device: whatever the number of points.
struct LossWorkspace {
  std::size_t planes, partial, partial_values;
};
inline LossWorkspace resident_loss_workspace(const ResidentMlp& net, const DeviceLimits& limits) {
  const auto blocks = static_cast<std::size_t>(limits.multiprocessors);
  const auto warps = static_cast<std::size_t>(resident_loss_warps(net, limits.shared_bytes));
  return {blocks * warps * static_cast<std::size_t>(loss_planes(net) * tile_rows * net.width) * sizeof(float),
          blocks * static_cast<std::size_t>(loss_gradient_layout(net).size) * sizeof(float),
          blocks * 2 * sizeof(double)};
}

// At set-up, for a loss that fits: as prepare_resident_fields().
Status prepare_resident_loss(const ResidentMlp& net, const DeviceLimits& limits);
// 1 … most_models networks of one shape: packs them, and puts their values and gradients where the tasks say. The order
// of a task's sums depends on the shape, the device and the task's numbers of points.
Status launch_resident_loss(const ResidentMlp& net, const ResidentLossTask* tasks, int count,
                            const DeviceLimits& limits, Stream stream);

}  // namespace fokker::kernels
