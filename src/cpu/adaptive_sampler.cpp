// Paths of the probability flow with steps of their own, and log-densities along them.
//
// Data path: a thread has a block of places. Every round it asks the network once for all paths that have one, each at
// the stage and the time where it stands, and a path that has ended leaves its place to the next one that waits, so that
// the block stays full; when none waits the last paths move together. What a path does depends on its own numbers alone,
// so neither its neighbours nor its place show in it.
//
// Cost: one evaluation of the network a stage, and for each of them the flow's coefficients at the path's own time.
#include "fokker/adaptive_sampler.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "core/parallel.hpp"
#include "cpu/backend.hpp"
#include "cpu/block_field.hpp"
#include "cpu/progress.hpp"
#include "cpu/random.hpp"
#include "fokker/formulas/adaptive.hpp"
#include "fokker/formulas/standardisation.hpp"
#include "operations/adaptive_rule.hpp"
#include "operations/sampler_stages.hpp"

namespace fokker::cpu {
namespace {

// A thread's own memory: rows of its places.
template <class T>
struct Workspace {
  std::unique_ptr<Scratch> field;
  std::vector<AdaptivePath> paths;
  std::vector<std::int64_t> samples;   // whose path it is
  std::vector<std::uint64_t> indices;  // of its probes
  std::vector<double> numbers;         // state, point and slopes
  std::vector<T> time, input, output, trace, condition;
  std::vector<float> normals;
};

template <class T>
class CpuAdaptiveSampler final : public AdaptiveOperator<T> {
 public:
  CpuAdaptiveSampler(const Model& model, const AdaptivePlan& plan, int threads)
      : sde_(model.sde),
        standardisation_(model.standardisation),
        along_(adaptive_rule<T>(model, plan, false)),
        back_(adaptive_rule<T>(model, plan, true)),
        field_(make_network_field<T>(model)),
        d_(field_->dimension()),
        workspaces_(static_cast<std::size_t>(threads)) {}

  AdaptiveReport sample(View<T> samples, const AdaptiveCall<T>& call, bool draw_prior) override {
    const float deviation = static_cast<float>(std::sqrt(sde_.prior_variance()));
    const auto begin = [&](std::int64_t i, const PathNumbers& n, Workspace<T>& w) {
      if (!draw_prior) return take(samples.data + i * d_, n);
      w.normals.resize(static_cast<std::size_t>(d_));
      draw_point_normals(w.normals.data(), 1, static_cast<int>(d_), call.seed,
                         call.first_index + static_cast<std::uint64_t>(i), RandomUse::prior, 0, deviation);
      for (int j = 0; j < d_; ++j) n.x(j) = static_cast<double>(w.normals[static_cast<std::size_t>(j)]);
    };
    const auto end = [&](std::int64_t i, const PathNumbers& n, bool reached) {
      for (int j = 0; j < d_; ++j) samples.data[i * d_ + j] = reached ? restored_number(n.x(j), j) : not_a_number;
    };
    return run(along_, samples.rows, call, nullptr, begin, end);
  }

  // log p(x, t_end) = log p_T(x_T) + ∫ ∇·v dt from t_end to T along the flow.
  AdaptiveReport log_density(View<const T> x, View<T> log_density, const Divergence& divergence,
                             const AdaptiveCall<T>& call) override {
    const double variance = sde_.prior_variance();
    const double constant = prior_log_norm(d_, variance) - standardisation_.log_volume();
    const auto begin = [&](std::int64_t i, const PathNumbers& n, Workspace<T>&) {
      take(x.data + i * d_, n);
      n.x(static_cast<int>(d_)) = 0;
    };
    const auto end = [&](std::int64_t i, const PathNumbers& n, bool reached) {
      double square = 0;
      for (int j = 0; j < d_; ++j) square += n.x(j) * n.x(j);
      log_density.data[i] =
          reached ? static_cast<T>(constant - square / (2 * variance) + n.x(static_cast<int>(d_))) : not_a_number;
    };
    return run(back_, x.rows, call, &divergence, begin, end);
  }

 private:
  static constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

  void take(const T* x, const PathNumbers& n) const {
    for (int j = 0; j < d_; ++j) {
      const double v = static_cast<double>(x[j]);
      const auto column = static_cast<std::size_t>(j);
      n.x(j) = standardisation_.empty()
                   ? v
                   : standardised(v, standardisation_.mean[column], standardisation_.deviation[column]);
    }
  }
  T restored_number(double z, int j) const {
    const auto column = static_cast<std::size_t>(j);
    return static_cast<T>(
        standardisation_.empty() ? z : restored(z, standardisation_.mean[column], standardisation_.deviation[column]));
  }

  // begin(sample, numbers, workspace) sets a state, end(sample, numbers, reached) takes it. divergence: of a log-density.
  template <class Begin, class End>
  AdaptiveReport run(const AdaptiveRule& rule, std::int64_t count, const AdaptiveCall<T>& call,
                     const Divergence* divergence, const Begin& begin, const End& end) {
    Progress progress(call.progress, count);
    if (count == 0) progress.finished(0);
    const auto threads = static_cast<std::int64_t>(workspaces_.size());
    const std::int64_t places = std::clamp<std::int64_t>((count + threads - 1) / threads, 1, field_->block_size());
    std::vector<AdaptiveReport> reports(workspaces_.size());
    std::atomic<std::int64_t> next{0};
    parallel_for(static_cast<int>(threads), std::min(threads, count), [&](std::int64_t, int thread) {
      const auto number = static_cast<std::size_t>(thread);
      try {
        work(rule, places, count, next, call, divergence, begin, end, progress, workspaces_[number], reports[number]);
      } catch (...) {
        next = count;  // the others take no more
        throw;
      }
    });
    AdaptiveReport all;
    for (const AdaptiveReport& report : reports) add(all, report);
    return all;
  }

  // A thread's part: paths until none waits.
  template <class Begin, class End>
  void work(const AdaptiveRule& rule, std::int64_t places, std::int64_t count, std::atomic<std::int64_t>& next,
            const AdaptiveCall<T>& call, const Divergence* divergence, const Begin& begin, const End& end,
            Progress& progress, Workspace<T>& w, AdaptiveReport& report) const {
    const std::int64_t conditions = call.condition ? call.condition.columns : 0,
                       row = std::int64_t{rule.components} * (2 + rule.tableau.stages);
    reserve(places, row, conditions, w);
    const auto numbers_at = [&](std::int64_t place) {
      double* const first = w.numbers.data() + place * row;
      return PathNumbers{first, first + rule.components, first + 2 * rule.components, 1, rule.components};
    };
    std::int64_t active = 0;
    bool same = false;  // whether all paths are where they were at the last evaluation
    for (;;) {
      for (; active < places; ++active) {
        const std::int64_t i = next.fetch_add(1);
        if (i >= count) break;
        const auto place = static_cast<std::size_t>(active);
        w.paths[place] = begin_path(rule);
        w.samples[place] = i;
        w.indices[place] = divergence ? divergence->first_index + static_cast<std::uint64_t>(i) : 0;
        begin(i, numbers_at(active), w);
        std::copy_n(call.condition.data + i * conditions, conditions, w.condition.data() + active * conditions);
        same = false;
      }
      if (active == 0) return;
      evaluate(rule, active, same, divergence, numbers_at, w);
      same = true;
      for (std::int64_t place = 0; place < active;) {
        const AdaptivePath& path = w.paths[static_cast<std::size_t>(place)];
        if (path.ended == PathEnd::none) {
          ++place;
          continue;
        }
        const std::int64_t i = w.samples[static_cast<std::size_t>(place)];
        end(i, numbers_at(place), path.ended == PathEnd::reached);
        add(report, i, report_of(path));
        if (!call.paths.empty()) call.paths[static_cast<std::size_t>(i)] = report_of(path);
        --active;
        same = false;
        const auto from = static_cast<std::size_t>(active), to = static_cast<std::size_t>(place);
        if (from != to) {
          w.paths[to] = w.paths[from], w.samples[to] = w.samples[from], w.indices[to] = w.indices[from];
          std::copy_n(w.numbers.data() + active * row, row, w.numbers.data() + place * row);
          std::copy_n(w.condition.data() + active * conditions, conditions, w.condition.data() + place * conditions);
        }
        progress.finished(1);
      }
    }
  }

  template <class NumbersAt>
  void evaluate(const AdaptiveRule& rule, std::int64_t active, bool same, const Divergence* divergence,
                const NumbersAt& numbers_at, Workspace<T>& w) const {
    for (std::int64_t place = 0; place < active; ++place) {
      AdaptivePath& path = w.paths[static_cast<std::size_t>(place)];
      const PathNumbers n = numbers_at(place);
      begin_evaluation(rule, path, n);
      w.time[static_cast<std::size_t>(place)] = static_cast<T>(path.at.time);
      T* const input = w.input.data() + place * d_;
      for (int j = 0; j < d_; ++j) input[j] = static_cast<T>(path.at.in * n.y(j));
    }
    BlockOutputs<T> outputs;
    outputs.score = w.output.data();
    if (divergence) outputs.divergence = w.trace.data();
    field_->evaluate({w.time.data(), 1, w.input.data(), active, 0, w.condition.empty() ? nullptr : w.condition.data(),
                      same, w.indices.data()},
                     outputs, divergence ? *divergence : Divergence{}, *w.field);
    for (std::int64_t place = 0; place < active; ++place) {
      end_evaluation(rule, w.paths[static_cast<std::size_t>(place)], numbers_at(place), w.output.data() + place * d_,
                     divergence ? w.trace[static_cast<std::size_t>(place)] : T(0));
    }
  }

  void reserve(std::int64_t places, std::int64_t row, std::int64_t conditions, Workspace<T>& w) const {
    const auto grow = [](auto& v, std::int64_t size) {
      if (v.size() < static_cast<std::size_t>(size)) v.resize(static_cast<std::size_t>(size));
    };
    if (!w.field) w.field = field_->make_scratch();
    grow(w.paths, places);
    grow(w.samples, places);
    grow(w.indices, places);
    grow(w.numbers, places * row);
    grow(w.time, places);
    grow(w.input, places * d_);
    grow(w.output, places * d_);
    grow(w.trace, places);
    grow(w.condition, places * conditions);
  }

  ForwardSde sde_;
  Standardisation standardisation_;
  AdaptiveRule along_, back_;  // their formulas point to the table of sde_, where it has one
  std::unique_ptr<BlockField<T>> field_;
  std::int64_t d_;
  std::vector<Workspace<T>> workspaces_;
};

}  // namespace

template <class T>
std::unique_ptr<AdaptiveOperator<T>> make_adaptive_sampler(const Model& model, const AdaptivePlan& plan, int threads) {
  return std::make_unique<CpuAdaptiveSampler<T>>(model, plan, threads);
}

template std::unique_ptr<AdaptiveOperator<float>> make_adaptive_sampler(const Model&, const AdaptivePlan&, int);
template std::unique_ptr<AdaptiveOperator<double>> make_adaptive_sampler(const Model&, const AdaptivePlan&, int);

}  // namespace fokker::cpu
