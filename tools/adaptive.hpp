#pragma once

// What commands have for samplers whose steps follow a tolerance, beside those that step along a grid.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "fokker/fokker.hpp"
#include "options.hpp"

namespace fokker::tools {

// Whether --scheme names one: bs32, tsit5 or dopri5.
bool is_adaptive(const std::string& scheme);
// Throws Error where it names neither one nor a scheme.
void check_scheme(const std::string& scheme);

// --tolerance and --most-steps.
class AdaptiveStepOptions {
 public:
  void add_to(CLI::App& app);
  // Wrong usage where these are given with a scheme that steps along a grid, or one of `others` with one that does not.
  void check(const std::string& scheme, const std::vector<std::string>& others = {}) const;
  AdaptiveOptions options(const std::string& scheme) const;

 private:
  const CLI::App* app_ = nullptr;
  double relative_ = AdaptiveOptions().relative_tolerance, absolute_ = relative_;
  std::int64_t most_steps_ = AdaptiveOptions().most_steps;
};

// From the first time of a grid to its last.
AdaptiveSampler<float> adaptive_sampler(const Context& context, const Model& model, const TimeGrid& grid,
                                        const AdaptiveOptions& options);
// As check_flow_density() for a Sampler.
void check_flow_density(const Context& context, const AdaptiveSampler<float>& sampler, const Divergence& divergence,
                        const std::string& given);

// What a command prints of its paths: "steps": {"tolerance": [R, A], "taken": …, "refused": …, …}.
Json describe_steps(const AdaptiveOptions& options, const AdaptiveReport& report);
// "1200 steps taken and 34 refused".
std::string text_of(const AdaptiveReport& report);

}  // namespace fokker::tools
