// Training on CUDA. An iteration is one graph on the queue's stream, captured once: losses and gradient, whose kernels
// draw the points of (seed, iteration) themselves; then norm, clipping, Adam, average and record in one update. The
// iteration's number is on the device too, so the host does nothing between two launches. What varies with it and is
// computed in double (rates, shares of the average) goes there as a table before a run, and the records come back after
// it, at most 1024 iterations at a time.
#include "fokker/trainer.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

#include "cuda/backend.hpp"
#include "cuda/data.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/runtime.hpp"
#include "train_schedule.hpp"

namespace fokker::cuda {
namespace {

constexpr std::int32_t time_cells = 4096;
constexpr std::int64_t most_iterations = 1024;  // of a run between two looks of the host

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

// An iteration of some models side by side.
class IterationGraph {
 public:
  IterationGraph(const Queue& queue, std::span<CudaTrainer* const> members);
  ~IterationGraph() { cudaGraphExecDestroy(executable_); }
  IterationGraph(const IterationGraph&) = delete;
  IterationGraph& operator=(const IterationGraph&) = delete;
  bool is_of(std::span<CudaTrainer* const> members) const;
  void launch() const { check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }

 private:
  cudaStream_t stream_;
  std::vector<std::uint64_t> members_;  // their numbers, since an address may be another trainer's by now
  DeviceMemory tasks_;                  // kernels::UpdateTask of each
  cudaGraphExec_t executable_ = nullptr;
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
    squares_.reserve(kernels::square_parts * sizeof(double));
    progress_.reserve(sizeof(kernels::TrainingProgress));
    steps_.reserve(most_iterations * sizeof(kernels::UpdateStep));
    records_.reserve(most_iterations * sizeof(kernels::UpdateRecord));
    const ForwardSde& sde = initial.sde;
    if (options.time_law == TimeLaw::importance) edges_ = upload(importance_edges(sde, time_cells));
    draw_ = {.data = data.source(),
             .sde = sde,
             .time = {options.time_law, static_cast<float>(sde.t_min), static_cast<float>(sde.horizon),
                      edges_.as<const float>(), time_cells},
             .seed = options.seed,
             .iteration = &progress_.as<kernels::TrainingProgress>()->iteration,
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
    start(0);  // the draws of a graph that is about to be captured read the iteration
    wait(queue_);
  }

  TrainOutcome run(std::int64_t count) override {
    TrainOperator* const self = this;
    return std::move(run_together(queue_, {&self, 1}, {&count, 1}).front());
  }

  // The next `count` iterations, of which launches of a graph follow and then finish(), which waits for them.
  void start(std::int64_t count) {
    host_steps_.clear();
    for (std::int64_t k = iteration_; k < iteration_ + count; ++k) {
      const RateStep rate = rate_step(options_, k);
      host_steps_.push_back({.adam = AdamStep(rate.rate, rate.steps_before + 1, 1),
                             .restart = rate.steps_before == 0,
                             .share = k < begin_ ? 0 : average_share(options_, k - begin_)});
    }
    to_device(queue_, steps_, host_steps_);
    host_progress_ = {{.iteration = iteration_, .updating = iteration_, .first = iteration_}};
    to_device(queue_, progress_, host_progress_);
  }
  void finish(std::int64_t count, TrainOutcome& outcome) {
    std::vector<kernels::UpdateRecord> records(static_cast<std::size_t>(count));
    kernels::TrainingProgress progress;
    to_host(queue_, records.data(), records_, records.size());
    to_host(queue_, &progress, progress_, 1);
    wait(queue_);
    const std::int64_t end = iteration_ + count;
    const auto record = [&](std::int64_t k) {
      const kernels::UpdateRecord& r = records[static_cast<std::size_t>(k - progress.first)];
      return TrainRecord{k, r.denoising, r.residual, r.total, r.gradient_norm, rate_step(options_, k).rate};
    };
    for (; iteration_ < progress.iteration; ++iteration_) outcome.records.push_back(record(iteration_));
    if (iteration_ < end) outcome.failed = record(iteration_);
  }

  void launch(std::span<CudaTrainer* const> members) {
    if (!graph_ || !graph_->is_of(members)) graph_ = std::make_unique<IterationGraph>(queue_, members);
    graph_->launch();
  }

  std::uint64_t number() const { return number_; }
  std::int64_t parameter_count() const { return static_cast<std::int64_t>(count_); }
  TrainingLoss* loss() const { return loss_.get(); }
  LossTask loss_task() const {
    return {.parameters = parameters_.as<const float>(),
            .points = draw_,
            .residual_weight = options_.residual_weight,
            .values = values_.as<double>(),
            .gradient = gradient_.as<float>()};
  }
  kernels::UpdateTask update_task() const {
    return {.parameter_count = parameter_count(),
            .parameters = parameters_.as<float>(),
            .first_moment = first_.as<float>(),
            .second_moment = second_.as<float>(),
            .average = average_.as<double>(),
            .gradient = gradient_.as<const float>(),
            .values = values_.as<const double>(),
            .clip_norm = options_.clip_norm,
            .squares = squares_.as<double>(),
            .progress = progress_.as<kernels::TrainingProgress>(),
            .steps = steps_.as<const kernels::UpdateStep>(),
            .records = records_.as<kernels::UpdateRecord>()};
  }

 private:
  Queue queue_;
  TrainOptions options_;
  std::uint64_t number_;
  std::unique_ptr<TrainingLoss> loss_;
  std::int64_t begin_;  // of the average
  std::size_t count_;   // of parameters
  std::int64_t iteration_ = 0;
  DeviceMemory parameters_, first_, second_, average_, gradient_, values_, squares_, progress_, steps_, records_,
      edges_;
  kernels::TrainingDraw draw_;
  std::vector<kernels::UpdateStep> host_steps_;  // what copies to the device read while they are under way
  std::vector<kernels::TrainingProgress> host_progress_;
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

}  // namespace

std::unique_ptr<TrainOperator> make_trainer(const Queue& queue, const Model& initial, const DeviceData& data,
                                            const TrainOptions& options) {
  return std::make_unique<CudaTrainer>(queue, initial, data, options);
}

std::vector<TrainOutcome> run_together(const Queue& queue, std::span<TrainOperator* const> trainers,
                                       std::span<const std::int64_t> counts) {
  const OnDevice here(queue.device);
  std::vector<TrainOutcome> outcomes(trainers.size());
  std::vector<std::int64_t> left(counts.begin(), counts.end());
  for (std::size_t first = 0; first < trainers.size();) {
    if (left[first] == 0) {
      ++first;
      continue;
    }
    // All that go with the first which has iterations left, as many as each of them has.
    std::vector<std::size_t> places;
    std::vector<CudaTrainer*> members;
    std::int64_t count = most_iterations;
    for (std::size_t k = first; k < trainers.size(); ++k) {
      auto* const trainer = static_cast<CudaTrainer*>(trainers[k]);
      if (left[k] == 0 || (k != first && !members.front()->loss()->goes_with(*trainer->loss()))) continue;
      places.push_back(k);
      members.push_back(trainer);
      count = std::min(count, left[k]);
    }
    for (CudaTrainer* member : members) member->start(count);
    for (std::int64_t i = 0; i < count; ++i) members.front()->launch(members);
    for (std::size_t m = 0; m < members.size(); ++m) {
      TrainOutcome& outcome = outcomes[places[m]];
      members[m]->finish(count, outcome);
      left[places[m]] = outcome.failed ? 0 : left[places[m]] - count;
    }
  }
  return outcomes;
}

}  // namespace fokker::cuda
