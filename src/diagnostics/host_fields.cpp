#include "diagnostics/host_fields.hpp"

#include <cmath>

#include "fokker/error.hpp"

namespace fokker {
namespace {

constexpr std::int64_t kBatchNumbers = 1 << 18;  // of the widest field: 2 MB

// A buffer for at least `rows`, made when it is first needed.
View<double> room(const Context& context, Buffer<double>& buffer, std::int64_t batch, std::int64_t rows,
                  std::int64_t columns) {
  if (buffer.rows() < rows || buffer.columns() != columns) buffer = Buffer<double>(context, batch, columns);
  return {buffer.data(), rows, columns, context.device()};
}

}  // namespace

void check_potential(const std::string& what, const Model& model) {
  model.validate();
  if (model.output() == Output::potential) return;
  throw Error(what + " needs a potential, and a vector score net was given, which has none");
}

HostFields::HostFields(const Context& context, const Model& model)
    : context_(context), fields_(context, model), dimension_(model.dimension()), t_(context, 1) {}

void HostFields::evaluate(double t, const double* x, std::int64_t n, const Wanted& wanted) {
  const std::int64_t d = dimension_, widest = wanted.hessian ? d * d : d;
  const std::int64_t batch = std::max<std::int64_t>(1, kBatchNumbers / widest);
  copy(context_, View<const double>(&t, 1), t_.view());
  for (std::int64_t first = 0; first < n; first += batch) {
    const std::int64_t rows = std::min(batch, n - first);
    const View<double> x_at = room(context_, x_, batch, rows, d);
    copy(context_, {x + first * d, rows, d}, x_at);
    FieldOutputs<double> outputs;
    if (wanted.value) outputs.value = room(context_, value_, batch, rows, 1);
    if (wanted.score) outputs.score = room(context_, score_, batch, rows, d);
    if (wanted.hessian) outputs.hessian = room(context_, hessian_, batch, rows, d * d);
    if (wanted.residual) outputs.residual = room(context_, residual_, batch, rows, 1);
    fields_.evaluate({t_.view(), x_at}, outputs);
    const auto fetch = [&](View<double> from, double* to) {
      if (to) copy(context_, from, View<double>(to + first * from.columns, rows, from.columns));
    };
    fetch(outputs.value, wanted.value);
    fetch(outputs.score, wanted.score);
    fetch(outputs.hessian, wanted.hessian);
    fetch(outputs.residual, wanted.residual);
    context_.synchronize();
  }
}

double log_noise_ratio(const ForwardSde& sde, double t) {
  const SdeCoefficients<double> c = sde.at(t);
  // A long horizon can take the mean below what double holds.
  return std::log(c.variance + sde.at(sde.t_min()).variance) - 2 * std::log(std::max(c.mean, 1e-290));
}

std::vector<double> noise_ratio_times(const ForwardSde& sde, double from, double to, int steps) {
  // The linear part keeps the times apart where the mean has vanished; it is small beside the logarithm.
  const auto place = [&](double t) { return log_noise_ratio(sde, t) + 0.1 * t / sde.horizon(); };
  std::vector<double> times{from};
  const double first = place(from), last = place(to);
  for (int k = 1; k < steps; ++k) {
    const double aim = std::lerp(first, last, double(k) / steps);
    double low = times.back(), high = to;
    for (int halving = 0; halving < 60; ++halving) {
      const double middle = 0.5 * (low + high);
      (place(middle) < aim ? low : high) = middle;
    }
    times.push_back(0.5 * (low + high));
  }
  times.push_back(to);
  return times;
}

}  // namespace fokker
