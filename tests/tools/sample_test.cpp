// fokker sample: the library's samples for any number of threads, and what is refused.
#include <cmath>
#include <string>
#include <vector>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;

class SampleCommand : public CommandLine {};

TEST_F(SampleCommand, IsTheLibrarysForAnyNumberOfThreads) {
  const std::string model = network("net.safetensors", Output::potential);
  const Arguments base{"sample", "--model", model,    "--samples",         "989",
                       "--seed", "11",      "--grid", "geometric:30:1e-3", "--scheme"};
  for (const char* scheme : {"sde", "euler", "heun", "rk4"}) {
    const Arguments one = with(base, {scheme, "--threads", "1", "--out", file("one.npy"), "--log-density",
                                      file("one_p.npy"), "--json"}),
                    two = with(base, {scheme, "--threads", "2", "--out", file("two.npy"), "--log-density",
                                      file("two_p.npy"), "--json"});
    const Json json = fokker_json(one);
    EXPECT_EQ(json["steps"], 30);
    fokker_json(two);
    EXPECT_EQ(get(file("one.npy")), get(file("two.npy"))) << scheme;
    EXPECT_EQ(get(file("one_p.npy")), get(file("two_p.npy"))) << scheme;

    const Array array = load_array(file("one.npy")), density = load_array(file("one_p.npy"));
    EXPECT_TRUE(array.is_float32);
    EXPECT_EQ(array.shape, (std::vector<std::int64_t>{989, 2}));
    double mean[2] = {0, 0}, covariance[2][2] = {};
    for (std::size_t i = 0; i < 2 * 989; ++i) mean[i % 2] += array.data[i] / 989;
    for (std::size_t i = 0; i < 2 * 989; i += 2) {
      for (std::size_t k = 0; k < 4; ++k) {
        covariance[k / 2][k % 2] += (array.data[i + k / 2] - mean[k / 2]) * (array.data[i + k % 2] - mean[k % 2]) / 989;
      }
    }
    EXPECT_EQ(json["moments"]["count"], 989);
    EXPECT_EQ(json["moments"]["left_out"], 0);
    const double square = covariance[0][0] + covariance[1][1];  // sums of 989 terms round by less than 1e-12 of it
    for (std::size_t k = 0; k < 4; ++k) {
      EXPECT_NEAR(json["moments"]["mean"][k / 2].get<double>(), mean[k / 2], 1e-12 * std::sqrt(square));
      EXPECT_NEAR(json["moments"]["covariance"][k / 2][k % 2].get<double>(), covariance[k / 2][k % 2], 1e-12 * square);
    }
    EXPECT_EQ(density.shape, std::vector<std::int64_t>{989});
    const Model loaded = load_model(model);
    const Sampler sampler(Context(), loaded, TimeGrid::parse("geometric:30:1e-3", loaded.sde));
    std::vector<float> samples(2 * 989), log_density(989);
    SampleOptions options;
    options.scheme = parse_scheme(scheme);
    options.seed = 11;
    sampler.sample(View<float>(samples, 2), options);
    EXPECT_EQ(array.data, std::vector<double>(samples.begin(), samples.end())) << scheme;
    sampler.log_density(View<const float>(samples, 2), View<float>(log_density),
                        options.scheme == Scheme::euler_maruyama ? Scheme::heun : options.scheme);
    EXPECT_EQ(density.data, std::vector<double>(log_density.begin(), log_density.end())) << scheme;
  }
  // Steps are counts as people type them.
  const Json typed = fokker_json({"sample", "--model", model, "--samples", "989", "--seed", "11", "--grid",
                                  "geometric:3e1:1e-3", "--scheme", "rk4", "--out", file("typed.npy"), "--json"});
  EXPECT_EQ(typed["grid"], "geometric:30:1e-3");
  EXPECT_EQ(get(file("typed.npy")), get(file("one.npy")));
  Arguments other = with(base, {"sde", "--out", file("other.npy"), "--json"});
  other[6] = "12";
  fokker_json(other);
  EXPECT_NE(get(file("one.npy")), get(file("other.npy")));
}

// A point mass has no score at t = 0, where the default grid ends. Second-order steps evaluate it there.
TEST_F(SampleCommand, SaysHowManySamplesAreNone) {
  put(file("point.json"), R"({"weights": [1], "means": [[1, 1]], "covariances": [0]})");
  const Arguments point = with(words("sample --backend cpu --samples 19 --grid uniform:9"),
                               {"--model", file("point.json"), "--out", file("s.npy")});
  for (const char* scheme : {"sde", "euler", "heun", "rk4"}) {
    SCOPED_TRACE(scheme);
    const bool lost = scheme == std::string("heun") || scheme == std::string("rk4");
    const Outcome outcome = fokker(with(point, {"--scheme", scheme, "--json"}));
    EXPECT_EQ(outcome.code, 0);
    const Json json = Json::parse(outcome.out);
    EXPECT_EQ(json["not_finite"], lost ? 19 : 0);
    EXPECT_EQ(json["far_out"], 0);
    EXPECT_EQ(json["far"], 10.0);
    EXPECT_EQ(json["sde"]["name"], "ou");
    ASSERT_EQ(json["warnings"].size(), lost ? 1u : 0u);
    if (lost) {
      EXPECT_THAT(outcome.err, HasSubstr("fokker: warning: of 19 samples 19 are not finite; a score may be infinite"));
    }
  }
  EXPECT_THAT(fokker(with(point, {"--scheme", "sde", "--log-density", file("l.npy")})).err,
              HasSubstr("fokker: warning: of 19 log densities 19 are not finite\n"));

  // A trained network's file says how large its data were; of another's the SDE says what it can carry.
  Architecture architecture{.hidden = {7}};
  Mlp mlp = Mlp::initialise(architecture, 1);
  for (double& parameter : mlp.parameters) parameter *= 40;
  const Model model{ForwardSde::vp_linear(), mlp};
  save_model(file("ours.safetensors"), model, {{"largest_datum", "1e-3"}});
  save_model(file("other.safetensors"), model);
  const Arguments sample = words("sample --backend cpu --samples 99 --grid uniform:9 --json --out " + file("s.npy"));
  const Json ours = fokker_json(with(sample, {"--model", file("ours.safetensors")}));
  EXPECT_EQ(ours["far"], 0.01);
  EXPECT_GT(ours["far_out"].get<int>(), 90);
  EXPECT_THAT(ours["warnings"][0].get<std::string>(),
              HasSubstr("have a coordinate beyond 0.01, ten times the largest number of the data"));
  // m(1) = exp(−(0.1 + 19.9/2)/2).
  EXPECT_NEAR(fokker_json(with(sample, {"--model", file("other.safetensors")}))["far"].get<double>(),
              10 * std::exp(0.5 * (0.1 + 0.5 * 19.9)), 1e-3);
}

// What only its author knows of a network's file is asked for.
TEST_F(SampleCommand, ASdeThatTheFileDoesNotNameIsAskedFor) {
  SafeTensors foreign = SafeTensors::load(network("net.safetensors", Output::score));
  foreign.metadata.clear();
  foreign.save(file("foreign.safetensors"));
  Arguments sample =
      with(words("sample --samples 9 --grid uniform:3 --activation silu --output score"),
           {"--layers", "input,hidden1,output", "--model", file("foreign.safetensors"), "--out", file("s.npy")});
  expect_refused(sample, "lack inputs, sde; give these there");
  expect_refused(with(sample, {"--inputs", "x;t"}), "--inputs", 2);
  sample.insert(sample.end(), {"--inputs", "t,x"});
  expect_refused(sample, "lack sde; give these there, or by options of these names; sde is ou, vp-linear");
  EXPECT_EQ(fokker_json(with(sample, {"--sde", "vp-linear", "--json"}))["sde"]["parameters"]["beta_max"], 20);
  expect_refused(with(sample, {"--sde", "vp-linear", "--beta", "2"}), "--beta given with the activation silu", 2);
  expect_refused({"sample", "--model", network("tanh.safetensors", Output::score, 2, Activation::tanh), "--beta", "2",
                  "--out", file("s.npy")},
                 "beta is given, and the activation tanh has no such parameter");
}

// The paper's grid ends at 0, where the coefficients of most forms are infinite.
TEST_F(SampleCommand, ANetworkInAFormGetsAGridThatItCanBeTakenOn) {
  const Architecture a{.hidden = {5}, .activation = Activation::tanh, .form = {.form = Form::edm}};
  save_model(file("edm.safetensors"), {ForwardSde::vp_linear(), Mlp::initialise(a, 1)});
  const Arguments sample = {
      "sample", "--model", file("edm.safetensors"), "--scheme",      "heun",       "--samples", "9",
      "--json", "--out",   file("s.npy"),           "--log-density", file("l.npy")};
  EXPECT_EQ(fokker_json(sample)["grid"], "geometric:300");
  EXPECT_EQ(fokker_json(with(sample, {"--grid", "uniform:5:0.1"}))["grid"], "uniform:5:0.1");
  expect_refused(
      with(sample, {"--grid", "uniform:5"}),
      "the scheme heun takes the network at t = 0, where a coefficient of its output edm under the SDE vp-linear");
}

TEST_F(SampleCommand, RefusesWhatIsNotAllowed) {
  const std::string net = network("net.safetensors", Output::potential), good_net = get(net), out = file("out.npy"),
                    net_out = file("out.safetensors");
  const std::string huge = "9000000000000000000", huge_seed = "18446744073709551616";
  put(file("regular"), "a file");
  std::filesystem::create_directory(file("folder.npy"));
  const Arguments sample{"sample", "--model", net};
  expect_refused({
      {with(sample, {"--samples", "0", "--out", out}), "--samples 0", 2},
      {with(sample, {"--samples", "-5", "--out", out}), "--samples -5", 2},
      {with(sample, {"--samples", huge, "--out", out}), "--samples " + huge, 2},
      {with(sample, {"--samples", "900000000000", "--out", out}), "memory"},
      {with(sample, {"--scheme", "leapfrog", "--out", out}), "leapfrog", 2},
      {with(sample, {"--grid", "cubic", "--out", out}), "cubic", 2},
      {with(sample, {"--grid", "uniform:0", "--out", out}), "steps; 0", 2},
      {with(sample, {"--grid", "uniform:1e8", "--out", out}), "steps; 100000000", 2},
      {with(sample, {"--grid", "uniform:1e-3", "--out", out}), "'1e-3' is not a valid number of steps", 2},
      {with(sample, {"--grid", "file:" + file("absent.npy"), "--out", out}), "absent.npy"},
      {with(sample, {"--threads", "-1", "--out", out}), "--threads -1", 2},
      {with(sample, {"--activation", "swish", "--out", out}), "swish", 2},
      {with(sample, {"--negative-slope", "2", "--out", out}), "negative_slope = 2: allowed are 1e-06 to 1", 2},
      {with(sample, {"--beta", "nan", "--out", out}), "beta", 2},
      {with(sample, {"--sde", "levy", "--out", out}), "levy", 2},
      {with(sample, {"--sde-parameters", "{\"T\": -1}", "--out", out}), "T"},
      {with(sample, {"--sde-parameters", "{", "--out", out}), "not valid JSON", 2},
      {with(sample, {"--layers", "input,nothing", "--out", out}), "nothing"},
      {with(sample, {"--out", file("nowhere/s.npy")}), "nowhere"},
      {with(sample, {"--out", file("folder.npy")}), "folder"},
      {with(sample, {"--out", file("regular/s.npy")}), "regular"},
      {with(sample, {"--out", file("s.txt")}), ".npy", 2},
      {with(sample, {"--out", ""}), ".npy", 2},
      {with(sample, {"--log-density", net_out, "--out", out}), ".npy", 2},
      {with(sample, {"--seed", "-5", "--out", out}), "--seed -5 given; allowed: integers from 0 to 1844", 2},
      {with(sample, {"--seed", huge_seed, "--out", out}), "--seed " + huge_seed + " given", 2},
      {with(sample, {"--seed", "0x10", "--out", out}), "--seed 0x10", 2},
      {with(sample, {"--seed", "", "--out", out}), "--seed '' given", 2},
      {with(sample, {"--samples", huge + "0", "--out", out}), "--samples " + huge + "0", 2},
      {with(sample, {"--samples", "1e-5", "--out", out}), "--samples 1e-5", 2},
      {with(sample, {"--threads", huge_seed, "--out", out}), "--threads " + huge_seed, 2},
      {with(sample, {"--grid", "uniform:5:-1", "--out", out}), "-1", 2},
      {with(sample, {"--grid", "geometric:5:0", "--out", out}), "a finite end above 0; 0 was given", 2},
      {with(sample, {"--grid", "file:", "--out", out}), "names no file", 2},
      {with(sample, {"--grid", "uniform:5:10", "--out", out}), "10 was given"},  // this model's horizon
      {with(sample, {"--sde-parameters", "{\"t_min\": 1e-40}", "--out", out}), "at least 1e-37"},
  });
  EXPECT_EQ(get(net), good_net);
  EXPECT_EQ(get(file("regular")), "a file");
}

}  // namespace
}  // namespace fokker::testing
