#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fokker/formulas/sde.hpp"
#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// The names that ForwardSde::parse() takes: ou, vp-linear, vp-cosine, subvp, ve, edm, flow, ddpm.
std::vector<std::string_view> sde_names();

// β_1 … β_N of DDPM's chain, N from 2 to 100 000 and each above 0 and below 1. Equally spaced from beta_start to beta_end
// (Ho et al. 2020):
struct LinearBetas {
  std::int64_t steps = 1000;
  double beta_start = 1e-4, beta_end = 0.02;
};
// β_j = 1 − ᾱ(j/N)/ᾱ((j − 1)/N), at most 0.999, with ᾱ(τ) = cos²(π/2 (τ + s)/(1 + s)) (Nichol and Dhariwal 2021, eq. 17):
struct CosineBetas {
  std::int64_t steps = 1000;
  double s = 0.008;
};
// One of these, or the numbers themselves.
using DdpmBetas = std::variant<LinearBetas, CosineBetas, std::vector<double>>;
struct DdpmTable;  // internal

// A forward SDE whose parameters are within their ranges: dx = a(t) x dt + g(t) dW on [0, T], with the transition
// kernel x_t | x_0 ~ N(m(t) x_0, σ²(t) I). A value type; formulas/sde.hpp has the formulas, the parameters of each kind
// and their defaults.
class ForwardSde {
 public:
  // The paper's: ou with rate 1, g 1, T 10, t_min 1e-4.
  ForwardSde() = default;
  // Throws Error where a parameter is outside its range, and for the formulas of ddpm, whose table is not theirs.
  explicit ForwardSde(const SdeFormulas& formulas);
  // There is no move, which would leave an SDE without its table.
  ForwardSde(const ForwardSde&) = default;
  ForwardSde& operator=(const ForwardSde&) = default;

  // By named parameters; those left out have the default beside them. Throw Error as the constructor does.
  static ForwardSde ou(const OuSde& parameters = {});               // rate 1, g 1, T 10, t_min 1e-4
  static ForwardSde vp_linear(const VpLinearSde& parameters = {});  // beta_min 0.1, beta_max 20, T 1, t_min 1e-3
  static ForwardSde vp_cosine(const VpCosineSde& parameters = {});  // s 0.008, T 1, t_min 1e-3
  static ForwardSde subvp(const SubVpSde& parameters = {});         // beta_min 0.1, beta_max 20, T 1, t_min 1e-3
  static ForwardSde ve(const VeSde& parameters = {});               // sigma_min 0.01, sigma_max 50, T 1, t_min 1e-3
  static ForwardSde edm(const EdmSde& parameters = {});             // T 80, t_min 2e-3
  static ForwardSde flow(const FlowSde& parameters = {});           // T 0.999, 1 at most; t_min 1e-3
  // T is N if not given, and t_min is T/N. The chain's step j ends at t = j T/N, so that a network which takes DDPM's
  // index of a step, k = 0 … N − 1, has the inputs t-1,x with T = N, and 1000*t-1,x with T = 1 and N = 1000. The chain's
  // own times are those of TimeGrid::uniform(T, 0, N).
  static ForwardSde ddpm(const DdpmBetas& betas = {}, std::optional<double> horizon = {},
                         std::optional<double> t_min = {});
  // The SDE of a kind with its default parameters.
  static ForwardSde defaults(SdeKind kind);
  // `name`: one of sde_names(). `parameters_json`: an object with the parameters that differ from the defaults (rate, g |
  // beta_min, beta_max | s | sigma_min, sigma_max; T, t_min), or empty. Of ddpm these are steps, schedule "linear" with
  // beta_start and beta_end or "cosine" with s; or betas, a list; T, t_min. Throws Error on an unknown name or key and on
  // a value outside its range.
  static ForwardSde parse(const std::string& name, const std::string& parameters_json = {});

  // Whether kind and parameters are the same; of ddpm the betas, however they were given.
  bool operator==(const ForwardSde& other) const;

  SdeKind kind() const { return formulas_.kind; }
  std::string name() const;
  // All parameters, as parse() reads them.
  std::string parameters_json() const;
  // For each kind a line with its name, parameters and defaults, and what else is to know; for --help.
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
  // β_1 … β_N of ddpm; empty for the others.
  std::vector<double> betas() const;
  // The parameters and closed forms as a plain struct, which kernels take by copy. That of ddpm points to a table of this
  // object and its copies, which lives as long as one of them.
  const SdeFormulas& formulas() const { return formulas_; }

 private:
  ForwardSde(const SdeFormulas& formulas, std::shared_ptr<const DdpmTable> table);

  SdeFormulas formulas_;
  std::shared_ptr<const DdpmTable> table_;  // of ddpm
};

}  // namespace fokker
