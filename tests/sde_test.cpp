// Forward SDEs against their defining equations, written here from the published drift and diffusion alone: the moments
// m′ = a m, (σ²)′ = 2 a σ² + g² are integrated numerically in long double and share no closed form with the library.
#include "fokker/sde.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "fokker/error.hpp"
#include "fokker/time_grid.hpp"
#include "scratch.hpp"
#include "sde_parameters.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::Bound;
using testing::parameters_of;
using Wide = long double;

// Nichol and Dhariwal's schedule is kept from its pole: β stays constant from here on.
constexpr Wide cosine_last = 0.9946L;

struct Case {
  const char* label;
  ForwardSde sde;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.label; }

// β of the variance-preserving family, in unit time.
Wide reference_beta(const ForwardSde& sde, Wide t) {
  const Wide tau = t / sde.horizon(), p = parameters_of(sde).p, q = parameters_of(sde).q;
  if (sde.kind() == SdeKind::ddpm) return testing::ddpm_integral(sde, t).rate;
  if (sde.kind() != SdeKind::vp_cosine) return p + (q - p) * tau;
  const Wide angle = std::numbers::pi_v<Wide> / 2 * (std::min(tau, cosine_last) + p) / (1 + p);
  return std::numbers::pi_v<Wide> / (1 + p) / sde.horizon() * std::sin(angle) / std::cos(angle);
}

Wide reference_drift(const ForwardSde& sde, Wide t) {
  if (sde.kind() == SdeKind::ou) return -Wide(parameters_of(sde).p);
  if (sde.kind() == SdeKind::flow) return -1 / (1 - t);
  return sde.kind() == SdeKind::ve || sde.kind() == SdeKind::edm ? 0 : -reference_beta(sde, t) / 2;
}

// integral = ∫_0^t β, which sub-VP's diffusion contains.
Wide reference_diffusion_squared(const ForwardSde& sde, Wide t, Wide integral) {
  const Wide p = parameters_of(sde).p, q = parameters_of(sde).q, T = sde.horizon();
  switch (sde.kind()) {
    case SdeKind::ou: return q * q;
    case SdeKind::ve: {  // dx = σ_min (σ_max/σ_min)^τ √(2 log(σ_max/σ_min)/T) dW
      const Wide scale = p * std::pow(q / p, t / T);
      return scale * scale * 2 * std::log(q / p) / T;
    }
    case SdeKind::edm: return 2 * t;
    case SdeKind::flow: return 2 * t / (1 - t);
    case SdeKind::subvp: return -reference_beta(sde, t) * std::expm1(-2 * integral);
    default: return reference_beta(sde, t);
  }
}

struct Moments {
  Wide mean = 1, variance = 0, integral = 0;
};

Moments derivative(const ForwardSde& sde, Wide t, const Moments& y) {
  const Wide a = reference_drift(sde, t);
  return {a * y.mean, 2 * a * y.variance + reference_diffusion_squared(sde, t, y.integral), -2 * a};
}

// Classical Runge–Kutta from s to t.
template <class Derivative>
Moments runge_kutta(const Derivative& derivative, Moments y, Wide s, Wide t, int steps) {
  const Wide h = (t - s) / steps;
  const auto moved = [](const Moments& a, Wide c, const Moments& b) {
    return Moments{a.mean + c * b.mean, a.variance + c * b.variance, a.integral + c * b.integral};
  };
  for (int i = 0; i < steps; ++i) {
    const Wide u = s + h * i;
    const Moments k1 = derivative(u, y), k2 = derivative(u + h / 2, moved(y, h / 2, k1)),
                  k3 = derivative(u + h / 2, moved(y, h / 2, k2)), k4 = derivative(u + h, moved(y, h, k3));
    y = moved(moved(moved(moved(y, h / 6, k1), h / 3, k2), h / 3, k3), h / 6, k4);
  }
  return y;
}

Moments integrate(const ForwardSde& sde, Moments y, Wide s, Wide t, int steps) {
  if (sde.kind() != SdeKind::ddpm) {
    return runge_kutta([&](Wide u, const Moments& at) { return derivative(sde, u, at); }, y, s, t, steps);
  }
  // Step by step, each with its own constant β.
  const std::vector<double> betas = sde.betas();
  const Wide width = Wide(sde.horizon()) / Wide(betas.size());
  for (std::size_t j = 0; j < betas.size(); ++j) {
    const Wide begin = std::max(s, Wide(j) * width), end = j + 1 < betas.size() ? std::min(t, Wide(j + 1) * width) : t;
    if (!(begin < end)) continue;
    const Wide beta = -std::log1p(-Wide(betas[j])) / width;
    const auto constant = [&](Wide, const Moments& at) {
      return Moments{-beta / 2 * at.mean, beta * (1 - at.variance), beta};
    };
    y = runge_kutta(constant, y, begin, end, 1 + int(Wide(steps) * (end - begin) / (t - s)));
  }
  return y;
}

// How many times larger than the rounding of their arguments the relative error of the coefficients at t may be: the
// exponents' size, and for the cosine schedule the nearness of its angle to the pole at π/2, where cos and tan are
// taken.
Wide condition(const ForwardSde& sde, Wide t) {
  const Wide tau = t / sde.horizon();
  const auto [p, q] = parameters_of(sde);
  switch (sde.kind()) {
    case SdeKind::ou: return 1 + 2 * p * t;
    case SdeKind::ve: return 1 + 2 * std::log(Wide(q) / p);
    case SdeKind::edm: return 1;
    case SdeKind::flow: return 1 / (1 - t);
    case SdeKind::vp_cosine: {
      const Wide inner = std::min(tau, cosine_last);
      return 1 + std::numbers::pi_v<Wide> * reference_beta(sde, inner * sde.horizon()) * sde.horizon() / 2 +
             reference_beta(sde, sde.horizon()) * (tau - inner) * sde.horizon();
    }
    case SdeKind::ddpm: {  // −ln ᾱ, and how a rounding of the time changes it
      const auto [integral, rate] = testing::ddpm_integral(sde, t);
      return 1 + integral + rate * t * (1 + 1 / integral);
    }
    default: return 1 + t * (p + tau * (q - p) / 2);
  }
}

template <class T>
void expect_coefficients(const ForwardSde& sde, T t, const Moments& moments) {
  SCOPED_TRACE(fmt::format("t = {}", t));
  const SdeCoefficients<T> c = sde.at(t);
  // About eight roundings on the way to each number. At a sub-normal or tiny result the type's own range is the limit.
  const auto bound = static_cast<double>(8 * condition(sde, t) * std::numeric_limits<T>::epsilon());
  const double least = std::numeric_limits<T>::min();
  using testing::agrees;
  EXPECT_TRUE(agrees(double(c.drift), double(reference_drift(sde, t)), bound)) << "drift";
  EXPECT_TRUE(
      agrees(double(c.diffusion_squared), double(reference_diffusion_squared(sde, t, moments.integral)), bound, least))
      << "diffusion";
  EXPECT_TRUE(agrees(double(c.mean), double(moments.mean), bound, least)) << "mean";
  EXPECT_TRUE(agrees(double(c.variance), double(moments.variance), bound, least)) << "variance";
}

class EverySde : public ::testing::TestWithParam<Case> {};

TEST_P(EverySde, MomentsSolveTheirEquationsIntegratedNumerically) {
  const ForwardSde sde = GetParam().sde;
  // 200 000 steps in all: with rates up to 400 per horizon the truncation error, (rate h)^5/120 a step, is below 1e-13
  // at the end. The last node but one of these is where the cosine schedule has its kink: no step straddles it.
  const std::vector<Wide> taus = {0, 0.001L, 0.01L, 0.1L, 0.25L, 0.5L, 0.75L, 0.9L, 0.98L, cosine_last, 1};
  Moments moments;
  for (std::size_t k = 1; k < taus.size(); ++k) {
    const Wide s = taus[k - 1] * sde.horizon();
    // The double nearest to the node, so that library and reference stand at the same time.
    const Wide t = static_cast<double>(taus[k] * sde.horizon());
    moments = integrate(sde, moments, static_cast<double>(s), t, 20000);
    expect_coefficients<double>(sde, static_cast<double>(t), moments);
  }
}

TEST_P(EverySde, FloatCoefficientsAreAsGoodAsFloatAllows) {
  const ForwardSde sde = GetParam().sde;
  for (const double tau : {1e-6, 1e-4, 0.01, 0.3, 0.7, 0.95, 0.999}) {
    const auto t = static_cast<float>(tau * sde.horizon());
    expect_coefficients<float>(sde, t, integrate(sde, {}, 0, t, tau > 0.9 ? 20000 : 2000));
  }
}

TEST_P(EverySde, NoDigitsAreLostAtSmallTimes) {
  const ForwardSde sde = GetParam().sde;
  for (const double tau : {1e-15, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3}) {
    const double t = tau * sde.horizon();
    expect_coefficients<double>(sde, t, integrate(sde, {}, 0, t, 500));
    const auto t_float = static_cast<float>(t);
    expect_coefficients<float>(sde, t_float, integrate(sde, {}, 0, t_float, 500));
  }
}

TEST_P(EverySde, DerivativesMatchDifferencesOfTheClosedForms) {
  const ForwardSde sde = GetParam().sde;
  // Eighth-order central differences: the truncation error (rate h)^8/630 and the rounding 1e-19/h stay below 1e-12 of
  // the rate for rates up to 400 per horizon.
  const Wide h = 1e-4L * sde.horizon();
  const Wide weights[] = {4.0L / 5, -1.0L / 5, 4.0L / 105, -1.0L / 280};
  for (const double tau : {0.001, 0.02, 0.2, 0.5, 0.8, 0.96, 0.997}) {
    SCOPED_TRACE(fmt::format("tau = {}", tau));
    Wide t = Wide(tau) * sde.horizon();
    if (const auto steps = Wide(sde.betas().size()); steps > 0) {  // β jumps where a step ends
      t = (std::floor(t / sde.horizon() * steps) + 0.5L) * sde.horizon() / steps;
    }
    Wide mean_slope = 0, variance_slope = 0;
    for (int k = 1; k <= 4; ++k) {
      const auto after = sde.at(t + k * h), before = sde.at(t - k * h);
      mean_slope += weights[k - 1] * (after.mean - before.mean) / h;
      variance_slope += weights[k - 1] * (after.variance - before.variance) / h;
    }
    const auto c = sde.at(t);
    const Wide rate = std::abs(c.drift) + 1 / Wide(sde.horizon());
    const auto tolerance = [&](Wide size) { return static_cast<double>(1e-12L * rate * size); };
    EXPECT_TRUE(testing::agrees(double(mean_slope), double(c.drift * c.mean), 0, tolerance(c.mean)));
    EXPECT_TRUE(testing::agrees(double(variance_slope), double(2 * c.drift * c.variance + c.diffusion_squared), 0,
                                tolerance(c.variance + c.diffusion_squared / rate)));
  }
}

TEST_P(EverySde, TransitionsCompose) {
  // From the library's moments at s, the equations lead to its moments at t: one kernel after another is a kernel.
  const ForwardSde sde = GetParam().sde;
  for (const auto& [from, to] : {std::pair(0.05, 0.3), std::pair(0.3, 0.6), std::pair(0.1, 0.9)}) {
    const double s = from * sde.horizon(), t = to * sde.horizon();
    const auto start = sde.at<Wide>(s);
    // ∫β up to s, which sub-VP needs, follows from m² = e^{−∫β}.
    const Moments there = integrate(sde, {start.mean, start.variance, -2 * std::log(start.mean)}, s, t, 20000);
    expect_coefficients<double>(sde, t, there);
  }
}

TEST_P(EverySde, StartsFromThePoint) {
  const ForwardSde sde = GetParam().sde;
  EXPECT_EQ(sde.at(0.0).mean, 1);
  EXPECT_EQ(sde.at(0.0).variance, 0);
  EXPECT_EQ(sde.at(0.0f).mean, 1);
  EXPECT_EQ(sde.at(0.0f).variance, 0);
}

TEST_P(EverySde, PriorIsWhatTheDataTendTo) {
  const ForwardSde sde = GetParam().sde;
  const double prior = sde.prior_variance();
  if (sde.kind() == SdeKind::ve || sde.kind() == SdeKind::edm || sde.kind() == SdeKind::flow) {
    const Moments end = integrate(sde, {}, 0, sde.horizon(), 20000);
    EXPECT_TRUE(testing::agrees(prior, double(end.variance), 1e-13));
    return;
  }
  // Stationary: 2 a P + g² = 0, exactly for ou and VP; for sub-VP up to e^{−2∫β}.
  for (const double tau : {0.1, 0.5, 0.9}) {
    const double t = tau * sde.horizon();
    const Moments there = integrate(sde, {}, 0, t, 2000);
    const double rest = sde.kind() == SdeKind::subvp ? double(std::exp(-2 * there.integral)) : 0;
    const auto a = double(reference_drift(sde, t)), g2 = double(reference_diffusion_squared(sde, t, there.integral));
    EXPECT_TRUE(testing::agrees(2 * a * prior + g2, 2 * a * rest, 0, 1e-12 * std::abs(a)));
  }
}

TEST_P(EverySde, NameAndParametersReadBack) {
  const ForwardSde sde = GetParam().sde, back = ForwardSde::parse(sde.name(), sde.parameters_json());
  EXPECT_EQ(back.kind(), sde.kind());
  EXPECT_EQ(parameters_of(back).p, parameters_of(sde).p);
  EXPECT_EQ(parameters_of(back).q, parameters_of(sde).q);
  EXPECT_EQ(back.horizon(), sde.horizon());
  EXPECT_EQ(back.t_min(), sde.t_min());
  EXPECT_EQ(back.betas(), sde.betas());
  EXPECT_NE(ForwardSde::describe_all().find(sde.name()), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Sde, EverySde,
    ::testing::Values(Case{"ou_paper", ForwardSde{}}, Case{"ou", ForwardSde::ou({0.7, 1.9, 3, 1e-37})},
                      Case{"vp_linear_default", ForwardSde::defaults(SdeKind::vp_linear)},
                      Case{"vp_linear", ForwardSde::vp_linear({0.3, 5, 2.5, 1.0 / 3})},
                      Case{"vp_linear_constant", ForwardSde::vp_linear({2, 2, 1, 1e-3})},
                      Case{"vp_cosine_default", ForwardSde::defaults(SdeKind::vp_cosine)},
                      Case{"vp_cosine", ForwardSde::vp_cosine({0.05, 4, 1e-3})},
                      Case{"subvp_default", ForwardSde::defaults(SdeKind::subvp)},
                      Case{"subvp", ForwardSde::subvp({0.3, 5, 2.5, 1e-3})},
                      Case{"ve_default", ForwardSde::defaults(SdeKind::ve)},
                      Case{"ve", ForwardSde::ve({0.2, 3, 1.7, 1e-3})}, Case{"edm_default", ForwardSde::edm()},
                      Case{"flow", ForwardSde::flow({.horizon = 0.9})}, Case{"ddpm_default", ForwardSde::ddpm()},
                      Case{"ddpm_cosine", ForwardSde::ddpm(CosineBetas{.steps = 19}, 2.5)},
                      Case{"ddpm_given", ForwardSde::ddpm(std::vector{0.2, 1e-3, 0.9, 0.45, 0.07}, 1, 1e-4)}),
    [](const auto& test) { return std::string(test.param.label); });

TEST(SdeDefaults, AreThoseOfThePaperAndOfTheLiterature) {
  const auto expect = [](const ForwardSde& sde, const char* parameters) {
    EXPECT_EQ(ForwardSde::parse(sde.name()).parameters_json(), parameters);
    EXPECT_EQ(ForwardSde::defaults(sde.kind()).parameters_json(), parameters);
    EXPECT_EQ(sde.parameters_json(), parameters);
  };
  expect(ForwardSde(), R"({"rate":1.0,"g":1.0,"T":10.0,"t_min":0.0001})");
  expect(ForwardSde::ou(), R"({"rate":1.0,"g":1.0,"T":10.0,"t_min":0.0001})");
  expect(ForwardSde::vp_linear(), R"({"beta_min":0.1,"beta_max":20.0,"T":1.0,"t_min":0.001})");
  expect(ForwardSde::subvp(), R"({"beta_min":0.1,"beta_max":20.0,"T":1.0,"t_min":0.001})");
  expect(ForwardSde::vp_cosine(), R"({"s":0.008,"T":1.0,"t_min":0.001})");
  expect(ForwardSde::ve(), R"({"sigma_min":0.01,"sigma_max":50.0,"T":1.0,"t_min":0.001})");
  expect(ForwardSde::edm(), R"({"T":80.0,"t_min":0.002})");
  expect(ForwardSde::flow(), R"({"T":0.999,"t_min":0.001})");
  expect(ForwardSde::ddpm(),
         R"({"steps":1000,"schedule":"linear","beta_start":0.0001,"beta_end":0.02,"T":1000.0,"t_min":1.0})");
}

// The SDE of the tutorial on score models (Song 2021): dx = σ^t dW on [0, 1], whose variance is (σ^{2t} − 1)/(2 ln σ).
TEST(SdeDefaults, OfVeGiveTheExponentialOfTheTutorial) {
  const double sigma = 25, least = 1 / std::sqrt(2 * std::log(sigma));
  const ForwardSde sde = ForwardSde::ve({.sigma_min = least, .sigma_max = sigma * least, .t_min = 1e-5});
  for (const double t : {1e-5, 0.001, 0.1, 0.5, 0.9, 1.0}) {
    const auto c = sde.at(t);
    EXPECT_EQ(c.drift, 0);
    EXPECT_EQ(c.mean, 1);
    const Wide log = std::log(Wide(sigma));
    EXPECT_TRUE(agrees(c.diffusion_squared, double(std::exp(2 * t * log)), 1e-14));
    EXPECT_TRUE(agrees(c.variance, double(std::expm1(2 * t * log) / (2 * log)), 1e-14));
  }
}

// ---- DDPM's chain ----

struct Chain {
  const char* label;
  ForwardSde sde;
  std::vector<Wide> betas;  // by the published formulas
};

std::vector<Chain> chains() {
  std::vector<Wide> linear, cosine, given = {0.5L, 0.25L, 0.125L};
  for (int i = 0; i < 1000; ++i) linear.push_back(Wide(1e-4) + (Wide(0.02) - Wide(1e-4)) * i / 999);
  const auto bar = [](Wide tau) {
    return std::pow(std::cos((tau + Wide(0.008)) / (1 + Wide(0.008)) * std::numbers::pi_v<Wide> / 2), 2);
  };
  for (int i = 0; i < 100; ++i) cosine.push_back(std::min(1 - bar((i + 1) / 100.0L) / bar(i / 100.0L), Wide(0.999)));
  return {{"linear", ForwardSde::ddpm(), linear},
          {"cosine", ForwardSde::ddpm(CosineBetas{.steps = 100}), cosine},
          {"given", ForwardSde::ddpm(std::vector{0.5, 0.25, 0.125}), given}};
}

TEST(Ddpm, HasThePublishedBetas) {
  for (const auto& [label, sde, betas] : chains()) {
    EXPECT_TRUE(agrees(sde.betas(), betas, Bound{.relative = 1e-13, .norm = 1e-14})) << label;
    EXPECT_EQ(sde.horizon(), double(betas.size())) << label;
    EXPECT_EQ(sde.t_min(), 1) << label;
  }
  EXPECT_EQ(ForwardSde::ddpm().betas().front(), 1e-4);
  EXPECT_EQ(ForwardSde::ddpm().betas().back(), 0.02);
  EXPECT_EQ(ForwardSde::ddpm(CosineBetas{}).betas().back(), 0.999);
  EXPECT_TRUE(ForwardSde().betas().empty());
}

// ᾱ of j steps is the product of 1 − β; −ln ᾱ is rounded once or twice, and its exponential carries that many times its
// size.
TEST(Ddpm, IsTheChainAtTheEndOfEveryStep) {
  for (const auto& [label, sde, betas] : chains()) {
    const std::vector<double> own = sde.betas();
    const ForwardSde to_one = ForwardSde::ddpm(own, 1);
    const auto n = double(own.size());
    Wide bar = 1, left = 0;  // 1 − ᾱ_j = 1 − ᾱ_{j−1} + ᾱ_{j−1} β_j
    for (std::size_t j = 1; j <= own.size(); ++j) {
      left += bar * Wide(own[j - 1]);
      bar *= 1 - Wide(own[j - 1]);
      const double bound = 4 * std::numeric_limits<double>::epsilon() * (1 - std::log(double(bar)));
      for (const auto& [of, t] : {std::pair{&sde, double(j)}, std::pair{&to_one, double(j) / n}}) {
        const auto c = of->at(t);
        EXPECT_TRUE(agrees(c.mean, double(std::sqrt(bar)), bound)) << label << " " << j;
        // With T = 1 the time itself is rounded.
        EXPECT_TRUE(agrees(c.variance, double(left), of == &sde ? bound : 4 * bound)) << label << " " << j;
        // β is that of the step that ends there, in float too.
        const double beta = -std::log1p(-own[j - 1]) * n / of->horizon();
        EXPECT_TRUE(agrees(c.diffusion_squared, beta, 1e-15)) << label << " " << j;
        EXPECT_TRUE(agrees(double(of->at(float(t)).diffusion_squared), beta, 2e-7)) << label << " " << j;
        EXPECT_EQ(c.drift, -c.diffusion_squared / 2);
      }
    }
  }
}

// ᾱ_1000 of Ho et al.'s betas, as programs print it.
TEST(Ddpm, EndsWhereHosChainDoes) {
  const double m = ForwardSde::ddpm().at(1000.0).mean;
  EXPECT_TRUE(agrees(m * m, 4.0358e-5, 2e-5));
}

TEST(Ddpm, IsLinearInTheLogarithmWithinAStep) {
  for (const auto& [label, sde, betas] : chains()) {
    for (const double share : {1.0 / 64, 0.25, 0.5, 0.75, 63.0 / 64}) {
      for (const double j : {0.0, 1.0, double(betas.size() / 2), double(betas.size() - 1)}) {
        const auto c = sde.at(Wide(j + share));
        const Wide before = std::log(sde.at(Wide(j)).mean), after = std::log(sde.at(Wide(j + 1)).mean);
        EXPECT_TRUE(agrees(double(std::log(c.mean)), double((1 - Wide(share)) * before + Wide(share) * after), 1e-14))
            << label;
        EXPECT_TRUE(agrees(double(c.diffusion_squared), double(2 * (before - after)), 1e-12)) << label;
      }
    }
  }
}

// A uniform grid of N steps is the chain backwards: every step begins with its own β, whatever lerp rounds.
TEST(Ddpm, HasAUniformGridForItsOwn) {
  for (const double horizon : {1000.0, 1.0, 0.7}) {
    const ForwardSde sde = ForwardSde::ddpm({}, horizon);
    const std::vector<double> betas = sde.betas(), times = TimeGrid::uniform(horizon, 0, 1000).times();
    for (std::size_t k = 0; k < 1000; ++k) {
      const double beta = -std::log1p(-betas[999 - k]) * 1000 / horizon;
      ASSERT_TRUE(agrees(sde.at(times[k]).diffusion_squared, beta, 1e-15)) << k;
      ASSERT_TRUE(agrees(double(sde.at(float(times[k])).diffusion_squared), beta, 4e-7)) << k;
    }
  }
}

TEST(Ddpm, OutlivesWhatItWasCopiedFrom) {
  std::optional<ForwardSde> first = ForwardSde::ddpm(CosineBetas{.steps = 100});
  ForwardSde second;
  second = *first;
  const ForwardSde third = std::move(*first);
  const auto expected = first->at(50.0);  // a moved SDE is whole
  first.reset();
  EXPECT_EQ(second.at(50.0).mean, expected.mean);
  EXPECT_EQ(third.at(50.0).mean, expected.mean);
  const SdeFormulas formulas = second.formulas();
  EXPECT_EQ(formulas.at(50.0).mean, expected.mean);
  EXPECT_EQ(testing::message_of([&] { ForwardSde{formulas}; }),
            "the formulas of the SDE ddpm were given without their betas; allowed: ForwardSde::ddpm()");
  EXPECT_LE(sizeof(SdeFormulas), 40u);  // kernels take it by copy
}

TEST(Ddpm, RefusesByASentence) {
  const auto refusal = [](const std::string& parameters) {
    return testing::message_of([&] { ForwardSde::parse("ddpm", parameters); });
  };
  const std::string object = "the parameter object of the SDE ddpm";
  EXPECT_EQ(refusal(R"({"steps": 1})"), "the SDE ddpm has 1 steps: their number must lie between 2 and 100000");
  EXPECT_EQ(refusal(R"({"steps": 100001})"),
            "the SDE ddpm has 100001 steps: their number must lie between 2 and 100000");
  EXPECT_EQ(refusal(R"({"betas": []})"), "the SDE ddpm has 0 steps: their number must lie between 2 and 100000");
  EXPECT_EQ(refusal(R"({"betas": [0.1, 1]})"),
            "the SDE ddpm has beta number 2 = 1: it must lie between 0 and 1, both excluded");
  EXPECT_EQ(refusal(R"({"betas": [0, 0.5]})"),
            "the SDE ddpm has beta number 1 = 0: it must lie between 0 and 1, both excluded");
  EXPECT_EQ(refusal(R"({"beta_start": 0})"),
            "the SDE ddpm has beta_start = 0: it must lie between 0 and 1, both excluded");
  EXPECT_EQ(refusal(R"({"beta_end": 1.5})"),
            "the SDE ddpm has beta_end = 1.5: it must lie between 0 and 1, both excluded");
  EXPECT_EQ(refusal(R"({"schedule": "cosine", "s": 2})"), "the SDE ddpm has s = 2: it must lie between 1e-06 and 1");
  EXPECT_EQ(refusal(R"({"schedule": "sigmoid"})"),
            object + " has the schedule 'sigmoid': allowed are linear and cosine");
  EXPECT_EQ(refusal(R"({"betas": [0.1, 0.2], "schedule": "linear"})"),
            object + " has schedule beside betas: allowed are betas, T, t_min");
  EXPECT_EQ(refusal(R"({"steps": 2, "betas": [0.1, 0.2]})"),
            object + " has steps beside betas: allowed are betas, T, t_min");
  EXPECT_EQ(refusal(R"({"schedule": "cosine", "beta_end": 0.2})"),
            object + " has beta_end beside the schedule cosine: allowed are steps, schedule, s, T, t_min");
  EXPECT_EQ(refusal(R"({"rate": 1})"),
            object + " has no 'rate': allowed are steps, schedule, beta_start, beta_end, s, betas, T, t_min");
  EXPECT_EQ(refusal(R"({"beta_start": "1"})"), object + ": beta_start must be a number");
  EXPECT_EQ(refusal(R"({"T": -1})"), "the SDE ddpm has T = -1: it must lie between 1e-06 and 1000000");
  EXPECT_EQ(refusal(R"({"T": 1, "t_min": 2})"),
            "the SDE ddpm has t_min = 2: it must be at least 1e-36, from where float holds the variance, and below T = "
            "1");
  EXPECT_EQ(refusal(R"({"betas": [1e-300, 0.5]})"),
            "the SDE ddpm has 1e-300 as its first beta: it must be at least 1e-36");
  for (const char* const text : {R"({"steps": 2.5})", R"({"steps": "2"})", R"({"schedule": 1})", R"({"betas": 0.1})",
                                 R"({"betas": ["0.1", 0.2]})", R"({"betas": [0.1, NaN]})", R"({"betas": [[0.1]]})"}) {
    EXPECT_THROW(ForwardSde::parse("ddpm", text), Error) << text;
  }
}

TEST(SdeFactories, KeepTheDefaultsOfWhatIsNotNamed) {
  const ForwardSde sde = ForwardSde::vp_linear({.beta_max = 7, .t_min = 0.01});
  EXPECT_EQ(sde.kind(), SdeKind::vp_linear);
  EXPECT_EQ(sde.parameters_json(), R"({"beta_min":0.1,"beta_max":7.0,"T":1.0,"t_min":0.01})");
  EXPECT_EQ(sde.horizon(), 1);
  EXPECT_EQ(sde.t_min(), 0.01);
}

TEST(SdeParse, ReadsSomeParametersAndKeepsTheOthers) {
  const ForwardSde sde = ForwardSde::parse("vp-linear", R"( {"beta_max": 7, "T": 2e0} )");
  EXPECT_EQ(sde.parameters_json(), R"({"beta_min":0.1,"beta_max":7.0,"T":2.0,"t_min":0.001})");
  EXPECT_EQ(ForwardSde::parse("ou", "{}").horizon(), 10);
}

struct Refused {
  const char *name, *parameters, *message;  // the message must hold this
};

class RefusedSde : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedSde, IsOneSentence) {
  const auto& [name, parameters, message] = GetParam();
  try {
    ForwardSde::parse(name, parameters);
    FAIL() << "accepted";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(message), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 500u) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sde, RefusedSde,
    ::testing::Values(
        Refused{"", "", "ou, vp-linear, vp-cosine, subvp, ve, edm, flow, ddpm"},
        Refused{"flow", "{\"T\": 1.5}", "T = 1.5"}, Refused{"OU", "", "'OU'"}, Refused{"ou\nx", "", "unknown SDE"},
        Refused{"ou", "{\"rate\": 0}", "rate = 0"}, Refused{"ou", "{\"rate\": -1}", "rate = -1"},
        Refused{"ou", "{\"g\": 0}", "g = 0"}, Refused{"ou", "{\"g\": 1e300}", "g = 1e+300"},
        Refused{"ou", "{\"T\": 0}", "T = 0"}, Refused{"ou", "{\"T\": -2}", "T = -2"},
        Refused{"ou", "{\"t_min\": 10}", "below T = 10"}, Refused{"ou", "{\"t_min\": -1e-9}", "t_min"},
        Refused{"ou", "{\"t_min\": 0}", "at least 1e-37"}, Refused{"ou", "{\"t_min\": 1e-38}", "at least 1e-37"},
        Refused{"ou", "{\"g\": 1e-6, \"t_min\": 1e-27}", "at least 1e-25"},         // σ² = 1e-12 t
        Refused{"subvp", "{\"beta_min\": 1, \"t_min\": 1e-20}", "at least 1e-18"},  // σ² = t²
        // As float numbers both sigma are one.
        Refused{"ve", "{\"sigma_max\": 0.01000000001}", "at least inf"},
        Refused{"ou", "{\"T\": 1e999}", "out of range"}, Refused{"ou", "{\"rate\": NaN}", "not valid JSON"},
        Refused{"ou", "{\"rate\": \"1\"}", "must be a number"}, Refused{"ou", "{\"rate\": null}", "must be a number"},
        Refused{"ou", "{\"rate\": true}", "must be a number"}, Refused{"ou", "{\"rate\": {}}", "nested"},
        Refused{"ou", "{\"rate\": 1, \"rate\": 2}", "twice"}, Refused{"ou", "{\"beta_min\": 1}", "rate, g, T, t_min"},
        Refused{"ou", "[]", "JSON object"}, Refused{"ou", "3", "JSON object"},
        Refused{"ou", "{\"rate\": 1", "not valid JSON"}, Refused{"ou", "{} {}", "not valid JSON"},
        Refused{"ou", "{\"\xff\": 1}", "not valid JSON"}, Refused{"vp-linear", "{\"beta_min\": 0}", "beta_min = 0"},
        Refused{"vp-linear", "{\"beta_min\": 30}", "above beta_max"},
        Refused{"subvp", "{\"beta_max\": 0.01}", "above beta_max"}, Refused{"vp-cosine", "{\"s\": 0}", "s = 0"},
        Refused{"vp-cosine", "{\"beta_max\": 1}", "allowed are s, T, t_min"},
        Refused{"ve", "{\"sigma_min\": 0}", "sigma_min = 0"}, Refused{"ve", "{\"sigma_min\": 50}", "below sigma_max"},
        Refused{"ve", "{\"sigma_max\": 1e-3}", "below sigma_max"}));

TEST(SdeParse, RefusesDeepNestingAndZeroBytes) {
  EXPECT_THROW(ForwardSde::parse("ou", std::string(1'000'000, '[')), Error);
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "{\"a\":";
  EXPECT_THROW(ForwardSde::parse("ou", nested), Error);
  EXPECT_THROW(ForwardSde::parse("ou", std::string("{}\0x", 4)), Error);
}

TEST(SdeFactories, RefuseWhatIsNotANumber) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {nan, infinity, -infinity}) {
    for (double OuSde::*member : {&OuSde::rate, &OuSde::g, &OuSde::horizon, &OuSde::t_min}) {
      OuSde parameters;
      parameters.*member = bad;
      EXPECT_THROW(ForwardSde::ou(parameters), Error);
    }
  }
  SdeFormulas unknown;
  unknown.kind = static_cast<SdeKind>(17);
  EXPECT_THROW(ForwardSde{unknown}, Error);
  EXPECT_THROW(ForwardSde::defaults(unknown.kind), Error);
}

}  // namespace
}  // namespace fokker
