#pragma once

// A number x of a column in the units of that column, z = (x − mean)/deviation, and back. In double whatever T is: the
// mean of a column of N(1000, 1) rounded to float32 would move every z by up to 3e-5.
#include <cmath>

#include "fokker/formulas/host_device.hpp"

namespace fokker {

template <class T>
FOKKER_HOST_DEVICE inline T standardised(T x, double mean, double deviation) {
  return static_cast<T>((static_cast<double>(x) - mean) / deviation);
}

// One rounding in double and one to T, on every backend.
template <class T>
FOKKER_HOST_DEVICE inline T restored(T z, double mean, double deviation) {
  return static_cast<T>(fma(deviation, static_cast<double>(z), mean));
}

}  // namespace fokker
