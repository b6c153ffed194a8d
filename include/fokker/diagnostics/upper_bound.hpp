#pragma once

// An upper bound of the gap between the two samplers of a potential, from the energy and from Hessians.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/diagnostics/energy.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

struct UpperBoundOptions {
  std::int64_t samples = 2000;     // of each sampler, 1 to 10⁹
  std::int64_t box_points = 4000;  // at each time, uniform on [−box, box]^d, 1 to 10⁹
  double box = 3.5;                // above 0
  std::uint64_t seed = 0;
  std::function<void(double)> progress = {};  // called now and then with the fraction that is done

  void validate() const;  // throws Error where a number is out of its range
};

// W2(p^O, p^S) ≤ ½ ∫ exp(∫_0^t L) g² √e_t dt, where p^O is the law of the probability-flow ODE and L(t) is above the
// largest eigenvalue of −a I + ½ g² ∇²φ everywhere, a x being the forward drift. The bound is one of W2 and not of its
// square, at the end of the time grid, and of the whole laws, with what leaves any box.
//
// Of a standardised model all of it is in z, box, laws and W2 with it; energy has to be that model's.
//
// L is taken as the largest eigenvalue found: over samples of both samplers, which stay where the samplers go, or over
// points of the box. A maximum over points is no bound, so these are estimates of the bound and may lie below it.
struct UpperBound {
  std::vector<double> times = {};  // [K], those of the energy
  // [K] L(t), looked for at up to 65 times and interpolated between.
  std::vector<double> over_samples = {}, over_box = {};
  double log_bound_samples = 0, log_bound_box = 0;  // natural logarithms, since the bound itself may overflow
  double diameter = 0;  // of the box, 2 box √d: the largest distance of two laws inside it
  // Points at all times together, and those among them that were left out since they or their Hessians were not finite.
  std::int64_t points_samples = 0, points_box = 0, left_out_samples = 0, left_out_box = 0;
  // One sentence each, where the bound is not to be trusted or not a number: e_t is negative by noise (taken as 0) or
  // not finite, or points were left out.
  std::vector<std::string> warnings = {};
  // Whether the bound says no more than that both laws are in the box, or is not a number.
  bool vacuous_samples() const;
  bool vacuous_box() const;
};

// `energy` is that of reverse_sde_energy() for the same model. Integrals are by the trapezoidal rule on its times,
// between which the samplers take equal steps, 256 or more in all. The bound is not a number where an e_t is not
// finite, where some e_t are negative and none is positive, or where a time has no finite point.
//
// Hessians are evaluated on the context in double; the call waits for its result. Throws Error for a vector score net,
// d > 64, fewer than two times, and an option out of its range.
UpperBound gap_upper_bound(const Context& context, const Model& model, const Energy& energy,
                           const UpperBoundOptions& options = {});

}  // namespace fokker
