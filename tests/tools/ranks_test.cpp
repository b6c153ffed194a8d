// Programs on several ranks, by mpirun: files to the bytes of one rank, one sentence for every failure, and a state that
// outlives a killed rank.
#include <sys/types.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "sanitizer.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class RanksOfAProgram : public CommandLine {
 protected:
  void SetUp() override {
    if (std::string(FOKKER_MPIRUN).empty()) GTEST_SKIP() << "this build has no MPI";
    if (with_tsan) GTEST_SKIP() << "MPI is not compiled for ThreadSanitizer";
    // More ranks than processors, of any user, each on all of them; messages without the reads of another process's
    // memory that containers forbid.
    for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"}) ::setenv(name, "1", 1);
    ::setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    ::setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
    ::setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
    if (with_asan) ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // those of MPI
  }
  Process start_ranks(int count, const Arguments& arguments) const {
    return start(with({FOKKER_MPIRUN, "-n", std::to_string(count), fokker_tool}, arguments));
  }
  Outcome ranks(int count, const Arguments& arguments) const { return start_ranks(count, arguments).wait(); }
  // One line of ours, about `what`.
  static void expect_one_sentence(const Outcome& outcome, const std::string& what) {
    EXPECT_NE(outcome.code, 0);
    const std::size_t at = outcome.err.find("fokker: ");
    ASSERT_NE(at, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("fokker: ", at + 1), std::string::npos) << outcome.err;
    EXPECT_THAT(outcome.err.substr(at, outcome.err.find('\n', at) - at), HasSubstr(what));
  }

  Arguments train(const std::string& name) const {
    return {"train",     "--data", "circles2", "--out", file(name + ".safetensors"), "--log", file(name + ".csv"),
            "--threads", "1"};
  }
  static Arguments recipe(const std::string& iterations) {
    return words("--hidden 16,16 --denoising-points 1000 --collocation-points 500 --residual-weight 0.5 --iterations " +
                 iterations);
  }
  // The process of one of Open MPI's ranks below a launcher; 0 where there is none.
  static pid_t process_of_rank(pid_t launcher, int rank) {
    const std::string wanted = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank);
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (!std::isdigit(static_cast<unsigned char>(name[0]))) continue;
      std::ifstream stat(entry.path() / "stat"), environment(entry.path() / "environ");
      std::string own;
      std::getline(stat, own);
      const std::size_t after = own.rfind(") ");
      if (after == std::string::npos || std::atoi(own.c_str() + after + 4) != launcher) continue;
      for (std::string variable; std::getline(environment, variable, '\0');) {
        if (variable == wanted) return static_cast<pid_t>(std::stol(name));
      }
    }
    return 0;
  }
};

TEST_F(RanksOfAProgram, TrainToTheBytesOfOne) {
  ASSERT_EQ(fokker(with(train("alone"), with(recipe("12"), {"--state", file("alone.state")}))).code, 0);
  for (const int count : {1, 2, 3}) {
    SCOPED_TRACE(count);
    const std::string name = fmt::format("on{}", count);
    const Outcome outcome =
        ranks(count, with(train(name), with(recipe("12"), {"--state", file(name + ".state"), "--json"})));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(Json::parse(outcome.out)["ranks"], count);  // printed once
    for (const char* what : {".safetensors", ".csv", ".state"}) {
      EXPECT_TRUE(get(file(name + what)) == get(file(std::string("alone") + what))) << what;
    }
  }
}

TEST_F(RanksOfAProgram, SayOnceWhatAllOfThemRefuse) {
  expect_one_sentence(ranks(3, with(train("m"), {"--hidden", "0"})), "--hidden");
  expect_one_sentence(ranks(3, {"train", "--data", file("absent.npy"), "--out", file("m.safetensors")}), "absent.npy");
  expect_one_sentence(ranks(2, {"info"}), "started as 2 ranks; allowed with this command: one");
  EXPECT_FALSE(std::filesystem::exists(file("m.safetensors")));
}

TEST_F(RanksOfAProgram, LeaveTheStateWhereOneIsKilled) {
  ASSERT_EQ(fokker(with(train("whole"), recipe("300"))).code, 0);
  const std::string state = file("part.state");
  for (const int rank : {1, 0}) {
    SCOPED_TRACE(rank);
    const Arguments more = rank == 1 ? with(recipe("300"), {"--state", state}) : Arguments{"--resume", state};
    const std::string before = rank == 1 ? "" : get(state);
    const Process process = start_ranks(2, with(train("part"), with(more, {"--save-every", "3"})));
    ASSERT_TRUE(process.wait_until([&] { return std::filesystem::exists(state) && get(state) != before; }));
    const pid_t killed = process_of_rank(process.id(), rank);
    if (killed == 0) GTEST_SKIP() << "the ranks of this MPI are not found";
    ::kill(killed, SIGKILL);
    EXPECT_NE(process.wait().code, 0);
    SafeTensors::load(state);  // whole
    EXPECT_FALSE(std::filesystem::exists(file("part.safetensors")));
  }
  const Outcome outcome = ranks(3, with(train("part"), {"--resume", state}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* what : {".safetensors", ".csv"}) {
    EXPECT_TRUE(get(file(std::string("part") + what)) == get(file(std::string("whole") + what))) << what;
  }
}

// A signal to any rank saves the state, and the first says so.
TEST_F(RanksOfAProgram, AreInterruptedTogether) {
  const std::string state = file("part.state");
  const Process process =
      start_ranks(2, with(train("part"), with(recipe("100000"), {"--state", state, "--save-every", "3"})));
  ASSERT_TRUE(process.wait_until([&] { return std::filesystem::exists(state); }));
  const pid_t interrupted = process_of_rank(process.id(), 1);
  if (interrupted == 0) {
    process.send(SIGTERM);
    process.wait();
    GTEST_SKIP() << "the ranks of this MPI are not found";
  }
  ::kill(interrupted, SIGTERM);
  const Outcome outcome = process.wait();
  expect_one_sentence(outcome, "interrupted after ");
  EXPECT_THAT(outcome.err, HasSubstr("the state is in '" + state + "'"));
  EXPECT_FALSE(std::filesystem::exists(file("part.safetensors")));
}

}  // namespace
}  // namespace fokker::testing
