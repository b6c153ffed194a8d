#pragma once

// Everything that kernels ask of the machine, behind functions: where a thread stands, barriers, shuffles, shared
// memory, and the instructions that C++ has no name for. Compiled by nvcc these are the instructions; compiled as plain
// C++ (FOKKER_EMULATION) they are the emulation's, so that kernels run, and are tested, where there is no GPU.
#include <cstdint>

#include "fokker/formulas/host_device.hpp"

#ifdef FOKKER_EMULATION

#include "emulation.hpp"

#else

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace fokker::kernels {

// Of a grid whose threads take one item after another: they fill any device several times over.
inline constexpr std::int64_t most_item_blocks = 1 << 14;

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int block_threads() { return static_cast<int>(blockDim.x); }
__device__ __forceinline__ int block_index() { return static_cast<int>(blockIdx.x); }
__device__ __forceinline__ int grid_blocks() { return static_cast<int>(gridDim.x); }
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x & 31u); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x >> 5); }

// The block's dynamic shared memory, aligned to 16 bytes.
__device__ __forceinline__ char* shared_memory() {
  extern __shared__ uint4 fokker_shared[];
  return reinterpret_cast<char*>(fokker_shared);
}

__device__ __forceinline__ void sync_block() { __syncthreads(); }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }
template <class T>
__device__ __forceinline__ T shuffle_xor(T v, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, v, mask);
}
// The sum is the order of arrival's: for integers only.
__device__ __forceinline__ void atomic_add(unsigned* to, unsigned v) { atomicAdd(to, v); }
// Returns what was there before.
__device__ __forceinline__ unsigned long long atomic_add(unsigned long long* to, unsigned long long v) {
  return atomicAdd(to, v);
}

// 2^x, log₂ x and 1/x to about 2 ulp, log₂ to 2^−22 absolute between ½ and 2; denormal operands and results are zero.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ std::uint32_t bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float float_of(std::uint32_t bits) { return __uint_as_float(bits); }

// Two fp16 numbers in a register, `low` in the lower half, rounded to nearest even.
__device__ __forceinline__ std::uint32_t pack_halves(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ float low_half(std::uint32_t packed) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(packed & 0xFFFFu)));
}
__device__ __forceinline__ float high_half(std::uint32_t packed) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(packed >> 16)));
}

// ldmatrix.x4: lane l names row l mod 8 (8 numbers of 16 bits, 16 bytes, aligned) of matrix ⌊l/8⌋; of matrix m it gets
// in r[m] the entries (row l/4, columns 2 (l mod 4) and + 1), transposed: (rows 2 (l mod 4) and + 1, column l/4).
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row))));
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row))));
}

// mma.m16n8k16, fp16 operands, fp32 sums: C += A B. With g = l/4 and q = l mod 4 lane l holds
//   C [16, 8]   c[0], c[1]: row g, columns 2q, 2q + 1;  c[2], c[3]: row g + 8
//   A [16, 16]  a[0]: row g, columns 2q, + 1;  a[1]: row g + 8;  a[2], a[3]: the same, columns + 8
//   B [16, 8]   b0: rows 2q, + 1 of column g;  b1: rows + 8
// Volatile as the loads are, so that none is moved to where a part of the warp is.
__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct LaunchShape {
  int blocks, threads;
  int shared_bytes;
};

// Loads a kernel, which CUDA otherwise does at its first launch, and lets its blocks have up to `shared_bytes` of
// dynamic shared memory: always the device's own limit, since the attribute is one for all threads of the process.
// Returns the runtime's error code; that of a kernel without code for the device says so.
template <class... Arguments>
int prepare(void (*kernel)(Arguments...), int shared_bytes) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess || shared_bytes == 0) return error;
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                              shared_bytes);
}

// Returns the runtime's error code of this launch. Beyond 48 KiB of shared memory the kernel has to be prepared.
template <class... Arguments>
int launch(void (*kernel)(Arguments...), const LaunchShape& shape, void* stream, Arguments... arguments) {
  void* pointers[] = {&arguments...};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(shape.blocks)),
                          dim3(static_cast<unsigned>(shape.threads)), pointers,
                          static_cast<std::size_t>(shape.shared_bytes), static_cast<cudaStream_t>(stream));
}

}  // namespace fokker::kernels

#endif

namespace fokker::kernels {

// The block's shared memory, from `offset` bytes behind its start on, as numbers of one type.
template <class T>
__device__ __forceinline__ T* shared_array(int offset = 0) {
  return reinterpret_cast<T*>(shared_memory() + offset);
}

}  // namespace fokker::kernels
