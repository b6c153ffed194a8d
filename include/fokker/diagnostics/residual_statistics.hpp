#pragma once

// How large the Fokker–Planck residual R of a potential is in a box.
#include <cstdint>

#include "fokker/context.hpp"
#include "fokker/model.hpp"

namespace fokker {

struct ResidualOptions {
  std::int64_t times = 512;   // uniform on [t_min, T], 1 to 10⁶
  std::int64_t points = 512;  // at each time, uniform on [−box, box]^d, 1 to 10⁶; in z of a standardised model
  double box = 3.5;           // above 0
  std::uint64_t seed = 0;     // of times and points, none of which training draws
};

// Means over times and points. The denoising loss leaves φ free by a function of time, which moves R by its derivative
// and moves no sample: `centred` takes the mean of R over x off at each time before it squares.
struct ResidualStatistics {
  double mean_square = 0;
  double centred_mean_square = 0;
};

// R is evaluated on the context in float with the exact divergence; the call waits for its result. Throws Error where
// an option is out of its range, and for a vector score net, which has no residual.
ResidualStatistics residual_statistics(const Context& context, const Model& model, const ResidualOptions& options = {});

}  // namespace fokker
