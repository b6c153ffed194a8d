// Paths of the probability flow with steps of their own: what stands between two evaluations of the network at one point
// of each path. The formulas are those of formulas/adaptive.hpp.
//
// Data path: a thread has a place, whose path it takes to its next evaluation; at the end of a path it writes the result
// and begins the place's next one. Numbers of the places lie coordinate by coordinate, so that a warp reads them
// coalesced; points of the network row by row, as it takes them. No thread reads another's. Cost: of a stage i the state
// and i slopes a coordinate, in double, and the flow's coefficients at the path's own time, some hundred operations in
// double.
// Ours and not Thrust's, so that the emulation and its racecheck run it as every kernel (CONTRIBUTING.md).
#include <cmath>
#include <cstdint>
#include <limits>

#include "adaptive_launch.hpp"
#include "device.hpp"
#include "fokker/formulas/standardisation.hpp"
#include "grid.hpp"
#include "random.hpp"

namespace fokker::kernels {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
__device__ PathNumbers numbers_of(const AdaptiveArguments<T>& a, std::int64_t p) {
  const std::int64_t rows = a.rule.components;
  return {a.numbers + p, a.numbers + rows * a.places + p, a.numbers + 2 * rows * a.places + p, a.places,
          a.rule.components};
}

template <class T>
__device__ void begin_sample(const AdaptiveArguments<T>& a, std::int64_t p, std::int64_t i, AdaptivePath& path,
                             const PathNumbers& n) {
  const int d = a.rule.dimension;
  path = begin_path(a.rule);
  if (a.from != nullptr) {
    for (int j = 0; j < d; ++j) {
      const double v = static_cast<double>(a.from[i * d + j]);
      n.x(j) = a.mean != nullptr ? standardised(v, a.mean[j], a.deviation[j]) : v;
    }
  } else {
    for (int j = 0; j < d; j += 4) {
      float z[4];
      normals4(a.seed, a.first_index + static_cast<std::uint64_t>(i), RandomUse::prior,
               static_cast<std::uint32_t>(j / 4), 0, z);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if (j + w < d) n.x(j + w) = static_cast<double>(a.prior_deviation * z[w]);
      }
    }
  }
  if (a.rule.components > d) n.x(d) = 0;
  for (int k = 0; k < a.conditions; ++k) a.own_condition[p * a.conditions + k] = a.condition[i * a.conditions + k];
}

template <class T>
__device__ void end_sample(const AdaptiveArguments<T>& a, std::int64_t i, const AdaptivePath& path,
                           const PathNumbers& n, AdaptiveTotals& totals) {
  const int d = a.rule.dimension;
  const bool reached = path.ended == PathEnd::reached;
  const T none = static_cast<T>(kNan);
  if (a.states != nullptr) {
    for (int j = 0; j < d; ++j) {
      const double z = n.x(j);
      const double x = a.mean != nullptr ? restored(z, a.mean[j], a.deviation[j]) : z;
      a.states[i * d + j] = reached ? static_cast<T>(x) : none;
    }
  }
  if (a.log_density != nullptr) {
    double square = 0;
    for (int j = 0; j < d; ++j) square += n.x(j) * n.x(j);
    a.log_density[i] = reached ? static_cast<T>(a.log_constant - square / (2 * a.prior_variance) + n.x(d)) : none;
  }
  const AdaptivePathReport report = report_of(path);
  if (a.reports != nullptr) a.reports[i] = report;
  ++totals.paths;
  totals.accepted += report.accepted;
  totals.refused += report.refused;
  totals.evaluations += report.evaluations;
  if (totals.most_evaluations < report.evaluations) totals.most_evaluations = report.evaluations;
  // A place has its samples in their order.
  if (!reached && totals.failed++ == 0) totals.first_failed = i, totals.first = report;
  atomic_add(a.finished, 1ull);
}

template <class T>
__global__ void advance_paths(AdaptiveArguments<T> a) {
  const int d = a.rule.dimension;
  for (std::int64_t p = first_item(); p < a.places; p += item_stride()) {
    const PathNumbers n = numbers_of(a, p);
    AdaptivePlace& place = a.place[p];
    AdaptivePath path = place.path;
    std::int64_t i = place.sample;
    if (a.begin) {
      i = a.first + p;
      if (i < a.limit) begin_sample(a, p, i, path, n);
    } else if (i < a.limit) {
      end_evaluation(a.rule, path, n, a.output + p * d, a.trace != nullptr ? a.trace[p] : T(0));
      if (path.ended != PathEnd::none) {
        end_sample(a, i, path, n, place.totals);
        i += a.places;
        if (i < a.limit) begin_sample(a, p, i, path, n);
      }
    }
    place.sample = i;
    if (i >= a.limit) continue;  // its point stays where it is
    begin_evaluation(a.rule, path, n);
    a.time[p] = static_cast<T>(path.at.time);
    for (int j = 0; j < d; ++j) a.input[p * d + j] = static_cast<T>(path.at.in * n.y(j));
    place.path = path;
  }
}

}  // namespace

Status prepare_adaptive() {
  const Status status = prepare(advance_paths<float>, 0);
  return status ? status : prepare(advance_paths<double>, 0);
}

template <class T>
Status launch_advance_paths(const AdaptiveArguments<T>& arguments, Stream stream) {
  return launch(advance_paths<T>, one_item_a_thread(arguments.places), stream, arguments);
}
template Status launch_advance_paths(const AdaptiveArguments<float>&, Stream);
template Status launch_advance_paths(const AdaptiveArguments<double>&, Stream);

}  // namespace fokker::kernels
