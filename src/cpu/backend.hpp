#pragma once

#include "core/operations.hpp"

namespace fokker::cpu {

std::shared_ptr<Backend> make_backend(int threads);
// "AVX2, 2 threads": the instruction set that dispatch chose.
std::string describe();

// What stands behind the table, each in the file of its operation.
std::vector<std::int64_t> histogram(View<const float> samples, const Grid& grid);  // transport.cpp
std::int64_t count_escaped(View<const float> samples, double half_width);          // transport.cpp
Moments moments(View<const float> samples, int threads);                           // transport.cpp
double sliced_w2_squared(View<const float> a, View<const float> b, int projections, std::uint64_t seed,
                         int threads);  // transport.cpp
template <class T>
void standardise(const Columns& columns, View<const T> from, View<T> to,
                 int threads);  // standardise.cpp, as are these:
void restore(const Columns& columns, View<const float> from, View<float> to, int threads);
template <class T>
void weighted_traces(View<const double> weights, View<const T> matrices, View<T> traces, int threads);
template <class T>
std::unique_ptr<FieldOperator<T>> make_fields(const Model& model, int threads);  // fields.cpp
template <class T>
std::unique_ptr<LossOperator<T>> make_loss(const Architecture& architecture, const ForwardSde& sde,
                                           int threads);                                              // loss.cpp
std::unique_ptr<SampleOperator> make_sampler(const Model& model, const TimeGrid& grid, int threads);  // sampler.cpp
template <class T>
std::unique_ptr<AdaptiveOperator<T>> make_adaptive_sampler(const Model& model, const AdaptivePlan& plan,
                                                           int threads);  // adaptive_sampler.cpp
std::unique_ptr<TrainOperator> make_trainer(const Model& initial, const DataSet& data, const TrainOptions& options,
                                            int threads,
                                            const std::shared_ptr<Ranks>& ranks);                  // trainer.cpp
std::unique_ptr<TrainGroupOperator> make_train_group(const std::vector<TrainOperator*>& members);  // trainer.cpp

}  // namespace fokker::cpu
