#pragma once

// The ODE–SDE gap of a model, measured as the paper does; shared by `fokker gap` and the reproduction.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "files.hpp"
#include "fokker/diagnostics/radial_slopes.hpp"
#include "fokker/diagnostics/residual_statistics.hpp"
#include "fokker/fokker.hpp"
#include "options.hpp"

namespace fokker::tools {

// Samples drawn for comparison. In the plane only their histogram is kept; elsewhere the samples themselves, for the
// sliced distance.
struct Cloud {
  std::optional<Histogram> histogram;
  Buffer<float> samples;  // [N, d] on the context's device
  std::int64_t dimension = 2;
  // The fraction that the distance leaves out: outside the box in the plane, not finite elsewhere.
  double escaped = 0;

  static Cloud of(const Context& context, Buffer<float> samples);
  static Cloud of(Histogram histogram);
};

struct Distance {
  // NaN where one side has no sample left.
  double value = 0;
  // Primal minus dual value of the transport; 0 for the sliced distance.
  double certificate_gap = 0;
};
Distance distance(const Context& context, const Cloud& a, const Cloud& b);
// Says on standard error why the distances of `which` are null.
void note_all_lost(const std::string& program, const std::string& which);

// Called with the fraction of the sampling that is done.
using FractionDone = std::function<void(double)>;

std::vector<float> to_host(const Context& context, View<const float> values);
Buffer<float> to_device(const Context& context, const std::vector<float>& values, std::int64_t columns);

// [N, d] on the context's device.
Buffer<float> draw_samples(const Context& context, const Model& model, const TimeGrid& grid, Scheme scheme,
                           std::int64_t n, std::uint64_t seed, const FractionDone& progress);

struct GapOptions {
  std::int64_t samples = 100000;
  std::uint64_t seed = 0;
  std::string grid = "paper";
  Scheme ode_scheme = Scheme::euler;
  // In the plane, the gap is also measured along the way and on nodes half as far apart.
  bool in_detail = false;
};

// Numbers of the steps of a grid, from 1, after which the gap along the way is looked at: the last, and those whose
// times are nearest to T, 0.3 T, 0.1 T, 0.05 T, … 0.002 T.
std::vector<std::int32_t> steps_along_the_way(const TimeGrid& grid);

// Raised where the same model and options give other numbers than before, or gap_json() other keys, so that kept ones
// are measured anew.
constexpr int gap_version = 1;

struct Truth {
  Cloud cloud;
  double noise_floor = 0;
};
Truth measure_truth(const Context& context, const DataSet& data, const GapOptions& options);

// The noise floor of the forward SDE's marginals, of planar data, at the steps_along_the_way() of the options' grid.
std::vector<double> noise_floors_along_the_way(const Context& context, const ForwardSde& sde, const DataSet& data,
                                               const GapOptions& options);

// e^φ at each time, restricted to the grid's box and normalised there: [times][n²] weights, each the mean over points
// of the box that are nearest to its node.
std::vector<std::vector<double>> potential_on_grid(const Context& context, const Model& model,
                                                   const std::vector<double>& times, const Grid& grid = {});

// Both samplers' laws and e^φ at times between T and the end, from the samples of the gap.
struct AlongTheWay {
  std::vector<std::int32_t> steps;
  std::vector<double> times;
  std::vector<Histogram> sde, ode;
  // Of potentials.
  std::vector<std::vector<double>> potential;
  std::vector<RadialSlopes> slopes;
  std::vector<Distance> ode_sde, potential_sde, potential_ode;
};

struct Gap {
  Cloud ode, sde;
  Distance ode_sde, ode_truth, sde_truth;
  std::optional<ResidualStatistics> residual;  // potentials only, and not in half
  Precision precision = Precision::fp32;       // of the context
  // In detail and in the plane.
  std::optional<AlongTheWay> along_the_way;
  // Between the same samples on nodes half as far apart: twice what the distance falls by is the grid's share of it. Of
  // this distance alone, which models are compared by: each such transport takes as long as a dozen others.
  std::optional<Distance> ode_sde_at_half_spacing;
  // Of the sampling also what earlier calls spent on the samples that were kept.
  double ode_seconds = 0, sde_seconds = 0, measure_seconds = 0;
};

// Training's denoising loss under the paper's law of times, at 2^18 fresh points that are the same for all models of
// one data set and seed, so that differences between them show. Times are stratified, uniform in log t, and weighted.
double denoising_loss(const Context& context, const Model& model, const DataSet& data, std::uint64_t seed);

// `done`: the fraction of the step that an earlier call left.
using StepBegins = std::function<FractionDone(int step, double done)>;

// Steps of measure_gap(), for progress: step 0 the SDE's samples, 1 the ODE's, 2 the distances and the residual.
constexpr int gap_steps = 3;

// Both samplers start from the same draw of the prior (`seed`); the truth is drawn apart from both and from training.
// Samples are drawn in parts of some seconds where they are kept, else all at once; saved after a part once the kept
// work's seconds are over, and at the end of each sampler.
Gap measure_gap(const Context& context, const Model& model, const Truth& truth, const GapOptions& options,
                const StepBegins& step, const KeptWork& kept = {});

// What `fokker gap --json` prints of it.
Json gap_json(const Gap& gap, const Truth& truth, const GapOptions& options);
constexpr const char* histogram_files[] = {"ode", "sde", "truth"};
constexpr const char* way_file = "along_the_way";
// ode.npy, sde.npy, truth.npy in an existing folder; along_the_way.npy, [laws · times, n²] in float32 with the
// laws SDE, ODE and, for a potential, e^φ, where that was measured. Planar data only.
void save_histograms(const std::string& folder, const Gap& gap, const Truth& truth);

}  // namespace fokker::tools
