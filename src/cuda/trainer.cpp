// Training on CUDA. An iteration is one graph on the queue's stream, captured once: losses and gradient, whose kernels
// draw the points of (seed, iteration) themselves; then norm, clipping, Adam, average and record in one update. The
// iteration's number is on the device too, so the host does nothing between two launches.
//
// Iterations go in slices of some 50 ms. On the stream a slice is: its plan to the device (what varies with the
// iteration and is computed in double: rates, shares of the average), a launch of the graph for every iteration, its
// report back to the host (the records, and the iteration that comes next), an event. The host queues a slice, waits
// for the event of the one before, hands its records out, and queues the next: the device always has one to work on,
// unless the sink takes longer. Plans and reports lie in pinned memory, in two slots that slices take in turn.
#include "fokker/trainer.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <exception>
#include <optional>
#include <utility>

#include "cuda/backend.hpp"
#include "cuda/data.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/runtime.hpp"
#include "fokker/error.hpp"
#include "operations/train_schedule.hpp"

namespace fokker::cuda {
namespace {

constexpr std::int32_t time_cells = 4096;
constexpr double slice_milliseconds = 50;

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

class CudaTrainer;

// An iteration of some models side by side, and how many of them make a slice.
class IterationGraph {
 public:
  IterationGraph(const Queue& queue, std::span<CudaTrainer* const> members);
  ~IterationGraph() { cudaGraphExecDestroy(executable_); }
  IterationGraph(const IterationGraph&) = delete;
  IterationGraph& operator=(const IterationGraph&) = delete;
  bool is_of(std::span<CudaTrainer* const> members) const;
  void launch() const { check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }
  std::int64_t slice() const { return slice_; }
  void took(double milliseconds, std::int64_t iterations) {
    slice_ = static_cast<std::int64_t>(std::clamp(slice_milliseconds / milliseconds * static_cast<double>(iterations),
                                                  1.0, double{kernels::most_iterations}));
  }

 private:
  cudaStream_t stream_;
  std::vector<std::uint64_t> members_;  // their numbers, since an address may be another trainer's by now
  DeviceMemory tasks_;                  // kernels::UpdateTask of each
  cudaGraphExec_t executable_ = nullptr;
  std::int64_t slice_ = 1;
};

class CudaTrainer final : public TrainOperator {
 public:
  CudaTrainer(const Queue& queue, const Model& initial, const DeviceData& data, const TrainOptions& options)
      : queue_(queue),
        options_(options),
        loss_(make_device_loss(queue, std::get<Mlp>(initial.network).architecture, initial.sde)),
        begin_(average_begin(options)) {
    static std::atomic<std::uint64_t> trainers = 0;
    number_ = trainers++;
    const std::vector<double>& parameters = std::get<Mlp>(initial.network).parameters;
    count_ = parameters.size();
    for (DeviceMemory* memory : {&parameters_, &first_, &second_, &gradient_}) memory->reserve(count_ * sizeof(float));
    if (begin_ < options.iterations) average_.reserve(count_ * sizeof(double));
    values_.reserve(3 * sizeof(double));
    squares_.reserve(sizeof(kernels::GradientSquares));
    plan_.reserve(sizeof(kernels::UpdatePlan));
    report_.reserve(sizeof(kernels::UpdateReport));
    const ForwardSde& sde = initial.sde;
    if (options.time_law == TimeLaw::importance) edges_ = upload(importance_edges(sde, time_cells));
    draw_ = {.data = data.source(),
             .sde = sde.formulas(),
             .time = {options.time_law, static_cast<float>(sde.t_min()), static_cast<float>(sde.horizon()),
                      edges_.as<const float>(), time_cells},
             .seed = options.seed,
             .iteration = &report_.as<kernels::UpdateReport>()->iteration,
             .denoising_points = options.denoising_points,
             .collocation_points = options.residual_weight > 0 ? options.collocation_points : 0,
             .box = static_cast<float>(options.box)};
    TrainState state;
    state.parameters.assign(parameters.begin(), parameters.end());
    state.first_moment.assign(count_, 0.0f);
    state.second_moment.assign(count_, 0.0f);
    restore(std::move(state));
  }

  std::int64_t iteration() const override { return iteration_; }

  TrainState state() const override {
    check_known();
    const OnDevice here(queue_.device);
    TrainState state;
    state.iteration = iteration_;
    state.average_count = std::max<std::int64_t>(0, iteration_ - begin_);
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
    const OnDevice here(queue_.device);
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

  // Goes to the iteration that the device is at, once all that is queued has ended: after an error among slices, of
  // which some may have run untold.
  void catch_up() {
    try {
      std::int64_t next = 0;
      wait(queue_);
      to_host(queue_, &next, report_, 1);  // its first number
      wait(queue_);
      iteration_ = next;
    } catch (const Error&) {
      known_ = false;
    }
  }
  // Throws Error where that was not to be learnt.
  void check_known() const {
    if (known_) return;
    throw Error(
        "a trainer was used after CUDA failed in its run and its iteration on the GPU could not be read; allowed: to "
        "resume from a saved state");
  }

  // A slice of `count` iterations in a slot, with launches of a graph between the two: its plan goes ahead of them, its
  // report comes back behind them.
  void send(int slot, std::int64_t first, std::int64_t count) {
    auto* const plan = slots_[slot].plan.as<kernels::UpdatePlan>();
    plan->first = first;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t k = first + i;
      const RateStep rate = rate_step(options_, k);
      plan->steps[i] = {.adam = AdamStep(rate.rate, rate.steps_before + 1, 1),
                        .restart = rate.steps_before == 0,
                        .share = k < begin_ ? 0 : average_share(options_, k - begin_)};
    }
    check(cudaMemcpyAsync(plan_.data(), plan, offsetof(kernels::UpdatePlan, steps) + count * sizeof plan->steps[0],
                          cudaMemcpyHostToDevice, queue_.stream),
          "cudaMemcpyAsync");
  }
  void fetch(int slot, std::int64_t count) {
    auto* const report = slots_[slot].report.as<kernels::UpdateReport>();
    check(cudaMemcpyAsync(report, report_.data(),
                          offsetof(kernels::UpdateReport, records) + count * sizeof report->records[0],
                          cudaMemcpyDeviceToHost, queue_.stream),
          "cudaMemcpyAsync");
  }
  // What came back: the records of the slice, and that of the iteration that failed in it.
  std::optional<TrainRecord> read(int slot, std::int64_t count, std::vector<TrainRecord>& records) {
    records.clear();
    const std::int64_t first = slots_[slot].plan.as<const kernels::UpdatePlan>()->first;
    if (iteration_ < first) return std::nullopt;  // it failed before
    const auto* const report = slots_[slot].report.as<const kernels::UpdateReport>();
    const auto record = [&](std::int64_t k) {
      const kernels::UpdateRecord& r = report->records[k - first];
      return TrainRecord{k, r.denoising, r.residual, r.total, r.gradient_norm, rate_step(options_, k).rate};
    };
    for (; iteration_ < report->iteration; ++iteration_) records.push_back(record(iteration_));
    if (iteration_ < first + count) return record(iteration_);
    return std::nullopt;
  }

  // The graph of an iteration of members, of which this is the first.
  IterationGraph& graph(std::span<CudaTrainer* const> members) {
    if (!graph_ || !graph_->is_of(members)) graph_ = std::make_unique<IterationGraph>(queue_, members);
    return *graph_;
  }

  std::uint64_t number() const { return number_; }
  std::int64_t parameter_count() const { return static_cast<std::int64_t>(count_); }
  TrainingLoss* loss() const { return loss_.get(); }
  LossTask loss_task() const {
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
  Queue queue_;
  TrainOptions options_;
  std::uint64_t number_;
  std::unique_ptr<TrainingLoss> loss_;
  std::int64_t begin_;  // of the average
  std::size_t count_;   // of parameters
  std::int64_t iteration_ = 0;
  bool known_ = true;  // that this is the device's
  DeviceMemory parameters_, first_, second_, average_, gradient_, values_, squares_, plan_, report_, edges_;
  struct Slot {
    PinnedMemory plan{sizeof(kernels::UpdatePlan)}, report{sizeof(kernels::UpdateReport)};
  };
  std::array<Slot, 2> slots_;
  kernels::TrainingDraw draw_;
  std::unique_ptr<IterationGraph> graph_;  // the latest that began with this trainer
};

// A capture that ends whatever happens, and disturbs no other thread's.
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

IterationGraph::IterationGraph(const Queue& queue, std::span<CudaTrainer* const> members) : stream_(queue.stream) {
  std::vector<TrainingLoss*> losses;
  std::vector<LossTask> loss_tasks;
  std::vector<kernels::UpdateTask> update_tasks;
  std::int64_t most_parameters = 0;
  for (const CudaTrainer* member : members) {
    members_.push_back(member->number());
    losses.push_back(member->loss());
    loss_tasks.push_back(member->loss_task());
    update_tasks.push_back(member->update_task());
    most_parameters = std::max(most_parameters, member->parameter_count());
  }
  tasks_ = upload(update_tasks);
  check(kernels::prepare_update(), "prepare_update");
  // Once outside of the capture, in which neither kernels nor cuBLAS can be loaded; it changes nothing that is kept.
  losses.front()->evaluate(losses, loss_tasks);
  Capture capture(stream_);
  losses.front()->evaluate(losses, loss_tasks);
  check(kernels::launch_update(tasks_.as<const kernels::UpdateTask>(), static_cast<int>(members.size()),
                               most_parameters, stream_),
        "launch_update");
  executable_ = capture.instantiate();
}

bool IterationGraph::is_of(std::span<CudaTrainer* const> members) const {
  return std::equal(members.begin(), members.end(), members_.begin(), members_.end(),
                    [](const CudaTrainer* member, std::uint64_t number) { return member->number() == number; });
}

// Up to `count` iterations of trainers that go together. `arrived(m, slot, iterations)` is told of every slice of every
// member; after its false no further slice begins, and what has begun arrives too.
template <class Arrived>
void run_group(const Queue& queue, std::span<CudaTrainer* const> members, std::int64_t count, const Arrived& arrived) {
  struct Slice {
    std::int64_t count = 0;
    Event begin, end;
  };
  std::array<Slice, 2> slices;  // in the slots
  IterationGraph& graph = members.front()->graph(members);
  std::vector<std::int64_t> next;  // iteration of each
  for (const CudaTrainer* member : members) next.push_back(member->iteration());
  bool goes_on = true;
  for (int slot = 0;; slot = 1 - slot) {
    Slice &slice = slices[slot], &before = slices[1 - slot];
    slice.count = goes_on ? std::min(graph.slice(), count) : 0;
    count -= slice.count;
    if (slice.count > 0) {
      slice.begin.record(queue.stream);
      for (std::size_t m = 0; m < members.size(); ++m) members[m]->send(slot, next[m], slice.count);
      for (std::int64_t i = 0; i < slice.count; ++i) graph.launch();
      for (CudaTrainer* member : members) member->fetch(slot, slice.count);
      for (std::int64_t& iteration : next) iteration += slice.count;
      slice.end.record(queue.stream);
    }
    if (before.count > 0) {
      before.end.wait();
      graph.took(before.end.milliseconds_since(before.begin), before.count);
      for (std::size_t m = 0; m < members.size(); ++m) goes_on = arrived(m, 1 - slot, before.count) && goes_on;
    }
    if (slice.count == 0) return;
  }
}

}  // namespace

std::unique_ptr<TrainOperator> make_trainer(const Queue& queue, const Model& initial, const DeviceData& data,
                                            const TrainOptions& options) {
  return std::make_unique<CudaTrainer>(queue, initial, data, options);
}

void run_together(const Queue& queue, std::span<TrainOperator* const> trainers, std::span<const std::int64_t> counts,
                  const TrainingSink& sink) {
  const OnDevice here(queue.device);
  std::vector<std::int64_t> left(counts.begin(), counts.end());
  std::vector<TrainRecord> records;
  std::exception_ptr thrown;  // by the sink
  bool wanted = true;
  for (std::size_t first = 0; wanted && first < trainers.size();) {
    if (left[first] == 0) {
      ++first;
      continue;
    }
    // All that go with the first which has iterations left, as many as each of them has.
    std::vector<std::size_t> places;
    std::vector<CudaTrainer*> members;
    std::int64_t count = left[first];
    for (std::size_t k = first; k < trainers.size(); ++k) {
      auto* const trainer = static_cast<CudaTrainer*>(trainers[k]);
      if (left[k] == 0 || (k != first && !members.front()->loss()->goes_with(*trainer->loss()))) continue;
      places.push_back(k);
      members.push_back(trainer);
      count = std::min(count, left[k]);
    }
    for (const CudaTrainer* member : members) member->check_known();
    const auto arrived = [&](std::size_t m, int slot, std::int64_t iterations) {
      const std::optional<TrainRecord> failed = members[m]->read(slot, iterations, records);
      std::int64_t& of_it = left[places[m]];
      of_it = failed ? 0 : of_it - static_cast<std::int64_t>(records.size());
      if (!thrown && (failed || !records.empty())) {
        std::optional<TrainingStopped> stopped;
        if (failed) stopped.emplace(*failed);
        try {
          wanted = sink({places[m], records, stopped ? &*stopped : nullptr}) && wanted;
        } catch (...) {
          thrown = std::current_exception();
          wanted = false;
        }
      }
      return wanted && !failed;
    };
    try {
      run_group(queue, members, count, arrived);
    } catch (...) {
      for (CudaTrainer* member : members) member->catch_up();
      throw;
    }
  }
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace fokker::cuda
