// The pointwise work of networks too wide for the resident kernels: everything between two matrix products in one
// launch. The formulas are those of the CPU backend's sweeps (forward, reverse, tangent, adjoint) and, for the losses'
// gradients, of src/operations/LOSS_GRADIENT.md; see mlp_wide.cpp and loss_wide.cpp for their order.
//
// Data path: a warp has a row, lanes its columns, so global memory is read and written coalesced and a sum over a row
// is 32 partial sums and five shuffles, always in the same order: no shared memory, no atomics, and a row's numbers
// depend on nothing but the row. Where the next product is in fp16 the warp makes its operand from the row it has just
// written (in cache still): the power of two from the largest magnitude, then the halves. Sums over rows are a block's:
// its warps share the rows, and their partial sums are added in order.
//
// Cost: bandwidth. For a unit of a row the forward rule reads one number and writes three, the reverse rule reads three
// and writes two, a tangent reads three and writes one; the halves add 12 bytes a unit in split, 4 in half.
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "activation.hpp"
#include "device.hpp"
#include "grid.hpp"
#include "halves.hpp"
#include "random.hpp"
#include "wide_launch.hpp"

namespace fokker::kernels {
namespace {

constexpr int warp_size = 32;

// The value of a product whose left operand was scaled by 1/unscale[row].
__device__ __forceinline__ float unscale_of(const float* unscale, std::int64_t row) {
  return unscale == nullptr ? 1.0f : unscale[row];
}

// Largest magnitude of what a lane has seen; NaN is left out, and stays NaN in the halves.
template <class T>
__device__ __forceinline__ void raise_largest(float& largest, T v) {
  if constexpr (std::is_same_v<T, float>) largest = fmaxf(largest, fabsf(v));
}

// From the row that the lanes of this warp have just written; all of them call this, each with its largest magnitude.
template <class T>
__device__ __forceinline__ void make_operand(const HalfOperand& operand, std::int64_t row, int width, int stride,
                                             const T* values, float largest) {
  if constexpr (std::is_same_v<T, float>) {
    if (operand.parts == 0) return;
    const RowScale scale(largest_of_lanes<warp_size>(largest));
    sync_warp();  // the row is written, and unscale[row] of the product before is read
    const auto scaled = [&](int c) { return c < width ? scale.up * values[c] : 0.0f; };
    const int pairs = stride / 2;
    auto* to = reinterpret_cast<std::uint32_t*>(operand.halves + row * operand.parts * stride);
    for (int c = lane_index(); c < pairs; c += warp_size) {
      const SplitPair pair(scaled(2 * c), scaled(2 * c + 1));
      to[c] = pair.high;
      if (operand.parts == 1) continue;
      to[pairs + c] = pair.high;
      to[2 * pairs + c] = pair.low;
    }
    if (lane_index() == 0) operand.unscale[row] = scale.down * *operand.matrix;
  }
}

// A warp has a row of W.
__global__ void largest_of_rows(PackArguments a) {
  for (std::int64_t row = first_item() / warp_size; row < a.outputs; row += item_stride() / warp_size) {
    float largest = 0;
    for (std::int64_t c = lane_index(); c < a.inputs; c += warp_size) raise_largest(largest, a.w[row * a.stride + c]);
    largest = largest_of_lanes<warp_size>(largest);
    if (lane_index() == 0) a.largest[row] = largest;
  }
}

// A warp has a padded row, and finds the largest of all for itself.
__global__ void pack(PackArguments a) {
  const std::int64_t pairs = a.padded_inputs / 2;
  auto* forward = reinterpret_cast<std::uint32_t*>(a.forward);
  auto* reverse = reinterpret_cast<std::uint32_t*>(a.reverse);
  float largest = 0;
  for (std::int64_t row = lane_index(); row < a.outputs; row += warp_size) largest = fmaxf(largest, a.largest[row]);
  const RowScale scale(largest_of_lanes<warp_size>(largest));
  if (first_item() == 0) *a.unscale = scale.down;
  for (std::int64_t row = first_item() / warp_size; row < a.padded_outputs; row += item_stride() / warp_size) {
    const auto scaled = [&](std::int64_t c) {
      return row < a.outputs && c < a.inputs ? scale.up * a.w[row * a.stride + c] : 0.0f;
    };
    for (std::int64_t c = lane_index(); c < pairs; c += warp_size) {
      const SplitPair pair(scaled(2 * c), scaled(2 * c + 1));
      for (int part = 0; part < a.parts; ++part) {  // high, low, high
        const std::uint32_t packed = part == 1 ? pair.low : pair.high;
        forward[(row * a.parts + part) * pairs + c] = packed;
        if (reverse != nullptr) reverse[(part * a.padded_outputs + row) * pairs + c] = packed;
      }
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
  Divergence estimate = a.estimate;
  if (a.iteration != nullptr) estimate.seed = probe_seed(estimate.seed, static_cast<std::uint64_t>(*a.iteration));
  for (std::int64_t item = first_item(); item < a.rows * quads; item += item_stride()) {
    const std::int64_t row = item / quads;
    const int block = static_cast<int>(item - row * quads);
    float v[4];
    probe4(estimate, a.first_index + static_cast<std::uint64_t>(row), static_cast<std::uint32_t>(block), a.probe, v);
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
    for (int c = lane_index(); c < a.width; c += warp_size) {
      const ActivationValues<T> v = function(z[c] * unscale + a.bias[c]);
      z[c] = v.value;
      if (a.d1 != nullptr) a.d1[row * a.stride + c] = v.d1;
      if (a.d2 != nullptr) a.d2[row * a.stride + c] = v.d2;
      if (a.d3 != nullptr) a.d3[row * a.stride + c] = v.d3;
      raise_largest(largest, v.value);
    }
    make_operand(a.operand, row, a.width, a.stride, z, largest);
  }
}

template <class T>
__global__ void reverse(ReverseArguments<T> a) {
  for (std::int64_t row = first_item() / warp_size; row < a.rows; row += item_stride() / warp_size) {
    const T unscale = static_cast<T>(unscale_of(a.unscale, row));
    const std::int64_t start = row * a.stride;
    float largest = 0;
    for (int c = lane_index(); c < a.width; c += warp_size) {
      const T p = a.p[row * a.p_stride + c] * unscale;
      T delta = a.d1[start + c] * p;
      if (a.source != nullptr) delta += a.source[start + c];
      if (a.curvature != nullptr) a.curvature[start + c] = a.d2[start + c] * p;
      if (a.d3 != nullptr) a.d3[start + c] *= p;
      a.delta[start + c] = delta;
      raise_largest(largest, delta);
    }
    make_operand(a.operand, row, a.width, a.stride, a.delta + start, largest);
  }
}

template <class T>
__global__ void tangent(TangentArguments<T> a) {
  const std::int64_t rows = a.points * a.streams;
  for (std::int64_t row = first_item() / warp_size; row < rows; row += item_stride() / warp_size) {
    const std::int64_t stream = row / a.points, point = row - stream * a.points;
    const T unscale = static_cast<T>(unscale_of(a.tangents.unscale, row));
    const T* const z = a.tangents.z + stream * a.tangents.stream_stride + point * a.tangents.point_stride;
    const std::int64_t start = point * a.stride;
    T* const to = a.to == nullptr ? nullptr : a.to + row * a.stride;
    T sum = 0;
    float largest = 0;
    for (int c = lane_index(); c < a.width; c += warp_size) {
      const T v = z[c * a.tangents.unit_stride] * unscale;
      if (to != nullptr) {
        const T moved = a.factor[start + c] * v;
        to[c] = moved;
        raise_largest(largest, moved);
      }
      if (a.trace != nullptr) sum += a.curvature[start + c] * v * v;
      if (a.curved != nullptr) a.curved[start + c] = a.curvature[start + c] * v;
      if (a.unscaled != nullptr) a.unscaled[start + c] = v;
    }
    if (a.trace != nullptr) {
      sum = sum_of_lanes<warp_size>(sum);
      if (lane_index() == 0) a.trace[point] = (a.begin ? T(0) : a.trace[point]) + a.weight * sum;
    }
    if (to != nullptr) make_operand(a.operand, row, a.width, a.stride, to, largest);
  }
}

template <class T>
__global__ void axis_adjoint(AxisAdjointArguments<T> a) {
  for (std::int64_t row = first_item() / warp_size; row < a.rows; row += item_stride() / warp_size) {
    const T unscale = static_cast<T>(unscale_of(a.unscale, row));
    const T* const z = a.z + row * a.point_stride;
    const T weight = a.weight[row];
    const std::int64_t start = row * a.stride;
    float largest = 0;
    for (int c = lane_index(); c < a.width; c += warp_size) {
      const T v = z[c * a.unit_stride], weighted = weight * v;
      T alpha = 2 * weighted * a.curvature[start + c];
      a.squares[start + c] = (a.begin ? T(0) : a.squares[start + c]) + weighted * v;
      if (a.p != nullptr) {
        const T p = a.p[start + c] * unscale;
        alpha += a.d1[start + c] * p;
        a.source[start + c] = (a.begin ? T(0) : a.source[start + c]) + a.d2[start + c] * v * p;
      }
      a.alpha[start + c] = alpha;
      raise_largest(largest, alpha);
    }
    make_operand(a.operand, row, a.width, a.stride, a.alpha + start, largest);
  }
}

template <class T>
__global__ void seed_tangent(SeedTangentArguments<T> a) {
  for (std::int64_t row = first_item() / warp_size; row < a.rows; row += item_stride() / warp_size) {
    const T unscale = static_cast<T>(unscale_of(a.unscale, row));
    const std::int64_t start = row * a.stride;
    float largest = 0, largest_source = 0;
    for (int c = lane_index(); c < a.width; c += warp_size) {
      const T u = a.u[start + c] * unscale;
      T moved = a.d1[start + c] * u, source = a.curvature[start + c] * u;
      if (a.squares != nullptr) {
        const T q = a.squares[start + c];
        moved += a.d2[start + c] * q;
        source += a.d3[start + c] * q;
      }
      if (a.value_seed != nullptr) {
        moved += a.value_seed[row] * a.value[start + c];
        source += a.value_seed[row] * a.delta[start + c];
      }
      if (!a.begin) source += a.source[start + c];
      a.source[start + c] = source;
      a.to[start + c] = moved;
      raise_largest(largest, moved);
      raise_largest(largest_source, source);
    }
    make_operand(a.operand, row, a.width, a.stride, a.to + start, largest);
    make_operand(a.source_operand, row, a.width, a.stride, a.source + start, largest_source);
  }
}

template <class T>
__global__ void add(AddArguments<T> a) {
  for (std::int64_t row = first_item() / warp_size; row < a.rows; row += item_stride() / warp_size) {
    const T unscale = static_cast<T>(unscale_of(a.unscale, row));
    const std::int64_t start = row * a.stride;
    float largest = 0;
    for (int c = lane_index(); c < a.width; c += warp_size) {
      T sum = a.from[start + c] * unscale;
      if (a.more != nullptr) sum += a.more[row * a.more_stride + c];
      a.to[start + c] = sum;
      raise_largest(largest, sum);
    }
    make_operand(a.operand, row, a.width, a.stride, a.to + start, largest);
  }
}

template <class T>
__global__ void row_dots(RowDotArguments<T> a) {
  for (std::int64_t row = first_item() / warp_size; row < a.rows; row += item_stride() / warp_size) {
    T sum = 0;
    for (int c = lane_index(); c < a.columns; c += warp_size) {
      sum += a.a[row * a.a_stride + c] * (a.b == nullptr ? T(1) : a.b[row * a.b_stride + c]);
    }
    sum = sum_of_lanes<warp_size>(sum);
    if (lane_index() == 0) a.out[row * a.out_stride] = sum;
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
      for (int c = lane_index(); c < a.width; c += warp_size) {
        sum += kappa[c] * zi[c * t.unit_stride] * zj[c * t.unit_stride];
      }
      sum = sum_of_lanes<warp_size>(sum);
      if (lane_index() != 0) continue;
      sum = sum * static_cast<T>(unscale_i) * static_cast<T>(unscale_of(t.unscale, j * a.points + point));
      if (!a.begin) sum += hessian[i * d + j];
      hessian[i * d + j] = sum;
      hessian[j * d + i] = sum;
    }
  }
}

// Entry i of a row and of the bias, which may be nullptr: here a wide network's score is put together.
template <class T>
__device__ __forceinline__ T with_bias(const T* row, const T* bias, std::int64_t i) {
  return row[i] + (bias == nullptr ? T(0) : bias[i]);
}

template <class T>
__global__ void columns(ColumnArguments<T> a) {
  for (std::int64_t item = first_item(); item < a.rows * a.columns; item += item_stride()) {
    const std::int64_t row = item / a.columns, column = item - row * a.columns;
    a.out[item] = with_bias(a.from + row * a.stride, a.bias, column);
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
    const ResidualCoefficients<T> c =
        rounded<T>(residual_at(a.form, a.sde, static_cast<double>(a.t[row * a.t_stride])));
    const T* const gradient = a.gradient + row * a.stride;
    T along = 0, square = 0, input_square = 0;
    for (int i = 0; i < a.dimension; ++i) {
      const T s = gradient[1 + i], x = a.x[row * a.dimension + i];
      along += x * s;
      square += s * s;
      input_square += x * x;
    }
    const T d = static_cast<T>(a.dimension);
    const auto residual_of = [&](T trace) {
      const T r = c.time * gradient[0];
      if (a.value == nullptr) {  // constant is along, and curvature is gradient
        return r + c.along * (d + along) - c.curvature * (trace + square);
      }
      return r + (c.constant * d + c.along * along - c.curvature * trace - c.gradient * square +
                  (c.square * input_square + c.value * a.value[row]));
    };
    const T r = residual_of(a.trace[row]), other = a.other_trace == nullptr ? r : residual_of(a.other_trace[row]);
    if (a.residual != nullptr) a.residual[row] = r;
    if (a.square != nullptr) a.square[row] = static_cast<double>(r) * static_cast<double>(other);
    if (a.seed == nullptr) continue;
    const double scale = a.other_trace == nullptr ? a.scale : a.scale / 2;
    const T by_other = static_cast<T>(scale * static_cast<double>(r));
    T scaled = static_cast<T>(scale * static_cast<double>(other));
    a.weight[row] = -c.curvature * scaled * a.share;
    if (a.other_weight != nullptr) {
      a.other_weight[row] = -c.curvature * by_other * a.share;
      scaled += by_other;
    }
    T* const seed = a.seed + row * a.seed_stride;
    seed[0] = c.time * scaled;
    for (int i = 0; i < a.dimension; ++i) {
      seed[1 + i] = scaled * (c.along * a.x[row * a.dimension + i] - 2 * c.gradient * gradient[1 + i]);
    }
    if (a.value != nullptr) a.value[row] = c.value * scaled;
  }
}

template <class T>
__global__ void misfit(MisfitArguments<T> a) {
  for (std::int64_t row = first_item(); row < a.rows; row += item_stride()) {
    const double weight = a.weight == nullptr ? 1.0 : static_cast<double>(a.weight[row]);
    double sum = 0;
    T* seed = a.seed == nullptr ? nullptr : a.seed + row * a.seed_stride;
    if (seed != nullptr && a.leading_zero) *seed++ = 0;
    for (int i = 0; i < a.dimension; ++i) {
      const T score = with_bias(a.score + row * a.score_stride, a.bias, i);
      const double e = static_cast<double>(score) - static_cast<double>(a.target[row * a.dimension + i]);
      sum += weight * e * e;
      if (seed != nullptr) seed[i] = static_cast<T>(a.scale * weight * e);
    }
    a.loss[row] = sum;
  }
}

// ---- sums over rows ------------------------------------------------------------------------------------------------

constexpr int column_threads = 512, total_threads = 1024;

// Parts of the rows, which a block's warps take in turn, so that few columns occupy many multiprocessors.
inline int column_parts(std::int64_t rows) {
  constexpr std::int64_t rows_of_a_part = 4 * column_threads / warp_size;
  return static_cast<int>(std::clamp<std::int64_t>(rows / rows_of_a_part, 1, most_column_parts));
}

// A block has 32 columns and a part of the rows: the N warps of all parts each sum every N-th row, and warp 0 adds
// what the block's have found.
template <class T>
__global__ void column_sum(ColumnSumArguments<T> a, int parts) {
  T* const found = shared_array<T>();  // [warps, 32]
  const int warps = block_threads() / warp_size, part = block_index() % parts;
  const int column = block_index() / parts * warp_size + lane_index();
  T sum = 0;
  if (column < a.columns) {
    for (std::int64_t row = part * warps + warp_index(); row < a.rows; row += parts * warps) {
      sum += a.from[row * a.stride + column];
    }
  }
  found[thread_index()] = sum;
  sync_block();
  if (warp_index() > 0 || column >= a.columns) return;
  for (int w = 1; w < warps; ++w) sum += found[w * warp_size + lane_index()];
  a.partial[static_cast<std::int64_t>(part) * a.columns + column] = sum;
}

// The parts in their order.
template <class T>
__global__ void column_total(ColumnSumArguments<T> a, int parts) {
  for (std::int64_t column = first_item(); column < a.columns; column += item_stride()) {
    T sum = 0;
#pragma unroll 16
    for (int part = 0; part < parts; ++part) sum += a.partial[static_cast<std::int64_t>(part) * a.columns + column];
    a.to[column * a.to_stride] += sum;
  }
}

// One block.
__global__ void total(TotalArguments a) {
  double sum = 0;
  for (std::int64_t row = thread_index(); row < a.rows; row += block_threads()) sum += a.from[row];
  sum = block_sum(sum);
  if (thread_index() == 0) *a.to += sum;
}

// A block for each part of the squares, or one.
__global__ void loss_values(LossValueArguments a) {
  const int part = block_index(), parts = grid_blocks();
  if (part == 0 && thread_index() == 0) {
    const double denoising = a.denoising_count > 0 ? a.sums[0] / a.denoising_count : 0;
    const double residual = a.residual_count > 0 ? a.sums[1] / a.residual_count : 0;
    a.values[0] = denoising;
    a.values[1] = residual;
    a.values[2] = denoising + a.residual_weight * residual;
  }
  if (a.squares == nullptr) return;
  double sum = 0;
  for (std::int64_t i = a.parameter_count * part / parts + thread_index(); i < a.parameter_count * (part + 1) / parts;
       i += block_threads()) {
    sum += double{a.gradient[i]} * double{a.gradient[i]};
  }
  sum = block_sum(sum);
  if (thread_index() == 0) a.squares->leave(part, parts, *a.iteration, sum);
}

}  // namespace

Status launch_pack(const PackArguments& arguments, Stream stream) {
  const Status status = launch(largest_of_rows, one_item_a_thread(warp_size * arguments.outputs), stream, arguments);
  if (status != 0) return status;
  return launch(pack, one_item_a_thread(warp_size * arguments.padded_outputs), stream, arguments);
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
    using Function = decltype(function);
    const auto launch_with = [&](auto values) {
      return launch(activate<T, decltype(values)>, one_item_a_thread(warp_size * arguments.rows), stream, arguments,
                    values);
    };
    if constexpr (has_own_code(Function::traits.activation)) {
      return launch_with(function);
    } else {
      return launch_with(ChosenActivation<false, Activations>{activation, beta});
    }
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
Status launch_add(const AddArguments<T>& arguments, Stream stream) {
  return launch(add<T>, one_item_a_thread(warp_size * arguments.rows), stream, arguments);
}

template <class T>
Status launch_row_dots(const RowDotArguments<T>& arguments, Stream stream) {
  return launch(row_dots<T>, one_item_a_thread(warp_size * arguments.rows), stream, arguments);
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

template <class T>
Status launch_misfit(const MisfitArguments<T>& arguments, Stream stream) {
  return launch(misfit<T>, one_item_a_thread(arguments.rows), stream, arguments);
}

template <class T>
Status launch_axis_adjoint(const AxisAdjointArguments<T>& arguments, Stream stream) {
  return launch(axis_adjoint<T>, one_item_a_thread(warp_size * arguments.rows), stream, arguments);
}

template <class T>
Status launch_seed_tangent(const SeedTangentArguments<T>& arguments, Stream stream) {
  return launch(seed_tangent<T>, one_item_a_thread(warp_size * arguments.rows), stream, arguments);
}

template <class T>
Status launch_column_sum(const ColumnSumArguments<T>& arguments, Stream stream) {
  const int parts = column_parts(arguments.rows);
  const LaunchShape shape{(arguments.columns + warp_size - 1) / warp_size * parts, column_threads,
                          column_threads * static_cast<int>(sizeof(T))};
  if (const Status status = launch(column_sum<T>, shape, stream, arguments, parts)) return status;
  return launch(column_total<T>, one_item_a_thread(arguments.columns), stream, arguments, parts);
}

Status launch_total(const TotalArguments& arguments, Stream stream) {
  return launch(total, LaunchShape{1, total_threads, block_sum_bytes(total_threads)}, stream, arguments);
}

Status launch_loss_values(const LossValueArguments& arguments, Stream stream) {
  const int parts = arguments.squares != nullptr ? std::min<int>(most_square_parts, most_item_blocks) : 1;
  return launch(loss_values, LaunchShape{parts, item_threads, block_sum_bytes(item_threads)}, stream, arguments);
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
template Status launch_add(const AddArguments<float>&, Stream);
template Status launch_add(const AddArguments<double>&, Stream);
template Status launch_row_dots(const RowDotArguments<float>&, Stream);
template Status launch_row_dots(const RowDotArguments<double>&, Stream);
template Status launch_hessian_sum(const HessianSumArguments<float>&, Stream);
template Status launch_hessian_sum(const HessianSumArguments<double>&, Stream);
template Status launch_columns(const ColumnArguments<float>&, Stream);
template Status launch_columns(const ColumnArguments<double>&, Stream);
template Status launch_jacobian(const JacobianArguments<float>&, Stream);
template Status launch_jacobian(const JacobianArguments<double>&, Stream);
template Status launch_residual(const ResidualArguments<float>&, Stream);
template Status launch_residual(const ResidualArguments<double>&, Stream);
template Status launch_misfit(const MisfitArguments<float>&, Stream);
template Status launch_misfit(const MisfitArguments<double>&, Stream);
template Status launch_axis_adjoint(const AxisAdjointArguments<float>&, Stream);
template Status launch_axis_adjoint(const AxisAdjointArguments<double>&, Stream);
template Status launch_seed_tangent(const SeedTangentArguments<float>&, Stream);
template Status launch_seed_tangent(const SeedTangentArguments<double>&, Stream);
template Status launch_column_sum(const ColumnSumArguments<float>&, Stream);
template Status launch_column_sum(const ColumnSumArguments<double>&, Stream);

}  // namespace fokker::kernels
