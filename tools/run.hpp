#pragma once

// A run of the reproduction: one training and what is measured of it. Its folder, DIR/DATA_ACTIVATION_wW_sSEED, holds
// recipe.json, state.safetensors while it trains, log.csv, training.json, then model.safetensors, samples.safetensors and
// along_eta.json while it is sampled, gap.json, the histograms, along_the_way.npy and, where it was asked for,
// energy.safetensors while it is diagnosed and diagnosis.json. A run whose loss was not finite leaves failed.json and is not tried again
// until its folder is removed.
#include <cstdint>
#include <string>
#include <vector>

#include "files.hpp"
#include "fokker/fokker.hpp"
#include "kept_json.hpp"
#include "options.hpp"
#include "presets.hpp"

namespace fokker::tools {

// In a run's folder, until model.safetensors, gap.json and diagnosis.json are there.
constexpr const char *saved_training = "state.safetensors", *saved_samples = "samples.safetensors",
                     *saved_etas = "along_eta.json", *saved_energy = "energy.safetensors";

struct Run {
  DataSet data;
  std::uint64_t seed;  // of the training and of the samples
  NetworkActivation activation;
  Architecture architecture;
  ForwardSde sde;
  TrainOptions train;
  std::string folder, title;
  Json recipe;

  std::string file(const char* name) const;
  bool planar() const { return data.dimension() == 2; }
  bool trained() const;
  bool failed() const;
};

// The runs of a preset, with seeds from `seed` on and folders in `out`. Throws CLI::ParseError where an architecture or
// training is wrong by itself, and Error where a data set cannot be read or two runs would share a folder.
std::vector<Run> plan_runs(const Preset& preset, const ForwardSde& sde, std::uint64_t seed, const std::string& out);

// Throws Error where a run's folder in `out` holds a run of another recipe or a file that is not as a reproduction writes
// it or cannot be written, and where results.json is of something else.
void check_folders(const std::vector<Run>& runs, const std::string& out);
// Makes the runs' folders, each with its recipe, if check_folders() lets it.
void prepare_folders(const std::vector<Run>& runs, const std::string& out);

// Several processes work in one folder. Each run is its process's by this claim, and what lies beside the runs' folders
// that of the process which has the claim of results.json for the moments in which it writes.
Claim claim_run(const Run& run);  // throws InUse
std::string holder_of(const Run& run);
Claim claim_results(const std::string& out, double patience = 60);  // throws InUse after so many seconds without it

Json recipe_of(const Architecture& architecture, const ForwardSde& sde, const DataSet& data, const TrainOptions& train);

// training.json of a run that trained, or began to. Throws Error where it has no seconds.
Json read_training(const Run& run);
// The sentence in failed.json. Throws Error where there is none.
std::string read_failure(const Run& run);

}  // namespace fokker::tools
