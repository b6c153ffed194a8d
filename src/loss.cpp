#include "fokker/loss.hpp"

#include <fmt/format.h>

#include <cmath>

#include "fokker/error.hpp"
#include "operations.hpp"

namespace fokker {
namespace {

const char* device_name(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

template <class T>
void require(const char* name, View<T> view, std::int64_t rows, std::int64_t columns, Device device) {
  if (view.rows != rows || view.columns != columns) {
    throw Error(
        fmt::format("{} has shape [{}, {}], but [{}, {}] is needed", name, view.rows, view.columns, rows, columns));
  }
  if (rows > 0 && !view) throw Error(fmt::format("{} has shape [{}, {}] but no data", name, rows, columns));
  if (rows > 0 && view.device != device) {
    throw Error(fmt::format("{} lies on device {}, but the context works on {}", name, device_name(view.device),
                            device_name(device)));
  }
}

template <class T>
std::unique_ptr<LossOperator<T>> make_operator(Backend& backend, const Architecture& architecture,
                                               const ForwardSde& sde) {
  architecture.validate();
  sde.validate();
  if constexpr (std::is_same_v<T, float>) {
    return backend.loss_float(architecture, sde);
  } else {
    return backend.loss_double(architecture, sde);
  }
}

}  // namespace

template <class T>
Loss<T>::Loss(const Context& context, const Architecture& architecture, const ForwardSde& sde)
    : architecture_(architecture),
      device_(context.device()),
      operator_(make_operator<T>(context.backend(), architecture, sde)) {}
template <class T>
Loss<T>::~Loss() = default;
template <class T>
Loss<T>::Loss(Loss&&) noexcept = default;
template <class T>
Loss<T>& Loss<T>::operator=(Loss&&) noexcept = default;

template <class T>
void Loss<T>::evaluate(View<const T> parameters, const DenoisingBatch<T>& denoising,
                       const CollocationBatch<T>& collocation, double residual_weight, View<double> values,
                       View<T> gradient) const {
  const std::int64_t d = architecture_.dimension, n = denoising.t.rows, m = collocation.t.rows;
  const std::int64_t count = architecture_.parameter_count();
  require("parameters", parameters, count, 1, device_);
  if (n < 0 || m < 0) throw Error(fmt::format("a batch has {} points, but at least 0 are needed", std::min(n, m)));
  require("denoising.t", denoising.t, n, 1, device_);
  require("denoising.x", denoising.x, n, n == 0 ? denoising.x.columns : d, device_);
  require("denoising.target", denoising.target, n, n == 0 ? denoising.target.columns : d, device_);
  if (denoising.weight) require("denoising.weight", denoising.weight, n, 1, device_);
  require("collocation.t", collocation.t, m, 1, device_);
  require("collocation.x", collocation.x, m, m == 0 ? collocation.x.columns : d, device_);
  require("values", values, 3, 1, device_);
  if (gradient) require("gradient", gradient, count, 1, device_);
  if (m > 0 && architecture_.output != Output::potential) {
    throw Error(
        fmt::format("{} collocation points were given for a vector score net, but the residual is there for potentials "
                    "only",
                    m));
  }
  if (!(residual_weight >= 0) || !std::isfinite(residual_weight)) {
    throw Error(fmt::format("the residual weight is {}, but a finite number of at least 0 is needed", residual_weight));
  }
  operator_->evaluate(parameters, denoising, collocation, residual_weight, values, gradient);
}

template class Loss<float>;
template class Loss<double>;

}  // namespace fokker
