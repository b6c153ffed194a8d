#pragma once

// Measuring the runs of the reproduction: the gap of each, and where it was asked for its energy and upper bound.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "console.hpp"
#include "fokker/diagnostics/energy.hpp"
#include "fokker/fokker.hpp"
#include "measure.hpp"
#include "run.hpp"

namespace fokker::tools {

// What the gaps of a preset are measured with, as results.json and each gap.json have it.
Json gap_options_json(const Context& context, const Preset& preset, std::uint64_t seed);

// The shapes (check_shape()) of what gap.json and diagnosis.json are read for.
Json gap_shape(bool planar);
Json diagnosis_shape();

class RunMeasurement {
 public:
  // grid: that of the preset's text and `sde`. out: the folder of the runs' folders.
  RunMeasurement(const Context& context, const Preset& preset, const ForwardSde& sde, const TimeGrid& grid,
                 std::string out);

  // Phases of one run's progress, as measure() goes through them.
  std::vector<Progress::Phase> phases(const Run& run) const;
  // Leaves gap.json, histograms and diagnosis.json of a trained run, of which this process has the claim, in its folder,
  // whichever are missing or of other options; of a failed one nothing. Ranks draw samples together, and the first does the rest.
  void measure(const Run& run, Progress& progress, const std::shared_ptr<Ranks>& ranks = one_rank());
  // What results.json has of a run; of one that failed, what and why; null where it is not finished, by whichever call.
  Json entry_of(const Run& run) const;

 private:
  // What the runs of one data set and seed are compared with.
  struct Truth {
    GroundTruth law;
    std::vector<double> floors_over_time;
  };

  bool in_detail(const Run& run) const { return preset_.gap.in_detail && run.planar(); }
  bool has_bounds(const Run& run) const { return preset_.bounds && run.planar(); }
  GapOptions gap_options(const Run& run) const;
  EnergyOptions energy_options() const;
  Json measured_from(const Run& run) const;
  Json diagnosed_from(const Run& run) const;
  std::string saved_work(Json from) const;
  bool measured(const Run& run) const;
  bool diagnosed(const Run& run) const;
  Json along_eta(const Model& model, const GroundTruth& truth, const EmpiricalLaw& ode, GapOptions options,
                 const SavedWork& saved, Progress& progress) const;
  const Truth& truth_of(const Run& run);
  void measure_gap_of(const Run& run, Progress& progress, const std::shared_ptr<Ranks>& ranks);
  void diagnose_run(const Run& run, Progress& progress) const;

  const Context& context_;
  const Preset& preset_;
  const TimeGrid& grid_;
  std::string out_;
  TimeGrid diagnosis_grid_;
  std::map<std::pair<std::string, std::uint64_t>, Truth> truths_;  // of each data set and seed
};

}  // namespace fokker::tools
