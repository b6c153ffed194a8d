#pragma once

// Tiles in a warp's registers: 16 rows (samples) and W columns (units) of floats. This header alone knows which lane
// holds which entry; kernels say rows, columns and leaders.
//
// Layout. A tile is W/8 blocks of 16 × 8 side by side, each as mma.m16n8k16 leaves its sums: lane 4 g + q holds of
// block j the entries of rows g and g + 8 in columns 8 j + 2 q and 8 j + 2 q + 1. A lane has thus two rows, numbered r
// = 0, 1, and two columns of each block, numbered c = 0, 1, and its entry (r, c) of block j is v[j][2 r + c]. The four
// lanes of a row are neighbours, and the first of them is its leader. Two neighbouring blocks rounded to fp16 are the
// left operand of a next mma, so that no entry changes its lane between two products.
#include <cmath>
#include <cstdint>

#include "device.hpp"
#include "halves.hpp"

namespace fokker::kernels {

// ---- which lane has what --------------------------------------------------------------------------------------------

inline constexpr int lanes_of_row = 4;
inline constexpr int rows_apart = 8;  // of a lane's second row from its first

// The rows of a block that lane `lane` holds, r = 0 or 1, and its columns, c = 0 or 1.
__device__ __forceinline__ int block_row(int lane, int r) { return (lane >> 2) + rows_apart * r; }
__device__ __forceinline__ int block_column(int lane, int c) { return 2 * (lane & 3) + c; }

// The same of this lane and tile: row r, and column c of block j.
__device__ __forceinline__ int tile_row(int r) { return block_row(lane_index(), r); }
__device__ __forceinline__ int tile_column(int j, int c = 0) { return 8 * j + block_column(lane_index(), c); }

// Whether this lane is the one of its rows' four that acts for them; for numbers i = 0, 1, … each in its turn.
__device__ __forceinline__ bool leads_rows(int i = 0) { return (lane_index() & 3) == (i & 3); }

// Over the four lanes of a row; each of them gets the result.
__device__ __forceinline__ float row_sum(float v) { return sum_of_lanes<lanes_of_row>(v); }
__device__ __forceinline__ float row_max(float v) { return largest_of_lanes<lanes_of_row>(v); }

// ---- tiles ----------------------------------------------------------------------------------------------------------

struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float v[4];
};

template <int W>
struct Tile {
  static constexpr int blocks = W / 8;
  float v[blocks][4];
};

// body(j) for the blocks of a tile.
template <int W, class Body>
__device__ __forceinline__ void for_blocks(const Body& body) {
#pragma unroll
  for (int j = 0; j < W / 8; ++j) body(j);
}

// for_block_entries(j, block, …)(body): body(r, column, x, …) for this lane's entries of block j, given as float [4],
// of one tile or of several.
template <class... Blocks>
__device__ __forceinline__ auto for_block_entries(int j, Blocks&... blocks) {
  return [&, j](const auto& body) {
#pragma unroll
    for (int e = 0; e < 4; ++e) body(e >> 1, tile_column(j, e & 1), blocks[e]...);
  };
}
// for_entries(tile, …)(body): body(r, column, x, …) for this lane's entries of one tile or of several.
template <class First, class... Others>
__device__ __forceinline__ auto for_entries(First& first, Others&... others) {
  return [&](const auto& body) {
    for_blocks<8 * First::blocks>([&](int j) { for_block_entries(j, first.v[j], others.v[j]...)(body); });
  };
}
// The same with a barrier of the warp in the middle, before which the compiler computes nothing of what comes after:
// where bodies are long, what is computed ahead would crowd the registers.
template <class First, class... Others>
__device__ __forceinline__ auto for_entries_in_halves(First& first, Others&... others) {
  return [&](const auto& body) {
    for_blocks<8 * First::blocks>([&](int j) {
      if (j == First::blocks / 2) sync_warp();
      for_block_entries(j, first.v[j], others.v[j]...)(body);
    });
  };
}

// for_chosen_blocks<kLoop>(tile, …)(body): body(j, block, …) for the blocks of one tile or of several. kLoop: in a loop
// that is not unrolled, where a body would be too long as many times. Registers have no index, so it always works on
// block 0, behind which the others move up, until all are back at their places.
template <bool kLoop, class First, class... Others>
__device__ __forceinline__ auto for_chosen_blocks(First& first, Others&... others) {
  return [&](const auto& body) {
    if constexpr (kLoop) {
      const auto move_up = [](auto& tile) {
        float front[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) front[e] = tile.v[0][e];
#pragma unroll
        for (int j = 0; j < First::blocks; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) tile.v[j][e] = j + 1 < First::blocks ? tile.v[j + 1][e] : front[e];
        }
      };
#pragma unroll 1
      for (int j = 0; j < First::blocks; ++j) {
        body(j, first.v[0], others.v[0]...);
        move_up(first);
        (move_up(others), ...);
      }
    } else {
      for_blocks<8 * First::blocks>([&](int j) { body(j, first.v[j], others.v[j]...); });
    }
  };
}

// The two entries of a row vector [W] in this lane's columns of block j.
__device__ __forceinline__ Float2 pair(const float* row, int j) {
  return *reinterpret_cast<const Float2*>(row + tile_column(j));
}

template <int W>
__device__ __forceinline__ void clear(Tile<W>& tile) {
  for_entries(tile)([](int, int, float& x) { x = 0; });
}
// Every row of the tile = row.
template <int W>
__device__ __forceinline__ void set_rows(const float* row, Tile<W>& tile) {
  for_blocks<W>([&](int j) {
    const Float2 w = pair(row, j);
    tile.v[j][0] = tile.v[j][2] = w.x;
    tile.v[j][1] = tile.v[j][3] = w.y;
  });
}
// Every row of the tile += row.
template <int W>
__device__ __forceinline__ void add_to_rows(const float* row, Tile<W>& tile) {
  for_blocks<W>([&](int j) {
    const Float2 w = pair(row, j);
    tile.v[j][0] += w.x, tile.v[j][1] += w.y, tile.v[j][2] += w.x, tile.v[j][3] += w.y;
  });
}

// ---- planes ---------------------------------------------------------------------------------------------------------

// A tile put down in memory, as the lanes hold it: block j of lane l is number 32 j + l of its Float4.
template <int W>
class Plane {
 public:
  // Floats of a plane.
  static constexpr int size = 16 * W;

  __device__ __forceinline__ explicit Plane(float* start) : of_lane_(reinterpret_cast<Float4*>(start) + lane_index()) {}
  // This lane's entries of block j.
  __device__ __forceinline__ Float4& operator[](int j) const { return of_lane_[32 * j]; }

  __device__ __forceinline__ void store(const Tile<W>& tile) const {
    for_blocks<W>([&](int j) { (*this)[j] = {{tile.v[j][0], tile.v[j][1], tile.v[j][2], tile.v[j][3]}}; });
  }
  __device__ __forceinline__ void load(Tile<W>& tile) const {
    for_blocks<W>([&](int j) {
      const Float4 block = (*this)[j];
      for_block_entries(j, tile.v[j], block.v)([](int, int, float& x, float y) { x = y; });
    });
  }

 private:
  Float4* of_lane_;
};

}  // namespace fokker::kernels
