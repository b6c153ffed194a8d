// Weighted sums of models: every field against sums of the plain references in double, paths against the same steps in
// double or against the model that the sum is, likelihoods against direct formulas with inverse matrices in long double;
// files and refusals. On the CPU, and on the emulation with CUDA.
#include "fokker/composition.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fields_reference.hpp"
#include "fokker/diagnostics/radial_slopes.hpp"
#include "fokker/fokker.hpp"
#include "reference_mixture.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using namespace fokker::testing;
using ::testing::HasSubstr;
using Index = std::int64_t;
using Numbers = std::vector<double>;

const Context& context() {
  static const Context instance({.backend = backend_under_test, .precision = Precision::fp32});
  return instance;
}

// All fields that `wanted` names, on the context, and the Hessian times `direction`.
template <class T>
Result<T> fields_of(const Model& model, const Problem& p, unsigned wanted, const Divergence& how = {},
                    std::vector<T>* product = nullptr) {
  const Index d = p.d, n = p.n();
  const Buffer<T> t = on(context(), as<T>(p.t)), x = on(context(), as<T>(p.x), d);
  Buffer<T> v(context(), n), dv(context(), n), s(context(), n, d), div(context(), n), h(context(), n, d * d),
      r(context(), n);
  FieldOutputs<T> out;
  if (wanted & value) out.value = v.view();
  if (wanted & dt) out.dt = dv.view();
  if (wanted & score) out.score = s.view();
  if (wanted & divergence) out.divergence = div.view();
  if (wanted & hessian) out.hessian = h.view();
  if (wanted & residual) out.residual = r.view();
  const Fields<T> fields(context(), model);
  fields.evaluate({t.view(), x.view()}, out, how);
  Result<T> result;
  if (wanted & value) result.value = from(context(), v);
  if (wanted & dt) result.dt = from(context(), dv);
  if (wanted & score) result.score = from(context(), s);
  if (wanted & divergence) result.divergence = from(context(), div);
  if (wanted & hessian) result.hessian = from(context(), h);
  if (wanted & residual) result.residual = from(context(), r);
  if (product) {
    const Buffer<T> direction = on(context(), as<T>(p.direction), d);
    Buffer<T> along(context(), n, d);
    fields.hessian_vector({t.view(), x.view()}, direction.view(), along.view());
    *product = from(context(), along);
  }
  return result;
}

// ---- fields -----------------------------------------------------------------------------------------------------

struct WeightedFields {
  double weight;
  Expected fields, deviations;  // of the term: what it is, and how far one unit of rounding moves it
};

// What the sum is and how far rounding moves it: as far as its terms and two roundings of each, or more.
void expect_sum(const std::vector<WeightedFields>& terms, const Problem& p, const ForwardSde& sde, bool potential,
                const std::function<void(const char*, const Numbers&, const Numbers&)>& compare) {
  const auto add = [&](Numbers Expected::*q) {
    std::pair<Numbers, Numbers> sum;
    for (const auto& [w, fields, deviations] : terms) {
      sum.first.resize((fields.*q).size()), sum.second.resize((fields.*q).size());
      for (std::size_t i = 0; i < sum.first.size(); ++i) {
        sum.first[i] += w * (fields.*q)[i];
        sum.second[i] += std::fabs(w) * ((deviations.*q)[i] + std::fabs((fields.*q)[i]));
      }
    }
    return sum;
  };
  const auto [s, s_error] = add(&Expected::score);
  const auto [trace, trace_error] = add(&Expected::divergence);
  const auto [h, h_error] = add(&Expected::hessian);
  const auto [product, product_error] = add(&Expected::product);
  compare("score", s, s_error);
  compare("divergence", trace, trace_error);
  compare("hessian", h, h_error);
  compare("product", product, product_error);
  if (!potential) return;
  const auto [v, v_error] = add(&Expected::value);
  const auto [rate, rate_error] = add(&Expected::dt);
  compare("value", v, v_error);
  compare("dt", rate, rate_error);
  const ReferenceSde c = reference_sde(sde);
  Numbers r, r_error;
  for (Index i = 0; i < p.n(); ++i) {
    const double a = c.drift(p.time(i)), half = c.diffusion_squared(p.time(i)) / 2;
    double sum = rate[i] + a * double(p.d) - half * trace[i];
    double error = rate_error[i] + std::fabs(a * double(p.d)) + half * trace_error[i];
    for (Index k = i * p.d; k < (i + 1) * p.d; ++k) {
      sum += a * p.x[k] * s[k] - half * s[k] * s[k];
      error += (std::fabs(a * p.x[k]) + 2 * half * std::fabs(s[k])) * (s_error[k] + std::fabs(s[k]));
    }
    r.push_back(sum), r_error.push_back(error);
  }
  compare("residual", r, r_error);
}

template <class T>
void expect_sum_of_networks(const std::vector<Term>& terms, const Problem& p) {
  const Model model = compose(terms);
  std::vector<T> product;
  const bool potential = model.output() == Output::potential;
  const Result<T> actual = fields_of<T>(model, p, all_of(model.output()), {}, &product);
  std::vector<WeightedFields> fields;
  for (const auto& [weight, term] : terms) fields.push_back({weight, reference(term, p), rounding_deviations(term, p)});
  expect_sum(fields, p, model.sde, potential,
             [&](const std::string& name, const Numbers& expected, const Numbers& deviations) {
               const std::vector<T>& found = name == "score"        ? actual.score
                                             : name == "divergence" ? actual.divergence
                                             : name == "hessian"    ? actual.hessian
                                             : name == "product"    ? product
                                             : name == "value"      ? actual.value
                                             : name == "dt"         ? actual.dt
                                                                    : actual.residual;
               const Sides sides = sizeof(T) == sizeof(double) ? both_sides : one_side;
               EXPECT_TRUE(agrees(found, expected, rounding<T>(deviations, p.n(), expected, sides))) << name;
             });
}

Model network(Index d, std::vector<Index> hidden, Output output, std::uint64_t seed, SdeKind sde = SdeKind::vp_linear) {
  return model_of(architecture_of(d, std::move(hidden), Activation::silu, 1, output), sde, seed);
}

TEST(Composition, FieldsAreSumsOfThoseOfItsNetworks) {
  const Output phi = Output::potential, s = Output::score;
  for (const SdeKind sde : {SdeKind::vp_linear, SdeKind::ou}) {
    const std::vector<std::vector<Term>> all{
        {{1.75, network(2, {13, 8}, phi, 1, sde)}, {-0.75, network(2, {7}, phi, 2, sde)}},
        {{0.5, network(3, {16, 16}, phi, 3, sde)},
         {2, network(3, {130, 9}, phi, 4, sde)},
         {-1, network(3, {5}, phi, 5, sde)}},
        {{-0.25, network(1, {9, 4}, s, 6, sde)}, {1, network(1, {6}, s, 7, sde)}},
        {{3, network(2, {9, 4}, s, 8, sde)}, {1, network(2, {12, 6}, phi, 9, sde)}},
        {{-2, network(2, {11, 3}, phi, 10, sde)}}};
    for (const std::vector<Term>& terms : all) {
      for (const Index n : {Index(1), Index(19)}) {
        SCOPED_TRACE(fmt::format("{} terms in {}d, {} points", terms.size(), terms[0].model.dimension(), n));
        const Problem p = make_problem(terms[0].model.dimension(), terms[0].model.sde, n, n == 1, 17);
        expect_sum_of_networks<float>(terms, p);
        expect_sum_of_networks<double>(terms, p);
      }
    }
  }
}

TEST(Composition, OfGaussiansIsTheProductOfTheirDensities) {
  for (const ForwardSde& sde : all_sdes()) {
    const std::vector<Term> terms{{1, {sde, random_mixture(3, 1, 1)}},
                                  {0.5, {sde, random_mixture(3, 1, 2)}},
                                  {-0.25, {sde, random_mixture(3, 4, 3)}}};
    Problem p = make_problem(3, sde, 7, false, 5);
    for (double& t : p.t) t = static_cast<float>(std::clamp(t, 0.02 * sde.horizon(), 0.97 * sde.horizon()));
    std::vector<WeightedFields> fields;
    for (const auto& [weight, term] : terms) {
      WeightedFields of{weight, {}, {}};
      for (Index i = 0; i < p.n(); ++i) {
        const Reference r = reference(std::get<GaussianMixture>(term.network), sde, p.t[i], &p.x[i * 3]);
        of.fields.value.push_back(double(r.value)), of.fields.dt.push_back(double(r.dt));
        of.fields.divergence.push_back(double(r.laplacian));
        for (const Long v : r.score) of.fields.score.push_back(double(v));
        for (const Long v : r.hessian) of.fields.hessian.push_back(double(v));
        for (Index row = 0; row < 3; ++row) {
          Long sum = 0;
          for (Index k = 0; k < 3; ++k) sum += r.hessian[row * 3 + k] * p.direction[i * 3 + k];
          of.fields.product.push_back(double(sum));
        }
      }
      of.deviations = of.fields;
      for (Numbers* q : quantities(of.deviations)) std::fill(q->begin(), q->end(), 0.0);
      fields.push_back(std::move(of));
    }
    const Model model = compose(terms);
    std::vector<double> product;
    const Result<double> actual = fields_of<double>(model, p, kOfPotential, {}, &product);
    expect_sum(fields, p, sde, true, [&](const std::string& name, const Numbers& expected, const Numbers& sizes) {
      const Numbers& found = name == "score"        ? actual.score
                             : name == "divergence" ? actual.divergence
                             : name == "hessian"    ? actual.hessian
                             : name == "product"    ? product
                             : name == "value"      ? actual.value
                             : name == "dt"         ? actual.dt
                                                    : actual.residual;
      // A mixture is good to 1e-11 of the rms (mixture_test.cpp), and a sum to as much of the sizes of its terms.
      Bound bound{.of_rms = 1e-11, .norm = 1e-11};
      for (const double size : sizes)
        bound.each.push_back(1e-12 * size), bound.absolute += 1e-12 * size / double(sizes.size());
      EXPECT_TRUE(agrees(found, expected, bound)) << name << " under " << sde.name();
    });
  }
}

// Terms are given the same probes, and what is not linear takes the sums.
TEST(Composition, ProbesAreCommonToItsTerms) {
  const std::vector<Term> terms{{1.5, network(3, {13, 8}, Output::potential, 1)},
                                {-0.5, network(3, {7}, Output::potential, 2)},
                                {0.25, {ForwardSde::vp_linear(), random_mixture(3, 2, 3)}}};
  const Model model = compose(terms);
  const Problem p = make_problem(3, model.sde, 19, false, 3);
  for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
    const Divergence how{.probes = 2, .law = law, .seed = 9, .first_index = 1000};
    const auto actual = fields_of<double>(model, p, divergence | residual, how);
    const auto exact = fields_of<double>(model, p, divergence | residual);
    Numbers sum(19), r;
    for (const auto& [weight, term] : terms) {
      const Numbers own = fields_of<double>(term, p, divergence, how).divergence;
      for (std::size_t i = 0; i < own.size(); ++i) sum[i] += weight * own[i];
    }
    const ReferenceSde sde = reference_sde(model.sde);
    for (std::size_t i = 0; i < sum.size(); ++i) {
      r.push_back(exact.residual[i] - sde.diffusion_squared(p.t[i]) / 2 * (sum[i] - exact.divergence[i]));
    }
    EXPECT_TRUE(agrees(actual.divergence, sum, {.of_rms = 1e-13, .norm = 1e-13}));
    EXPECT_TRUE(agrees(actual.residual, r, {.of_rms = 1e-12, .norm = 1e-12}));
    EXPECT_FALSE(agrees(actual.divergence, exact.divergence, {.of_rms = 1e-3, .norm = 1e-3}));
  }
}

// A device adds up as many points at a time as its workspace takes, 8 MiB: those beyond are what they are alone.
TEST(Composition, OfManyPointsIsThatOfEach) {
  const auto law = [](Index d, double mean) {
    return Model{ForwardSde::vp_linear(),
                 GaussianMixture::isotropic(d, {1}, Numbers(static_cast<std::size_t>(d), mean), {0.5})};
  };
  const auto expect_same = [&](Index d, Index n, Index alone, unsigned wanted) {
    const Model model = compose({{1.5, law(d, 0.25)}, {-0.75, law(d, -1)}, {0.5, law(d, 0)}});
    const Problem all = make_problem(d, model.sde, n, false, 3);
    Problem last{d, {all.t.end() - alone, all.t.end()}, {all.x.end() - alone * d, all.x.end()}, {}};
    last.direction.assign(all.direction.end() - alone * d, all.direction.end());
    Divergence how{.probes = 1, .seed = 5, .first_index = 100};
    std::vector<float> product, product_alone;
    const bool along = wanted == hessian;
    const Result<float> of_all = fields_of<float>(model, all, wanted, how, along ? &product : nullptr);
    how.first_index += static_cast<std::uint64_t>(n - alone);
    const Result<float> of_last = fields_of<float>(model, last, wanted, how, along ? &product_alone : nullptr);
    const auto expect = [&](const std::vector<float>& many, const std::vector<float>& few) {
      EXPECT_TRUE(std::equal(few.begin(), few.end(), many.end() - std::ssize(few)));
    };
    expect(of_all.score, of_last.score), expect(of_all.divergence, of_last.divergence);
    expect(of_all.hessian, of_last.hessian), expect(product, product_alone);
  };
  const Index share = backend_under_test == BackendKind::cpu ? 10 : 1;  // a host's blocks are small
  expect_same(512, 4200 / share, 40, score | divergence);
  expect_same(64, 530 / share, 9, hessian);
}

Model formed(const std::string& output, const std::string& inputs, SdeKind sde, std::uint64_t seed, Index d = 2) {
  Architecture a = architecture_of(d, {9, 7}, Activation::tanh, 1, Output::score);
  Architecture plain = a;
  const NetworkOutput kind = parse_output(output);
  a.output = plain.output = kind.output, a.form.form = kind.form, a.form.data_deviation = 0.7;
  parse_inputs(inputs, a.form);
  Mlp mlp = Mlp::initialise(plain, seed);
  for (double& v : mlp.parameters) v = static_cast<float>(v);
  mlp.architecture = a;
  return {ForwardSde::defaults(sde), mlp};
}

struct Forms {
  const char* name;
  std::vector<Term> terms;
  bool folded;
};
// Sums in a form that is all terms', and sums of scores: of several forms, or with weights that do not add up to 1.
std::vector<Forms> forms() {
  const SdeKind flow = SdeKind::flow, vp = SdeKind::vp_linear, edm = SdeKind::edm;
  const auto noise = [&](std::uint64_t seed) { return formed("noise", "t,x", vp, seed); };
  const auto velocity = [&](std::uint64_t seed) { return formed("velocity", "t,x", flow, seed); };
  const auto potential = [&](std::uint64_t seed) { return formed("potential:edm", "0.25*log-sigma,x", edm, seed, 3); };
  return {{"noise", {{1.3, noise(1)}, {-0.3, noise(2)}}, true},
          {"velocity", {{2.5, velocity(3)}, {-1.5, velocity(4)}}, true},
          {"potential", {{0.4, potential(5)}, {0.6, potential(6)}}, true},
          {"more_than_one", {{1, noise(1)}, {0.5, noise(2)}}, false},
          {"potentials", {{1, potential(5)}, {-0.5, potential(6)}}, false},
          {"two_forms", {{1.5, noise(1)}, {-0.5, formed("v", "t,x", vp, 7)}}, false},
          {"two_times", {{1.5, noise(1)}, {-0.5, formed("noise", "1000*t,x", vp, 7)}}, false},
          {"with_mixture", {{1, velocity(3)}, {1, {ForwardSde::flow(), random_mixture(2, 2, 3)}}}, false}};
}

class CompositionOf : public ::testing::TestWithParam<Forms> {};
INSTANTIATE_TEST_SUITE_P(Forms, CompositionOf, ::testing::ValuesIn(forms()),
                         [](const auto& test) { return test.param.name; });

Problem problem_within(const Model& model, Index n, unsigned seed) {
  Problem p = make_problem(model.dimension(), model.sde, n, false, seed);
  const double most = std::min(1.0, model.sde.horizon());
  for (double& t : p.t) t = static_cast<float>(most * (0.15 + 0.7 * t / model.sde.horizon()));
  return p;
}

// The terms' own fields are held to the meaning of their outputs in form_test.cpp.
TEST_P(CompositionOf, FieldsAreSumsOfTheTerms) {
  const auto& [name, terms, folded] = GetParam();
  const Model model = compose(terms);
  EXPECT_EQ(model.form() == NetworkForm{}, !folded);
  const Problem p = problem_within(model, 19, 3);
  const bool potential = model.output() == Output::potential;
  std::vector<WeightedFields> fields;
  for (const auto& [weight, term] : terms) {
    WeightedFields of{weight, {}, {}};
    static_cast<Result<double>&>(of.fields) = fields_of<double>(term, p, all_of(term.output()), {}, &of.fields.product);
    of.deviations = of.fields;
    for (Numbers* q : quantities(of.deviations)) {
      for (double& v : *q) v = std::fabs(v);
    }
    fields.push_back(std::move(of));
  }
  std::vector<double> product;
  std::vector<float> product32;
  const Result<double> actual = fields_of<double>(model, p, all_of(model.output()), {}, &product);
  const Result<float> actual32 = fields_of<float>(model, p, all_of(model.output()), {}, &product32);
  expect_sum(fields, p, model.sde, potential, [&](const std::string& q, const Numbers& expected, const Numbers& sizes) {
    const auto of = [&](const auto& r, const auto& along) {
      return q == "score"        ? r.score
             : q == "divergence" ? r.divergence
             : q == "hessian"    ? r.hessian
             : q == "product"    ? along
             : q == "value"      ? r.value
             : q == "dt"         ? r.dt
                                 : r.residual;
    };
    // Networks of two layers lose less than 2^7 units on the way, beside numbers of the size of the terms.
    double squares = 0;
    for (const double size : sizes) squares += size * size / double(sizes.size());
    const double scale = std::sqrt(squares);
    EXPECT_TRUE(agrees(of(actual, product), expected, {.norm = 1e-14, .absolute = 1e-14 * scale})) << q;
    EXPECT_TRUE(agrees(of(actual32, product32), expected, {.norm = 8e-6, .absolute = 8e-6 * scale})) << q;
  });
}

// ---- paths ------------------------------------------------------------------------------------------------------

using ScoreAt = std::function<Numbers(double t, const Numbers& x, Numbers& trace)>;

// The steps of the probability flow in double, and Σ of the divergences of their increments.
Numbers followed(const ForwardSde& sde, Index d, Scheme scheme, const Numbers& times, Numbers x, const ScoreAt& score,
                 Numbers& integral) {
  const ReferenceSde c = reference_sde(sde);
  const int stages = scheme == Scheme::euler ? 1 : scheme == Scheme::heun ? 2 : 4;
  const Numbers nodes = stages == 4 ? Numbers{0, 0.5, 0.5, 1} : Numbers{0, 1};
  const Numbers weights = stages == 1   ? Numbers{1}
                          : stages == 2 ? Numbers{0.5, 0.5}
                                        : Numbers{1 / 6., 1 / 3., 1 / 3., 1 / 6.};
  integral.assign(x.size() / static_cast<std::size_t>(d), 0.0);
  for (std::size_t k = 0; k + 1 < times.size(); ++k) {
    const double step = times[k + 1] - times[k];
    Numbers slope(x.size()), sum(x.size());
    for (int i = 0; i < stages; ++i) {
      const double t = times[k] + nodes[static_cast<std::size_t>(i)] * step, w = weights[static_cast<std::size_t>(i)];
      Numbers at = x, trace;
      for (std::size_t j = 0; j < x.size(); ++j) at[j] += nodes[static_cast<std::size_t>(i)] * slope[j];
      const Numbers s = score(t, at, trace);
      const double a = c.drift(t), half = c.diffusion_squared(t) / 2;
      for (std::size_t j = 0; j < x.size(); ++j) {
        slope[j] = step * (a * at[j] - half * s[j]);
        sum[j] += w * slope[j];
      }
      for (std::size_t q = 0; q < trace.size(); ++q) integral[q] += w * step * (a * double(d) - half * trace[q]);
    }
    for (std::size_t j = 0; j < x.size(); ++j) x[j] += sum[j];
  }
  return x;
}

std::vector<float> start_of(Index n, Index d) {
  std::vector<float> start;
  for (Index i = 0; i < n * d; ++i) start.push_back(0.3f * static_cast<float>(i % 11) - 1.25f);
  return start;
}

void expect_followed(const Model& model, const TimeGrid& grid, const ScoreAt& score) {
  const Index d = model.dimension(), n = 5;
  const std::vector<float> start = start_of(n, d);
  const Sampler sampler(context(), model, grid);
  const double variance = model.sde.prior_variance();
  for (const Scheme scheme : {Scheme::euler, Scheme::heun, Scheme::rk4}) {
    SCOPED_TRACE(to_string(scheme));
    Numbers integral;
    Buffer<float> x = on(context(), start, d);
    sampler.integrate(x.view(), {.scheme = scheme});
    EXPECT_TRUE(agrees(from(context(), x),
                       followed(model.sde, d, scheme, grid.times(), {start.begin(), start.end()}, score, integral),
                       {.of_rms = 2e-5, .norm = 5e-6}));
    Buffer<float> density(context(), n);
    sampler.log_density(on(context(), start, d).view(), density.view(), scheme);
    const Numbers end = followed(model.sde, d, scheme, {grid.times().rbegin(), grid.times().rend()},
                                 {start.begin(), start.end()}, score, integral);
    for (Index i = 0; i < n; ++i) {
      integral[i] -= double(d) / 2 * std::log(2 * std::numbers::pi * variance);
      for (Index k = i * d; k < (i + 1) * d; ++k) integral[i] -= end[k] * end[k] / (2 * variance);
    }
    EXPECT_TRUE(agrees(from(context(), density), integral, {.of_rms = 3e-5, .norm = 1e-5}));
  }
}

TEST_P(CompositionOf, PathsFollowTheSumOfTheScores) {
  std::vector<Term> terms = GetParam().terms;
  constexpr double T = 0.9;
  for (Term& term : terms) term.model.sde = ForwardSde::parse(term.model.sde.name(), R"({"T": 0.9})");
  const Context host({.backend = BackendKind::cpu, .threads = 1});
  std::vector<Fields<double>> fields;
  for (const Term& term : terms) fields.emplace_back(host, term.model);
  const Model model = compose(terms);
  const Index d = model.dimension();
  expect_followed(model, TimeGrid({T, 0.8 * T, 0.55 * T, 0.4 * T}), [&](double t, const Numbers& x, Numbers& trace) {
    const Numbers time{t};
    Numbers sum(x.size()), own(x.size()), own_trace(x.size() / static_cast<std::size_t>(d));
    trace.assign(own_trace.size(), 0.0);
    for (std::size_t k = 0; k < terms.size(); ++k) {
      fields[k].evaluate({View<const double>(time), View<const double>(x, d)},
                         {.score = View<double>(own, d), .divergence = View<double>(own_trace)});
      for (std::size_t i = 0; i < x.size(); ++i) sum[i] += terms[k].weight * own[i];
      for (std::size_t i = 0; i < trace.size(); ++i) trace[i] += terms[k].weight * own_trace[i];
    }
    return sum;
  });
}

// Guidance of velocities reaches the end T = 1 of the interpolation, where scores do not; other sums are refused there.
TEST(Composition, OfVelocitiesGoesFromTheEndOfTheInterpolation) {
  const auto at_one = [](Model model) {
    model.sde = ForwardSde::flow({.horizon = 1});
    return model;
  };
  const Model a = at_one(formed("velocity", "t,x", SdeKind::flow, 1)),
              b = at_one(formed("velocity", "t,x", SdeKind::flow, 2));
  const TimeGrid grid({1, 0.7, 0.4});
  Buffer<float> x = on(context(), start_of(4, 2), 2);
  Sampler(context(), guided(a, b, 3), grid).integrate(x.view(), {.scheme = Scheme::heun});
  // dx/dt is the sum of the networks' outputs: by hand in double.
  const auto net = [](const Model& m, double t, double x0, double x1) {
    const auto& mlp = std::get<Mlp>(m.network);
    const double at[] = {x0, x1};
    const auto out =
        reference_outputs<double>(reference_network(mlp.architecture, mlp.parameters), mlp.parameters, t, at, {});
    return std::array{out[0].value, out[1].value};
  };
  std::vector<double> expected(start_of(4, 2).size());
  const std::vector<float> start = start_of(4, 2);
  for (std::size_t i = 0; i < start.size(); i += 2) {
    std::array<double, 2> at{start[i], start[i + 1]};
    for (std::size_t k = 0; k + 1 < grid.times().size(); ++k) {
      const double t = grid.times()[k], step = grid.times()[k + 1] - t;
      const auto velocity = [&](double time, const std::array<double, 2>& p) {
        const auto u = net(a, time, p[0], p[1]), v = net(b, time, p[0], p[1]);
        return std::array{v[0] + 3 * (u[0] - v[0]), v[1] + 3 * (u[1] - v[1])};
      };
      const auto first = velocity(t, at);
      const auto second = velocity(t + step, {at[0] + step * first[0], at[1] + step * first[1]});
      for (int j = 0; j < 2; ++j) at[j] += step / 2 * (first[j] + second[j]);
    }
    expected[i] = at[0], expected[i + 1] = at[1];
  }
  EXPECT_TRUE(agrees(from(context(), x), expected, {.of_rms = 5e-6, .norm = 2e-6}));

  const Model noise = formed("noise", "t,x", SdeKind::edm, 3), v = formed("denoised", "t,x", SdeKind::edm, 4);
  const Sampler sampler(context(), compose({{1, noise}, {1, v}}), TimeGrid({80, 1, 0}));
  // Samples end at 0 by a step of Euler's, and a density begins there.
  sampler.integrate(x.view(), {.scheme = Scheme::heun});
  for (const float number : from(context(), x)) EXPECT_TRUE(std::isfinite(number));
  Buffer<float> density(context(), x.rows());
  EXPECT_EQ(message_of([&] { sampler.log_density(x.view(), density.view(), Scheme::heun); }),
            "the scheme heun takes the network at t = 0, where a coefficient of its output noise under the SDE edm is "
            "infinite; allowed: a time grid or a horizon that keeps away from it");
}

TEST(Composition, GuidanceIsBetweenAndBeyondTheTwo) {
  const Model with = network(2, {13, 8}, Output::score, 1), without = network(2, {9}, Output::score, 2);
  const Problem p = make_problem(2, with.sde, 7, false, 3);
  const Numbers a = fields_of<double>(with, p, score).score, b = fields_of<double>(without, p, score).score;
  for (const double scale : {0.0, 1.0, 0.5, 4.0}) {
    Numbers expected;
    for (std::size_t i = 0; i < a.size(); ++i) expected.push_back(b[i] + scale * (a[i] - b[i]));
    const Model model = guided(with, without, scale);
    EXPECT_TRUE(agrees(fields_of<double>(model, p, score).score, expected, {.of_rms = 1e-14, .norm = 1e-14})) << scale;
    EXPECT_EQ(std::get<Composition>(model.network).terms.size(), scale == 0 || scale == 1 ? 1u : 2u);
  }
}

TEST(Composition, OfCompositionsIsOne) {
  const Model a = network(2, {5}, Output::potential, 1), b = network(2, {6}, Output::potential, 2);
  const Model inner = compose({{2, a}, {-3, b}}), outer = compose({{0.5, inner}, {0, inner}, {1, b}});
  const std::vector<Term>& terms = std::get<Composition>(outer.network).terms;
  ASSERT_EQ(terms.size(), 3u);
  EXPECT_EQ((Numbers{terms[0].weight, terms[1].weight, terms[2].weight}), (Numbers{1, -1.5, 1}));
  EXPECT_EQ(std::get<Mlp>(terms[1].model.network).parameters, std::get<Mlp>(b.network).parameters);
}

TEST(Composition, HasTheColumnsOfItsTerms) {
  const Standardisation columns{{1000, 0.25}, {2, 0.125}};
  Model a = network(2, {13, 8}, Output::potential, 1), b = network(2, {9}, Output::potential, 2);
  a.standardisation = b.standardisation = columns;
  const Model model = compose({{1.5, a}, {-1, b}});
  EXPECT_EQ(model.standardisation, columns);
  Problem p = make_problem(2, a.sde, 9, false, 3);
  for (std::size_t i = 0; i < p.x.size(); ++i)
    p.x[i] = static_cast<float>(columns.mean[i % 2] + columns.deviation[i % 2] * p.x[i]);
  const unsigned linear = score | divergence | hessian | dt;
  const auto of_a = fields_of<double>(a, p, linear | value), of_b = fields_of<double>(b, p, linear | value),
             whole = fields_of<double>(model, p, linear | value);
  const auto expect = [&](Numbers Result<double>::*q, double volume) {
    Numbers sum;
    for (std::size_t i = 0; i < (of_a.*q).size(); ++i)
      sum.push_back(1.5 * ((of_a.*q)[i] + volume) - ((of_b.*q)[i] + volume) - volume);
    EXPECT_TRUE(agrees(whole.*q, sum, {.of_rms = 1e-13, .norm = 1e-13}));
  };
  expect(&Result<double>::score, 0), expect(&Result<double>::divergence, 0), expect(&Result<double>::hessian, 0);
  expect(&Result<double>::dt, 0), expect(&Result<double>::value, std::log(2 * 0.125));

  b.standardisation = {};
  EXPECT_EQ(message_of([&] {
              compose({{1, a}, {1, b}});
            }),
            "term 1 of a composition has another standardisation than the first; allowed: the same of all");
}

// ---- likelihoods ------------------------------------------------------------------------------------------------

struct Matrix {
  std::size_t rows, columns;
  std::vector<Long> m;
  Matrix(std::size_t r, std::size_t c) : rows(r), columns(c), m(r * c, 0) {}
  template <class Vector>
  Matrix(std::size_t r, std::size_t c, const Vector& v) : rows(r), columns(c), m(v.begin(), v.end()) {}
  static Matrix identity(std::size_t n, Long scale = 1) {
    Matrix i(n, n);
    for (std::size_t k = 0; k < n; ++k) i(k, k) = scale;
    return i;
  }
  Long& operator()(std::size_t i, std::size_t j) { return m[i * columns + j]; }
  Long operator()(std::size_t i, std::size_t j) const { return m[i * columns + j]; }
  friend Matrix operator*(const Matrix& a, const Matrix& b) {
    Matrix c(a.rows, b.columns);
    for (std::size_t i = 0; i < a.rows; ++i) {
      for (std::size_t l = 0; l < a.columns; ++l) {
        for (std::size_t j = 0; j < b.columns; ++j) c(i, j) += a(i, l) * b(l, j);
      }
    }
    return c;
  }
  friend Matrix operator*(Long s, Matrix a) {
    for (Long& v : a.m) v *= s;
    return a;
  }
  friend Matrix operator+(Matrix a, const Matrix& b) {
    for (std::size_t i = 0; i < a.m.size(); ++i) a.m[i] += b.m[i];
    return a;
  }
  friend Matrix operator-(const Matrix& a, const Matrix& b) { return a + Long(-1) * b; }
  Matrix transposed() const {
    Matrix t(columns, rows);
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; j < columns; ++j) t(j, i) = (*this)(i, j);
    }
    return t;
  }
  // By Gauss and Jordan, with pivots; and the logarithm of the determinant's size.
  Matrix inverse(Long* log_determinant = nullptr) const {
    Matrix a = *this, b = identity(rows);
    Long log = 0;
    for (std::size_t c = 0; c < rows; ++c) {
      std::size_t pivot = c;
      for (std::size_t r = c; r < rows; ++r) {
        if (std::fabs(a(r, c)) > std::fabs(a(pivot, c))) pivot = r;
      }
      for (std::size_t j = 0; j < rows; ++j) std::swap(a(c, j), a(pivot, j)), std::swap(b(c, j), b(pivot, j));
      log += std::log(std::fabs(a(c, c)));
      const Long scale = 1 / a(c, c);
      for (std::size_t j = 0; j < rows; ++j) a(c, j) *= scale, b(c, j) *= scale;
      for (std::size_t r = 0; r < rows; ++r) {
        const Long factor = a(r, c);
        for (std::size_t j = 0; j < rows && r != c; ++j) a(r, j) -= factor * a(c, j), b(r, j) -= factor * b(c, j);
      }
    }
    if (log_determinant) *log_determinant = log;
    return b;
  }
};

Long log_normal(const Matrix& difference, const Matrix& covariance) {
  Long log_determinant = 0;
  const Matrix inverse = covariance.inverse(&log_determinant);
  return -((difference.transposed() * inverse * difference)(0, 0) + log_determinant +
           Long(difference.rows) * std::log(2 * std::numbers::pi_v<Long>)) /
         2;
}

Matrix noise_of(const AffineObservation& o) {
  const std::size_t k = o.observation.size();
  if (o.covariance.size() == k * k) return Matrix(k, k, o.covariance);
  Matrix noise(k, k);
  for (std::size_t i = 0; i < k; ++i) noise(i, i) = o.covariance[i];
  return noise;
}
// y − b − H x.
Matrix misfit(const AffineObservation& o, const Matrix& x) {
  const std::size_t k = o.observation.size();
  Matrix r = Matrix(k, 1, o.observation) - Matrix(k, x.rows, o.matrix) * x;
  for (std::size_t i = 0; i < o.offset.size(); ++i) r(i, 0) -= o.offset[i];
  return r;
}

// log p(y | x_t), component by component of x_0, where x_t = center + m (x_0 − center) + σ D ε.
Long log_likelihood(const GaussianMixture& prior, const AffineObservation& o, const ForwardSde& sde, Long t,
                    const std::vector<Long>& at, const Standardisation& columns = {}) {
  const auto d = static_cast<std::size_t>(prior.dimension()), k = o.observation.size();
  const auto [m, variance] = kernel(sde, t);
  const Matrix h(k, d, o.matrix), x(d, 1, at);
  Matrix center(d, 1), added = Matrix::identity(d, variance);
  for (std::size_t i = 0; i < columns.mean.size(); ++i) {
    center(i, 0) = columns.mean[i], added(i, i) *= Long(columns.deviation[i]) * columns.deviation[i];
  }
  std::vector<Long> joint, marginal;
  for (Index c = 0; c < prior.components(); ++c) {
    const Matrix mean(d, 1, std::vector<double>(&prior.means()[c * d], &prior.means()[c * d] + d));
    const Matrix covariance(
        d, d, std::vector<double>(&prior.covariances()[c * d * d], &prior.covariances()[c * d * d] + d * d));
    const Matrix difference = x - center - m * (mean - center), spread = m * m * covariance + added;
    const Matrix gain = m * covariance * spread.inverse();
    marginal.push_back(std::log(Long(prior.weights()[c])) + log_normal(difference, spread));
    joint.push_back(marginal.back() +
                    log_normal(misfit(o, mean + gain * difference),
                               noise_of(o) + h * (covariance - m * gain * covariance) * h.transposed()));
  }
  const auto total = [](const std::vector<Long>& logs) {
    const Long largest = *std::max_element(logs.begin(), logs.end());
    Long sum = 0;
    for (const Long l : logs) sum += std::exp(l - largest);
    return largest + std::log(sum);
  };
  return total(joint) - total(marginal);
}

struct Observed {
  const char* name;
  GaussianMixture prior;
  AffineObservation o;
};
std::vector<Observed> observations() {
  const GaussianMixture normal = GaussianMixture::isotropic(2, {1}, {0, 0}, {1});
  return {{"one_of_two", normal, {{1, -0.5}, {0.25}, {0.04}, {0.7}}},
          {"both", random_mixture(2, 1, 4), {{1, 0.5, -0.25, 2}, {}, {0.04, 0.01, 0.01, 0.09}, {0.7, -0.3}}},
          {"more_than_there_are",
           random_mixture(2, 1, 5),
           {{1, 0.5, -0.25, 2, 1, 1, 0, 3, 2, 0}, {1, 0, 0, 0, -1}, {0.3, 0.2, 0.5, 1, 0.7}, {0.7, -0.3, 0.5, 1, 2}}},
          {"of_a_mixture", random_mixture(3, 4, 6), {{1, 0.5, -1, 0, 2, 1}, {0.5, 0}, {0.2, 0.1}, {0.4, -0.8}}},
          {"of_a_singular_law",
           GaussianMixture(3, {1}, {0, 1, 2}, {1, 1, 0, 1, 1, 0, 0, 0, 0.5}),
           {{0, 1, 1}, {}, {0.1}, {1.5}}}};
}

TEST(Conditioned, IsBayesRuleInEveryComponent) {
  for (const auto& [name, prior, o] : observations()) {
    SCOPED_TRACE(name);
    const auto d = static_cast<std::size_t>(prior.dimension()), k = o.observation.size();
    const GaussianMixture actual = conditioned(prior, o);
    ASSERT_EQ(actual.components(), prior.components());
    const Matrix h(k, d, o.matrix);
    std::vector<Long> weights, means, covariances;
    Long sum = 0;
    for (Index c = 0; c < prior.components(); ++c) {
      const Matrix mean(d, 1, std::vector<double>(&prior.means()[c * d], &prior.means()[c * d] + d));
      // The formula with C⁻¹ of the header; a singular law stands beside one that is a little less so.
      Matrix before(d, d,
                    std::vector<double>(&prior.covariances()[c * d * d], &prior.covariances()[c * d * d] + d * d));
      before = before + Matrix::identity(d, 1e-13L);
      const Matrix after = (before.inverse() + h.transposed() * noise_of(o).inverse() * h).inverse();
      const Matrix moved = mean + after * h.transposed() * noise_of(o).inverse() * misfit(o, mean);
      means.insert(means.end(), moved.m.begin(), moved.m.end());
      covariances.insert(covariances.end(), after.m.begin(), after.m.end());
      weights.push_back(prior.weights()[c] *
                        std::exp(log_normal(misfit(o, mean), noise_of(o) + h * before * h.transposed())));
      sum += weights.back();
    }
    for (Long& w : weights) w /= sum;
    const Bound bound{.of_rms = 1e-11, .norm = 1e-11};
    EXPECT_TRUE(agrees(actual.weights(), weights, bound));
    EXPECT_TRUE(agrees(actual.means(), means, bound));
    EXPECT_TRUE(agrees(actual.covariances(), covariances, bound));
  }
}

TEST(Conditioned, LeavesOutWhatTheObservationRulesOut) {
  const GaussianMixture prior = GaussianMixture::isotropic(1, {1, 1, 1}, {-1, 0, 100}, {0.01, 0.01, 0.01});
  const GaussianMixture law = conditioned(prior, {{1}, {}, {0.01}, {0.0}});
  EXPECT_EQ(law.components(), 2);
  EXPECT_EQ(conditioned(prior, {{1}, {}, {0.01}, {99.0}}).components(), 1);
}

// Differences of the direct formula: of the six-point rule, whose error is about 1e-12 in long double, and of it twice.
template <class Function>
Long difference(const Function& f, std::vector<Long> x, std::size_t i, Long h) {
  const Long at = x[i];
  const auto moved = [&](int k) {
    x[i] = at + k * h;
    return f(x);
  };
  return (45 * (moved(1) - moved(-1)) - 9 * (moved(2) - moved(-2)) + (moved(3) - moved(-3))) / (60 * h);
}

void expect_likelihood(const Model& model, const Observed& c, const Problem& p, const Standardisation& columns) {
  const auto d = static_cast<std::size_t>(p.d);
  const auto actual = fields_of<double>(model, p, kOfPotential);
  std::vector<Long> values, rates, scores, traces, hessians;
  Long constant = 0;
  for (Index i = 0; i < p.n(); ++i) {
    const std::vector<Long> x(&p.x[i * p.d], &p.x[i * p.d] + p.d);
    const Long t = p.time(i);
    const auto at = [&](const std::vector<Long>& place) {
      return log_likelihood(c.prior, c.o, model.sde, t, place, columns);
    };
    const auto step = [&](std::size_t k, Long h) { return columns.empty() ? h : h * Long(columns.deviation[k]); };
    values.push_back(at(x));
    if (i == 0) constant = values[0] - actual.value[0];  // log p(y)
    values.back() -= constant;
    rates.push_back(difference(
        [&](const std::vector<Long>& u) { return log_likelihood(c.prior, c.o, model.sde, u[0], x, columns); }, {t}, 0,
        1e-3L * t));
    traces.push_back(0);
    for (std::size_t k = 0; k < d; ++k) {
      scores.push_back(difference(at, x, k, step(k, 2e-3L)));
      for (std::size_t l = 0; l < d; ++l) {
        hessians.push_back(difference([&](const std::vector<Long>& u) { return difference(at, u, k, step(k, 4e-3L)); },
                                      x, l, step(l, 4e-3L)));
        if (l == k) traces.back() += hessians.back();
      }
    }
  }
  const Bound bound{.of_rms = 1e-9, .norm = 1e-9};
  EXPECT_TRUE(agrees(actual.value, values, bound));
  EXPECT_TRUE(agrees(actual.score, scores, bound));
  EXPECT_TRUE(agrees(actual.dt, rates, bound));
  EXPECT_TRUE(agrees(actual.hessian, hessians, {.of_rms = 1e-8, .norm = 1e-8}));
  EXPECT_TRUE(agrees(actual.divergence, traces, {.of_rms = 1e-8, .norm = 1e-8}));
}

TEST(Likelihood, IsTheDirectFormula) {
  for (const Observed& c : observations()) {
    for (const ForwardSde& sde : {ForwardSde::vp_linear(), ForwardSde::flow(), ForwardSde::ve({.sigma_max = 5})}) {
      SCOPED_TRACE(fmt::format("{} under {}", c.name, sde.name()));
      const Model model = gaussian_likelihood(sde, c.prior, c.o);
      EXPECT_EQ(model.output(), Output::potential);
      Problem p = make_problem(c.prior.dimension(), sde, 5, false, 3);
      for (double& t : p.t) t = static_cast<float>(0.2 + 0.6 * t);
      expect_likelihood(model, c, p, {});
    }
  }
}

TEST(Likelihood, OfAModelWithColumnsIsInTheUnitsOfTheData) {
  const Standardisation columns{{5, -0.5}, {2, 0.25}};
  const Observed c{"columns", GaussianMixture(2, {1}, {4, -0.4}, {4, 0.2, 0.2, 0.09}), {{0.5, 3}, {1}, {0.04}, {2}}};
  const Model model = gaussian_likelihood(ForwardSde::vp_linear(), c.prior, c.o, columns);
  EXPECT_EQ(model.standardisation, columns);
  Problem p = make_problem(2, model.sde, 5, false, 3);
  for (double& t : p.t) t = static_cast<float>(0.2 + 0.6 * t);
  for (std::size_t i = 0; i < p.x.size(); ++i)
    p.x[i] = static_cast<float>(columns.mean[i % 2] + columns.deviation[i % 2] * p.x[i]);
  expect_likelihood(model, c, p, columns);
}

// N(y; H x/m + b, Γ + (σ/m)² H Hᵀ) in the limit: with τ = 1000 to some (σ² + Γ)/τ², and rounding of τ² in the law's matrix.
TEST(Likelihood, UnderABroadPriorIsThatOfAFlatOne) {
  const AffineObservation o{{1, -0.5, 2}, {0.25}, {0.04}, {0.7}};
  const ForwardSde sde = ForwardSde::vp_linear();
  const Model model = gaussian_likelihood(sde, GaussianMixture::isotropic(3, {1}, {0, 0, 0}, {1e6}), o);
  Problem p = make_problem(3, sde, 7, false, 3);
  for (double& t : p.t) t = static_cast<float>(0.05 + 0.3 * t);
  std::vector<Long> scores;
  for (Index i = 0; i < p.n(); ++i) {
    const auto [m, variance] = kernel(sde, p.t[i]);
    Long inner = o.observation[0] - o.offset[0], spread = o.covariance[0];
    for (int k = 0; k < 3; ++k) {
      inner -= o.matrix[k] * p.x[i * 3 + k] / m, spread += variance / (m * m) * Long(o.matrix[k]) * o.matrix[k];
    }
    for (int k = 0; k < 3; ++k) scores.push_back(o.matrix[k] / m * inner / spread);
  }
  EXPECT_TRUE(agrees(fields_of<double>(model, p, score).score, scores, {.of_rms = 1e-5, .norm = 1e-5}));
}

// Where the prior of the likelihood is the law of the model, the composition is the conditioned law at every time: the
// same paths and densities up to rounding, whatever the scheme, noise included.
TEST(Likelihood, WithItsPriorMakesTheConditionedLaw) {
  for (const Observed& c : {observations()[2], observations()[3]}) {
    SCOPED_TRACE(c.name);
    const ForwardSde sde = ForwardSde::vp_linear();
    const Index d = c.prior.dimension(), n = 19;
    const Model whole = compose({{1, {sde, c.prior}}, {1, gaussian_likelihood(sde, c.prior, c.o)}}),
                law{sde, conditioned(c.prior, c.o)};
    const TimeGrid grid = TimeGrid::geometric(1, 1e-2, 12);
    const Sampler actual(context(), whole, grid), expected(context(), law, grid);
    for (const Scheme scheme : {Scheme::euler_maruyama, Scheme::euler, Scheme::heun, Scheme::rk4}) {
      SCOPED_TRACE(to_string(scheme));
      Buffer<float> x(context(), n, d), y(context(), n, d), p(context(), n), q(context(), n);
      actual.sample(x.view(), {.scheme = scheme, .seed = 3});
      expected.sample(y.view(), {.scheme = scheme, .seed = 3});
      EXPECT_TRUE(agrees(from(context(), x), from(context(), y), {.of_rms = 3e-5, .norm = 1e-5}));
      if (scheme == Scheme::euler_maruyama) continue;
      actual.log_density(y.view(), p.view(), scheme);
      expected.log_density(y.view(), q.view(), scheme);
      EXPECT_TRUE(agrees(from(context(), p), from(context(), q), {.of_rms = 1e-4, .norm = 3e-5}));
    }
  }
}

// A prior of the likelihood that is not the law of the model: all is linear, and samples have the moments that the same
// steps make in double, which are not those of the posterior.
TEST(Likelihood, WithAnotherPriorFollowsTheComposedEquation) {
  const ForwardSde sde = ForwardSde::vp_linear();
  const GaussianMixture law = random_mixture(2, 1, 7), assumed = GaussianMixture::isotropic(2, {1}, {0, 0}, {1});
  const AffineObservation o{{1, 0.5}, {}, {0.05}, {0.4}};
  const Model model = compose({{1, {sde, law}}, {1, gaussian_likelihood(sde, assumed, o)}});
  const TimeGrid grid = TimeGrid::uniform(1, 0.1, 18);
  // s(t, x) = A x + c: three evaluations of the direct formulas.
  const auto score_at = [&](double t, const Numbers& x) {
    const Reference r = reference(law, sde, t, x.data());
    const std::vector<Long> at(x.begin(), x.end());
    Numbers s;
    for (std::size_t k = 0; k < 2; ++k) {
      s.push_back(double(
          r.score[k] +
          difference([&](const std::vector<Long>& u) { return log_likelihood(assumed, o, sde, t, u); }, at, k, 1e-2L)));
    }
    return s;
  };
  const auto affine = [&](double t, std::array<double, 4>& a, std::array<double, 2>& c) {
    const Numbers at0 = score_at(t, {0, 0}), at1 = score_at(t, {1, 0}), at2 = score_at(t, {0, 1});
    c = {at0[0], at0[1]}, a = {at1[0] - c[0], at2[0] - c[0], at1[1] - c[1], at2[1] - c[1]};
  };
  expect_followed(model, grid, [&](double t, const Numbers& x, Numbers& trace) {
    std::array<double, 4> a;
    std::array<double, 2> c;
    affine(t, a, c);
    Numbers s;
    for (std::size_t i = 0; i < x.size(); i += 2) {
      s.push_back(a[0] * x[i] + a[1] * x[i + 1] + c[0]), s.push_back(a[2] * x[i] + a[3] * x[i + 1] + c[1]);
    }
    trace.assign(x.size() / 2, a[0] + a[3]);
    return s;
  });

  // Euler–Maruyama: x ← (I (1 + a dt) − g² dt A) x − g² dt c + g √|dt| z from N(0, I), without z in the last step.
  const ReferenceSde coefficients = reference_sde(sde);
  Matrix mean(2, 1), covariance = Matrix::identity(2);
  for (std::size_t k = 0; k + 1 < grid.times().size(); ++k) {
    const double t = grid.times()[k], dt = grid.times()[k + 1] - t, g2 = coefficients.diffusion_squared(t);
    std::array<double, 4> a;
    std::array<double, 2> c;
    affine(t, a, c);
    const Matrix step = Matrix::identity(2, 1 + coefficients.drift(t) * dt) - Long(g2 * dt) * Matrix(2, 2, a);
    mean = step * mean - Long(g2 * dt) * Matrix(2, 1, c);
    covariance = step * covariance * step.transposed();
    if (k + 2 < grid.times().size()) covariance = covariance + Matrix::identity(2, g2 * std::fabs(dt));
  }
#ifdef FOKKER_EMULATION
  const Index n = 1000;
#else
  const Index n = 20000;
#endif
  Buffer<float> x(context(), n, 2);
  Sampler(context(), model, grid).sample(x.view(), {.scheme = Scheme::euler_maruyama, .seed = 5});
  const std::vector<float> samples = from(context(), x);
  Matrix found(2, 1), spread(2, 2);
  for (Index i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < 2; ++k) found(k, 0) += Long(samples[2 * i + k]) / n;
  }
  for (Index i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < 2; ++k) {
      for (std::size_t l = 0; l < 2; ++l) {
        spread(k, l) += (samples[2 * i + k] - found(k, 0)) * (samples[2 * i + l] - found(l, 0)) / (n - 1);
      }
    }
  }
  // Within five standard errors: of a mean √(C_kk/n), of a covariance at most √(2 C_kk C_ll/n).
  const GaussianMixture posterior = conditioned(law, o);
  Long from_posterior = 0;
  for (std::size_t k = 0; k < 2; ++k) {
    EXPECT_NEAR(double(found(k, 0)), double(mean(k, 0)), 5 * std::sqrt(double(covariance(k, k)) / double(n)));
    from_posterior =
        std::max(from_posterior, std::fabs(mean(k, 0) - posterior.means()[k]) / std::sqrt(covariance(k, k) / n));
    for (std::size_t l = 0; l < 2; ++l) {
      EXPECT_NEAR(double(spread(k, l)), double(covariance(k, l)),
                  5 * std::sqrt(2 * double(covariance(k, k) * covariance(l, l)) / double(n)));
    }
  }
  EXPECT_GT(from_posterior, 5) << "the test would not tell the composed equation from the posterior";
}

// ---- what is refused --------------------------------------------------------------------------------------------

TEST(Composition, RefusesTermsThatDoNotFit) {
  const Model a = network(2, {5}, Output::potential, 1);
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message_of([] { compose({}); }), "a composition has 0 terms; allowed: 1 to 64");
  EXPECT_EQ(message_of([&] {
              compose({{0, a}});
            }),
            "the terms of a composition all have weight 0; allowed: another weight of one at least");
  EXPECT_EQ(message_of([&] {
              compose(std::vector<Term>(65, {1, a}));
            }),
            "a composition has 65 terms; allowed: 1 to 64");
  EXPECT_EQ(message_of([&] {
              compose({{1, a}, {nan, a}});
            }),
            "term 1 of a composition has the weight nan; allowed: what is finite in float32");
  EXPECT_EQ(message_of([&] { guided(a, a, 1e39); }),
            "term 0 of a composition has the weight 1e+39; allowed: what is finite in float32");
  EXPECT_EQ(message_of([&] {
              compose({{1, a}, {1, network(3, {5}, Output::potential, 1)}});
            }),
            "term 1 of a composition has dimension 3, and the first has 2; allowed: the same");
  EXPECT_EQ(message_of([&] {
              compose({{1, a}, {1, network(2, {5}, Output::potential, 1, SdeKind::edm)}});
            }),
            R"(term 1 of a composition has the SDE edm {"T":80.0,"t_min":0.002}, and the composition has vp-linear )"
            R"({"beta_min":0.1,"beta_max":20.0,"T":1.0,"t_min":0.001}; allowed: the same)");
  Model broken = a;
  std::get<Mlp>(broken.network).parameters.pop_back();
  EXPECT_EQ(message_of([&] {
              compose({{1, a}, {1, broken}});
            }),
            "term 1 of a composition: 25 parameters are given for a network 3–5–1, silu, potential of 26");
  // Those that compose() does not make.
  Model made = compose({{1, a}});
  std::get<Composition>(made.network).terms[0].model = compose({{1, a}});
  EXPECT_EQ(
      message_of([&] { made.validate(); }),
      "term 0 of a composition is a composition itself; allowed: networks and Gaussian mixtures, as compose() makes "
      "of it");
  std::get<Composition>(made.network).terms[0].model = a;
  std::get<Composition>(made.network).terms[0].model.standardisation = {{0, 0}, {1, 1}};
  EXPECT_EQ(
      message_of([&] { made.validate(); }),
      "term 0 of a composition has a standardisation; allowed: one of the whole, as compose() makes of that of the "
      "terms");
  std::get<Composition>(made.network).terms.clear();
  EXPECT_EQ(message_of([&] { Fields<float>(context(), made); }), "a composition has 0 terms; allowed: 1 to 64");
  EXPECT_EQ(message_of([&] { Sampler(context(), made, TimeGrid::uniform(1, 0.5, 2)); }),
            "a composition has 0 terms; allowed: 1 to 64");
}

TEST(Composition, HasWhatAllTermsHave) {
  const Model smooth = network(2, {5}, Output::potential, 1), vectors = network(2, {5}, Output::score, 2);
  Model kinked = smooth;
  std::get<Mlp>(kinked.network).architecture.activation = Activation::relu;
  const Model with_kinks = compose({{1, vectors}, {1, kinked}});
  Buffer<float> t(context(), 1), x(context(), 1, 2), out(context(), 1);
  EXPECT_EQ(
      message_of([&] {
        Fields<float>(context(), with_kinks).evaluate({t.view(), x.view()}, {.divergence = out.view()});
      }),
      "the divergence is asked for of a composition whose term 1 is a potential net of relu, whose σ′ or σ″ jumps at "
      "0, so that derivatives such as the Laplacian and its gradient would lack delta functions; allowed: a smooth "
      "activation, or a vector net");
  EXPECT_EQ(with_kinks.output(), Output::score);
  EXPECT_THAT(message_of([&] {
                Fields<float>(context(), with_kinks).evaluate({t.view(), x.view()}, {.value = out.view()});
              }),
              HasSubstr("the value"));
  EXPECT_EQ(compose({{1, smooth}, {-1, smooth}}).output(), Output::potential);
  EXPECT_EQ(message_of([&] {
              Trainer(context(), compose({{1, smooth}}), DataSet::named("blob"), {});
            }),
            "a composition was given to train; allowed: an MLP");
  EXPECT_EQ(message_of([&] {
              save_model("sum.json", compose({{1, smooth}}));
            }),
            "cannot write 'sum.json': a composition's file names those of its terms and is written by hand; allowed: a "
            "network or a Gaussian mixture");
  EXPECT_EQ(message_of([&] {
              Sampler(context(), compose({{1, {ForwardSde::ou(), GaussianMixture::isotropic(1, {1}, {1e6}, {1e-6})}}}),
                      TimeGrid::uniform(10, 1, 2));
            }),
            message_of([] { DataSet::mixture(GaussianMixture::isotropic(1, {1}, {1e6}, {1e-6})); }));
}

TEST(Composition, OfBoundedPotentialsIsBounded) {
  const auto bounded = [](std::uint64_t seed) {
    return model_of(architecture_of(2, {5}, Activation::tanh, 1, Output::potential), SdeKind::vp_linear, seed);
  };
  const Model other = network(2, {5}, Output::potential, 1);
  const std::string reason = "φ of a network with the activation tanh is bounded, so e^φ is integrable for no weights";
  EXPECT_EQ(radial_slopes(context(), compose({{1, bounded(1)}, {2, bounded(2)}}), 0.5).reason, reason);
  EXPECT_NE(radial_slopes(context(), compose({{1, bounded(1)}, {2, other}}), 0.5).reason, reason);
}

TEST(Likelihood, RefusesWhatDoesNotFit) {
  const GaussianMixture prior = GaussianMixture::isotropic(2, {1}, {0, 0}, {1});
  const auto refusal = [&](const AffineObservation& o) { return message_of([&] { conditioned(prior, o); }); };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(message_of([] {
              conditioned({}, {{1}, {}, {1}, {1}});
            }),
            "the prior of an observation has no components; allowed: 1 or more");
  EXPECT_EQ(refusal({}), "an observation has 0 numbers; allowed: 1 to 4096");
  EXPECT_EQ(refusal({{1, 2, 3}, {}, {1}, {1}}),
            "the matrix of an observation of 1 numbers in 2 dimensions has 3 numbers; allowed: 2 as [1, 2]");
  EXPECT_EQ(refusal({{1, 2}, {1, 2}, {1}, {1}}),
            "the offset of an observation of 1 numbers in 2 dimensions has 2 numbers; allowed: 1, or none for 0");
  EXPECT_EQ(
      refusal({{1, 2, 3, 4}, {}, {1, 2, 3}, {1, 2}}),
      "the covariance of an observation of 2 numbers in 2 dimensions has 3 numbers; allowed: 4 as [2, 2], or 2 as its "
      "diagonal");
  EXPECT_EQ(refusal({{1, infinity}, {}, {1}, {1}}),
            "number 1 of the matrix of an observation is inf; allowed: finite numbers");
  EXPECT_EQ(refusal({{1, 2}, {}, {1}, {infinity}}),
            "number 0 of the values of an observation is inf; allowed: finite numbers");
  EXPECT_EQ(refusal({{1, 2, 3, 4}, {}, {1, 0}, {1, 2}}),
            "the covariance of an observation has 0 on its diagonal; allowed: above 0");
  EXPECT_EQ(refusal({{1, 2, 3, 4}, {}, {1, 0.5, 0.25, 1}, {1, 2}}),
            "the covariance of an observation is 0.25 at (1, 0) and 0.5 at (0, 1); allowed: a symmetric matrix");
  EXPECT_EQ(refusal({{1, 2, 3, 4}, {}, {1, 2, 2, 1}, {1, 2}}),
            "the covariance of an observation is not positive definite; allowed: one that is");
  EXPECT_EQ(
      refusal({{1e200, 2}, {}, {1e-200}, {1}}),
      "an observation is so precise beside component 0 of its prior that their ratio overflows; allowed: a larger "
      "covariance");
  EXPECT_EQ(refusal({{1, 2}, {}, {1}, {1e200}}),
            "the likelihood of an observation under its prior is 0; allowed: what the prior can have made");
  EXPECT_EQ(message_of([&] {
              gaussian_likelihood({}, prior, {{1, 2}, {}, {1}, {1}}, {{1}, {1}});
            }),
            "a standardisation of 1 means and 1 deviations is given for 2 columns; allowed: 2 each");
}

// ---- files ------------------------------------------------------------------------------------------------------

constexpr const char* likelihood_json =
    R"({"likelihood": {"matrix": [[1, -0.5]], "offset": [0.25], "covariance": 0.04, "observation": [0.7],
        "prior": {"weights": [1], "means": [[0, 0]], "covariances": 1}}})";

TEST(CompositionFile, NamesItsTerms) {
  const Scratch scratch;
  const Model a = network(2, {5}, Output::potential, 1), b = network(2, {6}, Output::potential, 2);
  std::filesystem::create_directory(scratch / "nets");
  save_model(scratch / "nets/a.safetensors", a);
  save_model(scratch / "nets/b.safetensors", b);
  put(scratch / "law.json", R"({"weights": [1], "means": [[1, 2]], "covariances": 0.3})");
  put(scratch / "nets/sum.json", fmt::format(R"({{"terms": [{{"weight": 1.5, "model": "a.safetensors"}},
      {{"weight": -0.5, "model": "../nets/b.safetensors"}}, {{"model": "../law.json"}},
      {{"mixture": {{"weights": [1], "means": [[0, 1]], "covariances": 2}}, "weight": 2}}, {}], "metadata": {{"a": [1]}}}})",
                                             likelihood_json));
  const Model read = load_model(scratch / "nets/sum.json");
  const Model law{a.sde, GaussianMixture::isotropic(2, {1}, {1, 2}, {0.3})},
      other{a.sde, GaussianMixture::isotropic(2, {1}, {0, 1}, {2})};
  const Model expected = compose({{1.5, a},
                                  {-0.5, b},
                                  {1, law},
                                  {2, other},
                                  {1, gaussian_likelihood(a.sde, GaussianMixture::isotropic(2, {1}, {0, 0}, {1}),
                                                          {{1, -0.5}, {0.25}, {0.04}, {0.7}})}});
  EXPECT_EQ(read.sde.name(), "vp-linear");
  const Problem p = make_problem(2, a.sde, 7, false, 3);
  EXPECT_EQ(fields_of<double>(read, p, kOfPotential), fields_of<double>(expected, p, kOfPotential));

  // An SDE that is given is that of all: of the networks, and where none names one.
  EXPECT_EQ(load_model(scratch / "nets/sum.json", {{"sde", "subvp"}}).sde.name(), "subvp");
  put(scratch / "laws.json", R"({"terms": [{"model": "law.json"}], "sde": "ve", "sde_parameters": {"sigma_max": 9}})");
  EXPECT_EQ(load_model(scratch / "laws.json").sde.parameters_json(),
            ForwardSde::ve({.sigma_max = 9}).parameters_json());
  put(scratch / "one.json", R"({"terms": [{"model": "law.json"}]})");
  EXPECT_EQ(load_model(scratch / "one.json").sde.name(), "ou");
}

TEST(CompositionFile, OfNetworksWithColumnsHasItsLikelihoodInTheirs) {
  const Scratch scratch;
  Model a = network(2, {5}, Output::potential, 1);
  a.standardisation = {{5, -0.5}, {2, 0.25}};
  save_model(scratch / "a.safetensors", a);
  put(scratch / "sum.json", fmt::format(R"({{"terms": [{}, {{"model": "a.safetensors"}}]}})", likelihood_json));
  EXPECT_EQ(load_model(scratch / "sum.json").standardisation, a.standardisation);
}

TEST(CompositionFile, RefusesWhatItCannotUse) {
  const Scratch scratch;
  const std::string path = scratch / "sum.json";
  save_model(scratch / "a.safetensors", network(2, {5}, Output::potential, 1));
  put(scratch / "law.json", R"({"weights": [1], "means": [[1, 2]], "covariances": 0.3, "sde": "ve"})");
  put(scratch / "sum2.json", R"({"terms": [{"model": "sum.json"}]})");
  const auto refusal = [&](const std::string& text) {
    put(path, text);
    const std::string message = message_of([&] { load_model(path); }),
                      prefix = fmt::format("'{}' is not a composition that can be used: ", path);
    EXPECT_EQ(message.substr(0, prefix.size()), prefix);
    return message.substr(std::min(prefix.size(), message.size()));
  };
  const auto of_terms = [&](const std::string& terms) { return refusal(fmt::format(R"({{"terms": {}}})", terms)); };
  EXPECT_EQ(of_terms("[]"), "its terms are an array of 0; allowed: an array of 1 to 64");
  EXPECT_EQ(of_terms("3"), "its terms are 3; allowed: an array of 1 to 64");
  std::string many = "0";
  for (int k = 0; k < 64; ++k) many += ",0";
  EXPECT_EQ(of_terms("[" + many + "]"), "its terms are an array of 65; allowed: an array of 1 to 64");
  EXPECT_EQ(refusal(R"({"terms": [{"model": "a.safetensors"}], "weights": [1]})"),
            "its key 'weights' is unknown: allowed are terms, sde, sde_parameters, metadata");
  EXPECT_EQ(refusal(R"({"terms": [{"model": "law.json"}], "sde": 3})"), "its sde is not a string");
  EXPECT_EQ(of_terms("[4]"), "its term 0: it is not a JSON object");
  EXPECT_EQ(of_terms(R"([{"model": "a.safetensors", "scale": 2}])"),
            "its term 0: its key 'scale' is unknown: allowed are weight, model, condition, mixture, likelihood");
  EXPECT_EQ(of_terms(R"([{"weight": 2}])"),
            "its term 0: it has 1 keys; allowed: one of model, mixture and likelihood, weight, and beside a "
            "model a condition");
  EXPECT_EQ(of_terms(R"([{"model": "law.json", "mixture": {}}])"),
            "its term 0: it has 2 keys; allowed: one of model, mixture and likelihood, weight, and beside a "
            "model a condition");
  EXPECT_EQ(of_terms(R"([{"model": "a.safetensors"}, {"weight": "2", "model": "a.safetensors"}])"),
            "its term 1: its weight is '2' where a number is needed");
  EXPECT_EQ(of_terms(R"([{"model": 3}])"), "its term 0: its model is 3 where a string is needed");
  EXPECT_EQ(of_terms(R"([{"model": "a\u0000.safetensors"}])"),
            "its term 0: its model is no name of a file: it holds a zero byte");
  EXPECT_THAT(of_terms(R"([{"model": "none.safetensors"}])"),
              HasSubstr("none.safetensors': No such file or directory"));
  EXPECT_THAT(of_terms(R"([{"model": "a.npy"}])"),
              HasSubstr("it must end in .safetensors (a network) or .json (a Gaussian "
                        "mixture or a composition)"));
  EXPECT_EQ(of_terms(R"([{"model": "sum2.json"}])"),
            fmt::format("its term 0: its model '{}' is a composition itself; allowed: networks and Gaussian mixtures",
                        scratch / "sum2.json"));
  EXPECT_THAT(of_terms(R"([{"model": "sum.json"}])"), HasSubstr("is a composition itself"));  // its own name
  EXPECT_THAT(of_terms(R"([{"model": "a.safetensors"}, {"model": "law.json"}])"),
              HasSubstr("term 1 of a composition has the SDE ve"));
  EXPECT_EQ(of_terms(R"([{"mixture": {"weights": [1]}}])"), "its term 0: its mixture: it has no means");
  EXPECT_EQ(of_terms(R"([{"likelihood": 3}])"), "its term 0: its likelihood: it is not a JSON object");
  EXPECT_EQ(of_terms(R"([{"likelihood": {}}])"), "its term 0: its likelihood: it has no prior");
  const auto of_likelihood = [&](const std::string& text) {
    return of_terms(fmt::format(
        R"([{{"likelihood": {{"prior": {{"weights": [1], "means": [[0, 0]], "covariances": 1}}{}}}}}])", text));
  };
  EXPECT_EQ(of_likelihood(""), "its term 0: its likelihood: its has no observation");
  EXPECT_EQ(of_likelihood(R"(, "observation": [1], "matrix": [1, 2], "covariance": 1)"),
            "its term 0: its likelihood: its matrix hold an array of 2 where an array of 1 is needed");
  EXPECT_EQ(of_likelihood(R"(, "observation": [1], "matrix": [[1, 2]], "covariance": 0)"),
            "its term 0: the covariance of an observation has 0 on its diagonal; allowed: above 0");
  EXPECT_EQ(of_likelihood(R"(, "observation": [1], "matrix": [[1, 2]])"),
            "its term 0: its likelihood: it has no covariance");
  EXPECT_EQ(
      of_likelihood(R"(, "y": [1])"),
      "its term 0: its likelihood: its key 'y' is unknown: allowed are matrix, offset, covariance, observation, prior");
  std::string zeros = "0";
  for (int k = 1; k < 513; ++k) zeros += ",0";
  EXPECT_EQ(
      of_terms(fmt::format(R"([{{"likelihood": {{"prior": {{"weights": [1], "means": [[{}]], "covariances": 1}}}}}}])",
                           zeros)),
      "its term 0: its likelihood: K d³ of the priors of K components in d dimensions is 135005697 up to here; allowed "
      "in a file: 134217728");
  put(path, R"({"terms": [{"model": "law.json"}]})");
  EXPECT_EQ(message_of([&] {
              load_model(path, {{"activation", "tanh"}});
            }),
            fmt::format("'{}' is not a composition that can be used: the option activation is for networks", path));
  EXPECT_EQ(message_of([&] { DataSet::named(path); }),
            fmt::format("'{}' as a data set holds no Gaussian mixture", path));
}

// A term proves itself as a model alone does.
TEST(CompositionFile, ChecksTheProofsOfItsTerms) {
  const Scratch scratch;
  const Model a = network(2, {5}, Output::score, 1);
  Proof proof{{0.5}, {0.25, -1}, {0, 0}};
  Fields<double>(Context({.backend = BackendKind::cpu}), a)
      .evaluate({View<const double>(proof.t), View<const double>(proof.x, 2)}, {.score = View<double>(proof.score, 2)});
  save_model(scratch / "a.safetensors", a, {}, proof);
  put(scratch / "sum.json", R"({"terms": [{"model": "a.safetensors"}]})");
  EXPECT_EQ(load_model(scratch / "sum.json").dimension(), 2);
  EXPECT_THAT(message_of([&] {
                load_model(scratch / "sum.json", {{"sde", "edm"}, {"sde_parameters", R"({"T": 0.4})"}});
              }),
              HasSubstr("a proof has a point at t = 0.5"));
}

}  // namespace
}  // namespace fokker
