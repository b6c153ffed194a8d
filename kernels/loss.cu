// Training losses of a resident network and their gradient in one launch: points are drawn (or read), swept, and summed
// up where they are; what leaves a multiprocessor is one partial gradient a block. See mlp.hpp for the tiles and
// products.
//
// Both losses have, of a sample, the gradient in θ of F = c·∇φ + w Δφ with ∇ over (t, x) and c, w held fixed:
//   denoising  weight |s − s*|²/(N d):  c = (0, 2 weight (s − s*)/(N d)), w = 0
//   residual   w_R R²/M, R = ∂_tφ + a d + a x·s − ½ g² (Δφ + |s|²):  with r = 2 w_R R/M  c = r (1, a x − g² s),
//              w = −½ g² r
// With z_l = W_l h_{l−1} + b_l, h_l = σ(z_l), h_0 = (t, x), output row v, and ż_l, ḣ_l along an axis i:
//   A  forward z_l; reverse P_L = v, δ_l = σ′_l P_l, P_{l−1} = W_lᵀ δ_l, κ_l = σ″_l P_l; ∇φ = W_1ᵀ δ_1
//      residual: for each axis tangent ż_1 = W_1 e_i, ḣ_l = σ′_l ż_l, ż_l = W_l ḣ_{l−1}; q_l = Σ_i ż_l²,
//      Δφ = Σ_i Σ_l κ_l·ż_l²
//   B  residual, for each axis: the tangent again; backwards α_l = 2 w κ_l ż_l + σ′_l A_l, A_{l−1} = W_lᵀ α_l, A_L = 0;
//      S_l += σ″_l ż_l A_l; dW_l += α_l ḣ_{l−1}ᵀ, of which the first layer's is column i
//   C  u_1 = W_1 c, u_l = W_l π_{l−1}, π_l = σ′_l u_l + w σ″_l q_l; dW_l += δ_l π_{l−1}ᵀ with π_0 = c; dv += π_L;
//      S_l += κ_l u_l + w σ‴_l P_l q_l
//   D  ζ_l = S_l + σ′_l W_{l+1}ᵀ ζ_{l+1}, ζ_L = S_L; dW_l += ζ_l h_{l−1}ᵀ, db_l += ζ_l
// A vector net's denoising loss is D alone, from ζ_L = σ′_L Σ_i c_i v_i, with dv_i += c_i h_L and db_i += c_i. So a
// denoising sample takes 4 sweeps and 2 gradient products, a collocation sample 4 + 3 d and 2 + d, in a state that does
// not grow with d.
//
// Data path. Of z one number is kept from which σ′, σ″, σ‴ follow by a few multiplications (activation.hpp); it, P, q,
// S and ż are the warp's planes: in shared memory as far as there is room, beyond in global memory, which L2 holds
// where it is large enough. No plane holds what is a row of the network (P_L, ż_1 and with it q_1) or in registers
// where the next sweep begins. B takes the last axis first, whose ż A has left. A gradient product is summed over all
// samples of the block: each warp puts both sides of its 16 samples into shared memory, and the warps share out blocks
// of 16 × 16 of dW among themselves, the samples of one warp being one step of the inner dimension. So warps go through
// tiles in lockstep, and where samples run out they go on with samples whose c and w are zero. dW lies in shared memory
// as the lanes hold it.
//
// split: a side is split into high and low halves under one power of two a tile, and every step has sums of its own,
// which are then added in fp32: no rounding of the tensor core, which is towards zero, piles up over steps.
//
// Cost at width 80 with 8 warps of a gradient product for 128 samples: 1200 mma and 800 ldmatrix.x4, as many mma as a
// sweep. Of the paper's network (counted, not measured) no plane fits in shared memory beside 8 warps: a warp reads and
// writes 5 KB 15 times for 16 denoising samples and 57 times for 16 collocation samples (1.9 GB for 200 000 and 50 000
// points), and takes special functions for three layers and a logarithm for two. On 132 multiprocessors the planes of
// denoising take 27 MB, those of collocation 54. Fewer warps with planes in shared memory trade the one against the
// other; which is faster is not measured.
#include <algorithm>
#include <cstdint>

#include "grid.hpp"
#include "loss_launch.hpp"
#include "mlp.hpp"
#include "training_points.hpp"

namespace fokker::kernels {
namespace {

struct ResidentLossPlan {
  ResidentMlp net;
  ImageLayout image;
  LossGradientLayout gradient;
  LossWarpLayout warp;
  int task;           // bytes before the BlockTask: the image and the block's gradient
  int first_warp;     // bytes before the warps' memory
  int planes;         // loss_planes()
  int shared_planes;  // of them, which lie behind warp.bytes of each warp
  int warp_bytes;     // with these
};

// How a task's samples are cut up, and with it the order of its sums: by its own numbers of points alone, so that they
// do not depend on the tasks beside it.
struct LossShare {
  int warps;                     // of a block that hold samples
  int blocks;                    // with a partial gradient each
  int collocation_tiles, tiles;  // of a block's warps; collocation points, which cost more, come first
};

// What a block works on, in its shared memory: kept in registers it would crowd out the tiles.
struct BlockTask {
  ResidentLossTask task;
  LossShare share;
  int block;  // of those that work on the task
  bool potential;
};
static_assert(sizeof(BlockTask) <= loss_task_bytes);

struct ResidentLossArguments {
  ResidentLossPlan plan;
  LossShare shares[most_models];  // one after another in the grid
  ResidentLossTask tasks[most_models];
};
static_assert(sizeof(ResidentLossArguments) <= 4096, "a kernel's parameters");

// Where sums over the samples of a left side's columns go: column 16 b + g + 8 h to at[b · block + g · row + h · half].
struct ColumnSums {
  float* at;
  int block, row, half;
};

// What the sweeps find of a layer: the number that its activation is found again from, and P, or after C S.
template <int W>
struct Layer {
  Tile<W> kept, p;
};

// A stage of halves: bytes of a row, and from the high ones to the low ones.
template <int W>
inline constexpr int half_row_bytes = 2 * (W + 8);
template <int W>
inline constexpr int low_halves = tile_rows* half_row_bytes<W>;

template <Precision P, int W>
class LossSweeps : public WarpNetwork<P, W> {
  using Network = WarpNetwork<P, W>;
  using Network::bias, Network::dot, Network::input, Network::output, Network::output_bias, Network::net_;
  enum Side { left, right };

 public:
  __device__ __forceinline__ explicit LossSweeps(const ResidentLossPlan& plan)
      : Network(plan.net, plan.image), plan_(plan) {}

  __device__ __forceinline__ const BlockTask& own() const {
    return *reinterpret_cast<const BlockTask*>(shared_memory() + plan_.task);
  }

  __device__ __forceinline__ void begin() {
    for (int i = thread_index(); i < plan_.gradient.size; i += block_threads()) gradient()[i] = 0;
    values()[lane_index()] = 0;
    sync_block();
  }

  // The loss of the warp's samples of the block's tiles.
  __device__ __forceinline__ void add() {
#pragma unroll 1
    for (turn() = own().block; turn() < own().share.tiles; turn() += own().share.blocks) add_tile();
  }

  // The block's sums to its place among the task's partial ones.
  __device__ __forceinline__ void end() const {
    sync_block();
    float* to = task().partial + static_cast<std::int64_t>(own().block) * plan_.gradient.size;
    for (int i = thread_index(); task().gradient != nullptr && i < plan_.gradient.size; i += block_threads()) {
      to[i] = gradient()[i];
    }
    if (thread_index() >= 2) return;
    double sum = 0;
    for (int w = 0; w < own().share.warps; ++w) {
      const double* of_rows =
          reinterpret_cast<const double*>(memory(w) + plan_.warp.values) + tile_rows * thread_index();
      for (int r = 0; r < tile_rows; ++r) sum += of_rows[r];
    }
    task().partial_values[2 * own().block + thread_index()] = sum;
  }

 private:
  // Each sweep begins at the layer where the one before it ended, with that layer in `layer`.
  __device__ __forceinline__ void add_tile() {
    load_samples();
    Tile<W> tile;
    Layer<W> layer;
    forward(layer, tile);
    if (own().potential) {
      reverse(layer, tile);
    } else {
      activate<true>(net_.hidden - 1, layer, tile);
    }
    if (residual()) {
      first_order_residual(tile);
      float trace[2] = {0, 0};
#pragma unroll 1
      for (int i = 0; i < net_.dimension; ++i) tangent(i, layer, tile, trace);
      seed_residual(trace);
    } else {
      misfit(tile);
    }
    if (task().gradient == nullptr || (residual() && task().residual_weight == 0)) return;
    if (own().potential) {
      if (residual()) {
#pragma unroll 1
        for (axis() = net_.dimension - 1; axis() >= 0; --axis()) tangent_gradient(layer, tile);
        load(0, layer);
      }
      generator(layer, tile);
    } else {
      vector_output(layer, tile);
    }
    backward_value(layer, tile);
  }

  // ---- memory ----

  // This lane's counters, here for the same reason as BlockTask: the block's tile, and backward()'s layer.
  __device__ __forceinline__ int& turn() const { return counters()[0]; }
  __device__ __forceinline__ int& below() const { return counters()[32]; }
  __device__ __forceinline__ int& axis() const { return counters()[64]; }
  __device__ __forceinline__ int* counters() const {
    return reinterpret_cast<int*>(memory(warp_index()) + LossWarpLayout::counters) + lane_index();
  }

  __device__ __forceinline__ const ResidentLossTask& task() const { return own().task; }
  // Whether the turn is one of collocation points.
  __device__ __forceinline__ bool residual() const { return turn() < own().share.collocation_tiles; }
  __device__ __forceinline__ char* memory(int warp) const {
    return shared_memory() + plan_.first_warp + warp * plan_.warp_bytes;
  }
  __device__ __forceinline__ float* floats(int offset) const {
    return reinterpret_cast<float*>(memory(warp_index()) + offset);
  }
  __device__ __forceinline__ float* inputs() const { return floats(plan_.warp.inputs); }
  __device__ __forceinline__ float* seeds() const { return floats(plan_.warp.seeds); }
  __device__ __forceinline__ float* rows() const { return floats(plan_.warp.rows); }
  __device__ __forceinline__ double* values() const {
    return reinterpret_cast<double*>(memory(warp_index()) + plan_.warp.values);
  }
  __device__ __forceinline__ int stride() const { return plan_.warp.input_stride; }
  __device__ __forceinline__ char* stage(Side side) const { return memory(warp_index()) + plan_.warp.stage[side]; }
  __device__ __forceinline__ float* gradient() const {
    return reinterpret_cast<float*>(shared_memory() + plan_.image.bytes);
  }
  // This lane's rows g and g + 8.
  __device__ __forceinline__ static int row(int r) { return (lane_index() >> 2) + 8 * r; }

  __device__ __forceinline__ Plane<W> plane(int k) const {
    float* start = floats(plan_.warp.bytes) + k * Plane<W>::size;
    if (k >= plan_.shared_planes) {
      const int warp = own().block * (block_threads() / 32) + warp_index(),
                elsewhere = plan_.planes - plan_.shared_planes;
      start = task().planes + (warp * elsewhere + k - plan_.shared_planes) * Plane<W>::size;
    }
    return Plane<W>(start);
  }
  __device__ __forceinline__ Plane<W> kept(int l) const { return plane(l); }
  // Of layers but the last: P, after C S; and B's part of S.
  __device__ __forceinline__ Plane<W> p(int l) const { return plane(net_.hidden + l); }
  __device__ __forceinline__ Plane<W> s(int l) const { return plane(3 * net_.hidden - 2 + l); }
  // Of layers but the first.
  __device__ __forceinline__ Plane<W> q(int l) const { return plane(2 * net_.hidden - 2 + l); }
  // ż of layers between: of the first it is a row of W_1, of the last it stays in the tile.
  __device__ __forceinline__ Plane<W> tangent(int l) const { return plane(4 * net_.hidden - 4 + l); }

  template <class Body>
  __device__ __forceinline__ static void for_entries(const Body& body) {
#pragma unroll
    for (int j = 0; j < W / 8; ++j) {
      if (j == W / 16) sync_warp();  // what is computed ahead for more blocks would crowd the registers
#pragma unroll
      for (int e = 0; e < 4; ++e) body(j, e);
    }
  }
  template <class Body>
  __device__ __forceinline__ void with_sigma(const Body& body) const {
    with_fast_activation(net_.activation, net_.beta, body);
  }

  // The plane = tile, or more by it, and so is the tile.
  __device__ __forceinline__ static void add(Plane<W> plane, bool more, Tile<W>& tile) {
    if (more) plus(plane, tile);
    plane.store(tile);
  }
  __device__ __forceinline__ static void plus(Plane<W> plane, Tile<W>& tile) {
    Tile<W> more;
    plane.load(more);
    for_entries([&](int j, int e) { tile.v[j][e] += more.v[j][e]; });
  }
  __device__ __forceinline__ void load(int l, Layer<W>& layer) const {
    kept(l).load(layer.kept);
    if (l + 1 < net_.hidden) {
      p(l).load(layer.p);
    } else {
      set_rows(output(0), layer.p);
    }
  }

  // ---- samples ----

  // Of a kind's tile: rows beyond the last sample, and all rows of a warp that holds none, have the weight zero.
  __device__ __forceinline__ void load_samples() {
    const bool residual = this->residual();
    const int tile = residual ? turn() : turn() - own().share.collocation_tiles;
    const LossShare& share = own().share;
    const std::int64_t beyond = residual ? task().points.collocation_points : task().points.denoising_points;
    const std::int64_t first = (std::int64_t{tile} * share.warps + warp_index()) * tile_rows;
    sync_warp();  // the last tile's readers
    if (residual) {
      load_collocation(warp_index() < share.warps ? first : beyond);
    } else {
      load_denoising(warp_index() < share.warps ? first : beyond);
    }
    sync_warp();
  }
  __device__ __forceinline__ void load_denoising(std::int64_t first) {
    const TrainingDraw& points = task().points;
    const int d = net_.dimension, lane = lane_index();
    if (task().drawn) {
      if (lane < tile_rows) {
        const auto index = static_cast<std::uint64_t>(first + lane);
        float *x = inputs() + lane * stride(), *target = seeds() + lane * stride(), weight;
        denoising_point(points, static_cast<std::uint64_t>(*points.iteration), index, x[0], x + 1, target + 1, weight);
        target[0] = 0;
        rows()[lane] = first + lane < points.denoising_points ? weight : 0.0f;
      }
    } else {
      for (int i = lane; i < tile_rows * (1 + d); i += 32) {
        const int r = i / (1 + d), column = i - r * (1 + d);
        const std::int64_t index = first + r, entry = index * d + column - 1;
        const bool there = index < points.denoising_points;
        inputs()[r * stride() + column] = !there        ? 0.0f
                                          : column == 0 ? task().denoising_t[index]
                                                        : task().denoising_x[entry];
        seeds()[r * stride() + column] = there && column > 0 ? task().denoising_target[entry] : 0.0f;
        if (column == 0) {
          rows()[r] = !there ? 0.0f : task().denoising_weight ? task().denoising_weight[index] : 1.0f;
        }
      }
    }
  }

  __device__ __forceinline__ void load_collocation(std::int64_t first) {
    const TrainingDraw& points = task().points;
    const int d = net_.dimension, lane = lane_index();
    if (task().drawn) {
      if (lane < tile_rows) {
        float* x = inputs() + lane * stride();
        rows()[lane] = first + lane < points.collocation_points ? 1.0f : 0.0f;
        collocation_point(points, static_cast<std::uint64_t>(*points.iteration),
                          static_cast<std::uint64_t>(first + lane), x[0], x + 1);
      }
    } else {
      for (int i = lane; i < tile_rows * (1 + d); i += 32) {
        const int r = i / (1 + d), column = i - r * (1 + d);
        const std::int64_t index = first + r;
        const bool there = index < points.collocation_points;
        inputs()[r * stride() + column] = !there        ? 0.0f
                                          : column == 0 ? task().collocation_t[index]
                                                        : task().collocation_x[index * d + column - 1];
        if (column == 0) rows()[r] = there ? 1.0f : 0.0f;
      }
    }
  }

  // From δ_1, or h_L of a vector net: c in place of the target, and the loss.
  __device__ __forceinline__ void misfit(const Tile<W>& tile) {
    const int d = net_.dimension;
    const auto scale =
        static_cast<float>(2.0 / (static_cast<double>(task().points.denoising_points) * static_cast<double>(d)));
    double sum[2] = {0, 0};
#pragma unroll 1
    for (int i = 0; i < d; ++i) {
      float score[2];
      dot(tile, own().potential ? input(1 + i) : output(i), score);
      const float add = own().potential ? 0.0f : output_bias()[i];
      if ((lane_index() & 3) != 0) continue;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& c = seeds()[row(r) * stride() + 1 + i];
        const float error = score[r] + add - c, weight = rows()[row(r)];
        sum[r] += static_cast<double>(weight) * error * error;
        c = scale * weight * error;
      }
    }
    if ((lane_index() & 3) == 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) values()[row(r)] += sum[r];
    }
    sync_warp();
  }

  // From δ_1: seeds = (R but for its trace, a x − g² s), rows = ½ g², all zero in rows that are not samples.
  __device__ __forceinline__ void first_order_residual(const Tile<W>& tile) {
    const int d = net_.dimension;
    float drift[2], half_g2[2], sum[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const SdeCoefficients<double> at = task().points.sde.at(static_cast<double>(inputs()[row(r) * stride()]));
      drift[r] = static_cast<float>(at.drift);
      half_g2[r] = static_cast<float>(at.diffusion_squared / 2);
    }
    dot(tile, input(0), sum);
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] += drift[r] * static_cast<float>(d);
#pragma unroll 1
    for (int i = 0; i < d; ++i) {
      float score[2];
      dot(tile, input(1 + i), score);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float flow = drift[r] * inputs()[row(r) * stride() + 1 + i];
        sum[r] = fmaf(score[r], fmaf(-half_g2[r], score[r], flow), sum[r]);
        if ((lane_index() & 3) == 0) {
          seeds()[row(r) * stride() + 1 + i] = rows()[row(r)] * fmaf(-2 * half_g2[r], score[r], flow);
        }
      }
    }
    if ((lane_index() & 3) != 0) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      seeds()[row(r) * stride()] = rows()[row(r)] * sum[r];
      rows()[row(r)] *= half_g2[r];
    }
  }

  // With the lanes' parts of the trace: seeds = c, rows = w, and the loss.
  __device__ __forceinline__ void seed_residual(const float (&trace)[2]) {
    const auto scale =
        static_cast<float>(2 * task().residual_weight / static_cast<double>(task().points.collocation_points));
    const float laplacian[2] = {row_sum(trace[0]), row_sum(trace[1])};
    if ((lane_index() & 3) == 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float *c = seeds() + row(r) * stride(), &w = rows()[row(r)];
        const float residual = fmaf(-w, laplacian[r], c[0]), factor = scale * residual;
        values()[tile_rows + row(r)] += static_cast<double>(residual) * residual;
        w *= -factor;
        c[0] = factor;
#pragma unroll 1
        for (int i = 1; i <= net_.dimension; ++i) c[i] *= factor;
      }
    }
    sync_warp();
  }

  // ---- products over the block's samples ----

  // The tile as one side of the next gradient product, and as the left side of a product by a hidden matrix.
  __device__ __forceinline__ Operand<P, W> put(Side side, const Tile<W>& tile) const {
    if constexpr (P == Precision::fp32) {
      return Operand<P, W>(tile, reinterpret_cast<float*>(stage(side)));
    } else {
      float largest = 0;
      for_entries([&](int j, int e) { largest = fmaxf(largest, fabsf(tile.v[j][e])); });
      const RowScale scale(largest_of_lanes<32>(largest));
      const Operand<P, W> operand(tile, scale);
      const int to = row(0) * ((W + 8) / 2) + (lane_index() & 3);
      auto *high = reinterpret_cast<std::uint32_t*>(stage(side)) + to, *low = high + tile_rows * (W + 8) / 2;
#pragma unroll
      for (int j = 0; j < W / 8; ++j) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          high[r * 4 * (W + 8) + 4 * j] = operand.high[j / 2][2 * (j & 1) + r];
          low[r * 4 * (W + 8) + 4 * j] = operand.low[j / 2][2 * (j & 1) + r];
        }
      }
      if (lane_index() == 0) floats(plan_.warp.scales)[side] = scale.down;
      return operand;
    }
  }

  // to += left rightᵀ over the block's samples, of units [16 row_blocks] and [16 column_blocks]: fragments, `to_stride`
  // of them a row. sums, unless at is nullptr: those of left's columns alone. Between two barriers. Blocks of 16 × 16
  // go round the warps, a row's sums as one more of its blocks.
  __device__ __forceinline__ void accumulate(int row_blocks, int column_blocks, float* to, int to_stride,
                                             const ColumnSums& sums) const {
    sync_block();
    const int width = column_blocks + (sums.at != nullptr ? 1 : 0);
    int rb = 0, cb = warp_index();
#pragma unroll 1
    for (;; cb += block_threads() / 32) {
      for (; cb >= width; cb -= width) ++rb;
      if (rb >= row_blocks) break;
      if (cb < column_blocks) {
        float total[2][4] = {};
        add_products(rb, cb, total);
        Float4* at = reinterpret_cast<Float4*>(to) + (rb * to_stride + 2 * cb) * 32 + lane_index();
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          Float4 sum = at[32 * h];
#pragma unroll
          for (int e = 0; e < 4; ++e) sum.v[e] += total[h][e];
          at[32 * h] = sum;
        }
      } else {
        float total[2] = {};
        add_columns(rb, total);
        if ((lane_index() & 3) == 0) {
          float* at = sums.at + rb * sums.block + (lane_index() >> 2) * sums.row;
          at[0] += total[0];
          at[sums.half] += total[1];
        }
      }
    }
    sync_block();
  }

  // Of a block, over all samples; a warp's samples are a step.
  __device__ __forceinline__ void add_products(int rb, int cb, float (&total)[2][4]) const {
    const int warps = own().share.warps;
    const char* from = memory(0);
    if constexpr (P == Precision::fp32) {
      const int g = lane_index() >> 2, c = lane_index() & 3;
#pragma unroll 1
      for (int k = 0; k < warps; ++k, from += plan_.warp_bytes) {
        const float* a = reinterpret_cast<const float*>(from + plan_.warp.stage[left]) + 16 * rb + g;
        const float* b = reinterpret_cast<const float*>(from + plan_.warp.stage[right]) + 16 * cb + 2 * c;
#pragma unroll 4
        for (int r = 0; r < tile_rows; ++r) {
          const float x = a[r * (W + 4)], y = a[r * (W + 4) + 8];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const Float2 w = *reinterpret_cast<const Float2*>(b + r * (W + 4) + 8 * h);
            total[h][0] = fmaf(x, w.x, total[h][0]);
            total[h][1] = fmaf(x, w.y, total[h][1]);
            total[h][2] = fmaf(y, w.x, total[h][2]);
            total[h][3] = fmaf(y, w.y, total[h][3]);
          }
        }
      }
    } else {
      const char *a = from + plan_.warp.stage[left] + half_place() + 32 * rb,
                 *b = from + plan_.warp.stage[right] + half_place() + 32 * cb, *scales = from + plan_.warp.scales;
#pragma unroll 2
      for (int k = 0; k < warps; ++k) {
        std::uint32_t a_high[4], a_low[4], b_high[4], b_low[4];
        load_matrices_transposed(a_high, a);
        load_matrices_transposed(b_high, b);
        load_matrices_transposed(a_low, a + low_halves<W>);
        load_matrices_transposed(b_low, b + low_halves<W>);
        const Float2 down = *reinterpret_cast<const Float2*>(scales);
        const float scale = down.x * down.y;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          // The small products first: so they cost the large sum no rounding of its own.
          float sum[4] = {};
          multiply_add(sum, a_low, b_high[h], b_high[h + 2]);
          multiply_add(sum, a_high, b_low[h], b_low[h + 2]);
          multiply_add(sum, a_high, b_high[h], b_high[h + 2]);
#pragma unroll
          for (int e = 0; e < 4; ++e) total[h][e] = fmaf(scale, sum[e], total[h][e]);
        }
        a += plan_.warp_bytes;
        b += plan_.warp_bytes;
        scales += plan_.warp_bytes;
      }
    }
  }
  // The same of the left side times ones.
  __device__ __forceinline__ void add_columns(int rb, float (&total)[2]) const {
    const int warps = own().share.warps;
    const char* from = memory(0);
#pragma unroll 1
    for (int k = 0; k < warps; ++k, from += plan_.warp_bytes) {
      if constexpr (P == Precision::fp32) {
        const float* a = reinterpret_cast<const float*>(from + plan_.warp.stage[left]) + 16 * rb + (lane_index() >> 2);
#pragma unroll 4
        for (int r = 0; r < tile_rows; ++r) total[0] += a[r * (W + 4)], total[1] += a[r * (W + 4) + 8];
      } else {
        const char* a = from + plan_.warp.stage[left] + half_place() + 32 * rb;
        std::uint32_t high[4], low[4];
        load_matrices_transposed(high, a);
        load_matrices_transposed(low, a + low_halves<W>);
        const float scale = *reinterpret_cast<const float*>(from + plan_.warp.scales);
        const std::uint32_t ones = pack_halves(1, 1);
        float sum[4] = {};
        multiply_add(sum, low, ones, ones);
        multiply_add(sum, high, ones, ones);
        total[0] = fmaf(scale, sum[0], total[0]);
        total[1] = fmaf(scale, sum[2], total[1]);
      }
    }
  }
  // To the row of a stage of halves that this lane names of a 16 × 16 block: lane l row l mod 8 of matrix ⌊l/8⌋ = 2
  // (samples' half) + (units' half).
  __device__ __forceinline__ static int half_place() {
    const int lane = lane_index();
    return ((lane >> 4) * 8 + (lane & 7)) * half_row_bytes<W> + ((lane >> 3) & 1) * 16;
  }

  static constexpr int blocks_ = W / 16;
  __device__ __forceinline__ void accumulate_hidden(int l, const ColumnSums& sums) const {
    accumulate(blocks_, blocks_, gradient() + plan_.gradient.hidden + l * W * W, W / 8, sums);
  }
  // left ⊗ rows [tile_rows, stride] of the warps, 1 + d numbers each, to the first layer's weights.
  __device__ __forceinline__ void accumulate_first(const float* rows_of_warp, const ColumnSums& sums) const {
    const int columns = plan_.gradient.first_columns;
#pragma unroll 1
    for (int begin = 0; begin < columns; begin += W) {
      Tile<W> part;
      load_rows(rows_of_warp, begin, 1 + net_.dimension, part);
      put(right, part);
      const int count = columns - begin < W ? columns - begin : W;
      accumulate(blocks_, count / 16, gradient() + plan_.gradient.first + begin / 8 * 128, columns / 8,
                 begin == 0 ? sums : no_sums());
    }
  }
  // part = columns begin … of rows [tile_rows, stride] with `count` numbers.
  __device__ __forceinline__ void load_rows(const float* from, int begin, int count, Tile<W>& part) const {
    for_entries([&](int j, int e) {
      const int column = begin + 8 * j + 2 * (lane_index() & 3) + (e & 1);
      part.v[j][e] = column < count ? from[row(e >> 1) * stride() + column] : 0.0f;
    });
  }
  __device__ __forceinline__ ColumnSums bias_sums(int l) const {
    return {gradient() + plan_.gradient.bias + l * W, 16, 1, 8};
  }
  // Column i of the first layer's fragments.
  __device__ __forceinline__ ColumnSums first_column(int i) const {
    return {gradient() + plan_.gradient.first + i / 8 * 128 + i % 8 / 2 * 4 + i % 2, plan_.gradient.first_columns * 16,
            16, 2};
  }
  __device__ __forceinline__ static ColumnSums no_sums() { return {nullptr, 0, 0, 0}; }

  // ---- sweeps ----

  // w of the row of a lane's entry e.
  __device__ __forceinline__ float weight(int e) const { return rows()[row(e >> 1)]; }

  static constexpr bool apart_ = P == Precision::split;
  template <bool kTransposed>
  __device__ __forceinline__ void product(int l, Tile<W>& tile) const {
    Network::template product<kTransposed, apart_>(l, tile, reinterpret_cast<float*>(stage(left)));
  }
  // Of a tile that is put, too: one split serves both. Its one scale is enough here, where a sample's part is lost only
  // beside that of another in the same sum; in A, whose rows are each sample's own, it would not be.
  template <bool kTransposed>
  __device__ __forceinline__ void put_product(Side side, int l, Tile<W>& tile) const {
    Network::template product<kTransposed, apart_>(l, put(side, tile), tile);
  }

  // A: z_L in the tile.
  __device__ __forceinline__ void forward(Layer<W>& layer, Tile<W>& tile) {
    set_rows(bias(0), tile);
    Network::add_rows(tile, inputs(), stride(), input(0), 1 + net_.dimension);
#pragma unroll 1
    for (int l = 0; l + 1 < net_.hidden; ++l) {
      activate<true>(l, layer, tile);
      product<false>(l, tile);
      add_to_rows(bias(l + 1), tile);
    }
  }
  // Keeps of z; z → h, where kValue.
  template <bool kValue>
  __device__ __forceinline__ void activate(int l, Layer<W>& layer, Tile<W>& tile) const {
    with_sigma([&](const auto& sigma) {
      for_entries([&](int j, int e) {
        const float code = sigma.encode(tile.v[j][e]);
        layer.kept.v[j][e] = code;
        if constexpr (kValue) tile.v[j][e] = sigma.decode(code).value;
      });
    });
    kept(l).store(layer.kept);
  }

  // A: from z_L; layer 1 and δ_1 in the tile.
  __device__ __forceinline__ void reverse(Layer<W>& layer, Tile<W>& tile) {
    activate<false>(net_.hidden - 1, layer, tile);
    set_rows(output(0), layer.p);
    tile = layer.p;
#pragma unroll 1
    for (int l = net_.hidden - 1;; --l) {
      times_d1(layer, tile);
      if (l == 0) return;
      product<true>(l - 1, tile);
      kept(l - 1).load(layer.kept);
      layer.p = tile;
      if (l > 1 || residual()) p(l - 1).store(tile);
    }
  }
  // tile ⊙= σ′.
  __device__ __forceinline__ void times_d1(const Layer<W>& layer, Tile<W>& tile) const {
    with_sigma([&](const auto& sigma) {
      for_entries([&](int j, int e) { tile.v[j][e] *= sigma.decode(layer.kept.v[j][e]).d1; });
    });
  }

  // A along axis i: q and this lane's part of the trace. From layer 1, but that the axis before ended at layer L; ends
  // with ż_L in the tile, and of the last axis leaves those before it.
  __device__ __forceinline__ void tangent(int i, Layer<W>& layer, Tile<W>& tile, float (&trace)[2]) {
    Network::set_axis(i, tile);
    if (i > 0) load(0, layer);
#pragma unroll 1
    for (int l = 0;; ++l) {
      if (l > 0) {
        Tile<W> squares;
        for_entries([&](int j, int e) { squares.v[j][e] = tile.v[j][e] * tile.v[j][e]; });
        add(q(l), i > 0, squares);
      }
      with_sigma([&](const auto& sigma) {
        for_entries([&](int j, int e) {
          const float v = tile.v[j][e];
          trace[e >> 1] = fmaf(sigma.decode(layer.kept.v[j][e]).d2 * layer.p.v[j][e] * v, v, trace[e >> 1]);
        });
      });
      if (l + 1 == net_.hidden) return;
      if (l > 0 && i + 1 == net_.dimension) tangent(l).store(tile);
      times_d1(layer, tile);
      product<false>(l, tile);
      load(l + 1, layer);
    }
  }
  // q_1 is the same for every sample.
  __device__ __forceinline__ void first_squares(Tile<W>& squares) const {
    clear(squares);
#pragma unroll 1
    for (int i = 0; i < net_.dimension; ++i) {
#pragma unroll
      for (int j = 0; j < W / 8; ++j) {
        const Float2 v = pair(input(1 + i), j);
        squares.v[j][0] = squares.v[j][2] = fmaf(v.x, v.x, squares.v[j][0]);
        squares.v[j][1] = squares.v[j][3] = fmaf(v.y, v.y, squares.v[j][1]);
      }
    }
  }

  // B along axis i: the last axis first, whose tangents A left. Ends at layer 1.
  __device__ __forceinline__ void tangent_gradient(Layer<W>& layer, Tile<W>& tile) {
    const auto more = [&] { return axis() + 1 < net_.dimension; };
    if (more()) {
      Network::set_axis(axis(), tile);
      kept(0).load(layer.kept);
#pragma unroll 1
      for (int l = 0; l + 1 < net_.hidden; ++l) {
        if (l > 0) tangent(l).store(tile);
        times_d1(layer, tile);
        kept(l + 1).load(layer.kept);
        product<false>(l, tile);
      }
      set_rows(output(0), layer.p);
    }
    with_sigma([&](const auto& sigma) {
      for_entries([&](int j, int e) {
        tile.v[j][e] *= 2 * weight(e) * (sigma.decode(layer.kept.v[j][e]).d2 * layer.p.v[j][e]);
      });
    });
    backward<false>(layer, tile, [&](int below, Tile<W>& taken) {
      if (below > 0) {
        tangent(below).load(taken);
      } else {
        Network::set_axis(axis(), taken);
      }
      p(below).load(layer.p);
      with_sigma([&](const auto& sigma) {
        for_entries([&](int j, int e) {
          float &p = layer.p.v[j][e], &v = tile.v[j][e];
          const ActivationValues<float> d = sigma.decode(layer.kept.v[j][e]);
          const float curved = d.d2 * taken.v[j][e], source = curved * v;
          v = fmaf(d.d1, v, 2 * weight(e) * (curved * p));
          p = source;
        });
      });
      add(s(below), more(), layer.p);
      times_d1(layer, taken);
    });
    accumulate(blocks_, 0, nullptr, 0, first_column(1 + axis()));
  }

  // C, from seeds and w, layer 1 → layer L: leaves S in place of P, that of layer L in the tile. Where not `residual` w
  // is zero, and there is no q nor anything from B.
  __device__ __forceinline__ void generator(Layer<W>& layer, Tile<W>& tile) {
    clear(tile);
    Network::add_rows(tile, seeds(), stride(), input(0), 1 + net_.dimension);
#pragma unroll 1
    for (int l = 0;; ++l) {
      if (residual()) {
        Tile<W> squares;
        if (l > 0) {
          q(l).load(squares);
        } else {
          first_squares(squares);
        }
        for_entries([&](int j, int e) { squares.v[j][e] *= weight(e); });
        generate<true>(squares, layer, tile);
      } else {
        generate<false>({}, layer, tile);
      }
      put(left, layer.kept);
      if (l == 0) {
        accumulate_first(seeds(), no_sums());
      } else {
        accumulate_hidden(l - 1, no_sums());
      }
      if (l + 1 == net_.hidden) break;
      if (residual()) plus(s(l), layer.p);
      p(l).store(layer.p);
      put_product<false>(right, l, tile);
      load(l + 1, layer);
    }
    put(left, tile);
    accumulate(blocks_, 0, nullptr, 0, {gradient() + plan_.gradient.output, 16, 1, 8});
    tile = layer.p;
  }

  // u → π in the tile, δ in place of what was kept, and in place of P S but for B's part; squares, where kResidual: w
  // q.
  template <bool kResidual>
  __device__ __forceinline__ void generate(const Tile<W>& squares, Layer<W>& layer, Tile<W>& tile) const {
    with_sigma([&](const auto& sigma) {
      for_entries([&](int j, int e) {
        float &kept = layer.kept.v[j][e], &p = layer.p.v[j][e], &v = tile.v[j][e];
        const ActivationValues<float> d = sigma.decode(kept);
        const float square = kResidual ? squares.v[j][e] : 0.0f;
        kept = d.d1 * p;
        p *= kResidual ? fmaf(d.d3, square, d.d2 * v) : d.d2 * v;
        v = kResidual ? fmaf(d.d1, v, d.d2 * square) : d.d1 * v;
      });
    });
  }

  // h_L → ζ_L of a vector net, and its output layer's gradient.
  __device__ __forceinline__ void vector_output(const Layer<W>& layer, Tile<W>& tile) {
    put(right, tile);
    const int outputs = (net_.outputs + 15) / 16 * 16;
#pragma unroll 1
    for (int begin = 0; begin < outputs; begin += W) {
      load_rows(seeds() + 1, begin, net_.outputs, tile);
      put(left, tile);
      const int count = outputs - begin < W ? outputs - begin : W;
      accumulate(count / 16, blocks_, gradient() + plan_.gradient.output + begin * W, W / 8,
                 {gradient() + plan_.gradient.output_bias + begin, 16, 1, 8});
    }
    clear(tile);
    Network::add_rows(tile, seeds() + 1, stride(), output(0), net_.outputs);
    times_d1(layer, tile);
  }

  // D: from ζ_L.
  __device__ __forceinline__ void backward_value(Layer<W>& layer, Tile<W>& tile) {
    backward<true>(layer, tile, [&](int below, Tile<W>& taken) {
      if (own().potential) {
        p(below).load(layer.p);
      } else {
        clear(layer.p);
      }
      with_sigma([&](const auto& sigma) {
        for_entries([&](int j, int e) {
          const ActivationValues<float> d = sigma.decode(layer.kept.v[j][e]);
          taken.v[j][e] = d.value;
          tile.v[j][e] = fmaf(d.d1, tile.v[j][e], layer.p.v[j][e]);
        });
      });
    });
    accumulate_first(inputs(), bias_sums(0));
  }

  // An adjoint of layer L's z → that of layer 1's, which is then on the left: adds to the hidden matrices' gradients,
  // and with kBias to their biases'. From W_{l+1}ᵀ (adjoint of l + 1) in the tile and what layer l kept in `layer`,
  // step(l, taken) makes the adjoint of l and what layer l + 1 took in.
  template <bool kBias, class Step>
  __device__ __forceinline__ void backward(Layer<W>& layer, Tile<W>& tile, const Step& step) {
#pragma unroll 1
    for (below() = net_.hidden - 2; below() >= 0; --below()) {
      put_product<true>(left, below(), tile);
      kept(below()).load(layer.kept);
      Tile<W> taken;
      step(below(), taken);
      put(right, taken);
      accumulate_hidden(below(), kBias ? bias_sums(below() + 1) : no_sums());
    }
    put(left, tile);
  }

  const ResidentLossPlan& plan_;
};

template <Precision P, int W>
__global__ void __launch_bounds__(32 * most_warps, 1) resident_loss(ResidentLossArguments a) {
  LossSweeps<P, W> sweeps(a.plan);
  if (thread_index() == 0) {
    int block = block_index(), k = 0;
    for (; block >= a.shares[k].blocks; ++k) block -= a.shares[k].blocks;
    *reinterpret_cast<BlockTask*>(shared_memory() + a.plan.task) = {a.tasks[k], a.shares[k], block,
                                                                    a.plan.net.potential};
  }
  sync_block();
  load_image(sweeps.own().task.network.image, a.plan.image.bytes);
  sweeps.begin();
  sweeps.add();
  sweeps.end();
}

// ---- the sum over blocks --------------------------------------------------------------------------------------------

struct LossSumArguments {
  ResidentMlp net;
  LossGradientLayout at;
  int of_a_task;  // of this launch's blocks, and so the parts of the gradient's squares
  struct {
    int blocks;  // with a partial gradient each
    const LayerShape* layers;
    const float* partial;
    const double* partial_values;
    std::int64_t denoising_points, collocation_points;
    double residual_weight;
    const std::int64_t* iteration;
    double* values;
    float* gradient;
    GradientSquares* squares;
  } tasks[most_models];
};

// Row and column of a number among fragments of a matrix with `columns` columns.
__device__ __forceinline__ void fragment_place(int at, int columns, int& row, int& column) {
  const int block = at / 128, lane = at % 128 / 4, e = at % 4;
  row = block / (columns / 8) * 16 + lane / 4 + 8 * (e >> 1);
  column = block % (columns / 8) * 8 + 2 * (lane & 3) + (e & 1);
}

// The parameter whose derivative lies at `place` of a partial gradient; −1: padding.
__device__ __forceinline__ int parameter_at(const ResidentMlp& net, const LossGradientLayout& at,
                                            const LayerShape* layers, int place) {
  int row, column, l;
  if (place < at.hidden) {
    l = 0;
    fragment_place(place, at.first_columns, row, column);
  } else if (place < at.bias) {
    const int size = net.width * net.width;
    l = 1 + (place - at.hidden) / size;
    fragment_place((place - at.hidden) % size, net.width, row, column);
  } else if (place < at.output) {
    l = (place - at.bias) / net.width;
    row = (place - at.bias) % net.width;
    return row < layers[l].outputs ? layers[l].bias() + row : -1;
  } else if (place < at.output_bias) {
    l = net.hidden;
    row = 0;
    column = place - at.output;
    if (!net.potential) fragment_place(place - at.output, net.width, row, column);
  } else {
    row = place - at.output_bias;
    return row < net.outputs ? layers[net.hidden].bias() + row : -1;
  }
  const LayerShape layer = layers[l];
  return row < layer.outputs && column < layer.inputs ? layer.weight + row * layer.inputs + column : -1;
}

// The second pass: every derivative as the sum of the blocks' partial ones in their order, and a part of the squares
// from each of this pass's own blocks.
__global__ void __launch_bounds__(item_threads) sum_loss(LossSumArguments a) {
  const auto& task = a.tasks[block_index() / a.of_a_task];
  const int part = block_index() % a.of_a_task;
  if (part == 0 && thread_index() == 0) {
    double sums[2] = {0, 0};
    for (int b = 0; b < task.blocks; ++b) {
      sums[0] += task.partial_values[2 * b];
      sums[1] += task.partial_values[2 * b + 1];
    }
    const double n = static_cast<double>(task.denoising_points), m = static_cast<double>(task.collocation_points);
    const double denoising = n > 0 ? sums[0] / (n * a.net.dimension) : 0, residual = m > 0 ? sums[1] / m : 0;
    task.values[0] = denoising;
    task.values[1] = residual;
    task.values[2] = denoising + task.residual_weight * residual;
  }
  if (task.gradient == nullptr) return;
  double squares = 0;
  for (int place = part * block_threads() + thread_index(); place < a.at.size; place += a.of_a_task * block_threads()) {
    const int parameter = parameter_at(a.net, a.at, task.layers, place);
    if (parameter < 0) continue;
    double sum = 0;
#pragma unroll 16  // loads in flight: nothing else hides their latency
    for (int b = 0; b < task.blocks; ++b) sum += task.partial[static_cast<std::int64_t>(b) * a.at.size + place];
    const auto derivative = static_cast<float>(sum);
    task.gradient[parameter] = derivative;
    squares += double{derivative} * double{derivative};
  }
  if (task.squares == nullptr) return;
  squares = block_sum(squares);
  if (thread_index() == 0) task.squares->leave(part, a.of_a_task, *task.iteration, squares);
}

// Of a block with `warps` · 16 samples a tile.
inline int block_tiles(std::int64_t points, int warps) {
  return static_cast<int>((points + tile_rows * warps - 1) / (tile_rows * warps));
}

// Few samples are spread over multiprocessors as long as a block has a warp for each of a multiprocessor's four parts.
LossShare loss_share(const TrainingDraw& points, int most, int multiprocessors) {
  const auto tiles = [&](int warps) {
    return block_tiles(points.denoising_points, warps) + block_tiles(points.collocation_points, warps);
  };
  const int warps = std::clamp((tiles(1) + multiprocessors - 1) / multiprocessors, std::min(4, most), most);
  return {.warps = warps,
          .blocks = std::clamp(tiles(warps), 1, multiprocessors),
          .collocation_tiles = block_tiles(points.collocation_points, warps),
          .tiles = tiles(warps)};
}

}  // namespace

Status prepare_resident_loss(const ResidentMlp& net, const DeviceLimits& limits) {
  if (const Status error = prepare_pack_image()) return error;
  if (const Status error = prepare(sum_loss, 0)) return error;
  return with_resident_kernel<Work::curvature>(
      net, [&]<Precision P, int W>() { return prepare(resident_loss<P, W>, limits.shared_bytes); });
}

Status launch_resident_loss(const ResidentMlp& net, const ResidentLossTask* tasks, int count,
                            const DeviceLimits& limits, Stream stream) {
  PackTask networks[most_models];
  for (int k = 0; k < count; ++k) networks[k] = tasks[k].network;
  if (const Status status = launch_pack_image(net, networks, count, stream)) return status;

  ResidentLossArguments a{.plan = {.net = net,
                                   .image = image_layout(net),
                                   .gradient = loss_gradient_layout(net),
                                   .warp = loss_warp_layout(net),
                                   .task = 0,
                                   .first_warp = 0,
                                   .planes = loss_planes(net),
                                   .shared_planes = 0,
                                   .warp_bytes = 0},
                          .shares = {},
                          .tasks = {}};
  ResidentLossPlan& plan = a.plan;
  plan.task = plan.image.bytes + plan.gradient.size * static_cast<int>(sizeof(float));
  plan.first_warp = plan.task + loss_task_bytes;
  const int plane_bytes = tile_rows * net.width * static_cast<int>(sizeof(float));
  int blocks = 0, warps = 0;
  for (int k = 0; k < count; ++k) {
    const int most = std::min(resident_loss_warps(net, limits.shared_bytes), limits.loss_warps);
    a.shares[k] = loss_share(tasks[k].points, most, limits.multiprocessors);
    blocks += a.shares[k].blocks;
    warps = std::max(warps, a.shares[k].warps);
  }
  plan.shared_planes =
      std::min(plan.planes, ((limits.shared_bytes - plan.first_warp) / warps - plan.warp.bytes) / plane_bytes);
  plan.warp_bytes = plan.warp.bytes + plan.shared_planes * plane_bytes;
  LossSumArguments sum{.net = net,
                       .at = plan.gradient,
                       .of_a_task = std::min((plan.gradient.size + item_threads - 1) / item_threads, most_square_parts),
                       .tasks = {}};
  for (int k = 0; k < count; ++k) {
    const ResidentLossTask& task = tasks[k];
    a.tasks[k] = task;
    sum.tasks[k] = {a.shares[k].blocks,
                    task.network.layers,
                    task.partial,
                    task.partial_values,
                    task.points.denoising_points,
                    task.points.collocation_points,
                    task.residual_weight,
                    task.points.iteration,
                    task.values,
                    task.gradient,
                    task.squares};
  }
  const LaunchShape shape{blocks, 32 * warps, plan.first_warp + warps * plan.warp_bytes};
  const Status status = with_resident_kernel<Work::curvature>(
      net, [&]<Precision P, int W>() { return launch(resident_loss<P, W>, shape, stream, a); });
  if (status) return status;
  return launch(sum_loss, LaunchShape{count * sum.of_a_task, item_threads, block_sum_bytes(item_threads)}, stream, sum);
}

}  // namespace fokker::kernels
