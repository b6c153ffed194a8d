#pragma once

// Draws of one block of four Philox words: the words and rules of the CPU backend (fokker/formulas/philox.hpp), so a
// draw is a function of (seed, index, use, block, step) alone. Normals come from the shared formula; the CPU's vectors
// are within a few units in the last place of it.
#include <cstdint>

#include "fokker/formulas/divergence.hpp"
#include "fokker/formulas/philox.hpp"

namespace fokker::kernels {

// Four uniforms in (0, 1).
FOKKER_HOST_DEVICE inline void uniforms4(std::uint64_t seed, std::uint64_t index, RandomUse use, std::uint32_t block,
                                         std::uint64_t step, float (&u)[4]) {
  const PhiloxBlock words = philox4x32_10(seed, index, philox_offset(use, block, step));
  for (int w = 0; w < 4; ++w) u[w] = uniform_from_word(words.word[w]);
}

// Four standard normals, two from each pair of words.
FOKKER_HOST_DEVICE inline void normals4(std::uint64_t seed, std::uint64_t index, RandomUse use, std::uint32_t block,
                                        std::uint64_t step, float (&z)[4]) {
  const PhiloxBlock words = philox4x32_10(seed, index, philox_offset(use, block, step));
  normals_from_words(words.word[0], words.word[1], z[0], z[1]);
  normals_from_words(words.word[2], words.word[3], z[2], z[3]);
}

// Normals 2 pair and 2 pair + 1 of normals4's blocks one after another.
FOKKER_HOST_DEVICE inline void normal_pair(std::uint64_t seed, std::uint64_t index, RandomUse use, std::uint32_t pair,
                                           std::uint64_t step, float (&z)[2]) {
  const PhiloxBlock words = philox4x32_10(seed, index, philox_offset(use, pair / 2, step));
  if (pair % 2 == 0) {
    normals_from_words(words.word[0], words.word[1], z[0], z[1]);
  } else {
    normals_from_words(words.word[2], words.word[3], z[0], z[1]);
  }
}

// Entries 4 block … 4 block + 3 of Hutchinson's probe `probe` of the point with the absolute index `index`, which has
// estimate.first_index in it already.
FOKKER_HOST_DEVICE inline void probe4(const Divergence& estimate, std::uint64_t index, std::uint32_t block, int probe,
                                      float (&v)[4]) {
  const auto step = static_cast<std::uint64_t>(probe);
  if (estimate.law == ProbeLaw::gaussian) {
    normals4(estimate.seed, index, RandomUse::probe, block, step, v);
    return;
  }
  uniforms4(estimate.seed, index, RandomUse::probe, block, step, v);
  for (int w = 0; w < 4; ++w) v[w] = v[w] < 0.5f ? -1.0f : 1.0f;
}

}  // namespace fokker::kernels
