#include "energy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fokker/error.hpp"
#include "host_fields.hpp"

namespace fokker {
namespace {

constexpr int kSlopeTimes = 32;  // at which e^φ is asked whether it is integrable

// Everything that is a sum over times.
struct Totals {
  double dissipation, balance_left, balance_right, kl_end, kl_prior, residual_work;

  double left() const { return kl_end + dissipation; }
  double right() const { return kl_prior + residual_work; }
};

// Integrals over time by the trapezoidal rule.
Totals totals_of(const ForwardSde& sde, const std::vector<double>& times, const std::vector<EnergyMoments>& moments) {
  Totals totals{};
  double work = 0;
  for (std::size_t k = 0; k + 1 < times.size(); ++k) {
    const double half = 0.5 * (times[k] - times[k + 1]);
    for (const std::size_t end : {k, k + 1}) {
      const EnergyMoments& m = moments[end];
      totals.dissipation += half * 0.5 * sde.at(times[end]).diffusion_squared * m.energy;
      totals.residual_work += half * (m.residual - m.residual_of_q);
      work += half * m.residual;
    }
  }
  totals.balance_left = moments.back().log_u + totals.dissipation;
  totals.balance_right = moments.front().log_u + work;
  totals.kl_end = moments.back().log_u + moments.back().log_normaliser;
  totals.kl_prior = moments.front().log_u + moments.front().log_normaliser;
  return totals;
}

// value, with the jackknife's error: (B − 1)/B Σ_b (value without b − their mean)² (Efron 1982).
Estimate jackknife(double value, const std::vector<double>& without) {
  Estimate estimate{value, 0};
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
  if (!(options.nodes == 0 || (options.nodes >= 16 && options.nodes <= 4096)) || !(options.box > 0) ||
      !std::isfinite(options.box)) {
    throw Error(
        fmt::format("the energy needs 16 to 4096 nodes an axis (or 0 for the default) and a positive, finite "
                    "box, and {} and {} were given",
                    options.nodes, options.box));
  }
  if (options.samples < 32 || options.samples % 16 != 0 || options.paths < 4 || options.paths % 2 != 0 ||
      options.path_steps < 2 || options.times < 2 || options.times > 65) {
    throw Error(fmt::format(
        "the energy by paths needs a multiple of 16 samples from 32, an even number of paths from 4, 2 steps or "
        "more and 2 to 65 times, and {}, {}, {} and {} were given",
        options.samples, options.paths, options.path_steps, options.times));
  }
}

EnergyIdentity measure(const Context& context, const Model& model, const TimeGrid& grid, const EnergyOptions& options) {
  const bool on_grid =
      options.method == EnergyMethod::grid || (options.method == EnergyMethod::automatic && model.dimension() <= 2);
  const EnergyMeasurement measured =
      on_grid ? energy_on_grid(context, model, grid, options) : energy_by_paths(context, model, grid, options);
  std::vector<Totals> without;
  for (const auto& moments : measured.left_out) without.push_back(totals_of(model.sde, measured.times, moments));
  const Totals totals = totals_of(model.sde, measured.times, measured.moments);
  const auto estimate = [&](auto of) {
    std::vector<double> values;
    for (const Totals& t : without) values.push_back(of(t));
    return jackknife(of(totals), values);
  };
  EnergyIdentity identity;
  Energy& energy = identity.energy;
  energy.method = on_grid ? EnergyMethod::grid : EnergyMethod::paths;
  energy.times = measured.times;
  for (std::size_t k = 0; k < measured.times.size(); ++k) {
    std::vector<double> values;
    for (const auto& moments : measured.left_out) values.push_back(moments[k].energy);
    energy.energy.push_back(jackknife(measured.moments[k].energy, values));
  }
  energy.mass = measured.mass;
  energy.warnings = measured.warnings;
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
  // Only the identity asks for Z.
  energy.warnings.insert(energy.warnings.end(), measured.normaliser_warnings.begin(),
                         measured.normaliser_warnings.end());
  return identity;
}

}  // namespace

Energy reverse_sde_energy(const Context& context, const Model& model, const TimeGrid& grid,
                          const EnergyOptions& options) {
  check(model, grid, options);
  return measure(context, model, grid, options).energy;
}

EnergyIdentity energy_identity(const Context& context, const Model& model, const TimeGrid& grid,
                               const EnergyOptions& options) {
  check(model, grid, options);
  const auto& times = grid.times();
  const std::size_t stride = std::max<std::size_t>(1, (times.size() + kSlopeTimes - 1) / kSlopeTimes);
  for (std::size_t k = 0; k < times.size() + stride - 1; k += stride) {
    const double t = std::min(times[std::min(k, times.size() - 1)], model.sde.horizon);
    const RadialSlopes slopes = radial_slopes(context, model, t);
    if (slopes.integrable) continue;
    throw Error(fmt::format("the energy identity needs an integrable e^φ, which has a Z: {}", slopes.reason));
  }
  return measure(context, model, grid, options);
}

}  // namespace fokker
