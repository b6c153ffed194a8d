#pragma once

// All diagnostics of a potential together, as text and as JSON, for `fokker diagnose` and the reproduction.
#include <optional>

#include "fokker/diagnostics/energy.hpp"
#include "fokker/diagnostics/radial_slopes.hpp"
#include "fokker/diagnostics/upper_bound.hpp"
#include "fokker/fokker.hpp"
#include "measure.hpp"
#include "options.hpp"
#include "warnings.hpp"

namespace fokker::tools {

// Raised where the same model and options give other numbers than before, so that saved ones are computed anew.
constexpr int diagnosis_version = 6;

struct DiagnoseOptions {
  EnergyOptions energy;
  UpperBoundOptions bound;
  std::int64_t samples = 20000;  // of each sampler, for the measured gap; 0 measures none
  std::uint64_t seed = 0;
  Reach reach = {};  // of the samples
};

struct Diagnosis {
  RadialSlopes slopes;  // the worst over the times
  Energy energy;
  std::optional<EnergyIdentity> identity;  // where e^φ is integrable
  std::optional<UpperBound> bound;         // d ≤ 64
  // W2 between the samplers, not squared, or the sliced distance where d ≠ 2. Not a number where it was not measured.
  double gap = 0;
  bool gap_is_sliced = false;
  double escaped_ode = 0, escaped_sde = 0;  // EmpiricalLaw::escaped of the samples that the gap is between
  Warnings gap_warnings;
  double seconds = 0;  // with those of earlier calls, as far as their work was saved

  // Of the energy, the bound and the gap.
  Warnings warnings() const;
};

// Steps of diagnose(), for progress: step 0 the energy, 1 the bound, 2 the samplers.
// `grid`: the times of everything. The energy on a grid, which takes most of the time, is saved as often as `saved`
// says and at its end.
Diagnosis diagnose(const Context& context, const Model& model, const TimeGrid& grid, const DiagnoseOptions& options,
                   const StepBegins& step, const SavedWork& saved = {});

// What `fokker diagnose --json` prints; numbers that are not finite are null. grid: the text that the times come from.
Json diagnosis_json(const Diagnosis& diagnosis, const DiagnoseOptions& options, const std::string& grid);
// "1.30e+12", from its natural logarithm, which double may not hold the exponential of.
std::string exponential(double logarithm);
// The diagnosis for a person to read.
std::string diagnosis_text(const Diagnosis& diagnosis);

}  // namespace fokker::tools
