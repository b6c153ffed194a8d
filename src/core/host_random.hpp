#pragma once

// Random numbers on the host, from Philox's words by the formulas of formulas/philox.hpp.
#include <algorithm>
#include <cstdint>

#include "fokker/formulas/philox.hpp"

namespace fokker {

// out [d]: uniforms in (0, 1) of one index; T is float or double, the numbers are those of float.
template <class T>
void draw_uniforms(T* out, std::int64_t d, RandomUse use, std::uint64_t seed, std::uint64_t index, std::uint64_t step) {
  for (std::int64_t begin = 0; begin < d; begin += 4) {
    const PhiloxBlock block =
        philox4x32_10(seed, index, philox_offset(use, static_cast<std::uint32_t>(begin / 4), step));
    for (std::int64_t j = begin; j < std::min(begin + 4, d); ++j) out[j] = uniform_from_word(block.word[j - begin]);
  }
}

// out [d]: standard normals of one index.
template <class T>
void draw_normals(T* out, std::int64_t d, RandomUse use, std::uint64_t seed, std::uint64_t index, std::uint64_t step) {
  for (std::int64_t begin = 0; begin < d; begin += 4) {
    const PhiloxBlock block =
        philox4x32_10(seed, index, philox_offset(use, static_cast<std::uint32_t>(begin / 4), step));
    float z[4];
    normals_from_words(block.word[0], block.word[1], z[0], z[1]);
    if (begin + 2 < d) normals_from_words(block.word[2], block.word[3], z[2], z[3]);
    for (std::int64_t j = begin; j < std::min(begin + 4, d); ++j) out[j] = z[j - begin];
  }
}

}  // namespace fokker
