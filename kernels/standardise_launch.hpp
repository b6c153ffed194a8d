#pragma once

// Columns to their own units and back, and traces of matrices with weights (standardise.cu); conventions as in
// launch.hpp. T = float or double.
#include <cstdint>

#include "launch.hpp"

namespace fokker::kernels {

template <class T>
struct StandardiseArguments {
  std::int64_t n;
  int columns;
  const double* mean;       // [columns]
  const double* deviation;  // [columns]
  const T* from;            // [n, columns]
  T* to;                    // [n, columns], may be `from`
};
template <class T>
Status launch_standardise(const StandardiseArguments<T>& arguments, Stream stream);  // (x − mean)/deviation
Status launch_restore(const StandardiseArguments<float>& arguments, Stream stream);  // mean + deviation z

template <class T>
struct WeightedTraceArguments {
  std::int64_t n;
  int dimension;
  const double* weights;  // [d]
  const T* matrices;      // [n, d, d]
  T* traces;              // [n] Σ_i weight_i M_ii
};
template <class T>
Status launch_weighted_traces(const WeightedTraceArguments<T>& arguments, Stream stream);

// Loads these kernels; called once, at set-up.
Status prepare_standardise();

}  // namespace fokker::kernels
