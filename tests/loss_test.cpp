#include "fokker/loss.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "compare.hpp"
#include "core/parallel.hpp"
#include "cpu/loss.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/safetensors.hpp"
#include "loss_reference.hpp"
#include "paper_data.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::architecture_of;
using testing::as;
using testing::Bound;
using testing::gradient_errors;
using testing::gradient_rounding;
using testing::loss_deviations;
using testing::LossDeviations;
using testing::make_problem;
using testing::Problem;
using testing::unit;
using testing::value_agrees;
using testing::with_probes;

struct Result {
  std::vector<double> values = std::vector<double>(3, -1.0);
  std::vector<double> gradient;
};

template <class T>
Result evaluate(const Architecture& a, const ForwardSde& sde, const Problem& p, double residual_weight, int threads = 2,
                bool with_gradient = true) {
  const Loss<T> loss(Context({BackendKind::cpu, threads}), a, sde);
  const std::int64_t d = a.dimension, c = a.condition.inputs;
  const auto own = [&](const std::vector<double>& rows) { return as<T>(testing::columns_of(rows, d + c, 0, d)); };
  const auto conditions = [&](const std::vector<double>& rows) {
    return as<T>(testing::columns_of(rows, d + c, d, c));
  };
  const auto parameters = as<T>(p.parameters), t = as<T>(p.t), x = own(p.x), y = conditions(p.x),
             target = as<T>(p.target), weight = as<T>(p.weight), rt = as<T>(p.residual_t), rx = own(p.residual_x),
             ry = conditions(p.residual_x);
  const auto rows = [&](const std::vector<T>& numbers) {
    return numbers.empty() ? View<const T>() : View<const T>(numbers, c);
  };
  std::vector<T> gradient(with_gradient ? parameters.size() : 0, T(7));  // overwritten, not added to
  Result result;
  loss.evaluate(View<const T>(parameters),
                {View<const T>(t), View<const T>(x, a.dimension), View<const T>(target, a.dimension),
                 p.weight.empty() ? View<const T>() : View<const T>(weight), rows(y)},
                {View<const T>(rt), View<const T>(rx, a.dimension), rows(ry), p.divergence}, residual_weight,
                View<double>(result.values), with_gradient ? View<T>(gradient) : View<T>());
  result.gradient.assign(gradient.begin(), gradient.end());
  return result;
}

// ---- the reference itself ------------------------------------------------------------------------------------------

TEST(ReferenceNetwork, DerivativesAreThoseOfItsValue) {
  for (const Activation activation : Activations::all) {
    const auto a = architecture_of(3, {7, 5, 6}, activation, 2.5, Output::potential);
    if (!testing::has_all_fields(a)) continue;
    const auto net = testing::reference_network(a, Mlp::initialise(a, 3).parameters);
    const std::vector<double> at = {0.7, -0.4, 1.1, 0.3};
    const auto fields = testing::reference_fields(net, at[0], &at[1]);
    const double h = 1e-5;
    for (int i = 0; i < 4; ++i) {
      auto up = at, down = at;
      up[i] += h;
      down[i] -= h;
      const auto f = testing::reference_fields(net, up[0], &up[1]),
                 g = testing::reference_fields(net, down[0], &down[1]);
      EXPECT_NEAR((f.value - g.value) / (2 * h), i == 0 ? fields.dt : fields.score[i - 1], 1e-9)
          << to_string(activation);
      for (int j = 0; j < 3 && i > 0; ++j) {
        EXPECT_NEAR((f.score[j] - g.score[j]) / (2 * h), fields.hessian[j * 3 + i - 1], 1e-8) << to_string(activation);
      }
    }
  }
}

TEST(ReferenceNetwork, GradientsAreThoseOfItsLosses) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::subvp);
  for (const Activation activation : Activations::all) {
    const auto a = architecture_of(2, {5, 4}, activation, 3, Output::potential);
    if (!testing::has_all_fields(a)) continue;
    const Problem p = make_problem(a, sde, 3, 3, true, 5);
    const auto reference = testing::reference_sde(sde);
    const auto both = [&](const std::vector<double>& parameters) {
      const auto net = testing::reference_network(a, parameters);
      auto l = testing::reference_denoising_loss(net, p.t, p.x, p.target, p.weight);
      const auto r = testing::reference_residual_loss(net, reference, p.residual_t, p.residual_x);
      l.value += 0.3 * r.value;
      for (std::size_t k = 0; k < l.gradient.size(); ++k) l.gradient[k] += 0.3 * r.gradient[k];
      return l;
    };
    const auto gradient = both(p.parameters).gradient;
    std::vector<double> differences;
    for (std::size_t k = 0; k < p.parameters.size(); ++k) {
      auto up = p.parameters, down = p.parameters;
      up[k] += 1e-5;
      down[k] -= 1e-5;
      differences.push_back((both(up).value - both(down).value) / 2e-5);
    }
    // Central differences: h² |L‴|/6 ~ 1e-9 and rounding ε |L|/h ~ 1e-10.
    EXPECT_TRUE(agrees(gradient, differences, Bound{.of_rms = 1e-7, .norm = 2e-8})) << to_string(activation);
  }
}

// ---- against the reference, on random architectures ----------------------------------------------------------------

struct Case {
  std::string name;
  Architecture architecture;
  SdeKind sde;
  std::int64_t n, m;
  bool weighted;
  int probes = 0;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.architecture.describe() << ", " << ForwardSde::defaults(c.sde).name() << ", " << c.n << " + " << c.m << ", "
       << c.probes << " probes";
}

std::vector<Case> cases() {
  struct Shape {
    std::int64_t d;
    std::vector<std::int64_t> hidden;
    std::int64_t n, m;
  };
  const std::vector<Shape> shapes = {{1, {1}, 989, 989},
                                     {2, {7}, 1, 1},
                                     {3, {7, 1, 13}, 99, 99},
                                     {2, {80, 80, 80}, 99, 19},
                                     {5, {127, 80}, 19, 19},
                                     {16, {33, 17}, 19, 19},
                                     {2, {127, 127, 127}, 19, 1},
                                     {2, {7, 7}, 989, 989},
                                     {4, {16, 8, 24}, 0, 99},
                                     {4, {16, 8, 24}, 99, 0},
                                     {2, {9, 1, 7, 8, 3, 16, 5, 2}, 99, 99},
                                     {40, {20, 12}, 19, 19},
                                     {2, {5}, 0, 0}};
  std::vector<Case> all;
  for (std::size_t s = 0; s < shapes.size(); ++s) {
    for (std::size_t k = 0; k < testing::activations_a_shape; ++k) {
      // Wide networks with each activation would only repeat what narrow ones show.
      if (shapes[s].hidden[0] > 80 && k != s % 4 && k != 0) continue;
      const Activation activation = testing::activation_of(s, static_cast<int>(k));
      for (Output output : {Output::potential, Output::score}) {
        const Shape& shape = shapes[s];
        const double beta = s % 2 == 0 ? 3.0 : 100.0;
        Case c{"",
               architecture_of(shape.d, shape.hidden, activation, beta, output),
               testing::sde_kinds[(s + k) % 5],
               shape.n,
               output == Output::potential ? shape.m : 0,
               (s + k) % 2 == 1};
        if (!testing::has_all_fields(c.architecture)) continue;
        c.name = testing::case_name(c.architecture, fmt::format("n{}_m{}", c.n, c.m));
        all.push_back(c);
      }
    }
  }
  for (Output output : {Output::potential, Output::score}) {
    for (const auto& [name, architecture] : testing::all_networks(output)) {
      all.push_back({name, architecture, testing::sde_kinds[all.size() % 5], 99, output == Output::potential ? 19 : 0,
                     all.size() % 2 == 1});
    }
  }
  return all;
}

// The residual by probes: every activation, few and many columns, and every kind of network.
std::vector<Case> probed_cases() {
  struct Shape {
    std::int64_t d;
    std::vector<std::int64_t> hidden;
    std::int64_t n, m;
    int probes;
  };
  const std::vector<Shape> shapes = {{1, {7, 5}, 19, 99, 1},       {2, {13, 80, 9}, 0, 99, 2}, {8, {17, 24}, 19, 19, 1},
                                     {64, {20, 12}, 0, 19, 3},     {3, {1}, 1, 1, 1},          {2, {7}, 0, 989, 1},
                                     {2, {6, 5, 4, 9}, 0, 19, 11}, {2, {5}, 99, 0, 1}};
  std::vector<Case> all;
  for (std::size_t s = 0; s < shapes.size(); ++s) {
    const Shape& shape = shapes[s];
    for (std::size_t k = 0; k < testing::activations_a_shape; ++k) {
      const Activation activation = testing::activation_of(s, static_cast<int>(k));
      Case c{"",
             architecture_of(shape.d, shape.hidden, activation, s % 2 == 0 ? 3.0 : 100.0, Output::potential),
             testing::sde_kinds[(s + k) % 5],
             shape.n,
             shape.m,
             false,
             shape.probes};
      if (!testing::has_all_fields(c.architecture)) continue;
      c.name = testing::case_name(c.architecture, fmt::format("n{}_m{}_k{}", c.n, c.m, c.probes));
      all.push_back(c);
    }
  }
  for (const auto& [name, architecture] : testing::all_networks(Output::potential)) {
    const int probes = 1 + static_cast<int>(all.size() % 2);
    all.push_back({name, architecture, testing::sde_kinds[all.size() % 5], 0, 19, false, probes});
  }
  return all;
}

class AgainstReference : public ::testing::TestWithParam<Case> {};

TEST_P(AgainstReference, LossesAndGradientInBothPrecisions) {
  const Case& c = GetParam();
  const ForwardSde sde = ForwardSde::defaults(c.sde);
  Problem p = make_problem(c.architecture, sde, c.n, c.m, c.weighted, 17);
  if (c.probes > 0) p = testing::with_probes(std::move(p), c.architecture.dimension, c.probes);
  const auto net = testing::reference_network(c.architecture, p.parameters);
  ASSERT_GT(testing::distance_to_jump(net, p.t, p.x), 1e-9);
  ASSERT_GT(testing::distance_to_jump(net, p.residual_t, p.residual_x), 1e-9);
  const auto denoising = testing::reference_denoising_loss(net, p.t, p.x, p.target, p.weight);
  testing::ReferenceLoss residual{0, std::vector<double>(p.parameters.size(), 0.0)};
  if (c.m > 0)
    residual = testing::reference_residual_loss(net, testing::reference_sde(sde), p.residual_t, p.residual_x, p.probes);
  // A weight that gives both gradients the same size, so that neither hides the other's errors.
  const auto norm = [](const std::vector<double>& v) {
    double sum = 0;
    for (double e : v) sum += e * e;
    return std::sqrt(sum);
  };
  const double ratio = norm(denoising.gradient) / norm(residual.gradient);
  const double weight = c.n == 0 || c.m == 0 ? 1.0 : ratio;
  std::vector<double> expected(p.parameters.size());
  for (std::size_t k = 0; k < expected.size(); ++k) {
    expected[k] = denoising.gradient[k] + weight * residual.gradient[k];
  }

  const Result wide = evaluate<double>(c.architecture, sde, p, weight);
  EXPECT_TRUE(agrees(wide.values[0], denoising.value, 1e-11));
  EXPECT_TRUE(agrees(wide.values[1], residual.value, 1e-9));
  EXPECT_TRUE(agrees(wide.values[2], wide.values[0] + weight * wide.values[1], 1e-15));
  EXPECT_TRUE(agrees(wide.gradient, expected, Bound{.relative = 1e-9, .of_rms = 1e-10, .norm = 1e-10}));

  const Result narrow = evaluate<float>(c.architecture, sde, p, weight);
  const LossDeviations deviations = loss_deviations(c.architecture, sde, p);
  EXPECT_TRUE(value_agrees(narrow.values[0], denoising.value, deviations.denoising, unit<float>));
  EXPECT_TRUE(value_agrees(narrow.values[1], residual.value, deviations.residual, unit<float>));
  const auto errors = gradient_errors(c.architecture, sde, p, weight, expected);
  EXPECT_TRUE(agrees(narrow.gradient, expected, gradient_rounding(errors, expected, unit<float>)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AgainstReference, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });
INSTANTIATE_TEST_SUITE_P(Probes, AgainstReference, ::testing::ValuesIn(probed_cases()),
                         [](const auto& test) { return test.param.name; });

// ---- the square by two estimates ------------------------------------------------------------------------------------

// A mean over draws, and its standard error.
struct Mean {
  double mean = 0, error = 0;

  explicit Mean(const std::vector<double>& draws) {
    const auto n = static_cast<double>(draws.size());
    double squares = 0;
    for (const double v : draws) mean += v / n;
    for (const double v : draws) squares += (v - mean) * (v - mean);
    error = std::sqrt(squares / (n - 1) / n);
  }
};

// Over seeds the mean of the loss and of its gradient is that of the exact square, within five standard errors from the
// draws themselves; that of the squares of one estimate, which Fields has, is not, and is too large by the variance
// (½ g²)² 2 Σ H_ij²/k, over i ≠ j for probes of ±1 and over all for Gaussian ones.
TEST(UnbiasedSquare, HasTheMeanOfTheExactOne) {
  // Without a drift, whose share of R knows no probe.
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ve);
  const std::int64_t d = 8, m = 7;
  const auto a = architecture_of(d, {13, 9}, Activation::tanh, 1, Output::potential);
  const Problem p = make_problem(a, sde, 0, m, false, 23);
  const Context context({BackendKind::cpu, 2});
  const Loss<double> loss(context, a, sde);
  const Fields<double> fields(context, {sde, Mlp{a, p.parameters}});
  const View<const double> t(p.residual_t), x(p.residual_x, d);
  std::vector<double> exact(3), exact_gradient(p.parameters.size()), hessian(static_cast<std::size_t>(m * d * d));
  loss.evaluate(View<const double>(p.parameters), {}, {t, x}, 1, View<double>(exact), View<double>(exact_gradient));
  fields.evaluate({t, x}, {.hessian = View<double>(hessian, d * d)});
  for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
    for (const int probes : {1, 3}) {
      SCOPED_TRACE(fmt::format("{} {} probes", probes, to_string(law)));
      double variance = 0;  // mean over the points
      for (std::int64_t i = 0; i < m; ++i) {
        const double half = sde.at(p.residual_t[i]).diffusion_squared / 2;
        for (std::int64_t j = 0; j < d * d; ++j) {
          if (law == ProbeLaw::rademacher && j / d == j % d) continue;
          variance += 2 * std::pow(half * hessian[i * d * d + j], 2) / probes / double(m);
        }
      }
      const int draws = 2000;
      std::vector<double> products, squares, estimates(m), values(3), gradient(p.parameters.size());
      std::vector<std::vector<double>> gradients(gradient.size());
      for (int draw = 0; draw < draws; ++draw) {
        const Divergence how{.probes = probes, .law = law, .seed = static_cast<std::uint64_t>(draw), .first_index = 5};
        loss.evaluate(View<const double>(p.parameters), {}, {t, x, {}, how}, 1, View<double>(values),
                      View<double>(gradient));
        products.push_back(values[1]);
        EXPECT_EQ(values[2], values[1]);
        for (std::size_t k = 0; k < gradient.size(); ++k) gradients[k].push_back(gradient[k]);
        fields.evaluate({t, x}, {.residual = View<double>(estimates)}, how);
        double square = 0;
        for (const double r : estimates) square += r * r / double(m);
        squares.push_back(square);
      }
      const Mean product(products), square(squares);
      EXPECT_NEAR(product.mean, exact[1], 5 * product.error);
      EXPECT_NEAR(square.mean, exact[1] + variance, 5 * square.error);
      EXPECT_GT(square.mean - exact[1], 5 * square.error);
      for (std::size_t k = 0; k < gradients.size(); ++k) {
        const Mean g(gradients[k]);
        EXPECT_NEAR(g.mean, exact_gradient[k], 5 * g.error) << k;
      }
    }
  }
}

// In one dimension a probe of ±1 leaves nothing to estimate.
TEST(UnbiasedSquare, IsTheExactOneInOneDimension) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const auto a = architecture_of(1, {9, 6}, Activation::silu, 1, Output::potential);
  const Problem p = make_problem(a, sde, 0, 99, false, 3);
  const Result exact = evaluate<double>(a, sde, p, 1), estimate = evaluate<double>(a, sde, with_probes(p, 1, 2), 1);
  EXPECT_TRUE(agrees(estimate.values, exact.values, Bound{.relative = 1e-12, .norm = 1e-12}));
  EXPECT_TRUE(agrees(estimate.gradient, exact.gradient, Bound{.of_rms = 1e-12, .norm = 1e-12}));
}

// Gaussian probes are normal numbers of the library's, which the reference has none of.
TEST(UnbiasedSquare, GradientIsThatOfTheValue) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::vp_cosine);
  for (const Activation activation : {Activation::softplus, Activation::gelu_tanh, Activation::sine}) {
    const auto a = architecture_of(3, {5, 4}, activation, 1, Output::potential);
    Problem p = make_problem(a, sde, 0, 7, false, 29);
    p.divergence = {.probes = 3, .law = ProbeLaw::gaussian, .seed = 12, .first_index = 40};
    const std::vector<double> gradient = evaluate<double>(a, sde, p, 1).gradient;
    const auto value = [&](std::size_t k, double change) {
      Problem q = p;
      q.parameters[k] += change;
      return evaluate<double>(a, sde, q, 1, 2, false).values[1];
    };
    std::vector<double> differences;
    for (std::size_t k = 0; k < p.parameters.size(); ++k) {
      differences.push_back((value(k, 1e-5) - value(k, -1e-5)) / 2e-5);
    }
    // Central differences: h² |L‴|/6 ~ 1e-9 and rounding ε |L|/h ~ 1e-10.
    EXPECT_TRUE(agrees(gradient, differences, Bound{.of_rms = 1e-7, .norm = 2e-8})) << to_string(activation);
  }
}

// The probes of a point are those of its index, whatever other points are in the batch.
TEST(UnbiasedSquare, TakesTheProbesOfAPointsIndex) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::subvp);
  const std::int64_t d = 5, m = 999, part = 333;
  const auto a = architecture_of(d, {9, 6}, Activation::gelu, 1, Output::potential);
  for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
    Problem p = make_problem(a, sde, 0, m, false, 31);
    p.divergence = {.probes = 2, .law = law, .seed = 4, .first_index = 17};
    const Result whole = evaluate<double>(a, sde, p, 1);
    Result sum{std::vector<double>(3), std::vector<double>(p.parameters.size())};
    for (std::int64_t first = 0; first < m; first += part) {
      Problem some = p;
      some.residual_t.assign(p.residual_t.begin() + first, p.residual_t.begin() + first + part);
      some.residual_x.assign(p.residual_x.begin() + first * d, p.residual_x.begin() + (first + part) * d);
      some.divergence.first_index += static_cast<std::uint64_t>(first);
      const Result own = evaluate<double>(a, sde, some, 1);
      for (std::size_t k = 0; k < 3; ++k) sum.values[k] += own.values[k] * part / m;
      for (std::size_t k = 0; k < sum.gradient.size(); ++k) sum.gradient[k] += own.gradient[k] * part / m;
    }
    EXPECT_TRUE(agrees(sum.values, whole.values, Bound{.relative = 1e-11, .norm = 1e-11}));
    EXPECT_TRUE(agrees(sum.gradient, whole.gradient, Bound{.of_rms = 1e-11, .norm = 1e-11}));
    Problem other = p;
    ++other.divergence.first_index;
    EXPECT_NE(evaluate<double>(a, sde, other, 1).values, whole.values);
    other = p;
    ++other.divergence.seed;
    EXPECT_NE(evaluate<double>(a, sde, other, 1).values, whole.values);
  }
}

// ---- against float64 autograd on the published networks ------------------------------------------------------------

class PublishedNetworks : public ::testing::TestWithParam<const char*> {};

TEST_P(PublishedNetworks, LossesAndGradients) {
  const std::string folder = testing::paper_data();
  if (folder.empty()) return;
  const std::string stem = folder + "/checkpoints/" + GetParam();
  const Model model = load_model(stem + ".safetensors");
  const auto& mlp = std::get<Mlp>(model.network);
  const SafeTensors reference = SafeTensors::load(stem + ".reference.safetensors");
  const auto gradient_of = [&](const std::string& prefix) {
    std::vector<double> g;
    for (const std::string& layer : mlp.architecture.names()) {
      for (const char* part : {".weight", ".bias"}) {
        const auto v = reference.at(prefix + layer + part).to_double();
        g.insert(g.end(), v.begin(), v.end());
      }
    }
    return g;
  };
  Problem denoising, collocation;
  denoising.parameters = collocation.parameters = mlp.parameters;
  denoising.t = collocation.residual_t = reference.at("t").to_double();
  denoising.x = collocation.residual_x = reference.at("x").to_double();
  denoising.target = reference.at("dsm_target_score").to_double();
  const double dsm_loss = reference.at("dsm_loss").to_double()[0], fp_loss = reference.at("fp_loss").to_double()[0];
  const auto dsm_gradient = gradient_of("dsm_grad."), fp_gradient = gradient_of("fp_grad.");

  // At βz = 20 softplus′ jumps by e^-20 and softplus″ by β e^-20. A pre-activation is known to some 1e-14, so both
  // sides are on the same branch everywhere where none lies nearer than this.
  const auto net = testing::reference_network(mlp.architecture, mlp.parameters);
  ASSERT_GT(testing::distance_to_jump(net, denoising.t, denoising.x), 1e-10);

  const auto wide = evaluate<double>(mlp.architecture, model.sde, denoising, 1);
  EXPECT_TRUE(agrees(wide.values[0], dsm_loss, 1e-11));
  EXPECT_TRUE(agrees(wide.gradient, dsm_gradient, Bound{.relative = 1e-9, .of_rms = 1e-9, .norm = 1e-9}));
  const auto wide_fp = evaluate<double>(mlp.architecture, model.sde, collocation, 1);
  EXPECT_TRUE(agrees(wide_fp.values[1], fp_loss, 1e-9));
  EXPECT_TRUE(agrees(wide_fp.gradient, fp_gradient, Bound{.relative = 1e-9, .of_rms = 1e-9, .norm = 1e-9}));

  const auto narrow = evaluate<float>(mlp.architecture, model.sde, denoising, 1);
  const auto narrow_fp = evaluate<float>(mlp.architecture, model.sde, collocation, 1);
  EXPECT_TRUE(value_agrees(narrow.values[0], dsm_loss,
                           loss_deviations(mlp.architecture, model.sde, denoising).denoising, unit<float>));
  const auto dsm_errors = gradient_errors(mlp.architecture, model.sde, denoising, 1, dsm_gradient);
  EXPECT_TRUE(agrees(narrow.gradient, dsm_gradient, gradient_rounding(dsm_errors, dsm_gradient, unit<float>)));
  EXPECT_TRUE(value_agrees(narrow_fp.values[1], fp_loss,
                           loss_deviations(mlp.architecture, model.sde, collocation).residual, unit<float>));
  const auto fp_errors = gradient_errors(mlp.architecture, model.sde, collocation, 1, fp_gradient);
  EXPECT_TRUE(agrees(narrow_fp.gradient, fp_gradient, gradient_rounding(fp_errors, fp_gradient, unit<float>)));
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, PublishedNetworks, ::testing::ValuesIn(testing::paper_checkpoints),
                         [](const auto& test) { return testing::name_in_test(test.param); });

// ---- determinism, batches cut into chunks, refusals ----------------------------------------------------------------

template <class T>
class LossOf : public ::testing::Test {};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(LossOf, Precisions);

TYPED_TEST(LossOf, ResultsAreTheSameBitsForAnyNumberOfThreads) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  for (const auto& [output, probes] :
       {std::pair(Output::potential, 0), std::pair(Output::potential, 2), std::pair(Output::score, 0)}) {
    const auto a = architecture_of(2, {24, 17}, Activation::softplus, 20, output);
    Problem p = make_problem(a, sde, 5003, output == Output::potential ? 2001 : 0, true, 11);
    if (probes > 0) p = with_probes(std::move(p), 2, probes);
    const Result one = evaluate<TypeParam>(a, sde, p, 0.5, 1);
    for (int threads : {2, 3, 7}) {
      const Result more = evaluate<TypeParam>(a, sde, p, 0.5, threads);
      EXPECT_EQ(more.values, one.values) << threads << " threads";
      EXPECT_EQ(more.gradient, one.gradient) << threads << " threads";
    }
    // Without a gradient: the same arithmetic, but for the denoising loss of a potential, where σ′ is then the only
    // output of the activation and comes from a division less. Two roundings of one number that differ by the model.
    const Result values_only = evaluate<TypeParam>(a, sde, p, 0.5, 2, false);
    EXPECT_EQ(values_only.values[1], one.values[1]);
    if (output == Output::score) {
      EXPECT_EQ(values_only.values, one.values);
    } else {
      EXPECT_TRUE(value_agrees(values_only.values[0], one.values[0],
                               std::sqrt(2) * loss_deviations(a, sde, p).denoising, unit<TypeParam>));
    }
  }
}

TYPED_TEST(LossOf, ManyChunksAddUpToTheMeanOfTheirParts) {
  using T = TypeParam;
  const ForwardSde sde = ForwardSde::defaults(SdeKind::vp_linear);
  std::vector<Architecture> architectures{architecture_of(3, {12, 9}, Activation::silu, 1, Output::potential)};
  for (const auto& [name, branched] : testing::branched_networks(Output::potential)) {
    if (branched.dimension == 3) architectures.push_back(branched);
  }
  for (const Architecture& a : architectures) {
    SCOPED_TRACE(a.describe());
    const Problem p = make_problem(a, sde, 20000, 9001, true, 23);
    const Result all = evaluate<T>(a, sde, p, 0.1);
    std::vector<double> values(2, 0.0), gradient(p.parameters.size(), 0.0);
    const auto part = [](const std::vector<double>& v, std::size_t first, std::size_t n) {
      return std::vector<double>(v.begin() + static_cast<std::ptrdiff_t>(first),
                                 v.begin() + static_cast<std::ptrdiff_t>(std::min(v.size(), first + n)));
    };
    const std::size_t step = 1237;
    for (std::size_t first = 0; first < p.t.size(); first += step) {
      Problem q;
      q.parameters = p.parameters;
      q.t = part(p.t, first, step), q.x = part(p.x, 3 * first, 3 * step),
      q.target = part(p.target, 3 * first, 3 * step);
      q.weight = part(p.weight, first, step);
      const Result r = evaluate<T>(a, sde, q, 0.1);
      const double share = double(q.t.size()) / double(p.t.size());
      values[0] += share * r.values[0];
      for (std::size_t k = 0; k < gradient.size(); ++k) gradient[k] += share * r.gradient[k];
    }
    for (std::size_t first = 0; first < p.residual_t.size(); first += step) {
      Problem q;
      q.parameters = p.parameters;
      q.residual_t = part(p.residual_t, first, step), q.residual_x = part(p.residual_x, 3 * first, 3 * step);
      const Result r = evaluate<T>(a, sde, q, 0.1);
      const double share = double(q.residual_t.size()) / double(p.residual_t.size());
      values[1] += share * r.values[1];
      for (std::size_t k = 0; k < gradient.size(); ++k) gradient[k] += share * r.gradient[k];
    }
    // Sums of some hundred rounded terms in either order.
    const double epsilon = std::numeric_limits<T>::epsilon();
    EXPECT_TRUE(agrees(all.values[0], values[0], 1e-12));
    EXPECT_TRUE(agrees(all.values[1], values[1], 1e-12));
    EXPECT_TRUE(agrees(all.gradient, gradient, Bound{.of_rms = 500 * epsilon, .norm = 50 * epsilon}));
  }
}

TYPED_TEST(LossOf, SourcesAreAskedForEveryPointOnceAndMayUseTheirStorage) {
  using T = TypeParam;
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const auto a = architecture_of(2, {8}, Activation::tanh, 1, Output::potential);
  const std::int64_t n = 3001, m = 1009;
  const Problem p = make_problem(a, sde, n, m, true, 29);
  const auto parameters = as<T>(p.parameters);
  std::vector<std::atomic<int>> asked(n), asked_residual(m);
  cpu::ChunkedLoss<T> loss(a, sde, 2);
  std::vector<T> gradient(parameters.size());
  const auto sums = loss.evaluate(
      parameters.data(), n,
      [&](std::int64_t first, std::int64_t count, T* storage) {
        T *t = storage, *x = t + count, *target = x + 2 * count, *weight = target + 2 * count;
        for (std::int64_t i = 0; i < count; ++i) {
          ++asked[first + i];
          t[i] = static_cast<T>(p.t[first + i]);
          weight[i] = static_cast<T>(p.weight[first + i]);
          for (int k = 0; k < 2; ++k) {
            x[2 * i + k] = static_cast<T>(p.x[2 * (first + i) + k]);
            target[2 * i + k] = static_cast<T>(p.target[2 * (first + i) + k]);
          }
        }
        return cpu::DenoisingChunk<T>{t, x, target, weight};
      },
      m,
      [&](std::int64_t first, std::int64_t count, T* storage) {
        for (std::int64_t i = 0; i < count; ++i) {
          ++asked_residual[first + i];
          storage[i] = static_cast<T>(p.residual_t[first + i]);
          for (int k = 0; k < 2; ++k) storage[count + 2 * i + k] = static_cast<T>(p.residual_x[2 * (first + i) + k]);
        }
        return cpu::CollocationChunk<T>{storage, storage + count};
      },
      0.5, gradient.data());
  for (auto& count : asked) ASSERT_EQ(count, 1);
  for (auto& count : asked_residual) ASSERT_EQ(count, 1);
  const Result direct = evaluate<T>(a, sde, p, 0.5);
  EXPECT_EQ(sums.denoising, direct.values[0]);
  EXPECT_EQ(sums.residual, direct.values[1]);
  EXPECT_EQ(std::vector<double>(gradient.begin(), gradient.end()), direct.gradient);
}

TYPED_TEST(LossOf, AFailingSourceFailsTheCallAndNothingElse) {
  using T = TypeParam;
  const auto a = architecture_of(2, {8}, Activation::tanh, 1, Output::potential);
  const auto parameters = as<T>(Mlp::initialise(a, 1).parameters);
  cpu::ChunkedLoss<T> loss(a, ForwardSde::defaults(SdeKind::ou), 2);
  const cpu::DenoisingSource<T> failing = [](std::int64_t, std::int64_t, T*) -> cpu::DenoisingChunk<T> {
    throw Error("no points today");
  };
  const cpu::CollocationSource<T> zeros = [](std::int64_t, std::int64_t n, T* storage) {
    std::fill_n(storage, 3 * n, T(1));
    return cpu::CollocationChunk<T>{storage, storage + n};
  };
  EXPECT_THROW(loss.evaluate(parameters.data(), 4000, failing, 100, zeros, 1, nullptr), Error);
  EXPECT_TRUE(std::isfinite(loss.evaluate(parameters.data(), 0, failing, 100, zeros, 1, nullptr).residual));
}

TYPED_TEST(LossOf, RefusesWhatDoesNotFit) {
  using T = TypeParam;
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const auto a = architecture_of(2, {5}, Activation::tanh, 1, Output::potential);
  const Context context({BackendKind::cpu, 1});
  const Loss<T> loss(context, a, sde);
  const std::int64_t count = a.parameter_count();
  std::vector<T> parameters(static_cast<std::size_t>(count), T(0.1)), gradient = parameters, t(19, T(1)), x(38, T(1));
  std::vector<double> values(3);
  const View<const T> theta(parameters), tv(t), xv(x, 2);
  const auto message = [&](const Loss<T>& l, View<const T> p, const DenoisingBatch<T>& dsm,
                           const CollocationBatch<T>& fp, double weight, View<double> v, View<T> g) -> std::string {
    const auto before = gradient;
    try {
      l.evaluate(p, dsm, fp, weight, v, g);
    } catch (const Error& e) {
      EXPECT_EQ(gradient, before);
      return e.what();
    }
    return "accepted";
  };
  const View<double> v(values);
  const View<T> g(gradient);
  const DenoisingBatch<T> dsm{tv, xv, xv, {}};
  const CollocationBatch<T> fp{tv, xv};
  using ::testing::AllOf;
  using ::testing::HasSubstr;
  EXPECT_EQ(message(loss, theta, dsm, fp, 1, v, {}), "accepted");
  EXPECT_THAT(message(loss, View<const T>(parameters.data(), count - 1), dsm, fp, 1, v, g),
              AllOf(HasSubstr("parameters"), HasSubstr(std::to_string(count))));
  EXPECT_THAT(message(loss, theta, {tv, View<const T>(x, 1), xv, {}}, fp, 1, v, g), HasSubstr("denoising.x"));
  EXPECT_THAT(message(loss, theta, {tv, xv, View<const T>(x.data(), 18, 2), {}}, fp, 1, v, g),
              HasSubstr("denoising.target"));
  EXPECT_THAT(message(loss, theta, {tv, xv, xv, View<const T>(t.data(), 18)}, fp, 1, v, g),
              HasSubstr("denoising.weight"));
  EXPECT_THAT(message(loss, theta, dsm, {tv, View<const T>(x.data(), 18, 2)}, 1, v, g), HasSubstr("collocation.x"));
  EXPECT_THAT(message(loss, theta, {tv, View<const T>(static_cast<const T*>(nullptr), 19, 2), xv, {}}, fp, 1, v, g),
              HasSubstr("no data"));
  EXPECT_THAT(message(loss, theta, {View<const T>(t.data(), -1), xv, xv, {}}, fp, 1, v, g), HasSubstr("-1"));
  EXPECT_THAT(message(loss, theta, {View<const T>(t.data(), 19, 1, Device::cuda), xv, xv, {}}, fp, 1, v, g),
              HasSubstr("cuda"));
  EXPECT_THAT(message(loss, theta, dsm, fp, 1, View<double>(values.data(), 2), g), HasSubstr("values"));
  EXPECT_THAT(message(loss, theta, dsm, fp, 1, v, View<T>(gradient.data(), 3)), HasSubstr("gradient"));
  EXPECT_THAT(message(loss, theta, dsm, fp, -1, v, g), HasSubstr("-1"));
  for (const int probes : {-1, 1025}) {
    EXPECT_THAT(
        message(loss, theta, dsm, {tv, xv, {}, {.probes = probes}}, 1, v, g),
        HasSubstr(fmt::format("the number of probes, 0 for the exact residual, is {}; allowed: 0 to 1024", probes)));
  }
  EXPECT_THAT(message(loss, theta, dsm, fp, std::nan(""), v, g), HasSubstr("nan"));

  auto vector_net = a;
  vector_net.output = Output::score;
  const Loss<T> vector_loss(context, vector_net, sde);
  std::vector<T> more(static_cast<std::size_t>(vector_net.parameter_count()), T(0.1));
  EXPECT_THAT(message(vector_loss, View<const T>(more), dsm, fp, 1, v, {}), HasSubstr("vector score net"));
  EXPECT_EQ(message(vector_loss, View<const T>(more), dsm, {}, 1, v, {}), "accepted");

  auto kinked = a;
  kinked.time = {{{3, {Activation::relu, 1}}}, {0}};
  const Loss<T> kinked_loss(context, kinked, sde);
  std::vector<T> its(static_cast<std::size_t>(kinked.parameter_count()), T(0.1)), its_gradient = its;
  EXPECT_EQ(message(kinked_loss, View<const T>(its), dsm, fp, 1, v, {}), "accepted");
  EXPECT_EQ(message(kinked_loss, View<const T>(its), dsm, {}, 1, v, View<T>(its_gradient)), "accepted");
  for (const int probes : {0, 1}) {
    EXPECT_THAT(
        message(kinked_loss, View<const T>(its), dsm, {tv, xv, {}, {.probes = probes}}, 1, v, View<T>(its_gradient)),
        HasSubstr("time branch of relu"));
  }
  auto cornered = a;
  cornered.activation = Activation::relu;
  const Loss<T> cornered_loss(context, cornered, sde);
  EXPECT_THAT(message(cornered_loss, theta, {}, {tv, xv, {}, {.probes = 1}}, 1, v, {}), HasSubstr("relu"));

  auto bad = a;
  bad.hidden = {0};
  EXPECT_THROW(Loss<T>(context, bad, sde), Error);
}

}  // namespace
}  // namespace fokker
