// The table of kernels/RESIDENCY.md is what the plan of residency says; printed anew where it differs.
#include "cuda/residency.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/shared_layout.hpp"

namespace fokker::cuda {
namespace {

constexpr std::pair<const char*, int> kDevices[] = {{"8.0 (A100; 163 KiB of shared memory a block)", 163 << 10},
                                                    {"9.0, 10.0 (H100, H200, B200; 227 KiB)", 227 << 10}};
constexpr std::pair<const char*, WorkPlan Residency::*> kWorks[] = {
    {"score", &Residency::score},
    {"samples", &Residency::sample},
    {"divergence, residual", &Residency::curvature},
    {"log-density", &Residency::log_density},
    {"adaptive samples", &Residency::adaptive_sample},
    {"adaptive log-density", &Residency::adaptive_log_density},
    {"Hessian", &Residency::hessian},
    {"training", &Residency::loss}};

Architecture net(int dimension, std::vector<std::int64_t> hidden, Output output) {
  Architecture architecture;
  architecture.dimension = dimension;
  architecture.hidden = std::move(hidden);
  architecture.output = output;
  return architecture;
}

Residency plan(const Architecture& architecture, Precision precision, int shared_bytes) {
  return plan_residency(architecture, precision, {.multiprocessors = 132, .shared_bytes = shared_bytes});
}

// The most hidden layers that are resident, up to 8, and the warps of a block at three of them. work_at(hidden): its
// plan.
template <class WorkAt>
std::string entry(const WorkAt& work_at) {
  if (!work_at(1).refusal.empty()) return "–";
  int deepest = 0;
  for (int hidden = 1; hidden <= 8; ++hidden) {
    if (work_at(hidden).resident()) deepest = hidden;
  }
  if (deepest == 0) return "wide";
  return deepest < 3 ? fmt::format("{}", deepest) : fmt::format("{} ({})", deepest, work_at(3).warps);
}

std::string table() {
  std::string text;
  for (const auto& [device, bytes] : kDevices) {
    for (const Output output : {Output::potential, Output::score}) {
      text += fmt::format("\n## {}: {}\n\n| width | precision | d |", device,
                          output == Output::potential ? "potentials" : "vector nets");
      for (const auto& [name, work] : kWorks) text += fmt::format(" {} |", name);
      text += "\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
      for (const int width : kernels::resident_widths) {
        for (const Precision precision : {Precision::fp32, Precision::split, Precision::half}) {
          for (const int d : {2, 16, 64}) {
            text += fmt::format("| {} | {} | {} |", width, to_string(precision), d);
            std::vector<Residency> plans;  // by the number of hidden layers
            for (std::size_t hidden = 1; hidden <= 8; ++hidden) {
              plans.push_back(plan(net(d, std::vector<std::int64_t>(hidden, width), output), precision, bytes));
            }
            for (const auto& named : kWorks) {
              text += fmt::format(" {} |", entry([&](int hidden) { return plans[hidden - 1].*named.second; }));
            }
            text += "\n";
          }
        }
      }
    }
  }
  return text;
}

TEST(Residency, OfTrainingIsForActivationsWithCodeOfTheirOwn) {
  for (const ActivationTraits& traits : Activations::traits) {
    Architecture a = net(2, {80, 80, 80}, Output::score);
    a.activation = traits.activation, a.beta = traits.parameter.usual;
    const Residency planned = plan(a, Precision::split, 227 << 10);
    EXPECT_TRUE(planned.sample.resident()) << traits.name;
    EXPECT_EQ(planned.loss.resident(), kernels::has_own_code(traits.activation)) << traits.name;
  }
}

TEST(Residency, ThePublishedTableIsTrue) {
  std::ifstream file(FOKKER_RESIDENCY);
  ASSERT_TRUE(file) << FOKKER_RESIDENCY;
  std::stringstream text;
  text << file.rdbuf();
  const std::string all = text.str(), expected = table();
  const std::size_t begin = all.find("\n## ");
  ASSERT_NE(begin, std::string::npos);
  EXPECT_EQ(all.substr(begin), expected);
}

// A deeper network is never resident where a shallower one is not.
TEST(Residency, FallsWithDepth) {
  for (const auto& [name, work] : kWorks) {
    SCOPED_TRACE(name);
    for (const int width : kernels::resident_widths) {
      int before = kernels::most_warps;
      for (std::size_t hidden = 1; hidden <= 8; ++hidden) {
        const int warps =
            (plan(net(2, std::vector<std::int64_t>(hidden, width), Output::potential), Precision::split, 227 << 10).*
             work)
                .warps;
        EXPECT_LE(warps, before);
        before = warps;
      }
    }
  }
}

// Whatever no kernel is compiled for is wide however much shared memory there is, and in half what half refuses is
// refused there too.
TEST(Residency, WhatNoKernelIsCompiledForIsWide) {
  Architecture branched = net(2, {7, 7}, Output::score);
  branched.residual = {1};
  Architecture conditional = net(2, {7, 7}, Output::potential);
  conditional.condition.inputs = 1;
  for (const Architecture& architecture : {net(2, {129}, Output::potential), net(65, {7}, Output::score),
                                           net(2, {7, 4096, 7}, Output::score), branched, conditional}) {
    for (const Precision precision : {Precision::fp32, Precision::split, Precision::half}) {
      const Residency all = plan(architecture, precision, std::numeric_limits<int>::max());
      for (const auto& [name, work] : kWorks) {
        const bool refused = precision == Precision::half && work != &Residency::score && work != &Residency::sample &&
                             work != &Residency::adaptive_sample;
        EXPECT_FALSE((all.*work).resident()) << name;
        EXPECT_EQ((all.*work).wide(), !refused) << name;
      }
    }
  }
}

// Its biases depend on the time, which all points of a stage on a grid share; adaptive paths have times of their own.
TEST(Residency, OfAnEmbeddingOfTheTimeIsForSamplesAndLogDensitiesOnAGrid) {
  const Architecture plain = net(2, {80, 80, 80}, Output::potential);
  Architecture embedded = plain;
  embedded.time = {{{32, {Activation::silu, 1}}}, {0, 1}};
  const Residency as_plain = plan(plain, Precision::split, 227 << 10),
                  all = plan(embedded, Precision::split, 227 << 10);
  for (const auto& [name, work] : kWorks) {
    const bool samples = work == &Residency::sample || work == &Residency::log_density;
    EXPECT_EQ((all.*work).warps, samples ? (as_plain.*work).warps : 0) << name;
  }
}

// Fixed layers are nothing to what does not train.
TEST(Residency, OfFixedLayersIsForAllButTraining) {
  const Architecture plain = net(2, {80, 80, 80}, Output::potential);
  Architecture fixed = plain;
  fixed.fixed = {1};
  const Residency as_plain = plan(plain, Precision::split, 227 << 10), all = plan(fixed, Precision::split, 227 << 10);
  for (const auto& [name, work] : kWorks) {
    EXPECT_EQ((all.*work).warps, work == &Residency::loss ? 0 : (as_plain.*work).warps) << name;
  }
}

// A block of the loss has no more warps than the limits allow.
TEST(Residency, ALossTakesNoMoreWarpsThanItMay) {
  const Architecture architecture = net(2, {80, 80, 80}, Output::potential);
  for (const int most : {1, 4, 8}) {
    const kernels::DeviceLimits limits{.multiprocessors = 132, .shared_bytes = 227 << 10, .loss_warps = most};
    EXPECT_EQ(plan_residency(architecture, Precision::split, limits).loss.warps, most);
  }
}

}  // namespace
}  // namespace fokker::cuda
