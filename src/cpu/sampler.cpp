// Samples and log-densities along a time grid.
//
// Data path: a thread takes a block of samples through the whole grid before it takes the next, so no step waits for
// another thread, and beyond the samples themselves memory is a few blocks a thread. The block is small enough for its
// state, scores and noise to stay in cache beside the network's parameters. Coefficients of the SDE are computed in
// double once per stage of the grid, for all blocks.
//
// Cost: one score evaluation a stage, and for a scheme that draws noise d normals a step.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/parallel.hpp"
#include "cpu/backend.hpp"
#include "cpu/block_field.hpp"
#include "cpu/progress.hpp"
#include "cpu/random.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/integrator.hpp"
#include "operations/sampler_stages.hpp"

namespace fokker::cpu {
namespace {

// A larger block amortises calls, a smaller one balances threads and stays in cache.
constexpr std::int64_t largest_block = 512, blocks_per_thread = 16;

// A thread's own memory.
struct Workspace {
  std::unique_ptr<Scratch> field;
  std::vector<float> inputs, score, normal, state, stage_state, slope, sum, divergence;
  std::vector<double> log_density;
  const float* condition = nullptr;  // of the block's points
  bool embedded = false;             // by the field
};

class CpuSampler final : public SampleOperator {
 public:
  CpuSampler(const Model& model, const TimeGrid& grid, int threads)
      : sde_(model.sde),
        times_(grid.times()),
        forms_(model),
        field_(make_network_field<float>(model)),
        d_(field_->dimension()),
        workspaces_(threads) {}

  void sample(View<float> samples, const SampleOptions& options, bool draw_prior) override {
    const bool stochastic = is_stochastic(options.scheme);
    std::vector<Stage> stages = stages_of(sde_, forms_, times_, Stepping(options));
    const int per_step = stages_per_step(options.scheme);
    if (!options.noise_in_last_step) stages.back().coefficients.noise = 0;
    const float prior_deviation = static_cast<float>(std::sqrt(sde_.prior_variance()));
    Progress progress(options.progress, samples.rows);
    if (samples.rows == 0) return progress.finished(0);
    for_blocks(samples.rows, [&](std::int64_t first, std::int64_t n, Workspace& w) {
      float* x = samples.data + first * d_;
      const std::uint64_t index = options.first_index + static_cast<std::uint64_t>(first);
      w.condition = rows(options.condition, first), w.embedded = false;
      if (draw_prior) {
        draw_point_normals(x, n, static_cast<int>(d_), options.seed, index, RandomUse::prior, 0, prior_deviation);
      }
      // After so many steps the state goes to the snapshot that asks for it.
      const auto after_step = [&](std::int64_t done) {
        const auto& asked = options.snapshot_steps;
        const auto at = std::lower_bound(asked.begin(), asked.end(), done);
        if (at == asked.end() || *at != done) return;
        std::copy_n(x, n * d_, options.snapshots.data + ((at - asked.begin()) * samples.rows + first) * d_);
      };
      after_step(0);
      if (stochastic) {
        stochastic_path(stages, options.seed, index, x, n, w, after_step);
      } else {
        flow_path(stages, per_step, Divergence{}, index, x, n, nullptr, w, after_step);
      }
      progress.finished(n);
    });
  }

  // log p(x, t_end) = log p_T(x_T) + ∫ ∇·(a x − ½ g² s) dt from t_end to T along the flow.
  void log_density(View<const float> x, View<float> log_density, Scheme scheme, const Divergence& divergence,
                   const PointsFinished& report, View<const float> condition) override {
    const std::vector<Stage> stages = stages_of(sde_, forms_, {times_.rbegin(), times_.rend()}, Stepping(scheme));
    const int per_step = stages_per_step(scheme);
    const double variance = sde_.prior_variance();
    const double log_norm = prior_log_norm(d_, variance);
    Progress progress(report, x.rows);
    for_blocks(x.rows, [&](std::int64_t first, std::int64_t n, Workspace& w) {
      w.condition = rows(condition, first), w.embedded = false;
      reserve(w.state, n * d_);
      reserve(w.log_density, n);
      float* state = w.state.data();
      std::copy_n(x.data + first * d_, n * d_, state);
      std::fill_n(w.log_density.begin(), n, 0.0);
      flow_path(stages, per_step, divergence, divergence.first_index + static_cast<std::uint64_t>(first), state, n,
                w.log_density.data(), w, [](std::int64_t) {});
      for (std::int64_t i = 0; i < n; ++i) {
        double square = 0;
        for (std::int64_t j = 0; j < d_; ++j) square += static_cast<double>(state[i * d_ + j]) * state[i * d_ + j];
        log_density.data[first + i] =
            static_cast<float>(log_norm - square / (2 * variance) + w.log_density[static_cast<std::size_t>(i)]);
      }
      progress.finished(n);
    });
  }

 private:
  template <class T>
  static void reserve(std::vector<T>& v, std::int64_t size) {
    if (v.size() < static_cast<std::size_t>(size)) v.resize(static_cast<std::size_t>(size));
  }

  static const float* rows(View<const float> view, std::int64_t first) {
    return view ? view.data + first * view.columns : nullptr;
  }

  // body(first, n, workspace) for blocks of points.
  template <class Body>
  void for_blocks(std::int64_t points, Body&& body) {
    const std::int64_t unit = field_->block_size();
    const std::int64_t largest = std::max<std::int64_t>(largest_block / unit, 1);
    const std::int64_t fair = points / (unit * blocks_per_thread * static_cast<std::int64_t>(workspaces_.size()));
    const std::int64_t block = unit * std::clamp<std::int64_t>(fair, 1, largest);
    parallel_for(static_cast<int>(workspaces_.size()), (points + block - 1) / block,
                 [&](std::int64_t item, int thread) {
                   Workspace& w = workspaces_[static_cast<std::size_t>(thread)];
                   if (!w.field) w.field = field_->make_scratch();
                   body(item * block, std::min(block, points - item * block), w);
                 });
  }

  // The network's fields at (time, in · x) of the stage.
  void evaluate(const Stage& stage, const float* x, std::int64_t n, std::uint64_t index,
                const BlockOutputs<float>& outputs, const Divergence& divergence, Workspace& w) const {
    if (stage.in != 1) {
      reserve(w.inputs, n * d_);
      for (std::int64_t i = 0; i < n * d_; ++i) w.inputs[static_cast<std::size_t>(i)] = stage.in * x[i];
      x = w.inputs.data();
    }
    field_->evaluate({&stage.time, 0, x, n, index, w.condition, w.embedded}, outputs, divergence, *w.field);
    w.embedded = true;
  }

  // after_step(k): k steps are done.
  template <class AfterStep>
  void stochastic_path(const std::vector<Stage>& stages, std::uint64_t seed, std::uint64_t index, float* x,
                       std::int64_t n, Workspace& w, const AfterStep& after_step) const {
    const std::int64_t size = n * d_;
    reserve(w.score, size);
    reserve(w.normal, size);
    float *const score = w.score.data(), *const normal = w.normal.data();
    for (std::size_t step = 0; step < stages.size(); ++step) {
      const Stage& stage = stages[step];
      const StepCoefficients<float> c = stage.coefficients;
      evaluate(stage, x, n, index, {.score = score}, {}, w);
      if (c.noise == 0) {
        for (std::int64_t i = 0; i < size; ++i) x[i] += increment(c, x[i], score[i]);
      } else {
        draw_point_normals(normal, n, static_cast<int>(d_), seed, index, RandomUse::noise, step);
        for (std::int64_t i = 0; i < size; ++i) x[i] = euler_maruyama(c, x[i], score[i], normal[i]);
      }
      after_step(static_cast<std::int64_t>(step) + 1);
    }
  }

  // Adds ∫ ∇·(a x − ½ g² s) dt of every point to log_density [n], where wanted.
  template <class AfterStep>
  void flow_path(const std::vector<Stage>& stages, int per_step, const Divergence& divergence, std::uint64_t index,
                 float* x, std::int64_t n, double* log_density, Workspace& w, const AfterStep& after_step) const {
    const std::int64_t size = n * d_;
    reserve(w.score, size);
    reserve(w.slope, size);
    reserve(w.sum, size);
    reserve(w.stage_state, size);
    if (log_density) reserve(w.divergence, n);
    float *const score = w.score.data(), *const slope = w.slope.data(), *const sum = w.sum.data();
    float* const stage_state = w.stage_state.data();
    float* const trace = log_density ? w.divergence.data() : nullptr;
    for (std::size_t first = 0; first < stages.size(); first += static_cast<std::size_t>(per_step)) {
      for (int i = 0; i < per_step; ++i) {
        const Stage& stage = stages[first + static_cast<std::size_t>(i)];
        const StepCoefficients<float> c = stage.coefficients;
        if (i > 0) {
          for (std::int64_t j = 0; j < size; ++j) stage_state[j] = x[j] + stage.node * slope[j];
        }
        const float* state = i > 0 ? stage_state : x;
        evaluate(stage, state, n, index, {.score = score, .divergence = trace}, divergence, w);
        for (std::int64_t j = 0; j < size; ++j) {
          slope[j] = increment(c, state[j], score[j]);
          sum[j] = (i > 0 ? sum[j] : 0.0f) + stage.weight * slope[j];
        }
        for (std::int64_t p = 0; log_density && p < n; ++p) {
          log_density[p] +=
              static_cast<double>(stage.weight) * increment_divergence(stage, static_cast<int>(d_), trace[p]);
        }
      }
      for (std::int64_t j = 0; j < size; ++j) x[j] += sum[j];
      after_step(static_cast<std::int64_t>(first) / per_step + 1);
    }
  }

  ForwardSde sde_;
  std::vector<double> times_;
  SamplerForms forms_;
  std::unique_ptr<BlockField<float>> field_;
  std::int64_t d_;
  std::vector<Workspace> workspaces_;
};

}  // namespace

std::unique_ptr<SampleOperator> make_sampler(const Model& model, const TimeGrid& grid, int threads) {
  return std::make_unique<CpuSampler>(model, grid, threads);
}

}  // namespace fokker::cpu
