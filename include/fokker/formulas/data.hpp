#pragma once

// How words become draws of x_0, for one point; shared by host and device. The words of a point of (seed, step) are
// those of RandomUse::data:
//   block 0    what chooses (component, ring, square, stored sample) and where in a square
//   block 1 …  normals
//     blob, mixture  word 0: component; d normals from block 1: x = μ_k + Σ_j √λ_j z_j q_j
//     circles2       word 0: ring; normals z_0 … z_3: direction (z_0, z_1)/|·|, radius mean + 0.1 z_2
//     checker        words 0, 1, 2: square, place in it
//     samples        words 0, 1: a 64-bit fraction of N
#include <cmath>
#include <cstdint>

#include "fokker/formulas/host_device.hpp"

namespace fokker {

enum class DataKind { blob, circles2, checker, mixture, samples };

struct PlanePoint {
  float x, y;
};

FOKKER_HOST_DEVICE inline PlanePoint circles2_point(float ring, float z0, float z1, float z2) {
  const float radius = 2.0f * ((ring < 0.5f ? 0.65f : 1.4f) + 0.1f * z2);
  const float scale = radius / std::sqrt(z0 * z0 + z1 * z1);  // a Box–Muller pair is never (0, 0)
  return {scale * z0, scale * z1};
}

// Eight squares of side 1.5, two a row with their lower left corners at y = −3, −1.5, 0, 1.5; at x = −3 and 0 in even
// rows, at x = −1.5 and 1.5 in odd ones.
FOKKER_HOST_DEVICE inline PlanePoint checker_point(float choice, float u, float v) {
  constexpr float side = 1.5f;
  const int scaled = static_cast<int>(8.0f * choice), square = scaled < 7 ? scaled : 7, row = square / 2;
  const float corner_x = side * static_cast<float>(2 * (square % 2) + row % 2 - 2);
  const float corner_y = side * static_cast<float>(row - 2);
  return {corner_x + rounded_product(side, u), corner_y + rounded_product(side, v)};
}

// ⌊count · (w_0 + w_1 2^{−32}) 2^{−32}⌋: even over any count < 2^32, to 2^{−32}.
FOKKER_HOST_DEVICE inline std::uint64_t stored_sample(std::uint32_t w0, std::uint32_t w1, std::uint64_t count) {
  return (w0 * count + ((w1 * count) >> 32)) >> 32;
}

}  // namespace fokker
