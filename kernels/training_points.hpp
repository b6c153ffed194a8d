#pragma once

// The points of a training iteration as functions of (seed, iteration, index): what the CPU's trainer draws, by the
// same formulas and the same Philox words (src/cpu/trainer.cpp).
#include <cmath>
#include <cstdint>

#include "data_points.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {

// What a point's time, by the time law, makes of x_0 and of normals.
FOKKER_HOST_DEVICE inline DenoisingPoint<float> denoising_time(const TrainingDraw& draw, const NetworkForm& form,
                                                               const PointKey& key) {
  float u[4], weight;
  uniforms4(key.seed, key.index, RandomUse::time, 0, key.step, u);
  const float t = draw.time(u[0], weight);
  DenoisingPoint<float> point(form, draw.sde, draw.loss_weight, t, draw.loss_weights);
  point.weight *= weight;
  return point;
}

// x: coordinates 4 quad … 4 quad + 3 of x_0, which become those of C x_t; coordinates from d on mean nothing.
FOKKER_HOST_DEVICE inline void denoising_quad(const DenoisingPoint<float>& time, const PointKey& key, int quad,
                                              float (&x)[4], float (&target)[4]) {
  normals4(key.seed, key.index, RandomUse::denoising, static_cast<std::uint32_t>(quad), key.step, target);
  for (int w = 0; w < 4; ++w) time(x[w], target[w]);
}

// A row of the data: x [d], and then its condition.
struct DataRow {
  float *x, *condition;
  int dimension;

  FOKKER_HOST_DEVICE float& operator[](int column) const {
    return column < dimension ? x[column] : condition[column - dimension];
  }
};

// Whether the point has zeros in place of its condition.
FOKKER_HOST_DEVICE inline bool drops_condition(const TrainingDraw& draw, const PointKey& key) {
  if (draw.condition_drop == 0) return false;
  float u[4];
  uniforms4(key.seed, key.index, RandomUse::condition, 0, key.step, u);
  return u[0] < draw.condition_drop;
}
FOKKER_HOST_DEVICE inline void drop_condition(const TrainingDraw& draw, const PointKey& key, float* condition) {
  if (!drops_condition(draw, key)) return;
  for (int j = 0; j < draw.condition; ++j) condition[j] = 0;
}

// Denoising point `index`, all of it by one thread: a row of the data as data_point() takes it, whose x becomes C x_t,
// and target [d] in any memory.
template <class Row>
FOKKER_HOST_DEVICE inline void denoising_point(const TrainingDraw& draw, const NetworkForm& form,
                                               std::uint64_t iteration, std::uint64_t index, float& t, const Row& x,
                                               float* target, float& weight) {
  const PointKey key{draw.seed, index, iteration};
  const DenoisingPoint<float> time = denoising_time(draw, form, key);
  t = time.time;
  weight = time.weight;
  data_point(draw.data, key, x);
  const int d = draw.dimension();
  for (int quad = 0; quad < quads_of(d); ++quad) {
    float part[4], part_target[4];
    for (int w = 0; w < 4; ++w) part[w] = 4 * quad + w < d ? x[4 * quad + w] : 0;
    denoising_quad(time, key, quad, part, part_target);
    for (int w = 0; w < 4; ++w) {
      if (4 * quad + w < d) {
        x[4 * quad + w] = part[w];
        target[4 * quad + w] = part_target[w];
      }
    }
  }
}

// Collocation point `index`, uniform on [t_min, T] × [−box, box]^d: word w of its block b is that of coordinate
// 4 b + w of (t, x).
FOKKER_HOST_DEVICE inline void collocation_point(const TrainingDraw& draw, std::uint64_t iteration, std::uint64_t index,
                                                 float& t, float* x) {
  const int d = draw.dimension();
  for (int block = 0; 4 * block <= d; ++block) {
    float u[4];
    uniforms4(draw.seed, index, RandomUse::collocation, static_cast<std::uint32_t>(block), iteration, u);
    for (int w = 0; w < 4; ++w) {
      const int j = 4 * block + w - 1;
      if (j < 0) {
        t = draw.time.t_min + (draw.time.horizon - draw.time.t_min) * u[w];
      } else if (j < d) {
        x[j] = draw.box * (2 * u[w] - 1);
      }
    }
  }
}

}  // namespace fokker::kernels
