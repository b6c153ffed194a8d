// σ and its first three derivatives over vectors, once per instruction set; the formulas are those of
// fokker/formulas/activation.hpp. U vectors go through a formula side by side, which hides the latency of its chains.
//
//   e = 2^{−c|z|}: n = round(−c|z|) by adding 1.5 · 2^{mantissa bits}, remainder r ∈ [−½, ½] with c in two parts (the
//   first product is exact inside a fused multiply-add), 2^r = 1 + r P(r). log(1 + e) = e Q(e) on [0, 1]: a polynomial
//   costs no more than the series of atanh and needs no division, so that softplus has one, shared by all derivatives.
//   P, Q and those of sine are Chebyshev fits; truncation below 2e-8 (float) and 5e-17 (double).
//
// Largest errors on the sweeps of activation_test with fused multiply-adds, float and double alike, in units in the
// last place, of (h, σ′, σ″); σ‴, and what of SiLU has terms of opposite sign, in units of its largest value:
//   softplus 1.9, 1.8, 2.7; 0.5    tanh 2.2, 2.6, 4.3; 5    sine 1.1 each, up to |z| = 1e4    SiLU 2; 1.5 each
//   ReLU 0    leaky ReLU 0.7, 0.2    ELU 1.5, 0.9, 0.9; 0.6    SELU 1.8, 1.2, 1.2; 1.2
//   GELU 3.4 of z Φ(z) as far as e^{−z²/2} is a normal number; 1.8, 1, 1.4 of the largest value    Mish 2.3; 1.8, 2, 2.3
//   tanh GELU 0.8, 1.6, 2.3, 4.4 of the largest value; of z s(v) itself up to 2 v more, v being rounded.
// Without them, and lane by lane, e^{−y} is off by up to y/4 units more.

// Per-target include guard
#if defined(FOKKER_CPU_MLP_ACTIVATIONS_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef FOKKER_CPU_MLP_ACTIVATIONS_INL_HPP
#undef FOKKER_CPU_MLP_ACTIVATIONS_INL_HPP
#else
#define FOKKER_CPU_MLP_ACTIVATIONS_INL_HPP
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include "fokker/formulas/activation.hpp"

HWY_BEFORE_NAMESPACE();
namespace fokker::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// U vectors side by side, with the operations that the formulas need.
template <class T>
using Tag = hn::ScalableTag<T>;
template <class T>
using Vector = hn::Vec<Tag<T>>;
template <class T>
using MaskOf = hn::Mask<Tag<T>>;

template <class T, int U>
struct Group {
  Group<T, U / 2> low, high;
};
template <class T>
struct Group<T, 1> {
  Vector<T> v;
};
template <class T, int U>
struct MaskGroup {
  MaskGroup<T, U / 2> low, high;
};
template <class T>
struct MaskGroup<T, 1> {
  MaskOf<T> v;
};

template <class T, int U>
HWY_INLINE Group<T, U> constant(T x) {
  if constexpr (U == 1) {
    return {hn::Set(Tag<T>(), x)};
  } else {
    return {constant<T, U / 2>(x), constant<T, U / 2>(x)};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> load(const T* p) {
  if constexpr (U == 1) {
    return {hn::LoadU(Tag<T>(), p)};
  } else {
    return {load<T, U / 2>(p), load<T, U / 2>(p + U / 2 * hn::Lanes(Tag<T>()))};
  }
}
template <class T, int U>
HWY_INLINE void store(const Group<T, U>& x, T* p) {
  if constexpr (U == 1) {
    hn::StoreU(x.v, Tag<T>(), p);
  } else {
    store(x.low, p);
    store(x.high, p + U / 2 * hn::Lanes(Tag<T>()));
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> operator+(const Group<T, U>& a, const Group<T, U>& b) {
  if constexpr (U == 1) {
    return {hn::Add(a.v, b.v)};
  } else {
    return {a.low + b.low, a.high + b.high};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> operator-(const Group<T, U>& a, const Group<T, U>& b) {
  if constexpr (U == 1) {
    return {hn::Sub(a.v, b.v)};
  } else {
    return {a.low - b.low, a.high - b.high};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> operator*(const Group<T, U>& a, const Group<T, U>& b) {
  if constexpr (U == 1) {
    return {hn::Mul(a.v, b.v)};
  } else {
    return {a.low * b.low, a.high * b.high};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> operator/(const Group<T, U>& a, const Group<T, U>& b) {
  if constexpr (U == 1) {
    return {hn::Div(a.v, b.v)};
  } else {
    return {a.low / b.low, a.high / b.high};
  }
}
// a b + c
template <class T, int U>
HWY_INLINE Group<T, U> mul_add(const Group<T, U>& a, const Group<T, U>& b, const Group<T, U>& c) {
  if constexpr (U == 1) {
    return {hn::MulAdd(a.v, b.v, c.v)};
  } else {
    return {mul_add(a.low, b.low, c.low), mul_add(a.high, b.high, c.high)};
  }
}
// c − a b
template <class T, int U>
HWY_INLINE Group<T, U> neg_mul_add(const Group<T, U>& a, const Group<T, U>& b, const Group<T, U>& c) {
  if constexpr (U == 1) {
    return {hn::NegMulAdd(a.v, b.v, c.v)};
  } else {
    return {neg_mul_add(a.low, b.low, c.low), neg_mul_add(a.high, b.high, c.high)};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> abs(const Group<T, U>& a) {
  if constexpr (U == 1) {
    return {hn::Abs(a.v)};
  } else {
    return {abs(a.low), abs(a.high)};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> copy_sign(const Group<T, U>& magnitude, const Group<T, U>& sign) {
  if constexpr (U == 1) {
    return {hn::CopySign(magnitude.v, sign.v)};
  } else {
    return {copy_sign(magnitude.low, sign.low), copy_sign(magnitude.high, sign.high)};
  }
}
template <class T, int U>
HWY_INLINE MaskGroup<T, U> operator<(const Group<T, U>& a, const Group<T, U>& b) {
  if constexpr (U == 1) {
    return {hn::Lt(a.v, b.v)};
  } else {
    return {a.low < b.low, a.high < b.high};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> select(const MaskGroup<T, U>& m, const Group<T, U>& yes, const Group<T, U>& no) {
  if constexpr (U == 1) {
    return {hn::IfThenElse(m.v, yes.v, no.v)};
  } else {
    return {select(m.low, yes.low, no.low), select(m.high, yes.high, no.high)};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> zero_where(const MaskGroup<T, U>& m, const Group<T, U>& x) {
  if constexpr (U == 1) {
    return {hn::IfThenZeroElse(m.v, x.v)};
  } else {
    return {zero_where(m.low, x.low), zero_where(m.high, x.high)};
  }
}
// yes where the sign bit of s is set.
template <class T, int U>
HWY_INLINE Group<T, U> select_negative(const Group<T, U>& s, const Group<T, U>& yes, const Group<T, U>& no) {
  if constexpr (U == 1) {
    return {hn::IfNegativeThenElse(s.v, yes.v, no.v)};
  } else {
    return {select_negative(s.low, yes.low, no.low), select_negative(s.high, yes.high, no.high)};
  }
}
// The smaller and the larger of x and a constant; NaN where x is.
template <class T, int U>
HWY_INLINE Group<T, U> min_with(T bound, const Group<T, U>& x) {
  if constexpr (U == 1) {
    const auto limit = hn::Set(Tag<T>(), bound);
    // Highway leaves NaN open: x86 returns the second operand, NEON NaN, the scalar fallback the other operand.
    return {HWY_TARGET == HWY_SCALAR ? hn::IfThenElse(hn::Lt(limit, x.v), limit, x.v) : hn::Min(limit, x.v)};
  } else {
    return {min_with(bound, x.low), min_with(bound, x.high)};
  }
}
template <class T, int U>
HWY_INLINE Group<T, U> max_with(T bound, const Group<T, U>& x) {
  if constexpr (U == 1) {
    const auto limit = hn::Set(Tag<T>(), bound);
    return {HWY_TARGET == HWY_SCALAR ? hn::IfThenElse(hn::Lt(x.v, limit), limit, x.v) : hn::Max(limit, x.v)};
  } else {
    return {max_with(bound, x.low), max_with(bound, x.high)};
  }
}
template <class T, int U>
HWY_INLINE bool all(const MaskGroup<T, U>& m) {
  if constexpr (U == 1) {
    return hn::AllTrue(Tag<T>(), m.v);
  } else {
    return all(m.low) && all(m.high);
  }
}
// The bits of x moved up by Bits places, as a number again; of their integer plus `plus`.
template <int Bits, class T, int U>
HWY_INLINE Group<T, U> shift_bits(const Group<T, U>& x, int plus = 0) {
  if constexpr (U == 1) {
    const hn::RebindToSigned<Tag<T>> di;
    using I = hwy::MakeSigned<T>;
    auto bits = hn::BitCast(di, x.v);
    if (plus != 0) bits = hn::Add(bits, hn::Set(di, static_cast<I>(plus)));
    return {hn::BitCast(Tag<T>(), hn::ShiftLeft<Bits>(bits))};
  } else {
    return {shift_bits<Bits>(x.low, plus), shift_bits<Bits>(x.high, plus)};
  }
}
// x with its sign flipped where the sign bit of s is set.
template <class T, int U>
HWY_INLINE Group<T, U> flip_sign(const Group<T, U>& x, const Group<T, U>& s) {
  if constexpr (U == 1) {
    return {hn::Xor(x.v, hn::And(s.v, hn::SignBit(Tag<T>())))};
  } else {
    return {flip_sign(x.low, s.low), flip_sign(x.high, s.high)};
  }
}
template <class T, int U>
HWY_INLINE MaskGroup<T, U> negative(const Group<T, U>& x) {
  if constexpr (U == 1) {
    const hn::RebindToSigned<Tag<T>> di;
    return {hn::RebindMask(Tag<T>(), hn::Lt(hn::BitCast(di, x.v), hn::Zero(di)))};
  } else {
    return {negative(x.low), negative(x.high)};
  }
}

// Σ_k c[k] x^k by pairs, Horner in x²: half the latency of Horner for one product more.
template <class T, int U, std::size_t N>
HWY_INLINE Group<T, U> polynomial(const Group<T, U>& x, const T (&c)[N]) {
  static_assert(N % 2 == 0);
  const Group<T, U> x2 = x * x;
  Group<T, U> sum = mul_add(constant<T, U>(c[N - 1]), x, constant<T, U>(c[N - 2]));
#pragma GCC unroll 16
  for (std::size_t k = N - 2; k >= 2; k -= 2) {
    sum = mul_add(sum, x2, mul_add(constant<T, U>(c[k - 1]), x, constant<T, U>(c[k - 2])));
  }
  return sum;
}

template <class T>
struct MathConstants;
template <>
struct MathConstants<float> {
  static constexpr int mantissa_bits = 23, bias = 127, sign_shift = 31;
  static constexpr float exponent_limit = 125;  // 2^{−n} is built from its exponent: normal numbers only
  static constexpr float exp2[] = {0.693147182f,   0.240226507f,   0.0555035695f,
                                   0.00961808302f, 0.00133908633f, 0.000154531634f};
  static constexpr float log1p[] = {1.0f,          -0.499998927f, 0.333297104f,   -0.249516159f, 0.196632743f,
                                    -0.152696669f, 0.105436236f,  -0.0563736111f, 0.0195425265f, -0.00317605701f};
  static constexpr float sine[] = {-0.166666672f, 0.00833333191f, -0.000198399968f, 2.72384545e-06f};
  static constexpr float cosine[] = {0.0416666679f, -0.00138888881f, 2.48005254e-05f, -2.72913837e-07f};
  static constexpr float normal_tail[] = {1.89321911f,     -1.52377093f,    0.970407784f,    -0.467541307f,
                                          0.151418284f,    -0.0188842248f,  -0.00885292608f, 0.00395836309f,
                                          0.000540621055f, -0.000285657967f};
  static constexpr float half_pi[] = {1.5707963705062866f, -4.3711388286737929e-08f, -1.7151245100058819e-15f};
  static constexpr float sine_limit = 1e5f;
};
template <>
struct MathConstants<double> {
  static constexpr int mantissa_bits = 52, bias = 1023, sign_shift = 63;
  static constexpr double exponent_limit = 1021;
  static constexpr double exp2[] = {0.69314718055994529,    0.24022650695910072,    0.055504108664821625,
                                    0.0096181291076284803,  0.0013333558146406471,  0.00015403530393370734,
                                    1.5252733841556773e-05, 1.3215486808705563e-06, 1.0178057087733941e-07,
                                    7.0548973041554995e-09, 4.4558179083360645e-10, 2.5729324177362305e-11};
  static constexpr double log1p[] = {1,
                                     -0.49999999999999833,
                                     0.33333333333306459,
                                     -0.2499999999826481,
                                     0.19999999940349814,
                                     -0.16666665403691092,
                                     0.14285696309567308,
                                     -0.12499817769513955,
                                     0.11109740896460193,
                                     -0.099921278217600162,
                                     0.090555675155907331,
                                     -0.082071636804374293,
                                     0.073290152555349541,
                                     -0.062887546707831463,
                                     0.050077423953917038,
                                     -0.035530525401441249,
                                     0.021511022653356974,
                                     -0.01061469636358553,
                                     0.0040478098934675121,
                                     -0.0011093809681700342,
                                     0.00019330794553431145,
                                     -1.6020216725538194e-05};
  static constexpr double sine[] = {
      -0.16666666666666666,    0.0083333333333333315,  -0.000198412698412641,   2.7557319218602575e-06,
      -2.5052105981350752e-08, 1.6058492556729892e-10, -7.5844368841703013e-13, 0};
  static constexpr double cosine[] = {
      0.041666666666666664,   -0.0013888888888888887,  2.480158730158411e-05,  -2.7557319220993294e-07,
      2.0876755651474404e-09, -1.1470439169481705e-11, 4.7446152351836426e-14, 0};
  static constexpr double normal_tail[] = {
      1.8932190633084853,     -1.5237709108199828,     0.97040955486758784,     -0.4675409629983881,
      0.15139176231246837,    -0.018900450859940254,   -0.0087222952746447424,  0.0040878556549674939,
      0.00033424461824353355, -0.00057926908671338266, -4.7832575200476309e-06, 8.809461272640927e-05,
      1.7962582812575387e-06, -1.4839545158073857e-05, -1.5779814566497552e-06, 2.5604804387612584e-06,
      6.8054278055529368e-07, -3.8836483144577731e-07, -2.1323475988624879e-07, 3.3408400804620524e-08,
      4.8644509435386743e-08, 4.6365475538389983e-09,  -6.1769550049999852e-09, -1.7530478530234725e-09};
  static constexpr double half_pi[] = {1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33};
  static constexpr double sine_limit = 1e8;
};

// e^{−rate x} for x ≥ 0; beyond the limit the value there, about 1e-38 (float) or 1e-307; NaN for NaN.
template <class T>
class DecayingExp {
  using C = MathConstants<T>;

 public:
  explicit DecayingExp(double rate) {
    const double log2e = 1.4426950408889634, log2e_rest = 2.035527374093103e-17;
    const double product = rate * log2e, rest = std::fma(rate, log2e, -product) + rate * log2e_rest;
    high_ = static_cast<T>(-product);
    low_ = static_cast<T>(-((product + static_cast<double>(high_)) + rest));
    limit_ = static_cast<T>(C::exponent_limit / product);
  }
  T limit() const { return limit_; }

  template <int U>
  struct Parts {
    Group<T, U> scale, excess;  // e = scale (1 + excess)
  };
  template <int U>
  HWY_INLINE Parts<U> parts(const Group<T, U>& any) const {
    const Group<T, U> x = min_with(limit_, any);
    constexpr T magic = T(3) * (std::int64_t{1} << (C::mantissa_bits - 1)) + C::bias;
    const Group<T, U> high = constant<T, U>(high_), m = mul_add(x, high, constant<T, U>(magic));
    const Group<T, U> n = constant<T, U>(magic) - m;
    const Group<T, U> r = mul_add(x, constant<T, U>(low_), mul_add(x, high, n));
    return {shift_bits<C::mantissa_bits>(m), r * polynomial(r, C::exp2)};
  }
  template <int U>
  HWY_INLINE Group<T, U> operator()(const Group<T, U>& x) const {
    const Parts<U> p = parts(x);
    return mul_add(p.scale, p.excess, p.scale);
  }

 private:
  T high_, low_, limit_;
};

// What of (h, σ′, σ″, σ‴) a kernel is compiled for.
inline constexpr int wants_value = 1, wants_d1 = 2, wants_d2 = 4, wants_d3 = 8, wants_all = 15;

template <class T, int U>
struct GroupValues {
  Group<T, U> value, d1, d2, d3;
};

template <class T>
class VectorSoftplus {
 public:
  explicit VectorSoftplus(const Softplus& s)
      : decay_(s.beta), beta_(static_cast<T>(s.beta)), linear_from_(static_cast<T>(20 / s.beta)) {
    for (std::size_t k = 0; k < std::size(log1p_); ++k) {
      log1p_[k] = static_cast<T>(MathConstants<T>::log1p[k] / s.beta);
    }
  }

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    const Group<T, U> one = constant<T, U>(T(1));
    Group<T, U> e = decay_(abs(z));
    // Beyond βz = 20 e = 0 gives the linear branch exactly: z, 1, 0, 0. In float h and σ′ round to it by themselves.
    if constexpr (sizeof(T) > sizeof(float) || (Orders & (wants_d2 | wants_d3)) != 0) {
      e = zero_where(constant<T, U>(linear_from_) < z, e);
    }
    if constexpr ((Orders & wants_value) != 0) out.value = mul_add(e, polynomial(e, log1p_), max_with(T(0), z));
    if constexpr ((Orders & ~wants_value) == wants_d1) {
      out.d1 = select_negative(z, e, one) / (one + e);
    } else if constexpr ((Orders & ~wants_value) != 0) {
      const Group<T, U> inverse = one / (one + e), s = select_negative(z, e * inverse, inverse);
      const Group<T, U> beta = constant<T, U>(beta_), d2 = beta * ((e * inverse) * inverse);
      out.d1 = s;
      out.d2 = d2;
      if constexpr ((Orders & wants_d3) != 0) out.d3 = (beta * d2) * (one - (s + s));
    }
  }

 private:
  DecayingExp<T> decay_;
  T beta_, linear_from_;
  T log1p_[std::size(MathConstants<T>::log1p)];
};

// tanh |z| = (1 − e)/(1 + e), e = e^{−2|z|}, with 1 − e = (1 − 2^n) − 2^n r P(r) free of cancellation near 0.
template <class T>
class VectorTanh {
 public:
  VectorTanh() : decay_(2) {}

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    const Group<T, U> one = constant<T, U>(T(1)), x = abs(z);
    const auto parts = decay_.parts(x);
    const MaskGroup<T, U> flat = constant<T, U>(T(40)) < x;
    const Group<T, U> e = zero_where(flat, mul_add(parts.scale, parts.excess, parts.scale));
    const Group<T, U> numerator = select(flat, one, neg_mul_add(parts.scale, parts.excess, one - parts.scale));
    const Group<T, U> inverse = one / (one + e), h = copy_sign(numerator * inverse, z);
    out.value = h;
    if constexpr ((Orders & ~wants_value) != 0) {
      const Group<T, U> twice = e + e, d1 = ((twice + twice) * inverse) * inverse;
      out.d1 = d1;
      out.d2 = constant<T, U>(T(-2)) * (h * d1);
      out.d3 = d1 * mul_add(constant<T, U>(T(6)) * h, h, constant<T, U>(T(-2)));
    }
  }

 private:
  DecayingExp<T> decay_;
};

template <class T>
class VectorSilu {
 public:
  VectorSilu() : decay_(1) {}

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    const Group<T, U> one = constant<T, U>(T(1)), two = constant<T, U>(T(2));
    const Group<T, U> x = abs(z);
    // Zero where it underflows: a large z multiplies it.
    const Group<T, U> e = zero_where(constant<T, U>(decay_.limit()) < x, decay_(x));
    const Group<T, U> inverse = one / (one + e), s = select_negative(z, e * inverse, inverse);
    out.value = z * s;
    if constexpr ((Orders & ~wants_value) != 0) {
      const Group<T, U> q = (e * inverse) * inverse, zq = z * q, r = one - (s + s), zr = z * r;
      out.d1 = s + zq;
      out.d2 = q * (two + zr);
      out.d3 = neg_mul_add(two * zq, q, (q * r) * (constant<T, U>(T(3)) + zr));
    }
  }

 private:
  DecayingExp<T> decay_;
};

// z = n π/2 + r by Cody and Waite (1980) with π/2 in three parts, exact inside fused multiply-adds up to the limit;
// beyond it, and without such instructions, lane by lane from the standard library.
template <class T>
class VectorSine {
  using C = MathConstants<T>;

 public:
  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    constexpr T magic = T(3) * (std::int64_t{1} << (C::mantissa_bits - 1));
    const Group<T, U> m = mul_add(z, constant<T, U>(T(0.63661977236758138)), constant<T, U>(magic));
    const Group<T, U> n = m - constant<T, U>(magic), one = constant<T, U>(T(1));
    Group<T, U> r = neg_mul_add(n, constant<T, U>(C::half_pi[0]), z);
    r = neg_mul_add(n, constant<T, U>(C::half_pi[1]), r);
    r = neg_mul_add(n, constant<T, U>(C::half_pi[2]), r);
    const Group<T, U> u = r * r;
    const Group<T, U> sine = mul_add(r * u, polynomial(u, C::sine), r);
    const Group<T, U> cosine = mul_add(u * u, polynomial(u, C::cosine), neg_mul_add(constant<T, U>(T(0.5)), u, one));
    const MaskGroup<T, U> odd = negative(shift_bits<C::sign_shift>(m));
    Group<T, U> s = flip_sign(select(odd, cosine, sine), shift_bits<C::sign_shift - 1>(m));
    Group<T, U> c = flip_sign(select(odd, sine, cosine), shift_bits<C::sign_shift - 1>(m, 1));
    if (HWY_UNLIKELY(HWY_TARGET == HWY_SCALAR || !all(abs(z) < constant<T, U>(C::sine_limit)))) {
      HWY_ALIGN T at[U * HWY_MAX_BYTES / sizeof(T)], sines[U * HWY_MAX_BYTES / sizeof(T)],
          cosines[U * HWY_MAX_BYTES / sizeof(T)];
      store(z, at);
      store(s, sines);
      store(c, cosines);
      for (std::size_t i = 0; i < U * hn::Lanes(Tag<T>()); ++i) {
        // The other lanes keep what they have: a result must not depend on its neighbours.
        if (HWY_TARGET != HWY_SCALAR && std::fabs(at[i]) < C::sine_limit) continue;
        sines[i] = std::sin(at[i]);
        cosines[i] = std::cos(at[i]);
      }
      s = load<T, U>(sines);
      c = load<T, U>(cosines);
    }
    const Group<T, U> zero = constant<T, U>(T(0));
    out = {s, c, zero - s, zero - c};
  }
};

// Of ReLU and leaky ReLU. At 0 the slope is slope + z, as it is for NaN.
template <class T>
class VectorRelu {
 public:
  explicit VectorRelu(double negative_slope) : slope_(static_cast<T>(negative_slope)) {}

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    const Group<T, U> zero = constant<T, U>(T(0)), slope = constant<T, U>(slope_);
    const MaskGroup<T, U> below = z < zero;
    // The product alone would make NaN of 0 and −∞.
    out.value = slope_ == 0 ? zero_where(below, z) : select(below, slope * z, z);
    out.d1 = select(zero < z, constant<T, U>(T(1)), select(below, slope, slope + z));
    out.d2 = out.d3 = zero;
  }

 private:
  T slope_;
};

// scale z above 0 and factor (e^z − 1) below, with e^z − 1 = (2^n − 1) + 2^n r P(r) free of cancellation near 0.
template <class T>
class VectorElu {
 public:
  VectorElu(double scale, double factor) : decay_(1), scale_(static_cast<T>(scale)), factor_(static_cast<T>(factor)) {}

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    const Group<T, U> scale = constant<T, U>(scale_), factor = constant<T, U>(factor_);
    const MaskGroup<T, U> above = constant<T, U>(T(0)) < z;
    const auto parts = decay_.parts(abs(z));
    if constexpr ((Orders & wants_value) != 0) {
      const Group<T, U> less_one = mul_add(parts.scale, parts.excess, parts.scale - constant<T, U>(T(1)));
      out.value = select(above, scale * z, factor * less_one);
    }
    if constexpr ((Orders & ~wants_value) != 0) {
      const Group<T, U> e = factor * mul_add(parts.scale, parts.excess, parts.scale);
      out.d1 = select(above, scale, e);
      out.d2 = out.d3 = zero_where(above, e);
    }
  }

 private:
  DecayingExp<T> decay_;
  T scale_, factor_;
};

// Φ(−y) = ϕ(y)/(y + 4) · P((y − 4)/(y + 4)) for y = |z|: P is nearly straight from y = 0 to ∞, where it is 1. The square in
// ϕ is taken in two parts, so that its rounding does not come out y²/4 times as large.
template <class T>
class VectorGelu {
 public:
  VectorGelu() : decay_(0.5) {}

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    const Group<T, U> one = constant<T, U>(T(1)), four = constant<T, U>(T(4));
    const Group<T, U> y = min_with(T(40), abs(z));
    const Group<T, U> square = y * y, rest = mul_add(y, y, constant<T, U>(T(0)) - square);
    const Group<T, U> rough = constant<T, U>(T(0.39894228040143267794)) * decay_(square);
    // Zero where it underflows: y multiplies it.
    const Group<T, U> density =
        zero_where(constant<T, U>(decay_.limit()) < square, neg_mul_add(constant<T, U>(T(0.5)) * rough, rest, rough));
    const Group<T, U> inverse = one / (y + four);
    const Group<T, U> tail = density * (inverse * polynomial((y - four) * inverse, MathConstants<T>::normal_tail));
    out.value = neg_mul_add(y, tail, max_with(T(0), z));
    if constexpr ((Orders & ~wants_value) != 0) {
      const Group<T, U> moment = copy_sign(y * density, z);
      out.d1 = select_negative(z, tail, one - tail) + moment;
      out.d2 = density * (constant<T, U>(T(2)) - square);
      out.d3 = moment * (square - four);
    }
  }

 private:
  DecayingExp<T> decay_;
};

// With y = |z|, v = 2 √(2/π) (y + 0.044715 y³), e = e^{−v}, q = e/(1 + e)² and h = (1 − e)/(1 + e), in which the
// derivatives are those of the logistic function of v.
template <class T>
class VectorGeluTanh {
 public:
  VectorGeluTanh() : decay_(1) {}

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    constexpr double k = 1.5957691216057307, c = 0.044715 * k;
    const Group<T, U> one = constant<T, U>(T(1)), y = min_with(T(40), abs(z)), square = y * y;
    const Group<T, U> v = y * mul_add(constant<T, U>(T(c)), square, constant<T, U>(T(k)));
    // Zero where it underflows: y multiplies it.
    const Group<T, U> e = zero_where(constant<T, U>(decay_.limit()) < v, decay_(v));
    const Group<T, U> inverse = one / (one + e), low = e * inverse;
    out.value = neg_mul_add(y, low, max_with(T(0), z));
    if constexpr ((Orders & ~wants_value) != 0) {
      const Group<T, U> q = low * inverse, v1 = mul_add(constant<T, U>(T(3 * c)), square, constant<T, U>(T(k)));
      out.d1 = select_negative(z, low, inverse) + copy_sign((y * q) * v1, z);
      if constexpr ((Orders & (wants_d2 | wants_d3)) != 0) {
        const Group<T, U> h = (one - e) * inverse, v2 = constant<T, U>(T(6 * c)) * y, hv1 = h * v1;
        const Group<T, U> bent = neg_mul_add(hv1, v1, v2);  // σ_logistic″/q along y
        out.d2 = q * mul_add(y, bent, v1 + v1);
        if constexpr ((Orders & wants_d3) != 0) {
          const Group<T, U> three = constant<T, U>(T(3)), cube = (v1 * v1) * v1;
          const Group<T, U> turned = mul_add(neg_mul_add(constant<T, U>(T(2)), q, h * h), cube,
                                             neg_mul_add(three * hv1, v2, constant<T, U>(T(6 * c))));
          out.d3 = flip_sign(q * mul_add(y, turned, three * bent), z);
        }
      }
    }
  }

 private:
  DecayingExp<T> decay_;
};

// h = tanh(log(1 + e^z)) is a quotient of polynomials in e = e^{−|z|} on either side of 0, and so are its derivatives,
// with powers of one denominator.
template <class T>
class VectorMish {
 public:
  VectorMish() : decay_(1) {}

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    const auto either = [&](int below, int above) HWY_ATTR {
      return select_negative(z, constant<T, U>(static_cast<T>(below)), constant<T, U>(static_cast<T>(above)));
    };
    const Group<T, U> one = constant<T, U>(T(1)), x = abs(z);
    // Zero where it underflows: a large z multiplies it.
    const Group<T, U> e = zero_where(constant<T, U>(decay_.limit()) < x, decay_(x));
    const Group<T, U> inverse = one / mul_add(mul_add(either(1, 2), e, constant<T, U>(T(2))), e, either(2, 1));
    const Group<T, U> h =
        mul_add(constant<T, U>(T(2)) + select_negative(z, e, constant<T, U>(T(0))), e, either(0, 1)) * inverse;
    out.value = max_with(T(-1000), z) * h;
    if constexpr ((Orders & ~wants_value) != 0) {
      const Group<T, U> y = copy_sign(min_with(T(1000), x), z), ei = e * inverse;
      const Group<T, U> g = constant<T, U>(T(4)) * (ei * select_negative(z, inverse, ei));
      const Group<T, U> h1 = mul_add(g, e, g);
      out.d1 = mul_add(y, h1, h);
      if constexpr ((Orders & (wants_d2 | wants_d3)) != 0) {
        const Group<T, U> gi = g * inverse;
        const Group<T, U> h2 =
            gi * mul_add(mul_add(mul_add(either(-2, 2), e, either(-3, 2)), e, either(2, -3)), e, either(2, -2));
        out.d2 = mul_add(y, h2, h1 + h1);
        if constexpr ((Orders & wants_d3) != 0) {
          Group<T, U> sum = mul_add(constant<T, U>(T(4)), e, either(5, 0));
          sum = mul_add(mul_add(sum, e, either(-24, -32)), e, either(-32, -24));
          sum = mul_add(mul_add(sum, e, either(0, 5)), e, constant<T, U>(T(4)));
          out.d3 = mul_add(y, (gi * inverse) * sum, constant<T, U>(T(3)) * h2);
        }
      }
    }
  }

 private:
  DecayingExp<T> decay_;
};

// The functor itself, lane by lane.
template <class T, class Sigma>
class LaneByLane {
 public:
  explicit LaneByLane(const Sigma& sigma) : sigma_(sigma) {}

  template <int Orders, int U>
  HWY_INLINE void operator()(const Group<T, U>& z, GroupValues<T, U>& out) const {
    HWY_ALIGN T v[4][U * HWY_MAX_BYTES / sizeof(T)];
    store(z, v[0]);
    for (std::size_t i = 0; i < U * hn::Lanes(Tag<T>()); ++i) {
      const ActivationValues<T> values = sigma_(v[0][i]);
      v[0][i] = values.value, v[1][i] = values.d1, v[2][i] = values.d2, v[3][i] = values.d3;
    }
    out = {load<T, U>(v[0]), load<T, U>(v[1]), load<T, U>(v[2]), load<T, U>(v[3])};
  }

 private:
  Sigma sigma_;
};

// The vector form of an activation that has one; of any other its functor.
template <class T, class Sigma>
LaneByLane<T, Sigma> vector_form(const Sigma& sigma) {
  return LaneByLane<T, Sigma>(sigma);
}
template <class T>
VectorSoftplus<T> vector_form(const Softplus& sigma) {
  return VectorSoftplus<T>(sigma);
}
template <class T>
VectorTanh<T> vector_form(const Tanh&) {
  return {};
}
template <class T>
VectorSilu<T> vector_form(const Silu&) {
  return {};
}
template <class T>
VectorSine<T> vector_form(const Sine&) {
  return {};
}
template <class T>
VectorRelu<T> vector_form(const Relu&) {
  return VectorRelu<T>(0);
}
template <class T>
VectorRelu<T> vector_form(const LeakyRelu& sigma) {
  return VectorRelu<T>(sigma.negative_slope);
}
template <class T>
VectorElu<T> vector_form(const Elu& sigma) {
  return VectorElu<T>(1, sigma.alpha);
}
template <class T>
VectorElu<T> vector_form(const Selu&) {
  return VectorElu<T>(Selu::scale, Selu::scale * Selu::alpha);
}
template <class T>
VectorGelu<T> vector_form(const Gelu&) {
  return {};
}
template <class T>
VectorGeluTanh<T> vector_form(const GeluTanh&) {
  return {};
}
template <class T>
VectorMish<T> vector_form(const Mish&) {
  return {};
}

// Vectors side by side: what 16 registers hold of the longest formula.
inline constexpr int activation_group = 4;

template <int Orders, class T, class Sigma>
HWY_NOINLINE void activate_orders(const Sigma& sigma, std::int64_t n, const T* z, T* h, T* d1, T* d2, T* d3) {
  const auto step = [&]<int U>(std::int64_t i, std::integral_constant<int, U>) HWY_ATTR {
    GroupValues<T, U> out;
    sigma.template operator()<Orders>(load<T, U>(z + i), out);
    // A kernel for all orders serves the rare requests that have none of their own.
    constexpr bool general = Orders == wants_all;
    if constexpr ((Orders & wants_value) != 0) {
      if (!general || h) store(out.value, h + i);
    }
    if constexpr ((Orders & wants_d1) != 0) {
      if (!general || d1) store(out.d1, d1 + i);
    }
    if constexpr ((Orders & wants_d2) != 0) {
      if (!general || d2) store(out.d2, d2 + i);
    }
    if constexpr ((Orders & wants_d3) != 0) {
      if (!general || d3) store(out.d3, d3 + i);
    }
  };
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(Tag<T>()));
  std::int64_t i = 0;
  for (; i + activation_group * lanes <= n; i += activation_group * lanes) {
    step(i, std::integral_constant<int, activation_group>());
  }
  for (; i < n; i += lanes) step(i, std::integral_constant<int, 1>());
}

template <class T>
void activate(Activation activation, T parameter, std::int64_t n, const T* z, T* h, T* d1, T* d2, T* d3) {
  const int orders = (h ? wants_value : 0) | (d1 ? wants_d1 : 0) | (d2 ? wants_d2 : 0) | (d3 ? wants_d3 : 0);
  with_activation(activation, static_cast<double>(parameter), [&](const auto& definition) {
    const auto sigma = vector_form<T>(definition);
    switch (orders) {
      case 0: return;
      case 1: return activate_orders<1>(sigma, n, z, h, d1, d2, d3);
      case 2: return activate_orders<2>(sigma, n, z, h, d1, d2, d3);
      case 3: return activate_orders<3>(sigma, n, z, h, d1, d2, d3);
      case 6: return activate_orders<6>(sigma, n, z, h, d1, d2, d3);
      case 7: return activate_orders<7>(sigma, n, z, h, d1, d2, d3);
      default: return activate_orders<wants_all>(sigma, n, z, h, d1, d2, d3);
    }
  });
}

}  // namespace fokker::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
