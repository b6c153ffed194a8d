#pragma once

// One table of operations per backend. The public classes validate once and then call these; an implementation may
// trust its arguments' shapes, devices and finiteness of scalars.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fokker/adaptive_sampler.hpp"
#include "fokker/context.hpp"
#include "fokker/data.hpp"
#include "fokker/fields.hpp"
#include "fokker/loss.hpp"
#include "fokker/sampler.hpp"
#include "fokker/trainer.hpp"
#include "fokker/transport.hpp"

namespace fokker {

// What the public classes allow, on every backend.
inline constexpr std::int64_t largest_hessian = 64;  // dimensions
inline constexpr int most_probes = 65536;            // of Hutchinson's estimate

template <class T>
class FieldOperator {
 public:
  virtual ~FieldOperator() = default;
  virtual void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& divergence) = 0;
  virtual void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) = 0;
  // The device memory beside the parameters, which an application has to leave free; the CPU's scratch is its threads'.
  virtual std::size_t workspace_bytes() const { return 0; }
};

template <class T>
class LossOperator {
 public:
  virtual ~LossOperator() = default;
  virtual void evaluate(View<const T> parameters, const DenoisingBatch<T>& denoising,
                        const CollocationBatch<T>& collocation, double residual_weight, View<double> values,
                        View<T> gradient) = 0;
  virtual std::size_t workspace_bytes() const { return 0; }
};

class SampleOperator {
 public:
  virtual ~SampleOperator() = default;
  virtual void sample(View<float> samples, const SampleOptions& options, bool draw_prior) = 0;
  virtual void log_density(View<const float> x, View<float> log_density, Scheme scheme, const Divergence& divergence,
                           const PointsFinished& progress, View<const float> condition) = 0;
  virtual std::size_t workspace_bytes() const { return 0; }
};

// Between which times an adaptive sampler works, and how; checked.
struct AdaptivePlan {
  double start, end;
  AdaptiveOptions options;
};

// Of a model with its standardisation: points are in x. Counts of paths may be 0.
template <class T>
class AdaptiveOperator {
 public:
  virtual ~AdaptiveOperator() = default;
  virtual AdaptiveReport sample(View<T> samples, const AdaptiveCall<T>& call, bool draw_prior) = 0;
  virtual AdaptiveReport log_density(View<const T> x, View<T> log_density, const Divergence& divergence,
                                     const AdaptiveCall<T>& call) = 0;
  virtual std::size_t workspace_bytes() const { return 0; }
};

// What a run has to remember besides its options.
struct TrainState {
  std::int64_t iteration = 0;
  std::vector<float> parameters, first_moment, second_moment;
  std::vector<double> average;     // running average of the parameters; empty before it begins
  std::int64_t average_count = 0;  // iterations in it
};

// A trainer of one model; a TrainGroupOperator runs its iterations.
class TrainOperator {
 public:
  virtual ~TrainOperator() = default;
  virtual std::int64_t iteration() const = 0;
  virtual TrainState state() const = 0;
  virtual void restore(TrainState state) = 0;
};

// Trainers of one backend that run together.
class TrainGroupOperator {
 public:
  virtual ~TrainGroupOperator() = default;
  // counts[k] more iterations of member k, never past its options' number. News goes to `sink` as TrainingSink says.
  // Returns whether it went on, on all ranks of the members.
  virtual bool run(std::span<const std::int64_t> counts, const TrainingSink& sink) = 0;
};

// What standardises columns: tables on the device, [columns] each.
struct Columns {
  View<const double> mean, deviation;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Device device() const = 0;
  virtual int gpu() const { return -1; }
  virtual std::string name() const = 0;
  virtual int threads() const = 0;
  virtual Precision precision() const { return Precision::fp32; }
  // What the bits of results depend on beside the arguments: on the CPU the instruction set.
  virtual std::string arithmetic() const { return name(); }
  virtual void synchronize() const = 0;
  virtual std::shared_ptr<void> allocate(std::size_t bytes) = 0;  // 64-byte aligned, zeroed, on the device
  // Between the host and the device, or within either. In order with the other operations.
  virtual void copy(const void* from, void* to, std::size_t bytes) = 0;
  virtual void draw(const DataSet& data, View<float> out, std::uint64_t seed, std::uint64_t first_index,
                    std::uint64_t step) = 0;
  // Column by column, rows of `to` from those of `from`, which may be the same: (x − mean)/deviation, and
  // mean + deviation z (formulas/standardisation.hpp). Both have as many columns as the tables.
  virtual void standardise(const Columns& columns, View<const float> from, View<float> to) = 0;
  virtual void standardise(const Columns& columns, View<const double> from, View<double> to) = 0;
  virtual void restore(const Columns& columns, View<const float> from, View<float> to) = 0;
  // Of matrices [N, d·d] the sums Σ_i weight_i M_ii [N], added in double; weights [d] on the device.
  virtual void weighted_traces(View<const double> weights, View<const float> matrices, View<float> traces) = 0;
  virtual void weighted_traces(View<const double> weights, View<const double> matrices, View<double> traces) = 0;
  // [n²] on the host: how many samples are nearest to each node; those outside or not finite are left out.
  virtual std::vector<std::int64_t> histogram(View<const float> samples, const Grid& grid) = 0;
  // Samples with a coordinate outside (−half_width, half_width), or not finite.
  virtual std::int64_t count_escaped(View<const float> samples, double half_width) = 0;
  virtual Moments moments(View<const float> samples) = 0;
  // Throws Error where one side has no finite sample.
  virtual double sliced_w2_squared(View<const float> a, View<const float> b, int projections, std::uint64_t seed) = 0;

  virtual std::unique_ptr<FieldOperator<float>> fields_float(const Model& model) = 0;
  virtual std::unique_ptr<FieldOperator<double>> fields_double(const Model& model) = 0;
  virtual std::unique_ptr<LossOperator<float>> loss_float(const Architecture& architecture, const ForwardSde& sde) = 0;
  virtual std::unique_ptr<LossOperator<double>> loss_double(const Architecture& architecture,
                                                            const ForwardSde& sde) = 0;
  virtual std::unique_ptr<SampleOperator> sampler(const Model& model, const TimeGrid& grid) = 0;
  virtual std::unique_ptr<AdaptiveOperator<float>> adaptive_float(const Model& model, const AdaptivePlan& plan) = 0;
  virtual std::unique_ptr<AdaptiveOperator<double>> adaptive_double(const Model& model, const AdaptivePlan& plan) = 0;
  // Of several ranks on the CPU, or of GpuRanks on CUDA.
  virtual std::unique_ptr<TrainOperator> trainer(const Model& initial, const DataSet& data, const TrainOptions& options,
                                                 const std::shared_ptr<Ranks>& ranks) = 0;
  // The members are this backend's, all different, and outlive the group.
  virtual std::unique_ptr<TrainGroupOperator> train_group(const std::vector<TrainOperator*>& members) = 0;
};

}  // namespace fokker
