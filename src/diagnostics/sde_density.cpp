#include "fokker/diagnostics/sde_density.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.hpp"
#include "diagnostics/forward_paths.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/standardisation.hpp"

namespace fokker {

SdeDensity sde_log_density(const Context& context, const Model& of_x, double t, View<const double> x_of_data,
                           const SdeDensityOptions& options) {
  check_potential("the density of the reverse SDE", of_x);
  const Model model = of_x.of_z();
  const std::int64_t d = model.dimension(), n = x_of_data.rows, paths = options.paths;
  check_view("x", x_of_data, any_rows, d, Device::cpu);
  if (!(t >= 0 && t <= model.sde.horizon())) {
    throw Error(fmt::format("the density of the reverse SDE at time {} was asked for; allowed: 0 to {}", t,
                            model.sde.horizon()));
  }
  check_count("the number of paths of the density of the reverse SDE", paths, 2, 1'000'000'000);
  check_count("the number of their steps", options.steps, 2, 1'000'000);
  for (std::int64_t i = 0; i < n * d; ++i) {
    if (!std::isfinite(x_of_data.data[i])) {
      throw Error(fmt::format("point {} has the coordinate {}; densities are asked for at finite points", i / d,
                              x_of_data.data[i]));
    }
  }
  // In z, of whose density that of x is a constant multiple.
  const Standardisation& columns = of_x.standardisation;
  const double log_volume = columns.log_volume();
  std::vector<double> z(x_of_data.data, x_of_data.data + n * d);
  for (std::int64_t i = 0; i < n * d && !columns.empty(); ++i) {
    z[i] = standardised(z[i], columns.mean[i % d], columns.deviation[i % d]);
  }
  const View<const double> x(z.data(), n, d);

  SdeDensity density;
  std::vector<double> value(n);
  HostFields(context, model).evaluate(t, x.data, n, {.value = value.data()});
  ForwardPaths forward(context, model, static_cast<int>(options.steps), options.seed);
  // All paths of a point together, as many points at a time as fit. Very many paths are run in parts.
  const std::int64_t part = std::min(paths, ForwardPaths::rows_at_once);
  const std::int64_t points = std::max<std::int64_t>(1, ForwardPaths::rows_at_once / part);
  std::vector<double> starts, weights, coarse, all, all_coarse;
  std::vector<std::uint64_t> index;
  for (std::int64_t first = 0; first < n; first += points) {
    const std::int64_t count = std::min(points, n - first);
    all.assign(count * paths, 0), all_coarse.assign(count * paths, 0);
    for (std::int64_t begin = 0; begin < paths; begin += part) {
      const std::int64_t some = std::min(part, paths - begin);
      starts.resize(count * some * d), index.resize(count * some);
      for (std::int64_t i = 0; i < count; ++i) {
        for (std::int64_t j = 0; j < some; ++j) {
          std::copy_n(x.data + (first + i) * d, d, starts.data() + (i * some + j) * d);
          index[i * some + j] = static_cast<std::uint64_t>(begin + j) +
                                (options.common_paths ? 0
                                                      : (options.first_index + static_cast<std::uint64_t>(first + i)) *
                                                            static_cast<std::uint64_t>(paths));
        }
      }
      forward.run(t, starts, index, weights, coarse, [&](double done) {
        if (!options.progress) return;
        options.progress((double(first) + double(count) * (double(begin) + done * double(some)) / double(paths)) /
                         double(n));
      });
      for (std::int64_t i = 0; i < count; ++i) {
        std::copy_n(weights.data() + i * some, some, all.data() + i * paths + begin);
        std::copy_n(coarse.data() + i * some, some, all_coarse.data() + i * paths + begin);
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const WeightMean mean = mean_of_weights(all.data() + i * paths, paths);
      const WeightMean rough = mean_of_weights(all_coarse.data() + i * paths, paths);
      density.log_density.push_back(value[first + i] + mean.log_mean - log_volume);
      density.standard_error.push_back(mean.relative_error);
      density.step_error.push_back(std::abs(mean.log_mean - rough.log_mean) / 3);
      density.effective_paths.push_back(mean.effective);
      const double* of_point = all.data() + i * paths;
      density.tail_index.push_back(tail_index({of_point, of_point + paths}));
      if (!(density.tail_index.back() > kHeavyTail)) ++density.heavy_tailed;
    }
  }
  return density;
}

}  // namespace fokker
