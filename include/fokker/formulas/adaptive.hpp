#pragma once

// The probability flow dx/dt = v(t, x) by embedded Runge–Kutta pairs, with a step that is a path's own; shared by host and
// device. A path goes from evaluation to evaluation of its network: begin_evaluation() leaves the point that is wanted
// next, end_evaluation() takes what the network gave there. So paths that are evaluated together may be at different
// stages of steps of their own, and what one does depends on its own numbers alone.
//
// With s = A x + B F(τ, C x) (form.hpp) v = linear x + score F, linear = a − ½ g² A and score = −½ g² B; of a network that
// gives the velocity itself v = ±F, which is finite where a, g², A and B are not. A log-density has one component more,
// ∫ ∇·v dt. Everything but the network is in double, whatever it is evaluated in.
//
// Constants: E. Hairer, S. P. Nørsett and G. Wanner, Solving Ordinary Differential Equations I, second edition 1993,
// II.4; the memory of the step before is Gustafsson's (1991), with their code dopri5's exponents.
#include <cmath>
#include <cstdint>

#include "fokker/formulas/form.hpp"
#include "fokker/formulas/host_device.hpp"
#include "fokker/formulas/sde.hpp"

namespace fokker {

// k_i = v(t + c_i h, x + h Σ_{j < i} a_ij k_j). The last stage is at the step's end and its point is the new state, so
// that its slope is the first of the next step; the error is h Σ e_i k_i, the difference to the lower order's state.
struct EmbeddedTableau {
  int stages;
  int error_order;  // k: errors are of order h^k
  double node[7];
  double weight[7][6];
  double error[7];
};

// 3(2): P. Bogacki and L. F. Shampine, A 3(2) pair of Runge–Kutta formulas, Appl. Math. Lett. 2 (1989).
FOKKER_HOST_DEVICE constexpr EmbeddedTableau bogacki_shampine() {
  return {4,
          3,
          {0, 1.0 / 2, 3.0 / 4, 1},
          {{}, {1.0 / 2}, {0, 3.0 / 4}, {2.0 / 9, 1.0 / 3, 4.0 / 9}},
          {-5.0 / 72, 1.0 / 12, 1.0 / 9, -1.0 / 8}};
}

// 5(4): J. R. Dormand and P. J. Prince, A family of embedded Runge–Kutta formulae, J. Comput. Appl. Math. 6 (1980).
FOKKER_HOST_DEVICE constexpr EmbeddedTableau dormand_prince() {
  return {7,
          5,
          {0, 1.0 / 5, 3.0 / 10, 4.0 / 5, 8.0 / 9, 1, 1},
          {{},
           {1.0 / 5},
           {3.0 / 40, 9.0 / 40},
           {44.0 / 45, -56.0 / 15, 32.0 / 9},
           {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
           {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
           {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84}},
          {71.0 / 57600, 0, -71.0 / 16695, 71.0 / 1920, -17253.0 / 339200, 22.0 / 525, -1.0 / 40}};
}

// 5(4): C. Tsitouras, Runge–Kutta pairs of order 5(4) satisfying only the first column simplifying assumption, Comput.
// Math. Appl. 62 (2011), table 1.
FOKKER_HOST_DEVICE constexpr EmbeddedTableau tsitouras() {
  return {7,
          5,
          {0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1},
          {{},
           {0.161},
           {-0.008480655492356989, 0.335480655492357},
           {2.8971530571054935, -6.359448489975075, 4.3622954328695815},
           {5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525},
           {5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383},
           {0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774}},
          {-0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
           0.5823571654525552, -0.45808210592918697, 1.0 / 66}};
}

// v = linear x + score F(time, in x).
struct FlowCoefficients {
  double linear, score, in, time;
};

FOKKER_HOST_DEVICE inline FlowCoefficients flow_at(const NetworkForm& form, const SdeFormulas& sde, double t) {
  const FormCoefficients<double> f = form_at(form, sde, t);
  if (form.form == Form::velocity) return {0, 1, f.in, f.time};
  if (form.form == Form::velocity_to_data) return {0, -1, f.in, f.time};
  const SdeCoefficients<double> c = sde.at(t);
  const double half = c.diffusion_squared / 2;
  return {c.drift - half * f.skip, -half * f.out, f.in, f.time};
}

// How a path ended. Its step is too small where times in what the network is evaluated in do not resolve it; lost is one
// that begins where the flow is not finite.
enum class PathEnd : std::int32_t { none, reached, too_many_steps, step_too_small, lost };

// What became of a path.
struct AdaptivePathReport {
  std::int32_t accepted = 0, refused = 0;  // steps
  std::int32_t evaluations = 0;            // of the network: two for the first step, then stages − 1 a step
  PathEnd ended = PathEnd::none;           // reached, or why not
  double time = 0;                         // where the last accepted step ended
};

// What all paths of a call have in common.
struct AdaptiveRule {
  EmbeddedTableau tableau;
  NetworkForm form;
  SdeFormulas sde;
  int dimension;   // d
  int components;  // d, or d + 1 with ∫ ∇·v dt behind the coordinates
  double start, end;
  double relative, absolute;  // tolerances
  std::int32_t most_steps;    // accepted and refused
  double resolution;          // least step, relative to the time
};

// A path: the record of it, and where its numbers are.
struct AdaptivePath {
  double t, step;       // step is signed
  double to;            // where the step ends: the path's end itself in the last one
  double before;        // the control's error of the step before; before the first step the norm of the slope
  FlowCoefficients at;  // of the evaluation at hand
  std::int32_t stage;   // of the step; 0 before the first, trial_stage between the two
  std::int32_t accepted, refused, evaluations;
  std::int32_t after_refusal;  // whether the step before was refused
  PathEnd ended;
};

FOKKER_HOST_DEVICE inline AdaptivePathReport report_of(const AdaptivePath& path) {
  return {path.accepted, path.refused, path.evaluations, path.ended, path.t};
}

// Entry j of the state, of the point of the evaluation, and of the slope of stage i: at j · stride, for slopes at
// (i · components + j) · stride.
struct PathNumbers {
  double *state, *point, *slopes;
  std::int64_t stride;
  int components;

  FOKKER_HOST_DEVICE double& x(int j) const { return state[j * stride]; }
  FOKKER_HOST_DEVICE double& y(int j) const { return point[j * stride]; }
  FOKKER_HOST_DEVICE double& k(int i, int j) const {
    return slopes[(static_cast<std::int64_t>(i) * components + j) * stride];
  }
};

// Constants of the control. It aims at errors of safety^k of the tolerance: with q the error over that, the next step is
// q^{−α} q_before^{β} times as long, α = 0.85/k and β = 0.2/k, at least by `least`, at most by `most`. After a refusal it
// is safety · error^{−1/k} times as long, and the step after that no longer than it.
struct StepControl {
  static constexpr double safety = 0.9, least = 0.2, most = 10, alpha = 0.85, beta = 0.2;
  static constexpr double least_before = 1e-4;  // of q_before
  static constexpr double past_end = 1.01;      // of a step: one that would leave less than this is the last
  static constexpr std::int32_t trial_stage = -1;
};

FOKKER_HOST_DEVICE inline AdaptivePath begin_path(const AdaptiveRule& rule) {
  return {rule.start, 0, rule.start, 1, {}, 0, 0, 0, 0, 0, PathEnd::none};
}

// Sets the step that is wanted, or the last one.
FOKKER_HOST_DEVICE inline void set_step(const AdaptiveRule& rule, AdaptivePath& path, double size) {
  const double left = std::fabs(rule.end - path.t), least = rule.resolution * std::fabs(path.t);
  if (size < least && left > least) {
    path.ended = PathEnd::step_too_small;
    return;
  }
  const bool last = !(StepControl::past_end * size < left);
  path.step = last ? rule.end - path.t : rule.end < path.t ? -size : size;
  path.to = last ? rule.end : path.t + path.step;
  path.stage = 1;
}

// The tolerance of a component of these sizes.
FOKKER_HOST_DEVICE inline double tolerance_of(const AdaptiveRule& rule, double a, double b) {
  return rule.absolute + rule.relative * std::fmax(std::fabs(a), std::fabs(b));
}

// Leaves the point in numbers.y and its coefficients in path.at: the network is wanted at (at.time, at.in · y).
FOKKER_HOST_DEVICE inline void begin_evaluation(const AdaptiveRule& rule, AdaptivePath& path, const PathNumbers& n) {
  double t = path.t;
  if (path.stage == 0) {
    for (int j = 0; j < rule.components; ++j) n.y(j) = n.x(j);
  } else if (path.stage == StepControl::trial_stage) {
    t += path.step;
    for (int j = 0; j < rule.components; ++j) n.y(j) = n.x(j) + path.step * n.k(0, j);
  } else {
    const int stage = path.stage;
    const double node = rule.tableau.node[stage];
    t = node == 1 ? path.to : t + node * path.step;
    for (int j = 0; j < rule.components; ++j) {
      double sum = 0;
      for (int i = 0; i < stage; ++i) sum += rule.tableau.weight[stage][i] * n.k(i, j);
      n.y(j) = n.x(j) + path.step * sum;
    }
  }
  path.at = flow_at(rule.form, rule.sde, t);
}

// The first step's size by Hairer, Nørsett and Wanner (II.4): a guess that moves the state by a hundredth of it, and from
// the slope behind it a second derivative.
FOKKER_HOST_DEVICE inline void guess_step(const AdaptiveRule& rule, AdaptivePath& path, const PathNumbers& n) {
  double states = 0, slopes = 0;
  for (int j = 0; j < rule.components; ++j) {
    const double tolerance = tolerance_of(rule, n.x(j), n.x(j));
    const double x = n.x(j) / tolerance, k = n.k(0, j) / tolerance;
    states += x * x, slopes += k * k;
  }
  const double d0 = std::sqrt(states / rule.components), d1 = std::sqrt(slopes / rule.components);
  if (!std::isfinite(d1)) {
    path.ended = PathEnd::lost;
    return;
  }
  const double span = rule.end - path.t;
  const double guess = d0 < 1e-5 || d1 < 1e-5 ? 1e-6 * std::fabs(span) : 0.01 * d0 / d1;
  path.step = std::copysign(std::fmin(guess, std::fabs(span)), span);
  path.before = d1;
  path.stage = StepControl::trial_stage;
}
FOKKER_HOST_DEVICE inline void set_first_step(const AdaptiveRule& rule, AdaptivePath& path, const PathNumbers& n) {
  double sum = 0;
  for (int j = 0; j < rule.components; ++j) {
    const double change = (n.k(1, j) - n.k(0, j)) / tolerance_of(rule, n.x(j), n.x(j));
    sum += change * change;
  }
  const double guess = std::fabs(path.step), d1 = path.before, d2 = std::sqrt(sum / rule.components) / guess;
  double size = guess;  // where the trial is not finite
  if (std::isfinite(d2)) {
    const double steepest = std::fmax(d1, d2);
    const double moved = steepest <= 1e-15 ? std::fmax(1e-6 * std::fabs(rule.end - path.t), 1e-3 * guess)
                                           : std::exp(std::log(0.01 / steepest) / rule.tableau.error_order);
    size = std::fmin(100 * guess, moved);
  }
  path.before = 1;
  // Whether less than times resolve is needed is for a refusal to show.
  set_step(rule, path, std::fmax(size, rule.resolution * std::fabs(path.t)));
}

FOKKER_HOST_DEVICE inline void end_step(const AdaptiveRule& rule, AdaptivePath& path, const PathNumbers& n) {
  const int stages = rule.tableau.stages;
  const double order = rule.tableau.error_order;
  double squares = 0;
  for (int j = 0; j < rule.components; ++j) {
    double sum = 0;
    for (int i = 0; i < stages; ++i) sum += rule.tableau.error[i] * n.k(i, j);
    const double error = path.step * sum / tolerance_of(rule, n.x(j), n.y(j));
    squares += error * error;
  }
  const double error = std::sqrt(squares / rule.components);
  const double size = std::fabs(path.step);
  if (error <= 1) {
    ++path.accepted;
    path.t = path.to;
    for (int j = 0; j < rule.components; ++j) n.x(j) = n.y(j), n.k(0, j) = n.k(stages - 1, j);
    if (path.t == rule.end) {
      path.ended = PathEnd::reached;
      return;
    }
    const double q = std::fmax(error / std::exp(order * std::log(StepControl::safety)), 1e-10);
    double factor = std::exp((StepControl::beta * std::log(path.before) - StepControl::alpha * std::log(q)) / order);
    factor = std::fmin(std::fmax(factor, StepControl::least), path.after_refusal ? 1 : StepControl::most);
    path.before = std::fmax(q, StepControl::least_before);
    path.after_refusal = 0;
    if (path.accepted + path.refused >= rule.most_steps) {
      path.ended = PathEnd::too_many_steps;
      return;
    }
    set_step(rule, path, factor * size);
    return;
  }
  ++path.refused;
  path.after_refusal = 1;
  double factor = StepControl::least;  // where the error is not finite
  if (std::isfinite(error)) factor = std::fmax(factor, StepControl::safety * std::exp(-std::log(error) / order));
  if (path.accepted + path.refused >= rule.most_steps) {
    path.ended = PathEnd::too_many_steps;
    return;
  }
  set_step(rule, path, factor * size);
}

// Takes the network's output F [d] at the point, and where there is a component more the trace of ∂F/∂(C x). Sets
// path.ended where the path ends with it: with the state at path.t in numbers.x.
template <class T>
FOKKER_HOST_DEVICE inline void end_evaluation(const AdaptiveRule& rule, AdaptivePath& path, const PathNumbers& n,
                                              const T* output, T trace) {
  const int i = path.stage == StepControl::trial_stage ? 1 : path.stage;
  for (int j = 0; j < rule.dimension; ++j) {
    n.k(i, j) = path.at.linear * n.y(j) + path.at.score * static_cast<double>(output[j]);
  }
  if (rule.components > rule.dimension) {
    n.k(i, rule.dimension) = path.at.linear * rule.dimension + path.at.score * path.at.in * static_cast<double>(trace);
  }
  ++path.evaluations;
  if (path.stage == 0) {
    guess_step(rule, path, n);
  } else if (path.stage == StepControl::trial_stage) {
    set_first_step(rule, path, n);
  } else if (path.stage + 1 < rule.tableau.stages) {
    ++path.stage;
  } else {
    end_step(rule, path, n);
  }
}

}  // namespace fokker
