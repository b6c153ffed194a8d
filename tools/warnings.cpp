#include "warnings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

#include "console.hpp"
#include "fokker/formulas/philox.hpp"

namespace fokker::tools {
namespace {

constexpr const char* largest_datum = "largest_datum";

// Of a model file; not a number where it has none.
double read_largest_datum(const std::string& path) {
  const ModelMetadata metadata = SafeTensors::load(path).metadata;
  const auto found = metadata.find(largest_datum);
  double value = std::numeric_limits<double>::quiet_NaN();
  if (found != metadata.end()) {
    std::from_chars(found->second.data(), found->second.data() + found->second.size(), value);
  }
  return value;
}

}  // namespace

Reach reach_of(const Model& model, const std::string& path) {
  if (const auto* mixture = std::get_if<GaussianMixture>(&model.network)) {
    return {scale_of(DataSet::mixture(*mixture), mixture->dimension()).far(),
            "ten times the largest number of the mixture's draws"};
  }
  const std::string units = model.standardisation.empty() ? "" : ", in deviations of its column";
  const bool trained = !path.empty() && std::holds_alternative<Mlp>(model.network);  // and its file may say on what
  if (const double largest = trained ? read_largest_datum(path) : 0; largest > 0) {
    return {DataScale{.largest = largest}.far(), Reach().why + units};
  }
  const double mean = model.sde.at(model.sde.horizon()).mean, most = 1e6;
  return {std::min(10 * std::sqrt(model.sde.prior_variance()) / mean, most),
          "more than the SDE's prior can have come from" + units};
}

SampleHealth health_of(const Context& context, const Model& model, View<const float> samples, const Reach& reach) {
  const Standardisation columns = model.standardisation.columns(0, model.dimension());
  if (columns.empty()) return sample_health(context, samples, reach.far);
  std::vector<float> z(static_cast<std::size_t>(samples.size()));
  copy(context, samples, View<float>(z, samples.columns));
  context.synchronize();
  for (std::size_t k = 0; k < z.size(); ++k) {
    const std::size_t column = k % columns.mean.size();
    z[k] = static_cast<float>((static_cast<double>(z[k]) - columns.mean[column]) / columns.deviation[column]);
  }
  const Context host({.backend = BackendKind::cpu, .threads = 1});
  return sample_health(host, View<const float>(z, samples.columns), reach.far);
}

Reach reach_at(double t, const Model& model, const std::string& path) {
  Reach reach = reach_of(model, path);
  const SdeCoefficients<double> c = model.sde.at(t);
  reach.far = c.mean * reach.far + 10 * std::sqrt(c.variance);
  if (t > 0) reach.why += fmt::format(", and ten deviations of the noise at t = {:.3g}", t);
  return reach;
}

std::string advice_on(const TimeGrid& grid) {
  return grid.times().back() > 0 ? "" : "; a score may be infinite at 0, and --grid geometric:150 ends above";
}

ModelMetadata training_metadata(const std::string& recipe, const DataSet& data, const Model& model) {
  const Context host({.backend = BackendKind::cpu, .threads = 1});
  const DataScale scale = scale_of(data.standardised(host, model.standardisation), model.dimension());
  return {{"training", recipe}, {largest_datum, fmt::format("{}", scale.largest)}};
}

std::string warning_of(const std::string& which, const SampleHealth& health, double outside, const std::string& far) {
  if (outside == 1) {
    return fmt::format("all {} {} are outside the box or not finite; their distances are null", health.count, which);
  }
  std::vector<std::string> found;
  if (outside >= many_escaped) {
    found.push_back(fmt::format("{:.3g} % are outside the box, and distances leave them out", 100 * outside));
  }
  if (health.not_finite > 0) found.push_back(fmt::format("{} are not finite", health.not_finite));
  if (health.far_out > 0) {
    found.push_back(fmt::format("{} have a coordinate beyond {:.3g}, {}", health.far_out, health.far, far));
  }
  return found.empty() ? "" : fmt::format("of {} {} {}", health.count, which, fmt::join(found, "; "));
}

void append(Warnings& warnings, const Warnings& more) {
  std::copy_if(more.begin(), more.end(), std::back_inserter(warnings),
               [](const std::string& text) { return !text.empty(); });
}

Warnings warnings_of(const std::string& which, const EmpiricalLaw& law, const std::string& far) {
  Warnings warnings;
  const bool lost = law.health.count > 0 && law.health.not_finite == law.health.count;
  const double outside = law.histogram ? law.escaped : lost ? 1 : 0;
  append(warnings, {warning_of(which, law.health, outside, far)});
  if (law.histogram && law.histogram->inside > 1) {
    const double width = law.histogram->deviation_in_spacings();
    if (width < 2) {
      warnings.push_back(
          fmt::format("the {} have a deviation of {:.2g} spacings of the grid's nodes: distances are those of the grid",
                      which, width));
    }
  }
  return warnings;
}

DataScale scale_of(const DataSet& data, std::int64_t d) {
  return data_scale(Context({.backend = BackendKind::cpu, .threads = 1}), data, data.dimension() - d);
}

double share_outside(const DataSet& data, std::int64_t d, double half_width) {
  const Context context({.backend = BackendKind::cpu, .threads = 1});
  const std::int64_t all = data.dimension(), n = std::clamp<std::int64_t>((std::int64_t{1} << 24) / all, 64, 16384);
  Buffer<float> draws(context, n, all), of_x(context, n, d);
  data.draw(context, draws.view(), 0, 0, ReservedStep::truth);
  for (std::int64_t i = 0; i < n; ++i) std::copy_n(draws.data() + i * all, d, of_x.data() + i * d);
  return double(count_escaped(context, of_x.view(), half_width)) / double(n);
}

Warnings warnings_before_training(const DataSet& data, std::int64_t d, const ForwardSde& sde,
                                  const TrainOptions& options, bool standardised) {
  Warnings warnings;
  const DataScale scale = scale_of(data, d);
  const double prior = std::sqrt(sde.prior_variance()), mean = sde.at(sde.horizon()).mean,
               noise = std::sqrt(sde.at(sde.t_min()).variance);
  const bool of_data = data.kind() == DataSet::Kind::samples;
  const std::string advice = standardised
                                 ? "these are deviations of their columns already, so that single rows lie far out"
                             : of_data ? "standardise them, as fokker train --standardise does"
                                       : "choose an SDE for this scale";
  if (scale.largest > 10 * std::max(1.0, prior)) {
    warnings.push_back(
        fmt::format("the data reach {:.4g}, where networks and {} are made for numbers of about {:.3g}: samples will "
                    "not have their scale; {}",
                    scale.largest, sde.name(), std::max(1.0, prior), advice));
  } else if (scale.largest * mean > 0.25 * prior) {
    warnings.push_back(
        fmt::format("the data reach {:.4g}, of which {} leaves {:.3g} at T beside a prior of deviation {:.3g}: samples "
                    "will be off by as much; {}",
                    scale.largest, sde.name(), scale.largest * mean, prior, advice));
  }
  const auto least = std::min_element(scale.deviation.begin(), scale.deviation.end());
  if (*least < noise) {
    warnings.push_back(fmt::format(
        "column {} of the data has a deviation of {:.2g}, and {} at t_min one of {:.2g}: samples will not be "
        "narrower than that; {}",
        least - scale.deviation.begin(), *least, sde.name(), noise,
        *least > 0 ? advice : "leave a constant column out"));
  }
  if (options.residual_weight > 0) {
    if (const double outside = share_outside(data, d, options.box); outside >= many_escaped) {
      warnings.push_back(
          fmt::format("{:.3g} % of the data are outside the box [-{}, {}]^{}, in which the points of the residual are",
                      100 * outside, options.box, options.box, d));
    }
  }
  return warnings;
}

void warn(const Warnings& warnings) {
  for (const std::string& text : warnings) warn(text);
}

}  // namespace fokker::tools
