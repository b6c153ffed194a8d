#pragma once

// Kernels that give a thread one item after another: thread g of G takes items g, g + G, g + 2 G, …. And the sum over
// the threads of a block.
#include <algorithm>
#include <cstdint>

#include "device.hpp"

namespace fokker::kernels {

inline constexpr int item_threads = 256;

// Shared memory that block_sum() takes, from its start.
inline constexpr int block_sum_bytes(int threads) { return threads / 32 * static_cast<int>(sizeof(double)); }

// One item a thread, up to most_item_blocks of them or fewer; for items ≥ 1.
inline LaunchShape one_item_a_thread(std::int64_t items, std::int64_t most_blocks = most_item_blocks) {
  const std::int64_t blocks = std::min({(items + item_threads - 1) / item_threads, most_blocks, most_item_blocks});
  return {static_cast<int>(blocks), item_threads, 0};
}

__device__ __forceinline__ std::int64_t first_item() {
  return static_cast<std::int64_t>(block_index()) * block_threads() + thread_index();
}
__device__ __forceinline__ std::int64_t item_stride() {
  return static_cast<std::int64_t>(grid_blocks()) * block_threads();
}

// The sum over the block's threads for thread 0, always in the same order. Once a kernel.
__device__ __forceinline__ double block_sum(double v) {
  double* const of_warps = shared_array<double>();
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  if (lane_index() == 0) of_warps[warp_index()] = v;
  sync_block();
  if (thread_index() > 0) return 0;
  for (int w = 1; w < block_threads() / 32; ++w) v += of_warps[w];
  return v;
}

}  // namespace fokker::kernels
