#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/model.hpp"
#include "fokker/view.hpp"

namespace fokker {

// Where fields are evaluated: t [N] (or [1]: one time for all, also where N = 0), x [N, d].
template <class T>
struct Points {
  View<const T> t;
  View<const T> x;
};

// How ∇·s (the Laplacian of a potential) and with it the residual are computed. probes = 0: exactly, from derivatives
// along all d axes, at a cost that grows with d. probes = k ≥ 1: Hutchinson's mean over k probes of vᵀ (∂s/∂x) v, at a
// cost that grows with k, unbiased, and so is the residual R̂ with it; probe j of point i is a function of
// (seed, first_index + i, j) alone. The square of R̂ is not an unbiased estimate of R² (E R̂² = R² + Var R̂); the product of
// two independent estimates would be and is not offered: Loss and residual_statistics() use the exact form.
enum class ProbeLaw { rademacher, gaussian };
struct Divergence {
  int probes = 0;
  ProbeLaw law = ProbeLaw::rademacher;
  std::uint64_t seed = 0;
  std::uint64_t first_index = 0;
};

// What is wanted; an empty view is not computed.
template <class T>
struct FieldOutputs {
  View<T> value;       // [N] φ; potentials only
  View<T> dt;          // [N] ∂_t φ; potentials only
  View<T> score;       // [N, d] ∇φ, or the net's output
  View<T> divergence;  // [N] ∇·s; the Laplacian Δφ of a potential
  View<T> hessian;     // [N, d·d] ∂_j s_i at i·d + j; d ≤ 64
  View<T> residual;    // [N] R = ∂_t φ + ∇·f + f·∇φ − ½ g² (Δφ + |∇φ|²), f = a x; potentials only
};

template <class T>
class FieldOperator;  // internal: a backend's implementation

// Fields of one model on one context, at T = float or double. Parameters are packed once. Working memory grows to what
// the requests so far need, by a bounded number of points at a time whatever N, and is kept: on the CPU each thread has
// its own and allocates when it first meets a request that needs more. On CUDA all of it is there after construction:
// calls are queued on the context's stream, allocate nothing, and can be captured into a CUDA graph (context.hpp); a
// captured graph is valid while the object lives.
template <class T>
class Fields {
 public:
  // Throws Error where the model is not valid.
  Fields(const Context& context, const Model& model);
  ~Fields();
  Fields(Fields&&) noexcept;
  Fields& operator=(Fields&&) noexcept;

  // Throws Error where a shape, a device or a request does not fit the model. N = 0 returns at once.
  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& divergence = {}) const;
  // product [N, d] = (∂s/∂x) direction, direction [N, d]: for a potential, the Hessian times a vector.
  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) const;
  // Bytes of device memory that this object keeps beside the parameters, whatever N; 0 on the CPU.
  std::size_t workspace_bytes() const;

 private:
  std::int64_t dimension_;
  Output output_;
  Device device_;
  std::unique_ptr<FieldOperator<T>> operator_;
};

extern template class Fields<float>;
extern template class Fields<double>;

// Which kernels the CUDA backend takes for a model in float: on the device that a context would use, or, where there is
// none, on the architectures that it has been tuned for. Empty in a build without CUDA.
struct KernelPlan {
  std::string device;  // "NVIDIA H100", or "compute capability 9.0"
  std::string detail;  // for each operation the resident path with its warps a block, or the wide path
};
std::vector<KernelPlan> kernel_plans(const Model& model, Precision precision = Precision::split);

}  // namespace fokker
