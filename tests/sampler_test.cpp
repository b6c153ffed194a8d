// Time grids, and samplers and log-densities of models whose score is known: Gaussian data, for which the law of every
// scheme follows from recursions of affine maps in double, and mixtures.
#include "fokker/sampler.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "expect_error.hpp"
#include "fokker/array.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/philox.hpp"
#include "networks.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::expect_error;
using Index = std::int64_t;

// ---- Time grids ----

TEST(TimeGrids, PaperIsScaledToTheHorizon) {
  for (const double horizon : {10.0, 1.0, 0.7}) {
    const TimeGrid grid = TimeGrid::paper(horizon);
    const std::vector<double>& t = grid.times();
    ASSERT_EQ(grid.steps(), 890);
    EXPECT_EQ(t.front(), horizon);
    EXPECT_EQ(t.back(), 0.0);
    double sum = 0;
    for (int k = 0; k < 890; ++k) {
      const double step = t[k] - t[k + 1], expected = k < 790 ? horizon / 800 : horizon / 8000;
      EXPECT_NEAR(step, expected, 2e-16 * horizon) << k;  // a difference of two rounded times below T
      sum += step;
    }
    EXPECT_NEAR(sum, horizon, 1e-13 * horizon);
    EXPECT_NEAR(t[790], horizon / 80, 1e-17 * horizon + 1e-17);
  }
}

TEST(TimeGrids, Uniform) {
  const TimeGrid grid = TimeGrid::uniform(0.7, 0.1, 3);
  EXPECT_EQ(grid.times().front(), 0.7);
  EXPECT_EQ(grid.times().back(), 0.1);
  EXPECT_TRUE(agrees(grid.times(), std::vector<double>{0.7, 0.5, 0.3, 0.1}, {.relative = 1e-15, .norm = 1e-15}));
  EXPECT_EQ(TimeGrid::uniform(10, 0, 1).times(), (std::vector<double>{10, 0}));
}

TEST(TimeGrids, Geometric) {
  const TimeGrid grid = TimeGrid::geometric(10, 1e-3, 4);
  EXPECT_EQ(grid.times().front(), 10.0);
  EXPECT_EQ(grid.times().back(), 1e-3);
  EXPECT_TRUE(agrees(grid.times(), std::vector<double>{10, 1, 0.1, 0.01, 0.001}, {.relative = 1e-14, .norm = 1e-14}));
}

// By their definitions, for each SDE: r = σ/m of the times.
TEST(TimeGrids, KarrasAndLogSnrAreEvenInTheirOwnVariable) {
  for (const SdeKind kind : {SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp, SdeKind::ve,
                             SdeKind::edm, SdeKind::ddpm}) {
    const ForwardSde sde = ForwardSde::defaults(kind);
    SCOPED_TRACE(sde.name());
    const auto log_ratios = [&](const TimeGrid& grid) {
      std::vector<double> r;
      for (const double t : grid.times()) r.push_back(0.5 * std::log(sde.at(t).variance) - std::log(sde.at(t).mean));
      return r;
    };
    const int steps = 19;
    for (const double rho : {1.0, 7.0, 100.0}) {
      const TimeGrid grid = TimeGrid::karras(sde, sde.t_min(), steps, rho);
      EXPECT_EQ(grid.times().front(), sde.horizon());
      EXPECT_EQ(grid.times().back(), sde.t_min());
      const std::vector<double> r = log_ratios(grid);
      // Relative to that at T, which is e^{10} for ou.
      const double last = std::exp((r.back() - r.front()) / rho);
      for (int k = 0; k <= steps; ++k) {
        EXPECT_NEAR(std::exp((r[k] - r.front()) / rho), std::lerp(1.0, last, double(k) / steps), 1e-12) << rho;
      }
      TimeGrid whole = TimeGrid::edm(sde, sde.t_min(), steps + 1, rho);
      EXPECT_EQ(whole.times().back(), 0);
      EXPECT_EQ(std::vector<double>(whole.times().begin(), whole.times().end() - 1), grid.times());
    }
    const std::vector<double> r = log_ratios(TimeGrid::log_snr(sde, sde.t_min(), steps));
    for (int k = 0; k <= steps; ++k) EXPECT_NEAR(r[k], std::lerp(r.front(), r.back(), double(k) / steps), 1e-11);
  }
  // Karras et al.'s own numbers: σ = t from 80 to 0.002 in 17 steps, and the same with the step to 0.
  const std::vector<double> t = TimeGrid::parse("edm:18", ForwardSde::defaults(SdeKind::edm)).times();
  ASSERT_EQ(t.size(), 19u);
  for (int k = 0; k < 18; ++k) {
    const double root = std::lerp(std::pow(80, 1.0 / 7), std::pow(0.002, 1.0 / 7), k / 17.0);
    EXPECT_NEAR(t[k] / std::pow(root, 7), 1, 1e-13) << k;
  }
  EXPECT_EQ(t.back(), 0);
  const ForwardSde flow = ForwardSde::flow({.horizon = 1});
  expect_error([&] { TimeGrid::karras(flow, 0.01, 5); }, {"a karras time grid", "the SDE flow at 1 is infinite"});
  expect_error([&] { TimeGrid::log_snr(flow, 0.01, 5); }, {"a log-snr time grid", "smaller T"});
  EXPECT_NO_THROW(TimeGrid::karras(ForwardSde::flow({.horizon = 0.97}), 0.01, 5));
  const ForwardSde ou = ForwardSde::defaults(SdeKind::ou);
  for (const double rho : {0.5, -1.0, 1001.0, std::nan("")}) {
    expect_error([&] { TimeGrid::karras(ou, 0.01, 5, rho); }, {"rho", "allowed: 1 to 1000"});
  }
  expect_error([&] { TimeGrid::edm(ou, 0.01, 1); }, {"an edm time grid needs 2 to 10000000 steps; 1 was given"});
  expect_error([&] { TimeGrid::karras(ou, 0, 5); }, {"end in (0, 10)", "0 was given"});
}

TEST(TimeGrids, ParseNamesAll) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::vp_linear);
  EXPECT_EQ(TimeGrid::parse("paper", sde).times(), TimeGrid::paper(sde.horizon()).times());
  EXPECT_EQ(TimeGrid::parse("uniform:20", sde).times(), TimeGrid::uniform(sde.horizon(), 0, 20).times());
  EXPECT_EQ(TimeGrid::parse("uniform:20:0.25", sde).times(), TimeGrid::uniform(sde.horizon(), 0.25, 20).times());
  EXPECT_EQ(TimeGrid::parse("geometric:7", sde).times(), TimeGrid::geometric(sde.horizon(), sde.t_min(), 7).times());
  EXPECT_EQ(TimeGrid::parse("geometric:7:1e-2", sde).times(), TimeGrid::geometric(sde.horizon(), 1e-2, 7).times());
  EXPECT_EQ(TimeGrid::parse("log-snr:7", sde).times(), TimeGrid::log_snr(sde, sde.t_min(), 7).times());
  EXPECT_EQ(TimeGrid::parse("karras:7:1e-2", sde).times(), TimeGrid::karras(sde, 1e-2, 7).times());
  EXPECT_EQ(TimeGrid::parse("karras:7:1e-2:3", sde).times(), TimeGrid::karras(sde, 1e-2, 7, 3).times());
  EXPECT_EQ(TimeGrid::parse("edm:7", sde).times(), TimeGrid::edm(sde, sde.t_min(), 7).times());
}

TEST(TimeGrids, TimesFromAFile) {
  const std::string path = ::testing::TempDir() + "fokker_sampler_test_times.npy";
  const ForwardSde sde = ForwardSde::defaults(SdeKind::vp_linear);
  const std::vector<double> times = {1, 0.5, 0.25, 0};
  save_npy(path, {4}, times.data());
  EXPECT_EQ(TimeGrid::parse("file:" + path, sde).times(), times);
  save_npy(path, {2, 2}, times.data());
  expect_error([&] { TimeGrid::parse("file:" + path, sde); }, {"matrix", "vector"});
  const std::vector<double> late = {2, 0.5, 0};
  save_npy(path, {3}, late.data());
  expect_error([&] { TimeGrid::parse("file:" + path, sde); }, {"starts at 2", "horizon 1"});
  const std::vector<double> rising = {0.5, 0.6};
  save_npy(path, {2}, rising.data());
  expect_error([&] { TimeGrid::parse("file:" + path, sde); }, {"strictly decrease", "0.6 after 0.5"});
  std::filesystem::remove(path);
  EXPECT_THROW(TimeGrid::parse("file:" + path, sde), Error);
}

TEST(TimeGrids, HostileInputs) {
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  expect_error([] { TimeGrid({}); }, {"at least two times", "0 was given"});
  expect_error([] { TimeGrid({1.0}); }, {"at least two times"});
  expect_error([] { TimeGrid({1.0, 1.0}); }, {"strictly decrease", "number 1"});
  expect_error([] { TimeGrid({1.0, 0.5, -1.0}); }, {"not negative", "number 2 is -1"});
  expect_error([&] { TimeGrid({1.0, nan}); }, {"finite", "number 1"});
  expect_error([&] { TimeGrid({inf, 1.0}); }, {"finite", "number 0"});
  for (const double horizon : {0.0, -1.0, nan, inf}) {
    expect_error([&] { TimeGrid::paper(horizon); }, {"finite horizon > 0"});
    expect_error([&] { TimeGrid::uniform(horizon, 0, 3); }, {"finite horizon > 0"});
    expect_error([&] { TimeGrid::geometric(horizon, 1e-3, 3); }, {"finite horizon > 0"});
  }
  for (const double end : {10.0, 11.0, -1.0, nan, inf}) {
    expect_error([&] { TimeGrid::uniform(10, end, 3); }, {"end in [0, 10)"});
    expect_error([&] { TimeGrid::geometric(10, end, 3); }, {"end in (0, 10)"});
  }
  expect_error([&] { TimeGrid::geometric(10, 0, 3); }, {"end in (0, 10)", "0 was given"});
  for (const int steps : {0, -5, 10'000'001, std::numeric_limits<int>::max()}) {
    expect_error([&] { TimeGrid::uniform(10, 0, steps); }, {"1 to 10000000 steps", std::to_string(steps)});
    expect_error([&] { TimeGrid::geometric(10, 1e-3, steps); }, {"1 to 10000000 steps"});
  }
  for (const std::string text : {"", "papers", "paper:", "paper:10", "linear:3", ":", "uniform"}) {
    expect_error(
        [&] { TimeGrid::parse(text, sde); },
        {"'" + text + "' is not known", "paper, uniform:STEPS[:END], geometric:STEPS[:END], log-snr:STEPS[:END]"});
  }
  for (const std::string text :
       {"uniform:", "uniform:x", "uniform:3x", "uniform: 3", "geometric:99999999999", "uniform:3.5",
        "uniform:3:", "uniform:3:a", "geometric:3:1e-3:4", "karras:3:", "karras:3:1e-3:x", "edm:3:1e-3:7:1"}) {
    expect_error([&] { TimeGrid::parse(text, sde); }, {"is not a valid", "'" + text + "'", "allowed are"});
  }
  EXPECT_THROW(TimeGrid::parse("uniform:3:20", sde), Error);
  EXPECT_THROW(TimeGrid::parse("uniform:3:nan", sde), Error);
  expect_error([&] { TimeGrid::parse("file:", sde); }, {"'file:' names no file"});
}

// What the text alone shows, with no horizon in the sentence.
TEST(TimeGrids, CheckLooksAtTheTextAlone) {
  for (const std::string text : {"paper", "file:absent.npy", "uniform:3", "uniform:3:0", "uniform:3:1e300",
                                 "geometric:3", "geometric:3:1e-300", "log-snr:3", "karras:3:1e-3:5", "edm:2"}) {
    EXPECT_NO_THROW(TimeGrid::check(text)) << text;
  }
  for (const std::string text : {"", "papers", "uniform", "linear:3"}) {
    expect_error([&] { TimeGrid::check(text); }, {"'" + text + "' is not known"});
  }
  expect_error([] { TimeGrid::check("file:"); }, {"names no file"});
  expect_error([] { TimeGrid::check("uniform:3x"); }, {"is not a valid number of steps"});
  expect_error([] { TimeGrid::check("geometric:0"); }, {"1 to 10000000 steps; 0 was given"});
  expect_error([] { TimeGrid::check("karras:5:1e-3:0"); }, {"rho 0; allowed: 1 to 1000"});
  expect_error([] { TimeGrid::check("edm:1"); }, {"needs 2 to 10000000 steps; 1 was given"});
  expect_error([] { TimeGrid::check("geometric:5:0"); },
               {"a geometric time grid needs a finite end above 0; 0 was given"});
  expect_error([] { TimeGrid::check("uniform:5:-1"); }, {"a finite end of at least 0; -1 was given"});
  for (const std::string text : {"uniform:5:nan", "uniform:5:inf", "geometric:5:nan", "geometric:5:inf"}) {
    expect_error([&] { TimeGrid::check(text); }, {"a finite end"});
  }
}

// ---- Models whose score is known ----

constexpr SdeKind kKinds[] = {SdeKind::ou,    SdeKind::vp_linear, SdeKind::vp_cosine,
                              SdeKind::subvp, SdeKind::ve,        SdeKind::ddpm};
constexpr Scheme kSchemes[] = {Scheme::euler_maruyama, Scheme::euler, Scheme::heun, Scheme::rk4};

Context with_threads(int threads) { return Context({.backend = BackendKind::cpu, .threads = threads}); }

// N(μ, C) in the plane; its axes turned by kAngle against the coordinates.
constexpr double kAngle = 0.5;
constexpr std::array<double, 2> kMean = {1.0, -0.5};     // along the axes of C
constexpr std::array<double, 2> kVariance = {0.4, 1.5};  // along the axes of C

std::array<double, 2> to_axes(double x, double y) {
  const double c = std::cos(kAngle), s = std::sin(kAngle);
  return {c * x + s * y, -s * x + c * y};
}
std::array<double, 2> from_axes(double u, double v) {
  const double c = std::cos(kAngle), s = std::sin(kAngle);
  return {c * u - s * v, s * u + c * v};
}

Model gaussian(const ForwardSde& sde) {
  const auto mean = from_axes(kMean[0], kMean[1]);
  const double c = std::cos(kAngle), s = std::sin(kAngle), off = c * s * (kVariance[0] - kVariance[1]);
  return {sde, GaussianMixture(2, {1}, {mean[0], mean[1]},
                               {c * c * kVariance[0] + s * s * kVariance[1], off, off,
                                s * s * kVariance[0] + c * c * kVariance[1]})};
}

Model mixture(std::int64_t d, SdeKind kind = SdeKind::ou) {
  std::vector<double> means;
  for (std::int64_t j = 0; j < d; ++j) means.push_back(1.5 - 0.3 * static_cast<double>(j));
  for (std::int64_t j = 0; j < d; ++j) means.push_back(-1.0 + 0.2 * static_cast<double>(j));
  return {ForwardSde::defaults(kind), GaussianMixture::isotropic(d, {0.3, 0.7}, means, {0.2, 0.5})};
}

Model network(std::int64_t d, Output output = Output::potential) {
  Architecture architecture{.dimension = d, .hidden = {17, 9}, .activation = Activation::silu, .output = output};
  return {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(architecture, 3)};
}

// One axis of the Gaussian: everything is scalar and affine there. Formulas as in the papers, in double.
struct Axis {
  ForwardSde sde;
  double mean, variance;

  double mean_at(double t) const { return sde.at(t).mean * mean; }
  double variance_at(double t) const {
    const auto c = sde.at(t);
    return c.mean * c.mean * variance + c.variance;
  }
  double score(double t, double x) const { return -(x - mean_at(t)) / variance_at(t); }
  double flow(double t, double x) const {
    const auto c = sde.at(t);
    return c.drift * x - 0.5 * c.diffusion_squared * score(t, x);
  }
  // σ²/m².
  double noise_to_signal(double t) const {
    const auto c = sde.at(t);
    return c.variance / (c.mean * c.mean);
  }
  double ddim_noise(double t, double to, double eta) const {
    return eta * std::sqrt(sde.at(to).variance * (1 - noise_to_signal(to) / noise_to_signal(t)));
  }
  // Without noise.
  double step(Scheme scheme, double t, double dt, double x, double eta = 1) const {
    const auto c = sde.at(t), end = sde.at(t + dt);
    switch (scheme) {
      case Scheme::euler_maruyama:
        return x + dt * (c.drift * x - (1 + eta * eta) / 2 * c.diffusion_squared * score(t, x));
      case Scheme::exponential: {
        // In x/m, which the noise ε̂ = −σ s that the model finds moves by dr.
        const double moved = std::sqrt(noise_to_signal(t)) - std::sqrt(noise_to_signal(t + dt));
        return end.mean * (x / c.mean + (1 + eta * eta) * moved * std::sqrt(c.variance) * score(t, x));
      }
      case Scheme::ddim: {
        const double noise = -std::sqrt(c.variance) * score(t, x), data = (x - std::sqrt(c.variance) * noise) / c.mean;
        const double fresh = ddim_noise(t, t + dt, eta);
        return end.mean * data + std::sqrt(end.variance - fresh * fresh) * noise;
      }
      case Scheme::euler: return x + dt * flow(t, x);
      case Scheme::heun: {
        const double k1 = flow(t, x), k2 = flow(t + dt, x + dt * k1);
        return x + dt * (k1 + k2) / 2;
      }
      case Scheme::rk4: {
        const double k1 = flow(t, x), k2 = flow(t + dt / 2, x + dt / 2 * k1), k3 = flow(t + dt / 2, x + dt / 2 * k2);
        return x + dt * (k1 + 2 * k2 + 2 * k3 + flow(t + dt, x + dt * k3)) / 6;
      }
      case Scheme::dpm_solver_2m:
      case Scheme::stochastic_heun: break;  // TableStep has these
    }
    return 0;
  }
  // The deviation of a step's noise.
  double noise(Scheme scheme, double t, double dt, double eta = 1) const {
    if (scheme == Scheme::euler_maruyama) return eta * std::sqrt(-dt * sde.at(t).diffusion_squared);
    if (scheme == Scheme::ddim) return ddim_noise(t, t + dt, eta);
    if (scheme != Scheme::exponential) return 0;
    return eta * sde.at(t + dt).mean * std::sqrt(noise_to_signal(t) - noise_to_signal(t + dt));
  }
  // ∫ of the flow's divergence over one step, by the quadrature that the scheme amounts to where ∇s does not depend on
  // x.
  double divergence_step(Scheme scheme, double t, double dt) const {
    const auto divergence = [&](double at) {
      const auto c = sde.at(at);
      return c.drift + 0.5 * c.diffusion_squared / variance_at(at);
    };
    if (scheme == Scheme::heun) return dt * (divergence(t) + divergence(t + dt)) / 2;
    return dt * (divergence(t) + 4 * divergence(t + dt / 2) + divergence(t + dt)) / 6;  // rk4
  }
  // The flow keeps (x − mean)/deviation: the probability flow of a Gaussian in closed form.
  double flow_map(double from, double to, double x) const {
    return mean_at(to) + std::sqrt(variance_at(to) / variance_at(from)) * (x - mean_at(from));
  }
};

struct Law {
  double mean, variance;
};

// The law after the grid: every step is x ← A x + B + ν z.
Law scheme_law(const Axis& axis, Scheme scheme, const TimeGrid& grid, bool noise_in_last_step, Law law,
               double eta = 1) {
  const std::vector<double>& t = grid.times();
  for (std::size_t k = 0; k + 1 < t.size(); ++k) {
    const double dt = t[k + 1] - t[k], b = axis.step(scheme, t[k], dt, 0, eta);
    const double a = axis.step(scheme, t[k], dt, 1, eta) - b;
    const double noise = noise_in_last_step || k + 2 < t.size() ? axis.noise(scheme, t[k], dt, eta) : 0;
    law.mean = a * law.mean + b;
    law.variance = a * a * law.variance + noise * noise;
  }
  return law;
}
// Started from the prior.
Law scheme_law(const Axis& axis, Scheme scheme, const TimeGrid& grid, bool noise_in_last_step) {
  return scheme_law(axis, scheme, grid, noise_in_last_step, {0, axis.sde.prior_variance()});
}

std::string name_of(const ForwardSde& sde) {
  std::string name = sde.name();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// ---- Laws ----

struct SampleMoments {
  std::array<double, 2> mean{}, variance{};
  double covariance = 0;
};

SampleMoments moments_along_axes(const std::vector<float>& x) {
  SampleMoments m;
  const double n = static_cast<double>(x.size() / 2);
  for (std::size_t i = 0; i < x.size(); i += 2) {
    const auto u = to_axes(x[i], x[i + 1]);
    for (int j = 0; j < 2; ++j) m.mean[j] += u[j] / n;
  }
  for (std::size_t i = 0; i < x.size(); i += 2) {
    const auto u = to_axes(x[i], x[i + 1]);
    for (int j = 0; j < 2; ++j) m.variance[j] += (u[j] - m.mean[j]) * (u[j] - m.mean[j]) / n;
    m.covariance += (u[0] - m.mean[0]) * (u[1] - m.mean[1]) / n;
  }
  return m;
}

class EverySde : public ::testing::TestWithParam<SdeKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, EverySde, ::testing::ValuesIn(kKinds),
                         [](const auto& kind) { return name_of(ForwardSde::defaults(kind.param)); });

// Samples have the law of their scheme within 5 standard errors (mean √(v/N), variance v √(2/N), covariance √(v w/N)).
// That law is the data's up to what the prior misses, which the flow carries to the end in closed form, and the
// scheme's error: for steps of dt, Euler–Maruyama's variance is off by about g² dt/(2 S), below 4 per cent here and 2
// per cent of a deviation in the mean; Heun is ten times better at least.
TEST_P(EverySde, ReachesMeanAndCovarianceOfGaussianData) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  const double end = sde.t_min(), horizon = sde.horizon();
  const Index n = 20'000;
  for (const Scheme scheme : {Scheme::euler_maruyama, Scheme::heun}) {
    const bool long_horizon = GetParam() == SdeKind::ou && scheme == Scheme::euler_maruyama;
    const TimeGrid grid = TimeGrid::uniform(horizon, end, long_horizon ? 500 : 150);
    std::vector<float> x(2 * n);
    Sampler(with_threads(0), gaussian(sde), grid).sample(View<float>(x, 2), {.scheme = scheme, .seed = 1});
    const SampleMoments m = moments_along_axes(x);
    std::array<Law, 2> law;
    for (int j = 0; j < 2; ++j) {
      SCOPED_TRACE(fmt::format("{} axis {}", to_string(scheme), j));
      const Axis axis{sde, kMean[j], kVariance[j]};
      law[j] = scheme_law(axis, scheme, grid, false);
      EXPECT_NEAR(m.mean[j], law[j].mean, 5 * std::sqrt(law[j].variance / n));
      EXPECT_NEAR(m.variance[j], law[j].variance, 5 * law[j].variance * std::sqrt(2.0 / n));

      const double exact = axis.variance_at(end), better = scheme == Scheme::heun ? 0.1 : 1;
      const double missed_mean = std::fabs(axis.flow_map(horizon, end, 0) - axis.mean_at(end));
      const double missed_variance = std::fabs(sde.prior_variance() / axis.variance_at(horizon) - 1);
      EXPECT_NEAR(law[j].mean, axis.mean_at(end), missed_mean + 0.02 * better * std::sqrt(exact));
      EXPECT_NEAR(law[j].variance / exact, 1, missed_variance + 0.04 * better);
    }
    EXPECT_NEAR(m.covariance, 0, 5 * std::sqrt(law[0].variance * law[1].variance / n)) << to_string(scheme);
  }
}

// m ≠ 1 and m = 1, and a drift and a diffusion that are infinite at T.
class FamilyUnder : public ::testing::TestWithParam<SdeKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, FamilyUnder,
                         ::testing::Values(SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp,
                                           SdeKind::ve, SdeKind::edm, SdeKind::flow, SdeKind::ddpm),
                         [](const auto& kind) { return name_of(ForwardSde::defaults(kind.param)); });

struct Member {
  Scheme scheme;
  double eta;
};
// Of the family from the probability flow to the reverse SDE and beyond.
constexpr Member kFamily[] = {{Scheme::euler_maruyama, 0}, {Scheme::euler_maruyama, 0.5}, {Scheme::euler_maruyama, 1.5},
                              {Scheme::exponential, 0},    {Scheme::exponential, 1},      {Scheme::exponential, 1.5},
                              {Scheme::ddim, 0},           {Scheme::ddim, 0.5},           {Scheme::ddim, 1}};

// A step is the formula's: what it does to x, and, by the difference to the same step with its noise, the noise. Its
// normals are those of the first step from other samples: the same for every scheme.
TEST_P(FamilyUnder, AStepIsItsFormula) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  const double t = 0.5 * sde.horizon(), to = 0.45 * sde.horizon();
  const TimeGrid grid({t, to});
  const Model model{sde, GaussianMixture::isotropic(1, {1}, {1.0}, {0.4})};
  const Axis axis{sde, 1.0, 0.4};
  const Index n = 99;
  const auto moved = [&](const Member& member, double temperature, bool noisy) {
    std::vector<float> x(n);
    for (Index i = 0; i < n; ++i) x[i] = static_cast<float>(0.05 * static_cast<double>(i) - 2);
    Sampler(with_threads(1), model, grid)
        .integrate(View<float>(x, 1), {.scheme = member.scheme,
                                       .seed = 3,
                                       .noise_in_last_step = noisy,
                                       .eta = member.eta,
                                       .temperature = temperature});
    return x;
  };
  const std::vector<float> still = moved({Scheme::euler_maruyama, 1}, 1, false),
                           noisy = moved({Scheme::euler_maruyama, 1}, 1, true);
  const double unit = axis.noise(Scheme::euler_maruyama, t, to - t);
  for (const Member& member : kFamily) {
    for (const double temperature : {1.0, 0.25, 0.0}) {
      if (temperature != 1 && member.eta == 0) continue;
      SCOPED_TRACE(fmt::format("{}, eta {}, temperature {}", to_string(member.scheme), member.eta, temperature));
      const std::vector<float> a = moved(member, temperature, false), b = moved(member, temperature, true);
      const double noise = std::sqrt(temperature) * axis.noise(member.scheme, t, to - t, member.eta);
      for (Index i = 0; i < n; ++i) {
        const double x = static_cast<float>(0.05 * static_cast<double>(i) - 2), z = (noisy[i] - still[i]) / unit;
        const double want = axis.step(member.scheme, t, to - t, x, member.eta);
        // Some roundings of numbers that are no larger than these.
        const double scale = std::fabs(x) + std::fabs(want) + std::fabs(still[i]) + std::fabs(noisy[i]);
        EXPECT_NEAR(a[i], want, 8 * 0x1p-24 * scale) << i;
        EXPECT_NEAR(b[i] - a[i], noise * z, 8 * 0x1p-24 * scale * (1 + noise / unit)) << i;
      }
    }
  }
}

// All members have the marginals of the forward SDE: from that at 0.9 T, the law at 0.1 T is the exact one but for an
// error of first order in the step, which halves where the steps do.
TEST_P(FamilyUnder, MembersHaveTheMarginalsOfTheForwardSde) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  const double begin = 0.9 * sde.horizon(), end = 0.1 * sde.horizon();
  for (const Member& member : kFamily) {
    for (int j = 0; j < 2; ++j) {
      SCOPED_TRACE(fmt::format("{}, eta {}, axis {}", to_string(member.scheme), member.eta, j));
      const Axis axis{sde, kMean[j], kVariance[j]};
      std::vector<double> error;
      for (const int steps : {800, 1600, 3200}) {  // one, two and four to a step of ddpm's
        std::vector<double> times;
        for (int k = 0; k <= steps; ++k) times.push_back(std::lerp(begin, end, double(k) / steps));
        const Law law = scheme_law(axis, member.scheme, TimeGrid(times), true,
                                   {axis.mean_at(begin), axis.variance_at(begin)}, member.eta);
        const double deviation = std::sqrt(axis.variance_at(end));
        error.push_back(
            std::hypot((law.mean - axis.mean_at(end)) / deviation, law.variance / axis.variance_at(end) - 1));
      }
      EXPECT_LT(error[2], 0.03);
      for (int k = 0; k < 2; ++k) {
        if (error[k + 1] < 1e-4) continue;  // where terms of first and second order may be alike
        EXPECT_NEAR(std::log2(error[k] / error[k + 1]), 1, 0.1) << error[k];
      }
    }
  }
}

// And its samples follow their law, within 5 standard errors.
TEST(SamplesOfTheFamily, FollowTheLawOfTheirScheme) {
  const ForwardSde sde = ForwardSde::vp_linear();
  const TimeGrid grid = TimeGrid::uniform(sde.horizon(), sde.t_min(), 60);
  const Index n = 20'000;
  for (const Member& member : kFamily) {
    std::vector<float> x(2 * n);
    Sampler(with_threads(0), gaussian(sde), grid)
        .sample(View<float>(x, 2), {.scheme = member.scheme, .seed = 1, .eta = member.eta});
    const SampleMoments m = moments_along_axes(x);
    for (int j = 0; j < 2; ++j) {
      SCOPED_TRACE(fmt::format("{}, eta {}, axis {}", to_string(member.scheme), member.eta, j));
      const Law law =
          scheme_law({sde, kMean[j], kVariance[j]}, member.scheme, grid, false, {0, sde.prior_variance()}, member.eta);
      EXPECT_NEAR(m.mean[j], law.mean, 5 * std::sqrt(law.variance / n));
      EXPECT_NEAR(m.variance[j], law.variance, 5 * law.variance * std::sqrt(2.0 / n));
    }
  }
}

// Every scheme's own η is that of its name, to the bit; and at η = 0 the family is the flow, by Euler's steps and by ddim's.
TEST(SamplesOfTheFamily, EndsAreTheKnownSchemes) {
  const Model model = network(2);
  const TimeGrid grid = TimeGrid::uniform(model.sde.horizon(), 0.1, 20);
  const auto samples = [&](const SampleOptions& options) {
    std::vector<float> x(2 * 33);
    Sampler(with_threads(1), model, grid).sample(View<float>(x, 2), options);
    return x;
  };
  EXPECT_EQ(samples({.eta = 1.0}), samples({}));
  EXPECT_EQ(samples({.scheme = Scheme::ddim, .eta = 0.0}), samples({.scheme = Scheme::ddim}));
  EXPECT_NE(samples({.scheme = Scheme::ddim, .eta = 1.0}), samples({.scheme = Scheme::ddim}));
  EXPECT_EQ(samples({.scheme = Scheme::exponential, .eta = 1.0}), samples({.scheme = Scheme::exponential}));
  const std::vector<float> exact = samples({.scheme = Scheme::exponential, .eta = 0.0}),
                           ddim = samples({.scheme = Scheme::ddim});
  for (std::size_t k = 0; k < ddim.size(); ++k) EXPECT_NEAR(exact[k], ddim[k], 1e-5 * (1 + std::fabs(ddim[k]))) << k;
  EXPECT_EQ(samples({.scheme = Scheme::heun, .eta = 0.0}), samples({.scheme = Scheme::heun}));
  const std::vector<float> flow = samples({.scheme = Scheme::euler}), still = samples({.eta = 0.0});
  for (std::size_t k = 0; k < flow.size(); ++k) EXPECT_NEAR(flow[k], still[k], 1e-5 * (1 + std::fabs(flow[k]))) << k;
}

// A step of a scheme with a memory or several draws, and what may come before a step, along one axis and as their papers
// have them, in double.
struct TableStep {
  Axis axis;
  SampleOptions options;
  std::vector<double> t;

  struct State {
    double x, data = 0;  // x̂_0 of the step before
  };

  double log_snr_half(double at) const {
    return std::log(axis.sde.at(at).mean) - std::log(axis.sde.at(at).variance) / 2;
  }
  double drift(double at, double x) const {
    const auto c = axis.sde.at(at);
    const double eta = options.chosen_eta();
    return c.drift * x - (1 + eta * eta) / 2 * c.diffusion_squared * axis.score(at, x);
  }
  double noise_rate(double at) const { return options.chosen_eta() * std::sqrt(axis.sde.at(at).diffusion_squared); }

  // Karras et al. 2022, algorithm 2, in σ/m: the time and the state that the step is taken from.
  std::pair<double, double> churned(double at, double x, double normal) const {
    const Churn& churn = options.churn;
    const auto ratio = [&](double time) { return std::exp(-log_snr_half(time)); };
    const double gamma = std::min(churn.amount / static_cast<double>(t.size() - 1), std::sqrt(2.0) - 1);
    if (gamma == 0 || ratio(at) < churn.from || ratio(at) > churn.to) return {at, x};
    const double wanted = std::min(ratio(at) * (1 + gamma), ratio(axis.sde.horizon()));
    double low = at, high = axis.sde.horizon();
    for (int k = 0; k < 200; ++k) (ratio((low + high) / 2) < wanted ? low : high) = (low + high) / 2;
    const double before = axis.sde.at(at).mean, after = axis.sde.at(high).mean;
    return {high, after * (x / before + churn.noise * std::sqrt(wanted * wanted - ratio(at) * ratio(at)) * normal)};
  }

  // From t[k] to t[k + 1], with the normals of the step and of what comes before it.
  State operator()(std::size_t k, State s, double normal, double before) const {
    double from = t[k];
    const double to = t[k + 1];
    if (options.langevin > 0) {
      const double step = 2 * options.langevin * options.langevin * axis.sde.at(from).variance;
      s.x += step * axis.score(from, s.x) + std::sqrt(2 * step) * before;
    }
    if (k + 2 == t.size() && !options.noise_in_last_step) normal = 0;
    if (options.churn.amount > 0) std::tie(from, s.x) = churned(from, s.x, before);
    const double dt = to - from;
    if (options.scheme == Scheme::stochastic_heun) {
      const double y = s.x + drift(from, s.x) * dt + noise_rate(from) * std::sqrt(-dt) * normal;
      const double square = (noise_rate(from) * noise_rate(from) + noise_rate(to) * noise_rate(to)) / 2;
      return {s.x + (drift(from, s.x) + drift(to, y)) / 2 * dt + std::sqrt(square * -dt) * normal};
    }
    if (options.scheme != Scheme::dpm_solver_2m) {
      const double eta = options.chosen_eta();
      return {axis.step(options.scheme, from, dt, s.x, eta) + axis.noise(options.scheme, from, dt, eta) * normal};
    }
    // Lu et al. 2022: with h = λ_1 − λ, α = m.
    const auto c = axis.sde.at(from), end = axis.sde.at(to);
    const double h = log_snr_half(to) - log_snr_half(from), square = std::pow(options.chosen_eta(), 2);
    const double data = (s.x + c.variance * axis.score(from, s.x)) / c.mean;
    double used = data;
    if (k > 0) {
      const double r = (log_snr_half(from) - log_snr_half(t[k - 1])) / h;
      used = (1 + 1 / (2 * r)) * data - 1 / (2 * r) * s.data;
    }
    return {std::sqrt(end.variance / c.variance) * std::exp(-square * h) * s.x +
                end.mean * (1 - std::exp(-(1 + square) * h)) * used +
                std::sqrt(end.variance * (1 - std::exp(-2 * square * h))) * normal,
            data};
  }

  // After all steps from a law at t[0]: a step is affine in the state and the normals.
  Law law(Law begin) const {
    State mean{begin.mean};
    double covariance[2][2] = {{begin.variance, 0}, {0, 0}};
    for (std::size_t k = 0; k + 1 < t.size(); ++k) {
      const auto difference = [&](const State& state, double normal, double before) {
        const State a = (*this)(k, state, normal, before), b = (*this)(k, {0, 0}, 0, 0);
        return std::array<double, 2>{a.x - b.x, a.data - b.data};
      };
      const std::array<double, 2> by[4] = {difference({1, 0}, 0, 0), difference({0, 1}, 0, 0), difference({0, 0}, 1, 0),
                                           difference({0, 0}, 0, 1)};
      double next[2][2];
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
          next[i][j] = by[2][i] * by[2][j] + by[3][i] * by[3][j];
          for (int a = 0; a < 2; ++a) {
            for (int b = 0; b < 2; ++b) next[i][j] += by[a][i] * covariance[a][b] * by[b][j];
          }
        }
      }
      std::copy(&next[0][0], &next[0][0] + 4, &covariance[0][0]);
      mean = (*this)(k, mean, 0, 0);
    }
    return {mean.x, covariance[0][0]};
  }
};

struct Table {
  const char* name;
  SampleOptions options;
  double order;  // of the moments' error in the step; 0: the law has an error that stays
};
const std::vector<Table>& tables() {
  static const std::vector<Table> all = {
      {"dpm++2m", {.scheme = Scheme::dpm_solver_2m}, 2},
      {"dpm++2m, eta 0.5", {.scheme = Scheme::dpm_solver_2m, .eta = 0.5}, 1},
      {"dpm++2m, eta 1", {.scheme = Scheme::dpm_solver_2m, .eta = 1.0}, 1},
      {"stochastic-heun", {.scheme = Scheme::stochastic_heun}, 2},
      {"stochastic-heun, eta 0.5", {.scheme = Scheme::stochastic_heun, .eta = 0.5}, 2},
      {"euler with churn", {.scheme = Scheme::euler, .churn = {.amount = 5}}, 1},
      {"heun with churn", {.scheme = Scheme::heun, .churn = {.amount = 5}}, 2},
      {"rk4 with some churn", {.scheme = Scheme::rk4, .churn = {.amount = 5, .from = 0.3, .to = 1, .noise = 1.01}}, 0},
      {"euler-maruyama with Langevin steps", {.langevin = 0.16}, 0},
      {"heun with Langevin steps", {.scheme = Scheme::heun, .langevin = 0.05}, 0},
      {"dpm++2m with Langevin steps", {.scheme = Scheme::dpm_solver_2m, .langevin = 0.1}, 0},
  };
  return all;
}

// The path itself, sample by sample, on steps of several lengths.
TEST_P(FamilyUnder, PathsOfTablesAreThoseOfTheirPapers) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  std::vector<double> times = {0.9, 0.85, 0.7, 0.66, 0.5, 0.42};
  for (double& t : times) t *= sde.horizon();
  const Model model{sde, GaussianMixture::isotropic(1, {1}, {1.0}, {0.4})};
  const Index n = 99;
  const std::uint64_t seed = 11, first = 7;
  const auto normal = [&](Index i, RandomUse use, std::uint64_t step) {
    const PhiloxBlock b = philox4x32_10(seed, first + static_cast<std::uint64_t>(i), philox_offset(use, 0, step));
    return std::sqrt(-2 * std::log(static_cast<double>(uniform_from_word(b.word[0])))) *
           std::cos(2 * std::numbers::pi * uniform_from_word(b.word[1]));
  };
  const Axis axis{sde, 1.0, 0.4};
  const double scale = std::sqrt(axis.variance_at(times[0])) + 1;
  for (const Table& table : tables()) {
    for (const bool noise_in_last_step : {false, true}) {
      SCOPED_TRACE(table.name);
      SampleOptions options = table.options;
      options.seed = seed, options.first_index = first, options.noise_in_last_step = noise_in_last_step;
      const TableStep step{axis, options, times};
      std::vector<float> x(n);
      std::vector<double> expected;
      for (Index i = 0; i < n; ++i) {
        x[i] = static_cast<float>(scale * std::sin(1.7 * static_cast<double>(i)));
        TableStep::State state{x[i]};
        for (std::size_t k = 0; k + 1 < times.size(); ++k) {
          state = step(k, state, normal(i, RandomUse::noise, k), normal(i, RandomUse::before_step, k));
        }
        expected.push_back(state.x);
      }
      Sampler(with_threads(2), model, TimeGrid(times)).integrate(View<float>(x, 1), options);
      // Five steps, each of some roundings of numbers of the states' size and some that are larger.
      EXPECT_TRUE(agrees(x, expected, {.norm = 3e-6, .absolute = 3e-6 * scale}));
    }
  }
}

// From the marginal at 0.9 T the law at 0.1 T is the exact one but for the scheme's error, of the order that it has: β of
// ddpm jumps, where there is no second.
TEST_P(FamilyUnder, TablesHaveTheMarginalsOfTheForwardSde) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  const double begin = 0.9 * sde.horizon(), end = 0.1 * sde.horizon();
  for (const Table& table : tables()) {
    if (table.order == 0 || (table.order == 2 && GetParam() == SdeKind::ddpm)) continue;
    for (int j = 0; j < 2; ++j) {
      SCOPED_TRACE(fmt::format("{}, axis {}", table.name, j));
      const Axis axis{sde, kMean[j], kVariance[j]};
      std::vector<double> error;
      for (const int steps : {800, 1600, 3200}) {  // one, two and four to a step of ddpm's
        std::vector<double> times;
        for (int k = 0; k <= steps; ++k) times.push_back(std::lerp(begin, end, double(k) / steps));
        SampleOptions options = table.options;
        options.noise_in_last_step = true;
        const Law law = TableStep{axis, options, times}.law({axis.mean_at(begin), axis.variance_at(begin)});
        const double deviation = std::sqrt(axis.variance_at(end));
        error.push_back(
            std::hypot((law.mean - axis.mean_at(end)) / deviation, law.variance / axis.variance_at(end) - 1));
      }
      EXPECT_LT(error[2], 0.03);
      for (int k = 0; k < 2; ++k) {
        if (error[k + 1] < (table.order == 2 ? 1e-8 : 1e-4)) continue;  // where terms of several orders may be alike
        EXPECT_NEAR(std::log2(error[k] / error[k + 1]), table.order, 0.1 * table.order) << error[k];
      }
    }
  }
}

// A Langevin step leaves a share of the order ρ² in the variance: of Gaussian data with steps so short that nothing else is
// left, from v = σ² + m² c on it would be that of x ← (1 − ε/v) x + √(2ε) z, at most v/(1 − ε/(2 v)).
TEST(LangevinSteps, LeaveAShareOfTheOrderOfTheirRatioSquared) {
  const ForwardSde sde = ForwardSde::vp_linear();
  const double begin = 0.9, end = 0.1;
  std::vector<double> times;
  for (int k = 0; k <= 25'600; ++k) times.push_back(std::lerp(begin, end, k / 25'600.0));
  const Axis axis{sde, 1.0, 0.4};
  std::vector<double> share;
  for (const double ratio : {0.08, 0.16, 0.32}) {
    const TableStep step{axis, {.scheme = Scheme::heun, .noise_in_last_step = true, .langevin = ratio}, times};
    const Law law = step.law({axis.mean_at(begin), axis.variance_at(begin)});
    share.push_back(law.variance / axis.variance_at(end) - 1);
    EXPECT_GT(share.back(), 0);
    EXPECT_LT(share.back(), 1 / (1 - ratio * ratio) - 1);
    EXPECT_NEAR(law.mean, axis.mean_at(end), 1e-3);
  }
  for (int k = 0; k < 2; ++k) EXPECT_NEAR(std::log2(share[k + 1] / share[k]), 2, 0.2);
}

// Onto t = 0, where a point mass, a noise net and a net of ln σ have no score, a step of Heun's or RK4's is Euler's; with a
// score that is finite there it is not.
TEST(LastStep, IsOfFirstOrderWhereTheScoreIsSingularAtZero) {
  const ForwardSde sde = ForwardSde::vp_linear();
  const auto in_form = [&](const NetworkForm& form) {
    Architecture architecture{.hidden = {9}, .activation = Activation::silu, .output = Output::score};
    Mlp mlp = Mlp::initialise(architecture, 3);
    mlp.architecture.form = form;
    return Model{sde, mlp};
  };
  struct Case {
    const char* name;
    Model model;
    bool singular;
  };
  const TimeGrid whole({1, 0.5, 0.1, 0}), to_last({1, 0.5, 0.1}), last({0.1, 0});
  for (const Case& c :
       {Case{"point mass", {sde, GaussianMixture::isotropic(2, {1}, {1, -1}, {0})}, true},
        Case{"noise", in_form({.form = Form::noise}), true},
        Case{"score of ln sigma", in_form({.time_input = TimeInput::log_sigma}), true},
        Case{"velocity of ln sigma", in_form({.form = Form::velocity, .time_input = TimeInput::log_sigma}), true},
        Case{"score", in_form({}), false}}) {
    SCOPED_TRACE(c.name);
    const auto states = [&](const TimeGrid& grid, Scheme scheme, std::vector<float> x) {
      Sampler(with_threads(1), c.model, grid).integrate(View<float>(x, 2), {.scheme = scheme});
      return x;
    };
    const std::vector<float> start = {0.5f, -1, 2, 0.25f};
    for (const Scheme scheme : {Scheme::heun, Scheme::rk4}) {
      const std::vector<float> way = states(to_last, scheme, start), end = states(whole, scheme, start),
                               euler = states(last, Scheme::euler, way);
      for (std::size_t k = 0; k < end.size(); ++k) EXPECT_TRUE(std::isfinite(end[k])) << k;
      if (!c.singular) {
        EXPECT_NE(end, euler);
        continue;
      }
      // The stages' weights add to 1 but for their roundings.
      for (std::size_t k = 0; k < end.size(); ++k) {
        EXPECT_NEAR(end[k], euler[k], 1e-6 * (std::fabs(way[k]) + std::fabs(euler[k]))) << k;
      }
    }
  }
}

TEST(SamplesOfTheFamily, RefusesNumbersOutOfRange) {
  const Model model = network(2);
  std::vector<float> x(2);
  const auto refuse = [&](const SampleOptions& options, const std::vector<std::string>& words) {
    expect_error(
        [&] { Sampler(with_threads(1), model, TimeGrid::uniform(10, 0.1, 2)).sample(View<float>(x, 2), options); },
        words);
  };
  refuse({.eta = -0.5}, {"eta -0.5 given with euler-maruyama; allowed: 0 to 100"});
  refuse({.eta = std::nan("")}, {"eta nan given", "allowed: 0 to 100"});
  refuse({.scheme = Scheme::ddim, .eta = 1.5}, {"eta 1.5 given with ddim; allowed: 0 to 1"});
  refuse({.scheme = Scheme::heun, .eta = 1.0}, {"eta 1 given with heun, which draws no noise; allowed: 0"});
  refuse({.temperature = -1}, {"temperature -1 given; allowed: 0 or more"});
  refuse({.temperature = INFINITY}, {"temperature inf given; allowed: 0 or more"});
  const std::string still = " at eta 0, which draws no noise; allowed: 1";
  refuse({.scheme = Scheme::rk4, .temperature = 0.5}, {"temperature 0.5 given with rk4" + still});
  refuse({.scheme = Scheme::ddim, .temperature = 0.5}, {"temperature 0.5 given with ddim" + still});
  refuse({.churn = {.amount = 3}}, {"churn 3 given with euler-maruyama; allowed with euler, heun and rk4"});
  refuse({.scheme = Scheme::heun, .churn = {.amount = -1}}, {"churn -1 given; allowed: 0 or more"});
  refuse({.scheme = Scheme::heun, .churn = {.amount = 1, .from = 2, .to = 1}}, {"churn from 2 given", "where it ends"});
  refuse({.scheme = Scheme::heun, .churn = {.amount = 1, .noise = 0}}, {"churn with noise 0 given; allowed: above 0"});
  refuse({.langevin = 1.5}, {"a Langevin step's ratio 1.5 given; allowed: 0 to 1"});
  refuse({.scheme = Scheme::heun, .churn = {.amount = 3}, .langevin = 0.1},
         {"churn 3 and a Langevin step", "one of them"});
}

// The path itself, sample by sample: Euler and Maruyama's recursion in double with Box–Muller normals from Philox
// words.
TEST_P(EverySde, EulerMaruyamaPathIsTheOneItsSeedNames) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  const TimeGrid grid = TimeGrid::uniform(sde.horizon(), sde.horizon() / 20, 12);
  const Index n = 99;
  const std::uint64_t seed = 11, first = (std::uint64_t{1} << 32) - 50;
  const auto normals = [&](Index i, RandomUse use, std::uint64_t step) {
    const PhiloxBlock b = philox4x32_10(seed, first + static_cast<std::uint64_t>(i), philox_offset(use, 0, step));
    const double radius = std::sqrt(-2 * std::log(static_cast<double>(uniform_from_word(b.word[0]))));
    const double angle = 2 * std::numbers::pi * uniform_from_word(b.word[1]);
    return std::array<double, 2>{radius * std::cos(angle), radius * std::sin(angle)};
  };
  for (const bool noise_in_last_step : {false, true}) {
    std::vector<float> x(2 * n);
    Sampler(with_threads(2), gaussian(sde), grid)
        .sample(View<float>(x, 2), {.seed = seed, .first_index = first, .noise_in_last_step = noise_in_last_step});
    std::vector<double> expected;
    const std::vector<double>& t = grid.times();
    for (Index i = 0; i < n; ++i) {
      const auto z = normals(i, RandomUse::prior, 0);
      const double deviation = std::sqrt(sde.prior_variance());
      auto u = to_axes(deviation * z[0], deviation * z[1]);
      for (std::size_t k = 0; k + 1 < t.size(); ++k) {
        const auto w = normals(i, RandomUse::noise, k);
        const auto noise = to_axes(w[0], w[1]);
        const double dt = t[k + 1] - t[k], g = std::sqrt(sde.at(t[k]).diffusion_squared);
        for (int j = 0; j < 2; ++j) {
          u[j] = Axis{sde, kMean[j], kVariance[j]}.step(Scheme::euler_maruyama, t[k], dt, u[j]);
          if (noise_in_last_step || k + 2 < t.size()) u[j] += g * std::sqrt(-dt) * noise[j];
        }
      }
      const auto end = from_axes(u[0], u[1]);
      expected.insert(expected.end(), end.begin(), end.end());
    }
    // Twelve steps, each rounding a few numbers of the prior's size: 12 × 4 × 2^−24 of it.
    EXPECT_TRUE(agrees(x, expected, {.norm = 3e-6, .absolute = 3e-6 * std::sqrt(sde.prior_variance())}));
  }
}

// The flow's path by every scheme: its recursion in double, along each axis.
TEST_P(EverySde, ProbabilityFlowPathIsTheSchemes) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  const TimeGrid grid = TimeGrid::uniform(sde.horizon(), sde.horizon() / 20, 12);
  const Index n = 99;
  for (const Scheme scheme : {Scheme::euler, Scheme::heun, Scheme::rk4}) {
    std::vector<float> x(2 * n);
    std::vector<double> expected;
    const double deviation = std::sqrt(sde.prior_variance());
    for (Index i = 0; i < 2 * n; ++i) x[i] = static_cast<float>(2 * deviation * std::sin(1.7 * static_cast<double>(i)));
    for (Index i = 0; i < n; ++i) {
      auto u = to_axes(x[2 * i], x[2 * i + 1]);
      for (int k = 0; k < grid.steps(); ++k) {
        const double t = grid.times()[k], dt = grid.times()[k + 1] - t;
        for (int j = 0; j < 2; ++j) u[j] = Axis{sde, kMean[j], kVariance[j]}.step(scheme, t, dt, u[j]);
      }
      const auto end = from_axes(u[0], u[1]);
      expected.insert(expected.end(), end.begin(), end.end());
    }
    Sampler(with_threads(2), gaussian(sde), grid).integrate(View<float>(x, 2), {.scheme = scheme});
    // Twelve steps, each rounding a few numbers of the prior's size.
    EXPECT_TRUE(agrees(x, expected, {.norm = 3e-6, .absolute = 3e-6 * deviation})) << to_string(scheme);
  }
}

// Networks whose layers take an embedding of the time, which is common to a step, and a condition, which is each sample's
// own: the steps of the flow by their fields in double, and the log-density by their divergence.
TEST(Branches, PathsAndLogDensitiesAreThoseOfTheFields) {
  const Index n = 19;
  for (const Output output : {Output::potential, Output::score}) {
    for (const auto& [name, architecture] : testing::all_networks(output)) {
      SCOPED_TRACE(name);
      const Model model{ForwardSde::defaults(SdeKind::vp_linear), Mlp::initialise(architecture, 7)};
      const Index d = architecture.dimension;
      const TimeGrid grid = TimeGrid::uniform(model.sde.horizon(), 0.2, 9);
      std::vector<float> x(n * d);
      for (Index i = 0; i < n * d; ++i) x[i] = static_cast<float>(std::sin(1.7 * static_cast<double>(i)));
      const std::vector<float> begin = x;
      const Index numbers = architecture.condition.inputs;
      std::vector<float> condition(n * numbers);
      for (Index i = 0; i < n * numbers; ++i) condition[i] = static_cast<float>(std::cos(2.3 * static_cast<double>(i)));
      const std::vector<double> wide_condition(condition.begin(), condition.end());
      const auto rows = [&]<class T>(const std::vector<T>& all) {
        return numbers > 0 ? View<const T>(all, numbers) : View<const T>();
      };
      std::vector<double> expected(x.begin(), x.end()), log_density(n, 0.0);
      const Fields<double> fields(with_threads(1), model);
      std::vector<double> score(n * d), divergence(n);
      // One Euler step from t to t + dt; adds ∫ ∇·f dt.
      const auto step = [&](std::vector<double>& at, double t, double dt) {
        const SdeCoefficients<double> c = model.sde.at(t);
        fields.evaluate({View<const double>(&t, 1), View<const double>(at, d), rows(wide_condition)},
                        {.score = View<double>(score, d), .divergence = View<double>(divergence)});
        for (Index i = 0; i < n * d; ++i) at[i] += dt * (c.drift * at[i] - c.diffusion_squared / 2 * score[i]);
        for (Index i = 0; i < n; ++i) {
          log_density[i] += dt * (c.drift * static_cast<double>(d) - c.diffusion_squared / 2 * divergence[i]);
        }
      };
      for (int k = 0; k < grid.steps(); ++k) step(expected, grid.times()[k], grid.times()[k + 1] - grid.times()[k]);
      const Sampler sampler(with_threads(2), model, grid);
      sampler.integrate(View<float>(x, d), {.scheme = Scheme::euler, .condition = rows(condition)});
      EXPECT_TRUE(agrees(x, expected, {.of_rms = 2e-6, .norm = 1e-6}));

      std::vector<double> end(begin.begin(), begin.end());
      std::fill(log_density.begin(), log_density.end(), 0.0);
      for (int k = grid.steps(); k > 0; --k) step(end, grid.times()[k], grid.times()[k - 1] - grid.times()[k]);
      const double variance = model.sde.prior_variance();
      for (Index i = 0; i < n; ++i) {
        double square = 0;
        for (Index j = 0; j < d; ++j) square += end[i * d + j] * end[i * d + j];
        log_density[i] -=
            square / (2 * variance) + static_cast<double>(d) / 2 * std::log(2 * std::numbers::pi * variance);
      }
      std::vector<float> found(n);
      sampler.log_density(View<const float>(begin, d), View<float>(found), Scheme::euler, {}, {}, rows(condition));
      EXPECT_TRUE(agrees(found, log_density, {.norm = 1e-5, .absolute = 1e-4}));
    }
  }
}

// Log-densities along the paths that draw the samples: the prior's less ∫ ∇·f dt, which in double along each axis is the
// scheme's; near the exact one where steps are short; the same samples as without; and of any split.
TEST(LogDensityOfSamples, IsThatOfThePathsThatDrawThem) {
  const ForwardSde sde = ForwardSde::vp_linear();
  const TimeGrid grid = TimeGrid::uniform(sde.horizon(), 0.05, 200);
  const Model model = gaussian(sde);
  const Index n = 99;
  for (const Scheme scheme : {Scheme::heun, Scheme::rk4}) {
    std::vector<float> x(2 * n), alone(2 * n), log_density(n), parts(n), prior(2 * n);
    SampleOptions options{.scheme = scheme, .seed = 3, .log_density = View<float>(log_density)};
    const Sampler sampler(with_threads(2), model, grid);
    sampler.sample(View<float>(x, 2), options);
    sampler.sample(View<float>(alone, 2), {.scheme = scheme, .seed = 3});
    EXPECT_EQ(x, alone);
    options.snapshot_steps = {0};
    options.snapshots = View<float>(prior, 2);
    sampler.sample(View<float>(x, 2), options);
    std::vector<double> of_scheme, exact;
    for (Index i = 0; i < n; ++i) {
      const auto begin = to_axes(prior[2 * i], prior[2 * i + 1]), end = to_axes(x[2 * i], x[2 * i + 1]);
      double scheme_sum = 0, exact_sum = 0;
      for (int j = 0; j < 2; ++j) {
        const Axis axis{sde, kMean[j], kVariance[j]};
        const double v = sde.prior_variance();
        scheme_sum += -0.5 * std::log(2 * std::numbers::pi * v) - begin[j] * begin[j] / (2 * v);
        for (int k = 0; k < grid.steps(); ++k) {
          scheme_sum -= axis.divergence_step(scheme, grid.times()[k], grid.times()[k + 1] - grid.times()[k]);
        }
        // The flow's law is the prior carried by its map.
        const double t = grid.times().back(), start = axis.flow_map(t, sde.horizon(), end[j]),
                     stretch = std::sqrt(axis.variance_at(sde.horizon()) / axis.variance_at(t));
        exact_sum += -0.5 * std::log(2 * std::numbers::pi * v) - start * start / (2 * v) + std::log(stretch);
      }
      of_scheme.push_back(scheme_sum), exact.push_back(exact_sum);
    }
    // 200 increments of a few roundings each, of sums below 10.
    EXPECT_TRUE(agrees(log_density, of_scheme, {.absolute = 2e-5})) << to_string(scheme);
    EXPECT_TRUE(agrees(log_density, exact, {.absolute = scheme == Scheme::heun ? 2e-3 : 2e-5})) << to_string(scheme);
    for (Index first = 0; first < n; first += 20) {
      const Index rows = std::min<Index>(20, n - first);
      std::vector<float> part(2 * rows);
      sampler.sample(View<float>(part, 2), {.scheme = scheme,
                                            .seed = 3,
                                            .first_index = static_cast<std::uint64_t>(first),
                                            .log_density = View<float>(parts.data() + first, rows)});
    }
    EXPECT_EQ(parts, log_density);
  }
  std::vector<float> x(2), log_density(1), two(2);
  const Sampler sampler(with_threads(1), model, grid);
  const View<float> samples(x, 2);
  expect_error([&] { sampler.sample(samples, {.log_density = View<float>(log_density)}); },
               {"log-densities of samples by euler-maruyama", "allowed: euler, heun, rk4"});
  expect_error(
      [&] {
        sampler.sample(samples,
                       {.scheme = Scheme::heun, .churn = {.amount = 1}, .log_density = View<float>(log_density)});
      },
      {"by heun with noise", "without churn"});
  expect_error([&] { sampler.sample(samples, {.scheme = Scheme::heun, .log_density = View<float>(two)}); },
               {"[2, 1]", "[1, 1]"});
  expect_error([&] { sampler.integrate(samples, {.scheme = Scheme::heun, .log_density = View<float>(log_density)}); },
               {"of states that are given", "of samples of the prior"});
  expect_error([&] { sampler.sample(samples, {.scheme = Scheme::heun, .log_density = View<float>(x.data(), 1)}); },
               {"samples"});
}

// A Gaussian's log-density by the flow: log π(x_T) + ∫ ∇·f dt. The scheme in double gives it to float rounding: 800
// stages round the state, of the prior's size, and log π doubles it: 4e-5 with |x_T|²/π up to 20. The exact value, with
// x_T and log |dx_T/dx| in closed form, is missed by RK4's error, below 2e-4 (the cosine schedule, whose β has a kink),
// and by Heun's, below 1e-2 (VE, whose σ grows by 2 per cent a step).
TEST_P(EverySde, LogDensityOfGaussianData) {
  const ForwardSde sde = ForwardSde::defaults(GetParam());
  const double end = sde.t_min(), variance = sde.prior_variance();
  const TimeGrid grid = TimeGrid::uniform(sde.horizon(), end, 400);
  const Index n = 99;
  std::vector<float> x(2 * n), log_density(n);
  for (Index i = 0; i < n; ++i) {
    const auto p = from_axes(-2 + 0.06 * static_cast<double>(i), std::sin(static_cast<double>(i)));
    x[2 * i] = static_cast<float>(p[0]), x[2 * i + 1] = static_cast<float>(p[1]);
  }
  const auto log_prior = [&](double u) {
    return -0.5 * u * u / variance - 0.5 * std::log(2 * std::numbers::pi * variance);
  };
  const Sampler sampler(with_threads(2), gaussian(sde), grid);
  for (const Scheme scheme : {Scheme::heun, Scheme::rk4}) {
    std::vector<double> exact(n), of_scheme(n);
    for (int j = 0; j < 2; ++j) {
      const Axis axis{sde, kMean[j], kVariance[j]};
      for (Index i = 0; i < n; ++i) {
        double u = to_axes(x[2 * i], x[2 * i + 1])[j];
        exact[i] += log_prior(axis.flow_map(end, sde.horizon(), u)) +
                    0.5 * std::log(axis.variance_at(sde.horizon()) / axis.variance_at(end));
        for (int k = grid.steps(); k > 0; --k) {
          const double t = grid.times()[k], dt = grid.times()[k - 1] - t;
          of_scheme[i] += axis.divergence_step(scheme, t, dt);
          u = axis.step(scheme, t, dt, u);
        }
        of_scheme[i] += log_prior(u);
      }
    }
    sampler.log_density(View<const float>(x, 2), View<float>(log_density), scheme);
    const double error = scheme == Scheme::rk4 ? 2e-4 : 1e-2;
    EXPECT_TRUE(agrees(log_density, of_scheme, {.absolute = 4e-5})) << to_string(scheme);
    EXPECT_TRUE(agrees(log_density, exact, {.absolute = error})) << to_string(scheme);
  }
}

// ---- Orders ----

ForwardSde short_ou() { return ForwardSde::ou({.horizon = 2}); }

// Least-squares slope of log error over log step.
double slope(const std::vector<int>& steps, const std::vector<double>& errors) {
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  const double n = static_cast<double>(steps.size());
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double x = -std::log(static_cast<double>(steps[i])), y = std::log(errors[i]);
    sx += x, sy += y, sxx += x * x, sxy += x * y;
  }
  return (n * sxy - sx * sy) / (n * sxx - sx * sx);
}

// The global error against the flow map in closed form.
TEST(Orders, ProbabilityFlow) {
  const ForwardSde sde = short_ou();
  const Index n = 99;
  std::vector<float> start(2 * n);
  for (Index i = 0; i < 2 * n; ++i) start[i] = static_cast<float>(1.3 * std::sin(1.7 * static_cast<double>(i)));
  struct Case {
    Scheme scheme;
    double order;
    std::vector<int> steps;
  };
  // Where truncation stands well above float rounding (about 1e-6) and well below order one.
  const Case cases[] = {
      {Scheme::euler, 1, {32, 64, 128}}, {Scheme::heun, 2, {16, 32, 64}}, {Scheme::rk4, 4, {4, 6, 8}}};
  for (const Case& c : cases) {
    std::vector<double> errors;
    for (const int steps : c.steps) {
      const TimeGrid grid = TimeGrid::uniform(sde.horizon(), 0, steps);
      std::vector<float> x = start;
      Sampler(with_threads(2), gaussian(sde), grid).integrate(View<float>(x, 2), {.scheme = c.scheme});
      double worst = 0;
      for (Index i = 0; i < n; ++i) {
        const auto from = to_axes(start[2 * i], start[2 * i + 1]), to = to_axes(x[2 * i], x[2 * i + 1]);
        for (int j = 0; j < 2; ++j) {
          const Axis axis{sde, kMean[j], kVariance[j]};
          worst = std::max(worst, std::fabs(to[j] - axis.flow_map(sde.horizon(), 0, from[j])));
        }
      }
      errors.push_back(worst);
    }
    EXPECT_NEAR(slope(c.steps, errors), c.order, 0.12 * c.order)
        << to_string(c.scheme) << ::testing::PrintToString(errors);
    EXPECT_GT(errors.back(), 1e-5) << "rounding would hide the order";
  }
}

// Weak order 1. The error of the variance is measured on N samples to √(2/N) = 0.2 per cent, on steps so long that it
// is 40 to 10 times that and not yet proportional to the step; the slope is then known to 0.25. Where it is
// proportional, the recursion of the variance, which the samples follow, shows the order to two per cent.
TEST(Orders, EulerMaruyamaWeak) {
  const ForwardSde sde = short_ou();
  const Index n = 400'000;
  const std::vector<int> coarse = {8, 16, 32}, fine = {256, 512, 1024};
  std::array<std::vector<double>, 2> coarse_errors, fine_errors;
  std::vector<float> x(2 * n);
  for (const int steps : coarse) {
    const TimeGrid grid = TimeGrid::uniform(sde.horizon(), 0, steps);
    Sampler(with_threads(0), gaussian(sde), grid).sample(View<float>(x, 2), {.seed = 4, .noise_in_last_step = true});
    const SampleMoments m = moments_along_axes(x);
    for (int j = 0; j < 2; ++j) {
      const Law law = scheme_law({sde, kMean[j], kVariance[j]}, Scheme::euler_maruyama, grid, true);
      EXPECT_NEAR(m.mean[j], law.mean, 5 * std::sqrt(law.variance / n)) << steps << " steps, axis " << j;
      EXPECT_NEAR(m.variance[j], law.variance, 5 * law.variance * std::sqrt(2.0 / n)) << steps << " steps, axis " << j;
      coarse_errors[j].push_back(std::fabs(m.variance[j] - kVariance[j]));
    }
  }
  const auto variance = [&](int axis, int steps) {
    const TimeGrid grid = TimeGrid::uniform(sde.horizon(), 0, steps);
    return scheme_law({sde, kMean[axis], kVariance[axis]}, Scheme::euler_maruyama, grid, true).variance;
  };
  for (int j = 0; j < 2; ++j) {
    const double limit = variance(j, 1 << 17);
    for (const int steps : fine) fine_errors[j].push_back(std::fabs(variance(j, steps) - limit));
    EXPECT_NEAR(slope(coarse, coarse_errors[j]), 1, 0.25) << ::testing::PrintToString(coarse_errors[j]);
    EXPECT_NEAR(slope(fine, fine_errors[j]), 1, 0.02) << ::testing::PrintToString(fine_errors[j]);
  }
}

// ---- Log-density ----

// The exact score transports exactly: at the end of the grid the flow's density is p_t itself. With rate 2 and T = 10
// the prior misses p_T by e^{−20}.
TEST(LogDensity, OfAMixtureIsItsOwn) {
  const ForwardSde sde = ForwardSde::ou({.rate = 2, .g = 1.5});
  const double end = 0.01;
  const auto c = sde.at(end);
  struct Component {
    double weight, x, y, variance;
  };
  const Component components[] = {{0.3, 1.2, 0.4, 0.2}, {0.7, -0.8, -0.3, 0.35}};
  const Model model{sde, GaussianMixture::isotropic(2, {0.3, 0.7}, {1.2, 0.4, -0.8, -0.3}, {0.2, 0.35})};
  const Index n = 989;
  std::vector<float> x(2 * n), log_density(n);
  std::vector<double> expected(n);
  for (Index i = 0; i < n; ++i) {
    x[2 * i] = static_cast<float>(2 * std::sin(0.7 * static_cast<double>(i)));
    x[2 * i + 1] = static_cast<float>(1.5 * std::cos(1.1 * static_cast<double>(i)));
    double density = 0;
    for (const Component& k : components) {
      const double v = c.mean * c.mean * k.variance + c.variance;
      const double dx = x[2 * i] - c.mean * k.x, dy = x[2 * i + 1] - c.mean * k.y;
      density += k.weight * std::exp(-(dx * dx + dy * dy) / (2 * v)) / (2 * std::numbers::pi * v);
    }
    expected[i] = std::log(density);
  }
  const Sampler sampler(with_threads(2), model, TimeGrid::geometric(sde.horizon(), end, 300));
  sampler.log_density(View<const float>(x, 2), View<float>(log_density), Scheme::rk4);
  EXPECT_TRUE(agrees(log_density, expected, {.norm = 1e-4, .absolute = 1e-4}));
}

// With one Rademacher probe v kept along the path, ∫ ½ g² vᵀ(−∇s)v dt = Σ_jk M_jk v_j v_k with
// M_j = ∫ ½ g²/S_j dt = ½ ln (S_j(T)/S_j) − ln (m(T)/m) along axis j; in the plane only v_1 v_2 = ±1 matters, so the
// estimate takes two values about the exact one, each for half of the points. Probes drawn anew at every step would
// not.
TEST(LogDensity, HutchinsonKeepsItsProbesAlongAPath) {
  const ForwardSde sde = short_ou();
  const double end = 0.05;
  const Index n = 20'000;
  const std::array<float, 2> point = {0.7f, -0.2f};
  std::vector<float> x(2 * n), exact(1), estimate(n);
  for (Index i = 0; i < n; ++i) std::copy(point.begin(), point.end(), x.begin() + 2 * i);
  const Sampler sampler(with_threads(2), gaussian(sde), TimeGrid::uniform(sde.horizon(), end, 40));
  sampler.log_density(View<const float>(x.data(), 1, 2), View<float>(exact), Scheme::heun);
  sampler.log_density(View<const float>(x, 2), View<float>(estimate), Scheme::heun, {.probes = 1, .seed = 9});
  std::array<double, 2> along;
  for (int j = 0; j < 2; ++j) {
    const Axis axis{sde, kMean[j], kVariance[j]};
    along[j] = 0.5 * std::log(axis.variance_at(sde.horizon()) / axis.variance_at(end)) -
               std::log(sde.at(sde.horizon()).mean / sde.at(end).mean);
  }
  const double half = 2 * std::cos(kAngle) * std::sin(kAngle) * std::fabs(along[0] - along[1]);
  ASSERT_GT(half, 0.1);
  Index above = 0;
  double mean = 0;
  for (Index i = 0; i < n; ++i) {
    const double off = static_cast<double>(estimate[i]) - exact[0];
    ASSERT_NEAR(std::fabs(off), half, 2e-3) << i;  // Heun's error of M at 40 steps
    above += off > 0;
    mean += off / n;
  }
  EXPECT_NEAR(static_cast<double>(above) / n, 0.5, 5 * 0.5 / std::sqrt(static_cast<double>(n)));
  EXPECT_NEAR(mean, 0, 5 * half / std::sqrt(static_cast<double>(n)));
}

// Gaussian probes, and a score that is not linear: unbiased given the path, which does not depend on the probes.
TEST(LogDensity, HutchinsonIsExactInTheMean) {
  const Index n = 20'000;
  std::vector<float> x(3 * n), exact(1), estimate(n);
  for (Index i = 0; i < n; ++i) x[3 * i] = 0.3f, x[3 * i + 1] = -0.1f, x[3 * i + 2] = 0.6f;
  const Model model = mixture(3, SdeKind::vp_linear);
  const Sampler sampler(with_threads(0), model, TimeGrid::uniform(1, 1e-3, 25));
  sampler.log_density(View<const float>(x.data(), 1, 3), View<float>(exact), Scheme::heun);
  sampler.log_density(View<const float>(x, 3), View<float>(estimate), Scheme::heun,
                      {.probes = 2, .law = ProbeLaw::gaussian, .seed = 5});
  double mean = 0, square = 0;
  for (const float e : estimate) mean += e, square += static_cast<double>(e) * e;
  mean /= n;
  const double deviation = std::sqrt(square / n - mean * mean);
  EXPECT_GT(deviation, 0.1);
  EXPECT_NEAR(mean, exact[0], 5 * deviation / std::sqrt(static_cast<double>(n)));
}

// ---- Independence of threads, splits and neighbours ----

struct Subject {
  std::string name;
  Model model;
};

std::vector<Subject> subjects() {
  return {{"mixture in 1 dimension", mixture(1)},    {"mixture in 2 dimensions", mixture(2)},
          {"mixture in 5 dimensions", mixture(5)},   {"potential", network(2)},
          {"potential in 3 dimensions", network(3)}, {"score net", network(2, Output::score)}};
}

TEST(BitIdentity, ForEveryNumberOfThreadsAndEverySplit) {
  const TimeGrid grid = TimeGrid::geometric(10, 1e-2, 6);
  for (const Subject& subject : subjects()) {
    const Index d = subject.model.dimension();
    for (const Scheme scheme : kSchemes) {
      const Index n = 989;
      std::vector<float> whole(n * d);
      Sampler(with_threads(1), subject.model, grid)
          .sample(View<float>(whole, d), {.scheme = scheme, .seed = 8, .first_index = 3});
      for (const float v : whole) ASSERT_TRUE(std::isfinite(v));
      for (const int threads : {2, 3, 7}) {
        const Sampler sampler(with_threads(threads), subject.model, grid);
        std::vector<float> again(n * d), parts(n * d);
        sampler.sample(View<float>(again, d), {.scheme = scheme, .seed = 8, .first_index = 3});
        EXPECT_EQ(again, whole) << subject.name << ' ' << to_string(scheme) << ' ' << threads << " threads";
        Index first = 0;
        for (const Index size : {Index{0}, Index{1}, Index{19}, Index{99}, Index{870}}) {
          sampler.sample(View<float>(parts.data() + first * d, size, d),
                         {.scheme = scheme, .seed = 8, .first_index = 3 + static_cast<std::uint64_t>(first)});
          first += size;
        }
        EXPECT_EQ(parts, whole) << subject.name << ' ' << to_string(scheme) << ' ' << threads << " threads, split";
      }
      std::vector<float> other(n * d);
      Sampler(with_threads(2), subject.model, grid)
          .sample(View<float>(other, d), {.scheme = scheme, .seed = 9, .first_index = 3});
      EXPECT_NE(other, whole);
    }
  }
}

TEST(BitIdentity, OfLogDensities) {
  const TimeGrid grid = TimeGrid::geometric(10, 1e-2, 6);
  for (const Subject& subject : subjects()) {
    const Index d = subject.model.dimension(), n = 989;
    std::vector<float> x(n * d), whole(n);
    for (Index i = 0; i < n * d; ++i) x[i] = static_cast<float>(std::sin(static_cast<double>(i)));
    for (const int probes : {0, 2}) {
      Sampler(with_threads(1), subject.model, grid)
          .log_density(View<const float>(x, d), View<float>(whole), Scheme::heun,
                       {.probes = probes, .seed = 1, .first_index = 7});
      for (const float v : whole) ASSERT_TRUE(std::isfinite(v));
      for (const int threads : {2, 7}) {
        const Sampler sampler(with_threads(threads), subject.model, grid);
        std::vector<float> parts(n);
        Index first = 0;
        for (const Index size : {Index{0}, Index{1}, Index{19}, Index{99}, Index{870}}) {
          sampler.log_density(View<const float>(x.data() + first * d, size, d), View<float>(parts.data() + first, size),
                              Scheme::heun,
                              {.probes = probes, .seed = 1, .first_index = 7 + static_cast<std::uint64_t>(first)});
          first += size;
        }
        EXPECT_EQ(parts, whole) << subject.name << ' ' << threads << " threads, probes " << probes;
      }
    }
  }
}

// A sample that is lost stays lost and moves no other.
TEST(BitIdentity, LostSamplesDisturbNoOther) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const TimeGrid grid = TimeGrid::geometric(10, 1e-2, 6);
  for (const Subject& subject : subjects()) {
    const Index d = subject.model.dimension(), n = 99;
    for (const Scheme scheme : kSchemes) {
      std::vector<float> healthy(n * d);
      for (Index i = 0; i < n * d; ++i) healthy[i] = static_cast<float>(std::sin(static_cast<double>(i)));
      std::vector<float> ill = healthy;
      ill[5 * d] = nan, ill[20 * d] = inf, ill[70 * d] = -inf, ill[71 * d] = 1e38f;
      const Sampler sampler(with_threads(2), subject.model, grid);
      sampler.integrate(View<float>(healthy, d), {.scheme = scheme});
      sampler.integrate(View<float>(ill, d), {.scheme = scheme});
      for (Index i = 0; i < n; ++i) {
        const bool lost = i == 5 || i == 20 || i == 70 || i == 71;
        for (Index j = 0; j < d && !lost; ++j)
          ASSERT_EQ(ill[i * d + j], healthy[i * d + j]) << subject.name << ' ' << i;
      }
      for (const Index i : {5, 20, 70}) EXPECT_FALSE(std::isfinite(ill[i * d])) << subject.name << ' ' << i;
      EXPECT_FALSE(std::fabs(ill[71 * d]) < 1e30f) << subject.name;
    }
  }
}

// ---- The rest of the contract ----

TEST(SamplerContract, EmptyRequestsReturn) {
  const Sampler sampler(with_threads(2), mixture(2), TimeGrid::uniform(10, 0, 3));
  std::vector<std::pair<Index, Index>> reports;
  SampleOptions options;
  options.progress = [&](Index done, Index all) { reports.emplace_back(done, all); };
  sampler.sample(View<float>(nullptr, 0, 2), options);
  EXPECT_EQ(reports, (std::vector<std::pair<Index, Index>>{{0, 0}}));
  sampler.integrate({}, {});
  sampler.log_density({}, {});
}

TEST(SamplerContract, ProgressIsReportedFromOneThreadAtATime) {
  for (const Index n : {1, 19, 989, 60'000}) {
    std::vector<float> x(2 * n), log_density(n);
    std::atomic<bool> inside{false};
    std::vector<std::pair<Index, Index>> reports;
    SampleOptions options;
    options.progress = [&](Index done, Index all) {
      EXPECT_FALSE(inside.exchange(true));
      reports.emplace_back(done, all);
      inside = false;
    };
    // How many there are depends on the order in which blocks of two sizes end.
    const auto check_reports = [&] {
      ASSERT_FALSE(reports.empty());
      EXPECT_LE(reports.size(), 201u);
      EXPECT_EQ(reports.back(), std::make_pair(n, n));
      for (std::size_t i = 1; i < reports.size(); ++i) EXPECT_LT(reports[i - 1].first, reports[i].first);
      reports.clear();
    };
    const Sampler sampler(with_threads(7), mixture(2), TimeGrid::uniform(10, 0, 2));
    sampler.sample(View<float>(x, 2), options);
    check_reports();
    sampler.log_density(View<const float>(x, 2), View<float>(log_density), Scheme::heun, {}, options.progress);
    check_reports();
  }
  std::vector<float> x(2 * 60'000);
  SampleOptions options;
  options.progress = [](Index, Index) { throw Error("stopped by the caller"); };
  const Sampler sampler(with_threads(3), mixture(2), TimeGrid::uniform(10, 0, 2));
  expect_error([&] { sampler.sample(View<float>(x, 2), options); }, {"stopped by the caller"});
}

TEST(SamplerContract, BadRequestsSayWhatIsAllowed) {
  const Sampler sampler(with_threads(1), mixture(2), TimeGrid::uniform(10, 0, 3));
  std::vector<float> x(12), density(6);
  expect_error([&] { sampler.sample(View<float>(x, 3), {}); }, {"[4, 3]", "[4, 2]"});
  expect_error([&] { sampler.integrate(View<float>(x), {}); }, {"[12, 1]", "[12, 2]"});
  expect_error([&] { sampler.sample(View<float>(x.data(), -1, 2), {}); }, {"[-1, 2]", "[N, 2]"});
  expect_error([&] { sampler.sample(View<float>(x.data(), 1, -2), {}); }, {"[1, -2]", "[1, 2]"});
  expect_error([&] { sampler.sample(View<float>(nullptr, 6, 2), {}); }, {"no data"});
  expect_error([&] { sampler.sample(View<float>(x.data(), 6, 2, Device::cuda), {}); }, {"device cuda", "cpu"});
  expect_error([&] { sampler.sample(View<float>(x, 2), {.scheme = static_cast<Scheme>(17)}); },
               {"17", "euler-maruyama, euler, heun"});
  const View<const float> points(x, 2);
  expect_error([&] { sampler.log_density(points, View<float>(density), Scheme::euler_maruyama); },
               {"allowed: euler, heun, rk4"});
  expect_error([&] { sampler.log_density(points, View<float>(density.data(), 5)); }, {"[5, 1]", "[6, 1]"});
  expect_error([&] { sampler.log_density(points, View<float>(density, 2)); }, {"[3, 2]", "[6, 1]"});
  expect_error([&] { sampler.log_density(points, View<float>(density), Scheme::heun, {.probes = -1}); },
               {"probes", "is -1; allowed: 0 to 65536"});
  expect_error([&] { sampler.log_density(View<const float>(x, 4), View<float>(density)); }, {"[3, 4]", "[3, 2]"});
  expect_error([&] { sampler.log_density(points, View<float>(density.data(), 6, 1, Device::cuda)); }, {"device cuda"});
  for (const float v : x) EXPECT_EQ(v, 0.0f);  // nothing was written

  expect_error([] { Sampler(with_threads(1), mixture(2), TimeGrid::uniform(11, 0, 3)); },
               {"starts at 11", "horizon 10"});
  const Sampler late(with_threads(1), mixture(2), TimeGrid::uniform(5, 0, 3));
  expect_error([&] { late.sample(View<float>(x, 2), {}); }, {"starts at 5", "horizon 10"});
  expect_error([&] { late.log_density(points, View<float>(density)); }, {"starts at 5", "horizon 10"});
  late.integrate(View<float>(x, 2), {.scheme = Scheme::heun});  // states may be given at any time
  for (const float v : x) EXPECT_TRUE(std::isfinite(v));
  Model broken = network(2);
  std::get<Mlp>(broken.network).parameters[3] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(Sampler(with_threads(1), broken, TimeGrid::uniform(10, 0, 3)), Error);
}

// Three million samples of the paper's network: 24 MB of results, and the whole process stays below 300 MB.
TEST(SamplerContract, MemoryIsTheSamplesAndLittleMore) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers have memory of their own";
#endif
  const Model paper{ForwardSde{}, Mlp::initialise(Architecture{}, 3)};
  ASSERT_EQ(std::get<Mlp>(paper.network).parameters.size(), 13'361u);
  const Index n = 3'000'000;
  std::vector<float> x(2 * n);
  Sampler(with_threads(0), paper, TimeGrid::uniform(10, 0, 2)).sample(View<float>(x, 2), {.noise_in_last_step = true});
  EXPECT_NE(x.back(), 0.0f);  // all of it was written
  rusage usage{};
  ASSERT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  EXPECT_LT(1024.0 * static_cast<double>(usage.ru_maxrss), 300e6) << "bytes";  // ru_maxrss counts KiB
}

}  // namespace
}  // namespace fokker
