// Training on the CPU: iterations against the loss of points that the test draws itself from the published counters;
// averages and clipping; threads bit for bit; what is learned; the news of a run; options and models that are refused.
#include "fokker/trainer.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fokker/diagnostics/residual_statistics.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/formulas/train.hpp"
#include "fokker/loss.hpp"
#include "operations/train_schedule.hpp"
#include "trainer_checks.hpp"

namespace fokker {
namespace {

using testing::agrees;
using ::testing::AllOf;
using testing::cpu;
using testing::gaussian;
using testing::get;
using ::testing::HasSubstr;
using testing::message_of;
using testing::parameters_of;
using testing::small_model;
using testing::small_options;
using testing::state_bytes;

// One iteration's losses, gradient norm and points.

// A point's words are those of the counter (seed, point, use, block, step).
std::vector<std::uint32_t> words(const TrainOptions& options, std::int64_t point, RandomUse use, std::int64_t step,
                                 std::int64_t count) {
  std::vector<std::uint32_t> out;
  for (std::uint32_t block = 0; std::int64_t(out.size()) < count; ++block) {
    const PhiloxBlock b = philox4x32_10(options.seed, point, philox_offset(use, block, step));
    out.insert(out.end(), b.word, b.word + 4);
  }
  return out;
}

// Linear between the times, constant beyond them.
double interpolated(const std::vector<LossWeightAt<double>>& rows, double t) {
  if (t <= rows.front().t) return rows.front().weight;
  for (std::size_t k = 1; k < rows.size(); ++k) {
    if (t > rows[k].t) continue;
    const double share = (t - rows[k - 1].t) / (rows[k].t - rows[k - 1].t);
    return (1 - share) * rows[k - 1].weight + share * rows[k].weight;
  }
  return rows.back().weight;
}

struct LossCase {
  std::int64_t dimension;
  SdeKind sde;
  TimeLaw law;
  Output output;
  std::vector<LossWeightAt<double>> weights = {};
  int probes = 0;
};

class Iteration : public ::testing::TestWithParam<LossCase> {};

TEST_P(Iteration, HasTheLossOfTheDocumentedPoints) {
  const auto [d, kind, law, output, weights, probes] = GetParam();
  const ForwardSde sde = ForwardSde::defaults(kind);
  const Model model = small_model(d, output, sde);
  TrainOptions options = small_options();
  options.denoising_points = 989;
  options.collocation_points = 199;
  options.time_law = law;
  if (output == Output::score) options.residual_weight = 0;
  options.residual_probes = probes;
  if (!weights.empty()) options.loss_weight = LossWeight::given;
  options.loss_weights = weights;
  options.clip_norm = 0;
  std::vector<double> means(2 * d, 1.0);
  std::fill(means.begin(), means.begin() + d, -1.0);
  const DataSet data = DataSet::mixture(GaussianMixture::isotropic(d, {1.0, 2.0}, means, {0.2, 0.1}));
  Trainer trainer(cpu(), model, data, options);
  const auto records = trainer.run(2);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(trainer.iteration(), 2);

  // Points of iteration 0 in double.
  const std::int64_t n = options.denoising_points, m = output == Output::score ? 0 : options.collocation_points;
  std::vector<float> x_0(n * d);
  data.draw(cpu(), View<float>(x_0, d), options.seed, 0, 0);
  const std::vector<float> edges = time_law_edges(sde, {}, 4096);
  const TimeDraw time{law, float(sde.t_min()), float(sde.horizon()), 4096, edges.data()};
  std::vector<double> t(n), weight(n), x(n * d), target(n * d), tc(m), xc(m * d);
  for (std::int64_t i = 0; i < n; ++i) {
    float w = 0;
    t[i] = time(uniform_from_word(words(options, i, RandomUse::time, 0, 1)[0]), w);
    weight[i] = w;
    if (!weights.empty()) weight[i] *= interpolated(weights, t[i]);
    const auto at = sde.at(t[i]);
    const auto noise = words(options, i, RandomUse::denoising, 0, d + 1);
    for (std::int64_t j = 0; j < d; ++j) {
      float z[2];
      normals_from_words(noise[j / 2 * 2], noise[j / 2 * 2 + 1], z[0], z[1]);
      x[i * d + j] = at.mean * double{x_0[i * d + j]} + std::sqrt(at.variance) * double{z[j % 2]};
      target[i * d + j] = -double{z[j % 2]} / std::sqrt(at.variance);
    }
  }
  for (std::int64_t i = 0; i < m; ++i) {
    const auto u = words(options, i, RandomUse::collocation, 0, 1 + d);
    tc[i] = sde.t_min() + (sde.horizon() - sde.t_min()) * double{uniform_from_word(u[0])};
    for (std::int64_t j = 0; j < d; ++j) xc[i * d + j] = options.box * (2 * double{uniform_from_word(u[1 + j])} - 1);
  }
  const Mlp& mlp = std::get<Mlp>(model.network);
  const std::vector<double> parameters = [&] {
    const std::vector<float> narrow(mlp.parameters.begin(), mlp.parameters.end());
    return std::vector<double>(narrow.begin(), narrow.end());
  }();
  std::vector<double> values(3), gradient(parameters.size());
  const Loss<double> loss(cpu(), mlp.architecture, sde);
  CollocationBatch<double> collocation;
  if (m > 0) collocation = {View<const double>(tc), View<const double>(xc, d)};
  const PhiloxBlock seed = philox4x32_10(options.seed, 0, philox_offset(RandomUse::probe_seed, 0, 0));
  collocation.divergence = {.probes = probes, .seed = (std::uint64_t{seed.word[0]} << 32) + seed.word[1]};
  loss.evaluate(
      View<const double>(parameters),
      {View<const double>(t), View<const double>(x, d), View<const double>(target, d), View<const double>(weight)},
      collocation, options.residual_weight, View<double>(values), View<double>(gradient));
  const double norm = std::sqrt(std::inner_product(gradient.begin(), gradient.end(), gradient.begin(), 0.0));

  // Float points and sweeps: each term of a mean of a thousand carries a few 1e-6, small σ² and large residuals the
  // most.
  EXPECT_EQ(records[0].iteration, 0);
  EXPECT_TRUE(agrees(records[0].denoising, values[0], 2e-5));
  EXPECT_TRUE(agrees(records[0].residual, m > 0 ? values[1] : 0.0, 2e-5));
  EXPECT_TRUE(agrees(records[0].total, values[2], 2e-5));
  EXPECT_TRUE(agrees(records[0].gradient_norm, norm, 1e-4));
  EXPECT_EQ(records[0].rate, rate_step(options, 0).rate);
  EXPECT_NE(records[1].denoising, records[0].denoising);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Iteration,
    ::testing::Values(LossCase{2, SdeKind::ou, TimeLaw::importance, Output::potential},
                      LossCase{2, SdeKind::ou, TimeLaw::paper, Output::potential},
                      LossCase{1, SdeKind::vp_linear, TimeLaw::importance, Output::potential},
                      LossCase{3, SdeKind::vp_cosine, TimeLaw::uniform, Output::potential},
                      LossCase{5, SdeKind::subvp, TimeLaw::importance, Output::score},
                      LossCase{2, SdeKind::ve, TimeLaw::importance, Output::score},
                      LossCase{2, SdeKind::ddpm, TimeLaw::importance, Output::potential},
                      LossCase{
                          2, SdeKind::ou, TimeLaw::uniform, Output::potential, {{1, 0.5}, {4, 3}, {4.5, 0}, {6, 0.25}}},
                      LossCase{3, SdeKind::ddpm, TimeLaw::uniform, Output::score, {{100, 0}, {300, 1}, {1000, 2}}},
                      LossCase{8, SdeKind::vp_linear, TimeLaw::uniform, Output::potential, {}, 1},
                      LossCase{2, SdeKind::ou, TimeLaw::importance, Output::potential, {}, 3}),
    [](const auto& instance) {
      std::string name =
          fmt::format("d{}_{}_{}_{}", instance.param.dimension, ForwardSde::defaults(instance.param.sde).name(),
                      to_string(instance.param.law), to_string(instance.param.output));
      if (instance.param.probes > 0) name += fmt::format("_{}_probes", instance.param.probes);
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// λ = 1 is the weight `score`, bit for bit.
TEST(GivenLossWeights, OfOneAreThoseOfTheScore) {
  const auto state_of = [](LossWeight weight, std::vector<LossWeightAt<double>> table) {
    TrainOptions options = small_options();
    options.loss_weight = weight, options.loss_weights = std::move(table);
    Model model = small_model();
    std::get<Mlp>(model.network).architecture.form = {.form = Form::edm, .data_deviation = 0.5};
    Trainer trainer(cpu(), model, DataSet::named("blob"), options);
    trainer.run(20);
    return parameters_of(trainer.model());
  };
  const std::vector<double> expected = state_of(LossWeight::score, {});
  EXPECT_EQ(state_of(LossWeight::given, {{0, 1}}), expected);
  EXPECT_EQ(state_of(LossWeight::given, {{0.5, 1}, {2, 1}, {3, 1}}), expected);
  EXPECT_NE(state_of(LossWeight::given, {{0.5, 1}, {2, 1}, {3, 2}}), expected);
}

TEST(Steps, AreAdamsFromTheirRestartOn) { testing::check_steps(cpu()); }

TEST(Average, IsExponentialOrTheMeanOfTheTail) { testing::check_averages(cpu()); }

TEST(Clipping, ScalesTheGradientToTheNormAndNoFurther) { testing::check_clipping(cpu()); }

TEST(Threads, DoNotChangeABit) {
  const DataSet data = DataSet::named("blob");
  TrainOptions options = small_options();
  options.denoising_points = 2'000;
  options.collocation_points = 989;
  for (const int probes : {0, 2}) {
    options.residual_probes = probes;
    std::vector<std::string> states;
    for (const int threads : {1, 2, 3, 7}) {
      Trainer trainer(cpu(threads), small_model(), data, options);
      trainer.run(20);
      states.push_back(state_bytes(trainer));
    }
    for (const std::string& state : states) EXPECT_TRUE(state == states.front());
  }
}

// Learning. φ of a net in double, written from the definition, and its derivatives by central differences.

class Potential {
 public:
  explicit Potential(const Model& model) : sde_(model.sde), mlp_(std::get<Mlp>(model.network)) {}

  double value(double t, std::array<double, 2> x) const {
    std::vector<double> h = {t, x[0], x[1]};
    const Architecture& a = mlp_.architecture;
    std::size_t at = 0;
    for (std::int64_t l = 0; l < a.layers(); ++l) {
      std::vector<double> z(a.outputs(l), 0.0);
      for (double& row : z) {
        for (const double v : h) row += mlp_.parameters[at++] * v;
      }
      for (double& row : z) row += mlp_.parameters[at++];
      if (l + 1 < a.layers()) {
        for (double& row : z) row = row / (1 + std::exp(-row));  // SiLU
      }
      h = std::move(z);
    }
    return h[0];
  }
  std::array<double, 2> score(double t, std::array<double, 2> x) const {
    const double h = 1e-4;
    return {(value(t, {x[0] + h, x[1]}) - value(t, {x[0] - h, x[1]})) / (2 * h),
            (value(t, {x[0], x[1] + h}) - value(t, {x[0], x[1] - h})) / (2 * h)};
  }
  double residual(double t, std::array<double, 2> x) const {
    const double h = 1e-3, middle = value(t, x);
    const auto s = score(t, x);
    const auto at = sde_.at(t);
    const double dt = (value(t + h, x) - value(t - h, x)) / (2 * h);
    const double laplacian = (value(t, {x[0] + h, x[1]}) + value(t, {x[0] - h, x[1]}) + value(t, {x[0], x[1] + h}) +
                              value(t, {x[0], x[1] - h}) - 4 * middle) /
                             (h * h);
    return dt + at.drift * (2 + x[0] * s[0] + x[1] * s[1]) -
           at.diffusion_squared / 2 * (laplacian + s[0] * s[0] + s[1] * s[1]);
  }

 private:
  ForwardSde sde_;
  Mlp mlp_;
};

// rms of (s_θ − ∇ log p_t) over draws of p_t, relative to rms ∇ log p_t.
double score_error(const Model& model, double t) {
  const Potential potential(model);
  const auto at = model.sde.at(t);
  std::mt19937_64 engine(11);
  std::normal_distribution<double> normal;
  double error = 0, scale = 0;
  for (int i = 0; i < 500; ++i) {
    std::array<double, 2> x, exact;
    for (int j = 0; j < 2; ++j) {
      const double mean = at.mean * (j == 0 ? 0.5 : -0.3),
                   variance = at.mean * at.mean * (j == 0 ? 0.3 : 0.8) + at.variance;
      x[j] = mean + std::sqrt(variance) * normal(engine);
      exact[j] = -(x[j] - mean) / variance;
    }
    const auto s = potential.score(t, x);
    for (int j = 0; j < 2; ++j) error += (s[j] - exact[j]) * (s[j] - exact[j]), scale += exact[j] * exact[j];
  }
  return std::sqrt(error / scale);
}

double mean_square_residual(const Model& model) {
  const Potential potential(model);
  std::mt19937_64 engine(13);
  std::uniform_real_distribution<double> uniform(-3.5, 3.5), time(1e-2, 10);
  double square = 0;
  for (int i = 0; i < 2000; ++i) {
    const double r = potential.residual(time(engine), {uniform(engine), uniform(engine)});
    square += r * r / 2000;
  }
  return square;
}

TrainOptions learning_options() {
  TrainOptions options;
  options.iterations = 600;
  options.denoising_points = 512;
  options.collocation_points = 256;
  options.peak_rate = 2e-2;
  options.seed = 3;
  return options;
}

TEST(Learning, OfAGaussianReachesItsScore) {
  const Model initial = small_model();
  Trainer trainer(cpu(), initial, gaussian(), learning_options());
  const auto records = trainer.run(1000);
  EXPECT_EQ(records.size(), 600u);  // never past options.iterations
  const Model trained = trainer.model();
  // An untrained net is wrong by the score itself.
  for (const double t : {0.1, 0.5, 1.0, 2.0}) {
    EXPECT_GT(score_error(initial, t), 0.9) << t;
    EXPECT_LT(score_error(trained, t), 0.15) << t;
  }
}

TEST(Learning, WithTheResidualLowersIt) {
  TrainOptions options = learning_options();
  Trainer without(cpu(), small_model(), gaussian(), options);
  const auto plain = without.run(600);
  options.residual_weight = 1;
  Trainer with(cpu(), small_model(), gaussian(), options);
  const auto regularised = with.run(600);
  for (const TrainRecord& record : plain) EXPECT_EQ(record.residual, 0);
  EXPECT_LT(regularised.back().residual, 0.1 * regularised.front().residual);
  EXPECT_LT(mean_square_residual(with.model()), 0.1 * mean_square_residual(without.model()));
  EXPECT_LT(score_error(with.model(), 1.0), 0.2);
}

// In eight columns by one probe for each of two estimates: the exact mean square is a small part of what it is without.
TEST(Learning, ByProbesLowersTheResidualInEightColumns) {
  const std::int64_t d = 8;
  std::vector<double> means(2 * d, 1.0);
  std::fill(means.begin(), means.begin() + d, -1.0);
  const DataSet data = DataSet::mixture(GaussianMixture::isotropic(d, {1, 1}, means, {0.3, 0.2}));
  TrainOptions options = learning_options();
  options.collocation_points = 512;
  const auto mean_square = [&](double weight, int probes) {
    options.residual_weight = weight, options.residual_probes = probes;
    Trainer trainer(cpu(), small_model(d), data, options);
    trainer.run(600);
    return residual_statistics(cpu(), trainer.model(), {.times = 100, .points = 50}).mean_square;
  };
  const double without = mean_square(0, 0), exact = mean_square(0.1, 0), probed = mean_square(0.1, 1);
  EXPECT_LT(exact, 0.1 * without);
  EXPECT_LT(probed, 0.1 * without);
}

TEST(Learning, OfAVectorNetWorksWithoutTheResidual) {
  TrainOptions options = learning_options();
  Trainer trainer(cpu(), small_model(2, Output::score), gaussian(), options);
  const auto records = trainer.run(600);
  const auto mean = [&](std::size_t first) {
    double sum = 0;
    for (std::size_t i = first; i < first + 50; ++i) sum += records[i].denoising / 50;
    return sum;
  };
  // E of the loss is E |s − ∇ log p_t|² + a constant, most of what remains.
  EXPECT_LT(mean(550), 0.7 * mean(0));
  options.residual_weight = 1;
  EXPECT_THAT(message_of([&] { Trainer(cpu(), small_model(2, Output::score), gaussian(), options); }),
              AllOf(HasSubstr("vector net"), HasSubstr("residual weight 1")));
}

TEST(Divergence, StopsWithTheParametersBeforeIt) { testing::check_stop_before_what_is_not_finite(cpu()); }

// The news of a run.

TEST(News, TellsEveryRecordOnce) { testing::NewsOfARun(cpu()).check_records(); }
TEST(News, StopsAtOnceWhereTheSinkSaysSo) { testing::NewsOfARun(cpu()).check_stop(true); }
TEST(News, TellsWhatWasBeforeAFailure) { testing::NewsOfARun(cpu()).check_failure(); }
TEST(News, ComesOfTheGroupsMembers) { testing::NewsOfARun(cpu()).check_members(); }
TEST(News, RefusesTheTrainersInTheSink) { testing::NewsOfARun(cpu()).check_use_in_the_sink(); }

// Bad input.

TEST(BadInput, InOptionsNamesTheNumberAndTheRange) {
  const auto message = [](const std::function<void(TrainOptions&)>& spoil) {
    TrainOptions options = small_options();
    spoil(options);
    return message_of([&] { Trainer(cpu(), small_model(), DataSet::named("blob"), options); });
  };
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  EXPECT_NO_THROW(small_options().validate());
  for (const std::int64_t bad : {std::int64_t{0}, std::int64_t{-3}, std::numeric_limits<std::int64_t>::max()}) {
    EXPECT_THAT(message([&](TrainOptions& o) { o.iterations = bad; }),
                AllOf(HasSubstr("iterations"), HasSubstr(std::to_string(bad)), HasSubstr("allowed")));
    EXPECT_THAT(message([&](TrainOptions& o) { o.denoising_points = bad; }), HasSubstr("denoising points"));
    EXPECT_THAT(message([&](TrainOptions& o) { o.collocation_points = bad; }), HasSubstr("collocation points"));
  }
  for (const double bad : {-1.0, nan, infinity}) {
    EXPECT_THAT(message([&](TrainOptions& o) { o.residual_weight = bad; }), HasSubstr("residual weight"));
    EXPECT_THAT(message([&](TrainOptions& o) { o.clip_norm = bad; }), HasSubstr("clip"));
    EXPECT_THAT(message([&](TrainOptions& o) { o.average_decay = bad; }), HasSubstr("decay"));
    EXPECT_THAT(message([&](TrainOptions& o) { o.average_fraction = bad; }), HasSubstr("fraction"));
  }
  for (const double bad : {0.0, -1.0, nan, infinity}) {
    EXPECT_THAT(message([&](TrainOptions& o) { o.box = bad; }), HasSubstr("box"));
    EXPECT_THAT(message([&](TrainOptions& o) { o.peak_rate = bad; }), HasSubstr("rate"));
  }
  EXPECT_THAT(message([](TrainOptions& o) { o.average_fraction = 1.5; }), HasSubstr("1.5"));
  for (const int bad : {-1, 1025}) {
    EXPECT_EQ(message([&](TrainOptions& o) { o.residual_probes = bad; }),
              fmt::format("the number of probes, 0 for the exact residual, is {}; allowed: 0 to 1024", bad));
  }
  const auto weights = [&](std::vector<LossWeightAt<double>> rows) {
    return message([&](TrainOptions& o) { o.loss_weight = LossWeight::given, o.loss_weights = std::move(rows); });
  };
  EXPECT_EQ(weights({}), "the number of given loss weights is 0; allowed: 1 to 100000");
  EXPECT_EQ(weights({{0, 1}, {1, -2}}), "loss weight number 2 is -2; allowed: from 0 up to 1e+30");
  EXPECT_EQ(weights({{0, nan}}), "loss weight number 1 is nan; allowed: from 0 up to 1e+30");
  EXPECT_EQ(weights({{-1, 1}}), "the time of loss weight number 1 is -1; allowed: from 0 up to 1e+30");
  EXPECT_EQ(weights({{1, 1}, {0.5, 1}}),
            "the time of loss weight number 2 is 0.5 after 1; allowed: times that ascend as floats");
  EXPECT_THAT(weights({{1, 1}, {1 + 1e-9, 1}}), HasSubstr("ascend as floats"));
  EXPECT_EQ(message([](TrainOptions& o) {
              o.loss_weights = {{0, 1}, {1, 2}};
            }),
            "a table of 2 loss weights was given beside the loss weight unit; allowed: beside given");

  Trainer trainer(cpu(), small_model(), DataSet::named("blob"), small_options());
  EXPECT_THAT(message_of([&] { trainer.run(-1); }), HasSubstr("-1 iterations"));
  EXPECT_TRUE(trainer.run(0).empty());
}

TEST(BadInput, InTheModelIsRefused) {
  const TrainOptions options = small_options();
  const DataSet blob = DataSet::named("blob");
  EXPECT_THAT(message_of([&] { Trainer(cpu(), small_model(3), blob, options); }),
              AllOf(HasSubstr("dimension 3"), HasSubstr("dimension 2"), HasSubstr("blob")));
  EXPECT_THAT(message_of([&] {
                Trainer(cpu(), Model{ForwardSde(), *blob.exact()}, blob, options);
              }),
              HasSubstr("mixture was given to train"));
  TrainOptions probed = options;
  probed.residual_probes = 1;
  EXPECT_THAT(message_of([&] { Trainer(cpu(), small_model(2, Output::score), blob, probed); }),
              HasSubstr("vector net"));
  Model kinked = small_model();
  std::get<Mlp>(kinked.network).architecture.activation = Activation::relu;
  EXPECT_THAT(message_of([&] { Trainer(cpu(), kinked, blob, probed); }), HasSubstr("relu"));
  Model model = small_model();
  std::get<Mlp>(model.network).parameters[3] = std::nan("");
  EXPECT_THAT(message_of([&] { Trainer(cpu(), model, blob, options); }), HasSubstr("parameter"));
  std::get<Mlp>(model.network).parameters[3] = 1e300;
  EXPECT_THAT(message_of([&] { Trainer(cpu(), model, blob, options); }), HasSubstr("float32"));
  std::get<Mlp>(model.network).parameters.pop_back();
  EXPECT_THAT(message_of([&] { Trainer(cpu(), model, blob, options); }), HasSubstr("parameters are given"));
}

}  // namespace
}  // namespace fokker
