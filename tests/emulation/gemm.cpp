// The products of src/cuda/gemm.hpp in plain loops: operands as they are, sums in the type of the result, the depth in
// ascending order.
#include "cuda/gemm.hpp"

#include <type_traits>
#include <vector>

#include "emulation.hpp"

struct cublasContext {
  cudaStream_t stream;
};

namespace fokker::cuda {
namespace {

template <class Result, class Operand>
Result number(Operand v) {
  if constexpr (std::is_same_v<Operand, std::uint16_t>) {
    return kernels::emulation::float_of_half(v);
  } else {
    return v;
  }
}

}  // namespace

// As much workspace as with cuBLAS: tests look at what a field keeps.
Gemm::Gemm(cudaStream_t stream, std::size_t workspace_bytes)
    : workspace_(workspace_bytes), handle_(new cublasContext{stream}, [](cublasContext* handle) { delete handle; }) {}

namespace {

template <class Operand, class Result>
void multiply_now(const Product<Operand, Result>& p) {
  std::vector<Result> b(static_cast<std::size_t>(p.depth * p.columns));
  for (std::int64_t k = 0; k < p.depth; ++k) {
    for (std::int64_t j = 0; j < p.columns; ++j) {
      b[k * p.columns + j] = number<Result>(p.b_transposed ? p.b[j * p.b_stride + k] : p.b[k * p.b_stride + j]);
    }
  }
  std::vector<Result> sum;
  for (std::int64_t i = 0; i < p.rows; ++i) {
    Result* const c = p.c + i * p.c_stride;
    sum.assign(static_cast<std::size_t>(p.columns), Result(0));
    for (std::int64_t k = 0; k < p.depth; ++k) {
      const Result a = number<Result>(p.a_transposed ? p.a[k * p.a_stride + i] : p.a[i * p.a_stride + k]);
      for (std::int64_t j = 0; j < p.columns; ++j) sum[j] += a * b[k * p.columns + j];
    }
    for (std::int64_t j = 0; j < p.columns; ++j) c[j] = p.add ? c[j] + sum[j] : sum[j];
  }
}

}  // namespace

template <class Operand, class Result>
void Gemm::multiply(const Product<Operand, Result>& product) const {
  check(kernels::emulation::submit(handle_->stream,
                                   [product] {
                                     multiply_now(product);
                                     return 0;
                                   }),
        "multiply");
}

template void Gemm::multiply(const Product<float, float>&) const;
template void Gemm::multiply(const Product<double, double>&) const;
template void Gemm::multiply(const Product<std::uint16_t, float>&) const;

}  // namespace fokker::cuda
