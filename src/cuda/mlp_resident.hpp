#pragma once

#include "cuda/device_field.hpp"
#include "cuda/runtime.hpp"

namespace fokker::cuda {

// A network packed on the device.
class ResidentNetwork {
 public:
  ResidentNetwork(const Queue& queue, const Mlp& mlp);
  const kernels::ResidentMlp& get() const { return net_; }

 private:
  kernels::ResidentMlp net_;
  DeviceMemory image_;
};

}  // namespace fokker::cuda
