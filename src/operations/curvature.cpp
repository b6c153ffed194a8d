#include "operations/curvature.hpp"

#include <fmt/format.h>

#include "fokker/error.hpp"

namespace fokker {

std::string why_no_curvature(const Architecture& architecture) {
  if (architecture.output != Output::potential || has_curvature(architecture.activation, architecture.beta)) return "";
  const ActivationParameter& parameter = traits_of(architecture.activation).parameter;
  return fmt::format(
      "a potential net of {}, whose σ′ jumps at 0, so that second derivatives such as the Laplacian would lack delta "
      "functions; allowed: a smooth activation{}, or a vector net",
      to_string(architecture.activation), parameter.name ? fmt::format(", {} = 1", parameter.name) : "");
}

std::string why_no_curvature(const Model& model) {
  const auto* mlp = std::get_if<Mlp>(&model.network);
  return mlp ? why_no_curvature(mlp->architecture) : "";
}

void check_curvature(const char* what, const std::string& why_not) {
  if (!why_not.empty()) throw Error(fmt::format("{} is asked for of {}", what, why_not));
}

}  // namespace fokker
