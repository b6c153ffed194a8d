#pragma once

// The stages of a path along a time grid, in the order in which every backend takes them. Coefficients of the SDE are
// computed in double.
#include <cmath>
#include <cstdint>
#include <numbers>
#include <tuple>
#include <vector>

#include "fokker/formulas/integrator.hpp"
#include "fokker/model.hpp"
#include "fokker/sampler.hpp"

namespace fokker {

// log N(0; 0, variance I) in d dimensions.
inline double prior_log_norm(std::int64_t d, double variance) {
  return -0.5 * static_cast<double>(d) * std::log(2 * std::numbers::pi * variance);
}

// The form that a sampler folds into its coefficients; and those of a composition's terms that stay within its fields,
// where it is a sum of scores and not of networks.
struct SamplerForms {
  explicit SamplerForms(const Model& model);
  NetworkForm folded;
  std::vector<NetworkForm> inner;
  bool singular_at_zero;  // whether the score has no limit at t = 0
};

// Stages a step: 1 for the stochastic schemes.
int stages_per_step(Scheme scheme);

// A scheme with its numbers, by default its own.
struct Stepping {
  Scheme scheme;
  double eta, temperature = 1;

  explicit Stepping(Scheme of) : scheme(of), eta(SampleOptions{.scheme = of}.chosen_eta()) {}
  explicit Stepping(const SampleOptions& options)
      : scheme(options.scheme), eta(options.chosen_eta()), temperature(options.temperature) {}
  bool operator<(const Stepping& other) const {
    return std::tie(scheme, eta, temperature) < std::tie(other.scheme, other.eta, other.temperature);
  }
};

// times, strictly monotonic: decreasing, or increasing for a flow followed up to T. The form is folded in before the
// stages are taken, so that factors which are infinite at an end of time and cancel do no harm. A step onto t = 0 where the
// score is singular there takes all its stages at its beginning: it is Euler's. Throws Error where a coefficient is not
// finite.
std::vector<Stage> stages_of(const ForwardSde& sde, const SamplerForms& forms, const std::vector<double>& times,
                             const Stepping& stepping);

}  // namespace fokker
