// A sampler's kernel by wgmma, the matrix instruction of four warps that Hopper alone has (sm_90a): the paper's network,
// a potential in the plane with three layers of 80 and softplus, precision split. It is compiled and its instructions are
// counted (tools/kernel_cost --object), so that what it would save is known; never launched, since nothing here can check
// it. What is outside the products is as in kernels/sampler.cu, with 12 warps a block. Before it is launched its loop has
// to go on while any warp of a group has a tile: the instruction takes all four warps at once, and for_tiles gives tiles
// warp by warp, so that those of one group may differ by a tile.
//
// A warp's tile is the rows that wgmma.m64n80k16 gives to a warp, in the same lanes as of mma.m16n8k16: its left operand
// and its sums stay in registers, as kernels/tile.hpp has them. A matrix lies in shared memory in blocks of 8 × 8, row of
// blocks after row, without a swizzle, its low halves behind the high ones. One packing serves W and Wᵀ: the descriptor
// says how far it is to the next block of the inner dimension and of the outer one, and the instruction which of the two
// the 16 bytes of a block's row run along. What threads write there and wgmma reads needs fence.proxy.async.
#include <cstdint>

#include "kernels/mlp.hpp"
#include "kernels/random.hpp"

namespace fokker::bench {
namespace {

using namespace kernels;

constexpr int width = 80, hidden = 3, dimension = 2, warps = 12, units = width / 8;
constexpr int block_bytes = 8 * 8 * 2, block_row_bytes = units * block_bytes, half_bytes = units * block_row_bytes;

struct Network {
  float input[1 + dimension][width], bias[hidden][width], output[width], factors[hidden - 1], beta, padding;
  char matrices[hidden - 1][2][half_bytes];
};
static_assert(sizeof(Network) % 16 == 0);

struct Warp {
  float planes[hidden - 1][tile_rows * width];  // σ′
  float input[tile_rows][1 + dimension];
  float x[tile_rows * dimension], stage_x[tile_rows * dimension], score[tile_rows * dimension],
      sum[tile_rows * dimension], normal[tile_rows * dimension];
};

// A matrix as the right operand: its descriptor, in units of 16 bytes.
template <bool kTransposed>
__device__ __forceinline__ std::uint64_t descriptor(const char* matrix) {
  constexpr std::uint64_t inner = (kTransposed ? block_row_bytes : block_bytes) / 16,
                          outer = (kTransposed ? block_bytes : block_row_bytes) / 16;
  const auto address = static_cast<std::uint64_t>(__cvta_generic_to_shared(matrix));
  return (address & 0x3FFFFu) >> 4 | inner << 16 | outer << 32;
}

// c = a b, or c + a b where kAdd, of 64 rows over the four warps.
template <bool kTransposed, bool kAdd>
__device__ __forceinline__ void multiply_add(Tile<width>& c, const std::uint32_t (&a)[4], std::uint64_t b) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %45, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n80k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39}, "
      "{%40, %41, %42, %43}, %44, add, 1, 1, %46;\n}\n"
      : "+f"(c.v[0][0]), "+f"(c.v[0][1]), "+f"(c.v[0][2]), "+f"(c.v[0][3]), "+f"(c.v[1][0]), "+f"(c.v[1][1]),
        "+f"(c.v[1][2]), "+f"(c.v[1][3]), "+f"(c.v[2][0]), "+f"(c.v[2][1]), "+f"(c.v[2][2]), "+f"(c.v[2][3]),
        "+f"(c.v[3][0]), "+f"(c.v[3][1]), "+f"(c.v[3][2]), "+f"(c.v[3][3]), "+f"(c.v[4][0]), "+f"(c.v[4][1]),
        "+f"(c.v[4][2]), "+f"(c.v[4][3]), "+f"(c.v[5][0]), "+f"(c.v[5][1]), "+f"(c.v[5][2]), "+f"(c.v[5][3]),
        "+f"(c.v[6][0]), "+f"(c.v[6][1]), "+f"(c.v[6][2]), "+f"(c.v[6][3]), "+f"(c.v[7][0]), "+f"(c.v[7][1]),
        "+f"(c.v[7][2]), "+f"(c.v[7][3]), "+f"(c.v[8][0]), "+f"(c.v[8][1]), "+f"(c.v[8][2]), "+f"(c.v[8][3]),
        "+f"(c.v[9][0]), "+f"(c.v[9][1]), "+f"(c.v[9][2]), "+f"(c.v[9][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kAdd ? 1 : 0), "n"(kTransposed ? 1 : 0));
}

// tile = tile Wᵀ, or tile W where kTransposed: the small products of the halves first.
template <bool kTransposed>
__device__ __forceinline__ void multiply(const Network& net, int l, Tile<width>& tile) {
  constexpr int steps = width / 16, step = (kTransposed ? 2 * block_row_bytes : 2 * block_bytes) / 16;
  const Operand<Precision::split, width> a(tile, nullptr);
  const std::uint64_t high = descriptor<kTransposed>(net.matrices[l][0]), low = high + half_bytes / 16;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int k = 0; k < steps; ++k) {
    if (k == 0) {
      multiply_add<kTransposed, false>(tile, a.low[k], high);
    } else {
      multiply_add<kTransposed, true>(tile, a.low[k], high + k * step);
    }
    multiply_add<kTransposed, true>(tile, a.high[k], low + k * step);
  }
#pragma unroll
  for (int k = 0; k < steps; ++k) multiply_add<kTransposed, true>(tile, a.high[k], high + k * step);
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  for_entries(tile)([&](int r, int, float& x) { x *= net.factors[l] * a.down[r]; });
}

__global__ void __launch_bounds__(32 * warps, 1) wgmma_sample(const Float4* image, SampleArguments a) {
  Float4* to = shared_array<Float4>();
  for (int i = thread_index(); i < static_cast<int>(sizeof(Network) / 16); i += block_threads()) to[i] = image[i];
  asm volatile("fence.proxy.async;" ::: "memory");
  sync_block();
  const Network& net = *reinterpret_cast<const Network*>(shared_memory());
  Warp& warp = reinterpret_cast<Warp*>(shared_memory() + sizeof(Network))[warp_index()];
  const FastSoftplus sigma(net.beta);
  const int lane = lane_index(), row = lane / dimension;
  const auto plane = [&](int l) { return Plane<width>(warp.planes[l]); };

  for_tiles(a.n, [&](std::int64_t first, int rows) {
    warp.x[lane] = warp.stage_x[lane] = row < rows ? a.x[first * dimension + lane] : 0.0f;
    const std::uint64_t index = a.first_index + static_cast<std::uint64_t>(first);
#pragma unroll 1
    for (int step = 0; step < a.steps; ++step) {
      const Stage stage = a.stages[step];
      warp.input[row][1 + lane % dimension] = stage.in * warp.stage_x[lane];
      if (lane < tile_rows) warp.input[lane][0] = stage.time;
      sync_warp();

      Tile<width> tile;
      set_rows(net.bias[0], tile);
#pragma unroll
      for (int i = 0; i < 1 + dimension; ++i) {
        const float v[2] = {warp.input[tile_row(0)][i], warp.input[tile_row(1)][i]};
        for_blocks<width>([&](int j) {
          const Float2 w = pair(net.input[i], j);
          for_block_entries(j,
                            tile.v[j])([&](int r, int column, float& z) { z = fmaf(v[r], column & 1 ? w.y : w.x, z); });
        });
      }
#pragma unroll
      for (int l = 0; l + 1 < hidden; ++l) {
        for_blocks<width>([&](int j) {
          Float4 d1;
          for_block_entries(j, tile.v[j], d1.v)([&](int, int, float& z, float& s) {
            const ActivationValues<float> at_z = sigma(z);
            z = at_z.value, s = at_z.d1;
          });
          plane(l)[j] = d1;
        });
        multiply<false>(net, l, tile);
        add_to_rows(net.bias[l + 1], tile);
      }
      for_blocks<width>([&](int j) {
        const Float2 w = pair(net.output, j);
        for_block_entries(j, tile.v[j])([&](int, int column, float& z) { z = sigma(z).d1 * (column & 1 ? w.y : w.x); });
      });
#pragma unroll
      for (int l = hidden - 2; l >= 0; --l) {
        multiply<true>(net, l, tile);
        for_blocks<width>([&](int j) {
          const Float4 d1 = plane(l)[j];
          for_block_entries(j, tile.v[j], d1.v)([](int, int, float& p, float s) { p *= s; });
        });
      }
#pragma unroll
      for (int i = 0; i < dimension; ++i) {
        float s[2] = {0, 0};
        for_blocks<width>([&](int j) {
          const Float2 w = pair(net.input[1 + i], j);
          for_block_entries(
              j, tile.v[j])([&](int r, int column, float p) { s[r] = fmaf(p, column & 1 ? w.y : w.x, s[r]); });
        });
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          s[r] = row_sum(s[r]);
          if (leads_rows(i)) warp.score[tile_row(r) * dimension + i] = s[r];
        }
      }
      if (lane < tile_rows) {
        float z[2];
        normal_pair(a.seed, index + static_cast<std::uint64_t>(lane), RandomUse::noise, 0,
                    static_cast<std::uint64_t>(step), z);
        warp.normal[dimension * lane] = z[0], warp.normal[dimension * lane + 1] = z[1];
      }
      sync_warp();
      take_stage(stage, 0.0f, warp.score[lane], warp.normal[lane], warp.x[lane], warp.stage_x[lane], warp.sum[lane]);
    }
    if (row < rows) a.x[first * dimension + lane] = warp.x[lane];
  });
}

}  // namespace

// The kernel made ready for a launch, as in kernels/launch.hpp.
Status prepare_wgmma_sample() {
  return prepare(wgmma_sample, static_cast<int>(sizeof(Network) + warps * sizeof(Warp)));
}

}  // namespace fokker::bench
