#include "fokker/diagnostics/residual_statistics.hpp"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "compare.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using fokker::testing::agrees;
using ::testing::HasSubstr;

// φ = amplitude · sin(frequency_t t + frequency_x x_1): one hidden unit with the sine activation.
Model sine_wave(std::int64_t d, double amplitude, double frequency_t, double frequency_x) {
  Mlp mlp;
  mlp.architecture.dimension = d;
  mlp.architecture.hidden = {1};
  mlp.architecture.activation = Activation::sine;
  mlp.parameters.assign(mlp.architecture.parameter_count(), 0.0);
  mlp.parameters[0] = frequency_t, mlp.parameters[1] = frequency_x;
  mlp.parameters[mlp.architecture.weight_offset(1)] = amplitude;
  return {ForwardSde{}, mlp};
}

TEST(Diagnostics, ExactDensitiesHaveNoResidual) {
  for (const auto kind : {SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp, SdeKind::ve}) {
    for (const std::int64_t d : {1, 2, 3}) {
      std::vector<double> means(2 * d, 0.5);
      means[0] = -1;
      for (const auto& mixture : {GaussianMixture::isotropic(d, {1}, std::vector<double>(d, 0.3), {0.4}),
                                  GaussianMixture::isotropic(d, {1, 2}, means, {0.1, 0.3})}) {
        const auto r =
            residual_statistics(Context(), {ForwardSde::defaults(kind), mixture}, {.times = 99, .points = 19});
        // The terms are below 1e6 (score 35, g² 400 or, for ve at T, σ² of 2500 with g² of 4e4), so R is below 1e-9.
        EXPECT_GE(r.mean_square, 0);
        EXPECT_LE(r.mean_square, 1e-18) << ForwardSde::defaults(kind).name() << " d " << d;
        EXPECT_LE(r.centred_mean_square, r.mean_square * (1 + 1e-12));
      }
    }
  }
}

// c(t) = A sin(ω t): R = c′(t) − d at every x, so the centred mean is 0 and the other one E (A ω cos ω t − d)². Times
// are random: five standard errors.
TEST(Diagnostics, AFunctionOfTimeIsCentredAway) {
  const double amplitude = 3, frequency = 0.7, d = 2;
  const Model model = sine_wave(2, amplitude, frequency, 0);
  // 100 000 times of 3 points: batches end inside a time.
  const auto r = residual_statistics(Context(), model, {.times = 100000, .points = 3, .seed = 5});
  double mean = 0, fourth = 0;
  const int nodes = 100000;
  for (int i = 0; i < nodes; ++i) {
    const double t = 1e-4 + (10 - 1e-4) * (i + 0.5) / nodes;
    const double square = std::pow(amplitude * frequency * std::cos(frequency * t) - d, 2);
    mean += square / nodes, fourth += square * square / nodes;
  }
  EXPECT_NEAR(r.mean_square, mean, 5 * std::sqrt((fourth - mean * mean) / 100000));
  EXPECT_LE(r.centred_mean_square, 1e-13 * r.mean_square);  // floats of one time are equal; what is left is rounding
}

// φ = A sin(k x_1) in one dimension: R = −1 − x φ′ − ½ (φ″ + φ′²) at all times.
TEST(Diagnostics, AWaveInSpaceHasItsResidual) {
  const double amplitude = 0.8, frequency = 1.3, box = 2;
  const auto r = residual_statistics(Context(), sine_wave(1, amplitude, 0, frequency),
                                     {.times = 300, .points = 700, .box = box, .seed = 9});
  double mean = 0, square = 0, fourth = 0;
  const int nodes = 100000;
  for (int i = 0; i < nodes; ++i) {
    const double x = box * (2 * (i + 0.5) / nodes - 1);
    const double slope = amplitude * frequency * std::cos(frequency * x);
    const double curvature = -amplitude * frequency * frequency * std::sin(frequency * x);
    const double residual = -1 - x * slope - 0.5 * (curvature + slope * slope);
    mean += residual / nodes, square += residual * residual / nodes, fourth += std::pow(residual, 4) / nodes;
  }
  const double error = 5 * std::sqrt((fourth - square * square) / (300 * 700));
  EXPECT_NEAR(r.mean_square, square, error);
  // Removing the sample mean of 700 points leaves 699/700 of the variance; its error is bounded by that of the square
  // and of the mean's square.
  EXPECT_NEAR(r.centred_mean_square, (square - mean * mean) * 699 / 700,
              error + 10 * std::abs(mean) * std::sqrt(square / (300 * 700)));
}

TEST(Diagnostics, CentringKeepsWhatDependsOnPlace) {
  // sin(ω t + k x) and the same with c(t) added by a second unit.
  Mlp mlp = std::get<Mlp>(sine_wave(1, 1, 0.4, 1.1).network);
  mlp.architecture.hidden = {2};
  mlp.parameters = {0.4, 1.1, 0.9, 0, 0, 0, 1, 2.5, 0};  // W_0 [2, 2], b_0 [2], W_1 [1, 2], b_1
  const auto with = residual_statistics(Context(), {ForwardSde{}, mlp}, {.times = 99, .points = 99});
  mlp.parameters[7] = 0;
  const auto without = residual_statistics(Context(), {ForwardSde{}, mlp}, {.times = 99, .points = 99});
  // Float residuals of size 5: 1e-6 relative in each.
  EXPECT_TRUE(agrees(with.centred_mean_square, without.centred_mean_square, 2e-6));
  EXPECT_GT(with.mean_square, without.mean_square + 1);
}

TEST(Diagnostics, DependOnTheSeedAlone) {
  const Model model = sine_wave(2, 1, 0.4, 1.1);
  const ResidualOptions options{.times = 19, .points = 989, .seed = 4};
  const auto one = residual_statistics(Context({.threads = 1}), model, options);
  const auto three = residual_statistics(Context({.threads = 3}), model, options);
  EXPECT_EQ(one.mean_square, three.mean_square);
  EXPECT_EQ(one.centred_mean_square, three.centred_mean_square);
  EXPECT_NE(one.mean_square,
            residual_statistics(Context(), model, {.times = 19, .points = 989, .seed = 5}).mean_square);
  const auto single = residual_statistics(Context(), model, {.times = 1, .points = 1});
  EXPECT_EQ(single.centred_mean_square, 0);
  EXPECT_GT(single.mean_square, 0);
}

// s = amplitude · sin(frequency x) in one dimension: r = −s − x s′ − s s′ − ½ s″ at all times, under a = −1 and g² = 1.
TEST(Diagnostics, AVectorNetHasTheResidualOfItsScore) {
  const double amplitude = 0.8, frequency = 1.3, box = 2;
  Model model = sine_wave(1, amplitude, 0, frequency);
  std::get<Mlp>(model.network).architecture.output = Output::score;
  const auto r = residual_statistics(Context(), model, {.times = 100, .points = 300, .box = box, .seed = 9});
  double square = 0, fourth = 0;
  const int nodes = 100000;
  for (int i = 0; i < nodes; ++i) {
    const double x = box * (2 * (i + 0.5) / nodes - 1), s = amplitude * std::sin(frequency * x);
    const double slope = amplitude * frequency * std::cos(frequency * x), curvature = -frequency * frequency * s;
    const double residual = -s - x * slope - s * slope - 0.5 * curvature;
    square += residual * residual / nodes, fourth += std::pow(residual, 4) / nodes;
  }
  EXPECT_NEAR(r.mean_square, square, 5 * std::sqrt((fourth - square * square) / (100 * 300)));
  EXPECT_EQ(r.centred_mean_square, r.mean_square);
}

// By probes the mean square is the exact one within five of its standard errors, for both kinds of net: the means at the times
// are independent.
TEST(Diagnostics, ProbesLeaveTheMeanSquareAsItIs) {
  for (const Output output : {Output::potential, Output::score}) {
    SCOPED_TRACE(to_string(output));
    const Model model{
        ForwardSde::vp_linear(),
        Mlp::initialise({.dimension = 4, .hidden = {9, 7}, .activation = Activation::silu, .output = output}, 5)};
    const auto exact = residual_statistics(Context(), model, {.times = 600, .points = 3, .seed = 3}),
               probed = residual_statistics(Context(), model, {.times = 600, .points = 3, .seed = 3, .probes = 1});
    EXPECT_GT(probed.standard_error, 0);
    EXPECT_NE(probed.mean_square, exact.mean_square);
    EXPECT_NEAR(probed.mean_square, exact.mean_square, 5 * probed.standard_error);
    EXPECT_TRUE(std::isnan(residual_statistics(Context(), model, {.times = 1, .points = 3}).standard_error));
  }
}

TEST(Diagnostics, Refusals) {
  const auto refusal = [](const Model& model, const ResidualOptions& options) {
    return fokker::testing::message_of([&] { residual_statistics(Context(), model, options); });
  };
  Model vector_net = sine_wave(1, 1, 1, 1);
  std::get<Mlp>(vector_net.network).architecture.output = Output::score;
  std::get<Mlp>(vector_net.network).architecture.activation = Activation::relu;
  EXPECT_THAT(refusal(vector_net, {}), HasSubstr("activation relu, which has a kink"));
  const Model model = sine_wave(2, 1, 1, 1);
  EXPECT_THAT(refusal(model, {.times = 0}), HasSubstr("is 0; allowed: 1 to 1000000"));
  EXPECT_THAT(refusal(model, {.probes = -1}), HasSubstr("is -1; allowed: 0 to 65536"));
  EXPECT_THAT(refusal(model, {.points = -1}), HasSubstr("is -1; allowed: 1 to 1000000"));
  EXPECT_THAT(refusal(model, {.box = 0}), HasSubstr("box, and 0 was given"));
  EXPECT_THAT(refusal(model, {.box = std::numeric_limits<double>::quiet_NaN()}), HasSubstr("nan was given"));
}

}  // namespace
}  // namespace fokker
