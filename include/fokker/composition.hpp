#pragma once

#include <vector>

#include "fokker/mixture.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/sde.hpp"
#include "fokker/standardisation.hpp"

namespace FOKKER_PUBLIC fokker {

// The model with the score Σ_k w_k s_k(t, x), and the potential Σ_k w_k φ_k(t, x) where every term has one: a product of
// experts Π_k p_k^{w_k} (Hinton 2002). Every field of it is that of the sum; so is the Fokker–Planck residual. Such a sum
// is in general not log p_t of any law carried along the forward SDE, though every term is of one: samples depend on the
// sampler, a residual says how far off it is, and log-densities are those of the probability flow (Du et al. 2023).
//
// Terms have one SDE, one dimension and one standardisation, which becomes that of the whole; the noise of columns in
// other units is another process. A term that is a composition is taken apart, its weights times its own weight, and
// terms of weight 0 are left out. Throws Error where terms do not fit together or one is not valid.
Model compose(const std::vector<Term>& terms);

// s = s_without + scale (s_with − s_without): of a network with its condition and without it, classifier-free guidance
// (Ho and Salimans 2022, eq. 6, whose w is scale − 1); of a network and a worse one, autoguidance (Karras et al. 2024).
// scale 1 is `with`, 0 is `without`. For any other scale the samples follow no law that the forward SDE has a score of:
// guidance trades the spread of the samples for what is typical of `with`. Throws Error as compose() does.
Model guided(const Model& with, const Model& without, double scale);

// Numbers y = H x_0 + b + ε that were observed of x_0, ε ~ N(0, Γ) independent of it.
struct AffineObservation {
  std::vector<double> matrix = {};       // H [k, d] row-major
  std::vector<double> offset = {};       // b [k], or empty: 0
  std::vector<double> covariance = {};   // Γ [k, k], positive definite, or its diagonal [k]
  std::vector<double> observation = {};  // y [k], 1 ≤ k ≤ 4096
};

// The law of x_0 given y where x_0 has the law `prior`, a mixture too: component k has
//   C = (C_k⁻¹ + Hᵀ Γ⁻¹ H)⁻¹,  μ = μ_k + C Hᵀ Γ⁻¹ (y − b − H μ_k),  w ∝ w_k N(y; H μ_k + b, Γ + H C_k Hᵀ),
// computed so that C_k may be singular; C to about 1e-16 of the largest variance of C_k. Components of a weight below
// e^−700 of the largest are left out. Throws Error where a size does not fit, a number is not finite or Γ is not positive
// definite.
GaussianMixture conditioned(const GaussianMixture& prior, const AffineObservation& observed);

// The likelihood as a model: its potential is log p(y | x_t) less the constant log p(y), where x_0 has the law `prior`.
// The prior is a mixture, and by Bayes' rule p(y | x_t) = p(y) p_t(x_t | y)/p_t(x_t) with two mixtures carried along the
// SDE, so that this is the composition of conditioned(prior) with weight 1 and the prior with weight −1.
//
// Composed with a model of the law of x_0, it makes samples of x_0 given y: exactly, up to the sampler, where that law
// is `prior`, and else as far as x_0 given x_t is what it is under `prior`. For data of about unit scale N(0, I) is
// usual (Song et al. 2023, ΠGDM); a mixture that is closer to the data is better. In the limit of a flat prior
// p(y | x_t) is N(y; H x_t/m + b, Γ + (σ/m)² H Hᵀ), which a deviation of a thousand times that of the data comes to:
// near the data it is the same, and at large noise it is off for any law that has a scale.
//
// Everything is in x; with a standardisation, that of the models it is for, the model is of z. Throws Error as
// conditioned() does.
Model gaussian_likelihood(const ForwardSde& sde, const GaussianMixture& prior, const AffineObservation& observed,
                          const Standardisation& standardisation = {});

}  // namespace fokker
