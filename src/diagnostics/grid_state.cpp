// u on a grid for d ≤ 2, backwards from u_T = π e^{−φ_T}, by steps of the formula of Feynman and Kac,
//
//   u(s, x) = E [u(t, X_t) exp ∫_s^t R(r, X_r) dr | X_s = x],   X the forward SDE,
//
// whose transition kernel K is exact: (K_{s,t} v)(x) = ∫ N(y; m x, v I) v(y) dy, m = m(t)/m(s), v = σ²(t) − m² σ²(s).
// A step takes the exponential of the mean of ∫ R over paths weighted by u(t, X_t) for the mean of the exponential,
//
//   u(s, ·) = K_{s,t} u_t · exp(∫_s^t K_{s,r} [R K_{r,t} u_t] dr / K_{s,t} u_t),   R at the middle of the step,
//
// which leaves half the variance of ∫ R over those paths, of third order in the step. It is exact to first order in R,
// however rough R is: a ridge that is narrower than the way the forward SDE diffuses in a step leaves the same trace in
// ∇ log u as with short steps. A splitting (diffuse, react, diffuse) wipes that trace out, and with it most of e_t of a
// sharp activation where steps are long. The integral over r is by Gauss and Legendre's rule in the diffusion length
// √(r − s), which resolves scales far below that of the whole step.
//
// The span of the grid goes with time as ±(m box + 6 σ), so that paths from inside the box stay inside to one in 10⁹,
// and what happens at its edges (u is held constant beyond them) reaches no point of the box.
//
// Cubics can undershoot where u is rough. Where the result leaves [½, 2] times that of linear interpolation, which is
// positive, the latter is taken, and how much of p^S sits there is reported.
//
// Evaluating φ and R, twice a step, takes most of the time on a CPU. The points of the rule go over its threads, once a
// step, so that the result does not depend on their number and threads seldom wait for each other.
#include "diagnostics/grid_state.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/parallel.hpp"

namespace fokker {
namespace {

constexpr double kSpan = 6;            // standard deviations beyond the box
constexpr double kNegligible = 1e-14;  // p beside its maximum
constexpr double kVanishing = -640;    // log u beside its maximum: products with a weight would be denormal numbers
constexpr double kEdge = 0.95;         // share of the span beyond which p and q should have nothing

// ∫_0^1 f(y²) 2y dy, by four points of Gauss and Legendre's rule; f is a mean over paths at the share y² of a step.
constexpr std::array<double, 4> kPoints{0.06943184420297371, 0.33000947820757187, 0.66999052179242813,
                                        0.93056815579702629};
constexpr std::array<double, 4> kWeights{0.17392742256872693, 0.32607257743127307, 0.32607257743127307,
                                         0.17392742256872693};

// Derivative of log u along an axis: five nodes, two at the edges.
double slope(const std::vector<double>& log_u, std::int64_t node, std::int64_t i, std::int64_t n, std::int64_t stride,
             double h) {
  if (i >= 2 && i < n - 2) {
    return (8 * (log_u[node + stride] - log_u[node - stride]) - (log_u[node + 2 * stride] - log_u[node - 2 * stride])) /
           (12 * h);
  }
  const std::int64_t low = i > 0 ? 1 : 0, high = i < n - 1 ? 1 : 0;
  return (log_u[node + high * stride] - log_u[node - low * stride]) / (double(low + high) * h);
}

double largest_of(const std::vector<double>& values) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double v : values) largest = std::max(largest, v);
  return largest;
}

}  // namespace

GridState::GridState(const Context& context, const Model& model, std::int64_t nodes_an_axis, double box)
    : sde_(model.sde),
      threads_(context.threads()),
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

void GridState::begin(double t) {
  time_ = t;
  evaluate(t);
  const double variance = sde_.prior_variance();
  for (std::int64_t i = 0; i < nodes_; ++i) {
    double square = 0;
    for (std::int64_t a = 0; a < d_; ++a) square += x_[i * d_ + a] * x_[i * d_ + a];
    log_u_[i] = -0.5 * (square / variance + double(d_) * std::log(2 * std::numbers::pi * variance)) - value_[i];
  }
}

void GridState::resume(double t, const std::vector<double>& log_u) {
  time_ = t;
  log_u_ = log_u;
}

void GridState::step(double t) {
  const double later = time_, middle = 0.5 * (later + t), duration = later - t;
  const double scale = largest_of(log_u_);
  std::vector<double> u(nodes_);
  for (std::int64_t i = 0; i < nodes_; ++i) {
    u[i] = log_u_[i] - scale < kVanishing ? 0 : std::exp(log_u_[i] - scale);
  }
  evaluate(middle);
  const auto [lowest, highest] = std::minmax_element(residual_.begin(), residual_.end());
  const Axis from = axis(later), between = axis(middle), to = axis(t);
  constexpr std::int64_t points = kPoints.size();
  std::vector<double> cubic, safe, mean_at[points];  // mean_at: of R over paths, at a point of the rule
  const auto take_mean = [&](std::int64_t point) {
    const double s = t + kPoints[point] * kPoints[point] * duration;
    std::vector<double> v = apply(kernel(s, between, later, from, Interpolation::cubic), u);
    const Transition rest = kernel(t, to, s, between, Interpolation::cubic);
    // For K_{s,t} u, so that what interpolation leaves in both cancels.
    const std::vector<double> all = apply(rest, v);
    for (std::int64_t i = 0; i < nodes_; ++i) v[i] *= residual_[i];
    mean_at[point] = apply(rest, v);
    for (std::int64_t i = 0; i < nodes_; ++i) mean_at[point][i] /= all[i];
  };
  parallel_for(threads_, points + 2, [&](std::int64_t item, int) {
    if (item < points) {
      take_mean(item);
    } else if (item == points) {
      cubic = apply(kernel(t, to, later, from, Interpolation::cubic), u);
    } else {
      safe = apply(kernel(t, to, later, from, Interpolation::linear), u);
    }
  });
  for (std::int64_t i = 0; i < nodes_; ++i) {
    linear_[i] = !(cubic[i] >= 0.5 * safe[i] && cubic[i] <= 2 * safe[i]);
    double mean = 0;
    for (std::int64_t p = 0; p < points; ++p) mean += 2 * kPoints[p] * kWeights[p] * mean_at[p][i];
    const bool is_mean = mean >= *lowest && mean <= *highest;  // else cubics undershoot
    // Else R of the middle's axis: in the lattice's units the same place.
    log_u_[i] = std::log(linear_[i] ? safe[i] : cubic[i]) + scale + duration * (is_mean ? mean : residual_[i]);
  }
  time_ = t;
  evaluate(t);
}

GridMoments GridState::moments() const {
  const Axis along = axis(time_);
  std::vector<double> log_p(nodes_);
  for (std::int64_t i = 0; i < nodes_; ++i) log_p[i] = value_[i] + log_u_[i];
  const double top_p = largest_of(log_p), top_q = largest_of(value_), h = along.spacing();
  const double cell = d_ == 1 ? h : h * h;
  double sum_p = 0, sum_q = 0;
  GridMoments m{};
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
    if (edge) m.edge_of_p += p;
    m.of_time.log_u += p * log_u_[i];
    m.of_time.residual += p * residual_[i];
    if (linear_[i]) m.by_linear += p;
  }
  for (double* of_p : {&m.of_time.energy, &m.of_time.log_u, &m.of_time.residual, &m.by_linear, &m.edge_of_p})
    *of_p /= sum_p;
  for (double* of_q : {&m.of_time.residual_of_q, &m.edge_of_q}) *of_q /= sum_q;
  m.of_time.log_normaliser = top_q + std::log(sum_q * cell);
  m.mass = std::exp(top_p) * sum_p * cell;
  // The law on the grid is p over its mass, which escape and discretisation move from 1; its u is u over the mass.
  m.of_time.log_u -= std::log(m.mass);
  return m;
}

Axis GridState::axis(double t) const {
  const SdeCoefficients<double> c = sde_.at(t);
  return {c.mean * box_ + kSpan * std::sqrt(c.variance), n_};
}

void GridState::evaluate(double t) {
  const Axis along = axis(t);
  for (std::int64_t i = 0; i < nodes_; ++i) {
    x_[i * d_] = along.node(i % n_);
    if (d_ == 2) x_[i * d_ + 1] = along.node(i / n_);
  }
  fields_.evaluate(t, x_.data(), nodes_, {.value = value_.data(), .residual = residual_.data()});
}

Transition GridState::kernel(double s, const Axis& start, double t, const Axis& end,
                             Interpolation interpolation) const {
  const SdeCoefficients<double> now = sde_.at(s), then = sde_.at(t);
  const double mean = then.mean / now.mean;
  return transition(start, end, mean, std::sqrt(std::max(0.0, then.variance - mean * mean * now.variance)),
                    interpolation);
}

std::vector<double> GridState::apply(const Transition& kernel, const std::vector<double>& v) const {
  const std::vector<double> out = apply_transposed(kernel, v);
  return d_ == 1 ? out : apply_transposed(kernel, out);
}

}  // namespace fokker
