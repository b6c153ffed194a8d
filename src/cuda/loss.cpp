// Losses on the device: which implementation a network gets, and the operation of the table on top of it.
#include <memory>
#include <type_traits>

#include "cuda/backend.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/residency.hpp"

namespace fokker::cuda {
namespace {

bool is_resident(const Queue& queue, const Architecture& architecture) {
  return plan_residency(architecture, queue.precision, queue.limits).loss.resident();
}

template <class T>
std::unique_ptr<DeviceLoss<T>> make_device_loss_of(const Queue& queue, const Architecture& architecture,
                                                   const ForwardSde& sde) {
  if constexpr (std::is_same_v<T, float>) {
    return make_device_loss(queue, architecture, sde);
  } else {
    return make_wide_loss_double(queue, architecture, sde);
  }
}

template <class T>
class CudaLoss final : public LossOperator<T> {
 public:
  CudaLoss(const Queue& queue, const Architecture& architecture, const ForwardSde& sde)
      : queue_(queue),
        architecture_(architecture),
        sde_(sde),
        resident_(std::is_same_v<T, float> && is_resident(queue, architecture)),
        loss_(make_device_loss_of<T>(queue, architecture, sde)) {}

  void evaluate(View<const T> parameters, const DenoisingBatch<T>& denoising, const CollocationBatch<T>& collocation,
                double residual_weight, View<double> values, View<T> gradient) override {
    const CurrentDevice guard(queue_.device);
    const bool probed = resident_ && collocation.t.rows > 0 && collocation.divergence.probes > 0;
    if (probed && !probed_loss_) make_probed_loss();
    DeviceLoss<T>& loss = probed ? *probed_loss_ : *loss_;
    loss.evaluate(parameters.data, denoising, collocation, residual_weight, values.data, gradient.data);
  }
  std::size_t workspace_bytes() const override {
    return loss_->workspace_bytes() + (probed_loss_ ? probed_loss_->workspace_bytes() : 0);
  }

 private:
  void make_probed_loss() {
    const SetUp set_up(queue_.device, queue_.stream);
    if constexpr (std::is_same_v<T, float>) probed_loss_ = make_wide_loss(queue_, architecture_, sde_);
  }

  Queue queue_;
  Architecture architecture_;
  ForwardSde sde_;
  bool resident_;
  std::unique_ptr<DeviceLoss<T>> loss_;
  std::unique_ptr<DeviceLoss<T>> probed_loss_;  // of a resident network, once probes are asked for
};

}  // namespace

std::unique_ptr<TrainingLoss> make_device_loss(const Queue& queue, const Architecture& architecture,
                                               const ForwardSde& sde, const Divergence& divergence,
                                               const Communicator* ranks) {
  check_precision<float>(queue.precision, true);
  if (divergence.probes == 0 && is_resident(queue, architecture)) {
    return make_resident_loss(queue, architecture, sde, ranks);
  }
  return make_wide_loss(queue, architecture, sde, 0, divergence, ranks);
}

template <class T>
std::unique_ptr<LossOperator<T>> make_loss(const Queue& queue, const Architecture& architecture,
                                           const ForwardSde& sde) {
  return std::make_unique<CudaLoss<T>>(queue, architecture, sde);
}

template std::unique_ptr<LossOperator<float>> make_loss(const Queue&, const Architecture&, const ForwardSde&);
template std::unique_ptr<LossOperator<double>> make_loss(const Queue&, const Architecture&, const ForwardSde&);

}  // namespace fokker::cuda
