#pragma once

// The experiments that `reproduce --preset` knows by name.
#include <cstdint>
#include <string>
#include <vector>

#include "fokker/fokker.hpp"

namespace fokker::tools {

// An activation as one network has it.
struct NetworkActivation {
  Activation activation = Activation::softplus;
  double beta = 100;

  // "softplus 100" or "tanh".
  std::string name() const;
  // The largest |σ″|, β/4 for softplus: how fast the slope of one unit can turn.
  double roughness() const;
};

// One run for each data set, seed, activation and weight, in this order: the last varies fastest.
struct Preset {
  std::string name;
  std::vector<std::string> data;
  std::int64_t seeds;  // as many, from --seed on
  std::vector<NetworkActivation> activations;
  std::vector<double> weights;
  TrainOptions train;
  std::string grid = "paper";  // the samplers' times, as TimeGrid::parse() reads them
  GapOptions gap;
  std::vector<double> etas;       // of gap_along_eta(); empty: the gap is no curve
  bool published = false;         // the recipe of the paper, whose authors' numbers stand beside ours
  bool bounds = false;            // half a minute a run on two cores
  std::int64_t energy_nodes = 0;  // an axis, for the bounds; 0: the library's default

  // Whether it trains too little for any of its numbers to mean anything.
  bool only_tries() const { return name == "smoke"; }
};

extern const std::vector<std::string> preset_names;
Preset find_preset(const std::string& name);

}  // namespace fokker::tools
