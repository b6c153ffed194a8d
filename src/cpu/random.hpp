#pragma once

// Vectors of Philox draws, with run-time dispatch: the same words as fokker/formulas/philox.hpp; normals differ from its formula by
// at most a few units in the last place, and not at all between calls, whatever the lengths.
#include <cstdint>

#include "fokker/formulas/philox.hpp"

namespace fokker::cpu {

// out [n, per_point] row-major: uniforms in (0, 1) of points first_index … + n − 1; word w of a point is word w % 4 of
// block first_block + w / 4.
void draw_point_uniforms(float* out, std::int64_t n, int per_point, std::uint64_t seed, std::uint64_t first_index,
                         RandomUse use, std::uint64_t step, std::uint32_t first_block = 0);
// out [n, per_point]: scale · standard normals, two from each pair of words in order.
void draw_point_normals(float* out, std::int64_t n, int per_point, std::uint64_t seed, std::uint64_t first_index,
                        RandomUse use, std::uint64_t step, float scale = 1, std::uint32_t first_block = 0);

}  // namespace fokker::cpu
