// Networks that take a condition, by command: how one is given, to all or to each, and what is refused.
#include <cmath>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "compare.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Conditions : public CommandLine {
 protected:
  // Of x in the plane and three numbers y, which go through a branch into both hidden layers.
  std::string conditional(Output output = Output::score, const std::string& name = "net.safetensors") const {
    Architecture a;
    a.hidden = {17, 9};
    a.activation = Activation::silu, a.output = output;
    a.condition = {{{5, {Activation::mish, 1}, false}}, {0, 1}, {}, 3};
    save_model(file(name), {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(a, 3)});
    return file(name);
  }
  std::string save(const std::string& name, std::int64_t columns, const std::vector<float>& numbers) const {
    save_npy(file(name), {static_cast<std::int64_t>(numbers.size()) / columns, columns}, numbers.data());
    return file(name);
  }
  std::vector<float> floats(const std::string& name) const {
    const Array there = load_array(file(name));
    return {there.data.begin(), there.data.end()};
  }
  // Finite numbers of about 1.
  static std::vector<float> numbers(std::size_t count) {
    std::vector<float> values;
    for (std::size_t i = 0; i < count; ++i) values.push_back(float(std::sin(1.0 + 3.0 * double(i))));
    return values;
  }
  const std::string grid_ = "geometric:20:1e-3";
};

TEST_F(Conditions, AreGivenToAllSamplesOrToEach) {
  const std::string net = conditional();
  const Model model = load_model(net);
  const TimeGrid grid = TimeGrid::parse(grid_, model.sde);
  const Arguments base{"sample", "--model", net, "--grid", grid_, "--seed", "5", "--out", file("x.npy")};
  const std::vector<float> each = numbers(3 * 19);
  const std::string of_each = save("y.npy", 3, each);
  const Context context({.backend = BackendKind::cpu, .threads = 1});
  std::vector<float> expected(2 * 19), log_p(19);
  SampleOptions options{.scheme = Scheme::heun, .seed = 5};
  {
    const Sampler sampler(context, model, grid);
    options.condition = View<const float>(each, 3);
    options.log_density = View<float>(log_p);
    sampler.sample(View<float>(expected, 2), options);
  }
  Json json =
      fokker_json(with(base, {"--scheme", "heun", "--condition", of_each, "--log-density", file("p.npy"), "--json"}));
  EXPECT_EQ(json["samples"], 19);
  EXPECT_EQ(json["condition"], of_each);
  EXPECT_EQ(floats("x.npy"), expected);
  EXPECT_EQ(floats("p.npy"), log_p);
  // From given states, and by a .csv file.
  const std::string states = save("states.npy", 2, numbers(2 * 19));
  std::string csv = "a,b,c\n";
  for (std::size_t i = 0; i < each.size(); ++i) csv += fmt::format("{}{}", each[i], i % 3 == 2 ? '\n' : ',');
  put(file("y.csv"), csv);
  fokker_json(with(base, {"--condition", of_each, "--initial", states, "--json"}));
  const std::vector<float> by_npy = floats("x.npy");
  EXPECT_EQ(fokker(with(base, {"--condition", file("y.csv"), "--initial", states, "--samples", "19"})).code, 0);
  EXPECT_EQ(floats("x.npy"), by_npy);

  options.condition = {}, options.log_density = {};
  const auto given = [&](const Model& to, const std::string& text) {
    Sampler(context, to, grid).sample(View<float>(expected, 2), options);
    json = fokker_json(with(base, {"--scheme", "heun", "--samples", "19", "--condition", text, "--json"}));
    EXPECT_EQ(json["condition"], text);
    EXPECT_EQ(floats("x.npy"), expected) << text;
  };
  given(with_condition(model, {0.5, -1, 2}), "0.5,-1,2");
  given(with_condition(model, {-1, 0, 1e-3}), "-1,0,1e-3");
  given(without_condition(model), "none");
  // The names of a .csv file's columns are those of x.
  EXPECT_EQ(fokker({"sample", "--model", net, "--condition", "none", "--samples", "3", "--out", file("x.csv")}).code,
            0);
  EXPECT_THAT(get(file("x.csv")), ::testing::StartsWith("x_1,x_2\n"));
}

TEST_F(Conditions, AreGivenToPoints) {
  const std::string net = conditional(Output::potential), out = file("fields.safetensors");
  const Model model = load_model(net);
  const std::vector<float> t{0.5f, 1, 2}, x = numbers(6), y = numbers(9);
  std::vector<float> rows;
  for (std::size_t i = 0; i < 3; ++i) rows.insert(rows.end(), {t[i], x[2 * i], x[2 * i + 1]});
  const std::string points = save("points.npy", 3, rows), of_each = save("y.npy", 3, y);
  const Json json =
      fokker_json({"field", "--model", net, "--points", points, "--condition", of_each, "--out", out, "--json"});
  EXPECT_EQ(json["condition"], of_each);
  std::vector<double> wide_t(t.begin(), t.end()), wide_x(x.begin(), x.end()), wide_y(y.begin(), y.end());
  std::vector<double> score(6), residual(3);
  const Context context({.backend = BackendKind::cpu, .threads = 1});
  FieldOutputs<double> outputs{.score = View<double>(score, 2)};
  outputs.residual = View<double>(residual);
  const View<const double> at(wide_t), there(wide_x, 2), given(wide_y, 3);
  Fields<double>(context, model).evaluate({at, there, given}, outputs);
  const Bound rounding{.relative = 0, .of_rms = 2e-5, .norm = 8e-6, .absolute = 0};  // as in field_test.cpp
  SafeTensors fields = SafeTensors::load(out);
  EXPECT_TRUE(agrees(fields.at("score").to_double(), score, rounding));
  EXPECT_TRUE(agrees(fields.at("residual").to_double(), residual, rounding));
  // One for all.
  fokker_json({"field", "--model", net, "--points", points, "--condition", "0.5,-1,2", "--out", out, "--json"});
  Fields<double>(context, with_condition(model, {0.5, -1, 2})).evaluate({at, there, {}}, outputs);
  fields = SafeTensors::load(out);
  EXPECT_TRUE(agrees(fields.at("score").to_double(), score, rounding));
  EXPECT_TRUE(agrees(fields.at("residual").to_double(), residual, rounding));

  // Densities of the flow, of each point given its own.
  const std::string of_x = save("x.npy", 2, x);
  std::vector<float> log_p(3);
  Sampler(context, model, TimeGrid::parse(grid_, model.sde))
      .log_density(View<const float>(x, 2), View<float>(log_p), Scheme::heun, {}, {}, View<const float>(y, 3));
  fokker_json({"density", "--model", net, "--points", of_x, "--condition", of_each, "--scheme", "heun", "--grid", grid_,
               "--out", file("p.npy"), "--json"});
  EXPECT_EQ(floats("p.npy"), log_p);
  const Arguments sde{"density", "--model", net,     "--points",    of_x,
                      "--paths", "8",       "--out", file("p.npy"), "--condition"};
  EXPECT_EQ(fokker_json(with(sde, {"0.5,-1,2", "--json"}))["condition"], "0.5,-1,2");
  expect_refused(with(sde, {of_each}),
                 fmt::format("--condition '{}' given with --scheme euler-maruyama; allowed for the reverse SDE: one "
                             "condition for all points, and a file of one for each with euler, heun and rk4",
                             of_each));
  // What measures one law takes one condition.
  EXPECT_EQ(fokker_json({"gap", "--model", net, "--data", "blob", "--samples", "99", "--grid", grid_, "--condition",
                         "1,0,0", "--json"})["condition"],
            "1,0,0");
  EXPECT_EQ(
      fokker_json({"diagnose", "--model", net, "--nodes", "32", "--samples", "19", "--bound-samples", "9",
                   "--box-points", "9", "--grid", "geometric:9:1e-3", "--condition", "none", "--json"})["condition"],
      "none");
}

TEST_F(Conditions, ThatAreMissingOrDoNotFitAreRefused) {
  const std::string net = conditional(), plain = network("plain.safetensors", Output::score), out = file("out.npy");
  const std::string fields = file("out.safetensors"), at = points(), of_x = save("x.npy", 2, numbers(4));
  const std::string two = save("two.npy", 3, numbers(6)), three = save("three.npy", 3, numbers(9)),
                    narrow = save("narrow.npy", 2, numbers(4)), nan = save("nan.npy", 3, {0, 0, NAN, 0, 0, 0});
  const std::string each_sample = fmt::format(
      "the model '{}' takes a condition of 3 numbers, and no --condition is given; allowed: its numbers for all, a "
      "file of "
      "one for each sample, or none",
      net);
  const std::string of_plain =
      fmt::format("--condition 1 given, and the model '{}' takes none; allowed: no --condition", plain);
  const Arguments sample{"sample", "--model", net, "--out", out}, gap{"gap", "--model", net, "--data", "blob"};
  expect_refused({
      {sample, each_sample},
      {{"field", "--model", net, "--points", at, "--out", fields}, "a file of one for each point, or none"},
      {{"density", "--model", net, "--points", of_x, "--out", out}, "a file of one for each point, or none"},
      {gap, "and no --condition is given; allowed: its numbers for all, or none"},
      {{"diagnose", "--model", net}, "and no --condition is given; allowed: its numbers for all, or none"},
      {{"sample", "--model", plain, "--condition", "1", "--out", out}, of_plain},
      {{"sample", "--model", planar_mixture(), "--condition", "none", "--out", out},
       "takes none; allowed: no --condition"},
      {with(sample, {"--condition", "1,2"}), "a condition of 2 numbers is given to a model that takes one of 3"},
      {with(sample, {"--condition", "1,nan,2"}), "number 1 of a condition is nan: it must be finite"},
      {with(sample, {"--condition", "1,,2"}),
       "1,,2 given; allowed: numbers with commas between, none, or the name of a .npy, .npz or .csv file", 2},
      {with(gap, {"--condition", three}), "three.npy given; allowed: numbers with commas between, none", 2},
      {with(sample, {"--condition", narrow}), "narrow.npy' has shape [2, 2]; needed for this model: [N, 3]"},
      {with(sample, {"--condition", nan}), "conditions are finite float32 numbers"},
      {with(sample, {"--condition", file("missing.npy")}), "missing.npy"},
      {with(sample, {"--condition", two, "--samples", "3"}),
       fmt::format("--samples 3 given with --condition '{}' of 2 conditions; allowed: 2, or no --samples", two)},
      {with(sample, {"--condition", three, "--initial", of_x}),
       fmt::format("--condition '{}' of 3 conditions given with --initial of 2; allowed: as many", three)},
      {{"field", "--model", net, "--points", at, "--condition", three, "--out", fields},
       fmt::format("--condition '{}' has 3 rows, and '{}' has 2 rows; allowed: as many", three, at)},
      {{"density", "--model", net, "--points", of_x, "--scheme", "heun", "--condition", three, "--out", out},
       fmt::format("--condition '{}' has 3 rows, and '{}' has 2 rows; allowed: as many", three, of_x)},
      {{"gap", "--a", of_x, "--b", of_x, "--condition", "1"}, "--condition", 2},
      {{"sample", "--model", net, "--condition", out, "--out", out}, "is given both to be read and to be written"},
      {{"info", "--model", net, "--condition-width", "0"}, "0 given; allowed: integers from 1 to 4096", 2},
  });
}

TEST_F(Conditions, AreDescribed) {
  const std::string net = conditional();
  const Json model = fokker_json({"info", "--model", net, "--json"})["model"];
  EXPECT_EQ(model["condition"], 3);
  EXPECT_EQ(model["condition_branch"], "mish:5");
  EXPECT_EQ(model["condition_into"], "input,hidden1");
  EXPECT_EQ(model["condition_layers"], Json({"condition1"}));
  EXPECT_EQ(model["inputs"], "y,t,x");
  std::string text = fokker({"info", "--model", net}).out;
  EXPECT_THAT(text, HasSubstr("  condition   3 numbers, mish:5, into input,hidden1\n"));
  EXPECT_THAT(text, HasSubstr("condition 3, condition branch mish:5, condition into input,hidden1"));
  EXPECT_THAT(text, HasSubstr("  condition layers condition1\n"));
  // A raw one, by the words of the options.
  SafeTensors file_of;
  for (const auto& [name, out, in] : {std::tuple{"a", 4, 2 + 1 + 1}, {"b", 2, 4}}) {
    const std::vector<float> values = numbers(static_cast<std::size_t>(out * in));
    file_of.tensors[std::string(name) + ".weight"] = Tensor::from_float({out, in}, values.data());
  }
  file_of.save(file("theirs.safetensors"));
  const Arguments info{
      "info",  "--model",  file("theirs.safetensors"), "--activation", "silu", "--output", "noise", "--inputs", "x,t,y",
      "--sde", "vp-linear"};
  text = fokker(with(info, {"--condition-width", "1"})).out;
  EXPECT_THAT(text, HasSubstr("  condition   1 number, as they are, into a\n"));
  expect_refused(info, "lack condition, how many numbers that has; give it there, or by --condition-width");
  expect_refused(with(info, {"--condition-width", "1", "--condition-into", "b"}), "b has 4 inputs");
  EXPECT_THAT(fokker({"info", "--model", network("plain.safetensors", Output::score)}).out,
              Not(HasSubstr("condition")));
}

// Two Gaussians, at (1.5, 0) where y = 1 and at (−1.5, 1) where y = −1; the condition is dropped now and then.
class TrainedConditions : public Conditions {
 protected:
  std::string table() const {
    std::vector<float> rows;
    constexpr int n = 2000;
    for (int i = 0; i < n; ++i) {  // of each, both coordinates normal by the Box–Muller transform
      const bool first = i % 2 == 0;
      const double angle = 2.399963 * double(i), radius = std::sqrt(-2 * std::log((double(i) + 0.5) / n));
      rows.push_back(float((first ? 1.5 : -1.5) + 0.3 * radius * std::cos(angle)));
      rows.push_back(float((first ? 0.0 : 1.0) + 0.3 * radius * std::sin(angle)));
      rows.push_back(first ? 1.0f : -1.0f);
    }
    return save("table.npy", 3, rows);
  }
  Arguments train(const Arguments& more, const char* iterations = "400") const {
    return with({"train",     "--data",
                 table(),     "--condition",
                 "1",         "--sde",
                 "vp-linear", "--output",
                 "edm",       "--activation",
                 "silu",      "--hidden",
                 "32,32",     "--iterations",
                 iterations,  "--denoising-points",
                 "256",       "--peak-rate",
                 "1e-2",      "--json",
                 "--out",     file("given.safetensors")},
                more);
  }
  // The mean of samples given a condition.
  std::vector<double> mean(const std::string& condition) const {
    return fokker_json({"sample", "--model", file("given.safetensors"), "--condition", condition, "--samples", "1000",
                        "--scheme", "heun", "--grid", "geometric:40", "--out", file("x.npy"),
                        "--json"})["moments"]["mean"];
  }
};

TEST_F(TrainedConditions, ArePartsOfTheLawThatIsLearned) {
  const Json json = fokker_json(train({"--condition-drop", "0.2"}));
  EXPECT_EQ(json["warnings"], Json::array());
  EXPECT_EQ(json["recipe"]["condition_drop"], 0.2);
  EXPECT_EQ(json["recipe"]["architecture"]["condition"], 1);
  EXPECT_EQ(json["recipe"]["architecture"]["dimension"], 2);
  // The deviation of x's columns: 1.53 and 0.58, whatever that of y is.
  EXPECT_NEAR(json["recipe"]["architecture"]["data_deviation"], 1.16, 0.03);
  std::vector<double> found = mean("1");
  EXPECT_NEAR(found[0], 1.5, 0.2);
  EXPECT_NEAR(found[1], 0, 0.2);
  found = mean("-1");
  EXPECT_NEAR(found[0], -1.5, 0.2);
  EXPECT_NEAR(found[1], 1, 0.2);
  found = mean("none");  // of both: dropping, it has learned the law of x alone
  EXPECT_NEAR(found[0], 0, 0.6);
  EXPECT_NEAR(found[1], 0.5, 0.4);
}

TEST_F(TrainedConditions, AreOfAStandardisedTableToo) {
  // The condition in units of its own, which no warning is of: x lies within its box.
  std::vector<float> rows = [&] {
    const Array there = load_array(table());
    return std::vector<float>(there.data.begin(), there.data.end());
  }();
  for (std::size_t i = 2; i < rows.size(); i += 3) rows[i] = 1e4f + 100 * rows[i];
  const std::string far = save("far.npy", 3, rows);
  Arguments arguments = train({}, "1");
  arguments[2] = far;
  Json json = fokker_json(arguments);
  EXPECT_EQ(json["warnings"], Json::array());
  const ModelMetadata metadata = SafeTensors::load(file("given.safetensors")).metadata;
  EXPECT_LT(std::stod(metadata.at("largest_datum")), 4);
  EXPECT_EQ(json["recipe"]["architecture"]["data_deviation"],
            fokker_json(train({}, "1"))["recipe"]["architecture"]["data_deviation"]);

  arguments = train({"--standardise"});
  arguments[2] = far;
  json = fokker_json(arguments);
  EXPECT_EQ(json["warnings"], Json::array());
  const std::vector<double> high = mean("10100"), low = mean("9900");
  EXPECT_NEAR(high[0], 1.5, 0.25);
  EXPECT_NEAR(low[0], -1.5, 0.25);
  EXPECT_NEAR(low[1], 1, 0.25);
  // Each sample its own.
  std::vector<float> each;
  for (int i = 0; i < 200; ++i) each.push_back(i % 2 == 0 ? 10100.0f : 9900.0f);
  const std::string conditions = save("y.npy", 1, each);
  EXPECT_EQ(fokker({"sample", "--model", file("given.safetensors"), "--condition", conditions, "--scheme", "heun",
                    "--grid", "geometric:40", "--out", file("x.npy")})
                .code,
            0);
  const std::vector<float> x = floats("x.npy");
  int right = 0;
  for (int i = 0; i < 200; ++i) right += (x[static_cast<std::size_t>(2 * i)] > 0) == (i % 2 == 0);
  EXPECT_GE(right, 195);
  for (const Arguments& dropped : {Arguments{"--condition", "none"}, {"--condition", "9900", "--guidance", "2"}}) {
    expect_refused(with({"sample", "--model", file("given.safetensors"), "--out", file("no.npy")}, dropped),
                   "dropped no condition; allowed: a model of train --condition-drop above 0");
  }
}

TEST_F(TrainedConditions, ResumedEndAsIfUndisturbed) {
  const std::string state = file("given.state"), out = file("given.safetensors");
  fokker_json(train({"--condition-branch", "mish:6,silu:4", "--condition-into", "input,output", "--condition-drop",
                     "0.3", "--time-branch", "fixed:sine:8", "--standardise"},
                    "30"));
  const std::string whole = get(out);
  const Model model = load_model(out);
  const Architecture& a = std::get<Mlp>(model.network).architecture;
  EXPECT_THAT(a.describe(),
              ::testing::EndsWith("time branch fixed:sine:8, time into input,hidden1, condition 1, condition "
                                  "branch mish:6,silu:4, condition into input,output"));
  TrainOptions options;
  options.iterations = 30, options.denoising_points = 256, options.peak_rate = 1e-2;
  options.time_law = TimeLaw::uniform, options.condition_drop = 0.3;
  Trainer trainer(Context(), {model.sde, Mlp::initialise(a, 0), model.standardisation},
                  DataSet::named(file("table.npy")), options);
  trainer.run(11);
  trainer.save_state(state);
  const Arguments resume{"train", "--data", file("table.npy"), "--resume", state, "--out", out};
  std::filesystem::remove(out);
  EXPECT_EQ(fokker_json(with(resume, {"--json"}))["first_iteration"], 11);
  EXPECT_EQ(get(out), whole);
  expect_refused(with(resume, {"--condition", "1"}), "--condition", 2);
}

TEST_F(TrainedConditions, AreRefusedWhereTheyDoNotFit) {
  const Arguments blob{"train", "--data", "blob", "--out", file("out.safetensors")};
  const std::string drop = "conditions are to be dropped with probability 0.1, and the network takes none; allowed: 0";
  expect_refused({
      {with(blob, {"--condition", "2"}),
       "--condition 2 given with --data 'blob' of 2 columns; allowed: less than that, the others being x"},
      {with(blob, {"--condition", "-1"}), "--condition -1 given; allowed: integers from 0 to 4096", 2},
      {with(blob, {"--condition-branch", "silu:4"}),
       "--condition-branch given without --condition; allowed: with the number of columns that are one", 2},
      {with(blob, {"--condition-into", "input"}), "--condition-into given without --condition", 2},
      {with(blob, {"--condition-drop", "0.1"}), drop},
      {with(blob, {"--condition", "1", "--condition-drop", "2"}),
       "the probability of dropping a condition is 2; allowed: from 0 up to 1", 2},
      {with(blob, {"--condition", "1", "--condition-into", "hidden9"}), "the layer 'hidden9' given; allowed: input", 2},
      {with(blob, {"--condition", "1", "--condition-branch", "silu"}), "the layer 'silu' of a branch given", 2},
      {with(blob, {"--condition", "1", "--inputs", "t,y,x"}),
       "--inputs t,y,x given; allowed in a training: the time first, and x", 2},
  });
}

}  // namespace
}  // namespace fokker::testing
