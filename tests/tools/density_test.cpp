// fokker density: what it writes is what the library returns, and of a mixture what its own formula says.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "command_line.hpp"
#include "compare.hpp"
#include "fokker/diagnostics/sde_density.hpp"
#include "reference_mixture.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;

class DensityCommand : public CommandLine {
 protected:
  // Points [n, d] that are float32 numbers.
  std::string spread(std::int64_t n, std::int64_t d, const std::string& name = "x.npy") const {
    std::vector<float> x;
    for (std::int64_t i = 0; i < n * d; ++i) x.push_back(2 * std::sin(0.7f * static_cast<float>(i)));
    save_npy(file(name), {n, d}, x.data());
    return file(name);
  }
};

TEST_F(DensityCommand, IsTheLibrarys) {
  for (const std::string& path : {mixture_3d(), network("net.safetensors", Output::potential)}) {
    const Model model = load_model(path);
    const std::int64_t d = model.dimension();
    for (const std::int64_t n : {0, 1, 19}) {
      std::vector<double> x;
      for (std::int64_t i = 0; i < n * d; ++i) x.push_back(std::sin(double(3 * i + 1)));
      save_npy(file("x.npy"), {n, d}, x.data());
      const Json json =
          fokker_json({"density", "--model", path, "--points", file("x.npy"), "--out", file("d.safetensors"), "--time",
                       "0.5", "--paths", "99", "--steps", "8", "--seed", "7", "--common-paths", "--json"});
      EXPECT_EQ(json["points"], n);
      EXPECT_EQ(json["time"], 0.5);
      const SdeDensity expected = sde_log_density(Context(), model, 0.5, {x.data(), n, d},
                                                  {.paths = 99, .steps = 8, .seed = 7, .common_paths = true});
      const SafeTensors there = SafeTensors::load(file("d.safetensors"));
      EXPECT_EQ(there.tensors.size(), 5u);
      EXPECT_EQ(there.at("log_density").to_double(), expected.log_density);
      EXPECT_EQ(there.at("standard_error").to_double(), expected.standard_error);
      EXPECT_EQ(there.at("step_error").to_double(), expected.step_error);
      EXPECT_EQ(there.at("effective_paths").to_double(), expected.effective_paths);
      EXPECT_EQ(there.at("tail_index").to_double(), expected.tail_index);
      EXPECT_EQ(json["heavy_tailed"], expected.heavy_tailed);
    }
  }
  // Without the tensors it is the estimate alone.
  const Arguments of_points{"density", "--model", mixture_3d(), "--points", file("x.npy"), "--paths",
                            "9",       "--time",  "0.5",        "--json",   "--out"};
  save_npy(file("x.npy"), {19, 3}, std::vector<float>(57, 0.25f).data());
  const Json json = fokker_json(with(of_points, {file("d.safetensors")}));
  fokker_json(with(of_points, {file("d.npy")}));
  const std::vector<double> all = SafeTensors::load(file("d.safetensors")).at("log_density").to_double();
  EXPECT_EQ(load_array(file("d.npy")).data, all);
  EXPECT_NEAR(json["mean"].get<double>(), std::accumulate(all.begin(), all.end(), 0.0) / 19, 1e-12);
  save_npy(file("x.npy"), {19, 2}, std::vector<float>(38).data());
  const Arguments wrong{"density", "--model", mixture_3d(), "--points", file("x.npy"), "--out", file("e.safetensors")};
  expect_refused(wrong, "has shape [19, 2]; needed for this model: [N, 3]");
  Arguments late = with(wrong, {"--time", "10.5"});
  late[2] = planar_mixture();
  expect_refused(late, "at time 10.5 was asked for; allowed: 0 to 10");
  EXPECT_FALSE(std::filesystem::exists(file("e.safetensors")));
}

// The exact score transports exactly: at the end of the grid the flow's density is p_t itself. With rate 2 and T = 10
// the prior misses p_T by e^{-20}; the bounds are those of tests/sampler_test.cpp, where the same steps are taken.
TEST_F(DensityCommand, OfTheFlowOfAMixtureIsTheMixtures) {
  for (const std::int64_t d : {1, 2, 3}) {
    SCOPED_TRACE(d);
    const GaussianMixture mixture = random_mixture(d, 2, 5, 0.2);
    const Json law{{"weights", mixture.weights()},
                   {"means", Json::array()},
                   {"covariances", Json::array()},
                   {"sde", "ou"},
                   {"sde_parameters", {{"rate", 2}, {"g", 1.5}}}};
    Json model = law;
    for (std::int64_t k = 0; k < 2; ++k) {
      const auto* mean = mixture.means().data() + k * d;
      const auto* covariance = mixture.covariances().data() + k * d * d;
      model["means"].push_back(std::vector<double>(mean, mean + d));
      Json rows = Json::array();
      for (std::int64_t i = 0; i < d; ++i) {
        rows.push_back(std::vector<double>(covariance + i * d, covariance + (i + 1) * d));
      }
      model["covariances"].push_back(rows);
    }
    put(file("m.json"), model.dump());
    const Array x = load_array(spread(99, d));
    const Json json = fokker_json({"density", "--model", file("m.json"), "--points", file("x.npy"), "--scheme", "rk4",
                                   "--grid", "geometric:300:0.01", "--out", file("p.npy"), "--json"});
    const Array found = load_array(file("p.npy"));
    EXPECT_EQ(found.shape, (std::vector<std::int64_t>{99}));
    std::vector<double> expected;
    for (std::int64_t i = 0; i < 99; ++i) {
      expected.push_back(
          double(reference(mixture, ForwardSde::ou({.rate = 2, .g = 1.5}), 0.01L, x.data.data() + i * d).value));
    }
    EXPECT_TRUE(agrees(found.data, expected, {.norm = 1e-4, .absolute = 1e-4}));
    double mean = 0, square = 0;
    for (const double v : found.data) mean += v / 99;
    for (const double v : found.data) square += (v - mean) * (v - mean);
    EXPECT_NEAR(json["mean"].get<double>(), mean, 1e-12 * std::fabs(mean));
    EXPECT_NEAR(json["standard_error"].get<double>(), std::sqrt(square / 98 / 99), 1e-12);
    EXPECT_EQ(json["points"], 99);
    EXPECT_EQ(json["time"], 0.01);
    EXPECT_EQ(json["not_finite"], 0);
    EXPECT_EQ(json["scheme"], "rk4");
    EXPECT_EQ(json["sde"]["parameters"]["rate"], 2);
    EXPECT_EQ(json["warnings"], Json::array());
  }
}

TEST_F(DensityCommand, OfTheFlowIsTheLibrarys) {
  for (const std::string& path :
       {network("net.safetensors", Output::potential), network("score.safetensors", Output::score)}) {
    const Model model = load_model(path);
    const TimeGrid grid = TimeGrid::parse("geometric:9:1e-3", model.sde);
    for (const std::int64_t n : {0, 1, 989}) {
      const Array x = load_array(spread(n, 2));
      const std::vector<float> points(x.data.begin(), x.data.end());
      for (const auto& [scheme, probes] : {std::pair("euler", 0), std::pair("heun", 3), std::pair("rk4", 0)}) {
        const Json json = fokker_json({"density", "--model", path, "--points", file("x.npy"), "--scheme", scheme,
                                       "--grid", "geometric:9:1e-3", "--probes", std::to_string(probes), "--law",
                                       "gaussian", "--probe-seed", "7", "--out", file("p.npy"), "--json"});
        std::vector<float> expected(static_cast<std::size_t>(n));
        Sampler(Context(), model, grid)
            .log_density(View<const float>(points, 2), View<float>(expected), parse_scheme(scheme),
                         {.probes = probes, .law = ProbeLaw::gaussian, .seed = 7});
        EXPECT_EQ(load_array(file("p.npy")).data, std::vector<double>(expected.begin(), expected.end()));
        EXPECT_EQ(json["probes"], probes);
        EXPECT_EQ(json["mean"].is_null(), n == 0);
        EXPECT_EQ(json["standard_error"].is_null(), n < 2);
      }
    }
  }
}

// The same paths with other probes each time: the mean of single estimates, and its error by their spread. Over
// points those errors are as large as what the estimates are off by.
TEST_F(DensityCommand, OfRepeatedProbesHasItsError) {
  const std::string path = network("net.safetensors", Output::potential, 3);
  const Model model = load_model(path);
  const TimeGrid grid = TimeGrid::parse("geometric:9:1e-3", model.sde);
  const std::int64_t n = 989, repeats = 5;
  const Array x = load_array(spread(n, 3));
  const std::vector<float> points(x.data.begin(), x.data.end());
  const auto log_density = [&](const Divergence& divergence) {
    std::vector<float> found(static_cast<std::size_t>(n));
    Sampler(Context(), model, grid)
        .log_density(View<const float>(points, 3), View<float>(found), Scheme::heun, divergence);
    return found;
  };
  std::vector<std::vector<float>> estimates;
  for (std::uint64_t k = 0; k < repeats; ++k) estimates.push_back(log_density({.probes = 2, .seed = 7 + k}));
  const std::vector<float> exact = log_density({});
  std::vector<double> expected, errors;
  double typical = 0, off = 0;
  for (std::size_t i = 0; i < std::size_t(n); ++i) {
    double mean = 0, square = 0;
    for (const auto& estimate : estimates) mean += double(estimate[i]) / repeats;
    for (const auto& estimate : estimates) square += std::pow(estimate[i] - mean, 2);
    expected.push_back(mean), errors.push_back(std::sqrt(square / (repeats * (repeats - 1))));
    typical += errors.back() * errors.back() / double(n), off += std::pow(mean - exact[i], 2) / double(n);
  }
  const Arguments repeated{
      "density",          "--model",  path, "--points",     file("x.npy"), "--scheme",        "heun", "--grid",
      "geometric:9:1e-3", "--probes", "2",  "--probe-seed", "7",           "--probe-repeats", "5",    "--out"};
  const Json json = fokker_json(with(repeated, {file("p.safetensors"), "--bits-per-dim", "8", "--json"}));
  const SafeTensors there = SafeTensors::load(file("p.safetensors"));
  EXPECT_EQ(there.tensors.size(), 3u);
  const std::vector<double> found = there.at("log_density").to_double();
  // Rounded to float32 once, as the error of the mean is, whose sums cancel to 1e-7 of the numbers.
  EXPECT_TRUE(agrees(found, expected, {.relative = 1e-7, .norm = 1e-7}));
  EXPECT_TRUE(agrees(there.at("standard_error").to_double(), errors, {.relative = 1e-6, .of_rms = 1e-7, .norm = 1e-6}));
  std::vector<double> bits;
  for (const double v : expected) bits.push_back(8 - v / std::log(8.0));  // log2 of three dimensions
  EXPECT_TRUE(agrees(there.at("bits_per_dim").to_double(), bits, {.relative = 3e-7, .of_rms = 1e-7, .norm = 3e-7}));
  EXPECT_EQ(json["probe_repeats"], repeats);
  EXPECT_EQ(json["probe_seed"], 7);
  EXPECT_TRUE(agrees(json["probe_error"].get<double>(), std::sqrt(typical), 1e-6));
  // A mean square over 989 points of few degrees of freedom each: within a tenth or two, and more where points differ.
  EXPECT_GT(off, 0.5 * typical);
  EXPECT_LT(off, 2 * typical);
  const double mean = std::accumulate(found.begin(), found.end(), 0.0) / double(n);
  EXPECT_EQ(json["bits_per_dim"]["offset"], 8.0);
  EXPECT_NEAR(json["bits_per_dim"]["mean"].get<double>(), 8 - mean / std::log(8.0), 1e-12 * (8 + std::fabs(mean)));
  EXPECT_NEAR(json["bits_per_dim"]["standard_error"].get<double>(),
              json["standard_error"].get<double>() / std::log(8.0), 1e-12);
  const Outcome text = fokker(with(repeated, {file("p.npy"), "--bits-per-dim", "0"}));
  EXPECT_THAT(text.err, HasSubstr(" a point; "));
  EXPECT_THAT(text.err, HasSubstr(" bits per dimension with the offset 0, standard error "));
  const std::vector<double> alone = load_array(file("p.npy")).data;
  EXPECT_EQ(alone, found);
  // Nothing is said of bits where no offset is given, nor of probes where there is one estimate.
  const Json once = fokker_json({"density", "--model", path, "--points", file("x.npy"), "--scheme", "heun", "--grid",
                                 "geometric:9:1e-3", "--probes", "2", "--out", file("q.safetensors"), "--json"});
  EXPECT_TRUE(once["bits_per_dim"].is_null());
  EXPECT_TRUE(once["probe_error"].is_null());
  EXPECT_EQ(SafeTensors::load(file("q.safetensors")).tensors.size(), 1u);
}

// N(0, I/2) stays what it is under ou, and both samplers have its density.
TEST_F(DensityCommand, SaysBitsPerDimensionOfEitherLaw) {
  put(file("m.json"), R"({"weights": [1], "means": [[0, 0]], "covariances": 0.5})");
  const float origin[] = {0, 0};
  save_npy(file("x.npy"), {1, 2}, origin);
  const double bits = 8 + std::log2(3.14159265358979) / 2;  // p(0) = 1/π
  const Arguments density{"density",        "--model", file("m.json"), "--points", file("x.npy"),
                          "--bits-per-dim", "8",       "--json"};
  const Json of_flow =
      fokker_json(with(density, {"--scheme", "rk4", "--grid", "geometric:99:1e-3", "--out", file("flow.safetensors")}));
  EXPECT_NEAR(of_flow["bits_per_dim"]["mean"].get<double>(), bits, 1e-4);
  const Json of_sde = fokker_json(with(density, {"--paths", "99", "--steps", "9", "--out", file("sde.safetensors")}));
  EXPECT_NEAR(of_sde["bits_per_dim"]["mean"].get<double>(), bits, 1e-4);
  EXPECT_TRUE(of_sde["bits_per_dim"]["standard_error"].is_null());
  const std::vector<double> written = SafeTensors::load(file("sde.safetensors")).at("bits_per_dim").to_double();
  ASSERT_EQ(written.size(), 1u);
  EXPECT_NEAR(written[0], of_sde["bits_per_dim"]["mean"].get<double>(), 1e-12);
}

// Points come from any array and go into any of the files, to the same numbers.
TEST_F(DensityCommand, ReadsAndWritesEveryFile) {
  const std::string model = planar_mixture();
  const Array x = load_array(spread(19, 2));
  const std::vector<float> numbers(x.data.begin(), x.data.end());
  std::string text = "a,b\n";
  for (std::size_t i = 0; i < 38; i += 2) text += fmt::format("{},{}\n", numbers[i], numbers[i + 1]);
  put(file("x.csv"), text);
  save_npz(file("x.npz"), {{"x", {19, 2}, numbers.data()}, {"t", {19}, x.data.data()}});
  std::vector<double> first;
  for (const std::string& points : {file("x.npy"), file("x.csv"), file("x.npz:x")}) {
    for (const char* out : {"p.npy", "p.csv", "p.safetensors"}) {
      SCOPED_TRACE(points + " " + out);
      const Outcome outcome = fokker({"density", "--model", model, "--points", points, "--scheme", "heun", "--grid",
                                      "uniform:9:0.1", "--out", file(out)});
      EXPECT_EQ(outcome.code, 0) << outcome.err;
      EXPECT_THAT(outcome.err, HasSubstr("19 log densities by "));
      EXPECT_THAT(outcome.err, HasSubstr(" nats, standard error "));
      EXPECT_THAT(outcome.err, HasSubstr(", 0 not finite; SDE ou {"));
      const std::vector<double> found = std::string(out) == "p.safetensors"
                                            ? SafeTensors::load(file(out)).at("log_density").to_double()
                                            : load_array(file(out)).data;
      if (first.empty()) first = found;
      // A .csv file has the shortest text of each float.
      EXPECT_EQ(std::vector<float>(found.begin(), found.end()), std::vector<float>(first.begin(), first.end()));
    }
  }
  EXPECT_TRUE(get(file("p.csv")).starts_with("log_density\n"));
}

TEST_F(DensityCommand, NamesWhatIsNoResult) {
  const std::vector<float> numbers{0.5f, 1, -1, 1e4f};
  save_npy(file("x.npy"), {2, 2}, numbers.data());
  put(file("point.json"), R"({"weights": [1], "means": [[1, 1]], "covariances": [0]})");
  const Arguments density{"density", "--model", file("point.json"), "--points", file("x.npy"), "--scheme",
                          "heun",    "--out",   file("p.npy"),      "--json",   "--grid"};
  const Json at_zero = fokker_json(with(density, {"uniform:9"}));
  EXPECT_EQ(at_zero["not_finite"], 2);
  EXPECT_TRUE(at_zero["mean"].is_null());
  EXPECT_EQ(at_zero["far"], 10.0);
  EXPECT_EQ(at_zero["far_out"], 1);
  EXPECT_EQ(
      at_zero["warnings"],
      (Json{"of 2 log densities 2 are not finite; a score may be infinite at 0, and --grid geometric:150 ends above",
            "of 2 points 1 have a coordinate beyond 10, ten times the largest number of the mixture's draws"}));
  // m(t) 10 + 10 σ(t) at t = 1, with m = e^{-t} and σ² = (1 - e^{-2t})/2.
  const Json above = fokker_json(with(density, {"uniform:9:1"}));
  EXPECT_EQ(above["not_finite"], 0);
  EXPECT_NEAR(above["far"].get<double>(), 10 * std::exp(-1.0) + 10 * std::sqrt(-std::expm1(-2.0) / 2), 1e-4);
  EXPECT_THAT(above["warnings"][0].get<std::string>(), HasSubstr("and ten deviations of the noise at t = 1"));
}

TEST_F(DensityCommand, RefusesWhatIsNotAllowed) {
  const std::string net = network("net.safetensors", Output::potential), x = spread(9, 2), out = file("out.npy");
  const float bad[] = {0, 1, std::numeric_limits<float>::infinity(), 2};
  save_npy(file("bad.npy"), {2, 2}, bad);
  const Arguments flow{"density", "--model", net, "--scheme", "heun", "--out", out, "--points"},
      sde{"density", "--model", net, "--out", out, "--points"};
  expect_refused({
      {with(flow, {x, "--time", "1"}), "--time given with --scheme heun; allowed: with euler-maruyama", 2},
      {with(flow, {x, "--time", "1"}), "the ODE's density is that at the last time of --grid", 2},
      {with(flow, {x, "--paths", "8"}), "--paths given with --scheme heun", 2},
      {with(flow, {x, "--common-paths"}), "--common-paths given with --scheme heun", 2},
      {with(sde, {x, "--grid", "paper"}), "--grid given with --scheme euler-maruyama; allowed: with euler, heun", 2},
      {with(sde, {x, "--probes", "0"}), "--probes given with --scheme euler-maruyama", 2},
      {with(sde, {x, "--probe-repeats", "2"}), "--probe-repeats given with --scheme euler-maruyama", 2},
      {with(flow, {x, "--probe-repeats", "2"}), "--probe-repeats 2 given with the exact divergence", 2},
      {with(flow, {x, "--probes", "1", "--probe-repeats", "0"}), "--probe-repeats 0", 2},
      {with(flow, {x, "--bits-per-dim", "inf"}), "--bits-per-dim inf given; allowed: a finite offset", 2},
      {with(flow, {x, "--bits-per-dim", "eight"}), "--bits-per-dim eight given; allowed: a number", 2},
      {with(flow, {x, "--probes", "-1"}), "--probes -1", 2},
      {with(flow, {x, "--law", "cauchy"}), "cauchy", 2},
      {with(sde, {x, "--scheme", "leapfrog"}), "leapfrog", 2},
      {{"density", "--model", net, "--points", x, "--out", file("p.txt")}, ".npy or .csv or .safetensors", 2},
      {with(flow, {file("absent.npy")}), "absent.npy"},
      {with(flow, {file("bad.npy")}), "row 1, column 0 of '"},
      {with(flow, {file("bad.npy")}), "is inf; points are finite float32 numbers"},
      {with(flow, {spread(9, 3, "wide.npy")}), "has shape [9, 3]; needed for this model: [N, 2]"},
      {with(flow, {x, "--grid", "uniform:3:10"}), "10 was given"},
      {{"density", "--model", network("score.safetensors", Output::score), "--points", x, "--out", out},
       "--scheme euler-maruyama given for a score net, whose reverse SDE has no density that is known; allowed: euler"},
      {{"density", "--model", network("relu.safetensors", Output::potential, 2, Activation::relu), "--points", x,
        "--scheme", "heun", "--out", out},
       "relu"},
  });
}

}  // namespace
}  // namespace fokker::testing
