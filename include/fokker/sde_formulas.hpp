#pragma once

// The closed forms of ForwardSde, shared by host and device.
#include <cmath>

#include "fokker/sde.hpp"

namespace fokker {

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
  // −log m² = −2 log(cos(c (τ + s))/cos(c s)), c = π/2/(1 + s); near 0 its sine form keeps σ² accurate:
  // 1 − m² = sin(c τ) sin(c (τ + 2 s)) / cos²(c s).
  const T c = T(1.57079632679489661923) / (1 + p), last = T(0.9946);
  const T inner = tau < last ? tau : last, beyond = tau - inner;
  const T rate = 2 * c * std::tan(c * (inner + p));  // β per unit of τ
  const T cos_s = std::cos(c * p), inner_mean = std::cos(c * (inner + p)) / cos_s;
  const T inner_variance = std::sin(c * inner) * std::sin(c * (inner + 2 * p)) / (cos_s * cos_s);
  const T tail = rate * beyond, beta = rate / static_cast<T>(horizon);
  return {-beta / 2, beta, inner_mean * std::exp(-tail / 2), inner_variance * std::exp(-tail) - std::expm1(-tail)};
}

}  // namespace fokker
