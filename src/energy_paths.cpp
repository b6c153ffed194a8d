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

#include "energy.hpp"
#include "fokker/sampler.hpp"
#include "forward_paths.hpp"

namespace fokker {
namespace {

constexpr int kBatches = 16;
constexpr double kStep = 1e-3;       // of a difference, in standard deviations of the noise
constexpr double kHeavyShare = 0.1;  // of the samples, before there is a warning

// Sums over the samples of a batch at one time; weights of q are e^{log_weight − shift}.
struct Sums {
  double count = 0, energy = 0, log_u = 0, residual = 0, weight = 0, weighted_residual = 0;

  void add(const Sums& other, double sign) {
    count += sign * other.count, energy += sign * other.energy, log_u += sign * other.log_u;
    residual += sign * other.residual, weight += sign * other.weight;
    weighted_residual += sign * other.weighted_residual;
  }
  // Appends the moments, and adds to the integrals over time, of which a time's share is `width`.
  void append_to(EnergySums& sums, double shift, double width) const {
    sums.moments.push_back({energy / count, log_u / count, shift + std::log(weight / count)});
    sums.work += width * residual / count;
    sums.work_of_q += width * weighted_residual / weight;
  }
};

// [times][samples, d], at the steps of the grid; step 0 is T, where the law is the prior.
std::vector<std::vector<double>> draw(const Context& context, const Model& model, const TimeGrid& grid,
                                      const std::vector<std::int32_t>& steps, const EnergyOptions& options) {
  const std::int64_t n = options.samples, d = model.dimension(), size = n * d;
  SampleOptions sampling{.seed = options.seed, .noise_in_last_step = true};
  sampling.snapshot_steps.assign(steps.begin() + 1, steps.end());
  const std::int64_t kept = static_cast<std::int64_t>(sampling.snapshot_steps.size());
  Buffer<float> samples(context, n, d), snapshots(context, kept * n, d);
  sampling.snapshots = snapshots.view();
  Sampler(context, model, grid).sample(samples.view(), sampling);
  std::vector<float> here(kept * size);
  copy(context, snapshots.view(), View<float>(here, d));
  context.synchronize();
  std::vector<std::vector<double>> states{std::vector<double>(size)};
  const double deviation = std::sqrt(model.sde.prior_variance());
  for (std::int64_t i = 0; i < n; ++i) {
    diagnostic_normals(states[0].data() + i * d, d, options.seed, static_cast<std::uint64_t>(i),
                       static_cast<std::uint64_t>(DiagnosticStep::prior));
  }
  for (double& x : states[0]) x *= deviation;
  for (std::int64_t k = 0; k < kept; ++k) states.emplace_back(here.begin() + k * size, here.begin() + (k + 1) * size);
  return states;
}

}  // namespace

EnergyMeasurement energy_by_paths(const Context& context, const Model& model, const TimeGrid& grid,
                                  const EnergyOptions& options) {
  const ForwardSde& sde = model.sde;
  const std::int64_t n = options.samples, d = model.dimension(), paths = options.paths, half = paths / 2;
  const int times = std::min(options.times, grid.steps() + 1);
  std::vector<std::int32_t> steps;
  for (int k = 0; k < times; ++k)
    steps.push_back(static_cast<std::int32_t>(std::int64_t{k} * grid.steps() / (times - 1)));
  const std::vector<std::vector<double>> states = draw(context, model, grid, steps, options);

  HostFields fields(context, model);
  ForwardPaths forward(context, model, options.path_steps, options.seed);
  EnergyMeasurement measured;
  measured.left_out.resize(kBatches);
  std::vector<double> residual(n), starts, weights, coarse, log_weight(n), derivative(2), direction(d);
  std::vector<std::uint64_t> index;
  const std::int64_t group = std::clamp<std::int64_t>(ForwardPaths::rows_at_once / (2 * paths), 1, n);
  std::int64_t lost = 0, heavy = 0, asked = 0;
  double least_effective = 1, least_time = 0;
  for (int k = 0; k < times; ++k) {
    const double t = std::min(grid.times()[steps[k]], sde.horizon);
    const std::vector<double>& x = states[k];
    fields.evaluate(t, x.data(), n, {.residual = residual.data()});
    const double h = kStep * std::sqrt(sde.at(t).variance + sde.at(sde.t_min).variance);
    std::vector<Sums> sums(kBatches);
    std::vector<double> energy(n), log_u(n);
    for (std::int64_t first = 0; first < n; first += group) {
      const std::int64_t count = std::min(group, n - first);
      starts.resize(count * 2 * paths * d), index.resize(count * 2 * paths);
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t sample = first + i;
        diagnostic_uniforms(direction.data(), d, options.seed, static_cast<std::uint64_t>(sample),
                            static_cast<std::uint64_t>(DiagnosticStep::probe) + static_cast<std::uint64_t>(k));
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
        const double *low = weights.data() + 2 * i * paths, *high = low + paths;
        const WeightMean below = mean_of_weights(low, paths), above = mean_of_weights(high, paths);
        for (int part = 0; part < 2; ++part) {
          derivative[part] =
              (mean_of_weights(high + part * half, half).log_mean - mean_of_weights(low + part * half, half).log_mean) /
              (2 * h);
        }
        const double error =
            0.5 * (below.relative_error * below.relative_error + above.relative_error * above.relative_error);
        const double plain = 0.5 * (below.log_mean + above.log_mean);
        energy[first + i] = derivative[0] * derivative[1];
        log_u[first + i] = plain + 0.5 * error;
        log_weight[first + i] = -plain - error;
        if (k > 0) ++asked, heavy += !(below.tail_index > 2);
      }
    }
    // A sample that the sampler lost, or whose weights overflow, is left out and counted.
    double shift = -std::numeric_limits<double>::infinity();
    const auto usable = [&](std::int64_t i) {
      return std::isfinite(energy[i]) && std::isfinite(log_u[i]) && std::isfinite(residual[i]);
    };
    for (std::int64_t i = 0; i < n; ++i) {
      if (usable(i)) shift = std::max(shift, log_weight[i]);
    }
    Sums all;
    double square = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      if (!usable(i)) {
        ++lost;
        continue;
      }
      const double w = std::exp(log_weight[i] - shift);
      sums[i * kBatches / n].add({1, energy[i], log_u[i], residual[i], w, w * residual[i]}, 1);
      square += w * w;
    }
    for (const Sums& batch : sums) all.add(batch, 1);
    measured.times.push_back(t);
    // The trapezoidal rule.
    const double width =
        0.5 * (grid.times()[steps[std::max(k - 1, 0)]] - grid.times()[steps[std::min(k + 1, times - 1)]]);
    all.append_to(measured.all, shift, width);
    for (int b = 0; b < kBatches; ++b) {
      Sums without;
      for (int other = 0; other < kBatches; ++other) {
        if (other != b) without.add(sums[other], 1);
      }
      without.append_to(measured.left_out[b], shift, width);
    }
    const double effective = all.weight * all.weight / (square * double(n));
    if (!(effective >= least_effective)) least_effective = effective, least_time = t;
  }
  if (lost > 0) {
    measured.warnings.push_back(
        fmt::format("{} of {} samples at all times together were not finite and are left out", lost, n * times));
  }
  if (double(heavy) > kHeavyShare * double(asked)) {
    measured.warnings.push_back(
        fmt::format("the weights of the paths have heavy tails at {:.3g} % of the samples: their variance looks "
                    "infinite, and the errors given are too small",
                    100 * double(heavy) / double(asked)));
  }
  if (!(least_effective > 0.1)) {
    measured.normaliser_warnings.push_back(
        fmt::format("the samples of p^S count as {:.3g} % of their number for q at t = {:.4g}: Z and what is made of "
                    "it rest on few of them",
                    100 * least_effective, least_time));
  }
  return measured;
}

}  // namespace fokker
