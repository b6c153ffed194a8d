// The reproduction as its users see it: what a call refuses and measures anew, how it words what is not the usual case,
// and, among the tests labelled slow, what it is there to show. The executables and scripts are run as processes.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "archive.hpp"
#include "fokker/fokker.hpp"
#include "reproduction.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using namespace testing;
using Json = nlohmann::json;

TEST(Reproduction, RefusesWhatIsNotAllowedInOneSentence) {
  const Scratch scratch;
  EXPECT_THAT(run(scratch, reproduce_tool + " --help").out,
              AllOf(HasSubstr("--preset"), HasSubstr("--samples INTEGER "), HasSubstr("--iterations INTEGER "),
                    HasSubstr("--precision")));
  put(scratch / "regular", "a file");
  struct Case {
    std::string options, what;
    int code = 2;
  };
  const std::string to = " --out " + (scratch / "out");
  for (const auto& [options, what, code] :
       {Case{"", "--out"}, Case{"--preset huge" + to, "huge"},
        Case{"--seed 1 --seed 2" + to, "--seed given 2 times; allowed: once"},
        Case{"--preset smoke --out " + (scratch / "regular"), "regular", 1},
        Case{"--preset smoke --data spiral" + to, "spiral"}, Case{"--preset smoke --samples 0" + to, "--samples 0"},
        Case{"--preset smoke --iterations -1" + to, "-1"},
        Case{"--preset smoke --weights 0,abc" + to, "--weights 0,abc given; allowed: numbers with commas between"},
        Case{"--preset smoke --weights 1,1" + to, "share", 1}}) {
    SCOPED_TRACE(options);
    expect_refusal(run(scratch, fmt::format("{} {}", reproduce_tool, options)), what, code);
  }
  EXPECT_EQ(get(scratch / "regular"), "a file");
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
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

TEST(Reproduction, ArraysOfOneFileHaveFoldersOfTheirOwn) {
  const Scratch scratch;
  const std::string array = npy_of("<f4", "(2, 2)", bytes_of(std::vector<float>{0.5f, 1, -1, 0.25f}));
  put(scratch / "two.npz", archive({{.name = "x.npy", .bytes = array}, {.name = "y/z.npy", .bytes = array}}));
  const std::string file = scratch / "two.npz";
  ASSERT_EQ(reproduce(scratch, file + ":x," + file + ":y/z", "0").code, 0);
  for (const char* run : {"two_x", "two_y_z"}) {
    EXPECT_TRUE(std::filesystem::exists(scratch / fmt::format("out/{}_softplus20_w0_s0/model.safetensors", run)));
  }
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
  // So little training throws every sample far out.
  EXPECT_THAT(spatial.out, HasSubstr("of 200 samples as few as 0 stayed near the data"));
  EXPECT_THAT(spatial.err, HasSubstr("spatial_softplus20_w0_s0: of 200 samples of the ODE 200 have a coordinate"));
  const Json gap = Json::parse(get(scratch / "out/results.json"))["runs"][0]["gap"];
  EXPECT_TRUE(gap["w2_squared"].is_null());
  EXPECT_TRUE(gap["sliced_w2_squared"]["ode_sde"].is_number());
  const Outcome both = reproduce(scratch, (scratch / "spatial.json") + ",blob");
  ASSERT_EQ(both.code, 0) << both.err;
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), HasSubstr("W₂² of 200 samples each; the sliced distance where the data are not planar"));
  ASSERT_EQ(reproduce(scratch, scratch / "spatial.json").code, 0);
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("Sliced W₂² of 200 samples"), Not(HasSubstr("<b>The grid's share"))));
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

// What an earlier call left is held to its shape before anything is made of it.
TEST(Reproduction, KeptFilesThatAreDamagedAreNamed) {
  const Scratch scratch;
  const std::string bounds = "--bounds yes";
  ASSERT_EQ(reproduce(scratch, "blob", "0", 3, bounds).code, 0);
  const std::string folder = scratch / "out/blob_softplus20_w0_s0/", results = scratch / "out/results.json";
  const auto expect_named = [&](const std::string& file, const std::string& text, const std::string& what) {
    SCOPED_TRACE(file + " " + text.substr(0, 80));
    const std::string before = get(file);
    put(file, text);
    const Outcome outcome = reproduce(scratch, "blob", "0", 3, bounds);
    EXPECT_EQ(outcome.code, 1);
    EXPECT_EQ(outcome.out, "");
    const std::size_t last = outcome.err.rfind("reproduce: ");
    const std::string line = last == std::string::npos ? "" : outcome.err.substr(last);
    EXPECT_THAT(line, AllOf(HasSubstr(what), HasSubstr(std::filesystem::path(file).filename().string())));
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(get(file), text);
    put(file, before);
  };
  const auto changed = [&](const std::string& name, const std::string& pointer, const Json& value) {
    Json json = Json::parse(get(folder + name));
    json[Json::json_pointer(pointer)] = value;
    return json.dump();
  };
  const auto without = [&](const std::string& name, const char* key) {
    Json json = Json::parse(get(folder + name));
    json.erase(key);
    return json.dump();
  };
  const std::string gap = folder + "gap.json", diagnosis = folder + "diagnosis.json";
  expect_named(gap, changed("gap.json", "/seconds", Json::object()), "it has no seconds.ode; remove it");
  expect_named(gap, without("gap.json", "noise_floor"), "it has no noise_floor");
  expect_named(gap, without("gap.json", "warnings"), "it has no warnings");
  expect_named(gap, changed("gap.json", "/w2_squared", nullptr), "w2_squared is no object");
  expect_named(gap, changed("gap.json", "/escaped/ode", "none"), "escaped.ode is no number");
  expect_named(diagnosis, changed("diagnosis.json", "/identity", Json::object()), "it has no identity.kl_end");
  expect_named(diagnosis, changed("diagnosis.json", "/identity/left", Json::object()), "it has no identity.left.value");
  expect_named(diagnosis, without("diagnosis.json", "upper_bound"), "it has no upper_bound");
  expect_named(results, "1e999", "a number in it is out of range");
  expect_named(results, std::string(100'000, '['), "nested more than 16 deep");
  expect_named(gap, "{\"seconds\": 1e999}", "out of range");
  EXPECT_EQ(reproduce(scratch, "blob", "0", 3, bounds).code, 0);
}

TEST(Reproduction, GoesOnWithDataWhoseNameIsNotUtf8) {
  const Scratch scratch;
  std::vector<float> points(400);
  for (std::size_t i = 0; i < points.size(); ++i) points[i] = float(i % 20) / 10 - 1;
  save_npy(scratch / "n\xff.npy", {200, 2}, points.data());
  for (int call = 0; call < 2; ++call) {
    const Outcome outcome = reproduce(scratch, scratch / "n\xff.npy", "0");
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err.find('\xff'), std::string::npos);
  }
  EXPECT_TRUE(std::filesystem::is_directory(scratch / "out/n\xef\xbf\xbd_softplus20_w0_s0"));
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), HasSubstr("n\xef\xbf\xbd.npy</h2>"));
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

// Before anything is trained, whichever file it is.
TEST(Reproduction, FilesThatCannotBeWrittenAreRefused) {
  const Scratch scratch;
  for (const char* name : {"results.json", "diagnosis_times.npy", "blob_softplus20_w0_s0/log.csv",
                           "blob_softplus20_w0_s0/model.safetensors", "blob_softplus20_w0_s0/gap.json"}) {
    SCOPED_TRACE(name);
    const std::string file = scratch / (std::string("out/") + name);
    std::filesystem::create_directories(file);
    expect_refusal(reproduce(scratch, "blob", "0"), "it is a folder");
    std::filesystem::remove_all(scratch / "out");
  }
  const Outcome outcome = run(scratch, reproduce_tool + " --preset smoke --out " + (scratch / std::string(300, 'a')));
  expect_refusal(outcome, "File name too long");
  // Nor is any folder made where one of them cannot be.
  put_mixture(scratch / (std::string(240, 'a') + ".json"), 0);
  expect_refusal(reproduce(scratch, scratch / (std::string(240, 'a') + ".json"), "0"), "File name too long");
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
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

// That the data lie where nothing is measured is found before anything is trained, or made.
TEST(Reproduction, DataOutsideTheBoxAreNamedBeforeTraining) {
  const Scratch scratch;
  put_mixture(scratch / "far.json", 20);
  expect_refusal(
      reproduce(scratch, scratch / "far.json"),
      fmt::format("all data of '{}' lie outside the box [-3.5, 3.5]^2 of the distances", scratch / "far.json"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
  put_mixture(scratch / "edge.json", 3.5);  // half of them outside
  const Outcome outcome = reproduce(scratch, scratch / "edge.json", "1,0");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::size_t measured = outcome.err.find("of the data are outside the box [-3.5, 3.5]^2, and distances leave"),
                    trained = outcome.err.find("in which the points of the residual are");
  EXPECT_LT(measured, outcome.err.find("2 runs on the")) << outcome.err;
  EXPECT_LT(trained, outcome.err.find("2 runs on the")) << outcome.err;
  const Json results = Json::parse(get(scratch / "out/results.json"));
  EXPECT_EQ(results["warnings"].size(), 2u);
  EXPECT_TRUE(results["runs"][0]["gap"]["warnings"].is_array());
  expect_refusal(reproduce(scratch, "blob", "0", 3, "--activation silu --beta 3"),
                 "--beta given with the activation silu", 2);
  expect_refusal(reproduce(scratch, "blob", "0", 3, "--activation elu --negative-slope 0.1"),
                 "--negative-slope given with the activation elu, which has no such parameter; allowed: --alpha", 2);
}

TEST(Reproduction, FewSamplesLeftCompareWithNoNoiseFloor) {
  const Scratch scratch;
  const Outcome lost = reproduce(scratch, "blob");  // so little training throws every sample out of the box
  ASSERT_EQ(lost.code, 0) << lost.err;
  EXPECT_THAT(lost.out, AllOf(Not(HasSubstr("nan")), Not(HasSubstr("noise floors"))));
  EXPECT_THAT(lost.err, HasSubstr("blob_softplus20_w0_s0: all 200 samples of the ODE are outside the box"));
  const bool reported = can_report();
  if (reported) {
    EXPECT_THAT(report(scratch),
                AllOf(HasSubstr("no distance between the samplers"),
                      HasSubstr("<li>blob_softplus20_w0_s0: all 200 samples of the ODE are outside the box")));
  }

  for (const double escaped : {0.04, 0.97}) {
    SCOPED_TRACE(escaped);
    const bool few = escaped > 0.5;
    // What is said of the samples is what was said when they were measured, and a text.
    put_gaps(scratch, "blob", escaped, few ? std::vector<std::string>{"<b>97 %"} : std::vector<std::string>());
    const Outcome outcome = reproduce(scratch, "blob");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    for (const char* weight : {"0", "1"}) {
      const std::string line = fmt::format("reproduce: warning: blob_softplus20_w{}_s0: <b>97 %\n", weight);
      EXPECT_EQ(outcome.err.find(line) != std::string::npos, few) << outcome.err;
    }
    EXPECT_EQ(outcome.err.find("warning") != std::string::npos, few) << outcome.err;
    const auto expected =
        few ? HasSubstr("of 200 samples as few as 6 stayed near the data, so that no noise floor compares")
            : HasSubstr("noise floors");
    EXPECT_THAT(outcome.out, AllOf(expected, HasSubstr("gap falls from 3.5")));
    if (reported) {
      const std::string page = report(scratch);
      EXPECT_THAT(page, expected);
      EXPECT_EQ(page.find("<li>blob_softplus20_w1_s0: &lt;b&gt;97 %</li>") != std::string::npos, few);
      EXPECT_EQ(page.find("may be none") != std::string::npos, few);
    }
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

// At η = 0 and 1 the family's members are the two samplers, from the same prior and noise.
TEST(Reproduction, TheGapIsACurveInEta) {
  const Scratch scratch;
  const auto call = [&](const std::string& options) {
    const Outcome outcome = run(
        scratch, fmt::format("{} --preset smoke --iterations 150 --samples 500 --grid geometric:40:1e-2 --weights 0 "
                             "--seeds 2 {} --out {}",
                             reproduce_tool, options, scratch / "out"));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return Json::parse(get(scratch / "out/results.json"));
  };
  EXPECT_TRUE(call("")["summary"][0]["along_eta"].is_null());
  const Json results = call("--eta 0,0.5,1");
  EXPECT_EQ(results["gap_options"]["etas"], (Json{0.0, 0.5, 1.0}));
  for (const Json& entry : results["runs"]) {
    const Json &gap = entry["gap"], &curve = gap["along_eta"];
    ASSERT_EQ(curve.size(), 3u);
    EXPECT_EQ(curve[0]["ode"], 0.0);
    EXPECT_EQ(curve[0]["truth"], gap["w2_squared"]["ode_truth"]);
    EXPECT_EQ(curve[2]["ode"], gap["w2_squared"]["ode_sde"]);
    EXPECT_EQ(curve[2]["truth"], gap["w2_squared"]["sde_truth"]);
    EXPECT_EQ(curve[2]["escaped"], gap["escaped"]["sde"]);
    EXPECT_GT(gap["seconds"]["along_eta"], 0);
  }
  const Json& curve = results["summary"][0]["along_eta"];
  EXPECT_EQ(curve["ode"][2], results["summary"][0]["ode_sde"]);
  EXPECT_EQ(curve["truth"][0], results["summary"][0]["ode_truth"]);
  const std::string folder = scratch / "out/circles2_softplus20_w0_s0/";
  EXPECT_FALSE(std::filesystem::exists(folder + "along_eta.json"));
  const auto measured = std::filesystem::last_write_time(folder + "gap.json");
  call("");  // what is there is more than was asked for
  EXPECT_EQ(std::filesystem::last_write_time(folder + "gap.json"), measured);
  const Outcome refused = run(scratch, reproduce_tool + " --eta 0,-1 --out " + (scratch / "none"));
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("eta"));
  if (!can_report()) GTEST_SKIP() << "no Python with numpy and matplotlib: the report was not tried";
  EXPECT_THAT(report(scratch), AllOf(HasSubstr("eta_circles2"), HasSubstr("The gap as a curve in η")));
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
    const Json &gap = entry["gap"], &over_time = gap["along_the_way"], &diagnosis = entry["diagnosis"];
    const std::size_t times = over_time["times"].size();
    EXPECT_GT(times, 6u);
    EXPECT_NEAR(over_time["times"].back().get<double>(), 1e-2, 1e-12);
    for (const Json& list : {over_time["steps"], over_time["noise_floor"], over_time["potential_integrable"],
                             over_time["share_of_growing_directions"], over_time["escaped"]["ode"],
                             over_time["escaped"]["sde"], over_time["w2_squared"]["ode_sde"],
                             over_time["w2_squared"]["potential_sde"], over_time["w2_squared"]["potential_ode"]}) {
      EXPECT_EQ(list.size(), times);
    }
    EXPECT_EQ(over_time["w2_squared"]["ode_sde"].back(), gap["w2_squared"]["ode_sde"]);
    EXPECT_EQ(over_time["escaped"]["sde"].back(), gap["escaped"]["sde"]);
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
                                       HasSubstr("The gap over time"), HasSubstr("over_time_circles2_w1")));
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
