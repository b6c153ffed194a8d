#include "diagnostics/grid_transition.hpp"

#include <algorithm>
#include <cmath>

namespace fokker {
namespace {

constexpr double kReach = 7;        // standard deviations: 3e-12 of the Gaussian is beyond
constexpr std::int64_t kBlock = 8;  // rows of a matrix at a time, whose columns are then written together

}  // namespace

Transition transition(const Axis& start, const Axis& end, double mean, double deviation, Interpolation interpolation) {
  const std::int64_t n = end.n;
  const double step = std::min(0.5, end.spacing() / std::max(deviation, 1e-300));
  const std::int64_t reach = deviation > 0 ? static_cast<std::int64_t>(std::ceil(kReach / step)) : 0;
  std::vector<double> gaussian;  // at z = k step, k from −reach to reach
  double sum = 0;
  for (std::int64_t k = -reach; k <= reach; ++k) {
    gaussian.push_back(std::exp(-0.5 * (double(k) * step) * (double(k) * step)));
    sum += gaussian.back();
  }
  for (double& w : gaussian) w /= sum;
  const auto place = [&](std::int64_t i, std::int64_t k) {
    const double y = mean * start.node(i) + deviation * double(k) * step;
    return std::clamp((y + end.half_width) / end.spacing(), 0.0, double(n - 1));
  };
  const auto cell = [&](double place_of_y) {  // the node before it, of those with a neighbour before and two behind
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(place_of_y), 1, n - 3);
  };
  Transition kernel{n, 0, std::vector<std::int64_t>(n), {}};
  for (std::int64_t i = 0; i < n; ++i) {
    kernel.begin[i] = cell(place(i, -reach)) - 1;
    kernel.width = std::max(kernel.width, cell(place(i, reach)) + 3 - kernel.begin[i]);
  }
  for (std::int64_t& begin : kernel.begin) begin = std::min(begin, n - kernel.width);
  kernel.weight.assign(n * kernel.width, 0);
  for (std::int64_t i = 0; i < n; ++i) {
    double* row = kernel.weight.data() + i * kernel.width;
    for (std::int64_t k = -reach; k <= reach; ++k) {
      const double w = gaussian[k + reach], y = place(i, k);
      const std::int64_t j = cell(y), column = j - kernel.begin[i];
      const double s = y - double(j);
      if (interpolation == Interpolation::linear) {
        const std::int64_t shift = s < 0 ? -1 : s < 1 ? 0 : 1;  // in the first cell, an inner one, or the last
        row[column + shift] += w * (1 - (s - double(shift)));
        row[column + shift + 1] += w * (s - double(shift));
      } else {  // Lagrange's polynomials on −1, 0, 1, 2
        row[column - 1] -= w * s * (s - 1) * (s - 2) / 6;
        row[column] += w * (s + 1) * (s - 1) * (s - 2) / 2;
        row[column + 1] -= w * (s + 1) * s * (s - 2) / 2;
        row[column + 2] += w * (s + 1) * s * (s - 1) / 6;
      }
    }
  }
  return kernel;
}

std::vector<double> apply_transposed(const Transition& matrix, const std::vector<double>& v) {
  const std::int64_t n = matrix.n, columns = std::ssize(v) / n;
  std::vector<double> out(v.size()), sums(kBlock * columns);
  for (std::int64_t first = 0; first < n; first += kBlock) {
    const std::int64_t rows = std::min(kBlock, n - first);
    std::fill(sums.begin(), sums.end(), 0);
    for (std::int64_t i = 0; i < rows; ++i) {
      const double* weight = matrix.weight.data() + (first + i) * matrix.width;
      double* sum = sums.data() + i * columns;
      for (std::int64_t j = 0; j < matrix.width; ++j) {
        const double w = weight[j], *from = v.data() + (matrix.begin[first + i] + j) * columns;
        for (std::int64_t k = 0; k < columns; ++k) sum[k] += w * from[k];
      }
    }
    for (std::int64_t k = 0; k < columns; ++k) {
      for (std::int64_t i = 0; i < rows; ++i) out[k * n + first + i] = sums[i * columns + k];
    }
  }
  return out;
}

}  // namespace fokker
