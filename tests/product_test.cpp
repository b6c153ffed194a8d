// The products of the MLP sweeps and their pointwise companions against plain loops in long double, on every
// instruction set at hand, and with the register tiles of the other instruction sets.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "product_test.cpp"
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_AVX3)
#include <hwy/foreach_target.h>  // IWYU pragma: keep

#include <vector>

#include "cpu/mlp_products-inl.hpp"
#include "cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace fokker::cpu::HWY_NAMESPACE {

// Tables that differ from the dispatched one in the products' tile alone.
template <class T, int R, int V>
MlpPrimitives<T> with_tile() {
  using P = Products<T, R, V>;
  MlpPrimitives<T> t{};
  t.target = simd_name(HWY_TARGET);
  t.lanes = P::lanes();
  t.row_block = R;
  t.column_block = V * P::lanes();
  t.pack = P::pack;
  t.product = P::product;
  t.gradient = P::gradient;
  return t;
}

std::vector<MlpPrimitives<float>> other_tiles_float() { return {with_tile<float, 5, 5>(), with_tile<float, 6, 4>()}; }
std::vector<MlpPrimitives<double>> other_tiles_double() {
  return {with_tile<double, 5, 5>(), with_tile<double, 6, 4>()};
}

}  // namespace fokker::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "compare.hpp"
#include "simd_targets.hpp"

namespace fokker::cpu {
namespace {

using Index = std::int64_t;
using testing::agrees;
using testing::Bound;

HWY_EXPORT(other_tiles_float);
HWY_EXPORT(other_tiles_double);

template <class T>
std::vector<MlpPrimitives<T>> tables() {
  std::vector<MlpPrimitives<T>> all{mlp_primitives<T>()};
  if constexpr (sizeof(T) == 4) {
    for (const auto& t : HWY_DYNAMIC_DISPATCH(other_tiles_float)()) all.push_back(t);
  } else {
    for (const auto& t : HWY_DYNAMIC_DISPATCH(other_tiles_double)()) all.push_back(t);
  }
  return all;
}

template <class T>
std::vector<T> random(Index n, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<T> v(static_cast<std::size_t>(n));
  for (T& x : v) x = static_cast<T>(uniform(engine));
  return v;
}

// K additions of terms of rms r, 1/3 for products of two numbers uniform on [−1, 1] and 1/√3 for such numbers: the result
// has rms √K r, its partial sums √k r, and each rounding is at most half a unit, so errors of a chain have rms below
// 0.41 K r half units, or 0.41 √K times the rms of the result. In parts that begin at 0 and are then added, `chained` terms
// of a part and parts, it is 0.41 √chained times that. Too few results have no meaningful rms: then seven of those sigmas
// bound each.
template <class T>
Bound chain(Index k, Index results, double rms = 1.0 / 3, Index chained = std::numeric_limits<Index>::max()) {
  const double half = std::numeric_limits<T>::epsilon() / 2, terms = static_cast<double>(k + 1);
  const double unit = half * std::sqrt(std::min(terms, static_cast<double>(chained)));
  if (results < 100) return {.absolute = 7 * 0.41 * rms * std::sqrt(terms) * unit};
  return {.relative = unit, .of_rms = 5 * unit, .norm = unit};
}
// Of a sum over rows, in parts of 64.
template <class T>
Bound chain_of_rows(Index rows, Index results, double rms = 1.0 / 3) {
  return chain<T>(rows, results, rms, 64 + (rows + 63) / 64);
}

constexpr Index widths[] = {1, 7, 80, 127};
constexpr Index row_counts[] = {0, 1, 5, 6, 19, 99};

enum class Start { zero, bias, accumulate };

enum class Then { nothing, scale, add, times };

template <class T>
void check_product(const MlpPrimitives<T>& p, Index rows, Index depth, Index columns, Start start, Then then) {
  SCOPED_TRACE(fmt::format("{} tile {} x {}, {} rows, {} x {}, start {}, then {}", p.target, p.row_block,
                           p.column_block / p.lanes, rows, depth, columns, static_cast<int>(start),
                           static_cast<int>(then)));
  if (then == Then::add && start == Start::accumulate) start = Start::zero;  // C is added to, not started from
  const Index a_stride = depth + 3, c_stride = p.padded(columns);
  const T untouched = T(77);
  const auto a = random<T>(rows * a_stride, 1), b = random<T>(depth * columns, 2);
  auto bias = random<T>(c_stride, 3), scale = random<T>(rows * c_stride, 4), c = random<T>((rows + 1) * c_stride, 5);
  auto times = random<T>((rows + 1) * c_stride, 6);
  for (Index j = columns; j < c_stride; ++j) bias[j] = 0;
  for (Index j = 0; j < c_stride; ++j) c[rows * c_stride + j] = times[rows * c_stride + j] = untouched;
  for (Index r = 0; r < rows; ++r) {
    for (Index j = columns; j < c_stride; ++j) c[r * c_stride + j] = times[r * c_stride + j] = 0;
  }
  const auto c_before = c, times_before = times;
  // Stored [columns][depth], as W is for its transposed product.
  std::vector<T> packed(static_cast<std::size_t>(p.packed_size(depth, columns)));
  p.pack(b.data(), depth, columns, 1, depth, packed.data());
  const auto run = [&](Index first, Index n, std::vector<T>& out, std::vector<T>& multiplied) {
    p.product({.rows = n,
               .depth = depth,
               .columns = columns,
               .a = a.data() + first * a_stride,
               .a_stride = a_stride,
               .packed = packed.data(),
               .c = out.data() + first * c_stride,
               .c_stride = c_stride,
               .bias = start == Start::bias ? bias.data() : nullptr,
               .accumulate = start == Start::accumulate,
               .epilogue = {then == Then::nothing ? nullptr : scale.data() + first * c_stride, then == Then::add,
                            then == Then::times ? multiplied.data() + first * c_stride : nullptr}});
  };
  run(0, rows, c, times);
  std::vector<long double> expected, expected_times;
  for (Index r = 0; r < rows; ++r) {
    for (Index j = 0; j < c_stride; ++j) {
      const Index at = r * c_stride + j;
      long double sum = start == Start::bias ? bias[j] : start == Start::accumulate ? c_before[at] : T(0);
      for (Index k = 0; k < depth && j < columns; ++k) sum += (long double)(a[r * a_stride + k]) * b[j * depth + k];
      expected_times.push_back(then == Then::times ? sum * times_before[at] : times_before[at]);
      if (then != Then::nothing) sum *= scale[at];
      expected.push_back(then == Then::add ? sum + c_before[at] : sum);
    }
  }
  if (rows > 0) {
    const std::size_t n = expected.size();
    const Index terms = then == Then::add ? depth + 1 : depth;  // what is added to is one more
    EXPECT_TRUE(agrees(std::span<const T>(c.data(), n), std::span<const long double>(expected),
                       chain<T>(terms, rows * columns)));
    EXPECT_TRUE(agrees(std::span<const T>(times.data(), n), std::span<const long double>(expected_times),
                       chain<T>(depth, rows * columns)));
  }
  for (Index j = 0; j < c_stride; ++j) {
    ASSERT_EQ(c[rows * c_stride + j], untouched);
    ASSERT_EQ(times[rows * c_stride + j], untouched);
  }
  for (Index r = 0; r < rows; ++r) {
    for (Index j = columns; j < c_stride; ++j) ASSERT_EQ(c[r * c_stride + j], T(0)) << "padding";
  }
  // A row's result is the same wherever the row stands.
  auto alone = c_before, alone_times = times_before;
  for (Index r = 0; r < rows; ++r) run(r, 1, alone, alone_times);
  EXPECT_EQ(alone, c);
  EXPECT_EQ(alone_times, times);
}

template <class T>
void check_gradient(const MlpPrimitives<T>& p, Index rows, Index outputs, Index inputs) {
  SCOPED_TRACE(fmt::format("{} tile {} x {}, {} rows, {} x {}", p.target, p.row_block, p.column_block / p.lanes, rows,
                           outputs, inputs));
  const Index d_stride = p.padded(outputs), h_stride = p.padded(inputs), g_stride = h_stride;
  const auto d = random<T>(rows * d_stride, 1), h = random<T>(rows * h_stride, 2);
  auto g = random<T>((outputs + 1) * g_stride, 3);
  const auto before = g;
  p.gradient(rows, outputs, inputs, d.data(), d_stride, h.data(), h_stride, g.data(), g_stride);
  std::vector<T> actual;
  std::vector<long double> expected;
  for (Index j = 0; j < outputs; ++j) {
    for (Index i = 0; i < inputs; ++i) {
      long double sum = before[j * g_stride + i];
      for (Index r = 0; r < rows; ++r) sum += (long double)(d[r * d_stride + j]) * h[r * h_stride + i];
      expected.push_back(sum);
      actual.push_back(g[j * g_stride + i]);
    }
  }
  EXPECT_TRUE(agrees(actual, expected, chain_of_rows<T>(rows, outputs * inputs)));
  for (Index i = 0; i < g_stride; ++i) ASSERT_EQ(g[outputs * g_stride + i], before[outputs * g_stride + i]);
}

template <class T>
void check_all_products() {
  for (const auto& p : tables<T>()) {
    for (const Index rows : row_counts) {
      for (const Index depth : widths) {
        for (const Index columns : widths) {
          const auto start = static_cast<Start>((rows + depth + columns) % 3);
          check_product<T>(p, rows, depth, columns, start, static_cast<Then>((rows + 2 * depth + columns) % 4));
          check_gradient<T>(p, rows, depth, columns);
        }
      }
    }
    for (const Start start : {Start::zero, Start::bias, Start::accumulate}) {
      for (const Then then : {Then::nothing, Then::scale, Then::add, Then::times}) {
        check_product<T>(p, 13, 989, 19, start, then);  // depth in several chunks
        check_product<T>(p, 7, 0, 19, start, then);     // nothing to add to the start
      }
    }
    check_gradient<T>(p, 989, 19, 80);
  }
}

class Products : public testing::EachTarget {};

TEST_P(Products, Float) { check_all_products<float>(); }
TEST_P(Products, Double) { check_all_products<double>(); }

template <class T>
void check_dots() {
  const MlpPrimitives<T>& p = mlp_primitives<T>();
  for (const Index width : widths) {
    for (const Index columns : {1, 2, 3, 7}) {
      for (const Index rows : row_counts) {
        SCOPED_TRACE(fmt::format("{}: {} rows, {} x {}", p.target, rows, width, columns));
        const Index stride = p.padded(width), out_stride = columns + 1;
        auto a = random<T>(rows * stride, 1), w = random<T>(columns * stride, 2), start = random<T>(columns, 3);
        for (Index c = 0; c < columns; ++c) {
          for (Index i = width; i < stride; ++i) w[c * stride + i] = 0;
        }
        for (const bool started : {false, true}) {
          std::vector<T> out(static_cast<std::size_t>(rows * out_stride), T(77));
          p.dots(rows, width, columns, a.data(), stride, w.data(), stride, started ? start.data() : nullptr, out.data(),
                 out_stride);
          std::vector<long double> expected;
          for (Index r = 0; r < rows; ++r) {
            for (Index c = 0; c < columns; ++c) {
              long double sum = started ? start[c] : T(0);
              for (Index i = 0; i < width; ++i) sum += (long double)(a[r * stride + i]) * w[c * stride + i];
              expected.push_back(sum);
            }
            expected.push_back(77);
          }
          EXPECT_TRUE(agrees(out, expected, chain<T>(width, 1)));
          for (Index r = 0; r < rows; ++r) ASSERT_EQ(out[r * out_stride + columns], T(77));
        }
      }
    }
    const Index rows = 19, stride = p.padded(width);
    const auto a = random<T>(rows * stride, 1), b = random<T>(rows * stride, 2), c = random<T>(rows * stride, 3);
    auto out = random<T>(rows * 2, 4);
    std::vector<long double> expected(out.begin(), out.end());
    for (Index r = 0; r < rows; ++r) {
      for (Index i = r * stride; i < (r + 1) * stride; ++i) expected[r * 2] += (long double)(a[i]) * b[i] * c[i];
    }
    p.triple_dots(rows, stride, a.data(), b.data(), c.data(), out.data(), 2);
    EXPECT_TRUE(agrees(out, expected, chain<T>(2 * width, 1)));
  }
}

TEST_P(Products, Dots) {
  check_dots<float>();
  check_dots<double>();
}

// One rounding an operation; where a sum cancels, of the larger term.
template <class T>
void check_pointwise() {
  const MlpPrimitives<T>& p = mlp_primitives<T>();
  const Index rows = 19, stride = p.padded(80), n = rows * stride;
  const auto a = random<T>(n, 1), b = random<T>(n, 2);
  const auto check = [&](const char* what, const auto& kernel, const auto& formula) {
    std::vector<T> out(static_cast<std::size_t>(n));
    kernel(out.data());
    std::vector<long double> expected;
    for (Index i = 0; i < n; ++i) expected.push_back(formula(static_cast<std::size_t>(i)));
    const double unit = std::numeric_limits<T>::epsilon();
    EXPECT_TRUE(agrees(out, expected, {.relative = unit, .norm = unit, .absolute = 2 * unit})) << what;
  };
  using L = long double;
  check(
      "multiply", [&](T* out) { p.multiply(n, a.data(), b.data(), out); }, [&](auto i) { return L(a[i]) * b[i]; });
  check(
      "scale_columns", [&](T* out) { p.scale_columns(rows, stride, a.data(), b.data(), out); },
      [&](auto i) { return L(a[i]) * b[i % stride]; });
}

template <class T>
void check_sum_rows() {
  const MlpPrimitives<T>& p = mlp_primitives<T>();
  for (const Index width : widths) {
    for (const Index rows : {0, 1, 5, 6, 19, 99, 989}) {
      SCOPED_TRACE(fmt::format("{}: {} rows of {}", p.target, rows, width));
      const Index stride = p.padded(width), a_stride = stride + p.lanes;
      const auto a = random<T>(rows * a_stride, 1);
      auto out = random<T>(stride + 1, 2);
      std::vector<long double> expected(out.begin(), out.end());
      for (Index r = 0; r < rows; ++r) {
        for (Index j = 0; j < stride; ++j) expected[j] += (long double)(a[r * a_stride + j]);
      }
      p.sum_rows(rows, width, a.data(), a_stride, out.data());
      EXPECT_TRUE(agrees(out, expected, chain_of_rows<T>(rows, width, std::sqrt(1.0 / 3))));
      EXPECT_EQ(static_cast<long double>(out[stride]), expected[stride]);
    }
  }
}

TEST_P(Products, SumOfRows) {
  check_sum_rows<float>();
  check_sum_rows<double>();
}

TEST_P(Products, Pointwise) {
  check_pointwise<float>();
  check_pointwise<double>();
}

INSTANTIATE_TEST_SUITE_P(Targets, Products, testing::each_target(), testing::target_name);

}  // namespace
}  // namespace fokker::cpu
#endif  // HWY_ONCE
