// The integrators a stage at a time, for models whose fields are evaluated by launches of their own: the prior, one
// stage of a step, and the log-density of the prior at a path's end. The formulas are those of formulas/integrator.hpp.
//
// Data path: every array passes through once, coalesced; a thread of a stage without noise has one coordinate, a thread
// that draws has the four coordinates of one Philox block. Cost: bandwidth, and with noise about 200 instructions a block
// of four normals.
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

// Coordinate i, of which only what the stage asks for is read, and what it changes is written.
__device__ __forceinline__ void stage_of_coordinate(const StageArguments& a, std::int64_t i, float normal) {
  const Stage& stage = a.stage;
  float x = a.x[i], y = stage.opens ? x : a.stage_x[i];
  float sum = !stage.opens || stage.before != 0 ? a.sum[i] : 0.0f;
  take_stage(stage, a.next_node, a.score[i], normal, x, y, sum);
  if (stage.closes) {
    a.x[i] = x;
  } else {
    a.stage_x[i] = y;
  }
  if (!stage.closes || stage.keeps()) a.sum[i] = sum;
}

// of_quad(quad, z) with the normals of each quad.
template <class OfQuad>
__device__ void for_quads_with_normals(const StageArguments& a, RandomUse use, const OfQuad& of_quad) {
  const std::int64_t items = a.n * quads_of(a.dimension);
  for (std::int64_t item = first_item(); item < items; item += item_stride()) {
    const Quad q = quad_of(item, a.dimension);
    float z[4];
    normals4(a.seed, a.first_index + static_cast<std::uint64_t>(q.point), use, q.block, a.step, z);
    of_quad(q, z);
  }
}

__global__ void noisy_stage(StageArguments a) {
  for_quads_with_normals(a, a.stage.before_step ? RandomUse::before_step : RandomUse::noise,
                         [&](const Quad& q, const float* z) {
#pragma unroll
                           for (int w = 0; w < 4; ++w) {
                             if (w < q.count) stage_of_coordinate(a, q.first + w, z[w]);
                           }
                         });
}

__global__ void lifted(StageArguments a) {
  for_quads_with_normals(a, RandomUse::before_step, [&](const Quad& q, const float* z) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (w >= q.count) continue;
      float& x = a.x[q.first + w];
      x += a.stage.lift * x + a.stage.lift_noise * z[w];
    }
  });
}

__global__ void plain_stage(StageArguments a) {
  for (std::int64_t i = first_item(); i < a.n * a.dimension; i += item_stride()) {
    stage_of_coordinate(a, i, 0);
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
  const float* x;    // [n, d]
  double* integral;  // [n]
  float* out;        // [n], or nullptr at a path's beginning
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
    if (lane_index() != 0) continue;
    const double prior = a.log_norm - square / (2 * a.variance);
    if (a.out != nullptr) {
      a.out[i] = static_cast<float>(prior + a.integral[i]);
    } else {
      a.integral[i] = -prior;
    }
  }
}

__global__ void negated(const double* from, float* to, std::int64_t n) {
  for (std::int64_t i = first_item(); i < n; i += item_stride()) to[i] = static_cast<float>(-from[i]);
}

Status launch_prior_log_density_of(PriorLogDensityArguments a, Stream stream) {
  if (a.n == 0) return 0;
  a.log_norm = -0.5 * a.dimension * std::log(2 * std::numbers::pi * a.variance);
  return launch(prior_log_density, one_item_a_thread(32 * a.n), stream, a);
}

}  // namespace

Status prepare_integrators() {
  const auto all_of = [](auto... kernels) {
    Status status = 0;
    ((status = status ? status : prepare(kernels, 0)), ...);
    return status;
  };
  return all_of(draw_prior, noisy_stage, plain_stage, lifted, scaled<float>, scaled<double>, prior_log_density,
                negated);
}

Status launch_prior(float* x, std::int64_t n, int dimension, float deviation, std::uint64_t seed,
                    std::uint64_t first_index, Stream stream) {
  if (n == 0) return 0;
  return launch(draw_prior, one_item_a_thread(n * quads_of(dimension)), stream,
                PriorArguments{n, dimension, deviation, seed, first_index, x});
}

Status launch_stage(const StageArguments& arguments, Stream stream) {
  if (arguments.n == 0) return 0;
  if (arguments.stage.coefficients.noise != 0) {
    return launch(noisy_stage, one_item_a_thread(arguments.n * quads_of(arguments.dimension)), stream, arguments);
  }
  return launch(plain_stage, one_item_a_thread(arguments.n * arguments.dimension), stream, arguments);
}

Status launch_lift(const StageArguments& arguments, Stream stream) {
  if (arguments.n == 0) return 0;
  return launch(lifted, one_item_a_thread(arguments.n * quads_of(arguments.dimension)), stream, arguments);
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
  return launch_prior_log_density_of({n, dimension, 0, variance, x, const_cast<double*>(integral), out}, stream);
}

Status launch_begin_log_density(const float* x, double* integral, std::int64_t n, int dimension, double variance,
                                Stream stream) {
  return launch_prior_log_density_of({n, dimension, 0, variance, x, integral, nullptr}, stream);
}

Status launch_end_log_density(const double* integral, float* out, std::int64_t n, Stream stream) {
  if (n == 0) return 0;
  return launch(negated, one_item_a_thread(n), stream, integral, out, n);
}

}  // namespace fokker::kernels
