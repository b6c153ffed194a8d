// Training on the CPU. One iteration k:
//   points   drawn chunk by chunk from (seed, k, point) on the thread, and into the cache, where the loss uses them:
//            t by the time law, x_0 by the data set, x_t = m x_0 + σ z, target ∇ log p(x_t | x_0) = −z/σ, or what
//            these are to a network in another form;
//            of a network that takes one the condition, which is the rest of the data's row, or 0 where it is dropped;
//            collocation points uniform on [t_min, T] × [−box, box]^d, and their probes, if any
//   sweeps   of the loss and its gradient (cpu/loss.hpp): all of the cost
//   update   norm, clipping, Adam and the average: one pass over the parameters each
// Nothing is remembered but TrainState, and nothing depends on the number of threads. Of several ranks each draws the
// points of its chunks and has the whole gradient of the sweeps (cpu/loss.hpp), and updates parameters of its own.
#include "fokker/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/rank_answers.hpp"
#include "cpu/backend.hpp"
#include "cpu/data.hpp"
#include "cpu/loss.hpp"
#include "cpu/random.hpp"
#include "fokker/formulas/train.hpp"
#include "operations/train_schedule.hpp"

namespace fokker::cpu {
namespace {

class CpuTrainer final : public TrainOperator {
 public:
  CpuTrainer(const Model& initial, const DataSet& data, const TrainOptions& options, int threads,
             const std::shared_ptr<Ranks>& ranks)
      : sde_(initial.sde),
        form_(initial.form()),
        d_(initial.dimension()),
        condition_(initial.condition()),
        data_(data),
        options_(options),
        ranks_(ranks),
        loss_(std::get<Mlp>(initial.network).architecture, initial.sde, threads, ranks) {
    edges_ = time_law_edges(sde_, options, time_cells);
    weight_rows_ = loss_weight_rows(options);
    weights_ = {static_cast<std::int32_t>(weight_rows_.size()), weight_rows_.data()};
    time_ = {options.time_law, static_cast<float>(sde_.t_min()), static_cast<float>(sde_.horizon()), time_cells,
             edges_.data()};
    const std::vector<double>& parameters = std::get<Mlp>(initial.network).parameters;
    state_.parameters.assign(parameters.begin(), parameters.end());
    state_.first_moment.assign(parameters.size(), 0.0f);
    state_.second_moment.assign(parameters.size(), 0.0f);
    gradient_.resize(parameters.size());
  }

  std::int64_t iteration() const override { return state_.iteration; }
  TrainState state() const override { return state_; }
  void restore(TrainState state) override { state_ = std::move(state); }
  Ranks& ranks() const { return *ranks_; }

  // The record, and whether its loss and gradient allow an update (largest_norm); without one nothing is changed.
  std::pair<TrainRecord, bool> iterate() {
    const std::int64_t k = state_.iteration;
    const std::int64_t collocation_points = options_.residual_weight > 0 ? options_.collocation_points : 0;
    const LossSums loss = loss_.evaluate(
        state_.parameters.data(), options_.denoising_points,
        [&](std::int64_t first, std::int64_t n, float* storage) { return denoising(k, first, n, storage); },
        collocation_points,
        [&](std::int64_t first, std::int64_t n, float* storage) { return collocation(k, first, n, storage); },
        options_.residual_weight, gradient_.data(),
        {.probes = collocation_points > 0 ? options_.residual_probes : 0,
         .law = options_.probe_law,
         .seed = probe_seed(options_.seed, static_cast<std::uint64_t>(k))});

    double square = 0;
    for (const float g : gradient_) square += double{g} * double{g};
    const double norm = std::sqrt(square), total = loss.denoising + options_.residual_weight * loss.residual;
    const double clip = options_.clip_norm > 0 && norm > options_.clip_norm ? options_.clip_norm / norm : 1.0;
    const RateStep rate = rate_step(options_, k);
    const TrainRecord record{k, loss.denoising, loss.residual, total, norm, rate.rate};
    if (!std::isfinite(total) || !(norm * clip <= largest_norm)) return {record, false};

    update(rate, clip);
    if (k >= average_begin(options_)) average();
    ++state_.iteration;
    return {record, true};
  }

 private:
  DenoisingChunk<float> denoising(std::int64_t k, std::int64_t first, std::int64_t n, float* storage) const {
    const std::int64_t d = d_;
    const auto index = static_cast<std::uint64_t>(first), step = static_cast<std::uint64_t>(k);
    float *t = storage, *weight = t + n, *x = weight + n, *target = x + n * d;
    const float* condition = nullptr;
    if (condition_ == 0) {
      draw_data(data_, {x, n, d}, options_.seed, index, step);
    } else {
      condition = draw_conditioned(n, index, step, x, target + n * d);
    }
    draw_point_uniforms(t, n, 1, options_.seed, index, RandomUse::time, step);
    draw_point_normals(target, n, static_cast<int>(d), options_.seed, index, RandomUse::denoising, step);
    for (std::int64_t i = 0; i < n; ++i) t[i] = time_(t[i], weight[i]);
    for (std::int64_t i = 0; i < n; ++i) {
      const DenoisingPoint<float> point(form_, sde_.formulas(), options_.loss_weight, t[i], &weights_);
      t[i] = point.time;
      weight[i] *= point.weight;
      for (std::int64_t j = i * d; j < (i + 1) * d; ++j) point(x[j], target[j]);
    }
    const bool weighted = options_.time_law == TimeLaw::importance || options_.loss_weight != LossWeight::unit;
    return {t, x, target, weighted ? weight : nullptr, condition};
  }

  CollocationChunk<float> collocation(std::int64_t k, std::int64_t first, std::int64_t n, float* storage) const {
    const std::int64_t d = d_, row = 1 + d;
    float *t = storage, *x = t + n, *u = x + n * d;  // t, x, and the uniforms of both, or data
    const float* condition = nullptr;
    if (condition_ > 0) {  // of data that no denoising point of this iteration has
      condition = draw_conditioned(n, static_cast<std::uint64_t>(options_.denoising_points + first),
                                   static_cast<std::uint64_t>(k), x, u);
      u += n * condition_;
    }
    draw_point_uniforms(u, n, static_cast<int>(row), options_.seed, static_cast<std::uint64_t>(first),
                        RandomUse::collocation, static_cast<std::uint64_t>(k));
    const float t_min = time_.t_min, span = time_.horizon - time_.t_min, box = static_cast<float>(options_.box);
    for (std::int64_t i = 0; i < n; ++i) {
      t[i] = t_min + span * u[i * row];
      for (std::int64_t j = 0; j < d; ++j) x[i * d + j] = box * (2 * u[i * row + 1 + j] - 1);
    }
    return {t, x, condition};
  }

  // x_0 [n, d] of rows (x_0, y) of the data, and their conditions, at `storage`, which has room for n (d + 2 c) numbers.
  const float* draw_conditioned(std::int64_t n, std::uint64_t index, std::uint64_t step, float* x,
                                float* storage) const {
    float *const condition = storage, *const rows = storage + n * condition_;
    const std::int64_t columns = d_ + condition_;
    draw_data(data_, {rows, n, columns}, options_.seed, index, step);
    for (std::int64_t i = 0; i < n; ++i) {
      const float drop = static_cast<float>(options_.condition_drop);
      float u = 1;
      if (drop > 0)
        draw_point_uniforms(&u, 1, 1, options_.seed, index + static_cast<std::uint64_t>(i), RandomUse::condition, step);
      std::copy_n(rows + i * columns, d_, x + i * d_);
      for (std::int64_t j = 0; j < condition_; ++j) {
        condition[i * condition_ + j] = u < drop ? 0.0f : rows[i * columns + d_ + j];
      }
    }
    return condition;
  }

  void update(const RateStep& rate, double clip_scale) {
    if (rate.steps_before == 0) {  // the start, or a restart
      std::fill(state_.first_moment.begin(), state_.first_moment.end(), 0.0f);
      std::fill(state_.second_moment.begin(), state_.second_moment.end(), 0.0f);
    }
    const AdamStep adam(rate.rate, rate.steps_before + 1, clip_scale);
    const float* gradient = gradient_.data();
    float *parameters = state_.parameters.data(), *first = state_.first_moment.data(),
          *second = state_.second_moment.data();
    const std::size_t size = gradient_.size();
    for (std::size_t i = 0; i < size; ++i) adam(gradient[i], parameters[i], first[i], second[i]);
  }

  void average() {
    if (state_.average_count == 0) state_.average.assign(state_.parameters.size(), 0.0);
    const double share = average_share(options_, state_.average_count);
    for (std::size_t i = 0; i < state_.average.size(); ++i) {
      state_.average[i] += share * (double{state_.parameters[i]} - state_.average[i]);
    }
    ++state_.average_count;
  }

  ForwardSde sde_;
  NetworkForm form_;
  std::int64_t d_, condition_;
  DataSet data_;
  TrainOptions options_;
  std::shared_ptr<Ranks> ranks_;
  ChunkedLoss<float> loss_;
  std::vector<float> edges_;
  TimeDraw time_;
  std::vector<LossWeightAt<float>> weight_rows_;
  LossWeightTable weights_;
  TrainState state_;
  std::vector<float> gradient_;
};

// Whether the sinks of all ranks go on after the news.
bool tell(Ranks& ranks, const TrainingSink& sink, const TrainingNews& news) {
  if (ranks.size() == 1) return sink(news);
  RankAnswer::Word word = RankAnswer::failed;
  std::exception_ptr thrown;
  try {
    word = sink(news) ? RankAnswer::goes_on : RankAnswer::stops;
  } catch (...) {
    thrown = std::current_exception();
  }
  const RankAnswers answers = answers_of_all(ranks, {word, 0});
  if (thrown) std::rethrow_exception(thrown);
  if (answers.failed_rank >= 0) throw answers.failure();
  return answers.go_on;
}

// One member after another.
class CpuTrainGroup final : public TrainGroupOperator {
 public:
  explicit CpuTrainGroup(const std::vector<TrainOperator*>& members) {
    for (TrainOperator* member : members) members_.push_back(static_cast<CpuTrainer*>(member));
  }

  bool run(std::span<const std::int64_t> counts, const TrainingSink& sink) override {
    for (std::size_t k = 0; k < members_.size(); ++k) {
      for (std::int64_t i = 0; i < counts[k]; ++i) {
        const auto [record, finite] = members_[k]->iterate();
        if (finite) {
          if (!tell(members_[k]->ranks(), sink, {k, {&record, 1}})) return false;
        } else {
          const TrainingStopped stopped(record);
          if (!tell(members_[k]->ranks(), sink, {k, {}, &stopped})) return false;
          break;
        }
      }
    }
    return true;
  }

 private:
  std::vector<CpuTrainer*> members_;
};

}  // namespace

std::unique_ptr<TrainOperator> make_trainer(const Model& initial, const DataSet& data, const TrainOptions& options,
                                            int threads, const std::shared_ptr<Ranks>& ranks) {
  return std::make_unique<CpuTrainer>(initial, data, options, threads, ranks);
}

std::unique_ptr<TrainGroupOperator> make_train_group(const std::vector<TrainOperator*>& members) {
  return std::make_unique<CpuTrainGroup>(members);
}

}  // namespace fokker::cpu
