// fokker residual: the library's numbers for both kinds of net, and what is refused.
#include <cmath>
#include <string>

#include "command_line.hpp"
#include "fokker/diagnostics/residual_statistics.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;

class ResidualCommand : public CommandLine {};

TEST_F(ResidualCommand, IsTheLibrarysForBothKindsOfNet) {
  for (const Output output : {Output::potential, Output::score}) {
    const std::string model = network("net.safetensors", output);
    for (const int probes : {0, 2}) {
      const Json json = fokker_json({"residual", "--model", model, "--times", "19", "--points", "7", "--box", "2",
                                     "--seed", "5", "--probes", std::to_string(probes), "--json"});
      const ResidualStatistics found = residual_statistics(
          Context(), load_model(model), {.times = 19, .points = 7, .box = 2, .seed = 5, .probes = probes});
      EXPECT_EQ(json["of"], output == Output::potential ? "density" : "score");
      EXPECT_EQ(json["mean_square"], found.mean_square);
      EXPECT_EQ(json["standard_error"], found.standard_error);
      EXPECT_EQ(json["centred_mean_square"], output == Output::potential ? Json(found.centred_mean_square) : Json());
      EXPECT_EQ(json["probes"], probes);
    }
    const std::string text = fokker({"residual", "--model", model, "--times", "3", "--points", "5"}).out;
    EXPECT_THAT(text, HasSubstr(output == Output::potential ? "mean R²" : "mean |r|²"));
    const Json one = fokker_json({"residual", "--model", model, "--times", "1", "--points", "5", "--json"});
    EXPECT_TRUE(one["standard_error"].is_null());
  }
  // An exact density has none.
  EXPECT_LT(fokker_json({"residual", "--model", mixture_3d(), "--times", "9", "--points", "9", "--json"})["mean_square"]
                .get<double>(),
            1e-15);
}

TEST_F(ResidualCommand, RefusesWhatIsNotAllowed) {
  const std::string model = network("net.safetensors", Output::score);
  expect_refused({"residual"}, "--model is required", 2);
  expect_refused({"residual", "--model", model, "--box", "-1"}, "positive, finite box, and -1 was given");
  expect_refused({"residual", "--model", model, "--probes", "-1"}, "--probes", 2);
}

}  // namespace
}  // namespace fokker::testing
