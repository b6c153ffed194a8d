#include "fokker/mixture.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fokker/error.hpp"
#include "model/symmetric_eigen.hpp"

namespace fokker {
namespace {

// Rounding that a symmetric or semi-definite matrix may carry, relative to its largest entry: decimal files of ten
// digits.
constexpr double rounding = 1e-9;

void require_finite(const std::vector<double>& values, const char* what) {
  const auto bad = std::find_if(values.begin(), values.end(), [](double v) { return !std::isfinite(v); });
  if (bad == values.end()) return;
  throw Error(fmt::format("a Gaussian mixture's {} must be finite numbers, and number {} is {}", what,
                          bad - values.begin(), *bad));
}

std::size_t sized(std::int64_t dimension) {
  if (dimension >= 1 && dimension <= 4096) return static_cast<std::size_t>(dimension);
  throw Error(fmt::format("a Gaussian mixture needs a dimension of 1 to 4096, and {} was given", dimension));
}

}  // namespace

GaussianMixture::GaussianMixture(std::int64_t dimension, std::vector<double> weights, std::vector<double> means,
                                 std::vector<double> covariances)
    : dimension_(dimension),
      weights_(std::move(weights)),
      means_(std::move(means)),
      covariances_(std::move(covariances)) {
  const std::size_t k = weights_.size(), d = sized(dimension);
  if (k == 0) throw Error("a Gaussian mixture needs at least one component, and no weights were given");
  constexpr std::size_t most_components = std::size_t{1} << 30;  // devices count them in 32 bits
  if (k > most_components) {
    throw Error(fmt::format("a Gaussian mixture has {} components; allowed: 1 to {}", k, most_components));
  }
  if (means_.size() != k * d) {
    throw Error(
        fmt::format("a Gaussian mixture of {} components in {} dimensions needs {} numbers for its means, and {} "
                    "were given",
                    k, d, k * d, means_.size()));
  }
  if (covariances_.size() != k * d * d) {
    throw Error(
        fmt::format("a Gaussian mixture of {} components in {} dimensions needs {} numbers for its covariances, "
                    "and {} were given",
                    k, d, k * d * d, covariances_.size()));
  }
  require_finite(weights_, "weights");
  require_finite(means_, "means");
  require_finite(covariances_, "covariances");

  double sum = 0;
  for (std::size_t i = 0; i < k; ++i) {
    if (!(weights_[i] > 0)) {
      throw Error(fmt::format("a Gaussian mixture's weights must be positive, and weight {} is {}", i, weights_[i]));
    }
    sum += weights_[i];
  }
  if (!std::isfinite(sum)) throw Error("a Gaussian mixture's weights must have a finite sum, and theirs overflows");
  double running = 0;
  cumulative_weights_.resize(k);
  for (std::size_t i = 0; i < k; ++i) {
    weights_[i] /= sum;
    if (weights_[i] == 0) {
      throw Error(
          fmt::format("a Gaussian mixture's weights must be positive, and weight {} vanishes beside the others", i));
    }
    cumulative_weights_[i] = running += weights_[i];
  }
  cumulative_weights_.back() = 1;

  eigenvalues_.resize(k * d);
  eigenvectors_.resize(k * d * d);
  std::vector<double> matrix(d * d);
  for (std::size_t component = 0; component < k; ++component) {
    double* c = covariances_.data() + component * d * d;
    double largest = 0;
    for (std::size_t i = 0; i < d * d; ++i) largest = std::max(largest, std::abs(c[i]));
    for (std::size_t i = 0; i < d; ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        double &lower = c[i * d + j], &upper = c[j * d + i];
        if (!(std::abs(lower - upper) <= rounding * largest)) {
          throw Error(
              fmt::format("a Gaussian mixture's covariances must be symmetric, and covariance {} holds {} at ({}, "
                          "{}) and {} at ({}, {})",
                          component, lower, i, j, upper, j, i));
        }
        lower = upper = lower / 2 + upper / 2;
      }
    }
    // Scaled to 1, so that squares neither overflow nor vanish.
    const double scale = largest > 0 ? largest : 1;
    for (std::size_t i = 0; i < d * d; ++i) matrix[i] = c[i] / scale;
    double* values = eigenvalues_.data() + component * d;
    eigen_decomposition(dimension, matrix.data(), values, eigenvectors_.data() + component * d * d);
    for (std::size_t i = 0; i < d; ++i) {
      if (!(values[i] >= -rounding)) {
        throw Error(
            fmt::format("a Gaussian mixture's covariances must have no negative eigenvalue, and covariance {} has {}",
                        component, values[i] * scale));
      }
      values[i] = std::max(values[i], 0.0) * scale;
    }
  }
}

GaussianMixture GaussianMixture::isotropic(std::int64_t dimension, std::vector<double> weights,
                                           std::vector<double> means, const std::vector<double>& variances) {
  if (variances.size() != weights.size()) {
    throw Error(fmt::format("a Gaussian mixture of {} components needs as many variances, and {} were given",
                            weights.size(), variances.size()));
  }
  std::vector<double> diagonals;
  const std::size_t d = sized(dimension);
  for (const double variance : variances) diagonals.insert(diagonals.end(), d, variance);
  return diagonal(dimension, std::move(weights), std::move(means), diagonals);
}

GaussianMixture GaussianMixture::diagonal(std::int64_t dimension, std::vector<double> weights,
                                          std::vector<double> means, const std::vector<double>& variances) {
  const std::size_t d = sized(dimension), rows = weights.size() * d;
  if (variances.size() != rows) {
    throw Error(
        fmt::format("a Gaussian mixture of {} components in {} dimensions needs {} variances, and {} were given",
                    weights.size(), dimension, rows, variances.size()));
  }
  std::vector<double> covariances(rows * d, 0.0);
  for (std::size_t row = 0; row < rows; ++row) covariances[row * d + row % d] = variances[row];
  return GaussianMixture(dimension, std::move(weights), std::move(means), std::move(covariances));
}

}  // namespace fokker
