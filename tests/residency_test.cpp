// The table of kernels/RESIDENCY.md is what the launches decide by; printed anew where it differs.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "kernels/launch.hpp"
#include "kernels/loss_launch.hpp"
#include "kernels/shared_layout.hpp"
#include "fokker/fields.hpp"

namespace fokker::kernels {
namespace {

constexpr std::pair<const char*, int> kArchitectures[] = {{"8.0 (A100; 163 KiB of shared memory a block)", 163 << 10},
                                                          {"9.0, 10.0 (H100, H200, B200; 227 KiB)", 227 << 10}};
constexpr std::pair<const char*, Work> kWorks[] = {{"score", Work::score},
                                                   {"samples", Work::sample},
                                                   {"divergence, residual", Work::curvature},
                                                   {"log-density", Work::log_density},
                                                   {"Hessian", Work::hessian}};

ResidentMlp net(Precision precision, int width, int dimension, int hidden, bool potential) {
  return {.image = nullptr,
          .precision = precision,
          .dimension = dimension,
          .hidden = hidden,
          .width = width,
          .outputs = potential ? 1 : dimension,
          .potential = potential,
          .activation = Activation::softplus,
          .beta = 1};
}

// The most hidden layers that are resident, up to 8, and the warps of a block at three of them.
// warps_at(hidden): of a block.
template <class WarpsAt>
std::string entry(const WarpsAt& warps_at) {
  int deepest = 0;
  for (int hidden = 1; hidden <= 8; ++hidden) {
    if (warps_at(hidden) > 0) deepest = hidden;
  }
  if (deepest == 0) return "wide";
  const int warps = warps_at(3);
  return deepest < 3 ? fmt::format("{}", deepest) : fmt::format("{} ({})", deepest, warps);
}

std::string table() {
  std::string text;
  for (const auto& [architecture, bytes] : kArchitectures) {
    for (const bool potential : {true, false}) {
      text += fmt::format("\n## {}: {}\n\n| width | precision | d |", architecture,
                          potential ? "potentials" : "vector nets");
      for (const auto& [name, work] : kWorks) text += fmt::format(" {} |", name);
      text += " training |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
      for (const int width : resident_widths) {
        for (const Precision precision : {Precision::fp32, Precision::split, Precision::half}) {
          for (const int d : {2, 16, 64}) {
            text += fmt::format("| {} | {} | {} |", width, to_string(precision), d);
            const auto at = [&](int hidden) { return net(precision, width, d, hidden, potential); };
            for (const auto& of : kWorks) {
              const bool refused = precision == Precision::half && needs_curvature(of.second);
              text += fmt::format(" {} |", refused ? "–" : entry([&](int hidden) {
                                    return resident_warps(at(hidden), of.second, bytes);
                                  }));
            }
            const bool refused = precision == Precision::half;
            text += fmt::format(
                " {} |\n", refused ? "–" : entry([&](int hidden) { return resident_loss_warps(at(hidden), bytes); }));
          }
        }
      }
    }
  }
  return text;
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
    for (const int width : resident_widths) {
      for (int hidden = 1; hidden < 8; ++hidden) {
        EXPECT_GE(resident_warps(net(Precision::split, width, 2, hidden, true), work, 227 << 10),
                  resident_warps(net(Precision::split, width, 2, hidden + 1, true), work, 227 << 10));
      }
    }
  }
  for (const int width : resident_widths) {
    for (int hidden = 1; hidden < 8; ++hidden) {
      EXPECT_GE(resident_loss_warps(net(Precision::split, width, 2, hidden, true), 227 << 10),
                resident_loss_warps(net(Precision::split, width, 2, hidden + 1, true), 227 << 10));
    }
  }
}

}  // namespace
}  // namespace fokker::kernels
