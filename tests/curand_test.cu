// Our Philox words against cuRAND's: those of its header on the host, and on a GPU those that its generator of the same
// seed and subsequence gives at four times our offset. So whoever draws by cuRAND can follow our paths. By nvcc alone.
#define QUALIFIERS static inline __host__ __device__
#include <curand_philox4x32_x.h>
#undef QUALIFIERS
#include <cuda_runtime.h>
#include <curand_kernel.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "fokker/formulas/philox.hpp"

namespace fokker {
namespace {

struct Draw {
  std::uint64_t seed, index, offset;
};
struct Words {
  uint4 ours, theirs;
};

__host__ __device__ uint4 ours(const Draw& draw) {
  const PhiloxBlock block = philox4x32_10(draw.seed, draw.index, draw.offset);
  return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

__global__ void draw_both(const Draw* draws, int n, Words* words) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const Draw& draw = draws[i];
  curandStatePhilox4_32_10_t state;
  curand_init(draw.seed, draw.index, 4 * draw.offset, &state);  // whose offset counts words
  words[i] = {ours(draw), curand4(&state)};
}

// Every use, with the largest step, block and index; and counters at random of which the offset has 62 bits.
std::vector<Draw> draws() {
  std::vector<Draw> all;
  for (std::uint32_t use = 0; use <= static_cast<std::uint32_t>(RandomUse::condition); ++use) {
    for (const std::uint64_t step : {std::uint64_t{0}, std::uint64_t{889}, (std::uint64_t{1} << 40) - 1}) {
      for (const std::uint32_t block : {0u, 65535u}) {
        const std::uint64_t offset = philox_offset(static_cast<RandomUse>(use), block, step);
        all.push_back({7, use, offset});
        all.push_back({~0ull, ~0ull, offset});
      }
    }
  }
  std::uint64_t state = 1;
  const auto next = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state ^ state >> 32;
  };
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t seed = next(), index = next();
    all.push_back({seed, index, next() >> 2});
  }
  return all;
}

void expect_equal(const Words& words, const Draw& draw) {
  const uint4 &a = words.ours, &b = words.theirs;
  ASSERT_TRUE(a.x == b.x && a.y == b.y && a.z == b.z && a.w == b.w)
      << "seed " << draw.seed << ", index " << draw.index << ", offset " << draw.offset;
}

TEST(Curand, ItsHeaderGivesOurWords) {
  for (const Draw& draw : draws()) {
    const auto low = [](std::uint64_t v) { return static_cast<unsigned>(v); };
    const auto high = [](std::uint64_t v) { return static_cast<unsigned>(v >> 32); };
    const uint4 counter = {low(draw.offset), high(draw.offset), low(draw.index), high(draw.index)};
    expect_equal({ours(draw), curand_Philox4x32_10(counter, {low(draw.seed), high(draw.seed)})}, draw);
    if (HasFatalFailure()) return;
  }
}

TEST(Curand, ItsGeneratorGivesOurWords) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no GPU is here";
  const std::vector<Draw> all = draws();
  const int n = static_cast<int>(all.size());
  Draw* given = nullptr;
  Words* words = nullptr;
  ASSERT_EQ(cudaMalloc(&given, n * sizeof(Draw)), cudaSuccess);
  ASSERT_EQ(cudaMalloc(&words, n * sizeof(Words)), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(given, all.data(), n * sizeof(Draw), cudaMemcpyDefault), cudaSuccess);
  draw_both<<<(n + 127) / 128, 128>>>(given, n, words);
  ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  std::vector<Words> got(n);
  ASSERT_EQ(cudaMemcpy(got.data(), words, n * sizeof(Words), cudaMemcpyDefault), cudaSuccess);
  cudaFree(words);
  cudaFree(given);
  for (int i = 0; i < n; ++i) {
    expect_equal(got[i], all[i]);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace fokker
