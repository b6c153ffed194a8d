#include "fokker/model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include "core/check.hpp"
#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"
#include "fokker/formulas/philox.hpp"

namespace fokker {
namespace {

constexpr std::int64_t max_dimension = 4096, max_hidden_layers = 64, max_width = 16384;
constexpr std::int64_t max_parameters = std::int64_t{1} << 28;  // 2 GiB in double

// A name that stands in a comma-separated list and in a tensor's name: printable ASCII without blanks, quotes and
// commas; "none" is an empty list, and what begins with "proof." the proof's.
bool good_layer_name(const std::string& name) {
  return !name.empty() && name != "none" && name != "proof" && !name.starts_with("proof.") && name.size() <= 200 &&
         name.front() != '.' && name.back() != '.' && std::all_of(name.begin(), name.end(), [](char c) {
           return c > ' ' && c <= '~' && c != ',' && c != '"' && c != '\'';
         });
}

// Throws Error where a size is out of its range; the parameters of others can be counted.
void check_sizes(const Architecture& architecture) {
  const std::int64_t dimension = architecture.dimension;
  if (dimension < 1 || dimension > max_dimension) {
    throw Error(fmt::format("a network has dimension {}: allowed are 1 to {}", dimension, max_dimension));
  }
  const auto hidden_layers = static_cast<std::int64_t>(architecture.hidden.size());
  if (hidden_layers < 1 || hidden_layers > max_hidden_layers) {
    throw Error(fmt::format("a network has {} hidden layers: allowed are 1 to {}", hidden_layers, max_hidden_layers));
  }
  const auto check_width = [](const char* what, std::int64_t width) {
    if (width >= 1 && width <= max_width) return;
    throw Error(fmt::format("{} has width {}: allowed are 1 to {}", what, width, max_width));
  };
  for (const std::int64_t width : architecture.hidden) check_width("a hidden layer", width);
  const auto check_branch = [&](const std::vector<BranchLayer>& branch, const char* what, const char* layer_of) {
    if (static_cast<std::int64_t>(branch.size()) > max_hidden_layers) {
      throw Error(fmt::format("{} has {} layers: allowed are 0 to {}", what, branch.size(), max_hidden_layers));
    }
    for (const BranchLayer& layer : branch) check_width(layer_of, layer.width);
  };
  check_branch(architecture.time.layers, "a time branch", "a layer of a time branch");
  check_branch(architecture.condition.layers, "a condition's branch", "a layer of a condition's branch");
  check_count("the number of times that a time branch takes", architecture.time.inputs, 1, 1);
  check_count("the width of a condition", architecture.condition.inputs, 0, max_dimension);
  // Not by a Branch to compare with: one that is made within a condition and runs out of memory is destroyed in halves by g++.
  const Branch& condition = architecture.condition;
  const bool plain = condition.layers.empty() && condition.layer_names.empty() && condition.into.size() == 1 &&
                     condition.into.front() == 0;
  if (!architecture.conditional() && !plain) {
    throw Error("a condition of width 0 has layers or is taken by layers; allowed: a condition of width 1 or more");
  }
}

void check_activation(const LayerActivation& activation) {
  const ActivationParameter& parameter = traits_of(parse_activation(to_string(activation.activation))).parameter;
  if (!parameter.name || (activation.beta >= parameter.smallest && activation.beta <= parameter.largest)) return;
  throw Error(fmt::format("{} has {} = {}: allowed are {:g} to {:g}", to_string(activation.activation), parameter.name,
                          activation.beta, parameter.smallest, parameter.largest));
}

// The layers that a list of an architecture names: each once, ascending, from `first` to `last`.
void check_list(const char* what, const std::vector<std::int64_t>& list, std::int64_t first, std::int64_t last) {
  for (std::size_t k = 0; k < list.size(); ++k) {
    if (list[k] >= (k == 0 ? first : list[k - 1] + 1) && list[k] <= last) continue;
    throw Error(fmt::format("{} name layer {} at place {}; allowed: layers {} to {}, ascending, each once", what,
                            list[k], k, first, last));
  }
}

bool contains(const std::vector<std::int64_t>& list, std::int64_t layer) {
  return std::binary_search(list.begin(), list.end(), layer);
}

std::vector<std::string> numbered(const char* name, std::size_t count) {
  std::vector<std::string> names;
  for (std::size_t l = 0; l < count; ++l) names.push_back(fmt::format("{}{}", name, l + 1));
  return names;
}

void check_terms(const Composition& composition, const ForwardSde& sde) {
  const std::vector<Term>& terms = composition.terms;
  if (terms.empty() || terms.size() > Composition::most_terms) {
    throw Error(fmt::format("a composition has {} terms; allowed: 1 to {}", terms.size(),
                            std::size_t{Composition::most_terms}));
  }
  const auto text_of = [](const ForwardSde& of) {
    constexpr std::size_t most = 120;
    const std::string parameters = of.parameters_json();
    return fmt::format("{} {}{}", of.name(), parameters.substr(0, most), parameters.size() > most ? "…" : "");
  };
  for (std::size_t k = 0; k < terms.size(); ++k) {
    const auto& [weight, model] = terms[k];
    if (!(std::fabs(weight) <= static_cast<double>(std::numeric_limits<float>::max()))) {
      throw Error(
          fmt::format("term {} of a composition has the weight {}; allowed: what is finite in float32", k, weight));
    }
    if (std::holds_alternative<Composition>(model.network)) {
      throw Error(
          fmt::format("term {} of a composition is a composition itself; allowed: networks and Gaussian mixtures, as "
                      "compose() makes of it",
                      k));
    }
    if (!model.standardisation.empty()) {
      throw Error(fmt::format(
          "term {} of a composition has a standardisation; allowed: one of the whole, as compose() makes of "
          "that of the terms",
          k));
    }
    try {
      model.validate();
    } catch (const Error& error) {
      throw Error(fmt::format("term {} of a composition: {}", k, error.what()));
    }
    if (model.condition() > 0) {
      throw Error(
          fmt::format("term {} of a composition takes a condition of {} numbers; allowed: models without one, as "
                      "with_condition() and without_condition() make of it",
                      k, model.condition()));
    }
    if (const std::int64_t first = terms.front().model.dimension(); model.dimension() != first) {
      throw Error(fmt::format("term {} of a composition has dimension {}, and the first has {}; allowed: the same", k,
                              model.dimension(), first));
    }
    if (!(model.sde == sde)) {
      throw Error(fmt::format("term {} of a composition has the SDE {}, and the composition has {}; allowed: the same",
                              k, text_of(model.sde), text_of(sde)));
    }
  }
}

void check_form(const NetworkForm& network) {
  to_string(network.form);
  inputs_of(network);
  constexpr double least = 1e-6, most = 1e6;
  const auto check = [&](const char* name, double value, bool good, double low) {
    if (good) return;
    throw Error(fmt::format("a network's form has {} = {}: allowed are {:g} to {:g}", name, value, low, most));
  };
  check("data_deviation", network.data_deviation, network.data_deviation >= least && network.data_deviation <= most,
        least);
  check("time_scale", std::fabs(network.time_scale),
        std::fabs(network.time_scale) >= least && std::fabs(network.time_scale) <= most, least);
  check("time_offset", network.time_offset, std::fabs(network.time_offset) <= most, -most);
}

}  // namespace

std::int64_t Branch::inputs_of(std::int64_t layer) const {
  check_count("the number of a branch's layer", layer, 0, std::ssize(layers) - 1);
  return layer == 0 ? inputs : layers[static_cast<std::size_t>(layer - 1)].width;
}

std::int64_t Branch::weight_offset(std::int64_t layer) const {
  check_count("the number of a branch's layer", layer, 0, std::ssize(layers));
  std::int64_t offset = 0;
  for (std::int64_t l = 0; l < layer; ++l) {
    offset += layers[static_cast<std::size_t>(l)].width * (inputs_of(l) + 1);
  }
  return offset;
}

std::int64_t Branch::bias_offset(std::int64_t layer) const {
  return weight_offset(layer) + inputs_of(layer) * layers[static_cast<std::size_t>(layer)].width;
}

std::int64_t Architecture::inputs(std::int64_t layer) const {
  check_count("the number of a layer", layer, 0, layers() - 1);
  return conditioned(layer) + embedded(layer) + (layer == 0 ? dimension : hidden[static_cast<std::size_t>(layer - 1)]);
}

std::int64_t Architecture::embedded(std::int64_t layer) const {
  check_count("the number of a layer", layer, 0, layers() - 1);
  return contains(time.into, layer) ? time.width() : 0;
}

std::int64_t Architecture::conditioned(std::int64_t layer) const {
  check_count("the number of a layer", layer, 0, layers() - 1);
  return conditional() && contains(condition.into, layer) ? condition.width() : 0;
}

LayerActivation Architecture::activation_of(std::int64_t layer) const {
  check_count("the number of a hidden layer", layer, 0, layers() - 2);
  return activations.empty() ? LayerActivation{activation, beta} : activations[static_cast<std::size_t>(layer)];
}

std::optional<Activation> Architecture::kinked() const {
  for (std::int64_t l = 0; l + 1 < layers(); ++l) {
    const Activation own = activation_of(l).activation;
    if (traits_of(own).kinked) return own;
  }
  return {};
}

bool Architecture::is_residual(std::int64_t layer) const { return contains(residual, layer); }
bool Architecture::is_fixed(std::int64_t layer) const { return contains(fixed, layer); }

std::int64_t Architecture::outputs(std::int64_t layer) const {
  check_count("the number of a layer", layer, 0, layers() - 1);
  if (layer + 1 < layers()) return hidden[static_cast<std::size_t>(layer)];
  return output == Output::potential ? 1 : dimension;
}

std::int64_t Architecture::weight_offset(std::int64_t layer) const {
  check_sizes(*this);
  check_count("the number of a layer", layer, 0, layers());
  std::int64_t offset = condition.parameter_count() + time.parameter_count();
  for (std::int64_t l = 0; l < layer; ++l) offset += outputs(l) * (inputs(l) + 1);
  return offset;
}

std::int64_t Architecture::bias_offset(std::int64_t layer) const {
  return weight_offset(layer) + outputs(layer) * inputs(layer);
}

std::int64_t Architecture::parameter_count() const { return weight_offset(layers()); }

std::vector<std::string> Architecture::names() const {
  if (!layer_names.empty()) return layer_names;
  std::vector<std::string> names{"input"};
  for (std::int64_t l = 1; l + 1 < layers(); ++l) names.push_back(fmt::format("hidden{}", l));
  names.push_back("output");
  return names;
}

std::vector<std::string> Architecture::time_names() const {
  return time.layer_names.empty() ? numbered("time", time.layers.size()) : time.layer_names;
}

std::vector<std::string> Architecture::condition_names() const {
  return condition.layer_names.empty() ? numbered("condition", condition.layers.size()) : condition.layer_names;
}

std::string Architecture::describe() const {
  std::string text = fmt::format("{}", time.raw() ? 1 + dimension : dimension);
  for (std::int64_t l = 0; l < layers(); ++l) text += fmt::format("–{}", outputs(l));
  text += fmt::format(", {}", activations_text(*this));
  text += fmt::format(", {}", to_string(NetworkOutput{output, form.form}));
  if (form.form == Form::edm) text += fmt::format("({})", form.data_deviation);
  if (!form.plain()) text += fmt::format(" of {}", inputs_of(form));
  if (!time.layers.empty()) text += fmt::format(", time branch {}", branch_text(time.layers));
  if (!time.raw()) text += fmt::format(", time into {}", layers_text(time.into, names()));
  if (conditional()) text += fmt::format(", condition {}", condition.inputs);
  if (!condition.layers.empty()) text += fmt::format(", condition branch {}", branch_text(condition.layers));
  if (conditional()) text += fmt::format(", condition into {}", layers_text(condition.into, names()));
  if (!residual.empty()) text += fmt::format(", residual {}", layers_text(residual, names()));
  if (!fixed.empty()) text += fmt::format(", fixed {}", layers_text(fixed, names()));
  return text;
}

void Architecture::validate() const {
  to_string(output);
  check_sizes(*this);
  check_activation({activation, beta});
  for (const LayerActivation& own : activations) check_activation(own);
  for (const Branch* branch : {&time, &condition}) {
    for (const BranchLayer& layer : branch->layers) check_activation(layer.activation);
  }
  if (!activations.empty() && activations.size() != hidden.size()) {
    throw Error(fmt::format("{} activations are given for {} hidden layers; allowed: one for all, or one for each",
                            activations.size(), hidden.size()));
  }
  check_list("the layers that take the time", time.into, 0, layers() - 1);
  check_list("the layers that take the condition", condition.into, 0, layers() - 1);
  check_list("the residual connections", residual, 1, layers() - 2);
  check_list("the fixed layers", fixed, 0, layers() - 1);
  for (const std::int64_t l : residual) {
    const auto at = static_cast<std::size_t>(l);
    if (hidden[at] == hidden[at - 1]) continue;
    throw Error(fmt::format("hidden layer {} has a residual connection from {} units to {}; allowed: equal widths",
                            l + 1, hidden[at - 1], hidden[at]));
  }
  check_form(form);
  parse_output(to_string(NetworkOutput{output, form.form}));
  if (parameter_count() > max_parameters) {
    throw Error(fmt::format("a network has {} parameters: at most {} are allowed", parameter_count(), max_parameters));
  }
  std::set<std::string> seen;
  const auto check_names = [&](const std::vector<std::string>& list, std::size_t count, const char* what) {
    if (list.empty()) return;
    if (list.size() != count) {
      throw Error(fmt::format("{} layer names are given for a {} of {} layers", list.size(), what, count));
    }
    for (const std::string& name : list) {
      if (!good_layer_name(name)) {
        throw Error(
            fmt::format("{} is not a layer name: it must be printable, without blanks, quotes and commas, and "
                        "neither begin nor end with a dot",
                        in_quotes(name)));
      }
      if (!seen.insert(name).second) throw Error(fmt::format("the layer name {} is given twice", in_quotes(name)));
    }
  };
  check_names(layer_names, hidden.size() + 1, "network");
  check_names(time.layer_names, time.layers.size(), "time branch");
  check_names(condition.layer_names, condition.layers.size(), "condition's branch");
  seen.clear();
  for (const std::vector<std::string>& list : {names(), time_names(), condition_names()}) {
    for (const std::string& name : list) {
      if (!seen.insert(name).second) throw Error(fmt::format("the layer name {} is given twice", in_quotes(name)));
    }
  }
}

Mlp Mlp::initialise(const Architecture& architecture, std::uint64_t seed) {
  architecture.validate();
  Mlp mlp{architecture, std::vector<double>(static_cast<std::size_t>(architecture.parameter_count()))};
  const std::uint64_t offset = philox_offset(RandomUse::initialisation, 0, 0);
  const auto draw = [&](std::int64_t begin, std::int64_t end, std::int64_t inputs) {
    const double bound = 1 / std::sqrt(static_cast<double>(inputs));
    for (std::int64_t k = begin; k < end; ++k) {
      const float u = uniform_from_word(philox4x32_10(seed, static_cast<std::uint64_t>(k), offset).word[0]);
      // Through float: a float32 file of the parameters then holds all of them.
      mlp.parameters[static_cast<std::size_t>(k)] = static_cast<float>(bound * (2.0 * u - 1.0));
    }
  };
  const auto draw_branch = [&](const Branch& branch, std::int64_t begin) {
    for (std::int64_t l = 0; l < std::ssize(branch.layers); ++l) {
      draw(begin + branch.weight_offset(l), begin + branch.weight_offset(l + 1), branch.inputs_of(l));
    }
  };
  draw_branch(architecture.condition, 0);
  draw_branch(architecture.time, architecture.time_offset());
  if (const Branch& time = architecture.time;
      !time.layers.empty() && time.layers[0].fixed && time.layers[0].activation.activation == Activation::sine) {
    double* const frequency = mlp.parameters.data() + architecture.time_offset();
    double* const phase = frequency + time.layers[0].width;
    const std::int64_t pairs = (time.layers[0].width + 1) / 2;
    for (std::int64_t j = 0; j < time.layers[0].width; ++j) {
      const double octaves = pairs > 1 ? 7.0 * static_cast<double>(j % pairs) / static_cast<double>(pairs - 1) : 0;
      frequency[j] = static_cast<float>(std::numbers::pi / 8 * std::exp2(octaves));
      phase[j] = j < pairs ? 0 : static_cast<float>(std::numbers::pi / 2);
    }
  }
  for (std::int64_t l = 0; l < architecture.layers(); ++l) {
    const bool zero = l + 1 == architecture.layers() && architecture.form.form != Form::score;
    if (zero) continue;
    draw(architecture.weight_offset(l), architecture.weight_offset(l + 1), architecture.inputs(l));
    // Several matrices in one: each with the scale of its own inputs, or few numbers x would be lost beside many of e. A
    // raw time is beside x.
    const std::int64_t inputs = architecture.inputs(l), of_condition = architecture.conditioned(l);
    const std::int64_t of_time = architecture.time.raw() ? 0 : architecture.embedded(l);
    for (std::int64_t k = 0; k < architecture.outputs(l) * inputs; ++k) {
      const std::int64_t column = k % inputs, of_h = inputs - of_condition - of_time;
      const std::int64_t own = column < of_condition ? of_condition : column < of_condition + of_time ? of_time : of_h;
      if (own == inputs) break;
      double& weight = mlp.parameters[static_cast<std::size_t>(architecture.weight_offset(l) + k)];
      weight = static_cast<float>(weight * std::sqrt(static_cast<double>(inputs) / static_cast<double>(own)));
    }
  }
  return mlp;
}

Composition::Composition() = default;
Composition::Composition(const Composition&) = default;
Composition::Composition(Composition&&) noexcept = default;
Composition& Composition::operator=(const Composition&) = default;
Composition& Composition::operator=(Composition&&) noexcept = default;
Composition::~Composition() = default;

std::int64_t Model::dimension() const {
  if (const auto* mlp = std::get_if<Mlp>(&network)) return mlp->architecture.dimension;
  if (const auto* mixture = std::get_if<GaussianMixture>(&network)) return mixture->dimension();
  const std::vector<Term>& terms = std::get<Composition>(network).terms;
  return terms.empty() ? 0 : terms.front().model.dimension();
}

std::int64_t Model::condition() const {
  const Mlp* mlp = std::get_if<Mlp>(&network);
  return mlp ? mlp->architecture.condition.inputs : 0;
}

Output Model::output() const {
  if (const auto* mlp = std::get_if<Mlp>(&network)) return mlp->architecture.output;
  const auto* composition = std::get_if<Composition>(&network);
  const auto is_score = [](const Term& term) { return term.model.output() == Output::score; };
  return composition && std::any_of(composition->terms.begin(), composition->terms.end(), is_score) ? Output::score
                                                                                                    : Output::potential;
}

NetworkForm Model::form() const {
  if (const auto* mlp = std::get_if<Mlp>(&network)) return mlp->architecture.form;
  const auto* composition = std::get_if<Composition>(&network);
  if (!composition || composition->terms.empty()) return {};
  const NetworkForm form = composition->terms.front().model.form();
  double sum = 0, sizes = 0;
  for (const Term& term : composition->terms) {
    if (!(term.model.form() == form)) return {};
    sum += term.weight, sizes += std::fabs(term.weight);
  }
  return std::fabs(sum - 1) <= 1e-12 * sizes ? form : NetworkForm{};  // up to rounding, as of 1.3 and −0.3
}

Model Model::of_z() const { return {sde, network, {}}; }

void Model::validate() const {
  standardisation.validate(dimension() + condition());
  if (const auto* mixture = std::get_if<GaussianMixture>(&network)) {
    // Its constructor checks the numbers; only an empty one can be here unchecked.
    if (mixture->components() == 0) throw Error("a Gaussian mixture has no components");
    return;
  }
  if (const auto* composition = std::get_if<Composition>(&network)) return check_terms(*composition, sde);
  const Mlp& mlp = std::get<Mlp>(network);
  const Architecture& a = mlp.architecture;
  a.validate();
  if (static_cast<std::int64_t>(mlp.parameters.size()) != a.parameter_count()) {
    throw Error(fmt::format("{} parameters are given for a network {} of {}", mlp.parameters.size(), a.describe(),
                            a.parameter_count()));
  }
  const auto bad = std::find_if(mlp.parameters.begin(), mlp.parameters.end(), [](double p) {
    return !(std::fabs(p) <= static_cast<double>(std::numeric_limits<float>::max()));
  });
  if (bad == mlp.parameters.end()) return;
  const std::int64_t index = bad - mlp.parameters.begin();
  const auto refuse = [&](const std::string& name, std::int64_t weights, std::int64_t biases) {
    const bool is_bias = index >= biases;
    throw Error(fmt::format("entry {} of the tensor {}.{} is {}: parameters must be finite in float32",
                            index - (is_bias ? biases : weights), name, is_bias ? "bias" : "weight",
                            std::isnan(*bad) ? std::numeric_limits<double>::quiet_NaN() : *bad));
  };
  std::int64_t layer = 0;
  const auto refuse_in = [&](const Branch& branch, std::int64_t begin, const std::vector<std::string>& names) {
    if (index < begin || index >= begin + branch.parameter_count()) return;
    while (begin + branch.weight_offset(layer + 1) <= index) ++layer;
    refuse(names[static_cast<std::size_t>(layer)], begin + branch.weight_offset(layer),
           begin + branch.bias_offset(layer));
  };
  refuse_in(a.condition, 0, a.condition_names());
  refuse_in(a.time, a.time_offset(), a.time_names());
  while (a.weight_offset(layer + 1) <= index) ++layer;
  refuse(a.names()[static_cast<std::size_t>(layer)], a.weight_offset(layer), a.bias_offset(layer));
}

}  // namespace fokker
