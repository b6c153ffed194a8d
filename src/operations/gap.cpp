// The gap between a model's two samplers. Samples are drawn in parts where the caller saves them; a part's histograms
// are added as counts, so parts change no number. The transports of one gap are many, and each is the work of one
// thread: they share the context's threads, the longest first.
#include "fokker/gap.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/draws.hpp"

namespace fokker {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::vector<float> to_host(const Context& context, View<const float> values) {
  std::vector<float> host(static_cast<std::size_t>(values.size()));
  copy(context, values, View<float>(host.data(), values.rows, values.columns));
  context.synchronize();
  return host;
}

TransportResult no_distance() {
  constexpr double none = std::numeric_limits<double>::quiet_NaN();
  return {none, none};
}

struct WeightPair {
  const std::vector<double>*a, *b;
  Grid grid;
};

// Exact distances; not a number where a side has no mass. `progress` is called on this thread.
std::vector<TransportResult> distances_of(const Context& context, const std::vector<WeightPair>& pairs,
                                          const std::function<void(double)>& progress) {
  const auto massless = [](const std::vector<double>& weights) {
    return std::all_of(weights.begin(), weights.end(), [](double w) { return w == 0; });
  };
  std::vector<TransportResult> distances(pairs.size());
  std::atomic<std::int64_t> done = 0;
  parallel_for(context.threads(), std::ssize(pairs), [&](std::int64_t i, int thread) {
    const auto& [a, b, grid] = pairs[i];
    distances[i] = massless(*a) || massless(*b) ? no_distance() : w2_squared(*a, *b, grid);
    ++done;
    if (thread == 0 && progress) progress(double(done) / double(pairs.size()));
  });
  return distances;
}

void check_ode_scheme(Scheme scheme) {
  if (is_stochastic(scheme)) {
    throw Error(
        fmt::format("{} is given for the probability flow of a gap; allowed: euler, heun, rk4", to_string(scheme)));
  }
}

void check_planar(const char* what, std::int64_t dimension) {
  if (dimension != 2) throw Error(fmt::format("{} has dimension {}; allowed: 2", what, dimension));
}

void check_truth(const Model& model, const GroundTruth& truth, const Grid& box) {
  const std::int64_t d = model.dimension();
  if (d != truth.law.dimension) {
    throw Error(
        fmt::format("the model has dimension {} and the data {}; they must be the same", d, truth.law.dimension));
  }
  if (d == 2 && truth.law.histogram->grid != box) {
    throw Error(
        fmt::format("the ground truth's histogram is on another grid than the gap's, {} and {}; they must be the "
                    "same",
                    truth.law.histogram->grid.describe(), box.describe()));
  }
}

// Twice the nodes a side, less one: every second of them is a node of `box`.
Grid half_spacing(const Grid& box) { return {.n = 2 * box.n - 1, .x = box.x, .y = box.y}; }

// Adds counts, which are the weights times their sum.
void add_counts(Histogram& sum, const Histogram& part) {
  const double before = double(sum.inside), added = double(part.inside);
  sum.inside += part.inside;
  sum.outside += part.outside;
  if (sum.inside == 0) return;
  for (std::size_t i = 0; i < sum.weights.size(); ++i) {
    sum.weights[i] = (std::round(sum.weights[i] * before) + std::round(part.weights[i] * added)) / double(sum.inside);
  }
}

// The samples of one gap: for d ≠ 2 all of them, for d = 2 those of sliced distances where these are asked for, and
// histograms on each of `grids`, and on the first of them after each of `steps` of the time grid.
class GapSamples {
 public:
  GapSamples(const Context& context, const Model& model, const TimeGrid& grid, const GapOptions& options, double far,
             std::vector<Grid> grids, std::vector<std::int32_t> steps)
      : context_(context),
        sampler_(context, model, grid),
        options_(options),
        far_(far),
        d_(model.dimension()),
        kept_(d_ != 2          ? options.samples
              : options.sliced ? std::min(options.samples, most_sliced)
                               : 0),
        grids_(std::move(grids)),
        steps_(std::move(steps)) {
    start(state_.sde, sde_samples_, options.from.sde, "reverse SDE");
    start(state_.ode, ode_samples_, options.from.ode, "probability flow");
  }

  void draw() {
    draw(state_.sde, sde_samples_, Scheme::euler_maruyama, GapStage::sde_samples);
    draw(state_.ode, ode_samples_, options_.ode_scheme, GapStage::ode_samples);
  }

  const DrawnSamples& sde() const { return state_.sde; }
  const DrawnSamples& ode() const { return state_.ode; }
  // To be called once, after draw().
  EmpiricalLaw sde_law() { return law(state_.sde, std::move(sde_samples_)); }
  EmpiricalLaw ode_law() { return law(state_.ode, std::move(ode_samples_)); }

 private:
  // Empty, or as an earlier call left it.
  void start(DrawnSamples& state, Buffer<float>& samples, const DrawnSamples& from, const char* name) {
    const auto refuse = [&](const std::string& what, auto given, auto allowed) {
      throw Error(fmt::format("the state of the {} to go on from has {} {}; allowed: {}", name, given, what, allowed));
    };
    const std::int64_t n = options_.samples;
    if (from.drawn < 0 || from.drawn > n) refuse("samples", from.drawn, fmt::format("0 to {}", n));
    samples = Buffer<float>(context_, kept_, d_);
    const std::int64_t there = std::min(from.drawn, kept_);
    if (std::ssize(from.samples) != there * d_) {
      refuse("coordinates of its samples", from.samples.size(), there * d_);
    }
    copy(context_, View<const float>(from.samples.data(), there, d_), samples.view().slice(0, there));
    context_.synchronize();
    if (d_ == 2) {
      for (std::size_t k = 0; k < grids_.size() + steps_.size(); ++k) {
        const Grid& grid = grids_[k < grids_.size() ? k : 0];
        state.histograms.push_back({.grid = grid, .weights = std::vector<double>(grid.n * grid.n, 0.0)});
      }
      if (from.drawn > 0) {
        if (from.histograms.size() != state.histograms.size()) {
          refuse("histograms", from.histograms.size(), state.histograms.size());
        }
        for (std::size_t k = 0; k < state.histograms.size(); ++k) {
          const Histogram& histogram = from.histograms[k];
          if (histogram.weights.size() != state.histograms[k].weights.size()) {
            refuse(fmt::format("weights in histogram {}", k), histogram.weights.size(),
                   state.histograms[k].weights.size());
          }
          if (histogram.inside < 0 || histogram.outside < 0 || histogram.inside > from.drawn ||
              histogram.outside != from.drawn - histogram.inside) {
            refuse(fmt::format("samples in histogram {}", k),
                   fmt::format("{} inside and {} outside", histogram.inside, histogram.outside),
                   fmt::format("{} together", from.drawn));
          }
          const auto weight = std::find_if(histogram.weights.begin(), histogram.weights.end(),
                                           [](double w) { return !(w >= 0 && w <= 1); });
          if (weight != histogram.weights.end()) {
            refuse(fmt::format("as a weight in histogram {}", k), *weight, "0 to 1");
          }
          state.histograms[k].weights = histogram.weights;
          state.histograms[k].inside = histogram.inside;
          state.histograms[k].outside = histogram.outside;
        }
      }
    }
    state.drawn = from.drawn;
    state.seconds = from.seconds;
    state.health = from.health;
    state.health.far = far_;
    if (options_.save) state.samples = from.samples;
  }

  void draw(DrawnSamples& state, Buffer<float>& samples, Scheme scheme, GapStage stage) {
    // Samples of one part, at first and as long as its seconds lie between these.
    constexpr std::int64_t first_part = 16384;
    constexpr double short_part = 5, long_part = 15;
    const std::int64_t n = options_.samples;
    const auto progress = [&](double drawn) {
      if (options_.progress) options_.progress(stage, drawn / double(n));
    };
    progress(double(state.drawn));
    // On CUDA a sample's bits depend on how many are drawn with it where the network is wide, so that the parts, whose
    // sizes go by time, are only made for a caller who saves them.
    std::int64_t part = options_.save ? first_part : n;
    while (state.drawn < n) {
      const Clock::time_point start = Clock::now();
      const std::int64_t first = state.drawn, count = std::min(part, n - first);
      draw_part(state, samples, scheme, count, [&](double done) { progress(double(first) + done * double(count)); });
      const double seconds = seconds_since(start);
      state.drawn += count;
      state.seconds += seconds;
      progress(double(state.drawn));
      if (seconds < short_part) part *= 2;
      if (seconds > long_part) part = std::max<std::int64_t>(part / 2, 1);
      if (options_.save) options_.save(state_);
    }
  }

  void draw_part(DrawnSamples& state, Buffer<float>& samples, Scheme scheme, std::int64_t count,
                 const std::function<void(double)>& progress) const {
    Buffer<float> part, snapshots(context_, std::ssize(steps_) * count, d_);
    if (d_ == 2) part = Buffer<float>(context_, count, d_);
    const View<float> out = d_ == 2 ? part.view() : samples.view().slice(state.drawn, count);
    SampleOptions options{.scheme = scheme,
                          .seed = options_.seed,
                          .first_index = static_cast<std::uint64_t>(state.drawn),
                          .snapshot_steps = steps_,
                          .snapshots = snapshots.view()};
    options.progress = [&](std::int64_t done, std::int64_t all) { progress(double(done) / double(all)); };
    if (options_.draw) {
      options_.draw(out, options);
    } else {
      sampler_.sample(out, options);
    }
    context_.synchronize();
    for (std::size_t k = 0; k < state.histograms.size(); ++k) {
      const std::int64_t snapshot = std::int64_t(k) - std::ssize(grids_);
      const View<const float> points = snapshot < 0 ? out : snapshots.view().slice(snapshot * count, count);
      add_counts(state.histograms[k], histogram(context_, points, state.histograms[k].grid));
    }
    const View<const float> kept = out.slice(0, std::clamp<std::int64_t>(kept_ - state.drawn, 0, count));
    if (d_ == 2) {
      const SampleHealth part_health = sample_health(context_, out, far_);
      state.health.count += count;
      state.health.not_finite += part_health.not_finite;
      state.health.far_out += part_health.far_out;
      copy(context_, kept, samples.view().slice(std::min(state.drawn, kept_), kept.rows));
      context_.synchronize();
    }
    if (!options_.save) return;
    const std::vector<float> drawn = to_host(context_, kept);
    state.samples.insert(state.samples.end(), drawn.begin(), drawn.end());
  }

  EmpiricalLaw law(const DrawnSamples& state, Buffer<float> samples) const {
    if (d_ != 2) return empirical_law(context_, std::move(samples), {}, far_);
    EmpiricalLaw law;
    law.histogram = state.histograms.front();
    law.samples = std::move(samples);
    law.escaped = law.histogram->escaped();
    law.health = state.health;
    return law;
  }

  const Context& context_;
  Sampler sampler_;
  const GapOptions& options_;
  double far_;
  std::int64_t d_, kept_;  // the number of samples that are kept, the first ones
  std::vector<Grid> grids_;
  std::vector<std::int32_t> steps_;
  GapState state_;
  Buffer<float> sde_samples_, ode_samples_;  // [kept_, d]
};

}  // namespace

void GapOptions::validate() const {
  if (samples < 1) throw Error(fmt::format("a gap between {} samples each; allowed: 1 or more", samples));
  check_ode_scheme(ode_scheme);
  box.validate();
  const std::int64_t most = in_detail ? 128 : 256;
  if (box.n > most) {
    throw Error(
        fmt::format("a gap on {} nodes a side{}; allowed: up to {}", box.n, in_detail ? " in detail" : "", most));
  }
}

std::optional<double> SamplerGap::grid_share() const {
  if (!ode_sde_at_half_spacing) return {};
  return 2 * (ode_sde.w2_squared - ode_sde_at_half_spacing->w2_squared);
}

EmpiricalLaw law_of_points(const Context& context, Buffer<float> samples, double far) {
  EmpiricalLaw law;
  law.dimension = samples.columns();
  law.health = sample_health(context, samples.view(), far);
  law.escaped = law.health.lost();
  law.samples = std::move(samples);
  return law;
}

EmpiricalLaw empirical_law(const Context& context, Buffer<float> samples, const Grid& box, double far) {
  EmpiricalLaw law = law_of_points(context, std::move(samples), far);
  if (law.dimension != 2) return law;
  law.histogram = histogram(context, law.samples.view(), box);
  law.escaped = law.histogram->escaped();
  if (law.samples.rows() > most_sliced) {
    Buffer<float> first(context, most_sliced, 2);
    copy(context, law.samples.view().slice(0, most_sliced), first);
    context.synchronize();
    law.samples = std::move(first);
  }
  return law;
}

namespace {

void check_dimensions(const EmpiricalLaw& a, const EmpiricalLaw& b) {
  if (a.dimension == b.dimension) return;
  throw Error(fmt::format("laws of dimension {} and {} are compared; they must be of one", a.dimension, b.dimension));
}

}  // namespace

TransportResult w2_squared(const Context& context, const EmpiricalLaw& a, const EmpiricalLaw& b) {
  check_dimensions(a, b);
  if (!a.histogram || !b.histogram) {
    const double sliced = sliced_w2_squared(context, a, b);
    return {sliced, sliced};
  }
  if (a.histogram->grid != b.histogram->grid) {
    throw Error(fmt::format("laws on {} and on {} are compared; they must be on one grid", a.histogram->grid.describe(),
                            b.histogram->grid.describe()));
  }
  if (a.escaped == 1 || b.escaped == 1) return no_distance();
  return w2_squared(a.histogram->weights, b.histogram->weights, a.histogram->grid);
}

double sliced_w2_squared(const Context& context, const EmpiricalLaw& a, const EmpiricalLaw& b) {
  check_dimensions(a, b);
  const auto is_lost = [&](const View<const float>& samples) {
    return samples.rows > 0 && count_escaped(context, samples) == samples.rows;
  };
  if (is_lost(a.samples.view()) || is_lost(b.samples.view())) return std::numeric_limits<double>::quiet_NaN();
  return sliced_w2_squared(context, a.samples.view(), b.samples.view());
}

GroundTruth ground_truth(const Context& context, const DataSet& data, const GapOptions& options) {
  options.validate();
  Buffer<float> samples(context, options.samples, data.dimension());
  data.draw(context, samples.view(), options.seed, 0, ReservedStep::truth);
  const double far = data_scale(context, data).far();
  GroundTruth truth{empirical_law(context, std::move(samples), options.box, far),
                    noise_floor(context, data, options.samples, options.seed, options.box), far};
  if (data.dimension() != 2) {
    truth.sliced_noise_floor = truth.noise_floor;
  } else if (options.sliced) {
    truth.sliced_noise_floor = noise_floor(
        context, data, std::min(options.samples, most_sliced), options.seed,
        [&](View<const float> a, View<const float> b) { return sliced_w2_squared(context, a, b, 256, options.seed); });
  }
  return truth;
}

std::vector<std::int32_t> gap_steps(const TimeGrid& grid) {
  const std::vector<double>& times = grid.times();
  std::set<std::int32_t> steps{grid.steps()};
  for (const double fraction : {1.0, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002}) {
    const double wanted = fraction * times.front();
    const auto distance = [&](double t) { return std::abs(t - wanted); };
    const auto nearest =
        std::min_element(times.begin() + 1, times.end(), [&](double a, double b) { return distance(a) < distance(b); });
    steps.insert(static_cast<std::int32_t>(nearest - times.begin()));
  }
  return {steps.begin(), steps.end()};
}

std::vector<double> marginal_noise_floors(const Context& context, const ForwardSde& sde, const DataSet& data,
                                          const std::vector<double>& times, const GapOptions& options) {
  options.validate();
  check_planar("the data set of marginal noise floors", data.dimension());
  const std::int64_t n = options.samples;
  std::vector<Histogram> marginals[2];
  for (const int side : {0, 1}) {
    const std::uint64_t step = side == 0 ? ReservedStep::first_marginal : ReservedStep::second_marginal;
    Buffer<float> samples(context, n, 2);
    data.draw(context, samples.view(), options.seed, 0, step);
    const std::vector<float> x_0 = to_host(context, samples.view());
    std::vector<float> x(x_0.size()), z(x_0.size());
    for (std::int64_t i = 0; i < n; ++i) {
      draw_normals(z.data() + 2 * i, 2, RandomUse::denoising, options.seed, static_cast<std::uint64_t>(i), step);
    }
    for (const double t : times) {
      const SdeCoefficients<double> c = sde.at(t);
      const float mean = float(c.mean), deviation = float(std::sqrt(c.variance));
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = mean * x_0[i] + deviation * z[i];
      copy(context, View<const float>(x.data(), n, 2), samples.view());
      // It waits, so that x may be overwritten.
      marginals[side].push_back(histogram(context, samples.view(), options.box));
    }
  }
  std::vector<WeightPair> pairs;
  for (std::size_t k = 0; k < times.size(); ++k) {
    pairs.push_back({&marginals[0][k].weights, &marginals[1][k].weights, options.box});
  }
  std::vector<double> floors;
  for (const TransportResult& result : distances_of(context, pairs, {})) floors.push_back(result.w2_squared);
  return floors;
}

std::vector<std::vector<double>> potential_on_grid(const Context& context, const Model& model,
                                                   const std::vector<double>& times, const Grid& box) {
  box.validate();
  check_planar("the potential on a grid", model.dimension());
  if (model.output() != Output::potential) throw Error("a vector score is given for a potential on a grid");
  // Points of the box, `parts` to a spacing, so that nodes at its edge have half the points of others.
  constexpr std::int64_t parts = 4;
  const std::int64_t side = parts * (box.n - 1);
  std::vector<float> x(static_cast<std::size_t>(2 * side * side)), phi(static_cast<std::size_t>(side * side));
  const auto coordinate = [&](int axis, std::int64_t i) {
    return float(box.at(axis, (double(i) + 0.5) / double(parts)));
  };
  for (std::int64_t i = 0; i < side * side; ++i) {
    x[2 * i] = coordinate(0, i % side);
    x[2 * i + 1] = coordinate(1, i / side);
  }
  Buffer<float> points(context, side * side, 2), time(context, 1), values(context, side * side);
  copy(context, View<const float>(x.data(), side * side, 2), points.view());
  context.synchronize();
  const Fields<float> fields(context, model);
  std::vector<std::vector<double>> laws;
  for (const double wanted : times) {
    const float t = float(wanted);
    copy(context, View<const float>(&t, 1), time.view());
    FieldOutputs<float> outputs;
    outputs.value = values.view();
    fields.evaluate({time.view(), points.view()}, outputs);
    copy(context, values.view(), View<float>(phi.data(), side * side));
    context.synchronize();
    const double highest = *std::max_element(phi.begin(), phi.end());
    std::vector<double> weights(static_cast<std::size_t>(box.n * box.n));
    const auto node = [&](std::int64_t i) { return (i + parts / 2) / parts; };
    double sum = 0;
    for (std::int64_t i = 0; i < side * side; ++i) {
      const double mass = std::exp(phi[i] - highest);
      weights[box.n * node(i / side) + node(i % side)] += mass;
      sum += mass;
    }
    for (double& weight : weights) weight = std::isfinite(sum) ? weight / sum : 0;
    laws.push_back(std::move(weights));
  }
  return laws;
}

SamplerGap measure_gap(const Context& context, const Model& model, const GroundTruth& truth, const TimeGrid& grid,
                       const GapOptions& options) {
  options.validate();
  const Grid& box = options.box;
  check_truth(model, truth, box);
  const bool planar = model.dimension() == 2, in_detail = planar && options.in_detail,
             sliced = planar && options.sliced;
  if (sliced && !truth.sliced_noise_floor) {
    throw Error(
        "sliced distances are asked for with a ground truth that was made without; allowed: one made with them");
  }
  GapOverTime over_time;
  std::vector<Grid> grids{box};
  if (in_detail) {
    grids.push_back(half_spacing(box));
    over_time.steps = gap_steps(grid);
    for (const std::int32_t step : over_time.steps) over_time.times.push_back(grid.times()[step]);
  }
  GapSamples samples(context, model, grid, options, truth.far, grids, over_time.steps);
  samples.draw();
  const DrawnSamples &sde = samples.sde(), &ode = samples.ode();
  SamplerGap gap;
  gap.noise_floor = truth.noise_floor;
  gap.truth_escaped = truth.law.escaped;
  gap.sde_seconds = sde.seconds;
  gap.ode_seconds = ode.seconds;
  gap.sde = samples.sde_law();
  gap.ode = samples.ode_law();

  const Clock::time_point start = Clock::now();
  const auto progress = [&](double done) {
    if (options.progress) options.progress(GapStage::distances, done);
  };
  progress(0);
  if (planar) {
    if (in_detail) {
      over_time.sde.assign(sde.histograms.begin() + std::ssize(grids), sde.histograms.end());
      over_time.ode.assign(ode.histograms.begin() + std::ssize(grids), ode.histograms.end());
      if (model.output() == Output::potential) {
        over_time.potential = potential_on_grid(context, model, over_time.times, box);
      }
    }
    // The longest first.
    std::vector<WeightPair> pairs;
    std::vector<TransportResult*> results;
    const auto measure = [&](TransportResult& result, const std::vector<double>& a, const std::vector<double>& b,
                             const Grid& on) {
      pairs.push_back({&a, &b, on});
      results.push_back(&result);
    };
    if (in_detail) {
      measure(gap.ode_sde_at_half_spacing.emplace(), ode.histograms[1].weights, sde.histograms[1].weights, grids[1]);
    }
    measure(gap.ode_sde, gap.ode.histogram->weights, gap.sde.histogram->weights, box);
    measure(gap.ode_truth, gap.ode.histogram->weights, truth.law.histogram->weights, box);
    measure(gap.sde_truth, gap.sde.histogram->weights, truth.law.histogram->weights, box);
    over_time.ode_sde.resize(over_time.times.size());
    over_time.potential_sde.resize(over_time.potential.size());
    over_time.potential_ode.resize(over_time.potential.size());
    for (std::size_t k = 0; k < over_time.times.size(); ++k) {
      measure(over_time.ode_sde[k], over_time.ode[k].weights, over_time.sde[k].weights, box);
      if (over_time.potential.empty()) continue;
      measure(over_time.potential_sde[k], over_time.potential[k], over_time.sde[k].weights, box);
      measure(over_time.potential_ode[k], over_time.potential[k], over_time.ode[k].weights, box);
    }
    const double share = sliced ? 0.2 : 1;  // of the time that all distances take
    const std::vector<TransportResult> found =
        distances_of(context, pairs, [&](double done) { progress(share * done); });
    for (std::size_t i = 0; i < found.size(); ++i) *results[i] = found[i];
    if (in_detail) gap.over_time = std::move(over_time);
    if (sliced) {
      SlicedGap& beside = gap.sliced.emplace();
      beside.samples = std::min(options.samples, most_sliced);
      beside.noise_floor = *truth.sliced_noise_floor;
      beside.ode_sde = sliced_w2_squared(context, gap.ode, gap.sde);
      progress(share + (1 - share) / 3);
      beside.ode_truth = sliced_w2_squared(context, gap.ode, truth.law);
      progress(share + (1 - share) * 2 / 3);
      beside.sde_truth = sliced_w2_squared(context, gap.sde, truth.law);
    }
  } else {
    gap.ode_sde = w2_squared(context, gap.ode, gap.sde);
    gap.ode_truth = w2_squared(context, gap.ode, truth.law);
    gap.sde_truth = w2_squared(context, gap.sde, truth.law);
  }
  gap.distance_seconds = seconds_since(start);
  return gap;
}

std::vector<EtaLaw> gap_along_eta(const Context& context, const Model& model, const GroundTruth& truth,
                                  const EmpiricalLaw& ode, const TimeGrid& grid, const std::vector<double>& etas,
                                  const GapOptions& options) {
  options.validate();
  check_truth(model, truth, options.box);
  if (ode.dimension != truth.law.dimension || (ode.histogram && ode.histogram->grid != options.box)) {
    throw Error("the probability flow's law has another dimension or grid than the gap's; they must be the same");
  }
  SampleOptions path{.seed = options.seed};
  for (const double eta : etas) {
    path.eta = eta;
    path.validate();
  }
  const Sampler sampler(context, model, grid);
  std::vector<EtaLaw> laws;
  for (const double eta : etas) {
    path.eta = eta;
    path.progress = [&](std::int64_t done, std::int64_t all) {
      if (!options.progress) return;
      options.progress(GapStage::sde_samples, (double(laws.size()) + double(done) / double(all)) / double(etas.size()));
    };
    const Clock::time_point start = Clock::now();
    Buffer<float> samples(context, options.samples, model.dimension());
    if (options.draw) {
      options.draw(samples.view(), path);
    } else {
      sampler.sample(samples.view(), path);
    }
    context.synchronize();
    EtaLaw of{.eta = eta};
    of.seconds = seconds_since(start);
    of.law = empirical_law(context, std::move(samples), options.box, truth.far);
    of.ode = w2_squared(context, ode, of.law);
    of.truth = w2_squared(context, of.law, truth.law);
    of.law.samples = {};  // of all η they would take K times the memory
    laws.push_back(std::move(of));
  }
  return laws;
}

SamplerGap measure_gap(const Context& context, const Model& model, const DataSet& data, const TimeGrid& grid,
                       const GapOptions& options) {
  if (model.dimension() != data.dimension()) {
    throw Error(fmt::format("the model has dimension {} and the data {}; they must be the same", model.dimension(),
                            data.dimension()));
  }
  return measure_gap(context, model, ground_truth(context, data, options), grid, options);
}

}  // namespace fokker
