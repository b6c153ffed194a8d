#include "operations/sampler_stages.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <variant>

#include "fokker/error.hpp"
#include "operations/data_tables.hpp"

namespace fokker {
namespace {

// A stage before the form is folded in: the score's coefficients are those of s. Where dt is not 0, c is the family's drift
// times dt.
struct Move {
  double t = 0, node = 0, weight = 1;
  StepCoefficients<double> c = {};
  double dt = 0;  // of a drift's
  bool opens = true, closes = true, before_step = false;
  double lift = 0, lift_noise = 0, before = 0;
  double keep = 0, keep_score = 0;
};

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

// ln r, r = σ/m; −∞ where there is no noise.
double log_ratio(const SdeFormulas& sde, double t) {
  const auto c = sde.at(t);
  return std::log(c.variance) / 2 - std::log(c.mean);
}

// From t to `to`, of a step that came to t from `last`; of the first, last is t.
Move dpm_solver_step(const SdeFormulas& sde, double last, double t, double to, double eta) {
  const auto from = sde.at(t), end = sde.at(to);
  const double h = log_ratio(sde, t) - log_ratio(sde, to), eta_squared = eta * eta;  // ∞ onto σ_1 = 0
  const double shrink = std::sqrt(end.variance / from.variance) * (eta == 0 ? 1 : std::exp(-eta_squared * h));
  const double of_data = -end.mean * std::expm1(-(1 + eta_squared) * h);
  const double extrapolated = last == t || !std::isfinite(h) ? 0 : h / (2 * (log_ratio(sde, last) - log_ratio(sde, t)));
  // x̂_0 = (x + σ² s)/m
  Move move{.t = t, .keep = 1 / from.mean, .keep_score = from.variance / from.mean};
  const double now = of_data * (1 + extrapolated);
  move.c = {shrink - 1 + now * move.keep, now * move.keep_score,
            eta == 0 ? 0 : std::sqrt(-end.variance * std::expm1(-2 * eta_squared * h))};
  move.before = -of_data * extrapolated;
  return move;
}

// The time up to T at which ln r is `ratio`, above that of t; by bisection to the last bit.
double later_time(const ForwardSde& sde, double ratio, double t) {
  double low = t, high = sde.horizon();
  if (log_ratio(sde.formulas(), high) <= ratio) return high;
  for (;;) {
    const double middle = low + (high - low) / 2;
    if (!(middle > low && middle < high)) return high;
    (log_ratio(sde.formulas(), middle) < ratio ? low : high) = middle;
  }
}

// An explicit Runge–Kutta scheme from t to `to`; at_beginning: all its stages at t.
std::vector<Move> runge_kutta_moves(const SdeFormulas& sde, const RungeKutta& rule, double t, double to,
                                    bool at_beginning) {
  std::vector<Move> moves;
  for (int i = 0; i < rule.stages; ++i) {
    const double node = at_beginning ? 0 : rule.node[i], at = std::lerp(t, to, node);  // exact at both ends
    moves.push_back({.t = at,
                     .node = node,
                     .weight = rule.weight[i],
                     .c = probability_flow_step(sde, at, to - t),
                     .dt = to - t,
                     .opens = i == 0,
                     .closes = i + 1 == rule.stages});
  }
  return moves;
}

// The flow's step, from a later time where it is churned.
std::vector<Move> flow_moves(const ForwardSde& of, const Churn& churn, const RungeKutta& rule, int steps, double t,
                             double to, bool at_beginning) {
  const SdeFormulas& sde = of.formulas();
  const double ratio = log_ratio(sde, t), raised = std::log1p(std::min(churn.amount / steps, std::sqrt(2.0) - 1));
  if (!(churn.amount > 0 && to < t && ratio >= std::log(churn.from) && ratio <= std::log(churn.to))) {
    return runge_kutta_moves(sde, rule, t, to, at_beginning);
  }
  const double later = later_time(of, ratio + raised, t);
  std::vector<Move> moves = runge_kutta_moves(sde, rule, later, to, at_beginning);
  const auto from = sde.at(t), lifted = sde.at(later);
  const double shrink = lifted.mean / from.mean;
  moves.front().lift = shrink - 1;
  moves.front().lift_noise = churn.noise * std::sqrt(std::fmax(lifted.variance - shrink * shrink * from.variance, 0));
  return moves;
}

std::vector<Move> stochastic_heun_moves(const SdeFormulas& sde, double eta, double t, double to, bool at_beginning) {
  const double dt = to - t;
  Move first{.t = t, .weight = 0.5, .c = reverse_sde_step(sde, t, dt, eta), .dt = dt, .closes = false};
  Move second = first;
  second.t = at_beginning ? t : to;
  second.node = at_beginning ? 0 : 1;
  second.c = reverse_sde_step(sde, second.t, dt, eta);
  second.c.noise = std::sqrt((first.c.noise * first.c.noise + second.c.noise * second.c.noise) / 2);
  if (at_beginning) first.c.noise = 0;
  second.opens = false, second.closes = true;
  return {first, second};
}

// The step from times[k], but for what comes before it.
std::vector<Move> moves_of(const ForwardSde& of, const Stepping& stepping, const std::vector<double>& times,
                           std::size_t k, bool at_beginning) {
  const SdeFormulas& sde = of.formulas();
  const double t = times[k], to = times[k + 1], eta = stepping.eta;
  const int steps = static_cast<int>(times.size()) - 1;
  const auto flow = [&](const RungeKutta& rule) {
    return flow_moves(of, stepping.churn, rule, steps, t, to, at_beginning);
  };
  switch (stepping.scheme) {
    case Scheme::euler: return flow(runge_kutta_euler());
    case Scheme::heun: return flow(runge_kutta_heun());
    case Scheme::rk4: return flow(runge_kutta_classical());
    case Scheme::exponential: return {{.t = t, .c = exponential_step(sde, t, to, eta)}};
    case Scheme::ddim: return {{.t = t, .c = ddim_step(sde, t, to, eta)}};
    case Scheme::dpm_solver_2m: return {dpm_solver_step(sde, times[k == 0 ? 0 : k - 1], t, to, eta)};
    case Scheme::stochastic_heun: return stochastic_heun_moves(sde, eta, t, to, at_beginning);
    case Scheme::euler_maruyama: break;
  }
  return {{.t = t, .c = reverse_sde_step(sde, t, to - t, eta), .dt = to - t}};
}

// A Langevin step at t, which leaves the law there as it is (sampler.hpp).
Move langevin_move(const SdeFormulas& sde, double ratio, double t) {
  const double step = 2 * ratio * ratio * sde.at(t).variance;
  return {.t = t, .c = {0, step, std::sqrt(2 * step)}, .before_step = true};
}

bool is_velocity(Form form) { return form == Form::velocity || form == Form::velocity_to_data; }

// inputs_only: of what the network is given alone.
bool is_infinite_at_zero(const NetworkForm& form, const ForwardSde& sde, bool inputs_only) {
  const FormCoefficients<double> c = form_at(form, sde.formulas(), 0.0);
  const bool inputs = std::isfinite(c.in) && std::isfinite(c.time);
  return !inputs || (!inputs_only && !(std::isfinite(c.skip) && std::isfinite(c.out)));
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
  // A velocity that is folded in is finite where its A and B are not.
  singular_at_zero = has_mixture_without_density(model) ||
                     is_infinite_at_zero(folded, model.sde, is_velocity(folded.form)) ||
                     std::any_of(inner.begin(), inner.end(),
                                 [&](const NetworkForm& form) { return is_infinite_at_zero(form, model.sde, false); });
}

void check_mixtures(const Model& model) {
  if (const auto* law = std::get_if<GaussianMixture>(&model.network)) check_fits_float32(*law);
  if (const auto* composition = std::get_if<Composition>(&model.network)) {
    for (const Term& term : composition->terms) check_mixtures(term.model);
  }
}

double SampleOptions::chosen_eta() const {
  return eta.value_or(!is_stochastic(scheme) || scheme == Scheme::ddim || scheme == Scheme::dpm_solver_2m ? 0 : 1);
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
  const auto in_range = [](const char* name, double given, bool allowed, const char* range) {
    if (!allowed) throw Error(fmt::format("{} {} given; allowed: {}", name, given, range));
  };
  in_range("churn", churn.amount, churn.amount >= 0 && std::isfinite(churn.amount), "0 or more");
  in_range("churn from", churn.from, churn.from >= 0 && churn.from <= churn.to, "0 up to where it ends");
  in_range("churn with noise", churn.noise, churn.noise > 0 && std::isfinite(churn.noise), "above 0");
  in_range("a Langevin step's ratio", langevin, langevin >= 0 && langevin <= 1, "0 to 1");
  if (churn.amount > 0 && is_stochastic(scheme)) {
    throw Error(
        fmt::format("churn {} given with {}; allowed with euler, heun and rk4", churn.amount, to_string(scheme)));
  }
  if (churn.amount > 0 && langevin > 0) {
    throw Error(
        fmt::format("churn {} and a Langevin step's ratio {} given; allowed: one of them", churn.amount, langevin));
  }
}

std::vector<Stage> stages_of(const ForwardSde& sde, const SamplerForms& forms, const std::vector<double>& times,
                             const Stepping& stepping) {
  const Scheme scheme = stepping.scheme;
  const NetworkForm& form = forms.folded;
  const double eta = stepping.eta;
  std::vector<Stage> stages;
  for (std::size_t k = 0; k + 1 < times.size(); ++k) {
    std::vector<Move> moves = moves_of(sde, stepping, times, k, times[k + 1] == 0 && forms.singular_at_zero);
    if (stepping.langevin > 0) {
      moves.insert(moves.begin(), langevin_move(sde.formulas(), stepping.langevin, times[k]));
    }
    for (Move& move : moves) {
      StepCoefficients<double>& c = move.c;
      // Where a step draws none, g² may be infinite.
      if (!move.before_step) {
        c.noise = eta == 0 || stepping.temperature == 0 ? 0 : c.noise * std::sqrt(stepping.temperature);
      }
      const FormCoefficients<double> f = form_at(form, sde.formulas(), move.t);
      if (is_velocity(form.form) && move.dt != 0) {
        // With A = 2 a/g² and B = ∓2/g² the family moves by ±(1 + η²) F − η² a x; the flow's is finite at both ends of time.
        const double sign = form.form == Form::velocity ? 1 : -1;
        c.linear = eta == 0 ? 0 : -eta * eta * c.linear;
        c.score = sign * (1 + eta * eta) * move.dt;
      } else {
        c.linear += c.score * f.skip;
        c.score *= f.out;
      }
      Stage stage{static_cast<float>(f.time),
                  static_cast<float>(move.node),
                  static_cast<float>(move.weight),
                  {static_cast<float>(c.linear), static_cast<float>(c.score), static_cast<float>(c.noise)},
                  static_cast<float>(f.in),
                  static_cast<float>(c.score * f.in)};
      stage.opens = move.opens, stage.closes = move.closes, stage.before_step = move.before_step;
      stage.lift = static_cast<float>(move.lift), stage.lift_noise = static_cast<float>(move.lift_noise);
      stage.before = static_cast<float>(move.before);
      if (move.keep_score != 0) {
        stage.keep = static_cast<float>(move.keep + move.keep_score * f.skip);
        stage.keep_output = static_cast<float>(move.keep_score * f.out);
      }
      for (const float number :
           {stage.time, stage.coefficients.linear, stage.coefficients.score, stage.coefficients.noise, stage.in,
            stage.trace, stage.lift, stage.lift_noise, stage.before, stage.keep, stage.keep_output}) {
        if (!std::isfinite(number)) refuse(scheme, move.t, form, sde);
      }
      for (const NetworkForm& inner : forms.inner) {  // taken at the time in float
        const auto own = rounded<float>(form_at(inner, sde.formulas(), static_cast<double>(stage.time)));
        for (const float number : {own.skip, own.out, own.in, own.time}) {
          if (!std::isfinite(number)) refuse(scheme, move.t, inner, sde);
        }
      }
      stages.push_back(stage);
    }
  }
  return stages;
}

void drop_last_noise(std::vector<Stage>& stages, int stages_per_step) {
  for (auto stage = stages.end() - stages_per_step; stage != stages.end(); ++stage) {
    if (!stage->before_step) stage->coefficients.noise = 0;
  }
}

}  // namespace fokker
