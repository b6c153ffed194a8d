// Mean R² over times uniform on [t_min, T] and points uniform in a box, with and without its mean at each time.
// Networks are evaluated in float, whose rounding of R is far below any R² that training reaches; mixtures work in
// double inside, so the residual of an exact density comes out at rounding. Sums are in double, one time after the
// other, so the result does not depend on how points are put into batches. Points are drawn and sums are made on the
// host, whatever the backend that evaluates R.
#include "fokker/diagnostics/residual_statistics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/draws.hpp"

namespace fokker {
namespace {

constexpr std::int64_t kBatch = 1 << 16;  // points a call: 512 times of 512 points take a few megabytes

}  // namespace

ResidualStatistics residual_statistics(const Context& context, const Model& model, const ResidualOptions& options) {
  check_count("the number of times of residual statistics", options.times, 1, 1'000'000);
  check_count("the number of their points at a time", options.points, 1, 1'000'000);
  if (!(options.box > 0) || !std::isfinite(options.box)) {
    throw Error(fmt::format("residual statistics need a positive, finite box, and {} was given", options.box));
  }
  model.validate();
  if (model.output() != Output::potential) {
    throw Error("residual statistics need a potential: the residual of a vector score net is not in this version");
  }

  const Fields<float> fields(context, model.of_z());
  const std::int64_t d = model.dimension(), all = options.times * options.points;
  std::vector<float> times(options.times);
  for (std::int64_t k = 0; k < options.times; ++k) {
    float& t = times[k];
    draw_uniforms(&t, 1, RandomUse::collocation, options.seed, static_cast<std::uint64_t>(k),
                  ReservedStep::residual_time);
    t = static_cast<float>(model.sde.t_min() + (model.sde.horizon() - model.sde.t_min()) * static_cast<double>(t));
  }

  const std::int64_t batch = std::min(all, kBatch);
  std::vector<float> t(batch), x(batch * d), residual(batch);
  Buffer<float> t_there(context, batch), x_there(context, batch, d), residual_there(context, batch);
  const float box = static_cast<float>(options.box);
  double square = 0, centred_square = 0;
  double mean = 0, deviation = 0;  // of the current time, by Welford's recurrence
  for (std::int64_t first = 0; first < all; first += batch) {
    const std::int64_t n = std::min(batch, all - first);
    for (std::int64_t i = 0; i < n; ++i) {
      draw_uniforms(x.data() + i * d, d, RandomUse::collocation, options.seed, static_cast<std::uint64_t>(first + i),
                    ReservedStep::residual_point);
    }
    for (std::int64_t i = 0; i < n * d; ++i) x[i] = box * (2 * x[i] - 1);
    for (std::int64_t i = 0; i < n; ++i) t[i] = times[(first + i) / options.points];
    const View<float> t_at{t_there.data(), n, 1, context.device()}, x_at{x_there.data(), n, d, context.device()};
    FieldOutputs<float> outputs;
    outputs.residual = {residual_there.data(), n, 1, context.device()};
    copy(context, {t.data(), n}, t_at);
    copy(context, {x.data(), n, d}, x_at);
    fields.evaluate({t_at, x_at}, outputs);
    copy(context, outputs.residual, View<float>{residual.data(), n});
    context.synchronize();
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t point = (first + i) % options.points;
      if (point == 0) mean = deviation = 0;
      const double r = residual[i], from_mean = r - mean;
      mean += from_mean / static_cast<double>(point + 1);
      deviation += from_mean * (r - mean);
      square += r * r;
      if (point + 1 == options.points) centred_square += deviation;
    }
  }
  return {square / static_cast<double>(all), centred_square / static_cast<double>(all)};
}

}  // namespace fokker
