// Twelve chains a ← a c + b in registers: twelve cover latency 4 on two ports and leave four of AVX2's sixteen
// registers.
#include "fma_peak.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "core/parallel.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fma_peak.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fokker::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int chains = 12;

// FLOP of one pass of the loop on one thread.
int flop_per_iteration() { return 2 * chains * static_cast<int>(hn::Lanes(hn::ScalableTag<float>())); }

// The sum keeps the work from being dropped.
float run_chains(std::int64_t iterations) {
  const hn::ScalableTag<float> d;
  const auto c = hn::Set(d, 0.5f), b = hn::Set(d, 1.0f);  // converges to 2: no overflow, no denormals
  auto a0 = hn::Iota(d, 0.0f), a1 = hn::Iota(d, 1.0f), a2 = hn::Iota(d, 2.0f), a3 = hn::Iota(d, 3.0f);
  auto a4 = hn::Iota(d, 4.0f), a5 = hn::Iota(d, 5.0f), a6 = hn::Iota(d, 6.0f), a7 = hn::Iota(d, 7.0f);
  auto a8 = hn::Iota(d, 8.0f), a9 = hn::Iota(d, 9.0f), a10 = hn::Iota(d, 10.0f), a11 = hn::Iota(d, 11.0f);
  for (std::int64_t i = 0; i < iterations; ++i) {
    a0 = hn::MulAdd(a0, c, b), a1 = hn::MulAdd(a1, c, b), a2 = hn::MulAdd(a2, c, b), a3 = hn::MulAdd(a3, c, b);
    a4 = hn::MulAdd(a4, c, b), a5 = hn::MulAdd(a5, c, b), a6 = hn::MulAdd(a6, c, b), a7 = hn::MulAdd(a7, c, b);
    a8 = hn::MulAdd(a8, c, b), a9 = hn::MulAdd(a9, c, b), a10 = hn::MulAdd(a10, c, b), a11 = hn::MulAdd(a11, c, b);
  }
  const auto s0 = hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), s1 = hn::Add(hn::Add(a4, a5), hn::Add(a6, a7));
  const auto s2 = hn::Add(hn::Add(a8, a9), hn::Add(a10, a11));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, hn::Add(s1, s2))));
}

}  // namespace HWY_NAMESPACE
}  // namespace fokker::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fokker::bench {

HWY_EXPORT(flop_per_iteration);
HWY_EXPORT(run_chains);

double fma_peak_gflops(int threads) {
  constexpr std::int64_t iterations = 2'000'000;  // some ten milliseconds
  constexpr int repetitions = 20;                 // the first ones wake the clock up; the best counts
  using clock = std::chrono::steady_clock;
  // The first dispatched call chooses the instruction set; once that is done threads may call at once.
  const double flop = static_cast<double>(HWY_DYNAMIC_DISPATCH(flop_per_iteration)()) * iterations * threads;
  float sink = HWY_DYNAMIC_DISPATCH(run_chains)(1);
  double best = 0;
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    std::vector<float> sinks(threads);
    const clock::time_point begin = clock::now();
    parallel_for(threads, threads,
                 [&](std::int64_t i, int) { sinks[i] = HWY_DYNAMIC_DISPATCH(run_chains)(iterations); });
    best = std::max(best, flop / std::chrono::duration<double>(clock::now() - begin).count());
    for (const float value : sinks) sink += value;
  }
  volatile float result = sink;
  (void)result;
  return best * 1e-9;
}

}  // namespace fokker::bench
#endif
