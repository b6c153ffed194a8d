#pragma once

// Cases of tests of fields and losses: architectures, SDEs, and names as parameters of tests.
#include <fmt/ranges.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fokker/model.hpp"

namespace fokker::testing {

inline Architecture architecture_of(std::int64_t d, std::vector<std::int64_t> hidden, Activation activation,
                                    double beta, Output output) {
  Architecture a;
  a.dimension = d;
  a.hidden = std::move(hidden);
  a.activation = activation;
  a.beta = beta;
  a.output = output;
  return a;
}

// In turn from case to case.
inline constexpr SdeKind sde_kinds[] = {SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp,
                                        SdeKind::ve};

// Filters pick cases by these names, such as 2d_80x80x80_n19_tanh_potential. `points` says how many there are.
inline std::string case_name(const Architecture& a, const std::string& points) {
  return fmt::format("{}d_{}_{}_{}_{}", a.dimension, fmt::join(a.hidden, "x"), points, to_string(a.activation),
                     to_string(a.output));
}

}  // namespace fokker::testing
