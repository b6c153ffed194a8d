#pragma once

// What tests of device code share below the public API: the queue of a GPU, its memory.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "cuda/runtime.hpp"
#include "cuda/status.hpp"

namespace fokker::testing {

// `most_shared`: at most so much shared memory of what a block of the device may have.
inline cuda::Queue queue(Precision precision, int most_shared = std::numeric_limits<int>::max()) {
  static const cuda::DeviceQuery query = cuda::query_devices();
  const cuda::DeviceInfo& device = query.devices.at(static_cast<std::size_t>(query.device));
  cuda::Queue q;
  q.device = query.device;
  q.limits = {.multiprocessors = device.multiprocessors, .shared_bytes = std::min(device.shared_bytes, most_shared)};
  q.precision = precision;
  return q;
}

template <class T>
std::vector<T> download(const cuda::DeviceMemory& memory) {
  std::vector<T> v(memory.bytes() / sizeof(T));
  cuda::check(cudaMemcpy(v.data(), memory.data(), memory.bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
  return v;
}

}  // namespace fokker::testing
