#include "diagnostics/energy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/names.hpp"
#include "diagnostics/host_fields.hpp"
#include "fokker/error.hpp"

namespace fokker {
namespace {

// An energy is resolved up to this step error, as a share of the dissipation (grid), and up to this number of standard
// errors between the sides (paths): those of 16 batches exceed four by chance once in a thousand times.
constexpr double kTolerated = 0.25;
constexpr double kStandardErrors = 4;
// On a grid the sides may differ by this share of the dissipation whatever their step errors, which can be 0; and an
// exact potential leaves no dissipation to compare with.
constexpr double kNegligible = 0.01, kNothing = 1e-6;

constexpr Named<EnergyMethod> method_names[] = {
    {"auto", EnergyMethod::automatic}, {"grid", EnergyMethod::grid}, {"paths", EnergyMethod::paths}};
constexpr auto methods = names("method of the energy", method_names);

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
  const double start = grid.times().front(), horizon = model.sde.horizon();
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

// [K] of e_t on a grid, as Estimate::step_error says. Between half_times the change that leaving out times makes is the
// larger one of the neighbours'.
std::vector<double> energy_errors(const EnergyMeasurement& measured) {
  const std::size_t times = measured.times.size();
  const auto by_times = [&](std::size_t j) {
    return std::abs(measured.half_nodes[std::min(2 * j, times - 1)].energy - measured.half_both[j].energy);
  };
  std::vector<double> errors;
  for (std::size_t k = 0; k < times; ++k) {
    const double by_nodes = std::abs(measured.all[k].energy - measured.half_nodes[k].energy);
    const std::size_t next = (k + 1) / 2;
    const bool between = std::min(2 * next, times - 1) != k;
    errors.push_back(by_nodes + (between ? std::max(by_times(next - 1), by_times(next)) : by_times(next)));
  }
  return errors;
}

EnergyIdentity measure(const Context& context, const Model& of_x, const TimeGrid& grid, const EnergyOptions& options,
                       bool with_normaliser) {
  const Model model = of_x.of_z();
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
  // As Estimate::step_error says.
  const ForwardSde& sde = model.sde;
  const Totals by_first = totals_of(sde, measured.times, on_grid ? measured.half_nodes : measured.coarse);
  const Totals by_second = on_grid ? totals_of(sde, measured.half_times, measured.half_both)
                                   : totals_of(sde, measured.times, measured.all, 2);
  const auto step_error = [&](auto of) {
    const double first = std::abs(of(totals) - of(by_first));
    return on_grid ? first + std::abs(of(by_first) - of(by_second))
                   : (first + std::abs(of(totals) - of(by_second))) / 3;
  };
  const auto estimate = [&](auto of) {
    std::vector<double> values;
    for (const Totals& t : without) values.push_back(of(t));
    return jackknife(of(totals), step_error(of), values);
  };
  EnergyIdentity identity;
  Energy& energy = identity.energy;
  energy.method = on_grid ? EnergyMethod::grid : EnergyMethod::paths;
  energy.times = measured.times;
  const std::vector<double> grid_errors = on_grid ? energy_errors(measured) : std::vector<double>();
  for (std::size_t k = 0; k < measured.times.size(); ++k) {
    std::vector<double> values;
    for (const auto& moments : measured.left_out) values.push_back(moments[k].energy);
    const double value = measured.all[k].energy;
    energy.energy.push_back(
        jackknife(value, on_grid ? grid_errors[k] : std::abs(value - measured.coarse[k].energy) / 3, values));
  }
  energy.mass = measured.mass;
  std::vector<std::string> faults = measured.faults;
  if (with_normaliser) {
    faults.insert(faults.end(), measured.normaliser_faults.begin(), measured.normaliser_faults.end());
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
  if (on_grid) {
    const Estimate& dissipation = energy.dissipation;
    if (!(dissipation.step_error <= kTolerated * dissipation.value + kNothing)) {
      faults.push_back(
          fmt::format("½ ∫ g² e_t dt is {:.3g} with a step error of {:.2g}: more nodes or times are needed",
                      dissipation.value, dissipation.step_error));
    }
    // The balance also has to integrate what φ has as a function of time alone, which the energy is free of and which
    // the identity does not see.
    const Estimate &left = with_normaliser ? identity.left : energy.left,
                   &right = with_normaliser ? identity.right : energy.right;
    const double apart = std::abs(left.value - right.value), explained = left.step_error + right.step_error;
    if (measured.share_left == 0 && !(apart <= explained + kNegligible * dissipation.value + kNothing)) {
      faults.push_back(
          fmt::format("the two sides differ by {:.3g}, more than the {:.3g} that their step errors explain: more nodes "
                      "or times are needed",
                      apart, explained));
    }
  }
  const auto check_difference = [&](const char* sides, const Estimate& difference) {
    const double explained = kStandardErrors * difference.standard_error + difference.step_error;
    if (std::abs(difference.value) <= explained) return;
    faults.push_back(
        fmt::format("the two sides of the {} differ by {:.3g}, more than the {:.3g} that {} standard errors and the "
                    "steps of the paths and over times explain: more steps of the time grid or more times are needed",
                    sides, std::abs(difference.value), explained, kStandardErrors));
  };
  if (!on_grid) {
    check_difference("balance", energy.difference);
    if (with_normaliser) check_difference("identity", identity.difference);
  }
  energy.resolved = faults.empty();
  energy.warnings = std::move(faults);
  energy.warnings.insert(energy.warnings.end(), measured.warnings.begin(), measured.warnings.end());
  return identity;
}

}  // namespace

EnergyMethod parse_energy_method(std::string_view name) { return methods.parse(name); }
std::string_view to_string(EnergyMethod method) { return methods.name(method); }

void EnergyOptions::validate() const {
  if (!(nodes == 0 || (nodes >= 16 && nodes <= 4096)) || !(box > 0) || !std::isfinite(box)) {
    throw Error(
        fmt::format("the energy needs 16 to 4096 nodes an axis (or 0 for the default) and a positive, finite "
                    "box, and {} and {} were given",
                    nodes, box));
  }
  constexpr std::int64_t most_samples = 1'000'000'000, most_paths = 65536, most_steps = 1'000'000;
  if (samples < 32 || samples > most_samples || samples % 16 != 0 || paths < 4 || paths > most_paths ||
      paths % 2 != 0 || path_steps < 2 || path_steps > most_steps || times < 2 || times > 65) {
    throw Error(fmt::format(
        "the energy by paths needs a multiple of 16 samples from 32 to {}, an even number of paths from 4 to {}, 2 to "
        "{} steps and 2 to 65 times, and {}, {}, {} and {} were given",
        most_samples, most_paths, most_steps, samples, paths, path_steps, times));
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
  return energy_identity(context, model, grid, options, worst_radial_slopes(context, model, grid));
}

EnergyIdentity energy_identity(const Context& context, const Model& model, const TimeGrid& grid,
                               const EnergyOptions& options, const RadialSlopes& slopes) {
  check(model, grid, options);
  if (!slopes.integrable) {
    throw Error(fmt::format("the energy identity needs an integrable e^φ, which has a Z: {}", slopes.reason));
  }
  return measure(context, model, grid, options, true);
}

}  // namespace fokker
