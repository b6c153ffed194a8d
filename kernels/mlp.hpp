#pragma once

// A multilayer perceptron whose weights lie in shared memory, evaluated by each warp for a tile of 16 samples whose
// activations never leave its registers.
//
// Data path. A tile [16, W] lies in registers as mma leaves its sums (tile.hpp), and two neighbouring blocks of 8
// columns are an A operand of the next product, so a layer's output becomes the next layer's input by rounding it to
// fp16 in place. A hidden matrix W_l [outputs, inputs] is stored once, as blocks of 16 × 16 of four 8 × 8 matrices in
// ldmatrix's order; as it is loaded it serves h W_lᵀ, and transposed δ W_l. With z_l = W_l h_{l−1} + b_l, h_l = σ(z_l),
// output row w of a potential:
//
//   forward   h_l; leaves σ′_l and (curvature) σ″_l
//   reverse   p_L = w, δ_l = σ′_l ⊙ p_l, p_{l−1} = W_lᵀ δ_l, κ_l = σ″_l ⊙ p_l;  (∂_t φ, ∇φ) = W_1ᵀ δ_1
//   tangent   ż_1 = W_1 v, ż_l = W_l (σ′_{l−1} ⊙ ż_{l−1});  vᵀ ∇²φ v = Σ_l κ_l · ż_l²
//   adjoint   γ_l = κ_l ⊙ ż_l + σ′_l ⊙ W_{l+1}ᵀ γ_{l+1};  ∇²φ v = the x columns of W_1ᵀ γ_1
//
// One reverse and d tangent sweeps give value, time derivative, score, Laplacian and residual together, in as many
// sweeps as the operator 𝒜 = ∂_t + f·∇ − ½ g² Δ carried forward gives 𝒜φ alone, and in a state that does not grow with
// d. What a sweep leaves for a later one (σ′, σ″ then κ, κ ż) is staged in the warp's planes in shared memory.
//
// Products. split: a number x of row r is x = 2^{−s_r} (high + low) to 22 bits, with 2^{s_r} the power of two that
// brings the row's largest entry into [2^8, 2^9): no network and no state leaves the range of fp16. Weights likewise,
// with one factor a matrix, found as the image is packed (pack.cu). C = (high·low + low·high) + high·high in fp32: tensor
// cores round towards zero, so every small term that comes after a large one costs the sum one more rounding. Up to width
// 80 the matrix's high halves wait in registers until the small products are summed; at 128, where they have no room, each
// small product comes behind the large one of its block, with up to four times the error.
//
// Cost at width 80 of one product for 16 samples: 150 mma (split), 50 ldmatrix.x4; of one activation 40 numbers a lane
// with three special-function operations each (softplus).
#include <cmath>
#include <cstdint>

#include "activation.hpp"
#include "device.hpp"
#include "halves.hpp"
#include "launch.hpp"
#include "shared_layout.hpp"
#include "tile.hpp"

namespace fokker::kernels {

// ---- products: one policy a precision -------------------------------------------------------------------------------

template <Precision P, int W>
struct Operand {
  static constexpr bool kLow = P == Precision::split;
  std::uint32_t high[W / 16][4], low[kLow ? W / 16 : 1][4];
  float down[2];  // of the lane's rows

  __device__ __forceinline__ Operand(const Tile<W>& tile, float*) {
    float largest[2] = {0, 0};
    for_entries(tile)([&](int r, int, float x) { largest[r] = fmaxf(largest[r], fabsf(x)); });
    split(tile, RowScale(row_max(largest[0])), RowScale(row_max(largest[1])));
  }
  // All rows by one scale.
  __device__ __forceinline__ Operand(const Tile<W>& tile, const RowScale& scale) { split(tile, scale, scale); }

 private:
  __device__ __forceinline__ void split(const Tile<W>& tile, const RowScale& of_row_0, const RowScale& of_row_1) {
    down[0] = of_row_0.down;
    down[1] = of_row_1.down;
    for_blocks<W>([&](int j) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float up = r == 0 ? of_row_0.up : of_row_1.up;
        const SplitPair halves(tile.v[j][2 * r] * up, tile.v[j][2 * r + 1] * up);
        high[j / 2][2 * (j & 1) + r] = halves.high;
        if constexpr (kLow) low[j / 2][2 * (j & 1) + r] = halves.low;
      }
    });
  }
};

// fp32 passes the tile through the warp's stage [16, W + 4], from which every lane reads the rows it sums over.
template <int W>
struct Operand<Precision::fp32, W> {
  const float* stage;

  __device__ __forceinline__ Operand(const Tile<W>& tile, float* to) : stage(to) {
    sync_warp();  // the last product's reads
    for_blocks<W>([&](int j) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        *reinterpret_cast<Float2*>(to + tile_row(r) * (W + 4) + tile_column(j)) = {tile.v[j][2 * r],
                                                                                   tile.v[j][2 * r + 1]};
      }
    });
    sync_warp();
  }
};

// A 16 × 16 block of a matrix as two right operands: of the 8 columns h it has r[2 h] and r[2 h + 1], registers that are
// neighbours, as the instruction wants them. The block's matrices m = 2 (outputs' half) + (inputs' half) lie one after
// another; transposed it is every other one that belongs together. `block`: of_lane() of the matrix, and the block's bytes.
template <bool kTransposed>
struct MatrixBlocks {
  // Bytes to the row that this lane names.
  __device__ __forceinline__ static int of_lane() {
    const int lane = lane_index(), matrix = lane >> 3;
    return 16 * (kTransposed ? (((matrix & 1) << 4) | ((matrix & 2) << 2) | (lane & 7)) : lane);
  }
  __device__ __forceinline__ static void load(std::uint32_t (&r)[4], const char* block) {
    if constexpr (kTransposed) {
      load_matrices_transposed(r, block);
    } else {
      load_matrices(r, block);
    }
  }
};

// tile = A Mᵀ, or A M where kTransposed, of a matrix in the image's form and its factor.
template <bool kTransposed, Precision P, int W>
__device__ __forceinline__ void multiply(const Operand<P, W>& a, const char* matrix, float factor, Tile<W>& tile) {
  constexpr bool kSplit = P == Precision::split, kSmallFirst = kSplit && W <= 80;
  constexpr int n = W / 16, parts = kSplit ? 2 : 1;
  using Blocks = MatrixBlocks<kTransposed>;
  const char* rows = matrix + Blocks::of_lane();
  const float scale[2] = {factor * a.down[0], factor * a.down[1]};
#pragma unroll
  for (int b = 0; b < n; ++b) {
    float sum[2][4] = {};
    // To the two blocks of 8 columns in turns, so that none waits for the one before it.
    const auto add = [&](const std::uint32_t(&left)[4], const std::uint32_t(&right)[4]) {
#pragma unroll
      for (int h = 0; h < 2; ++h) multiply_add(sum[h], left, right[2 * h], right[2 * h + 1]);
    };
    std::uint32_t high[kSmallFirst ? n : 1][4];
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const char* block = rows + (kTransposed ? k * n + b : b * n + k) * (512 * parts);
      auto& high_k = high[kSmallFirst ? k : 0];
      Blocks::load(high_k, block);
      if constexpr (!kSmallFirst) add(a.high[k], high_k);
      if constexpr (kSplit) {
        std::uint32_t low[4];
        Blocks::load(low, block + 512);
        add(a.low[k], high_k);
        add(a.high[k], low);
      }
    }
    if constexpr (kSmallFirst) {
#pragma unroll
      for (int k = 0; k < n; ++k) add(a.high[k], high[k]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // Without this addition nvcc 13 keeps 24 bytes of the adaptive sampler of width 128 on a
        // stack on 9.0.
        if constexpr (kSplit && !kSmallFirst) sum[h][e] += 0.0f;
        tile.v[2 * b + h][e] = sum[h][e] * scale[e >> 1];
      }
    }
  }
}

template <bool kTransposed, int W>
__device__ __forceinline__ void multiply(const Operand<Precision::fp32, W>& a, const char* matrix, float,
                                         Tile<W>& tile) {
  const float *row_0 = a.stage + tile_row(0) * (W + 4), *row_1 = a.stage + tile_row(1) * (W + 4);
  const float* m = reinterpret_cast<const float*>(matrix);
  clear(tile);
#pragma unroll 1
  for (int k = 0; k < W; k += 4) {
    const Float4 x = *reinterpret_cast<const Float4*>(row_0 + k), y = *reinterpret_cast<const Float4*>(row_1 + k);
    for_blocks<W>([&](int j) {
      const int column = tile_column(j);
      if constexpr (kTransposed) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Float2 w = *reinterpret_cast<const Float2*>(m + (k + i) * (W + 4) + column);
          tile.v[j][0] = fmaf(x.v[i], w.x, tile.v[j][0]);
          tile.v[j][1] = fmaf(x.v[i], w.y, tile.v[j][1]);
          tile.v[j][2] = fmaf(y.v[i], w.x, tile.v[j][2]);
          tile.v[j][3] = fmaf(y.v[i], w.y, tile.v[j][3]);
        }
      } else {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const Float4 w = *reinterpret_cast<const Float4*>(m + (column + c) * (W + 4) + k);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            tile.v[j][c] = fmaf(x.v[i], w.v[i], tile.v[j][c]);
            tile.v[j][2 + c] = fmaf(y.v[i], w.v[i], tile.v[j][2 + c]);
          }
        }
      }
    });
  }
}

// ---- the network and a warp's view of it ----------------------------------------------------------------------------

// A network and where everything lies, as a kernel's parameter: the constant bank holds it and no register does.
struct ResidentPlan {
  ResidentMlp net;
  ImageLayout image;
  WarpLayout warp;
};

// Copies the image into the block's shared memory.
__device__ __forceinline__ void load_image(const void* image, int bytes) {
  const Float4* from = static_cast<const Float4*>(image);
  Float4* to = shared_array<Float4>();
  for (int i = thread_index(); i < bytes / 16; i += block_threads()) to[i] = from[i];
  sync_block();
}
__device__ __forceinline__ void load_image(const ResidentPlan& plan) { load_image(plan.net.image, plan.image.bytes); }

// The network in the block's shared memory as a warp multiplies by it.
template <Precision P, int W>
class WarpNetwork {
 public:
  // Component i of the score in the lane's rows: ∂φ/∂x_i from a potential's δ_1, s_i from a vector net's h_L.
  __device__ __forceinline__ void score(int i, const Tile<W>& tile, float (&sum)[2]) const {
    score_derivative(i, tile, sum);
    if (net_.potential) return;
    sum[0] += output_bias()[i];
    sum[1] += output_bias()[i];
  }
  // Component i of the score's derivative along a tangent: from a potential's γ_1, from a vector net's ḣ_L.
  __device__ __forceinline__ void score_derivative(int i, const Tile<W>& tile, float (&sum)[2]) const {
    dot(tile, net_.potential ? input(1 + i) : output(i), sum);
  }

  // sum = Σ_c tile[row, c] w[c] in the lane's rows; with w = input(0) and δ_1 it is the time derivative.
  __device__ __forceinline__ void dot(const Tile<W>& tile, const float* w, float (&sum)[2]) const {
    sum[0] = sum[1] = 0;
    for_blocks<W>([&](int j) {
      const Float2 p = pair(w, j);
      sum[0] = fmaf(tile.v[j][0], p.x, fmaf(tile.v[j][1], p.y, sum[0]));
      sum[1] = fmaf(tile.v[j][2], p.x, fmaf(tile.v[j][3], p.y, sum[1]));
    });
    sum[0] = row_sum(sum[0]);
    sum[1] = row_sum(sum[1]);
  }
  __device__ __forceinline__ const float* bias(int l) const { return image_.bias.in(shared_memory()) + l * W; }
  __device__ __forceinline__ const float* input(int i) const { return image_.input.in(shared_memory()) + i * W; }
  __device__ __forceinline__ const float* output(int i) const { return image_.output.in(shared_memory()) + i * W; }
  __device__ __forceinline__ const float* output_bias() const { return image_.output_bias.in(shared_memory()); }

  // tile = ż_1 along axis i.
  __device__ __forceinline__ void set_axis(int i, Tile<W>& tile) const { set_rows(input(1 + i), tile); }

 protected:
  __device__ __forceinline__ WarpNetwork(const ResidentMlp& net, const ImageLayout& image) : net_(net), image_(image) {}

  // tile += Σ_i v[row · v_stride + i] (row i of `rows` [count, W]), where rows are columns of W_1 or rows of the
  // output's matrix.
  __device__ __forceinline__ static void add_rows(Tile<W>& tile, const float* v, int v_stride, const float* rows,
                                                  int count) {
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const float x = v[tile_row(0) * v_stride + i], y = v[tile_row(1) * v_stride + i];
      for_blocks<W>([&](int j) {
        const Float2 w = pair(rows + i * W, j);
        tile.v[j][0] = fmaf(x, w.x, tile.v[j][0]);
        tile.v[j][1] = fmaf(x, w.y, tile.v[j][1]);
        tile.v[j][2] = fmaf(y, w.x, tile.v[j][2]);
        tile.v[j][3] = fmaf(y, w.y, tile.v[j][3]);
      });
    }
  }

  // tile times hidden matrix l: h W_lᵀ, or δ W_l where kTransposed; stage [16, W + 4], which fp32 alone takes.
  template <bool kTransposed>
  __device__ __forceinline__ void product(int l, Tile<W>& tile, float* stage) const {
    product<kTransposed>(l, Operand<P, W>(tile, stage), tile);
  }
  template <bool kTransposed>
  __device__ __forceinline__ void product(int l, const Operand<P, W>& operand, Tile<W>& tile) const {
    multiply<kTransposed>(operand, image_.matrices.in(shared_memory()) + l * image_.matrix_bytes,
                          image_.factors.in(shared_memory())[l], tile);
  }

  const ResidentMlp& net_;
  const ImageLayout& image_;
};

// kTimed: biases are those that take_biases() was given last.
template <Precision P, int W, Work kWork, bool kTimed = false>
class WarpMlp : public WarpNetwork<P, W> {
  static constexpr bool kCurvature = needs_curvature(kWork);
  using Network = WarpNetwork<P, W>;
  using Network::net_;

 public:
  using Network::dot, Network::input, Network::output, Network::output_bias, Network::score_derivative;

  __device__ __forceinline__ explicit WarpMlp(const ResidentPlan& plan)
      : Network(plan.net, plan.image),
        plan_(plan),
        memory_(shared_memory() + plan.image.bytes + warp_index() * plan.warp.bytes) {}

  // biases [hidden, W], and those of the outputs behind them.
  __device__ __forceinline__ void take_biases(const float* biases) { biases_ = biases; }
  __device__ __forceinline__ const float* bias(int l) const {
    if constexpr (kTimed) {
      return biases_ + l * W;
    } else {
      return Network::bias(l);
    }
  }
  __device__ __forceinline__ void score(int i, const Tile<W>& tile, float (&sum)[2]) const {
    if constexpr (kTimed) {
      score_derivative(i, tile, sum);
      if (net_.potential) return;
      const float of_output = bias(net_.hidden)[i];
      sum[0] += of_output;
      sum[1] += of_output;
    } else {
      Network::score(i, tile, sum);
    }
  }

  // inputs() + r · stride(): (t, x) of row r. array(k) + r · d, scalar(k, r), path_place(r) and path_numbers(r, …): row r's
  // numbers, for the caller.
  __device__ __forceinline__ float* inputs() const { return plan_.warp.inputs.in(memory_); }
  __device__ __forceinline__ int stride() const { return plan_.warp.input_stride; }
  __device__ __forceinline__ float* array(int k) const { return plan_.warp.arrays[k].in(memory_); }
  __device__ __forceinline__ double& scalar(int k, int r) const {
    return plan_.warp.scalars.in(memory_)[k * tile_rows + r];
  }
  __device__ __forceinline__ AdaptivePlace& path_place(int r) const { return plan_.warp.path_places.in(memory_)[r]; }
  __device__ __forceinline__ PathNumbers path_numbers(int r, int components) const {
    double* const state = plan_.warp.path_numbers.in(memory_) + r;
    const int numbers = components * tile_rows;
    return {state, state + numbers, state + 2 * numbers, tile_rows, components};
  }

  // Points `first` … of t [n] with a stride and x [n, d] to inputs(); (0, 0) in the rows behind the last.
  __device__ __forceinline__ void load_points(const float* t, std::int64_t t_stride, const float* x, std::int64_t first,
                                              int rows) const {
    const int d = net_.dimension;
    sync_warp();  // the last tile's readers
    for (int i = lane_index(); i < tile_rows * (1 + d); i += 32) {
      const int row = i / (1 + d), column = i - row * (1 + d);
      inputs()[row * stride() + column] = row >= rows   ? 0.0f
                                          : column == 0 ? t[(first + row) * t_stride]
                                                        : x[(first + row) * d + column - 1];
    }
  }

  // The forward sweep takes inputs() to a vector net's h_L, or to a potential's δ_L and, where kValue, to the potential
  // in the lane's rows.
  template <bool kValue>
  __device__ __forceinline__ void forward(Tile<W>& tile, float (&value)[2]) {
    sync_warp();  // inputs() were written by other lanes
    set_rows(bias(0), tile);
    Network::add_rows(tile, inputs(), stride(), input(0), 1 + net_.dimension);
    value[0] = value[1] = 0;
    for (int l = 0;; ++l) {
      const bool last = l + 1 == net_.hidden;
      with_fast_activation(net_.activation, net_.beta, [&](const auto& sigma) {
        if (last && net_.potential) {
          outer<kValue>(sigma, l, tile, value);
        } else {
          inner(sigma, l, tile);
        }
      });
      if (last) break;
      product<false>(l, tile);
      add_to_rows(bias(l + 1), tile);
    }
    if (kValue && net_.potential) {
      value[0] = row_sum(value[0]) + output_bias()[0];
      value[1] = row_sum(value[1]) + output_bias()[0];
    }
  }

  // A potential's reverse sweep takes δ_L to δ_1, and leaves κ where curvature is wanted.
  __device__ __forceinline__ void reverse(Tile<W>& tile) {
    for (int l = net_.hidden - 2; l >= 0; --l) {
      product<true>(l, tile);
      for_blocks<W>([&](int j) {
        if constexpr (kCurvature) {
          Float4 curvature = d2_plane(l)[j];
          for_block_entries(j, tile.v[j], curvature.v)([](int, int, float p, float& kappa) { kappa *= p; });
          d2_plane(l)[j] = curvature;
        }
        scale_by_d1(l, j, tile);
      });
    }
  }

  // The score at inputs() goes to `to` [16, d], of each row by its leaders, and what tangents need to the planes.
  __device__ __forceinline__ void scores(float* to) {
    Tile<W> tile;
    float value[2];
    forward<false>(tile, value);
    if (net_.potential) reverse(tile);
#pragma unroll 1
    for (int i = 0; i < net_.dimension; ++i) {
      float s[2];
      score(i, tile, s);
      if (leads_rows(i)) {
        to[tile_row(0) * net_.dimension + i] = s[0];
        to[tile_row(1) * net_.dimension + i] = s[1];
      }
    }
  }

  // tile = ż_1 along v, which is v + r · d in row r.
  __device__ __forceinline__ void set_direction(const float* v, Tile<W>& tile) const {
    clear(tile);
    Network::add_rows(tile, v, net_.dimension, input(1), net_.dimension);
  }

  // A potential's tangent sweep takes ż_1 to ż_L, and adds to `square` what this lane has of Σ_l κ_l · ż_l² in its
  // rows; for the Hessian it leaves κ ⊙ ż.
  __device__ __forceinline__ void tangent(Tile<W>& tile, float (&square)[2]) {
    for (int l = 0;; ++l) {
      const bool last = l + 1 == net_.hidden;
      for_blocks<W>([&](int j) {
        Float4 curved = d2_plane(l)[j];
        for_block_entries(j, tile.v[j], curved.v)([&](int r, int, float z, float& k) {
          k *= z;
          square[r] = fmaf(k, z, square[r]);
        });
        if constexpr (kWork == Work::hessian) tangent_plane(l)[j] = curved;
      });
      if (last) return;
      scale_by_d1(l, tile);
      product<false>(l, tile);
    }
  }

  // A vector net's tangent sweep takes ż_1 to ḣ_L.
  __device__ __forceinline__ void vector_tangent(Tile<W>& tile) {
    for (int l = 0;; ++l) {
      scale_by_d1(l, tile);
      if (l + 1 == net_.hidden) return;
      product<false>(l, tile);
    }
  }

  // A potential's adjoint sweep takes the κ ⊙ ż that tangent() left to γ_1.
  __device__ __forceinline__ void adjoint(Tile<W>& tile) {
    tangent_plane(net_.hidden - 1).load(tile);
    for (int l = net_.hidden - 2; l >= 0; --l) {
      product<true>(l, tile);
      for_blocks<W>([&](int j) {
        const Float4 d1 = d1_plane(l)[j], curved = tangent_plane(l)[j];
        for_block_entries(j, tile.v[j], d1.v,
                          curved.v)([](int, int, float& x, float s, float k) { x = fmaf(s, x, k); });
      });
    }
  }

  // sum = vᵀ (∂s/∂x) v from a vector net's tangent ḣ_L along v.
  __device__ __forceinline__ void along(const Tile<W>& tile, const float* v, float (&sum)[2]) const {
    sum[0] = sum[1] = 0;
#pragma unroll 1
    for (int i = 0; i < net_.dimension; ++i) {
      float component[2];
      score_derivative(i, tile, component);
      sum[0] = fmaf(v[tile_row(0) * net_.dimension + i], component[0], sum[0]);
      sum[1] = fmaf(v[tile_row(1) * net_.dimension + i], component[1], sum[1]);
    }
  }

 private:
  // The warp has a plane a layer: σ′ of the layers whose tangents go on to another, σ″ or κ of all, κ ⊙ ż of all.
  __device__ __forceinline__ Plane<W> plane(int k) const {
    return Plane<W>(plan_.warp.planes.in(memory_) + k * Plane<W>::size);
  }
  __device__ __forceinline__ int d1_planes() const { return net_.potential ? net_.hidden - 1 : net_.hidden; }
  __device__ __forceinline__ Plane<W> d1_plane(int l) const { return plane(l); }
  __device__ __forceinline__ Plane<W> d2_plane(int l) const { return plane(d1_planes() + l); }
  __device__ __forceinline__ Plane<W> tangent_plane(int l) const { return plane(d1_planes() + net_.hidden + l); }
  // tile ⊙= σ′_l; of block j alone.
  __device__ __forceinline__ void scale_by_d1(int l, Tile<W>& tile) const {
    for_blocks<W>([&](int j) { scale_by_d1(l, j, tile); });
  }
  __device__ __forceinline__ void scale_by_d1(int l, int j, Tile<W>& tile) const {
    const Float4 d1 = d1_plane(l)[j];
    for_block_entries(j, tile.v[j], d1.v)([](int, int, float& x, float s) { x *= s; });
  }

  template <bool kTransposed>
  __device__ __forceinline__ void product(int l, Tile<W>& tile) const {
    Network::template product<kTransposed>(l, tile, plan_.warp.stage.in(memory_));
  }

  // A layer takes z to h.
  template <class Sigma>
  __device__ __forceinline__ void inner(const Sigma& sigma, int l, Tile<W>& tile) {
    for_chosen_blocks<is_chosen<Sigma>>(tile)([&](int j, float(&block)[4]) {
      if (W > 80 && j == W / 16) sync_warp();  // as for_entries_in_halves()
      Float4 d1, d2;
      for_block_entries(j, block, d1.v, d2.v)([&](int, int, float& x, float& s, float& k) {
        const ActivationValues<float> at_z = sigma(x);
        x = at_z.value;
        s = at_z.d1;
        k = at_z.d2;
      });
      if (kCurvature || net_.potential) d1_plane(l)[j] = d1;
      if (kCurvature && net_.potential) d2_plane(l)[j] = d2;
    });
  }
  // A potential's last layer takes z to δ_L = σ′ w, κ_L = σ″ w and h·w.
  template <bool kValue, class Sigma>
  __device__ __forceinline__ void outer(const Sigma& sigma, int l, Tile<W>& tile, float (&value)[2]) {
    for_chosen_blocks<is_chosen<Sigma>>(tile)([&](int j, float(&block)[4]) {
      const Float2 w = pair(output(0), j);
      Float4 curvature;
      for_block_entries(j, block, curvature.v)([&](int r, int column, float& x, float& k) {
        const ActivationValues<float> at_z = sigma(x);
        const float weight = column & 1 ? w.y : w.x;
        if constexpr (kValue) value[r] = fmaf(at_z.value, weight, value[r]);
        x = at_z.d1 * weight;
        k = at_z.d2 * weight;
      });
      if constexpr (kCurvature) d2_plane(l)[j] = curvature;
    });
  }

  const ResidentPlan& plan_;
  char* memory_;  // the warp's
  const float* biases_ = nullptr;
};

// Calls visitor(precision, width) with both as compile-time numbers, of those that the work has kernels for; the only
// place where they are switched on. Anything else was refused or sent the wide way before.
template <Work kWork, class Visitor>
Status with_resident_kernel(const ResidentMlp& net, const Visitor& visitor) {
  constexpr Status invalid_value = 1;  // cudaErrorInvalidValue
  const auto with_width = [&]<Precision P>() -> Status {
    switch (net.width) {
      case 32: return visitor.template operator()<P, 32>();
      case 64: return visitor.template operator()<P, 64>();
      case 80: return visitor.template operator()<P, 80>();
      default: break;
    }
    if constexpr (needs_curvature(kWork)) {
      return invalid_value;
    } else {
      return visitor.template operator()<P, 128>();
    }
  };
  switch (net.precision) {
    case Precision::fp32: return with_width.template operator()<Precision::fp32>();
    case Precision::split: return with_width.template operator()<Precision::split>();
    case Precision::half: break;
  }
  if constexpr (needs_curvature(kWork)) {
    return invalid_value;
  } else {
    return with_width.template operator()<Precision::half>();
  }
}

// A launch of resident kernels: what they take, and their grid.
struct ResidentLaunch {
  ResidentPlan plan;
  LaunchShape shape;
};
inline ResidentLaunch resident_launch(const ResidentMlp& net, Work work, int warps, std::int64_t n,
                                      const DeviceLimits& limits) {
  const ResidentPlan plan{net, image_layout(net), warp_layout(net, work)};
  return {plan, {resident_blocks(n, limits), 32 * warps, plan.image.bytes + warps * plan.warp.bytes}};
}

// body(first sample, samples of the tile) for this warp's tiles; few tiles are first spread over blocks.
template <class Body>
__device__ __forceinline__ void for_tiles(std::int64_t n, const Body& body) {
  for (std::int64_t tile = block_index() + std::int64_t{grid_blocks()} * warp_index(); tile * tile_rows < n;
       tile += std::int64_t{grid_blocks()} * (block_threads() / 32)) {
    const std::int64_t first = tile * tile_rows, left = n - first;
    body(first, static_cast<int>(left < tile_rows ? left : tile_rows));
  }
}

}  // namespace fokker::kernels
