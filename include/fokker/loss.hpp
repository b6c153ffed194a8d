#pragma once

#include <cstddef>
#include <memory>

#include "fokker/context.hpp"
#include "fokker/formulas/divergence.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

// Denoising score matching: mean over points and coordinates of weight (s(t, x) − target)², where x is x_t and target
// is ∇ log p(x_t | x_0) = −(x_t − m x_0)/σ².
template <class T>
struct DenoisingBatch {
  View<const T> t = {};          // [N]
  View<const T> x = {};          // [N, d]
  View<const T> target = {};     // [N, d]
  View<const T> weight = {};     // [N], or empty: 1
  View<const T> condition = {};  // [N, c], of an architecture that takes a condition
};

// Mean squared Fokker–Planck residual: mean over points of R², by the exact Laplacian where divergence.probes is 0, at a
// cost that grows with d. With k probes, 1 to most_residual_probes, the mean of R̂₁ R̂₂: two estimates of R that have the
// mean over k probes each in place of the Laplacian, point i's first by the probes 0 … k − 1 of (seed, first_index + i)
// and its second by k … 2k − 1. Over seeds the means of R̂₁ R̂₂ and of its gradient are R² and its gradient, where those
// of R̂₁² are too large by the variance; a value may be below 0. The cost is that of 2k axes instead of d.
template <class T>
struct CollocationBatch {
  View<const T> t = {};          // [M]
  View<const T> x = {};          // [M, d]
  View<const T> condition = {};  // [M, c]
  Divergence divergence = {};
};
inline constexpr int most_residual_probes = 1024;

template <class T>
class LossOperator;  // internal: a backend's implementation

// Losses of an architecture and their gradients by hand-written sweeps, at points of the network's own: z of a
// standardised model. On CUDA all views, `values` with them, are on the device; calls are queued on the context's
// stream, allocate nothing, and can be captured into a CUDA graph once a call of that kind, with or without probes, has
// returned (context.hpp). In float products of hidden layers are in the context's precision, split or fp32, and the
// constructor throws Error for half, whose derivatives are too coarse; everything else is in float, the sums of losses
// in double. There probes go the way of networks that are not resident (context.hpp), whose workspace a Loss of a
// resident network makes at its first call with probes, as set-up.
template <class T>
class Loss {
 public:
  Loss(const Context& context, const Architecture& architecture, const ForwardSde& sde);
  ~Loss();
  Loss(Loss&&) noexcept;
  Loss& operator=(Loss&&) noexcept;

  // values [3] = denoising, mean squared residual (or its estimate), denoising + residual_weight · residual;
  // gradient [P] of the third, in the layout of Architecture, or empty. A batch without points contributes nothing. The
  // result does not depend on the number of threads. Throws Error on shapes and a number of probes that do not fit, on
  // collocation points for a vector net (the score form of the residual is not there yet), and where collocation points
  // or a gradient take second derivatives of a potential whose activation has none (ActivationTraits::kinked).
  void evaluate(View<const T> parameters, const DenoisingBatch<T>& denoising, const CollocationBatch<T>& collocation,
                double residual_weight, View<double> values, View<T> gradient) const;
  // Bytes of device memory that this object keeps beside packed parameters, whatever the number of points; 0 on the
  // CPU. More after a first call with probes where the network is resident.
  std::size_t workspace_bytes() const;

 private:
  Architecture architecture_;
  Device device_;
  std::unique_ptr<LossOperator<T>> operator_;
};

extern template class Loss<float>;
extern template class Loss<double>;

}  // namespace fokker
