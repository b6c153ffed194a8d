// The reproduction as its users see it: what the second call refuses, how it words what is not the usual case, and,
// among the tests labelled slow, what it is there to show. The executables and scripts are run as processes.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
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
                  int iterations = 3) {
  return run(scratch, fmt::format("{} --preset smoke --iterations {} --samples 200 --grid geometric:30:1e-2 --data {} "
                                  "--weights {} --out {}",
                                  reproduce_tool, iterations, data, weights, scratch / "out"));
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
  const std::string model = get(scratch / "out/mixture_w0/model.safetensors");
  put_mixture(mixture, 0.75);
  expect_refusal(reproduce(scratch, mixture, "0"), "data_contents");
  EXPECT_EQ(get(scratch / "out/mixture_w0/model.safetensors"), model);
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
  const Outcome outcome = reproduce(scratch, scratch / "point.npy", "0,1", 60);
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
  EXPECT_THAT(spatial.out, AllOf(HasSubstr("Sliced W2² of 200 samples"), HasSubstr("noise floors")));
  const Outcome both = reproduce(scratch, (scratch / "spatial.json") + ",blob");
  ASSERT_EQ(both.code, 0) << both.err;
  EXPECT_THAT(both.out, HasSubstr("W2² of 200 samples each, sliced where the data are not planar"));
  EXPECT_THAT(reproduce(scratch, "blob").out, AllOf(HasSubstr("W2² of 200"), Not(HasSubstr("liced"))));
  ASSERT_EQ(reproduce(scratch, scratch / "spatial.json").code, 0);
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("Sliced W₂² of 200 samples"), Not(HasSubstr("Grid bias"))));
}

TEST(Reproduction, ResultsEditedByHandAreRefusedOrMeasuredAgain) {
  const Scratch scratch;
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  const std::string gap_file = scratch / "out/blob_w0/gap.json", training_file = scratch / "out/blob_w0/training.json";
  const Json gap = Json::parse(get(gap_file));
  Json broken = gap;
  broken.erase("seconds");
  put(gap_file, broken.dump());
  ASSERT_EQ(reproduce(scratch, "blob", "0").code, 0);
  EXPECT_EQ(Json::parse(get(gap_file))["w2_squared"], gap["w2_squared"]);

  for (const char* text : {R"({"seconds": null})", R"({"iterations": 3})", "[]", "{"}) {
    SCOPED_TRACE(text);
    put(training_file, text);
    expect_refusal(reproduce(scratch, "blob", "0"), training_file);
  }
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
  for (const char* wrong : {"--nonsense", "--nonsense=1", "stray", "--preset huge", "--preset=huge", "--samples"}) {
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
