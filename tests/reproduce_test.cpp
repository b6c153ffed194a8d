// The reproduction as its users see it: what the second call refuses, how it words what is not the usual case, and,
// among the tests labelled slow, what it is there to show. The executables and scripts are run as processes.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fokker/fokker.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;
using testing::get;
using testing::put;
using testing::Scratch;

const std::string reproduce_tool = REPRODUCE_TOOL, tools_folder = FOKKER_TOOLS_FOLDER;

struct Outcome {
  int code;
  std::string out, err;
};

// A command of a POSIX shell; words need no quotes here.
Outcome run(const Scratch& scratch, const std::string& command) {
  const std::string out = scratch / "stdout.txt", err = scratch / "stderr.txt";
  const int status = std::system(fmt::format("{} > '{}' 2> '{}'", command, out, err).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, get(out), get(err)};
}

// The cheapest run there is, a second.
Outcome reproduce(const Scratch& scratch, const std::string& data, const std::string& weights = "0,1",
                  int iterations = 3, const std::string& options = "") {
  return run(scratch, fmt::format("{} --preset smoke --iterations {} --samples 200 --grid geometric:30:1e-2 --data {} "
                                  "--weights {} --out {} {}",
                                  reproduce_tool, iterations, data, weights, scratch / "out", options));
}

// As if the two runs there had left these distances between the samplers, with that share of the ODE's samples lost.
void put_gaps(const Scratch& scratch, const std::string& data, double escaped) {
  for (const auto& [weight, ode_sde] : {std::pair(0, 3.5), std::pair(1, 0.5)}) {
    const std::string path = scratch / fmt::format("out/{}_softplus20_w{}_s0/gap.json", data, weight);
    Json gap = Json::parse(get(path));
    gap["w2_squared"] = {{"ode_sde", ode_sde}, {"ode_truth", 1}, {"sde_truth", 1}};
    gap["escaped"] = {{"ode", escaped}, {"sde", 0}};
    put(path, gap.dump());
  }
}

void expect_refusal(const Outcome& outcome, const std::string& what) {
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, ::testing::IsEmpty());
  EXPECT_THAT(outcome.err, AllOf(::testing::StartsWith("reproduce: "), HasSubstr(what)));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

void put_mixture(const std::string& path, double mean) {
  put(path, fmt::format(R"({{"weights": [1], "means": [[{}, 0]], "covariances": [0.1]}})", mean));
}

// Whether the report can be made here, which takes a Python with its packages.
bool can_report() {
  return std::system(
             "python3 -c 'import numpy, matplotlib.pyplot' 2> /dev/null || "
             "/usr/bin/python3 -c 'import numpy, matplotlib.pyplot' 2> /dev/null") == 0;
}

std::string report(const Scratch& scratch) {
  const Outcome outcome = run(scratch, fmt::format("python3 {}/report.py {}", tools_folder, scratch / "out"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  // Without the figures, which are long.
  std::string page = get(scratch / "out/report.html");
  for (std::size_t at; (at = page.find("data:image")) != std::string::npos;) page.erase(at, page.find('"', at) - at);
  return page;
}

TEST(Reproduction, RefusesDataChangedUnderOneName) {
  const Scratch scratch;
  const std::string mixture = scratch / "mixture.json", samples = scratch / "samples.npy";
  put_mixture(mixture, 0.5);
  ASSERT_EQ(reproduce(scratch, mixture, "0").code, 0);
  const std::string model = get(scratch / "out/mixture_softplus20_w0_s0/model.safetensors");
  put_mixture(mixture, 0.75);
  expect_refusal(reproduce(scratch, mixture, "0"), "data_contents");
  EXPECT_EQ(get(scratch / "out/mixture_softplus20_w0_s0/model.safetensors"), model);
  put_mixture(mixture, 0.5);
  EXPECT_EQ(reproduce(scratch, mixture, "0").code, 0);

  std::vector<float> values{0.5f, 1, -1, 0.25f};
  save_npy(samples, {2, 2}, values.data());
  ASSERT_EQ(reproduce(scratch, samples, "0").code, 0);
  values[3] = 0.5f;
  save_npy(samples, {2, 2}, values.data());
  expect_refusal(reproduce(scratch, samples, "0"), "data_contents");
}

TEST(Reproduction, ANoiseFloorOfZeroDividesNothing) {
  const Scratch scratch;
  const float point[2] = {0.5f, -0.25f};
  save_npy(scratch / "point.npy", {1, 2}, point);
  ASSERT_EQ(reproduce(scratch, scratch / "point.npy").code, 0);
  put_gaps(scratch, "point", 0);
  const Outcome outcome = reproduce(scratch, scratch / "point.npy");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(get(scratch / "out/results.json"))["runs"][0]["gap"]["noise_floor"], 0.0);
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("with a noise floor of 0"), Not(HasSubstr("inf")), Not(HasSubstr("nan"))));
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("the ODE–SDE gap"), Not(HasSubstr("noise floors"))));
}

TEST(Reproduction, DataThatAreNotPlanarHaveSlicedDistances) {
  const Scratch scratch;
  put(scratch / "spatial.json", R"({"weights": [1], "means": [[0.5, 0, -1]], "covariances": [0.1]})");
  const Outcome spatial = reproduce(scratch, scratch / "spatial.json");
  ASSERT_EQ(spatial.code, 0) << spatial.err;
  EXPECT_THAT(spatial.out, HasSubstr("noise floors"));
  const Json gap = Json::parse(get(scratch / "out/results.json"))["runs"][0]["gap"];
  EXPECT_TRUE(gap["w2_squared"].is_null());
  EXPECT_TRUE(gap["sliced_w2_squared"]["ode_sde"].is_number());
  const Outcome both = reproduce(scratch, (scratch / "spatial.json") + ",blob");
  ASSERT_EQ(both.code, 0) << both.err;
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), HasSubstr("W₂² of 200 samples each; the sliced distance where the data are not planar"));
  ASSERT_EQ(reproduce(scratch, scratch / "spatial.json").code, 0);
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("Sliced W₂² of 200 samples"), Not(HasSubstr("Grid bias"))));
}

TEST(Reproduction, ResultsOfAnotherVersionAreMeasuredAgainAndThoseEditedByHandRefused) {
  const Scratch scratch;
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  const std::string gap_file = scratch / "out/blob_softplus20_w0_s0/gap.json",
                    training_file = scratch / "out/blob_softplus20_w0_s0/training.json";
  const Json gap = Json::parse(get(gap_file));
  Json earlier = gap;
  earlier["gap_version"] = 0;
  earlier["w2_squared"] = nullptr;
  put(gap_file, earlier.dump());
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  EXPECT_EQ(Json::parse(get(gap_file))["w2_squared"], gap["w2_squared"]);

  for (const char* text : {R"({"seconds": null})", R"({"iterations": 3})", "[]", "{"}) {
    SCOPED_TRACE(text);
    put(training_file, text);
    expect_refusal(reproduce(scratch, "blob", "0"), training_file);
  }
}

TEST(Reproduction, TwoRunsNeedFoldersOfTheirOwn) {
  const Scratch scratch;
  expect_refusal(reproduce(scratch, "blob", "0,1,0"), "blob_softplus20_w0_s0'; allowed: weights that differ");
}

TEST(Reproduction, FilesOfOthersStay) {
  const Scratch scratch;
  std::filesystem::create_directory(scratch / "out");
  for (const char* text : {R"({"losses": []})", "[1]", "not JSON"}) {
    SCOPED_TRACE(text);
    put(scratch / "out/results.json", text);
    expect_refusal(reproduce(scratch, "blob", "0"), scratch / "out/results.json");
    EXPECT_EQ(get(scratch / "out/results.json"), text);
  }
}

TEST(Reproduction, AModelIsReportedUnderItsOwnRecipe) {
  const Scratch scratch;
  ASSERT_EQ(reproduce(scratch, "blob").code, 0);
  const std::string folder = scratch / "out/blob_softplus20_w0_s0/", model_file = folder + "model.safetensors",
                    recipe = get(folder + "recipe.json"), model = get(model_file);
  std::filesystem::remove(folder + "recipe.json");
  expect_refusal(reproduce(scratch, "blob"), "model.safetensors and no recipe.json");
  std::filesystem::rename(model_file, folder + "state.safetensors");
  expect_refusal(reproduce(scratch, "blob"), "state.safetensors and no recipe.json");
  std::filesystem::remove(folder + "state.safetensors");
  put(folder + "recipe.json", recipe);

  put(model_file, get(scratch / "out/blob_softplus20_w1_s0/model.safetensors"));
  expect_refusal(reproduce(scratch, "blob"), "was not trained by the recipe.json beside it");

  std::filesystem::remove(model_file);
  const DataSet blob = DataSet::named("blob");
  Trainer(Context(), {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(Architecture{}, 0)}, blob, {})
      .save_state(folder + "state.safetensors");
  const Outcome other_state = reproduce(scratch, "blob");
  EXPECT_EQ(other_state.code, 1);
  EXPECT_THAT(other_state.err, HasSubstr("state.safetensors' is the state of another recipe (architecture.beta: 100"));
  std::filesystem::remove(folder + "state.safetensors");

  // Other parameters under the same recipe are measured anew.
  put(model_file, model);
  const Json before = Json::parse(get(folder + "gap.json"));
  Model other = load_model(model_file);
  std::get<Mlp>(other.network).parameters.front() += 0.5;
  save_model(model_file, other, {{"training", SafeTensors::load(model_file).metadata.at("training")}});
  ASSERT_EQ(reproduce(scratch, "blob").code, 0);
  const Json after = Json::parse(get(folder + "gap.json"));
  EXPECT_NE(after["model_contents"], before["model_contents"]);
  EXPECT_NE(after["residual"], before["residual"]);
}

TEST(Reproduction, MeasuresAgainWhereTheTimesChanged) {
  const Scratch scratch;
  const auto reproduce_on = [&](const std::vector<double>& times) {
    save_npy(scratch / "times.npy", {std::ssize(times)}, times.data());
    const Outcome outcome = run(scratch, fmt::format("{} --preset smoke --iterations 3 --samples 200 --weights 0 "
                                                     "--data blob --grid file:{} --out {}",
                                                     reproduce_tool, scratch / "times.npy", scratch / "out"));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return std::filesystem::last_write_time(scratch / "out/blob_softplus20_w0_s0/gap.json");
  };
  const auto first = reproduce_on({10, 1, 0.1}), again = reproduce_on({10, 1, 0.1}), other = reproduce_on({10, 2, 0.1});
  EXPECT_EQ(first, again);
  EXPECT_NE(again, other);
}

TEST(Reproduction, HistogramsThatAreGoneAreMadeAgain) {
  const Scratch scratch;
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  for (const char* name : {"ode.npy", "sde.npy", "truth.npy"}) {
    const std::string path = scratch / fmt::format("out/blob_softplus20_w0_s0/{}", name), bytes = get(path);
    std::filesystem::remove(path);
    ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
    EXPECT_EQ(get(path), bytes);
  }
}

TEST(Reproduction, FewSamplesLeftCompareWithNoNoiseFloor) {
  const Scratch scratch;
  const Outcome lost = reproduce(scratch, "blob");  // so little training throws every sample out of the box
  ASSERT_EQ(lost.code, 0) << lost.err;
  EXPECT_THAT(lost.out, AllOf(Not(HasSubstr("nan")), Not(HasSubstr("noise floors"))));
  EXPECT_THAT(lost.err, HasSubstr("all 200 samples of the ODE in 'blob_softplus20_w0_s0' are outside the box"));
  const bool reported = can_report();
  if (reported) {
    EXPECT_THAT(report(scratch), HasSubstr("no distance between the samplers"));
  }

  for (const double escaped : {0.04, 0.97}) {
    SCOPED_TRACE(escaped);
    put_gaps(scratch, "blob", escaped);
    const Outcome outcome = reproduce(scratch, "blob");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const bool few = escaped > 0.5;
    const auto expected = few ? HasSubstr("of 200 samples as few as 6 were left, so that no noise floor compares")
                              : HasSubstr("noise floors");
    EXPECT_THAT(outcome.out, AllOf(expected, HasSubstr("gap falls from 3.5")));
    if (reported) {
      EXPECT_THAT(report(scratch), expected);
    }
  }
}

// A state whose next loss is not finite, as a training that diverges leaves it: that run is recorded as failed, the
// others go on, and a second call tries it no more.
TEST(Reproduction, GoesOnWhereOneRunDiverges) {
  const Scratch scratch;
  const auto call = [&] { return reproduce(scratch, "blob", "0,1", 3, "--seeds 2"); };
  ASSERT_EQ(call().code, 0);
  for (const std::uint64_t seed : {0, 1}) {
    const std::string folder = scratch / fmt::format("out/blob_softplus20_w0_s{}/", seed);
    for (const char* name : {"model.safetensors", "training.json"}) std::filesystem::remove(folder + name);
    Architecture architecture;
    architecture.beta = 20;
    Mlp network = Mlp::initialise(architecture, seed);
    for (double& parameter : network.parameters) parameter = 1e30;
    TrainOptions options;
    options.iterations = 3;
    options.denoising_points = 1024;
    options.collocation_points = 256;
    options.seed = seed;
    Trainer(Context(), {ForwardSde::defaults(SdeKind::ou), network}, DataSet::named("blob"), options)
        .save_state(folder + "state.safetensors");
  }
  std::string results_before;
  for (int k = 0; k < 2; ++k) {
    SCOPED_TRACE(k);
    const Outcome outcome = call();
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err, HasSubstr("reproduce: 2 of 4 runs failed"));
    const std::string text = get(scratch / "out/results.json");
    const Json results = Json::parse(text);
    EXPECT_EQ(results["finished"], true);
    ASSERT_EQ(results["runs"].size(), 4u);
    for (const Json& entry : results["runs"]) {
      const bool failed = entry["residual_weight"] == 0;
      EXPECT_EQ(entry.contains("failed"), failed);
      EXPECT_EQ(entry.contains("gap"), !failed);
      EXPECT_GT(entry["training"]["seconds"].get<double>(), 0);  // which the sum has too
    }
    EXPECT_THAT(results["runs"][0]["failed"].get<std::string>(), HasSubstr("finite"));
    ASSERT_EQ(results["summary"].size(), 1u);
    EXPECT_EQ(results["summary"][0]["residual_weight"], 1);
    // The time is that of the parts, whichever call did them.
    EXPECT_GT(results["seconds"].get<double>(), 0);
    if (k == 1) {
      EXPECT_EQ(text, results_before);
    }
    results_before = text;
  }
  const std::string folder = scratch / "out/blob_softplus20_w0_s0/";
  EXPECT_FALSE(std::filesystem::exists(folder + "model.safetensors"));
  if (can_report()) {
    EXPECT_THAT(report(scratch), AllOf(HasSubstr("2 runs failed"), HasSubstr("finite")));
  }
  put(folder + "failed.json", "{}");
  expect_refusal(call(), "failed.json' has no text \"failed\"");
  // Without its folder it trains again, from the beginning.
  std::filesystem::remove_all(folder);
  EXPECT_THAT(call().err, HasSubstr("reproduce: 1 of 4 runs failed"));
  EXPECT_TRUE(std::filesystem::exists(folder + "model.safetensors"));
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
}

// Interrupted, so that there is a state to go on from, then killed at work: the third call ends with the bits of a
// single one, and the time of the training is the sum of what was recorded.
TEST(Reproduction, AKilledTrainingEndsWithTheSameBits) {
  const Scratch scratch;
  const auto command = [&](const char* out) {
    return fmt::format("{} --preset smoke --iterations 300 --samples 200 --grid geometric:20:1e-2 --weights 1 --out {}",
                       reproduce_tool, scratch / out);
  };
  const std::string folder = scratch / "out/circles2_softplus20_w1_s0/", log = folder + "log.csv",
                    model = folder + "model.safetensors";
  // Ends the command by a signal once it has written records.
  const auto end_by = [&](int signal) {
    const auto written = [&] {
      std::error_code none;
      const auto time = std::filesystem::last_write_time(log, none);
      return none ? std::filesystem::file_time_type::min() : time;
    };
    const auto before = written();
    const pid_t child = ::fork();
    if (child == 0) {
      ::execl("/bin/sh", "sh", "-c", ("exec " + command("out") + " > /dev/null 2>&1").c_str(), nullptr);
      ::_exit(127);
    }
    int status = 0;
    while (written() == before && ::waitpid(child, &status, WNOHANG) == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ::kill(child, signal);
    ::waitpid(child, &status, 0);
    EXPECT_FALSE(std::filesystem::exists(model)) << "the training ended before it could be stopped";
    return status;
  };
  const int interrupted = end_by(SIGTERM);
  ASSERT_TRUE(WIFEXITED(interrupted));
  EXPECT_EQ(WEXITSTATUS(interrupted), 1);
  ASSERT_TRUE(std::filesystem::exists(folder + "state.safetensors"));
  const double before = Json::parse(get(folder + "training.json"))["seconds"];
  EXPECT_GT(before, 0);
  const int killed = end_by(SIGKILL);
  ASSERT_TRUE(WIFSIGNALED(killed));

  const Outcome last = run(scratch, command("out")), single = run(scratch, command("single"));
  ASSERT_EQ(last.code, 0) << last.err;
  ASSERT_EQ(single.code, 0) << single.err;
  const Json training = Json::parse(get(folder + "training.json"));
  EXPECT_GT(training["first_iteration"], 0);
  EXPECT_GT(training["seconds"].get<double>(), before);
  for (const char* name : {"model.safetensors", "log.csv", "ode.npy", "sde.npy"}) {
    EXPECT_EQ(get(folder + name), get(scratch / fmt::format("single/circles2_softplus20_w1_s0/{}", name))) << name;
  }
}

// Killed once a part of the SDE's samples is kept: the next call goes on from there to the same results.
TEST(Reproduction, AKilledSamplingEndsWithTheSameResults) {
  const Scratch scratch;
  const auto command = [&](const char* out) {
    return fmt::format("{} --preset smoke --iterations 3 --samples 40000 --grid geometric:40:1e-2 --weights 1 --out {}",
                       reproduce_tool, scratch / out);
  };
  const std::string folder = scratch / "out/circles2_softplus20_w1_s0/", kept = folder + "samples.safetensors";
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl("/bin/sh", "sh", "-c", ("exec " + command("out") + " > /dev/null 2>&1").c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  while (!std::filesystem::exists(kept) && ::waitpid(child, &status, WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  ASSERT_FALSE(std::filesystem::exists(folder + "gap.json")) << "the sampling ended before it could be stopped";
  // Time that was spent is not spent again; a mark on it shows that what was kept was used.
  SafeTensors state = SafeTensors::load(kept);
  const double progress[] = {state.at("sde.progress.0").to_double().front(), 1e6};
  EXPECT_GT(progress[0], 0);
  EXPECT_LT(progress[0] + state.at("ode.progress.0").to_double().front(), 2 * 40000);
  state.tensors["sde.progress.0"] = Tensor::from_double({2}, progress);
  state.save(kept);
  // What another backend, instruction set or version kept is not gone on with.
  Json work = Json::parse(state.metadata.at("work"));
  EXPECT_EQ(work["version"], version());
  EXPECT_EQ(work["backend"], Context().backend_name());
  ASSERT_TRUE(work["backend_detail"].is_string());
  work["backend_detail"] = "of another machine";
  state.metadata["work"] = work.dump();
  std::filesystem::create_directories(scratch / "single/circles2_softplus20_w1_s0");
  state.save(scratch / "single/circles2_softplus20_w1_s0/samples.safetensors");

  ASSERT_EQ(run(scratch, command("out")).code, 0);
  ASSERT_EQ(run(scratch, command("single")).code, 0);
  EXPECT_FALSE(std::filesystem::exists(kept));
  const auto results_of = [&](const char* out) {
    Json json = Json::parse(get(scratch / fmt::format("{}/results.json", out)));
    for (Json* timed : {&json, &json["runs"][0]["gap"], &json["runs"][0]["training"]}) timed->erase("seconds");
    return json;
  };
  EXPECT_GE(Json::parse(get(folder + "gap.json"))["seconds"]["sde"].get<double>(), 1e6);
  EXPECT_LT(Json::parse(get(scratch / "single/circles2_softplus20_w1_s0/gap.json"))["seconds"]["sde"].get<double>(),
            1e6);
  EXPECT_EQ(results_of("out"), results_of("single"));
  for (const char* name : {"ode.npy", "sde.npy", "truth.npy"}) {
    EXPECT_EQ(get(folder + name), get(scratch / fmt::format("single/circles2_softplus20_w1_s0/{}", name))) << name;
  }
  // What a killed call may have left behind finished results goes too.
  for (const char* name : {"samples.safetensors", "state.safetensors"}) put(folder + name, "left behind");
  ASSERT_EQ(run(scratch, command("out")).code, 0);
  for (const char* name : {"samples.safetensors", "state.safetensors"}) {
    EXPECT_FALSE(std::filesystem::exists(folder + name)) << name;
  }
}

// Two seeds of one activation, then of all of them: what is there already is neither trained nor measured again.
TEST(Reproduction, AStudyComparesActivationsOverSeeds) {
  const Scratch scratch;
  const auto study = [&](const std::string& options) {
    const Outcome outcome =
        run(scratch, fmt::format("{} --preset activations-quick --iterations 3 --samples 200 --grid "
                                 "geometric:30:1e-2 --detail no --weights 0 {} --out {}",
                                 reproduce_tool, options, scratch / "out"));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome;
  };
  study("--activation tanh --seeds 1");
  const std::string first = scratch / "out/circles2_tanh_w0_s0/";
  const auto trained = std::filesystem::last_write_time(first + "model.safetensors"),
             measured = std::filesystem::last_write_time(first + "gap.json");
  study("--seeds 2");
  EXPECT_EQ(std::filesystem::last_write_time(first + "model.safetensors"), trained);
  EXPECT_EQ(std::filesystem::last_write_time(first + "gap.json"), measured);

  const Json results = Json::parse(get(scratch / "out/results.json"));
  EXPECT_EQ(results["preset"], "activations-quick");
  EXPECT_EQ(results["seeds"], 2);
  EXPECT_EQ(results["gap_options"]["seed"], 0);
  for (const Json& entry : results["runs"]) EXPECT_TRUE(entry["diagnosis"].is_null());  // unless they are asked for
  ASSERT_EQ(results["runs"].size(), 8u);
  std::vector<std::string> folders;
  for (const Json& entry : results["runs"]) {
    folders.push_back(entry["folder"]);
    EXPECT_EQ(entry["recipe"]["seed"], entry["seed"]);
    EXPECT_EQ(entry["gap"]["seed"], entry["seed"]);
  }
  EXPECT_THAT(folders,
              ::testing::ElementsAre("circles2_softplus100_w0_s0", "circles2_softplus20_w0_s0", "circles2_tanh_w0_s0",
                                     "circles2_silu_w0_s0", "circles2_softplus100_w0_s1", "circles2_softplus20_w0_s1",
                                     "circles2_tanh_w0_s1", "circles2_silu_w0_s1"));

  // softplus β: β/4; tanh: 4/(3√3), at tanh² z = 1/3; SiLU: 1/2.
  const double largest[] = {25, 5, 4 / (3 * std::sqrt(3.0)), 0.5};
  ASSERT_EQ(results["summary"].size(), 4u);
  for (int i = 0; i < 4; ++i) {
    const Json &entry = results["summary"][i], &a = results["runs"][i]["gap"], &b = results["runs"][i + 4]["gap"];
    SCOPED_TRACE(entry["activation"]["name"].get<std::string>());
    EXPECT_NEAR(entry["activation"]["largest_second_derivative"].get<double>(), largest[i], 1e-5 * largest[i]);
    EXPECT_EQ(entry["seeds"], 2);
    EXPECT_EQ(entry["residual_weight"], 0.0);
    const double x = a["residual"]["centred_mean_square"], y = b["residual"]["centred_mean_square"];
    const Json& statistic = entry["centred_mean_square"];
    EXPECT_NE(x, y);
    EXPECT_DOUBLE_EQ(statistic["mean"].get<double>(), (x + y) / 2);
    EXPECT_DOUBLE_EQ(statistic["median"].get<double>(), (x + y) / 2);
    EXPECT_NEAR(statistic["deviation"].get<double>(), std::abs(x - y) / std::sqrt(2.0), 1e-9 * std::abs(x));
    EXPECT_EQ(statistic["least"].get<double>(), std::min(x, y));
    EXPECT_EQ(statistic["most"].get<double>(), std::max(x, y));
  }
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("Mean ± standard deviation over seeds"), HasSubstr("All 8 runs"),
                                     HasSubstr("smoothness_circles2"), HasSubstr("largest |σ″|")));
}

// Whatever the activation, the weight and the seed: runs of several calls stand side by side, none is done again.
TEST(Reproduction, ALaterCallTakesOverTheRunsItAsksFor) {
  const Scratch scratch;
  const auto folders = [&](const std::string& options, int seed) {
    const Outcome outcome =
        run(scratch,
            fmt::format("{} --iterations 1 --samples 50 --grid geometric:5:1e-1 --detail no --data blob --weights 0 {} "
                        "--out {}",
                        reproduce_tool, options, scratch / "out"));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(Json::parse(get(scratch / "out/results.json"))["gap_options"]["seed"], seed);
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(scratch / "out"))
      names.insert(entry.path().filename());
    names.erase("results.json");
    return names;
  };
  using Names = std::set<std::string>;
  EXPECT_EQ(folders("--preset smoke --seed 5", 5), (Names{"blob_softplus20_w0_s5"}));
  const std::string first = scratch / "out/blob_softplus20_w0_s5/";
  const auto trained = std::filesystem::last_write_time(first + "model.safetensors"),
             measured = std::filesystem::last_write_time(first + "gap.json");
  EXPECT_EQ(folders("--preset smoke --seed 5 --seeds 2", 5), (Names{"blob_softplus20_w0_s5", "blob_softplus20_w0_s6"}));
  EXPECT_EQ(folders("--preset smoke --seed 5 --activation silu", 5),
            (Names{"blob_softplus20_w0_s5", "blob_softplus20_w0_s6", "blob_silu_w0_s5"}));
  EXPECT_EQ(Json::parse(get(scratch / "out/results.json"))["runs"].size(), 1u);  // what this call asked for
  EXPECT_EQ(std::filesystem::last_write_time(first + "model.safetensors"), trained);
  EXPECT_EQ(std::filesystem::last_write_time(first + "gap.json"), measured);
}

TEST(Reproduction, SeesWhereTheGapOpensAndItsBound) {
  const Scratch scratch;
  const std::string command = fmt::format(
      "{} --preset smoke --detail yes --bounds yes --samples 500 --grid geometric:40:1e-2 "
      "--weights 1 --out {}",
      reproduce_tool, scratch / "out");
  const Outcome outcome = run(scratch, command);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json results = Json::parse(get(scratch / "out/results.json"));
  ASSERT_EQ(results["runs"].size(), 1u);
  for (const Json& entry : results["runs"]) {
    SCOPED_TRACE(entry["folder"].get<std::string>());
    const Json &gap = entry["gap"], &way = gap["along_the_way"], &diagnosis = entry["diagnosis"];
    const std::size_t times = way["times"].size();
    EXPECT_GT(times, 6u);
    EXPECT_NEAR(way["times"].back().get<double>(), 1e-2, 1e-12);
    for (const Json& list :
         {way["steps"], way["noise_floor"], way["potential_integrable"], way["share_of_growing_directions"],
          way["escaped"]["ode"], way["escaped"]["sde"], way["w2_squared"]["ode_sde"],
          way["w2_squared"]["potential_sde"], way["w2_squared"]["potential_ode"]}) {
      EXPECT_EQ(list.size(), times);
    }
    EXPECT_EQ(way["w2_squared"]["ode_sde"].back(), gap["w2_squared"]["ode_sde"]);
    EXPECT_EQ(way["escaped"]["sde"].back(), gap["escaped"]["sde"]);
    EXPECT_DOUBLE_EQ(gap["grid_bias"].get<double>(),
                     2 * (gap["w2_squared"]["ode_sde"].get<double>() - gap["ode_sde_at_half_spacing"].get<double>()));
    EXPECT_EQ(results["summary"][0]["grid_bias"]["mean"], gap["grid_bias"]);
    EXPECT_GT(gap["denoising_loss"].get<double>(), 0);

    const Json &bound = diagnosis["upper_bound"], &over_samples = bound["over_samples"];
    EXPECT_NEAR(bound["diameter"].get<double>(), 7 * std::sqrt(2.0), 1e-12);
    EXPECT_EQ(over_samples["vacuous"].get<bool>(),
              std::exp(over_samples["log_bound"].get<double>()) >= bound["diameter"].get<double>());
    EXPECT_EQ(diagnosis["identity"].is_null(), !diagnosis["radial_slopes"]["integrable"].get<bool>());
    EXPECT_TRUE(diagnosis["energy"]["balance"]["difference"]["value"].is_number());
    EXPECT_GT(diagnosis["energy"]["dissipation"]["step_error"], 0);
    if (!diagnosis["resolved"]) {
      EXPECT_FALSE(diagnosis["warnings"].empty());
    }
    EXPECT_EQ(diagnosis["nodes"], 48);
    EXPECT_EQ(diagnosis["box"], 3.5);
    EXPECT_THAT(diagnosis["method"].get<std::string>(), HasSubstr(version()));
  }
  // The bound is there already, and stays away where it is not asked for.
  const std::string diagnosis = scratch / "out/circles2_softplus20_w1_s0/diagnosis.json";
  const auto written = std::filesystem::last_write_time(diagnosis);
  ASSERT_EQ(run(scratch, command).code, 0);
  EXPECT_EQ(std::filesystem::last_write_time(diagnosis), written);
  // Another method's numbers are computed anew.
  Json other = Json::parse(get(diagnosis));
  const Json dissipation = other["energy"]["dissipation"];
  other["method"] = "fokker 0.0.0, diagnosis 1";
  other["energy"]["dissipation"] = {{"value", -1}, {"standard_error", 0}};
  put(diagnosis, other.dump());
  ASSERT_EQ(run(scratch, command).code, 0);
  EXPECT_EQ(Json::parse(get(diagnosis))["energy"]["dissipation"], dissipation);
  if (can_report()) {
    EXPECT_THAT(report(scratch), AllOf(HasSubstr("Upper bound of the gap, and the energy identity"),
                                       HasSubstr("an estimate of the bound (a maximum over samples is no bound)"),
                                       HasSubstr("The gap along the way"), HasSubstr("way_circles2_w1")));
  }
  const std::string without = std::regex_replace(command, std::regex("--bounds yes"), "--bounds no");
  ASSERT_EQ(run(scratch, without).code, 0);
  EXPECT_TRUE(Json::parse(get(scratch / "out/results.json"))["runs"][0]["diagnosis"].is_null());
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), Not(HasSubstr("Upper bound")));
}

// The published numbers stand beside those of the paper's recipe, which a run of one iteration is made to look like,
// and beside no others.
TEST(Reproduction, ThePaperHasToShowItsResultBesideThePublished) {
  const Scratch scratch;
  const std::string command =
      fmt::format("{} --preset paper --data blob --weights 0,0.1,10 --bounds no --detail no --samples 20 --out {}",
                  reproduce_tool, scratch / "out");
  const auto results = [&] { return Json::parse(get(scratch / "out/results.json")); };
  const Outcome other = run(scratch, command + " --iterations 1");
  ASSERT_EQ(other.code, 0) << other.err;
  EXPECT_THAT(other.out, HasSubstr("The recipe is not the paper's"));
  EXPECT_FALSE(results().contains("acceptance"));
  EXPECT_FALSE(results()["summary"][0].contains("published"));

  const std::regex iterations("\"iterations\":( ?)1,");
  const std::map<std::string, std::array<double, 3>> published{
      {"0", {0.0116, 0.01097, 0.00218}}, {"0.1", {0.00311, 0.00604, 0.00294}}, {"10", {0.00221, 0.01723, 0.01599}}};
  for (const auto& [weight, distances] : published) {
    const std::string folder = scratch / fmt::format("out/blob_softplus100_w{}_s0/", weight),
                      model = folder + "model.safetensors";
    put(folder + "recipe.json",
        std::regex_replace(get(folder + "recipe.json"), iterations, "\"iterations\":$01100000,"));
    const std::string training = SafeTensors::load(model).metadata.at("training");
    save_model(model, load_model(model),
               {{"training", std::regex_replace(training, iterations, "\"iterations\":$01100000,")}});
  }
  ASSERT_EQ(run(scratch, command).code, 0);
  for (const auto& [weight, distances] : published) {
    const std::string path = scratch / fmt::format("out/blob_softplus100_w{}_s0/gap.json", weight);
    Json gap = Json::parse(get(path));
    gap["w2_squared"] = {{"ode_sde", distances[0]}, {"ode_truth", distances[1]}, {"sde_truth", distances[2]}};
    gap["escaped"] = {{"ode", 0}, {"sde", 0}};
    gap["noise_floor"] = 5.5e-4;
    put(path, gap.dump());
  }
  ASSERT_EQ(run(scratch, command).code, 0);
  const Json found = results();
  ASSERT_EQ(found["acceptance"].size(), 9u);
  const Json& falls = found["acceptance"][0];
  EXPECT_EQ(falls["data"], "blob");
  EXPECT_EQ(falls["criterion"], "ODE–SDE falls from w_R = 0 to 0.1 and from 0.1 to 10 by more than the noise floor");
  EXPECT_EQ(falls["outcome"], "met");
  EXPECT_EQ(falls["numbers"], "0.0116, 0.0031, 0.0022; noise floor 0.0006");
  EXPECT_THAT(found["acceptance"].dump(), AllOf(HasSubstr("not run where"), HasSubstr("; 1 of 3 seeds")));
  for (const Json& entry : found["summary"]) {
    EXPECT_EQ(entry["published"]["w2_squared"]["ode_sde"], entry["ode_sde"]["median"]);
  }
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("Beside the published numbers"), HasSubstr("0.01160"),
                                     HasSubstr("What the paper's runs have to show"), HasSubstr("not evaluated")));
}

// A potential that grows in every direction, measured; and beside it what a diagnosis may say, put into the results.
TEST(Report, SaysWhereThereIsNoDensityNoBoundAndNoEnergy) {
  const Scratch scratch;
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  const std::string model_file = scratch / "out/blob_softplus20_w0_s0/model.safetensors";
  Model model = load_model(model_file);
  Mlp& network = std::get<Mlp>(model.network);
  const auto output = network.parameters.begin() + network.architecture.weight_offset(3);
  std::transform(output, network.parameters.end(), output, std::negate<>());
  save_model(model_file, model, {{"training", SafeTensors::load(model_file).metadata.at("training")}});
  ASSERT_EQ(reproduce(scratch, "blob", "0", 3, "--detail yes").code, 0);
  const std::string results_file = scratch / "out/results.json";
  Json results = Json::parse(get(results_file));
  Json &run = results["runs"][0], &way = run["gap"]["along_the_way"];
  const std::size_t times = way["times"].size();
  EXPECT_EQ(way["potential_integrable"], Json(std::vector<bool>(times, false)));
  EXPECT_EQ(way["share_of_growing_directions"], Json(std::vector<double>(times, 1)));
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";

  const auto of = [](double value) { return Json{{"value", value}, {"standard_error", 0}, {"step_error", 0}}; };
  const auto bound = [](const char* text, bool vacuous) { return Json{{"text", text}, {"vacuous", vacuous}}; };
  const std::string grows = "φ grows in 100 % of the directions", heavy = "the largest weights fall off so slowly";
  run["diagnosis"] = {{"radial_slopes", {{"integrable", false}, {"reason", grows}}},
                      {"energy", {{"dissipation", of(0.5)}, {"balance", {{"difference", of(0.1)}}}}},
                      {"identity", nullptr},
                      {"upper_bound",
                       {{"over_samples", bound("1.14e+26", true)},
                        {"over_box", bound("2.52e+30", true)},
                        {"diameter", 9.9},
                        {"warnings", Json::array()}}},
                      {"warnings", {heavy}},
                      {"resolved", false}};
  put(results_file, results.dump());
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("<b>Where e<sup>φ</sup> is not integrable</b>"),
                                     HasSubstr("no more than e<sup>φ</sup> restricted to the box"),
                                     HasSubstr("up to 100 % of the directions"), HasSubstr("it is <b>vacuous</b>"),
                                     HasSubstr("1.14e+26 (vacuous)"), HasSubstr("<b>not resolved</b></td>"),
                                     HasSubstr("there is no Z: " + grows), HasSubstr(heavy)));

  way["potential_integrable"] = std::vector<bool>(times, true);
  run["diagnosis"]["radial_slopes"]["integrable"] = true;
  run["diagnosis"]["identity"] = {{"kl_end", of(0)},        {"left", of(0.5)},  {"kl_prior", of(0.1)},
                                  {"residual_work", of(0)}, {"right", of(0.1)}, {"difference", of(0.4)}};
  run["diagnosis"]["upper_bound"]["over_samples"] = bound("2.718", false);
  run["diagnosis"]["upper_bound"]["over_box"] = bound("7.389", false);
  run["diagnosis"]["warnings"] = Json::array();
  run["diagnosis"]["resolved"] = true;
  put(results_file, results.dump());
  EXPECT_THAT(report(scratch), AllOf(Not(HasSubstr("not integrable")), Not(HasSubstr("vacuous")), HasSubstr("2.718"),
                                     Not(HasSubstr("<b>not resolved</b></td>")), Not(HasSubstr("there is no Z"))));
}

TEST(Report, OverwritesNothingItReadsAndKnowsItsVersion) {
  const Scratch scratch;
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib";
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  const auto report_to = [&](const std::string& out) {
    return run(scratch, fmt::format("python3 {}/report.py {} --out '{}'", tools_folder, scratch / "out", out));
  };
  const std::string results = scratch / "out/results.json", bytes = get(results);
  for (const std::string& out : {results, scratch.folder().string(), std::string()}) {
    const Outcome outcome = report_to(out);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("allowed: a name that ends in .html"));
  }
  std::filesystem::create_directory(scratch / "folder.html");
  std::filesystem::create_hard_link(results, scratch / "link.html");
  for (const auto& [out, what] : {std::pair("folder.html", "is a folder"), std::pair("link.html", "which is read")}) {
    const Outcome outcome = report_to(scratch / out);
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(what));
  }
  EXPECT_EQ(get(results), bytes);
  EXPECT_EQ(report_to(scratch / "page.html").code, 0);
  Json earlier = Json::parse(bytes);
  earlier.erase("verdicts");
  put(results, earlier.dump());
  const Outcome outcome = report_to(scratch / "page.html");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("results.json is of an earlier version of reproduce"));
  EXPECT_EQ(scratch.list(),
            (std::set<std::string>{"folder.html", "link.html", "out", "page.html", "stderr.txt", "stdout.txt"}));
}

TEST(Report, NamesTheFileThatIsDamaged) {
  const Scratch scratch;
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib";
  ASSERT_EQ(reproduce(scratch, "blob", "0", 3, "--detail yes").code, 0);
  const std::vector<double> weights(4095, 1.0 / 4095);
  save_npy(scratch / "size.npy", {4095}, weights.data());
  const std::string size = get(scratch / "size.npy"),
                    header = "iteration,denoising,residual,total,gradient_norm,rate\n";
  for (const auto& [name, damaged] :
       std::vector<std::pair<std::string, std::string>>{{"ode.npy", "junk"},
                                                        {"truth.npy", ""},
                                                        {"sde.npy", size},
                                                        {"along_the_way.npy", "junk"},
                                                        {"along_the_way.npy", size},
                                                        {"log.csv", "junk"},
                                                        {"log.csv", ""},
                                                        {"log.csv", header + "0,1,2\n"},
                                                        {"log.csv", header + "0,1,2,3,4,x\n"}}) {
    SCOPED_TRACE(name + " " + damaged.substr(0, 80));
    const std::string path = scratch / ("out/blob_softplus20_w0_s0/" + name), kept = get(path);
    put(path, damaged);
    const Outcome outcome = run(scratch, fmt::format("python3 {}/report.py {}", tools_folder, scratch / "out"));
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err, AllOf(::testing::StartsWith("report.py: " + path), Not(HasSubstr("pickle"))));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    put(path, kept);
  }
  EXPECT_THAT(report(scratch), HasSubstr("Results"));
}

TEST(Report, TeachesAndNamesThePackagesItLacks) {
  const Scratch scratch;
  // -S leaves out every installed package.
  const std::string bare = fmt::format("/usr/bin/python3 -S {}/report.py ", tools_folder);
  if (std::system("/usr/bin/python3 -S -c '' 2> /dev/null") != 0) GTEST_SKIP() << "there is no /usr/bin/python3";
  const Outcome help = run(scratch, bare + "--help");
  EXPECT_EQ(help.code, 0) << help.err;
  EXPECT_THAT(help.out, AllOf(HasSubstr("examples:"), HasSubstr("report.py build/demo")));
  EXPECT_EQ(run(scratch, bare).code, 2);
  const Outcome outcome = run(scratch, bare + (scratch / "out"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("python3-numpy"), HasSubstr("python3-matplotlib")));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

// demo.sh passes the options of reproduce on, and refuses others before it installs or builds anything.
TEST(Demo, KnowsItsOptions) {
  const Scratch scratch;
  const std::string demo = tools_folder + "/demo.sh --no-install ", taught = run(scratch, demo + "--help").out,
                    help = run(scratch, reproduce_tool + " --help").out;
  const std::regex option("--[a-z]+");
  int found = 0;
  for (std::sregex_iterator at(help.begin(), help.end(), option), end; at != end; ++at, ++found) {
    if (at->str() == "--help") continue;
    EXPECT_THAT(taught, HasSubstr(at->str()));
  }
  EXPECT_GT(found, 11);
  for (const char* wrong : {"--nonsense", "--nonsense=1", "stray", "--preset huge", "--preset=huge", "--samples",
                            "--out ''", "--out=", "--samples many", "--iterations=-3", "--seeds few",
                            "--bounds perhaps", "--detail=", "--threads 1.5", "--backend abacus", "--precision bf16"}) {
    const Outcome outcome = run(scratch, demo + wrong);
    EXPECT_EQ(outcome.code, 2) << wrong;
    EXPECT_THAT(outcome.err, ::testing::StartsWith("demo.sh: "));
    EXPECT_EQ(outcome.out, "");
  }
}

// The quick preset with fewer samples and steps. Not its seed 0, which the README shows.
TEST(SlowReproduction, TheResidualNarrowsTheGapByMoreThanTheNoise) {
  const Scratch scratch;
  const Outcome outcome = run(scratch, fmt::format("{} --preset quick --samples 40000 --grid geometric:200:1e-3 "
                                                   "--seed 1 --out {}",
                                                   reproduce_tool, scratch / "out"));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json results = Json::parse(get(scratch / "out/results.json"));
  ASSERT_EQ(results["finished"], true);
  ASSERT_EQ(results["runs"].size(), 2u);
  const Json &without = results["runs"][0], &with = results["runs"][1];
  ASSERT_EQ(without["residual_weight"], 0.0);
  ASSERT_EQ(with["residual_weight"], 1.0);
  const auto gap = [](const Json& entry) { return entry["gap"]["w2_squared"]["ode_sde"].get<double>(); };
  const double floor = without["gap"]["noise_floor"];
  EXPECT_GT(floor, 0);
  EXPECT_LT(gap(with) + floor, gap(without)) << outcome.out;
  EXPECT_LT(with["gap"]["residual"]["centred_mean_square"].get<double>(),
            without["gap"]["residual"]["centred_mean_square"].get<double>());
}

}  // namespace
}  // namespace fokker
