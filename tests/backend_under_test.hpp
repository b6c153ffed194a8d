#pragma once

// What a test runs on that is compiled twice: on the CPU, and on the emulation with CUDA (tests/emulation). And the
// fixture of tests that need a GPU, and what a context's device holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/view.hpp"

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

inline std::vector<float> to_host(const Context& context, View<const float> there) {
  std::vector<float> v(static_cast<std::size_t>(there.size()), 7.0f);  // which a copy has to overwrite
  copy(context, there, View<float>(v.data(), there.rows, there.columns));
  context.synchronize();
  return v;
}

// The numbers on the context's device in rows of `columns`, and those of a buffer there on the host.
template <class T>
Buffer<T> on(const Context& where, const std::vector<T>& numbers, std::int64_t columns = 1) {
  Buffer<T> there(where, std::ssize(numbers) / columns, columns);
  copy(where, View<const T>(numbers, columns), there.view());
  where.synchronize();  // the vector may be gone afterwards
  return there;
}
template <class T>
std::vector<T> from(const Context& where, const Buffer<T>& there) {
  std::vector<T> numbers(static_cast<std::size_t>(there.size()));
  copy(where, there.view(), View<T>(numbers, std::max<std::int64_t>(there.columns(), 1)));
  where.synchronize();
  return numbers;
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const BackendStatus cuda = backend_status()[1];
    skip_without_gpu(cuda.available ? "" : cuda.detail);
  }
};

}  // namespace fokker::testing
