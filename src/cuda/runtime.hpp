#pragma once

// What the backend's host code needs of the CUDA runtime: errors as exceptions and memory with an owner.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace fokker::cuda {

// Where a call stands, as a default argument. (std::source_location, which clang 14 has not with libstdc++ 12.)
struct CallSite {
  const char* file;
  int line;

  static constexpr CallSite here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// Throws Error with the runtime's name and text of the error, the call, file and line; nothing where there is none.
void check(cudaError_t error, const char* call, const CallSite& where = CallSite::here());
// The same for the codes that launches return (kernels/launch.hpp).
inline void check(int status, const char* call, const CallSite& where = CallSite::here()) {
  check(static_cast<cudaError_t>(status), call, where);
}

// Device memory of the current device, for set-up; Error where there is not enough.
void* allocate(std::size_t bytes, const CallSite& where = CallSite::here());
void release(void* data);

// Makes a device the calling thread's current one, and at its end the one that was: an application's threads may have
// another. Every operation of a context begins with such a guard.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  int before() const { return before_; }

 private:
  int before_ = 0;
};

// Sets the mode by which the runtime refuses calls of this thread while a stream is capturing, and at its end the mode
// that was.
class CaptureMode {
 public:
  // Unchecked: destructors use it, after main() too.
  explicit CaptureMode(cudaStreamCaptureMode mode) : before_(mode) { cudaThreadExchangeStreamCaptureMode(&before_); }
  ~CaptureMode() { cudaThreadExchangeStreamCaptureMode(&before_); }
  CaptureMode(const CaptureMode&) = delete;
  CaptureMode& operator=(const CaptureMode&) = delete;
  cudaStreamCaptureMode before() const { return before_; }

 private:
  cudaStreamCaptureMode before_;
};

// While it lives, the calling thread may allocate, release, load kernels and wait although another thread's stream is
// capturing in cudaStreamCaptureModeGlobal, the default, in which the runtime would otherwise refuse that.
struct RelaxedCapture : CaptureMode {
  RelaxedCapture() : CaptureMode(cudaStreamCaptureModeRelaxed) {}
};

// Begins every operation of a context that may allocate or wait, as CurrentDevice begins the others. Throws Error where
// `stream`, the context's own, is capturing: what set-up does belongs into no graph.
class SetUp {
 public:
  SetUp(int device, cudaStream_t stream);

  // The thread as it was before the operation, for a call of the caller's own code in it.
  class Pause {
   public:
    explicit Pause(const SetUp& operation) : device_(operation.device_.before()), mode_(operation.relaxed_.before()) {}

   private:
    CurrentDevice device_;
    CaptureMode mode_;
  };

 private:
  CurrentDevice device_;
  RelaxedCapture relaxed_;
};

// Device memory with one owner, 256-byte aligned. Grows by reserve() only, contents not kept; allocation and release
// wait for the device, so they belong to set-up.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::size_t bytes) { reserve(bytes); }
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory();

  void* reserve(std::size_t bytes);
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Page-locked host memory with one owner. Copies between it and the device are asynchronous; copies of other host memory
// may wait for what is queued before them.
class PinnedMemory {
 public:
  explicit PinnedMemory(std::size_t bytes) { check(cudaMallocHost(&data_, bytes), "cudaMallocHost"); }
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// A place in a stream, for the host to wait for without keeping a core busy.
class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventBlockingSync), "cudaEventCreateWithFlags"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  void wait() const { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  bool reached() const {
    const cudaError_t status = cudaEventQuery(event_);
    if (status != cudaErrorNotReady) check(status, "cudaEventQuery");
    return status == cudaSuccess;
  }
  double milliseconds_since(const Event& begin) const {
    float time = 0;
    check(cudaEventElapsedTime(&time, begin.event_, event_), "cudaEventElapsedTime");
    return time;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// A stream of our own, which does not wait for the default stream.
class OwnStream {
 public:
  OwnStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Host to device, finished at return: for parameters and tables at set-up.
DeviceMemory upload(const void* from, std::size_t bytes);
template <class T>
DeviceMemory upload(const std::vector<T>& from) {
  return upload(from.data(), from.size() * sizeof(T));
}

}  // namespace fokker::cuda
