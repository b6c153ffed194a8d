#pragma once

// What the two ways to measure the energy hand to the sums that both sides of the identity are made of.
#include <string>
#include <vector>

#include "fokker/diagnostics.hpp"

namespace fokker {

// At one time, p = p^S_t and q = e^φ/Z.
struct EnergyMoments {
  double energy = 0;          // E_p |∇ log u|²
  double log_u = 0;           // E_p log u
  double log_normaliser = 0;  // log Z
};

// Of all draws, or of all but one batch.
struct EnergySums {
  std::vector<EnergyMoments> moments;  // [K]
  double work = 0;                     // ∫ E_p R dt
  double work_of_q = 0;                // ∫ E_q R dt
};

struct EnergyMeasurement {
  std::vector<double> times;  // [K], decreasing
  EnergySums all;
  std::vector<EnergySums> left_out;              // one a batch; none where nothing is random
  std::vector<double> mass;                      // [K], grid only
  std::vector<std::string> warnings;             // of everything
  std::vector<std::string> normaliser_warnings;  // of Z and E_q
};

EnergyMeasurement energy_on_grid(const Context& context, const Model& model, const TimeGrid& grid,
                                 const EnergyOptions& options);
EnergyMeasurement energy_by_paths(const Context& context, const Model& model, const TimeGrid& grid,
                                  const EnergyOptions& options);

}  // namespace fokker
