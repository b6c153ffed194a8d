// Losses of networks that fit a multiprocessor's shared memory (kernels/loss.cu).
#include <algorithm>
#include <vector>

#include "cuda/device_loss.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/gpu_ranks.hpp"
#include "cuda/mlp_resident.hpp"
#include "kernels/loss_launch.hpp"
#include "kernels/loss_layout.hpp"
#include "kernels/loss_sum_launch.hpp"

namespace fokker::cuda {
namespace {

class ResidentLoss final : public TrainingLoss {
 public:
  ResidentLoss(const Queue& queue, const Architecture& architecture, const ForwardSde& sde, const Communicator* ranks)
      : queue_(queue), sde_(sde), form_(architecture.form), image_(queue, architecture), ranks_(ranks) {
    const kernels::LossWorkspace bytes =
        kernels::resident_loss_workspace(image_.get(), image_.plan().loss.warps, queue.limits);
    planes_.reserve(bytes.planes);
    partial_.reserve(bytes.partial);
    partial_values_.reserve(bytes.partial_values);
    check(kernels::prepare_resident_loss(image_.get(), queue.limits), "prepare_resident_loss");
  }

  std::size_t workspace_bytes() const override {
    return image_.bytes() + planes_.bytes() + partial_.bytes() + partial_values_.bytes() + records_.bytes();
  }

  void evaluate(const float* parameters, const DenoisingBatch<float>& denoising,
                const CollocationBatch<float>& collocation, double residual_weight, double* values,
                float* gradient) override {
    kernels::TrainingDraw points = {};
    points.sde = sde_.formulas();
    points.denoising_points = denoising.t.rows;
    points.collocation_points = collocation.t.rows;
    kernels::LossTask task{.parameters = parameters,
                           .points = points,
                           .denoising_t = denoising.t.data,
                           .denoising_x = denoising.x.data,
                           .denoising_target = denoising.target.data,
                           .denoising_weight = denoising.weight.data,
                           .collocation_t = collocation.t.data,
                           .collocation_x = collocation.x.data,
                           .residual_weight = residual_weight,
                           .values = values,
                           .gradient = gradient};
    add_workspace(task);
    launch({&task, 1});
  }

  void evaluate(std::span<TrainingLoss* const> losses, std::span<const kernels::LossTask> tasks) override {
    std::vector<kernels::LossTask> all(tasks.begin(), tasks.end());
    std::vector<kernels::RankChunks> chunks;
    for (std::size_t k = 0; k < losses.size(); ++k) {
      auto& loss = static_cast<ResidentLoss&>(*losses[k]);
      if (ranks_ != nullptr) chunks.push_back(loss.make_room(tasks[k].points));
      loss.add_workspace(all[k]);
    }
    // As few launches as there can be, much of a size.
    const std::size_t launches = (all.size() + kernels::most_models - 1) / kernels::most_models;
    for (std::size_t k = 0, first = 0; k < launches; ++k) {
      const std::size_t end = all.size() * (k + 1) / launches;
      if (ranks_ == nullptr) {
        launch({all.data() + first, end - first});
      } else {
        launch_chunks({all.data() + first, end - first}, chunks.data() + first, losses.subspan(first, end - first));
      }
      first = end;
    }
  }

  bool shares_launches_with(const TrainingLoss& other) const override {
    const auto* resident = dynamic_cast<const ResidentLoss*>(&other);
    if (resident == nullptr || resident->ranks_ != ranks_) return false;
    const kernels::ResidentMlp &a = image_.get(), &b = resident->image_.get();
    return a.precision == b.precision && a.dimension == b.dimension && a.hidden == b.hidden && a.width == b.width &&
           a.potential == b.potential && a.activation == b.activation && a.beta == b.beta && form_ == resident->form_;
  }

 private:
  void add_workspace(kernels::LossTask& task) const {
    const kernels::PackTask pack = image_.pack(task.parameters);
    task.layers = pack.layers;
    task.image = pack.image;
    task.planes = planes_.as<float>();
    task.partial = partial_.as<float>();
    task.partial_values = partial_values_.as<double>();
  }
  // This rank's chunks of so many points, with room for what their blocks leave and for the records of all ranks.
  kernels::RankChunks make_room(const kernels::TrainingDraw& points) {
    const kernels::LossChunks of = kernels::resident_loss_chunks(points, image_.plan().loss.warps, queue_.limits);
    const kernels::ChunksOfRank own(of.chunks, ranks_->rank(), ranks_->size());
    const int size = kernels::loss_gradient_layout(image_.get()).size;
    kernels::RankChunks chunks{of, own.first, own.count, nullptr};
    record_bytes_ = static_cast<std::size_t>(own.slots * kernels::record_floats(size)) * sizeof(float);
    const auto blocks = static_cast<std::size_t>(chunks.blocks());
    partial_.reserve(blocks * static_cast<std::size_t>(size) * sizeof(float));
    partial_values_.reserve(2 * blocks * sizeof(double));
    if (const std::size_t all = static_cast<std::size_t>(ranks_->size()) * record_bytes_; records_.bytes() < all) {
      records_.reserve(all);
      check(cudaMemsetAsync(records_.data(), 0, all, queue_.stream), "cudaMemsetAsync");  // slots without a chunk, too
    }
    chunks.records = records_.as<float>() + own.first * kernels::record_floats(size);
    return chunks;
  }
  // Chunks of these tasks, their exchange, and the sums of all ranks'.
  void launch_chunks(std::span<const kernels::LossTask> tasks, const kernels::RankChunks* chunks,
                     std::span<TrainingLoss* const> losses) const {
    const int count = static_cast<int>(tasks.size());
    check(kernels::launch_resident_chunks(image_.get(), form_, image_.plan().loss.warps, tasks.data(), chunks, count,
                                          queue_.limits, queue_.stream),
          "launch_resident_chunks");
    const kernels::LossGradientLayout layout = kernels::loss_gradient_layout(image_.get());
    const std::int64_t stride = kernels::record_floats(layout.size);
    kernels::LossSumArguments sum{.net = image_.get(), .gradient = layout, .tasks = {}};
    for (int k = 0; k < count; ++k) {
      const kernels::LossTask& task = tasks[k];
      const auto& loss = static_cast<const ResidentLoss&>(*losses[k]);
      ranks_->all_gather(loss.records_.data(), loss.record_bytes_);
      sum.tasks[k] = {.partial_count = chunks[k].of.chunks,
                      .layers = task.layers,
                      .partial = loss.records_.as<const float>() + kernels::record_head,
                      .partial_stride = stride,
                      .partial_values = loss.records_.as<const double>(),
                      .values_stride = stride / 2,
                      .denoising_points = task.points.denoising_points,
                      .collocation_points = task.points.collocation_points,
                      .residual_weight = task.residual_weight,
                      .iteration = task.points.iteration,
                      .values = task.values,
                      .gradient = task.gradient,
                      .squares = task.squares};
    }
    check(kernels::launch_loss_sum(sum, count, queue_.stream), "launch_loss_sum");
  }
  void launch(std::span<const kernels::LossTask> tasks) const {
    check(kernels::launch_resident_loss(image_.get(), form_, image_.plan().loss.warps, tasks.data(),
                                        static_cast<int>(tasks.size()), queue_.limits, queue_.stream),
          "launch_resident_loss");
  }

  Queue queue_;
  DeviceSde sde_;
  NetworkForm form_;
  ResidentImage image_;
  const Communicator* ranks_;  // or nullptr
  DeviceMemory planes_, partial_, partial_values_;
  DeviceMemory records_;  // of all ranks' chunks, record_bytes_ of each rank
  std::size_t record_bytes_ = 0;
};

}  // namespace

std::unique_ptr<TrainingLoss> make_resident_loss(const Queue& queue, const Architecture& architecture,
                                                 const ForwardSde& sde, const Communicator* ranks) {
  return std::make_unique<ResidentLoss>(queue, architecture, sde, ranks);
}

}  // namespace fokker::cuda
