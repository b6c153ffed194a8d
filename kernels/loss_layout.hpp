#pragma once

// What the resident loss (loss.cu) has in shared memory and in its workspace, and by it for which networks there is one;
// shared_layout.hpp goes before. Compiles without CUDA.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "shared_layout.hpp"

namespace fokker::kernels {

// A gradient as a block sums it up, in floats from its start. Products of two tiles lie in fragments: blocks of 16 × 8,
// row after row of blocks, each as its 32 lanes hold it after mma.m16n8k16.
inline constexpr int fragment_floats = 16 * 8;
struct LossGradientLayout {
  int first_layer;    // [width, first_columns] in fragments
  int first_columns;  // 1 + d, padded to 16
  int hidden;         // [hidden − 1][width, width] in fragments
  int bias;           // [hidden, width]
  int output;         // a potential: [width]; a vector net: [outputs padded to 16, width] in fragments
  int output_bias;    // [outputs padded to 16]
  int size = 0;
};

inline LossGradientLayout loss_gradient_layout(const ResidentMlp& net) {
  const auto padded = [](int count) { return (count + 15) / 16 * 16; };
  LossGradientLayout layout;
  const auto take = [&](int count) { return std::exchange(layout.size, layout.size + count); };
  layout.first_columns = padded(1 + net.dimension);
  layout.first_layer = take(net.width * layout.first_columns);
  layout.hidden = take((net.hidden - 1) * net.width * net.width);
  layout.bias = take(net.hidden * net.width);
  layout.output = take((net.potential ? 1 : padded(net.outputs)) * net.width);
  layout.output_bias = take(padded(net.outputs));
  return layout;
}

// Planes of tile_rows × width numbers that a tile's sweeps leave for later ones, each of a hidden layer; of a vector
// net there are codes alone. Symbols as in src/operations/LOSS_GRADIENT.md.
enum class LossPlane {
  code,     // of z, from which σ and its derivatives follow
  reverse,  // P, then S
  squares,  // q
  source,   // S as far as the axis adjoints have it
  tangent,  // ż of an axis
  count
};

// The layers that have a plane: `lowest` … hidden − 1 − `without`. P of the last layer and ż and q of the first are rows
// of the network, S of the last layer and ż there stay in registers.
struct LossPlaneLayers {
  int lowest, without;
};
FOKKER_HOST_DEVICE constexpr LossPlaneLayers layers_of(LossPlane plane) {
  switch (plane) {
    case LossPlane::code: return {0, 0};
    case LossPlane::squares: return {1, 0};
    case LossPlane::reverse:
    case LossPlane::source: return {0, 1};
    default: return {1, 1};
  }
}

// Planes before those of `plane`.
FOKKER_HOST_DEVICE constexpr int planes_before(LossPlane plane, int hidden) {
  int planes = 0;
  for (int k = 0; k < static_cast<int>(plane); ++k) {
    const LossPlaneLayers layers = layers_of(static_cast<LossPlane>(k));
    planes += hidden - layers.lowest - layers.without;
  }
  return planes;
}
FOKKER_HOST_DEVICE constexpr int plane_number(LossPlane plane, int hidden, int l) {
  return planes_before(plane, hidden) + l - layers_of(plane).lowest;
}
// Planes of a warp. A single layer has its code alone, as the layers of a vector net have.
inline int loss_planes(const ResidentMlp& net) {
  return net.potential && net.hidden > 1 ? planes_before(LossPlane::count, net.hidden) : net.hidden;
}

// What a block has in shared memory before its warps' pieces.
struct BlockTask;  // loss_memory.hpp
inline constexpr int loss_task_bytes = 512;
struct LossBlockLayout {
  Place<float> gradient;  // as in LossGradientLayout, behind the network's image
  Place<BlockTask> task;  // what the block works on, loss_task_bytes
  int bytes;
};
inline LossBlockLayout loss_block_layout(const ResidentMlp& net) {
  LayoutBuilder memory;
  memory.take<char>(image_layout(net).bytes);
  LossBlockLayout block;
  block.gradient = memory.take<float>(loss_gradient_layout(net).size, load_alignment);
  block.task = {memory.take<char>(loss_task_bytes, load_alignment).offset};
  block.bytes = memory.bytes();
  return block;
}

// What a warp has in shared memory before its planes. It begins with its loops' indices, int [3, 32], of each lane: the
// offset 0 saves a register.
inline constexpr int loss_indices = 3;
struct LossWarpLayout {
  Place<float> inputs;       // [tile_rows, input_stride]: (τ, C x) of a sample
  int input_stride;          // as in WarpLayout
  Place<float> seeds;        // [tile_rows, input_stride]: c, first the target
  Place<float> weights;      // [tile_rows]: w, first the sample's weight
  Place<float> value_seeds;  // [tile_rows]: ν, where the form is not plain
  Place<double> values;      // [2, tile_rows]: sums of weight (s − s*)² and of R² over the tiles
  Place<float> scales;       // [2] of the stages
  // A tile as the left and as the right side of a product over the block's samples; split: high and low halves
  // [tile_rows, width + 8] each, fp32: float [tile_rows, width + 4].
  Place<char> stage[2];
  int bytes;
};
// formed: the form of the network's output is not plain, here and below.
inline LossWarpLayout loss_warp_layout(const ResidentMlp& net, bool formed) {
  LayoutBuilder memory;
  LossWarpLayout warp;
  warp.input_stride = input_stride(net);
  memory.take<int>(loss_indices * 32);
  warp.inputs = memory.take<float>(tile_rows * warp.input_stride);
  warp.seeds = memory.take<float>(tile_rows * warp.input_stride);
  warp.weights = memory.take<float>(tile_rows);
  warp.value_seeds = memory.take<float>(formed ? tile_rows : 0);
  warp.values = memory.take<double>(2 * tile_rows);
  warp.scales = memory.take<float>(2);
  const int stage = tile_rows * 4 * (net.width + (net.precision == Precision::fp32 ? 4 : 8));
  for (Place<char>& side : warp.stage) side = memory.take<char>(stage, load_alignment);
  warp.bytes = memory.bytes();
  return warp;
}

// Warps of a block where a block may have `shared_bytes` of shared memory; 0: the loss goes the wide way.
inline int resident_loss_warps(const ResidentMlp& net, bool formed, int shared_bytes) {
  if (net.width > widest_resident_curvature) return 0;
  return warps_that_fit(shared_bytes, loss_block_layout(net).bytes, loss_warp_layout(net, formed).bytes);
}

// Bytes of a task's workspace on a device, of blocks of at most `warps`: whatever the number of points.
struct LossWorkspace {
  std::size_t planes, partial, partial_values;
};
inline LossWorkspace resident_loss_workspace(const ResidentMlp& net, int warps, const DeviceLimits& limits) {
  const auto blocks = static_cast<std::size_t>(limits.multiprocessors);
  return {blocks * static_cast<std::size_t>(warps * loss_planes(net) * tile_rows * net.width) * sizeof(float),
          blocks * static_cast<std::size_t>(loss_gradient_layout(net).size) * sizeof(float),
          blocks * 2 * sizeof(double)};
}

// ---- trainings on several ranks -------------------------------------------------------------------------------------

// A partial gradient as ranks exchange it, in floats: first what it has of the two sums of losses, doubles; then `size`
// numbers.
inline constexpr int record_head = 4;
FOKKER_HOST_DEVICE constexpr std::int64_t record_floats(int size) {
  return record_head + (std::int64_t{size} + 3) / 4 * 4;
}

// Rank r of R has chunks r S to (r + 1) S, as far as there are so many; S = slots.
struct ChunksOfRank {
  int slots, first, count;

  ChunksOfRank(int chunks, int rank, int ranks)
      : slots((chunks + ranks - 1) / ranks),
        first(std::min(chunks, rank * slots)),
        count(std::min(chunks, first + slots) - first) {}
};

// The blocks of a resident loss on several ranks, in chunks of about as many. Chunks are exchanged, so that there are few
// of them; blocks are many, so that those of an eighth of the chunks fill a device.
struct LossChunks {
  int blocks, chunks;

  FOKKER_HOST_DEVICE int first_block(int chunk) const {
    return static_cast<int>(std::int64_t{blocks} * chunk / chunks);
  }
};
inline constexpr int most_chunks = 64;
inline int most_chunked_blocks(const DeviceLimits& limits) {
  return most_chunks * std::clamp(limits.multiprocessors / 8, 1, 1000);
}

}  // namespace fokker::kernels
