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
#include "mpirun.hpp"
#include "reproduced.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class RanksOfAProgram : public CommandLine {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_ranks(); !why.empty()) GTEST_SKIP() << why;
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

// Samples, densities and fields in files, with what the first rank prints of all.
TEST_F(RanksOfAProgram, WriteTheFilesOfOne) {
  const std::string net = network("net.safetensors", Output::potential), mixture = planar_mixture();
  std::vector<float> x, tx;
  for (int i = 0; i < 23; ++i) {
    const float u = 0.1f * float(i);
    x.insert(x.end(), {u, 1 - u});
    tx.insert(tx.end(), {0.1f + u, u, 1 - u});
  }
  x[7] = 1e6f;  // far out
  save_npy(file("x.npy"), {23, 2}, x.data());
  save_npy(file("tx.npy"), {23, 3}, tx.data());
  const std::string grid = " --grid geometric:9:1e-3 ";
  const auto expect_same = [&](const std::string& command, const std::vector<std::string>& endings) {
    SCOPED_TRACE(command);
    const auto call = [&](const std::string& name) {
      Arguments arguments = words(command + " --json --threads 1");
      std::vector<std::string> options{"--out", "--log-density", "--trajectory"};
      for (std::size_t k = 0; k < endings.size(); ++k) {
        arguments.insert(arguments.end(), {options[k], file(name + fmt::format("_{}", k) + endings[k])});
      }
      return arguments;
    };
    const auto result = [](const Outcome& outcome) {
      EXPECT_EQ(outcome.code, 0) << outcome.err;
      Json json = Json::parse(outcome.out, nullptr, false);
      for (const char* name : {"seconds", "out", "log_density"}) json.erase(name);
      if (json.contains("trajectory") && json["trajectory"].is_object()) json["trajectory"].erase("out");
      return json;
    };
    const Json alone = result(fokker(call("alone")));
    for (const int count : {2, 3}) {
      EXPECT_EQ(result(ranks(count, call("on"))), alone) << count;
      for (std::size_t k = 0; k < endings.size(); ++k) {
        const std::string name = fmt::format("_{}", k) + endings[k];
        EXPECT_TRUE(get(file("on" + name)) == get(file("alone" + name))) << name;
      }
    }
  };
  const std::string sample = "sample --model " + net + grid;
  expect_same(sample + "--samples 23 --seed 4 --first-index 5 --probes 2", {".npy", ".csv", ".npz"});
  expect_same(sample + "--scheme heun --initial " + file("x.npy"), {".csv", ".npy", ".npz"});
  expect_same(sample + "--samples 2 --scheme tsit5 --tolerance 1e-3", {".npy", ".npy"});
  // Paths of few steps are given up, of which the first is named by its number among all.
  expect_same("sample --model " + net + " --samples 23 --scheme tsit5 --tolerance 1e-6 --most-steps 5", {".npy"});
  const std::string density = "density --model " + net + " --points " + file("x.npy");
  expect_same(density + " --paths 9 --steps 8 --bits-per-dim 0", {".safetensors"});
  expect_same(density + grid + "--scheme heun --probes 1 --probe-repeats 2", {".safetensors"});
  expect_same("field --model " + net + " --points " + file("tx.npy") + " --hessian", {".safetensors"});
  // Fewer than ranks.
  save_npy(file("few.npy"), {2, 2}, x.data());
  save_npy(file("few_tx.npy"), {2, 3}, tx.data());
  const std::string few = " --points " + file("few.npy");
  expect_same(sample + "--scheme ddim --initial " + file("few.npy"), {".npy", ".csv", ".npz"});
  expect_same("density --model " + net + few + " --paths 9 --steps 8", {".safetensors"});
  expect_same("density --model " + net + few + grid + "--scheme heun --probes 1", {".csv"});
  expect_same("field --model " + net + " --points " + file("few_tx.npy") + " --hessian", {".safetensors"});
  Architecture a;
  a.hidden = {9};
  a.activation = Activation::silu, a.output = Output::score;
  a.condition = {{{5, {Activation::mish, 1}, false}}, {0}, {}, 3};
  save_model(file("given.safetensors"), {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(a, 3)});
  for (const char* conditions : {"tx.npy", "few_tx.npy"}) {
    expect_same("sample --model " + file("given.safetensors") + grid + "--scheme heun --condition " + file(conditions),
                {".npy"});
  }
  expect_one_sentence(ranks(2, with(words(sample), {"--out", file("y.npy"), "--rank", "0/2"})),
                      "--rank 0/2 given to one of 2 ranks of MPI");
}

// Each rank has a command line of its own, as where machines have files of other contents.
TEST_F(RanksOfAProgram, DoOnePieceOfWork) {
  const std::string net = network("net.safetensors", Output::potential);
  Architecture architecture;
  architecture.hidden = {17, 9}, architecture.beta = 5;
  save_model(file("other.safetensors"), {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(architecture, 4)});
  const auto apart = [&](const std::string& tool, const Arguments& first, const Arguments& second) {
    const Arguments both = with(with({FOKKER_MPIRUN, "-n", "2", tool}, first), with({":", "-n", "1", tool}, second));
    return start(both).wait();
  };
  const auto expect_refused_apart = [&](const std::string& command, const std::string& more, const std::string& other) {
    SCOPED_TRACE(command);
    const std::string model = command + " --threads 1 --model ";
    for (const auto& [first, second] : {std::pair(model + net + more, model + file("other.safetensors") + more),
                                        std::pair(model + net + more, model + net + other)}) {
      expect_one_sentence(apart(fokker_tool, words(first), words(second)),
                          "rank 2 of 3 was given another call than rank 0");
    }
  };
  save_npy(file("x.npy"), {3, 2}, std::vector<float>{0, 1, 2, 3, 4, 5}.data());
  save_npy(file("tx.npy"), {2, 3}, std::vector<float>{0, 1, 2, 1, 4, 5}.data());
  const std::string out = " --out " + file("x.csv"), tensors = " --out " + file("f.safetensors"),
                    points = " --points " + file("x.npy"), tx = " --points " + file("tx.npy");
  expect_refused_apart("sample --samples 9 --grid uniform:3", out, out + " --seed 1");
  expect_refused_apart("density --paths 9 --steps 8", points + out, points + out + " --time 0.5");
  expect_refused_apart("field", tx + tensors, tx + tensors + " --hessian");
  expect_refused_apart("gap --samples 99 --grid uniform:3", " --data blob", " --data checker");
  for (const char* name : {"x.csv", "f.safetensors"}) EXPECT_FALSE(std::filesystem::exists(file(name)));
  const Arguments study = words(
      "--preset smoke --iterations 3 --samples 200 --grid geometric:30:1e-2 --data blob --weights 0 --threads 1 "
      "--out " +
      file("out"));
  const Outcome refused = apart(REPRODUCE_TOOL, study, with(study, {"--seed", "1"}));
  EXPECT_NE(refused.code, 0);
  EXPECT_THAT(refused.err, HasSubstr("reproduce: rank 2 of 3 was given another reproduction than rank 0"));
}

// A launcher whose processes this build's MPI does not see, or which has none.
TEST_F(CommandLine, OfSeveralRanksIsNoneOfSeveralCopies) {
  const Arguments sample{"sample", "--model",   planar_mixture(), "--samples",  "9",
                         "--grid", "uniform:3", "--out",          file("x.npy")};
  for (const auto& [rank, size] : {std::pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
                                   std::pair("PMI_RANK", "PMI_SIZE"), std::pair("PMIX_RANK", "SLURM_STEP_NUM_TASKS")}) {
    ::setenv(rank, "0", 1);
    ::setenv(size, "2", 1);
    expect_refused(sample, "started as one of 2 ranks by a launcher, ");
    ::setenv(size, "1", 1);
    EXPECT_EQ(fokker(sample).code, 0);
    ::unsetenv(rank);
    ::setenv(size, "2", 1);  // alone, as where srun starts processes without MPI, it says nothing
    EXPECT_EQ(fokker(sample).code, 0);
    ::unsetenv(size);
  }
}

TEST_F(RanksOfAProgram, MeasureTheGapOfOne) {
  const std::string model = planar_mixture(), spatial = mixture_3d();
  const auto gap = [&](const Outcome& outcome) {
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    Json json = Json::parse(outcome.out, nullptr, false);
    json.erase("seconds");
    for (Json& of : json["along_eta"]) of.erase("seconds");
    return json;
  };
  const Arguments planar{"gap",   "--model", model,           "--data", model,         "--samples",
                         "997",   "--grid",  "uniform:9:0.1", "--json", "--nodes",     "24",
                         "--eta", "0.5,1",   "--threads",     "1",      "--histograms"},
      in_space{"gap", "--model", spatial, "--data", spatial, "--samples", "101", "--json", "--threads", "1"};
  const Json alone = gap(fokker(with(planar, {file("alone")}))), alone_in_space = gap(fokker(in_space));
  EXPECT_GT(alone["w2_squared"]["ode_sde"].get<double>(), 0);
  for (const int count : {2, 3}) {
    EXPECT_EQ(gap(ranks(count, with(planar, {file("on")}))), alone);
    for (const char* name : {"ode", "sde", "truth"}) {
      EXPECT_TRUE(get(file(fmt::format("on/{}.npy", name))) == get(file(fmt::format("alone/{}.npy", name))));
    }
    EXPECT_EQ(gap(ranks(count, in_space)), alone_in_space);
  }
  expect_one_sentence(ranks(2, with(in_space, {"--grid", "file:" + file("none.npy")})), "none.npy");
}

// More ranks than runs train and sample a run together.
TEST_F(RanksOfAProgram, ReproduceTheFolderOfOne) {
  const Arguments preset = words(
      "--preset smoke --iterations 3 --samples 200 --grid geometric:30:1e-2 --eta 0.5 --data blob --weights 0,0.1,1 "
      "--threads 1 --out");
  ASSERT_EQ(start(with({REPRODUCE_TOOL}, with(preset, {file("alone")}))).wait().code, 0);
  const auto alone = results_in(file("alone"));
  for (const int count : {2, 5}) {
    SCOPED_TRACE(count);
    const std::string out = file(fmt::format("on{}", count));
    const Outcome outcome =
        start(with({FOKKER_MPIRUN, "-n", std::to_string(count), REPRODUCE_TOOL}, with(preset, {out}))).wait();
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.out.find("blob: "), outcome.out.rfind("blob: "));  // said once
    const auto shared = results_in(out);
    EXPECT_EQ(shared.size(), alone.size());
    for (const auto& [name, bytes] : alone) {
      EXPECT_TRUE(shared.contains(name) && shared.at(name) == bytes) << name;
    }
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

// As by Ctrl-C: mpirun passes SIGTERM on, and SIGKILL after a time that it waits for each rank in any case.
TEST_F(RanksOfAProgram, SaveWhereTheirLauncherIsInterrupted) {
  ::setenv("OMPI_MCA_odls_base_sigkill_timeout", "5", 1);
  const std::string state = file("part.state");
  const Process process =
      start_ranks(2, with(train("part"), with(recipe("1000000"), {"--state", state, "--save-every", "999999"})));
  ASSERT_TRUE(process.wait_for(file("part.csv")));
  process.send(SIGINT);
  EXPECT_NE(process.wait().code, 0);
  ASSERT_TRUE(std::filesystem::exists(state));
  SafeTensors::load(state);
  EXPECT_FALSE(std::filesystem::exists(file("part.safetensors")));
  ::unsetenv("OMPI_MCA_odls_base_sigkill_timeout");
}

}  // namespace
}  // namespace fokker::testing
