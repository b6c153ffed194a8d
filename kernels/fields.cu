// Fields of a resident network at points: value, ∂_t, score, Laplacian or divergence (exact, or Hutchinson's with
// probes drawn here) and residual, in one launch. See mlp.hpp for the sweeps. Blocks stay and take tiles of 16 points a
// warp; a point is read once and each field written once.
#include "divergence.hpp"
#include "mlp.hpp"

namespace fokker::kernels {
namespace {

// out[first + row] of the lane's rows, by their leader.
__device__ __forceinline__ void store(const float (&v)[2], float* out, std::int64_t first, int rows, int stride = 1) {
  if (!leads_rows()) return;
  if (tile_row(0) < rows) out[(first + tile_row(0)) * stride] = v[0];
  if (tile_row(1) < rows) out[(first + tile_row(1)) * stride] = v[1];
}

// kWork: curvature where the divergence or the residual is wanted, else score.
template <Precision P, int W, Work kWork>
__global__ void __launch_bounds__(32 * most_warps, 1) resident_fields(ResidentPlan plan, FieldArguments a) {
  load_image(plan);
  const ResidentMlp& net = plan.net;
  WarpMlp<P, W, kWork> mlp(plan);
  const int d = net.dimension;
  for_tiles(a.n, [&](std::int64_t first, int rows) {
    float* in = mlp.inputs();
    mlp.load_points(a.t, a.t_stride, a.x, first, rows);
    Tile<W> tile;
    float value[2];
    [[maybe_unused]] float trace[2];
    [[maybe_unused]] const auto index_of = [&](int row) {
      return a.estimate.first_index + static_cast<std::uint64_t>(first + row);
    };
    mlp.template forward<true>(tile, value);
    // A vector net has a way of its own: where the two join again, the compiler doubles the sweeps.
    if (!net.potential) {
#pragma unroll 1
      for (int i = 0; a.score && i < d; ++i) {
        float score[2];
        mlp.score(i, tile, score);
        store(score, a.score + i, first, rows, d);
      }
      if constexpr (kWork == Work::curvature) {
        divergence(net, mlp, a.estimate, index_of, mlp.array(0), trace);
        store(trace, a.divergence, first, rows);
      }
      return;
    }
    if (a.value) store(value, a.value, first, rows);
    if (!a.dt && !a.score && !a.divergence && !a.residual) return;
    mlp.reverse(tile);
    float dt[2] = {0, 0}, square[2] = {0, 0}, along[2] = {0, 0};
    if (a.dt || a.residual) mlp.dot(tile, mlp.input(0), dt);
    if (a.dt) store(dt, a.dt, first, rows);
#pragma unroll 1
    for (int i = 0; (a.score || a.residual) && i < d; ++i) {
      float score[2];
      mlp.score(i, tile, score);
      if (a.score) store(score, a.score + i, first, rows, d);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        square[r] = fmaf(score[r], score[r], square[r]);
        along[r] = fmaf(in[tile_row(r) * mlp.stride() + 1 + i], score[r], along[r]);
      }
    }
    if constexpr (kWork == Work::score) return;
    // The parts of the residual wait in shared memory: the divergence needs the registers.
    if (a.residual && leads_rows()) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = tile_row(r);
        const SdeCoefficients<double> c = a.sde.at(static_cast<double>(in[row * mlp.stride()]));
        mlp.scalar(0, row) = dt[r] + static_cast<float>(c.drift) * (static_cast<float>(d) + along[r]);
        mlp.scalar(1, row) = square[r];
        mlp.scalar(2, row) = static_cast<float>(c.diffusion_squared / 2);
      }
    }
    divergence(net, mlp, a.estimate, index_of, mlp.array(0), trace);
    if (a.divergence) store(trace, a.divergence, first, rows);
    if (!a.residual || !leads_rows()) return;
    float residual[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = tile_row(r);
      const float part = static_cast<float>(mlp.scalar(0, row)), squares = static_cast<float>(mlp.scalar(1, row));
      residual[r] = part - static_cast<float>(mlp.scalar(2, row)) * (trace[r] + squares);
    }
    store(residual, a.residual, first, rows);
  });
}

}  // namespace

Status prepare_resident_fields(const ResidentMlp& net, Work work, const DeviceLimits& limits) {
  const auto prepare_for = [&]<Work kWork>() {
    return with_resident_kernel<kWork>(
        net, [&]<Precision P, int W>() { return prepare(resident_fields<P, W, kWork>, limits.shared_bytes); });
  };
  return work == Work::curvature ? prepare_for.operator()<Work::curvature>() : prepare_for.operator()<Work::score>();
}

Status launch_resident_fields(const ResidentMlp& net, int warps, const FieldArguments& a, const DeviceLimits& limits,
                              Stream stream) {
  if (a.n == 0) return 0;
  const auto launch_for = [&]<Work kWork>() {
    const ResidentLaunch with = resident_launch(net, kWork, warps, a.n, limits);
    return with_resident_kernel<kWork>(net, [&]<Precision P, int W>() {
      return launch(resident_fields<P, W, kWork>, with.shape, stream, with.plan, a);
    });
  };
  return a.divergence || a.residual ? launch_for.operator()<Work::curvature>() : launch_for.operator()<Work::score>();
}

}  // namespace fokker::kernels
