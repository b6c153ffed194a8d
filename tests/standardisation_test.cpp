// Standardised models: fields against the plain reference in double at points that are mapped by hand, or against the
// same law in x; samples and log-densities against those of the network; files; data; training. On the CPU, and on the
// emulation and a GPU with CUDA.
#include "fokker/standardisation.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fields_reference.hpp"
#include "fokker/diagnostics/energy.hpp"
#include "fokker/diagnostics/residual_statistics.hpp"
#include "fokker/diagnostics/sde_density.hpp"
#include "fokker/fokker.hpp"
#include "reference_mixture.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using namespace fokker::testing;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Index = std::int64_t;

#ifdef FOKKER_GPU_TESTS
constexpr BackendKind kind = BackendKind::cuda;
class Standardised : public GpuTest {};
#else
constexpr BackendKind kind = backend_under_test;
class Standardised : public ::testing::Test {};
#endif

const Context& context() {
  static const Context instance({.backend = kind, .precision = Precision::fp32});
  return instance;
}

const Standardisation unequal{{1000, 0.25, -3e-4}, {2, 0.125, 3e-6}};
const Standardisation equal{{1000, 0.25, -3}, {1.5, 1.5, 1.5}};
Standardisation first(const Standardisation& s, Index d) {
  return {{s.mean.begin(), s.mean.begin() + d}, {s.deviation.begin(), s.deviation.begin() + d}};
}

Model network(Index d, Output output, const Standardisation& standardisation = {}) {
  Model model = model_of(architecture_of(d, {13, 8}, Activation::silu, 1, output), SdeKind::vp_linear, 3);
  model.standardisation = standardisation;
  return model;
}

// All fields that `wanted` names, on the context.
template <class T>
Result<T> fields_of(const Model& model, const std::vector<T>& t, const std::vector<T>& x, unsigned wanted,
                    const Divergence& how = {}) {
  const Index d = model.dimension(), n = std::ssize(x) / d;
  const Buffer<T> times = on(context(), t), points = on(context(), x, d);
  Buffer<T> v(context(), n), dv(context(), n), s(context(), n, d), div(context(), n), h(context(), n, d * d),
      r(context(), n);
  FieldOutputs<T> out;
  if (wanted & value) out.value = v.view();
  if (wanted & dt) out.dt = dv.view();
  if (wanted & score) out.score = s.view();
  if (wanted & divergence) out.divergence = div.view();
  if (wanted & hessian) out.hessian = h.view();
  if (wanted & residual) out.residual = r.view();
  Fields<T>(context(), model).evaluate({times.view(), points.view()}, out, how);
  Result<T> result;
  if (wanted & value) result.value = from(context(), v);
  if (wanted & dt) result.dt = from(context(), dv);
  if (wanted & score) result.score = from(context(), s);
  if (wanted & divergence) result.divergence = from(context(), div);
  if (wanted & hessian) result.hessian = from(context(), h);
  if (wanted & residual) result.residual = from(context(), r);
  return result;
}

// ---- fields ---------------------------------------------------------------------------------------------------------

// In z to in x, by hand; of deviations too, where `errors`.
Expected mapped(Expected e, const Standardisation& s, bool errors) {
  const std::size_t d = s.mean.size(), n = e.score.size() / d;
  for (std::size_t i = 0; i < n; ++i) {
    if (!e.value.empty() && !errors) {
      for (const double v : s.deviation) e.value[i] -= std::log(v);
    }
    e.divergence[i] = 0;
    for (std::size_t k = 0; k < d; ++k) {
      e.divergence[i] += e.hessian[(i * d + k) * d + k] / (s.deviation[k] * s.deviation[k]);
      e.score[i * d + k] /= s.deviation[k];
      e.product[i * d + k] /= s.deviation[k];
      for (std::size_t l = 0; l < d; ++l) e.hessian[(i * d + k) * d + l] /= s.deviation[k] * s.deviation[l];
    }
  }
  return e;
}

// Points whose z are about those of `p`, rounded to T.
template <class T>
std::vector<T> points_in_x(const Problem& p, const Standardisation& s) {
  std::vector<T> x;
  for (std::size_t i = 0; i < p.x.size(); ++i) {
    const std::size_t k = i % s.mean.size();
    x.push_back(static_cast<T>(s.mean[k] + s.deviation[k] * p.x[i]));
  }
  return x;
}

template <class T>
void expect_reference_fields(Output output, const Standardisation& s) {
  SCOPED_TRACE(fmt::format("{} of {} columns, {} bytes", to_string(output), s.mean.size(), sizeof(T)));
  const Index d = std::ssize(s.mean), n = 19;
  const Model model = network(d, output, s);
  Problem p = make_problem(d, model.sde, n, false, 11);
  const std::vector<T> x = points_in_x<T>(p, s), t = as<T>(p.t), direction = as<T>(p.direction);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t k = i % s.mean.size();
    p.x[i] = (double(x[i]) - s.mean[k]) / s.deviation[k];
    p.direction[i] = double(direction[i]) / s.deviation[k];
  }
  const Expected e = mapped(reference(model, p), s, false), errors = mapped(rounding_deviations(model, p), s, true);
  const auto bound = [&](const std::vector<double>& deviations, const std::vector<double>& expected) {
    Bound b = rounding<T>(deviations, n, expected, one_side);
    b.relative += 4 * unit<T>;  // of the map
    b.norm += 4 * unit<T>;
    return b;
  };
  const Result<T> r = fields_of(model, t, x, all_of(output));
  EXPECT_TRUE(agrees(r.score, e.score, bound(errors.score, e.score)));
  EXPECT_TRUE(agrees(r.divergence, e.divergence, bound(errors.divergence, e.divergence)));
  EXPECT_TRUE(agrees(r.hessian, e.hessian, bound(errors.hessian, e.hessian)));
  EXPECT_EQ(fields_of(model, t, x, divergence).divergence, r.divergence);
  const Buffer<T> times = on(context(), t), points = on(context(), x, d), along = on(context(), direction, d);
  Buffer<T> product(context(), n, d);
  Fields<T>(context(), model).hessian_vector({times.view(), points.view()}, along.view(), product.view());
  EXPECT_TRUE(agrees(from(context(), product), e.product, bound(errors.product, e.product)));
  if (output == Output::score) return;
  EXPECT_TRUE(agrees(r.value, e.value, bound(errors.value, e.value)));
  EXPECT_TRUE(agrees(r.dt, e.dt, bound(errors.dt, e.dt)));
  const auto& error = sizeof(T) == 8 ? errors.residual_in_double : errors.residual;
  EXPECT_TRUE(agrees(r.residual, e.residual, bound(error, e.residual)));
}

TEST_F(Standardised, FieldsAreThoseOfTheReferenceAtMappedPoints) {
  for (const Output output : {Output::potential, Output::score}) {
    for (const Standardisation& s : {unequal, equal, first(unequal, 1), first(unequal, 2)}) {
      expect_reference_fields<double>(output, s);
      expect_reference_fields<float>(output, s);
    }
  }
}

// At t = 0 the potential of a mixture is the log-density of its data, whatever coordinates the SDE is in: the same law
// given in x.
TEST_F(Standardised, AMixtureOfZHasTheFieldsOfItsLawInX) {
  for (const Index d : {1, 2, 3}) {
    const Standardisation s = first(unequal, d);
    const GaussianMixture z = random_mixture(d, 3, 5);
    std::vector<double> means = z.means(), covariances = z.covariances();
    for (std::size_t i = 0; i < means.size(); ++i) means[i] = s.mean[i % d] + s.deviation[i % d] * means[i];
    for (std::size_t i = 0; i < covariances.size(); ++i) covariances[i] *= s.deviation[i % d] * s.deviation[i / d % d];
    const Problem p = make_problem(d, ForwardSde::ou(), 19, true, 4);
    const std::vector<double> x = points_in_x<double>(p, s);
    const unsigned wanted = value | score | divergence | hessian;
    const Result<double> ours = fields_of<double>({ForwardSde::ou(), z, s}, {0}, x, wanted),
                         theirs = fields_of<double>(
                             {ForwardSde::ou(), GaussianMixture(d, z.weights(), means, covariances)}, {0}, x, wanted);
    // x − μ of the other mixture loses the digits of 1000 beside 2, eleven bits.
    const Bound bound{.relative = 1e-8, .of_rms = 1e-11, .norm = 1e-10};
    EXPECT_TRUE(agrees(ours.value, theirs.value, bound));
    EXPECT_TRUE(agrees(ours.score, theirs.score, bound));
    EXPECT_TRUE(agrees(ours.divergence, theirs.divergence, bound));
    EXPECT_TRUE(agrees(ours.hessian, theirs.hessian, bound));
    // And its residual is the rounding's, under any t.
    const Result<double> later = fields_of<double>({ForwardSde::ou(), z, s}, {0.5}, x, residual);
    for (const double r : later.residual) EXPECT_NEAR(r, 0, 1e-9);
  }
}

TEST_F(Standardised, WhatTheDivergenceTakes) {
  const Model model = network(3, Output::potential, unequal);
  const std::vector<float> t{0.5f}, x{1000, 0, 0};
  EXPECT_THAT(message_of([&] { fields_of(model, t, x, divergence, {.probes = 2}); }),
              AllOf(HasSubstr("unequal deviations"), HasSubstr("the exact one")));
  // Equal ones take probes: the same estimate over the square of the deviation.
  const Model scaled = network(3, Output::potential, equal);
  std::vector<float> z;
  for (std::size_t k = 0; k < 3; ++k) z.push_back(static_cast<float>((double(x[k]) - equal.mean[k]) / 1.5));
  const double of_z = fields_of(scaled.of_z(), t, z, divergence, {.probes = 2}).divergence[0];
  EXPECT_EQ(fields_of(scaled, t, x, divergence, {.probes = 2}).divergence[0], float(of_z / 2.25));
  // Without second derivatives there is no divergence, and the score stays.
  Standardisation many{std::vector<double>(65, 1.0), std::vector<double>(65, 2.0)};
  many.deviation[1] = 3;
  const Model wide = network(65, Output::score, many);
  const std::vector<float> ones(65, 1.0f);
  EXPECT_THAT(message_of([&] { fields_of(wide, t, ones, divergence); }),
              AllOf(HasSubstr("65 dimensions"), HasSubstr("up to 64")));
  EXPECT_EQ(fields_of(wide, t, ones, score).score.size(), 65u);
}

TEST_F(Standardised, NoPointsWriteNothing) {
  const Model model = network(3, Output::potential, unequal);
  Buffer<float> kept = on(context(), std::vector<float>(6, 7.0f), 3),
                numbers = on(context(), std::vector<float>(2, 7.0f));
  const Buffer<float> time = on(context(), std::vector<float>{0.5f});
  const View<float> none = kept.view().slice(0, 0), no_number = numbers.view().slice(0, 0);
  const Fields<float> fields(context(), model);
  fields.evaluate({time.view(), none}, {.value = no_number, .score = none, .divergence = no_number});
  const Sampler sampler(context(), model, TimeGrid::geometric(1, 1e-3, 3));
  sampler.sample(none);
  sampler.integrate(none);
  sampler.log_density(none, no_number);
  EXPECT_EQ(from(context(), kept), std::vector<float>(6, 7.0f));
  EXPECT_EQ(from(context(), numbers), std::vector<float>(2, 7.0f));
}

// ---- samplers -------------------------------------------------------------------------------------------------------

std::vector<float> in_x(std::vector<float> z, const Standardisation& s) {
  for (std::size_t i = 0; i < z.size(); ++i) {
    const std::size_t k = i % s.mean.size();
    z[i] = static_cast<float>(std::fma(s.deviation[k], double(z[i]), s.mean[k]));
  }
  return z;
}

TEST_F(Standardised, SamplesAreThoseOfTheNetworkMapped) {
  const Index n = 99, d = 3;
  const Model model = network(d, Output::potential, unequal);
  const TimeGrid grid = TimeGrid::geometric(1, 1e-3, 5);
  const Sampler ours(context(), model, grid), theirs(context(), model.of_z(), grid);
  for (const Scheme scheme : {Scheme::euler_maruyama, Scheme::heun}) {
    const auto draw = [&](const Sampler& sampler, std::vector<float>& snapshots) {
      Buffer<float> samples(context(), n, d), states(context(), 2 * n, d);
      sampler.sample(
          samples.view(),
          {.scheme = scheme, .seed = 5, .first_index = 7, .snapshot_steps = {2, 4}, .snapshots = states.view()});
      snapshots = from(context(), states);
      return from(context(), samples);
    };
    std::vector<float> states_x, states_z;
    const std::vector<float> x = draw(ours, states_x), z = draw(theirs, states_z);
    EXPECT_EQ(x, in_x(z, unequal));
    EXPECT_EQ(states_x, in_x(states_z, unequal));
    // From states in x on.
    std::vector<float> start(z.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      start[i] = static_cast<float>((double(x[i]) - unequal.mean[i % d]) / unequal.deviation[i % d]);
    }
    Buffer<float> of_x = on(context(), x, d), of_z = on(context(), start, d);
    ours.integrate(of_x, {.scheme = scheme, .seed = 9});
    theirs.integrate(of_z, {.scheme = scheme, .seed = 9});
    EXPECT_EQ(from(context(), of_x), in_x(from(context(), of_z), unequal));
  }
  const std::vector<float> x = in_x(from(context(), on(context(), std::vector<float>(d * 19, 0.5f), d)), unequal);
  std::vector<float> z(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    z[i] = static_cast<float>((double(x[i]) - unequal.mean[i % d]) / unequal.deviation[i % d]);
  }
  for (const int probes : {0, 3}) {
    Buffer<float> of_x(context(), 19), of_z(context(), 19);
    const Buffer<float> points_x = on(context(), x, d), points_z = on(context(), z, d);
    ours.log_density(points_x, of_x, Scheme::heun, {.probes = probes});
    theirs.log_density(points_z, of_z, Scheme::heun, {.probes = probes});
    const std::vector<float> of_network = from(context(), of_z);
    const double volume = std::log(2.0) + std::log(0.125) + std::log(3e-6);
    std::vector<double> expected;
    for (const float v : of_network) expected.push_back(double(v) - volume);
    EXPECT_TRUE(agrees(from(context(), of_x), expected, {.relative = 1e-7, .norm = 1e-7}));
  }
}

// The mass of a density is that of its exponential over x, by the midpoint rule at 400 points between ±9 deviations.
TEST_F(Standardised, LogDensitiesHaveAMassOfOne) {
  const Standardisation s{{50}, {0.25}};
  const Model model{ForwardSde::vp_linear(), GaussianMixture(1, {1, 2}, {-1, 0.75}, {0.2, 0.3}), s};
  const Index n = kind == BackendKind::cpu ? 400 : 100;
  std::vector<float> x;
  const double low = 50 - 9 * 0.25, step = 18 * 0.25 / double(n);
  for (Index i = 0; i < n; ++i) x.push_back(float(low + (double(i) + 0.5) * step));
  const Buffer<float> points = on(context(), x);
  Buffer<float> density(context(), n);
  Sampler(context(), model, TimeGrid::geometric(1, 1e-3, 60)).log_density(points, density, Scheme::heun);
  double mass = 0;
  for (const float v : from(context(), density)) mass += step * std::exp(double(v));
  EXPECT_NEAR(mass, 1, 2e-3);
  // By the reverse SDE's paths too, with errors of their own.
  std::vector<double> few;
  const double wide = 18 * 0.25 / 40;
  for (Index i = 0; i < 40; ++i) few.push_back(low + (double(i) + 0.5) * wide);
  const SdeDensity by_paths = sde_log_density(context(), model, 1e-3, View<const double>(few), {.paths = 64});
  mass = 0;
  for (const double v : by_paths.log_density) mass += wide * std::exp(v);
  EXPECT_NEAR(mass, 1, 0.02);
}

// ---- data and training ----------------------------------------------------------------------------------------------

// Columns of these means and deviations, the second half of them half made of the first.
std::vector<float> table(Index n, const Standardisation& s, unsigned seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal;
  const std::size_t d = s.mean.size();
  std::vector<double> z(d);
  std::vector<float> x;
  for (Index i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < d; ++k) {
      z[k] = normal(generator);
      if (k >= (d + 1) / 2) z[k] = 0.6 * z[k] + 0.8 * z[k - (d + 1) / 2];
      x.push_back(static_cast<float>(s.mean[k] + s.deviation[k] * z[k]));
    }
  }
  return x;
}

TEST_F(Standardised, ADataSetKnowsItsColumns) {
  const Index n = 989;
  const std::vector<float> x = table(n, unequal, 1);
  const DataSet data = DataSet::samples(x, 3);
  const Standardisation s = standardisation_of(context(), data);
  std::vector<double> mean(3), square(3);
  for (std::size_t i = 0; i < x.size(); ++i) mean[i % 3] += x[i] / double(n);
  for (std::size_t i = 0; i < x.size(); ++i) square[i % 3] += std::pow(x[i] - mean[i % 3], 2) / double(n);
  for (double& v : square) v = std::sqrt(v);
  EXPECT_TRUE(agrees(s.mean, mean, {.relative = 1e-12, .norm = 1e-12}));
  EXPECT_TRUE(agrees(s.deviation, square, {.relative = 1e-9, .norm = 1e-9}));
  const DataSet z = data.standardised(context(), s);
  const Standardisation again = standardisation_of(context(), z);
  for (int k = 0; k < 3; ++k) {
    EXPECT_NEAR(again.mean[k], 0, 1e-6);
    EXPECT_NEAR(again.deviation[k], 1, 1e-6);
  }
  EXPECT_EQ(z.name(), data.name());
  EXPECT_NE(z.fingerprint(), data.fingerprint());
  // A mixture exactly: the law of its standardised draws is that of mean 0 and deviation 1.
  const DataSet law = DataSet::mixture(random_mixture(2, 3, 8));
  const Standardisation of_law = standardisation_of(context(), law),
                        zero_one = standardisation_of(context(), law.standardised(context(), of_law));
  for (int k = 0; k < 2; ++k) {
    EXPECT_NEAR(zero_one.mean[k], 0, 1e-14);
    EXPECT_NEAR(zero_one.deviation[k], 1, 1e-14);
  }
  EXPECT_EQ(data.standardised(context(), {}).fingerprint(), data.fingerprint());
  EXPECT_THAT(message_of([&] { DataSet::named("circles2").standardised(context(), first(unequal, 2)); }),
              AllOf(HasSubstr("'circles2'"), HasSubstr("allowed: samples")));
  EXPECT_THAT(message_of([&] {
                standardisation_of(context(), DataSet::samples({1, 5, 2, 5, 3, 5}, 2));
              }),
              AllOf(HasSubstr("column 1"), HasSubstr("is 5 throughout")));
  // A condition may be the same throughout.
  EXPECT_EQ(standardisation_of(context(), DataSet::samples({1, 5, 2, 5, 3, 5}, 2), 1),
            (Standardisation{{2, 0}, {std::sqrt(2.0 / 3), 1}}));
  EXPECT_THAT(message_of([&] { data.standardised(context(), first(unequal, 2)); }), HasSubstr("3 columns"));
}

// Samples that are on a device alone are mapped there to the numbers of the host.
TEST_F(Standardised, SamplesOnADeviceAreThoseOfTheHost) {
  const std::vector<float> x = table(99, unequal, 2);
  const Buffer<float> points = on(context(), x, 3);
  const DataSet on_host = DataSet::samples(x, 3), on_device = DataSet::samples(context(), points.view());
  const auto draws = [](const DataSet& data) {
    Buffer<float> out(context(), 19, 3);
    data.standardised(context(), unequal).draw(context(), out.view(), 4);
    return from(context(), out);
  };
  EXPECT_EQ(draws(on_host), draws(on_device));
}

TrainOptions few_iterations(double residual_weight) {
  return {
      .iterations = 3, .denoising_points = 64, .collocation_points = 16, .residual_weight = residual_weight, .seed = 6};
}

TEST_F(Standardised, TrainingIsThatOfTheMappedData) {
  const std::vector<float> x = table(99, unequal, 3);
  std::vector<float> z(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    z[i] = static_cast<float>((double(x[i]) - unequal.mean[i % 3]) / unequal.deviation[i % 3]);
  }
  const Model model = network(3, Output::potential, unequal);
  const DataSet data = DataSet::samples(x, 3);
  Trainer ours(context(), model, data, few_iterations(1)),
      theirs(context(), model.of_z(), DataSet::samples(z, 3), few_iterations(1));
  ours.run(2), theirs.run(3);
  const Scratch scratch;
  ours.save_state(scratch / "state");
  EXPECT_THAT(get(scratch / "state"), HasSubstr("standardisation"));
  Trainer resumed = Trainer::resume(context(), scratch / "state", data);
  resumed.run(1);
  const Model trained = resumed.model();
  EXPECT_EQ(std::get<Mlp>(trained.network).parameters, std::get<Mlp>(theirs.model().network).parameters);
  EXPECT_EQ(trained.standardisation, unequal);
  theirs.save_state(scratch / "plain");
  EXPECT_THAT(get(scratch / "plain"), ::testing::Not(HasSubstr("standardisation")));
  EXPECT_THAT(message_of([&] { Trainer::resume(context(), scratch / "state", DataSet::samples(z, 3)); }),
              HasSubstr("another one"));
  EXPECT_THAT(message_of([&] {
                Trainer(context(), network(2, Output::potential, first(unequal, 2)), DataSet::named("checker"),
                        few_iterations(0));
              }),
              HasSubstr("'checker' is drawn by a formula"));
}

#if !defined(FOKKER_EMULATION) && !defined(FOKKER_GPU_TESTS)

// Eight columns of scales from 1e-7 to 1e6: after a short training no sample is farther out than 8 deviations, and
// their means and deviations are those of the table within a third.
TEST_F(Standardised, ATableOfDifferentScalesTrains) {
  const Standardisation scales{{1e6, 0, 1000, -3e-4, 0, 12, -5e5, 1e-3}, {1e4, 1e-6, 1, 1e-7, 1e6, 300, 1e3, 2e-4}};
  const Index d = 8, n = 2000;
  const DataSet data = DataSet::samples(table(4000, scales, 5), d);
  const Standardisation s = standardisation_of(context(), data);
  Architecture architecture{.dimension = d, .hidden = {48, 48}, .activation = Activation::silu};
  architecture.form.form = Form::edm;
  parse_inputs("-0.125*log-snr,x", architecture.form);
  Trainer trainer(context(), {ForwardSde::vp_linear(), Mlp::initialise(architecture, 1), s}, data,
                  {.iterations = 400, .denoising_points = 512, .time_law = TimeLaw::uniform});
  trainer.run(400);
  const Model model = trainer.model();
  Buffer<float> samples(context(), n, d);
  for (const Scheme scheme : {Scheme::euler_maruyama, Scheme::heun}) {
    Sampler(context(), model, TimeGrid::geometric(1, 1e-3, 60)).sample(samples.view(), {.scheme = scheme});
    const std::vector<float> x = from(context(), samples);
    std::vector<double> mean(d), square(d);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double z = (double(x[i]) - s.mean[i % d]) / s.deviation[i % d];
      EXPECT_LT(std::fabs(z), 8) << "sample " << i / d << ", column " << i % d;
      mean[i % d] += z / double(n), square[i % d] += z * z / double(n);
    }
    for (Index k = 0; k < d; ++k) {
      EXPECT_NEAR(mean[k], 0, 0.3) << k;
      EXPECT_NEAR(std::sqrt(square[k]), 1, 0.3) << k;
    }
  }
  // The gap is between laws in x: its samples have the scale of the data.
  const SamplerGap gap = measure_gap(context(), model, data, TimeGrid::geometric(1, 1e-3, 30), {.samples = 500});
  EXPECT_EQ(gap.sde.health.far_out + gap.ode.health.far_out, 0);
  EXPECT_LT(gap.sde_truth.w2_squared, 0.05 * 1e12);  // of the law whose largest deviation is 1e6
}

// More points than a batch: probes belong to points, and the Hessian of a divergence is of few at a time.
TEST_F(Standardised, BatchesChangeNothing) {
  const Index d = 64, n = 16384 + 5;
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<float> x(n * d), t(n);
  for (float& v : x) v = normal(generator);
  for (Index i = 0; i < n; ++i) t[i] = 0.1f + 0.8f * float(i) / float(n);
  Model model = model_of(architecture_of(d, {4}, Activation::tanh, 1, Output::potential), SdeKind::vp_linear, 3);
  model.standardisation = {std::vector<double>(d, 0.5), std::vector<double>(d, 2)};
  const Index tail = 7;
  const std::vector<float> last_x(x.end() - tail * d, x.end()), last_t(t.end() - tail, t.end());
  const auto ends_with = [&](const std::vector<float>& all, const std::vector<float>& last) {
    return std::vector<float>(all.end() - std::ssize(last), all.end()) == last;
  };
  const Result<float> all = fields_of(model, t, x, value | score | divergence, {.probes = 2});
  const Result<float> last = fields_of(model, last_t, last_x, value | score | divergence,
                                       {.probes = 2, .first_index = static_cast<std::uint64_t>(n - tail)});
  EXPECT_TRUE(ends_with(all.value, last.value));
  EXPECT_TRUE(ends_with(all.score, last.score));
  EXPECT_TRUE(ends_with(all.divergence, last.divergence));
  model.standardisation.deviation[3] = 5;
  const std::vector<float> some_x(x.begin(), x.begin() + 300 * d), some_t(t.begin(), t.begin() + 300);
  const std::vector<float> whole = fields_of(model, some_t, some_x, divergence).divergence,
                           part = fields_of(model, std::vector<float>(some_t.end() - tail, some_t.end()),
                                            std::vector<float>(some_x.end() - tail * d, some_x.end()), divergence)
                                      .divergence;
  EXPECT_TRUE(ends_with(whole, part));
}

// ---- diagnostics ----------------------------------------------------------------------------------------------------

TEST_F(Standardised, DiagnosticsAreThoseOfTheNetwork) {
  const Model model = network(1, Output::potential, first(unequal, 1)), of_z = model.of_z();
  const ResidualOptions few{.times = 19, .points = 19};
  EXPECT_EQ(residual_statistics(context(), model, few).mean_square,
            residual_statistics(context(), of_z, few).mean_square);
  EXPECT_EQ(radial_slopes(context(), model, 0.5).largest, radial_slopes(context(), of_z, 0.5).largest);
  const EnergyOptions energy{.samples = 32, .paths = 4, .path_steps = 4, .times = 3};
  for (const EnergyMethod method : {EnergyMethod::grid, EnergyMethod::paths}) {
    EnergyOptions options = energy;
    options.method = method;
    options.nodes = 32;
    const TimeGrid grid = TimeGrid::geometric(1, 1e-3, 4);
    EXPECT_EQ(reverse_sde_energy(context(), model, grid, options).dissipation.value,
              reverse_sde_energy(context(), of_z, grid, options).dissipation.value);
  }
}

// ---- files ----------------------------------------------------------------------------------------------------------

TEST_F(Standardised, FilesKeepEveryBit) {
  const Scratch scratch;
  const Standardisation odd{{1.0 / 3, -1e15, 5e-324}, {1e-15, 0.1, 1e15}};
  const Model model = network(3, Output::score, odd);
  save_model(scratch / "m.safetensors", model);
  EXPECT_EQ(load_model(scratch / "m.safetensors").standardisation, odd);
  save_model(scratch / "plain.safetensors", model.of_z());
  EXPECT_TRUE(load_model(scratch / "plain.safetensors").standardisation.empty());
  EXPECT_THAT(get(scratch / "plain.safetensors"), ::testing::Not(HasSubstr("column_")));
  // A file of another program is told.
  const auto load = [&](const std::string& means, const std::string& deviations) {
    return load_model(scratch / "plain.safetensors", {{"column_means", means}, {"column_deviations", deviations}});
  };
  EXPECT_EQ(load("[1000, 0, 2]", "[1, 1e-6, 3]").standardisation, (Standardisation{{1000, 0, 2}, {1, 1e-6, 3}}));
  const auto refused = [&](const std::string& means, const std::string& deviations) {
    return message_of([&] { load(means, deviations); });
  };
  EXPECT_THAT(refused("[1, 2, 3]", ""), HasSubstr("column_means are given without column_deviations"));
  EXPECT_THAT(refused("", "[1, 2, 3]"), HasSubstr("column_deviations are given without column_means"));
  EXPECT_THAT(refused("[1, 2]", "[1, 2]"), HasSubstr("for 3 columns"));
  EXPECT_THAT(refused("[1, 2, 3]", "[1, 0, 3]"), HasSubstr("the deviation of column 1 is 0"));
  EXPECT_THAT(refused("[1, 2, 3]", "[1, -2, 3]"), HasSubstr("the deviation of column 1 is -2"));
  EXPECT_THAT(refused("[1, 2, 1e16]", "[1, 2, 3]"), HasSubstr("the mean of column 2 is"));
  EXPECT_THAT(refused("[1, 2, 1e999]", "[1, 2, 3]"), HasSubstr("column_means"));
  EXPECT_THAT(refused("[1, 2, NaN]", "[1, 2, 3]"), HasSubstr("column_means"));
  EXPECT_THAT(refused("[1, 2, null]", "[1, 2, 3]"), HasSubstr("column_means"));
  EXPECT_THAT(refused("[]", "[]"), HasSubstr("empty list"));
  EXPECT_THAT(refused("1", "2"), HasSubstr("column_means"));
  EXPECT_THAT(message_of([&] {
                save_model(scratch / "m.safetensors", model, {{"column_means", "[1]"}});
              }),
              HasSubstr("written from the model itself"));
  Model mixture{ForwardSde::ou(), random_mixture(3, 2, 1), odd};
  EXPECT_THAT(message_of([&] { save_model(scratch / "m.json", mixture); }), HasSubstr("no standardisation"));
  save_model(scratch / "m.json", mixture.of_z());
  EXPECT_THAT(message_of([&] {
                load_model(scratch / "m.json", {{"column_means", "[1, 2, 3]"}});
              }),
              HasSubstr("column_means is for networks"));
}

TEST_F(Standardised, AModelIsChecked) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [](Standardisation s) {
    return message_of([&] { Fields<float>(context(), network(2, Output::score, s)); });
  };
  EXPECT_THAT(refused({{1, 2}, {}}), HasSubstr("2 means and 0 deviations"));
  EXPECT_THAT(refused({{1, nan}, {1, 1}}), HasSubstr("the mean of column 1 is nan"));
  EXPECT_THAT(refused({{1, 2}, {nan, 1}}), HasSubstr("the deviation of column 0 is nan"));
  EXPECT_THAT(refused({{1, 2}, {1e-16, 1}}), HasSubstr("allowed in a standardisation: 1e-15 to 1e+15"));
}

#endif

}  // namespace
}  // namespace fokker
