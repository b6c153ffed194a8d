// The table of operations on CUDA: memory and copies here, the rest in the file of each operation.
#include "cuda/backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "core/parallel.hpp"
#include "cuda/data.hpp"
#include "cuda/device_field.hpp"
#include "cuda/gpu_ranks.hpp"
#include "cuda/runtime.hpp"

namespace fokker::cuda {
namespace {

class CudaBackend final : public Backend {
 public:
  CudaBackend(const Queue& queue, int threads) : queue_(queue), threads_(make_threads(threads)) {}

  Device device() const override { return Device::cuda; }
  int gpu() const override { return queue_.device; }
  std::string name() const override { return "cuda"; }
  int threads() const override { return threads_; }
  Precision precision() const override { return queue_.precision; }
  // Of the kind of GPU: its kernels, and how many blocks share a sum.
  std::string arithmetic() const override {
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, queue_.device), "cudaGetDeviceProperties");
    return fmt::format("cuda {} {} {}.{} {} {}", to_string(queue_.precision), device.name, device.major, device.minor,
                       queue_.limits.multiprocessors, queue_.limits.shared_bytes);
  }
  void synchronize() const override {
    const CurrentDevice guard(queue_.device);
    check(cudaStreamSynchronize(queue_.stream), "cudaStreamSynchronize");
  }

  std::shared_ptr<void> allocate(std::size_t bytes) override {
    const SetUp set_up(queue_.device, queue_.stream);
    const std::size_t size = std::max<std::size_t>(bytes, 1);
    // Its release waits for the device, so a buffer may be dropped while queued work still uses it.
    const std::shared_ptr<void> memory(cuda::allocate(size), release);
    check(cudaMemsetAsync(memory.get(), 0, size, queue_.stream), "cudaMemsetAsync");
    return memory;
  }
  void copy(const void* from, void* to, std::size_t bytes) override {
    const CurrentDevice guard(queue_.device);
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue_.stream), "cudaMemcpyAsync");
  }

  void draw(const DataSet& data, View<float> out, std::uint64_t seed, std::uint64_t first_index,
            std::uint64_t step) override {
    const CurrentDevice guard(queue_.device);
    data_.of(data).draw(queue_, out, seed, first_index, step);
  }
  void standardise(const Columns& columns, View<const float> from, View<float> to) override {
    const CurrentDevice guard(queue_.device);
    cuda::standardise(queue_, columns, from, to);
  }
  void standardise(const Columns& columns, View<const double> from, View<double> to) override {
    const CurrentDevice guard(queue_.device);
    cuda::standardise(queue_, columns, from, to);
  }
  void restore(const Columns& columns, View<const float> from, View<float> to) override {
    const CurrentDevice guard(queue_.device);
    cuda::restore(queue_, columns, from, to);
  }
  void weighted_traces(View<const double> weights, View<const float> matrices, View<float> traces) override {
    const CurrentDevice guard(queue_.device);
    cuda::weighted_traces(queue_, weights, matrices, traces);
  }
  void weighted_traces(View<const double> weights, View<const double> matrices, View<double> traces) override {
    const CurrentDevice guard(queue_.device);
    cuda::weighted_traces(queue_, weights, matrices, traces);
  }
  std::vector<std::int64_t> histogram(View<const float> samples, const Grid& grid) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return cuda::histogram(queue_, samples, grid);
  }
  std::int64_t count_escaped(View<const float> samples, double half_width) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return cuda::count_escaped(queue_, samples, half_width);
  }
  Moments moments(View<const float> samples) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return cuda::moments(queue_, samples);
  }
  double sliced_w2_squared(View<const float> a, View<const float> b, int projections, std::uint64_t seed) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return cuda::sliced_w2_squared(queue_, a, b, projections, seed);
  }

  std::unique_ptr<FieldOperator<float>> fields_float(const Model& model) override {
    const SetUp set_up(queue_.device, queue_.stream);
    if (!model.standardisation.empty()) prepare_standardise();
    return make_fields<float>(queue_, model);
  }
  std::unique_ptr<FieldOperator<double>> fields_double(const Model& model) override {
    const SetUp set_up(queue_.device, queue_.stream);
    if (!model.standardisation.empty()) prepare_standardise();
    return make_fields<double>(queue_, model);
  }
  std::unique_ptr<SampleOperator> sampler(const Model& model, const TimeGrid& grid) override {
    const SetUp set_up(queue_.device, queue_.stream);
    if (!model.standardisation.empty()) prepare_standardise();
    return make_sampler(queue_, model, grid);
  }
  std::unique_ptr<AdaptiveOperator<float>> adaptive_float(const Model& model, const AdaptivePlan& plan) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return make_adaptive_sampler<float>(queue_, model, plan);
  }
  std::unique_ptr<AdaptiveOperator<double>> adaptive_double(const Model& model, const AdaptivePlan& plan) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return make_adaptive_sampler<double>(queue_, model, plan);
  }

  std::unique_ptr<LossOperator<float>> loss_float(const Architecture& architecture, const ForwardSde& sde) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return make_loss<float>(queue_, architecture, sde);
  }
  std::unique_ptr<LossOperator<double>> loss_double(const Architecture& architecture, const ForwardSde& sde) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return make_loss<double>(queue_, architecture, sde);
  }
  std::unique_ptr<TrainOperator> trainer(const Model& initial, const DataSet& data, const TrainOptions& options,
                                         const std::shared_ptr<Ranks>& ranks) override {
    const SetUp set_up(queue_.device, queue_.stream);
    const auto of_gpus = std::dynamic_pointer_cast<NcclRanks>(ranks);
    if (!of_gpus && dynamic_cast<const GpuRanks*>(ranks.get()) != nullptr) {
      throw Error(
          "ranks of GPUs that the library did not make were given to train on the CUDA backend; allowed: those of "
          "gpu_ranks() or connect_gpus()");
    }
    Queue queue = training_queue();
    if (of_gpus) queue.stream = of_gpus->communicator().stream();
    return make_trainer(queue, initial, data_.of(data), options, of_gpus);
  }
  std::unique_ptr<TrainGroupOperator> train_group(const std::vector<TrainOperator*>& members) override {
    const SetUp set_up(queue_.device, queue_.stream);
    return make_train_group(queue_, training_queue(), members);
  }

 private:
  // Trainers capture their stream, which the default stream does not allow and which a caller's own would notice.
  Queue training_queue() {
    if (!training_stream_) training_stream_.emplace();
    Queue queue = queue_;
    queue.stream = training_stream_->get();
    return queue;
  }

  Queue queue_;
  int threads_;
  DataCache data_;
  std::optional<OwnStream> training_stream_;
};

}  // namespace

std::shared_ptr<Backend> make_backend(const ContextOptions& options, const DeviceQuery& query) {
  const DeviceInfo& device = query.devices[static_cast<std::size_t>(query.device)];
  const Queue queue{.device = query.device,
                    .stream = static_cast<cudaStream_t>(options.stream),
                    .limits = {.multiprocessors = device.multiprocessors, .shared_bytes = device.shared_bytes},
                    .precision = options.precision};
  return std::make_shared<CudaBackend>(queue, options.threads);
}

}  // namespace fokker::cuda
