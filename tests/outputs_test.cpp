// The right to write a file: one process has it at a time, it ends with that process, and it leaves nothing behind.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "files.hpp"
#include "fokker/error.hpp"
#include "fokker/file.hpp"
#include "sanitizer.hpp"
#include "scratch.hpp"

namespace fokker::tools {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using namespace fokker::testing;
using Names = std::set<std::string>;

std::string refusal(const std::string& path) {
  const std::string text = message_of([&] { const Claim claim(path); });
  EXPECT_LE(text.size(), 300u) << text;
  return text;
}

TEST(Claims, AreOfOneProcessAtATime) {
  const Scratch scratch;
  std::filesystem::create_directory(scratch / "folder");
  std::filesystem::create_symlink("folder/file", scratch / "link");
  const std::string file = scratch / "folder/file";
  {
    const Claim claim(file);
    const auto names_this_process =
        AllOf(HasSubstr(fmt::format("in use by process {}", ::getpid())), HasSubstr("allowed"));
    EXPECT_THAT(refusal(file), AllOf(HasSubstr(file), names_this_process));
    // By whatever name, and though each save puts another file in its place.
    EXPECT_THAT(refusal(scratch / "link"), names_this_process);
    EXPECT_THAT(refusal(scratch / "folder/../folder/./file"), names_this_process);
    write_text(file, "saved");
    EXPECT_THAT(refusal(file), names_this_process);
    const Claim other(scratch / "folder/other");
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch / "folder"), {}), 3);
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch / "folder"), {}), 1);
  EXPECT_EQ(get(file), "saved");
  const Claim again(file);
}

TEST(Claims, NameNoProcessThatHasEnded) {
  const Scratch scratch;
  const Claim claim(scratch / "file");
  ASSERT_EQ(scratch.list().size(), 1u);
  std::ofstream(scratch / *scratch.list().begin()) << "999999999\n";  // beyond all numbers of processes
  EXPECT_THAT(refusal(scratch / "file"), HasSubstr("in use by another process"));
}

// Another machine's number is no process of this one.
TEST(Claims, NameTheMachineOfTheirProcess) {
  const Scratch scratch;
  EXPECT_EQ(holder_of(scratch / "file"), "");
  const std::string here = fmt::format("process {}", ::getpid());
  {
    const Claim claim(scratch / "file");
    EXPECT_EQ(holder_of(scratch / "file"), here);
    std::ofstream(scratch / *scratch.list().begin()) << "17 elsewhere\n";
    EXPECT_EQ(holder_of(scratch / "file"), "process 17 on elsewhere");
    EXPECT_THAT(refusal(scratch / "file"), HasSubstr("in use by process 17 on elsewhere"));
  }
  EXPECT_EQ(holder_of(scratch / "file"), "");
  EXPECT_EQ(scratch.list(), Names());
}

TEST(Claims, AreWaitedFor) {
  const Scratch scratch;
  std::optional<Claim> first(std::in_place, scratch / "file");
  std::atomic<bool> taken{false};
  std::thread other([&] {
    const Claim second(scratch / "file", 600);
    taken = true;
  });
  EXPECT_THROW(Claim(scratch / "file", 0.1), InUse);
  EXPECT_FALSE(taken);
  first.reset();
  other.join();
  EXPECT_TRUE(taken);
  EXPECT_EQ(scratch.list(), Names());
}

// That a process was killed shows in the name that is left and in nothing else.
TEST(Claims, EndWithTheirProcess) {
  if (with_tsan) GTEST_SKIP() << "ThreadSanitizer forks no process of several threads";
  const Scratch scratch;
  const std::string file = scratch / "file";
  EXPECT_EQ(status_of_child([&] {
              const Claim claim(file);
              return ::kill(::getpid(), SIGKILL);
            }),
            -1);
  EXPECT_EQ(scratch.list().size(), 1u);
  { const Claim claim(file); }
  EXPECT_EQ(scratch.list(), Names());
  // What a user or a system ends leaves nothing.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    EXPECT_EQ(status_of_child([&] {
                const Claim claim(file), other(scratch / "other");
                return ::raise(signal);
              }),
              -1);
    EXPECT_EQ(scratch.list(), Names()) << signal;
  }
  // Not with a process that was forked from it.
  const Claim claim(file);
  EXPECT_EQ(status_of_child([] { return 3; }), 3);
  EXPECT_THAT(refusal(file), HasSubstr("in use"));
}

TEST(Claims, AreTakenByOneOfSeveralWhenTheyAreFree) {
  const Scratch scratch;
  std::atomic<int> holders{0}, taken{0}, together{0};
  std::vector<std::thread> threads;
  for (int k = 0; k < 4; ++k) {
    threads.emplace_back([&] {
      for (int i = 0; i < 60; ++i) {
        try {
          const Claim claim(scratch / "file");
          if (++holders > 1) ++together;
          ++taken;
          --holders;
        } catch (const Error&) {
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, 0);
  EXPECT_GT(taken, 0);
  EXPECT_EQ(scratch.list(), Names());
}

TEST(Claims, AreRefusedWhereTheFileCannotBeWritten) {
  const Scratch scratch;
  std::filesystem::create_directory(scratch / "folder");
  std::filesystem::create_symlink("b", scratch / "a");
  std::filesystem::create_symlink("a", scratch / "b");
  put(scratch / "file", "kept");
  const Names before = scratch.list();
  for (const auto& [name, why] : {std::pair(std::string(300, 'x'), "File name too long"),
                                  std::pair(std::string("a"), "Too many levels of symbolic links"),
                                  std::pair(std::string("folder"), "it is a folder"),
                                  std::pair(std::string("missing/file"), "No such file or directory"),
                                  std::pair(std::string("file/file"), "Not a directory")}) {
    EXPECT_THAT(refusal(scratch / name), AllOf(HasSubstr("cannot write"), HasSubstr(why)));
  }
  EXPECT_THAT(refusal(""), HasSubstr("not a file name"));
  EXPECT_EQ(scratch.list(), before);
  // The longest name that there may be is none too long for what is beside it.
  { const Claim claim(scratch / std::string(255, 'x')); }
  EXPECT_EQ(scratch.list(), before);
}

// With the folders above it or without them.
TEST(Folders, WhoseNamesAreTooLongAreNotBegunWith) {
  const Scratch scratch;
  const std::string longest(255, 'x');
  for (const std::string& name : {"a/b/" + longest + "x/c", longest + "x", "a/" + std::string(5000, '/')}) {
    EXPECT_THAT(message_of([&] { make_folder(scratch / name); }), HasSubstr("File name too long"));
    EXPECT_THAT(message_of([&] { check_length(scratch / name); }), HasSubstr("File name too long"));
  }
  check_length(scratch / ("a/" + longest));
  EXPECT_EQ(scratch.list(), Names());
  make_folder(scratch / ("a/" + longest + "/"));
  EXPECT_TRUE(std::filesystem::is_directory(scratch / ("a/" + longest)));
}

TEST(Claims, AreOfAllOutputsOrNone) {
  const Scratch scratch;
  const std::string a = scratch / "a", b = scratch / "b";
  {
    const std::vector<Claim> claims = claim_outputs({a, "", b}, {"", scratch / "input"});
    EXPECT_THAT(refusal(a), HasSubstr("in use"));
    EXPECT_THAT(refusal(b), HasSubstr("in use"));
  }
  EXPECT_THAT(message_of([&] { (void)claim_outputs({a, b, a}, {}); }), HasSubstr("given for two outputs"));
  EXPECT_THAT(message_of([&] { (void)claim_outputs({a, b}, {b}); }), HasSubstr("both to be read and to be written"));
  EXPECT_THAT(message_of([&] { (void)claim_outputs({a, scratch / "missing/b"}, {}); }), HasSubstr("cannot write"));
  EXPECT_EQ(scratch.list(), Names());
}

}  // namespace
}  // namespace fokker::tools
