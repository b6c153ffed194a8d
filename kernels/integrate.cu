// The integrators a stage at a time, for models whose fields are evaluated by launches of their own: the prior, one
// stage of a step, and the log-density of the prior at a path's end. The formulas are those of formulas/integrator.hpp.
//
// Data path: every array passes through once, coalesced; a thread of the stages of the probability flow has one
// coordinate, a thread that draws has the four coordinates of one Philox block. Cost: bandwidth, and for the reverse
// SDE about 200 instructions a block of four normals.
// Ours and not Thrust's, so that the emulation and its racecheck run it as every kernel (CONTRIBUTING.md).
#include <cmath>
#include <cstdint>
#include <numbers>

#include "device.hpp"
#include "grid.hpp"
#include "launch.hpp"
#include "random.hpp"

namespace fokker::kernels {
namespace {

struct PriorArguments {
  std::int64_t n;
  int dimension;
  float deviation;
  std::uint64_t seed, first_index;
  float* x;  // [n, d]
};

// Four consecutive coordinates of a point, or what is left of them.
struct Quad {
  std::int64_t point;
  std::uint32_t block;
  std::int64_t first;  // index of its first coordinate in [n, d]
  int count;
};
FOKKER_HOST_DEVICE inline std::int64_t quads_of(int dimension) { return (dimension + 3) / 4; }
__device__ Quad quad_of(std::int64_t item, int dimension) {
  const std::int64_t quads = quads_of(dimension), point = item / quads;
  const int column = 4 * static_cast<int>(item - point * quads), left = dimension - column;
  return {point, static_cast<std::uint32_t>(column / 4), point * dimension + column, left < 4 ? left : 4};
}

__global__ void draw_prior(PriorArguments a) {
  const std::int64_t items = a.n * quads_of(a.dimension);
  for (std::int64_t item = first_item(); item < items; item += item_stride()) {
    const Quad q = quad_of(item, a.dimension);
    float z[4];
    normals4(a.seed, a.first_index + static_cast<std::uint64_t>(q.point), RandomUse::prior, q.block, 0, z);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (w < q.count) a.x[q.first + w] = a.deviation * z[w];
    }
  }
}

__global__ void euler_maruyama_stage(StageArguments a) {
  const StepCoefficients<float> c = a.stage.coefficients;
  const std::int64_t items = a.n * quads_of(a.dimension);
  for (std::int64_t item = first_item(); item < items; item += item_stride()) {
    const Quad q = quad_of(item, a.dimension);
    float z[4] = {0, 0, 0, 0};
    if (c.noise != 0) {
      normals4(a.seed, a.first_index + static_cast<std::uint64_t>(q.point), RandomUse::noise, q.block, a.step, z);
    }
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (w < q.count) a.x[q.first + w] = euler_maruyama(c, a.x[q.first + w], a.score[q.first + w], z[w]);
    }
  }
}

__global__ void probability_flow_stage(StageArguments a) {
  const StepCoefficients<float> c = a.stage.coefficients;
  for (std::int64_t i = first_item(); i < a.n * a.dimension; i += item_stride()) {
    const float x = a.x[i];
    const float slope = increment(c, a.first ? x : a.stage_x[i], a.score[i]);
    const float sum = (a.first ? 0.0f : a.sum[i]) + a.stage.weight * slope;
    if (a.last) {
      a.x[i] = x + sum;
    } else {
      a.sum[i] = sum;
      a.stage_x[i] = x + a.next_node * slope;
    }
    if (a.log_density != nullptr && i < a.n) {  // point i, not coordinate i
      a.log_density[i] +=
          static_cast<double>(a.stage.weight) * increment_divergence(a.stage, a.dimension, a.divergence[i]);
    }
  }
}

template <class T>
__global__ void scaled(const T* x, T factor, bool add, std::int64_t count, T* out) {
  for (std::int64_t i = first_item(); i < count; i += item_stride()) out[i] = factor * x[i] + (add ? out[i] : T(0));
}

struct PriorLogDensityArguments {
  std::int64_t n;
  int dimension;
  double log_norm, variance;
  const float* x;          // [n, d]
  const double* integral;  // [n]
  float* out;              // [n]
};

// A warp a point.
__global__ void prior_log_density(PriorLogDensityArguments a) {
  for (std::int64_t i = first_item() / 32; i < a.n; i += item_stride() / 32) {
    double square = 0;
    for (int j = lane_index(); j < a.dimension; j += 32) {
      const double x = a.x[i * a.dimension + j];
      square += x * x;
    }
    for (int mask = 16; mask > 0; mask /= 2) square += shuffle_xor(square, mask);
    if (lane_index() == 0) a.out[i] = static_cast<float>(a.log_norm - square / (2 * a.variance) + a.integral[i]);
  }
}

}  // namespace

Status prepare_integrators() {
  const auto all_of = [](auto... kernels) {
    Status status = 0;
    ((status = status ? status : prepare(kernels, 0)), ...);
    return status;
  };
  return all_of(draw_prior, euler_maruyama_stage, probability_flow_stage, scaled<float>, scaled<double>,
                prior_log_density);
}

Status launch_prior(float* x, std::int64_t n, int dimension, float deviation, std::uint64_t seed,
                    std::uint64_t first_index, Stream stream) {
  if (n == 0) return 0;
  return launch(draw_prior, one_item_a_thread(n * quads_of(dimension)), stream,
                PriorArguments{n, dimension, deviation, seed, first_index, x});
}

Status launch_stage(const StageArguments& arguments, Stream stream) {
  if (arguments.n == 0) return 0;
  if (arguments.stochastic) {
    return launch(euler_maruyama_stage, one_item_a_thread(arguments.n * quads_of(arguments.dimension)), stream,
                  arguments);
  }
  return launch(probability_flow_stage, one_item_a_thread(arguments.n * arguments.dimension), stream, arguments);
}

template <class T>
Status launch_scaled(const T* x, T factor, bool add, std::int64_t count, T* out, Stream stream) {
  if (count == 0) return 0;
  return launch(scaled<T>, one_item_a_thread(count), stream, x, factor, add, count, out);
}
template Status launch_scaled(const float*, float, bool, std::int64_t, float*, Stream);
template Status launch_scaled(const double*, double, bool, std::int64_t, double*, Stream);

Status launch_prior_log_density(const float* x, const double* integral, float* out, std::int64_t n, int dimension,
                                double variance, Stream stream) {
  if (n == 0) return 0;
  const double log_norm = -0.5 * dimension * std::log(2 * std::numbers::pi * variance);
  return launch(prior_log_density, one_item_a_thread(32 * n), stream,
                PriorLogDensityArguments{n, dimension, log_norm, variance, x, integral, out});
}

}  // namespace fokker::kernels
