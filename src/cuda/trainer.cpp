// Training on CUDA. An iteration is one graph on the queue's stream, captured once: losses and gradient, whose kernels
// draw the points of (seed, iteration) themselves; then norm, clipping, Adam, average and record in one update. The
// iteration's number is on the device too, so the host does nothing between two launches.
//
// Iterations run in slices of some 50 ms. A slice on the stream: the copy of its plan to the device (what varies with
// the iteration and is computed in double: rates, shares of the average), a launch of the graph for every iteration,
// the copy of its report back to the host (the records, and the number of the next iteration), an event. The host
// queues a slice, waits for the event of the one before, passes its records on, and queues the next: the device always
// has one to work on, unless the sink takes longer. Plans and reports lie in pinned memory, in two slots that the
// slices use alternately.
//
// Of several ranks each does the same, on its communicator's stream: the graph has an exchange between the losses and the
// update, which is every rank's own and alike. Whenever a slice is queued, and the one before reported, they say to each
// other whether another begins, which is as long as the first rank would have it; and what waits for the device waits for
// the other ranks too, with patience. A rank that fails says that it leaves in place of its next answer, the last one then
// for all: they have as many answers wherever one fails. The first comes before any waits for the device, so that none
// waits there for a rank that could not queue its slice.
#include "fokker/trainer.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "core/rank_answers.hpp"
#include "cuda/backend.hpp"
#include "cuda/data.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/gpu_ranks.hpp"
#include "cuda/runtime.hpp"
#include "fokker/error.hpp"
#include "operations/train_schedule.hpp"

namespace fokker::cuda {
namespace {

constexpr double slice_milliseconds = 50;
// Of a slice of ranks. CUDA queues a finite number of launches, about a thousand, and then cudaGraphLaunch waits in the
// host, where no patience ends it if another rank's GPU does not come; two slices are queued at a time.
constexpr double most_launches_of_ranks = 64;

template <class T>
void to_device(const Queue& queue, const DeviceMemory& to, const std::vector<T>& from) {
  check(cudaMemcpyAsync(to.data(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice, queue.stream),
        "cudaMemcpyAsync");
}
template <class T>
void to_host(const Queue& queue, T* to, const DeviceMemory& from, std::size_t count) {
  check(cudaMemcpyAsync(to, from.data(), count * sizeof(T), cudaMemcpyDeviceToHost, queue.stream), "cudaMemcpyAsync");
}
void wait(const Queue& queue) { check(cudaStreamSynchronize(queue.stream), "cudaStreamSynchronize"); }

class CudaTrainer final : public TrainOperator {
 public:
  CudaTrainer(const Queue& queue, const Model& initial, const DeviceData& data, const TrainOptions& options,
              const std::shared_ptr<NcclRanks>& ranks)
      : ranks_(ranks),
        queue_(queue),
        options_(options),
        sde_(initial.sde),
        loss_(make_device_loss(queue, std::get<Mlp>(initial.network).architecture, initial.sde,
                               {.probes = options.residual_weight > 0 ? options.residual_probes : 0,
                                .law = options.probe_law,
                                .seed = options.seed},
                               ranks ? &ranks->communicator() : nullptr)),
        average_begin_(average_begin(options)) {
    const std::vector<double>& parameters = std::get<Mlp>(initial.network).parameters;
    count_ = parameters.size();
    for (DeviceMemory* memory : {&parameters_, &first_, &second_, &gradient_}) memory->reserve(count_ * sizeof(float));
    if (average_begin_ < options.iterations) average_.reserve(count_ * sizeof(double));
    values_.reserve(3 * sizeof(double));
    squares_.reserve(sizeof(kernels::GradientSquares));
    plan_.reserve(sizeof(kernels::UpdatePlan));
    report_.reserve(sizeof(kernels::UpdateReport));
    const ForwardSde& sde = initial.sde;
    if (const auto edges = time_law_edges(sde, options, time_cells); !edges.empty()) edges_ = upload(edges);
    if (const auto rows = loss_weight_rows(options); !rows.empty()) {
      weight_rows_ = upload(rows);
      const LossWeightTable table{static_cast<std::int32_t>(rows.size()), weight_rows_.as<const LossWeightAt<float>>()};
      weights_ = upload(&table, sizeof table);
    }
    draw_ = {.data = data.source(),
             .sde = sde_.formulas(),
             .time = {options.time_law, static_cast<float>(sde.t_min()), static_cast<float>(sde.horizon()), time_cells,
                      edges_.as<const float>()},
             .seed = options.seed,
             .iteration = &report_.as<kernels::UpdateReport>()->iteration,
             .denoising_points = options.denoising_points,
             .collocation_points = options.residual_weight > 0 ? options.collocation_points : 0,
             .box = static_cast<float>(options.box),
             .loss_weight = options.loss_weight,
             .condition = static_cast<int>(initial.condition()),
             .condition_drop = static_cast<float>(options.condition_drop),
             .loss_weights = weights_.as<const LossWeightTable>()};
    TrainState state;
    state.parameters.assign(parameters.begin(), parameters.end());
    state.first_moment.assign(count_, 0.0f);
    state.second_moment.assign(count_, 0.0f);
    restore(std::move(state));
  }

  std::int64_t iteration() const override { return iteration_; }

  TrainState state() const override {
    check_known();
    const CurrentDevice guard(queue_.device);
    TrainState state;
    state.iteration = iteration_;
    state.average_count = std::max<std::int64_t>(0, iteration_ - average_begin_);
    for (const auto& [numbers, memory] :
         {std::pair(&state.parameters, &parameters_), std::pair(&state.first_moment, &first_),
          std::pair(&state.second_moment, &second_)}) {
      numbers->resize(count_);
      to_host(queue_, numbers->data(), *memory, count_);
    }
    if (state.average_count > 0) {
      state.average.resize(count_);
      to_host(queue_, state.average.data(), average_, count_);
    }
    wait(queue_);
    return state;
  }

  void restore(TrainState state) override {
    const CurrentDevice guard(queue_.device);
    iteration_ = state.iteration;
    to_device(queue_, parameters_, state.parameters);
    to_device(queue_, first_, state.first_moment);
    to_device(queue_, second_, state.second_moment);
    if (average_.bytes() > 0) {
      if (state.average.empty()) state.average.assign(count_, 0.0);
      to_device(queue_, average_, state.average);
    }
    const std::vector<std::int64_t> next{iteration_};
    to_device(queue_, report_, next);  // its first number
    wait(queue_);
  }

  // Reads the iteration that the device is at, once all that is queued has ended: after an error among slices, some of
  // which may have run without a report. Of a rank that waits for others in vain nothing can be read.
  void catch_up() {
    try {
      std::int64_t next = 0;
      if (ranks_) ranks_->communicator().wait();
      wait(queue_);
      to_host(queue_, &next, report_, 1);  // its first number
      wait(queue_);
      iteration_ = next;
    } catch (const Error&) {
      iteration_known_ = false;
    }
  }
  // Throws Error where catch_up() could not read it.
  void check_known() const {
    if (iteration_known_) return;
    throw Error(
        "a trainer was used after CUDA failed in its run and its iteration on the GPU could not be read; allowed: to "
        "resume from a saved state");
  }

  // A slice of `count` iterations in a slot: its plan is sent ahead of the launches, its report is fetched behind them.
  void send_plan(int slot, std::int64_t first, std::int64_t count) {
    auto* const plan = slots_[slot].plan.as<kernels::UpdatePlan>();
    plan->first = first;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t k = first + i;
      const RateStep rate = rate_step(options_, k);
      plan->steps[i] = {.adam = AdamStep(rate.rate, rate.steps_before + 1, 1),
                        .restart = rate.steps_before == 0,
                        .share = k < average_begin_ ? 0 : average_share(options_, k - average_begin_)};
    }
    check(cudaMemcpyAsync(plan_.data(), plan, offsetof(kernels::UpdatePlan, steps) + count * sizeof plan->steps[0],
                          cudaMemcpyHostToDevice, queue_.stream),
          "cudaMemcpyAsync");
  }
  void fetch_report(int slot, std::int64_t count) {
    auto* const report = slots_[slot].report.as<kernels::UpdateReport>();
    check(cudaMemcpyAsync(report, report_.data(),
                          offsetof(kernels::UpdateReport, records) + count * sizeof report->records[0],
                          cudaMemcpyDeviceToHost, queue_.stream),
          "cudaMemcpyAsync");
  }
  // Puts the slice's records into `records` and returns the record of the iteration that failed in it, if one did.
  std::optional<TrainRecord> read_report(int slot, std::int64_t count, std::vector<TrainRecord>& records) {
    records.clear();
    const std::int64_t first = slots_[slot].plan.as<const kernels::UpdatePlan>()->first;
    if (iteration_ < first) return std::nullopt;  // an iteration of an earlier slice failed
    const auto* const report = slots_[slot].report.as<const kernels::UpdateReport>();
    const auto record = [&](std::int64_t k) {
      const kernels::UpdateRecord& r = report->records[k - first];
      return TrainRecord{k, r.denoising, r.residual, r.total, r.gradient_norm, rate_step(options_, k).rate};
    };
    for (; iteration_ < report->iteration; ++iteration_) records.push_back(record(iteration_));
    if (iteration_ < first + count) return record(iteration_);
    return std::nullopt;
  }

  const std::shared_ptr<NcclRanks>& ranks() const { return ranks_; }
  const Queue& queue() const { return queue_; }
  std::int64_t parameter_count() const { return static_cast<std::int64_t>(count_); }
  TrainingLoss* loss() const { return loss_.get(); }
  kernels::LossTask loss_task() const {
    return {.parameters = parameters_.as<const float>(),
            .points = draw_,
            .residual_weight = options_.residual_weight,
            .values = values_.as<double>(),
            .gradient = gradient_.as<float>(),
            .squares = squares_.as<kernels::GradientSquares>()};
  }
  kernels::UpdateTask update_task() const {
    return {.parameter_count = parameter_count(),
            .parameters = parameters_.as<float>(),
            .first_moment = first_.as<float>(),
            .second_moment = second_.as<float>(),
            .average = average_.as<double>(),
            .gradient = gradient_.as<const float>(),
            .values = values_.as<const double>(),
            .squares = squares_.as<const kernels::GradientSquares>(),
            .clip_norm = options_.clip_norm,
            .plan = plan_.as<const kernels::UpdatePlan>(),
            .report = report_.as<kernels::UpdateReport>()};
  }

 private:
  std::shared_ptr<NcclRanks> ranks_;  // or nullptr
  Queue queue_;
  TrainOptions options_;
  DeviceSde sde_;
  std::unique_ptr<TrainingLoss> loss_;
  std::int64_t average_begin_;  // the first iteration in the average
  std::size_t count_;           // of parameters
  std::int64_t iteration_ = 0;
  bool iteration_known_ = true;  // whether the device is at iteration_
  DeviceMemory parameters_, first_, second_, average_, gradient_, values_, squares_, plan_, report_, edges_,
      weight_rows_, weights_;
  struct Slot {
    PinnedMemory plan{sizeof(kernels::UpdatePlan)}, report{sizeof(kernels::UpdateReport)};
  };
  std::array<Slot, 2> slots_;
  kernels::TrainingDraw draw_;
};

// A capture of a stream's work. It ends with this object at the latest, and other threads may go on with theirs.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    under_way_ = true;
  }
  ~Capture() {
    if (under_way_) cudaStreamEndCapture(stream_, &graph_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  cudaGraphExec_t instantiate() {
    under_way_ = false;
    check(cudaStreamEndCapture(stream_, &graph_), "cudaStreamEndCapture");
    cudaGraphExec_t executable = nullptr;
    check(cudaGraphInstantiate(&executable, graph_, 0), "cudaGraphInstantiate");
    return executable;
  }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool under_way_ = false;
};

// One iteration of some trainers as a CUDA graph, and how many iterations make a slice.
class IterationGraph {
 public:
  IterationGraph(const Queue& queue, std::span<CudaTrainer* const> trainers)
      : stream_(queue.stream), ranks_(trainers.front()->ranks()) {
    std::vector<TrainingLoss*> losses;
    std::vector<kernels::LossTask> loss_tasks;
    std::vector<kernels::UpdateTask> update_tasks;
    std::int64_t most_parameters = 0;
    for (const CudaTrainer* trainer : trainers) {
      losses.push_back(trainer->loss());
      loss_tasks.push_back(trainer->loss_task());
      update_tasks.push_back(trainer->update_task());
      most_parameters = std::max(most_parameters, trainer->parameter_count());
    }
    update_tasks_ = upload(update_tasks);
    check(kernels::prepare_update(), "prepare_update");
    // Kernels and cuBLAS cannot be loaded in a capture: the losses are evaluated once before it, which changes no state.
    losses.front()->evaluate(losses, loss_tasks);
    Capture capture(stream_);
    losses.front()->evaluate(losses, loss_tasks);
    check(kernels::launch_update(update_tasks_.as<const kernels::UpdateTask>(), static_cast<int>(trainers.size()),
                                 most_parameters, stream_),
          "launch_update");
    executable_ = capture.instantiate();
    if (ranks_) ranks_->communicator().keep(executable_);
  }
  ~IterationGraph() {
    if (ranks_) {
      ranks_->communicator().release(executable_);
    } else {
      cudaGraphExecDestroy(executable_);
    }
  }
  IterationGraph(const IterationGraph&) = delete;
  IterationGraph& operator=(const IterationGraph&) = delete;

  void launch() const { check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }
  std::int64_t slice() const { return slice_; }
  void set_slice(std::int64_t slice) { slice_ = slice; }
  // Sets the next slice's length by what `iterations` took.
  void set_slice(double milliseconds, std::int64_t iterations) {
    slice_ =
        static_cast<std::int64_t>(std::clamp(slice_milliseconds / milliseconds * static_cast<double>(iterations), 1.0,
                                             ranks_ ? most_launches_of_ranks : double{kernels::most_iterations}));
  }

 private:
  cudaStream_t stream_;
  std::shared_ptr<NcclRanks> ranks_;
  DeviceMemory update_tasks_;
  cudaGraphExec_t executable_ = nullptr;
  std::int64_t slice_ = 1;
};

class CudaTrainGroup final : public TrainGroupOperator {
 public:
  CudaTrainGroup(const Queue& own, const Queue& training, const std::vector<TrainOperator*>& members)
      : own_stream_(own.stream), queue_(training) {
    for (TrainOperator* member : members) members_.push_back(static_cast<CudaTrainer*>(member));
    if (members_.empty()) return;
    queue_ = members_.front()->queue();
    ranks_ = members_.front()->ranks();
  }

  bool run(std::span<const std::int64_t> counts, const TrainingSink& sink) override {
    if (ranks_) ranks_->communicator().check_not_aborted();
    const SetUp set_up(queue_.device, own_stream_);
    std::vector<std::int64_t> left(counts.begin(), counts.end());
    std::vector<TrainRecord> records;
    std::exception_ptr thrown;  // by the sink, or for that of another rank
    bool goes_on = true;
    bool last_answer = false;  // whether this rank owes the others none
    // Whether all ranks' sinks go on, and how long the next slice is. Throws where a rank leaves.
    const auto agree = [&](std::int64_t slice) {
      last_answer = true;  // also where there is no answer
      const RankAnswer own{thrown ? RankAnswer::failed : goes_on ? RankAnswer::goes_on : RankAnswer::stops, slice};
      const RankAnswers answers = answers_of_all(*ranks_, own);
      if (answers.left) {
        ranks_->communicator().abort();  // what is queued would wait for that rank
        throw answers.failure();
      }
      last_answer = false;
      if (answers.failed_rank >= 0 && !thrown) thrown = std::make_exception_ptr(answers.failure());
      goes_on = answers.go_on;
      return answers;
    };
    for (std::size_t first = 0; goes_on && first < members_.size();) {
      if (left[first] == 0) {
        ++first;
        continue;
      }
      const std::vector<std::size_t> places = side_by_side(first, left);
      // Reads the report of a slice and passes it on; returns whether another slice may begin.
      const auto report = [&](std::size_t place, int slot, std::int64_t iterations) {
        const std::optional<TrainRecord> failed = members_[place]->read_report(slot, iterations, records);
        left[place] = failed ? 0 : left[place] - static_cast<std::int64_t>(records.size());
        if (!thrown && (failed || !records.empty())) {
          std::optional<TrainingStopped> stopped;
          if (failed) stopped.emplace(*failed);
          try {
            const SetUp::Pause pause(set_up);
            goes_on = sink({place, records, stopped ? &*stopped : nullptr}) && goes_on;
          } catch (...) {
            thrown = std::current_exception();
            goes_on = false;
          }
        }
        return goes_on && !failed;
      };
      try {
        run_slices(places, left, report, agree);
      } catch (...) {
        for (const std::size_t place : places) members_[place]->catch_up();
        if (ranks_) {
          ranks_->communicator().abort();
          if (!last_answer) leave();
        }
        throw;
      }
    }
    if (thrown) std::rethrow_exception(thrown);
    return goes_on;
  }

 private:
  struct SideBySide {
    std::vector<std::size_t> places;
    IterationGraph graph;
  };

  // The places of `first` and of those with iterations left that share its launches.
  std::vector<std::size_t> side_by_side(std::size_t first, const std::vector<std::int64_t>& left) const {
    std::vector<std::size_t> places;
    for (std::size_t k = first; k < members_.size(); ++k) {
      if (left[k] == 0 || (k != first && !members_[first]->loss()->shares_launches_with(*members_[k]->loss())))
        continue;
      members_[k]->check_known();
      places.push_back(k);
    }
    return places;
  }

  // Tells the other ranks that no answer of this one follows.
  void leave() {
    try {
      answers_of_all(*ranks_, {RankAnswer::leaves, 0});
    } catch (const Error&) {  // messages by the communicator end with it, which those that wait for it notice
    }
  }

  IterationGraph& graph_of(const std::vector<std::size_t>& places) {
    std::unique_ptr<SideBySide>& latest = graphs_[places.front()];
    if (!latest || latest->places != places) {
      std::vector<CudaTrainer*> trainers;
      for (const std::size_t place : places) trainers.push_back(members_[place]);
      latest.reset();
      latest.reset(new SideBySide{places, {queue_, trainers}});
    }
    return latest->graph;
  }

  // As many iterations as each of the places has left. `report(place, slot, iterations)` takes every slice of every
  // place; after it returns false no further slice begins, and the one under way is reported too. `agree`: of ranks, what
  // all of them do after each turn of the loop.
  template <class Report, class Agree>
  void run_slices(const std::vector<std::size_t>& places, const std::vector<std::int64_t>& left, const Report& report,
                  const Agree& agree) {
    struct Slice {
      std::int64_t count = 0;
      Event begin, end;
    };
    std::array<Slice, 2> slices;  // in the slots
    IterationGraph& graph = graph_of(places);
    std::int64_t count = left[places.front()];
    std::vector<std::int64_t> next;  // iteration of each
    for (const std::size_t place : places) {
      count = std::min(count, left[place]);
      next.push_back(members_[place]->iteration());
    }
    bool goes_on = true;
    for (int slot = 0;; slot = 1 - slot) {
      Slice &slice = slices[slot], &before = slices[1 - slot];
      slice.count = goes_on ? std::min(graph.slice(), count) : 0;
      count -= slice.count;
      if (slice.count > 0) {
        slice.begin.record(queue_.stream);
        for (std::size_t m = 0; m < places.size(); ++m) members_[places[m]]->send_plan(slot, next[m], slice.count);
        for (std::int64_t i = 0; i < slice.count; ++i) graph.launch();
        for (const std::size_t place : places) members_[place]->fetch_report(slot, slice.count);
        for (std::int64_t& iteration : next) iteration += slice.count;
        slice.end.record(queue_.stream);
      }
      if (before.count > 0) {
        if (ranks_) {
          ranks_->communicator().wait(before.end);
        } else {
          before.end.wait();
        }
        graph.set_slice(before.end.milliseconds_since(before.begin), before.count);
        for (const std::size_t place : places) goes_on = report(place, 1 - slot, before.count) && goes_on;
      }
      if (ranks_) {
        const RankAnswers answers = agree(graph.slice());
        goes_on = goes_on && answers.go_on;
        graph.set_slice(answers.next);
      }
      if (slice.count == 0) return;
    }
  }

  cudaStream_t own_stream_;           // the context's, which must not be capturing
  Queue queue_;                       // the members'
  std::shared_ptr<NcclRanks> ranks_;  // the members', or nullptr
  std::vector<CudaTrainer*> members_;
  std::map<std::size_t, std::unique_ptr<SideBySide>> graphs_;  // the latest of each first place
};

}  // namespace

std::unique_ptr<TrainOperator> make_trainer(const Queue& queue, const Model& initial, const DeviceData& data,
                                            const TrainOptions& options, const std::shared_ptr<NcclRanks>& ranks) {
  return std::make_unique<CudaTrainer>(queue, initial, data, options, ranks);
}

std::unique_ptr<TrainGroupOperator> make_train_group(const Queue& own, const Queue& training,
                                                     const std::vector<TrainOperator*>& members) {
  return std::make_unique<CudaTrainGroup>(own, training, members);
}

}  // namespace fokker::cuda
