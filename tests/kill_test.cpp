// Programs killed at any moment, in training, saving, sampling and reproducing, sixty times in all: what they end with,
// called again, has the bits of a call that was not killed, and what they leave meanwhile is whole.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <string>
#include <thread>

#include "fokker/fokker.hpp"
#include "process.hpp"
#include "reproduced.hpp"
#include "scratch.hpp"

namespace fokker::testing {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

class Kills : public ::testing::Test {
 protected:
  // The command to its end, which takes the time that kills are spread over.
  void complete(const std::string& command) {
    const Clock::time_point start = Clock::now();
    const Outcome outcome = Process(scratch_.folder(), command).wait();
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  }
  // Begins the command and kills it after a random time, unless it ends before; returns whether it was killed.
  bool kill(const std::string& command) {
    const Process process(scratch_.folder(), command);
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds_ * std::uniform_real_distribution<>()(random_)));
    process.send(SIGKILL);
    const Outcome outcome = process.wait();
    EXPECT_TRUE(outcome.signal == SIGKILL || outcome.code == 0) << outcome.err;
    return outcome.signal == SIGKILL;
  }
  // What a killed command leaves beside its files may be temporary; what one that ended leaves may not be a lock.
  static void expect_no_lock(const fs::path& folder) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      EXPECT_NE(entry.path().extension(), ".lock") << entry.path();
    }
  }

  const Scratch scratch_;
  std::mt19937 random_{20261130};
  double seconds_ = 1;
};

// Saved every fourth iteration, so that as many kills are in a save as between two.
TEST_F(Kills, TrainingAndSaving) {
  const auto train = [&](const std::string& name, bool resume) {
    return fmt::format("{0} train --data circles2 --out {1}.safetensors --log {1}.csv --save-every 4 --threads 2 ",
                       FOKKER_TOOL, scratch_ / name) +
           (resume ? fmt::format("--resume {}.state", scratch_ / name)
                   : fmt::format("--state {}.state --hidden 16,16 --iterations 400 --denoising-points 512 "
                                 "--collocation-points 64 --residual-weight 0.5",
                                 scratch_ / name));
  };
  complete(train("whole", false));
  int kills = 0;
  for (int round = 0; kills < 24; ++round) {
    const std::string name = fmt::format("part{}", round), state = scratch_ / (name + ".state");
    while (kills < 24 && kill(train(name, fs::exists(state)))) {
      ++kills;
      if (fs::exists(state)) SafeTensors::load(state);  // whole
    }
    complete(train(name, fs::exists(state)));
    EXPECT_EQ(get(scratch_ / (name + ".safetensors")), get(scratch_ / "whole.safetensors"));
    EXPECT_EQ(get(scratch_ / (name + ".csv")), get(scratch_ / "whole.csv"));
    expect_no_lock(scratch_.folder());
  }
}

TEST_F(Kills, Sampling) {
  const Architecture architecture{.hidden = {16, 16}, .beta = 20};
  save_model(scratch_ / "m.safetensors", {ForwardSde(), Mlp::initialise(architecture, 3)});
  const auto sample = [&](const std::string& name) {
    return fmt::format("{0} sample --model {1} --out {2}.npy --log-density {2}_l.npy --samples 20000 --grid uniform:40",
                       FOKKER_TOOL, scratch_ / "m.safetensors", scratch_ / name);
  };
  complete(sample("whole"));
  for (int kills = 0; kills < 16;) {
    kills += kill(sample("part"));
    for (const char* file : {".npy", "_l.npy"}) {
      if (!fs::exists(scratch_ / "part" + std::string(file))) continue;
      EXPECT_EQ(get(scratch_ / "part" + std::string(file)), get(scratch_ / "whole" + std::string(file)));
      fs::remove(scratch_ / "part" + std::string(file));
    }
  }
  complete(sample("part"));
  EXPECT_EQ(get(scratch_ / "part.npy"), get(scratch_ / "whole.npy"));
  EXPECT_EQ(get(scratch_ / "part_l.npy"), get(scratch_ / "whole_l.npy"));
  expect_no_lock(scratch_.folder());
}

TEST_F(Kills, Reproducing) {
  const auto reproduce = [&](const std::string& name) {
    return fmt::format("{} --preset smoke --iterations 400 --samples 4000 --grid geometric:40:1e-2 --out {}",
                       REPRODUCE_TOOL, scratch_ / name);
  };
  complete(reproduce("whole"));
  const auto whole = results_in(scratch_ / "whole");
  int kills = 0;
  for (int round = 0; kills < 20; ++round) {
    const std::string name = fmt::format("part{}", round);
    while (kills < 20 && kill(reproduce(name))) ++kills;
    complete(reproduce(name));
    const auto part = results_in(scratch_ / name);
    ASSERT_EQ(part.size(), whole.size());
    for (const auto& [file, bytes] : whole) EXPECT_EQ(part.at(file), bytes) << file;
    expect_no_lock(scratch_ / name);
  }
}

}  // namespace
}  // namespace fokker::testing
