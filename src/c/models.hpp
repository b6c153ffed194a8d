#pragma once

// What the C API and the Python package say of models in words: a network by options, and what a model is in a line.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "fokker/composition.hpp"
#include "fokker/error.hpp"
#include "fokker/model.hpp"

namespace fokker {

// A number of an option's value.
inline double number_of(const std::string& key, const std::string& text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);  // in any locale
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(number)) {
    throw Error(fmt::format("the option {} has the value '{}'; allowed: a number", key, text));
  }
  return number;
}

inline std::int64_t whole_of(const std::string& key, const std::string& text) {
  const double number = number_of(key, text);
  if (number != std::floor(number) || std::fabs(number) > 1e15) {
    throw Error(fmt::format("the option {} has the value '{}'; allowed: a whole number", key, text));
  }
  return static_cast<std::int64_t>(number);
}

// A network that is not trained: fokker_model_initialise().
inline Model initialised(ModelMetadata options, std::uint64_t seed) {
  const auto take = [&](const char* key, const char* otherwise) {
    const auto found = options.find(key);
    std::string value = found == options.end() ? otherwise : found->second;
    if (found != options.end()) options.erase(found);
    return value;
  };
  Architecture architecture;
  architecture.dimension = whole_of("dimension", take("dimension", "2"));
  architecture.hidden.clear();
  const std::string hidden = take("hidden", "80,80,80");
  for (std::size_t begin = 0; begin <= hidden.size();) {
    const std::size_t end = std::min(hidden.find(',', begin), hidden.size());
    architecture.hidden.push_back(whole_of("hidden", hidden.substr(begin, end - begin)));
    begin = end + 1;
  }
  architecture.activation = parse_activation(take("activation", "softplus"));
  const ActivationParameter& parameter = traits_of(architecture.activation).parameter;
  architecture.beta = 1;
  if (parameter.name) {
    const std::string name(parameter.name);
    architecture.beta = number_of(name, take(name.c_str(), architecture.activation == Activation::softplus
                                                               ? "100"
                                                               : fmt::format("{}", parameter.usual).c_str()));
  }
  const NetworkOutput output = parse_output(take("output", "potential"));
  architecture.output = output.output, architecture.form.form = output.form;
  architecture.form.data_deviation = number_of("data_deviation", take("data_deviation", "1"));
  const std::vector<LayerInput> order = parse_inputs(take("inputs", "t,x"), architecture.form);
  if (order != std::vector{LayerInput::time, LayerInput::x}) {
    throw Error(
        "inputs of another order than t,x given for a network that is made here; allowed: the time first, then x");
  }
  const std::string sde = take("sde", "ou"), parameters = take("sde_parameters", "");
  if (!options.empty()) {
    throw Error(
        fmt::format("the option {} is not known; allowed: dimension, hidden, activation and its parameter, output, "
                    "inputs, data_deviation, sde, sde_parameters",
                    options.begin()->first));
  }
  Model model{ForwardSde::parse(sde, parameters), Mlp::initialise(architecture, seed)};
  model.validate();
  return model;
}

// What a model is, in one line.
inline std::string line_of(const Model& model) {
  const auto* mlp = std::get_if<Mlp>(&model.network);
  const auto* composition = std::get_if<Composition>(&model.network);
  return fmt::format("{}, SDE {}",
                     mlp           ? mlp->architecture.describe()
                     : composition ? fmt::format("composition of {} terms in {} dimensions", composition->terms.size(),
                                                 model.dimension())
                                   : fmt::format("Gaussian mixture in {} dimensions", model.dimension()),
                     model.sde.name());
}

}  // namespace fokker
