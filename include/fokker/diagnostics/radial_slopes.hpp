#pragma once

// Whether e^φ of a potential φ can be normalised: how φ grows or falls along rays, far out.
#include <cstdint>
#include <string>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/time_grid.hpp"

namespace FOKKER_PUBLIC fokker {

struct RadialSlopeOptions {
  std::int64_t directions = 720;  // equally spaced for d = 2, the two of d = 1, else uniform on the sphere; 1 to 10⁶
  double radius = 1000;           // above 0, in the units of x: far outside everything the model was made for
  std::uint64_t seed = 0;         // of the directions for d ≥ 3
};

// The slopes (φ(t, 2r e) − φ(t, r e))/r at one time t in N directions e, with r the radius. Far out a softplus or SiLU
// network is linear along a ray, and this is its slope there, but for the ½ A |x|² of a form (formulas/form.hpp).
struct RadialSlopes {
  double time = 0;
  std::vector<double> directions = {};  // [N·d]
  std::vector<double> slopes = {};      // [N], a unit of length
  double largest = 0;                   // of the slopes
  double share_growing = 0;             // of the directions, those with a slope of 0 or more
  // Whether e^φ looks integrable: φ is not bounded (e^φ of a bounded φ, as of tanh or sine with A = 0, has no
  // integral), and φ falls by more than d log 2 from r to 2r in every direction looked at, as a decay beyond r^{−d}
  // takes. It is no proof, since φ may grow in a direction between two of them.
  bool integrable = false;
  std::string reason = {};  // why not, in one sentence; empty where integrable
};

// Of a standardised model directions, radius and slopes are in z; what is integrable there is in x.
// Both evaluate φ on the context in double and wait for their results. They throw Error for a vector score net, an
// option out of its range, and a t outside [0, T].
RadialSlopes radial_slopes(const Context& context, const Model& model, double t,
                           const RadialSlopeOptions& options = {});
// Looks at up to 33 times of the grid and returns the slopes at the first where e^φ is not integrable, else those with
// the largest slope.
RadialSlopes worst_radial_slopes(const Context& context, const Model& model, const TimeGrid& grid,
                                 const RadialSlopeOptions& options = {});

}  // namespace fokker
