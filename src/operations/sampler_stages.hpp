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

// Times that come from a float32 file are rounded, up or down.
inline constexpr double time_tolerance = 1e-6;

// Throws Error where a mixture, or one of a composition's, does not fit float32.
void check_mixtures(const Model& model);

// The form that a sampler folds into its coefficients; and those of a composition's terms that stay within its fields,
// where it is a sum of scores and not of networks.
struct SamplerForms {
  explicit SamplerForms(const Model& model);
  NetworkForm folded;
  std::vector<NetworkForm> inner;
  bool singular_at_zero;  // whether the score has no limit at t = 0
};

// A scheme with its numbers, by default its own.
struct Stepping {
  Scheme scheme;
  double eta, temperature, langevin;
  Churn churn;

  explicit Stepping(Scheme of) : Stepping(SampleOptions{.scheme = of}) {}
  explicit Stepping(const SampleOptions& options)
      : scheme(options.scheme),
        eta(options.chosen_eta()),
        temperature(options.temperature),
        langevin(options.langevin),
        churn(options.churn) {}
  bool operator<(const Stepping& other) const { return key() < other.key(); }

 private:
  std::tuple<Scheme, double, double, double, double, double, double, double> key() const {
    return {scheme, eta, temperature, langevin, churn.amount, churn.from, churn.to, churn.noise};
  }
};

// As many for each step. times, strictly monotonic: decreasing, or increasing for a flow followed up to T. The form is
// folded in before the stages are taken, so that factors which are infinite at an end of time and cancel do no harm. A step
// onto t = 0 where the score is singular there takes all its stages at its beginning: it is Euler's. Throws Error where a coefficient is not
// finite.
std::vector<Stage> stages_of(const ForwardSde& sde, const SamplerForms& forms, const std::vector<double>& times,
                             const Stepping& stepping);

// The last step draws no noise of its own.
void drop_last_noise(std::vector<Stage>& stages, int stages_per_step);

}  // namespace fokker
