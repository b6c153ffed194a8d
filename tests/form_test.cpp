// Networks whose output is not the score, or whose time is not t: every field, path, loss and training point against the
// meaning of the output, in long double and by differences, with no formula of the library's.
#include "fokker/formulas/form.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/train.hpp"
#include "fokker/loss.hpp"
#include "fokker/sampler.hpp"
#include "fokker/trainer.hpp"
#include "operations/sampler_stages.hpp"
#include "reference_mixture.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::agrees;
using ::testing::HasSubstr;
using testing::kernel;
using testing::Long;

const Context cpu{{BackendKind::cpu, 2}};

struct Case {
  std::string output, inputs;
  SdeKind sde;
  std::int64_t dimension = 2;
};

std::string name_of(const Case& c) {
  std::string name = fmt::format("{}_{}_{}_{}d", c.output, c.inputs, ForwardSde::defaults(c.sde).name(), c.dimension);
  for (char& letter : name) letter = std::isalnum(static_cast<unsigned char>(letter)) ? letter : '_';
  return name;
}
void PrintTo(const Case& c, std::ostream* out) { *out << name_of(c); }

Model model_of(const Case& c) {
  Architecture a{.dimension = c.dimension, .hidden = {7, 5}, .activation = Activation::tanh};
  const NetworkOutput output = parse_output(c.output);
  a.output = output.output, a.form.form = output.form, a.form.data_deviation = 0.7;
  parse_inputs(c.inputs, a.form);
  Architecture plain = a;
  plain.form = {};
  return {ForwardSde::defaults(c.sde), {Mlp{a, Mlp::initialise(plain, 5).parameters}}};
}

using Vector = std::vector<Long>;

// The network's outputs at its own inputs (τ, h), by the definition of an MLP.
Vector network(const Mlp& mlp, Long time, const Vector& h) {
  Vector in{time};
  in.insert(in.end(), h.begin(), h.end());
  const Architecture& a = mlp.architecture;
  const double* p = mlp.parameters.data();
  for (std::int64_t l = 0; l < a.layers(); ++l) {
    Vector out(static_cast<std::size_t>(a.outputs(l)));
    for (std::size_t j = 0; j < out.size(); ++j) {
      Long z = p[a.bias_offset(l) + static_cast<std::int64_t>(j)];
      for (std::size_t i = 0; i < in.size(); ++i)
        z += static_cast<Long>(p[a.weight_offset(l) + static_cast<std::int64_t>(j * in.size() + i)]) * in[i];
      out[j] = l + 1 < a.layers() ? std::tanh(z) : z;
    }
    in = out;
  }
  return in;
}

// ∂f/∂x_i by the six-point rule.
template <class Function>
Long partial(const Function& f, Vector x, std::size_t i, Long h = 2e-3L) {
  const Long at = x[i];
  const auto moved = [&](int k) {
    x[i] = at + k * h;
    return f(x);
  };
  return (45 * (moved(1) - moved(-1)) - 9 * (moved(2) - moved(-2)) + (moved(3) - moved(-3))) / (60 * h);
}

// What the outputs mean.
struct Meaning {
  Model model;
  const Mlp& mlp = std::get<Mlp>(model.network);
  NetworkForm form = mlp.architecture.form;

  Long mean(Long t) const { return kernel(model.sde, t).mean; }
  Long deviation(Long t) const { return std::sqrt(kernel(model.sde, t).variance); }
  Long time(Long t) const {
    const Long u = form.time_input == TimeInput::time      ? t
                   : form.time_input == TimeInput::sigma   ? deviation(t)
                   : form.time_input == TimeInput::log_snr ? 2 * std::log(mean(t) / deviation(t))
                                                           : std::log(deviation(t));
    return form.time_scale * u + form.time_offset;
  }
  // Karras et al. 2022 scale a network for x/m and σ/m.
  Long in(Long t) const {
    const Long s = deviation(t) / mean(t), d = form.data_deviation;
    return form.form == Form::edm ? 1 / (mean(t) * std::sqrt(s * s + d * d)) : 1;
  }
  Vector inner(Long t, const Vector& x) const {
    Vector h = x;
    for (Long& number : h) number *= in(t);
    return h;
  }
  // F at a point of the model: the outputs, or the gradient of the one output by the network's own place.
  Vector output(Long t, const Vector& x) const {
    if (mlp.architecture.output == Output::score) return network(mlp, time(t), inner(t, x));
    Vector f(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      f[i] = partial([&](const Vector& h) { return network(mlp, time(t), h)[0]; }, inner(t, x), i);
    }
    return f;
  }
  Vector score(Long t, const Vector& x) const {
    const Long m = mean(t), s = deviation(t), d = form.data_deviation;
    const Vector f = output(t, x);
    Vector score(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      Long denoised = 0;  // E[x_0 | x_t], with s = (m E[x_0] − x)/σ²
      switch (form.form) {
        case Form::score: score[i] = f[i]; continue;
        case Form::velocity:
        case Form::velocity_to_data: {
          // dx/dt = a x − ½ g² s, with a = m′/m and g² = (σ²)′ − 2 a σ².
          const auto mean_at = [&](const Vector& at) { return mean(at[0]); };
          const auto variance_at = [&](const Vector& at) { return kernel(model.sde, at[0]).variance; };
          const Long h = 1e-3L * t, a = partial(mean_at, {t}, 0, h) / m,
                     g2 = partial(variance_at, {t}, 0, h) - 2 * a * s * s;
          const Long velocity = form.form == Form::velocity ? f[i] : -f[i];
          score[i] = (a * x[i] - velocity) * 2 / g2;
          continue;
        }
        case Form::noise: denoised = (x[i] - s * f[i]) / m; break;
        case Form::denoised: denoised = f[i]; break;
        case Form::v:  // v = m ε − σ x_0 and x = m x_0 + σ ε
          denoised = (m * x[i] - s * f[i]) / (m * m + s * s);
          break;
        case Form::edm: {
          const Long r = s / m, root = std::sqrt(r * r + d * d);
          denoised = d * d / (r * r + d * d) * x[i] / m + r * d / root * f[i];
          break;
        }
      }
      score[i] = (m * denoised - x[i]) / (s * s);
    }
    return score;
  }
  // The potential whose gradient is that score: A and B are those numbers at x = 1 and F = 0, at x = 0 and F = 1.
  Long value(Long t, const Vector& x) const {
    const Long m = mean(t), s = deviation(t), d = form.data_deviation, r = s / m;
    Long a = 0, b = 1;
    switch (form.form) {
      case Form::noise: b = -1 / s; break;
      case Form::denoised: a = -1 / (s * s), b = m / (s * s); break;
      case Form::v: a = (m * m / (m * m + s * s) - 1) / (s * s), b = -m * s / (m * m + s * s) / (s * s); break;
      case Form::edm:
        a = (d * d / (r * r + d * d) - 1) / (s * s), b = m * r * d / std::sqrt(r * r + d * d) / (s * s);
        break;
      default: break;
    }
    Long squares = 0;
    for (const Long number : x) squares += number * number;
    return a / 2 * squares + b / in(t)*network(mlp, time(t), inner(t, x))[0];
  }
};

struct Rows {
  std::vector<double> t, x;
};

Rows points_of(const Model& model, std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0.15, 0.9);
  Rows rows;
  for (std::size_t i = 0; i < n; ++i) {
    rows.t.push_back(uniform(generator) * std::min(1.0, model.sde.horizon()));
    for (std::int64_t k = 0; k < model.dimension(); ++k) rows.x.push_back(normal(generator));
  }
  return rows;
}

std::vector<Case> cases() {
  std::vector<Case> list;
  std::size_t next = 0;
  const char* inputs[] = {"t,x",      "log-sigma,x", "0.25*log-sigma,x", "sigma,x",
                          "-1*t+1,x", "10*t-0.5,x",  "-0.125*log-snr,x"};
  const SdeKind sdes[] = {SdeKind::ou,    SdeKind::vp_linear, SdeKind::edm,      SdeKind::flow,
                          SdeKind::subvp, SdeKind::ve,        SdeKind::vp_cosine};
  for (const std::string& output : output_names()) {
    for (int k = 0; k < 3; ++k, ++next) {
      list.push_back({output, inputs[next % std::size(inputs)], sdes[next % std::size(sdes)], next % 4 == 3 ? 3 : 2});
    }
  }
  list.push_back({"velocity", "t,x", SdeKind::flow});
  list.push_back({"velocity-to-data", "-1*t+1,x", SdeKind::flow});
  list.push_back({"edm", "0.25*log-sigma,x", SdeKind::edm});
  list.push_back({"potential:edm", "0.25*log-sigma,x", SdeKind::edm});
  list.push_back({"noise", "20*t-1,x", SdeKind::vp_linear, 1});
  for (const char* const output : {"noise", "v", "velocity", "potential:edm"}) {
    list.push_back({output, "t-1,x", SdeKind::ddpm});
  }
  return list;
}

class EveryForm : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Forms, EveryForm, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return name_of(test.param); });

TEST_P(EveryForm, FieldsAreThoseOfWhatTheOutputMeans) {
  const Meaning meaning{model_of(GetParam())};
  const Model& model = meaning.model;
  const bool potential = model.output() == Output::potential;
  const std::size_t n = 7, d = static_cast<std::size_t>(model.dimension());
  const Rows rows = points_of(model, n, 1);
  std::vector<double> value(n), dt(n), score(n * d), divergence(n), hessian(n * d * d), residual(n), product(n * d),
      direction(rows.x.rbegin(), rows.x.rend());
  const auto matrix = [](std::vector<double>& data, std::size_t columns) {
    return View<double>(data, static_cast<std::int64_t>(columns));
  };
  const Fields<double> fields(cpu, model);
  const Points<double> points{View<const double>(rows.t), View<const double>(rows.x, static_cast<std::int64_t>(d))};
  FieldOutputs<double> outputs{
      .score = matrix(score, d), .divergence = View<double>(divergence), .hessian = matrix(hessian, d * d)};
  if (potential)
    outputs.value = View<double>(value), outputs.dt = View<double>(dt), outputs.residual = View<double>(residual);
  fields.evaluate(points, outputs);
  fields.hessian_vector(points, View<const double>(direction, static_cast<std::int64_t>(d)), matrix(product, d));

  std::vector<Long> e_value, e_dt, e_score, e_divergence, e_hessian, e_residual, e_product;
  for (std::size_t r = 0; r < n; ++r) {
    const Long t = rows.t[r];
    const Vector x(rows.x.begin() + static_cast<std::ptrdiff_t>(r * d),
                   rows.x.begin() + static_cast<std::ptrdiff_t>((r + 1) * d));
    const Vector s = meaning.score(t, x);
    e_score.insert(e_score.end(), s.begin(), s.end());
    Long trace = 0, square = 0, along = 0;
    for (std::size_t i = 0; i < d; ++i) {
      Long sum = 0;
      for (std::size_t j = 0; j < d; ++j) {
        // Differences of differences, where the score is one already.
        e_hessian.push_back(partial([&](const Vector& at) { return meaning.score(t, at)[i]; }, x, j, 4e-3L));
        sum += e_hessian.back() * static_cast<Long>(direction[r * d + j]);
        if (i == j) trace += e_hessian.back();
      }
      e_product.push_back(sum);
      square += s[i] * s[i], along += s[i] * x[i];
    }
    e_divergence.push_back(trace);
    if (!potential) continue;
    e_value.push_back(meaning.value(t, x));
    e_dt.push_back(partial([&](const Vector& at) { return meaning.value(at[0], x); }, {t}, 0, 1e-3L * t));
    const Long m = kernel(model.sde, t).mean, s2 = kernel(model.sde, t).variance;
    const Long a = partial([&](const Vector& at) { return kernel(model.sde, at[0]).mean; }, {t}, 0, 1e-3L * t) / m;
    const Long g2 =
        partial([&](const Vector& at) { return kernel(model.sde, at[0]).variance; }, {t}, 0, 1e-3L * t) - 2 * a * s2;
    e_residual.push_back(e_dt.back() + a * static_cast<Long>(d) + a * along - g2 / 2 * (trace + square));
    for (std::size_t i = 0; i < d; ++i) {
      const Long gradient = partial([&](const Vector& at) { return meaning.value(t, at); }, x, i);
      EXPECT_TRUE(agrees(static_cast<double>(gradient), static_cast<double>(s[i]), 1e-9, 1e-11))
          << "the reference's own potential";
    }
  }
  const auto near = [&](const std::vector<double>& actual, const std::vector<Long>& expected, const char* name) {
    EXPECT_TRUE(agrees(std::span<const double>(actual), std::span<const Long>(expected),
                       {.relative = 1e-9, .of_rms = 1e-9, .norm = 1e-9}))
        << name;
  };
  near(score, e_score, "score");
  near(divergence, e_divergence, "divergence");
  near(hessian, e_hessian, "hessian");
  near(product, e_product, "product");
  if (!potential) return;
  near(value, e_value, "value");
  near(dt, e_dt, "dt");
  near(residual, e_residual, "residual");
}

TEST_P(EveryForm, OneTimeForAllAndFloatAreTheSameFields) {
  const Model model = model_of(GetParam());
  const std::size_t n = 33, d = static_cast<std::size_t>(model.dimension());
  Rows rows = points_of(model, n, 2);
  rows.t.assign(n, rows.t[0]);
  std::vector<double> each(n * d), one(n * d), divergence(n);
  const Fields<double> fields(cpu, model);
  const View<const double> x(rows.x, static_cast<std::int64_t>(d));
  fields.evaluate({View<const double>(rows.t), x}, {.score = View<double>(each, static_cast<std::int64_t>(d))});
  rows.t.resize(1);
  fields.evaluate({View<const double>(rows.t), x},
                  {.score = View<double>(one, static_cast<std::int64_t>(d)), .divergence = View<double>(divergence)});
  EXPECT_EQ(each, one);
  const std::vector<float> t(rows.t.begin(), rows.t.end()), x32(rows.x.begin(), rows.x.end());
  std::vector<double> t64(t.begin(), t.end()), x64(x32.begin(), x32.end());
  std::vector<float> score(n * d), trace(n);
  Fields<float>(cpu, model)
      .evaluate({View<const float>(t), View<const float>(x32, static_cast<std::int64_t>(d))},
                {.score = View<float>(score, static_cast<std::int64_t>(d)), .divergence = View<float>(trace)});
  fields.evaluate({View<const double>(t64), View<const double>(x64, static_cast<std::int64_t>(d))},
                  {.score = View<double>(one, static_cast<std::int64_t>(d)), .divergence = View<double>(divergence)});
  EXPECT_TRUE(agrees(std::span<const float>(score), std::span<const double>(one), {.of_rms = 4e-6, .norm = 1e-6}));
  EXPECT_TRUE(
      agrees(std::span<const float>(trace), std::span<const double>(divergence), {.of_rms = 1e-5, .norm = 3e-6}));
}

// Every scheme's path, with the score of the fields in double in place of the folded network.
TEST_P(EveryForm, PathsFollowTheScore) {
  Model model = model_of(GetParam());
  const double T = 0.9;
  model.sde = ForwardSde::parse(model.sde.name(), R"({"T": 0.9})");
  const std::int64_t n = 5, d = model.dimension();
  const TimeGrid grid = TimeGrid({T, 0.8 * T, 0.55 * T, 0.4 * T});
  const Fields<double> fields(cpu, model);
  const auto score_at = [&](double t, const std::vector<double>& x, std::vector<double>* divergence) {
    std::vector<double> score(x.size()), trace(static_cast<std::size_t>(n)), time{t};
    fields.evaluate({View<const double>(time), View<const double>(x, d)},
                    {.score = View<double>(score, d), .divergence = View<double>(trace)});
    if (divergence) *divergence = trace;
    return score;
  };
  std::vector<float> start(static_cast<std::size_t>(n * d));
  for (std::size_t i = 0; i < start.size(); ++i) start[i] = 0.3f * static_cast<float>(i) - 1;
  const Sampler sampler(cpu, model, grid);
  // The family's steps without their noise, by the formulas of sampler.hpp.
  for (const auto& [scheme, eta] : {std::pair(Scheme::euler_maruyama, 0.7), std::pair(Scheme::exponential, 0.7),
                                    std::pair(Scheme::ddim, 0.5), std::pair(Scheme::ddim, 0.0)}) {
    SCOPED_TRACE(fmt::format("{}, eta {}", to_string(scheme), eta));
    std::vector<double> expected(start.begin(), start.end());
    for (std::size_t k = 0; k + 1 < grid.times().size(); ++k) {
      const double t = grid.times()[k], dt = grid.times()[k + 1] - t;
      const std::vector<double> s = score_at(t, expected, nullptr);
      const SdeCoefficients<double> c = model.sde.at(t), end = model.sde.at(t + dt);
      const double deviation = std::sqrt(c.variance), last = std::sqrt(end.variance);
      const double ratio = deviation / c.mean, last_ratio = last / end.mean;
      const double fresh = eta * last / deviation * std::sqrt(c.variance - c.mean * c.mean * last_ratio * last_ratio);
      for (std::size_t j = 0; j < expected.size(); ++j) {
        double& x = expected[j];
        if (scheme == Scheme::euler_maruyama) {
          x += dt * (c.drift * x - (1 + eta * eta) / 2 * c.diffusion_squared * s[j]);
        } else if (scheme == Scheme::exponential) {
          x = end.mean / c.mean * x + (1 + eta * eta) * deviation * end.mean * (ratio - last_ratio) * s[j];
        } else {
          const double data = (x + c.variance * s[j]) / c.mean, noise = -deviation * s[j];
          x = end.mean * data + std::sqrt(end.variance - fresh * fresh) * noise;
        }
      }
    }
    std::vector<float> x = start;
    SampleOptions options{.scheme = scheme, .noise_in_last_step = true, .eta = eta};
    if (eta > 0) options.temperature = 0;
    sampler.integrate(View<float>(x, d), options);
    EXPECT_TRUE(agrees(std::span<const float>(x), std::span<const double>(expected), {.of_rms = 2e-5, .norm = 5e-6}));
  }
  for (const Scheme scheme : {Scheme::euler, Scheme::heun, Scheme::rk4}) {
    SCOPED_TRACE(to_string(scheme));
    const auto follow = [&](std::vector<double> times, std::vector<double> x, std::vector<double>* integral) {
      const int stages = scheme == Scheme::euler ? 1 : scheme == Scheme::heun ? 2 : 4;
      const std::vector<double> nodes = stages == 4 ? std::vector{0.0, 0.5, 0.5, 1.0} : std::vector{0.0, 1.0};
      const std::vector<double> weights = stages == 1   ? std::vector{1.0}
                                          : stages == 2 ? std::vector{0.5, 0.5}
                                                        : std::vector{1 / 6., 1 / 3., 1 / 3., 1 / 6.};
      for (std::size_t k = 0; k + 1 < times.size(); ++k) {
        const double dt = times[k + 1] - times[k];
        std::vector<double> slope(x.size()), sum(x.size());
        for (int i = 0; i < stages; ++i) {
          const double t = times[k] + nodes[static_cast<std::size_t>(i)] * dt;
          std::vector<double> at = x, trace;
          for (std::size_t j = 0; j < x.size(); ++j) at[j] += nodes[static_cast<std::size_t>(i)] * slope[j];
          const std::vector<double> s = score_at(t, at, &trace);
          const SdeCoefficients<double> c = model.sde.at(t);
          for (std::size_t j = 0; j < x.size(); ++j) {
            slope[j] = dt * (c.drift * at[j] - c.diffusion_squared / 2 * s[j]);
            sum[j] += weights[static_cast<std::size_t>(i)] * slope[j];
          }
          for (std::size_t p = 0; integral && p < trace.size(); ++p) {
            (*integral)[p] += weights[static_cast<std::size_t>(i)] * dt *
                              (c.drift * static_cast<double>(d) - c.diffusion_squared / 2 * trace[p]);
          }
        }
        for (std::size_t j = 0; j < x.size(); ++j) x[j] += sum[j];
      }
      return x;
    };
    std::vector<float> x = start;
    sampler.integrate(View<float>(x, d), {.scheme = scheme});
    const std::vector<double> expected = follow(grid.times(), {start.begin(), start.end()}, nullptr);
    EXPECT_TRUE(agrees(std::span<const float>(x), std::span<const double>(expected), {.of_rms = 2e-5, .norm = 5e-6}));

    std::vector<float> log_density(static_cast<std::size_t>(n));
    sampler.log_density(View<const float>(start, d), View<float>(log_density), scheme);
    std::vector<double> integral(static_cast<std::size_t>(n));
    const std::vector<double> end =
        follow({grid.times().rbegin(), grid.times().rend()}, {start.begin(), start.end()}, &integral);
    for (std::size_t p = 0; p < integral.size(); ++p) {
      double square = 0;
      for (std::size_t j = 0; j < static_cast<std::size_t>(d); ++j)
        square += end[p * static_cast<std::size_t>(d) + j] * end[p * static_cast<std::size_t>(d) + j];
      const double variance = model.sde.prior_variance();
      integral[p] +=
          -square / (2 * variance) - 0.5 * static_cast<double>(d) * std::log(2 * std::numbers::pi * variance);
    }
    EXPECT_TRUE(
        agrees(std::span<const float>(log_density), std::span<const double>(integral), {.of_rms = 3e-5, .norm = 1e-5}));
  }
}

// By probes too: the first estimate is that of Fields, and the second what its mean over twice as many leaves.
TEST_P(EveryForm, LossesAreThoseOfTheScoreAndTheResidual) {
  const Model model = model_of(GetParam());
  const Mlp& mlp = std::get<Mlp>(model.network);
  const bool potential = model.output() == Output::potential;
  const std::size_t n = 6, d = static_cast<std::size_t>(model.dimension());
  const std::int64_t columns = model.dimension();
  const Rows rows = points_of(model, n, 3), other = points_of(model, n, 4);
  std::vector<double> weight{1, 0.5, 2, 0.25, 1, 3}, score(n * d), residual(n), values(3),
      gradient(mlp.parameters.size());
  const Loss<double> loss(cpu, mlp.architecture, model.sde);
  const DenoisingBatch<double> denoising{View<const double>(rows.t), View<const double>(rows.x, columns),
                                         View<const double>(other.x, columns), View<const double>(weight)};
  for (const int probes : potential ? std::vector<int>{0, 2} : std::vector<int>{0}) {
    SCOPED_TRACE(fmt::format("{} probes", probes));
    CollocationBatch<double> collocation;
    if (potential) collocation = {View<const double>(other.t), View<const double>(other.x, columns)};
    collocation.divergence = {.probes = probes, .seed = 6, .first_index = 3};
    const double share = potential ? 0.3 : 0;
    const auto total_at = [&](const std::vector<double>& parameters) {
      loss.evaluate(View<const double>(parameters), denoising, collocation, share, View<double>(values), {});
      return values[2];
    };
    loss.evaluate(View<const double>(mlp.parameters), denoising, collocation, share, View<double>(values),
                  View<double>(gradient));

    const Fields<double> fields(cpu, model);
    fields.evaluate({View<const double>(rows.t), View<const double>(rows.x, columns)},
                    {.score = View<double>(score, columns)});
    double expected = 0, squares = 0;
    for (std::size_t i = 0; i < score.size(); ++i)
      expected += weight[i / d] * std::pow(score[i] - other.x[i], 2) / static_cast<double>(n * d);
    EXPECT_TRUE(agrees(values[0], expected, 1e-12));
    if (potential) {
      const Points<double> points{View<const double>(other.t), View<const double>(other.x, columns)};
      std::vector<double> all(n);
      fields.evaluate(points, {.residual = View<double>(residual)}, collocation.divergence);
      Divergence of_all = collocation.divergence;
      of_all.probes *= 2;
      fields.evaluate(points, {.residual = View<double>(all)}, of_all);
      double sizes = 0;
      for (std::size_t i = 0; i < n; ++i) {
        const double product = residual[i] * (2 * all[i] - residual[i]);
        squares += product / static_cast<double>(n), sizes += std::fabs(product) / static_cast<double>(n);
      }
      EXPECT_TRUE(agrees(values[1], squares, 0, 1e-11 * sizes));
    }

    std::vector<double> differences;
    for (std::size_t k = 0; k < gradient.size(); ++k) {
      std::vector<double> moved = mlp.parameters;
      const double h = 1e-4;
      const auto at = [&](double step) {
        moved[k] = mlp.parameters[k] + step;
        return total_at(moved);
      };
      differences.push_back((45 * (at(h) - at(-h)) - 9 * (at(2 * h) - at(-2 * h)) + (at(3 * h) - at(-3 * h))) /
                            (60 * h));
    }
    EXPECT_TRUE(agrees(std::span<const double>(gradient), std::span<const double>(differences),
                       {.relative = 1e-8, .of_rms = 1e-8, .norm = 1e-9}));
  }
}

// x_0 and the noise determine what the network ought to say of x_t, and the score of the kernel is that of the form.
TEST_P(EveryForm, TrainingPointsAreWhatTheNetworkOughtToSay) {
  const Meaning meaning{model_of(GetParam())};
  const Model& model = meaning.model;
  for (const double t : {0.2, 0.5, 0.9}) {
    const SdeFormulas& sde = model.sde.formulas();
    const FormCoefficients<double> c = form_at(model.form(), sde, t);
    const double m = static_cast<double>(meaning.mean(t)), s = static_cast<double>(meaning.deviation(t)), x0 = 0.3,
                 noise = -1.2, xt = m * x0 + s * noise;
    const DenoisingPoint<double> unit(model.form(), sde, LossWeight::unit, t),
        score(model.form(), sde, LossWeight::score, t), variance(model.form(), sde, LossWeight::variance, t);
    double x = x0, target = noise;
    unit(x, target);
    EXPECT_TRUE(agrees(unit.time, static_cast<double>(meaning.time(t)), 1e-12, 1e-12));
    EXPECT_TRUE(agrees(x, static_cast<double>(meaning.in(t)) * xt, 1e-12, 1e-12));
    EXPECT_TRUE(agrees(c.skip * xt + c.out * target, -noise / s, 1e-11, 1e-12));
    EXPECT_EQ(unit.weight, 1);
    EXPECT_TRUE(agrees(score.weight, c.out * c.out, 1e-14));
    EXPECT_TRUE(agrees(variance.weight, s * s * c.out * c.out, 1e-12));
  }
}

// A table of λ: linear between its times, constant beyond them, and times B².
TEST(GivenLossWeight, IsLinearBetweenItsTimes) {
  const SdeFormulas sde = ForwardSde::vp_linear().formulas();
  const NetworkForm form{.form = Form::noise};
  const LossWeightAt<float> table[] = {{0.25f, 2}, {0.5f, 0}, {0.5625f, 0}, {0.75f, 3}};
  const auto weight = [&](std::int32_t rows, double t) {
    const double out = form_at(form, sde, t).out;
    const LossWeightTable of{rows, table};
    return DenoisingPoint<double>(form, sde, LossWeight::given, t, &of).weight / (out * out);
  };
  const std::pair<double, double> expected[] = {{0.01, 2},  {0.25, 2},   {0.375, 1}, {0.5, 0}, {0.53, 0},
                                                {0.625, 1}, {0.6875, 2}, {0.75, 3},  {0.99, 3}};
  for (const auto& [t, lambda] : expected) EXPECT_TRUE(agrees(weight(4, t), lambda, 1e-15, 1e-15)) << t;
  for (const double t : {0.1, 0.25, 0.9}) EXPECT_TRUE(agrees(weight(1, t), 2.0, 1e-15)) << t;
}

TEST(FormTarget, OfThePreconditionedFormHasUnitVarianceAtEveryTime) {
  for (const SdeKind kind : {SdeKind::ou, SdeKind::vp_linear, SdeKind::ve, SdeKind::edm, SdeKind::flow, SdeKind::subvp,
                             SdeKind::vp_cosine, SdeKind::ddpm}) {
    const ForwardSde sde = ForwardSde::defaults(kind);
    NetworkForm form{.form = Form::edm, .data_deviation = 0.4};
    for (const double tau : {1e-3, 0.1, 0.5, 0.999, 1.0}) {
      const double t = sde.t_min() + tau * (sde.horizon() - sde.t_min());
      const FormTarget<double> target = form_target(form, kind, sde.at(t));
      EXPECT_TRUE(agrees(std::pow(0.4 * target.of_data, 2) + std::pow(target.of_noise, 2), 1.0, 1e-12))
          << sde.name() << " " << t;
    }
  }
}

TEST(Flow, OfAVelocityNetIsFiniteAtBothEnds) {
  Model model = model_of({"velocity", "t,x", SdeKind::flow});
  model.sde = ForwardSde::flow({.horizon = 1});
  const TimeGrid grid = TimeGrid::uniform(1, 0, 5);
  std::vector<float> x(40);
  for (const Scheme scheme : {Scheme::euler, Scheme::heun, Scheme::rk4}) {
    Sampler(cpu, model, grid).sample(View<float>(x, 2), {.scheme = scheme});
    for (const float number : x) EXPECT_TRUE(std::isfinite(number));
    std::vector<float> density(20);
    Sampler(cpu, model, grid).log_density(View<const float>(x, 2), View<float>(density), scheme);
    for (const float number : density) EXPECT_TRUE(std::isfinite(number));
  }
  // Its reverse SDE has no finite drift at T = 1, but at η = 0 it is the flow.
  EXPECT_THAT(testing::message_of([&] { Sampler(cpu, model, grid).sample(View<float>(x, 2)); }), HasSubstr("at t = 1"));
  std::vector<float> flow(40);
  Sampler(cpu, model, grid).sample(View<float>(flow, 2), {.scheme = Scheme::euler});
  Sampler(cpu, model, grid).sample(View<float>(x, 2), {.eta = 0.0});
  for (std::size_t k = 0; k < x.size(); ++k) EXPECT_NEAR(x[k], flow[k], 1e-5 * (1 + std::fabs(flow[k]))) << k;
  // Nor has a network that predicts the noise a score at t = 0, where samples end by a step of Euler's.
  model = model_of({"noise", "t,x", SdeKind::vp_linear});
  const Sampler sampler(cpu, model, TimeGrid::uniform(1, 0, 5));
  sampler.sample(View<float>(x, 2), {.scheme = Scheme::heun});
  for (const float number : x) EXPECT_TRUE(std::isfinite(number));
  std::vector<float> density(20);
  EXPECT_THAT(
      testing::message_of([&] { sampler.log_density(View<const float>(x, 2), View<float>(density), Scheme::heun); }),
      HasSubstr("at t = 0"));
}

TEST(FormNames, ReadBackAndListTheAllowed) {
  for (const std::string& name : output_names()) EXPECT_EQ(to_string(parse_output(name)), name);
  EXPECT_THAT(output_names(), ::testing::AllOf(::testing::Contains("potential:edm"), ::testing::Contains("velocity"),
                                               ::testing::Not(::testing::Contains("potential:velocity"))));
  for (const char* name : {"", "epsilon", "potential:", "potential:score", "potential:velocity", "noise "}) {
    EXPECT_THAT(testing::message_of([&] { parse_output(name); }), HasSubstr("potential:edm")) << name;
  }
  for (const char* text :
       {"t,x", "log-sigma,x", "0.25*log-sigma,x", "-1*t+1,x", "1000*t-1,x", "2*sigma-0.5,x", "-0.125*log-snr,x"}) {
    NetworkForm form;
    EXPECT_EQ(parse_inputs(text, form), (std::vector{LayerInput::time, LayerInput::x}));
    EXPECT_EQ(inputs_of(form), text);
  }
  NetworkForm form;
  EXPECT_EQ(parse_inputs("x,0.25*log-sigma", form), (std::vector{LayerInput::x, LayerInput::time}));
  EXPECT_EQ(inputs_of(form), "0.25*log-sigma,x");
  using enum LayerInput;
  EXPECT_EQ(parse_inputs("x,1000*t,y", form), (std::vector{x, time, condition}));
  EXPECT_EQ(parse_inputs("y,x,t", form), (std::vector{condition, x, time}));
  EXPECT_EQ(parse_inputs("log-sigma,y,x", form), (std::vector{time, condition, x}));
  EXPECT_EQ(inputs_of(Architecture{.form = form}), "log-sigma,x");
  EXPECT_EQ(inputs_of(Architecture{.form = form, .condition = {{}, {0}, {}, 3}}), "y,log-sigma,x");
  for (const char* text : {"", "x", "t", "y,x", "t,x,y,y", "t,x,z", "x,time", "x,2*", "x,*t", "x,2*t+", "x,t*2",
                           "x,2*t+1e", "x,nan*", "tx", "x,,t"}) {
    EXPECT_THAT(testing::message_of([&] { parse_inputs(text, form); }), HasSubstr("x,0.25*log-sigma")) << text;
  }
  const auto refused = [](NetworkForm bad) {
    return testing::message_of([&] { Architecture{.output = Output::score, .form = bad}.validate(); });
  };
  EXPECT_THAT(refused({.form = Form::edm, .data_deviation = 0}), HasSubstr("data_deviation = 0"));
  EXPECT_THAT(refused({.time_scale = 0}), HasSubstr("time_scale = 0"));
  EXPECT_THAT(refused({.time_offset = NAN}), HasSubstr("time_offset = nan"));
}

TEST(Initialise, BeginsAsTheFormAlone) {
  const Mlp mlp = Mlp::initialise(
      {.hidden = {4}, .activation = Activation::tanh, .output = Output::score, .form = {.form = Form::edm}}, 1);
  const Model model{ForwardSde::edm(), mlp};
  const std::vector<double> t{3}, x{1, -2};
  std::vector<double> score(2);
  Fields<double>(cpu, model)
      .evaluate({View<const double>(t), View<const double>(x, 2)}, {.score = View<double>(score, 2)});
  EXPECT_TRUE(agrees(score[0], -0.1, 1e-15));  // −x/(1 + t²)
  EXPECT_TRUE(agrees(score[1], 0.2, 1e-15));
}

}  // namespace
}  // namespace fokker
