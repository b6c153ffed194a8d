#pragma once

#include "fokker/model.hpp"

namespace fokker {

// The model whose network takes the condition y itself: what a standardisation does to y is part of the weights that take
// it. Its standardisation is that of x alone. Throws Error where float would lose what a large mean leaves of y.
Model taking_own_condition(const Model& model, bool in_float);

}  // namespace fokker
