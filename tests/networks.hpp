#pragma once

// Cases of tests of fields and losses: architectures, SDEs, and names as parameters of tests.
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fokker/model.hpp"

namespace fokker::testing {

// `beta` is that of softplus; another activation's parameter is PyTorch's.
inline Architecture architecture_of(std::int64_t d, std::vector<std::int64_t> hidden, Activation activation,
                                    double beta, Output output) {
  Architecture a;
  a.dimension = d;
  a.hidden = std::move(hidden);
  a.activation = activation;
  const ActivationParameter& parameter = traits_of(activation).parameter;
  a.beta = activation == Activation::softplus || !parameter.name ? beta : parameter.usual;
  a.output = output;
  return a;
}

// Whether the network has every field and loss that its kind has: a potential of a kinked activation does not.
inline bool has_all_fields(const Architecture& a) {
  return a.output == Output::score || !traits_of(a.activation).kinked;
}

// A few activations for each of many shapes, which together meet all: the k-th, of at most these, for shape s are in turn
// the four that kernels are compiled for, and one of the others.
inline constexpr int activations_a_shape = 5;
inline Activation activation_of(std::size_t s, int k) {
  constexpr std::size_t own = activations_a_shape - 1;
  const auto i = static_cast<std::size_t>(k);
  return Activations::all[i < own ? (s + i) % own : own + s % (Activations::size - own)];
}

// In turn from case to case.
inline constexpr SdeKind sde_kinds[] = {SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp,
                                        SdeKind::ve};

// Filters pick cases by these names, such as 2d_80x80x80_n19_tanh_potential. `points` says how many there are.
inline std::string case_name(const Architecture& a, const std::string& points) {
  std::string activation(to_string(a.activation));
  std::replace(activation.begin(), activation.end(), '-', '_');
  return fmt::format("{}d_{}_{}_{}_{}", a.dimension, fmt::join(a.hidden, "x"), points, activation, to_string(a.output));
}

}  // namespace fokker::testing
