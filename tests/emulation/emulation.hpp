#pragma once

// The CUDA execution model on the host: the twins of everything in kernels/device.hpp, so that the same kernel sources
// compile as plain C++ and run, and are tested, where there is no GPU.
//
// A launch runs in the host thread that does the work of its stream. Up to 16 blocks run at once, as many as the seed
// says and of 4096 threads at most, their threads as fibers; the others follow in a random order. A fiber runs until it
// comes to a synchronising operation (sync_block, sync_warp, a shuffle, ldmatrix, mma) or returns; then one of those
// that can go on is chosen at random. What one thread writes another may therefore find unwritten or overwritten unless
// an operation orders the two: a missing barrier shows as a wrong result under some seed, and under any to
// racecheck.hpp. Shared memory is a heap allocation of exactly the size asked for, filled with NaN, so that
// AddressSanitizer sees what lies outside and results show what was never written.
//
// Operations of a warp need all of its 32 lanes, sync_block all threads of the block that have not returned. Where that
// cannot come about, one sentence says where every lane stands and the process aborts.
//
// Not modelled: memory ordering finer than these operations, parallel progress (a thread that spins on another's store
// never ends), the order of sums in a tensor core (here: exact over one instruction, then rounded towards zero, as
// hardware is found to do: Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores").
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace fokker::kernels {

struct LaunchShape {
  int blocks, threads;
  int shared_bytes;
};

namespace emulation {

// Schedules of this host thread's launches from here on are a function of the seed. Without a call it is that of the
// environment's FOKKER_EMULATION_SEED, or 1.
void set_seed(std::uint64_t seed);

// Of this host thread's launches from here on these blocks run alone, −1 being the last of a grid; without any, all.
void run_only(std::vector<int> blocks);

// Where the running thread stands.
struct Position {
  int thread = 0, threads = 0, block = 0, blocks = 0;
  char* shared = nullptr;
};
extern constinit thread_local Position position;

// A kernel may have this much shared memory a block from here on; 48 KiB without being asked. As cudaError_t: 0 or
// cudaErrorInvalidValue.
int allow(const void* kernel, int shared_bytes);
// Whether a kernel may be launched so, as cudaError_t: 0, cudaErrorInvalidConfiguration or cudaErrorInvalidValue.
int check_launch(const void* kernel, const LaunchShape& shape);
int run(const LaunchShape& shape, void (*body)(const void*), const void* argument);
std::uint64_t shuffle_xor_bits(std::uint64_t bits, int mask);

// Queues work on a stream, or makes it a node of the graph that the stream captures, to be queued at every launch of it
// (streams.hpp). Returns a cudaError_t, and so does the work.
int submit(void* stream, std::function<int()> work);
// The error, which the runtime remembers as this host thread's last one unless it is 0.
int remembered(int error);

inline float flush(float x) { return std::abs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }

}  // namespace emulation

// With few blocks tests come to a thread's second item; one of many items sets a device's 2^14 before it launches.
inline std::int64_t most_item_blocks = 5;

inline int thread_index() { return emulation::position.thread; }
inline int block_threads() { return emulation::position.threads; }
inline int block_index() { return emulation::position.block; }
inline int grid_blocks() { return emulation::position.blocks; }
inline int lane_index() { return thread_index() & 31; }
inline int warp_index() { return thread_index() >> 5; }
inline char* shared_memory() { return emulation::position.shared; }

void sync_block();
void sync_warp();
template <class T>
T shuffle_xor(T v, int mask) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof(T));
  bits = emulation::shuffle_xor_bits(bits, mask);
  std::memcpy(&v, &bits, sizeof(T));
  return v;
}
inline void atomic_add(unsigned* at, unsigned v) { __atomic_fetch_add(at, v, __ATOMIC_RELAXED); }
inline unsigned long long atomic_add(unsigned long long* at, unsigned long long v) {
  return __atomic_fetch_add(at, v, __ATOMIC_RELAXED);
}

inline float exp2_approx(float x) { return emulation::flush(std::exp2(x)); }
inline float log2_approx(float x) { return std::log2(emulation::flush(x)); }
inline float reciprocal_approx(float x) { return emulation::flush(1 / emulation::flush(x)); }

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

namespace emulation {

// IEEE binary16, rounded to nearest even; NaN becomes the canonical one of PTX, 0x7FFF.
inline std::uint32_t half_of(float x) {
  const std::uint32_t sign = bits_of(x) >> 16 & 0x8000u, magnitude = bits_of(x) & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return 0x7FFFu;
  if (magnitude >= 0x477FF000u) return sign | 0x7C00u;   // 65520, half way to 2^16, and beyond
  std::uint32_t significand = magnitude - (112u << 23);  // the exponent's bias goes from 127 to 15
  std::uint32_t dropped = 13;
  if (magnitude < 113u << 23) {  // below 2^-14: a multiple of 2^-24
    const std::uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return sign;
    significand = (magnitude & 0x7FFFFFu) | 0x800000u;
    dropped = 126 - exponent;
  }
  const std::uint32_t kept = significand >> dropped, rest = significand & ((1u << dropped) - 1),
                      middle = 1u << (dropped - 1);
  return sign | (kept + (rest > middle || (rest == middle && (kept & 1u) != 0)));
}

inline float float_of_half(std::uint32_t half) {
  // The bits, shifted, are those of the number times 2^-112, denormal numbers and all, but for infinities and NaN.
  const std::uint32_t sign = (half & 0x8000u) << 16, magnitude = (half & 0x7FFFu) << 13;
  return float_of(sign | (magnitude >= 31u << 23 ? magnitude | 0xFFu << 23 : bits_of(float_of(magnitude) * 0x1p112f)));
}

}  // namespace emulation

inline std::uint32_t pack_halves(float low, float high) {
  return emulation::half_of(low) | emulation::half_of(high) << 16;
}
inline float low_half(std::uint32_t packed) { return emulation::float_of_half(packed & 0xFFFFu); }
inline float high_half(std::uint32_t packed) { return emulation::float_of_half(packed >> 16); }

void load_matrices(std::uint32_t (&r)[4], const void* row);
void load_matrices_transposed(std::uint32_t (&r)[4], const void* row);
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);

// Remembers what a kernel's blocks may have of shared memory.
template <class... Arguments>
int prepare(void (*kernel)(Arguments...), int shared_bytes) {
  return emulation::allow(reinterpret_cast<const void*>(kernel), shared_bytes);
}

// Queued on the stream, with the arguments as they are now. More than 48 KiB of shared memory take a prepared kernel.
template <class... Arguments>
int launch(void (*kernel)(Arguments...), const LaunchShape& shape, void* stream, Arguments... arguments) {
  if (const int error = emulation::check_launch(reinterpret_cast<const void*>(kernel), shape)) return error;
  return emulation::submit(stream, [=] {
    const auto body = [&] { kernel(arguments...); };
    return emulation::run(
        shape, [](const void* argument) { (*static_cast<const decltype(body)*>(argument))(); }, &body);
  });
}

}  // namespace fokker::kernels
