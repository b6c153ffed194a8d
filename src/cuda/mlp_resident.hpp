#pragma once

#include "cuda/device_field.hpp"
#include "cuda/runtime.hpp"

namespace fokker::cuda {

// Room for a packed network on the device, and what packing needs.
class ResidentImage {
 public:
  ResidentImage(const Queue& queue, const Architecture& architecture);
  const kernels::ResidentMlp& get() const { return net_; }
  const kernels::LayerShape* layers() const { return layers_.as<kernels::LayerShape>(); }
  // Of parameters [P] on the device, for launch_pack_image().
  kernels::PackTask pack(const float* parameters) const { return {parameters, layers(), image_.data()}; }
  std::size_t bytes() const { return image_.bytes() + layers_.bytes(); }

 private:
  kernels::ResidentMlp net_;
  DeviceMemory image_, layers_;
};

// A network packed on the device.
class ResidentNetwork {
 public:
  ResidentNetwork(const Queue& queue, const Mlp& mlp);
  const kernels::ResidentMlp& get() const { return image_.get(); }

 private:
  ResidentImage image_;
};

}  // namespace fokker::cuda
