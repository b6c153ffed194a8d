// Losses of networks that fit a multiprocessor's shared memory (kernels/loss.cu).
#include <algorithm>
#include <vector>

#include "cuda/device_loss.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/mlp_resident.hpp"
#include "kernels/loss_launch.hpp"
#include "kernels/loss_layout.hpp"

namespace fokker::cuda {
namespace {

class ResidentLoss final : public TrainingLoss {
 public:
  ResidentLoss(const Queue& queue, const Architecture& architecture, const ForwardSde& sde)
      : queue_(queue), sde_(sde), form_(architecture.form), image_(queue, architecture) {
    const kernels::LossWorkspace bytes =
        kernels::resident_loss_workspace(image_.get(), image_.plan().loss.warps, queue.limits);
    planes_.reserve(bytes.planes);
    partial_.reserve(bytes.partial);
    partial_values_.reserve(bytes.partial_values);
    check(kernels::prepare_resident_loss(image_.get(), queue.limits), "prepare_resident_loss");
  }

  std::size_t workspace_bytes() const override {
    return image_.bytes() + planes_.bytes() + partial_.bytes() + partial_values_.bytes();
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
    for (std::size_t k = 0; k < losses.size(); ++k) static_cast<const ResidentLoss&>(*losses[k]).add_workspace(all[k]);
    // As few launches as there can be, much of a size.
    const std::size_t launches = (all.size() + kernels::most_models - 1) / kernels::most_models;
    for (std::size_t k = 0, first = 0; k < launches; ++k) {
      const std::size_t end = all.size() * (k + 1) / launches;
      launch({all.data() + first, end - first});
      first = end;
    }
  }

  bool shares_launches_with(const TrainingLoss& other) const override {
    const auto* resident = dynamic_cast<const ResidentLoss*>(&other);
    if (resident == nullptr) return false;
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
  void launch(std::span<const kernels::LossTask> tasks) const {
    check(kernels::launch_resident_loss(image_.get(), form_, image_.plan().loss.warps, tasks.data(),
                                        static_cast<int>(tasks.size()), queue_.limits, queue_.stream),
          "launch_resident_loss");
  }

  Queue queue_;
  DeviceSde sde_;
  NetworkForm form_;
  ResidentImage image_;
  DeviceMemory planes_, partial_, partial_values_;
};

}  // namespace

std::unique_ptr<TrainingLoss> make_resident_loss(const Queue& queue, const Architecture& architecture,
                                                 const ForwardSde& sde) {
  return std::make_unique<ResidentLoss>(queue, architecture, sde);
}

}  // namespace fokker::cuda
