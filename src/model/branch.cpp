#include "model/branch.hpp"

#include "fokker/formulas/activation.hpp"

namespace fokker {

std::vector<double> dense(const double* weights, std::int64_t inputs, const double* biases, std::int64_t outputs,
                          const std::vector<double>& h) {
  std::vector<double> z(biases, biases + outputs);
  for (std::int64_t j = 0; j < outputs; ++j) {
    for (std::size_t i = 0; i < h.size(); ++i) z[j] += weights[j * inputs + static_cast<std::int64_t>(i)] * h[i];
  }
  return z;
}

std::vector<double> embedding(const Branch& branch, const double* parameters, std::vector<double> h) {
  for (std::int64_t k = 0; k < std::ssize(branch.layers); ++k) {
    const BranchLayer& layer = branch.layers[static_cast<std::size_t>(k)];
    h = dense(parameters + branch.weight_offset(k), branch.inputs_of(k), parameters + branch.bias_offset(k),
              layer.width, h);
    with_activation(layer.activation.activation, layer.activation.beta, [&](const auto& sigma) {
      for (double& z : h) z = sigma(z).value;
    });
  }
  return h;
}

}  // namespace fokker
