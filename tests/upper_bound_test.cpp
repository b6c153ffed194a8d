// The bound for Gaussians, where L, e_t and the distance that is bounded are known, and L of networks by its formula.
#include <gmock/gmock.h>

#include <cmath>

#include "compare.hpp"
#include "fokker/diagnostics.hpp"
#include "reverse_sde_reference.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::GaussianReverse;
using ::testing::HasSubstr;
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
  const Model model{{.horizon = 1, .t_min = 1e-3}, GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})};
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
  const Model gaussian{{.horizon = 1, .t_min = 1e-3},
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
  // No energy, no gap.
  Energy none = energy;
  for (Estimate& e : none.energy) e.value = 0;
  const UpperBound zero = gap_upper_bound(context(), sharp.model(1, 1, 1e-3), none, {.samples = 19});
  EXPECT_EQ(std::exp(zero.log_bound_box), 0);
  EXPECT_FALSE(zero.vacuous_box());
}

TEST(UpperBound, Refusals) {
  const Energy energy = exact_energy({0.7, 0.3, 1}, 4);
  const Model model = testing::rough_well().model(2, 1, 1e-3);
  const auto refused = [&](const Energy& given, const UpperBoundOptions& options) {
    return message_of([&] { gap_upper_bound(context(), model, given, options); });
  };
  EXPECT_THAT(refused(energy, {.samples = 0}), HasSubstr("0, 4000 and 3.5 were given"));
  EXPECT_THAT(refused(energy, {.box_points = 0}), HasSubstr("2000, 0 and 3.5 were given"));
  EXPECT_THAT(refused(energy, {.box = -1}), HasSubstr("2000, 4000 and -1 were given"));
  EXPECT_THAT(refused({}, {}), HasSubstr("0 energies at 0 times were given"));
  std::vector<double> covariance(65 * 65, 0.0);
  for (int i = 0; i < 65; ++i) covariance[i * 66] = 1;
  const Model wide{ForwardSde{}, GaussianMixture(65, {1}, std::vector<double>(65, 0.0), covariance)};
  EXPECT_THAT(message_of([&] { gap_upper_bound(context(), wide, energy); }), HasSubstr("in dimension 65"));
}

}  // namespace
}  // namespace fokker
