#pragma once

// The kernel of the resident loss (loss.cu). A file instantiates one: beside others in a file the compiler finds common
// expressions of all of them, and keeps some on a stack, where its registers would do for one.
#include "loss_kernel.hpp"
#include "loss_sweeps.hpp"

namespace fokker::kernels {
namespace {

template <Precision P, int W>
__global__ void __launch_bounds__(32 * most_warps, 1) resident_loss(ResidentLossArguments a) {
  LossSweeps<P, W> sweeps(a.plan);
  if (thread_index() == 0) {
    int block = block_index(), k = 0;
    for (; block >= a.shares[k].launched; ++k) block -= a.shares[k].launched;
    const TrainingDraw& points = a.tasks[k].points;
    const int warps = a.shares[k].warps;
    sweeps.block_task() = {
        .task = a.tasks[k],
        .share = {warps, a.shares[k].blocks, static_cast<int>(block_tiles(points, warps)), a.shares[k].first},
        .collocation_tiles = static_cast<int>(block_tiles(points.collocation_points, warps)),
        .form = a.form,
        .block = block,
        .potential = a.plan.net.potential,
        .formed = !a.form.plain()};
  }
  sync_block();
  load_image(sweeps.block_task().task.image, a.plan.image.bytes);
  sweeps.clear_sums();
  sweeps.sum_tiles();
  sweeps.write_sums();
}

}  // namespace

template <Precision P, int W>
Status LossKernel<P, W>::prepare(int shared_bytes) {
  return kernels::prepare(resident_loss<P, W>, shared_bytes);
}

template <Precision P, int W>
Status LossKernel<P, W>::launch(const LaunchShape& shape, Stream stream, const ResidentLossArguments& arguments) {
  return kernels::launch(resident_loss<P, W>, shape, stream, arguments);
}

}  // namespace fokker::kernels
