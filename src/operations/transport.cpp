// Distances between sets of samples.
//
// W2² between two histograms on one n × n grid is the smallest Σ π_ij |x_i − y_j|². Squared distance is separable, so
// mass may move first in x and then in y: a min-cost flow on three layers of nodes
//   a(ix, iy) → mid(jx, iy) → b(jx, jy),   arc costs (ix − jx)² and (iy − jy)², scaled by h² at the end,
// with at most 2n³ arcs instead of n⁴; nodes without mass, and what cannot be reached from mass, are left out. Masses
// and costs are integers, so the simplex and its potentials are exact. The potentials v of b give the certificate:
//   w(jx, iy) = min_jy (iy − jy)² − v(jx, jy),   u(ix, iy) = min_jx (ix − jx)² + w(jx, iy)
// is the largest u with u_i + v_j ≤ |x_i − y_j|² for all pairs, so Σ u a + Σ v b bounds W2² from below whatever the
// simplex did.
#include "fokker/transport.hpp"

#include <fmt/format.h>
#include <lemon/network_simplex.h>
#include <lemon/static_graph.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/check.hpp"
#include "core/operations.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/philox.hpp"

namespace fokker {

void Grid::validate() const {
  if (n < 2 || n > 1024) throw Error(fmt::format("a grid needs 2 to 1024 nodes a side, and {} were given", n));
  if (!(half_width > 0) || !std::isfinite(half_width)) {
    throw Error(fmt::format("a grid's half width must be positive and finite, and {} was given", half_width));
  }
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

double Histogram::deviation() const {
  double mean[2] = {}, square = 0;
  const auto at = [&](std::size_t i, int axis) {
    const std::int64_t node = std::int64_t(i);
    return grid.spacing() * double(axis == 0 ? node % grid.n : node / grid.n) - grid.half_width;
  };
  for (const int axis : {0, 1}) {
    for (std::size_t i = 0; i < weights.size(); ++i) mean[axis] += weights[i] * at(i, axis);
  }
  for (const int axis : {0, 1}) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      square += weights[i] * (at(i, axis) - mean[axis]) * (at(i, axis) - mean[axis]);
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

// The three layers; nodes are grid indices n·iy + ix.
class GridTransport {
 public:
  GridTransport(std::vector<std::int64_t> a, std::vector<std::int64_t> b, std::int64_t n)
      : n_(n), a_(std::move(a)), b_(std::move(b)) {}

  // The smallest cost of a plan in units of h², leaving the potentials of b in v_.
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
    std::vector<std::int64_t> costs;
    const auto add = [&](int from, int to, std::int64_t cost) {
      if (to >= 0) arcs.emplace_back(from, to), costs.push_back(cost);
    };
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      for (std::int64_t jx = 0; a_id[i] >= 0 && jx < n_; ++jx) {
        add(a_id[i], mid_id[i - i % n_ + jx], square(i % n_ - jx));
      }
    }
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      for (std::int64_t jy = 0; mid_id[i] >= 0 && jy < n_; ++jy) {
        add(mid_id[i], b_id[n_ * jy + i % n_], square(i / n_ - jy));
      }
    }

    Graph graph;
    graph.build(nodes, arcs.begin(), arcs.end());
    Graph::ArcMap<std::int64_t> cost(graph);
    for (std::size_t e = 0; e < costs.size(); ++e) cost[graph.arc(static_cast<int>(e))] = costs[e];
    Graph::NodeMap<std::int64_t> supply(graph, 0);
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      if (a_id[i] >= 0) supply[graph.node(a_id[i])] = a_[i];
      if (b_id[i] >= 0) supply[graph.node(b_id[i])] = -b_[i];
    }
    using Simplex = lemon::NetworkSimplex<Graph, std::int64_t, std::int64_t>;
    Simplex simplex(graph);
    simplex.costMap(cost).supplyMap(supply);
    if (simplex.run() != Simplex::OPTIMAL) throw Error("the network simplex found no plan between two histograms");
    v_.assign(n_ * n_, 0);
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      if (b_id[i] >= 0) v_[i] = simplex.potential(graph.node(b_id[i]));
    }
    return static_cast<double>(simplex.totalCost<long double>() / total_mass);
  }

  // The value of the dual that v_ extends to, in units of h².
  double dual() const {
    constexpr std::int64_t kFar = std::numeric_limits<std::int64_t>::max() / 2;
    std::vector<std::int64_t> w(n_ * n_, kFar);
    for (std::int64_t iy = 0; iy < n_; ++iy) {
      for (std::int64_t j = 0; j < n_ * n_; ++j) {
        std::int64_t& smallest = w[n_ * iy + j % n_];
        if (b_[j] > 0) smallest = std::min(smallest, square(iy - j / n_) - v_[j]);
      }
    }
    long double value = 0;
    for (std::int64_t i = 0; i < n_ * n_; ++i) {
      if (b_[i] > 0) value += static_cast<long double>(b_[i]) * v_[i];
      if (a_[i] == 0) continue;
      std::int64_t u = kFar;
      for (std::int64_t jx = 0; jx < n_; ++jx) {
        const std::int64_t below = w[n_ * (i / n_) + jx];
        if (below < kFar) u = std::min(u, square(i % n_ - jx) + below);
      }
      value += static_cast<long double>(a_[i]) * u;
    }
    return static_cast<double>(value / total_mass);
  }

 private:
  std::int64_t n_;
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
  GridTransport problem(std::move(supply), std::move(demand), grid.n);
  const double scale = grid.spacing() * grid.spacing();
  TransportResult result;
  result.w2_squared = scale * problem.primal();
  result.dual_value = scale * problem.dual();
  return result;
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

double noise_floor(const Context& context, const DataSet& data, std::int64_t n, std::uint64_t seed, const Grid& grid) {
  if (n < 1) throw Error(fmt::format("a noise floor needs at least one sample, and {} were asked for", n));
  grid.validate();
  Buffer<float> draws(context, n, data.dimension()), others(context, n, data.dimension());
  data.draw(context, draws.view(), seed, 0, ReservedStep::first_noise_floor);
  data.draw(context, others.view(), seed, 0, ReservedStep::second_noise_floor);
  if (data.dimension() != 2) return sliced_w2_squared(context, draws.view(), others.view(), 256, seed);
  const Histogram p = histogram(context, draws.view(), grid), q = histogram(context, others.view(), grid);
  if (p.inside == 0 || q.inside == 0) {
    throw Error(
        fmt::format("a noise floor on a grid needs samples inside ±{}, and none of {} fell there", grid.half_width, n));
  }
  return w2_squared(p.weights, q.weights, grid).w2_squared;
}

}  // namespace fokker
