#include "operations/sampler_stages.hpp"

#include <fmt/format.h>

#include <cmath>
#include <variant>

#include "fokker/error.hpp"

namespace fokker {
namespace {

// Euler's for euler_maruyama too, whose single stage it is.
RungeKutta tableau(Scheme scheme) {
  switch (scheme) {
    case Scheme::heun: return runge_kutta_heun();
    case Scheme::rk4: return runge_kutta_classical();
    case Scheme::euler:
    case Scheme::euler_maruyama: break;
  }
  return runge_kutta_euler();
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
  if (!composition || !folded.plain()) return;
  for (const Term& term : composition->terms) inner.push_back(term.model.form());
}

int stages_per_step(Scheme scheme) { return tableau(scheme).stages; }

std::vector<Stage> stages_of(const ForwardSde& sde, const SamplerForms& forms, const std::vector<double>& times,
                             Scheme scheme) {
  const NetworkForm& form = forms.folded;
  const RungeKutta rule = tableau(scheme);
  const bool stochastic = scheme == Scheme::euler_maruyama;
  const bool velocity = form.form == Form::velocity || form.form == Form::velocity_to_data;
  std::vector<Stage> stages;
  stages.reserve((times.size() - 1) * static_cast<std::size_t>(rule.stages));
  for (std::size_t k = 0; k + 1 < times.size(); ++k) {
    const double dt = times[k + 1] - times[k];
    for (int i = 0; i < rule.stages; ++i) {
      const double t = std::lerp(times[k], times[k + 1], rule.node[i]);  // exact at both ends
      StepCoefficients<double> c =
          stochastic ? reverse_sde_step(sde.formulas(), t, dt) : probability_flow_step(sde.formulas(), t, dt);
      const FormCoefficients<double> f = form_at(form, sde.formulas(), t);
      if (velocity) {
        // With A = 2 a/g² and B = ∓2/g²: the probability flow moves by ±F, and the reverse SDE by ±2 F − a x.
        const double sign = form.form == Form::velocity ? 1 : -1;
        c.linear = stochastic ? -c.linear : 0;
        c.score = sign * (stochastic ? 2 * dt : dt);
      } else {
        c.linear += c.score * f.skip;
        c.score *= f.out;
      }
      const Stage stage{static_cast<float>(f.time),
                        static_cast<float>(rule.node[i]),
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
