// The pointwise work of networks too wide for the resident kernels: everything between two matrix products in one
// launch. The formulas are those of the CPU backend's sweeps (forward, reverse, tangent, adjoint); see mlp_wide.cpp for
// their order.
//
// Data path: a warp has a row, lanes its columns, so global memory is read and written coalesced and a sum over a row
// is 32 partial sums and five shuffles, always in the same order: no shared memory, no atomics, and a row's numbers
// depend on nothing but the row. Where the next product is in fp16 the warp makes its operand from the row it has just
// written (in cache still): the power of two from the largest magnitude, then the halves.
//
// Cost: bandwidth. Of a row's units the forward rule reads one number and writes three, the reverse rule reads three
// and writes two, a tangent reads three and writes one; the halves add 12 bytes a unit in split, 4 in half.
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "device.hpp"
#include "grid.hpp"
#include "random.hpp"
#include "wide_launch.hpp"

namespace fokker::kernels {
namespace {

constexpr int warp_size = 32;

// The largest magnitude of a row is brought into [2^8, 2^9): sums over a depth of 3 · 4096 stay below 2^31, and what
// the low halves lose to the smallest fp16 number, 2^{−24}, is 2^{−33} of it. Rows below 2^{−100} are scaled as that.
constexpr int operand_exponent = 8, least_exponent = -100;

__device__ __forceinline__ float power_of_two(int exponent) {
  return float_of(static_cast<std::uint32_t>(127 + exponent) << 23);
}

template <class T>
__device__ __forceinline__ T row_sum(T v) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}

// The value of a product whose left operand was scaled by 1/unscale[row].
__device__ __forceinline__ float unscale_of(const float* unscale, std::int64_t row) {
  return unscale == nullptr ? 1.0f : unscale[row];
}

// Largest magnitude of what a lane has seen; NaN is left out, and stays NaN in the halves.
template <class T>
__device__ __forceinline__ void keep_largest(float& largest, T v) {
  if constexpr (std::is_same_v<T, float>) largest = fmaxf(largest, fabsf(v));
}

// From the row that the lanes of this warp have just written; all of them call this, each with its largest magnitude.
template <class T>
__device__ __forceinline__ void make_operand(const HalfOperand& operand, std::int64_t row, int stride, const T* values,
                                             float largest) {
  if constexpr (std::is_same_v<T, float>) {
    if (operand.parts == 0) return;
    for (int mask = warp_size / 2; mask > 0; mask /= 2) largest = fmaxf(largest, shuffle_xor(largest, mask));
    sync_warp();  // the row is written, and unscale[row] of the product before is read
    const int found = static_cast<int>((bits_of(largest) >> 23) & 255u) - 127;
    const int shift = operand_exponent - (found < least_exponent ? least_exponent : found);
    const float scale = power_of_two(shift);
    const int pairs = stride / 2;
    auto* to = reinterpret_cast<std::uint32_t*>(operand.halves + row * operand.parts * stride);
    for (int c = lane_index(); c < pairs; c += warp_size) {
      const float a = scale * values[2 * c], b = scale * values[2 * c + 1];
      const std::uint32_t high = pack_halves(a, b);
      to[c] = high;
      if (operand.parts == 1) continue;
      to[pairs + c] = high;
      to[2 * pairs + c] = pack_halves(a - low_half(high), b - high_half(high));
    }
    if (lane_index() == 0) operand.unscale[row] = power_of_two(-shift);
  }
}

__global__ void pack(PackArguments a) {
  const std::int64_t pairs = a.inputs / 2, all = a.outputs * pairs;
  auto* forward = reinterpret_cast<std::uint32_t*>(a.forward);
  auto* reverse = reinterpret_cast<std::uint32_t*>(a.reverse);
  for (std::int64_t item = first_item(); item < all; item += item_stride()) {
    const std::int64_t row = item / pairs, c = item % pairs;
    const float v = a.scale * a.w[2 * item], w = a.scale * a.w[2 * item + 1];
    const std::uint32_t high = pack_halves(v, w), low = pack_halves(v - low_half(high), w - high_half(high));
    for (int part = 0; part < a.parts; ++part) {  // high, low, high
      const std::uint32_t packed = part == 1 ? low : high;
      forward[(row * a.parts + part) * pairs + c] = packed;
      if (reverse != nullptr) reverse[(part * a.outputs + row) * pairs + c] = packed;
    }
  }
}

template <class T>
__global__ void input(InputArguments<T> a) {
  for (std::int64_t item = first_item(); item < a.rows * a.stride; item += item_stride()) {
    const std::int64_t row = item / a.stride;
    const int column = static_cast<int>(item - row * a.stride);
    T v = 0;
    if (column == 0) {
      if (a.t != nullptr) v = a.t[row * a.t_stride];
    } else if (column <= a.dimension) {
      v = a.x[row * a.dimension + column - 1];
    }
    a.input[item] = v;
  }
}

// A thread has the four entries of a Philox block.
template <class T>
__global__ void draw_probe(ProbeArguments<T> a) {
  const std::int64_t quads = (a.dimension + 3) / 4;
  for (std::int64_t item = first_item(); item < a.rows * quads; item += item_stride()) {
    const std::int64_t row = item / quads;
    const int block = static_cast<int>(item - row * quads);
    float v[4];
    probe4(a.estimate, a.first_index + static_cast<std::uint64_t>(row), static_cast<std::uint32_t>(block), a.probe, v);
    T* to = a.input + row * a.stride;
    if (block == 0) to[0] = 0;
    for (int w = 0; w < 4; ++w) {
      if (4 * block + w < a.dimension) to[1 + 4 * block + w] = static_cast<T>(v[w]);
    }
  }
}

template <class T, class Function>
__global__ void activate(ActivationArguments<T> a, Function function) {
  for (std::int64_t row = first_item() / warp_size; row < a.rows; row += item_stride() / warp_size) {
    const T unscale = static_cast<T>(unscale_of(a.unscale, row));
    T* const z = a.z + row * a.stride;
    float largest = 0;
    for (int c = lane_index(); c < a.stride; c += warp_size) {
      ActivationValues<T> v{0, 0, 0, 0};
      if (c < a.width) v = function(z[c] * unscale + a.bias[c]);
      z[c] = v.value;
      if (a.first != nullptr) a.first[row * a.stride + c] = v.first;
      if (a.second != nullptr) a.second[row * a.stride + c] = v.second;
      keep_largest(largest, v.value);
    }
    make_operand(a.operand, row, a.stride, z, largest);
  }
}

template <class T>
__global__ void reverse(ReverseArguments<T> a) {
  for (std::int64_t row = first_item() / warp_size; row < a.rows; row += item_stride() / warp_size) {
    const T unscale = static_cast<T>(unscale_of(a.unscale, row));
    const std::int64_t at = row * a.stride;
    float largest = 0;
    for (int c = lane_index(); c < a.stride; c += warp_size) {
      const T p = a.p[row * a.p_stride + c] * unscale;
      T delta = a.first[at + c] * p;
      if (a.tangent != nullptr) delta += a.tangent[at + c];
      if (a.curvature != nullptr) a.curvature[at + c] *= p;
      a.delta[at + c] = delta;
      keep_largest(largest, delta);
    }
    make_operand(a.operand, row, a.stride, a.delta + at, largest);
  }
}

template <class T>
__global__ void tangent(TangentArguments<T> a) {
  const std::int64_t rows = a.points * a.streams;
  for (std::int64_t row = first_item() / warp_size; row < rows; row += item_stride() / warp_size) {
    const std::int64_t stream = row / a.points, point = row - stream * a.points;
    const T unscale = static_cast<T>(unscale_of(a.tangents.unscale, row));
    const T* const z = a.tangents.z + stream * a.tangents.stream_stride + point * a.tangents.point_stride;
    const std::int64_t at = point * a.stride;
    T* const to = a.to == nullptr ? nullptr : a.to + row * a.stride;
    T sum = 0;
    float largest = 0;
    for (int c = lane_index(); c < a.stride; c += warp_size) {
      const T v = z[c] * unscale;
      if (to != nullptr) {
        const T moved = a.factor[at + c] * v;
        to[c] = moved;
        keep_largest(largest, moved);
      }
      if (a.trace != nullptr) sum += a.curvature[at + c] * v * v;
      if (a.kept != nullptr) a.kept[at + c] = a.curvature[at + c] * v;
    }
    if (a.trace != nullptr) {
      sum = row_sum(sum);
      if (lane_index() == 0) a.trace[point] = (a.begin ? T(0) : a.trace[point]) + a.weight * sum;
    }
    if (to != nullptr) make_operand(a.operand, row, a.stride, to, largest);
  }
}

// A warp has a point and an axis i, and takes the axes j ≤ i in turn.
template <class T>
__global__ void hessian_sum(HessianSumArguments<T> a) {
  const int d = a.dimension;
  const Tangents<T>& t = a.tangents;
  for (std::int64_t item = first_item() / warp_size; item < a.points * d; item += item_stride() / warp_size) {
    const std::int64_t point = item / d;
    const int i = static_cast<int>(item - point * d);
    const T* const kappa = a.curvature + point * a.stride;
    const T* const z = t.z + point * t.point_stride;
    const T* const zi = z + i * t.stream_stride;
    T* const hessian = a.hessian + point * d * d;
    const float unscale_i = unscale_of(t.unscale, i * a.points + point);
    for (int j = 0; j <= i; ++j) {
      const T* const zj = z + j * t.stream_stride;
      T sum = 0;
      for (int c = lane_index(); c < a.stride; c += warp_size) sum += kappa[c] * zi[c] * zj[c];
      sum = row_sum(sum);
      if (lane_index() != 0) continue;
      sum = sum * static_cast<T>(unscale_i) * static_cast<T>(unscale_of(t.unscale, j * a.points + point));
      if (!a.begin) sum += hessian[i * d + j];
      hessian[i * d + j] = sum;
      hessian[j * d + i] = sum;
    }
  }
}

template <class T>
__global__ void columns(ColumnArguments<T> a) {
  for (std::int64_t item = first_item(); item < a.rows * a.columns; item += item_stride()) {
    const std::int64_t row = item / a.columns, column = item - row * a.columns;
    a.out[item] = a.from[row * a.stride + a.begin + column] + (a.bias == nullptr ? T(0) : a.bias[column]);
  }
}

template <class T>
__global__ void jacobian(JacobianArguments<T> a) {
  const int d = a.dimension;
  for (std::int64_t row = first_item(); row < a.rows; row += item_stride()) {
    const T* const column = a.column + row * a.stride;
    if (a.jacobian != nullptr) {
      for (int i = 0; i < d; ++i) a.jacobian[(row * d + i) * d + a.axis] = column[i];
    }
    if (a.divergence == nullptr) continue;
    T sum = 0;
    if (a.directions == nullptr) {
      sum = column[a.axis];
    } else {
      const T* const v = a.directions + row * a.directions_stride + 1;
      for (int i = 0; i < d; ++i) sum += v[i] * column[i];
    }
    a.divergence[row] = (a.begin ? T(0) : a.divergence[row]) + a.weight * sum;
  }
}

template <class T>
__global__ void residual(ResidualArguments<T> a) {
  for (std::int64_t row = first_item(); row < a.rows; row += item_stride()) {
    const SdeCoefficients<double> sde = a.sde.at(static_cast<double>(a.t[row * a.t_stride]));
    const T drift = static_cast<T>(sde.drift), half = static_cast<T>(sde.diffusion_squared / 2);
    const T* const gradient = a.gradient + row * a.stride;
    T along = 0, square = 0;
    for (int i = 0; i < a.dimension; ++i) {
      const T s = gradient[1 + i];
      along += a.x[row * a.dimension + i] * s;
      square += s * s;
    }
    a.residual[row] = gradient[0] + drift * (static_cast<T>(a.dimension) + along) - half * (a.trace[row] + square);
  }
}

}  // namespace

Status launch_pack(const PackArguments& arguments, Stream stream) {
  return launch(pack, one_item_a_thread(arguments.outputs * arguments.inputs / 2), stream, arguments);
}

template <class T>
Status launch_input(const InputArguments<T>& arguments, Stream stream) {
  return launch(input<T>, one_item_a_thread(arguments.rows * arguments.stride), stream, arguments);
}

template <class T>
Status launch_probe(const ProbeArguments<T>& arguments, Stream stream) {
  return launch(draw_probe<T>, one_item_a_thread(arguments.rows * ((arguments.dimension + 3) / 4)), stream, arguments);
}

template <class T>
Status launch_activation(Activation activation, double beta, const ActivationArguments<T>& arguments, Stream stream) {
  return with_activation(activation, beta, [&](auto function) {
    return launch(activate<T, decltype(function)>, one_item_a_thread(warp_size * arguments.rows), stream, arguments,
                  function);
  });
}

template <class T>
Status launch_reverse(const ReverseArguments<T>& arguments, Stream stream) {
  return launch(reverse<T>, one_item_a_thread(warp_size * arguments.rows), stream, arguments);
}

template <class T>
Status launch_tangent(const TangentArguments<T>& arguments, Stream stream) {
  return launch(tangent<T>, one_item_a_thread(warp_size * arguments.points * arguments.streams), stream, arguments);
}

template <class T>
Status launch_hessian_sum(const HessianSumArguments<T>& arguments, Stream stream) {
  return launch(hessian_sum<T>, one_item_a_thread(warp_size * arguments.points * arguments.dimension), stream,
                arguments);
}

template <class T>
Status launch_columns(const ColumnArguments<T>& arguments, Stream stream) {
  return launch(columns<T>, one_item_a_thread(arguments.rows * arguments.columns), stream, arguments);
}

template <class T>
Status launch_jacobian(const JacobianArguments<T>& arguments, Stream stream) {
  return launch(jacobian<T>, one_item_a_thread(arguments.rows), stream, arguments);
}

template <class T>
Status launch_residual(const ResidualArguments<T>& arguments, Stream stream) {
  return launch(residual<T>, one_item_a_thread(arguments.rows), stream, arguments);
}

template Status launch_input(const InputArguments<float>&, Stream);
template Status launch_input(const InputArguments<double>&, Stream);
template Status launch_probe(const ProbeArguments<float>&, Stream);
template Status launch_probe(const ProbeArguments<double>&, Stream);
template Status launch_activation(Activation, double, const ActivationArguments<float>&, Stream);
template Status launch_activation(Activation, double, const ActivationArguments<double>&, Stream);
template Status launch_reverse(const ReverseArguments<float>&, Stream);
template Status launch_reverse(const ReverseArguments<double>&, Stream);
template Status launch_tangent(const TangentArguments<float>&, Stream);
template Status launch_tangent(const TangentArguments<double>&, Stream);
template Status launch_hessian_sum(const HessianSumArguments<float>&, Stream);
template Status launch_hessian_sum(const HessianSumArguments<double>&, Stream);
template Status launch_columns(const ColumnArguments<float>&, Stream);
template Status launch_columns(const ColumnArguments<double>&, Stream);
template Status launch_jacobian(const JacobianArguments<float>&, Stream);
template Status launch_jacobian(const JacobianArguments<double>&, Stream);
template Status launch_residual(const ResidualArguments<float>&, Stream);
template Status launch_residual(const ResidualArguments<double>&, Stream);

}  // namespace fokker::kernels
