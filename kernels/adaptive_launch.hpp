#pragma once

// Paths of the probability flow with steps of their own; conventions as in launch.hpp. A place is what a path has while it
// is at work: for a resident network a row of a warp's tile, from whose first evaluation to the last nothing leaves the
// kernel (adaptive_sampler.cu); for every other a place in global memory, an evaluation at a time (adaptive.cu).
#include <cstdint>

#include "fokker/formulas/adaptive.hpp"
#include "launch.hpp"

namespace fokker::kernels {

// The sums over the paths that a place had.
struct AdaptiveTotals {
  std::int64_t paths, accepted, refused, evaluations, most_evaluations, failed;
  std::int64_t first_failed;  // where failed > 0, with its report
  AdaptivePathReport first;
};

// A place, and the sample whose path has it; one behind the last where it has none.
struct AdaptivePlace {
  AdaptivePath path;
  std::int64_t sample;
};

// The paths of a call. T: what the network is evaluated in, float or double.
template <class T>
struct AdaptiveTask {
  AdaptiveRule rule;
  // What a path begins with. Draws of the prior are those of launch_prior().
  const T* from;  // [N, d], or nullptr: deviation · normals of (seed, first_index + i), use prior
  float prior_deviation;
  std::uint64_t seed, first_index;
  const double *mean, *deviation;  // [d] of standardised columns, or nullptr
  // What it ends with, NaN where it does not reach its end.
  T* states;                            // [N, d], or nullptr
  T* log_density;                       // [N], or nullptr: constant − |x|²/(2 variance) + the integral
  double log_constant, prior_variance;  // log_constant: of the prior's norm and the columns' volume
  AdaptivePathReport* reports;          // [N], or nullptr
  AdaptiveTotals* totals;               // of the places, zeros at first
};

// ---- an evaluation at a time ----------------------------------------------------------------------------------------

template <class T>
struct AdaptiveArguments {
  AdaptiveTask<T> task;
  bool begin;           // whether the places are given their first paths; else they take what the network gave
  std::int64_t places;  // at least 1
  // Place p has samples first + p, first + p + places, … below limit, one after another.
  std::int64_t first, limit;
  const T* condition;  // [N, conditions], or nullptr
  int conditions;
  // Of the places.
  AdaptivePlace* place;          // [places]
  double* numbers;               // [(2 + stages) · components, places]: states, points, slopes
  T *time, *input;               // [places], [places, d] where the network is wanted
  T* own_condition;              // [places, conditions]
  const T *output, *trace;       // [places, d], [places]: what it gave there; trace nullptr where it is not wanted
  unsigned long long* finished;  // one number: how many paths have ended
};

// Loads the kernels; called once, at set-up.
Status prepare_adaptive();
template <class T>
Status launch_advance_paths(const AdaptiveArguments<T>& arguments, Stream stream);

// ---- all of a path in one launch ------------------------------------------------------------------------------------

struct ResidentAdaptiveArguments {
  AdaptiveTask<float> task;   // totals of resident_places() (shared_layout.hpp)
  std::int64_t n;             // samples
  unsigned long long* taken;  // one number, 0 at first: the samples that places took beyond their first
  Divergence estimate;        // of a log-density; probes stay fixed along a path
};

// As for resident samples, of Work::adaptive_sample or, with task.log_density, Work::adaptive_log_density. A network's
// inputs are the time and x: of an embedding of the time there is no kernel, for rows have different times.
Status prepare_resident_adaptive(const ResidentMlp& net, Work work, const DeviceLimits& limits);
Status launch_resident_adaptive(const ResidentMlp& net, int warps, const ResidentAdaptiveArguments& arguments,
                                const DeviceLimits& limits, Stream stream);

}  // namespace fokker::kernels
