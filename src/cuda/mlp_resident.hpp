#pragma once

#include <memory>

#include "cuda/device_field.hpp"
#include "cuda/residency.hpp"
#include "cuda/runtime.hpp"

namespace fokker::cuda {

// Room for a packed network on the device, what packing needs, and the plan of the network's works.
class ResidentImage {
 public:
  ResidentImage(const Queue& queue, const Architecture& architecture);
  const Residency& plan() const { return plan_; }
  const kernels::ResidentMlp& get() const { return plan_.shape; }
  // The task of packing parameters [P], on the device, by launch_pack_image().
  kernels::PackTask pack(const float* parameters) const {
    return {parameters, layers_.as<kernels::LayerShape>(), image_.data()};
  }
  std::size_t bytes() const { return image_.bytes() + layers_.bytes(); }

 private:
  Residency plan_;  // its shape has the image
  DeviceMemory image_, layers_;
};

// A network packed on the device; waits for that. Fields and a sampler may share it.
std::shared_ptr<const ResidentImage> pack_network(const Queue& queue, const Mlp& mlp);

}  // namespace fokker::cuda
