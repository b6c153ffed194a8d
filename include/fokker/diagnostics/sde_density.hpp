#pragma once

// The density p^S_t of the law that the reverse SDE of a potential φ draws from, at given points.
#include <cstdint>
#include <functional>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

struct SdeDensityOptions {
  std::int64_t paths = 1024;  // from each point, 2 to 10⁹
  std::int64_t steps = 100;   // of a path from t_min to T, 2 to 10⁶; one that begins later takes its share, 2 or more
  std::uint64_t seed = 0;
  // false: each point has paths of its own, so that errors average out over points. true: all points share one set, so
  // that differences between points are smooth.
  bool common_paths = false;
  // The number of the first point, which its paths go by: a call may be split anywhere without changing a point's numbers.
  std::uint64_t first_index = 0;
  std::function<void(double)> progress = {};  // called now and then with the fraction that is done
};

// Numbers at N points; those of a point come from the weights w of its paths.
struct SdeDensity {
  std::vector<double> log_density = {};     // [N] log p^S(t, x)
  std::vector<double> standard_error = {};  // [N] of log_density, from the spread of the weights
  // [N] a third of the change of log_density where the same paths leave out every second time: about the error of
  // second order that the steps make.
  std::vector<double> step_error = {};
  std::vector<double> effective_paths = {};  // [N] (Σ w)²/Σ w², between 1 and the number of paths
  // [N] Hill's index of the largest min(paths/5, 3 √paths) weights, with a relative error of one over the root of that
  // number. At 2 or below the weights fall off so slowly that standard_error is not to be trusted and log_density is
  // likely too small. With few paths the index says little either way.
  std::vector<double> tail_index = {};
  std::int64_t heavy_tailed = 0;  // points with a tail_index of 2 or below
};

// p^S(t, x) = e^{φ(t,x)} E[(π e^{−φ_T})(X_T) exp ∫_t^T R(s, X_s) ds | X_t = x], with X the forward SDE, R the
// Fokker–Planck residual of φ and π the prior (Feynman and Kac). It needs no Z, so e^φ need not be integrable.
// Transitions of X are exact; the integral is by the trapezoidal rule at times that are uniform in the logarithm of
// σ²/m², the ratio of noise to signal. The estimate of p^S is unbiased but for the steps; its logarithm is too low by
// half the squared standard error.
//
// x [N, d] on the host, t in [0, T]; of a standardised model x and its density are the data's, and the paths are in z.
// Fields are evaluated on the context in double; the call waits for its result. Throws Error for a vector score net, a
// point that is not finite, and an argument out of its range.
SdeDensity sde_log_density(const Context& context, const Model& model, double t, View<const double> x,
                           const SdeDensityOptions& options = {});

}  // namespace fokker
