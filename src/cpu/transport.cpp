// Samples to histograms, counts and moments, and sliced W2. A thread takes a row of the covariance, or a projection,
// which it projects and sorts in double; every sum goes along the samples, and distances are added in the order of the
// projections, so no result depends on the number of threads.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "core/parallel.hpp"
#include "cpu/backend.hpp"
#include "cpu/random.hpp"
#include "fokker/error.hpp"

namespace fokker::cpu {

std::vector<std::int64_t> histogram(View<const float> samples, const Grid& grid) {
  std::vector<std::int64_t> counts(grid.n * grid.n, 0);
  const double per_node[] = {1 / grid.spacing(0), 1 / grid.spacing(1)};
  const auto inside = [&](double v, int axis) {  // false for NaN
    return v > grid.limits(axis).low && v < grid.limits(axis).high;
  };
  const auto nearest = [&](double v, int axis) {
    const double node = std::floor((v - grid.limits(axis).low) * per_node[axis] + 0.5);
    return std::min(static_cast<std::int64_t>(node), grid.n - 1);
  };
  for (std::int64_t i = 0; i < samples.rows; ++i) {
    const double x = samples.data[2 * i], y = samples.data[2 * i + 1];
    if (inside(x, 0) && inside(y, 1)) ++counts[grid.n * nearest(y, 1) + nearest(x, 0)];
  }
  return counts;
}

std::int64_t count_escaped(View<const float> samples, double half_width) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < samples.rows; ++i) {
    const float* row = samples.data + i * samples.columns;
    count += !std::all_of(row, row + samples.columns, [=](double v) { return std::fabs(v) < half_width; });
  }
  return count;
}

namespace {

// The rows that are finite, in double.
std::vector<double> finite_rows(View<const float> samples) {
  std::vector<double> rows;
  rows.reserve(samples.size());
  for (std::int64_t i = 0; i < samples.rows; ++i) {
    const float* row = samples.data + i * samples.columns;
    if (std::all_of(row, row + samples.columns, [](float v) { return std::isfinite(v); })) {
      rows.insert(rows.end(), row, row + samples.columns);
    }
  }
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

Moments moments(View<const float> samples, int threads) {
  const std::int64_t d = samples.columns;
  const std::vector<double> rows = finite_rows(samples);
  const auto count = static_cast<std::int64_t>(rows.size()) / d;
  Moments result{.count = count,
                 .left_out = samples.rows - count,
                 .mean = std::vector<double>(d, 0.0),
                 .covariance = std::vector<double>(d * d, 0.0)};
  if (count == 0) return result;
  std::vector<double>& mean = result.mean;
  for (std::int64_t i = 0; i < count * d; ++i) mean[i % d] += rows[i];
  for (double& v : mean) v /= static_cast<double>(count);
  parallel_for(threads, d, [&](std::int64_t j, int) {
    double* products = result.covariance.data() + j * d;
    for (std::int64_t i = 0; i < count; ++i) {
      const double* x = rows.data() + i * d;
      for (std::int64_t l = j; l < d; ++l) products[l] += (x[j] - mean[j]) * (x[l] - mean[l]);
    }
    for (std::int64_t l = j; l < d; ++l) products[l] /= static_cast<double>(count);
  });
  for (std::int64_t j = 0; j < d; ++j) {
    for (std::int64_t l = 0; l < j; ++l) result.covariance[j * d + l] = result.covariance[l * d + j];
  }
  return result;
}

double sliced_w2_squared(View<const float> a, View<const float> b, int projections, std::uint64_t seed, int threads) {
  const auto first = finite_rows(a), second = finite_rows(b);
  for (const auto& [rows, name] : {std::pair(&first, "the first"), std::pair(&second, "the second")}) {
    if (rows->empty()) {
      throw Error(fmt::format("sliced W2 needs a finite sample on both sides, and {} has none", name));
    }
  }
  std::vector<double> distances(projections);
  parallel_for(threads, projections, [&](std::int64_t projection, int) {
    // A normal vector, scaled to length 1, is a uniform direction.
    std::vector<float> normals(a.columns);
    draw_point_normals(normals.data(), 1, static_cast<int>(a.columns), seed, static_cast<std::uint64_t>(projection),
                       RandomUse::projection, 0);
    std::vector<double> direction(normals.begin(), normals.end());
    const double length = std::sqrt(std::inner_product(direction.begin(), direction.end(), direction.begin(), 0.0));
    for (double& v : direction) v /= length;
    distances[projection] = quantile_distance(project(first, direction), project(second, direction));
  });
  return std::accumulate(distances.begin(), distances.end(), 0.0) / projections;
}

}  // namespace fokker::cpu
