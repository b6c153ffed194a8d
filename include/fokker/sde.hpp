#pragma once

#include <cmath>
#include <string>

#include "fokker/formulas/host_device.hpp"

namespace fokker {

// Forward SDEs with isotropic linear drift, dx = a(t) x dt + g(t) dW on [0, T], whose transition kernel is
// x_t | x_0 ~ N(m(t) x_0, σ²(t) I) with m′ = a m and (σ²)′ = 2 a σ² + g².
enum class SdeKind { ou, vp_linear, vp_cosine, subvp, ve };

// All there is to know of the SDE at a time.
template <class T>
struct SdeCoefficients {
  T drift;               // a(t), per unit time: f(x, t) = a x
  T diffusion_squared;   // g²(t)
  T mean;                // m(t)
  T variance;            // σ²(t)
};

// A value type that kernels take by copy. Times are in the unit of the horizon T; with τ = t/T:
//   ou         a = −rate, g constant: the paper's with rate 1, g 1, T 10 (Uhlenbeck and Ornstein 1930)
//   vp_linear  a = −β/2, g² = β, β(t) = β_min + τ (β_max − β_min) (Song et al. 2021, eq. 32)
//   subvp      a = −β/2, g² = β (1 − e^{−2B}), B = ∫β, the same β (Song et al. 2021, eq. 31)
//   vp_cosine  m² = cos²(π/2 (τ + s)/(1 + s)) / cos²(π/2 s/(1 + s)) up to τ = 0.9946; beyond it β stays constant, which
//              keeps the drift bounded at T (Nichol and Dhariwal 2021, eq. 17, who clip β as well)
//   ve         a = 0, σ²(t) = σ_min² ((σ_max/σ_min)^{2τ} − 1) (Song et al. 2021, eq. 30)
struct ForwardSde {
  SdeKind kind = SdeKind::ou;
  double first = 1;     // ou: rate; vp_linear, subvp: beta_min; vp_cosine: s; ve: sigma_min
  double second = 1;    // ou: g; vp_linear, subvp: beta_max; vp_cosine: unused; ve: sigma_max
  double horizon = 10;  // T
  double t_min = 1e-4;  // smallest training time; float holds it and the variance at it

  // The named SDE with its default parameters (ou 1, 1, T 10, t_min 1e-4; vp-linear and subvp 0.1, 20, T 1, t_min 1e-3;
  // vp-cosine 0.008, T 1, t_min 1e-3; ve 0.01, 50, T 1, t_min 1e-3).
  static ForwardSde defaults(SdeKind kind);
  // `name`: ou, vp-linear, vp-cosine, subvp, ve. `parameters_json`: an object with the parameters that differ from the
  // defaults (rate, g | beta_min, beta_max | s | sigma_min, sigma_max; T, t_min), or empty. Throws Error on an unknown
  // name or key and on a value outside its range.
  static ForwardSde parse(const std::string& name, const std::string& parameters_json = {});
  std::string name() const;
  std::string parameters_json() const;
  // One line a kind: names, parameters, defaults; for --help.
  static std::string describe_all();
  // Throws Error where a parameter is outside its range.
  void validate() const;

  // The prior at T is N(0, prior_variance() I): the stationary law for ou and the VP family, σ²(T) for ve.
  double prior_variance() const;

  template <class T>
  FOKKER_HOST_DEVICE SdeCoefficients<T> at(T t) const;
};

}  // namespace fokker

#include "fokker/formulas/sde.hpp"
