// u(t, x) = E[(π e^{−φ_T})(X_T) exp ∫_t^T R(s, X_s) ds | X_t = x] along paths of the forward SDE, whose transitions are
// Gaussian and drawn exactly: from s to s′ it multiplies by m(s′)/m(s) and adds the variance σ²(s′) − (m(s′)/m(s))²
// σ²(s). The integral is by the trapezoidal rule, an error of second order in the steps in the mean of the weights: the
// rule sees E R(s, X_s), which is smooth in s, not the path.
#include "diagnostics/forward_paths.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>

#include "fokker/formulas/draws.hpp"

namespace fokker {

ForwardPaths::ForwardPaths(const Context& context, const Model& model, int steps, std::uint64_t seed)
    : model_(model), fields_(context, model), steps_(steps), seed_(seed) {}

void ForwardPaths::run(double t, std::vector<double>& x, const std::vector<std::uint64_t>& index,
                       std::vector<double>& log_weight, std::vector<double>& coarse,
                       const std::function<void(double)>& progress) {
  const ForwardSde& sde = model_.sde;
  const std::int64_t rows = static_cast<std::int64_t>(index.size()), d = model_.dimension();
  std::vector<double> times{t};
  if (t < sde.horizon()) {
    const double last = log_noise_ratio(sde, sde.horizon());
    const double share = (last - log_noise_ratio(sde, t)) / (last - log_noise_ratio(sde, sde.t_min()));
    const int pairs = std::max(1, static_cast<int>(std::ceil(0.5 * steps_ * std::min(1.0, share))));
    times = noise_ratio_times(sde, t, sde.horizon(), 2 * pairs);
  }
  const int steps = static_cast<int>(times.size()) - 1;

  log_weight.assign(rows, 0.0);
  coarse.assign(rows, 0.0);
  std::vector<double> residual(rows), value(rows), normal(d);
  for (int k = 0; k <= steps; ++k) {
    if (k > 0) {
      const SdeCoefficients<double> before = sde.at(times[k - 1]), after = sde.at(times[k]);
      const double shrink = after.mean / before.mean;
      const double deviation = std::sqrt(std::max(0.0, after.variance - shrink * shrink * before.variance));
      for (std::int64_t r = 0; r < rows; ++r) {
        draw_normals(normal.data(), d, RandomUse::diagnostic, seed_, index[r], static_cast<std::uint64_t>(k));
        for (std::int64_t i = 0; i < d; ++i) x[r * d + i] = shrink * x[r * d + i] + deviation * normal[i];
      }
    }
    const bool last = k == steps;
    if (steps > 0) {
      fields_.evaluate(times[k], x.data(), rows, {.value = last ? value.data() : nullptr, .residual = residual.data()});
      const double fine = 0.5 * (times[std::min(k + 1, steps)] - times[std::max(k - 1, 0)]);
      const double rough = k % 2 == 1 ? 0 : 0.5 * (times[std::min(k + 2, steps)] - times[std::max(k - 2, 0)]);
      for (std::int64_t r = 0; r < rows; ++r) log_weight[r] += fine * residual[r], coarse[r] += rough * residual[r];
    } else {
      fields_.evaluate(times[k], x.data(), rows, {.value = value.data()});
    }
    if (progress) progress(double(k + 1) / double(steps + 1));
  }
  const double variance = sde.prior_variance();
  for (std::int64_t r = 0; r < rows; ++r) {
    double square = 0;
    for (std::int64_t i = 0; i < d; ++i) square += x[r * d + i] * x[r * d + i];
    const double at_horizon =
        -0.5 * (square / variance + double(d) * std::log(2 * std::numbers::pi * variance)) - value[r];
    log_weight[r] += at_horizon, coarse[r] += at_horizon;
  }
}

WeightMean mean_of_weights(const double* log_weight, std::int64_t n) {
  WeightMean mean;
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < n; ++i) {
    if (!(log_weight[i] <= largest)) largest = log_weight[i];  // not a number takes over
  }
  double sum = 0, square = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double w = std::exp(log_weight[i] - largest);
    sum += w, square += w * w;
  }
  const double count = double(n);
  mean.log_mean = largest + std::log(sum / count);
  mean.effective = sum * sum / square;
  mean.relative_error = n < 2 ? 0 : std::sqrt(std::max(0.0, count / mean.effective - 1) / (count - 1));
  return mean;
}

// Hill (1975) over the largest weights: as many as Vehtari et al. (2024) fit a tail to.
double tail_index(std::vector<double> log_weight) {
  const std::int64_t n = static_cast<std::int64_t>(log_weight.size());
  const std::int64_t tail =
      std::max<std::int64_t>(1, std::min(n / 5, static_cast<std::int64_t>(std::ceil(3 * std::sqrt(double(n))))));
  if (tail >= n) return std::numeric_limits<double>::infinity();
  if (std::any_of(log_weight.begin(), log_weight.end(), [](double w) { return std::isnan(w); })) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  std::nth_element(log_weight.begin(), log_weight.begin() + tail, log_weight.end(), std::greater<>());
  double excess = 0;
  for (std::int64_t i = 0; i < tail; ++i) excess += log_weight[i] - log_weight[tail];
  return excess > 0 ? double(tail) / excess : std::numeric_limits<double>::infinity();
}

void append_over_median(const double* log_weight, std::int64_t n, std::vector<double>& pool) {
  std::vector<double> sorted(log_weight, log_weight + n);
  if (!std::all_of(sorted.begin(), sorted.end(), [](double w) { return std::isfinite(w); })) return;
  std::nth_element(sorted.begin(), sorted.begin() + n / 2, sorted.end());
  const double median = sorted[n / 2];
  for (std::int64_t i = 0; i < n; ++i) pool.push_back(log_weight[i] - median);
}

}  // namespace fokker
