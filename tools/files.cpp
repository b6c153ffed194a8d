#include "files.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string_view>

#include "fokker/error.hpp"
#include "fokker/file.hpp"

namespace fokker::tools {

namespace fs = std::filesystem;

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

void make_folder(const std::string& path) {
  std::error_code failure, ignored;
  fs::create_directories(path, failure);
  if (fs::is_directory(path, ignored)) return;
  throw Error(fmt::format("cannot make the folder '{}': {}", path,
                          is_file(path) ? "a regular file of that name is in the way" : failure.message()));
}

void check_writable(const std::string& path) {
  if (path.empty()) throw Error("an output file needs a name; an empty one was given");
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) throw Error(fmt::format("cannot write '{}': a folder has that name", path));
  if (fs::exists(path, ignored) && !fs::is_regular_file(path, ignored)) {
    throw Error(fmt::format("cannot write '{}': it is not a regular file", path));
  }
  if (fs::exists(path, ignored) && ::access(path.c_str(), W_OK) != 0) {
    throw Error(fmt::format("cannot write '{}': {}", path, std::strerror(errno)));
  }
  const fs::path parent = fs::path(path).parent_path();
  const std::string folder = parent.empty() ? std::string(".") : parent.string();
  if (!fs::is_directory(folder, ignored)) {
    throw Error(fmt::format("cannot write '{}': '{}' is {}", path, folder,
                            fs::exists(folder, ignored) ? "not a folder" : "not there"));
  }
  if (::access(folder.c_str(), W_OK) != 0) {
    throw Error(fmt::format("cannot write '{}': the folder '{}' is not writable", path, folder));
  }
}

void check_outputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].empty()) continue;
    check_writable(outputs[i]);
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
  }
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

std::string file_of_data(const std::string& name) {
  return name.ends_with(".json") || name.ends_with(".npy") ? name : std::string();
}

std::string file_of_grid(const std::string& text) {
  constexpr std::string_view prefix = "file:";
  return text.starts_with(prefix) ? text.substr(prefix.size()) : std::string();
}

}  // namespace fokker::tools
