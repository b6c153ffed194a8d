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
  bool kinked = a.activations.empty() && traits_of(a.activation).kinked;
  for (const LayerActivation& own : a.activations) kinked = kinked || traits_of(own.activation).kinked;
  return a.output == Output::score || !kinked;
}

// Of rows of `width` numbers those from `first` on, `count` of each.
template <class T>
std::vector<T> columns_of(const std::vector<T>& rows, std::int64_t width, std::int64_t first, std::int64_t count) {
  std::vector<T> part;
  for (auto row = rows.begin(); row != rows.end(); row += width) {
    part.insert(part.end(), row + first, row + first + count);
  }
  return part;
}

struct NamedNetwork {
  std::string name;
  Architecture architecture;
};

// Networks with time branches, residual connections, activations of each layer and fixed layers: what people build, and
// what is awkward.
inline std::vector<NamedNetwork> branched_networks(Output output) {
  const LayerActivation silu{Activation::silu, 1}, gelu{Activation::gelu, 1}, linear{Activation::identity, 1},
      sine{Activation::sine, 1};
  const BranchLayer sines{8, sine, true};
  const auto network = [&](std::int64_t d, std::vector<std::int64_t> hidden, Activation activation,
                           std::vector<BranchLayer> time, std::vector<std::int64_t> into) {
    Architecture a = architecture_of(d, std::move(hidden), activation, 3, output);
    a.time = {std::move(time), std::move(into)};
    return a;
  };
  std::vector<NamedNetwork> all;
  const auto add = [&](std::string name, Architecture a) {
    all.push_back({name + "_" + std::string(to_string(output)), std::move(a)});
    return &all.back().architecture;
  };
  add("embedding_beside_x", network(2, {13, 9}, Activation::silu, {sines, {7, silu}}, {0}));
  add("embedding_into_all", network(3, {8, 17, 5}, Activation::tanh, {{5, silu}}, {0, 1, 2, 3}));
  add("time_into_later_layers", network(2, {7, 16}, Activation::softplus, {}, {1, 2}));
  add("no_time", network(2, {7, 9}, Activation::silu, {}, {}));
  add("branch_deeper_than_trunk", network(1, {6}, Activation::sine, {sines, {9, silu}, {1, gelu}, {11, linear}}, {0}));
  add("linear_branch_into_output", network(4, {24}, Activation::mish, {{3, linear}}, {1}));
  add("residual_80", network(2, {80, 80, 80}, Activation::silu, {}, {0}))->residual = {1, 2};
  add("residual_of_one_unit", network(2, {1, 1, 1}, Activation::tanh, {{2, silu}}, {1}))->residual = {1, 2};
  Architecture* a =
      add("residual_blocks", network(2, {16, 11, 11, 11, 5}, Activation::gelu, {sines, {6, gelu}}, {1, 2}));
  a->activations = {sine, gelu, gelu, gelu, silu}, a->residual = {2, 3}, a->fixed = {0};
  a = add("encoders", network(3, {12, 9, 20, 20}, Activation::silu, {{7, silu}, {9, linear}}, {2}));
  a->activations = {silu, linear, silu, silu}, a->residual = {3}, a->fixed = {1, 4};
  return all;
}

// Networks that take a condition beside the time.
inline std::vector<NamedNetwork> conditional_networks(Output output) {
  const LayerActivation silu{Activation::silu, 1}, mish{Activation::mish, 1}, linear{Activation::identity, 1},
      sine{Activation::sine, 1};
  std::vector<NamedNetwork> all;
  const auto add = [&](std::string name, std::int64_t d, std::vector<std::int64_t> hidden, Activation activation,
                       Branch condition) {
    Architecture a = architecture_of(d, std::move(hidden), activation, 3, output);
    a.condition = std::move(condition);
    all.push_back({name + "_" + std::string(to_string(output)), std::move(a)});
    return &all.back().architecture;
  };
  add("condition_beside_x", 2, {13, 9}, Activation::silu, {{}, {0}, {}, 1});
  add("condition_of_77", 1, {20, 6}, Activation::tanh, {{}, {0, 1, 2}, {}, 77});
  add("condition_into_output", 3, {9}, Activation::softplus, {{{5, silu}}, {1}, {}, 2});
  Architecture* a = add("state_and_time", 2, {24, 17}, Activation::mish, {{{7, mish}, {4, linear}}, {0, 1, 2}, {}, 3});
  a->time = {{{8, sine, true}, {6, silu}}, {0, 1}};
  a = add("condition_of_residual_blocks", 2, {16, 16, 16}, Activation::silu,
          {{{6, sine, true}, {9, silu}}, {1}, {}, 5});
  a->time = {{}, {0, 2}}, a->residual = {1, 2}, a->fixed = {0};
  a = add("fixed_condition", 4, {11, 5}, Activation::gelu, {{{6, sine, true}}, {0}, {}, 2});
  return all;
}

// Both kinds.
inline std::vector<NamedNetwork> all_networks(Output output) {
  std::vector<NamedNetwork> all = branched_networks(output);
  for (NamedNetwork& network : conditional_networks(output)) all.push_back(std::move(network));
  return all;
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
