// Training losses of a resident network and their gradient in three launches: pack.cu packs the parameters; this one
// draws (or reads) points, sweeps and sums them up where they are, so that what leaves a multiprocessor is one partial
// gradient a block; loss_sum.cu adds those up. Each header has one part of it:
//
//   loss_layout.hpp    what lies where in shared memory and in the workspace
//   loss_memory.hpp    a block's task, its warps' memory and planes
//   loss_products.hpp  products over a block's samples: the gradients of matrices
//   loss_points.hpp    points, and from a network's score at them the loss and the seeds of its gradient
//   loss_sweeps.hpp    the sweeps between, their protocol and the cost of all
//
// Formulas and symbols are those of src/operations/LOSS_GRADIENT.md; see mlp.hpp for the tiles and products of a warp.
#include <algorithm>
#include <cstdint>

#include "loss_launch.hpp"
#include "loss_sum.hpp"
#include "loss_sweeps.hpp"

namespace fokker::kernels {
namespace {

struct ResidentLossArguments {
  ResidentLossPlan plan;
  NetworkForm form;
  LossShare shares[most_models];  // one after another in the grid
  LossTask tasks[most_models];
};
static_assert(sizeof(ResidentLossArguments) <= 4096, "a kernel's parameters");

// Tiles of a block's warps that points take, `warps` · 16 points a tile.
FOKKER_HOST_DEVICE std::int64_t block_tiles(std::int64_t points, int warps) {
  return (points + tile_rows * warps - 1) / (tile_rows * warps);
}

template <Precision P, int W>
__global__ void __launch_bounds__(32 * most_warps, 1) resident_loss(ResidentLossArguments a) {
  LossSweeps<P, W> sweeps(a.plan);
  if (thread_index() == 0) {
    int block = block_index(), k = 0;
    for (; block >= a.shares[k].blocks; ++k) block -= a.shares[k].blocks;
    const auto collocation_tiles =
        static_cast<int>(block_tiles(a.tasks[k].points.collocation_points, a.shares[k].warps));
    sweeps.block_task() = {a.tasks[k], a.shares[k],          collocation_tiles, a.form,
                           block,      a.plan.net.potential, !a.form.plain()};
  }
  sync_block();
  load_image(sweeps.block_task().task.image, a.plan.image.bytes);
  sweeps.clear_sums();
  sweeps.sum_tiles();
  sweeps.write_sums();
}

// Few samples are spread over multiprocessors as long as a block has a warp for each of a multiprocessor's four parts.
// A block counts its tiles in an int: in blocks of four warps or more those of 2^37 points, which no device holds.
LossShare loss_share(const TrainingDraw& points, int most, int multiprocessors) {
  const auto tiles = [&](int warps) {
    return block_tiles(points.denoising_points, warps) + block_tiles(points.collocation_points, warps);
  };
  const auto warps = static_cast<int>(
      std::clamp<std::int64_t>((tiles(1) + multiprocessors - 1) / multiprocessors, std::min(4, most), most));
  return {.warps = warps,
          .blocks = static_cast<int>(std::clamp<std::int64_t>(tiles(warps), 1, multiprocessors)),
          .tiles = static_cast<int>(tiles(warps))};
}

}  // namespace

Status prepare_resident_loss(const ResidentMlp& net, const DeviceLimits& limits) {
  if (const Status error = prepare_pack_image()) return error;
  if (const Status error = prepare_loss_sum()) return error;
  return with_resident_kernel<Work::curvature>(
      net, [&]<Precision P, int W>() { return prepare(resident_loss<P, W>, limits.shared_bytes); });
}

Status launch_resident_loss(const ResidentMlp& net, const NetworkForm& form, int warps, const LossTask* tasks,
                            int count, const DeviceLimits& limits, Stream stream) {
  PackTask networks[most_models];
  for (int k = 0; k < count; ++k) networks[k] = {tasks[k].parameters, tasks[k].layers, tasks[k].image};
  if (const Status status = launch_pack_image(net, networks, count, stream)) return status;

  ResidentLossArguments a{.plan = {}, .form = form, .shares = {}, .tasks = {}};
  int blocks = 0, most = 0;  // of the launch; warps of a block
  for (int k = 0; k < count; ++k) {
    a.tasks[k] = tasks[k];
    a.shares[k] = loss_share(tasks[k].points, warps, limits.multiprocessors);
    blocks += a.shares[k].blocks;
    most = std::max(most, a.shares[k].warps);
  }
  a.plan = resident_loss_plan(net, !form.plain(), most, limits.shared_bytes);

  LossSumArguments sum{.net = net, .gradient = a.plan.gradient, .tasks = {}};
  for (int k = 0; k < count; ++k) {
    const LossTask& task = tasks[k];
    sum.tasks[k] = {.partial_count = a.shares[k].blocks,
                    .layers = task.layers,
                    .partial = task.partial,
                    .partial_values = task.partial_values,
                    .denoising_points = task.points.denoising_points,
                    .collocation_points = task.points.collocation_points,
                    .residual_weight = task.residual_weight,
                    .iteration = task.points.iteration,
                    .values = task.values,
                    .gradient = task.gradient,
                    .squares = task.squares};
  }
  const LaunchShape shape{blocks, 32 * most, a.plan.block.bytes + most * a.plan.warp_bytes};
  const Status status = with_resident_kernel<Work::curvature>(
      net, [&]<Precision P, int W>() { return launch(resident_loss<P, W>, shape, stream, a); });
  if (status) return status;
  return launch_loss_sum(sum, count, stream);
}

}  // namespace fokker::kernels
