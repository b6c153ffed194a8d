// Networks whose output is not the score, or whose time is not t, on CUDA: fields, losses, points and training on every
// path, against the CPU in double, which form_test.cpp holds against the outputs' meaning. Paths of samples are in
// cuda_sampler_test.cpp.
//
// A field is a sum of terms, each a coefficient of the form times a number of the network, and the terms may cancel. So a
// bound is the sum of the terms' errors: what rounding does to the network's numbers (rounding_noise.hpp), and a few
// roundings of each term's own, in roundoffs of 2^−53, 2^−24 in fp32 and 2^−22 in split.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "cuda/data.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/runtime.hpp"
#include "device_test.hpp"
#include "fields_reference.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/form_fields.hpp"
#include "fokker/loss.hpp"
#include "fokker/sampler.hpp"
#include "fokker/trainer.hpp"
#include "kernels/training_launch.hpp"
#include "operations/train_schedule.hpp"
#include "trainer_checks.hpp"

namespace fokker {
namespace {

using cuda::DeviceMemory;
using testing::agrees;
using testing::all_of;
using testing::as;
using testing::Bound;
using testing::Quantity;
using testing::Result;
using testing::to_host;

class CudaForm : public testing::GpuTest {};

const Context& cpu() {
  static const Context context({.backend = BackendKind::cpu, .threads = 1});
  return context;
}
Context on(Precision precision) { return Context({.backend = BackendKind::cuda, .precision = precision}); }

// ---- cases ----------------------------------------------------------------------------------------------------------

struct Case {
  std::string name;
  Model model;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

constexpr NetworkForm kForms[] = {
    {.form = Form::score, .time_input = TimeInput::log_sigma, .time_scale = 0.25, .time_offset = 0.5},
    {.form = Form::noise, .time_scale = 0.7, .time_offset = -0.3},
    {.form = Form::denoised, .time_input = TimeInput::sigma},
    {.form = Form::v, .time_input = TimeInput::log_snr, .time_scale = -0.125},
    {.form = Form::velocity, .time_scale = -1, .time_offset = 1},
    {.form = Form::velocity_to_data},
    {.form = Form::edm, .data_deviation = 0.6, .time_input = TimeInput::log_sigma, .time_scale = 0.25}};
constexpr SdeKind kSdes[] = {SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp,
                             SdeKind::ve, SdeKind::edm,       SdeKind::flow,      SdeKind::ddpm};

bool is_velocity(Form form) { return form == Form::velocity || form == Form::velocity_to_data; }

// A network is given times up to 10 where it is given the time itself, whatever the horizon: by 1000, which is ddpm's, its
// units are saturated and its derivatives rounding.
NetworkForm suited(NetworkForm form, const ForwardSde& sde) {
  if (form.time_input == TimeInput::time) form.time_scale *= 10 / sde.horizon();
  return form;
}

// Parameters that are exact in float, and none of them zero.
Model model_of(const NetworkForm& form, SdeKind sde, Output output, std::int64_t d, std::vector<std::int64_t> hidden) {
  Architecture a = testing::architecture_of(d, std::move(hidden), Activation::tanh, 1, output);
  Model model = testing::model_of(a, sde, 5);
  std::get<Mlp>(model.network).architecture.form = suited(form, model.sde);
  return model;
}

// Every form under every SDE: resident, resident but for second derivatives, and wide.
std::vector<Case> cases() {
  const std::vector<std::int64_t> hidden[] = {{12, 9}, {100}, {130, 7}};
  std::vector<Case> all;
  for (const NetworkForm& form : kForms) {
    for (const SdeKind sde : kSdes) {
      for (const Output output : {Output::potential, Output::score}) {
        if (output == Output::potential && is_velocity(form.form)) continue;
        const std::size_t k = all.size();
        std::string name =
            fmt::format("{}_{}_{}", to_string(form.form), ForwardSde::defaults(sde).name(), to_string(output));
        std::replace(name.begin(), name.end(), '-', '_');
        all.push_back({name, model_of(form, sde, output, 1 + static_cast<std::int64_t>(k % 3), hidden[k / 3 % 3])});
      }
    }
  }
  // And networks with time branches, residual connections and conditions, each under one of them.
  for (const Output output : {Output::potential, Output::score}) {
    std::size_t k = 0;
    for (const auto& [name, architecture] : testing::all_networks(output)) {
      Model model = testing::model_of(architecture, kSdes[k % std::size(kSdes)], 5);
      do {
        std::get<Mlp>(model.network).architecture.form = suited(kForms[k++ % std::size(kForms)], model.sde);
      } while (output == Output::potential && is_velocity(model.form().form));
      all.push_back({name, model});
    }
  }
  return all;
}

// Points whose rows are x alone; the conditions [n, c] are apart.
struct Problem : testing::Problem {
  std::vector<double> condition = {};

  template <class T>
  std::optional<Buffer<T>> conditions_there(const Context& context) const;
};

Problem problem_of(const Model& model, std::int64_t n, bool one_time = false) {
  const std::int64_t d = model.dimension(), c = model.condition();
  Problem p{testing::make_problem(d, model.sde, n, one_time, 11, c)};
  p.condition = testing::columns_of(p.x, d + c, d, c);
  p.x = testing::columns_of(p.x, d + c, 0, d);
  p.c = 0;
  // The score and the drift of an interpolation are infinite at its end.
  for (double& t : p.t) t = static_cast<float>(0.02 * model.sde.horizon() + 0.9 * t);
  return p;
}

// ---- fields ---------------------------------------------------------------------------------------------------------

template <class T>
Buffer<T> there(const Context& context, const std::vector<double>& v, std::int64_t columns) {
  const std::vector<T> numbers = as<T>(v);
  Buffer<T> buffer(context, static_cast<std::int64_t>(v.size()) / columns, columns);
  copy(context, View<const T>(numbers, columns), buffer.view());
  context.synchronize();
  return buffer;
}

template <class T>
std::optional<Buffer<T>> Problem::conditions_there(const Context& context) const {
  if (condition.empty()) return std::nullopt;
  return there<T>(context, condition, std::ssize(condition) / n());
}
template <class T>
View<const T> view_of(const std::optional<Buffer<T>>& buffer) {
  return buffer ? View<const T>(buffer->view()) : View<const T>();
}

template <class T>
std::vector<double> back(const Context& context, const Buffer<T>& buffer) {
  std::vector<T> v(static_cast<std::size_t>(buffer.view().size()));
  copy(context, View<const T>(buffer.view()), View<T>(v, buffer.view().columns));
  context.synchronize();
  return {v.begin(), v.end()};
}

struct FieldNumbers : Result<double> {
  std::vector<double> product;
};

template <class T>
FieldNumbers fields_on(const Context& context, const Model& model, const Problem& p, unsigned wanted,
                       const Divergence& how = {}) {
  const std::int64_t n = p.n(), d = p.d;
  const Fields<T> fields(context, model);
  const Buffer<T> t = there<T>(context, p.t, 1), x = there<T>(context, p.x, d), v = there<T>(context, p.direction, d);
  const std::pair<Quantity, std::int64_t> all[] = {{testing::value, 1},       {testing::dt, 1},
                                                   {testing::score, d},       {testing::divergence, 1},
                                                   {testing::hessian, d * d}, {testing::residual, 1}};
  std::vector<std::optional<Buffer<T>>> buffers(6);
  FieldOutputs<T> out;
  View<T>* const views[] = {&out.value, &out.dt, &out.score, &out.divergence, &out.hessian, &out.residual};
  for (std::size_t k = 0; k < 6; ++k) {
    if (!(wanted & all[k].first)) continue;
    buffers[k].emplace(context, n, all[k].second);
    *views[k] = buffers[k]->view();
  }
  const std::optional<Buffer<T>> condition = p.conditions_there<T>(context);
  const Points<T> points{t.view(), x.view(), view_of(condition)};
  fields.evaluate(points, out, how);
  FieldNumbers r;
  std::vector<double>* const to[] = {&r.value, &r.dt, &r.score, &r.divergence, &r.hessian, &r.residual};
  for (std::size_t k = 0; k < 6; ++k) {
    if (buffers[k]) *to[k] = back(context, *buffers[k]);
  }
  if (how.probes == 0) {
    Buffer<T> product(context, n, d);
    fields.hessian_vector(points, v.view(), product.view());
    r.product = back(context, product);
  }
  return r;
}

// How far rounding may move each number, in roundoffs.
FieldNumbers errors(const Model& model, const Problem& p, const Divergence& how = {}) {
  const NetworkForm form = model.form();
  const SdeFormulas sde = model.sde.formulas();
  const std::int64_t n = p.n(), d = p.d, c = model.condition();
  Model network = model;
  std::get<Mlp>(network.network).architecture.form = {};
  testing::Problem inputs{d, {}, {}, p.direction, c};
  for (std::int64_t i = 0; i < n; ++i) {
    const FormCoefficients<double> at = form_at(form, sde, p.time(i));
    inputs.t.push_back(at.time);
    for (std::int64_t k = 0; k < d; ++k) inputs.x.push_back(p.x[i * d + k] * at.in);
    for (std::int64_t k = 0; k < c; ++k) inputs.x.push_back(p.condition[i * c + k]);
  }
  const testing::Expected numbers = testing::reference(network, inputs);
  testing::Expected deviations = testing::rounding_deviations(network, inputs);
  if (how.probes > 0) deviations = testing::deviations_with_probes(network, inputs, std::move(deviations));
  // A term is a number of the network times coefficients. It has up to eight roundings of its own: of three coefficients,
  // three products and two sums.
  constexpr double own = 8;
  const auto error = [&](const std::vector<double>& number, const std::vector<double>& deviation) {
    std::vector<double> e;
    for (std::size_t k = 0; k < number.size(); ++k) {
      e.push_back(own * std::fabs(number[k]) + testing::most_deviations * deviation[k]);
    }
    return e;
  };
  const std::vector<double> value = error(numbers.value, deviations.value), dt = error(numbers.dt, deviations.dt),
                            score = error(numbers.score, deviations.score),
                            divergence = error(numbers.divergence, deviations.divergence),
                            hessian = error(numbers.hessian, deviations.hessian),
                            product = error(numbers.product, deviations.product);
  FieldNumbers e;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto [of, rate] = form_rates_at(form, sde, p.time(i));
    const double skip = own * std::fabs(of.skip), out = std::fabs(of.out), in = std::fabs(of.in);
    double squares = 0, along = 0, score_squares = 0;
    for (std::int64_t k = i * d; k < (i + 1) * d; ++k) {
      squares += own * p.x[k] * p.x[k];
      along += std::fabs(p.x[k]) * score[k];
      score_squares += 2 * std::fabs(numbers.score[k]) * score[k];
      e.score.push_back(skip * std::fabs(p.x[k]) + out * score[k]);
      e.product.push_back(skip * std::fabs(p.direction[k]) + out * in * product[k]);
    }
    e.divergence.push_back(skip * double(d) + out * in * divergence[i]);
    for (std::int64_t k = 0; k < d * d; ++k) {
      e.hessian.push_back((k % (d + 1) == 0 ? skip : 0) + out * in * hessian[i * d * d + k]);
    }
    if (model.output() != Output::potential) continue;
    e.value.push_back(std::fabs(of.skip) / 2 * squares + out / in * value[i]);
    const double share = out / in;
    e.dt.push_back(std::fabs(rate.skip) / 2 * squares +
                   (std::fabs(rate.out) + share * std::fabs(rate.in)) / in * value[i] +
                   share * (std::fabs(rate.in) * along + std::fabs(rate.time) * dt[i]));
    const ResidualCoefficients<double> r = residual_at(form, sde, p.time(i));
    e.residual.push_back(own * std::fabs(r.constant) * double(d) + std::fabs(r.square) * in * in * squares +
                         std::fabs(r.value) * value[i] + std::fabs(r.time) * dt[i] + std::fabs(r.along) * in * along +
                         std::fabs(r.curvature) * divergence[i] + std::fabs(r.gradient) * score_squares);
  }
  return e;
}

double roundoff_of(Precision precision) { return precision == Precision::fp32 ? 0x1p-24 : 0x1p-22; }

::testing::AssertionResult within(const std::vector<double>& actual, const std::vector<double>& expected,
                                  std::vector<double> error, double roundoff) {
  for (double& e : error) e *= roundoff;
  const auto rms = [](const std::vector<double>& v) {
    return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
  };
  // Of an element the bound is twelve deviations; all together are within four.
  const double norm = expected.empty() ? 0 : rms(error) / 3 / rms(expected);
  return agrees(actual, expected, Bound{.norm = norm, .each = std::move(error)});
}

class CudaFormOf : public CudaForm, public ::testing::WithParamInterface<Case> {};

TEST_P(CudaFormOf, FieldsAreThoseOfTheCpu) {
  const Model& model = GetParam().model;
  const unsigned wanted = all_of(model.output());
  for (const bool one_time : {false, true}) {
    const Problem p = problem_of(model, 19, one_time);
    const FieldNumbers expected = fields_on<double>(cpu(), model, p, wanted), size = errors(model, p);
    const auto check = [&](const FieldNumbers& actual, double unit) {
      EXPECT_TRUE(within(actual.value, expected.value, size.value, unit)) << "value";
      EXPECT_TRUE(within(actual.dt, expected.dt, size.dt, unit)) << "dt";
      EXPECT_TRUE(within(actual.score, expected.score, size.score, unit)) << "score";
      EXPECT_TRUE(within(actual.divergence, expected.divergence, size.divergence, unit)) << "divergence";
      EXPECT_TRUE(within(actual.hessian, expected.hessian, size.hessian, unit)) << "Hessian";
      EXPECT_TRUE(within(actual.product, expected.product, size.product, unit)) << "Hessian times vector";
      if (model.output() == Output::potential) {
        // The CPU's own is of its other fields, and has their roundings.
        std::vector<double> terms = size.residual;
        const SdeFormulas sde = model.sde.formulas();
        for (std::size_t i = 0; i < terms.size(); ++i) {
          const auto at = sde.at(p.time(static_cast<std::int64_t>(i)));
          double of_fields = size.dt[i] + at.diffusion_squared / 2 * size.divergence[i];
          for (std::int64_t k = 0; k < p.d; ++k) {
            const double s = size.score[i * p.d + k];
            of_fields += (std::fabs(at.drift * p.x[i * p.d + k]) +
                          at.diffusion_squared * std::fabs(expected.score[i * p.d + k])) *
                         s;
          }
          terms[i] = std::max(terms[i], of_fields * 0x1p-53 / unit);
        }
        EXPECT_TRUE(within(actual.residual, expected.residual, terms, unit)) << "residual";
      }
    };
    check(fields_on<double>(on(Precision::split), model, p, wanted), 0x1p-53);
    for (const Precision precision : {Precision::fp32, Precision::split}) {
      SCOPED_TRACE(to_string(precision));
      check(fields_on<float>(on(precision), model, p, wanted), roundoff_of(precision));
    }
  }
}

// Any one field alone, by Hutchinson's estimate too, has the bits of all together, but for networks whose score alone is
// resident.
TEST_P(CudaFormOf, FieldsAloneAreThoseTogether) {
  const Model& model = GetParam().model;
  const bool one_path = std::get<Mlp>(model.network).architecture.hidden[0] != 100;
  const Context context = on(Precision::fp32);
  const Problem p = problem_of(model, 7);
  for (const int probes : {0, 2}) {
    const Divergence how{.probes = probes, .seed = 3, .first_index = 1000};
    const FieldNumbers all = fields_on<float>(context, model, p, all_of(model.output()), how);
    for (const Quantity q :
         {testing::value, testing::dt, testing::score, testing::divergence, testing::hessian, testing::residual}) {
      if (!(q & all_of(model.output()))) continue;
      const FieldNumbers one = fields_on<float>(context, model, p, q, how);
      for (const auto part : {&Result<double>::value, &Result<double>::dt, &Result<double>::score,
                              &Result<double>::divergence, &Result<double>::hessian, &Result<double>::residual}) {
        if ((one.*part).empty() || !one_path) continue;
        EXPECT_EQ(one.*part, all.*part) << q;
      }
    }
    if (probes == 0) continue;
    const FieldNumbers expected = fields_on<double>(cpu(), model, p, testing::divergence, how),
                       size = errors(model, p, how);
    EXPECT_TRUE(within(all.divergence, expected.divergence, size.divergence, 0x1p-24));
  }
}

// ---- losses ---------------------------------------------------------------------------------------------------------

struct LossNumbers {
  std::vector<double> values, gradient;
};

struct LossProblem {
  Problem denoising, collocation;
  std::vector<double> target, weight;
  Divergence divergence = {};
};

template <class T>
LossNumbers loss_on(const Context& context, const Model& model, const std::vector<double>& parameters,
                    const LossProblem& p, double residual_weight) {
  const std::int64_t d = model.dimension();
  const Loss<T> loss(context, std::get<Mlp>(model.network).architecture, model.sde);
  const Buffer<T> theta = there<T>(context, parameters, 1), t = there<T>(context, p.denoising.t, 1),
                  x = there<T>(context, p.denoising.x, d), target = there<T>(context, p.target, d),
                  weight = there<T>(context, p.weight, 1), ct = there<T>(context, p.collocation.t, 1),
                  cx = there<T>(context, p.collocation.x, d);
  Buffer<double> values(context, 3, 1);
  Buffer<T> gradient(context, static_cast<std::int64_t>(parameters.size()), 1);
  const std::optional<Buffer<T>> condition = p.denoising.conditions_there<T>(context),
                                 of_collocation = p.collocation.conditions_there<T>(context);
  loss.evaluate(theta.view(), {t.view(), x.view(), target.view(), weight.view(), view_of(condition)},
                {ct.view(), cx.view(), view_of(of_collocation), p.divergence}, residual_weight, values.view(),
                gradient.view());
  return {back(context, values), back(context, gradient)};
}

LossProblem loss_problem(const Model& model, std::int64_t n, std::int64_t m) {
  LossProblem p{problem_of(model, n), problem_of(model, m), {}, {}};
  if (model.output() == Output::score)
    p.collocation.t.clear(), p.collocation.x.clear(), p.collocation.condition.clear();
  std::mt19937_64 random(4);
  for (std::size_t k = 0; k < p.denoising.x.size(); ++k) {
    p.target.push_back(static_cast<float>(std::uniform_real_distribution<double>(-1, 1)(random)));
  }
  for (std::size_t k = 0; k < p.denoising.t.size(); ++k) {
    p.weight.push_back(static_cast<float>(std::uniform_real_distribution<double>(0.2, 3)(random)));
  }
  return p;
}

double norm_of(const std::vector<double>& v) {
  return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
}

// The CPU's residual goes another way through the network. Measured on the emulation, largest relative errors of values
// and of a gradient's norm: in double 4e-15, in float 3e-6. Beside them stands what a rounding of the times does, which
// fast sines of the time and their derivatives enlarge: the change of a loss in double where all times move by one.
TEST_P(CudaFormOf, LossesAndGradientsAreThoseOfTheCpu) {
  const Model& model = GetParam().model;
  const std::vector<double>& parameters = std::get<Mlp>(model.network).parameters;
  LossProblem p = loss_problem(model, 35, 19);
  for (const int probes : model.output() == Output::potential ? std::vector<int>{0, 2} : std::vector<int>{0}) {
    SCOPED_TRACE(fmt::format("{} probes", probes));
    p.divergence = {.probes = probes, .seed = 3, .first_index = 1000};
    const LossNumbers one = loss_on<double>(cpu(), model, parameters, p, 1);
    const double weight =
        model.output() == Output::score ? 0 : static_cast<float>(one.values[0] / std::fabs(one.values[1]));
    const LossNumbers expected = loss_on<double>(cpu(), model, parameters, p, weight);
    LossProblem moved = p;
    for (Problem* of : {&moved.denoising, &moved.collocation}) {
      for (double& t : of->t) t *= 1 + 0x1p-24;
    }
    const LossNumbers at_moved = loss_on<double>(cpu(), model, parameters, moved, weight);
    const auto check = [&](const LossNumbers& actual, double relative, double roundoff) {
      const double roundings = 4 * roundoff / 0x1p-24;  // of the network's time
      for (int k = 0; k < 3; ++k) {
        const double change = std::fabs(at_moved.values[k] - expected.values[k]);
        // The total is of two terms, of which the one by probes may be below 0.
        const double value = std::fabs(expected.values[k]),
                     terms = k == 2 ? std::fabs(expected.values[0]) + weight * std::fabs(expected.values[1]) : value;
        EXPECT_LE(roundings * change, 1e-4 * terms) << "it would hide what is looked for";
        EXPECT_TRUE(
            agrees(actual.values[k], expected.values[k], relative, roundings * change + relative * (terms - value)))
            << k;
      }
      Bound bound{.of_rms = 8 * relative};
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        bound.each.push_back(roundings * std::fabs(at_moved.gradient[i] - expected.gradient[i]));
      }
      bound.norm = relative + norm_of(bound.each) / norm_of(expected.gradient);
      EXPECT_TRUE(agrees(actual.gradient, expected.gradient, bound));
    };
    check(loss_on<double>(on(Precision::split), model, parameters, p, weight), 1e-13, 0x1p-53);
    for (const Precision precision : {Precision::fp32, Precision::split}) {
      SCOPED_TRACE(to_string(precision));
      check(loss_on<float>(on(precision), model, parameters, p, weight), 1e-5, 0x1p-24);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryForm, CudaFormOf, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// Along a random direction, in double.
TEST_F(CudaForm, GradientsAreThoseOfTheirValues) {
  const Context context = on(Precision::split);
  for (const NetworkForm& form : kForms) {
    for (const Output output : {Output::potential, Output::score}) {
      if (output == Output::potential && is_velocity(form.form)) continue;
      SCOPED_TRACE(fmt::format("{} {}", to_string(form.form), to_string(output)));
      const Model model = model_of(form, SdeKind::subvp, output, 2, {9, 6});
      const std::vector<double>& at = std::get<Mlp>(model.network).parameters;
      const LossProblem p = loss_problem(model, 9, 7);
      const double weight = output == Output::potential ? 0.3 : 0, h = 1e-5;
      const std::vector<double> gradient = loss_on<double>(context, model, at, p, weight).gradient;
      std::mt19937_64 random(3);
      // All parameters together, and those of the output layer, where a seed of Φ enters.
      for (const std::size_t first : {std::size_t{0}, at.size() - (output == Output::potential ? 7u : 14u)}) {
        std::vector<double> up = at, down = at;
        double slope = 0;
        for (std::size_t k = first; k < at.size(); ++k) {
          const double v = std::normal_distribution<double>()(random);
          up[k] += h * v, down[k] -= h * v;
          slope += v * gradient[k];
        }
        const double difference = (loss_on<double>(context, model, up, p, weight).values[2] -
                                   loss_on<double>(context, model, down, p, weight).values[2]) /
                                  (2 * h);
        EXPECT_TRUE(agrees(slope, difference, 1e-7, 1e-7 * norm_of(gradient)));
      }
    }
  }
}

// ---- training -------------------------------------------------------------------------------------------------------

// With the plain form a point is (t, x_t) with the score s* of its kernel: a network in another form is given τ and C x_t,
// and compared with F* where s* = A x_t + B F*, with weight λ B².
TEST_F(CudaForm, PointsOfTrainingAreThoseOfTheScore) {
  const DataSet sets[] = {DataSet::named("circles2"),
                          DataSet::mixture(GaussianMixture::isotropic(5, {1.0}, {0.1, 0.2, -0.3, 0, 1}, {0.2}))};
  const DeviceMemory iteration = cuda::upload(std::vector<std::int64_t>{7});
  for (const DataSet& set : sets) {
    const cuda::DeviceData data(set);
    const std::int64_t n = 99, d = set.dimension();
    for (const SdeKind kind : {SdeKind::vp_linear, SdeKind::edm, SdeKind::flow, SdeKind::ddpm}) {
      const ForwardSde sde = ForwardSde::defaults(kind);
      const cuda::DeviceSde on_device(sde);
      const auto draw = [&](const NetworkForm& form, LossWeight weight) {
        const kernels::TrainingDraw of{.data = data.source(),
                                       .sde = on_device.formulas(),
                                       .time = {TimeLaw::uniform, static_cast<float>(sde.t_min()),
                                                static_cast<float>(0.95 * sde.horizon()), 0, nullptr},
                                       .seed = 5,
                                       .iteration = iteration.as<std::int64_t>(),
                                       .denoising_points = n,
                                       .collocation_points = 0,
                                       .box = 3,
                                       .loss_weight = weight};
        const DeviceMemory t(n * 4), x(n * d * 4), target(n * d * 4), weights(n * 4);
        cuda::check(kernels::launch_denoising_points(of, form, 0, n, t.as<float>(), x.as<float>(), target.as<float>(),
                                                     weights.as<float>(), nullptr),
                    "launch_denoising_points");
        cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        std::vector<std::vector<double>> points;
        for (const DeviceMemory* memory : {&t, &x, &target, &weights}) {
          const std::vector<float> v = testing::download<float>(*memory);
          points.emplace_back(v.begin(), v.end());
        }
        return points;
      };
      const auto plain = draw({}, LossWeight::unit);
      EXPECT_EQ(draw({}, LossWeight::score), plain);
      for (const NetworkForm& form : kForms) {
        for (const LossWeight law : {LossWeight::unit, LossWeight::score, LossWeight::variance}) {
          SCOPED_TRACE(fmt::format("{} {} {}", sde.name(), to_string(form.form), to_string(law)));
          const auto points = draw(form, law);
          std::vector<double> t, x, target, weight, each;
          for (std::int64_t i = 0; i < n; ++i) {
            const double variance = sde.at(plain[0][i]).variance;
            const FormCoefficients<double> c = form_at(form, sde.formulas(), plain[0][i]);
            t.push_back(c.time);
            weight.push_back(law == LossWeight::unit    ? 1
                             : law == LossWeight::score ? c.out * c.out
                                                        : variance * c.out * c.out);
            for (std::int64_t k = i * d; k < (i + 1) * d; ++k) {
              x.push_back(c.in * plain[1][k]);
              target.push_back((plain[2][k] - c.skip * plain[1][k]) / c.out);
              each.push_back(2e-6 * (std::fabs(plain[2][k]) + std::fabs(c.skip * plain[1][k])) / std::fabs(c.out) +
                             2e-6);
            }
          }
          EXPECT_TRUE(agrees(points[0], t, Bound{.relative = 2e-6, .of_rms = 1e-6, .norm = 1e-6}));
          EXPECT_TRUE(agrees(points[1], x, Bound{.relative = 2e-6, .of_rms = 1e-7, .norm = 1e-6}));
          EXPECT_TRUE(agrees(points[2], target, Bound{.norm = norm_of(each) / norm_of(target), .each = each}));
          EXPECT_TRUE(agrees(points[3], weight, Bound{.relative = 4e-6, .norm = 4e-6}));
        }
      }
    }
  }
}

// Resident and wide, by every law of times and weight: the losses of the first iterations are the CPU's.
TEST_F(CudaForm, TrainsAsTheCpu) {
  struct Recipe {
    NetworkForm form;
    SdeKind sde;
    Output output;
    TimeLaw law;
    LossWeight weight;
    std::vector<std::int64_t> hidden;
    int probes = 0;
  };
  const Recipe recipes[] = {
      {kForms[1], SdeKind::vp_linear, Output::score, TimeLaw::uniform, LossWeight::unit, {12, 9}},
      {kForms[6], SdeKind::edm, Output::potential, TimeLaw::log_normal, LossWeight::unit, {12, 9}},
      {kForms[6], SdeKind::ve, Output::potential, TimeLaw::log_normal, LossWeight::variance, {130, 7}},
      {kForms[3], SdeKind::vp_cosine, Output::potential, TimeLaw::importance, LossWeight::score, {12}},
      {kForms[4], SdeKind::flow, Output::score, TimeLaw::uniform, LossWeight::unit, {130}},
      {{}, SdeKind::subvp, Output::potential, TimeLaw::paper, LossWeight::variance, {12}},
      {kForms[1], SdeKind::ddpm, Output::score, TimeLaw::uniform, LossWeight::unit, {12}},
      {kForms[6], SdeKind::ddpm, Output::potential, TimeLaw::importance, LossWeight::given, {12}},
      {kForms[6], SdeKind::ddpm, Output::potential, TimeLaw::log_normal, LossWeight::variance, {130, 7}},
      {{}, SdeKind::ou, Output::potential, TimeLaw::importance, LossWeight::unit, {12, 9}, 1},
      {kForms[6], SdeKind::ve, Output::potential, TimeLaw::uniform, LossWeight::unit, {130}, 2},
      {kForms[3], SdeKind::vp_linear, Output::score, TimeLaw::uniform, LossWeight::given, {130}}};
  const DataSet data = DataSet::named("circles2");
  for (const Recipe& r : recipes) {
    SCOPED_TRACE(fmt::format("{} {}", to_string(r.form.form), ForwardSde::defaults(r.sde).name()));
    const Model model = model_of(r.form, r.sde, r.output, 2, r.hidden);
    TrainOptions options{.iterations = 3, .denoising_points = 99, .collocation_points = 35};
    options.residual_weight = r.output == Output::potential ? 1e-3 : 0;
    options.residual_probes = r.probes;
    options.time_law = r.law;
    options.loss_weight = r.weight;
    if (r.weight == LossWeight::given) {
      const double horizon = model.sde.horizon();
      options.loss_weights = {{0.1 * horizon, 0.5}, {0.4 * horizon, 2}, {0.45 * horizon, 0}, {0.9 * horizon, 1}};
    }
    options.seed = 8;
    Trainer here(cpu(), model, data, options), gpu(on(Precision::split), model, data, options);
    const std::vector<TrainRecord> expected = here.run(3), actual = gpu.run(3);
    for (std::size_t k = 0; k < 3; ++k) {
      SCOPED_TRACE(k);
      EXPECT_TRUE(agrees(actual[k].denoising, expected[k].denoising, 1e-4));
      EXPECT_TRUE(agrees(actual[k].residual, expected[k].residual, 1e-4));
      EXPECT_TRUE(agrees(actual[k].gradient_norm, expected[k].gradient_norm, 1e-4));
    }
  }
}

// Whatever launches has a table of its own on the device: what becomes of the host's does not matter to it.
TEST_F(CudaForm, TablesOfAnSdeLieOnTheDevice) {
  const auto spoil = [](const ForwardSde& sde) {
    const DdpmSde& of = sde.formulas().ddpm;
    auto* const table = const_cast<DdpmSde::Step*>(of.table);  // of memory that is not const
    std::fill(table, table + of.steps, DdpmSde::Step{std::nan(""), std::nan("")});
  };
  const auto copy = [](Model model) {
    model.sde = ForwardSde::parse(model.sde.name(), model.sde.parameters_json());
    return model;
  };
  std::vector<Model> models;
  for (const std::vector<std::int64_t>& hidden : std::vector<std::vector<std::int64_t>>{{12, 9}, {130, 7}}) {
    for (const NetworkForm& form : {NetworkForm{}, kForms[1]}) {
      models.push_back(model_of(form, SdeKind::ddpm, Output::potential, 2, hidden));
    }
  }
  models.push_back({ForwardSde::ddpm(), GaussianMixture::isotropic(2, {1.0}, {0.5, -0.3}, {0.2})});
  for (const Model& model : models) {
    const bool is_network = std::holds_alternative<Mlp>(model.network);
    SCOPED_TRACE(is_network ? std::get<Mlp>(model.network).architecture.describe() : "mixture");
    const Problem p = problem_of(model, 19);
    const Context context = on(Precision::split);
    const Buffer<float> t = there<float>(context, p.t, 1), x = there<float>(context, p.x, 2);
    const auto residual = [&](const Fields<float>& fields) {
      Buffer<float> out(context, 19);
      FieldOutputs<float> outputs;
      outputs.residual = out.view();
      fields.evaluate({t.view(), x.view()}, outputs);
      return back(context, out);
    };
    Model own = copy(model);
    const Fields<float> whole(context, model), spoilt(context, own);
    const Sampler sampler(context, model, TimeGrid::uniform(1000, 1, 7)),
        spoilt_sampler(context, own, TimeGrid::uniform(1000, 1, 7));
    spoil(own.sde);
    EXPECT_EQ(residual(spoilt), residual(whole));
    Buffer<float> samples(context, 19, 2), spoilt_samples(context, 19, 2);
    sampler.sample(samples.view(), {.seed = 1});
    spoilt_sampler.sample(spoilt_samples.view(), {.seed = 1});
    EXPECT_EQ(back(context, spoilt_samples), back(context, samples));
    if (!is_network) continue;
    const TrainOptions options{
        .iterations = 2, .denoising_points = 99, .collocation_points = 35, .residual_weight = 1e-3};
    const DataSet data = DataSet::named("circles2");
    own = copy(model);
    Trainer trainer(context, model, data, options), spoilt_trainer(context, own, data, options);
    spoil(own.sde);
    testing::expect_same_records(spoilt_trainer.run(2), trainer.run(2));
    const auto values = [&](const ForwardSde& sde, bool spoils) {
      const Mlp& mlp = std::get<Mlp>(model.network);
      const Loss<float> loss(context, mlp.architecture, sde);
      if (spoils) spoil(sde);
      const Buffer<float> parameters = there<float>(context, mlp.parameters, 1);
      Buffer<double> to(context, 3);
      loss.evaluate(parameters.view(), {t.view(), x.view(), x.view(), {}}, {t.view(), x.view()}, 1, to.view(), {});
      return back(context, to);
    };
    EXPECT_EQ(values(copy(model).sde, true), values(model.sde, false));
  }
}

// Models share the launches of an iteration where their forms are the same.
TEST_F(CudaForm, IsAPartOfAShape) {
  const cuda::Queue on_device = testing::queue(Precision::split);
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const auto loss = [&](const NetworkForm& form) {
    Architecture a = testing::architecture_of(2, {9}, Activation::tanh, 1, Output::potential);
    a.form = form;
    return cuda::make_resident_loss(on_device, a, sde);
  };
  EXPECT_TRUE(loss(kForms[1])->shares_launches_with(*loss(kForms[1])));
  EXPECT_FALSE(loss(kForms[1])->shares_launches_with(*loss({})));
  EXPECT_FALSE(loss(kForms[1])->shares_launches_with(*loss(kForms[2])));
}

// ---- graphs and memory ----------------------------------------------------------------------------------------------

// The first call of a resident network may be captured, and the workspace does not grow with the points.
TEST_F(CudaForm, FieldsAreCaptured) {
  const Model model = model_of(kForms[6], SdeKind::edm, Output::potential, 2, {12, 9});
  const Problem p = problem_of(model, 600);
  const FieldNumbers expected = fields_on<float>(on(Precision::split), model, p, testing::residual);
  cudaStream_t stream = nullptr;
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  {
    const Context context({.backend = BackendKind::cuda, .stream = stream});
    const Fields<float> fields(context, model);
    EXPECT_GT(fields.workspace_bytes(), 0u);
    EXPECT_LE(fields.workspace_bytes(), std::size_t{8} << 20);
    const Buffer<float> t = there<float>(context, p.t, 1), x = there<float>(context, p.x, 2);
    Buffer<float> residual(context, 600);
    FieldOutputs<float> out;
    out.residual = residual.view();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    fields.evaluate({t.view(), x.view()}, out);
    cuda::check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    cuda::check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    cuda::check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
    EXPECT_EQ(back(context, residual), expected.residual);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace fokker
