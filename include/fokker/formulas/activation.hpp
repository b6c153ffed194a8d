#pragma once

#include <cmath>

#include "fokker/formulas/host_device.hpp"

namespace fokker {

// An activation is its functor: traits, at most one parameter, and σ with three derivatives in float and double. This
// file is the one place of the library that a new one touches: its enumerator, its functor and its entry in
// `Activations`, from which names, messages, help, the dispatchers of host and device and the tests' lists follow.
// Everything computes by the functor, but where src/cpu/mlp_activations-inl.hpp has a vector_form and
// kernels/activation.hpp a fast_form of it.
enum class Activation { softplus, tanh, silu, sine, relu, leaky_relu, elu, selu, gelu, gelu_tanh, mish, identity };

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
  const char* name;     // in options, messages and files
  bool bounded;         // |σ|, and with it the potential of a network
  bool kinked = false;  // σ′ or σ″ jumps at 0, whose delta functions a potential's derivatives would lack
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

struct Relu {
  static constexpr ActivationTraits traits = {
      .activation = Activation::relu, .name = "relu", .bounded = false, .kinked = true};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    // At 0 it is z, as it is for NaN.
    return {z < T(0) ? T(0) : z, z > T(0) ? T(1) : z < T(0) ? T(0) : z, T(0), T(0)};
  }
};

struct LeakyRelu {
  static constexpr ActivationTraits traits = {.activation = Activation::leaky_relu,
                                              .name = "leaky-relu",
                                              .bounded = false,
                                              .kinked = true,
                                              .parameter = {.name = "negative_slope",
                                                            .meaning = "slope of leaky-relu below 0",
                                                            .usual = 0.01,
                                                            .smallest = 1e-6,
                                                            .largest = 1}};
  double negative_slope = 0.01;
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T slope = static_cast<T>(negative_slope);
    // At 0 it is slope + z, as it is for NaN.
    return {z < T(0) ? slope * z : z, z > T(0) ? T(1) : z < T(0) ? slope : slope + z, T(0), T(0)};
  }
};

// z above 0 and α (e^z − 1) below (Clevert et al. 2016). σ″ jumps at 0, and for α other than 1 σ′ does.
struct Elu {
  static constexpr ActivationTraits traits = {
      .activation = Activation::elu,
      .name = "elu",
      .bounded = false,
      .kinked = true,
      .parameter = {
          .name = "alpha", .meaning = "what -elu tends to below 0", .usual = 1, .smallest = 1e-6, .largest = 1e6}};
  double alpha = 1;
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    if (z > T(0)) return {z, T(1), T(0), T(0)};
    const T a = static_cast<T>(alpha), e = a * std::exp(z);
    return {a * std::expm1(z), e, e, e};
  }
};

// ELU with a fixed α, times a constant (Klambauer et al. 2017).
struct Selu {
  static constexpr ActivationTraits traits = {
      .activation = Activation::selu, .name = "selu", .bounded = false, .kinked = true};
  static constexpr double alpha = 1.6732632423543772848170429916717, scale = 1.0507009873554804934193349852946;
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    if (z > T(0)) return {T(scale) * z, T(scale), T(0), T(0)};
    const T e = T(scale * alpha) * std::exp(z);
    return {T(scale * alpha) * std::expm1(z), e, e, e};
  }
};

// z Φ(z), Φ the normal distribution function with density ϕ; derivatives Φ + z ϕ, ϕ (2 − z²) and ϕ z (z² − 4)
// (Hendrycks and Gimpel 2016).
struct Gelu {
  static constexpr ActivationTraits traits = {.activation = Activation::gelu, .name = "gelu", .bounded = false};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T y = std::fabs(z) > T(40) ? std::copysign(T(40), z) : z;  // beyond, ϕ is 0
    const T share = T(0.5) * std::erfc(T(-0.70710678118654752440) * y), square = y * y;
    const T density = T(0.39894228040143267794) * std::exp(T(-0.5) * square);
    return {(z > T(0) ? z : y) * share, share + y * density, density * (2 - square), density * y * (square - 4)};
  }
};

// GELU's usual approximation z s, s = ½ (1 + tanh u), u = √(2/π) (z + 0.044715 z³). With h = tanh u and q = 1 − h²,
// s′ = ½ q u′, s″ = ½ q (u″ − 2 h u′²), s‴ = ½ q (u‴ − 6 h u′ u″ + (4 h² − 2 q) u′³).
struct GeluTanh {
  static constexpr ActivationTraits traits = {
      .activation = Activation::gelu_tanh, .name = "gelu-tanh", .bounded = false};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T y = std::fabs(z) > T(40) ? std::copysign(T(40), z) : z;  // beyond, q is 0
    const T k = T(0.79788456080286535588), c = T(0.044715), square = y * y;
    const T u = k * y * (1 + c * square), u1 = k * (1 + 3 * c * square), u2 = 6 * k * c * y, u3 = 6 * k * c;
    const T e = std::exp(-2 * std::fabs(u)), s_abs = 1 / (1 + e), s = u > T(0) ? s_abs : e * s_abs;
    const T q = 4 * e * s_abs * s_abs, h = std::copysign((1 - e) * s_abs, u);
    const T s1 = q * u1 / 2, s2 = q * (u2 - 2 * h * u1 * u1) / 2,
            s3 = q * (u3 - 6 * h * u1 * u2 + (4 * h * h - 2 * q) * u1 * u1 * u1) / 2;
    return {(z > T(0) ? z : y) * s, s + y * s1, 2 * s1 + y * s2, 3 * s2 + y * s3};
  }
};

// z h, h = tanh(log(1 + e^z)) (Misra 2019). With s the logistic function, r = s (1 − s) and q = 1 − h², h′ = q s,
// h″ = q (r − 2 h s²), h‴ = q (r (1 − 2 s) − 6 h s r + (4 h² − 2 q) s³).
struct Mish {
  static constexpr ActivationTraits traits = {.activation = Activation::mish, .name = "mish", .bounded = false};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T y = std::fabs(z) > T(1000) ? std::copysign(T(1000), z) : z;  // beyond, e is 0
    const T e = std::exp(-std::fabs(y)), s_abs = 1 / (1 + e), s = z > T(0) ? s_abs : e * s_abs;
    // With w = (1 + e^z)², h = (w − 1)/(w + 1) and q = 4 w/(w + 1)²; numerators and w + 1 times e² where z > 0.
    const T w = (1 + e) * (1 + e), scale = z > T(0) ? e * e : T(1);
    const T h = (z > T(0) ? 1 + 2 * e : e * (2 + e)) / (w + scale), q = 4 * w * scale / ((w + scale) * (w + scale));
    const T r = e * s_abs * s_abs, h1 = q * s, h2 = q * (r - 2 * h * s * s),
            h3 = q * (r * (1 - 2 * s) - 6 * h * s * r + (4 * h * h - 2 * q) * s * s * s);
    return {(z > T(0) ? z : y) * h, h + y * h1, 2 * h1 + y * h2, 3 * h2 + y * h3};
  }
};

// z itself: of a linear layer between others.
struct Identity {
  static constexpr ActivationTraits traits = {.activation = Activation::identity, .name = "identity", .bounded = false};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    return {z, T(1), T(0), T(0)};
  }
};

template <class... Sigmas>
struct ActivationList {
  static constexpr int size = sizeof...(Sigmas);
  static constexpr Activation all[size] = {Sigmas::traits.activation...};
  static constexpr ActivationTraits traits[size] = {Sigmas::traits...};
};
// In the order of the enumeration.
using Activations =
    ActivationList<Softplus, Tanh, Silu, Sine, Relu, LeakyRelu, Elu, Selu, Gelu, GeluTanh, Mish, Identity>;

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
