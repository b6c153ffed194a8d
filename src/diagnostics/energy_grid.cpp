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
// K is a product over axes, so one matrix of [n, n] serves all of them: row i integrates the cubic through the four
// nodes around each y against the Gaussian, by the trapezoidal rule in y, which is exact for polynomials to rounding
// where y is spaced by half a standard deviation or less. The span of the grid goes with time as ±(m box + 6 σ), so
// that paths from inside the box stay inside to one in 10⁹, and what happens at its edges (u is held constant beyond
// them) reaches no point of the box.
//
// Cubics can undershoot where u is rough. Where the result leaves [½, 2] times that of linear interpolation, which is
// positive, the latter is taken, and how much of p^S sits there is reported.
//
// Evaluating φ and R, twice a step, takes most of the time on a CPU. The points of the rule go over its threads, once a
// step, so that the result does not depend on their number and threads seldom wait for each other.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "diagnostics/energy.hpp"
#include "fokker/error.hpp"
#include "diagnostics/host_fields.hpp"
#include "core/parallel.hpp"

namespace fokker {
namespace {

constexpr double kSpan = 6;            // standard deviations beyond the box
constexpr double kReach = 7;           // of the kernel: 3e-12 of it is beyond
constexpr double kNegligible = 1e-14;  // p beside its maximum
constexpr double kVanishing = -640;    // log u beside its maximum: products with a weight would be denormal numbers
constexpr double kEdge = 0.95;         // of the span: beyond it p and q should have nothing
constexpr double kMassErrors = 4;      // errors of the mass that a loss exceeds which is one of samples
constexpr double kLeaving = 1e-6;    // share of p beyond it that samples on their way out make, and those inside never
constexpr double kTolerated = 0.01;  // share of a law, before there is a warning
constexpr std::int64_t kBlock = 8;   // rows of a kernel at a time, whose columns are then written together

// ∫_0^1 f(y²) 2y dy, four points of Gauss and Legendre's rule: of paths, f the mean at a share y² of a step.
constexpr std::array<double, 4> kPoints{0.06943184420297371, 0.33000947820757187, 0.66999052179242813,
                                        0.93056815579702629};
constexpr std::array<double, 4> kWeights{0.17392742256872693, 0.32607257743127307, 0.32607257743127307,
                                         0.17392742256872693};

struct Axis {
  double half_width;
  std::int64_t n;
  double spacing() const { return 2 * half_width / double(n - 1); }
  double node(std::int64_t i) const { return half_width * (2 * double(i) / double(n - 1) - 1); }
};

// The transition kernel along one axis: [n, n], rows sum to 1; of row i, `width` weights from column begin[i] on.
struct Transition {
  std::int64_t n, width;
  std::vector<std::int64_t> begin;
  std::vector<double> weight;  // [n, width]
};

enum class Interpolation { linear, cubic };

// From nodes of `at` (time s) to the law at nodes of `from` (time t): N(mean x, deviation²).
Transition transition(const Axis& at, const Axis& from, double mean, double deviation, Interpolation interpolation) {
  const std::int64_t n = from.n;
  const double step = std::min(0.5, from.spacing() / std::max(deviation, 1e-300));
  const std::int64_t reach = deviation > 0 ? static_cast<std::int64_t>(std::ceil(kReach / step)) : 0;
  std::vector<double> gaussian;  // at z = k step, k from −reach to reach
  double sum = 0;
  for (std::int64_t k = -reach; k <= reach; ++k) {
    gaussian.push_back(std::exp(-0.5 * (double(k) * step) * (double(k) * step)));
    sum += gaussian.back();
  }
  for (double& w : gaussian) w /= sum;
  const auto place = [&](std::int64_t i, std::int64_t k) {
    const double y = mean * at.node(i) + deviation * double(k) * step;
    return std::clamp((y + from.half_width) / from.spacing(), 0.0, double(n - 1));
  };
  const auto cell = [&](double at_place) {  // the node before it, of those with a neighbour before and two behind
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(at_place), 1, n - 3);
  };
  Transition kernel{n, 0, std::vector<std::int64_t>(n), {}};
  for (std::int64_t i = 0; i < n; ++i) {
    kernel.begin[i] = cell(place(i, -reach)) - 1;
    kernel.width = std::max(kernel.width, cell(place(i, reach)) + 3 - kernel.begin[i]);
  }
  for (std::int64_t& begin : kernel.begin) begin = std::min(begin, n - kernel.width);
  kernel.weight.assign(n * kernel.width, 0);
  for (std::int64_t i = 0; i < n; ++i) {
    double* row = kernel.weight.data() + i * kernel.width;
    for (std::int64_t k = -reach; k <= reach; ++k) {
      const double w = gaussian[k + reach], y = place(i, k);
      const std::int64_t j = cell(y), column = j - kernel.begin[i];
      const double s = y - double(j);
      if (interpolation == Interpolation::linear) {
        const std::int64_t shift = s < 0 ? -1 : s < 1 ? 0 : 1;  // in the first cell, an inner one, or the last
        row[column + shift] += w * (1 - (s - double(shift)));
        row[column + shift + 1] += w * (s - double(shift));
      } else {  // Lagrange's polynomials on −1, 0, 1, 2
        row[column - 1] -= w * s * (s - 1) * (s - 2) / 6;
        row[column] += w * (s + 1) * (s - 1) * (s - 2) / 2;
        row[column + 1] -= w * (s + 1) * s * (s - 2) / 2;
        row[column + 2] += w * (s + 1) * s * (s - 1) / 6;
      }
    }
  }
  return kernel;
}

// Along the first axis of v [n, columns], and transposed: [columns, n]. Twice does both axes of a square.
std::vector<double> carried_transposed(const Transition& kernel, const std::vector<double>& v) {
  const std::int64_t n = kernel.n, columns = std::ssize(v) / n;
  std::vector<double> out(v.size()), sums(kBlock * columns);
  for (std::int64_t first = 0; first < n; first += kBlock) {
    const std::int64_t rows = std::min(kBlock, n - first);
    std::fill(sums.begin(), sums.end(), 0);
    for (std::int64_t i = 0; i < rows; ++i) {
      const double* weight = kernel.weight.data() + (first + i) * kernel.width;
      double* sum = sums.data() + i * columns;
      for (std::int64_t j = 0; j < kernel.width; ++j) {
        const double w = weight[j], *from = v.data() + (kernel.begin[first + i] + j) * columns;
        for (std::int64_t k = 0; k < columns; ++k) sum[k] += w * from[k];
      }
    }
    for (std::int64_t k = 0; k < columns; ++k) {
      for (std::int64_t i = 0; i < rows; ++i) out[k * n + first + i] = sums[i * columns + k];
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

  // u = π e^{−φ} at the horizon.
  void begin(double t) {
    time_ = t;
    evaluate(t);
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

  // To an earlier time.
  void step(double t) {
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
    std::vector<double> cubic, safe, mean_at[points];  // the last: of R over paths, at a point of the step
    const auto take_mean = [&](std::int64_t point) {
      const double at = t + kPoints[point] * kPoints[point] * duration;
      std::vector<double> v = carried(kernel(at, between, later, from, Interpolation::cubic), u);
      const Transition rest = kernel(t, to, at, between, Interpolation::cubic);
      // For K_{s,t} u, so that what interpolation leaves in both cancels.
      const std::vector<double> all = carried(rest, v);
      for (std::int64_t i = 0; i < nodes_; ++i) v[i] *= residual_[i];
      mean_at[point] = carried(rest, v);
      for (std::int64_t i = 0; i < nodes_; ++i) mean_at[point][i] /= all[i];
    };
    parallel_for(threads_, points + 2, [&](std::int64_t item, int) {
      if (item < points) {
        take_mean(item);
      } else if (item == points) {
        cubic = carried(kernel(t, to, later, from, Interpolation::cubic), u);
      } else {
        safe = carried(kernel(t, to, later, from, Interpolation::linear), u);
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

  struct Moments {
    EnergyMoments of_time;
    double mass;       // ∫ p
    double by_linear;  // share of p where interpolation is linear
    double edge_of_q;  // share of q near the edge of the grid
    double edge_of_p;  // of p
  };
  Moments moments() const {
    const Axis along = axis(time_);
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

 private:
  Axis axis(double t) const {
    const SdeCoefficients<double> c = sde_.at(t);
    return {c.mean * box_ + kSpan * std::sqrt(c.variance), n_};
  }
  // φ and R on the axes of that time.
  void evaluate(double t) {
    const Axis along = axis(t);
    for (std::int64_t i = 0; i < nodes_; ++i) {
      x_[i * d_] = along.node(i % n_);
      if (d_ == 2) x_[i * d_ + 1] = along.node(i / n_);
    }
    fields_.evaluate(t, x_.data(), nodes_, {.value = value_.data(), .residual = residual_.data()});
  }
  // K_{s,t} of what is on the axes `from` at time t, to the axes `to` at time s.
  Transition kernel(double s, const Axis& to, double t, const Axis& from, Interpolation interpolation) const {
    const SdeCoefficients<double> now = sde_.at(s), then = sde_.at(t);
    const double mean = then.mean / now.mean;
    return transition(to, from, mean, std::sqrt(std::max(0.0, then.variance - mean * mean * now.variance)),
                      interpolation);
  }
  std::vector<double> carried(const Transition& kernel, const std::vector<double>& v) const {
    const std::vector<double> out = carried_transposed(kernel, v);
    return d_ == 1 ? out : carried_transposed(kernel, out);
  }

  ForwardSde sde_;
  int threads_;
  HostFields fields_;
  std::int64_t d_, n_, nodes_;
  double box_, time_ = 0;
  std::vector<double> x_, value_, residual_, log_u_;
  std::vector<char> linear_;
};

// Of one time in EnergyState::moments.
constexpr std::int64_t kMoments = 9;

void append(const GridState::Moments& m, std::vector<double>& packed) {
  const EnergyMoments& of = m.of_time;
  packed.insert(packed.end(), {of.energy, of.log_u, of.log_normaliser, of.residual, of.residual_of_q, m.mass,
                               m.by_linear, m.edge_of_q, m.edge_of_p});
}

GridState::Moments unpacked(const double* m) { return {{m[0], m[1], m[2], m[3], m[4]}, m[5], m[6], m[7], m[8]}; }

// Every second of them and the last.
std::vector<double> every_second(const std::vector<double>& times) {
  std::vector<double> some;
  for (std::size_t k = 0; k + 1 < times.size(); k += 2) some.push_back(times[k]);
  some.push_back(times.back());
  return some;
}

}  // namespace

EnergyMeasurement energy_on_grid(const Context& context, const Model& model, const TimeGrid& grid,
                                 const EnergyOptions& options) {
  const std::int64_t d = model.dimension(), nodes = options.nodes > 0 ? options.nodes : d == 1 ? 1024 : 192;
  EnergyMeasurement measured;
  measured.times = grid.times();
  measured.half_times = every_second(measured.times);
  const std::int64_t times = std::ssize(measured.times), half_times = std::ssize(measured.half_times);
  // A time at half the nodes costs that share of one at all.
  const double share = d == 1 ? 0.5 : 0.25, work = double(times) + share * double(times + half_times);
  const auto progress = [&](double done) {
    if (options.progress) options.progress(done / work);
  };
  GridState state(context, model, nodes, options.box);
  double worst_linear = 0, worst_edge = 0, worst_edge_of_p = 0, edge_time = 0;
  const auto record = [&](double t, const GridState::Moments& m) {
    measured.all.push_back(m.of_time);
    measured.mass.push_back(m.mass);
    worst_linear = std::max(worst_linear, m.by_linear);
    worst_edge_of_p = std::max(worst_edge_of_p, m.edge_of_p);
    if (!(m.edge_of_q <= worst_edge)) worst_edge = m.edge_of_q, edge_time = t;
  };
  EnergyState done = options.from.times == 0 ? EnergyState{} : options.from;
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
  const auto advance = [](GridState& on, const std::vector<double>& to, std::int64_t k) {
    if (k == 0) {
      on.begin(to[k]);
    } else {
      on.step(to[k]);
    }
    return on.moments();
  };
  for (std::int64_t k = done.times; k < times; ++k) {
    const GridState::Moments m = advance(state, measured.times, k);
    record(measured.times[k], m);
    if (options.save) {
      done.times = k + 1;
      done.share = double(k + 1) / work;
      done.log_u = state.log_u();
      append(m, done.moments);
      options.save(done);
    }
    progress(double(k + 1));
  }
  // For step errors. Nodes and times each have a pass, since what both leave may cancel in one.
  double before = double(times);
  const auto coarse_pass = [&](const std::vector<double>& at, std::vector<EnergyMoments>& moments) {
    GridState coarse(context, model, (nodes + 1) / 2, options.box);
    std::vector<double> mass;
    for (std::int64_t k = 0; k < std::ssize(at); ++k) {
      const GridState::Moments m = advance(coarse, at, k);
      moments.push_back(m.of_time), mass.push_back(m.mass);
      progress(before += share);
    }
    return mass;
  };
  const std::vector<double> mass_half_nodes = coarse_pass(measured.times, measured.half_nodes),
                            mass_half_both = coarse_pass(measured.half_times, measured.half_both);
  double by_nodes = 0, by_times = 0;
  for (std::int64_t k = 0; k < times; ++k) {
    by_nodes = std::max(by_nodes, std::abs(measured.mass[k] - mass_half_nodes[k]));
  }
  for (std::int64_t k = 0; k < half_times; ++k) {
    by_times = std::max(by_times, std::abs(mass_half_nodes[std::min(2 * k, times - 1)] - mass_half_both[k]));
  }
  const double mass_error = by_nodes + by_times;

  std::int64_t least = 0, most = 0;
  for (std::int64_t k = 1; k < times; ++k) {
    if (!(measured.mass[k] >= measured.mass[least])) least = k;
    if (!(measured.mass[k] <= measured.mass[most])) most = k;
  }
  const auto mass_fault = [&](std::int64_t k) {
    measured.faults.push_back(
        fmt::format("the mass of p^S on the grid is {:.4g} at t = {:.4g}, where it should be 1, with a step error of "
                    "{:.2g}: more nodes or times are needed",
                    measured.mass[k], measured.times[k], mass_error));
  };
  if (!(measured.mass[most] <= 1 + kTolerated)) mass_fault(most);
  const double lost = 1 - measured.mass[least];
  if (lost > kTolerated && lost > kMassErrors * mass_error && worst_edge_of_p > kLeaving) {
    measured.share_left = lost;
    measured.warnings.push_back(
        fmt::format("{:.3g} ± {:.1g} % of the samples have left the grid by t = {:.4g}: the energy is that of the "
                    "others, and the two sides need not agree",
                    100 * lost, 100 * mass_error, measured.times[least]));
  } else if (!(lost <= kTolerated)) {
    mass_fault(least);
  }
  if (half_times == times) {
    measured.faults.push_back(
        fmt::format("of {} times none can be left out for a step error: 3 or more are needed", times));
  }
  if (worst_linear > kTolerated) {
    measured.faults.push_back(
        fmt::format("up to {:.3g} % of p^S sits where u is too rough for cubic interpolation: more nodes are needed",
                    100 * worst_linear));
  }
  if (!(worst_edge <= kTolerated)) {
    measured.normaliser_faults.push_back(
        fmt::format("{:.3g} % of e^φ/Z lies within 5 % of the grid's edge at t = {:.4g}: Z and what is made of it miss "
                    "what is beyond, so a larger box is needed",
                    100 * worst_edge, edge_time));
  }
  return measured;
}

}  // namespace fokker
