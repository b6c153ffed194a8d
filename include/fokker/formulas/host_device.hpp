#pragma once

// Formulas that the CPU and the CUDA backend share stand once, in headers that compile as plain C++ and as CUDA.
#ifdef __CUDACC__
#define FOKKER_HOST_DEVICE __host__ __device__
#else
#define FOKKER_HOST_DEVICE
#endif

namespace fokker {

// a·b rounded by itself, which nvcc would fuse with an addition: for what is to have the bits of a CPU's code that is
// compiled for processors without such an instruction, as x86-64's baseline is.
FOKKER_HOST_DEVICE inline float rounded_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
FOKKER_HOST_DEVICE inline double rounded_product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

}  // namespace fokker
