// Fields of networks: against a reference in double that shares no code with them, against finite differences, and
// against float64 autograd of the published checkpoints.
//
// Rounding bounds are made for each case from its own reference (rounding_noise.hpp): every operation of the reference
// errs at random, which gives the deviation σ_i of every number, and bounds of given probability for one element and
// for all together follow. A linear sweep errs as much forwards as backwards (a rounding of one unit moves the result
// by its value times its adjoint in either direction), so the reference's order of work stands for the library's.
// On the published checkpoints (softplus, β = 100, trained; 512 points each, eight networks) the float path shows:
//
//   quantity       rms error over rms σ   largest |e_i|/σ_i (≤ 12)   error over the rms of the quantity: rms, largest
//   value          0.48 to 0.65           2.9                        5e-7     2e-6
//   score          0.56 to 0.69           5.2                        5e-7     7e-6
//   dt             0.35 to 0.86           7.8                        1.1e-6   1.6e-5
//   divergence     0.41 to 0.74           2.9                        4e-6     4e-5
//   Hessian (xy)   0.50 to 0.74           3.4                        3e-6     4e-5
//   residual       0.44 to 0.79           2.8                        3e-5     4e-4
//
// So the large errors of some elements are the conditioning of these networks and not the code: second derivatives
// carry σ″, which moves by β times an error of z; ∂_t φ and the residual are small differences of large terms. In
// double the error over σ is 0.5 to 1.1, the reference file's own rounding in it, and every element is within 1e-9.
// The probability-flow map ends within 1e-11 of the reference in double.
#include "fokker/fields.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "compare.hpp"
#include "core/parallel.hpp"
#include "fields_reference.hpp"
#include "fokker/error.hpp"
#include "fokker/safetensors.hpp"
#include "fokker/sampler.hpp"
#include "paper_data.hpp"
#include "reference_network.hpp"
#include "rounding_noise.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using namespace testing;

Context cpu(int threads = 2) { return Context({BackendKind::cpu, threads}); }

// ---- against the reference, on random architectures ----------------------------------------------------------------

struct Case {
  std::string name;
  Architecture architecture;
  SdeKind sde;
  std::int64_t n;
  bool one_time;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.architecture.describe() << ", " << ForwardSde::defaults(c.sde).name() << ", " << c.n
       << (c.one_time ? " points at one time" : " points");
}

std::vector<Case> cases() {
  struct Shape {
    std::int64_t d;
    std::vector<std::int64_t> hidden;
    std::int64_t n;
    int activations = activations_a_shape;  // fewer where a network is wide: narrow ones show the rest
  };
  const std::vector<Shape> shapes = {{1, {1}, 989},
                                     {1, {80, 7}, 99},
                                     {2, {7}, 1},
                                     {2, {7, 7}, 989},
                                     {2, {80, 80, 80}, 99},
                                     {2, {127, 127}, 19},
                                     {2, {9, 1, 7, 8, 3, 16, 5, 2}, 99},
                                     {3, {7, 1, 13}, 99},
                                     {3, {80}, 0},
                                     {5, {127, 80}, 19},
                                     {16, {33, 17}, 19},
                                     {16, {7, 80, 1}, 99},
                                     {40, {20, 12}, 5, 2},
                                     {64, {11}, 1, 2},
                                     {2, {512, 512}, 3, 1},
                                     {3, {1024, 300}, 2, 2}};
  std::vector<Case> all;
  for (std::size_t s = 0; s < shapes.size(); ++s) {
    for (int k = 0; k < shapes[s].activations; ++k) {
      for (const Output output : {Output::potential, Output::score}) {
        const double beta = s % 2 == 0 ? 100 : 3;
        const auto a = architecture_of(shapes[s].d, shapes[s].hidden, activation_of(s, k), beta, output);
        if (!has_all_fields(a)) continue;
        all.push_back({case_name(a, fmt::format("n{}", shapes[s].n)), a, sde_kinds[(s + 2 * k) % 5], shapes[s].n,
                       (s + k) % 3 == 0});
      }
    }
  }
  for (const Output output : {Output::potential, Output::score}) {
    for (const auto& [name, a] : testing::all_networks(output)) {
      for (const bool one_time : {false, true}) {
        all.push_back(
            {name + (one_time ? "_at_one_time" : ""), a, sde_kinds[all.size() % 5], one_time ? 19 : 99, one_time});
      }
    }
  }
  return all;
}

class AgainstReference : public ::testing::TestWithParam<Case> {
 protected:
  template <class T>
  void all_fields_agree(const Model& model, const Problem& p, const Expected& expected, const Expected& deviations) {
    SCOPED_TRACE(sizeof(T) == 8 ? "double" : "float");
    const Architecture& a = GetParam().architecture;
    const Fields<T> fields(cpu(), model);
    const Result<T> actual = evaluate(fields, p, all_of(a.output));
    const auto check = [&](const char* name, const std::vector<T>& v, const std::vector<double>& e,
                           const std::vector<double>& d) {
      EXPECT_TRUE(agrees(v, e, rounding<T>(d, p.n(), e, sizeof(T) == 8 ? both_sides : one_side))) << name;
    };
    for_each_quantity<T>(actual, [&, at = 0](Quantity q, const char* name, const std::vector<T>& v) mutable {
      const bool in_double = q == residual && sizeof(T) == 8;
      check(name, v, *quantities(expected)[at],
            in_double ? deviations.residual_in_double : *quantities(deviations)[at]);
      ++at;
    });
    check("hessian_vector", hessian_vector(fields, p), expected.product, deviations.product);
    if (a.output == Output::score) return;
    for (std::int64_t i = 0; i < p.n(); ++i) {
      for (std::int64_t r = 0; r < p.d; ++r) {
        for (std::int64_t c = 0; c < r; ++c) {
          ASSERT_EQ(actual.hessian[(i * p.d + r) * p.d + c], actual.hessian[(i * p.d + c) * p.d + r]) << i;
        }
      }
    }
  }
};

TEST_P(AgainstReference, EveryFieldInBothPrecisions) {
  const Case& c = GetParam();
  const Model model = model_of(c.architecture, c.sde, 17);
  const Problem p =
      make_problem(c.architecture.dimension, model.sde, c.n, c.one_time, 29, c.architecture.condition.inputs);
  const auto net = testing::reference_network(c.architecture, std::get<Mlp>(model.network).parameters);
  std::vector<double> t;
  for (std::int64_t i = 0; i < p.n(); ++i) t.push_back(p.time(i));
  ASSERT_GT(testing::distance_to_jump(net, t, p.x), 1e-9);
  const Expected expected = reference(model, p);
  const Expected deviations = rounding_deviations(model, p);
  all_fields_agree<double>(model, p, expected, deviations);
  all_fields_agree<float>(model, p, expected, deviations);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AgainstReference, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// A potential of a kinked activation has a value and first derivatives.
TEST(FieldsOfKinkedPotentials, ValueAndFirstDerivatives) {
  for (const Activation activation : Activations::all) {
    const auto a = architecture_of(3, {20, 1, 13}, activation, 1, Output::potential);
    if (has_all_fields(a)) continue;
    SCOPED_TRACE(to_string(activation));
    const Model model = model_of(a, SdeKind::vp_linear, 5);
    const Problem p = make_problem(3, model.sde, 99, false, 6);
    const auto net = reference_network(a, std::get<Mlp>(model.network).parameters);
    Result<double> expected;
    for (std::int64_t i = 0; i < p.n(); ++i) {
      const auto f = reference_fields(net, p.t[i], &p.x[3 * i]);
      expected.value.push_back(f.value);
      expected.dt.push_back(f.dt);
      expected.score.insert(expected.score.end(), f.score.begin(), f.score.end());
    }
    const auto check = [&]<class T>(const Fields<T>& fields, double relative) {
      const Result<T> actual = evaluate(fields, p, value | dt | score);
      const Bound bound{.of_rms = relative, .norm = relative};
      EXPECT_TRUE(agrees(actual.value, expected.value, bound));
      EXPECT_TRUE(agrees(actual.dt, expected.dt, bound));
      EXPECT_TRUE(agrees(actual.score, expected.score, bound));
    };
    // Roundings of sums of up to 20 terms in three layers.
    check(Fields<double>(cpu(), model), 1e-14);
    check(Fields<float>(cpu(), model), 5e-6);
  }
}

// Where no Hessian is written down, its product with a vector still is, and the Laplacian.
TEST(FieldsInManyDimensions, HessianTimesVector) {
  for (const Output output : {Output::potential, Output::score}) {
    const auto a = architecture_of(100, {9, 14}, Activation::silu, 1, output);
    const Model model = model_of(a, SdeKind::vp_linear, 5);
    const Problem p = make_problem(100, model.sde, 3, false, 6);
    const Expected expected = reference(model, p), deviations = rounding_deviations(model, p);
    const auto check = [&]<class T>(const Fields<T>& fields) {
      const Sides sides = sizeof(T) == 8 ? both_sides : one_side;
      EXPECT_TRUE(agrees(hessian_vector(fields, p), expected.product,
                         rounding<T>(deviations.product, p.n(), expected.product, sides)));
      EXPECT_TRUE(agrees(evaluate(fields, p, divergence).divergence, expected.divergence,
                         rounding<T>(deviations.divergence, p.n(), expected.divergence, sides)));
    };
    check(Fields<double>(cpu(), model));
    check(Fields<float>(cpu(), model));
  }
}

// ---- against finite differences ------------------------------------------------------------------------------------

// Central differences with h = 1e-4 of the library's own value and score; their error is h² f‴/6, some 1e-8 here, and
// the rounding 1e-16/h.
TEST(FieldsAgainstDifferences, DerivativesAreThoseOfTheValue) {
  const double h = 1e-4;
  const Bound bound{.of_rms = 2e-6, .norm = 5e-7};
  for (const Activation activation : Activations::all) {
    if (traits_of(activation).kinked) continue;  // whose jumps lie between some of the points
    for (const std::int64_t d : {1, 2, 3, 5, 16}) {
      for (const Output output : {Output::potential, Output::score}) {
        SCOPED_TRACE(fmt::format("{}, d = {}, {}", to_string(activation), d, to_string(output)));
        const auto a = architecture_of(d, {13, 21, 8}, activation, 2, output);
        const Model model = model_of(a, SdeKind::subvp, 3);
        const Problem p = make_problem(d, model.sde, 19, false, 4);
        const Fields<double> fields(cpu(), model);
        const auto at = evaluate(fields, p, all_of(output));
        // (f(p + h e) − f(p − h e))/2h, with e along time for axis −1.
        const auto differences = [&](unsigned q, std::int64_t axis) {
          Problem up = p, down = p;
          for (std::int64_t i = 0; i < p.n(); ++i) {
            (axis < 0 ? up.t[i] : up.x[i * d + axis]) += h;
            (axis < 0 ? down.t[i] : down.x[i * d + axis]) -= h;
          }
          const auto f = evaluate(fields, up, q), g = evaluate(fields, down, q);
          std::vector<double> v = q == value ? f.value : f.score;
          const std::vector<double>& w = q == value ? g.value : g.score;
          for (std::size_t k = 0; k < v.size(); ++k) v[k] = (v[k] - w[k]) / (2 * h);
          return v;
        };
        std::vector<double> expected_hessian(at.hessian.size()), expected_score(at.score.size()), product(p.x.size());
        for (std::int64_t j = 0; j < d; ++j) {
          const auto column = differences(score, j);
          const auto slope = output == Output::potential ? differences(value, j) : std::vector<double>(19);
          for (std::int64_t i = 0; i < p.n(); ++i) {
            expected_score[i * d + j] = slope[i];
            for (std::int64_t r = 0; r < d; ++r) {
              expected_hessian[(i * d + r) * d + j] = column[i * d + r];
              product[i * d + r] += column[i * d + r] * p.direction[i * d + j];
            }
          }
        }
        EXPECT_TRUE(agrees(at.hessian, expected_hessian, bound)) << "hessian";
        EXPECT_TRUE(agrees(hessian_vector(fields, p), product, bound)) << "hessian_vector";
        if (output == Output::score) continue;
        EXPECT_TRUE(agrees(at.score, expected_score, bound)) << "score";
        EXPECT_TRUE(agrees(at.dt, differences(value, -1), bound)) << "dt";
      }
    }
  }
}

// ---- requests together and alone -----------------------------------------------------------------------------------

template <class T>
class FieldsOf : public ::testing::Test {};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(FieldsOf, Precisions);

// Bits: the value is always the same; the rest are the same among requests that agree on whether the value is asked for
// and whether any second derivative is. Otherwise activations are asked for other outputs, whose kernels may round
// differently: two results that each carry the rounding of the model.
TYPED_TEST(FieldsOf, AnyCombinationOfOutputsGivesTheSameNumbers) {
  using T = TypeParam;
  for (const Activation activation : Activations::all) {
    for (const Output output : {Output::potential, Output::score}) {
      const auto a = architecture_of(3, {20, 13}, activation, 8, output);
      if (!has_all_fields(a)) continue;
      const Model model = model_of(a, SdeKind::vp_cosine, 7);
      const Problem p = make_problem(3, model.sde, 101, false, 8);
      const Fields<T> fields(cpu(), model);
      const Expected exact_deviations = rounding_deviations(model, p);
      for (const int probes : {0, 3}) {
        const Divergence how{.probes = probes, .seed = 5};
        const Expected deviations = probes == 0 ? exact_deviations : deviations_with_probes(model, p, exact_deviations);
        const unsigned all = all_of(output), second = divergence | hessian | residual;
        const Result<T> reference_result = evaluate(fields, p, all, how);
        for (unsigned wanted = 1; wanted <= all; ++wanted) {
          if (wanted & ~all) continue;
          SCOPED_TRACE(fmt::format("{}, {}, outputs {:06b}, {} probes", to_string(activation), to_string(output),
                                   wanted, probes));
          const Result<T> r = evaluate(fields, p, wanted, how);
          std::vector<std::vector<T>> together;
          for_each_quantity<T>(reference_result,
                               [&](Quantity, const char*, const std::vector<T>& v) { together.push_back(v); });
          std::size_t at = 0;
          for_each_quantity<T>(r, [&](Quantity q, const char* name, const std::vector<T>& v) {
            const std::vector<T>& w = together[at];
            const std::vector<double>& d = *quantities(deviations)[at++];
            if (!(wanted & q)) {
              EXPECT_TRUE(v.empty());
              return;
            }
            EXPECT_TRUE(agrees(v, w, rounding<T>(d, p.n(), {w.begin(), w.end()}, both_sides))) << name;
            const bool same_request = output == Output::potential
                                          ? (wanted & value) && (wanted & second)
                                          : (wanted & score) && (wanted & (divergence | hessian));
            if (q == value || same_request) {
              EXPECT_EQ(v, w) << name;
            }
          });
        }
      }
    }
  }
}

// ---- Hutchinson ----------------------------------------------------------------------------------------------------

// One point, many times over: each copy has its own index and so its own probes. The mean and the variance of the
// estimates are within five standard errors of the trace of the Jacobian and of what theory says of its symmetric part
// S: 2 Σ_{i≠j} S_ij² for Rademacher probes, 2 ‖S‖_F² for Gaussian ones, a k-th of it for k probes.
TYPED_TEST(FieldsOf, HutchinsonIsUnbiasedWithTheVarianceOfTheory) {
  using T = TypeParam;
  const std::int64_t n = 40000;
  for (const std::int64_t d : {2, 5}) {
    for (const Output output : {Output::potential, Output::score}) {
      const auto a = architecture_of(d, {24, 17}, Activation::softplus, 10, output);
      const Model model = model_of(a, SdeKind::ou, 11);
      const Problem one = make_problem(d, model.sde, 1, true, 12);
      const auto exact = reference(model, one);
      double off_diagonal = 0, frobenius = 0;
      for (std::int64_t i = 0; i < d; ++i) {
        for (std::int64_t j = 0; j < d; ++j) {
          const double s = (exact.hessian[i * d + j] + exact.hessian[j * d + i]) / 2;
          frobenius += s * s;
          if (i != j) off_diagonal += s * s;
        }
      }
      const Fields<T> fields(cpu(), model);
      std::vector<T> x;
      for (std::int64_t i = 0; i < n; ++i) x.insert(x.end(), one.x.begin(), one.x.end());
      for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
        for (const int probes : {1, 4}) {
          SCOPED_TRACE(fmt::format("d = {}, {}, {} {} probes", d, to_string(output), probes,
                                   law == ProbeLaw::gaussian ? "Gaussian" : "Rademacher"));
          const auto estimates =
              evaluate(fields, as<T>(one.t), x, d, divergence, {.probes = probes, .law = law, .seed = 77}).divergence;
          double mean = 0, second = 0, fourth = 0;
          for (const T e : estimates) mean += double(e) / double(n);
          for (const T e : estimates) {
            const double square = (e - mean) * (e - mean);
            second += square / double(n);
            fourth += square * square / double(n);
          }
          const double variance = 2 * (law == ProbeLaw::gaussian ? frobenius : off_diagonal) / probes;
          ASSERT_GT(variance, 0);
          EXPECT_LE(std::fabs(mean - exact.divergence[0]), 5 * std::sqrt(variance / double(n)));
          // Two values at ±δ have a variance of no error of its own; what is left is the square of the mean's.
          const double error = std::sqrt(std::max(fourth - second * second, 0.0) / double(n));
          EXPECT_LE(std::fabs(second - variance), 5 * error + 25 * variance / double(n) + 1e3 * unit<T> * frobenius);
        }
      }
    }
  }
}

// Another seed, other probes: the mean over seeds tends to the exact value at every point.
TYPED_TEST(FieldsOf, HutchinsonIsUnbiasedOverSeedsAtEveryPoint) {
  using T = TypeParam;
  const auto a = architecture_of(3, {15}, Activation::tanh, 1, Output::potential);
  const Model model = model_of(a, SdeKind::ou, 2);
  const Problem p = make_problem(3, model.sde, 19, false, 3);
  const Fields<T> fields(cpu(), model);
  const auto exact = reference(model, p);
  for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
    const int seeds = 4000;
    std::vector<double> mean(19), square(19);
    for (int seed = 0; seed < seeds; ++seed) {
      const auto e =
          evaluate(fields, p, divergence, {.probes = 1, .law = law, .seed = static_cast<std::uint64_t>(seed)})
              .divergence;
      for (std::size_t i = 0; i < 19; ++i) {
        mean[i] += e[i] / double(seeds);
        square[i] += double(e[i]) * e[i] / seeds;
      }
    }
    for (std::size_t i = 0; i < 19; ++i) {
      const double deviation = std::sqrt((square[i] - mean[i] * mean[i]) / seeds);
      EXPECT_LE(std::fabs(mean[i] - exact.divergence[i]), 5 * deviation) << i;
    }
  }
}

TYPED_TEST(FieldsOf, ARademacherProbeIsExactInOneDimension) {
  using T = TypeParam;
  for (const Output output : {Output::potential, Output::score}) {
    const auto a = architecture_of(1, {30, 9}, Activation::silu, 1, output);
    const Model model = model_of(a, SdeKind::ve, 2);
    const Problem p = make_problem(1, model.sde, 99, false, 3);
    const Fields<T> fields(cpu(), model);
    const std::vector<T> exact = evaluate(fields, p, divergence).divergence;
    EXPECT_TRUE(
        agrees(evaluate(fields, p, divergence, {.probes = 3}).divergence, exact,
               rounding<T>(rounding_deviations(model, p).divergence, p.n(), {exact.begin(), exact.end()}, both_sides)));
  }
}

// Only the trace is estimated: R̂ + ½ g² Δ̂ = R + ½ g² Δ.
TYPED_TEST(FieldsOf, TheResidualTakesTheEstimateOfTheLaplacian) {
  using T = TypeParam;
  for (const SdeKind kind : {SdeKind::ou, SdeKind::subvp}) {
    const auto a = architecture_of(5, {30, 9}, Activation::softplus, 5, Output::potential);
    const Model model = model_of(a, kind, 2);
    const Problem p = make_problem(5, model.sde, 99, false, 3);
    const auto sde = testing::reference_sde(model.sde);
    const Fields<T> fields(cpu(), model);
    const auto exact = evaluate(fields, p, residual | divergence);
    const Expected deviations = deviations_with_probes(model, p, rounding_deviations(model, p));
    for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
      const Divergence how{.probes = 2, .law = law, .seed = 9};
      const auto estimated = evaluate(fields, p, residual | divergence, how);
      std::vector<double> rest_exact, rest_estimated;
      for (std::int64_t i = 0; i < p.n(); ++i) {
        const double half = sde.diffusion_squared(p.t[i]) / 2;
        rest_exact.push_back(exact.residual[i] + half * exact.divergence[i]);
        rest_estimated.push_back(estimated.residual[i] + half * estimated.divergence[i]);
      }
      EXPECT_TRUE(agrees(rest_estimated, rest_exact,
                         rounding<T>(deviations.residual_in_double, p.n(), rest_exact, both_sides)));
      EXPECT_NE(estimated.divergence, exact.divergence);
      // The same probes with or without the other output.
      EXPECT_EQ(evaluate(fields, p, residual, how).residual, estimated.residual);
    }
  }
}

TYPED_TEST(FieldsOf, ProbesAreAFunctionOfSeedAndIndexAlone) {
  using T = TypeParam;
  const std::int64_t d = 3;
  for (const Output output : {Output::potential, Output::score}) {
    const auto a = architecture_of(d, {15, 40}, Activation::sine, 1, output);
    const Model model = model_of(a, SdeKind::ou, 2);
    const Problem p = make_problem(d, model.sde, 989, false, 3);
    const auto t = as<T>(p.t), x = as<T>(p.x);
    for (const ProbeLaw law : {ProbeLaw::rademacher, ProbeLaw::gaussian}) {
      const Divergence how{.probes = 2, .law = law, .seed = 21, .first_index = (std::uint64_t{1} << 40) - 100};
      const auto whole = evaluate(Fields<T>(cpu(1), model), t, x, d, divergence, how).divergence;
      const Fields<T> fields(cpu(3), model);
      std::vector<T> parts;
      for (std::int64_t first = 0, n = 1; first < 989; first += n, n = std::min<std::int64_t>(3 * n + 1, 989 - first)) {
        const std::vector<T> part_t(t.begin() + first, t.begin() + first + n),
            part_x(x.begin() + first * d, x.begin() + (first + n) * d);
        Divergence part = how;
        part.first_index += static_cast<std::uint64_t>(first);
        const auto r = evaluate(fields, part_t, part_x, d, divergence, part).divergence;
        parts.insert(parts.end(), r.begin(), r.end());
        if (first + n == 989) break;
      }
      EXPECT_EQ(parts, whole);
      Divergence other_seed = how, other_index = how;
      ++other_seed.seed;
      ++other_index.first_index;
      EXPECT_NE(evaluate(fields, t, x, d, divergence, other_seed).divergence, whole);
      EXPECT_NE(evaluate(fields, t, x, d, divergence, other_index).divergence, whole);
    }
  }
}

// ---- a point's result is its own -----------------------------------------------------------------------------------

// Also beside points whose numbers are so large that activations leave their usual path, or not finite at all.
TYPED_TEST(FieldsOf, APointsResultDependsOnNeitherItsBatchNorTheThreads) {
  using T = TypeParam;
  const std::int64_t d = 2, n = 989;
  const auto bits = [](const std::vector<T>& v) {
    std::vector<std::uint64_t> words(v.size());
    for (std::size_t i = 0; i < v.size(); ++i) {
      const T e = std::isnan(v[i]) ? std::numeric_limits<T>::quiet_NaN() : v[i];  // its sign and payload say nothing
      std::memcpy(&words[i], &e, sizeof(T));
    }
    return words;
  };
  for (const Activation activation : Activations::all) {
    for (const Output output : {Output::potential, Output::score}) {
      for (const bool wild : {false, true}) {
        SCOPED_TRACE(fmt::format("{}, {}{}", to_string(activation), to_string(output), wild ? ", wild points" : ""));
        const auto a = architecture_of(d, {31, 19, 7}, activation, 20, output);
        if (!has_all_fields(a)) continue;
        const Model model = model_of(a, SdeKind::ou, 13);
        const Problem p = make_problem(d, model.sde, n, false, 14);
        const auto t = as<T>(p.t);
        auto x = as<T>(p.x);
        if (wild) {
          for (std::int64_t i = 5; i < n; i += 97) x[2 * i] = T(1e30);
          for (std::int64_t i = 11; i < n; i += 101) x[2 * i + 1] = T(3e4);
          for (std::int64_t i = 17; i < n; i += 103) x[2 * i] = std::numeric_limits<T>::quiet_NaN();
          for (std::int64_t i = 23; i < n; i += 107) x[2 * i] = std::numeric_limits<T>::infinity();
        }
        const unsigned all = all_of(output);
        const Result<T> one = evaluate(Fields<T>(cpu(1), model), t, x, d, all);
        for (const int threads : {2, 3, 7}) {
          const Result<T> more = evaluate(Fields<T>(cpu(threads), model), t, x, d, all);
          std::vector<std::vector<T>> expected;
          for_each_quantity<T>(one, [&](Quantity, const char*, const std::vector<T>& v) { expected.push_back(v); });
          std::size_t at = 0;
          for_each_quantity<T>(more, [&](Quantity, const char* name, const std::vector<T>& v) {
            EXPECT_EQ(bits(v), bits(expected[at++])) << name << ", " << threads << " threads";
          });
        }
        const Fields<T> fields(cpu(2), model);
        for (const std::int64_t size : {1, 19, 64, 99, 500}) {
          Result<T> parts;
          for (std::int64_t first = 0; first < n; first += size) {
            const std::int64_t count = std::min(size, n - first);
            const std::vector<T> part_t(t.begin() + first, t.begin() + first + count),
                part_x(x.begin() + first * d, x.begin() + (first + count) * d);
            const Result<T> r = evaluate(fields, part_t, part_x, d, all);
            std::vector<const std::vector<T>*> from;
            for_each_quantity<T>(r, [&](Quantity, const char*, const std::vector<T>& v) { from.push_back(&v); });
            std::size_t at = 0;
            for_each_quantity<T>(parts, [&](Quantity, const char*, std::vector<T>& v) {
              v.insert(v.end(), from[at]->begin(), from[at]->end());
              ++at;
            });
          }
          std::vector<std::vector<T>> expected;
          for_each_quantity<T>(one, [&](Quantity, const char*, const std::vector<T>& v) { expected.push_back(v); });
          std::size_t at = 0;
          for_each_quantity<T>(parts, [&](Quantity, const char* name, const std::vector<T>& v) {
            EXPECT_EQ(bits(v), bits(expected[at++])) << name << ", " << size << " at a time";
          });
        }
        // One time for all is that time for each.
        const Result<T> same_time = evaluate(fields, {t[3]}, x, d, all),
                        each_time = evaluate(fields, std::vector<T>(n, t[3]), x, d, all);
        std::vector<std::vector<T>> expected;
        for_each_quantity<T>(each_time, [&](Quantity, const char*, const std::vector<T>& v) { expected.push_back(v); });
        std::size_t at = 0;
        for_each_quantity<T>(same_time, [&](Quantity, const char* name, const std::vector<T>& v) {
          EXPECT_EQ(bits(v), bits(expected[at++])) << name << ", one time";
        });
      }
    }
  }
}

TYPED_TEST(FieldsOf, ProductsWithTheHessianDependOnNeitherBatchNorThreads) {
  using T = TypeParam;
  for (const Output output : {Output::potential, Output::score}) {
    const auto a = architecture_of(3, {31, 19, 7}, Activation::softplus, 20, output);
    const Model model = model_of(a, SdeKind::ou, 13);
    const Problem p = make_problem(3, model.sde, 989, false, 14);
    const auto whole = hessian_vector(Fields<T>(cpu(1), model), p);
    for (const int threads : {2, 3}) EXPECT_EQ(hessian_vector(Fields<T>(cpu(threads), model), p), whole);
    const Fields<T> fields(cpu(), model);
    for (const std::int64_t size : {1, 99}) {
      std::vector<T> parts;
      for (std::int64_t first = 0; first < 989; first += size) {
        const std::int64_t last = std::min<std::int64_t>(first + size, 989);
        const Problem q{3,
                        {p.t.begin() + first, p.t.begin() + last},
                        {p.x.begin() + 3 * first, p.x.begin() + 3 * last},
                        {p.direction.begin() + 3 * first, p.direction.begin() + 3 * last}};
        const auto r = hessian_vector(fields, q);
        parts.insert(parts.end(), r.begin(), r.end());
      }
      EXPECT_EQ(parts, whole) << size << " at a time";
    }
  }
}

TYPED_TEST(FieldsOf, MovedFieldsGoOn) {
  using T = TypeParam;
  const auto a = architecture_of(2, {9}, Activation::tanh, 1, Output::potential);
  const Model model = model_of(a, SdeKind::ou, 1);
  const Problem p = make_problem(2, model.sde, 19, false, 2);
  Fields<T> fields(cpu(), model);
  const auto before = evaluate(fields, p, kOfPotential);
  Fields<T> moved(std::move(fields));
  EXPECT_EQ(evaluate(moved, p, kOfPotential), before);
}

// ---- refusals ------------------------------------------------------------------------------------------------------

TYPED_TEST(FieldsOf, RefusesWhatDoesNotFit) {
  using T = TypeParam;
  using O = FieldOutputs<T>;
  using ::testing::AllOf;
  using ::testing::HasSubstr;
  const std::int64_t n = 19, d = 3;
  const Model potential = model_of(architecture_of(d, {5}, Activation::tanh, 1, Output::potential), SdeKind::ou, 1);
  const Model vector_net = model_of(architecture_of(d, {5}, Activation::tanh, 1, Output::score), SdeKind::ou, 1);
  const Fields<T> fields(cpu(1), potential), vector_fields(cpu(1), vector_net);
  std::vector<T> t(n, T(1)), x(n * d, T(0.5)), out(n * d * d, T(7));
  const Points<T> points{View<const T>(t), View<const T>(x, d)};
  const View<T> column(out.data(), n, 1), matrix(out.data(), n, d), square(out.data(), n, d * d);
  const auto refusal = [&](const Fields<T>& f, const Points<T>& at, const FieldOutputs<T>& o,
                           const Divergence& how = {}) {
    const std::vector<T> before = out;
    const std::string message = message_of([&] { f.evaluate(at, o, how); });
    EXPECT_EQ(out, before);
    return message;
  };

  // What a vector net does not have.
  EXPECT_THAT(refusal(vector_fields, points, just(&O::value, column)), AllOf(HasSubstr("value"), HasSubstr("score")));
  EXPECT_THAT(refusal(vector_fields, points, just(&O::dt, column)), HasSubstr("time derivative"));
  EXPECT_THAT(refusal(vector_fields, points, just(&O::residual, column)),
              AllOf(HasSubstr("residual"), HasSubstr("not there yet")));

  // Shapes.
  EXPECT_THAT(refusal(fields, {View<const T>(t.data(), 18), points.x}, just(&O::value, column)),
              AllOf(HasSubstr("t has shape [18, 1]"), HasSubstr("[19, 1]")));
  EXPECT_THAT(refusal(fields, {View<const T>(t.data(), 0), points.x}, just(&O::value, column)),
              HasSubstr("t has shape [0, 1]"));
  EXPECT_THAT(refusal(fields, {points.t, View<const T>(x.data(), n, 2)}, just(&O::value, column)),
              AllOf(HasSubstr("x has shape [19, 2]"), HasSubstr("[19, 3]")));
  EXPECT_THAT(refusal(fields, {points.t, View<const T>(x.data(), -1, d)}, just(&O::value, column)), HasSubstr("-1"));
  EXPECT_THAT(refusal(fields, {points.t, View<const T>(nullptr, n, d)}, just(&O::value, column)), HasSubstr("no data"));
  EXPECT_THAT(refusal(fields, {View<const T>(nullptr, n), points.x}, just(&O::value, column)), HasSubstr("no data"));
  EXPECT_THAT(refusal(fields, points, just(&O::value, View<T>(out.data(), 18, 1))),
              HasSubstr("value has shape [18, 1]"));
  EXPECT_THAT(refusal(fields, points, just(&O::dt, matrix)), HasSubstr("dt has shape [19, 3]"));
  EXPECT_THAT(refusal(fields, points, just(&O::score, column)), HasSubstr("score has shape [19, 1]"));
  EXPECT_THAT(refusal(fields, points, just(&O::divergence, matrix)), HasSubstr("divergence has shape [19, 3]"));
  EXPECT_THAT(refusal(fields, points, just(&O::hessian, matrix)), AllOf(HasSubstr("hessian"), HasSubstr("[19, 9]")));
  EXPECT_THAT(refusal(fields, points, just(&O::residual, square)), HasSubstr("residual has shape [19, 9]"));
  EXPECT_THAT(refusal(fields, {View<const T>(t.data(), n, 1, Device::cuda), points.x}, just(&O::value, column)),
              AllOf(HasSubstr("cuda"), HasSubstr("cpu")));
  EXPECT_THAT(refusal(fields, points, just(&O::score, View<T>(out.data(), n, d, Device::cuda))), HasSubstr("cuda"));
  // One output that does not fit spoils the others.
  FieldOutputs<T> both = just(&O::value, column);
  both.score = column;
  EXPECT_THAT(refusal(fields, points, both), HasSubstr("score"));

  EXPECT_THAT(refusal(fields, points, just(&O::divergence, column), {.probes = -1}),
              AllOf(HasSubstr("-1"), HasSubstr("probes")));

  // Products with the Hessian.
  const auto product_refusal = [&](View<const T> direction, View<T> product) {
    const std::vector<T> before = out;
    const std::string message = message_of([&] { fields.hessian_vector(points, direction, product); });
    EXPECT_EQ(out, before);
    return message;
  };
  EXPECT_THAT(product_refusal(View<const T>(t), matrix), HasSubstr("direction has shape [19, 1]"));
  EXPECT_THAT(product_refusal(points.x, column), HasSubstr("product has shape [19, 1]"));
  EXPECT_THAT(product_refusal({}, matrix), HasSubstr("direction"));

  // A Hessian of too many entries.
  const Model large = model_of(architecture_of(65, {4}, Activation::tanh, 1, Output::potential), SdeKind::ou, 1);
  std::vector<T> far(65, T(0.1)), entries(65 * 65);
  EXPECT_THAT(message_of([&] {
                Fields<T>(cpu(1), large)
                    .evaluate({View<const T>(t.data(), 1), View<const T>(far, 65)},
                              just(&O::hessian, View<T>(entries, 65 * 65)));
              }),
              AllOf(HasSubstr("65"), HasSubstr("64")));

  // Models that are not valid.
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity(), 1e39}) {
    Model broken = potential;
    std::get<Mlp>(broken.network).parameters[2] = bad;
    EXPECT_THAT(message_of([&] { Fields<T>(cpu(1), broken); }), AllOf(HasSubstr("input.weight"), HasSubstr("finite")));
  }
  Model short_of_one = potential;
  std::get<Mlp>(short_of_one.network).parameters.pop_back();
  EXPECT_THAT(message_of([&] { Fields<T>(cpu(1), short_of_one); }), HasSubstr("parameters"));
  Model no_width = potential;
  std::get<Mlp>(no_width.network).architecture.hidden = {0};
  EXPECT_THAT(message_of([&] { Fields<T>(cpu(1), no_width); }), HasSubstr("width 0"));
}

TYPED_TEST(FieldsOf, NoPointsAreNoWork) {
  using T = TypeParam;
  const Model model = model_of(architecture_of(2, {5}, Activation::tanh, 1, Output::potential), SdeKind::ou, 1);
  const Fields<T> fields(cpu(), model);
  std::vector<T> out(9, T(7)), t(1, T(1));
  const View<const T> none(out.data(), 0, 2);
  const FieldOutputs<T> outputs{.value = View<T>(out.data(), 0, 1),
                                .dt = View<T>(out.data(), 0, 1),
                                .score = View<T>(out.data(), 0, 2),
                                .divergence = View<T>(out.data(), 0, 1),
                                .hessian = View<T>(out.data(), 0, 4),
                                .residual = View<T>(out.data(), 0, 1)};
  fields.evaluate({View<const T>(t), none}, outputs);
  fields.evaluate({View<const T>(t.data(), 0), none}, outputs, {.probes = 2});
  fields.hessian_vector({View<const T>(t), none}, none, View<T>(out.data(), 0, 2));
  EXPECT_EQ(out, std::vector<T>(9, T(7)));
}

// ---- the published checkpoints -------------------------------------------------------------------------------------

class PublishedFields : public ::testing::TestWithParam<const char*> {
 protected:
  // What the reference file holds of each field.
  struct Published {
    Model model;
    SafeTensors reference;
    Problem p;
    std::vector<double> of(const char* name) const { return reference.at(name).to_double(); }
  };
  static Published load(const std::string& folder) {
    const std::string stem = folder + "/checkpoints/" + GetParam();
    Published f{load_model(stem + ".safetensors"), SafeTensors::load(stem + ".reference.safetensors"), {2, {}, {}, {}}};
    f.p.t = f.of("t");
    f.p.x = f.of("x");
    f.p.direction.assign(f.p.x.size(), 1.0);
    return f;
  }

  // What the file has of all outputs, under their names.
  template <class R>
  static auto listed(const R& r) {
    std::decay_t<decltype(r.hessian)> xy;
    for (std::size_t i = 1; i < r.hessian.size(); i += 4) xy.push_back(r.hessian[i]);
    struct Listed {
      const char *name, *in_file;
      decltype(xy) numbers;
    };
    return std::vector<Listed>{{"value", "phi", r.value},     {"dt", "dphi_dt", r.dt},
                               {"score", "score", r.score},   {"divergence", "laplacian", r.divergence},
                               {"hessian", "hessian_xy", xy}, {"residual", "residual", r.residual}};
  }
};

TEST_P(PublishedFields, EveryField) {
  const std::string folder = testing::paper_data();
  if (folder.empty()) return;
  const Published f = load(folder);
  const auto& mlp = std::get<Mlp>(f.model.network);
  ASSERT_EQ(f.p.n(), 512);

  // At βz = 20 softplus jumps: σ′ by e^−20, σ″ by β e^−20. Two computations in double may stand on different sides
  // where a pre-activation of some unit is nearer to it than its rounding, some 1e-13; these points are left out, at
  // most one in a hundred. In float nothing is: the jumps are far below its rounding.
  const auto net = testing::reference_network(mlp.architecture, mlp.parameters);
  std::vector<char> comparable(512);
  std::size_t left_out = 0;
  for (std::size_t i = 0; i < 512; ++i) {
    comparable[i] = testing::distance_to_jump(net, {f.p.t[i]}, {f.p.x[2 * i], f.p.x[2 * i + 1]}) > 1e-10;
    left_out += !comparable[i];
  }
  RecordProperty("left_out", static_cast<int>(left_out));
  EXPECT_LE(left_out, 5u);

  const auto narrow = listed(evaluate(Fields<float>(cpu(), f.model), f.p, kOfPotential));
  const auto wide = listed(evaluate(Fields<double>(cpu(), f.model), f.p, kOfPotential));
  const auto deviations = listed(rounding_deviations(f.model, f.p));
  for (std::size_t q = 0; q < narrow.size(); ++q) {
    const std::vector<double> expected = f.of(narrow[q].in_file);
    SCOPED_TRACE(narrow[q].name);
    EXPECT_TRUE(agrees(narrow[q].numbers, expected, rounding<float>(deviations[q].numbers, 512, expected, one_side)));

    std::vector<double> compared, compared_expected, compared_deviations;
    const std::size_t columns = expected.size() / 512;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (!comparable[i / columns]) continue;
      compared.push_back(wide[q].numbers[i]);
      compared_expected.push_back(expected[i]);
      compared_deviations.push_back(deviations[q].numbers[i]);
    }
    Bound bound =
        rounding<double>(compared_deviations, static_cast<std::int64_t>(512 - left_out), compared_expected, both_sides);
    // PyTorch writes 1 − s for the other half of σ″ = β s (1 − s), so where it is small it keeps its absolute error.
    bound.each.clear();
    bound.relative = 1e-9;
    EXPECT_TRUE(agrees(compared, compared_expected, bound));
  }
}

// The probability-flow map of the reference file: Euler's scheme on the paper's grid. It is stiff near t = 0, so paths
// that leave |x| < 4 are left out, at most one in twenty.
TEST_P(PublishedFields, TheProbabilityFlowMap) {
  const std::string folder = testing::paper_data();
  if (folder.empty()) return;
  const Published f = load(folder);
  std::vector<double> start = f.of("ode_x_T");
  const std::vector<double> end = f.of("ode_x_0");
  ASSERT_EQ(start.size(), 2 * 512u);
  const std::size_t n = 256;  // of the file's paths: as many as take a second or two
  start.resize(2 * n);

  // In double: the paper's steps written out, with the library's score. Beside each path goes one that shows what
  // rounding makes of it: its state is rounded to float after every step, and its score errs by as much as the largest
  // element does above, 7e-6 of its size, at random.
  const auto rows = static_cast<std::int64_t>(n);
  std::vector<double> x = start, s(4 * n);
  x.insert(x.end(), start.begin(), start.end());
  std::vector<char> stays(n, 1);
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> uniform(-7e-6, 7e-6);
  const Fields<double> fields(cpu(1), f.model);  // calls this small are not worth a meeting of threads
  for (int k = 0; k < 890; ++k) {
    const double step = k < 790 ? 10.0 / 800 : 10.0 / 8000;
    const std::vector<double> t = {k < 790 ? 10 - k * step : 10 - 790 * 10.0 / 800 - (k - 790) * step};
    fields.evaluate({View<const double>(t), View<const double>(x.data(), 2 * rows, 2)},
                    just(&FieldOutputs<double>::score, View<double>(s, 2)));
    for (std::size_t i = 0; i < 2 * n; ++i) {
      x[i] += step * (x[i] + s[i] / 2);
      if (!(std::fabs(x[i]) < 4)) stays[i / 2] = 0;
      double& beside = x[2 * n + i];
      beside = static_cast<float>(beside + step * (beside + s[2 * n + i] * (1 + uniform(random)) / 2));
    }
  }
  // In float: the sampler.
  std::vector<float> narrow(start.begin(), start.end());
  Sampler(cpu(), f.model, TimeGrid::paper(10)).integrate(View<float>(narrow, 2), {.scheme = Scheme::euler});

  std::vector<double> wide_error, narrow_error, rounding_error;
  for (std::size_t i = 0; i < n; ++i) {
    if (!stays[i]) continue;
    const auto error = [&](const auto& at) {
      const double e = std::hypot(at[0] - end[2 * i], at[1] - end[2 * i + 1]);
      EXPECT_TRUE(std::isfinite(e)) << i;
      return e;
    };
    wide_error.push_back(error(&x[2 * i]));
    narrow_error.push_back(error(&narrow[2 * i]));
    rounding_error.push_back(error(&x[2 * n + 2 * i]));
  }
  ASSERT_GE(double(wide_error.size()), 0.95 * double(n));
  const auto quantile = [](std::vector<double> v, double q) {
    std::sort(v.begin(), v.end());
    return v[static_cast<std::size_t>(q * double(v.size() - 1))];
  };
  EXPECT_LE(quantile(wide_error, 1), 1e-11);
  // Paths part where the map is stiff, which ones is chance: quantiles of the errors, each with two standard errors of
  // a quantile of n on the side of what is compared with, 2 √(q (1 − q)/n).
  for (const double q : {0.5, 0.75, 0.9, 0.95}) {
    EXPECT_LE(quantile(narrow_error, q),
              quantile(rounding_error, std::min(1.0, q + 2 * std::sqrt(q * (1 - q) / double(n)))))
        << q;
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, PublishedFields, ::testing::ValuesIn(testing::paper_checkpoints),
                         [](const auto& test) { return testing::name_in_test(test.param); });

}  // namespace
}  // namespace fokker
