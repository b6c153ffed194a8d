// Fields of a multilayer perceptron of any width up to 4096, and of every one in double: the sweeps of the CPU backend
// (cpu/mlp.cpp has their formulas) over chunks of rows, each product of matrices by cuBLAS and everything between two
// products by one launch (wide_network.hpp).
//
// A chunk's forward sweep leaves σ′ and σ″ of every hidden layer in the workspace; the reverse sweep turns σ″ into κ in
// place, and a product of the Hessian with a vector turns κ into κ ⊙ ż. Tangents along an axis start from a column of W_1,
// the same for all rows. A Hessian takes its d tangents together: a chunk has a d-th of the points and d rows for each.
//
// A score costs two products a hidden matrix and each tangent one more; in split they are three times as deep, on tensor
// cores. The workspace is that of one chunk, whatever the number of points.
#include <algorithm>
#include <cstddef>
#include <memory>

#include "core/operations.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/wide_network.hpp"

namespace fokker::cuda {
namespace {

template <class T>
class WideField final : public DeviceField<T> {
 public:
  WideField(const Queue& queue, const Mlp& mlp, const ForwardSde& sde, std::int64_t rows)
      : stream_(queue.stream),
        precision_(queue.precision),
        sde_(sde),
        d_(mlp.architecture.dimension),
        potential_(mlp.architecture.output == Output::potential),
        network_(queue, mlp.architecture, potential_, field_budget),
        parameters_(upload(std::vector<T>(mlp.parameters.begin(), mlp.parameters.end()))) {
    if (rows == 0) rows = network_.rows_that_fit([&](std::int64_t n) { return lay_out(nullptr, n); });
    rows_ = potential_ ? std::max(rows, std::min(d_, largest_hessian)) : rows;
    workspace_.reserve(lay_out(nullptr, rows_));
    lay_out(workspace_.template as<char>(), rows_);
    network_.use(parameters_.template as<T>());
  }

  std::int64_t dimension() const override { return d_; }
  std::size_t workspace_bytes() const override { return workspace_.bytes() + network_.workspace_bytes(); }

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& estimate) override {
    check_precision(precision_, outputs);
    const bool streams = potential_ && outputs.hessian;
    const auto from = [](const View<T>& view, std::int64_t i) { return view ? view.data + i : nullptr; };
    for_chunks(points, streams ? std::max<std::int64_t>(1, rows_ / d_) : rows_,
               [&](std::int64_t i, const Chunk& chunk) {
                 const Wanted out{from(outputs.value, i),
                                  from(outputs.dt, i),
                                  from(outputs.score, i * d_),
                                  from(outputs.divergence, i),
                                  from(outputs.hessian, i * d_ * d_),
                                  from(outputs.residual, i)};
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
      forward(chunk, true, potential_, false);
      if (potential_) reverse(chunk.n, true, false);
      input(chunk.n, nullptr, 0, direction.data + i * d_);
      tangent(chunk.n, 1, along_input(chunk.n), [&](std::int64_t l, auto& rule) {
        if (!potential_) return;
        rule.curvature = d2_[l];
        if (l != last()) {
          rule.curved = d2_[l];
        } else {
          rule.factor = d2_[l];  // γ_L, from where the adjoint sweep begins
          rule.operand = network_.operand(l);
        }
      });
      if (potential_) network_.adjoint(chunk.n, ping_pong_, d1_, d2_, [](std::int64_t) {});
      columns(chunk.n, d_, {network_.score_derivative(chunk.n, ping_pong_, output_), nullptr}, product.data + i * d_);
    });
  }

 private:
  struct Chunk {
    std::int64_t n;
    const T* t;
    std::int64_t t_stride;
    const T* x;
    const T* condition;  // [n, c], or nullptr where there is none
    std::int64_t first;  // index of its first point
  };
  struct Wanted {
    T *value, *dt, *score, *divergence, *hessian, *residual;
  };

  std::int64_t last() const { return network_.hidden() - 1; }

  std::size_t lay_out(char* base, std::int64_t rows) {
    Arena arena(base);
    input_ = arena.take<T>(rows * network_.input_stride());
    output_ = arena.take<T>(rows * network_.output_stride());
    ping_pong_ = network_.take_ping_pong(arena, rows);
    trace_ = arena.take<T>(rows);
    d1_ = network_.take_planes(arena, rows);
    if (potential_) d2_ = network_.take_planes(arena, rows);
    network_.take_own(arena, rows, false);
    return arena.used();
  }

  template <class Visit>
  void for_chunks(const Points<T>& points, std::int64_t rows, const Visit& visit) {
    const std::int64_t t_stride = points.t.rows == 1 ? 0 : 1;
    for (std::int64_t i = 0; i < points.x.rows; i += rows) {
      visit(i, Chunk{std::min(rows, points.x.rows - i), points.t.data + i * t_stride, t_stride, points.x.data + i * d_,
                     points.condition ? points.condition.data + i * points.condition.columns : nullptr, i});
    }
  }

  // ---- fields of a chunk ----

  void potential(const Chunk& chunk, const Wanted& out, const Divergence& estimate) {
    const std::int64_t n = chunk.n;
    const bool curvature = out.divergence || out.residual || out.hessian;
    const bool by_time = out.dt || out.residual;
    forward(chunk, out.score || by_time || curvature, curvature, by_time);
    if (out.value) {
      network_.outputs(n, ping_pong_[last()], output_);
      columns(n, 1, {output_, network_.bias(network_.hidden())}, out.value);
    }
    if (!out.score && !out.dt && !curvature) return;

    reverse(n, curvature, by_time);
    if (out.score || by_time) score(n, out.score);
    if (by_time) network_.time_derivative(n, output_);
    if (out.dt) columns(n, 1, {output_, nullptr}, out.dt);
    if (out.divergence || out.residual) {
      T* const trace = out.divergence ? out.divergence : trace_;
      for_directions(chunk, estimate, [&](std::int64_t, const kernels::Tangents<T>& start, bool begin, T weight) {
        tangent(n, 1, start, [&](std::int64_t l, auto& rule) {
          rule.curvature = d2_[l];
          rule.trace = trace;
          rule.weight = weight;
          rule.begin = begin && l == 0;
          if (l == last()) rule.to = nullptr;
        });
      });
      if (out.residual) {
        check(kernels::launch_residual<T>({n, static_cast<int>(d_), network_.output_stride(), output_, trace, chunk.t,
                                           chunk.t_stride, chunk.x, sde_.formulas(), out.residual},
                                          stream_),
              "launch_residual");
      }
    }
    if (out.hessian) {
      tangent(n, d_, network_.axis_tangents(0), [&](std::int64_t l, auto& rule) {
        check(kernels::launch_hessian_sum<T>(
                  {n, static_cast<int>(d_), rule.width, rule.stride, rule.tangents, d2_[l], l == 0, out.hessian},
                  stream_),
              "launch_hessian_sum");
        if (l == last()) rule.to = nullptr;
      });
    }
  }

  void score_net(const Chunk& chunk, const Wanted& out, const Divergence& estimate) {
    const std::int64_t n = chunk.n;
    forward(chunk, out.divergence || out.hessian, false, false);
    if (out.score) score(n, out.score);
    const auto along = [&](const kernels::Tangents<T>& start, kernels::JacobianArguments<T> result) {
      tangent(n, 1, start, [](std::int64_t, auto&) {});
      network_.output(n, ping_pong_[last()], output_);
      result.rows = n;
      result.dimension = static_cast<int>(d_);
      result.stride = network_.output_stride();
      result.column = output_;
      check(kernels::launch_jacobian<T>(result, stream_), "launch_jacobian");
    };
    const bool exact = estimate.probes == 0;
    if (out.divergence) {
      for_directions(chunk, estimate, [&](std::int64_t k, const kernels::Tangents<T>& start, bool begin, T weight) {
        along(start, {.axis = static_cast<int>(k),
                      .directions = exact ? nullptr : input_,
                      .directions_stride = network_.input_stride(),
                      .divergence = out.divergence,
                      .weight = weight,
                      .begin = begin,
                      .jacobian = exact ? out.hessian : nullptr});
      });
    }
    if (out.hessian && !(out.divergence && exact)) {
      for (std::int64_t k = 0; k < d_; ++k) {
        along(network_.axis_tangents(k), {.axis = static_cast<int>(k), .jacobian = out.hessian});
      }
    }
  }

  // Calls visit(number, ż_1, whether it is the first, weight) for each direction whose quadratic form is a part of the
  // trace: all axes, or all probes.
  template <class Visit>
  void for_directions(const Chunk& chunk, const Divergence& estimate, const Visit& visit) {
    if (estimate.probes == 0) {
      for (std::int64_t k = 0; k < d_; ++k) visit(k, network_.axis_tangents(k), k == 0, T(1));
    }
    for (int k = 0; k < estimate.probes; ++k) {
      check(kernels::launch_probe<T>({chunk.n, static_cast<int>(d_), network_.input_stride(), estimate,
                                      estimate.first_index + static_cast<std::uint64_t>(chunk.first), k, input_},
                                     stream_),
            "launch_probe");
      visit(k, along_input(chunk.n), k == 0, T(1) / static_cast<T>(estimate.probes));
    }
  }

  // ---- sweeps: the network's, with these arrays ----

  // Leaves h_L, and σ′ and σ″ where wanted, and with `by_time` those of the time branch that a derivative by the time
  // takes.
  void forward(const Chunk& chunk, bool d1, bool d2, bool by_time) {
    input(chunk.n, chunk.t, chunk.t_stride, chunk.x);
    const bool one_time = chunk.t_stride == 0;  // of all chunks
    if (!one_time || chunk.first == 0) network_.embed_times(chunk.n, input_, one_time, by_time, false);
    network_.embed_conditions(chunk.n, chunk.condition, false);
    network_.forward(chunk.n, input_, ping_pong_, d1 ? d1_ : Planes<T>{}, d2 ? d2_ : Planes<T>{}, {});
  }
  // Leaves δ_1, and what time_derivative() takes where `by_time`; turns σ″ into κ where `curvature`.
  void reverse(std::int64_t n, bool curvature, bool by_time) {
    network_.reverse(n, ping_pong_, d1_, d2_, curvature ? d2_ : Planes<T>{}, {}, by_time);
  }
  template <class Visit>
  void tangent(std::int64_t n, std::int64_t streams, const kernels::Tangents<T>& start, const Visit& visit) {
    network_.tangent(n, streams, start, ping_pong_, ping_pong_, d1_, visit);
  }

  // input_ [n, 1 + d] = (t, x), or (0, x) without t.
  void input(std::int64_t n, const T* t, std::int64_t t_stride, const T* x) {
    check(kernels::launch_input<T>({n, static_cast<int>(d_), network_.input_stride(), t, t_stride, x, input_}, stream_),
          "launch_input");
  }
  // ż_1 of the directions in input_.
  kernels::Tangents<T> along_input(std::int64_t n) {
    network_.along_input(n, input_, ping_pong_[0]);
    return {ping_pong_[0], network_.stride(0), 0, 1, nullptr};
  }

  // Leaves the score's product in output_, and the score in out [n, d] where it is wanted.
  void score(std::int64_t n, T* out) {
    const Score<T> from = network_.score(n, ping_pong_, output_);
    if (out != nullptr) columns(n, d_, from, out);
  }
  // out [n, count] = the first `count` of each row's columns, plus their bias.
  void columns(std::int64_t n, std::int64_t count, const Score<T>& from, T* out) {
    check(kernels::launch_columns<T>(
              {n, static_cast<int>(count), network_.output_stride(), from.columns, from.bias, out}, stream_),
          "launch_columns");
  }

  cudaStream_t stream_;
  Precision precision_;
  DeviceSde sde_;
  std::int64_t d_;
  bool potential_;
  WideNetwork<T> network_;
  DeviceMemory parameters_;

  std::int64_t rows_ = 0;
  DeviceMemory workspace_;
  T *input_ = nullptr, *output_ = nullptr;  // [rows, 1 + d], [rows, max(1 + d, outputs)]
  Planes<T> ping_pong_;                     // two arrays in turn: what a product reads and what it writes
  T* trace_ = nullptr;                      // [rows]
  Planes<T> d1_, d2_;                       // σ′; σ″, κ, κ ⊙ ż in turn
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
