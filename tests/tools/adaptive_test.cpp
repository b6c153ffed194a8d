// Steps of each path's own in `fokker sample` and `fokker density`: the library's numbers, what is said of the steps, and
// what is refused.
#include <cmath>
#include <string>
#include <vector>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;

class AdaptiveCommands : public CommandLine {};

TEST_F(AdaptiveCommands, SamplesAndTheirDensitiesAreTheLibrarys) {
  const std::string net = network("net.safetensors", Output::potential);
  const Model model = load_model(net);
  for (const char* method : {"bs32", "tsit5", "dopri5"}) {
    SCOPED_TRACE(method);
    const AdaptiveOptions options{.method = parse_adaptive_method(method),
                                  .relative_tolerance = 1e-3,
                                  .absolute_tolerance = 1e-4,
                                  .most_steps = 5000};
    const AdaptiveSampler<float> sampler(Context(), model, 10, 0.01, options);
    std::vector<float> x(2 * 99), density(99);
    const AdaptiveReport report = sampler.sample(View<float>(x, 2), {.seed = 11, .first_index = 5});
    const AdaptiveReport density_report =
        sampler.log_density(View<const float>(x, 2), View<float>(density), {.probes = 2, .first_index = 5});
    const Arguments sample = with(
        words("sample --samples 99 --seed 11 --first-index 5 --grid uniform:7:0.01 --tolerance 1e-3:1e-4 --most-steps "
              "5k --probes 2"),
        {"--model", net, "--scheme", method, "--out", file("x.npy"), "--log-density", file("p.npy")});
    const Json json = fokker_json(with(sample, {"--json"}));
    EXPECT_EQ(load_array(file("x.npy")).data, std::vector<double>(x.begin(), x.end()));
    EXPECT_EQ(load_array(file("p.npy")).data, std::vector<double>(density.begin(), density.end()));
    EXPECT_EQ(json["scheme"], method);
    EXPECT_EQ(json["eta"], 0);
    EXPECT_EQ(json["steps"]["tolerance"], Json({1e-3, 1e-4}));
    EXPECT_EQ(json["steps"]["most"], 5000);
    EXPECT_EQ(json["steps"]["taken"], report.accepted);
    EXPECT_EQ(json["steps"]["refused"], report.refused);
    EXPECT_EQ(json["steps"]["evaluations"], report.evaluations);
    EXPECT_EQ(json["steps"]["most_evaluations"], report.most_evaluations);
    EXPECT_EQ(json["steps"]["failed"], 0);
    EXPECT_TRUE(json["steps"]["first_failed"].is_null());
    EXPECT_EQ(json["log_density_steps"]["taken"], density_report.accepted);
    EXPECT_EQ(json["warnings"], Json::array());
    EXPECT_THAT(fokker(sample).err, HasSubstr(fmt::format("x.npy'; {} steps taken and {} refused; SDE ou",
                                                          report.accepted, report.refused)));

    const Arguments of_points =
        with(words("density --grid uniform:7:0.01 --tolerance 1e-3:1e-4 --most-steps 5000"),
             {"--model", net, "--scheme", method, "--points", file("x.npy"), "--out", file("d.npy"), "--json"});
    const AdaptiveReport exact = sampler.log_density(View<const float>(x, 2), View<float>(density));
    const Json points = fokker_json(of_points);
    EXPECT_EQ(load_array(file("d.npy")).data, std::vector<double>(density.begin(), density.end()));
    EXPECT_EQ(points["scheme"], method);
    EXPECT_EQ(points["time"], 0.01);
    EXPECT_EQ(points["steps"]["taken"], exact.accepted);
    EXPECT_EQ(points["steps"]["refused"], exact.refused);
  }
  // States that are given lead on from the first time of the grid; one tolerance is both.
  const std::vector<float> states{0.5f, -1, 0.25f, 2}, times{4, 2, 0.5f};
  save_npy(file("states.npy"), {2, 2}, states.data());
  save_npy(file("times.npy"), {3}, times.data());
  std::vector<float> expected = states;
  AdaptiveSampler<float>(Context(), model, 4, 0.5, {.relative_tolerance = 1e-4, .absolute_tolerance = 1e-4})
      .integrate(View<float>(expected, 2));
  fokker_json({"sample", "--model", net, "--scheme", "tsit5", "--tolerance", "1e-4", "--initial", file("states.npy"),
               "--grid", "file:" + file("times.npy"), "--out", file("x.npy"), "--json"});
  EXPECT_EQ(load_array(file("x.npy")).data, std::vector<double>(expected.begin(), expected.end()));
}

TEST_F(AdaptiveCommands, NameThePathThatDoesNotReachItsEnd) {
  const Arguments sample = with(words("sample --samples 9 --scheme dopri5 --grid uniform:3:0.1 --most-steps 2"),
                                {"--model", planar_mixture(), "--out", file("x.npy")});
  const Outcome outcome = fokker(with(sample, {"--json"}));
  EXPECT_EQ(outcome.code, 0);
  const Json json = Json::parse(outcome.out);
  EXPECT_EQ(json["steps"]["failed"], 9);
  EXPECT_EQ(json["steps"]["first_failed"]["number"], 0);
  EXPECT_GT(json["steps"]["first_failed"]["time"].get<double>(), 0.1);
  EXPECT_EQ(json["not_finite"], 9);
  const std::string sentence =
      "of 9 paths 9 did not reach their end, the first of them number 0, which took 2 steps, the most that are "
      "allowed, "
      "to t = ";
  EXPECT_THAT(json["warnings"][0].get<std::string>(), HasSubstr(sentence));
  EXPECT_THAT(outcome.err, HasSubstr("fokker: warning: " + sentence));
  const std::vector<float> points(18, 0.5f);
  save_npy(file("points.npy"), {9, 2}, points.data());
  const Outcome density =
      fokker(with(words("density --scheme bs32 --grid uniform:3:0.1 --most-steps 2"),
                  {"--model", planar_mixture(), "--points", file("points.npy"), "--out", file("p.npy")}));
  EXPECT_EQ(density.code, 0);
  EXPECT_THAT(density.err, HasSubstr("fokker: warning: " + sentence));
  EXPECT_THAT(density.err, HasSubstr("9 not finite; "));
}

TEST_F(AdaptiveCommands, RefuseWhatIsNotAllowed) {
  const std::string net = network("net.safetensors", Output::potential), out = file("out.npy");
  put(file("x.csv"), "0.5,1\n");
  put(file("point.json"), R"({"weights": [1], "means": [[1, 1]], "covariances": [0]})");
  const Arguments sample{"sample", "--model", net, "--out", out, "--scheme"},
      density{"density", "--model", net, "--points", file("x.csv"), "--out", out, "--scheme"};
  expect_refused({
      {with(sample, {"rk45"}), "unknown scheme 'rk45': allowed are euler-maruyama", 2},
      {with(sample, {"rk45"}), "stochastic-heun, bs32, tsit5, dopri5", 2},
      {with(sample, {"heun", "--tolerance", "1e-3"}), "--tolerance given with --scheme heun; allowed: with bs32, tsit5",
       2},
      {with(sample, {"heun", "--most-steps", "9"}), "--most-steps given with --scheme heun", 2},
      {with(sample, {"tsit5", "--eta", "0.5"}), "--eta given with --scheme tsit5; allowed: with a scheme that steps",
       2},
      {with(sample, {"tsit5", "--temperature", "0.5"}), "--temperature given with --scheme tsit5", 2},
      {with(sample, {"tsit5", "--trajectory", file("t.npz")}), "--trajectory given with --scheme tsit5", 2},
      {with(sample, {"tsit5", "--tolerance", "1e-7"}), "--tolerance '1e-7' given; allowed: R or R:A, numbers from 1e-6",
       2},
      {with(sample, {"tsit5", "--tolerance", "1e-3:x"}), "--tolerance '1e-3:x' given", 2},
      {with(sample, {"tsit5", "--tolerance", "nan"}), "--tolerance 'nan' given", 2},
      {with(sample, {"tsit5", "--tolerance", "2"}), "--tolerance '2' given", 2},
      {with(sample, {"tsit5", "--most-steps", "0"}), "--most-steps 0 given", 2},
      {{"sample", "--model", file("point.json"), "--out", out, "--scheme", "tsit5"},
       "the probability flow is taken at t = 0"},
      {with(density, {"euler-maruyama", "--tolerance", "1e-3"}), "--tolerance given with --scheme euler-maruyama", 2},
      {with(density, {"tsit5", "--paths", "9"}), "--paths given with --scheme tsit5", 2},
      {with(density, {"rk45"}), "unknown scheme 'rk45'", 2},
      {{"density", "--model", network("relu.safetensors", Output::potential, 2, Activation::relu), "--points",
        file("x.csv"), "--scheme", "tsit5", "--out", out},
       "relu"},
  });
}

}  // namespace
}  // namespace fokker::testing
