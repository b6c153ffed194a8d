#pragma once

// The points of a training iteration as functions of (seed, iteration, index): what the CPU's trainer draws, by the
// same formulas and the same Philox words (src/cpu/trainer.cpp).
#include <cmath>
#include <cstdint>

#include "data_points.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {

// t by the time law, and what of the transition kernel x_t = m x_0 + σ z, ∇ log p(x_t | x_0) = −z/σ holds at it.
struct DenoisingTime {
  float t, weight, mean, deviation;
};

FOKKER_HOST_DEVICE inline DenoisingTime denoising_time(const TrainingDraw& draw, const PointKey& key) {
  float u[4];
  uniforms4(key.seed, key.index, RandomUse::time, 0, key.step, u);
  DenoisingTime time;
  time.t = draw.time(u[0], time.weight);
  const SdeCoefficients<float> sde = draw.sde.at(time.t);
  time.mean = sde.mean;
  time.deviation = std::sqrt(sde.variance);
  return time;
}

// x: coordinates 4 quad … 4 quad + 3 of x_0, which become those of x_t; coordinates from d on mean nothing.
FOKKER_HOST_DEVICE inline void denoising_quad(const DenoisingTime& time, const PointKey& key, int quad, float (&x)[4],
                                              float (&target)[4]) {
  float z[4];
  normals4(key.seed, key.index, RandomUse::denoising, static_cast<std::uint32_t>(quad), key.step, z);
  const float scale = -1 / time.deviation;
  for (int w = 0; w < 4; ++w) {
    x[w] = time.mean * x[w] + time.deviation * z[w];
    target[w] = scale * z[w];
  }
}

// Denoising point `index`, all of it by one thread: x [d] and target [d] in any memory.
FOKKER_HOST_DEVICE inline void denoising_point(const TrainingDraw& draw, std::uint64_t iteration, std::uint64_t index,
                                               float& t, float* x, float* target, float& weight) {
  const PointKey key{draw.seed, index, iteration};
  const DenoisingTime time = denoising_time(draw, key);
  t = time.t;
  weight = time.weight;
  data_point(draw.data, key, x);
  const int d = draw.data.dimension;
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
  const int d = draw.data.dimension;
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
