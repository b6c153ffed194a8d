#pragma once

// The ODE–SDE gap of a model: how far the law of its probability flow lies from that of its reverse SDE, and both from
// the data. The distance is W2² between histograms in the plane, with the sliced W2² beside it where that is asked for,
// and the sliced W2² in other dimensions, in squared units of x. A distance says something only where it is above the
// noise floor, the distance of two such draws of the data, and where few samples escaped.
//
// Samples are drawn on the context; transports are solved on the host, one a thread. All calls wait for their results.
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "fokker/context.hpp"
#include "fokker/data.hpp"
#include "fokker/model.hpp"
#include "fokker/public.hpp"
#include "fokker/sampler.hpp"
#include "fokker/time_grid.hpp"
#include "fokker/transport.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

// The samples of a planar law that sliced distances take, the first ones: 2^17 in 1 MB, so that of the millions that a
// histogram may have, which are drawn in parts and saved, no more are kept.
inline constexpr std::int64_t most_sliced = std::int64_t{1} << 17;

// A law as its samples show it: their histogram in the plane, and the samples themselves, in the plane the first of them.
struct EmpiricalLaw {
  std::int64_t dimension = 2;
  std::optional<Histogram> histogram = {};  // d = 2
  // [N, d] on the context's device; of a law with a histogram up to most_sliced of them, or none where no sliced distance
  // was asked for.
  Buffer<float> samples = {};
  // The share of the samples outside the box of a histogram, which its distances leave out; without one of those that
  // are not finite or far out, of which distances leave out the former.
  double escaped = 0;
  SampleHealth health = {};
};

// The law of samples [N, d] on the context's device, with a histogram on `box` for d = 2. `far`: of sample_health().
// Throws Error as histogram().
EmpiricalLaw empirical_law(const Context& context, Buffer<float> samples, const Grid& box = {},
                           double far = std::numeric_limits<double>::infinity());
// The same without a histogram, and with all samples, in any dimension.
EmpiricalLaw law_of_points(const Context& context, Buffer<float> samples,
                           double far = std::numeric_limits<double>::infinity());

// W2² of two histograms on one grid, or the sliced W2² of samples, which is its own dual value; not a number where a
// side has no sample left. Throws Error where the dimensions or the grids differ.
TransportResult w2_squared(const Context& context, const EmpiricalLaw& a, const EmpiricalLaw& b);
// The sliced W2² of the samples that two laws have, in the plane too; not a number where those of a side are none of
// them finite. Throws Error where the dimensions differ or a law has no samples.
double sliced_w2_squared(const Context& context, const EmpiricalLaw& a, const EmpiricalLaw& b);

enum class GapStage { sde_samples, ode_samples, distances };

// What a sampler has drawn.
struct DrawnSamples {
  std::int64_t drawn = 0;  // samples, the first ones
  double seconds = 0;      // that they took
  // d = 2: of the samples on the box, in detail on its half spacing, then at each of the times of GapOverTime.
  std::vector<Histogram> histograms = {};
  // [drawn, d] on the host; for d = 2 the first most_sliced of them, or none where no sliced distance is asked for.
  std::vector<float> samples = {};
  SampleHealth health = {};  // d = 2
};
struct GapState {
  DrawnSamples sde = {}, ode = {};
};

struct GapOptions {
  std::int64_t samples = 100000;      // of each sampler and of the data, 1 or more
  std::uint64_t seed = 0;             // of the prior and the noise; the data are drawn apart from training's
  Scheme ode_scheme = Scheme::euler;  // euler, heun or rk4; the reverse SDE is integrated by Euler–Maruyama
  // For d = 2: also the gap at times between T and the end, and at the end on nodes half as far apart.
  bool in_detail = false;
  bool sliced = false;  // for d = 2 also the sliced distances, of the first most_sliced samples
  Grid box = {};        // of the histograms, up to 256 nodes a side; up to 128 in detail
  // Called at the beginning of each stage with the fraction of it that `from` has, then with the fraction that is done.
  std::function<void(GapStage, double)> progress = {};
  // Called with the samples so far, after parts of some seconds each; without it all are drawn at once. `from` is such
  // a state of an earlier call with the same model, time grid and options, to go on from with the same result.
  std::function<void(const GapState&)> save = {};
  GapState from = {};

  // What draws samples [n, d] on the context's device in place of a Sampler of the model along the time grid, to the bits
  // of its sample(), for a caller who has others draw some of them.
  std::function<void(View<float>, const SampleOptions&)> draw = {};

  void validate() const;  // throws Error where a number is out of its range
};

// What a perfect sampler draws: `samples` of the data, and the noise floor, the distance of two further such draws.
struct GroundTruth {
  EmpiricalLaw law = {};
  double noise_floor = 0;
  double far = std::numeric_limits<double>::infinity();  // DataScale::far() of the data, for the samplers' health
  // That of sliced distances: the same for d ≠ 2, and for d = 2 only where these are asked for.
  std::optional<double> sliced_noise_floor = {};
};
// Reads samples, seed, sliced and box of the options. Throws Error where no draw falls into the box.
GroundTruth ground_truth(const Context& context, const DataSet& data, const GapOptions& options = {});

// The numbers of the steps of a grid, from 1, after which the gap over time is measured: the last, and those whose
// times are nearest to T, 0.3 T, 0.1 T, 0.05 T, 0.02 T, … 0.002 T. They increase; there are at most nine.
std::vector<std::int32_t> gap_steps(const TimeGrid& grid);

// The noise floor of the forward SDE's law at each of `times`, of planar data: the distance of two draws of x_0 and of
// the noise. Reads samples, seed and box of the options. The SDE is of the data's own coordinates, so that beside a
// standardised model neither `data` nor its standardised() law has these marginals in x. Throws Error where the data
// are not planar.
std::vector<double> marginal_noise_floors(const Context& context, const ForwardSde& sde, const DataSet& data,
                                          const std::vector<double>& times, const GapOptions& options = {});

// e^φ at each of `times`, restricted to the box and normalised there: weights [times][n²], index n·iy + ix, each the
// mass of the points of the box that are nearest to its node; all 0 where e^φ is not finite. Throws Error where the
// model is not a planar potential.
std::vector<std::vector<double>> potential_on_grid(const Context& context, const Model& model,
                                                   const std::vector<double>& times, const Grid& box = {});

// The laws of both samplers and e^φ in the box at K times, from the paths of the gap's samples.
struct GapOverTime {
  std::vector<std::int32_t> steps = {};             // [K] gap_steps() of the grid
  std::vector<double> times = {};                   // [K] after those steps, from T down
  std::vector<Histogram> sde = {}, ode = {};        // [K]
  std::vector<std::vector<double>> potential = {};  // [K] of potential_on_grid(); empty for a vector score
  std::vector<TransportResult> ode_sde = {};        // [K]
  std::vector<TransportResult> potential_sde = {}, potential_ode = {};  // [K]; empty for a vector score
};

// Sliced W2² in the plane, of the first `samples` of each law.
struct SlicedGap {
  std::int64_t samples = 0;
  double ode_sde = 0, ode_truth = 0, sde_truth = 0, noise_floor = 0;
};

struct SamplerGap {
  EmpiricalLaw ode = {}, sde = {};
  TransportResult ode_sde = {}, ode_truth = {}, sde_truth = {};
  double noise_floor = 0, truth_escaped = 0;  // of the ground truth
  std::optional<SlicedGap> sliced = {};       // for d = 2, where it is asked for
  // In detail and for d = 2. The distance is between the same samples as ode_sde, on nodes half as far apart.
  std::optional<TransportResult> ode_sde_at_half_spacing = {};
  std::optional<GapOverTime> over_time = {};
  double sde_seconds = 0, ode_seconds = 0;  // of sampling, with those of earlier calls
  double distance_seconds = 0;

  // The share of ode_sde that is the grid's, extrapolated linearly in the spacing; negative values are noise. Nothing
  // where the half spacing was not measured.
  std::optional<double> grid_share() const;
};

// Draws from both samplers along `grid`, which starts at T, and compares them with each other and with the truth, in x
// whatever the model's standardisation: columns of larger numbers count more, and the box has to hold x. Both
// start from the same draw of the prior. Throws Error where dimensions, boxes or `from` do not fit.
SamplerGap measure_gap(const Context& context, const Model& model, const GroundTruth& truth, const TimeGrid& grid,
                       const GapOptions& options = {});
// The same, with the ground truth of `data`.
SamplerGap measure_gap(const Context& context, const Model& model, const DataSet& data, const TimeGrid& grid,
                       const GapOptions& options = {});

// The law of a member of the family dx = [a x − ½ (1 + η²) g² s] dt + η g dW̄ by Euler–Maruyama (sampler.hpp), whose members
// all have the forward SDE's marginals where the score is exact.
struct EtaLaw {
  double eta = 0;
  EmpiricalLaw law = {};                 // without its samples
  TransportResult ode = {}, truth = {};  // distances to the probability flow's law and to the truth
  double seconds = 0;                    // of sampling
};
// The gap as a curve: for each of `etas`, 0 to 100, as many samples as a gap has, from the same prior and by the same
// noise, so that at η = 1 they are those of the reverse SDE, and their distances to the probability flow's law `ode` and
// to the truth. Reads samples, seed, box and progress of the options: GapStage::sde_samples while it draws. Throws Error
// as measure_gap() does, and for an η out of range.
std::vector<EtaLaw> gap_along_eta(const Context& context, const Model& model, const GroundTruth& truth,
                                  const EmpiricalLaw& ode, const TimeGrid& grid, const std::vector<double>& etas,
                                  const GapOptions& options = {});

}  // namespace fokker
