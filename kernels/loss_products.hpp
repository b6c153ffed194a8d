#pragma once

// Products over the samples of a block: dW += Σ (left of a sample) ⊗ (right of it). Each warp publishes both sides of
// its 16 samples in its stages; the block's warps then share out dW among themselves, in runs of blocks of 16 × 16 along
// its rows, the samples of one warp being one step of the inner dimension. The blocks of a run that are in one row share
// their left operand. dW lies in shared memory as the lanes hold it (LossGradientLayout).
//
// split: a side is split into high and low halves under one power of two a tile, and every step has sums of its own,
// which are then added in fp32: no rounding of the tensor core, which is towards zero, piles up over steps.
//
// Cost at width 80 with 8 warps of one product for 128 samples: 1200 mma, a sweep's, 576 ldmatrix.x4, 592 below 9.0.
#include <cstdint>

#include "loss_memory.hpp"

namespace fokker::kernels {

// Where the sums over the samples of a left side's columns go: column 16 b + g + 8 h to to[b · block + g · row +
// h · half].
struct ColumnSums {
  float* to;
  int block, row, half;
};

template <Precision P, int W>
class LossProducts : public LossMemory<P, W> {
  using Memory = LossMemory<P, W>;

 protected:
  using Memory::gradient, Memory::left, Memory::memory, Memory::net_, Memory::plan_, Memory::right, Memory::scales,
      Memory::share, Memory::stage, Memory::stride;
  using Memory::Memory;
  using typename Memory::Side;

  // In blocks of 16 units.
  static constexpr int unit_blocks = W / 16;

  // The tile as one side of the next product over samples, and as the left side of a product by a hidden matrix.
  __device__ __forceinline__ Operand<P, W> publish(Side side, const Tile<W>& tile) const {
    if constexpr (P == Precision::fp32) {
      return Operand<P, W>(tile, reinterpret_cast<float*>(stage(side)));
    } else {
      float largest = 0;
      for_entries_in_halves(tile)([&](int, int, float x) { largest = fmaxf(largest, fabsf(x)); });
      const RowScale scale(largest_of_lanes<32>(largest));
      const Operand<P, W> operand(tile, scale);
      auto *high = reinterpret_cast<std::uint32_t*>(stage(side)) + tile_row(0) * pairs_of_row + tile_column(0) / 2,
           *low = high + tile_rows * pairs_of_row;
      for_blocks<W>([&](int j) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          high[r * 8 * pairs_of_row + 4 * j] = operand.high[j / 2][2 * (j & 1) + r];
          low[r * 8 * pairs_of_row + 4 * j] = operand.low[j / 2][2 * (j & 1) + r];
        }
      });
      if (lane_index() == 0) scales()[side] = scale.down;
      return operand;
    }
  }

  // to += left rightᵀ over the block's samples, of units [16 row_blocks] and [16 column_blocks]: fragments, `to_stride`
  // of them a row. sums, unless to is nullptr there: those of left's columns alone. Between two barriers. Each warp has a
  // run of blocks of 16 × 16, row after row, as long as any other's or longer by one; of the sums a row now and then.
  __device__ __forceinline__ void accumulate(int row_blocks, int column_blocks, float* to, int to_stride,
                                             const ColumnSums& sums) const {
    sync_block();
    // Of the task's number, which lies in shared memory: nothing of a run is known before, or kept in registers.
    const int warps = share().warps, blocks = warp_index() < warps ? row_blocks * column_blocks : 0;
    const int end = blocks * (warp_index() + 1) / warps;
#pragma unroll 1
    for (int begin = blocks * warp_index() / warps; begin < end; begin += most_of_run) {
      const Run run(begin, end, column_blocks);
      float total[most_of_run][2][4] = {};
      multiply_run(run, total);
#pragma unroll
      for (int i = 0; i < most_of_run; ++i) {
        if (i == run.count) break;
        Float4* block =
            reinterpret_cast<Float4*>(to) + (run.row[i] * to_stride + 2 * run.column[i]) * 32 + lane_index();
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          Float4 sum = block[32 * h];
#pragma unroll
          for (int e = 0; e < 4; ++e) sum.v[e] += total[i][h][e];
          block[32 * h] = sum;
        }
      }
    }
    if (sums.to != nullptr) {
#pragma unroll 1
      for (int rb = warp_index(); rb < row_blocks && warp_index() < warps; rb += warps) {
        float total[2] = {};
        sum_columns(rb, total);
        if (leads_rows()) {
          float* sum = sums.to + rb * sums.block + tile_row(0) * sums.row;
          sum[0] += total[0];
          sum[sums.half] += total[1];
        }
      }
    }
    sync_block();
  }

  // ---- by where in the gradient it goes ----

  // The weights of hidden matrix l.
  __device__ __forceinline__ void accumulate_hidden(int l, const ColumnSums& sums) const {
    accumulate(unit_blocks, unit_blocks, gradient() + plan_.gradient.hidden + l * W * W, W / 8, sums);
  }
  // The weights of the first layer: left ⊗ rows [tile_rows, stride()] of the warps, 1 + d numbers each.
  __device__ __forceinline__ void accumulate_first(const float* rows_of_warp, const ColumnSums& sums) const {
    const int columns = plan_.gradient.first_columns;
#pragma unroll 1
    for (int begin = 0; begin < columns; begin += W) {
      Tile<W> part;
      load_rows(rows_of_warp, begin, 1 + net_.dimension, part);
      publish(right, part);
      const int count = columns - begin < W ? columns - begin : W;
      accumulate(unit_blocks, count / 16, gradient() + plan_.gradient.first_layer + begin / 8 * fragment_floats,
                 columns / 8, begin == 0 ? sums : no_sums());
    }
  }
  // Sums of left's columns alone.
  __device__ __forceinline__ void accumulate_columns(const ColumnSums& sums) const {
    accumulate(unit_blocks, 0, nullptr, 0, sums);
  }

  __device__ __forceinline__ static ColumnSums no_sums() { return {nullptr, 0, 0, 0}; }
  // To a row of numbers.
  __device__ __forceinline__ static ColumnSums sums_to(float* row) { return {row, 16, 1, 8}; }
  __device__ __forceinline__ ColumnSums bias_sums(int l) const {
    return sums_to(gradient() + plan_.gradient.bias + l * W);
  }
  // To column i of the first layer's fragments.
  __device__ __forceinline__ ColumnSums first_column_sums(int i) const {
    return {gradient() + plan_.gradient.first_layer + i / 8 * fragment_floats + i % 8 / 2 * 4 + i % 2,
            plan_.gradient.first_columns * 16, 16, 2};
  }

  // part = columns begin … of rows [tile_rows, stride()] with `count` numbers.
  __device__ __forceinline__ void load_rows(const float* from, int begin, int count, Tile<W>& part) const {
    for_entries_in_halves(part)([&](int r, int column, float& x) {
      x = begin + column < count ? from[tile_row(r) * stride() + begin + column] : 0.0f;
    });
  }

 private:
  // A stage of fp32 has rows of W + 4 numbers, one of halves rows of W + 8, two a word; the low ones behind the high.
  static constexpr int floats_of_row = W + 4, pairs_of_row = (W + 8) / 2;
  static constexpr int bytes_of_row = 4 * pairs_of_row, low_halves = tile_rows * bytes_of_row;

  // `count` blocks one behind another in a matrix of blocks, of which a warp has the sums in registers. On 8.0 a fourth
  // one's spill 8 bytes. FOKKER_SHORT_RUNS: so in a test, where there is no __CUDA_ARCH__.
#if defined(FOKKER_SHORT_RUNS) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900)
  static constexpr int most_of_run = 3;
#else
  static constexpr int most_of_run = 4;
#endif
  struct Run {
    int count;
    int row[most_of_run], column[most_of_run];

    __device__ __forceinline__ Run(int begin, int end, int column_blocks)
        : count(end - begin < most_of_run ? end - begin : most_of_run) {
      row[0] = begin / column_blocks;
      column[0] = begin - row[0] * column_blocks;
#pragma unroll
      for (int i = 1; i < most_of_run; ++i) {
        const bool next_row = column[i - 1] + 1 == column_blocks;
        row[i] = row[i - 1] + (next_row ? 1 : 0);
        column[i] = next_row ? 0 : column[i - 1] + 1;
      }
    }
  };

  // The blocks of a run over all samples; a warp's are a step.
  __device__ __forceinline__ void multiply_run(const Run& run, float (&total)[most_of_run][2][4]) const {
    const int warps = share().warps;
    const char* from = memory(0);
    if constexpr (P == Precision::fp32) {
#pragma unroll 1
      for (int k = 0; k < warps; ++k, from += plan_.warp_bytes) {
        const float *left_rows = reinterpret_cast<const float*>(plan_.warp.stage[left].in(from)) + tile_row(0),
                    *right_rows = reinterpret_cast<const float*>(plan_.warp.stage[right].in(from)) + tile_column(0);
#pragma unroll
        for (int i = 0; i < most_of_run; ++i) {
          if (i == run.count) break;
          const float *a = left_rows + 16 * run.row[i], *b = right_rows + 16 * run.column[i];
#pragma unroll 4
          for (int r = 0; r < tile_rows; ++r) {
            const float x = a[r * floats_of_row], y = a[r * floats_of_row + rows_apart];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              const Float2 w = *reinterpret_cast<const Float2*>(b + r * floats_of_row + 8 * h);
              total[i][h][0] = fmaf(x, w.x, total[i][h][0]);
              total[i][h][1] = fmaf(x, w.y, total[i][h][1]);
              total[i][h][2] = fmaf(y, w.x, total[i][h][2]);
              total[i][h][3] = fmaf(y, w.y, total[i][h][3]);
            }
          }
        }
      }
    } else {
      const char *left_rows = plan_.warp.stage[left].in(from) + row_of_lane(left),
                 *right_rows = plan_.warp.stage[right].in(from) + row_of_lane(right),
                 *scale_pair = from + plan_.warp.scales.offset;
#pragma unroll 1
      for (int k = 0; k < warps; ++k) {
        const Float2 down = *reinterpret_cast<const Float2*>(scale_pair);
        const float scale = down.x * down.y;
        std::uint32_t a_high[4], a_low[4];
#pragma unroll
        for (int i = 0; i < most_of_run; ++i) {
          if (i == run.count) break;
          if (i == 0 || run.column[i] == 0) {
            const char* a = left_rows + 32 * run.row[i];
            load_matrices_transposed(a_high, a);
            load_matrices_transposed(a_low, a + low_halves);
          }
          const char* b = right_rows + 32 * run.column[i];
          std::uint32_t b_high[4], b_low[4];
          load_matrices_transposed(b_high, b);
          load_matrices_transposed(b_low, b + low_halves);
          // The small products first: so they cost the large sum no rounding of its own. Of the two blocks in turns, so
          // that none waits for the one before it.
          float sum[2][4] = {};
#pragma unroll
          for (int h = 0; h < 2; ++h) multiply_add(sum[h], a_low, b_high[2 * h], b_high[2 * h + 1]);
#pragma unroll
          for (int h = 0; h < 2; ++h) multiply_add(sum[h], a_high, b_low[2 * h], b_low[2 * h + 1]);
#pragma unroll
          for (int h = 0; h < 2; ++h) multiply_add(sum[h], a_high, b_high[2 * h], b_high[2 * h + 1]);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int e = 0; e < 4; ++e) total[i][h][e] = fmaf(scale, sum[h][e], total[i][h][e]);
          }
        }
        left_rows += plan_.warp_bytes;
        right_rows += plan_.warp_bytes;
        scale_pair += plan_.warp_bytes;
      }
    }
  }
  // The same of the left side times ones.
  __device__ __forceinline__ void sum_columns(int rb, float (&total)[2]) const {
    const int warps = share().warps;
    const char* from = memory(0);
#pragma unroll 1
    for (int k = 0; k < warps; ++k, from += plan_.warp_bytes) {
      if constexpr (P == Precision::fp32) {
        const float* a = reinterpret_cast<const float*>(plan_.warp.stage[left].in(from)) + 16 * rb + tile_row(0);
#pragma unroll 4
        for (int r = 0; r < tile_rows; ++r) {
          total[0] += a[r * floats_of_row];
          total[1] += a[r * floats_of_row + rows_apart];
        }
      } else {
        const char* a = plan_.warp.stage[left].in(from) + row_of_lane(left) + 32 * rb;
        std::uint32_t high[4], low[4];
        load_matrices_transposed(high, a);
        load_matrices_transposed(low, a + low_halves);
        const float scale = *plan_.warp.scales.in(from);
        const std::uint32_t ones = pack_halves(1, 1);
        float sum[4] = {};
        multiply_add(sum, low, ones, ones);
        multiply_add(sum, high, ones, ones);
        total[0] = fmaf(scale, sum[0], total[0]);
        total[1] = fmaf(scale, sum[2], total[1]);
      }
    }
  }
  // Bytes to the row that this lane names of a 16 × 16 block in a stage of halves: lane l row l mod 8 of matrix ⌊l/8⌋, which
  // is 2 (samples' half) + (units' half) of a left operand and the other way about of a right one, whose two registers for
  // 8 units are neighbours so.
  __device__ __forceinline__ static int row_of_lane(Side side) {
    const int lane = lane_index(), low = (lane >> 3) & 1, high = lane >> 4;
    const int samples = side == left ? high : low, units = side == left ? low : high;
    return (samples * 8 + (lane & 7)) * bytes_of_row + units * 16;
  }
};

}  // namespace fokker::kernels
