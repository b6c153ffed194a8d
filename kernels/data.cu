// Draws of x_0 by the rules of formulas/data.hpp.
//
// Data path: a thread has one point of a planar set, and four coordinates (a Philox block of normals) of the others,
// for which it chooses the component or the stored sample again: ten rounds of Philox are less than an exchange. Where
// covariances are full, the normals of a few points are put in shared memory first, and then each thread has one
// coordinate x_l = μ_l + Σ_j z_j √λ_j q_jl, neighbours reading neighbouring factors. Cost: the output's bandwidth and
// about 200 instructions a block of normals; O(d²) a point for full covariances.
// Ours and not Thrust's, so that the emulation and its racecheck run it as every kernel (CONTRIBUTING.md).
#include <algorithm>
#include <cstdint>

#include "data_launch.hpp"
#include "data_points.hpp"
#include "device.hpp"
#include "grid.hpp"

namespace fokker::kernels {
namespace {

constexpr int full_threads = 128;

struct DrawKernelArguments {
  DataSource data;
  DrawArguments draw;
};

__device__ PointKey key_of(const DrawArguments& draw, std::int64_t i) {
  return {draw.seed, draw.first_index + static_cast<std::uint64_t>(i), draw.step};
}

__global__ void draw_planar(DrawKernelArguments a) {
  for (std::int64_t i = first_item(); i < a.draw.n; i += item_stride()) {
    const PlanePoint p = planar_point(a.data.kind, key_of(a.draw, i));
    a.draw.out[2 * i] = p.x;
    a.draw.out[2 * i + 1] = p.y;
  }
}

__global__ void draw_quads(DrawKernelArguments a) {
  const std::int64_t d = a.data.dimension, quads = quads_of(a.data.dimension);
  for (std::int64_t item = first_item(); item < a.draw.n * quads; item += item_stride()) {
    const std::int64_t i = item / quads, quad = item - i * quads;
    const PointKey key = key_of(a.draw, i);
    float x[4];
    data_quad(a.data, key, chosen_of(a.data, key), static_cast<int>(quad), x);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (4 * quad + w < d) a.draw.out[i * d + 4 * quad + w] = x[w];
    }
  }
}

// Points that a block takes at a time: enough coordinates for its threads.
FOKKER_HOST_DEVICE inline int full_points(int dimension) {
  const int points = 4 * full_threads / dimension;
  return points > 1 ? points : 1;
}

__global__ void draw_full(DrawKernelArguments a) {
  const MixtureDraw& mixture = a.data.mixture;
  const std::int64_t d = a.data.dimension, quads = quads_of(a.data.dimension);
  const int points = full_points(a.data.dimension);
  float* const z = shared_array<float>();                                                          // [points, 4 quads]
  int* const component = shared_array<int>(static_cast<int>(sizeof(float) * points * 4 * quads));  // [points]
  for (std::int64_t first = static_cast<std::int64_t>(block_index()) * points; first < a.draw.n;
       first += static_cast<std::int64_t>(grid_blocks()) * points) {
    const std::int64_t left = a.draw.n - first, count = left < points ? left : points;
    for (std::int64_t item = thread_index(); item < count * quads; item += block_threads()) {
      const std::int64_t i = item / quads, quad = item - i * quads;
      const PointKey key = key_of(a.draw, first + i);
      float normals[4];
      data_normals(key, static_cast<int>(quad), normals);
#pragma unroll
      for (int w = 0; w < 4; ++w) z[4 * item + w] = normals[w];
      if (quad == 0) component[i] = static_cast<int>(chosen_of(a.data, key));
    }
    sync_block();
    for (std::int64_t item = thread_index(); item < count * d; item += block_threads()) {
      const std::int64_t i = item / d, l = item - i * d, k = component[i];
      float x = mixture.means[k * d + l];
      for (std::int64_t j = 0; j < d; ++j) x += z[4 * i * quads + j] * mixture.factors[(k * d + j) * d + l];
      a.draw.out[first * d + item] = x;
    }
    sync_block();
  }
}

}  // namespace

Status launch_draw(const DataSource& data, const DrawArguments& draw, Stream stream) {
  if (draw.n == 0) return 0;
  const DrawKernelArguments arguments{data, draw};
  if (is_planar(data.kind)) return launch(draw_planar, one_item_a_thread(draw.n), stream, arguments);
  const int quads = quads_of(data.dimension);
  if (!has_full_covariance(data)) return launch(draw_quads, one_item_a_thread(draw.n * quads), stream, arguments);
  const int points = full_points(data.dimension);
  const std::int64_t blocks = std::min<std::int64_t>((draw.n + points - 1) / points, 1 << 14);
  const int shared_bytes = points * static_cast<int>(4 * quads * sizeof(float) + sizeof(int));
  return launch(draw_full, {static_cast<int>(blocks), full_threads, shared_bytes}, stream, arguments);
}

}  // namespace fokker::kernels
