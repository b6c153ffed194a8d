#pragma once

// The one or two numbers of an SDE besides T and t_min, as the references' formulas call them.
#include "fokker/sde.hpp"

namespace fokker::testing {

struct SdeParameters {
  double p;  // ou: rate; vp_linear, subvp: beta_min; vp_cosine: s; ve: sigma_min
  double q;  // ou: g; vp_linear, subvp: beta_max; vp_cosine: 0; ve: sigma_max; edm and flow have none
};

inline SdeParameters parameters_of(const ForwardSde& sde) {
  const SdeFormulas& f = sde.formulas();
  switch (f.kind) {
    case SdeKind::ou: return {f.ou.rate, f.ou.g};
    case SdeKind::vp_linear: return {f.vp_linear.beta_min, f.vp_linear.beta_max};
    case SdeKind::vp_cosine: return {f.vp_cosine.s, 0};
    case SdeKind::subvp: return {f.subvp.beta_min, f.subvp.beta_max};
    case SdeKind::edm:
    case SdeKind::flow: return {0, 0};
    case SdeKind::ve: break;
  }
  return {f.ve.sigma_min, f.ve.sigma_max};
}

}  // namespace fokker::testing
