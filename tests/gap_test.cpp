// The gap where the answer is known: models whose potential is the exact log-density of Gaussian data. Their samplers
// agree, but for a horizon so short that the prior is not yet the data's law: reverse SDE and probability flow forget
// that at rates of their own, and for one Gaussian both laws have a closed form.
#include "fokker/gap.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "fokker/fokker.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::HasSubstr;
using testing::message_of;

const Context context({.backend = testing::backend_under_test});

GaussianMixture gaussian(double variance, std::vector<double> mean) {
  const std::int64_t d = std::ssize(mean);
  return GaussianMixture::isotropic(d, {1}, std::move(mean), {variance});
}

Model model_of(GaussianMixture mixture) { return {ForwardSde::defaults(SdeKind::ou), std::move(mixture)}; }

TEST(GapSteps, AreNearestToTheTimesAndEndWithTheGrid) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  for (const char* text : {"paper", "geometric:150:1e-3", "uniform:3:1", "uniform:1"}) {
    SCOPED_TRACE(text);
    const TimeGrid grid = TimeGrid::parse(text, sde);
    const std::vector<std::int32_t> steps = gap_steps(grid);
    EXPECT_EQ(steps.back(), grid.steps());
    EXPECT_EQ(steps.front(), 1);
    for (std::size_t k = 1; k < steps.size(); ++k) EXPECT_LT(steps[k - 1], steps[k]);
  }
  const TimeGrid paper = TimeGrid::paper(10);
  std::vector<double> times;
  for (const std::int32_t step : gap_steps(paper)) times.push_back(paper.times()[step]);
  const std::vector<double> expected{9.9875, 3, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0};
  ASSERT_EQ(times.size(), expected.size());
  for (std::size_t k = 0; k < times.size(); ++k) EXPECT_NEAR(times[k], expected[k], 0.5 * 10.0 / 8000 + 1e-9);
}

// Masses of a Gaussian in the cells about the nodes, by the error function.
TEST(PotentialOnGrid, HasTheMassesOfAGaussianInTheBox) {
  const double variance = 0.09, mean[] = {0.5, -3.2}, t = 0.4;  // a fifth of it outside the box
  const std::vector<double> found =
      potential_on_grid(context, model_of(gaussian(variance, {mean[0], mean[1]})), {t}).front();
  const double shrink = std::exp(-t), deviation = std::sqrt(shrink * shrink * variance + 0.5 * (1 - shrink * shrink)),
               h = 7.0 / 63;
  std::vector<double> masses[2];
  for (const int axis : {0, 1}) {
    const auto below = [&](double x) {
      return 0.5 * std::erfc((shrink * mean[axis] - x) / (std::sqrt(2.0) * deviation));
    };
    for (int i = 0; i < 64; ++i) {
      const double low = std::max(-3.5, -3.5 + (i - 0.5) * h), high = std::min(3.5, -3.5 + (i + 0.5) * h);
      masses[axis].push_back((below(high) - below(low)) / (below(3.5) - below(-3.5)));
    }
  }
  ASSERT_EQ(found.size(), 64u * 64u);
  double difference = 0;
  for (int i = 0; i < 64 * 64; ++i) difference += std::abs(found[i] - masses[0][i % 64] * masses[1][i / 64]);
  // The midpoint rule in cells of width h/4 has the relative error (h/4)²/24 f″/f, here 2e-4 in the mean.
  EXPECT_LT(difference, 4e-4);
  EXPECT_NEAR(std::accumulate(found.begin(), found.end(), 0.0), 1, 1e-12);
}

// In a box whose axes have limits of their own: nodes in x at 0, 0.1, … 1.5 and in y at −1, −0.8, … 2.
TEST(PotentialOnGrid, HasItsAxes) {
  const double variance = 0.09, mean[] = {0.7, 0.4}, low[] = {0, -1}, h[] = {0.1, 0.2};
  const Grid box{.n = 16, .x = {0, 1.5}, .y = {-1, 2}};
  const std::vector<double> found =
      potential_on_grid(context, model_of(gaussian(variance, {mean[0], mean[1]})), {0.0}, box).front();
  std::vector<double> masses[2];
  for (const int axis : {0, 1}) {
    const double high = low[axis] + 15 * h[axis];
    const auto below = [&](double x) { return 0.5 * std::erfc((mean[axis] - x) / std::sqrt(2 * variance)); };
    for (int i = 0; i < 16; ++i) {
      const double from = std::max(low[axis], low[axis] + (i - 0.5) * h[axis]),
                   to = std::min(high, low[axis] + (i + 0.5) * h[axis]);
      masses[axis].push_back((below(to) - below(from)) / (below(high) - below(low[axis])));
    }
  }
  double difference = 0;
  for (int i = 0; i < 16 * 16; ++i) difference += std::abs(found[i] - masses[0][i % 16] * masses[1][i / 16]);
  // The midpoint rule in cells of width h/4 has the relative error (h/4)²/24 f″/f: with f″/f of some 1/variance, 1e-3 in y.
  EXPECT_LT(difference, 2e-3);
  EXPECT_NEAR(std::accumulate(found.begin(), found.end(), 0.0), 1, 1e-12);
}

// All distances are those of draws from one law.
TEST(Gap, IsNoneOfAnExactModelAtAnyTime) {
  const DataSet data = DataSet::named("blob");
  const Model model = model_of(*data.exact());
  const TimeGrid grid = TimeGrid::paper(model.sde.horizon());
  double last = 0;
  GapOptions options{.samples = 10000, .in_detail = true};
  options.progress = [&](GapStage, double done) { last = done; };
  const SamplerGap gap = measure_gap(context, model, data, grid, options);
  EXPECT_GT(last, 0.5);
  ASSERT_TRUE(gap.over_time && gap.grid_share());
  const GapOverTime& over_time = *gap.over_time;
  const std::vector<double> floors = marginal_noise_floors(context, model.sde, data, over_time.times, options);
  ASSERT_EQ(over_time.times.size(), over_time.steps.size());
  ASSERT_EQ(floors.size(), over_time.steps.size());
  for (std::size_t k = 0; k < over_time.steps.size(); ++k) {
    SCOPED_TRACE(over_time.times[k]);
    EXPECT_GT(floors[k], 0);
    EXPECT_LT(over_time.ode_sde[k].w2_squared, 1.5 * floors[k]);
    EXPECT_LT(over_time.potential_sde[k].w2_squared, 1.5 * floors[k]);
    EXPECT_LT(over_time.potential_ode[k].w2_squared, 1.5 * floors[k]);
    EXPECT_LT(std::abs(over_time.ode_sde[k].certificate_gap()), 1e-12);
  }
  for (const TransportResult& distance : {gap.ode_sde, gap.ode_truth, gap.sde_truth}) {
    EXPECT_LT(distance.w2_squared, 1.5 * gap.noise_floor);
  }
  EXPECT_EQ(over_time.ode_sde.back().w2_squared, gap.ode_sde.w2_squared);
  EXPECT_EQ(over_time.times.back(), 0);
  // As by itself, without what is measured in detail.
  options.in_detail = false;
  const SamplerGap same = measure_gap(context, model, data, grid, options);
  EXPECT_EQ(same.ode_sde.w2_squared, gap.ode_sde.w2_squared);
  EXPECT_EQ(same.sde_truth.w2_squared, gap.sde_truth.w2_squared);
  EXPECT_FALSE(same.over_time || same.ode_sde_at_half_spacing || same.grid_share());
  // The grid's share of so small a distance is proportional to its spacing.
  EXPECT_LT(gap.ode_sde_at_half_spacing->w2_squared, gap.ode_sde.w2_squared);
  EXPECT_GT(*gap.grid_share(), 0);
}

// The potential of a law elsewhere: its samplers agree with each other, and both miss the data by the shift.
TEST(Gap, OfAnotherLawIsBetweenItAndTheData) {
  const DataSet data = DataSet::mixture(gaussian(0.2, {0.5, 0.25}));
  const Model model = model_of(gaussian(0.2, {-0.5, 0.25}));
  const SamplerGap gap =
      measure_gap(context, model, data, TimeGrid::geometric(model.sde.horizon(), 1e-3, 150), {.samples = 10000});
  EXPECT_LT(gap.ode_sde.w2_squared, 1.5 * gap.noise_floor);
  EXPECT_NEAR(gap.ode_truth.w2_squared, 1, 0.05);
  EXPECT_NEAR(gap.sde_truth.w2_squared, 1, 0.05);
  EXPECT_EQ(gap.ode.escaped, 0);
}

// In a box of two spacings, where the data are off the middle; and the sliced distances beside: of the samplers' laws,
// which are drawn as by a sampler, of the ground truth's, and of two further draws.
TEST(Gap, HasSlicedDistancesBesideThoseOfItsBox) {
  const DataSet data = DataSet::mixture(gaussian(0.2, {1.5, 5.25}));
  const Model model = model_of(gaussian(0.2, {0.5, 5.25}));
  // With 100 steps the samplers' means, 5 from 0, are 0.1 apart, and the error falls with the step.
  const TimeGrid grid = TimeGrid::geometric(model.sde.horizon(), 1e-3, 800);
  GapOptions options{.samples = 5000, .sliced = true, .box = {.x = {-2, 4}, .y = {2, 9}}};
  const GroundTruth truth = ground_truth(context, data, options);
  const SamplerGap gap = measure_gap(context, model, truth, grid, options);
  EXPECT_EQ(gap.ode.escaped, 0);
  EXPECT_EQ(gap.sde.escaped, 0);
  EXPECT_EQ(gap.truth_escaped, truth.law.escaped);
  // Means of 5000 draws are 0.01 apart by chance, and twice that counts; the steps change as much.
  EXPECT_NEAR(gap.ode_truth.w2_squared, 1, 0.1);
  EXPECT_NEAR(gap.sde_truth.w2_squared, 1, 0.1);
  ASSERT_TRUE(gap.sliced.has_value());
  EXPECT_EQ(gap.sliced->samples, 5000);
  // A shift δ has the mean |δ|²/2 over directions, with a deviation of 1/√8 of one direction; 256 of them.
  for (const double shifted : {gap.sliced->ode_truth, gap.sliced->sde_truth}) {
    EXPECT_NEAR(shifted, 0.5, 5 / std::sqrt(8.0 * 256) + 0.05);
  }
  EXPECT_LT(gap.sliced->ode_sde, 4 * gap.sliced->noise_floor);
  EXPECT_GT(gap.sliced->noise_floor, 0);
  const auto samples = [&](Scheme scheme) {
    Buffer<float> drawn(context, options.samples, 2);
    Sampler(context, model, grid).sample(drawn, {.scheme = scheme, .seed = options.seed});
    return drawn;
  };
  const Buffer<float> ode = samples(Scheme::euler), sde = samples(Scheme::euler_maruyama);
  EXPECT_EQ(gap.sliced->ode_sde, sliced_w2_squared(context, ode, sde));
  EXPECT_EQ(gap.sliced->ode_truth, sliced_w2_squared(context, gap.ode, truth.law));
  // Drawn in parts and gone on with.
  std::vector<GapState> states;
  options.save = [&](const GapState& state) { states.push_back(state); };
  const SamplerGap saved = measure_gap(context, model, truth, grid, options);
  if (testing::backend_under_test == BackendKind::cpu) {
    EXPECT_EQ(saved.sliced->sde_truth, gap.sliced->sde_truth);
  }
  ASSERT_EQ(states.size(), 2u);
  options.from = states[0];
  const SamplerGap again = measure_gap(context, model, truth, grid, options);
  EXPECT_EQ(again.sliced->sde_truth, saved.sliced->sde_truth);
  options.from.sde.samples.pop_back();
  EXPECT_THAT(message_of([&] { measure_gap(context, model, truth, grid, options); }),
              HasSubstr("9999 coordinates of its samples; allowed: 10000"));

  const GroundTruth without = ground_truth(context, data, {.samples = 5000, .box = options.box});
  EXPECT_FALSE(without.sliced_noise_floor.has_value());
  EXPECT_FALSE(measure_gap(context, model, without, grid, {.samples = 5000, .box = options.box}).sliced.has_value());
  options.from = {};
  EXPECT_THAT(message_of([&] { measure_gap(context, model, without, grid, options); }),
              HasSubstr("a ground truth that was made without"));
}

// Of millions of samples the first are kept.
TEST(EmpiricalLaw, KeepsTheSamplesOfSlicedDistances) {
  const std::int64_t n = most_sliced + 5;
  Buffer<float> many(context, n, 2);
  DataSet::named("blob").draw(context, many, 3);
  std::vector<float> expected(static_cast<std::size_t>(2 * most_sliced)), found(expected.size());
  copy(context, many.view().slice(0, most_sliced), View<float>(expected, 2));
  const EmpiricalLaw law = empirical_law(context, std::move(many));
  EXPECT_EQ(law.histogram->inside + law.histogram->outside, n);
  EXPECT_EQ(law.health.count, n);
  ASSERT_EQ(law.samples.rows(), most_sliced);
  copy(context, law.samples.view(), View<float>(found, 2));
  context.synchronize();
  EXPECT_EQ(found, expected);
  // As points they are all there, without a histogram.
  const EmpiricalLaw points = law_of_points(context, Buffer<float>(context, 4, 2));
  EXPECT_FALSE(points.histogram.has_value());
  EXPECT_EQ(points.samples.rows(), 4);
  EXPECT_EQ(points.escaped, 0);
  EXPECT_EQ(w2_squared(context, points, points).w2_squared, 0);
  EXPECT_THAT(
      message_of([&] { sliced_w2_squared(context, points, law_of_points(context, Buffer<float>(context, 4, 3))); }),
      HasSubstr("laws of dimension 2 and 3"));
}

class GapIn : public ::testing::TestWithParam<std::int64_t> {};

// From the prior N(0, v I) at T and with the score of N(0, c I), whose law at T has the variance w = m² c + σ²: the
// flow scales by √(c/w), the reverse SDE draws x_0 given x_T, of mean (m c/w) x_T and variance c − (m c)²/w.
TEST_P(GapIn, ShowsAPriorThatIsNotTheLawAtTheHorizon) {
  const std::int64_t d = GetParam();
  const double c = 0.04;
  const DataSet data = DataSet::mixture(gaussian(c, std::vector<double>(static_cast<std::size_t>(d), 0)));
  const Model model{ForwardSde::ou({.horizon = 0.2}), *data.exact()};
  const SdeCoefficients<double> at = model.sde.at(0.2);
  const double v = model.sde.prior_variance(), w = at.mean * at.mean * c + at.variance, slope = at.mean * c / w,
               deviation_ode = std::sqrt(v * c / w), deviation_sde = std::sqrt(c + slope * slope * (v - w));
  const SamplerGap gap =
      measure_gap(context, model, data, TimeGrid::uniform(0.2, 0, 200),
                  {.samples = d == 2 ? 20000 : 10000, .ode_scheme = Scheme::heun, .in_detail = true});
  const auto squared = [](double a, double b) { return (a - b) * (a - b); };
  if (d == 2) {  // both coordinates count
    // To round a law to its nodes moves it by h/√6.
    const auto expect_distance = [](const TransportResult& found, double expected) {
      EXPECT_NEAR(std::sqrt(found.w2_squared), std::sqrt(expected), Grid{}.spacing(0) / std::sqrt(6.0));
    };
    expect_distance(gap.ode_sde, 2 * squared(deviation_ode, deviation_sde));
    expect_distance(gap.ode_truth, 2 * squared(deviation_ode, std::sqrt(c)));
    expect_distance(gap.sde_truth, 2 * squared(deviation_sde, std::sqrt(c)));
    const double expected = 2 * squared(deviation_ode, deviation_sde);
    EXPECT_NEAR(gap.ode_sde.w2_squared - *gap.grid_share(), expected, 0.1 * expected + gap.noise_floor);
  } else {  // a direction counts; the SDE's steps change its deviation by a few per mille
    const auto expect_distance = [&](const TransportResult& found, double expected) {
      EXPECT_NEAR(found.w2_squared, expected, 0.1 * expected + gap.noise_floor);
    };
    expect_distance(gap.ode_sde, squared(deviation_ode, deviation_sde));
    expect_distance(gap.ode_truth, squared(deviation_ode, std::sqrt(c)));
    expect_distance(gap.sde_truth, squared(deviation_sde, std::sqrt(c)));
  }
  EXPECT_GT(gap.ode_sde.w2_squared, 5 * gap.noise_floor);
  EXPECT_EQ(gap.over_time.has_value(), d == 2);
}

// Saved after each part, and gone on from any of them.
TEST_P(GapIn, GoesOnFromAnyStateToTheSameResult) {
  const std::int64_t d = GetParam();
  const DataSet data = DataSet::mixture(gaussian(0.3, std::vector<double>(static_cast<std::size_t>(d), 0.5)));
  const Model model = model_of(*data.exact());
  const TimeGrid grid = TimeGrid::geometric(model.sde.horizon(), 0.1, 4);
  std::vector<GapState> states;
  GapOptions options{.samples = 20000, .seed = 3, .in_detail = true, .box = {.n = 16}};
  const GroundTruth truth = ground_truth(context, data, options);
  const SamplerGap at_once = measure_gap(context, model, truth, grid, options);
  options.save = [&](const GapState& state) { states.push_back(state); };
  measure_gap(context, model, truth, grid, options);
  ASSERT_EQ(states.size(), 4u);  // 16384 and the rest, of each sampler
  for (const GapState& state : {states[0], states[2]}) {
    SCOPED_TRACE(state.sde.drawn + state.ode.drawn);
    options.from = state;
    options.save = {};
    const SamplerGap gap = measure_gap(context, model, truth, grid, options);
    EXPECT_EQ(gap.ode_sde.w2_squared, at_once.ode_sde.w2_squared);
    EXPECT_EQ(gap.sde_truth.w2_squared, at_once.sde_truth.w2_squared);
    EXPECT_EQ(gap.ode.escaped, at_once.ode.escaped);
    EXPECT_GE(gap.sde_seconds, state.sde.seconds);
    if (d == 2) {
      EXPECT_EQ(gap.over_time->ode.front().weights, at_once.over_time->ode.front().weights);
    }
  }
  const auto refusal = [&](const auto& change) {
    options.from = states[1];
    change(options.from.sde);
    return message_of([&] { measure_gap(context, model, truth, grid, options); });
  };
  EXPECT_THAT(refusal([](DrawnSamples& state) { state.drawn = 20001; }),
              HasSubstr("20001 samples; allowed: 0 to 20000"));
  EXPECT_THAT(refusal([](DrawnSamples& state) { state.drawn = -1; }), HasSubstr("-1 samples"));
  if (d == 2) {
    EXPECT_THAT(refusal([](DrawnSamples& state) { state.histograms.pop_back(); }), HasSubstr("histograms; allowed: "));
    EXPECT_THAT(refusal([](DrawnSamples& state) { state.histograms[1].weights.pop_back(); }),
                HasSubstr("960 weights in histogram 1; allowed: 961"));
    EXPECT_THAT(refusal([](DrawnSamples& state) { ++state.histograms[1].outside; }),
                HasSubstr("outside samples in histogram 1; allowed: 20000 together"));
    EXPECT_THAT(refusal([](DrawnSamples& state) { state.histograms[0].inside = -1; }), HasSubstr("-1 inside and "));
    for (const double weight : {-0.5, 1.5, std::nan("")}) {
      EXPECT_THAT(refusal([&](DrawnSamples& state) { state.histograms[0].weights[3] = weight; }),
                  HasSubstr(fmt::format("{} as a weight in histogram 0; allowed: 0 to 1", weight)));
    }
  } else {
    EXPECT_THAT(refusal([](DrawnSamples& state) { state.samples.pop_back(); }),
                HasSubstr("59999 coordinates of its samples; allowed: 60000"));
  }
}

INSTANTIATE_TEST_SUITE_P(Dimension, GapIn, ::testing::Values(2, 3),
                         [](const auto& test) { return std::to_string(test.param) + "d"; });

// Of an exact score every member of the family has the law of the data, but for its steps; η = 1 is the reverse SDE itself,
// and η = 0 Euler's flow, whose samples roundings alone can carry to another node.
TEST(GapAlongEta, HoldsBothSamplersAndWhatLiesBetween) {
  const std::vector<double> mean{0.5, -0.25};
  const DataSet data = DataSet::mixture(gaussian(0.3, mean));
  const Model model = model_of(*data.exact());
  const TimeGrid grid = TimeGrid::geometric(model.sde.horizon(), 1e-3, 80);
  std::vector<double> progress;
  GapOptions options{.samples = 20000, .seed = 4};
  const GroundTruth truth = ground_truth(context, data, options);
  const SamplerGap gap = measure_gap(context, model, truth, grid, options);
  options.progress = [&](GapStage stage, double done) {
    EXPECT_EQ(stage, GapStage::sde_samples);
    progress.push_back(done);
  };
  const std::vector<EtaLaw> laws = gap_along_eta(context, model, truth, gap.ode, grid, {0, 0.5, 1, 1.5}, options);
  ASSERT_EQ(laws.size(), 4u);
  EXPECT_EQ(laws[2].law.histogram->weights, gap.sde.histogram->weights);
  EXPECT_EQ(laws[2].ode.w2_squared, gap.ode_sde.w2_squared);
  EXPECT_EQ(laws[2].truth.w2_squared, gap.sde_truth.w2_squared);
  EXPECT_LT(laws[0].ode.w2_squared, 1e-4 * truth.noise_floor);
  for (const EtaLaw& of : laws) {
    EXPECT_LT(of.truth.w2_squared, 4 * truth.noise_floor) << of.eta;
    EXPECT_EQ(of.law.escaped, 0) << of.eta;
  }
  if (testing::backend_under_test == BackendKind::cpu) {
    EXPECT_EQ(progress.back(), 1);
    EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));
  }
  const auto refusal = [&](const std::vector<double>& etas, const GapOptions& with) {
    return message_of([&] { gap_along_eta(context, model, truth, gap.ode, grid, etas, with); });
  };
  EXPECT_THAT(refusal({1, -1}, options), HasSubstr("eta -1 given with euler-maruyama; allowed: 0 to 100"));
  EXPECT_THAT(refusal({1}, {.box = {.n = 32}}), HasSubstr("another grid"));
  EXPECT_TRUE(gap_along_eta(context, model, truth, gap.ode, grid, {}, options).empty());

  // In space the distances are sliced.
  const DataSet spatial = DataSet::mixture(gaussian(0.3, {0, 1, 0}));
  const Model in_space = model_of(*spatial.exact());
  const GroundTruth of_space = ground_truth(context, spatial, {.samples = 5000});
  const SamplerGap space = measure_gap(context, in_space, of_space, grid, {.samples = 5000});
  const std::vector<EtaLaw> at_one =
      gap_along_eta(context, in_space, of_space, space.ode, grid, {1}, {.samples = 5000});
  EXPECT_EQ(at_one[0].ode.w2_squared, space.ode_sde.w2_squared);
  EXPECT_EQ(at_one[0].truth.w2_squared, space.sde_truth.w2_squared);
  EXPECT_THAT(message_of([&] { gap_along_eta(context, in_space, of_space, gap.ode, grid, {1}, {.samples = 5000}); }),
              HasSubstr("another dimension or grid"));
}

TEST(Gap, RefusesWhatDoesNotFit) {
  const DataSet planar = DataSet::mixture(gaussian(0.3, {0, 0})), spatial = DataSet::mixture(gaussian(0.3, {0, 0, 0}));
  const Model model = model_of(*planar.exact());
  const TimeGrid grid = TimeGrid::uniform(model.sde.horizon(), 0.1, 2);
  const auto refusal = [&](const DataSet& data, const GapOptions& options) {
    return message_of([&] { measure_gap(context, model, data, grid, options); });
  };
  EXPECT_THAT(refusal(spatial, {}), HasSubstr("the model has dimension 2 and the data 3"));
  EXPECT_THAT(refusal(planar, {.samples = 0}), HasSubstr("a gap between 0 samples each; allowed: 1 or more"));
  EXPECT_THAT(refusal(planar, {.ode_scheme = Scheme::euler_maruyama}), HasSubstr("allowed: euler, heun, rk4"));
  EXPECT_THAT(refusal(planar, {.box = {.n = 257}}), HasSubstr("257 nodes a side; allowed: up to 256"));
  EXPECT_THAT(refusal(planar, {.in_detail = true, .box = {.n = 129}}), HasSubstr("129 nodes a side in detail"));
  const GroundTruth truth = ground_truth(context, planar, {.samples = 100});
  EXPECT_THAT(message_of([&] { measure_gap(context, model, truth, grid, {.samples = 100, .box = {.n = 32}}); }),
              HasSubstr("another grid than the gap's, 64 nodes a side on [-3.5, 3.5] × [-3.5, 3.5] and 32 nodes"));
  EXPECT_THAT(message_of([&] { marginal_noise_floors(context, model.sde, spatial, {0.5}); }),
              HasSubstr("has dimension 3; allowed: 2"));
  EXPECT_THAT(message_of([&] { potential_on_grid(context, model_of(*spatial.exact()), {0.5}); }),
              HasSubstr("has dimension 3; allowed: 2"));
  EXPECT_THAT(message_of([&] { w2_squared(context, truth.law, empirical_law(context, Buffer<float>(context, 4, 3))); }),
              HasSubstr("laws of dimension 2 and 3"));
  const EmpiricalLaw wider = empirical_law(context, Buffer<float>(context, 4, 2), {.y = {-3.5, 7}});
  EXPECT_THAT(message_of([&] { w2_squared(context, truth.law, wider); }),
              HasSubstr("laws on 64 nodes a side on [-3.5, 3.5] × [-3.5, 3.5] and on 64 nodes a side on [-3.5, 3.5] × "
                        "[-3.5, 7] are compared"));
}

// A sampler of a law a thousand times as wide as the data. Finite samples count in the distance, however far out, and
// drawn in parts they have the health that they have at once.
TEST_P(GapIn, CountsSamplesBeyondTheScaleOfTheData) {
  const std::int64_t d = GetParam();
  const std::vector<double> origin(static_cast<std::size_t>(d));
  const DataSet data = DataSet::mixture(gaussian(1e-2, origin));
  const Model model = model_of(gaussian(1e4, origin));
  const TimeGrid grid = TimeGrid::geometric(model.sde.horizon(), 1e-3, 8);
  GapOptions options{.samples = 17000};
  const GroundTruth truth = ground_truth(context, data, options);
  EXPECT_EQ(truth.far, data_scale(context, data).far());
  EXPECT_EQ(truth.law.health.lost(), 0);
  const SamplerGap gap = measure_gap(context, model, truth, grid, options);
  options.save = [](const GapState&) {};
  const SamplerGap in_parts = measure_gap(context, model, truth, grid, options);
  for (const auto& [law, parts] : {std::pair(&gap.ode, &in_parts.ode), std::pair(&gap.sde, &in_parts.sde)}) {
    EXPECT_EQ(law->health.count, 17000);
    EXPECT_EQ(law->health.not_finite, 0);
    EXPECT_GT(law->health.far_out, 100);
    EXPECT_EQ(law->health.far, truth.far);
    EXPECT_EQ(law->health.far_out, parts->health.far_out);
    EXPECT_EQ(parts->health.count, 17000);
    if (d != 2) {
      EXPECT_EQ(law->escaped, law->health.lost());
    }
  }
  if (d != 2) {
    EXPECT_GT(gap.sde_truth.w2_squared, 10);
  }
}

// Laws of which no sample is left have no distance.
TEST(Gap, OfLostSamplesIsNotANumber) {
  const std::vector<float> far{9, 9, -9, 9};
  Buffer<float> samples(context, 2, 2);
  copy(context, View<const float>(far.data(), 2, 2), samples.view());
  context.synchronize();
  const EmpiricalLaw lost = empirical_law(context, std::move(samples));
  const EmpiricalLaw origin = empirical_law(context, Buffer<float>(context, 2, 2));
  EXPECT_EQ(lost.escaped, 1);
  EXPECT_TRUE(std::isnan(w2_squared(context, lost, origin).w2_squared));
  EXPECT_TRUE(std::isnan(w2_squared(context, origin, lost).certificate_gap()));
  EXPECT_EQ(w2_squared(context, origin, origin).w2_squared, 0);
  EXPECT_GT(sliced_w2_squared(context, lost, origin), 9);  // whatever the box, these are finite

  // In other dimensions only what is not finite is left out.
  const auto law_of = [&](const std::vector<float>& numbers) {
    Buffer<float> there(context, 2, 1);
    copy(context, View<const float>(numbers.data(), 2, 1), there.view());
    context.synchronize();
    return empirical_law(context, std::move(there), {}, 1);
  };
  const float none = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(law_of({none, none}).escaped, 1);
  EXPECT_TRUE(std::isnan(w2_squared(context, law_of({none, none}), law_of({0, 0})).w2_squared));
  EXPECT_TRUE(std::isnan(sliced_w2_squared(context, law_of({0, 0}), law_of({none, none}))));
  EXPECT_EQ(law_of({3, 3}).escaped, 1);
  EXPECT_EQ(law_of({3, none}).health.far_out, 1);
  EXPECT_NEAR(w2_squared(context, law_of({3, none}), law_of({0, 0})).w2_squared, 9, 1e-12);
}

}  // namespace
}  // namespace fokker
