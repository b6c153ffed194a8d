// The fields of a model whose network stands for something else than the score, and of sums of networks, whose residual
// is made here, on the device: chunk by chunk the network's points by one launch, its fields by whatever computes them,
// and the model's from those by another (kernels/form.cu). A field of the network lies where that of the model will be, or in the workspace where nobody asked
// for it: value, dt, score and divergence are then one of (τ, C x)'s chunk.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "cuda/arena.hpp"
#include "cuda/device_field.hpp"
#include "cuda/device_sde.hpp"
#include "kernels/form_launch.hpp"

namespace fokker::cuda {
namespace {

template <class T>
class FormedField final : public DeviceField<T> {
 public:
  FormedField(const Queue& queue, std::unique_ptr<DeviceField<T>> network, const NetworkForm& form,
              const ForwardSde& sde)
      : stream_(queue.stream), network_(std::move(network)), form_(form), sde_(sde), d_(network_->dimension()) {
    rows_ = workspace_rows([this](std::int64_t rows) { return lay_out(nullptr, rows); });
    workspace_.reserve(lay_out(nullptr, rows_));
    lay_out(workspace_.as<char>(), rows_);
    check(kernels::prepare_form(), "prepare_form");
  }

  std::int64_t dimension() const override { return d_; }
  std::size_t workspace_bytes() const override { return workspace_.bytes() + network_->workspace_bytes(); }

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& estimate) override {
    const bool residual = static_cast<bool>(outputs.residual), dt = outputs.dt || residual;
    for_chunks(points, [&](std::int64_t first, const kernels::FormPoints<T>& chunk, const Points<T>& inputs) {
      const auto part = [&](const View<T>& of, std::int64_t columns) {
        return of ? View<T>(of.data + first * columns, chunk.n, columns, Device::cuda) : View<T>();
      };
      const auto own = [&](const View<T>& wanted, bool needed, T* memory, std::int64_t columns) {
        return wanted || !needed ? wanted : View<T>(memory, chunk.n, columns, Device::cuda);
      };
      const FieldOutputs<T> out{part(outputs.value, 1),         part(outputs.dt, 1),
                                part(outputs.score, d_),        part(outputs.divergence, 1),
                                part(outputs.hessian, d_ * d_), part(outputs.residual, 1)};
      const FieldOutputs<T> net{.value = own(out.value, dt, value_, 1),
                                .dt = own(out.dt, dt, dt_, 1),
                                .score = own(out.score, dt, score_, d_),
                                .divergence = own(out.divergence, residual, divergence_, 1),
                                .hessian = out.hessian};
      Divergence chunk_estimate = estimate;
      chunk_estimate.first_index += static_cast<std::uint64_t>(first);
      network_->evaluate(inputs, net, chunk_estimate);
      if (net.value || net.dt || net.score || net.divergence) {
        check(kernels::launch_form_fields<T>({.points = chunk,
                                              .net_value = net.value.data,
                                              .net_dt = net.dt.data,
                                              .net_score = net.score.data,
                                              .net_divergence = net.divergence.data,
                                              .value = out.value.data,
                                              .dt = out.dt.data,
                                              .score = out.score.data,
                                              .divergence = out.divergence.data,
                                              .residual = out.residual.data},
                                             stream_),
              "launch_form_fields");
      }
      if (out.hessian) derivative(chunk, nullptr, out.hessian.data);
    });
  }

  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) override {
    for_chunks(points, [&](std::int64_t first, const kernels::FormPoints<T>& chunk, const Points<T>& inputs) {
      const T* const along = direction.data + first * d_;
      T* const to = product.data + first * d_;
      network_->hessian_vector(inputs, {along, chunk.n, d_, Device::cuda}, {to, chunk.n, d_, Device::cuda});
      derivative(chunk, along, to);
    });
  }

 private:
  std::size_t lay_out(char* base, std::int64_t rows) {
    Arena arena(base);
    t_ = arena.take<T>(rows);
    x_ = arena.take<T>(rows * d_);
    value_ = arena.take<T>(rows);
    dt_ = arena.take<T>(rows);
    score_ = arena.take<T>(rows * d_);
    divergence_ = arena.take<T>(rows);
    return arena.used();
  }

  // visit(first point, the model's points, the network's)
  template <class Visit>
  void for_chunks(const Points<T>& points, const Visit& visit) {
    const std::int64_t t_stride = points.t.rows == 1 ? 0 : 1;
    for (std::int64_t first = 0; first < points.x.rows; first += rows_) {
      const std::int64_t n = std::min(rows_, points.x.rows - first);
      const kernels::FormPoints<T> chunk{.n = n,
                                         .dimension = static_cast<int>(d_),
                                         .form = form_,
                                         .sde = sde_.formulas(),
                                         .t = points.t.data + first * t_stride,
                                         .t_stride = t_stride,
                                         .x = points.x.data + first * d_};
      check(kernels::launch_network_points<T>({.points = chunk,
                                               .target = nullptr,
                                               .weight = nullptr,
                                               .net_t = t_,
                                               .net_x = x_,
                                               .net_target = nullptr,
                                               .net_weight = nullptr},
                                              stream_),
            "launch_network_points");
      // One time stays one, so that a network's time branch has one row.
      const std::int64_t times = t_stride == 0 ? 1 : n;
      const View<const T>& y = points.condition;
      visit(first, chunk,
            Points<T>{{t_, times, 1, Device::cuda},
                      {x_, n, d_, Device::cuda},
                      y ? View<const T>(y.data + first * y.columns, n, y.columns, Device::cuda) : y});
    }
  }

  void derivative(const kernels::FormPoints<T>& chunk, const T* direction, T* of) {
    check(kernels::launch_form_derivative<T>({.points = chunk, .direction = direction, .derivative = of}, stream_),
          "launch_form_derivative");
  }

  cudaStream_t stream_;
  std::unique_ptr<DeviceField<T>> network_;
  NetworkForm form_;
  DeviceSde sde_;
  std::int64_t d_;
  std::int64_t rows_ = 0;
  DeviceMemory workspace_;
  T *t_ = nullptr, *x_ = nullptr;                                                  // [rows] τ, [rows, d] C x
  T *value_ = nullptr, *dt_ = nullptr, *score_ = nullptr, *divergence_ = nullptr;  // of the network
};

}  // namespace

template <class T>
std::unique_ptr<DeviceField<T>> make_formed_field(const Queue& queue, std::unique_ptr<DeviceField<T>> network,
                                                  const NetworkForm& form, const ForwardSde& sde) {
  return std::make_unique<FormedField<T>>(queue, std::move(network), form, sde);
}

template std::unique_ptr<DeviceField<float>> make_formed_field(const Queue&, std::unique_ptr<DeviceField<float>>,
                                                               const NetworkForm&, const ForwardSde&);
template std::unique_ptr<DeviceField<double>> make_formed_field(const Queue&, std::unique_ptr<DeviceField<double>>,
                                                                const NetworkForm&, const ForwardSde&);

}  // namespace fokker::cuda
