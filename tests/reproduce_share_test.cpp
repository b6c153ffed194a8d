// Several processes that reproduce in one folder: each run is done once, what is left is listed, what is there gathered.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <span>
#include <string>
#include <vector>

#include "fokker/fokker.hpp"
#include "reproduced.hpp"
#include "reproduction.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using namespace testing;
using Json = nlohmann::json;

// Six runs, a fraction of a second each.
std::string call_in(const std::string& out, const std::string& options = "", int iterations = 3) {
  return fmt::format(
      "{} --preset smoke --iterations {} --samples 200 --grid geometric:30:1e-2 --data blob --weights 0,1 --seeds 3 "
      "--threads 1 --out {} {}",
      reproduce_tool, iterations, out, options);
}

const std::vector<std::string> all_runs{"blob_softplus20_w0_s0", "blob_softplus20_w0_s1", "blob_softplus20_w0_s2",
                                        "blob_softplus20_w1_s0", "blob_softplus20_w1_s1", "blob_softplus20_w1_s2"};

// Trainings that a call began, which each show a line of the progress.
std::map<std::string, int> trainings_in(const std::string& messages) {
  std::map<std::string, int> begun;
  const std::regex line("\\] ([^\\n]*): training: 0 %");
  for (auto at = std::sregex_iterator(messages.begin(), messages.end(), line); at != std::sregex_iterator(); ++at) {
    ++begun[(*at)[1]];
  }
  return begun;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    lines.push_back(text.substr(begin, end - begin));
  }
  return lines;
}

// The same as of one call, but for `threads`, which may differ, and the messages of the processes.
void expect_as_of_one_call(const std::string& out, const std::string& one) {
  const auto there = results_in(out), expected = results_in(one);
  std::vector<std::string> names, expected_names;
  for (const auto& [name, bytes] : there) names.push_back(name);
  for (const auto& [name, bytes] : expected) expected_names.push_back(name);
  EXPECT_EQ(names, expected_names);
  for (const auto& [name, bytes] : expected) {
    EXPECT_TRUE(there.contains(name) && there.at(name) == bytes) << name;
  }
}

TEST(SharedReproduction, TwoCallsDoEachRunOnce) {
  const Scratch scratch, a, b;
  ASSERT_EQ(run(a, call_in(scratch / "one")).code, 0);
  const Process first(a.folder(), call_in(scratch / "out")), second(b.folder(), call_in(scratch / "out"));
  const Outcome outcomes[] = {first.wait(), second.wait()};
  std::map<std::string, int> begun;
  for (const Outcome& outcome : outcomes) {
    // Whichever ends first may leave the other's last run undone, and says so.
    if (outcome.code != 0) {
      EXPECT_THAT(outcome.err, HasSubstr("of 6 runs not finished"));
    }
    for (const auto& [title, count] : trainings_in(outcome.err)) begun[title] += count;
  }
  EXPECT_TRUE(outcomes[0].code == 0 || outcomes[1].code == 0) << outcomes[0].err << outcomes[1].err;
  EXPECT_EQ(begun.size(), 6u) << outcomes[0].err << outcomes[1].err;
  for (const auto& [title, count] : begun) EXPECT_EQ(count, 1) << title;
  expect_as_of_one_call(scratch / "out", scratch / "one");
}

// A process is stopped in the midst of a run: others do all but that, name it, and do it once it is killed.
TEST(SharedReproduction, ARunOfAnotherIsLeftAloneUntilThatEnds) {
  const Scratch scratch, streams;
  const std::string long_run = fmt::format(
      "{} --preset smoke --samples 200 --grid geometric:30:1e-2 --data blob --weights 0,1 --threads 1 --out {}",
      reproduce_tool, scratch / "out");
  const Process process(streams.folder(), long_run + " --run blob_softplus20_w0_s0");
  ASSERT_TRUE(process.wait_for(scratch / "out/blob_softplus20_w0_s0/log.csv"));
  process.send(SIGSTOP);

  const Outcome beside = run(scratch, long_run);
  EXPECT_EQ(beside.code, 1);
  EXPECT_THAT(beside.err,
              AllOf(HasSubstr("blob, w_R = 0: skipped, process"), HasSubstr("blob_softplus20_w0_s0 is in progress: "),
                    HasSubstr("reproduce: 1 of 2 runs not finished")));
  EXPECT_EQ(trainings_in(beside.err), (std::map<std::string, int>{{"blob, w_R = 1", 1}}));
  const Json results = Json::parse(get(scratch / "out/results.json"));
  EXPECT_EQ(results["finished"], false);
  ASSERT_EQ(results["runs"].size(), 1u);
  EXPECT_EQ(results["runs"][0]["folder"], "blob_softplus20_w1_s0");
  // What another does is neither listed nor, by a call that only gathers, missing.
  const Outcome list = run(scratch, long_run + " --list");
  EXPECT_EQ(list.code, 0);
  EXPECT_THAT(list.out, IsEmpty());
  EXPECT_THAT(list.err, HasSubstr("blob_softplus20_w0_s0 is in progress: process"));
  const Outcome gathered = run(scratch, long_run + " --gather");
  EXPECT_EQ(gathered.code, 1);
  EXPECT_THAT(gathered.err, AllOf(HasSubstr("blob_softplus20_w0_s0 is in progress"), Not(HasSubstr("missing"))));
  EXPECT_EQ(run(scratch, long_run + " --run blob_softplus20_w1_s0").code, 0);

  process.send(SIGKILL);
  process.wait();
  const Outcome killed = run(scratch, long_run + " --gather");
  EXPECT_EQ(killed.code, 1);
  EXPECT_THAT(killed.err, AllOf(HasSubstr("blob_softplus20_w0_s0 is missing"), HasSubstr("1 of 2 runs not finished")));
  EXPECT_THAT(run(scratch, long_run + " --list").out, HasSubstr("--run blob_softplus20_w0_s0\n"));
  const Outcome last = run(scratch, long_run);
  EXPECT_EQ(last.code, 0) << last.err;
  EXPECT_EQ(trainings_in(last.err).size(), 1u);
  EXPECT_EQ(Json::parse(get(scratch / "out/results.json"))["finished"], true);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(scratch / "out")) {
    EXPECT_NE(entry.path().extension(), ".lock") << entry.path();
  }
}

// results.json is one for all: runs are done while another process has it, and a call waits for it at its end alone.
TEST(SharedReproduction, RunsDoNotWaitForResults) {
  const Scratch scratch, streams;
  const std::string out = scratch / "out";
  ASSERT_EQ(run(scratch, call_in(out, "--run blob_softplus20_w0_s0")).code, 0);
  const std::string name = "results.json";
  const std::string path = fmt::format("{}/.fokker-{:016x}.lock", out, hash_bytes(std::as_bytes(std::span(name))));
  const int lock = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  ASSERT_EQ(::flock(lock, LOCK_EX | LOCK_NB), 0);
  const Process process(streams.folder(), call_in(out));
  for (const std::string& run : all_runs) EXPECT_TRUE(process.wait_for(out + "/" + run + "/gap.json")) << run;
  EXPECT_EQ(Json::parse(get(out + "/results.json"))["runs"].size(), 1u);
  ::close(lock);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(get(out + "/results.json"))["finished"], true);
}

TEST(SharedReproduction, TheCommandsOfAListDoWhatOneCallDoes) {
  const Scratch scratch;
  ASSERT_EQ(run(scratch, call_in(scratch / "one")).code, 0);
  const std::string out = scratch / "a folder's name";
  const std::string quoted = "'" + std::regex_replace(out, std::regex("'"), "'\\''") + "'";
  const Outcome list = run(scratch, call_in(quoted, "--list"));
  EXPECT_EQ(list.code, 0) << list.err;
  EXPECT_FALSE(std::filesystem::exists(out));
  const std::vector<std::string> commands = lines_of(list.out);
  ASSERT_EQ(commands.size(), 6u) << list.out;
  put(scratch / "commands", list.out);
  ASSERT_EQ(std::system(fmt::format("xargs -d '\\n' -P 2 -n 1 sh -c < {} > /dev/null 2> {}", scratch / "commands",
                                    scratch / "messages")
                            .c_str()),
            0)
      << get(scratch / "messages");
  EXPECT_THAT(run(scratch, call_in(quoted, "--list")).out, IsEmpty());
  std::filesystem::remove(out + "/results.json");
  const Outcome gathered = run(scratch, call_in(quoted, "--gather"));
  EXPECT_EQ(gathered.code, 0) << gathered.err;
  EXPECT_THAT(gathered.out, HasSubstr("blob: "));
  expect_as_of_one_call(out, scratch / "one");
  // Of a rank's runs those that are missing.
  std::filesystem::remove(out + "/blob_softplus20_w1_s1/gap.json");
  EXPECT_EQ(lines_of(run(scratch, call_in(quoted, "--list")).out).size(), 1u);
  EXPECT_EQ(lines_of(run(scratch, call_in(quoted, "--list --rank 0/2")).out).size() +
                lines_of(run(scratch, call_in(quoted, "--rank=1/2 --list")).out).size(),
            1u);
}

TEST(SharedReproduction, RanksTakePartsOfEqualCost) {
  const Scratch scratch;
  ASSERT_EQ(run(scratch, call_in(scratch / "one")).code, 0);
  const Outcome first = run(scratch, call_in(scratch / "out", "--rank 1/2"));
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(trainings_in(first.err).size(), 3u);
  EXPECT_EQ(Json::parse(get(scratch / "out/results.json"))["finished"], false);
  const std::string slurm = "env SLURM_PROCID=0 SLURM_NTASKS=2 ";
  const Outcome second = run(scratch, slurm + call_in(scratch / "out", "--rank slurm"));
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(trainings_in(second.err).size(), 3u);
  expect_as_of_one_call(scratch / "out", scratch / "one");
  // One without a run has nothing to do.
  const Outcome none = run(scratch, call_in(scratch / "out", "--rank 6/7"));
  EXPECT_EQ(none.code, 0) << none.err;

  expect_refusal(run(scratch, call_in(scratch / "out", "--rank slurm")), "SLURM_PROCID and SLURM_NTASKS");
  expect_refusal(run(scratch, call_in(scratch / "out", "--rank 2/2")), "2/2' given; allowed: I/R", 2);
  expect_refusal(run(scratch, call_in(scratch / "out", "--run blob")), "--run 'blob' given; allowed: one of the 6 runs",
                 2);
}

// A run that failed fails the call that was to do it, and no other.
TEST(SharedReproduction, AFailedRunIsOfTheCallThatDoesIt) {
  const Scratch scratch;
  ASSERT_EQ(run(scratch, call_in(scratch / "out")).code, 0);
  const std::string folder = scratch / "out/blob_softplus20_w1_s2/";
  std::filesystem::remove(folder + "model.safetensors");
  put(folder + "failed.json", R"({"failed": "the loss is not finite"})");
  EXPECT_THAT(run(scratch, call_in(scratch / "out", "--list")).out, IsEmpty());
  EXPECT_EQ(run(scratch, call_in(scratch / "out", "--run blob_softplus20_w1_s1")).code, 0);
  EXPECT_THAT(run(scratch, call_in(scratch / "out", "--run blob_softplus20_w1_s2")).err,
              HasSubstr("reproduce: 1 of 1 run failed"));
  EXPECT_THAT(run(scratch, call_in(scratch / "out", "--gather")).err, HasSubstr("reproduce: 1 of 6 runs failed"));
}

}  // namespace
}  // namespace fokker
