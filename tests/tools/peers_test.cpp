// bench/peers/run.sh: its help, and the options that it refuses.
#include <string>
#include <utility>
#include <vector>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PeersScript : public CommandLine {};

// Asked for help or the impossible, it answers before it builds or installs anything.
TEST_F(PeersScript, ExplainsItself) {
  const std::string script = FOKKER_SOURCE_FOLDER "/bench/peers/run.sh";
  const Outcome help = start({script, "--help"}).wait();
  EXPECT_EQ(help.code, 0) << help.err;
  for (const char* option : {"--build DIR", "--venv DIR", "--rounds", "--small"}) {
    EXPECT_THAT(help.out, HasSubstr(option));
  }
  const Outcome quality = start({script, "--quality", "--help"}).wait();
  EXPECT_EQ(quality.code, 0) << quality.err;
  for (const char* option : {"--build DIR", "--seeds", "--check", "--columns", "--table"}) {
    EXPECT_THAT(quality.out, HasSubstr(option));
  }
  const Outcome solvers = start({script, "--solvers", "--help"}).wait();
  EXPECT_EQ(solvers.code, 0) << solvers.err;
  EXPECT_THAT(solvers.out, AllOf(HasSubstr("--tolerances"), HasSubstr("scipy-batch")));
  const std::vector<std::pair<Arguments, std::string>> refused{
      {{"--build"}, "--build needs a folder"},
      {{"--venv"}, "--venv needs a folder"},
      {{"--threads", "0"}, "--threads 0"},
      {{"--threads", "many"}, "--threads"},
      {{"--rounds", "0"}, "--rounds 0"},
      {{"--seconds", "-1"}, "--seconds -1"},
      {{"--works", "sleep"}, "sleep"},
      {{"--peers", "abacus"}, "abacus"},
      {{"--quality", "--samples", "0"}, "--samples 0"},
      {{"--quality", "--nets", "abacus"}, "abacus"},
      {{"--quality", "--table", "--name", "not_there"}, "there is no bench/results/not_there.json"},
      {{"--solvers", "--tolerances", "1e-9"}, "--tolerances 1e-09"},
      {{"--solvers", "--alone", "0"}, "--alone 0"},
      {{"--nonsense"}, "--nonsense"}};
  for (const auto& [given, what] : refused) {
    SCOPED_TRACE(fmt::format("{}", fmt::join(given, " ")));
    // Folders that are not there, and must not be made.
    const bool whole = given.size() > 1 || given[0] == "--nonsense";
    const Arguments arguments =
        with(given, whole ? Arguments{"--build", file("build"), "--venv", file("venv")} : Arguments{});
    const Outcome outcome = start(with({script}, arguments)).wait();
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(what));
    EXPECT_FALSE(std::filesystem::exists(file("build")));
    EXPECT_FALSE(std::filesystem::exists(file("venv")));
  }
}

}  // namespace
}  // namespace fokker::testing
