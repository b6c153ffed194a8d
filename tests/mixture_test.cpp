// Exact fields of Gaussian mixtures on the CPU against the direct formulas of reference_mixture.hpp.
#include "fokker/mixture.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <random>

#include "compare.hpp"
#include "cpu/block_field.hpp"
#include "fokker/fields.hpp"
#include "reference_mixture.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::HasSubstr;
using namespace fokker::testing;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class T>
struct Values {
  std::vector<T> value, dt, score, divergence, hessian, residual;
};

template <class T>
Values<T> evaluate(const GaussianMixture& mixture, const ForwardSde& sde, const std::vector<T>& t,
                   const std::vector<T>& x, const Divergence& divergence = {}, std::uint64_t first_index = 0) {
  const std::int64_t d = mixture.dimension(), n = static_cast<std::int64_t>(x.size()) / d;
  const auto field = cpu::make_mixture_field<T>(mixture, sde);
  const auto scratch = field->make_scratch();
  Values<T> v{std::vector<T>(n), std::vector<T>(n),         std::vector<T>(n * d),
              std::vector<T>(n), std::vector<T>(n * d * d), std::vector<T>(n)};
  field->evaluate(
      {t.data(), t.size() == 1 ? 0 : 1, x.data(), n, first_index},
      {v.value.data(), v.dt.data(), v.score.data(), v.divergence.data(), v.hessian.data(), v.residual.data()},
      divergence, *scratch);
  return v;
}

class MixtureFields : public ::testing::TestWithParam<std::tuple<int, int>> {};

// Errors: ℓ_k carries a few roundings of its largest term, a few hundred at these points, and so do the posteriors; the
// reference's own slopes are good to 1e-13. So 1e-11 of the rms leaves a factor of ten.
TEST_P(MixtureFields, AgreeWithDirectFormulas) {
  const auto [sde_index, d] = GetParam();
  const ForwardSde sde = all_sdes()[sde_index];
  for (const GaussianMixture& mixture : {random_mixture(d, 1, 5), random_mixture(d, 4, 6), random_mixture(d, 19, 7)}) {
    std::mt19937 generator(11);
    std::normal_distribution<double> normal(0, 1.5);
    for (const double tau : {sde.t_min() / sde.horizon(), 0.03, 0.5, 0.97, 1.0}) {
      const std::int64_t n = 19;
      std::vector<double> x(n * d);
      for (double& entry : x) entry = normal(generator);
      const double t = tau * sde.horizon();
      const auto actual = evaluate(mixture, sde, std::vector<double>(n, t), x);
      Values<Long> expected;
      std::vector<double> terms;
      for (std::int64_t i = 0; i < n; ++i) {
        const Reference r = reference(mixture, sde, t, x.data() + i * d);
        expected.value.push_back(r.value), expected.dt.push_back(r.dt), expected.divergence.push_back(r.laplacian);
        expected.score.insert(expected.score.end(), r.score.begin(), r.score.end());
        expected.hessian.insert(expected.hessian.end(), r.hessian.begin(), r.hessian.end());
        const auto c = sde.at<double>(t);
        Long square = 0;
        for (const Long s : r.score) square += s * s;
        terms.push_back(double(std::abs(r.dt) + std::abs(c.drift) * d +
                               c.diffusion_squared / 2 * (std::abs(r.laplacian) + square)));
      }
      SCOPED_TRACE(fmt::format("{} components, t = {}", mixture.components(), t));
      const Bound bound{.of_rms = 1e-11, .norm = 3e-12};
      EXPECT_TRUE(agrees(actual.value, expected.value, Bound{.of_rms = 1e-13, .norm = 1e-13}));
      // Near the stationary law 2 a S and g² cancel in S′: what is left carries the rounding of its terms.
      const double rounding = 1e-15 * *std::max_element(terms.begin(), terms.end());
      EXPECT_TRUE(agrees(actual.dt, expected.dt, Bound{.of_rms = 1e-11, .norm = 3e-12, .absolute = rounding}));
      EXPECT_TRUE(agrees(actual.score, expected.score, bound));
      EXPECT_TRUE(agrees(actual.divergence, expected.divergence, bound));
      EXPECT_TRUE(agrees(actual.hessian, expected.hessian, bound));
      // The exact potential satisfies its Fokker–Planck equation: the terms cancel to their rounding.
      for (std::int64_t i = 0; i < n; ++i) {
        EXPECT_LE(std::abs(actual.residual[i]), 1e-12 * terms[i]) << "point " << i;
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EverySdeAndDimension, MixtureFields,
                         ::testing::Combine(::testing::Range(0, 7), ::testing::Values(1, 2, 3, 16)), sde_and_dimension);

TEST(Mixture, IsotropicComponents) {
  const ForwardSde sde;
  std::mt19937 generator(3);
  std::normal_distribution<double> normal(0, 2);
  const std::int64_t n = 989;
  std::vector<double> t(n), x(2 * n);
  std::vector<Long> value, score, laplacian, dt;
  for (std::int64_t i = 0; i < n; ++i) {
    t[i] = std::exp(std::uniform_real_distribution<double>(std::log(1e-4), std::log(10.0))(generator));
    x[2 * i] = normal(generator), x[2 * i + 1] = normal(generator);
    const Reference r = reference(blob(), sde, t[i], x.data() + 2 * i);
    value.push_back(r.value), laplacian.push_back(r.laplacian), dt.push_back(r.dt);
    score.insert(score.end(), r.score.begin(), r.score.end());
  }
  const auto actual = evaluate(blob(), sde, t, x);
  const Bound bound{.of_rms = 1e-12, .norm = 1e-12};
  EXPECT_TRUE(agrees(actual.value, value, bound));
  EXPECT_TRUE(agrees(actual.score, score, bound));
  EXPECT_TRUE(agrees(actual.divergence, laplacian, bound));
  EXPECT_TRUE(agrees(actual.dt, dt, bound));
}

// At |x| = 1000 the densities are far below the smallest double. ℓ ≈ −1e7 carries 1e-9, and so do the posteriors where
// two components compete (on the symmetry axis of the blob they are equal, so no error there).
TEST(Mixture, FarTails) {
  const ForwardSde sde;
  std::vector<double> t, x;
  std::vector<Long> value, score, hessian, dt;
  for (const double time : {1e-4, 0.1, 1.0, 10.0}) {
    for (const auto& [u, v] : {std::array{1e3, 0.}, {-1e3, 1e3}, {700., 0.01}, {0., -1e3}}) {
      t.push_back(time), x.push_back(u), x.push_back(v);
      const double point[] = {u, v};
      const Reference r = reference(blob(), sde, time, point);
      value.push_back(r.value), dt.push_back(r.dt);
      score.insert(score.end(), r.score.begin(), r.score.end());
      hessian.insert(hessian.end(), r.hessian.begin(), r.hessian.end());
    }
  }
  const auto actual = evaluate(blob(), sde, t, x);
  EXPECT_TRUE(agrees(actual.value, value, Bound{.relative = 1e-14, .norm = 1e-14}));
  EXPECT_TRUE(agrees(actual.dt, dt, Bound{.relative = 1e-8, .norm = 1e-9}));
  EXPECT_TRUE(agrees(actual.score, score, Bound{.relative = 1e-9, .of_rms = 1e-12, .norm = 1e-12}));
  EXPECT_TRUE(agrees(actual.hessian, hessian, Bound{.of_rms = 1e-7, .norm = 1e-7}));
  for (std::size_t i = 0; i < t.size(); ++i) {
    const auto c = sde.at<double>(t[i]);
    const double square = std::pow(actual.score[2 * i], 2) + std::pow(actual.score[2 * i + 1], 2);
    EXPECT_LE(std::abs(actual.residual[i]), 1e-12 * (std::abs(actual.dt[i]) + c.diffusion_squared * square)) << i;
  }
}

TEST(Mixture, AtTimeZeroItIsTheData) {
  const GaussianMixture mixture = random_mixture(3, 2, 9);
  const std::vector<double> x{0.1, -0.2, 0.3, 1, 2, -1};
  const auto actual = evaluate(mixture, ForwardSde{}, {0.0}, x);
  // t = 1e-18 is 0 to the reference: m = 1, σ² = 1e-18.
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(
        agrees(actual.value[i], double(reference(mixture, ForwardSde{}, 1e-18L, x.data() + 3 * i).value), 1e-12));
  }
}

TEST(Mixture, SingularDataAtTimeZeroAreInfiniteWhereTheDensityIs) {
  const auto points = GaussianMixture::isotropic(2, {1, 1}, {1, 0, -1, 0}, {0, 0});
  const auto at_points = evaluate<double>(points, ForwardSde{}, {0.0}, {1, 0, -1, 0, 1, 0.5, 0, 0});
  EXPECT_EQ(at_points.value, (std::vector<double>{kInfinity, kInfinity, -kInfinity, -kInfinity}));
  EXPECT_EQ(at_points.score[0], 0);
  EXPECT_EQ(at_points.score[1], 0);
  EXPECT_EQ(at_points.score[4], 0);
  EXPECT_EQ(at_points.score[5], -kInfinity);
  EXPECT_EQ(at_points.divergence[0], -kInfinity);
  EXPECT_TRUE(std::isnan(at_points.residual[0]));

  // A line: finite along it, flat across.
  const GaussianMixture line(2, {1}, {0, 0}, {1, 0, 0, 0});
  const auto on_line = evaluate<float>(line, ForwardSde{}, {0.0f}, {0.5f, 0.0f, 0.5f, 1.0f});
  EXPECT_EQ(on_line.value[0], std::numeric_limits<float>::infinity());
  EXPECT_EQ(on_line.value[1], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(on_line.score[0], -0.5f);
  EXPECT_EQ(on_line.score[1], 0.0f);
  EXPECT_EQ(on_line.score[3], -std::numeric_limits<float>::infinity());

  // At the smallest training time all is finite again.
  const auto later = evaluate<double>(points, ForwardSde{}, {1e-4}, {1, 0, -1, 0, 1, 0.5, 0, 0});
  for (const auto& field : {later.value, later.dt, later.score, later.divergence, later.hessian, later.residual}) {
    for (const double v : field) EXPECT_TRUE(std::isfinite(v));
  }
}

TEST(Mixture, NanStaysInItsPoint) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto clean = evaluate<double>(blob(), ForwardSde{}, {0.5}, {0.1, 0.2, 0.3, 0.4, 0.5, 0.6});
  const auto marked = evaluate<double>(blob(), ForwardSde{}, {0.5}, {0.1, 0.2, nan, 0.4, 0.5, 0.6});
  EXPECT_TRUE(std::isnan(marked.value[1]) && std::isnan(marked.score[2]) && std::isnan(marked.residual[1]));
  EXPECT_EQ(marked.value[0], clean.value[0]);
  EXPECT_EQ(marked.value[2], clean.value[2]);
  EXPECT_EQ(marked.residual[2], clean.residual[2]);
}

TEST(Mixture, FloatIsDoubleRounded) {
  const auto mixture = random_mixture(3, 4, 21);
  std::mt19937 generator(4);
  std::vector<float> t{0.25f}, x(3 * 99);
  for (float& entry : x) entry = std::normal_distribution<float>(0, 2)(generator);
  const auto in_float = evaluate<float>(mixture, ForwardSde{}, t, x);
  const auto in_double = evaluate<double>(mixture, ForwardSde{}, {0.25}, std::vector<double>(x.begin(), x.end()));
  const Bound rounding{.relative = 6e-8, .norm = 6e-8};
  EXPECT_TRUE(agrees(in_float.value, in_double.value, rounding));
  EXPECT_TRUE(agrees(in_float.score, in_double.score, rounding));
  EXPECT_TRUE(agrees(in_float.dt, in_double.dt, rounding));
  EXPECT_TRUE(agrees(in_float.divergence, in_double.divergence, rounding));
  EXPECT_TRUE(agrees(in_float.hessian, in_double.hessian, rounding));
}

TEST(Mixture, HessianTimesVector) {
  for (const std::int64_t d : {1, 2, 7}) {
    for (const auto& mixture : {random_mixture(d, 3, 17),
                                GaussianMixture::isotropic(d, {1, 2}, std::vector<double>(2 * d, 0.3), {0.1, 0.4})}) {
      std::mt19937 generator(8);
      std::normal_distribution<double> normal;
      const std::int64_t n = 19;
      std::vector<double> x(n * d), v(n * d), product(n * d), expected(n * d, 0.0), t(n, 0.3);
      for (double& entry : x) entry = normal(generator);
      for (double& entry : v) entry = normal(generator);
      const auto fields = evaluate(mixture, ForwardSde{}, t, x);
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t r = 0; r < d; ++r) {
          for (std::int64_t c = 0; c < d; ++c)
            expected[i * d + r] += fields.hessian[(i * d + r) * d + c] * v[i * d + c];
        }
      }
      const auto field = cpu::make_mixture_field<double>(mixture, ForwardSde{});
      const auto scratch = field->make_scratch();
      field->hessian_vector({t.data(), 1, x.data(), n}, v.data(), product.data(), *scratch);
      EXPECT_TRUE(agrees(product, expected, Bound{.of_rms = 1e-13, .norm = 1e-13})) << d;
    }
  }
}

class MixtureHutchinson : public ::testing::TestWithParam<std::tuple<ProbeLaw, int, int>> {};

// Estimates at one place for many sample indices are independent draws: mean Δφ, variance over k probes
// 2 Σ_{i≠j} H_ij²/k (Rademacher) or 2 ‖H‖²/k (Gaussian) (Hutchinson 1989).
TEST_P(MixtureHutchinson, IsUnbiasedWithItsVariance) {
  const auto [law, probes, d] = GetParam();
  const auto mixture = random_mixture(d, 2, 31);
  const std::int64_t n = 20000;
  std::vector<double> x;
  for (std::int64_t i = 0; i < n; ++i) {
    for (int j = 0; j < d; ++j) x.push_back(0.3 - 0.2 * j);
  }
  const auto exact = evaluate<double>(mixture, ForwardSde{}, {0.2}, std::vector<double>(x.begin(), x.begin() + d));
  const auto estimates =
      evaluate<double>(mixture, ForwardSde{}, {0.2}, x, Divergence{.probes = probes, .law = law, .seed = 77}, 1000);
  double variance = 0;
  for (int i = 0; i < d; ++i) {
    for (int j = 0; j < d; ++j) {
      if (law == ProbeLaw::gaussian || i != j) variance += 2 * std::pow(exact.hessian[i * d + j], 2) / probes;
    }
  }
  double mean = 0, second = 0, fourth = 0;
  for (const double e : estimates.divergence) mean += e / n;
  for (const double e : estimates.divergence) {
    second += std::pow(e - mean, 2) / n;
    fourth += std::pow(e - mean, 4) / n;
  }
  if (variance == 0) {  // one dimension, signs only: exact
    EXPECT_TRUE(agrees(mean, exact.divergence[0], 1e-12));
    EXPECT_LE(second, 1e-20 * exact.divergence[0] * exact.divergence[0]);
    return;
  }
  // Five standard deviations of the mean and of the sample variance; the seed is fixed, so this passes always or never.
  EXPECT_NEAR(mean, exact.divergence[0], 5 * std::sqrt(variance / n));
  EXPECT_NEAR(second, variance, 5 * std::sqrt((fourth - second * second) / n));
  // The residual uses the same estimate: −½ g² times its error.
  for (const std::int64_t i : {std::int64_t{0}, n / 2, n - 1}) {
    EXPECT_NEAR(estimates.residual[i], -0.5 * (estimates.divergence[i] - exact.divergence[0]),
                1e-11 * std::abs(exact.divergence[0]));
  }
}
std::string law_probes_dimension(const ::testing::TestParamInfo<std::tuple<ProbeLaw, int, int>>& test) {
  const auto [law, probes, d] = test.param;
  return fmt::format("{}_k{}_d{}", law == ProbeLaw::gaussian ? "gaussian" : "rademacher", probes, d);
}
INSTANTIATE_TEST_SUITE_P(LawsProbesDimensions, MixtureHutchinson,
                         ::testing::Combine(::testing::Values(ProbeLaw::rademacher, ProbeLaw::gaussian),
                                            ::testing::Values(1, 4), ::testing::Values(1, 2, 3, 16)),
                         law_probes_dimension);

TEST(Mixture, ProbesBelongToTheSampleIndex) {
  const auto mixture = random_mixture(3, 2, 31);
  std::mt19937 generator(5);
  std::vector<double> x(3 * 99);
  for (double& entry : x) entry = std::normal_distribution<double>()(generator);
  const Divergence divergence{.probes = 3, .law = ProbeLaw::gaussian, .seed = 5};
  const auto whole = evaluate<double>(mixture, ForwardSde{}, {0.7}, x, divergence, 40);
  const auto tail =
      evaluate<double>(mixture, ForwardSde{}, {0.7}, std::vector<double>(x.begin() + 3 * 50, x.end()), divergence, 90);
  EXPECT_EQ(std::vector<double>(whole.divergence.begin() + 50, whole.divergence.end()), tail.divergence);
  EXPECT_NE(whole.divergence[0], evaluate<double>(mixture, ForwardSde{}, {0.7}, x, divergence, 41).divergence[0]);
}

TEST(Mixture, PublicFieldsAreTheSameForAnyNumberOfThreads) {
  const auto mixture = random_mixture(2, 4, 12);
  for (const std::int64_t n : {0, 1, 19, 989}) {
    std::mt19937 generator(6);
    std::vector<double> t(n), x(2 * n);
    for (double& entry : t) entry = std::uniform_real_distribution<double>(1e-4, 10)(generator);
    for (double& entry : x) entry = std::normal_distribution<double>(0, 2)(generator);
    const Divergence divergence{.probes = 2, .law = ProbeLaw::gaussian, .seed = 3, .first_index = 7};
    const auto expected = evaluate(mixture, ForwardSde{}, t, x, divergence, 7);
    for (const int threads : {1, 3}) {
      const Fields<double> fields(Context({.threads = threads}), {ForwardSde{}, mixture});
      std::vector<double> value(n), dt(n), score(2 * n), trace(n), hessian(4 * n), residual(n);
      FieldOutputs<double> outputs;
      outputs.value = View<double>(value), outputs.dt = View<double>(dt), outputs.score = View<double>(score, 2);
      outputs.divergence = View<double>(trace), outputs.hessian = View<double>(hessian, 4);
      outputs.residual = View<double>(residual);
      fields.evaluate({View<const double>(t), View<const double>(x, 2)}, outputs, divergence);
      EXPECT_EQ(value, expected.value);
      EXPECT_EQ(dt, expected.dt);
      EXPECT_EQ(score, expected.score);
      EXPECT_EQ(trace, expected.divergence);
      EXPECT_EQ(hessian, expected.hessian);
      EXPECT_EQ(residual, expected.residual);
    }
  }
}

TEST(GaussianMixture, EigenvectorsRebuildTheCovariance) {
  for (const std::int64_t d : {1, 2, 3, 16, 40}) {
    for (const double floor : {0.05, 0.0}) {
      const auto mixture = random_mixture(d, 2, 100 + unsigned(d), floor);
      for (std::int64_t k = 0; k < 2; ++k) {
        const double *q = mixture.eigenvectors().data() + k * d * d, *lambda = mixture.eigenvalues().data() + k * d;
        std::vector<double> rebuilt(d * d, 0.0), gram(d * d, 0.0), identity(d * d, 0.0);
        for (std::int64_t i = 0; i < d; ++i) {
          identity[i * d + i] = 1;
          EXPECT_GE(lambda[i], 0);
          for (std::int64_t j = 0; j < d; ++j) {
            for (std::int64_t e = 0; e < d; ++e) {
              rebuilt[i * d + j] += q[e * d + i] * lambda[e] * q[e * d + j];
              gram[i * d + j] += q[i * d + e] * q[j * d + e];
            }
          }
        }
        const double* c = mixture.covariances().data() + k * d * d;
        EXPECT_TRUE(agrees(rebuilt, std::vector<double>(c, c + d * d), Bound{.of_rms = 1e-13, .norm = 1e-13}));
        EXPECT_TRUE(agrees(gram, identity, Bound{.norm = 1e-13, .absolute = 1e-13}));
      }
    }
  }
}

TEST(GaussianMixture, NormalisesItsWeights) {
  const auto mixture = GaussianMixture::isotropic(1, {1, 2, 5}, {0, 1, 2}, {1, 1, 1});
  EXPECT_TRUE(agrees(mixture.weights(), std::vector<double>{0.125, 0.25, 0.625}, Bound{}));
  EXPECT_TRUE(agrees(mixture.cumulative_weights(), std::vector<double>{0.125, 0.375, 1}, Bound{}));
}

TEST(GaussianMixture, RefusesWhatIsNoMixture) {
  using G = GaussianMixture;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(message_of([] { G(0, {1}, {}, {}); }), HasSubstr("dimension of 1 to 4096, and 0"));
  EXPECT_THAT(message_of([] { G(-2, {1}, {}, {}); }), HasSubstr("and -2 was given"));
  EXPECT_THAT(message_of([] { G::isotropic(-2, {1}, {}, {1}); }), HasSubstr("and -2 was given"));
  EXPECT_THAT(message_of([] { G::diagonal(5000, {1}, {}, {}); }), HasSubstr("dimension of 1 to 4096, and 5000"));
  EXPECT_THAT(message_of([] { G(1, {}, {}, {}); }), HasSubstr("at least one component"));
  EXPECT_THAT(message_of([] { G(2, {1}, {0}, {1, 0, 0, 1}); }), HasSubstr("needs 2 numbers for its means, and 1"));
  EXPECT_THAT(message_of([] {
                G(2, {1}, {0, 0}, {1, 0, 0});
              }),
              HasSubstr("needs 4 numbers for its covariances, and 3"));
  EXPECT_THAT(message_of([] { G(1, {1, 0}, {0, 0}, {1, 1}); }), HasSubstr("weight 1 is 0"));
  EXPECT_THAT(message_of([] { G(1, {-1}, {0}, {1}); }), HasSubstr("weight 0 is -1"));
  EXPECT_THAT(message_of([&] { G(1, {nan}, {0}, {1}); }), HasSubstr("weights must be finite"));
  EXPECT_THAT(message_of([] { G(1, {1e308, 1e308}, {0, 0}, {1, 1}); }), HasSubstr("finite sum"));
  EXPECT_THAT(message_of([] { G(1, {1, kInfinity}, {0, 0}, {1, 1}); }), HasSubstr("weights must be finite"));
  EXPECT_THAT(message_of([&] { G(1, {1}, {nan}, {1}); }), HasSubstr("means must be finite"));
  EXPECT_THAT(message_of([&] { G(1, {1}, {0}, {kInfinity}); }), HasSubstr("covariances must be finite"));
  EXPECT_THAT(message_of([] { G(2, {1}, {0, 0}, {1, 0.1, 0.2, 1}); }), HasSubstr("symmetric, and covariance 0"));
  EXPECT_THAT(message_of([] {
                G(2, {1}, {0, 0}, {1, 2, 2, 1});
              }),
              HasSubstr("no negative eigenvalue, and covariance 0 has"));
  EXPECT_THAT(message_of([] { G(1, {1}, {0}, {-1}); }), HasSubstr("no negative eigenvalue"));
  EXPECT_THAT(message_of([] { G::isotropic(1, {1}, {0}, {1, 2}); }), HasSubstr("as many variances, and 2"));
  for (const std::int64_t d : {-1, 0, 5000}) {
    const std::string refused = fmt::format("a dimension of 1 to 4096, and {} was given", d);
    EXPECT_THAT(message_of([&] { G::isotropic(d, {1}, {0}, {1}); }), HasSubstr(refused));
    EXPECT_THAT(message_of([&] { G::diagonal(d, {1}, {0}, std::vector<double>(5000, 1.0)); }), HasSubstr(refused));
  }
  // Rounding of a decimal file is no fault; neither is a singular covariance.
  EXPECT_NO_THROW(G(2, {1}, {0, 0}, {1, 0.1 + 1e-12, 0.1, 1}));
  EXPECT_NO_THROW(G(2, {1}, {0, 0}, {1, 1, 1, 1}));
}

}  // namespace
}  // namespace fokker
