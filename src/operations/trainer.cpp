// Trainers and their runs, alone or in a group: what can be wrong with their arguments, and who trains with whom. A
// backend's group (core/operations.hpp) does the iterations.
#include "fokker/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "core/check.hpp"
#include "core/operations.hpp"
#include "fokker/error.hpp"
#include "fokker/file.hpp"
#include "fokker/loss.hpp"
#include "operations/curvature.hpp"
#include "operations/trainer_state.hpp"

namespace fokker {

void TrainOptions::validate() const {
  // `least` itself is allowed where `closed`.
  const auto number = [](const char* what, double value, double least, bool closed, double most) {
    if (!(value > least || (closed && value == least)) || !(value <= most)) {
      throw Error(
          fmt::format("{} is {}; allowed: {} {} up to {}", what, value, closed ? "from" : "more than", least, most));
    }
  };
  const double huge = 1e30;
  check_count("the number of iterations", iterations, 1, most_iterations);
  check_count("the number of denoising points", denoising_points, 1, most_points);
  check_count("the number of collocation points", collocation_points, 0, most_points);
  number("the residual weight", residual_weight, 0, true, huge);
  if (residual_weight > 0 && collocation_points == 0) {
    throw Error(
        fmt::format("the residual weight is {} without collocation points; allowed: 1 point or more, or weight 0",
                    residual_weight));
  }
  check_count("the number of probes, 0 for the exact residual,", residual_probes, 0, most_residual_probes);
  number("the half width of the collocation box", box, 0, false, huge);
  number("the mean of ln(sigma/m)", log_sigma_mean, -100, true, 100);
  number("the deviation of ln(sigma/m)", log_sigma_deviation, 0, false, 100);
  number("the peak rate", peak_rate, 0, false, huge);
  number("the decay of the average", average_decay, 0, true, 1);
  number("the fraction of iterations averaged over", average_fraction, 0, true, 1);
  number("the probability of dropping a condition", condition_drop, 0, true, 1);
  number("the norm to clip gradients at", clip_norm, 0, true, huge);
  if (loss_weight != LossWeight::given) {
    if (loss_weights.empty()) return;
    throw Error(fmt::format("a table of {} loss weights was given beside the loss weight {}; allowed: beside given",
                            loss_weights.size(), to_string(loss_weight)));
  }
  check_count("the number of given loss weights", std::ssize(loss_weights), 1, most_loss_weights);
  for (std::size_t k = 0; k < loss_weights.size(); ++k) {
    const auto [t, weight] = loss_weights[k];
    number(fmt::format("loss weight number {}", k + 1).c_str(), weight, 0, true, huge);
    number(fmt::format("the time of loss weight number {}", k + 1).c_str(), t, 0, true, huge);
    if (k == 0 || static_cast<float>(loss_weights[k - 1].t) < static_cast<float>(t)) continue;
    throw Error(fmt::format("the time of loss weight number {} is {} after {}; allowed: times that ascend as floats",
                            k + 1, t, loss_weights[k - 1].t));
  }
}

TrainingStopped::TrainingStopped(const TrainRecord& failed)
    : Error([&] {
        const auto text = [](double value) {
          return std::isfinite(value) ? fmt::format("{:.4g}", value) : std::string("not finite");
        };
        return fmt::format(
            "training stopped at iteration {}, whose loss or gradient is not finite or whose gradient has a norm above "
            "{} (denoising {}, mean squared residual {}, gradient norm {}); a smaller rate or clipping may help",
            failed.iteration, largest_norm, text(failed.denoising), text(failed.residual), text(failed.gradient_norm));
      }()) {}

namespace {

// Everything that can be wrong, before anything is set up.
void validate(const Model& model, const DataSet& data, const TrainOptions& options) {
  options.validate();
  model.validate();
  const auto* mlp = std::get_if<Mlp>(&model.network);
  if (mlp == nullptr) {
    throw Error(fmt::format("a {} was given to train; allowed: an MLP",
                            std::holds_alternative<Composition>(model.network) ? "composition" : "Gaussian mixture"));
  }
  if (data.dimension() != model.dimension() + model.condition()) {
    const std::string own =
        model.condition() > 0 ? fmt::format(" with a condition of {} numbers", model.condition()) : "";
    throw Error(fmt::format("a model of dimension {}{} was given data set '{}' of dimension {}; allowed: {}",
                            model.dimension(), own, data.name(), data.dimension(),
                            own.empty() ? "the same dimension" : "columns of x and then of the condition"));
  }
  if (options.condition_drop > 0 && model.condition() == 0) {
    throw Error(fmt::format("conditions are to be dropped with probability {}, and the network takes none; allowed: 0",
                            options.condition_drop));
  }
  if (options.residual_weight > 0 && model.output() == Output::score) {
    throw Error(
        fmt::format("residual weight {} was given for a vector net, for which the residual is not there yet; "
                    "allowed: 0, or a net whose output is a potential",
                    options.residual_weight));
  }
  check_curvature("training", why_no_curvature(model));
  if (options.residual_weight > 0) {
    check_curvature("training with the residual", why_no_residual_gradient(mlp->architecture));
  }
  for (const double value : mlp->parameters) {
    if (!(std::fabs(value) <= std::numeric_limits<float>::max())) {
      throw Error(fmt::format("a parameter of the model is {}; allowed: what float32 can hold", value));
    }
  }
}

void check_not_running(bool running) {
  if (running) throw Error("a trainer is used in the sink of its own run; allowed: after the run");
}

// Null where the ranks have no communicator of their GPUs.
const GpuRanks* gpus_of(const std::shared_ptr<Ranks>& ranks) { return dynamic_cast<const GpuRanks*>(ranks.get()); }

// A trainer as its runs see it.
struct Member {
  Backend* backend;
  TrainOperator* operation;
  std::int64_t iterations;  // of its options
  bool* running;
};

// Trainers that run together: one group for each backend that they have.
class Runner {
 public:
  explicit Runner(std::vector<Member> members) : members_(std::move(members)) {
    for (std::size_t k = 0; k < members_.size(); ++k) {
      Backend* const backend = members_[k].backend;
      auto part = std::find_if(parts_.begin(), parts_.end(), [&](const Part& p) { return p.backend == backend; });
      if (part == parts_.end()) part = parts_.insert(part, Part{backend, {}, {}});
      part->places.push_back(k);
    }
    for (Part& part : parts_) {
      std::vector<TrainOperator*> operations;
      for (const std::size_t k : part.places) operations.push_back(members_[k].operation);
      part.group = part.backend->train_group(operations);
    }
  }

  // Up to `count` more iterations of each member but those that have stopped; marks those that stop.
  void run(std::int64_t count, const TrainingSink& sink, std::vector<bool>& has_stopped) {
    if (count < 0) throw Error(fmt::format("{} iterations asked for; allowed: 0 or more", count));
    if (!sink) throw Error("a run was given an empty sink; allowed: one that can be called");
    for (const Member& member : members_) check_not_running(*member.running);
    const Running running(members_);
    std::size_t first_stopped = members_.size();
    std::optional<TrainingStopped> stopped;
    bool goes_on = true;
    for (auto part = parts_.begin(); goes_on && part != parts_.end(); ++part) {
      std::vector<std::int64_t> counts;
      for (const std::size_t k : part->places) {
        const std::int64_t left = members_[k].iterations - members_[k].operation->iteration();
        counts.push_back(has_stopped[k] ? 0 : std::min(count, left));
      }
      goes_on = part->group->run(counts, [&](TrainingNews news) {
        news.trainer = part->places[news.trainer];
        if (news.stopped != nullptr) {
          has_stopped[news.trainer] = true;
          if (!stopped || news.trainer < first_stopped) stopped.emplace(*news.stopped);
          first_stopped = std::min(first_stopped, news.trainer);
        }
        return sink(news);
      });
    }
    if (stopped) throw TrainingStopped(*std::move(stopped));
  }

 private:
  struct Part {
    Backend* backend;
    std::vector<std::size_t> places;  // in members_
    std::unique_ptr<TrainGroupOperator> group;
  };
  struct Running {
    const std::vector<Member>& members;
    explicit Running(const std::vector<Member>& all) : members(all) { set(true); }
    ~Running() { set(false); }
    void set(bool now) const {
      for (const Member& member : members) *member.running = now;
    }
  };

  std::vector<Member> members_;
  std::vector<Part> parts_;
};

// The records of each trainer of a run with a sink.
template <class Run>
std::vector<std::vector<TrainRecord>> records_of(std::size_t trainers, const Run& run) {
  std::vector<std::vector<TrainRecord>> records(trainers);
  std::size_t first_stopped = trainers;
  try {
    run([&](const TrainingNews& news) {
      records[news.trainer].insert(records[news.trainer].end(), news.records.begin(), news.records.end());
      if (news.stopped != nullptr) first_stopped = std::min(first_stopped, news.trainer);
      return true;
    });
  } catch (TrainingStopped& stopped) {
    stopped.records = std::move(records[first_stopped]);
    throw;
  }
  return records;
}

}  // namespace

struct Trainer::State {
  State(const Context& the_context, const Model& initial, const DataSet& the_data, const TrainOptions& the_options,
        std::shared_ptr<Ranks> the_ranks)
      : context(the_context),
        model(initial),
        data(the_data),
        options(the_options),
        ranks(std::move(the_ranks)),
        operation(
            context.backend().trainer(initial, data.standardised(context, model.standardisation), options, ranks)),
        alone({member()}) {}
  void check_ranks() const {
    if (ranks->size() == 1) return;
    const std::string arithmetic = context.backend().arithmetic();
    check_same_work(
        *ranks,
        hash_bytes(std::as_bytes(std::span(arithmetic)), training_hash(model, data, options, operation->state())),
        "training");
  }
  Member member() { return {&context.backend(), operation.get(), options.iterations, &running}; }

  Context context;
  Model model;  // its parameters are those the trainer was made with
  DataSet data;
  TrainOptions options;
  std::shared_ptr<Ranks> ranks;
  std::unique_ptr<TrainOperator> operation;
  bool running = false;
  Runner alone;
};

Trainer::Trainer(const Context& context, const Model& initial, const DataSet& data, const TrainOptions& options,
                 std::shared_ptr<Ranks> ranks) {
  validate(initial, data, options);
  data.check_context(context);
  if (!ranks) ranks = one_rank();
  if (const GpuRanks* const gpus = gpus_of(ranks); gpus == nullptr) {
    if (ranks->size() > 1 && context.device() != Device::cpu) {
      throw Error(
          fmt::format("{} ranks were given to train on the {} backend without a communicator of their GPUs; allowed: "
                      "1, GpuRanks, or the CPU backend",
                      ranks->size(), context.backend_name()));
    }
  } else if (gpus->gpu() != context.gpu()) {
    throw Error(fmt::format(
        "rank {} of {} of an NCCL communicator, on GPU {}, was given to train on {}; allowed: that GPU", gpus->rank(),
        gpus->size(), gpus->gpu(), context.gpu() < 0 ? "the CPU backend" : fmt::format("GPU {}", context.gpu())));
  } else if (gpus->aborted()) {
    throw Error(
        fmt::format("rank {} of {} was given to train with an NCCL communicator that was aborted after a failure; "
                    "allowed: a new one",
                    gpus->rank(), gpus->size()));
  }
  state_ = std::make_unique<State>(context, initial, data, options, std::move(ranks));
  state_->check_ranks();
}

Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;

Trainer Trainer::resume(const Context& context, const std::string& path, const DataSet& data,
                        std::shared_ptr<Ranks> ranks) {
  if (!ranks) ranks = one_rank();
  SavedTraining saved = read_training(path, data, *ranks);
  Trainer trainer(context, saved.model, data, saved.options, std::move(ranks));
  trainer.state_->operation->restore(std::move(saved.state));
  trainer.state_->check_ranks();
  return trainer;
}

void Trainer::run(std::int64_t count, const TrainingSink& sink) {
  std::vector<bool> has_stopped{false};
  held(state_, "Trainer").alone.run(count, sink, has_stopped);
}

std::vector<TrainRecord> Trainer::run(std::int64_t count) {
  return std::move(records_of(1, [&](const TrainingSink& sink) { run(count, sink); }).front());
}

std::int64_t Trainer::iteration() const { return held(state_, "Trainer").operation->iteration(); }

const TrainOptions& Trainer::options() const { return held(state_, "Trainer").options; }

const std::shared_ptr<Ranks>& Trainer::ranks() const { return held(state_, "Trainer").ranks; }

Model Trainer::model() const {
  const State& state = held(state_, "Trainer");
  check_not_running(state.running);
  const TrainState now = state.operation->state();
  Model model = state.model;
  std::vector<double>& parameters = std::get<Mlp>(model.network).parameters;
  if (now.average_count > 0) {
    parameters = now.average;
  } else {
    parameters.assign(now.parameters.begin(), now.parameters.end());
  }
  return model;
}

void Trainer::save_state(const std::string& path) const {
  const State& state = held(state_, "Trainer");
  check_not_running(state.running);
  write_training(path, state.model, state.data, state.options, state.operation->state());
}

struct TrainingGroup::State {
  explicit State(std::vector<Trainer> all)
      : trainers(std::move(all)), runner(members(trainers)), has_stopped(trainers.size(), false) {}
  static std::vector<Member> members(std::vector<Trainer>& trainers) {
    std::vector<Member> members;
    for (std::size_t k = 0; k < trainers.size(); ++k) {
      if (!trainers[k].state_) {
        throw Error(fmt::format("trainer {} of {} was moved away; allowed: trainers", k, trainers.size()));
      }
      const std::shared_ptr<Ranks>&first = trainers.front().ranks(), &own = trainers[k].ranks();
      const auto shared = [](const std::shared_ptr<Ranks>& ranks) { return ranks->size() > 1 || gpus_of(ranks); };
      if (own != first && (shared(own) || shared(first))) {
        throw Error(fmt::format(
            "trainer {} of {} was made with other ranks than trainer 0; allowed: the same ranks for all of a group", k,
            trainers.size()));
      }
      members.push_back(trainers[k].state_->member());
    }
    return members;
  }

  std::vector<Trainer> trainers;
  Runner runner;
  std::vector<bool> has_stopped;
};

TrainingGroup::TrainingGroup(std::vector<Trainer> trainers) : state_(std::make_unique<State>(std::move(trainers))) {}
TrainingGroup::~TrainingGroup() = default;
TrainingGroup::TrainingGroup(TrainingGroup&&) noexcept = default;
TrainingGroup& TrainingGroup::operator=(TrainingGroup&&) noexcept = default;

std::size_t TrainingGroup::size() const { return held(state_, "TrainingGroup").trainers.size(); }

const Trainer& TrainingGroup::operator[](std::size_t k) const {
  const std::vector<Trainer>& trainers = held(state_, "TrainingGroup").trainers;
  if (k >= trainers.size()) {
    throw Error(fmt::format("trainer {} of a group of {} asked for; allowed: from 0 on", k, trainers.size()));
  }
  return trainers[k];
}

void TrainingGroup::run(std::int64_t count, const TrainingSink& sink) {
  State& state = held(state_, "TrainingGroup");
  state.runner.run(count, sink, state.has_stopped);
}

std::vector<std::vector<TrainRecord>> TrainingGroup::run(std::int64_t count) {
  return records_of(size(), [&](const TrainingSink& sink) { run(count, sink); });
}

std::vector<Trainer> TrainingGroup::release() {
  State& state = held(state_, "TrainingGroup");
  for (const Trainer& trainer : state.trainers) check_not_running(trainer.state_->running);
  std::vector<Trainer> trainers = std::move(state.trainers);
  state_ = std::make_unique<State>(std::vector<Trainer>());
  return trainers;
}

}  // namespace fokker
