// Networks as people build them elsewhere (tests/layouts), imported by a recipe: their scores, divergences, losses and
// gradients, paths and log-densities against double-precision autograd.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fokker/fokker.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::agrees;
using ::testing::AllOf;
using testing::from;
using ::testing::HasSubstr;
using testing::message_of;
using testing::on;
using testing::Scratch;

const Context context{{testing::backend_under_test, 2}};

struct Layout {
  std::string stem;
  Model model;
  std::int64_t d;

  explicit Layout(const std::string& name)
      : stem(std::string(FOKKER_LAYOUTS) + "/" + name),
        model(import_model(stem + ".safetensors", stem + ".json")),
        d(model.dimension()) {}
  std::vector<double> operator[](const char* array) const { return load_array(stem + ".npz:" + array).data; }
  Proof proof() const { return {(*this)["t"], (*this)["x"], (*this)["score"], conditions()}; }
  std::int64_t c() const { return model.condition(); }
  std::vector<double> conditions() const { return c() > 0 ? (*this)["condition"] : std::vector<double>(); }
  const Architecture& architecture() const { return std::get<Mlp>(model.network).architecture; }
};

std::vector<float> floats(const std::vector<double>& v) { return {v.begin(), v.end()}; }

// The condition of each point, on the device of the context; empty where a network takes none.
template <class T>
struct Conditions {
  Buffer<T> there;
  explicit Conditions(const Layout& layout) {
    const std::vector<double> y = layout.conditions();
    if (layout.c() > 0) there = on(context, std::vector<T>(y.begin(), y.end()), layout.c());
  }
  View<const T> view() const { return there.view(); }
};

class Layouts : public ::testing::TestWithParam<const char*> {};

template <class T>
void check_fields(const Layout& layout, const testing::Bound& bound) {
  const std::int64_t d = layout.d;
  const auto widened = [](const std::vector<double>& v) { return std::vector<T>(v.begin(), v.end()); };
  const std::vector<T> t = widened(layout["t"]), x = widened(layout["x"]);
  const auto n = static_cast<std::int64_t>(t.size());
  const Buffer<T> t_there = on(context, t, 1), x_there = on(context, x, d);
  const Conditions<T> y(layout);
  Buffer<T> score(context, n, d), divergence(context, n, 1), value(context, n, 1), dt(context, n, 1);
  FieldOutputs<T> outputs{.score = score.view(), .divergence = divergence.view()};
  const bool potential = layout.architecture().output == Output::potential;
  if (potential) outputs.value = value.view(), outputs.dt = dt.view();
  Fields<T>(context, layout.model).evaluate({t_there.view(), x_there.view(), y.view()}, outputs);
  EXPECT_TRUE(agrees(from(context, score), layout["score"], bound));
  EXPECT_TRUE(agrees(from(context, divergence), layout["divergence"], bound));
  if (!potential) return;
  EXPECT_TRUE(agrees(from(context, value), layout["value"], bound));
  EXPECT_TRUE(agrees(from(context, dt), layout["dt"], bound));
}

// The features of times of a thousand round to 3e-5 in float.
TEST_P(Layouts, HaveTheScoresOfTheirAuthors) {
  const Layout layout(GetParam());
  check_proof(layout.model, layout.proof());
  check_fields<double>(layout, {.relative = 1e-9, .of_rms = 1e-10, .norm = 1e-10});
  check_fields<float>(layout, {.relative = 1e-3, .of_rms = 1e-3, .norm = 2e-4});
}

TEST_P(Layouts, HaveTheLossesAndGradientsOfAutograd) {
  const Layout layout(GetParam());
  const Architecture& a = layout.architecture();
  const std::int64_t d = layout.d;
  const bool potential = a.output == Output::potential;
  const std::vector<double>& parameters = std::get<Mlp>(layout.model.network).parameters;
  const Buffer<double> theta = on(context, parameters, 1), t = on(context, layout["t"], 1),
                       x = on(context, layout["x"], d), target = on(context, layout["target"], d),
                       weight = on(context, layout["weight"], 1);
  Buffer<double> values(context, 3, 1), gradient(context, static_cast<std::int64_t>(parameters.size()), 1);
  CollocationBatch<double> collocation;
  const Conditions<double> y(layout);
  if (potential) collocation = {t.view(), x.view(), y.view()};
  Loss<double>(context, a, layout.model.sde)
      .evaluate(View<const double>(theta.view()), {t.view(), x.view(), target.view(), weight.view(), y.view()},
                collocation, potential ? 0.01 : 0, values.view(), gradient.view());
  const std::vector<double> found = from(context, values);
  EXPECT_TRUE(agrees(found[0], layout["denoising"][0], 1e-9));
  EXPECT_TRUE(agrees(found[1], potential ? layout["residual"][0] : 0.0, 1e-9));

  // The gradient by the state dict's names is imported as the parameters are: a linear map, but for weight norms.
  const std::string name = GetParam();
  if (name == "weight_normed") return;
  std::vector<double> expected =
      std::get<Mlp>(import_model(layout.stem + ".gradient.safetensors", layout.stem + ".json").network).parameters;
  const auto clear = [&](std::int64_t begin, std::int64_t end) {
    std::fill(expected.begin() + begin, expected.begin() + end, 0.0);
  };
  for (std::int64_t l = 0; l < std::ssize(a.time.layers); ++l) {
    if (!a.time.layers[static_cast<std::size_t>(l)].fixed) continue;
    clear(a.time_offset() + a.time.weight_offset(l), a.time_offset() + a.time.weight_offset(l + 1));
  }
  for (const std::int64_t l : a.fixed) clear(a.weight_offset(l), a.weight_offset(l + 1));
  std::vector<double> own = from(context, gradient);
  if (name == "fourier_over_sigma") {  // two biases that are one here
    for (const std::int64_t l : {0, 1}) {
      for (std::int64_t k = a.bias_offset(l); k < a.weight_offset(l + 1); ++k)
        expected[static_cast<std::size_t>(k)] /= 2;
    }
  }
  if (name == "added_to_projection") {  // the identity's columns, which the author does not train
    for (std::int64_t j = 0; j < a.outputs(0); ++j) {
      const std::int64_t row = a.weight_offset(0) + j * a.inputs(0);
      clear(row, row + a.embedded(0));
      std::fill(own.begin() + row, own.begin() + row + a.embedded(0), 0.0);
    }
  }
  EXPECT_TRUE(agrees(own, expected, {.relative = 1e-8, .of_rms = 1e-9, .norm = 1e-9}));
}

TEST_P(Layouts, HavePathsAndLogDensitiesOfDoublePrecision) {
  const Layout layout(GetParam());
  const std::int64_t d = layout.d;
  const Sampler sampler(context, layout.model, TimeGrid(layout["grid"]));
  Buffer<float> x = on(context, floats(layout["x"]), d);
  const std::int64_t n = x.view().rows;
  Buffer<float> found(context, n, 1);
  const Conditions<float> y(layout);
  sampler.log_density(View<const float>(x.view()), found.view(), Scheme::euler, {}, {}, y.view());
  sampler.integrate(x.view(), {.scheme = Scheme::euler, .condition = y.view()});
  EXPECT_TRUE(agrees(from(context, x), layout["ode"], {.relative = 1e-3, .of_rms = 1e-3, .norm = 3e-4}));

  const std::vector<double> end = layout["log_density_end"];
  std::vector<double> expected = layout["log_density_change"];
  const double variance = layout.model.sde.prior_variance();
  for (std::int64_t i = 0; i < n; ++i) {
    double square = 0;
    for (std::int64_t j = i * d; j < (i + 1) * d; ++j)
      square += end[static_cast<std::size_t>(j)] * end[static_cast<std::size_t>(j)];
    expected[static_cast<std::size_t>(i)] -=
        square / (2 * variance) + static_cast<double>(d) / 2 * std::log(2 * std::numbers::pi * variance);
  }
  EXPECT_TRUE(agrees(from(context, found), expected, {.relative = 1e-3, .of_rms = 1e-3, .norm = 3e-4}));
}

TEST_P(Layouts, ProveThemselvesWhenTheyAreLoaded) {
  const Layout layout(GetParam());
  const Scratch scratch;
  const std::string path = scratch / "model.safetensors";
  save_model(path, layout.model, {}, layout.proof());
  const Model back = load_model(path);
  EXPECT_EQ(std::get<Mlp>(back.network).architecture.describe(), layout.architecture().describe());
  // A proof is of the network as it was meant.
  EXPECT_THAT(message_of([&] {
                load_model(path, {{"inputs", layout.c() > 0 ? "y,7*t,x" : "7*t,x"}});
              }),
              HasSubstr("its scores are not those of its proof"));
  EXPECT_EQ(std::get<Mlp>(back.network).architecture.condition, layout.architecture().condition);
  Proof wrong = layout.proof();
  wrong.score.back() += 0.1 * std::fabs(wrong.score.back()) + 0.1;
  EXPECT_THAT(message_of([&] { save_model(path, layout.model, {}, wrong); }), HasSubstr("at 1 of 24 points"));
  EXPECT_EQ(load_model(path).dimension(), layout.d);  // what was there
  wrong = layout.proof();
  wrong.score[0] = std::numeric_limits<double>::infinity();
  EXPECT_THAT(message_of([&] { check_proof(layout.model, wrong); }), HasSubstr("finite in float32"));
  wrong = layout.proof();
  wrong.t[0] = 2 * layout.model.sde.horizon();
  EXPECT_THAT(message_of([&] { check_proof(layout.model, wrong); }), HasSubstr("allowed: above 0, up to"));
  wrong.t[0] = static_cast<double>(static_cast<float>(layout.model.sde.horizon())), wrong.t.resize(1);
  wrong.x.assign(static_cast<std::size_t>(layout.d), 0.5), wrong.score.assign(static_cast<std::size_t>(layout.d), 1e6);
  wrong.condition.resize(static_cast<std::size_t>(layout.c()));
  EXPECT_THAT(message_of([&] { check_proof(layout.model, wrong); }), HasSubstr("at 1 of 1 points"));
  // Where scores are small, at large noise, an error counts as much: scores of the first point, multiplied by 1.1.
  wrong = layout.proof();
  const auto largest_time =
      static_cast<std::size_t>(std::max_element(wrong.t.begin(), wrong.t.end()) - wrong.t.begin());
  for (std::size_t j = 0; j < static_cast<std::size_t>(layout.d); ++j) {
    wrong.score[largest_time * static_cast<std::size_t>(layout.d) + j] *= 1.1;
  }
  EXPECT_THAT(message_of([&] { check_proof(layout.model, wrong); }), HasSubstr("at 1 of 24 points"));
}

// A condition that is one for all is a part of the biases: each point of the proof is of a network of its own.
TEST_P(Layouts, GivenAConditionAreNetworksThatTakeNone) {
  const Layout layout(GetParam());
  if (layout.c() == 0) return;
  const std::int64_t d = layout.d;
  const std::vector<double> t = layout["t"], x = layout["x"], y = layout.conditions(), score = layout["score"],
                            ode = layout["ode"];
  const auto row = [](const std::vector<double>& of, std::int64_t i, std::int64_t columns) {
    return std::vector<double>(of.begin() + i * columns, of.begin() + (i + 1) * columns);
  };
  for (const std::int64_t i : {0, 7, 23}) {
    const Model given = with_condition(layout.model, row(y, i, layout.c()));
    EXPECT_EQ(given.condition(), 0);
    check_proof(given, {row(t, i, 1), row(x, i, d), row(score, i, d), {}});
    const Buffer<double> t_there = on(context, row(t, i, 1), 1), x_there = on(context, row(x, i, d), d);
    Buffer<double> found(context, 1, d);
    Fields<double>(context, given).evaluate({t_there.view(), x_there.view(), {}}, {.score = found.view()});
    EXPECT_TRUE(agrees(from(context, found), row(score, i, d), {.relative = 1e-9, .of_rms = 1e-10, .norm = 1e-10}));
    Buffer<float> path = on(context, floats(row(x, i, d)), d);
    Sampler(context, given, TimeGrid(layout["grid"])).integrate(path.view(), {.scheme = Scheme::euler});
    EXPECT_TRUE(agrees(from(context, path), row(ode, i, d), {.relative = 1e-3, .of_rms = 1e-3, .norm = 3e-4}));
  }
}

// Scores of a large column are small in x, and count as much.
TEST(Proofs, OfStandardisedModelsHoldEveryColumn) {
  Layout layout("cat_raw");
  Model model = layout.model;
  model.standardisation = {{1000, 0}, {50, 1e-6}};
  Proof proof = layout.proof();
  for (std::size_t k = 0; k < proof.x.size(); ++k) {
    const std::size_t column = k % 2;
    proof.x[k] = model.standardisation.mean[column] + model.standardisation.deviation[column] * proof.x[k];
    proof.score[k] /= model.standardisation.deviation[column];
  }
  check_proof(model, proof);
  model.standardisation.mean[0] = 1010;
  EXPECT_THAT(message_of([&] { check_proof(model, proof); }), HasSubstr("its scores are not those of its proof"));
}

INSTANTIATE_TEST_SUITE_P(Built, Layouts,
                         ::testing::Values("cat_raw", "sinusoidal_concatenated", "added_to_projection",
                                           "fourier_over_sigma", "encoders", "residual_blocks", "edm", "flow",
                                           "weight_normed", "potential", "state_mish", "encoded_state"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace fokker
