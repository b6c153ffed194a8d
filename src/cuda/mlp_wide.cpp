// Fields of a multilayer perceptron of any width up to 4096, and of every one in double: the sweeps of the CPU backend
// (cpu/mlp.cpp has their formulas) over chunks of rows, each product of matrices by cuBLAS and everything between two
// products by one launch (kernels/wide.cu).
//
// Path of a chunk's rows: forward leaves σ′ and σ″ of every hidden layer in the workspace, reverse turns σ″ into κ in
// place, and a product of the Hessian and a vector turns κ into κ ⊙ ż. Tangents along an axis start from a column of
// W_1 that all rows share. All d tangents of a Hessian are alive together, as d times as many rows of a d-th of the
// points.
//
// The matrices between hidden layers are multiplied in the queue's precision where T is float: in fp32, or with fp16
// halves side by side, so that one product over a depth of three widths adds high · high, high · low and low · high.
// The layers at both ends are fp32 whatever the precision: what enters and leaves is not rounded, and they are thin.
// The launch that makes a row finds its power of two; the launch that takes the product undoes it.
//
// Cost: of a score two products a hidden matrix, of each tangent one; three times as deep in split, on tensor cores.
// The workspace is a chunk's, whatever the number of points.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

#include "cuda/device_field.hpp"
#include "cuda/gemm.hpp"
#include "cuda/runtime.hpp"
#include "fokker/error.hpp"
#include "kernels/wide_launch.hpp"

namespace fokker::cuda {
namespace {

constexpr std::int64_t kWidest = 4096;
constexpr std::size_t kWorkspaceBytes = std::size_t{48} << 20;  // with that of cuBLAS
// Where even the fewest rows take more than that, they take more: products of fewer would leave the device idle.
constexpr std::int64_t kFewestRows = 256, kMostRows = 1 << 16;
constexpr std::int64_t kMostHessian = 64;  // dimensions, as the public Fields

std::int64_t padded(std::int64_t n) {
  return (n + kernels::wide_padding - 1) / kernels::wide_padding * kernels::wide_padding;
}

// Parts of one allocation, each from a multiple of 256 bytes. Without memory it counts.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}
  template <class V>
  V* take(std::int64_t count) {
    char* const at = base_ ? base_ + used_ : nullptr;
    used_ += (static_cast<std::size_t>(count) * sizeof(V) + 255) / 256 * 256;
    return reinterpret_cast<V*>(at);
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

template <class T>
class WideField final : public DeviceField<T> {
 public:
  WideField(const Queue& queue, const Mlp& mlp, const ForwardSde& sde, std::int64_t rows)
      : stream_(queue.stream),
        precision_(queue.precision),
        architecture_(mlp.architecture),
        sde_(sde),
        d_(mlp.architecture.dimension),
        potential_(mlp.architecture.output == Output::potential),
        gemm_(queue.stream) {
    for (std::size_t l = 0; l < architecture_.hidden.size(); ++l) {
      if (architecture_.hidden[l] <= kWidest) continue;
      throw Error(fmt::format("hidden layer {} has {} units; the CUDA backend takes up to {}", l + 1,
                              architecture_.hidden[l], kWidest));
    }
    if constexpr (std::is_same_v<T, float>) {
      operand_.parts = precision_ == Precision::split ? 3 : precision_ == Precision::half ? 1 : 0;
    }
    pack(mlp);
    if (rows == 0) {
      const std::size_t available = kWorkspaceBytes - gemm_.workspace_bytes();
      rows = static_cast<std::int64_t>(available / lay_out(nullptr, kFewestRows)) * kFewestRows;
      rows = std::clamp(rows, kFewestRows, kMostRows);
    }
    rows_ = potential_ ? std::max(rows, std::min(d_, kMostHessian)) : rows;
    workspace_.reserve(lay_out(nullptr, rows_));
    lay_out(workspace_.template as<char>(), rows_);
  }

  std::int64_t dimension() const override { return d_; }
  std::size_t workspace_bytes() const override { return workspace_.bytes() + gemm_.workspace_bytes(); }

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& estimate) override {
    check_precision(precision_, outputs);
    const bool streams = potential_ && outputs.hessian;
    const auto at = [](const View<T>& view, std::int64_t i) { return view ? view.data + i : nullptr; };
    for_chunks(points, streams ? std::max<std::int64_t>(1, rows_ / d_) : rows_,
               [&](std::int64_t i, const Chunk& chunk) {
                 const Wanted out{at(outputs.value, i),
                                  at(outputs.dt, i),
                                  at(outputs.score, i * d_),
                                  at(outputs.divergence, i),
                                  at(outputs.hessian, i * d_ * d_),
                                  at(outputs.residual, i)};
                 if (potential_) {
                   potential(chunk, out, estimate);
                 } else {
                   score_net(chunk, out, estimate);
                 }
               });
  }

  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) override {
    check_precision<T>(precision_, true);
    for_chunks(points, rows_, [&](std::int64_t i, const Chunk& chunk) {
      forward(chunk, true, potential_);
      if (potential_) reverse(chunk.n, true);
      input(chunk.n, nullptr, 0, direction.data + i * d_);
      const T* const end = tangent(chunk.n, 1, along_input(chunk.n), [&](std::int64_t l, auto& rule) {
        if (!potential_) return;
        rule.curvature = second_[l];
        if (l + 1 < hidden()) {
          rule.kept = second_[l];
        } else {
          rule.factor = second_[l];  // γ_L, from where the adjoint sweep begins
          rule.operand = operand_where(hidden() > 1);
        }
      });
      if (potential_) {
        gradient(chunk.n, adjoint(chunk.n, end));
      } else {
        output(chunk.n, end);
      }
      columns(chunk.n, d_, potential_ ? 1 : 0, nullptr, product.data + i * d_);
    });
  }

 private:
  struct Layer {
    std::int64_t inputs, outputs;  // [outputs, inputs] as stored, padded
    const T* weights = nullptr;    // of the first and last layer, and of those between in T's own precision
    const T* bias = nullptr;
    kernels::Half* forward = nullptr;  // of those between, in fp16
    kernels::Half* reverse = nullptr;
    float unscale = 1;  // of their power of two
  };
  struct Chunk {
    std::int64_t n;
    const T* t;
    std::int64_t t_stride;
    const T* x;
    std::int64_t first;  // index of its first point
  };
  struct Wanted {
    T *value, *dt, *score, *divergence, *hessian, *residual;
  };

  std::int64_t hidden() const { return static_cast<std::int64_t>(architecture_.hidden.size()); }
  int width(std::int64_t l) const { return static_cast<int>(architecture_.hidden[l]); }
  int stride(std::int64_t l) const { return static_cast<int>(layers_[l].outputs); }
  int input_stride() const { return static_cast<int>(layers_.front().inputs); }
  int output_stride() const { return static_cast<int>(padded(std::max(1 + d_, architecture_.outputs(hidden())))); }
  kernels::HalfOperand operand_where(bool wanted) const { return wanted ? operand_ : kernels::HalfOperand{}; }

  // ---- parameters ----

  void pack(const Mlp& mlp) {
    const std::int64_t n_layers = architecture_.layers();
    std::vector<T> all;
    std::vector<std::size_t> weights(n_layers), bias(n_layers);
    const auto begin_part = [&] {
      all.resize((all.size() + 63) / 64 * 64);
      return all.size();
    };
    for (std::int64_t l = 0; l < n_layers; ++l) {
      const std::int64_t inputs = architecture_.inputs(l), outputs = architecture_.outputs(l);
      Layer layer{.inputs = padded(inputs), .outputs = l + 1 < n_layers ? padded(outputs) : outputs};
      std::vector<T> w(layer.outputs * layer.inputs);
      const double* from = mlp.parameters.data() + architecture_.weight_offset(l);
      for (std::int64_t j = 0; j < outputs; ++j) {
        for (std::int64_t i = 0; i < inputs; ++i) w[j * layer.inputs + i] = static_cast<T>(from[j * inputs + i]);
      }
      if (l == 0) {
        columns_offset_ = begin_part();
        for (std::int64_t i = 0; i < inputs; ++i) {
          for (std::int64_t j = 0; j < layer.outputs; ++j) all.push_back(w[j * layer.inputs + i]);
        }
      }
      if (operand_.parts > 0 && l > 0 && l + 1 < n_layers) {
        pack_halves(layer, w);
      } else {
        weights[l] = begin_part();
        all.insert(all.end(), w.begin(), w.end());
      }
      bias[l] = begin_part();
      all.resize(all.size() + layer.outputs);
      const double* b = mlp.parameters.data() + architecture_.bias_offset(l);
      for (std::int64_t j = 0; j < outputs; ++j) all[bias[l] + j] = static_cast<T>(b[j]);
      layers_.push_back(layer);
    }
    parameters_ = upload(all);
    const T* const base = parameters_.template as<T>();
    for (std::int64_t l = 0; l < n_layers; ++l) {
      layers_[l].weights = layers_[l].forward ? nullptr : base + weights[l];
      layers_[l].bias = base + bias[l];
    }
    w1_columns_ = base + columns_offset_;
  }

  // The largest magnitude comes into [2^8, 2^9), as that of a row of the left operand.
  void pack_halves(Layer& layer, const std::vector<T>& w) {
    if constexpr (std::is_same_v<T, float>) {
      float largest = 0;
      for (const float v : w) largest = std::max(largest, std::fabs(v));
      const int exponent = 8 - std::max(largest > 0 ? std::ilogb(largest) : 0, -100);
      layer.unscale = std::ldexp(1.0f, -exponent);
      const std::size_t bytes = w.size() * operand_.parts * sizeof(kernels::Half);
      halves_.emplace_back(bytes);
      layer.forward = halves_.back().template as<kernels::Half>();
      if (potential_) {
        halves_.emplace_back(bytes);
        layer.reverse = halves_.back().template as<kernels::Half>();
      }
      const DeviceMemory plain = upload(w);
      check(kernels::launch_pack({layer.outputs, layer.inputs, plain.template as<float>(), std::ldexp(1.0f, exponent),
                                  operand_.parts, layer.forward, layer.reverse},
                                 stream_),
            "launch_pack");
      check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");  // `plain` goes
    }
  }

  // ---- workspace ----

  std::size_t lay_out(char* base, std::int64_t rows) {
    Arena arena(base);
    std::int64_t widest = 0;
    for (std::int64_t l = 0; l < hidden(); ++l) widest = std::max<std::int64_t>(widest, stride(l));
    input_ = arena.take<T>(rows * input_stride());
    output_ = arena.take<T>(rows * output_stride());
    one_ = arena.take<T>(rows * widest);
    other_ = arena.take<T>(rows * widest);
    trace_ = arena.take<T>(rows);
    first_.assign(hidden(), nullptr);
    second_.assign(hidden(), nullptr);
    for (std::int64_t l = 0; l < hidden(); ++l) {
      first_[l] = arena.take<T>(rows * stride(l));
      if (potential_) second_[l] = arena.take<T>(rows * stride(l));
    }
    if (operand_.parts > 0) {
      operand_.halves = arena.take<kernels::Half>(rows * operand_.parts * widest);
      operand_.unscale = arena.take<float>(rows);
    }
    return arena.used();
  }

  template <class Visit>
  void for_chunks(const Points<T>& points, std::int64_t rows, const Visit& visit) {
    const std::int64_t t_stride = points.t.rows == 1 ? 0 : 1;
    for (std::int64_t i = 0; i < points.x.rows; i += rows) {
      visit(i, Chunk{std::min(rows, points.x.rows - i), points.t.data + i * t_stride, t_stride, points.x.data + i * d_,
                     i});
    }
  }

  // ---- fields of a chunk ----

  void potential(const Chunk& chunk, const Wanted& out, const Divergence& estimate) {
    const std::int64_t n = chunk.n;
    const bool curvature = out.divergence || out.residual || out.hessian;
    const T* const h = forward(chunk, out.score || out.dt || curvature, curvature);
    if (out.value) {
      output(n, h);
      columns(n, 1, 0, layers_.back().bias, out.value);
    }
    if (!out.score && !out.dt && !curvature) return;

    const T* const delta = reverse(n, curvature);
    if (out.score || out.dt || out.residual) gradient(n, delta);
    if (out.score) columns(n, d_, 1, nullptr, out.score);
    if (out.dt) columns(n, 1, 0, nullptr, out.dt);
    if (out.divergence || out.residual) {
      T* const trace = out.divergence ? out.divergence : trace_;
      for_directions(chunk, estimate, [&](std::int64_t, const kernels::Tangents<T>& start, bool begin, T weight) {
        tangent(n, 1, start, [&](std::int64_t l, auto& rule) {
          rule.curvature = second_[l];
          rule.trace = trace;
          rule.weight = weight;
          rule.begin = begin && l == 0;
          if (l + 1 == hidden()) rule.to = nullptr;
        });
      });
      if (out.residual) {
        check(kernels::launch_residual<T>({n, static_cast<int>(d_), output_stride(), output_, trace, chunk.t,
                                           chunk.t_stride, chunk.x, sde_, out.residual},
                                          stream_),
              "launch_residual");
      }
    }
    if (out.hessian) {
      tangent(n, d_, {axis(0), 0, stride(0), nullptr}, [&](std::int64_t l, auto& rule) {
        check(kernels::launch_hessian_sum<T>(
                  {n, static_cast<int>(d_), width(l), stride(l), rule.tangents, second_[l], l == 0, out.hessian},
                  stream_),
              "launch_hessian_sum");
        if (l + 1 == hidden()) rule.to = nullptr;
      });
    }
  }

  void score_net(const Chunk& chunk, const Wanted& out, const Divergence& estimate) {
    const std::int64_t n = chunk.n;
    const T* const h = forward(chunk, out.divergence || out.hessian, false);
    if (out.score) {
      output(n, h);
      columns(n, d_, 0, layers_.back().bias, out.score);
    }
    const auto along = [&](const kernels::Tangents<T>& start, kernels::JacobianArguments<T> result) {
      output(n, tangent(n, 1, start, [](std::int64_t, auto&) {}));
      result.rows = n;
      result.dimension = static_cast<int>(d_);
      result.stride = output_stride();
      result.column = output_;
      check(kernels::launch_jacobian<T>(result, stream_), "launch_jacobian");
    };
    const bool exact = estimate.probes == 0;
    if (out.divergence) {
      for_directions(chunk, estimate, [&](std::int64_t k, const kernels::Tangents<T>& start, bool begin, T weight) {
        along(start, {.axis = static_cast<int>(k),
                      .directions = exact ? nullptr : input_,
                      .directions_stride = input_stride(),
                      .divergence = out.divergence,
                      .weight = weight,
                      .begin = begin,
                      .jacobian = exact ? out.hessian : nullptr});
      });
    }
    if (out.hessian && !(out.divergence && exact)) {
      for (std::int64_t k = 0; k < d_; ++k) {
        along({axis(k), 0, 0, nullptr}, {.axis = static_cast<int>(k), .jacobian = out.hessian});
      }
    }
  }

  // The tangents whose quadratic forms add up to a trace, all axes or all probes: visit(number, ż_1, whether it is the
  // first, its weight).
  template <class Visit>
  void for_directions(const Chunk& chunk, const Divergence& estimate, const Visit& visit) {
    if (estimate.probes == 0) {
      for (std::int64_t k = 0; k < d_; ++k) visit(k, kernels::Tangents<T>{axis(k), 0, 0, nullptr}, k == 0, T(1));
    }
    for (int k = 0; k < estimate.probes; ++k) {
      check(kernels::launch_probe<T>({chunk.n, static_cast<int>(d_), input_stride(), estimate,
                                      estimate.first_index + static_cast<std::uint64_t>(chunk.first), k, input_},
                                     stream_),
            "launch_probe");
      visit(k, along_input(chunk.n), k == 0, T(1) / static_cast<T>(estimate.probes));
    }
  }

  // ---- sweeps ----

  // Returns h_L; leaves σ′ and σ″ where wanted.
  const T* forward(const Chunk& chunk, bool first, bool second) {
    input(chunk.n, chunk.t, chunk.t_stride, chunk.x);
    along_input(chunk.n);
    T* z = one_;
    const float* unscale = nullptr;
    for (std::int64_t l = 0;; ++l) {
      check(kernels::launch_activation<T>(
                architecture_.activation, architecture_.beta,
                {chunk.n, width(l), stride(l), z, layers_[l].bias, unscale, first ? first_[l] : nullptr,
                 second ? second_[l] : nullptr, operand_where(l + 1 < hidden())},
                stream_),
            "launch_activation");
      if (l + 1 == hidden()) return z;
      z = between(chunk.n, l + 1, true, z);
      unscale = operand_.unscale;
    }
  }

  // Returns δ_1; turns σ″ into κ where `curvature`.
  const T* reverse(std::int64_t n, bool curvature) {
    const T* p = layers_.back().weights;
    T* delta = one_;
    for (std::int64_t l = hidden() - 1;; --l) {
      const bool last = l + 1 == hidden();
      check(kernels::launch_reverse<T>(
                {n, width(l), stride(l), p, last ? 0 : stride(l), last ? nullptr : operand_.unscale, first_[l],
                 curvature ? second_[l] : nullptr, nullptr, delta, operand_where(l > 0)},
                stream_),
            "launch_reverse");
      if (l == 0) return delta;
      p = delta = between(n, l, false, delta);
    }
  }

  // From γ_L; κ ⊙ ż stands in place of κ in the layers before. Returns γ_1.
  const T* adjoint(std::int64_t n, const T* gamma) {
    for (std::int64_t l = hidden() - 1; l > 0; --l) {
      T* const p = between(n, l, false, gamma);
      check(kernels::launch_reverse<T>({n, width(l - 1), stride(l - 1), p, stride(l - 1), operand_.unscale,
                                        first_[l - 1], nullptr, second_[l - 1], p, operand_where(l > 1)},
                                       stream_),
            "launch_reverse");
      gamma = p;
    }
    return gamma;
  }

  // From ż_1 through all hidden layers; visit(l, rule) may add to what layer l's launch does with ż_l. Returns what the
  // last one leaves, ḣ_L.
  template <class Visit>
  const T* tangent(std::int64_t n, std::int64_t streams, kernels::Tangents<T> z, const Visit& visit) {
    T* to = one_;
    for (std::int64_t l = 0;; ++l) {
      kernels::TangentArguments<T> rule{.points = n,
                                        .streams = streams,
                                        .width = width(l),
                                        .stride = stride(l),
                                        .tangents = z,
                                        .factor = first_[l],
                                        .curvature = nullptr,
                                        .trace = nullptr,
                                        .weight = 1,
                                        .begin = false,
                                        .kept = nullptr,
                                        .to = to,
                                        .operand = operand_where(l + 1 < hidden())};
      visit(l, rule);
      check(kernels::launch_tangent<T>(rule, stream_), "launch_tangent");
      if (l + 1 == hidden()) return to;
      to = between(n * streams, l + 1, true, to);
      z = {to, stride(l + 1), n * stride(l + 1), operand_.unscale};
    }
  }

  // ---- products ----

  // C = A W_lᵀ or A W_l with the matrix of hidden layer l ≥ 1, from the operand that the launch before left of A where
  // products are in fp16. Returns C, whose rows then still want operand_.unscale.
  T* between(std::int64_t rows, std::int64_t l, bool transposed, const T* a) {
    const Layer& layer = layers_[l];
    T* const c = a == one_ ? other_ : one_;
    const std::int64_t from = transposed ? layer.inputs : layer.outputs;
    const std::int64_t to = transposed ? layer.outputs : layer.inputs;
    if (operand_.parts == 0) {
      gemm_.multiply(Product<T, T>{rows, to, from, a, from, layer.weights, layer.inputs, transposed, c, to});
    } else if constexpr (std::is_same_v<T, float>) {
      const std::int64_t depth = operand_.parts * from;
      const kernels::Half* const b = transposed ? layer.forward : layer.reverse;
      gemm_.multiply(Product<kernels::Half, float>{rows, to, depth, operand_.halves, depth, b,
                                                   transposed ? depth : layer.inputs, transposed, c, to,
                                                   layer.unscale});
    }
    return c;
  }

  // input_ [n, 1 + d] = (t, x), or (0, x) without t.
  void input(std::int64_t n, const T* t, std::int64_t t_stride, const T* x) {
    check(kernels::launch_input<T>({n, static_cast<int>(d_), input_stride(), t, t_stride, x, input_}, stream_),
          "launch_input");
  }

  // one_ = input_ W_1ᵀ.
  kernels::Tangents<T> along_input(std::int64_t n) {
    const Layer& layer = layers_.front();
    gemm_.multiply(Product<T, T>{n, layer.outputs, 1 + d_, input_, layer.inputs, layer.weights, layer.inputs, true,
                                 one_, layer.outputs});
    return {one_, layer.outputs, 0, nullptr};
  }
  // The column of W_1 that x_i goes through.
  const T* axis(std::int64_t i) const { return w1_columns_ + (1 + i) * stride(0); }

  // output_ [n, outputs] = h Wᵀ with the output layer's W.
  void output(std::int64_t n, const T* h) {
    const Layer& layer = layers_.back();
    gemm_.multiply(Product<T, T>{n, layer.outputs, layer.inputs, h, layer.inputs, layer.weights, layer.inputs, true,
                                 output_, output_stride()});
  }

  // output_ [n, 1 + d] = δ_1 W_1.
  void gradient(std::int64_t n, const T* delta) {
    const Layer& layer = layers_.front();
    gemm_.multiply(Product<T, T>{n, 1 + d_, layer.outputs, delta, layer.outputs, layer.weights, layer.inputs, false,
                                 output_, output_stride()});
  }

  // out [n, count] = columns begin … of output_, plus bias.
  void columns(std::int64_t n, std::int64_t count, int begin, const T* bias, T* out) {
    check(kernels::launch_columns<T>({n, static_cast<int>(count), begin, output_stride(), output_, bias, out}, stream_),
          "launch_columns");
  }

  cudaStream_t stream_;
  Precision precision_;
  Architecture architecture_;
  ForwardSde sde_;
  std::int64_t d_;
  bool potential_;
  Gemm gemm_;
  std::vector<Layer> layers_;
  DeviceMemory parameters_;
  std::vector<DeviceMemory> halves_;
  const T* w1_columns_ = nullptr;  // W_1ᵀ [1 + d, stride]
  std::size_t columns_offset_ = 0;

  std::int64_t rows_ = 0;
  DeviceMemory workspace_;
  T *input_ = nullptr, *output_ = nullptr;  // [rows, 1 + d], [rows, max(1 + d, outputs)]
  T *one_ = nullptr, *other_ = nullptr;     // [rows, widest]: what a product reads and what it writes
  T* trace_ = nullptr;                      // [rows]
  std::vector<T*> first_, second_;          // [rows, stride] of each hidden layer: σ′; σ″, κ, κ ⊙ ż in turn
  kernels::HalfOperand operand_;
};

}  // namespace

template <class T>
std::unique_ptr<DeviceField<T>> make_wide_field(const Queue& queue, const Mlp& mlp, const ForwardSde& sde,
                                                std::int64_t rows) {
  return std::make_unique<WideField<T>>(queue, mlp, sde, rows);
}

template std::unique_ptr<DeviceField<float>> make_wide_field(const Queue&, const Mlp&, const ForwardSde&, std::int64_t);
template std::unique_ptr<DeviceField<double>> make_wide_field(const Queue&, const Mlp&, const ForwardSde&,
                                                              std::int64_t);

}  // namespace fokker::cuda
