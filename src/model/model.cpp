#include "fokker/model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
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
// commas.
bool good_layer_name(const std::string& name) {
  return !name.empty() && name.size() <= 200 && name.front() != '.' && name.back() != '.' &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c > ' ' && c <= '~' && c != ',' && c != '"' && c != '\''; });
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
  for (const std::int64_t width : architecture.hidden) {
    if (width < 1 || width > max_width) {
      throw Error(fmt::format("a hidden layer has width {}: allowed are 1 to {}", width, max_width));
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

std::int64_t Architecture::inputs(std::int64_t layer) const {
  check_count("the number of a layer", layer, 0, layers() - 1);
  return layer == 0 ? 1 + dimension : hidden[static_cast<std::size_t>(layer - 1)];
}

std::int64_t Architecture::outputs(std::int64_t layer) const {
  check_count("the number of a layer", layer, 0, layers() - 1);
  if (layer + 1 < layers()) return hidden[static_cast<std::size_t>(layer)];
  return output == Output::potential ? 1 : dimension;
}

std::int64_t Architecture::weight_offset(std::int64_t layer) const {
  check_sizes(*this);
  check_count("the number of a layer", layer, 0, layers());
  std::int64_t offset = 0;
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

std::string Architecture::describe() const {
  std::string text = fmt::format("{}", inputs(0));
  for (std::int64_t l = 0; l < layers(); ++l) text += fmt::format("–{}", outputs(l));
  text += fmt::format(", {}", to_string(activation));
  if (traits_of(activation).has_parameter()) text += fmt::format("({})", beta);
  text += fmt::format(", {}", to_string(NetworkOutput{output, form.form}));
  if (form.form == Form::edm) text += fmt::format("({})", form.data_deviation);
  if (!form.plain()) text += fmt::format(" of {}", inputs_of(form));
  return text;
}

void Architecture::validate() const {
  to_string(activation);
  to_string(output);
  check_sizes(*this);
  const ActivationParameter& parameter = traits_of(activation).parameter;
  if (parameter.name && !(beta >= parameter.smallest && beta <= parameter.largest)) {
    throw Error(fmt::format("{} has {} = {}: allowed are {:g} to {:g}", to_string(activation), parameter.name, beta,
                            parameter.smallest, parameter.largest));
  }
  check_form(form);
  parse_output(to_string(NetworkOutput{output, form.form}));
  if (parameter_count() > max_parameters) {
    throw Error(fmt::format("a network has {} parameters: at most {} are allowed", parameter_count(), max_parameters));
  }
  if (layer_names.empty()) return;
  if (static_cast<std::int64_t>(layer_names.size()) != layers()) {
    throw Error(fmt::format("{} layer names are given for a network of {} layers", layer_names.size(), layers()));
  }
  std::set<std::string> seen;
  for (const std::string& name : layer_names) {
    if (!good_layer_name(name)) {
      throw Error(
          fmt::format("{} is not a layer name: it must be printable, without blanks, quotes and commas, and "
                      "neither begin nor end with a dot",
                      in_quotes(name)));
    }
    if (!seen.insert(name).second) throw Error(fmt::format("the layer name {} is given twice", in_quotes(name)));
  }
}

Mlp Mlp::initialise(const Architecture& architecture, std::uint64_t seed) {
  architecture.validate();
  Mlp mlp{architecture, std::vector<double>(static_cast<std::size_t>(architecture.parameter_count()))};
  const std::uint64_t offset = philox_offset(RandomUse::initialisation, 0, 0);
  for (std::int64_t l = 0, k = 0; l < architecture.layers(); ++l) {
    const double bound = 1 / std::sqrt(static_cast<double>(architecture.inputs(l)));
    for (const std::int64_t end = k + architecture.outputs(l) * (architecture.inputs(l) + 1); k < end; ++k) {
      const float u = uniform_from_word(philox4x32_10(seed, static_cast<std::uint64_t>(k), offset).word[0]);
      // Through float: a float32 file of the parameters then holds all of them.
      const bool zero = l + 1 == architecture.layers() && architecture.form.form != Form::score;
      mlp.parameters[static_cast<std::size_t>(k)] = zero ? 0 : static_cast<float>(bound * (2.0 * u - 1.0));
    }
  }
  return mlp;
}

std::int64_t Model::dimension() const {
  const Mlp* mlp = std::get_if<Mlp>(&network);
  return mlp ? mlp->architecture.dimension : std::get<GaussianMixture>(network).dimension();
}

Output Model::output() const {
  const Mlp* mlp = std::get_if<Mlp>(&network);
  return mlp ? mlp->architecture.output : Output::potential;
}

NetworkForm Model::form() const {
  const Mlp* mlp = std::get_if<Mlp>(&network);
  return mlp ? mlp->architecture.form : NetworkForm{};
}

Model Model::of_z() const { return {sde, network, {}}; }

void Model::validate() const {
  standardisation.validate(dimension());
  if (const auto* mixture = std::get_if<GaussianMixture>(&network)) {
    // Its constructor checks the numbers; only an empty one can be here unchecked.
    if (mixture->components() == 0) throw Error("a Gaussian mixture has no components");
    return;
  }
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
  std::int64_t layer = 0;
  while (a.weight_offset(layer + 1) <= index) ++layer;
  const bool is_bias = index >= a.bias_offset(layer);
  throw Error(fmt::format("entry {} of the tensor {}.{} is {}: parameters must be finite in float32",
                          index - (is_bias ? a.bias_offset(layer) : a.weight_offset(layer)),
                          a.names()[static_cast<std::size_t>(layer)], is_bias ? "bias" : "weight",
                          std::isnan(*bad) ? std::numeric_limits<double>::quiet_NaN() : *bad));
}

}  // namespace fokker
