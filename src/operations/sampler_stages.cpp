#include "operations/sampler_stages.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <variant>

#include "fokker/error.hpp"

namespace fokker {
namespace {

// Euler's for the stochastic schemes too, whose single stage it is.
RungeKutta tableau(Scheme scheme) {
  switch (scheme) {
    case Scheme::heun: return runge_kutta_heun();
    case Scheme::rk4: return runge_kutta_classical();
    case Scheme::euler:
    case Scheme::euler_maruyama:
    case Scheme::exponential:
    case Scheme::ddim: break;
  }
  return runge_kutta_euler();
}

// From t to the earlier `to` (sampler.hpp has the formulas).
StepCoefficients<double> exponential_step(const SdeFormulas& sde, double t, double to, double eta) {
  const auto from = sde.at(t), end = sde.at(to);
  const double shrink = end.mean / from.mean, variance = shrink * shrink * from.variance - end.variance;
  const double moved = shrink * from.variance - std::sqrt(from.variance * end.variance);  // σ m_1 (r − r_1)
  return {shrink - 1, (1 + eta * eta) * moved, eta * std::sqrt(std::fmax(variance, 0))};
}
StepCoefficients<double> ddim_step(const SdeFormulas& sde, double t, double to, double eta) {
  const auto from = sde.at(t), end = sde.at(to);
  const double shrink = end.mean / from.mean, variance = shrink * shrink * from.variance - end.variance;
  // q², at most σ_1²
  const double noise_variance = eta * eta * end.variance * std::fmax(variance, 0) / (shrink * shrink * from.variance);
  const double kept = std::sqrt(std::fmax(end.variance - noise_variance, 0) * from.variance);
  return {shrink - 1, shrink * from.variance - kept, std::sqrt(noise_variance)};
}

StepCoefficients<double> coefficients_of(const SdeFormulas& sde, const Stepping& stepping, double t, double dt) {
  switch (stepping.scheme) {
    case Scheme::euler_maruyama: return reverse_sde_step(sde, t, dt, stepping.eta);
    case Scheme::exponential: return exponential_step(sde, t, t + dt, stepping.eta);
    case Scheme::ddim: return ddim_step(sde, t, t + dt, stepping.eta);
    case Scheme::euler:
    case Scheme::heun:
    case Scheme::rk4: break;
  }
  return probability_flow_step(sde, t, dt);
}

bool is_velocity(Form form) { return form == Form::velocity || form == Form::velocity_to_data; }

bool is_infinite_at_zero(const NetworkForm& form, const ForwardSde& sde) {
  const FormCoefficients<double> c = form_at(form, sde.formulas(), 0.0);
  return !std::isfinite(c.skip) || !std::isfinite(c.out) || !std::isfinite(c.in) || !std::isfinite(c.time);
}
bool has_mixture_without_density(const Model& model) {
  if (const auto* law = std::get_if<GaussianMixture>(&model.network)) {
    return std::any_of(law->eigenvalues().begin(), law->eigenvalues().end(), [](double v) { return !(v > 0); });
  }
  const auto* composition = std::get_if<Composition>(&model.network);
  return composition && std::any_of(composition->terms.begin(), composition->terms.end(),
                                    [](const Term& term) { return has_mixture_without_density(term.model); });
}

[[noreturn]] void refuse(Scheme scheme, double t, const NetworkForm& form, const ForwardSde& sde) {
  throw Error(
      fmt::format("the scheme {} takes the network at t = {}, where a coefficient of its output {} under the SDE "
                  "{} is infinite; allowed: a time grid or a horizon that keeps away from it",
                  to_string(scheme), t, to_string(form.form), sde.name()));
}

}  // namespace

SamplerForms::SamplerForms(const Model& model) : folded(model.form()) {
  const auto* composition = std::get_if<Composition>(&model.network);
  if (composition && folded.plain()) {
    for (const Term& term : composition->terms) inner.push_back(term.model.form());
  }
  const auto infinite = [&](const NetworkForm& form) { return is_infinite_at_zero(form, model.sde); };
  // A velocity that is folded in is finite where its coefficients are not.
  singular_at_zero = has_mixture_without_density(model) || (!is_velocity(folded.form) && infinite(folded)) ||
                     std::any_of(inner.begin(), inner.end(), infinite);
}

int stages_per_step(Scheme scheme) { return tableau(scheme).stages; }

double SampleOptions::chosen_eta() const {
  return eta.value_or(scheme == Scheme::euler_maruyama || scheme == Scheme::exponential ? 1 : 0);
}

void SampleOptions::validate() const {
  const double chosen = chosen_eta(), most = !is_stochastic(scheme) ? 0 : scheme == Scheme::ddim ? 1 : 100;
  if (!(chosen >= 0 && chosen <= most)) {
    throw Error(most > 0
                    ? fmt::format("eta {} given with {}; allowed: 0 to {}", chosen, to_string(scheme), most)
                    : fmt::format("eta {} given with {}, which draws no noise; allowed: 0", chosen, to_string(scheme)));
  }
  if (!(temperature >= 0 && std::isfinite(temperature))) {
    throw Error(fmt::format("temperature {} given; allowed: 0 or more", temperature));
  }
  if (temperature != 1 && chosen == 0) {
    throw Error(fmt::format("temperature {} given with {} at eta 0, which draws no noise; allowed: 1", temperature,
                            to_string(scheme)));
  }
}

std::vector<Stage> stages_of(const ForwardSde& sde, const SamplerForms& forms, const std::vector<double>& times,
                             const Stepping& stepping) {
  const Scheme scheme = stepping.scheme;
  const NetworkForm& form = forms.folded;
  const RungeKutta rule = tableau(scheme);
  const double eta = stepping.eta;
  const bool velocity = is_velocity(form.form);
  std::vector<Stage> stages;
  stages.reserve((times.size() - 1) * static_cast<std::size_t>(rule.stages));
  for (std::size_t k = 0; k + 1 < times.size(); ++k) {
    const double dt = times[k + 1] - times[k];
    const bool at_beginning = times[k + 1] == 0 && forms.singular_at_zero;
    for (int i = 0; i < rule.stages; ++i) {
      const double node = at_beginning ? 0 : rule.node[i];
      const double t = std::lerp(times[k], times[k + 1], node);  // exact at both ends
      StepCoefficients<double> c = coefficients_of(sde.formulas(), stepping, t, dt);
      // Where a step draws none, g² may be infinite.
      c.noise = eta == 0 || stepping.temperature == 0 ? 0 : c.noise * std::sqrt(stepping.temperature);
      const FormCoefficients<double> f = form_at(form, sde.formulas(), t);
      if (velocity && scheme != Scheme::exponential && scheme != Scheme::ddim) {
        // With A = 2 a/g² and B = ∓2/g² the family moves by ±(1 + η²) F − η² a x; the flow's is finite at both ends of time.
        const double sign = form.form == Form::velocity ? 1 : -1;
        c.linear = eta == 0 ? 0 : -eta * eta * c.linear;
        c.score = sign * (1 + eta * eta) * dt;
      } else {
        c.linear += c.score * f.skip;
        c.score *= f.out;
      }
      const Stage stage{static_cast<float>(f.time),
                        static_cast<float>(node),
                        static_cast<float>(rule.weight[i]),
                        {static_cast<float>(c.linear), static_cast<float>(c.score), static_cast<float>(c.noise)},
                        static_cast<float>(f.in),
                        static_cast<float>(c.score * f.in)};
      for (const float number : {stage.time, stage.coefficients.linear, stage.coefficients.score,
                                 stage.coefficients.noise, stage.in, stage.trace}) {
        if (!std::isfinite(number)) refuse(scheme, t, form, sde);
      }
      for (const NetworkForm& inner : forms.inner) {  // taken at the time in float
        const auto own = rounded<float>(form_at(inner, sde.formulas(), static_cast<double>(stage.time)));
        for (const float number : {own.skip, own.out, own.in, own.time}) {
          if (!std::isfinite(number)) refuse(scheme, t, inner, sde);
        }
      }
      stages.push_back(stage);
    }
  }
  return stages;
}

}  // namespace fokker
