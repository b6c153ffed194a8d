// The energy on a grid: u from T down to the last time (grid_state.cpp), two coarser passes for step errors, and what
// they say of how far the numbers are to be trusted.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "diagnostics/energy.hpp"
#include "diagnostics/grid_state.hpp"
#include "fokker/error.hpp"

namespace fokker {
namespace {

constexpr double kMassErrors = 4;    // errors of the mass that a loss exceeds which is one of samples
constexpr double kLeaving = 1e-6;    // share of p near the edge that samples on their way out make, and no others
constexpr double kTolerated = 0.01;  // share of a law, before there is a warning

// Numbers a time in EnergyState::moments.
constexpr std::int64_t kMoments = 9;

void append(const GridMoments& m, std::vector<double>& packed) {
  const EnergyMoments& of = m.of_time;
  packed.insert(packed.end(), {of.energy, of.log_u, of.log_normaliser, of.residual, of.residual_of_q, m.mass,
                               m.by_linear, m.edge_of_q, m.edge_of_p});
}

GridMoments unpacked(const double* m) { return {{m[0], m[1], m[2], m[3], m[4]}, m[5], m[6], m[7], m[8]}; }

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
  const auto record = [&](double t, const GridMoments& m) {
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
    const GridMoments m = advance(state, measured.times, k);
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
      const GridMoments m = advance(coarse, at, k);
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
