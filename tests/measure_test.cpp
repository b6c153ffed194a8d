// What the reproduction measures beside the gap, where the answer is known: models whose potential is the exact
// log-density of Gaussian data.
#include "measure.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "diagnose.hpp"
#include "fokker/fokker.hpp"
#include "scratch.hpp"

namespace fokker::tools {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const Context context({.backend = fokker::testing::backend_under_test});

Model gaussian(double variance, std::vector<double> mean) {
  return {ForwardSde::defaults(SdeKind::ou), GaussianMixture::isotropic(2, {1}, std::move(mean), {variance})};
}

TEST(StepsAlongTheWay, AreNearestToTheTimesAndEndWithTheGrid) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  for (const char* text : {"paper", "geometric:150:1e-3", "uniform:3:1", "uniform:1"}) {
    SCOPED_TRACE(text);
    const TimeGrid grid = TimeGrid::parse(text, sde);
    const std::vector<std::int32_t> steps = steps_along_the_way(grid);
    EXPECT_EQ(steps.back(), grid.steps());
    EXPECT_EQ(steps.front(), 1);
    for (std::size_t k = 1; k < steps.size(); ++k) EXPECT_LT(steps[k - 1], steps[k]);
  }
  const TimeGrid paper = TimeGrid::paper(10);
  std::vector<double> times;
  for (const std::int32_t step : steps_along_the_way(paper)) times.push_back(paper.times()[step]);
  const std::vector<double> expected{9.9875, 3, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0};
  ASSERT_EQ(times.size(), expected.size());
  for (std::size_t k = 0; k < times.size(); ++k) EXPECT_NEAR(times[k], expected[k], 0.5 * 10.0 / 8000 + 1e-9);
}

// Masses of a Gaussian in the cells about the nodes, by the error function.
TEST(PotentialOnGrid, HasTheMassesOfAGaussianInTheBox) {
  const double variance = 0.09, mean[] = {0.5, -3.2}, t = 0.4;  // a fifth of it outside the box
  const Model model = gaussian(variance, {mean[0], mean[1]});
  const Grid grid;
  const std::vector<double> found = potential_on_grid(context, model, {t}, grid).front();
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

// With x_0 ~ N(0, c I) and the exact score, E (s − ∇ log p(x_t | x_0))² is m² c/(σ² (m² c + σ²)) a coordinate.
TEST(DenoisingLoss, IsThatOfTheExactScoreOfAGaussian) {
  const double c = 0.3;
  const Model model = gaussian(c, {0, 0});
  const DataSet data = DataSet::mixture(std::get<GaussianMixture>(model.network));
  const double t_min = model.sde.t_min(), horizon = model.sde.horizon(), span = horizon - t_min,
               range = std::log(horizon / t_min);
  double expected = 0, square = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double t = t_min * std::exp(range * (i + 0.5) / n), m2 = std::exp(-2 * t), v = 0.5 * (1 - m2);
    const double density = 2 * (horizon - t) / (span * span);
    const double value = density * t * range * m2 * c / (v * (m2 * c + v));
    expected += value / n;
    square += value * value / n;
  }
  const double standard_error = std::sqrt(square / (1 << 18));  // of 2^18 points with two coordinates each
  for (const std::uint64_t seed : {0, 1}) {
    EXPECT_NEAR(denoising_loss(context, model, data, seed), expected, 4 * standard_error);
  }
  EXPECT_LT(standard_error, 0.01 * expected);
}

// More samples than are drawn at once, ended in the midst of the SDE's, then before the ODE's, and gone on with: the
// samples of one call of a Sampler.
class MeasureGapIn : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(MeasureGapIn, GoesOnFromWhatWasKept) {
  const std::int64_t dimension = GetParam();
  const testing::Scratch scratch;
  const std::vector<double> mean(static_cast<std::size_t>(dimension), 0.5);
  const DataSet data = DataSet::mixture(GaussianMixture::isotropic(dimension, {1}, mean, {0.3}));
  const Model model{ForwardSde::defaults(SdeKind::ou), *data.exact()};
  const GapOptions options{
      .samples = 20000, .seed = 3, .grid = "geometric:6:1e-1", .ode_scheme = Scheme::heun, .in_detail = true};
  const std::string file = scratch / "samples.safetensors";
  const Truth truth = measure_truth(context, data, options);
  std::vector<double> done;  // of the steps, by earlier calls
  const auto measure = [&](const char* work, int stop, double stop_sampling = 2) {
    done.clear();
    const auto step = [&, stop, stop_sampling](int number, double by_earlier) -> FractionDone {
      if (number == stop) throw Error("stopped");
      done.push_back(by_earlier);
      return [=](double now) {
        if (now >= stop_sampling) throw Error("stopped");
      };
    };
    return measure_gap(context, model, truth, options, step, {file, work, 0});
  };
  EXPECT_THROW(measure("this", -1, 1), Error);
  EXPECT_THROW(measure("this", 1), Error);
  ASSERT_EQ(done.size(), 1u);
  EXPECT_GT(done[0], 0);
  EXPECT_LT(done[0], 1);
  const Gap gap = measure("this", -1);
  EXPECT_EQ(done, (std::vector<double>{1, 0, 0}));
  EXPECT_THROW(measure("other", 2), Error);  // and is kept now instead
  EXPECT_EQ(done, (std::vector<double>{0, 0}));
  EXPECT_THROW(measure("other", 2), Error);
  EXPECT_EQ(done, (std::vector<double>{1, 1}));
  EXPECT_THROW(measure("this", 2), Error);
  EXPECT_EQ(done, (std::vector<double>{0, 0}));

  const Sampler sampler(context, model, TimeGrid::parse(options.grid, model.sde));
  const std::vector<std::int32_t> steps = steps_along_the_way(sampler.grid());
  const std::int64_t n = options.samples, states = std::ssize(steps);
  Buffer<float> on_the_way(context, states * n, dimension);
  const auto at_once = [&](Scheme scheme) {
    Buffer<float> samples(context, n, dimension);
    sampler.sample(samples.view(),
                   {.scheme = scheme, .seed = options.seed, .snapshot_steps = steps, .snapshots = on_the_way.view()});
    return Cloud::of(context, std::move(samples));
  };
  const Cloud sde = at_once(Scheme::euler_maruyama), ode = at_once(Scheme::heun);
  EXPECT_EQ(gap.ode_sde.value, distance(context, ode, sde).value);
  EXPECT_EQ(gap.ode.escaped, ode.escaped);
  if (dimension != 2) return;
  EXPECT_EQ(gap.sde.histogram->weights, sde.histogram->weights);
  EXPECT_EQ(gap.ode.histogram->inside, ode.histogram->inside);
  ASSERT_EQ(gap.along_the_way->ode.size(), steps.size());
  for (std::int64_t k = 0; k < states; ++k) {
    const View<const float> there{on_the_way.data() + k * n * 2, n, 2, context.device()};
    EXPECT_EQ(gap.along_the_way->ode[k].weights, histogram(context, there).weights);
  }
}

INSTANTIATE_TEST_SUITE_P(Dimension, MeasureGapIn, ::testing::Values(2, 3), ::testing::PrintToStringParamName());

// Ended in the midst of the energy, then before the bound, and gone on with: the numbers of one call.
TEST(Diagnose, GoesOnFromTheEnergyThatWasKept) {
  const testing::Scratch scratch;
  const Model model = gaussian(0.3, {0.5, 0});
  const DiagnoseOptions options{
      .grid = "geometric:8:1e-2", .energy = {.nodes = 32}, .bound = {.samples = 50, .box_points = 50}, .samples = 0};
  double by_earlier = 0;
  const auto diagnose_to = [&](const char* work, int stop, double stop_energy = 2) {
    const auto step = [&, stop, stop_energy](int number, double done) -> FractionDone {
      if (number == stop) throw Error("stopped");
      if (number == 0) by_earlier = done;
      return [=](double now) {
        if (number == 0 && now >= stop_energy) throw Error("stopped");
      };
    };
    return diagnose(context, model, options, step, {scratch / "energy.safetensors", work, 0});
  };
  const auto json = [&](const Diagnosis& found) { return diagnosis_json(found, options).dump(); };
  EXPECT_THROW(diagnose_to("this", -1, 0.5), Error);
  EXPECT_EQ(by_earlier, 0);
  EXPECT_THROW(diagnose_to("this", 1), Error);
  EXPECT_NEAR(by_earlier, 7 / 12.5, 1e-12);  // of nine times, and of fourteen at half the cost
  const Diagnosis gone_on = diagnose_to("this", -1);
  EXPECT_NEAR(by_earlier, 9 / 12.5, 1e-12);  // the passes for step errors are not kept
  const Diagnosis anew = diagnose_to("other", -1);
  EXPECT_EQ(by_earlier, 0);
  EXPECT_EQ(json(gone_on), json(anew));
  EXPECT_TRUE(gone_on.identity.has_value());
}

// Each sentence names the file and what to do.
TEST(KeptWork, RefusesWhatCannotBeGoneOnWith) {
  const testing::Scratch scratch;
  const KeptWork kept{scratch / "kept.safetensors", "this"};
  const auto nothing = [](int, double) -> FractionDone { return [](double) {}; };
  const Model model{ForwardSde::defaults(SdeKind::ou), GaussianMixture::isotropic(3, {1}, {0, 0, 0}, {0.3})};
  const DataSet data = DataSet::mixture(std::get<GaussianMixture>(model.network));
  const GapOptions options{.samples = 100, .grid = "geometric:2:1e-1"};
  const auto gap = [&] { measure_gap(context, model, measure_truth(context, data, options), options, nothing, kept); };
  const auto energy = [&] {
    diagnose(context, gaussian(0.3, {0.5, 0}),
             {.grid = "geometric:2:1e-1", .energy = {.nodes = 32}, .bound = {}, .samples = 0}, nothing, kept);
  };
  const auto numbers = [](const std::vector<double>& values) {
    return Tensor::from_double({std::ssize(values)}, values.data());
  };
  const auto refused = [&](const auto& call, const std::map<std::string, Tensor>& tensors, const char* why) {
    SafeTensors state;
    state.tensors = tensors;
    if (!tensors.empty()) kept.save(state);
    EXPECT_THAT(testing::message_of(call), AllOf(HasSubstr(fmt::format("cannot go on from '{}': ", kept.file)),
                                                 HasSubstr(why), HasSubstr("; remove it to begin anew")));
  };
  testing::put(kept.file, "damaged");
  refused(gap, {}, "not a safetensors file");
  refused(energy, {}, "not a safetensors file");
  for (const double done : {-1.0, 101.0, std::nan("")}) {
    SCOPED_TRACE(done);
    refused(gap, {{"sde.progress.0", numbers({done, 1})}}, "samples in sde.progress.0; allowed: 0 to 100");
  }
  refused(gap, {{"sde.progress.0", numbers({2})}}, "it has 1 numbers in sde.progress.0; allowed: 2");
  refused(gap, {{"sde.progress.0", numbers({2, 1})}, {"sde.samples.0", numbers({1, 2, 3})}},
          "it has 3 numbers in sde.samples.0; allowed: 6");
  refused(gap, {{"other", numbers({1})}}, "sde.progress.0");
  refused(energy, {{"progress", numbers({1})}}, "it has 1 numbers in progress; allowed: 3");
  refused(energy, {{"progress", numbers({1, 0.5, 1})}, {"log_u", numbers({1, 2})}, {"moments", numbers({1})}},
          "from 1 times with 2 nodes and 1 moments; allowed: up to 3 times with 1024 nodes and 9 moments each");
}

// The exact density of blob leaves no gap at any time: all distances are those of draws from one law.
TEST(MeasureGap, AnExactModelHasNoGapAlongTheWay) {
  const DataSet data = DataSet::named("blob");
  const Model model{ForwardSde::defaults(SdeKind::ou), *data.exact()};
  const GapOptions options{.samples = 10000, .grid = "paper", .ode_scheme = Scheme::euler, .in_detail = true};
  const Truth truth = measure_truth(context, data, options);
  const std::vector<double> floors = noise_floors_along_the_way(context, model.sde, data, options);
  double last = 0;
  const Gap gap = measure_gap(context, model, truth, options,
                              [&](int, double) -> FractionDone { return [&](double done) { last = done; }; });
  EXPECT_GT(last, 0.5);
  ASSERT_TRUE(gap.along_the_way && gap.ode_sde_at_half_spacing);
  const AlongTheWay& way = *gap.along_the_way;
  ASSERT_EQ(way.times.size(), way.steps.size());
  ASSERT_EQ(floors.size(), way.steps.size());
  for (std::size_t k = 0; k < way.steps.size(); ++k) {
    SCOPED_TRACE(way.times[k]);
    EXPECT_GT(floors[k], 0);
    EXPECT_LT(way.ode_sde[k].value, 1.5 * floors[k]);
    EXPECT_LT(way.potential_sde[k].value, 1.5 * floors[k]);
    EXPECT_LT(way.potential_ode[k].value, 1.5 * floors[k]);
    EXPECT_LT(std::abs(way.ode_sde[k].certificate_gap), 1e-12);
  }
  EXPECT_EQ(way.ode_sde.back().value, gap.ode_sde.value);
  EXPECT_EQ(way.times.back(), 0);
  // As by itself, without what is measured in detail.
  GapOptions plain = options;
  plain.in_detail = false;
  const Gap same = measure_gap(context, model, truth, plain, [](int, double) -> FractionDone { return [](double) {}; });
  EXPECT_EQ(same.ode_sde.value, gap.ode_sde.value);
  EXPECT_EQ(same.sde_truth.value, gap.sde_truth.value);
  EXPECT_FALSE(same.along_the_way || same.ode_sde_at_half_spacing);
  // The grid's share of so small a distance is proportional to its spacing.
  EXPECT_LT(gap.ode_sde_at_half_spacing->value, gap.ode_sde.value);
}

}  // namespace
}  // namespace fokker::tools
