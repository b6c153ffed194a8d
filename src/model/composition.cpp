#include "fokker/composition.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <variant>

#include "fokker/error.hpp"

namespace fokker {
namespace {

using Vector = std::vector<double>;

// A symmetric matrix may carry this, relative to its largest entry: decimal files of ten digits.
constexpr double rounding = 1e-9;

void add_terms(std::vector<Term>& to, double weight, const Model& model) {
  const auto* inner = std::get_if<Composition>(&model.network);
  if (!inner) return to.push_back({weight, model.of_z()}), void();
  for (const Term& term : inner->terms) add_terms(to, weight * term.weight, term.model);
}

void check_sizes(const AffineObservation& o, std::size_t d) {
  const std::size_t k = o.observation.size();
  if (k < 1 || k > 4096) throw Error(fmt::format("an observation has {} numbers; allowed: 1 to 4096", k));
  const auto check = [&](const char* what, const Vector& numbers, bool allowed, const std::string& sizes) {
    if (!allowed) {
      throw Error(fmt::format("the {} of an observation of {} numbers in {} dimensions has {} numbers; allowed: {}",
                              what, k, d, numbers.size(), sizes));
    }
    const auto bad = std::find_if(numbers.begin(), numbers.end(), [](double v) { return !std::isfinite(v); });
    if (bad == numbers.end()) return;
    throw Error(fmt::format("number {} of the {} of an observation is {}; allowed: finite numbers",
                            bad - numbers.begin(), what, *bad));
  };
  check("values", o.observation, true, "");
  check("matrix", o.matrix, o.matrix.size() == k * d, fmt::format("{} as [{}, {}]", k * d, k, d));
  check("offset", o.offset, o.offset.empty() || o.offset.size() == k, fmt::format("{}, or none for 0", k));
  check("covariance", o.covariance, o.covariance.size() == k || o.covariance.size() == k * k,
        fmt::format("{} as [{}, {}], or {} as its diagonal", k * k, k, k, k));
}

// The lower R with S = R Rᵀ, for a symmetric S [k, k]; empty where S is not positive definite.
Vector cholesky(Vector s, std::size_t k) {
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = s[i * k + j];
      for (std::size_t l = 0; l < j; ++l) sum -= s[i * k + l] * s[j * k + l];
      if (i == j && !(sum > 0 && std::isfinite(sum))) return {};
      s[i * k + j] = i == j ? std::sqrt(sum) : sum / s[j * k + j];
    }
  }
  return s;  // the upper part is not read
}

// R⁻¹ B for B [k, n].
Vector solved(const Vector& r, Vector b, std::size_t k) {
  const std::size_t n = b.size() / k;
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t l = 0; l < i; ++l) {
      for (std::size_t c = 0; c < n; ++c) b[i * n + c] -= r[i * k + l] * b[l * n + c];
    }
    for (std::size_t c = 0; c < n; ++c) b[i * n + c] /= r[i * k + i];
  }
  return b;
}

// The same observation with unit noise: A [k, d] and z [k], y − b = H x_0 + ε being z = A x_0 + N(0, I). Of more numbers
// than there are dimensions it keeps d that say all, but for a factor of the likelihood.
struct Whitened {
  Vector a, z;
};

Whitened whitened(const AffineObservation& o, std::size_t d) {
  const std::size_t k = o.observation.size();
  Whitened w{o.matrix, o.observation};
  for (std::size_t i = 0; i < o.offset.size(); ++i) w.z[i] -= o.offset[i];
  if (o.covariance.size() == k) {
    for (std::size_t i = 0; i < k; ++i) {
      if (!(o.covariance[i] > 0)) {
        throw Error(
            fmt::format("the covariance of an observation has {} on its diagonal; allowed: above 0", o.covariance[i]));
      }
      const double deviation = std::sqrt(o.covariance[i]);
      w.z[i] /= deviation;
      for (std::size_t j = 0; j < d; ++j) w.a[i * d + j] /= deviation;
    }
  } else {
    double largest = 0;
    for (const double v : o.covariance) largest = std::max(largest, std::fabs(v));
    for (std::size_t i = 0; i < k; ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const double lower = o.covariance[i * k + j], upper = o.covariance[j * k + i];
        if (std::fabs(lower - upper) <= rounding * largest) continue;
        throw Error(
            fmt::format("the covariance of an observation is {} at ({}, {}) and {} at ({}, {}); allowed: a "
                        "symmetric matrix",
                        lower, i, j, upper, j, i));
      }
    }
    const Vector root = cholesky(o.covariance, k);
    if (root.empty()) {
      throw Error("the covariance of an observation is not positive definite; allowed: one that is");
    }
    w = {solved(root, std::move(w.a), k), solved(root, std::move(w.z), k)};
  }
  // Householder reflections leave zeros below the diagonal of A.
  for (std::size_t c = 0; c < d && k > d; ++c) {
    double square = 0;
    for (std::size_t i = c; i < k; ++i) square += w.a[i * d + c] * w.a[i * d + c];
    if (square == 0) continue;
    Vector v(k, 0.0);
    for (std::size_t i = c; i < k; ++i) v[i] = w.a[i * d + c];
    v[c] += std::copysign(std::sqrt(square), v[c]);
    double norm = 0;
    for (const double x : v) norm += x * x;
    const auto reflect = [&](double* column, std::size_t stride) {
      double along = 0;
      for (std::size_t i = c; i < k; ++i) along += v[i] * column[i * stride];
      for (std::size_t i = c; i < k; ++i) column[i * stride] -= 2 * along / norm * v[i];
    };
    for (std::size_t j = c; j < d; ++j) reflect(&w.a[j], d);
    reflect(w.z.data(), 1);
  }
  w.a.resize(std::min(k, d) * d), w.z.resize(std::min(k, d));
  return w;
}

}  // namespace

Model compose(const std::vector<Term>& terms) {
  Model whole{.network = Composition{}};
  std::vector<Term>& flat = std::get<Composition>(whole.network).terms;
  for (std::size_t k = 0; k < terms.size(); ++k) {
    const Model& model = terms[k].model;
    if (k == 0) whole.sde = model.sde, whole.standardisation = model.standardisation;
    if (!(model.standardisation == whole.standardisation)) {
      throw Error(fmt::format(
          "term {} of a composition has another standardisation than the first; allowed: the same of all", k));
    }
    add_terms(flat, terms[k].weight, model);
  }
  whole.validate();
  std::erase_if(flat, [](const Term& term) { return term.weight == 0; });
  if (flat.empty()) {
    throw Error("the terms of a composition all have weight 0; allowed: another weight of one at least");
  }
  return whole;
}

Model guided(const Model& with, const Model& without, double scale) {
  return compose({{scale, with}, {1 - scale, without}});
}

// With unit noise, S = I + A C_k Aᵀ = R Rᵀ, B = R⁻¹ A C_k and r = R⁻¹ (z − A μ_k):
//   C = C_k − Bᵀ B,  μ = μ_k + Bᵀ r,  −2 log N(z; A μ_k, S) = k log 2π + 2 Σ_i log R_ii + |r|².
GaussianMixture conditioned(const GaussianMixture& prior, const AffineObservation& observed) {
  if (prior.components() == 0) throw Error("the prior of an observation has no components; allowed: 1 or more");
  const std::size_t d = static_cast<std::size_t>(prior.dimension());
  check_sizes(observed, d);
  const auto [a, z] = whitened(observed, d);
  const std::size_t k = z.size();
  Vector log_weights, means = prior.means(), covariances = prior.covariances();
  for (std::size_t component = 0; component < prior.weights().size(); ++component) {
    double *mean = &means[component * d], *covariance = &covariances[component * d * d];
    Vector ac(k * d, 0.0), s(k * k, 0.0), r = z;
    for (std::size_t i = 0; i < k; ++i) {
      for (std::size_t l = 0; l < d; ++l) {
        for (std::size_t j = 0; j < d; ++j) ac[i * d + j] += a[i * d + l] * covariance[l * d + j];
        r[i] -= a[i * d + l] * mean[l];
      }
      for (std::size_t j = 0; j < k; ++j) {
        for (std::size_t l = 0; l < d; ++l) s[i * k + j] += ac[i * d + l] * a[j * d + l];
      }
      s[i * k + i] += 1;
    }
    const Vector root = cholesky(std::move(s), k);
    if (root.empty()) {
      throw Error(fmt::format(
          "an observation is so precise beside component {} of its prior that their ratio overflows; allowed: "
          "a larger covariance",
          component));
    }
    const Vector b = solved(root, std::move(ac), k);
    r = solved(root, std::move(r), k);
    double log_weight = std::log(prior.weights()[component]);
    for (std::size_t i = 0; i < k; ++i) {
      log_weight -= std::log(root[i * k + i]) + r[i] * r[i] / 2;
      for (std::size_t j = 0; j < d; ++j) {
        mean[j] += b[i * d + j] * r[i];
        for (std::size_t l = 0; l < d; ++l) covariance[j * d + l] -= b[i * d + j] * b[i * d + l];
      }
    }
    log_weights.push_back(log_weight);
  }
  const double largest = *std::max_element(log_weights.begin(), log_weights.end());
  if (!std::isfinite(largest)) {
    throw Error("the likelihood of an observation under its prior is 0; allowed: what the prior can have made");
  }
  Vector weights, kept_means, kept_covariances;
  for (std::size_t c = 0; c < log_weights.size(); ++c) {
    if (!(log_weights[c] >= largest - 700)) continue;
    weights.push_back(std::exp(log_weights[c] - largest));
    kept_means.insert(kept_means.end(), &means[c * d], &means[c * d] + d);
    kept_covariances.insert(kept_covariances.end(), &covariances[c * d * d], &covariances[c * d * d] + d * d);
  }
  return {prior.dimension(), std::move(weights), std::move(kept_means), std::move(kept_covariances)};
}

Model gaussian_likelihood(const ForwardSde& sde, const GaussianMixture& prior, const AffineObservation& observed,
                          const Standardisation& standardisation) {
  standardisation.validate(prior.dimension());
  const auto of_z = [&](const GaussianMixture& law) -> Model {
    if (standardisation.empty()) return {sde, law, {}};
    const std::size_t d = standardisation.mean.size();
    const Vector &mean = standardisation.mean, &deviation = standardisation.deviation;
    Vector means = law.means(), covariances = law.covariances();
    for (std::size_t i = 0; i < means.size(); ++i) means[i] = (means[i] - mean[i % d]) / deviation[i % d];
    for (std::size_t i = 0; i < covariances.size(); ++i) {
      covariances[i] = covariances[i] / deviation[i / d % d] / deviation[i % d];
    }
    return {sde, GaussianMixture(law.dimension(), law.weights(), std::move(means), std::move(covariances)),
            standardisation};
  };
  return compose({{1, of_z(conditioned(prior, observed))}, {-1, of_z(prior)}});
}

}  // namespace fokker
