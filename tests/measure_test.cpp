// What the reproduction measures beside the gap, where the answer is known: models whose potential is the exact
// log-density of Gaussian data.
#include "measure.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
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
class MeasureIn : public ::testing::TestWithParam<std::int64_t> {};

TEST_P(MeasureIn, GoesOnFromWhatWasSaved) {
  const std::int64_t dimension = GetParam();
  const testing::Scratch scratch;
  const std::vector<double> mean(static_cast<std::size_t>(dimension), 0.5);
  const DataSet data = DataSet::mixture(GaussianMixture::isotropic(dimension, {1}, mean, {0.3}));
  const Model model{ForwardSde::defaults(SdeKind::ou), *data.exact()};
  const TimeGrid grid = TimeGrid::geometric(model.sde.horizon(), 0.1, 6);
  const GapOptions options{.samples = 20000,
                           .seed = 3,
                           .ode_scheme = Scheme::heun,
                           .in_detail = true,
                           // The emulation sorts projections one thread after another.
                           .sliced = fokker::testing::backend_under_test == BackendKind::cpu};
  const std::string file = scratch / "samples.safetensors";
  const GroundTruth truth = ground_truth(context, data, options);
  std::vector<double> done;  // of the steps, by earlier calls
  const auto measure_to = [&](const char* work, int stop, double stop_sampling = 2) {
    done.clear();
    const auto step = [&, stop, stop_sampling](int number, double by_earlier) -> FractionDone {
      if (number == stop) throw Error("stopped");
      done.push_back(by_earlier);
      return [=](double now) {
        if (now >= stop_sampling) throw Error("stopped");
      };
    };
    return measure(context, model, truth, grid, options, step, {file, work, 0}).gap;
  };
  EXPECT_THROW(measure_to("this", -1, 1), Error);
  EXPECT_THROW(measure_to("this", 1), Error);
  ASSERT_EQ(done.size(), 1u);
  EXPECT_GT(done[0], 0);
  EXPECT_LT(done[0], 1);
  const SamplerGap gap = measure_to("this", -1);
  EXPECT_EQ(done, (std::vector<double>{1, 0, 0}));
  EXPECT_THROW(measure_to("other", 2), Error);  // and is saved now instead
  EXPECT_EQ(done, (std::vector<double>{0, 0}));
  EXPECT_THROW(measure_to("other", 2), Error);
  EXPECT_EQ(done, (std::vector<double>{1, 1}));
  EXPECT_THROW(measure_to("this", 2), Error);
  EXPECT_EQ(done, (std::vector<double>{0, 0}));

  const Sampler sampler(context, model, grid);
  const std::vector<std::int32_t> steps = gap_steps(grid);
  const std::int64_t n = options.samples, states = std::ssize(steps);
  Buffer<float> snapshots(context, states * n, dimension);
  const auto at_once = [&](Scheme scheme) {
    Buffer<float> samples(context, n, dimension);
    sampler.sample(samples.view(),
                   {.scheme = scheme, .seed = options.seed, .snapshot_steps = steps, .snapshots = snapshots.view()});
    return empirical_law(context, std::move(samples));
  };
  const EmpiricalLaw sde = at_once(Scheme::euler_maruyama), ode = at_once(Scheme::heun);
  EXPECT_EQ(gap.ode_sde.w2_squared, w2_squared(context, ode, sde).w2_squared);
  EXPECT_EQ(gap.ode.escaped, ode.escaped);
  EXPECT_EQ(gap.sliced.has_value(), options.sliced && dimension == 2);
  if (dimension != 2) return;
  if (gap.sliced) {
    EXPECT_EQ(gap.sliced->ode_sde, sliced_w2_squared(context, ode, sde));
  }
  EXPECT_EQ(gap.sde.histogram->weights, sde.histogram->weights);
  EXPECT_EQ(gap.ode.histogram->inside, ode.histogram->inside);
  ASSERT_EQ(gap.over_time->ode.size(), steps.size());
  for (std::int64_t k = 0; k < states; ++k) {
    const View<const float> points{snapshots.data() + k * n * 2, n, 2, context.device()};
    EXPECT_EQ(gap.over_time->ode[k].weights, histogram(context, points).weights);
  }
}

INSTANTIATE_TEST_SUITE_P(Dimension, MeasureIn, ::testing::Values(2, 3),
                         [](const auto& test) { return std::to_string(test.param) + "d"; });

// Ended in the midst of the energy, then before the bound, and gone on with: the numbers of one call.
TEST(Diagnose, GoesOnFromTheEnergyThatWasSaved) {
  const testing::Scratch scratch;
  const Model model = gaussian(0.3, {0.5, 0});
  const TimeGrid grid = TimeGrid::geometric(model.sde.horizon(), 1e-2, 8);
  const DiagnoseOptions options{.energy = {.nodes = 32}, .bound = {.samples = 50, .box_points = 50}, .samples = 0};
  double by_earlier = 0;
  const auto diagnose_to = [&](const char* work, int stop, double stop_energy = 2) {
    const auto step = [&, stop, stop_energy](int number, double done) -> FractionDone {
      if (number == stop) throw Error("stopped");
      if (number == 0) by_earlier = done;
      return [=](double now) {
        if (number == 0 && now >= stop_energy) throw Error("stopped");
      };
    };
    return diagnose(context, model, grid, options, step, {scratch / "energy.safetensors", work, 0});
  };
  const auto json = [&](const Diagnosis& found) { return diagnosis_json(found, options, "").dump(); };
  EXPECT_THROW(diagnose_to("this", -1, 0.5), Error);
  EXPECT_EQ(by_earlier, 0);
  EXPECT_THROW(diagnose_to("this", 1), Error);
  EXPECT_NEAR(by_earlier, 7 / 12.5, 1e-12);  // of nine times, and of fourteen at half the cost
  const Diagnosis gone_on = diagnose_to("this", -1);
  EXPECT_NEAR(by_earlier, 9 / 12.5, 1e-12);  // the passes for step errors are not saved
  const Diagnosis anew = diagnose_to("other", -1);
  EXPECT_EQ(by_earlier, 0);
  EXPECT_EQ(json(gone_on), json(anew));
  EXPECT_TRUE(gone_on.identity.has_value());
}

// Each sentence names the file and what to do.
TEST(SavedWork, RefusesWhatCannotBeGoneOnWith) {
  const testing::Scratch scratch;
  const SavedWork saved{scratch / "saved.safetensors", "this"};
  const auto nothing = [](int, double) -> FractionDone { return [](double) {}; };
  const Model model{ForwardSde::defaults(SdeKind::ou), GaussianMixture::isotropic(3, {1}, {0, 0, 0}, {0.3})};
  const DataSet data = DataSet::mixture(std::get<GaussianMixture>(model.network));
  const GapOptions options{.samples = 100};
  const TimeGrid grid = TimeGrid::geometric(model.sde.horizon(), 0.1, 2);
  const auto gap = [&] {
    measure(context, model, ground_truth(context, data, options), grid, options, nothing, saved);
  };
  const auto energy = [&] {
    diagnose(context, gaussian(0.3, {0.5, 0}), grid, {.energy = {.nodes = 32}, .bound = {}, .samples = 0}, nothing,
             saved);
  };
  const auto numbers = [](const std::vector<double>& values) {
    return Tensor::from_double({std::ssize(values)}, values.data());
  };
  const auto refused = [&](const auto& call, const std::map<std::string, Tensor>& tensors, const std::string& why) {
    SafeTensors state;
    state.tensors = tensors;
    if (!tensors.empty()) saved.save(state);
    EXPECT_THAT(testing::message_of(call), AllOf(HasSubstr(fmt::format("cannot go on from '{}': ", saved.file)),
                                                 HasSubstr(why), HasSubstr("; remove it to begin anew")));
  };
  testing::put(saved.file, "damaged");
  refused(gap, {}, "not a safetensors file");
  refused(energy, {}, "not a safetensors file");
  const auto progress = [&](double drawn) {
    return std::map<std::string, Tensor>{{"sde.progress.0", numbers({drawn, 1})},
                                         {"sde.samples.0", numbers({1, 2, 3})},
                                         {"ode.progress.0", numbers({0, 0})},
                                         {"ode.samples.0", numbers({})}};
  };
  refused(gap, progress(101), "samples; allowed: 0 to 100");
  for (const double drawn : {-1.0, 0.5, 1e300, std::nan("")}) {
    refused(gap, progress(drawn), fmt::format("sde.progress.0 is {}; allowed: integers from 0 to 2^53", drawn));
  }
  refused(gap, {{"sde.progress.0", numbers({2})}}, "sde.progress.0 is not a number of samples and seconds");
  refused(gap, progress(2), "3 coordinates of its samples; allowed: 6");
  refused(gap, {{"other", numbers({1})}}, "sde.progress.0");
  refused(energy, {{"progress", numbers({1})}}, "it has 1 numbers in progress; allowed: 3");
  refused(energy, {{"progress", numbers({1e300, 0.5, 1})}, {"log_u", numbers({1})}, {"moments", numbers({1})}},
          "its progress is 1e+300; allowed: integers from 0 to 2^53");
  refused(energy, {{"progress", numbers({1, 0.5, 1})}, {"log_u", numbers({1, 2})}, {"moments", numbers({1})}},
          "from 1 times with 2 nodes and 1 moments; allowed: up to 3 times with 1024 nodes and 9 moments each");
}

}  // namespace
}  // namespace fokker::tools
