#pragma once

// The comparison that every test of numbers goes through. It cannot be satisfied by an average alone (a few wrong
// elements of many fail the element-wise bound), nor element by element alone (a bias in every element fails the
// norm-wise bound), and NaN never passes unless it is expected at the same place.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace fokker::testing {

// How far actual values a may be from expected values e:
//   every element   |a_i − e_i| ≤ relative |e_i| + of_rms rms(e) + absolute + each[i]
//   all together    rms(a − e)  ≤ norm rms(e) + absolute
// rms(e) is taken over the finite expected values.
struct Bound {
  double relative = 0;
  double of_rms = 0;
  double norm = 0;
  double absolute = 0;
  std::vector<double> each = {};  // as many as there are values, or none
};

// A is the type worked with, E the type of the reference: float, double or long double each.
template <class A, class E>
::testing::AssertionResult agrees(std::span<const A> actual, std::span<const E> expected, const Bound& bound) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << fmt::format("{} values where {} are expected", actual.size(),
                                                        expected.size());
  }
  if (!bound.each.empty() && bound.each.size() != expected.size()) {
    return ::testing::AssertionFailure() << fmt::format("{} values with {} bounds", expected.size(), bound.each.size());
  }
  using Wide = long double;
  Wide expected_square = 0, difference_square = 0;
  std::size_t finite = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Wide a = actual[i], e = expected[i];
    const bool same_kind = std::isnan(e) ? std::isnan(a) : std::isinf(e) ? a == e : std::isfinite(a);
    if (!same_kind) {
      return ::testing::AssertionFailure()
             << fmt::format("element {} of {} is {} where {} is expected", i, actual.size(), actual[i], expected[i]);
    }
    if (!std::isfinite(e)) continue;
    expected_square += e * e;
    difference_square += (a - e) * (a - e);
    ++finite;
  }
  if (finite == 0) return ::testing::AssertionSuccess();
  const Wide rms = std::sqrt(expected_square / finite), difference_rms = std::sqrt(difference_square / finite);

  std::size_t worst = 0, failures = 0;
  Wide worst_excess = -1;  // difference over what is allowed; an allowance of 0 makes any difference infinitely bad
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Wide e = expected[i], difference = std::abs(Wide(actual[i]) - e);
    if (!std::isfinite(e)) continue;
    const Wide allowed =
        bound.relative * std::abs(e) + bound.of_rms * rms + bound.absolute + (bound.each.empty() ? 0.0 : bound.each[i]);
    if (!(difference <= allowed)) ++failures;
    const Wide excess = difference == 0 ? 0 : difference / allowed;
    if (excess > worst_excess) worst_excess = excess, worst = i;
  }
  const Wide allowed_rms = bound.norm * rms + bound.absolute;
  if (failures == 0 && difference_rms <= allowed_rms) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << fmt::format(
             "{} of {} elements are outside their bound, the worst at {}: {} where {} is expected "
             "({:.3g} times what is allowed); rms of the difference {:.3g}, allowed {:.3g}; rms expected {:.3g}",
             failures, finite, worst, actual[worst], expected[worst], double(worst_excess), double(difference_rms),
             double(allowed_rms), double(rms));
}

template <class A, class E>
::testing::AssertionResult agrees(const std::vector<A>& actual, const std::vector<E>& expected, const Bound& bound) {
  return agrees(std::span<const A>(actual), std::span<const E>(expected), bound);
}

// One number: relative and absolute bounds say all there is to say.
inline ::testing::AssertionResult agrees(double actual, double expected, double relative, double absolute = 0) {
  return agrees(std::span<const double>(&actual, 1), std::span<const double>(&expected, 1),
                Bound{.relative = relative, .norm = relative, .absolute = absolute});
}

}  // namespace fokker::testing
