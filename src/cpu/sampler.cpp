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
  std::vector<float> inputs, score, normal, state, stage_state, sum, divergence;
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
    std::vector<Stage> stages = stages_of(sde_, forms_, times_, Stepping(options));
    if (!options.noise_in_last_step) drop_last_noise(stages, static_cast<int>(std::ssize(stages) / steps()));
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
      PathWork work{.seed = options.seed, .index = index};
      if (options.log_density) {  // the prior's less ∫ ∇·(dx/dt) dt along the path
        reserve(w.log_density, n);
        for (std::int64_t i = 0; i < n; ++i)
          w.log_density[static_cast<std::size_t>(i)] = -prior_log_density(x + i * d_);
        work.divergence = options.divergence;
        work.first_probe = options.divergence.first_index + static_cast<std::uint64_t>(first);
        work.log_density = w.log_density.data();
      }
      take_path(stages, work, x, n, w, after_step);
      for (std::int64_t i = 0; i < n && options.log_density; ++i) {
        options.log_density.data[first + i] = static_cast<float>(-w.log_density[static_cast<std::size_t>(i)]);
      }
      progress.finished(n);
    });
  }

  // log p(x, t_end) = log p_T(x_T) + ∫ ∇·(a x − ½ g² s) dt from t_end to T along the flow.
  void log_density(View<const float> x, View<float> log_density, Scheme scheme, const Divergence& divergence,
                   const PointsFinished& report, View<const float> condition) override {
    const std::vector<Stage> stages = stages_of(sde_, forms_, {times_.rbegin(), times_.rend()}, Stepping(scheme));
    Progress progress(report, x.rows);
    for_blocks(x.rows, [&](std::int64_t first, std::int64_t n, Workspace& w) {
      w.condition = rows(condition, first), w.embedded = false;
      reserve(w.state, n * d_);
      reserve(w.log_density, n);
      float* state = w.state.data();
      std::copy_n(x.data + first * d_, n * d_, state);
      std::fill_n(w.log_density.begin(), n, 0.0);
      take_path(stages,
                {.divergence = divergence,
                 .first_probe = divergence.first_index + static_cast<std::uint64_t>(first),
                 .log_density = w.log_density.data()},
                state, n, w, [](std::int64_t) {});
      for (std::int64_t i = 0; i < n; ++i) {
        log_density.data[first + i] =
            static_cast<float>(prior_log_density(state + i * d_) + w.log_density[static_cast<std::size_t>(i)]);
      }
      progress.finished(n);
    });
  }

 private:
  // log N(x; 0, prior_variance I), x [d].
  double prior_log_density(const float* x) const {
    double square = 0;
    for (std::int64_t j = 0; j < d_; ++j) square += static_cast<double>(x[j]) * x[j];
    return prior_log_norm(d_, sde_.prior_variance()) - square / (2 * sde_.prior_variance());
  }

  std::int64_t steps() const { return std::ssize(times_) - 1; }

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

  // What is not asked for is empty.
  struct PathWork {
    std::uint64_t seed = 0, index = 0;  // of the noise
    Divergence divergence = {};
    std::uint64_t first_probe = 0;
    double* log_density = nullptr;  // [n], to which ∫ ∇·(a x − ½ g² s) dt is added
  };

  // after_step(k): k steps are done.
  template <class AfterStep>
  void take_path(const std::vector<Stage>& stages, const PathWork& work, float* x, std::int64_t n, Workspace& w,
                 const AfterStep& after_step) const {
    const std::int64_t size = n * d_, per_step = std::ssize(stages) / steps();
    for (std::vector<float>* memory : {&w.score, &w.normal, &w.sum, &w.stage_state}) reserve(*memory, size);
    if (work.log_density) reserve(w.divergence, n);
    float *const output = w.score.data(), *const normal = w.normal.data(), *const sum = w.sum.data();
    float* const y = w.stage_state.data();
    float* const trace = work.log_density ? w.divergence.data() : nullptr;
    std::copy_n(x, size, y);
    for (std::int64_t step = 0; step < steps(); ++step) {
      RandomUse drawn = RandomUse::prior;  // what the normals of this step are, once there are any
      const auto draw = [&](bool before_step) {
        const RandomUse use = before_step ? RandomUse::before_step : RandomUse::noise;
        if (std::exchange(drawn, use) == use) return;
        draw_point_normals(normal, n, static_cast<int>(d_), work.seed, work.index, use,
                           static_cast<std::uint64_t>(step));
      };
      for (std::int64_t k = 0; k < per_step; ++k) {
        const auto number = static_cast<std::size_t>(step * per_step + k);
        const Stage stage = stages[number];
        if (stage.lift_noise != 0) {
          draw(true);
          for (std::int64_t j = 0; j < size; ++j) x[j] += stage.lift * x[j] + stage.lift_noise * normal[j];
          std::copy_n(x, size, y);
        }
        evaluate(stage, y, n, work.first_probe, {.score = output, .divergence = trace}, work.divergence, w);
        if (stage.coefficients.noise != 0) draw(stage.before_step);
        const float next_node = stage.closes ? 0.0f : stages[number + 1].node;
        for (std::int64_t j = 0; j < size; ++j) take_stage(stage, next_node, output[j], normal[j], x[j], y[j], sum[j]);
        for (std::int64_t p = 0; work.log_density && p < n; ++p) {
          work.log_density[p] +=
              static_cast<double>(stage.weight) * increment_divergence(stage, static_cast<int>(d_), trace[p]);
        }
      }
      after_step(step + 1);
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
