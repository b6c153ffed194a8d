#pragma once

// Kernels that give a thread one item after another: thread g of G takes items g, g + G, g + 2 G, ….
#include <algorithm>
#include <cstdint>

#include "device.hpp"

namespace fokker::kernels {

inline constexpr int item_threads = 256;

// One item a thread up to a grid that fills any device several times over; for items ≥ 1.
inline LaunchShape one_item_a_thread(std::int64_t items) {
  constexpr std::int64_t most_blocks = 1 << 14;
  return {static_cast<int>(std::min((items + item_threads - 1) / item_threads, most_blocks)), item_threads, 0};
}

__device__ __forceinline__ std::int64_t first_item() {
  return static_cast<std::int64_t>(block_index()) * block_threads() + thread_index();
}
__device__ __forceinline__ std::int64_t item_stride() {
  return static_cast<std::int64_t>(grid_blocks()) * block_threads();
}

}  // namespace fokker::kernels
