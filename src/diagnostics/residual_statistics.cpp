// Mean R² or |r|² over times uniform on [t_min, T] and points uniform in a box, with and without its mean at each time.
// Networks are evaluated in float, whose rounding of R is far below any R² that training reaches; mixtures work in
// double inside, so the residual of an exact density comes out at rounding. Sums are in double, one time after the
// other, so the result does not depend on how points are put into batches, but for probes of a vector net, which are a
// batch's. Points are drawn and sums are made on the host, whatever the backend that evaluates R.
#include "fokker/diagnostics/residual_statistics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "core/check.hpp"
#include "fokker/diagnostics/score_residual.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/draws.hpp"

namespace fokker {
namespace {

constexpr std::int64_t kBatch = 1 << 16;  // points a call: 512 times of 512 points take a few megabytes

// Residuals [n, m] at points (t [n], x [n, d]) whose first is number `first`: m = 1 of a potential, d of a vector net.
class Residuals {
 public:
  Residuals(const Context& context, const Model& model, const ResidualOptions& options, std::int64_t batch)
      : context_(context), d_(model.dimension()), options_(options) {
    if (model.output() == Output::potential) {
      fields_ = std::make_unique<Fields<float>>(context, model);
      t_ = Buffer<float>(context, batch), x_ = Buffer<float>(context, batch, d_),
      residual_ = Buffer<float>(context, batch);
    } else {
      of_score_ = std::make_unique<ScoreResidual<float>>(context, model);
    }
  }

  std::int64_t columns() const { return fields_ ? 1 : d_; }
  // Of a vector net all points of a call have the same probes.
  bool share_probes() const { return !fields_ && options_.probes > 0; }

  // estimate: 0, or 1 for another that is independent of it.
  std::vector<double> at(const std::vector<float>& t, const std::vector<float>& x, std::int64_t first, int estimate) {
    const std::uint64_t index = static_cast<std::uint64_t>(first) + (static_cast<std::uint64_t>(estimate) << 40);
    const Divergence divergence{
        .probes = options_.probes, .law = options_.law, .seed = options_.seed, .first_index = index};
    if (of_score_) return of_score_->evaluate(t, x, {}, divergence);
    const std::int64_t n = std::ssize(t);
    const Device device = context_.device();
    const View<float> t_at{t_.data(), n, 1, device}, x_at{x_.data(), n, d_, device};
    FieldOutputs<float> outputs;
    outputs.residual = {residual_.data(), n, 1, device};
    copy(context_, {t.data(), n}, t_at);
    copy(context_, {x.data(), n, d_}, x_at);
    fields_->evaluate({t_at, x_at}, outputs, divergence);
    std::vector<float> found(static_cast<std::size_t>(n));
    copy(context_, outputs.residual, View<float>{found.data(), n});
    context_.synchronize();
    return {found.begin(), found.end()};
  }

 private:
  Context context_;
  std::int64_t d_;
  ResidualOptions options_;
  std::unique_ptr<Fields<float>> fields_;
  std::unique_ptr<ScoreResidual<float>> of_score_;
  Buffer<float> t_, x_, residual_;
};

}  // namespace

ResidualStatistics residual_statistics(const Context& context, const Model& model, const ResidualOptions& options) {
  check_count("the number of times of residual statistics", options.times, 1, 1'000'000);
  check_count("the number of their points at a time", options.points, 1, 1'000'000);
  check_count("the number of probes, 0 for the exact residual,", options.probes, 0, 65536);
  if (!(options.box > 0) || !std::isfinite(options.box)) {
    throw Error(fmt::format("residual statistics need a positive, finite box, and {} was given", options.box));
  }
  model.validate();

  const std::int64_t d = model.dimension(), all = options.times * options.points;
  const std::int64_t batch = std::min(all, kBatch);
  Residuals residuals(context, model.of_z(), options, batch);
  std::vector<float> times(options.times);
  for (std::int64_t k = 0; k < options.times; ++k) {
    float& t = times[k];
    draw_uniforms(&t, 1, RandomUse::collocation, options.seed, static_cast<std::uint64_t>(k),
                  ReservedStep::residual_time);
    t = static_cast<float>(model.sde.t_min() + (model.sde.horizon() - model.sde.t_min()) * static_cast<double>(t));
  }

  const float box = static_cast<float>(options.box);
  const std::int64_t columns = residuals.columns();
  double square = 0, centred_square = 0, of_time = 0, squares_of_times = 0;
  double mean = 0, other_mean = 0, deviation = 0;  // of R at the current time, by Welford's recurrence
  for (std::int64_t first = 0, n = 0; first < all; first += n) {
    // Where the probes are a call's, no two times share them.
    n = std::min({batch, all - first, residuals.share_probes() ? options.points - first % options.points : batch});
    std::vector<float> t(n), x(n * d);
    for (std::int64_t i = 0; i < n; ++i) {
      draw_uniforms(x.data() + i * d, d, RandomUse::collocation, options.seed, static_cast<std::uint64_t>(first + i),
                    ReservedStep::residual_point);
    }
    for (std::int64_t i = 0; i < n * d; ++i) x[i] = box * (2 * x[i] - 1);
    for (std::int64_t i = 0; i < n; ++i) t[i] = times[(first + i) / options.points];
    const std::vector<double> one = residuals.at(t, x, first, 0),
                              other = options.probes > 0 ? residuals.at(t, x, first, 1) : one;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t point = (first + i) % options.points;
      if (point == 0) mean = other_mean = deviation = of_time = 0;
      double product = 0;
      for (std::int64_t j = i * columns; j < (i + 1) * columns; ++j) product += one[j] * other[j];
      const double from_mean = one[i * columns] - mean;
      mean += from_mean / static_cast<double>(point + 1);
      other_mean += (other[i * columns] - other_mean) / static_cast<double>(point + 1);
      deviation += from_mean * (other[i * columns] - other_mean);
      square += product;
      of_time += product;
      if (point + 1 < options.points) continue;
      centred_square += deviation;
      squares_of_times +=
          of_time / static_cast<double>(options.points) * (of_time / static_cast<double>(options.points));
    }
  }
  ResidualStatistics found{square / static_cast<double>(all), centred_square / static_cast<double>(all), std::nan("")};
  if (model.output() != Output::potential) found.centred_mean_square = found.mean_square;
  if (const double count = static_cast<double>(options.times); options.times > 1) {
    const double variance = squares_of_times / count - found.mean_square * found.mean_square;
    found.standard_error = std::sqrt(std::fmax(variance, 0) / (count - 1));
  }
  return found;
}

}  // namespace fokker
