#include "diagnose.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "console.hpp"
#include "warnings.hpp"

namespace fokker::tools {
namespace {

Json estimate_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"standard_error", estimate.standard_error}, {"step_error", estimate.step_error}};
}

std::string text(const Estimate& estimate) {
  std::string text = fmt::format("{:.5g}", estimate.value);
  if (estimate.standard_error != 0) text += fmt::format(" ± {:.2g}", estimate.standard_error);
  return estimate.step_error == 0 ? text : fmt::format("{}, step error {:.2g}", text, estimate.step_error);
}

Json bound_json(const std::vector<double>& largest_eigenvalue, double log_bound, bool vacuous) {
  return {{"largest_eigenvalue", largest_eigenvalue},
          {"log_bound", log_bound},
          {"bound", std::exp(log_bound)},
          {"vacuous", vacuous}};
}

// An energy and the seconds that it took so far.
void save_energy(const SavedWork& saved, const EnergyState& state, double seconds) {
  SafeTensors file;
  const double progress[] = {double(state.times), state.share, seconds};
  file.tensors["progress"] = Tensor::from_double({3}, progress);
  file.tensors["log_u"] = Tensor::from_double({std::ssize(state.log_u)}, state.log_u.data());
  file.tensors["moments"] = Tensor::from_double({std::ssize(state.moments)}, state.moments.data());
  saved.save(std::move(file));
}

EnergyState load_energy(const SavedWork& saved, double& seconds) {
  const std::optional<SafeTensors> file = saved.load();
  if (!file) return {};
  try {
    const std::vector<double> progress = file->at("progress").to_double();
    if (progress.size() != 3) throw Error(fmt::format("it has {} numbers in progress; allowed: 3", progress.size()));
    if (!(progress[1] >= 0 && progress[1] <= 1)) {
      throw Error(fmt::format("its progress has the share {}; allowed: 0 to 1", progress[1]));
    }
    seconds = duration_of(progress[2], "its progress");
    return {count_of(progress[0], "its progress"), progress[1], file->at("log_u").to_double(),
            file->at("moments").to_double()};
  } catch (const Error& error) {
    throw saved.unusable(error.what());
  }
}

}  // namespace

Diagnosis diagnose(const Context& context, const Model& model, const TimeGrid& grid, const DiagnoseOptions& options,
                   const StepBegins& step, const SavedWork& saved) {
  const Stopwatch clock;
  Diagnosis diagnosis;
  diagnosis.slopes = worst_radial_slopes(context, model, grid);

  EnergyOptions energy = options.energy;
  energy.seed = options.seed;
  double seconds_before = 0;
  Stopwatch since_save;
  if (!saved.file.empty()) {
    energy.from = load_energy(saved, seconds_before);
    energy.save = [&](const EnergyState& state) {
      if (since_save.seconds() < saved.seconds_between_saves && state.times < std::ssize(grid.times())) return;
      save_energy(saved, state, seconds_before + clock.seconds());
      since_save = {};
    };
  }
  const bool goes_on = energy.from.times != 0;
  bool went_on = false;
  const FractionDone progress = step(0, energy.from.share);
  energy.progress = [&](double done) {
    went_on = true;
    progress(done);
  };
  try {
    if (diagnosis.slopes.integrable) {
      diagnosis.identity = energy_identity(context, model, grid, energy, diagnosis.slopes);
      diagnosis.energy = diagnosis.identity->energy;
    } else {
      diagnosis.energy = reverse_sde_energy(context, model, grid, energy);
    }
  } catch (const Error& error) {
    if (goes_on && !went_on) throw saved.unusable(error.what());  // its sizes are refused before any work
    throw;
  }

  UpperBoundOptions bound = options.bound;
  bound.seed = options.seed;
  bound.progress = step(1, 0);
  if (model.dimension() <= 64) diagnosis.bound = gap_upper_bound(context, model, diagnosis.energy, bound);

  const FractionDone sampled = step(2, 0);
  diagnosis.gap = std::numeric_limits<double>::quiet_NaN();
  diagnosis.gap_is_sliced = model.dimension() != 2;
  if (options.samples > 0) {
    const auto law = [&](Scheme scheme, double before) {
      Buffer<float> samples(context, options.samples, model.dimension());
      Sampler(context, model, grid)
          .sample(samples.view(), {.scheme = scheme, .seed = options.seed, .progress = as_fraction([&](double done) {
                                                                             sampled(before + 0.5 * done);
                                                                           })});
      return empirical_law(context, std::move(samples), Grid::within(options.energy.box), options.reach.far);
    };
    const EmpiricalLaw sde = law(Scheme::euler_maruyama, 0), ode = law(Scheme::heun, 0.5);
    diagnosis.escaped_ode = ode.escaped;
    diagnosis.escaped_sde = sde.escaped;
    diagnosis.gap_warnings = warnings_of("samples of the ODE", ode, options.reach.why);
    append(diagnosis.gap_warnings, warnings_of("samples of the SDE", sde, options.reach.why));
    diagnosis.gap = std::sqrt(std::max(0.0, w2_squared(context, ode, sde).w2_squared));
  }
  diagnosis.seconds = seconds_before + clock.seconds();
  return diagnosis;
}

Warnings Diagnosis::warnings() const {
  Warnings all = energy.warnings;
  if (bound) append(all, bound->warnings);
  append(all, gap_warnings);
  return all;
}

std::string exponential(double logarithm) {
  if (!std::isfinite(logarithm)) return fmt::format("{}", std::exp(logarithm));
  const double decimal = logarithm / std::log(10.0);
  if (std::abs(decimal) < 4) return fmt::format("{:.4g}", std::exp(logarithm));
  const double exponent = std::floor(decimal);
  return fmt::format("{:.2f}e{:+.0f}", std::pow(10.0, decimal - exponent), exponent);
}

Json diagnosis_json(const Diagnosis& diagnosis, const DiagnoseOptions& options, const std::string& grid) {
  Json json;
  const RadialSlopes& slopes = diagnosis.slopes;
  json["radial_slopes"] = {{"time", slopes.time},
                           {"largest", slopes.largest},
                           {"share_growing", slopes.share_growing},
                           {"integrable", slopes.integrable},
                           {"reason", slopes.integrable ? Json() : Json(slopes.reason)}};
  const Energy& energy = diagnosis.energy;
  std::vector<double> values, errors, step_errors;
  for (const Estimate& e : energy.energy) {
    values.push_back(e.value), errors.push_back(e.standard_error), step_errors.push_back(e.step_error);
  }
  json["energy"] = {{"method", to_string(energy.method)},
                    {"times", energy.times},
                    {"energy", values},
                    {"standard_error", errors},
                    {"step_error", step_errors}};
  json["energy"]["mass"] = energy.mass.empty() ? Json() : Json(energy.mass);
  json["energy"]["dissipation"] = estimate_json(energy.dissipation);
  json["energy"]["balance"] = {{"left", estimate_json(energy.left)},
                               {"right", estimate_json(energy.right)},
                               {"difference", estimate_json(energy.difference)}};
  json["identity"] = nullptr;
  if (diagnosis.identity) {
    const EnergyIdentity& identity = *diagnosis.identity;
    json["identity"] = {{"kl_end", estimate_json(identity.kl_end)},
                        {"dissipation", estimate_json(energy.dissipation)},
                        {"kl_prior", estimate_json(identity.kl_prior)},
                        {"residual_work", estimate_json(identity.residual_work)},
                        {"left", estimate_json(identity.left)},
                        {"right", estimate_json(identity.right)},
                        {"difference", estimate_json(identity.difference)}};
  }
  json["upper_bound"] = nullptr;
  if (const auto& bound = diagnosis.bound) {
    json["upper_bound"] = {
        {"over_samples", bound_json(bound->over_samples, bound->log_bound_samples, bound->vacuous_samples())},
        {"over_box", bound_json(bound->over_box, bound->log_bound_box, bound->vacuous_box())},
        {"diameter", bound->diameter},
        {"left_out", {{"samples", bound->left_out_samples}, {"box", bound->left_out_box}}}};
  }
  json["gap"] = {{"w2", diagnosis.gap_is_sliced ? Json() : Json(diagnosis.gap)},
                 {"sliced_w2", diagnosis.gap_is_sliced ? Json(diagnosis.gap) : Json()},
                 {"samples", options.samples},
                 {"escaped", {{"ode", diagnosis.escaped_ode}, {"sde", diagnosis.escaped_sde}}}};
  json["resolved"] = energy.resolved;
  json["warnings"] = diagnosis.warnings();
  json["grid"] = grid;
  json["seed"] = options.seed;
  return json;
}

std::string diagnosis_text(const Diagnosis& diagnosis) {
  const Energy& energy = diagnosis.energy;
  std::string out =
      fmt::format("radial slopes of φ: {:.3g} at most, {:.3g} % of the directions growing, at t = {:.4g}\n",
                  diagnosis.slopes.largest, 100 * diagnosis.slopes.share_growing, diagnosis.slopes.time);
  if (!diagnosis.slopes.integrable) {
    out +=
        fmt::format("  e^φ is not integrable, so there is no q and no energy identity: {}\n", diagnosis.slopes.reason);
  }
  out += fmt::format("energy e_t by {}, t from {:.4g} to {:.4g}\n", to_string(energy.method), energy.times.front(),
                     energy.times.back());
  out += fmt::format("  at T {}, at the end {}\n", text(energy.energy.front()), text(energy.energy.back()));
  out += fmt::format("  ½ ∫ g² e_t dt                {}\n", text(energy.dissipation));
  if (diagnosis.identity) {
    const EnergyIdentity& identity = *diagnosis.identity;
    out += fmt::format("energy identity\n  KL(p^S_0 ‖ q_0)              {}\n  left side                    {}\n",
                       text(identity.kl_end), text(identity.left));
    out += fmt::format(
        "  KL(π ‖ q_T)                  {}\n  ∫ (E_p R − E_q R) dt         {}\n  right side                   {}\n",
        text(identity.kl_prior), text(identity.residual_work), text(identity.right));
    out += fmt::format("  left − right                 {}\n", text(identity.difference));
  } else {
    out += fmt::format("balance without Z: left {}, right {}, difference {}\n", text(energy.left), text(energy.right),
                       text(energy.difference));
  }
  out += fmt::format("gap between the samplers\n  {:<15} {}\n", diagnosis.gap_is_sliced ? "sliced W2" : "W2",
                     number_or_dash(diagnosis.gap));
  if (const auto& bound = diagnosis.bound) {
    out += "estimates of its upper bound (a maximum over points is no bound)\n";
    const auto line = [&](const char* where, double log_bound, bool vacuous) {
      out += fmt::format("  L over {:<8} {}{}\n", where, exponential(log_bound),
                         vacuous ? fmt::format("  vacuous: the box is {:.3g} across", bound->diameter) : "");
    };
    line("samples", bound->log_bound_samples, bound->vacuous_samples());
    line("box", bound->log_bound_box, bound->vacuous_box());
  }
  return out;
}

}  // namespace fokker::tools
