#pragma once

// What `fokker gap` and the reproduction do with a gap beside measuring it: saving unfinished samples, JSON and files.
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
#include "warnings.hpp"

namespace fokker::tools {

// Called with the fraction of the work that is done.
using FractionDone = std::function<void(double)>;
// Called at the beginning of a step, numbered from 0, with the fraction of it that an earlier call did.
using StepBegins = std::function<FractionDone(int step, double done)>;

std::vector<float> to_host(const Context& context, View<const float> values);
Buffer<float> to_device(const Context& context, const std::vector<float>& values, std::int64_t columns);

// What a sampler calls, for a fraction.
PointsFinished as_fraction(const FractionDone& progress);
// Throws Error, which names `given`, an option and its value, where Sampler::log_density() would for any points: to be
// called before other long work.
void check_flow_density(const Context& context, const Sampler& sampler, Scheme scheme, const Divergence& divergence,
                        const std::string& given);

// Training's denoising loss under the paper's law of times, at 2^18 fresh points that are the same for all models of
// one data set and seed, so that differences between them show. Times are stratified, uniform in log t, and weighted.
double denoising_loss(const Context& context, const Model& model, const DataSet& data, std::uint64_t seed);

// Raised where the same model and options give other numbers than before, or gap_json() other keys, so that saved ones
// are measured anew.
constexpr int gap_version = 3;

struct MeasuredGap {
  SamplerGap gap;
  std::optional<ResidualStatistics> residual;  // of a potential, and not in half precision
  std::vector<RadialSlopes> slopes;            // of a potential, at the times of gap.over_time
  Precision precision = Precision::fp32;       // of the context
  double measure_seconds = 0;                  // without sampling
};

// The steps of measure(), for progress, are the stages of the gap; the residual and the slopes are in the last.
constexpr int gap_stages = 3;

// The gap, residual and slopes. Where `saved` names a file, the samples so far are saved there after a part once its
// seconds between saves are over and at the end of each sampler, and a later call goes on from them.
MeasuredGap measure(const Context& context, const Model& model, const GroundTruth& truth, const TimeGrid& grid,
                    GapOptions options, const StepBegins& step, const SavedWork& saved = {});

// Of both samplers.
Warnings warnings_of(const SamplerGap& gap);
// "along_eta" of the same: {eta, ode, truth, escaped, not_finite, far_out, warnings, seconds}.
Json eta_json(const EtaLaw& of);
// What `fokker gap --json` prints of it. grid: the text that the times come from.
Json gap_json(const MeasuredGap& measured, const GapOptions& options, const std::string& grid);
// The limits of both axes of a box of histograms and its nodes a side.
Json box_json(const Grid& box);

constexpr const char* histogram_files[] = {"ode", "sde", "truth"};
constexpr const char* over_time_file = "along_the_way";
// ode.npy, sde.npy, truth.npy in an existing folder; along_the_way.npy, [laws · times, n²] in float32 with the
// laws SDE, ODE and, for a potential, e^φ, where the gap over time was measured. Planar data only.
void save_histograms(const std::string& folder, const SamplerGap& gap, const GroundTruth& truth);

}  // namespace fokker::tools
