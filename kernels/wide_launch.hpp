#pragma once

// The pointwise work between the products of a wide network (wide.cu); T = float or double. Rows are points; a matrix
// [rows, stride] has its entries in the first `width` columns and zeros in the rest. Every launch is asynchronous on
// `stream` and returns the runtime's error code, as in launch.hpp.
#include <cstdint>

#include "fokker/activation.hpp"
#include "fokker/fields.hpp"
#include "fokker/sde.hpp"
#include "launch.hpp"

namespace fokker::kernels {

// Widths are padded to multiples of this, so that rows of fp16 numbers start on 16 bytes.
inline constexpr int wide_padding = 8;

// fp16 numbers by their bits.
using Half = std::uint16_t;

// Left operand of a product in fp16. Row r of A, times the power of two that brings its largest magnitude into
// [2^8, 2^9), is high + low in fp16, and a remainder of at most 2^{−23} of an entry or 2^{−33} of the largest. Over a
// depth of three times the width, (high, high, low) times the right operand's (high, low, high) is then A B but for
// low · low, 2^{−22} of a product at most.
struct HalfOperand {
  Half* halves = nullptr;    // [rows, parts · stride]
  float* unscale = nullptr;  // [rows] the inverse of that power of two, which the product still has to take
  int parts = 0;             // 3; 1: high alone; 0: not wanted
};

// W [outputs, inputs] as the right operand of both products, times `scale` as above.
struct PackArguments {
  std::int64_t outputs, inputs;  // padded
  const float* w;
  float scale;
  int parts;      // 3 or 1
  Half* forward;  // [outputs, parts · inputs] for A Wᵀ
  Half* reverse;  // [parts · outputs, inputs] for A W, or nullptr
};
Status launch_pack(const PackArguments& arguments, Stream stream);

// input [rows, stride] = (t, x); without t, (0, x): directions.
template <class T>
struct InputArguments {
  std::int64_t rows;
  int dimension, stride;
  const T* t;  // t[r · t_stride], or nullptr
  std::int64_t t_stride;
  const T* x;  // [rows, dimension]
  T* input;
};
template <class T>
Status launch_input(const InputArguments<T>& arguments, Stream stream);

// input [rows, stride] = (0, v), v the Hutchinson probe `probe` of points first_index, first_index + 1, ….
template <class T>
struct ProbeArguments {
  std::int64_t rows;
  int dimension, stride;
  Divergence estimate;
  std::uint64_t first_index;
  int probe;
  T* input;
};
template <class T>
Status launch_probe(const ProbeArguments<T>& arguments, Stream stream);

// z + b → σ in place, σ′, σ″.
template <class T>
struct ActivationArguments {
  std::int64_t rows;
  int width, stride;
  T* z;                  // [rows, stride]
  const T* bias;         // [stride]
  const float* unscale;  // [rows] of the product in z, or nullptr
  T* first;              // [rows, stride], or nullptr
  T* second;             // [rows, stride], or nullptr
  HalfOperand operand;   // from σ
};
template <class T>
Status launch_activation(Activation activation, double beta, const ActivationArguments<T>& arguments, Stream stream);

// Reverse sweep: δ = σ′ ⊙ p, κ = σ″ ⊙ p. Adjoint sweep: γ = (κ ⊙ ż) + σ′ ⊙ p.
template <class T>
struct ReverseArguments {
  std::int64_t rows;
  int width, stride;
  const T* p;             // [rows, stride]
  std::int64_t p_stride;  // stride, or 0: the same for all rows
  const float* unscale;   // [rows] of the product in p, or nullptr
  const T* first;         // [rows, stride] σ′
  T* curvature;           // [rows, stride] σ″ → κ, or nullptr
  const T* tangent;       // [rows, stride] κ ⊙ ż, or nullptr in the reverse sweep
  T* delta;               // [rows, stride] δ or γ; may be p
  HalfOperand operand;    // from δ or γ
};
template <class T>
Status launch_reverse(const ReverseArguments<T>& arguments, Stream stream);

// Tangents of one or more streams: row s · points + r is that of point r in stream s.
template <class T>
struct Tangents {
  const T* z;                                // z[s · stream_stride + r · point_stride]: ż
  std::int64_t point_stride, stream_stride;  // 0: the same for all
  const float* unscale;                      // [streams · points] of the product in z, or nullptr
};
// ż → factor ⊙ ż; on the way Σ_j κ_j ż_j² and κ ⊙ ż.
template <class T>
struct TangentArguments {
  std::int64_t points, streams;
  int width, stride;
  Tangents<T> tangents;
  const T* factor;     // [points, stride]
  const T* curvature;  // [points, stride] κ; for trace and kept
  T* trace;            // [points] += weight Σ κ ż², or = where `begin`; nullptr: not wanted; one stream
  T weight;
  bool begin;
  T* kept;              // [points, stride] κ ⊙ ż, may be κ; nullptr: not wanted; one stream
  T* to;                // [streams · points, stride], may be z; nullptr: not wanted
  HalfOperand operand;  // from `to`
};
template <class T>
Status launch_tangent(const TangentArguments<T>& arguments, Stream stream);

// hessian [points, d, d] += Σ_k κ_k ż_i,k ż_j,k over the units, d = streams; = where `begin`.
template <class T>
struct HessianSumArguments {
  std::int64_t points;
  int dimension, width, stride;
  Tangents<T> tangents;
  const T* curvature;  // [points, stride]
  bool begin;
  T* hessian;
};
template <class T>
Status launch_hessian_sum(const HessianSumArguments<T>& arguments, Stream stream);

// out [rows, columns] = from[r · stride + begin + j] + bias[j].
template <class T>
struct ColumnArguments {
  std::int64_t rows;
  int columns, begin, stride;
  const T* from;
  const T* bias;  // [columns], or nullptr
  T* out;
};
template <class T>
Status launch_columns(const ColumnArguments<T>& arguments, Stream stream);

// What a derivative J v of a score network gives: column `axis` of its Jacobian, or with directions vᵀ J v.
template <class T>
struct JacobianArguments {
  std::int64_t rows = 0;
  int dimension = 0, stride = 0;
  const T* column = nullptr;      // [rows, stride] J v
  int axis = 0;                   // v = e_axis, where directions are not given
  const T* directions = nullptr;  // [rows, directions_stride] (0, v), or nullptr
  int directions_stride = 0;
  T* divergence = nullptr;  // [rows] += weight vᵀ J v, or = where `begin`; nullptr: not wanted
  T weight = 1;
  bool begin = false;
  T* jacobian = nullptr;  // [rows, d, d], or nullptr
};
template <class T>
Status launch_jacobian(const JacobianArguments<T>& arguments, Stream stream);

// R = ∂_t φ + ∇·f + f·∇φ − ½ g² (Δφ + |∇φ|²), f = a x.
template <class T>
struct ResidualArguments {
  std::int64_t rows;
  int dimension, stride;
  const T* gradient;  // [rows, stride] (∂_t φ, ∇φ)
  const T* trace;     // [rows] Δφ
  const T* t;         // t[r · t_stride]
  std::int64_t t_stride;
  const T* x;  // [rows, dimension]
  ForwardSde sde;
  T* residual;  // [rows]
};
template <class T>
Status launch_residual(const ResidualArguments<T>& arguments, Stream stream);

}  // namespace fokker::kernels
