#pragma once

// The state file of a training: everything that a run needs to go on, in one safetensors file (Trainer::save_state()).
#include <cstdint>
#include <string>

#include "core/operations.hpp"
#include "fokker/data.hpp"
#include "fokker/model.hpp"
#include "fokker/ranks.hpp"
#include "fokker/trainer.hpp"

namespace fokker {

struct SavedTraining {
  Model model;
  TrainOptions options;
  TrainState state;
};

// model: an MLP.
void write_training(const std::string& path, const Model& model, const DataSet& data, const TrainOptions& options,
                    const TrainState& state);
// Tells trainings apart: a hash of what write_training() writes.
std::uint64_t training_hash(const Model& model, const DataSet& data, const TrainOptions& options,
                            const TrainState& state);
// Throws Error where the file is not a consistent state, and where it is the state of a training on other data. The
// first of the ranks reads it, and the others may not even see it.
SavedTraining read_training(const std::string& path, const DataSet& data, Ranks& ranks);

}  // namespace fokker
