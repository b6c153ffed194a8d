// Philox4x32-10 and Box–Muller, one point a lane.
//
// Data path: the four counter words of a block live in the low halves of 64-bit lanes, so that a round is two widening
// products, two shifts and four xors for a vector of blocks, and what the products leave in the high halves is never
// read. Even points are in one set of vectors, odd points in another; after the last round their low halves interleave
// into words in the order of points. Every point takes the same instructions in whichever lane, and a short last vector
// is computed in full and stored in part, so a draw does not depend on its neighbours or on the length.
//
// Cost: about 80 instructions for the words and 60 for two normals a vector of points.
//
// Errors: words and uniforms are exact. A normal is within 4 ulp of the formula of formulas/philox.hpp in exact arithmetic: the
// angle is reduced exactly, in turns, before it is rounded, where the float formula rounds it first.
#include "cpu/random.hpp"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "cpu/simd.hpp"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)  // compile time: the baseline, AVX2 and AVX-512 remain
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/random.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h comes first.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fokker::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::ScalableTag<float>;
using U32 = hn::RebindToUnsigned<F>;
using I32 = hn::RebindToSigned<F>;
using VF = hn::Vec<F>;
using VU32 = hn::Vec<U32>;

struct Words {
  VU32 w0, w1, w2, w3;
};

#if HWY_TARGET == HWY_SCALAR  // one lane: no room for two halves

HWY_INLINE Words philox(std::uint64_t seed, std::uint64_t first_index, std::uint64_t offset) {
  const U32 d;
  const PhiloxBlock b = philox4x32_10(seed, first_index, offset);
  return {hn::Set(d, b.word[0]), hn::Set(d, b.word[1]), hn::Set(d, b.word[2]), hn::Set(d, b.word[3])};
}

#else

using U64 = hn::Repartition<std::uint64_t, F>;
using VU64 = hn::Vec<U64>;

struct Counters {
  VU64 c0, c1, c2, c3;
};

HWY_INLINE VU64 widening_product(VU64 a, VU32 b) { return hn::MulEven(hn::BitCast(U32(), a), b); }

HWY_INLINE Counters start(std::uint64_t offset, VU64 index) {
  const U64 d;
  return {hn::Set(d, offset & 0xFFFFFFFFu), hn::Set(d, offset >> 32), index, hn::ShiftRight<32>(index)};
}

HWY_INLINE Counters round(const Counters& c, VU64 k0, VU64 k1) {
  const VU64 p0 = widening_product(c.c0, hn::Set(U32(), 0xD2511F53u));
  const VU64 p1 = widening_product(c.c2, hn::Set(U32(), 0xCD9E8D57u));
  return {hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c.c1), k0), p1, hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c.c3), k1),
          p0};
}

HWY_INLINE VU32 interleave(VU64 even, VU64 odd) {
  return hn::OddEven(hn::BitCast(U32(), hn::ShiftLeft<32>(odd)), hn::BitCast(U32(), even));
}

// The block at `offset` of points first_index, first_index + 1, …, one a lane.
HWY_INLINE Words philox(std::uint64_t seed, std::uint64_t first_index, std::uint64_t offset) {
  const U64 d;
  const VU64 index = hn::Add(hn::Set(d, first_index), hn::ShiftLeft<1>(hn::Iota(d, 0)));
  Counters even = start(offset, index), odd = start(offset, hn::Add(index, hn::Set(d, 1)));
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int r = 0; r < 10; ++r) {
    const VU64 v0 = hn::Set(d, k0), v1 = hn::Set(d, k1);
    even = round(even, v0, v1);
    odd = round(odd, v0, v1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {interleave(even.c0, odd.c0), interleave(even.c1, odd.c1), interleave(even.c2, odd.c2),
          interleave(even.c3, odd.c3)};
}

#endif

HWY_INLINE VF uniform(VU32 w) {
  const F d;
  const VF k = hn::ConvertTo(d, hn::BitCast(I32(), hn::ShiftRight<9>(w)));
  return hn::Mul(hn::Add(k, hn::Set(d, 0.5f)), hn::Set(d, 0x1p-23f));
}

// ln x for normal positive x: x = 2^e (1 + f) with 1 + f in [√½, √2), and a polynomial in f (Moshier, Cephes logf).
HWY_INLINE VF log_positive(VF x) {
  const F d;
  const I32 di;
  const auto shifted = hn::Sub(hn::BitCast(di, x), hn::Set(di, 0x3F3504F3));
  const auto exponent = hn::ShiftRight<23>(shifted);
  const VF e = hn::ConvertTo(d, exponent);
  const VF f = hn::Sub(hn::BitCast(d, hn::Sub(hn::BitCast(di, x), hn::ShiftLeft<23>(exponent))), hn::Set(d, 1.0f));
  const VF f2 = hn::Mul(f, f);
  VF p = hn::Set(d, 7.0376836292e-2f);
  p = hn::MulAdd(p, f, hn::Set(d, -1.1514610310e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.1676998740e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, -1.2420140846e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.4249322787e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, -1.6668057665e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.0000714765e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, -2.4999993993e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 3.3333331174e-1f));
  VF y = hn::Mul(hn::Mul(p, f), f2);
  y = hn::MulAdd(hn::Set(d, -2.12194440e-4f), e, y);  // ln 2 in two parts
  y = hn::NegMulAdd(hn::Set(d, 0.5f), f2, y);
  return hn::MulAdd(hn::Set(d, 0.693359375f), e, hn::Add(f, y));
}

// cos and sin of 2π (k + ½) 2^{−23}, k = ⌊w / 2^9⌋: the nearest quarter turn is taken off exactly, as an integer.
HWY_INLINE void cos_sin_of_turns(VU32 w, VF& cosine, VF& sine) {
  const F d;
  const I32 di;
  const auto k = hn::BitCast(di, hn::ShiftRight<9>(w));
  const auto quarter = hn::ShiftRight<21>(hn::Add(k, hn::Set(di, 1 << 20)));
  const VF rest = hn::ConvertTo(d, hn::Sub(k, hn::ShiftLeft<21>(quarter)));
  const VF x = hn::Mul(hn::Add(rest, hn::Set(d, 0.5f)), hn::Set(d, 6.28318530717958647692f * 0x1p-23f));
  const VF z = hn::Mul(x, x);
  // Moshier, Cephes sinf and cosf, on |x| ≤ π/4.
  VF s = hn::MulAdd(hn::Set(d, -1.9515295891e-4f), z, hn::Set(d, 8.3321608736e-3f));
  s = hn::MulAdd(s, z, hn::Set(d, -1.6666654611e-1f));
  s = hn::MulAdd(hn::Mul(s, z), x, x);
  VF c = hn::MulAdd(hn::Set(d, 2.443315711809948e-5f), z, hn::Set(d, -1.388731625493765e-3f));
  c = hn::MulAdd(c, z, hn::Set(d, 4.166664568298827e-2f));
  c = hn::MulAdd(hn::Mul(c, z), z, hn::NegMulAdd(hn::Set(d, 0.5f), z, hn::Set(d, 1.0f)));
  // Quarter 0: (c, s); 1: (−s, c); 2: (−c, −s); 3: (s, −c).
  const auto swap = hn::RebindMask(d, hn::TestBit(quarter, hn::Set(di, 1)));
  const auto cosine_sign = hn::ShiftLeft<30>(hn::And(hn::Add(quarter, hn::Set(di, 1)), hn::Set(di, 2)));
  const auto sine_sign = hn::ShiftLeft<30>(hn::And(quarter, hn::Set(di, 2)));
  cosine = hn::Xor(hn::IfThenElse(swap, s, c), hn::BitCast(d, cosine_sign));
  sine = hn::Xor(hn::IfThenElse(swap, c, s), hn::BitCast(d, sine_sign));
}

HWY_INLINE void normals(VU32 w0, VU32 w1, VF scale, VF& z0, VF& z1) {
  const F d;
  const VF radius = hn::Mul(scale, hn::Sqrt(hn::Mul(hn::Set(d, -2.0f), log_positive(uniform(w0)))));
  VF c, s;
  cos_sin_of_turns(w1, c, s);
  z0 = hn::Mul(radius, c);
  z1 = hn::Mul(radius, s);
}

template <bool kNormal>
HWY_INLINE void draw(float* out, std::int64_t n, int per_point, std::uint64_t seed, std::uint64_t first_index,
                     RandomUse use, std::uint64_t step, [[maybe_unused]] float factor, std::uint32_t first_block) {
  const F d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  [[maybe_unused]] const VF scale = hn::Set(d, factor);
  HWY_ALIGN float staged[4 * hn::MaxLanes(F())];
  for (std::int64_t i = 0; i < n; i += lanes) {
    const std::int64_t count = std::min(lanes, n - i);
    for (int column = 0; column < per_point; column += 4) {
      const int width = std::min(4, per_point - column);
      const std::uint32_t block = first_block + static_cast<std::uint32_t>(column / 4);
      const Words w = philox(seed, first_index + static_cast<std::uint64_t>(i), philox_offset(use, block, step));
      VF v0, v1, v2 = hn::Zero(d), v3 = hn::Zero(d);
      if constexpr (kNormal) {
        normals(w.w0, w.w1, scale, v0, v1);
        if (width > 2) normals(w.w2, w.w3, scale, v2, v3);
      } else {
        v0 = uniform(w.w0), v1 = uniform(w.w1), v2 = uniform(w.w2), v3 = uniform(w.w3);
      }
      float* target = out + i * per_point + column;
      if (count == lanes && per_point == 2) {
        hn::StoreInterleaved2(v0, v1, d, target);
      } else if (count == lanes && per_point == 4) {
        hn::StoreInterleaved4(v0, v1, v2, v3, d, target);
      } else if (count == lanes && per_point == 1) {
        hn::StoreU(v0, d, target);
      } else {
        hn::StoreInterleaved4(v0, v1, v2, v3, d, staged);
        for (std::int64_t p = 0; p < count; ++p) std::copy_n(staged + 4 * p, width, target + p * per_point);
      }
    }
  }
}

void uniforms_of(float* out, std::int64_t n, int per_point, std::uint64_t seed, std::uint64_t first_index,
                 RandomUse use, std::uint64_t step, std::uint32_t first_block) {
  draw<false>(out, n, per_point, seed, first_index, use, step, 1, first_block);
}
void normals_of(float* out, std::int64_t n, int per_point, std::uint64_t seed, std::uint64_t first_index, RandomUse use,
                std::uint64_t step, float scale, std::uint32_t first_block) {
  draw<true>(out, n, per_point, seed, first_index, use, step, scale, first_block);
}
const char* target_name() { return simd_name(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace fokker::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fokker::cpu {

HWY_EXPORT(uniforms_of);
HWY_EXPORT(normals_of);
HWY_EXPORT(target_name);

const char* simd_name(std::int64_t target) {
  const char* name = hwy::TargetName(target);
  return std::string_view(name).starts_with("AVX3") ? "AVX-512" : name;
}
const char* simd_target_name() { return HWY_DYNAMIC_DISPATCH(target_name)(); }

void draw_point_uniforms(float* out, std::int64_t n, int per_point, std::uint64_t seed, std::uint64_t first_index,
                         RandomUse use, std::uint64_t step, std::uint32_t first_block) {
  HWY_DYNAMIC_DISPATCH(uniforms_of)(out, n, per_point, seed, first_index, use, step, first_block);
}

void draw_point_normals(float* out, std::int64_t n, int per_point, std::uint64_t seed, std::uint64_t first_index,
                        RandomUse use, std::uint64_t step, float scale, std::uint32_t first_block) {
  HWY_DYNAMIC_DISPATCH(normals_of)(out, n, per_point, seed, first_index, use, step, scale, first_block);
}

}  // namespace fokker::cpu
#endif
