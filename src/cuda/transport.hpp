#pragma once

#include <cstdint>
#include <vector>

#include "cuda/device_field.hpp"
#include "fokker/view.hpp"

namespace fokker::cuda {

// Of the samples that are finite; with none of them all is 0.
struct Moments {
  std::int64_t count = 0;
  std::vector<double> mean;        // [d]
  std::vector<double> covariance;  // [d, d], divided by the count
};

// samples [N, d]; waits for the result.
Moments moments(const Queue& queue, View<const float> samples);

}  // namespace fokker::cuda
