// The bound for Gaussians, where L, e_t and the distance that is bounded are known, and L of networks by its formula.
#include "fokker/diagnostics/upper_bound.hpp"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "compare.hpp"
#include "reverse_sde_reference.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::ElementsAre;
using testing::GaussianReverse;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::message_of;
using testing::Normal;

constexpr double kEnd = 0.01;

Context context() { return Context({.backend = BackendKind::cpu, .threads = 1}); }

Energy exact_energy(const GaussianReverse& reference, int steps) {
  Energy energy;
  energy.times = TimeGrid::geometric(reference.horizon, kEnd, steps).times();
  for (const double t : energy.times) energy.energy.push_back({reference.energy(t), 0});
  return energy;
}

TEST(UpperBound, OfGaussiansHoldsAndIsTheirs) {
  const GaussianReverse reference{0.7, 0.3, 1};
  const Model model{ForwardSde::ou({.horizon = 1, .t_min = 1e-3}), GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})};
  // ½ ∫ exp(∫ L) √e dt, L = 1 − ½/v, by the midpoint rule in log t on many pieces.
  double exponent = 0, expected = 0;
  const int pieces = 100000;
  const double step = std::log(1 / kEnd) / pieces;
  for (int i = 0; i < pieces; ++i) {
    const double t = kEnd * std::exp((i + 0.5) * step), rate = (1 - 0.5 / reference.exact(t).variance) * t * step;
    expected += 0.5 * std::exp(exponent + 0.5 * rate) * std::sqrt(reference.energy(t)) * t * step;
    exponent += rate;
  }
  const auto bound = [&](int steps) {
    return gap_upper_bound(context(), model, exact_energy(reference, steps), {.samples = 19, .box_points = 19});
  };
  const UpperBound coarse = bound(30), fine = bound(60), interpolated = bound(200);
  for (std::size_t k = 0; k < fine.times.size(); ++k) {
    // The Hessian of a Gaussian is the same everywhere.
    const double expected_rate = 1 - 0.5 / reference.exact(fine.times[k]).variance;
    EXPECT_NEAR(fine.over_samples[k], expected_rate, 1e-9);
    EXPECT_NEAR(fine.over_box[k], expected_rate, 1e-9);
  }
  const auto value = [](const UpperBound& b) { return std::exp(b.log_bound_samples); };
  EXPECT_LE(std::abs(value(fine) - expected), std::abs(value(fine) - value(coarse)));
  EXPECT_LE(std::abs(value(fine) - value(coarse)), 0.01 * expected);
  EXPECT_LE(std::abs(value(interpolated) - expected), std::abs(value(fine) - value(coarse)));
  EXPECT_NEAR(fine.log_bound_box, fine.log_bound_samples, 1e-9);
  EXPECT_EQ(fine.diameter, 7);
  EXPECT_FALSE(fine.vacuous_samples());
  EXPECT_FALSE(fine.vacuous_box());

  // The flow of a Gaussian is affine, so both laws and their distance are known.
  const Normal sde = reference.reverse(kEnd), last = reference.exact(1), first = reference.exact(kEnd);
  const double stretch = std::sqrt(first.variance / last.variance);
  const Normal ode{first.mean + stretch * (0 - last.mean), stretch * stretch * 0.5};
  const double distance = std::hypot(ode.mean - sde.mean, std::sqrt(ode.variance) - std::sqrt(sde.variance));
  EXPECT_LT(distance, expected);
  EXPECT_GT(distance, 0.1 * expected);
}

TEST(UpperBound, TheLargestEigenvalueIsLookedForOverSamplesAndBox) {
  // Axis-parallel Gaussian: the wider axis decides.
  const Model gaussian{ForwardSde::ou({.horizon = 1, .t_min = 1e-3}),
                       GaussianMixture(3, {1}, {0.7, -0.2, 0}, {0.3, 0, 0, 0, 0.8, 0, 0, 0, 0.4})};
  const Energy energy = exact_energy({0.7, 0.3, 1}, 10);
  const UpperBound of_gaussian = gap_upper_bound(context(), gaussian, energy, {.samples = 19, .box_points = 19});
  for (std::size_t k = 0; k < energy.times.size(); ++k) {
    const double expected = 1 - 0.5 / GaussianReverse{-0.2, 0.8, 1}.exact(energy.times[k]).variance;
    EXPECT_NEAR(of_gaussian.over_samples[k], expected, 1e-9);
  }
  EXPECT_NEAR(of_gaussian.diameter, 7 * std::sqrt(3.0), 1e-12);

  // Σ_i φ(x_i): the largest second derivative of φ. 4000 points of a plane come close to it from below.
  const testing::SoftplusSum potential = testing::rough_well();
  const UpperBound of_network = gap_upper_bound(context(), potential.model(2, 1, 1e-3), energy, {.samples = 500});
  for (std::size_t k = 0; k < energy.times.size(); ++k) {
    double largest = -1e300;
    for (int i = -3500; i <= 3500; ++i) largest = std::max(largest, potential.at(energy.times[k], 1e-3 * i).second);
    const double expected = 1 + 0.5 * largest;
    EXPECT_LE(of_network.over_box[k], expected + 1e-6);
    EXPECT_GE(of_network.over_box[k], expected - 1e-2);
    EXPECT_LE(of_network.over_samples[k], expected + 1e-6);
  }
}

TEST(UpperBound, SaysWhereItIsVacuous) {
  // A ridge: second derivatives of 200 between two wells.
  const testing::SoftplusSum sharp{{-8, -8, 8}, {0, 0, 0}, {1, -1, 10}, {0, 0, 0}};
  const Energy energy = exact_energy({0.7, 0.3, 1}, 10);
  const UpperBound bound = gap_upper_bound(context(), sharp.model(1, 1, 1e-3), energy, {.samples = 500});
  EXPECT_TRUE(bound.vacuous_box());
  EXPECT_TRUE(bound.vacuous_samples());
  EXPECT_GT(bound.log_bound_box, 40);
  EXPECT_THAT(bound.warnings, IsEmpty());
  EXPECT_EQ(bound.points_samples, 500 + 10 * 2 * 500);
  EXPECT_EQ(bound.points_box, 11 * 4000);
}

// Only an energy that is known to be 0 bounds the gap by 0; one that is lost or all noise bounds nothing.
TEST(UpperBound, WhatIsNotKnownOfTheEnergyIsNoBound) {
  const GaussianReverse reference{0.7, 0.3, 1};
  const Model model{ForwardSde::ou({.horizon = 1, .t_min = 1e-3}), GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})};
  const auto bound = [&](auto change) {
    Energy energy = exact_energy(reference, 10);
    for (std::size_t k = 0; k < energy.energy.size(); ++k) change(k, energy.energy[k].value);
    return gap_upper_bound(context(), model, energy, {.samples = 19, .box_points = 19});
  };
  const UpperBound none = bound([](std::size_t, double& e) { e = 0; });
  EXPECT_EQ(std::exp(none.log_bound_box), 0);
  EXPECT_FALSE(none.vacuous_box());
  EXPECT_THAT(none.warnings, IsEmpty());

  for (const double lost : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (const std::size_t place : {0, 5, 10}) {
      const UpperBound unknown = bound([&](std::size_t k, double& e) { e = k == place ? lost : e; });
      EXPECT_TRUE(std::isnan(unknown.log_bound_samples));
      EXPECT_TRUE(std::isnan(unknown.log_bound_box));
      EXPECT_TRUE(unknown.vacuous_samples());
      EXPECT_TRUE(unknown.vacuous_box());
      EXPECT_THAT(unknown.warnings, ElementsAre(HasSubstr("e_t is not finite at 1 of 11 times, so there is no bound")));
    }
  }

  const UpperBound noise = bound([](std::size_t k, double& e) { e = k % 2 == 0 ? -e : 0; });
  EXPECT_TRUE(noise.vacuous_samples());
  EXPECT_TRUE(noise.vacuous_box());
  EXPECT_THAT(noise.warnings, ElementsAre(HasSubstr("negative by noise at 6 of 11 times and positive at none")));

  const UpperBound clipped = bound([](std::size_t k, double& e) { e = k == 3 ? -e : e; });
  const UpperBound zero = bound([](std::size_t k, double& e) { e = k == 3 ? 0 : e; });
  EXPECT_EQ(clipped.log_bound_samples, zero.log_bound_samples);
  EXPECT_THAT(clipped.warnings, ElementsAre(HasSubstr("negative by noise at 1 of 11 times and taken as 0 there")));
  EXPECT_THAT(zero.warnings, IsEmpty());
}

// Weights whose products overflow, for x > 0 in double precision and everywhere in single, where the samplers work.
TEST(UpperBound, PointsThatAreNotFiniteAreCounted) {
  Architecture architecture;
  architecture.dimension = 1;
  architecture.hidden.assign(9, 1);
  Mlp endless = Mlp::initialise(architecture, 1);
  for (double& parameter : endless.parameters) parameter = parameter == 0 ? 0 : 1e36;
  endless.parameters[0] = 0;  // of t
  endless.parameters[architecture.weight_offset(9)] = 1;
  const UpperBound bound = gap_upper_bound(context(), {ForwardSde::ou({.horizon = 1, .t_min = 1e-3}), endless},
                                           exact_energy({0.7, 0.3, 1}, 10), {.samples = 500, .box_points = 400});
  EXPECT_EQ(bound.points_box, 11 * 400);
  EXPECT_GT(bound.left_out_box, 0);
  EXPECT_LT(bound.left_out_box, bound.points_box);
  EXPECT_FALSE(std::isnan(bound.over_box[5]));
  EXPECT_GE(bound.left_out_samples, 10 * 2 * 500);
  EXPECT_TRUE(std::isnan(bound.over_samples[5]));
  EXPECT_TRUE(std::isnan(bound.log_bound_samples));
  EXPECT_TRUE(bound.vacuous_samples());
  EXPECT_TRUE(bound.vacuous_box());
  ASSERT_EQ(bound.warnings.size(), 2);
  EXPECT_THAT(bound.warnings[0], HasSubstr("10500 samples at all times together"));
  EXPECT_THAT(bound.warnings[0], HasSubstr("there is no bound over them"));
  EXPECT_THAT(bound.warnings[1], HasSubstr("4400 points of the box at all times together"));
  EXPECT_THAT(bound.warnings[1], HasSubstr("L over the others may be too small"));
}

// L = −a − ½ g²/λ, λ the largest eigenvalue of m² Σ + σ² I; Σ is rotated by 30° from diag(0.9, 0.1), so no entry of a
// Hessian is an eigenvalue. a = m′/m and g² = (σ²)′ − 2 a σ², from m and σ² by differences.
TEST(UpperBound, OfARotatedGaussianForOtherSdes) {
  const double cosine = std::sqrt(0.75), sine = 0.5, wide = 0.9, narrow = 0.1;
  const double cross = (wide - narrow) * cosine * sine;
  const GaussianMixture gaussian(
      2, {1}, {0.7, -0.2},
      {wide * cosine * cosine + narrow * sine * sine, cross, cross, wide * sine * sine + narrow * cosine * cosine});
  for (const ForwardSde& sde : {ForwardSde::vp_linear({.horizon = 0.5}), ForwardSde::subvp({.horizon = 0.5}),
                                ForwardSde::ve({.sigma_min = 0.5, .sigma_max = 5, .horizon = 0.5})}) {
    SCOPED_TRACE(sde.name());
    const auto coefficients = [&](double t) {
      const testing::Kernel at = testing::kernel(sde, t);
      const auto slope = [&](auto of) { return testing::slope(of, testing::Long(t), sde.horizon()); };
      const double a = double(slope([&](testing::Long s) { return testing::kernel(sde, s).mean; }) / at.mean);
      const double g2 = double(slope([&](testing::Long s) { return testing::kernel(sde, s).variance; })) -
                        2 * a * double(at.variance);
      const double rate = -a - 0.5 * g2 / double(at.mean * at.mean * wide + at.variance);
      return std::pair(rate, g2);
    };
    const auto energy_at = [](double t) { return 0.01 * (1 + t); };  // any will do
    double exponent = 0, expected = 0;
    const int pieces = 5000;
    const double step = std::log(sde.horizon() / kEnd) / pieces;
    for (int i = 0; i < pieces; ++i) {
      const double t = kEnd * std::exp((i + 0.5) * step);
      const auto [rate, g2] = coefficients(t);
      expected += 0.5 * std::exp(exponent + 0.5 * rate * t * step) * g2 * std::sqrt(energy_at(t)) * t * step;
      exponent += rate * t * step;
    }
    const auto bound = [&](int steps) {
      Energy energy;
      energy.times = TimeGrid::geometric(sde.horizon(), kEnd, steps).times();
      for (const double t : energy.times) energy.energy.push_back({energy_at(t), 0});
      return gap_upper_bound(context(), {sde, gaussian}, energy, {.samples = 19, .box_points = 19});
    };
    const UpperBound coarse = bound(30), fine = bound(60);
    for (std::size_t k = 1; k + 1 < fine.times.size(); ++k) {  // differences need times on both sides
      const double rate = coefficients(fine.times[k]).first;
      EXPECT_NEAR(fine.over_samples[k], rate, 1e-7 * (1 + std::abs(rate))) << fine.times[k];
      EXPECT_NEAR(fine.over_box[k], rate, 1e-7 * (1 + std::abs(rate))) << fine.times[k];
    }
    for (const auto& value : {&UpperBound::log_bound_samples, &UpperBound::log_bound_box}) {
      const double rough = std::exp(coarse.*value), good = std::exp(fine.*value);
      EXPECT_LE(std::abs(good - expected), std::abs(good - rough)) << rough << " " << good << " " << expected;
      EXPECT_LE(std::abs(good - rough), 0.02 * expected);
    }
  }
}

// Samplers that took a step from one time of the energy to the next would be thrown far out, where the potential is
// straight.
TEST(UpperBound, SamplersTakeStepsBetweenTheTimesOfTheEnergy) {
  const auto at_the_end = [](int steps) {
    const Energy energy = exact_energy({0.7, 0.3, 1}, steps);
    return gap_upper_bound(context(), testing::rough_well().model(1, 1, 1e-3), energy,
                           {.samples = 500, .box_points = 19})
        .over_samples.back();
  };
  EXPECT_NEAR(at_the_end(2), at_the_end(256), 0.05);
}

TEST(UpperBound, Refusals) {
  const Energy energy = exact_energy({0.7, 0.3, 1}, 4);
  const Model model = testing::rough_well().model(2, 1, 1e-3);
  const auto refused = [&](const Energy& given, const UpperBoundOptions& options) {
    return message_of([&] { gap_upper_bound(context(), model, given, options); });
  };
  EXPECT_THAT(refused(energy, {.samples = 0}), HasSubstr("samples for the bound of the gap is 0; allowed: 1 to"));
  EXPECT_THAT(refused(energy, {.box_points = 0}),
              HasSubstr("points of the box for the bound of the gap is 0; allowed: 1 to"));
  EXPECT_THAT(refused(energy, {.box = -1}), HasSubstr("-1 was given"));
  EXPECT_THAT(refused({}, {}), HasSubstr("0 energies at 0 times were given"));
  std::vector<double> covariance(65 * 65, 0.0);
  for (int i = 0; i < 65; ++i) covariance[i * 66] = 1;
  const Model wide{ForwardSde{}, GaussianMixture(65, {1}, std::vector<double>(65, 0.0), covariance)};
  EXPECT_THAT(message_of([&] { gap_upper_bound(context(), wide, energy); }), HasSubstr("in dimension 65"));
}

}  // namespace
}  // namespace fokker
