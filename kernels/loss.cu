// Training losses of a resident network and their gradient in three launches: pack.cu packs the parameters; this one
// draws (or reads) points, sweeps and sums them up where they are, so that what leaves a multiprocessor is one partial
// gradient a block; loss_sum.cu adds those up. Each header has one part of it:
//
//   loss_kernel.hpp    the kernels, which loss_body.hpp has for a file each
//   loss_layout.hpp    what lies where in shared memory and in the workspace
//   loss_memory.hpp    a block's task, its warps' memory and planes
//   loss_products.hpp  products over a block's samples: the gradients of matrices
//   loss_points.hpp    points, and from a network's score at them the loss and the seeds of its gradient
//   loss_sweeps.hpp    the sweeps between, their protocol and the cost of all
//
// Formulas and symbols are those of src/operations/LOSS_GRADIENT.md; see mlp.hpp for the tiles and products of a warp.
#include <algorithm>
#include <cstdint>

#include "loss_kernel.hpp"
#include "loss_sum_launch.hpp"
#include "mlp.hpp"

namespace fokker::kernels {
namespace {

// Few samples are spread over multiprocessors as long as a block has a warp for each of a multiprocessor's four parts.
// A block counts its tiles in an int: in blocks of four warps or more those of 2^37 points, which no device holds.
LaunchedShare loss_share(const TrainingDraw& points, int most, int most_blocks) {
  const std::int64_t tiles = block_tiles(points, 1);
  const auto warps =
      static_cast<int>(std::clamp<std::int64_t>((tiles + most_blocks - 1) / most_blocks, std::min(4, most), most));
  const auto blocks = static_cast<int>(std::clamp<std::int64_t>(block_tiles(points, warps), 1, most_blocks));
  return {.blocks = blocks, .launched = blocks, .first = 0, .warps = static_cast<std::uint16_t>(warps)};
}

Status launch_pack(const ResidentMlp& net, const LossTask* tasks, int count, Stream stream) {
  PackTask networks[most_models];
  for (int k = 0; k < count; ++k) networks[k] = {tasks[k].parameters, tasks[k].layers, tasks[k].image};
  return launch_pack_image(net, networks, count, stream);
}

// The launched blocks of each share, if any; makes the plan.
Status launch_blocks(ResidentLossArguments& a, const ResidentMlp& net, int count, const DeviceLimits& limits,
                     Stream stream) {
  int blocks = 0, most = 0;  // of the launch; warps of a block
  for (int k = 0; k < count; ++k) {
    blocks += a.shares[k].launched;
    most = std::max<int>(most, a.shares[k].warps);
  }
  a.plan = resident_loss_plan(net, !a.form.plain(), most, limits.shared_bytes);
  if (blocks == 0) return 0;
  const LaunchShape shape{blocks, 32 * most, a.plan.block.bytes + most * a.plan.warp_bytes};
  return with_resident_kernel<Work::curvature>(
      net, [&]<Precision P, int W>() { return LossKernel<P, W>::launch(shape, stream, a); });
}

}  // namespace

Status prepare_resident_loss(const ResidentMlp& net, const DeviceLimits& limits) {
  if (const Status error = prepare_pack_image()) return error;
  if (const Status error = prepare_loss_sum()) return error;
  return with_resident_kernel<Work::curvature>(
      net, [&]<Precision P, int W>() { return LossKernel<P, W>::prepare(limits.shared_bytes); });
}

Status launch_resident_loss(const ResidentMlp& net, const NetworkForm& form, int warps, const LossTask* tasks,
                            int count, const DeviceLimits& limits, Stream stream) {
  if (const Status status = launch_pack(net, tasks, count, stream)) return status;
  ResidentLossArguments a{.plan = {}, .form = form, .shares = {}, .tasks = {}};
  for (int k = 0; k < count; ++k) {
    a.tasks[k] = tasks[k];
    a.shares[k] = loss_share(tasks[k].points, warps, limits.multiprocessors);
  }
  if (const Status status = launch_blocks(a, net, count, limits, stream)) return status;

  LossSumArguments sum{.net = net, .gradient = a.plan.gradient, .tasks = {}};
  for (int k = 0; k < count; ++k) {
    const LossTask& task = tasks[k];
    sum.tasks[k] = {.partial_count = a.shares[k].blocks,
                    .layers = task.layers,
                    .partial = task.partial,
                    .partial_stride = a.plan.gradient.size,
                    .partial_values = task.partial_values,
                    .values_stride = 2,
                    .denoising_points = task.points.denoising_points,
                    .collocation_points = task.points.collocation_points,
                    .residual_weight = task.residual_weight,
                    .iteration = task.points.iteration,
                    .values = task.values,
                    .gradient = task.gradient,
                    .squares = task.squares};
  }
  return launch_loss_sum(sum, count, stream);
}

LossChunks resident_loss_chunks(const TrainingDraw& points, int warps, const DeviceLimits& limits) {
  const int blocks = loss_share(points, warps, most_chunked_blocks(limits)).blocks;
  return {.blocks = blocks, .chunks = std::min(blocks, most_chunks)};
}

// No launch has more blocks of a task than there are multiprocessors, so that all of them find their planes where those
// of the launch before were.
Status launch_resident_chunks(const ResidentMlp& net, const NetworkForm& form, int warps, const LossTask* tasks,
                              const RankChunks* chunks, int count, const DeviceLimits& limits, Stream stream) {
  if (const Status status = launch_pack(net, tasks, count, stream)) return status;
  ChunkSumArguments sum{.size = loss_gradient_layout(net).size, .tasks = {}};
  int most = 0;  // own blocks of a task
  for (int k = 0; k < count; ++k) {
    const RankChunks& own = chunks[k];
    sum.tasks[k] = {.of = own.of,
                    .first = own.first,
                    .count = own.count,
                    .partial = tasks[k].partial,
                    .partial_values = tasks[k].partial_values,
                    .records = own.records};
    most = std::max(most, own.blocks());
  }
  for (int begin = 0; begin < most; begin += limits.multiprocessors) {
    ResidentLossArguments a{.plan = {}, .form = form, .shares = {}, .tasks = {}};
    for (int k = 0; k < count; ++k) {
      a.tasks[k] = tasks[k];
      a.tasks[k].partial += std::int64_t{begin} * sum.size;
      a.tasks[k].partial_values += 2 * begin;
      a.shares[k] = loss_share(tasks[k].points, warps, most_chunked_blocks(limits));
      a.shares[k].first = static_cast<std::uint16_t>(chunks[k].of.first_block(chunks[k].first) + begin);
      a.shares[k].launched = std::clamp(chunks[k].blocks() - begin, 0, limits.multiprocessors);
    }
    if (const Status status = launch_blocks(a, net, count, limits, stream)) return status;
  }
  return launch_chunk_sum(sum, count, stream);
}

}  // namespace fokker::kernels
