// Fields of a multilayer perceptron on tiles of rows (samples) × features that stay in cache through all layers. With
// z_l = W_l h_{l−1} + U_l e + b_l, h_l = σ(z_l) [+ h_{l−1}], hidden layers l = 1 … L and output layer w:
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
//
// The embedding e(τ) enters layers beside h: as another bias, one for all points that have one time, and a product more
// where they have their own. So does that of the points' conditions, always by a product: a condition that is one for all
// was folded into the biases before (with_condition). ∂_t φ is ē·de/dτ with ē = Σ_l U_lᵀ δ_l. A residual connection adds p_l to p_{l−1} and ḣ_{l−1}
// to ḣ_l; networks that have one keep p beside δ, which others do not need.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/block_field.hpp"
#include "cpu/branch.hpp"
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
  AlignedMemory<T> input;                  // [n, times + d] points, later directions (0, v)
  AlignedMemory<T> one, other;             // [n, width]: what a sweep reads and what it writes
  std::vector<AlignedMemory<T>> d1;        // [n, width] of each hidden layer: σ′
  std::vector<AlignedMemory<T>> d2;        // σ″, then κ
  std::vector<AlignedMemory<T>> tangent;   // κ ⊙ ż of each hidden layer, then γ
  AlignedMemory<T> streams, next_streams;  // [d, n, width]: tangents along all axes, for the Hessian
  AlignedMemory<T> vector;                 // [n, d]: score, or what a tangent sweep gives
  AlignedMemory<T> time_derivative;        // [n]
  AlignedMemory<T> trace;                  // [n]
  AlignedMemory<float> probe;              // [n, d]
  typename PackedBranch<T>::Scratch time, condition;
  const T* tile_condition = nullptr;    // c of the tile at hand
  std::vector<AlignedMemory<T>> start;  // of each layer where all points have one time: b + U e
  AlignedMemory<T> embedding_bar;       // [n, stride of e]: ē
  AlignedMemory<T> adjoint;             // [n, width]: p, of networks with residual connections
};

template <class T>
class MlpField final : public BlockField<T> {
 public:
  MlpField(const Mlp& mlp, const ForwardSde& sde)
      : p_(mlp_primitives<T>()),
        architecture_(mlp.architecture),
        sde_(sde),
        d_(mlp.architecture.dimension),
        times_(architecture_.time.raw() ? 1 : 0),
        time_branch_(architecture_.time),
        condition_branch_(architecture_.condition),
        has_skips_(!architecture_.residual.empty()) {
    pack_layers(architecture_, mlp.parameters.data(), layers_);
    condition_branch_.pack(mlp.parameters.data());
    time_branch_.pack(mlp.parameters.data() + architecture_.time_offset());
    hidden_ = architecture_.layers() - 1;
    for (std::int64_t l = 0; l < hidden_; ++l) activations_.push_back(architecture_.activation_of(l));
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
    scratch->start.resize(hidden_ + 1);
    return scratch;
  }

  void evaluate(const BlockPoints<T>& points, const BlockOutputs<T>& outputs, const Divergence& divergence,
                Scratch& scratch) const override {
    const FlushDenormals flush;
    auto& s = static_cast<MlpScratch<T>&>(scratch);
    const auto at = [](T* p, std::int64_t i) { return p ? p + i : nullptr; };
    embed_common(points, outputs.dt || outputs.residual, s);
    embed_conditions(points, s);
    // All d streams of a Hessian are alive together.
    const std::int64_t rows =
        outputs.hessian ? std::max<std::int64_t>(std::min(tile_, p_.row_block), tile_ / d_) : tile_;
    for (std::int64_t i = 0; i < points.n; i += rows) {
      const BlockPoints<T> tile = part(points, i, rows, s);
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
    embed_common(points, false, s);
    embed_conditions(points, s);
    for (std::int64_t i = 0; i < points.n; i += tile_) {
      const BlockPoints<T> tile = part(points, i, tile_, s);
      if (architecture_.output == Output::potential) {
        forward(tile, {.d1 = true, .d2 = true}, s);
        reverse(tile.n, {.curvature = true}, s);
        tangent(tile.n, s, set_directions(tile.n, direction + i * d_, s),
                [&](std::int64_t l, const T* z) { keep_tangent(tile.n, l, z, s); });
        adjoint(tile.n, product + i * d_, s);
      } else {
        forward(tile, {.d1 = true}, s);
        output(tile.n, tangent(tile.n, s, set_directions(tile.n, direction + i * d_, s), nothing), nullptr,
               product + i * d_, s);
      }
    }
  }

 private:
  static constexpr auto nothing = [](std::int64_t, const T*) {};

  BlockPoints<T> part(const BlockPoints<T>& points, std::int64_t i, std::int64_t rows, MlpScratch<T>& s) const {
    if (architecture_.conditional()) {
      s.tile_condition = condition_branch_.embedding(s.condition) + i * condition_branch_.stride();
    }
    BlockPoints<T> tile{points.t + i * points.t_stride, points.t_stride, points.x + i * d_,
                        std::min(rows, points.n - i), points.first_index + static_cast<std::uint64_t>(i)};
    tile.indices = points.indices ? points.indices + i : nullptr;
    return tile;
  }

  std::int64_t width(std::int64_t l) const { return layers_[l].output_stride; }  // of hidden layer l, padded
  bool embedded(std::int64_t l) const { return layers_[l].time.inputs > 0; }

  // What a sweep is to leave.
  struct Forward {
    bool value = false;    // h_L, in s.one
    bool d1 = false;       // σ′, in s.d1
    bool d2 = false;       // σ″, in s.d2
    bool by_time = false;  // de/dτ
  };
  struct Reverse {
    bool curvature = false;  // κ, in s.d2
    bool by_time = false;    // ē, in s.embedding_bar
  };

  bool has_embedding() const { return times_ == 0 && !architecture_.time.into.empty(); }

  // The embedding of a time that all points have, as a part of the biases.
  void embed_common(const BlockPoints<T>& points, bool tangent, MlpScratch<T>& s) const {
    if (!has_embedding() || points.t_stride != 0 || points.n == 0) return;
    time_branch_.forward(1, points.t, tangent, nullptr, false, s.time);
    for (std::int64_t l = 0; l <= hidden_; ++l) {
      const PackedLayer<T>& layer = layers_[l];
      if (!embedded(l)) continue;
      layer.time.multiply(1, time_branch_.embedding(s.time), time_branch_.stride(), layer.bias.data(), false,
                          s.start[l].reserve(layer.output_stride));
    }
  }

  // c of all points, which a path has through all its stages.
  void embed_conditions(const BlockPoints<T>& points, MlpScratch<T>& s) const {
    if (!architecture_.conditional() || points.same_conditions) return;
    condition_branch_.forward(points.n, points.condition, false, nullptr, false, s.condition);
  }

  // What all points have in common of a layer's z.
  const T* start(const BlockPoints<T>& points, std::int64_t l, const MlpScratch<T>& s) const {
    return embedded(l) && points.t_stride == 0 ? s.start[l].data() : layers_[l].bias.data();
  }

  // visit(matrix, embedding, stride) for each that a layer takes of the points' own.
  template <class Visit>
  void for_own_embeddings(const BlockPoints<T>& points, std::int64_t l, const MlpScratch<T>& s, Visit&& visit) const {
    const PackedLayer<T>& layer = layers_[l];
    if (layer.condition.inputs > 0) visit(layer.condition, s.tile_condition, condition_branch_.stride());
    if (embedded(l) && points.t_stride != 0) visit(layer.time, time_branch_.embedding(s.time), time_branch_.stride());
  }

  // out [n, outputs] = the network's own.
  void output_with_bias(const BlockPoints<T>& points, T* out, MlpScratch<T>& s) const {
    output(points.n, s.one.data(), start(points, hidden_, s), out, s);
    for_own_embeddings(points, hidden_, s, [&](const PackedMatrix<T>& matrix, const T* e, std::int64_t stride) {
      for (std::int64_t r = 0; r < points.n; ++r, e += stride) {
        for (std::int64_t j = 0; j < matrix.outputs; ++j) {
          const T* u = matrix.rows.data() + j * matrix.input_stride;
          for (std::int64_t i = 0; i < matrix.inputs; ++i) out[r * matrix.outputs + j] += u[i] * e[i];
        }
      }
    });
  }

  // ∂_τ Φ from what forward() and reverse() left.
  void time_derivative(const BlockPoints<T>& points, const T* delta, T* out, MlpScratch<T>& s) const {
    if (times_ > 0) return gradient_columns(points.n, delta, 0, 1, out, s);
    std::fill_n(out, points.n, T(0));
    if (!has_embedding()) return;
    const std::int64_t stride = time_branch_.stride();
    const T *bar = s.embedding_bar.data(), *rate = time_branch_.derivative(s.time);
    for (std::int64_t r = 0; r < points.n; ++r, bar += stride) {
      for (std::int64_t i = 0; i < architecture_.time.width(); ++i) out[r] += bar[i] * rate[i];
      if (points.t_stride != 0) rate += stride;
    }
  }

  void potential(const BlockPoints<T>& points, const BlockOutputs<T>& out, const Divergence& divergence,
                 MlpScratch<T>& s) const {
    const std::int64_t n = points.n;
    const bool curvature = out.divergence || out.residual || out.hessian;
    const bool gradient = out.score || out.dt || out.residual;
    const bool by_time = out.dt || out.residual;
    forward(points, {.value = out.value != nullptr, .d1 = gradient || curvature, .d2 = curvature, .by_time = by_time},
            s);
    if (out.value) output_with_bias(points, out.value, s);
    if (!gradient && !curvature) return;

    const T* delta = reverse(n, {.curvature = curvature, .by_time = by_time}, s);
    T* const score = out.score ? out.score : out.residual ? s.vector.reserve(n * d_) : nullptr;
    T* const dt = out.dt ? out.dt : out.residual ? s.time_derivative.reserve(n) : nullptr;
    if (score) gradient_columns(n, delta, times_, d_, score, s);
    if (dt) time_derivative(points, delta, dt, s);

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
    forward(points, {.value = out.score != nullptr, .d1 = out.divergence || out.hessian}, s);
    if (out.score) output_with_bias(points, out.score, s);
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

  void forward(const BlockPoints<T>& points, const Forward& leave, MlpScratch<T>& s) const {
    const std::int64_t n = points.n, inputs = times_ + d_;
    T* a = s.input.reserve(n * inputs);
    for (std::int64_t r = 0; r < n; ++r) {
      if (times_ > 0) a[r * inputs] = points.t[r * points.t_stride];
      for (std::int64_t i = 0; i < d_; ++i) a[r * inputs + times_ + i] = points.x[r * d_ + i];
    }
    if (has_embedding() && points.t_stride != 0)
      time_branch_.forward(n, points.t, leave.by_time, nullptr, false, s.time);
    std::int64_t a_stride = inputs;
    T *to = s.one.reserve(tile_ * widest_), *spare = s.other.reserve(tile_ * widest_);
    for (std::int64_t l = 0; l < hidden_; ++l) {
      const PackedLayer<T>& layer = layers_[l];
      const T* const bias = start(points, l, s);
      bool begun = false;
      for_own_embeddings(points, l, s, [&](const PackedMatrix<T>& matrix, const T* e, std::int64_t stride) {
        matrix.multiply(n, e, stride, bias, begun, to);
        begun = true;
      });
      layer.multiply(n, a, a_stride, bias, begun, to);
      const std::int64_t size = n * layer.output_stride;
      const LayerActivation& activation = activations_[l];
      T* const h = l + 1 < hidden_ || leave.value ? to : nullptr;
      p_.activate(activation.activation, static_cast<T>(activation.beta), size, to, h,
                  leave.d1 ? s.d1[l].reserve(size) : nullptr, leave.d2 ? s.d2[l].reserve(size) : nullptr, nullptr);
      if (h && adds_input(l)) add(size, a, h);
      a = to;
      a_stride = layer.output_stride;
      std::swap(to, spare);
    }
    if (a != s.one.data()) std::swap(s.one, s.other);
  }

  // Whether a layer adds its input to its output.
  bool adds_input(std::int64_t l) const { return has_skips_ && architecture_.is_residual(l); }
  static void add(std::int64_t n, const T* a, T* to) {
    for (std::int64_t i = 0; i < n; ++i) to[i] += a[i];
  }

  // Returns δ_1 [n, width].
  const T* reverse(std::int64_t n, const Reverse& leave, MlpScratch<T>& s) const {
    T *delta = s.one.data(), *spare = s.other.data();
    T* const p = has_skips_ ? s.adjoint.reserve(tile_ * widest_) : nullptr;
    const T* w = layers_.back().rows.data();
    const std::int64_t stride = width(hidden_ - 1);
    for (std::int64_t r = 0; p && r < n; ++r) std::copy_n(w, stride, p + r * stride);
    p_.scale_columns(n, stride, s.d1[hidden_ - 1].data(), w, delta);
    if (leave.curvature) p_.scale_columns(n, stride, s.d2[hidden_ - 1].data(), w, s.d2[hidden_ - 1].data());
    const bool by_embedding = leave.by_time && has_embedding();
    if (by_embedding) begin_embedding_bar(n, s);
    for (std::int64_t l = hidden_ - 1; l > 0; --l) {
      if (by_embedding && embedded(l)) add_embedding_bar(n, l, delta, s);
      T *const d1 = s.d1[l - 1].data(), *const d2 = leave.curvature ? s.d2[l - 1].data() : nullptr;
      if (has_skips_) {
        back(n, l, delta, {}, p, adds_input(l));
        p_.multiply(n * width(l - 1), d1, p, spare);
        if (d2) p_.multiply(n * width(l - 1), d2, p, d2);
      } else {
        back(n, l, delta, {d1, false, d2}, spare);
      }
      std::swap(delta, spare);
    }
    if (by_embedding && embedded(0)) add_embedding_bar(n, 0, delta, s);
    return delta;
  }

  // ē from the output layer's row, and what layer l adds by its δ.
  void begin_embedding_bar(std::int64_t n, MlpScratch<T>& s) const {
    const std::int64_t stride = time_branch_.stride();
    T* bar = s.embedding_bar.reserve(n * stride);
    std::fill_n(bar, n * stride, T(0));
    if (!embedded(hidden_)) return;
    for (std::int64_t r = 0; r < n; ++r) {
      std::copy_n(layers_.back().time.rows.data(), architecture_.time.width(), bar + r * stride);
    }
  }
  void add_embedding_bar(std::int64_t n, std::int64_t l, const T* delta, MlpScratch<T>& s) const {
    const PackedLayer<T>& layer = layers_[l];
    p_.product({.rows = n,
                .depth = layer.outputs,
                .columns = layer.time.inputs,
                .a = delta,
                .a_stride = layer.output_stride,
                .packed = layer.time.reverse.data(),
                .c = s.embedding_bar.data(),
                .c_stride = time_branch_.stride(),
                .accumulate = true});
  }

  // From P = a W_l, or c + a W_l.
  void back(std::int64_t n, std::int64_t l, const T* a, const Epilogue<T>& epilogue, T* c,
            bool accumulate = false) const {
    const PackedLayer<T>& layer = layers_[l];
    p_.product({.rows = n,
                .depth = layer.outputs,
                .columns = layer.inputs,
                .a = a,
                .a_stride = layer.output_stride,
                .packed = layer.reverse.data(),
                .c = c,
                .c_stride = layer.input_stride,
                .accumulate = accumulate,
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
    layer.multiply(n, h, layer.input_stride, start, false, c);
    for (std::int64_t r = 0; r < n; ++r) {
      std::memcpy(out + r * layer.outputs, c + r * layer.output_stride,
                  static_cast<std::size_t>(layer.outputs) * sizeof(T));
    }
  }

  // ż_1 of all rows along axis i, or along directions [n, d], in s.one.
  T* set_axis(std::int64_t n, std::int64_t i, MlpScratch<T>& s) const {
    const std::int64_t w = width(0);
    for (std::int64_t r = 0; r < n; ++r) std::copy_n(columns_.data() + (times_ + i) * w, w, s.one.data() + r * w);
    return s.one.data();
  }
  template <class V>
  T* set_directions(std::int64_t n, const V* v, MlpScratch<T>& s) const {
    const PackedLayer<T>& layer = layers_.front();
    T* a = s.input.data();
    for (std::int64_t r = 0; r < n; ++r) {
      if (times_ > 0) a[r * layer.inputs] = 0;
      for (std::int64_t i = 0; i < d_; ++i) a[r * layer.inputs + times_ + i] = static_cast<T>(v[r * d_ + i]);
    }
    layer.multiply(n, a, layer.inputs, nullptr, false, s.one.data());
    return s.one.data();
  }

  const float* draw(const BlockPoints<T>& points, const Divergence& divergence, int probe, MlpScratch<T>& s) const {
    float* v = s.probe.reserve(points.n * d_);
    if (points.indices) {
      draw_probes(v, points.n, static_cast<int>(d_), divergence, points.indices, probe);
    } else {
      draw_probes(v, points.n, static_cast<int>(d_), divergence, points.first_index, probe);
    }
    return v;
  }

  // From ż_1 in s.one through all hidden layers; visit(l, ż_l) sees each. Returns ḣ_L.
  template <class Visit>
  const T* tangent(std::int64_t n, MlpScratch<T>& s, T* z, Visit&& visit) const {
    T* spare = s.other.data();
    for (std::int64_t l = 0;; ++l) {
      visit(l, z);
      p_.multiply(n * width(l), s.d1[l].data(), z, z);
      if (adds_input(l)) add(n * width(l), spare, z);  // the tangent of h_{l−1}, from which z came
      if (l + 1 == hidden_) return z;
      const PackedLayer<T>& layer = layers_[l + 1];
      layer.multiply(n, z, layer.input_stride, nullptr, false, spare);
      std::swap(z, spare);
    }
  }

  // κ_l ⊙ ż_l for the adjoint sweep.
  void keep_tangent(std::int64_t n, std::int64_t l, const T* z, MlpScratch<T>& s) const {
    p_.multiply(n * width(l), s.d2[l].data(), z, s.tangent[l].reserve(n * width(l)));
  }

  // out [n, d] = the x columns of γ_1 W_1.
  void adjoint(std::int64_t n, T* out, MlpScratch<T>& s) const {
    T* const p = s.adjoint.data();
    if (has_skips_) std::fill_n(p, n * width(hidden_ - 1), T(0));
    for (std::int64_t l = hidden_ - 1; l > 0; --l) {
      const T* d1 = s.d1[l - 1].data();
      T* const gamma = s.tangent[l - 1].data();
      if (has_skips_) {
        back(n, l, s.tangent[l].data(), {}, p, adds_input(l));
        for (std::int64_t i = 0; i < n * width(l - 1); ++i) gamma[i] += d1[i] * p[i];
      } else {
        back(n, l, s.tangent[l].data(), {d1, true}, gamma);
      }
    }
    gradient_columns(n, s.tangent[0].data(), times_, d_, out, s);
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
      if (adds_input(l)) add(d_ * size, next, z);
      layer.multiply(d_ * n, z, layer.input_stride, nullptr, false, next);
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
  std::int64_t d_, times_;                          // how many of the first inputs are a raw time: 1, or 0
  PackedBranch<T> time_branch_, condition_branch_;  // of the time, and of a condition
  bool has_skips_;
  std::vector<LayerActivation> activations_;
  std::vector<PackedLayer<T>> layers_;
  AlignedMemory<T> columns_;  // W_1ᵀ [times + d, width]
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
