// A condition that is one for all points is a part of the biases: with it a network is one that takes none.
#include "model/condition.hpp"

#include <cmath>
#include <limits>
#include <utility>

#include "fmt/format.h"
#include "fokker/error.hpp"
#include "fokker/model.hpp"
#include "model/branch.hpp"

namespace fokker {
namespace {

// Given what the network takes for the condition, c [inputs of the condition].
Mlp fold_condition(const Mlp& mlp, std::vector<double> c) {
  const Architecture& from = mlp.architecture;
  const double* const own = mlp.parameters.data();
  c = embedding(from.condition, own, std::move(c));
  Mlp folded{from, {own + from.time_offset(), own + from.weight_offset(0)}};
  folded.architecture.condition = Architecture{}.condition;
  for (std::int64_t l = 0; l < from.layers(); ++l) {
    const std::int64_t inputs = from.inputs(l), conditioned = from.conditioned(l), outputs = from.outputs(l);
    const double* const weights = own + from.weight_offset(l);
    for (std::int64_t j = 0; j < outputs; ++j) {
      folded.parameters.insert(folded.parameters.end(), weights + j * inputs + conditioned, weights + (j + 1) * inputs);
    }
    const std::vector<double> biases =
        dense(weights, inputs, own + from.bias_offset(l), outputs, conditioned > 0 ? c : std::vector<double>());
    folded.parameters.insert(folded.parameters.end(), biases.begin(), biases.end());
  }
  return folded;
}

Model fold_condition(const Model& model, const std::vector<double>& of_network) {
  Model folded{model.sde, fold_condition(std::get<Mlp>(model.network), of_network), model.standardisation};
  if (folded.standardisation.empty()) return folded;
  folded.standardisation = folded.standardisation.columns(0, model.dimension());
  return folded;
}

// W (y − mean)/deviation + b = W′ y + b′, of the first columns of W.
void take_unscaled(const Standardisation& y, double* weights, std::int64_t inputs, double* biases,
                   std::int64_t outputs) {
  for (std::int64_t j = 0; j < outputs; ++j) {
    for (std::size_t i = 0; i < y.mean.size(); ++i) {
      double& weight = weights[j * inputs + static_cast<std::int64_t>(i)];
      weight /= y.deviation[i];
      biases[j] -= weight * y.mean[i];
    }
  }
}

}  // namespace

Model taking_own_condition(const Model& model, bool in_float) {
  if (model.condition() == 0 || model.standardisation.empty()) return model;
  Model own = model;
  const Standardisation y = model.standardisation.columns(model.dimension(), model.condition());
  // W y and W mean, which are this many times their difference, are rounded apart.
  constexpr double most = 1000;
  for (std::size_t i = 0; in_float && i < y.mean.size(); ++i) {
    if (std::fabs(y.mean[i]) <= most * y.deviation[i]) continue;
    throw Error(fmt::format(
        "number {} of a condition has mean {} and deviation {}, so that float32 would lose it; allowed: means "
        "of up to {} deviations, with_condition(), or fields in double",
        i, y.mean[i], y.deviation[i], most));
  }
  own.standardisation = model.standardisation.columns(0, model.dimension());
  Mlp& mlp = std::get<Mlp>(own.network);
  const Architecture& a = mlp.architecture;
  double* const all = mlp.parameters.data();
  if (!a.condition.layers.empty()) {
    take_unscaled(y, all, a.condition.inputs, all + a.condition.bias_offset(0), a.condition.layers[0].width);
    return own;
  }
  for (const std::int64_t l : a.condition.into) {
    take_unscaled(y, all + a.weight_offset(l), a.inputs(l), all + a.bias_offset(l), a.outputs(l));
  }
  return own;
}

Model with_condition(const Model& model, const std::vector<double>& y) {
  model.validate();
  if (std::ssize(y) != model.condition()) {
    throw Error(fmt::format("a condition of {} numbers is given to a model that takes {}", y.size(),
                            model.condition() == 0 ? "none" : fmt::format("one of {}", model.condition())));
  }
  if (model.condition() == 0) return model;
  std::vector<double> of_network = y;
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (!std::isfinite(y[i])) throw Error(fmt::format("number {} of a condition is {}: it must be finite", i, y[i]));
    if (!model.standardisation.empty()) {
      const std::size_t column = static_cast<std::size_t>(model.dimension()) + i;
      of_network[i] = (y[i] - model.standardisation.mean[column]) / model.standardisation.deviation[column];
    }
    if (std::fabs(of_network[i]) > std::numeric_limits<float>::max()) {
      throw Error(fmt::format("number {} of a condition is {}, {:g} for the network; allowed: what float32 holds", i,
                              y[i], of_network[i]));
    }
  }
  return fold_condition(model, of_network);
}

Model without_condition(const Model& model) {
  model.validate();
  if (model.condition() == 0) return model;
  return fold_condition(model, std::vector<double>(static_cast<std::size_t>(model.condition()), 0.0));
}

}  // namespace fokker
