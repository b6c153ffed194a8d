// The stand-in for the CUDA runtime; see cuda_runtime_api.h.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>

#include "cuda_runtime_api.h"

struct CUstream_st {};
struct CUevent_st {
  bool recorded = false;
  std::chrono::steady_clock::time_point time;
};

namespace {

constexpr std::size_t memory_bytes = std::size_t{8} << 30;

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
cudaError_t valid_if(bool valid, cudaError_t otherwise = cudaErrorInvalidValue) {
  return returned(valid ? cudaSuccess : otherwise);
}

// Every piece of device memory by its begin.
class Allocations {
 public:
  void add(void* begin, std::size_t bytes) {
    const std::scoped_lock lock(mutex_);
    bytes_.emplace(static_cast<char*>(begin), bytes);
  }
  bool remove(void* begin) {
    const std::scoped_lock lock(mutex_);
    return bytes_.erase(static_cast<char*>(begin)) == 1;
  }
  // How much device memory there is from here on; 0: not in device memory.
  std::size_t bytes_from(const void* pointer) const {
    const std::scoped_lock lock(mutex_);
    auto above = bytes_.upper_bound(static_cast<const char*>(pointer));
    if (above == bytes_.begin()) return 0;
    const auto& [begin, bytes] = *--above;
    const auto offset = static_cast<std::size_t>(static_cast<const char*>(pointer) - begin);
    return offset < bytes ? bytes - offset : 0;
  }

 private:
  mutable std::mutex mutex_;
  std::map<const char*, std::size_t, std::less<>> bytes_;
};

Allocations& allocations() {
  static Allocations& all = *new Allocations;  // never destroyed: a static context frees its memory after main()
  return all;
}

constexpr struct {
  cudaError_t error;
  const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
};

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  for (const auto& e : errors) {
    if (e.error == error) return e.name;
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  for (const auto& e : errors) {
    if (e.error == error) return e.text;
  }
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return valid_if(device == 0, cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return returned(cudaErrorInvalidDevice);
  *properties = {.name = "emulation",
                 .totalGlobalMem = memory_bytes,
                 .sharedMemPerBlock = 48 << 10,
                 .sharedMemPerBlockOptin = 227 << 10,
                 .sharedMemPerMultiprocessor = 228 << 10,
                 .major = 9,
                 .minor = 0,
                 .multiProcessorCount = 2,
                 .warpSize = 32,
                 .maxThreadsPerBlock = 1024};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp all;
  if (const cudaError_t error = cudaGetDeviceProperties(&all, device); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = all.maxThreadsPerBlock; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(all.sharedMemPerBlock); return cudaSuccess;
    case cudaDevAttrWarpSize: *value = all.warpSize; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = all.multiProcessorCount; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = all.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = all.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(all.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(all.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return returned(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags > cudaStreamNonBlocking) return returned(cudaErrorInvalidValue);
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->recorded = true;
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (!start->recorded || !end->recorded) return returned(cudaErrorInvalidValue);
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  constexpr std::size_t alignment = 256;
  if (bytes > memory_bytes || posix_memalign(pointer, alignment, bytes) != 0) {
    *pointer = nullptr;
    return returned(cudaErrorMemoryAllocation);
  }
  std::memset(*pointer, 0xFF, bytes);
  allocations().add(*pointer, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  if (!allocations().remove(pointer)) return returned(cudaErrorInvalidValue);
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  void* p = const_cast<void*>(pointer);
  *attributes = allocations().bytes_from(pointer) > 0 ? cudaPointerAttributes{cudaMemoryTypeDevice, 0, p, nullptr}
                                                      : cudaPointerAttributes{cudaMemoryTypeUnregistered, -2, p, p};
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return cudaSuccess;
  const std::size_t source = allocations().bytes_from(from), target = allocations().bytes_from(to);
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const auto fits = [&](std::size_t there, bool on_device) {
    return (there == 0 || there >= bytes) && (kind == cudaMemcpyDefault || (there > 0) == on_device);
  };
  if (!fits(source, from_device) || !fits(target, to_device)) return returned(cudaErrorInvalidValue);
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemset(void* at, int value, std::size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  if (allocations().bytes_from(at) < bytes) return returned(cudaErrorInvalidValue);
  std::memset(at, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t) {
  return cudaMemset(at, value, bytes);
}
