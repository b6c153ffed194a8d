// Samples and log-densities on the device. A network whose samples fit the resident kernels goes through the whole grid
// in one launch; any other model a stage at a time, fields and integrator by launches of their own, with the host only
// queueing. Coefficients of all schemes are computed in double and put on the device once, with the sampler (those of
// steps with other numbers with the first call that asks for them), and so are the biases that an embedding of the time
// makes of a resident network's.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/backend.hpp"
#include "cuda/device_field.hpp"
#include "cuda/mlp_resident.hpp"
#include "cuda/residency.hpp"
#include "cuda/runtime.hpp"
#include "cuda/time_biases.hpp"
#include "fokker/error.hpp"
#include "operations/sampler_stages.hpp"

namespace fokker::cuda {
namespace {

static_assert(most_snapshots <= kernels::most_snapshots);

constexpr std::size_t workspace_limit = std::size_t{8} << 20;  // of the states that go through the grid together
constexpr std::array all_schemes = {
    Scheme::euler_maruyama, Scheme::euler, Scheme::heun,          Scheme::rk4,
    Scheme::exponential,    Scheme::ddim,  Scheme::dpm_solver_2m, Scheme::stochastic_heun};

class CudaSampler final : public SampleOperator {
 public:
  CudaSampler(const Queue& queue, const Model& model, const TimeGrid& grid)
      : queue_(queue),
        d_(model.dimension()),
        steps_(grid.steps()),
        variance_(model.sde.prior_variance()),
        sde_(model.sde),
        forms_(model),
        times_(grid.times()) {
    check(kernels::prepare_integrators(), "prepare_integrators");  // of which resident samplers take the prior
    for (const Scheme scheme : all_schemes) {
      const Stepping own(scheme);
      backwards_.emplace(own, upload_path(times_, own));
      if (!is_stochastic(scheme)) forwards_.emplace(own, upload_path({times_.rbegin(), times_.rend()}, own));
    }
    const auto* mlp = std::get_if<Mlp>(&model.network);
    if (mlp != nullptr) plan_ = plan_residency(mlp->architecture, queue.precision, queue.limits);
    if (plan_.sample.resident() || plan_.log_density.resident()) pack(*mlp);
    for (const auto& [work, plan] :
         {std::pair(kernels::Work::sample, plan_.sample), std::pair(kernels::Work::log_density, plan_.log_density)}) {
      if (!plan.resident()) continue;
      check(kernels::prepare_resident_sample(packed_->get(), work, bias_stride_ > 0, queue.limits),
            "prepare_resident_sample");
    }
    if (!plan_.sample.wide() && !plan_.log_density.wide()) return;

    field_ = plan_.score.resident() ? make_resident_field(queue, *mlp, model.sde, packed_)
                                    : make_network_field<float>(queue, model);
    std::vector<DeviceMemory*> states = {&state_, &stage_, &sum_, &score_};
    const auto scales_input = [](const auto& of) {
      const std::vector<Stage>& stages = of.second.stages;
      return std::any_of(stages.begin(), stages.end(), [](const Stage& stage) { return stage.in != 1; });
    };
    if (std::any_of(backwards_.begin(), backwards_.end(), scales_input) ||
        std::any_of(forwards_.begin(), forwards_.end(), scales_input)) {
      states.push_back(&input_);
    }
    const std::size_t point = (states.size() * static_cast<std::size_t>(d_) + 1) * sizeof(float) + sizeof(double);
    chunk_ = static_cast<std::int64_t>(workspace_limit / point);
    integral_ = DeviceMemory(static_cast<std::size_t>(chunk_) * sizeof(double));
    for (DeviceMemory* memory : states) {
      *memory = DeviceMemory(static_cast<std::size_t>(chunk_ * d_) * sizeof(float));
    }
    divergence_ = DeviceMemory(static_cast<std::size_t>(chunk_) * sizeof(float));
  }

  void sample(View<float> samples, const SampleOptions& options, bool draw_prior) override {
    if (samples.rows == 0) return;
    const CurrentDevice guard(queue_.device);
    const Path& path = usable(path_of(Stepping(options)));
    const float deviation = static_cast<float>(std::sqrt(variance_));
    const auto prior = [&](float* x, std::int64_t n, std::uint64_t index) {
      check(kernels::launch_prior(x, n, static_cast<int>(d_), deviation, options.seed, index, queue_.stream),
            "launch_prior");
    };
    const auto keep = [&](const float* x, std::int64_t first, std::int64_t n, std::int64_t snapshot) {
      check(cudaMemcpyAsync(options.snapshots.data + (snapshot * samples.rows + first) * d_, x,
                            static_cast<std::size_t>(n * d_) * sizeof(float), cudaMemcpyDeviceToDevice, queue_.stream),
            "cudaMemcpyAsync");
    };
    const std::vector<std::int32_t>& asked = options.snapshot_steps;
    const bool density = static_cast<bool>(options.log_density);
    if (density) check_precision<float>(queue_.precision, true);
    const WorkPlan& plan = density ? plan_.log_density : plan_.sample;
    if (plan.resident()) {
      // The kernel keeps states after steps. Those before the first are drawn by themselves, to the same bits.
      const bool keeps_first = !asked.empty() && asked.front() == 0;
      if (keeps_first && draw_prior) prior(samples.data, samples.rows, options.first_index);
      if (keeps_first) keep(samples.data, 0, samples.rows, 0);
      kernels::SampleArguments a = arguments(path, samples.rows, samples.data);
      a.noise_in_last_step = options.noise_in_last_step;
      a.draw_prior = draw_prior && !keeps_first;
      a.prior_deviation = deviation;
      a.seed = options.seed;
      a.first_index = options.first_index;
      a.snapshot_count = static_cast<int>(asked.size()) - keeps_first;
      std::copy(asked.begin() + keeps_first, asked.end(), a.snapshot_steps);
      a.snapshots = options.snapshots.data + (keeps_first ? samples.size() : 0);
      if (density) {
        take_density(a, options.log_density.data, options.divergence);
        a.from_prior = true;
      }
      launch(plan, a);
      return;
    }
    for (std::int64_t first = 0; first < samples.rows; first += chunk_) {
      const std::int64_t n = std::min(chunk_, samples.rows - first);
      float* x = samples.data + first * d_;
      const std::uint64_t index = options.first_index + static_cast<std::uint64_t>(first);
      if (draw_prior) prior(x, n, index);
      Divergence estimate = options.divergence;
      estimate.first_index += static_cast<std::uint64_t>(first);
      if (density) {
        check(kernels::launch_begin_log_density(x, integral_.as<double>(), n, static_cast<int>(d_), variance_,
                                                queue_.stream),
              "launch_begin_log_density");
      }
      std::int64_t snapshot = 0;
      for (std::int64_t done = 0; done <= steps_; ++done) {
        if (done > 0) {
          take_step(path, done - 1, x, rows_of(options.condition, first, n), n, &options, index,
                    density ? &estimate : nullptr);
        }
        if (snapshot < std::ssize(asked) && asked[static_cast<std::size_t>(snapshot)] == done) {
          keep(x, first, n, snapshot++);
        }
      }
      if (density) {
        check(
            kernels::launch_end_log_density(integral_.as<double>(), options.log_density.data + first, n, queue_.stream),
            "launch_end_log_density");
      }
    }
  }

  void log_density(View<const float> x, View<float> log_density, Scheme scheme, const Divergence& estimate,
                   const PointsFinished&, View<const float> condition) override {
    const CurrentDevice guard(queue_.device);
    check_precision<float>(queue_.precision, true);
    const Path& path = usable(forwards_.at(Stepping(scheme)));
    if (x.rows == 0) return;
    if (plan_.log_density.resident()) {
      kernels::SampleArguments a = arguments(path, x.rows, const_cast<float*>(x.data));  // read only there
      take_density(a, log_density.data, estimate);
      launch(plan_.log_density, a);
      return;
    }
    for (std::int64_t first = 0; first < x.rows; first += chunk_) {
      const std::int64_t n = std::min(chunk_, x.rows - first);
      check(cudaMemcpyAsync(state_.data(), x.data + first * d_, static_cast<std::size_t>(n * d_) * sizeof(float),
                            cudaMemcpyDeviceToDevice, queue_.stream),
            "cudaMemcpyAsync");
      check(cudaMemsetAsync(integral_.data(), 0, static_cast<std::size_t>(n) * sizeof(double), queue_.stream),
            "cudaMemsetAsync");
      Divergence chunk_estimate = estimate;
      chunk_estimate.first_index += static_cast<std::uint64_t>(first);
      for (std::int64_t step = 0; step < steps_; ++step) {
        take_step(path, step, state_.as<float>(), rows_of(condition, first, n), n, nullptr, 0, &chunk_estimate);
      }
      check(kernels::launch_prior_log_density(state_.as<float>(), integral_.as<double>(), log_density.data + first, n,
                                              static_cast<int>(d_), variance_, queue_.stream),
            "launch_prior_log_density");
    }
  }

  std::size_t workspace_bytes() const override {
    std::size_t stages = 0;
    for (const Paths* paths : {&backwards_, &forwards_}) {
      for (const auto& [stepping, path] : *paths) stages += path.on_device.bytes();
    }
    return (field_ ? field_->workspace_bytes() : 0) + state_.bytes() + stage_.bytes() + sum_.bytes() + score_.bytes() +
           input_.bytes() + divergence_.bytes() + integral_.bytes() + stages;
  }

 private:
  // The stages of a scheme, on the host for launches of their own, on the device for the resident kernels and as times.
  struct Path {
    int per_step;
    std::vector<Stage> stages;
    DeviceMemory on_device;
    std::string refusal;  // why this model has none on this grid
    // Of a resident network with an embedding of the time: the biases, and of each stage which of them it has.
    std::shared_ptr<const DeviceMemory> biases, bias_rows;
  };
  using Paths = std::map<Stepping, Path>;

  void pack(const Mlp& mlp) {
    if (mlp.architecture.time.raw()) {
      packed_ = pack_network(queue_, mlp);
      return;
    }
    packed_ = pack_network(queue_, without_time(mlp));
    timed_ = mlp;
    std::vector<Path*> all;
    for (Paths* paths : {&backwards_, &forwards_}) {
      for (auto& [stepping, path] : *paths) all.push_back(&path);
    }
    bias(all);
  }

  // Gives paths the biases of their stages' times, which they share.
  void bias(const std::vector<Path*>& paths) {
    TimeBiases biases(*timed_, packed_->get().width);
    for (Path* path : paths) {
      std::vector<std::int32_t> rows;
      for (const Stage& stage : path->stages) rows.push_back(biases.row(stage.time));
      path->bias_rows = std::make_shared<const DeviceMemory>(upload(rows));
    }
    const auto uploaded = std::make_shared<const DeviceMemory>(biases.upload());
    for (Path* path : paths) path->biases = uploaded;
    bias_stride_ = biases.stride();
  }

  const Path& path_of(const Stepping& stepping) {
    if (const auto found = backwards_.find(stepping); found != backwards_.end()) return found->second;
    const SetUp set_up(queue_.device, queue_.stream);
    Path path = upload_path(times_, stepping);
    if (timed_ && path.refusal.empty()) bias({&path});
    return backwards_.emplace(stepping, std::move(path)).first->second;
  }

  Path upload_path(const std::vector<double>& times, const Stepping& stepping) const {
    Path path{};
    try {
      path.stages = stages_of(sde_, forms_, times, stepping);
      path.per_step = static_cast<int>(std::ssize(path.stages) / steps_);
    } catch (const Error& error) {
      path.refusal = error.what();
    }
    path.on_device = upload(path.stages);
    return path;
  }
  static const Path& usable(const Path& path) {
    if (!path.refusal.empty()) throw Error(path.refusal);
    return path;
  }

  kernels::SampleArguments arguments(const Path& path, std::int64_t n, float* x) const {
    kernels::SampleArguments a{};
    a.n = n;
    a.x = x;
    a.stages = path.on_device.as<const Stage>();
    if (path.biases) {
      a.biases = path.biases->as<const float>();
      a.bias_rows = path.bias_rows->as<const std::int32_t>();
    }
    a.bias_stride = bias_stride_;
    a.steps = static_cast<int>(steps_);
    a.stages_per_step = path.per_step;
    return a;
  }

  void take_density(kernels::SampleArguments& a, float* log_density, const Divergence& estimate) const {
    a.log_density = log_density;
    a.prior_variance = variance_;
    a.prior_log_norm = prior_log_norm(d_, variance_);
    a.estimate = estimate;
  }

  void launch(const WorkPlan& plan, const kernels::SampleArguments& a) const {
    check(kernels::launch_resident_sample(packed_->get(), plan.warps, a, queue_.limits, queue_.stream),
          "launch_resident_sample");
  }

  static View<const float> rows_of(const View<const float>& of, std::int64_t first, std::int64_t n) {
    return of ? View<const float>(of.data + first * of.columns, n, of.columns, Device::cuda) : of;
  }

  // One step of x [n, d]. options: of a call that draws; estimate: how the divergence is found, where its integral is wanted.
  void take_step(const Path& path, std::int64_t step, float* x, const View<const float>& condition, std::int64_t n,
                 const SampleOptions* options, std::uint64_t index, const Divergence* estimate) {
    for (int k = 0; k < path.per_step; ++k) {
      const std::size_t number = static_cast<std::size_t>(step * path.per_step + k);
      const Stage& stage = path.stages[number];
      kernels::StageArguments a{};
      a.n = n;
      a.dimension = static_cast<int>(d_);
      a.stage = stage;
      a.x = x;
      if (options) {
        if (step + 1 == steps_ && !options->noise_in_last_step && !stage.before_step) a.stage.coefficients.noise = 0;
        a.seed = options->seed;
        a.first_index = index;
        a.step = static_cast<std::uint64_t>(step);
      }
      if (stage.lift_noise != 0) check(kernels::launch_lift(a, queue_.stream), "launch_lift");
      const float* stage_x = stage.opens ? x : stage_.as<float>();
      if (stage.in != 1) {
        check(kernels::launch_scaled(stage_x, stage.in, false, n * d_, input_.as<float>(), queue_.stream),
              "launch_scaled");
        stage_x = input_.as<float>();
      }
      FieldOutputs<float> outputs;
      outputs.score = {score_.as<float>(), n, d_, Device::cuda};
      if (estimate) outputs.divergence = {divergence_.as<float>(), n, 1, Device::cuda};
      field_->evaluate({{&path.on_device.as<const Stage>()[number].time, 1, 1, Device::cuda},
                        {stage_x, n, d_, Device::cuda},
                        condition},
                       outputs, estimate ? *estimate : Divergence{});
      a.score = score_.as<float>();
      a.divergence = estimate ? divergence_.as<float>() : nullptr;
      a.stage_x = stage_.as<float>();
      a.sum = sum_.as<float>();
      a.next_node = stage.closes ? 0 : path.stages[number + 1].node;
      a.log_density = estimate ? integral_.as<double>() : nullptr;
      check(kernels::launch_stage(a, queue_.stream), "launch_stage");
    }
  }

  Queue queue_;
  std::int64_t d_, steps_;
  double variance_;
  ForwardSde sde_;
  SamplerForms forms_;
  std::vector<double> times_;
  Paths backwards_, forwards_;                   // forwards of the probability flow alone
  Residency plan_;                               // of a mixture and a composition, all wide
  std::shared_ptr<const ResidentImage> packed_;  // where a work is resident; the field's too where its score is
  std::optional<Mlp> timed_;                     // a resident network with an embedding of the time
  int bias_stride_ = 0;
  std::unique_ptr<DeviceField<float>> field_;  // where a work is wide
  std::int64_t chunk_ = 0;
  DeviceMemory state_, stage_, sum_, score_, divergence_, integral_;
  DeviceMemory input_;  // C times a stage's state, where C is not 1
};

}  // namespace

std::unique_ptr<SampleOperator> make_sampler(const Queue& queue, const Model& model, const TimeGrid& grid) {
  return std::make_unique<CudaSampler>(queue, model, grid);
}

}  // namespace fokker::cuda
