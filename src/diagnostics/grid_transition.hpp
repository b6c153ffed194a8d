#pragma once

// The forward SDE's transition kernel on an axis of a grid. It is a product over axes, so one matrix serves all of
// them.
#include <cstdint>
#include <vector>

namespace fokker {

// n nodes, equally spaced from −half_width to half_width.
struct Axis {
  double half_width;
  std::int64_t n;
  double spacing() const { return 2 * half_width / double(n - 1); }
  double node(std::int64_t i) const { return half_width * (2 * double(i) / double(n - 1) - 1); }
};

// A matrix [n, n] whose rows sum to 1: row i has `width` weights, from column begin[i] on.
struct Transition {
  std::int64_t n, width;
  std::vector<std::int64_t> begin;
  std::vector<double> weight;  // [n, width]
};

enum class Interpolation { linear, cubic };

// From nodes x of `start` to functions on the nodes of `end`: expectations under N(mean x, deviation²). Row i
// integrates the polynomial through the nodes around each y against the Gaussian, by the trapezoidal rule in y, which
// is exact for polynomials to rounding where y is spaced by half a standard deviation or less. Beyond the last nodes
// the function is taken as constant.
Transition transition(const Axis& start, const Axis& end, double mean, double deviation, Interpolation interpolation);

// The matrix applied along the first axis of v [n, columns], and the result transposed: [columns, n]. Twice does both
// axes of a square.
std::vector<double> apply_transposed(const Transition& matrix, const std::vector<double>& v);

}  // namespace fokker
