#pragma once

// Exact fields of Gaussian mixtures by direct formulas in long double, sharing no code with the library: Cholesky
// factors instead of eigenvectors, SDE means and variances written out again, their time derivatives by differences,
// the Hessian uncentred.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "fokker/mixture.hpp"
#include "fokker/sde.hpp"
#include "sde_parameters.hpp"

namespace fokker::testing {

using Long = long double;

inline GaussianMixture blob() {
  std::vector<double> means;
  for (const auto& [x, y] :
       {std::array{2., 2.}, {2., -2.}, {-2., 2.}, {-2., -2.}, {0., 0.}, {4., 0.}, {-4., 0.}, {0., 4.}, {0., -4.}}) {
    means.push_back(0.65 * x), means.push_back(0.65 * y);
  }
  return GaussianMixture::isotropic(2, std::vector<double>(9, 1.0), means, std::vector<double>(9, 0.2 * 0.65 * 0.65));
}

// Full covariances A Aᵀ + 0.05 I with random A, unequal weights.
inline GaussianMixture random_mixture(std::int64_t d, std::int64_t components, unsigned seed, double floor = 0.05) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0.2, 1);
  std::vector<double> weights, means, covariances(components * d * d);
  for (std::int64_t k = 0; k < components; ++k) {
    weights.push_back(uniform(generator));
    for (std::int64_t i = 0; i < d; ++i) means.push_back(1.5 * normal(generator));
    std::vector<double> a(d * d);
    for (double& entry : a) entry = 0.4 * normal(generator) / std::sqrt(double(d));
    for (std::int64_t i = 0; i < d; ++i) {
      for (std::int64_t j = 0; j < d; ++j) {
        double sum = i == j ? floor : 0;
        for (std::int64_t l = 0; l < d; ++l) sum += a[i * d + l] * a[j * d + l];
        covariances[(k * d + i) * d + j] = sum;
      }
    }
  }
  return GaussianMixture(d, weights, means, covariances);
}

// m(t) and σ²(t) from their definitions.
struct Kernel {
  Long mean, variance;
};
inline Kernel kernel(const ForwardSde& sde, Long t) {
  const Long p = parameters_of(sde).p, q = parameters_of(sde).q, horizon = sde.horizon(), tau = t / horizon;
  const Long integral = p * t + (q - p) * t * t / (2 * horizon);
  switch (sde.kind()) {
    case SdeKind::ou: return {std::exp(-p * t), -q * q * std::expm1(-2 * p * t) / (2 * p)};
    case SdeKind::vp_linear: return {std::exp(-integral / 2), -std::expm1(-integral)};
    case SdeKind::subvp: return {std::exp(-integral / 2), std::pow(std::expm1(-integral), 2)};
    case SdeKind::ve: return {1, p * p * (std::pow(q / p, 2 * tau) - 1)};
    case SdeKind::edm: return {1, t * t};
    case SdeKind::flow: return {1 - t, t * t};
    case SdeKind::ddpm: {
      const Long sum = ddpm_integral(sde, t).integral;
      return {std::exp(-sum / 2), -std::expm1(-sum)};
    }
    case SdeKind::vp_cosine: break;
  }
  const Long c = std::numbers::pi_v<Long> / 2 / (1 + p), last = 0.9946L;
  const auto squared = [&](Long u) { return std::pow(std::cos(c * (u + p)) / std::cos(c * p), 2); };
  if (tau <= last) return {std::sqrt(squared(tau)), 1 - squared(tau)};
  const Long beta = 2 * c * std::tan(c * (last + p));
  const Long m2 = squared(last) * std::exp(-beta * (tau - last));
  return {std::sqrt(m2), 1 - m2};
}

// d/dt by the six-point rule: error h⁶ f⁗‴/140, below 1e-12 relative here; the cosine schedule is steep near T.
template <class Function>
Long slope(Function f, Long t, Long horizon) {
  const Long h = (t > horizon / 2 ? 5e-5L : 5e-4L) * t;
  return (45 * (f(t + h) - f(t - h)) - 9 * (f(t + 2 * h) - f(t - 2 * h)) + (f(t + 3 * h) - f(t - 3 * h))) / (60 * h);
}

struct Reference {
  Long value = 0, dt = 0, laplacian = 0;
  std::vector<Long> score, hessian;
};

inline Reference reference(const GaussianMixture& mixture, const ForwardSde& sde, Long t, const double* x) {
  const std::int64_t d = mixture.dimension(), components = mixture.components();
  const Kernel at = kernel(sde, t);
  const Long mean_rate = slope([&](Long s) { return kernel(sde, s).mean; }, t, sde.horizon());
  const Long variance_rate = slope([&](Long s) { return kernel(sde, s).variance; }, t, sde.horizon());
  std::vector<Long> log_density, rate, gradients, inverses;
  for (std::int64_t k = 0; k < components; ++k) {
    const double* c = mixture.covariances().data() + k * d * d;
    const double* mu = mixture.means().data() + k * d;
    std::vector<Long> factor(d * d, 0), inverse(d * d, 0), gradient(d, 0);
    Long log_determinant = 0;
    for (std::int64_t i = 0; i < d; ++i) {
      for (std::int64_t j = 0; j <= i; ++j) {
        Long sum = at.mean * at.mean * c[i * d + j] + (i == j ? at.variance : 0);
        for (std::int64_t l = 0; l < j; ++l) sum -= factor[i * d + l] * factor[j * d + l];
        factor[i * d + j] = i == j ? std::sqrt(sum) : sum / factor[j * d + j];
      }
      log_determinant += 2 * std::log(factor[i * d + i]);
    }
    for (std::int64_t column = 0; column < d; ++column) {
      std::vector<Long> v(d, 0);
      for (std::int64_t i = 0; i < d; ++i) {
        Long sum = i == column;
        for (std::int64_t l = 0; l < i; ++l) sum -= factor[i * d + l] * v[l];
        v[i] = sum / factor[i * d + i];
      }
      for (std::int64_t i = d - 1; i >= 0; --i) {
        for (std::int64_t l = i + 1; l < d; ++l) v[i] -= factor[l * d + i] * v[l];
        v[i] /= factor[i * d + i];
        inverse[i * d + column] = v[i];
      }
    }
    Long square = 0, trace_rate = 0, square_rate = 0, mean_part = 0;
    for (std::int64_t i = 0; i < d; ++i) {
      for (std::int64_t j = 0; j < d; ++j) gradient[i] -= inverse[i * d + j] * (x[j] - at.mean * mu[j]);
      square -= (x[i] - at.mean * mu[i]) * gradient[i];
      mean_part -= mean_rate * mu[i] * gradient[i];
    }
    for (std::int64_t i = 0; i < d; ++i) {
      for (std::int64_t j = 0; j < d; ++j) {
        const Long change = 2 * at.mean * mean_rate * c[i * d + j] + (i == j ? variance_rate : 0);
        trace_rate += inverse[i * d + j] * change;
        square_rate += gradient[i] * change * gradient[j];
      }
    }
    log_density.push_back(std::log(Long(mixture.weights()[k])) -
                          (d * std::log(2 * std::numbers::pi_v<Long>) + log_determinant + square) / 2);
    rate.push_back((square_rate - trace_rate) / 2 + mean_part);
    gradients.insert(gradients.end(), gradient.begin(), gradient.end());
    inverses.insert(inverses.end(), inverse.begin(), inverse.end());
  }
  const Long largest = *std::max_element(log_density.begin(), log_density.end());
  Long density = 0;
  for (const Long l : log_density) density += std::exp(l - largest);
  Reference r;
  r.value = largest + std::log(density);
  r.score.assign(d, 0), r.hessian.assign(d * d, 0);
  for (std::int64_t k = 0; k < components; ++k) {
    const Long posterior = std::exp(log_density[k] - largest) / density;
    const Long* g = gradients.data() + k * d;
    r.dt += posterior * rate[k];
    for (std::int64_t i = 0; i < d; ++i) {
      r.score[i] += posterior * g[i];
      for (std::int64_t j = 0; j < d; ++j) {
        r.hessian[i * d + j] += posterior * (g[i] * g[j] - inverses[(k * d + i) * d + j]);
      }
    }
  }
  for (std::int64_t i = 0; i < d; ++i) {
    for (std::int64_t j = 0; j < d; ++j) r.hessian[i * d + j] -= r.score[i] * r.score[j];
    r.laplacian += r.hessian[i * d + i];
  }
  return r;
}

inline std::vector<ForwardSde> all_sdes() {
  return {ForwardSde::ou(),
          ForwardSde::vp_linear(),
          ForwardSde::vp_cosine(),
          ForwardSde::subvp(),
          ForwardSde::ou({.rate = 0.7, .g = 1.3, .horizon = 4}),
          ForwardSde::ve(),
          ForwardSde::ddpm(std::vector{0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.7}, 1.0, 1e-3)};
}

inline std::string sde_and_dimension(const ::testing::TestParamInfo<std::tuple<int, int>>& test) {
  const std::array names{"ou", "vp_linear", "vp_cosine", "subvp", "ou_other", "ve", "ddpm"};
  return fmt::format("{}_d{}", names[std::get<0>(test.param)], std::get<1>(test.param));
}

}  // namespace fokker::testing
