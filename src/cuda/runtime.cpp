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

DeviceMemory::~DeviceMemory() { cudaFree(data_); }

void* DeviceMemory::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return data_;
  bytes_ = 0;
  check(cudaFree(std::exchange(data_, nullptr)), "cudaFree");
  data_ = allocate(bytes);
  bytes_ = bytes;
  return data_;
}

DeviceMemory upload(const void* from, std::size_t bytes) {
  DeviceMemory memory(bytes);
  if (bytes == 0) return memory;
  check(cudaMemcpyAsync(memory.data(), from, bytes, cudaMemcpyHostToDevice, nullptr), "cudaMemcpyAsync");
  // Pageable memory is staged: at the copy's return it may be on its way still, and a stream that was made not to wait
  // for the default stream would overtake it.
  check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  return memory;
}

OnDevice::OnDevice(int device) : device_(device) {
  check(cudaGetDevice(&before_), "cudaGetDevice");
  if (before_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
}

OnDevice::~OnDevice() {
  if (before_ != device_) cudaSetDevice(before_);
}

}  // namespace fokker::cuda
