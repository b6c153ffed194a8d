// fokker sample: the library's samples for any number of threads, and what is refused.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "compare.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;

// The array x of three dimensions of a .npz file, which is its first.
struct States {
  std::string header;
  std::vector<float> values;
};
States states_of(const std::string& npz) {
  const std::string bytes = get(npz);
  const auto number = [&](std::size_t at) {
    return static_cast<std::size_t>(static_cast<unsigned char>(bytes.at(at)) +
                                    256 * static_cast<unsigned char>(bytes.at(at + 1)));
  };
  const std::size_t npy = 30 + number(26) + number(28), data = npy + 10 + number(npy + 8);
  std::uint32_t size;
  std::memcpy(&size, bytes.data() + 22, sizeof size);
  States states{bytes.substr(npy, data - npy), std::vector<float>((size - (data - npy)) / sizeof(float))};
  std::memcpy(states.values.data(), bytes.data() + data, states.values.size() * sizeof(float));
  return states;
}

std::vector<float> floats_of(const std::string& array) {
  const Array there = load_array(array);
  return {there.data.begin(), there.data.end()};
}

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
    if (!is_stochastic(options.scheme)) options.log_density = View<float>(log_density);
    sampler.sample(View<float>(samples, 2), options);
    EXPECT_EQ(array.data, std::vector<double>(samples.begin(), samples.end())) << scheme;
    if (is_stochastic(options.scheme)) {
      sampler.log_density(View<const float>(samples, 2), View<float>(log_density), Scheme::heun);
    }
    EXPECT_EQ(density.data, std::vector<double>(log_density.begin(), log_density.end())) << scheme;
  }
  // Steps are counts as people type them.
  const Json typed =
      fokker_json({"sample", "--model", model, "--samples", "989", "--seed", "11", "--grid", "geometric:3e1:1e-3",
                   "--scheme", "rk4", "--out", file("typed.npy"), "--log-density", file("typed_p.npy"), "--json"});
  EXPECT_EQ(typed["grid"], "geometric:30:1e-3");
  EXPECT_EQ(get(file("typed.npy")), get(file("one.npy")));
  // Without densities they are the same but for what the network rounds otherwise: some roundings a step.
  fokker_json(with(base, {"rk4", "--out", file("alone.npy"), "--json"}));
  const std::vector<double> alone = load_array(file("alone.npy")).data;
  EXPECT_TRUE(agrees(load_array(file("one.npy")).data, alone, {.of_rms = 1e-5, .norm = 1e-5}));
  Arguments other = with(base, {"sde", "--out", file("other.npy"), "--json"});
  other[6] = "12";
  fokker_json(other);
  EXPECT_NE(get(file("one.npy")), get(file("other.npy")));
}

// η and the temperature reach the sampler and the JSON.
TEST_F(SampleCommand, TakesTheFamilysNumbers) {
  const std::string model = network("net.safetensors", Output::score);
  const Arguments base = with(words("sample --samples 33 --seed 3 --grid uniform:20:0.1 --json"), {"--model", model});
  struct Member {
    Arguments arguments;
    SampleOptions options;
    double eta;
  };
  const Model loaded = load_model(model);
  const Sampler sampler(Context(), loaded, TimeGrid::parse("uniform:20:0.1", loaded.sde));
  for (Member& member :
       std::vector<Member>{{{"--eta", "0.5"}, {.eta = 0.5}, 0.5},
                           {{"--scheme", "exponential"}, {.scheme = Scheme::exponential}, 1},
                           {{"--scheme", "ddim"}, {.scheme = Scheme::ddim}, 0},
                           {{"--scheme", "ddim", "--eta", "1"}, {.scheme = Scheme::ddim, .eta = 1.0}, 1},
                           {{"--eta", "1.5", "--temperature", "0.25"}, {.eta = 1.5, .temperature = 0.25}, 1.5},
                           {{"--scheme", "dpm++2m"}, {.scheme = Scheme::dpm_solver_2m}, 0},
                           {{"--scheme", "stochastic-heun"}, {.scheme = Scheme::stochastic_heun}, 1},
                           {{"--langevin", "0.16"}, {.langevin = 0.16}, 1},
                           {{"--scheme", "heun", "--churn", "5"}, {.scheme = Scheme::heun, .churn = {.amount = 5}}, 0},
                           {{"--scheme", "heun", "--churn", "40:0.05:50:1.003"},
                            {.scheme = Scheme::heun, .churn = {.amount = 40, .from = 0.05, .to = 50, .noise = 1.003}},
                            0}}) {
    const Json json = fokker_json(with(base, with(member.arguments, {"--out", file("s.npy")})));
    EXPECT_EQ(json["eta"], member.eta);
    EXPECT_EQ(json["temperature"], member.options.temperature);
    EXPECT_EQ(json["langevin"], member.options.langevin);
    EXPECT_EQ(json["churn"].is_null(), member.options.churn.amount == 0);
    std::vector<float> samples(2 * 33);
    member.options.seed = 3;
    sampler.sample(View<float>(samples, 2), member.options);
    EXPECT_EQ(load_array(file("s.npy")).data, std::vector<double>(samples.begin(), samples.end())) << member.eta;
  }
  EXPECT_EQ(fokker_json(with(base, {"--scheme", "heun", "--out", file("s.npy")}))["eta"], 0);
  expect_refused(with(base, {"--scheme", "heun", "--eta", "1", "--out", file("s.npy")}),
                 "eta 1 given with heun, which draws no noise", 2);
  expect_refused(with(base, {"--temperature", "-1", "--out", file("s.npy")}),
                 "temperature -1 given; allowed: 0 or more", 2);
  expect_refused(with(base, {"--churn", "5", "--out", file("s.npy")}),
                 "churn 5 given with euler-maruyama; allowed with euler, heun and rk4", 2);
  for (const char* churn : {"", "x", "1:2", "1:2:", "1:2:3:4:5"}) {
    expect_refused(with(base, {"--scheme", "heun", "--churn", churn, "--out", file("s.npy")}), "S:FROM:TO:NOISE", 2);
  }
  expect_refused({"density", "--model", model, "--points", file("s.npy"), "--scheme", "ddim", "--out", file("l.npy")},
                 "'ddim' given; allowed for densities: euler-maruyama, euler, heun, rk4", 2);
}

// A point mass has no score at t = 0, where the default grid ends: no scheme takes it there, and densities are none.
TEST_F(SampleCommand, SaysHowManySamplesAreNone) {
  put(file("point.json"), R"({"weights": [1], "means": [[1, 1]], "covariances": [0]})");
  const Arguments point = with(words("sample --backend cpu --samples 19 --grid uniform:9"),
                               {"--model", file("point.json"), "--out", file("s.npy")});
  for (const char* scheme : {"sde", "euler", "heun", "rk4"}) {
    SCOPED_TRACE(scheme);
    const Outcome outcome = fokker(with(point, {"--scheme", scheme, "--json"}));
    EXPECT_EQ(outcome.code, 0);
    const Json json = Json::parse(outcome.out);
    EXPECT_EQ(json["not_finite"], 0);
    EXPECT_EQ(json["far_out"], 0);
    EXPECT_EQ(json["far"], 10.0);
    EXPECT_EQ(json["sde"]["name"], "ou");
    EXPECT_EQ(json["warnings"].size(), 0u);
  }
  EXPECT_THAT(fokker(with(point, {"--scheme", "sde", "--log-density", file("l.npy")})).err,
              HasSubstr("fokker: warning: of 19 log densities 19 are not finite\n"));

  // A trained network's file says how large its data were; of another's the SDE says what it can carry.
  Architecture architecture{.hidden = {7}};
  Mlp mlp = Mlp::initialise(architecture, 1);
  for (double& parameter : mlp.parameters) parameter *= 40;
  const Model model{ForwardSde::vp_linear(), mlp};
  Mlp huge = mlp;
  for (double& parameter : huge.parameters) parameter *= 1e30;
  save_model(file("huge.safetensors"), {ForwardSde::vp_linear(), huge});
  EXPECT_THAT(fokker(with(words("sample --backend cpu --samples 19 --grid uniform:9"),
                          {"--model", file("huge.safetensors"), "--out", file("s.npy")}))
                  .err,
              HasSubstr("fokker: warning: of 19 samples 19 are not finite; a score may be infinite"));
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
  EXPECT_EQ(fokker_json(with(sample, {"--sde", "ve"}))["grid"], "uniform:300:0.001");
  EXPECT_EQ(fokker_json(with(sample, {"--sde", "ve", "--sde-parameters", R"({"t_min": 0.01})"}))["grid"],
            "uniform:300:0.01");
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
  const Arguments sample{"sample", "--model", net}, trajectory{"--trajectory", file("t.npz"), "--out", out},
      initial{"--initial", file("states.csv"), "--out", out};
  put(file("states.csv"), "1,2\n3,4\n5,6\n");
  const float states[] = {1, std::nanf(""), 3, 4, 5, 6}, late[] = {5, 1};
  save_npy(file("nan.npy"), {3, 2}, states);
  save_npy(file("wide.npy"), {2, 3}, states);
  save_npy(file("late.npy"), {2}, late);
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
      {with(sample, {"--first-index", "-1", "--out", out}), "--first-index -1 given; allowed: integers from 0 to", 2},
      {with(sample, {"--first-index", huge_seed, "--out", out}), "--first-index " + huge_seed, 2},
      {with(sample, {"--trajectory", file("t.npy"), "--out", out}), "a name that ends in .npz", 2},
      {with(sample, {"--snapshots", "5", "--out", out}), "--snapshots requires --trajectory", 2},
      {with(with(sample, trajectory), {"--snapshots", "1"}), "--snapshots 1 given; allowed: integers from 2 to 64", 2},
      {with(with(sample, trajectory), {"--snapshots", "65"}), "--snapshots 65 given", 2},
      {with(with(sample, trajectory), {"--snapshots", "5", "--grid", "uniform:3"}),
       "--snapshots 5 given; allowed: 2 to 4 with a grid of 3 steps"},
      {with(with(sample, trajectory), {"--samples", "30M"}),
       "11 states of 30000000 samples in 2 dimensions would have 6.6e+08 numbers; allowed: up to 5e+08"},
      {with(sample, {"--trajectory", file("nowhere/t.npz"), "--out", out}), "nowhere"},
      {with(with(sample, initial), {"--samples", "5"}), "of 3 states; allowed: 3, or no --samples"},
      {with(sample, {"--initial", file("absent.csv"), "--out", out}), "absent.csv"},
      {with(sample, {"--initial", file("wide.npy"), "--out", out}),
       "wide.npy' has shape [2, 3]; needed for this model: [N, 2]"},
      {with(sample, {"--initial", file("nan.npy"), "--out", out}), "row 0, column 1 of '"},
      {with(sample, {"--initial", file("nan.npy"), "--out", out}), "is nan; states are finite float32 numbers"},
      {with(sample, {"--initial", out, "--out", out}), "both to be read and to be written"},
      // All of these before the samples are drawn.
      {with(with(sample, initial), {"--grid", "file:" + file("late.npy"), "--log-density", file("l.npy")}),
       "the time grid starts at 5 where the prior is the law at the horizon 10"},
      {with(sample, {"--grid", "file:" + file("late.npy"), "--out", out}), "starts at 5"},
      {{"sample", "--model", network("relu.safetensors", Output::potential, 2, Activation::relu), "--out", out,
        "--log-density", file("l.npy")},
       "relu"},
  });
  EXPECT_EQ(get(net), good_net);
  EXPECT_EQ(get(file("regular")), "a file");
}

// A call per part draws what one call for all does, log densities by probes and trajectories among it.
TEST_F(SampleCommand, CallsFromOtherFirstIndicesAreOneCall) {
  const std::string net = network("net.safetensors", Output::potential);
  for (const char* scheme : {"sde", "heun"}) {
    const auto draw = [&](const std::string& name, std::int64_t first, std::int64_t count) {
      const Json json = fokker_json({"sample",
                                     "--model",
                                     net,
                                     "--seed",
                                     "11",
                                     "--grid",
                                     "geometric:9:1e-3",
                                     "--probes",
                                     "2",
                                     "--scheme",
                                     scheme,
                                     "--first-index",
                                     std::to_string(first),
                                     "--samples",
                                     std::to_string(count),
                                     "--out",
                                     file(name + ".npy"),
                                     "--log-density",
                                     file(name + "_p.npy"),
                                     "--trajectory",
                                     file(name + ".npz"),
                                     "--snapshots",
                                     "4",
                                     "--json"});
      EXPECT_EQ(json["first_index"], first);
    };
    draw("whole", 0, 198);
    draw("a", 0, 99);
    draw("b", 99, 99);
    std::vector<float> x = floats_of(file("a.npy")), p = floats_of(file("a_p.npy"));
    for (const float v : floats_of(file("b.npy"))) x.push_back(v);
    for (const float v : floats_of(file("b_p.npy"))) p.push_back(v);
    EXPECT_EQ(x, floats_of(file("whole.npy")));
    EXPECT_EQ(p, floats_of(file("whole_p.npy")));
    const std::vector<float> whole = states_of(file("whole.npz")).values, a = states_of(file("a.npz")).values,
                             b = states_of(file("b.npz")).values;
    std::vector<float> joined;
    for (std::size_t k = 0; k < 4; ++k) {
      for (const auto& part : {a, b}) joined.insert(joined.end(), part.begin() + k * 198, part.begin() + (k + 1) * 198);
    }
    EXPECT_EQ(joined, whole);
  }
}

// Its times are those of the grid, its states the sampler's, the last the samples. The first, given as the initial ones,
// lead to the same samples.
TEST_F(SampleCommand, TrajectoriesLeadFromTheInitialStatesToTheSamples) {
  const std::string net = network("net.safetensors", Output::potential);
  const Model model = load_model(net);
  const TimeGrid grid = TimeGrid::parse("geometric:30:1e-3", model.sde);
  for (const char* scheme : {"sde", "euler", "heun", "rk4"}) {
    SCOPED_TRACE(scheme);
    const Arguments base{"sample", "--model",           net,        "--seed", "5",
                         "--grid", "geometric:30:1e-3", "--scheme", scheme,   "--json"},
        drawn = with(base, {"--samples", "99"});
    fokker_json(with(drawn, {"--out", file("plain.npy")}));
    const Json json =
        fokker_json(with(drawn, {"--out", file("x.npy"), "--trajectory", file("t.npz"), "--snapshots", "5"}));
    EXPECT_EQ(get(file("x.npy")), get(file("plain.npy")));
    const std::vector<std::int32_t> steps{0, 8, 15, 23, 30};  // of k 30/4, a half upwards
    const Array times = load_array(file("t.npz:t"));
    ASSERT_EQ(times.shape, std::vector<std::int64_t>{5});
    for (std::size_t k = 0; k < 5; ++k) EXPECT_EQ(times.data[k], grid.times()[steps[k]]);
    EXPECT_EQ(json["trajectory"]["times"], times.data);
    const States states = states_of(file("t.npz"));
    EXPECT_THAT(states.header, HasSubstr("'<f4', 'fortran_order': False, 'shape': (5, 99, 2)"));
    std::vector<float> x(198), snapshots(5 * 198);
    Sampler(Context(), model, grid)
        .sample(View<float>(x, 2), {.scheme = parse_scheme(scheme),
                                    .seed = 5,
                                    .snapshot_steps = steps,
                                    .snapshots = View<float>(snapshots, 2)});
    EXPECT_EQ(states.values, snapshots);
    EXPECT_EQ(std::vector<float>(states.values.end() - 198, states.values.end()), floats_of(file("x.npy")));
    // The prior of ou has the variance g²/(2 rate) = 1/2; means of 198 numbers within 5 standard errors.
    double mean = 0, square = 0;
    for (std::size_t i = 0; i < 198; ++i)
      mean += states.values[i] / 198.0, square += states.values[i] * states.values[i] / 198.0;
    EXPECT_NEAR(mean, 0, 5 * std::sqrt(0.5 / 198));
    EXPECT_NEAR(square, 0.5, 5 * 0.5 * std::sqrt(2 / 198.0));

    save_npy(file("first.npy"), {99, 2}, states.values.data());
    const Json again = fokker_json(with(base, {"--initial", file("first.npy"), "--out", file("again.npy"),
                                               "--trajectory", file("again.npz"), "--snapshots", "5"}));
    EXPECT_EQ(again["samples"], 99);
    EXPECT_EQ(get(file("again.npy")), get(file("x.npy")));
    EXPECT_EQ(get(file("again.npz")), get(file("t.npz")));
  }
  // What is not asked for is what the grid has, or eleven.
  for (const auto& [grid_text, count] : {std::pair("uniform:3", 4u), std::pair("uniform:20", 11u)}) {
    const Json json = fokker_json({"sample", "--model", net, "--samples", "9", "--grid", grid_text, "--out",
                                   file("x.npy"), "--trajectory", file("t.npz"), "--json"});
    EXPECT_EQ(json["trajectory"]["times"].size(), count);
    EXPECT_EQ(json["trajectory"]["times"][0], 10.0);
    EXPECT_EQ(json["trajectory"]["times"].back(), 0.0);
  }
}

// From any array and at the first time of any grid.
TEST_F(SampleCommand, BeginsWithGivenStates) {
  const std::string net = network("net.safetensors", Output::score);
  const Model model = load_model(net);
  const std::vector<float> states{0.5f, -1, 0.25f, 2, 1e6f, 0}, times{4, 2, 0.5f};
  save_npy(file("times.npy"), {3}, times.data());
  save_npy(file("states.npy"), {3, 2}, states.data());
  put(file("states.csv"), "x,y\n0.5,-1\n0.25,2\n1e6,0\n");
  for (const char* scheme : {"sde", "rk4"}) {
    std::vector<float> expected = states;
    Sampler(Context(), model, TimeGrid({4, 2, 0.5}))
        .integrate(View<float>(expected, 2), {.scheme = parse_scheme(scheme), .seed = 3, .first_index = 7});
    for (const char* name : {"states.npy", "states.csv"}) {
      const Json json =
          fokker_json({"sample", "--model", net, "--initial", file(name), "--scheme", scheme, "--seed", "3",
                       "--first-index", "7", "--grid", "file:" + file("times.npy"), "--out", file("x.csv"), "--json"});
      EXPECT_EQ(floats_of(file("x.csv")), expected);
      EXPECT_TRUE(get(file("x.csv")).starts_with("x_1,x_2\n"));
      EXPECT_EQ(json["samples"], 3);
      EXPECT_EQ(json["initial"], file(name));
      EXPECT_THAT(json["warnings"][0].get<std::string>(), HasSubstr("of 3 initial states 1 have a coordinate beyond"));
    }
  }
  // [N] in one dimension, and none at all.
  const float line[] = {1, 2, 3};
  save_npy(file("line.npy"), {3}, line);
  save_npy(file("none.npy"), {0, 1}, line);
  put(file("m.json"), R"({"weights": [1], "means": [[1]], "covariances": [0.5]})");
  const Arguments sample{"sample", "--model", file("m.json"), "--grid",   "uniform:3",
                         "--json", "--out",   file("x.npy"),  "--initial"};
  EXPECT_EQ(fokker_json(with(sample, {file("line.npy"), "--samples", "3"}))["samples"], 3);
  EXPECT_EQ(load_array(file("x.npy")).shape, (std::vector<std::int64_t>{3, 1}));
  EXPECT_EQ(fokker_json(with(sample, {file("none.npy"), "--trajectory", file("t.npz")}))["samples"], 0);
}

}  // namespace
}  // namespace fokker::testing
