// The stand-in for the CUDA runtime; see cuda_runtime_api.h, and streams.hpp for when work is done.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "device_memory.hpp"
#include "emulation.hpp"
#include "streams.hpp"

using fokker::emulated::Allocations;
using fokker::emulated::Call;
using fokker::emulated::current_device;
using fokker::emulated::HostRange;
using fokker::emulated::Node;
using fokker::emulated::Place;

struct CUgraphExec_st {
  std::shared_ptr<const std::vector<Node>> nodes;
};
struct CUevent_st {
  std::shared_ptr<const Place> latest = nullptr;
};

namespace {

constexpr std::size_t memory_bytes = std::size_t{8} << 30;

// A function has them, since tests make contexts before main().
std::atomic<int>& device_count() {
  static std::atomic<int> count = [] {
    const char* const of_environment = std::getenv("FOKKER_EMULATION_DEVICES");
    return of_environment != nullptr ? std::atoi(of_environment) : 1;
  }();
  return count;
}
constinit std::atomic<int> multiprocessor_count = 2;
bool is_device(int device) { return device >= 0 && device < device_count(); }

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

Allocations& allocations() {
  static Allocations& all = *new Allocations;  // never destroyed: a static context frees its memory after main()
  return all;
}

// Pieces of pinned host memory.
Allocations& pinned() {
  static Allocations& all = *new Allocations;
  return all;
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

// Whether a stream that is not capturing may be given work.
cudaError_t admitted(const Call& call, cudaStream_t stream) {
  if (stream == nullptr) {
    for (const cudaStream_t other : captures) {
      if (other->blocking) return refused(cudaErrorStreamCaptureImplicit);
    }
  }
  return returned(call.error());
}

// Queues work, or records it where the stream is capturing.
cudaError_t submit(Call& call, cudaStream_t stream, Node node) {
  if (capturing(stream)) {
    if (!stream->valid) return returned(cudaErrorStreamCaptureInvalidated);
    stream->capture->nodes.push_back(std::move(node));
    return cudaSuccess;
  }
  if (const cudaError_t error = admitted(call, stream); error != cudaSuccess) return error;
  call.queue(stream, std::move(node));
  return returned(call.error());
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
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
};

}  // namespace

int fokker::kernels::emulation::submit(void* stream, std::function<int()> work) {
  Call call;
  return ::submit(call, static_cast<cudaStream_t>(stream), {.work = std::move(work), .kernel = true});
}

int fokker::kernels::emulation::remembered(int error) { return returned(static_cast<cudaError_t>(error)); }

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
  *count = device_count();
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (!is_device(device)) return returned(cudaErrorInvalidDevice);
  fokker::emulated::set_current_device(device);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!is_device(device)) return returned(cudaErrorInvalidDevice);
  *properties = {.name = "emulation",
                 .uuid = {{static_cast<char>(device + 1)}},
                 .totalGlobalMem = memory_bytes,
                 .sharedMemPerBlock = 48 << 10,
                 .sharedMemPerBlockOptin = 227 << 10,
                 .sharedMemPerMultiprocessor = 228 << 10,
                 .major = 9,
                 .minor = 0,
                 .multiProcessorCount = multiprocessor_count,
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
cudaError_t cudaDeviceSynchronize() {
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  Call call;
  call.finish_all();
  return returned(call.error());
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags > cudaStreamNonBlocking) return returned(cudaErrorInvalidValue);
  *stream = Call().add_stream(flags == cudaStreamDefault);
  return cudaSuccess;
}
// Does not wait.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (capturing(stream)) return refused(cudaErrorStreamCaptureUnsupported);
  Call().remove_stream(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (capturing(stream)) return refused(cudaErrorStreamCaptureUnsupported);
  if (stream == nullptr) {
    if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  }
  Call call;
  call.finish(stream, call.mark(stream)->number);
  if (fails()) return returned(cudaErrorInvalidValue);
  return returned(call.error());
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
  *executable = new CUgraphExec_st{std::make_shared<const std::vector<Node>>(graph->nodes)};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (fails(true)) return returned(cudaErrorInvalidValue);
  Call call;
  for (const Node& node : *executable->nodes) {
    // The nodes live as long as the last of them is queued, whether or not the graph does.
    Node launched{[nodes = executable->nodes, &work = node.work] { return work(); }, node.reads, node.writes,
                  node.kernel};
    if (const cudaError_t error = submit(call, stream, std::move(launched)); error != cudaSuccess) return error;
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
  Call call;
  if (const cudaError_t error = admitted(call, stream); error != cudaSuccess) return error;
  event->latest = call.mark(stream);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Call call;
  if (event->latest != nullptr) call.finish(event->latest->stream.get(), event->latest->number);
  return returned(call.error());
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Call call;
  if (event->latest != nullptr) {
    if (call.mode() != EmulatedStreams::random || call.choose(2) == 0) call.advance_to(*event->latest);
    if (call.error() == cudaSuccess && !call.reached(*event->latest)) return cudaErrorNotReady;
  }
  return returned(call.error());
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Call call;
  if (start->latest == nullptr || end->latest == nullptr) return returned(cudaErrorInvalidValue);
  if (!call.reached(*start->latest) || !call.reached(*end->latest)) return returned(cudaErrorNotReady);
  // A device's time, not that of its emulation, so that what is sized by it depends on no load: 10 ns a piece of work.
  *milliseconds = static_cast<float>(
      1e-5 * (static_cast<double>(end->latest->number) - static_cast<double>(start->latest->number)));
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (capturing(stream)) return refused(cudaErrorNotSupported);
  Call call;
  if (const cudaError_t error = admitted(call, stream); error != cudaSuccess) return error;
  if (event->latest != nullptr) call.queue(stream, {[] { return cudaSuccess; }}, event->latest);
  return cudaSuccess;
}

EmulatedStreams emulate_streams(EmulatedStreams mode, unsigned long long seed) {
  return fokker::emulated::set_mode(mode, seed);
}
void emulate_failure(std::size_t graph_launches, std::size_t calls) {
  launches_to_failure = graph_launches + 1;
  failing_calls = calls;
}
int emulate_devices(int count, int multiprocessors) {
  multiprocessor_count = multiprocessors;
  return device_count().exchange(count);
}
std::size_t emulated_launches() { return fokker::emulated::queued_kernels(); }
std::size_t emulated_allocations() { return allocations().calls(); }
cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  *pointer = nullptr;
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  if (bytes == 0) return cudaSuccess;
  if (bytes <= memory_bytes) *pointer = fokker::emulated::take_device_memory(bytes);
  if (*pointer == nullptr) return returned(cudaErrorMemoryAllocation);
  allocations().add(*pointer, bytes, current_device());
  return cudaSuccess;
}
// Waits for all streams of the device, as the programming guide says.
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  Call call;
  call.finish_all();
  const std::size_t bytes = allocations().remove(pointer);
  if (bytes == 0) return returned(cudaErrorInvalidValue);
  fokker::emulated::release_device_memory(pointer, bytes);
  return returned(call.error());
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
  const std::size_t bytes = pinned().remove(pointer);
  if (bytes == 0) return returned(cudaErrorInvalidValue);
  if (Call().uses({static_cast<char*>(pointer), bytes})) {
    fokker::emulated::fail("pinned memory is released while queued work uses it");
  }
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
  *attributes = allocations().bytes_from(pointer) > 0
                    ? cudaPointerAttributes{cudaMemoryTypeDevice, allocations().device_of(pointer), p, nullptr}
                : pinned().bytes_from(pointer) > 0 ? cudaPointerAttributes{cudaMemoryTypeHost, 0, p, p}
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

namespace {

struct Sides {
  bool from_host, to_host;
  bool pageable;  // memory of the host, and the other side is on the device
};
Sides sides(const void* to, const void* from) {
  const bool from_host = allocations().bytes_from(from) == 0, to_host = allocations().bytes_from(to) == 0;
  return {from_host, to_host, from_host != to_host && pinned().bytes_from(from_host ? from : to) == 0};
}

// When a copy is done: when its stream comes to it; before the call returns; the reading before the call returns, and
// the writing when the stream comes to it.
enum class Copy { in_its_turn, at_once, staged };

cudaError_t copy(Call& call, void* to, const void* from, std::size_t bytes, cudaStream_t stream, Copy when) {
  const auto [from_host, to_host, pageable] = sides(to, from);
  auto* const begin = static_cast<char*>(const_cast<void*>(from));
  Node node{[=] {
              std::memmove(to, from, bytes);
              return cudaSuccess;
            },
            {begin, from_host ? bytes : 0},
            {static_cast<char*>(to), to_host ? bytes : 0}};
  if (capturing(stream)) return submit(call, stream, std::move(node));
  if (when == Copy::staged) {
    call.finish(stream, call.mark(stream)->number);
    node = {[to, read = std::vector<char>(begin, begin + bytes)] {
      std::memcpy(to, read.data(), read.size());
      return cudaSuccess;
    }};
  }
  const cudaError_t error = submit(call, stream, std::move(node));
  if (error != cudaSuccess || when != Copy::at_once) return error;
  call.finish(stream);
  return returned(call.error());
}

}  // namespace

// As the documentation of synchronous copies says: where both sides are on the device nothing waits, and pageable
// memory has been read at return, but may be on its way to the device still.
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  if (bytes == 0) return cudaSuccess;
  if (fails() || !sides_fit(to, from, bytes, kind)) return returned(cudaErrorInvalidValue);
  Call call;
  const auto [from_host, to_host, pageable] = sides(to, from);
  const Copy when = !from_host && !to_host ? Copy::in_its_turn : pageable && from_host ? Copy::staged : Copy::at_once;
  return copy(call, to, from, bytes, nullptr, when);
}
// As the documentation of asynchronous copies says: of pageable memory they might be synchronous, or synchronise with
// the stream and stage what they read, so that nothing of this may be relied upon; of pinned memory they are not.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (fails() || !sides_fit(to, from, bytes, kind)) return returned(cudaErrorInvalidValue);
  Call call;
  const auto [from_host, to_host, pageable] = sides(to, from);
  Copy when = from_host && to_host ? Copy::at_once : Copy::in_its_turn;
  if (pageable && call.mode() == EmulatedStreams::random) when = static_cast<Copy>(call.choose(from_host ? 3 : 2));
  return copy(call, to, from, bytes, stream, when);
}
cudaError_t cudaMemset(void* at, int value, std::size_t bytes) {
  if (const cudaError_t error = permitted(); error != cudaSuccess) return error;
  return cudaMemsetAsync(at, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (allocations().bytes_from(at) < bytes) return returned(cudaErrorInvalidValue);
  Call call;
  return submit(call, stream, {[=] {
                  std::memset(at, value, bytes);
                  return cudaSuccess;
                }});
}
