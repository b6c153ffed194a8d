#include "cpu/mlp_primitives.hpp"

// Instruction sets that would only lengthen the build: beside the baseline, AVX2 and AVX-512 (and NEON) are enough. The
// scalable ones have no arrays of vectors, which the register tiles need.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mlp_primitives.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "cpu/mlp_activations-inl.hpp"
#include "cpu/mlp_products-inl.hpp"
#include "cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace fokker::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// V vectors of every row together, which hides the latency of the additions.
template <int V, class T>
void sum_rows_of(std::int64_t rows, const T* a, std::int64_t a_stride, T* out) {
  const hn::ScalableTag<T> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> sum[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) sum[v] = hn::Zero(d);
  for (std::int64_t r = 0; r < rows; ++r, a += a_stride) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[v] = hn::Add(sum[v], hn::LoadU(d, a + v * lanes));
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) hn::StoreU(hn::Add(sum[v], hn::LoadU(d, out + v * lanes)), d, out + v * lanes);
}

template <class T>
void sum_rows(std::int64_t rows, std::int64_t width, const T* a, std::int64_t a_stride, T* out) {
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(hn::ScalableTag<T>()));
  for (; rows > 0; rows -= summed_rows, a += summed_rows * a_stride) {
    const std::int64_t count = std::min(rows, summed_rows);
    std::int64_t j = 0;
    for (; j + 5 * lanes <= width + lanes - 1; j += 5 * lanes) sum_rows_of<5>(count, a + j, a_stride, out + j);
    for (; j < width; j += lanes) sum_rows_of<1>(count, a + j, a_stride, out + j);
  }
}

// Columns c … c + C − 1 together, so that each vector of a is read once for all of them.
template <int C, class T>
void dots_of(std::int64_t rows, std::int64_t width, const T* a, std::int64_t a_stride, const T* w,
             std::int64_t w_stride, const T* start, T* out, std::int64_t out_stride) {
  const hn::ScalableTag<T> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t r = 0; r < rows; ++r, a += a_stride, out += out_stride) {
    hn::Vec<decltype(d)> sum[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sum[c] = hn::Zero(d);
    for (std::int64_t i = 0; i < width; i += lanes) {
      const auto v = hn::LoadU(d, a + i);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[c] = hn::MulAdd(v, hn::LoadU(d, w + c * w_stride + i), sum[c]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) out[c] = (start ? start[c] : T(0)) + hn::GetLane(hn::SumOfLanes(d, sum[c]));
  }
}

template <class T>
void dots(std::int64_t rows, std::int64_t width, std::int64_t columns, const T* a, std::int64_t a_stride, const T* w,
          std::int64_t w_stride, const T* start, T* out, std::int64_t out_stride) {
  while (columns > 0) {
    const std::int64_t c = std::min<std::int64_t>(columns, 4);
    const auto kernel = c == 1 ? dots_of<1, T> : c == 2 ? dots_of<2, T> : c == 3 ? dots_of<3, T> : dots_of<4, T>;
    kernel(rows, width, a, a_stride, w, w_stride, start, out, out_stride);
    columns -= c;
    w += c * w_stride;
    out += c;
    if (start) start += c;
  }
}

template <class T>
void triple_dots(std::int64_t rows, std::int64_t stride, const T* a, const T* b, const T* c, T* out,
                 std::int64_t out_stride) {
  const hn::ScalableTag<T> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t r = 0; r < rows; ++r) {
    auto sum = hn::Zero(d);
    for (std::int64_t i = r * stride; i < (r + 1) * stride; i += lanes) {
      sum = hn::MulAdd(hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), hn::LoadU(d, c + i), sum);
    }
    out[r * out_stride] += hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

template <class T>
void multiply(std::int64_t n, const T* a, const T* b, T* out) {
  const hn::ScalableTag<T> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t i = 0; i < n; i += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i);
}

template <class T>
void scale_columns(std::int64_t rows, std::int64_t stride, const T* a, const T* w, T* out) {
  for (std::int64_t r = 0; r < rows; ++r) multiply(stride, a + r * stride, w, out + r * stride);
}

template <class T>
MlpPrimitives<T> table() {
  using P = Products<T, tile_rows, tile_vectors>;
  MlpPrimitives<T> t;
  t.target = simd_name(HWY_TARGET);
  t.lanes = P::lanes();
  t.row_block = tile_rows;
  t.column_block = tile_vectors * P::lanes();
  t.pack = P::pack;
  t.product = P::product;
  t.gradient = P::gradient;
  t.sum_rows = sum_rows<T>;
  t.dots = dots<T>;
  t.triple_dots = triple_dots<T>;
  t.activate = activate<T>;
  t.multiply = multiply<T>;
  t.scale_columns = scale_columns<T>;
  return t;
}

const MlpPrimitives<float>* table_float() {
  static const MlpPrimitives<float> t = table<float>();
  return &t;
}
const MlpPrimitives<double>* table_double() {
  static const MlpPrimitives<double> t = table<double>();
  return &t;
}

}  // namespace fokker::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fokker::cpu {
namespace {

HWY_EXPORT(table_float);
HWY_EXPORT(table_double);

}  // namespace

template <>
const MlpPrimitives<float>& mlp_primitives<float>() {
  return *HWY_DYNAMIC_DISPATCH(table_float)();
}
template <>
const MlpPrimitives<double>& mlp_primitives<double>() {
  return *HWY_DYNAMIC_DISPATCH(table_double)();
}

}  // namespace fokker::cpu
#endif  // HWY_ONCE
