// The bound of the gap between the samplers (the paper's argument with an L that depends on time): along coupled paths
// of the two probability flows, |x − y|′ ≤ L |x − y| + ½ g² |∇ log p^S − s|, and Grönwall. L has to hold between the
// paths; it is looked for where samples of both are, and all over the box.
#include "fokker/diagnostics/upper_bound.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.hpp"
#include "diagnostics/host_fields.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/draws.hpp"
#include "fokker/sampler.hpp"
#include "model/symmetric_eigen.hpp"

namespace fokker {
namespace {

constexpr std::int64_t kLeastSteps = 256;  // that the samplers take

// The largest eigenvalue of the Hessians of φ at points [n, d]; not a number where there is no point. Points that are not
// finite, or whose Hessian is not, are passed over and counted in `left_out`.
double largest_curvature(HostFields& fields, double t, const std::vector<double>& points, std::int64_t d,
                         std::int64_t& left_out) {
  std::vector<double> x;
  const std::int64_t given = static_cast<std::int64_t>(points.size()) / d;
  for (std::int64_t i = 0; i < given; ++i) {
    const auto point = points.begin() + i * d;
    if (std::all_of(point, point + d, [](double v) { return std::isfinite(v); })) x.insert(x.end(), point, point + d);
  }
  const std::int64_t n = static_cast<std::int64_t>(x.size()) / d;
  std::vector<double> hessian(n * d * d), values(d), vectors(d * d);
  fields.evaluate(t, x.data(), n, {.hessian = hessian.data()});
  double largest = std::numeric_limits<double>::quiet_NaN();
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    double* h = hessian.data() + i * d * d;
    if (!std::all_of(h, h + d * d, [](double v) { return std::isfinite(v); })) continue;
    eigen_decomposition(d, h, values.data(), vectors.data());
    const double eigenvalue = *std::max_element(values.begin(), values.end());
    largest = used++ == 0 ? eigenvalue : std::max(largest, eigenvalue);
  }
  left_out += given - used;
  return largest;
}

// y at `times`, which decrease, from its values at `some` of them, the first and the last included.
std::vector<double> interpolated(const std::vector<double>& times, const std::vector<double>& some,
                                 const std::vector<double>& y) {
  std::vector<double> all;
  std::size_t piece = 0;
  for (const double t : times) {
    while (piece + 2 < some.size() && t < some[piece + 1]) ++piece;
    all.push_back(std::lerp(y[piece], y[piece + 1], (some[piece] - t) / (some[piece] - some[piece + 1])));
  }
  return all;
}

// log ½ ∫ exp(∫_0^t L) g² √e_t dt, both integrals by the trapezoidal rule from the end of the times on. energy [K]:
// e_t, none negative. The result is not a number where an L or an e_t is none.
double log_bound(const ForwardSde& sde, const std::vector<double>& times, const std::vector<double>& energy,
                 const std::vector<double>& bound) {
  const auto unknown = [](double v) { return std::isnan(v); };
  if (std::any_of(energy.begin(), energy.end(), unknown) || std::any_of(bound.begin(), bound.end(), unknown)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  std::vector<double> logarithms;
  double exponent = 0;
  for (std::size_t k = times.size(); k-- > 0;) {
    const bool first = k + 1 == times.size(), last = k == 0;
    if (!first) exponent += 0.5 * (bound[k] + bound[k + 1]) * (times[k] - times[k + 1]);
    const double width = 0.5 * ((first ? 0 : times[k] - times[k + 1]) + (last ? 0 : times[k - 1] - times[k]));
    logarithms.push_back(exponent + std::log(0.5 * width * sde.at(times[k]).diffusion_squared * std::sqrt(energy[k])));
  }
  const double largest = *std::max_element(logarithms.begin(), logarithms.end());
  if (!std::isfinite(largest)) return largest;
  double sum = 0;
  for (const double l : logarithms) sum += std::exp(l - largest);
  return largest + std::log(sum);
}

// e_t, with 0 in place of values that noise makes negative. Where there are such values and none is positive, the energy
// is unknown, which is not the same as 0: all are not a number.
std::vector<double> usable_energy(const Energy& energy, std::vector<std::string>& warnings) {
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> used;
  std::int64_t positive = 0, negative = 0, lost = 0;
  for (const Estimate& e : energy.energy) {
    positive += e.value > 0, negative += e.value < 0, lost += !std::isfinite(e.value);
    used.push_back(std::isfinite(e.value) ? std::max(0.0, e.value) : unknown);
  }
  if (lost > 0) {
    warnings.push_back(fmt::format("e_t is not finite at {} of {} times, so there is no bound", lost, used.size()));
  } else if (negative > 0 && positive == 0) {
    warnings.push_back(
        fmt::format("e_t is negative by noise at {} of {} times and positive at none, so there is no "
                    "bound; more samples or paths are needed",
                    negative, used.size()));
    used.assign(used.size(), unknown);
  } else if (negative > 0) {
    warnings.push_back(
        fmt::format("e_t is negative by noise at {} of {} times and taken as 0 there; the bound may be "
                    "too small",
                    negative, used.size()));
  }
  return used;
}

void warn_of_points(const char* what, const std::vector<double>& largest, std::int64_t left_out, std::int64_t points,
                    std::vector<std::string>& warnings) {
  if (left_out == 0) return;
  const bool none = std::any_of(largest.begin(), largest.end(), [](double v) { return std::isnan(v); });
  warnings.push_back(fmt::format(
      "{} of {} {} at all times together, or their Hessians, were not finite and are left "
      "out; {}",
      left_out, points, what,
      none ? "at a time none was left, so there is no bound over them" : "L over the others may be too small"));
}

}  // namespace

bool UpperBound::vacuous_samples() const { return !(log_bound_samples < std::log(diameter)); }
bool UpperBound::vacuous_box() const { return !(log_bound_box < std::log(diameter)); }

void UpperBoundOptions::validate() const {
  check_count("the number of samples for the bound of the gap", samples, 1, 1'000'000'000);
  check_count("the number of points of the box for the bound of the gap", box_points, 1, 1'000'000'000);
  if (!(box > 0) || !std::isfinite(box)) {
    throw Error(fmt::format("the bound of the gap needs a positive, finite box, and {} was given", box));
  }
}

UpperBound gap_upper_bound(const Context& context, const Model& of_x, const Energy& energy,
                           const UpperBoundOptions& options) {
  check_potential("the bound of the gap", of_x);
  const Model model = of_x.of_z();
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

  // Times at which L is looked for, and the samplers' steps to them; step 0 is T. The energy may be at few times, so
  // the samplers take steps between them.
  const std::int64_t stops = std::min<std::int64_t>(most_snapshots, grid.steps());
  const std::int64_t pieces = (kLeastSteps + grid.steps() - 1) / grid.steps();
  std::vector<double> fine{grid.times().front()};
  for (int k = 0; k < grid.steps(); ++k) {
    const double from = grid.times()[k], to = grid.times()[k + 1];
    for (std::int64_t piece = 1; piece < pieces; ++piece) fine.push_back(std::lerp(from, to, double(piece) / pieces));
    fine.push_back(to);
  }
  std::vector<std::int32_t> steps;
  std::vector<double> stop_times{grid.times().front()};
  for (std::int64_t k = 1; k <= stops; ++k) {
    steps.push_back(static_cast<std::int32_t>(k * grid.steps() / stops * pieces));
    stop_times.push_back(fine[steps.back()]);
  }
  // [stops · n, d] of both samplers.
  const Sampler sampler(context, model, TimeGrid(fine));
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
  UpperBound bound;
  std::vector<double> over_samples, over_box, x;
  for (std::int64_t k = 0; k <= stops; ++k) {
    const double t = std::min(stop_times[k], sde.horizon());
    const SdeCoefficients<double> c = sde.at(t);
    x.clear();
    if (k == 0) {
      x.resize(n * d);
      for (std::int64_t i = 0; i < n; ++i) {
        draw_normals(x.data() + i * d, d, RandomUse::diagnostic, options.seed, static_cast<std::uint64_t>(i),
                     ReservedStep::prior);
      }
      for (double& v : x) v *= std::sqrt(sde.prior_variance());
    } else {
      for (const auto& cloud : clouds) x.insert(x.end(), cloud.begin() + (k - 1) * n * d, cloud.begin() + k * n * d);
    }
    bound.points_samples += static_cast<std::int64_t>(x.size()) / d;
    over_samples.push_back(-c.drift +
                           0.5 * c.diffusion_squared * largest_curvature(fields, t, x, d, bound.left_out_samples));
    x.resize(options.box_points * d);
    for (std::int64_t i = 0; i < options.box_points; ++i) {
      draw_uniforms(x.data() + i * d, d, RandomUse::diagnostic, options.seed, static_cast<std::uint64_t>(i),
                    ReservedStep::box_point);
    }
    for (double& v : x) v = options.box * (2 * v - 1);
    bound.points_box += options.box_points;
    over_box.push_back(-c.drift + 0.5 * c.diffusion_squared * largest_curvature(fields, t, x, d, bound.left_out_box));
    if (options.progress) options.progress(double(k + 1) / double(stops + 1));
  }
  bound.times = energy.times;
  bound.over_samples = interpolated(bound.times, stop_times, over_samples);
  bound.over_box = interpolated(bound.times, stop_times, over_box);
  const std::vector<double> used = usable_energy(energy, bound.warnings);
  bound.log_bound_samples = log_bound(sde, bound.times, used, bound.over_samples);
  bound.log_bound_box = log_bound(sde, bound.times, used, bound.over_box);
  bound.diameter = 2 * options.box * std::sqrt(double(d));
  warn_of_points("samples", bound.over_samples, bound.left_out_samples, bound.points_samples, bound.warnings);
  warn_of_points("points of the box", bound.over_box, bound.left_out_box, bound.points_box, bound.warnings);
  return bound;
}

}  // namespace fokker
