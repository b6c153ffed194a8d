#pragma once

// The closed forms of ForwardSde, shared by host and device.
#include <cmath>

#include "fokker/sde.hpp"

namespace fokker {

// sin π x for moderate x. The device's general sine would reduce its argument through local memory.
template <class T>
FOKKER_HOST_DEVICE T sin_half_turns(T x) {
#ifdef __CUDA_ARCH__
  return sinpi(x);
#else
  return std::sin(T(3.14159265358979323846) * x);
#endif
}

template <class T>
FOKKER_HOST_DEVICE SdeCoefficients<T> ForwardSde::at(T t) const {
  const T p = static_cast<T>(first), q = static_cast<T>(second), tau = t / static_cast<T>(horizon);
  switch (kind) {
    case SdeKind::ou: return {-p, q * q, std::exp(-p * t), -q * q * std::expm1(-2 * p * t) / (2 * p)};
    case SdeKind::ve: {
      const T log_ratio = std::log(q / p);
      return {T(0), 2 * p * p * std::exp(2 * tau * log_ratio) * log_ratio / static_cast<T>(horizon), T(1),
              p * p * std::expm1(2 * tau * log_ratio)};
    }
    case SdeKind::vp_linear:
    case SdeKind::subvp: {
      const T beta = p + tau * (q - p), integral = t * (p + tau * (q - p) / 2);
      const T variance = -std::expm1(-integral), mean = std::exp(-integral / 2);
      if (kind == SdeKind::vp_linear) return {-beta / 2, beta, mean, variance};
      return {-beta / 2, -beta * std::expm1(-2 * integral), mean, variance * variance};
    }
    case SdeKind::vp_cosine: break;
  }
  // With c = π/2/(1 + s), cos(c (τ + s)) = sin(c (1 − τ)), which keeps β = −(log m²)′ accurate where the cosine is near
  // 0; and 1 − m² = sin(c τ) sin(c (τ + 2 s))/cos²(c s) keeps σ² accurate near τ = 0.
  const T half = T(0.5) / (1 + p), last = T(0.9946);  // c = π half
  const T inner = tau < last ? tau : last, beyond = tau - inner;
  const T cosine = sin_half_turns(half * (1 - inner)), cos_s = sin_half_turns(half), inner_mean = cosine / cos_s;
  const T rate = T(6.28318530717958647692) * half * sin_half_turns(half * (inner + p)) / cosine;  // β per unit of τ
  const T inner_variance = sin_half_turns(half * inner) * sin_half_turns(half * (inner + 2 * p)) / (cos_s * cos_s);
  const T tail = rate * beyond, beta = rate / static_cast<T>(horizon);
  return {-beta / 2, beta, inner_mean * std::exp(-tail / 2), inner_variance * std::exp(-tail) - std::expm1(-tail)};
}

}  // namespace fokker
