#pragma once

// The points of a training iteration as functions of (seed, iteration, index): what the CPU's trainer draws, by the
// same formulas and the same Philox words (src/cpu/trainer.cpp).
#include <cmath>
#include <cstdint>

#include "data_points.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {

// A time t by the time law: τ, the point's weight, and the factors of x_0 and of z in C x_t, x_t = m x_0 + σ z, and in
// the target of the network's output.
struct DenoisingTime {
  float t, weight;
  float mean, deviation;
  FormTarget<float> target;
};

FOKKER_HOST_DEVICE inline DenoisingTime denoising_time(const TrainingDraw& draw, const NetworkForm& form,
                                                       const PointKey& key) {
  float u[4];
  uniforms4(key.seed, key.index, RandomUse::time, 0, key.step, u);
  DenoisingTime time;
  const float t = draw.time(u[0], time.weight);
  const SdeCoefficients<float> sde = draw.sde.at(t);
  time.t = t;
  time.mean = sde.mean;
  time.deviation = std::sqrt(sde.variance);
  time.target = {0, -1 / time.deviation};
  FormCoefficients<float> c{0, 1, 1, t};
  if (!form.plain()) {
    c = form_at(form, draw.sde, t);
    time.target = form_target_at(form, draw.sde, t);
    time.t = c.time;
    time.mean *= c.in;
    time.deviation *= c.in;
  }
  if (draw.loss_weight != LossWeight::unit) time.weight *= c.out * c.out;
  if (draw.loss_weight == LossWeight::variance) time.weight *= sde.variance;
  return time;
}

// x: coordinates 4 quad … 4 quad + 3 of x_0, which become those of C x_t; coordinates from d on mean nothing.
FOKKER_HOST_DEVICE inline void denoising_quad(const DenoisingTime& time, const PointKey& key, int quad, float (&x)[4],
                                              float (&target)[4]) {
  float z[4];
  normals4(key.seed, key.index, RandomUse::denoising, static_cast<std::uint32_t>(quad), key.step, z);
  for (int w = 0; w < 4; ++w) {
    target[w] = time.target.of_data * x[w] + time.target.of_noise * z[w];
    x[w] = time.mean * x[w] + time.deviation * z[w];
  }
}

// Denoising point `index`, all of it by one thread: x [d] and target [d] in any memory.
FOKKER_HOST_DEVICE inline void denoising_point(const TrainingDraw& draw, const NetworkForm& form,
                                               std::uint64_t iteration, std::uint64_t index, float& t, float* x,
                                               float* target, float& weight) {
  const PointKey key{draw.seed, index, iteration};
  const DenoisingTime time = denoising_time(draw, form, key);
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
