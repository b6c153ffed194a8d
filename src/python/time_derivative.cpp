#include "time_derivative.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fokker::python {
namespace {

// The network as one of the coordinates (τ, h), whose own time counts for nothing; a vector net gets an output for τ, which
// is 0.
Mlp of_time_and_place(const Mlp& mlp) {
  const Architecture& a = mlp.architecture;
  Mlp wide{a, {}};
  Architecture& b = wide.architecture;
  b.dimension = a.dimension + 1;
  b.form = {};
  const auto append = [&](std::int64_t first, std::int64_t count) {
    const auto begin = mlp.parameters.begin() + first;
    wide.parameters.insert(wide.parameters.end(), begin, begin + count);
  };
  const std::int64_t inputs = a.inputs(0), last = a.layers() - 1;
  for (std::int64_t row = 0; row < a.outputs(0); ++row) {
    wide.parameters.push_back(0);
    append(a.weight_offset(0) + row * inputs, inputs);
  }
  append(a.bias_offset(0), a.outputs(0));
  for (std::int64_t l = 1; l <= last; ++l) {
    const bool is_vector = l == last && a.output == Output::score;
    if (is_vector) wide.parameters.resize(wide.parameters.size() + static_cast<std::size_t>(a.inputs(l)));
    append(a.weight_offset(l), a.bias_offset(l) - a.weight_offset(l));
    if (is_vector) wide.parameters.push_back(0);
    append(a.bias_offset(l), a.outputs(l));
  }
  return wide;
}

}  // namespace

template <class T>
TimeDerivative<T>::TimeDerivative(const Model& model)
    : dimension_(model.dimension()), sde_(model.sde), columns_(model.standardisation) {
  if (const auto* sum = std::get_if<Composition>(&model.network)) {
    for (const Term& term : sum->terms) add_part(term.weight, term.model);
  } else {
    add_part(1, model);
  }
}

template <class T>
void TimeDerivative<T>::add_part(double weight, const Model& model) {
  const auto* mlp = std::get_if<Mlp>(&model.network);
  const char* what = !mlp                               ? "a Gaussian mixture"
                     : mlp->architecture.conditional()  ? "a network that takes a condition"
                     : !mlp->architecture.time.raw()    ? "a network with a time branch"
                     : mlp->architecture.is_residual(0) ? "a network whose first layer is residual"
                                                        : nullptr;
  if (what) {
    throw Error(
        fmt::format("the derivative of the score in t is asked for of {}; allowed: networks that take the time "
                    "itself and no condition, and sums of those; elsewhere a t without a gradient",
                    what));
  }
  parts_.push_back({weight, mlp->architecture.form, Fields<T>(context_, {{}, of_time_and_place(*mlp), {}})});
}

template <class T>
void TimeDerivative<T>::evaluate(View<const T> t, View<const T> x, View<T> rate) const {
  const std::lock_guard lock(mutex_);
  const std::int64_t n = x.rows, d = dimension_;
  for (const auto& [what, rows, columns, width] : {std::tuple{"t", t.rows, t.columns, std::int64_t{1}},
                                                   {"x", x.rows, x.columns, d},
                                                   {"rate", rate.rows, rate.columns, d}}) {
    if (rows == n && (n == 0 || columns == width)) continue;
    throw Error(fmt::format("{} has shape [{}, {}]; allowed here: [{}, {}]", what, rows, columns, n, width));
  }
  if (n == 0) return;
  const auto column = [&](std::int64_t j) { return static_cast<std::size_t>(j); };
  const bool in_z = !columns_.empty();
  std::vector<T> z(static_cast<std::size_t>(n * d)), points(static_cast<std::size_t>(n * (d + 1))),
      along(points.size()), net(points.size()), product(points.size());
  for (std::int64_t k = 0; k < n * d; ++k) {
    const std::size_t j = column(k % d);
    z[column(k)] =
        in_z ? static_cast<T>((static_cast<double>(x.data[k]) - columns_.mean[j]) / columns_.deviation[j]) : x.data[k];
  }
  std::fill(rate.data, rate.data + n * d, T(0));
  const std::vector<T> no_time{T(1)};
  for (const Part& part : parts_) {
    for (std::int64_t i = 0; i < n; ++i) {
      const auto [value, slope] = form_rates_at(part.form, sde_.formulas(), static_cast<double>(t.data[i]));
      const std::size_t row = column(i * (d + 1));
      points[row] = static_cast<T>(value.time), along[row] = static_cast<T>(slope.time);
      for (std::int64_t j = 0; j < d; ++j) {
        const double own = z[column(i * d + j)];
        points[row + 1 + column(j)] = static_cast<T>(value.in * own);
        along[row + 1 + column(j)] = static_cast<T>(slope.in * own);
      }
    }
    const Points<T> at{View<const T>(no_time), View<const T>(points, d + 1), {}};
    part.network.evaluate(at, {.score = View<T>(net, d + 1)});
    part.network.hessian_vector(at, View<const T>(along, d + 1), View<T>(product, d + 1));
    for (std::int64_t i = 0; i < n; ++i) {
      const auto [value, slope] = form_rates_at(part.form, sde_.formulas(), static_cast<double>(t.data[i]));
      for (std::int64_t j = 0; j < d; ++j) {
        const std::size_t k = column(i * (d + 1) + 1 + j);
        const double sum = slope.skip * z[column(i * d + j)] + slope.out * net[k] + value.out * product[k];
        rate.data[i * d + j] += static_cast<T>(part.weight * sum / (in_z ? columns_.deviation[column(j)] : 1));
      }
    }
  }
}

template class TimeDerivative<float>;
template class TimeDerivative<double>;

}  // namespace fokker::python
