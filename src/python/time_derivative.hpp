#pragma once

// ∂_t s of a network's score, on the CPU. With F the vector net's output or a potential net's gradient (formulas/form.hpp)
//   s = A z + B F(τ, C z),   ∂_t s = A′ z + B′ F + B (τ′ ∂_τ F + C′ J z),   J = ∂F/∂(C z),
// and the bracket is one product of a Hessian, or Jacobian, with a vector: that of the same network as one of d + 1
// coordinates (τ, C z) and no time, along (τ′, C′ z).
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "fokker/fokker.hpp"

namespace fokker::python {

template <class T>
class TimeDerivative {
 public:
  // Throws Error but for networks that take the time itself, without a branch and a condition, and their compositions.
  explicit TimeDerivative(const Model& model);
  // rate [N, d] of t [N] and x [N, d], all on the host.
  void evaluate(View<const T> t, View<const T> x, View<T> rate) const;

 private:
  struct Part {  // of a composition, or the whole
    double weight;
    NetworkForm form;
    Fields<T> network;
  };
  void add_part(double weight, const Model& model);

  std::int64_t dimension_;
  ForwardSde sde_;
  Standardisation columns_;
  Context context_ = Context(BackendKind::cpu);
  std::vector<Part> parts_;
  mutable std::mutex mutex_;  // one context, one call at a time
};

}  // namespace fokker::python
