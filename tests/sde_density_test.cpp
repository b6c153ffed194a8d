// Densities of the reverse SDE where they are known. Errors are held to five standard errors each and their spread to
// one, so that the errors reported are neither too small nor too large.
#include "fokker/diagnostics/sde_density.hpp"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "compare.hpp"
#include "diagnostics/forward_paths.hpp"
#include "reverse_sde_reference.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::GaussianReverse;
using ::testing::HasSubstr;
using testing::LineReference;
using testing::message_of;
using testing::Normal;

Context context() { return Context({.backend = BackendKind::cpu, .threads = 1}); }

ForwardSde short_ou(double horizon) { return ForwardSde::ou({.horizon = horizon, .t_min = 1e-3}); }

std::vector<double> spread_points(std::int64_t n, double low, double high) {
  std::vector<double> x;
  for (std::int64_t i = 0; i < n; ++i) x.push_back(low + (high - low) * double(i) / double(n - 1));
  return x;
}

// Every |z| ≤ 5 and their rms near 1: within four of its standard deviations, 1/√(2 n).
void expect_honest(const SdeDensity& density, const std::vector<double>& expected) {
  double square = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double z = (density.log_density[i] - expected[i]) / density.standard_error[i];
    EXPECT_LE(std::abs(z), 5) << i << ": " << density.log_density[i] << " where " << expected[i] << " is expected";
    square += z * z / double(expected.size());
  }
  const double slack = 4 / std::sqrt(2 * double(expected.size()));
  EXPECT_GT(std::sqrt(square), 1 - slack);
  EXPECT_LT(std::sqrt(square), 1 + slack);
}

// At a short horizon the prior is not the law that the potential has there.
TEST(SdeDensity, OfGaussiansWithTheWrongPrior) {
  const GaussianReverse reference{0.7, 0.3, 1};
  const Model model{short_ou(1), GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})};
  const std::vector<double> x = spread_points(99, -0.8, 2);
  for (const double t : {0.0, 0.05, 0.6}) {
    const SdeDensity density = sde_log_density(context(), model, t, View<const double>(x), {.paths = 512, .seed = 4});
    std::vector<double> expected;
    for (const double at : x) expected.push_back(reference.reverse(t).log_density(at));
    expect_honest(density, expected);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_LT(density.standard_error[i], 0.08);
      EXPECT_LT(density.step_error[i], 1e-12);  // R = 0: what is left is rounding
      EXPECT_GT(density.effective_paths[i], 100);
      EXPECT_LE(density.effective_paths[i], 512 * (1 + 1e-12));
    }
  }
}

TEST(SdeDensity, OfGaussiansForEverySde) {
  for (ForwardSde sde : testing::all_sdes()) {
    if (sde.kind() == SdeKind::vp_linear || sde.kind() == SdeKind::subvp) {
      sde = ForwardSde::parse(sde.name(), R"({"T": 0.3})");  // where the prior is wrong
    }
    SCOPED_TRACE(sde.name());
    const testing::GaussianReverseOf reference{sde, 0.7, 0.3};
    const Model model{sde, GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})};
    const std::vector<double> x = spread_points(99, -0.8, 2);
    std::vector<double> expected;
    for (const double at : x) expected.push_back(reference.reverse(0.05).log_density(at));
    // Where the prior is right to rounding no path differs from another.
    const SdeDensity density =
        sde_log_density(context(), model, 0.05, View<const double>(x), {.paths = 256, .seed = 4});
    double largest = 0;
    for (const double error : density.standard_error) largest = std::max(largest, error);
    if (largest > 1e-6) {
      expect_honest(density, expected);
    } else {
      EXPECT_TRUE(testing::agrees(density.log_density, expected, {.absolute = 1e-6}));
    }
  }
}

TEST(SdeDensity, OfGaussiansInThreeDimensions) {
  const double means[] = {0.7, -0.2, 0}, variances[] = {0.3, 0.8, 0.4};
  const Model model{short_ou(1), GaussianMixture(3, {1}, {0.7, -0.2, 0}, {0.3, 0, 0, 0, 0.8, 0, 0, 0, 0.4})};
  std::vector<double> x, expected;
  for (int i = 0; i < 49; ++i) {
    double sum = 0;
    for (int a = 0; a < 3; ++a) {
      x.push_back(means[a] + 0.8 * std::sin(1.3 * i + 2 * a));
      sum += GaussianReverse{means[a], variances[a], 1}.reverse(0.1).log_density(x.back());
    }
    expected.push_back(sum);
  }
  expect_honest(sde_log_density(context(), model, 0.1, View<const double>(x, 3), {.paths = 512, .seed = 2}), expected);
}

// p^S_t(x) = q_t(x) ∫ N(y; m x, v) π(y)/q_T(y) dy, the integral on a grid.
TEST(SdeDensity, OfAMixtureWithTheWrongPrior) {
  const double horizon = 0.8, t = 0.1, weights[] = {0.4, 0.6}, means[] = {-1, 0.9}, variances[] = {0.05, 0.2};
  const auto exact = [&](double time, double x) {
    double p = 0;
    for (int k = 0; k < 2; ++k) {
      p += weights[k] * std::exp(GaussianReverse{means[k], variances[k], horizon}.exact(time).log_density(x));
    }
    return p;
  };
  const std::vector<double> x = spread_points(49, -1.6, 1.8);
  std::vector<double> expected;
  const double m = std::exp(t - horizon), h = 1e-3;
  for (const double at : x) {
    double integral = 0;
    for (int i = -6000; i <= 6000; ++i) {
      const double y = i * h;
      integral += h * std::exp(Normal{m * at, 0.5 * (1 - m * m)}.log_density(y) + Normal{0, 0.5}.log_density(y)) /
                  exact(horizon, y);
    }
    expected.push_back(std::log(exact(t, at) * integral));
  }
  const Model model{short_ou(horizon), GaussianMixture::isotropic(1, {0.4, 0.6}, {-1, 0.9}, {0.05, 0.2})};
  expect_honest(sde_log_density(context(), model, t, View<const double>(x), {.paths = 1024, .seed = 8}), expected);
}

// R is of order 1 here, and the reference solves the Fokker–Planck equation of the reverse SDE.
TEST(SdeDensity, OfNetworksIsTheSolutionOfTheFokkerPlanckEquation) {
  const double horizon = 1, t = 0.01;
  const LineReference fine(testing::rough_well(), horizon, t, 2000, 800),
      coarse(testing::rough_well(), horizon, t, 1000, 400);
  const std::vector<double> x = spread_points(19, -1, 1);
  const auto density = [&](int steps) {
    return sde_log_density(context(), testing::rough_well().model(1, horizon, 1e-3), t, View<const double>(x),
                           {.paths = 8000, .steps = steps, .seed = 3});
  };
  const SdeDensity many = density(80), few = density(8);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = fine.log_density(x[i]);
    EXPECT_NEAR(many.log_density[i], expected,
                5 * many.standard_error[i] + 2 * many.step_error[i] + std::abs(expected - coarse.log_density(x[i])));
    EXPECT_LT(many.standard_error[i], 0.02);
    // The step error is seen and falls with the steps, by a hundred in theory.
    EXPECT_LT(many.step_error[i], 1e-3);
    EXPECT_LT(few.step_error[i], 0.2);
  }
  double worst_few = 0, worst_many = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    worst_few = std::max(worst_few, few.step_error[i]), worst_many = std::max(worst_many, many.step_error[i]);
  }
  EXPECT_GT(worst_few, 10 * worst_many);

  // In the plane the law is the product.
  const std::vector<double> pair{-0.4, 0.3, 0.8, -0.9};
  const SdeDensity planar = sde_log_density(context(), testing::rough_well().model(2, horizon, 1e-3), t,
                                            View<const double>(pair, 2), {.paths = 8000, .steps = 80, .seed = 3});
  for (int i = 0; i < 2; ++i) {
    EXPECT_NEAR(planar.log_density[i], fine.log_density(pair[2 * i]) + fine.log_density(pair[2 * i + 1]),
                5 * planar.standard_error[i] + 2 * planar.step_error[i] + 0.003);
  }
}

TEST(SdeDensity, AtTheHorizonIsThePrior) {
  const std::vector<double> x{0.3, -0.4, 1.1, 0};
  const SdeDensity density =
      sde_log_density(context(), testing::rough_well().model(2, 1, 1e-3), 1, View<const double>(x, 2), {.paths = 19});
  for (int i = 0; i < 2; ++i) {
    const Normal prior{0, 0.5};
    EXPECT_NEAR(density.log_density[i], prior.log_density(x[2 * i]) + prior.log_density(x[2 * i + 1]), 1e-13);
    EXPECT_EQ(density.standard_error[i], 0);
  }
}

TEST(SdeDensity, PathsBelongToTheSeedAndThePoint) {
  const Model model = testing::rough_well().model(1, 1, 1e-3);
  const std::vector<double> same(5, 0.4);
  const auto density = [&](std::int64_t n, bool common, std::uint64_t seed, int threads) {
    return sde_log_density(Context({.backend = BackendKind::cpu, .threads = threads}), model, 0.1, {same.data(), n, 1},
                           {.paths = 99, .steps = 8, .seed = seed, .common_paths = common})
        .log_density;
  };
  const auto common = density(5, true, 1, 1), own = density(5, false, 1, 1);
  for (int i = 1; i < 5; ++i) {
    EXPECT_EQ(common[i], common[0]);
    EXPECT_NE(own[i], own[0]);
  }
  EXPECT_EQ(own[0], common[0]);
  EXPECT_EQ(density(3, false, 1, 2), std::vector<double>(own.begin(), own.begin() + 3));
  EXPECT_NE(density(1, true, 2, 1)[0], common[0]);
  EXPECT_TRUE(density(0, true, 2, 1).empty());
}

// More paths than are run at once.
TEST(SdeDensity, ManyPathsAreRunInParts) {
  const GaussianReverse reference{0.7, 0.3, 1};
  const Model model{short_ou(1), GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})};
  const std::vector<double> x{0.5, 1};
  double last = 0;
  const SdeDensity density = sde_log_density(context(), model, 0.1, View<const double>(x),
                                             {.paths = 70001, .steps = 2, .progress = [&](double done) {
                                                EXPECT_GE(done, last);
                                                last = done;
                                              }});
  EXPECT_NEAR(last, 1, 1e-12);
  for (int i = 0; i < 2; ++i) {
    EXPECT_NEAR(density.log_density[i], reference.reverse(0.1).log_density(x[i]), 5 * density.standard_error[i]);
    EXPECT_LT(density.standard_error[i], 0.01);
  }
}

// Narrow data at a horizon of 0.1: π/q_T grows like e^{4.1 y²} where y is normal with the variance 0.09, so the tail of
// the weights has the index 11/8.1 = 1.4, and no variance.
TEST(SdeDensity, HeavyTailsAreToldFromLightOnes) {
  const std::vector<double> x = spread_points(19, -0.3, 0.3);
  const auto heavy = [&](double horizon) {
    return sde_log_density(context(), {short_ou(horizon), GaussianMixture::isotropic(1, {1}, {0.0}, {0.01})}, 1e-3,
                           View<const double>(x), {.paths = 4096, .steps = 2, .seed = 5})
        .heavy_tailed;
  };
  EXPECT_EQ(heavy(0.1), 19);
  EXPECT_EQ(heavy(2), 0);
}

// Shares of 200 draws in which a law is called heavy-tailed. A Pareto law has no variance for an index of 2 or less; a
// log-normal one always has, but its largest weights fall off slowly where σ is large.
TEST(TailIndex, FlagsLawsByTheirTail) {
  struct Law {
    const char* name;
    std::function<double(std::mt19937_64&)> log_weight;
    bool heavy;
  };
  const auto pareto = [](double index) {
    return [index](std::mt19937_64& random) { return std::exponential_distribution<double>(index)(random); };
  };
  const auto log_normal = [](double deviation) {
    return [deviation](std::mt19937_64& random) { return std::normal_distribution<double>(0, deviation)(random); };
  };
  const Law laws[] = {{"Pareto, 1.2", pareto(1.2), true},
                      {"Pareto, 1.4", pareto(1.4), true},
                      {"Pareto, 3", pareto(3), false},
                      {"Pareto, 5", pareto(5), false},
                      {"log-normal, 0.2", log_normal(0.2), false},
                      {"log-normal, 0.8", log_normal(0.8), false},
                      {"log-normal, 2", log_normal(2), true}};
  std::mt19937_64 random(3);
  for (const Law& law : laws) {
    // 128 points of 32 paths each, as the energy has by default, and one point of 1024, as the density has. Scales of
    // the points differ, as densities do.
    for (const auto& [points, paths] : {std::pair(128, 32), std::pair(1, 1024)}) {
      int flagged = 0;
      for (int draw = 0; draw < 200; ++draw) {
        std::vector<double> pool, weights(paths);
        for (int i = 0; i < points; ++i) {
          for (double& w : weights) w = law.log_weight(random) - 0.3 * i;
          append_over_median(weights.data(), paths, pool);
        }
        flagged += tail_index(pool) <= kHeavyTail;
      }
      if (law.heavy) {
        EXPECT_GE(flagged, 190) << law.name << ", " << points << " points";
      } else {
        EXPECT_LE(flagged, 4) << law.name << ", " << points << " points";
      }
    }
  }
  // The index itself, where it is known: within five of its standard errors, one over the root of 3 √n.
  std::vector<double> weights(100000);
  for (double& w : weights) w = laws[2].log_weight(random);
  EXPECT_NEAR(tail_index(weights), 3, 5 * 3 / std::sqrt(3 * std::sqrt(1e5)));
  weights[7] = std::nan("");
  EXPECT_TRUE(std::isnan(tail_index(weights)));
  EXPECT_EQ(tail_index({1, 1, 1, 1, 1, 1}), std::numeric_limits<double>::infinity());
}

TEST(SdeDensity, Refusals) {
  const Model model = testing::rough_well().model(2, 1, 1e-3);
  std::vector<double> x{0, 1, 2, 3};
  const auto refused = [&](double t, View<const double> points, const SdeDensityOptions& options = {}) {
    return message_of([&] { sde_log_density(context(), model, t, points, options); });
  };
  EXPECT_THAT(refused(1.1, View<const double>(x, 2)), HasSubstr("at time 1.1 was asked for; allowed: 0 to 1"));
  EXPECT_THAT(refused(std::nan(""), View<const double>(x, 2)), HasSubstr("allowed: 0 to 1"));
  EXPECT_THAT(refused(0.5, View<const double>(x)), HasSubstr("x has shape [4, 1]"));
  EXPECT_THAT(refused(0.5, View<const double>(x, 2), {.paths = 1}), HasSubstr("is 1; allowed: 2 to 1000000000"));
  EXPECT_THAT(refused(0.5, View<const double>(x, 2), {.steps = 1}), HasSubstr("is 1; allowed: 2 to 1000000"));
  x[3] = std::numeric_limits<double>::infinity();
  EXPECT_THAT(refused(0.5, View<const double>(x, 2)), HasSubstr("point 1 has the coordinate inf"));
  EXPECT_THAT(refused(0.5, View<const double>(x, 2), {.first_index = 5}), HasSubstr("point 6 has the coordinate inf"));
  Architecture vector_net;
  vector_net.output = Output::score;
  EXPECT_THAT(message_of([&] {
                sde_log_density(context(), {ForwardSde{}, Mlp::initialise(vector_net, 1)}, 1, View<const double>(x, 2));
              }),
              HasSubstr("needs a potential"));
}

}  // namespace
}  // namespace fokker
