#pragma once

#include "core/operations.hpp"
#include "cuda/status.hpp"

namespace fokker::cuda {

// A backend on the device of `query`; why_not(query) has to be empty.
std::shared_ptr<Backend> make_backend(const ContextOptions& options, const DeviceQuery& query);

// As fokker::kernel_plans(); in residency.cpp.
std::vector<KernelPlan> kernel_plans(const Model& model, Precision precision, const DeviceQuery& query);

// What stands behind the table, each in the file of its operation. The arguments were checked, counts of points are
// positive, and the queue's device is the current one.
struct Queue;
template <class T>
std::unique_ptr<FieldOperator<T>> make_fields(const Queue& queue, const Model& model);  // fields.cpp
// Throws Error for float where the queue's precision is half.
template <class T>
std::unique_ptr<LossOperator<T>> make_loss(const Queue& queue, const Architecture& architecture,
                                           const ForwardSde& sde);  // loss.cpp
// Asynchronous on the queue's stream; in standardise.cpp. prepare_standardise() loads the kernels, at set-up.
void prepare_standardise();
template <class T>
void standardise(const Queue& queue, const Columns& columns, View<const T> from, View<T> to);
void restore(const Queue& queue, const Columns& columns, View<const float> from, View<float> to);
template <class T>
void weighted_traces(const Queue& queue, View<const double> weights, View<const T> matrices, View<T> traces);
std::unique_ptr<SampleOperator> make_sampler(const Queue& queue, const Model& model,
                                             const TimeGrid& grid);  // sampler.cpp
template <class T>
std::unique_ptr<AdaptiveOperator<T>> make_adaptive_sampler(const Queue& queue, const Model& model,
                                                           const AdaptivePlan& plan);  // adaptive_sampler.cpp
std::vector<std::int64_t> histogram(const Queue& queue, View<const float> samples, const Grid& grid);  // transport.cpp
// The trainer captures the queue's stream, which must not be the default stream, and of ranks is their communicator's.
// `data` outlives the trainer.
class DeviceData;
class NcclRanks;
std::unique_ptr<TrainOperator> make_trainer(const Queue& queue, const Model& initial, const DeviceData& data,
                                            const TrainOptions& options,
                                            const std::shared_ptr<NcclRanks>& ranks);  // trainer.cpp
// The members were made on one queue and have the same ranks; `own` is the context's, `training` that of no members.
std::unique_ptr<TrainGroupOperator> make_train_group(const Queue& own, const Queue& training,
                                                     const std::vector<TrainOperator*>& members);  // trainer.cpp
std::int64_t count_escaped(const Queue& queue, View<const float> samples, double half_width);      // transport.cpp
Moments moments(const Queue& queue, View<const float> samples);                                    // transport.cpp
double sliced_w2_squared(const Queue& queue, View<const float> a, View<const float> b, int projections,
                         std::uint64_t seed);  // transport.cpp

}  // namespace fokker::cuda
