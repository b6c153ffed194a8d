#pragma once

// What a potential says of the law that its samplers draw from, beyond samples. Throughout: φ the model's potential,
// s = ∇φ, q_t = e^{φ_t}/Z_t, π = N(0, prior variance) the law at the horizon T, p^S_t the law of the reverse SDE in
// continuous time, p^O_t that of the probability-flow ODE, R the Fokker–Planck residual of φ, and u = p^S e^{−φ}, which
// solves ∂_t u + f·∇u + ½ g² Δu + R u = 0 with u_T = π e^{−φ_T}. That equation follows from the Fokker–Planck equation
// of the reverse SDE; everything here does from it.
//
// Fields are evaluated on the context, the rest is done on the host, so that every backend serves; calls wait for their
// results. They throw Error for a vector score net, which has no φ.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/model.hpp"
#include "fokker/time_grid.hpp"
#include "fokker/view.hpp"

namespace fokker {

struct ResidualOptions {
  std::int64_t times = 512;   // uniform on [t_min, T]
  std::int64_t points = 512;  // a time, uniform on [−box, box]^d
  double box = 3.5;
  std::uint64_t seed = 0;
};

// Mean of R² over times and points. The denoising loss fixes φ only up to a function of time, which moves R by its
// derivative and moves no sample: `centred` removes the mean of R over x at each time first.
struct ResidualStatistics {
  double mean_square = 0;
  double centred_mean_square = 0;
};

// Evaluated on the context; the call waits for its result. The divergence in R is the exact one: with Hutchinson's, R²
// is biased by the variance of R, and the product of two independent estimates, which is not, is not offered. Throws
// Error for a vector net, whose residual is not there yet.
ResidualStatistics residual_statistics(const Context& context, const Model& model, const ResidualOptions& options = {});

// A number with its errors; standard_error is 0 where the number is not random.
struct Estimate {
  double value = 0;
  double standard_error = 0;
  // What steps leave. By paths: a third of the change when every second time of a path is left out, and of that when
  // every second of the times that an integral is taken over is, about the errors of second order that both leave. On a
  // grid: the change from half the nodes an axis, and there that from every second time, added up. That is what is left
  // where errors halve as both double (order 1, as measured for networks with sharp activations, whose ridges few nodes
  // see), and three times what is left where they fall by four (order 2, smooth potentials).
  double step_error = 0;
};

// Called now and then with the fraction of the work that is done.
using DiagnosticProgress = std::function<void(double)>;

// ---- Is e^φ integrable? -------------------------------------------------------------------------------------------

struct RadialSlopeOptions {
  std::int64_t directions = 720;  // equally spaced for d = 2, the two of d = 1, uniform on the sphere otherwise
  double radius = 1000;           // in the units of x: far outside everything the model was made for
  std::uint64_t seed = 0;         // of the directions, d ≥ 3
};

// (φ(t, 2r e) − φ(t, r e))/r in directions e at one time, r the radius. A softplus or SiLU network is linear along a
// ray far out, and this is its slope there.
struct RadialSlopes {
  double time = 0;
  std::vector<double> directions;  // [N·d]
  std::vector<double> slopes;      // [N], a unit of length
  double largest = 0;              // slope
  double share_growing = 0;        // of the directions, with a slope of 0 or more
  // φ falls by more than d log 2 from r to 2r in all directions looked at, as an integrable e^φ has to (decay beyond
  // r^{−d}), and the network's activation is not bounded: e^φ of a bounded φ (tanh, sine) is never integrable. Not a
  // proof: a direction in between may grow.
  bool integrable = false;
  std::string reason;  // one sentence; empty where integrable
};
RadialSlopes radial_slopes(const Context& context, const Model& model, double t,
                           const RadialSlopeOptions& options = {});
// At up to 33 times of the grid: the first time where e^φ is not integrable, or else the one with the largest slope.
RadialSlopes worst_radial_slopes(const Context& context, const Model& model, const TimeGrid& grid,
                                 const RadialSlopeOptions& options = {});

// ---- Density of the reverse SDE at points -------------------------------------------------------------------------

struct SdeDensityOptions {
  std::int64_t paths = 1024;  // a point, ≥ 2
  std::int64_t steps = 100;  // of a path from t_min to T, 2 to 10⁶; one that begins later has its share, at least two
  std::uint64_t seed = 0;
  // false: every point has paths of its own, so that errors average out over points. true: all points share one set, so
  // that differences between points are smooth.
  bool common_paths = false;
  DiagnosticProgress progress = {};
};

struct SdeDensity {
  std::vector<double> log_density;     // [N] log p^S(t, x)
  std::vector<double> standard_error;  // [N] of log_density, from the spread of the weights
  // [N] a third of the change when every second time is left out on the same paths: about the error of second order
  // that the steps leave.
  std::vector<double> step_error;
  std::vector<double> effective_paths;  // [N] (Σ w)²/Σ w², between 1 and `paths`
  // [N] Hill's index of the min(paths/5, 3 √paths) largest weights, with a relative error of one over the root of that
  // number. At 2 or below they fall off so slowly that standard_error may not be trusted, and the density is likely too
  // small. With few paths it says little either way.
  std::vector<double> tail_index;
  std::int64_t heavy_tailed = 0;  // points whose tail_index is 2 or below
};

// p^S(t, x) = e^{φ(t,x)} E[(π e^{−φ_T})(X_T) exp ∫_t^T R(s, X_s) ds | X_t = x] with X the forward SDE: Feynman and Kac
// for u. Transitions of X are exact; the integral is by the trapezoidal rule along the path, at times that are uniform
// in the logarithm of σ²/m², the ratio of noise to signal. Needs no Z, so e^φ need not be integrable. x [N, d] on the
// host, t in [0, T]. The estimate of p^S is unbiased but for the steps; that of its logarithm is low by half the
// squared standard error.
SdeDensity sde_log_density(const Context& context, const Model& model, double t, View<const double> x,
                           const SdeDensityOptions& options = {});

// ---- Energy -------------------------------------------------------------------------------------------------------

// grid: u on a grid, d ≤ 2. paths: samples of the reverse SDE and u at them as in sde_log_density(), any d.
enum class EnergyMethod { automatic, grid, paths };

// How far an energy on a grid has come.
struct EnergyState {
  std::int64_t times = 0;       // of the time grid that are done; 0: none
  double share = 0;             // of the work of a whole call, as `progress` counts it
  std::vector<double> log_u;    // [nodes^d] at the last of them
  std::vector<double> moments;  // [times · 9] what the result is made of
};

struct EnergyOptions {
  EnergyMethod method = EnergyMethod::automatic;  // grid where d ≤ 2
  // grid: nodes an axis, 16 to 4096; 0 takes 1024 for d = 1 and 192 for d = 2. At time t they span ±(m box + 6 σ), so
  // `box` has to hold the data.
  std::int64_t nodes = 0;
  double box = 3.5;
  // paths
  std::int64_t samples = 128;  // of the reverse SDE, by Euler–Maruyama on the time grid; ≥ 32 and a multiple of 16
  std::int64_t paths = 32;  // a sample and time, ≥ 4, even: noise of one half does not add to that of the other in e_t
  int path_steps = 48;      // as SdeDensityOptions::steps
  int times = 33;           // of the time grid that are used, T and its end among them, 2 to 65
  std::uint64_t seed = 0;
  DiagnosticProgress progress = {};
  // grid: called after each of the times with the state so far; and one such state of an earlier call with the same
  // model, times, nodes and box, to go on from with the same result. The passes for step errors come after all times
  // and are done anew; they take three eighths as long (d = 2).
  std::function<void(const EnergyState&)> save = {};
  EnergyState from = {};

  void validate() const;  // throws Error where a number is out of its range
};

// e_t = E |∇ log p^S_t − s|² = E |∇ log u_t|² under p^S_t, and the balance that u obeys between the last of the times
// given, which is what 0 stands for here and below, and T:
//   E_{p^S_0} log u_0 + ½ ∫ g² e_t dt = E_π log u_T + ∫ E_{p^S_t} R dt.
// It is the identity of EnergyIdentity with log Z_0 taken off both sides, and needs no Z.
struct Energy {
  EnergyMethod method = EnergyMethod::grid;  // that was used
  std::vector<double> times;                 // [K], decreasing from T
  std::vector<Estimate> energy;              // [K] e_t
  std::vector<double> mass;                  // [K] ∫ p^S_t over the grid, exactly 1 in theory; empty for paths
  Estimate dissipation;                      // ½ ∫ g² e_t dt
  Estimate left, right, difference;          // of the balance; difference = left − right, with its own error
  // False where a number is not to be trusted, and a warning says why: grid too coarse, a mass that is not 1 though no
  // sample left, heavy tails, a step error of more than a quarter of the dissipation on a grid, sides that differ by
  // more than their errors where no sample left (on a grid those of the identity where there is one).
  bool resolved = false;
  // One sentence each: why not resolved, and on a grid how many samples left it, which is no fault of the numbers: they
  // are of the law of the others, whose sides need not agree.
  std::vector<std::string> warnings;
};

// grid: u is carried backwards along the time grid by the formula of Feynman and Kac, with the forward SDE's exact
// transition kernel as a quadrature on cubic interpolation and the mean of ∫R over paths weighted by u: second order in
// time, fourth in space, where R is smooth on the grid. Coarser passes give step errors (Estimate). paths: the
// standard errors are a jackknife over 16 batches that share nothing; e_t is the product of two estimates of the
// derivative of log u along a random direction, by differences on common paths, from disjoint halves of the paths. The
// law of the samples is that of Euler–Maruyama on the time grid, an error of first order in its steps that neither
// standard nor step errors contain. The difference of the two sides, by either method, is a check of consistency, not
// the error of one: what both have wrong alike cancels in it. The grid has to start at T.
Energy reverse_sde_energy(const Context& context, const Model& model, const TimeGrid& grid,
                          const EnergyOptions& options = {});

// KL(p^S_0 ‖ q_0) + ½ ∫ g² e_t dt = KL(π ‖ q_T) + ∫ (E_{p^S_t} R − E_{q_t} R) dt, 0 being the last of the times given.
// Both sides are free of what φ may have as a function of time alone.
struct EnergyIdentity {
  Energy energy;
  Estimate kl_end;         // KL(p^S_0 ‖ q_0)
  Estimate kl_prior;       // KL(π ‖ q_T)
  Estimate residual_work;  // ∫ (E_{p^S} R − E_q R) dt
  Estimate left, right, difference;
};

// As reverse_sde_energy(); Z and E_q by quadrature on the grid, or from the samples of p^S with weights 1/u. Throws
// Error where e^φ is not integrable at one of the times, by worst_radial_slopes(): Z, q and the Kullback–Leibler
// divergences do not exist there.
EnergyIdentity energy_identity(const Context& context, const Model& model, const TimeGrid& grid,
                               const EnergyOptions& options = {});
// The same where worst_radial_slopes() of that model and grid are known.
EnergyIdentity energy_identity(const Context& context, const Model& model, const TimeGrid& grid,
                               const EnergyOptions& options, const RadialSlopes& slopes);

// ---- Upper bound of the gap ---------------------------------------------------------------------------------------

struct UpperBoundOptions {
  std::int64_t samples = 2000;     // of each sampler
  std::int64_t box_points = 4000;  // a time, uniform on [−box, box]^d
  double box = 3.5;
  std::uint64_t seed = 0;
  DiagnosticProgress progress = {};

  void validate() const;  // throws Error where a number is out of its range
};

// W2(p^O, p^S) ≤ ½ ∫ exp(∫_0^t L) g² √e_t dt, where L(t) bounds the largest eigenvalue of sym(−∇f + ½ g² ∇²φ) =
// −a I + ½ g² ∇²φ; of W2, not of its square, at the end of the time grid. L is the largest eigenvalue found, over
// samples of both samplers (which stay where the samplers go) or over points of the box: a maximum over points is no
// bound, so these are estimates of the bound and may lie below it.
struct UpperBound {
  std::vector<double> times;                        // [K], those of the energy
  std::vector<double> over_samples, over_box;       // [K] L(t); between at most 64 times by interpolation
  double log_bound_samples = 0, log_bound_box = 0;  // natural logarithm: the bound itself may overflow
  double diameter = 0;                              // of the box, 2 box √d: no two laws inside are farther apart
  // Points at all times together, and those of them that were left out since they or their Hessians were not finite.
  std::int64_t points_samples = 0, points_box = 0, left_out_samples = 0, left_out_box = 0;
  // One sentence each, where the bound is not to be trusted or is not a number: e_t negative by noise (taken as 0) or
  // not finite, points left out.
  std::vector<std::string> warnings;
  // Says no more than that both laws are in the box; so does a bound that is not a number.
  bool vacuous_samples() const;
  bool vacuous_box() const;
};

// `energy` as reverse_sde_energy() gave it for the same model, by paths at no more than 65 times; the integrals are by
// the trapezoidal rule on its times, and between them the samplers take equal steps, 256 or more in all. Not a number
// where an e_t is not finite, where none is positive but some are negative, or where no point at a time is finite. d ≤
// 64, for the Hessians.
UpperBound gap_upper_bound(const Context& context, const Model& model, const Energy& energy,
                           const UpperBoundOptions& options = {});

}  // namespace fokker
