// Paths of a resident network: the reverse SDE by schemes of one stage, the probability flow by explicit Runge–Kutta schemes,
// and log-densities along the flow. A warp takes 16 samples through the whole grid: the prior is drawn here, the state
// stays in the warp's shared memory, nothing waits for another warp, and global memory is touched at a path's start and
// end (and for a step's coefficients and, of a network with an embedding of the time, its biases, which all share).
//
// Cost of a step: two sweeps (potential) or one (vector net) and 16 d normals; a log-density takes d or `probes`
// tangents more.
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
    if (kDensity && lane < tile_rows) mlp.scalar(0, lane) = 0;

    for (int step = 0; step < a.steps; ++step) {
      for (int k = 0; k < a.stages_per_step; ++k) {
        const int number = step * a.stages_per_step + k;
        float* in = mlp.inputs();
        if constexpr (kTimed) mlp.take_biases(a.biases + std::int64_t{a.bias_rows[number]} * a.bias_stride);
        const float stage_in = a.stages[number].in;
#pragma unroll 1
        for (int i = lane; i < entries; i += 32) {
          const int row = i / d, column = i - row * d;
          in[row * mlp.stride() + 1 + column] = stage_in * stage_x[i];
        }
        if (lane < tile_rows) in[lane * mlp.stride()] = kTimed ? 0.0f : a.stages[number].time;

        Tile<W> tile;
        float value[2];
        mlp.template forward<false>(tile, value);
        if (net.potential) mlp.reverse(tile);
#pragma unroll 1
        for (int i = 0; i < d; ++i) {
          float s[2];
          mlp.score(i, tile, s);
          if (leads_rows(i)) {
            score[tile_row(0) * d + i] = s[0];
            score[tile_row(1) * d + i] = s[1];
          }
        }
        // Read after the score: at width 128 the network needs the registers.
        const Stage stage = a.stages[number];
        const float weight = stage.weight;
        StepCoefficients<float> c = stage.coefficients;
        if constexpr (kDensity) {
          float trace[2];
          divergence(net, mlp, a.estimate, a.estimate.first_index + static_cast<std::uint64_t>(first), normal, trace);
          if (leads_rows()) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              mlp.scalar(0, tile_row(r)) += static_cast<double>(weight) * increment_divergence(stage, d, trace[r]);
            }
          }
        }

        const bool last_step = step + 1 == a.steps, last_stage = k + 1 == a.stages_per_step;
        if (a.stochastic) {
          if (last_step && !a.noise_in_last_step) c.noise = 0;
          if (c.noise != 0) {
            draw_tile_normals(a.seed, a.first_index + static_cast<std::uint64_t>(first), RandomUse::noise,
                              static_cast<std::uint64_t>(step), d, normal);
          }
          sync_warp();
#pragma unroll 1
          for (int i = lane; i < entries; i += 32) {
            x[i] = c.noise == 0 ? x[i] + increment(c, x[i], score[i]) : euler_maruyama(c, x[i], score[i], normal[i]);
            stage_x[i] = x[i];
          }
          continue;
        }
        sync_warp();
        const float next_node = last_stage ? 0.0f : a.stages[number + 1].node;
#pragma unroll 1
        for (int i = lane; i < entries; i += 32) {
          const float slope = increment(c, stage_x[i], score[i]);
          sum[i] = (k > 0 ? sum[i] : 0.0f) + weight * slope;
          if (last_stage) x[i] += sum[i];
          stage_x[i] = last_stage ? x[i] : x[i] + next_node * slope;
        }
      }
      for (int k = 0; k < a.snapshot_count; ++k) {
        if (a.snapshot_steps[k] != step + 1) continue;
        float* out = a.snapshots + (k * a.n + first) * d;
        for (int i = lane; i < rows * d; i += 32) out[i] = x[i];
      }
    }

    if constexpr (kDensity) {
      sync_warp();
      if (!leads_rows()) return;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = tile_row(r);
        if (row >= rows) continue;
        double square = 0;
        for (int i = 0; i < d; ++i) square += static_cast<double>(x[row * d + i]) * static_cast<double>(x[row * d + i]);
        a.log_density[first + row] =
            static_cast<float>(a.prior_log_norm - square / (2 * a.prior_variance) + mlp.scalar(0, row));
      }
    } else {
      for (int i = lane; i < rows * d; i += 32) a.x[first * d + i] = x[i];
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
