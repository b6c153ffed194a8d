#include <cuda_runtime_api.h>

#include "cuda/status.hpp"

namespace fokker::cuda {

DeviceQuery query_devices() {
  DeviceQuery query;
  if (cudaDriverGetVersion(&query.driver) != cudaSuccess || cudaRuntimeGetVersion(&query.runtime) != cudaSuccess ||
      query.driver == 0) {
    return query;
  }
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice) return query;
  for (int i = 0; i < count && error == cudaSuccess; ++i) {
    cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, i);
    if (error == cudaSuccess) {
      query.devices.push_back({properties.name, properties.major, properties.minor,
                               static_cast<double>(properties.totalGlobalMem) / (1024.0 * 1024.0 * 1024.0)});
    }
  }
  if (error != cudaSuccess) query.failure = cudaGetErrorString(error);
  return query;
}

}  // namespace fokker::cuda
