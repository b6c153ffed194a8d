#pragma once

// What a test runs on that is compiled twice: on the CPU, and on the emulation with CUDA (tests/emulation).
#include "fokker/context.hpp"

namespace fokker::testing {

#ifdef FOKKER_EMULATION
inline constexpr BackendKind backend_under_test = BackendKind::cuda;
#else
inline constexpr BackendKind backend_under_test = BackendKind::cpu;
#endif

}  // namespace fokker::testing
