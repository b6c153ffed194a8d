#pragma once

// A test that runs once for each instruction set of the dispatch that this machine has.
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cpu/simd.hpp"

namespace fokker::testing {

class EachTarget : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
#ifdef HWY_COMPILE_ONLY_STATIC
    // The library's; a test that is compiled for fewer may have another.
    if (std::string(cpu::simd_target_name()) != cpu::simd_name(GetParam())) GTEST_SKIP() << "not in this build";
#endif
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

// One of a name: what the whole build is compiled for may be a variant of AVX-512.
inline auto each_target() {
  std::map<std::string, std::int64_t> by_name;
  for (const std::int64_t target : {HWY_STATIC_TARGET, HWY_AVX3, HWY_AVX2})
    by_name.emplace(cpu::simd_name(target), target);
  std::vector<std::int64_t> targets;
  for (const auto& [name, target] : by_name) targets.push_back(target);
  return ::testing::ValuesIn(targets);
}
inline std::string target_name(const ::testing::TestParamInfo<std::int64_t>& target) {
  std::string name = cpu::simd_name(target.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace fokker::testing
