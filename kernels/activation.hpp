#pragma once

// σ, σ′, σ″ and σ‴ of one number in float, from the special-function unit where that is accurate. The formulas are
// those of fokker/formulas/activation.hpp with e = 2^{−c|z|}; errors are a few units in the last place of the largest value that
// a function takes (h and the derivatives alike), so a product's rounding of z moves a network as much.
//
// encode(z) is one number from which decode() finds σ and its derivatives by a few multiplications, or z itself. It is
// what a training keeps of a unit between its sweeps.
#include <cmath>

#include "device.hpp"
#include "fokker/formulas/activation.hpp"

namespace fokker::kernels {

// e/(1 + e) = min(s, 1 − s) of e = 2^{rate |z|}, with the sign of z.
__device__ __forceinline__ float signed_logistic(float rate, float z) {
  const float e = exp2_approx(rate * fabsf(z));
  return copysignf(e * reciprocal_approx(1.0f + e), z);
}

struct FastSoftplus {
  float rate, linear_from, beta, log_factor;
  __device__ __forceinline__ explicit FastSoftplus(float b)
      : rate(-1.44269504f * b), linear_from(20.0f / b), beta(b), log_factor(0.693147181f / b) {}
  __device__ __forceinline__ ActivationValues<float> operator()(float z) const {
    // Beyond βz = 20 e = 0 gives the linear branch exactly.
    const float e = z > linear_from ? 0.0f : exp2_approx(rate * fabsf(z));
    const float sum = 1.0f + e, inverse = reciprocal_approx(sum), low = e * inverse;
    const float d2 = beta * (low * inverse);
    return {(z > 0.0f ? z : 0.0f) + log2_approx(sum) * log_factor, z > 0.0f ? inverse : low, d2,
            beta * d2 * copysignf((1.0f - e) * inverse, -z)};
  }

  // Beyond βz = 20 it is 2^−100 βz, from which σ follows: too small, up to βz = 2^70, to move 1 − s or to be taken for
  // a 1 − s of the other branch, which is 2^−29 or more. Beyond that NaN, for no loss of such numbers is one.
  __device__ __forceinline__ float encode(float z) const {
    const float scaled = z * (0x1p-100f * beta);
    return z > linear_from ? (scaled < 0x1p-30f ? scaled : nanf("")) : signed_logistic(rate, z);
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

// Calls visitor with the activation's fast form: the device's counterpart of fokker::with_activation.
template <class Sigma, class... Rest, class Visitor>
__device__ __forceinline__ void with_fast_activation(ActivationList<Sigma, Rest...>, Activation activation,
                                                     float parameter, const Visitor& visitor) {
  if constexpr (sizeof...(Rest) > 0) {
    if (activation != Sigma::traits.activation) {
      return with_fast_activation(ActivationList<Rest...>(), activation, parameter, visitor);
    }
  }
  visitor(fast_form(activation_with<Sigma>(parameter)));
}
template <class Visitor>
__device__ __forceinline__ void with_fast_activation(Activation activation, float parameter, const Visitor& visitor) {
  with_fast_activation(Activations(), activation, parameter, visitor);
}

}  // namespace fokker::kernels
