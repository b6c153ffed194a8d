#include "fokker/diagnostics/radial_slopes.hpp"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <string>

#include "compare.hpp"
#include "paper_data.hpp"
#include "reverse_sde_reference.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::agrees;
using ::testing::HasSubstr;
using testing::message_of;
using testing::SoftplusSum;

Context context() { return Context({.backend = BackendKind::cpu, .threads = 1}); }

// Far out a softplus unit is its argument or nothing.
double slope_along(const SoftplusSum& potential, const double* e, std::int64_t d) {
  double sum = 0;
  for (std::int64_t i = 0; i < d; ++i) {
    for (std::size_t j = 0; j < potential.height.size(); ++j) {
      sum += potential.height[j] * std::max(0.0, potential.slope[j] * e[i]);
    }
  }
  return sum;
}

TEST(RadialSlopes, OfSoftplusNetworksAreThoseOfTheirActiveUnits) {
  const SoftplusSum potential = testing::rough_well();
  for (const std::int64_t d : {1, 2, 3, 5}) {
    const RadialSlopes slopes = radial_slopes(context(), potential.model(d, 10, 1e-4), 3, {.directions = 99});
    const std::int64_t n = d == 1 ? 2 : 99;
    ASSERT_EQ(slopes.slopes.size(), static_cast<std::size_t>(n));
    std::vector<double> expected;
    for (std::int64_t i = 0; i < n; ++i) {
      const double* e = slopes.directions.data() + i * d;
      double square = 0;
      for (std::int64_t k = 0; k < d; ++k) square += e[k] * e[k];
      EXPECT_NEAR(square, 1, 1e-14);
      expected.push_back(slope_along(potential, e, d));
    }
    // Coordinates near 0 leave a unit in its bend, which is log 2 high at most: 9 units' worth over the radius of 1000.
    EXPECT_TRUE(agrees(slopes.slopes, expected, {.norm = 1e-2, .absolute = 9e-3 * double(d)})) << d;
    EXPECT_EQ(slopes.time, 3);
    EXPECT_EQ(slopes.largest, *std::max_element(slopes.slopes.begin(), slopes.slopes.end()));
    EXPECT_EQ(slopes.share_growing, 0);
    EXPECT_TRUE(slopes.integrable);
    EXPECT_EQ(slopes.reason, "");
  }
}

TEST(RadialSlopes, CountDirectionsInWhichThePotentialGrows) {
  // Grows to the right, falls to the left: along (cos α, sin α) by c(cos α) + c(sin α), c(z) = z for z > 0 and 2 z
  // else.
  const SoftplusSum potential{{1, -2}, {0, 0}, {1, -1}, {0, 0}};
  const RadialSlopes slopes = radial_slopes(context(), potential.model(2, 10, 1e-4), 1, {.directions = 7200});
  // cos α ≥ −2 sin α for sin α < 0 down to α = −atan ½, and likewise beyond π/2.
  const double share = (M_PI / 2 + 2 * std::atan(0.5)) / (2 * M_PI);
  EXPECT_NEAR(slopes.share_growing, share, 4.0 / 7200);  // two ends, each within a spacing and a bend
  EXPECT_FALSE(slopes.integrable);
  EXPECT_NEAR(slopes.largest, std::sqrt(2.0), 1e-3);
  EXPECT_THAT(slopes.reason, HasSubstr("at t = 1, φ grows or falls too slowly"));
}

TEST(RadialSlopes, BoundedActivationsAreNeverIntegrableAndMixturesAlwaysAre) {
  for (const Activation activation : Activations::all) {
    Architecture architecture;
    architecture.hidden = {7};
    architecture.activation = activation;
    architecture.beta = 1;  // which every parameter may be
    Mlp mlp = Mlp::initialise(architecture, 1);
    const RadialSlopes slopes = radial_slopes(context(), {ForwardSde{}, mlp}, 1);
    EXPECT_FALSE(slopes.integrable) << to_string(activation);
    EXPECT_EQ(slopes.reason.find("is bounded") != std::string::npos, traits_of(activation).bounded);
  }
  const auto mixture = GaussianMixture::isotropic(3, {1, 2}, {1, 2, 3, -1, 0, 1}, {0.3, 4});
  for (const auto kind : {SdeKind::ou, SdeKind::vp_linear, SdeKind::ve}) {
    const ForwardSde sde = ForwardSde::defaults(kind);
    EXPECT_TRUE(
        worst_radial_slopes(context(), {sde, mixture}, TimeGrid::geometric(sde.horizon(), sde.t_min(), 9)).integrable);
  }
}

TEST(RadialSlopes, TheWorstTimeIsFound) {
  // Slope 1 for t < 5 from a unit that closes with time, far out at the radius too: the rate is that large.
  SoftplusSum potential = testing::rough_well();
  potential.height.push_back(0.5), potential.rate.push_back(-1e5), potential.slope.push_back(20);
  potential.offset.push_back(5e5);
  const Model model = potential.model(1, 10, 1e-4);
  EXPECT_TRUE(radial_slopes(context(), model, 9).integrable);
  const RadialSlopes worst = worst_radial_slopes(context(), model, TimeGrid::uniform(10, 0, 100));
  EXPECT_FALSE(worst.integrable);
  EXPECT_LT(worst.time, 6);
}

TEST(RadialSlopes, OfThePublishedNetworks) {
  const std::string folder = testing::paper_data();
  if (folder.empty()) return;
  const ModelMetadata metadata{{"activation", "softplus"}, {"beta", "100"}, {"output", "potential"}, {"sde", "ou"}};
  for (const auto& [name, growing] : {std::pair("blob_w1.0", false), {"checker_w0.1", true}, {"checker_w10.0", true}}) {
    const Model model = load_model(folder + "/checkpoints/" + name + ".safetensors", metadata);
    const RadialSlopes slopes = radial_slopes(context(), model, 1);
    EXPECT_EQ(slopes.integrable, !growing) << name;
    // "in about a tenth of the directions"
    EXPECT_NEAR(slopes.share_growing, growing ? 0.1 : 0, growing ? 0.02 : 0) << name;
  }
}

TEST(RadialSlopes, Refusals) {
  const Model model = testing::rough_well().model(2, 10, 1e-4);
  const auto refused = [&](double t, const RadialSlopeOptions& options) {
    return message_of([&] { radial_slopes(context(), model, t, options); });
  };
  EXPECT_THAT(refused(1, {.directions = 0}), HasSubstr("is 0; allowed: 1 to 1000000"));
  EXPECT_THAT(refused(1, {.radius = std::numeric_limits<double>::infinity()}), HasSubstr("inf was given"));
  EXPECT_THAT(refused(11, {}), HasSubstr("allowed: 0 to 10"));
  Architecture vector_net;
  vector_net.output = Output::score;
  EXPECT_THAT(message_of([&] {
                radial_slopes(context(), {ForwardSde{}, Mlp::initialise(vector_net, 1)}, 1);
              }),
              HasSubstr("needs a potential"));
}

// ½ A |x|² makes e^φ integrable, bounded as the network's own potential is.
TEST(RadialSlopes, OfABoundedNetworkInAFormFallByItsQuadratic) {
  const Architecture a{.hidden = {7}, .activation = Activation::tanh, .form = {.form = Form::edm}};
  const Model model{ForwardSde::vp_linear(), Mlp::initialise(a, 1)};
  const RadialSlopes slopes = radial_slopes(Context({BackendKind::cpu, 1}), model, 0.5, {.radius = 100});
  EXPECT_TRUE(slopes.integrable) << slopes.reason;
  EXPECT_EQ(slopes.share_growing, 0);
  // (φ(2r) − φ(r))/r = 3/2 A r, A = −1/(m² + σ²) = −1.
  EXPECT_NEAR(slopes.largest, -150, 1e-6);
}

}  // namespace
}  // namespace fokker
