#pragma once

#include <cstdint>

namespace fokker::cpu {

// "SSE2", "AVX2", "AVX-512", …: the instruction set of a target of Highway's, and the one that run-time dispatch chose.
const char* simd_name(std::int64_t target);  // random.cpp
const char* simd_target_name();

}  // namespace fokker::cpu
