#pragma once

// The pointwise work between the products of a wide network, its fields and its losses (wide.cu); T = float or double.
// Rows are points; a matrix [rows, stride] has its entries in the first `width` columns, and the rest is never read.
// Every launch is asynchronous on `stream` and returns the runtime's error code, as in launch.hpp.
#include <cstdint>

#include "fokker/formulas/activation.hpp"
#include "fokker/formulas/divergence.hpp"
#include "fokker/formulas/form.hpp"
#include "fokker/formulas/sde.hpp"
#include "launch.hpp"
#include "training_launch.hpp"

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
  Half* halves = nullptr;         // [rows, parts · stride]
  float* unscale = nullptr;       // [rows] the inverse of that power of two, and of B's, which the product has to take
  const float* matrix = nullptr;  // [1] the inverse of B's, from launch_pack
  int parts = 0;                  // 3; 1: high alone; 0: not wanted
};

// W [outputs, inputs], as it is among the parameters, rows `stride` apart, as the right operand of both products: times
// the power of two that brings its largest magnitude into [2^8, 2^9), and with zeros up to padded sides.
struct PackArguments {
  std::int64_t outputs, inputs;
  std::int64_t padded_outputs, padded_inputs;
  const float* w;
  std::int64_t stride;
  int parts;       // 3 or 1
  float* largest;  // [outputs], scratch
  Half* forward;   // [padded outputs, parts · padded inputs] for A Wᵀ
  Half* reverse;   // [parts · padded outputs, padded inputs] for A W, or nullptr
  float* unscale;  // [1] the inverse of that power of two
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

// input [rows, stride] = (0, v), v the Hutchinson probe `probe` of points first_index, first_index + 1, …; with an
// iteration, that which they have in it (probe_seed()).
template <class T>
struct ProbeArguments {
  std::int64_t rows;
  int dimension, stride;
  Divergence estimate;
  std::uint64_t first_index;
  int probe;
  T* input;
  const std::int64_t* iteration = nullptr;  // device, as in TrainingDraw; or nullptr
};
template <class T>
Status launch_probe(const ProbeArguments<T>& arguments, Stream stream);

// z + b → σ in place, σ′, σ″, σ‴.
template <class T>
struct ActivationArguments {
  std::int64_t rows;
  int width, stride;
  T* z;                  // [rows, stride]
  const T* bias;         // [width]
  const float* unscale;  // [rows] of the product in z, or nullptr
  T* d1;                 // [rows, stride], or nullptr
  T* d2;                 // [rows, stride], or nullptr
  T* d3;                 // [rows, stride], or nullptr
  HalfOperand operand;   // from σ
};
template <class T>
Status launch_activation(Activation activation, double beta, const ActivationArguments<T>& arguments, Stream stream);

// Reverse sweep: δ = σ′ ⊙ p, κ = σ″ ⊙ p, τ = σ‴ ⊙ p. Adjoint sweep: γ = source + σ′ ⊙ p.
template <class T>
struct ReverseArguments {
  std::int64_t rows;
  int width, stride;
  const T* p;             // [rows, stride]
  std::int64_t p_stride;  // stride, or 0: the same for all rows
  const float* unscale;   // [rows] of the product in p, or nullptr
  const T* d1;            // [rows, stride] σ′
  const T* d2;            // [rows, stride] σ″, for κ
  T* curvature;           // [rows, stride] κ, may be σ″; nullptr: not wanted
  T* d3;                  // [rows, stride] σ‴ → τ, or nullptr
  const T* source;        // [rows, stride] of the adjoint sweep, or nullptr
  T* delta;               // [rows, stride] δ or γ; may be p
  HalfOperand operand;    // from δ or γ
};
template <class T>
Status launch_reverse(const ReverseArguments<T>& arguments, Stream stream);

// Tangents of one or more streams: row s · points + r is that of point r in stream s.
template <class T>
struct Tangents {
  const T* z;  // ż of unit c: z[s · stream_stride + r · point_stride + c · unit_stride]
  std::int64_t point_stride, stream_stride, unit_stride;  // the first two 0: the same for all
  const float* unscale;                                   // [streams · points] of the product in z, or nullptr
};
// ż → factor ⊙ ż; on the way Σ_j κ_j ż_j² and κ ⊙ ż.
template <class T>
struct TangentArguments {
  std::int64_t points, streams;
  int width, stride;
  Tangents<T> tangents;
  const T* factor;     // [points, stride]
  const T* curvature;  // [points, stride] κ; for trace and curved
  T* trace;            // [points] += weight Σ κ ż², or = where `begin`; nullptr: not wanted; one stream
  T weight;
  bool begin;
  T* curved;            // [points, stride] κ ⊙ ż, may be κ; nullptr: not wanted; one stream
  T* unscaled;          // [points, stride] ż itself, may be z; nullptr: not wanted; one stream
  T* to;                // [streams · points, stride], may be z; nullptr: not wanted
  HalfOperand operand;  // from `to`
};
template <class T>
Status launch_tangent(const TangentArguments<T>& arguments, Stream stream);

// to = from + more, where a residual connection adds, or where a product in fp16 is to lose its scale.
template <class T>
struct AddArguments {
  std::int64_t rows;
  int width, stride;
  const T* from;             // [rows, stride]
  const float* unscale;      // [rows] of the product in from, or nullptr
  const T* more;             // [rows, stride], or nullptr: 0
  std::int64_t more_stride;  // stride, or 0: the same for all rows
  T* to;                     // [rows, stride]; may be either
  HalfOperand operand;       // from `to`
};
template <class T>
Status launch_add(const AddArguments<T>& arguments, Stream stream);

// out[r · out_stride] = Σ_j a_j b_j over the rows' columns.
template <class T>
struct RowDotArguments {
  std::int64_t rows;
  int columns;
  const T* a;  // [rows, a_stride]
  std::int64_t a_stride;
  const T* b;             // [rows, b_stride], or nullptr: 1
  std::int64_t b_stride;  // or 0: the same for all rows
  T* out;
  std::int64_t out_stride;
};
template <class T>
Status launch_row_dots(const RowDotArguments<T>& arguments, Stream stream);

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

// out [rows, columns] = from[r · stride + j] + bias[j].
template <class T>
struct ColumnArguments {
  std::int64_t rows;
  int columns, stride;
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

// The residual R, and with r = scale · R the seeds c, w and ν of its loss (src/operations/LOSS_GRADIENT.md). By two
// estimates, of which one has the other trace, what is squared is R̂₁ R̂₂: then r = scale · (R̂₁ + R̂₂)/2, and w and the other
// w are those of either's trace.
template <class T>
struct ResidualArguments {
  std::int64_t rows;
  int dimension, stride;
  const T* gradient;  // [rows, stride] (∂_τ Φ, ∇Φ)
  const T* trace;     // [rows] ΔΦ, or its estimate
  const T* t;         // t[r · t_stride], the model's
  std::int64_t t_stride;
  const T* x;  // [rows, dimension] C x
  SdeFormulas sde;
  T* residual = nullptr;     // [rows], or nullptr
  double* square = nullptr;  // [rows] R², or nullptr
  double scale = 0;
  T* seed = nullptr;  // [rows, seed_stride] c, or nullptr: neither c nor w is wanted
  int seed_stride = 0;
  T* weight = nullptr;  // [rows] w
  // Where the form is not plain, Φ [rows], whose place ν takes where a seed is wanted; else nullptr.
  NetworkForm form = {};
  T* value = nullptr;
  const T* other_trace = nullptr;  // [rows], or nullptr: exact
  T* other_weight = nullptr;       // [rows]
  T share = 1;                     // that a direction has in its trace, and so in its weight
};
template <class T>
Status launch_residual(const ResidualArguments<T>& arguments, Stream stream);

// Denoising: e = s − target, loss[r] = weight[r] Σ e², c = scale · weight[r] e.
template <class T>
struct MisfitArguments {
  std::int64_t rows;
  int dimension;
  const T* score;  // [rows, score_stride]
  int score_stride;
  const T* bias;    // [dimension] still to be added to the score, or nullptr
  const T* target;  // [rows, dimension]
  const T* weight;  // [rows], or nullptr: 1
  double scale;
  double* loss;  // [rows]
  T* seed;       // [rows, seed_stride] (0, c) where `leading_zero`, else c; nullptr: not wanted
  int seed_stride;
  bool leading_zero;
};
template <class T>
Status launch_misfit(const MisfitArguments<T>& arguments, Stream stream);

// A layer of the axis adjoint: α = 2 w κ ⊙ ż + σ′ ⊙ A, S += σ″ ⊙ ż ⊙ A, q += w ż², with A in p; without p (the last
// hidden layer) α = 2 w κ ⊙ ż, and S is left alone.
template <class T>
struct AxisAdjointArguments {
  std::int64_t rows;
  int width, stride;
  const T* p;            // [rows, stride], or nullptr
  const float* unscale;  // [rows] of the product in p, or nullptr
  const T* z;            // ż of unit c: z[r · point_stride + c · unit_stride]
  std::int64_t point_stride, unit_stride;
  const T* d1;         // [rows, stride] σ′
  const T* d2;         // [rows, stride] σ″
  const T* curvature;  // [rows, stride] κ
  const T* weight;     // [rows] w
  T* source;           // [rows, stride] S, = where `begin`
  T* squares;          // [rows, stride] q, likewise
  bool begin;
  T* alpha;             // [rows, stride], may be p
  HalfOperand operand;  // from α
};
template <class T>
Status launch_axis_adjoint(const AxisAdjointArguments<T>& arguments, Stream stream);

// A layer of the seed tangent: π = σ′ ⊙ u + σ″ ⊙ q, S += κ ⊙ u + τ ⊙ q.
template <class T>
struct SeedTangentArguments {
  std::int64_t rows;
  int width, stride;
  const T* u;            // [rows, stride]
  const float* unscale;  // [rows] of the product in u, or nullptr
  const T* d1;           // [rows, stride] σ′
  const T* curvature;    // [rows, stride] κ
  const T* squares;      // [rows, stride] q, or nullptr: 0, and the next two are not read
  const T* d2;           // [rows, stride] σ″
  const T* d3;           // [rows, stride] τ = σ‴ ⊙ P
  T* source;             // [rows, stride] S, = where `begin`
  bool begin;
  T* to;                       // [rows, stride] π, may be u
  HalfOperand operand;         // from π,
  HalfOperand source_operand;  // or from S
  // Of the last layer, where Φ has a seed: π += ν h, S += ν δ.
  const T* value_seed = nullptr;  // [rows] ν, or nullptr: 0, and the next two are not read
  const T* value = nullptr;       // [rows, stride] h
  const T* delta = nullptr;       // [rows, stride] δ
};
template <class T>
Status launch_seed_tangent(const SeedTangentArguments<T>& arguments, Stream stream);

// to[j · to_stride] += Σ_r from[r · stride + j], always in the same order.
inline constexpr int most_column_parts = 64;  // of the rows
template <class T>
struct ColumnSumArguments {
  std::int64_t rows;
  int columns, stride;
  const T* from;
  T* to;
  int to_stride;
  T* partial;  // [most_column_parts, columns]
};
template <class T>
Status launch_column_sum(const ColumnSumArguments<T>& arguments, Stream stream);

// *to += Σ_r from[r], always in the same order.
struct TotalArguments {
  std::int64_t rows;
  const double* from;
  double* to;
};
Status launch_total(const TotalArguments& arguments, Stream stream);

// values [3] from sums [2] of the denoising and the residual's points; a count of 0 gives 0. And what the update takes
// of the gradient, if wanted.
struct LossValueArguments {
  const double* sums;
  double denoising_count, residual_count;  // points · dimension, points
  double residual_weight;
  double* values;
  GradientSquares* squares;  // or nullptr, and then the rest is not read
  std::int64_t parameter_count;
  const float* gradient;          // [P]
  const std::int64_t* iteration;  // as in TrainingDraw
};
Status launch_loss_values(const LossValueArguments& arguments, Stream stream);

}  // namespace fokker::kernels
