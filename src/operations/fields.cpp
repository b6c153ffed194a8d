#include "fokker/fields.hpp"

#include <fmt/format.h>

#include <type_traits>

#include "core/check.hpp"
#include "core/operations.hpp"
#include "fokker/error.hpp"
#include "model/condition.hpp"
#include "operations/curvature.hpp"
#include "operations/standardised.hpp"

namespace fokker {
namespace {

constexpr const char* fields_of_scores = "score, divergence, hessian";

template <class T>
void check_points(const Points<T>& points, std::int64_t dimension, std::int64_t condition, Device device) {
  check_view("x", points.x, any_rows, dimension, device);
  check_view("t", points.t, points.t.rows == 1 ? 1 : points.x.rows, 1, device);
  check_condition(points.condition, points.x.rows, condition, device);
}

// An output that is not wanted is an empty view.
template <class T>
void check_output(const char* what, const View<T>& view, std::int64_t rows, std::int64_t columns, Device device) {
  if (view) check_view(what, view, rows, columns, device);
}

void check_potential(const char* what, bool wanted, Output output) {
  if (!wanted || output == Output::potential) return;
  throw Error(fmt::format("{} is there for potentials, and this model's output is the score; allowed: {}", what,
                          fields_of_scores));
}

}  // namespace

template <class T>
Fields<T>::Fields(const Context& context, const Model& model) : device_(context.device()) {
  model.validate();
  dimension_ = model.dimension();
  condition_ = model.condition();
  output_ = model.output();
  why_no_curvature_ = why_no_curvature(model);
  const Model own = taking_own_condition(model, std::is_same_v<T, float>);
  if constexpr (std::is_same_v<T, float>) {
    operator_ = standardised_fields(context, context.backend().fields_float(own), own.standardisation);
  } else {
    operator_ = standardised_fields(context, context.backend().fields_double(own), own.standardisation);
  }
}

template <class T>
Fields<T>::~Fields() = default;
template <class T>
Fields<T>::Fields(Fields&&) noexcept = default;
template <class T>
Fields<T>& Fields<T>::operator=(Fields&&) noexcept = default;

template <class T>
void Fields<T>::evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& divergence) const {
  const std::int64_t n = points.x.rows, d = dimension_;
  FieldOperator<T>& fields = held(operator_, "Fields");
  check_points(points, d, condition_, device_);
  check_potential("the value", static_cast<bool>(outputs.value), output_);
  check_potential("the time derivative", static_cast<bool>(outputs.dt), output_);
  if (outputs.residual && output_ != Output::potential) {
    throw Error(fmt::format("the residual of a model whose output is the score is not there yet; allowed: {}",
                            fields_of_scores));
  }
  if (outputs.divergence) check_curvature("the divergence", why_no_curvature_);
  if (outputs.hessian) check_curvature("the Hessian", why_no_curvature_);
  if (outputs.residual) check_curvature("the residual", why_no_curvature_);
  check_output("value", outputs.value, n, 1, device_);
  check_output("dt", outputs.dt, n, 1, device_);
  check_output("score", outputs.score, n, d, device_);
  check_output("divergence", outputs.divergence, n, 1, device_);
  check_output("residual", outputs.residual, n, 1, device_);
  if (outputs.hessian && d > largest_hessian) {
    throw Error(fmt::format("a Hessian in {} dimensions asked for; allowed: up to {}, and hessian_vector beyond", d,
                            largest_hessian));
  }
  check_output("hessian", outputs.hessian, n, d * d, device_);
  check_count("the number of probes, 0 for the exact divergence,", divergence.probes, 0, most_probes);
  check_apart({{"value", outputs.value},
               {"dt", outputs.dt},
               {"score", outputs.score},
               {"divergence", outputs.divergence},
               {"hessian", outputs.hessian},
               {"residual", outputs.residual}},
              {{"t", points.t}, {"x", points.x}, {"condition", points.condition}});
  if (n == 0) return;
  fields.evaluate(points, outputs, divergence);
}

template <class T>
void Fields<T>::hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) const {
  const std::int64_t n = points.x.rows, d = dimension_;
  FieldOperator<T>& fields = held(operator_, "Fields");
  check_curvature("the Hessian times a vector", why_no_curvature_);
  check_points(points, d, condition_, device_);
  check_view("direction", direction, n, d, device_);
  check_view("product", product, n, d, device_);
  check_apart({{"product", product}},
              {{"t", points.t}, {"x", points.x}, {"condition", points.condition}, {"direction", direction}});
  if (n == 0) return;
  fields.hessian_vector(points, direction, product);
}

template <class T>
std::size_t Fields<T>::workspace_bytes() const {
  return held(operator_, "Fields").workspace_bytes();
}

template class Fields<float>;
template class Fields<double>;

}  // namespace fokker
