#include "cuda/time_biases.hpp"

#include <algorithm>

#include "model/branch.hpp"

namespace fokker::cuda {

Mlp without_time(const Mlp& mlp) {
  const Architecture& a = mlp.architecture;
  Mlp plain{a, {}};
  plain.architecture.time = {};
  plain.parameters.assign(static_cast<std::size_t>(plain.architecture.parameter_count()), 0.0);
  for (std::int64_t l = 0; l < a.layers(); ++l) {
    const std::int64_t columns = a.inputs(l) - a.embedded(l), to_inputs = plain.architecture.inputs(l);
    const double* from = &mlp.parameters[a.weight_offset(l) + a.embedded(l)];
    double* to = &plain.parameters[plain.architecture.weight_offset(l) + to_inputs - columns];
    for (std::int64_t j = 0; j < a.outputs(l); ++j) std::copy_n(from + j * a.inputs(l), columns, to + j * to_inputs);
  }
  return plain;
}

int TimeBiases::stride() const {
  const Architecture& a = mlp_->architecture;
  const auto hidden = static_cast<int>(a.hidden.size());
  return hidden * width_ + (static_cast<int>(a.outputs(hidden)) + 1) / 2 * 2;
}

std::int32_t TimeBiases::row(float time) {
  const auto [place, is_new] = index_.try_emplace(time, static_cast<std::int32_t>(index_.size()));
  if (!is_new) return place->second;
  const Architecture& a = mlp_->architecture;
  rows_.resize(rows_.size() + static_cast<std::size_t>(stride()));
  float* const row = rows_.data() + rows_.size() - stride();
  const std::vector<double> e =
      embedding(a.time, mlp_->parameters.data() + a.time_offset(), {static_cast<double>(time)});
  for (std::int64_t l = 0; l < a.layers(); ++l) {
    const std::vector<double> bias =
        dense(&mlp_->parameters[a.weight_offset(l)], a.inputs(l), &mlp_->parameters[a.bias_offset(l)], a.outputs(l),
              a.embedded(l) > 0 ? e : std::vector<double>());
    std::copy(bias.begin(), bias.end(), row + l * width_);
  }
  return place->second;
}

}  // namespace fokker::cuda
