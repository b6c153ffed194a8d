#pragma once

// Weights of forward paths, from which p^S at points, log u and its derivatives are made.
#include <cstdint>
#include <vector>

#include "fokker/diagnostics.hpp"
#include "host_fields.hpp"

namespace fokker {

class ForwardPaths {
 public:
  // steps: of a path from t_min to T.
  ForwardPaths(const Context& context, const Model& model, int steps, std::uint64_t seed);

  // x [rows, d]: where paths begin at time t, overwritten. Path r is driven by the normals of index[r] alone.
  // log_weight [rows] = log(π e^{−φ_T})(X_T) + ∫_t^T R(s, X_s) ds; coarse [rows]: with every second time of the
  // integral.
  void run(double t, std::vector<double>& x, const std::vector<std::uint64_t>& index, std::vector<double>& log_weight,
           std::vector<double>& coarse, const DiagnosticProgress& progress = {});

  // Rows to give at a time, so that what they need stays small.
  static constexpr std::int64_t rows_at_once = 1 << 16;

 private:
  Model model_;
  HostFields fields_;
  int steps_;
  std::uint64_t seed_;
};

// Mean of e^{log_weight} over n paths, in the logarithm, and how far it can be trusted.
struct WeightMean {
  double log_mean = 0;
  double relative_error = 0;  // standard error of the mean over the mean
  double effective = 0;       // (Σ w)²/Σ w²
  double tail_index = 0;      // Hill's; infinite where the largest weights are equal
};
WeightMean mean_of_weights(const double* log_weight, std::int64_t n);

}  // namespace fokker
