#pragma once

#include <cmath>
#include <cstdint>

#include "fokker/formulas/host_device.hpp"

// Counter-based randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// Key = seed (64 bits). Counter: the upper 64 bits hold the sample index (cuRAND's subsequence); the lower 64 bits hold
// (use, block of four words, step), packed in 62 bits (cuRAND's offset / 4). So a seed names one Brownian path per
// sample whatever the backend, the batch split or the number of threads.
namespace fokker {

// What a draw is for: draws for different uses never share words.
enum class RandomUse : std::uint32_t {
  prior,           // x_T of a sample
  noise,           // Brownian increments of the reverse SDE; step = step of the time grid
  probe,           // Hutchinson probes
  data,            // x_0 of a data set; step = training iteration (0 outside training)
  time,            // denoising time
  denoising,       // noise of x_t given x_0
  collocation,     // (t, x) of a residual point
  initialisation,  // network parameters
  projection,      // directions of sliced W2
  diagnostic,      // forward paths (step = step of the path); directions and points of diagnostics
  condition,       // whether a training point's condition is dropped
  before_step,     // what is added to a sample before a step of the time grid: churn, a Langevin step
  probe_seed,      // the seed of the residual's probes in a training iteration, which is the step
};

// Steps that are reserved: no training iteration, step of a grid or step of a path reaches them (iterations end below
// 10^12), so that what is drawn at them is independent of what is drawn at those. Two uses may share a number.
struct ReservedStep {
  enum Step : std::uint64_t {
    // diagnostic
    direction = std::uint64_t{1} << 39,  // of radial slopes
    box_point,                           // of the upper bound
    prior,                               // x_T of a diagnostic's paths
    probe,                               // and those that follow: probe + k for the k-th time
    // data, denoising and time: samples of a data set, and of its law at a time, that no model was trained on
    held_out_loss = (std::uint64_t{1} << 40) - 6,
    second_marginal,
    first_marginal,
    truth,
    second_noise_floor,
    first_noise_floor,
    // collocation: residual statistics
    residual_point = (std::uint64_t{1} << 40) - 2,
    residual_time,
  };
};

struct PhiloxBlock {
  std::uint32_t word[4];
};

// step < 2^40, block < 2^16, use < 2^6.
FOKKER_HOST_DEVICE inline std::uint64_t philox_offset(RandomUse use, std::uint32_t block, std::uint64_t step) {
  return (static_cast<std::uint64_t>(use) << 56) | (static_cast<std::uint64_t>(block) << 40) | step;
}

FOKKER_HOST_DEVICE inline PhiloxBlock philox4x32_10(std::uint64_t seed, std::uint64_t index, std::uint64_t offset) {
  std::uint32_t c0 = static_cast<std::uint32_t>(offset), c1 = static_cast<std::uint32_t>(offset >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(index), c3 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// A uniform in (0, 1) from 23 bits of a word: (⌊w / 2^9⌋ + ½) 2^{−23}, exact in float, never 0 or 1. (With 24 bits the
// half needs a 25th, and the largest value rounds to 1.)
FOKKER_HOST_DEVICE inline float uniform_from_word(std::uint32_t w) {
  return (static_cast<float>(w >> 9) + 0.5f) * 0x1p-23f;
}

// Two standard normals from two words by Box and Muller (1958): radius √(−2 ln u) from the first, angle 2π v from the
// second. |z| ≤ √(−2 ln 2^{−24}) = 5.77.
FOKKER_HOST_DEVICE inline void normals_from_words(std::uint32_t w0, std::uint32_t w1, float& z0, float& z1) {
  const float radius = std::sqrt(-2.0f * std::log(uniform_from_word(w0)));
#ifdef __CUDA_ARCH__  // in half turns: the general cosine would reduce its argument through local memory
  float cosine, sine;
  sincospif(2.0f * uniform_from_word(w1), &sine, &cosine);
  z0 = radius * cosine;
  z1 = radius * sine;
#else
  const float angle = 6.28318530717958647692f * uniform_from_word(w1);
  z0 = radius * std::cos(angle);
  z1 = radius * std::sin(angle);
#endif
}

}  // namespace fokker
