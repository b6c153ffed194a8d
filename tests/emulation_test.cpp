// The emulation finds what it is there to find: missing barriers and blocks that disturb each other by wrong results
// and by the racecheck, reads outside an allocation by AddressSanitizer, barriers that not all threads reach by one
// sentence; and lets right kernels through under every schedule. Its instructions are held by fragment_layout_test.cu.
#include "emulation.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/device.hpp"
#include "sanitizer.hpp"

namespace fokker::kernels {
namespace {

using emulation::set_seed;

constexpr int seeds = 50;

// Launches on a stream of this thread's own, and waits.
template <class... Arguments>
int run(void (*kernel)(Arguments...), const LaunchShape& shape, std::type_identity_t<Arguments>... arguments) {
  struct Stream {
    cudaStream_t get = nullptr;
    Stream() { cudaStreamCreateWithFlags(&get, cudaStreamNonBlocking); }
    ~Stream() { cudaStreamDestroy(get); }
  };
  static thread_local const Stream stream;
  const int error = launch(kernel, shape, stream.get, arguments...);
  return error != cudaSuccess ? error : cudaStreamSynchronize(stream.get);
}

// How many of the seeds give a wrong result; run(seed) says whether it is right.
template <class Run>
int wrong_results(Run run) {
  int wrong = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    set_seed(seed);
    if (!run()) ++wrong;
  }
  return wrong;
}

// A kernel with a fault is a race under every seed to the racecheck, and without it gives wrong results under some.
template <class Run>
void expect_fault(Run run, [[maybe_unused]] const char* race) {
#ifdef FOKKER_RACECHECK
  for (int seed = 1; seed <= 5; ++seed) {
    set_seed(seed);
    EXPECT_DEATH(run(), race) << "seed " << seed;
  }
#else
  EXPECT_GT(wrong_results(run), 0);
#endif
}

// ---- what a thread sees ---------------------------------------------------------------------------------------------

__global__ void positions_kernel(int* count) {
  const int i = block_index() * block_threads() + thread_index();
  const bool right = block_threads() == 96 && grid_blocks() == 7 && lane_index() == thread_index() % 32 &&
                     warp_index() == thread_index() / 32;
  count[i] += right ? 1 : 1000;
}

TEST(Emulation, EveryThreadRunsOnceAndKnowsItsPlace) {
  std::vector<int> count(7 * 96);
  EXPECT_EQ(run(positions_kernel, {7, 96, 0}, count.data()), cudaSuccess);
  EXPECT_EQ(count, std::vector<int>(7 * 96, 1));
}

// Leaves the block's shared memory dirty for the next.
__global__ void shared_kernel(int floats, unsigned* not_nan, std::uintptr_t* address) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  if (thread_index() != 0) return;
  if (block_index() == 0) *address = reinterpret_cast<std::uintptr_t>(shared);
  for (int i = 0; i < floats; ++i) {
    if (!std::isnan(shared[i])) atomic_add(not_nan, 1);
    shared[i] = 1;
  }
}

TEST(Emulation, SharedMemoryBeginsAsNaN) {
  unsigned not_nan = 0;
  std::uintptr_t address = 1;
  EXPECT_EQ(run(shared_kernel, {5, 32, 1000 * 4}, 1000, &not_nan, &address), cudaSuccess);
  EXPECT_EQ(not_nan, 0u);
  EXPECT_EQ(address % 16, 0u);
}

TEST(Emulation, RefusesShapesThatADeviceRefuses) {
  std::vector<int> count(1);
  for (const LaunchShape& shape :
       {LaunchShape{0, 32, 0}, LaunchShape{-1, 32, 0}, LaunchShape{1, 0, 0}, LaunchShape{1, -32, 0},
        LaunchShape{1, 33, 0}, LaunchShape{1, 1056, 0}, LaunchShape{1, 32, -1}}) {
    EXPECT_EQ(run(positions_kernel, shape, count.data()), cudaErrorInvalidConfiguration)
        << shape.blocks << " blocks, " << shape.threads << " threads, " << shape.shared_bytes << " bytes";
  }
  EXPECT_EQ(count[0], 0);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);  // a launch's error stays until it is asked for
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  unsigned not_nan = 0;
  std::uintptr_t address;
  const auto launch_with = [&](int bytes) {
    return run(shared_kernel, {1, 1024, bytes}, bytes / 4, &not_nan, &address);
  };
  EXPECT_EQ(launch_with(48 << 10), cudaSuccess);
  EXPECT_EQ(launch_with((48 << 10) + 4), cudaErrorInvalidValue) << "more takes a prepared kernel";
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(prepare(shared_kernel, (227 << 10) + 1), cudaErrorInvalidValue);
  EXPECT_EQ(prepare(shared_kernel, 227 << 10), cudaSuccess);
  EXPECT_EQ(launch_with(227 << 10), cudaSuccess);
  EXPECT_EQ(not_nan, 0u);
}

// ---- schedules ------------------------------------------------------------------------------------------------------

__global__ void order_kernel(int* order, int* count) {
  order[std::atomic_ref(*count).fetch_add(1)] = block_index() * block_threads() + thread_index();
}

TEST(Emulation, TheSeedDecidesTheOrder) {
  const auto order = [](std::uint64_t seed) {
    set_seed(seed);
    std::vector<int> threads(5 * 64);
    int count = 0;
    run(order_kernel, {5, 64, 0}, threads.data(), &count);
    return threads;
  };
  const std::vector<int> first = order(1);
  EXPECT_EQ(order(1), first);
  EXPECT_NE(order(2), first);
  std::vector<int> sorted = first, all(5 * 64);
  std::sort(sorted.begin(), sorted.end());
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(sorted, all);
}

TEST(Emulation, ChosenBlocksRunAlone) {
  const auto ran = [](std::vector<int> blocks) {
    emulation::run_only(std::move(blocks));
    std::vector<int> count(7 * 96);
    EXPECT_EQ(run(positions_kernel, {7, 96, 0}, count.data()), cudaSuccess);
    emulation::run_only({});
    std::vector<int> of_blocks;
    for (int b = 0; b < 7; ++b) {
      of_blocks.push_back(std::accumulate(count.begin() + b * 96, count.begin() + (b + 1) * 96, 0));
    }
    return of_blocks;
  };
  EXPECT_EQ(ran({-1, 2}), (std::vector<int>{0, 0, 96, 0, 0, 0, 96}));
  EXPECT_EQ(ran({}), std::vector<int>(7, 96));
  EXPECT_DEATH(ran({7}), "emulation: a block was chosen beyond a grid of 7");
}

// out [warps]: the sum over the block of what its threads hold, as every warp sees it.
template <bool barrier>
__global__ void reduction_kernel(float* out) {
  auto* of_warp = reinterpret_cast<float*>(shared_memory());
  float sum = static_cast<float>(thread_index() + 1);
  for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  if (lane_index() == 0) of_warp[warp_index()] = sum;
  if (barrier) sync_block();
  float total = 0;
  for (int w = 0; w < block_threads() / 32; ++w) total += of_warp[w];
  if (lane_index() == 0) out[warp_index()] = total;
}

template <bool barrier>
bool reduction_is_right() {
  std::vector<float> out(2);
  run(reduction_kernel<barrier>, {1, 64, 2 * 4}, out.data());
  return out == std::vector<float>(2, 64 * 65 / 2);
}

TEST(Emulation, AReductionOfTwoWarpsNeedsItsBarrier) {
  EXPECT_EQ(wrong_results(reduction_is_right<true>), 0);
  expect_fault(reduction_is_right<false>, "racecheck: block 0, .* of shared memory at 0(x4)?, which");
}

// Every lane of a warp takes its neighbour's number, three times through the same memory.
template <bool after_write, bool after_read>
__global__ void neighbour_kernel(int* out) {
  auto* shared = reinterpret_cast<int*>(shared_memory()) + warp_index() * 32;
  int mine = thread_index();
  for (int repeat = 0; repeat < 3; ++repeat) {
    shared[lane_index()] = mine;
    if (after_write) sync_warp();
    mine = shared[(lane_index() + 1) % 32];
    if (after_read) sync_warp();
  }
  out[thread_index()] = mine;
}

template <bool after_write, bool after_read>
bool neighbours_are_right() {
  std::vector<int> out(64);
  run(neighbour_kernel<after_write, after_read>, {1, 64, 64 * 4}, out.data());
  for (int i = 0; i < 64; ++i) {
    if (out[i] != i / 32 * 32 + (i + 3) % 32) return false;
  }
  return true;
}

TEST(Emulation, LanesThatShareMemoryNeedBothBarriers) {
  EXPECT_EQ(wrong_results(neighbours_are_right<true, true>), 0);
  expect_fault(neighbours_are_right<false, true>, "racecheck: block 0, .* of shared memory at");
  expect_fault(neighbours_are_right<true, false>, "racecheck: block 0, .* of shared memory at");
}

// The reader is several hundred operations behind the writer, and yet there is nothing that orders the two.
template <bool barrier>
__global__ void far_apart_kernel(int* out) {
  auto* shared = reinterpret_cast<int*>(shared_memory());
  for (int k = 0; k < 500; ++k) {
    sync_warp();
    if (thread_index() == 0 && k == 100) shared[0] = 7;
  }
  if (barrier) sync_block();
  if (thread_index() == 32) *out = shared[0];
}

template <bool barrier>
bool far_apart_is_right() {
  int out = 0;
  run(far_apart_kernel<barrier>, {1, 64, 4}, &out);
  return out == 7;
}

TEST(Emulation, WarpsOvertakeOneAnotherByHundredsOfOperations) {
  EXPECT_EQ(wrong_results(far_apart_is_right<true>), 0);
  expect_fault(far_apart_is_right<false>, "racecheck: block 0, thread (0|32) .* of shared memory at 0");
}

// A block whose second warp returns at once.
__global__ void early_return_kernel(unsigned long long* count) {
  if (warp_index() == 1) return;
  atomic_add(count + block_index(), 1);
  sync_block();
  if (count[block_index()] != 64) atomic_add(count + block_index(), 1000000);
}

TEST(Emulation, ABarrierWaitsForThreadsThatHaveNotReturned) {
  const auto right = [] {
    std::vector<unsigned long long> count(3);
    run(early_return_kernel, {3, 96, 0}, count.data());
    return count == std::vector<unsigned long long>(3, 64);
  };
  EXPECT_EQ(wrong_results(right), 0);
}

// Every thread takes its opposite's number out of a place in global memory, the block's own or the same for all.
template <bool own>
__global__ void scratch_kernel(int* scratch, int* out) {
  const int threads = block_threads();
  int* const mine = scratch + (own ? block_index() * threads : 0);
  mine[thread_index()] = block_index();
  sync_block();
  out[block_index() * threads + thread_index()] = mine[threads - 1 - thread_index()];
}

template <bool own, int threads>
bool scratch_is_right() {
  std::vector<int> scratch(9 * threads), out(9 * threads), expected(9 * threads);
  for (int i = 0; i < 9 * threads; ++i) expected[i] = i / threads;
  run(scratch_kernel<own>, {9, threads, 0}, scratch.data(), out.data());
  return out == expected;
}

TEST(Emulation, BlocksDisturbEachOtherWhereTheyShareMemory) {
  constexpr char race[] = "writes 4 bytes of memory at .*, which another block has (read|written)";
  EXPECT_EQ((wrong_results(scratch_is_right<true, 32>)), 0);
  EXPECT_EQ((wrong_results(scratch_is_right<true, 1024>)), 0);
  expect_fault(scratch_is_right<false, 32>, race);
  expect_fault(scratch_is_right<false, 1024>, race);
}

// Every thread adds to one of four numbers that all blocks share.
template <bool atomic>
__global__ void count_kernel(unsigned* count) {
  unsigned& mine = count[thread_index() % 4];
  if (atomic) return atomic_add(&mine, 1);
  const unsigned before = mine;
  sync_warp();  // where others add
  mine = before + 1;
}

template <bool atomic>
bool counts_are_right() {
  std::vector<unsigned> count(4);
  run(count_kernel<atomic>, {5, 64, 0}, count.data());
  return count == std::vector<unsigned>(4, 5 * 16);
}

TEST(Emulation, AdditionsToOneNumberNeedAtomics) {
  EXPECT_EQ(wrong_results(counts_are_right<true>), 0);
  expect_fault(counts_are_right<false>, "racecheck: .* 4 bytes of memory");
}

#ifdef FOKKER_RACECHECK

// Every warp leaves a row for the one behind it, in lockstep by what brings a warp together and orders no memory.
enum class Between { nothing, shuffle, load, multiply, warp, block };
__global__ void between_kernel(Between what, int* out) {
  auto* shared = reinterpret_cast<int*>(shared_memory());
  std::uint32_t r[4] = {};
  float c[4] = {};
  shared[128 + thread_index()] = 0;
  sync_block();
  shared[thread_index()] = thread_index();
  switch (what) {
    case Between::nothing: break;
    case Between::shuffle: shuffle_xor(1, 1); break;
    case Between::load: load_matrices(r, shared + 128); break;
    case Between::multiply: multiply_add(c, r, 0, 0); break;
    case Between::warp: sync_warp(); break;
    case Between::block: sync_block(); break;
  }
  out[thread_index()] = shared[thread_index() ^ 1];
}

TEST(Racecheck, BarriersAloneOrderMemory) {
  std::vector<int> out(64);
  const auto with = [&](Between what) { run(between_kernel, {1, 64, 192 * 4}, what, out.data()); };
  for (const Between what : {Between::nothing, Between::shuffle, Between::load, Between::multiply}) {
    EXPECT_DEATH(with(what), "racecheck: block 0, .* of shared memory at") << static_cast<int>(what);
  }
  with(Between::warp);
  with(Between::block);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(out[i], i ^ 1);
}

// The second warp reads what the first has written before a barrier of warps only.
__global__ void other_warp_kernel(int* out) {
  auto* shared = reinterpret_cast<int*>(shared_memory());
  if (thread_index() == 0) shared[0] = 7;
  sync_warp();
  if (thread_index() == 32) *out = shared[0];
}

// A lane names the row that its neighbour has written.
template <bool barrier>
__global__ void row_kernel() {
  auto* rows = reinterpret_cast<std::uint16_t*>(shared_memory());
  for (int j = 0; j < 8; ++j) rows[lane_index() * 8 + j] = 0;
  if (barrier) sync_warp();
  std::uint32_t r[4];
  load_matrices(r, rows + (lane_index() ^ 1) * 8);
}

// Many read a number before one writes it; an access to a part of it is an access to it.
template <bool barrier>
__global__ void many_readers_kernel(int* out) {
  auto* shared = reinterpret_cast<int*>(shared_memory());
  if (thread_index() == 17) shared[0] = 0;
  sync_block();
  out[thread_index()] = shared[0];
  if (barrier) sync_block();
  if (thread_index() == 17) reinterpret_cast<unsigned char*>(shared)[3] = 1;
}

__global__ void add_and_read_kernel(unsigned* count, unsigned* out) {
  atomic_add(count, 1);
  if (thread_index() == 0) *out = *count;
}

TEST(Racecheck, SaysWhatMet) {
  std::vector<int> out(1024);
  EXPECT_DEATH(run(other_warp_kernel, {1, 64, 4}, out.data()),
               "racecheck: block 0, thread (32 reads|0 writes) 4 bytes of shared memory at 0, which thread (0|32) has "
               "(written|read), and no barrier is between: addr2line -ife .*emulation_test.* 0x");
  run(row_kernel<true>, {1, 32, 32 * 16});
  EXPECT_DEATH(run(row_kernel<false>, {1, 32, 32 * 16}), "(reads 16|writes (2|16)) bytes of shared memory");
  run(many_readers_kernel<true>, {1, 1024, 4}, out.data());
  EXPECT_DEATH(run(many_readers_kernel<false>, {1, 1024, 4}, out.data()), "bytes of shared memory at 0(x3)?");
  unsigned count = 0, seen = 0;
  EXPECT_DEATH(run(add_and_read_kernel, {1, 32, 0}, &count, &seen), "(adds to|reads) 4 bytes of memory at");
}

TEST(Racecheck, LaunchesAreInOrder) {
  std::vector<int> scratch(32), out(32);
  for (int repeat = 0; repeat < 3; ++repeat) {
    run(scratch_kernel<false>, {1, 32, 0}, scratch.data(), out.data());
  }
  EXPECT_EQ(out, std::vector<int>(32, 0));
}

#endif

TEST(Emulation, HostThreadsLaunchAtOnce) {
  std::vector<int> wrong(4, -1);
  std::vector<std::thread> threads;
  for (int& w : wrong) threads.emplace_back([&w] { w = wrong_results(neighbours_are_right<true, true>); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

// ---- what ends a process --------------------------------------------------------------------------------------------

__global__ void half_at_the_block_kernel() {
  if (thread_index() < 48) {
    sync_block();
  } else {
    sync_warp();
  }
}

__global__ void lanes_gone_kernel() {
  if (lane_index() >= 20) return;
  shuffle_xor(1.0f, 1);
}

// Lanes of a warp that wait at different operations never meet.
__global__ void two_operations_kernel() {
  std::uint32_t a[4] = {};
  float c[4] = {};
  if (lane_index() < 8) {
    multiply_add(c, a, 0, 0);
  } else {
    load_matrices(a, shared_memory());
  }
}

__global__ void load_kernel(int offset) {
  std::uint32_t r[4];
  load_matrices(r, shared_memory() + offset);
}

__global__ void shuffle_far_kernel() { shuffle_xor(1, 32); }

__global__ void launching_kernel() { launch(shuffle_far_kernel, {1, 32, 0}, nullptr); }

TEST(EmulationDeath, DivergentBarriersSayWhereEachLaneStands) {
  EXPECT_DEATH(
      run(half_at_the_block_kernel, {1, 64, 0}),
      "emulation: deadlock in block 0 of 1, where no thread can go on: warp 0: lanes 0 to 31 wait at sync_block; "
      "warp 1: lanes 0 to 15 wait at sync_block, lanes 16 to 31 wait at sync_warp");
  EXPECT_DEATH(run(lanes_gone_kernel, {1, 32, 0}),
               "warp 0: lanes 0 to 19 wait at shuffle_xor, lanes 20 to 31 have returned");
  EXPECT_DEATH(run(two_operations_kernel, {1, 32, 16}),
               "warp 0: lanes 0 to 7 wait at multiply_add, lanes 8 to 31 wait at load_matrices");
}

TEST(EmulationDeath, WrongUseHasItsSentence) {
  EXPECT_DEATH(run(load_kernel, {1, 32, 64}, 8), "a row of load_matrices is not aligned to 16 bytes");
  EXPECT_DEATH(run(load_kernel, {1, 32, 64}, 64), "a row of load_matrices lies outside the shared memory");
  EXPECT_DEATH(run(load_kernel, {1, 32, 64}, -16), "a row of load_matrices lies outside the shared memory");
  EXPECT_DEATH(run(shuffle_far_kernel, {1, 32, 0}), "shuffle_xor by 32 in block 0 of 1, thread [0-9]+ of 32");
  EXPECT_DEATH(run(launching_kernel, {1, 32, 0}), "a kernel launches a kernel");
  EXPECT_DEATH(sync_block(), "called outside a kernel");
  EXPECT_DEATH(shuffle_xor(1, 1), "called outside a kernel");
}

#ifdef FOKKER_ASAN

__global__ void read_shared_kernel(int at, float* out) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  shared[thread_index()] = 1;
  sync_block();
  out[thread_index()] = shared[thread_index() + at];
}

__global__ void read_global_kernel(const float* x, float* out) {
  sync_warp();
  if (thread_index() == 31) *out = x[thread_index() + 1];
}

__global__ void read_local_kernel(int at, float* out) {
  volatile float local[4] = {1, 2, 3, 4};
  sync_warp();
  if (thread_index() == 0) *out = local[at];
}

TEST(EmulationDeath, AddressSanitizerSeesReadsOutside) {
  std::vector<float> out(64);
  set_seed(1);
  EXPECT_EQ(run(read_shared_kernel, {2, 64, 64 * 4}, 0, out.data()), cudaSuccess);
  EXPECT_DEATH(run(read_shared_kernel, {2, 64, 64 * 4}, 1, out.data()), "heap-buffer-overflow");

  void* memory;
  ASSERT_EQ(cudaMalloc(&memory, 33 * 4), cudaSuccess);
  EXPECT_EQ(run(read_global_kernel, {1, 32, 0}, static_cast<const float*>(memory), out.data()), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  EXPECT_DEATH(run(read_global_kernel, {1, 32, 0}, static_cast<const float*>(memory), out.data()),
               "heap-use-after-free");
  ASSERT_EQ(cudaMalloc(&memory, 32 * 4), cudaSuccess);
  EXPECT_DEATH(run(read_global_kernel, {1, 32, 0}, static_cast<const float*>(memory), out.data()),
               "heap-buffer-overflow");
  EXPECT_EQ(cudaFree(memory), cudaSuccess);

  EXPECT_EQ(run(read_local_kernel, {1, 32, 0}, 3, out.data()), cudaSuccess);
  EXPECT_DEATH(run(read_local_kernel, {1, 32, 0}, 4, out.data()),
               "stack-buffer-overflow|index 4 out of bounds");  // by the address or by the type
}

#endif

// ---- the stand-in for the runtime -----------------------------------------------------------------------------------

TEST(EmulatedRuntime, CopiesKnowDeviceFromHost) {
  std::vector<float> host(10, 1.5f), back(10);
  void* device;
  ASSERT_EQ(cudaMalloc(&device, 40), cudaSuccess);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(device) % 256, 0u);
  EXPECT_TRUE(std::isnan(static_cast<float*>(device)[9]));
  EXPECT_EQ(cudaMemcpy(device, host.data(), 40, cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(back.data(), device, 40, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  EXPECT_EQ(back, host);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);

  EXPECT_EQ(cudaMemcpy(device, host.data(), 40, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(back.data(), host.data(), 40, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(static_cast<char*>(device) + 4, host.data(), 40, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(device, 0, 41), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(host.data(), 0, 4), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);

  EXPECT_EQ(cudaMemsetAsync(static_cast<char*>(device) + 36, 0, 4), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(back.data(), device, 40, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(back[8], 1.5f);
  EXPECT_EQ(back[9], 0.0f);

  cudaPointerAttributes attributes;
  EXPECT_EQ(cudaPointerGetAttributes(&attributes, static_cast<char*>(device) + 39), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  EXPECT_EQ(cudaPointerGetAttributes(&attributes, host.data()), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);

  EXPECT_EQ(cudaFree(host.data()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
  EXPECT_EQ(cudaFree(device), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&device, std::size_t{1} << 40), cudaErrorMemoryAllocation);
  EXPECT_EQ(device, nullptr);
  cudaGetLastError();
}

TEST(EmulatedRuntime, HasOneDevice) {
  int value = 0;
  EXPECT_EQ(cudaGetDeviceCount(&value), cudaSuccess);
  EXPECT_EQ(value, 1);
  cudaDeviceProp properties;
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_STREQ(properties.name, "emulation");
  EXPECT_EQ(properties.major * 10 + properties.minor, 90);
  EXPECT_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), cudaSuccess);
  EXPECT_EQ(value, 227 << 10);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  EXPECT_STREQ(cudaGetErrorName(cudaGetLastError()), "cudaErrorInvalidDevice");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
}

__global__ void add_kernel(int* sum, int v) { std::atomic_ref(*sum) += v; }

class CapturingStream {
 public:
  explicit CapturingStream(unsigned flags = cudaStreamNonBlocking,
                           cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, flags), cudaSuccess);
    EXPECT_EQ(cudaStreamBeginCapture(stream_, mode), cudaSuccess);
  }
  ~CapturingStream() {
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream_, &graph);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream_);
    cudaGetLastError();
  }
  CapturingStream(const CapturingStream&) = delete;
  CapturingStream& operator=(const CapturingStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

TEST(EmulatedRuntime, AGraphDoesWhatWasCapturedInOrderAtEveryLaunch) {
  void* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 2 * sizeof(int)), cudaSuccess);
  int* sum = static_cast<int*>(memory);
  ASSERT_EQ(cudaMemset(sum, 0, 2 * sizeof(int)), cudaSuccess);
  const CapturingStream stream;
  {
    int v = 3;  // recorded by value
    ASSERT_EQ(launch(add_kernel, {1, 32, 0}, stream.get(), sum, v), cudaSuccess);
    v = 100;
  }
  ASSERT_EQ(cudaMemcpyAsync(sum + 1, sum, sizeof(int), cudaMemcpyDeviceToDevice, stream.get()), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(sum, 0, sizeof(int), stream.get()), cudaSuccess);
  ASSERT_EQ(launch(add_kernel, {1, 32, 0}, stream.get(), sum, 1), cudaSuccess);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  ASSERT_EQ(cudaStreamIsCapturing(stream.get(), &status), cudaSuccess);
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(sum[0], 0) << "capturing did the work";
  for (int run = 0; run < 2; ++run) {
    ASSERT_EQ(cudaGraphLaunch(executable, stream.get()), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
    EXPECT_EQ(sum[0], 32);  // of 32 threads
    EXPECT_EQ(sum[1], run == 0 ? 3 * 32 : 4 * 32);
  }
  cudaGraphExecDestroy(executable);
  cudaFree(memory);
}

TEST(EmulatedRuntime, ACaptureForbidsWhatTheDeviceForbids) {
  void* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 4), cudaSuccess);
  const auto ended = [](const CapturingStream& stream) {
    cudaGraph_t graph = nullptr;
    const cudaError_t error = cudaStreamEndCapture(stream.get(), &graph);
    cudaGraphDestroy(graph);
    return error;
  };
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed), cudaErrorStreamCaptureUnsupported);
  {
    const CapturingStream stream;
    void* more = nullptr;
    EXPECT_EQ(cudaMalloc(&more, 4), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(ended(stream), cudaErrorStreamCaptureInvalidated);
  }
  {
    const CapturingStream stream;
    EXPECT_EQ(cudaFree(memory), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(cudaMemsetAsync(memory, 0, 4, stream.get()), cudaErrorStreamCaptureInvalidated);
  }
  {
    const CapturingStream stream;
    EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(ended(stream), cudaErrorStreamCaptureInvalidated);
  }
  {
    const CapturingStream blocking(cudaStreamDefault);
    EXPECT_EQ(cudaMemsetAsync(memory, 0, 4, nullptr), cudaErrorStreamCaptureImplicit);
    EXPECT_EQ(ended(blocking), cudaErrorStreamCaptureInvalidated);
  }
  {
    const CapturingStream relaxed(cudaStreamNonBlocking, cudaStreamCaptureModeRelaxed);
    EXPECT_EQ(cudaMemsetAsync(memory, 0, 4, nullptr), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(ended(relaxed), cudaSuccess);
  }
  // Another thread's capture forbids allocation where it is global, unless the thread's own mode is another.
  for (const auto mode : {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal}) {
    const CapturingStream stream(cudaStreamNonBlocking, mode);
    std::thread([&] {
      const cudaError_t expected =
          mode == cudaStreamCaptureModeGlobal ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
      EXPECT_EQ(cudaDeviceSynchronize(), expected);
      cudaStreamCaptureMode own = cudaStreamCaptureModeThreadLocal;
      EXPECT_EQ(cudaThreadExchangeStreamCaptureMode(&own), cudaSuccess);
      EXPECT_EQ(own, cudaStreamCaptureModeGlobal);
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }).join();
  }
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
}

TEST(EmulatedRuntime, EventsMeasureTime) {
  cudaStream_t stream;
  cudaEvent_t start, end;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&start), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&end), cudaSuccess);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorInvalidValue);  // not recorded
  cudaGetLastError();
  EXPECT_EQ(cudaEventRecord(start, stream), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(end, stream), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaSuccess);
  EXPECT_GE(milliseconds, 0.0f);
  EXPECT_EQ(cudaEventDestroy(start), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(end), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

// ---- streams --------------------------------------------------------------------------------------------------------

class Streams {
 public:
  explicit Streams(EmulatedStreams mode, unsigned long long seed = 1) : before_(emulate_streams(mode, seed)) {}
  ~Streams() { emulate_streams(before_); }
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;

 private:
  EmulatedStreams before_;
};

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, flags), cudaSuccess);
  }
  ~Stream() { EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void wait() const { EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); }
  void wait_for(cudaEvent_t event) const { EXPECT_EQ(cudaStreamWaitEvent(stream_, event), cudaSuccess); }
  // Adds v to sum, as a kernel of one thread that counts.
  void add(int* sum, int v) const { EXPECT_EQ(launch(add_once_kernel, {1, 32, 0}, stream_, sum, v), cudaSuccess); }
  void copy(int* to, const int* from) const {
    EXPECT_EQ(cudaMemcpyAsync(to, from, sizeof(int), cudaMemcpyDefault, stream_), cudaSuccess);
  }

 private:
  static __global__ void add_once_kernel(int* sum, int v) {
    if (thread_index() == 0) *sum += v;
  }
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { EXPECT_EQ(cudaEventCreate(&event_), cudaSuccess); }
  ~Event() { EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }
  void record(const Stream& stream) const { EXPECT_EQ(cudaEventRecord(event_, stream.get()), cudaSuccess); }

 private:
  cudaEvent_t event_ = nullptr;
};

// Numbers on the device, from 0 on, or pinned.
class Numbers {
 public:
  explicit Numbers(bool pinned = false) : pinned_(pinned) {
    void* memory = nullptr;
    EXPECT_EQ(pinned ? cudaMallocHost(&memory, 3 * sizeof(int)) : cudaMalloc(&memory, 3 * sizeof(int)), cudaSuccess);
    numbers_ = static_cast<int*>(memory);
    std::fill_n(numbers_, 3, 0);
  }
  ~Numbers() { EXPECT_EQ(pinned_ ? cudaFreeHost(numbers_) : cudaFree(numbers_), cudaSuccess); }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  int* get(int i = 0) const { return numbers_ + i; }
  int& operator[](int i) const { return numbers_[i]; }

 private:
  bool pinned_;
  int* numbers_ = nullptr;
};

constexpr int unwritten = -1;  // the bits of a NaN

TEST(EmulatedStreams, WorkIsDoneWhenTheModeSaysSoAndBeforeAWaitEnds) {
  const Numbers sum;
  const Stream stream, other;
  int before = 0, calls = 0;
  for (const auto mode : {EmulatedStreams::eager, EmulatedStreams::lazy, EmulatedStreams::random}) {
    for (unsigned long long seed = 1; seed <= seeds; ++seed) {
      const Streams streams(mode, seed);
      sum[0] = 0;
      for (int i = 0; i < 4; ++i) stream.add(sum.get(), 1);
      other.wait();
      if (mode == EmulatedStreams::random) {
        before += sum[0];
        calls += 4;
      } else {
        ASSERT_EQ(sum[0], mode == EmulatedStreams::eager ? 4 : 0);
      }
      stream.wait();
      ASSERT_EQ(sum[0], 4);
    }
  }
  EXPECT_GT(before, 0);
  EXPECT_LT(before, calls);
}

TEST(EmulatedStreams, OnlyAnEventOrdersStreams) {
  const Streams lazy(EmulatedStreams::lazy);
  const Numbers n;
  const Stream first, second;
  const Event event;
  for (const bool ordered : {false, true}) {
    n[0] = n[1] = 0;
    first.add(n.get(0), 1);
    event.record(first);
    first.add(n.get(0), 10);  // after the event
    if (ordered) second.wait_for(event.get());
    second.copy(n.get(1), n.get(0));
    second.wait();
    EXPECT_EQ(n[1], ordered ? 1 : 0);
    first.wait();
    EXPECT_EQ(n[0], 11);
  }
  // A wait is for what was recorded before it.
  n[0] = 0;
  event.record(first);
  second.wait_for(event.get());
  first.add(n.get(0), 1);
  event.record(first);
  second.copy(n.get(1), n.get(0));
  second.wait();
  EXPECT_EQ(n[1], 0);
  float milliseconds = 0;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, event.get(), event.get()), cudaErrorNotReady);
  EXPECT_EQ(cudaEventSynchronize(event.get()), cudaSuccess);
  EXPECT_EQ(n[0], 1);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
}

TEST(EmulatedStreams, TheDefaultStreamOrdersThoseThatBlock) {
  const Streams lazy(EmulatedStreams::lazy);
  const Numbers n;
  for (const unsigned flags : {cudaStreamDefault, cudaStreamNonBlocking}) {
    const Stream first(flags), second(flags);
    n[0] = n[1] = n[2] = 0;
    first.add(n.get(0), 1);
    EXPECT_EQ(cudaMemcpyAsync(n.get(1), n.get(0), sizeof(int), cudaMemcpyDeviceToDevice), cudaSuccess);
    second.copy(n.get(2), n.get(1));
    first.add(n.get(0), 1);
    second.wait();
    EXPECT_EQ(n[2], flags == cudaStreamDefault ? 1 : 0);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(n[0], 2);
  }
}

TEST(EmulatedStreams, AsynchronousCopiesUseTheHostsMemoryUntilTheHostWaits) {
  const Streams lazy(EmulatedStreams::lazy);
  const Numbers device, page_locked(true);
  const Stream stream;
  const Event event;
  std::vector<int> pageable(3);
  cudaPointerAttributes attributes;
  EXPECT_EQ(cudaPointerGetAttributes(&attributes, page_locked.get()), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  for (int* const host : {page_locked.get(), pageable.data()}) {
    host[0] = 5;
    stream.copy(device.get(), host);
    EXPECT_DEATH(
        {
          host[0] = 6;
          stream.wait();
        },
        "host memory changed before queued work had read it");
    stream.copy(host + 1, device.get());
    event.record(stream);
    stream.copy(host + 2, device.get());
    EXPECT_EQ(host[1], unwritten);
    EXPECT_EQ(cudaEventSynchronize(event.get()), cudaSuccess);
    EXPECT_EQ(host[1], 5);
    EXPECT_EQ(host[2], unwritten);
    stream.wait();
    EXPECT_EQ(host[2], 5);
    // In stream order, whatever is there before.
    stream.add(device.get(), 1);
    stream.copy(host, device.get());
    stream.copy(device.get(1), host);
    stream.copy(host, device.get(1));
    stream.wait();
    EXPECT_EQ(host[0], 6);
  }
  EXPECT_EQ(cudaFreeHost(device.get()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  stream.copy(device.get(), page_locked.get());
  EXPECT_DEATH(cudaFreeHost(page_locked.get()), "pinned memory is released while queued work uses it");
  stream.wait();
}

// Pageable memory is read and written early or late.
TEST(EmulatedStreams, NothingMayBeReliedUponOfPageableMemory) {
  const Numbers n;
  const Stream stream;
  int early_reads = 0, early_writes = 0;
  for (unsigned long long seed = 1; seed <= seeds; ++seed) {
    const Streams random(EmulatedStreams::random, seed);
    int host = 3, back = 0;
    stream.copy(n.get(), &host);
    early_reads += n[0] == 3;
    stream.copy(&back, n.get());
    early_writes += back == 3;
    stream.wait();
    ASSERT_EQ(back, 3);
    n[0] = 0;
  }
  for (const int early : {early_reads, early_writes}) {
    EXPECT_GT(early, 0);
    EXPECT_LT(early, seeds);
  }
}

TEST(EmulatedStreams, ASynchronousCopyToTheDeviceIsOnItsWayAtReturn) {
  const Streams lazy(EmulatedStreams::lazy);
  const Numbers n;
  const Stream stream;
  const auto copied = [&](bool waits) {
    n[0] = n[1] = 0;
    int host = 7, back = 0;
    EXPECT_EQ(cudaMemcpy(n.get(), &host, sizeof(int), cudaMemcpyHostToDevice), cudaSuccess);
    host = 8;
    EXPECT_EQ(waits ? cudaStreamSynchronize(nullptr) : cudaSuccess, cudaSuccess);
    stream.copy(n.get(1), n.get());
    stream.wait();
    EXPECT_EQ(cudaMemcpy(&back, n.get(), sizeof(int), cudaMemcpyDeviceToHost), cudaSuccess);
    EXPECT_EQ(back, 7);
    return n[1];
  };
  EXPECT_EQ(copied(false), 0);
  EXPECT_EQ(copied(true), 7);
}

TEST(EmulatedStreams, WhatIsReleasedDoesItsWorkFirst) {
  const Streams lazy(EmulatedStreams::lazy);
  const Numbers n;
  void* dropped = nullptr;
  {
    const Stream stream;
    ASSERT_EQ(cudaMalloc(&dropped, sizeof(int)), cudaSuccess);
    ASSERT_EQ(cudaMemsetAsync(dropped, 0, sizeof(int), stream.get()), cudaSuccess);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
    stream.add(static_cast<int*>(dropped), 4);
    stream.copy(n.get(), static_cast<int*>(dropped));
    ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
    for (int i = 0; i < 2; ++i) EXPECT_EQ(cudaGraphLaunch(executable, stream.get()), cudaSuccess);
    EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
  EXPECT_EQ(n[0], 0);
  EXPECT_EQ(cudaFree(dropped), cudaSuccess);
  EXPECT_EQ(n[0], 8);
  if (testing::with_tsan) return;  // there memory that was freed may be given out again
  void* next = nullptr;
  ASSERT_EQ(cudaMalloc(&next, sizeof(int)), cudaSuccess);
  EXPECT_NE(next, dropped);
  EXPECT_DEATH(
      {
        const Stream stream;
        stream.add(static_cast<int*>(dropped), 1);
        stream.wait();
      },
      "");
  EXPECT_EQ(cudaFree(next), cudaSuccess);
}

TEST(EmulatedStreams, AnErrorOfQueuedWorkIsThatOfLaterCalls) {
  const auto errors_come_late = [] {
    emulate_streams(EmulatedStreams::lazy);
    cudaStream_t stream = nullptr;
    void* memory = nullptr;
    cudaStreamCreate(&stream);
    cudaMalloc(&memory, 4);
    const bool queued = emulation::submit(stream, [] { return int{cudaErrorLaunchFailure}; }) == cudaSuccess &&
                        cudaMemsetAsync(memory, 0, 4, stream) == cudaSuccess;
    const bool told = cudaStreamSynchronize(stream) == cudaErrorLaunchFailure &&
                      cudaMemsetAsync(memory, 0, 4, stream) == cudaErrorLaunchFailure &&
                      cudaDeviceSynchronize() == cudaErrorLaunchFailure && cudaFree(memory) == cudaErrorLaunchFailure;
    std::exit(queued && told ? 0 : 1);
  };
  EXPECT_EXIT(errors_come_late(), ::testing::ExitedWithCode(0), "");
}

// Each thread's stream waits for what the other's did before.
TEST(EmulatedStreams, HostThreadsDoEachOthersWork) {
  for (const auto mode : {EmulatedStreams::lazy, EmulatedStreams::random}) {
    const Streams streams(mode);
    const Numbers n;
    const Stream of_one, of_other;
    std::vector<cudaEvent_t> events(200);
    for (cudaEvent_t& event : events) ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
    for (std::size_t k = 0; k < events.size(); ++k) {
      const Stream& stream = k % 2 == 0 ? of_one : of_other;
      if (k > 0) stream.wait_for(events[k - 1]);
      stream.add(n.get(0), 1);
      ASSERT_EQ(cudaEventRecord(events[k], stream.get()), cudaSuccess);
    }
    std::vector<std::thread> threads;
    for (const Stream* stream : {&of_one, &of_other}) threads.emplace_back([=] { stream->wait(); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(n[0], 200);
    for (const cudaEvent_t event : events) EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  }
}

}  // namespace
}  // namespace fokker::kernels
