#pragma once

#include "fokker/model.hpp"

namespace fokker {

// The model whose network takes the condition y itself: what a standardisation does to y is part of the weights that take
// it. Its standardisation is that of x alone.
Model taking_own_condition(const Model& model);

}  // namespace fokker
