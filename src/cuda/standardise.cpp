// Columns to their own units and back on the device (kernels/standardise.cu).
#include "cuda/backend.hpp"
#include "cuda/device_field.hpp"
#include "cuda/runtime.hpp"
#include "kernels/standardise_launch.hpp"

namespace fokker::cuda {
namespace {

template <class T>
kernels::StandardiseArguments<T> arguments_of(const Columns& columns, View<const T> from, View<T> to) {
  return {.n = from.rows,
          .columns = static_cast<int>(columns.mean.rows),
          .mean = columns.mean.data,
          .deviation = columns.deviation.data,
          .from = from.data,
          .to = to.data};
}

}  // namespace

void prepare_standardise() { check(kernels::prepare_standardise(), "prepare_standardise"); }

template <class T>
void standardise(const Queue& queue, const Columns& columns, View<const T> from, View<T> to) {
  check(kernels::launch_standardise(arguments_of(columns, from, to), queue.stream), "launch_standardise");
}

void restore(const Queue& queue, const Columns& columns, View<const float> from, View<float> to) {
  check(kernels::launch_restore(arguments_of(columns, from, to), queue.stream), "launch_restore");
}

template <class T>
void weighted_traces(const Queue& queue, View<const double> weights, View<const T> matrices, View<T> traces) {
  check(kernels::launch_weighted_traces<T>({.n = traces.rows,
                                            .dimension = static_cast<int>(weights.rows),
                                            .weights = weights.data,
                                            .matrices = matrices.data,
                                            .traces = traces.data},
                                           queue.stream),
        "launch_weighted_traces");
}

template void standardise(const Queue&, const Columns&, View<const float>, View<float>);
template void standardise(const Queue&, const Columns&, View<const double>, View<double>);
template void weighted_traces(const Queue&, View<const double>, View<const float>, View<float>);
template void weighted_traces(const Queue&, View<const double>, View<const double>, View<double>);

}  // namespace fokker::cuda
