#pragma once

// A test that runs once for each instruction set of the dispatch that this machine has.
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <cstdint>
#include <set>
#include <string>

namespace fokker::testing {

class EachTarget : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    if (!(hwy::SupportedTargets() & GetParam())) GTEST_SKIP() << "not on this machine";
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

inline auto each_target() { return ::testing::ValuesIn(std::set<std::int64_t>{HWY_AVX3, HWY_AVX2, HWY_STATIC_TARGET}); }
inline std::string target_name(const ::testing::TestParamInfo<std::int64_t>& target) {
  return hwy::TargetName(target.param);
}

}  // namespace fokker::testing
