#include "options.hpp"

#include <fmt/format.h>

#include <fstream>
#include <thread>

namespace fokker::tools {

void MachineOptions::add_to(CLI::App& app) {
  app.add_option("--backend", backend, "auto, cpu or cuda; auto takes CUDA where this build and machine have it")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option("--threads", threads, "CPU threads; 0: all that this process may run on")->capture_default_str();
}

Context MachineOptions::context() const {
  check_range("--threads", threads, 0, 1024);
  return Context({.backend = parse_backend(backend), .threads = static_cast<int>(threads)});
}

void ModelOptions::add_to(CLI::App& app, bool required) {
  const std::string group = "What the model file does not say (these override its metadata)";
  app.add_option("--model", path, "model file: .safetensors of an MLP, or .json of a Gaussian mixture")
      ->required(required);
  const auto add = [&](const char* key, const char* option, const char* help) {
    app.add_option_function<std::string>(
           option, [this, key](const std::string& text) { overrides[key] = text; }, help)
        ->group(group);
  };
  add("activation", "--activation", "softplus, tanh, silu or sine");
  add("beta", "--beta", "softplus: log(1 + exp(beta z))/beta");
  add("output", "--output", "potential or score");
  add("layers", "--layers", "tensor prefixes from input to output: input,hidden1,output");
  add("sde", "--sde", "ou, vp-linear, vp-cosine, subvp or ve");
  add("sde_parameters", "--sde-parameters", "as JSON: '{\"rate\": 1, \"T\": 10}'");
}

void ProbeOptions::add_to(CLI::App& app) {
  app.add_option("--probes", probes, "Hutchinson probes for divergence and Laplacian; 0: exact")->capture_default_str();
  app.add_option("--law", law, "law of the probes: rademacher or gaussian")
      ->capture_default_str()
      ->check(CLI::IsMember({"rademacher", "gaussian"}));
  app.add_option("--probe-seed", seed, "seed of the probes")->capture_default_str()->check(CLI::NonNegativeNumber);
}

Divergence ProbeOptions::divergence() const {
  check_range("--probes", probes, 0, 65536);
  return {.probes = static_cast<int>(probes),
          .law = law == "gaussian" ? ProbeLaw::gaussian : ProbeLaw::rademacher,
          .seed = seed};
}

void check_range(const std::string& option, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) {
    throw Error(fmt::format("{} {} given; allowed: {} to {}", option, value, low, high));
  }
}

std::string text_of(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (line.starts_with("model name") && colon != std::string::npos && colon + 2 < line.size())
      return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

Json describe_machine() {
  Json backends = Json::array();
  for (const BackendStatus& status : backend_status()) {
    backends.push_back({{"name", status.name}, {"available", status.available}, {"detail", status.detail}});
  }
  return {{"version", version()},
          {"machine", {{"cpu", cpu_name()}, {"hardware_threads", std::thread::hardware_concurrency()}}},
          {"backends", backends}};
}

namespace {

Json describe_sde(const ForwardSde& sde) {
  return {{"name", sde.name()}, {"parameters", Json::parse(sde.parameters_json())}};
}

Json describe_architecture(const Architecture& architecture) {
  Json json{{"dimension", architecture.dimension},
            {"hidden", architecture.hidden},
            {"activation", to_string(architecture.activation)},
            {"output", to_string(architecture.output)}};
  if (architecture.activation == Activation::softplus) json["beta"] = architecture.beta;
  return json;
}

}  // namespace

Json describe_model(const Model& model) {
  Json json;
  if (const auto* mlp = std::get_if<Mlp>(&model.network)) {
    const Architecture& architecture = mlp->architecture;
    json = {{"kind", "mlp"}, {"summary", architecture.describe()}};
    json.update(describe_architecture(architecture));
    json["layers"] = architecture.names();
    json["parameters"] = architecture.parameter_count();
  } else {
    const auto& mixture = std::get<GaussianMixture>(model.network);
    json = {{"kind", "mixture"},
            {"summary", fmt::format("exact potential of a mixture of {} Gaussians in {} dimensions",
                                    mixture.components(), mixture.dimension())},
            {"dimension", mixture.dimension()},
            {"components", mixture.components()},
            {"output", "potential"}};
  }
  json["sde"] = describe_sde(model.sde);
  return json;
}

Json describe_recipe(const Architecture& architecture, const ForwardSde& sde, const DataSet& data,
                     const TrainOptions& options) {
  Json json{{"data", data.name()},
            {"residual_weight", options.residual_weight},
            {"architecture", describe_architecture(architecture)},
            {"sde", describe_sde(sde)},
            {"iterations", options.iterations},
            {"denoising_points", options.denoising_points},
            {"collocation_points", options.collocation_points},
            {"box", options.box},
            {"time_law", to_string(options.time_law)},
            {"schedule", to_string(options.schedule)},
            {"average", to_string(options.average)},
            {"clip_norm", options.clip_norm},
            {"seed", options.seed}};
  if (options.schedule != RateSchedule::paper) json["peak_rate"] = options.peak_rate;
  if (options.average == WeightAverage::exponential) json["average_decay"] = options.average_decay;
  if (options.average != WeightAverage::none) json["average_fraction"] = options.average_fraction;
  return json;
}

}  // namespace fokker::tools
