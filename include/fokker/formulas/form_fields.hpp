#pragma once

// The fields of a model at one point from those of its network at (τ, C x), by the form that stands between them
// (form.hpp). For a potential net, with Φ, ∂_τ Φ, ∇Φ and the Laplacian of Φ:
//   φ = ½ A |x|² + B/C Φ,  ∂_t φ = ½ A′ |x|² + (B/C)′ Φ + B/C (C′ x·∇Φ + τ′ ∂_τ Φ);
// for both kinds of net s = A x + B F, ∇·s = A d + B C tr J and ∂s/∂x = A I + B C J.
#include "fokker/formulas/form.hpp"

namespace fokker {

template <class T>
struct FormFields {
  FormCoefficients<T> form, rate;

  // The coefficients are formed in double.
  FOKKER_HOST_DEVICE explicit FormFields(const FormRates<double>& at)
      : form(rounded<T>(at.value)), rate(rounded<T>(at.rate)) {}

  // squares: |x|².
  FOKKER_HOST_DEVICE T value(T squares, T net_value) const {
    return form.skip / 2 * squares + form.out / form.in * net_value;
  }
  // along: x·∇Φ.
  FOKKER_HOST_DEVICE T dt(T squares, T along, T net_value, T net_dt) const {
    const T share = form.out / form.in;
    return rate.skip / 2 * squares + (rate.out - share * rate.in) / form.in * net_value +
           share * (rate.in * along + rate.time * net_dt);
  }
  FOKKER_HOST_DEVICE T score(T x, T output) const { return form.skip * x + form.out * output; }
  FOKKER_HOST_DEVICE T divergence(int dimension, T trace) const {
    return form.skip * static_cast<T>(dimension) + form.out * form.in * trace;
  }
  // Of ∂s/∂x along a direction, or an entry of it with x = 1 on its diagonal and 0 elsewhere.
  FOKKER_HOST_DEVICE T derivative(T direction, T net_derivative) const {
    return form.skip * direction + form.out * form.in * net_derivative;
  }
};

}  // namespace fokker
