#pragma once

// Formulas that the CPU and the CUDA backend share stand once, in headers that compile as plain C++ and as CUDA.
#ifdef __CUDACC__
#define FOKKER_HOST_DEVICE __host__ __device__
#else
#define FOKKER_HOST_DEVICE
#endif
