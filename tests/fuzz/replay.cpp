// Reads kept inputs without libFuzzer, in any build. usage: fuzz_replay FOLDER, whose folders are named as the targets
// and hold an input a file; or fuzz_replay TARGET FILE...
// Exit codes: 0 each was read or refused, 1 one was not, or a target has no input.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "targets.hpp"

namespace {

namespace fs = std::filesystem;

bool replay(const fokker::fuzz::Target& target, const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string input{std::istreambuf_iterator<char>(file), {}};
  try {
    if (!file) throw std::runtime_error("it cannot be read");
    target.read(input);
    return true;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", path.c_str(), error.what());
    return false;
  }
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  if (fs::is_directory(folder)) files.assign(fs::directory_iterator(folder), {});
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    bool right = argc >= 2;
    if (argc > 2) {
      for (int i = 2; i < argc; ++i) right = replay(fokker::fuzz::find_target(argv[1]), argv[i]) && right;
      return right ? 0 : 1;
    }
    for (const fokker::fuzz::Target& target : fokker::fuzz::targets()) {
      if (argc < 2) break;
      const std::vector<fs::path> files = files_in(fs::path(argv[1]) / target.name);
      std::printf("%s: %zu inputs\n", target.name.data(), files.size());
      right = right && !files.empty();
      for (const fs::path& path : files) right = replay(target, path) && right;
    }
    return right ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz_replay: %s\n", error.what());
    return 1;
  }
}
