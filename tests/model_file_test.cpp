// Models: their sizes, initialisation and files, ours and those that PyTorch users write.
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <span>

#include "compare.hpp"
#include "fmt/format.h"
#include "fokker/fields.hpp"
#include "fokker/model.hpp"
#include "fokker/safetensors.hpp"
#include "fokker/sampler.hpp"
#include "fokker/trainer.hpp"
#include "gmock/gmock.h"
#include "networks.hpp"
#include "paper_data.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using testing::damaged;
using testing::get;
using ::testing::HasSubstr;
using testing::message_of;
using ::testing::Not;
using testing::put;
using testing::Scratch;
using Shape = std::vector<std::int64_t>;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN(),
                 infinity = std::numeric_limits<double>::infinity();

const Mlp& mlp_of(const Model& model) { return std::get<Mlp>(model.network); }
const GaussianMixture& mixture_of(const Model& model) { return std::get<GaussianMixture>(model.network); }

Architecture architecture(std::int64_t d, Shape hidden, Activation activation, Output output) {
  Architecture a;
  a.dimension = d;
  a.hidden = std::move(hidden);
  a.activation = activation;
  a.output = output;
  return a;
}

// A tensor of distinct small numbers.
Tensor tensor(Shape shape) {
  std::int64_t count = 1;
  for (const std::int64_t n : shape) count *= n;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(std::sin(1.0 + double(i)));
  return Tensor::from_float(std::move(shape), values.data());
}

// Layers as {name, outputs, inputs} with biases.
struct Layer {
  const char* name;
  std::int64_t outputs, inputs;
};
SafeTensors file_of(const std::vector<Layer>& layers, const ModelMetadata& metadata = {}) {
  SafeTensors file;
  for (const auto& [name, outputs, inputs] : layers) {
    file.tensors[std::string(name) + ".weight"] = tensor({outputs, inputs});
    file.tensors[std::string(name) + ".bias"] = tensor({outputs});
  }
  file.metadata = metadata;
  return file;
}

const ModelMetadata tanh_potential = {
    {"activation", "tanh"}, {"output", "potential"}, {"inputs", "t,x"}, {"sde", "ou"}};

Model load(const Scratch& scratch, const SafeTensors& file, const ModelMetadata& overrides = {}) {
  file.save(scratch / "a.safetensors");
  return load_model(scratch / "a.safetensors", overrides);
}

std::string refusal(const Scratch& scratch, const SafeTensors& file, const ModelMetadata& overrides = {}) {
  const std::string text = message_of([&] { load(scratch, file, overrides); });
  EXPECT_THAT(text, HasSubstr("a.safetensors"));
  return text;
}

// ------------------------------------------------------------------------------------------------------------- names

template <class E, class Parse>
void expect_names(Parse parse, const std::vector<std::pair<E, const char*>>& names) {
  std::string text;
  for (const auto& [value, name] : names) {
    EXPECT_EQ(parse(name), value);
    EXPECT_EQ(to_string(value), name);
  }
  text = message_of([&] { parse("no such\nname"); });
  for (const auto& [value, name] : names) EXPECT_THAT(text, HasSubstr(name));
  message_of([&] { parse(""); });
  message_of([&] { to_string(static_cast<E>(99)); });
}

TEST(Names, ReadBackAndListTheAllowed) {
  std::vector<std::pair<Activation, const char*>> activations;
  for (const ActivationTraits& traits : Activations::traits) activations.push_back({traits.activation, traits.name});
  expect_names<Activation>(parse_activation, activations);
  expect_names<Scheme>(parse_scheme, {{Scheme::euler_maruyama, "euler-maruyama"},
                                      {Scheme::euler, "euler"},
                                      {Scheme::heun, "heun"},
                                      {Scheme::rk4, "rk4"},
                                      {Scheme::exponential, "exponential"},
                                      {Scheme::ddim, "ddim"}});
  EXPECT_EQ(parse_scheme("sde"), Scheme::euler_maruyama);
  EXPECT_EQ(parse_scheme("ode"), Scheme::euler);
  expect_names<TimeLaw>(parse_time_law, {{TimeLaw::paper, "paper"},
                                         {TimeLaw::uniform, "uniform"},
                                         {TimeLaw::importance, "importance"},
                                         {TimeLaw::log_normal, "log-normal"}});
  expect_names<RateSchedule>(parse_rate_schedule, {{RateSchedule::paper, "paper"},
                                                   {RateSchedule::one_cycle, "one-cycle"},
                                                   {RateSchedule::cosine, "cosine"},
                                                   {RateSchedule::constant, "constant"}});
  expect_names<WeightAverage>(
      parse_weight_average,
      {{WeightAverage::none, "none"}, {WeightAverage::exponential, "exponential"}, {WeightAverage::tail, "tail"}});
}

// ------------------------------------------------------------------------------------------------------ architecture

TEST(ArchitectureLayout, IsLayerAfterLayerWeightsThenBiases) {
  const Architecture paper;
  EXPECT_EQ(paper.parameter_count(), 13361);  // the paper's network
  EXPECT_EQ(paper.weight_offset(0), 0);
  EXPECT_EQ(paper.bias_offset(0), 240);
  EXPECT_EQ(paper.weight_offset(1), 320);
  EXPECT_EQ(paper.bias_offset(3), 13360);
  EXPECT_EQ(paper.describe(), "3–80–80–80–1, softplus(100), potential");
  EXPECT_EQ(paper.names(), (std::vector<std::string>{"input", "hidden1", "hidden2", "output"}));
  const Architecture score = architecture(5, {7, 1, 127}, Activation::silu, Output::score);
  EXPECT_EQ(score.parameter_count(), 7 * 7 + 1 * 8 + 127 * 2 + 5 * 128);
  EXPECT_EQ(score.describe(), "6–7–1–127–5, silu, score");
  EXPECT_EQ(architecture(1, {1}, Activation::sine, Output::score).names(),
            (std::vector<std::string>{"input", "output"}));
}

TEST(ArchitectureLayout, SizesOutsideTheirRangeAreRefused) {
  const auto refuse = [](auto change, const char* message) {
    Architecture a;
    a.validate();
    change(a);
    EXPECT_THAT(message_of([&] { a.validate(); }), HasSubstr(message));
    message_of([&] { Mlp::initialise(a, 0); });
  };
  refuse([](auto& a) { a.dimension = 0; }, "dimension 0: allowed are 1 to 4096");
  refuse([](auto& a) { a.dimension = -1; }, "dimension -1");
  refuse([](auto& a) { a.dimension = 4097; }, "dimension 4097");
  refuse([](auto& a) { a.hidden.clear(); }, "0 hidden layers: allowed are 1 to 64");
  refuse([](auto& a) { a.hidden.assign(65, 1); }, "65 hidden layers");
  refuse([](auto& a) { a.hidden[1] = 0; }, "width 0: allowed are 1 to 16384");
  refuse([](auto& a) { a.hidden[1] = -5; }, "width -5");
  refuse([](auto& a) { a.hidden[2] = 16385; }, "width 16385");
  refuse([](auto& a) { a.hidden.assign(64, 16384); }, "parameters");
  for (const double beta : {0.0, -1.0, not_a_number, infinity}) refuse([&](auto& a) { a.beta = beta; }, "beta");
  refuse([](auto& a) { a.layer_names = {"a", "b"}; }, "2 layer names are given for a network of 4 layers");
  refuse([](auto& a) { a.layer_names = {"a", "b", "a", "c"}; }, "'a' is given twice");
  for (const char* name : {"", "a,b", "a b", ".a", "a.", "a\n", "\"", "ü"}) {
    refuse([&](auto& a) { a.layer_names = {"a", name, "b", "c"}; }, "not a layer name");
  }
  refuse([](auto& a) { a.condition.inputs = -1; }, "the width of a condition is -1; allowed: 0 to 4096");
  refuse([](auto& a) { a.condition.inputs = 4097; }, "the width of a condition is 4097; allowed: 0 to 4096");
  const char* const none =
      "a condition of width 0 has layers or is taken by layers; allowed: a condition of width 1 or more";
  refuse([](auto& a) { a.condition.layers = {BranchLayer{}}; }, none);
  refuse([](auto& a) { a.condition.into = {1}; }, none);
  refuse(
      [](auto& a) {
        a.condition = {{{0}}, {0}, {}, 3};
      },
      "a layer of a condition's branch has width 0: allowed are 1 to 16384");
  refuse(
      [](auto& a) {
        a.condition = {{}, {0, 4}, {}, 3};
      },
      "the layers that take the condition name layer 4 at place 1; allowed: layers 0 to 3, ascending, each once");
  refuse([](auto& a) { a.condition = {{BranchLayer{}}, {0}, {"input"}, 3}; }, "the layer name 'input' is given twice");
  refuse(
      [](auto& a) {
        a.condition = {{BranchLayer{}}, {0}, {"one", "two"}, 3};
      },
      "2 layer names are given for a condition's branch of 1 layers");
  refuse([](auto& a) { a.time.inputs = 2; }, "the number of times that a time branch takes is 2; allowed: 1 to 1");
  refuse(
      [](auto& a) {
        a.hidden = {80, 79}, a.residual = {1};
      },
      "hidden layer 2 has a residual connection from 80 units to 79; allowed: equal widths");
  refuse([](auto& a) { a.activation = static_cast<Activation>(99); }, "activation");
  refuse([](auto& a) { a.output = static_cast<Output>(9); }, "output");
  Architecture largest;
  largest.dimension = 4096;
  largest.hidden = {16384, 1};
  largest.layer_names = {"layers.0", "net.1.linear", "_x-y"};
  largest.beta = 0.5;
  EXPECT_NO_THROW(largest.validate());
}

TEST(Initialisation, IsUniformOnPlusMinusOneOverRootInputs) {
  const Architecture a = architecture(3, {80, 127, 200}, Activation::tanh, Output::score);
  const Mlp mlp = Mlp::initialise(a, 7), again = Mlp::initialise(a, 7), other = Mlp::initialise(a, 8);
  EXPECT_EQ(mlp.parameters, again.parameters);
  ASSERT_EQ(static_cast<std::int64_t>(mlp.parameters.size()), a.parameter_count());
  std::size_t equal = 0;
  for (std::size_t i = 0; i < mlp.parameters.size(); ++i) {
    equal += mlp.parameters[i] == other.parameters[i];
    EXPECT_EQ(mlp.parameters[i], static_cast<float>(mlp.parameters[i]));
  }
  EXPECT_LT(equal, 10u);  // 24-bit uniforms agree by chance once in 2^24
  for (std::int64_t l = 0; l < a.layers(); ++l) {
    SCOPED_TRACE(l);
    const auto first = mlp.parameters.begin() + a.weight_offset(l),
               last = mlp.parameters.begin() + a.weight_offset(l + 1);
    const double bound = 1 / std::sqrt(double(a.inputs(l))), n = double(last - first);
    double sum = 0, square = 0, largest = 0;
    for (auto p = first; p != last; ++p) sum += *p, square += *p * *p, largest = std::max(largest, std::fabs(*p));
    EXPECT_LE(largest, bound * (1 + 1e-7));
    // Five standard deviations: of the mean, bound/√(3n); of the mean square, bound² √(4/45)/√n.
    EXPECT_NEAR(sum / n, 0, 5 * bound / std::sqrt(3 * n));
    EXPECT_NEAR(square / n, bound * bound / 3, 5 * bound * bound * std::sqrt(4.0 / 45 / n));
    EXPECT_GT(largest, bound * (1 - 20 / n));  // missed with probability e^{−20}
  }
}

// A layer that takes an embedding is two matrices in one, each as wide as its own inputs make it: two numbers x would be
// lost beside 62 of an embedding.
TEST(Initialisation, GivesAnEmbeddingAndXScalesOfTheirOwn) {
  Architecture a = architecture(2, {200, 100}, Activation::silu, Output::potential);
  a.time = {{{62, {Activation::silu, 1}}}, {0, 1}};
  const std::vector<double> parameters = Mlp::initialise(a, 3).parameters;
  for (const std::int64_t l : {0, 1}) {
    const std::int64_t inputs = a.inputs(l), own = inputs - 62;
    double of_time = 0, of_rest = 0;
    for (std::int64_t k = 0; k < a.outputs(l) * inputs; ++k) {
      double& largest = k % inputs < 62 ? of_time : of_rest;
      largest = std::max(largest, std::fabs(parameters[static_cast<std::size_t>(a.weight_offset(l) + k)]));
    }
    EXPECT_LE(of_time, 1 / std::sqrt(62.0) * (1 + 1e-6));
    EXPECT_GT(of_time, 0.98 / std::sqrt(62.0));
    EXPECT_LE(of_rest, 1 / std::sqrt(double(own)) * (1 + 1e-6));
    EXPECT_GT(of_rest, 0.98 / std::sqrt(double(own)));
  }
}

TEST(ModelValidation, NamesTheTensorOfABadParameter) {
  for (const double bad : {not_a_number, infinity, -infinity, 1e39}) {
    Model model{ForwardSde{}, Mlp::initialise(Architecture{}, 1)};
    model.validate();
    std::get<Mlp>(model.network).parameters[320 + 81] = bad;
    EXPECT_THAT(message_of([&] { model.validate(); }), HasSubstr("entry 81 of the tensor hidden1.weight"));
    std::get<Mlp>(model.network).parameters[320 + 81] = 0;
    std::get<Mlp>(model.network).parameters.back() = bad;
    EXPECT_THAT(message_of([&] { model.validate(); }), HasSubstr("entry 0 of the tensor output.bias"));
    const Scratch scratch;
    message_of([&] { save_model(scratch / "a.safetensors", model); });
    EXPECT_TRUE(scratch.list().empty());
  }
  message_of([] { Model{ForwardSde{}, Mlp{Architecture{}, std::vector<double>(13360)}}.validate(); });
  message_of([] { Model{ForwardSde{}, Mlp{}}.validate(); });
  message_of([] { Model{ForwardSde{}, GaussianMixture{}}.validate(); });
}

// -------------------------------------------------------------------------------------------------------- our own
// files

std::vector<double> thousand_betas() {
  std::mt19937_64 generator(1);
  std::uniform_real_distribution<double> uniform(1e-5, 0.02);
  std::vector<double> betas(1000);
  for (double& beta : betas) beta = uniform(generator);
  return betas;
}

TEST(ModelFile, NetworksRoundTripBitForBit) {
  const Scratch scratch;
  const ForwardSde sdes[] = {ForwardSde{},
                             ForwardSde::vp_linear({1.0 / 3, 7, 2, 1e-5}),
                             ForwardSde::parse("vp-cosine"),
                             ForwardSde::parse("subvp"),
                             ForwardSde::ve({0.1, 9, 3, 1e-36}),
                             ForwardSde::ddpm(thousand_betas(), 1)};
  int trial = 0;
  for (const Activation activation : Activations::all) {
    for (const Output output : {Output::potential, Output::score}) {
      for (const std::int64_t d : {1, 2, 16}) {
        Architecture a = architecture(d, trial % 2 ? Shape{7, 1, 127} : Shape{19}, activation, output);
        a.beta = 1.0 / 3;  // within the range of every parameter
        if (trial % 3 == 0) {
          for (std::int64_t l = 0; l < a.layers(); ++l) a.layer_names.push_back(fmt::format("net.{}", 2 * l));
        }
        const Model model{sdes[trial % 6], Mlp::initialise(a, static_cast<std::uint64_t>(trial))};
        save_model(scratch / "a.safetensors", model, {{"source", "a test"}});
        const Model back = load_model(scratch / "a.safetensors");
        const Architecture& b = mlp_of(back).architecture;
        EXPECT_EQ(b.dimension, d);
        EXPECT_EQ(b.hidden, a.hidden);
        EXPECT_EQ(b.activation, activation);
        if (const char* const parameter = traits_of(activation).parameter.name) {
          EXPECT_EQ(b.beta, a.beta);
          EXPECT_EQ(SafeTensors::load(scratch / "a.safetensors").metadata.at(parameter), fmt::format("{}", a.beta));
        }
        EXPECT_EQ(b.output, output);
        EXPECT_EQ(b.layer_names, a.layer_names);
        EXPECT_EQ(mlp_of(back).parameters, mlp_of(model).parameters);
        EXPECT_EQ(back.sde.kind(), model.sde.kind());
        EXPECT_EQ(back.sde.parameters_json(), model.sde.parameters_json());
        EXPECT_EQ(back.sde.betas(), model.sde.betas());
        EXPECT_EQ(back.dimension(), d);
        EXPECT_EQ(back.output(), output);
        ++trial;
      }
    }
  }
  EXPECT_EQ(scratch.list(), std::set<std::string>{"a.safetensors"});
}

TEST(ModelFile, NetworksWithBranchesRoundTripBitForBit) {
  const Scratch scratch;
  for (const Output output : {Output::potential, Output::score}) {
    for (auto& [name, a] : testing::branched_networks(output)) {
      SCOPED_TRACE(name);
      if (!a.time.layers.empty() && a.dimension == 3) a.time.layer_names = {"embed.a", "embed.b"};
      a.time.layer_names.resize(std::min(a.time.layer_names.size(), a.time.layers.size()));
      if (!a.activations.empty()) a.activation = Activation::softplus, a.beta = 100;  // which these stand for
      const Model model{ForwardSde{}, Mlp::initialise(a, 3)};
      save_model(scratch / "a.safetensors", model);
      const Model back = load_model(scratch / "a.safetensors");
      const Architecture& b = mlp_of(back).architecture;
      EXPECT_EQ(b.describe(), a.describe());
      EXPECT_EQ(b.time, a.time);
      EXPECT_EQ(b.activations, a.activations);
      EXPECT_EQ(b.residual, a.residual);
      EXPECT_EQ(b.fixed, a.fixed);
      EXPECT_EQ(mlp_of(back).parameters, mlp_of(model).parameters);
    }
  }
}

// A network as others write it: x first in every layer that takes the embedding, names of their own, no `layers`.
TEST(ModelFile, ForeignNetworksWithATimeBranch) {
  const Scratch scratch;
  const SafeTensors file =
      file_of({{"emb.0", 4, 1}, {"emb.2", 3, 4}, {"net.0", 7, 2 + 3}, {"net.2", 7, 7 + 3}, {"net.4", 2, 7}});
  ModelMetadata words = {{"activation", "silu,leaky-relu(0.2)"},
                         {"output", "noise"},
                         {"inputs", "x,1000*t"},
                         {"sde", "vp-linear"},
                         {"time_branch", "fixed:sine:4,silu:3"},
                         {"time_layers", "emb.0,emb.2"},
                         {"time_into", "net.0,net.2"},
                         {"residual", "net.2"}};
  const Model model = load(scratch, file, words);
  const Mlp& mlp = mlp_of(model);
  const Architecture& a = mlp.architecture;
  EXPECT_EQ(a.describe(),
            "2–7–7–2, silu,leaky-relu(0.2), noise of 1000*t,x, time branch fixed:sine:4,silu:3, time into net.0,net.2, "
            "residual net.2");
  EXPECT_EQ(a.form.time_scale, 1000);
  // Row 1 of net.2: the embedding's columns 7, 8, 9 come first.
  const std::vector<double> net2 = file.at("net.2.weight").to_double();
  const double* row = mlp.parameters.data() + a.weight_offset(1) + 10;
  for (int j = 0; j < 10; ++j) EXPECT_EQ(row[j], net2[10 + (j < 3 ? 7 + j : j - 3)]) << j;
  const std::vector<double> emb2 = file.at("emb.2.weight").to_double();
  for (int j = 0; j < 12; ++j)
    EXPECT_EQ(mlp.parameters[static_cast<std::size_t>(a.time.weight_offset(1) + j)], emb2[j]);
  EXPECT_EQ(a.time.weight_offset(1), 8);
  EXPECT_EQ(a.weight_offset(0), 8 + 15);

  const auto refused = [&](const char* key, const char* value) {
    ModelMetadata other = words;
    other[key] = value;
    return refusal(scratch, file, other);
  };
  EXPECT_THAT(refused("time_branch", "sine:4,silu:5"),
              HasSubstr("net.0 has 7 outputs, net.2 has 10 inputs, 5 of them the time's"));
  EXPECT_THAT(refused("time_branch", "sine:5,silu:3"), HasSubstr("'emb.0.weight' has the shape [4, 1], not [5, 1]"));
  EXPECT_THAT(refused("time_branch", "sine"), HasSubstr("[fixed:]ACTIVATION:WIDTH"));
  EXPECT_THAT(refused("time_branch", "sine:0,silu:3"), HasSubstr("widths 1 to 16384"));
  EXPECT_THAT(refused("time_branch", "sine:4,silu:99999999999999999999"), HasSubstr("WIDTH"));
  EXPECT_THAT(refused("time_branch", "sine:4,softplus:3"), HasSubstr("with its beta"));
  EXPECT_THAT(refused("beta", "3"), HasSubstr("beta is given beside the list of activations"));
  EXPECT_THAT(refused("time_into", ""), HasSubstr("lack time_into"));
  EXPECT_THAT(refused("time_branch", "sine:4,silu:9223372036854775807"), HasSubstr("widths 1 to 16384"));
  EXPECT_THAT(refused("time_into", "net.0,net.9"), AllOf(HasSubstr("'net.9'"), HasSubstr("net.0, net.2, net.4")));
  EXPECT_THAT(refused("time_into", "net.0,net.0"), HasSubstr("each once"));
  EXPECT_THAT(refused("residual", "net.0"), HasSubstr("allowed: layers 1 to 1"));
  EXPECT_THAT(refused("residual", "net.4"), HasSubstr("allowed: layers 1 to 1"));
  EXPECT_THAT(refused("activation", "silu,silu,silu"), HasSubstr("3 activations are given for 2 hidden layers"));
  EXPECT_THAT(refused("activation", "silu,leaky-relu"), HasSubstr("negative_slope"));
  EXPECT_THAT(refused("activation", "silu,tanh(3)"), HasSubstr("no parameter"));
  EXPECT_THAT(refused("time_layers", "emb.0"), HasSubstr("time_layers names 1 layers, and time_branch has 2"));
  EXPECT_THAT(refused("time_layers", "emb.0,emb.9"), HasSubstr("time_layers"));
  words.erase("time_branch");
  EXPECT_THAT(refusal(scratch, file, words), HasSubstr("time_layers names 2 layers, and time_branch has 0"));
}

// Conditions of one number and of many, raw and through a branch, into one layer, both ends or none, beside every kind of
// time; a trunk of one hidden layer, and branches that are deeper than it.
TEST(ModelFile, NetworksWithAConditionRoundTripBitForBit) {
  const Scratch scratch;
  const LayerActivation silu{Activation::silu, 1}, mish{Activation::mish, 1};
  const Branch embedded{{{7, {Activation::sine, 1}, true}, {5, silu, false}}, {0, 1}, {"emb.0", "emb.2"}};
  const std::vector<BranchLayer> deep{{4, mish, false}, {1, silu, false}, {6, silu, false}, {3, mish, false}};
  const std::vector<Branch> conditions{{{}, {0}, {}, 1},
                                       {{}, {0, 1}, {}, 77},
                                       {{}, {1}, {}, 3},
                                       {{}, {}, {}, 2},
                                       {{{9, mish, false}}, {0}, {"enc.0"}, 77},
                                       {deep, {0, 1}, {}, 2},
                                       {deep, {1}, {}, 1}};
  for (const Output output : {Output::potential, Output::score}) {
    for (const Branch& condition : conditions) {
      for (const Branch& time : {Branch{}, embedded, Branch{deep, {1}, {}}, Branch{{}, {}, {}}}) {
        Architecture a = architecture(2, {8}, Activation::silu, output);
        a.condition = condition, a.time = time;
        SCOPED_TRACE(a.describe());
        Model model{ForwardSde{}, Mlp::initialise(a, 3)};
        model.standardisation.mean.assign(static_cast<std::size_t>(2 + condition.inputs), 1.5);
        model.standardisation.deviation.assign(static_cast<std::size_t>(2 + condition.inputs), 0.1);
        save_model(scratch / "a.safetensors", model);
        const Model back = load_model(scratch / "a.safetensors");
        EXPECT_EQ(mlp_of(back).architecture.condition, a.condition);
        EXPECT_EQ(mlp_of(back).architecture.time, a.time);
        EXPECT_EQ(mlp_of(back).architecture.describe(), a.describe());
        EXPECT_EQ(mlp_of(back).parameters, mlp_of(model).parameters);
        EXPECT_EQ(back.standardisation, model.standardisation);
      }
    }
  }
  const ModelMetadata written = SafeTensors::load(scratch / "a.safetensors").metadata;
  EXPECT_EQ(written.at("inputs"), "y,t,x");
  EXPECT_EQ(written.at("condition"), "1");
  EXPECT_EQ(written.at("condition_branch"), "mish:4,silu:1,silu:6,mish:3");
  EXPECT_EQ(written.at("condition_layers"), "condition1,condition2,condition3,condition4");
  EXPECT_EQ(written.at("condition_into"), "output");
  EXPECT_EQ(written.at("time_into"), "none");
  // Without a condition a file says nothing of it.
  save_model(scratch / "a.safetensors", {ForwardSde{}, Mlp::initialise(Architecture{.hidden = {8}}, 3)});
  for (const auto& [key, value] : SafeTensors::load(scratch / "a.safetensors").metadata) {
    EXPECT_THAT(key, Not(HasSubstr("condition")));
  }
}

// cat(x, t, y) before the first layer and cat(h, c(y)) before the second, as others write them.
TEST(ModelFile, ForeignNetworksWithACondition) {
  const Scratch scratch;
  const SafeTensors file = file_of({{"enc.0", 4, 3}, {"net.0", 7, 2 + 1 + 4}, {"net.2", 7, 7 + 4}, {"net.4", 2, 7}});
  const ModelMetadata words = {{"activation", "silu"},
                               {"output", "noise"},
                               {"inputs", "x,t,y"},
                               {"sde", "vp-linear"},
                               {"condition", "3"},
                               {"condition_branch", "mish:4"},
                               {"condition_layers", "enc.0"},
                               {"condition_into", "net.0,net.2"}};
  const Model model = load(scratch, file, words);
  EXPECT_EQ(model.dimension(), 2);
  EXPECT_EQ(model.condition(), 3);
  const Mlp& mlp = mlp_of(model);
  const Architecture& a = mlp.architecture;
  EXPECT_EQ(a.describe(),
            "3–7–7–2, silu, noise of t,x, condition 3, condition branch mish:4, condition into net.0,net.2");
  // Rows 1: in the file x x t y y y y and h … h y y y y, here y y y y t x x and y y y y h … h.
  const std::vector<double> net0 = file.at("net.0.weight").to_double(), net2 = file.at("net.2.weight").to_double();
  const double *first = mlp.parameters.data() + a.weight_offset(0) + 7,
               *second = mlp.parameters.data() + a.weight_offset(1) + 11;
  const int from[] = {3, 4, 5, 6, 2, 0, 1};
  for (int j = 0; j < 7; ++j) EXPECT_EQ(first[j], net0[7 + from[j]]) << j;
  for (int j = 0; j < 11; ++j) EXPECT_EQ(second[j], net2[11 + (j < 4 ? 7 + j : j - 4)]) << j;
  const std::vector<double> enc = file.at("enc.0.weight").to_double();
  EXPECT_EQ(std::vector<double>(mlp.parameters.begin(), mlp.parameters.begin() + 12), enc);

  const auto refused = [&](const ModelMetadata& changed) {
    ModelMetadata other = words;
    for (const auto& [key, value] : changed) other[key] = value;
    return refusal(scratch, file, other);
  };
  EXPECT_THAT(refused({{"condition", ""}, {"condition_branch", ""}, {"condition_layers", ""}, {"condition_into", ""}}),
              HasSubstr("its inputs 'x,t,y' have a condition y, and its metadata lack condition, how many numbers that "
                        "has; give it there, or by --condition-width"));
  EXPECT_THAT(refused({{"inputs", "x,t"}}),
              HasSubstr("its metadata have a condition, and its inputs 'x,t' no y; allowed: y at its place, as y,t,x"));
  for (const char* key : {"condition_branch", "condition_layers", "condition_into"}) {
    ModelMetadata other = words;
    for (const char* gone : {"condition", "condition_branch", "condition_layers", "condition_into"}) {
      if (std::string(gone) != key) other[gone] = "";
    }
    other["inputs"] = "x,t";
    EXPECT_THAT(
        refusal(scratch, file, other),
        HasSubstr(fmt::format("{} is given without condition, how many numbers a condition has; allowed: both", key)));
  }
  for (const char* count : {"0", "-1", "three", "3.0", "4097", "99999999999999999999"}) {
    EXPECT_THAT(refused({{"condition", count}}),
                HasSubstr(fmt::format("its condition is '{}'; allowed: how many numbers it has, 1 to 4096", count)));
  }
  EXPECT_THAT(
      refused({{"condition", "2"}}),
      HasSubstr("its tensor 'enc.0.weight' has the shape [4, 3], not [4, 2] as its condition branch mish:4 says"));
  EXPECT_THAT(refused({{"condition_branch", "mish:5"}}),
              HasSubstr("its layers do not chain: net.0 has 7 outputs, net.2 has 11 inputs, 5 of them the condition's; "
                        "allowed: as many as the layer before has outputs, and the width of the condition branch "
                        "mish:5"));
  EXPECT_THAT(refused({{"condition_into", "net.2"}}),
              HasSubstr("its last layer has 2 outputs, but a score of 7 inputs (y, t and x) has 6"));
  EXPECT_THAT(refused({{"condition_into", ""}}),
              HasSubstr("its metadata have condition_branch and lack condition_into, the layers that take it; give it "
                        "there, or by the option of this name"));
  EXPECT_THAT(refused({{"condition_layers", "enc.0,enc.2"}}),
              HasSubstr("condition_layers names 2 layers, and condition_branch has 1; allowed: the name of each"));
  EXPECT_THAT(refused({{"condition_layers", "net.0"}}), HasSubstr("net.0"));
  EXPECT_THAT(refused({{"condition_layers", "enc.1"}}), HasSubstr("enc.0 has 4 outputs, net.0 has 7 inputs"));
  const ModelMetadata raw{{"condition_branch", ""}, {"condition_layers", ""}, {"layers", "net.0,net.2,net.4"}};
  ModelMetadata wide = raw;
  wide["condition"] = "4";
  EXPECT_EQ(load(scratch, file,
                 [&] {
                   ModelMetadata all = words;
                   for (const auto& [key, value] : wide) all[key] = value;
                   return all;
                 }())
                .condition(),
            4);
  wide["condition"] = "7", wide["condition_into"] = "net.0";
  EXPECT_THAT(refused(wide), HasSubstr("do not chain in the order net.0,net.2,net.4: net.0 has 7 outputs,"));
  wide["layers"] = "net.0,net.4";
  EXPECT_THAT(refused(wide), HasSubstr("its layer 'net.0' has 7 inputs, 7 of them the condition's and 1 of them the "
                                       "time's; allowed: more of them, for x"));
  SafeTensors labelled = file_of({{"net.0", 7, 3}, {"net.2", 1, 7}});
  labelled.tensors["label_table"] = tensor({4, 3});
  EXPECT_THAT(
      refusal(scratch, labelled, tanh_potential),
      HasSubstr("its tensor 'label_table' is of a condition: say how many numbers it has in condition, and name "
                "and describe the layers of its embedding in condition_layers and condition_branch"));
}

TEST(ModelFile, ProofsHaveTheConditionsOfTheirPoints) {
  const Scratch scratch;
  Architecture a = architecture(2, {8}, Activation::silu, Output::score);
  a.condition.inputs = 3;
  const Model model{ForwardSde{}, Mlp::initialise(a, 3)};
  Proof proof{{0.5, 10}, {1, 2, 3, 4}, {0, 0, 0, 0}, {1, 2, 3, -1, 0, 1}};
  for (int i = 0; i < 2; ++i) {  // by the networks that are given them
    const std::vector<double> y(proof.condition.begin() + 3 * i, proof.condition.begin() + 3 * i + 3);
    const Fields<double> fields(Context({.backend = BackendKind::cpu, .threads = 1}), with_condition(model, y));
    fields.evaluate({View<const double>(proof.t.data() + i, 1), View<const double>(proof.x.data() + 2 * i, 1, 2)},
                    {.score = View<double>(proof.score.data() + 2 * i, 1, 2)});
  }
  save_model(scratch / "a.safetensors", model, {}, proof);
  EXPECT_EQ(load_model(scratch / "a.safetensors").condition(), 3);
  SafeTensors file = SafeTensors::load(scratch / "a.safetensors");
  EXPECT_EQ(file.at("proof.condition").shape, (Shape{2, 3}));
  EXPECT_EQ(file.at("proof.condition").to_double(), proof.condition);

  const auto refused = [&](const SafeTensors& other) {
    other.save(scratch / "b.safetensors");
    return message_of([&] { load_model(scratch / "b.safetensors"); });
  };
  const std::vector<double> swapped{-1, 0, 1, 1, 2, 3};
  SafeTensors other = file;
  other.tensors["proof.condition"] = Tensor::from_double({2, 3}, swapped.data());
  EXPECT_THAT(refused(other), AllOf(HasSubstr("its scores are not those of its proof at 2 of 2 points"),
                                    HasSubstr("it was taken as score of y,t,x")));
  other.tensors["proof.condition"] = Tensor::from_double({3, 2}, swapped.data());
  EXPECT_THAT(refused(other), HasSubstr("its tensor 'proof.condition' has the shape [3, 2], not [2, 3]"));
  other.tensors.erase("proof.condition");
  EXPECT_THAT(refused(other), HasSubstr("proof.condition"));
  const Model without{ForwardSde{}, Mlp::initialise(architecture(2, {8}, Activation::silu, Output::score), 3)};
  save_model(scratch / "b.safetensors", without);
  other = SafeTensors::load(scratch / "b.safetensors");
  for (const char* name : {"proof.t", "proof.x", "proof.score", "proof.condition"}) {
    other.tensors[name] = file.at(name);
  }
  EXPECT_THAT(refused(other), HasSubstr("its proof has conditions, and its network takes none; allowed: without "
                                        "proof.condition"));
  Proof wrong = proof;
  wrong.condition.pop_back();
  EXPECT_EQ(message_of([&] { check_proof(model, wrong); }),
            "a proof has 5 numbers of conditions; allowed for 2 times and a condition of 3 numbers: 6");
  EXPECT_EQ(message_of([&] { check_proof(without, proof); }),
            "a proof has 6 numbers of conditions; allowed for 2 times and a model that takes no condition: 0");
  wrong.condition.push_back(infinity);
  EXPECT_EQ(message_of([&] { check_proof(model, wrong); }), "a proof has the number inf; allowed: finite in float32");
}

TEST(ModelFile, SaysAllThatIsNeededToRunIt) {
  const Scratch scratch;
  save_model(scratch / "a.safetensors", {ForwardSde{}, Mlp::initialise(Architecture{}, 1)}, {{"source", "a test"}});
  const SafeTensors file = SafeTensors::load(scratch / "a.safetensors");
  const ModelMetadata expected = {{"activation", "softplus"},
                                  {"beta", "100"},
                                  {"output", "potential"},
                                  {"inputs", "t,x"},
                                  {"layers", "input,hidden1,hidden2,output"},
                                  {"sde", "ou"},
                                  {"sde_parameters", R"({"rate":1.0,"g":1.0,"T":10.0,"t_min":0.0001})"},
                                  {"source", "a test"}};
  EXPECT_EQ(file.metadata, expected);
  ASSERT_EQ(file.tensors.size(), 8u);
  EXPECT_EQ(file.at("input.weight").shape, (Shape{80, 3}));
  EXPECT_EQ(file.at("hidden2.bias").shape, (Shape{80}));
  EXPECT_EQ(file.at("output.weight").shape, (Shape{1, 80}));
  for (const auto& [name, t] : file.tensors) EXPECT_EQ(t.dtype, "F32") << name;
}

TEST(ModelFile, SavingRefusesWhatItCannotKeep) {
  const Scratch scratch;
  const Model network{ForwardSde{}, Mlp::initialise(Architecture{}, 1)};
  const Model mixture{ForwardSde{}, GaussianMixture::isotropic(1, {1}, {0}, {1})};
  message_of([&] { save_model(scratch / "a.json", network); });
  message_of([&] { save_model(scratch / "a.pt", network); });
  message_of([&] { save_model(scratch / "a.safetensors", mixture); });
  EXPECT_THAT(message_of([&] { save_model(scratch / "a.safetensors", network, {{"sde", "ve"}}); }), HasSubstr("sde"));
  message_of([&] { save_model(scratch / "a.safetensors", network, {{"source", "\xff"}}); });
  message_of([&] { save_model(scratch / "a.json", mixture, {{"source", "\xff"}}); });
  message_of([&] { save_model(scratch / "missing/a.safetensors", network); });
  EXPECT_TRUE(scratch.list().empty());
}

TEST(ModelFile, AFullDiskLeavesTheOldModel) {
  const Scratch scratch;
  const std::string path = scratch / "a.safetensors";
  save_model(path, {ForwardSde{}, Mlp::initialise(Architecture{}, 1)});
  const std::string old = get(path);
  const int status = testing::status_of_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10'000, 10'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 3;
    try {
      save_model(path, {ForwardSde{}, Mlp::initialise(Architecture{}, 2)});
    } catch (const Error&) {
      return 0;
    }
    return 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(get(path), old);
  EXPECT_EQ(scratch.list(), std::set<std::string>{"a.safetensors"});
}

// ------------------------------------------------------------------------------------------------------ others' files

TEST(ForeignFile, LayersFollowInNaturalOrder) {
  const Scratch scratch;
  // nn.Sequential with activations between: 0, 2, …, 10, 12.
  const std::vector<Layer> layers = {{"0", 7, 3}, {"2", 5, 7}, {"4", 5, 5}, {"10", 6, 5}, {"12", 1, 6}};
  const Model model = load(scratch, file_of(layers), tanh_potential);
  EXPECT_EQ(mlp_of(model).architecture.hidden, (Shape{7, 5, 5, 6}));
  EXPECT_EQ(mlp_of(model).architecture.layer_names, (std::vector<std::string>{"0", "2", "4", "10", "12"}));

  const Model named =
      load(scratch,
           file_of({{"net.layers.2", 5, 7}, {"net.layers.10", 2, 5}, {"net.layers.1", 7, 3}}, {{"output", "score"}}),
           {{"activation", "sine"}, {"inputs", "t,x"}, {"sde", "ou"}});
  EXPECT_EQ(mlp_of(named).architecture.hidden, (Shape{7, 5}));
  EXPECT_EQ(named.output(), Output::score);
  // Parameters stand where the layout says.
  const Architecture& a = mlp_of(named).architecture;
  const std::vector<double> weight = tensor({5, 7}).to_double(), bias = tensor({5}).to_double();
  const auto& parameters = mlp_of(named).parameters;
  EXPECT_TRUE(std::equal(weight.begin(), weight.end(), parameters.begin() + a.weight_offset(1)));
  EXPECT_TRUE(std::equal(bias.begin(), bias.end(), parameters.begin() + a.bias_offset(1)));
}

TEST(ForeignFile, AlphabeticalOrderDoesNotChainAndSaysHowToNameTheLayers) {
  const Scratch scratch;
  const SafeTensors file = file_of({{"input", 7, 3}, {"hidden1", 5, 7}, {"hidden2", 6, 5}, {"output", 1, 6}});
  EXPECT_THAT(
      refusal(scratch, file, tanh_potential),
      AllOf(HasSubstr("do not chain in the order hidden1,hidden2,input,output"), HasSubstr("layers=input,hidden1"),
            HasSubstr("--layers"), HasSubstr("'hidden1' [5, 7]"), HasSubstr("'input' [7, 3]")));
  ModelMetadata options = tanh_potential;
  options["layers"] = "input, hidden1,hidden2,output";
  const Model model = load(scratch, file, options);
  EXPECT_EQ(mlp_of(model).architecture.hidden, (Shape{7, 5, 6}));
  EXPECT_TRUE(mlp_of(model).architecture.layer_names.empty());  // they are the default
}

TEST(ForeignFile, WhatIsMissingIsAskedForAtOnce) {
  const Scratch scratch;
  const SafeTensors file = file_of({{"0", 7, 3}, {"2", 1, 7}});
  // All that is missing, and of the first what is allowed.
  EXPECT_THAT(refusal(scratch, file),
              AllOf(HasSubstr("lack activation, output, inputs, sde; give these there, or by options of "
                              "these names"),
                    HasSubstr(fmt::format("activation is {}", fmt::join(activation_names(), ", ")))));
  EXPECT_THAT(refusal(scratch, file, {{"activation", "silu"}}),
              AllOf(HasSubstr("lack output, inputs, sde; give these there, or by"),
                    HasSubstr(fmt::format("output is {}", fmt::join(output_names(), ", ")))));
  EXPECT_THAT(refusal(scratch, file, {{"activation", "softplus"}, {"output", "potential"}}),
              HasSubstr("beta is a number (PyTorch's softplus has 1)"));
  EXPECT_THAT(refusal(scratch, file, {{"activation", "silu"}, {"output", "potential"}, {"sde", "ou"}}),
              HasSubstr("lack inputs; give these there, or by options of these names; inputs is their order"));
  ModelMetadata options{{"activation", "softplus"}, {"output", "potential"}, {"beta", "20"}, {"inputs", "t,x"}};
  const std::string sdes =
      "lack sde; give these there, or by options of these names; sde is ou, vp-linear, vp-cosine, subvp, ve, edm, "
      "flow, ddpm";
  EXPECT_THAT(refusal(scratch, file, options), HasSubstr(sdes));
  options["sde_parameters"] = "{}";  // of which SDE?
  EXPECT_THAT(refusal(scratch, file, options), HasSubstr(sdes));
  options["sde"] = "vp-linear";
  const Model model = load(scratch, file, options);
  EXPECT_EQ(mlp_of(model).architecture.beta, 20);
  EXPECT_EQ(model.sde.parameters_json(), ForwardSde::vp_linear().parameters_json());
}

// A parameter that its activation does not have, be it the file's or an option's. The file's goes with the file's
// activation, for which another may stand.
TEST(ForeignFile, AParameterThatNothingReadsIsRefused) {
  const Scratch scratch;
  const SafeTensors file =
      file_of({{"0", 7, 3}, {"2", 1, 7}},
              {{"activation", "silu"}, {"output", "potential"}, {"inputs", "t,x"}, {"sde", "ou"}, {"beta", "2"}});
  EXPECT_THAT(refusal(scratch, file), HasSubstr("beta is given, and the activation silu has no such parameter"));
  EXPECT_EQ(mlp_of(load(scratch, file, {{"activation", "softplus"}})).architecture.beta, 2);
  EXPECT_THAT(refusal(scratch, file, {{"activation", "leaky-relu"}}), HasSubstr("lack negative_slope; give"));
  EXPECT_THAT(refusal(scratch, file, {{"activation", "leaky-relu"}}), HasSubstr("negative_slope is a number"));
  EXPECT_EQ(mlp_of(load(scratch, file, {{"activation", "leaky-relu"}, {"negative_slope", "0.2"}})).architecture.beta,
            0.2);
  EXPECT_THAT(
      refusal(scratch, file, {{"activation", "leaky-relu"}, {"alpha", "0.2"}}),
      HasSubstr("alpha is given, and the activation leaky-relu has no such parameter; allowed: negative_slope"));
  EXPECT_THAT(refusal(scratch, file, {{"activation", "elu"}, {"alpha", "0"}}),
              HasSubstr("elu has alpha = 0: allowed are 1e-06 to 1e+06"));
  const SafeTensors tanh = file_of({{"0", 7, 3}, {"2", 1, 7}}, tanh_potential);
  EXPECT_THAT(refusal(scratch, tanh, {{"beta", "2"}}), HasSubstr("the activation tanh has no"));
  EXPECT_EQ(mlp_of(load(scratch, file, {{"activation", "tanh"}})).architecture.activation, Activation::tanh);
}

TEST(ForeignFile, OptionsWinOverTheFile) {
  const Scratch scratch;
  const SafeTensors file = file_of({{"0", 7, 2}, {"2", 1, 7}}, {{"activation", "softplus"},
                                                                {"beta", "5"},
                                                                {"output", "potential"},
                                                                {"inputs", "t,x"},
                                                                {"sde", "vp-linear"},
                                                                {"sde_parameters", "{\"beta_max\": 7}"}});
  EXPECT_EQ(load(scratch, file).sde.formulas().vp_linear.beta_max, 7);
  const Model model =
      load(scratch, file, {{"beta", "6"}, {"output", "score"}, {"sde_parameters", "{\"beta_max\": 8}"}});
  EXPECT_EQ(mlp_of(model).architecture.beta, 6);
  EXPECT_EQ(model.output(), Output::score);
  EXPECT_EQ(model.sde.formulas().vp_linear.beta_max, 8);
  // The same SDE keeps its parameters, another one has its own; an empty option is none.
  EXPECT_EQ(load(scratch, file, {{"sde", "vp-linear"}}).sde.formulas().vp_linear.beta_max, 7);
  EXPECT_EQ(load(scratch, file, {{"sde", "subvp"}}).sde.formulas().subvp.beta_max, 20);
  EXPECT_EQ(load(scratch, file, {{"beta", ""}}).sde.formulas().vp_linear.beta_max, 7);
}

TEST(ForeignFile, OtherPrecisionsAndMissingBiasesAreRead) {
  const Scratch scratch;
  SafeTensors file = file_of({{"0", 2, 3}, {"1", 1, 2}}, tanh_potential);
  const double weights[6] = {1, -2, 0.5, 65504, 0, 1.0 / 3};
  file.tensors["0.weight"] = Tensor::from_double({2, 3}, weights);
  file.tensors["1.weight"] = {"F16", {1, 2}, {std::byte{0}, std::byte{0x3c}, std::byte{0}, std::byte{0xc0}}};
  file.tensors["0.bias"] = {"BF16", {2}, {std::byte{0x80}, std::byte{0x3f}, std::byte{0}, std::byte{0xc0}}};
  file.tensors.erase("1.bias");
  EXPECT_EQ(mlp_of(load(scratch, file)).parameters,
            (std::vector<double>{1, -2, 0.5, 65504, 0, 1.0 / 3, 1, -2, 1, -2, 0}));
}

// The same network with its columns in the other order is the same model, and written again it has the time first.
TEST(ForeignFile, InputsComeInTheOrderThatIsSaid) {
  const Scratch scratch;
  ModelMetadata options = tanh_potential;
  options["output"] = "noise", options["inputs"] = "t,x";
  SafeTensors file = file_of({{"0", 2, 3}, {"1", 2, 2}}, options);
  const double weights[6] = {1, 2, 3, 4, 5, 6}, turned[6] = {2, 3, 1, 5, 6, 4};
  file.tensors["0.weight"] = Tensor::from_double({2, 3}, weights);
  const Model model = load(scratch, file);
  file.tensors["0.weight"] = Tensor::from_double({2, 3}, turned);
  EXPECT_NE(mlp_of(load(scratch, file)).parameters, mlp_of(model).parameters);
  const Model other = load(scratch, file, {{"inputs", "x,0.25*log-sigma-1"}});
  EXPECT_EQ(mlp_of(other).parameters, mlp_of(model).parameters);
  EXPECT_EQ(
      other.form(),
      (NetworkForm{.form = Form::noise, .time_input = TimeInput::log_sigma, .time_scale = 0.25, .time_offset = -1}));
  save_model(scratch / "b.safetensors", other);
  EXPECT_EQ(SafeTensors::load(scratch / "b.safetensors").metadata.at("inputs"), "0.25*log-sigma-1,x");
  EXPECT_EQ(load_model(scratch / "b.safetensors").form(), other.form());
}

TEST(ModelFile, KeepsEveryOutput) {
  const Scratch scratch;
  for (const std::string& name : output_names()) {
    const NetworkOutput output = parse_output(name);
    Architecture a{
        .hidden = {3}, .activation = Activation::tanh, .output = output.output, .form = {.form = output.form}};
    if (output.form == Form::edm) a.form.data_deviation = 0.3;
    save_model(scratch / "a.safetensors", {ForwardSde::edm(), Mlp::initialise(a, 1)});
    const Model model = load_model(scratch / "a.safetensors");
    EXPECT_EQ(mlp_of(model).architecture.describe(), a.describe());
    EXPECT_EQ(model.form(), a.form);
    EXPECT_THAT(a.describe(), HasSubstr(name));
  }
}

TEST(ForeignFile, OthersTensorsMustBeLeftOutByName) {
  const Scratch scratch;
  SafeTensors file = file_of({{"a", 7, 3}, {"b", 1, 7}, {"ema.a", 7, 3}}, tanh_potential);
  file.tensors["step"] = tensor({1});
  EXPECT_THAT(refusal(scratch, file), AllOf(HasSubstr("'step' [1]"), HasSubstr("layers=")));
  EXPECT_EQ(load(scratch, file, {{"layers", "a,b"}}).dimension(), 2);
}

// Networks of other kinds are told by their tensors' names.
TEST(ForeignFile, SaysWhatIsNotSupported) {
  const Scratch scratch;
  const auto with = [](const std::vector<std::pair<std::string, Shape>>& tensors) {
    SafeTensors file = file_of({{"net.0", 7, 3}, {"net.2", 1, 7}}, tanh_potential);
    for (const auto& [name, shape] : tensors) file.tensors[name] = tensor(shape);
    return file;
  };
  load(scratch, with({}));
  const struct {
    std::vector<std::pair<std::string, Shape>> tensors;
    const char* message;
  } cases[] = {
      {{{"params.Dense_0.kernel", {3, 7}}}, "'params.Dense_0.kernel' is a kernel [inputs, outputs], as Flax"},
      {{{"net.1.weight_g", {7, 1}}, {"net.1.weight_v", {7, 3}}}, "'net.1.weight_g' is a part of a parametrized weight"},
      {{{"net.1.parametrizations.weight.original0", {7, 1}}}, "remove the parametrization before saving"},
      {{{"net.1.running_mean", {7}}}, "normalisation, which is not supported"},
      {{{"norm.weight", {7}}, {"norm.bias", {7}}}, "normalisation, which is not supported"},
      {{{"net.1.weight", {7}}, {"net.1.bias", {7}}}, "(normalisations are not supported)"},
      {{{"embedding.weight", {10, 4}}}, "name the layers that make it in time_layers"},
      {{{"time_embed.freqs", {4}}}, "name the layers that make it in time_layers"},
      {{{"skip.weight", {1, 3}}}, "a connection that is not supported"},
  };
  for (const auto& refused : cases) EXPECT_THAT(refusal(scratch, with(refused.tensors)), HasSubstr(refused.message));
  // Named layers are taken whatever they are called.
  EXPECT_EQ(
      load(scratch, file_of({{"embed", 7, 3}, {"norm", 1, 7}}, tanh_potential), {{"layers", "embed,norm"}}).dimension(),
      2);
}

TEST(ForeignFile, RefusesWhatIsNotThisKindOfNetwork) {
  const Scratch scratch;
  const auto with = [](SafeTensors file, const char* name, Tensor replacement) {
    file.tensors[name] = std::move(replacement);
    return file;
  };
  const SafeTensors good = file_of({{"0", 7, 3}, {"2", 1, 7}}, tanh_potential);
  load(scratch, good);
  EXPECT_THAT(refusal(scratch, SafeTensors{{}, tanh_potential}), HasSubstr("0 layers"));
  EXPECT_THAT(refusal(scratch, file_of({{"0", 1, 3}}, tanh_potential)), HasSubstr("1 layers"));
  EXPECT_THAT(refusal(scratch, with(good, "0.bias", tensor({8}))), HasSubstr("'0.bias' has the shape [8], not [7]"));
  EXPECT_THAT(refusal(scratch, with(good, "0.bias", tensor({7, 1}))), HasSubstr("'0.bias' has the shape [7, 1]"));
  EXPECT_THAT(refusal(scratch, with(good, "0.weight", tensor({21}))), HasSubstr("'0.weight' has the shape [21]"));
  EXPECT_THAT(refusal(scratch, with(good, "0.weight", tensor({7, 3, 1}))), HasSubstr("[7, 3, 1]"));
  EXPECT_THAT(refusal(scratch, with(good, "1.weight", tensor({7}))), HasSubstr("'1.weight' has the shape [7]"));
  EXPECT_THAT(refusal(scratch, with(good, "norm.bias", tensor({7}))), HasSubstr("'norm.bias'"));
  EXPECT_THAT(refusal(scratch, with(good, "weight", tensor({1, 1}))), HasSubstr("'weight'"));
  EXPECT_THAT(refusal(scratch, with(good, ".weight", tensor({1, 1}))), HasSubstr("'.weight'"));
  EXPECT_THAT(refusal(scratch, file_of({{"0", 7, 3}, {"2", 3, 7}}, tanh_potential)), HasSubstr("last layer has 3"));
  EXPECT_THAT(refusal(scratch, good, {{"output", "score"}}), HasSubstr("last layer has 1"));
  EXPECT_THAT(refusal(scratch, file_of({{"0", 7, 1}, {"2", 1, 7}}, tanh_potential)), HasSubstr("dimension 0"));
  EXPECT_THAT(refusal(scratch, file_of({{"0", 7, 0}, {"2", 1, 7}}, tanh_potential)), HasSubstr("dimension -1"));
  EXPECT_THAT(refusal(scratch, file_of({{"0", 0, 3}, {"2", 1, 0}}, tanh_potential)), HasSubstr("width 0"));
  EXPECT_THAT(refusal(scratch, file_of({{"a b", 7, 3}, {"c", 1, 7}}, tanh_potential)), HasSubstr("'a b'"));
  const std::int64_t integers[7] = {};
  EXPECT_THAT(refusal(scratch, with(good, "0.bias", Tensor::from_int64({7}, integers))),
              AllOf(HasSubstr("'0.bias'"), HasSubstr("I64")));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_THAT(refusal(scratch, with(good, "2.bias", Tensor::from_float({1}, &bad))), HasSubstr("2.bias"));
  }
  const double beyond_float = 1e300;
  EXPECT_THAT(refusal(scratch, with(good, "2.bias", Tensor::from_double({1}, &beyond_float))), HasSubstr("2.bias"));
}

TEST(ForeignFile, RefusesOptionsThatMeanNothing) {
  const Scratch scratch;
  const SafeTensors good = file_of({{"0", 7, 3}, {"2", 1, 7}}, tanh_potential);
  EXPECT_THAT(refusal(scratch, good, {{"activation", "no"}}),
              HasSubstr(fmt::format("{}", fmt::join(activation_names(), ", "))));
  EXPECT_THAT(refusal(scratch, good, {{"output", "noise"}}), HasSubstr("last layer has 1"));
  EXPECT_THAT(refusal(scratch, good, {{"output", "edm"}}),
              HasSubstr("lack data_deviation; give these there, or by options of these names"));
  EXPECT_THAT(refusal(scratch, good, {{"data_deviation", "1"}}), HasSubstr("the output potential does not read it"));
  EXPECT_THAT(refusal(scratch, good, {{"inputs", "x;t"}}), HasSubstr("inputs 'x;t' given; allowed: t,x or x,t"));
  EXPECT_THAT(refusal(scratch, good, {{"output", "nose"}}), HasSubstr("unknown output 'nose'"));
  EXPECT_THAT(refusal(scratch, good, {{"sde", "edn"}}), HasSubstr("vp-linear"));
  EXPECT_THAT(refusal(scratch, good, {{"sde_parameters", "{"}}), HasSubstr("JSON"));
  for (const char* beta : {"0", "-1", "x", "1x", " 1", "nan", "inf", "1e999", "1,5"}) {
    EXPECT_THAT(refusal(scratch, good, {{"activation", "softplus"}, {"beta", beta}}), HasSubstr("beta")) << beta;
  }
  EXPECT_THAT(refusal(scratch, good, {{"layers", "0"}}), HasSubstr("1 layers"));
  EXPECT_THAT(refusal(scratch, good, {{"layers", "0,1"}}), HasSubstr("no tensor '1.weight'"));
  EXPECT_THAT(refusal(scratch, good, {{"layers", "2,0"}}), HasSubstr("do not chain"));
  EXPECT_THAT(refusal(scratch, good, {{"layers", "0,,2"}}), HasSubstr("no tensor '.weight'"));
  EXPECT_THAT(refusal(scratch, file_of({{"0", 3, 3}, {"2", 1, 3}}, tanh_potential), {{"layers", "0,0,2"}}),
              HasSubstr("'0' is given twice"));
  EXPECT_THAT(message_of([&] {
                load_model(scratch / "a.safetensors", {{"colour", "red"}});
              }),
              HasSubstr("activation, alpha, beta, negative_slope, output, data_deviation, inputs, layers, "
                        "time_branch, time_layers, time_into, condition, condition_branch, condition_layers, "
                        "condition_into, residual, fixed, sde"));
  EXPECT_THAT(message_of([&] { load_model(scratch / "a.pt"); }), HasSubstr(".safetensors"));
  EXPECT_THAT(message_of([&] { load_model(scratch / "missing.safetensors"); }), HasSubstr("No such file"));
}

TEST(ForeignFile, SurvivesDamage) {
  const Scratch scratch;
  const std::string path = scratch / "a.safetensors";
  file_of({{"0", 2, 3}, {"2", 1, 2}}, tanh_potential).save(path);
  const std::string file = get(path);
  std::mt19937 random(3);
  int read = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    put(path, damaged(file, random));
    try {
      const Model model = load_model(path);
      ASSERT_NO_THROW(model.validate());
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(read, 0);
}

// ---------------------------------------------------------------------------------------------------------- mixtures

Model load_text(const Scratch& scratch, const std::string& text, const ModelMetadata& overrides = {}) {
  put(scratch / "m.json", text);
  return load_model(scratch / "m.json", overrides);
}

TEST(MixtureFile, CovariancesMayBeMatricesVariancesOrOneNumber) {
  const Scratch scratch;
  const std::string start = R"({"weights": [1, 3], "means": [[0, 1], [2, -3.5]], "covariances": )";
  const Model full = load_text(scratch, start + "[[[2, 0.5], [0.5, 1]], [[1, 0], [0, 4]]]}");
  EXPECT_EQ(full.dimension(), 2);
  EXPECT_EQ(full.output(), Output::potential);
  EXPECT_EQ(mixture_of(full).weights(), (std::vector<double>{0.25, 0.75}));
  EXPECT_EQ(mixture_of(full).means(), (std::vector<double>{0, 1, 2, -3.5}));
  EXPECT_EQ(mixture_of(full).covariances(), (std::vector<double>{2, 0.5, 0.5, 1, 1, 0, 0, 4}));
  EXPECT_EQ(full.sde.parameters_json(), ForwardSde{}.parameters_json());
  EXPECT_EQ(mixture_of(load_text(scratch, start + "[2, 3]}")).covariances(),
            (std::vector<double>{2, 0, 0, 2, 3, 0, 0, 3}));
  EXPECT_EQ(mixture_of(load_text(scratch, start + "0.5}")).covariances(),
            (std::vector<double>{0.5, 0, 0, 0.5, 0.5, 0, 0, 0.5}));
  EXPECT_EQ(mixture_of(load_text(scratch, start + "[[2, 3], [4, 5]]}")).covariances(),
            (std::vector<double>{2, 0, 0, 3, 4, 0, 0, 5}));
  // One component in one dimension.
  EXPECT_EQ(load_text(scratch, R"({"weights": [1], "means": [[0]], "covariances": [[[2]]]})").dimension(), 1);
}

// What a file holds, without a file: the same model and the same bytes, and in F64 where F32 would round.
TEST(ModelContents, RoundTripWithoutAFile) {
  const Scratch scratch;
  Architecture a = architecture(3, {7, 19}, Activation::silu, Output::score);
  Model model{ForwardSde::ve(), Mlp::initialise(a, 5), {{1, 2, 3}, {0.5, 1, 2}}};
  save_model(scratch / "a.safetensors", model);
  const std::string bytes = get(scratch / "a.safetensors");
  const std::vector<std::byte> contents = model_contents(model);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(contents.data()), contents.size()), bytes);
  const Model again = parse_model(contents);
  EXPECT_EQ(mlp_of(again).parameters, mlp_of(model).parameters);
  EXPECT_EQ(mlp_of(again).architecture, a);
  EXPECT_EQ(again.standardisation, model.standardisation);
  EXPECT_EQ(again.sde, model.sde);
  EXPECT_EQ(parse_model(contents, {{"sde", "ou"}}).sde, ForwardSde::ou());

  std::get<Mlp>(model.network).parameters[3] = 1.0 / 3;
  EXPECT_EQ(mlp_of(parse_model(model_contents(model))).parameters, mlp_of(model).parameters);
  EXPECT_EQ(SafeTensors::parse(model_contents(model)).at("input.weight").dtype, "F64");
}

TEST(ModelContents, RefusalsSayWhy) {
  const Model model{ForwardSde::ou(), Mlp::initialise(Architecture{}, 1)};
  const std::vector<std::byte> contents = model_contents(model);
  EXPECT_THAT(message_of([&] { (void)parse_model(std::span(contents).first(100)); }),
              AllOf(HasSubstr("what was given is not a safetensors file"), HasSubstr("it ends within its header")));
  EXPECT_THAT(message_of([&] { (void)parse_model({}); }), HasSubstr("it is shorter than 8 bytes"));
  EXPECT_THAT(message_of([&] {
                (void)parse_model(contents, {{"colour", "red"}});
              }),
              HasSubstr("unknown model option 'colour'"));
  EXPECT_THAT(message_of([&] {
                (void)parse_model(contents, {{"output", "score"}});
              }),
              HasSubstr("what was given is not a model that can be used"));
  const Model mixture{ForwardSde::ou(), GaussianMixture::isotropic(1, {1}, {0}, {1})};
  EXPECT_THAT(message_of([&] { (void)model_contents(mixture); }), HasSubstr("asked for of a Gaussian mixture"));
}

TEST(MixtureFile, RoundTrips) {
  const Scratch scratch;
  const Model model{ForwardSde::ve({0.1, 9, 3, 1.0 / 7}),
                    GaussianMixture(2, {0.1, 0.7, 0.2}, {0.1, 1.0 / 3, 2, 3, 4, 5},
                                    {2, 0.5, 0.5, 1, 1, 0, 0, 4, 0.1, 0, 0, 1.0 / 3})};
  save_model(scratch / "m.json", model, {{"source", "a \"test\""}});
  const Model back = load_model(scratch / "m.json");
  EXPECT_EQ(back.sde.name(), "ve");
  EXPECT_EQ(back.sde.parameters_json(), model.sde.parameters_json());
  // Weights are normalised again on reading: a unit of rounding.
  EXPECT_TRUE(
      testing::agrees(mixture_of(back).weights(), mixture_of(model).weights(), {.relative = 4e-16, .norm = 4e-16}));
  EXPECT_EQ(mixture_of(back).means(), mixture_of(model).means());
  EXPECT_EQ(mixture_of(back).covariances(), mixture_of(model).covariances());
  EXPECT_EQ(nlohmann::json::parse(get(scratch / "m.json"))["metadata"]["source"], "a \"test\"");
  EXPECT_EQ(load_model(scratch / "m.json", {{"sde", "ou"}}).sde.name(), "ou");
  EXPECT_THAT(message_of([&] { load_model(scratch / "m.json", {{"activation", "tanh"}}); }), HasSubstr("activation"));
  for (const DdpmBetas& betas :
       {DdpmBetas(thousand_betas()), DdpmBetas(LinearBetas{.steps = 7}), DdpmBetas(CosineBetas{})}) {
    const ForwardSde sde = ForwardSde::ddpm(betas);
    save_model(scratch / "m.json", {sde, mixture_of(model)});
    EXPECT_EQ(load_model(scratch / "m.json").sde.parameters_json(), sde.parameters_json());
    EXPECT_EQ(load_model(scratch / "m.json").sde.betas(), sde.betas());
  }
}

TEST(MixtureFile, RefusalsSayWhy) {
  const Scratch scratch;
  struct {
    const char *text, *message;
  } const cases[] = {
      {"", "not valid JSON"},
      {"[]", "not a JSON object"},
      {"{", "not valid JSON"},
      {"{}", "has no weights"},
      {R"({"weights": [1], "means": [[0]]})", "has no covariances"},
      {R"({"weights": 1, "means": [[0]], "covariances": 1})", "weights are not an array"},
      {R"({"weights": [], "means": [], "covariances": []})", "weights are not an array with entries"},
      {R"({"weights": [1], "means": [], "covariances": 1})", "means are not an array with entries"},
      {R"({"weights": [1], "means": [0], "covariances": 1})", "means are not an array of arrays"},
      {R"({"weights": [1], "means": [[]], "covariances": 1})", "means are not an array of arrays"},
      {R"({"weights": ["1"], "means": [[0]], "covariances": 1})", "weights hold something that is not a number"},
      {R"({"weights": [1], "means": [[null]], "covariances": 1})", "means hold something that is not a number"},
      {R"({"weights": [1, 2], "means": [[0]], "covariances": 1})", "means hold an array of 1 where an array of 2"},
      {R"({"weights": [1, 2], "means": [[0], [1, 2]], "covariances": 1})", "means hold an array of 2"},
      {R"({"weights": [1], "means": [[0]], "covariances": [1, 2]})", "covariances hold an array of 2"},
      {R"({"weights": [1], "means": [[0]], "covariances": "1"})", "covariances hold '1'"},
      {R"({"weights": [1, 2], "means": [[0, 1], [2, 3]], "covariances": [[1], [2]]})", "hold an array of 1"},
      {R"({"weights": [1, 2], "means": [[0, 1], [2, 3]], "covariances": [[1, 2]]})", "hold an array of 1"},
      {R"({"weights": [1], "means": [[0]], "covariances": [[-1]]})", "negative eigenvalue"},
      {R"({"weights": [1], "means": [[0, 1]], "covariances": [[[1, 0]]]})", "covariances hold an array of 1"},
      {R"({"weights": [-1], "means": [[0]], "covariances": 1})", "m.json"},
      {R"({"weights": [0], "means": [[0]], "covariances": 1})", "m.json"},
      {R"({"weights": [1], "means": [[0]], "covariances": -1})", "m.json"},
      {R"({"weights": [1], "means": [[0, 0]], "covariances": [[[1, 2], [2, 1]]]})", "m.json"},
      {R"({"weights": [1], "means": [[0, 0]], "covariances": [[[1, 2], [0, 1]]]})", "m.json"},
      {R"({"weights": [1], "means": [[1e999]], "covariances": 1})", "out of range"},
      {R"({"weights": [1], "means": [[NaN]], "covariances": 1})", "not valid JSON"},
      {R"({"weights": [1], "weights": [1], "means": [[0]], "covariances": 1})", "twice"},
      {R"({"weights": [1], "means": [[0]], "covariance": 1})", "'covariance'"},
      {R"({"weights": [1], "means": [[0]], "covariances": 1, "sde": 3})", "sde is not a string"},
      {R"({"weights": [1], "means": [[0]], "covariances": 1, "sde": "edn"})", "'edn'"},
      {R"({"weights": [1], "means": [[0]], "covariances": 1, "sde_parameters": 3})", "JSON object"},
      {R"({"weights": [1], "means": [[0]], "covariances": 1, "sde_parameters": {"rate": 0}})", "rate = 0"},
  };
  for (const auto& refused : cases) {
    SCOPED_TRACE(refused.text);
    EXPECT_THAT(message_of([&] { load_text(scratch, refused.text); }),
                AllOf(HasSubstr("m.json"), HasSubstr(refused.message)));
  }
  message_of([&] { load_text(scratch, std::string(1'000'000, '[')); });
  const std::string start = R"({"weights": [1], "means": [[0]], "covariances": 1, "metadata": )";
  std::string siblings;
  for (int i = 0; i < 150'000; ++i) siblings += "{},";
  EXPECT_EQ(load_text(scratch, start + "[" + siblings + "{}]}").dimension(), 1);  // at once
  EXPECT_THAT(message_of([&] { load_text(scratch, start + "[" + siblings + "]}"); }),
              HasSubstr("not valid JSON at byte"));
  message_of([&] { load_model(scratch / "missing.json"); });
}

// What a short file may ask for: K d² numbers that it does not hold.
TEST(MixtureFile, ExpandsNoFurtherThanItMay) {
  const Scratch scratch;
  const auto text = [](int components, int dimension, const std::string& covariances) {
    std::string mean = "0", weights = "1", means;
    for (int i = 1; i < dimension; ++i) mean += ",0";
    means = "[" + mean + "]";
    const std::string first = means;
    for (int k = 1; k < components; ++k) weights += ",1", means += "," + first;
    return fmt::format(R"({{"weights": [{}], "means": [{}], "covariances": {}}})", weights, means, covariances);
  };
  for (const std::string& short_text : {text(20, 4096, "1"), text(1, 2049, "[1]"), text(1025, 64, "1")}) {
    EXPECT_THAT(message_of([&] { load_text(scratch, short_text); }),
                AllOf(HasSubstr("4194304 numbers"), HasSubstr("[K][d][d]")));
  }
  EXPECT_THAT(message_of([&] { load_text(scratch, text(1, 4097, "1")); }), HasSubstr("dimension of 1 to 4096"));
  EXPECT_EQ(load_text(scratch, text(4, 512, "2")).dimension(), 512);
}

TEST(MixtureFile, SurvivesDamage) {
  const Scratch scratch;
  const std::string text =
      R"({"weights": [1, 3], "means": [[0, 1], [2, 3]], "covariances": [[[2, 0.5], [0.5, 1]], [[1, 0], [0, 4]]], )"
      R"("sde": "ou", "sde_parameters": {"rate": 1, "T": 5}})";
  load_text(scratch, text);
  std::mt19937 random(4);
  int read = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    try {
      const Model model = load_text(scratch, damaged(text, random));
      ASSERT_NO_THROW(model.validate());
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(read, 0);
}

// --------------------------------------------------------------------------------------------------------- published

TEST(PublishedFile, LoadsAsItIs) {
  const std::string folder = testing::paper_data();
  if (folder.empty()) return;
  const Scratch scratch;
  for (const char* data : {"blob", "checker"}) {
    for (const char* weight : {"0.0", "0.1", "1.0", "10.0"}) {
      const std::string path = fmt::format("{}/checkpoints/{}_w{}.safetensors", folder, data, weight);
      SCOPED_TRACE(path);
      const Model model = load_model(path);
      EXPECT_EQ(mlp_of(model).architecture.describe(), Architecture{}.describe());
      EXPECT_TRUE(mlp_of(model).architecture.layer_names.empty());
      EXPECT_EQ(model.sde.parameters_json(), ForwardSde{}.parameters_json());
      const SafeTensors file = SafeTensors::load(path);
      // Written again, the tensors are the same bytes.
      save_model(scratch / "a.safetensors", model);
      const SafeTensors again = SafeTensors::load(scratch / "a.safetensors");
      ASSERT_EQ(again.tensors.size(), file.tensors.size());
      for (const auto& [name, t] : file.tensors) EXPECT_EQ(again.at(name).bytes, t.bytes) << name;
      // As a PyTorch user would have saved it, without metadata.
      SafeTensors bare = file;
      bare.metadata.clear();
      ModelMetadata options{{"activation", "softplus"}, {"beta", "100"}, {"output", "potential"}, {"sde", "ou"}};
      EXPECT_THAT(refusal(scratch, bare, options), HasSubstr("lack inputs; give these there"));
      options["inputs"] = "t,x";
      EXPECT_THAT(refusal(scratch, bare, options), HasSubstr("layers="));
      options["layers"] = "input,hidden1,hidden2,output";
      EXPECT_EQ(mlp_of(load(scratch, bare, options)).parameters, mlp_of(model).parameters);
    }
  }
}

}  // namespace
}  // namespace fokker
