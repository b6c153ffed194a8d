#pragma once

// Between a model and its network where the output is not the score (form.cu): the network's points, and the model's
// fields from the network's (fokker/formulas/form_fields.hpp). T = float or double; conventions as in launch.hpp.
#include <cstdint>

#include "fokker/formulas/form.hpp"
#include "launch.hpp"

namespace fokker::kernels {

// Points of the model, under its form.
template <class T>
struct FormPoints {
  std::int64_t n;
  int dimension;
  NetworkForm form;
  SdeFormulas sde;
  const T* t;             // t[i · t_stride]
  std::int64_t t_stride;  // 1, or 0: one time for all
  const T* x;             // [n, d]
};

// The network's: τ and C x; and where there are targets of the score, those of its output, (target − A x)/B, with the
// weights that they take, weight B².
template <class T>
struct NetworkPointArguments {
  FormPoints<T> points;
  const T* target;  // [n, d], or nullptr
  const T* weight;  // [n], or nullptr: 1
  T* net_t;         // [n]
  T* net_x;         // [n, d]
  T* net_target;    // [n, d]
  T* net_weight;    // [n]
};
template <class T>
Status launch_network_points(const NetworkPointArguments<T>& arguments, Stream stream);

// A field that is wanted may lie in the place of the network's.
template <class T>
struct FormFieldArguments {
  FormPoints<T> points;
  // What of the network the fields take: value, dt and score for dt, the divergence too for the residual.
  const T* net_value;       // [n] Φ
  const T* net_dt;          // [n] ∂_τ Φ
  const T* net_score;       // [n, d] F, or ∇Φ
  const T* net_divergence;  // [n] tr ∂F/∂(C x)
  // nullptr: not wanted
  T* value;       // [n]
  T* dt;          // [n]
  T* score;       // [n, d]
  T* divergence;  // [n]
  T* residual;    // [n]
};
template <class T>
Status launch_form_fields(const FormFieldArguments<T>& arguments, Stream stream);

// The network's derivative along a direction in `derivative` to the model's; without directions the d rows of its
// Jacobian.
template <class T>
struct FormDerivativeArguments {
  FormPoints<T> points;
  const T* direction;  // [n, d], or nullptr
  T* derivative;       // [n, d], or [n, d, d]
};
template <class T>
Status launch_form_derivative(const FormDerivativeArguments<T>& arguments, Stream stream);

// Loads these kernels; called once, at set-up.
Status prepare_form();

}  // namespace fokker::kernels
