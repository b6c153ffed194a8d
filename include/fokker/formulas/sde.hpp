#pragma once

// Forward SDEs with isotropic linear drift, dx = a(t) x dt + g(t) dW on [0, T], whose transition kernel is
// x_t | x_0 ~ N(m(t) x_0, σ²(t) I) with m′ = a m and (σ²)′ = 2 a σ² + g². Each is a plain struct of its parameters,
// with their defaults, and its closed forms, shared by host and device. Times are in the unit of the horizon T;
// τ = t/T. DdpmSde has a table too, which ForwardSde owns.
//
// To add one: a struct and its line in SdeKind and SdeFormulas here, a factory in sde.hpp, and a row with its name,
// keys and ranges in src/model/sde.cpp.
#include <cmath>
#include <cstdint>

#include "fokker/formulas/host_device.hpp"

namespace fokker {

// The coefficients of the SDE and of its transition kernel at a time.
template <class T>
struct SdeCoefficients {
  T drift;              // a(t), per unit time: f(x, t) = a x
  T diffusion_squared;  // g²(t)
  T mean;               // m(t)
  T variance;           // σ²(t)
};

// Ornstein–Uhlenbeck (1930): a = −rate, g constant. The defaults are the paper's.
struct OuSde {
  double rate = 1;
  double g = 1;
  double horizon = 10;
  double t_min = 1e-4;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    const T a = static_cast<T>(rate), b = static_cast<T>(g);
    return {-a, b * b, std::exp(-a * t), -b * b * std::expm1(-2 * a * t) / (2 * a)};
  }
  FOKKER_HOST_DEVICE double prior_variance() const { return g * g / (2 * rate); }  // of the stationary law
};

// β(t) = β_min + τ (β_max − β_min) and its integral B from 0 to t.
template <class T>
struct LinearBeta {
  T beta, integral;

  FOKKER_HOST_DEVICE LinearBeta(double beta_min, double beta_max, double horizon, T t) {
    const T least = static_cast<T>(beta_min), most = static_cast<T>(beta_max), tau = t / static_cast<T>(horizon);
    beta = least + tau * (most - least), integral = t * (least + tau * (most - least) / 2);
  }
};

// Variance-preserving: a = −β/2, g² = β, β linear in t (Song et al. 2021, eq. 32).
struct VpLinearSde {
  double beta_min = 0.1;
  double beta_max = 20;
  double horizon = 1;
  double t_min = 1e-3;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    const auto [beta, integral] = LinearBeta<T>(beta_min, beta_max, horizon, t);
    return {-beta / 2, beta, std::exp(-integral / 2), -std::expm1(-integral)};
  }
  FOKKER_HOST_DEVICE double prior_variance() const { return 1; }
};

// Sub-variance-preserving: a = −β/2, g² = β (1 − e^{−2B}), the same β (Song et al. 2021, eq. 31).
struct SubVpSde {
  double beta_min = 0.1;
  double beta_max = 20;
  double horizon = 1;
  double t_min = 1e-3;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    const auto [beta, integral] = LinearBeta<T>(beta_min, beta_max, horizon, t);
    const T variance = -std::expm1(-integral), mean = std::exp(-integral / 2);
    return {-beta / 2, -beta * std::expm1(-2 * integral), mean, variance * variance};
  }
  FOKKER_HOST_DEVICE double prior_variance() const { return 1; }
};

// sin π x for moderate x. The device's general sine would reduce its argument through local memory.
template <class T>
FOKKER_HOST_DEVICE T sin_half_turns(T x) {
#ifdef __CUDA_ARCH__
  return sinpi(x);
#else
  return std::sin(T(3.14159265358979323846) * x);
#endif
}

// Variance-preserving: m² = cos²(π/2 (τ + s)/(1 + s)) / cos²(π/2 s/(1 + s)) up to τ = 0.9946; beyond it β stays
// constant, which keeps the drift bounded at T (Nichol and Dhariwal 2021, eq. 17, who clip β as well).
struct VpCosineSde {
  double s = 0.008;
  double horizon = 1;
  double t_min = 1e-3;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    // With c = π/2/(1 + s), cos(c (τ + s)) = sin(c (1 − τ)), which keeps β = −(log m²)′ accurate where the cosine is
    // near 0; and 1 − m² = sin(c τ) sin(c (τ + 2 s))/cos²(c s) keeps σ² accurate near τ = 0.
    const T offset = static_cast<T>(s), tau = t / static_cast<T>(horizon);
    const T half = T(0.5) / (1 + offset), last = T(0.9946);  // c = π half
    const T inner = tau < last ? tau : last, beyond = tau - inner;
    const T cosine = sin_half_turns(half * (1 - inner)), cos_s = sin_half_turns(half), inner_mean = cosine / cos_s;
    const T rate =  // β per unit of τ
        T(6.28318530717958647692) * half * sin_half_turns(half * (inner + offset)) / cosine;
    const T inner_variance =
        sin_half_turns(half * inner) * sin_half_turns(half * (inner + 2 * offset)) / (cos_s * cos_s);
    const T tail = rate * beyond, beta = rate / static_cast<T>(horizon);
    return {-beta / 2, beta, inner_mean * std::exp(-tail / 2), inner_variance * std::exp(-tail) - std::expm1(-tail)};
  }
  FOKKER_HOST_DEVICE double prior_variance() const { return 1; }
};

// Variance-preserving, through DDPM's chain x_j = √(1 − β_j) x_{j−1} + √β_j ε of N steps (Ho et al. 2020), whose j-th
// ends at u = j with u = N τ: m² = ᾱ = Π_{i ≤ j} (1 − β_i) there. Between the steps' ends ln ᾱ is linear in t, so that
// β(t) = −(ln ᾱ)′ is constant inside a step; at its end, where an integrator that goes back in time enters it, β is still
// that step's. a = −β/2, g² = β.
struct DdpmSde {
  struct Step {
    double before;  // −ln ᾱ where it begins
    double rate;    // −ln(1 − β_j)
  };
  const Step* table = nullptr;  // [steps], where the formulas are used: on the host, or on the device
  std::int32_t steps = 1000;    // N
  double horizon = 1000;
  double t_min = 1;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    const T n = static_cast<T>(steps), per_time = n / static_cast<T>(horizon), u = per_time * t;
    // An end of a step that rounding has moved up is that end still.
    const T near = n * static_cast<T>(sizeof(T) == sizeof(float) ? 2.4e-7 : 4.4e-16);
    const T begin = std::fmin(std::fmax(std::ceil(u - near) - 1, T(0)), n - 1);
    const Step& step = table[static_cast<std::int32_t>(begin)];
    const T rate = static_cast<T>(step.rate), beta = per_time * rate;
    const T integral = static_cast<T>(step.before) + rate * (u - begin);
    return {-beta / 2, beta, std::exp(-integral / 2), -std::expm1(-integral)};
  }
  FOKKER_HOST_DEVICE double prior_variance() const { return 1; }
};

// Variance-exploding: a = 0, σ²(t) = σ_min² ((σ_max/σ_min)^{2τ} − 1) (Song et al. 2021, eq. 30). With T = 1, σ_min =
// 1/√(2 ln σ) and σ_max = σ σ_min it is dx = σ^t dW, whose σ²(t) is (σ^{2t} − 1)/(2 ln σ).
struct VeSde {
  double sigma_min = 0.01;
  double sigma_max = 50;
  double horizon = 1;
  double t_min = 1e-3;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    const T least = static_cast<T>(sigma_min), log_ratio = std::log(static_cast<T>(sigma_max) / least);
    const T tau = t / static_cast<T>(horizon);
    return {T(0), 2 * least * least * std::exp(2 * tau * log_ratio) * log_ratio / static_cast<T>(horizon), T(1),
            least * least * std::expm1(2 * tau * log_ratio)};
  }
  FOKKER_HOST_DEVICE double prior_variance() const { return at(horizon).variance; }
};

// Variance-exploding with the deviation for a time: a = 0, σ = t (Karras et al. 2022).
struct EdmSde {
  double horizon = 80;
  double t_min = 0.002;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    return {T(0), 2 * t, T(1), t * t};
  }
  FOKKER_HOST_DEVICE double prior_variance() const { return horizon * horizon; }
};

// The linear interpolation of data and noise, m = 1 − t and σ = t, t ≤ 1: a = −1/(1 − t), g² = 2 t/(1 − t), which are
// infinite at t = 1 (flow matching, Lipman et al. 2023; rectified flow, Liu et al. 2023). T = 1 is for the probability flow
// of networks that give its velocity, which is finite there; the reverse SDE begins before it.
struct FlowSde {
  double horizon = 0.999;
  double t_min = 1e-3;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    const T mean = 1 - t;
    return {-1 / mean, 2 * t / mean, mean, t * t};
  }
  FOKKER_HOST_DEVICE double prior_variance() const { return horizon * horizon; }
};

enum class SdeKind { ou, vp_linear, vp_cosine, subvp, ve, edm, flow, ddpm };

// One of the SDEs above: what kernels take by copy and ForwardSde, which has checked the parameters, hands out.
struct SdeFormulas {
  SdeKind kind;
  union {
    OuSde ou;
    VpLinearSde vp_linear;
    VpCosineSde vp_cosine;
    SubVpSde subvp;
    VeSde ve;
    EdmSde edm;
    FlowSde flow;
    DdpmSde ddpm;
  };

  SdeFormulas(const OuSde& sde = {}) : kind(SdeKind::ou), ou(sde) {}
  SdeFormulas(const VpLinearSde& sde) : kind(SdeKind::vp_linear), vp_linear(sde) {}
  SdeFormulas(const VpCosineSde& sde) : kind(SdeKind::vp_cosine), vp_cosine(sde) {}
  SdeFormulas(const SubVpSde& sde) : kind(SdeKind::subvp), subvp(sde) {}
  SdeFormulas(const VeSde& sde) : kind(SdeKind::ve), ve(sde) {}
  SdeFormulas(const EdmSde& sde) : kind(SdeKind::edm), edm(sde) {}
  SdeFormulas(const FlowSde& sde) : kind(SdeKind::flow), flow(sde) {}
  SdeFormulas(const DdpmSde& sde) : kind(SdeKind::ddpm), ddpm(sde) {}

  // Calls `function`, which runs where the caller does, with the struct of the kind at hand.
  template <class Function>
  FOKKER_HOST_DEVICE auto visit(Function function) const {
    switch (kind) {
      case SdeKind::ou: return function(ou);
      case SdeKind::ve: return function(ve);
      case SdeKind::vp_linear: return function(vp_linear);
      case SdeKind::subvp: return function(subvp);
      case SdeKind::edm: return function(edm);
      case SdeKind::flow: return function(flow);
      case SdeKind::ddpm: return function(ddpm);
      case SdeKind::vp_cosine: break;
    }
    return function(vp_cosine);
  }

  FOKKER_HOST_DEVICE double horizon() const {
    return visit([](const auto& sde) { return sde.horizon; });
  }
  FOKKER_HOST_DEVICE double t_min() const {
    return visit([](const auto& sde) { return sde.t_min; });
  }
  FOKKER_HOST_DEVICE double prior_variance() const {
    return visit([](const auto& sde) { return sde.prior_variance(); });
  }
  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const {
    return visit([t](const auto& sde) { return sde.at(t); });
  }
};

}  // namespace fokker
