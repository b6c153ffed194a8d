// The bound of the gap between the samplers (the paper's argument with an L that depends on time): along coupled paths
// of the two probability flows, |x − y|′ ≤ L |x − y| + ½ g² |∇ log p^S − s|, and Grönwall. L has to hold between the
// paths; it is looked for where samples of both are, and all over the box.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fokker/diagnostics.hpp"
#include "fokker/error.hpp"
#include "fokker/sampler.hpp"
#include "host_fields.hpp"
#include "symmetric_eigen.hpp"

namespace fokker {
namespace {

constexpr std::int64_t kMostTimes = 64;  // as many snapshots as a sampler keeps

// Of the Hessians of φ at points [n, d], the largest eigenvalue; points that are not finite are passed over.
double largest_curvature(HostFields& fields, double t, const std::vector<double>& points, std::int64_t d) {
  std::vector<double> x;
  const std::int64_t given = static_cast<std::int64_t>(points.size()) / d;
  for (std::int64_t i = 0; i < given; ++i) {
    const auto at = points.begin() + i * d;
    if (std::all_of(at, at + d, [](double v) { return std::isfinite(v); })) x.insert(x.end(), at, at + d);
  }
  const std::int64_t n = static_cast<std::int64_t>(x.size()) / d;
  std::vector<double> hessian(n * d * d), values(d), vectors(d * d);
  fields.evaluate(t, x.data(), n, {.hessian = hessian.data()});
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < n; ++i) {
    double* h = hessian.data() + i * d * d;
    if (!std::all_of(h, h + d * d, [](double v) { return std::isfinite(v); })) continue;
    eigen_decomposition(d, h, values.data(), vectors.data());
    largest = std::max(largest, *std::max_element(values.begin(), values.end()));
  }
  return largest;
}

// y at the times of `times`, decreasing, from (at, y) at some of them, the first and the last among these.
std::vector<double> interpolated(const std::vector<double>& times, const std::vector<double>& at,
                                 const std::vector<double>& y) {
  std::vector<double> all;
  std::size_t piece = 0;
  for (const double t : times) {
    while (piece + 2 < at.size() && t < at[piece + 1]) ++piece;
    all.push_back(std::lerp(y[piece], y[piece + 1], (at[piece] - t) / (at[piece] - at[piece + 1])));
  }
  return all;
}

// log ½ ∫ exp(∫_0^t L) g² √e_t dt, both integrals by the trapezoidal rule from the end of the times on.
double log_bound(const ForwardSde& sde, const Energy& energy, const std::vector<double>& bound) {
  std::vector<double> logarithms;
  double exponent = 0;
  for (std::size_t k = energy.times.size(); k-- > 0;) {
    const bool first = k + 1 == energy.times.size(), last = k == 0;
    if (!first) exponent += 0.5 * (bound[k] + bound[k + 1]) * (energy.times[k] - energy.times[k + 1]);
    const double width = 0.5 * ((first ? 0 : energy.times[k] - energy.times[k + 1]) +
                                (last ? 0 : energy.times[k - 1] - energy.times[k]));
    // An estimate from paths may be negative where it is all noise.
    const double root = std::sqrt(std::max(0.0, energy.energy[k].value));
    logarithms.push_back(exponent + std::log(0.5 * width * sde.at(energy.times[k]).diffusion_squared * root));
  }
  const double largest = *std::max_element(logarithms.begin(), logarithms.end());
  if (!std::isfinite(largest)) return largest;
  double sum = 0;
  for (const double l : logarithms) sum += std::exp(l - largest);
  return largest + std::log(sum);
}

}  // namespace

bool UpperBound::vacuous_samples() const { return !(log_bound_samples < std::log(diameter)); }
bool UpperBound::vacuous_box() const { return !(log_bound_box < std::log(diameter)); }

void UpperBoundOptions::validate() const {
  if (samples < 1 || box_points < 1 || !(box > 0) || !std::isfinite(box)) {
    throw Error(
        fmt::format("the bound of the gap needs at least one sample and one point and a positive, finite box, "
                    "and {}, {} and {} were given",
                    samples, box_points, box));
  }
}

UpperBound gap_upper_bound(const Context& context, const Model& model, const Energy& energy,
                           const UpperBoundOptions& options) {
  check_potential("the bound of the gap", model);
  const ForwardSde& sde = model.sde;
  const std::int64_t d = model.dimension(), n = options.samples;
  if (d > 64) {
    throw Error(
        fmt::format("the bound of the gap was asked for in dimension {}; allowed: up to 64, for the Hessians", d));
  }
  options.validate();
  if (energy.times.size() < 2 || energy.energy.size() != energy.times.size()) {
    throw Error(
        fmt::format("the bound of the gap needs the energy at two times or more, and {} energies at {} times "
                    "were given",
                    energy.energy.size(), energy.times.size()));
  }
  const TimeGrid grid(energy.times);  // throws where they do not decrease

  // Steps of the grid at which L is looked for; step 0 is T.
  const std::int64_t stops = std::min<std::int64_t>(kMostTimes, grid.steps());
  std::vector<std::int32_t> steps;
  std::vector<double> at{grid.times().front()};
  for (std::int64_t k = 1; k <= stops; ++k) {
    steps.push_back(static_cast<std::int32_t>(k * grid.steps() / stops));
    at.push_back(grid.times()[steps.back()]);
  }
  // [stops · n, d] of both samplers.
  const Sampler sampler(context, model, grid);
  Buffer<float> samples(context, n, d), snapshots(context, stops * n, d);
  std::vector<std::vector<float>> clouds;
  for (const Scheme scheme : {Scheme::euler_maruyama, Scheme::heun}) {
    sampler.sample(samples.view(), {.scheme = scheme,
                                    .seed = options.seed,
                                    .noise_in_last_step = true,
                                    .snapshot_steps = steps,
                                    .snapshots = snapshots.view()});
    clouds.emplace_back(stops * n * d);
    copy(context, snapshots.view(), View<float>(clouds.back(), d));
    context.synchronize();
  }

  HostFields fields(context, model);
  std::vector<double> over_samples, over_box, x;
  for (std::int64_t k = 0; k <= stops; ++k) {
    const double t = std::min(at[k], sde.horizon);
    const SdeCoefficients<double> c = sde.at(t);
    x.clear();
    if (k == 0) {
      x.resize(n * d);
      for (std::int64_t i = 0; i < n; ++i) {
        diagnostic_normals(x.data() + i * d, d, options.seed, static_cast<std::uint64_t>(i),
                           static_cast<std::uint64_t>(DiagnosticStep::prior));
      }
      for (double& v : x) v *= std::sqrt(sde.prior_variance());
    } else {
      for (const auto& cloud : clouds) x.insert(x.end(), cloud.begin() + (k - 1) * n * d, cloud.begin() + k * n * d);
    }
    over_samples.push_back(-c.drift + 0.5 * c.diffusion_squared * largest_curvature(fields, t, x, d));
    x.resize(options.box_points * d);
    for (std::int64_t i = 0; i < options.box_points; ++i) {
      diagnostic_uniforms(x.data() + i * d, d, options.seed, static_cast<std::uint64_t>(i),
                          static_cast<std::uint64_t>(DiagnosticStep::box_point));
    }
    for (double& v : x) v = options.box * (2 * v - 1);
    over_box.push_back(-c.drift + 0.5 * c.diffusion_squared * largest_curvature(fields, t, x, d));
    if (options.progress) options.progress(double(k + 1) / double(stops + 1));
  }
  UpperBound bound;
  bound.times = energy.times;
  bound.over_samples = interpolated(bound.times, at, over_samples);
  bound.over_box = interpolated(bound.times, at, over_box);
  bound.log_bound_samples = log_bound(sde, energy, bound.over_samples);
  bound.log_bound_box = log_bound(sde, energy, bound.over_box);
  bound.diameter = 2 * options.box * std::sqrt(double(d));
  return bound;
}

}  // namespace fokker
