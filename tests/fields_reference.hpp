#pragma once

// What tests of a network's fields share, whichever backend computes them: random problems, the reference's numbers in
// double, how far rounding may move each of them, and bounds from that.
//
// Rounding bounds are made for each case from its own reference (rounding_noise.hpp): every operation of the reference
// errs at random, which gives the deviation σ_i of every number, and bounds of given probability for one element and
// for all together follow. A linear sweep errs as much forwards as backwards (a rounding of one unit moves the result
// by its value times its adjoint in either direction), so the reference's order of work stands for the library's.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <utility>
#include <variant>
#include <vector>

#include "compare.hpp"
#include "core/parallel.hpp"
#include "fokker/fields.hpp"
#include "networks.hpp"
#include "reference_network.hpp"
#include "rounding_noise.hpp"

namespace fokker::testing {

template <class T>
std::vector<T> as(const std::vector<double>& v) {
  return {v.begin(), v.end()};
}

// Parameters that are exact in float, so that both precisions and the reference have the same network.
inline Model model_of(const Architecture& a, SdeKind sde, std::uint64_t seed) {
  Mlp mlp = Mlp::initialise(a, seed);
  for (double& p : mlp.parameters) p = static_cast<float>(p);
  return {ForwardSde::defaults(sde), mlp};
}

// Points and directions whose numbers are exact in float, so that both precisions and the reference see the same. A row
// of `x` is x and then its condition of c numbers.
struct Problem {
  std::int64_t d;
  std::vector<double> t, x, direction;
  std::int64_t c = 0;

  std::int64_t n() const { return static_cast<std::int64_t>(x.size()) / (d + c); }
  const double* row(std::int64_t i) const { return &x[i * (d + c)]; }
  double time(std::int64_t i) const { return t.size() == 1 ? t[0] : t[i]; }
};

inline Problem make_problem(std::int64_t d, const ForwardSde& sde, std::int64_t n, bool one_time, unsigned seed,
                            std::int64_t c = 0) {
  std::mt19937_64 random(seed);
  const auto draw = [&](std::int64_t count, double low, double high) {
    std::uniform_real_distribution<double> uniform(low, high);
    std::vector<double> v(static_cast<std::size_t>(count));
    for (double& e : v) e = static_cast<float>(uniform(random));
    return v;
  };
  return {d, draw(one_time ? 1 : n, sde.t_min(), sde.horizon()), draw(n * (d + c), -2, 2), draw(n * d, -1, 1), c};
}

enum Quantity : unsigned { value = 1, dt = 2, score = 4, divergence = 8, hessian = 16, residual = 32 };
inline constexpr unsigned kOfPotential = 63, kOfVectorNet = score | divergence | hessian;
inline unsigned all_of(Output output) { return output == Output::potential ? kOfPotential : kOfVectorNet; }

// Every output there is; those that were not asked for are empty.
template <class T>
struct Result {
  std::vector<T> value, dt, score, divergence, hessian, residual;

  bool operator==(const Result&) const = default;
};

template <class T, class R, class Visit>
void for_each_quantity(R& r, Visit&& visit) {
  visit(value, "value", r.value);
  visit(dt, "dt", r.dt);
  visit(score, "score", r.score);
  visit(divergence, "divergence", r.divergence);
  visit(hessian, "hessian", r.hessian);
  visit(residual, "residual", r.residual);
}

template <class T>
FieldOutputs<T> just(View<T> FieldOutputs<T>::*output, View<T> view) {
  FieldOutputs<T> outputs;
  outputs.*output = view;
  return outputs;
}

template <class T>
View<const T> rows_of(const std::vector<T>& numbers, std::int64_t n) {
  return numbers.empty() ? View<const T>() : View<const T>(numbers, std::ssize(numbers) / n);
}

template <class T>
Result<T> evaluate(const Fields<T>& fields, const std::vector<T>& t, const std::vector<T>& x, std::int64_t d,
                   unsigned wanted, const Divergence& how = {}, const std::vector<T>& condition = {}) {
  const auto n = static_cast<std::int64_t>(x.size()) / d;
  Result<T> r;
  FieldOutputs<T> out;
  const auto want = [&](Quantity q, std::vector<T>& store, View<T>& view, std::int64_t columns) {
    if (!(wanted & q)) return;
    store.assign(static_cast<std::size_t>(n * columns), T(7));  // overwritten, not added to
    view = View<T>(store, columns);
  };
  want(value, r.value, out.value, 1);
  want(dt, r.dt, out.dt, 1);
  want(score, r.score, out.score, d);
  want(divergence, r.divergence, out.divergence, 1);
  want(hessian, r.hessian, out.hessian, d * d);
  want(residual, r.residual, out.residual, 1);
  fields.evaluate({View<const T>(t), View<const T>(x, d), rows_of(condition, n)}, out, how);
  return r;
}

template <class T>
Result<T> evaluate(const Fields<T>& fields, const Problem& p, unsigned wanted, const Divergence& how = {}) {
  return evaluate(fields, as<T>(p.t), as<T>(columns_of(p.x, p.d + p.c, 0, p.d)), p.d, wanted, how,
                  as<T>(columns_of(p.x, p.d + p.c, p.d, p.c)));
}

template <class T>
std::vector<T> hessian_vector(const Fields<T>& fields, const Problem& p) {
  const auto t = as<T>(p.t), x = as<T>(columns_of(p.x, p.d + p.c, 0, p.d)), direction = as<T>(p.direction),
             condition = as<T>(columns_of(p.x, p.d + p.c, p.d, p.c));
  std::vector<T> product(x.size(), T(7));
  fields.hessian_vector({View<const T>(t), View<const T>(x, p.d), rows_of(condition, p.n())},
                        View<const T>(direction, p.d), View<T>(product, p.d));
  return product;
}

struct Expected : Result<double> {
  std::vector<double> product;
  std::vector<double> residual_in_double;  // deviations alone: the SDE's coefficients carry roundings of double, too
};

template <class E>
auto quantities(E& e) {
  return std::array{&e.value,   &e.dt,       &e.score,   &e.divergence,
                    &e.hessian, &e.residual, &e.product, &e.residual_in_double};
}

// Adds every field at one point, computed in numbers S.
template <class S>
void append_fields(const ReferenceNetwork& net, const std::vector<S>& parameters, const ReferenceSde& sde, double t,
                   const double* x, const double* direction, Expected& e) {
  const int d = net.dimension;
  Pairs pairs;
  for (int i = 1; i <= d && net.potential; ++i) {
    for (int j = 1; j <= d; ++j) pairs.emplace_back(i, j);
  }
  const auto out = reference_outputs<S>(net, parameters, t, x, pairs);
  std::vector<S> score, hessian;
  if (net.potential) {
    score.assign(out[0].first.begin() + 1, out[0].first.end());
    hessian = out[0].second;
  } else {
    for (const auto& jet : out) {
      score.push_back(jet.value);
      hessian.insert(hessian.end(), jet.first.begin() + 1, jet.first.end());
    }
  }
  const auto append = [](std::vector<double>& to, const S& number) { to.push_back(value_of(number)); };
  for (const S& s : score) append(e.score, s);
  for (const S& h : hessian) append(e.hessian, h);
  S trace = 0.0;
  for (int r = 0; r < d; ++r) {
    trace = trace + hessian[r * d + r];
    S sum = 0.0;
    for (int c = 0; c < d; ++c) sum = sum + hessian[r * d + c] * S(direction[c]);
    append(e.product, sum);
  }
  append(e.divergence, trace);
  if (!net.potential) return;
  append(e.value, out[0].value);
  append(e.dt, out[0].first[0]);
  S along = double(d), square = 0.0;
  for (int k = 0; k < d; ++k) along = along + S(x[k]) * score[k], square = square + score[k] * score[k];
  const auto residual = [&](double time) {
    const S one = 1.0, drift = one * S(sde.drift(time)), half = one * S(sde.diffusion_squared(time) / 2);
    return out[0].first[0] + drift * along - half * (trace + square);
  };
  append(e.residual, residual(t));
  // The coefficients take some four roundings: as much as by four of the time, whose condition is theirs.
  S time = t;
  for (int k = 0; k < 4; ++k) time = time * S(1.0);
  append(e.residual_in_double, residual(value_of(time)));
}

inline Expected reference(const Model& model, const Problem& p) {
  const auto& mlp = std::get<Mlp>(model.network);
  const auto net = reference_network(mlp.architecture, mlp.parameters);
  const auto sde = reference_sde(model.sde);
  Expected e;
  for (std::int64_t i = 0; i < p.n(); ++i) {
    append_fields(net, net.parameters, sde, p.time(i), p.row(i), &p.direction[i * p.d], e);
  }
  return e;
}

// The deviation of each number of `expected` where every operation errs by up to one unit: 16 runs of each point.
inline Expected rounding_deviations(const Model& model, const Problem& p) {
  const auto& mlp = std::get<Mlp>(model.network);
  const auto net = reference_network(mlp.architecture, mlp.parameters);
  const auto sde = reference_sde(model.sde);
  const std::vector<Noisy> parameters(net.parameters.begin(), net.parameters.end());
  // What is not exact in float is rounded on its way in.
  const auto input = [](double v) { return v == static_cast<float>(v) ? v : rounded(v).value; };
  std::vector<Expected> points(static_cast<std::size_t>(p.n()));
  parallel_for(2, p.n(), [&](std::int64_t i, int) {
    Expected exact, &sum = points[i];
    std::vector<double> x(p.row(i), p.row(i) + p.d + p.c);
    append_fields(net, net.parameters, sde, p.time(i), x.data(), &p.direction[i * p.d], exact);
    for (int k = 0; k < noise_runs; ++k) {
      Noise::seed(static_cast<std::uint64_t>(noise_runs * i + k));
      Expected noisy;
      const double t = input(p.time(i));
      for (std::int64_t j = 0; j < p.d + p.c; ++j) x[j] = input(p.row(i)[j]);
      append_fields(net, parameters, sde, t, x.data(), &p.direction[i * p.d], noisy);
      for (std::size_t q = 0; q < quantities(exact).size(); ++q) {
        const std::vector<double>&e = *quantities(exact)[q], &v = *quantities(noisy)[q];
        std::vector<double>& to = *quantities(sum)[q];
        to.resize(e.size());
        for (std::size_t j = 0; j < e.size(); ++j) to[j] = std::hypot(to[j], (v[j] - e[j]) / noise_size);
      }
    }
  });
  Expected all;
  for (Expected& e : points) {
    for (std::size_t q = 0; q < quantities(e).size(); ++q) {
      for (const double d : *quantities(e)[q]) quantities(all)[q]->push_back(d / std::sqrt(noise_runs));
    }
  }
  return all;
}

// Hutchinson's estimate Σ v_i v_j ∂_i s_j with probes of ±1 deviates by at most all entries together.
inline Expected deviations_with_probes(const Model& model, const Problem& p, Expected deviations) {
  const auto sde = reference_sde(model.sde);
  const std::int64_t entries = p.d * p.d;
  for (std::int64_t i = 0; i < p.n(); ++i) {
    const double* of_point = &deviations.hessian[i * entries];
    deviations.divergence[i] = std::accumulate(of_point, of_point + entries, 0.0);
    if (deviations.residual.empty()) continue;
    const double more = sde.diffusion_squared(p.time(i)) / 2 * deviations.divergence[i];
    deviations.residual[i] += more, deviations.residual_in_double[i] += more;
  }
  return deviations;
}

// How many roundings there are to a difference: of the result, and of what it is compared with.
enum Sides { one_side = 1, both_sides = 2 };

// The bound of results with these deviations (of a unit roundoff of 1; `columns` a point), at the unit roundoff given.
// All together: errors of points with different results are independent, and those of equal ones, as of a linear network's
// score, equal; for a_i the variance of the i-th result, of all points that have it, Laurent and Massart (2000, Lemma 1)
// have Σ e_i² > Σ a_i + 2 √(x Σ a_i²) + 2 x max a_i with probability e^{−x} at most, and x = 16.
inline Bound rounding_bound(const std::vector<double>& deviations, std::size_t columns,
                            const std::vector<double>& expected, double roundoff) {
  Bound bound;
  std::map<std::vector<double>, double> variances;  // of each result
  for (std::size_t i = 0; i < deviations.size(); i += columns) {
    const auto result = expected.begin() + static_cast<std::ptrdiff_t>(i);
    double& point = variances[{result, result + static_cast<std::ptrdiff_t>(columns)}];
    for (std::size_t j = i; j < i + columns; ++j) {
      point += deviations[j] * deviations[j];
      bound.each.push_back(most_deviations * roundoff * deviations[j]);
    }
  }
  double variance = 0, squared = 0, largest = 0, scale = 0;
  for (const auto& [result, a] : variances) variance += a, squared += a * a, largest = std::max(largest, a);
  for (const double e : expected) scale += e * e;
  const double x = 16, limit = variance + 2 * std::sqrt(x * squared) + 2 * x * largest;
  if (scale > 0) bound.norm = roundoff * std::sqrt(limit / scale);
  return bound;
}

// The rounding of T in numbers with these deviations. What is smaller than the normal numbers, times the factor β of a
// second derivative, is flushed to zero or to the smallest exponential that the activations make.
template <class T>
Bound rounding(const std::vector<double>& deviations, std::int64_t points, const std::vector<double>& expected,
               Sides sides) {
  const std::size_t columns = points == 0 ? 1 : deviations.size() / static_cast<std::size_t>(points);
  Bound bound = rounding_bound(deviations, columns, expected, std::sqrt(double(sides)) * unit<T>);
  bound.absolute = 100 * double(std::numeric_limits<T>::min());
  return bound;
}

}  // namespace fokker::testing
