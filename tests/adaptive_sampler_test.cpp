// Paths of the probability flow with steps of their own: order conditions of the pairs, errors against the tolerance,
// evaluations against SciPy's, and that a path depends on nothing but itself. The flow of the reference is written out
// here, in double, and integrated by the classical Runge–Kutta scheme with 10 000 steps.
#include "fokker/adaptive_sampler.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "expect_error.hpp"
#include "fokker/composition.hpp"
#include "fokker/error.hpp"
#include "fokker/sampler.hpp"
#include "networks.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::expect_error;
using ::testing::HasSubstr;
using Index = std::int64_t;
using Vector = std::vector<double>;

constexpr AdaptiveMethod kMethods[] = {AdaptiveMethod::bs32, AdaptiveMethod::tsit5, AdaptiveMethod::dopri5};

Context with_threads(int threads) { return Context({.backend = BackendKind::cpu, .threads = threads}); }

// ---- The pairs ----

Vector product(const Vector& a, const Vector& b) {
  Vector c(a);
  for (std::size_t i = 0; i < c.size(); ++i) c[i] *= b[i];
  return c;
}

// The weights of a tree's order condition Σ_i b_i u_i = 1/γ, for all seventeen rooted trees of up to five nodes (Hairer,
// Nørsett and Wanner, table II.2.2).
struct Tree {
  int order;
  Vector u;
  double gamma;
};
std::vector<Tree> trees(const EmbeddedTableau& tableau) {
  const auto stages = static_cast<std::size_t>(tableau.stages);
  const auto a = [&](const Vector& v) {
    Vector sums(stages, 0.0);
    for (std::size_t i = 0; i < stages; ++i) {
      for (std::size_t j = 0; j < i; ++j) sums[i] += tableau.weight[i][j] * v[j];
    }
    return sums;
  };
  const Vector one(stages, 1.0), c(tableau.node, tableau.node + stages), c2 = product(c, c), ac = a(c);
  return {{1, one, 1},
          {2, c, 2},
          {3, c2, 3},
          {3, ac, 6},
          {4, product(c, c2), 4},
          {4, product(c, ac), 8},
          {4, a(c2), 12},
          {4, a(ac), 24},
          {5, product(c2, c2), 5},
          {5, product(c2, ac), 10},
          {5, product(c, a(c2)), 15},
          {5, product(c, a(ac)), 30},
          {5, product(ac, ac), 20},
          {5, a(product(c, c2)), 20},
          {5, a(product(c, ac)), 40},
          {5, a(a(c2)), 60},
          {5, a(a(ac)), 120}};
}

// The published numbers have sixteen digits, and sums of them a few units more.
TEST(EmbeddedPairs, HaveTheirOrders) {
  struct Pair {
    EmbeddedTableau tableau;
    int order;
  };
  for (const auto& [tableau, order] : {Pair{bogacki_shampine(), 3}, Pair{tsitouras(), 5}, Pair{dormand_prince(), 5}}) {
    SCOPED_TRACE(tableau.stages);
    EXPECT_EQ(tableau.error_order, order);
    const auto stages = static_cast<std::size_t>(tableau.stages);
    Vector upper(stages, 0.0), lower(stages, 0.0);
    for (std::size_t i = 0; i < stages; ++i) {
      if (i + 1 < stages) upper[i] = tableau.weight[stages - 1][i];
      lower[i] = upper[i] - tableau.error[i];
      double row = 0;
      for (std::size_t j = 0; j < i; ++j) row += tableau.weight[i][j];
      EXPECT_NEAR(row, tableau.node[i], 2e-15);
    }
    EXPECT_EQ(tableau.node[stages - 1], 1);
    double missed_above = 0, missed_below = 0;
    for (const Tree& tree : trees(tableau)) {
      double above = -1 / tree.gamma, below = -1 / tree.gamma;
      for (std::size_t i = 0; i < stages; ++i) above += upper[i] * tree.u[i], below += lower[i] * tree.u[i];
      if (tree.order <= order) {
        EXPECT_NEAR(above, 0, 2e-15) << tree.gamma;
      }
      if (tree.order < order) {
        EXPECT_NEAR(below, 0, 2e-15) << tree.gamma;
      }
      if (tree.order == order) missed_below = std::max(missed_below, std::fabs(below));
      if (tree.order == order + 1) missed_above = std::max(missed_above, std::fabs(above));
    }
    EXPECT_GT(missed_below, 1e-4);  // the lower of the two is of its order and no higher
    if (order == 3) {
      EXPECT_GT(missed_above, 1e-4);
    }
  }
}

// ---- Errors and evaluations ----

// A mixture of two isotropic Gaussians in the plane carried along ou with rate 1 and g 1, or vp-linear with its defaults.
struct Problem {
  bool ou;
  double start, end;
  std::array<double, 2> weights = {0.3, 0.7}, variances;
  std::array<double, 4> means;

  Model model() const {
    const ForwardSde sde = ou ? ForwardSde::ou({.horizon = start}) : ForwardSde::vp_linear();
    return {sde, GaussianMixture::isotropic(2, {weights[0], weights[1]}, {means.begin(), means.end()},
                                            {variances[0], variances[1]})};
  }
  std::array<double, 2> velocity(double t, const std::array<double, 2>& x) const {
    const double beta = 0.1 + 19.9 * t, integral = t * (0.1 + 19.9 * t / 2);
    const double mean = std::exp(ou ? -t : -integral / 2);
    const double noise = ou ? -std::expm1(-2 * t) / 2 : -std::expm1(-integral);
    const double drift = ou ? -1 : -beta / 2, half = ou ? 0.5 : beta / 2;
    double likelihood[2], sum = 0;
    for (int k = 0; k < 2; ++k) {
      const double s = mean * mean * variances[k] + noise;
      const double dx = x[0] - mean * means[2 * k], dy = x[1] - mean * means[2 * k + 1];
      likelihood[k] = weights[k] / s * std::exp(-(dx * dx + dy * dy) / (2 * s));
      sum += likelihood[k];
    }
    std::array<double, 2> v{};
    for (int j = 0; j < 2; ++j) {
      double score = 0;
      for (int k = 0; k < 2; ++k) {
        score -= likelihood[k] / sum * (x[j] - mean * means[2 * k + j]) / (mean * mean * variances[k] + noise);
      }
      v[j] = drift * x[j] - half * score;
    }
    return v;
  }
  // The classical scheme with 10 000 steps of equal ratios of t + 1/100.
  Vector reference(const Vector& from) const {
    constexpr int steps = 10'000;
    const auto moved = [](std::array<double, 2> x, double h, const std::array<double, 2>& v) {
      x[0] += h * v[0], x[1] += h * v[1];
      return x;
    };
    Vector to;
    for (std::size_t i = 0; i < from.size(); i += 2) {
      std::array<double, 2> x{from[i], from[i + 1]};
      const double first = std::log(start + 0.01), last = std::log(end + 0.01);
      for (int k = 0; k < steps; ++k) {
        const double t = std::exp(std::lerp(first, last, double(k) / steps)) - 0.01,
                     h = std::exp(std::lerp(first, last, double(k + 1) / steps)) - 0.01 - t;
        const auto a = velocity(t, x), b = velocity(t + h / 2, moved(x, h / 2, a)),
                   c = velocity(t + h / 2, moved(x, h / 2, b)), d = velocity(t + h, moved(x, h, c));
        for (int j = 0; j < 2; ++j) x[j] += h / 6 * (a[j] + 2 * b[j] + 2 * c[j] + d[j]);
      }
      to.insert(to.end(), x.begin(), x.end());
    }
    return to;
  }
};
const Problem of_ou{.ou = true, .start = 2, .end = 0, .variances = {0.6, 0.9}, .means = {1, -0.5, -0.5, 0.8}};
const Problem of_vp{.ou = false, .start = 1, .end = 1e-3, .variances = {0.2, 0.5}, .means = {1.5, -0.5, -1, 0.8}};

Vector spread(Index n, Index d) {
  Vector x;
  for (Index i = 0; i < n * d; ++i) x.push_back(2 * std::sin(0.7 * static_cast<double>(i)));
  return x;
}

double rms_difference(const Vector& a, const Vector& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

// The error of a step is held to the tolerance, and so is that of the path but for a factor: a slope of 1 of one against
// the other. Where steps are so large that the estimate of their error is a guess, up to some 1e-4, it may be ten times
// the tolerance, which the slope shows as a fifth more.
TEST(AdaptiveErrors, FollowTheTolerance) {
  const Vector start = spread(19, 2), expected = of_ou.reference(start);
  for (const AdaptiveMethod method : kMethods) {
    SCOPED_TRACE(to_string(method));
    double sum = 0, square = 0, mean = 0;
    Vector logs;
    for (int k = 3; k <= 9; ++k) {
      const double tolerance = std::pow(10.0, -k);
      const AdaptiveSampler<double> sampler(
          with_threads(1), of_ou.model(), 2, 0,
          {.method = method, .relative_tolerance = tolerance, .absolute_tolerance = tolerance});
      Vector x = start;
      const AdaptiveReport report = sampler.integrate(View<double>(x, 2));
      EXPECT_EQ(report.failed, 0);
      const double error = rms_difference(x, expected);
      EXPECT_LT(error, 10 * tolerance) << tolerance;
      logs.push_back(std::log10(error));
      mean += logs.back() / 7;
    }
    for (int k = 0; k < 7; ++k) sum += (3.0 - k) * (logs[k] - mean), square += (3.0 - k) * (3.0 - k);
    EXPECT_NEAR(sum / square, 1.05, 0.2) << ::testing::PrintToString(logs);
  }
}

// What solve_ivp of SciPy 1.17.1 needs for these paths at rtol = atol, each path by itself: nfev of RK45, which is the
// same pair, and of RK23. It has the same norm of the error and the same first step, and no memory of the step before.
TEST(AdaptiveErrors, TakeNoMoreEvaluationsThanSciPy) {
  struct Row {
    AdaptiveMethod method;
    const Problem* problem;
    double tolerance;
    std::int64_t evaluations;  // of all nineteen paths
  };
  Problem narrow = of_ou;
  narrow.variances = of_vp.variances, narrow.means = of_vp.means;
  const Vector start = spread(19, 2);
  for (const Row& row :
       {Row{AdaptiveMethod::dopri5, &of_vp, 1e-3, 590}, Row{AdaptiveMethod::dopri5, &of_vp, 1e-5, 1106},
        Row{AdaptiveMethod::dopri5, &of_vp, 1e-7, 2270}, Row{AdaptiveMethod::dopri5, &of_vp, 1e-9, 4310},
        Row{AdaptiveMethod::dopri5, &narrow, 1e-3, 380}, Row{AdaptiveMethod::dopri5, &narrow, 1e-5, 692},
        Row{AdaptiveMethod::dopri5, &narrow, 1e-7, 1532}, Row{AdaptiveMethod::dopri5, &narrow, 1e-9, 2924},
        Row{AdaptiveMethod::bs32, &of_vp, 1e-3, 746}, Row{AdaptiveMethod::bs32, &of_vp, 1e-5, 2237},
        Row{AdaptiveMethod::bs32, &of_vp, 1e-7, 8567}}) {
    const Problem& problem = *row.problem;
    const AdaptiveSampler<double> sampler(
        with_threads(1), problem.model(), problem.start, problem.end,
        {.method = row.method, .relative_tolerance = row.tolerance, .absolute_tolerance = row.tolerance});
    Vector x = start;
    const AdaptiveReport report = sampler.integrate(View<double>(x, 2));
    EXPECT_EQ(report.failed, 0);
    EXPECT_LE(static_cast<double>(report.evaluations), 1.1 * static_cast<double>(row.evaluations))
        << to_string(row.method) << ' ' << row.tolerance;
    EXPECT_GE(static_cast<double>(report.evaluations), 0.7 * static_cast<double>(row.evaluations));
    // And it is those paths: SciPy's own errors are up to 140 times the tolerance here.
    if (row.tolerance <= 1e-7) {
      EXPECT_LT(rms_difference(x, problem.reference(start)), 10 * row.tolerance);
    }
  }
}

TEST(AdaptiveErrors, ReportsAddUp) {
  const Vector start = spread(99, 2);
  for (const AdaptiveMethod method : kMethods) {
    const int per_step = method == AdaptiveMethod::bs32 ? 3 : 6;
    const AdaptiveSampler<double> sampler(with_threads(2), of_vp.model(), 1, 1e-3, {.method = method});
    Vector x = start;
    std::vector<AdaptivePathReport> paths(99);
    const AdaptiveReport all = sampler.integrate(View<double>(x, 2), {.paths = paths});
    AdaptiveReport sums;
    for (const AdaptivePathReport& path : paths) {
      EXPECT_EQ(path.evaluations, 2 + per_step * (path.accepted + path.refused));
      EXPECT_EQ(path.ended, PathEnd::reached);
      EXPECT_EQ(path.time, 1e-3);
      EXPECT_GE(path.accepted, 3);
      sums.accepted += path.accepted, sums.refused += path.refused, sums.evaluations += path.evaluations;
      sums.most_evaluations = std::max<std::int64_t>(sums.most_evaluations, path.evaluations);
    }
    EXPECT_EQ(all.paths, 99);
    EXPECT_EQ(all.accepted, sums.accepted);
    EXPECT_EQ(all.refused, sums.refused);
    EXPECT_EQ(all.evaluations, sums.evaluations);
    EXPECT_EQ(all.most_evaluations, sums.most_evaluations);
    EXPECT_GT(all.refused, 0);
    EXPECT_EQ(all.failed, 0);
    EXPECT_EQ(all.first_failed, -1);
    EXPECT_EQ(all.failure(), "");
  }
}

// ---- Log-densities ----

// The exact score transports exactly: at the end the flow's density is p_t itself. With rate 2 and T = 10 the prior misses
// p_T by e^{−20}. In float the field is rounded, by the error of the densities of tests/sampler_test.cpp.
TEST(AdaptiveLogDensity, OfAMixtureIsItsOwn) {
  const ForwardSde sde = ForwardSde::ou({.rate = 2, .g = 1.5});
  const double end = 0.01;
  const auto c = sde.at(end);
  const Model model{sde, GaussianMixture::isotropic(2, {0.3, 0.7}, {1.2, 0.4, -0.8, -0.3}, {0.2, 0.35})};
  const Index n = 99;
  const Vector x = spread(n, 2);
  const std::vector<float> x_float(x.begin(), x.end());
  const auto expected = [&](const auto& points) {
    Vector log_density;
    for (Index i = 0; i < n; ++i) {
      double density = 0;
      for (const auto& [weight, mx, my, variance] :
           {std::array{0.3, 1.2, 0.4, 0.2}, std::array{0.7, -0.8, -0.3, 0.35}}) {
        const double v = c.mean * c.mean * variance + c.variance;
        const double dx = points[2 * i] - c.mean * mx, dy = points[2 * i + 1] - c.mean * my;
        density += weight * std::exp(-(dx * dx + dy * dy) / (2 * v)) / (2 * std::numbers::pi * v);
      }
      log_density.push_back(std::log(density));
    }
    return log_density;
  };
  for (const AdaptiveMethod method : kMethods) {
    SCOPED_TRACE(to_string(method));
    Vector found(n);
    const AdaptiveSampler<double> exact(
        with_threads(2), model, sde.horizon(), end,
        {.method = method, .relative_tolerance = 1e-8, .absolute_tolerance = 1e-8, .most_steps = 100'000});
    EXPECT_EQ(exact.log_density(View<const double>(x, 2), View<double>(found)).failed, 0);
    EXPECT_TRUE(agrees(found, expected(x), {.norm = 1e-6, .absolute = 1e-6}));
    std::vector<float> found_float(n);
    const AdaptiveSampler<float> rounded(with_threads(2), model, sde.horizon(), end, {.method = method});
    EXPECT_EQ(rounded.log_density(View<const float>(x_float, 2), View<float>(found_float)).failed, 0);
    EXPECT_TRUE(agrees(found_float, expected(x_float), {.norm = 1e-3, .absolute = 1e-3}));
  }
}

// With probes that stay fixed along a path the estimate is a function of the path: that of a grid of many steps.
TEST(AdaptiveLogDensity, HutchinsonsProbesAreThoseOfTheSampler) {
  const Index n = 33;
  const Vector wide = spread(n, 3);
  const std::vector<float> x(wide.begin(), wide.end());
  Architecture architecture{.dimension = 3, .hidden = {17, 9}, .activation = Activation::silu, .output = Output::score};
  for (const Model& model :
       {Model{ForwardSde::vp_linear(), Mlp::initialise(architecture, 3)},
        Model{ForwardSde::vp_linear(), GaussianMixture::isotropic(3, {0.4, 0.6}, {1, 0, 1, 0, -1, 0}, {0.5, 0.7})}}) {
    for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
      const Divergence probes{.probes = 2, .law = law, .seed = 5, .first_index = 1000};
      std::vector<float> expected(n), found(n);
      Sampler(with_threads(2), model, TimeGrid::uniform(1, 0.05, 400))
          .log_density(View<const float>(x, 3), View<float>(expected), Scheme::rk4, probes);
      AdaptiveSampler<float>(with_threads(2), model, 1, 0.05)
          .log_density(View<const float>(x, 3), View<float>(found), probes);
      EXPECT_TRUE(agrees(found, expected, {.norm = 1e-3, .absolute = 1e-3}));
    }
  }
}

// ---- A path depends on itself alone ----

struct Subject {
  std::string name;
  Model model;
};

std::vector<Subject> subjects() {
  std::vector<Subject> all = {{"mixture", of_vp.model()}};
  const auto add = [&](const std::string& name, const Architecture& architecture) {
    all.push_back({name, {ForwardSde::vp_linear(), Mlp::initialise(architecture, 3)}});
  };
  add("potential", {.dimension = 2, .hidden = {17, 9}, .activation = Activation::silu});
  for (const testing::NamedNetwork& network : testing::all_networks(Output::score)) {
    if (network.name == "embedding_beside_x_score" || network.name == "state_and_time_score") {
      add(network.name, network.architecture);
    }
  }
  add("noise", {.dimension = 3,
                .hidden = {20},
                .activation = Activation::silu,
                .output = Output::score,
                .form = {.form = Form::noise, .time_scale = 0.7}});
  Mlp& noise = std::get<Mlp>(all.back().model.network);
  for (std::size_t i = 0; i < noise.parameters.size(); ++i) {
    noise.parameters[i] = 0.4 * std::sin(1.3 * static_cast<double>(i));  // the last layer begins as zero
  }
  return all;
}

template <class T>
std::vector<T> conditions_of(const Model& model, Index n) {
  std::vector<T> y;
  for (Index i = 0; i < n * model.condition(); ++i) y.push_back(static_cast<T>(std::cos(0.9 * static_cast<double>(i))));
  return y;
}
template <class T>
View<const T> rows(const std::vector<T>& of, Index columns, Index first, Index n) {
  return of.empty() ? View<const T>() : View<const T>(of.data() + first * columns, n, columns);
}

template <class T>
void expect_the_same_bits() {
  const Index n = 1000;
  for (const Subject& subject : subjects()) {
    const Index d = subject.model.dimension(), c = subject.model.condition();
    SCOPED_TRACE(subject.name);
    std::vector<T> x;
    for (const double v : spread(n, d)) x.push_back(static_cast<T>(v));
    const std::vector<T> y = conditions_of<T>(subject.model, n);
    const AdaptiveSampler<T> one_thread(with_threads(1), subject.model, 1, 0.01),
        three(with_threads(3), subject.model, 1, 0.01);
    std::vector<T> whole(n * d), parts(n * d);
    std::vector<AdaptivePathReport> whole_reports(n), reports(n);
    one_thread.sample(View<T>(whole, d),
                      {.seed = 8, .first_index = 3, .condition = rows(y, c, 0, n), .paths = whole_reports});
    for (const T v : whole) ASSERT_TRUE(std::isfinite(v));
    Index first = 0;
    for (const Index size : {Index{0}, Index{1}, Index{19}, Index{99}, Index{881}}) {
      three.sample(
          View<T>(parts.data() + first * d, size, d),
          {.seed = 8,
           .first_index = 3 + static_cast<std::uint64_t>(first),
           .condition = rows(y, c, first, size),
           .paths = std::span(reports).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(size))});
      first += size;
    }
    EXPECT_EQ(parts, whole);
    std::int32_t least = 1000, most = 0;
    for (Index i = 0; i < n; ++i) {
      EXPECT_EQ(reports[i].accepted, whole_reports[i].accepted);
      EXPECT_EQ(reports[i].refused, whole_reports[i].refused);
      least = std::min(least, reports[i].evaluations), most = std::max(most, reports[i].evaluations);
    }
    EXPECT_LT(least, most);  // or places would never change
    for (const int probes : {0, 2}) {
      const Divergence estimate{.probes = probes, .seed = 1, .first_index = 7};
      std::vector<T> density(n);
      three.log_density(View<const T>(x, d), View<T>(density), estimate, {.condition = rows(y, c, 0, n)});
      for (const Index i : {Index{0}, Index{1}, Index{383}, Index{384}, Index{777}, Index{999}}) {
        T alone = 0;
        Divergence own = estimate;
        own.first_index += static_cast<std::uint64_t>(i);
        one_thread.log_density(View<const T>(x.data() + i * d, 1, d), View<T>(&alone, 1), own,
                               {.condition = rows(y, c, i, 1)});
        ASSERT_TRUE(std::isfinite(alone));
        EXPECT_EQ(alone, density[i]) << i << " by " << probes << " probes";
      }
    }
  }
}
TEST(AdaptiveBits, AreAPathsOwnInFloat) { expect_the_same_bits<float>(); }
TEST(AdaptiveBits, AreAPathsOwnInDouble) { expect_the_same_bits<double>(); }

// Draws are the Sampler's, and so are the samples, but for the steps.
TEST(AdaptiveSamples, BeginWithThePriorOfTheSampler) {
  const Index n = 99;
  for (const Subject& subject : subjects()) {
    if (subject.model.condition() > 0) continue;
    const Index d = subject.model.dimension();
    std::vector<float> expected(n * d), found(n * d);
    Sampler(with_threads(1), subject.model, TimeGrid::uniform(1, 0.01, 500))
        .sample(View<float>(expected, d), {.scheme = Scheme::rk4, .seed = 4, .first_index = 9});
    AdaptiveSampler<float>(with_threads(1), subject.model, 1, 0.01)
        .sample(View<float>(found, d), {.seed = 4, .first_index = 9});
    // The flow of an untrained network enlarges errors as it does states, by e^5.
    EXPECT_TRUE(agrees(found, expected, {.of_rms = 5e-3, .norm = 1e-3})) << subject.name;
  }
}

// A network that gives the velocity is followed from one end of time to the other, where the SDE's coefficients are
// infinite: here a linear one, whose paths are known.
TEST(AdaptiveSamples, VelocitiesAreFollowedFromEndToEnd) {
  Architecture architecture{.dimension = 1,
                            .hidden = {1},
                            .activation = Activation::identity,
                            .output = Output::score,
                            .form = {.form = Form::velocity}};
  Mlp mlp = Mlp::initialise(architecture, 1);
  ASSERT_EQ(mlp.parameters.size(), 5u);
  mlp.parameters = {0.5, 1.0, 0.25, 1, 0};  // u = t/2 + x + 1/4
  const Model model{ForwardSde::flow({.horizon = 1}), mlp};
  // x = c e^t − (t/2 + 3/4) solves dx/dt = u.
  std::vector<double> x{-1, 0, 2}, expected;
  for (const double v : x) expected.push_back((v + 1.25) * std::exp(-1) - 0.75);
  const AdaptiveSampler<double> sampler(with_threads(1), model, 1, 0,
                                        {.relative_tolerance = 1e-10, .absolute_tolerance = 1e-10});
  EXPECT_EQ(sampler.integrate(View<double>(x, 1)).failed, 0);
  EXPECT_TRUE(agrees(x, expected, {.norm = 1e-8, .absolute = 1e-9}));
  // The divergence is 1, so that log p(x, 0) = log N(x_1; 0, 1) + 1.
  std::vector<double> density(3);
  EXPECT_EQ(sampler.log_density(View<const double>(x, 1), View<double>(density)).failed, 0);
  for (Index i = 0; i < 3; ++i) {
    const double end = (x[i] + 0.75) * std::exp(1) - 1.25;
    EXPECT_NEAR(density[i], 1 - 0.5 * end * end - 0.5 * std::log(2 * std::numbers::pi), 1e-8);
  }
}

// z = (x − mean)/deviation: the paths of z, restored; log-densities are of x.
TEST(AdaptiveSamples, OfAStandardisedModelAreThoseOfItsNetworkMapped) {
  const Model of_z = of_vp.model();
  Model model = of_z;
  model.standardisation = {{1000, -3}, {0.5, 20}};
  const Index n = 19;
  const Vector z = spread(n, 2);
  Vector x;
  for (std::size_t i = 0; i < z.size(); ++i) {
    x.push_back(model.standardisation.mean[i % 2] + model.standardisation.deviation[i % 2] * z[i]);
  }
  const AdaptiveSampler<double> plain(with_threads(1), of_z, 1, 1e-3), mapped(with_threads(1), model, 1, 1e-3);
  Vector density_z(n), density_x(n), moved_z = z, moved_x = x;
  plain.log_density(View<const double>(z, 2), View<double>(density_z));
  mapped.log_density(View<const double>(x, 2), View<double>(density_x));
  for (double& v : density_z) v -= std::log(10.0);
  // The mean of 1000 leaves thirteen digits of z, which the flow enlarges.
  EXPECT_TRUE(agrees(density_x, density_z, {.norm = 1e-7, .absolute = 1e-7}));
  plain.integrate(View<double>(moved_z, 2));
  mapped.integrate(View<double>(moved_x, 2));
  for (std::size_t i = 0; i < z.size(); ++i) {
    moved_z[i] = model.standardisation.mean[i % 2] + model.standardisation.deviation[i % 2] * moved_z[i];
  }
  EXPECT_TRUE(agrees(moved_x, moved_z, {.norm = 1e-7, .absolute = 1e-7}));
}

// ---- Paths that do not reach their end ----

// A score times 1e9: the flow contracts so fast that explicit steps are of about 1e-8. The state at the mean stays there.
Model stiff() { return compose({{1e9, {ForwardSde::ou(), GaussianMixture::isotropic(2, {1}, {0, 0}, {0.5})}}}); }

TEST(AdaptiveFailures, NameTheFirstWithItsTimeAndTheOthersFinish) {
  Vector x{0, 0, 0, 0, 1, 2, 0, 0, -1, 1};
  std::vector<AdaptivePathReport> paths(5);
  const AdaptiveSampler<double> sampler(with_threads(2), stiff(), 10, 0, {.most_steps = 100});
  const AdaptiveReport report = sampler.integrate(View<double>(x, 2), {.paths = paths});
  EXPECT_EQ(report.paths, 5);
  EXPECT_EQ(report.failed, 2);
  EXPECT_EQ(report.first_failed, 2);
  EXPECT_EQ(report.why_first, PathEnd::too_many_steps);
  EXPECT_EQ(report.steps_of_first, 100);
  EXPECT_EQ(report.time_of_first, paths[2].time);
  EXPECT_THAT(report.failure(),
              HasSubstr("of 5 paths 2 did not reach their end, the first of them number 2, which took "
                        "100 steps, the most that are allowed, to t = "));
  for (const Index i : {0, 1, 3}) {
    EXPECT_EQ(paths[i].ended, PathEnd::reached) << i;
    EXPECT_EQ(x[2 * i], 0) << i;
  }
  for (const Index i : {2, 4}) {
    EXPECT_EQ(paths[i].ended, PathEnd::too_many_steps) << i;
    EXPECT_EQ(paths[i].accepted + paths[i].refused, 100) << i;
    EXPECT_LT(paths[i].time, 10) << i;
    EXPECT_GT(paths[i].time, 9.9) << i;
    EXPECT_TRUE(std::isnan(x[2 * i]) && std::isnan(x[2 * i + 1])) << i;
  }
  // Times in float do not resolve such steps.
  std::vector<float> y{0, 0, 1, 2};
  const AdaptiveReport in_float = AdaptiveSampler<float>(with_threads(1), stiff(), 10, 0)
                                      .integrate(View<float>(y, 2), {.paths = std::span(paths).first(2)});
  EXPECT_EQ(in_float.failed, 1);
  EXPECT_EQ(in_float.first_failed, 1);
  EXPECT_EQ(in_float.why_first, PathEnd::step_too_small);
  EXPECT_THAT(in_float.failure(), HasSubstr("needed a smaller step than times resolve at t = "));
  EXPECT_EQ(y[0], 0);
  EXPECT_TRUE(std::isnan(y[2]));
}

TEST(AdaptiveFailures, LostSamplesDisturbNoOther) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  for (const Subject& subject : subjects()) {
    if (subject.model.condition() > 0) continue;
    const Index d = subject.model.dimension(), n = 99;
    Vector healthy = spread(n, d), ill = healthy;
    ill[5 * d] = nan, ill[20 * d] = inf, ill[70 * d] = -inf;
    std::vector<AdaptivePathReport> paths(n);
    const AdaptiveSampler<double> sampler(with_threads(2), subject.model, 1, 0.01);
    EXPECT_EQ(sampler.integrate(View<double>(healthy, d)).failed, 0);
    const AdaptiveReport report = sampler.integrate(View<double>(ill, d), {.paths = paths});
    EXPECT_EQ(report.failed, 3) << subject.name;
    EXPECT_EQ(report.first_failed, 5);
    EXPECT_EQ(report.time_of_first, 1);
    EXPECT_EQ(report.why_first, PathEnd::lost);
    EXPECT_THAT(report.failure(), HasSubstr("number 5, which began at t = 1 where the flow is not finite"));
    for (Index i = 0; i < n; ++i) {
      const bool lost = i == 5 || i == 20 || i == 70;
      EXPECT_EQ(paths[i].ended == PathEnd::lost, lost) << i;
      for (Index j = 0; j < d; ++j) {
        if (lost) {
          EXPECT_TRUE(std::isnan(ill[i * d + j]));
        } else {
          ASSERT_EQ(ill[i * d + j], healthy[i * d + j]) << subject.name << ' ' << i;
        }
      }
    }
  }
}

// ---- The rest of the contract ----

TEST(AdaptiveContract, NamesAreReadBack) {
  for (const AdaptiveMethod method : kMethods) EXPECT_EQ(parse_adaptive_method(to_string(method)), method);
  expect_error([] { parse_adaptive_method("rk45"); }, {"unknown adaptive method 'rk45'", "bs32, tsit5, dopri5"});
}

TEST(AdaptiveContract, EmptyRequestsReturnAndProgressIsReported) {
  const AdaptiveSampler<float> sampler(with_threads(3), of_vp.model(), 1, 1e-3);
  std::vector<std::pair<Index, Index>> reports;
  AdaptiveCall<float> call;
  call.progress = [&](Index done, Index all) { reports.emplace_back(done, all); };
  EXPECT_EQ(sampler.sample(View<float>(nullptr, 0, 2), call).paths, 0);
  EXPECT_EQ(reports, (std::vector<std::pair<Index, Index>>{{0, 0}}));
  EXPECT_EQ(sampler.integrate({}).paths, 0);
  EXPECT_EQ(sampler.log_density({}, {}).paths, 0);
  reports.clear();
  std::vector<float> x(2 * 989);
  EXPECT_EQ(sampler.sample(View<float>(x, 2), call).paths, 989);
  EXPECT_LE(reports.size(), 201u);
  EXPECT_EQ(reports.back(), (std::pair<Index, Index>{989, 989}));
  for (std::size_t i = 1; i < reports.size(); ++i) EXPECT_LT(reports[i - 1].first, reports[i].first);
  call.progress = [](Index, Index) { throw Error("stopped by the caller"); };
  expect_error([&] { sampler.sample(View<float>(x, 2), call); }, {"stopped by the caller"});
  EXPECT_EQ(sampler.workspace_bytes(), 0u);
}

TEST(AdaptiveContract, BadRequestsSayWhatIsAllowed) {
  const Model model = of_vp.model();
  const Context cpu = with_threads(1);
  using InFloat = AdaptiveSampler<float>;
  using InDouble = AdaptiveSampler<double>;
  expect_error([&] { InFloat(cpu, model, 2, 0.1); }, {"from t = 2 to 0.1", "the horizon 1"});
  expect_error([&] { InFloat(cpu, model, 1, 1); }, {"from t = 1 to 1"});
  expect_error([&] { InFloat(cpu, model, 1, -0.1); }, {"to -0.1", "0 at least"});
  expect_error([&] { InFloat(cpu, model, std::nan(""), 0); }, {"from t = nan"});
  expect_error([&] { InFloat(cpu, model, 1, 0, {.relative_tolerance = 1e-7}); },
               {"the relative tolerance is 1e-07; allowed: 1e-06 to 1 in float, and from 1e-13 in double"});
  expect_error([&] { InDouble(cpu, model, 1, 0, {.absolute_tolerance = 0}); },
               {"the absolute tolerance is 0; allowed: 1e-13 to 1 in double"});
  expect_error([&] { InDouble(cpu, model, 1, 0, {.absolute_tolerance = std::nan("")}); },
               {"absolute tolerance is nan"});
  expect_error([&] { InDouble(cpu, model, 1, 0, {.most_steps = 0}); }, {"steps is 0; allowed: 1 to 100000000"});
  expect_error([&] { InDouble(cpu, model, 1, 0, {.method = static_cast<AdaptiveMethod>(9)}); }, {"number 9"});
  // A point mass has no score at t = 0, and the linear interpolation no drift at 1.
  const Model point{ForwardSde::ou(), GaussianMixture::isotropic(2, {1}, {0, 0}, {0})};
  expect_error([&] { InFloat(cpu, point, 10, 0); }, {"at t = 0", "times that keep away from it"});
  EXPECT_NO_THROW(InFloat(cpu, point, 10, 1e-3));
  const Model flow{ForwardSde::flow({.horizon = 1}), GaussianMixture::isotropic(2, {1}, {0, 0}, {1})};
  expect_error([&] { InFloat(cpu, flow, 1, 0); }, {"at t = 1", "SDE flow"});

  const InFloat sampler(cpu, model, 1, 1e-3), late(cpu, model, 0.5, 1e-3);
  std::vector<float> x(12), density(6);
  std::vector<AdaptivePathReport> few(5);
  expect_error([&] { sampler.sample(View<float>(x, 3)); }, {"[4, 3]", "[4, 2]"});
  expect_error([&] { sampler.integrate(View<float>(x.data(), 6, 2, Device::cuda)); }, {"device cuda"});
  expect_error([&] { sampler.sample(View<float>(x, 2), {.paths = few}); }, {"room for 5 reports is given for 6 paths"});
  expect_error([&] { sampler.log_density(View<const float>(x, 2), View<float>(density.data(), 5)); },
               {"[5, 1]", "[6, 1]"});
  expect_error([&] { sampler.log_density(View<const float>(x, 2), View<float>(density), {.probes = -1}); }, {"probes"});
  expect_error([&] { sampler.log_density(View<const float>(x, 2), View<float>(x.data(), 6)); }, {"share memory"});
  expect_error([&] { sampler.sample(View<float>(x, 2), {.condition = View<const float>(x, 2)}); }, {"takes none"});
  expect_error([&] { late.sample(View<float>(x, 2)); }, {"start at 0.5", "horizon 1"});
  expect_error([&] { late.log_density(View<const float>(x, 2), View<float>(density)); }, {"start at 0.5"});
  for (const float v : x) EXPECT_EQ(v, 0.0f);  // nothing was written
  EXPECT_EQ(late.integrate(View<float>(x, 2)).failed, 0);
  const Architecture kinked{.hidden = {5}, .activation = Activation::relu};
  const InFloat relu(cpu, {ForwardSde::ou(), Mlp::initialise(kinked, 1)}, 10, 0.1);
  expect_error([&] { relu.log_density(View<const float>(x, 2), View<float>(density)); }, {"the log-density", "relu"});
  InFloat gone(cpu, model, 1, 0.5);
  const InFloat taken = std::move(gone);
  expect_error([&] { gone.sample(View<float>(x, 2)); }, {"AdaptiveSampler that was moved from"});  // NOLINT: on purpose
}

}  // namespace
}  // namespace fokker
