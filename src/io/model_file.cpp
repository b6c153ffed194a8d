// Model files: an MLP as safetensors with its architecture and SDE in the metadata, a Gaussian mixture or a composition as
// JSON.
#include "io/model_file.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <set>
#include <span>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/composition.hpp"
#include "fokker/error.hpp"
#include "fokker/safetensors.hpp"
#include "io/file.hpp"
#include "io/json.hpp"
#include "io/layer_inputs.hpp"

namespace fokker {
namespace {

// Keys of a standardisation.
constexpr const char *column_means = "column_means", *column_deviations = "column_deviations";

std::vector<std::string> known_keys() {
  std::vector<std::string> keys{"activation"};
  for (const auto& [name, meaning] : activation_parameters()) keys.push_back(name);
  keys.insert(keys.end(), {"output", "data_deviation", "inputs", "layers", "time_branch", "time_layers", "time_into",
                           "condition", "condition_branch", "condition_layers", "condition_into", "residual", "fixed",
                           "sde", "sde_parameters", column_means, column_deviations});
  return keys;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// layers.2 before layers.10: runs of digits compare as numbers.
bool natural_less(std::string_view a, std::string_view b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      const auto run = [](std::string_view text, std::size_t& at) {
        while (at < text.size() && text[at] == '0') ++at;
        const std::size_t start = at;
        while (at < text.size() && is_digit(text[at])) ++at;
        return text.substr(start, at - start);
      };
      const std::string_view m = run(a, i), n = run(b, j);
      if (m.size() != n.size()) return m.size() < n.size();
      if (m != n) return m < n;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
    }
  }
  if (a.size() - i != b.size() - j) return a.size() - i < b.size() - j;
  return a < b;  // 01 and 1
}

std::string shape_text(const Tensor& tensor) {
  return printable(fmt::format("[{}]", fmt::join(tensor.shape, ", ")), 60);
}

// "'input' [80, 3], 'hidden1' [80, 80], …", the names that are followed by .weight, as many as a message has room for.
std::string list_layers(const SafeTensors& file) {
  constexpr std::string_view weight = ".weight";
  std::vector<std::string> names;
  for (const auto& [name, tensor] : file.tensors) {
    if (name.ends_with(weight)) names.push_back(name.substr(0, name.size() - weight.size()));
  }
  std::sort(names.begin(), names.end(), natural_less);
  std::string text;
  for (const std::string& name : names) {
    if (text.size() > 80) return text + ", …";
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", in_quotes(name, 40),
                        shape_text(file.tensors.at(fmt::format("{}{}", name, weight))));
  }
  return text.empty() ? "none" : text;
}

std::vector<std::string> split_names(std::string_view text) {
  std::vector<std::string> names;
  for (;;) {
    const std::size_t comma = text.find(',');
    std::string_view name = text.substr(0, comma);
    while (name.starts_with(' ')) name.remove_prefix(1);
    while (name.ends_with(' ')) name.remove_suffix(1);
    names.emplace_back(name);
    if (comma == std::string_view::npos) return names;
    text.remove_prefix(comma + 1);
  }
}

bool has_any(std::string_view name, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const char* part) { return name.find(part) != std::string_view::npos; });
}

// Why a tensor is not the weight or bias of a layer, where its name says so.
std::string why_no_layer(const std::string& name) {
  std::string lower = name;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  if (lower.ends_with("kernel")) {
    return "is a kernel [inputs, outputs], as Flax has them; needed is its transpose, named NAME.weight";
  }
  if (lower.ends_with("weight_g") || lower.ends_with("weight_v") || has_any(lower, {"parametrizations."})) {
    return "is a part of a parametrized weight, as of weight_norm; remove the parametrization before saving";
  }
  if (has_any(lower, {"running_mean", "running_var", "num_batches", "norm"})) {
    return "is of a normalisation, which is not supported: networks are linear layers and activations";
  }
  if (has_any(lower, {"condition", "label", "class_"})) {
    return "is of a condition: say how many numbers it has in condition, and name and describe the layers of its "
           "embedding in condition_layers and condition_branch";
  }
  if (has_any(lower, {"emb", "fourier", "freq", "pos_enc"})) {
    return "is of an embedding: name the layers that make it in time_layers, and say what they are in time_branch, as "
           "time_branch=fixed:sine:32,silu:32 (or --time-branch)";
  }
  if (has_any(lower, {"skip", "shortcut", "residual"})) {
    return "is of a connection that is not supported: a layer may add its input to its output, as residual=hidden1 "
           "says";
  }
  return "";
}

// Of the tensors t, x, score and condition of a proof.
constexpr std::string_view proof_prefix = "proof.";

Proof read_proof(const SafeTensors& file, std::int64_t dimension, std::int64_t condition) {
  Proof proof;
  const bool any = std::any_of(file.tensors.begin(), file.tensors.end(),
                               [](const auto& entry) { return entry.first.starts_with(proof_prefix); });
  if (!any) return proof;
  proof.t = file.at("proof.t").to_double();
  const std::int64_t n = std::ssize(proof.t);
  const auto read = [&](const char* name, std::int64_t columns) {
    const Tensor& tensor = file.at(name);
    if (tensor.shape != std::vector{n, columns}) {
      throw Error(fmt::format("its tensor '{}' has the shape {}, not [{}, {}]", name, shape_text(tensor), n, columns));
    }
    return tensor.to_double();
  };
  proof.x = read("proof.x", dimension), proof.score = read("proof.score", dimension);
  if (condition > 0) proof.condition = read("proof.condition", condition);
  if (condition == 0 && file.tensors.contains("proof.condition")) {
    throw Error("its proof has conditions, and its network takes none; allowed: without proof.condition");
  }
  return proof;
}

// The prefixes of NAME.weight in natural order. Every tensor must be the weight or bias of one of them: what else is in
// the file may be part of the computation.
// Those in `others` are of the branches.
std::vector<std::string> natural_layers(const SafeTensors& file, const std::vector<std::string>& others) {
  std::set<std::string> prefixes;
  for (const auto& [name, tensor] : file.tensors) {
    if (name.starts_with(proof_prefix)) continue;
    const std::size_t dot = name.rfind('.');
    const std::string prefix = name.substr(0, dot == std::string::npos ? 0 : dot);
    if (std::find(others.begin(), others.end(), prefix) != others.end()) continue;
    const std::string kind = dot == std::string::npos ? name : name.substr(dot + 1);
    const bool layer =
        !prefix.empty() && (kind == "weight" || kind == "bias") && file.tensors.contains(prefix + ".weight");
    const std::string why = why_no_layer(name);
    if (!layer && !why.empty()) throw Error(fmt::format("its tensor {} {}", in_quotes(name, 60), why));
    if (!layer) {
      throw Error(
          fmt::format("its tensor {} {} is not the weight or bias of a layer (NAME.weight, NAME.bias): name those "
                      "that make the network, as layers=input,hidden1,output",
                      in_quotes(name, 60), shape_text(tensor)));
    }
    prefixes.insert(prefix);
  }
  std::vector<std::string> names(prefixes.begin(), prefixes.end());
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

// Whether an activation is given for each layer, or with its parameter.
bool is_list(const std::string& activation) { return activation.find_first_of(",(") != std::string::npos; }

double parse_number(const char* name, const std::string& text) {
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size()) {
    throw Error(fmt::format("its {} is {}: it must be a number", name, in_quotes(text)));
  }
  return value;
}

std::vector<double> read_parameters(const std::string& name, const Tensor& tensor) {
  try {
    return tensor.to_double();
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", in_quotes(name), error.what()));
  }
}

// How many numbers a condition has, if its network takes one: that, and y among its inputs, belong together.
void read_condition(const ModelMetadata& metadata, const std::vector<LayerInput>& order, Architecture& a) {
  const auto value = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  const bool named = has(order, LayerInput::condition);
  const std::string text = value("condition");
  if (text.empty()) {
    for (const char* key : {"condition_branch", "condition_layers", "condition_into"}) {
      if (value(key).empty()) continue;
      throw Error(fmt::format("{} is given without condition, how many numbers a condition has; allowed: both", key));
    }
    if (!named) return;
    throw Error(
        fmt::format("its inputs {} have a condition y, and its metadata lack condition, how many numbers that "
                    "has; give it there, or by --condition-width",
                    in_quotes(value("inputs"), 60)));
  }
  std::int64_t count = 0;
  constexpr std::int64_t most = 4096;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (code != std::errc() || end != text.data() + text.size() || count < 1 || count > most) {
    throw Error(fmt::format("its condition is {}; allowed: how many numbers it has, 1 to {}", in_quotes(text), most));
  }
  if (!named) {
    throw Error(fmt::format("its metadata have a condition, and its inputs {} no y; allowed: y at its place, as y,t,x",
                            in_quotes(value("inputs"), 60)));
  }
  a.condition.inputs = count;
}

Mlp read_mlp(const SafeTensors& file, const ModelMetadata& metadata) {
  const auto value = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  Architecture a;
  std::string missing, first;
  const auto require = [&](const char* key, const std::string& allowed) {
    if (!value(key).empty()) return true;
    missing += fmt::format("{}{}", missing.empty() ? "" : ", ", key);
    if (first.empty()) first = fmt::format("{} is {}", key, allowed);
    return false;
  };
  const bool named_each = is_list(value("activation"));
  if (require("activation", fmt::format("{}", fmt::join(activation_names(), ", ")))) {
    if (named_each) {
      a.activations = parse_activations(value("activation"));
      if (a.activations.size() == 1) {
        a.activation = a.activations[0].activation, a.beta = a.activations[0].beta;
        a.activations.clear();
      }
    } else {
      a.activation = parse_activation(value("activation"));
    }
  }
  const ActivationParameter& p = traits_of(a.activation).parameter;
  if (p.name && !named_each && !value("activation").empty() &&
      require(p.name, fmt::format("a number (PyTorch's {} has {})", to_string(a.activation), p.usual))) {
    a.beta = parse_number(p.name, value(p.name));
  }
  if (require("output", fmt::format("{}", fmt::join(output_names(), ", ")))) {
    const NetworkOutput output = parse_output(value("output"));
    a.output = output.output, a.form.form = output.form;
  }
  const bool edm = a.form.form == Form::edm;
  if (edm && require("data_deviation", "a number, the deviation that the network was made for"))
    a.form.data_deviation = parse_number("data_deviation", value("data_deviation"));
  if (!edm && !value("data_deviation").empty()) {
    throw Error(fmt::format("data_deviation is given, and the output {} does not read it", value("output")));
  }
  // What save_model() wrote before the key was there, and the paper's files, are of (t, x): they name their SDE's parameters or
  // source, and their output is a potential or the score.
  const bool plain = a.form.form == Form::score;
  const bool ours = plain && file.metadata.contains("layers") && file.metadata.contains("sde") &&
                    (file.metadata.contains("sde_parameters") || file.metadata.contains("source"));
  std::vector<LayerInput> order{LayerInput::time, LayerInput::x};
  if (!value("inputs").empty() || !ours) {
    if (require("inputs", "their order and the time's scale: t,x or x,t, or as x,0.25*log-sigma"))
      order = parse_inputs(value("inputs"), a.form);
  }
  require("sde", fmt::format("{}", fmt::join(sde_names(), ", ")));
  if (!missing.empty()) {
    throw Error(
        fmt::format("its metadata lack {}; give these there, or by options of these names; {}", missing, first));
  }

  read_condition(metadata, order, a);
  // The names of a branch's layers, which are no layers of the trunk.
  std::vector<std::string> branches;
  const auto read_branch = [&](const std::string& what, Branch& branch, const auto& names_of) {
    if (const std::string text = value((what + "_branch").c_str()); !text.empty()) branch.layers = parse_branch(text);
    if (const std::string text = value((what + "_layers").c_str()); !text.empty()) {
      branch.layer_names = split_names(text);
      if (branch.layer_names.size() != branch.layers.size()) {
        throw Error(fmt::format("{0}_layers names {1} layers, and {0}_branch has {2}; allowed: the name of each", what,
                                branch.layer_names.size(), branch.layers.size()));
      }
    }
    std::vector<std::string> names = names_of();
    branches.insert(branches.end(), names.begin(), names.end());
    return names;
  };
  const std::vector<std::string> of_condition =
      read_branch("condition", a.condition, [&] { return a.condition_names(); });
  const std::vector<std::string> of_time = read_branch("time", a.time, [&] { return a.time_names(); });
  const bool named = !value("layers").empty();
  a.layer_names = named ? split_names(value("layers")) : natural_layers(file, branches);
  const auto read_into = [&](const std::string& what, Branch& branch) {
    const std::string into = value((what + "_into").c_str());
    if (!branch.layers.empty() && into.empty()) {
      throw Error(
          fmt::format("its metadata have {0}_branch and lack {0}_into, the layers that take it; give it there, or by "
                      "the option of this name",
                      what));
    }
    if (!into.empty()) branch.into = parse_layers(into, a.layer_names);
  };
  read_into("condition", a.condition);
  read_into("time", a.time);
  if (!value("residual").empty()) a.residual = parse_layers(value("residual"), a.layer_names);
  if (!value("fixed").empty()) a.fixed = parse_layers(value("fixed"), a.layer_names);
  const std::string advice =
      fmt::format("; name its layers in order, as layers=input,hidden1,output (or --layers), of {}", list_layers(file));
  const auto refuse_known = [&](const std::string& layer) {
    const std::string why = named ? "" : why_no_layer(layer);
    if (!why.empty()) throw Error(fmt::format("its tensor {} {}", in_quotes(layer + ".weight", 60), why));
  };
  std::vector<const Tensor*> weights;
  const auto weight_of = [&](const std::string& name) {
    const auto found = file.tensors.find(name + ".weight");
    if (found == file.tensors.end()) {
      throw Error(fmt::format("it has no tensor {}", in_quotes(name + ".weight")) + advice);
    }
    return found;
  };
  for (const std::string& name : a.layer_names) {
    const auto found = weight_of(name);
    weights.push_back(&found->second);
    if (found->second.shape.size() != 2) {
      refuse_known(name);
      throw Error(fmt::format("its tensor {} has the shape {}, not [outputs, inputs]{}",
                              in_quotes(name + ".weight", 60), shape_text(found->second),
                              found->second.shape.size() == 1 ? " (normalisations are not supported)" : "") +
                  advice);
    }
  }
  if (weights.size() < 2) {
    throw Error(
        fmt::format("it has {} layers, but a network has an input and an output layer at least", weights.size()) +
        advice);
  }
  // What a layer takes, h being what is left.
  const auto widths_of = [&](std::size_t l) {
    const auto taken = [&](const Branch& branch) {
      const bool there =
          std::find(branch.into.begin(), branch.into.end(), static_cast<std::int64_t>(l)) != branch.into.end();
      return there ? branch.width() : 0;
    };
    InputWidths widths{taken(a.condition), taken(a.time), 0};
    widths.x = weights[l]->shape[1] - widths.sum();
    return widths;
  };
  // How many of them are not h, and what those have to be.
  const auto taken_text = [&](const InputWidths& widths) {
    return fmt::format("{}{}{}",
                       widths.condition > 0 ? fmt::format("{} of them the condition's", widths.condition) : "",
                       widths.condition > 0 && widths.time > 0 ? " and " : "",
                       widths.time > 0 ? fmt::format("{} of them the time's", widths.time) : "");
  };
  const auto width_text = [&](const char* what, const Branch& branch) {
    return branch.layers.empty() ? fmt::format("the {}, {}", what, branch.inputs)
                                 : fmt::format("the {} branch {}", what, printable(branch_text(branch.layers), 60));
  };
  for (std::size_t l = 1; l < weights.size(); ++l) {
    const InputWidths own = widths_of(l);
    if (own.x == weights[l - 1]->shape[0]) continue;
    refuse_known(a.layer_names[l - 1]);
    refuse_known(a.layer_names[l]);
    const std::string widths =
        fmt::format("{} has {} outputs, {} has {} inputs", printable(a.layer_names[l - 1], 30),
                    weights[l - 1]->shape[0], printable(a.layer_names[l], 30), weights[l]->shape[1]);
    if (own.condition + own.time > 0) {
      std::string allowed = "as many as the layer before has outputs";
      if (own.condition > 0) allowed += ", and the width of " + width_text("condition", a.condition);
      if (own.time > 0) allowed += ", and the width of " + width_text("time", a.time);
      throw Error(fmt::format("its layers do not chain: {}, {}; allowed: {}", widths, taken_text(own), allowed));
    }
    throw Error(fmt::format("its layers do not chain in the order {}: {}",
                            printable(fmt::format("{}", fmt::join(a.layer_names, ",")), 60), widths) +
                advice);
  }
  a.dimension = widths_of(0).x;
  if (a.dimension < 1 && a.conditional()) {
    throw Error(fmt::format("its layer {} has {} inputs, {}; allowed: more of them, for x",
                            in_quotes(a.layer_names[0], 60), weights[0]->shape[1], taken_text(widths_of(0))));
  }
  a.hidden.clear();
  for (std::size_t l = 0; l + 1 < weights.size(); ++l) a.hidden.push_back(weights[l]->shape[0]);
  a.validate();
  const std::int64_t outputs = weights.back()->shape[0];
  if (outputs != a.outputs(a.layers() - 1)) {
    throw Error(fmt::format("its last layer has {} outputs, but a {} of {} inputs ({}t and x) has {}", outputs,
                            to_string(a.output), a.inputs(0), a.conditional() ? "y, " : "", a.outputs(a.layers() - 1)) +
                advice);
  }

  const std::vector<std::string> names = a.layer_names;
  a.layer_names.clear();
  if (a.names() != names) a.layer_names = names;
  a.condition.layer_names.clear(), a.time.layer_names.clear();
  if (a.condition_names() != of_condition) a.condition.layer_names = of_condition;
  if (a.time_names() != of_time) a.time.layer_names = of_time;
  Mlp mlp{a, {}};
  const auto append = [&](const std::string& name, const Tensor& weights_of, std::int64_t rows,
                          const InputWidths& widths) {
    std::vector<double> weight = read_parameters(name + ".weight", weights_of);
    to_own_order(weight, order, widths);
    mlp.parameters.insert(mlp.parameters.end(), weight.begin(), weight.end());
    const auto bias = file.tensors.find(name + ".bias");
    if (bias == file.tensors.end()) {  // a layer without bias
      mlp.parameters.resize(mlp.parameters.size() + static_cast<std::size_t>(rows));
      return;
    }
    if (bias->second.shape != std::vector<std::int64_t>{rows}) {
      throw Error(fmt::format("its tensor {} has the shape {}, not [{}]", in_quotes(bias->first),
                              shape_text(bias->second), rows));
    }
    const std::vector<double> values = read_parameters(bias->first, bias->second);
    mlp.parameters.insert(mlp.parameters.end(), values.begin(), values.end());
  };
  const auto append_branch = [&](const char* what, const Branch& branch, const std::vector<std::string>& own) {
    for (std::size_t k = 0; k < own.size(); ++k) {
      const Tensor& weight = weight_of(own[k])->second;
      const std::int64_t width = branch.layers[k].width, inputs = branch.inputs_of(static_cast<std::int64_t>(k));
      if (weight.shape != std::vector{width, inputs}) {
        throw Error(fmt::format("its tensor {} has the shape {}, not [{}, {}] as its {} branch {} says",
                                in_quotes(own[k] + ".weight", 60), shape_text(weight), width, inputs, what,
                                printable(branch_text(branch.layers), 60)));
      }
      append(own[k], weight, width, {.x = inputs});
    }
  };
  append_branch("condition", a.condition, of_condition);
  append_branch("time", a.time, of_time);
  for (std::size_t l = 0; l < names.size(); ++l) {
    const std::int64_t layer = static_cast<std::int64_t>(l);
    append(names[l], *weights[l], a.outputs(layer), widths_of(l));
  }
  return mlp;
}

// Without a name it is ou, which is for mixtures alone: their score is exact under any.
ForwardSde read_sde(const ModelMetadata& file, const ModelMetadata& overrides) {
  const auto value = [](const ModelMetadata& map, const char* key) {
    const auto found = map.find(key);
    return found == map.end() ? std::string() : found->second;
  };
  const std::string file_name = value(file, "sde").empty() ? "ou" : value(file, "sde");
  const std::string name = value(overrides, "sde").empty() ? file_name : value(overrides, "sde");
  std::string parameters = value(overrides, "sde_parameters");
  // The file's parameters belong to the file's SDE.
  if (parameters.empty() && name == file_name) parameters = value(file, "sde_parameters");
  return ForwardSde::parse(name, parameters);
}

// A parameter beside an activation that has none of that name would change nothing. The file's own may be of the
// activation that an override stands for.
void check_activation_parameters(const ModelMetadata& file, const ModelMetadata& overrides) {
  const auto value = [](const ModelMetadata& map, const std::string& key) {
    const auto found = map.find(key);
    return found == map.end() ? std::string() : found->second;
  };
  const std::string own = value(file, "activation"), given = value(overrides, "activation");
  const std::string activation = given.empty() ? own : given;
  if (activation.empty()) return;
  if (is_list(activation)) {
    for (const auto& [name, meaning] : activation_parameters()) {
      if (value(overrides, name).empty() && (!given.empty() || value(file, name).empty())) continue;
      throw Error(fmt::format("{} is given beside the list of activations {}; allowed: in the list, as softplus(3)",
                              name, in_quotes(activation, 40)));
    }
    return;
  }
  const ActivationParameter& parameter = traits_of(parse_activation(activation)).parameter;
  for (const auto& [name, meaning] : activation_parameters()) {
    const bool there = !value(overrides, name).empty() || (given.empty() && !value(file, name).empty());
    if (!there || (parameter.name && name == parameter.name)) continue;
    throw Error(fmt::format("{} is given, and the activation {} has no such parameter{}", name, activation,
                            parameter.name ? fmt::format("; allowed: {}", parameter.name) : ""));
  }
}

// The numbers of a list "[1000, 0]"; empty where the key is not there.
std::vector<double> read_list(const ModelMetadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end() || found->second.empty()) return {};
  const std::string its = fmt::format("its {}", key);
  std::vector<double> numbers = parse_json(found->second, its, 1).to<std::vector<double>>(its);
  if (numbers.empty()) throw Error(fmt::format("{} are an empty list; allowed: a number for each column", its));
  return numbers;
}

Standardisation read_standardisation(const ModelMetadata& metadata) {
  Standardisation s{read_list(metadata, column_means), read_list(metadata, column_deviations)};
  if (s.mean.empty() != s.deviation.empty()) {
    throw Error(fmt::format("{} are given without {}; allowed: both, or neither",
                            s.mean.empty() ? column_deviations : column_means,
                            s.mean.empty() ? column_means : column_deviations));
  }
  return s;
}

// Every double as it is.
std::string list_text(const std::vector<double>& numbers) { return fmt::format("[{}]", fmt::join(numbers, ", ")); }

using CheckProof = void (*)(const Model&, const Proof&);

// The model of a file, which messages call `name`.
Model model_of(const SafeTensors& file, const std::string& name, const ModelMetadata& overrides, CheckProof check) {
  ModelMetadata metadata = file.metadata;
  for (const auto& [key, value] : overrides) {
    if (!value.empty()) metadata[key] = value;
  }
  try {
    check_activation_parameters(file.metadata, overrides);
    Mlp mlp = read_mlp(file, metadata);
    Model model{read_sde(file.metadata, overrides), std::move(mlp), read_standardisation(metadata)};
    model.validate();
    check(model, read_proof(file, model.dimension(), model.condition()));
    return model;
  } catch (const Error& error) {
    throw Error(fmt::format("{} is not a model that can be used: {}", name, error.what()));
  }
}

Model load_safetensors(const std::string& path, const ModelMetadata& overrides, CheckProof check) {
  return model_of(SafeTensors::load(path), in_quotes(path), overrides, check);
}

// A JSON array of numbers, of arrays of numbers, …, to one vector; `shape` says how long each level has to be.
void flatten(const JsonValue& json, std::span<const std::int64_t> shape, const char* key, std::vector<double>& out) {
  if (shape.empty()) {
    if (!json.is_number()) throw Error(fmt::format("its {} hold something that is not a number", key));
    out.push_back(json.to<double>(key));
    return;
  }
  if (json.array() == nullptr || std::ssize(*json.array()) != shape.front()) {
    throw Error(fmt::format("its {} hold {} where an array of {} is needed", key, json.description(), shape.front()));
  }
  for (const JsonValue& item : *json.array()) flatten(item, shape.subspan(1), key, out);
}

// How deep arrays lie in one another, by their first items.
int depth_of(const JsonValue& json) {
  return json.array() == nullptr || json.array()->empty() ? 0 : 1 + depth_of(json.array()->front());
}

// The SDE that a mixture or a composition names, where it does.
ModelMetadata sde_of(const JsonValue& json) {
  ModelMetadata metadata;
  if (const JsonValue* name = json.find("sde")) {
    if (name->string() == nullptr) throw Error("its sde is not a string");
    metadata["sde"] = *name->string();
  }
  if (const JsonValue* parameters = json.find("sde_parameters")) metadata["sde_parameters"] = parameters->dump();
  return metadata;
}

// Throws Error unless it is an object with no other keys than these.
void check_keys(const JsonValue& json, std::initializer_list<const char*> allowed) {
  if (json.object() == nullptr) throw Error("it is not a JSON object");
  for (const auto& [key, value] : *json.object()) {
    if (std::find(allowed.begin(), allowed.end(), key) != allowed.end()) continue;
    throw Error(fmt::format("its key {} is unknown: allowed are {}", in_quotes(key), fmt::join(allowed, ", ")));
  }
}

GaussianMixture read_mixture(const JsonValue& json) {
  check_keys(json, {"weights", "means", "covariances", "sde", "sde_parameters", "metadata"});
  for (const char* key : {"weights", "means", "covariances"}) {
    if (json.find(key) == nullptr) throw Error(fmt::format("it has no {}", key));
  }
  for (const char* key : {"weights", "means"}) {
    const JsonValue::Array* array = json.find(key)->array();
    if (array == nullptr || array->empty()) throw Error(fmt::format("its {} are not an array with entries", key));
  }
  const JsonValue &weights_json = *json.find("weights"), &means_json = *json.find("means"),
                  &covariances_json = *json.find("covariances");
  if (depth_of(means_json) < 2) throw Error("its means are not an array of arrays [K][d]");
  const std::int64_t components = std::ssize(*weights_json.array()),
                     d = std::ssize(*means_json.array()->front().array());
  std::vector<double> weights, means, covariances;
  flatten(weights_json, std::vector{components}, "weights", weights);
  flatten(means_json, std::vector{components, d}, "means", means);
  // A mixture holds K matrices, which a short file may leave to be written out.
  constexpr std::int64_t most_numbers = std::int64_t{1} << 22;
  const int depth = depth_of(covariances_json);
  if (depth < 3 && d <= 4096 && components > most_numbers / (d * d)) {
    throw Error(
        fmt::format("its {0} covariances of {1} × {1} would take more than {2} numbers, the most that are made "
                    "of shorter ones; allowed: to write them out, as [K][d][d]",
                    components, d, most_numbers));
  }
  if (covariances_json.is_number()) {
    covariances.assign(weights.size(), covariances_json.to<double>("covariances"));
  } else if (depth == 1) {
    flatten(covariances_json, std::vector{components}, "covariances", covariances);
  } else if (depth == 2) {
    flatten(covariances_json, std::vector{components, d}, "covariances", covariances);
    return GaussianMixture::diagonal(d, std::move(weights), std::move(means), covariances);
  } else {
    flatten(covariances_json, std::vector{components, d, d}, "covariances", covariances);
    return {d, std::move(weights), std::move(means), std::move(covariances)};
  }
  return GaussianMixture::isotropic(d, std::move(weights), std::move(means), covariances);
}

// What a term of a composition is before its SDE is known.
struct ReadTerm {
  double weight = 1;
  std::optional<Model> file = {};               // a network, or a mixture that names its SDE
  std::optional<GaussianMixture> mixture = {};  // one that does not, or the prior of what was observed
  std::optional<AffineObservation> observed = {};
};

JsonValue parse_file(const std::vector<std::byte>& bytes) {
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "it", 9);
}

// `what` is wrong with a part of a file.
template <class Read>
auto part_of_file(const std::string& what, const Read& read) {
  try {
    return read();
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", what, error.what()));
  }
}

// The numbers of an observation in d dimensions.
AffineObservation read_observation(const JsonValue& json, std::int64_t d) {
  AffineObservation o;
  o.observation = json.get<std::vector<double>>("its", "observation");
  const std::int64_t k = std::ssize(o.observation);
  flatten(json.at("it", "matrix"), std::vector{k, d}, "matrix", o.matrix);
  if (json.find("offset")) o.offset = json.get<std::vector<double>>("its", "offset");
  const JsonValue& covariance = json.at("it", "covariance");
  if (covariance.is_number()) {
    o.covariance.assign(o.observation.size(), covariance.to<double>("its covariance"));
  } else {
    flatten(covariance, std::vector(depth_of(covariance) < 2 ? 1 : 2, k), "covariance", o.covariance);
  }
  return o;
}

[[noreturn]] void throw_wrong_ending(const std::string& path) {
  throw Error(
      fmt::format("{} is not the name of a model file: it must end in .safetensors (a network) or .json (a "
                  "Gaussian mixture or a composition)",
                  in_quotes(path)));
}

// A term, or the whole, that names no SDE has that of the others, with its parameters.
void check_parameters_have_sde(const JsonValue& json) {
  if (json.find("sde_parameters") == nullptr || json.find("sde") != nullptr) return;
  throw Error("its sde_parameters stand there without sde; allowed in a composition: both, sde alone, or neither");
}

void set_mixture(const JsonValue& json, const ModelMetadata& overrides, ReadTerm& term) {
  check_parameters_have_sde(json);
  term.mixture = read_mixture(json);
  if (json.find("sde")) term.file = Model{read_sde(sde_of(json), overrides), *term.mixture, {}};
}

void set_file(const std::string& path, const ModelMetadata& overrides, CheckProof check, ReadTerm& term) {
  if (path.ends_with(".safetensors")) {
    term.file = load_safetensors(path, overrides, check);
    return;
  }
  if (!path.ends_with(".json")) throw_wrong_ending(path);
  const JsonValue json = parse_file(read_file(path));
  if (json.find("terms")) {
    throw Error(
        fmt::format("its model {} is a composition itself; allowed: networks and Gaussian mixtures", in_quotes(path)));
  }
  set_mixture(json, overrides, term);
}

// The condition that a term's model is given: its numbers, or "none".
void give_condition(const JsonValue* condition, ReadTerm& term) {
  const std::int64_t takes = term.file ? term.file->condition() : 0;
  if (condition == nullptr && takes == 0) return;
  if (takes == 0) throw Error("it has a condition, and its model takes none");
  if (condition == nullptr) {
    throw Error(fmt::format(
        "its model takes a condition of {} numbers; allowed: a key condition with them, or with \"none\"", takes));
  }
  const std::string* const word = condition->string();
  if (word && *word != "none") {
    throw Error(fmt::format("its condition is {}; allowed: an array of numbers, or \"none\"", in_quotes(*word)));
  }
  term.file = word ? without_condition(*term.file)
                   : with_condition(*term.file, condition->to<std::vector<double>>("its condition"));
}

// `folder`: where the names of files begin. `work`: of the likelihoods so far.
ReadTerm read_term(const JsonValue& json, const std::filesystem::path& folder, const ModelMetadata& overrides,
                   CheckProof check, std::int64_t& work) {
  check_keys(json, {"weight", "model", "condition", "mixture", "likelihood"});
  const bool weighted = json.find("weight") != nullptr;
  const JsonValue* const condition = json.find("condition");
  const std::size_t beside = (weighted ? 1 : 0) + (condition && json.find("model") ? 1 : 0);
  if (json.object()->size() != 1 + beside) {
    throw Error(fmt::format(
        "it has {} keys; allowed: one of model, mixture and likelihood, weight, and beside a model a condition",
        json.object()->size()));
  }
  ReadTerm term;
  if (weighted) term.weight = json.get<double>("its", "weight");
  if (const JsonValue* mixture = json.find("mixture")) {
    part_of_file("its mixture", [&] { set_mixture(*mixture, overrides, term); });
  } else if (const JsonValue* likelihood = json.find("likelihood")) {
    part_of_file("its likelihood", [&] {
      check_keys(*likelihood, {"matrix", "offset", "covariance", "observation", "prior"});
      const JsonValue& prior = likelihood->at("it", "prior");
      if (prior.find("sde") || prior.find("sde_parameters")) {
        throw Error("its prior names an SDE; allowed: none, for the SDE is that of the other terms");
      }
      term.mixture = part_of_file("its prior", [&] { return read_mixture(prior); });
      const std::int64_t d = term.mixture->dimension();
      // Each component's matrix is decomposed, and a short file may leave it to be written out.
      constexpr std::int64_t most_work = std::int64_t{1} << 27;
      work += term.mixture->components() * d * d * d;
      if (work > most_work) {
        throw Error(
            fmt::format("K d³ of the priors of K components in d dimensions is {} up to here; allowed in a "
                        "file: {}",
                        work, most_work));
      }
      term.observed = read_observation(*likelihood, d);
    });
  } else {
    const auto name = json.get<std::string>("its", "model");
    if (name.find('\0') != std::string::npos) throw Error("its model is no name of a file: it holds a zero byte");
    set_file((folder / name).string(), overrides, check, term);
    give_condition(condition, term);
  }
  return term;
}

Model read_composition(const JsonValue& json, const std::filesystem::path& folder, const ModelMetadata& overrides,
                       CheckProof check) {
  check_keys(json, {"terms", "sde", "sde_parameters", "metadata"});
  check_parameters_have_sde(json);
  const JsonValue& list = json.at("it", "terms");
  if (list.array() == nullptr || list.array()->empty() || list.array()->size() > Composition::most_terms) {
    throw Error(fmt::format("its terms are {}; allowed: an array of 1 to {}", list.description(),
                            std::size_t{Composition::most_terms}));
  }
  std::vector<ReadTerm> read;
  std::int64_t work = 0;
  for (const JsonValue& term : *list.array()) {
    read.push_back(part_of_file(fmt::format("its term {}", read.size()),
                                [&] { return read_term(term, folder, overrides, check, work); }));
  }
  // What names no SDE has the composition's, or that of the first term which names one.
  const auto named = std::find_if(read.begin(), read.end(), [](const ReadTerm& term) { return term.file.has_value(); });
  const bool by_term = json.find("sde") == nullptr && named != read.end();
  const ForwardSde sde = by_term ? named->file->sde : read_sde(sde_of(json), overrides);
  const Standardisation columns = named == read.end() ? Standardisation{} : named->file->standardisation;
  std::vector<Term> terms;
  for (const ReadTerm& term : read) {
    const auto likelihood = [&] {
      return part_of_file(fmt::format("its term {}", terms.size()),
                          [&] { return gaussian_likelihood(sde, *term.mixture, *term.observed, columns); });
    };
    terms.push_back({term.weight, term.observed ? likelihood()
                                  : term.file   ? *term.file
                                                : Model{sde, *term.mixture, {}}});
  }
  return compose(terms);
}

Model load_json(const std::string& path, const ModelMetadata& overrides, CheckProof check) {
  const std::vector<std::byte> bytes = read_file(path);
  const char* kind = "Gaussian mixture";
  try {
    const JsonValue json = parse_file(bytes);
    if (json.find("terms")) kind = "composition";
    for (const auto& [key, value] : overrides) {
      if (key == "sde" || key == "sde_parameters" || value.empty()) continue;
      throw Error(fmt::format("the option {} is for networks", key));
    }
    if (json.find("terms")) return read_composition(json, std::filesystem::path(path).parent_path(), overrides, check);
    GaussianMixture mixture = read_mixture(json);
    return {read_sde(sde_of(json), overrides), std::move(mixture), {}};
  } catch (const Error& error) {
    throw Error(fmt::format("{} is not a {} that can be used: {}", in_quotes(path), kind, error.what()));
  }
}

// `exact`: with F64 tensors where F32 would round a parameter.
SafeTensors file_of(const Model& model, const ModelMetadata& extra, const Proof& proof, bool exact) {
  const Mlp& mlp = std::get<Mlp>(model.network);
  const ForwardSde& sde = model.sde;
  const Architecture& a = mlp.architecture;
  const std::vector<std::string> names = a.names();
  SafeTensors file;
  file.metadata = extra;
  const bool named_each = !a.activations.empty();
  file.metadata["activation"] = named_each ? activations_text(a) : to_string(a.activation);
  const ActivationParameter& parameter = traits_of(a.activation).parameter;
  if (parameter.name && !named_each) file.metadata[parameter.name] = fmt::format("{}", a.beta);
  file.metadata["output"] = to_string(NetworkOutput{a.output, a.form.form});
  if (a.form.form == Form::edm) file.metadata["data_deviation"] = fmt::format("{}", a.form.data_deviation);
  file.metadata["inputs"] = inputs_of(a);
  file.metadata["layers"] = fmt::format("{}", fmt::join(names, ","));
  const auto describe_branch = [&](const std::string& what, const Branch& branch, const std::vector<std::string>& own) {
    if (!branch.layers.empty()) {
      file.metadata[what + "_branch"] = branch_text(branch.layers);
      file.metadata[what + "_layers"] = fmt::format("{}", fmt::join(own, ","));
    }
    if (!branch.raw()) file.metadata[what + "_into"] = layers_text(branch.into, names);
  };
  if (a.conditional()) file.metadata["condition"] = fmt::format("{}", a.condition.inputs);
  describe_branch("condition", a.condition, a.condition_names());
  describe_branch("time", a.time, a.time_names());
  if (!a.residual.empty()) file.metadata["residual"] = layers_text(a.residual, names);
  if (!a.fixed.empty()) file.metadata["fixed"] = layers_text(a.fixed, names);
  file.metadata["sde"] = sde.name();
  file.metadata["sde_parameters"] = sde.parameters_json();
  if (!model.standardisation.empty()) {
    file.metadata[column_means] = list_text(model.standardisation.mean);
    file.metadata[column_deviations] = list_text(model.standardisation.deviation);
  }
  const std::vector<float> parameters(mlp.parameters.begin(), mlp.parameters.end());
  const bool wide = exact && !std::equal(parameters.begin(), parameters.end(), mlp.parameters.begin());
  const auto tensor = [&](std::vector<std::int64_t> shape, std::int64_t begin) {
    return wide ? Tensor::from_double(std::move(shape), mlp.parameters.data() + begin)
                : Tensor::from_float(std::move(shape), parameters.data() + begin);
  };
  const auto add = [&](const std::string& name, std::int64_t outputs, std::int64_t inputs, std::int64_t weight) {
    file.tensors[name + ".weight"] = tensor({outputs, inputs}, weight);
    file.tensors[name + ".bias"] = tensor({outputs}, weight + outputs * inputs);
  };
  const auto add_branch = [&](const Branch& branch, std::int64_t begin, const std::vector<std::string>& own) {
    for (std::size_t k = 0; k < own.size(); ++k) {
      const auto layer = static_cast<std::int64_t>(k);
      add(own[k], branch.layers[k].width, branch.inputs_of(layer), begin + branch.weight_offset(layer));
    }
  };
  add_branch(a.condition, 0, a.condition_names());
  add_branch(a.time, a.time_offset(), a.time_names());
  for (std::int64_t l = 0; l < a.layers(); ++l) {
    add(names[static_cast<std::size_t>(l)], a.outputs(l), a.inputs(l), a.weight_offset(l));
  }
  if (const std::int64_t n = std::ssize(proof.t); n > 0) {
    file.tensors["proof.t"] = Tensor::from_double({n}, proof.t.data());
    file.tensors["proof.x"] = Tensor::from_double({n, a.dimension}, proof.x.data());
    file.tensors["proof.score"] = Tensor::from_double({n, a.dimension}, proof.score.data());
    if (a.conditional()) {
      file.tensors["proof.condition"] = Tensor::from_double({n, a.condition.inputs}, proof.condition.data());
    }
  }
  return file;
}

// Numbers as lists in lists, on a line each; `next` goes on to the first that is left.
std::string lists_text(const double*& next, std::span<const std::int64_t> shape, int indent = 1) {
  if (shape.empty()) return json_text(*next++);
  std::string text;
  for (std::int64_t i = 0; i < shape.front(); ++i) {
    text +=
        fmt::format("{}\n{:{}}{}", i > 0 ? "," : "", "", indent + 1, lists_text(next, shape.subspan(1), indent + 1));
  }
  return fmt::format("[{}\n{:{}}]", text, "", indent);
}

void save_mixture(const std::string& path, const GaussianMixture& mixture, const ForwardSde& sde,
                  const ModelMetadata& extra) {
  const std::int64_t components = mixture.components(), d = mixture.dimension();
  const double *weights = mixture.weights().data(), *means = mixture.means().data(),
               *covariances = mixture.covariances().data();
  std::string parameters, metadata;
  const auto add = [](std::string& text, const std::string& key, const std::string& value) {
    text += fmt::format("{}\n  {}: {}", text.empty() ? "" : ",", key, value);
  };
  const JsonValue json = parse_json(sde.parameters_json(), "the SDE", 2);
  for (const auto& [key, value] : *json.object()) add(parameters, json_text(key), value.dump());
  try {
    for (const auto& [key, value] : extra) add(metadata, json_text(key), json_text(value));
  } catch (const Error& error) {
    throw Error(fmt::format("cannot write {}: its metadata {}", in_quotes(path), error.what()));
  }
  write_text(path,
             fmt::format("{{\n \"weights\": {},\n \"means\": {},\n \"covariances\": {},\n \"sde\": {},\n "
                         "\"sde_parameters\": {{{}\n }}{}\n}}\n",
                         lists_text(weights, std::vector{components}), lists_text(means, std::vector{components, d}),
                         lists_text(covariances, std::vector{components, d, d}), json_text(sde.name()), parameters,
                         extra.empty() ? "" : fmt::format(",\n \"metadata\": {{{}\n }}", metadata)));
}

void check_known(const ModelMetadata& overrides) {
  const std::vector<std::string> known = known_keys();
  for (const auto& [key, value] : overrides) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      throw Error(fmt::format("unknown model option {}: allowed are {}", in_quotes(key), fmt::join(known, ", ")));
    }
  }
}

}  // namespace

Model read_model_file(const std::string& path, const ModelMetadata& overrides, CheckProof check) {
  check_known(overrides);
  if (path.ends_with(".json")) return load_json(path, overrides, check);
  if (!path.ends_with(".safetensors")) throw_wrong_ending(path);
  return load_safetensors(path, overrides, check);
}

Model read_model_contents(std::span<const std::byte> contents, const ModelMetadata& overrides, CheckProof check) {
  check_known(overrides);
  return model_of(SafeTensors::parse(contents), "what was given", overrides, check);
}

std::vector<std::byte> model_contents(const Model& model) {
  model.validate();
  if (!std::holds_alternative<Mlp>(model.network)) {
    throw Error(fmt::format("the contents of a network's file are asked for of a {}; allowed: a network",
                            std::holds_alternative<Composition>(model.network) ? "composition" : "Gaussian mixture"));
  }
  return file_of(model, {}, {}, true).contents();
}

void save_model(const std::string& path, const Model& model, const ModelMetadata& extra, const Proof& proof) {
  model.validate();
  for (const std::string& key : known_keys()) {
    if (extra.contains(key)) throw Error(fmt::format("the metadata key {} is written from the model itself", key));
  }
  if (std::holds_alternative<Composition>(model.network)) {
    throw Error(
        fmt::format("cannot write {}: a composition's file names those of its terms and is written by hand; allowed: a "
                    "network or a Gaussian mixture",
                    in_quotes(path)));
  }
  const Mlp* mlp = std::get_if<Mlp>(&model.network);
  const char* ending = mlp ? ".safetensors" : ".json";
  if (!path.ends_with(ending)) {
    throw Error(fmt::format("cannot write {}: the name of a file with a {} ends in {}", in_quotes(path),
                            mlp ? "network" : "Gaussian mixture", ending));
  }
  if (mlp) {
    if (!proof.t.empty()) check_proof(model, proof);
    file_of(model, extra, proof, false).save(path);
  } else {
    if (!model.standardisation.empty()) {
      throw Error(
          fmt::format("cannot write {}: a file with a Gaussian mixture has no standardisation; allowed: means "
                      "and covariances in the units of the data",
                      in_quotes(path)));
    }
    save_mixture(path, std::get<GaussianMixture>(model.network), model.sde, extra);
  }
}

}  // namespace fokker
