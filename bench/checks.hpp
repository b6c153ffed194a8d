#pragma once

// What the benchmarks of both backends share: a field evaluation as a work with its check against the tests' reference,
// how they report, and their arguments.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "reference_network.hpp"
#include "work.hpp"

namespace fokker::bench {

// Leaves the benchmark with a message and makes the program end with exit code 1.
void fail(benchmark::State& state, const std::string& message);
bool any_failed();

double seconds(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

inline std::vector<double> widen(const std::vector<float>& v) { return {v.begin(), v.end()}; }

inline constexpr double roundoff = std::numeric_limits<float>::epsilon() / 2;

// n indices spread over [0, all), the first and the last among them.
inline std::int64_t spread(std::int64_t k, std::int64_t n, std::int64_t all) {
  return n == 1 ? 0 : k * (all - 1) / (n - 1);
}

// How many points of `all` an evaluation of one point leaves in a fifth of a second.
template <class Evaluate>
std::int64_t affordable(std::int64_t all, Evaluate&& evaluate) {
  const double one = seconds([&] { evaluate(all / 2); });
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(0.2 / one), 2, all);
}

// What a network's outputs are multiplied by to make the score: 1, or for a noise net −1/σ, under the Ornstein–Uhlenbeck
// process of rate 1 that all models here have.
inline double output_factor(const Architecture& architecture, double t) {
  return architecture.form.form == Form::noise ? -1 / std::sqrt(-std::expm1(-2 * t) / 2) : 1;
}

// The reference's score or residual at one point, in numbers S.
template <class S>
std::vector<S> reference_field(const testing::ReferenceNetwork& net, const std::vector<S>& parameters,
                               const testing::ReferenceSde& sde, bool residual, double t, const double* x,
                               double factor = 1) {
  const auto out = testing::reference_outputs<S>(net, parameters, t, x,
                                                 residual ? testing::diagonal_pairs(net.dimension) : testing::Pairs());
  if (residual) return {testing::residual_of(out[0], sde, net.dimension, t, x)};
  if (net.potential) return {out[0].first.begin() + 1, out[0].first.end()};
  std::vector<S> score;
  for (const auto& jet : out) score.push_back(S(factor) * jet.value);
  return score;
}

struct FieldWork {
  Model model;
  std::int64_t n;
  bool residual;  // else the score
  double sweeps;

  const Architecture& architecture() const { return std::get<Mlp>(model.network).architecture; }
  std::int64_t columns() const { return residual ? 1 : model.dimension(); }
  RandomPoints points() const { return random_points(model.sde, model.dimension(), n, 1); }
  // The matrix products of one evaluation, and nothing else, count.
  double flop() const { return sweeps * flop_per_sweep(architecture()) * static_cast<double>(n); }
  // `at` and `result` are on the device of the fields' context.
  void evaluate(const Fields<float>& fields, const Points<float>& at, View<float> result) const;
};

// A work's fields of points into `result`, both on a context's device.
using FieldEvaluation = std::function<void(const Points<float>& at, View<float> result)>;

// Against the reference in double at as many points as take a fifth of a second, with bounds from runs of it whose
// operations err by up to `unit`, the unit roundoff of the precision. Returns a sentence where the result is wrong.
std::string check_fields(const Context& context, const FieldWork& work, double unit, const FieldEvaluation& evaluate);
std::string check_fields(const Context& context, const FieldWork& work, double unit);  // of Fields<float>

// One training iteration on circles2: points, times and noise drawn, both losses, their gradient, Adam. A vector net
// has no collocation points.
struct TrainWork {
  Model model;
  std::int64_t denoising, collocation;

  const Architecture& architecture() const { return std::get<Mlp>(model.network).architecture; }
  // The matrix products alone: a vector net is swept forward, in reverse and for the gradient.
  double flop() const {
    const double sweeps = architecture().output == Output::potential ? 6 : 3, residual_sweeps = 12;
    return flop_per_sweep(architecture()) *
           (sweeps * static_cast<double>(denoising) + residual_sweeps * static_cast<double>(collocation));
  }
  TrainOptions options() const { return paper_training(denoising, collocation); }
};

// Losses and their gradient, of views on a context's device, as Loss<float>::evaluate at residual weight 1.
using LossEvaluation =
    std::function<void(View<const float> parameters, const DenoisingBatch<float>& denoising,
                       const CollocationBatch<float>& collocation, View<double> values, View<float> gradient)>;

// Losses and gradient against the tests' reference and the CPU's in double, with bounds that are multiples of `unit`.
std::string check_losses(const Context& context, const TrainWork& work, double unit, const LossEvaluation& evaluate);
// check_losses() of Loss<float>; then the trainer's first iteration against losses of other draws of the same laws.
std::string check_training(const Context& context, const TrainWork& work, double unit);
// Two iterations of new trainers in a group against two of each of the others, which are their equals: the same bits.
std::string check_together(TrainingGroup together, std::vector<Trainer>& alone);

// The value of --NAME=VALUE, taken out of the arguments.
std::optional<std::string> take(int& argc, char** argv, const std::string& name);

}  // namespace fokker::bench
