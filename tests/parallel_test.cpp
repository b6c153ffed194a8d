// Threads: who does which items, what an exception, a call within a call and a fork do, and what is where no more
// threads can be made.
#include "core/parallel.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "core/processors.hpp"
#include "fokker/context.hpp"
#include "fokker/error.hpp"
#include "sanitizer.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using testing::message_of;
using testing::status_of_child;

// How often each item was done.
std::vector<int> times_done(int threads, std::int64_t items) {
  std::vector<std::atomic<int>> done(static_cast<std::size_t>(items));
  parallel_for(threads, items, [&](std::int64_t i, int thread) {
    EXPECT_TRUE(thread >= 0 && thread < threads) << thread;
    ++done[static_cast<std::size_t>(i)];
  });
  return {done.begin(), done.end()};
}

TEST(ParallelFor, DoesEveryItemOnce) {
  for (const int threads : {1, 2, 3, 19, 2}) {
    for (const std::int64_t items : {0, 1, 2, 19, 989}) {
      const std::vector<int> done = times_done(threads, items);
      EXPECT_EQ(std::ssize(done), items);
      EXPECT_THAT(done, Each(1)) << threads << " threads";
    }
  }
}

TEST(ParallelFor, ThreadZeroIsTheCaller) {
  const std::thread::id caller = std::this_thread::get_id();
  parallel_for(3, 99, [&](std::int64_t, int thread) { EXPECT_EQ(std::this_thread::get_id() == caller, thread == 0); });
}

// Two items that wait for each other are on two threads.
TEST(ParallelFor, WorksOnSeveralThreads) {
  std::atomic<int> there{0};
  parallel_for(2, 2, [&](std::int64_t, int) {
    ++there;
    while (there < 2) std::this_thread::yield();
  });
  EXPECT_EQ(there, 2);
}

TEST(ParallelFor, RethrowsTheFirstExceptionAndGoesOn) {
  for (int repetition = 0; repetition < 3; ++repetition) {
    std::atomic<int> begun{0};
    EXPECT_THROW(parallel_for(3, 1'000'000,
                              [&](std::int64_t, int) {
                                ++begun;
                                throw std::runtime_error("an item");
                              }),
                 std::runtime_error);
    EXPECT_LE(begun, 3);
    EXPECT_THAT(times_done(3, 19), Each(1));
  }
}

TEST(ParallelFor, ACallWithinABodyIsDoneOnItsThread) {
  std::atomic<int> inner{0};
  parallel_for(3, 19, [&](std::int64_t, int) {
    const std::thread::id outer = std::this_thread::get_id();
    parallel_for(3, 7, [&](std::int64_t, int thread) {
      EXPECT_EQ(thread, 0);
      EXPECT_EQ(std::this_thread::get_id(), outer);
      ++inner;
    });
  });
  EXPECT_EQ(inner, 19 * 7);
}

TEST(ParallelFor, ServesSeveralCallersAtOnce) {
  std::vector<std::thread> callers;
  for (int k = 0; k < 4; ++k) {
    callers.emplace_back([] {
      for (int call = 0; call < 50; ++call) EXPECT_THAT(times_done(3, 19), Each(1));
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(ParallelFor, AForkedProcessHasThreadsOfItsOwn) {
  if (testing::with_tsan) GTEST_SKIP() << "ThreadSanitizer allows no threads after a fork of several";
  EXPECT_THAT(times_done(3, 19), Each(1));
  EXPECT_EQ(status_of_child([] {
              const std::vector<int> done = times_done(3, 19);
              return std::all_of(done.begin(), done.end(), [](int n) { return n == 1; }) ? 1 : 2;
            }),
            1);
  // The child may also end as a program does, without waiting for its parent's threads.
  EXPECT_EQ(status_of_child([]() -> int { std::exit(7); }), 7);
}

std::size_t address_space() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// In a process that may take 200 MB more: a thread takes 8 MB of them.
template <class Call>
int status_in_little_space(Call&& call) {
  return status_of_child([&] {
    const rlim_t limit = address_space() + (200u << 20);
    const rlimit both{limit, limit};
    return ::setrlimit(RLIMIT_AS, &both) == 0 ? call() : 50;
  });
}

TEST(Forks, InTheMidstOfOtherThreadsCallsWorkToo) {
  if (testing::with_tsan) GTEST_SKIP() << "ThreadSanitizer allows no threads after a fork of several";
  std::atomic<bool> over{false};
  std::vector<std::thread> others;
  for (int k = 0; k < 2; ++k) {
    others.emplace_back([&] {
      while (!over) times_done(2, 3);
    });
  }
  for (int k = 0; k < 200; ++k) {
    EXPECT_EQ(status_of_child([] {
                ::alarm(20);  // a child that waits for good is killed
                return times_done(2, 9) == std::vector<int>(9, 1) ? 0 : 1;
              }),
              0);
  }
  over = true;
  for (std::thread& other : others) other.join();
}

TEST(Threads, ThatCannotBeMadeAreRefusedInOneSentence) {
  if (testing::with_asan || testing::with_tsan) GTEST_SKIP() << "a sanitizer takes all of the address space";
  const int status = status_in_little_space([] {
    const std::string text = message_of([] { Context({.backend = BackendKind::cpu, .threads = 1024}); });
    EXPECT_THAT(text,
                AllOf(HasSubstr("1024 threads asked for"), HasSubstr("no more than"), HasSubstr("allowed: fewer")));
    EXPECT_LE(text.size(), 300u);
    // The threads that were made are gone, with their memory.
    const std::vector<char> memory(100u << 20);
    EXPECT_EQ(memory.back(), 0);
    EXPECT_EQ(Context({.backend = BackendKind::cpu, .threads = 2}).threads(), 2);
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(status, 0);
}

TEST(Threads, ThatCannotBeMadeLeaveTheWorkToTheOthers) {
  if (testing::with_asan || testing::with_tsan) GTEST_SKIP() << "a sanitizer takes all of the address space";
  EXPECT_EQ(status_in_little_space([] {
              EXPECT_THAT(times_done(1024, 5000), Each(1));
              return ::testing::Test::HasFailure() ? 1 : 0;
            }),
            0);
}

TEST(Threads, AreThoseThatTheProcessMayRunOn) {
  ::unsetenv("OMP_NUM_THREADS");
  const int all = default_threads();
  EXPECT_GE(all, 1);
  EXPECT_EQ(make_threads(0), all);
  EXPECT_EQ(make_threads(7), 7);
  // What is not taken is named.
  const std::string none = ", which is no number of threads";
  for (const auto& [text, threads, refused] : std::vector<std::tuple<const char*, int, std::string>>{
           {"1", 1, ""},
           {"1,4", 1, ""},
           {" 1 ", 1, ""},
           {"100000", all, fmt::format("OMP_NUM_THREADS asks for 100000 threads where {} may run", all)},
           {"-3", all, "OMP_NUM_THREADS is '-3'" + none},
           {"0", all, "OMP_NUM_THREADS is '0'" + none},
           {"1x", all, "OMP_NUM_THREADS is '1x'" + none},
           {"many", all, "OMP_NUM_THREADS is 'many'" + none},
           {"", all, ""}}) {
    ::setenv("OMP_NUM_THREADS", text, 1);
    EXPECT_EQ(default_threads(), threads) << text;
    EXPECT_EQ(refused_threads(), refused) << text;
  }
  ::unsetenv("OMP_NUM_THREADS");
}

}  // namespace
}  // namespace fokker
