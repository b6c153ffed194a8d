// Draws of x_0 by the rules of data_formulas.hpp.
//
// Data path: a thread has one point of a planar set, and four coordinates (a Philox block of normals) of the others,
// for which it chooses the component or the stored sample again: ten rounds of Philox are less than an exchange. Where
// covariances are full, the normals of a few points are put in shared memory first, and then each thread has one
// coordinate x_l = μ_l + Σ_j z_j √λ_j q_jl, neighbours reading neighbouring factors. Cost: the output's bandwidth and
// about 200 instructions a block of normals; O(d²) a point for full covariances.
#include <algorithm>
#include <cstdint>

#include "data_launch.hpp"
#include "device.hpp"
#include "fokker/data_formulas.hpp"
#include "grid.hpp"
#include "random.hpp"

namespace fokker::kernels {
namespace {

constexpr int full_threads = 128;

__device__ std::uint64_t point_index(const DrawArguments& draw, std::int64_t i) {
  return draw.first_index + static_cast<std::uint64_t>(i);
}
__device__ void data_uniforms(const DrawArguments& draw, std::int64_t i, float (&u)[4]) {
  uniforms4(draw.seed, point_index(draw, i), RandomUse::data, 0, draw.step, u);
}
// Normals 4 quad … 4 quad + 3 of point i.
__device__ void data_normals(const DrawArguments& draw, std::int64_t i, std::int64_t quad, float (&z)[4]) {
  normals4(draw.seed, point_index(draw, i), RandomUse::data, 1 + static_cast<std::uint32_t>(quad), draw.step, z);
}

FOKKER_HOST_DEVICE inline std::int64_t quads_of(int dimension) { return (dimension + 3) / 4; }

__global__ void draw_circles2(DrawArguments draw) {
  for (std::int64_t i = first_item(); i < draw.n; i += item_stride()) {
    float u[4], z[4];
    data_uniforms(draw, i, u);
    data_normals(draw, i, 0, z);
    const PlanePoint p = circles2_point(u[0], z[0], z[1], z[2]);
    draw.out[2 * i] = p.x;
    draw.out[2 * i + 1] = p.y;
  }
}

__global__ void draw_checker(DrawArguments draw) {
  for (std::int64_t i = first_item(); i < draw.n; i += item_stride()) {
    float u[4];
    data_uniforms(draw, i, u);
    const PlanePoint p = checker_point(u[0], u[1], u[2]);
    draw.out[2 * i] = p.x;
    draw.out[2 * i + 1] = p.y;
  }
}

struct StoredArguments {
  DrawArguments draw;
  const float* samples;
  std::uint64_t count;
};

__global__ void draw_stored(StoredArguments a) {
  const std::int64_t d = a.draw.dimension, quads = quads_of(a.draw.dimension);
  for (std::int64_t item = first_item(); item < a.draw.n * quads; item += item_stride()) {
    const std::int64_t i = item / quads, first = 4 * (item - i * quads), end = first + 4 < d ? first + 4 : d;
    const PhiloxBlock words =
        philox4x32_10(a.draw.seed, point_index(a.draw, i), philox_offset(RandomUse::data, 0, a.draw.step));
    const auto chosen = static_cast<std::int64_t>(stored_sample(words.word[0], words.word[1], a.count));
    for (std::int64_t j = first; j < end; ++j) a.draw.out[i * d + j] = a.samples[chosen * d + j];
  }
}

struct MixtureDrawArguments {
  DrawArguments draw;
  MixtureDraw mixture;
};

// The number of thresholds ≤ u, by bisection.
__device__ int chosen_component(const MixtureDrawArguments& a, std::int64_t i) {
  float u[4];
  data_uniforms(a.draw, i, u);
  int low = 0, high = a.mixture.components - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (u[0] >= a.mixture.thresholds[middle]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

__global__ void draw_isotropic(MixtureDrawArguments a) {
  const std::int64_t d = a.draw.dimension, quads = quads_of(a.draw.dimension);
  for (std::int64_t item = first_item(); item < a.draw.n * quads; item += item_stride()) {
    const std::int64_t i = item / quads, quad = item - i * quads;
    const int k = chosen_component(a, i);
    const float deviation = a.mixture.deviations[k];
    float z[4];
    data_normals(a.draw, i, quad, z);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const std::int64_t j = 4 * quad + w;
      if (j < d) a.draw.out[i * d + j] = a.mixture.means[k * d + j] + deviation * z[w];
    }
  }
}

// Points that a block takes at a time: enough coordinates for its threads.
FOKKER_HOST_DEVICE inline int full_points(int dimension) {
  const int points = 4 * full_threads / dimension;
  return points > 1 ? points : 1;
}

__global__ void draw_full(MixtureDrawArguments a) {
  const std::int64_t d = a.draw.dimension, quads = quads_of(a.draw.dimension);
  const int points = full_points(a.draw.dimension);
  auto* z = reinterpret_cast<float*>(shared_memory());               // [points, 4 quads]
  auto* component = reinterpret_cast<int*>(z + points * 4 * quads);  // [points]
  for (std::int64_t first = static_cast<std::int64_t>(block_index()) * points; first < a.draw.n;
       first += static_cast<std::int64_t>(grid_blocks()) * points) {
    const std::int64_t left = a.draw.n - first, count = left < points ? left : points;
    for (std::int64_t item = thread_index(); item < count * quads; item += block_threads()) {
      const std::int64_t i = item / quads, quad = item - i * quads;
      float normals[4];
      data_normals(a.draw, first + i, quad, normals);
#pragma unroll
      for (int w = 0; w < 4; ++w) z[4 * item + w] = normals[w];
      if (quad == 0) component[i] = chosen_component(a, first + i);
    }
    sync_block();
    for (std::int64_t item = thread_index(); item < count * d; item += block_threads()) {
      const std::int64_t i = item / d, l = item - i * d, k = component[i];
      float x = a.mixture.means[k * d + l];
      for (std::int64_t j = 0; j < d; ++j) x += z[4 * i * quads + j] * a.mixture.factors[(k * d + j) * d + l];
      a.draw.out[first * d + item] = x;
    }
    sync_block();
  }
}

}  // namespace

Status launch_circles2(const DrawArguments& draw, Stream stream) {
  return draw.n == 0 ? 0 : launch(draw_circles2, one_item_a_thread(draw.n), stream, draw);
}

Status launch_checker(const DrawArguments& draw, Stream stream) {
  return draw.n == 0 ? 0 : launch(draw_checker, one_item_a_thread(draw.n), stream, draw);
}

Status launch_stored(const DrawArguments& draw, const float* samples, std::uint64_t count, Stream stream) {
  if (draw.n == 0) return 0;
  return launch(draw_stored, one_item_a_thread(draw.n * quads_of(draw.dimension)), stream,
                StoredArguments{draw, samples, count});
}

Status launch_mixture_draw(const DrawArguments& draw, const MixtureDraw& mixture, Stream stream) {
  if (draw.n == 0) return 0;
  const MixtureDrawArguments arguments{draw, mixture};
  const std::int64_t quads = quads_of(draw.dimension);
  if (mixture.deviations != nullptr) {
    return launch(draw_isotropic, one_item_a_thread(draw.n * quads), stream, arguments);
  }
  const int points = full_points(draw.dimension);
  const std::int64_t blocks = std::min<std::int64_t>((draw.n + points - 1) / points, 1 << 14);
  const int shared_bytes = points * static_cast<int>(4 * quads * sizeof(float) + sizeof(int));
  return launch(draw_full, {static_cast<int>(blocks), full_threads, shared_bytes}, stream, arguments);
}

}  // namespace fokker::kernels
