// The three matrix products of an MLP, once per instruction set; see mlp_primitives.hpp for what they compute.
//
// One microkernel serves all: C[r, v] += Σ_k A(r, k) B(k, v) for a tile of R rows × V vectors whose R·V accumulators
// stay in registers over k; A is read as broadcasts, B as whole vectors. With 16 registers 6 × 2 leaves room for two
// vectors of B and two broadcasts: 12 fused multiply-adds for 8 loads. With 32 registers 5 × 5 takes a row of 80 floats
// in one go. Loop order: chunk of k, block of columns (whose packed panel stays in L1), block of rows.

// Per-target include guard
#if defined(FOKKER_CPU_MLP_PRODUCTS_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef FOKKER_CPU_MLP_PRODUCTS_INL_HPP
#undef FOKKER_CPU_MLP_PRODUCTS_INL_HPP
#else
#define FOKKER_CPU_MLP_PRODUCTS_INL_HPP
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "cpu/mlp_primitives.hpp"

HWY_BEFORE_NAMESPACE();
namespace fokker::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rows and vectors of the register tile.
#if HWY_TARGET == HWY_AVX3
inline constexpr int tile_rows = 5, tile_vectors = 5;
#elif HWY_TARGET == HWY_NEON
inline constexpr int tile_rows = 6, tile_vectors = 4;
#else
inline constexpr int tile_rows = 6, tile_vectors = 2;
#endif

// Where the operands of tiles one below another are: A(r, k) = a[r · a_row + k · a_depth], one of the two strides 1,
// B(k, v) = b[k · b_depth + v · lanes].
template <class T>
struct TileOperands {
  const T* a;
  std::int64_t a_stride;  // the one that is not 1
  const T* b;
  std::int64_t b_depth;
  T* c;
  std::int64_t c_row;
  const T* bias;    // start: bias, else 0
  bool accumulate;  // c is added to the sum, before the epilogue
  Epilogue<T> epilogue;
};

// Keeps the compiler from expressing one row's address by another's, which costs it registers and the loop
// instructions.
template <class T>
HWY_INLINE const T* own_address(const T* p) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  asm("" : "+r"(p));
#endif
  return p;
}

// `count` tiles of R rows each. kRowMajor: a_depth is 1, else a_row is.
template <class T, int R, int V, bool kRowMajor>
HWY_NOINLINE void tiles(std::int64_t count, std::int64_t depth, const TileOperands<T>& operands) {
  const hn::ScalableTag<T> d;
  using Vec = hn::Vec<decltype(d)>;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const TileOperands<T> o = operands;
  const T* a = o.a;
  T* c = o.c;
  for (; count > 0; --count) {
    Vec sum[R][V];
    if (o.bias) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] = hn::LoadU(d, o.bias + v * lanes);
      }
    } else {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] = hn::Zero(d);
      }
    }
    const T* rows[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) rows[r] = kRowMajor ? own_address(a + r * o.a_stride) : a + r;
    const std::int64_t a_depth = kRowMajor ? 1 : o.a_stride;
    const T* HWY_RESTRICT b = o.b;
    for (std::int64_t k = 0; k < depth; ++k, b += o.b_depth) {
      Vec right[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) right[v] = hn::LoadU(d, b + v * lanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec left = hn::Set(d, rows[r][k * a_depth]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
      }
    }
    if (o.accumulate) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] = hn::Add(sum[r][v], hn::LoadU(d, c + r * o.c_row + v * lanes));
      }
    }
    const Epilogue<T> then = o.epilogue.from(c - o.c);
    if (then.times) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          T* at = then.times + r * o.c_row + v * lanes;
          hn::StoreU(hn::Mul(hn::LoadU(d, at), sum[r][v]), d, at);
        }
      }
    }
    if (then.add) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const std::int64_t at = r * o.c_row + v * lanes;
          sum[r][v] = hn::MulAdd(sum[r][v], hn::LoadU(d, then.scale + at), hn::LoadU(d, c + at));
        }
      }
    } else if (then.scale) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] = hn::Mul(sum[r][v], hn::LoadU(d, then.scale + r * o.c_row + v * lanes));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) hn::StoreU(sum[r][v], d, c + r * o.c_row + v * lanes);
    }
    a += kRowMajor ? R * o.a_stride : R;
    c += R * o.c_row;
  }
}

// Any number of rows and any number of vectors up to V: whole tiles, then one of what is left.
template <class T, int R, int V, bool kRowMajor>
void tiles_of(std::int64_t rows, int vectors, std::int64_t depth, const TileOperands<T>& o) {
  if constexpr (V > 1) {
    if (vectors < V) return tiles_of<T, R, V - 1, kRowMajor>(rows, vectors, depth, o);
  }
  const std::int64_t count = rows / R, left = rows - count * R;
  if (count > 0) tiles<T, R, V, kRowMajor>(count, depth, o);
  if constexpr (R > 1) {
    if (left == 0) return;
    TileOperands<T> rest = o;
    rest.a += count * R * (kRowMajor ? o.a_stride : 1);
    rest.c += count * R * o.c_row;
    rest.epilogue = o.epilogue.from(count * R * o.c_row);
    tiles_of<T, R - 1, V, kRowMajor>(left, vectors, depth, rest);
  }
}

// A sum over rows begins at 0 after so many of them, and is then added to the whole: added one by one, every row would
// cost a rounding of the whole, and a point with k probes has 2 k + 2 rows.
inline constexpr std::int64_t summed_rows = 64;

// Depth taken at a time, so that the packed panel of one column block fits half of L1.
inline constexpr std::int64_t depth_chunk_bytes = 16384;

// The products with tiles of R × V, a template so that tests can run every shape on every instruction set.
template <class T, int R, int V>
struct Products {
  static std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(hn::ScalableTag<T>())); }
  static std::int64_t vectors(std::int64_t columns) { return (columns + lanes() - 1) / lanes(); }

  // [block][k][vectors of the block · lanes]; a block has V vectors, the last what is left.
  static void pack(const T* b, std::int64_t depth, std::int64_t columns, std::int64_t depth_stride,
                   std::int64_t column_stride, T* packed) {
    const std::int64_t width = vectors(columns) * lanes(), block = V * lanes();
    for (std::int64_t first = 0; first < width; first += block) {
      const std::int64_t end = std::min(first + block, width);
      for (std::int64_t k = 0; k < depth; ++k) {
        for (std::int64_t j = first; j < end; ++j) {
          *packed++ = j < columns ? b[k * depth_stride + j * column_stride] : T(0);
        }
      }
    }
  }

  static void product(const Product<T>& p) {
    const std::int64_t n_vectors = vectors(p.columns), n_lanes = lanes();
    const std::int64_t chunk = std::max<std::int64_t>(1, depth_chunk_bytes / (V * n_lanes * sizeof(T)));
    const bool add = p.epilogue.add;  // then each chunk's part is added by itself
    std::int64_t k0 = 0;
    do {  // once for depth 0 too: C = start
      const std::int64_t depth = std::min(chunk, p.depth - k0);
      const bool first = k0 == 0, last = k0 + depth >= p.depth;
      for (std::int64_t v = 0; v < n_vectors; v += V) {
        const int block = static_cast<int>(std::min<std::int64_t>(V, n_vectors - v));
        const T* panel = p.packed + (v * p.depth + k0 * block) * n_lanes;
        tiles_of<T, R, V, true>(p.rows, block, depth,
                                {p.a + k0, p.a_stride, panel, block * n_lanes, p.c + v * n_lanes, p.c_stride,
                                 first && p.bias ? p.bias + v * n_lanes : nullptr, !add && (!first || p.accumulate),
                                 add || last ? p.epilogue.from(v * n_lanes) : Epilogue<T>{}});
      }
      k0 += depth;
    } while (k0 < p.depth);
  }

  static void gradient(std::int64_t rows, std::int64_t outputs, std::int64_t inputs, const T* d, std::int64_t d_stride,
                       const T* h, std::int64_t h_stride, T* g, std::int64_t g_stride) {
    const std::int64_t n_vectors = vectors(inputs), n_lanes = lanes();
    for (std::int64_t first = 0; first < rows; first += summed_rows) {
      const std::int64_t depth = std::min(summed_rows, rows - first);
      const T *const left = d + first * d_stride, *const right = h + first * h_stride;
      for (std::int64_t v = 0; v < n_vectors; v += V) {
        const int block = static_cast<int>(std::min<std::int64_t>(V, n_vectors - v));
        tiles_of<T, R, V, false>(
            outputs, block, depth,
            {left, d_stride, right + v * n_lanes, h_stride, g + v * n_lanes, g_stride, nullptr, true, {}});
      }
    }
  }
};

}  // namespace fokker::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
