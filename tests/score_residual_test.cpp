// The residual of vector score nets: against its definition, by differences of fields in double; against ∇R of a potential;
// its probes; and the statistics of both kinds of net.
#include "fokker/diagnostics/score_residual.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fokker/diagnostics/residual_statistics.hpp"
#include "networks.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using fokker::testing::agrees;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Index = std::int64_t;

// The derivative of f [N] at 0 by differences of eighth order.
std::vector<double> derivative(const std::function<std::vector<double>(double)>& f) {
  constexpr double h = 1e-3, weights[] = {4.0 / 5, -1.0 / 5, 4.0 / 105, -1.0 / 280};
  std::vector<double> slope(f(0).size());
  for (int k = 1; k <= 4; ++k) {
    const std::vector<double> after = f(k * h), before = f(-k * h);
    for (std::size_t i = 0; i < slope.size(); ++i) slope[i] += weights[k - 1] * (after[i] - before[i]) / h;
  }
  return slope;
}

struct Evaluated {
  std::vector<double> score, divergence;
};
Evaluated fields_at(const Model& model, const std::vector<double>& t, const std::vector<double>& x,
                    const std::vector<double>& condition) {
  Evaluated found{std::vector<double>(x.size()), std::vector<double>(t.size())};
  FieldOutputs<double> outputs;
  outputs.score = View<double>(found.score, model.dimension());
  outputs.divergence = View<double>(found.divergence);
  Points<double> points{View<const double>(t), View<const double>(x, model.dimension()), {}};
  if (model.condition() > 0) points.condition = View<const double>(condition, model.condition());
  Fields<double>(Context({.backend = BackendKind::cpu, .threads = 1}), model).evaluate(points, outputs);
  return found;
}

// r by its definition.
std::vector<double> defined(const Model& model, const std::vector<double>& t, const std::vector<double>& x,
                            const std::vector<double>& condition) {
  const std::size_t d = static_cast<std::size_t>(model.dimension());
  const auto bracket = [&](const std::vector<double>& at) {  // ½ g² (∇·s + |s|²) − f·s − ∇·f
    const Evaluated f = fields_at(model, t, at, condition);
    std::vector<double> all;
    for (std::size_t r = 0; r < t.size(); ++r) {
      const auto sde = model.sde.at(t[r]);
      double square = 0, along = 0;
      for (std::size_t i = r * d; i < (r + 1) * d; ++i) {
        square += f.score[i] * f.score[i];
        along += sde.drift * at[i] * f.score[i];
      }
      all.push_back(sde.diffusion_squared / 2 * (f.divergence[r] + square) - along -
                    sde.drift * static_cast<double>(d));
    }
    return all;
  };
  std::vector<double> residual = derivative([&](double by) {
    std::vector<double> moved = t;
    for (double& time : moved) time += by;
    return fields_at(model, moved, x, condition).score;
  });
  for (std::size_t i = 0; i < d; ++i) {
    const std::vector<double> slope = derivative([&](double by) {
      std::vector<double> moved = x;
      for (std::size_t r = 0; r < t.size(); ++r) moved[r * d + i] += by;
      return bracket(moved);
    });
    for (std::size_t r = 0; r < t.size(); ++r) residual[r * d + i] -= slope[r];
  }
  return residual;
}

// Points in the middle of time, where nothing is steep.
std::vector<double> some(Index n, double from, double to, double phase) {
  std::vector<double> all;
  for (Index i = 0; i < n; ++i) {
    all.push_back(from + (to - from) * (0.5 + 0.5 * std::sin(1.7 * static_cast<double>(i) + phase)));
  }
  return all;
}

// Differences over h of numbers in double, of up to a thousand times the residual's size or of size 100 where its terms
// cancel: 2^−53 · 1000/h and 2^−53 · 100/h. What is cut off is (ω h)^8/630 of the derivative, where the fastest embedding of
// the time has ω = 16 π: 6e-14.
const fokker::testing::Bound kByDifferences{.of_rms = 1e-9, .norm = 1e-10, .absolute = 1e-11};

TEST(ScoreResidual, IsItsDefinition) {
  const Index n = 19;
  for (const auto& [name, architecture] : testing::branched_networks(Output::score)) {
    SCOPED_TRACE(name);
    const Model model{ForwardSde::vp_linear(), Mlp::initialise(architecture, 7)};
    const Index d = model.dimension();
    const std::vector<double> t = some(n, 0.3, 0.8, 0), x = some(n * d, -1, 1, 1);
    const std::vector<double> found = ScoreResidual<double>(Context(), model).evaluate(t, x);
    EXPECT_TRUE(agrees(found, defined(model, t, x, {}), kByDifferences));
  }
}

TEST(ScoreResidual, TakesTheFormIn) {
  const Index n = 19;
  struct Case {
    ForwardSde sde;
    NetworkForm form;
  };
  for (const auto& [sde, form] :
       {Case{ForwardSde::vp_linear(), {.form = Form::noise, .time_scale = 3, .time_offset = 0.5}},
        Case{ForwardSde::ou(), {.form = Form::edm, .data_deviation = 0.8, .time_input = TimeInput::log_sigma}},
        Case{ForwardSde::vp_cosine(), {.form = Form::v}},
        Case{ForwardSde::subvp(), {.form = Form::denoised, .time_input = TimeInput::log_snr}},
        Case{ForwardSde::flow(), {.form = Form::velocity}},
        Case{ForwardSde::flow(), {.form = Form::velocity_to_data}}}) {
    SCOPED_TRACE(fmt::format("{}, {}", sde.name(), to_string(form.form)));
    Architecture architecture{
        .dimension = 3, .hidden = {9, 7}, .activation = Activation::silu, .output = Output::score};
    Mlp mlp = Mlp::initialise(architecture, 5);
    mlp.architecture.form = form;
    const Model model{sde, mlp};
    const double horizon = sde.horizon();
    const std::vector<double> t = some(n, 0.4 * horizon, 0.7 * horizon, 0), x = some(3 * n, -1, 1, 1);
    EXPECT_TRUE(
        agrees(ScoreResidual<double>(Context(), model).evaluate(t, x), defined(model, t, x, {}), kByDifferences));
  }
}

TEST(ScoreResidual, TakesConditionsAndStandardisedModels) {
  const Index n = 19, d = 2;
  Architecture architecture{.dimension = d, .hidden = {9, 7}, .activation = Activation::tanh, .output = Output::score};
  architecture.condition = {{}, {0, 1}, {}, 3};
  Model model{ForwardSde::vp_linear(), Mlp::initialise(architecture, 7)};
  const std::vector<double> t = some(n, 0.3, 0.8, 0), x = some(n * d, -1, 1, 1), y = some(3 * n, -2, 2, 2);
  const std::vector<double> of_z = ScoreResidual<double>(Context(), model).evaluate(t, x, y);
  EXPECT_TRUE(agrees(of_z, defined(model, t, x, y), kByDifferences));
  // In x = mean + deviation z it is r of z over the deviations.
  model.standardisation = {{3, -1, 0, 0, 0}, {0.5, 2, 1, 1, 1}};
  std::vector<double> of_x = x, expected = of_z;
  for (Index i = 0; i < n; ++i) {
    of_x[2 * i] = 3 + 0.5 * x[2 * i], of_x[2 * i + 1] = -1 + 2 * x[2 * i + 1];
    expected[2 * i] /= 0.5, expected[2 * i + 1] /= 2;
  }
  EXPECT_TRUE(
      agrees(ScoreResidual<double>(Context(), model).evaluate(t, of_x, y), expected, {.of_rms = 1e-12, .norm = 1e-12}));
}

// s_i = Σ_j c_j w_ji sin(w_j·x + u_j t + b_j) is the gradient of −Σ c_j cos(…), a potential of sines with another phase: r
// is the gradient of its R.
TEST(ScoreResidual, IsTheGradientOfThePotentialsResidual) {
  const Index n = 19, units = 5, d = 2;
  Architecture architecture{.dimension = d, .hidden = {units}, .activation = Activation::sine, .beta = 1};
  Mlp potential = Mlp::initialise(architecture, 3);
  Mlp net = potential;
  net.architecture.output = Output::score;
  const Index output = architecture.weight_offset(1);
  net.parameters.resize(static_cast<std::size_t>(net.architecture.parameter_count()), 0.0);
  std::fill(net.parameters.begin() + output, net.parameters.end(), 0.0);
  for (Index j = 0; j < units; ++j) {
    double* const of_potential = potential.parameters.data();
    of_potential[architecture.bias_offset(0) + j] -= std::numbers::pi / 2;  // sin(z − π/2) = −cos z
    for (Index i = 0; i < d; ++i) {
      net.parameters[output + i * units + j] = of_potential[output + j] * of_potential[j * (1 + d) + 1 + i];
    }
  }
  const ForwardSde sde = ForwardSde::ve();
  const std::vector<double> t = some(n, 0.3, 0.8, 0), x = some(n * d, -1, 1, 1);
  const Fields<double> fields(Context(), {sde, potential});
  std::vector<double> expected(x.size());
  for (Index i = 0; i < d; ++i) {
    const std::vector<double> slope = derivative([&](double by) {
      std::vector<double> at = x, residual(n);
      for (Index r = 0; r < n; ++r) at[r * d + i] += by;
      FieldOutputs<double> outputs;
      outputs.residual = View<double>(residual);
      fields.evaluate({View<const double>(t), View<const double>(at, d)}, outputs);
      return residual;
    });
    for (Index r = 0; r < n; ++r) expected[r * d + i] = slope[r];
  }
  EXPECT_TRUE(agrees(ScoreResidual<double>(Context(), {sde, net}).evaluate(t, x), expected, kByDifferences));
}

// The probes' mean over many calls is the exact residual within five standard errors, and a call's own: no probe is another's.
TEST(ScoreResidual, ProbesHaveNoBias) {
  const Index n = 7, d = 3, calls = 400;
  const Model model{
      ForwardSde::vp_linear(),
      Mlp::initialise({.dimension = d, .hidden = {9, 7}, .activation = Activation::silu, .output = Output::score}, 5)};
  const std::vector<double> t = some(n, 0.3, 0.8, 0), x = some(n * d, -1, 1, 1);
  const ScoreResidual<double> residual(Context(), model);
  const std::vector<double> exact = residual.evaluate(t, x);
  for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
    std::vector<double> sum(exact.size()), squares(exact.size());
    for (Index k = 0; k < calls; ++k) {
      const auto index = static_cast<std::uint64_t>(k);
      const std::vector<double> one =
          residual.evaluate(t, x, {}, {.probes = 2, .law = law, .seed = 4, .first_index = index});
      for (std::size_t i = 0; i < one.size(); ++i) sum[i] += one[i], squares[i] += one[i] * one[i];
    }
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double mean = sum[i] / calls, variance = squares[i] / calls - mean * mean;
      EXPECT_GT(variance, 0);
      EXPECT_NEAR(mean, exact[i], 5 * std::sqrt(variance / calls)) << i;
    }
  }
  const Divergence probes{.probes = 2, .seed = 4};
  EXPECT_EQ(residual.evaluate(t, x, {}, probes), residual.evaluate(t, x, {}, probes));
}

TEST(ScoreResidual, InFloatIsThatInDouble) {
  const Index n = 99, d = 2;
  const Model model{
      ForwardSde::ou(),
      Mlp::initialise({.dimension = d, .hidden = {80, 80}, .activation = Activation::silu, .output = Output::score},
                      5)};
  const std::vector<double> t = some(n, 0.3, 8, 0), x = some(n * d, -2, 2, 1);
  const std::vector<float> t_float(t.begin(), t.end()), x_float(x.begin(), x.end());
  const std::vector<double> t_there(t_float.begin(), t_float.end()), x_there(x_float.begin(), x_float.end());
  // Sums of some hundred products in float, through three layers and two derivatives.
  EXPECT_TRUE(
      agrees(ScoreResidual<float>(Context({.backend = testing::backend_under_test}), model).evaluate(t_float, x_float),
             ScoreResidual<double>(Context({.backend = BackendKind::cpu}), model).evaluate(t_there, x_there),
             {.of_rms = 2e-4, .norm = 5e-5}));
}

TEST(ScoreResidual, Refusals) {
  const auto refusal = [](const Model& model) {
    return fokker::testing::message_of([&] { ScoreResidual<double>(Context(), model); });
  };
  const auto net = [](Activation activation, Output output, Form form = Form::score) {
    Mlp mlp = Mlp::initialise({.hidden = {5}, .activation = activation, .output = output}, 1);
    mlp.architecture.form.form = form;
    return mlp;
  };
  const ForwardSde sde = ForwardSde::vp_linear();
  EXPECT_THAT(refusal({sde, net(Activation::silu, Output::potential)}), HasSubstr("asked for of a potential; allowed"));
  EXPECT_THAT(refusal({sde, GaussianMixture::isotropic(2, {1}, {0, 0}, {1})}),
              HasSubstr("of a mixture or a composition"));
  EXPECT_THAT(refusal({sde, net(Activation::relu, Output::score)}), HasSubstr("activation relu, which has a kink"));
  EXPECT_THAT(refusal({sde, net(Activation::silu, Output::score, Form::velocity)}),
              HasSubstr("velocity under the SDE vp-linear"));
  const ScoreResidual<double> residual(Context(), {sde, net(Activation::silu, Output::score)});
  EXPECT_TRUE(residual.evaluate({}, {}).empty());
  EXPECT_THAT(fokker::testing::message_of([&] { residual.evaluate({0.5}, {1}); }),
              HasSubstr("1 times, 1 numbers of x"));
  EXPECT_THAT(fokker::testing::message_of([&] {
                residual.evaluate({0.5}, {1, 1}, {}, {.probes = -1});
              }),
              HasSubstr("is -1"));
}

}  // namespace
}  // namespace fokker
