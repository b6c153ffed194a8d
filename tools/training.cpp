#include "training.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <utility>

#include "files.hpp"
#include "fokker/error.hpp"
#include "fokker/ranks.hpp"
#include "options.hpp"

namespace fokker::tools {

std::vector<std::vector<std::size_t>> side_by_side(std::span<const Architecture> architectures, std::size_t most) {
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < architectures.size(); ++i) {
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const std::vector<std::size_t>& others) {
      return others.size() < most && architectures[others.front()].describe() == architectures[i].describe();
    });
    if (group == groups.end()) {
      groups.push_back({i});
    } else {
      group->push_back(i);
    }
  }
  return groups;
}

std::shared_ptr<Ranks> training_ranks(const Context& context, std::shared_ptr<Ranks> ranks) {
  if (ranks->size() == 1 || context.device() == Device::cpu || std::dynamic_pointer_cast<GpuRanks>(ranks)) return ranks;
  return connect_gpus(context.gpu(), std::move(ranks));
}

SaveInterval SaveInterval::parse(const std::string& text) {
  SaveInterval interval{0, 0};
  const char *begin = text.data(), *end = begin + text.size();
  if (text.ends_with('s')) {
    const auto [stop, failure] = std::from_chars(begin, end - 1, interval.seconds);
    if (failure == std::errc() && stop == end - 1 && interval.seconds > 0 && std::isfinite(interval.seconds))
      return interval;
  } else {
    interval.iterations = parse_count<std::int64_t>(text).value_or(0);
    if (interval.iterations > 0) return interval;
  }
  throw Error(fmt::format("'{}' given; allowed: a positive number of iterations (500) or of seconds (60s)", text));
}

namespace {

constexpr std::string_view header = "iteration,denoising,residual,total,gradient_norm,rate\n",
                           json_start = "{\"iteration\": ";

// The iteration that a line begins with, of JSON lines or of CSV; −1 where it does not.
std::int64_t line_iteration(std::string_view line, bool json) {
  if (json && !line.starts_with(json_start)) return -1;
  if (json) line.remove_prefix(json_start.size());
  std::int64_t iteration = -1;
  std::from_chars(line.data(), line.data() + line.size(), iteration);
  return iteration;
}

// The complete lines of the iterations before `end_iteration`.
std::string lines_before(const std::string& text, std::int64_t end_iteration, bool json) {
  std::string lines;
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string_view line(text.data() + begin, end + 1 - begin);
    const std::int64_t iteration = line_iteration(line, json);
    if (iteration >= 0 && iteration < end_iteration) lines += line;
  }
  return lines;
}

}  // namespace

RecordLog::RecordLog(const std::string& path, std::int64_t first_iteration, std::int64_t every)
    : path_(path), first_iteration_(first_iteration), every_(every), json_(path.ends_with(".jsonl")) {
  if (!is_file(path)) return;
  const std::string text = read_text(path);
  if (text.empty() || text.starts_with(json_ ? json_start : header)) return;
  throw Error(fmt::format("'{}' is there and is not a log of a training in {}; --log needs another name", path,
                          json_ ? "JSON lines" : "CSV"));
}

void RecordLog::open() {
  std::string text(json_ ? std::string_view() : header);
  if (first_iteration_ > 0 && is_file(path_)) text += lines_before(read_text(path_), first_iteration_, json_);
  write_text(path_, text);
  file_ = std::fopen(path_.c_str(), "ab");
  if (file_ == nullptr) throw Error(fmt::format("cannot write '{}': {}", path_, std::strerror(errno)));
}

RecordLog::RecordLog(RecordLog&& other) noexcept
    : path_(std::move(other.path_)),
      first_iteration_(other.first_iteration_),
      every_(other.every_),
      json_(other.json_),
      file_(std::exchange(other.file_, nullptr)) {}

RecordLog::~RecordLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void RecordLog::write(std::span<const TrainRecord> records) {
  if (path_.empty() || records.empty()) return;
  if (file_ == nullptr) open();
  std::string text;
  for (const TrainRecord& r : records) {
    if (r.iteration % every_ != 0) continue;
    text += fmt::format(
        fmt::runtime(json_ ? "{{\"iteration\": {}, \"denoising\": {:.8g}, \"residual\": {:.8g}, \"total\": {:.8g}, "
                             "\"gradient_norm\": {:.8g}, \"rate\": {:.8g}}}\n"
                           : "{},{:.8g},{:.8g},{:.8g},{:.8g},{:.8g}\n"),
        r.iteration, r.denoising, r.residual, r.total, r.gradient_norm, r.rate);
  }
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size()) {
    throw Error(fmt::format("cannot write '{}': {}", path_, std::strerror(errno)));
  }
}

void RecordLog::sync() {
  if (file_ != nullptr && (std::fflush(file_) != 0 || ::fsync(::fileno(file_)) != 0)) {
    throw Error(fmt::format("cannot write '{}': {}", path_, std::strerror(errno)));
  }
}

namespace {

std::string where_saved(std::span<const TrainingFiles> files, std::size_t i) {
  if (files[i].state.empty()) return "nothing was saved, since no state file was asked for";
  return fmt::format("the state is in '{}'{}", files[i].state,
                     files.size() == 1 ? "" : ", and so are those of the trainings beside it");
}

// Whether it is so on any of the ranks.
bool any_of(Ranks& ranks, bool here) {
  std::vector<std::byte> all(static_cast<std::size_t>(ranks.size()));
  const std::byte own{here};
  ranks.all_gather({&own, 1}, all);
  return std::find(all.begin(), all.end(), std::byte{1}) != all.end();
}

}  // namespace

std::vector<TrainingResult> run_trainings(TrainingGroup& trainers, std::span<const TrainingFiles> files,
                                          const SaveInterval& save, Progress& progress, const TrainingsSaved& saved) {
  const InterruptGuard interrupts;
  const std::shared_ptr<Ranks> ranks = trainers.size() > 0 ? trainers[0].ranks() : one_rank();
  const bool writes = ranks->rank() == 0;
  std::vector<RecordLog> logs;
  std::int64_t iterations = 0;  // of all
  for (std::size_t i = 0; i < trainers.size(); ++i) {
    logs.push_back(files[i].log.empty() || !writes
                       ? RecordLog()
                       : RecordLog(files[i].log, trainers[i].iteration(), files[i].log_every));
    iterations += trainers[i].options().iterations;
  }
  std::vector<TrainingResult> results(trainers.size());
  for (TrainingResult& result : results) result.last.iteration = -1;
  // A trainer that failed has nothing left to do.
  const auto left_of = [&](std::size_t i) {
    return results[i].failure.empty() ? trainers[i].options().iterations - trainers[i].iteration() : 0;
  };
  const auto done = [&] {
    std::int64_t left = 0;
    for (std::size_t i = 0; i < trainers.size(); ++i) left += left_of(i);
    return iterations - left;
  };
  // The range of the losses of trainers that run. The latest one that reported counts, unless it failed.
  const auto losses = [&](std::size_t latest) -> std::string {
    double least = std::numeric_limits<double>::infinity(), most = -least;
    for (std::size_t i = 0; i < trainers.size(); ++i) {
      if (results[i].last.iteration < 0 || !results[i].failure.empty() || (i != latest && left_of(i) == 0)) continue;
      least = std::min(least, results[i].last.total);
      most = std::max(most, results[i].last.total);
    }
    if (least > most) return "";
    return trainers.size() == 1 ? fmt::format("loss {:.4g}", least)
                                : fmt::format("losses {:.4g} to {:.4g}", least, most);
  };
  const Stopwatch clock;
  bool interrupted = false;  // of any rank
  const auto save_states = [&] {
    interrupted = any_of(*ranks, interrupts.interrupted());
    for (std::size_t i = 0; i < trainers.size(); ++i) {
      logs[i].sync();  // the log is never behind the state, also after a power cut
      if (!files[i].state.empty() && writes) trainers[i].save_state(files[i].state);
    }
    const double share = clock.seconds() / double(trainers.size());
    for (TrainingResult& result : results) {
      result.seconds = share;
      result.interrupted = interrupted;
    }
    if (saved && writes) saved(results);
    ranks->barrier();  // one that fails next ends the first, which is not to be in the midst of a file
  };

  if (done() < iterations) progress.show();  // the first iteration may be a long one
  while (done() < iterations) {
    std::int64_t count = std::numeric_limits<std::int64_t>::max();  // up to the next save
    for (std::size_t i = 0; save.iterations > 0 && i < trainers.size(); ++i) {
      if (left_of(i) > 0) count = std::min(count, save.iterations - trainers[i].iteration() % save.iterations);
    }
    const Stopwatch since_save;
    const auto take = [&](const TrainingNews& news) {
      const std::size_t i = news.trainer;
      logs[i].write(news.records);
      if (!news.records.empty()) results[i].last = news.records.back();
      if (news.stopped != nullptr) results[i].failure = news.stopped->what();
      progress.update(double(done()) / double(iterations), losses(i));
      return !interrupts.interrupted() && (save.iterations > 0 || !writes || since_save.seconds() < save.seconds);
    };
    try {
      trainers.run(count, take);
    } catch (const TrainingStopped&) {
      // The results say so.
    }
    if (done() == iterations) break;
    save_states();
    if (interrupted) {
      throw Error(fmt::format("interrupted after {} of {} iterations{}; {}", done(), iterations,
                              trainers.size() == 1 ? "" : fmt::format(" of {} trainings", trainers.size()),
                              where_saved(files, 0)));
    }
  }
  save_states();
  return results;
}

TrainingResult run_training(TrainingGroup& trainer, const TrainingFiles& files, const SaveInterval& save,
                            Progress& progress) {
  TrainingResult result = run_trainings(trainer, {&files, 1}, save, progress).front();
  if (!result.failure.empty()) throw Error(fmt::format("{}; {}", result.failure, where_saved({&files, 1}, 0)));
  return result;
}

}  // namespace fokker::tools
