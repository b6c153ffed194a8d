// The energy and both sides of its identity where they are known: Gaussians in closed form, networks against finite
// volumes for the law itself. What a refinement changes bounds what is left: errors are of second order, so the finer
// of two results is off by a third of their difference.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "compare.hpp"
#include "fokker/diagnostics.hpp"
#include "reverse_sde_reference.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::AllOf;
using testing::divergence_of;
using testing::GaussianReverse;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::LineReference;
using testing::message_of;
using testing::Normal;
using ::testing::Not;
using testing::rough_well;
using testing::SoftplusSum;

constexpr double kEnd = 0.01;

Context context() { return Context({.backend = BackendKind::cpu, .threads = 1}); }
ForwardSde short_ou(double horizon) { return ForwardSde::ou({.horizon = horizon, .t_min = 1e-3}); }

// An error that says something: of 2 %, or of 2e-3 where the number is small.
double informative(double expected) { return 0.02 * std::abs(expected) + 2e-3; }

// `fine` is where `expected` is, to what the refinement from `coarse` changed.
void expect_converged(const char* what, double coarse, double fine, double expected) {
  EXPECT_LE(std::abs(fine - expected), std::abs(fine - coarse) + 1e-9)
      << what << ": " << coarse << ", then " << fine << ", where " << expected << " is expected";
  EXPECT_LE(std::abs(fine - coarse), informative(expected)) << what << " is not resolved";
}

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

// The law of a mixture's reverse SDE with the wrong prior, by integrals on a grid that share nothing with the library:
// p_t(x) = q_t(x) ∫ N(y; m x, v) π(y)/q_T(y) dy, so u_t is the integral, and its logarithm's derivative is e_t's.
class MixtureReverse {
 public:
  MixtureReverse(std::vector<double> weights, std::vector<double> means, std::vector<double> variances, double horizon)
      : weights_(std::move(weights)), means_(std::move(means)), variances_(std::move(variances)), horizon_(horizon) {}

  double density(double t, double x) const {  // q_t
    double q = 0;
    for (std::size_t k = 0; k < weights_.size(); ++k) {
      q += weights_[k] * std::exp(GaussianReverse{means_[k], variances_[k], horizon_}.exact(t).log_density(x));
    }
    return q;
  }
  struct Moments {
    double mass, energy, divergence;  // ∫ p, E_p |∂ log u|², KL(p_t ‖ q_t)
  };
  Moments at(double t) const {
    const double m = std::exp(t - horizon_), v = 0.5 * (1 - m * m), h = 0.02;
    std::vector<double> ratio;  // π/q_T at y = j h
    for (int j = -kReach; j <= kReach; ++j) {
      ratio.push_back(std::exp(Normal{0, 0.5}.log_density(j * h)) / density(horizon_, j * h));
    }
    Moments moments{};
    for (int i = -kReach; i <= kReach; ++i) {
      const double x = i * h, q = density(t, x);
      double u = 0, slope = 0;
      for (int j = -kReach; j <= kReach; ++j) {
        const double y = j * h, w = h * std::exp(Normal{m * x, v}.log_density(y)) * ratio[j + kReach];
        u += w, slope += w * m * (y - m * x) / v;
      }
      moments.mass += h * q * u;
      moments.energy += h * q * slope * slope / u;
      moments.divergence += h * q * u * std::log(u);
    }
    return moments;
  }
  // KL(π ‖ q_T).
  double kl_prior() const {
    double sum = 0;
    const double h = 0.02;
    for (int j = -kReach; j <= kReach; ++j) {
      const double log_pi = Normal{0, 0.5}.log_density(j * h);
      sum += h * std::exp(log_pi) * (log_pi - std::log(density(horizon_, j * h)));
    }
    return sum;
  }

 private:
  static constexpr int kReach = 250;  // nodes on either side: |x| ≤ 5
  std::vector<double> weights_, means_, variances_;
  double horizon_;
};

// R = 0, so what the prior has too much is spent or left over; e_t and both divergences are large and no Gaussian's.
TEST(EnergyOfAMixture, WithTheWrongPriorByBothMethods) {
  const double horizon = 0.8, end = 0.05;
  const MixtureReverse reference({0.4, 0.6}, {-1, 0.9}, {0.05, 0.2}, horizon);
  const Model model{short_ou(horizon), GaussianMixture::isotropic(1, {0.4, 0.6}, {-1, 0.9}, {0.05, 0.2})};
  const double kl_prior = reference.kl_prior(), kl_end = reference.at(end).divergence;
  ASSERT_NEAR(reference.at(end).mass, 1, 1e-6);
  const double dissipation = kl_prior - kl_end;
  EXPECT_GT(dissipation, 0.01);  // else this tests nothing

  const auto on_grid = [&](int r) {
    return energy_identity(context(), model, TimeGrid::geometric(horizon, end, 40 * r), {.nodes = 160 * r});
  };
  const EnergyIdentity coarse = on_grid(1), fine = on_grid(2);
  EXPECT_THAT(fine.energy.warnings, IsEmpty());
  expect_converged("dissipation", coarse.energy.dissipation.value, fine.energy.dissipation.value, dissipation);
  expect_converged("KL at the end", coarse.kl_end.value, fine.kl_end.value, kl_end);
  expect_converged("KL of the prior", coarse.kl_prior.value, fine.kl_prior.value, kl_prior);
  EXPECT_NEAR(fine.residual_work.value, 0, 1e-9);
  for (std::size_t k = 8; k < coarse.energy.times.size(); k += 8) {
    const double expected = reference.at(coarse.energy.times[k]).energy;
    expect_converged("e_t", coarse.energy.energy[k].value, fine.energy.energy[2 * k].value, expected);
  }

  const EnergyIdentity by_paths = energy_identity(
      context(), model, TimeGrid::geometric(horizon, end, 640),
      {.method = EnergyMethod::paths, .samples = 1024, .paths = 64, .path_steps = 2, .times = 33, .seed = 3});
  const auto expect_by_paths = [](const char* what, const Estimate& estimate, double expected) {
    EXPECT_LE(std::abs(estimate.value - expected), 5 * estimate.standard_error)
        << what << ": " << estimate.value << " ± " << estimate.standard_error << " where " << expected
        << " is expected";
    EXPECT_LE(estimate.standard_error, 0.1 * std::abs(expected)) << what;
  };
  expect_by_paths("dissipation", by_paths.energy.dissipation, dissipation);
  expect_by_paths("KL at the end", by_paths.kl_end, kl_end);
  expect_by_paths("KL of the prior", by_paths.kl_prior, kl_prior);
  EXPECT_NEAR(by_paths.residual_work.value, 0, 1e-9);
  EXPECT_THAT(by_paths.energy.warnings, IsEmpty());
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

void expect_within(const char* what, const Estimate& estimate, double expected, double largest_error) {
  EXPECT_LE(std::abs(estimate.value - expected), 5 * estimate.standard_error)
      << what << ": " << estimate.value << " ± " << estimate.standard_error << " where " << expected << " is expected";
  EXPECT_LE(estimate.standard_error, largest_error) << what;
  EXPECT_GT(estimate.standard_error, 0) << what;
}

// Left after any of its times, and gone on with: the numbers of one call.
TEST(EnergyOnAGrid, GoesOnFromWhatWasKept) {
  const Model model = rough_well().model(1, 1, 1e-3);
  const TimeGrid grid = TimeGrid::geometric(1, kEnd, 6);
  std::vector<EnergyState> kept;
  const Energy whole = reverse_sde_energy(
      context(), model, grid, {.nodes = 64, .keep = [&](const EnergyState& state) { kept.push_back(state); }});
  ASSERT_EQ(kept.size(), whole.times.size());
  for (const EnergyState& state : kept) {
    SCOPED_TRACE(state.times);
    std::int64_t calls = 0;
    const Energy rest = reverse_sde_energy(context(), model, grid,
                                           {.nodes = 64, .keep = [&](const EnergyState&) { ++calls; }, .from = state});
    EXPECT_EQ(calls, std::ssize(whole.times) - state.times);
    EXPECT_EQ(rest.mass, whole.mass);
    EXPECT_EQ(rest.left.value, whole.left.value);
    EXPECT_EQ(rest.right.value, whole.right.value);
    EXPECT_EQ(rest.dissipation.value, whole.dissipation.value);
    EXPECT_EQ(rest.warnings, whole.warnings);
  }
  // Of no times, the rest means nothing and is not kept either.
  EnergyState none = kept[2], last;
  none.times = 0;
  reverse_sde_energy(context(), model, grid,
                     {.nodes = 64, .keep = [&](const EnergyState& state) { last = state; }, .from = none});
  EXPECT_EQ(last.moments, kept.back().moments);
  EXPECT_EQ(last.log_u, kept.back().log_u);
  const auto refused = [&](const EnergyOptions& options, std::int64_t d = 1) {
    return message_of([&] { reverse_sde_energy(context(), rough_well().model(d, 1, 1e-3), grid, options); });
  };
  EXPECT_THAT(
      refused({.nodes = 32, .from = kept[2]}),
      HasSubstr("from 3 times with 64 nodes and 27 moments; allowed: up to 7 times with 32 nodes and 9 moments"));
  EXPECT_THAT(refused({.from = kept[2]}, 3), HasSubstr("by paths was to go on from 3 times; allowed: on a grid"));
}

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

// The spread over seeds is what the jackknife says. Of n seeds it is known to 1/√(2 n), and so is the root mean square
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

TEST(EnergyIdentityRefusals, WhereEToThePotentialIsNotIntegrable) {
  Architecture architecture;
  architecture.hidden = {7};
  architecture.activation = Activation::tanh;
  const TimeGrid grid = TimeGrid::geometric(10, kEnd, 8);
  EXPECT_THAT(message_of([&] {
                energy_identity(context(), {ForwardSde{}, Mlp::initialise(architecture, 1)}, grid);
              }),
              HasSubstr("needs an integrable e^φ, which has a Z: φ of a network with the activation tanh is bounded"));
  const SoftplusSum growing{{1, -2}, {0, 0}, {1, -1}, {0, 0}};
  const Model model = growing.model(2, 10, 1e-4);
  EXPECT_THAT(message_of([&] { energy_identity(context(), model, grid); }),
              HasSubstr("at t = 10, φ grows or falls too slowly at the radius 1000"));
  // Neither e_t nor the balance without Z needs it.
  const Energy energy = reverse_sde_energy(context(), model, grid, {.nodes = 32});
  EXPECT_TRUE(std::isfinite(energy.dissipation.value));
}

TEST(EnergyIdentityRefusals, WhatIsNotAllowedIsNamed) {
  const Model model = rough_well().model(2, 1, 1e-3);
  const auto refused = [&](const TimeGrid& grid, const EnergyOptions& options, std::int64_t d = 2) {
    return message_of([&] { reverse_sde_energy(context(), rough_well().model(d, 1, 1e-3), grid, options); });
  };
  const TimeGrid grid = TimeGrid::geometric(1, kEnd, 8);
  EXPECT_THAT(refused(TimeGrid::geometric(0.5, kEnd, 8), {}), HasSubstr("the time grid starts at 0.5"));
  EXPECT_THAT(refused(grid, {.method = EnergyMethod::grid}, 3), HasSubstr("in dimension 3; allowed: 1 and 2"));
  EXPECT_THAT(refused(grid, {.nodes = 15}), HasSubstr("15 and 3.5 were given"));
  EXPECT_THAT(refused(grid, {.box = 0}), HasSubstr("0 and 0 were given"));
  EXPECT_THAT(refused(grid, {.samples = 33}), HasSubstr("33, 32, 48 and 33 were given"));
  EXPECT_THAT(refused(grid, {.paths = 5}), HasSubstr("128, 5, 48 and 33 were given"));
  EXPECT_THAT(refused(grid, {.path_steps = 1}), HasSubstr("128, 32, 1 and 33 were given"));
  EXPECT_THAT(refused(grid, {.times = 66}), HasSubstr("128, 32, 48 and 66 were given"));
  Architecture vector_net;
  vector_net.output = Output::score;
  EXPECT_THAT(message_of([&] {
                energy_identity(context(), {ForwardSde{}, Mlp::initialise(vector_net, 1)}, grid);
              }),
              HasSubstr("needs a potential"));
}

}  // namespace
}  // namespace fokker
