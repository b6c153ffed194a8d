#pragma once

// What takes a place's path from one evaluation of the network to the next, and the place from a path that has ended to
// another one; shared by both kernels of paths with steps of their own. The formulas are those of formulas/adaptive.hpp.
#include <cmath>
#include <cstdint>
#include <limits>

#include "adaptive_launch.hpp"
#include "device.hpp"
#include "fokker/formulas/standardisation.hpp"
#include "random.hpp"

namespace fokker::kernels {

template <class T>
inline constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

template <class T>
__device__ AdaptivePath begin_sample(const AdaptiveTask<T>& task, std::int64_t i, const PathNumbers& n) {
  const int d = task.rule.dimension;
  if (task.from != nullptr) {
    for (int j = 0; j < d; ++j) {
      const double v = static_cast<double>(task.from[i * d + j]);
      n.x(j) = task.mean != nullptr ? standardised(v, task.mean[j], task.deviation[j]) : v;
    }
  } else {
    for (int j = 0; j < d; j += 4) {
      float z[4];
      normals4(task.seed, task.first_index + static_cast<std::uint64_t>(i), RandomUse::prior,
               static_cast<std::uint32_t>(j / 4), 0, z);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if (j + w < d) n.x(j + w) = static_cast<double>(task.prior_deviation * z[w]);
      }
    }
  }
  if (task.rule.components > d) n.x(d) = 0;
  return begin_path(task.rule);
}

template <class T>
__device__ void end_sample(const AdaptiveTask<T>& task, std::int64_t i, const AdaptivePath& path, const PathNumbers& n,
                           AdaptiveTotals& totals) {
  const int d = task.rule.dimension;
  const bool reached = path.ended == PathEnd::reached;
  if (task.states != nullptr) {
    for (int j = 0; j < d; ++j) {
      const double z = n.x(j);
      const double x = task.mean != nullptr ? restored(z, task.mean[j], task.deviation[j]) : z;
      task.states[i * d + j] = reached ? static_cast<T>(x) : not_a_number<T>;
    }
  }
  if (task.log_density != nullptr) {
    double square = 0;
    for (int j = 0; j < d; ++j) square += n.x(j) * n.x(j);
    task.log_density[i] =
        reached ? static_cast<T>(task.log_constant - square / (2 * task.prior_variance) + n.x(d)) : not_a_number<T>;
  }
  const AdaptivePathReport report = report_of(path);
  if (task.reports != nullptr) task.reports[i] = report;
  ++totals.paths;
  totals.accepted += report.accepted;
  totals.refused += report.refused;
  totals.evaluations += report.evaluations;
  if (totals.most_evaluations < report.evaluations) totals.most_evaluations = report.evaluations;
  // A place has its samples in their order.
  if (!reached && totals.failed++ == 0) totals.first_failed = i, totals.first = report;
}

// Takes what the network gave at the path's point, output [d] and trace; gives the place the sample next() where its path
// ends with it, or where it begins, and has none yet; and leaves the point that is wanted next in path.at and n.y, path
// being place.path then. Returns false, and leaves the point, where there is no sample below limit. ended() is called at a
// path's end.
template <class T, class Next, class Ended>
__device__ bool advance_path(const AdaptiveTask<T>& task, bool begins, std::int64_t limit, AdaptivePlace& place,
                             const PathNumbers& n, const T* output, T trace, AdaptiveTotals& totals, AdaptivePath& path,
                             const Next& next, const Ended& ended) {
  if (!begins) {
    if (place.sample >= limit) return false;
    path = place.path;
    end_evaluation(task.rule, path, n, output, trace);
    if (path.ended != PathEnd::none) {
      end_sample(task, place.sample, path, n, totals);
      ended();
      begins = true;
    }
  }
  if (begins) {
    place.sample = next();
    if (place.sample >= limit) return false;
    path = begin_sample(task, place.sample, n);
  }
  begin_evaluation(task.rule, path, n);
  place.path = path;
  return true;
}

}  // namespace fokker::kernels
