// Both losses and their gradients by sweeps over tiles of samples that stay in L2. The formulas and the symbols are
// those of operations/LOSS_GRADIENT.md: the sweeps for the denoising loss and for the residual by probes, the operator form
// for the residual along all axes.
//
// Denoising, potential: a layer keeps five numbers a unit, σ′, (δ, ζ) and (π, h), the pairs one below the other, so
// that the gradient δ_l π_{l−1}ᵀ + ζ_l h_{l−1}ᵀ is one product over twice the rows. σ″ becomes κ, S = κ u and ζ in
// place, and u becomes π. h of the last hidden layer is not needed.
//
// Residual by probes: the same, with (δ, ζ, α of every probe) and (π, h, ḣ of every probe), which are 7 numbers a unit
// and 2 a probe, and S in the place of σ‴.
//
// Residual: the streams z, z_1 … z_d and z_𝒜 are further rows of a tile, and what stands between two products is in
// loss_rules.hpp. σ′, σ′_i and σ′_𝒜 take the place of z, z_i and z_𝒜.
//
// Where layers take an embedding of the time, the gradient by it is summed over them, and goes back through the time
// branch (branch.hpp). With residual connections the derivatives by h are kept beside those by z.
//
// Each chunk of points adds to a gradient of its own; these are summed in chunk order. A rank sums those of its range of
// chunks on top of the sum that the rank before sends it, piece by piece, so that ranks work one behind the other; the
// last one's sums, which are those of a single rank, go to all.
#include "cpu/loss.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "core/parallel.hpp"
#include "cpu/backend.hpp"
#include "cpu/branch.hpp"
#include "cpu/flush_denormals.hpp"
#include "cpu/loss_rules.hpp"
#include "cpu/mlp_primitives.hpp"
#include "cpu/probes.hpp"
#include "fokker/formulas/form_points.hpp"

namespace fokker::cpu {
namespace {

constexpr std::int64_t tile_bytes = 256 << 10;      // of a tile's planes: half of a small L2
constexpr std::int64_t chunk_points = 256;          // at least; a chunk's overhead is its gradient's zeroing and sum
constexpr std::int64_t most_chunks = 64;            // of each loss
constexpr std::int64_t gradients_bytes = 64 << 20;  // of all chunks' gradients of one loss, where eight fit

// Where a layer's gradient lies in a chunk's, with padded rows. The first layer's is transposed, [2 + d, outputs],
// since its few inputs would fill less than a vector; its last row is the bias, as if for an input that is always 1.
// Those of the weights that take an embedding are [outputs, stride of the embedding].
struct GradientBlock {
  std::int64_t weight, bias, stride, condition, time;
};

template <class T>
struct ThreadScratch {
  AlignedMemory<T> planes, inputs, points;
  AlignedMemory<T> outputs, half_g2;  // a tile's scores or seeds; its coefficients of the Laplacian
  std::vector<ResidualCoefficients<T>> residual;
  typename PackedBranch<T>::Scratch time, condition;
  AlignedMemory<T> times;                              // a tile's τ and their rates
  AlignedMemory<T> condition_bar, time_bar, rate_bar;  // the gradients by c, by e and by de/dτ
  AlignedMemory<T> adjoint;                            // the derivatives by h
  AlignedMemory<float> probe;                          // a tile's, one at a time
  AlignedMemory<T> traces, weights;                    // [probes][rows] vᵀ ∇²Φ v and w
  AlignedMemory<T> embedding_seed;                     // ε
};

template <class T>
class Sweeps {
 public:
  Sweeps(const Architecture& architecture, const ForwardSde& sde)
      : architecture_(architecture),
        sde_(sde),
        with_form_(!architecture.form.plain()),
        times_(architecture.time.raw() ? 1 : 0),
        has_skips_(!architecture.residual.empty()),
        condition_branch_(architecture.condition),
        time_branch_(architecture.time),
        primitives_(mlp_primitives<T>()),
        rules_(loss_rules<T>()) {
    std::int64_t offset = 0;
    for (std::int64_t l = 0; l < architecture_.layers(); ++l) {
      const std::int64_t inputs = own_inputs(l), outputs = architecture_.outputs(l);
      const std::int64_t stride = primitives_.padded(l == 0 ? outputs : inputs);
      const std::int64_t rows = l == 0 ? inputs : outputs;
      blocks_.push_back({offset, offset + rows * stride, stride, 0, 0});
      offset += rows * stride + primitives_.padded(outputs);
      blocks_.back().condition = offset;
      if (architecture_.conditioned(l) > 0) offset += outputs * condition_branch_.stride();
      blocks_.back().time = offset;
      if (embedded(l) > 0) offset += outputs * time_branch_.stride();
      if (l < hidden()) {
        strides_.push_back(primitives_.padded(outputs));
        units_ += strides_.back();
        widest_ = std::max(widest_, strides_.back());
      }
    }
    condition_gradient_ = offset;
    time_gradient_ = condition_gradient_ + condition_branch_.gradient_size();
    gradient_size_ = time_gradient_ + time_branch_.gradient_size();
    // Planes a sample: those kept for every layer, and those of one layer at a time.
    const std::int64_t streams = dimension() + 2;
    denoising_rows_ = tile_rows(5 * units_);
    residual_rows_ = tile_rows(2 * streams * units_ + (2 * streams + 2) * widest_);
    planes_size_ =
        std::max(denoising_rows_ * 5 * units_, residual_rows_ * (2 * streams * units_ + (2 * streams + 2) * widest_));
  }

  std::int64_t dimension() const { return architecture_.dimension; }
  std::int64_t gradient_size() const { return gradient_size_; }
  std::int64_t denoising_rows() const { return denoising_rows_; }
  // Of a residual along all axes, or by so many probes for each of its two estimates.
  std::int64_t residual_rows(int probes) const {
    return probes == 0 ? residual_rows_ : tile_rows(probed_planes(2 * probes));
  }

  void pack(const T* parameters) {
    pack_layers(architecture_, parameters, layers_);
    condition_branch_.pack(parameters);
    time_branch_.pack(parameters + architecture_.time_offset());
    T* rows = score_rows_.reserve((times_ + dimension()) * strides_[0]);
    const T* columns =
        parameters + architecture_.weight_offset(0) + architecture_.conditioned(0) + architecture_.embedded(0) - times_;
    for (std::int64_t i = 0; i < times_ + dimension(); ++i) {
      for (std::int64_t j = 0; j < architecture_.outputs(0); ++j) {
        rows[i * strides_[0] + j] = columns[j * architecture_.inputs(0) + i];
      }
    }
  }

  void prepare(ThreadScratch<T>& scratch, std::int64_t chunk, int probes) const {
    const std::int64_t streams = dimension() + 2, directions = 2 * probes;
    const std::int64_t probed_rows = probes > 0 ? residual_rows(probes) : 0;
    const std::int64_t rows = std::max({denoising_rows_, residual_rows_, probed_rows});
    scratch.planes.reserve(std::max(planes_size_, probed_rows * plane_count(directions) * units_));
    scratch.inputs.reserve(std::max({2 * denoising_rows_, streams * residual_rows_, (2 + directions) * probed_rows}) *
                           streams);
    if (probes > 0) {
      scratch.probe.reserve(probed_rows * dimension());
      scratch.traces.reserve(directions * probed_rows);
      scratch.weights.reserve(directions * probed_rows);
    }
    scratch.outputs.reserve(rows * std::max(2 * streams, primitives_.padded(dimension())));
    scratch.half_g2.reserve(rows);
    scratch.residual.resize(static_cast<std::size_t>(rows));
    scratch.points.reserve(chunk * point_numbers(architecture_));
  }

  // Σ over the chunk's points, which are the network's own, and coordinates of weight (F − F*)²; adds to `gradient`
  // (unless nullptr) that of scale · this sum / 2.
  double denoising(const DenoisingChunk<T>& chunk, std::int64_t n, double scale, ThreadScratch<T>& scratch,
                   T* gradient) const {
    double sum = 0;
    const std::int64_t d = dimension();
    for (std::int64_t first = 0; first < n; first += denoising_rows_) {
      const DenoisingChunk<T> tile = {chunk.t + first, chunk.x + first * d, chunk.target + first * d,
                                      chunk.weight ? chunk.weight + first : nullptr,
                                      conditions(chunk.condition, first)};
      const std::int64_t rows = std::min(denoising_rows_, n - first);
      sum += architecture_.output == Output::potential ? potential_tile(tile, rows, scale, scratch, gradient)
                                                       : vector_tile(tile, rows, scale, scratch, gradient);
    }
    return sum;
  }

  // Σ over the chunk's points of R², or of R̂₁ R̂₂; adds to `gradient` (unless nullptr) that of scale · this sum / 2. The
  // first point's probes are those of estimate.first_index.
  double residual(const CollocationChunk<T>& chunk, std::int64_t n, Divergence estimate, double scale,
                  ThreadScratch<T>& scratch, T* gradient) const {
    double sum = 0;
    const std::int64_t rows = residual_rows(estimate.probes);
    for (std::int64_t first = 0; first < n; first += rows) {
      const CollocationChunk<T> tile{chunk.t + first, chunk.x + first * dimension(),
                                     conditions(chunk.condition, first)};
      const std::int64_t own = std::min(rows, n - first);
      if (estimate.probes == 0) {
        sum += residual_tile(tile, own, scale, scratch, gradient);
      } else {
        sum += probed_tile(tile, own, estimate, scale, scratch, gradient);
        estimate.first_index += static_cast<std::uint64_t>(own);
      }
    }
    return sum;
  }

  // From a chunk's layout to that of Architecture.
  void unpack(const T* padded, T* gradient) const {
    gradient = condition_branch_.unpack(padded + condition_gradient_, gradient);
    gradient = time_branch_.unpack(padded + time_gradient_, gradient);
    for (std::int64_t l = 0; l < architecture_.layers(); ++l) {
      const std::int64_t inputs = own_inputs(l), outputs = architecture_.outputs(l);
      if (architecture_.is_fixed(l)) {
        gradient = std::fill_n(gradient, outputs * (architecture_.inputs(l) + 1), T(0));
        continue;
      }
      const T* g = padded + blocks_[l].weight;
      for (std::int64_t j = 0; j < outputs; ++j) {
        gradient = std::copy_n(padded + blocks_[l].condition + j * condition_branch_.stride(),
                               architecture_.conditioned(l), gradient);
        gradient = std::copy_n(padded + blocks_[l].time + j * time_branch_.stride(), embedded(l), gradient);
        for (std::int64_t i = 0; i < inputs; ++i) {
          *gradient++ = l == 0 ? g[i * blocks_[l].stride + j] : g[j * blocks_[l].stride + i];
        }
      }
      gradient = std::copy_n(padded + blocks_[l].bias, outputs, gradient);
    }
  }

 private:
  std::int64_t hidden() const { return static_cast<std::int64_t>(architecture_.hidden.size()); }
  const PackedLayer<T>& output_layer() const { return layers_[hidden()]; }
  // How many inputs of a layer are an embedding of the time; a raw time is beside x. And how many are none.
  std::int64_t embedded(std::int64_t l) const { return times_ > 0 ? 0 : architecture_.embedded(l); }
  std::int64_t own_inputs(std::int64_t l) const {
    return architecture_.inputs(l) - architecture_.conditioned(l) - embedded(l);
  }
  const T* conditions(const T* of_chunk, std::int64_t first) const {
    return of_chunk ? of_chunk + first * architecture_.condition.inputs : nullptr;
  }

  // What layers take of a tile's points beside h, or the derivatives along the time; nullptr: nothing. And the
  // gradients by it; nullptr where nobody asks for them.
  struct Embeddings {
    const T *condition, *time;
  };
  struct EmbeddingBars {
    T *condition, *time;
  };
  // Whether a layer adds its input to its output.
  bool adds_input(std::int64_t l) const { return has_skips_ && architecture_.is_residual(l); }
  std::int64_t row_size() const { return times_ + dimension() + 1; }  // of (t, x, 1)
  static void add(std::int64_t n, const T* a, T* to) {
    for (std::int64_t i = 0; i < n; ++i) to[i] += a[i];
  }

  std::int64_t tile_rows(std::int64_t planes) const {
    const std::int64_t fit = std::clamp<std::int64_t>(tile_bytes / (planes * std::int64_t{sizeof(T)}), 1, 96);
    return fit < primitives_.row_block ? fit : fit / primitives_.row_block * primitives_.row_block;
  }

  // From P = bias + c Vᵀ + e Uᵀ + A Wᵀ of a layer, and from P = D W, or C + D W.
  void forward(std::int64_t l, std::int64_t rows, const T* a, std::int64_t a_stride, T* c, std::int64_t c_stride,
               bool with_bias, const Embeddings& embeddings, const Epilogue<T>& epilogue = {}) const {
    const PackedLayer<T>& layer = layers_[l];
    Product<T> p{rows, layer.inputs, layer.outputs, a, a_stride, layer.forward.data(), c, c_stride};
    if (with_bias) p.bias = layer.bias.data();
    const auto take = [&](const PackedMatrix<T>& u, const T* embedding, std::int64_t stride) {
      if (!embedding || u.inputs == 0) return;
      Product<T> before{rows, u.inputs, u.outputs, embedding, stride, u.forward.data(), c, c_stride};
      before.bias = p.bias, before.accumulate = p.accumulate;
      primitives_.product(before);
      p.bias = nullptr, p.accumulate = true;
    };
    take(layer.condition, embeddings.condition, condition_branch_.stride());
    take(layer.time, embeddings.time, time_branch_.stride());
    p.epilogue = epilogue;
    primitives_.product(p);
  }
  void reverse(std::int64_t l, std::int64_t rows, const T* d, std::int64_t d_stride, T* c, std::int64_t c_stride,
               const Epilogue<T>& epilogue = {}, bool accumulate = false) const {
    Product<T> p{rows, layers_[l].outputs, layers_[l].inputs, d, d_stride, layers_[l].reverse.data(), c, c_stride};
    p.epilogue = epilogue;
    p.accumulate = accumulate;
    primitives_.product(p);
  }
  void activate(std::int64_t l, std::int64_t n, const T* z, T* h, T* d1, T* d2, T* d3) const {
    const LayerActivation activation = architecture_.activation_of(l);
    primitives_.activate(activation.activation, static_cast<T>(activation.beta), n, z, h, d1, d2, d3);
  }
  // c and e of a tile's points.
  Embeddings embed(std::int64_t n, const T* conditions, const T* times, const T* rates, bool keep,
                   ThreadScratch<T>& scratch) const {
    Embeddings embeddings{};
    if (architecture_.conditional()) {
      condition_branch_.forward(n, conditions, false, nullptr, keep, scratch.condition);
      embeddings.condition = condition_branch_.embedding(scratch.condition);
    }
    if (times_ == 0 && !architecture_.time.into.empty()) {
      time_branch_.forward(n, times, rates != nullptr, rates, keep, scratch.time);
      embeddings.time = time_branch_.embedding(scratch.time);
    }
    return embeddings;
  }
  // Zeros for the gradients by c and e. With `rates`: by de/dτ.
  EmbeddingBars begin_bars(std::int64_t n, bool rates, ThreadScratch<T>& scratch) const {
    const auto zeros = [&](const PackedBranch<T>& branch, AlignedMemory<T>& memory) -> T* {
      if (!branch.trains()) return nullptr;
      T* const bar = memory.reserve(n * branch.stride());
      std::fill_n(bar, n * branch.stride(), T(0));
      return bar;
    };
    if (rates) return {nullptr, zeros(time_branch_, scratch.rate_bar)};
    return {zeros(condition_branch_, scratch.condition_bar), zeros(time_branch_, scratch.time_bar)};
  }
  // The gradients of a layer's V and U from D and the embeddings, and the part of D in those by these.
  void add_embeddings(std::int64_t l, std::int64_t rows, const T* d, std::int64_t d_stride,
                      const Embeddings& embeddings, const EmbeddingBars& bars, T* gradient) const {
    const auto add = [&](const PackedMatrix<T>& u, const T* embedding, std::int64_t stride, std::int64_t block,
                         T* bar) {
      if (!embedding || u.inputs == 0) return;
      primitives_.gradient(rows, u.outputs, u.inputs, d, d_stride, embedding, stride, gradient + block, stride);
      if (!bar) return;
      Product<T> p{rows, u.outputs, u.inputs, d, d_stride, u.reverse.data(), bar, stride};
      p.accumulate = true;
      primitives_.product(p);
    };
    const PackedLayer<T>& layer = layers_[l];
    add(layer.condition, embeddings.condition, condition_branch_.stride(), blocks_[l].condition, bars.condition);
    add(layer.time, embeddings.time, time_branch_.stride(), blocks_[l].time, bars.time);
  }
  // Layer l's gradient from D and H, and its bias's from D.
  void add_weights(std::int64_t l, std::int64_t rows, const T* d, std::int64_t d_stride, const T* h,
                   T* gradient) const {
    primitives_.gradient(rows, layers_[l].outputs, layers_[l].inputs, d, d_stride, h, strides_[l - 1],
                         gradient + blocks_[l].weight, blocks_[l].stride);
  }
  void add_bias(std::int64_t l, std::int64_t rows, const T* d, std::int64_t d_stride, T* gradient) const {
    primitives_.sum_rows(rows, layers_[l].outputs, d, d_stride, gradient + blocks_[l].bias);
  }
  // The first layer's, weights and bias at once.
  void add_first_layer(std::int64_t rows, const T* inputs, const T* d, T* gradient) const {
    const std::int64_t n = row_size();
    primitives_.gradient(rows, n, layers_[0].outputs, inputs, n, d, strides_[0], gradient + blocks_[0].weight,
                         blocks_[0].stride);
  }

  // The branches' gradients from those by their embeddings; rate_bar: by de/dτ, or nullptr.
  void branches_back(std::int64_t n, const EmbeddingBars& bars, const T* rate_bar, ThreadScratch<T>& scratch,
                     T* gradient) const {
    if (bars.condition) {
      condition_branch_.back(n, bars.condition, nullptr, scratch.condition, gradient + condition_gradient_);
    }
    if (bars.time) time_branch_.back(n, bars.time, rate_bar, scratch.time, gradient + time_gradient_);
  }

  // (t, x, 1), without t where the network takes an embedding of it.
  void fill_inputs(const DenoisingChunk<T>& tile, std::int64_t n, T* inputs) const {
    const std::int64_t d = dimension();
    for (std::int64_t r = 0; r < n; ++r, inputs += row_size()) {
      if (times_ > 0) inputs[0] = tile.t[r];
      std::copy_n(tile.x + r * d, d, inputs + times_);
      inputs[times_ + d] = T(1);
    }
  }

  // (s − s*) of one sample: adds its loss, writes c.
  double misfit(const DenoisingChunk<T>& tile, std::int64_t r, double scale, const T* score, T* c) const {
    const double weight = tile.weight ? static_cast<double>(tile.weight[r]) : 1.0;
    double sum = 0;
    for (std::int64_t i = 0; i < dimension(); ++i) {
      const double e = static_cast<double>(score[i]) - static_cast<double>(tile.target[r * dimension() + i]);
      sum += weight * e * e;
      c[i] = static_cast<T>(scale * weight * e);
    }
    return sum;
  }

  // ---- sweeps of a potential ----

  // Over a tile of n points, along the directions of a residual by probes, which the denoising loss has none of.
  struct PotentialTile {
    const Sweeps& of;
    ThreadScratch<T>& scratch;
    std::int64_t n, directions;
    T* gradient;  // or nullptr
    Embeddings embeddings = {};

    // A layer's planes, n · stride each, of directions one after another: δ, S and α stand one below the other, and π, h
    // and ḣ, as the gradient's product takes them.
    T* d1(std::int64_t l) const { return plane(l, 0); }      // σ′
    T* delta(std::int64_t l) const { return plane(l, 1); }   // δ
    T* source(std::int64_t l) const { return plane(l, 2); }  // σ″ or σ‴ → κ or τ → S → ζ
    T* alpha(std::int64_t l) const { return plane(l, 3); }   // ż → α
    T* seed_tangent(std::int64_t l) const { return plane(l, 3 + directions); }                        // u → π
    T* value(std::int64_t l) const { return plane(l, 4 + directions); }                               // z → h
    T* tangent(std::int64_t l) const { return plane(l, 5 + directions); }                             // ḣ
    T* d2(std::int64_t l) const { return plane(l, directions > 0 ? 5 + 2 * directions : 2); }         // σ″
    T* curvature(std::int64_t l) const { return plane(l, directions > 0 ? 6 + 2 * directions : 2); }  // κ
    // Rows of the network's inputs and 1: (c, 0), (τ, C x, 1), and (0, v, 0) of each direction.
    T* seed_rows() const { return scratch.inputs.data(); }
    T* value_rows() const { return seed_rows() + n * of.row_size(); }
    T* direction_rows() const { return value_rows() + n * of.row_size(); }

   private:
    T* plane(std::int64_t l, std::int64_t k) const {
      T* p = scratch.planes.data();
      for (std::int64_t m = 0; m < l; ++m) p += plane_count(directions) * n * of.strides_[m];
      return p + k * n * of.strides_[l];
    }
  };
  static std::int64_t plane_count(std::int64_t directions) { return directions > 0 ? 7 + 2 * directions : 5; }
  std::int64_t probed_planes(std::int64_t directions) const {
    return plane_count(directions) * units_ + (1 + directions) * widest_;
  }

  // with_value: whether h of the last hidden layer is wanted.
  void forward_sweep(const PotentialTile& tile, bool with_value) const {
    for (std::int64_t l = 0; l < hidden(); ++l) {
      T* z = tile.value(l);
      const bool value = with_value || l + 1 < hidden(), probed = tile.directions > 0;
      forward(l, tile.n, l == 0 ? tile.value_rows() : tile.value(l - 1), l == 0 ? row_size() : strides_[l - 1], z,
              strides_[l], true, tile.embeddings);
      activate(l, tile.n * strides_[l], z, value ? z : nullptr, tile.d1(l),
               tile.gradient || probed ? tile.d2(l) : nullptr, tile.gradient && probed ? tile.source(l) : nullptr);
      if (value && adds_input(l)) add(tile.n * strides_[l], tile.value(l - 1), z);
    }
  }

  // time_bar [n, stride of the time's embedding] = ē, the derivative of Φ by it; nullptr: not wanted.
  void reverse_sweep(const PotentialTile& tile, T* time_bar) const {
    const std::int64_t n = tile.n, last = hidden() - 1;
    const bool probed = tile.directions > 0, curved = tile.gradient || probed;
    const T* v = output_layer().rows.data();
    T* p = has_skips_ || probed ? tile.scratch.adjoint.reserve((1 + tile.directions) * n * widest_) : nullptr;
    for (std::int64_t r = 0; p && r < n; ++r) std::copy_n(v, strides_[last], p + r * strides_[last]);
    for (std::int64_t r = 0; time_bar && r < n; ++r) {
      T* const row = time_bar + r * time_branch_.stride();
      std::fill_n(row, time_branch_.stride(), T(0));
      std::copy_n(output_layer().time.rows.data(), output_layer().time.inputs, row);
    }
    for (std::int64_t l = last; l >= 0; --l) {
      const std::int64_t size = n * strides_[l];
      if (p) {
        if (l < last) reverse(l + 1, n, tile.delta(l + 1), strides_[l + 1], p, strides_[l], {}, adds_input(l + 1));
        primitives_.multiply(size, tile.d1(l), p, tile.delta(l));
        if (curved) primitives_.multiply(size, tile.d2(l), p, tile.curvature(l));
        if (probed && tile.gradient) primitives_.multiply(size, tile.source(l), p, tile.source(l));
      } else if (l < last) {
        reverse(l + 1, n, tile.delta(l + 1), strides_[l + 1], tile.delta(l), strides_[l],
                {tile.d1(l), false, tile.gradient ? tile.d2(l) : nullptr});
      } else {
        primitives_.scale_columns(n, strides_[l], tile.d1(l), v, tile.delta(l));
        if (tile.gradient) primitives_.scale_columns(n, strides_[l], tile.d2(l), v, tile.d2(l));
      }
      if (time_bar && embedded(l) > 0) {
        const PackedMatrix<T>& u = layers_[l].time;
        Product<T> product{n,           u.outputs,        u.inputs, tile.delta(l),
                           strides_[l], u.reverse.data(), time_bar, time_branch_.stride()};
        product.accumulate = true;
        primitives_.product(product);
      }
    }
  }

  // traces [directions][n] = Σ κ ż².
  void tangent_sweep(const PotentialTile& tile, T* traces) const {
    const std::int64_t n = tile.n, directions = tile.directions;
    std::fill_n(traces, directions * n, T(0));
    for (std::int64_t l = 0; l < hidden(); ++l) {
      const std::int64_t plane = n * strides_[l];
      T* const z = tile.alpha(l);
      forward(l, directions * n, l == 0 ? tile.direction_rows() : tile.tangent(l - 1),
              l == 0 ? row_size() : strides_[l - 1], z, strides_[l], false, {});
      for (std::int64_t i = 0; i < directions; ++i) {
        primitives_.triple_dots(n, strides_[l], tile.curvature(l), z + i * plane, z + i * plane, traces + i * n, 1);
        if (l + 1 < hidden()) primitives_.multiply(plane, tile.d1(l), z + i * plane, tile.tangent(l) + i * plane);
      }
      if (l + 1 < hidden() && adds_input(l)) add(directions * plane, tile.tangent(l - 1), tile.tangent(l));
    }
  }

  // What G is of: the directions' w [directions][n], ν [n], ε [n, stride of the time's embedding] and the derivative of G
  // by what ε is a multiple of; nullptr: 0.
  struct Seeds {
    const T *weights = nullptr, *value = nullptr, *embedding = nullptr;
    const T* rate_bar = nullptr;
  };

  // From c in seed_rows().
  void seed_tangent_sweep(const PotentialTile& tile, const Seeds& seeds) const {
    const std::int64_t n = tile.n;
    for (std::int64_t l = 0; l < hidden(); ++l) {
      const T* from = l == 0 ? tile.seed_rows() : tile.seed_tangent(l - 1);
      const std::int64_t stride = l == 0 ? row_size() : strides_[l - 1];
      T* const u = tile.seed_tangent(l);
      if (tile.directions == 0) {
        forward(l, n, from, stride, u, strides_[l], false, {}, {tile.d1(l), false, tile.source(l)});
      } else {
        forward(l, n, from, stride, u, strides_[l], false, {nullptr, seeds.embedding});
        rules_.seed_tangent(n, strides_[l], tile.directions, seeds.weights, tile.alpha(l), tile.d1(l), tile.d2(l),
                            tile.curvature(l), tile.source(l), u);
      }
      if (adds_input(l)) add(n * strides_[l], tile.seed_tangent(l - 1), u);
    }
    if (!seeds.value) return;
    const std::int64_t last = hidden() - 1;
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t k = r * strides_[last]; k < (r + 1) * strides_[last]; ++k) {
        tile.seed_tangent(last)[k] += seeds.value[r] * tile.value(last)[k];
        tile.source(last)[k] += seeds.value[r] * tile.delta(last)[k];
      }
    }
  }

  void adjoint_sweep(const PotentialTile& tile, const Seeds& seeds) const {
    const std::int64_t n = tile.n, last = hidden() - 1, streams = 1 + tile.directions, top = last + 1;
    T* const gradient = tile.gradient;
    const Embeddings along{nullptr, seeds.embedding};  // ε
    const EmbeddingBars bars = begin_bars(n, false, tile.scratch);
    primitives_.sum_rows(n, strides_[last], tile.seed_tangent(last), strides_[last], gradient + blocks_[top].weight);
    if (seeds.embedding && embedded(top) > 0) {
      primitives_.sum_rows(n, embedded(top), seeds.embedding, time_branch_.stride(), gradient + blocks_[top].time);
    }
    if (seeds.value) {
      add_bias(top, n, seeds.value, 1, gradient);
      add_embeddings(top, n, seeds.value, 1, tile.embeddings, bars, gradient);
    }
    T* const p = has_skips_ || tile.directions > 0 ? tile.scratch.adjoint.data() : nullptr;
    if (p) std::fill_n(p, streams * n * strides_[last], T(0));
    if (p && seeds.value) {  // h_L is in Φ by a connection, too
      const T* v = output_layer().rows.data();
      for (std::int64_t r = 0; r < n; ++r) {
        for (std::int64_t j = 0; j < strides_[last]; ++j) p[r * strides_[last] + j] = seeds.value[r] * v[j];
      }
    }
    const auto directions_rule = [&](std::int64_t l, const T* bar) {
      rules_.adjoint(n, strides_[l], tile.directions, seeds.weights, tile.d1(l), tile.d2(l), tile.curvature(l), bar,
                     tile.source(l), tile.alpha(l));
    };
    if (tile.directions > 0) directions_rule(last, nullptr);
    for (std::int64_t l = last; l > 0; --l) {
      const T* zeta = tile.source(l);
      add_weights(l, (1 + streams) * n, tile.delta(l), strides_[l], tile.seed_tangent(l - 1), gradient);
      add_bias(l, n, zeta, strides_[l], gradient);
      add_embeddings(l, n, zeta, strides_[l], tile.embeddings, bars, gradient);
      add_embeddings(l, n, tile.delta(l), strides_[l], along, {}, gradient);
      if (p) {
        reverse(l, streams * n, zeta, strides_[l], p, strides_[l - 1], {}, adds_input(l));
        if (tile.directions > 0) {
          directions_rule(l - 1, p);
        } else {
          const T* d1 = tile.d1(l - 1);
          T* to = tile.source(l - 1);
          for (std::int64_t i = 0; i < n * strides_[l - 1]; ++i) to[i] += d1[i] * p[i];
        }
      } else {
        reverse(l, n, zeta, strides_[l], tile.source(l - 1), strides_[l - 1], {tile.d1(l - 1), true});
      }
    }
    add_embeddings(0, n, tile.source(0), strides_[0], tile.embeddings, bars, gradient);
    add_embeddings(0, n, tile.delta(0), strides_[0], along, {}, gradient);
    add_first_layer((1 + streams) * n, tile.seed_rows(), tile.delta(0), gradient);
    branches_back(n, bars, seeds.rate_bar, tile.scratch, gradient);
  }

  // ---- losses of a tile ----

  double potential_tile(const DenoisingChunk<T>& points, std::int64_t n, double scale, ThreadScratch<T>& scratch,
                        T* gradient) const {
    const std::int64_t d = dimension(), x_stride = row_size();
    PotentialTile tile{*this, scratch, n, 0, gradient};
    fill_inputs(points, n, tile.value_rows());
    tile.embeddings = embed(n, points.condition, points.t, nullptr, gradient, scratch);
    forward_sweep(tile, false);
    reverse_sweep(tile, nullptr);
    T* score = scratch.outputs.data();
    primitives_.dots(n, strides_[0], d, tile.delta(0), strides_[0], score_rows_.data() + times_ * strides_[0],
                     strides_[0], nullptr, score, d);

    double sum = 0;
    for (std::int64_t r = 0; r < n; ++r) {
      T* row = tile.seed_rows() + r * x_stride;
      row[0] = row[x_stride - 1] = T(0);
      sum += misfit(points, r, scale, score + r * d, row + times_);
    }
    if (!gradient) return sum;
    seed_tangent_sweep(tile, {});
    adjoint_sweep(tile, {});
    return sum;
  }

  // The probes of `estimate`, twice as many, are the directions.
  double probed_tile(const CollocationChunk<T>& points, std::int64_t n, const Divergence& estimate, double scale,
                     ThreadScratch<T>& scratch, T* gradient) const {
    const std::int64_t d = dimension(), x_stride = row_size(), probes = estimate.probes, last = hidden() - 1;
    PotentialTile tile{*this, scratch, n, 2 * probes, gradient};
    std::fill_n(scratch.inputs.data(), (2 + tile.directions) * n * x_stride, T(0));
    T* const times = scratch.times.reserve(2 * n);  // τ, and what ∂_t makes of it
    const ResidualCoefficients<T>* c = network_rows(points, n, tile.value_rows(), times, scratch);
    for (std::int64_t i = 0; i < tile.directions; ++i) {
      float* const v = scratch.probe.data();
      draw_probes(v, n, static_cast<int>(d), estimate, estimate.first_index, static_cast<int>(i));
      for (std::int64_t r = 0; r < n; ++r) {
        std::copy_n(v + r * d, d, tile.direction_rows() + (i * n + r) * x_stride + times_);
      }
    }
    tile.embeddings = embed(n, points.condition, times, times + n, gradient, scratch);
    const std::int64_t width = time_branch_.stride();
    const T* const rates = tile.embeddings.time ? time_branch_.derivative(scratch.time) : nullptr;  // r₃ de/dτ
    T* const time_bar = rates ? scratch.rate_bar.reserve(n * width) : nullptr;
    T *const traces = scratch.traces.data(), *const weights = scratch.weights.data();
    forward_sweep(tile, with_form_);
    reverse_sweep(tile, time_bar);
    tangent_sweep(tile, traces);

    const std::int64_t columns = times_ + d;
    T* const derivatives = scratch.outputs.data();  // (∂_τΦ, ∇Φ)
    T* const value_seeds = derivatives + n * columns;
    primitives_.dots(n, strides_[0], columns, tile.delta(0), strides_[0], score_rows_.data(), strides_[0], nullptr,
                     derivatives, columns);
    if (with_form_) output_values(n, tile.value(last), tile.embeddings, value_seeds);
    T* const embedding_seed = rates ? scratch.embedding_seed.reserve(n * width) : nullptr;

    double sum = 0;
    for (std::int64_t r = 0; r < n; ++r) {
      const auto number = [](T value) { return static_cast<double>(value); };
      const T* const own = derivatives + r * columns;
      double common = number(c[r].constant) * static_cast<double>(d);  // R but for its Laplacian
      if (times_ > 0) common += number(c[r].time) * number(own[0]);
      for (std::int64_t j = 0; rates && j < width; ++j)
        common += number(time_bar[r * width + j]) * number(rates[r * width + j]);
      const T* const x = tile.value_rows() + r * x_stride + times_;
      double input_squares = 0;
      for (std::int64_t i = 0; i < d; ++i) {
        const double s = number(own[times_ + i]), xi = number(x[i]);
        common += s * (number(c[r].along) * xi - number(c[r].gradient) * s);
        input_squares += xi * xi;
      }
      if (with_form_) common += number(c[r].square) * input_squares + number(c[r].value) * number(value_seeds[r]);
      double residual[2];
      for (std::int64_t k = 0; k < 2; ++k) {
        double laplacian = 0;
        for (std::int64_t i = k * probes; i < (k + 1) * probes; ++i) laplacian += number(traces[i * n + r]);
        residual[k] = common - number(c[r].curvature) * laplacian / static_cast<double>(probes);
      }
      sum += residual[0] * residual[1];

      const double seed = scale / 2 * (residual[0] + residual[1]);
      T* const row = tile.seed_rows() + r * x_stride;
      if (times_ > 0) row[0] = static_cast<T>(number(c[r].time) * seed);
      for (std::int64_t i = 0; i < d; ++i) {
        row[times_ + i] = static_cast<T>(
            seed * (number(c[r].along) * number(x[i]) - 2 * number(c[r].gradient) * number(own[times_ + i])));
      }
      for (std::int64_t i = 0; i < tile.directions; ++i) {
        const double other = residual[i < probes ? 1 : 0];
        weights[i * n + r] = static_cast<T>(-number(c[r].curvature) * scale / 2 * other / static_cast<double>(probes));
      }
      value_seeds[r] = static_cast<T>(number(c[r].value) * seed);
      for (std::int64_t j = 0; rates && j < width; ++j) {
        embedding_seed[r * width + j] = static_cast<T>(seed * number(rates[r * width + j]));
        time_bar[r * width + j] = static_cast<T>(seed * number(time_bar[r * width + j]));
      }
    }
    if (!gradient) return sum;
    const Seeds seeds{weights, with_form_ ? value_seeds : nullptr, embedding_seed, time_bar};
    seed_tangent_sweep(tile, seeds);
    adjoint_sweep(tile, seeds);
    return sum;
  }

  // Rows (τ, C x, 1) of collocation points, the coefficients of their residuals, and times [2 n] = τ and r₃.
  const ResidualCoefficients<T>* network_rows(const CollocationChunk<T>& points, std::int64_t n, T* rows, T* times,
                                              ThreadScratch<T>& scratch) const {
    const std::int64_t d = dimension(), x_stride = row_size();
    ResidualCoefficients<T>* const c = scratch.residual.data();
    for (std::int64_t r = 0; r < n; ++r) {
      const double t = static_cast<double>(points.t[r]);
      c[r] = rounded<T>(residual_at(architecture_.form, sde_.formulas(), t));
      T *const row = rows + r * x_stride, *const x = row + times_;
      times[r] = points.t[r];
      std::copy_n(points.x + r * d, d, x);
      if (with_form_) {
        const FormCoefficients<double> form = form_at(architecture_.form, sde_.formulas(), t);
        times[r] = static_cast<T>(form.time);
        for (std::int64_t i = 0; i < d; ++i) x[i] *= static_cast<T>(form.in);
      }
      times[n + r] = c[r].time;
      if (times_ > 0) row[0] = times[r];
      row[x_stride - 1] = T(1);
    }
    return c;
  }

  // to [n] = Φ, from h of the last hidden layer.
  void output_values(std::int64_t n, const T* h, const Embeddings& embeddings, T* to) const {
    const std::int64_t stride = strides_[hidden() - 1];
    primitives_.dots(n, stride, 1, h, stride, output_layer().rows.data(), stride, output_layer().bias.data(), to, 1);
    add_dots(n, output_layer().condition, embeddings.condition, condition_branch_.stride(), to);
    add_dots(n, output_layer().time, embeddings.time, time_branch_.stride(), to);
  }
  // to [n] += what the output layer makes of an embedding's rows.
  static void add_dots(std::int64_t n, const PackedMatrix<T>& u, const T* rows, std::int64_t stride, T* to) {
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t i = 0; i < u.inputs; ++i) to[r] += u.rows.data()[i] * rows[r * stride + i];
    }
  }

  double vector_tile(const DenoisingChunk<T>& tile, std::int64_t n, double scale, ThreadScratch<T>& scratch,
                     T* gradient) const {
    const std::int64_t last = hidden() - 1, x_stride = row_size();
    const auto plane = [&](std::int64_t l, int k) {
      T* p = scratch.planes.data();
      for (std::int64_t m = 0; m < l; ++m) p += 3 * n * strides_[m];
      return p + k * n * strides_[l];
    };
    enum { kD1, kZeta, kValue };
    T* inputs = scratch.inputs.data();  // (t, x, 1)
    fill_inputs(tile, n, inputs);
    const Embeddings embeddings = embed(n, tile.condition, tile.t, nullptr, gradient, scratch);

    for (std::int64_t l = 0; l <= last; ++l) {
      T* z = plane(l, kValue);
      forward(l, n, l == 0 ? inputs : plane(l - 1, kValue), l == 0 ? x_stride : strides_[l - 1], z, strides_[l], true,
              embeddings);
      activate(l, n * strides_[l], z, z, gradient ? plane(l, kD1) : nullptr, nullptr, nullptr);
      if (adds_input(l)) add(n * strides_[l], plane(l - 1, kValue), z);
    }
    const std::int64_t score_stride = output_layer().output_stride;
    T* score = scratch.outputs.data();
    forward(last + 1, n, plane(last, kValue), strides_[last], score, score_stride, true, embeddings);

    double sum = 0;
    for (std::int64_t r = 0; r < n; ++r) {
      sum += misfit(tile, r, scale, score + r * score_stride, score + r * score_stride);
    }
    if (!gradient) return sum;

    const EmbeddingBars bars = begin_bars(n, false, scratch);
    T* p = has_skips_ ? scratch.adjoint.reserve(n * widest_) : nullptr;
    for (std::int64_t l = last + 1; l > 0; --l) {
      const T* zeta = l > last ? score : plane(l, kZeta);
      const std::int64_t stride = l > last ? score_stride : strides_[l];
      add_weights(l, n, zeta, stride, plane(l - 1, kValue), gradient);
      add_bias(l, n, zeta, stride, gradient);
      add_embeddings(l, n, zeta, stride, embeddings, bars, gradient);
      if (p) {
        reverse(l, n, zeta, stride, p, strides_[l - 1], {}, l <= last && adds_input(l));
        primitives_.multiply(n * strides_[l - 1], plane(l - 1, kD1), p, plane(l - 1, kZeta));
      } else {
        reverse(l, n, zeta, stride, plane(l - 1, kZeta), strides_[l - 1], {plane(l - 1, kD1)});
      }
    }
    add_embeddings(0, n, plane(0, kZeta), strides_[0], embeddings, bars, gradient);
    add_first_layer(n, inputs, plane(0, kZeta), gradient);
    branches_back(n, bars, nullptr, scratch, gradient);
    return sum;
  }

  double residual_tile(const CollocationChunk<T>& tile, std::int64_t n, double scale, ThreadScratch<T>& scratch,
                       T* gradient) const {
    const std::int64_t d = dimension(), streams = d + 2, last = hidden() - 1, x_stride = row_size();
    // A layer's planes: z of every stream → σ′, σ′_i, σ′_𝒜, and h of every stream.
    T* planes = scratch.planes.data();
    const auto z_planes = [&](std::int64_t l) {
      T* p = planes;
      for (std::int64_t m = 0; m < l; ++m) p += 2 * streams * n * strides_[m];
      return p;
    };
    const auto h_planes = [&](std::int64_t l) { return z_planes(l) + streams * n * strides_[l]; };
    T* bar = planes + 2 * streams * n * units_;
    T* other = bar + streams * n * widest_;
    T* d2 = other + streams * n * widest_;
    T* d3 = d2 + n * widest_;

    T* half_g2 = scratch.half_g2.data();
    T* inputs = scratch.inputs.data();  // (τ, C x, 1), (e_i, 0), (𝒜(τ, C x), 0)
    std::fill_n(inputs, streams * n * x_stride, T(0));
    T* times = scratch.times.reserve(2 * n);  // τ, and 𝒜τ
    const ResidualCoefficients<T>* c = network_rows(tile, n, inputs, times, scratch);
    for (std::int64_t r = 0; r < n; ++r) {
      half_g2[r] = c[r].curvature;
      const T* x = inputs + r * x_stride + times_;
      T* operator_row = inputs + ((d + 1) * n + r) * x_stride;  // h_𝒜
      if (times_ > 0) operator_row[0] = times[n + r];
      for (std::int64_t i = 0; i < d; ++i) {
        operator_row[times_ + i] = c[r].along * x[i];
        inputs[((i + 1) * n + r) * x_stride + times_ + i] = T(1);
      }
    }
    const Embeddings embeddings = embed(n, tile.condition, times, times + n, gradient, scratch);
    const Embeddings along{nullptr, embeddings.time ? time_branch_.derivative(scratch.time) : nullptr};  // 𝒜e

    for (std::int64_t l = 0; l <= last; ++l) {
      const T* a = l == 0 ? inputs : h_planes(l - 1);
      const std::int64_t a_stride = l == 0 ? x_stride : strides_[l - 1], plane = n * strides_[l];
      T* z = z_planes(l);
      T* h = h_planes(l);
      const bool value = l < last || with_form_;  // whether h is needed, beside its derivatives
      forward(l, n, a, a_stride, z, strides_[l], true, embeddings);
      const std::int64_t without = embedded(l) > 0 ? d : d + 1;  // streams that the embedding is not part of
      forward(l, without * n, a + n * a_stride, a_stride, z + plane, strides_[l], false, {});
      if (embedded(l) > 0) {
        forward(l, n, a + (d + 1) * n * a_stride, a_stride, z + (d + 1) * plane, strides_[l], false, along);
      }
      activate(l, plane, z, value ? h : nullptr, z, d2, gradient ? d3 : nullptr);
      rules_.residual_forward(n, strides_[l], d, half_g2, z, h, d2, gradient ? d3 : nullptr);
      if (adds_input(l)) {
        const std::int64_t first = value ? 0 : plane;
        add(streams * plane - first, h_planes(l - 1) + first, h + first);
      }
    }

    const std::int64_t plane = n * strides_[last];
    const T* v = output_layer().rows.data();
    T* phi = scratch.outputs.data();  // ∂_iΦ and 𝒜Φ [1 + d][n]
    T* value_seeds = phi + (d + 1) * n;
    T* seeds = value_seeds + n;
    primitives_.dots((d + 1) * n, strides_[last], 1, h_planes(last) + plane, strides_[last], v, strides_[last], nullptr,
                     phi, 1);
    const std::int64_t top = last + 1;
    add_dots(n, output_layer().time, along.time, time_branch_.stride(), phi + d * n);
    if (with_form_) output_values(n, h_planes(last), embeddings, value_seeds);  // Φ, then its seed
    double sum = 0;
    for (std::int64_t r = 0; r < n; ++r) {
      double squares = 0;
      for (std::int64_t i = 0; i < d; ++i)
        squares += static_cast<double>(phi[i * n + r]) * static_cast<double>(phi[i * n + r]);
      const double gradient_squares = static_cast<double>(c[r].gradient);
      double residual = static_cast<double>(phi[d * n + r]) +
                        static_cast<double>(c[r].constant) * static_cast<double>(d) - gradient_squares * squares;
      if (with_form_) {
        double input_squares = 0;
        for (std::int64_t i = 0; i < d; ++i) {
          const double x = static_cast<double>(inputs[r * x_stride + times_ + i]);
          input_squares += x * x;
        }
        residual += static_cast<double>(c[r].square) * input_squares +
                    static_cast<double>(c[r].value) * static_cast<double>(value_seeds[r]);
      }
      sum += residual * residual;
      const double seed = scale * residual;
      for (std::int64_t i = 0; i < d; ++i) {
        seeds[i * n + r] = static_cast<T>(-2 * gradient_squares * static_cast<double>(phi[i * n + r]) * seed);
      }
      seeds[d * n + r] = static_cast<T>(seed);
      value_seeds[r] = static_cast<T>(static_cast<double>(c[r].value) * seed);
    }
    if (!gradient) return sum;

    if (with_form_) {
      add_weights(last + 1, streams * n, value_seeds, 1, h_planes(last), gradient);
      add_bias(last + 1, n, value_seeds, 1, gradient);
    } else {
      add_weights(last + 1, (d + 1) * n, seeds, 1, h_planes(last) + plane, gradient);
    }
    rules_.residual_reverse_last(n, strides_[last], d, half_g2, z_planes(last), seeds,
                                 with_form_ ? value_seeds : nullptr, v, bar);
    const EmbeddingBars bars = begin_bars(n, false, scratch), rate_bars = begin_bars(n, true, scratch);
    if (with_form_) add_embeddings(top, n, value_seeds, 1, embeddings, bars, gradient);
    add_embeddings(top, n, seeds + d * n, 1, along, rate_bars, gradient);
    T* kept = has_skips_ ? scratch.adjoint.reserve(streams * n * widest_) : nullptr;  // the derivatives by h
    if (adds_input(last)) {
      for (std::int64_t r = 0; r < streams * n; ++r) {
        const T seed = value_seeds[r];
        for (std::int64_t j = 0; j < strides_[last]; ++j) kept[r * strides_[last] + j] = seed * v[j];
      }
    }
    for (std::int64_t l = last; l > 0; --l) {
      const std::int64_t bar_plane = n * strides_[l], below = streams * n * strides_[l - 1];
      add_weights(l, streams * n, bar, strides_[l], h_planes(l - 1), gradient);
      add_bias(l, n, bar, strides_[l], gradient);
      add_embeddings(l, n, bar, strides_[l], embeddings, bars, gradient);
      add_embeddings(l, n, bar + (d + 1) * bar_plane, strides_[l], along, rate_bars, gradient);
      reverse(l, streams * n, bar, strides_[l], other, strides_[l - 1]);
      if (adds_input(l)) add(below, kept, other);
      if (adds_input(l - 1)) std::copy_n(other, below, kept);
      rules_.residual_reverse(n, strides_[l - 1], d, half_g2, z_planes(l - 1), other);
      std::swap(bar, other);
    }
    add_embeddings(0, n, bar, strides_[0], embeddings, bars, gradient);
    add_embeddings(0, n, bar + (d + 1) * n * strides_[0], strides_[0], along, rate_bars, gradient);
    add_first_layer(streams * n, inputs, bar, gradient);
    branches_back(n, bars, rate_bars.time, scratch, gradient);
    return sum;
  }

  Architecture architecture_;
  ForwardSde sde_;
  bool with_form_;
  std::int64_t times_;  // how many of the first inputs are a raw time: 1, or 0
  bool has_skips_;
  PackedBranch<T> condition_branch_, time_branch_;
  const MlpPrimitives<T>& primitives_;
  const LossRules<T>& rules_;
  std::vector<PackedLayer<T>> layers_;
  AlignedMemory<T> score_rows_;        // W_1[:, x]ᵀ [d, stride]
  std::vector<std::int64_t> strides_;  // of the hidden layers' planes
  std::vector<GradientBlock> blocks_;
  std::int64_t units_ = 0, widest_ = 0, planes_size_ = 0;
  std::int64_t condition_gradient_ = 0, time_gradient_ = 0,
               gradient_size_ = 0;  // where a chunk's gradient has those of the branches
  std::int64_t denoising_rows_ = 0, residual_rows_ = 0;
};

// How a batch is cut: by its size and the architecture alone, whole tiles.
struct Chunks {
  std::int64_t points, size, count;

  Chunks(std::int64_t n, std::int64_t rows, std::int64_t gradient_bytes) : points(n) {
    const std::int64_t most = std::clamp<std::int64_t>(gradients_bytes / gradient_bytes, 8, most_chunks);
    size = std::max(chunk_points, (n + most - 1) / most);
    size = (size + rows - 1) / rows * rows;
    count = (n + size - 1) / size;
  }
  std::int64_t first(std::int64_t chunk) const { return chunk * size; }
  std::int64_t length(std::int64_t chunk) const { return std::min(size, points - chunk * size); }
};

// The chunks of one rank, of the residual's and then the denoising loss's in one sequence, and the ranks that have those
// before and after them, −1 for none. Ranks without chunks are passed over.
struct RankShare {
  std::int64_t first = 0, count = 0;
  int before = -1, after = -1;
  int holders = 0, last = 0;  // how many ranks have chunks, and the last of them

  // Chunks of about equal cost. A point of the residual costs twice what another does; by k probes it takes 6 k + 6
  // products where another takes 6 (operations/LOSS_GRADIENT.md). On which rank a chunk is changes no bits.
  RankShare(const Chunks& residual, const Chunks& denoising, int probes, int rank, int ranks) {
    std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks), 0);
    const std::int64_t of_residual = probes > 0 ? probes + 1 : 2;
    const std::int64_t all = of_residual * residual.points + denoising.points,
                       chunks = residual.count + denoising.count;
    for (std::int64_t k = 0, done = 0; k < chunks; ++k) {
      const std::int64_t cost =
          k < residual.count ? of_residual * residual.length(k) : denoising.length(k - residual.count);
      ++counts[static_cast<std::size_t>((2 * done + cost) * ranks / (2 * all))];  // where its middle lies
      done += cost;
    }
    count = counts[static_cast<std::size_t>(rank)];
    for (int r = 0; r < ranks; ++r) {
      const std::int64_t of_rank = counts[static_cast<std::size_t>(r)];
      if (r < rank) first += of_rank;
      if (of_rank == 0) continue;
      ++holders;
      last = r;
      if (r < rank) before = r;
      if (r > rank && after < 0) after = r;
    }
  }
};

}  // namespace

template <class T>
struct ChunkedLoss<T>::State {
  Sweeps<T> sweeps;
  std::int64_t dimension;
  int threads;
  std::shared_ptr<Ranks> ranks;
  std::vector<ThreadScratch<T>> scratch;
  AlignedMemory<T> gradients;
  AlignedMemory<T> total;  // over the chunks so far, of a rank that others are before
  std::vector<double> sums;
};

template <class T>
ChunkedLoss<T>::ChunkedLoss(const Architecture& architecture, const ForwardSde& sde, int threads,
                            std::shared_ptr<Ranks> ranks)
    : state_(
          new State{Sweeps<T>(architecture, sde), architecture.dimension, threads, std::move(ranks), {}, {}, {}, {}}) {
  state_->scratch.resize(static_cast<std::size_t>(threads));
}
template <class T>
ChunkedLoss<T>::~ChunkedLoss() = default;
template <class T>
ChunkedLoss<T>::ChunkedLoss(ChunkedLoss&&) noexcept = default;

template <class T>
LossSums ChunkedLoss<T>::evaluate(const T* parameters, std::int64_t denoising_points,
                                  const DenoisingSource<T>& denoising, std::int64_t collocation_points,
                                  const CollocationSource<T>& collocation, double residual_weight, T* gradient,
                                  const Divergence& divergence) {
  State& s = *state_;
  const std::int64_t size = s.sweeps.gradient_size(), bytes = size * std::int64_t{sizeof(T)};
  const Chunks a(denoising_points, s.sweeps.denoising_rows(), bytes);
  const Chunks b(collocation_points, s.sweeps.residual_rows(divergence.probes), bytes);
  const RankShare share(b, a, divergence.probes, s.ranks->rank(), s.ranks->size());
  const bool gives = share.count > 0 && share.after >= 0, takes = share.count > 0 && share.before >= 0;
  const bool shared = share.holders > 0 && s.ranks->size() > 1;

  s.sweeps.pack(parameters);
  for (auto& scratch : s.scratch) s.sweeps.prepare(scratch, std::max(a.size, b.size), divergence.probes);
  s.sums.assign(static_cast<std::size_t>(share.count), 0.0);
  T* gradients = gradient ? s.gradients.reserve(std::max<std::int64_t>(1, share.count) * size) : nullptr;

  const double denoising_scale = 2.0 / (static_cast<double>(denoising_points) * static_cast<double>(s.dimension));
  const double residual_scale = 2.0 * residual_weight / static_cast<double>(collocation_points);
  // A residual chunk costs twice a denoising one, or more: these go first, so that threads finish together.
  parallel_for(s.threads, share.count, [&](std::int64_t item, int thread) {
    const FlushDenormals flush;
    const std::int64_t chunk_number = share.first + item;
    ThreadScratch<T>& scratch = s.scratch[static_cast<std::size_t>(thread)];
    T* partial = gradient ? gradients + item * size : nullptr;
    if (partial) std::fill_n(partial, size, T(0));
    double& sum = s.sums[static_cast<std::size_t>(item)];
    if (chunk_number < b.count) {
      const std::int64_t n = b.length(chunk_number);
      const auto chunk = collocation(b.first(chunk_number), n, scratch.points.data());
      Divergence estimate = divergence;
      estimate.first_index += static_cast<std::uint64_t>(b.first(chunk_number));
      sum = s.sweeps.residual(chunk, n, estimate, residual_scale, scratch, residual_weight != 0 ? partial : nullptr);
    } else {
      const std::int64_t n = a.length(chunk_number - b.count);
      const auto chunk = denoising(a.first(chunk_number - b.count), n, scratch.points.data());
      sum = s.sweeps.denoising(chunk, n, denoising_scale, scratch, partial);
    }
  });

  LossSums losses;
  const auto bytes_of_losses = std::as_writable_bytes(std::span(&losses, 1));
  if (takes) s.ranks->receive(bytes_of_losses, share.before);
  for (std::int64_t k = 0; k < share.count; ++k) {
    (share.first + k < b.count ? losses.residual : losses.denoising) += s.sums[static_cast<std::size_t>(k)];
  }
  if (gives) s.ranks->send(bytes_of_losses, share.after);

  if (gradient) {
    if (share.holders == 0) std::fill_n(gradients, size, T(0));
    // What the chunks before come to, or else the first chunk's gradient, takes the others', in their order, one stretch
    // of it a thread at a time.
    T* const total = takes ? s.total.reserve(size) : gradients;
    constexpr std::int64_t stretch = 2048;
    const std::int64_t piece = share.holders > 1 ? (size / (2 * share.holders) / stretch + 1) * stretch : size;
    for (std::int64_t begin = 0; begin < size; begin += piece) {
      const std::int64_t end = std::min(size, begin + piece);
      const std::span<T> numbers(total + begin, total + end);
      if (takes) s.ranks->receive(std::as_writable_bytes(numbers), share.before);
      parallel_for(s.threads, (end - begin + stretch - 1) / stretch, [&](std::int64_t item, int) {
        const std::int64_t first = begin + item * stretch, n = std::min(stretch, end - first);
        for (std::int64_t k = takes ? 0 : 1; k < share.count; ++k) {
          const T* next = gradients + k * size + first;
          for (std::int64_t i = 0; i < n; ++i) total[first + i] += next[i];
        }
      });
      if (gives) s.ranks->send(std::as_bytes(numbers), share.after);
    }
    if (shared) s.ranks->broadcast(std::as_writable_bytes(std::span(total, total + size)), share.last);
    s.sweeps.unpack(total, gradient);
  }
  if (shared) s.ranks->broadcast(bytes_of_losses, share.last);
  if (a.count > 0) losses.denoising /= static_cast<double>(denoising_points) * static_cast<double>(s.dimension);
  if (b.count > 0) losses.residual /= static_cast<double>(collocation_points);
  return losses;
}

template class ChunkedLoss<float>;
template class ChunkedLoss<double>;

namespace {

template <class T>
class CpuLoss : public LossOperator<T> {
 public:
  CpuLoss(const Architecture& architecture, const ForwardSde& sde, int threads)
      : dimension_(architecture.dimension), form_(architecture.form), sde_(sde), loss_(architecture, sde, threads) {}

  void evaluate(View<const T> parameters, const DenoisingBatch<T>& denoising, const CollocationBatch<T>& collocation,
                double residual_weight, View<double> values, View<T> gradient) override {
    const std::int64_t d = dimension_;
    const LossSums sums = loss_.evaluate(
        parameters.data, denoising.t.rows,
        [&](std::int64_t first, std::int64_t n, T* storage) {
          const DenoisingChunk<T> chunk{
              denoising.t.data + first, denoising.x.data + first * d, denoising.target.data + first * d,
              denoising.weight ? denoising.weight.data + first : nullptr, rows(denoising.condition, first)};
          return form_.plain() ? chunk : of_network(chunk, n, storage);
        },
        collocation.t.rows,
        [&](std::int64_t first, std::int64_t, T*) {
          return CollocationChunk<T>{collocation.t.data + first, collocation.x.data + first * d,
                                     rows(collocation.condition, first)};
        },
        residual_weight, gradient.data, collocation.divergence);
    values.data[0] = sums.denoising;
    values.data[1] = sums.residual;
    values.data[2] = sums.denoising + residual_weight * sums.residual;
  }

 private:
  DenoisingChunk<T> of_network(const DenoisingChunk<T>& points, std::int64_t n, T* storage) const {
    const std::int64_t d = dimension_;
    const SdeFormulas formulas = sde_.formulas();
    T *t = storage, *weight = t + n, *x = weight + n, *target = x + n * d;
    for (std::int64_t r = 0; r < n; ++r) {
      network_point(form_, formulas, static_cast<int>(d), points.t[r], points.x + r * d, points.target + r * d,
                    points.weight ? points.weight[r] : T(1), t[r], x + r * d, target + r * d, weight[r]);
    }
    return {t, x, target, weight, points.condition};
  }
  static const T* rows(const View<const T>& view, std::int64_t first) {
    return view ? view.data + first * view.columns : nullptr;
  }

  std::int64_t dimension_;
  NetworkForm form_;
  ForwardSde sde_;
  ChunkedLoss<T> loss_;
};

}  // namespace

template <class T>
std::unique_ptr<LossOperator<T>> make_loss(const Architecture& architecture, const ForwardSde& sde, int threads) {
  return std::make_unique<CpuLoss<T>>(architecture, sde, threads);
}
template std::unique_ptr<LossOperator<float>> make_loss<float>(const Architecture&, const ForwardSde&, int);
template std::unique_ptr<LossOperator<double>> make_loss<double>(const Architecture&, const ForwardSde&, int);

}  // namespace fokker::cpu
