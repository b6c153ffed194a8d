#pragma once

// What the two ways to measure the energy hand to the sums that both sides of the identity are made of.
#include <string>
#include <vector>

#include "fokker/diagnostics/energy.hpp"

namespace fokker {

// At one time, p = p^S_t and q = e^φ/Z.
struct EnergyMoments {
  double energy = 0;          // E_p |∇ log u|²
  double log_u = 0;           // E_p log u
  double log_normaliser = 0;  // log Z
  double residual = 0;        // E_p R
  double residual_of_q = 0;   // E_q R
};

struct EnergyMeasurement {
  std::vector<double> times;          // [K], decreasing
  std::vector<EnergyMoments> all;     // [K], of all draws
  std::vector<EnergyMoments> coarse;  // [K], paths only: of all draws, with every second time of a path
  // Grid only: with half the nodes an axis, at all times and at every second and the last, which are half_times.
  std::vector<EnergyMoments> half_nodes, half_both;
  std::vector<double> half_times;
  std::vector<std::vector<EnergyMoments>> left_out;  // one a batch; none where nothing is random
  std::vector<double> mass;                          // [K], grid only
  double share_left = 0;                             // share of the samples that left the grid; 0: too few to tell
  std::vector<std::string> warnings;                 // what law the numbers are of
  std::vector<std::string> faults;                   // why no number is to be trusted
  std::vector<std::string> normaliser_faults;        // why those of Z and E_q are not
};

EnergyMeasurement energy_on_grid(const Context& context, const Model& model, const TimeGrid& grid,
                                 const EnergyOptions& options);
EnergyMeasurement energy_by_paths(const Context& context, const Model& model, const TimeGrid& grid,
                                  const EnergyOptions& options);

}  // namespace fokker
