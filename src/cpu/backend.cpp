#include "cpu/backend.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "core/parallel.hpp"
#include "core/processors.hpp"
#include "cpu/data.hpp"
#include "cpu/simd.hpp"
#include "fokker/error.hpp"

namespace fokker::cpu {
namespace {

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int threads) : threads_(make_threads(threads)) {}

  Device device() const override { return Device::cpu; }
  std::string name() const override { return "cpu"; }
  int threads() const override { return threads_; }
  std::string arithmetic() const override { return simd_target_name(); }
  void synchronize() const override {}

  std::shared_ptr<void> allocate(std::size_t bytes) override {
    const std::size_t rounded = (bytes + 63) / 64 * 64;
    void* p = std::aligned_alloc(64, rounded == 0 ? 64 : rounded);
    if (p == nullptr) throw Error(fmt::format("out of memory: {} bytes asked for", bytes));
    std::memset(p, 0, rounded);
    return {p, std::free};
  }

  void copy(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void draw(const DataSet& data, View<float> out, std::uint64_t seed, std::uint64_t first_index,
            std::uint64_t step) override {
    draw_data(data, out, seed, first_index, step);
  }
  void standardise(const Columns& columns, View<const float> from, View<float> to) override {
    cpu::standardise(columns, from, to, threads_);
  }
  void standardise(const Columns& columns, View<const double> from, View<double> to) override {
    cpu::standardise(columns, from, to, threads_);
  }
  void restore(const Columns& columns, View<const float> from, View<float> to) override {
    cpu::restore(columns, from, to, threads_);
  }
  void weighted_traces(View<const double> weights, View<const float> matrices, View<float> traces) override {
    cpu::weighted_traces(weights, matrices, traces, threads_);
  }
  void weighted_traces(View<const double> weights, View<const double> matrices, View<double> traces) override {
    cpu::weighted_traces(weights, matrices, traces, threads_);
  }
  std::vector<std::int64_t> histogram(View<const float> samples, const Grid& grid) override {
    return cpu::histogram(samples, grid);
  }
  std::int64_t count_escaped(View<const float> samples, double half_width) override {
    return cpu::count_escaped(samples, half_width);
  }
  Moments moments(View<const float> samples) override { return cpu::moments(samples, threads_); }
  double sliced_w2_squared(View<const float> a, View<const float> b, int projections, std::uint64_t seed) override {
    return cpu::sliced_w2_squared(a, b, projections, seed, threads_);
  }

  std::unique_ptr<FieldOperator<float>> fields_float(const Model& model) override {
    return make_fields<float>(model, threads_);
  }
  std::unique_ptr<FieldOperator<double>> fields_double(const Model& model) override {
    return make_fields<double>(model, threads_);
  }
  std::unique_ptr<LossOperator<float>> loss_float(const Architecture& architecture, const ForwardSde& sde) override {
    return make_loss<float>(architecture, sde, threads_);
  }
  std::unique_ptr<LossOperator<double>> loss_double(const Architecture& architecture, const ForwardSde& sde) override {
    return make_loss<double>(architecture, sde, threads_);
  }
  std::unique_ptr<SampleOperator> sampler(const Model& model, const TimeGrid& grid) override {
    return make_sampler(model, grid, threads_);
  }
  std::unique_ptr<AdaptiveOperator<float>> adaptive_float(const Model& model, const AdaptivePlan& plan) override {
    return make_adaptive_sampler<float>(model, plan, threads_);
  }
  std::unique_ptr<AdaptiveOperator<double>> adaptive_double(const Model& model, const AdaptivePlan& plan) override {
    return make_adaptive_sampler<double>(model, plan, threads_);
  }
  std::unique_ptr<TrainOperator> trainer(const Model& initial, const DataSet& data, const TrainOptions& options,
                                         const std::shared_ptr<Ranks>& ranks) override {
    return make_trainer(initial, data, options, threads_, ranks);
  }
  std::unique_ptr<TrainGroupOperator> train_group(const std::vector<TrainOperator*>& members) override {
    return make_train_group(members);
  }

 private:
  int threads_;
};

}  // namespace

std::shared_ptr<Backend> make_backend(int threads) { return std::make_shared<CpuBackend>(threads); }

std::string describe() {
  const std::string refused = refused_threads();
  return fmt::format("{}{}, {} threads", simd_target_name(), refused.empty() ? "" : fmt::format(" ({})", refused),
                     default_threads());
}

}  // namespace fokker::cpu
