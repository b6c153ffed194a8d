// Paths of the probability flow with steps of their own on the device. Of a network whose adaptive works are resident
// (residency.hpp) one launch takes all paths from their first evaluation to their last (kernels/adaptive_sampler.cu).
//
// Every other model goes an evaluation at a time: its fields at a point of each path and the time where it stands, then a
// launch that takes each path to its next point (kernels/adaptive.cu). The workspace has places for some ten thousand
// paths; a place whose path has ended is given another sample, so that all of them are at work until fewer samples are
// left than places. Hutchinson's probes are those of consecutive samples: with them the places are filled together. The
// host only queues, and looks now and then how many paths have ended.
#include "fokker/adaptive_sampler.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "cuda/arena.hpp"
#include "cuda/backend.hpp"
#include "cuda/device_field.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/mlp_resident.hpp"
#include "cuda/residency.hpp"
#include "cuda/runtime.hpp"
#include "kernels/adaptive_launch.hpp"
#include "kernels/shared_layout.hpp"
#include "operations/adaptive_rule.hpp"
#include "operations/sampler_stages.hpp"

namespace fokker::cuda {
namespace {

constexpr std::size_t workspace_limit = std::size_t{16} << 20;  // of the places
constexpr int evaluations_a_look = 8;                           // not measured

template <class T>
class CudaAdaptiveSampler final : public AdaptiveOperator<T> {
 public:
  CudaAdaptiveSampler(const Queue& queue, const Model& model, const AdaptivePlan& plan)
      : queue_(queue),
        sde_(model.sde),
        along_(adaptive_rule<T>(model, plan, false)),
        back_(adaptive_rule<T>(model, plan, true)),
        variance_(model.sde.prior_variance()),
        log_volume_(model.standardisation.log_volume()),
        d_(model.dimension()),
        conditions_(model.condition()) {
    along_.sde = back_.sde = sde_.formulas();
    if (!model.standardisation.empty()) {
      mean_ = upload(model.standardisation.mean);
      deviation_ = upload(model.standardisation.deviation);
    }
    counter_ = DeviceMemory(sizeof(unsigned long long));
    if constexpr (in_float) {
      const auto* mlp = std::get_if<Mlp>(&model.network);
      if (mlp != nullptr) set_up_resident(*mlp);
    }
    if (sample_.wide() || log_density_.wide()) set_up_places(model);
  }

  AdaptiveReport sample(View<T> samples, const AdaptiveCall<T>& call, bool draw_prior) override {
    kernels::AdaptiveTask<T> task = task_of(along_, call);
    task.from = draw_prior ? nullptr : samples.data;
    task.prior_deviation = static_cast<float>(std::sqrt(variance_));
    task.states = samples.data;
    return run(sample_, task, samples.rows, call, nullptr);
  }

  AdaptiveReport log_density(View<const T> x, View<T> log_density, const Divergence& divergence,
                             const AdaptiveCall<T>& call) override {
    check_precision<T>(queue_.precision, true);
    kernels::AdaptiveTask<T> task = task_of(back_, call);
    task.from = x.data;
    task.log_density = log_density.data;
    task.log_constant = prior_log_norm(d_, variance_) - log_volume_;
    task.prior_variance = variance_;
    return run(log_density_, task, x.rows, call, &divergence);
  }

  std::size_t workspace_bytes() const override {
    return workspace_.bytes() + resident_totals_.bytes() + counter_.bytes() + (field_ ? field_->workspace_bytes() : 0);
  }

 private:
  static constexpr bool in_float = std::is_same_v<T, float>;

  void set_up_resident(const Mlp& mlp) {
    const Residency plan = plan_residency(mlp.architecture, queue_.precision, queue_.limits);
    sample_ = plan.adaptive_sample, log_density_ = plan.adaptive_log_density;
    if (plan.score.resident()) packed_ = pack_network(queue_, mlp);
    for (const auto& [work, of_work] : {std::pair(kernels::Work::adaptive_sample, sample_),
                                        std::pair(kernels::Work::adaptive_log_density, log_density_)}) {
      if (!of_work.resident()) continue;
      check(kernels::prepare_resident_adaptive(packed_->get(), work, queue_.limits), "prepare_resident_adaptive");
      const int most_places = queue_.limits.multiprocessors * of_work.warps * kernels::tile_rows;
      resident_totals_.reserve(static_cast<std::size_t>(most_places) * sizeof(kernels::AdaptiveTotals));
    }
  }

  // What an evaluation at a time needs.
  void set_up_places(const Model& model) {
    if constexpr (in_float) {
      if (packed_) field_ = make_resident_field(queue_, std::get<Mlp>(model.network), model.sde, packed_);
    }
    if (!field_) field_ = make_network_field<T>(queue_, model);
    check(kernels::prepare_integrators(), "prepare_integrators");  // of which sums take one
    check(kernels::prepare_adaptive(), "prepare_adaptive");
    constexpr std::int64_t some = 256;
    most_places_ =
        std::max<std::int64_t>(some, static_cast<std::int64_t>(workspace_limit / lay_out(nullptr, some)) * some);
    workspace_.reserve(lay_out(nullptr, most_places_));
    lay_out(workspace_.as<char>(), most_places_);
  }

  std::size_t lay_out(char* base, std::int64_t places) {
    Arena arena(base);
    const std::int64_t rows = std::int64_t{back_.components} * (2 + back_.tableau.stages);
    place_ = arena.take<kernels::AdaptivePlace>(places);
    totals_ = arena.take<kernels::AdaptiveTotals>(places);
    numbers_ = arena.take<double>(places * rows);
    time_ = arena.take<T>(places);
    input_ = arena.take<T>(places * d_);
    output_ = arena.take<T>(places * d_);
    trace_ = arena.take<T>(places);
    condition_ = arena.take<T>(places * conditions_);
    return arena.used();
  }

  kernels::AdaptiveTask<T> task_of(const AdaptiveRule& rule, const AdaptiveCall<T>& call) const {
    kernels::AdaptiveTask<T> task{};
    task.rule = rule;
    task.seed = call.seed;
    task.first_index = call.first_index;
    task.mean = mean_.as<const double>();
    task.deviation = deviation_.as<const double>();
    return task;
  }

  // divergence: of a log-density.
  AdaptiveReport run(const WorkPlan& plan, kernels::AdaptiveTask<T>& task, std::int64_t count,
                     const AdaptiveCall<T>& call, const Divergence* divergence) {
    AdaptiveReport report;
    if (count == 0) return report;
    const SetUp set_up(queue_.device, queue_.stream);
    DeviceMemory reports;
    if (!call.paths.empty()) {
      task.reports = static_cast<AdaptivePathReport*>(reports.reserve(call.paths.size_bytes()));
    }
    // One place would have one time, which fields take for a time of all points.
    const std::int64_t places = plan.resident() ? kernels::resident_places(count, plan.warps, queue_.limits)
                                                : std::clamp<std::int64_t>(count, 2, most_places_);
    task.totals = plan.resident() ? resident_totals_.as<kernels::AdaptiveTotals>() : totals_;
    clear(task.totals, places);
    if (plan.resident()) {
      if constexpr (in_float) follow_resident(plan, task, count, divergence);
    } else {
      follow(task, places, count, call, divergence);
    }
    for (const kernels::AdaptiveTotals& totals : download(task.totals, places)) add(report, report_of(totals));
    if (!call.paths.empty()) {
      check(cudaMemcpyAsync(call.paths.data(), reports.data(), call.paths.size_bytes(), cudaMemcpyDeviceToHost,
                            queue_.stream),
            "cudaMemcpyAsync");
      check(cudaStreamSynchronize(queue_.stream), "cudaStreamSynchronize");
    }
    return report;
  }

  void follow_resident(const WorkPlan& plan, const kernels::AdaptiveTask<float>& task, std::int64_t count,
                       const Divergence* divergence) const {
    auto* const taken = counter_.as<unsigned long long>();
    clear(taken, 1);
    check(kernels::launch_resident_adaptive(
              packed_->get(), plan.warps,
              {.task = task, .n = count, .taken = taken, .estimate = divergence ? *divergence : Divergence{}},
              queue_.limits, queue_.stream),
          "launch_resident_adaptive");
  }

  // An evaluation at a time.
  void follow(const kernels::AdaptiveTask<T>& task, std::int64_t places, std::int64_t count,
              const AdaptiveCall<T>& call, const Divergence* divergence) {
    kernels::AdaptiveArguments<T> a{};
    a.task = task;
    a.places = places;
    a.condition = call.condition.data;
    a.conditions = static_cast<int>(conditions_);
    a.place = place_;
    a.numbers = numbers_;
    a.time = time_;
    a.input = input_;
    a.own_condition = condition_;
    a.output = output_;
    a.trace = divergence ? trace_ : nullptr;
    a.finished = counter_.as<unsigned long long>();
    // Places without a path have a point too.
    clear(time_, places);
    clear(input_, places * d_);
    if (conditions_ > 0) clear(condition_, places * conditions_);
    const std::int64_t at_once = divergence && divergence->probes > 0 ? places : count;
    for (std::int64_t first = 0; first < count; first += at_once) {
      a.first = first, a.limit = std::min(first + at_once, count);
      Divergence estimate = divergence ? *divergence : Divergence{};
      estimate.first_index += static_cast<std::uint64_t>(first);
      follow(a, estimate);
    }
  }

  // Samples first … limit − 1 to their ends.
  void follow(kernels::AdaptiveArguments<T>& a, const Divergence& estimate) {
    clear(a.finished, 1);
    a.begin = true;
    check(kernels::launch_advance_paths(a, queue_.stream), "launch_advance_paths");
    a.begin = false;
    const Points<T> points{
        {time_, a.places, 1, Device::cuda},
        {input_, a.places, d_, Device::cuda},
        conditions_ > 0 ? View<const T>(condition_, a.places, conditions_, Device::cuda) : View<const T>()};
    FieldOutputs<T> outputs;
    outputs.score = {output_, a.places, d_, Device::cuda};
    if (a.trace) outputs.divergence = {trace_, a.places, 1, Device::cuda};
    const auto all = static_cast<unsigned long long>(a.limit - a.first);
    do {
      for (int k = 0; k < evaluations_a_look; ++k) {
        field_->evaluate(points, outputs, estimate);
        check(kernels::launch_advance_paths(a, queue_.stream), "launch_advance_paths");
      }
    } while (download(a.finished, 1)[0] < all);
  }

  template <class V>
  void clear(V* numbers, std::int64_t count) const {
    check(cudaMemsetAsync(numbers, 0, static_cast<std::size_t>(count) * sizeof(V), queue_.stream), "cudaMemsetAsync");
  }

  template <class V>
  std::vector<V> download(const V* from, std::int64_t count) const {
    std::vector<V> there(static_cast<std::size_t>(count));
    check(cudaMemcpyAsync(there.data(), from, there.size() * sizeof(V), cudaMemcpyDeviceToHost, queue_.stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(queue_.stream), "cudaStreamSynchronize");
    return there;
  }

  static AdaptiveReport report_of(const kernels::AdaptiveTotals& totals) {
    AdaptiveReport report;
    report.paths = totals.paths;
    report.accepted = totals.accepted;
    report.refused = totals.refused;
    report.evaluations = totals.evaluations;
    report.most_evaluations = totals.most_evaluations;
    report.failed = totals.failed;
    if (totals.failed == 0) return report;
    report.first_failed = totals.first_failed;
    report.why_first = totals.first.ended;
    report.steps_of_first = std::int64_t{totals.first.accepted} + totals.first.refused;
    report.time_of_first = totals.first.time;
    return report;
  }

  Queue queue_;
  DeviceSde sde_;
  AdaptiveRule along_, back_;
  double variance_, log_volume_;
  std::int64_t d_, conditions_;
  DeviceMemory mean_, deviation_;                // of the columns, where they are standardised
  WorkPlan sample_, log_density_;                // wide: an evaluation at a time
  std::shared_ptr<const ResidentImage> packed_;  // of a network whose score is resident
  DeviceMemory counter_;                         // one number
  DeviceMemory resident_totals_;                 // of the resident places
  // Of an evaluation at a time.
  std::unique_ptr<DeviceField<T>> field_;
  std::int64_t most_places_ = 0;
  DeviceMemory workspace_;
  // In it, of the places.
  kernels::AdaptivePlace* place_ = nullptr;
  kernels::AdaptiveTotals* totals_ = nullptr;
  double* numbers_ = nullptr;
  T *time_ = nullptr, *input_ = nullptr, *output_ = nullptr, *trace_ = nullptr, *condition_ = nullptr;
};

}  // namespace

template <class T>
std::unique_ptr<AdaptiveOperator<T>> make_adaptive_sampler(const Queue& queue, const Model& model,
                                                           const AdaptivePlan& plan) {
  return std::make_unique<CudaAdaptiveSampler<T>>(queue, model, plan);
}

template std::unique_ptr<AdaptiveOperator<float>> make_adaptive_sampler(const Queue&, const Model&,
                                                                        const AdaptivePlan&);
template std::unique_ptr<AdaptiveOperator<double>> make_adaptive_sampler(const Queue&, const Model&,
                                                                         const AdaptivePlan&);

}  // namespace fokker::cuda
