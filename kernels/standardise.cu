// Columns to their own units and back: a thread takes one number after another, in double, since a mean rounded to
// float would move a column. And traces of matrices with weights, a thread a matrix. Cost: what they read and write,
// once each, and one division in double a number.
// Ours and not Thrust's, so that the emulation and its racecheck run it as every kernel (CONTRIBUTING.md).
#include <cstdint>

#include "device.hpp"
#include "fokker/formulas/standardisation.hpp"
#include "grid.hpp"
#include "standardise_launch.hpp"

namespace fokker::kernels {
namespace {

template <class T>
__global__ void standardise(StandardiseArguments<T> a) {
  for (std::int64_t k = first_item(); k < a.n * a.columns; k += item_stride()) {
    const int column = static_cast<int>(k % a.columns);
    a.to[k] = standardised(a.from[k], a.mean[column], a.deviation[column]);
  }
}

__global__ void restore(StandardiseArguments<float> a) {
  for (std::int64_t k = first_item(); k < a.n * a.columns; k += item_stride()) {
    const int column = static_cast<int>(k % a.columns);
    a.to[k] = restored(a.from[k], a.mean[column], a.deviation[column]);
  }
}

template <class T>
__global__ void weighted_traces(WeightedTraceArguments<T> a) {
  const int d = a.dimension;
  for (std::int64_t i = first_item(); i < a.n; i += item_stride()) {
    double sum = 0;
    for (int j = 0; j < d; ++j) sum += a.weights[j] * static_cast<double>(a.matrices[(i * d + j) * d + j]);
    a.traces[i] = static_cast<T>(sum);
  }
}

}  // namespace

template <class T>
Status launch_standardise(const StandardiseArguments<T>& arguments, Stream stream) {
  return launch(standardise<T>, one_item_a_thread(arguments.n * arguments.columns), stream, arguments);
}

Status launch_restore(const StandardiseArguments<float>& arguments, Stream stream) {
  return launch(restore, one_item_a_thread(arguments.n * arguments.columns), stream, arguments);
}

template <class T>
Status launch_weighted_traces(const WeightedTraceArguments<T>& arguments, Stream stream) {
  return launch(weighted_traces<T>, one_item_a_thread(arguments.n), stream, arguments);
}

Status prepare_standardise() {
  const auto all_of = [](auto... kernels) {
    Status status = 0;
    ((status = status ? status : prepare(kernels, 0)), ...);
    return status;
  };
  return all_of(standardise<float>, standardise<double>, restore, weighted_traces<float>, weighted_traces<double>);
}

template Status launch_standardise(const StandardiseArguments<float>&, Stream);
template Status launch_standardise(const StandardiseArguments<double>&, Stream);
template Status launch_weighted_traces(const WeightedTraceArguments<float>&, Stream);
template Status launch_weighted_traces(const WeightedTraceArguments<double>&, Stream);

}  // namespace fokker::kernels
