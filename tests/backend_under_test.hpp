#pragma once

// What a test runs on that is compiled twice: on the CPU, and on the emulation with CUDA (tests/emulation). And the
// fixture of tests that need a GPU.
#include <gtest/gtest.h>

#include <string>

#include "fokker/context.hpp"

namespace fokker::testing {

#ifdef FOKKER_EMULATION
inline constexpr BackendKind backend_under_test = BackendKind::cuda;
#else
inline constexpr BackendKind backend_under_test = BackendKind::cpu;
#endif

// Skips the test where there is a reason why no GPU can be used, and fails it on the emulation, which always has one.
inline void skip_without_gpu(const std::string& why_not) {
#ifdef FOKKER_EMULATION
  ASSERT_EQ(why_not, "");
#else
  if (!why_not.empty()) GTEST_SKIP() << why_not;
#endif
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const BackendStatus cuda = backend_status()[1];
    skip_without_gpu(cuda.available ? "" : cuda.detail);
  }
};

}  // namespace fokker::testing
