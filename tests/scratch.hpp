#pragma once

// What tests of files share: a folder that goes away, the sentence of an Error, a child process.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <string>

#include "fokker/error.hpp"

namespace fokker::testing {

// An empty folder, removed with all in it.
class Scratch {
 public:
  Scratch() {
    std::string pattern = (std::filesystem::temp_directory_path() / "fokker_test_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
    folder_ = pattern;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  const std::filesystem::path& folder() const { return folder_; }
  std::string operator/(const std::string& name) const { return (folder_ / name).string(); }
  // The names in it.
  std::set<std::string> list() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) names.insert(entry.path().filename());
    return names;
  }

 private:
  std::filesystem::path folder_;
};

// Bytes on disk, written and read without the library.
inline void put(const std::string& path, const std::string& bytes) {
  // A new file, since some file systems write a truncated one to the disk at once.
  std::filesystem::remove(path);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.flush()) << path;
}

inline std::string get(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// What an Error thrown by `call` says, after checking that it is one printable line of at most 300 characters; empty,
// and a failure of the test, where none is thrown.
template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(printable(text, 300), text);
    return text;
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

// The exit status of `call` in a forked child, which returns it; −1 where the child was ended by a signal.
template <class Call>
int status_of_child(Call&& call) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 99;
    try {
      status = call();
    } catch (...) {
    }
    ::_exit(status);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// `bytes` with one to four random damages: a byte changed, a span removed, repeated or overwritten, the end cut.
inline std::string damaged(std::string bytes, std::mt19937& random) {
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : random() % n; };
  for (std::size_t left = 1 + below(4); left > 0 && !bytes.empty(); --left) {
    const std::size_t at = below(bytes.size()), length = 1 + below(std::min<std::size_t>(16, bytes.size() - at));
    switch (below(7)) {
      case 0: bytes[at] = static_cast<char>(below(256)); break;
      case 1: bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8)); break;
      case 2: bytes[at] = "0123456789-{}[]\",:.eE \\u\n()'"[below(28)]; break;
      case 3: bytes.erase(at, length); break;
      case 4: bytes.insert(at, bytes.substr(below(bytes.size()), length)); break;
      case 5: bytes.replace(at, length, length, static_cast<char>(below(256))); break;
      default: bytes.resize(at);
    }
  }
  return bytes;
}

}  // namespace fokker::testing
