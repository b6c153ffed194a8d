#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/formulas/divergence.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

ProbeLaw parse_probe_law(std::string_view name);  // rademacher, gaussian; throws Error on any other name
std::string_view to_string(ProbeLaw law);

// Where fields are evaluated: t [N] (or [1]: one time for all, also where N = 0), x [N, d], and for a model that takes one
// the condition y [N, c] of each point (with_condition() gives one to all).
template <class T>
struct Points {
  View<const T> t = {};
  View<const T> x = {};
  View<const T> condition = {};
};

// Where the fields are written, on the context's device; a field whose view is empty is not computed. Of a standardised
// model, x = mean + D z with D the diagonal matrix of the deviations, they are those of the density of x: φ − Σ ln
// deviation, D⁻¹ s, D⁻¹ H D⁻¹. The time derivative and the residual are the same numbers as in z: the density of x is
// that of z over the constant det D at every time, and R is what is left of ∂_t p = −∇·(f p) + ½ g² ∇·∇p in z, over p.
template <class T>
struct FieldOutputs {
  View<T> value = {};  // [N] φ; potentials only
  View<T> dt = {};     // [N] ∂_t φ; potentials only
  View<T> score = {};  // [N, d] ∇φ, or the net's output
  // [N] ∇·s; the Laplacian Δφ of a potential. Under unequal deviations the exact one alone, by the Hessian, d ≤ 64.
  View<T> divergence = {};
  View<T> hessian = {};   // [N, d·d] ∂_j s_i at i·d + j; d ≤ 64
  View<T> residual = {};  // [N] R = ∂_t φ + ∇·f + f·∇φ − ½ g² (Δφ + |∇φ|²), f = a x; potentials only
};

template <class T>
class FieldOperator;  // internal: a backend's implementation

// Fields of one model on one context, for T = float or double. Parameters are packed once, at construction, and points
// are worked on in batches of bounded size, so that working memory does not grow with N. On the CPU each thread has its
// own, which grows at the first request that needs more and is then kept. On CUDA the constructor allocates all of it:
// calls are queued on the context's stream, allocate nothing, and can be captured into a CUDA graph (context.hpp); a
// captured graph is valid while the object lives.
template <class T>
class Fields {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "Fields are computed in float or double");

 public:
  // Throws Error where the model is not valid.
  Fields(const Context& context, const Model& model);
  ~Fields();
  Fields(Fields&&) noexcept;
  Fields& operator=(Fields&&) noexcept;

  // Throws Error where a shape, a device or a request does not fit the model, and where second derivatives of a
  // potential are asked for whose activation has none (ActivationTraits::kinked). N = 0 returns at once.
  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& divergence = {}) const;
  // product [N, d] = (∂s/∂x) direction, direction [N, d]: for a potential, the Hessian times a vector.
  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) const;
  // Bytes of device memory that this object keeps beside the parameters, whatever N; 0 on the CPU.
  std::size_t workspace_bytes() const;

 private:
  std::int64_t dimension_, condition_;
  Output output_;
  std::string why_no_curvature_;  // empty where there are second derivatives
  Device device_;
  std::unique_ptr<FieldOperator<T>> operator_;
};

extern template class Fields<float>;
extern template class Fields<double>;

// Which kernels the CUDA backend takes for a model in float: on the device that a context would use, or, where there is
// none, on compute capability 8.0 and 9.0. Empty in a build without CUDA.
struct KernelPlan {
  std::string device = {};  // "NVIDIA H100", or "compute capability 9.0"
  std::string detail = {};  // for each operation the resident path with its warps a block, or the wide path
};
std::vector<KernelPlan> kernel_plans(const Model& model, Precision precision = Precision::split);

}  // namespace fokker
