#include "operations/trainer_state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "core/check.hpp"
#include "core/quote.hpp"
#include "fokker/error.hpp"
#include "fokker/file.hpp"
#include "fokker/loss.hpp"
#include "fokker/safetensors.hpp"
#include "io/file.hpp"
#include "io/json.hpp"
#include "operations/train_schedule.hpp"

namespace fokker {
namespace {

constexpr const char* state_format = "fokker training state";
constexpr const char* state_version = "1";

// The values of an object's keys, each as what it is read into.
struct Reader {
  std::string name;
  const JsonValue& json;

  template <class T>
  void operator()(const char* key, T& value) const {
    value = json.get<T>(name, key);
  }
  // What states of before the key was there do not hold.
  template <class T>
  void where_there(const char* key, T& value) const {
    if (json.find(key)) (*this)(key, value);
  }
  std::string text(const char* key) const { return json.get<std::string>(name, key); }
};

// What a network has beside a plain one's parts; states of plain networks do not name it.
std::string parts_text(const Architecture& a) {
  if (a.plain()) return "";
  std::string condition;
  if (a.conditional()) {
    condition = fmt::format(R"("condition":{},"condition_branch":{},"condition_into":{},"condition_layers":{},)",
                            a.condition.inputs, json_text(branch_text(a.condition.layers)), json_text(a.condition.into),
                            json_text(a.condition_names()));
  }
  return fmt::format(R"(,"activations":{},{}"fixed":{},"residual":{},"time_branch":{},"time_into":{},"time_layers":{})",
                     json_text(a.activations.empty() ? std::string() : activations_text(a)), condition,
                     json_text(a.fixed), json_text(a.residual), json_text(branch_text(a.time.layers)),
                     json_text(a.time.into), json_text(a.time_names()));
}

std::string text_of(const Architecture& a) {
  return fmt::format(
      R"({{"activation":{},"beta":{},"data_deviation":{},"dimension":{},"hidden":{},"inputs":{},"layers":{},"output":{}{}}})",
      json_text(to_string(a.activation)), json_text(a.beta), json_text(a.form.data_deviation), a.dimension,
      json_text(a.hidden), json_text(inputs_of(a.form)), json_text(a.names()),
      json_text(to_string(NetworkOutput{a.output, a.form.form})), parts_text(a));
}

Architecture architecture_from(const JsonValue& json) {
  const Reader read{"its architecture", json};
  Architecture a;
  read("dimension", a.dimension);
  read("hidden", a.hidden);
  a.activation = parse_activation(read.text("activation"));
  read("beta", a.beta);
  const NetworkOutput output = parse_output(read.text("output"));
  a.output = output.output, a.form.form = output.form;
  read.where_there("data_deviation", a.form.data_deviation);
  if (json.find("inputs")) parse_inputs(read.text("inputs"), a.form);
  read("layers", a.layer_names);
  if (json.find("time_into") == nullptr) return a;
  read("time_into", a.time.into);
  read("residual", a.residual);
  read("fixed", a.fixed);
  if (const std::string branch = read.text("time_branch"); !branch.empty()) {
    a.time.layers = parse_branch(branch);
    read("time_layers", a.time.layer_names);
  }
  if (json.find("condition") != nullptr) {
    read("condition", a.condition.inputs);
    read("condition_into", a.condition.into);
    if (const std::string branch = read.text("condition_branch"); !branch.empty()) {
      a.condition.layers = parse_branch(branch);
      read("condition_layers", a.condition.layer_names);
    }
  }
  if (const std::string each = read.text("activations"); !each.empty()) a.activations = parse_activations(each);
  return a;
}

// Empty where there is none, so that states without one stay as they were.
std::string text_of(const Standardisation& s) {
  if (s.empty()) return "";
  return fmt::format(R"(,"standardisation":{{"deviations":[{}],"means":[{}]}})", fmt::join(s.deviation, ","),
                     fmt::join(s.mean, ","));
}

Standardisation standardisation_from(const JsonValue& configuration) {
  const JsonValue* const json = configuration.find("standardisation");
  if (json == nullptr) return {};
  const Reader read{"its standardisation", *json};
  Standardisation s;
  read("means", s.mean);
  read("deviations", s.deviation);
  return s;
}

// Empty where none are given, so that states without them stay as they were.
std::string text_of(const std::vector<LossWeightAt<double>>& weights) {
  if (weights.empty()) return "";
  std::string rows;
  for (const auto& [t, weight] : weights) {
    rows += fmt::format("{}[{},{}]", rows.empty() ? "" : ",", json_text(t), json_text(weight));
  }
  return fmt::format(R"("loss_weights":[{}],)", rows);
}

std::string text_of(const TrainOptions& o) {
  const std::string drop =
      o.condition_drop > 0 ? fmt::format(R"("condition_drop":{},)", json_text(o.condition_drop)) : "";
  const std::string probes = o.residual_probes > 0 ? fmt::format(R"("probe_law":{},"residual_probes":{},)",
                                                                 json_text(to_string(o.probe_law)), o.residual_probes)
                                                   : "";
  return fmt::format(
      R"({{"average":{},"average_decay":{},"average_fraction":{},"box":{},"clip_norm":{},"collocation_points":{},{})"
      R"("denoising_points":{},"iterations":{},"log_sigma_deviation":{},"log_sigma_mean":{},"loss_weight":{},)"
      R"({}"peak_rate":{},{}"residual_weight":{},"schedule":{},"seed":{},"time_law":{}}})",
      json_text(to_string(o.average)), json_text(o.average_decay), json_text(o.average_fraction), json_text(o.box),
      json_text(o.clip_norm), o.collocation_points, drop, o.denoising_points, o.iterations,
      json_text(o.log_sigma_deviation), json_text(o.log_sigma_mean), json_text(to_string(o.loss_weight)),
      text_of(o.loss_weights), json_text(o.peak_rate), probes, json_text(o.residual_weight),
      json_text(to_string(o.schedule)), o.seed, json_text(to_string(o.time_law)));
}

TrainOptions options_from(const JsonValue& json) {
  const Reader read{"its options", json};
  TrainOptions o;
  read("iterations", o.iterations);
  read("denoising_points", o.denoising_points);
  read("collocation_points", o.collocation_points);
  read("residual_weight", o.residual_weight);
  std::int64_t probes = 0;
  read.where_there("residual_probes", probes);
  check_count("the number of probes, 0 for the exact residual,", probes, 0, most_residual_probes);
  o.residual_probes = static_cast<int>(probes);
  if (json.find("probe_law")) o.probe_law = parse_probe_law(read.text("probe_law"));
  read("box", o.box);
  o.time_law = parse_time_law(read.text("time_law"));
  read.where_there("log_sigma_mean", o.log_sigma_mean);
  read.where_there("log_sigma_deviation", o.log_sigma_deviation);
  if (json.find("loss_weight")) o.loss_weight = parse_loss_weight(read.text("loss_weight"));
  if (const JsonValue* const rows = json.find("loss_weights"); rows != nullptr) {
    const char* const its = "its options loss_weights";
    if (rows->array() == nullptr)
      throw Error(fmt::format("{} are {} where an array is needed", its, rows->description()));
    for (const JsonValue& row : *rows->array()) {
      const auto pair = row.to<std::vector<double>>(its);
      if (pair.size() != 2)
        throw Error(fmt::format("{} have a row of {} numbers where 2 are needed", its, pair.size()));
      o.loss_weights.push_back({pair[0], pair[1]});
    }
  }
  o.schedule = parse_rate_schedule(read.text("schedule"));
  read("peak_rate", o.peak_rate);
  o.average = parse_weight_average(read.text("average"));
  read("average_decay", o.average_decay);
  read("average_fraction", o.average_fraction);
  read("clip_norm", o.clip_norm);
  read.where_there("condition_drop", o.condition_drop);
  read("seed", o.seed);
  return o;
}

// The numbers of a tensor of exactly this type and length.
template <class T>
std::vector<T> read(const SafeTensors& file, const std::string& name, const char* dtype, std::int64_t size) {
  static_assert(std::endian::native == std::endian::little);
  const Tensor& tensor = file.at(name);
  if (tensor.dtype != dtype || tensor.shape != std::vector<std::int64_t>{size}) {
    throw Error(fmt::format("tensor '{}' is {} with {} numbers; expected {} with {}", name, in_quotes(tensor.dtype),
                            tensor.size(), dtype, size));
  }
  std::vector<T> numbers(size);
  std::memcpy(numbers.data(), tensor.bytes.data(), numbers.size() * sizeof(T));
  for (const T value : numbers) {
    if (!std::isfinite(static_cast<double>(value))) {
      throw Error(fmt::format("tensor '{}' holds {}; allowed: finite numbers", name, value));
    }
  }
  return numbers;
}

TrainState read_state(const SafeTensors& file, std::int64_t parameters, const TrainOptions& options) {
  TrainState state;
  state.iteration = read<std::int64_t>(file, "iteration", "I64", 1)[0];
  state.average_count = read<std::int64_t>(file, "average_count", "I64", 1)[0];
  if (state.iteration < 0 || state.iteration > options.iterations) {
    throw Error(fmt::format("its iteration is {}; allowed: 0 to {}", state.iteration, options.iterations));
  }
  const std::int64_t averaged = std::max<std::int64_t>(0, state.iteration - average_begin(options));
  if (state.average_count != averaged) {
    throw Error(fmt::format("{} iterations in the average where {} are expected", state.average_count, averaged));
  }
  state.parameters = read<float>(file, "parameters", "F32", parameters);
  state.first_moment = read<float>(file, "first_moment", "F32", parameters);
  state.second_moment = read<float>(file, "second_moment", "F32", parameters);
  if (averaged > 0) state.average = read<double>(file, "average", "F64", parameters);
  for (const float value : state.second_moment) {
    if (value < 0) throw Error(fmt::format("tensor 'second_moment' holds {}; allowed: 0 or more", value));
  }
  return state;
}

SafeTensors file_of(const Model& model, const DataSet& data, const TrainOptions& options, const TrainState& state) {
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(state.parameters.size())};
  SafeTensors file;
  file.tensors["parameters"] = Tensor::from_float(shape, state.parameters.data());
  file.tensors["first_moment"] = Tensor::from_float(shape, state.first_moment.data());
  file.tensors["second_moment"] = Tensor::from_float(shape, state.second_moment.data());
  if (state.average_count > 0) file.tensors["average"] = Tensor::from_double(shape, state.average.data());
  file.tensors["iteration"] = Tensor::from_int64({1}, &state.iteration);
  file.tensors["average_count"] = Tensor::from_int64({1}, &state.average_count);
  // A file name need not be UTF-8.
  const std::string text = fmt::format(
      R"({{"architecture":{},"data":{{"fingerprint":{},"name":{}}},"options":{},"sde":{{"name":{},"parameters":{}}}{}}})",
      text_of(std::get<Mlp>(model.network).architecture), json_text(data.fingerprint()),
      json_text(data.name(), NotUtf8::replaced), text_of(options), json_text(model.sde.name()),
      model.sde.parameters_json(), text_of(model.standardisation));
  file.metadata = {{"format", state_format}, {"version", state_version}, {"configuration", text}};
  return file;
}

}  // namespace

void write_training(const std::string& path, const Model& model, const DataSet& data, const TrainOptions& options,
                    const TrainState& state) {
  file_of(model, data, options, state).save(path);
}

std::uint64_t training_hash(const Model& model, const DataSet& data, const TrainOptions& options,
                            const TrainState& state) {
  const SafeTensors file = file_of(model, data, options, state);
  const std::string& configuration = file.metadata.at("configuration");
  std::uint64_t hash = hash_bytes(std::as_bytes(std::span(configuration)));
  for (const auto& [name, tensor] : file.tensors) hash = hash_bytes(tensor.bytes, hash);
  return hash;
}

SavedTraining read_training(const std::string& path, const DataSet& data, Ranks& ranks) {
  std::vector<std::byte> bytes;
  if (ranks.rank() == 0) bytes = read_file(path);
  std::uint64_t size = bytes.size();
  ranks.broadcast(std::as_writable_bytes(std::span(&size, 1)), 0);
  bytes.resize(size);
  ranks.broadcast(bytes, 0);
  const SafeTensors file = SafeTensors::parse(bytes, in_quotes(path));
  const auto entry = [&](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  if (entry("format") != state_format) {
    throw Error(
        fmt::format("{} is not a training state; allowed: a file that Trainer::save_state() wrote", in_quotes(path)));
  }
  if (entry("version") != state_version) {
    throw Error(fmt::format("{} is a training state of version {}; allowed: {}", in_quotes(path),
                            in_quotes(entry("version"), 40), state_version));
  }
  SavedTraining saved;
  std::string data_name, data_fingerprint;
  try {
    const std::string its = "its configuration";
    const JsonValue configuration = parse_json(entry("configuration"), its, 8);
    Mlp mlp{architecture_from(configuration.at(its, "architecture")), {}};
    mlp.architecture.validate();
    const JsonValue &sde = configuration.at(its, "sde"), &of_data = configuration.at(its, "data");
    saved.model.sde =
        ForwardSde::parse(sde.get<std::string>("its sde", "name"), sde.at("its sde", "parameters").dump());
    saved.options = options_from(configuration.at(its, "options"));
    saved.options.validate();
    data_name = of_data.get<std::string>("its data", "name");
    data_fingerprint = of_data.get<std::string>("its data", "fingerprint");
    saved.state = read_state(file, mlp.architecture.parameter_count(), saved.options);
    mlp.parameters.assign(saved.state.parameters.begin(), saved.state.parameters.end());
    saved.model.network = std::move(mlp);
    saved.model.standardisation = standardisation_from(configuration);
    saved.model.standardisation.validate(saved.model.dimension() + saved.model.condition());
  } catch (const Error& error) {
    throw Error(fmt::format("the training state {} is not consistent: {}", in_quotes(path), error.what()));
  }
  if (data.fingerprint() != data_fingerprint) {
    throw Error(fmt::format("the training state {} is of data set {}; another one, {}, or changed contents were given",
                            in_quotes(path, 80), in_quotes(data_name, 60), in_quotes(data.name(), 60)));
  }
  return saved;
}

}  // namespace fokker
