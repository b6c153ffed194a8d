#pragma once

// What fields and samplers need of a model on the device. A resident network, a wide network, an exact mixture and a
// weighted sum of those are the implementations; make_network_field() is the one switch, and make_device_field() puts the network's form
// around it. Samplers have folded the form into their coefficients and take the network itself.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "cuda/residency.hpp"
#include "cuda/runtime.hpp"
#include "fokker/context.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/model.hpp"
#include "kernels/launch.hpp"

namespace fokker::cuda {

// The device and stream of a context, and what its kernels may use.
struct Queue {
  int device = 0;
  cudaStream_t stream = nullptr;
  kernels::DeviceLimits limits = {};
  Precision precision = Precision::split;
};

template <class T>
class DeviceField {
 public:
  virtual ~DeviceField() = default;
  virtual std::int64_t dimension() const = 0;
  // All views are on the device; asynchronous on the queue's stream. The arguments were checked. points.t may have one
  // row. Probe j of point i is a function of (estimate.seed, estimate.first_index + i, j).
  virtual void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& estimate) = 0;
  virtual void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) = 0;
  // Bytes of device memory that it keeps beside the parameters, whatever the number of points.
  virtual std::size_t workspace_bytes() const = 0;
};

// Throws Error where derivatives are wanted and the precision refuses them. What is computed in double has no precision.
template <class T>
void check_precision(Precision precision, bool derivatives) {
  const std::string_view refusal = refusal_of_derivatives(precision);
  if (!std::is_same_v<T, double> && derivatives && !refusal.empty()) throw Error(std::string(refusal));
}
template <class T>
void check_precision(Precision precision, const FieldOutputs<T>& wanted) {
  check_precision<T>(precision, wanted.dt || wanted.divergence || wanted.hessian || wanted.residual);
}

// The fields of the network itself in these, whatever its form says of its output. For a network whose score is resident;
// its wide works go the wide way inside. `packed`: the network as pack_network()
// left it on this queue, or nullptr, and it is packed here.
class ResidentImage;
std::unique_ptr<DeviceField<float>> make_resident_field(
    const Queue& queue, const Mlp& mlp, const ForwardSde& sde,
    std::shared_ptr<const ResidentImage> packed = nullptr);  // mlp_resident.cpp
// `rows`: points at a time, 0 for as many as its workspace takes.
template <class T>
std::unique_ptr<DeviceField<T>> make_wide_field(const Queue& queue, const Mlp& mlp, const ForwardSde& sde,
                                                std::int64_t rows = 0);  // mlp_wide.cpp
template <class T>
std::unique_ptr<DeviceField<T>> make_mixture_field(const Queue& queue, const GaussianMixture& mixture,
                                                   const ForwardSde& sde);  // mixture.cpp
template <class T>
struct WeightedField {
  double weight;
  std::unique_ptr<DeviceField<T>> field;
};
// Sums of all but the residual, which is none of its terms': make_formed_field() makes it of the others. Of one term or
// more.
template <class T>
std::unique_ptr<DeviceField<T>> make_sum_field(const Queue& queue,
                                               std::vector<WeightedField<T>> terms);  // composition.cpp
// The one switch on what a model is and on its path: the fields of its network.
template <class T>
std::unique_ptr<DeviceField<T>> make_network_field(const Queue& queue, const Model& model);  // fields.cpp
// Those of a model in this form from its network's, and the residual from the network's other fields. Has a workspace of
// its own.
template <class T>
std::unique_ptr<DeviceField<T>> make_formed_field(const Queue& queue, std::unique_ptr<DeviceField<T>> network,
                                                  const NetworkForm& form, const ForwardSde& sde);  // form.cpp
// Those of the model.
template <class T>
std::unique_ptr<DeviceField<T>> make_device_field(const Queue& queue, const Model& model);  // fields.cpp

}  // namespace fokker::cuda
