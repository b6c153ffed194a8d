#pragma once

#include <cstdint>

namespace fokker {

// How ∇·s (the Laplacian of a potential) and with it the residual are computed. probes = 0: exactly, from derivatives
// along all d axes, at a cost that grows with d. probes = k, 1 to 65536: Hutchinson's mean over k probes of
// vᵀ (∂s/∂x) v, at a cost that grows with k, unbiased, and so is the residual R̂ with it; probe j of point i depends on
// (seed, first_index + i, j) alone. The square of R̂ is not an unbiased estimate of R² (E R̂² = R² + Var R̂); the product of
// two independent estimates is, which residual_statistics() and Loss take.
enum class ProbeLaw { rademacher, gaussian };
struct Divergence {
  int probes = 0;
  ProbeLaw law = ProbeLaw::rademacher;
  std::uint64_t seed = 0;
  std::uint64_t first_index = 0;
};

}  // namespace fokker
