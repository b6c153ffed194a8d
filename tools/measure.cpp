#include "measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "console.hpp"
#include "fokker/formulas/draws.hpp"

namespace fokker::tools {
namespace {

// For each sampler its progress [2] (samples, seconds), the samples that are kept [K, d], and in the plane the
// histograms [n² + 2] (weights, inside, outside) and the counts of lost samples [2] (not finite, far out).
void write_state(SafeTensors& file, const std::string& sampler, const DrawnSamples& state, std::int64_t dimension) {
  const double progress[] = {double(state.drawn), state.seconds};
  file.tensors[sampler + ".progress.0"] = Tensor::from_double({2}, progress);
  for (std::size_t k = 0; k < state.histograms.size(); ++k) {
    const Histogram& histogram = state.histograms[k];
    std::vector<double> numbers = histogram.weights;
    numbers.insert(numbers.end(), {double(histogram.inside), double(histogram.outside)});
    file.tensors[fmt::format("{}.histogram.{}", sampler, k)] =
        Tensor::from_double({std::ssize(numbers)}, numbers.data());
  }
  if (dimension == 2) {
    const double lost[] = {double(state.health.not_finite), double(state.health.far_out)};
    file.tensors[sampler + ".lost.0"] = Tensor::from_double({2}, lost);
    if (state.samples.empty()) return;
  }
  file.tensors[sampler + ".samples.0"] =
      Tensor::from_float({std::ssize(state.samples) / dimension, dimension}, state.samples.data());
}

// Whether it fits the gap is for measure_gap() to say.
DrawnSamples read_state(const SafeTensors& file, const std::string& sampler, std::int64_t dimension) {
  DrawnSamples state;
  const std::vector<double> progress = file.at(sampler + ".progress.0").to_double();
  if (progress.size() != 2) {
    throw Error(fmt::format("{}.progress.0 is not a number of samples and seconds", sampler));
  }
  state.drawn = count_of(progress[0], sampler + ".progress.0");
  state.seconds = duration_of(progress[1], sampler + ".progress.0");
  if (const std::string name = sampler + ".samples.0"; dimension != 2 || file.tensors.contains(name)) {
    const std::vector<double> numbers = file.at(name).to_double();
    state.samples.assign(numbers.begin(), numbers.end());
  }
  if (dimension != 2) return state;
  const std::vector<double> lost = file.at(sampler + ".lost.0").to_double();
  if (lost.size() != 2 || !(lost[0] >= 0 && lost[1] >= 0 && lost[0] + lost[1] <= progress[0])) {
    throw Error(fmt::format("{}.lost.0 does not hold two counts of samples", sampler));
  }
  state.health = {.count = state.drawn, .not_finite = std::int64_t(lost[0]), .far_out = std::int64_t(lost[1])};
  for (int k = 0;; ++k) {
    const auto found = file.tensors.find(fmt::format("{}.histogram.{}", sampler, k));
    if (found == file.tensors.end()) return state;
    std::vector<double> numbers = found->second.to_double();
    if (numbers.size() < 2) throw Error(fmt::format("{} is no histogram", found->first));
    Histogram& histogram = state.histograms.emplace_back();
    histogram.outside = count_of(numbers.back(), found->first);
    numbers.pop_back();
    histogram.inside = count_of(numbers.back(), found->first);
    numbers.pop_back();
    histogram.weights = std::move(numbers);
  }
}

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

PointsFinished as_fraction(const FractionDone& progress) {
  return [progress](std::int64_t done, std::int64_t all) {
    progress(double(done) / double(std::max<std::int64_t>(all, 1)));
  };
}

void check_flow_density(const Context& context, const Sampler& sampler, Scheme scheme, const Divergence& divergence,
                        const std::string& given) {
  if (context.precision() == Precision::half) {
    throw Error(given + " given with --precision half, which serves values and scores only; allowed: split, fp32");
  }
  sampler.log_density({}, {}, scheme, divergence);
}

double denoising_loss(const Context& context, const Model& of_x, const DataSet& data_of_x, std::uint64_t seed) {
  const Model model = of_x.of_z();
  const DataSet data = data_of_x.standardised(context, of_x.standardisation);
  const std::int64_t n = std::int64_t{1} << 18, d = model.dimension();
  const ForwardSde& sde = model.sde;
  Buffer<float> points(context, n, d), score_there(context, n, d);
  data.draw(context, points.view(), seed, 0, ReservedStep::held_out_loss);
  std::vector<float> x = to_host(context, points.view()), z(x.size()), times(n);
  const double span = sde.horizon() - sde.t_min(), log_ratio = std::log(sde.horizon() / sde.t_min());
  for (std::int64_t i = 0; i < n; ++i) {
    const auto index = static_cast<std::uint64_t>(i);
    float uniform;
    draw_uniforms(&uniform, 1, RandomUse::time, seed, index, ReservedStep::held_out_loss);
    draw_normals(z.data() + i * d, d, RandomUse::denoising, seed, index, ReservedStep::held_out_loss);
    const double u = (double(i) + uniform) / double(n);
    times[i] = float(sde.t_min() * std::exp(u * log_ratio));
    const SdeCoefficients<double> c = sde.at(double(times[i]));
    const double deviation = std::sqrt(c.variance);
    for (std::int64_t j = i * d; j < (i + 1) * d; ++j) x[j] = float(c.mean * x[j] + deviation * z[j]);
  }
  copy(context, View<const float>(x.data(), n, d), points.view());
  const Buffer<float> times_there = to_device(context, times, 1);
  FieldOutputs<float> outputs;
  outputs.score = score_there.view();
  Fields<float>(context, model).evaluate({times_there.view(), points.view()}, outputs);
  const std::vector<float> score = to_host(context, score_there.view());
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double t = times[i], weight = 2 * (sde.horizon() - t) / (span * span) * t * log_ratio,
                 deviation = std::sqrt(sde.at(t).variance);
    for (std::int64_t j = i * d; j < (i + 1) * d; ++j) {
      const double error = score[j] + z[j] / deviation;
      sum += weight * error * error;
    }
  }
  return sum / double(n * d);
}

MeasuredGap measure(const Context& context, const Model& model, const GroundTruth& truth, const TimeGrid& grid,
                    GapOptions options, const StepBegins& step, const SavedWork& saved) {
  const std::int64_t d = model.dimension();
  int stage = -1;
  FractionDone progress;
  options.progress = [&](GapStage now, double done) {
    if (int(now) != stage) {
      stage = int(now);
      progress = step(stage, done);
    } else {
      progress(now == GapStage::distances ? 0.9 * done : done);  // the residual is left
    }
  };
  Stopwatch since_save;
  if (!saved.file.empty()) {
    options.save = [&](const GapState& state) {
      const std::int64_t drawn = state.ode.drawn > 0 ? state.ode.drawn : state.sde.drawn;
      if (since_save.seconds() < saved.seconds_between_saves && drawn < options.samples) return;
      SafeTensors file;
      write_state(file, "sde", state.sde, d);
      write_state(file, "ode", state.ode, d);
      saved.save(std::move(file));
      since_save = {};
    };
  }
  if (const std::optional<SafeTensors> file = saved.load()) {
    try {
      options.from = {read_state(*file, "sde", d), read_state(*file, "ode", d)};
    } catch (const Error& error) {
      throw saved.unusable(error.what());
    }
  }
  MeasuredGap measured;
  const bool goes_on = options.from.sde.drawn != 0;
  try {
    measured.gap = measure_gap(context, model, truth, grid, options);
  } catch (const Error& error) {
    if (goes_on && stage < 0) throw saved.unusable(error.what());  // its sizes are refused before any work
    throw;
  }
  const Stopwatch clock;
  measured.precision = context.precision();
  if (model.output() == Output::potential) {
    if (measured.gap.over_time) {
      for (const double t : measured.gap.over_time->times) {
        measured.slopes.push_back(radial_slopes(context, model, t));
      }
    }
    if (context.precision() != Precision::half) {
      measured.residual = residual_statistics(context, model, {.seed = options.seed});
    }
  }
  measured.measure_seconds = measured.gap.distance_seconds + clock.seconds();
  return measured;
}

Warnings warnings_of(const SamplerGap& gap) {
  Warnings warnings = warnings_of("samples of the ODE", gap.ode);
  append(warnings, warnings_of("samples of the SDE", gap.sde));
  return warnings;
}

Json eta_json(const EtaLaw& of) {
  return {{"eta", of.eta},
          {"ode", of.ode.w2_squared},
          {"truth", of.truth.w2_squared},
          {"escaped", of.law.escaped},
          {"not_finite", of.law.health.not_finite},
          {"far_out", of.law.health.far_out},
          {"warnings", warnings_of(fmt::format("samples at eta {}", of.eta), of.law)},
          {"seconds", of.seconds}};
}

Json gap_json(const MeasuredGap& measured, const GapOptions& options, const std::string& grid) {
  const SamplerGap& gap = measured.gap;
  const bool planar = gap.ode.dimension == 2;
  const Json distances{{"ode_sde", gap.ode_sde.w2_squared},
                       {"ode_truth", gap.ode_truth.w2_squared},
                       {"sde_truth", gap.sde_truth.w2_squared}};
  Json json;
  json["w2_squared"] = planar ? distances : Json();
  json["sliced_w2_squared"] = planar ? Json() : distances;
  json["noise_floor"] = gap.noise_floor;
  json["sliced_noise_floor"] = planar ? Json() : Json(gap.noise_floor);
  if (gap.sliced) {
    json["sliced_w2_squared"] = {
        {"ode_sde", gap.sliced->ode_sde}, {"ode_truth", gap.sliced->ode_truth}, {"sde_truth", gap.sliced->sde_truth}};
    json["sliced_noise_floor"] = gap.sliced->noise_floor;
    json["sliced_samples"] = gap.sliced->samples;
  }
  json["escaped"] = {{"ode", gap.ode.escaped}, {"sde", gap.sde.escaped}, {"truth", gap.truth_escaped}};
  json["not_finite"] = {{"ode", gap.ode.health.not_finite}, {"sde", gap.sde.health.not_finite}};
  json["far_out"] = {{"ode", gap.ode.health.far_out}, {"sde", gap.sde.health.far_out}};
  json["far"] = gap.ode.health.far;
  json["warnings"] = warnings_of(gap);
  json["residual"] = nullptr;
  if (measured.residual) {
    json["residual"] = {{"mean_square", measured.residual->mean_square},
                        {"centred_mean_square", measured.residual->centred_mean_square}};
  }
  json["certificate_gap"] = nullptr;
  if (planar) {
    json["certificate_gap"] = {{"ode_sde", gap.ode_sde.certificate_gap()},
                               {"ode_truth", gap.ode_truth.certificate_gap()},
                               {"sde_truth", gap.sde_truth.certificate_gap()}};
  }
  if (gap.ode_sde_at_half_spacing) {
    json["ode_sde_at_half_spacing"] = gap.ode_sde_at_half_spacing->w2_squared;
    json["grid_bias"] = *gap.grid_share();
  }
  if (gap.over_time) {
    const GapOverTime& over_time = *gap.over_time;
    const auto list = [](const auto& items, const auto& value_of) {
      Json array = Json::array();
      for (const auto& item : items) array.push_back(value_of(item));
      return array;
    };
    const auto w2 = [](const TransportResult& result) { return result.w2_squared; };
    const auto escaped = [](const Histogram& histogram) { return histogram.escaped(); };
    json["along_the_way"] = {
        {"steps", over_time.steps},
        {"times", over_time.times},
        {"w2_squared",
         {{"ode_sde", list(over_time.ode_sde, w2)},
          {"potential_sde", list(over_time.potential_sde, w2)},
          {"potential_ode", list(over_time.potential_ode, w2)}}},
        {"escaped", {{"ode", list(over_time.ode, escaped)}, {"sde", list(over_time.sde, escaped)}}},
        {"potential_integrable", list(measured.slopes, [](const RadialSlopes& s) { return s.integrable; })},
        {"share_of_growing_directions", list(measured.slopes, [](const RadialSlopes& s) { return s.share_growing; })}};
  }
  json["samples"] = options.samples;
  json["seed"] = options.seed;
  json["grid"] = grid;
  json["ode_scheme"] = to_string(options.ode_scheme);
  json["precision"] = to_string(measured.precision);
  json["seconds"] = {{"ode", gap.ode_seconds}, {"sde", gap.sde_seconds}, {"measure", measured.measure_seconds}};
  return json;
}

Json box_json(const Grid& box) {
  return {{"x", {box.x.low, box.x.high}}, {"y", {box.y.low, box.y.high}}, {"nodes", box.n}};
}

void save_histograms(const std::string& folder, const SamplerGap& gap, const GroundTruth& truth) {
  const EmpiricalLaw* laws[] = {&gap.ode, &gap.sde, &truth.law};
  for (std::size_t i = 0; i < std::size(laws); ++i) {
    const std::vector<double>& weights = laws[i]->histogram->weights;
    save_npy(fmt::format("{}/{}.npy", folder, histogram_files[i]), {static_cast<std::int64_t>(weights.size())},
             weights.data());
  }
  if (!gap.over_time) return;
  std::vector<float> rows;
  const auto append = [&](const std::vector<double>& weights) {
    rows.insert(rows.end(), weights.begin(), weights.end());
  };
  for (const Histogram& histogram : gap.over_time->sde) append(histogram.weights);
  for (const Histogram& histogram : gap.over_time->ode) append(histogram.weights);
  for (const std::vector<double>& weights : gap.over_time->potential) append(weights);
  const std::int64_t nodes = std::ssize(truth.law.histogram->weights);
  save_npy(fmt::format("{}/{}.npy", folder, over_time_file), {std::ssize(rows) / nodes, nodes}, rows.data());
}

}  // namespace fokker::tools
