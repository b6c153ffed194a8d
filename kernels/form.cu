// Between a model and its network: coefficients in double from each point's time, everything else in T. A thread has a
// point, of derivatives a row. Cost: what it reads and writes, once each, and some hundred operations in double a
// thread.
// Ours and not Thrust's, so that the emulation and its racecheck run it as every kernel (CONTRIBUTING.md).
#include <cstdint>

#include "device.hpp"
#include "fokker/formulas/form_fields.hpp"
#include "fokker/formulas/form_points.hpp"
#include "form_launch.hpp"
#include "grid.hpp"

namespace fokker::kernels {
namespace {

template <class T>
__device__ __forceinline__ double time_of(const FormPoints<T>& points, std::int64_t i) {
  return static_cast<double>(points.t[i * points.t_stride]);
}

template <class T>
__global__ void network_points(NetworkPointArguments<T> a) {
  const FormPoints<T>& p = a.points;
  for (std::int64_t i = first_item(); i < p.n; i += item_stride()) {
    const std::int64_t row = i * p.dimension;
    T unused;
    const bool targets = a.target != nullptr;
    network_point(p.form, p.sde, p.dimension, p.t[i * p.t_stride], p.x + row, targets ? a.target + row : nullptr,
                  targets && a.weight != nullptr ? a.weight[i] : T(1), a.net_t[i], a.net_x + row,
                  targets ? a.net_target + row : nullptr, targets ? a.net_weight[i] : unused);
  }
}

// The residual by coefficients of its own, in which what cancels has cancelled in double.
template <class T>
__global__ void form_fields(FormFieldArguments<T> a) {
  const FormPoints<T>& p = a.points;
  const int d = p.dimension;
  for (std::int64_t i = first_item(); i < p.n; i += item_stride()) {
    const double t = time_of(p, i);
    const FormFields<T> f(form_rates_at(p.form, p.sde, t));
    const T* const x = p.x + i * d;
    T squares = 0, along = 0, score_squares = 0;
    for (int k = 0; k < d; ++k) {
      squares += x[k] * x[k];
      if (a.net_score == nullptr) continue;
      const T s = a.net_score[i * d + k];
      along += x[k] * s;
      score_squares += s * s;
    }
    if (a.residual != nullptr) {
      const ResidualCoefficients<T> c = rounded<T>(residual_at(p.form, p.sde, t));
      a.residual[i] = static_cast<T>(d) * c.constant + c.square * (f.form.in * f.form.in * squares) +
                      c.value * a.net_value[i] + c.time * a.net_dt[i] + c.along * (f.form.in * along) -
                      c.curvature * a.net_divergence[i] - c.gradient * score_squares;
    }
    if (a.dt != nullptr) a.dt[i] = f.dt(squares, along, a.net_value[i], a.net_dt[i]);
    if (a.value != nullptr) a.value[i] = f.value(squares, a.net_value[i]);
    if (a.divergence != nullptr) a.divergence[i] = f.divergence(d, a.net_divergence[i]);
    for (int k = 0; k < d && a.score != nullptr; ++k) a.score[i * d + k] = f.score(x[k], a.net_score[i * d + k]);
  }
}

template <class T>
__global__ void form_derivative(FormDerivativeArguments<T> a) {
  const FormPoints<T>& p = a.points;
  const int d = p.dimension, rows = a.direction != nullptr ? 1 : d;  // of a point
  for (std::int64_t item = first_item(); item < p.n * rows; item += item_stride()) {
    const std::int64_t i = item / rows, row = item - i * rows;
    const FormFields<T> f(FormRates<double>{form_at(p.form, p.sde, time_of(p, i)), {}});
    T* const derivative = a.derivative + item * d;
    for (int k = 0; k < d; ++k) {
      const T along = a.direction != nullptr ? a.direction[i * d + k] : k == row ? T(1) : T(0);
      derivative[k] = f.derivative(along, derivative[k]);
    }
  }
}

}  // namespace

template <class T>
Status launch_network_points(const NetworkPointArguments<T>& arguments, Stream stream) {
  return launch(network_points<T>, one_item_a_thread(arguments.points.n), stream, arguments);
}

template <class T>
Status launch_form_fields(const FormFieldArguments<T>& arguments, Stream stream) {
  return launch(form_fields<T>, one_item_a_thread(arguments.points.n), stream, arguments);
}

template <class T>
Status launch_form_derivative(const FormDerivativeArguments<T>& arguments, Stream stream) {
  const int rows = arguments.direction != nullptr ? 1 : arguments.points.dimension;
  return launch(form_derivative<T>, one_item_a_thread(arguments.points.n * rows), stream, arguments);
}

Status prepare_form() {
  const auto all_of = [](auto... kernels) {
    Status status = 0;
    ((status = status ? status : prepare(kernels, 0)), ...);
    return status;
  };
  return all_of(network_points<float>, network_points<double>, form_fields<float>, form_fields<double>,
                form_derivative<float>, form_derivative<double>);
}

template Status launch_network_points(const NetworkPointArguments<float>&, Stream);
template Status launch_network_points(const NetworkPointArguments<double>&, Stream);
template Status launch_form_fields(const FormFieldArguments<float>&, Stream);
template Status launch_form_fields(const FormFieldArguments<double>&, Stream);
template Status launch_form_derivative(const FormDerivativeArguments<float>&, Stream);
template Status launch_form_derivative(const FormDerivativeArguments<double>&, Stream);

}  // namespace fokker::kernels
