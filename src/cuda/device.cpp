#include <cuda_runtime_api.h>

#include "cuda/runtime.hpp"
#include "cuda/status.hpp"
#include "kernels/probe_launch.hpp"

namespace fokker::cuda {

DeviceQuery query_devices(int gpu) {
  DeviceQuery query;
  if (cudaDriverGetVersion(&query.driver) != cudaSuccess || cudaRuntimeGetVersion(&query.runtime) != cudaSuccess ||
      query.driver == 0) {
    return query;
  }
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice) count = 0, error = cudaSuccess;
  for (int i = 0; i < count && error == cudaSuccess; ++i) {
    cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, i);
    if (error == cudaSuccess) {
      query.devices.push_back(
          {.name = properties.name,
           .major = properties.major,
           .minor = properties.minor,
           .memory_gib = static_cast<double>(properties.totalGlobalMem) / (1024.0 * 1024.0 * 1024.0),
           .multiprocessors = properties.multiProcessorCount,
           .shared_bytes = static_cast<int>(properties.sharedMemPerBlockOptin)});
    }
  }
  query.device = gpu;
  if (gpu == -1 && count > 0 && error == cudaSuccess) error = cudaGetDevice(&query.device);
  // Asking for code may load it.
  const RelaxedCapture relaxed;
  // Only the driver knows whether it can use any of the code in this build. A card that is too old has none, and
  // another reason.
  if (query.device >= 0 && query.device < count && error == cudaSuccess) {
    const CurrentDevice guard(query.device);
    error = static_cast<cudaError_t>(kernels::find_code());
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
      query.has_code = false;
      error = cudaSuccess;
    }
  }
  if (error != cudaSuccess) query.failure = cudaGetErrorString(error);
  cudaGetLastError();  // what was found out here is no error of a later call
  return query;
}

}  // namespace fokker::cuda
