#pragma once

// The stages of a path along a time grid, in the order in which every backend takes them. Coefficients of the SDE are
// computed in double.
#include <cmath>
#include <cstdint>
#include <numbers>
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
};

// Stages a step: 1 for the stochastic schemes.
int stages_per_step(Scheme scheme);

// A scheme with its numbers.
struct Stepping {
  Scheme scheme = Scheme::euler_maruyama;
  double eta = 1, temperature = 1;

  Stepping(Scheme of) : scheme(of), eta(of == Scheme::euler_maruyama || of == Scheme::exponential ? 1 : 0) {}
  // Throws Error where a number is out of its range.
  explicit Stepping(const SampleOptions& options);
  auto operator<=>(const Stepping&) const = default;
};
// times, strictly monotonic: decreasing, or increasing for a flow followed up to T. The form is folded in before the
// stages are taken, so that factors which are infinite at an end of time and cancel do no harm. Throws Error where a
// coefficient is not finite.
std::vector<Stage> stages_of(const ForwardSde& sde, const SamplerForms& forms, const std::vector<double>& times,
                             const Stepping& stepping);

}  // namespace fokker
