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

// One evaluation of the network along a path, at (time, in · x), and what to do with it. Euler–Maruyama has one a step,
// with weight 1.
struct Stage {
  float time;          // τ(t_i)
  float node, weight;  // c_i, w_i
  StepCoefficients<float> coefficients;
  float in = 1;     // C(t_i)
  float trace = 0;  // of tr ∂F/∂(C x), in the divergence of an increment: score · C
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

template <class T>
FOKKER_HOST_DEVICE T euler_maruyama(const StepCoefficients<T>& c, T x, T score, T normal) {
  return x + (increment(c, x, score) + c.noise * normal);
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
