// Training: rates, times, Adam, averages and clipping against closed forms and double references; iterations against
// the loss of points that the test draws itself from the published counters; resumed, killed and threaded runs bit for
// bit.
#include "fokker/trainer.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <random>
#include <thread>

#include "compare.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/formulas/train.hpp"
#include "fokker/loss.hpp"
#include "fokker/safetensors.hpp"
#include "operations/train_schedule.hpp"
#include "process.hpp"
#include "trainer_checks.hpp"

namespace fokker {
namespace {

using testing::agrees;
using ::testing::AllOf;
using testing::Arguments;
using testing::Bound;
using testing::get;
using ::testing::HasSubstr;
using testing::parameters_of;
using testing::Process;
using testing::Scratch;
using testing::small_model;
using testing::small_options;
using testing::state_bytes;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Context cpu(int threads = 2) { return Context({.backend = BackendKind::cpu, .threads = threads, .stream = nullptr}); }

// Rates.

TEST(Rates, OfThePaperRestartAtEachStage) {
  TrainOptions options;
  options.schedule = RateSchedule::paper;
  options.iterations = 100'000;
  const auto check = [&](std::int64_t k, double rate, std::int64_t steps) {
    const RateStep step = rate_step(options, k);
    EXPECT_EQ(step.rate, rate) << k;
    EXPECT_EQ(step.steps_before, steps) << k;
  };
  check(0, 1e-3, 0);
  check(24'999, 1e-3, 24'999);
  check(25'000, 1e-4, 0);
  check(89'999, 1e-4, 64'999);
  check(90'000, 1e-5, 0);
  check(99'999, 1e-5, 9'999);
  options.iterations = 7;  // ⌊7/4⌋ = 1, ⌊7·9/10⌋ = 6
  check(0, 1e-3, 0);
  check(1, 1e-4, 0);
  check(5, 1e-4, 4);
  check(6, 1e-5, 0);
  options.iterations = 1;
  check(0, 1e-5, 0);
}

// torch.optim.lr_scheduler.OneCycleLR(max_lr, total_steps=n, pct_start=0.1, div_factor=25, final_div_factor=1000):
// cosine from max/25 to max at step 0.1 n − 1, then to max/25000 at step n − 1.
TEST(Rates, OfOneCycleArePyTorchs) {
  TrainOptions options;
  options.schedule = RateSchedule::one_cycle;
  options.peak_rate = 5e-3;
  options.iterations = 5010;  // the peak stands at 500, the end at 5009
  const auto rate = [&](std::int64_t k) { return rate_step(options, k).rate; };
  EXPECT_TRUE(agrees(rate(0), 2e-4, 1e-14));
  EXPECT_TRUE(agrees(rate(125), 2e-4 + 4.8e-3 * (1 - std::sqrt(0.5)) / 2, 1e-12));
  EXPECT_TRUE(agrees(rate(250), (2e-4 + 5e-3) / 2, 1e-12));
  EXPECT_TRUE(agrees(rate(500), 5e-3, 1e-14));
  EXPECT_TRUE(agrees(rate(500 + 1503), 2e-7 + (5e-3 - 2e-7) * 3 / 4, 1e-12));  // a third of the way down
  EXPECT_TRUE(agrees(rate(500 + 3006), 2e-7 + (5e-3 - 2e-7) / 4, 1e-12));
  EXPECT_TRUE(agrees(rate(5009), 2e-7, 1e-9));
  for (std::int64_t k = 0; k < 5010; ++k) {
    EXPECT_EQ(rate_step(options, k).steps_before, k);
    if (k > 0) {
      EXPECT_EQ(rate(k) > rate(k - 1), k <= 500) << k;
    }
  }
  for (const std::int64_t n : {1, 2, 3, 9, 10, 11, 19}) {
    options.iterations = n;
    for (std::int64_t k = 0; k < n; ++k) {
      EXPECT_GT(rate(k), 0) << k << " of " << n;
      EXPECT_LE(rate(k), 5e-3) << k << " of " << n;
    }
  }
}

TEST(Rates, OfCosineAndConstantAreTheirFormulas) {
  TrainOptions options;
  options.peak_rate = 0.02;
  options.iterations = 60;
  for (std::int64_t k = 0; k < 60; ++k) {
    options.schedule = RateSchedule::cosine;
    const double half = std::cos(std::numbers::pi * double(k) / 120);
    EXPECT_TRUE(agrees(rate_step(options, k).rate, 0.02 * half * half, 1e-12));
    EXPECT_EQ(rate_step(options, k).steps_before, k);
    options.schedule = RateSchedule::constant;
    EXPECT_EQ(rate_step(options, k).rate, 0.02);
    EXPECT_EQ(rate_step(options, k).steps_before, k);
  }
}

// Adam, algorithm 1 of Kingma and Ba, in double, on the gradients of Σ h_i (p_i − 1)²/2 with noise, the same for both.
// A float step rounds the parameter by half a unit of |p| ≤ 2 and the update by a few: 2^{−23} a step bounds it.
TEST(Adam, FollowsADoubleReferenceThroughARestart) {
  const int n = 99, steps = 400;
  std::mt19937_64 engine(3);
  std::normal_distribution<double> normal;
  std::vector<float> p(n), m(n, 0.0f), v(n, 0.0f);
  std::vector<double> reference(n), m_ref(n, 0.0), v_ref(n, 0.0), curvature(n);
  for (int i = 0; i < n; ++i) {
    p[i] = static_cast<float>(normal(engine) / 2);
    reference[i] = p[i];
    curvature[i] = std::pow(10.0, i % 7 - 3);
  }
  for (int k = 0; k < steps; ++k) {
    const bool restarted = k >= 150;
    const int t = k - (restarted ? 150 : 0) + 1;
    const double rate = restarted ? 1e-3 : 1e-2;
    if (t == 1) {
      std::fill(m.begin(), m.end(), 0.0f), std::fill(v.begin(), v.end(), 0.0f);
      std::fill(m_ref.begin(), m_ref.end(), 0.0), std::fill(v_ref.begin(), v_ref.end(), 0.0);
    }
    const AdamStep adam(rate, t, 0.5);
    for (int i = 0; i < n; ++i) {
      const auto g = static_cast<float>(curvature[i] * (reference[i] - 1 + 0.1 * normal(engine)));
      adam(g, p[i], m[i], v[i]);
      const double half = 0.5 * double{g};
      m_ref[i] = 0.9 * m_ref[i] + 0.1 * half;
      v_ref[i] = 0.999 * v_ref[i] + 0.001 * half * half;
      const double m_hat = m_ref[i] / (1 - std::pow(0.9, t)), v_hat = v_ref[i] / (1 - std::pow(0.999, t));
      reference[i] -= rate * m_hat / (std::sqrt(v_hat) + 1e-8);
    }
  }
  EXPECT_TRUE(agrees(p, reference, Bound{.relative = 0, .of_rms = 0, .norm = 0, .absolute = steps * 0x1p-23}));
  // v rounds β₂, their product and the sum in each of the 250 steps since the restart, all terms being positive.
  const double of_v = 3 * 250 * 0x1p-24;
  EXPECT_TRUE(agrees(v, v_ref, Bound{.relative = of_v, .of_rms = 0, .norm = of_v, .absolute = 0}));
  for (const double value : reference)
    EXPECT_LT(std::abs(value - 1), 1.0);  // it went somewhere: the start is up to 2.5 off
}

// Denoising times.

class Times : public ::testing::TestWithParam<SdeKind> {};

TEST_P(Times, ByImportanceHaveThePapersExpectations) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  const std::int32_t cells = 4096;
  const std::vector<float> edges = importance_edges(sde, cells);
  ASSERT_EQ(edges.size(), 4097u);
  EXPECT_EQ(edges.front(), float(sde.t_min()));
  EXPECT_EQ(edges.back(), float(sde.horizon()));
  EXPECT_TRUE(std::is_sorted(edges.begin(), edges.end(), std::less_equal<>())) << "cells without width";
  const TimeDraw time{TimeLaw::importance, float(sde.t_min()), float(sde.horizon()), edges.data(), cells};

  // E_q[weight f]: the mean over equidistant u, 128 a cell. E_p[f]: t = t_min e^{y L}, 2^18 midpoints in y, in double.
  using Function = std::function<double(double)>;
  const std::vector<Function> functions = {
      [](double) { return 1.0; },
      [](double t) { return t; },
      [](double t) { return t * t; },
      [](double t) { return std::sqrt(t); },
      [](double t) { return std::log(t); },
      [&](double t) { return sde.at(t).variance; },
      [&](double t) { return sde.at(t).mean; },
      [&](double t) { return 1 / sde.at(t).variance; },
  };
  std::vector<double> drawn(functions.size(), 0.0), expected(functions.size(), 0.0);
  const int n = 128 * cells;
  double largest = 0;
  for (int i = 0; i < n; ++i) {
    float weight = 0;
    const double t = time((float(i) + 0.5f) / float(n), weight);
    ASSERT_TRUE(t >= float(sde.t_min()) && t <= float(sde.horizon()) && weight >= 0) << t << ", " << weight;
    for (std::size_t f = 0; f < functions.size(); ++f) drawn[f] += double{weight} * functions[f](t) / n;
    largest = std::max(largest, double{weight} / sde.at(t).variance);
  }
  const int m = 1 << 18;
  const double length = std::log(sde.horizon() / sde.t_min()), span = sde.horizon() - sde.t_min();
  for (int i = 0; i < m; ++i) {
    const double t = sde.t_min() * std::exp(length * (i + 0.5) / m);
    const double mass = 2 * (sde.horizon() - t) / (span * span) * t * length / m;
    for (std::size_t f = 0; f < functions.size(); ++f) expected[f] += mass * functions[f](t);
  }
  // Midpoint errors (2e-6 where 1/σ² changes within a cell) and the rounding of t, up to 6e-8 of T.
  EXPECT_TRUE(agrees(drawn, expected, Bound{.relative = 2e-5, .of_rms = 0, .norm = 2e-5, .absolute = 0}));
  // 16/15, and what p/σ² changes in a cell: by t^{−4} at most over a 256th of log(T/t_min), and near T, where p falls
  // to 0, by 1.3 at this number of cells.
  EXPECT_LT(largest, 1.4 * expected.back());
}

INSTANTIATE_TEST_SUITE_P(Sdes, Times,
                         ::testing::Values(SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp,
                                           SdeKind::ve),
                         [](const auto& instance) {
                           std::string name = ForwardSde::defaults(instance.param).name();
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Times, OfThePaperAndUniformFollowTheirLaws) {
  const TimeDraw paper{TimeLaw::paper, 1e-4f, 10.0f, nullptr, 0}, uniform{TimeLaw::uniform, 1e-4f, 10.0f, nullptr, 0};
  for (int i = 0; i < 4096; ++i) {
    const float u = (float(i) + 0.5f) / 4096;
    float weight = 0;
    const double s = (double{paper(u, weight)} - 1e-4) / (10 - 1e-4);
    EXPECT_EQ(weight, 1);
    EXPECT_NEAR(1 - (1 - s) * (1 - s), double{u}, 2e-7);  // the distribution function of Beta(1, 2)
    EXPECT_NEAR(double{uniform(u, weight)}, 1e-4 + (10 - 1e-4) * double{u}, 1e-6);
    EXPECT_EQ(weight, 1);
  }
  // The smallest uniform: (T − t_min) u/2 beyond t_min, not 0 beyond it.
  float weight = 0;
  const TimeDraw from_zero{TimeLaw::paper, 0.0f, 10.0f, nullptr, 0};
  EXPECT_TRUE(agrees(double{from_zero(0x1p-24f, weight)}, 5 * 0x1p-24, 2e-7));
}

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

struct LossCase {
  std::int64_t dimension;
  SdeKind sde;
  TimeLaw law;
  Output output;
};

class Iteration : public ::testing::TestWithParam<LossCase> {};

TEST_P(Iteration, HasTheLossOfTheDocumentedPoints) {
  const auto [d, kind, law, output] = GetParam();
  const ForwardSde sde = ForwardSde::defaults(kind);
  const Model model = small_model(d, output, sde);
  TrainOptions options = small_options();
  options.denoising_points = 989;
  options.collocation_points = 199;
  options.time_law = law;
  if (output == Output::score) options.residual_weight = 0;
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
  const std::vector<float> edges = importance_edges(sde, 4096);
  const TimeDraw time{law, float(sde.t_min()), float(sde.horizon()), edges.data(), 4096};
  std::vector<double> t(n), weight(n), x(n * d), target(n * d), tc(m), xc(m * d);
  for (std::int64_t i = 0; i < n; ++i) {
    float w = 0;
    t[i] = time(uniform_from_word(words(options, i, RandomUse::time, 0, 1)[0]), w);
    weight[i] = w;
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

INSTANTIATE_TEST_SUITE_P(Cases, Iteration,
                         ::testing::Values(LossCase{2, SdeKind::ou, TimeLaw::importance, Output::potential},
                                           LossCase{2, SdeKind::ou, TimeLaw::paper, Output::potential},
                                           LossCase{1, SdeKind::vp_linear, TimeLaw::importance, Output::potential},
                                           LossCase{3, SdeKind::vp_cosine, TimeLaw::uniform, Output::potential},
                                           LossCase{5, SdeKind::subvp, TimeLaw::importance, Output::score},
                                           LossCase{2, SdeKind::ve, TimeLaw::importance, Output::score}),
                         [](const auto& instance) {
                           std::string name =
                               fmt::format("d{}_{}_{}_{}", instance.param.dimension,
                                           ForwardSde::defaults(instance.param.sde).name(),
                                           to_string(instance.param.law), to_string(instance.param.output));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Average, IsExponentialOrTheMeanOfTheTail) { testing::check_averages(cpu()); }

TEST(Average, BeginsWhereTheFractionSays) {
  TrainOptions options;
  options.iterations = 1000;
  for (const auto& [fraction, begin] :
       std::vector<std::pair<double, std::int64_t>>{{0.2, 800}, {1.0, 0}, {0.0, 1000}, {0.001, 999}, {0.0004, 1000}}) {
    options.average_fraction = fraction;
    EXPECT_EQ(average_begin(options), begin) << fraction;
  }
  options.average = WeightAverage::none;
  EXPECT_EQ(average_begin(options), 1000);
}

// After the first step Adam's first moment is 0.1 times the gradient it was given.
TEST(Clipping, ScalesTheGradientToTheNormAndNoFurther) {
  const Scratch folder;
  const DataSet data = DataSet::named("checker");
  const auto moment_norm = [&](double clip, double& norm) {
    TrainOptions options = small_options();
    options.clip_norm = clip;
    Trainer trainer(cpu(), small_model(), data, options);
    norm = trainer.run(1)[0].gradient_norm;
    trainer.save_state(folder / "state.safetensors");
    const auto moment = SafeTensors::load(folder / "state.safetensors").at("first_moment").to_double();
    return 10 * std::sqrt(std::inner_product(moment.begin(), moment.end(), moment.begin(), 0.0));
  };
  double norm = 0, clipped = 0, loose = 0;
  const double unclipped_moment = moment_norm(0, norm);
  EXPECT_TRUE(agrees(unclipped_moment, norm, 1e-6));
  const double clipped_moment = moment_norm(norm / 3, clipped);
  EXPECT_TRUE(agrees(clipped_moment, norm / 3, 1e-6));
  const double loose_moment = moment_norm(3 * norm, loose);
  EXPECT_TRUE(agrees(loose_moment, norm, 1e-6));
  EXPECT_EQ(clipped, norm);  // the record tells the norm before clipping
  EXPECT_EQ(loose, norm);
}

// Bit for bit.

struct ResumeCase {
  RateSchedule schedule;
  WeightAverage average;
  TimeLaw law;
  double clip;
  Output output;
};

class Resume : public ::testing::TestWithParam<ResumeCase> {};

TEST_P(Resume, GivesTheBitsOfAnUninterruptedRun) {
  TrainOptions options = small_options();
  options.schedule = GetParam().schedule;
  options.average = GetParam().average;
  options.time_law = GetParam().law;
  options.clip_norm = GetParam().clip;
  if (GetParam().output == Output::score) options.residual_weight = 0;
  const DataSet data = DataSet::named("circles2");
  Trainer uninterrupted(cpu(), small_model(2, GetParam().output), data, options);
  const auto all = uninterrupted.run(60);

  const Scratch folder;
  const std::string path = folder / "state.safetensors";
  Trainer(cpu(), small_model(2, GetParam().output), data, options).save_state(path);
  std::size_t seen = 0;
  for (const std::int64_t stop : {0, 1, 14, 15, 16, 48, 49, 54, 60}) {  // restarts at 15 and 54, the average from 48
    Trainer part = Trainer::resume(cpu(), path, data);
    EXPECT_EQ(part.options().seed, options.seed);
    for (const TrainRecord& record : part.run(stop - part.iteration())) {
      EXPECT_EQ(record.iteration, all[seen].iteration);
      EXPECT_EQ(record.total, all[seen].total) << seen;
      EXPECT_EQ(record.rate, all[seen].rate) << seen;
      ++seen;
    }
    EXPECT_EQ(part.iteration(), stop);
    part.save_state(path);
  }
  EXPECT_EQ(seen, 60u);
  EXPECT_EQ(folder.list().size(), 1u);  // no temporary name left behind
  const Trainer resumed = Trainer::resume(cpu(), path, data);
  EXPECT_EQ(parameters_of(resumed.model()), parameters_of(uninterrupted.model()));
  EXPECT_TRUE(state_bytes(resumed) == state_bytes(uninterrupted));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Resume,
    ::testing::Values(
        ResumeCase{RateSchedule::paper, WeightAverage::exponential, TimeLaw::importance, 0, Output::potential},
        ResumeCase{RateSchedule::one_cycle, WeightAverage::tail, TimeLaw::paper, 0.5, Output::potential},
        ResumeCase{RateSchedule::cosine, WeightAverage::none, TimeLaw::uniform, 0, Output::score},
        ResumeCase{RateSchedule::constant, WeightAverage::exponential, TimeLaw::importance, 2, Output::score}),
    [](const auto& instance) {
      std::string name(to_string(instance.param.schedule));
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

TEST(Threads, DoNotChangeABit) {
  const DataSet data = DataSet::named("blob");
  TrainOptions options = small_options();
  options.denoising_points = 2'000;
  options.collocation_points = 989;
  std::vector<std::string> states;
  for (const int threads : {1, 2, 3, 7}) {
    Trainer trainer(cpu(threads), small_model(), data, options);
    trainer.run(20);
    states.push_back(state_bytes(trainer));
  }
  for (const std::string& state : states) EXPECT_TRUE(state == states.front());
}

// Another process trains and saves after every iteration until SIGKILL ends it, most likely in the middle of a save;
// what it leaves is a whole state that goes on as if nothing had happened.
TEST(Killed, RunResumesToTheBitsOfAnUninterruptedOne) {
  TrainOptions options = small_options();
  options.iterations = 1'000'000;
  options.schedule = RateSchedule::constant;
  options.average_fraction = 1;
  const DataSet data = DataSet::named("blob");
  const Scratch folder;
  const std::string path = folder / "state.safetensors";
  Trainer(cpu(), small_model(), data, options).save_state(path);
  std::int64_t reached = 0;
  for (int kill = 0; kill < 5; ++kill) {
    const std::string before = get(path);
    const Process process(folder.folder(), Arguments{KILLED_TRAINER, path});
    ASSERT_TRUE(process.wait_until([&] { return get(path) != before; })) << process.wait().err;
    process.send(SIGKILL);
    ASSERT_EQ(process.wait().signal, SIGKILL);

    const Trainer left = Trainer::resume(cpu(), path, data);
    EXPECT_GT(left.iteration(), reached);
    reached = left.iteration();
  }
  Trainer resumed = Trainer::resume(cpu(), path, data);
  resumed.run(10);
  Trainer uninterrupted(cpu(), small_model(), data, options);
  uninterrupted.run(reached + 10);
  EXPECT_TRUE(state_bytes(resumed) == state_bytes(uninterrupted));
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

// The known law: N((0.5, −0.3), diag(0.3, 0.8)).
DataSet gaussian() { return DataSet::mixture(GaussianMixture(2, {1.0}, {0.5, -0.3}, {0.3, 0.0, 0.0, 0.8})); }

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
  EXPECT_THAT(error_of([&] { Trainer(cpu(), small_model(2, Output::score), gaussian(), options); }),
              AllOf(HasSubstr("vector net"), HasSubstr("residual weight 1")));
}

TEST(Divergence, StopsWithTheParametersBeforeIt) {
  const TrainOptions options = testing::diverging_options();
  Trainer trainer(cpu(), small_model(), DataSet::named("blob"), options);
  const std::string message = error_of([&] { trainer.run(60); });
  const std::int64_t stopped = trainer.iteration();
  EXPECT_GE(stopped, 1);
  EXPECT_LT(stopped, 60);
  EXPECT_THAT(message, AllOf(HasSubstr(fmt::format("stopped at iteration {}", stopped)), HasSubstr("denoising"),
                             HasSubstr("residual"), HasSubstr("not finite")));
  const std::vector<double> kept = parameters_of(trainer.model());
  for (const double value : kept) ASSERT_TRUE(std::isfinite(value));

  // They are what the iterations before it made.
  Trainer again(cpu(), small_model(), DataSet::named("blob"), options);
  again.run(stopped);
  EXPECT_EQ(parameters_of(again.model()), kept);
  EXPECT_EQ(error_of([&] { trainer.run(1); }), message);  // and it stays there
}

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
    return error_of([&] { Trainer(cpu(), small_model(), DataSet::named("blob"), options); });
  };
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(message([](TrainOptions&) {}), "no error");
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

  Trainer trainer(cpu(), small_model(), DataSet::named("blob"), small_options());
  EXPECT_THAT(error_of([&] { trainer.run(-1); }), HasSubstr("-1 iterations"));
  EXPECT_TRUE(trainer.run(0).empty());
}

TEST(BadInput, InTheModelIsRefused) {
  const TrainOptions options = small_options();
  const DataSet blob = DataSet::named("blob");
  EXPECT_THAT(error_of([&] { Trainer(cpu(), small_model(3), blob, options); }),
              AllOf(HasSubstr("dimension 3"), HasSubstr("dimension 2"), HasSubstr("blob")));
  EXPECT_THAT(error_of([&] {
                Trainer(cpu(), Model{ForwardSde(), *blob.exact()}, blob, options);
              }),
              HasSubstr("mixture was given to train"));
  Model model = small_model();
  std::get<Mlp>(model.network).parameters[3] = std::nan("");
  EXPECT_NE(error_of([&] { Trainer(cpu(), model, blob, options); }), "no error");
  std::get<Mlp>(model.network).parameters[3] = 1e300;
  EXPECT_THAT(error_of([&] { Trainer(cpu(), model, blob, options); }), HasSubstr("float32"));
  std::get<Mlp>(model.network).parameters.pop_back();
  EXPECT_NE(error_of([&] { Trainer(cpu(), model, blob, options); }), "no error");
}

TEST(BadInput, InStateFilesIsRefusedInOneSentence) {
  const Scratch folder;
  const std::string good = folder / "good.safetensors", bad = folder / "bad.safetensors";
  TrainOptions options = small_options();
  const DataSet data = gaussian();
  Trainer trainer(cpu(), small_model(), data, options);
  trainer.run(50);
  trainer.save_state(good);
  const auto resume = [&](const std::string& path, const DataSet& of) {
    return error_of([&] { Trainer::resume(cpu(), path, of); });
  };
  EXPECT_EQ(resume(good, data), "no error");
  EXPECT_THAT(resume(folder / "absent.safetensors", data), HasSubstr("absent.safetensors"));

  // Another data set, and one that changed.
  EXPECT_THAT(resume(good, DataSet::named("blob")),
              AllOf(HasSubstr("'mixture'"), HasSubstr("'blob'"), HasSubstr(good)));
  EXPECT_THAT(resume(good, DataSet::mixture(GaussianMixture(2, {1.0}, {0.5, -0.3}, {0.3, 0.0, 0.0, 0.9}))),
              HasSubstr("changed contents"));
  EXPECT_NE(resume(good, DataSet::samples({0.5f, -0.3f}, 2)), "no error");

  // Not a training state.
  save_model(bad, trainer.model());
  EXPECT_THAT(resume(bad, data), AllOf(HasSubstr("not a training state"), HasSubstr(bad)));
  const std::string whole = get(good);
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    std::ofstream(bad, std::ios::binary).write(whole.data(), static_cast<std::streamsize>(length));
    EXPECT_THAT(resume(bad, data), HasSubstr("bad.safetensors")) << length;
  }

  const auto spoilt = [&](const std::function<void(SafeTensors&)>& spoil) {
    SafeTensors file = SafeTensors::load(good);
    spoil(file);
    file.save(bad);
    const std::string message = resume(bad, data);
    EXPECT_THAT(message, HasSubstr("bad.safetensors"));
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  };
  const auto set_int = [](const char* name, std::int64_t value) {
    return [=](SafeTensors& file) { file.tensors[name] = Tensor::from_int64({1}, &value); };
  };
  const auto set_first = [](const char* name, float value) {
    return [=](SafeTensors& file) { std::memcpy(file.tensors.at(name).bytes.data(), &value, sizeof value); };
  };
  const auto replace = [](const std::string& from, const std::string& to) {
    return [=](SafeTensors& file) {
      std::string& text = file.metadata.at("configuration");
      const std::size_t at = text.find(from);
      ASSERT_NE(at, std::string::npos) << from << " in " << text;
      text.replace(at, from.size(), to);
    };
  };
  for (const char* name : {"parameters", "first_moment", "second_moment", "average", "iteration", "average_count"}) {
    EXPECT_THAT(spoilt([&](SafeTensors& file) { file.tensors.erase(name); }), HasSubstr(name));
    EXPECT_THAT(spoilt([&](SafeTensors& file) {
                  const std::vector<float> three(3);
                  file.tensors[name] = Tensor::from_float({3}, three.data());
                }),
                HasSubstr(name));
  }
  EXPECT_THAT(spoilt(set_int("iteration", -1)), HasSubstr("its iteration is -1; allowed: 0 to 60"));
  EXPECT_THAT(spoilt(set_int("iteration", 61)), HasSubstr("its iteration is 61; allowed: 0 to 60"));
  EXPECT_THAT(spoilt(set_int("iteration", 51)), HasSubstr("average"));
  EXPECT_THAT(spoilt(set_int("average_count", 1)), HasSubstr("average"));
  EXPECT_THAT(spoilt(set_first("parameters", std::nanf(""))), HasSubstr("parameters"));
  EXPECT_THAT(spoilt(set_first("second_moment", -1.0f)), HasSubstr("second_moment"));
  EXPECT_THAT(spoilt([](SafeTensors& file) { file.metadata.erase("configuration"); }), HasSubstr("configuration"));
  EXPECT_THAT(spoilt([](SafeTensors& file) { file.metadata["configuration"] = "[1, 2"; }), HasSubstr("configuration"));
  EXPECT_THAT(spoilt([](SafeTensors& file) { file.metadata["configuration"] = "{}"; }), HasSubstr("architecture"));
  EXPECT_THAT(spoilt([](SafeTensors& file) { file.metadata["version"] = "99"; }), HasSubstr("99"));
  EXPECT_THAT(spoilt(replace("[19,7]", "[19,8]")), HasSubstr("parameters"));
  EXPECT_THAT(spoilt(replace("[19,7]", "[0,7]")), HasSubstr("width 0"));
  EXPECT_THAT(spoilt(replace("[19,7]", "\"wide\"")), HasSubstr("configuration"));
  EXPECT_THAT(spoilt(replace("\"silu\"", "\"gelu\"")), HasSubstr("gelu"));
  EXPECT_THAT(spoilt(replace("\"one-cycle\"", "\"two-cycle\"")), HasSubstr("two-cycle"));
  EXPECT_THAT(spoilt(replace("\"iterations\":60", "\"iterations\":-60")), HasSubstr("-60"));
}

// The state says in words what it is, for whoever opens it with another tool.
TEST(State, IsReadable) {
  const Scratch folder;
  Trainer trainer(cpu(), small_model(), DataSet::named("checker"), small_options());
  trainer.run(3);
  trainer.save_state(folder / "state.safetensors");
  const SafeTensors file = SafeTensors::load(folder / "state.safetensors");
  EXPECT_TRUE(agrees(file.at("parameters").to_double(), parameters_of(trainer.model()), Bound{}));
  EXPECT_EQ(file.at("iteration").dtype, "I64");
  for (const char* word :
       {"silu", "potential", "\"ou\"", "checker", "one-cycle", "importance", "exponential", "[19,7]"}) {
    EXPECT_THAT(file.metadata.at("configuration"), HasSubstr(word));
  }
  EXPECT_THAT(error_of([&] { trainer.save_state(folder / "absent/state.safetensors"); }), HasSubstr("absent"));
  EXPECT_EQ(trainer.iteration(), 3);
}

}  // namespace
}  // namespace fokker
