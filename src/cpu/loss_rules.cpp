#include "cpu/loss_rules.hpp"

// As mlp_primitives.cpp: the same instruction sets, whose vectors the padding of the planes fits.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/loss_rules.cpp"
#include <hwy/foreach_target.h>  // compiles this file once an instruction set
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fokker::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The dimension as a compile-time number where it is small, so that the loop over streams unrolls; 0: at run time.
template <int kDimension, class T>
void residual_forward_of(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, T* z, T* h,
                         const T* d2, const T* d3) {
  const hn::ScalableTag<T> tag;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(tag));
  const std::int64_t d = kDimension ? kDimension : dimension, plane = rows * stride;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto c = hn::Set(tag, half_g2[r]);
    for (std::int64_t k = r * stride; k < (r + 1) * stride; k += lanes) {
      const auto s1 = hn::LoadU(tag, z + k), s2 = hn::LoadU(tag, d2 + k);
      auto q = hn::Zero(tag);
      for (std::int64_t i = 1; i <= d; ++i) {
        const auto zi = hn::LoadU(tag, z + i * plane + k);
        q = hn::MulAdd(zi, zi, q);
        hn::StoreU(hn::Mul(s1, zi), tag, h + i * plane + k);
        if (d3) hn::StoreU(hn::Mul(s2, zi), tag, z + i * plane + k);
      }
      const auto cq = hn::Mul(c, q), za = hn::LoadU(tag, z + (d + 1) * plane + k);
      hn::StoreU(hn::NegMulAdd(s2, cq, hn::Mul(s1, za)), tag, h + (d + 1) * plane + k);
      if (d3) {
        const auto s3 = hn::LoadU(tag, d3 + k);
        hn::StoreU(hn::NegMulAdd(s3, cq, hn::Mul(s2, za)), tag, z + (d + 1) * plane + k);
      }
    }
  }
}

template <class T>
void residual_forward(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, T* z, T* h,
                      const T* d2, const T* d3) {
  if (dimension == 2) return residual_forward_of<2, T>(rows, stride, dimension, half_g2, z, h, d2, d3);
  residual_forward_of<0, T>(rows, stride, dimension, half_g2, z, h, d2, d3);
}

template <int kDimension, bool kLast, class T>
void residual_reverse_of(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, const T* z,
                         const T* seeds, const T* value_seeds, const T* v, T* bar) {
  const hn::ScalableTag<T> tag;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(tag));
  const std::int64_t d = kDimension ? kDimension : dimension, plane = rows * stride;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto g2 = hn::Set(tag, 2 * half_g2[r]);
    for (std::int64_t j = 0, k = r * stride; j < stride; j += lanes, k += lanes) {
      const auto seeded = [&](std::int64_t stream) {  // h̄ of a stream after z_0
        if constexpr (kLast)
          return hn::Mul(hn::Set(tag, seeds[(stream - 1) * rows + r]), hn::LoadU(tag, v + j));
        else
          return hn::LoadU(tag, bar + stream * plane + k);
      };
      const auto s1 = hn::LoadU(tag, z + k);
      const auto h_operator = seeded(d + 1), g2_h_operator = hn::Mul(g2, h_operator);  // h̄_𝒜
      auto sum = hn::Mul(hn::LoadU(tag, z + (d + 1) * plane + k), h_operator);
      if constexpr (!kLast) {
        sum = hn::MulAdd(s1, hn::LoadU(tag, bar + k), sum);
      } else if (value_seeds) {
        sum = hn::MulAdd(s1, hn::Mul(hn::Set(tag, value_seeds[r]), hn::LoadU(tag, v + j)), sum);
      }
      for (std::int64_t i = 1; i <= d; ++i) {
        const auto u = hn::LoadU(tag, z + i * plane + k), hi = seeded(i);
        sum = hn::MulAdd(u, hi, sum);
        hn::StoreU(hn::NegMulAdd(u, g2_h_operator, hn::Mul(s1, hi)), tag, bar + i * plane + k);
      }
      hn::StoreU(sum, tag, bar + k);
      hn::StoreU(hn::Mul(s1, h_operator), tag, bar + (d + 1) * plane + k);
    }
  }
}

template <class T>
void residual_reverse(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, const T* z,
                      T* bar) {
  if (dimension == 2) {
    return residual_reverse_of<2, false, T>(rows, stride, dimension, half_g2, z, nullptr, nullptr, nullptr, bar);
  }
  residual_reverse_of<0, false, T>(rows, stride, dimension, half_g2, z, nullptr, nullptr, nullptr, bar);
}

template <class T>
void residual_reverse_last(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, const T* z,
                           const T* seeds, const T* value_seeds, const T* v, T* bar) {
  if (dimension == 2)
    return residual_reverse_of<2, true, T>(rows, stride, dimension, half_g2, z, seeds, value_seeds, v, bar);
  residual_reverse_of<0, true, T>(rows, stride, dimension, half_g2, z, seeds, value_seeds, v, bar);
}

template <class T>
void seed_tangent(std::int64_t rows, std::int64_t stride, std::int64_t directions, const T* weights, const T* z,
                  const T* d1, const T* d2, const T* curvature, T* source, T* u) {
  const hn::ScalableTag<T> tag;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(tag)), plane = rows * stride;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = r * stride; k < (r + 1) * stride; k += lanes) {
      auto q = hn::Zero(tag);
      for (std::int64_t i = 0; i < directions; ++i) {
        const auto zi = hn::LoadU(tag, z + i * plane + k);
        q = hn::MulAdd(hn::Mul(hn::Set(tag, weights[i * rows + r]), zi), zi, q);
      }
      const auto along = hn::LoadU(tag, u + k);
      hn::StoreU(hn::MulAdd(hn::LoadU(tag, d1 + k), along, hn::Mul(hn::LoadU(tag, d2 + k), q)), tag, u + k);
      hn::StoreU(hn::MulAdd(hn::LoadU(tag, curvature + k), along, hn::Mul(hn::LoadU(tag, source + k), q)), tag,
                 source + k);
    }
  }
}

template <class T>
void adjoint(std::int64_t rows, std::int64_t stride, std::int64_t directions, const T* weights, const T* d1,
             const T* d2, const T* curvature, const T* bar, T* source, T* z) {
  const hn::ScalableTag<T> tag;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(tag)), plane = rows * stride;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = r * stride; k < (r + 1) * stride; k += lanes) {
      const auto s1 = hn::LoadU(tag, d1 + k), s2 = hn::LoadU(tag, d2 + k), kappa = hn::LoadU(tag, curvature + k);
      auto sum = hn::LoadU(tag, source + k);
      if (bar) sum = hn::MulAdd(s1, hn::LoadU(tag, bar + k), sum);
      for (std::int64_t i = 0; i < directions; ++i) {
        const auto zi = hn::LoadU(tag, z + i * plane + k);
        auto alpha = hn::Mul(hn::Mul(hn::Set(tag, 2 * weights[i * rows + r]), kappa), zi);
        if (bar) {
          const auto a = hn::LoadU(tag, bar + (1 + i) * plane + k);
          alpha = hn::MulAdd(s1, a, alpha);
          sum = hn::MulAdd(hn::Mul(s2, zi), a, sum);
        }
        hn::StoreU(alpha, tag, z + i * plane + k);
      }
      hn::StoreU(sum, tag, source + k);
    }
  }
}

template <class T>
LossRules<T> table() {
  return {residual_forward<T>, residual_reverse<T>, residual_reverse_last<T>, seed_tangent<T>, adjoint<T>};
}

LossRules<float> float_table() { return table<float>(); }
LossRules<double> double_table() { return table<double>(); }

}  // namespace fokker::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fokker::cpu {

HWY_EXPORT(float_table);
HWY_EXPORT(double_table);

template <>
const LossRules<float>& loss_rules<float>() {
  static const LossRules<float> rules = HWY_DYNAMIC_DISPATCH(float_table)();
  return rules;
}

template <>
const LossRules<double>& loss_rules<double>() {
  static const LossRules<double> rules = HWY_DYNAMIC_DISPATCH(double_table)();
  return rules;
}

}  // namespace fokker::cpu
#endif
