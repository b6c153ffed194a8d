#ifndef FOKKER_EMULATION

#include "cuda/gemm.hpp"

#include <fmt/format.h>

#include <string_view>
#include <type_traits>

#include "cuda/cublas.hpp"
#include "fokker/error.hpp"

namespace fokker::cuda {
namespace {

void check_cublas(cublasStatus_t status, const char* call, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string_view path = file;
  throw Error(fmt::format("cuBLAS: {} at {}:{} failed with {}: {}", call, path.substr(path.rfind('/') + 1), line,
                          cublas().status_name(status), cublas().status_string(status)));
}

cublasHandle_t create() {
  cublasHandle_t handle = nullptr;
  check_cublas(cublas().create(&handle), "cublasCreate");
  return handle;
}

}  // namespace

Gemm::Gemm(cudaStream_t stream, std::size_t workspace_bytes)
    : workspace_(workspace_bytes), handle_(create(), [](cublasContext* handle) {
        const RelaxedCapture relaxed;
        cublas().destroy(handle);
      }) {
  // In this order: setting the stream takes the workspace away.
  check_cublas(cublas().set_stream(handle_.get(), stream), "cublasSetStream");
  check_cublas(cublas().set_workspace(handle_.get(), workspace_.data(), workspace_.bytes()), "cublasSetWorkspace");
}

// cuBLAS is column-major: what it sees are the transposed matrices, Cᵀ = Bᵀ Aᵀ.
template <class Operand, class Result>
void Gemm::multiply(const Product<Operand, Result>& p) const {
  constexpr bool wide = std::is_same_v<Operand, double>, half = std::is_same_v<Operand, std::uint16_t>;
  constexpr cudaDataType_t operand = wide ? CUDA_R_64F : half ? CUDA_R_16F : CUDA_R_32F;
  constexpr cudaDataType_t result = wide ? CUDA_R_64F : CUDA_R_32F;
  constexpr cublasComputeType_t compute = wide   ? CUBLAS_COMPUTE_64F
                                          : half ? CUBLAS_COMPUTE_32F
                                                 : CUBLAS_COMPUTE_32F_PEDANTIC;
  const Result alpha = 1, beta = p.add ? 1 : 0;
  check_cublas(cublas().gemm_ex(handle_.get(), p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                                p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(p.columns),
                                static_cast<int>(p.rows), static_cast<int>(p.depth), &alpha, p.b, operand,
                                static_cast<int>(p.b_stride), p.a, operand, static_cast<int>(p.a_stride), &beta, p.c,
                                result, static_cast<int>(p.c_stride), compute, CUBLAS_GEMM_DEFAULT),
               "cublasGemmEx");
}

template void Gemm::multiply(const Product<float, float>&) const;
template void Gemm::multiply(const Product<double, double>&) const;
template void Gemm::multiply(const Product<std::uint16_t, float>&) const;

}  // namespace fokker::cuda

#endif
