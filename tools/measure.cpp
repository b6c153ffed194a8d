#include "measure.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "console.hpp"

namespace fokker::tools {

namespace {

// Training draws its data at the steps 0, 1, … of its seed, the noise floor at the last two that Philox has room for;
// the truth stands before those, so that all are independent.
constexpr std::uint64_t truth_step = (std::uint64_t{1} << 40) - 3;

}  // namespace

Cloud Cloud::of(std::vector<float> samples, std::int64_t dimension) {
  Cloud cloud;
  cloud.dimension = dimension;
  if (dimension == 2) {
    cloud.histogram = fokker::histogram(View<const float>(samples, 2));
    cloud.escaped = cloud.histogram->escaped();
    return cloud;
  }
  const auto n = static_cast<std::int64_t>(samples.size()) / dimension;
  std::int64_t lost = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    bool finite = true;
    for (std::int64_t k = 0; k < dimension; ++k) finite = finite && std::isfinite(samples[i * dimension + k]);
    lost += !finite;
  }
  cloud.escaped = n == 0 ? 0 : double(lost) / double(n);
  cloud.samples = std::move(samples);
  return cloud;
}

Distance distance(const Cloud& a, const Cloud& b) {
  if (a.escaped == 1 || b.escaped == 1) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    return {none, none};
  }
  if (a.histogram && b.histogram) {
    const TransportResult result = w2_squared(a.histogram->weights, b.histogram->weights, a.histogram->grid);
    return {result.w2_squared, result.certificate_gap()};
  }
  return {sliced_w2_squared(View<const float>(a.samples, a.dimension), View<const float>(b.samples, b.dimension)), 0};
}

std::vector<float> draw_samples(const Context& context, const Model& model, const TimeGrid& grid, Scheme scheme,
                                std::int64_t n, std::uint64_t seed, const FractionDone& progress) {
  check_range("--samples", n, 1, max_samples);
  const std::int64_t d = model.dimension();
  std::vector<float> samples(static_cast<std::size_t>(n * d));
  SampleOptions options{.scheme = scheme, .seed = seed, .progress = {}};
  if (progress) options.progress = [&](std::int64_t done, std::int64_t all) { progress(double(done) / double(all)); };
  Sampler(context, model, grid).sample(View<float>(samples, d), options);
  return samples;
}

std::vector<float> draw_truth(const DataSet& data, std::int64_t n, std::uint64_t seed) {
  check_range("--samples", n, 1, max_samples);
  std::vector<float> samples(static_cast<std::size_t>(n * data.dimension()));
  data.draw(View<float>(samples, data.dimension()), seed, 0, truth_step);
  return samples;
}

Truth measure_truth(const DataSet& data, const GapOptions& options) {
  return {Cloud::of(draw_truth(data, options.samples, options.seed), data.dimension()),
          noise_floor(data, options.samples, options.seed)};
}

Gap measure_gap(const Context& context, const Model& model, const Truth& truth, const GapOptions& options,
                const StepBegins& step) {
  const std::int64_t d = model.dimension();
  if (d != truth.cloud.dimension) {
    throw Error(
        fmt::format("the model has dimension {} and the data {}; they must be the same", d, truth.cloud.dimension));
  }
  const TimeGrid grid = TimeGrid::parse(options.grid, model.sde);
  Gap gap;
  const auto sample = [&](Scheme scheme, int index, double& seconds) {
    const Stopwatch clock;
    const FractionDone progress = step(index);
    Cloud cloud = Cloud::of(draw_samples(context, model, grid, scheme, options.samples, options.seed, progress), d);
    seconds = clock.seconds();
    return cloud;
  };
  gap.sde = sample(Scheme::euler_maruyama, 0, gap.sde_seconds);
  gap.ode = sample(options.ode_scheme, 1, gap.ode_seconds);

  const Stopwatch clock;
  const FractionDone progress = step(2);
  gap.ode_sde = distance(gap.ode, gap.sde);
  progress(0.3);
  gap.ode_truth = distance(gap.ode, truth.cloud);
  progress(0.6);
  gap.sde_truth = distance(gap.sde, truth.cloud);
  progress(0.9);
  if (model.output() == Output::potential) gap.residual = residual_statistics(context, model, {.seed = options.seed});
  gap.measure_seconds = clock.seconds();
  return gap;
}

Json gap_json(const Gap& gap, const Truth& truth, const GapOptions& options) {
  const bool planar = gap.ode.histogram.has_value();
  const Json distances{
      {"ode_sde", gap.ode_sde.value}, {"ode_truth", gap.ode_truth.value}, {"sde_truth", gap.sde_truth.value}};
  Json json;
  json["w2_squared"] = planar ? distances : Json();
  json["sliced_w2_squared"] = planar ? Json() : distances;
  json["noise_floor"] = truth.noise_floor;
  json["escaped"] = {{"ode", gap.ode.escaped}, {"sde", gap.sde.escaped}};
  json["residual"] = nullptr;
  if (gap.residual) {
    json["residual"] = {{"mean_square", gap.residual->mean_square},
                        {"centred_mean_square", gap.residual->centred_mean_square}};
  }
  json["certificate_gap"] = nullptr;
  if (planar) {
    json["certificate_gap"] = {{"ode_sde", gap.ode_sde.certificate_gap},
                               {"ode_truth", gap.ode_truth.certificate_gap},
                               {"sde_truth", gap.sde_truth.certificate_gap}};
  }
  json["samples"] = options.samples;
  json["seed"] = options.seed;
  json["grid"] = options.grid;
  json["ode_scheme"] = to_string(options.ode_scheme);
  json["seconds"] = {{"ode", gap.ode_seconds}, {"sde", gap.sde_seconds}, {"measure", gap.measure_seconds}};
  return json;
}

void save_histograms(const std::string& folder, const Gap& gap, const Truth& truth) {
  const auto save = [&](const char* name, const Cloud& cloud) {
    const std::vector<double>& weights = cloud.histogram->weights;
    save_npy(fmt::format("{}/{}.npy", folder, name), {static_cast<std::int64_t>(weights.size())}, weights.data());
  };
  save("ode", gap.ode);
  save("sde", gap.sde);
  save("truth", truth.cloud);
}

}  // namespace fokker::tools
