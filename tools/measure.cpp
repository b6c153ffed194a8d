#include "measure.hpp"

#include <fmt/format.h>

#include <iterator>
#include <limits>
#include <utility>

#include "console.hpp"

namespace fokker::tools {

namespace {

// Training draws its data at the steps 0, 1, … of its seed, the noise floor at the last two that Philox has room for;
// the truth stands before those, so that all are independent.
constexpr std::uint64_t truth_step = (std::uint64_t{1} << 40) - 3;

}  // namespace

std::vector<float> to_host(const Context& context, View<const float> values) {
  std::vector<float> here(static_cast<std::size_t>(values.size()));
  copy(context, values, View<float>(here.data(), values.rows, values.columns));
  context.synchronize();
  return here;
}

Buffer<float> to_device(const Context& context, const std::vector<float>& values, std::int64_t columns) {
  Buffer<float> there(context, static_cast<std::int64_t>(values.size()) / columns, columns);
  copy(context, View<const float>(values, columns), there.view());
  context.synchronize();
  return there;
}

Cloud Cloud::of(const Context& context, Buffer<float> samples) {
  Cloud cloud;
  const std::int64_t n = samples.rows(), d = samples.columns();
  cloud.dimension = d;
  if (d == 2) {
    cloud.histogram = fokker::histogram(context, samples.view());
    cloud.escaped = cloud.histogram->escaped();
    return cloud;
  }
  cloud.escaped = n == 0 ? 0 : double(count_escaped(context, samples.view())) / double(n);
  cloud.samples = std::move(samples);
  return cloud;
}

Distance distance(const Context& context, const Cloud& a, const Cloud& b) {
  if (a.escaped == 1 || b.escaped == 1) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    return {none, none};
  }
  if (a.histogram && b.histogram) {
    const TransportResult result = w2_squared(a.histogram->weights, b.histogram->weights, a.histogram->grid);
    return {result.w2_squared, result.certificate_gap()};
  }
  return {sliced_w2_squared(context, a.samples.view(), b.samples.view()), 0};
}

void note_all_lost(const std::string& program, const std::string& which) {
  fmt::print(stderr, "{}: {} are outside the box or not finite; their distances are null\n", program, which);
}

Buffer<float> draw_samples(const Context& context, const Model& model, const TimeGrid& grid, Scheme scheme,
                           std::int64_t n, std::uint64_t seed, const FractionDone& progress) {
  Buffer<float> samples(context, n, model.dimension());
  SampleOptions options{.scheme = scheme, .seed = seed, .progress = {}};
  if (progress) options.progress = [&](std::int64_t done, std::int64_t all) { progress(double(done) / double(all)); };
  Sampler(context, model, grid).sample(samples.view(), options);
  return samples;
}

Truth measure_truth(const Context& context, const DataSet& data, const GapOptions& options) {
  Buffer<float> samples(context, options.samples, data.dimension());
  data.draw(context, samples.view(), options.seed, 0, truth_step);
  return {Cloud::of(context, std::move(samples)), noise_floor(context, data, options.samples, options.seed)};
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
  gap.precision = context.precision();
  const auto sample = [&](Scheme scheme, int index, double& seconds) {
    const Stopwatch clock;
    const FractionDone progress = step(index);
    Cloud cloud =
        Cloud::of(context, draw_samples(context, model, grid, scheme, options.samples, options.seed, progress));
    seconds = clock.seconds();
    return cloud;
  };
  gap.sde = sample(Scheme::euler_maruyama, 0, gap.sde_seconds);
  gap.ode = sample(options.ode_scheme, 1, gap.ode_seconds);

  const Stopwatch clock;
  const FractionDone progress = step(2);
  gap.ode_sde = distance(context, gap.ode, gap.sde);
  progress(0.3);
  gap.ode_truth = distance(context, gap.ode, truth.cloud);
  progress(0.6);
  gap.sde_truth = distance(context, gap.sde, truth.cloud);
  progress(0.9);
  if (model.output() == Output::potential && context.precision() != Precision::half) {
    gap.residual = residual_statistics(context, model, {.seed = options.seed});
  }
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
  json["precision"] = to_string(gap.precision);
  json["seconds"] = {{"ode", gap.ode_seconds}, {"sde", gap.sde_seconds}, {"measure", gap.measure_seconds}};
  return json;
}

void save_histograms(const std::string& folder, const Gap& gap, const Truth& truth) {
  const Cloud* clouds[] = {&gap.ode, &gap.sde, &truth.cloud};
  for (std::size_t i = 0; i < std::size(clouds); ++i) {
    const std::vector<double>& weights = clouds[i]->histogram->weights;
    save_npy(fmt::format("{}/{}.npy", folder, histogram_files[i]), {static_cast<std::int64_t>(weights.size())},
             weights.data());
  }
}

}  // namespace fokker::tools
