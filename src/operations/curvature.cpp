#include "operations/curvature.hpp"

#include <fmt/format.h>

#include "fokker/error.hpp"

namespace fokker {

std::string why_no_curvature(const Architecture& architecture) {
  if (architecture.output != Output::potential) return "";
  for (std::int64_t l = 0; l + 1 < architecture.layers(); ++l) {
    const Activation activation = architecture.activation_of(l).activation;
    if (!traits_of(activation).kinked) continue;
    return fmt::format(
        "a potential net of {}, whose σ′ or σ″ jumps at 0, so that derivatives such as the Laplacian and its gradient "
        "would lack delta functions; allowed: a smooth activation, or a vector net",
        to_string(activation));
  }
  return "";
}

std::string why_no_curvature(const Model& model) {
  const auto* mlp = std::get_if<Mlp>(&model.network);
  return mlp ? why_no_curvature(mlp->architecture) : "";
}

void check_curvature(const char* what, const std::string& why_not) {
  if (!why_not.empty()) throw Error(fmt::format("{} is asked for of {}", what, why_not));
}

}  // namespace fokker
