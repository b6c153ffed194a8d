// Networks of others: their tensors, and a recipe that says how they make a score.
#include "fokker/import.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <set>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"
#include "fokker/safetensors.hpp"
#include "io/file.hpp"
#include "io/json.hpp"
#include "io/layer_inputs.hpp"

namespace fokker {
namespace {

using Names = std::vector<std::string>;
using Numbers = std::vector<double>;

// A dense layer: weight [outputs, inputs], bias [outputs].
struct Dense {
  std::int64_t outputs = 0, inputs = 0;
  Numbers weight, bias;
  std::string name;
};

std::string quoted(const Names& names) {
  std::string text;
  for (const std::string& name : names) {
    if (text.size() > 120) return text + ", …";
    text += fmt::format("{}{}", text.empty() ? "" : ", ", in_quotes(name, 40));
  }
  return text.empty() ? "none" : text;
}

// The tensors of a file, each taken once.
class Weights {
 public:
  Weights(const SafeTensors& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  // The tensor of that name, or the only one whose name ends with it after a dot.
  const Tensor& at(const std::string& name) {
    const std::string found = whole_name(name);
    if (!found.empty()) return take(found);
    Names all;
    for (const auto& [other, tensor] : file_.tensors) all.push_back(other);
    throw Error(fmt::format("there is no tensor {}; there are {}", in_quotes(prefix_ + name), quoted(all)));
  }

  // The weight of a layer says what its tensors' names begin with, and the others are looked for there alone.
  Dense dense(const std::string& name) {
    Dense layer;
    layer.name = name;
    for (const std::string_view ending : {"weight", "kernel", "weight_g", "parametrizations.weight.original0"}) {
      const std::string found = whole_name(fmt::format("{}.{}", name, ending));
      if (found.empty()) continue;
      const std::string stem = found.substr(0, found.size() - ending.size());
      const Tensor& first = take(found);
      if (ending == "weight") {
        set_shape(layer, first, false);
        layer.weight = first.to_double();
      } else if (ending == "kernel") {
        set_shape(layer, first, true);
        const Numbers values = first.to_double();
        for (std::int64_t j = 0; j < layer.outputs; ++j) {
          for (std::int64_t i = 0; i < layer.inputs; ++i) layer.weight.push_back(values[i * layer.outputs + j]);
        }
      } else {
        const bool old = ending == "weight_g";
        set_normed(layer, first, take(stem + (old ? "weight_v" : "parametrizations.weight.original1")));
      }
      const auto bias = file_.tensors.find(stem + "bias");
      if (bias == file_.tensors.end()) {
        layer.bias.assign(static_cast<std::size_t>(layer.outputs), 0.0);
        return layer;
      }
      layer.bias = take(bias->first).to_double();
      if (std::ssize(layer.bias) != layer.outputs) {
        throw Error(fmt::format("the layer {} has {} biases for {} outputs", in_quotes(name), layer.bias.size(),
                                layer.outputs));
      }
      return layer;
    }
    at(name + ".weight");
    return layer;
  }

  // Throws Error where a tensor was not taken; it may be part of the computation.
  void check_all_taken(const Names& ignored) const {
    for (const auto& entry : file_.tensors) {
      const std::string& name = entry.first;
      const bool known = taken_.contains(name) || !name.starts_with(prefix_) ||
                         std::any_of(ignored.begin(), ignored.end(), [&](const std::string& other) {
                           return name == other || (other.ends_with('.') && name.starts_with(other));
                         });
      if (known) continue;
      throw Error(fmt::format("the tensor {} is left over: allowed are tensors that the recipe names, also in ignore",
                              in_quotes(name)));
    }
  }

 private:
  // Empty where there is none.
  std::string whole_name(const std::string& name) const {
    if (file_.tensors.contains(prefix_ + name)) return prefix_ + name;
    Names found;
    for (const auto& [other, tensor] : file_.tensors) {
      if (other.starts_with(prefix_) && other.ends_with("." + name)) found.push_back(other);
    }
    if (found.size() > 1) {
      throw Error(fmt::format("{} is the end of several tensors' names, {}; allowed: the whole name, or a prefix",
                              in_quotes(name), quoted(found)));
    }
    return found.empty() ? "" : found[0];
  }

  const Tensor& take(const std::string& name) {
    const auto found = file_.tensors.find(name);
    if (found == file_.tensors.end()) throw Error(fmt::format("there is no tensor {}", in_quotes(name)));
    if (!taken_.insert(name).second) {
      throw Error(fmt::format("the tensor {} is used twice; allowed: once", in_quotes(name)));
    }
    return found->second;
  }

  static void set_shape(Dense& layer, const Tensor& tensor, bool transposed) {
    constexpr std::int64_t most = 32768;  // a width and an embedding
    const std::vector<std::int64_t>& shape = tensor.shape;
    if (shape.size() != 2 || shape[0] < 1 || shape[0] > most || shape[1] < 1 || shape[1] > most) {
      throw Error(fmt::format("the layer {} has a weight of the shape [{}]; allowed: two dimensions of 1 to {}",
                              in_quotes(layer.name), fmt::join(shape, ", "), most));
    }
    layer.outputs = shape[transposed ? 1 : 0], layer.inputs = shape[transposed ? 0 : 1];
  }

  // w = g v/|v|, a norm for each output (Salimans and Kingma 2016).
  static void set_normed(Dense& layer, const Tensor& lengths, const Tensor& directions) {
    set_shape(layer, directions, false);
    layer.weight = directions.to_double();
    const std::vector<std::int64_t> each{layer.outputs}, column{layer.outputs, 1};
    if (lengths.shape != each && lengths.shape != column) {
      throw Error(fmt::format("the layer {} has norms of the shape [{}]; allowed: [{}, 1], one for each output (dim=0)",
                              in_quotes(layer.name), fmt::join(lengths.shape, ", "), layer.outputs));
    }
    const Numbers norms = lengths.to_double();
    for (std::int64_t j = 0; j < layer.outputs; ++j) {
      double square = 0;
      double* row = layer.weight.data() + j * layer.inputs;
      for (std::int64_t i = 0; i < layer.inputs; ++i) square += row[i] * row[i];
      for (std::int64_t i = 0; i < layer.inputs; ++i) row[i] *= norms[static_cast<std::size_t>(j)] / std::sqrt(square);
    }
  }

  const SafeTensors& file_;
  std::string prefix_;
  std::set<std::string> taken_;
};

void check_keys(const JsonValue& json, const std::string& what, std::initializer_list<const char*> allowed) {
  for (const auto& entry : *json.object()) {
    const std::string& key = entry.first;
    if (std::any_of(allowed.begin(), allowed.end(), [&](const char* name) { return key == name; })) continue;
    throw Error(fmt::format("{} has the key {}; allowed: {}", what, in_quotes(key), fmt::join(allowed, ", ")));
  }
}

template <class T>
T value_or(const JsonValue& json, const std::string& name, const char* key, T otherwise) {
  return json.find(key) ? json.get<T>(name, key) : otherwise;
}

// A name, or a list of them.
Names names_in(const JsonValue& json, const char* key) {
  const JsonValue* value = json.find(key);
  if (value == nullptr) return {};
  if (value->string()) return {*value->string()};
  return json.get<Names>("the recipe's", key);
}

// Sines and cosines of each of `inputs` numbers, as a layer of sines; of x they are as many as the next layer takes.
Dense features(const JsonValue& json, std::int64_t inputs, std::optional<std::int64_t> wanted, Weights& weights,
               const std::string& name) {
  const std::string what = "the recipe's features";
  if (json.find("sinusoidal")) {
    check_keys(json, what, {"sinusoidal", "period", "ends", "scale", "order"});
  } else if (json.find("fourier")) {
    check_keys(json, what, {"fourier", "scale", "order"});
  } else {
    check_keys(json, what, {"frequencies", "scale", "order"});
  }
  const auto number = [&](const char* key, double otherwise) { return value_or<double>(json, what, key, otherwise); };
  Numbers each;  // [K], the same for each input
  Numbers all;   // [K, inputs], of several at once
  if (json.find("sinusoidal")) {
    const auto width = json.get<std::int64_t>(what, "sinusoidal");
    if (width < 2 || width % 2 != 0 || width > 16384) {
      throw Error(fmt::format("{} have the width {}; allowed: even numbers from 2 to 16384", what, width));
    }
    const std::int64_t half = width / 2, steps = value_or<bool>(json, what, "ends", true) ? half - 1 : half;
    for (std::int64_t k = 0; k < half; ++k) {
      const double share = k == 0 ? 0 : static_cast<double>(k) / static_cast<double>(steps);
      each.push_back(number("scale", 1) * std::pow(number("period", 10000), -share));
    }
  } else if (json.find("fourier")) {
    const Tensor& tensor = weights.at(json.get<std::string>(what, "fourier"));
    const double scale = number("scale", 2 * std::numbers::pi);
    const std::size_t rank = tensor.shape.size();
    if (rank < 1 || rank > 2 || (rank == 2 && tensor.shape[1] != inputs)) {
      throw Error(fmt::format("{} have frequencies of the shape [{}]; allowed: [K] or [K, {}]", what,
                              fmt::join(tensor.shape, ", "), inputs));
    }
    Numbers& to = rank == 2 ? all : each;
    to = tensor.to_double();
    for (double& f : to) f *= scale;
  } else {
    each = json.get<Numbers>(what, "frequencies");
    for (double& f : each) f *= number("scale", 1);
  }
  const std::string order = value_or<std::string>(json, what, "order", "sin,cos");
  if (order != "sin,cos" && order != "cos,sin" && order != "interleaved") {
    throw Error(fmt::format("{} have the order {}; allowed: sin,cos, cos,sin or interleaved", what, in_quotes(order)));
  }
  const auto count = static_cast<std::size_t>(inputs);
  const std::int64_t outputs = 2 * (std::ssize(each) * inputs + std::ssize(all) / inputs);
  constexpr std::int64_t most_weights = std::int64_t{1} << 22;  // which a short file may ask for
  if (outputs < 1 || outputs > 16384 || outputs * inputs > most_weights || outputs != wanted.value_or(outputs)) {
    throw Error(
        fmt::format("{} are {} numbers of {} inputs; allowed: {}", what, outputs, inputs,
                    wanted ? fmt::format("the {} that the next layer takes beside the time and a condition", *wanted)
                           : "1 to 16384"));
  }
  Dense layer;
  layer.name = name;
  layer.inputs = inputs;
  const auto add = [&](const Numbers& row, bool cosine) {
    layer.weight.insert(layer.weight.end(), row.begin(), row.end());
    layer.bias.push_back(cosine ? std::numbers::pi / 2 : 0);
    ++layer.outputs;
  };
  // The frequencies of one input after another, or [K, inputs] at once.
  std::vector<std::vector<Numbers>> groups;
  for (std::size_t i = 0; i < (all.empty() ? count : 0); ++i) {
    groups.emplace_back();
    for (const double f : each) {
      groups.back().emplace_back(count, 0.0);
      groups.back().back()[i] = f;
    }
  }
  if (!all.empty()) groups.emplace_back();
  for (auto row = all.begin(); row != all.end(); row += inputs) groups.back().emplace_back(row, row + inputs);
  for (const std::vector<Numbers>& rows : groups) {
    if (order == "interleaved") {
      for (const Numbers& row : rows) add(row, false), add(row, true);
      continue;
    }
    for (const bool cosine : {order == "cos,sin", order != "cos,sin"}) {
      for (const Numbers& row : rows) add(row, cosine);
    }
  }
  return layer;
}

// Of as many layers.
std::vector<LayerActivation> activations_in(const JsonValue& json, const char* key, std::size_t layers) {
  const Names names = names_in(json, key);
  if (names.size() != 1 && names.size() != layers) {
    throw Error(fmt::format("the recipe's {} has {} entries; allowed: one for all, or one for each of {} layers", key,
                            names.size(), layers));
  }
  std::vector<LayerActivation> activations;
  for (std::size_t k = 0; k < layers; ++k) {
    activations.push_back(parse_layer_activation(names[names.size() == 1 ? 0 : k]));
  }
  return activations;
}

std::vector<std::int64_t> layers_in(const JsonValue& json, const char* key, const Names& layers) {
  std::string text;
  Names names;
  if (const JsonValue* value = json.find(key); value && value->object()) {
    for (const auto& [name, through] : *value->object()) names.push_back(name);
  } else {
    names = names_in(json, key);
  }
  for (const std::string& name : names) text += fmt::format("{}{}", text.empty() ? "" : ",", name);
  try {
    return parse_layers(text.empty() ? "none" : text, layers);
  } catch (const Error& error) {
    throw Error(fmt::format("the recipe's {}: {}", key, error.what()));
  }
}

bool is_in(const std::vector<std::int64_t>& list, std::size_t layer) {
  return std::find(list.begin(), list.end(), static_cast<std::int64_t>(layer)) != list.end();
}

Dense identity(std::int64_t size) {
  const auto n = static_cast<std::size_t>(size);
  Dense layer{size, size, Numbers(n * n, 0.0), Numbers(n, 0.0), ""};
  for (std::size_t i = 0; i < n; ++i) layer.weight[i * n + i] = 1;
  return layer;
}

constexpr std::size_t most_layers = 65;

// What makes the embedding of the time or of a condition, and how its layers take it: one set of keys, which begin with
// what it is of.
struct RecipeBranch {
  std::string what;    // "time" or "condition"
  Branch branch = {};  // what the architecture has of it
  std::vector<Dense> layers = {};
  std::vector<std::int64_t> added = {};  // the layers to whose sums it is added

  std::string key(const char* suffix) const { return fmt::format("{}{}", what, suffix); }
  std::int64_t width() const { return branch.width(); }

  // Its layers, with their activations.
  void read_layers(const JsonValue& recipe, Weights& weights) {
    const JsonValue* own = recipe.find(what.c_str());
    const JsonValue::Array* entries = own ? own->array() : nullptr;
    if (own && (entries == nullptr || entries->empty() || entries->size() >= most_layers)) {
      throw Error(fmt::format("the recipe's {} is not a list of features and names of layers, 1 to 64 of them", what));
    }
    for (std::size_t k = 0; entries && k < entries->size(); ++k) {
      const JsonValue& entry = (*entries)[k];
      if (entry.object() && k > 0) {
        throw Error(fmt::format("the recipe's {} has features behind layers; allowed: only first", what));
      }
      layers.push_back(entry.object()
                           ? features(entry, branch.inputs, {}, weights, key("_features"))
                           : weights.dense(entry.to<std::string>(fmt::format("an entry of the recipe's {}", what))));
    }
    const std::size_t first = !layers.empty() && entries->front().object() ? 1 : 0, dense = layers.size() - first;
    const std::string activation = key("_activation");
    if ((recipe.find(activation.c_str()) != nullptr) != (dense > 0)) {
      throw Error(dense == 0
                      ? fmt::format("the recipe has {}, and no dense layer in {}", activation, what)
                      : fmt::format("the recipe has no {}, which the dense layers of its {} need", activation, what));
    }
    std::vector<LayerActivation> own_activations;
    if (dense > 0) own_activations = activations_in(recipe, activation.c_str(), dense);
    if (first > 0) own_activations.insert(own_activations.begin(), {Activation::sine, 1});
    for (std::size_t k = 0; k < layers.size(); ++k) {
      branch.layers.push_back({layers[k].outputs, own_activations[k], k < first});
      branch.layer_names.push_back(layers[k].name);
    }
  }

  // Which layers of the trunk take it; without a word `otherwise`.
  void read_places(const JsonValue& recipe, const Names& names, std::int64_t otherwise) {
    const std::string into = key("_into"), added_to = key("_added_to");
    branch.into = layers_in(recipe, into.c_str(), names);
    added = layers_in(recipe, added_to.c_str(), names);
    if (recipe.find(into.c_str()) != nullptr || !added.empty()) return;
    if (recipe.find(what.c_str())) {
      throw Error(
          fmt::format("the recipe has {}, and neither {} nor {}, which say where it goes", what, into, added_to));
    }
    branch.into = {otherwise};
  }

  // What is added to a layer's sums is columns of its weights, behind the first `at`, which are there.
  void add_to(Dense& layer, std::int64_t at, const JsonValue& recipe, Weights& weights) const {
    const std::string added_to = key("_added_to");
    const JsonValue* projections = recipe.find(added_to.c_str());
    constexpr std::int64_t largest_identity = 1024;
    if (!projections->object() && width() > largest_identity) {
      throw Error(
          fmt::format("an embedding of {} numbers is added as it is; allowed: up to {}, and more through a layer",
                      width(), largest_identity));
    }
    const Dense through =
        projections->object()
            ? weights.dense(projections->get<std::string>(fmt::format("the recipe's {}", added_to), layer.name.c_str()))
            : identity(width());
    if (layer.outputs != through.outputs || through.inputs != width()) {
      throw Error(
          fmt::format("the embedding of {} numbers is added to the layer {} of {} through {} × {} weights; "
                      "allowed: weights that fit",
                      width(), in_quotes(layer.name), layer.outputs, through.outputs, through.inputs));
    }
    Dense wide{layer.outputs, layer.inputs + width(), {}, layer.bias, layer.name};
    for (std::int64_t j = 0; j < layer.outputs; ++j) {
      const double *row = layer.weight.data() + j * layer.inputs, *own = through.weight.data() + j * width();
      wide.weight.insert(wide.weight.end(), row, row + at);
      wide.weight.insert(wide.weight.end(), own, own + width());
      wide.weight.insert(wide.weight.end(), row + at, row + layer.inputs);
      wide.bias[static_cast<std::size_t>(j)] += through.bias[static_cast<std::size_t>(j)];
    }
    layer = wide;
  }
};

void check_size(const Dense& layer, std::int64_t outputs, std::int64_t inputs, const InputWidths& of_these = {}) {
  if (layer.outputs == outputs && layer.inputs == inputs) return;
  std::string taken;
  if (of_these.time > 0) taken += fmt::format(", {} of these for the time", of_these.time);
  if (of_these.condition > 0) taken += fmt::format(", {} of these for the condition", of_these.condition);
  throw Error(fmt::format("the layer {} has {} outputs and {} inputs, {} and {} are needed{}", in_quotes(layer.name),
                          layer.outputs, layer.inputs, outputs, inputs, taken));
}

// How many numbers a condition has; 0 where y is not among the inputs.
std::int64_t width_of_condition(const JsonValue& recipe, bool named) {
  const JsonValue* width = recipe.find("condition_width");
  if (named && width == nullptr) {
    throw Error("the recipe's inputs have a condition y, and it has no condition_width, how many numbers that has");
  }
  if (!named) {
    for (const char* key :
         {"condition_width", "condition", "condition_activation", "condition_into", "condition_added_to"}) {
      if (recipe.find(key) == nullptr) continue;
      throw Error(fmt::format("the recipe has {}, and its inputs no y; allowed: y at its place, as x,t,y", key));
    }
    return 0;
  }
  const auto count = width->to<std::int64_t>("the recipe's condition_width");
  constexpr std::int64_t most = 4096;
  if (count >= 1 && count <= most) return count;
  throw Error(fmt::format("the recipe's condition_width is {}; allowed: 1 to {}", count, most));
}

Model make_model(const SafeTensors& file, const JsonValue& recipe) {
  check_keys(recipe, "the recipe",
             {"layers",
              "activation",
              "output",
              "output_factor",
              "data_deviation",
              "inputs",
              "time",
              "time_activation",
              "time_into",
              "time_added_to",
              "condition_width",
              "condition",
              "condition_activation",
              "condition_into",
              "condition_added_to",
              "residual",
              "fixed",
              "prefix",
              "ignore",
              "sde",
              "sde_parameters",
              "column_means",
              "column_deviations"});
  const std::string name = "the recipe's";
  for (const char* key : {"layers", "activation", "output", "inputs", "sde"}) {
    if (recipe.find(key) == nullptr) throw Error(fmt::format("the recipe has no {}", key));
  }
  Weights weights(file, value_or<std::string>(recipe, name, "prefix", ""));
  Architecture a;
  const NetworkOutput output = parse_output(recipe.get<std::string>(name, "output"));
  a.output = output.output, a.form.form = output.form;
  a.form.data_deviation = value_or<double>(recipe, name, "data_deviation", 1);
  const bool has_deviation = recipe.find("data_deviation") != nullptr;
  if (has_deviation != (output.form == Form::edm)) {
    throw Error(has_deviation
                    ? fmt::format("the recipe has data_deviation, which the output {} does not read", to_string(output))
                    : "the recipe has no data_deviation, which the output edm needs");
  }
  const std::vector<LayerInput> order = parse_inputs(recipe.get<std::string>(name, "inputs"), a.form);

  RecipeBranch time{"time"}, condition{"condition"};
  time.branch.inputs = 1;
  condition.branch.inputs = width_of_condition(recipe, has(order, LayerInput::condition));
  const bool conditional = condition.branch.inputs > 0;
  time.read_layers(recipe, weights);
  if (conditional) condition.read_layers(recipe, weights);

  // The layers, as the file has them.
  const JsonValue::Array* list = recipe.find("layers")->array();
  if (list == nullptr || list->size() < 2 || list->size() > most_layers) {
    throw Error("the recipe's layers are not a list of two or more, up to 65");
  }
  const bool x_features = list->front().object() != nullptr;
  std::vector<Dense> layers;
  for (std::size_t k = x_features ? 1 : 0; k < list->size(); ++k) {
    layers.push_back(weights.dense((*list)[k].to<std::string>("an entry of the recipe's layers")));
  }
  Names names;
  if (x_features) names.push_back("features");
  for (const Dense& layer : layers) names.push_back(layer.name);
  time.read_places(recipe, names, x_features ? 1 : 0);
  if (conditional) condition.read_places(recipe, names, x_features ? 1 : 0);
  // What a layer takes, but for x or h.
  const auto taken_by = [&](std::size_t l) {
    return InputWidths{conditional && is_in(condition.branch.into, l) ? condition.width() : 0,
                       is_in(time.branch.into, l) ? time.width() : 0, 0};
  };
  if (a.output == Output::score) {
    a.dimension = layers.back().outputs;
  } else {
    if (x_features) throw Error("a potential net with features of x is given; allowed: vector nets with them");
    a.dimension = layers.front().inputs - taken_by(0).sum();
  }
  if (a.dimension < 1) {
    throw Error(fmt::format("the layer {} has {} inputs, and the time{} takes {} of them; allowed: room for x too",
                            in_quotes(layers.front().name), layers.front().inputs,
                            conditional ? " or the condition" : "", taken_by(0).sum()));
  }
  if (x_features) {
    const std::int64_t wanted = layers.front().inputs - taken_by(1).sum();
    layers.insert(layers.begin(), features(list->front(), a.dimension, wanted, weights, "features"));
  }

  std::vector<LayerActivation> own = activations_in(recipe, "activation", names.size() - 1 - (x_features ? 1 : 0));
  if (x_features) own.insert(own.begin(), {Activation::sine, 1});
  const bool uniform = std::all_of(own.begin(), own.end(), [&](const auto& other) { return other == own[0]; });
  if (uniform) {
    a.activation = own[0].activation, a.beta = own[0].beta;
  } else {
    a.activations = own;
  }

  a.hidden.clear();
  for (std::size_t l = 0; l + 1 < layers.size(); ++l) a.hidden.push_back(layers[l].outputs);
  a.layer_names = names;
  a.residual = layers_in(recipe, "residual", names);
  a.fixed = layers_in(recipe, "fixed", names);
  if (x_features && !is_in(a.fixed, 0)) a.fixed.insert(a.fixed.begin(), 0);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    InputWidths widths = taken_by(l);
    widths.x = l == 0 ? a.dimension : layers[l - 1].outputs;
    check_size(layers[l], a.outputs(static_cast<std::int64_t>(l)), widths.sum(), widths);
    to_own_order(layers[l].weight, order, widths);
  }
  // The time's columns stand behind those of the condition.
  for (RecipeBranch* of : {&time, &condition}) {
    for (const std::int64_t l : of->added) {
      Dense& layer = layers[static_cast<std::size_t>(l)];
      if (is_in(of->branch.into, static_cast<std::size_t>(l))) {
        throw Error(fmt::format("the layer {} is in {} and in {}; allowed: one of them", in_quotes(layer.name),
                                of->key("_into"), of->key("_added_to")));
      }
      of->add_to(layer, of == &time ? taken_by(static_cast<std::size_t>(l)).condition : 0, recipe, weights);
    }
    of->branch.into.insert(of->branch.into.end(), of->added.begin(), of->added.end());
    std::sort(of->branch.into.begin(), of->branch.into.end());
  }
  a.time = time.branch;
  if (conditional) a.condition = condition.branch;
  a.validate();
  weights.check_all_taken(names_in(recipe, "ignore"));

  const double factor = value_or<double>(recipe, name, "output_factor", 1);
  if (!(std::fabs(factor) <= 1e6) || factor == 0) {
    throw Error(fmt::format("the recipe's output_factor is {}; allowed: finite and not 0, up to 1e6", factor));
  }
  for (Numbers* part : {&layers.back().weight, &layers.back().bias}) {
    for (double& number : *part) number *= factor;
  }
  Mlp mlp{a, {}};
  const auto append = [&](const Dense& layer) {
    mlp.parameters.insert(mlp.parameters.end(), layer.weight.begin(), layer.weight.end());
    mlp.parameters.insert(mlp.parameters.end(), layer.bias.begin(), layer.bias.end());
  };
  for (const RecipeBranch* of : {&condition, &time}) {
    for (std::size_t k = 0; k < of->layers.size(); ++k) {
      check_size(of->layers[k], of->layers[k].outputs, of->branch.inputs_of(static_cast<std::int64_t>(k)));
      append(of->layers[k]);
    }
  }
  for (const Dense& layer : layers) append(layer);
  const JsonValue* parameters = recipe.find("sde_parameters");
  Model model{
      ForwardSde::parse(recipe.get<std::string>(name, "sde"), parameters ? parameters->dump() : ""),
      std::move(mlp),
      {value_or<Numbers>(recipe, name, "column_means", {}), value_or<Numbers>(recipe, name, "column_deviations", {})}};
  model.validate();
  return model;
}

}  // namespace

Model import_model(const std::string& weights, const std::string& recipe) {
  const SafeTensors file = SafeTensors::load(weights);
  const std::vector<std::byte> text = read_file(recipe);
  try {
    const JsonValue json = parse_json({reinterpret_cast<const char*>(text.data()), text.size()}, "it", 4);
    if (json.object() == nullptr) throw Error("it is not a JSON object");
    return make_model(file, json);
  } catch (const Error& error) {
    throw Error(fmt::format("{} cannot be imported by {}: {}", in_quotes(weights), in_quotes(recipe), error.what()));
  }
}

}  // namespace fokker
