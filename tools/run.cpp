#include "run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "files.hpp"

namespace fokker::tools {
namespace {

// What is there already is overwritten only where a reproduction wrote it.
void check_results(const std::string& path) {
  if (!is_file(path)) return;
  const Json found = read_json(path);
  if (found.is_object() && found.contains("preset") && found.contains("runs")) return;
  throw Error(fmt::format(
      "'{}' is there and is not of a reproduction, which has \"preset\" and \"runs\"; choose another --out", path));
}

// A folder that holds what was trained also says by which recipe, and both say the same.
void check_folder(const Run& run) {
  std::error_code failure;
  if (!std::filesystem::exists(run.folder, failure)) {
    if (failure) throw Error(fmt::format("cannot make the folder '{}': {}", run.folder, failure.message()));
    return;
  }
  if (!run.trained()) {
    for (const char* name : {saved_training, "log.csv", "training.json", "failed.json", "model.safetensors"}) {
      check_writable(run.file(name));
    }
  }
  for (const char* name : {saved_samples, "gap.json", "ode.npy", "sde.npy", "truth.npy", "along_the_way.npy",
                           saved_energy, "diagnosis.json"}) {
    check_writable(run.file(name));
  }
  const std::string advice = "choose another --out, or remove that folder";
  if (!is_file(run.file("recipe.json"))) {
    for (const char* name : {"model.safetensors", saved_training}) {
      if (!is_file(run.file(name))) continue;
      throw Error(
          fmt::format("'{}' holds {} and no recipe.json that says how it was trained; {}", run.folder, name, advice));
    }
    return;
  }
  const Json found = read_json(run.file("recipe.json"));
  if (found != run.recipe) {
    throw Error(fmt::format("'{}' holds a run with another recipe ({}); {}", run.folder,
                            first_difference(found, run.recipe), advice));
  }
  if (run.failed()) read_failure(run);
  if (!run.trained()) return;
  read_training(run);
  const ModelMetadata metadata = SafeTensors::load(run.file("model.safetensors")).metadata;
  const auto trained_by = metadata.find("training");
  if (trained_by == metadata.end() || trained_by->second != text_of(run.recipe)) {
    throw Error(
        fmt::format("'{}' was not trained by the recipe.json beside it; {}", run.file("model.safetensors"), advice));
  }
}

}  // namespace

std::string Run::file(const char* name) const { return fmt::format("{}/{}", folder, name); }
bool Run::trained() const { return is_file(file("model.safetensors")) && is_file(file("training.json")); }
bool Run::failed() const { return is_file(file("failed.json")); }

Json read_training(const Run& run) {
  const Json training = read_json(run.file("training.json"));
  if (!training.is_object() || !training.contains("seconds") || !training["seconds"].is_number()) {
    throw Error(fmt::format("'{}' has no number \"seconds\"; remove the folder '{}' to train again",
                            run.file("training.json"), run.folder));
  }
  return training;
}

std::string read_failure(const Run& run) {
  const Json found = read_json(run.file("failed.json"));
  if (!found.is_object() || !found.contains("failed") || !found["failed"].is_string()) {
    throw Error(fmt::format("'{}' has no text \"failed\"; remove the folder '{}' to train again",
                            run.file("failed.json"), run.folder));
  }
  return found["failed"];
}

Json recipe_of(const Architecture& architecture, const ForwardSde& sde, const DataSet& data,
               const TrainOptions& train) {
  Json recipe = describe_recipe(architecture, sde, data, train);
  recipe["data_contents"] = data.fingerprint();  // a file of the same name may hold another law by the next call
  return written(recipe);
}

std::vector<Run> plan_runs(const Preset& preset, const ForwardSde& sde, std::uint64_t seed, const std::string& out) {
  std::vector<Run> runs;
  const auto add = [&](const DataSet& data, std::uint64_t run_seed, const NetworkActivation& activation,
                       double weight) {
    Architecture architecture;
    architecture.dimension = data.dimension();
    architecture.activation = activation.activation;
    architecture.beta = activation.beta;
    check_usage([&] { architecture.validate(); });
    TrainOptions train = preset.train;
    train.residual_weight = weight;
    train.seed = run_seed;
    check_usage([&] { train.validate(); });
    std::string word = activation.name(), title = data.name();
    std::erase(word, ' ');
    const ArrayName name(data.name());  // of an array, or of any other law
    std::string plain = std::filesystem::path(name.file).stem().string();
    if (!name.member.empty()) plain += '_' + name.member;
    std::replace(plain.begin(), plain.end(), '/', '_');
    const std::string stem = written(plain);
    const std::string folder = fmt::format("{}/{}_{}_w{}_s{}", out, stem, word, weight, run_seed);
    if (preset.activations.size() > 1) title += ", " + activation.name();
    title += fmt::format(", w_R = {}", weight);
    if (preset.seeds > 1) title += fmt::format(", seed {}", run_seed);
    if (std::any_of(runs.begin(), runs.end(), [&](const Run& run) { return run.folder == folder; })) {
      throw Error(fmt::format(
          "two runs would share the folder '{}'; allowed: weights that differ, and data of names that differ", folder));
    }
    runs.push_back({.data = data,
                    .seed = run_seed,
                    .activation = activation,
                    .architecture = architecture,
                    .sde = sde,
                    .train = train,
                    .folder = folder,
                    .title = title,
                    .recipe = recipe_of(architecture, sde, data, train)});
  };
  for (const std::string& name : preset.data) {
    const DataSet data = DataSet::named(name);
    for (std::int64_t i = 0; i < preset.seeds; ++i) {
      for (const NetworkActivation& activation : preset.activations) {
        for (const double weight : preset.weights) add(data, seed + static_cast<std::uint64_t>(i), activation, weight);
      }
    }
  }
  return runs;
}

void check_folders(const std::vector<Run>& runs, const std::string& out) {
  check_results(out + "/results.json");
  for (const Run& run : runs) {
    check_length(run.folder);
    check_folder(run);
  }
}

void prepare_folders(const std::vector<Run>& runs, const std::string& out) {
  for (const Run& run : runs) check_length(run.folder);
  make_folder(out);
  check_writable(out + "/diagnosis_times.npy");
  check_folders(runs, out);
  std::vector<const Run*> to_begin;
  for (const Run& run : runs) {
    if (!is_file(run.file("recipe.json"))) to_begin.push_back(&run);
  }
  if (to_begin.empty()) return;
  const Claim claim = claim_results(out);  // so that no two processes begin with other recipes
  for (const Run* const run : to_begin) {
    make_folder(run->folder);
    if (is_file(run->file("recipe.json"))) {
      check_folder(*run);  // another process has begun it meanwhile
    } else {
      write_text(run->file("recipe.json"), text_of(run->recipe, 1) + "\n");
    }
  }
}

// What the run is there for. A process that only asks whether it is in use has the lock for a moment.
Claim claim_run(const Run& run) { return Claim(run.file("gap.json"), 0.2); }
std::string holder_of(const Run& run) { return holder_of(run.file("gap.json")); }
Claim claim_results(const std::string& out, double patience) { return Claim(out + "/results.json", patience); }

}  // namespace fokker::tools
