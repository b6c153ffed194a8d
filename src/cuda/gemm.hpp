#pragma once

// Matrix products on the device: cuBLAS behind one call. (The emulation has a stand-in of the same interface.)
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cuda/runtime.hpp"

struct cublasContext;

namespace fokker::cuda {

// C = A B or C += A B, row-major, on the device.
template <class Operand, class Result>
struct Product {
  std::int64_t rows, columns, depth;
  const Operand* a;  // [rows, depth], or [depth, rows] where a_transposed
  std::int64_t a_stride;
  const Operand* b;  // [depth, columns], or [columns, depth] where b_transposed
  std::int64_t b_stride;
  bool b_transposed;
  Result* c;  // [rows, columns]
  std::int64_t c_stride;
  bool a_transposed = false;
  bool add = false;  // to what C holds
};

// A cuBLAS handle on a stream with a workspace of its own, so that its products allocate nothing and can be captured
// into a CUDA graph. For one context's thread at a time.
class Gemm {
 public:
  // workspace_bytes: what cuBLAS may use to split the depth of products that are small in rows and columns.
  Gemm(cudaStream_t stream, std::size_t workspace_bytes);

  // Asynchronous on the stream. float: fp32 arithmetic, never TF32. std::uint16_t: the bits of fp16 numbers, sums in
  // fp32. double.
  template <class Operand, class Result>
  void multiply(const Product<Operand, Result>& product) const;

  std::size_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  DeviceMemory workspace_;
  std::unique_ptr<cublasContext, void (*)(cublasContext*)> handle_;  // goes before its workspace
};

}  // namespace fokker::cuda
