#pragma once

// The one or two numbers of an SDE besides T and t_min, as the references' formulas call them, and what they take of the
// betas of ddpm.
#include <algorithm>
#include <cmath>
#include <vector>

#include "fokker/sde.hpp"

namespace fokker::testing {

struct SdeParameters {
  double p;  // ou: rate; vp_linear, subvp: beta_min; vp_cosine: s; ve: sigma_min
  double q;  // ou: g; vp_linear, subvp: beta_max; vp_cosine: 0; ve: sigma_max; the others have none
};

inline SdeParameters parameters_of(const ForwardSde& sde) {
  const SdeFormulas& f = sde.formulas();
  switch (f.kind) {
    case SdeKind::ou: return {f.ou.rate, f.ou.g};
    case SdeKind::vp_linear: return {f.vp_linear.beta_min, f.vp_linear.beta_max};
    case SdeKind::vp_cosine: return {f.vp_cosine.s, 0};
    case SdeKind::subvp: return {f.subvp.beta_min, f.subvp.beta_max};
    case SdeKind::edm:
    case SdeKind::flow:
    case SdeKind::ddpm: return {0, 0};
    case SdeKind::ve: break;
  }
  return {f.ve.sigma_min, f.ve.sigma_max};
}

// −ln ᾱ of ddpm and its rate, by the logarithms of its 1 − β one after another: step j lasts from (j − 1) T/N to j T/N.
struct DdpmIntegral {
  long double integral, rate;
};
inline DdpmIntegral ddpm_integral(const ForwardSde& sde, long double t) {
  const std::vector<double> betas = sde.betas();
  const long double width = static_cast<long double>(sde.horizon()) / static_cast<long double>(betas.size());
  long double sum = 0;
  for (std::size_t j = 0;; ++j) {
    const long double rate = -std::log1p(-static_cast<long double>(betas[j])) / width;
    const long double begin = static_cast<long double>(j) * width;
    if (t <= begin + width || j + 1 == betas.size()) return {sum + rate * (t - begin), rate};
    sum += rate * width;
  }
}

}  // namespace fokker::testing
