#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/fields.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/time_grid.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

// All go backwards in time along a TimeGrid. euler, heun and rk4 integrate the probability-flow ODE
// dx = [a x − ½ g² s] dt (Song et al. 2021). The others take part in the family
//   dx = [a x − ½ (1 + η²) g² s] dt + η g dW̄,
// whose members all have the marginals of the forward SDE where s is exact: the flow at η = 0, the reverse SDE of Anderson
// (1982) at η = 1.
// A step from x at t to x_1 at t_1, where m and σ are m_1 and σ_1 (formulas/sde.hpp), and z is normal:
//   euler_maruyama  one step of Euler and Maruyama
//   exponential     linear drift and noise exactly, with σ s held over the step (Zhang and Chen 2023): with r = σ/m,
//                   x_1 = (m_1/m) x + (1 + η²) σ m_1 (r − r_1) s + η m_1 √(r² − r_1²) z; ddim's step where η = 0
//   ddim            x_1 = m_1 x̂_0 + √(σ_1² − q²) ε̂ + q z with x̂_0 = (x + σ² s)/m, ε̂ = −σ s and q = η (σ_1/σ) √(σ² − m² r_1²)
//                   (Song, Meng and Ermon 2021, eq. 12 and 16, for any m and σ), η ≤ 1: with η = 0 exact where the noise
//                   ε̂ that the model finds stays the same, with η = 1 ancestral sampling (Ho et al. 2020)
//   dpm_solver_2m   linear drift and noise exactly with x̂_0 in place of σ s, and x̂_0 as the line through this step's and the
//                   last one's: with q = r_1/r, x_1 = (σ_1/σ) q^{η²} x + m_1 (1 − q^{1+η²}) D + σ_1 √(1 − q^{2η²}) z,
//                   D = x̂_0 + h/(2 h') (x̂_0 − x̂_0'), h = −ln q, and ' for the step before; D = x̂_0 in the first step and
//                   onto σ_1 = 0. DPM-Solver++(2M) at η = 0, SDE-DPM-Solver++(2M) at η = 1 (Lu et al. 2022)
//   stochastic_heun Heun's step with one z: with f the drift and n = η g, y = x + f(t, x) Δt + n(t) √Δt z and
//                   x_1 = x + ½ (f(t, x) + f(t_1, y)) Δt + √((n²(t) + n²(t_1))/2) √Δt z: of weak order 2, as the noise does
//                   not depend on x
// A step of heun, rk4 or stochastic_heun onto t = 0 is Euler's where the score is singular there: a mixture without a
// density, a network in a form whose coefficients are infinite.
enum class Scheme { euler_maruyama, euler, heun, rk4, exponential, ddim, dpm_solver_2m, stochastic_heun };

// euler-maruyama (or sde), euler (or ode), heun, rk4, exponential, ddim, dpm++2m, stochastic-heun; throws Error on any other
// name.
Scheme parse_scheme(std::string_view name);
std::string_view to_string(Scheme scheme);
// Whether it draws noise where η is not 0: all but euler, heun and rk4.
bool is_stochastic(Scheme scheme);

// Noise before each step of euler, heun or rk4 (Karras et al. 2022, algorithm 2, for any SDE): where σ/m is in [from, to],
// it is raised by the factor 1 + min(amount/steps, √2 − 1), but never beyond its value at T, by the forward SDE's own
// transition from t to the later t̂, with its noise times `noise`; the step is taken from t̂.
struct Churn {
  double amount = 0;  // S_churn, 0 or more; 0 is no churn
  double from = 0, to = std::numeric_limits<double>::infinity();
  double noise = 1;  // S_noise, above 0

  auto operator<=>(const Churn&) const = default;
};

inline constexpr std::int64_t most_snapshots = 64;  // of a call

// The text of a grid of times for a model of which no more is known (TimeGrid::parse()): paper, and for a network in a form,
// whose coefficients may be infinite at t = 0, one that ends above; under ddpm the ends of its steps.
std::string usual_grid(const Model& model);

// Called now and then with (points finished, points in all), from one thread at a time; CPU only.
using PointsFinished = std::function<void(std::int64_t, std::int64_t)>;

struct SampleOptions {
  Scheme scheme = Scheme::euler_maruyama;
  std::uint64_t seed = 0;
  std::uint64_t first_index = 0;    // index of the first sample: a run may be split anywhere without changing a sample
  bool noise_in_last_step = false;  // of a stochastic scheme; the paper's last step adds none
  // η of a stochastic scheme, from 0 to 100, of ddim to 1; not given, it is 1, and 0 for ddim and dpm_solver_2m. For the
  // others it is 0.
  std::optional<double> eta = {};
  // What the variance of a stochastic scheme's noise is multiplied by, 0 or more; 1 where η is 0. Below 1 samples gather
  // where the density is high, and have the marginals of no member of the family.
  double temperature = 1;
  Churn churn = {};
  // The ratio ρ of a Langevin step x ← x + ε s + √(2ε) z before each step of the grid, as predictor–corrector samplers take
  // it (Song et al. 2021), from 0, which is none, to 1. Their step is set by the norms of s and z of a whole batch; here it is
  // ε = 2 (ρ σ(t))², to which that comes where s has the norm of z/σ, so that no sample depends on another. (Set by a sample's
  // own norms it would depend on x, and the step would have another law than the score's.) Its law is the score's but for a
  // share of the order ρ².
  double langevin = 0;
  // The states after so many steps of the grid, 0 for those that the paths begin with, are written to `snapshots`,
  // [K N, d] on the context's device: those after snapshot_steps[k] steps are its rows k N … (k + 1) N − 1. K increasing
  // numbers, at most `most_snapshots`.
  std::vector<std::int32_t> snapshot_steps = {};
  View<float> snapshots = {};
  // Of a model that takes a condition: y [N, c] of each sample, on the context's device.
  View<const float> condition = {};
  // Of sample() by euler, heun or rk4 without churn and Langevin steps: [N] on the context's device, for the log-densities of
  // the flow's law at the samples, the divergence integrated along their paths as log_density() does. A network rounds its
  // score otherwise beside its divergence, so that the samples are those without densities up to roundings.
  View<float> log_density = {};
  Divergence divergence = {};
  PointsFinished progress = {};

  double chosen_eta() const;  // that given, or the scheme's own
  void validate() const;      // throws Error where one of these is out of its range
};

class SampleOperator;  // internal: a backend's implementation

// Samples of one model along one time grid, in float32. Of a standardised model samples, states, snapshots and the
// points of log-densities are in x = mean + deviation z, each rounded to float32 once from the z of the network, and
// log-densities are of x; the grid and the prior are those of z. Sample i is a function of (seed, first_index + i)
// alone, bit for bit on one backend and instruction set, for any batch split and number of threads (on CUDA: of
// resident networks and mixtures; cuBLAS may add in another order for another number of rows). On the CPU a call
// allocates the coefficients of the grid's steps and nothing that grows with N; each thread's working memory is kept
// between calls. On CUDA calls are queued on the context's stream, allocate nothing, and can be captured into a CUDA
// graph (context.hpp); but the first call with an η, a temperature, a churn or a Langevin step that is not its scheme's own
// puts the steps' coefficients on the device, where they stay as long as the Sampler.
class Sampler {
 public:
  // Throws Error where the model is not valid or the grid starts beyond its horizon T.
  Sampler(const Context& context, const Model& model, const TimeGrid& grid);
  ~Sampler();
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;

  // Draws samples [N, d] of the prior N(0, prior_variance I) and carries them along the grid. Throws Error where a
  // shape, a device or a scheme does not fit, where the grid does not start at T, and with log-densities as Fields does for
  // the divergence. A sample that stops being finite stays so.
  void sample(View<float> samples, const SampleOptions& options = {}) const;
  // Carries the states in `samples` [N, d] from the first time of the grid, any up to T, to its last, in place. Throws
  // Error as sample() does.
  void integrate(View<float> samples, const SampleOptions& options = {}) const;
  // log_density [N] of the probability flow's law at x [N, d] and the last time of the grid: the flow is followed from
  // there to T by `scheme`, euler, heun or rk4, with d log p/dt = −∇·(a x − ½ g² s), and log p_T is the prior's.
  // Hutchinson's probes stay fixed along a path (Grathwohl et al. 2019). `condition` [N, c] of each point for a model that
  // takes one: the law is that of x given y. Throws Error as sample() does, and as Fields does for the divergence.
  void log_density(View<const float> x, View<float> log_density, Scheme scheme = Scheme::heun,
                   const Divergence& divergence = {}, const PointsFinished& progress = {},
                   View<const float> condition = {}) const;

  // Bytes of device memory that this object keeps beside the parameters, whatever N; 0 on the CPU.
  std::size_t workspace_bytes() const;

  const TimeGrid& grid() const { return grid_; }

 private:
  std::int64_t dimension_, condition_;
  Device device_;
  TimeGrid grid_;
  double horizon_;
  std::string why_no_curvature_;  // empty where there are second derivatives
  std::unique_ptr<SampleOperator> operator_;
};

}  // namespace fokker
