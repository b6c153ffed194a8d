#pragma once

// The Fokker–Planck residual of a vector score net: with f = a x,
//   r = ∂_t s − ∇[½ g² (∇·s + |s|²) − f·s − ∇·f] = ∂_t s + a s + Jᵀ (f − g² s) − ½ g² ∇(∇·s),   J = ∂s/∂x.
// It is 0 where s is the score of the forward SDE's law, and ∇R where s is the gradient of a potential whose residual is R
// (Lai et al. 2023 call this equation the score Fokker–Planck equation).
#include <cstdint>
#include <memory>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/fields.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// r of one net on one context, whose fields are evaluated in T = float or double; they and all else that is summed are on
// the host, in double. With Ψ = v·s, a potential whose derivatives are those that Fields has,
//   r = a s + Σ_v [v ∂_t Ψ + (v·w) ∇Ψ − ½ g² ∇²Ψ v],   w = f − g² s,
// over the axes: exactly, at the cost of d potentials, a Hessian–vector product included. Or as a mean over probes v: without
// bias, at the cost of so many; a probe is one for all points of a call, so that its errors at them are not independent.
// Derivatives by t are derivatives of the network, not differences.
template <class T>
class ScoreResidual {
 public:
  // Throws Error for what is no vector net, for one whose activation has a kink, which has no second derivatives, and for a
  // velocity under another SDE than that of flow matching, whose coefficients' rates are not known.
  ScoreResidual(const Context& context, const Model& model);
  ~ScoreResidual();
  ScoreResidual(ScoreResidual&&) noexcept;
  ScoreResidual& operator=(ScoreResidual&&) noexcept;

  // r [N, d] at t [N], x [N, d] and, of a model that takes one, the condition [N, c]; of a standardised model at x, and as it
  // is in x: r of z over the deviations. divergence.probes is the number of probes, 0 for none: probe j is a function of
  // (seed, first_index, j). Waits for the results. Throws Error where sizes do not fit.
  std::vector<double> evaluate(const std::vector<T>& t, const std::vector<T>& x, const std::vector<T>& condition = {},
                               const Divergence& divergence = {}) const;

 private:
  struct Work;
  std::unique_ptr<Work> work_;
};

extern template class ScoreResidual<float>;
extern template class ScoreResidual<double>;

}  // namespace fokker
