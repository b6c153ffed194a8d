#pragma once

// The pointwise rules between the matrix products of the residual's loss, with run-time dispatch. A tile of a layer is
// [streams][rows][stride]: what belongs to one stream lies together, and `plane` = rows · stride is the step from one
// stream to the next. `stride` is a multiple of the vector length.
#include <cstdint>

namespace fokker::cpu {

template <class T>
struct LossRules {
  // Streams z_0, ∂_1 z … ∂_d z, 𝒜z in `z`; σ′ is in z_0's place already; d2 σ″, d3 σ‴.
  //   h_i = σ′ z_i,  h_𝒜 = σ′ z_𝒜 − ½ g² σ″ Σ z_i²                        into h, whose stream 0 is left alone
  //   u_i = σ″ z_i,  k = σ″ z_𝒜 − ½ g² σ‴ Σ z_i²                          into z in place of z_i and z_𝒜
  // d3 = nullptr: u and k are not wanted. half_g2 [rows].
  void (*residual_forward)(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, T* z, T* h,
                           const T* d2, const T* d3);
  // From h̄ to z̄ in place, streams as above, with z = (σ′, u, k) as residual_forward leaves it:
  //   z̄_𝒜 = σ′ h̄_𝒜,  z̄_i = σ′ h̄_i − g² u_i h̄_𝒜,  z̄_0 = σ′ h̄_0 + Σ u_i h̄_i + k h̄_𝒜
  void (*residual_reverse)(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2, const T* z,
                           T* bar);
  // As residual_reverse at the last hidden layer, where h̄_0 = 0, h̄_i = seed_i w, h̄_𝒜 = seed_𝒜 w. seeds [1 + d][rows] of
  // the streams after z_0, w [stride]. bar is written.
  void (*residual_reverse_last)(std::int64_t rows, std::int64_t stride, std::int64_t dimension, const T* half_g2,
                                const T* z, const T* seeds, const T* w, T* bar);
};

template <class T>
const LossRules<T>& loss_rules();

}  // namespace fokker::cpu
