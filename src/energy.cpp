#include "energy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fokker/error.hpp"
#include "host_fields.hpp"

namespace fokker {
namespace {

// Between the sides, before there is a warning: a share of the dissipation on a grid, and standard errors by paths,
// where those of 16 batches exceed four by chance once in a thousand times.
constexpr double kTolerated = 0.1;
constexpr double kStandardErrors = 4;

// Everything that is a sum over times.
struct Totals {
  double dissipation, balance_left, balance_right, kl_end, kl_prior, residual_work;

  double left() const { return kl_end + dissipation; }
  double right() const { return kl_prior + residual_work; }
};

// By the trapezoidal rule over every `stride`-th time and the last.
Totals totals_of(const ForwardSde& sde, const std::vector<double>& times, const std::vector<EnergyMoments>& moments,
                 std::size_t stride = 1) {
  Totals totals{};
  double work = 0, work_of_q = 0;
  for (std::size_t k = 0; k + 1 < times.size(); k += stride) {
    const std::size_t next = std::min(k + stride, times.size() - 1);
    const double half = 0.5 * (times[k] - times[next]);
    for (const std::size_t end : {k, next}) {
      totals.dissipation += half * 0.5 * sde.at(times[end]).diffusion_squared * moments[end].energy;
      work += half * moments[end].residual, work_of_q += half * moments[end].residual_of_q;
    }
  }
  totals.balance_left = moments.back().log_u + totals.dissipation;
  totals.balance_right = moments.front().log_u + work;
  totals.kl_end = moments.back().log_u + moments.back().log_normaliser;
  totals.kl_prior = moments.front().log_u + moments.front().log_normaliser;
  totals.residual_work = work - work_of_q;
  return totals;
}

// value, with the jackknife's error: (B − 1)/B Σ_b (value without b − their mean)² (Efron 1982).
Estimate jackknife(double value, double step_error, const std::vector<double>& without) {
  Estimate estimate{value, 0, step_error};
  const double batches = double(without.size());
  double mean = 0, square = 0;
  for (const double v : without) mean += v / batches;
  for (const double v : without) square += (v - mean) * (v - mean);
  if (!without.empty()) estimate.standard_error = std::sqrt((batches - 1) / batches * square);
  return estimate;
}

void check(const Model& model, const TimeGrid& grid, const EnergyOptions& options) {
  check_potential("the energy of a reverse SDE", model);
  const double start = grid.times().front(), horizon = model.sde.horizon;
  if (!(std::abs(start - horizon) <= 1e-6 * horizon)) {
    throw Error(
        fmt::format("the energy needs times from the horizon {} on, and the time grid starts at {}", horizon, start));
  }
  if (options.method == EnergyMethod::grid && model.dimension() > 2) {
    throw Error(fmt::format("the energy on a grid was asked for in dimension {}; allowed: 1 and 2, and by paths beyond",
                            model.dimension()));
  }
  options.validate();
}

EnergyIdentity measure(const Context& context, const Model& model, const TimeGrid& grid, const EnergyOptions& options,
                       bool with_normaliser) {
  const bool on_grid =
      options.method == EnergyMethod::grid || (options.method == EnergyMethod::automatic && model.dimension() <= 2);
  if (!on_grid && options.from.times != 0) {
    throw Error(fmt::format("an energy by paths was to go on from {} times; allowed: on a grid", options.from.times));
  }
  const EnergyMeasurement measured =
      on_grid ? energy_on_grid(context, model, grid, options) : energy_by_paths(context, model, grid, options);
  std::vector<Totals> without;
  for (const auto& moments : measured.left_out) without.push_back(totals_of(model.sde, measured.times, moments));
  const Totals totals = totals_of(model.sde, measured.times, measured.all);
  // Both rules are of second order: a third of what half the steps of the paths change, and half the times.
  const std::vector<EnergyMoments>& coarse = on_grid ? measured.all : measured.coarse;
  const Totals coarse_paths = totals_of(model.sde, measured.times, coarse);
  const Totals coarse_times = on_grid ? totals : totals_of(model.sde, measured.times, measured.all, 2);
  const auto estimate = [&](auto of) {
    std::vector<double> values;
    for (const Totals& t : without) values.push_back(of(t));
    const double value = of(totals);
    return jackknife(value, (std::abs(value - of(coarse_paths)) + std::abs(value - of(coarse_times))) / 3, values);
  };
  EnergyIdentity identity;
  Energy& energy = identity.energy;
  energy.method = on_grid ? EnergyMethod::grid : EnergyMethod::paths;
  energy.times = measured.times;
  for (std::size_t k = 0; k < measured.times.size(); ++k) {
    std::vector<double> values;
    for (const auto& moments : measured.left_out) values.push_back(moments[k].energy);
    const double value = measured.all[k].energy;
    energy.energy.push_back(jackknife(value, std::abs(value - coarse[k].energy) / 3, values));
  }
  energy.mass = measured.mass;
  energy.warnings = measured.warnings;
  if (with_normaliser) {
    energy.warnings.insert(energy.warnings.end(), measured.normaliser_warnings.begin(),
                           measured.normaliser_warnings.end());
  }
  energy.dissipation = estimate([](const Totals& t) { return t.dissipation; });
  energy.left = estimate([](const Totals& t) { return t.balance_left; });
  energy.right = estimate([](const Totals& t) { return t.balance_right; });
  energy.difference = estimate([](const Totals& t) { return t.balance_left - t.balance_right; });
  identity.kl_end = estimate([](const Totals& t) { return t.kl_end; });
  identity.kl_prior = estimate([](const Totals& t) { return t.kl_prior; });
  identity.residual_work = estimate([](const Totals& t) { return t.residual_work; });
  identity.left = estimate([](const Totals& t) { return t.left(); });
  identity.right = estimate([](const Totals& t) { return t.right(); });
  identity.difference = estimate([](const Totals& t) { return t.left() - t.right(); });
  // The balance also has to integrate what φ has as a function of time alone, which the energy is free of and which the
  // identity does not see.
  const double apart = std::abs(with_normaliser ? identity.difference.value : energy.difference.value);
  if (on_grid && !(apart <= kTolerated * energy.dissipation.value)) {
    energy.warnings.push_back(
        fmt::format("the two sides differ by {:.3g}, where ½ ∫ g² e_t dt is {:.3g}: more nodes or times are needed to "
                    "tell it",
                    apart, energy.dissipation.value));
  }
  const auto warn_of_difference = [&](const char* sides, const Estimate& difference) {
    const double explained = kStandardErrors * difference.standard_error + difference.step_error;
    if (std::abs(difference.value) <= explained) return;
    energy.warnings.push_back(
        fmt::format("the two sides of the {} differ by {:.3g}, more than the {:.3g} that {} standard errors and the "
                    "steps of the paths and over times explain: more steps of the time grid or more times are needed",
                    sides, std::abs(difference.value), explained, kStandardErrors));
  };
  if (!on_grid) {
    warn_of_difference("balance", energy.difference);
    if (with_normaliser) warn_of_difference("identity", identity.difference);
  }
  return identity;
}

}  // namespace

void EnergyOptions::validate() const {
  if (!(nodes == 0 || (nodes >= 16 && nodes <= 4096)) || !(box > 0) || !std::isfinite(box)) {
    throw Error(
        fmt::format("the energy needs 16 to 4096 nodes an axis (or 0 for the default) and a positive, finite "
                    "box, and {} and {} were given",
                    nodes, box));
  }
  if (samples < 32 || samples % 16 != 0 || paths < 4 || paths % 2 != 0 || path_steps < 2 || times < 2 || times > 65) {
    throw Error(fmt::format(
        "the energy by paths needs a multiple of 16 samples from 32, an even number of paths from 4, 2 steps or "
        "more and 2 to 65 times, and {}, {}, {} and {} were given",
        samples, paths, path_steps, times));
  }
}

Energy reverse_sde_energy(const Context& context, const Model& model, const TimeGrid& grid,
                          const EnergyOptions& options) {
  check(model, grid, options);
  return measure(context, model, grid, options, false).energy;
}

EnergyIdentity energy_identity(const Context& context, const Model& model, const TimeGrid& grid,
                               const EnergyOptions& options) {
  check(model, grid, options);
  if (const RadialSlopes slopes = worst_radial_slopes(context, model, grid); !slopes.integrable) {
    throw Error(fmt::format("the energy identity needs an integrable e^φ, which has a Z: {}", slopes.reason));
  }
  return measure(context, model, grid, options, true);
}

}  // namespace fokker
