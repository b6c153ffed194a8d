#pragma once

// An activation that only the tests have: a functor and nothing else, so everything computes by its fallback.
#include <cmath>

#include "fokker/formulas/activation.hpp"

namespace fokker::testing {

struct Softsign {
  static constexpr ActivationTraits traits = {static_cast<Activation>(Activations::size), "softsign", true};
  template <class T>
  FOKKER_HOST_DEVICE ActivationValues<T> operator()(T z) const {
    const T u = T(1) / (T(1) + std::fabs(z));
    return {z * u, u * u, std::copysign(2 * u * u * u, -z), 6 * u * u * u * u};
  }
};

template <class... Sigmas>
ActivationList<Sigmas..., Softsign> with_softsign(ActivationList<Sigmas...>);
using ActivationsAndSoftsign = decltype(with_softsign(Activations()));

}  // namespace fokker::testing
