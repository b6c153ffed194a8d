// The points of a training iteration as arrays, for losses that do not draw them where they use them. A thread has four
// columns of a row of the data, x and then its condition, for which it draws the time and the component again, or the
// whole point where covariances are full. Cost: the output's bandwidth and some 600 instructions a thread.
// Ours and not Thrust's, so that the emulation and its racecheck run it as every kernel (CONTRIBUTING.md).
#include <cstdint>

#include "device.hpp"
#include "grid.hpp"
#include "training_points.hpp"

namespace fokker::kernels {
namespace {

struct PointArrays {
  TrainingDraw draw;
  NetworkForm form;
  std::int64_t first, n;
  float *t, *x, *target, *weight, *condition;

  __device__ DataRow row(std::int64_t i) const {
    return {x + i * draw.dimension(), condition + i * draw.condition, draw.dimension()};
  }
};

__device__ PointKey key_of(const PointArrays& a, std::int64_t i) {
  return {a.draw.seed, static_cast<std::uint64_t>(a.first + i), static_cast<std::uint64_t>(*a.draw.iteration)};
}

__global__ void draw_denoising_points(PointArrays a) {
  const std::int64_t d = a.draw.dimension();
  for (std::int64_t i = first_item(); i < a.n; i += item_stride()) {
    const PointKey key = key_of(a, i);
    const DataRow row = a.row(i);
    denoising_point(a.draw, a.form, key.step, key.index, a.t[i], row, a.target + i * d, a.weight[i]);
    drop_condition(a.draw, key, row.condition);
  }
}

__global__ void draw_denoising_quads(PointArrays a) {
  const std::int64_t d = a.draw.dimension(), quads = quads_of(a.draw.data.dimension);
  for (std::int64_t item = first_item(); item < a.n * quads; item += item_stride()) {
    const std::int64_t i = item / quads, quad = item - i * quads;
    const PointKey key = key_of(a, i);
    float x[4], target[4];
    data_quad(a.draw.data, key, chosen_of(a.draw.data, key), static_cast<int>(quad), x);
    if (4 * quad + 3 >= d && a.draw.condition > 0) {
      const bool drop = drops_condition(a.draw, key);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const std::int64_t column = 4 * quad + w - d;
        if (column >= 0 && column < a.draw.condition) a.condition[i * a.draw.condition + column] = drop ? 0 : x[w];
      }
    }
    if (4 * quad >= d) continue;
    const DenoisingPoint<float> time = denoising_time(a.draw, a.form, key);
    denoising_quad(time, key, static_cast<int>(quad), x, target);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (4 * quad + w < d) {
        a.x[i * d + 4 * quad + w] = x[w];
        a.target[i * d + 4 * quad + w] = target[w];
      }
    }
    if (quad == 0) {
      a.t[i] = time.time;
      a.weight[i] = time.weight;
    }
  }
}

__global__ void draw_collocation_points(PointArrays a) {
  for (std::int64_t i = first_item(); i < a.n; i += item_stride()) {
    const PointKey key = key_of(a, i);
    const DataRow row = a.row(i);
    if (a.draw.condition > 0) {
      PointKey of_data = key;
      of_data.index += static_cast<std::uint64_t>(a.draw.denoising_points);
      data_point(a.draw.data, of_data, row);
      drop_condition(a.draw, of_data, row.condition);
    }
    collocation_point(a.draw, key.step, key.index, a.t[i], row.x);
  }
}

}  // namespace

Status launch_denoising_points(const TrainingDraw& draw, const NetworkForm& form, std::int64_t first, std::int64_t n,
                               float* t, float* x, float* target, float* weight, Stream stream, float* condition) {
  if (n == 0) return 0;
  const PointArrays arguments{draw, form, first, n, t, x, target, weight, condition};
  if (is_planar(draw.data.kind) || has_full_covariance(draw.data)) {
    return launch(draw_denoising_points, one_item_a_thread(n), stream, arguments);
  }
  return launch(draw_denoising_quads, one_item_a_thread(n * quads_of(draw.data.dimension)), stream, arguments);
}

Status launch_collocation_points(const TrainingDraw& draw, std::int64_t first, std::int64_t n, float* t, float* x,
                                 Stream stream, float* condition) {
  if (n == 0) return 0;
  return launch(draw_collocation_points, one_item_a_thread(n), stream,
                PointArrays{draw, {}, first, n, t, x, nullptr, nullptr, condition});
}

}  // namespace fokker::kernels
