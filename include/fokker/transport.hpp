#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/data.hpp"
#include "fokker/public.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

// The limits of an axis.
struct Interval {
  double low = -3.5, high = 3.5;

  bool operator==(const Interval&) const = default;
};

// n × n nodes on the box [x.low, x.high] × [y.low, y.high], equally spaced on each axis, (high − low)/(n − 1) apart. n is
// 2 to 1024: each node has a counter and a weight, and a million of them are more than samples fill.
struct Grid {
  std::int64_t n = 64;
  Interval x = {}, y = {};

  // On [−half_width, half_width]².
  static Grid within(double half_width, std::int64_t n = 64) {
    return {.n = n, .x = {-half_width, half_width}, .y = {-half_width, half_width}};
  }

  bool operator==(const Grid&) const = default;
  const Interval& limits(int axis) const { return axis == 0 ? x : y; }
  double spacing(int axis) const { return (limits(axis).high - limits(axis).low) / static_cast<double>(n - 1); }
  // The coordinate of node `index`, from 0, and of what lies between two of them.
  double at(int axis, double index) const { return limits(axis).low + index * spacing(axis); }
  std::string describe() const;  // "64 nodes a side on [-3.5, 3.5] × [-3.5, 3.5]"
  void validate() const;
};

// Counts of samples at their nearest nodes, index n·iy + ix; samples that do not lie inside the box, or are not finite,
// are not binned but counted.
struct Histogram {
  Grid grid = {};
  std::vector<double> weights = {};  // [n²], sum 1 (all 0 where no sample was inside)
  std::int64_t inside = 0, outside = 0;

  double escaped() const { return inside + outside == 0 ? 0.0 : double(outside) / double(inside + outside); }
  // The root of the trace of the covariance of the nodes with these weights, where the spacing of each axis is its unit;
  // 0 where no sample was inside. A distance says little of laws that are not many spacings wide.
  double deviation_in_spacings() const;
};

// samples [N, 2] on the context's device; the histogram is on the host, so the call waits for it. Throws Error.
Histogram histogram(const Context& context, View<const float> samples, const Grid& grid = {});

// How many samples [N, d] on the context's device have a coordinate outside (−half_width, half_width), or not finite.
// An infinite half width, the default, counts those that are not finite. The call waits for its result. Throws Error.
std::int64_t count_escaped(const Context& context, View<const float> samples,
                           double half_width = std::numeric_limits<double>::infinity());

// How many of a set of samples are of no law that they could have been drawn for.
struct SampleHealth {
  std::int64_t count = 0;       // samples
  std::int64_t not_finite = 0;  // with a coordinate that is not finite
  std::int64_t far_out = 0;     // finite, with a coordinate outside (−far, far)
  double far = std::numeric_limits<double>::infinity();

  double lost() const { return count == 0 ? 0.0 : double(not_finite + far_out) / double(count); }
};

// samples [N, d] on the context's device; far above 0. The call waits for its result. Throws Error.
SampleHealth sample_health(const Context& context, View<const float> samples,
                           double far = std::numeric_limits<double>::infinity());

// Mean and covariance of the samples whose coordinates are all finite; 0 where there are none.
struct Moments {
  std::int64_t count = 0, left_out = 0;
  std::vector<double> mean = {};  // [d]
  // [d, d], divided by the count, around the mean (a second pass over the samples).
  std::vector<double> covariance = {};
};

// samples [N, d] on the context's device, d from 1 to 4096; sums in double, whose order depends on the shape alone. The
// moments are on the host, so the call waits for them. Throws Error.
Moments moments(const Context& context, View<const float> samples);

// Exact optimal transport between two weight vectors on the same grid, with its certificate: the dual solution's value,
// which bounds W2² from below. Their difference is the error of the reported value.
struct TransportResult {
  double w2_squared = 0;  // primal value
  double dual_value = 0;  // Σ u a + Σ v b of a feasible dual (u_i + v_j ≤ |x_i − y_j|²)
  double certificate_gap() const { return w2_squared - dual_value; }
};

// a, b: [n²], non-negative, not all zero; normalised here. Network simplex on the tripartite graph, on the host: squared
// distance is separable, so mass moves first in x and then in y, 2n³ arcs instead of n⁴. n is at most 256: that has 34
// million arcs of some 80 bytes, and twice the n has eight times as many. Throws Error.
TransportResult w2_squared(const std::vector<double>& a, const std::vector<double>& b, const Grid& grid = {});

// The same between two sets of points, of which those of a set weigh alike: a [N, d], b [M, d] on the context's device,
// any d, with N M up to 2^25, as of 5792 points each, which are as many arcs. Points that are not finite are left out.
// Network simplex on the host, by one thread, which takes minutes at that limit. Its costs are rounded to 2^−46 of the
// largest, and the value is that of its plan in double, so that the certificate has the rounding in it. Throws Error
// where a shape or a device does not fit, and where one side has no finite point.
TransportResult w2_squared_of_points(const Context& context, View<const float> a, View<const float> b);

// Mean over `projections` random directions, 1 to 10⁶, of the one-dimensional W2² of the projected samples, a [N, d], b
// [M, d] on the context's device, d up to 2^18 and N M below 2^63; samples that are not finite are left out. The call
// waits for its result. Throws Error where a shape or a device does not fit, and where one side has no finite sample.
double sliced_w2_squared(const Context& context, View<const float> a, View<const float> b, int projections = 256,
                         std::uint64_t seed = 0);

// The distance of two independent draws of n from the data: what a perfect sampler would score. W2² on the grid for d = 2;
// sliced W2² otherwise. Throws Error where n is below 1 or no draw falls on the grid.
double noise_floor(const Context& context, const DataSet& data, std::int64_t n, std::uint64_t seed,
                   const Grid& grid = {});

// The same for any distance of two sets of samples, [n, d] each on the context's device.
using SampleDistance = std::function<double(View<const float> a, View<const float> b)>;
double noise_floor(const Context& context, const DataSet& data, std::int64_t n, std::uint64_t seed,
                   const SampleDistance& distance);

}  // namespace fokker
