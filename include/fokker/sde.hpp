#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fokker/formulas/sde.hpp"

namespace fokker {

// The names that ForwardSde::parse() takes: ou, vp-linear, vp-cosine, subvp, ve, edm, flow.
std::vector<std::string_view> sde_names();

// A forward SDE whose parameters are within their ranges: dx = a(t) x dt + g(t) dW on [0, T], with the transition
// kernel x_t | x_0 ~ N(m(t) x_0, σ²(t) I). A value type; formulas/sde.hpp has the formulas, the parameters of each kind
// and their defaults.
class ForwardSde {
 public:
  // The paper's: ou with rate 1, g 1, T 10, t_min 1e-4.
  ForwardSde() = default;
  // Throws Error where a parameter is outside its range.
  explicit ForwardSde(const SdeFormulas& formulas);

  // By named parameters; those left out have the default beside them. Throw Error as the constructor does.
  static ForwardSde ou(const OuSde& parameters = {});               // rate 1, g 1, T 10, t_min 1e-4
  static ForwardSde vp_linear(const VpLinearSde& parameters = {});  // beta_min 0.1, beta_max 20, T 1, t_min 1e-3
  static ForwardSde vp_cosine(const VpCosineSde& parameters = {});  // s 0.008, T 1, t_min 1e-3
  static ForwardSde subvp(const SubVpSde& parameters = {});         // beta_min 0.1, beta_max 20, T 1, t_min 1e-3
  static ForwardSde ve(const VeSde& parameters = {});               // sigma_min 0.01, sigma_max 50, T 1, t_min 1e-3
  static ForwardSde edm(const EdmSde& parameters = {});             // T 80, t_min 2e-3
  static ForwardSde flow(const FlowSde& parameters = {});           // T 0.999, 1 at most; t_min 1e-3
  // The SDE of a kind with its default parameters.
  static ForwardSde defaults(SdeKind kind);
  // `name`: ou, vp-linear, vp-cosine, subvp, ve, edm, flow. `parameters_json`: an object with the parameters that differ from the
  // defaults (rate, g | beta_min, beta_max | s | sigma_min, sigma_max; T, t_min), or empty. Throws Error on an unknown
  // name or key and on a value outside its range.
  static ForwardSde parse(const std::string& name, const std::string& parameters_json = {});

  SdeKind kind() const { return formulas_.kind; }
  std::string name() const;
  // All parameters, as parse() reads them.
  std::string parameters_json() const;
  // A line for each kind with its name, parameters and defaults; for --help.
  static std::string describe_all();

  // T, the end of the time interval.
  double horizon() const { return formulas_.horizon(); }
  // The smallest training time; float holds it and the variance at it.
  double t_min() const { return formulas_.t_min(); }
  // The prior at T is N(0, prior_variance() I): the stationary law for ou and the VP family, σ²(T) for the others.
  double prior_variance() const { return formulas_.prior_variance(); }
  // a, g², m and σ² at a time in [0, T].
  template <class T>
  SdeCoefficients<T> at(T t) const {
    return formulas_.at(t);
  }
  // The parameters and closed forms as a plain struct, which kernels take by copy.
  const SdeFormulas& formulas() const { return formulas_; }

 private:
  SdeFormulas formulas_;
};

}  // namespace fokker
