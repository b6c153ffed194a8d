#pragma once

// The sweeps of a resident loss and its gradient over a tile of 16 samples a warp. The formulas, the symbols and the
// names of the sweeps are those of src/operations/LOSS_GRADIENT.md.
//
// What differs. One number is stored for z_l, its code, from which σ, σ′, σ″ and σ‴ follow by a few multiplications
// (activation.hpp). No plane holds what is a row of the network (P_L, ż_1 and with it q_1) or is in registers where the
// next sweep begins. The axis adjoints take the last axis first, whose tangents the axis tangents have left; those of
// the others they make again. All sums over samples are the block's, so its warps go through tiles and sweeps in
// lockstep, and where samples run out they go on with samples whose c and w are zero.
//
// Cost. No plane of the paper's network (width 80; counted, not measured) fits in shared memory beside 8 warps: a warp
// reads and writes 5 KB 15 times for 16 denoising samples and 57 times for 16 collocation samples (1.9 GB for 200 000
// and 50 000 points), and takes special functions for three layers and a logarithm for two. On 132 multiprocessors the
// planes of denoising take 27 MB, those of collocation 54. Fewer warps with planes in shared memory trade the one
// against the other; which is faster is not measured.
#include <cstdint>

#include "loss_points.hpp"

namespace fokker::kernels {

// What a sweep has of a layer: the code of z, and P, of which the seed tangent makes S.
template <int W>
struct Layer {
  Tile<W> code, p;
};

// Protocol. Between two sweeps numbers stand in `tile`, in `layer` (a layer's code and P) and in the planes: LossPlane's
// code, reverse (P, then the whole of S), squares (q), source (S°: the part of S that the axes have given) and tangent
// (ż). A dash is whatever is there. On the emulation LossProtocol holds the sweeps to this table, of layers 1 … L and
// axes 0 … d − 1:
//
//   sweep                   takes          leaves         reads              writes
//                           tile  layer    tile  layer
//   forward                 –     –        z_L   –                           code 1 … L−1
//   reverse                 z_L   –        δ_1   first    code               code L, P 2 … L−1; for the residual P 1
//   axis_tangent 0          –     first    ż_L   last     code, P            q 2 … L
//   axis_tangent i > 0      –     –        ż_L   last     code, P, q         q 2 … L; the last axis ż 2 … L−1
//   axis_adjoint d − 1      ż_L   last     –     –        code, P, ż         S° 1 … L−1
//   axis_adjoint i < d − 1  –     –        –     –        code, P, S°, ż     ż 2 … L−1, S° 1 … L−1
//   seed_tangent            –     first    ζ_L   –        code, P, q, S°     S 1 … L−1, in place of P
//   adjoint                 ζ_L   –        –     –        code, S
//
// A denoising tile has no axes: neither q nor S° is read. A vector net has neither P nor S, and between forward and
// adjoint
//
//   last_value              z_L   –        h_L   last                        code L
//   output_gradient         h_L   last     ζ_L   –
//
// The seeds are found behind reverse or last_value, from δ_1 or h_L, and the residual's completed behind the axis
// tangents.
template <Precision P, int W>
class LossSweeps : public LossPoints<P, W> {
  using Points = LossPoints<P, W>;
  using Network = WarpNetwork<P, W>;
  using Points::accumulate, Points::formed, Points::accumulate_columns, Points::accumulate_first,
      Points::accumulate_hidden, Points::add_plane, Points::axis_index, Points::bias_sums, Points::first_column_sums,
      Points::gradient, Points::inputs, Points::layer_index, Points::left, Points::load_plane, Points::memory,
      Points::net_, Points::no_sums, Points::of_residual, Points::plan_, Points::potential, Points::protocol_,
      Points::publish, Points::right, Points::seeds, Points::share, Points::stage, Points::store_plane, Points::stride,
      Points::sum_into_plane, Points::sums_to, Points::task, Points::tile_index, Points::unit_blocks, Points::values,
      Points::value_seed, Points::weights;
  using Points::bias, Points::input, Points::output;
  using typename Points::Index;
  using typename Points::Side;

 public:
  using Points::block_task;

  __device__ __forceinline__ explicit LossSweeps(const ResidentLossPlan& plan) : Points(plan) {}

  // What comes to them waits for the block, or for the warp, first.
  __device__ __forceinline__ void clear_sums() {
    for (int i = thread_index(); i < plan_.gradient.size; i += block_threads()) gradient()[i] = 0;
    values()[lane_index()] = 0;
  }

  // The losses and their gradient of the samples of the block's tiles.
  __device__ __forceinline__ void sum_tiles() {
#pragma unroll 1
    for (this->set_index(Index::tile, share().first + block_task().block); tile_index() < share().tiles;
         this->set_index(Index::tile, tile_index() + share().blocks)) {
      sum_tile();
    }
  }

  // The block's sums to its place among the task's partial ones.
  __device__ __forceinline__ void write_sums() const {
    sync_block();
    float* to = task().partial + static_cast<std::int64_t>(block_task().block) * plan_.gradient.size;
    for (int i = thread_index(); task().gradient != nullptr && i < plan_.gradient.size; i += block_threads()) {
      to[i] = gradient()[i];
    }
    if (thread_index() >= 2) return;
    double sum = 0;
    for (int w = 0; w < share().warps; ++w) {
      const double* of_rows = plan_.warp.values.in(memory(w)) + tile_rows * thread_index();
      for (int r = 0; r < tile_rows; ++r) sum += of_rows[r];
    }
    task().partial_values[2 * block_task().block + thread_index()] = sum;
  }

  __device__ __forceinline__ void sum_tile() {
    this->load_points();
    Tile<W> tile;
    Layer<W> layer;
    forward(layer, tile);
    if (potential()) {
      reverse(layer, tile);
    } else {
      last_value(layer, tile);
    }
    if (of_residual()) {
      this->first_order_residual(tile);
      float trace[2] = {0, 0};
#pragma unroll 1
      for (int i = 0; i < net_.dimension; ++i) axis_tangent(i, layer, tile, trace);
      this->seed_residual(trace);
    } else {
      this->seed_denoising(tile);
    }
    if (task().gradient == nullptr || (of_residual() && task().residual_weight == 0)) return;
    if (potential()) {
      if (of_residual()) {
#pragma unroll 1
        for (this->set_index(Index::axis, net_.dimension - 1); axis_index() >= 0;
             this->set_index(Index::axis, axis_index() - 1)) {
          axis_adjoint(layer, tile);
        }
        load_layer(0, layer);
        protocol_.leave(TileHolds::anything, LayerHolds::first);
      }
      seed_tangent(layer, tile);
    } else {
      output_gradient(layer, tile);
    }
    adjoint(layer, tile);
  }

  // ---- the sweeps ----

  __device__ __forceinline__ void forward(Layer<W>& layer, Tile<W>& tile) {
    protocol_.enter("forward", TileHolds::anything, LayerHolds::anything);
    set_rows(bias(0), tile);
    Network::add_rows(tile, inputs(), stride(), input(0), 1 + net_.dimension);
#pragma unroll 1
    for (int l = 0; l + 1 < net_.hidden; ++l) {
      activate<true>(l, layer, tile);
      product<false>(l, tile);
      add_to_rows(bias(l + 1), tile);
    }
    protocol_.leave(TileHolds::z_last, LayerHolds::anything);
  }

  __device__ __forceinline__ void reverse(Layer<W>& layer, Tile<W>& tile) {
    protocol_.enter("reverse", TileHolds::z_last, LayerHolds::anything);
    activate<false>(net_.hidden - 1, layer, tile);
    if (formed() && of_residual()) store_potential(layer, tile);
    set_rows(output(0), layer.p);
    tile = layer.p;
#pragma unroll 1
    for (int l = net_.hidden - 1;; --l) {
      times_d1(layer, tile);
      if (l == 0) break;
      product<true>(l - 1, tile);
      load_plane(LossPlane::code, l - 1, 0, layer.code);
      layer.p = tile;
      if (l > 1 || of_residual()) store_plane(LossPlane::reverse, l - 1, part_p, tile);
    }
    protocol_.leave(TileHolds::delta_first, LayerHolds::first);
  }

  // Along axis i; adds this lane's part of the Laplacian to trace.
  __device__ __forceinline__ void axis_tangent(int i, Layer<W>& layer, Tile<W>& tile, float (&trace)[2]) {
    protocol_.enter("axis_tangent", TileHolds::anything, i > 0 ? LayerHolds::anything : LayerHolds::first);
    Network::set_axis(i, tile);
    if (i > 0) load_layer(0, layer);
#pragma unroll 1
    for (int l = 0;; ++l) {
      if (l > 0) {
        Tile<W> squares;
        for_entries_in_halves(squares, tile)([](int, int, float& q, float v) { q = v * v; });
        sum_into_plane(LossPlane::squares, l, i, squares);
      }
      with_sigma([&](const auto& sigma) {
        for_entries_in_halves(tile, layer.code, layer.p)([&](int r, int, float v, float code, float p) {
          trace[r] = fmaf(sigma.decode(code).d2 * p * v, v, trace[r]);
        });
      });
      if (l + 1 == net_.hidden) break;
      if (l > 0 && i + 1 == net_.dimension) store_plane(LossPlane::tangent, l, i, tile);
      times_d1(layer, tile);
      product<false>(l, tile);
      load_layer(l + 1, layer);
    }
    protocol_.leave(TileHolds::tangent_last, LayerHolds::last);
  }

  // Along axis axis_index().
  __device__ __forceinline__ void axis_adjoint(Layer<W>& layer, Tile<W>& tile) {
    const auto axes = [&] { return net_.dimension - 1 - axis_index(); };  // that came before
    protocol_.enter("axis_adjoint", axes() > 0 ? TileHolds::anything : TileHolds::tangent_last,
                    axes() > 0 ? LayerHolds::anything : LayerHolds::last);
    if (axes() > 0) {
      Network::set_axis(axis_index(), tile);
      load_plane(LossPlane::code, 0, 0, layer.code);
#pragma unroll 1
      for (int l = 0; l + 1 < net_.hidden; ++l) {
        if (l > 0) store_plane(LossPlane::tangent, l, axis_index(), tile);
        times_d1(layer, tile);
        load_plane(LossPlane::code, l + 1, 0, layer.code);
        product<false>(l, tile);
      }
      set_rows(output(0), layer.p);
    }
    with_sigma([&](const auto& sigma) {
      for_entries_in_halves(tile, layer.code, layer.p)([&](int r, int, float& v, float code, float p) {
        v *= 2 * weights()[tile_row(r)] * (sigma.decode(code).d2 * p);
      });
    });
    backward<false>(layer, tile, [&](Tile<W>& taken) {
      if (layer_index() > 0) {
        load_plane(LossPlane::tangent, layer_index(), axis_index(), taken);
      } else {
        Network::set_axis(axis_index(), taken);
      }
      load_plane(LossPlane::reverse, layer_index(), part_p, layer.p);
      with_sigma([&](const auto& sigma) {
        for_entries_in_halves(tile, layer.code, layer.p,
                              taken)([&](int r, int, float& v, float code, float& p, float t) {
          const ActivationValues<float> d = sigma.decode(code);
          const float curved = d.d2 * t, source = curved * v;
          v = fmaf(d.d1, v, 2 * weights()[tile_row(r)] * (curved * p));
          p = source;
        });
      });
      sum_into_plane(LossPlane::source, layer_index(), axes(), layer.p);
      times_d1(layer, taken);
    });
    accumulate_columns(first_column_sums(1 + axis_index()));
    protocol_.leave(TileHolds::anything, LayerHolds::anything);
  }

  // From seeds() and weights(). For a denoising tile w is zero, and there is neither q nor a source of the axes.
  __device__ __forceinline__ void seed_tangent(Layer<W>& layer, Tile<W>& tile) {
    protocol_.enter("seed_tangent", TileHolds::anything, LayerHolds::first);
    clear(tile);
    Network::add_rows(tile, seeds(), stride(), input(0), 1 + net_.dimension);
#pragma unroll 1
    for (int l = 0;; ++l) {
      if (of_residual()) {
        Tile<W> squares;
        if (l > 0) {
          load_plane(LossPlane::squares, l, net_.dimension, squares);
        } else {
          first_squares(squares);
        }
        for_entries_in_halves(squares)([&](int r, int, float& q) { q *= weights()[tile_row(r)]; });
        seed_tangent_rule<true>(squares, layer, tile);
      } else {
        seed_tangent_rule<false>({}, layer, tile);
      }
      publish(left, layer.code);
      if (l == 0) {
        accumulate_first(seeds(), no_sums());
      } else {
        accumulate_hidden(l - 1, no_sums());
      }
      if (l + 1 == net_.hidden) break;
      if (of_residual()) add_plane(LossPlane::source, l, net_.dimension, layer.p);
      store_plane(LossPlane::reverse, l, part_s, layer.p);
      publish_and_multiply<false>(right, l, tile);
      load_layer(l + 1, layer);
    }
    if (formed() && of_residual()) add_value_seeds(layer, tile);
    publish(left, tile);
    accumulate_columns(sums_to(gradient() + plan_.gradient.output));
    tile = layer.p;
    protocol_.leave(TileHolds::zeta_last, LayerHolds::anything);
  }

  __device__ __forceinline__ void last_value(Layer<W>& layer, Tile<W>& tile) {
    protocol_.enter("last_value", TileHolds::z_last, LayerHolds::anything);
    activate<true>(net_.hidden - 1, layer, tile);
    protocol_.leave(TileHolds::h_last, LayerHolds::last);
  }

  __device__ __forceinline__ void output_gradient(const Layer<W>& layer, Tile<W>& tile) {
    protocol_.enter("output_gradient", TileHolds::h_last, LayerHolds::last);
    publish(right, tile);
    const int outputs = (net_.outputs + 15) / 16 * 16;
#pragma unroll 1
    for (int begin = 0; begin < outputs; begin += W) {
      this->load_rows(seeds() + 1, begin, net_.outputs, tile);
      publish(left, tile);
      const int count = outputs - begin < W ? outputs - begin : W;
      accumulate(count / 16, unit_blocks, gradient() + plan_.gradient.output + begin * W, W / 8,
                 sums_to(gradient() + plan_.gradient.output_bias + begin));
    }
    clear(tile);
    Network::add_rows(tile, seeds() + 1, stride(), output(0), net_.outputs);
    times_d1(layer, tile);
    protocol_.leave(TileHolds::zeta_last, LayerHolds::anything);
  }

  __device__ __forceinline__ void adjoint(Layer<W>& layer, Tile<W>& tile) {
    protocol_.enter("adjoint", TileHolds::zeta_last, LayerHolds::anything);
    backward<true>(layer, tile, [&](Tile<W>& taken) {
      if (potential()) {
        load_plane(LossPlane::reverse, layer_index(), part_s, layer.p);
      } else {
        clear(layer.p);
      }
      with_sigma([&](const auto& sigma) {
        for_entries_in_halves(tile, layer.code, layer.p, taken)([&](int, int, float& v, float code, float s, float& h) {
          const ActivationValues<float> d = sigma.decode(code);
          h = d.value;
          v = fmaf(d.d1, v, s);
        });
      });
    });
    accumulate_first(inputs(), bias_sums(0));
    protocol_.leave(TileHolds::anything, LayerHolds::anything);
  }

 private:
  // What LossPlane::reverse holds, as LossProtocol tells it apart.
  static constexpr int part_p = 0, part_s = 1;

  template <class Body>
  __device__ __forceinline__ void with_sigma(const Body& body) const {
    with_own_activation(net_.activation, net_.beta, body);
  }

  __device__ __forceinline__ void load_layer(int l, Layer<W>& layer) {
    load_plane(LossPlane::code, l, 0, layer.code);
    if (l + 1 < net_.hidden) {
      load_plane(LossPlane::reverse, l, part_p, layer.p);
    } else {
      set_rows(output(0), layer.p);
    }
  }

  template <bool kTransposed>
  __device__ __forceinline__ void product(int l, Tile<W>& tile) const {
    Network::template product<kTransposed>(l, tile, reinterpret_cast<float*>(stage(left)));
  }
  // publish() and product() with one split for both. Its one scale for all rows is enough here, where a sample's part is
  // lost only beside that of another in the same sum; before the seeds, where a row is a sample's own, it would not be.
  template <bool kTransposed>
  __device__ __forceinline__ void publish_and_multiply(Side side, int l, Tile<W>& tile) const {
    Network::template product<kTransposed>(l, publish(side, tile), tile);
  }

  // The code of z; z → h, where kValue.
  template <bool kValue>
  __device__ __forceinline__ void activate(int l, Layer<W>& layer, Tile<W>& tile) {
    with_sigma([&](const auto& sigma) {
      for_entries_in_halves(tile, layer.code)([&](int, int, float& z, float& code) {
        code = sigma.encode(z);
        if constexpr (kValue) z = sigma.decode(code).value;
      });
    });
    store_plane(LossPlane::code, l, 0, layer.code);
  }
  // tile ⊙= σ′.
  __device__ __forceinline__ void times_d1(const Layer<W>& layer, Tile<W>& tile) const {
    with_sigma([&](const auto& sigma) {
      for_entries_in_halves(tile, layer.code)([&](int, int, float& v, float code) { v *= sigma.decode(code).d1; });
    });
  }

  // Φ of the code of z_L to the first of seeds(); takes the tile.
  __device__ __forceinline__ void store_potential(const Layer<W>& layer, Tile<W>& tile) {
    with_sigma([&](const auto& sigma) {
      for_entries_in_halves(tile, layer.code)([&](int, int, float& h, float code) { h = sigma.decode(code).value; });
    });
    float phi[2];
    this->dot(tile, output(0), phi);
    if (!leads_rows()) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) seeds()[tile_row(r) * stride()] = phi[r] + this->output_bias()[0];
  }

  // What ν Φ adds: to the last layer's π ν h_L, to its source ν δ_L, and to the output bias's gradient ν. Takes the
  // layer's code, which is δ_L.
  __device__ __forceinline__ void add_value_seeds(Layer<W>& layer, Tile<W>& tile) {
    const auto seed = [&](int r) { return value_seed(tile_row(r)); };
    Tile<W> code;
    load_plane(LossPlane::code, net_.hidden - 1, 0, code);
    with_sigma([&](const auto& sigma) {
      for_entries_in_halves(tile, layer.code, layer.p, code)([&](int r, int, float& v, float delta, float& s, float z) {
        v = fmaf(seed(r), sigma.decode(z).value, v);
        s = fmaf(seed(r), delta, s);
      });
    });
    for_entries_in_halves(layer.code)([&](int r, int column, float& x) { x = column == 0 ? seed(r) : 0.0f; });
    publish(left, layer.code);
    accumulate(1, 0, nullptr, 0, sums_to(gradient() + plan_.gradient.output_bias));
  }

  // q_1, which is the same for every sample.
  __device__ __forceinline__ void first_squares(Tile<W>& squares) const {
    clear(squares);
#pragma unroll 1
    for (int i = 0; i < net_.dimension; ++i) {
      for_blocks<W>([&](int j) {
        const Float2 v = pair(input(1 + i), j);
        squares.v[j][0] = squares.v[j][2] = fmaf(v.x, v.x, squares.v[j][0]);
        squares.v[j][1] = squares.v[j][3] = fmaf(v.y, v.y, squares.v[j][1]);
      });
    }
  }

  // u → π in the tile, δ in place of the code, and in place of P the source but for the axes' part; squares: w q, where
  // kResidual.
  template <bool kResidual>
  __device__ __forceinline__ void seed_tangent_rule(const Tile<W>& squares, Layer<W>& layer, Tile<W>& tile) const {
    with_sigma([&](const auto& sigma) {
      for_entries_in_halves(tile, layer.code, layer.p,
                            squares)([&](int, int, float& v, float& code, float& p, float square) {
        const ActivationValues<float> d = sigma.decode(code);
        code = d.d1 * p;
        p *= kResidual ? fmaf(d.d3, square, d.d2 * v) : d.d2 * v;
        v = kResidual ? fmaf(d.d1, v, d.d2 * square) : d.d1 * v;
      });
    });
  }

  // The adjoint of z_L → that of z_1, which is then published on the left: adds to the hidden matrices' gradients, and
  // with kBias to their biases'. step(taken), from W_{l+1}ᵀ (adjoint of l + 1) in the tile and the code of layer l =
  // layer_index() in `layer`, makes the adjoint of l and what layer l + 1 took in.
  template <bool kBias, class Step>
  __device__ __forceinline__ void backward(Layer<W>& layer, Tile<W>& tile, const Step& step) {
#pragma unroll 1
    for (this->set_index(Index::layer, net_.hidden - 2); layer_index() >= 0;
         this->set_index(Index::layer, layer_index() - 1)) {
      publish_and_multiply<true>(left, layer_index(), tile);
      load_plane(LossPlane::code, layer_index(), 0, layer.code);
      Tile<W> taken;
      step(taken);
      publish(right, taken);
      accumulate_hidden(layer_index(), kBias ? bias_sums(layer_index() + 1) : no_sums());
    }
    publish(left, tile);
  }
};

}  // namespace fokker::kernels
