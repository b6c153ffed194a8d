// What training computes from its options alone: rates and denoising times against closed forms, Adam against a double
// reference, where the average begins.
#include "operations/train_schedule.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "fokker/formulas/train.hpp"
#include "operations/train_schedule.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::Bound;

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
  const std::vector<float> edges = time_law_edges(sde, {.time_law = TimeLaw::importance}, cells);
  ASSERT_EQ(edges.size(), 4097u);
  EXPECT_EQ(edges.front(), float(sde.t_min()));
  EXPECT_EQ(edges.back(), float(sde.horizon()));
  EXPECT_TRUE(std::is_sorted(edges.begin(), edges.end(), std::less_equal<>())) << "cells without width";
  const TimeDraw time{TimeLaw::importance, float(sde.t_min()), float(sde.horizon()), cells, edges.data()};

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
                                           SdeKind::ve, SdeKind::edm, SdeKind::flow, SdeKind::ddpm),
                         [](const auto& instance) {
                           std::string name = ForwardSde::defaults(instance.param).name();
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// The mean and the mean square of ln(σ/m), and how many draws lie below its mean, against the normal law cut to
// [t_min, T].
TEST(Times, ByLogNormalHaveItsMoments) {
  for (const ForwardSde& sde : {ForwardSde::edm(), ForwardSde::vp_linear(), ForwardSde::flow(), ForwardSde::ve()}) {
    const TrainOptions options{.time_law = TimeLaw::log_normal, .log_sigma_mean = -1, .log_sigma_deviation = 1.3};
    const std::int32_t cells = 4096;
    const std::vector<float> edges = time_law_edges(sde, options, cells);
    EXPECT_TRUE(std::is_sorted(edges.begin(), edges.end(), std::less_equal<>())) << "cells without width";
    const TimeDraw time{options.time_law, float(sde.t_min()), float(sde.horizon()), cells, edges.data()};
    const auto log_sigma = [&](double t) { return std::log(std::sqrt(sde.at(t).variance) / sde.at(t).mean); };
    std::vector<double> drawn(3), expected(3);
    const int n = 64 * cells;
    for (int i = 0; i < n; ++i) {
      float weight = 0;
      const double y = log_sigma(time((float(i) + 0.5f) / float(n), weight));
      ASSERT_EQ(weight, 1);
      drawn[0] += y / n, drawn[1] += y * y / n, drawn[2] += (y < -1 ? 1.0 : 0.0) / n;
    }
    const double low = log_sigma(sde.t_min()), high = std::min(log_sigma(sde.horizon()), 20.0);
    double mass = 0;
    for (int i = 0; i < (1 << 18); ++i) {
      const double y = low + (high - low) * (i + 0.5) / (1 << 18), p = std::exp(-std::pow((y + 1) / 1.3, 2) / 2);
      mass += p, expected[0] += p * y, expected[1] += p * y * y, expected[2] += y < -1 ? p : 0;
    }
    for (double& moment : expected) moment /= mass;
    EXPECT_TRUE(agrees(drawn, expected, Bound{.relative = 1e-3, .of_rms = 0, .norm = 1e-3, .absolute = 0}))
        << sde.name();
  }
  EXPECT_THAT(testing::message_of([] {
                time_law_edges(ForwardSde::edm(), {.time_law = TimeLaw::log_normal, .log_sigma_mean = 90}, 64);
              }),
              ::testing::HasSubstr("log-normal with mean 90"));
}

TEST(Times, OfThePaperAndUniformFollowTheirLaws) {
  const TimeDraw paper{TimeLaw::paper, 1e-4f, 10.0f, 0, nullptr}, uniform{TimeLaw::uniform, 1e-4f, 10.0f, 0, nullptr};
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
  const TimeDraw from_zero{TimeLaw::paper, 0.0f, 10.0f, 0, nullptr};
  EXPECT_TRUE(agrees(double{from_zero(0x1p-24f, weight)}, 5 * 0x1p-24, 2e-7));
}

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

}  // namespace
}  // namespace fokker
