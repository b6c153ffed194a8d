#include "operations/train_schedule.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "fokker/error.hpp"

namespace fokker {

RateStep rate_step(const TrainOptions& options, std::int64_t iteration) {
  const double peak = options.peak_rate, k = static_cast<double>(iteration),
               n = static_cast<double>(options.iterations);
  const auto cosine = [](double from, double to, double fraction) {
    return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * fraction));
  };
  switch (options.schedule) {
    case RateSchedule::constant: return {peak, iteration};
    case RateSchedule::cosine: return {cosine(peak, 0, k / n), iteration};
    case RateSchedule::one_cycle: {
      // The peak stands at 0.1 n − 1 and the end at n − 1, as in torch.optim.lr_scheduler.OneCycleLR with pct_start
      // 0.1.
      const double top = std::max(0.1 * n - 1, 0.0), last = n - 1;
      if (k < top) return {cosine(peak / 25, peak, k / top), iteration};
      return {cosine(peak, peak / 25000, last > top ? (k - top) / (last - top) : 0.0), iteration};
    }
    case RateSchedule::paper: break;
  }
  const std::int64_t second = options.iterations / 4,
                     third = options.iterations / 10 * 9 + options.iterations % 10 * 9 / 10;
  if (iteration < second) return {1e-3, iteration};
  if (iteration < third) return {1e-4, iteration - second};
  return {1e-5, iteration - third};
}

std::int64_t average_begin(const TrainOptions& options) {
  if (options.average == WeightAverage::none) return options.iterations;
  return options.iterations - std::llround(options.average_fraction * static_cast<double>(options.iterations));
}

std::vector<LossWeightAt<float>> loss_weight_rows(const TrainOptions& options) {
  std::vector<LossWeightAt<float>> rows;
  for (const auto& [t, weight] : options.loss_weights) {
    rows.push_back({static_cast<float>(t), static_cast<float>(weight)});
  }
  return rows;
}

std::vector<float> time_law_edges(const ForwardSde& sde, const TrainOptions& options, std::int32_t cells) {
  const bool importance = options.time_law == TimeLaw::importance;
  if (!importance && options.time_law != TimeLaw::log_normal) return {};
  // The law's mass up to each of the times of a grid that is finer than the cells, smooth in log t, then inverted
  // linearly. importance: running integrals of p/σ² and of 1/t, mixed. The log-uniform part bounds every cell's ratio of
  // times: without it one cell of a steep σ² spans most of [t_min, T], and the weight in it is far from σ².
  constexpr double log_uniform = 1.0 / 16;
  const std::int64_t fine = 16 * std::int64_t{cells};
  const double ratio = std::log(sde.horizon() / sde.t_min()) / static_cast<double>(fine);
  std::vector<double> t(fine + 1), mass(fine + 1, 0.0);
  for (std::int64_t i = 0; i <= fine; ++i) t[i] = sde.t_min() * std::exp(ratio * static_cast<double>(i));
  t[fine] = sde.horizon();
  if (importance) {
    for (std::int64_t i = 0; i < fine; ++i) {
      const double middle = (t[i] + t[i + 1]) / 2;
      mass[i + 1] = mass[i] + (sde.horizon() - middle) / sde.at(middle).variance * (t[i + 1] - t[i]);
    }
    const double total = mass[fine];
    for (std::int64_t i = 0; i <= fine; ++i) {
      mass[i] = (1 - log_uniform) * mass[i] / total + log_uniform * static_cast<double>(i) / static_cast<double>(fine);
    }
  } else {
    for (std::int64_t i = 0; i <= fine; ++i) {
      const SdeCoefficients<double> at = sde.at(t[i]);
      const double log_sigma = std::log(at.variance) / 2 - std::log(at.mean);
      mass[i] =
          std::erfc((options.log_sigma_mean - log_sigma) / (options.log_sigma_deviation * std::numbers::sqrt2)) / 2;
    }
    if (const double inside = mass[fine] - mass[0]; !(inside >= 1e-3)) {
      throw Error(
          fmt::format("the time law log-normal with mean {} and deviation {} of ln(sigma/m) has {:.2g} of its mass "
                      "within [t_min, T] of the SDE {}; allowed: 0.001 or more",
                      options.log_sigma_mean, options.log_sigma_deviation, inside, sde.name()));
    }
  }
  std::vector<float> edges(cells + 1);
  std::int64_t i = 0;
  for (std::int32_t cell = 0; cell <= cells; ++cell) {
    const double wanted = mass[0] + (mass[fine] - mass[0]) * cell / cells;
    while (i + 1 < fine && mass[i + 1] < wanted) ++i;
    const double inside = (wanted - mass[i]) / (mass[i + 1] - mass[i]);
    edges[cell] = static_cast<float>(t[i] + inside * (t[i + 1] - t[i]));
  }
  edges.front() = static_cast<float>(sde.t_min());
  edges.back() = static_cast<float>(sde.horizon());
  return edges;
}

}  // namespace fokker
