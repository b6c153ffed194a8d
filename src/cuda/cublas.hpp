#pragma once

// The functions of cuBLAS that matrix products call, loaded when the first product is prepared. Linked, cuBLAS would
// cost every start of every executable half a second and 200 MB, and none would start where it is not installed.
#include <cublas_v2.h>

namespace fokker::cuda {

struct Cublas {
  decltype(&cublasCreate_v2) create;
  decltype(&cublasDestroy_v2) destroy;
  decltype(&cublasSetStream_v2) set_stream;
  decltype(&cublasSetWorkspace_v2) set_workspace;
  // Written out, because the header overloads the name.
  cublasStatus_t (*gemm_ex)(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                            int k, const void* alpha, const void* a, cudaDataType a_type, int lda, const void* b,
                            cudaDataType b_type, int ldb, const void* beta, void* c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm);
  decltype(&cublasGetStatusName) status_name;
  decltype(&cublasGetStatusString) status_string;
};

// Throws Error where the library that this build was made for is not found.
const Cublas& cublas();

}  // namespace fokker::cuda
