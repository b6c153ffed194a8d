#include "console.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <iterator>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "fokker/error.hpp"
#include "fokker/ranks.hpp"

namespace fokker::tools {

namespace {

constexpr const char* no_memory = "not enough memory for sizes this large";
constexpr const char* unwritten = "cannot write to standard output";
std::string program;  // as run_main() is called for it
int own_rank = 0, all_ranks = 1;

void write_to_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(std::size_t(written));
  }
}

// `another`: a rank that failed elsewhere speaks for itself, unless it is killed.
int fail(const std::string& why, ExitCode code, bool another = false) {
  std::fflush(stdout);
  if (own_rank > 0 || another) std::this_thread::sleep_for(std::chrono::seconds(another ? 3 : 1));
  const std::string rank = own_rank > 0 ? fmt::format("rank {} of {}: ", own_rank, all_ranks) : "";
  write_to_stderr(fmt::format("{}: {}{}\n", program, rank, printable(why, Error::longest)));
  return code;
}

// Kept back for what ends on the way of an exception and asks for memory itself.
std::atomic<void*> last_memory{nullptr};

void free_last_memory() {
  std::free(last_memory.exchange(nullptr));
  throw std::bad_alloc();
}

// Where something ends that may not throw, std::bad_alloc comes here instead of to run_main().
[[noreturn]] void end_without_memory() {
  try {
    if (const std::exception_ptr exception = std::current_exception()) std::rethrow_exception(exception);
  } catch (const std::bad_alloc&) {
    for (const char* text : {no_memory, "\n"}) {
      if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) break;
    }
    ::_exit(exit_failed);
  } catch (...) {
  }
  std::abort();
}

// Makes running out of memory a failure like any other: one sentence and an exit code.
void survive_without_memory() {
  last_memory = std::malloc(std::size_t{1} << 20);
  std::set_new_handler(free_last_memory);
  std::set_terminate(end_without_memory);
}

// A standard stream that is closed would be the next file opened, and messages would go there. What stands in its place
// cannot be written to.
void occupy_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) == -1) ::open("/dev/null", O_RDONLY);
  }
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) names.push_back(option->get_name());
  return names;
}

// A first word that is neither a command nor an option, before the parser misses a command.
void check_command(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> allowed;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    allowed.push_back(command->get_name());
  }
  if (allowed.empty()) return;
  const std::string commands = fmt::format("{}", fmt::join(allowed, ", "));
  if (argc < 2) throw CLI::ValidationError(fmt::format("no command given; allowed: {}", commands));
  const std::string first = argv[1];
  if (first.starts_with('-')) {
    if (app.get_option_no_throw(first) != nullptr) return;
    throw CLI::ValidationError(fmt::format("option '{}' given before a command; allowed: {}, or a command: {}", first,
                                           fmt::join(option_names(app), ", "), commands));
  }
  if (std::find(allowed.begin(), allowed.end(), first) != allowed.end()) return;
  throw CLI::ValidationError(fmt::format("command '{}' given; allowed: {}", first, commands));
}

// The parser's sentence on an option given twice names numbers of values.
void check_repetition(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_items_expected_max() != 1 || option->count() < 2) continue;
    throw CLI::ValidationError(fmt::format("{} given {} times; allowed: once", option->get_name(), option->count()));
  }
  for (const CLI::App* command : app.get_subcommands()) check_repetition(*command);
}

// CLI11's formatter also lists, with every option, those that exclude it, and breaks no lines.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    constexpr std::size_t column = 30, width = 110;
    std::string line = "  " + make_option_name(option, is_positional) + make_option_opts(option), help;
    std::size_t used = line.size();
    if (used + 2 > column) {
      help = line + '\n';
      line.clear(), used = 0;
    }
    std::istringstream words(make_option_desc(option));
    bool first = true;
    for (std::string word; words >> word; first = false) {
      if (!first && used + 1 + word.size() > width) {
        help += line + '\n';
        line.clear(), used = 0;
      }
      const std::string gap(used < column ? column - used : 1, ' ');
      line += gap + word;
      used += gap.size() + word.size();
    }
    return help + line + '\n';
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    std::string text;
    if (option->get_type_size() != 0) {
      if (!option->get_type_name().empty()) text += ' ' + option->get_type_name();
      if (!option->get_default_str().empty()) text += '=' + option->get_default_str();
      if (option->get_expected_max() > 1) text += " ...";
      if (option->get_required()) text += " REQUIRED";
    }
    return text;
  }
};

void set_formatter(CLI::App& app) {
  app.formatter(std::make_shared<HelpFormatter>());
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) set_formatter(*command);
}

void parse(CLI::App& app, int argc, char** argv) {
  check_command(app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ArgumentMismatch&) {
    check_repetition(app);
    throw;
  }
}

}  // namespace

int run_main(CLI::App& app, int argc, char** argv, const std::function<void()>& command) {
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  occupy_standard_streams();
  survive_without_memory();
  program = app.get_name();
  set_formatter(app);
  try {
    try {
      parse(app, argc, argv);
      command();
    } catch (const CLI::ParseError& error) {
      if (error.get_exit_code() != 0) return fail(error.what(), exit_usage);
      app.exit(error);  // --help, --version
      std::cout.flush();
    }
    if (std::fflush(stdout) != 0 || std::ferror(stdout) || !std::cout) throw Error(unwritten);
    return exit_done;
  } catch (const std::bad_alloc&) {
    return fail(no_memory, exit_failed);
  } catch (const std::length_error&) {  // of a container, beyond any memory
    return fail(no_memory, exit_failed);
  } catch (const OtherRankFailed& error) {
    return fail(error.what(), exit_failed, true);
  } catch (const std::exception& error) {  // fmt::print throws too
    return fail(std::ferror(stdout) ? unwritten : error.what(), exit_failed);
  }
}

void speak_as_rank(int rank, int size) {
  own_rank = rank, all_ranks = size;
  if (rank == 0) return;
  std::fflush(stdout);
  const int nowhere = ::open("/dev/null", O_WRONLY);
  if (nowhere >= 0) ::dup2(nowhere, STDOUT_FILENO);
  if (nowhere > STDERR_FILENO) ::close(nowhere);
}

void write_message(std::string_view text) {
  if (own_rank == 0) write_to_stderr(text);
}

void warn(const std::string& text) { write_message(fmt::format("{}: warning: {}\n", program, printable(text))); }

std::string format_duration(double seconds) {
  if (seconds < 9.5) return fmt::format("{:.2g} s", std::max(0.0, seconds));
  const auto s = std::llround(seconds);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

std::string number_or_dash(double value, const char* format) {
  if (!std::isfinite(value)) return "–";
  const bool fixed = value == 0 || (std::abs(value) >= 1e-4 && std::abs(value) < 1e6);
  return fmt::format(fmt::runtime(fixed ? format : "{:.4e}"), value);
}

std::string counted(std::int64_t n, const std::string& what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

namespace {

// A terminal that can rewrite a line.
bool is_terminal() {
  const char* name = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && name != nullptr && *name != 0 && std::strcmp(name, "dumb") != 0;
}

}  // namespace

Progress::Progress(std::vector<Phase> phases) : phases_(std::move(phases)), last_shown_(0), terminal_(is_terminal()) {}

Progress::~Progress() {
  if (terminal_) clear();
}

void Progress::clear() {
  if (line_open_) write_message("\r\033[K");
  line_open_ = false;
}

void Progress::close_phase() {
  if (!running_) return;
  Speed& speed = speeds_[phases_[next_ - 1].kind];
  speed.cost += (1 - first_fraction_) * phases_[next_ - 1].cost;
  speed.seconds += phase_clock_.seconds();
  running_ = false;
}

void Progress::begin(double done) {
  close_phase();
  ++next_;
  running_ = true;
  first_fraction_ = fraction_ = done;
  phase_clock_ = {};
}

void Progress::skip() {
  close_phase();
  ++next_;
}

double Progress::seconds_left() const {
  const Phase& phase = phases_[next_ - 1];
  std::map<std::string, Speed> speeds = speeds_;
  const double done = (fraction_ - first_fraction_) * phase.cost;
  if (done > 0) {
    speeds[phase.kind].cost += done;
    speeds[phase.kind].seconds += phase_clock_.seconds();
  }
  Speed all;
  for (const auto& [kind, speed] : speeds) {
    all.cost += speed.cost;
    all.seconds += speed.seconds;
  }
  double left = 0;
  for (std::size_t i = next_ - 1; i < phases_.size(); ++i) {
    const auto known = speeds.find(phases_[i].kind);
    const Speed& speed = known != speeds.end() && known->second.cost > 0 ? known->second : all;
    const double rate = speed.cost > 0 ? speed.seconds / speed.cost : 1;
    left += rate * phases_[i].cost * (i == next_ - 1 ? 1 - fraction_ : 1);
  }
  return left;
}

void Progress::update(double fraction, const std::string& note) {
  fraction_ = std::clamp(fraction, fraction_, 1.0);
  if (clock_.seconds() - last_shown_ >= (terminal_ ? 0.2 : 5)) show(note);
}

void Progress::show(const std::string& note) {
  last_shown_ = clock_.seconds();
  const bool timed = !speeds_.empty() || fraction_ > first_fraction_;
  const std::string step = phases_.size() > 1 ? fmt::format("[{}/{}] ", next_, phases_.size()) : "";
  const std::string line =
      fmt::format("{}{}: {:.0f} %{}{}{}", step, printable(phases_[next_ - 1].text), std::floor(100 * fraction_),
                  note.empty() ? "" : ", ", note,
                  timed ? fmt::format(", about {} left", format_duration(std::ceil(seconds_left()))) : "");
  write_message(terminal_ ? "\r\033[K" + line : line + '\n');
  line_open_ = terminal_;
}

void Progress::say(const std::string& text) {
  clear();
  write_message(printable(text) + '\n');
}

namespace {

// Any thread may be interrupted, a helper too, so it also orders what is in `before`.
std::atomic<bool> interrupt_seen{false};
static_assert(std::atomic<bool>::is_always_lock_free, "signal handlers take no lock");
constexpr int interrupts[] = {SIGINT, SIGTERM, SIGHUP};
struct sigaction before[std::size(interrupts)];
std::atomic<int> guards{0};  // ranks on threads have one each, and the first of them and the last act

void restore_interrupts() {
  for (std::size_t i = 0; i < std::size(interrupts); ++i) sigaction(interrupts[i], &before[i], nullptr);
}

void remember_interrupt(int) {
  interrupt_seen.exchange(true);
  restore_interrupts();
}

}  // namespace

InterruptGuard::InterruptGuard() {
  if (guards++ > 0) return;
  struct sigaction action {};
  action.sa_handler = remember_interrupt;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < std::size(interrupts); ++i) sigaction(interrupts[i], nullptr, &before[i]);
  interrupt_seen = false;
  for (std::size_t i = 0; i < std::size(interrupts); ++i) {
    if (interrupts[i] == SIGHUP && before[i].sa_handler == SIG_IGN) continue;
    sigaction(interrupts[i], &action, nullptr);
  }
}

InterruptGuard::~InterruptGuard() {
  if (--guards == 0) restore_interrupts();
}

bool InterruptGuard::interrupted() const { return interrupt_seen; }

}  // namespace fokker::tools
