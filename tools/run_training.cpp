#include "run_training.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <variant>

#include "files.hpp"
#include "training.hpp"
#include "warnings.hpp"

namespace fokker::tools {
namespace {

// What an earlier call left of a run.
struct Found {
  bool ended = false, state = false;
};

// As the first rank sees it: the others may see files of another machine later.
std::vector<Found> found_of(const RunGroup& group, Ranks& ranks) {
  std::vector<Found> found(group.size());
  for (std::size_t i = 0; i < group.size() && ranks.rank() == 0; ++i) {
    found[i] = {group[i]->trained() || group[i]->failed(), is_file(group[i]->file(saved_training))};
  }
  ranks.broadcast(std::as_writable_bytes(std::span(found)), 0);
  return found;
}

// The run's trainer, from the state that an earlier call left, or from the beginning.
Trainer trainer_of(const Context& context, const Run& run, bool resumes, const std::shared_ptr<Ranks>& ranks) {
  const std::string state = run.file(saved_training);
  if (!resumes) {
    return Trainer(context, {run.sde, Mlp::initialise(run.architecture, run.train.seed)}, run.data, run.train, ranks);
  }
  Trainer trainer = Trainer::resume(context, state, run.data, ranks);
  const Model model = trainer.model();
  const Json found = recipe_of(std::get<Mlp>(model.network).architecture, model.sde, run.data, trainer.options());
  if (found != run.recipe) {
    throw Error(fmt::format("'{}' is the state of another recipe ({}); remove it to train anew", state,
                            first_difference(found, run.recipe)));
  }
  return trainer;
}

}  // namespace

std::vector<RunGroup> group_runs(const RunGroup& runs, std::size_t most) {
  std::vector<Architecture> architectures;
  for (const Run* const run : runs) architectures.push_back(run->architecture);
  std::vector<RunGroup> groups;
  for (const std::vector<std::size_t>& places : side_by_side(architectures, most)) {
    RunGroup& group = groups.emplace_back();
    for (const std::size_t place : places) group.push_back(runs[place]);
  }
  return groups;
}

std::string title_of(const RunGroup& group) {
  return group.size() == 1 ? group.front()->title
                           : fmt::format("{} and {} more", group.front()->title, group.size() - 1);
}

void train(const Context& context, const RunGroup& group, Progress& progress, std::shared_ptr<Ranks>& ranks) {
  std::vector<const Run*> runs;
  std::vector<Trainer> members;
  std::vector<TrainingFiles> files;
  std::vector<std::int64_t> first;
  std::vector<double> seconds_before;
  double done = 0, all = 0;
  const bool writes = ranks->rank() == 0;
  const std::vector<Found> found = found_of(group, *ranks);
  const bool trained = std::all_of(found.begin(), found.end(), [](const Found& run) { return run.ended; });
  if (trained) return progress.skip();
  ranks = training_ranks(context, ranks);
  for (std::size_t i = 0; i < group.size(); ++i) {
    const Run& run = *group[i];
    if (found[i].ended) continue;
    runs.push_back(&run);
    const bool timed = writes && found[i].state && is_file(run.file("training.json"));
    seconds_before.push_back(timed ? read_training(run)["seconds"].get<double>() : 0);
    members.push_back(trainer_of(context, run, found[i].state, ranks));
    files.push_back({.state = run.file(saved_training),
                     .log = run.file("log.csv"),
                     .log_every = std::max<std::int64_t>(1, run.train.iterations / 10000)});
    first.push_back(members.back().iteration());
    done += double(first.back());
    all += double(run.train.iterations);
  }
  TrainingGroup trainers(std::move(members));
  progress.begin(done / all);
  const auto record = [&](std::span<const TrainingResult> results) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const Json training{{"seconds", seconds_before[i] + results[i].seconds},
                          {"first_iteration", first[i]},
                          {"iterations", runs[i]->train.iterations},
                          {"trained_together", runs.size()}};
      write_text(runs[i]->file("training.json"), training.dump(1) + "\n");
      if (results[i].failure.empty()) continue;
      const Json failure{{"failed", results[i].failure}, {"iteration", trainers[i].iteration()}};
      write_text(runs[i]->file("failed.json"), text_of(failure, 1) + "\n");
    }
  };
  const std::vector<TrainingResult> results =
      run_trainings(trainers, files, {.iterations = 0, .seconds = 20}, progress, record);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (!results[i].failure.empty() || !writes) continue;
    const Model model = trainers[i].model();
    save_model(runs[i]->file("model.safetensors"), model,
               training_metadata(text_of(runs[i]->recipe), runs[i]->data, model));
  }
  ranks->barrier();  // as after a save
  if (results.front().interrupted) {
    throw Error(fmt::format("interrupted; {} is trained, and a second call goes on from there", title_of(group)));
  }
}

}  // namespace fokker::tools
