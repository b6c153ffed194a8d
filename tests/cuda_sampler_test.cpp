// The CUDA backend's integrators: networks that go through the whole grid in one launch, and models that go a stage at
// a time (too wide, in double inside, exact mixtures), through the public API.
//
// Paths are compared with the CPU backend's of the same seed: the same Philox words, so the same Brownian path. Both
// round differently, and a path of K steps of a network whose score has Lipschitz constant λ carries a rounding of one
// step to its end enlarged by at most exp(λ ∫ g² dt); the networks here are smooth, λ ∫ g² dt < 1. What a step adds is
// the rounding of the state and of |g² dt s|, and with a network the products' unit: 2^−24 for fp32, 2^−22 for split,
// 2^−11 for half. So errors are compared with unit · √steps · rms of the states: all together at most 4 of it, one at
// most 24.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fields_reference.hpp"
#include "fokker/error.hpp"
#include "fokker/sampler.hpp"
#include "operations/sampler_stages.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::architecture_of;
using testing::Bound;
using ::testing::HasSubstr;
using testing::message_of;
using testing::model_of;
using testing::to_host;

constexpr Scheme kSchemes[] = {Scheme::euler_maruyama, Scheme::euler, Scheme::heun, Scheme::rk4};

class CudaSampler : public testing::GpuTest {};

Context on(BackendKind backend, Precision precision = Precision::split) {
  return Context({.backend = backend, .precision = precision});
}

Buffer<float> to_device(const Context& context, const std::vector<float>& v, std::int64_t columns) {
  Buffer<float> buffer(context, static_cast<std::int64_t>(v.size()) / columns, columns);
  copy(context, View<const float>(v, columns), buffer.view());
  context.synchronize();  // the numbers are the caller's to change
  return buffer;
}

// Conditions of n samples, each a function of its index; nothing for a model that takes none.
struct Conditions {
  Conditions(const Context& context, const Model& model, std::int64_t n, std::uint64_t first_index = 0) {
    const std::int64_t numbers = model.condition();
    if (numbers == 0 || n == 0) return;
    std::vector<float> y;
    for (std::int64_t k = 0; k < n * numbers; ++k) {
      const auto i = static_cast<std::int64_t>(first_index % 1000) * numbers + k;
      y.push_back(2 * std::sin(static_cast<float>(i)));
    }
    buffer.emplace(to_device(context, y, numbers));
  }
  View<const float> view() const { return buffer ? View<const float>(buffer->view()) : View<const float>(); }

  std::optional<Buffer<float>> buffer;
};

std::vector<float> samples_of(const Context& context, const Model& model, const TimeGrid& grid, std::int64_t n,
                              SampleOptions options) {
  Buffer<float> x(context, n, model.dimension());
  const Conditions condition(context, model, n, options.first_index);
  options.condition = condition.view();
  Sampler(context, model, grid).sample(x.view(), options);
  return to_host(context, x);
}

double unit_of(Precision precision) {
  return precision == Precision::fp32 ? 0x1p-24 : precision == Precision::split ? 0x1p-22 : 0x1p-11;
}

// The bound of paths of `steps` steps, whose moves are of the size of the states.
Bound path_bound(Precision precision, int steps, double scale = 1) {
  const double unit = unit_of(precision) * std::sqrt(double(steps)) * scale;
  return {.of_rms = 24 * unit, .norm = 4 * unit};
}

struct Case {
  std::string name;
  Model model;
  std::int64_t n;
  bool wide = false;  // its products go through cuBLAS
};

std::vector<Case> networks() {
  const auto add = [](std::vector<Case>& to, std::int64_t d, std::vector<std::int64_t> hidden, Activation activation,
                      Output output, SdeKind sde, std::int64_t n) {
    to.push_back({fmt::format("{}d_{}x{}_{}_{}", d, hidden.size(), hidden[0], to_string(activation), to_string(output)),
                  model_of(architecture_of(d, std::move(hidden), activation, 3, output), sde, 5), n});
  };
  std::vector<Case> all;
  add(all, 2, {80, 80, 80}, Activation::softplus, Output::potential, SdeKind::ou, 19);
  add(all, 2, {7}, Activation::tanh, Output::potential, SdeKind::vp_linear, 99);
  add(all, 1, {1, 33}, Activation::silu, Output::potential, SdeKind::subvp, 17);
  add(all, 5, {64, 20}, Activation::sine, Output::potential, SdeKind::ou, 16);
  add(all, 2, {127}, Activation::silu, Output::score, SdeKind::ou, 19);
  add(all, 16, {32, 32, 32, 32}, Activation::tanh, Output::score, SdeKind::vp_cosine, 1);
  add(all, 64, {20}, Activation::softplus, Output::score, SdeKind::ou, 3);
  add(all, 2, {130, 12}, Activation::tanh, Output::potential, SdeKind::ou, 19);
  all.back().wide = true;
  // In a form the last layer, which begins as zero, keeps what it has in none.
  const auto in_form = [&](const NetworkForm& form, const ForwardSde& sde) {
    Case& c = all.back();
    std::get<Mlp>(c.model.network).architecture.form = form;
    c.model.sde = sde;
    c.name += fmt::format("_{}_{}", to_string(form.form), sde.name());
    std::replace(c.name.begin(), c.name.end(), '-', '_');
  };
  add(all, 2, {12, 9}, Activation::tanh, Output::potential, SdeKind::edm, 17);
  in_form({.form = Form::edm, .data_deviation = 0.6, .time_input = TimeInput::log_sigma, .time_scale = 0.25},
          all.back().model.sde);
  add(all, 3, {33}, Activation::silu, Output::score, SdeKind::vp_linear, 19);
  in_form({.form = Form::noise, .time_scale = 0.7}, all.back().model.sde);
  add(all, 2, {20}, Activation::tanh, Output::score, SdeKind::flow, 19);
  in_form({.form = Form::velocity}, ForwardSde::flow({.horizon = 0.97}));
  add(all, 2, {130, 7}, Activation::tanh, Output::score, SdeKind::ve, 19);
  in_form({.form = Form::edm, .time_input = TimeInput::log_sigma}, all.back().model.sde);
  all.back().wide = true;
  add(all, 1, {130, 7}, Activation::tanh, Output::potential, SdeKind::vp_cosine, 19);
  in_form({.form = Form::v}, all.back().model.sde);
  all.back().wide = true;
  for (const Output output : {Output::potential, Output::score}) {
    for (const auto& [name, architecture] : testing::all_networks(output)) {
      const SdeKind sde = testing::sde_kinds[all.size() % 4];  // the slope of a score at ve's end enlarges roundings
      const bool wide =
          !architecture.residual.empty() || !architecture.activations.empty() || architecture.conditional();
      all.push_back({name, model_of(architecture, sde, 5), 19, wide});
    }
    Architecture wide = architecture_of(2, {130, 12}, Activation::tanh, 1, output);
    wide.time = {{{8, {Activation::silu, 1}}}, {0, 2}};
    all.push_back({fmt::format("wide_with_embedding_{}", to_string(output)), model_of(wide, SdeKind::ou, 5), 19, true});
  }
  all.push_back(
      {"branch_of_noise", model_of(testing::branched_networks(Output::score)[0].architecture, SdeKind::ou, 5), 19});
  std::get<Mlp>(all.back().model.network).architecture.form = {.form = Form::noise, .time_scale = 0.7};
  return all;
}

Case mixture() {
  return {"mixture",
          {ForwardSde::defaults(SdeKind::ou),
           GaussianMixture(2, {0.3, 0.7}, {-1, 0.5, 1, 0}, {0.5, 0.1, 0.1, 0.3, 0.4, 0, 0, 0.4})},
          99};
}

// Not finer than a unit of the mixture's: its fields are computed in double on both sides and rounded to float.
Precision precision_of(const Case& c, Precision precision) {
  return std::holds_alternative<GaussianMixture>(c.model.network) ? Precision::fp32 : precision;
}

class CudaSamplerOf : public CudaSampler, public ::testing::WithParamInterface<Case> {};
std::vector<Case> all_cases() {
  std::vector<Case> all = networks();
  all.push_back(mixture());
  return all;
}
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

TEST_P(CudaSamplerOf, FollowsThePathsOfTheCpu) {
  const Case& c = GetParam();
  const TimeGrid grid = TimeGrid::uniform(c.model.sde.horizon(), 0.05 * c.model.sde.horizon(), 7);
  for (const Precision precision : {Precision::fp32, Precision::split, Precision::half}) {
    const Context gpu = on(BackendKind::cuda, precision), cpu = on(BackendKind::cpu);
    for (const Scheme scheme : kSchemes) {
      SCOPED_TRACE(fmt::format("{}, {}", to_string(precision), to_string(scheme)));
      const SampleOptions options{.scheme = scheme, .seed = 3, .first_index = (std::uint64_t{1} << 33) + 5};
      EXPECT_TRUE(agrees(samples_of(gpu, c.model, grid, c.n, options), samples_of(cpu, c.model, grid, c.n, options),
                         path_bound(precision_of(c, precision), 7)));
    }
  }
}

// The family between the flow and the reverse SDE. Numbers that are not a scheme's own reach the device with the first call
// that has them, and the second finds them there.
TEST_P(CudaSamplerOf, TheFamilyFollowsThePathsOfTheCpu) {
  const Case& c = GetParam();
  const TimeGrid grid = TimeGrid::uniform(c.model.sde.horizon(), 0.05 * c.model.sde.horizon(), 20);
  const Context gpu = on(BackendKind::cuda), cpu = on(BackendKind::cpu);
  const Sampler sampler(gpu, c.model, grid);
  const Conditions condition(gpu, c.model, c.n);
  for (SampleOptions options : std::vector<SampleOptions>{{.scheme = Scheme::exponential},
                                                          {.scheme = Scheme::ddim},
                                                          {.scheme = Scheme::ddim, .eta = 1},
                                                          {.scheme = Scheme::exponential, .eta = 0.5},
                                                          {.eta = 1.5, .temperature = 0.25},
                                                          {.scheme = Scheme::dpm_solver_2m},
                                                          {.scheme = Scheme::dpm_solver_2m, .eta = 1},
                                                          {.scheme = Scheme::stochastic_heun},
                                                          {.scheme = Scheme::heun, .churn = {.amount = 5}},
                                                          {.scheme = Scheme::ddim, .langevin = 0.16}}) {
    SCOPED_TRACE(fmt::format("{}, eta {}, churn {}, Langevin {}", to_string(options.scheme), options.chosen_eta(),
                             options.churn.amount, options.langevin));
    options.seed = 3;
    const auto evaluations = stages_of(c.model.sde, SamplerForms(c.model), grid.times(), Stepping(options)).size();
    const auto want = samples_of(cpu, c.model, grid, c.n, options);
    options.condition = condition.view();
    for (int call = 0; call < 2; ++call) {
      Buffer<float> x(gpu, c.n, c.model.dimension());
      sampler.sample(x.view(), options);
      EXPECT_TRUE(
          agrees(to_host(gpu, x), want, path_bound(precision_of(c, Precision::split), static_cast<int>(evaluations))))
          << "call " << call;
    }
  }
}

// Log-densities along the paths that draw the samples, with snapshots on the way too.
TEST_P(CudaSamplerOf, LogDensitiesOfSamplesAreThoseOfTheCpu) {
  const Case& c = GetParam();
  const std::int64_t d = c.model.dimension();
  const TimeGrid grid = TimeGrid::uniform(c.model.sde.horizon(), 0.05 * c.model.sde.horizon(), 4);
  const Context gpu = on(BackendKind::cuda), cpu = on(BackendKind::cpu);
  for (const bool with_snapshots : {false, true}) {
    const auto drawn = [&](const Context& context) {
      const Conditions condition(context, c.model, c.n);
      Buffer<float> x(context, c.n, d), density(context, c.n), kept(context, with_snapshots ? 2 * c.n : 0, d);
      SampleOptions options{.scheme = Scheme::heun,
                            .seed = 3,
                            .condition = condition.view(),
                            .log_density = density.view(),
                            .divergence = {.probes = 2, .seed = 12, .first_index = 1000}};
      if (with_snapshots) options.snapshot_steps = {0, 2}, options.snapshots = kept.view();
      Sampler(context, c.model, grid).sample(x.view(), options);
      return std::array{to_host(context, x), to_host(context, density), to_host(context, kept)};
    };
    const auto there = drawn(gpu), here = drawn(cpu);
    double square = 0;
    for (const float v : here[1]) square += double(v) * v / double(c.n);
    double passed = 0;
    for (const Stage& s : stages_of(c.model.sde, SamplerForms(c.model), grid.times(), Stepping(Scheme::heun))) {
      passed += double(s.weight) * double(d) * std::fabs(double(s.coefficients.linear));
    }
    const Precision precision = precision_of(c, Precision::split);
    EXPECT_TRUE(agrees(there[0], here[0], path_bound(precision, 8)));
    EXPECT_TRUE(agrees(there[1], here[1], path_bound(precision, 8, 1 + passed / std::sqrt(square))));
    EXPECT_TRUE(agrees(there[2], here[2], path_bound(precision, 8)));
  }
}

TEST_P(CudaSamplerOf, NoiseInTheLastStepIsAnOption) {
  const Case& c = GetParam();
  const TimeGrid grid = TimeGrid::uniform(c.model.sde.horizon(), 0.05 * c.model.sde.horizon(), 2);
  const Context gpu = on(BackendKind::cuda), cpu = on(BackendKind::cpu);
  const SampleOptions options{.seed = 4, .noise_in_last_step = true};
  const auto with = samples_of(gpu, c.model, grid, c.n, options);
  EXPECT_TRUE(
      agrees(with, samples_of(cpu, c.model, grid, c.n, options), path_bound(precision_of(c, Precision::split), 2)));
  EXPECT_NE(with, samples_of(gpu, c.model, grid, c.n, {.seed = 4}));
}

// The samples of a seed do not depend on how a run is split, bit for bit.
TEST_P(CudaSamplerOf, AnySplitGivesTheSameBits) {
  const Case& c = GetParam();
#ifndef FOKKER_EMULATION
  if (c.wide) GTEST_SKIP() << "cuBLAS may add in another order for another number of rows";
#endif
  const Context gpu = on(BackendKind::cuda);
  const TimeGrid grid = TimeGrid::uniform(c.model.sde.horizon(), 0.05 * c.model.sde.horizon(), 3);
  const std::int64_t d = c.model.dimension(), n = 21;
  for (const Scheme scheme : {Scheme::euler_maruyama, Scheme::heun}) {
    const auto whole = samples_of(gpu, c.model, grid, n, {.scheme = scheme, .seed = 9, .first_index = 100});
    for (const std::int64_t part : {1, 5, 16, 19}) {
      std::vector<float> pieces;
      for (std::int64_t first = 0; first < n; first += part) {
        const auto piece = samples_of(gpu, c.model, grid, std::min(part, n - first),
                                      {.scheme = scheme, .seed = 9, .first_index = 100 + std::uint64_t(first)});
        pieces.insert(pieces.end(), piece.begin(), piece.end());
      }
      EXPECT_EQ(pieces, whole) << "parts of " << part << ", " << to_string(scheme) << ", d = " << d;
    }
  }
}

// A snapshot after k steps is where a path along the first k steps of the grid ends; keeping them changes nothing.
TEST_P(CudaSamplerOf, SnapshotsAreTheStatesOnTheWay) {
  const Case& c = GetParam();
  const std::int64_t d = c.model.dimension();
  const TimeGrid grid = TimeGrid::uniform(c.model.sde.horizon(), 0.05 * c.model.sde.horizon(), 5);
  for (const BackendKind backend : {BackendKind::cuda, BackendKind::cpu}) {
    const Context context = on(backend);
    for (const Scheme scheme : {Scheme::euler_maruyama, Scheme::rk4}) {
      SCOPED_TRACE(fmt::format("{}, {}", context.backend_name(), to_string(scheme)));
      SampleOptions options{.scheme = scheme, .seed = 2, .noise_in_last_step = true};
      const auto plain = samples_of(context, c.model, grid, c.n, options);
      Buffer<float> x(context, c.n, d), snapshots(context, 4 * c.n, d);
      const Conditions condition(context, c.model, c.n);
      options.condition = condition.view();
      options.snapshot_steps = {0, 1, 4, 5};
      options.snapshots = snapshots.view();
      Sampler(context, c.model, grid).sample(x.view(), options);
      EXPECT_EQ(to_host(context, x), plain);
      const auto all = to_host(context, snapshots);
      // From the first, the same path.
      copy(context, snapshots.view().slice(0, c.n), x.view());
      Sampler(context, c.model, grid).integrate(x.view(), options);
      EXPECT_EQ(to_host(context, x), plain);
      EXPECT_EQ(to_host(context, snapshots), all);
      const std::vector<std::int32_t> kept = std::exchange(options.snapshot_steps, {});
      for (std::size_t k = 1; k < kept.size(); ++k) {
        const int steps = kept[k];
        const std::vector<double>& times = grid.times();
        const TimeGrid part(std::vector<double>(times.begin(), times.begin() + steps + 1));
        const std::size_t size = static_cast<std::size_t>(c.n * d);
        const std::vector<float> snapshot(all.begin() + k * size, all.begin() + (k + 1) * size);
        EXPECT_EQ(snapshot, samples_of(context, c.model, part, c.n, options)) << "after " << steps;
      }
    }
  }
}

TEST_P(CudaSamplerOf, IntegratesFromGivenStates) {
  const Case& c = GetParam();
  const std::int64_t d = c.model.dimension();
  const double horizon = c.model.sde.horizon();
  const TimeGrid grid = TimeGrid::uniform(0.5 * horizon, 0.05 * horizon, 4);
  const auto start = testing::as<float>(testing::make_problem(d, c.model.sde, c.n, true, 6).x);
  const Context gpu = on(BackendKind::cuda), cpu = on(BackendKind::cpu);
  for (const Scheme scheme : kSchemes) {
    Buffer<float> there = to_device(gpu, start, d), here = to_device(cpu, start, d);
    const Conditions condition_there(gpu, c.model, c.n), condition_here(cpu, c.model, c.n);
    Sampler(gpu, c.model, grid)
        .integrate(there.view(), {.scheme = scheme, .seed = 8, .condition = condition_there.view()});
    Sampler(cpu, c.model, grid)
        .integrate(here.view(), {.scheme = scheme, .seed = 8, .condition = condition_here.view()});
    EXPECT_TRUE(agrees(to_host(gpu, there), to_host(cpu, here), path_bound(precision_of(c, Precision::split), 4)))
        << to_string(scheme);
  }
}

// The integral of the divergence passes through d ∫ |a| dt, a what moves x by itself, whose roundings the density carries beside the path's.
TEST_P(CudaSamplerOf, LogDensitiesAreThoseOfTheCpu) {
  const Case& c = GetParam();
  const std::int64_t d = c.model.dimension();
  const double horizon = c.model.sde.horizon();
  constexpr int steps = 4;
  const TimeGrid grid = TimeGrid::uniform(horizon, 0.05 * horizon, steps);
  const auto start = testing::as<float>(testing::make_problem(d, c.model.sde, c.n, true, 7).x);
  const Context cpu = on(BackendKind::cpu);
  for (const Precision precision : {Precision::fp32, Precision::split}) {
    const Context gpu = on(BackendKind::cuda, precision);
    for (const Scheme scheme : {Scheme::euler, Scheme::heun, Scheme::rk4}) {
      for (const int probes : {0, 2}) {
        SCOPED_TRACE(fmt::format("{}, {}, {} probes", to_string(precision), to_string(scheme), probes));
        const Divergence how{.probes = probes, .seed = 12, .first_index = 1000};
        const Buffer<float> there = to_device(gpu, start, d), here = to_device(cpu, start, d);
        Buffer<float> density_there(gpu, c.n), density_here(cpu, c.n);
        const Conditions condition_there(gpu, c.model, c.n), condition_here(cpu, c.model, c.n);
        Sampler(gpu, c.model, grid)
            .log_density(there.view(), density_there.view(), scheme, how, {}, condition_there.view());
        Sampler(cpu, c.model, grid)
            .log_density(here.view(), density_here.view(), scheme, how, {}, condition_here.view());
        const auto expected = to_host(cpu, density_here);
        double square = 0, passed = 0;
        for (const float v : expected) square += double(v) * v / double(c.n);
        const std::vector<Stage> stages = stages_of(c.model.sde, SamplerForms(c.model),
                                                    {grid.times().rbegin(), grid.times().rend()}, Stepping(scheme));
        for (const Stage& s : stages) {
          passed += double(s.weight) * double(d) * std::fabs(double(s.coefficients.linear));
        }
        const double scale = 1 + passed / std::sqrt(square);
        EXPECT_TRUE(agrees(to_host(gpu, density_there), expected,
                           path_bound(precision_of(c, precision), static_cast<int>(stages.size()), scale)));
        EXPECT_EQ(to_host(gpu, there), start);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaSamplerOf, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

// From t = 2 to 0.5, in numbers of steps where truncation stands well above float rounding (about 1e-6) and well below
// order one: the slope of log error over log step.
void expect_orders(const Context& gpu, const Model& model, const std::vector<float>& start,
                   const std::vector<double>& expected) {
  struct Order {
    Scheme scheme;
    double order;
    std::vector<int> steps;
  };
  for (const Order& c : {Order{Scheme::euler, 1, {32, 64, 128}}, Order{Scheme::heun, 2, {8, 16, 32}},
                         Order{Scheme::rk4, 4, {2, 3, 4}}}) {
    std::vector<double> errors;
    for (const int steps : c.steps) {
      Buffer<float> x = to_device(gpu, start, model.dimension());
      Sampler(gpu, model, TimeGrid::uniform(2, 0.5, steps)).integrate(x.view(), {.scheme = c.scheme});
      const std::vector<float> actual = to_host(gpu, x);
      double worst = 0;
      for (std::size_t i = 0; i < actual.size(); ++i) worst = std::max(worst, std::fabs(actual[i] - expected[i]));
      errors.push_back(worst);
    }
    const double order = std::log(errors.front() / errors.back()) / std::log(double(c.steps.back()) / c.steps.front());
    EXPECT_NEAR(order, c.order, 0.12 * c.order) << to_string(c.scheme) << ::testing::PrintToString(errors);
    EXPECT_GT(errors.back(), 1e-5) << "rounding would hide the order of " << to_string(c.scheme);
  }
}

// A stage at a time: along the probability flow of Gaussian data a state keeps its place in units of the deviation.
TEST_F(CudaSampler, SchemesHaveTheirOrdersOnGaussianData) {
  const auto sde = ForwardSde::defaults(SdeKind::ou);
  constexpr double mean[] = {0.8, -0.3}, variance = 0.15;
  const Model model{sde, GaussianMixture::isotropic(2, {1.0}, {mean[0], mean[1]}, {variance})};
  const auto start = testing::as<float>(testing::make_problem(2, sde, 19, true, 6).x);
  const auto deviation = [](double t) { return std::sqrt(variance * std::exp(-2 * t) + 0.5 * (1 - std::exp(-2 * t))); };
  std::vector<double> expected;
  for (std::size_t i = 0; i < start.size(); ++i) {
    const double from = start[i] - mean[i % 2] * std::exp(-2.0);
    expected.push_back(mean[i % 2] * std::exp(-0.5) + from * deviation(0.5) / deviation(2));
  }
  expect_orders(on(BackendKind::cuda), model, start, expected);
}

// In one launch: against 400 steps of the classical Runge–Kutta scheme in double with the CPU's fields in double.
TEST_F(CudaSampler, SchemesHaveTheirOrdersOnAResidentNetwork) {
  const Model model = model_of(architecture_of(2, {16, 16}, Activation::tanh, 1, Output::potential), SdeKind::ou, 5);
  const auto start = testing::as<float>(testing::make_problem(2, model.sde, 19, true, 6).x);
  const Fields<double> fields(on(BackendKind::cpu), model);
  using State = std::vector<double>;
  const auto slope = [&](double t, const State& x) {
    const State time{t};
    State score(x.size()), rate;
    FieldOutputs<double> outputs;
    outputs.score = View<double>(score, 2);
    fields.evaluate({View<const double>(time), View<const double>(x, 2)}, outputs);
    for (std::size_t i = 0; i < x.size(); ++i) rate.push_back(-x[i] - 0.5 * score[i]);  // the SDE is dx = −x dt + dW
    return rate;
  };
  const auto moved = [](State x, double by, const State& along) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += by * along[i];
    return x;
  };
  State x(start.begin(), start.end());
  constexpr int steps = 400;
  constexpr double h = -1.5 / steps;
  for (int k = 0; k < steps; ++k) {
    const double t = 2 + k * h;
    const State a = slope(t, x), b = slope(t + h / 2, moved(x, h / 2, a)), c = slope(t + h / 2, moved(x, h / 2, b)),
                d = slope(t + h, moved(x, h, c));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += h / 6 * (a[i] + 2 * b[i] + 2 * c[i] + d[i]);
  }
  expect_orders(on(BackendKind::cuda, Precision::fp32), model, start, x);
}

TEST_F(CudaSampler, NoSamplesAndSamplesThatAreNotFinite) {
  const Case c = networks()[0];
  const Context gpu = on(BackendKind::cuda);
  const TimeGrid grid = TimeGrid::uniform(10, 1, 2);
  EXPECT_TRUE(samples_of(gpu, c.model, grid, 0, {}).empty());
  auto start = testing::as<float>(testing::make_problem(2, c.model.sde, 19, true, 6).x);
  Buffer<float> clean = to_device(gpu, start, 2);
  start[2 * 5] = std::nanf("");
  start[2 * 7 + 1] = INFINITY;
  Buffer<float> spoilt = to_device(gpu, start, 2);
  const Sampler sampler(gpu, c.model, grid);
  sampler.integrate(clean.view(), {});
  sampler.integrate(spoilt.view(), {});
  const auto expected = to_host(gpu, clean), actual = to_host(gpu, spoilt);
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (i / 2 == 5 || i / 2 == 7) continue;
    EXPECT_EQ(actual[i], expected[i]) << i;
  }
  EXPECT_FALSE(std::isfinite(actual[2 * 5]));
  EXPECT_FALSE(std::isfinite(actual[2 * 7 + 1]));
}

TEST_F(CudaSampler, MemoryBesideTheSamplesIsBelow64MiB) {
  std::vector<Case> all = all_cases();
  all.push_back(
      {"wider", model_of(architecture_of(2, {200, 150}, Activation::tanh, 1, Output::potential), SdeKind::ou, 2), 1});
  std::vector<double> weights(200, 1.0), means(400), variances(200, 0.1);
  std::iota(means.begin(), means.end(), 0.0);
  all.push_back({"mixture of 200", {ForwardSde{}, GaussianMixture::isotropic(2, weights, means, variances)}, 1});
  for (const Case& c : all) {
    const Sampler sampler(on(BackendKind::cuda), c.model, TimeGrid::paper(c.model.sde.horizon()));
    EXPECT_LT(sampler.workspace_bytes(), std::size_t{64} << 20) << c.name;
  }
}

TEST_F(CudaSampler, RefusesWhatHalfDoesNotServe) {
  const Case c = networks()[0];
  const Context gpu = on(BackendKind::cuda, Precision::half);
  Buffer<float> x(gpu, 3, 2), density(gpu, 3);
  const Sampler sampler(gpu, c.model, TimeGrid::uniform(10, 1, 2));
  EXPECT_THAT(message_of([&] { sampler.log_density(x.view(), density.view()); }), HasSubstr("half"));
}

TEST_F(CudaSampler, RefusesSnapshotsThatDoNotFit) {
  const Case c = networks()[0];
  for (const BackendKind backend : {BackendKind::cuda, BackendKind::cpu}) {
    const Context context = on(backend);
    Buffer<float> x(context, 3, 2), snapshots(context, 6, 2);
    const Sampler sampler(context, c.model, TimeGrid::uniform(10, 1, 4));
    const auto says = [&](std::vector<std::int32_t> steps, View<float> given) {
      return message_of([&] { sampler.sample(x.view(), {.snapshot_steps = std::move(steps), .snapshots = given}); });
    };
    EXPECT_THAT(says({-1, 1}, snapshots.view()),
                HasSubstr("step -1 asked for; allowed: increasing numbers from 0 to 4"));
    EXPECT_THAT(says({2, 2}, snapshots.view()), HasSubstr("step 2 asked for"));
    EXPECT_THAT(says({1, 5}, snapshots.view()), HasSubstr("step 5 asked for"));
    EXPECT_THAT(says({1, 2, 3}, snapshots.view()), HasSubstr("shape [6, 2]; allowed here: [9, 2]"));
    EXPECT_THAT(says({1, 2}, {}), HasSubstr("snapshots"));
    EXPECT_THAT(says(std::vector<std::int32_t>(65, 1), snapshots.view()),
                HasSubstr("65 snapshots asked for; allowed: up to 64"));
  }
}

}  // namespace
}  // namespace fokker
