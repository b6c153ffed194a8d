#pragma once

// Options that several commands share, and descriptions as JSON.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fokker/fokker.hpp"

namespace fokker::tools {

using Json = nlohmann::ordered_json;

// --backend and --threads.
struct MachineOptions {
  std::string backend = "auto";
  std::int64_t threads = 0;

  void add_to(CLI::App& app);
  Context context() const;
};

// --model, and what overrides the metadata of the file.
struct ModelOptions {
  std::string path;
  ModelMetadata overrides;

  void add_to(CLI::App& app, bool required = true);
  Model load() const { return load_model(path, overrides); }
};

// --probes, --law, --probe-seed.
struct ProbeOptions {
  std::int64_t probes = 0;
  std::string law = "rademacher";
  std::uint64_t seed = 0;

  void add_to(CLI::App& app);
  Divergence divergence() const;
};

// Throws Error, naming the option, where the value is outside [low, high].
void check_range(const std::string& option, std::int64_t value, std::int64_t low, std::int64_t high);
constexpr std::int64_t max_samples = 1'000'000'000'000;

// JSON as text; bytes of a file name that are not UTF-8 are replaced.
std::string text_of(const Json& json, int indent = -1);

Json describe_machine();
Json describe_model(const Model& model);
Json describe_recipe(const Architecture& architecture, const ForwardSde& sde, const DataSet& data,
                     const TrainOptions& options);

}  // namespace fokker::tools
