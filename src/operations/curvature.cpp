#include "operations/curvature.hpp"

#include <fmt/format.h>

#include "fokker/error.hpp"

namespace fokker {

std::string why_no_curvature(const Architecture& architecture) {
  const std::optional<Activation> kinked = architecture.kinked();
  if (architecture.output != Output::potential || !kinked) return "";
  return fmt::format(
      "a potential net of {}, whose σ′ or σ″ jumps at 0, so that derivatives such as the Laplacian and its gradient "
      "would lack delta functions; allowed: a smooth activation, or a vector net",
      to_string(*kinked));
}

std::string why_no_residual_gradient(const Architecture& architecture) {
  for (const BranchLayer& layer : architecture.time.layers) {
    if (!traits_of(layer.activation.activation).kinked) continue;
    return fmt::format(
        "a potential net with a time branch of {}, whose σ′ or σ″ jumps at 0, so that the gradient of ∂_t φ would lack "
        "delta functions; allowed: a smooth activation there",
        to_string(layer.activation.activation));
  }
  return "";
}

std::string why_no_curvature(const Model& model) {
  if (const auto* mlp = std::get_if<Mlp>(&model.network)) return why_no_curvature(mlp->architecture);
  const auto* composition = std::get_if<Composition>(&model.network);
  if (!composition) return "";
  for (std::size_t k = 0; k < composition->terms.size(); ++k) {
    const std::string why = why_no_curvature(composition->terms[k].model);
    if (!why.empty()) return fmt::format("a composition whose term {} is {}", k, why);
  }
  return "";
}

void check_curvature(const char* what, const std::string& why_not) {
  if (!why_not.empty()) throw Error(fmt::format("{} is asked for of {}", what, why_not));
}

}  // namespace fokker
