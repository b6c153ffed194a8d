#pragma once

// One step of each integrator, for one coordinate; shared by host and device. A step goes from time t to t + dt (dt < 0
// where samples are drawn, dt > 0 where a density is followed up to T), and the coefficients of the SDE enter
// multiplied by dt:
//   reverse SDE        x ← x + a dt x − ½ (1 + η²) g² dt s + η g √|dt| z        (Euler–Maruyama; Anderson's has η = 1)
//   probability flow   x ← x + Σ_i w_i k_i,  k_i = a dt x_i − ½ g² dt s(t_i, x_i),  t_i = t + c_i dt,
//                      x_i = x + c_i k_{i−1}
// The explicit Runge–Kutta schemes at hand (Euler, Heun, the classical fourth order) all have this chain form. A network
// whose form is not the score's (form.hpp) is folded in: with s = A x + B F, x takes what A adds to its coefficient, and F
// stands for s.
//
// Every scheme is a table of stages, whose numbers depend on the time grid alone; with the state y of a stage, which is x
// where the stage opens a step, and normals z that are one draw a step,
//   k = linear y + score F(τ, C y),  Σ ← Σ + w k, from 0 (or what was kept, γ times) where it opens
//   the next stage's y is x + c k + noise z; a stage that closes moves x ← x + Σ + noise z.
#include <cmath>

#include "fokker/formulas/host_device.hpp"
#include "fokker/formulas/sde.hpp"

namespace fokker {

// Increments of a step: linear · x + score · s + noise · z, s the network's output F where it has a form. The numbers beside
// them are Euler–Maruyama's and the flow's; other schemes have others (sampler.hpp).
template <class T>
struct StepCoefficients {
  T linear;  // a dt
  T score;   // −½ (1 + η²) g² dt of the reverse SDE, −½ g² dt of the probability flow
  T noise;   // η g √|dt|; 0 for the probability flow
};

template <class T>
FOKKER_HOST_DEVICE StepCoefficients<T> reverse_sde_step(const SdeFormulas& sde, T t, T dt, T eta = 1) {
  const SdeCoefficients<T> c = sde.at(t);
  return {c.drift * dt, T(-0.5) * (1 + eta * eta) * c.diffusion_squared * dt,
          eta * std::sqrt(c.diffusion_squared * std::fabs(dt))};
}

template <class T>
FOKKER_HOST_DEVICE StepCoefficients<T> probability_flow_step(const SdeFormulas& sde, T t, T dt) {
  const SdeCoefficients<T> c = sde.at(t);
  return {c.drift * dt, T(-0.5) * c.diffusion_squared * dt, T(0)};
}

// One evaluation of the network along a path, at (time, in · y), and what to do with it. Euler–Maruyama has one a step,
// with weight 1.
struct Stage {
  float time;          // τ(t_i)
  float node, weight;  // c_i, w_i
  StepCoefficients<float> coefficients;
  float in = 1;     // C(t_i)
  float trace = 0;  // of tr ∂F/∂(C x), in the divergence of an increment: score · C
  bool opens = true, closes = true;
  bool before_step = false;  // its normals are those of RandomUse::before_step, and the last step has them too
  // Where lift_noise is not 0, x ← x + lift · x + lift_noise · z first, with normals of RandomUse::before_step.
  float lift = 0, lift_noise = 0;
  // Of a scheme with a memory, whose stages open and close: a stage keeps keep · x + keep_output · F for the next, which
  // adds `before` (γ) times that.
  float before = 0, keep = 0, keep_output = 0;
  FOKKER_HOST_DEVICE bool keeps() const { return keep_output != 0; }
};

// dt · velocity of the probability flow, or the drift part of the reverse SDE.
template <class T>
FOKKER_HOST_DEVICE T increment(const StepCoefficients<T>& c, T x, T score) {
  return c.linear * x + c.score * score;
}

// The divergence of an increment, in d dimensions, with trace = tr ∂F/∂(C x).
FOKKER_HOST_DEVICE inline float increment_divergence(const Stage& stage, int d, float trace) {
  return stage.coefficients.linear * static_cast<float>(d) + stage.trace * trace;
}

// A stage of one coordinate: x and y are its states, sum is Σ or what the last step kept, output is F and normal is z. On
// return y is the next stage's; next_node: c of that, where this one does not close.
FOKKER_HOST_DEVICE inline void take_stage(const Stage& stage, float next_node, float output, float normal, float& x,
                                          float& y, float& sum) {
  const float slope = increment(stage.coefficients, y, output);
  const float before = !stage.opens ? sum : stage.before != 0 ? stage.before * sum : 0.0f;
  const float moved = before + stage.weight * slope;
  const float noise = stage.coefficients.noise != 0 ? stage.coefficients.noise * normal : 0.0f;
  if (stage.closes) {
    if (stage.keeps()) sum = stage.keep * y + stage.keep_output * output;
    x += moved + noise;
    y = x;
  } else {
    sum = moved;
    y = x + (next_node * slope + noise);
  }
}

// c_i and w_i above; node[0] = 0.
struct RungeKutta {
  int stages;
  double node[4];
  double weight[4];
};

FOKKER_HOST_DEVICE constexpr RungeKutta runge_kutta_euler() { return {1, {0}, {1}}; }
FOKKER_HOST_DEVICE constexpr RungeKutta runge_kutta_heun() { return {2, {0, 1}, {0.5, 0.5}}; }
FOKKER_HOST_DEVICE constexpr RungeKutta runge_kutta_classical() {
  return {4, {0, 0.5, 0.5, 1}, {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6}};
}

}  // namespace fokker
