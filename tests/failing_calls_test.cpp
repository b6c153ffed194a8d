// A call of the system that fails, whichever it is: the work is done with the same bits, or one sentence says why not
// and every file is as it was or as it should be. Nothing half written is left, and nothing temporary.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "fokker/fokker.hpp"
#include "process.hpp"
#include "sanitizer.hpp"
#include "scratch.hpp"

namespace fokker::testing {
namespace {

namespace fs = std::filesystem;
using Files = std::map<std::string, std::string>;  // contents by names

// What is in a folder and the folders in it.
Files files_in(const fs::path& folder) {
  Files files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder)] = get(entry.path());
  }
  return files;
}

struct Work {
  std::string command;       // in the folder of the files
  Files before = {};         // in that folder
  std::string growing = {};  // a file that is written record by record: all of the result's, or its first part
};

class FailingCalls : public ::testing::Test {
 protected:
  void SetUp() override {
    if (with_asan || with_tsan) GTEST_SKIP() << "a sanitizer has such calls of its own";
  }

  // Does the work with the N-th call of a function failing; returns the number of calls that there were.
  long run(const Work& work, const std::string& function, long n) {
    fs::remove_all(scratch_ / "work");
    fs::create_directory(scratch_ / "work");
    for (const auto& [name, bytes] : work.before) put(scratch_ / ("work/" + name), bytes);
    put(scratch_ / "calls", "0");
    const Process process(scratch_.folder(),
                          fmt::format("env -C {} timeout 100 env LD_PRELOAD={} FOKKER_FAIL={}:{} FOKKER_CALLS={} {}",
                                      scratch_ / "work", FAILING_CALLS, function, n, scratch_ / "calls", work.command));
    outcome_ = process.wait();
    files_ = files_in(scratch_ / "work");
    return std::stol(get(scratch_ / "calls"));
  }

  // Every function, at each of its first calls, some in the middle and the last.
  void expect_all_or_nothing(const Work& work, long most) {
    for (const char* function : {"open", "write", "fwrite", "fsync", "rename", "close", "malloc"}) {
      const long calls = run(work, function, 0);
      ASSERT_EQ(outcome_.code, 0) << outcome_.err;
      const Files whole = files_;
      ASSERT_GE(calls, std::string(function) == "fwrite" ? 0 : 1) << function;
      for (long k = 0; k < std::min(calls, most); ++k) {
        const long n = 1 + k * (calls - 1) / std::max(1L, std::min(calls, most) - 1);
        SCOPED_TRACE(fmt::format("{} call {} of {}: {}", function, n, calls, work.command));
        run(work, function, n);
        expect_all_or_nothing(work, whole);
        if (HasFailure()) return;
        ++runs_;
      }
    }
    RecordProperty("runs", runs_);
  }

  Outcome outcome_;
  Files files_;

 private:
  void expect_all_or_nothing(const Work& work, const Files& whole) const {
    const std::string& err = outcome_.err;
    EXPECT_EQ(outcome_.signal, 0) << err;
    EXPECT_TRUE(outcome_.code == 0 || outcome_.code == 1) << outcome_.code << ": " << err;
    const std::size_t before_last = err.substr(0, std::max<std::size_t>(err.size(), 1) - 1).rfind('\n');
    const std::string line = before_last == std::string::npos ? err : err.substr(before_last + 1);
    // Where memory lacks in what may not throw, the process ends at once and leaves its locks as a killed one does.
    const bool ended_at_once = line == "not enough memory for sizes this large\n";
    if (outcome_.code == 1) {
      EXPECT_TRUE(ended_at_once || line.starts_with("fokker: ")) << err;
      EXPECT_LE(line.size(), 300u) << line;
    } else {
      EXPECT_EQ(files_, whole);
    }
    for (const auto& [name, bytes] : files_) {
      const auto before = work.before.find(name), after = whole.find(name);
      const bool kept = before != work.before.end() && before->second == bytes;
      const bool made = after != whole.end() && after->second == bytes;
      const bool begun = name == work.growing && after != whole.end() && after->second.starts_with(bytes);
      const bool earlier =
          name.ends_with(".state") && SafeTensors::load(scratch_ / ("work/" + name)).at("iteration").size() == 1;
      const bool lock = ended_at_once && name.ends_with(".lock");
      EXPECT_TRUE(kept || made || begun || earlier || lock)
          << "'" << name << "' of " << bytes.size() << " bytes is left: " << err;
    }
    for (const auto& [name, bytes] : work.before) EXPECT_TRUE(files_.contains(name)) << name << " is lost";
  }

  Scratch scratch_;
  int runs_ = 0;
};

const std::string fokker_tool = FOKKER_TOOL;
const std::string train = " --hidden 8 --iterations 60 --denoising-points 64 --threads 2";

Files network() {
  const Scratch scratch;
  const Architecture architecture{.hidden = {7, 5}, .beta = 5};
  save_model(scratch / "m.safetensors", {ForwardSde(), Mlp::initialise(architecture, 3)});
  const std::vector<float> rows{0.5f, 0.1f, -0.2f, 1.0f, 0.3f, 0.7f};
  save_npy(scratch / "p.npy", {2, 3}, rows.data());
  return {
      {"m.safetensors", get(scratch / "m.safetensors")}, {"p.npy", get(scratch / "p.npy")}, {"out.npy", "precious"}};
}

TEST_F(FailingCalls, Training) {
  expect_all_or_nothing({fokker_tool +
                             " train --data circles2 --out m.safetensors --log l.csv --state s.state "
                             "--save-every 20" +
                             train,
                         {{"m.safetensors", "precious"}},
                         "l.csv"},
                        24);
}

TEST_F(FailingCalls, GoingOn) {
  const Scratch scratch;
  TrainOptions options{.iterations = 60, .denoising_points = 64};
  const Architecture architecture{.hidden = {8}, .beta = 20};
  Trainer trainer(Context(BackendKind::cpu), {ForwardSde(), Mlp::initialise(architecture, 0)},
                  DataSet::named("circles2"), options);
  trainer.run(20);
  trainer.save_state(scratch / "s");
  expect_all_or_nothing({fokker_tool + " train --data circles2 --out m.safetensors --resume s.state --save-every 20 "
                                       "--threads 2",
                         {{"s.state", get(scratch / "s")}}},
                        24);
}

TEST_F(FailingCalls, Sampling) {
  expect_all_or_nothing({fokker_tool + " sample --model m.safetensors --out out.npy --log-density l.npy --samples 99 "
                                       "--grid uniform:5 --threads 2",
                         network()},
                        24);
}

// A lock that cannot be taken is none, whatever the reason, unless the file system knows no locks.
TEST_F(FailingCalls, Locking) {
  const Work work{fokker_tool + " sample --model m.safetensors --out out.npy --samples 9 --grid uniform:5 --threads 2",
                  network()};
  ASSERT_GE(run(work, "flock", 1), 1);
  EXPECT_EQ(outcome_.code, 1);
  EXPECT_THAT(outcome_.err, ::testing::HasSubstr("cannot lock 'out.npy': Input/output error"));
  EXPECT_EQ(files_.at("out.npy"), "precious");
}

TEST_F(FailingCalls, Fields) {
  expect_all_or_nothing(
      {fokker_tool + " field --model m.safetensors --points p.npy --out f.safetensors --threads 2", network()}, 24);
}

TEST_F(FailingCalls, Gaps) {
  expect_all_or_nothing({fokker_tool + " gap --model m.safetensors --data blob --histograms . --samples 99 --grid "
                                       "uniform:5 --threads 2",
                         network()},
                        24);
}

}  // namespace
}  // namespace fokker::testing
