// What the CUDA backend does beside networks: draws, exact mixtures, integrators a stage at a time, statistics of
// samples. Against formulas in long double that share no code with it, and where that is the promise, against the CPU
// backend's draws from the same words.
//
// Normals by the float formula of formulas/philox.hpp: 2π v is rounded to 2.4e-7 and the constant 2π itself to 2e-7 at most, and
// the radius multiplies that by up to 5.8, so a normal errs by 3e-6 at most and 5e-7 in the mean of squares.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fokker/data.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/transport.hpp"
#include "kernels/launch.hpp"
#include "reference_mixture.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::HasSubstr;
using namespace fokker::testing;
using Index = std::int64_t;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();
constexpr std::array<Index, 5> awkward_sizes{0, 1, 19, 99, 989};
constexpr double largest_normal_error = 3e-6, rms_normal_error = 5e-7;

const Context& cpu() {
  static const Context context({.backend = BackendKind::cpu});
  return context;
}
const Context& cuda() {
  static const Context context({.backend = BackendKind::cuda});
  return context;
}

class CudaData : public GpuTest {};
class CudaIntegrators : public GpuTest {};
class CudaTransport : public GpuTest {};
class CudaMixture : public GpuTest {};

template <class T>
Buffer<T> on_device(const std::vector<T>& values, Index columns = 1) {
  Buffer<T> buffer(cuda(), static_cast<Index>(values.size()) / columns, columns);
  copy(cuda(), View<const T>(values, columns), buffer.view());
  cuda().synchronize();
  return buffer;
}
template <class T>
std::vector<T> on_host(const Buffer<T>& buffer) {
  std::vector<T> values(static_cast<std::size_t>(buffer.size()));
  copy(cuda(), buffer.view(), View<T>(values, std::max<Index>(buffer.columns(), 1)));
  cuda().synchronize();
  return values;
}

std::vector<float> normals(Index n, Index d, unsigned seed, double shift = 0, double scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<float> x(n * d);
  for (float& v : x) v = static_cast<float>(shift + scale * normal(generator));
  return x;
}

// Normal `column` of a point from its words.
Long exact_normal(std::uint64_t seed, std::uint64_t index, RandomUse use, std::uint64_t step, Index column) {
  const PhiloxBlock words = philox4x32_10(seed, index, philox_offset(use, std::uint32_t(column / 4), step));
  const int pair = int(column % 4) / 2;
  const auto uniform = [&](int w) { return (Long(words.word[w] >> 9) + 0.5L) / (1 << 23); };
  const Long radius = std::sqrt(-2 * std::log(uniform(2 * pair)));
  const Long angle = 2 * std::numbers::pi_v<Long> * uniform(2 * pair + 1);
  return radius * (column % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

// ---- integrators

TEST_F(CudaIntegrators, PriorIsFromItsWords) {
  for (const Index n : awkward_sizes) {
    for (const int d : {1, 2, 3, 5, 16}) {
      Buffer<float> x(cuda(), n, d);
      ASSERT_EQ(kernels::launch_prior(x.data(), n, d, 1.5f, 7, 40, nullptr), 0);
      std::vector<Long> expected;
      for (Index i = 0; i < n * d; ++i) {
        expected.push_back(1.5L * exact_normal(7, 40 + std::uint64_t(i / d), RandomUse::prior, 0, i % d));
      }
      EXPECT_TRUE(agrees(on_host(x), expected,
                         Bound{.absolute = 1.5 * rms_normal_error,
                               .each = std::vector<double>(expected.size(), 1.5 * largest_normal_error)}))
          << n << " points in " << d << " dimensions";
    }
  }
}

// s(x) = −sin x, whose divergence is −Σ cos x.
struct SineScore {
  static double score(double x) { return -std::sin(x); }
  static double slope(double x) { return -std::cos(x); }
};

kernels::StageArguments stage_of(Buffer<float>& x, Buffer<float>& at, Buffer<float>& sum, const Buffer<float>& score) {
  kernels::StageArguments a{};
  a.n = x.rows(), a.dimension = static_cast<int>(x.columns());
  a.x = x.data(), a.stage_x = at.data(), a.sum = sum.data(), a.score = score.data();
  return a;
}

// Three steps; a step rounds its state, of size 3 at most, a few times in float: 1e-6 with the normals' error.
TEST_F(CudaIntegrators, EulerMaruyama) {
  for (const Index n : awkward_sizes) {
    for (const int d : {1, 2, 3, 5}) {
      const std::vector<float> start = normals(n, d, 3);
      Buffer<float> x = on_device(start, d), unused;
      std::vector<Long> expected(start.begin(), start.end());
      for (std::uint64_t step = 0; step < 3; ++step) {
        const float noise = step == 2 ? 0.0f : 0.3f;
        std::vector<float> score = on_host(x);
        for (float& v : score) v = float(SineScore::score(v));
        const Buffer<float> scores = on_device(score, d);
        kernels::StageArguments a = stage_of(x, unused, unused, scores);
        a.seed = 11, a.first_index = 5, a.step = step;
        a.stage = {0, 0, 1, {0.25f, -0.5f, noise}};
        ASSERT_EQ(kernels::launch_stage(a, nullptr), 0);
        for (Index i = 0; i < n * d; ++i) {
          const Long z = exact_normal(11, 5 + std::uint64_t(i / d), RandomUse::noise, step, i % d);
          expected[i] += 0.25L * expected[i] - 0.5L * SineScore::score(double(expected[i])) + Long(noise) * z;
        }
      }
      EXPECT_TRUE(agrees(on_host(x), expected,
                         Bound{.relative = 1e-6,
                               .norm = 1e-6,
                               .absolute = rms_normal_error,
                               .each = std::vector<double>(expected.size(), largest_normal_error)}))
          << n << " points in " << d << " dimensions";
    }
  }
}

// Schemes by their tableaus as the literature writes them, on x′ = f(x) = a x + b s(x), and the integral of
// ∇·f = a d + b ∇·s along the path by the same weights.
struct Tableau {
  const char* name;
  std::vector<double> node, weight;
};
const std::vector<Tableau> tableaus{
    {"euler", {0}, {1}}, {"heun", {0, 1}, {0.5, 0.5}}, {"rk4", {0, 0.5, 0.5, 1}, {1 / 6.0, 1 / 3.0, 1 / 3.0, 1 / 6.0}}};

TEST_F(CudaIntegrators, ProbabilityFlowAndItsLogDensity) {
  const float linear = 0.25f, score_part = -0.5f;
  for (const Tableau& tableau : tableaus) {
    const int stages = static_cast<int>(tableau.node.size());
    for (const Index n : awkward_sizes) {
      for (const int d : {1, 2, 5}) {
        const std::vector<float> start = normals(n, d, 4);
        Buffer<float> x = on_device(start, d), at(cuda(), n, d), sum(cuda(), n, d);
        Buffer<double> integral(cuda(), n);
        std::vector<double> expected(start.begin(), start.end()), expected_integral(n, 0.0);
        for (int step = 0; step < 3; ++step) {
          std::vector<double> slope(n * d), total(n * d, 0.0);
          for (int i = 0; i < stages; ++i) {
            std::vector<float> score = on_host(i == 0 ? x : at), divergence(n, 0.0f);
            for (Index e = 0; e < n * d; ++e) {
              divergence[e / d] += float(SineScore::slope(score[e]));
              score[e] = float(SineScore::score(score[e]));
            }
            const Buffer<float> scores = on_device(score, d), divergences = on_device(divergence);
            kernels::StageArguments a = stage_of(x, at, sum, scores);
            a.stage = {0, float(tableau.node[i]), float(tableau.weight[i]), {linear, score_part, 0}, 1, score_part};
            a.stage.opens = i == 0, a.stage.closes = i + 1 == stages;
            a.next_node = a.stage.closes ? 0.0f : float(tableau.node[i + 1]);
            a.divergence = divergences.data(), a.log_density = integral.data();
            ASSERT_EQ(kernels::launch_stage(a, nullptr), 0);

            for (Index p = 0; p < n; ++p) {
              double trace = 0;
              for (Index e = p * d; e < (p + 1) * d; ++e) {
                const double state = expected[e] + (i == 0 ? 0.0 : tableau.node[i] * slope[e]);
                slope[e] = linear * state + score_part * SineScore::score(state);
                total[e] += tableau.weight[i] * slope[e];
                trace += SineScore::slope(state);
              }
              expected_integral[p] += tableau.weight[i] * (linear * d + score_part * trace);
            }
          }
          for (Index e = 0; e < n * d; ++e) expected[e] += total[e];
        }
        // Some ten roundings of numbers up to a few times the state, in float.
        const Bound rounding{.relative = 1e-6, .of_rms = 1e-6, .norm = 5e-7};
        EXPECT_TRUE(agrees(on_host(x), expected, rounding)) << tableau.name << ", " << n << " points, d " << d;
        EXPECT_TRUE(agrees(on_host(integral), expected_integral, Bound{.of_rms = 2e-6, .norm = 1e-6}))
            << tableau.name << ", " << n << " points, d " << d;
      }
    }
  }
}

TEST_F(CudaIntegrators, PriorLogDensity) {
  const double variance = 0.7;
  for (const Index n : awkward_sizes) {
    for (const int d : {1, 2, 33, 100}) {
      const std::vector<float> host = normals(n, d, 9);
      const Buffer<float> x = on_device(host, d);
      std::vector<double> integral(n);
      for (Index i = 0; i < n; ++i) integral[i] = 0.25 * double(i % 7);
      const Buffer<double> integrals = on_device(integral);
      Buffer<float> out(cuda(), n);
      ASSERT_EQ(kernels::launch_prior_log_density(x.data(), integrals.data(), out.data(), n, d, variance, nullptr), 0);
      std::vector<Long> expected;
      for (Index i = 0; i < n; ++i) {
        Long value = integral[i];
        for (Index j = 0; j < d; ++j) {
          const Long v = host[i * d + j];
          value -= (v * v / variance + std::log(2 * std::numbers::pi_v<Long> * variance)) / 2;
        }
        expected.push_back(value);
      }
      // One rounding to float, of a number that may be small where its terms are not: the sum is in double.
      EXPECT_TRUE(agrees(on_host(out), expected, Bound{.relative = 6.1e-8, .norm = 6.1e-8, .absolute = 1e-13 * d}))
          << n << " points in " << d << " dimensions";
    }
  }
}

// ---- data

std::vector<float> draw(const Context& context, const DataSet& data, Index n, std::uint64_t seed, std::uint64_t first,
                        std::uint64_t step) {
  Buffer<float> x(context, n, data.dimension());
  data.draw(context, x.view(), seed, first, step);
  std::vector<float> values(x.size());
  copy(context, x.view(), View<float>(values, data.dimension()));
  context.synchronize();
  return values;
}

struct NamedSet {
  std::string name;
  DataSet data;
  double deviation;  // a bound of the factor of a normal in a coordinate; 0: no normals
};
std::vector<NamedSet> data_sets() {
  std::vector<double> weights, means, variances;
  for (int k = 0; k < 100; ++k) {
    weights.push_back(1 + k % 5), variances.push_back(0.1 + 0.01 * k);
    for (int j = 0; j < 7; ++j) means.push_back(0.1 * k - j);
  }
  return {{"blob", DataSet::named("blob"), 0.3},
          {"circles2", DataSet::named("circles2"), 5},  // the direction is a quotient of normals
          {"checker", DataSet::named("checker"), 0},
          {"a hundred isotropic components", DataSet::mixture(GaussianMixture::isotropic(7, weights, means, variances)),
           1.1},
          {"one isotropic component", DataSet::mixture(GaussianMixture::isotropic(1, {1}, {2}, {4})), 2},
          {"full covariances in 3", DataSet::mixture(random_mixture(3, 5, 1)), 3},
          {"full covariances in 19", DataSet::mixture(random_mixture(19, 2, 2)), 6},
          {"samples in 3", DataSet::samples(normals(989, 3, 3), 3), 0},
          {"samples in 6", DataSet::samples(normals(19, 6, 3), 6), 0},
          {"one sample", DataSet::samples({0.5f}, 1), 0}};
}

TEST_F(CudaData, DrawsAreThoseOfTheCpu) {
  for (const NamedSet& set : data_sets()) {
    for (const Index n : awkward_sizes) {
      SCOPED_TRACE(fmt::format("{}, {} draws", set.name, n));
      const std::vector<float> expected = draw(cpu(), set.data, n, 5, 1000, 3),
                               actual = draw(cuda(), set.data, n, 5, 1000, 3);
      if (set.deviation == 0) {
        EXPECT_EQ(actual, expected);
        continue;
      }
      EXPECT_TRUE(agrees(actual, expected,
                         Bound{.relative = 3e-7,
                               .norm = 3e-7,
                               .absolute = set.deviation * rms_normal_error,
                               .each = std::vector<double>(expected.size(), set.deviation * largest_normal_error)}));
    }
  }
}

TEST_F(CudaData, DrawBelongsToItsIndexSeedAndStep) {
  for (const NamedSet& set : data_sets()) {
    if (set.name == "one sample") continue;
    SCOPED_TRACE(set.name);
    const std::vector<float> whole = draw(cuda(), set.data, 99, 5, 1000, 3);
    const std::vector<float> tail = draw(cuda(), set.data, 80, 5, 1019, 3);
    EXPECT_EQ(tail, std::vector<float>(whole.begin() + 19 * set.data.dimension(), whole.end()));
    EXPECT_NE(draw(cuda(), set.data, 99, 6, 1000, 3), whole);
    EXPECT_NE(draw(cuda(), set.data, 99, 5, 1000, 4), whole);
  }
}

// Each context keeps the tables of a few sets: more sets than that, in turn, and one that took another's place in
// memory.
TEST_F(CudaData, SetsInTurn) {
  const std::vector<NamedSet> sets = data_sets();
  std::vector<std::vector<float>> first;
  for (const NamedSet& set : sets) first.push_back(draw(cuda(), set.data, 19, 5, 0, 0));
  for (int turn = 0; turn < 2; ++turn) {
    for (std::size_t i = 0; i < sets.size(); ++i) EXPECT_EQ(draw(cuda(), sets[i].data, 19, 5, 0, 0), first[i]);
  }
  for (int k = 0; k < 10; ++k) {
    const DataSet data = DataSet::samples({float(k)}, 1);
    EXPECT_EQ(draw(cuda(), data, 1, 5, 0, 0), std::vector<float>{float(k)});
  }
}

// ---- transport

// On and beside every boundary of every rule: half nodes, the edges, and what is not finite.
std::vector<float> awkward_samples(Index n, const Grid& grid, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> half_node(-1, int(2 * grid.n));
  std::vector<float> x(2 * n);
  for (Index i = 0; i < 2 * n; ++i) {
    const int axis = int(i % 2);
    const float low = float(grid.limits(axis).low), high = float(grid.limits(axis).high), margin = 0.1f * (high - low);
    const float special[] = {0.0f,
                             low,
                             high,
                             std::nextafter(low, high),
                             std::nextafter(high, low),
                             1e30f,
                             float(kNan),
                             float(kInfinity),
                             -float(kInfinity)};
    std::uniform_real_distribution<float> anywhere(low - margin, high + margin);
    const unsigned kind = generator() % 8;
    x[i] = kind == 0  ? special[generator() % std::size(special)]
           : kind < 3 ? float(grid.at(axis, 0.5 * half_node(generator)))
                      : anywhere(generator);
  }
  return x;
}

TEST_F(CudaTransport, HistogramIsThatOfTheCpu) {
  for (const Index n : {Index{0}, Index{1}, Index{19}, Index{99}, Index{989}, Index{20000}}) {
    for (const Index nodes : {2, 7, 64, 110, 111, 128}) {  // 110: the most that is counted in shared memory
      for (const Grid& grid : {Grid::within(3.5, nodes), Grid{.n = nodes, .x = {-0.7, 0.4}, .y = {2, 90}}}) {
        const std::vector<float> x = awkward_samples(n, grid, 17);
        const Histogram expected = histogram(cpu(), View<const float>(x, 2), grid);
        const Buffer<float> device = on_device(x, 2);
        const Histogram actual = histogram(cuda(), device.view(), grid);
        EXPECT_EQ(actual.inside, expected.inside);
        EXPECT_EQ(actual.outside, expected.outside);
        EXPECT_EQ(actual.weights, expected.weights) << n << " samples, " << grid.describe();
      }
    }
  }
}

TEST_F(CudaTransport, HistogramCountsTheNearestNode) {
  const Grid grid{.n = 19, .x = {-2, 2}, .y = {-0.5, 3}};
  const double low[] = {-2, -0.5}, high[] = {2, 3};
  const std::vector<float> x = normals(989, 2, 8);
  std::vector<double> expected(19 * 19, 0.0);
  Index inside = 0;
  for (Index i = 0; i < 989; ++i) {
    Index nearest[2] = {0, 0};
    bool within = true;
    for (int axis = 0; axis < 2; ++axis) {
      const double v = x[2 * i + axis];
      within = within && v > low[axis] && v < high[axis];
      for (Index k = 1; k < 19; ++k) {
        const auto distance = [&](Index node) {
          return std::abs(v - (low[axis] + (high[axis] - low[axis]) * double(node) / 18));
        };
        if (distance(k) < distance(nearest[axis])) nearest[axis] = k;
      }
    }
    if (!within) continue;
    ++inside;
    expected[19 * nearest[1] + nearest[0]] += 1;
  }
  for (double& v : expected) v /= double(inside);
  const Buffer<float> device = on_device(x, 2);
  const Histogram actual = histogram(cuda(), device.view(), grid);
  EXPECT_EQ(actual.inside, inside);
  EXPECT_EQ(actual.weights, expected);
}

// The simplex is the host's: points come from the device and leave out what is not finite.
TEST_F(CudaTransport, W2OfPointsIsThatOfTheCpu) {
  auto a = normals(19, 3, 1);
  const auto b = normals(99, 3, 2, 0.5);
  a[4] = float(kNan);
  const TransportResult expected = w2_squared_of_points(cpu(), View<const float>(a, 3), View<const float>(b, 3));
  const Buffer<float> first = on_device(a, 3), second = on_device(b, 3);
  const TransportResult actual = w2_squared_of_points(cuda(), first, second);
  EXPECT_EQ(actual.w2_squared, expected.w2_squared);
  EXPECT_EQ(actual.dual_value, expected.dual_value);
}

double sliced(const std::vector<float>& a, const std::vector<float>& b, Index d, int projections, std::uint64_t seed) {
  const Buffer<float> first = on_device(a, d), second = on_device(b, d);
  return sliced_w2_squared(cuda(), first.view(), second.view(), projections, seed);
}

// All n m pairs of quantiles of the finite samples, along directions from their words.
Long reference_sliced(const std::vector<float>& a, const std::vector<float>& b, Index d, int projections,
                      std::uint64_t seed) {
  Long total = 0;
  for (int projection = 0; projection < projections; ++projection) {
    std::vector<Long> direction(d);
    Long square = 0;
    for (Index j = 0; j < d; ++j) {
      direction[j] = exact_normal(seed, std::uint64_t(projection), RandomUse::projection, 0, j);
      square += direction[j] * direction[j];
    }
    const auto projected = [&](const std::vector<float>& x) {
      std::vector<Long> values;
      for (std::size_t i = 0; i < x.size() / d; ++i) {
        Long sum = 0;
        for (Index j = 0; j < d; ++j) sum += direction[j] * x[i * d + j];
        if (std::isfinite(sum)) values.push_back(sum / std::sqrt(square));
      }
      std::sort(values.begin(), values.end());
      return values;
    };
    const std::vector<Long> p = projected(a), q = projected(b);
    const std::size_t n = p.size(), m = q.size();
    Long distance = 0;
    for (std::size_t k = 0; k < n * m; ++k) distance += std::pow(p[k / m] - q[k / n], 2);
    total += distance / Long(n * m);
  }
  return total / projections;
}

// On a line directions are ±1 exactly: sums in double. Else directions err by their normals, which for small directions
// is 1e-6 of them, and the mean over directions by less.
TEST_F(CudaTransport, SlicedW2IsTheQuantileIntegral) {
  for (const Index n : {Index{1}, Index{19}, Index{99}, Index{989}}) {
    for (const Index m : {Index{1}, Index{19}, Index{99}, Index{989}}) {
      for (const Index d : {1, 2, 5, 33}) {
        if (d > 1 && n * m > 99 * 99) continue;
        const auto a = normals(n, d, 1), b = normals(m, d, 2, 0.5, 2);
        EXPECT_TRUE(agrees(sliced(a, b, d, 5, 3), double(reference_sliced(a, b, d, 5, 3)), d == 1 ? 1e-13 : 1e-6))
            << n << " and " << m << " samples in " << d << " dimensions";
      }
    }
  }
}

// More samples than the parts of the integral have threads; and as many as the CPU computes.
TEST_F(CudaTransport, SlicedW2OfManySamplesIsThatOfTheCpu) {
  const auto a = normals(100003, 1, 1), b = normals(70001, 1, 2, 0.1);
  const double expected = sliced_w2_squared(cpu(), View<const float>(a), View<const float>(b), 1, 4);
  EXPECT_TRUE(agrees(sliced(a, b, 1, 1, 4), expected, 1e-12));
}

TEST_F(CudaTransport, SlicedW2LeavesOutWhatIsNotFiniteAndIsDeterministic) {
  const auto a = normals(99, 2, 1), b = normals(989, 2, 2);
  const double expected = sliced(a, b, 2, 19, 8);
  EXPECT_EQ(sliced(a, b, 2, 19, 8), expected);
  EXPECT_NE(sliced(a, b, 2, 19, 9), expected);
  EXPECT_EQ(sliced(b, a, 2, 19, 8), expected);
  EXPECT_EQ(sliced(a, a, 2, 19, 8), 0);
  auto marked = a;
  for (const double v : {kNan, kInfinity, -kInfinity}) {
    marked.insert(marked.begin() + 20, {float(v), 1.0f});
    marked.insert(marked.end(), {1.0f, float(v)});
  }
  EXPECT_EQ(sliced(marked, b, 2, 19, 8), expected);
  EXPECT_EQ(sliced(b, marked, 2, 19, 8), expected);
}

TEST_F(CudaTransport, SlicedW2NeedsFiniteSamples) {
  const std::vector<float> a{1, 2, 3, 4}, bad{float(kNan), 0, 0, float(kInfinity)};
  EXPECT_THAT(message_of([&] { sliced(a, bad, 2, 3, 1); }), HasSubstr("on both sides, and the second has none"));
  EXPECT_THAT(message_of([&] { sliced({}, a, 2, 3, 1); }), HasSubstr("on both sides, and the first has none"));
}

// Coordinates on the edge and beside it, far away and not finite, in every column.
TEST_F(CudaTransport, EscapedSamplesAreCounted) {
  for (const Index n : {Index{0}, Index{1}, Index{19}, Index{99}, Index{989}, Index{20000}}) {
    for (const Index d : {1, 2, 3, 19}) {
      for (const double half_width : {0.7, 3.5, kInfinity}) {
        std::mt19937 generator(9);
        std::vector<float> x = normals(n, d, 8);
        const float edge = float(half_width),
                    special[] = {edge, -edge, std::nextafter(edge, 0.0f), float(kNan), 1e30f, float(kInfinity)};
        for (Index i = 0; i < n; i += 3) x[i * d + Index(generator() % d)] = special[generator() % 6];
        Index expected = 0;
        for (Index i = 0; i < n; ++i) {
          bool inside = true;
          for (Index j = 0; j < d; ++j) inside &= x[i * d + j] > -half_width && x[i * d + j] < half_width;
          expected += !inside;
        }
        const Buffer<float> device = on_device(x, d);
        EXPECT_EQ(count_escaped(cuda(), device.view(), half_width), expected)
            << n << " samples in " << d << " dimensions, ±" << half_width;
      }
    }
  }
}

Moments moments_of(const std::vector<float>& x, Index d) { return moments(cuda(), on_device(x, d).view()); }

// Two passes: nothing cancels though the mean is 1000 deviations away. Sums of 5000 terms in double.
TEST_F(CudaTransport, MomentsOfTheFiniteSamples) {
  for (const Index n : {Index{1}, Index{19}, Index{99}, Index{989}, Index{5003}}) {
    for (const Index d : {1, 2, 3, 19}) {
      auto x = normals(n, d, 6, 1000);
      std::vector<Long> mean(d, 0), covariance(d * d, 0);
      for (Index i = 0; i < n * d; ++i) mean[i % d] += Long(x[i]) / n;
      for (Index i = 0; i < n; ++i) {
        for (Index j = 0; j < d; ++j) {
          for (Index l = 0; l < d; ++l)
            covariance[j * d + l] += (x[i * d + j] - mean[j]) * (x[i * d + l] - mean[l]) / n;
        }
      }
      std::vector<float> bad(2 * d, 1.0f);
      bad[d - 1] = float(kNan), bad[d] = float(-kInfinity);
      x.insert(x.begin() + n / 2 * d, bad.begin(), bad.end());
      const Moments actual = moments_of(x, d);
      SCOPED_TRACE(fmt::format("{} samples in {} dimensions", n, d));
      EXPECT_EQ(actual.count, n);
      EXPECT_EQ(actual.left_out, 2);
      EXPECT_TRUE(agrees(actual.mean, mean, Bound{.relative = 1e-14, .norm = 1e-14}));
      // The mean's rounding, 1e-13, enters squared; each product's own is 1e-13 of a deviation.
      EXPECT_TRUE(agrees(actual.covariance, covariance, Bound{.of_rms = 1e-12, .norm = 1e-12, .absolute = 1e-24}));
      EXPECT_EQ(moments_of(x, d).covariance, actual.covariance);
    }
  }
  const Moments none = moments_of({float(kNan), 1.0f}, 2), empty = moments_of({}, 3);
  EXPECT_EQ(none.count, 0);
  EXPECT_EQ(none.left_out, 1);
  EXPECT_EQ(none.mean, (std::vector<double>{0, 0}));
  EXPECT_EQ(empty.count, 0);
  EXPECT_EQ(empty.covariance, std::vector<double>(9, 0.0));
}

// ---- exact mixtures

template <class T>
struct Values {
  std::vector<T> value, dt, score, divergence, hessian, residual;
};

template <class T>
Values<T> evaluate(const Fields<T>& fields, Index d, const std::vector<T>& t, const std::vector<T>& x,
                   const Divergence& divergence = {}, const Context& context = cuda()) {
  const Index n = static_cast<Index>(x.size()) / d;
  const auto given = [&](const std::vector<T>& values, Index columns) {
    Buffer<T> buffer(context, static_cast<Index>(values.size()) / columns, columns);
    copy(context, View<const T>(values, columns), buffer.view());
    return buffer;
  };
  const Buffer<T> times = given(t, 1), points = given(x, d);
  Buffer<T> value(context, n), dt(context, n), score(context, n, d), trace(context, n), hessian(context, n, d * d),
      residual(context, n);
  FieldOutputs<T> outputs;
  outputs.value = value.view(), outputs.dt = dt.view(), outputs.score = score.view();
  outputs.divergence = trace.view(), outputs.residual = residual.view();
  if (d <= 64) outputs.hessian = hessian.view();
  fields.evaluate({times.view(), points.view()}, outputs, divergence);
  const auto taken = [&](const Buffer<T>& buffer) {
    std::vector<T> values(static_cast<std::size_t>(buffer.size()));
    copy(context, buffer.view(), View<T>(values, buffer.columns()));
    context.synchronize();
    return values;
  };
  return {taken(value), taken(dt), taken(score), taken(trace), taken(hessian), taken(residual)};
}

template <class T>
Values<T> evaluate(const GaussianMixture& mixture, const ForwardSde& sde, const std::vector<T>& t,
                   const std::vector<T>& x, const Divergence& divergence = {}, const Context& context = cuda()) {
  return evaluate(Fields<T>(context, {sde, mixture}), mixture.dimension(), t, x, divergence, context);
}

class CudaMixtureFields : public GpuTest, public ::testing::WithParamInterface<std::tuple<int, int>> {};

// Errors as on the CPU: ℓ_k carries a few roundings of its largest term, a few hundred at these points, and so do the
// posteriors; the reference's own slopes are good to 1e-13. So 1e-11 of the rms leaves a factor of ten.
TEST_P(CudaMixtureFields, AgreeWithDirectFormulas) {
  const auto [sde_index, d] = GetParam();
  const ForwardSde sde = all_sdes()[sde_index];
  for (const GaussianMixture& mixture : {random_mixture(d, 1, 5), random_mixture(d, 4, 6), random_mixture(d, 19, 7)}) {
    const Fields<double> fields(cuda(), {sde, mixture});
    std::mt19937 generator(11);
    std::normal_distribution<double> normal(0, 1.5);
    for (const double tau : {sde.t_min() / sde.horizon(), 0.03, 0.5, 0.97, 1.0}) {
      const Index n = 19;
      std::vector<double> x(n * d);
      for (double& entry : x) entry = normal(generator);
      const double t = tau * sde.horizon();
      Values<Long> expected;
      std::vector<double> terms;
      for (Index i = 0; i < n; ++i) {
        const Reference r = reference(mixture, sde, t, x.data() + i * d);
        expected.value.push_back(r.value), expected.dt.push_back(r.dt), expected.divergence.push_back(r.laplacian);
        expected.score.insert(expected.score.end(), r.score.begin(), r.score.end());
        expected.hessian.insert(expected.hessian.end(), r.hessian.begin(), r.hessian.end());
        const auto c = sde.at<double>(t);
        Long square = 0;
        for (const Long s : r.score) square += s * s;
        terms.push_back(double(std::abs(r.dt) + std::abs(c.drift) * d +
                               c.diffusion_squared / 2 * (std::abs(r.laplacian) + square)));
      }
      // Near the stationary law 2 a S and g² cancel in S′: what is left carries the rounding of its terms.
      const double rounding = 1e-15 * *std::max_element(terms.begin(), terms.end());
      const Bound bound{.of_rms = 1e-11, .norm = 3e-12};
      for (const Index times : {n, Index{1}}) {  // one time for all goes through a table of its norms
        SCOPED_TRACE(fmt::format("{} components, {} times {}", mixture.components(), times, t));
        const auto actual = evaluate(fields, d, std::vector<double>(times, t), x);
        EXPECT_TRUE(agrees(actual.value, expected.value, Bound{.of_rms = 1e-13, .norm = 1e-13}));
        EXPECT_TRUE(agrees(actual.dt, expected.dt, Bound{.of_rms = 1e-11, .norm = 3e-12, .absolute = rounding}));
        EXPECT_TRUE(agrees(actual.score, expected.score, bound));
        EXPECT_TRUE(agrees(actual.divergence, expected.divergence, bound));
        EXPECT_TRUE(agrees(actual.hessian, expected.hessian, bound));
        // The exact potential satisfies its Fokker–Planck equation: the terms cancel to their rounding.
        for (Index i = 0; i < n; ++i) {
          EXPECT_LE(std::abs(actual.residual[i]), 1e-12 * terms[i]) << "point " << i;
        }
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EverySdeAndDimension, CudaMixtureFields,
                         ::testing::Combine(::testing::Range(0, 7), ::testing::Values(1, 2, 3, 16)), sde_and_dimension);

TEST_F(CudaMixture, AwkwardNumbersOfPointsAndTimes) {
  const auto mixture = random_mixture(3, 4, 12);
  for (const Index n : awkward_sizes) {
    std::mt19937 generator(6);
    std::vector<double> t(n), x(3 * n);
    for (double& entry : t) entry = std::uniform_real_distribution<double>(0.01, 10)(generator);
    for (double& entry : x) entry = std::normal_distribution<double>(0, 2)(generator);
    Values<Long> expected;
    for (Index i = 0; i < n; ++i) {
      const Reference r = reference(mixture, {}, t[i], x.data() + 3 * i);
      expected.value.push_back(r.value);
      expected.score.insert(expected.score.end(), r.score.begin(), r.score.end());
    }
    const auto actual = evaluate(mixture, {}, t, x);
    EXPECT_TRUE(agrees(actual.value, expected.value, Bound{.of_rms = 1e-13, .norm = 1e-13})) << n;
    EXPECT_TRUE(agrees(actual.score, expected.score, Bound{.of_rms = 1e-11, .norm = 3e-12})) << n;
  }
}

// A point in so many dimensions and components that the scratch holds fewer points than there are.
TEST_F(CudaMixture, MorePointsThanTheWorkspaceHolds) {
  const Index d = 100, components = 40, n = 1200;
  std::vector<double> weights(components, 1.0), means, variances(components, 0.5);
  for (const float v : normals(components, d, 2)) means.push_back(v);
  const auto mixture = GaussianMixture::isotropic(d, weights, means, variances);
  const Model model{{}, mixture};
  const auto needed = static_cast<std::size_t>((components + components * d + 2 * d) * 8 * (2 * n));
  const std::size_t held = Fields<float>(cuda(), model).workspace_bytes();
  EXPECT_LT(held, std::size_t{64'000'000});
  EXPECT_LT(held, needed);
  const auto x = normals(2 * n, d, 3);
  const auto whole = evaluate<float>(mixture, {}, {0.3f}, x);
  const auto tail = evaluate<float>(mixture, {}, {0.3f}, std::vector<float>(x.end() - 200 * d, x.end()));
  EXPECT_EQ(std::vector<float>(whole.value.end() - 200, whole.value.end()), tail.value);
  EXPECT_EQ(std::vector<float>(whole.score.end() - 200 * d, whole.score.end()), tail.score);
  const std::vector<double> last(x.end() - d, x.end());
  EXPECT_TRUE(agrees(whole.value.back(), double(reference(mixture, {}, 0.3f, last.data()).value), 6e-8));
}

TEST_F(CudaMixture, SingularDataAtTimeZeroAreInfiniteWhereTheDensityIs) {
  const auto points = GaussianMixture::isotropic(2, {1, 1}, {1, 0, -1, 0}, {0, 0});
  const auto at_points = evaluate<double>(points, {}, {0.0}, {1, 0, -1, 0, 1, 0.5, 0, 0});
  EXPECT_EQ(at_points.value, (std::vector<double>{kInfinity, kInfinity, -kInfinity, -kInfinity}));
  EXPECT_EQ(at_points.score[0], 0);
  EXPECT_EQ(at_points.score[1], 0);
  EXPECT_EQ(at_points.score[4], 0);
  EXPECT_EQ(at_points.score[5], -kInfinity);
  EXPECT_EQ(at_points.divergence[0], -kInfinity);
  EXPECT_EQ(at_points.hessian[0], -kInfinity);
  EXPECT_TRUE(std::isnan(at_points.residual[0]));

  // Lines: finite along, flat across; one of them rotated.
  for (const bool rotated : {false, true}) {
    const GaussianMixture line(2, {1}, {0, 0},
                               rotated ? std::vector<double>{0.5, 0.5, 0.5, 0.5} : std::vector<double>{1, 0, 0, 0});
    const float c = rotated ? 0.5f : 0.0f;  // (0.5, 0) or (0.5, 0.5) is on it, (0.5, 1) is not
    const auto on_line = evaluate<float>(line, {}, {0.0f}, {0.5f, c, 0.5f, 1.0f});
    EXPECT_EQ(on_line.value[0], float(kInfinity)) << rotated;
    EXPECT_EQ(on_line.value[1], -float(kInfinity)) << rotated;
    EXPECT_TRUE(agrees(on_line.score[0], -0.5, 1e-7)) << rotated;
    EXPECT_TRUE(agrees(on_line.score[1], -double(c), 1e-7)) << rotated;
    EXPECT_EQ(on_line.score[3], -float(kInfinity)) << rotated;
  }

  // At the smallest training time all is finite again.
  const auto later = evaluate<double>(points, {}, {1e-4}, {1, 0, -1, 0, 1, 0.5, 0, 0});
  for (const auto& field : {later.value, later.dt, later.score, later.divergence, later.hessian, later.residual}) {
    for (const double v : field) EXPECT_TRUE(std::isfinite(v));
  }
}

TEST_F(CudaMixture, NanStaysInItsPoint) {
  const auto clean = evaluate<double>(blob(), {}, {0.5}, {0.1, 0.2, 0.3, 0.4, 0.5, 0.6});
  const auto marked = evaluate<double>(blob(), {}, {0.5}, {0.1, 0.2, kNan, 0.4, 0.5, 0.6});
  EXPECT_TRUE(std::isnan(marked.value[1]) && std::isnan(marked.score[2]) && std::isnan(marked.residual[1]));
  EXPECT_EQ(marked.value[0], clean.value[0]);
  EXPECT_EQ(marked.value[2], clean.value[2]);
  EXPECT_EQ(marked.residual[2], clean.residual[2]);
}

TEST_F(CudaMixture, FloatIsDoubleRounded) {
  const auto mixture = random_mixture(3, 4, 21);
  const std::vector<float> x = normals(99, 3, 4, 0, 2);
  const auto in_float = evaluate<float>(mixture, {}, {0.25f}, x);
  const auto in_double = evaluate<double>(mixture, {}, {0.25}, std::vector<double>(x.begin(), x.end()));
  const Bound rounding{.relative = 6e-8, .norm = 6e-8};
  EXPECT_TRUE(agrees(in_float.value, in_double.value, rounding));
  EXPECT_TRUE(agrees(in_float.score, in_double.score, rounding));
  EXPECT_TRUE(agrees(in_float.dt, in_double.dt, rounding));
  EXPECT_TRUE(agrees(in_float.divergence, in_double.divergence, rounding));
  EXPECT_TRUE(agrees(in_float.hessian, in_double.hessian, rounding));
}

TEST_F(CudaMixture, HessianTimesVector) {
  for (const Index d : {1, 2, 7}) {
    for (const auto& mixture : {random_mixture(d, 3, 17),
                                GaussianMixture::isotropic(d, {1, 2}, std::vector<double>(2 * d, 0.3), {0.1, 0.4})}) {
      std::mt19937 generator(8);
      std::normal_distribution<double> normal;
      const Index n = 19;
      std::vector<double> x(n * d), v(n * d), expected(n * d, 0.0);
      for (double& entry : x) entry = normal(generator);
      for (double& entry : v) entry = normal(generator);
      for (Index i = 0; i < n; ++i) {
        const Reference r = reference(mixture, {}, 0.3, x.data() + i * d);
        for (Index row = 0; row < d; ++row) {
          for (Index c = 0; c < d; ++c) expected[i * d + row] += double(r.hessian[row * d + c]) * v[i * d + c];
        }
      }
      const Buffer<double> t = on_device(std::vector<double>{0.3}), points = on_device(x, d),
                           direction = on_device(v, d);
      Buffer<double> product(cuda(), n, d);
      Fields<double>(cuda(), {{}, mixture}).hessian_vector({t.view(), points.view()}, direction.view(), product.view());
      EXPECT_TRUE(agrees(on_host(product), expected, Bound{.of_rms = 1e-11, .norm = 3e-12})) << d;
    }
  }
}

// The CPU's estimates with the same words: probes of signs are the same to the last bit, Gaussian ones to their
// rounding, which an estimate, a quadratic form, takes twice.
TEST_F(CudaMixture, HutchinsonByTheProbesOfTheCpu) {
  for (const int d : {1, 2, 3, 5, 16}) {
    const auto mixture = random_mixture(d, 3, 31);
    std::vector<double> x;
    for (const float v : normals(99, d, 5)) x.push_back(v);
    for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
      for (const int probes : {1, 4}) {
        const Divergence estimate{.probes = probes, .law = law, .seed = 77, .first_index = 1000};
        const auto actual = evaluate<double>(mixture, {}, {0.2}, x, estimate);
        const auto expected = evaluate<double>(mixture, {}, {0.2}, x, estimate, cpu());
        const double error = law == ProbeLaw::gaussian ? 2 * rms_normal_error : 1e-12;
        EXPECT_TRUE(agrees(actual.divergence, expected.divergence, Bound{.of_rms = 10 * error, .norm = 2 * error}))
            << d << " " << probes;
        // What is left of terms of the divergence's size, which cancel: on the line but for their roundings.
        double square = 0;
        for (const double v : expected.divergence) square += v * v / double(expected.divergence.size());
        const Bound bound{.of_rms = 10 * error, .norm = 2 * error, .absolute = 2 * error * std::sqrt(square)};
        EXPECT_TRUE(agrees(actual.residual, expected.residual, bound)) << d << " " << probes;
      }
    }
  }
}

TEST_F(CudaMixture, ProbesBelongToTheSampleIndex) {
  const auto mixture = random_mixture(3, 2, 31);
  std::vector<double> x;
  for (const float v : normals(99, 3, 5)) x.push_back(v);
  Divergence divergence{.probes = 3, .law = ProbeLaw::gaussian, .seed = 5, .first_index = 40};
  const auto whole = evaluate<double>(mixture, {}, {0.7}, x, divergence);
  divergence.first_index = 90;
  const auto tail = evaluate<double>(mixture, {}, {0.7}, std::vector<double>(x.begin() + 3 * 50, x.end()), divergence);
  EXPECT_EQ(std::vector<double>(whole.divergence.begin() + 50, whole.divergence.end()), tail.divergence);
  EXPECT_NE(whole.divergence[0], evaluate<double>(mixture, {}, {0.7}, x, divergence).divergence[0]);
}

}  // namespace
}  // namespace fokker
