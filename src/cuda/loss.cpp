// Losses on the device: which implementation a network gets, and the operation of the table on top of it.
#include <memory>
#include <type_traits>

#include "cuda/backend.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/residency.hpp"

namespace fokker::cuda {
namespace {

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
      : device_(queue.device), loss_(make_device_loss_of<T>(queue, architecture, sde)) {}

  void evaluate(View<const T> parameters, const DenoisingBatch<T>& denoising, const CollocationBatch<T>& collocation,
                double residual_weight, View<double> values, View<T> gradient) override {
    const CurrentDevice guard(device_);
    loss_->evaluate(parameters.data, denoising, collocation, residual_weight, values.data, gradient.data);
  }
  std::size_t workspace_bytes() const override { return loss_->workspace_bytes(); }

 private:
  int device_;
  std::unique_ptr<DeviceLoss<T>> loss_;
};

}  // namespace

std::unique_ptr<TrainingLoss> make_device_loss(const Queue& queue, const Architecture& architecture,
                                               const ForwardSde& sde) {
  check_precision<float>(queue.precision, true);
  const bool resident = plan_residency(architecture, queue.precision, queue.limits).loss.resident();
  return resident ? make_resident_loss(queue, architecture, sde) : make_wide_loss(queue, architecture, sde);
}

template <class T>
std::unique_ptr<LossOperator<T>> make_loss(const Queue& queue, const Architecture& architecture,
                                           const ForwardSde& sde) {
  return std::make_unique<CudaLoss<T>>(queue, architecture, sde);
}

template std::unique_ptr<LossOperator<float>> make_loss(const Queue&, const Architecture&, const ForwardSde&);
template std::unique_ptr<LossOperator<double>> make_loss(const Queue&, const Architecture&, const ForwardSde&);

}  // namespace fokker::cuda
