#pragma once

#include <cmath>

#include "fokker/formulas/host_device.hpp"

namespace fokker {

// An activation is its functor: traits, at most one parameter, and σ with three derivatives in float and double. This
// file is the one place of the library that a new one touches: its enumerator, its functor and its entry in
// `Activations`, from which names, messages, help, the dispatchers of host and device and the tests' lists follow.
// Everything computes by the functor, but where src/cpu/mlp_activations-inl.hpp has a vector_form and
// kernels/activation.hpp a fast_form of it.
enum class Activation { softplus, tanh, silu, sine };

// σ(z) and its derivatives σ′, σ″, σ‴.
template <class T>
struct ActivationValues {
  T value, d1, d2, d3;
};

// The number on which an activation depends beside z; its name, in options, messages and files, is nullptr for none.
struct ActivationParameter {
  const char* name = nullptr;
  const char* meaning = nullptr;     // for --help
  double usual = 0;                  // PyTorch's default
  double smallest = 0, largest = 0;  // allowed
};

struct ActivationTraits {
  Activation activation;
  const char* name;  // in options, messages and files
  bool bounded;      // |σ|, and with it the potential of a network
  ActivationParameter parameter = {};

  FOKKER_HOST_DEVICE constexpr bool has_parameter() const { return parameter.name != nullptr; }
};

// log(1 + e^{βz})/β. Linear above βz = 20, as PyTorch's torch.nn.Softplus, whose published checkpoints we run.
struct Softplus {
  static constexpr ActivationTraits traits = {
      .activation = Activation::softplus,
      .name = "softplus",
      .bounded = false,
      .parameter = {.name = "beta",
                    .meaning = "sharpness of softplus, which is log(1 + exp(beta z))/beta",
                    .usual = 1,
                    .smallest = 1e-6,
                    .largest = 1e6}};
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
  static constexpr ActivationTraits traits = {.activation = Activation::tanh, .name = "tanh", .bounded = true};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T h = std::tanh(z), c = std::cosh(z);
    const T d = std::fabs(z) > T(40) ? T(0) : T(1) / (c * c);  // 1 − h², without cancellation
    return {h, d, -2 * h * d, d * (6 * h * h - 2)};
  }
};

// z s(z), s the logistic function, with derivatives s + z q, q (2 + z r) and q r (3 + z r) − 2 z q², where q = s (1 − s)
// and r = 1 − 2 s.
struct Silu {
  static constexpr ActivationTraits traits = {.activation = Activation::silu, .name = "silu", .bounded = false};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T e = std::exp(-std::fabs(z)), s_abs = T(1) / (T(1) + e), s = z > T(0) ? s_abs : e * s_abs;
    const T q = e * s_abs * s_abs, r = T(1) - 2 * s;
    return {z * s, s + z * q, q * (2 + z * r), q * r * (3 + z * r) - 2 * (z * q) * q};
  }
};

// sin z, with no frequency inside (Sitzmann et al. 2020 fold theirs into the weights).
struct Sine {
  static constexpr ActivationTraits traits = {.activation = Activation::sine, .name = "sine", .bounded = true};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T s = std::sin(z), c = std::cos(z);
    return {s, c, -s, -c};
  }
};

template <class... Sigmas>
struct ActivationList {
  static constexpr int size = sizeof...(Sigmas);
  static constexpr Activation all[size] = {Sigmas::traits.activation...};
  static constexpr ActivationTraits traits[size] = {Sigmas::traits...};
};
// In the order of the enumeration.
using Activations = ActivationList<Softplus, Tanh, Silu, Sine>;

static_assert([] {
  for (int k = 0; k < Activations::size; ++k) {
    if (static_cast<int>(Activations::all[k]) != k) return false;
  }
  return true;
}());

constexpr const ActivationTraits& traits_of(Activation activation) {
  return Activations::traits[static_cast<int>(activation)];
}

// The functor with its parameter, which one without ignores.
template <class Sigma>
FOKKER_HOST_DEVICE constexpr Sigma activation_with([[maybe_unused]] double parameter) {
  if constexpr (Sigma::traits.has_parameter()) {
    return Sigma{parameter};
  } else {
    return Sigma{};
  }
}

// Calls visitor with the functor of `activation`: the choice as a compile-time type.
template <class Sigma, class... Rest, class Visitor>
decltype(auto) with_activation(ActivationList<Sigma, Rest...>, Activation activation, double parameter,
                               const Visitor& visitor) {
  if constexpr (sizeof...(Rest) > 0) {
    if (activation != Sigma::traits.activation) {
      return with_activation(ActivationList<Rest...>(), activation, parameter, visitor);
    }
  }
  return visitor(activation_with<Sigma>(parameter));
}
template <class Visitor>
decltype(auto) with_activation(Activation activation, double parameter, const Visitor& visitor) {
  return with_activation(Activations(), activation, parameter, visitor);
}

}  // namespace fokker
