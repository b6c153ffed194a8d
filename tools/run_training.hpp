#pragma once

// Training the runs of the reproduction, side by side where one GPU has room for several.
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "console.hpp"
#include "fokker/fokker.hpp"
#include "run.hpp"

namespace fokker::tools {

// Runs whose trainings go side by side.
using RunGroup = std::vector<const Run*>;

// Groups of up to `most` runs of one architecture, as side_by_side() makes them.
std::vector<RunGroup> group_runs(const RunGroup& runs, std::size_t most);
std::string title_of(const RunGroup& group);

// Leaves model.safetensors and training.json in the folder of each, of which this process has the claims, or failed.json;
// goes on from states that are there, and skips the progress's phase where nothing is left to do. All but the model are
// written with every state, so that what ends this call loses no more than the time since. Throws Error where a signal
// interrupts it. Ranks train each run together, and the first writes its files; they become training_ranks() where there
// is something to train.
void train(const Context& context, const RunGroup& group, Progress& progress, std::shared_ptr<Ranks>& ranks);

}  // namespace fokker::tools
