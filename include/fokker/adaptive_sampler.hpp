#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "fokker/context.hpp"
#include "fokker/fields.hpp"
#include "fokker/formulas/adaptive.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/sampler.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

// Embedded Runge–Kutta pairs of an order and one below (formulas/adaptive.hpp has them with their sources): of Bogacki and
// Shampine, 3 evaluations a step; of Tsitouras and of Dormand and Prince, 6.
enum class AdaptiveMethod { bs32, tsit5, dopri5 };

AdaptiveMethod parse_adaptive_method(std::string_view name);  // bs32, tsit5, dopri5; throws Error on any other name
std::string_view to_string(AdaptiveMethod method);

// A step is accepted where the root mean square over the coordinates of error/(absolute + relative max(|x|, |x_new|)) is at
// most 1; of a log-density its integral counts as one coordinate more, as in FFJORD (Grathwohl et al. 2019) and in Song et
// al. 2021. With a standardisation these are coordinates of z. The error of a path's end is the sum of those of its steps
// as the flow carries them, which multiplies them: on the paper's networks the median error is 6 to 34 times a tolerance of
// 1e-3 and 22 to 112 times one of 1e-5, by everybody's solvers alike (bench/results/solvers.json).
struct AdaptiveOptions {
  AdaptiveMethod method = AdaptiveMethod::tsit5;
  // From 1e-6, below which float cannot tell errors from roundings, and in double from 1e-13, to 1.
  double relative_tolerance = 1e-5;
  double absolute_tolerance = 1e-5;
  std::int64_t most_steps = 10'000;  // of a path, accepted and refused: 1 to 10^8
};

// Of all paths of a call.
struct AdaptiveReport {
  std::int64_t paths = 0;
  std::int64_t accepted = 0, refused = 0, evaluations = 0;
  std::int64_t most_evaluations = 0;  // of one path
  // Those that did not reach the end, of which the first (counted from 0 in the call) got to this time.
  std::int64_t failed = 0, first_failed = -1;
  PathEnd why_first = PathEnd::none;
  std::int64_t steps_of_first = 0;  // accepted and refused
  double time_of_first = std::numeric_limits<double>::quiet_NaN();

  // "of 100 paths 2 did not reach their end, the first of them number 17, which took 10000 steps, the most that are
  // allowed, to t = 0.25"; empty where all did.
  std::string failure() const;
};

// What a call takes beside its points.
template <class T>
struct AdaptiveCall {
  std::uint64_t seed = 0, first_index = 0;  // of the prior's draws, which are those of Sampler
  View<const T> condition = {};             // y [N, c] of each path for a model that takes one, on the context's device
  std::span<AdaptivePathReport> paths = {};  // on the host: of each path, N of them, or none
  PointsFinished progress = {};              // CPU only
};

template <class T>
class AdaptiveOperator;  // internal: a backend's implementation

// The probability flow dx/dt = a x − ½ g² s of one model between two times, with a step that is each path's own and follows
// a tolerance. The network is evaluated in T = float or double, each path at a time of its own, and states, times and
// errors are in double. The form of a network's output is folded in, so that the flow of one that gives the velocity is
// finite at both ends of time; where the flow has no limit at the end, as that of an exact mixture without a density at
// t = 0, the end has to lie above it. Under ddpm, whose rates jump at the ends of the chain's steps, errors below about
// 1e-5 cost many steps.
//
// What a path does depends on its own numbers and index alone, bit for bit on one backend and instruction set, for any
// batch split and number of threads (on CUDA: of resident networks and mixtures). A path that takes more than the steps
// allowed, whose step becomes smaller than a time in T resolves (10 units in the last place), or that begins where the
// flow is not finite leaves NaN and stands in the report with its time; the others finish. Calls wait for their results on
// every backend. On the CPU a thread fills the places of paths that have ended with those that wait, so that a block stays
// full; working memory does not grow with N. On CUDA it is allocated with the object, of `paths` with the call; calls are
// refused while the context's stream is capturing.
//
// On CUDA one launch takes all paths of a resident network in float from their first evaluation to their last, each row of
// a warp at the time of its own path, and a row whose path has ended takes the next sample (kernels/RESIDENCY.md says
// which networks). Every other model goes an evaluation at a time, in launches that the host queues: all in double,
// mixtures and sums, and networks with an embedding of the time, which would be another one for each row, or a condition.
template <class T>
class AdaptiveSampler {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "an AdaptiveSampler works in float or double");

 public:
  // Samples go from `start` to `end`, 0 ≤ end < start ≤ T, and log-densities back. Throws Error where the model is not
  // valid, a time or an option is out of its range, or a coefficient of the flow is not finite at one of the times.
  AdaptiveSampler(const Context& context, const Model& model, double start, double end,
                  const AdaptiveOptions& options = {});
  ~AdaptiveSampler();
  AdaptiveSampler(AdaptiveSampler&&) noexcept;
  AdaptiveSampler& operator=(AdaptiveSampler&&) noexcept;

  // Draws samples [N, d] of the prior N(0, prior_variance I), the bits that Sampler::sample() begins with, and carries
  // them to the end. Throws Error where a shape or a device does not fit, and where the start is not T.
  AdaptiveReport sample(View<T> samples, const AdaptiveCall<T>& call = {}) const;
  // Carries the states in `states` [N, d] from the start to the end, in place. Throws Error as sample() does.
  AdaptiveReport integrate(View<T> states, const AdaptiveCall<T>& call = {}) const;
  // log_density [N] of the flow's law at x [N, d] and the end, as Sampler::log_density() by steps that follow the
  // tolerance. Hutchinson's probes stay fixed along a path. Throws Error as sample() does, and as Fields does for the
  // divergence.
  AdaptiveReport log_density(View<const T> x, View<T> log_density, const Divergence& divergence = {},
                             const AdaptiveCall<T>& call = {}) const;

  // Bytes of device memory that this object keeps beside the parameters, whatever N; 0 on the CPU.
  std::size_t workspace_bytes() const;

 private:
  void check_call(std::int64_t paths, const AdaptiveCall<T>& call) const;

  std::int64_t dimension_, condition_;
  Device device_;
  double horizon_, start_;
  std::string why_no_curvature_;  // empty where there are second derivatives
  std::unique_ptr<AdaptiveOperator<T>> operator_;
};

extern template class AdaptiveSampler<float>;
extern template class AdaptiveSampler<double>;

}  // namespace fokker
