// Paths of the probability flow with steps of their own, an evaluation at a time, for models whose fields are evaluated by
// launches of their own: what stands between two evaluations of the network at one point of each path.
//
// Data path: a thread has a place, whose path it takes to its next evaluation; at the end of a path it writes the result
// and begins the place's next one. Numbers of the places lie coordinate by coordinate, so that a warp reads them
// coalesced; points of the network row by row, as it takes them. No thread reads another's. Cost: of a stage i the state
// and i slopes a coordinate, in double, and the flow's coefficients at the path's own time, some hundred operations in
// double.
// Ours and not Thrust's, so that the emulation and its racecheck run it as every kernel (CONTRIBUTING.md).
#include <cstdint>

#include "adaptive.hpp"
#include "grid.hpp"

namespace fokker::kernels {
namespace {

template <class T>
__device__ PathNumbers numbers_of(const AdaptiveArguments<T>& a, std::int64_t p) {
  const std::int64_t rows = a.task.rule.components;
  return {a.numbers + p, a.numbers + rows * a.places + p, a.numbers + 2 * rows * a.places + p, a.places,
          a.task.rule.components};
}

template <class T>
__global__ void advance_paths(AdaptiveArguments<T> a) {
  const int d = a.task.rule.dimension;
  for (std::int64_t p = first_item(); p < a.places; p += item_stride()) {
    const PathNumbers n = numbers_of(a, p);
    AdaptivePlace& place = a.place[p];
    const auto next = [&] {
      const std::int64_t i = a.begin ? a.first + p : place.sample + a.places;
      if (i < a.limit) {
        for (int k = 0; k < a.conditions; ++k) {
          a.own_condition[p * a.conditions + k] = a.condition[i * a.conditions + k];
        }
      }
      return i;
    };
    AdaptivePath path;
    if (!advance_path(a.task, a.begin, a.limit, place, n, a.output + p * d,
                      a.trace != nullptr && !a.begin ? a.trace[p] : T(0), a.task.totals[p], path, next,
                      [&] { atomic_add(a.finished, 1ull); })) {
      continue;  // its point stays where it is
    }
    a.time[p] = static_cast<T>(path.at.time);
    for (int j = 0; j < d; ++j) a.input[p * d + j] = static_cast<T>(path.at.in * n.y(j));
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
