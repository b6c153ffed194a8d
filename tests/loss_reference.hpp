#pragma once

// What tests of losses and their gradients share, whichever backend computes them: random problems, and how far
// rounding may move a loss and its gradient, from runs of the reference that errs at random (rounding_noise.hpp).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "core/parallel.hpp"
#include "fokker/formulas/divergence.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/model.hpp"
#include "networks.hpp"
#include "reference_network.hpp"
#include "rounding_noise.hpp"

namespace fokker::testing {

// Numbers that are exact in float, so that both precisions and the reference see the same problem. A row of x is x and then
// its condition.
struct Problem {
  std::vector<double> parameters, t, x, target, weight, residual_t, residual_x;
  // How the residual is found; with probes, those of its points [M, 2 probes, d].
  Divergence divergence = {};
  std::vector<double> probes = {};
};

// With so many probes of ±1 for each estimate, by the signs of the documented counters' uniforms: exact in both precisions.
inline Problem with_probes(Problem p, std::int64_t d, int probes, std::uint64_t seed = 9,
                           std::uint64_t first_index = (std::uint64_t{1} << 40) - 3) {
  p.divergence = {.probes = probes, .law = ProbeLaw::rademacher, .seed = seed, .first_index = first_index};
  p.probes.clear();
  for (std::size_t i = 0; i < p.residual_t.size(); ++i) {
    for (int k = 0; k < 2 * probes; ++k) {
      for (std::int64_t j = 0; j < d; ++j) {
        const auto block = static_cast<std::uint32_t>(j / 4);
        const PhiloxBlock words =
            philox4x32_10(seed, first_index + i, philox_offset(RandomUse::probe, block, static_cast<std::uint64_t>(k)));
        p.probes.push_back(uniform_from_word(words.word[j % 4]) < 0.5f ? -1.0 : 1.0);
      }
    }
  }
  return p;
}

inline Problem make_problem(const Architecture& a, const ForwardSde& sde, std::int64_t n, std::int64_t m, bool weighted,
                            unsigned seed) {
  std::mt19937_64 rng(seed);
  const auto draw = [&](std::int64_t count, double low, double high) {
    std::uniform_real_distribution<double> uniform(low, high);
    std::vector<double> v(static_cast<std::size_t>(count));
    for (double& e : v) e = static_cast<double>(static_cast<float>(uniform(rng)));
    return v;
  };
  Problem p;
  p.parameters = Mlp::initialise(a, seed).parameters;
  for (double& e : p.parameters) e = static_cast<double>(static_cast<float>(e));
  p.t = draw(n, sde.t_min(), sde.horizon());
  const std::int64_t columns = a.dimension + a.condition.inputs;
  p.x = draw(n * columns, -2, 2);
  p.target = draw(n * a.dimension, -1, 1);
  if (weighted) p.weight = draw(n, 0.25, 3);
  p.residual_t = draw(m, sde.t_min(), sde.horizon());
  p.residual_x = draw(m * columns, -2, 2);
  return p;
}

template <class T>
std::vector<T> as(const std::vector<double>& v) {
  return {v.begin(), v.end()};
}

// ---- rounding of losses and gradients
// --------------------------------------------------------------------------------

// A loss is a mean of points: its deviation, for a unit roundoff of 1, comes from runs of the reference that errs at
// random, in each of which equal points err equally. What is not exact in float is rounded on its way in. Coefficients of
// the SDE and sums over points are in double: they err in double alone, the sums by a rounding of each of N partial sums
// of at most the mean.
struct LossDeviations {
  double denoising = 0, residual = 0;
};

// The roundings of the SDE's coefficients are as many of the time, whose condition is theirs.
inline std::vector<double> with_roundings(std::vector<double> times, int count) {
  for (double& t : times) {
    for (int k = 0; k < count; ++k) t = rounded(t).value;
  }
  return times;
}

inline LossDeviations loss_deviations(const Architecture& a, const ForwardSde& sde, const Problem& p,
                                      bool in_double = false) {
  const auto net = reference_network(a, p.parameters);
  const auto reference = reference_sde(sde);
  const std::vector<Noisy> noisy(p.parameters.begin(), p.parameters.end());
  const auto input = [](double v) { return v == static_cast<float>(v) ? v : rounded(v).value; };
  const std::size_t d = static_cast<std::size_t>(a.dimension), columns = static_cast<std::size_t>(net.columns());
  const auto inputs = [&](const std::vector<double>& v, std::size_t first, std::size_t count) {
    std::vector<double> part(v.begin() + static_cast<std::ptrdiff_t>(first),
                             v.begin() + static_cast<std::ptrdiff_t>(first + count));
    for (double& e : part) e = input(e);
    return part;
  };
  const auto deviation = [&](std::size_t n, const auto& exact, const auto& run) {
    std::vector<double> values(n);
    std::vector<std::array<double, noise_runs>> errors(n);
    parallel_for(2, static_cast<std::int64_t>(n), [&](std::int64_t i, int) {
      values[i] = exact(i);
      for (int k = 0; k < noise_runs; ++k) {
        Noise::seed(static_cast<std::uint64_t>(k));
        errors[i][k] = (value_of(run(i)) - values[i]) / noise_size;
      }
    });
    if (n == 0) return 0.0;
    double squares = 0;
    for (int k = 0; k < noise_runs; ++k) {
      double error = 0;
      for (const auto& of_point : errors) error += of_point[k] / double(n);
      squares += error * error / noise_runs;
    }
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / double(n), points = std::sqrt(squares);
    return in_double ? std::hypot(points, mean * std::sqrt(double(n)) / 3) : points;
  };
  const auto weight = [&](std::size_t i) { return p.weight.empty() ? 1.0 : p.weight[i]; };
  LossDeviations result;
  result.denoising = deviation(
      p.t.size(),
      [&](std::size_t i) {
        return denoising_point(net, net.parameters, p.t[i], &p.x[i * columns], &p.target[i * d], weight(i));
      },
      [&](std::size_t i) {
        const std::vector<double> x = inputs(p.x, i * columns, columns), target = inputs(p.target, i * d, d);
        return denoising_point(net, noisy, input(p.t[i]), x.data(), target.data(), weight(i));
      });
  result.residual = deviation(
      p.residual_t.size(),
      [&](std::size_t i) {
        return residual_point(net, net.parameters, reference, p.residual_t[i], &p.residual_x[i * columns],
                              probes_of_point(p.probes, p.residual_t.size(), i));
      },
      [&](std::size_t i) {
        const std::vector<double> x = inputs(p.residual_x, i * columns, columns);
        const double t = with_roundings({input(p.residual_t[i])}, in_double ? 4 : 0)[0];
        return residual_point(net, noisy, reference, t, x.data(), probes_of_point(p.probes, p.residual_t.size(), i));
      });
  return result;
}

// At the unit roundoff given.
inline ::testing::AssertionResult value_agrees(double actual, double expected, double deviation, double roundoff) {
  return agrees(actual, expected, 0, most_deviations * deviation * roundoff);
}

// What rounding makes of the gradient of denoising + weight · residual, for a unit roundoff of 1: eight runs of the
// reference whose every operation errs, backwards along its tape and in the sum over points, too.
inline std::vector<std::vector<double>> gradient_errors(const Architecture& a, const ForwardSde& sde, const Problem& p,
                                                        double weight, const std::vector<double>& exact,
                                                        bool in_double = false) {
  const auto net = reference_network(a, p.parameters);
  const auto reference = reference_sde(sde);
  std::vector<std::vector<double>> errors(8, std::vector<double>(exact.size()));
  parallel_for(2, 8, [&](std::int64_t run, int) {
    Noise::seed(static_cast<std::uint64_t>(run));
    const auto inputs = [](std::vector<double> v) {
      for (double& e : v) e = e == static_cast<float>(e) ? e : rounded(e).value;
      return v;
    };
    const auto denoising = reference_denoising_loss<Noisy>(net, inputs(p.t), inputs(p.x), inputs(p.target), p.weight);
    const auto residual = reference_residual_loss<Noisy>(
        net, reference, with_roundings(inputs(p.residual_t), in_double ? 4 : 0), inputs(p.residual_x), p.probes);
    for (std::size_t k = 0; k < exact.size(); ++k) {
      const double g = denoising.gradient[k].value + weight * residual.gradient[k].value;
      errors[run][k] = (g - exact[k]) / noise_size;
    }
  });
  return errors;
}

// The error of a precision is another draw of the same law. Its square over the mean square of eight draws is
// F-distributed with (ν, 8ν) degrees of freedom, which is beyond 16 with probability 3e-7 at ν = 4; ν is how many
// errors of points and units matter. The largest element is bounded by four times the largest of the draws for the same
// reason.
inline Bound gradient_rounding(const std::vector<std::vector<double>>& errors, const std::vector<double>& expected,
                               double roundoff) {
  double square = 0, largest = 0, scale = 0;
  for (const auto& run : errors) {
    for (const double e : run) square += e * e / double(errors.size()), largest = std::max(largest, std::fabs(e));
  }
  for (const double e : expected) scale += e * e;
  const double four = 4 * roundoff;
  if (scale == 0) return {};
  return {.norm = four * std::sqrt(square / scale), .each = std::vector<double>(expected.size(), four * largest)};
}

}  // namespace fokker::testing
