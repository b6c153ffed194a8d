#pragma once

// σ, σ′, σ″ and σ‴ of one number in float, from the special-function unit where that is accurate. The formulas are
// those of fokker/formulas/activation.hpp with e = 2^{−c|z|}; errors are a few units in the last place of the largest
// value that a function takes (h and the derivatives alike), so a product's rounding of z moves a network as much.
//
// encode(z) is one number from which decode() finds σ and its derivatives by a few multiplications, or z itself. It is
// what a training keeps of a unit between its sweeps.
//
// Kernels are compiled for softplus, tanh, SiLU and sine each, and once for all others, of which they then choose one for
// every number: a branch that is the same for all threads, in a loop that is not unrolled (for_chosen_blocks). Compiled
// for each of them, code and compile time would be twice as large.
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "device.hpp"
#include "fokker/formulas/activation.hpp"
#include "launch.hpp"

namespace fokker::kernels {

// e/(1 + e) = min(s, 1 − s) of e = 2^{rate |z|}, with the sign of z.
__device__ __forceinline__ float signed_logistic(float rate, float z) {
  const float e = exp2_approx(rate * fabsf(z));
  return copysignf(e * reciprocal_approx(1.0f + e), z);
}

// σ′ = s = 1/(1 + e) with e = e^{−βz}, 0 where e overflows, and 1 + e^{−β|z|} is 1/max(s, 1 − s), so that no number needs its
// sign looked at. Beyond βz = 20 σ and σ′ are exactly z and 1. What σ″ takes for 1 − s is e s, to as many digits as s.
struct FastSoftplus {
  float rate, linear_from, beta, log_factor;
  __device__ __forceinline__ explicit FastSoftplus(float b)
      : rate(-1.44269504f * b), linear_from(20.0f / b), beta(b), log_factor(0.693147181f / b) {}
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    const float e = exp2_approx(rate * z), d1 = reciprocal_approx(1.0f + e), rest = 1.0f - d1;
    const float d2 = beta * (d1 * (fminf(e, 0x1p126f) * d1));
    return {fmaxf(z, 0.0f) - log2_approx(fmaxf(d1, rest)) * log_factor, d1, d2, beta * d2 * (rest - d1)};
  }

  // Beyond βz = 20 it is 2^−100 βz, from which σ follows: too small, up to βz = 2^70, to move 1 − s or to be taken for
  // a 1 − s of the other branch, which is 2^−29 or more. Beyond that NaN, for no loss of such numbers is one.
  __device__ __forceinline__ float encode(float z) const {
    const float scaled = z * (0x1p-100f * beta), logistic = signed_logistic(rate, z);
    const float linear = scaled < 0x1p-30f ? scaled : nanf("");
    return z > linear_from ? linear : logistic;
  }
  // With s = σ′: σ = −log(1 − s)/β, σ″ = β s (1 − s), σ‴ = β σ″ (1 − 2 s).
  __device__ __forceinline__ ActivationValues<float> decode(float code) const {
    const float low = fabsf(code), high = 1.0f - low, d2 = beta * (low * high);
    const bool positive = code > 0.0f, linear = positive && code < 0x1p-29f;
    return {linear ? code * (0x1p100f * 1.44269504f * log_factor) : -log_factor * log2_approx(positive ? low : high),
            positive ? high : low, d2, beta * d2 * copysignf(fmaf(-2.0f, low, 1.0f), -code)};
  }
};

struct FastTanh {
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    const float e = exp2_approx(-2.88539008f * fabsf(z)), inverse = reciprocal_approx(1.0f + e);
    const float h = copysignf((1.0f - e) * inverse, z), d1 = 4.0f * e * inverse * inverse;
    return {h, d1, -2.0f * h * d1, d1 * (6.0f * h * h - 2.0f)};
  }

  __device__ __forceinline__ float encode(float z) const { return signed_logistic(-2.88539008f, z); }
  // tanh z = 2 s − 1.
  __device__ __forceinline__ ActivationValues<float> decode(float code) const {
    const float low = fabsf(code), high = 1.0f - low;
    const float h = copysignf(fmaf(-2.0f, low, 1.0f), code), d1 = 4.0f * (low * high);
    return {h, d1, -2.0f * h * d1, d1 * (6.0f * h * h - 2.0f)};
  }
};

struct FastSilu {
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    const float e = exp2_approx(-1.44269504f * fabsf(z)), inverse = reciprocal_approx(1.0f + e), low = e * inverse;
    const float s = z > 0.0f ? inverse : low, q = low * inverse, r = 1.0f - (s + s);
    return {z * s, s + z * q, q * (2.0f + z * r), q * (r * (3.0f + z * r) - 2.0f * z * q)};
  }
};

// z = n π/2 + r with π/2 in three parts by fused multiply-adds: z − n p_0 is exact, being a multiple of 2^−23 below 2.
// Then Moshier's polynomials (Cephes sinf, cosf), made for |r| ≤ π/4. n comes from a product that is rounded itself, so
// |r| reaches 0.88 towards |z| = 2^20, where the errors are still within two units of 2^−24; in the next octaves they
// would be 6, 52 and 1000 units. From 2^20 on, where neighbouring numbers are an eighth of a radian apart, NaN. The
// library's sine would reduce its argument through local memory.
struct FastSine {
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    const float turns = rintf(z * 0.636619772f);
    float r = fmaf(turns, -1.5707963705062866f, z);
    r = fmaf(turns, 4.3711388286737929e-08f, r);
    r = fmaf(turns, 1.7151245100058819e-15f, r);
    r = fabsf(z) < 0x1p20f ? r : nanf("");
    const auto n = static_cast<std::int32_t>(turns);
    const float u = r * r;
    float s = fmaf(fmaf(-1.9515295891e-4f, u, 8.3321608736e-3f), u, -1.6666654611e-1f);
    s = fmaf(s * u, r, r);
    float c = fmaf(fmaf(2.443315711809948e-5f, u, -1.388731625493765e-3f), u, 4.166664568298827e-2f);
    c = fmaf(c * u, u, fmaf(-0.5f, u, 1.0f));
    const float sine = n & 1 ? c : s, cosine = n & 1 ? s : c;
    const float value = n & 2 ? -sine : sine, d1 = (n + 1) & 2 ? -cosine : cosine;
    return {value, d1, -value, -d1};
  }
};

// scale z above 0 and factor (e^z − 1) below.
struct FastElu {
  float scale, factor;
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    if (z > 0.0f) return {scale * z, scale, 0.0f, 0.0f};
    const float e = factor * exp2_approx(1.44269504f * z);
    return {e - factor, e, e, e};
  }
};

// Φ(−y) = ϕ(y)/(y + 4) P((y − 4)/(y + 4)) for y = |z|; P is a Chebyshev fit.
struct FastGelu {
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    const float y = fabsf(z) > 40.0f ? 40.0f : fabsf(z), square = y * y;  // NaN stays NaN
    const float density = 0.398942280f * exp2_approx(-0.721347520f * square);
    const float inverse = reciprocal_approx(y + 4.0f), u = (y - 4.0f) * inverse;
    float p = fmaf(-0.0148466285f, u, -0.0225428399f);
    p = fmaf(fmaf(fmaf(p, u, 0.150701448f), u, -0.467414558f), u, 0.970454097f);
    p = fmaf(fmaf(p, u, -1.52377141f), u, 1.89321876f);
    const float tail = density * (inverse * p), moment = copysignf(y * density, z);
    return {fmaf(-y, tail, z > 0.0f ? z : 0.0f), (z > 0.0f ? 1.0f - tail : tail) + moment, density * (2.0f - square),
            moment * (square - 4.0f)};
  }
};

// With v = 2 √(2/π) (y + 0.044715 y³), y = |z|: those of z times the logistic function of v.
struct FastGeluTanh {
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    constexpr float k = 1.59576912f, c = 0.0713548163f;
    const float y = fabsf(z) > 40.0f ? 40.0f : fabsf(z), square = y * y;
    const float e = exp2_approx(-1.44269504f * y * fmaf(c, square, k)), inverse = reciprocal_approx(1.0f + e);
    const float low = e * inverse, q = low * inverse, h = (1.0f - e) * inverse;
    const float v1 = fmaf(3.0f * c, square, k), v2 = 6.0f * c * y, bent = fmaf(-h * v1, v1, v2);
    const float turned = fmaf(fmaf(-2.0f, q, h * h) * v1, v1 * v1, fmaf(-3.0f * h * v1, v2, 6.0f * c));
    return {fmaf(-y, low, z > 0.0f ? z : 0.0f), (z > 0.0f ? inverse : low) + copysignf(y * q * v1, z),
            q * fmaf(y, bent, v1 + v1), copysignf(1.0f, z) * q * fmaf(y, turned, 3.0f * bent)};
  }
};

// h = tanh(log(1 + e^z)) and its derivatives as quotients of polynomials in e, on either side of 0.
struct FastMish {
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    const float y = fabsf(z) > 1000.0f ? copysignf(1000.0f, z) : z;  // beyond, e is 0
    const float e = exp2_approx(-1.44269504f * fabsf(y));
    const bool above = z > 0.0f;
    const float inverse = reciprocal_approx(above ? fmaf(fmaf(2.0f, e, 2.0f), e, 1.0f) : fmaf(e + 2.0f, e, 2.0f));
    const float h = (above ? fmaf(2.0f, e, 1.0f) : (e + 2.0f) * e) * inverse, ei = e * inverse;
    const float g = 4.0f * ei * (above ? ei : inverse), h1 = fmaf(g, e, g);
    const float p2 = above ? fmaf(fmaf(fmaf(2.0f, e, 2.0f), e, -3.0f), e, -2.0f)
                           : fmaf(fmaf(fmaf(-2.0f, e, -3.0f), e, 2.0f), e, 2.0f);
    const float p3 = above ? fmaf(fmaf(fmaf(fmaf(4.0f * e, e, -32.0f), e, -24.0f), e, 5.0f), e, 4.0f)
                           : fmaf(fmaf(fmaf(fmaf(4.0f, e, 5.0f), e, -24.0f), e, -32.0f) * e, e, 4.0f);
    const float h2 = g * inverse * p2, h3 = g * inverse * inverse * p3;
    return {(above ? z : y) * h, fmaf(y, h1, h), fmaf(y, h2, h1 + h1), fmaf(y, h3, 3.0f * h2)};
  }
};

// z stands for itself where no other number will do.
template <class Formula>
struct EncodedAsItself : Formula {
  __device__ __forceinline__ float encode(float z) const { return z; }
  __device__ __forceinline__ ActivationValues<float> decode(float z) const { return (*this)(z); }
};

// An activation without a form of its own here is the formula that host and device share.
template <class Sigma>
__device__ __forceinline__ EncodedAsItself<Sigma> fast_form(const Sigma& sigma) {
  return {sigma};
}
__device__ __forceinline__ FastSoftplus fast_form(const Softplus& sigma) {
  return FastSoftplus(static_cast<float>(sigma.beta));
}
__device__ __forceinline__ FastTanh fast_form(const Tanh&) { return {}; }
__device__ __forceinline__ EncodedAsItself<FastSilu> fast_form(const Silu&) { return {}; }
__device__ __forceinline__ EncodedAsItself<FastSine> fast_form(const Sine&) { return {}; }
__device__ __forceinline__ EncodedAsItself<FastElu> fast_form(const Elu& sigma) {
  return {{1.0f, static_cast<float>(sigma.alpha)}};
}
__device__ __forceinline__ EncodedAsItself<FastElu> fast_form(const Selu&) {
  return {{static_cast<float>(Selu::scale), static_cast<float>(Selu::scale * Selu::alpha)}};
}
__device__ __forceinline__ EncodedAsItself<FastGelu> fast_form(const Gelu&) { return {}; }
__device__ __forceinline__ EncodedAsItself<FastGeluTanh> fast_form(const GeluTanh&) { return {}; }
__device__ __forceinline__ EncodedAsItself<FastMish> fast_form(const Mish&) { return {}; }

// Any other activation of a list, by its fast form or by the formula that host and device share.
template <bool kFast, class List>
struct ChosenActivation {
  Activation activation;
  std::conditional_t<kFast, float, double> parameter;

  template <class T>
  __device__ __forceinline__ ActivationValues<T> operator()(T z) const {
    return choose(List(), z);
  }

 private:
  template <class T, class Sigma, class... Rest>
  __device__ __forceinline__ ActivationValues<T> choose(ActivationList<Sigma, Rest...>, T z) const {
    if constexpr (sizeof...(Rest) > 0) {
      if (has_own_code(Sigma::traits.activation) || activation != Sigma::traits.activation) {
        return choose(ActivationList<Rest...>(), z);
      }
    }
    const Sigma sigma = activation_with<Sigma>(parameter);
    if constexpr (kFast) {
      return fast_form(sigma)(z);
    } else {
      return sigma(z);
    }
  }
};

// Whether a form chooses anew for every number.
template <class Form>
inline constexpr bool is_chosen = false;
template <class List>
inline constexpr bool is_chosen<EncodedAsItself<ChosenActivation<true, List>>> = true;

// Calls visitor with the activation's fast form: the device's counterpart of fokker::with_activation.
template <class Sigma, class... Rest, class List, class Visitor>
__device__ __forceinline__ void with_fast_activation(ActivationList<Sigma, Rest...>, List all, Activation activation,
                                                     float parameter, const Visitor& visitor) {
  if constexpr (!has_own_code(Sigma::traits.activation)) {
    visitor(EncodedAsItself<ChosenActivation<true, List>>{{activation, parameter}});
  } else {
    if constexpr (sizeof...(Rest) > 0) {
      if (activation != Sigma::traits.activation) {
        return with_fast_activation(ActivationList<Rest...>(), all, activation, parameter, visitor);
      }
    }
    visitor(fast_form(activation_with<Sigma>(parameter)));
  }
}
template <class List, class Visitor>
__device__ __forceinline__ void with_fast_activation(List all, Activation activation, float parameter,
                                                     const Visitor& visitor) {
  with_fast_activation(all, all, activation, parameter, visitor);
}
template <class Visitor>
__device__ __forceinline__ void with_fast_activation(Activation activation, float parameter, const Visitor& visitor) {
  with_fast_activation(Activations(), activation, parameter, visitor);
}

// The same for one that has code of its own.
template <class Visitor>
__device__ __forceinline__ void with_own_activation(Activation activation, float parameter, const Visitor& visitor) {
  with_fast_activation(ActivationList<Softplus, Tanh, Silu, Sine>(), activation, parameter, visitor);
}

}  // namespace fokker::kernels
