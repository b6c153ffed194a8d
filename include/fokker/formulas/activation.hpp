#pragma once

#include <cmath>

#include "fokker/formulas/host_device.hpp"

namespace fokker {

// One list of activations: the enumeration, its names and the formulas below; with_activation() is the one dispatcher.
enum class Activation { softplus, tanh, silu, sine };

// σ(z) and its first three derivatives.
template <class T>
struct ActivationValues {
  T value, d1, d2, d3;
};

// log(1 + e^{βz})/β. Linear above βz = 20, as PyTorch's torch.nn.Softplus, whose published checkpoints we run.
struct Softplus {
  double beta = 1;
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T b = static_cast<T>(beta), y = b * z;
    if (y > T(20)) return {z, T(1), T(0), T(0)};
    const T e = std::exp(-std::fabs(y)), s_abs = T(1) / (T(1) + e), s = y > T(0) ? s_abs : e * s_abs;
    const T q = e * s_abs * s_abs;  // s (1 − s), without cancellation
    return {(y > T(0) ? z : T(0)) + std::log1p(e) / b, s, b * q, b * b * q * (T(1) - 2 * s)};
  }
};

struct Tanh {
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T h = std::tanh(z), c = std::cosh(z);
    const T d = std::fabs(z) > T(40) ? T(0) : T(1) / (c * c);  // 1 − h², without cancellation
    return {h, d, -2 * h * d, d * (6 * h * h - 2)};
  }
};

// z s(z), s the logistic function; derivatives s + z q, q (2 + z r), q r (3 + z r) − 2 z q² with q = s (1 − s), r = 1 − 2 s.
struct Silu {
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T e = std::exp(-std::fabs(z)), s_abs = T(1) / (T(1) + e), s = z > T(0) ? s_abs : e * s_abs;
    const T q = e * s_abs * s_abs, r = T(1) - 2 * s;
    return {z * s, s + z * q, q * (2 + z * r), q * r * (3 + z * r) - 2 * z * q * q};
  }
};

// sin z, with no frequency inside (Sitzmann et al. 2020 fold theirs into the weights).
struct Sine {
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T s = std::sin(z), c = std::cos(z);
    return {s, c, -s, -c};
  }
};

// Calls visitor with the activation as a compile-time type; the only place where the enumeration is switched on.
template <class Visitor>
decltype(auto) with_activation(Activation activation, double beta, Visitor&& visitor) {
  switch (activation) {
    case Activation::tanh: return visitor(Tanh{});
    case Activation::silu: return visitor(Silu{});
    case Activation::sine: return visitor(Sine{});
    case Activation::softplus: break;
  }
  return visitor(Softplus{beta});
}

}  // namespace fokker
