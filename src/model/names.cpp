// The names of the public enumerations.
#include "core/names.hpp"

#include <algorithm>
#include <charconv>
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
constexpr Named<Output> output_list[] = {{"potential", Output::potential}, {"score", Output::score}};
constexpr Named<Form> form_list[] = {
    {"score", Form::score}, {"noise", Form::noise},       {"denoised", Form::denoised},
    {"v", Form::v},         {"velocity", Form::velocity}, {"velocity-to-data", Form::velocity_to_data},
    {"edm", Form::edm}};
constexpr Named<TimeInput> time_input_names[] = {{"t", TimeInput::time},
                                                 {"sigma", TimeInput::sigma},
                                                 {"log-sigma", TimeInput::log_sigma},
                                                 {"log-snr", TimeInput::log_snr}};
constexpr Named<Scheme> scheme_names[] = {{"euler-maruyama", Scheme::euler_maruyama},
                                          {"sde", Scheme::euler_maruyama},
                                          {"euler", Scheme::euler},
                                          {"ode", Scheme::euler},
                                          {"heun", Scheme::heun},
                                          {"rk4", Scheme::rk4},
                                          {"exponential", Scheme::exponential},
                                          {"ddim", Scheme::ddim},
                                          {"dpm++2m", Scheme::dpm_solver_2m},
                                          {"stochastic-heun", Scheme::stochastic_heun}};
constexpr Named<TimeLaw> time_law_names[] = {{"paper", TimeLaw::paper},
                                             {"uniform", TimeLaw::uniform},
                                             {"importance", TimeLaw::importance},
                                             {"log-normal", TimeLaw::log_normal}};
constexpr Named<LossWeight> loss_weight_names[] = {{"unit", LossWeight::unit},
                                                   {"score", LossWeight::score},
                                                   {"variance", LossWeight::variance},
                                                   {"given", LossWeight::given}};
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
constexpr auto outputs = names("output", output_list);
constexpr auto forms = names("form", form_list);
constexpr auto time_inputs = names("time input", time_input_names);
constexpr auto loss_weights = names("loss weight", loss_weight_names);
constexpr auto schemes = names("scheme", scheme_names);
constexpr auto time_laws = names("time law", time_law_names);
constexpr auto schedules = names("rate schedule", schedule_names);
constexpr auto averages = names("weight average", average_names);

// A velocity is no form of a potential net: its coefficients' derivatives by t are not there.
std::vector<NetworkOutput> network_outputs() {
  std::vector<NetworkOutput> list;
  for (const Output output : {Output::potential, Output::score}) {
    for (const Named<Form>& form : form_list) {
      const bool velocity = form.value == Form::velocity || form.value == Form::velocity_to_data;
      if (output == Output::score || !velocity) list.push_back({output, form.value});
    }
  }
  return list;
}

// What stands between commas.
std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0, end = 0; end != std::string_view::npos; begin = end + 1) {
    end = text.find(',', begin);
    parts.push_back(text.substr(begin, end - begin));
  }
  return parts;
}

}  // namespace

std::vector<std::string_view> activation_names() {
  std::vector<std::string_view> names;
  for (const ActivationTraits& traits : Activations::traits) names.push_back(traits.name);
  return names;
}

std::vector<std::string> output_names() {
  std::vector<std::string> names;
  for (const NetworkOutput& output : network_outputs()) names.push_back(to_string(output));
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

LayerActivation parse_layer_activation(std::string_view text) {
  const std::size_t open = text.find('(');
  LayerActivation layer{activations.parse(text.substr(0, open)), 1};
  const ActivationParameter& parameter = traits_of(layer.activation).parameter;
  const std::string_view inside = open == std::string_view::npos ? "" : text.substr(open + 1);
  const char* end = inside.data() + inside.size();
  if (parameter.name) {
    const auto [stop, code] = std::from_chars(inside.data(), end, layer.beta);
    if (code == std::errc() && std::string_view(stop, end) == ")") return layer;
    throw Error(fmt::format("the activation {} of a layer given; allowed: with its {}, as {}({:g})", in_quotes(text),
                            parameter.name, to_string(layer.activation), parameter.usual));
  }
  if (open == std::string_view::npos) return layer;
  throw Error(fmt::format("the activation {} of a layer given; allowed: {}, which has no parameter", in_quotes(text),
                          to_string(layer.activation)));
}
std::vector<LayerActivation> parse_activations(std::string_view text) {
  std::vector<LayerActivation> layers;
  for (const std::string_view part : parts_of(text)) layers.push_back(parse_layer_activation(part));
  return layers;
}
std::string to_string(const LayerActivation& layer) {
  const std::string name(to_string(layer.activation));
  return traits_of(layer.activation).has_parameter() ? fmt::format("{}({})", name, layer.beta) : name;
}
std::string activations_text(const Architecture& architecture) {
  std::string text;
  for (const LayerActivation& layer : architecture.activations) {
    text += fmt::format("{}{}", text.empty() ? "" : ",", to_string(layer));
  }
  return text.empty() ? to_string(LayerActivation{architecture.activation, architecture.beta}) : text;
}

std::vector<BranchLayer> parse_branch(std::string_view text) {
  std::vector<BranchLayer> layers;
  for (const std::string_view part : parts_of(text)) {
    BranchLayer layer;
    std::string_view rest = part;
    if (rest.starts_with("fixed:")) layer.fixed = true, rest.remove_prefix(6);
    const std::size_t colon = rest.rfind(':');
    const std::string_view width = colon == std::string_view::npos ? "" : rest.substr(colon + 1);
    const char* end = width.data() + width.size();
    const auto [stop, code] = std::from_chars(width.data(), end, layer.width);
    if (width.empty() || code != std::errc() || stop != end) {
      throw Error(
          fmt::format("the layer {} of a branch given; allowed: [fixed:]ACTIVATION:WIDTH, as "
                      "fixed:sine:32,silu:32",
                      in_quotes(part)));
    }
    if (layer.width < 1 || layer.width > 16384 || layers.size() == 64) {
      throw Error(fmt::format("the layer {} of a branch given; allowed: up to 64 layers of widths 1 to 16384",
                              in_quotes(part)));
    }
    layer.activation = parse_layer_activation(rest.substr(0, colon));
    layers.push_back(layer);
  }
  return layers;
}
std::string branch_text(const std::vector<BranchLayer>& layers) {
  std::string text;
  for (const BranchLayer& layer : layers) {
    text += fmt::format("{}{}{}:{}", text.empty() ? "" : ",", layer.fixed ? "fixed:" : "", to_string(layer.activation),
                        layer.width);
  }
  return text;
}

std::vector<std::int64_t> parse_layers(std::string_view text, const std::vector<std::string>& names) {
  std::vector<std::int64_t> layers;
  if (text == "none") return layers;
  for (const std::string_view part : parts_of(text)) {
    const auto found = std::find(names.begin(), names.end(), part);
    if (found == names.end()) {
      throw Error(fmt::format("the layer {} given; allowed: {}, with commas between, or none", in_quotes(part),
                              printable(fmt::format("{}", fmt::join(names, ", ")), 120)));
    }
    layers.push_back(found - names.begin());
    if (std::count(layers.begin(), layers.end(), layers.back()) > 1) {
      throw Error(fmt::format("the layer {} given twice; allowed: each once", in_quotes(part)));
    }
  }
  std::sort(layers.begin(), layers.end());
  return layers;
}
std::string layers_text(const std::vector<std::int64_t>& layers, const std::vector<std::string>& names) {
  std::string text;
  for (const std::int64_t layer : layers) {
    text += fmt::format("{}{}", text.empty() ? "" : ",", names[static_cast<std::size_t>(layer)]);
  }
  return text.empty() ? "none" : text;
}

Activation parse_activation(std::string_view name) { return activations.parse(name); }
BackendKind parse_backend(std::string_view name) { return backends.parse(name); }
Precision parse_precision(std::string_view name) { return precisions.parse(name); }
ProbeLaw parse_probe_law(std::string_view name) { return probe_laws.parse(name); }
NetworkOutput parse_output(std::string_view name) {
  for (const NetworkOutput& output : network_outputs()) {
    if (name == to_string(output)) return output;
  }
  throw Error(fmt::format("unknown output {}: allowed are {}", in_quotes(name), fmt::join(output_names(), ", ")));
}
std::vector<LayerInput> parse_inputs(std::string_view text, NetworkForm& form) {
  const auto refuse = [&] {
    throw Error(
        fmt::format("inputs {} given; allowed: t,x or x,t, where t may be [SCALE*]NAME[+OFFSET], NAME one of t, sigma, "
                    "log-sigma, log-snr, as in x,0.25*log-sigma; with a condition y, at any place, as x,t,y",
                    in_quotes(text)));
  };
  std::vector<LayerInput> order;
  std::string_view time;
  for (const std::string_view part : parts_of(text)) {
    order.push_back(part == "x" ? LayerInput::x : part == "y" ? LayerInput::condition : LayerInput::time);
    if (order.back() == LayerInput::time) time = part;
    if (std::count(order.begin(), order.end(), order.back()) > 1) refuse();
  }
  for (const LayerInput needed : {LayerInput::time, LayerInput::x}) {
    if (std::find(order.begin(), order.end(), needed) == order.end()) refuse();
  }
  const auto number = [&](std::string_view digits) {
    double value = 0;
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (code != std::errc() || end != digits.data() + digits.size()) refuse();
    return value;
  };
  double scale = 1, offset = 0;
  if (const std::size_t times = time.find('*'); times != std::string_view::npos) {
    scale = number(time.substr(0, times));
    time.remove_prefix(times + 1);
  }
  const Named<TimeInput>* found = nullptr;
  for (const Named<TimeInput>& row : time_input_names) {
    if (!time.starts_with(row.name)) continue;
    const std::string_view rest = time.substr(row.name.size());
    if (!rest.empty() && rest.front() != '+' && rest.front() != '-') continue;
    found = &row;
    if (!rest.empty()) offset = number(rest);
  }
  if (found == nullptr) refuse();
  form.time_input = found->value, form.time_scale = scale, form.time_offset = offset;
  return order;
}
std::string inputs_of(const NetworkForm& form) {
  std::string text = form.time_scale == 1 ? "" : fmt::format("{}*", form.time_scale);
  text += time_inputs.name(form.time_input);
  if (form.time_offset != 0) text += fmt::format("{:+}", form.time_offset);
  return text + ",x";
}
std::string inputs_of(const Architecture& architecture) {
  return (architecture.conditional() ? "y," : "") + inputs_of(architecture.form);
}
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
std::string to_string(const NetworkOutput& output) {
  if (output.output == Output::score) return std::string(to_string(output.form));
  return output.form == Form::score ? "potential" : fmt::format("potential:{}", to_string(output.form));
}
std::string_view to_string(LossWeight weight) { return loss_weights.name(weight); }
std::string_view to_string(Scheme scheme) { return schemes.name(scheme); }
bool is_stochastic(Scheme scheme) { return scheme != Scheme::euler && scheme != Scheme::heun && scheme != Scheme::rk4; }
std::string_view to_string(TimeLaw law) { return time_laws.name(law); }
std::string_view to_string(RateSchedule schedule) { return schedules.name(schedule); }
std::string_view to_string(WeightAverage average) { return averages.name(average); }

}  // namespace fokker
