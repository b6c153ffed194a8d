#pragma once

// Programs run as processes, as their users run them: exit codes, what they print, the files they leave.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace fokker::testing {

using Arguments = std::vector<std::string>;

struct Outcome {
  int code = -1;  // exit status; −1 where a signal ended the process
  int signal = 0;
  std::string out, err;
};

// A running process, whose output goes to stdout.txt and stderr.txt in a folder.
class Process {
 public:
  // `file_limit`: the size in bytes past which its writes fail.
  Process(const std::filesystem::path& folder, const Arguments& command, rlim_t file_limit = RLIM_INFINITY)
      : out_(folder / "stdout.txt"), err_(folder / "stderr.txt") {
    std::vector<char*> argv;
    for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const int out = ::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    const int err = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(out, STDOUT_FILENO);
      ::dup2(err, STDERR_FILENO);
      const rlimit limit{file_limit, file_limit};
      if (file_limit != RLIM_INFINITY) ::setrlimit(RLIMIT_FSIZE, &limit);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(out);
    ::close(err);
  }
  // One command in the words of a POSIX shell. Signals reach the command itself.
  Process(const std::filesystem::path& folder, const std::string& command)
      : Process(folder, Arguments{"/bin/sh", "-c", "exec " + command}) {}

  pid_t id() const { return pid_; }
  void send(int signal) const { ::kill(pid_, signal); }
  // Waits for its end; called once.
  Outcome wait() const {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    Outcome outcome;
    if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
    outcome.out = contents(out_);
    outcome.err = contents(err_);
    return outcome;
  }
  bool runs() const {
    siginfo_t ended{};
    ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT);
    return ended.si_pid != pid_;
  }
  // These wait until what they name is there; false where the process ends without it or five minutes pass.
  bool wait_until(const std::function<bool()>& there) const {
    for (int i = 0; i < 300000; ++i) {
      if (there()) return true;
      if (!runs()) return there();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  bool wait_for(const std::filesystem::path& file) const {
    return wait_until([&] { return std::filesystem::exists(file); });
  }
  bool wait_for_text(const std::string& on_stderr) const {
    return wait_until([&] { return contents(err_).find(on_stderr) != std::string::npos; });
  }

 private:
  static std::string contents(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::filesystem::path out_, err_;
  pid_t pid_;
};

// The first Python that has all of these packages, or nothing.
inline std::string python_with(const std::string& packages) {
  for (const std::string python : {"python3", "/usr/bin/python3"}) {
    if (std::system((python + " -c 'import " + packages + "' 2> /dev/null").c_str()) == 0) return python;
  }
  return "";
}

}  // namespace fokker::testing
