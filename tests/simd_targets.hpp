#pragma once

// A test that runs once for each instruction set of the dispatch that this machine has.
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>

#include "cpu/simd.hpp"

namespace fokker::testing {

class EachTarget : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    if (!(hwy::SupportedTargets() & GetParam())) GTEST_SKIP() << "not on this machine";
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    ASSERT_STREQ(cpu::simd_target_name(), cpu::simd_name(GetParam()));
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

inline auto each_target() { return ::testing::ValuesIn(std::set<std::int64_t>{HWY_AVX3, HWY_AVX2, HWY_STATIC_TARGET}); }
inline std::string target_name(const ::testing::TestParamInfo<std::int64_t>& target) {
  std::string name = cpu::simd_name(target.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace fokker::testing
