// The names of the public enumerations.
#include "core/names.hpp"

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/activation.hpp"
#include "fokker/model.hpp"
#include "fokker/sampler.hpp"
#include "fokker/trainer.hpp"

namespace fokker {
namespace {

constexpr Named<BackendKind> backend_names[] = {
    {"auto", BackendKind::automatic}, {"cpu", BackendKind::cpu}, {"cuda", BackendKind::cuda}};
constexpr Named<Precision> precision_names[] = {
    {"split", Precision::split}, {"fp32", Precision::fp32}, {"half", Precision::half}};
constexpr Named<ProbeLaw> probe_law_names[] = {{"rademacher", ProbeLaw::rademacher}, {"gaussian", ProbeLaw::gaussian}};
constexpr Named<Output> output_names[] = {{"potential", Output::potential}, {"score", Output::score}};
constexpr Named<Form> form_list[] = {
    {"score", Form::score}, {"noise", Form::noise},       {"denoised", Form::denoised},
    {"v", Form::v},         {"velocity", Form::velocity}, {"velocity-to-data", Form::velocity_to_data},
    {"edm", Form::edm}};
constexpr Named<TimeInput> time_input_names[] = {
    {"time", TimeInput::time}, {"sigma", TimeInput::sigma}, {"log-sigma", TimeInput::log_sigma}};
constexpr Named<Scheme> scheme_names[] = {{"euler-maruyama", Scheme::euler_maruyama},
                                          {"sde", Scheme::euler_maruyama},
                                          {"euler", Scheme::euler},
                                          {"ode", Scheme::euler},
                                          {"heun", Scheme::heun},
                                          {"rk4", Scheme::rk4}};
constexpr Named<TimeLaw> time_law_names[] = {{"paper", TimeLaw::paper},
                                             {"uniform", TimeLaw::uniform},
                                             {"importance", TimeLaw::importance},
                                             {"log-normal", TimeLaw::log_normal}};
constexpr Named<LossWeight> loss_weight_names[] = {
    {"unit", LossWeight::unit}, {"score", LossWeight::score}, {"variance", LossWeight::variance}};
constexpr Named<RateSchedule> schedule_names[] = {{"paper", RateSchedule::paper},
                                                  {"one-cycle", RateSchedule::one_cycle},
                                                  {"cosine", RateSchedule::cosine},
                                                  {"constant", RateSchedule::constant}};
constexpr Named<WeightAverage> average_names[] = {
    {"none", WeightAverage::none}, {"exponential", WeightAverage::exponential}, {"tail", WeightAverage::tail}};

constexpr NameTable<ActivationTraits, Activation ActivationTraits::*> activations{"activation", Activations::traits,
                                                                                  &ActivationTraits::activation};
constexpr auto backends = names("backend", backend_names);
constexpr auto precisions = names("precision", precision_names);
constexpr auto probe_laws = names("law of probes", probe_law_names);
constexpr auto outputs = names("output", output_names);
constexpr auto forms = names("form", form_list);
constexpr auto time_inputs = names("time input", time_input_names);
constexpr auto loss_weights = names("loss weight", loss_weight_names);
constexpr auto schemes = names("scheme", scheme_names);
constexpr auto time_laws = names("time law", time_law_names);
constexpr auto schedules = names("rate schedule", schedule_names);
constexpr auto averages = names("weight average", average_names);

}  // namespace

std::vector<std::string_view> activation_names() {
  std::vector<std::string_view> names;
  for (const ActivationTraits& traits : Activations::traits) names.push_back(traits.name);
  return names;
}

std::vector<std::string_view> form_names() {
  std::vector<std::string_view> names;
  for (const Named<Form>& form : form_list) names.push_back(form.name);
  return names;
}

std::map<std::string, std::string> activation_parameters() {
  std::map<std::string, std::string> parameters;
  for (const ActivationTraits& traits : Activations::traits) {
    if (!traits.has_parameter()) continue;
    std::string& meanings = parameters[traits.parameter.name];
    meanings += fmt::format("{}{}", meanings.empty() ? "" : "; ", traits.parameter.meaning);
  }
  return parameters;
}

Activation parse_activation(std::string_view name) { return activations.parse(name); }
BackendKind parse_backend(std::string_view name) { return backends.parse(name); }
Precision parse_precision(std::string_view name) { return precisions.parse(name); }
ProbeLaw parse_probe_law(std::string_view name) { return probe_laws.parse(name); }
Output parse_output(std::string_view name) {
  for (const Named<Form>& form : form_list) {
    if (name != form.name || form.value == Form::score) continue;
    throw Error(
        fmt::format("unknown output {}: allowed are potential, score; what a network predicts is its form, as "
                    "form {}",
                    in_quotes(name), name));
  }
  return outputs.parse(name);
}
Form parse_form(std::string_view name) { return forms.parse(name); }
TimeInput parse_time_input(std::string_view name) { return time_inputs.parse(name); }
LossWeight parse_loss_weight(std::string_view name) { return loss_weights.parse(name); }
Scheme parse_scheme(std::string_view name) { return schemes.parse(name); }
TimeLaw parse_time_law(std::string_view name) { return time_laws.parse(name); }
RateSchedule parse_rate_schedule(std::string_view name) { return schedules.parse(name); }
WeightAverage parse_weight_average(std::string_view name) { return averages.parse(name); }

std::string_view to_string(Activation activation) { return activations.name(activation); }
std::string_view to_string(BackendKind kind) { return backends.name(kind); }
std::string_view to_string(Precision precision) { return precisions.name(precision); }
std::string_view to_string(ProbeLaw law) { return probe_laws.name(law); }
std::string_view to_string(Output output) { return outputs.name(output); }
std::string_view to_string(Form form) { return forms.name(form); }
std::string_view to_string(TimeInput input) { return time_inputs.name(input); }
std::string_view to_string(LossWeight weight) { return loss_weights.name(weight); }
std::string_view to_string(Scheme scheme) { return schemes.name(scheme); }
std::string_view to_string(TimeLaw law) { return time_laws.name(law); }
std::string_view to_string(RateSchedule schedule) { return schedules.name(schedule); }
std::string_view to_string(WeightAverage average) { return averages.name(average); }

}  // namespace fokker
