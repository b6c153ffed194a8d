// fokker train: its files, states and records; killed, interrupted, diverging and resumed runs.
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class TrainCommand : public CommandLine {};

// The paper's recipe is for its SDE; with another one the network is preconditioned, unless something else is asked for.
TEST_F(TrainCommand, TheNetworkSuitsTheSde) {
  const auto recipe_of = [&](const Arguments& more) {
    Arguments train = words("train --data blob --hidden 8 --iterations 1 --denoising-points 8 --json");
    train.insert(train.end(), {"--out", file("m.safetensors")});
    return fokker_json(with(train, more))["recipe"];
  };
  Json recipe = recipe_of({});
  EXPECT_EQ(recipe["architecture"]["output"], "potential");
  EXPECT_EQ(recipe["architecture"]["inputs"], "t,x");
  EXPECT_EQ(recipe["time_law"], "importance");
  recipe = recipe_of({"--sde", "ve"});
  EXPECT_EQ(recipe["architecture"]["output"], "potential:edm");
  EXPECT_EQ(recipe["architecture"]["inputs"], "-0.125*log-snr,x");
  EXPECT_NEAR(recipe["architecture"]["data_deviation"], 1.53, 0.02);  // √(0.65² (48/9 + 0.2))
  EXPECT_EQ(recipe["time_law"], "uniform");
  EXPECT_EQ(load_model(file("m.safetensors")).form().form, Form::edm);
  EXPECT_EQ(recipe_of({"--sde", "edm"})["time_law"], "log-normal");
  recipe = recipe_of({"--sde", "vp-linear", "--output", "noise", "--loss-weight", "variance"});
  EXPECT_EQ(recipe["architecture"]["output"], "noise");
  EXPECT_EQ(recipe["architecture"]["inputs"], "t,x");
  EXPECT_EQ(recipe["loss_weight"], "variance");
  EXPECT_EQ(recipe_of({"--sde", "flow", "--output", "velocity"})["architecture"]["output"], "velocity");
  const Arguments train = with(words("train --data blob"), {"--out", file("n.safetensors")});
  expect_refused(with(train, {"--data-deviation", "2"}), "--data-deviation given with the output potential", 2);
  expect_refused(with(train, {"--log-sigma-mean", "2"}), "--log-sigma-mean given with the time law importance", 2);
  expect_refused(with(train, {"--inputs", "x,t"}), "--inputs x,t given; allowed in a training: the time first", 2);
  expect_refused(with(train, {"--output", "potential:velocity"}), "potential:edm", 2);
  save_npy(file("point.npy"), {3, 2}, std::vector<float>{1, 1, 1, 1, 1, 1}.data());
  expect_refused({"train", "--data", file("point.npy"), "--sde", "ve", "--out", file("n.safetensors")},
                 "has no deviation");
}

// Betas are in the file to the last bit, and short where people read them; samples go through the ends of the steps.
TEST_F(TrainCommand, TakesTheBetasOfAChain) {
  const std::string out = file("m.safetensors"), samples = file("x.npy");
  Arguments train = words("train --data blob --hidden 8 --iterations 1 --denoising-points 8 --sde ddpm --output noise");
  train.insert(train.end(), {"--inputs", "t-1,x", "--out", out, "--json", "--sde-parameters"});
  const Json recipe = fokker_json(with(train, {R"({"steps": 40, "schedule": "cosine"})"}))["recipe"];
  EXPECT_EQ(recipe["sde"]["parameters"],
            Json::parse(R"({"steps": 40, "schedule": "cosine", "s": 0.008, "T": 40.0, "t_min": 1.0})"));
  EXPECT_EQ(fokker_json({"sample", "--model", out, "--samples", "19", "--out", samples, "--json"})["grid"],
            "uniform:39:1");
  std::vector<std::string> betas;
  for (int j = 1; j <= 300; ++j) betas.push_back(fmt::format("{}", j / 3001.0));
  const std::string list = fmt::format("[{}]", fmt::join(betas, ","));
  fokker_json(with(train, {fmt::format(R"({{"betas": {}, "T": 1}})", list)}));
  EXPECT_EQ(load_model(out).sde.betas(), Json::parse(list).get<std::vector<double>>());
  const Outcome said = fokker({"sample", "--model", out, "--samples", "19", "--out", file("y.npy")});
  EXPECT_THAT(said.out + said.err, HasSubstr(R"(ddpm {"betas":[300 numbers],"T":1.0,"t_min":0.0033333333333333335})"));
}

// What a file says multiplies the squared errors of the score.
TEST_F(TrainCommand, TakesLossWeightsOfAFile) {
  const std::string weights = file("weights.csv"), state = file("m.state");
  put(weights, "t,weight\n0,1\n2.5,0\n10,3\n");
  const Arguments train = with(words("train --data blob --hidden 8 --iterations 2 --denoising-points 8 --json"),
                               {"--out", file("m.safetensors"), "--state", state});
  const Json recipe = fokker_json(with(train, {"--loss-weight", "file:" + weights}))["recipe"];
  EXPECT_EQ(recipe["loss_weight"], "given");
  EXPECT_EQ(recipe["loss_weights"].dump(), "[[0.0,1.0],[2.5,0.0],[10.0,3.0]]");
  const std::vector<LossWeightAt<double>> expected{{0, 1}, {2.5, 0}, {10, 3}};
  EXPECT_EQ(Trainer::resume(Context(), state, DataSet::named("blob")).options().loss_weights, expected);

  const Arguments refused = with(words("train --data blob"), {"--out", file("n.safetensors")});
  const std::string allowed = "allowed: unit, score, variance or file:WEIGHTS.csv (or .npy, .npz)";
  expect_refused(with(refused, {"--loss-weight", "given"}), "--loss-weight given given; " + allowed, 2);
  expect_refused(with(refused, {"--loss-weight", "paper"}), "--loss-weight paper given; " + allowed, 2);
  put(weights, "0,1,2\n1,2,3\n");
  expect_refused(with(refused, {"--loss-weight", "file:" + weights}),
                 "has shape [2, 3]; needed for loss weights: [N, 2], times and weights");
  put(weights, "1,1\n0,1\n");
  expect_refused(with(refused, {"--loss-weight", "file:" + weights}),
                 "the time of loss weight number 2 is 0 after 1; allowed: times that ascend as floats");
}

// Probes are a part of the recipe, the model's file and the state; where they would not be read they are refused.
TEST_F(TrainCommand, TakesTheResidualByProbes) {
  const std::string out = file("m.safetensors"), state = file("m.state");
  const Arguments train = with(words("train --data blob --hidden 8 --iterations 4 --denoising-points 8 "
                                     "--collocation-points 8 --json --residual-weight 1"),
                               {"--out", out});
  const Json exact = fokker_json(train),
             probed = fokker_json(with(train, {"--residual-probes", "2", "--state", state}));
  EXPECT_FALSE(exact["recipe"].contains("residual_probes"));
  EXPECT_EQ(probed["recipe"]["residual_probes"], 2);
  EXPECT_EQ(probed["recipe"]["probe_law"], "rademacher");
  EXPECT_NE(probed["last"]["residual"], exact["last"]["residual"]);
  const Json metadata = fokker_json({"info", "--model", out, "--json"})["model"]["metadata"];
  EXPECT_EQ(Json::parse(metadata["training"].get<std::string>()), probed["recipe"]);
  EXPECT_EQ(Trainer::resume(Context(), state, DataSet::named("blob")).options().residual_probes, 2);
  const Json gaussian = fokker_json(with(train, {"--residual-probes", "2", "--probe-law", "gaussian"}));
  EXPECT_EQ(gaussian["recipe"]["probe_law"], "gaussian");
  EXPECT_NE(gaussian["last"]["residual"], probed["last"]["residual"]);

  const Arguments refused = with(words("train --data blob"), {"--out", file("n.safetensors")});
  expect_refused(with(refused, {"--residual-probes", "2"}), "--residual-probes given with --residual-weight 0", 2);
  expect_refused(with(refused, {"--residual-weight", "1", "--probe-law", "gaussian"}),
                 "--probe-law given with --residual-probes 0", 2);
  expect_refused(with(refused, {"--residual-weight", "1", "--residual-probes", "1025"}), "1025", 2);
  expect_refused(with(refused, {"--residual-weight", "1", "--residual-probes", "1", "--probe-law", "normal"}), "normal",
                 2);
}

TEST_F(TrainCommand, TakesTheBackendItIsGiven) {
  const std::string out = file("m.safetensors");
  const Arguments train =
      with(words("train --data blob --hidden 7 --iterations 2 --denoising-points 19 --json"), {"--out", out});
  for (const std::string backend : {"auto", "cpu"}) {  // here there is no GPU
    const Arguments given = with(train, {"--backend", backend});
    const Outcome done = fokker(given);
    EXPECT_EQ(done.code, 0) << done.err;
    EXPECT_EQ(done.err.find("backend cpu: ") != std::string::npos, backend == "auto") << done.err;
    EXPECT_EQ(Json::parse(done.out, nullptr, false).value("backend", ""), "cpu") << done.out;
  }
}

// Each activation has its own parameter, by its name and with its own default.
TEST_F(TrainCommand, TakesTheParameterOfItsActivation) {
  const auto parameter = [&](const Arguments& options, const char* name) {
    const std::string out = file("m.safetensors");
    fokker_json(with(words("train --data blob --hidden 4 --iterations 2 --denoising-points 8 --output score --json"),
                     with({"--out", out}, options)));
    return fokker_json({"info", "--model", out, "--json"})["model"][name].get<double>();
  };
  EXPECT_EQ(parameter({}, "beta"), 20);
  EXPECT_EQ(parameter({"--beta", "3"}, "beta"), 3);
  EXPECT_EQ(parameter({"--activation", "leaky-relu"}, "negative_slope"), 0.01);
  EXPECT_EQ(parameter({"--activation", "leaky-relu", "--negative-slope", "0.25"}, "negative_slope"), 0.25);
  EXPECT_EQ(parameter({"--activation", "elu"}, "alpha"), 1);
  EXPECT_EQ(parameter({"--activation", "elu", "--alpha", "0.5"}, "alpha"), 0.5);
}

TEST_F(TrainCommand, KeepsTheFilesOfOthers) {
  const auto train = [&](const Arguments& more) {
    return fokker(with(words("train --data blob --hidden 4 --iterations 3 --denoising-points 8"),
                       with({"--out", file("t.safetensors")}, more)));
  };
  put(file("state"), "another's");
  expect_failure(
      train({"--state", file("state")}), "fokker",
      fmt::format("'{0}' is there already: go on from the state in it with --resume '{0}', remove it", file("state")));
  EXPECT_EQ(get(file("state")), "another's");
  for (const char* name : {"notes.csv", "notes.jsonl"}) {
    put(file(name), "another's\n");
    expect_failure(train({"--log", file(name)}), "fokker", "is not a log of a training");
    EXPECT_EQ(get(file(name)), "another's\n");
  }
  for (const char* name : {"log.csv", "log.jsonl"}) {
    ASSERT_EQ(train({"--log", file(name)}).code, 0);
    const std::string log = get(file(name));
    // Not even the first iteration is done: in this box the residual is not finite.
    expect_failure(train({"--residual-weight", "1", "--box", "1e30", "--log", file(name)}), "fokker",
                   "stopped at iteration 0");
    EXPECT_EQ(get(file(name)), log);
    ASSERT_EQ(train({"--log", file(name)}).code, 0);  // our own is begun anew
    EXPECT_EQ(get(file(name)), log);
  }
  put(file("empty.csv"), "");
  EXPECT_EQ(train({"--log", file("empty.csv")}).code, 0);
}

TEST_F(TrainCommand, DivergingLeavesItsRecordsAndTheStateBefore) {
  const Arguments arguments =
      with(words("train --data blob --hidden 8,8 --iterations 300 --peak-rate 2e4 --denoising-points 64"),
           {"--out", file("t.safetensors"), "--log", file("t.csv")});
  const Outcome without = fokker(arguments);
  expect_failure(without, "fokker", "nothing was saved");
  const std::string log = get(file("t.csv"));
  const Arguments with_state = with(arguments, {"--state", file("t.state")});
  const Outcome outcome = fokker(with_state);
  expect_failure(outcome, "fokker", fmt::format("the state is in '{}'", file("t.state")));
  EXPECT_THAT(outcome.err, Not(HasSubstr("nan")));
  EXPECT_FALSE(std::filesystem::exists(file("t.safetensors")));

  std::int64_t stopped = 0;
  const Tensor iteration = SafeTensors::load(file("t.state")).at("iteration");
  ASSERT_EQ(iteration.bytes.size(), 8u);
  std::memcpy(&stopped, iteration.bytes.data(), 8);
  EXPECT_GT(stopped, 1);  // the rate rises from a 25th of its peak
  EXPECT_THAT(outcome.err, HasSubstr(fmt::format("stopped at iteration {},", stopped)));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1 + stopped);
  EXPECT_EQ(get(file("t.csv")), log);
  // The state can be gone on from, to the same end.
  expect_refused(
      {"train", "--data", "blob", "--resume", file("t.state"), "--log", file("t.csv"), "--out", file("t.safetensors")},
      fmt::format("stopped at iteration {},", stopped));
  EXPECT_EQ(get(file("t.csv")), log);
}

// A training so long that it cannot end before the signal, compared with the library's own trainer, which is run from
// the start to the iteration that the state names.
TEST_F(TrainCommand, KilledOrInterruptedGoesOnAsIfUndisturbed) {
  TrainOptions options;
  options.iterations = 1'000'000'000'000;
  options.denoising_points = 64;
  options.collocation_points = 16;
  options.residual_weight = 0.5;
  options.seed = 7;
  const DataSet data = DataSet::named("circles2");
  const Architecture architecture{.hidden = {8, 8}, .beta = 20};
  const std::string reference = file("reference.state");
  const auto expect_undisturbed = [&](const std::string& state, const std::string& log) {
    std::int64_t iteration = 0;
    std::memcpy(&iteration, SafeTensors::load(state).at("iteration").bytes.data(), 8);
    Trainer trainer(Context(), {ForwardSde(), Mlp::initialise(architecture, options.seed)}, data, options);
    std::string expected = "iteration,denoising,residual,total,gradient_norm,rate\n";
    for (const TrainRecord& r : trainer.run(iteration)) {
      expected += fmt::format("{},{:.8g},{:.8g},{:.8g},{:.8g},{:.8g}\n", r.iteration, r.denoising, r.residual, r.total,
                              r.gradient_norm, r.rate);
    }
    trainer.save_state(reference);
    EXPECT_EQ(get(state), get(reference));
    EXPECT_EQ(get(log).substr(0, expected.size()), expected);  // a killed run's log may be ahead of its state
    return iteration;
  };
  for (const int signal : {SIGKILL, SIGTERM, SIGINT}) {
    SCOPED_TRACE(signal);
    const std::string name = fmt::format("part{}", signal), state = file(name + ".state"), log = file(name + ".csv");
    const auto train = [&](const Arguments& more) {
      return start_fokker(
          with({"train", "--data", "circles2", "--out", file(name + ".safetensors"), "--log", log}, more));
    };
    const Process process = train({"--state", state, "--save-every", "20", "--hidden", "8,8", "--iterations",
                                   "1000000000000", "--denoising-points", "64", "--collocation-points", "16",
                                   "--residual-weight", "0.5", "--seed", "7", "--threads", "1"});
    ASSERT_TRUE(process.wait_for(state));
    process.send(signal);
    const Outcome outcome = process.wait();
    if (signal == SIGKILL) {
      EXPECT_EQ(outcome.signal, SIGKILL);
    } else {
      expect_failure(outcome, "fokker", "interrupted after");
    }
    const std::int64_t first = expect_undisturbed(state, log);
    EXPECT_GE(first, 20);

    const std::string again = file(name + "_again.state");
    const Process resumed = train({"--resume", state, "--state", again, "--save-every", "20", "--threads", "2"});
    ASSERT_TRUE(resumed.wait_for(again));
    resumed.send(SIGHUP);
    expect_failure(resumed.wait(), "fokker", "interrupted after");
    EXPECT_GT(expect_undisturbed(again, log), first);
    EXPECT_FALSE(std::filesystem::exists(file(name + ".safetensors")));
  }
}

// By whatever option and name; the first is not disturbed, and what it had is free after its end, though it was killed.
TEST_F(TrainCommand, RefusesWhatAnotherProcessWrites) {
  const std::string state = file("t.state"), log = file("t.csv"), out = file("t.safetensors");
  std::filesystem::create_symlink(log, file("link.csv"));
  const Arguments recipe = words("train --data blob --hidden 4 --iterations 1000000000000 --denoising-points 64");
  const Process first =
      start_fokker(with(recipe, {"--save-every", "20", "--state", state, "--log", log, "--out", out}));
  ASSERT_TRUE(first.wait_for(state));
  const std::string other = file("other.safetensors");
  for (const Arguments& more : std::vector<Arguments>{
           {"--state", state, "--out", other}, {"--log", file("link.csv"), "--out", other}, {"--out", out}}) {
    expect_refused(with(recipe, more), "is in use by process");
  }
  const Arguments resume{"train", "--data", "blob", "--resume", state, "--out", other};
  expect_refused(resume, fmt::format("'{}' is in use by process", state));
  EXPECT_FALSE(std::filesystem::exists(other));
  first.send(SIGKILL);
  EXPECT_EQ(first.wait().signal, SIGKILL);

  const Process second =
      start_fokker({"train", "--data", "blob", "--resume", state, "--save-every", "20", "--log", log, "--out", out});
  const auto saved = std::filesystem::last_write_time(state);
  ASSERT_TRUE(second.wait_until([&] { return std::filesystem::last_write_time(state) != saved; }));
  expect_refused(resume, "is in use by process");
  second.send(SIGTERM);
  expect_failure(second.wait(), "fokker", "interrupted after");
  std::int64_t line = -1;
  std::ifstream lines(log);
  std::string text;
  for (std::getline(lines, text); std::getline(lines, text); ++line) {
    ASSERT_TRUE(text.starts_with(fmt::format("{},", line + 1))) << text;
  }
  EXPECT_GT(line, 20);
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    EXPECT_NE(entry.path().extension(), ".lock") << entry.path();
  }
}

// The second signal does not wait for the iteration, which here takes seconds. A signal may find the one before it not
// yet delivered and be one with it, so they are sent until the process ends.
TEST_F(TrainCommand, ASecondSignalEndsATrainingAtOnce) {
  const Process process = start_fokker({"train", "--data", "circles2", "--iterations", "1000000", "--denoising-points",
                                        "2000000", "--out", file("m.safetensors")});
  ASSERT_TRUE(process.wait_for_text("training on circles2: 0 %\n"));
  while (process.runs()) {
    process.send(SIGTERM);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.signal, SIGTERM) << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(file("m.safetensors")));
}

// A signal in the last iteration, which takes a while here, finds nothing left to stop.
TEST_F(TrainCommand, ASignalInTheLastIterationLosesNothing) {
  const Process process = start_fokker({"train", "--data", "circles2", "--iterations", "1", "--denoising-points",
                                        "1000000", "--out", file("m.safetensors")});
  ASSERT_TRUE(process.wait_for_text("training on circles2: 0 %\n"));
  process.send(SIGTERM);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, ::testing::ContainsRegex("1 iteration in [0-9.e-]+ (s|min)"));
  EXPECT_TRUE(std::filesystem::exists(file("m.safetensors")));
}

// As under nohup.
TEST_F(TrainCommand, AHangUpThatIsIgnoredStaysSo) {
  const Process process =
      start({"/bin/sh", "-c",
             fmt::format("trap '' HUP; exec {} train --data circles2 --iterations 4 --denoising-points 100000 --out {}",
                         fokker_tool, file("m.safetensors"))});
  ASSERT_TRUE(process.wait_for_text("training on circles2: 0 %\n"));
  process.send(SIGHUP);
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

// Data that network, SDE and box are not made for are named before the first iteration, and the training goes on.
TEST_F(TrainCommand, WarnsOfDataOffItsScale) {
  const auto mixture = [&](const std::string& name, double mean, double variance) {
    put(file(name), fmt::format(R"({{"weights": [1], "means": [[{0}, {0}]], "covariances": {1}}})", mean, variance));
    return file(name);
  };
  const auto warnings = [&](const std::string& data, const std::string& options) {
    const Outcome outcome = fokker(with(
        {"train", "--data", data, "--out", file("m.safetensors"), "--json"},
        words("--hidden 7 --iterations 2 --denoising-points 19 --collocation-points 19 --backend cpu " + options)));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const Json list = Json::parse(outcome.out, nullptr, false).value("warnings", Json());
    std::string lines;
    for (const Json& text : list) lines += "fokker: warning: " + text.get<std::string>() + '\n';
    EXPECT_TRUE(outcome.err.starts_with(lines)) << outcome.err;
    return lines;
  };
  for (const char* data : {"blob", "circles2", "checker"}) EXPECT_EQ(warnings(data, "--residual-weight 1"), "") << data;
  const std::string far = warnings(mixture("far.json", 1000, 1), ""), wide = warnings(mixture("w.json", 0, 1e6), ""),
                    tiny = warnings(mixture("tiny.json", 0, 1e-6), ""), ring = mixture("ring.json", 4, 1);
  for (const std::string& text : {far, wide}) {
    EXPECT_THAT(text, AllOf(HasSubstr("the data reach "), HasSubstr("ou are made for numbers of about 1")));
  }
  EXPECT_THAT(tiny, ::testing::ContainsRegex(
                        "column [01] of the data has a deviation of 0.00[0-9]+, and ou at t_min one of 0.01: "));
  EXPECT_EQ(warnings(ring, ""), "");
  EXPECT_THAT(warnings(ring, "--residual-weight 1"), HasSubstr("% of the data are outside the box [-3.5, 3.5]^2"));
  EXPECT_EQ(warnings(ring, "--residual-weight 1 --box 9"), "");
  EXPECT_THAT(warnings(mixture("ve.json", 60, 1), "--sde ve"), HasSubstr("beside a prior of deviation 50"));
}

// A table whose columns have scales of their own: what is said without the option, and with it a model that info,
// sample, field, density, gap and diagnose take.
TEST_F(TrainCommand, StandardisesATable) {
  std::string table = "height,mass\n";
  for (int i = 0; i < 200; ++i) {
    const double a = 0.1 * (i % 20) - 0.95, b = 0.1 * (i % 7) - 0.3;
    table += fmt::format("{},{}\n", 1000 + a, 1e-6 * (a + b));
  }
  put(file("table.csv"), table);
  const std::string model = file("m.safetensors");
  const Arguments train = with(words("train --hidden 16,16 --activation silu --sde vp-linear --iterations 200 "
                                     "--denoising-points 256 --json"),
                               {"--data", file("table.csv"), "--out", model});
  const std::vector<std::string> warnings = fokker_json(train)["warnings"];
  ASSERT_EQ(warnings.size(), 2u);
  for (const std::string& warning : warnings) EXPECT_THAT(warning, HasSubstr("fokker train --standardise"));
  EXPECT_TRUE(load_model(model).standardisation.empty());

  const Json trained = fokker_json(with(train, {"--standardise", "--state", file("m.state")}));
  EXPECT_EQ(trained["warnings"], Json::array());
  EXPECT_EQ(trained["recipe"]["standardise"], true);
  EXPECT_EQ(trained["recipe"]["architecture"]["data_deviation"], 1);
  const Standardisation columns = load_model(model).standardisation;
  ASSERT_EQ(columns.mean.size(), 2u);
  EXPECT_NEAR(columns.mean[0], 1000, 1e-4);
  EXPECT_NEAR(columns.deviation[0], 0.577, 1e-3);
  EXPECT_NEAR(columns.deviation[1], 0.61e-6, 0.01e-6);
  const std::string bytes = get(model);
  fokker_json(with(words("train --json --data"), {file("table.csv"), "--out", model, "--resume", file("m.state")}));
  EXPECT_EQ(get(model), bytes);

  EXPECT_EQ(fokker_json({"info", "--model", model, "--json"})["model"]["standardisation"]["means"], Json(columns.mean));
  EXPECT_THAT(fokker({"info", "--model", model}).out, HasSubstr("columns     z = (x - mean)/deviation, means [1000"));
  const Json sampled = fokker_json({"sample", "--model", model, "--samples", "500", "--grid", "geometric:60", "--out",
                                    file("x.npy"), "--log-density", file("l.npy"), "--json"});
  EXPECT_EQ(sampled["warnings"], Json::array());
  const Array x = load_array(file("x.npy")), l = load_array(file("l.npy"));
  double mean_log = 0;
  for (std::int64_t i = 0; i < 500; ++i) {
    EXPECT_NEAR(x.data[2 * i], columns.mean[0], 8 * columns.deviation[0]);
    EXPECT_NEAR(x.data[2 * i + 1], columns.mean[1], 8 * columns.deviation[1]);
    mean_log += l.data[i] / 500;
  }
  // Minus the entropy: of two deviations' product, within the four that a law of them may have at most or less.
  EXPECT_NEAR(mean_log, -columns.log_volume() - 2.2, 1.5);

  // What is far out is so in deviations of each column, of states at T too.
  EXPECT_LT(sampled["far"].get<double>(), 40);
  const auto from = [&](const std::string& states) {
    return fokker_json(
        {"sample", "--model", model, "--initial", states, "--grid", "geometric:60", "--out", file("y.npy"), "--json"});
  };
  std::string states = "height,mass\n";
  for (int i = 0; i < 9; ++i) {
    states += fmt::format("{},{}\n", columns.mean[0] + columns.deviation[0] * (0.3 * i - 1),
                          columns.mean[1] + columns.deviation[1] * (1 - 0.3 * i));
  }
  put(file("states.csv"), states);
  EXPECT_EQ(from(file("states.csv"))["warnings"], Json::array());
  put(file("far.csv"),
      fmt::format("height,mass\n{},{}\n", columns.mean[0], columns.mean[1] + 1000 * columns.deviation[1]));
  EXPECT_THAT(from(file("far.csv"))["warnings"].dump(), HasSubstr("in deviations of its column"));

  // Fields are those of x; an option of another program's file says the same as the key.
  const std::vector<double> point{0.5, columns.mean[0] + columns.deviation[0], columns.mean[1]};
  save_npy(file("points.npy"), {1, 3}, point.data());
  fokker_json({"field", "--model", model, "--points", file("points.npy"), "--out", file("f.safetensors"), "--json"});
  const SafeTensors fields = SafeTensors::load(file("f.safetensors"));
  std::vector<double> score(2);
  FieldOutputs<double> outputs;
  outputs.score = View<double>(score, 2);
  const std::vector<double> t{0.5}, z{1, 0};
  Fields<double>(Context(), load_model(model).of_z())
      .evaluate({View<const double>(t), View<const double>(z, 2)}, outputs);
  const std::vector<double> given = fields.at("score").to_double();
  EXPECT_NEAR(given[0], score[0] / columns.deviation[0], 1e-2 / columns.deviation[0]);
  EXPECT_NEAR(given[1], score[1] / columns.deviation[1], 1e-2 / columns.deviation[1]);
  EXPECT_TRUE(fields.tensors.contains("laplacian"));
  expect_refused(
      {"field", "--model", model, "--points", file("points.npy"), "--out", file("g.safetensors"), "--probes", "2"},
      "unequal deviations");
  save_model(file("z.safetensors"), load_model(model).of_z());
  const Json told = fokker_json({"info", "--model", file("z.safetensors"), "--column-means", "[1000,0]",
                                 "--column-deviations", "[2, 1e-6]", "--json"});
  EXPECT_EQ(told["model"]["standardisation"]["deviations"], Json({2.0, 1e-6}));
  expect_refused({"info", "--model", file("z.safetensors"), "--column-means", "1000"}, "not a list of numbers", 2);
  expect_refused({"info", "--model", file("z.safetensors"), "--column-means", "[1000,0]"}, "without column_deviations");

  fokker_json({"density", "--model", model, "--points", file("x.npy"), "--paths", "4", "--steps", "4", "--out",
               file("d.safetensors"), "--json"});
  const Json diagnosis = fokker_json(with(words("diagnose --json --grid geometric:4 --nodes 16 --samples 100 "
                                                "--bound-samples 9 --box-points 9 --model"),
                                          {model}));
  EXPECT_EQ(diagnosis["coordinates"], "standardised");
  const Json gap = fokker_json(with(words("gap --json --samples 500 --grid geometric:20 --box 2000 --model"),
                                    {model, "--data", file("table.csv")}));
  EXPECT_EQ(gap["far_out"]["sde"], 0);

  put(file("constant.csv"), "1,5\n2,5\n3,5\n");
  const Arguments constant = words("train --standardise --data");
  expect_refused(with(constant, {file("constant.csv"), "--out", model}), "column 1 of the data set");
  expect_refused(with(constant, {"circles2", "--out", model}), "'circles2' is drawn by a formula of one scale");
  EXPECT_EQ(get(model), bytes);
}

TEST_F(TrainCommand, ResumedEndsAsIfUndisturbed) {
  const Arguments recipe = words(
      "--hidden 8,8 --iterations 200 --denoising-points 64 --collocation-points 16 --residual-weight 0.5 --seed 7");
  const auto train = [&](const std::string& name, const Arguments& more) {
    return with(words("train --data circles2 --json"),
                with({"--out", file(name + ".safetensors"), "--log", file(name + ".csv")}, more));
  };
  const Json whole = fokker_json(train("whole", recipe));
  EXPECT_EQ(whole["first_iteration"], 0);
  EXPECT_EQ(whole["iterations"], 200);
  EXPECT_EQ(whole["recipe"]["residual_weight"], 0.5);
  const std::string model = get(file("whole.safetensors")), log = get(file("whole.csv"));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 201);

  // Before and within the average of the last fifth; the log of the part is ahead of its state, and ends within a line.
  for (const std::int64_t part : {1, 99, 177}) {
    SCOPED_TRACE(part);
    TrainOptions options;
    options.iterations = 200;
    options.denoising_points = 64;
    options.collocation_points = 16;
    options.residual_weight = 0.5;
    options.seed = 7;
    const Architecture architecture{.hidden = {8, 8}, .beta = 20};
    Trainer trainer(Context(), {ForwardSde(), Mlp::initialise(architecture, 7)}, DataSet::named("circles2"), options);
    trainer.run(part);
    const std::string name = fmt::format("part{}", part), state = file(name + ".state");
    trainer.save_state(state);
    put(file(name + ".csv"), log.substr(0, log.size() - 5));
    EXPECT_EQ(fokker_json(train(name, {"--resume", state}))["first_iteration"], part);
    EXPECT_EQ(get(file(name + ".safetensors")), model);
    EXPECT_EQ(get(file(name + ".csv")), log);

    // A finished state has nothing left to do, and says so by the same model.
    std::filesystem::remove(file(name + ".safetensors"));
    EXPECT_EQ(fokker_json(train(name, {"--resume", state}))["first_iteration"], 200);
    EXPECT_EQ(get(file(name + ".safetensors")), model);
    EXPECT_EQ(get(file(name + ".csv")), log);
    Arguments other_data = train(name, {"--resume", state});
    other_data[2] = "blob";
    expect_refused(other_data, "circles2");
  }
}

TEST_F(TrainCommand, WritesRecordsAsJsonLinesAndOtherNetworks) {
  fokker_json(with(words("train --output score --activation silu --sde vp-linear --hidden 8 --iterations 20 "
                         "--denoising-points 64 --log-every 5 --json"),
                   {"--data", planar_mixture(), "--out", file("v.safetensors"), "--log", file("v.jsonl")}));
  std::ifstream lines(file("v.jsonl"));
  std::vector<int> iterations;
  for (std::string line; std::getline(lines, line);) {
    const Json record = Json::parse(line);
    iterations.push_back(record["iteration"]);
    EXPECT_GT(record["denoising"].get<double>(), 0);
    EXPECT_EQ(record["residual"], 0.0);
  }
  EXPECT_EQ(iterations, (std::vector<int>{0, 5, 10, 15}));
  const Model model = load_model(file("v.safetensors"));
  EXPECT_EQ(model.output(), Output::score);
  EXPECT_EQ(model.sde.kind(), SdeKind::vp_linear);
}

TEST_F(TrainCommand, RefusesWhatIsNotAllowed) {
  const std::string net = network("net.safetensors", Output::potential), good_net = get(net), out = file("out.npy"),
                    net_out = file("out.safetensors");
  const std::string huge = "9000000000000000000", huge_seed = "18446744073709551616";
  put(file("regular"), "a file");
  const Arguments train{"train", "--data", "blob", "--out", net_out};
  expect_refused({{{"train", "--data", "blob", "--out", out}, ".safetensors", 2},
                  {with(train, {"--hidden", "16,,16"}), "16,,16", 2},
                  {with(train, {"--hidden", "16,"}), "16,", 2},
                  {with(train, {"--seed", huge_seed}), "--seed " + huge_seed, 2},
                  {with(train, {"--iterations", huge + "0"}), "--iterations " + huge + "0", 2},
                  {with(train, {"--output", "energy"}), "energy", 2},
                  {with(train, {"--sde-parameters", "{\"T\": -1}"}), "T = -1", 2},
                  {with(train, {"--sde-parameters", "{\"t_min\": 0}"}), "at least 1e-37", 2},
                  {{"train", "--data", "spiral", "--out", net_out}, "spiral", 2},
                  {with(train, {"--iterations", "-1"}), "-1", 2},
                  {with(train, {"--denoising-points", "0"}), "0", 2},
                  {with(train, {"--collocation-points", "-3"}), "-3", 2},
                  {with(train, {"--hidden", "16,0"}), "0", 2},
                  {with(train, {"--activation", "swish"}), "swish", 2},
                  {with(train, {"--activation", "relu"}), "training is asked for of a potential net of relu"},
                  {with(train, {"--activation", "leaky-relu", "--beta", "5"}),
                   "--beta given with the activation leaky-relu, which has no such parameter; allowed: "
                   "--negative-slope",
                   2},
                  {with(train, {"--activation", "elu", "--alpha", "0"}), "elu has alpha = 0: allowed are 1e-06", 2},
                  {with(train, {"--activation", "silu", "--beta", "5"}), "--beta given with the activation silu", 2},
                  {with(train, {"--schedule", "warm"}), "warm", 2},
                  {with(train, {"--schedule", "paper", "--peak-rate", "1e-3"}), "--peak-rate given with the sch", 2},
                  {with(train, {"--average", "tail", "--average-decay", "0.9"}), "--average-decay given with the", 2},
                  {with(train, {"--average", "none", "--average-fraction", "0.5"}), "--average-fraction given", 2},
                  {with(train, {"--time-law", "late"}), "late", 2},
                  {with(train, {"--average", "sum"}), "sum", 2},
                  {with(train, {"--peak-rate", "nan"}), "nan", 2},
                  {with(train, {"--peak-rate", "abc"}), "--peak-rate abc given; allowed: a number", 2},
                  {with(train, {"--box", ""}), "--box '' given; allowed: a number", 2},
                  {with(train, {"--log", file("log.txt")}), "ends in .csv or .jsonl", 2},
                  {with(train, {"--residual-weight", "-1"}), "-1", 2},
                  {with(train, {"--save-every", "often"}), "often", 2},
                  {with(train, {"--log-every", "0"}), "--log-every 0", 2},
                  {with(train, {"--resume", file("absent.state")}), "absent.state"},
                  {with(train, {"--resume", net}), "net.safetensors"},
                  {with(train, {"--log", file("regular/log.csv")}), "regular"},
                  {with(train, {"--state", folder()}), "folder"}});
  EXPECT_EQ(get(net), good_net);
  EXPECT_EQ(get(file("regular")), "a file");
}

}  // namespace
}  // namespace fokker::testing
