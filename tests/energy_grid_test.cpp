// The energy on a grid and both sides of its identity where they are known: Gaussians in closed form, networks against
// finite volumes for the law itself. What a refinement changes bounds what is left: errors are of second order, so the
// finer of two results is off by a third of their difference.
#include <gmock/gmock.h>

#include <cmath>

#include "energy_checks.hpp"
#include "reverse_sde_reference.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using testing::context;
using testing::divergence_of;
using testing::expect_converged;
using testing::GaussianReverse;
using ::testing::HasSubstr;
using testing::informative;
using ::testing::IsEmpty;
using testing::kEnd;
using testing::LineReference;
using testing::message_of;
using testing::MixtureReverse;
using ::testing::Not;
using testing::rough_well;
using testing::short_ou;
using testing::SoftplusSum;

TEST(EnergyOnAGrid, OfGaussiansWithTheWrongPrior) {
  const GaussianReverse reference{0.7, 0.3, 1};
  const Model model{short_ou(1), GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})};
  const auto measure = [&](int r) {
    return energy_identity(context(), model, TimeGrid::geometric(1, kEnd, 40 * r), {.nodes = 160 * r});
  };
  const EnergyIdentity coarse = measure(1), fine = measure(2);
  EXPECT_THAT(fine.energy.warnings, IsEmpty());
  EXPECT_EQ(fine.energy.method, EnergyMethod::grid);
  for (std::size_t k = 0; k < coarse.energy.times.size(); ++k) {
    const double t = coarse.energy.times[k];
    EXPECT_EQ(fine.energy.times[2 * k], t);
    expect_converged("e_t", coarse.energy.energy[k].value, fine.energy.energy[2 * k].value, reference.energy(t));
    EXPECT_NEAR(fine.energy.mass[2 * k], 1, 1e-4);
  }
  const double dissipation = reference.dissipation(kEnd);
  const double kl_end = divergence_of(reference.reverse(kEnd), reference.exact(kEnd));
  const double kl_prior = divergence_of({0, 0.5}, reference.exact(1));
  ASSERT_NEAR(kl_end + dissipation, kl_prior, 1e-9);  // R = 0
  expect_converged("dissipation", coarse.energy.dissipation.value, fine.energy.dissipation.value, dissipation);
  expect_converged("KL at the end", coarse.kl_end.value, fine.kl_end.value, kl_end);
  expect_converged("KL of the prior", coarse.kl_prior.value, fine.kl_prior.value, kl_prior);
  expect_converged("left", coarse.left.value, fine.left.value, kl_prior);
  expect_converged("right", coarse.right.value, fine.right.value, kl_prior);
  EXPECT_NEAR(fine.residual_work.value, 0, 1e-9);
  EXPECT_EQ(fine.left.standard_error, 0);
  // Second order: a quarter, or less.
  EXPECT_LT(std::abs(fine.difference.value), 0.3 * std::abs(coarse.difference.value) + 1e-9);
}

TEST(EnergyOnAGrid, OfGaussiansForEverySde) {
  for (ForwardSde sde : testing::all_sdes()) {
    if (sde.kind() == SdeKind::vp_linear || sde.kind() == SdeKind::subvp) {
      sde = ForwardSde::parse(sde.name(), R"({"T": 0.3})");  // where the prior is wrong
    }
    SCOPED_TRACE(sde.name());
    const testing::GaussianReverseOf reference{sde, 0.7, 0.3};
    const Model model{sde, GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})};
    const EnergyIdentity measured =
        energy_identity(context(), model, TimeGrid::geometric(sde.horizon(), 0.02, 60), {.nodes = 240});
    const double kl_end = divergence_of(reference.reverse(0.02), reference.exact(0.02));
    const double kl_prior = divergence_of({0, sde.prior_variance()}, reference.exact(sde.horizon()));
    const auto expect_covered = [](const char* what, const Estimate& estimate, double expected) {
      EXPECT_LE(std::abs(estimate.value - expected), estimate.step_error + 1e-9) << what;
      EXPECT_LE(estimate.step_error, informative(expected)) << what << " is not resolved";
    };
    expect_covered("KL at the end", measured.kl_end, kl_end);
    expect_covered("KL of the prior", measured.kl_prior, kl_prior);
    expect_covered("left", measured.left, kl_prior);
    EXPECT_NEAR(measured.energy.mass.back(), 1, 1e-4);
  }
}

TEST(EnergyOnAGrid, OfAPlanarGaussianIsTheSumOverItsAxes) {
  const GaussianReverse first{0.7, 0.3, 1}, second{-0.4, 0.8, 1};
  const Model model{short_ou(1), GaussianMixture(2, {1}, {0.7, -0.4}, {0.3, 0, 0, 0.8})};
  const auto measure = [&](int r) {
    return energy_identity(context(), model, TimeGrid::geometric(1, kEnd, 20 * r), {.nodes = 40 * r});
  };
  const EnergyIdentity coarse = measure(1), fine = measure(2);
  for (std::size_t k = 0; k < coarse.energy.times.size(); ++k) {
    const double t = coarse.energy.times[k];
    expect_converged("e_t", coarse.energy.energy[k].value, fine.energy.energy[2 * k].value,
                     first.energy(t) + second.energy(t));
  }
  const double kl_prior = divergence_of({0, 0.5}, first.exact(1)) + divergence_of({0, 0.5}, second.exact(1));
  expect_converged("left", coarse.left.value, fine.left.value, kl_prior);
  expect_converged("right", coarse.right.value, fine.right.value, kl_prior);
}

// R is of order 1 and every term of the identity is there. 80 steps: errors fall by four where steps double, which is
// held below, and that of the work of R is the largest beside its value, −1.20e-2, −3.27e-3 and −8.5e-4 after 20, 40
// and 80 steps, or −5.3/N². So N and 2 N steps differ by 4/N², and what is allowed of 0.02 · 0.0083 + 1e-3 takes 59
// steps or more.
TEST(EnergyOnAGrid, OfANetworkOnTheLine) {
  const LineReference reference(rough_well(), 1, kEnd, 2000, 800), rough(rough_well(), 1, kEnd, 1000, 400);
  const auto measure = [&](int r) {
    return energy_identity(context(), rough_well().model(1, 1, 1e-3), TimeGrid::geometric(1, kEnd, 80 * r),
                           {.nodes = 200 * r, .box = 5});
  };
  const EnergyIdentity coarse = measure(1), fine = measure(2);
  EXPECT_THAT(fine.energy.warnings, IsEmpty());
  // The reference has an error too, and so has each of the two.
  const auto expect_both = [](const char* what, double coarse_value, double fine_value, double rough_reference,
                              double fine_reference) {
    EXPECT_LE(std::abs(fine_value - fine_reference),
              std::abs(fine_value - coarse_value) + std::abs(fine_reference - rough_reference) + 1e-9)
        << what << ": " << coarse_value << ", then " << fine_value << "; reference " << rough_reference << ", then "
        << fine_reference;
    EXPECT_LE(std::abs(fine_value - coarse_value), 0.02 * std::abs(fine_reference) + 1e-3) << what;
  };
  expect_both("dissipation", coarse.energy.dissipation.value, fine.energy.dissipation.value, rough.dissipation(),
              reference.dissipation());
  expect_both("KL at the end", coarse.kl_end.value, fine.kl_end.value, rough.kl_end(), reference.kl_end());
  expect_both("KL of the prior", coarse.kl_prior.value, fine.kl_prior.value, rough.kl_prior(), reference.kl_prior());
  expect_both("work", coarse.residual_work.value, fine.residual_work.value, rough.work() - rough.work_of_q(),
              reference.work() - reference.work_of_q());
  expect_both("balance, left", coarse.energy.left.value, fine.energy.left.value,
              rough.log_u_end() + rough.dissipation(), reference.log_u_end() + reference.dissipation());
  expect_both("balance, right", coarse.energy.right.value, fine.energy.right.value, rough.log_u_prior() + rough.work(),
              reference.log_u_prior() + reference.work());
  for (int k = 0; k <= 80; k += 8) {
    expect_both("e_t", coarse.energy.energy[k].value, fine.energy.energy[2 * k].value, rough.energy()[5 * k],
                reference.energy()[10 * k]);
  }
  EXPECT_GT(std::abs(reference.work() - reference.work_of_q()), 0.005);  // else this tests nothing of R
  double before = 0;
  for (const int steps : {20, 40, 80, 160}) {
    const EnergyIdentity at = energy_identity(context(), rough_well().model(1, 1, 1e-3),
                                              TimeGrid::geometric(1, kEnd, steps), {.nodes = 5 * steps / 2, .box = 5});
    if (steps > 20) {
      EXPECT_NEAR(at.difference.value / before, 0.25, 0.03) << steps;
    }
    before = at.difference.value;
  }

  // In the plane the law is the product, so everything is twice that of the same grid on the line.
  const auto on_grid = [&](std::int64_t d) {
    return energy_identity(context(), rough_well().model(d, 1, 1e-3), TimeGrid::geometric(1, kEnd, 20),
                           {.nodes = 64, .box = 3});
  };
  const EnergyIdentity line = on_grid(1), plane = on_grid(2);
  EXPECT_NEAR(plane.energy.dissipation.value, 2 * line.energy.dissipation.value, 1e-6);
  EXPECT_NEAR(plane.kl_end.value, 2 * line.kl_end.value, 1e-6);
  EXPECT_NEAR(plane.residual_work.value, 2 * line.residual_work.value, 1e-6);
}

// What step errors say covers what is wrong, and falls by four where nodes and times double, as the errors do.
TEST(EnergyOnAGrid, StepErrorsCoverTheErrorsAndAreOfSecondOrder) {
  struct Known {
    const char* what;
    Model model;
    double horizon, end, dissipation, kl_end, kl_prior;
  };
  const GaussianReverse gaussian{0.7, 0.3, 1};
  const MixtureReverse mixture({0.4, 0.6}, {-1, 0.9}, {0.05, 0.2}, 0.8);
  const LineReference network(rough_well(), 1, kEnd, 2000, 800);
  const double mixture_end = mixture.at(0.05).divergence;
  const Known cases[] = {{"Gaussian",
                          {short_ou(1), GaussianMixture::isotropic(1, {1}, {0.7}, {0.3})},
                          1,
                          kEnd,
                          gaussian.dissipation(kEnd),
                          divergence_of(gaussian.reverse(kEnd), gaussian.exact(kEnd)),
                          divergence_of({0, 0.5}, gaussian.exact(1))},
                         {"mixture",
                          {short_ou(0.8), GaussianMixture::isotropic(1, {0.4, 0.6}, {-1, 0.9}, {0.05, 0.2})},
                          0.8,
                          0.05,
                          mixture.kl_prior() - mixture_end,
                          mixture_end,
                          mixture.kl_prior()},
                         {"network", rough_well().model(1, 1, 1e-3), 1, kEnd, network.dissipation(), network.kl_end(),
                          network.kl_prior()}};
  for (const Known& known : cases) {
    SCOPED_TRACE(known.what);
    EnergyIdentity before;
    for (const int steps : {40, 80}) {
      SCOPED_TRACE(steps);
      const EnergyIdentity at = energy_identity(
          context(), known.model, TimeGrid::geometric(known.horizon, known.end, steps), {.nodes = 4 * steps, .box = 5});
      // Order 2 leaves a third of the change; half of it covers that and what is of higher order.
      const auto expect_covered = [](const char* what, const Estimate& estimate, double expected) {
        EXPECT_LE(std::abs(estimate.value - expected), 0.5 * estimate.step_error + 1e-6)
            << what << ": " << estimate.value << ", step error " << estimate.step_error << ", where " << expected
            << " is expected";
      };
      expect_covered("dissipation", at.energy.dissipation, known.dissipation);
      expect_covered("KL at the end", at.kl_end, known.kl_end);
      expect_covered("KL of the prior", at.kl_prior, known.kl_prior);
      expect_covered("left", at.left, known.kl_end + known.dissipation);
      expect_covered("right", at.right, known.kl_end + known.dissipation);
      EXPECT_LE(std::abs(at.difference.value), 0.5 * at.difference.step_error + 1e-6);
      EXPECT_TRUE(at.energy.resolved);
      if (steps > 40) {
        const double fall = before.energy.dissipation.step_error / at.energy.dissipation.step_error;
        EXPECT_NEAR(fall, 4, 1.2);  // 2², and what is of higher order at 40 steps
      }
      before = at;
    }
  }
}

// Ridges a fortieth of a unit wide, in steps in which the forward SDE diffuses by a fifth of one: e_t has their
// part all the same.
TEST(EnergyOnAGrid, SeesRidgesThatAreNarrowerThanItsSteps) {
  SoftplusSum ridged = rough_well();
  const auto bend = [&](double at, double by) {  // of ∇φ
    ridged.height.push_back(by / 40), ridged.rate.push_back(0), ridged.slope.push_back(40);
    ridged.offset.push_back(-40 * at);
  };
  for (const double at : {-0.9, -0.4, 0.1, 0.6}) bend(at, 1), bend(at + 0.1, -2), bend(at + 0.2, 1);
  const double end = 0.5;
  const LineReference reference(ridged, 1, end, 2000, 200, 6), smooth(rough_well(), 1, end, 1000, 100, 6);
  const double part = reference.dissipation() - smooth.dissipation();
  ASSERT_GT(part, 0.4 * smooth.dissipation());  // what the ridges add; a tenth of it may be missed
  std::vector<double> times;
  for (int k = 0; k <= 12; ++k) times.push_back(std::lerp(1, end, k / 12.0));
  const Energy energy = reverse_sde_energy(context(), ridged.model(1, 1, 1e-3), TimeGrid(times), {.nodes = 512});
  EXPECT_NEAR(energy.dissipation.value, reference.dissipation(), 0.1 * part);
  EXPECT_LE(std::abs(energy.dissipation.value - reference.dissipation()), energy.dissipation.step_error);
}

TEST(EnergyOnAGrid, IsTheSameForAnyNumberOfThreads) {
  const auto measure = [](int threads) {
    return energy_identity(Context({.backend = BackendKind::cpu, .threads = threads}), rough_well().model(2, 1, 1e-3),
                           TimeGrid::geometric(1, kEnd, 4), {.nodes = 35});
  };
  const EnergyIdentity one = measure(1), three = measure(3);
  EXPECT_EQ(one.energy.mass, three.energy.mass);
  EXPECT_EQ(one.left.value, three.left.value);
  EXPECT_EQ(one.right.value, three.right.value);
  EXPECT_EQ(one.left.step_error, three.left.step_error);
}

// φ + c(t) draws the same samples.
TEST(EnergyOnAGrid, IsFreeOfAFunctionOfTime) {
  SoftplusSum shifted = rough_well();
  shifted.height.push_back(3), shifted.rate.push_back(2), shifted.slope.push_back(0), shifted.offset.push_back(-1);
  const auto measure = [&](const SoftplusSum& potential) {
    return energy_identity(context(), potential.model(1, 1, 1e-3), TimeGrid::geometric(1, kEnd, 30),
                           {.nodes = 128, .box = 5});
  };
  const EnergyIdentity plain = measure(rough_well()), other = measure(shifted);
  EXPECT_NEAR(other.energy.dissipation.value, plain.energy.dissipation.value, 1e-10);
  EXPECT_NEAR(other.kl_prior.value, plain.kl_prior.value, 1e-10);
  EXPECT_NEAR(other.kl_end.value, plain.kl_end.value, 1e-10);
  EXPECT_NEAR(other.residual_work.value, plain.residual_work.value, 1e-10);
  // The balance without Z is not: both its sides move by −c(0), exact but for the trapezoidal rule.
  EXPECT_GT(std::abs(other.energy.left.value - plain.energy.left.value), 0.1);
  // What that rule leaves in the balance tells nothing of the energy: what is resolved is judged by the identity.
  EXPECT_GT(std::abs(other.energy.difference.value - plain.energy.difference.value), 5e-4);  // not 1e-10
  EXPECT_TRUE(plain.energy.resolved);
  EXPECT_TRUE(other.energy.resolved);
  EXPECT_EQ(other.energy.warnings, plain.energy.warnings);
}

TEST(EnergyOnAGrid, SaysWhereMassIsLost) {
  // Tails that fall too slowly to hold the reverse SDE: its drift −f grows faster.
  const SoftplusSum flat{{-1, -1}, {0, 0}, {1, -1}, {0, 0}};
  const Energy energy =
      reverse_sde_energy(context(), flat.model(1, 2, 1e-3), TimeGrid::geometric(2, kEnd, 40), {.nodes = 128, .box = 2});
  EXPECT_LT(energy.mass.back(), 0.9);
  ASSERT_FALSE(energy.warnings.empty());
  EXPECT_THAT(energy.warnings[0], HasSubstr("% of the samples have left the grid by t = 0.01"));
  EXPECT_TRUE(energy.resolved);  // what is left of them is
}

// Nothing leaves this well: what is missing is the fault of the steps, and is said to be.
TEST(EnergyOnAGrid, SaysWhereItIsNotResolved) {
  const auto warnings = [&](std::int64_t nodes, int steps) {
    const Energy energy = reverse_sde_energy(context(), rough_well().model(1, 1, 1e-3),
                                             TimeGrid::geometric(1, kEnd, steps), {.nodes = nodes, .box = 3});
    EXPECT_EQ(energy.resolved, energy.warnings.empty());
    std::string all;
    for (const std::string& warning : energy.warnings) all += warning + "\n";
    return all;
  };
  EXPECT_THAT(warnings(64, 2), AllOf(HasSubstr("the mass of p^S on the grid is 0."), HasSubstr("where it should be 1"),
                                     HasSubstr("the two sides differ by"), Not(HasSubstr("have left"))));
  EXPECT_THAT(warnings(64, 8), AllOf(HasSubstr("½ ∫ g² e_t dt is 0."), HasSubstr("with a step error of"),
                                     HasSubstr("more nodes or times")));
  EXPECT_THAT(warnings(64, 1), HasSubstr("of 2 times none can be left out"));
  EXPECT_THAT(warnings(64, 64), IsEmpty());
  const Model exact{short_ou(1), GaussianMixture::isotropic(1, {1}, {0.0}, {0.5})};  // nothing is dissipated
  EXPECT_TRUE(reverse_sde_energy(context(), exact, TimeGrid::geometric(1, kEnd, 8), {.nodes = 64}).resolved);
}

// Left after any of its times, and gone on with: the numbers of one call.
TEST(EnergyOnAGrid, GoesOnFromASavedState) {
  const Model model = rough_well().model(1, 1, 1e-3);
  const TimeGrid grid = TimeGrid::geometric(1, kEnd, 6);
  std::vector<EnergyState> states;
  const Energy whole = reverse_sde_energy(
      context(), model, grid, {.nodes = 64, .save = [&](const EnergyState& state) { states.push_back(state); }});
  ASSERT_EQ(states.size(), whole.times.size());
  for (const EnergyState& state : states) {
    SCOPED_TRACE(state.times);
    std::int64_t calls = 0;
    const Energy rest = reverse_sde_energy(context(), model, grid,
                                           {.nodes = 64, .save = [&](const EnergyState&) { ++calls; }, .from = state});
    EXPECT_EQ(calls, std::ssize(whole.times) - state.times);
    EXPECT_EQ(rest.mass, whole.mass);
    EXPECT_EQ(rest.left.value, whole.left.value);
    EXPECT_EQ(rest.right.value, whole.right.value);
    EXPECT_EQ(rest.dissipation.value, whole.dissipation.value);
    EXPECT_EQ(rest.warnings, whole.warnings);
  }
  // Where no time is done, the rest of a state means nothing, and the next states have none of it.
  EnergyState none = states[2], last;
  none.times = 0;
  reverse_sde_energy(context(), model, grid,
                     {.nodes = 64, .save = [&](const EnergyState& state) { last = state; }, .from = none});
  EXPECT_EQ(last.moments, states.back().moments);
  EXPECT_EQ(last.log_u, states.back().log_u);
  const auto refused = [&](const EnergyOptions& options, std::int64_t d = 1) {
    return message_of([&] { reverse_sde_energy(context(), rough_well().model(d, 1, 1e-3), grid, options); });
  };
  EXPECT_THAT(
      refused({.nodes = 32, .from = states[2]}),
      HasSubstr("from 3 times with 64 nodes and 27 moments; allowed: up to 7 times with 32 nodes and 9 moments"));
  EXPECT_THAT(refused({.from = states[2]}, 3), HasSubstr("by paths was to go on from 3 times; allowed: on a grid"));
}

}  // namespace
}  // namespace fokker
