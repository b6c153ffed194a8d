// The energy by paths: against closed forms and finite volumes, within standard errors that are those of the draws.
#include <gmock/gmock.h>

#include <cmath>

#include "energy_checks.hpp"
#include "reverse_sde_reference.hpp"

namespace fokker {
namespace {

using testing::context;
using testing::divergence_of;
using testing::expect_within;
using testing::GaussianReverse;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kEnd;
using testing::LineReference;
using ::testing::Not;
using testing::rough_well;
using testing::short_ou;

// Errors in e_t of Gaussians are random only through the samples and the paths; the steps of Euler–Maruyama on 1000
// times move the law by a few tenths of a per cent, below a standard error.
TEST(EnergyByPaths, OfGaussiansInThreeDimensions) {
  const GaussianReverse axes[] = {{0.7, 0.3, 1}, {-0.2, 0.8, 1}, {0, 0.4, 1}};
  const Model model{short_ou(1), GaussianMixture(3, {1}, {0.7, -0.2, 0}, {0.3, 0, 0, 0, 0.8, 0, 0, 0, 0.4})};
  const EnergyIdentity measured =
      energy_identity(context(), model, TimeGrid::geometric(1, kEnd, 1000),
                      {.samples = 512, .paths = 32, .path_steps = 2, .times = 41, .seed = 7});
  EXPECT_EQ(measured.energy.method, EnergyMethod::paths);
  EXPECT_TRUE(measured.energy.mass.empty());
  double kl_end = 0, kl_prior = 0, dissipation = 0;
  for (const GaussianReverse& axis : axes) {
    kl_end += divergence_of(axis.reverse(kEnd), axis.exact(kEnd));
    kl_prior += divergence_of({0, 0.5}, axis.exact(1));
    dissipation += axis.dissipation(kEnd);
  }
  expect_within("dissipation", measured.energy.dissipation, dissipation, 0.05 * dissipation);
  expect_within("KL at the end", measured.kl_end, kl_end, 0.05);
  expect_within("KL of the prior", measured.kl_prior, kl_prior, 0.05);
  expect_within("left", measured.left, kl_prior, 0.05);
  expect_within("right", measured.right, kl_prior, 0.05);
  expect_within("difference", measured.difference, 0, 0.05);
  EXPECT_NEAR(measured.residual_work.value, 0, 1e-9);
  for (std::size_t k = 0; k < measured.energy.times.size(); k += 8) {
    double expected = 0;
    for (const GaussianReverse& axis : axes) expected += axis.energy(measured.energy.times[k]);
    expect_within("e_t", measured.energy.energy[k], expected, 0.2 * expected);
  }
}

// Two paths a half: the variance of a derivative is several times its square, which a square would add to e_t.
TEST(EnergyByPaths, NoiseOfDerivativesDoesNotAddToTheEnergy) {
  const GaussianReverse reference{0, 0.4, 1};
  const Model model{short_ou(1), GaussianMixture::isotropic(1, {1}, {0.0}, {0.4})};
  const Energy measured = reverse_sde_energy(
      context(), model, TimeGrid::geometric(1, kEnd, 400),
      {.method = EnergyMethod::paths, .samples = 8192, .paths = 4, .path_steps = 2, .times = 41, .seed = 5});
  const double dissipation = reference.dissipation(kEnd);
  expect_within("dissipation", measured.dissipation, dissipation, 0.1 * dissipation);
}

TEST(EnergyByPaths, OfANetworkAgreesWithTheLawItself) {
  const LineReference reference(rough_well(), 1, kEnd, 2000, 800);
  for (const std::int64_t d : {1, 3}) {
    SCOPED_TRACE(d);
    const double scale = double(d);
    const EnergyIdentity measured = energy_identity(
        context(), rough_well().model(d, 1, 1e-3), TimeGrid::geometric(1, kEnd, 640),
        {.method = EnergyMethod::paths, .samples = 256, .paths = 32, .path_steps = 24, .times = 33, .seed = 11});
    expect_within("dissipation", measured.energy.dissipation, scale * reference.dissipation(), 0.02 * scale);
    expect_within("KL at the end", measured.kl_end, scale * reference.kl_end(), 0.02 * scale);
    expect_within("KL of the prior", measured.kl_prior, scale * reference.kl_prior(), 0.05 * scale);
    expect_within("work", measured.residual_work, scale * (reference.work() - reference.work_of_q()), 0.05 * scale);
    expect_within("difference", measured.difference, 0, 0.06 * scale);
    expect_within("balance", measured.energy.difference, 0, 0.1 * scale);
  }
}

// The spread over seeds is what the jackknife says. From n seeds it is known to 1/√(2 n), and so is the root mean square
// of the errors of 16 batches, to 1/√(30 n).
TEST(EnergyByPaths, StandardErrorsAreTheSpreadOverSeeds) {
  const Model model{short_ou(1), GaussianMixture(3, {1}, {0.7, -0.2, 0}, {0.3, 0, 0, 0, 0.8, 0, 0, 0, 0.4})};
  const int seeds = 64;
  std::vector<EnergyIdentity> measured;
  for (int seed = 0; seed < seeds; ++seed) {
    measured.push_back(energy_identity(
        context(), model, TimeGrid::geometric(1, kEnd, 40),
        {.samples = 64, .paths = 16, .path_steps = 2, .times = 9, .seed = static_cast<std::uint64_t>(seed)}));
  }
  const auto expect_spread = [&](const char* what, auto of) {
    double mean = 0, square = 0, reported = 0;
    for (const EnergyIdentity& m : measured) mean += of(m).value / seeds;
    for (const EnergyIdentity& m : measured) {
      square += std::pow(of(m).value - mean, 2) / (seeds - 1);
      reported += std::pow(of(m).standard_error, 2) / seeds;
    }
    const double slack = 4 * std::sqrt(1 / (2.0 * seeds) + 1 / (30.0 * seeds));
    EXPECT_NEAR(std::sqrt(square / reported), 1, slack) << what;
  };
  expect_spread("dissipation", [](const EnergyIdentity& m) { return m.energy.dissipation; });
  expect_spread("balance, left", [](const EnergyIdentity& m) { return m.energy.left; });
  expect_spread("balance, right", [](const EnergyIdentity& m) { return m.energy.right; });
  expect_spread("balance, difference", [](const EnergyIdentity& m) { return m.energy.difference; });
  expect_spread("KL at the end", [](const EnergyIdentity& m) { return m.kl_end; });
  expect_spread("KL of the prior", [](const EnergyIdentity& m) { return m.kl_prior; });
  expect_spread("difference", [](const EnergyIdentity& m) { return m.difference; });
  for (const std::size_t k : {0, 4, 8}) {
    expect_spread("e_t", [&](const EnergyIdentity& m) { return m.energy.energy[k]; });
  }
}

// Few steps of the paths, or few times, leave an error that is seen, and less of it the more there are.
TEST(EnergyByPaths, StepErrorsAreThoseOfThePathsAndOfTheTimes) {
  const LineReference reference(rough_well(), 1, kEnd, 2000, 800);
  const auto measure = [&](int path_steps, int times) {
    return energy_identity(context(), rough_well().model(1, 1, 1e-3), TimeGrid::geometric(1, kEnd, 640),
                           {.method = EnergyMethod::paths,
                            .samples = 512,
                            .paths = 32,
                            .path_steps = path_steps,
                            .times = times,
                            .seed = 11});
  };
  const EnergyIdentity few_steps = measure(4, 33), few_times = measure(24, 9), many = measure(24, 33);
  for (const EnergyIdentity* measured : {&few_steps, &few_times, &many}) {
    const auto expect_covered = [](const char* what, const Estimate& estimate, double expected) {
      EXPECT_LE(std::abs(estimate.value - expected), 5 * estimate.standard_error + 2 * estimate.step_error) << what;
    };
    expect_covered("KL at the end", measured->kl_end, reference.kl_end());
    expect_covered("dissipation", measured->energy.dissipation, reference.dissipation());
    expect_covered("work", measured->residual_work, reference.work() - reference.work_of_q());
    expect_covered("balance, left", measured->energy.left, reference.log_u_end() + reference.dissipation());
    expect_covered("balance, right", measured->energy.right, reference.log_u_prior() + reference.work());
  }
  // The end has no part in the rule over times; the work of p none in the paths.
  EXPECT_GT(few_steps.kl_end.step_error, 4 * many.kl_end.step_error);
  EXPECT_GT(few_times.energy.right.step_error, 4 * many.energy.right.step_error);
  EXPECT_GT(many.kl_end.step_error, 0);
  EXPECT_THAT(many.energy.warnings, IsEmpty());
}

// Eight steps of Euler and Maruyama: samples of another law than the one that u belongs to.
TEST(EnergyByPaths, WarnsWhereTheSidesDifferByMoreThanTheirErrors) {
  const Energy energy = reverse_sde_energy(
      context(), rough_well().model(1, 1, 1e-3), TimeGrid::geometric(1, kEnd, 8),
      {.method = EnergyMethod::paths, .samples = 512, .paths = 32, .path_steps = 24, .times = 9, .seed = 11});
  ASSERT_FALSE(energy.warnings.empty());
  EXPECT_THAT(energy.warnings.back(), HasSubstr("the two sides of the balance differ by"));
}

TEST(EnergyByPaths, WarnsOfHeavyTailsAndOfFewEffectiveSamples) {
  // As HeavyTailsAreToldFromLightOnes in sde_density_test.
  const auto warnings = [&](double horizon, int times, std::int64_t samples, std::int64_t paths) {
    std::string all;
    const Model model{short_ou(horizon), GaussianMixture::isotropic(1, {1}, {0.0}, {0.01})};
    for (const std::string& warning :
         energy_identity(
             context(), model, TimeGrid::geometric(horizon, 2e-3, 100),
             {.method = EnergyMethod::paths, .samples = samples, .paths = paths, .path_steps = 2, .times = times})
             .energy.warnings) {
      all += warning + "\n";
    }
    return all;
  };
  for (const auto& [samples, paths] : {std::pair(64, 512), std::pair(128, 32)}) {  // the latter by default
    EXPECT_THAT(warnings(0.1, 5, samples, paths), HasSubstr("the largest weights of the paths fall off so slowly"));
    EXPECT_THAT(warnings(3, 17, samples, paths), Not(HasSubstr("fall off so slowly")));
  }
  EXPECT_THAT(warnings(3, 17, 64, 512), IsEmpty());
}

}  // namespace
}  // namespace fokker
