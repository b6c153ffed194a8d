#include "cpu/simd.hpp"
namespace fokker::cpu { const char* simd_target_name() { return "none"; } }
