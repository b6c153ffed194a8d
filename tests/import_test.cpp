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
  EXPECT_THAT(refusal_with("colour", "red"), AllOf(HasSubstr("'colour'"), HasSubstr("time_into")));
  EXPECT_THAT(refusal_with("layers", {"net.0", "net.4"}),
              AllOf(HasSubstr("no tensor 'net.4.weight'"), HasSubstr("'net.2.weight'")));
  EXPECT_THAT(refusal_with("layers", "net.0"), HasSubstr("not a list of two or more"));
  EXPECT_THAT(refusal_with("layers", {"net.0", 3}), HasSubstr("an entry of the recipe's layers"));
  EXPECT_THAT(refusal_with("activation", {"silu", "tanh"}), HasSubstr("2 entries"));
  EXPECT_THAT(refusal_with("activation", "softplus"), HasSubstr("softplus(1)"));
  EXPECT_THAT(refusal_with("activation", "swish"), HasSubstr("allowed are softplus"));
  EXPECT_THAT(refusal_with("output", "edm"), HasSubstr("no data_deviation"));
  EXPECT_THAT(refusal_with("output", "image"), HasSubstr("allowed are potential"));
  EXPECT_THAT(refusal_with("output_factor", 0), HasSubstr("output_factor is 0"));
  EXPECT_THAT(refusal_with("inputs", "x"), HasSubstr("allowed: t,x or x,t"));
  EXPECT_THAT(refusal_with("sde", "brownian"), HasSubstr("vp-linear"));
  EXPECT_THAT(refusal_with("sde_parameters", {{"beta", 3}}), HasSubstr("beta"));
  EXPECT_THAT(refusal_with("time", "emb"), HasSubstr("not a list"));
  EXPECT_THAT(refusal_with("time", Json::array({"net.0"})), HasSubstr("'net.0' is given twice"));
  EXPECT_THAT(refusal_with("time", Json::array({{{"sinusoidal", 7}}})), HasSubstr("even numbers"));
  EXPECT_THAT(refusal_with("time", Json::array({{{"sinusoidal", 8}, {"speed", 2}}})), HasSubstr("'speed'"));
  EXPECT_THAT(refusal_with("time", Json::array({{{"sinusoidal", 8}, {"order", "up"}}})),
              HasSubstr("sin,cos or cos,sin"));
  EXPECT_THAT(refusal_with("time", Json::array({{{"sinusoidal", 8}}})),
              HasSubstr("'net.0' has 5 outputs and 3 inputs, 5 and 10 are needed, 8 of these for the time"));
  EXPECT_THAT(refusal_with("time_into", "net.1"), AllOf(HasSubstr("the recipe's time_into"), HasSubstr("'net.1'")));
  EXPECT_THAT(refusal_with("residual", "net.0"), HasSubstr("allowed: layers 1 to 0"));
  EXPECT_THAT(refusal_with("layers", Json::array({{{"sinusoidal", 4}}, "net.0", "net.2"})),
              AllOf(HasSubstr("features are 8 numbers"), HasSubstr("allowed: the 2")));
  EXPECT_THAT(refusal_with("time_added_to", {"net.0"}), HasSubstr("weights that fit"));
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
