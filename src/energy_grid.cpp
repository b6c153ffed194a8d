// u on a grid for d ≤ 2, backwards from u_T = π e^{−φ_T}. A step from t to s < t is Strang's splitting of
// ∂_t u + f·∇u + ½ g² Δu + R u = 0 at the middle r of both:
//
//   u(s, ·) = K_{s,r} e^{(t − s) R(r, ·)} K_{r,t} u(t, ·),
//   (K_{s,t} u)(x) = ∫ N(y; m x, v I) u(y) dy,   m = m(t)/m(s), v = σ²(t) − m² σ²(s),
//
// with the transition kernel K of the forward SDE exact. The kernel comes last because R of a network is rough: e^{R}
// as the last factor would leave its roughness in ∇ log u, and correlate p with R for half a step where the kernel
// soon ends that. So e_t and E R are taken after the kernel, at the times of the grid.
//
// K is a product over axes, so one matrix of [n, n] serves all of them: row i integrates the cubic through the four
// nodes around each y against the Gaussian, by the trapezoidal rule in y, which is exact for polynomials to rounding
// where y is spaced by half a standard deviation or less. The span of the grid goes with time as ±(m box + 6 σ), so
// that paths from inside the box stay inside to one in 10⁹, and what happens at its edges (u is held constant beyond
// them) reaches no point of the box.
//
// Cubics can undershoot where u is rough. Where the result leaves [½, 2] times that of linear interpolation, which is
// positive, the latter is taken, and how much of p^S sits there is reported.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "energy.hpp"
#include "fokker/error.hpp"
#include "host_fields.hpp"

namespace fokker {
namespace {

constexpr double kSpan = 6;            // standard deviations beyond the box
constexpr double kReach = 7;           // of the kernel: 3e-12 of it is beyond
constexpr double kNegligible = 1e-14;  // p beside its maximum
constexpr double kVanishing = -640;    // log u beside its maximum: products with a weight would be denormal numbers
constexpr double kEdge = 0.95;         // of the span: beyond it q should have nothing
constexpr double kTolerated = 0.01;    // share of a law, before there is a warning

struct Axis {
  double half_width;
  std::int64_t n;
  double spacing() const { return 2 * half_width / double(n - 1); }
  double node(std::int64_t i) const { return half_width * (2 * double(i) / double(n - 1) - 1); }
};

// The transition kernel along one axis: [n, n], rows sum to 1; row i is zero outside [begin, end).
struct Transition {
  std::int64_t n;
  std::vector<std::int64_t> begin, end;
  std::vector<double> weight;

  // to and from: n values, `stride` apart.
  void apply(const double* from, double* to, std::int64_t stride) const {
    for (std::int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (std::int64_t j = begin[i]; j < end[i]; ++j) sum += weight[i * n + j] * from[j * stride];
      to[i * stride] = sum;
    }
  }
};

enum class Interpolation { linear, cubic };

// From nodes of `at` (time s) to the law at nodes of `from` (time t): N(mean x, deviation²).
Transition transition(const Axis& at, const Axis& from, double mean, double deviation, Interpolation interpolation) {
  const std::int64_t n = from.n;
  Transition kernel{n, std::vector<std::int64_t>(n, n), std::vector<std::int64_t>(n, 0), std::vector<double>(n * n, 0)};
  const double step = std::min(0.5, from.spacing() / std::max(deviation, 1e-300));
  const std::int64_t reach = deviation > 0 ? static_cast<std::int64_t>(std::ceil(kReach / step)) : 0;
  std::vector<double> gaussian;  // at z = k step, k from −reach to reach
  double sum = 0;
  for (std::int64_t k = -reach; k <= reach; ++k) {
    gaussian.push_back(std::exp(-0.5 * (double(k) * step) * (double(k) * step)));
    sum += gaussian.back();
  }
  for (double& w : gaussian) w /= sum;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto add = [&](std::int64_t j, double w) {
      kernel.weight[i * n + j] += w;
      kernel.begin[i] = std::min(kernel.begin[i], j);
      kernel.end[i] = std::max(kernel.end[i], j + 1);
    };
    for (std::int64_t k = -reach; k <= reach; ++k) {
      const double w = gaussian[k + reach], y = mean * at.node(i) + deviation * double(k) * step;
      const double place = std::clamp((y + from.half_width) / from.spacing(), 0.0, double(n - 1));
      if (interpolation == Interpolation::linear) {
        const std::int64_t j = std::min(static_cast<std::int64_t>(place), n - 2);
        const double s = place - double(j);
        add(j, w * (1 - s)), add(j + 1, w * s);
      } else {
        const std::int64_t j = std::clamp<std::int64_t>(static_cast<std::int64_t>(place), 1, n - 3);
        const double s = place - double(j);  // Lagrange's polynomials on −1, 0, 1, 2
        add(j - 1, -w * s * (s - 1) * (s - 2) / 6);
        add(j, w * (s + 1) * (s - 1) * (s - 2) / 2);
        add(j + 1, -w * (s + 1) * s * (s - 2) / 2);
        add(j + 2, w * (s + 1) * s * (s - 1) / 6);
      }
    }
  }
  return kernel;
}

// Along every axis of u [n^d].
std::vector<double> carried(const Transition& kernel, const std::vector<double>& u, std::int64_t d) {
  const std::int64_t n = kernel.n;
  std::vector<double> out(u.size());
  if (d == 1) {
    kernel.apply(u.data(), out.data(), 1);
    return out;
  }
  std::vector<double> half(u.size());
  for (std::int64_t row = 0; row < n; ++row) kernel.apply(u.data() + row * n, half.data() + row * n, 1);
  for (std::int64_t i = 0; i < n; ++i) {  // along the other axis, whole rows at a time
    double* to = out.data() + i * n;
    for (std::int64_t j = kernel.begin[i]; j < kernel.end[i]; ++j) {
      const double w = kernel.weight[i * n + j], *from = half.data() + j * n;
      for (std::int64_t k = 0; k < n; ++k) to[k] += w * from[k];
    }
  }
  return out;
}

// Derivative of log u along an axis: five nodes, two at the edges.
double slope(const std::vector<double>& log_u, std::int64_t at, std::int64_t i, std::int64_t n, std::int64_t stride,
             double h) {
  if (i >= 2 && i < n - 2) {
    return (8 * (log_u[at + stride] - log_u[at - stride]) - (log_u[at + 2 * stride] - log_u[at - 2 * stride])) /
           (12 * h);
  }
  const std::int64_t low = i > 0 ? 1 : 0, high = i < n - 1 ? 1 : 0;
  return (log_u[at + high * stride] - log_u[at - low * stride]) / (double(low + high) * h);
}

double largest_of(const std::vector<double>& values) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double v : values) largest = std::max(largest, v);
  return largest;
}

// u at the nodes of a time, in the logarithm, and what is known of p = e^φ u and q = e^φ/Z there.
class GridState {
 public:
  GridState(const Context& context, const Model& model, std::int64_t nodes_an_axis, double box)
      : sde_(model.sde),
        fields_(context, model),
        d_(model.dimension()),
        n_(nodes_an_axis),
        nodes_(d_ == 1 ? n_ : n_ * n_),
        box_(box),
        x_(nodes_ * d_),
        value_(nodes_),
        residual_(nodes_),
        log_u_(nodes_),
        linear_(nodes_, 0) {}

  // u = π e^{−φ} at the horizon.
  void begin(double t) {
    time_ = t;
    evaluate();
    const double variance = sde_.prior_variance();
    for (std::int64_t i = 0; i < nodes_; ++i) {
      double square = 0;
      for (std::int64_t a = 0; a < d_; ++a) square += x_[i * d_ + a] * x_[i * d_ + a];
      log_u_[i] = -0.5 * (square / variance + double(d_) * std::log(2 * std::numbers::pi * variance)) - value_[i];
    }
  }

  // u [nodes] in the logarithm, as log_u() left it at that time.
  void resume(double t, const std::vector<double>& log_u) {
    time_ = t;
    log_u_ = log_u;
  }
  const std::vector<double>& log_u() const { return log_u_; }

  // By the transition kernel to an earlier time.
  void carry(double t) {
    const SdeCoefficients<double> now = sde_.at(t), then = sde_.at(time_);
    const double mean = then.mean / now.mean;
    const double deviation = std::sqrt(std::max(0.0, then.variance - mean * mean * now.variance));
    const Axis from = axis();
    time_ = t;
    const double scale = largest_of(log_u_);
    std::vector<double> u(nodes_);
    for (std::int64_t i = 0; i < nodes_; ++i) {
      u[i] = log_u_[i] - scale < kVanishing ? 0 : std::exp(log_u_[i] - scale);
    }
    const auto by = [&](Interpolation i) { return carried(transition(axis(), from, mean, deviation, i), u, d_); };
    const std::vector<double> cubic = by(Interpolation::cubic), safe = by(Interpolation::linear);
    for (std::int64_t i = 0; i < nodes_; ++i) {
      linear_[i] = !(cubic[i] >= 0.5 * safe[i] && cubic[i] <= 2 * safe[i]);
      log_u_[i] = std::log(linear_[i] ? safe[i] : cubic[i]) + scale;
    }
    evaluate();
  }

  // u e^{duration R}.
  void react(double duration) {
    for (std::int64_t i = 0; i < nodes_; ++i) log_u_[i] += duration * residual_[i];
  }

  struct Moments {
    EnergyMoments of_time;
    double mass;       // ∫ p
    double by_linear;  // share of p where interpolation is linear
    double edge_of_q;  // share of q near the edge of the grid
  };
  Moments moments() const {
    const Axis along = axis();
    std::vector<double> log_p(nodes_);
    for (std::int64_t i = 0; i < nodes_; ++i) log_p[i] = value_[i] + log_u_[i];
    const double top_p = largest_of(log_p), top_q = largest_of(value_), h = along.spacing();
    const double cell = d_ == 1 ? h : h * h;
    double sum_p = 0, sum_q = 0;
    Moments m{};
    for (std::int64_t i = 0; i < nodes_; ++i) {
      const double q = std::exp(value_[i] - top_q);
      sum_q += q;
      m.of_time.residual_of_q += q * residual_[i];
      bool edge = false;
      for (std::int64_t a = 0; a < d_; ++a) edge = edge || std::abs(x_[i * d_ + a]) > kEdge * along.half_width;
      if (edge) m.edge_of_q += q;
      const double p = std::exp(log_p[i] - top_p);
      if (!(p > kNegligible)) continue;
      double square = std::pow(slope(log_u_, i, i % n_, n_, 1, h), 2);
      if (d_ == 2) square += std::pow(slope(log_u_, i, i / n_, n_, n_, h), 2);
      sum_p += p;
      m.of_time.energy += p * square;
      m.of_time.log_u += p * log_u_[i];
      m.of_time.residual += p * residual_[i];
      if (linear_[i]) m.by_linear += p;
    }
    for (double* of_p : {&m.of_time.energy, &m.of_time.log_u, &m.of_time.residual, &m.by_linear}) *of_p /= sum_p;
    for (double* of_q : {&m.of_time.residual_of_q, &m.edge_of_q}) *of_q /= sum_q;
    m.of_time.log_normaliser = top_q + std::log(sum_q * cell);
    m.mass = std::exp(top_p) * sum_p * cell;
    // The law on the grid is p over its mass, which escape and discretisation move from 1; its u is u over the mass.
    m.of_time.log_u -= std::log(m.mass);
    return m;
  }

 private:
  Axis axis() const {
    const SdeCoefficients<double> c = sde_.at(time_);
    return {c.mean * box_ + kSpan * std::sqrt(c.variance), n_};
  }
  void evaluate() {
    const Axis along = axis();
    for (std::int64_t i = 0; i < nodes_; ++i) {
      x_[i * d_] = along.node(i % n_);
      if (d_ == 2) x_[i * d_ + 1] = along.node(i / n_);
    }
    fields_.evaluate(time_, x_.data(), nodes_, {.value = value_.data(), .residual = residual_.data()});
  }

  ForwardSde sde_;
  HostFields fields_;
  std::int64_t d_, n_, nodes_;
  double box_, time_ = 0;
  std::vector<double> x_, value_, residual_, log_u_;
  std::vector<char> linear_;
};

// Of one time in EnergyState::moments.
constexpr std::int64_t kMoments = 8;

void append(const GridState::Moments& m, std::vector<double>& packed) {
  const EnergyMoments& of = m.of_time;
  packed.insert(packed.end(), {of.energy, of.log_u, of.log_normaliser, of.residual, of.residual_of_q, m.mass,
                               m.by_linear, m.edge_of_q});
}

GridState::Moments unpacked(const double* m) { return {{m[0], m[1], m[2], m[3], m[4]}, m[5], m[6], m[7]}; }

}  // namespace

EnergyMeasurement energy_on_grid(const Context& context, const Model& model, const TimeGrid& grid,
                                 const EnergyOptions& options) {
  const std::int64_t d = model.dimension();
  GridState state(context, model, options.nodes > 0 ? options.nodes : d == 1 ? 1024 : 192, options.box);
  EnergyMeasurement measured;
  measured.times = grid.times();
  double worst_linear = 0, worst_edge = 0, worst_mass = 1, edge_time = 0, mass_time = 0;
  const auto record = [&](double t, const GridState::Moments& m) {
    measured.all.push_back(m.of_time);
    measured.mass.push_back(m.mass);
    worst_linear = std::max(worst_linear, m.by_linear);
    if (!(m.edge_of_q <= worst_edge)) worst_edge = m.edge_of_q, edge_time = t;
    if (!(std::abs(m.mass - 1) <= std::abs(worst_mass - 1))) worst_mass = m.mass, mass_time = t;
  };
  EnergyState done = options.from.times == 0 ? EnergyState{} : options.from;
  const std::int64_t times = std::ssize(measured.times);
  if (done.times != 0) {
    const auto fits = [](const std::vector<double>& values, std::int64_t n) { return std::ssize(values) == n; };
    if (done.times < 0 || done.times > times || !fits(done.log_u, std::ssize(state.log_u())) ||
        !fits(done.moments, kMoments * done.times)) {
      throw Error(
          fmt::format("an energy was to go on from {} times with {} nodes and {} moments; allowed: up to {} times with "
                      "{} nodes and {} moments each",
                      done.times, done.log_u.size(), done.moments.size(), times, state.log_u().size(), kMoments));
    }
    for (std::int64_t k = 0; k < done.times; ++k)
      record(measured.times[k], unpacked(done.moments.data() + kMoments * k));
    state.resume(measured.times[done.times - 1], done.log_u);
  }
  for (std::int64_t k = done.times; k < times; ++k) {
    const double t = measured.times[k];
    if (k == 0) {
      state.begin(t);
    } else {
      const double step = measured.times[k - 1] - t;
      state.carry(t + 0.5 * step);
      state.react(step);
      state.carry(t);
    }
    const GridState::Moments m = state.moments();
    record(t, m);
    if (options.keep) {
      done.times = k + 1;
      done.log_u = state.log_u();
      append(m, done.moments);
      options.keep(done);
    }
    if (options.progress) options.progress(double(k + 1) / double(times));
  }
  if (!(std::abs(worst_mass - 1) <= kTolerated)) {
    measured.warnings.push_back(
        fmt::format("the mass of p^S on the grid is {:.4g} at t = {:.4g}: where it is below 1, samples leave the box; "
                    "otherwise more nodes or times are needed",
                    worst_mass, mass_time));
  }
  if (worst_linear > kTolerated) {
    measured.warnings.push_back(
        fmt::format("up to {:.3g} % of p^S sits where u is too rough for cubic interpolation: more nodes are needed",
                    100 * worst_linear));
  }
  if (!(worst_edge <= kTolerated)) {
    measured.normaliser_warnings.push_back(
        fmt::format("{:.3g} % of e^φ/Z lies within 5 % of the grid's edge at t = {:.4g}: Z and what is made of it miss "
                    "what is beyond, so a larger box is needed",
                    100 * worst_edge, edge_time));
  }
  return measured;
}

}  // namespace fokker
