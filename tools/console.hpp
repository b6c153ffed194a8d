#pragma once

// What both executables share at the terminal: progress, interruption, exit codes.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fokker::tools {

enum ExitCode : int { exit_done = 0, exit_failed = 1, exit_usage = 2 };
constexpr const char* exit_codes_help =
    "Exit codes: 0 done; 1 failed; 2 wrong usage, which is a command or an option that does not exist, or a value that "
    "is\n"
    "not allowed by itself (a name, a number out of its range, a malformed --grid). One sentence on standard error "
    "says "
    "why.";

// Parses and calls `command`: 2 where the command line is wrong, which a CLI::ParseError says, be it thrown by the
// parser or by the command; 1 where the work throws anything else or standard output cannot be written; else 0. Either
// failure is one line on stderr. A write past a file size limit or to a pipe that nobody reads becomes an error instead
// of a signal. Helps show each option with its type and default in front of its description, in lines of up to 110
// columns.
int run_main(CLI::App& app, int argc, char** argv, const std::function<void()>& command);

// Of a program that runs as several ranks (ranks.hpp): all but the first write nothing but why they fail, with their
// number before it. What fails on all of them the first one says, which the others wait a second for.
void speak_as_rank(int rank, int size);

// The one way to standard error. What cannot be written there, since it is closed, full or read by nobody, is dropped:
// a message never ends the work.
void write_message(std::string_view text);
// A line of its own: "PROGRAM: warning: TEXT".
void warn(const std::string& text);

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// "0.012 s", "42 s", "3 min 05 s", "2 h 07 min".
std::string format_duration(double seconds);
// "0.01234", or "1.2340e+12" where that would have many digits or few; "–" where the value is not finite.
std::string number_or_dash(double value, const char* format = "{:.5f}");
// "1 run", "2 runs".
std::string counted(std::int64_t n, const std::string& what);

// Progress over a list of phases on stderr: one rewritten line on a terminal that is not `dumb`, otherwise a line at
// most every five seconds. The time left is the sum of what is left of each phase at the speed seen so far for phases
// of its kind.
class Progress {
 public:
  struct Phase {
    std::string text;  // "training circles2, w_R = 1"
    std::string kind;  // phases of one kind cost alike
    double cost;       // expected seconds, or any unit where there is one kind only
  };
  explicit Progress(std::vector<Phase> phases);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Phases are begun in order; the one before counts as finished. `done`: the fraction that an earlier run did.
  void begin(double done = 0);
  // The phase will not be done: an earlier run left its result.
  void skip();
  void update(double fraction, const std::string& note = {});
  // The line of an update, at once; without the time left where nothing has been timed.
  void show(const std::string& note = {});
  // Writes a line of its own, out of the way of the progress.
  void say(const std::string& text);
  // Takes the progress off the terminal, before results are printed.
  void clear();

 private:
  struct Speed {
    double cost = 0, seconds = 0;
  };
  void close_phase();
  double seconds_left() const;

  std::vector<Phase> phases_;
  std::map<std::string, Speed> speeds_;
  std::size_t next_ = 0;
  bool running_ = false;
  double first_fraction_ = 0, fraction_ = 0;
  Stopwatch phase_clock_, clock_;
  double last_shown_;
  bool terminal_, line_open_ = false;
};

// While one of these lives, the first SIGINT, SIGTERM or SIGHUP is remembered instead of ending the program. The next
// one does what it did before: work that comes to no place to stop can still be ended. A SIGHUP that is ignored, as by
// nohup, stays ignored.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  bool interrupted() const;
};

}  // namespace fokker::tools
