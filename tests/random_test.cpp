// Philox against its published vectors and Random123; vector draws against the scalar formulas, exactly for words and
// uniforms, within stated bounds for normals; laws and independence.
#include "cpu/random.hpp"

#include <Random123/philox.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <set>
#include <string>
#include <vector>

#include "cpu/simd.hpp"
#include "fokker/formulas/philox.hpp"
#include "simd_targets.hpp"

namespace fokker::cpu {
namespace {

using Index = std::int64_t;

// What cuRAND and Random123 call the counter: words 0 and 1 are the offset, 2 and 3 the subsequence.
std::array<std::uint32_t, 4> random123(std::uint64_t seed, std::uint64_t index, std::uint64_t offset) {
  const r123::Philox4x32 generator;
  const r123::Philox4x32::ctr_type counter = {
      {static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(offset >> 32), static_cast<std::uint32_t>(index),
       static_cast<std::uint32_t>(index >> 32)}};
  const r123::Philox4x32::key_type key = {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  const auto words = generator(counter, key);
  return {words[0], words[1], words[2], words[3]};
}

std::array<std::uint32_t, 4> ours(std::uint64_t seed, std::uint64_t index, std::uint64_t offset) {
  const PhiloxBlock b = philox4x32_10(seed, index, offset);
  return {b.word[0], b.word[1], b.word[2], b.word[3]};
}

using Words = std::array<std::uint32_t, 4>;

// The rows "philox4x32 10" of kat_vectors in the Random123 distribution (Salmon et al. 2011).
TEST(Philox, PublishedVectors) {
  EXPECT_EQ(ours(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(ours(~0ull, ~0ull, ~0ull), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(ours(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, SameWordsAsRandom123) {
  std::uint64_t state = 1;
  const auto next = [&] { return state = state * 6364136223846793005u + 1442695040888963407u; };
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t seed = next() ^ next() >> 32, index = next() ^ next() >> 32, offset = next() ^ next() >> 32;
    ASSERT_EQ(ours(seed, index, offset), random123(seed, index, offset)) << seed << ' ' << index << ' ' << offset;
  }
}

TEST(Philox, DrawsOfDifferentUsesStepsAndBlocksHaveDifferentCounters) {
  std::set<std::uint64_t> offsets;
  std::size_t made = 0;
  for (std::uint32_t use = 0; use <= static_cast<std::uint32_t>(RandomUse::diagnostic); ++use) {
    for (const std::uint32_t block : {0u, 1u, 2u, 255u, 65534u, 65535u}) {
      for (const std::uint64_t step : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{889}, std::uint64_t{1} << 32,
                                       (std::uint64_t{1} << 40) - 1}) {
        const std::uint64_t offset = philox_offset(static_cast<RandomUse>(use), block, step);
        EXPECT_LT(offset, std::uint64_t{1} << 62);  // cuRAND's offset counts words, four a block, in 64 bits
        offsets.insert(offset);
        ++made;
      }
    }
  }
  EXPECT_EQ(offsets.size(), made);
}

TEST(Philox, UniformsAreExactAndInsideTheOpenInterval) {
  for (const std::uint32_t w :
       {0u, 1u, 0x1ffu, 0x200u, 0x7fffffffu, 0x80000000u, 0xfffffdffu, 0xfffffe00u, 0xffffffffu}) {
    const double exact = ((w >> 9) + 0.5) / 8388608.0;
    EXPECT_EQ(static_cast<double>(uniform_from_word(w)), exact) << w;
    EXPECT_GT(uniform_from_word(w), 0.0f);
    EXPECT_LT(uniform_from_word(w), 1.0f);
  }
}

// Every instruction set that is compiled in and that this machine has.
class VectorDraws : public testing::EachTarget {};

constexpr int kWidths[] = {1, 2, 3, 4, 5, 7, 8, 16, 64};
constexpr Index kSizes[] = {0, 1, 19, 99, 989};
constexpr std::uint64_t kFirst[] = {0, 5, (std::uint64_t{1} << 32) - 7, (std::uint64_t{1} << 63) - 3};
constexpr float kUntouched = 1234.5f;

TEST_P(VectorDraws, UniformsAreThoseOfTheWords) {
  const std::uint64_t seed = 0x0123456789abcdef, step = (std::uint64_t{1} << 35) + 17;
  for (const int width : kWidths) {
    for (const Index n : kSizes) {
      for (const std::uint64_t first : kFirst) {
        std::vector<float> u(static_cast<std::size_t>(n * width + 1), kUntouched);
        draw_point_uniforms(u.data(), n, width, seed, first, RandomUse::collocation, step, 3);
        for (Index i = 0; i < n; ++i) {
          for (int j = 0; j < width; ++j) {
            const Words words =
                random123(seed, first + static_cast<std::uint64_t>(i),
                          philox_offset(RandomUse::collocation, 3 + static_cast<std::uint32_t>(j / 4), step));
            ASSERT_EQ(u[static_cast<std::size_t>(i * width + j)],
                      uniform_from_word(words[static_cast<std::size_t>(j % 4)]))
                << "width " << width << " n " << n << " point " << i << " column " << j;
          }
        }
        ASSERT_EQ(u.back(), kUntouched);
      }
    }
  }
}

// A draw depends neither on where a run is split, nor on the length, nor on the width: bit for bit.
TEST_P(VectorDraws, NormalsDoNotDependOnSplits) {
  const std::uint64_t seed = 77, step = 12;
  for (const int width : kWidths) {
    for (const std::uint64_t first : kFirst) {
      const Index n = 989;
      std::vector<float> whole(static_cast<std::size_t>(n * width));
      draw_point_normals(whole.data(), n, width, seed, first, RandomUse::noise, step, 0.7f);
      std::vector<float> parts(whole.size() + 1, kUntouched);
      Index begin = 0;
      for (const Index size : {Index{0}, Index{1}, Index{19}, Index{99}, Index{870}}) {
        draw_point_normals(parts.data() + begin * width, size, width, seed, first + static_cast<std::uint64_t>(begin),
                           RandomUse::noise, step, 0.7f);
        begin += size;
      }
      ASSERT_EQ(begin, n);
      ASSERT_EQ(parts.back(), kUntouched);
      parts.pop_back();
      ASSERT_EQ(parts, whole) << "width " << width << " first " << first;

      std::vector<float> narrow(static_cast<std::size_t>(n));
      draw_point_normals(narrow.data(), n, 1, seed, first, RandomUse::noise, step, 0.7f);
      for (Index i = 0; i < n; ++i) {
        ASSERT_EQ(narrow[static_cast<std::size_t>(i)], whole[static_cast<std::size_t>(i * width)]);
      }
      if (width <= 4) continue;
      std::vector<float> later(static_cast<std::size_t>(n * (width - 4)));
      draw_point_normals(later.data(), n, width - 4, seed, first, RandomUse::noise, step, 0.7f, 1);
      for (Index i = 0; i < n; ++i) {
        for (int j = 4; j < width; ++j) {
          ASSERT_EQ(later[static_cast<std::size_t>(i * (width - 4) + j - 4)],
                    whole[static_cast<std::size_t>(i * width + j)]);
        }
      }
    }
  }
}

// Box and Muller's formula in double, on Random123's words. Each of radius and angle function is within 1.5 ulp and
// their product rounds once more: 4 ulp. The scalar float formula rounds the angle 2π v before it is reduced, an error
// of 2π (2^−24 + 3e-8) = 5.7e-7 in the angle at most, times the radius.
TEST_P(VectorDraws, NormalsFollowTheFormula) {
  const Index n = 1'000'000;
  const std::uint64_t seed = 2024, first = 99;
  std::vector<float> z(static_cast<std::size_t>(2 * n));
  draw_point_normals(z.data(), n, 2, seed, first, RandomUse::prior, 0);
  double worst_ulps = 0, worst_scalar = 0;
  Index worst = 0;
  for (Index i = 0; i < n; ++i) {
    const Words w = random123(seed, first + static_cast<std::uint64_t>(i), philox_offset(RandomUse::prior, 0, 0));
    const double u = ((w[0] >> 9) + 0.5) / 8388608.0, v = ((w[1] >> 9) + 0.5) / 8388608.0;
    const double radius = std::sqrt(-2 * std::log(u)), angle = 2 * std::numbers::pi * v;
    float s0, s1;
    normals_from_words(w[0], w[1], s0, s1);
    const double expected[] = {radius * std::cos(angle), radius * std::sin(angle)};
    const float scalar[] = {s0, s1};
    for (int j = 0; j < 2; ++j) {
      const float actual = z[static_cast<std::size_t>(2 * i + j)], size = std::fabs(static_cast<float>(expected[j]));
      const double ulp = static_cast<double>(std::nextafter(size, INFINITY)) - size;
      const double ulps = std::fabs(actual - expected[j]) / ulp;
      ASSERT_TRUE(std::isfinite(actual));
      if (ulps > worst_ulps) worst_ulps = ulps, worst = i;
      worst_scalar = std::max(worst_scalar, std::fabs(static_cast<double>(scalar[j]) - actual) / radius);
    }
  }
  EXPECT_LE(worst_ulps, 4) << "point " << worst;
  EXPECT_LE(worst_scalar, 5.7e-7 + 4 * 0x1p-24);
  RecordProperty("worst_ulps", fmt::format("{}", worst_ulps));
}

TEST_P(VectorDraws, ScaleMultiplies) {
  std::vector<float> unit(2 * 99), scaled(2 * 99);
  draw_point_normals(unit.data(), 99, 2, 3, 0, RandomUse::noise, 1);
  draw_point_normals(scaled.data(), 99, 2, 3, 0, RandomUse::noise, 1, 4.0f);
  for (float& z : unit) z *= 4;  // a power of two: exact
  EXPECT_EQ(scaled, unit);
}

INSTANTIATE_TEST_SUITE_P(Targets, VectorDraws, testing::each_target(), testing::target_name);

// sup |empirical − exact| √n has the Kolmogorov law: above 1.95 with probability 1e-3; the seeds are fixed.
template <class Cdf>
double kolmogorov(std::vector<float> draws, Cdf cdf) {
  std::sort(draws.begin(), draws.end());
  const double n = static_cast<double>(draws.size());
  double worst = 0;
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const double c = cdf(draws[i]), rank = static_cast<double>(i);
    worst = std::max({worst, c - rank / n, (rank + 1) / n - c});
  }
  return worst * std::sqrt(n);
}

constexpr Index kDraws = 400'000;

TEST(Laws, UniformsAreUniform) {
  std::vector<float> u(kDraws);
  draw_point_uniforms(u.data(), kDraws / 4, 4, 5, 0, RandomUse::data, 0);
  EXPECT_LT(kolmogorov(u, [](double x) { return x; }), 1.95);
  double mean = 0, square = 0;
  for (const float x : u) mean += x, square += (x - 0.5) * (x - 0.5);
  mean /= kDraws, square /= kDraws;
  EXPECT_NEAR(mean, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(square, 1.0 / 12, 5 * std::sqrt(1.0 / 180 / kDraws));  // Var (u − ½)² = 1/180
}

TEST(Laws, NormalsAreNormal) {
  std::vector<float> z(kDraws);
  draw_point_normals(z.data(), kDraws / 4, 4, 6, 0, RandomUse::noise, 3);
  EXPECT_LT(kolmogorov(z, [](double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }), 1.95);
  std::array<double, 5> moment{};
  for (const float x : z) {
    for (int k = 1; k <= 4; ++k) moment[static_cast<std::size_t>(k)] += std::pow(static_cast<double>(x), k) / kDraws;
  }
  // Variances of x, x², x³, x⁴: 1, 2, 15, 96.
  EXPECT_NEAR(moment[1], 0, 5 * std::sqrt(1.0 / kDraws));
  EXPECT_NEAR(moment[2], 1, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(moment[3], 0, 5 * std::sqrt(15.0 / kDraws));
  EXPECT_NEAR(moment[4], 3, 5 * std::sqrt(96.0 / kDraws));
}

double correlation(const std::vector<float>& a, const std::vector<float>& b, std::size_t lag = 0) {
  double sum = 0;
  for (std::size_t i = 0; i + lag < a.size(); ++i) sum += static_cast<double>(a[i + lag]) * b[i];
  return sum / static_cast<double>(a.size() - lag);
}

// The mean product of independent standard normals has standard error 1/√n.
TEST(Laws, StreamsAreUncorrelated) {
  const double bound = 5 / std::sqrt(static_cast<double>(kDraws));
  const auto draw = [](std::uint64_t seed, RandomUse use, std::uint64_t step, std::uint64_t first = 0,
                       std::uint32_t block = 0) {
    std::vector<float> z(kDraws);
    draw_point_normals(z.data(), kDraws, 1, seed, first, use, step, 1, block);
    return z;
  };
  const std::vector<float> base = draw(1, RandomUse::noise, 7);
  EXPECT_NEAR(correlation(base, base), 1, 5 * std::sqrt(2.0 / kDraws));
  for (const std::size_t lag : {1, 2, 8, 16}) EXPECT_LT(std::fabs(correlation(base, base, lag)), bound) << lag;
  EXPECT_LT(std::fabs(correlation(base, draw(2, RandomUse::noise, 7))), bound);
  EXPECT_LT(std::fabs(correlation(base, draw(1, RandomUse::prior, 7))), bound);
  EXPECT_LT(std::fabs(correlation(base, draw(1, RandomUse::probe, 7))), bound);
  EXPECT_LT(std::fabs(correlation(base, draw(1, RandomUse::noise, 8))), bound);
  EXPECT_LT(std::fabs(correlation(base, draw(1, RandomUse::noise, 7, kDraws))), bound);
  EXPECT_LT(std::fabs(correlation(base, draw(1, RandomUse::noise, 7, 0, 1))), bound);
  std::vector<float> pairs(2 * kDraws), cosine(kDraws), sine(kDraws);
  draw_point_normals(pairs.data(), kDraws, 2, 1, 0, RandomUse::noise, 7);
  for (std::size_t i = 0; i < kDraws; ++i) cosine[i] = pairs[2 * i], sine[i] = pairs[2 * i + 1];
  EXPECT_EQ(cosine, base);
  EXPECT_LT(std::fabs(correlation(cosine, sine)), bound);
}

}  // namespace
}  // namespace fokker::cpu
