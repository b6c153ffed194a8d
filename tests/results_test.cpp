// Statistics over runs, verdicts and what the paper's runs have to show, on entries as results.json has them.
#include "results.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>

#include "console.hpp"

namespace fokker::tools {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Json run(const std::string& data, double weight, int seed, const std::array<double, 3>& distances,
         const std::string& activation = "tanh") {
  return {{"data", data},
          {"activation", {{"name", activation}}},
          {"residual_weight", weight},
          {"seed", seed},
          {"training", {{"seconds", 1}}},
          {"gap",
           {{"w2_squared", {{"ode_sde", distances[0]}, {"ode_truth", distances[1]}, {"sde_truth", distances[2]}}},
            {"noise_floor", 5.5e-4},
            {"grid_bias", 1e-3},
            {"escaped", {{"ode", 0}, {"sde", 0}}},
            {"residual", {{"mean_square", 2}, {"centred_mean_square", 1}}},
            {"denoising_loss", 3},
            {"seconds", {{"ode", 1}, {"sde", 2}, {"measure", 4}}}}},
          {"diagnosis", nullptr}};
}

// In fixed point where that has neither many digits nor few.
TEST(NumberOrDash, IsReadable) {
  EXPECT_EQ(number_or_dash(0.01234), "0.01234");
  EXPECT_EQ(number_or_dash(-2.5, "{:.1f}"), "-2.5");
  EXPECT_EQ(number_or_dash(0), "0.00000");
  EXPECT_EQ(number_or_dash(1.8e38), "1.8000e+38");
  EXPECT_EQ(number_or_dash(-2e6), "-2.0000e+06");
  EXPECT_EQ(number_or_dash(2.5e-5), "2.5000e-05");
  for (const double none : {std::nan(""), HUGE_VAL, -HUGE_VAL}) EXPECT_EQ(number_or_dash(none), "–");
}

TEST(Summarise, GivesEachGroupItsStatistics) {
  Json runs = Json::array();
  for (const auto& [seed, value] : {std::pair(0, 4.0), std::pair(1, 1.0), std::pair(2, 2.0), std::pair(3, 3.0)}) {
    runs.push_back(run("blob", 1, seed, {value, 1, 1}));
  }
  runs.push_back(run("blob", 0, 0, {5, 1, 1}));
  runs.push_back(run("blob", 1, 0, {6, 1, 1}, "silu"));
  runs.push_back(run("circles2", 1, 0, {7, 1, 1}));
  const Json summary = summarise(runs);
  ASSERT_EQ(summary.size(), 4u);
  const Json& first = summary[0]["ode_sde"];
  EXPECT_EQ(summary[0]["seeds"], 4);
  EXPECT_DOUBLE_EQ(first["mean"].get<double>(), 2.5);
  EXPECT_DOUBLE_EQ(first["deviation"].get<double>(), std::sqrt(5. / 3));
  EXPECT_EQ(first["least"], 1.0);
  EXPECT_EQ(first["median"], 2.5);
  EXPECT_EQ(first["most"], 4.0);
  EXPECT_EQ(summary[0]["centred_mean_square"]["mean"], 1.0);
  EXPECT_EQ(summary[0]["grid_bias"]["mean"], 1e-3);
  EXPECT_TRUE(summary[0]["along_the_way"].is_null());
  for (int k = 1; k < 4; ++k) {
    EXPECT_EQ(summary[k]["seeds"], 1);
    EXPECT_EQ(summary[k]["ode_sde"]["median"], 4.0 + k);
    EXPECT_TRUE(summary[k]["ode_sde"]["deviation"].is_null());
  }
}

TEST(Summarise, HasNoStatisticWhereASeedHasNoNumber) {
  Json runs{run("blob", 1, 0, {1, 1, 1}), run("blob", 1, 1, {2, 1, 1})};
  runs[0]["gap"]["w2_squared"]["ode_sde"] = nullptr;
  runs[1]["gap"]["residual"] = nullptr;
  runs[1]["gap"].erase("grid_bias");
  const Json summary = summarise(runs);
  EXPECT_TRUE(summary[0]["ode_sde"].is_null());
  EXPECT_TRUE(summary[0]["mean_square"].is_null());
  EXPECT_TRUE(summary[0]["grid_bias"].is_null());
  EXPECT_EQ(summary[0]["sde_truth"]["mean"], 1.0);
}

TEST(Summarise, HasTheWayWhereAllSeedsHaveIt) {
  Json runs{run("blob", 1, 0, {1, 1, 1}), run("blob", 1, 1, {2, 1, 1})};
  const auto way = [](double value) {
    return Json{{"times", {1, 0.5}},
                {"w2_squared", {{"ode_sde", {value, 2 * value}}, {"potential_sde", Json::array()}}},
                {"noise_floor", {0.5, nullptr}}};
  };
  runs[0]["gap"]["along_the_way"] = way(1);
  EXPECT_TRUE(summarise(runs)[0]["along_the_way"].is_null());
  runs[1]["gap"]["along_the_way"] = way(2);
  const Json found = summarise(runs)[0]["along_the_way"];
  EXPECT_EQ(found["times"], (Json{1, 0.5}));
  ASSERT_EQ(found["w2_squared"]["ode_sde"].size(), 2u);
  EXPECT_EQ(found["w2_squared"]["ode_sde"][1]["mean"], 3.0);
  EXPECT_EQ(found["w2_squared"]["potential_sde"], Json::array());
  EXPECT_EQ(found["noise_floor"][0]["mean"], 0.5);
  EXPECT_TRUE(found["noise_floor"][1].is_null());
}

TEST(Summarise, HasTheCurveInEtaWhereAllSeedsHaveItsPoints) {
  Json runs{run("blob", 1, 0, {1, 1, 1}), run("blob", 1, 1, {2, 1, 1})};
  const auto point = [](double eta, const Json& ode) {
    return Json{{"eta", eta}, {"ode", ode}, {"truth", 0.5}, {"escaped", 0.25}};
  };
  EXPECT_TRUE(summarise(runs)[0]["along_eta"].is_null());
  runs[0]["gap"]["along_eta"] = {point(0, 0), point(0.5, 1)};
  EXPECT_TRUE(summarise(runs)[0]["along_eta"].is_null());
  runs[1]["gap"]["along_eta"] = {point(0, nullptr), point(1, 3)};
  EXPECT_TRUE(summarise(runs)[0]["along_eta"].is_null());
  runs[1]["gap"]["along_eta"] = {point(0, nullptr), point(0.5, 3)};
  const Json found = summarise(runs)[0]["along_eta"];
  EXPECT_EQ(found["eta"], (Json{0.0, 0.5}));
  EXPECT_TRUE(found["ode"][0].is_null());
  EXPECT_EQ(found["ode"][1]["mean"], 2.0);
  EXPECT_EQ(found["truth"][0]["most"], 0.5);
  EXPECT_EQ(found["escaped"][1]["median"], 0.25);
}

TEST(SecondsOf, CountsFailedRunsWithTheOthers) {
  Json runs{run("blob", 1, 0, {1, 1, 1}), run("blob", 0, 0, {1, 1, 1})};
  EXPECT_EQ(seconds_of(runs), 16);
  runs[1] = {{"failed", "why"}, {"training", {{"seconds", 1}}}};
  EXPECT_EQ(seconds_of(runs), 9);
  runs[0]["diagnosis"] = {{"seconds", 20}};
  EXPECT_EQ(seconds_of(runs), 29);
  EXPECT_EQ(without_failed(runs), Json::array({runs[0]}));
}

TEST(Verdicts, CompareNoResidualWithTheWeightNearestOne) {
  Json runs = Json::array();
  for (const int seed : {0, 1}) {
    for (const auto& [weight, gap] : {std::pair(10.0, 9.0), std::pair(0.5, 0.02), std::pair(0.0, 0.01 + 0.01 * seed)}) {
      runs.push_back(run("blob", weight, seed, {gap, 1, weight}));
    }
  }
  runs.push_back(run("circles2", 1, 0, {1, 1, 1}));  // nothing to compare with
  runs.push_back(run("blob", 0, 0, {1, 1, 1}, "silu"));
  const Json found = verdicts(summarise(runs), 100);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0]["data"], "blob");
  EXPECT_EQ(found[0]["activation"], "tanh");
  EXPECT_EQ(
      found[0]["text"],
      "the ODE–SDE gap rises from 0.01500 at w_R = 0 to 0.02000 at w_R = 0.5 in the mean over 2 seeds, by 9.1 noise "
      "floors; SDE–truth goes from 0.00000 to 0.50000");
}

TEST(Verdicts, CompareWithNoFloorThatSaysNothing) {
  const auto text = [](const std::function<void(Json & gap)>& change) {
    Json runs{run("blob", 0, 0, {3.5, 1, 1}), run("blob", 1, 0, {0.5, 1, 1})};
    change(runs[0]["gap"]);
    return verdicts(summarise(runs), 200)[0]["text"].get<std::string>();
  };
  const auto compares = HasSubstr("noise floors");
  EXPECT_THAT(text([](Json& gap) { gap["escaped"]["ode"] = 0.04; }), compares);
  EXPECT_THAT(
      text([](Json& gap) { gap["escaped"]["sde"] = 0.97; }),
      AllOf(Not(compares), HasSubstr("falls from 3.50000"),
            HasSubstr("3.00000 (of 200 samples as few as 6 stayed near the data, so that no noise floor compares)")));
  EXPECT_THAT(text([](Json& gap) { gap["noise_floor"] = 0; }),
              AllOf(Not(compares), HasSubstr("3.00000 with a noise floor of 0")));
  // Numbers that fixed point has too many digits for.
  EXPECT_THAT(text([](Json& gap) { gap["w2_squared"]["ode_sde"] = 1.1e37; }),
              AllOf(HasSubstr("falls from 1.1000e+37"), HasSubstr("by 2.0000e+40 noise floors")));
  EXPECT_THAT(text([](Json& gap) { gap["w2_squared"]["ode_sde"] = 1e37, gap["noise_floor"] = 0; }),
              HasSubstr("by 1.0000e+37 with a noise floor of 0"));
  EXPECT_THAT(text([](Json& gap) { gap["w2_squared"]["ode_sde"] = nullptr; }),
              AllOf(Not(compares), HasSubstr("no distance between the samplers")));
}

// The outcomes of one data set's criteria where each run has the published distances, changed by `change`, and the
// spread of ten per cent about them over seeds.
std::vector<std::string> outcomes(const std::function<void(double weight, Json& gap)>& change, int seeds = 3) {
  Json runs = Json::array();
  for (const double weight : {0.0, 0.1, 1.0, 10.0}) {
    const Json w2 = published("blob", weight)["w2_squared"];
    for (int seed = 0; seed < seeds; ++seed) {
      runs.push_back(run("blob", weight, seed, {w2["ode_sde"], w2["ode_truth"], w2["sde_truth"]}));
      Json& gap = runs.back()["gap"];
      change(weight, gap);
      for (Json& distance : gap["w2_squared"]) distance = distance.get<double>() * (1 + 0.1 * (seed - (seeds - 1) / 2));
    }
  }
  std::vector<std::string> found;
  for (const Json& entry : acceptance(summarise(runs))) {
    if (entry["data"] == "blob") found.push_back(entry["outcome"]);
  }
  return found;
}
std::vector<std::string> outcomes_of(double at, const char* pair, double value, int seeds = 3) {
  return outcomes(
      [&](double weight, Json& gap) { gap["w2_squared"][pair] = weight == at ? Json(value) : gap["w2_squared"][pair]; },
      seeds);
}

TEST(Acceptance, IsMetByThePublishedNumbersAlone) {
  EXPECT_THAT(outcomes([](double, Json&) {}), ElementsAre("met", "met", "met", "met"));
  EXPECT_THAT(outcomes_of(0.1, "ode_sde", 0.00270), ElementsAre("not met", "met", "met", "met"));  // by 4.9e-4 to 10
  EXPECT_THAT(outcomes_of(1, "ode_sde", 0.00610), ElementsAre("met", "not met", "met", "met"));
  EXPECT_THAT(outcomes_of(1, "ode_truth", 0.00211), ElementsAre("met", "met", "not met", "met"));
}

// Neighbours may tie within the noise floor, 5.5e-4, but not all the way.
TEST(Acceptance, LetsNeighboursOfTheTrendTie) {
  EXPECT_THAT(outcomes_of(1, "sde_truth", 0.00250), ElementsAre("met", "met", "met", "met"));      // falls by 4.4e-4
  EXPECT_THAT(outcomes_of(1, "sde_truth", 0.00294), ElementsAre("met", "met", "met", "met"));      // a tie
  EXPECT_THAT(outcomes_of(1, "sde_truth", 0.00230), ElementsAre("met", "met", "met", "not met"));  // by 6.4e-4
  const auto flat = [](double rise) {
    return outcomes(
        [rise](double weight, Json& gap) { gap["w2_squared"]["sde_truth"] = 0.003 + (weight == 10 ? rise : 0); });
  };
  EXPECT_THAT(flat(5e-4), ElementsAre("met", "met", "met", "not met"));
  EXPECT_THAT(flat(6e-4), ElementsAre("met", "met", "met", "met"));
}

TEST(Acceptance, IsNotEvaluatedWithoutTheNumbers) {
  const std::string none = "not evaluated";
  EXPECT_THAT(outcomes([](double weight, Json& gap) { gap["escaped"]["ode"] = weight == 1 ? 0.3 : 0; }),
              ElementsAre("met", none, none, none));
  EXPECT_THAT(outcomes([](double, Json&) {}, 1), ElementsAre("met", none, none, "met"));  // one seed
  const Json nothing = acceptance(Json::array());
  ASSERT_EQ(nothing.size(), 9u);
  for (const Json& entry : nothing) EXPECT_EQ(entry["outcome"], none);
}

TEST(Published, AreThoseOfBlobAndChecker) {
  EXPECT_EQ(published("blob", 1)["w2_squared"]["ode_sde"], 0.0029);
  EXPECT_EQ(published("checker", 0.1)["escaped"]["sde"], 0.00164);
  EXPECT_TRUE(published("circles2", 1).is_null());
  EXPECT_TRUE(published("blob", 2).is_null());
}

}  // namespace
}  // namespace fokker::tools
