#pragma once

// u = p^S e^{−φ} at the nodes of a grid at one time, and steps of the time backwards; grid_state.cpp has the method.
#include <cstdint>
#include <vector>

#include "diagnostics/energy.hpp"
#include "diagnostics/grid_transition.hpp"
#include "diagnostics/host_fields.hpp"
#include "fokker/context.hpp"
#include "fokker/model.hpp"

namespace fokker {

// What is known at a time of p = e^φ u and q = e^φ/Z.
struct GridMoments {
  EnergyMoments of_time;
  double mass;       // ∫ p
  double by_linear;  // share of p where interpolation is linear
  double edge_of_q;  // share of q near the edge of the grid
  double edge_of_p;  // share of p there
};

class GridState {
 public:
  // d ≤ 2. At time t the nodes span ±(m box + 6 σ).
  GridState(const Context& context, const Model& model, std::int64_t nodes_an_axis, double box);

  // u = π e^{−φ} at the horizon t.
  void begin(double t);
  // u at time t in the logarithm, [nodes], as log_u() returned it at that time.
  void resume(double t, const std::vector<double>& log_u);
  // To an earlier time.
  void step(double t);

  const std::vector<double>& log_u() const { return log_u_; }
  GridMoments moments() const;

 private:
  Axis axis(double t) const;
  // φ and R on the axes of that time.
  void evaluate(double t);
  // K_{s,t} of functions on the axes `end` at time t, to the axes `start` at time s.
  Transition kernel(double s, const Axis& start, double t, const Axis& end, Interpolation interpolation) const;
  // The kernel along all axes of v [nodes].
  std::vector<double> apply(const Transition& kernel, const std::vector<double>& v) const;

  ForwardSde sde_;
  int threads_;
  HostFields fields_;
  std::int64_t d_, n_, nodes_;
  double box_, time_ = 0;
  std::vector<double> x_, value_, residual_, log_u_;
  std::vector<char> linear_;  // where interpolation was linear in the last step
};

}  // namespace fokker
