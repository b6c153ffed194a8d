#include "files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include "fokker/array.hpp"
#include "fokker/error.hpp"
#include "fokker/file.hpp"

namespace fokker::tools {

namespace fs = std::filesystem;

namespace {

// The lock files of this process, which a signal that ends it removes: plain pointers, which its handler may read.
std::atomic<const char*> lock_files[16];

void end_without_locks(int signal) {
  for (const std::atomic<const char*>& file : lock_files) {
    if (const char* const name = file) ::unlink(name);
  }
  std::signal(signal, SIG_DFL);
  ::raise(signal);  // ends the process when this function returns
}

void replace_lock_file(const char* from, const char* to) {
  for (std::atomic<const char*>& file : lock_files) {
    if (const char* expected = from; file.compare_exchange_strong(expected, to)) return;
  }
}

void remember_lock_file(const char* name) {
  replace_lock_file(nullptr, name);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now {};
    if (::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) std::signal(signal, end_without_locks);
  }
}

}  // namespace

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!is_file(path) || !file) throw Error(fmt::format("cannot read '{}'", path));
  return {std::istreambuf_iterator<char>(file), {}};
}

bool is_file(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::int64_t count_of(double value, const std::string& name) {
  constexpr double most = 0x1p53;
  if (value >= 0 && value <= most && value == std::floor(value)) return static_cast<std::int64_t>(value);
  throw Error(fmt::format("{} is {}; allowed: integers from 0 to 2^53", name, value));
}

double duration_of(double value, const std::string& name) {
  if (value >= 0 && std::isfinite(value)) return value;
  throw Error(fmt::format("{} is {} seconds; allowed: finite numbers that are not negative", name, value));
}

std::string fingerprint(std::string_view bytes) {
  return fmt::format("{:016x}", hash_bytes(std::as_bytes(std::span(bytes))));
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code failure;
  if (fs::equivalent(a, b, failure) && !failure) return true;  // both are there
  const auto resolved = [](const std::string& path) {
    std::error_code ignored;
    return fs::weakly_canonical(fs::absolute(path, ignored), ignored);
  };
  const fs::path there = resolved(a);
  return !there.empty() && there == resolved(b);
}

void check_length(const std::string& folder) {
  std::error_code failure;
  std::size_t longest = 0;  // of the names that are to be made
  fs::path there = fs::absolute(folder, failure);
  for (; there.has_relative_path() && !fs::exists(there, failure); there = there.parent_path()) {
    longest = std::max(longest, there.filename().native().size());
  }
  const long allowed = ::pathconf(there.c_str(), _PC_NAME_MAX);
  if ((allowed > 0 && longest > static_cast<std::size_t>(allowed)) || folder.size() >= PATH_MAX) {
    throw Error(fmt::format("cannot make the folder '{}': {}", folder, std::strerror(ENAMETOOLONG)));
  }
}

void make_folder(const std::string& path) {
  check_length(path);
  std::error_code failure, ignored;
  fs::create_directories(path, failure);
  if (fs::is_directory(path, ignored)) return;
  throw Error(fmt::format("cannot make the folder '{}': {}", path,
                          is_file(path) ? "a regular file of that name is in the way" : failure.message()));
}

namespace {

std::string machine_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? std::string(name) : std::string();
}

// Of a file where there may be no link.
std::string lock_beside(const fs::path& file) {
  return file.parent_path() / fmt::format(".fokker-{}.lock", fingerprint(file.filename().string()));
}

// Who left "NUMBER MACHINE" in a lock file that another process holds.
std::string read_holder(int lock) {
  char text[300] = {};
  const ssize_t read = ::pread(lock, text, sizeof(text) - 1, 0);
  char* end = text;
  const long number = read > 0 ? std::strtol(text, &end, 10) : 0;
  std::string machine(end);
  std::erase_if(machine, [](char c) { return c == ' ' || c == '\n'; });
  if (number <= 0) return "another process";
  if (!machine.empty() && machine != machine_name()) return fmt::format("process {} on {}", number, machine);
  // A process that could not write its number leaves there that of one that was killed.
  const bool there = ::kill(static_cast<pid_t>(number), 0) == 0 || errno == EPERM;
  return there ? fmt::format("process {}", number) : "another process";
}

}  // namespace

InUse::InUse(const std::string& path, std::string by)
    : Error(fmt::format("'{}' is in use by {}, which writes it; allowed: another name, or the same after its end", path,
                        by)),
      holder(std::move(by)) {}

Claim::Claim(const std::string& path, double patience) : Claim() {
  lock_ = lock_beside(check_writable(path));
  constexpr int tries_a_second = 50;
  for (double left = patience; !take(path); left -= 1.0 / tries_a_second) {
    if (left <= 0) throw InUse(path, holder_);
    std::this_thread::sleep_for(std::chrono::milliseconds(1000 / tries_a_second));
  }
  remember_lock_file(lock_.c_str());
  const std::string process = fmt::format("{} {}\n", ::getpid(), machine_name());
  const bool named = ::ftruncate(file_, 0) == 0 && ::pwrite(file_, process.data(), process.size(), 0) > 0;
  static_cast<void>(named);  // the message of InUse does without it
}

// False where another process has the right.
bool Claim::take(const std::string& path) {
  for (;;) {
    file_ = ::open(lock_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    // Another user's, whose process was killed.
    if (file_ < 0 && errno == EACCES) file_ = ::open(lock_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file_ < 0) throw Error(fmt::format("cannot write '{}': {} (a lock beside it)", path, std::strerror(errno)));
    if (::flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      holder_ = read_holder(file_);
      ::close(std::exchange(file_, -1));
      return false;
    }
    // The process before may have removed the file that this one has opened.
    struct stat opened {};
    struct stat there {};
    if (::fstat(file_, &opened) == 0 && ::stat(lock_.c_str(), &there) == 0 && opened.st_ino == there.st_ino)
      return true;
    ::close(std::exchange(file_, -1));
  }
}

std::string holder_of(const std::string& path) {
  const int lock = ::open(lock_beside(path).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (lock < 0) return {};
  std::string holder;
  if (::flock(lock, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) holder = read_holder(lock);
  ::close(lock);
  return holder;
}

Claim::Claim(Claim&& other) noexcept : file_(std::exchange(other.file_, -1)) {
  const char* const before = other.lock_.c_str();
  lock_ = std::move(other.lock_);
  if (file_ >= 0) replace_lock_file(before, lock_.c_str());
}

Claim::~Claim() {
  if (file_ < 0) return;
  replace_lock_file(lock_.c_str(), nullptr);
  ::unlink(lock_.c_str());  // before it is let go, so that no other process has it
  ::close(file_);
}

std::vector<Claim> claim_outputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs) {
  std::vector<Claim> claims;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].empty()) continue;
    for (std::size_t j = 0; j < i; ++j) {
      if (!outputs[j].empty() && same_file(outputs[i], outputs[j])) {
        throw Error(fmt::format("'{}' is given for two outputs; each needs a file of its own", outputs[i]));
      }
    }
    for (const std::string& input : inputs) {
      if (!input.empty() && same_file(outputs[i], input)) {
        throw Error(
            fmt::format("'{}' is given both to be read and to be written; the output needs another name", outputs[i]));
      }
    }
    claims.emplace_back(outputs[i]);
  }
  return claims;
}

std::optional<SafeTensors> SavedWork::load() const {
  if (!is_file(file)) return {};
  try {
    SafeTensors found = SafeTensors::load(file);
    const auto of = found.metadata.find("work");
    if (of == found.metadata.end() || of->second != work) return {};
    return found;
  } catch (const Error& error) {
    throw unusable(error.what());
  }
}

Error SavedWork::unusable(const std::string& why) const {
  return Error(fmt::format("cannot go on from '{}': {}; remove it to begin anew", file, why));
}

void SavedWork::save(SafeTensors state) const {
  if (file.empty()) return;
  state.metadata["work"] = work;
  state.save(file);
}

Array load_points(const std::string& name, std::int64_t columns, const std::string& rows) {
  Array points = load_array(name);
  if (points.columns() == columns) return points;
  throw Error(fmt::format("'{}' has shape [{}]; needed for this model: [N, {}]{}", name, fmt::join(points.shape, ", "),
                          columns, rows));
}

std::vector<float> finite_float32(const Array& points, const std::string& name, const std::string& what) {
  std::vector<float> rounded = to_float32(points, name);
  const auto found = std::find_if(rounded.begin(), rounded.end(), [](float v) { return !std::isfinite(v); });
  if (found == rounded.end()) return rounded;
  const std::int64_t at = found - rounded.begin(), columns = points.columns();
  throw Error(fmt::format("row {}, column {} of '{}' is {}; {} are finite float32 numbers", at / columns, at % columns,
                          name, points.data[static_cast<std::size_t>(at)], what));
}

template <class T>
void save_array(const std::string& path, const std::string& name, const std::vector<std::int64_t>& shape,
                const T* data) {
  if (!path.ends_with(".csv")) return save_npy(path, shape, data);
  const bool one = shape.size() == 1;
  const std::int64_t columns = one ? 1 : shape[1];
  std::string text = one ? name : name + "_1";
  for (std::int64_t k = 1; k < columns; ++k) text += fmt::format(",{}_{}", name, k + 1);
  text += '\n';
  for (std::int64_t i = 0; i < shape[0] * columns; ++i) {
    fmt::format_to(std::back_inserter(text), "{}{}", data[i], (i + 1) % columns == 0 ? '\n' : ',');
  }
  write_text(path, text);
}

template void save_array(const std::string&, const std::string&, const std::vector<std::int64_t>&, const float*);
template void save_array(const std::string&, const std::string&, const std::vector<std::int64_t>&, const double*);

std::string file_of_data(const std::string& name) {
  if (name.ends_with(".json")) return name;
  const ArrayName array(name);
  return array.has_extension() ? array.file : std::string();
}

std::string file_of_text(const std::string& text) {
  constexpr std::string_view prefix = "file:";
  return text.starts_with(prefix) ? ArrayName(text.substr(prefix.size())).file : std::string();
}

}  // namespace fokker::tools
