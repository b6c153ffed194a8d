#pragma once

// Where each work of a network is done, decided once. Fields, samplers and losses are made after this plan, their
// launches take its numbers of warps, kernel_plans() prints it and kernels/RESIDENCY.md tabulates it. Needs no CUDA.
#include <string_view>

#include "fokker/context.hpp"
#include "fokker/model.hpp"
#include "kernels/launch.hpp"

namespace fokker::cuda {

// A work is resident where a block's shared memory holds the network and the state of at least one warp: then one
// launch does it (three a training's losses: pack, sweeps, sums), in blocks of `warps` warps. What is neither resident
// nor refused is wide: matrix products in global memory, with launches between them.
struct WorkPlan {
  int warps = 0;                  // 0: not resident
  std::string_view refusal = {};  // why the work is not done in this precision; empty where it is
  bool resident() const { return warps > 0; }
  bool wide() const { return warps == 0 && refusal.empty(); }
};

// All works of a network; by default every one is wide.
struct Residency {
  kernels::ResidentMlp shape = {};  // without an image; of width 0 where no kernel is compiled for it
  WorkPlan score = {};              // values, scores and time derivatives
  WorkPlan curvature = {};          // divergences and residuals
  WorkPlan hessian = {};            // Hessians and their products with vectors
  WorkPlan sample = {}, log_density = {};
  WorkPlan adaptive_sample = {}, adaptive_log_density = {};  // with a step that is a path's own
  WorkPlan loss = {};                                        // training; at most limits.loss_warps warps
};
Residency plan_residency(const Architecture& architecture, Precision precision, const kernels::DeviceLimits& limits);

// Why this precision refuses time derivatives, divergences, Hessians, residuals, log-densities and losses, as one
// sentence; empty where it does not.
std::string_view refusal_of_derivatives(Precision precision);

}  // namespace fokker::cuda
