#pragma once

namespace fokker::cpu {

// The instruction set that run-time dispatch chose, as Highway names it: "AVX2", "AVX3", "SSE4", ….
const char* simd_target_name();  // random.cpp

}  // namespace fokker::cpu
