#pragma once

// What takes second derivatives of a potential, and so σ″, is refused where σ′ or σ″ of its activation jumps.
#include <string>

#include "fokker/model.hpp"

namespace fokker {

// Why a network has no second derivatives; empty where it has, as vector nets do, of which only σ′ is taken.
std::string why_no_curvature(const Architecture& architecture);
std::string why_no_curvature(const Model& model);
// Why the residual of a potential has no gradient in the parameters, beside that; empty where it has.
std::string why_no_residual_gradient(const Architecture& architecture);
// Throws Error where there is such a reason: "the divergence is asked for of …".
void check_curvature(const char* what, const std::string& why_not);

}  // namespace fokker
