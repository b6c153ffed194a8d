#pragma once

// What tests of the reproduction share: its executables and scripts are run as processes, on folders of their own.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "process.hpp"
#include "scratch.hpp"

namespace fokker::testing {

inline const std::string reproduce_tool = REPRODUCE_TOOL, tools_folder = FOKKER_TOOLS_FOLDER;

// A command of a POSIX shell; words need no quotes here.
inline Outcome run(const Scratch& scratch, const std::string& command) {
  return Process(scratch.folder(), command).wait();
}

// The cheapest run there is, a second.
inline Outcome reproduce(const Scratch& scratch, const std::string& data, const std::string& weights = "0,1",
                         int iterations = 3, const std::string& options = "") {
  return run(scratch, fmt::format("{} --preset smoke --iterations {} --samples 200 --grid geometric:30:1e-2 --data {} "
                                  "--weights {} --out {} {}",
                                  reproduce_tool, iterations, data, weights, scratch / "out", options));
}

// As if the two runs there had left these distances between the samplers, with that share of the ODE's samples lost and
// these warnings.
inline void put_gaps(const Scratch& scratch, const std::string& data, double escaped,
                     const std::vector<std::string>& warnings = {}) {
  for (const auto& [weight, ode_sde] : {std::pair(0, 3.5), std::pair(1, 0.5)}) {
    const std::string path = scratch / fmt::format("out/{}_softplus20_w{}_s0/gap.json", data, weight);
    nlohmann::json gap = nlohmann::json::parse(get(path));
    gap["w2_squared"] = {{"ode_sde", ode_sde}, {"ode_truth", 1}, {"sde_truth", 1}};
    gap["escaped"] = {{"ode", escaped}, {"sde", 0}};
    gap["warnings"] = warnings;
    put(path, gap.dump());
  }
}

inline void expect_refusal(const Outcome& outcome, const std::string& what, int code = 1) {
  EXPECT_EQ(outcome.code, code);
  EXPECT_THAT(outcome.out, ::testing::IsEmpty());
  EXPECT_THAT(outcome.err, ::testing::AllOf(::testing::StartsWith("reproduce: "), ::testing::HasSubstr(what)));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

inline void put_mixture(const std::string& path, double mean) {
  put(path, fmt::format(R"({{"weights": [1], "means": [[{}, 0]], "covariances": [0.1]}})", mean));
}

// Whether the report can be made here, which takes a Python with its packages.
inline bool can_report() { return !python_with("numpy, matplotlib.pyplot").empty(); }

inline std::string report(const Scratch& scratch) {
  const Outcome outcome = run(scratch, fmt::format("python3 {}/report.py {}", tools_folder, scratch / "out"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  // Without the figures, which are long.
  std::string page = get(scratch / "out/report.html");
  for (std::size_t at; (at = page.find("data:image")) != std::string::npos;) page.erase(at, page.find('"', at) - at);
  return page;
}

}  // namespace fokker::testing
