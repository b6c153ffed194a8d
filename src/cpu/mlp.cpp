// Fields of a multilayer perceptron on tiles of rows (samples) × features that stay in cache through all layers. With
// z_l = W_l h_{l−1} + b_l, h_l = σ(z_l), hidden layers l = 1 … L and output layer w:
//
//   forward   h_l, σ′_l, σ″_l; value or vector output w h_L + b
//   reverse   p_L = w, δ_l = σ′_l ⊙ p_l, p_{l−1} = W_lᵀ δ_l; W_1ᵀ δ_1 = (∂_t φ, ∇φ)        (potentials)
//   tangent   ż_1 = W_1 v, ż_l = W_l (σ′_{l−1} ⊙ ż_{l−1}): the derivative of z_l along v
//
// The second derivatives of a potential are sums over all units with the curvatures κ_l = σ″_l ⊙ p_l as weights,
//   uᵀ (∇²φ) v = Σ_l Σ_j κ_l,j (u·∇z_l,j) (v·∇z_l,j),
// so that one reverse and d tangent sweeps give Laplacian, ∂_t φ, score and residual together: the d + 2 sweeps of
// propagating the operator ∂_t + f·∇ − ½ g² Δ forward, which yields the residual alone. A Hutchinson probe is one
// tangent sweep, and a Hessian comes out symmetric to the bit. A product of the Hessian and a vector is one tangent and
// one adjoint sweep, γ_l = κ_l ⊙ ż_l + σ′_l ⊙ W_{l+1}ᵀ γ_{l+1}.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/block_field.hpp"
#include "cpu/flush_denormals.hpp"
#include "cpu/mlp_primitives.hpp"
#include "cpu/probes.hpp"

namespace fokker::cpu {
namespace {

// What a tile keeps through its sweeps, in bytes: a quarter of a small L2. Measured: 32 to 256 KiB are within 2 %.
constexpr std::int64_t tile_bytes = 128 * 1024;
constexpr std::int64_t smallest_tile = 24, largest_tile = 96;

template <class T>
struct MlpScratch final : Scratch {
  AlignedMemory<T> input;                  // [n, 1 + d] points, later directions (0, v)
  AlignedMemory<T> one, other;             // [n, width]: what a sweep reads and what it writes
  std::vector<AlignedMemory<T>> d1;        // [n, width] of each hidden layer: σ′
  std::vector<AlignedMemory<T>> d2;        // σ″, then κ
  std::vector<AlignedMemory<T>> tangent;   // κ ⊙ ż of each hidden layer, then γ
  AlignedMemory<T> streams, next_streams;  // [d, n, width]: tangents along all axes, for the Hessian
  AlignedMemory<T> vector;                 // [n, d]: score, or what a tangent sweep gives
  AlignedMemory<T> time_derivative;        // [n]
  AlignedMemory<T> trace;                  // [n]
  AlignedMemory<float> probe;              // [n, d]
};

template <class T>
class MlpField final : public BlockField<T> {
 public:
  MlpField(const Mlp& mlp, const ForwardSde& sde)
      : p_(mlp_primitives<T>()), architecture_(mlp.architecture), sde_(sde), d_(mlp.architecture.dimension) {
    pack_layers(architecture_, mlp.parameters.data(), layers_);
    hidden_ = architecture_.layers() - 1;
    const PackedLayer<T>& input = layers_.front();
    columns_.reserve(input.inputs * input.output_stride);
    for (std::int64_t i = 0; i < input.inputs; ++i) {
      for (std::int64_t j = 0; j < input.outputs; ++j) {
        columns_.data()[i * input.output_stride + j] = input.rows.data()[j * input.input_stride + i];
      }
    }
    for (const PackedLayer<T>& layer : layers_) widest_ = std::max({widest_, layer.input_stride, layer.output_stride});
    std::int64_t row_bytes = 2 * widest_;
    for (std::int64_t l = 0; l < hidden_; ++l) row_bytes += 2 * layers_[l].output_stride;
    row_bytes *= sizeof(T);
    const std::int64_t rows = std::clamp(tile_bytes / row_bytes, smallest_tile, largest_tile);
    tile_ = std::max<std::int64_t>(1, rows / p_.row_block) * p_.row_block;
  }

  std::int64_t dimension() const override { return d_; }
  std::int64_t block_size() const override { return 4 * tile_; }

  std::unique_ptr<Scratch> make_scratch() const override {
    auto scratch = std::make_unique<MlpScratch<T>>();
    scratch->d1.resize(hidden_);
    scratch->d2.resize(hidden_);
    scratch->tangent.resize(hidden_);
    return scratch;
  }

  void evaluate(const BlockPoints<T>& points, const BlockOutputs<T>& outputs, const Divergence& divergence,
                Scratch& scratch) const override {
    const FlushDenormals flush;
    auto& s = static_cast<MlpScratch<T>&>(scratch);
    const auto at = [](T* p, std::int64_t i) { return p ? p + i : nullptr; };
    // All d streams of a Hessian are alive together.
    const std::int64_t rows =
        outputs.hessian ? std::max<std::int64_t>(std::min(tile_, p_.row_block), tile_ / d_) : tile_;
    for (std::int64_t i = 0; i < points.n; i += rows) {
      const BlockPoints<T> tile = part(points, i, rows);
      const BlockOutputs<T> out{at(outputs.value, i),
                                at(outputs.dt, i),
                                at(outputs.score, i * d_),
                                at(outputs.divergence, i),
                                at(outputs.hessian, i * d_ * d_),
                                at(outputs.residual, i)};
      if (architecture_.output == Output::potential) {
        potential(tile, out, divergence, s);
      } else {
        vector_net(tile, out, divergence, s);
      }
    }
  }

  void hessian_vector(const BlockPoints<T>& points, const T* direction, T* product, Scratch& scratch) const override {
    const FlushDenormals flush;
    auto& s = static_cast<MlpScratch<T>&>(scratch);
    for (std::int64_t i = 0; i < points.n; i += tile_) {
      const BlockPoints<T> tile = part(points, i, tile_);
      if (architecture_.output == Output::potential) {
        forward(tile, false, true, true, s);
        reverse(tile.n, true, s);
        tangent(tile.n, s, set_directions(tile.n, direction + i * d_, s),
                [&](std::int64_t l, const T* z) { keep_tangent(tile.n, l, z, s); });
        adjoint(tile.n, product + i * d_, s);
      } else {
        forward(tile, false, true, false, s);
        output(tile.n, tangent(tile.n, s, set_directions(tile.n, direction + i * d_, s), nothing), nullptr,
               product + i * d_, s);
      }
    }
  }

 private:
  static constexpr auto nothing = [](std::int64_t, const T*) {};

  BlockPoints<T> part(const BlockPoints<T>& points, std::int64_t i, std::int64_t rows) const {
    return {points.t + i * points.t_stride, points.t_stride, points.x + i * d_, std::min(rows, points.n - i),
            points.first_index + static_cast<std::uint64_t>(i)};
  }

  std::int64_t width(std::int64_t l) const { return layers_[l].output_stride; }  // of hidden layer l, padded

  void potential(const BlockPoints<T>& points, const BlockOutputs<T>& out, const Divergence& divergence,
                 MlpScratch<T>& s) const {
    const std::int64_t n = points.n;
    const bool curvature = out.divergence || out.residual || out.hessian;
    const bool gradient = out.score || out.dt || out.residual;
    forward(points, out.value, gradient || curvature, curvature, s);
    if (out.value) output(n, s.one.data(), layers_.back().bias.data(), out.value, s);
    if (!gradient && !curvature) return;

    const T* delta = reverse(n, curvature, s);
    T* const score = out.score ? out.score : out.residual ? s.vector.reserve(n * d_) : nullptr;
    T* const dt = out.dt ? out.dt : out.residual ? s.time_derivative.reserve(n) : nullptr;
    if (score) gradient_columns(n, delta, 1, d_, score, s);
    if (dt) gradient_columns(n, delta, 0, 1, dt, s);

    if (out.divergence || out.residual) {
      T* const trace = out.divergence ? out.divergence : s.trace.reserve(n);
      std::fill_n(trace, n, T(0));
      const auto add_squares = [&](std::int64_t l, const T* z) {
        p_.triple_dots(n, width(l), s.d2[l].data(), z, z, trace, 1);
      };
      if (divergence.probes == 0) {
        for (std::int64_t i = 0; i < d_; ++i) tangent(n, s, set_axis(n, i, s), add_squares);
      } else {
        for (int k = 0; k < divergence.probes; ++k) {
          tangent(n, s, set_directions(n, draw(points, divergence, k, s), s), add_squares);
        }
        for (std::int64_t i = 0; i < n; ++i) trace[i] /= static_cast<T>(divergence.probes);
      }
      if (out.residual) residual(points, dt, score, trace, out.residual);
    }
    if (out.hessian) hessian(n, out.hessian, s);
  }

  void vector_net(const BlockPoints<T>& points, const BlockOutputs<T>& out, const Divergence& divergence,
                  MlpScratch<T>& s) const {
    const std::int64_t n = points.n;
    forward(points, out.score, out.divergence || out.hessian, false, s);
    if (out.score) output(n, s.one.data(), layers_.back().bias.data(), out.score, s);
    if (!out.divergence && !out.hessian) return;

    T* const column = s.vector.reserve(n * d_);  // J v
    const bool exact = out.divergence && divergence.probes == 0;
    if (out.divergence) std::fill_n(out.divergence, n, T(0));
    if (exact || out.hessian) {
      for (std::int64_t j = 0; j < d_; ++j) {
        output(n, tangent(n, s, set_axis(n, j, s), nothing), nullptr, column, s);
        for (std::int64_t r = 0; r < n; ++r) {
          if (exact) out.divergence[r] += column[r * d_ + j];
          if (!out.hessian) continue;
          for (std::int64_t i = 0; i < d_; ++i) out.hessian[(r * d_ + i) * d_ + j] = column[r * d_ + i];
        }
      }
    }
    if (out.divergence && !exact) {
      for (int k = 0; k < divergence.probes; ++k) {
        const float* v = draw(points, divergence, k, s);
        output(n, tangent(n, s, set_directions(n, v, s), nothing), nullptr, column, s);
        for (std::int64_t r = 0; r < n; ++r) {
          for (std::int64_t i = 0; i < d_; ++i) out.divergence[r] += static_cast<T>(v[r * d_ + i]) * column[r * d_ + i];
        }
      }
      for (std::int64_t r = 0; r < n; ++r) out.divergence[r] /= static_cast<T>(divergence.probes);
    }
  }

  // Leaves h_L in s.one (where `value`), σ′ and σ″ in s.d1 and s.d2 (where wanted).
  void forward(const BlockPoints<T>& points, bool value, bool d1, bool d2, MlpScratch<T>& s) const {
    const std::int64_t n = points.n, inputs = 1 + d_;
    T* a = s.input.reserve(n * inputs);
    for (std::int64_t r = 0; r < n; ++r) {
      a[r * inputs] = points.t[r * points.t_stride];
      for (std::int64_t i = 0; i < d_; ++i) a[r * inputs + 1 + i] = points.x[r * d_ + i];
    }
    std::int64_t a_stride = inputs;
    T *to = s.one.reserve(tile_ * widest_), *spare = s.other.reserve(tile_ * widest_);
    for (std::int64_t l = 0; l < hidden_; ++l) {
      const PackedLayer<T>& layer = layers_[l];
      p_.product({.rows = n,
                  .depth = layer.inputs,
                  .columns = layer.outputs,
                  .a = a,
                  .a_stride = a_stride,
                  .packed = layer.forward.data(),
                  .c = to,
                  .c_stride = layer.output_stride,
                  .bias = layer.bias.data()});
      const std::int64_t size = n * layer.output_stride;
      p_.activate(architecture_.activation, static_cast<T>(architecture_.beta), size, to,
                  l + 1 < hidden_ || value ? to : nullptr, d1 ? s.d1[l].reserve(size) : nullptr,
                  d2 ? s.d2[l].reserve(size) : nullptr, nullptr);
      a = to;
      a_stride = layer.output_stride;
      std::swap(to, spare);
    }
    if (a != s.one.data()) std::swap(s.one, s.other);
  }

  // Returns δ_1 [n, width]; leaves κ in s.d2 where `curvature`.
  const T* reverse(std::int64_t n, bool curvature, MlpScratch<T>& s) const {
    T *delta = s.one.data(), *spare = s.other.data();
    const T* w = layers_.back().rows.data();
    p_.scale_columns(n, width(hidden_ - 1), s.d1[hidden_ - 1].data(), w, delta);
    if (curvature) p_.scale_columns(n, width(hidden_ - 1), s.d2[hidden_ - 1].data(), w, s.d2[hidden_ - 1].data());
    for (std::int64_t l = hidden_ - 1; l > 0; --l) {
      back(n, l, delta, {s.d1[l - 1].data(), false, curvature ? s.d2[l - 1].data() : nullptr}, spare);
      std::swap(delta, spare);
    }
    return delta;
  }

  // From P = a W_l.
  void back(std::int64_t n, std::int64_t l, const T* a, const Epilogue<T>& epilogue, T* c) const {
    const PackedLayer<T>& layer = layers_[l];
    p_.product({.rows = n,
                .depth = layer.outputs,
                .columns = layer.inputs,
                .a = a,
                .a_stride = layer.output_stride,
                .packed = layer.reverse.data(),
                .c = c,
                .c_stride = layer.input_stride,
                .epilogue = epilogue});
  }

  // out [n, count] = columns begin … begin + count − 1 of δ_1 W_1.
  void gradient_columns(std::int64_t n, const T* delta, std::int64_t begin, std::int64_t count, T* out,
                        MlpScratch<T>& s) const {
    const PackedLayer<T>& layer = layers_.front();
    if (count < p_.lanes) {
      p_.dots(n, layer.outputs, count, delta, layer.output_stride, columns_.data() + begin * layer.output_stride,
              layer.output_stride, nullptr, out, count);
      return;
    }
    T* c = delta == s.one.data() ? s.other.data() : s.one.data();
    back(n, 0, delta, {}, c);
    for (std::int64_t r = 0; r < n; ++r) {
      std::memcpy(out + r * count, c + r * layer.input_stride + begin, static_cast<std::size_t>(count) * sizeof(T));
    }
  }

  // out [n, outputs] = start + h Wᵀ with the output layer's W.
  void output(std::int64_t n, const T* h, const T* start, T* out, MlpScratch<T>& s) const {
    const PackedLayer<T>& layer = layers_.back();
    if (layer.outputs < p_.lanes) {
      p_.dots(n, layer.inputs, layer.outputs, h, layer.input_stride, layer.rows.data(), layer.input_stride, start, out,
              layer.outputs);
      return;
    }
    T* c = h == s.one.data() ? s.other.data() : s.one.data();
    p_.product({.rows = n,
                .depth = layer.inputs,
                .columns = layer.outputs,
                .a = h,
                .a_stride = layer.input_stride,
                .packed = layer.forward.data(),
                .c = c,
                .c_stride = layer.output_stride,
                .bias = start});
    for (std::int64_t r = 0; r < n; ++r) {
      std::memcpy(out + r * layer.outputs, c + r * layer.output_stride,
                  static_cast<std::size_t>(layer.outputs) * sizeof(T));
    }
  }

  // ż_1 of all rows along axis i, or along directions [n, d], in s.one.
  T* set_axis(std::int64_t n, std::int64_t i, MlpScratch<T>& s) const {
    const std::int64_t w = width(0);
    for (std::int64_t r = 0; r < n; ++r) std::copy_n(columns_.data() + (1 + i) * w, w, s.one.data() + r * w);
    return s.one.data();
  }
  template <class V>
  T* set_directions(std::int64_t n, const V* v, MlpScratch<T>& s) const {
    const PackedLayer<T>& layer = layers_.front();
    T* a = s.input.data();
    for (std::int64_t r = 0; r < n; ++r) {
      a[r * layer.inputs] = 0;
      for (std::int64_t i = 0; i < d_; ++i) a[r * layer.inputs + 1 + i] = static_cast<T>(v[r * d_ + i]);
    }
    p_.product({.rows = n,
                .depth = layer.inputs,
                .columns = layer.outputs,
                .a = a,
                .a_stride = layer.inputs,
                .packed = layer.forward.data(),
                .c = s.one.data(),
                .c_stride = layer.output_stride});
    return s.one.data();
  }

  const float* draw(const BlockPoints<T>& points, const Divergence& divergence, int probe, MlpScratch<T>& s) const {
    float* v = s.probe.reserve(points.n * d_);
    draw_probes(v, points.n, static_cast<int>(d_), divergence, points.first_index, probe);
    return v;
  }

  // From ż_1 in s.one through all hidden layers; visit(l, ż_l) sees each. Returns ḣ_L.
  template <class Visit>
  const T* tangent(std::int64_t n, MlpScratch<T>& s, T* z, Visit&& visit) const {
    T* spare = s.other.data();
    for (std::int64_t l = 0;; ++l) {
      visit(l, z);
      p_.multiply(n * width(l), s.d1[l].data(), z, z);
      if (l + 1 == hidden_) return z;
      const PackedLayer<T>& layer = layers_[l + 1];
      p_.product({.rows = n,
                  .depth = layer.inputs,
                  .columns = layer.outputs,
                  .a = z,
                  .a_stride = layer.input_stride,
                  .packed = layer.forward.data(),
                  .c = spare,
                  .c_stride = layer.output_stride});
      std::swap(z, spare);
    }
  }

  // κ_l ⊙ ż_l for the adjoint sweep.
  void keep_tangent(std::int64_t n, std::int64_t l, const T* z, MlpScratch<T>& s) const {
    p_.multiply(n * width(l), s.d2[l].data(), z, s.tangent[l].reserve(n * width(l)));
  }

  // out [n, d] = the x columns of γ_1 W_1.
  void adjoint(std::int64_t n, T* out, MlpScratch<T>& s) const {
    for (std::int64_t l = hidden_ - 1; l > 0; --l) {
      back(n, l, s.tangent[l].data(), {s.d1[l - 1].data(), true}, s.tangent[l - 1].data());
    }
    gradient_columns(n, s.tangent[0].data(), 1, d_, out, s);
  }

  // ∂_i ∂_j φ = Σ_l Σ κ_l ∂_i z_l ∂_j z_l from all d tangents, layer after layer.
  void hessian(std::int64_t n, T* out, MlpScratch<T>& s) const {
    std::fill_n(out, n * d_ * d_, T(0));
    T* z = s.streams.reserve(d_ * n * widest_);
    T* next = s.next_streams.reserve(d_ * n * widest_);
    for (std::int64_t i = 0; i < d_; ++i) std::copy_n(set_axis(n, i, s), n * width(0), z + i * n * width(0));
    for (std::int64_t l = 0;; ++l) {
      const std::int64_t size = n * width(l);
      for (std::int64_t i = 0; i < d_; ++i) {
        for (std::int64_t j = 0; j <= i; ++j) {
          p_.triple_dots(n, width(l), s.d2[l].data(), z + i * size, z + j * size, out + i * d_ + j, d_ * d_);
        }
      }
      if (l + 1 == hidden_) break;
      const PackedLayer<T>& layer = layers_[l + 1];
      for (std::int64_t i = 0; i < d_; ++i) p_.multiply(size, s.d1[l].data(), z + i * size, z + i * size);
      p_.product({.rows = d_ * n,
                  .depth = layer.inputs,
                  .columns = layer.outputs,
                  .a = z,
                  .a_stride = layer.input_stride,
                  .packed = layer.forward.data(),
                  .c = next,
                  .c_stride = layer.output_stride});
      std::swap(z, next);
    }
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t i = 0; i < d_; ++i) {
        for (std::int64_t j = 0; j < i; ++j) out[(r * d_ + j) * d_ + i] = out[(r * d_ + i) * d_ + j];
      }
    }
  }

  // R = ∂_t φ + ∇·f + f·∇φ − ½ g² (Δφ + |∇φ|²), f = a x.
  void residual(const BlockPoints<T>& points, const T* dt, const T* score, const T* trace, T* out) const {
    SdeCoefficients<double> sde{};
    for (std::int64_t r = 0; r < points.n; ++r) {
      if (r == 0 || points.t_stride != 0) sde = sde_.at(static_cast<double>(points.t[r * points.t_stride]));
      const T a = static_cast<T>(sde.drift), half = static_cast<T>(sde.diffusion_squared / 2);
      T along = 0, square = 0;
      for (std::int64_t i = r * d_; i < (r + 1) * d_; ++i) {
        along += points.x[i] * score[i];
        square += score[i] * score[i];
      }
      out[r] = dt[r] + a * (static_cast<T>(d_) + along) - half * (trace[r] + square);
    }
  }

  const MlpPrimitives<T>& p_;
  Architecture architecture_;
  ForwardSde sde_;
  std::int64_t d_;
  std::vector<PackedLayer<T>> layers_;
  AlignedMemory<T> columns_;  // W_1ᵀ [1 + d, width]
  std::int64_t hidden_ = 0, widest_ = 0, tile_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<BlockField<T>> make_mlp_field(const Mlp& mlp, const ForwardSde& sde) {
  return std::make_unique<MlpField<T>>(mlp, sde);
}

template std::unique_ptr<BlockField<float>> make_mlp_field(const Mlp&, const ForwardSde&);
template std::unique_ptr<BlockField<double>> make_mlp_field(const Mlp&, const ForwardSde&);

}  // namespace fokker::cpu
