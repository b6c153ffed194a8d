// Recipes: how tensors are found, what is refused and why. That imported networks are right is in layouts_test.cpp.
#include "fokker/import.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fokker/safetensors.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::message_of;
using testing::put;
using testing::Scratch;
using Json = nlohmann::json;
using Shape = std::vector<std::int64_t>;

Tensor tensor(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t n : shape) count *= n;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(std::sin(1.0 + double(i)));
  return Tensor::from_float(shape, values.data());
}

struct Import : ::testing::Test {
  Scratch scratch;
  SafeTensors file;
  Json recipe = {{"layers", {"net.0", "net.2"}},
                 {"activation", "silu"},
                 {"output", "noise"},
                 {"inputs", "x,t"},
                 {"sde", "vp-linear"}};

  void SetUp() override {
    add("net.0", 5, 3);
    add("net.2", 2, 5);
  }
  void add(const std::string& name, std::int64_t outputs, std::int64_t inputs) {
    file.tensors[name + ".weight"] = tensor({outputs, inputs});
    file.tensors[name + ".bias"] = tensor({outputs});
  }
  Model model() {
    file.save(scratch / "net.safetensors");
    put(scratch / "net.json", recipe.dump());
    return import_model(scratch / "net.safetensors", scratch / "net.json");
  }
  std::vector<double> parameters() { return std::get<Mlp>(model().network).parameters; }
  std::string refusal() {
    return message_of([&] { model(); });
  }
  std::string refusal_with(const char* key, const Json& value) {
    const Json before = recipe;
    recipe[key] = value;
    const std::string message = refusal();
    recipe = before;
    return message;
  }
};

TEST_F(Import, TakesTimeFirstInTheLayout) {
  const std::vector<double> own = parameters(), weight = file.at("net.0.weight").to_double();
  EXPECT_EQ(own.size(), 5 * 4 + 2 * 6u);
  for (int j = 0; j < 5; ++j) {
    for (int i = 0; i < 3; ++i) EXPECT_EQ(own[j * 3 + i], weight[j * 3 + (i == 0 ? 2 : i - 1)]);
  }
  recipe["inputs"] = "t,x";
  const std::vector<double> first = parameters();
  for (int k = 0; k < 15; ++k) EXPECT_EQ(first[k], weight[k]);
}

TEST_F(Import, FindsTensorsWhateverTheyAreCalledAndHoweverTheyAreKept) {
  const std::vector<double> expected = parameters();
  // Prefixes that all names have.
  SafeTensors plain = file;
  file.tensors.clear();
  for (const auto& [name, value] : plain.tensors) file.tensors["model.score." + name] = value;
  EXPECT_EQ(parameters(), expected);
  // Two networks.
  for (const auto& [name, value] : plain.tensors) file.tensors["ema." + name] = tensor(value.shape);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("'net.0.weight' is the end of several"), HasSubstr("'ema.net.0.weight'")));
  recipe["prefix"] = "model.score.";
  EXPECT_EQ(parameters(), expected);
  recipe.erase("prefix");
  // Flax's kernels.
  file.tensors.clear();
  for (const char* layer : {"net.0", "net.2"}) {
    const Tensor& weight = plain.at(std::string(layer) + ".weight");
    const std::int64_t out = weight.shape[0], in = weight.shape[1];
    const std::vector<double> values = weight.to_double();
    std::vector<double> transposed;
    for (std::int64_t i = 0; i < in; ++i) {
      for (std::int64_t j = 0; j < out; ++j) transposed.push_back(values[static_cast<std::size_t>(j * in + i)]);
    }
    file.tensors[std::string("params.") + layer + ".kernel"] = Tensor::from_double({in, out}, transposed.data());
    file.tensors[std::string("params.") + layer + ".bias"] = plain.at(std::string(layer) + ".bias");
  }
  EXPECT_EQ(parameters(), expected);
  // Norms and directions by their old names.
  file = plain;
  const std::vector<double> rows = plain.at("net.0.weight").to_double();
  std::vector<double> norms;
  for (int j = 0; j < 5; ++j) {
    norms.push_back(std::hypot(rows[3 * j], rows[3 * j + 1], rows[3 * j + 2]));
  }
  std::vector<double> directions = rows;
  for (double& v : directions) v *= 3;
  file.tensors.erase("net.0.weight");
  file.tensors["net.0.weight_g"] = Tensor::from_double({5, 1}, norms.data());
  file.tensors["net.0.weight_v"] = Tensor::from_double({5, 3}, directions.data());
  const std::vector<double> found = parameters();
  for (std::size_t k = 0; k < expected.size(); ++k) EXPECT_NEAR(found[k], expected[k], 1e-15) << k;
}

TEST_F(Import, RefusesWhatIsNotThereDoesNotFitOrIsLeftOver) {
  for (const char* key : {"layers", "activation", "output", "inputs", "sde"}) {
    const Json before = recipe;
    recipe.erase(key);
    EXPECT_THAT(refusal(), HasSubstr(std::string("the recipe has no ") + key));
    recipe = before;
  }
  EXPECT_THAT(refusal_with("colour", "red"), AllOf(HasSubstr("'colour'"), HasSubstr("condition_into")));
  EXPECT_THAT(refusal_with("layers", {"net.0", "net.4"}),
              AllOf(HasSubstr("no tensor 'net.4.weight'"), HasSubstr("'net.2.weight'")));
  EXPECT_THAT(refusal_with("layers", "net.0"), HasSubstr("not a list of two or more"));
  EXPECT_THAT(refusal_with("layers", {"net.0", 3}), HasSubstr("an entry of the recipe's layers"));
  EXPECT_THAT(refusal_with("activation", {"silu", "tanh"}), HasSubstr("2 entries"));
  EXPECT_THAT(refusal_with("activation", "softplus"), HasSubstr("softplus(1)"));
  EXPECT_THAT(refusal_with("activation", "swish"), HasSubstr("allowed are softplus"));
  EXPECT_THAT(refusal_with("output", "edm"), HasSubstr("no data_deviation"));
  EXPECT_THAT(refusal_with("data_deviation", 1), HasSubstr("the output noise does not read"));
  EXPECT_THAT(refusal_with("output", "image"), HasSubstr("allowed are potential"));
  EXPECT_THAT(refusal_with("output_factor", 0), HasSubstr("output_factor is 0"));
  EXPECT_THAT(refusal_with("inputs", "x"), HasSubstr("allowed: t,x or x,t"));
  EXPECT_THAT(refusal_with("sde", "brownian"), HasSubstr("vp-linear"));
  EXPECT_THAT(refusal_with("sde_parameters", {{"beta", 3}}), HasSubstr("beta"));
  const auto with_time = [&](const Json& time, const Json& more = {{"time_into", "net.0"}}) {
    const Json before = recipe;
    recipe["time"] = time;
    recipe.update(more);
    const std::string message = refusal();
    recipe = before;
    return message;
  };
  const auto features = [&](const Json& object) { return with_time(Json::array({object})); };
  EXPECT_THAT(with_time("emb"), HasSubstr("not a list"));
  EXPECT_THAT(with_time(Json::array()), HasSubstr("1 to 64"));
  add("emb", 4, 1);
  EXPECT_THAT(with_time(Json::array({"emb"})), HasSubstr("no time_activation"));
  file.tensors.erase("emb.weight"), file.tensors.erase("emb.bias");
  EXPECT_THAT(with_time(Json::array({"net.0"}), {{"time_activation", "silu"}, {"time_into", "net.0"}}),
              HasSubstr("the tensor 'net.0.weight' is used twice"));
  EXPECT_THAT(with_time(Json::array({{{"sinusoidal", 8}}}), Json::object()),
              HasSubstr("neither time_into nor time_added_to"));
  EXPECT_THAT(with_time(Json::array({{{"sinusoidal", 8}}}), {{"time_activation", "silu"}, {"time_into", "net.0"}}),
              HasSubstr("no dense layer in time"));
  EXPECT_THAT(features({{"sinusoidal", 7}}), HasSubstr("even numbers"));
  EXPECT_THAT(features({{"sinusoidal", 8}, {"speed", 2}}), HasSubstr("'speed'"));
  EXPECT_THAT(features({{"sinusoidal", 8}, {"order", "up"}}), HasSubstr("sin,cos, cos,sin or interleaved"));
  EXPECT_THAT(features({{"sinusoidal", 8}, {"fourier", "net.0.bias"}}), HasSubstr("'fourier'; allowed: sinusoidal"));
  EXPECT_THAT(features({{"frequencies", {1, 2}}, {"ends", false}}), HasSubstr("'ends'"));
  EXPECT_THAT(features({{"frequencies", "1"}}), HasSubstr("frequencies"));
  EXPECT_THAT(features({{"fourier", "net.0.weight"}}), HasSubstr("[5, 3]; allowed: [K] or [K, 1]"));
  EXPECT_THAT(features({{"sinusoidal", 8}}),
              HasSubstr("'net.0' has 5 outputs and 3 inputs, 5 and 10 are needed, 8 of these for the time"));
  EXPECT_THAT(refusal_with("time_into", "net.1"), AllOf(HasSubstr("the recipe's time_into"), HasSubstr("'net.1'")));
  EXPECT_THAT(refusal_with("residual", "net.0"), HasSubstr("allowed: layers 1 to 0"));
  EXPECT_THAT(refusal_with("layers", Json::array({{{"sinusoidal", 4}}, "net.0", "net.2"})),
              AllOf(HasSubstr("features are 8 numbers"), HasSubstr("allowed: the 2")));
  EXPECT_THAT(refusal_with("layers", Json::array({{{"sinusoidal", 4}}, "net.2"})), HasSubstr("features are"));
  EXPECT_THAT(refusal_with("time_added_to", {"net.0"}),
              HasSubstr("the layer 'net.0' has 5 outputs and 3 inputs, 5 and 2 are needed"));
  const SafeTensors good = file;
  file.tensors["net.0.weight"] = Tensor{"F32", {std::int64_t{1} << 40, 0}, {}};
  EXPECT_THAT(refusal(), HasSubstr("[1099511627776, 0]; allowed: two dimensions"));
  file = good;
  file.tensors.erase("net.2.weight");
  file.tensors["net.2.weight_v"] = tensor({2, 5});
  file.tensors["net.2.weight_g"] = tensor({1, 5});
  EXPECT_THAT(refusal(), HasSubstr("norms of the shape [1, 5]; allowed: [2, 1]"));
  file = good;
  add("extra", 2, 2);
  EXPECT_THAT(refusal(), HasSubstr("the tensor 'extra.bias' is left over"));
  recipe["ignore"] = {"extra."};
  EXPECT_EQ(model().dimension(), 2);
  recipe["ignore"] = {"extra.bias", "extra.weight"};
  EXPECT_EQ(model().dimension(), 2);
  put(scratch / "net.json", "{");
  EXPECT_THAT(message_of([&] { import_model(scratch / "net.safetensors", scratch / "net.json"); }),
              HasSubstr("net.json"));
  put(scratch / "net.json", "[]");
  EXPECT_THAT(message_of([&] { import_model(scratch / "net.safetensors", scratch / "net.json"); }),
              HasSubstr("not a JSON object"));
}

// A layer without bias has none, whatever other layers' names end with.
TEST_F(Import, TakesALayersBiasFromBesideItsWeight) {
  file.tensors.erase("net.0.bias");
  add("time.net.0", 5, 3);
  recipe["ignore"] = {"time."};
  const std::vector<double> own = parameters();
  for (int k = 15; k < 20; ++k) EXPECT_EQ(own[k], 0);
}

TEST_F(Import, HasFeaturesInTheOrderThatIsSaid) {
  const auto branch = [&](const Json& features, std::int64_t width) {
    file.tensors.clear();
    add("net.0", 5, 2 + width);
    add("net.2", 2, 5);
    file.tensors["W"] = tensor({2});
    recipe["time"] = Json::array({features});
    recipe["time_into"] = "net.0";
    recipe["ignore"] = features.contains("fourier") ? Json::array() : Json::array({"W"});
    const Model imported = model();
    const Mlp& mlp = std::get<Mlp>(imported.network);
    EXPECT_EQ(mlp.architecture.time.layers.at(0).width, width);
    EXPECT_TRUE(mlp.architecture.time.layers.at(0).fixed);
    return std::vector<double>(mlp.parameters.begin(), mlp.parameters.begin() + 2 * width);  // frequencies, phases
  };
  const double half = std::acos(-1.0) / 2, w0 = std::sin(1.0f), w1 = std::sin(2.0f);
  const auto expect = [](const std::vector<double>& found, const std::vector<double>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t k = 0; k < found.size(); ++k) EXPECT_NEAR(found[k], expected[k], 1e-7) << k;
  };
  expect(branch({{"frequencies", {1, 3}}, {"scale", 2}}, 4), {2, 6, 2, 6, 0, 0, half, half});
  expect(branch({{"frequencies", {1, 3}}, {"order", "cos,sin"}}, 4), {1, 3, 1, 3, half, half, 0, 0});
  expect(branch({{"frequencies", {1, 3}}, {"order", "interleaved"}}, 4), {1, 1, 3, 3, 0, half, 0, half});
  expect(branch({{"sinusoidal", 6}, {"period", 100}}, 6), {1, 0.1, 0.01, 1, 0.1, 0.01, 0, 0, 0, half, half, half});
  expect(branch({{"sinusoidal", 4}, {"period", 100}, {"ends", false}}, 4), {1, 0.1, 1, 0.1, 0, 0, half, half});
  expect(branch({{"sinusoidal", 2}}, 2), {1, 1, 0, half});
  expect(branch({{"fourier", "W"}, {"scale", 10}}, 4), {10 * w0, 10 * w1, 10 * w0, 10 * w1, 0, 0, half, half});
}

TEST_F(Import, HasFeaturesOfEachCoordinateInTurn) {
  add("net.0", 5, 8 + 1);
  recipe["layers"] = Json::array({{{"frequencies", {1, 2}}}, "net.0", "net.2"});
  const Model imported = model();
  const Mlp& mlp = std::get<Mlp>(imported.network);
  EXPECT_EQ(mlp.architecture.fixed, Shape{0});
  const std::vector<double> weights(mlp.parameters.begin(), mlp.parameters.begin() + 16);
  EXPECT_EQ(weights, (std::vector<double>{1, 0, 2, 0, 1, 0, 2, 0, 0, 1, 0, 2, 0, 1, 0, 2}));
  file.tensors["W"] = tensor({4, 2});
  recipe["layers"][0] = {{"fourier", "W"}, {"scale", 1}};
  recipe["fixed"] = {"net.2"};
  const Model fourier = model();
  const Mlp& other = std::get<Mlp>(fourier.network);
  EXPECT_EQ(other.architecture.fixed, (Shape{0, 2}));
  const std::vector<double> w = file.at("W").to_double();
  for (std::size_t k = 0; k < 16; ++k) EXPECT_EQ(other.parameters[k], w[k % 8]) << k;
}

// Weights whose number in row j and column i says where it was.
struct ImportOfConditions : Import {
  // In the order of a file: the columns of x, of the time and of the condition.
  void SetUp() override {
    add("net.0", 5, 2 + 1 + 3);
    add("net.2", 2, 5);
    recipe["condition_width"] = 3;
  }
  // The first layer's weights, after the parameters of the branches.
  std::vector<double> first_weights(const char* inputs) {
    recipe["inputs"] = inputs;
    const Model imported = model();
    const Mlp& mlp = std::get<Mlp>(imported.network);
    EXPECT_EQ(mlp.architecture.condition.inputs, 3);
    const auto begin = mlp.parameters.begin() + mlp.architecture.weight_offset(0);
    return {begin, begin + 5 * mlp.architecture.inputs(0)};
  }
};

TEST_F(ImportOfConditions, TakesThemAtAnyPlace) {
  const std::vector<double> weight = file.at("net.0.weight").to_double();
  // Where the file has y, t and x, which stand in this order here.
  const std::vector<std::pair<const char*, std::vector<int>>> orders{
      {"x,t,y", {3, 4, 5, 2, 0, 1}}, {"x,y,t", {2, 3, 4, 5, 0, 1}}, {"t,x,y", {3, 4, 5, 0, 1, 2}},
      {"t,y,x", {1, 2, 3, 0, 4, 5}}, {"y,x,t", {0, 1, 2, 5, 3, 4}}, {"y,t,x", {0, 1, 2, 3, 4, 5}}};
  for (const auto& [inputs, columns] : orders) {
    const std::vector<double> own = first_weights(inputs);
    for (int j = 0; j < 5; ++j) {
      for (int i = 0; i < 6; ++i) EXPECT_EQ(own[6 * j + i], weight[6 * j + columns[i]]) << inputs << j << i;
    }
  }
  // Into a later layer, h stands where x does.
  add("net.0", 5, 2 + 1);
  add("net.1", 5, 5 + 3);
  recipe["layers"] = {"net.0", "net.1", "net.2"}, recipe["condition_into"] = "net.1";
  const std::vector<double> later = file.at("net.1.weight").to_double();
  recipe["inputs"] = "t,x,y";
  const Model imported = model();
  const Mlp& mlp = std::get<Mlp>(imported.network);
  const double* own = mlp.parameters.data() + mlp.architecture.weight_offset(1);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(own[8 + i], later[8 + (i < 3 ? 5 + i : i - 3)]) << i;
  // Into none: it is there, and changes nothing.
  recipe["condition_into"] = "none", recipe["layers"] = {"net.0", "net.2"}, recipe["ignore"] = {"net.1."};
  EXPECT_EQ(model().condition(), 3);
}

// An encoder, of Flax's kernels and weight norms too, whose embedding goes beside x; and one of features.
TEST_F(ImportOfConditions, ThroughAnEncoder) {
  add("net.0", 5, 2 + 1 + 4);
  add("enc.0", 6, 3);
  add("enc.2", 4, 6);
  recipe["condition"] = {"enc.0", "enc.2"}, recipe["condition_activation"] = {"relu", "identity"};
  recipe["condition_into"] = "net.0";
  const std::vector<double> own = first_weights("x,t,y"), weight = file.at("net.0.weight").to_double();
  const int columns[] = {3, 4, 5, 6, 2, 0, 1};
  for (int j = 0; j < 5; ++j) {
    for (int i = 0; i < 7; ++i) EXPECT_EQ(own[7 * j + i], weight[7 * j + columns[i]]);
  }
  const Model imported = model();
  const Mlp& mlp = std::get<Mlp>(imported.network);
  const Branch& branch = mlp.architecture.condition;
  EXPECT_EQ(branch.layers,
            (std::vector<BranchLayer>{{6, {Activation::relu, 1}, false}, {4, {Activation::identity, 1}, false}}));
  EXPECT_EQ(branch.layer_names, (std::vector<std::string>{"enc.0", "enc.2"}));
  EXPECT_EQ(branch.into, Shape{0});
  std::vector<double> encoder;
  for (const char* name : {"enc.0.weight", "enc.0.bias", "enc.2.weight", "enc.2.bias"}) {
    const std::vector<double> part = file.at(name).to_double();
    encoder.insert(encoder.end(), part.begin(), part.end());
  }
  EXPECT_EQ(std::vector<double>(mlp.parameters.begin(), mlp.parameters.begin() + std::ssize(encoder)), encoder);

  const Tensor norms = tensor({6, 1}), directions = tensor({6, 3}), kernel = tensor({6, 4});
  file.tensors.erase("enc.0.weight"), file.tensors.erase("enc.2.weight");
  file.tensors["enc.0.weight_g"] = norms, file.tensors["enc.0.weight_v"] = directions;
  file.tensors["enc.2.kernel"] = kernel;
  const std::vector<double> found = parameters(), g = norms.to_double(), v = directions.to_double(),
                            k = kernel.to_double();
  for (std::size_t j = 0; j < 6; ++j) {
    const double length = std::hypot(v[3 * j], v[3 * j + 1], v[3 * j + 2]);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(found[3 * j + i], g[j] * v[3 * j + i] / length, 1e-15);
  }
  for (std::size_t j = 0; j < 4; ++j) {
    for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(found[24 + 6 * j + i], k[4 * i + j]);
  }
  for (const char* gone : {"enc.0.weight_g", "enc.0.weight_v", "enc.0.bias", "enc.2.kernel", "enc.2.bias"}) {
    file.tensors.erase(gone);
  }
  add("net.0", 5, 2 + 1 + 12);
  recipe["condition"] = Json::array({{{"frequencies", {1, 2}}}}), recipe.erase("condition_activation");
  const Model featured = model();
  const Mlp& of_features = std::get<Mlp>(featured.network);
  EXPECT_EQ(of_features.architecture.condition.layers, (std::vector<BranchLayer>{{12, {Activation::sine, 1}, true}}));
  // f_0 y_0, f_1 y_0 as sines and as cosines, then those of y_1.
  const std::vector<double> rows(of_features.parameters.begin(), of_features.parameters.begin() + 15);
  EXPECT_EQ(rows, (std::vector<double>{1, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 0, 0, 1, 0}));
}

// What is added to a layer's sums is columns of its weights: the condition's first, then the time's.
TEST_F(ImportOfConditions, AddedToProjectionsAsTheTimeIs) {
  add("net.0", 5, 2);
  add("y", 5, 3);
  add("t", 5, 1);
  recipe["condition_added_to"] = {{"net.0", "y"}};
  recipe["time_added_to"] = {{"net.0", "t"}};
  const std::vector<double> own = first_weights("x,t,y"), x = file.at("net.0.weight").to_double(),
                            y = file.at("y.weight").to_double(), t = file.at("t.weight").to_double();
  for (std::size_t j = 0; j < 5; ++j) {
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(own[6 * j + i], y[3 * j + i]);
    EXPECT_EQ(own[6 * j + 3], t[j]);
    for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(own[6 * j + 4 + i], x[2 * j + i]);
  }
  const std::vector<double> bias = file.at("net.0.bias").to_double(), all = parameters();
  for (std::size_t j = 0; j < 5; ++j) EXPECT_EQ(all[30 + j], 3 * bias[j]);  // those of all three are the same
  // Added as it is, where the time is concatenated.
  file.tensors.erase("y.weight"), file.tensors.erase("y.bias"), file.tensors.erase("t.weight");
  file.tensors.erase("t.bias"), recipe.erase("time_added_to");
  add("net.0", 3, 2 + 1);
  add("net.2", 2, 3);
  recipe["condition_added_to"] = {"net.0"}, recipe["inputs"] = "x,t,y";
  const std::vector<double> plain = parameters(), weight = file.at("net.0.weight").to_double();
  for (std::size_t j = 0; j < 3; ++j) {
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(plain[6 * j + i], i == j ? 1 : 0);
    EXPECT_EQ(plain[6 * j + 3], weight[3 * j + 2]);
    EXPECT_EQ(plain[6 * j + 4], weight[3 * j]);
  }
}

TEST_F(ImportOfConditions, ThatAreNotSaidOrDoNotFitAreRefused) {
  recipe["inputs"] = "x,t,y";
  const Json good = recipe;
  EXPECT_EQ(model().condition(), 3);
  recipe.erase("condition_width");
  EXPECT_THAT(
      refusal(),
      HasSubstr("the recipe's inputs have a condition y, and it has no condition_width, how many numbers that has"));
  recipe = good;
  EXPECT_THAT(refusal_with("inputs", "x,t"),
              HasSubstr("the recipe has condition_width, and its inputs no y; allowed: y at its place, as x,t,y"));
  recipe.erase("condition_width");
  recipe["inputs"] = "x,t", recipe["condition_into"] = "net.0";
  EXPECT_THAT(refusal(), HasSubstr("the recipe has condition_into, and its inputs no y"));
  recipe = good;
  for (const Json& width : {Json(0), Json(-3), Json(4097)}) {
    EXPECT_THAT(refusal_with("condition_width", width),
                HasSubstr("the recipe's condition_width is " + width.dump() + "; allowed: 1 to 4096"));
  }
  EXPECT_THAT(refusal_with("condition_width", "three"), HasSubstr("the recipe's condition_width"));
  EXPECT_THAT(
      refusal_with("condition_width", 2),
      HasSubstr("the layer 'net.0' has 5 outputs and 6 inputs, 5 and 5 are needed, 1 of these for the time, 2 of "
                "these for the condition"));
  EXPECT_THAT(refusal_with("condition_into", "net.1"),
              HasSubstr("the recipe's condition_into: the layer 'net.1' given"));
  EXPECT_THAT(refusal_with("condition", "enc"),
              HasSubstr("the recipe's condition is not a list of features and names of layers, 1 to 64 of them"));
  EXPECT_THAT(refusal_with("condition_activation", "silu"),
              HasSubstr("the recipe has condition_activation, and no dense layer in condition"));
  EXPECT_THAT(
      refusal_with("condition", Json::array({{{"frequencies", {1}}}})),
      HasSubstr("the recipe has condition, and neither condition_into nor condition_added_to, which say where it "
                "goes"));
  add("enc", 4, 2);
  recipe["condition_into"] = "net.0", recipe["condition"] = {"enc"};
  EXPECT_THAT(refusal(),
              HasSubstr("the recipe has no condition_activation, which the dense layers of its condition need"));
  recipe["condition_activation"] = "mish";
  add("net.0", 5, 2 + 1 + 4);
  EXPECT_THAT(refusal(), HasSubstr("the layer 'enc' has 4 outputs and 2 inputs, 4 and 3 are needed"));
  add("enc", 4, 3);
  EXPECT_EQ(model().condition(), 3);
  recipe["condition_added_to"] = {"net.0"};
  EXPECT_THAT(refusal(), HasSubstr("the layer 'net.0' is in condition_into and in condition_added_to; allowed: one of "
                                   "them"));
  recipe.erase("condition_into");
  add("net.0", 5, 2 + 1);
  EXPECT_THAT(refusal(),
              HasSubstr("the embedding of 4 numbers is added to the layer 'net.0' of 5 through 4 × 4 weights; "
                        "allowed: weights that fit"));
  // A potential net whose layer has no room for x.
  recipe = good;
  add("net.2", 1, 5);
  recipe["output"] = "potential", recipe["condition_width"] = 8, recipe["ignore"] = {"enc."};
  EXPECT_THAT(refusal(), HasSubstr("the layer 'net.0' has 3 inputs, and the time or the condition takes 9 of them; "
                                   "allowed: room for x too"));
}

// What features of x leave is of the time and of the condition.
TEST_F(ImportOfConditions, BesideFeaturesOfX) {
  add("net.0", 5, 8 + 1 + 3);
  recipe["layers"] = Json::array({{{"frequencies", {1, 2}}}, "net.0", "net.2"});
  recipe["inputs"] = "x,t,y";
  const Model imported = model();
  const Mlp& mlp = std::get<Mlp>(imported.network);
  EXPECT_EQ(mlp.architecture.condition.into, Shape{1});
  EXPECT_EQ(mlp.architecture.time.into, Shape{1});
  const std::vector<double> weight = file.at("net.0.weight").to_double();
  const double* own = mlp.parameters.data() + mlp.architecture.weight_offset(1);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(own[i], weight[i < 3 ? 9 + i : i == 3 ? 8 : i - 4]) << i;
}

TEST_F(Import, OfHalfPrecisionIsThoseNumbers) {
  Tensor half{"BF16", {5, 3}, {}};
  for (int k = 0; k < 15; ++k) {  // 1.0 in bfloat16
    half.bytes.push_back(std::byte{0x80});
    half.bytes.push_back(std::byte{0x3f});
  }
  file.tensors["net.0.weight"] = half;
  EXPECT_EQ(parameters()[7], 1.0);
}

}  // namespace
}  // namespace fokker
