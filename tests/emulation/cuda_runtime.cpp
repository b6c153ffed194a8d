// The stand-in for the CUDA runtime; see cuda_runtime_api.h.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "emulation.hpp"

using Work = std::function<int()>;

struct CUgraph_st {
  std::vector<Work> nodes;
};
struct CUgraphExec_st {
  std::vector<Work> nodes;
};
// Between pinned memory of the host and the device, whose side has its bytes already.
struct PinnedCopy {
  void* host;
  std::vector<char> bytes;
  bool to_host;
};
struct CUstream_st {
  std::vector<PinnedCopy> under_way = {};         // until the host waits for them
  std::size_t finished = 0;                       // copies that came before these
  bool blocking = true;                           // waits for the default stream, and that one for it
  std::unique_ptr<CUgraph_st> capture = nullptr;  // under way
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool valid = true;
};
struct CUevent_st {
  bool recorded = false;
  cudaStream_t stream = nullptr;
  std::size_t copies = 0;  // of the stream up to the event
  std::chrono::steady_clock::time_point time;
};

namespace {

constexpr std::size_t memory_bytes = std::size_t{8} << 30;

thread_local cudaError_t last_error = cudaSuccess;
std::atomic<std::size_t> launches = 0;

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
    ++calls_;
    bytes_.emplace(static_cast<char*>(begin), bytes);
  }
  bool remove(void* begin) {
    const std::scoped_lock lock(mutex_);
    ++calls_;
    return bytes_.erase(static_cast<char*>(begin)) == 1;
  }
  std::size_t calls() const {
    const std::scoped_lock lock(mutex_);
    return calls_;
  }
  std::size_t bytes() const {
    const std::scoped_lock lock(mutex_);
    std::size_t all = 0;
    for (const auto& [begin, bytes] : bytes_) all += bytes;
    return all;
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
  std::size_t calls_ = 0;
  std::map<const char*, std::size_t, std::less<>> bytes_;
};

Allocations& allocations() {
  static Allocations& all = *new Allocations;  // never destroyed: a static context frees its memory after main()
  return all;
}

// Pieces of pinned host memory.
Allocations& pinned() {
  static Allocations& all = *new Allocations;
  return all;
}

// The host waits for the first `copies` between pinned memory and the device on this stream.
void finish(cudaStream_t stream, std::size_t copies) {
  if (stream == nullptr) return;
  auto& under_way = stream->under_way;
  for (; stream->finished < copies; ++stream->finished) {
    const PinnedCopy& copy = under_way.front();
    if (copy.to_host) {
      std::memcpy(copy.host, copy.bytes.data(), copy.bytes.size());
    } else if (std::memcmp(copy.host, copy.bytes.data(), copy.bytes.size()) != 0) {
      std::fputs("emulated CUDA runtime: pinned memory changed while it was being copied to the device\n", stderr);
      std::abort();
    }
    under_way.erase(under_way.begin());
  }
}
void finish(cudaStream_t stream) {
  if (stream != nullptr) finish(stream, stream->finished + stream->under_way.size());
}

// Captures that this thread began, and how many of all threads' are global.
thread_local std::vector<cudaStream_t> captures;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
std::atomic<int> global_captures = 0;

cudaError_t refused(cudaError_t error) {
  for (const cudaStream_t stream : captures) stream->valid = false;
  return returned(error);
}

// Whether a call that a capture forbids (allocation, release, what waits) may be made, by the rules of
// cudaThreadExchangeStreamCaptureMode.
cudaError_t permitted() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  int own_global = 0;
  for (const cudaStream_t stream : captures) {
    if (stream->mode != cudaStreamCaptureModeRelaxed) return refused(cudaErrorStreamCaptureUnsupported);
    own_global += stream->mode == cudaStreamCaptureModeGlobal;
  }
  const bool others = thread_mode == cudaStreamCaptureModeGlobal && global_captures > own_global;
  return others ? refused(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

// What emulate_failure() asked for and did not come yet.
thread_local std::size_t launches_to_failure = 0, failing_calls = 0;

bool fails(bool graph_launch = false) {
  if (failing_calls == 0) return false;
  if (launches_to_failure > 0 && (!graph_launch || --launches_to_failure > 0)) return false;
  --failing_calls;
  return true;
}

bool capturing(cudaStream_t stream) { return stream != nullptr && stream->capture != nullptr; }

cudaError_t submit(cudaStream_t stream, Work work) {
  if (capturing(stream)) {
    if (!stream->valid) return returned(cudaErrorStreamCaptureInvalidated);
    stream->capture->nodes.push_back(std::move(work));
    return cudaSuccess;
  }
  if (stream == nullptr) {
    for (const cudaStream_t other : captures) {
      if (other->blocking) return refused(cudaErrorStreamCaptureImplicit);
    }
  }
  return returned(static_cast<cudaError_t>(work()));
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
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
};

}  // namespace

int fokker::kernels::emulation::submit(void* stream, Work work) {
  return ::submit(static_cast<cudaStream_t>(stream), [work = std::move(work)] {
    ++launches;
    return work();
  });
}

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
cudaError_t cudaDeviceSynchronize() { return permitted(); }

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags > cudaStreamNonBlocking) return returned(cudaErrorInvalidValue);
  *stream = new CUstream_st{.blocking = flags == cudaStreamDefault};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (capturing(stream)) return refused(cudaErrorStreamCaptureUnsupported);
  finish(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (capturing(stream)) return refused(cudaErrorStreamCaptureUnsupported);
  finish(stream);
  if (fails()) return returned(cudaErrorInvalidValue);
  return stream == nullptr ? permitted() : cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = !capturing(stream) ? cudaStreamCaptureStatusNone
            : stream->valid    ? cudaStreamCaptureStatusActive
                               : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (stream == nullptr) return returned(cudaErrorStreamCaptureUnsupported);
  if (capturing(stream)) return refused(cudaErrorInvalidValue);
  stream->capture = std::make_unique<CUgraph_st>();
  stream->mode = mode;
  stream->valid = true;
  captures.push_back(stream);
  global_captures += mode == cudaStreamCaptureModeGlobal;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!capturing(stream)) return returned(cudaErrorInvalidValue);
  std::erase(captures, stream);
  global_captures -= stream->mode == cudaStreamCaptureModeGlobal;
  const std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
  if (!stream->valid) return returned(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st(*captured);
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, thread_mode);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (fails(true)) return returned(cudaErrorInvalidValue);
  for (const Work& node : executable->nodes) {
    if (const cudaError_t error = submit(stream, node); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
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
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (capturing(stream)) return refused(cudaErrorNotSupported);
  return submit(stream, [=] {
    event->recorded = true;
    event->time = std::chrono::steady_clock::now();
    event->stream = stream;
    if (stream != nullptr) event->copies = stream->finished + stream->under_way.size();
    return cudaSuccess;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->recorded) finish(event->stream, event->copies);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (!start->recorded || !end->recorded) return returned(cudaErrorInvalidValue);
  // A device is so much faster than its emulation: what is sized by its times gets the sizes of a device.
  constexpr float speed = 1000;
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count() / speed;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t, unsigned) {
  return capturing(stream) ? refused(cudaErrorNotSupported) : cudaSuccess;
}

void emulate_failure(std::size_t graph_launches, std::size_t calls) {
  launches_to_failure = graph_launches + 1;
  failing_calls = calls;
}
std::size_t emulated_launches() { return launches; }
std::size_t emulated_allocations() { return allocations().calls(); }
cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  *pointer = nullptr;
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
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
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  if (!allocations().remove(pointer)) return returned(cudaErrorInvalidValue);
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  *pointer = nullptr;
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  if (bytes == 0) return cudaSuccess;
  *pointer = std::malloc(bytes);
  if (*pointer == nullptr) return returned(cudaErrorMemoryAllocation);
  std::memset(*pointer, 0xFF, bytes);
  pinned().add(*pointer, bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  if (!pinned().remove(pointer)) return returned(cudaErrorInvalidValue);
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = memory_bytes;
  *free = memory_bytes - allocations().bytes();
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  void* p = const_cast<void*>(pointer);
  *attributes = allocations().bytes_from(pointer) > 0 ? cudaPointerAttributes{cudaMemoryTypeDevice, 0, p, nullptr}
                : pinned().bytes_from(pointer) > 0    ? cudaPointerAttributes{cudaMemoryTypeHost, 0, p, p}
                                                      : cudaPointerAttributes{cudaMemoryTypeUnregistered, -2, p, p};
  return cudaSuccess;
}

namespace {

// Whether the sides of a copy lie where its kind says, all of them.
bool sides_fit(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const std::size_t source = allocations().bytes_from(from), target = allocations().bytes_from(to);
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const auto fits = [&](std::size_t there, bool on_device) {
    return (there == 0 || there >= bytes) && (kind == cudaMemcpyDefault || (there > 0) == on_device);
  };
  return fits(source, from_device) && fits(target, to_device);
}

}  // namespace

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (fails()) return returned(cudaErrorInvalidValue);
  if (!sides_fit(to, from, bytes, kind)) return returned(cudaErrorInvalidValue);
  return submit(stream, [=] {
    const bool to_pinned = pinned().bytes_from(to) > 0, from_pinned = pinned().bytes_from(from) > 0;
    const bool late = stream != nullptr && to_pinned != from_pinned;
    if (late) {
      const char* const begin = static_cast<const char*>(from);
      stream->under_way.push_back({to_pinned ? to : const_cast<void*>(from), {begin, begin + bytes}, to_pinned});
    }
    if (late && to_pinned) {
      std::memset(to, 0xFF, bytes);
    } else {
      std::memmove(to, from, bytes);
    }
    return cudaSuccess;
  });
}
cudaError_t cudaMemset(void* at, int value, std::size_t bytes) {
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  return cudaMemsetAsync(at, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (allocations().bytes_from(at) < bytes) return returned(cudaErrorInvalidValue);
  return submit(stream, [=] {
    std::memset(at, value, bytes);
    return cudaSuccess;
  });
}
