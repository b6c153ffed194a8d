#pragma once

// How large the Fokker–Planck residual is in a box: R of a potential, r of a vector score net (score_residual.hpp).
#include <cstdint>

#include "fokker/context.hpp"
#include "fokker/formulas/divergence.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

struct ResidualOptions {
  std::int64_t times = 512;   // uniform on [t_min, T], 1 to 10⁶
  std::int64_t points = 512;  // at each time, uniform on [−box, box]^d, 1 to 10⁶; in z of a standardised model
  double box = 3.5;           // above 0
  std::uint64_t seed = 0;     // of times and points, none of which training draws
  // 0: the exact residual. k: the square is the product of two independent estimates by k probes each, whose mean is that of
  // the square, where the square of one would be too large by its variance.
  int probes = 0;
  ProbeLaw law = ProbeLaw::rademacher;
};

// Means over times and points. The denoising loss leaves φ free by a function of time, which moves R by its derivative
// and moves no sample: `centred` takes the mean of R over x off at each time before it squares.
struct ResidualStatistics {
  double mean_square = 0;          // of R, or of |r|²
  double centred_mean_square = 0;  // of a vector net the same as mean_square: its loss leaves s no such freedom
  double standard_error = 0;       // of the mean square, from its means at the times; not a number of one time
};

// Residuals are evaluated on the context in float; the call waits for its result. Throws Error where an option is out of
// its range, and as ScoreResidual does.
ResidualStatistics residual_statistics(const Context& context, const Model& model, const ResidualOptions& options = {});

}  // namespace fokker
