#pragma once

// Weights of forward paths, from which p^S at points, log u and its derivatives are made.
#include <cstdint>
#include <functional>
#include <vector>

#include "diagnostics/host_fields.hpp"

namespace fokker {

class ForwardPaths {
 public:
  // steps: of a path from t_min to T.
  ForwardPaths(const Context& context, const Model& model, int steps, std::uint64_t seed);

  // x [rows, d]: where paths begin at time t, overwritten. Path r is driven by the normals of index[r] alone.
  // log_weight [rows] = log(π e^{−φ_T})(X_T) + ∫_t^T R(s, X_s) ds; coarse [rows]: with every second time of the
  // integral.
  void run(double t, std::vector<double>& x, const std::vector<std::uint64_t>& index, std::vector<double>& log_weight,
           std::vector<double>& coarse, const std::function<void(double)>& progress = {});

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
};
WeightMean mean_of_weights(const double* log_weight, std::int64_t n);

// At this tail index or below the largest weights fall off so slowly that the standard error of their mean may not be
// trusted: the variance of a Pareto law is infinite from there on.
constexpr double kHeavyTail = 2;
// Hill's index of the largest weights, which estimates the exponent of a law whose tail is a power. Its own relative
// error is one over the root of their number, min(n/5, 3 √n). Infinite where they are equal, not a number where a
// weight is none.
double tail_index(std::vector<double> log_weight);
// Appends the weights of a point over their median, which heavy tails do not move as they move the mean: so weights of
// many points with few paths each can be looked at together. A point with a weight that is not finite is passed over.
void append_over_median(const double* log_weight, std::int64_t n, std::vector<double>& pool);

}  // namespace fokker
