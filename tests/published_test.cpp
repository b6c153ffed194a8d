// The published checkpoints of the paper, sampled both ways on the paper's grid, against the published histograms.
//
// The published histograms are 3 000 000 samples of the same networks, so ours and theirs are draws of one law, and
// their distance must be what two such draws score: W2² to the published histogram stays below the mean plus four
// standard deviations of the same distance over multinomial draws, of the size of ours, from the published histogram
// itself. (The published histogram is a finite draw too; that adds a factor √(1 + n/3e6) to our distance and none to
// the draws': 0.7 % at 40 000 samples and 3.3 % at 200 000.)
//
// As in the paper, a sample with a coordinate outside (−3.5, 3.5), or one that is no longer finite, is dropped before
// binning; how many are is compared with the published fractions.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend_under_test.hpp"
#include "core/parallel.hpp"
#include "fokker/array.hpp"
#include "fokker/model.hpp"
#include "fokker/sampler.hpp"
#include "fokker/transport.hpp"
#include "paper_data.hpp"

namespace fokker {
namespace {

constexpr int kDraws = 10;
constexpr double kPublishedSamples = 3e6;

// Fractions that left the box among the published samples, rounded to five decimals.
struct Checkpoint {
  const char* name;
  double escaped_ode, escaped_sde;
};
void PrintTo(const Checkpoint& c, std::ostream* out) { *out << c.name; }

constexpr Checkpoint kCheckpoints[] = {{"blob_w0.0", 0.00147, 0.00052},    {"blob_w0.1", 0.00163, 0.00156},
                                       {"blob_w1.0", 0.00349, 0.00357},    {"blob_w10.0", 0.02480, 0.02591},
                                       {"checker_w0.0", 0.00058, 0.0},     {"checker_w0.1", 0.00174, 0.00164},
                                       {"checker_w1.0", 0.00333, 0.00330}, {"checker_w10.0", 0.02327, 0.02420}};

std::string test_name(const ::testing::TestParamInfo<Checkpoint>& test) {
  return testing::name_in_test(test.param.name);
}

// What `n` independent draws from `weights` give at each node, divided by n.
std::vector<double> multinomial(const std::vector<double>& weights, std::int64_t n, std::uint64_t seed) {
  std::vector<double> cumulative(weights.size());
  double sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) cumulative[i] = sum += weights[i];
  std::mt19937_64 random(seed);
  std::vector<double> counts(weights.size());
  for (std::int64_t k = 0; k < n; ++k) {
    const double u = static_cast<double>(random() >> 11) * 0x1p-53 * sum;
    // The first node whose cumulative weight is above u: never one of weight 0.
    counts[std::upper_bound(cumulative.begin(), cumulative.end(), u) - cumulative.begin()] += 1;
  }
  for (double& c : counts) c /= static_cast<double>(n);
  return counts;
}

TEST(Multinomial, DrawsFollowTheWeights) {
  const std::vector<double> weights = {0.0, 0.1, 0.0, 0.6, 0.3, 0.0};
  const std::int64_t n = 100000;
  const std::vector<double> drawn = multinomial(weights, n, 5);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    EXPECT_LE(std::fabs(drawn[i] - weights[i]), 4 * std::sqrt(weights[i] * (1 - weights[i]) / double(n))) << i;
  }
}

// Escaped samples are dropped and the rest go to the nearest of 64 × 64 nodes on [−3.5, 3.5]², by a search over nodes.
struct Binned {
  std::vector<double> counts = std::vector<double>(4096, 0.0);
  std::int64_t inside = 0, not_finite = 0;
  std::int64_t ties = 0;  // samples halfway between two nodes: either may have them
};

Binned bin(const std::vector<float>& samples) {
  Binned result;
  const auto nearest = [&](double v) {
    const auto distance = [v](int k) { return std::fabs(9 * (v + 3.5) - k); };
    int best = 0;
    for (int k = 1; k < 64; ++k) {
      if (distance(k) < distance(best)) best = k;
    }
    result.ties += distance(best) > 0.5 - 1e-12;
    return best;
  };
  for (std::size_t i = 0; i + 1 < samples.size(); i += 2) {
    const double x = samples[i], y = samples[i + 1];
    if (!std::isfinite(x) || !std::isfinite(y)) ++result.not_finite;
    if (!(std::fabs(x) < 3.5 && std::fabs(y) < 3.5)) continue;
    result.counts[static_cast<std::size_t>(64 * nearest(y) + nearest(x))] += 1;
    ++result.inside;
  }
  return result;
}

void is_binned_as_in_the_paper(const Histogram& ours, const std::vector<float>& samples, const Binned& binned) {
  ASSERT_EQ(2 * (ours.inside + ours.outside), static_cast<std::int64_t>(samples.size()));
  ASSERT_EQ(ours.inside, binned.inside);
  double moved = 0;
  for (std::size_t i = 0; i < 4096; ++i) {
    moved += std::fabs(ours.weights[i] * double(ours.inside) - binned.counts[i]);
  }
  EXPECT_LE(moved, 2 * double(binned.ties) + 1e-9);
}

TEST(PublishedHistograms, WhatEscapesOrIsNotFiniteIsDropped) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(-3.4f, 3.4f);
  std::vector<float> samples;
  for (int i = 0; i < 2 * 989; ++i) samples.push_back(uniform(random));
  const Context context({.backend = BackendKind::cpu});
  const Histogram inside = histogram(context, View<const float>(samples, 2));
  EXPECT_EQ(inside.inside, 989);
  for (const float out : {3.5f, -3.5f, 7e4f, -1e30f, nan, infinity, -infinity}) {
    samples.insert(samples.end(), {out, 0.25f, -0.75f, out, out, out});
  }
  const Histogram all = histogram(context, View<const float>(samples, 2));
  EXPECT_EQ(all.weights, inside.weights);
  EXPECT_EQ(all.outside, 21);
  is_binned_as_in_the_paper(all, samples, bin(samples));
}

#ifdef FOKKER_GPU_TESTS
using Machine = testing::GpuTest;
#else
using Machine = ::testing::Test;
#endif

class PublishedSampling : public Machine, public ::testing::WithParamInterface<Checkpoint> {
 protected:
  // pairs: compared with distances of two draws, as where ours are as many as the published.
  void samples_have_the_published_law(std::int64_t n, BackendKind backend = BackendKind::cpu, bool pairs = false) {
    const std::string data = testing::paper_data();
    if (data.empty()) return;
    const std::string name = GetParam().name;
    const Model model = load_model(data + "/checkpoints/" + name + ".safetensors");
    const Context context({.backend = backend}), host({.backend = BackendKind::cpu});
    const Sampler sampler(context, model, TimeGrid::paper(model.sde.horizon()));
    ASSERT_EQ(sampler.grid().steps(), 890);

    struct Way {
      const char* name;
      Scheme scheme;
      double escaped;
      std::uint64_t seed;
    };
    // Other noise and other draws in every case, so that agreement in one says something new.
    const auto number = static_cast<std::uint64_t>(std::find_if(std::begin(kCheckpoints), std::end(kCheckpoints),
                                                                [&](const Checkpoint& c) { return name == c.name; }) -
                                                   std::begin(kCheckpoints));
    for (const Way& way : {Way{"ode", Scheme::euler, GetParam().escaped_ode, 1 + 2 * number},
                           Way{"sde", Scheme::euler_maruyama, GetParam().escaped_sde, 2 + 2 * number}}) {
      SCOPED_TRACE(fmt::format("{} {}, {} samples", name, way.name, n));
      const Array published = load_array(fmt::format("{}/histograms/{}_{}.npy", data, name, way.name));
      ASSERT_EQ(published.data.size(), 4096u);

      Buffer<float> there(context, n, 2);
      sampler.sample(there.view(), {.scheme = way.scheme, .seed = way.seed});
      const Histogram ours = histogram(context, there.view());
      std::vector<float> samples(static_cast<std::size_t>(2 * n));
      copy(context, there.view(), View<float>(samples, 2));
      context.synchronize();
      const Binned binned = bin(samples);
      is_binned_as_in_the_paper(ours, samples, binned);

      // Binomial errors of both counts, what rounding to five decimals hides, and one sample more or less.
      const double p = way.escaped + 5e-6;
      const double allowed =
          4 * std::sqrt(p * (1 - p) * (1 / double(n) + 1 / kPublishedSamples)) + 5e-6 + 1 / double(n);
      EXPECT_LE(std::fabs(ours.escaped() - way.escaped), allowed)
          << fmt::format("{} of {} samples escaped, {} expected", ours.outside, n, way.escaped * double(n));

      double distance = 0;
      std::vector<double> draws(kDraws);
      parallel_for(host.threads(), kDraws + 1, [&](std::int64_t i, int) {
        if (i == kDraws) {
          distance = w2_squared(ours.weights, published.data).w2_squared;
        } else {
          const auto draw = [&](std::uint64_t k) {
            return multinomial(published.data, ours.inside, 1000 * way.seed + 2 * static_cast<std::uint64_t>(i) + k);
          };
          draws[i] = w2_squared(draw(0), pairs ? draw(1) : published.data).w2_squared;
        }
      });
      double mean = 0, square = 0;
      for (const double d : draws) mean += d / kDraws;
      for (const double d : draws) square += (d - mean) * (d - mean) / (kDraws - 1);
      const double deviation = std::sqrt(square);
      ASSERT_GT(deviation, 0);
      EXPECT_LE(distance, mean + 4 * deviation)
          << fmt::format("{:.3g} standard deviations above the mean", (distance - mean) / deviation);
      std::cout << fmt::format(
                       "{} {}: W2² {:.6f}; draws {:.6f} ± {:.6f} ({:+.2f} deviations); escaped {:.5f}, published "
                       "{:.5f}; {} not finite",
                       name, way.name, distance, mean, deviation, (distance - mean) / deviation, ours.escaped(),
                       way.escaped, binned.not_finite)
                << std::endl;
    }
  }
};

#ifdef FOKKER_GPU_TESTS

// As many as published, which a GPU takes a second or two for.
TEST_P(PublishedSampling, ThreeMillionSamplesHaveThePublishedLaw) {
  samples_have_the_published_law(3000000, BackendKind::cuda, true);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, PublishedSampling, ::testing::ValuesIn(kCheckpoints), test_name);

#else

TEST_P(PublishedSampling, FortyThousandSamplesHaveThePublishedLaw) { samples_have_the_published_law(40000); }

INSTANTIATE_TEST_SUITE_P(Checkpoints, PublishedSampling, ::testing::ValuesIn(kCheckpoints), test_name);

// Finer by √5, for `ctest -L slow`: about a minute and a half a way on two cores.
class SlowPublishedSampling : public PublishedSampling {};

TEST_P(SlowPublishedSampling, TwoHundredThousandSamplesHaveThePublishedLaw) { samples_have_the_published_law(200000); }

INSTANTIATE_TEST_SUITE_P(Checkpoints, SlowPublishedSampling, ::testing::ValuesIn(kCheckpoints), test_name);

#endif

}  // namespace
}  // namespace fokker
