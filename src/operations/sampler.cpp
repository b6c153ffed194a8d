#include "fokker/sampler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <variant>

#include "core/check.hpp"
#include "core/operations.hpp"
#include "fokker/error.hpp"
#include "model/condition.hpp"
#include "operations/curvature.hpp"
#include "operations/sampler_stages.hpp"
#include "operations/standardised.hpp"

namespace fokker {
namespace {

void check_scheme(Scheme scheme) {
  switch (scheme) {
    case Scheme::euler_maruyama:
    case Scheme::euler:
    case Scheme::heun:
    case Scheme::rk4:
    case Scheme::exponential:
    case Scheme::ddim:
    case Scheme::dpm_solver_2m:
    case Scheme::stochastic_heun: return;
  }
  throw Error(fmt::format(
      "scheme number {} is not known; allowed are euler-maruyama, euler, heun, rk4, exponential, ddim, dpm++2m and "
      "stochastic-heun",
      static_cast<int>(scheme)));
}

void check_start(const TimeGrid& grid, double horizon) {
  if (const double start = grid.times().front(); start < horizon * (1 - time_tolerance)) {
    throw Error(fmt::format("the time grid starts at {} where the prior is the law at the horizon {}", start, horizon));
  }
}

// Log-densities of the samples are of the flow, from the prior on.
void check_density(const SampleOptions& options, View<const float> samples, bool from_prior,
                   const std::string& why_no_curvature, Device device) {
  if (!options.log_density) return;
  check_curvature("the log-density", why_no_curvature);
  check_view("log_density", options.log_density, samples.rows, 1, device);
  if (!from_prior)
    throw Error("log-densities of states that are given were asked for; allowed: of samples of the prior");
  if (is_stochastic(options.scheme) || options.churn.amount > 0 || options.langevin > 0) {
    throw Error(fmt::format(
        "log-densities of samples by {}{} were asked for; allowed: euler, heun, rk4 without churn or Langevin steps",
        to_string(options.scheme), is_stochastic(options.scheme) ? "" : " with noise"));
  }
  check_count("the number of probes, 0 for the exact divergence,", options.divergence.probes, 0, most_probes);
  check_apart({{"log_density", options.log_density}},
              {{"samples", samples}, {"snapshots", options.snapshots}, {"condition", options.condition}});
}

void check_snapshots(const SampleOptions& options, View<const float> samples, std::int64_t dimension, int steps,
                     Device device) {
  const auto& asked = options.snapshot_steps;
  const auto count = static_cast<std::int64_t>(asked.size());
  if (count > most_snapshots) {
    throw Error(fmt::format("{} snapshots asked for; allowed: up to {}", count, most_snapshots));
  }
  std::int64_t last = -1;
  for (const std::int32_t step : asked) {
    if (step <= last || step > steps) {
      throw Error(
          fmt::format("a snapshot after step {} asked for; allowed: increasing numbers from 0 to {}", step, steps));
    }
    last = step;
  }
  if (count == 0) return;
  check_view("snapshots", options.snapshots, count * samples.rows, dimension, device);
  check_apart({{"snapshots", options.snapshots}}, {{"samples", samples}});
}

}  // namespace

std::string usual_grid(const Model& model) {
  const auto* const sum = std::get_if<Composition>(&model.network);
  const bool in_form =
      !model.form().plain() || (sum && std::any_of(sum->terms.begin(), sum->terms.end(),
                                                   [](const Term& term) { return !term.model.form().plain(); }));
  if (const std::size_t steps = model.sde.betas().size(); steps > 0) {
    return fmt::format("uniform:{}:{}", steps - 1, model.sde.horizon() / static_cast<double>(steps));
  }
  if (!in_form) return "paper";
  // Equal steps of t are equal ratios of ve's σ, which geometric ones change by a fifth near T: by those the flow of an
  // exact score ends 30 noise floors from the data blob, by these 2.7.
  const bool exponential = model.sde.kind() == SdeKind::ve;
  return exponential ? fmt::format("uniform:300:{}", model.sde.t_min()) : "geometric:300";
}

Sampler::Sampler(const Context& context, const Model& model, const TimeGrid& grid)
    : device_(context.device()), grid_(grid), horizon_(model.sde.horizon()) {
  model.validate();
  dimension_ = model.dimension();
  condition_ = model.condition();
  why_no_curvature_ = why_no_curvature(model);
  if (const double start = grid_.times().front(); !(start <= horizon_ * (1 + time_tolerance))) {
    throw Error(fmt::format("the time grid starts at {}, beyond the horizon {} of the SDE", start, horizon_));
  }
  check_mixtures(model);
  const Model own = taking_own_condition(model, true);
  operator_ = standardised_sampler(context, context.backend().sampler(own, grid_), own.standardisation);
}

Sampler::~Sampler() = default;
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;

void Sampler::sample(View<float> samples, const SampleOptions& options) const {
  SampleOperator& sampler = held(operator_, "Sampler");
  check_view("samples", samples, any_rows, dimension_, device_);
  check_scheme(options.scheme);
  options.validate();
  check_start(grid_, horizon_);
  check_snapshots(options, samples, dimension_, grid_.steps(), device_);
  check_condition(options.condition, samples.rows, condition_, device_);
  check_apart({{"samples", samples}, {"snapshots", options.snapshots}}, {{"condition", options.condition}});
  check_density(options, samples, true, why_no_curvature_, device_);
  sampler.sample(samples, options, true);
}

void Sampler::integrate(View<float> samples, const SampleOptions& options) const {
  SampleOperator& sampler = held(operator_, "Sampler");
  check_view("samples", samples, any_rows, dimension_, device_);
  check_scheme(options.scheme);
  options.validate();
  check_snapshots(options, samples, dimension_, grid_.steps(), device_);
  check_condition(options.condition, samples.rows, condition_, device_);
  check_apart({{"samples", samples}, {"snapshots", options.snapshots}}, {{"condition", options.condition}});
  check_density(options, samples, false, why_no_curvature_, device_);
  sampler.sample(samples, options, false);
}

void Sampler::log_density(View<const float> x, View<float> log_density, Scheme scheme, const Divergence& divergence,
                          const PointsFinished& progress, View<const float> condition) const {
  SampleOperator& sampler = held(operator_, "Sampler");
  check_curvature("the log-density", why_no_curvature_);
  check_view("x", x, any_rows, dimension_, device_);
  check_view("log_density", log_density, x.rows, 1, device_);
  check_scheme(scheme);
  if (is_stochastic(scheme)) {
    throw Error(fmt::format("scheme {} given for a log-density; allowed: euler, heun, rk4, of the probability flow",
                            to_string(scheme)));
  }
  check_count("the number of probes, 0 for the exact divergence,", divergence.probes, 0, most_probes);
  check_start(grid_, horizon_);
  check_condition(condition, x.rows, condition_, device_);
  check_apart({{"log_density", log_density}}, {{"x", x}, {"condition", condition}});
  sampler.log_density(x, log_density, scheme, divergence, progress, condition);
}

std::size_t Sampler::workspace_bytes() const { return held(operator_, "Sampler").workspace_bytes(); }

}  // namespace fokker
