// The energy in any dimension: samples x of p^S_t from the reverse SDE, and log u_t at x ± h v from forward paths that
// both points share, v a random vector of signs. E (v·∇ log u)² = |∇ log u|², so one direction a sample serves every d.
// The square of one noisy derivative would be too large by its variance; the product of two, from disjoint halves of
// the paths, is not. With v of length √d and a step of a thousandth of the noise's deviation, in double, neither
// truncation nor rounding of the difference shows.
//
// Z is E_{p^S} 1/u, and E_q of anything is an average over samples of p^S with weights 1/u. What a finite number of
// paths adds to the means of log u and 1/u is taken off to first order: −½ ε² and +ε², ε the relative error of u.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "diagnostics/energy.hpp"
#include "diagnostics/forward_paths.hpp"
#include "fokker/formulas/draws.hpp"
#include "fokker/sampler.hpp"

namespace fokker {
namespace {

constexpr int kBatches = 16;
constexpr double kStep = 1e-3;  // h of the differences, in standard deviations of the noise

// Sums over the samples of a batch at one time; weights of q are e^{log_weight − shift}.
struct Sums {
  double count = 0, energy = 0, log_u = 0, residual = 0, weight = 0, weight_squared = 0, weighted_residual = 0;

  void add(const Sums& other) {
    count += other.count, energy += other.energy, log_u += other.log_u, residual += other.residual;
    weight += other.weight, weight_squared += other.weight_squared, weighted_residual += other.weighted_residual;
  }
  EnergyMoments moments(double shift) const {
    return {energy / count, log_u / count, shift + std::log(weight / count), residual / count,
            weighted_residual / weight};
  }
};

// At one time, of the samples [n].
struct Values {
  std::vector<double> energy, log_u, log_weight;

  explicit Values(std::int64_t n) : energy(n), log_u(n), log_weight(n) {}

  // Sets the numbers of sample i from the weights of the paths from x − h v and x + h v.
  void take(std::int64_t i, const double* low, const double* high, std::int64_t paths, double h) {
    const std::int64_t half = paths / 2;
    double derivative[2];
    for (int part = 0; part < 2; ++part) {
      derivative[part] =
          (mean_of_weights(high + part * half, half).log_mean - mean_of_weights(low + part * half, half).log_mean) /
          (2 * h);
    }
    const WeightMean below = mean_of_weights(low, paths), above = mean_of_weights(high, paths);
    const double error =
        0.5 * (below.relative_error * below.relative_error + above.relative_error * above.relative_error);
    const double plain = 0.5 * (below.log_mean + above.log_mean);
    energy[i] = derivative[0] * derivative[1];
    log_u[i] = plain + 0.5 * error;
    log_weight[i] = -plain - error;
  }
  bool usable(std::int64_t i) const { return std::isfinite(energy[i]) && std::isfinite(log_u[i]); }

  // Largest log_weight of the samples that are used.
  double shift(const std::vector<bool>& used) const {
    double largest = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < used.size(); ++i) {
      if (used[i]) largest = std::max(largest, log_weight[i]);
    }
    return largest;
  }
  // [batches]
  std::vector<Sums> sums(const std::vector<bool>& used, const std::vector<double>& residual, double shift) const {
    std::vector<Sums> sums(kBatches);
    for (std::size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) continue;
      const double w = std::exp(log_weight[i] - shift);
      sums[i * kBatches / used.size()].add({1, energy[i], log_u[i], residual[i], w, w * w, w * residual[i]});
    }
    return sums;
  }
};

Sums sum_of(const std::vector<Sums>& batches, int left_out = -1) {
  Sums sum;
  for (int b = 0; b < kBatches; ++b) {
    if (b != left_out) sum.add(batches[b]);
  }
  return sum;
}

// [times][samples, d], at the steps of the grid; step 0 is T, where the law is the prior.
std::vector<std::vector<double>> draw(const Context& context, const Model& model, const TimeGrid& grid,
                                      const std::vector<std::int32_t>& steps, const EnergyOptions& options) {
  const std::int64_t n = options.samples, d = model.dimension(), size = n * d;
  SampleOptions sampling{.seed = options.seed, .noise_in_last_step = true};
  sampling.snapshot_steps.assign(steps.begin() + 1, steps.end());
  const std::int64_t stops = static_cast<std::int64_t>(sampling.snapshot_steps.size());
  Buffer<float> samples(context, n, d), snapshots(context, stops * n, d);
  sampling.snapshots = snapshots.view();
  Sampler(context, model, grid).sample(samples.view(), sampling);
  std::vector<float> states_on_host(stops * size);
  copy(context, snapshots.view(), View<float>(states_on_host, d));
  context.synchronize();
  std::vector<std::vector<double>> states{std::vector<double>(size)};
  const double deviation = std::sqrt(model.sde.prior_variance());
  for (std::int64_t i = 0; i < n; ++i) {
    draw_normals(states[0].data() + i * d, d, RandomUse::diagnostic, options.seed, static_cast<std::uint64_t>(i),
                 ReservedStep::prior);
  }
  for (double& x : states[0]) x *= deviation;
  for (std::int64_t k = 0; k < stops; ++k) {
    states.emplace_back(states_on_host.begin() + k * size, states_on_host.begin() + (k + 1) * size);
  }
  return states;
}

}  // namespace

EnergyMeasurement energy_by_paths(const Context& context, const Model& model, const TimeGrid& grid,
                                  const EnergyOptions& options) {
  const ForwardSde& sde = model.sde;
  const std::int64_t n = options.samples, d = model.dimension(), paths = options.paths;
  const int times = std::min(options.times, grid.steps() + 1);
  std::vector<std::int32_t> steps;
  for (int k = 0; k < times; ++k)
    steps.push_back(static_cast<std::int32_t>(std::int64_t{k} * grid.steps() / (times - 1)));
  const std::vector<std::vector<double>> states = draw(context, model, grid, steps, options);

  HostFields fields(context, model);
  ForwardPaths forward(context, model, options.path_steps, options.seed);
  EnergyMeasurement measured;
  measured.left_out.resize(kBatches);
  std::vector<double> residual(n), starts, weights, coarse, direction(d), pool;
  Values fine_values(n), coarse_values(n);
  std::vector<std::uint64_t> index;
  const std::int64_t group = std::clamp<std::int64_t>(ForwardPaths::rows_at_once / (2 * paths), 1, n);
  std::int64_t lost = 0;
  double least_effective = 1, least_time = 0, least_tail = std::numeric_limits<double>::infinity(), tail_time = 0;
  for (int k = 0; k < times; ++k) {
    const double t = std::min(grid.times()[steps[k]], sde.horizon());
    const std::vector<double>& x = states[k];
    fields.evaluate(t, x.data(), n, {.residual = residual.data()});
    const double h = kStep * std::sqrt(sde.at(t).variance + sde.at(sde.t_min()).variance);
    pool.clear();
    for (std::int64_t first = 0; first < n; first += group) {
      const std::int64_t count = std::min(group, n - first);
      starts.resize(count * 2 * paths * d), index.resize(count * 2 * paths);
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t sample = first + i;
        draw_uniforms(direction.data(), d, RandomUse::diagnostic, options.seed, static_cast<std::uint64_t>(sample),
                      ReservedStep::probe + static_cast<std::uint64_t>(k));
        for (std::int64_t side = 0; side < 2; ++side) {
          for (std::int64_t j = 0; j < paths; ++j) {
            const std::int64_t row = (i * 2 + side) * paths + j;
            index[row] = static_cast<std::uint64_t>(sample * paths + j);
            for (std::int64_t a = 0; a < d; ++a) {
              const double sign = (direction[a] < 0.5) == (side == 0) ? -1 : 1;
              starts[row * d + a] = x[sample * d + a] + sign * h;
            }
          }
        }
      }
      forward.run(t, starts, index, weights, coarse, [&](double done) {
        if (!options.progress) return;
        options.progress((double(k) + (double(first) + done * double(count)) / double(n)) / double(times));
      });
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t low = 2 * i * paths, high = low + paths;
        fine_values.take(first + i, weights.data() + low, weights.data() + high, paths, h);
        coarse_values.take(first + i, coarse.data() + low, coarse.data() + high, paths, h);
        append_over_median(weights.data() + low, paths, pool);
      }
    }
    // At T there are no paths.
    if (const double tail = k > 0 ? tail_index(pool) : least_tail; tail < least_tail) {
      least_tail = tail, tail_time = t;
    }
    // A sample that the sampler lost, or whose weights overflow, is left out and counted.
    std::vector<bool> used(n);
    for (std::int64_t i = 0; i < n; ++i) {
      used[i] = fine_values.usable(i) && coarse_values.usable(i) && std::isfinite(residual[i]);
      if (!used[i]) ++lost;
    }
    measured.times.push_back(t);
    const double shift = fine_values.shift(used), coarse_shift = coarse_values.shift(used);
    const std::vector<Sums> batches = fine_values.sums(used, residual, shift);
    const Sums all = sum_of(batches);
    measured.all.push_back(all.moments(shift));
    measured.coarse.push_back(sum_of(coarse_values.sums(used, residual, coarse_shift)).moments(coarse_shift));
    for (int b = 0; b < kBatches; ++b) measured.left_out[b].push_back(sum_of(batches, b).moments(shift));
    const double effective = all.weight * all.weight / (all.weight_squared * double(n));
    if (!(effective >= least_effective)) least_effective = effective, least_time = t;
  }
  if (lost > 0) {
    measured.faults.push_back(
        fmt::format("{} of {} samples at all times together were not finite and are left out", lost, n * times));
  }
  if (least_tail <= kHeavyTail) {
    measured.faults.push_back(
        fmt::format("at t = {:.4g} the largest weights of the paths fall off so slowly (tail index {:.2g}) that the "
                    "standard errors may not be trusted; they are likely too small",
                    tail_time, least_tail));
  }
  if (!(least_effective > 0.1)) {
    measured.normaliser_faults.push_back(
        fmt::format("the samples of p^S count as {:.3g} % of their number for q at t = {:.4g}: Z and what is made of "
                    "it rest on few of them",
                    100 * least_effective, least_time));
  }
  return measured;
}

}  // namespace fokker
