// Paths of a resident network by any table of stages (formulas/integrator.hpp), and log-densities along the flow. A warp
// takes 16 samples through the whole grid: prior and state are in its shared memory, nothing waits for another warp, and
// global memory is touched at a path's start and end (and for what all share: coefficients, and biases of an embedding).
//
// Cost of a stage: two sweeps (potential) or one (vector net), and 16 d normals where it has noise; a log-density takes d or
// `probes` tangents more.
#include <numbers>

#include "divergence.hpp"
#include "fokker/formulas/integrator.hpp"
#include "mlp.hpp"
#include "random.hpp"

namespace fokker::kernels {
namespace {

// out [16, d] = normals of rows 0 … 15.
__device__ __forceinline__ void draw_tile_normals(std::uint64_t seed, std::uint64_t first_index, RandomUse use,
                                                  std::uint64_t step, int d, float* out) {
  const int pairs = (d + 1) / 2;
  for (int i = lane_index(); i < tile_rows * pairs; i += 32) {
    const int row = i / pairs, pair = i - row * pairs;
    float z[2];
    normal_pair(seed, first_index + static_cast<std::uint64_t>(row), use, static_cast<std::uint32_t>(pair), step, z);
    out[row * d + 2 * pair] = z[0];
    if (2 * pair + 1 < d) out[row * d + 2 * pair + 1] = z[1];
  }
}

// kWork: sample, or log_density. kTimed: with biases of the stages.
template <Precision P, int W, Work kWork, bool kTimed>
__global__ void __launch_bounds__(32 * most_warps, 1) resident_sample(ResidentPlan plan, SampleArguments a) {
  load_image(plan);
  const ResidentMlp& net = plan.net;
  WarpMlp<P, W, kWork, kTimed> mlp(plan);
  constexpr bool kDensity = kWork == Work::log_density;
  const int d = net.dimension, lane = lane_index();
  // Entry i of these arrays is read and written by lane i mod 32 alone, but for the scores and normals, which other
  // lanes write.
  float *x = mlp.array(0), *stage_x = mlp.array(1), *score = mlp.array(2), *sum = mlp.array(3), *normal = mlp.array(4);
  const int entries = tile_rows * d;

  for_tiles(a.n, [&](std::int64_t first, int rows) {
    sync_warp();
    if (a.draw_prior) {
      draw_tile_normals(a.seed, a.first_index + static_cast<std::uint64_t>(first), RandomUse::prior, 0, d, normal);
      sync_warp();
    }
    for (int i = lane; i < entries; i += 32) {
      x[i] = a.draw_prior ? a.prior_deviation * normal[i] : i < rows * d ? a.x[first * d + i] : 0.0f;
      stage_x[i] = x[i];
    }
    const auto prior_log_density = [&](int row) {
      double square = 0;
      for (int i = 0; i < d; ++i) square += static_cast<double>(x[row * d + i]) * static_cast<double>(x[row * d + i]);
      return a.prior_log_norm - square / (2 * a.prior_variance);
    };
    if constexpr (kDensity) {
      sync_warp();
      if (lane < tile_rows) mlp.scalar(0, lane) = a.from_prior ? -prior_log_density(lane) : 0;
    }

    for (int step = 0; step < a.steps; ++step) {
      for (int k = 0; k < a.stages_per_step; ++k) {
        const int number = step * a.stages_per_step + k;
        float* in = mlp.inputs();
        if constexpr (!kDensity) {
          if (const float noise = a.stages[number].lift_noise; noise != 0) {
            sync_warp();
            draw_tile_normals(a.seed, a.first_index + static_cast<std::uint64_t>(first), RandomUse::before_step,
                              static_cast<std::uint64_t>(step), d, normal);
            sync_warp();
            const float lift = a.stages[number].lift;
#pragma unroll 1
            for (int i = lane; i < entries; i += 32) stage_x[i] = x[i] += lift * x[i] + noise * normal[i];
          }
        }
        if constexpr (kTimed) mlp.take_biases(a.biases + std::int64_t{a.bias_rows[number]} * a.bias_stride);
        const float stage_in = a.stages[number].in;
#pragma unroll 1
        for (int i = lane; i < entries; i += 32) {
          const int row = i / d, column = i - row * d;
          in[row * mlp.stride() + 1 + column] = stage_in * stage_x[i];
        }
        if (lane < tile_rows) in[lane * mlp.stride()] = kTimed ? 0.0f : a.stages[number].time;

        mlp.scores(score);
        // Read after the score: at width 128 the network needs the registers.
        Stage stage = a.stages[number];
        if constexpr (kDensity) {
          float trace[2];
          const auto index_of = [&](int row) {
            return a.estimate.first_index + static_cast<std::uint64_t>(first + row);
          };
          divergence(net, mlp, a.estimate, index_of, normal, trace);
          if (leads_rows()) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              mlp.scalar(0, tile_row(r)) +=
                  static_cast<double>(stage.weight) * increment_divergence(stage, d, trace[r]);
            }
          }
        }

        float& noise = stage.coefficients.noise;
        if constexpr (kDensity) {
          noise = 0;
        } else {
          if (step + 1 == a.steps && !a.noise_in_last_step && !stage.before_step) noise = 0;
          if (noise != 0) {
            draw_tile_normals(a.seed, a.first_index + static_cast<std::uint64_t>(first),
                              stage.before_step ? RandomUse::before_step : RandomUse::noise,
                              static_cast<std::uint64_t>(step), d, normal);
          }
        }
        sync_warp();
        const float next_node = stage.closes ? 0.0f : a.stages[number + 1].node;
#pragma unroll 1
        for (int i = lane; i < entries; i += 32) {
          take_stage(stage, next_node, score[i], noise != 0 ? normal[i] : 0.0f, x[i], stage_x[i], sum[i]);
        }
      }
      for (int k = 0; k < a.snapshot_count; ++k) {
        if (a.snapshot_steps[k] != step + 1) continue;
        float* out = a.snapshots + (k * a.n + first) * d;
        for (int i = lane; i < rows * d; i += 32) out[i] = x[i];
      }
    }

    if (!kDensity || a.from_prior) {
      for (int i = lane; i < rows * d; i += 32) a.x[first * d + i] = x[i];
    }
    if constexpr (kDensity) {
      sync_warp();
      if (lane < rows) {
        const double integral = mlp.scalar(0, lane);
        a.log_density[first + lane] = static_cast<float>(a.from_prior ? -integral : prior_log_density(lane) + integral);
      }
    }
  });
}

// Calls visitor with what the kernel is for as compile-time values.
template <class Visitor>
Status with_sampler(Work work, bool timed, const Visitor& visitor) {
  const auto with_work = [&]<Work kWork>() {
    return timed ? visitor.template operator()<kWork, true>() : visitor.template operator()<kWork, false>();
  };
  return work == Work::sample ? with_work.template operator()<Work::sample>()
                              : with_work.template operator()<Work::log_density>();
}

}  // namespace

Status prepare_resident_sample(const ResidentMlp& net, Work work, bool timed, const DeviceLimits& limits) {
  return with_sampler(work, timed, [&]<Work kWork, bool kTimed>() {
    return with_resident_kernel<kWork>(
        net, [&]<Precision P, int W>() { return prepare(resident_sample<P, W, kWork, kTimed>, limits.shared_bytes); });
  });
}

Status launch_resident_sample(const ResidentMlp& net, int warps, const SampleArguments& a, const DeviceLimits& limits,
                              Stream stream) {
  if (a.n == 0) return 0;
  const Work work = a.log_density ? Work::log_density : Work::sample;
  return with_sampler(work, a.biases != nullptr, [&]<Work kWork, bool kTimed>() {
    const ResidentLaunch with = resident_launch(net, kWork, warps, a.n, limits);
    return with_resident_kernel<kWork>(net, [&]<Precision P, int W>() {
      return launch(resident_sample<P, W, kWork, kTimed>, with.shape, stream, with.plan, a);
    });
  });
}

}  // namespace fokker::kernels
