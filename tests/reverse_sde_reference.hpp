#pragma once

// The law of a reverse SDE where it is known, sharing nothing with the library: in closed form for Gaussians, and on
// the line by finite volumes for its Fokker–Planck equation, which the library never solves (it works with u = p
// e^{−φ}, whose equation is another). SDEs here are the Ornstein–Uhlenbeck process dx = −x dt + dW.
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "fokker/model.hpp"
#include "reference_mixture.hpp"

namespace fokker::testing {

struct Normal {
  double mean, variance;
  double log_density(double x) const {
    return -0.5 * ((x - mean) * (x - mean) / variance + std::log(2 * std::numbers::pi * variance));
  }
};

inline double divergence_of(const Normal& p, const Normal& q) {
  return 0.5 * (std::log(q.variance / p.variance) + p.variance / q.variance - 1 +
                (p.mean - q.mean) * (p.mean - q.mean) / q.variance);
}

// Data N(mean, variance) on the line, exact potential, prior N(0, ½) at the horizon T.
struct GaussianReverse {
  double mean, variance, horizon;

  Normal exact(double t) const {
    const double m = std::exp(-t);
    return {m * mean, m * m * variance + 0.5 * (1 - m * m)};
  }
  // The exact reverse kernel from T to t is Gaussian, and so is what it makes of the prior.
  Normal reverse(double t) const {
    const Normal now = exact(t), last = exact(horizon);
    const double gain = std::exp(t - horizon) * now.variance / last.variance;
    return {now.mean + gain * (0 - last.mean), gain * gain * 0.5 + now.variance - gain * gain * last.variance};
  }
  // E_p |∂ log p − s|².
  double energy(double t) const {
    const Normal p = reverse(t), q = exact(t);
    const double slope = 1 / q.variance - 1 / p.variance, constant = p.mean / p.variance - q.mean / q.variance;
    return std::pow(slope * p.mean + constant, 2) + slope * slope * p.variance;
  }
  // ½ ∫ e_t dt from `end` to T by Simpson's rule in log t.
  double dissipation(double end) const {
    const int pieces = 2000;
    const double step = std::log(horizon / end) / pieces;
    double sum = 0;
    for (int i = 0; i <= pieces; ++i) {
      const double t = end * std::exp(i * step);
      sum += (i == 0 || i == pieces ? 1 : i % 2 == 1 ? 4 : 2) * 0.5 * energy(t) * t;
    }
    return sum * step / 3;
  }
};

// The same for any SDE: data N(mean, variance), prior N(0, prior_variance).
struct GaussianReverseOf {
  ForwardSde sde;
  double mean, variance;

  Normal exact(double t) const {
    const Kernel at = kernel(sde, t);
    return {double(at.mean * mean), double(at.mean * at.mean * variance + at.variance)};
  }
  Normal reverse(double t) const {
    const Normal now = exact(t), last = exact(sde.horizon());
    const double gain = double(kernel(sde, sde.horizon()).mean / kernel(sde, t).mean) * now.variance / last.variance;
    return {now.mean - gain * last.mean,
            gain * gain * sde.prior_variance() + now.variance - gain * gain * last.variance};
  }
};

// φ(t, x) = Σ_j height_j softplus(rate_j t + slope_j x + offset_j) on the line, β = 1.
struct SoftplusSum {
  std::vector<double> height, rate, slope, offset;

  struct Fields {
    double value, dt, first, second;
    double residual(double x) const { return dt - 1 - x * first - 0.5 * (second + first * first); }
  };
  Fields at(double t, double x) const {
    Fields f{};
    for (std::size_t j = 0; j < height.size(); ++j) {
      const double z = rate[j] * t + slope[j] * x + offset[j], s = 1 / (1 + std::exp(-z));
      f.value += height[j] * (std::log1p(std::exp(-std::abs(z))) + std::max(z, 0.0));
      f.dt += height[j] * s * rate[j];
      f.first += height[j] * s * slope[j];
      f.second += height[j] * s * (1 - s) * slope[j] * slope[j];
    }
    return f;
  }
  // Σ_i φ(t, x_i) in d dimensions, as a network: its laws are products.
  Model model(std::int64_t d, double horizon, double t_min) const {
    const std::int64_t units = static_cast<std::int64_t>(height.size());
    Mlp mlp;
    mlp.architecture.dimension = d;
    mlp.architecture.hidden = {units * d};
    mlp.architecture.beta = 1;
    mlp.parameters.assign(mlp.architecture.parameter_count(), 0.0);
    for (std::int64_t i = 0; i < d; ++i) {
      for (std::int64_t j = 0; j < units; ++j) {
        const std::int64_t unit = i * units + j;
        mlp.parameters[unit * (1 + d)] = rate[j];
        mlp.parameters[unit * (1 + d) + 1 + i] = slope[j];
        mlp.parameters[mlp.architecture.bias_offset(0) + unit] = offset[j];
        mlp.parameters[mlp.architecture.weight_offset(1) + unit] = height[j];
      }
    }
    return {ForwardSde::ou({.horizon = horizon, .t_min = t_min}), mlp};
  }
};

// A potential with tails that fall fast enough to keep the reverse SDE near; far from a solution of any Fokker–Planck
// equation.
inline SoftplusSum rough_well() {
  return {{-5, -5, 1.2, -0.8}, {0.3, 0.2, -0.6, 0.1}, {1.6, -1.7, 1.1, -0.9}, {-2, -2.4, 0.3, 0.5}};
}

// What p^S of a potential on the line is at the times of a geometric grid from T to `end`.
class LineReference {
 public:
  LineReference(const SoftplusSum& potential, double horizon, double end, int nodes, int steps, double half_width = 9)
      : nodes_(nodes), half_width_(half_width) {
    for (int k = 0; k <= steps; ++k) times_.push_back(horizon * std::pow(end / horizon, double(k) / steps));
    const double h = spacing();
    std::vector<double> p(nodes), right(nodes), lower(nodes), diagonal(nodes), upper(nodes);
    for (int i = 0; i < nodes; ++i) p[i] = std::exp(Normal{0, 0.5}.log_density(x(i)));
    record(potential, times_[0], p);
    // Crank and Nicolson for ∂_τ p = −∂(v p) + ½ ∂² p, v = x + φ′, τ = T − t; no flux through the ends.
    for (int k = 0; k < steps; ++k) {
      const double step = times_[k] - times_[k + 1], middle = 0.5 * (times_[k] + times_[k + 1]);
      lower.assign(nodes, 0), diagonal.assign(nodes, 0), upper.assign(nodes, 0);
      for (int face = 0; face + 1 < nodes; ++face) {
        const double at = x(face) + 0.5 * h, v = at + potential.at(middle, at).first;
        const double by_left = 0.5 * v + 0.5 / h, by_right = 0.5 * v - 0.5 / h;  // the flux, of p on either side
        diagonal[face] -= by_left / h, upper[face] -= by_right / h;
        lower[face + 1] += by_left / h, diagonal[face + 1] += by_right / h;
      }
      for (int i = 0; i < nodes; ++i) {
        right[i] = p[i] + 0.5 * step *
                              ((i > 0 ? lower[i] * p[i - 1] : 0) + diagonal[i] * p[i] +
                               (i + 1 < nodes ? upper[i] * p[i + 1] : 0));
        lower[i] *= -0.5 * step, diagonal[i] = 1 - 0.5 * step * diagonal[i], upper[i] *= -0.5 * step;
      }
      for (int i = 1; i < nodes; ++i) {  // Thomas
        const double factor = lower[i] / diagonal[i - 1];
        diagonal[i] -= factor * upper[i - 1], right[i] -= factor * right[i - 1];
      }
      p[nodes - 1] = right[nodes - 1] / diagonal[nodes - 1];
      for (int i = nodes - 2; i >= 0; --i) p[i] = (right[i] - upper[i] * p[i + 1]) / diagonal[i];
      record(potential, times_[k + 1], p);
    }
    density_ = p;
  }

  const std::vector<double>& times() const { return times_; }
  const std::vector<double>& energy() const { return energy_; }
  double kl_prior() const { return divergence_.front(); }
  double kl_end() const { return divergence_.back(); }
  double log_u_prior() const { return log_u_.front(); }
  double log_u_end() const { return log_u_.back(); }
  double dissipation() const {
    return over_time([&](std::size_t k) { return 0.5 * energy_[k]; });
  }
  double work() const {
    return over_time([&](std::size_t k) { return residual_[k]; });
  }
  double work_of_q() const {
    return over_time([&](std::size_t k) { return residual_of_q_[k]; });
  }
  // log p at the end, between nodes by a cubic.
  double log_density(double at) const {
    const double place = (at + half_width_) / spacing();
    const int j = static_cast<int>(place);
    const double s = place - j;
    const auto l = [&](int i) { return std::log(density_[i]); };
    return -l(j - 1) * s * (s - 1) * (s - 2) / 6 + l(j) * (s + 1) * (s - 1) * (s - 2) / 2 -
           l(j + 1) * (s + 1) * s * (s - 2) / 2 + l(j + 2) * (s + 1) * s * (s - 1) / 6;
  }

 private:
  double spacing() const { return 2 * half_width_ / (nodes_ - 1); }
  double x(int i) const { return -half_width_ + i * spacing(); }

  void record(const SoftplusSum& potential, double t, const std::vector<double>& p) {
    const double h = spacing();
    double z = 0, energy = 0, log_u = 0, residual = 0, residual_of_q = 0, sum = 0;
    for (int i = 1; i + 1 < nodes_; ++i) {
      const SoftplusSum::Fields f = potential.at(t, x(i));
      const double q = std::exp(f.value), r = f.residual(x(i));
      z += q * h, residual_of_q += q * r * h;
      if (!(p[i] > 1e-16) || !(p[i - 1] > 0) || !(p[i + 1] > 0)) continue;
      const double slope = (std::log(p[i + 1]) - std::log(p[i - 1])) / (2 * h);
      sum += p[i] * h;
      energy += p[i] * std::pow(slope - f.first, 2) * h;
      log_u += p[i] * (std::log(p[i]) - f.value) * h;
      residual += p[i] * r * h;
    }
    energy_.push_back(energy / sum), residual_.push_back(residual / sum), residual_of_q_.push_back(residual_of_q / z);
    log_u_.push_back(log_u / sum), divergence_.push_back(log_u / sum + std::log(z));
  }
  template <class Of>
  double over_time(Of of) const {
    double sum = 0;
    for (std::size_t k = 0; k + 1 < times_.size(); ++k) sum += 0.5 * (of(k) + of(k + 1)) * (times_[k] - times_[k + 1]);
    return sum;
  }

  int nodes_;
  double half_width_;
  std::vector<double> times_, energy_, residual_, residual_of_q_, log_u_, divergence_, density_;
};

// The law of a mixture's reverse SDE with the wrong prior, by integrals on a grid that share nothing with the library:
// p_t(x) = q_t(x) ∫ N(y; m x, v) π(y)/q_T(y) dy, so u_t is the integral, and its logarithm's derivative is e_t's.
class MixtureReverse {
 public:
  MixtureReverse(std::vector<double> weights, std::vector<double> means, std::vector<double> variances, double horizon)
      : weights_(std::move(weights)), means_(std::move(means)), variances_(std::move(variances)), horizon_(horizon) {}

  double density(double t, double x) const {  // q_t
    double q = 0;
    for (std::size_t k = 0; k < weights_.size(); ++k) {
      q += weights_[k] * std::exp(GaussianReverse{means_[k], variances_[k], horizon_}.exact(t).log_density(x));
    }
    return q;
  }
  struct Moments {
    double mass, energy, divergence;  // ∫ p, E_p |∂ log u|², KL(p_t ‖ q_t)
  };
  Moments at(double t) const {
    const double m = std::exp(t - horizon_), v = 0.5 * (1 - m * m), h = 0.02;
    std::vector<double> ratio;  // π/q_T at y = j h
    for (int j = -kReach; j <= kReach; ++j) {
      ratio.push_back(std::exp(Normal{0, 0.5}.log_density(j * h)) / density(horizon_, j * h));
    }
    Moments moments{};
    for (int i = -kReach; i <= kReach; ++i) {
      const double x = i * h, q = density(t, x);
      double u = 0, slope = 0;
      for (int j = -kReach; j <= kReach; ++j) {
        const double y = j * h, w = h * std::exp(Normal{m * x, v}.log_density(y)) * ratio[j + kReach];
        u += w, slope += w * m * (y - m * x) / v;
      }
      moments.mass += h * q * u;
      moments.energy += h * q * slope * slope / u;
      moments.divergence += h * q * u * std::log(u);
    }
    return moments;
  }
  // KL(π ‖ q_T).
  double kl_prior() const {
    double sum = 0;
    const double h = 0.02;
    for (int j = -kReach; j <= kReach; ++j) {
      const double log_pi = Normal{0, 0.5}.log_density(j * h);
      sum += h * std::exp(log_pi) * (log_pi - std::log(density(horizon_, j * h)));
    }
    return sum;
  }

 private:
  static constexpr int kReach = 250;  // nodes on either side: |x| ≤ 5
  std::vector<double> weights_, means_, variances_;
  double horizon_;
};

}  // namespace fokker::testing
