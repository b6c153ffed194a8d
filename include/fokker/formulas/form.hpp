#pragma once

// What stands between a network and the score: s(t, x) = A(t) x + B(t) F(τ(t), C(t) x), where F is the output of a
// vector net, or the gradient ∇Φ of a potential net, whose potential is then φ = ½ A |x|² + B/C Φ(τ, C x). So for both
// kinds of net, with J = ∂F/∂(C x),
//   ∂s/∂x = A I + B C J,   ∇·s = A d + B C tr J.
// With the transition kernel x_t = m x_0 + σ ε, n = m² + σ² and n_d = m² σ_d² + σ², σ_d the deviation of the data:
//
//   form              F stands for                          A        B                C
//   score             s                                     0        1                1
//   noise             ε                                     0        −1/σ             1
//   denoised          x_0                                   −1/σ²    m/σ²             1
//   v                 m ε − σ x_0                           −1/n     −m/(σ n)         1
//   velocity          dx/dt of the probability flow         2a/g²    −2/g²            1
//   velocity-to-data  its negative                          2a/g²    2/g²             1
//   edm               a target of unit variance             −1/n_d   m σ_d/(σ √n_d)   1/√n_d
//
// v: Salimans and Ho 2022; velocity: Lipman et al. 2023; edm: Karras et al. 2022, table 1, at m = 1.
#include <cmath>

#include "fokker/formulas/host_device.hpp"
#include "fokker/formulas/sde.hpp"

namespace fokker {

enum class Form { score, noise, denoised, v, velocity, velocity_to_data, edm };

// What a network takes for the time: τ = scale · u(t) + offset, u one of t, σ(t), ln σ(t) and the logarithm of the
// signal-to-noise ratio ln(m²/σ²), which is −2 ln σ where m = 1.
enum class TimeInput { time, sigma, log_sigma, log_snr };

struct NetworkForm {
  Form form = Form::score;
  double data_deviation = 1;  // σ_d > 0, of edm
  TimeInput time_input = TimeInput::time;
  double time_scale = 1, time_offset = 0;

  bool operator==(const NetworkForm&) const = default;
  // Whether s = F(t, x).
  FOKKER_HOST_DEVICE constexpr bool plain() const {
    return form == Form::score && time_input == TimeInput::time && time_scale == 1 && time_offset == 0;
  }
};

// A, B, C and τ at a time.
template <class T>
struct FormCoefficients {
  T skip, out, in, time;
};

template <class T>
FOKKER_HOST_DEVICE FormCoefficients<T> rounded(const FormCoefficients<double>& c) {
  return {static_cast<T>(c.skip), static_cast<T>(c.out), static_cast<T>(c.in), static_cast<T>(c.time)};
}

template <class T>
FOKKER_HOST_DEVICE FormCoefficients<T> form_at(const NetworkForm& network, const SdeFormulas& formulas, T t) {
  FormCoefficients<T> c{T(0), T(1), T(1), t};
  if (network.plain()) return c;
  const SdeCoefficients<T> sde = formulas.at(t);
  const T deviation = std::sqrt(sde.variance), squares = sde.mean * sde.mean + sde.variance;
  switch (network.form) {
    case Form::score: break;
    case Form::noise: c.out = -1 / deviation; break;
    case Form::denoised:
      c.skip = -1 / sde.variance;
      c.out = sde.mean / sde.variance;
      break;
    case Form::v:
      c.skip = -1 / squares;
      c.out = -sde.mean / (deviation * squares);
      break;
    case Form::velocity:
    case Form::velocity_to_data: {
      // At the end of a linear interpolation a and g² are infinite, and these are not.
      const bool interpolation = formulas.kind == SdeKind::flow;
      c.skip = interpolation ? -1 / t : 2 * sde.drift / sde.diffusion_squared;
      c.out = interpolation ? -sde.mean / t : -2 / sde.diffusion_squared;
      if (network.form == Form::velocity_to_data) c.out = -c.out;
      break;
    }
    case Form::edm: {
      const T d = static_cast<T>(network.data_deviation), md = sde.mean * d;
      const T data_squares = md * md + sde.variance, root = std::sqrt(data_squares);
      c.skip = -1 / data_squares;
      c.out = md / (deviation * root);
      c.in = 1 / root;
      break;
    }
  }
  const T scale = static_cast<T>(network.time_scale), offset = static_cast<T>(network.time_offset);
  switch (network.time_input) {
    case TimeInput::time: c.time = scale * t + offset; break;
    case TimeInput::sigma: c.time = scale * deviation + offset; break;
    case TimeInput::log_sigma: c.time = scale * (std::log(sde.variance) / 2) + offset; break;
    case TimeInput::log_snr: c.time = scale * (2 * std::log(sde.mean) - std::log(sde.variance)) + offset; break;
  }
  return c;
}

// A, B, C and τ with their derivatives A′, B′, C′ and τ′ by t; of a velocity, which no potential is, under the linear
// interpolation alone.
template <class T>
struct FormRates {
  FormCoefficients<T> value, rate;
};

template <class T>
FOKKER_HOST_DEVICE FormRates<T> form_rates_at(const NetworkForm& network, const SdeFormulas& formulas, T t) {
  const FormCoefficients<T> c = form_at(network, formulas, t);
  if (network.plain()) return {c, {T(0), T(0), T(0), T(1)}};
  const SdeCoefficients<T> sde = formulas.at(t);
  const T a = sde.drift, variance = sde.variance, variance_rate = 2 * a * variance + sde.diffusion_squared;
  const T log_deviation_rate = variance_rate / (2 * variance);
  FormCoefficients<T> rate{T(0), T(0), T(0), static_cast<T>(network.time_scale)};
  switch (network.form) {
    case Form::score: break;
    case Form::velocity:
    case Form::velocity_to_data:
      if (formulas.kind == SdeKind::flow)
        rate.skip = 1 / (t * t), rate.out = network.form == Form::velocity ? 1 / (t * t) : -1 / (t * t);
      break;
    case Form::noise: rate.out = -c.out * log_deviation_rate; break;
    case Form::denoised:
      rate.skip = -c.skip * 2 * log_deviation_rate;
      rate.out = c.out * (a - 2 * log_deviation_rate);
      break;
    case Form::v:
    case Form::edm: {
      const T d = network.form == Form::v ? T(1) : static_cast<T>(network.data_deviation);
      const T squares = sde.mean * sde.mean * d * d;
      const T log_squares_rate = (2 * a * squares + variance_rate) / (squares + variance);
      const T share = network.form == Form::v ? T(1) : T(0.5);
      rate.skip = -c.skip * log_squares_rate;
      rate.out = c.out * (a - log_deviation_rate - share * log_squares_rate);
      rate.in = network.form == Form::v ? T(0) : -c.in * log_squares_rate / 2;
      break;
    }
  }
  switch (network.time_input) {
    case TimeInput::time: break;
    case TimeInput::sigma: rate.time *= std::sqrt(variance) * log_deviation_rate; break;
    case TimeInput::log_sigma: rate.time *= log_deviation_rate; break;
    case TimeInput::log_snr: rate.time *= 2 * (a - log_deviation_rate); break;
  }
  return {c, rate};
}

// The Fokker–Planck residual R = ∂_t φ + ∇·f + f·∇φ − ½ g² (Δφ + |∇φ|²), f = a x, of a potential in a form, by its
// potential net Φ at (τ, h = C x):
//   R = d constant + square |h|² + value Φ + time ∂_τ Φ + along h·∇Φ − curvature ΔΦ − gradient |∇Φ|².
// A plain net has constant a, time 1, along a, curvature and gradient ½ g², and no other.
template <class T>
struct ResidualCoefficients {
  T constant, square, value, time, along, curvature, gradient;
};

template <class T>
FOKKER_HOST_DEVICE ResidualCoefficients<T> rounded(const ResidualCoefficients<double>& c) {
  return {static_cast<T>(c.constant), static_cast<T>(c.square),    static_cast<T>(c.value),   static_cast<T>(c.time),
          static_cast<T>(c.along),    static_cast<T>(c.curvature), static_cast<T>(c.gradient)};
}

template <class T>
FOKKER_HOST_DEVICE ResidualCoefficients<T> residual_at(const NetworkForm& network, const SdeFormulas& formulas, T t) {
  const SdeCoefficients<T> sde = formulas.at(t);
  const T a = sde.drift, half = sde.diffusion_squared / 2;
  if (network.plain()) return {a, T(0), T(0), T(1), a, half, half};
  const auto [c, rate] = form_rates_at(network, formulas, t);
  const T share = c.out / c.in, in_rate = rate.in / c.in;  // φ = ½ A |x|² + share Φ
  return {a - half * c.skip,
          (rate.skip / 2 + a * c.skip - half * c.skip * c.skip) / (c.in * c.in),
          rate.out / c.in - share * in_rate,
          share * rate.time,
          share * (in_rate + a - 2 * half * c.skip),
          half * c.out * c.in,
          half * c.out * c.out};
}

// What F is trained for, E[of_data x_0 + of_noise ε | x_t], at a time: the score's −ε/σ less A x_t, over B, without the
// cancellation in it.
template <class T>
struct FormTarget {
  T of_data, of_noise;
};

template <class T>
FOKKER_HOST_DEVICE FormTarget<T> form_target(const NetworkForm& network, SdeKind kind, const SdeCoefficients<T>& sde) {
  const T deviation = std::sqrt(sde.variance);
  switch (network.form) {
    case Form::score: break;
    case Form::noise: return {T(0), T(1)};
    case Form::denoised: return {T(1), T(0)};
    case Form::v: return {-deviation, sde.mean};
    case Form::velocity:
    case Form::velocity_to_data: {  // m′ x_0 + σ′ ε
      const T sign = network.form == Form::velocity ? T(1) : T(-1);
      if (kind == SdeKind::flow) return {-sign, sign};
      return {sign * sde.drift * sde.mean, sign * (sde.drift * sde.variance + sde.diffusion_squared / 2) / deviation};
    }
    case Form::edm: {
      const T d = static_cast<T>(network.data_deviation), md = sde.mean * d;
      const T root = d * std::sqrt(md * md + sde.variance);
      return {deviation / root, -md * d / root};
    }
  }
  return {T(0), -1 / deviation};
}

}  // namespace fokker
