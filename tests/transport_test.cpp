// W2 against closed forms, against the Hungarian method on the full bipartite problem, against all permutations, and
// against the distances between the published histograms.
#include "fokker/transport.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "compare.hpp"
#include "fokker/array.hpp"
#include "paper_data.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using fokker::testing::agrees;
using fokker::testing::Bound;
using fokker::testing::message_of;
using ::testing::HasSubstr;

const Context& cpu() {
  static const Context context({.backend = BackendKind::cpu});
  return context;
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

// Masses are integers out of 2^60 and costs are integers, so a value is exact to the rounding of the masses: 1e-16 a
// node times the largest cost, 1e-12 at most on these grids; and the certificate to one rounding of a double.
constexpr double kExact = 1e-12;

void expect_certified(const TransportResult& result) {
  EXPECT_NEAR(result.certificate_gap(), 0, 1e-15 + 1e-14 * result.w2_squared);
}

double checked_w2(const std::vector<double>& a, const std::vector<double>& b, const Grid& grid) {
  const auto result = w2_squared(a, b, grid);
  expect_certified(result);
  return result.w2_squared;
}

std::vector<double> random_weights(std::int64_t n, unsigned seed, double empty = 0.3) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform;
  std::vector<double> weights(n * n);
  for (double& w : weights) w = uniform(generator) < empty ? 0 : uniform(generator);
  weights[0] += 0.1;
  return weights;
}

std::vector<double> normalised(std::vector<double> weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& w : weights) w /= sum;
  return weights;
}

TEST(Transport, SinglePoints) {
  for (const std::int64_t n : {2, 7, 64}) {
    for (const Grid& grid : {Grid::within(2, n), Grid{.n = n, .x = {-1, 4}, .y = {0, 1.7}}}) {
      const double width = grid.x.high - grid.x.low, height = grid.y.high - grid.y.low;
      for (const std::int64_t from : {std::int64_t{0}, n - 1, n * n / 2}) {
        for (const std::int64_t to : {std::int64_t{0}, n * n - 1, n + 1}) {
          std::vector<double> a(n * n, 0.0), b(n * n, 0.0);
          a[from] = 3, b[to] = 0.2;
          const double dx = width * double(from % n - to % n) / double(n - 1),
                       dy = height * double(from / n - to / n) / double(n - 1);
          EXPECT_NEAR(checked_w2(a, b, grid), dx * dx + dy * dy, kExact);
        }
      }
    }
  }
}

TEST(Transport, ShiftsByWholeNodes) {
  const std::int64_t n = 19;
  for (const Grid& grid : {Grid{.n = n}, Grid{.n = n, .x = {2, 3}, .y = {-7, 0.1}}}) {
    const double hx = (grid.x.high - grid.x.low) / double(n - 1), hy = (grid.y.high - grid.y.low) / double(n - 1);
    for (const auto& [sx, sy] : {std::pair{0, 0}, {1, 0}, {0, -2}, {3, 5}}) {
      std::vector<double> a(n * n, 0.0), b(n * n, 0.0);
      std::mt19937 generator(3);
      for (int iy = 6; iy < 12; ++iy) {
        for (int ix = 6; ix < 12; ++ix) {
          a[n * iy + ix] = b[n * (iy + sy) + ix + sx] = std::uniform_real_distribution<double>()(generator);
        }
      }
      EXPECT_NEAR(checked_w2(a, b, grid), hx * hx * sx * sx + hy * hy * sy * sy, kExact);
    }
  }
}

// W2² on a line between weights at nodes: the quantile functions' distance.
double line_w2(std::vector<double> p, std::vector<double> q, double h) {
  p = normalised(p), q = normalised(q);
  double total = 0;
  for (std::size_t i = 0, j = 0; i < p.size() && j < q.size();) {
    const double moved = std::min(p[i], q[j]);
    total += moved * std::pow(h * (double(i) - double(j)), 2);
    p[i] -= moved, q[j] -= moved;
    if (p[i] <= q[j])
      ++i;
    else
      ++j;
  }
  return total;
}

TEST(Transport, ProductMeasuresAddTheirLines) {
  for (const std::int64_t n : {2, 7, 33}) {
    std::mt19937 generator(n);
    std::uniform_real_distribution<double> uniform;
    std::vector<std::vector<double>> line(4, std::vector<double>(n));
    for (auto& l : line) {
      for (double& w : l) w = uniform(generator);
    }
    std::vector<double> a(n * n), b(n * n);
    for (std::int64_t i = 0; i < n * n; ++i) {
      a[i] = line[0][i % n] * line[1][i / n];
      b[i] = line[2][i % n] * line[3][i / n];
    }
    // Of equal spacings, of one that is twice the other, of a ratio that no integers have, and of very different ones.
    for (const Grid& grid :
         {Grid{.n = n}, Grid{.n = n, .x = {-1, 4}, .y = {0, 10}},
          Grid{.n = n, .x = {0, std::sqrt(2.0)}, .y = {-1, 0.1}}, Grid{.n = n, .x = {-1e-3, 1e-3}, .y = {50, 90}}}) {
      const double hx = (grid.x.high - grid.x.low) / double(n - 1), hy = (grid.y.high - grid.y.low) / double(n - 1),
                   expected = line_w2(line[0], line[2], hx) + line_w2(line[1], line[3], hy);
      EXPECT_NEAR(checked_w2(a, b, grid), expected, 1e-12 * (1 + expected)) << grid.describe();
    }
  }
}

// Gaussians of one covariance differ by their shift; the grid's cells and its edge leave 1e-9 at six deviations and
// more than two nodes a deviation.
TEST(Transport, GaussianShift) {
  const Grid grid{.n = 64};
  const auto gaussian = [&](double mx, double my) {
    std::vector<double> w(64 * 64);
    for (int i = 0; i < 64 * 64; ++i) {
      const double x = -3.5 + 7.0 / 63 * (i % 64) - mx, y = -3.5 + 7.0 / 63 * (i / 64) - my;
      w[i] = std::exp(-(x * x + y * y) / (2 * 0.4 * 0.4));
    }
    return w;
  };
  const double h = 7.0 / 63;
  EXPECT_NEAR(checked_w2(gaussian(-3 * h, 0), gaussian(2 * h, 4 * h), grid), h * h * (25 + 16), 1e-8);
}

// The assignment problem by the Hungarian method (Kuhn 1955; Jonker and Volgenant's shortest augmenting paths), O(n³).
std::int64_t assignment(const std::vector<std::vector<std::int64_t>>& cost) {
  const int n = static_cast<int>(cost.size());
  const std::int64_t far = std::numeric_limits<std::int64_t>::max() / 2;
  std::vector<std::int64_t> u(n + 1), v(n + 1);
  std::vector<int> row_of(n + 1), way(n + 1);
  for (int i = 1; i <= n; ++i) {
    row_of[0] = i;
    int column = 0;
    std::vector<std::int64_t> least(n + 1, far);
    std::vector<char> used(n + 1);
    do {
      used[column] = 1;
      int next = 0;
      std::int64_t delta = far;
      for (int j = 1; j <= n; ++j) {
        if (used[j]) continue;
        const std::int64_t reduced = cost[row_of[column] - 1][j - 1] - u[row_of[column]] - v[j];
        if (reduced < least[j]) least[j] = reduced, way[j] = column;
        if (least[j] < delta) delta = least[j], next = j;
      }
      for (int j = 0; j <= n; ++j) {
        if (used[j])
          u[row_of[j]] += delta, v[j] -= delta;
        else
          least[j] -= delta;
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = way[column]) row_of[column] = row_of[way[column]];
  }
  return -v[0];
}

TEST(Transport, MatchesAssignmentOfUnitMasses) {
  for (const std::int64_t n : {2, 3, 5, 8}) {
    for (unsigned seed = 0; seed < 10; ++seed) {
      std::mt19937 generator(100 * unsigned(n) + seed);
      const int units = std::uniform_int_distribution<int>(1, 120)(generator);
      std::uniform_int_distribution<std::int64_t> node(0, n * n - 1);
      std::vector<double> a(n * n, 0.0), b(n * n, 0.0);
      std::vector<std::int64_t> from(units), to(units);
      for (auto& f : from) a[f = node(generator)] += 1;
      for (auto& t : to) b[t = std::min(node(generator), node(generator))] += 1;
      std::vector<std::vector<std::int64_t>> cost(units, std::vector<std::int64_t>(units));
      for (int i = 0; i < units; ++i) {
        for (int j = 0; j < units; ++j) {
          const std::int64_t dx = from[i] % n - to[j] % n, dy = from[i] / n - to[j] / n;
          cost[i][j] = dx * dx + dy * dy;
        }
      }
      const Grid grid = Grid::within(0.5 * double(n - 1), n);  // h = 1
      EXPECT_NEAR(checked_w2(a, b, grid), double(assignment(cost)) / units, kExact) << n << " " << seed;
    }
  }
}

// Steps of 0.2 and 0.5, whose squares are 4 dx² + 25 dy² hundredths.
TEST(Transport, MatchesAssignmentOnAxesOfTwoSpacings) {
  for (const std::int64_t n : {2, 5, 8}) {
    const double steps = double(n - 1);
    const Grid grid{.n = n, .x = {1, 1 + 0.2 * steps}, .y = {-0.5 * steps, 0}};
    for (unsigned seed = 0; seed < 10; ++seed) {
      std::mt19937 generator(100 * unsigned(n) + seed);
      const int units = std::uniform_int_distribution<int>(1, 60)(generator);
      std::uniform_int_distribution<std::int64_t> node(0, n * n - 1);
      std::vector<double> a(n * n, 0.0), b(n * n, 0.0);
      std::vector<std::int64_t> from(units), to(units);
      for (auto& f : from) a[f = node(generator)] += 1;
      for (auto& t : to) b[t = std::max(node(generator), node(generator))] += 1;
      std::vector<std::vector<std::int64_t>> cost(units, std::vector<std::int64_t>(units));
      for (int i = 0; i < units; ++i) {
        for (int j = 0; j < units; ++j) {
          const std::int64_t dx = from[i] % n - to[j] % n, dy = from[i] / n - to[j] / n;
          cost[i][j] = 4 * dx * dx + 25 * dy * dy;
        }
      }
      EXPECT_NEAR(checked_w2(a, b, grid), 0.01 * double(assignment(cost)) / units, kExact) << n << " " << seed;
    }
  }
}

// Spacings whose squares are further apart than the simplex's integers can be: what the narrow axis has counts for
// nothing there, and the certificate shows what that leaves open.
TEST(Transport, OfAxesOfVeryUnlikeSpacings) {
  const auto a = random_weights(7, 1), b = random_weights(7, 2);
  std::vector<double> in_x_a(7), in_x_b(7), turned_a(49), turned_b(49);
  for (int i = 0; i < 49; ++i) {
    in_x_a[i % 7] += a[i], in_x_b[i % 7] += b[i];
    turned_a[7 * (i % 7) + i / 7] = a[i], turned_b[7 * (i % 7) + i / 7] = b[i];
  }
  const double expected = line_w2(in_x_a, in_x_b, 2e9 / 6);
  const Interval wide{-1e9, 1e9}, narrow{0, 1};
  for (const TransportResult& result : {w2_squared(a, b, {.n = 7, .x = wide, .y = narrow}),
                                        w2_squared(turned_a, turned_b, {.n = 7, .x = narrow, .y = wide})}) {
    EXPECT_TRUE(agrees(result.w2_squared, expected, 1e-12));
    EXPECT_LT(std::abs(result.certificate_gap()), 1e-6 * expected);
  }
}

TEST(Transport, IsAMetric) {
  for (const std::int64_t n : {2, 7, 19}) {
    const Grid grid = Grid::within(1.25, n);
    const auto a = random_weights(n, 1), b = random_weights(n, 2, 0.8), c = random_weights(n, 3, 0.95);
    const double ab = checked_w2(a, b, grid), bc = checked_w2(b, c, grid), ac = checked_w2(a, c, grid);
    EXPECT_GT(ab, 0);
    EXPECT_NEAR(checked_w2(b, a, grid), ab, kExact);
    EXPECT_LE(std::sqrt(ac), std::sqrt(ab) + std::sqrt(bc) + 1e-9);
    EXPECT_EQ(checked_w2(a, a, grid), 0);
    // A quarter turn of both changes nothing.
    std::vector<double> turned_a(n * n), turned_b(n * n);
    for (std::int64_t i = 0; i < n * n; ++i) {
      const std::int64_t to = n * (i % n) + (n - 1 - i / n);
      turned_a[to] = a[i], turned_b[to] = b[i];
    }
    EXPECT_NEAR(checked_w2(turned_a, turned_b, grid), ab, kExact);
  }
}

TEST(Transport, WeightsOfAnyScale) {
  const Grid grid{.n = 7};
  auto a = random_weights(7, 5), b = random_weights(7, 6);
  const double expected = checked_w2(a, b, grid);
  for (double& w : a) w *= 1e300;
  for (double& w : b) w *= 1e-300;
  EXPECT_NEAR(checked_w2(a, b, grid), expected, kExact);
}

TEST(Transport, Refusals) {
  const std::vector<double> good(4, 1.0), zero(4, 0.0);
  const Grid grid{.n = 2};
  const auto with = [&](double v) { return std::vector<double>{1, v, 1, 1}; };
  EXPECT_THAT(message_of([&] { w2_squared(good, with(-1), grid); }), HasSubstr("weight 1 of the second is -1"));
  EXPECT_THAT(message_of([&] { w2_squared(with(kNan), good, grid); }), HasSubstr("weight 1 of the first is nan"));
  EXPECT_THAT(message_of([&] { w2_squared(with(kInfinity), good, grid); }), HasSubstr("weight 1 of the first is inf"));
  EXPECT_THAT(message_of([&] { w2_squared(zero, good, grid); }), HasSubstr("all weights of the first are 0"));
  EXPECT_THAT(message_of([&] { w2_squared(good, {1, 1, 1}, grid); }), HasSubstr("the second has 3"));
  EXPECT_THAT(message_of([&] { w2_squared(good, good); }), HasSubstr("needs 4096 weights a side, and the first has 4"));
  EXPECT_THAT(message_of([&] { w2_squared({1}, {1}, {.n = 1}); }), HasSubstr("2 to 1024 nodes a side, and 1 "));
  EXPECT_THAT(message_of([&] { w2_squared({}, {}, {.n = -3}); }), HasSubstr("and -3 were given"));
  EXPECT_THAT(message_of([&] { w2_squared({}, {}, {.n = 300}); }), HasSubstr("up to 256 nodes a side, and 300"));
  for (const Interval& bad : {Interval{1, 1},
                              {1, -1},
                              {kNan, 1},
                              {0, kNan},
                              {-kInfinity, 0},
                              {0, kInfinity},
                              {-1.7e308, 1.7e308},
                              {0, 1e-310}}) {
    EXPECT_THAT(message_of([&] { w2_squared(good, good, {.n = 2, .x = bad}); }),
                HasSubstr(fmt::format("a grid's box is from {} to {} in x; allowed: finite", bad.low, bad.high)));
    EXPECT_THAT(message_of([&] { w2_squared(good, good, {.n = 2, .y = bad}); }), HasSubstr("in y; allowed: finite"));
  }
}

// ---- between points

TransportResult of_points(const std::vector<float>& a, const std::vector<float>& b, std::int64_t d) {
  return w2_squared_of_points(cpu(), View<const float>(a, d), View<const float>(b, d));
}

std::vector<float> normals(std::int64_t n, std::int64_t d, unsigned seed, double shift = 0, double scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<float> x(n * d);
  for (float& v : x) v = static_cast<float>(shift + scale * normal(generator));
  return x;
}

double square_between(const std::vector<float>& a, std::int64_t i, const std::vector<float>& b, std::int64_t j,
                      std::int64_t d) {
  double square = 0;
  for (std::int64_t l = 0; l < d; ++l) square += std::pow(double(a[i * d + l]) - double(b[j * d + l]), 2);
  return square;
}

// The costs of the simplex are rounded to 2^−46 of the largest, so its plan and its dual are off by up to that, which the
// certificate shows; values are sums in long double of costs in double.
double rounding_of(const std::vector<float>& a, const std::vector<float>& b, std::int64_t d) {
  double largest = 0;
  for (std::int64_t i = 0; i < std::ssize(a) / d; ++i) {
    for (std::int64_t j = 0; j < std::ssize(b) / d; ++j) largest = std::max(largest, square_between(a, i, b, j, d));
  }
  return std::ldexp(largest, -45);
}

double checked_of_points(const std::vector<float>& a, const std::vector<float>& b, std::int64_t d) {
  const TransportResult result = of_points(a, b, d);
  const double rounding = rounding_of(a, b, d);
  EXPECT_NEAR(result.certificate_gap(), 0, rounding);
  EXPECT_GE(result.certificate_gap(), -1e-15 * result.w2_squared - 1e-2 * rounding);  // the dual is a lower bound
  return result.w2_squared;
}

// Each mass of 1/n goes to one of as many points: of all permutations the best.
TEST(TransportOfPoints, IsTheBestOfAllPermutations) {
  for (const std::int64_t n : {1, 2, 3, 5, 7}) {
    for (const std::int64_t d : {1, 2, 3, 19}) {
      for (unsigned seed = 0; seed < 3; ++seed) {
        const auto a = normals(n, d, 10 * seed + 1), b = normals(n, d, 10 * seed + 2, 0.5, 2);
        std::vector<std::int64_t> partner(n);
        std::iota(partner.begin(), partner.end(), 0);
        double best = kInfinity;
        do {
          double total = 0;
          for (std::int64_t i = 0; i < n; ++i) total += square_between(a, i, b, partner[i], d);
          best = std::min(best, total / double(n));
        } while (std::next_permutation(partner.begin(), partner.end()));
        EXPECT_NEAR(checked_of_points(a, b, d), best, rounding_of(a, b, d) + 1e-14 * best) << n << " in " << d;
      }
    }
  }
}

// Where the numbers of points differ, a point counts as so many copies that both sides have as many.
TEST(TransportOfPoints, OfUnequalNumbersIsThatOfCopies) {
  for (const auto& [n, m] : {std::pair{1, 7}, {7, 1}, {2, 3}, {6, 4}, {4, 6}, {3, 6}}) {
    const auto a = normals(n, 2, 3), b = normals(m, 2, 4, 1);
    const int all = std::lcm(n, m);
    const double scale = 1e6;  // costs in integers for the Hungarian method, to 1e-6
    std::vector<std::vector<std::int64_t>> cost(all, std::vector<std::int64_t>(all));
    for (int i = 0; i < all; ++i) {
      for (int j = 0; j < all; ++j) cost[i][j] = std::llround(scale * square_between(a, i % n, b, j % m, 2));
    }
    EXPECT_NEAR(checked_of_points(a, b, 2), double(assignment(cost)) / scale / all, 1e-6) << n << " and " << m;
  }
}

// On a line the plan that keeps the order is the best one: both quantile functions on n m cells.
TEST(TransportOfPoints, OnALineKeepsTheOrder) {
  for (const auto& [n, m] : {std::pair{1, 1}, {19, 19}, {99, 99}, {19, 99}, {99, 7}, {80, 127}}) {
    const auto a = normals(n, 1, 5), b = normals(m, 1, 6, 0.3, 1.7);
    auto p = a, q = b;
    std::sort(p.begin(), p.end()), std::sort(q.begin(), q.end());
    long double expected = 0;
    for (int cell = 0; cell < n * m; ++cell) {
      const long double difference = static_cast<long double>(p[cell / m]) - q[cell / n];
      expected += difference * difference / (n * m);
    }
    EXPECT_NEAR(checked_of_points(a, b, 1), double(expected), rounding_of(a, b, 1) + 1e-14 * double(expected));
  }
}

// A shift is its own best plan. Floats of the moved points round to 2^−24 of numbers below 8.
TEST(TransportOfPoints, OfAShiftIsItsSquare) {
  for (const std::int64_t n : {1, 19, 99, 300}) {
    const auto a = normals(n, 3, 7);
    auto b = a;
    for (std::size_t i = 0; i < b.size(); ++i) b[i] += i % 3 == 0 ? 0.5f : i % 3 == 1 ? -1.25f : 2.0f;
    std::reverse(b.begin(), b.end());
    for (std::int64_t i = 0; i < n; ++i) std::swap(b[3 * i], b[3 * i + 2]);  // the points in another order
    EXPECT_NEAR(checked_of_points(a, b, 3), 0.25 + 1.5625 + 4, 1e-5) << n;
    EXPECT_EQ(checked_of_points(a, a, 3), 0) << n;
  }
}

TEST(TransportOfPoints, HasAtMostItsShareAlongADirection) {
  // The sliced distance in d dimensions is at most W2²/d: a plan's moves have that mean square along a direction. 4096
  // directions err by some percent.
  const auto a = normals(99, 2, 1), b = normals(80, 2, 2, 0.4, 0.5);
  const double sliced = sliced_w2_squared(cpu(), View<const float>(a, 2), View<const float>(b, 2), 4096);
  EXPECT_LT(sliced, 1.05 * checked_of_points(a, b, 2) / 2);
}

TEST(TransportOfPoints, OfAnyScaleAndOfOnePlace) {
  const auto a = normals(19, 2, 1), b = normals(7, 2, 2);
  const double expected = checked_of_points(a, b, 2);
  for (const int power : {-60, 60}) {
    auto p = a, q = b;
    for (float& v : p) v = std::ldexp(v, power);
    for (float& v : q) v = std::ldexp(v, power);
    EXPECT_EQ(checked_of_points(p, q, 2), std::ldexp(expected, 2 * power));
  }
  const std::vector<float> one(2 * 5, 0.3f), same(2 * 3, 0.3f);
  EXPECT_EQ(of_points(one, same, 2).w2_squared, 0);
  EXPECT_EQ(of_points(one, same, 2).dual_value, 0);
}

TEST(TransportOfPoints, LeavesOutWhatIsNotFiniteAndDoesNotDependOnTheThreads) {
  auto a = normals(99, 2, 1);
  const auto b = normals(19, 2, 2);
  const double expected = checked_of_points(a, b, 2);
  const float nan = float(kNan), inf = float(kInfinity);
  a.insert(a.begin() + 20, {nan, 1.0f, 2.0f, -inf});
  EXPECT_EQ(of_points(a, b, 2).w2_squared, expected);
  const Context three({.backend = BackendKind::cpu, .threads = 3});
  EXPECT_EQ(w2_squared_of_points(three, View<const float>(a, 2), View<const float>(b, 2)).w2_squared, expected);
}

TEST(TransportOfPoints, Refusals) {
  const std::vector<float> a{1, 2}, bad{float(kNan), 1};
  const View<const float> here(a, 2);
  const auto refusal = [&](const View<const float>& p, const View<const float>& q) {
    return message_of([&] { w2_squared_of_points(cpu(), p, q); });
  };
  EXPECT_THAT(refusal(View<const float>(a, 1), here), HasSubstr("one dimension, 1 or more, and 1 and 2 were given"));
  EXPECT_THAT(refusal(View<const float>(a.data(), 2, 0), View<const float>(a.data(), 2, 0)), HasSubstr("and 0 and 0"));
  EXPECT_THAT(refusal(View<const float>(a.data(), 5793, 2), View<const float>(a.data(), 5793, 2)),
              HasSubstr("of 5793 and 5793 points; allowed: numbers whose product is up to 33554432, as 5792 each"));
  EXPECT_THAT(refusal(here, View<const float>(bad, 2)), HasSubstr("on both sides, and the second has none"));
  EXPECT_THAT(refusal(View<const float>(nullptr, 0, 2), here), HasSubstr("on both sides, and the first has none"));
  EXPECT_THAT(refusal(View<const float>(a.data(), 1, 2, Device::cuda), here),
              HasSubstr("first set of points is on device cuda"));
  EXPECT_THAT(refusal(here, View<const float>(nullptr, 3, 2)), HasSubstr("no data"));
  EXPECT_THAT(refusal(here, View<const float>(a.data(), -1, 2)), HasSubstr("[-1, 2]"));
}

struct PublishedRow {
  const char *data, *weight;
  double ode_sde, ode_truth, sde_truth;
};

void PrintTo(const PublishedRow& row, std::ostream* out) { *out << row.data << " w " << row.weight; }

class PublishedHistograms : public ::testing::TestWithParam<PublishedRow> {};

TEST_P(PublishedHistograms, ReproduceTheirTable) {
  const std::string folder = testing::paper_data();
  if (folder.empty()) return;
  const PublishedRow row = GetParam();
  const auto load = [&](const std::string& name) {
    return load_array(folder + "/histograms/" + row.data + name + ".npy").data;
  };
  const auto ode = load(std::string("_w") + row.weight + "_ode"), sde = load(std::string("_w") + row.weight + "_sde");
  const auto truth = load("_truth");
  // Five decimals, of values whose masses had been rounded to 1e-9: that moves W2² by up to 2e-7 (blob, w 10, ODE–truth
  // is 0.01722492 here and 0.01722506 from rounded masses, so it is printed as 0.01723).
  const double printed = 5e-6 + 2e-7;
  EXPECT_NEAR(checked_w2(ode, sde, {}), row.ode_sde, printed);
  EXPECT_NEAR(checked_w2(ode, truth, {}), row.ode_truth, printed);
  EXPECT_NEAR(checked_w2(sde, truth, {}), row.sde_truth, printed);
}

INSTANTIATE_TEST_SUITE_P(Table, PublishedHistograms,
                         ::testing::Values(PublishedRow{"blob", "0.0", 0.01160, 0.01097, 0.00218},
                                           PublishedRow{"blob", "0.1", 0.00311, 0.00604, 0.00294},
                                           PublishedRow{"blob", "1.0", 0.00290, 0.00528, 0.00427},
                                           PublishedRow{"blob", "10.0", 0.00221, 0.01723, 0.01599},
                                           PublishedRow{"checker", "0.0", 0.02720, 0.02442, 0.00368},
                                           PublishedRow{"checker", "0.1", 0.00716, 0.01139, 0.00539},
                                           PublishedRow{"checker", "1.0", 0.00353, 0.01143, 0.01155},
                                           PublishedRow{"checker", "10.0", 0.00210, 0.03305, 0.03216}));

TEST(Histogram, CountsNearestNodesAndLeavesOutTheRest) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const float edge = 3.5f, within = std::nextafter(3.5f, 0.0f);
  const std::vector<float> samples{edge,   0,       -edge,   0,      0,    edge,  0,     -edge, nan,
                                   0,      0,       nan,     inf,    0,    0,     -inf,  7e4f,  0,  // outside: 9
                                   within, -within, -within, within, 0.2f, -0.2f, -1.7f, 1.8f};
  const auto h = histogram(cpu(), View<const float>(samples, 2), {.n = 8});  // h = 1: nodes at −3.5, −2.5, …
  EXPECT_EQ(h.inside, 4);
  EXPECT_EQ(h.outside, 9);
  EXPECT_DOUBLE_EQ(h.escaped(), 9.0 / 13);
  std::vector<double> expected(64, 0.0);
  expected[7] = expected[8 * 7] = 0.25;
  expected[8 * 3 + 4] = 0.25;  // (0.2, −0.2) → (0.5, −0.5)
  expected[8 * 5 + 2] = 0.25;  // (−1.7, 1.8) → (−1.5, 1.5)
  EXPECT_EQ(h.weights, expected);
}

// The same counts on axes of other limits, where samples are moved and stretched as these are.
TEST(Histogram, HasLimitsOfItsOwnOnEachAxis) {
  std::vector<float> samples = {2.0f, 0.1f, -0.9f, 9.9f, 3.99f, 5, -1, 5, 4, 5, 1, 0, 1, 10, 5, 5, 1.5f, -1};
  const Grid grid{.n = 6, .x = {-1, 4}, .y = {0, 10}};  // nodes at −1, 0, … 4 and 0, 2, … 10
  const Histogram h = histogram(cpu(), View<const float>(samples, 2), grid);
  EXPECT_EQ(h.inside, 3);  // the edges are outside
  EXPECT_EQ(h.outside, 6);
  std::vector<double> expected(36, 0.0);
  expected[6 * 0 + 3] = expected[6 * 5 + 0] = expected[6 * 3 + 5] = 1.0 / 3;  // 5 is between 4 and 6, and goes up
  EXPECT_EQ(h.weights, expected);
  EXPECT_DOUBLE_EQ(grid.at(0, 3), 2);
  EXPECT_DOUBLE_EQ(grid.at(1, 2.5), 5);
  EXPECT_EQ(grid.describe(), "6 nodes a side on [-1, 4] × [0, 10]");
  EXPECT_EQ(Grid::within(3.5), Grid());
}

// Masses ¼ and ¾ on nodes a spacing apart in x and two in y: variances 3/16 and 4 · 3/16.
TEST(Histogram, DeviationIsThatOfItsNodes) {
  Histogram h{.grid = {.n = 8, .x = {0, 70}}, .weights = std::vector<double>(64)};
  EXPECT_EQ(h.deviation_in_spacings(), 0);
  h.weights[8 * 2 + 3] = 0.25;
  h.weights[8 * 4 + 4] = 0.75;
  EXPECT_NEAR(h.deviation_in_spacings(), std::sqrt(15.0 / 16), 1e-14);  // of sums of three numbers below 16
}

TEST(Histogram, EmptyAndAllOutside) {
  const auto empty = histogram(cpu(), View<const float>(nullptr, 0, 2));
  EXPECT_EQ(empty.inside + empty.outside, 0);
  EXPECT_EQ(empty.escaped(), 0);
  EXPECT_EQ(empty.weights, std::vector<double>(4096, 0.0));
  const std::vector<float> far{5, 5};
  const auto gone = histogram(cpu(), View<const float>(far, 2));
  EXPECT_EQ(gone.escaped(), 1);
  EXPECT_EQ(gone.weights, std::vector<double>(4096, 0.0));
  EXPECT_THAT(message_of([&] { histogram(cpu(), View<const float>(far, 1)); }),
              HasSubstr("the set of samples has shape [2, 1]; allowed here: [2, 2]"));
  EXPECT_THAT(message_of([&] { histogram(cpu(), View<const float>(nullptr, 3, 2)); }), HasSubstr("[3, 2] has no data"));
  EXPECT_THAT(message_of([&] { histogram(cpu(), View<const float>(far.data(), -1, 2)); }), HasSubstr("[-1, 2]"));
  EXPECT_THAT(message_of([&] { histogram(cpu(), View<const float>(far.data(), 1, 2, Device::cuda)); }),
              HasSubstr("on device cuda; allowed here: cpu"));
}

TEST(CountEscaped, CountsWhatHasACoordinateOutside) {
  const float nan = float(kNan), inf = float(kInfinity), within = std::nextafter(3.5f, 0.0f);
  const std::vector<float> samples{3.5f,   0,       -3.5f, 0, 0, 3.5f, nan,  0,
                                   0,      nan,     inf,   0, 0, -inf, 7e4f, 0,  // outside: 8
                                   within, -within, -1,    1};
  const View<const float> view(samples, 2);
  EXPECT_EQ(count_escaped(cpu(), view, 3.5), 8);
  EXPECT_EQ(count_escaped(cpu(), view), 4);
  EXPECT_EQ(count_escaped(cpu(), View<const float>(samples, 4), 3.5), 4);
  EXPECT_EQ(count_escaped(cpu(), View<const float>(samples, 5), 3.5), 3);
  EXPECT_EQ(count_escaped(cpu(), View<const float>(nullptr, 0, 2), 3.5), 0);
  EXPECT_EQ(histogram(cpu(), view).outside, 8);
  for (const double half_width : {0.0, -1.0, kNan}) {
    EXPECT_THAT(message_of([&] { count_escaped(cpu(), view, half_width); }), HasSubstr("must be positive"));
  }
  EXPECT_THAT(message_of([&] { count_escaped(cpu(), View<const float>(samples.data(), 2, 0)); }), HasSubstr("[2, 0]"));
  EXPECT_THAT(message_of([&] { count_escaped(cpu(), View<const float>(samples.data(), 2, 2, Device::cuda)); }),
              HasSubstr("on device cuda; allowed here: cpu"));
}

TEST(SampleHealth, CountsWhatIsNotFiniteAndWhatIsFarOut) {
  const float nan = float(kNan), inf = float(kInfinity);
  const std::vector<float> samples{0, 1, nan, 0, 1, -inf, 1e30f, 0, 0, -35.5f, 34, -34, nan, 1e30f};
  const View<const float> view(samples, 2);
  const SampleHealth health = sample_health(cpu(), view, 35);
  EXPECT_EQ(health.count, 7);
  EXPECT_EQ(health.not_finite, 3);
  EXPECT_EQ(health.far_out, 2);
  EXPECT_EQ(health.far, 35);
  EXPECT_DOUBLE_EQ(health.lost(), 5.0 / 7);
  EXPECT_EQ(sample_health(cpu(), view).not_finite, 3);
  EXPECT_EQ(sample_health(cpu(), view).far_out, 0);
  EXPECT_EQ(sample_health(cpu(), View<const float>(nullptr, 0, 2), 35).lost(), 0);
  EXPECT_THAT(message_of([&] { sample_health(cpu(), view, 0); }), HasSubstr("must be positive"));
}

// Around the mean, so nothing cancels though it is 1000 deviations away; sums of 1000 terms in double.
TEST(SampleMoments, OfTheFiniteSamples) {
  for (const std::int64_t n : {1, 19, 99, 989}) {
    for (const std::int64_t d : {1, 2, 3, 19}) {
      auto x = normals(n, d, 6, 1000);
      std::vector<long double> mean(d, 0), covariance(d * d, 0);
      for (std::int64_t i = 0; i < n * d; ++i) mean[i % d] += static_cast<long double>(x[i]) / n;
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < d; ++j) {
          for (std::int64_t l = 0; l < d; ++l) {
            covariance[j * d + l] += (x[i * d + j] - mean[j]) * (x[i * d + l] - mean[l]) / n;
          }
        }
      }
      std::vector<float> bad(2 * d, 1.0f);
      bad[d - 1] = float(kNan), bad[d] = float(-kInfinity);
      x.insert(x.begin() + n / 2 * d, bad.begin(), bad.end());
      SCOPED_TRACE(::testing::Message() << n << " samples in " << d << " dimensions");
      const Moments actual = moments(cpu(), View<const float>(x, d));
      EXPECT_EQ(actual.count, n);
      EXPECT_EQ(actual.left_out, 2);
      EXPECT_TRUE(agrees(actual.mean, mean, Bound{.relative = 1e-13, .norm = 1e-13}));
      // The mean's rounding, 1e-13 of it, is 1e-10 of a deviation and enters squared.
      EXPECT_TRUE(agrees(actual.covariance, covariance, Bound{.of_rms = 1e-12, .norm = 1e-12, .absolute = 1e-20}));
      const Context three({.backend = BackendKind::cpu, .threads = 3});
      EXPECT_EQ(moments(three, View<const float>(x, d)).covariance, actual.covariance);
    }
  }
}

TEST(SampleMoments, NoneAndRefusals) {
  const std::vector<float> bad{float(kNan), 1};
  const Moments none = moments(cpu(), View<const float>(bad, 2));
  EXPECT_EQ(none.count, 0);
  EXPECT_EQ(none.left_out, 1);
  EXPECT_EQ(none.mean, (std::vector<double>{0, 0}));
  EXPECT_EQ(none.covariance, std::vector<double>(4, 0.0));
  EXPECT_EQ(moments(cpu(), View<const float>(nullptr, 0, 3)).covariance, std::vector<double>(9, 0.0));
  EXPECT_THAT(message_of([&] { moments(cpu(), View<const float>(bad.data(), 1, 0)); }),
              HasSubstr("in 0 dimensions; allowed: 1 to 4096"));
  EXPECT_THAT(message_of([&] { moments(cpu(), View<const float>(nullptr, 0, 4097)); }),
              HasSubstr("in 4097 dimensions"));
  EXPECT_THAT(message_of([&] { moments(cpu(), View<const float>(bad.data(), 1, 2, Device::cuda)); }),
              HasSubstr("on device cuda; allowed here: cpu"));
}

// A shift δ of the same samples moves every projection by δ·θ: the mean over directions is |δ|²/d.
TEST(SlicedW2, ShiftIsItsMeanSquaredProjection) {
  for (const std::int64_t d : {1, 2, 5}) {
    const auto a = normals(989, d, 1);
    auto b = a;
    for (float& v : b) v += 0.5f;
    const int projections = 4096;
    // (δ·θ)² for uniform θ has variance 2 |δ|⁴ (d − 1)/(d² (d + 2)); floats of b round to 1e-7.
    const double square = 0.25 * double(d), mean = square / double(d);
    const double deviation = square * std::sqrt(2.0 * double(d - 1) / double(d * d * (d + 2)) / projections);
    EXPECT_NEAR(sliced_w2_squared(cpu(), View<const float>(a, d), View<const float>(b, d), projections, 3), mean,
                5 * deviation + 1e-6);
  }
}

TEST(SlicedW2, GaussiansOfTwoWidths) {
  // N(0, I) and N(0, 4 I): (2 − 1)² in every direction. Samples of 20 000 fluctuate by a few 1/√n.
  const auto a = normals(20000, 3, 1), b = normals(20000, 3, 2, 0, 2);
  EXPECT_NEAR(sliced_w2_squared(cpu(), View<const float>(a, 3), View<const float>(b, 3), 64), 1,
              5 * 2 / std::sqrt(20000.0));
}

TEST(SlicedW2, UnequalSizesByTheQuantileIntegral) {
  for (const auto& [n, m] : {std::pair{1, 1}, {1, 19}, {19, 1}, {19, 99}, {6, 4}, {99, 99}}) {
    const auto a = normals(n, 1, 5), b = normals(m, 1, 6, 0.3, 1.7);
    auto p = a, q = b;
    std::sort(p.begin(), p.end()), std::sort(q.begin(), q.end());
    // Both quantile functions are constant on the n m cells of this grid.
    double expected = 0;
    for (int cell = 0; cell < n * m; ++cell) expected += std::pow(double(p[cell / m]) - double(q[cell / n]), 2);
    EXPECT_TRUE(
        agrees(sliced_w2_squared(cpu(), View<const float>(a), View<const float>(b), 3), expected / (n * m), 1e-12));
  }
}

TEST(SlicedW2, LeavesOutWhatIsNotFiniteAndIsDeterministic) {
  auto a = normals(99, 2, 5), b = normals(80, 2, 6);
  const auto value = [&] { return sliced_w2_squared(cpu(), View<const float>(a, 2), View<const float>(b, 2), 19, 8); };
  const double expected = value();
  EXPECT_EQ(value(), expected);
  EXPECT_NE(sliced_w2_squared(cpu(), View<const float>(a, 2), View<const float>(b, 2), 19, 9), expected);
  EXPECT_TRUE(
      agrees(sliced_w2_squared(cpu(), View<const float>(b, 2), View<const float>(a, 2), 19, 8), expected, 1e-12));
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  a.insert(a.begin() + 20, {nan, 1.0f, 2.0f, inf});
  EXPECT_EQ(value(), expected);
  EXPECT_EQ(sliced_w2_squared(cpu(), View<const float>(a, 2), View<const float>(a, 2)), 0);
}

TEST(SlicedW2, Refusals) {
  const std::vector<float> a{1, 2}, bad{std::numeric_limits<float>::quiet_NaN(), 1};
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), View<const float>(a, 1), View<const float>(a, 2)); }),
              HasSubstr("one dimension, 1 to 262144, and 1 and 2"));
  const View<const float> broad(a.data(), 1, 262145), many(a.data(), std::int64_t{1} << 32, 1);
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), broad, broad); }), HasSubstr("and 262145 and 262145"));
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), many, many); }),
              HasSubstr("of 4294967296 and 4294967296 samples; allowed: numbers whose product is below 2^63"));
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), View<const float>(a, 2), View<const float>(bad, 2)); }),
              HasSubstr("the second has none"));
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), View<const float>(nullptr, 0, 2), View<const float>(a, 2)); }),
              HasSubstr("the first has none"));
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), View<const float>(a, 2), View<const float>(a, 2), 0); }),
              HasSubstr("projections of the sliced W2 is 0; allowed: 1 to 1000000"));
  const View<const float> there(a.data(), 1, 2, Device::cuda), here(a, 2);
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), there, here); }),
              HasSubstr("first set of samples is on device cuda"));
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), here, there); }),
              HasSubstr("second set of samples is on device cuda"));
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), View<const float>(nullptr, 3, 2), here); }),
              HasSubstr("no data"));
  EXPECT_THAT(message_of([&] { sliced_w2_squared(cpu(), View<const float>(a.data(), -1, 2), here); }),
              HasSubstr("[-1, 2]"));
}

TEST(SlicedW2, DoesNotDependOnTheThreads) {
  const auto a = normals(989, 3, 5), b = normals(99, 3, 6);
  const auto with = [&](int threads) {
    const Context context({.backend = BackendKind::cpu, .threads = threads});
    return sliced_w2_squared(context, View<const float>(a, 3), View<const float>(b, 3), 19, 8);
  };
  EXPECT_EQ(with(1), with(3));
}

TEST(NoiseFloor, FallsWithTheNumberOfSamples) {
  const auto blob = DataSet::named("blob");
  const double small = noise_floor(cpu(), blob, 1000, 1), large = noise_floor(cpu(), blob, 16000, 1);
  EXPECT_GT(large, 0);
  EXPECT_LT(large, small / 2);
  EXPECT_EQ(noise_floor(cpu(), blob, 1000, 1), small);
  EXPECT_NE(noise_floor(cpu(), blob, 1000, 2), small);
}

// On a line, sliced W2² of two draws is the mean square of the differences of their order statistics. Against 200 such
// pairs drawn here: outside what they span with probability 2/201, outside twice that span much less.
TEST(NoiseFloor, IsSlicedInOtherDimensions) {
  const auto line = DataSet::mixture(GaussianMixture::isotropic(1, {1}, {0}, {1}));
  const std::int64_t n = 1000;
  double least = kInfinity, most = 0;
  for (unsigned pair = 0; pair < 200; ++pair) {
    auto a = normals(n, 1, 100 + 2 * pair), b = normals(n, 1, 101 + 2 * pair);
    std::sort(a.begin(), a.end()), std::sort(b.begin(), b.end());
    double square = 0;
    for (std::int64_t i = 0; i < n; ++i) square += std::pow(double(a[i]) - double(b[i]), 2) / double(n);
    least = std::min(least, square), most = std::max(most, square);
  }
  const double floor = noise_floor(cpu(), line, 1000, 3);
  EXPECT_GT(floor, least / 2);
  EXPECT_LT(floor, 2 * most);
  EXPECT_THAT(message_of([&] { noise_floor(cpu(), line, 0, 3); }), HasSubstr("at least one sample, and 0"));
  EXPECT_EQ(noise_floor(cpu(), line, 100, 3,
                        [](View<const float> a, View<const float> b) { return double(a.rows + b.rows); }),
            200);
  const auto away = DataSet::mixture(GaussianMixture::isotropic(2, {1}, {50, 50}, {1}));
  EXPECT_THAT(message_of([&] { noise_floor(cpu(), away, 10, 3); }), HasSubstr("none of 10 fell there"));
}

}  // namespace
}  // namespace fokker
