#pragma once

// The pointwise rules between the matrix products of the residual's loss (operations/LOSS_GRADIENT.md), in operator
// form and along directions that each have a weight, with run-time dispatch. A tile of a layer is
// [streams][rows][stride]: what belongs to one stream lies together, and `plane` = rows · stride is the step from one
// stream to the next. `stride` is a multiple of the vector length.
#include <cstdint>

namespace fokker::cpu {

template <class T>
struct LossRules {
  // From the streams z_i and z_𝒜 in z, where σ′ is in z_0's place already, d2 σ″ and d3 σ‴: h_i and h_𝒜 into h,
  // whose stream 0 is left alone, and σ′_i and σ′_𝒜 in place of z_i and z_𝒜. d3 = nullptr: these are not wanted.
  // half_g2 [rows].
  void (*residual_forward)(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, T* z, T* h,
                           const T* d2, const T* d3);
  // From h̄ to z̄ of every stream in place, with z = (σ′, σ′_i, σ′_𝒜) as residual_forward leaves it.
  void (*residual_reverse)(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, const T* z,
                           T* bar);
  // As residual_reverse at the last hidden layer, where h̄ is seed · v, the output row: seeds [1 + d][rows] of the
  // streams after the first, value_seeds [rows] of the first or nullptr for zeros, v [stride]. bar is written.
  void (*residual_reverse_last)(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2,
                                const T* z, const T* seeds, const T* value_seeds, const T* v, T* bar);

  // Sweeps of a potential along directions: z ż and weights [directions][rows] w of each. The seed tangent: from u to
  // π = σ′ u + σ″ q in place, and in the source's place, where τ is, S = κ u + τ q; q = Σ w ż².
  void (*seed_tangent)(std::int64_t rows, std::int64_t stride, std::int64_t directions, const T* weights, const T* z,
                       const T* d1, const T* d2, const T* curvature, T* source, T* u);
  // The adjoint, from bar = P and A of each direction, or nullptr where all of them are 0: S += σ′ P + Σ σ″ ż A, and
  // α = 2 w κ ż + σ′ A in place of ż.
  void (*adjoint)(std::int64_t rows, std::int64_t stride, std::int64_t directions, const T* weights, const T* d1,
                  const T* d2, const T* curvature, const T* bar, T* source, T* z);
};

template <class T>
const LossRules<T>& loss_rules();

}  // namespace fokker::cpu
