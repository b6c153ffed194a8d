// Distances between sets of samples, exact ones by the network simplex: masses and costs are integers, so that the flow
// of least cost and its potentials are exact.
//
// W2² between two histograms on one n × n grid is the smallest Σ π_ij |x_i − y_j|². Squared distance is separable, so
// mass may move first in x and then in y: a min-cost flow on three layers of nodes
//   a(ix, iy) → mid(jx, iy) → b(jx, jy),   arc costs h_x² (ix − jx)² and h_y² (iy − jy)²,
// with at most 2n³ arcs instead of n⁴; nodes without mass, and what cannot be reached from mass, are left out. The
// simplex has p and q for h_x² and h_y², integers of nearly their ratio, and 1 and 1 where the spacings are equal. The
// potentials v of b give the certificate:
//   w(jx, iy) = min_jy h_y² (iy − jy)² − v(jx, jy),   u(ix, iy) = min_jx h_x² (ix − jx)² + w(jx, iy)
// is the largest u with u_i + v_j ≤ |x_i − y_j|² for all pairs, so Σ u a + Σ v b bounds W2² from below whatever the
// simplex did.
//
// Between two sets of points the arcs are all pairs, whose costs are rounded for the simplex; u_i = min_j |x_i − y_j|² − v_j.
#include "fokker/transport.hpp"

#include <fmt/format.h>
#include <lemon/network_simplex.h>
#include <lemon/static_graph.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "core/check.hpp"
#include "core/operations.hpp"
#include "core/parallel.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/philox.hpp"

namespace fokker {

void Grid::validate() const {
  if (n < 2 || n > 1024) throw Error(fmt::format("a grid needs 2 to 1024 nodes a side, and {} were given", n));
  for (const int axis : {0, 1}) {
    const auto& [low, high] = limits(axis);
    if (std::isfinite(low) && std::isfinite(high) && std::isnormal(spacing(axis)) && low < high) continue;
    throw Error(
        fmt::format("a grid's box is from {} to {} in {}; allowed: finite limits, of which the second is above "
                    "the first",
                    low, high, axis == 0 ? "x" : "y"));
  }
}

std::string Grid::describe() const {
  return fmt::format("{} nodes a side on [{}, {}] × [{}, {}]", n, x.low, x.high, y.low, y.high);
}

Histogram histogram(const Context& context, View<const float> samples, const Grid& grid) {
  grid.validate();
  check_view("the set of samples", samples, any_rows, 2, context.device());
  Histogram result{.grid = grid, .weights = std::vector<double>(grid.n * grid.n, 0.0)};
  if (samples.rows == 0) return result;
  const std::vector<std::int64_t> counts = context.backend().histogram(samples, grid);
  result.inside = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  result.outside = samples.rows - result.inside;
  if (result.inside == 0) return result;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    result.weights[i] = static_cast<double>(counts[i]) / static_cast<double>(result.inside);
  }
  return result;
}

std::int64_t count_escaped(const Context& context, View<const float> samples, double half_width) {
  if (!(half_width > 0)) {
    throw Error(fmt::format("the half width of a box must be positive, and {} was given", half_width));
  }
  check_view("the set of samples", samples, any_rows, std::max<std::int64_t>(samples.columns, 1), context.device());
  if (samples.rows == 0) return 0;
  return context.backend().count_escaped(samples, half_width);
}

double Histogram::deviation_in_spacings() const {
  double mean[2] = {}, square = 0;
  const auto node = [&](std::size_t i, int axis) {
    return double(axis == 0 ? std::int64_t(i) % grid.n : std::int64_t(i) / grid.n);
  };
  for (const int axis : {0, 1}) {
    for (std::size_t i = 0; i < weights.size(); ++i) mean[axis] += weights[i] * node(i, axis);
  }
  for (const int axis : {0, 1}) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      square += weights[i] * (node(i, axis) - mean[axis]) * (node(i, axis) - mean[axis]);
    }
  }
  return std::sqrt(square);
}

SampleHealth sample_health(const Context& context, View<const float> samples, double far) {
  const std::int64_t outside = count_escaped(context, samples, far);
  const std::int64_t not_finite = std::isinf(far) ? outside : count_escaped(context, samples);
  return {.count = samples.rows, .not_finite = not_finite, .far_out = outside - not_finite, .far = far};
}

Moments moments(const Context& context, View<const float> samples) {
  const std::int64_t d = samples.columns;
  if (d < 1 || d > 4096) throw Error(fmt::format("moments of samples in {} dimensions; allowed: 1 to 4096", d));
  check_view("the set of samples", samples, any_rows, d, context.device());
  if (samples.rows > 0) return context.backend().moments(samples);
  return {.mean = std::vector<double>(d, 0.0), .covariance = std::vector<double>(d * d, 0.0)};
}

namespace {

// Masses are integers with this sum, so that both sides are exactly equal: 2^60 leaves a rounding of 2^−61 a node, less
// than that of the doubles they come from.
constexpr std::int64_t total_mass = std::int64_t{1} << 60;

std::vector<std::int64_t> integer_masses(const std::vector<double>& weights, const Grid& grid, const char* name) {
  if (static_cast<std::int64_t>(weights.size()) != grid.n * grid.n) {
    throw Error(fmt::format("W2 on a grid of {} × {} nodes needs {} weights a side, and {} has {}", grid.n, grid.n,
                            grid.n * grid.n, name, weights.size()));
  }
  double largest = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] >= 0) || !std::isfinite(weights[i])) {
      throw Error(
          fmt::format("W2 needs finite weights that are not negative, and weight {} of {} is {}", i, name, weights[i]));
    }
    if (weights[i] > largest) largest = weights[i], where = i;
  }
  if (largest == 0) throw Error(fmt::format("W2 needs mass on both sides, and all weights of {} are 0", name));
  long double sum = 0;
  for (const double w : weights) sum += w / largest;  // scaled, so that it neither overflows nor vanishes
  std::vector<std::int64_t> masses(weights.size());
  std::int64_t total = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    masses[i] = std::llround(weights[i] / largest / sum * total_mass);
    total += masses[i];
  }
  masses[where] += total_mass - total;
  return masses;
}

constexpr std::int64_t square(std::int64_t v) { return v * v; }

// LEMON's own maps sign in with their graph under a lock, which stays taken where that runs out of memory, and the next
// map waits for it without end. These are plain lists of values.
class Graph : public lemon::StaticDigraph {
  template <class Item, class V>
  class Map {
   public:
    using Key = Item;
    using Value = V;
    explicit Map(std::size_t size, const V& value) : values_(size, value) {}
    decltype(auto) operator[](const Item& item) { return values_[static_cast<std::size_t>(id(item))]; }
    decltype(auto) operator[](const Item& item) const { return values_[static_cast<std::size_t>(id(item))]; }

   private:
    std::vector<V> values_;
  };

 public:
  template <class V>
  struct NodeMap : Map<Node, V> {
    explicit NodeMap(const Graph& graph, const V& value = {}) : Map<Node, V>(graph.nodeNum(), value) {}
  };
  template <class V>
  struct ArcMap : Map<Arc, V> {
    explicit ArcMap(const Graph& graph, const V& value = {}) : Map<Arc, V>(graph.arcNum(), value) {}
  };
};

// The flow of least cost from nodes of positive supply to those of negative, whose sum is 0, through arcs without a
// capacity. Arcs go up by their sources, as a static graph wants them; cost_of(e) is that of arc e. The simplex adds
// costs along paths to 2^62, and its sums stay below 2^63 where those of a path stay below 2^60.
class CheapestFlow {
 public:
  template <class CostOf>
  CheapestFlow(const std::vector<std::int64_t>& supplies, const std::vector<std::pair<int, int>>& arcs,
               const CostOf& cost_of) {
    graph_.build(static_cast<int>(supplies.size()), arcs.begin(), arcs.end());
    Graph::ArcMap<std::int64_t> cost(graph_);
    for (std::size_t e = 0; e < arcs.size(); ++e) cost[graph_.arc(static_cast<int>(e))] = cost_of(e);
    Graph::NodeMap<std::int64_t> supply(graph_, 0);
    for (std::size_t i = 0; i < supplies.size(); ++i) supply[graph_.node(static_cast<int>(i))] = supplies[i];
    simplex_.emplace(graph_);
    simplex_->costMap(cost).supplyMap(supply);
    if (simplex_->run() != Simplex::OPTIMAL) throw Error("the network simplex found no plan between two sides");
  }

  std::int64_t amount(std::size_t arc) const { return simplex_->flow(graph_.arc(static_cast<int>(arc))); }
  std::int64_t potential(int node) const { return simplex_->potential(graph_.node(node)); }

 private:
  using Simplex = lemon::NetworkSimplex<Graph, std::int64_t, std::int64_t>;
  Graph graph_;
  std::optional<Simplex> simplex_;
};

// The integers from 1 to `most` whose ratio is the last convergent of the continued fraction of `ratio`, which is off by
// less than 1/(p q) of it where `ratio` is neither above `most` nor below its inverse, and not at all where they can be.
std::pair<std::int64_t, std::int64_t> integer_ratio(long double ratio, std::int64_t most) {
  const auto limit = static_cast<long double>(most);
  long double rest = std::clamp(ratio, 1 / limit, limit);
  std::int64_t p = 1, q = 0, p_before = 0, q_before = 1;
  while (true) {
    const long double whole = std::floor(rest);
    if (whole * p + p_before > limit || whole * q + q_before > limit) break;
    const auto times = static_cast<std::int64_t>(whole);
    p_before = std::exchange(p, times * p + p_before);
    q_before = std::exchange(q, times * q + q_before);
    if (rest == whole) break;
    rest = 1 / (rest - whole);
  }
  return {std::max<std::int64_t>(p, 1), std::max<std::int64_t>(q, 1)};
}

// The three layers; nodes are grid indices n·iy + ix. Costs are in units of which the wider spacing's square has its
// integer, p or q.
class GridTransport {
 public:
  GridTransport(std::vector<std::int64_t> a, std::vector<std::int64_t> b, const Grid& grid)
      : n_(grid.n), a_(std::move(a)), b_(std::move(b)) {
    // 2^60 over the nodes and over the squared number of steps: 2^42 over the latter, 2^26 for 256 nodes a side.
    const long double root = static_cast<long double>(grid.spacing(0)) / grid.spacing(1), ratio = root * root;
    std::tie(p_, q_) = integer_ratio(ratio, (std::int64_t{1} << 42) / square(n_ - 1));
    const int wider = ratio < 1 ? 1 : 0;
    const auto integer = static_cast<long double>(wider == 0 ? p_ : q_);
    x_weight_ = wider == 0 ? integer : integer * ratio;
    y_weight_ = wider == 0 ? integer / ratio : integer;
    unit_ = grid.spacing(wider) * grid.spacing(wider) / static_cast<double>(integer);
  }

  // The cost of a plan that is the cheapest by p and q, leaving the potentials of b in v_.
  double primal() {
    std::vector<char> row_has_a(n_), column_has_b(n_);
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      row_has_a[i / n_] |= a_[i] > 0;
      column_has_b[i % n_] |= b_[i] > 0;
    }
    // Nodes are numbered in the order of the layers, and arcs by their sources, as a static graph wants them.
    int nodes = 0;
    const auto number = [&](auto used) {
      std::vector<int> ids(n_ * n_, -1);
      for (std::int64_t i = 0; i < n_ * n_; ++i) {
        if (used(i)) ids[i] = nodes++;
      }
      return ids;
    };
    const auto a_id = number([&](std::int64_t i) { return a_[i] > 0; });
    const auto mid_id = number([&](std::int64_t i) { return row_has_a[i / n_] && column_has_b[i % n_]; });
    const auto b_id = number([&](std::int64_t i) { return b_[i] > 0; });
    std::vector<std::pair<int, int>> arcs;
    std::vector<std::int64_t> squares;  // of the steps of each arc
    const auto add = [&](int from, int to, std::int64_t steps) {
      if (to >= 0) arcs.emplace_back(from, to), squares.push_back(square(steps));
    };
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      for (std::int64_t jx = 0; a_id[i] >= 0 && jx < n_; ++jx) add(a_id[i], mid_id[i - i % n_ + jx], i % n_ - jx);
    }
    const std::size_t in_x = arcs.size();  // the arcs before it are in x, those after it in y
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      for (std::int64_t jy = 0; mid_id[i] >= 0 && jy < n_; ++jy) add(mid_id[i], b_id[n_ * jy + i % n_], i / n_ - jy);
    }
    std::vector<std::int64_t> supplies(nodes, 0);
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      if (a_id[i] >= 0) supplies[a_id[i]] = a_[i];
      if (b_id[i] >= 0) supplies[b_id[i]] = -b_[i];
    }
    const CheapestFlow flow(supplies, arcs, [&](std::size_t e) { return (e < in_x ? p_ : q_) * squares[e]; });
    v_.assign(n_ * n_, 0);
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      if (b_id[i] >= 0) v_[i] = flow.potential(b_id[i]);
    }
    long double x_moves = 0, y_moves = 0;
    for (std::size_t e = 0; e < squares.size(); ++e) {
      (e < in_x ? x_moves : y_moves) += static_cast<long double>(flow.amount(e)) * static_cast<long double>(squares[e]);
    }
    return unit_ * static_cast<double>((x_weight_ * x_moves + y_weight_ * y_moves) / total_mass);
  }

  // The value of the dual that v_ extends to.
  double dual() const {
    constexpr long double kFar = std::numeric_limits<long double>::infinity();
    std::vector<long double> w(n_ * n_, kFar);
    for (std::int64_t iy = 0; iy < n_; ++iy) {
      for (std::int64_t j = 0; j < n_ * n_; ++j) {
        long double& smallest = w[n_ * iy + j % n_];
        if (b_[j] == 0) continue;
        smallest = std::min(
            smallest, y_weight_ * static_cast<long double>(square(iy - j / n_)) - static_cast<long double>(v_[j]));
      }
    }
    long double value = 0;
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      if (b_[i] > 0) value += static_cast<long double>(b_[i]) * static_cast<long double>(v_[i]);
      if (a_[i] == 0) continue;
      long double u = kFar;
      for (std::int64_t jx = 0; jx < n_; ++jx) {
        u = std::min(u, x_weight_ * static_cast<long double>(square(i % n_ - jx)) + w[n_ * (i / n_) + jx]);
      }
      value += static_cast<long double>(a_[i]) * u;
    }
    return unit_ * static_cast<double>(value / total_mass);
  }

 private:
  std::int64_t n_, p_ = 1, q_ = 1;
  long double x_weight_ = 1, y_weight_ = 1;  // h_x² and h_y² in these units: p and q but for the rounding of one
  double unit_ = 1;
  std::vector<std::int64_t> a_, b_;
  std::vector<std::int64_t> v_;
};

}  // namespace

TransportResult w2_squared(const std::vector<double>& a, const std::vector<double>& b, const Grid& grid) {
  grid.validate();
  if (grid.n > 256) {
    throw Error(fmt::format("exact W2 is offered on grids of up to 256 nodes a side, and {} were given", grid.n));
  }
  auto supply = integer_masses(a, grid, "the first");
  auto demand = integer_masses(b, grid, "the second");
  GridTransport problem(std::move(supply), std::move(demand), grid);
  TransportResult result;
  result.w2_squared = problem.primal();
  result.dual_value = problem.dual();
  return result;
}

namespace {

// The rows that are finite, on the host.
std::vector<double> finite_points(const Context& context, View<const float> points, const char* name) {
  std::vector<float> all(static_cast<std::size_t>(points.size()));
  copy(context, points, View<float>(all.data(), points.rows, points.columns));
  context.synchronize();
  std::vector<double> finite;
  for (auto row = all.begin(); row != all.end(); row += points.columns) {
    if (std::all_of(row, row + points.columns, [](float v) { return std::isfinite(v); })) {
      finite.insert(finite.end(), row, row + points.columns);
    }
  }
  if (finite.empty()) {
    throw Error(fmt::format("W2 of points needs a finite point on both sides, and {} has none", name));
  }
  return finite;
}

}  // namespace

TransportResult w2_squared_of_points(const Context& context, View<const float> a, View<const float> b) {
  const std::int64_t d = a.columns;
  if (d != b.columns || d < 1) {
    throw Error(fmt::format("W2 compares points of one dimension, 1 or more, and {} and {} were given", d, b.columns));
  }
  check_view("the first set of points", a, any_rows, d, context.device());
  check_view("the second set of points", b, any_rows, d, context.device());
  constexpr std::int64_t most_pairs = std::int64_t{1} << 25;
  if (a.rows > 0 && b.rows > most_pairs / a.rows) {
    throw Error(fmt::format("exact W2 of {} and {} points; allowed: numbers whose product is up to {}, as 5792 each",
                            a.rows, b.rows, most_pairs));
  }
  const std::vector<double> x = finite_points(context, a, "the first"), y = finite_points(context, b, "the second");
  const std::int64_t n = std::ssize(x) / d, m = std::ssize(y) / d;
  std::vector<double> cost(static_cast<std::size_t>(n * m));
  parallel_for(context.threads(), n, [&](std::int64_t i, int) {
    for (std::int64_t j = 0; j < m; ++j) {
      double square = 0;
      for (std::int64_t l = 0; l < d; ++l) square += (x[i * d + l] - y[j * d + l]) * (x[i * d + l] - y[j * d + l]);
      cost[i * m + j] = square;
    }
  });
  const double largest = *std::max_element(cost.begin(), cost.end());
  if (largest == 0) return {};
  // A power of two, so that costs in few binary digits are not rounded. Paths alternate between the sides, so they have up
  // to twice as many arcs as the smaller has points: 2^13.5 costs of 2^46.
  const double unit = std::ldexp(1.0, std::ilogb(largest) - 45);

  // Masses of 1/n and 1/m in units of their common part.
  const std::int64_t common = std::gcd(n, m), mass = m / common, total = n * mass;
  std::vector<std::int64_t> supplies(static_cast<std::size_t>(n), mass);
  supplies.resize(static_cast<std::size_t>(n + m), -n / common);
  std::vector<std::pair<int, int>> arcs(cost.size());
  for (std::int64_t e = 0; e < n * m; ++e) arcs[e] = {static_cast<int>(e / m), static_cast<int>(n + e % m)};
  const CheapestFlow flow(supplies, arcs, [&](std::size_t e) { return std::llround(cost[e] / unit); });
  std::vector<long double> v(static_cast<std::size_t>(m));
  for (std::int64_t j = 0; j < m; ++j) {
    v[j] = static_cast<long double>(flow.potential(static_cast<int>(n + j))) * unit;
  }
  long double primal = 0, dual = std::accumulate(v.begin(), v.end(), 0.0L) / static_cast<long double>(m);
  for (std::int64_t i = 0; i < n; ++i) {
    long double u = std::numeric_limits<long double>::infinity();
    for (std::int64_t j = 0; j < m; ++j) {
      const long double c = cost[i * m + j];
      primal += static_cast<long double>(flow.amount(static_cast<std::size_t>(i * m + j))) * c;
      u = std::min(u, c - v[j]);
    }
    dual += u / static_cast<long double>(n);
  }
  return {static_cast<double>(primal / static_cast<long double>(total)), static_cast<double>(dual)};
}

double sliced_w2_squared(const Context& context, View<const float> a, View<const float> b, int projections,
                         std::uint64_t seed) {
  constexpr std::int64_t most_columns = 4 * 65536;  // a direction has 2^16 blocks of four random words
  if (a.columns != b.columns || a.columns < 1 || a.columns > most_columns) {
    throw Error(fmt::format("sliced W2 compares samples of one dimension, 1 to {}, and {} and {} were given",
                            most_columns, a.columns, b.columns));
  }
  check_count("the number of projections of the sliced W2", projections, 1, 1'000'000);
  check_view("the first set of samples", a, any_rows, a.columns, context.device());
  check_view("the second set of samples", b, any_rows, b.columns, context.device());
  // Quantile functions are steps in units of 1/(N M).
  if (a.rows > 0 && b.rows > std::numeric_limits<std::int64_t>::max() / a.rows) {
    throw Error(
        fmt::format("sliced W2 of {} and {} samples; allowed: numbers whose product is below 2^63", a.rows, b.rows));
  }
  return context.backend().sliced_w2_squared(a, b, projections, seed);
}

double noise_floor(const Context& context, const DataSet& data, std::int64_t n, std::uint64_t seed,
                   const SampleDistance& distance) {
  if (n < 1) throw Error(fmt::format("a noise floor needs at least one sample, and {} were asked for", n));
  Buffer<float> draws(context, n, data.dimension()), others(context, n, data.dimension());
  data.draw(context, draws.view(), seed, 0, ReservedStep::first_noise_floor);
  data.draw(context, others.view(), seed, 0, ReservedStep::second_noise_floor);
  return distance(draws.view(), others.view());
}

double noise_floor(const Context& context, const DataSet& data, std::int64_t n, std::uint64_t seed, const Grid& grid) {
  grid.validate();
  return noise_floor(context, data, n, seed, [&](View<const float> draws, View<const float> others) {
    if (data.dimension() != 2) return sliced_w2_squared(context, draws, others, 256, seed);
    const Histogram p = histogram(context, draws, grid), q = histogram(context, others, grid);
    if (p.inside == 0 || q.inside == 0) {
      throw Error(
          fmt::format("a noise floor on {} needs samples inside, and none of {} fell there", grid.describe(), n));
    }
    return w2_squared(p.weights, q.weights, grid).w2_squared;
  });
}

}  // namespace fokker
