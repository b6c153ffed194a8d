#include "measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <future>
#include <iterator>
#include <limits>
#include <set>
#include <utility>

#include "console.hpp"
#include "fokker/formulas/draws.hpp"

namespace fokker::tools {

namespace {

// [n, d]: the noise of points 0 … n − 1 given their x_0.
std::vector<float> denoising_noise(std::int64_t n, std::int64_t d, std::uint64_t seed, std::uint64_t step) {
  std::vector<float> z(static_cast<std::size_t>(n * d));
  for (std::int64_t i = 0; i < n; ++i) {
    draw_normals(z.data() + i * d, d, RandomUse::denoising, seed, static_cast<std::uint64_t>(i), step);
  }
  return z;
}

// Exact distances between weights on a grid, one a thread: the transport problems of one run are many, and each is the
// work of one thread. NaN where a side has no mass.
struct GridPair {
  const std::vector<double>*a, *b;
  Grid grid;
};
std::vector<Distance> distances_on_grids(const Context& context, const std::vector<GridPair>& pairs,
                                         const FractionDone& progress) {
  const auto massless = [](const std::vector<double>& weights) {
    return std::all_of(weights.begin(), weights.end(), [](double w) { return w == 0; });
  };
  std::vector<Distance> distances(pairs.size());
  std::atomic<std::size_t> next = 0;
  const auto work = [&](bool reports) {
    for (std::size_t i; (i = next++) < pairs.size();) {
      const auto& [a, b, grid] = pairs[i];
      if (massless(*a) || massless(*b)) {
        constexpr double none = std::numeric_limits<double>::quiet_NaN();
        distances[i] = {none, none};
      } else {
        const TransportResult result = w2_squared(*a, *b, grid);
        distances[i] = {result.w2_squared, result.certificate_gap()};
      }
      if (reports) progress(double(std::min<std::size_t>(next, pairs.size())) / double(pairs.size()));
    }
  };
  std::vector<std::future<void>> others;
  for (int t = 1; t < std::min<int>(context.threads(), int(pairs.size())); ++t) {
    others.push_back(std::async(std::launch::async, work, false));
  }
  work(true);
  for (std::future<void>& other : others) other.get();
  return distances;
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

Cloud Cloud::of(const Context& context, Buffer<float> samples) {
  Cloud cloud;
  const std::int64_t n = samples.rows(), d = samples.columns();
  cloud.dimension = d;
  if (d == 2) return Cloud::of(fokker::histogram(context, samples.view()));
  cloud.escaped = n == 0 ? 0 : double(count_escaped(context, samples.view())) / double(n);
  cloud.samples = std::move(samples);
  return cloud;
}

Cloud Cloud::of(Histogram histogram) {
  Cloud cloud;
  cloud.escaped = histogram.escaped();
  cloud.histogram = std::move(histogram);
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
  SampleOptions options{.scheme = scheme, .seed = seed};
  if (progress) options.progress = [&](std::int64_t done, std::int64_t all) { progress(double(done) / double(all)); };
  Sampler(context, model, grid).sample(samples.view(), options);
  return samples;
}

Truth measure_truth(const Context& context, const DataSet& data, const GapOptions& options) {
  Buffer<float> samples(context, options.samples, data.dimension());
  data.draw(context, samples.view(), options.seed, 0, ReservedStep::truth);
  return {Cloud::of(context, std::move(samples)), noise_floor(context, data, options.samples, options.seed)};
}

std::vector<std::int32_t> steps_along_the_way(const TimeGrid& grid) {
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

std::vector<double> noise_floors_along_the_way(const Context& context, const ForwardSde& sde, const DataSet& data,
                                               const GapOptions& options) {
  const TimeGrid grid = TimeGrid::parse(options.grid, sde);
  const std::vector<std::int32_t> steps = steps_along_the_way(grid);
  const std::int64_t n = options.samples;
  std::vector<Histogram> marginals[2];
  for (const int side : {0, 1}) {
    const std::uint64_t step = side == 0 ? ReservedStep::first_marginal : ReservedStep::second_marginal;
    Buffer<float> there(context, n, 2);
    data.draw(context, there.view(), options.seed, 0, step);
    const std::vector<float> x_0 = to_host(context, there.view()), z = denoising_noise(n, 2, options.seed, step);
    std::vector<float> x(x_0.size());
    for (const std::int32_t at : steps) {
      const SdeCoefficients<double> sde_at = sde.at(grid.times()[at]);
      const float mean = float(sde_at.mean), deviation = float(std::sqrt(sde_at.variance));
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = mean * x_0[i] + deviation * z[i];
      copy(context, View<const float>(x.data(), n, 2), there.view());
      marginals[side].push_back(histogram(context, there.view()));  // waits, so that x may be overwritten
    }
  }
  std::vector<GridPair> pairs;
  for (std::size_t k = 0; k < steps.size(); ++k) {
    pairs.push_back({&marginals[0][k].weights, &marginals[1][k].weights, Grid{}});
  }
  std::vector<double> floors;
  for (const Distance& distance : distances_on_grids(context, pairs, [](double) {})) floors.push_back(distance.value);
  return floors;
}

std::vector<std::vector<double>> potential_on_grid(const Context& context, const Model& model,
                                                   const std::vector<double>& times, const Grid& grid) {
  // Cells of the box, `parts` to a spacing, so that nodes at its edge have half the cells of others.
  constexpr std::int64_t parts = 4;
  const std::int64_t side = parts * (grid.n - 1);
  std::vector<float> x(static_cast<std::size_t>(2 * side * side));
  const auto coordinate = [&](std::int64_t i) {
    return float(-grid.half_width + (double(i) + 0.5) / double(parts) * grid.spacing());
  };
  for (std::int64_t i = 0; i < side * side; ++i) {
    x[2 * i] = coordinate(i % side);
    x[2 * i + 1] = coordinate(i / side);
  }
  const Buffer<float> points = to_device(context, x, 2);
  Buffer<float> values(context, side * side);
  const Fields<float> fields(context, model);
  std::vector<std::vector<double>> laws;
  for (const double t : times) {
    const Buffer<float> time = to_device(context, {float(t)}, 1);
    FieldOutputs<float> outputs;
    outputs.value = values.view();
    fields.evaluate({time.view(), points.view()}, outputs);
    const std::vector<float> phi = to_host(context, values.view());
    const double highest = *std::max_element(phi.begin(), phi.end());
    std::vector<double> weights(static_cast<std::size_t>(grid.n * grid.n));
    const auto node = [&](std::int64_t i) { return (i + parts / 2) / parts; };
    double sum = 0;
    for (std::int64_t i = 0; i < side * side; ++i) {
      const double mass = std::exp(phi[i] - highest);
      weights[grid.n * node(i / side) + node(i % side)] += mass;
      sum += mass;
    }
    for (double& weight : weights) weight = std::isfinite(sum) ? weight / sum : 0;
    laws.push_back(std::move(weights));
  }
  return laws;
}

double denoising_loss(const Context& context, const Model& model, const DataSet& data, std::uint64_t seed) {
  const std::int64_t n = std::int64_t{1} << 18, d = model.dimension();
  const ForwardSde& sde = model.sde;
  Buffer<float> there(context, n, d), score_there(context, n, d);
  data.draw(context, there.view(), seed, 0, ReservedStep::held_out_loss);
  std::vector<float> x = to_host(context, there.view()), times(n);
  const std::vector<float> z = denoising_noise(n, d, seed, ReservedStep::held_out_loss);
  const double span = sde.horizon() - sde.t_min(), log_ratio = std::log(sde.horizon() / sde.t_min());
  for (std::int64_t i = 0; i < n; ++i) {
    double u;
    draw_uniforms(&u, 1, RandomUse::time, seed, static_cast<std::uint64_t>(i), ReservedStep::held_out_loss);
    u = (double(i) + u) / double(n);
    times[i] = float(sde.t_min() * std::exp(u * log_ratio));
    const SdeCoefficients<double> at = sde.at(double(times[i]));
    const double deviation = std::sqrt(at.variance);
    for (std::int64_t j = i * d; j < (i + 1) * d; ++j) x[j] = float(at.mean * x[j] + deviation * z[j]);
  }
  copy(context, View<const float>(x.data(), n, d), there.view());
  const Buffer<float> times_there = to_device(context, times, 1);
  FieldOutputs<float> outputs;
  outputs.score = score_there.view();
  Fields<float>(context, model).evaluate({times_there.view(), there.view()}, outputs);
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

namespace {

// Samples of one part, at first and as long as the time one takes does not say otherwise.
constexpr std::int64_t first_part = 16384;
constexpr double short_part = 5, long_part = 15;  // seconds

// Adds the counts, which are the weights times their sum.
void add(Histogram& sum, const Histogram& part) {
  const double before = double(sum.inside), added = double(part.inside);
  sum.inside += part.inside;
  sum.outside += part.outside;
  if (sum.inside == 0) return;
  for (std::size_t i = 0; i < sum.weights.size(); ++i) {
    sum.weights[i] = (std::round(sum.weights[i] * before) + std::round(part.weights[i] * added)) / double(sum.inside);
  }
}

// The first `done` samples of one sampler: in the plane their histograms, elsewhere themselves.
struct Drawn {
  std::int64_t done = 0;
  double seconds = 0;
  std::vector<Histogram> histograms;
  Buffer<float> samples;  // [N, d]
};

// Both samplers' samples of one gap.
class GapSamples {
 public:
  // way_steps: as SampleOptions::snapshot_steps. The histograms are on `grids`, of the samples, then on the first grid
  // of the states at each of way_steps.
  GapSamples(const Context& context, const Model& model, const TimeGrid& grid, const GapOptions& options,
             std::vector<Grid> grids, std::vector<std::int32_t> way_steps, KeptWork kept)
      : context_(context),
        sampler_(context, model, grid),
        n_(options.samples),
        d_(model.dimension()),
        seed_(options.seed),
        grids_(std::move(grids)),
        way_steps_(std::move(way_steps)),
        kept_(std::move(kept)) {
    for (Drawn& drawn : drawn_) {
      if (d_ != 2) {
        drawn.samples = Buffer<float>(context, n_, d_);
        continue;
      }
      for (std::size_t k = 0; k < grids_.size() + way_steps_.size(); ++k) {
        const Grid& on = grids_[k < grids_.size() ? k : 0];
        drawn.histograms.push_back({.grid = on, .weights = std::vector<double>(on.n * on.n, 0.0)});
      }
    }
    const std::optional<SafeTensors> file = kept_.load();
    if (!file) return;
    try {
      take(*file);
    } catch (const Error& error) {
      throw kept_.unusable(error.what());
    }
  }

  // Those of sampler 0 or 1.
  const Drawn& draw(int sampler, Scheme scheme, const StepBegins& step) {
    Drawn& drawn = drawn_[sampler];
    const auto fraction = [&](std::int64_t done) { return n_ == 0 ? 1.0 : double(done) / double(n_); };
    const FractionDone progress = step(sampler, fraction(drawn.done));
    // By time only where a part is kept: of a wide network on CUDA a sample's bits depend on how many are drawn with
    // it.
    std::int64_t part = kept_.file.empty() ? n_ : first_part;
    Stopwatch since_save;
    while (drawn.done < n_) {
      const Stopwatch clock;
      const std::int64_t first = drawn.done, count = std::min(part, n_ - first);
      draw_part(drawn, scheme, count, [&](double done) { progress(fraction(first) + done * fraction(count)); });
      drawn.done += count;
      drawn.seconds += clock.seconds();
      progress(fraction(drawn.done));
      if (clock.seconds() < short_part) part *= 2;
      if (clock.seconds() > long_part) part = std::max<std::int64_t>(part / 2, 1);
      if (kept_.file.empty()) continue;
      if (since_save.seconds() < kept_.seconds_between_saves && drawn.done < n_) continue;
      keep();
      since_save = {};
    }
    return drawn;
  }

  // To be called after draw(), once.
  Cloud cloud(int sampler) {
    Drawn& drawn = drawn_[sampler];
    if (d_ != 2) return Cloud::of(context_, std::move(drawn.samples));
    return Cloud::of(drawn.histograms.front());
  }

 private:
  void draw_part(Drawn& drawn, Scheme scheme, std::int64_t count, const FractionDone& progress) const {
    Buffer<float> part, states(context_, std::ssize(way_steps_) * count, d_);
    if (d_ == 2) part = Buffer<float>(context_, count, d_);
    const View<float> out = d_ == 2 ? part.view() : rows(drawn, drawn.done, count);
    SampleOptions options{.scheme = scheme,
                          .seed = seed_,
                          .first_index = static_cast<std::uint64_t>(drawn.done),
                          .snapshot_steps = way_steps_,
                          .snapshots = states.view()};
    options.progress = [&](std::int64_t done, std::int64_t all) { progress(double(done) / double(all)); };
    sampler_.sample(out, options);
    context_.synchronize();
    for (std::size_t k = 0; k < drawn.histograms.size(); ++k) {
      const std::int64_t at = std::int64_t(k) - std::ssize(grids_);
      const View<const float> points =
          at < 0 ? View<const float>(out)
                 : View<const float>(states.data() + at * count * d_, count, d_, context_.device());
      add(drawn.histograms[k], histogram(context_, points, drawn.histograms[k].grid));
    }
  }

  View<float> rows(Drawn& drawn, std::int64_t first, std::int64_t count) const {
    return {drawn.samples.data() + first * d_, count, d_, context_.device()};
  }

  // For each sampler its progress [2] (samples, seconds) and the histograms [n² + 2] (weights, inside, outside) or the
  // samples [done, d].
  void keep() {
    SafeTensors file;
    for (int sampler = 0; sampler < 2; ++sampler) {
      Drawn& drawn = drawn_[sampler];
      const double progress[] = {double(drawn.done), drawn.seconds};
      file.tensors[name("progress", sampler)] = Tensor::from_double({2}, progress);
      for (std::size_t k = 0; k < drawn.histograms.size(); ++k) {
        const Histogram& histogram = drawn.histograms[k];
        std::vector<double> numbers = histogram.weights;
        numbers.insert(numbers.end(), {double(histogram.inside), double(histogram.outside)});
        file.tensors[name("histogram", sampler, k)] = Tensor::from_double({std::ssize(numbers)}, numbers.data());
      }
      if (d_ == 2) continue;
      const std::vector<float> samples = to_host(context_, rows(drawn, 0, drawn.done));
      file.tensors[name("samples", sampler)] = Tensor::from_float({drawn.done, d_}, samples.data());
    }
    kept_.save(std::move(file));
  }

  void take(const SafeTensors& file) {
    for (int sampler = 0; sampler < 2; ++sampler) {
      Drawn& drawn = drawn_[sampler];
      const auto read = [&](const std::string& tensor, std::size_t size) {
        std::vector<double> numbers = file.at(tensor).to_double();
        if (numbers.size() == size) return numbers;
        throw Error(fmt::format("it has {} numbers in {}; allowed: {}", numbers.size(), tensor, size));
      };
      const std::vector<double> progress = read(name("progress", sampler), 2);
      if (!(progress[0] >= 0 && progress[0] <= double(n_))) {
        throw Error(
            fmt::format("it has {} samples in {}; allowed: 0 to {}", progress[0], name("progress", sampler), n_));
      }
      drawn.done = std::int64_t(progress[0]);
      drawn.seconds = progress[1];
      for (std::size_t k = 0; k < drawn.histograms.size(); ++k) {
        Histogram& histogram = drawn.histograms[k];
        const std::size_t nodes = histogram.weights.size();
        const std::vector<double> numbers = read(name("histogram", sampler, k), nodes + 2);
        std::copy_n(numbers.begin(), nodes, histogram.weights.begin());
        histogram.inside = std::int64_t(numbers[nodes]);
        histogram.outside = std::int64_t(numbers[nodes + 1]);
      }
      if (d_ == 2) continue;
      const std::vector<double> numbers = read(name("samples", sampler), std::size_t(drawn.done * d_));
      const std::vector<float> samples(numbers.begin(), numbers.end());
      copy(context_, View<const float>(samples.data(), drawn.done, d_), rows(drawn, 0, drawn.done));
      context_.synchronize();
    }
  }

  static std::string name(const char* what, int sampler, std::size_t number = 0) {
    return fmt::format("{}.{}.{}", sampler == 0 ? "sde" : "ode", what, number);
  }

  const Context& context_;
  Sampler sampler_;
  std::int64_t n_, d_;
  std::uint64_t seed_;
  std::vector<Grid> grids_;
  std::vector<std::int32_t> way_steps_;
  KeptWork kept_;
  Drawn drawn_[2];
};

}  // namespace

Gap measure_gap(const Context& context, const Model& model, const Truth& truth, const GapOptions& options,
                const StepBegins& step, const KeptWork& kept) {
  const std::int64_t d = model.dimension();
  if (d != truth.cloud.dimension) {
    throw Error(
        fmt::format("the model has dimension {} and the data {}; they must be the same", d, truth.cloud.dimension));
  }
  const TimeGrid grid = TimeGrid::parse(options.grid, model.sde);
  Gap gap;
  gap.precision = context.precision();
  const bool planar = d == 2, in_detail = planar && options.in_detail;
  AlongTheWay way;
  if (in_detail) {
    way.steps = steps_along_the_way(grid);
    for (const std::int32_t step_number : way.steps) way.times.push_back(grid.times()[step_number]);
  }
  const Grid fine{.n = 2 * Grid{}.n - 1};
  std::vector<Grid> grids{Grid{}};
  if (in_detail) grids.push_back(fine);
  GapSamples samples(context, model, grid, options, grids, way.steps, kept);
  const Drawn &sde_drawn = samples.draw(0, Scheme::euler_maruyama, step),
              &ode_drawn = samples.draw(1, options.ode_scheme, step);
  gap.sde_seconds = sde_drawn.seconds;
  gap.ode_seconds = ode_drawn.seconds;
  gap.sde = samples.cloud(0);
  gap.ode = samples.cloud(1);
  if (in_detail) {
    way.sde.assign(sde_drawn.histograms.begin() + std::ssize(grids), sde_drawn.histograms.end());
    way.ode.assign(ode_drawn.histograms.begin() + std::ssize(grids), ode_drawn.histograms.end());
  }

  const Stopwatch clock;
  const FractionDone progress = step(2, 0);
  if (planar) {
    // The longest first.
    std::vector<GridPair> pairs;
    if (in_detail) pairs.push_back({&ode_drawn.histograms[1].weights, &sde_drawn.histograms[1].weights, fine});
    const std::vector<double>&ode = gap.ode.histogram->weights, &sde = gap.sde.histogram->weights,
          &true_law = truth.cloud.histogram->weights;
    for (const auto& [a, b] : {std::pair(&ode, &sde), std::pair(&ode, &true_law), std::pair(&sde, &true_law)}) {
      pairs.push_back({a, b, Grid{}});
    }
    if (in_detail && model.output() == Output::potential) {
      way.potential = potential_on_grid(context, model, way.times);
      for (const double t : way.times) way.slopes.push_back(radial_slopes(context, model, t));
    }
    for (std::size_t k = 0; k < way.steps.size(); ++k) {
      pairs.push_back({&way.ode[k].weights, &way.sde[k].weights, Grid{}});
      if (way.potential.empty()) continue;
      pairs.push_back({&way.potential[k], &way.sde[k].weights, Grid{}});
      pairs.push_back({&way.potential[k], &way.ode[k].weights, Grid{}});
    }
    const std::vector<Distance> distances =
        distances_on_grids(context, pairs, [&](double done) { progress(0.9 * done); });
    auto next = distances.begin();
    if (in_detail) gap.ode_sde_at_half_spacing = *next++;
    gap.ode_sde = *next++;
    gap.ode_truth = *next++;
    gap.sde_truth = *next++;
    for (std::size_t k = 0; k < way.steps.size(); ++k) {
      way.ode_sde.push_back(*next++);
      if (way.potential.empty()) continue;
      way.potential_sde.push_back(*next++);
      way.potential_ode.push_back(*next++);
    }
    if (in_detail) gap.along_the_way = std::move(way);
  } else {
    gap.ode_sde = distance(context, gap.ode, gap.sde);
    gap.ode_truth = distance(context, gap.ode, truth.cloud);
    gap.sde_truth = distance(context, gap.sde, truth.cloud);
  }
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
  if (gap.ode_sde_at_half_spacing) {
    json["ode_sde_at_half_spacing"] = gap.ode_sde_at_half_spacing->value;
    // By extrapolation, linear in the spacing, to 0.
    json["grid_bias"] = 2 * (gap.ode_sde.value - gap.ode_sde_at_half_spacing->value);
  }
  if (gap.along_the_way) {
    const AlongTheWay& way = *gap.along_the_way;
    const auto values = [](const std::vector<Distance>& at_times) {
      Json array = Json::array();
      for (const Distance& distance : at_times) array.push_back(distance.value);
      return array;
    };
    const auto escaped = [](const std::vector<Histogram>& histograms) {
      Json array = Json::array();
      for (const Histogram& histogram : histograms) array.push_back(histogram.escaped());
      return array;
    };
    json["along_the_way"] = {{"steps", way.steps},
                             {"times", way.times},
                             {"w2_squared",
                              {{"ode_sde", values(way.ode_sde)},
                               {"potential_sde", values(way.potential_sde)},
                               {"potential_ode", values(way.potential_ode)}}},
                             {"escaped", {{"ode", escaped(way.ode)}, {"sde", escaped(way.sde)}}}};
    Json integrable = Json::array(), growing = Json::array();
    for (const RadialSlopes& slopes : way.slopes) {
      integrable.push_back(slopes.integrable);
      growing.push_back(slopes.share_growing);
    }
    json["along_the_way"]["potential_integrable"] = integrable;
    json["along_the_way"]["share_of_growing_directions"] = growing;
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
  if (!gap.along_the_way) return;
  const AlongTheWay& way = *gap.along_the_way;
  std::vector<float> laws;
  const auto add = [&](const std::vector<double>& weights) { laws.insert(laws.end(), weights.begin(), weights.end()); };
  for (const Histogram& histogram : way.sde) add(histogram.weights);
  for (const Histogram& histogram : way.ode) add(histogram.weights);
  for (const std::vector<double>& weights : way.potential) add(weights);
  const std::int64_t nodes = Grid{}.n * Grid{}.n;
  save_npy(fmt::format("{}/{}.npy", folder, way_file), {std::ssize(laws) / nodes, nodes}, laws.data());
}

}  // namespace fokker::tools
