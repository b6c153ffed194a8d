// Columns to their own units and back, and traces of matrices with weights: a loop over rows, in parts for the threads.
#include <algorithm>
#include <cstdint>

#include "core/parallel.hpp"
#include "cpu/backend.hpp"
#include "fokker/formulas/standardisation.hpp"

namespace fokker::cpu {
namespace {

// visit(row) for all rows, some 2^14 numbers a part.
template <class Visit>
void for_rows(std::int64_t rows, std::int64_t columns, int threads, const Visit& visit) {
  const std::int64_t part = std::max<std::int64_t>(1, (std::int64_t{1} << 14) / std::max<std::int64_t>(columns, 1));
  parallel_for(threads, (rows + part - 1) / part, [&](std::int64_t item, int) {
    for (std::int64_t i = item * part; i < std::min(rows, (item + 1) * part); ++i) visit(i);
  });
}

}  // namespace

template <class T>
void standardise(const Columns& columns, View<const T> from, View<T> to, int threads) {
  const std::int64_t d = columns.mean.rows;
  for_rows(from.rows, d, threads, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < d; ++j) {
      to.data[i * d + j] = standardised(from.data[i * d + j], columns.mean.data[j], columns.deviation.data[j]);
    }
  });
}

void restore(const Columns& columns, View<const float> from, View<float> to, int threads) {
  const std::int64_t d = columns.mean.rows;
  for_rows(from.rows, d, threads, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < d; ++j) {
      to.data[i * d + j] = restored(from.data[i * d + j], columns.mean.data[j], columns.deviation.data[j]);
    }
  });
}

template <class T>
void weighted_traces(View<const double> weights, View<const T> matrices, View<T> traces, int threads) {
  const std::int64_t d = weights.rows;
  for_rows(traces.rows, d * d, threads, [&](std::int64_t i) {
    double sum = 0;
    for (std::int64_t j = 0; j < d; ++j) {
      sum += weights.data[j] * static_cast<double>(matrices.data[(i * d + j) * d + j]);
    }
    traces.data[i] = static_cast<T>(sum);
  });
}

template void standardise(const Columns&, View<const float>, View<float>, int);
template void standardise(const Columns&, View<const double>, View<double>, int);
template void weighted_traces(View<const double>, View<const float>, View<float>, int);
template void weighted_traces(View<const double>, View<const double>, View<double>, int);

}  // namespace fokker::cpu
