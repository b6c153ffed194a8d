#include "files.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "fokker/error.hpp"

namespace fokker::tools {

namespace fs = std::filesystem;

void write_text(const std::string& name, const std::string& text) {
  std::error_code ignored;
  const fs::path target = fs::weakly_canonical(name, ignored);  // a symbolic link stays one
  const std::string path = target.empty() ? name : target.string();
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  errno = 0;
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  bool written = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (file != nullptr) {
    written = std::fflush(file) == 0 && written;
    written = ::fsync(::fileno(file)) == 0 && written;
    written = std::fclose(file) == 0 && written;
  }
  if (written && std::rename(temporary.c_str(), path.c_str()) == 0) return;
  const std::string reason = std::strerror(errno);
  if (file != nullptr) std::remove(temporary.c_str());
  throw Error(fmt::format("cannot write '{}': {}", path, reason));
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!is_file(path) || !file) throw Error(fmt::format("cannot read '{}'", path));
  return {std::istreambuf_iterator<char>(file), {}};
}

bool is_file(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

void make_folder(const std::string& path) {
  std::error_code failure;
  fs::create_directories(path, failure);
  if (fs::is_directory(path)) return;
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
  const auto same = [](const std::string& a, const std::string& b) {
    std::error_code ignored;
    return fs::weakly_canonical(fs::absolute(a), ignored) == fs::weakly_canonical(fs::absolute(b), ignored);
  };
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].empty()) continue;
    check_writable(outputs[i]);
    for (std::size_t j = 0; j < i; ++j) {
      if (!outputs[j].empty() && same(outputs[i], outputs[j])) {
        throw Error(fmt::format("'{}' is given for two outputs; each needs a file of its own", outputs[i]));
      }
    }
    for (const std::string& input : inputs) {
      if (!input.empty() && same(outputs[i], input)) {
        throw Error(
            fmt::format("'{}' is given both to be read and to be written; the output needs another name", outputs[i]));
      }
    }
  }
}

}  // namespace fokker::tools
