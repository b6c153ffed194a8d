#pragma once

// Uniforms and standard normals of one index, from Philox's words by the rules of philox.hpp.
#include <cstdint>

#include "fokker/formulas/philox.hpp"

namespace fokker {

// out [d]: uniforms in (0, 1); T is float or double, the numbers are those of float.
template <class T>
FOKKER_HOST_DEVICE void draw_uniforms(T* out, std::int64_t d, RandomUse use, std::uint64_t seed, std::uint64_t index,
                                      std::uint64_t step) {
  for (std::int64_t begin = 0; begin < d; begin += 4) {
    const PhiloxBlock block =
        philox4x32_10(seed, index, philox_offset(use, static_cast<std::uint32_t>(begin / 4), step));
    for (std::int64_t j = begin; j < begin + 4 && j < d; ++j) out[j] = uniform_from_word(block.word[j - begin]);
  }
}

// out [d]: standard normals.
template <class T>
FOKKER_HOST_DEVICE void draw_normals(T* out, std::int64_t d, RandomUse use, std::uint64_t seed, std::uint64_t index,
                                     std::uint64_t step) {
  for (std::int64_t begin = 0; begin < d; begin += 4) {
    const PhiloxBlock block =
        philox4x32_10(seed, index, philox_offset(use, static_cast<std::uint32_t>(begin / 4), step));
    float z[4];
    normals_from_words(block.word[0], block.word[1], z[0], z[1]);
    if (begin + 2 < d) normals_from_words(block.word[2], block.word[3], z[2], z[3]);
    for (std::int64_t j = begin; j < begin + 4 && j < d; ++j) out[j] = z[j - begin];
  }
}

}  // namespace fokker
