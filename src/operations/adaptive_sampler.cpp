#include "fokker/adaptive_sampler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <variant>

#include "core/check.hpp"
#include "core/names.hpp"
#include "core/operations.hpp"
#include "fokker/error.hpp"
#include "model/condition.hpp"
#include "operations/adaptive_rule.hpp"
#include "operations/curvature.hpp"
#include "operations/sampler_stages.hpp"

namespace fokker {
namespace {

constexpr std::int64_t largest_most_steps = 100'000'000;

constexpr Named<AdaptiveMethod> method_names[] = {
    {"bs32", AdaptiveMethod::bs32}, {"tsit5", AdaptiveMethod::tsit5}, {"dopri5", AdaptiveMethod::dopri5}};
constexpr auto methods = names("adaptive method", method_names);

template <class T>
void check_options(const AdaptiveOptions& options) {
  to_string(options.method);  // throws Error where there is no such method
  constexpr bool in_float = std::is_same_v<T, float>;
  constexpr double least = in_float ? 1e-6 : 1e-13;
  for (const auto& [what, tolerance] :
       {std::pair("relative", options.relative_tolerance), std::pair("absolute", options.absolute_tolerance)}) {
    if (tolerance >= least && tolerance <= 1) continue;
    throw Error(fmt::format("the {} tolerance is {}; allowed: {} to 1 in {}", what, tolerance, least,
                            in_float ? "float, and from 1e-13 in double" : "double"));
  }
  check_count("the largest number of steps", options.most_steps, 1, largest_most_steps);
}

// The flow's coefficients at a time, and those of what stays inside a composition, are numbers.
void check_finite_at(double t, const Model& model, const SamplerForms& forms) {
  const FlowCoefficients flow = flow_at(forms.folded, model.sde.formulas(), t);
  bool finite = !(t == 0 && forms.singular_at_zero);
  for (const double number : {flow.linear, flow.score, flow.in, flow.time}) finite = finite && std::isfinite(number);
  for (const NetworkForm& inner : forms.inner) {
    const FormCoefficients<double> own = form_at(inner, model.sde.formulas(), t);
    for (const double number : {own.skip, own.out, own.in, own.time}) finite = finite && std::isfinite(number);
  }
  if (finite) return;
  throw Error(fmt::format(
      "the probability flow is taken at t = {}, where a coefficient of the network's output {} under the SDE "
      "{}, or the score itself, is infinite; allowed: times that keep away from it",
      t, to_string(forms.folded.form), model.sde.name()));
}

std::string reason_of(PathEnd why, std::int64_t steps, double t) {
  switch (why) {
    case PathEnd::too_many_steps:
      return fmt::format("took {} steps, the most that are allowed, to t = {:.9g}", steps, t);
    case PathEnd::step_too_small: return fmt::format("needed a smaller step than times resolve at t = {:.9g}", t);
    case PathEnd::lost: return fmt::format("began at t = {:.9g} where the flow is not finite", t);
    case PathEnd::none:
    case PathEnd::reached: break;
  }
  return fmt::format("ended at t = {:.9g}", t);
}

}  // namespace

AdaptiveMethod parse_adaptive_method(std::string_view name) { return methods.parse(name); }
std::string_view to_string(AdaptiveMethod method) { return methods.name(method); }

std::string AdaptiveReport::failure() const {
  if (failed == 0) return "";
  return fmt::format("of {} {} {} did not reach {} end, the first of them number {}, which {}", paths,
                     paths == 1 ? "path" : "paths", failed, failed == 1 ? "its" : "their", first_failed,
                     reason_of(why_first, steps_of_first, time_of_first));
}

AdaptiveRule adaptive_rule(const Model& model, const AdaptivePlan& plan, bool density, double epsilon) {
  const AdaptiveOptions& options = plan.options;
  const int d = static_cast<int>(model.dimension());
  const EmbeddedTableau tableau = options.method == AdaptiveMethod::bs32    ? bogacki_shampine()
                                  : options.method == AdaptiveMethod::tsit5 ? tsitouras()
                                                                            : dormand_prince();
  return {tableau,
          model.form(),
          model.sde.formulas(),
          d,
          density ? d + 1 : d,
          density ? plan.end : plan.start,
          density ? plan.start : plan.end,
          options.relative_tolerance,
          options.absolute_tolerance,
          static_cast<std::int32_t>(options.most_steps),
          10 * epsilon};
}

void add(AdaptiveReport& to, std::int64_t number, const AdaptivePathReport& path) {
  ++to.paths;
  to.accepted += path.accepted;
  to.refused += path.refused;
  to.evaluations += path.evaluations;
  to.most_evaluations = std::max<std::int64_t>(to.most_evaluations, path.evaluations);
  if (path.ended == PathEnd::reached) return;
  ++to.failed;
  if (to.first_failed >= 0 && to.first_failed < number) return;
  to.first_failed = number;
  to.why_first = path.ended;
  to.steps_of_first = std::int64_t{path.accepted} + path.refused;
  to.time_of_first = path.time;
}

void add(AdaptiveReport& to, const AdaptiveReport& more) {
  to.paths += more.paths;
  to.accepted += more.accepted;
  to.refused += more.refused;
  to.evaluations += more.evaluations;
  to.most_evaluations = std::max(to.most_evaluations, more.most_evaluations);
  to.failed += more.failed;
  if (more.first_failed < 0 || (to.first_failed >= 0 && to.first_failed < more.first_failed)) return;
  to.first_failed = more.first_failed;
  to.why_first = more.why_first;
  to.steps_of_first = more.steps_of_first;
  to.time_of_first = more.time_of_first;
}

template <class T>
AdaptiveSampler<T>::AdaptiveSampler(const Context& context, const Model& model, double start, double end,
                                    const AdaptiveOptions& options)
    : device_(context.device()), horizon_(model.sde.horizon()), start_(start) {
  model.validate();
  dimension_ = model.dimension();
  condition_ = model.condition();
  why_no_curvature_ = why_no_curvature(model);
  check_options<T>(options);
  if (!(end >= 0 && end < start && start <= horizon_ * (1 + time_tolerance))) {
    throw Error(
        fmt::format("paths from t = {} to {} are asked for; allowed: from a time up to the horizon {} to one "
                    "before it, 0 at least",
                    start, end, horizon_));
  }
  if constexpr (std::is_same_v<T, float>) check_mixtures(model);
  const SamplerForms forms(model);
  for (const double t : {start, end}) check_finite_at(t, model, forms);
  const Model own = taking_own_condition(model, std::is_same_v<T, float>);
  const AdaptivePlan plan{start, end, options};
  if constexpr (std::is_same_v<T, float>) {
    operator_ = context.backend().adaptive_float(own, plan);
  } else {
    operator_ = context.backend().adaptive_double(own, plan);
  }
}

template <class T>
AdaptiveSampler<T>::~AdaptiveSampler() = default;
template <class T>
AdaptiveSampler<T>::AdaptiveSampler(AdaptiveSampler&&) noexcept = default;
template <class T>
AdaptiveSampler<T>& AdaptiveSampler<T>::operator=(AdaptiveSampler&&) noexcept = default;

template <class T>
void AdaptiveSampler<T>::check_call(std::int64_t paths, const AdaptiveCall<T>& call) const {
  check_condition(call.condition, paths, condition_, device_);
  if (!call.paths.empty() && std::ssize(call.paths) != paths) {
    throw Error(fmt::format("room for {} reports is given for {} paths; allowed: {}, or none", call.paths.size(), paths,
                            paths));
  }
}

template <class T>
AdaptiveReport AdaptiveSampler<T>::sample(View<T> samples, const AdaptiveCall<T>& call) const {
  AdaptiveOperator<T>& sampler = held(operator_, "AdaptiveSampler");
  check_view("samples", samples, any_rows, dimension_, device_);
  if (start_ < horizon_ * (1 - time_tolerance)) {
    throw Error(fmt::format("paths start at {} where the prior is the law at the horizon {}", start_, horizon_));
  }
  check_call(samples.rows, call);
  check_apart({{"samples", samples}}, {{"condition", call.condition}});
  return sampler.sample(samples, call, true);
}

template <class T>
AdaptiveReport AdaptiveSampler<T>::integrate(View<T> states, const AdaptiveCall<T>& call) const {
  AdaptiveOperator<T>& sampler = held(operator_, "AdaptiveSampler");
  check_view("states", states, any_rows, dimension_, device_);
  check_call(states.rows, call);
  check_apart({{"states", states}}, {{"condition", call.condition}});
  return sampler.sample(states, call, false);
}

template <class T>
AdaptiveReport AdaptiveSampler<T>::log_density(View<const T> x, View<T> log_density, const Divergence& divergence,
                                               const AdaptiveCall<T>& call) const {
  AdaptiveOperator<T>& sampler = held(operator_, "AdaptiveSampler");
  check_curvature("the log-density", why_no_curvature_);
  check_view("x", x, any_rows, dimension_, device_);
  check_view("log_density", log_density, x.rows, 1, device_);
  check_count("the number of probes, 0 for the exact divergence,", divergence.probes, 0, most_probes);
  if (start_ < horizon_ * (1 - time_tolerance)) {
    throw Error(fmt::format("paths start at {} where the prior is the law at the horizon {}", start_, horizon_));
  }
  check_call(x.rows, call);
  check_apart({{"log_density", log_density}}, {{"x", x}, {"condition", call.condition}});
  return sampler.log_density(x, log_density, divergence, call);
}

template <class T>
std::size_t AdaptiveSampler<T>::workspace_bytes() const {
  return held(operator_, "AdaptiveSampler").workspace_bytes();
}

template class AdaptiveSampler<float>;
template class AdaptiveSampler<double>;

}  // namespace fokker
