// The energy of a mixture by both methods, and what is refused.
#include <gmock/gmock.h>

#include <cmath>

#include "energy_checks.hpp"
#include "reverse_sde_reference.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::context;
using testing::expect_converged;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kEnd;
using testing::message_of;
using testing::MixtureReverse;
using testing::rough_well;
using testing::short_ou;
using testing::SoftplusSum;

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
