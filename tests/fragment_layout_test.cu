// What kernels/device.hpp says of its instructions, against plain loops: which lane holds which entry in ldmatrix and
// mma, halves, shuffles, and the errors of the approximations. Compiled twice: by nvcc, where a real GPU is held to the
// documentation, which the layouts were taken from; and as C++, where the emulation is.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "kernels/device.hpp"
#include "kernels/tile.hpp"

namespace fokker::kernels {
namespace {

// ---- the kernels ----------------------------------------------------------------------------------------------------

constexpr int tile = 16, columns = 8, row_halves = 24;  // a row of a tile takes 48 bytes in shared memory

// One warp. from [32, 8]: rows of 8 halves; lane l names row place[l]. out [32, 4].
__global__ void load_kernel(const std::uint16_t* from, const int* place, bool transposed, std::uint32_t* out) {
  auto* rows = reinterpret_cast<std::uint16_t*>(shared_memory());
  for (int j = 0; j < 8; ++j) rows[lane_index() * row_halves + j] = from[lane_index() * 8 + j];
  sync_warp();
  std::uint32_t r[4];
  const std::uint16_t* row = rows + place[lane_index()] * row_halves;
  if (transposed) {
    load_matrices_transposed(r, row);
  } else {
    load_matrices(r, row);
  }
  for (int m = 0; m < 4; ++m) out[lane_index() * 4 + m] = r[m];
}

// One warp, no ldmatrix: out [16, 8] = c + a [16, 16] b [16, 8], every number put where device.hpp says it belongs,
// and taken from where tile.hpp finds it.
__global__ void multiply_add_kernel(const float* a, const float* b, const float* c, float* out) {
  const int g = lane_index() / 4, q = lane_index() % 4;
  const auto pair_of_a = [&](int row, int column) {
    return pack_halves(a[row * tile + column], a[row * tile + column + 1]);
  };
  const auto pair_of_b = [&](int row) { return pack_halves(b[row * columns + g], b[(row + 1) * columns + g]); };
  const std::uint32_t fragment[4] = {pair_of_a(g, 2 * q), pair_of_a(g + 8, 2 * q), pair_of_a(g, 2 * q + 8),
                                     pair_of_a(g + 8, 2 * q + 8)};
  float sums[4] = {c[g * columns + 2 * q], c[g * columns + 2 * q + 1], c[(g + 8) * columns + 2 * q],
                   c[(g + 8) * columns + 2 * q + 1]};
  multiply_add(sums, fragment, pair_of_b(2 * q), pair_of_b(2 * q + 8));
  for_block_entries(0, sums)([&](int r, int column, float x) { out[tile_row(r) * columns + column] = x; });
}

// One warp, as products of tiles are done: out [16, 16] = a [16, 16] b [16, 16] by way of shared memory and ldmatrix.
__global__ void tile_product_kernel(const float* a, const float* b, float* out) {
  auto* a_rows = reinterpret_cast<std::uint16_t*>(shared_memory());
  auto* b_rows = a_rows + tile * row_halves;
  for (int i = lane_index(); i < tile * tile; i += 32) {
    const int at = i / tile * row_halves + i % tile;
    const std::uint32_t both = pack_halves(a[i], b[i]);
    a_rows[at] = static_cast<std::uint16_t>(both & 0xFFFFu);
    b_rows[at] = static_cast<std::uint16_t>(both >> 16);
  }
  sync_warp();
  // Matrices 0 and 1 are the upper and the lower rows of the left eight columns, 2 and 3 of the right eight.
  const int offset = lane_index() % 16 * row_halves + lane_index() / 16 * 8;
  std::uint32_t a_fragment[4], b_fragment[4];
  load_matrices(a_fragment, a_rows + offset);
  load_matrices_transposed(b_fragment, b_rows + offset);
  for (int half = 0; half < 2; ++half) {
    float sums[4] = {};
    multiply_add(sums, a_fragment, b_fragment[2 * half], b_fragment[2 * half + 1]);
    for (int r = 0; r < 4; ++r) {
      out[(lane_index() / 4 + r / 2 * 8) * tile + half * 8 + lane_index() % 4 * 2 + r % 2] = sums[r];
    }
  }
}

// packed [n] = (x, −x); low, high [n]: back.
__global__ void halves_kernel(const float* x, std::uint32_t* packed, float* low, float* high, int n) {
  const int i = block_index() * block_threads() + thread_index();
  if (i >= n) return;
  packed[i] = pack_halves(x[i], -x[i]);
  low[i] = low_half(packed[i]);
  high[i] = high_half(packed[i]);
}

__global__ void unpack_kernel(const std::uint32_t* packed, float* low, float* high) {
  const int i = block_index() * block_threads() + thread_index();
  low[i] = low_half(packed[i]);
  high[i] = high_half(packed[i]);
}

__global__ void approximations_kernel(const float* x, float* exp2, float* log2, float* reciprocal, int n) {
  const int i = block_index() * block_threads() + thread_index();
  if (i >= n) return;
  exp2[i] = exp2_approx(x[i]);
  log2[i] = log2_approx(x[i]);
  reciprocal[i] = reciprocal_approx(x[i]);
}

// out [5, 32]: of lane l, shuffled by 1, 2, 4, 8, 16.
template <class T>
__global__ void shuffle_kernel(const T* x, T* out) {
  for (int k = 0; k < 5; ++k) out[k * 32 + lane_index()] = shuffle_xor(x[lane_index()], 1 << k);
}

// ---- the host's side ------------------------------------------------------------------------------------------------

void check(int error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(static_cast<cudaError_t>(error)));
}

template <class T>
class DeviceVector {
 public:
  explicit DeviceVector(std::size_t n) : size_(n) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), n * sizeof(T)));
  }
  explicit DeviceVector(const std::vector<T>& from) : DeviceVector(from.size()) {
    check(cudaMemcpy(data_, from.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceVector(const DeviceVector&) = delete;
  DeviceVector& operator=(const DeviceVector&) = delete;
  ~DeviceVector() { cudaFree(data_); }
  T* get() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> host(size_);
    check(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

// The number that 16 bits stand for, by arithmetic.
double value_of_half(std::uint32_t half) {
  const int exponent = static_cast<int>(half >> 10 & 31u), fraction = static_cast<int>(half & 0x3FFu);
  double v = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) {
    v = fraction == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return (half & 0x8000u) != 0 ? -v : v;
}

// x rounded to the nearest multiple of the spacing of halves where it stands, ties to even (what nearbyint does).
double rounded_to_half(double x) {
  if (!std::isfinite(x) || x == 0) return x;
  const double spacing = std::ldexp(1.0, std::max(std::ilogb(x), -14) - 10);
  const double r = std::copysign(std::nearbyint(std::abs(x) / spacing) * spacing, x);
  return std::abs(r) > 65504 ? std::copysign(std::numeric_limits<double>::infinity(), x) : r;
}

// Equal as numbers, signs of zeros and infinities included; any NaN equals any other.
bool same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

std::vector<float> random_integers(std::mt19937& random, int n) {
  std::uniform_int_distribution<int> integer(-60, 60);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(integer(random));
  return x;
}

class Instructions : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    const bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    testing::skip_without_gpu(found ? "" : "no GPU is here");
  }
};

TEST_F(Instructions, LoadMatricesGiveEachLaneItsEntries) {
  std::vector<std::uint16_t> rows(32 * 8);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::uint16_t>(1000 + i);
  std::vector<int> place(32);  // a permutation, so that it matters which lane names which row
  for (int l = 0; l < 32; ++l) place[l] = (11 * l + 5) % 32;
  const DeviceVector<std::uint16_t> from(rows);
  const DeviceVector<int> places(place);
  for (const bool transposed : {false, true}) {
    const DeviceVector<std::uint32_t> out(32 * 4);
    check(launch(load_kernel, {1, 32, 32 * row_halves * 2}, nullptr, static_cast<const std::uint16_t*>(from.get()),
                 static_cast<const int*>(places.get()), transposed, out.get()));
    const std::vector<std::uint32_t> r = out.read();
    for (int l = 0; l < 32; ++l) {
      for (int m = 0; m < 4; ++m) {
        const auto entry = [&](int row, int column) -> std::uint32_t { return rows[place[8 * m + row] * 8 + column]; };
        const int major = l / 4, minor = 2 * (l % 4);
        const std::uint32_t expected = transposed ? entry(minor, major) | entry(minor + 1, major) << 16
                                                  : entry(major, minor) | entry(major, minor + 1) << 16;
        ASSERT_EQ(r[l * 4 + m], expected) << "lane " << l << ", matrix " << m << (transposed ? ", transposed" : "");
      }
    }
  }
}

// Integers whose sums are exact in any order.
TEST_F(Instructions, MultiplyAddIsTheProductOfItsFragments) {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 10; ++repeat) {
    const std::vector<float> a = random_integers(random, tile * tile), b = random_integers(random, tile * columns),
                             c = random_integers(random, tile * columns);
    const DeviceVector<float> da(a), db(b), dc(c), out(c.size());
    check(launch(multiply_add_kernel, {1, 32, 0}, nullptr, static_cast<const float*>(da.get()),
                 static_cast<const float*>(db.get()), static_cast<const float*>(dc.get()), out.get()));
    const std::vector<float> product = out.read();
    for (int i = 0; i < tile; ++i) {
      for (int j = 0; j < columns; ++j) {
        float expected = c[i * columns + j];
        for (int k = 0; k < tile; ++k) expected += a[i * tile + k] * b[k * columns + j];
        ASSERT_EQ(product[i * columns + j], expected) << "row " << i << ", column " << j;
      }
    }
  }
}

// Products of halves are exact, and each of at most 16 sums (how many, and in which order, is the machine's) loses at
// most 2^-23 of what is summed: a tensor core cuts off what does not fit beside the largest term.
TEST_F(Instructions, MultiplyAddSumsInFloat) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (int repeat = 0; repeat < 10; ++repeat) {
    std::vector<float> a(tile * tile), b(tile * columns), c(tile * columns);
    for (float& v : a) v = static_cast<float>(rounded_to_half(normal(random)));
    for (float& v : b) v = static_cast<float>(rounded_to_half(normal(random)));
    for (float& v : c) v = normal(random);
    const DeviceVector<float> da(a), db(b), dc(c), out(c.size());
    check(launch(multiply_add_kernel, {1, 32, 0}, nullptr, static_cast<const float*>(da.get()),
                 static_cast<const float*>(db.get()), static_cast<const float*>(dc.get()), out.get()));
    const std::vector<float> product = out.read();
    for (int i = 0; i < tile; ++i) {
      for (int j = 0; j < columns; ++j) {
        double expected = c[i * columns + j], size = std::abs(expected);
        for (int k = 0; k < tile; ++k) {
          const double term = double(a[i * tile + k]) * b[k * columns + j];
          expected += term;
          size += std::abs(term);
        }
        ASSERT_LE(std::abs(product[i * columns + j] - expected), 16 * std::ldexp(size, -23))
            << "row " << i << ", column " << j;
      }
    }
  }
}

TEST_F(Instructions, TilesGoThroughSharedMemoryToTheirProduct) {
  std::mt19937 random(3);
  const std::vector<float> a = random_integers(random, tile * tile), b = random_integers(random, tile * tile);
  const DeviceVector<float> da(a), db(b), out(a.size());
  check(launch(tile_product_kernel, {1, 32, 2 * tile * row_halves * 2}, nullptr, static_cast<const float*>(da.get()),
               static_cast<const float*>(db.get()), out.get()));
  const std::vector<float> product = out.read();
  for (int i = 0; i < tile; ++i) {
    for (int j = 0; j < tile; ++j) {
      float expected = 0;
      for (int k = 0; k < tile; ++k) expected += a[i * tile + k] * b[k * tile + j];
      ASSERT_EQ(product[i * tile + j], expected) << "row " << i << ", column " << j;
    }
  }
}

// All of them.
TEST_F(Instructions, HalvesMeanTheirNumbers) {
  constexpr int n = 1 << 16, threads = 256;
  std::vector<std::uint32_t> packed(n);
  for (std::uint32_t i = 0; i < n; ++i) packed[i] = i | (n - 1 - i) << 16;
  const DeviceVector<std::uint32_t> from(packed);
  const DeviceVector<float> low(n), high(n);
  check(launch(unpack_kernel, {n / threads, threads, 0}, nullptr, static_cast<const std::uint32_t*>(from.get()),
               low.get(), high.get()));
  const std::vector<float> l = low.read(), h = high.read();
  for (std::uint32_t i = 0; i < n; ++i) {
    ASSERT_TRUE(same(l[i], value_of_half(i))) << i << ": " << l[i];
    ASSERT_TRUE(same(h[i], value_of_half(n - 1 - i))) << n - 1 - i << ": " << h[i];
  }
}

// Every number halfway between two halves, its neighbours, the halves themselves, and numbers of all magnitudes.
TEST_F(Instructions, HalvesAreRoundedToNearestEven) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> x = {infinity, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max(),
                          std::numeric_limits<float>::denorm_min()};
  for (std::uint32_t half = 0; half < 0x7C00u; ++half) {
    const auto value = static_cast<float>(value_of_half(half));
    const float above = half == 0x7BFFu ? 65536.0f : static_cast<float>(value_of_half(half + 1));
    const float middle = (value + above) / 2;  // exact
    x.insert(x.end(), {value, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, infinity)});
  }
  std::mt19937 random(4);
  for (int i = 0; i < 100000; ++i) {
    const std::uint32_t bits = random();
    float v;
    std::memcpy(&v, &bits, sizeof v);
    x.push_back(v);
  }
  const int n = static_cast<int>(x.size()), threads = 256;
  const DeviceVector<float> from(x), low(n), high(n);
  const DeviceVector<std::uint32_t> packed(n);
  check(launch(halves_kernel, {(n + threads - 1) / threads, threads, 0}, nullptr, static_cast<const float*>(from.get()),
               packed.get(), low.get(), high.get(), n));
  const std::vector<std::uint32_t> p = packed.read();
  const std::vector<float> l = low.read(), h = high.read();
  for (int i = 0; i < n; ++i) {
    const double expected = rounded_to_half(x[i]);
    ASSERT_TRUE(same(value_of_half(p[i] & 0xFFFFu), expected)) << x[i] << " became " << value_of_half(p[i] & 0xFFFFu);
    ASSERT_TRUE(same(value_of_half(p[i] >> 16), -expected)) << -x[i] << " became " << value_of_half(p[i] >> 16);
    ASSERT_TRUE(same(l[i], expected) && same(h[i], -expected)) << x[i];
    if (std::isnan(expected)) {
      ASSERT_EQ(p[i], 0x7FFF7FFFu);
    }
  }
}

// PTX: ex2 2^-22.5 relative; lg2 2^-22 absolute between 1/2 and 2 and relative outside; rcp 1 ulp. Denormals are zero
// on the way in and out.
TEST_F(Instructions, ApproximationsHaveTheirErrors) {
  const float least = std::numeric_limits<float>::min(), infinity = std::numeric_limits<float>::infinity();
  std::vector<float> x = {0.0f,    -0.0f,     1.0f,       2.0f,     0.5f,      -1.0f,
                          least,   least / 2, -least / 2, infinity, -infinity, -126.0f,
                          -127.0f, -150.0f,   127.0f,     128.0f,   3e38f,     std::numeric_limits<float>::quiet_NaN()};
  std::mt19937 random(5);
  std::uniform_real_distribution<float> exponent(-126, 127), near_one(0.5f, 2.0f);
  for (int i = 0; i < 20000; ++i) {
    const float v = exponent(random);
    x.insert(x.end(), {v, std::exp2(v), -std::exp2(v), near_one(random)});
  }
  const int n = static_cast<int>(x.size()), threads = 256;
  const DeviceVector<float> from(x), exp2(n), log2(n), reciprocal(n);
  check(launch(approximations_kernel, {(n + threads - 1) / threads, threads, 0}, nullptr,
               static_cast<const float*>(from.get()), exp2.get(), log2.get(), reciprocal.get(), n));
  const std::vector<float> e = exp2.read(), l = log2.read(), r = reciprocal.read();
  const auto flushed = [&](double v) { return std::abs(v) < least ? std::copysign(0.0, v) : v; };
  const auto near = [&](double actual, double expected, double relative, double absolute) {
    if (!std::isfinite(expected) || expected == 0) return same(actual, expected) || (expected == 0 && actual == 0);
    // The largest float is about as near to what has become infinite as that is.
    if (std::abs(expected) > std::numeric_limits<float>::max()) return actual == std::copysign(infinity, expected);
    return std::abs(actual - expected) <= relative * std::abs(expected) + absolute;
  };
  for (int i = 0; i < n; ++i) {
    const double in = flushed(x[i]);
    EXPECT_TRUE(near(e[i], flushed(std::exp2(in)), std::ldexp(1, -22), 0)) << "2^" << x[i] << " is " << e[i];
    EXPECT_TRUE(near(r[i], flushed(1 / in), std::ldexp(1, -23), 0)) << "1/" << x[i] << " is " << r[i];
    const bool middle = in > 0.5 && in < 2;
    EXPECT_TRUE(near(l[i], std::log2(in), middle ? 0 : std::ldexp(1, -22), middle ? std::ldexp(1, -22) : 0))
        << "log2 of " << x[i] << " is " << l[i];
  }
}

template <class T>
void expect_shuffles() {
  std::vector<T> x(32);
  for (int l = 0; l < 32; ++l) x[l] = static_cast<T>(1000003 * (l + 1));
  const DeviceVector<T> from(x), out(5 * 32);
  check(launch(shuffle_kernel<T>, {1, 32, 0}, nullptr, static_cast<const T*>(from.get()), out.get()));
  const std::vector<T> shuffled = out.read();
  for (int k = 0; k < 5; ++k) {
    for (int l = 0; l < 32; ++l) EXPECT_EQ(shuffled[k * 32 + l], x[l ^ 1 << k]) << "lane " << l << " by " << (1 << k);
  }
}

TEST_F(Instructions, ShufflesExchangeWithTheOtherLane) {
  expect_shuffles<float>();
  expect_shuffles<double>();
  expect_shuffles<int>();
  expect_shuffles<unsigned long long>();
}

}  // namespace
}  // namespace fokker::kernels
