#pragma once

#include <cstdint>

#include "fokker/context.hpp"
#include "fokker/model.hpp"

namespace fokker {

struct ResidualOptions {
  std::int64_t times = 512;   // uniform on [t_min, T]
  std::int64_t points = 512;  // a time, uniform on [−box, box]^d
  double box = 3.5;
  std::uint64_t seed = 0;
};

// Mean of R² over times and points. The denoising loss fixes φ only up to a function of time, which moves R by its
// derivative and moves no sample: `centred` removes the mean of R over x at each time first.
struct ResidualStatistics {
  double mean_square = 0;
  double centred_mean_square = 0;
};

// Evaluated on the context; the call waits for its result. The divergence in R is the exact one: with Hutchinson's, R² is
// biased by the variance of R, and the product of two independent estimates, which is not, is not offered. Throws Error
// for a vector net, whose residual is not there yet.
ResidualStatistics residual_statistics(const Context& context, const Model& model, const ResidualOptions& options = {});

}  // namespace fokker
