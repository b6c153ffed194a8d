// A comparator is only worth what it rejects.
#include "compare.hpp"

#include <limits>
#include <vector>

namespace fokker::testing {
namespace {

const Bound kTight{.relative = 1e-6, .of_rms = 1e-6, .norm = 1e-7};

std::vector<double> wave(std::size_t n) {
  std::vector<double> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = std::sin(1.0 + double(i));
  return v;
}

TEST(Compare, AcceptsEqualAndEmpty) {
  EXPECT_TRUE(agrees(wave(989), wave(989), Bound{}));
  EXPECT_TRUE(agrees(std::vector<float>{}, std::vector<double>{}, Bound{}));
}

TEST(Compare, RejectsZeroedElements) {
  const auto expected = wave(1000000);
  auto actual = expected;
  for (std::size_t i = 0; i < 10; ++i) actual[i * 99991] = 0;
  const auto result = agrees(actual, expected, Bound{.relative = 1e-6, .of_rms = 1e-6, .norm = 1});
  EXPECT_FALSE(result);
  EXPECT_NE(std::string(result.message()).find("10 of 1000000 elements"), std::string::npos) << result.message();
}

TEST(Compare, RejectsASmallBiasEverywhere) {
  const auto expected = wave(1000);
  auto actual = expected;
  for (double& a : actual) a *= 1 + 5e-7;
  EXPECT_FALSE(agrees(actual, expected, kTight));
  EXPECT_TRUE(agrees(actual, expected, Bound{.relative = 1e-6, .norm = 1e-6}));
}

TEST(Compare, NamesTheWorstElement) {
  const auto expected = wave(99);
  auto actual = expected;
  actual[19] += 1, actual[42] += 2;
  const auto result = agrees(actual, expected, Bound{.of_rms = 1e-6, .norm = 10});
  EXPECT_FALSE(result);
  EXPECT_NE(std::string(result.message()).find("worst at 42"), std::string::npos) << result.message();
}

TEST(Compare, MasksOfNanAndInfinityMustBeEqual) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const Bound wide{.relative = 1e300, .of_rms = 1e300, .norm = 1e300, .absolute = 1e300};
  using Values = std::vector<double>;
  EXPECT_FALSE(agrees(Values{1, nan}, Values{1, 2}, wide));
  EXPECT_FALSE(agrees(Values{1, 2}, Values{1, nan}, wide));
  EXPECT_FALSE(agrees(Values{1, inf}, Values{1, 2}, wide));
  EXPECT_FALSE(agrees(Values{1, 2}, Values{1, inf}, wide));
  EXPECT_FALSE(agrees(Values{1, -inf}, Values{1, inf}, wide));
  EXPECT_FALSE(agrees(Values{1, nan}, Values{1, inf}, wide));
  EXPECT_TRUE(agrees(Values{nan, -inf, 1}, Values{nan, -inf, 1}, Bound{}));
  EXPECT_FALSE(agrees(nan, 0.0, 1e300, 1e300));
}

TEST(Compare, EachElementHasItsOwnBound) {
  const std::vector<double> expected = {1, 2, 3};
  EXPECT_TRUE(agrees(std::vector<double>{1.5, 2, 3}, expected, Bound{.norm = 1, .each = {0.6, 0, 0}}));
  EXPECT_FALSE(agrees(std::vector<double>{1, 2.5, 3}, expected, Bound{.norm = 1, .each = {0.6, 0.4, 0.6}}));
  EXPECT_FALSE(agrees(expected, expected, Bound{.norm = 1, .each = {1, 1}}));
}

TEST(Compare, RejectsWrongSizes) {
  EXPECT_FALSE(agrees(wave(18), wave(19), Bound{.absolute = 1e9}));
  EXPECT_FALSE(agrees(wave(0), wave(1), Bound{.absolute = 1e9}));
}

TEST(Compare, ZeroIsOnlyCloseToZeroByTheAbsoluteBound) {
  EXPECT_FALSE(
      agrees(std::vector<double>{1e-30}, std::vector<double>{0}, Bound{.relative = 1, .of_rms = 1, .norm = 1}));
  EXPECT_TRUE(agrees(1e-30, 0, 0, 1e-29));
  EXPECT_FALSE(agrees(1e-30, 0, 1, 0));
}

TEST(Compare, WorksAcrossTypes) {
  EXPECT_TRUE(agrees(std::vector<float>{0.1f}, std::vector<double>{0.1}, Bound{.relative = 1e-7, .norm = 1e-7}));
  EXPECT_FALSE(agrees(std::vector<float>{0.1f}, std::vector<double>{0.1}, Bound{.relative = 1e-9, .norm = 1e-9}));
  EXPECT_TRUE(
      agrees(std::vector<double>{0.1}, std::vector<long double>{0.1L}, Bound{.relative = 1e-15, .norm = 1e-15}));
}

}  // namespace
}  // namespace fokker::testing
