// Samples to histograms, and sliced W2: a projection at a time on each thread, projected and sorted in double. The
// distances are added in the order of the projections, so the sum does not depend on the number of threads.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/backend.hpp"
#include "cpu/parallel.hpp"
#include "cpu/random.hpp"
#include "fokker/error.hpp"

namespace fokker::cpu {

std::vector<std::int64_t> histogram(View<const float> samples, const Grid& grid) {
  std::vector<std::int64_t> counts(grid.n * grid.n, 0);
  const double width = grid.half_width, per_node = 1 / grid.spacing();
  const auto inside = [width](double v) { return v > -width && v < width; };  // false for NaN
  const auto nearest = [&](double v) {
    return std::min(static_cast<std::int64_t>(std::floor((v + width) * per_node + 0.5)), grid.n - 1);
  };
  for (std::int64_t i = 0; i < samples.rows; ++i) {
    const double x = samples.data[2 * i], y = samples.data[2 * i + 1];
    if (inside(x) && inside(y)) ++counts[grid.n * nearest(y) + nearest(x)];
  }
  return counts;
}

namespace {

// The rows that are finite, in double.
std::vector<double> finite_rows(View<const float> samples, const char* name) {
  std::vector<double> rows;
  rows.reserve(samples.size());
  for (std::int64_t i = 0; i < samples.rows; ++i) {
    const float* row = samples.data + i * samples.columns;
    if (std::all_of(row, row + samples.columns, [](float v) { return std::isfinite(v); })) {
      rows.insert(rows.end(), row, row + samples.columns);
    }
  }
  if (rows.empty()) throw Error(fmt::format("sliced W2 needs a finite sample on both sides, and {} has none", name));
  return rows;
}

std::vector<double> project(const std::vector<double>& rows, const std::vector<double>& direction) {
  const std::size_t d = direction.size();
  std::vector<double> sorted(rows.size() / d);
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    sorted[i] = std::inner_product(direction.begin(), direction.end(), rows.begin() + i * d, 0.0);
  }
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

// ∫_0^1 (F_p⁻¹ − F_q⁻¹)² for sorted samples: quantile functions are steps at multiples of 1/N and 1/M, so the integral
// is a sum over the steps of both, in units of 1/(N M).
double quantile_distance(const std::vector<double>& p, const std::vector<double>& q) {
  const auto n = static_cast<std::int64_t>(p.size()), m = static_cast<std::int64_t>(q.size());
  long double total = 0;
  for (std::int64_t i = 0, j = 0, at = 0; i < n && j < m;) {
    const std::int64_t p_end = (i + 1) * m, q_end = (j + 1) * n, end = std::min(p_end, q_end);
    const double difference = p[i] - q[j];
    total += static_cast<long double>(end - at) * difference * difference;
    at = end;
    i += p_end == end;
    j += q_end == end;
  }
  return static_cast<double>(total / (static_cast<long double>(n) * static_cast<long double>(m)));
}

}  // namespace

double sliced_w2_squared(View<const float> a, View<const float> b, int projections, std::uint64_t seed, int threads) {
  const auto first = finite_rows(a, "the first"), second = finite_rows(b, "the second");
  std::vector<double> distances(projections);
  parallel_for(threads, projections, [&](std::int64_t projection, int) {
    // A normal vector, scaled to length 1, is a uniform direction.
    std::vector<float> normals(a.columns);
    draw_normals(normals.data(), 1, static_cast<int>(a.columns), seed, static_cast<std::uint64_t>(projection),
                 RandomUse::projection, 0);
    std::vector<double> direction(normals.begin(), normals.end());
    const double length = std::sqrt(std::inner_product(direction.begin(), direction.end(), direction.begin(), 0.0));
    for (double& v : direction) v /= length;
    distances[projection] = quantile_distance(project(first, direction), project(second, direction));
  });
  return std::accumulate(distances.begin(), distances.end(), 0.0) / projections;
}

}  // namespace fokker::cpu
