#pragma once

// What is said of data before the work and of samples after it, where numbers that look like results are none: a line
// on standard error each (warn()), and the list "warnings" of JSON.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "fokker/fokker.hpp"
#include "options.hpp"

namespace fokker::tools {

using Warnings = std::vector<std::string>;

// A distance between laws of which so large a share lies outside its box is one of the others.
constexpr double many_escaped = 0.01;

// Beyond `far` a sample is of no law that a model was made for; `why` says how far that is. Of a standardised model in
// deviations of the columns.
struct Reach {
  double far = std::numeric_limits<double>::infinity();
  std::string why = "ten times the largest number of the data";
};
// By the data that a model was trained on, which its file names, or the mixture that it is; of others' networks by
// their SDE: data ten times as large as prior and mean at T allow do not get to its prior.
// path empty: of no file.
Reach reach_of(const Model& model, const std::string& path);
// The same at time t of the SDE, which shrinks the data and adds noise.
Reach reach_at(double t, const Model& model, const std::string& path);
// Of samples of the model, in the units of the reach.
SampleHealth health_of(const Context& context, const Model& model, View<const float> samples, const Reach& reach);
// What the warning of numbers that are not finite ends in where the times of a grid may be why.
std::string advice_on(const TimeGrid& grid);
// The metadata of the file of a trained model: the recipe, and what reach_of() reads, of those columns of the data that
// are x.
ModelMetadata training_metadata(const std::string& recipe, const DataSet& data, const Model& model);

// What is wrong with samples that `which` names, as "samples of the ODE"; empty where nothing is. outside: the share of
// them outside the box of a planar distance.
std::string warning_of(const std::string& which, const SampleHealth& health, double outside = 0,
                       const std::string& far = Reach().why);
// The same of a law, and that it is too narrow for the grid of its histogram.
Warnings warnings_of(const std::string& which, const EmpiricalLaw& law, const std::string& far = Reach().why);
// Those that are not empty.
void append(Warnings& warnings, const Warnings& more);

// These look at draws on the host, whatever the backend of the work, and at the first d columns of the data: those
// after them are conditions.
DataScale scale_of(const DataSet& data, std::int64_t d);
// The share of the data outside [-half_width, half_width]^d, of some ten thousand draws.
double share_outside(const DataSet& data, std::int64_t d, double half_width);
// Why a network trained so cannot be expected to have the scale of these data, and whether the residual's points miss
// them. `standardised`: the data are in units of their own already.
Warnings warnings_before_training(const DataSet& data, std::int64_t d, const ForwardSde& sde,
                                  const TrainOptions& options, bool standardised = false);

// Prints each.
void warn(const Warnings& warnings);

}  // namespace fokker::tools
