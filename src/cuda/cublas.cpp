#ifndef FOKKER_EMULATION

#include "cuda/cublas.hpp"

#include <fmt/format.h>

#include <string>

#include "cuda/library.hpp"

namespace fokker::cuda {
namespace {

Cublas load() {
  // Where the system looks, then where the toolkit of this build was.
  const std::string name = fmt::format("libcublas.so.{}", CUBLAS_VER_MAJOR);
  const Library library("cuBLAS", "networks this wide need cuBLAS on CUDA", {name, FOKKER_CUDA_LIBRARIES "/" + name});
  Cublas functions;
  library.find("cublasCreate_v2", functions.create);
  library.find("cublasDestroy_v2", functions.destroy);
  library.find("cublasSetStream_v2", functions.set_stream);
  library.find("cublasSetWorkspace_v2", functions.set_workspace);
  library.find("cublasGemmEx", functions.gemm_ex);
  library.find("cublasGetStatusName", functions.status_name);
  library.find("cublasGetStatusString", functions.status_string);
  return functions;
}

}  // namespace

const Cublas& cublas() {
  static const Cublas functions = load();
  return functions;
}

}  // namespace fokker::cuda

#endif
