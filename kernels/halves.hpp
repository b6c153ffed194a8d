#pragma once

// fp16 operands as every kernel makes them: the power of two of a row or matrix, and sums and maxima over the lanes
// that share a row. Powers of two and maxima are exact; the order of a sum is always the same.
#include <cmath>
#include <cstdint>

#include "device.hpp"

namespace fokker::kernels {

// The powers of two that bring the largest magnitude `largest` into [2^8, 2^9), and back; below 2^−111 the factor stays
// at its largest. Sums of products over a depth of 3 · 4096 stay below 2^31, and what a low half loses to the smallest
// fp16 number, 2^{−24}, is 2^{−33} of the largest. A product with NaN or infinity is NaN or infinite.
struct RowScale {
  float up, down;
  __device__ __forceinline__ explicit RowScale(float largest) {
    std::uint32_t exponent = bits_of(largest) & 0x7F800000u;
    if (exponent < (16u << 23)) exponent = 16u << 23;
    up = float_of((262u << 23) - exponent);
    down = float_of(exponent - (8u << 23));
  }
};

// Two numbers as halves: x = high + low but for 2^{−23} of it.
struct SplitPair {
  std::uint32_t high, low;
  __device__ __forceinline__ SplitPair(float x, float y)
      : high(pack_halves(x, y)), low(pack_halves(x - low_half(high), y - high_half(high))) {}
};

// Over `lanes` neighbouring lanes of a warp, a power of two; every one of them gets the result.
template <int lanes, class T>
__device__ __forceinline__ T sum_of_lanes(T v) {
#pragma unroll
  for (int mask = lanes / 2; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}
template <int lanes>
__device__ __forceinline__ float largest_of_lanes(float v) {
#pragma unroll
  for (int mask = lanes / 2; mask > 0; mask /= 2) v = fmaxf(v, shuffle_xor(v, mask));
  return v;
}

}  // namespace fokker::kernels
