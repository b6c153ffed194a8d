#ifndef FOKKER_EMULATION

#include "cuda/cublas.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <string>

#include "fokker/error.hpp"

namespace fokker::cuda {
namespace {

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw Error(fmt::format("cuBLAS has no function {}: {}", name, dlerror()));
}

Cublas load() {
  // Where the system looks, then where the toolkit of this build was.
  const std::string name = fmt::format("libcublas.so.{}", CUBLAS_VER_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen((FOKKER_CUDA_LIBRARIES "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw Error(fmt::format("networks this wide need cuBLAS on CUDA, and {} cannot be loaded: {}", name, dlerror()));
  }
  Cublas functions;
  find(library, "cublasCreate_v2", functions.create);
  find(library, "cublasDestroy_v2", functions.destroy);
  find(library, "cublasSetStream_v2", functions.set_stream);
  find(library, "cublasSetWorkspace_v2", functions.set_workspace);
  find(library, "cublasGemmEx", functions.gemm_ex);
  find(library, "cublasGetStatusName", functions.status_name);
  find(library, "cublasGetStatusString", functions.status_string);
  return functions;
}

}  // namespace

const Cublas& cublas() {
  static const Cublas functions = load();
  return functions;
}

}  // namespace fokker::cuda

#endif
