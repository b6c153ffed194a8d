#pragma once

// What a block of the resident loss works on, and where it and its warps have their numbers: the network's image, the
// block's gradient, its task, and of each warp what LossWarpLayout says and its first planes, all in shared memory; the
// other planes in global memory, which L2 holds where it is large enough.
#include <algorithm>
#include <cstdint>

#include "loss_launch.hpp"
#include "loss_layout.hpp"
#include "loss_protocol.hpp"
#include "mlp.hpp"

namespace fokker::kernels {

// A kernel's parameter, of which the constant bank keeps every number.
struct ResidentLossPlan {
  ResidentMlp net;
  ImageLayout image;
  LossGradientLayout gradient;
  LossBlockLayout block;
  LossWarpLayout warp;
  int planes;         // of a warp
  int shared_planes;  // of them, which lie behind warp.bytes of each warp
  int warp_bytes;     // with these
};

// The plan for blocks of `warps` warps, each with as many planes in shared memory as there is room for.
inline ResidentLossPlan resident_loss_plan(const ResidentMlp& net, bool formed, int warps, int shared_bytes) {
  ResidentLossPlan plan{.net = net,
                        .image = image_layout(net),
                        .gradient = loss_gradient_layout(net),
                        .block = loss_block_layout(net),
                        .warp = loss_warp_layout(net, formed),
                        .planes = loss_planes(net),
                        .shared_planes = 0,
                        .warp_bytes = 0};
  const int plane_bytes = tile_rows * net.width * static_cast<int>(sizeof(float));
  plan.shared_planes =
      std::min(plan.planes, ((shared_bytes - plan.block.bytes) / warps - plan.warp.bytes) / plane_bytes);
  plan.warp_bytes = plan.warp.bytes + plan.shared_planes * plane_bytes;
  return plan;
}

// How a task's samples are cut up, and with it the order of its sums: by its own numbers of points alone, so that they
// do not depend on the tasks beside it, nor on which of its blocks are of this launch.
struct LossShare {
  int warps;   // of a block that hold samples
  int blocks;  // with a partial gradient each
  int tiles;   // of a block's warps
  int first;   // block of this launch
};

// A LossShare as there is room for it among a kernel's parameters, and how many of its blocks are launched.
struct LaunchedShare {
  int blocks, launched;
  std::uint16_t first, warps;
};

// What a block works on, in its shared memory: in registers it would crowd out the tiles.
struct BlockTask {
  LossTask task;
  LossShare share;
  int collocation_tiles;  // the first ones, which cost more
  NetworkForm form;
  int block;  // of those of this launch that work on the task
  bool potential;
  bool formed;  // the form is not plain
};
static_assert(sizeof(BlockTask) <= loss_task_bytes);

template <Precision P, int W>
class LossMemory : public WarpNetwork<P, W> {
 public:
  __device__ __forceinline__ BlockTask& block_task() const { return *plan_.block.task.in(shared_memory()); }

 protected:
  using Network = WarpNetwork<P, W>;
  using Network::net_;
  enum Side { left, right };

  __device__ __forceinline__ explicit LossMemory(const ResidentLossPlan& plan)
      : Network(plan.net, plan.image), plan_(plan) {}

  __device__ __forceinline__ const LossTask& task() const { return block_task().task; }
  __device__ __forceinline__ const LossShare& share() const { return block_task().share; }
  __device__ __forceinline__ bool potential() const { return block_task().potential; }
  __device__ __forceinline__ bool formed() const { return block_task().formed; }

  // ---- loops around tiles: their index lies in shared memory, one a lane, for the reason of BlockTask's ----

  enum class Index { tile, layer, axis };
  __device__ __forceinline__ void set_index(Index which, int i) const { indices()[32 * static_cast<int>(which)] = i; }
  // The tile of the block's warps, the layer of a sweep from the last to the first, and the axis of an axis adjoint.
  __device__ __forceinline__ int tile_index() const { return indices()[32 * static_cast<int>(Index::tile)]; }
  __device__ __forceinline__ int layer_index() const { return indices()[32 * static_cast<int>(Index::layer)]; }
  __device__ __forceinline__ int axis_index() const { return indices()[32 * static_cast<int>(Index::axis)]; }
  // Whether the tile is one of collocation points.
  __device__ __forceinline__ bool of_residual() const { return tile_index() < block_task().collocation_tiles; }

  // ---- the block's numbers ----

  __device__ __forceinline__ float* gradient() const { return plan_.block.gradient.in(shared_memory()); }
  __device__ __forceinline__ char* memory(int warp) const {
    return shared_memory() + plan_.block.bytes + warp * plan_.warp_bytes;
  }

  // ---- this warp's, as in LossWarpLayout ----

  __device__ __forceinline__ float* inputs() const { return plan_.warp.inputs.in(memory(warp_index())); }
  __device__ __forceinline__ float* seeds() const { return plan_.warp.seeds.in(memory(warp_index())); }
  __device__ __forceinline__ float* weights() const { return plan_.warp.weights.in(memory(warp_index())); }
  __device__ __forceinline__ float* scales() const { return plan_.warp.scales.in(memory(warp_index())); }
  __device__ __forceinline__ double* values() const { return plan_.warp.values.in(memory(warp_index())); }
  __device__ __forceinline__ char* stage(Side side) const { return plan_.warp.stage[side].in(memory(warp_index())); }
  // A row's ResidualCoefficients, from its point to its seeds: in the right stage, which no product takes before them.
  enum class Coefficient { constant, square, value, time, along, curvature, gradient, count };
  __device__ __forceinline__ float& coefficient(Coefficient which, int row) const {
    return reinterpret_cast<float*>(stage(right))[static_cast<int>(which) * tile_rows + row];
  }
  // ν, where the form is not plain.
  __device__ __forceinline__ float& value_seed(int row) const {
    return plan_.warp.value_seeds.in(memory(warp_index()))[row];
  }
  // From a row of inputs() or seeds() to the next.
  __device__ __forceinline__ int stride() const { return plan_.warp.input_stride; }

  // ---- planes; `part` as in LossProtocol ----

  __device__ __forceinline__ void store_plane(LossPlane which, int l, int part, const Tile<W>& tile) {
    protocol_.write(which, l, part);
    plane(which, l).store(tile);
  }
  __device__ __forceinline__ void load_plane(LossPlane which, int l, int part, Tile<W>& tile) {
    protocol_.read(which, l, part);
    plane(which, l).load(tile);
  }
  // tile += plane.
  __device__ __forceinline__ void add_plane(LossPlane which, int l, int part, Tile<W>& tile) {
    Tile<W> more;
    load_plane(which, l, part, more);
    for_entries_in_halves(tile, more)([](int, int, float& x, float y) { x += y; });
  }
  // One more axis to a plane that is summed over axes, `axes` of which are in it; the tile is then the sum.
  __device__ __forceinline__ void sum_into_plane(LossPlane which, int l, int axes, Tile<W>& tile) {
    if (axes > 0) add_plane(which, l, axes, tile);
    store_plane(which, l, axes + 1, tile);
  }

  const ResidentLossPlan& plan_;
  LossProtocol protocol_;

 private:
  __device__ __forceinline__ int* indices() const {
    return reinterpret_cast<int*>(memory(warp_index())) + lane_index();
  }
  __device__ __forceinline__ Plane<W> plane(LossPlane which, int l) const {
    const int k = plane_number(which, net_.hidden, l);
    float* start = reinterpret_cast<float*>(memory(warp_index()) + plan_.warp.bytes) + k * Plane<W>::size;
    if (k >= plan_.shared_planes) {
      const int warp = block_task().block * (block_threads() / 32) + warp_index(),
                elsewhere = plan_.planes - plan_.shared_planes;
      start = task().planes + (warp * elsewhere + k - plan_.shared_planes) * Plane<W>::size;
    }
    return Plane<W>(start);
  }
};

}  // namespace fokker::kernels
