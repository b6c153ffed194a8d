// Paths of the probability flow with steps of their own on the device, for every model: the network's fields at a point
// of each path and the time where it stands, then a launch that takes each path to its next point
// (kernels/adaptive.cu). The workspace has places for some ten thousand paths; a place whose path has ended is given
// another sample, so that all of them are at work until fewer samples are left than places. Hutchinson's probes are those
// of consecutive samples: with them the places are filled together. The host only queues, and looks now and then how many
// paths have ended.
#include "fokker/adaptive_sampler.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "cuda/arena.hpp"
#include "cuda/backend.hpp"
#include "cuda/device_field.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/runtime.hpp"
#include "kernels/adaptive_launch.hpp"
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
        conditions_(model.condition()),
        field_(make_network_field<T>(queue, model)) {
    along_.sde = back_.sde = sde_.formulas();
    if (!model.standardisation.empty()) {
      mean_ = upload(model.standardisation.mean);
      deviation_ = upload(model.standardisation.deviation);
    }
    check(kernels::prepare_integrators(), "prepare_integrators");
    check(kernels::prepare_adaptive(), "prepare_adaptive");
    constexpr std::int64_t some = 256;
    most_places_ =
        std::max<std::int64_t>(some, static_cast<std::int64_t>(workspace_limit / lay_out(nullptr, some)) * some);
    workspace_.reserve(lay_out(nullptr, most_places_));
    lay_out(workspace_.as<char>(), most_places_);
  }

  AdaptiveReport sample(View<T> samples, const AdaptiveCall<T>& call, bool draw_prior) override {
    kernels::AdaptiveArguments<T> a = arguments(along_, call);
    a.from = draw_prior ? nullptr : samples.data;
    a.prior_deviation = static_cast<float>(std::sqrt(variance_));
    a.states = samples.data;
    return run(a, samples.rows, call, nullptr);
  }

  AdaptiveReport log_density(View<const T> x, View<T> log_density, const Divergence& divergence,
                             const AdaptiveCall<T>& call) override {
    check_precision<T>(queue_.precision, true);
    kernels::AdaptiveArguments<T> a = arguments(back_, call);
    a.from = x.data;
    a.log_density = log_density.data;
    a.log_constant = prior_log_norm(d_, variance_) - log_volume_;
    a.prior_variance = variance_;
    return run(a, x.rows, call, &divergence);
  }

  std::size_t workspace_bytes() const override { return workspace_.bytes() + field_->workspace_bytes(); }

 private:
  std::size_t lay_out(char* base, std::int64_t places) {
    Arena arena(base);
    const std::int64_t rows = std::int64_t{back_.components} * (2 + back_.tableau.stages);
    place_ = arena.take<kernels::AdaptivePlace>(places);
    finished_ = arena.take<unsigned long long>(1);
    numbers_ = arena.take<double>(places * rows);
    time_ = arena.take<T>(places);
    input_ = arena.take<T>(places * d_);
    output_ = arena.take<T>(places * d_);
    trace_ = arena.take<T>(places);
    condition_ = arena.take<T>(places * conditions_);
    return arena.used();
  }

  kernels::AdaptiveArguments<T> arguments(const AdaptiveRule& rule, const AdaptiveCall<T>& call) const {
    kernels::AdaptiveArguments<T> a{};
    a.rule = rule;
    a.seed = call.seed;
    a.first_index = call.first_index;
    a.condition = call.condition.data;
    a.conditions = static_cast<int>(conditions_);
    a.mean = mean_.as<const double>();
    a.deviation = deviation_.as<const double>();
    a.place = place_;
    a.numbers = numbers_;
    a.time = time_;
    a.input = input_;
    a.own_condition = condition_;
    a.output = output_;
    a.finished = finished_;
    return a;
  }

  // divergence: of a log-density.
  AdaptiveReport run(kernels::AdaptiveArguments<T>& a, std::int64_t count, const AdaptiveCall<T>& call,
                     const Divergence* divergence) {
    AdaptiveReport report;
    if (count == 0) return report;
    const SetUp set_up(queue_.device, queue_.stream);
    // One place would have one time, which fields take for a time of all points.
    a.places = std::clamp<std::int64_t>(count, 2, most_places_);
    a.trace = divergence ? trace_ : nullptr;
    DeviceMemory reports;
    if (!call.paths.empty()) {
      a.reports = static_cast<AdaptivePathReport*>(reports.reserve(call.paths.size_bytes()));
    }
    clear(place_, a.places);
    // Places without a path have a point too.
    clear(time_, a.places);
    clear(input_, a.places * d_);
    if (conditions_ > 0) clear(condition_, a.places * conditions_);
    const std::int64_t at_once = divergence && divergence->probes > 0 ? a.places : count;
    for (std::int64_t first = 0; first < count; first += at_once) {
      a.first = first, a.limit = std::min(first + at_once, count);
      Divergence estimate = divergence ? *divergence : Divergence{};
      estimate.first_index += static_cast<std::uint64_t>(first);
      follow(a, estimate);
    }
    for (const kernels::AdaptivePlace& place : download<kernels::AdaptivePlace>(place_, a.places)) {
      add(report, report_of(place.totals));
    }
    if (!call.paths.empty()) {
      check(cudaMemcpyAsync(call.paths.data(), reports.data(), call.paths.size_bytes(), cudaMemcpyDeviceToHost,
                            queue_.stream),
            "cudaMemcpyAsync");
      check(cudaStreamSynchronize(queue_.stream), "cudaStreamSynchronize");
    }
    return report;
  }

  // Samples first … limit − 1 to their ends.
  void follow(kernels::AdaptiveArguments<T>& a, const Divergence& estimate) {
    clear(finished_, 1);
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
    } while (download<unsigned long long>(finished_, 1)[0] < all);
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
  std::unique_ptr<DeviceField<T>> field_;
  DeviceMemory mean_, deviation_;  // of the columns, where they are standardised
  std::int64_t most_places_ = 0;
  DeviceMemory workspace_;
  // In it, of the places.
  kernels::AdaptivePlace* place_ = nullptr;
  unsigned long long* finished_ = nullptr;
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
