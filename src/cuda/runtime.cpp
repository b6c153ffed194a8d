#include "cuda/runtime.hpp"

#include <fmt/format.h>

#include <string_view>

#include "fokker/error.hpp"

namespace fokker::cuda {

void check(cudaError_t error, const char* call, const CallSite& where) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // reported here, so it is no error of the next launch
  const std::string_view path = where.file;
  throw Error(fmt::format("CUDA: {} at {}:{} failed with {}: {}", call, path.substr(path.rfind('/') + 1), where.line,
                          cudaGetErrorName(error), cudaGetErrorString(error)));
}

void* allocate(std::size_t bytes, const CallSite& where) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Error(fmt::format("out of memory on the GPU: {} bytes asked for", bytes));
  }
  check(error, "cudaMalloc", where);
  return data;
}

void release(void* data) {
  const RelaxedCapture relaxed;
  cudaFree(data);
}

DeviceMemory::~DeviceMemory() { release(data_); }

PinnedMemory::~PinnedMemory() {
  const RelaxedCapture relaxed;
  cudaFreeHost(data_);
}

void* DeviceMemory::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return data_;
  bytes_ = 0;
  check(cudaFree(std::exchange(data_, nullptr)), "cudaFree");
  data_ = allocate(bytes);
  bytes_ = bytes;
  return data_;
}

DeviceMemory upload(const void* from, std::size_t bytes) {
  const RelaxedCapture relaxed;
  DeviceMemory memory(bytes);
  if (bytes == 0) return memory;
  // The default stream would wait for the caller's, and may not be used while one of those is capturing.
  const OwnStream stream;
  check(cudaMemcpyAsync(memory.data(), from, bytes, cudaMemcpyHostToDevice, stream.get()), "cudaMemcpyAsync");
  // Pageable memory is staged: at the copy's return it may be on its way still.
  check(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");
  return memory;
}

CurrentDevice::CurrentDevice(int device) {
  check(cudaGetDevice(&before_), "cudaGetDevice");
  if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
}

CurrentDevice::~CurrentDevice() {
  int now = before_;
  if (cudaGetDevice(&now) != cudaSuccess || now != before_) cudaSetDevice(before_);
}

SetUp::SetUp(int device, cudaStream_t stream) : device_(device) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status == cudaStreamCaptureStatusNone) return;
  throw Error(
      "the context's stream is capturing a CUDA graph; objects are made, and results on the host asked for, before a "
      "capture or after it");
}

}  // namespace fokker::cuda
