// Compositions as model files: every command takes one as it takes a network or a mixture.
#include <string>
#include <vector>

#include "command_line.hpp"

namespace fokker::testing {
namespace {

using ::testing::HasSubstr;

class CompositionCommand : public CommandLine {
 protected:
  // Two networks and the likelihood of a number, of the law N(0, I).
  std::string sum(Output output = Output::potential, Activation second = Activation::softplus) const {
    network("with.safetensors", output), network("without.safetensors", Output::potential, 2, second);
    put(file("sum.json"), R"({"terms": [{"weight": 1.25, "model": "with.safetensors"},
        {"weight": -0.25, "model": "without.safetensors"},
        {"likelihood": {"matrix": [[1, -0.5]], "covariance": 0.04, "observation": [0.7],
         "prior": {"weights": [1], "means": [[0, 0]], "covariances": 1}}}]})");
    return file("sum.json");
  }
};

TEST_F(CompositionCommand, SamplesAndDensitiesAreTheLibrarys) {
  const std::string path = sum();
  const Model model = load_model(path);
  const Context context({.backend = BackendKind::cpu});
  const Sampler sampler(context, model, TimeGrid::parse("geometric:9:1e-3", model.sde));
  for (const Scheme scheme : {Scheme::euler_maruyama, Scheme::heun}) {
    fokker_json({"sample", "--model", path, "--samples", "99", "--seed", "7", "--grid", "geometric:9:1e-3", "--scheme",
                 std::string(to_string(scheme)), "--out", file("x.npy"), "--json"});
    std::vector<float> x(2 * 99);
    sampler.sample(View<float>(x, 2), {.scheme = scheme, .seed = 7});
    EXPECT_EQ(load_array(file("x.npy")).data, std::vector<double>(x.begin(), x.end()));
  }
  fokker_json({"density", "--model", path, "--points", file("x.npy"), "--scheme", "heun", "--grid", "geometric:9:1e-3",
               "--out", file("p.npy"), "--json"});
  const Array points = load_array(file("x.npy"));
  const std::vector<float> x(points.data.begin(), points.data.end());
  std::vector<float> p(99);
  sampler.log_density(View<const float>(x, 2), View<float>(p), Scheme::heun);
  EXPECT_EQ(load_array(file("p.npy")).data, std::vector<double>(p.begin(), p.end()));
  fokker_json(
      {"density", "--model", path, "--points", file("x.npy"), "--paths", "8", "--out", file("p.npy"), "--json"});
}

TEST_F(CompositionCommand, FieldsAreThoseThatAllTermsHave) {
  const auto written = [&](const std::string& path) {
    fokker_json({"field", "--model", path, "--points", points(), "--out", file("f.safetensors"), "--json"});
    std::vector<std::string> names;
    for (const auto& [name, tensor] : SafeTensors::load(file("f.safetensors")).tensors) names.push_back(name);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(written(sum()), (Names{"dt", "laplacian", "residual", "score", "value"}));
  EXPECT_EQ(written(sum(Output::score)), (Names{"divergence", "score"}));
  EXPECT_EQ(written(sum(Output::potential, Activation::relu)), (Names{"dt", "score", "value"}));
  EXPECT_EQ(written(sum(Output::score, Activation::relu)), (Names{"score"}));

  const std::string path = sum();
  fokker_json({"field", "--model", path, "--points", points(), "--out", file("f.safetensors"), "--json"});
  const std::vector<float> t{0.5f, 1.0f}, x{0.1f, -0.2f, 0.3f, 0.7f};  // those of points()
  std::vector<float> score(4), residual(2);
  Fields<float>(Context({.backend = BackendKind::cpu}), load_model(path))
      .evaluate({View<const float>(t), View<const float>(x, 2)},
                {.score = View<float>(score, 2), .residual = View<float>(residual)});
  const SafeTensors fields = SafeTensors::load(file("f.safetensors"));
  EXPECT_EQ(fields.at("score").to_double(), std::vector<double>(score.begin(), score.end()));
  EXPECT_EQ(fields.at("residual").to_double(), std::vector<double>(residual.begin(), residual.end()));
}

TEST_F(CompositionCommand, IsDescribedComparedAndDiagnosed) {
  const std::string path = sum();
  const Json model = fokker_json({"info", "--model", path, "--json"})["model"];
  EXPECT_EQ(model["kind"], "composition");
  EXPECT_EQ(model["summary"], "weighted sum of the potentials of 4 terms in 2 dimensions");
  EXPECT_EQ(model["output"], "potential");
  EXPECT_EQ(model["sde"]["name"], "ou");
  ASSERT_EQ(model["terms"].size(), 4u);
  EXPECT_EQ(model["terms"][1]["weight"], -0.25);
  EXPECT_EQ(model["terms"][1]["kind"], "mlp");
  EXPECT_EQ(model["terms"][3]["kind"], "mixture");
  EXPECT_EQ(model["terms"][3]["weight"], -1);
  const std::string text = fokker({"info", "--model", path}).out;
  EXPECT_THAT(text, HasSubstr("  network     weighted sum of the potentials of 4 terms in 2 dimensions\n"));
  EXPECT_THAT(text, HasSubstr("  term        -0.25 times 3–17–9–1, softplus(5), potential\n"));
  for (const Json& plan : model["kernels"]) {
    EXPECT_EQ(plan["detail"],
              "those of each term, and sums of their fields; samples and log density a stage at a time");
  }

  const Json gap = fokker_json(
      {"gap", "--model", path, "--data", "blob", "--samples", "99", "--grid", "geometric:9:1e-3", "--json"});
  EXPECT_EQ(gap["model"], path);
  const Json found = fokker_json({"diagnose", "--model", path, "--nodes", "32", "--samples", "19", "--bound-samples",
                                  "9", "--box-points", "9", "--grid", "geometric:20", "--json"});
  EXPECT_TRUE(found.contains("upper_bound"));
}

// One network with its condition and without: by a file and by an option, as by the library.
TEST_F(CompositionCommand, GuidesByACondition) {
  Architecture a;
  a.hidden = {9, 7}, a.activation = Activation::silu, a.output = Output::score;
  a.condition = {{}, {0}, {}, 2};
  const Model net{ForwardSde::ou(), Mlp::initialise(a, 3)};
  save_model(file("net.safetensors"), net);
  put(file("guided.json"), R"({"terms": [{"weight": 2.5, "model": "net.safetensors", "condition": [0.5, -1]},
      {"weight": -1.5, "model": "net.safetensors", "condition": "none"}]})");
  const Arguments sample{"sample", "--samples", "50", "--grid", "geometric:20:1e-3", "--scheme", "ode", "--out"};
  const auto samples = [&](const Arguments& more) {
    const std::string out = file("out.npy");
    EXPECT_EQ(fokker(with(with(sample, {out}), more)).code, 0);
    return load_array(out).data;
  };
  Buffer<float> expected(Context({.backend = BackendKind::cpu}), 50, 2);
  Sampler(Context({.backend = BackendKind::cpu}), guided(with_condition(net, {0.5, -1}), without_condition(net), 2.5),
          TimeGrid::geometric(10, 1e-3, 20))
      .sample(expected.view(), {.scheme = Scheme::euler});
  const std::vector<double> all(expected.data(), expected.data() + 100);
  EXPECT_EQ(samples({"--model", file("guided.json")}), all);
  EXPECT_EQ(samples({"--model", file("net.safetensors"), "--condition", "0.5,-1", "--guidance", "2.5"}), all);

  put(file("missing.json"), R"({"terms": [{"model": "net.safetensors"}]})");
  put(file("word.json"), R"({"terms": [{"model": "net.safetensors", "condition": "nothing"}]})");
  put(file("short.json"), R"({"terms": [{"model": "net.safetensors", "condition": [1]}]})");
  put(file("mixture.json"), R"({"terms": [{"mixture": {"weights": [1], "means": [[0, 0]], "covariances": 1},
      "condition": [1]}]})");
  const Arguments to = with(sample, {file("no.npy"), "--model"});
  expect_refused(
      {{with(to, {file("missing.json")}),
        "its model takes a condition of 2 numbers; allowed: a key condition with them, or with \"none\""},
       {with(to, {file("word.json")}), "its condition is 'nothing'; allowed: an array of numbers, or \"none\""},
       {with(to, {file("short.json")}), "a condition of 1 numbers is given to a model that takes one of 2"},
       {with(to, {file("mixture.json")}), "it has 2 keys; allowed: one of model, mixture and likelihood"},
       {with(to, {file("net.safetensors"), "--condition", "none", "--guidance", "2"}),
        "--guidance 2 given with --condition none; allowed: with --condition and its numbers for all"}});
}

TEST_F(CompositionCommand, IsRefusedWhereItDoesNotFit) {
  const std::string path = sum();
  const Arguments sample{"sample", "--samples", "9", "--out", file("out.npy"), "--model"};
  put(file("loop.json"), R"({"terms": [{"model": "loop.json"}]})");
  put(file("other.json"), R"({"terms": [{"model": "with.safetensors"}, {"mixture": {"weights": [1],
      "means": [[0, 0]], "covariances": 1, "sde": "ve"}}]})");
  put(file("three.json"), R"({"terms": [{"model": "with.safetensors"}, {"model": "mixture3.json"}]})");
  mixture_3d();
  expect_refused(
      {{with(sample, {file("loop.json")}), "is a composition itself; allowed: networks and Gaussian mixtures"},
       {with(sample, {file("other.json")}), "term 1 of a composition has the SDE ve"},
       {with(sample, {file("three.json")}),
        "term 1 of a composition has dimension 3, and the first has 2; allowed: the same"},
       {with(sample, {path, "--activation", "tanh"}), "the option activation is for networks"},
       {{"train", "--data", path, "--out", file("out.safetensors")},
        fmt::format("'{}' as a data set holds no Gaussian mixture", path)}});
}

}  // namespace
}  // namespace fokker::testing
