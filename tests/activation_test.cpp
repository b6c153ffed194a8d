// Activations: the functors' derivatives against finite differences in double, and the vector kernels, with a form of
// their own or by the functor lane by lane, against formulas in long double that share nothing with either, with the
// largest error of each in units in the last place.
#include "fokker/formulas/activation.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/mlp_activations-inl.hpp"
#include "cpu/mlp_primitives.hpp"
#include "fokker/model.hpp"
#include "simd_targets.hpp"
#include "softsign.hpp"

namespace fokker {
namespace {

using Real = long double;

struct Case {
  Activation activation;
  double parameter;
  double sharpness = 1;  // derivative k has the scale of its power k − 1
};
std::vector<Case> every_case() {
  std::vector<Case> cases;
  for (const ActivationTraits& traits : Activations::traits) {
    const Activation activation = traits.activation;
    switch (activation) {
      case Activation::softplus:
        for (const double beta : {100, 20, 1}) cases.push_back({activation, beta, beta});
        break;
      case Activation::leaky_relu:
        for (const double slope : {0.01, 0.3, 1.0}) cases.push_back({activation, slope});
        break;
      case Activation::elu:
        for (const double alpha : {0.3, 1.0, 3.0}) cases.push_back({activation, alpha});
        break;
      default:
        EXPECT_FALSE(traits.has_parameter()) << traits.name << " needs cases of its parameter";
        cases.push_back({activation, 1});
    }
  }
  return cases;
}

TEST(Activation, IsBoundedWhereItSaysSo) {
  for (const ActivationTraits& traits : Activations::traits) {
    double largest = 0;
    with_activation(traits.activation, traits.parameter.usual, [&](const auto& sigma) {
      for (double z = 1; z < 1e9; z *= 7)
        largest = std::max({largest, std::fabs(sigma(z).value), std::fabs(sigma(-z).value)});
    });
    EXPECT_EQ(largest < 100, traits.bounded) << traits.name;
  }
}

TEST(Activation, DerivativesMatchFiniteDifferences) {
  for (const Case& c : every_case()) {
    with_activation(c.activation, c.parameter, [&](auto sigma) {
      // In units of 1/β: a step of 1e-3 has a truncation error of 1e-12/30 of the fifth derivative, which is below 100.
      const double h = 1e-3 / c.sharpness;
      for (double y = -12; y <= 15; y += 0.0137) {
        const double z = y / c.sharpness;
        if (traits_of(c.activation).kinked && std::fabs(y) < 3e-3) continue;  // the stencil would reach over 0
        const auto at = [&](double step) { return sigma(z + step * h); };
        const auto slope = [&](double ActivationValues<double>::*f) {
          return (8 * (at(1).*f - at(-1).*f) - (at(2).*f - at(-2).*f)) / (12 * h);
        };
        const auto v = sigma(z);
        using V = ActivationValues<double>;
        // Rounding of the values divided by the step, and truncation, each in the scale β^k of its derivative.
        const double rounding = 1e-12 * (1 + std::fabs(y));
        EXPECT_NEAR(v.d1, slope(&V::value), rounding + 1e-11) << to_string(c.activation) << " at " << z;
        EXPECT_NEAR(v.d2, slope(&V::d1), c.sharpness * (rounding + 1e-11)) << to_string(c.activation) << " at " << z;
        EXPECT_NEAR(v.d3, slope(&V::d2), c.sharpness * c.sharpness * (rounding + 1e-11))
            << to_string(c.activation) << " at " << z;
      }
    });
  }
}

TEST(Activation, IsKinkedWhereADerivativeJumps) {
  for (const Case& c : every_case()) {
    with_activation(c.activation, c.parameter, [&](const auto& sigma) {
      const auto above = sigma(1e-12), below = sigma(-1e-12);
      const bool jumps =
          std::fabs(above.d1 - below.d1) > 1e-9 || std::fabs(above.d2 - below.d2) > 1e-3 * c.sharpness * c.sharpness;
      const bool identity = c.activation == Activation::leaky_relu && c.parameter == 1;
      EXPECT_EQ(traits_of(c.activation).kinked, jumps || identity) << to_string(c.activation) << c.parameter;
    });
  }
}

TEST(Activation, SoftplusIsLinearAboveItsThreshold) {
  const Softplus sigma{100};
  const auto above = sigma(0.2000001), below = sigma(0.1999999);
  EXPECT_EQ(above.value, 0.2000001);
  EXPECT_EQ(above.d1, 1);
  EXPECT_EQ(above.d2, 0);
  EXPECT_EQ(above.d3, 0);
  EXPECT_GT(below.d2, 0);
  EXPECT_NEAR(below.value, 0.1999999 + 2.0612e-11, 1e-14);
}

// σ and its derivatives, each as its own closed form where one is written here, else the functor's.
std::vector<Real> reference(const Case& c, Real z, bool linear) {
  const Real b = c.parameter, y_most = 40;
  // z F(z), from the derivatives of F.
  const auto times_z = [&](Real f, Real f1, Real f2, Real f3) -> std::vector<Real> {
    return {z * f, f + z * f1, 2 * f1 + z * f2, 3 * f2 + z * f3};
  };
  // scale z above 0 and factor (e^z − 1) below.
  const auto exponential_below = [&](Real scale, Real factor) -> std::vector<Real> {
    if (z > 0) return {scale * z, scale, 0, 0};
    const Real e = factor * std::exp(z);
    return {z < -1 ? e - factor : 2 * factor * std::exp(z / 2) * std::sinh(z / 2), e, e, e};
  };
  switch (c.activation) {
    case Activation::softplus: {
      if (linear) return {z, 1, 0, 0};
      const Real y = b * z, half = std::cosh(y / 2), q = 1 / (4 * half * half);
      return {(y > 0 ? y + std::log1p(std::exp(-y)) : std::log1p(std::exp(y))) / b, 1 / (1 + std::exp(-y)), b * q,
              -b * b * q * std::tanh(y / 2)};
    }
    case Activation::tanh: {
      // 0 beyond |z| = 40, by definition.
      const Real h = std::tanh(z), c1 = std::cosh(z), q = std::fabs(z) > 40 ? 0 : 1 / (c1 * c1);
      return {h, q, -2 * h * q, 2 * q * (3 * h * h - 1)};
    }
    case Activation::silu: {
      const Real s = 1 / (1 + std::exp(-z)), half = std::cosh(z / 2), q = 1 / (4 * half * half), r = -std::tanh(z / 2);
      return {z * s, s + z * q, 2 * q + z * q * r, 3 * q * r + z * q * (r * r - 2 * q)};
    }
    case Activation::sine: return {std::sin(z), std::cos(z), -std::sin(z), -std::cos(z)};
    case Activation::relu: return {z > 0 ? z : 0 * z, z > 0 ? 1 : 0 * z, 0, 0};
    case Activation::leaky_relu: return {z > 0 ? z : b * z, z > 0 ? 1 : b + 0 * z, 0, 0};
    case Activation::elu: return exponential_below(1, b);
    case Activation::selu:
      return exponential_below(1.0507009873554804934193349852946L,
                               1.0507009873554804934193349852946L * 1.6732632423543772848170429916717L);
    case Activation::gelu: {
      if (std::fabs(z) > y_most) return {std::max(z, Real(0)), Real(z > 0), 0, 0};
      const Real density = std::exp(-z * z / 2) / std::sqrt(2 * std::numbers::pi_v<Real>);
      return times_z(std::erfc(-z / std::numbers::sqrt2_v<Real>) / 2, density, -z * density, (z * z - 1) * density);
    }
    case Activation::gelu_tanh: {  // with the logistic function of v = 2 u
      if (std::fabs(z) > y_most) return {std::max(z, Real(0)), Real(z > 0), 0, 0};
      const Real k = 2 * std::sqrt(2 / std::numbers::pi_v<Real>), cubic = 0.044715L * k;
      const Real v = k * z + cubic * z * z * z, v1 = k + 3 * cubic * z * z, v2 = 6 * cubic * z, v3 = 6 * cubic;
      const Real half = std::cosh(v / 2), q = 1 / (4 * half * half), r = -std::tanh(v / 2);
      return times_z(1 / (1 + std::exp(-v)), q * v1, q * (v2 + r * v1 * v1),
                     q * (v3 + 3 * r * v1 * v2 + (r * r - 2 * q) * v1 * v1 * v1));
    }
    case Activation::mish: {
      const Real softplus = z > 40 ? z + std::exp(-z) : std::log1p(std::exp(z)), h = std::tanh(softplus);
      const Real whole = std::cosh(softplus), half = std::cosh(z / 2);
      const Real q = 1 / (whole * whole), s = 1 / (1 + std::exp(-z)), r = 1 / (4 * half * half);
      return times_z(h, q * s, q * (r - 2 * h * s * s),
                     q * (-r * std::tanh(z / 2) - 6 * h * s * r + (4 * h * h - 2 * q) * s * s * s));
    }
    default:
      return with_activation(c.activation, c.parameter, [&](const auto& sigma) -> std::vector<Real> {
        const ActivationValues<Real> v = sigma(z);
        return {v.value, v.d1, v.d2, v.d3};
      });
  }
}

// Errors allowed, in units of the last place (ε) of: the result (`ulps`), plus the largest magnitude of that derivative
// (`of_scale`), which counts where terms of opposite sign cancel.
struct Allowed {
  double ulps, of_scale;
};

// A kernel by its name and call, activate(n, z, h, d1, d2, d3), for n a multiple of `lanes`.
template <class T>
struct Kernel {
  std::string name;
  std::int64_t lanes;
  std::function<void(std::int64_t, const T*, T*, T*, T*, T*)> activate;

  void check(const Case& c, const std::vector<T>& points, const Allowed (&allowed)[4]) const {
    std::vector<T> z = points;
    while (static_cast<std::int64_t>(z.size()) % lanes != 0) z.push_back(T(0));
    const std::size_t n = z.size();
    const auto is_linear = [&](T at) {
      return c.activation == Activation::softplus && static_cast<T>(c.parameter) * at > T(20);
    };
    std::vector<std::vector<Real>> references;
    for (const T at : z) references.push_back(reference(c, at, is_linear(at)));
    // Each combination of wanted outputs has its own kernel or shares the general one.
    double worst[4] = {};
    for (int orders = 1; orders < 16; ++orders) {
      std::vector<T> out[4];
      T* p[4] = {};
      for (int k = 0; k < 4; ++k) {
        if (!(orders >> k & 1)) continue;
        out[k].assign(n, T(77));
        p[k] = out[k].data();
      }
      activate(static_cast<std::int64_t>(n), z.data(), p[0], p[1], p[2], p[3]);
      const Real sharpness = c.sharpness, scales[4] = {0, 1, sharpness, sharpness * sharpness};
      const bool times_z = c.activation == Activation::silu || c.activation == Activation::gelu ||
                           c.activation == Activation::gelu_tanh || c.activation == Activation::mish;
      for (std::size_t i = 0; i < n; ++i) {
        // Within rounding of the threshold either branch is right.
        if (c.activation == Activation::softplus && std::fabs(c.parameter * z[i] - 20) < 1e-5) continue;
        const std::vector<Real>& expected = references[i];
        for (int k = 0; k < 4; ++k) {
          if (!p[k]) continue;
          const Real e = expected[k], a = p[k][i];
          if (std::isnan(e)) {
            ASSERT_TRUE(std::isnan(a)) << describe(c, k, orders) << " at " << z[i] << " is " << a;
            continue;
          }
          if (std::isinf(static_cast<T>(e))) {  // of SELU, whose slope is above 1
            ASSERT_EQ(a, static_cast<T>(e)) << describe(c, k, orders) << " at " << z[i];
            continue;
          }
          // Exponentials below the smallest normal number count as zero: in SiLU and its like times z, in ELU times α.
          const Real alpha = c.activation == Activation::elu ? std::max(c.parameter, 1.0) : 1;
          const Real factor = times_z ? 1 + std::min(std::fabs(Real(z[i])), Real(1000)) : alpha;
          const Real epsilon = std::numeric_limits<T>::epsilon(), tiny = 4 * factor * std::numeric_limits<T>::min();
          const Real error = std::fabs(a - e);
          const Real bound = epsilon * (allowed[k].ulps * std::fabs(e) + allowed[k].of_scale * scales[k]) +
                             tiny * (k == 0 ? 1 : scales[k]);
          ASSERT_TRUE(error <= bound) << describe(c, k, orders) << " at " << z[i] << ": " << a << " where " << e
                                      << " is expected, " << error / (epsilon * std::fabs(e)) << " ulps";
          const Real scale = allowed[k].of_scale > 0 ? std::max(std::fabs(e), scales[k]) : std::fabs(e);
          if (scale > 1e3 * tiny) worst[k] = std::max(worst[k], static_cast<double>(error / (epsilon * scale)));
        }
      }
    }
    print(c, worst);
  }

 private:
  std::string describe(const Case& c, int order, int orders) const {
    return fmt::format("{} {} of {}({}), derivative {}, outputs {:04b}", name, sizeof(T) == 4 ? "float" : "double",
                       to_string(c.activation), c.parameter, order, orders);
  }
  void print(const Case& c, const double (&worst)[4]) const {
    const std::string line = fmt::format("{:.2f} {:.2f} {:.2f} {:.2f}", worst[0], worst[1], worst[2], worst[3]);
    fmt::print("{} {} {}({}): largest errors of the value and derivatives in ulps {}\n", name,
               sizeof(T) == 4 ? "float" : "double", to_string(c.activation), c.parameter, line);
  }
};

template <class T>
std::vector<T> sweep(const Case& c) {
  std::vector<T> z;
  const bool sine = c.activation == Activation::sine;
  const double range = sine ? 1e4 : 110 / c.sharpness;
  const int count = 40'000;
  for (int i = 0; i <= count; ++i) z.push_back(static_cast<T>(range * (2.0 * i / count - 1)));
  for (int i = 0; i <= count; ++i) z.push_back(static_cast<T>(range / (sine ? 3000 : 20) * (2.0 * i / count - 1)));
  for (double m = 1e-37; m < 1e30; m *= 1.37) {
    z.push_back(static_cast<T>(m));
    z.push_back(static_cast<T>(-m));
  }
  for (const double m : {0.0, 1e-40, 1e-45, 88.0, 89.0, 103.0, 104.0, 708.0, 746.0, 3e38}) {
    z.push_back(static_cast<T>(m));
    z.push_back(static_cast<T>(-m));
  }
  z.push_back(std::numeric_limits<T>::max());
  z.push_back(std::numeric_limits<T>::lowest());
  z.push_back(std::numeric_limits<T>::quiet_NaN());
  z.push_back(-std::numeric_limits<T>::quiet_NaN());
  return z;
}

class Activations : public testing::EachTarget {};

// Without fused multiply-adds the product y log₂ e is rounded, by half a unit of itself at most, before its integer
// part is taken off, or y = βz is: e^{−y} is then wrong by up to y/2 units more, y ≤ 88 (708 in double).
template <class T>
void check(const Case& c, const Kernel<T>& kernel, bool fused) {
  const double most = sizeof(T) == 4 ? 88 : 708, e = fused ? 0 : most / 2;
  switch (c.activation) {
    case Activation::softplus: kernel.check(c, sweep<T>(c), {{3 + e, 0}, {3 + e, 0}, {4 + e, 0}, {5 + e, 1}}); break;
    case Activation::tanh: kernel.check(c, sweep<T>(c), {{3, 0}, {4 + e, 0}, {6 + e, 0}, {6 + e, 4}}); break;
    case Activation::silu: kernel.check(c, sweep<T>(c), {{4 + e, 0}, {4 + e, 2}, {4 + e, 2}, {4 + e, 2}}); break;
    case Activation::sine: kernel.check(c, sweep<T>(c), {{2, 0}, {2, 0}, {2, 0}, {2, 0}}); break;
    case Activation::relu: kernel.check(c, sweep<T>(c), {{0, 0}, {0, 0}, {0, 0}, {0, 0}}); break;
    case Activation::leaky_relu: kernel.check(c, sweep<T>(c), {{1, 0}, {1, 0}, {0, 0}, {0, 0}}); break;
    case Activation::elu:
    case Activation::selu: kernel.check(c, sweep<T>(c), {{4 + e, 0}, {4 + e, 0}, {4 + e, 0}, {4 + e, 0}}); break;
    // The functor rounds the argument of erfc, by half a unit of itself and z² ≤ 2 · 88 (708) units of the result.
    case Activation::gelu: kernel.check(c, sweep<T>(c), {{5 + 4 * e, 0}, {4 + e, 4}, {4 + e, 4}, {4 + e, 4}}); break;
    // The argument v of its exponential is off by up to 2 units, and e^{−v} by 2 v.
    case Activation::gelu_tanh:
      kernel.check(c, sweep<T>(c), {{5 + e + 2 * most, 0}, {4 + e, 4}, {4 + e, 4}, {4 + e, 5}});
      break;
    default: kernel.check(c, sweep<T>(c), {{4 + e, 4}, {4 + e, 4}, {4 + e, 4}, {4 + e, 4}}); break;
  }
}

template <class T>
void check_all() {
  const cpu::MlpPrimitives<T>& p = cpu::mlp_primitives<T>();
  for (const Case& c : every_case()) {
    const auto activate = [&](std::int64_t n, const T* z, T* h, T* d1, T* d2, T* d3) {
      p.activate(c.activation, static_cast<T>(c.parameter), n, z, h, d1, d2, d3);
    };
    check<T>(c, {p.target, p.lanes, activate}, std::string(p.target) != "SCALAR");
  }
}

TEST_P(Activations, Float) { check_all<float>(); }
TEST_P(Activations, Double) { check_all<double>(); }

// σ(±∞) where the formulas give a number.
TEST_P(Activations, InfiniteArguments) {
  const auto& p = cpu::mlp_primitives<float>();
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> z(static_cast<std::size_t>(2 * p.lanes), infinity), h(z), d(z), s(z);
  for (std::int64_t i = 0; i < p.lanes; ++i) z[i] = -infinity;
  const auto run = [&](Activation activation, float parameter = 100) {
    p.activate(activation, parameter, 2 * p.lanes, z.data(), h.data(), d.data(), s.data(), nullptr);
  };
  run(Activation::softplus);
  EXPECT_NEAR(h.front(), 0, 1e-37);
  EXPECT_NEAR(d.front(), 0, 1e-37);
  EXPECT_EQ(h.back(), infinity);
  EXPECT_EQ(d.back(), 1);
  EXPECT_EQ(s.back(), 0);
  run(Activation::tanh);
  EXPECT_EQ(h.front(), -1);
  EXPECT_EQ(h.back(), 1);
  EXPECT_EQ(d.back(), 0);
  // σ(−∞), σ′(−∞) and σ′(∞); σ(∞) is ∞ for all of them, and σ″ 0.
  const auto expect = [&](Activation activation, float parameter, float below, float slope_below, float slope) {
    run(activation, parameter);
    EXPECT_EQ(h.back(), infinity) << to_string(activation);
    EXPECT_EQ(d.back(), slope) << to_string(activation);
    EXPECT_EQ(s.back(), 0) << to_string(activation);
    if (std::isinf(below)) {
      EXPECT_EQ(h.front(), below) << to_string(activation);
    } else {
      EXPECT_NEAR(h.front(), below, 1e-6) << to_string(activation);
    }
    EXPECT_NEAR(d.front(), slope_below, 1e-36) << to_string(activation);
    EXPECT_NEAR(s.front(), 0, 1e-36) << to_string(activation);
  };
  expect(Activation::relu, 0, 0, 0, 1);
  expect(Activation::leaky_relu, 0.25f, -infinity, 0.25f, 1);
  expect(Activation::elu, 3, -3, 0, 1);
  expect(Activation::selu, 0, -1.7580993f, 0, 1.050701f);
  for (const Activation activation : {Activation::gelu, Activation::gelu_tanh, Activation::mish}) {
    expect(activation, 0, 0, 0, 1);
  }
  run(Activation::sine);
  EXPECT_TRUE(std::isnan(h.front()) && std::isnan(d.back()));
}

// What every activation would be without its vector form.
template <class T>
void check_lane_by_lane() {
  namespace baseline = cpu::HWY_NAMESPACE;
  for (const Case& c : every_case()) {
    with_activation(c.activation, c.parameter, [&]<class Sigma>(const Sigma& sigma) {
      const baseline::LaneByLane<T, Sigma> form(sigma);
      const auto activate = [&](std::int64_t n, const T* z, T* h, T* d1, T* d2, T* d3) {
        baseline::activate_orders<baseline::wants_all>(form, n, z, h, d1, d2, d3);
      };
      check<T>(c, {"lane by lane", std::int64_t(hwy::HWY_NAMESPACE::Lanes(baseline::Tag<T>())), activate}, false);
    });
  }
}
TEST(ActivationFallback, KeepsTheBoundsOfTheVectorFormsInFloat) { check_lane_by_lane<float>(); }
TEST(ActivationFallback, KeepsTheBoundsOfTheVectorFormsInDouble) { check_lane_by_lane<double>(); }

TEST(ActivationFallback, ServesAnActivationThatIsAFunctorAlone) {
  namespace baseline = cpu::HWY_NAMESPACE;
  const auto lanes = static_cast<std::int64_t>(hwy::HWY_NAMESPACE::Lanes(baseline::Tag<float>()));
  const auto run = [&]<class Sigma>(const Sigma& sigma) {
    EXPECT_STREQ(Sigma::traits.name, "softsign");
    std::vector<float> z(static_cast<std::size_t>(19 * lanes)), h(z), d1(z), d2(z), d3(z);
    for (std::size_t i = 0; i < z.size(); ++i) z[i] = 0.37f * static_cast<float>(i) - 9;
    baseline::activate_orders<baseline::wants_all>(baseline::vector_form<float>(sigma), std::ssize(z), z.data(),
                                                   h.data(), d1.data(), d2.data(), d3.data());
    for (std::size_t i = 0; i < z.size(); ++i) {
      const ActivationValues<float> v = sigma(z[i]);
      EXPECT_EQ(std::tie(h[i], d1[i], d2[i], d3[i]), std::tie(v.value, v.d1, v.d2, v.d3)) << z[i];
    }
  };
  with_activation(testing::ActivationsAndSoftsign(), testing::Softsign::traits.activation, 0, [&](const auto& sigma) {
    if constexpr (std::is_same_v<std::decay_t<decltype(sigma)>, testing::Softsign>) {
      run(sigma);
    } else {
      ADD_FAILURE() << "dispatched to " << sigma.traits.name;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Targets, Activations, testing::each_target(), testing::target_name);

}  // namespace
}  // namespace fokker
