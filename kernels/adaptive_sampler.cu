// Paths of the probability flow of a resident network with steps of their own, and log-densities along them, from their
// first evaluation to their last in one launch. The formulas of a step are those of formulas/adaptive.hpp.
//
// Data path: each of a warp's 16 rows has a path, its record and its numbers (state, point, slopes) in the warp's shared
// memory, and a time of its own, which is an input of the network as its coordinates are. Lane r takes row r to its next
// point, alone; then the warp evaluates its tile. A row whose path has ended takes the next sample that no row of the grid
// has taken, so that all rows are at work until none waits, however unequal paths are: idling until a tile is done would
// cost all its rows the steps of its longest path, and a range for each warp its last paths while other warps have none.
// Then rows without a path keep their last point until the warp's last path has ended. A row's numbers are its own, and so
// are the powers of two by which its operands are scaled: neither its neighbours nor its place show in it. Global memory
// is touched at a path's start and end.
//
// Cost of an evaluation: the sweeps of a stage of resident_sample, and on half of the lanes what advance_paths costs (of a
// stage i the state and i slopes a coordinate, in double, and the flow's coefficients), in as many ways as there are
// different stages among the rows.
#include "adaptive.hpp"
#include "divergence.hpp"
#include "mlp.hpp"

namespace fokker::kernels {
namespace {

// kWork: adaptive_sample, or adaptive_log_density.
template <Precision P, int W, Work kWork>
__global__ void __launch_bounds__(32 * most_warps, 1)
    resident_adaptive(ResidentPlan plan, ResidentAdaptiveArguments a) {
  load_image(plan);
  const ResidentMlp& net = plan.net;
  WarpMlp<P, W, kWork> mlp(plan);
  constexpr bool kDensity = kWork == Work::adaptive_log_density;
  const int d = net.dimension, lane = lane_index();
  float* const score = mlp.array(0);
  const std::int64_t place = tile_rows * (block_index() + std::int64_t{grid_blocks()} * warp_index()) + lane;
  const std::int64_t places = std::int64_t{grid_blocks()} * block_threads() / 32 * tile_rows;

  for (bool begins = true;; begins = false) {
    bool wanted = false;
    if (lane < tile_rows) {
      const PathNumbers n = mlp.path_numbers(lane, a.task.rule.components);
      const auto next = [&] { return begins ? place : places + static_cast<std::int64_t>(atomic_add(a.taken, 1ull)); };
      const float trace = kDensity && !begins ? static_cast<float>(mlp.scalar(0, lane)) : 0.0f;
      AdaptivePath path;
      wanted = advance_path(a.task, begins, a.n, mlp.path_place(lane), n, score + lane * d, trace, a.task.totals[place],
                            path, next, [] {});
      float* const in = mlp.inputs() + lane * mlp.stride();
      if (wanted) {
        in[0] = static_cast<float>(path.at.time);
        for (int j = 0; j < d; ++j) in[1 + j] = static_cast<float>(path.at.in * n.y(j));
      } else if (begins) {
        for (int j = 0; j <= d; ++j) in[j] = 0;
      }
    }
    if (sum_of_lanes<32>(wanted ? 1 : 0) == 0) break;

    mlp.scores(score);
    if constexpr (kDensity) {
      const auto index_of = [&](int row) {
        return a.estimate.first_index + static_cast<std::uint64_t>(mlp.path_place(row).sample);
      };
      float trace[2];
      divergence(net, mlp, a.estimate, index_of, mlp.array(1), trace);
      if (leads_rows()) {
#pragma unroll
        for (int r = 0; r < 2; ++r) mlp.scalar(0, tile_row(r)) = trace[r];
      }
    }
    sync_warp();
  }
}

// Calls visitor with the work as a compile-time value.
template <class Visitor>
Status with_adaptive_work(Work work, const Visitor& visitor) {
  return work == Work::adaptive_sample ? visitor.template operator()<Work::adaptive_sample>()
                                       : visitor.template operator()<Work::adaptive_log_density>();
}

}  // namespace

Status prepare_resident_adaptive(const ResidentMlp& net, Work work, const DeviceLimits& limits) {
  return with_adaptive_work(work, [&]<Work kWork>() {
    return with_resident_kernel<kWork>(
        net, [&]<Precision P, int W>() { return prepare(resident_adaptive<P, W, kWork>, limits.shared_bytes); });
  });
}

Status launch_resident_adaptive(const ResidentMlp& net, int warps, const ResidentAdaptiveArguments& a,
                                const DeviceLimits& limits, Stream stream) {
  if (a.n == 0) return 0;
  const Work work = a.task.log_density ? Work::adaptive_log_density : Work::adaptive_sample;
  const ResidentLaunch with = resident_launch(net, work, warps, a.n, limits);
  return with_adaptive_work(work, [&]<Work kWork>() {
    return with_resident_kernel<kWork>(net, [&]<Precision P, int W>() {
      return launch(resident_adaptive<P, W, kWork>, with.shape, stream, with.plan, a);
    });
  });
}

}  // namespace fokker::kernels
