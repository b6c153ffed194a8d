#include "fokker/loss.hpp"

#include <fmt/format.h>

#include <cmath>

#include "core/check.hpp"
#include "core/operations.hpp"
#include "fokker/error.hpp"
#include "operations/curvature.hpp"

namespace fokker {
namespace {

template <class T>
std::unique_ptr<LossOperator<T>> make_operator(Backend& backend, const Architecture& architecture,
                                               const ForwardSde& sde) {
  architecture.validate();
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
  LossOperator<T>& loss = held(operator_, "Loss");
  const std::int64_t d = architecture_.dimension, n = denoising.t.rows, m = collocation.t.rows;
  const std::int64_t count = architecture_.parameter_count();
  check_view("parameters", parameters, count, 1, device_);
  check_view("denoising.t", denoising.t, any_rows, 1, device_);
  check_view("denoising.x", denoising.x, n, d, device_);
  check_view("denoising.target", denoising.target, n, d, device_);
  if (denoising.weight) check_view("denoising.weight", denoising.weight, n, 1, device_);
  check_condition(denoising.condition, n, architecture_.condition.inputs, device_);
  check_view("collocation.t", collocation.t, any_rows, 1, device_);
  check_view("collocation.x", collocation.x, m, d, device_);
  check_condition(collocation.condition, m, architecture_.condition.inputs, device_);
  check_count("the number of probes, 0 for the exact residual,", collocation.divergence.probes, 0,
              most_residual_probes);
  check_view("values", values, 3, 1, device_);
  if (gradient) check_view("gradient", gradient, count, 1, device_);
  if (m > 0 && architecture_.output != Output::potential) {
    throw Error(
        fmt::format("{} collocation points were given for a vector score net, but the residual is there for potentials "
                    "only",
                    m));
  }
  if (m > 0) check_curvature("the residual", why_no_curvature(architecture_));
  if (gradient) check_curvature("a loss's gradient", why_no_curvature(architecture_));
  if (gradient && m > 0) check_curvature("the residual's gradient", why_no_residual_gradient(architecture_));
  if (!(residual_weight >= 0) || !std::isfinite(residual_weight)) {
    throw Error(fmt::format("the residual weight is {}, but a finite number of at least 0 is needed", residual_weight));
  }
  check_apart({{"values", values}, {"gradient", gradient}}, {{"parameters", parameters},
                                                             {"denoising.t", denoising.t},
                                                             {"denoising.x", denoising.x},
                                                             {"denoising.target", denoising.target},
                                                             {"denoising.weight", denoising.weight},
                                                             {"denoising.condition", denoising.condition},
                                                             {"collocation.condition", collocation.condition},
                                                             {"collocation.t", collocation.t},
                                                             {"collocation.x", collocation.x}});
  loss.evaluate(parameters, denoising, collocation, residual_weight, values, gradient);
}

template <class T>
std::size_t Loss<T>::workspace_bytes() const {
  return held(operator_, "Loss").workspace_bytes();
}

template class Loss<float>;
template class Loss<double>;

}  // namespace fokker
