#pragma once

// What the tests of the energy share.
#include <gtest/gtest.h>

#include <cmath>

#include "fokker/context.hpp"
#include "fokker/diagnostics/energy.hpp"
#include "fokker/sde.hpp"

namespace fokker::testing {

constexpr double kEnd = 0.01;  // the last time

inline Context context() { return Context({.backend = BackendKind::cpu, .threads = 1}); }
inline ForwardSde short_ou(double horizon) { return ForwardSde::ou({.horizon = horizon, .t_min = 1e-3}); }

// An error that says something: of 2 %, or of 2e-3 where the number is small.
inline double informative(double expected) { return 0.02 * std::abs(expected) + 2e-3; }

// `fine` is where `expected` is, to what the refinement from `coarse` changed.
inline void expect_converged(const char* what, double coarse, double fine, double expected) {
  EXPECT_LE(std::abs(fine - expected), std::abs(fine - coarse) + 1e-9)
      << what << ": " << coarse << ", then " << fine << ", where " << expected << " is expected";
  EXPECT_LE(std::abs(fine - coarse), informative(expected)) << what << " is not resolved";
}

inline void expect_within(const char* what, const Estimate& estimate, double expected, double largest_error) {
  EXPECT_LE(std::abs(estimate.value - expected), 5 * estimate.standard_error)
      << what << ": " << estimate.value << " ± " << estimate.standard_error << " where " << expected << " is expected";
  EXPECT_LE(estimate.standard_error, largest_error) << what;
  EXPECT_GT(estimate.standard_error, 0) << what;
}

}  // namespace fokker::testing
