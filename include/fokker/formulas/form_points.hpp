#pragma once

// A denoising point of the model as one of its network.
#include "fokker/formulas/form.hpp"

namespace fokker {

// s = A x + B F, so that weight |s − target|² = weight B² |F − (target − A x)/B|². Row by row in place, if wanted:
// net_t may be t, and so on. Without a target the point alone.
template <class T>
FOKKER_HOST_DEVICE inline void network_point(const NetworkForm& form, const SdeFormulas& sde, int dimension, const T& t,
                                             const T* x, const T* target, T weight, T& net_t, T* net_x, T* net_target,
                                             T& net_weight) {
  const FormCoefficients<double> c = form_at(form, sde, static_cast<double>(t));
  net_t = static_cast<T>(c.time);
  for (int i = 0; i < dimension; ++i) {
    const double at = static_cast<double>(x[i]);
    net_x[i] = static_cast<T>(c.in * at);
    if (target != nullptr) net_target[i] = static_cast<T>((static_cast<double>(target[i]) - c.skip * at) / c.out);
  }
  if (target != nullptr) net_weight = static_cast<T>(static_cast<double>(weight) * c.out * c.out);
}

}  // namespace fokker
