#pragma once

// A branch of a wide network: dense layers k on τ or on a condition y, which make the embedding e or c, of a time its
// derivative along τ and, for training, the way back. Their launches are those of the network's hidden layers
// (kernels/wide.cu):
//
//   forward   h_0 = τ or y;  z_k = W_k h_{k−1} + b_k, h_k = σ(z_k);  e or c = h of the last layer
//   tangent   ḣ_0 = a rate of τ;  ż_k = W_k ḣ_{k−1}, ḣ_k = σ′ ż_k
//   back      ż̄_k = σ′ ḣ̄_k,  z̄_k = σ′ h̄_k + σ″ ż_k ḣ̄_k;  ḣ̄_{k−1} = W_kᵀ ż̄_k, h̄_{k−1} = W_kᵀ z̄_k
//                                                       dW_k += z̄_k h_{k−1}ᵀ + ż̄_k ḣ_{k−1}ᵀ, db_k += z̄_k
//
// A bar marks the derivative of what is differentiated. Products are in T whatever the precision, and rows have no
// padding: a branch is thin, and where all points have one time its branch has one row.
#include <cstdint>
#include <utility>

#include "cuda/arena.hpp"
#include "cuda/gemm.hpp"
#include "cuda/runtime.hpp"
#include "fokker/model.hpp"

namespace fokker::cuda {

template <class T>
class WideBranch {
 public:
  // `gemm` has to live as long. `there`: whether layers of the network take the embedding.
  WideBranch(cudaStream_t stream, const Gemm& gemm, const Branch& branch, bool there);

  bool there() const { return there_; }
  // Whether back() has anything to do.
  bool trains() const { return there_ && first_trained_ < layers(); }
  const Branch& shape() const { return branch_; }
  std::int64_t layers() const { return static_cast<std::int64_t>(branch_.layers.size()); }
  std::int64_t width() const { return branch_.width(); }  // of the embedding
  std::int64_t widest() const;

  // Takes room for so many rows; for tangent() where `tangent`, and for back() where `gradient`.
  void take(Arena& arena, std::int64_t rows, bool tangent, bool gradient);
  // The branch's own parameters, on the device.
  void use(const T* parameters) { parameters_ = parameters; }

  // The embedding of n rows of inputs, σ′ where tangent() or back() follow, σ″ where both do. A branch without layers
  // has the inputs themselves as its embedding.
  void forward(std::int64_t n, const Rows<T>& inputs, bool d1, bool d2);
  Rows<T> embedding() const { return there() ? input(layers()) : Rows<T>{}; }
  // The derivative of e along these rates in the first column, without data along τ. `back`: back() follows.
  void tangent(std::int64_t n, const Rows<T>& rates, bool back);
  // Without data it is 1, of a branch without layers along τ.
  Rows<T> derivative() const { return there() ? tangent_input(layers()) : Rows<T>{}; }

  // The derivatives by the embedding and by its derivative, [n, width], from which back() begins; it leaves others
  // there.
  T* bar() const { return bar_; }
  T* tangent_bar() const { return tangent_bar_; }
  // visit(k, z̄_k, ż̄_k) for the layers from the last to the first that is trained; the latter nullptr and ḣ̄ zero where
  // not `with_tangent`.
  template <class Visit>
  void back(std::int64_t n, bool with_tangent, const Visit& visit) {
    for (std::int64_t k = layers() - 1; k >= first_trained_; --k) {
      back_rule(n, k, with_tangent);
      visit(k, bar_, with_tangent ? tangent_bar_ : nullptr);
      if (k == first_trained_) break;
      reverse(n, k, bar_, other_);
      std::swap(bar_, other_);
      if (!with_tangent) continue;
      reverse(n, k, tangent_bar_, other_);
      std::swap(tangent_bar_, other_);
    }
  }
  // h_{k−1} and ḣ_{k−1}, which layer k takes.
  Rows<T> input(std::int64_t k) const { return k == 0 ? inputs_ : Rows<T>{value_[k - 1], width(k - 1)}; }
  Rows<T> tangent_input(std::int64_t k) const { return k == 0 ? rates_ : Rows<T>{tangent_[k - 1], width(k - 1)}; }

 private:
  int width(std::int64_t k) const { return static_cast<int>(branch_.layers[k].width); }
  const T* weights(std::int64_t k) const { return parameters_ + branch_.weight_offset(k); }
  void product(std::int64_t n, std::int64_t k, const Rows<T>& a, T* c) const;
  void reverse(std::int64_t n, std::int64_t k, const T* a, T* c) const;
  void back_rule(std::int64_t n, std::int64_t k, bool with_tangent) const;

  cudaStream_t stream_;
  const Gemm& gemm_;
  Branch branch_;
  bool there_;
  std::int64_t first_trained_ = 0;  // below it all layers are fixed, and nobody asks for their gradient
  const T* parameters_ = nullptr;
  Rows<T> inputs_, rates_;
  Planes<T> value_, tangent_, d1_, d2_;                           // h, ḣ, σ′, and σ″ or σ″ ż, of each layer
  T *bar_ = nullptr, *tangent_bar_ = nullptr, *other_ = nullptr;  // [rows, widest]
};

}  // namespace fokker::cuda
