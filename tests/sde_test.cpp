// Forward SDEs against their defining equations, written here from the published drift and diffusion alone: the moments
// m′ = a m, (σ²)′ = 2 a σ² + g² are integrated numerically in long double and share no closed form with the library.
#include "fokker/sde.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fokker/error.hpp"
#include "sde_parameters.hpp"

namespace fokker {
namespace {

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
Moments integrate(const ForwardSde& sde, Moments y, Wide s, Wide t, int steps) {
  const Wide h = (t - s) / steps;
  const auto moved = [](const Moments& a, Wide c, const Moments& b) {
    return Moments{a.mean + c * b.mean, a.variance + c * b.variance, a.integral + c * b.integral};
  };
  for (int i = 0; i < steps; ++i) {
    const Wide u = s + h * i;
    const Moments k1 = derivative(sde, u, y), k2 = derivative(sde, u + h / 2, moved(y, h / 2, k1)),
                  k3 = derivative(sde, u + h / 2, moved(y, h / 2, k2)), k4 = derivative(sde, u + h, moved(y, h, k3));
    y = moved(moved(moved(moved(y, h / 6, k1), h / 3, k2), h / 3, k3), h / 6, k4);
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
    const Wide t = Wide(tau) * sde.horizon();
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
  EXPECT_NE(ForwardSde::describe_all().find(sde.name()), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Sde, EverySde,
                         ::testing::Values(Case{"ou_paper", ForwardSde{}},
                                           Case{"ou", ForwardSde::ou({0.7, 1.9, 3, 1e-37})},
                                           Case{"vp_linear_default", ForwardSde::defaults(SdeKind::vp_linear)},
                                           Case{"vp_linear", ForwardSde::vp_linear({0.3, 5, 2.5, 1.0 / 3})},
                                           Case{"vp_linear_constant", ForwardSde::vp_linear({2, 2, 1, 1e-3})},
                                           Case{"vp_cosine_default", ForwardSde::defaults(SdeKind::vp_cosine)},
                                           Case{"vp_cosine", ForwardSde::vp_cosine({0.05, 4, 1e-3})},
                                           Case{"subvp_default", ForwardSde::defaults(SdeKind::subvp)},
                                           Case{"subvp", ForwardSde::subvp({0.3, 5, 2.5, 1e-3})},
                                           Case{"ve_default", ForwardSde::defaults(SdeKind::ve)},
                                           Case{"ve", ForwardSde::ve({0.2, 3, 1.7, 1e-3})},
                                           Case{"edm_default", ForwardSde::edm()},
                                           Case{"flow", ForwardSde::flow({.horizon = 0.9})}),
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
        Refused{"", "", "ou, vp-linear, vp-cosine, subvp, ve, edm, flow"}, Refused{"flow", "{\"T\": 1.5}", "T = 1.5"},
        Refused{"OU", "", "'OU'"}, Refused{"ou\nx", "", "unknown SDE"}, Refused{"ou", "{\"rate\": 0}", "rate = 0"},
        Refused{"ou", "{\"rate\": -1}", "rate = -1"}, Refused{"ou", "{\"g\": 0}", "g = 0"},
        Refused{"ou", "{\"g\": 1e300}", "g = 1e+300"}, Refused{"ou", "{\"T\": 0}", "T = 0"},
        Refused{"ou", "{\"T\": -2}", "T = -2"}, Refused{"ou", "{\"t_min\": 10}", "below T = 10"},
        Refused{"ou", "{\"t_min\": -1e-9}", "t_min"}, Refused{"ou", "{\"t_min\": 0}", "at least 1e-37"},
        Refused{"ou", "{\"t_min\": 1e-38}", "at least 1e-37"},
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
