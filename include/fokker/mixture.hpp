#pragma once

#include <cstdint>
#include <vector>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// Σ_k w_k N(μ_k, C_k) in d dimensions. As a model its potential is the exact log p_t of the mixture carried along the
// forward SDE: x_t ~ Σ_k w_k N(m μ_k, m² C_k + σ² I).
class GaussianMixture {
 public:
  GaussianMixture() = default;
  // weights [K] > 0 (normalised here), means [K·d], covariances [K·d·d] symmetric positive semi-definite. Throws Error.
  GaussianMixture(std::int64_t dimension, std::vector<double> weights, std::vector<double> means,
                  std::vector<double> covariances);
  // Covariances variance_k I.
  static GaussianMixture isotropic(std::int64_t dimension, std::vector<double> weights, std::vector<double> means,
                                   const std::vector<double>& variances);

  // Covariances diag(variances_k), with variances [K·d].
  static GaussianMixture diagonal(std::int64_t dimension, std::vector<double> weights, std::vector<double> means,
                                  const std::vector<double>& variances);

  std::int64_t dimension() const { return dimension_; }
  std::int64_t components() const { return static_cast<std::int64_t>(weights_.size()); }
  const std::vector<double>& weights() const { return weights_; }
  const std::vector<double>& means() const { return means_; }
  const std::vector<double>& covariances() const { return covariances_; }
  // C_k = Q_k diag(λ_k) Q_kᵀ: eigenvalues [K·d], eigenvectors [K·d·d] with eigenvector j of component k in row j.
  const std::vector<double>& eigenvalues() const { return eigenvalues_; }
  const std::vector<double>& eigenvectors() const { return eigenvectors_; }
  // Running sums of the weights [K]; the last is 1.
  const std::vector<double>& cumulative_weights() const { return cumulative_weights_; }

 private:
  std::int64_t dimension_ = 0;
  std::vector<double> weights_, means_, covariances_, eigenvalues_, eigenvectors_, cumulative_weights_;
};

}  // namespace fokker
