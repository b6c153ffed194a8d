#pragma once

// Losses of a multilayer perceptron and their gradients on the device. Resident and wide networks are the two
// implementations; make_device_loss() is the one switch.
#include <cstdint>
#include <memory>
#include <span>

#include "cuda/device_field.hpp"
#include "fokker/loss.hpp"
#include "kernels/loss_launch.hpp"

namespace fokker::cuda {

template <class T>
class DeviceLoss {
 public:
  virtual ~DeviceLoss() = default;
  // Loss::evaluate with all views on the device; asynchronous on the queue's stream. The arguments were checked. A resident
  // loss takes no probes.
  virtual void evaluate(const T* parameters, const DenoisingBatch<T>& denoising, const CollocationBatch<T>& collocation,
                        double residual_weight, double* values, T* gradient) = 0;
  // Bytes of device memory that it keeps, whatever the number of points.
  virtual std::size_t workspace_bytes() const = 0;
};

// A training iteration's losses: points drawn on the device. `losses` and `tasks` go together; those of one shape share
// launches where their kernels can, and what one of them computes does not depend on the others. The trainer calls
// evaluate() once outside of a capture and then, with the same arguments, inside of one: what kernels read has gone to
// the device by then, or travels as their arguments.
class TrainingLoss : public DeviceLoss<float> {
 public:
  virtual void evaluate(std::span<TrainingLoss* const> losses, std::span<const kernels::LossTask> tasks) = 0;
  // Whether evaluate() serves this and `other` by the same launches.
  virtual bool shares_launches_with(const TrainingLoss& other) const = 0;
  using DeviceLoss<float>::evaluate;
};

// What the losses of a training take of its ranks: each has its chunks of the points, and all sum all chunks in their
// order, so that what they compute does not depend on how many they are. Null: the training is no rank's, and chunks
// there are none.
class Communicator;

std::unique_ptr<TrainingLoss> make_resident_loss(const Queue& queue, const Architecture& architecture,
                                                 const ForwardSde& sde,
                                                 const Communicator* ranks = nullptr);  // loss_resident.cpp
// loss_wide.cpp. divergence: how the residual is found at points that it draws for a training, with the training's seed.
std::unique_ptr<TrainingLoss> make_wide_loss(const Queue& queue, const Architecture& architecture,
                                             const ForwardSde& sde, std::int64_t rows = 0,
                                             const Divergence& divergence = {}, const Communicator* ranks = nullptr);
std::unique_ptr<DeviceLoss<double>> make_wide_loss_double(const Queue& queue, const Architecture& architecture,
                                                          const ForwardSde& sde, std::int64_t rows = 0);
// The one switch on a network's path (loss.cpp): a training by probes is wide, as make_wide_loss() has it. Throws Error for
// precision half, whose derivatives are refused.
std::unique_ptr<TrainingLoss> make_device_loss(const Queue& queue, const Architecture& architecture,
                                               const ForwardSde& sde, const Divergence& divergence = {},
                                               const Communicator* ranks = nullptr);

}  // namespace fokker::cuda
