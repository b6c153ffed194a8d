#pragma once

// What all backends' adaptive samplers have in common beside the formulas of a step (fokker/formulas/adaptive.hpp).
#include <cstdint>
#include <limits>

#include "core/operations.hpp"
#include "fokker/adaptive_sampler.hpp"
#include "fokker/formulas/adaptive.hpp"

namespace fokker {

// Of samples from the start to the end of a plan, or of log-densities back. `epsilon`: the unit of the last place of what
// the network is evaluated in.
AdaptiveRule adaptive_rule(const Model& model, const AdaptivePlan& plan, bool density, double epsilon);
template <class T>
AdaptiveRule adaptive_rule(const Model& model, const AdaptivePlan& plan, bool density) {
  return adaptive_rule(model, plan, density, static_cast<double>(std::numeric_limits<T>::epsilon()));
}

// Adds a path, or all of a report: the sums do not depend on the order.
void add(AdaptiveReport& to, std::int64_t number, const AdaptivePathReport& path);
void add(AdaptiveReport& to, const AdaptiveReport& more);

}  // namespace fokker
