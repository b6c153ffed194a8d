#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/fields.hpp"
#include "fokker/model.hpp"
#include "fokker/time_grid.hpp"
#include "fokker/view.hpp"

namespace fokker {

// euler_maruyama integrates the reverse SDE dx = [a x − g² s] dt + g dW̄ (Anderson 1982); euler, heun and rk4 the
// probability-flow ODE dx = [a x − ½ g² s] dt (Song et al. 2021), all backwards in time along a TimeGrid.
enum class Scheme { euler_maruyama, euler, heun, rk4 };

Scheme parse_scheme(std::string_view name);  // euler-maruyama (or sde), euler (or ode), heun, rk4
std::string_view to_string(Scheme scheme);

struct SampleOptions {
  Scheme scheme = Scheme::euler_maruyama;
  std::uint64_t seed = 0;
  std::uint64_t first_index = 0;    // index of the first sample: a run may be split anywhere without changing a sample
  bool noise_in_last_step = false;  // the paper's last Euler–Maruyama step adds none
  // After these steps of the grid (numbers from 1, increasing, up to 64 of them) the states are kept: those after step
  // snapshot_steps[k] are rows k N … (k + 1) N − 1 of snapshots, [K N, d] on the context's device.
  std::vector<std::int32_t> snapshot_steps = {};
  View<float> snapshots = {};
  // Called now and then with (samples finished, samples in all), from one thread at a time; CPU only.
  std::function<void(std::int64_t, std::int64_t)> progress = {};
};

class SampleOperator;  // internal: a backend's implementation

// Samples of one model along one time grid, in float32. Sample i is a function of (seed, first_index + i) alone, bit
// for bit on one backend and instruction set, for any batch split and number of threads (on CUDA: of resident
// networks and mixtures; cuBLAS may add in another order for another number of rows). On the CPU a call allocates
// the coefficients of the grid's steps and nothing that grows with N; each thread's working memory is kept between
// calls. On CUDA calls are queued on the context's stream, allocate nothing, and can be captured into a CUDA graph
// (context.hpp).
class Sampler {
 public:
  Sampler(const Context& context, const Model& model, TimeGrid grid);
  ~Sampler();
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;

  // samples [N, d]: written. The prior N(0, prior_variance I) is drawn inside. Throws Error, as below, where a shape, a
  // device or a scheme does not fit, and where the grid does not start at T. A sample that stops being finite stays so.
  void sample(View<float> samples, const SampleOptions& options = {}) const;
  // As sample(), but from the given states in `samples`, at the first time of the grid (any up to T), which are
  // overwritten by x at its end.
  void integrate(View<float> samples, const SampleOptions& options = {}) const;
  // log_density [N] of the ODE model at x [N, d], at the last time of the grid: the flow is followed from there to T by
  // `scheme` (an ODE scheme) with d log p/dt = −∇·(a x − ½ g² s), log p_T from the prior. Hutchinson's probes stay
  // fixed along a path (Grathwohl et al. 2019).
  void log_density(View<const float> x, View<float> log_density, Scheme scheme = Scheme::heun,
                   const Divergence& divergence = {}) const;

  // Bytes of device memory that this object keeps beside the parameters, whatever N; 0 on the CPU.
  std::size_t workspace_bytes() const;

  const TimeGrid& grid() const { return grid_; }

 private:
  std::int64_t dimension_;
  Device device_;
  TimeGrid grid_;
  double horizon_;
  std::unique_ptr<SampleOperator> operator_;
};

}  // namespace fokker
