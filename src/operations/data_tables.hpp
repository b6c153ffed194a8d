#pragma once

#include <cstdint>
#include <vector>

#include "fokker/mixture.hpp"
#include "fokker/view.hpp"

namespace fokker {

// What draws need of a mixture, in float: a data set makes it once, every backend reads it.
struct MixtureTables {
  std::int64_t dimension;
  std::vector<float> thresholds;  // [K − 1] running sums of the weights: component k is the number of them ≤ u
  std::vector<float> means;       // [K, d]
  std::vector<float> deviations;  // [K] where every covariance is a multiple of I, else empty
  std::vector<float> factors;     // [K, d, d] row j is √λ_j q_j; empty where `deviations` is not

  explicit MixtureTables(const GaussianMixture& mixture);
};

// Throws Error where float32 rounds off more than a thousandth of the deviation of a coordinate, as to_float32() does.
void check_fits_float32(const GaussianMixture& mixture);

struct DeviceSamples {
  Buffer<float> samples;  // [N, d]
  std::uint64_t hash;     // as of samples on the host
};

}  // namespace fokker
