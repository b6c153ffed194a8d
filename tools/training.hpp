#pragma once

// The training loop of both executables: records, saved states, interruption.
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "console.hpp"
#include "fokker/context.hpp"
#include "fokker/ranks.hpp"
#include "fokker/trainer.hpp"

namespace fokker::tools {

// Which trainings run side by side, by their indices: up to `most` of one architecture, since networks of different
// architectures share no launch on a GPU. Groups are in the order of their first members, and members in their own.
std::vector<std::vector<std::size_t>> side_by_side(std::span<const Architecture> architectures, std::size_t most);

// The ranks by which they train on this context: on GPUs with a communicator between them, which all of the
// ranks make unless they have one. Throws Error where two of them have one GPU.
std::shared_ptr<Ranks> training_ranks(const Context& context, std::shared_ptr<Ranks> ranks);

// How often a state is saved: "500" iterations, or "60s".
struct SaveInterval {
  std::int64_t iterations = 0;
  double seconds = 60;

  static SaveInterval parse(const std::string& text);
};

// Every `every`-th record in a file: JSON lines where the name ends in .jsonl, else CSV. Going on from an iteration
// keeps the complete lines before it and drops the rest, so that a resumed run leaves the log of an uninterrupted one.
// Throws Error where the file is there and holds anything else; changes nothing until there is a record to write.
class RecordLog {
 public:
  RecordLog() = default;  // writes nothing
  RecordLog(const std::string& path, std::int64_t first_iteration, std::int64_t every);
  ~RecordLog();
  RecordLog(RecordLog&& other) noexcept;
  RecordLog& operator=(RecordLog&&) = delete;

  void write(std::span<const TrainRecord> records);
  // All that was written is on the disk at return.
  void sync();

 private:
  void open();

  std::string path_;  // empty: writes nothing
  std::int64_t first_iteration_ = 0, every_ = 1;
  bool json_ = false;
  std::FILE* file_ = nullptr;
};

// Where one training leaves its state and its records.
struct TrainingFiles {
  std::string state;  // empty: nowhere
  std::string log;    // empty: none
  std::int64_t log_every = 1;
};

struct TrainingResult {
  double seconds = 0;        // its share of the time: trainings side by side have equal ones
  TrainRecord last{};        // iteration −1 where nothing was left to do
  bool interrupted = false;  // by a signal that found no iteration left to stop before
  std::string failure;       // what TrainingStopped said of a loss or gradient that was not finite; empty: none
};

using TrainingsSaved = std::function<void(std::span<const TrainingResult>)>;

// Runs the trainers to their ends, inside the progress's running phase. SIGINT, SIGTERM and SIGHUP, where iterations
// are left, save the states and the records up to them and throw Error. A trainer whose loss is not finite stops there,
// with its state and records saved, and the others go on. files [trainers]. Whenever the states have been saved, on an
// interrupt and at the end too, `saved` is called with the results so far. Of several ranks, which the trainers have,
// the first alone writes files and calls `saved`, which the others wait for; a signal to any of them interrupts all.
std::vector<TrainingResult> run_trainings(TrainingGroup& trainers, std::span<const TrainingFiles> files,
                                          const SaveInterval& save, Progress& progress,
                                          const TrainingsSaved& saved = {});
// The same for a group of one trainer. Throws Error also where its loss is not finite.
TrainingResult run_training(TrainingGroup& trainer, const TrainingFiles& files, const SaveInterval& save,
                            Progress& progress);

}  // namespace fokker::tools
