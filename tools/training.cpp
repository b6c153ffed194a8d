#include "training.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "files.hpp"
#include "fokker/error.hpp"

namespace fokker::tools {

SaveInterval SaveInterval::parse(const std::string& text) {
  SaveInterval interval{0, 0};
  const char *begin = text.data(), *end = begin + text.size();
  if (text.ends_with('s')) {
    const auto [stop, failure] = std::from_chars(begin, end - 1, interval.seconds);
    if (failure == std::errc() && stop == end - 1 && interval.seconds > 0 && std::isfinite(interval.seconds))
      return interval;
  } else {
    const auto [stop, failure] = std::from_chars(begin, end, interval.iterations);
    if (failure == std::errc() && stop == end && interval.iterations > 0) return interval;
  }
  throw Error(fmt::format("'{}' given; allowed: a positive number of iterations (500) or of seconds (60s)", text));
}

namespace {

constexpr std::string_view header = "iteration,denoising,residual,total,gradient_norm,rate\n",
                           json_start = "{\"iteration\": ";

// The iteration that a line of either format begins with; −1 where it does not.
std::int64_t line_iteration(std::string_view line) {
  if (line.starts_with(json_start)) line.remove_prefix(json_start.size());
  std::int64_t iteration = -1;
  std::from_chars(line.data(), line.data() + line.size(), iteration);
  return iteration;
}

std::string kept_lines(const std::string& text, std::int64_t first_iteration) {
  std::string kept;
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string_view line(text.data() + begin, end + 1 - begin);
    const std::int64_t iteration = line_iteration(line);
    if (iteration >= 0 && iteration < first_iteration) kept += line;
  }
  return kept;
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
  if (first_iteration_ > 0 && is_file(path_)) text += kept_lines(read_text(path_), first_iteration_);
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

void RecordLog::write(const std::vector<TrainRecord>& records) {
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

void RecordLog::flush() {
  if (file_ != nullptr && std::fflush(file_) != 0) {
    throw Error(fmt::format("cannot write '{}': {}", path_, std::strerror(errno)));
  }
}

TrainingResult run_training(Trainer& trainer, const TrainingRun& run, Progress& progress) {
  const InterruptGuard interrupts;
  const std::int64_t iterations = trainer.options().iterations;
  RecordLog log = run.log.empty() ? RecordLog() : RecordLog(run.log, trainer.iteration(), run.log_every);
  const auto save = [&] {
    log.flush();  // the log is never behind the state
    if (!run.state.empty()) trainer.save_state(run.state);
  };

  const auto where = [&] {
    return run.state.empty() ? std::string("nothing was saved, since no state file was asked for")
                             : fmt::format("the state is in '{}'", run.state);
  };

  TrainingResult result;
  result.last.iteration = -1;
  const Stopwatch clock;
  Stopwatch since_save;
  std::int64_t chunk = 1;
  if (trainer.iteration() < iterations) progress.show();  // the first iteration may be a long one
  while (trainer.iteration() < iterations) {
    std::int64_t count = std::min(chunk, iterations - trainer.iteration());
    if (run.save.iterations > 0)
      count = std::min(count, run.save.iterations - trainer.iteration() % run.save.iterations);
    const Stopwatch chunk_clock;
    std::vector<TrainRecord> records;
    try {
      records = trainer.run(count);
    } catch (const TrainingStopped& stopped) {
      log.write(stopped.records);
      save();
      throw Error(fmt::format("{}; {}", stopped.what(), where()));
    }
    if (chunk_clock.seconds() < 0.1) chunk = std::min<std::int64_t>(2 * chunk, 1000);
    if (chunk_clock.seconds() > 0.4) chunk = std::max<std::int64_t>(chunk / 2, 1);
    log.write(records);
    result.last = records.back();
    progress.update(double(trainer.iteration()) / double(iterations), fmt::format("loss {:.4g}", result.last.total));
    if (trainer.iteration() < iterations && interrupts.interrupted()) {
      save();
      throw Error(fmt::format("interrupted after {} of {} iterations; {}", trainer.iteration(), iterations, where()));
    }
    const bool due = run.save.iterations > 0 ? trainer.iteration() % run.save.iterations == 0
                                             : since_save.seconds() >= run.save.seconds;
    if (due) {
      save();
      since_save = {};
    }
  }
  save();
  result.seconds = clock.seconds();
  result.interrupted = interrupts.interrupted();
  return result;
}

}  // namespace fokker::tools
