#pragma once

// How far the score s = ∇φ of a potential is from that of the law p^S_t which its reverse SDE draws from: the energy
// e_t = E |∇ log p^S_t − s|² under p^S_t, and the identity that ties it to the Fokker–Planck residual R of φ.
//
// Throughout, π is the prior at the horizon T, q_t = e^{φ_t}/Z_t, u = p^S e^{−φ}, and 0 in p^S_0 stands for the last of
// the times that are given. From the Fokker–Planck equation of the reverse SDE, dx = f dt + g dW being the forward one,
// ∂_t u + f·∇u + ½ g² Δu + R u = 0 with u_T = π e^{−φ_T}.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/diagnostics/radial_slopes.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/time_grid.hpp"

namespace FOKKER_PUBLIC fokker {

// A number with its errors.
struct Estimate {
  double value = 0;
  double standard_error = 0;  // 0 where the number is not random
  // The error that steps leave. On a grid: the change from half the nodes an axis, plus the change from every second
  // time there. Where halving the steps halves the error (measured for networks with sharp activations, whose ridges
  // few nodes see) that is the error, and three times the error where halving quarters it (smooth potentials). By
  // paths: a third of the change where every second time of a path is left out, plus a third of the change where every
  // second time of the integral is: about the errors of second order that both leave.
  double step_error = 0;
};

// grid: u on a grid, for d ≤ 2. paths: samples of the reverse SDE and u at them as in sde_log_density(), for any d.
// automatic: grid where d ≤ 2.
enum class EnergyMethod { automatic, grid, paths };
EnergyMethod parse_energy_method(std::string_view name);  // auto, grid, paths; throws Error on any other name
std::string_view to_string(EnergyMethod method);

// How far an energy on a grid has come.
struct EnergyState {
  std::int64_t times = 0;            // of the time grid that are done; 0: none
  double share = 0;                  // of the work of a whole call, as `progress` counts it
  std::vector<double> log_u = {};    // [nodes^d] at the last of them
  std::vector<double> moments = {};  // [times · 9] the numbers that the result is made of
};

struct EnergyOptions {
  EnergyMethod method = EnergyMethod::automatic;
  // On a grid: nodes an axis, 16 to 4096; 0 takes 1024 for d = 1 and 192 for d = 2. At time t they span ±(m box + 6 σ),
  // so the box, above 0, has to hold the data.
  std::int64_t nodes = 0;
  double box = 3.5;
  // By paths.
  std::int64_t samples = 128;  // of the reverse SDE, by Euler–Maruyama on the time grid; 32 to 10⁹, a multiple of 16
  std::int64_t paths = 32;     // a sample and time, 4 to 65536, even: halves with noise of their own make e_t unbiased
  int path_steps = 48;         // as SdeDensityOptions::steps
  int times = 33;              // of the time grid that are used, T and its end among them, 2 to 65
  std::uint64_t seed = 0;
  std::function<void(double)> progress = {};  // called now and then with the fraction that is done
  // On a grid: `save` is called after each of the times with the state so far, and `from` is such a state of an earlier
  // call with the same model, times, nodes and box, from which this one goes on to the same result. Only the passes for
  // step errors are done anew; they come after all times and take three eighths as long (d = 2).
  std::function<void(const EnergyState&)> save = {};
  EnergyState from = {};

  void validate() const;  // throws Error where a number is out of its range
};

// e_t = E |∇ log u_t|² under p^S_t, and the balance that u obeys between T and 0,
//   E_{p^S_0} log u_0 + ½ ∫ g² e_t dt = E_π log u_T + ∫ E_{p^S_t} R dt,
// which is the identity of EnergyIdentity with log Z_0 taken off both sides, and needs no Z.
struct Energy {
  EnergyMethod method = EnergyMethod::grid;  // that was used
  std::vector<double> times = {};            // [K], decreasing from T
  std::vector<Estimate> energy = {};         // [K] e_t
  std::vector<double> mass = {};             // [K] ∫ p^S_t over the grid, exactly 1 in theory; empty for paths
  Estimate dissipation = {};                 // ½ ∫ g² e_t dt
  Estimate left = {}, right = {};            // the sides of the balance
  Estimate difference = {};                  // left − right, with an error of its own
  // False where a number is not to be trusted, and a warning says why: the grid is too coarse, the mass is not 1 though
  // no sample left the grid, tails are heavy, the dissipation's step error is above a quarter of it (grid), or the
  // sides differ by more than their errors though no sample left (on a grid those of the identity, where there is one).
  bool resolved = false;
  // One sentence each: why not resolved, and on a grid how many samples left it. The latter is no fault of the numbers,
  // which are those of the law of the samples that stayed; its sides need not agree.
  std::vector<std::string> warnings = {};
};

// On a grid, u is carried backwards along the time grid by the formula of Feynman and Kac, with the forward SDE's exact
// transition kernel: second order in time, fourth in space, where R is smooth on the grid (src/diagnostics/README.md).
//
// By paths, e_t is the product of two estimates of the derivative of log u along a random direction, by differences on
// common paths, from disjoint halves of the paths; standard errors are a jackknife over 16 batches that share nothing.
// The samples are those of Euler–Maruyama on the time grid, an error of first order in its steps that neither standard
// nor step errors contain.
//
// The difference of the two sides is a check of consistency by either method and not the error of a side: what both
// have wrong alike cancels in it.
//
// Of a standardised model everything is in z, the box with it: e_t is E |D (∇ log p^S − s)|² of x, D the deviations,
// and dissipation, divergences of laws and residual work are the same numbers for z and x.
//
// Fields are evaluated on the context in double; the call waits for its result. Throws Error for a vector score net, a
// grid that does not start at T, EnergyMethod::grid with d > 2, and an option out of its range.
Energy reverse_sde_energy(const Context& context, const Model& model, const TimeGrid& grid,
                          const EnergyOptions& options = {});

// KL(p^S_0 ‖ q_0) + ½ ∫ g² e_t dt = KL(π ‖ q_T) + ∫ (E_{p^S_t} R − E_{q_t} R) dt. Neither side changes where φ changes
// by a function of time.
struct EnergyIdentity {
  Energy energy = {};
  Estimate kl_end = {};         // KL(p^S_0 ‖ q_0)
  Estimate kl_prior = {};       // KL(π ‖ q_T)
  Estimate residual_work = {};  // ∫ (E_{p^S} R − E_q R) dt
  Estimate left = {}, right = {}, difference = {};
};

// As reverse_sde_energy(); Z and E_q are by quadrature on the grid, or from the samples of p^S with weights 1/u. Throws
// Error also where e^φ is not integrable at one of the times, by worst_radial_slopes(): there is no Z, hence no q.
EnergyIdentity energy_identity(const Context& context, const Model& model, const TimeGrid& grid,
                               const EnergyOptions& options = {});
// The same, with the worst_radial_slopes() of that model and grid where they are known already.
EnergyIdentity energy_identity(const Context& context, const Model& model, const TimeGrid& grid,
                               const EnergyOptions& options, const RadialSlopes& slopes);

}  // namespace fokker
