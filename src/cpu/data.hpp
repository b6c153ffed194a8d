#pragma once

#include <cstdint>

#include "fokker/data.hpp"

namespace fokker::cpu {

// out [N, d]: draws first_index … first_index + N − 1 of (seed, step), on the calling thread.
void draw_data(const DataSet& data, View<float> out, std::uint64_t seed, std::uint64_t first_index, std::uint64_t step);

}  // namespace fokker::cpu
