// fokker diagnose: what it prints for integrable and bounded potentials.
#include <string>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class DiagnoseCommand : public CommandLine {};

TEST_F(DiagnoseCommand, FollowsItsContract) {
  const auto diagnose = [&](const std::string& model, const Arguments& more = {}) {
    return fokker_json(with(words("diagnose --grid geometric:20:0.01 --nodes 48 --bound-samples 19 --box-points 19 "
                                  "--samples 999 --json"),
                            with({"--model", model}, more)));
  };
  // An exact density: e^φ integrable, R = 0.
  const Json planar = diagnose(planar_mixture());
  EXPECT_EQ(planar["radial_slopes"]["integrable"], true);
  EXPECT_EQ(planar["radial_slopes"]["reason"], nullptr);
  EXPECT_EQ(planar["energy"]["method"], "grid");
  EXPECT_EQ(planar["energy"]["times"].size(), 21u);
  EXPECT_EQ(planar["energy"]["mass"].size(), 21u);
  for (const char* key : {"kl_end", "dissipation", "kl_prior", "residual_work", "left", "right", "difference"}) {
    EXPECT_TRUE(planar["identity"][key]["value"].is_number()) << key;
    EXPECT_EQ(planar["identity"][key]["standard_error"], 0) << key;
  }
  EXPECT_GT(planar["identity"]["left"]["step_error"], 0);
  EXPECT_EQ(planar["energy"]["step_error"].size(), 21u);
  EXPECT_TRUE(planar["resolved"].is_boolean());
  EXPECT_NEAR(planar["identity"]["residual_work"]["value"], 0, 1e-9);
  EXPECT_EQ(planar["upper_bound"]["over_box"]["largest_eigenvalue"].size(), 21u);
  EXPECT_TRUE(planar["upper_bound"]["over_samples"]["vacuous"].is_boolean());
  EXPECT_GT(planar["gap"]["w2"], 0);
  EXPECT_EQ(planar["gap"]["sliced_w2"], nullptr);

  const Json solid = diagnose(mixture_3d(), {"--energy-samples", "32", "--paths", "4"});
  EXPECT_EQ(solid["energy"]["method"], "paths");
  EXPECT_EQ(solid["energy"]["mass"], nullptr);
  EXPECT_GT(solid["identity"]["left"]["standard_error"], 0);
  EXPECT_EQ(solid["gap"]["w2"], nullptr);
  EXPECT_GT(solid["gap"]["sliced_w2"], 0);

  // A bounded potential has no Z, but an energy and a balance.
  const std::string bounded = network("tanh.safetensors", Output::potential, 2, Activation::tanh);
  const Json refused = diagnose(bounded);
  EXPECT_EQ(refused["radial_slopes"]["integrable"], false);
  EXPECT_THAT(refused["radial_slopes"]["reason"].get<std::string>(), HasSubstr("tanh is bounded"));
  EXPECT_EQ(refused["identity"], nullptr);
  EXPECT_TRUE(refused["energy"]["balance"]["difference"]["value"].is_number());
  const Outcome text =
      fokker(with(words("diagnose --grid geometric:9:0.01 --nodes 32 --bound-samples 19 --box-points 19 --samples 0 "
                        "--threads 2 --model"),
                  {bounded}));
  EXPECT_EQ(text.code, 0);
  EXPECT_THAT(text.out, ::testing::ContainsRegex("^diagnosis by 2 threads in [0-9.e-]+ (s|min); SDE ou \\{"));
  EXPECT_THAT(text.out, AllOf(HasSubstr("e^φ is not integrable"), HasSubstr("balance without Z"),
                              HasSubstr(", step error "), HasSubstr("a maximum over points is no bound")));

  // Samples that leave the scale of the data are named beyond the plane too, on standard error with --json or without.
  const std::string untrained = network("solid.safetensors", Output::potential, 3, Activation::tanh);
  save_model(untrained, load_model(untrained), {{"largest_datum", "1e-3"}});
  const Arguments small = with(words("diagnose --grid geometric:9:0.01 --bound-samples 19 --box-points 19 --samples 99 "
                                     "--energy-samples 32 --paths 4 --model"),
                               {untrained});
  const std::string beyond = "have a coordinate beyond 0.01, ten times the largest number of the data";
  const Outcome with_json = fokker(with(small, {"--json"})), without = fokker(small);
  EXPECT_THAT(with_json.err, HasSubstr(beyond));
  EXPECT_THAT(without.err, HasSubstr(beyond));
  EXPECT_EQ(without.out.find("warning"), std::string::npos);
  EXPECT_THAT(Json::parse(with_json.out)["warnings"].dump(), HasSubstr(beyond));

  const auto fails = [&](const Arguments& more, const std::string& what, int code) {
    expect_refused(with({"diagnose", "--model", planar_mixture()}, more), what, code);
  };
  fails({"--energy-samples", "33"}, "33, 32, 48 and 33 were given", 2);
  fails({"--box", "0"}, "0 and 0 were given", 2);
  fails({"--method", "guess"}, "'guess': allowed are auto, grid, paths", 2);
  expect_refused({"diagnose", "--model", mixture_3d(), "--method", "grid"}, "in dimension 3; allowed: 1 and 2", 1);
  expect_refused({"diagnose", "--model", network("v.safetensors", Output::score)}, "needs a potential", 1);
}

}  // namespace
}  // namespace fokker::testing
