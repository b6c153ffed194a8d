#pragma once

#include <cstdint>
#include <vector>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// Columns of data in units of their own, z = (x − mean)/deviation for each column: a network and its forward SDE are
// made for numbers of about 1, and columns as N(1000, 1) beside N(0, 1e-6) are not. A model that has one holds network
// and SDE in z, and everything public speaks in x: the density of x is that of z over the product of the deviations.
struct Standardisation {
  std::vector<double> mean = {};       // of each column, or empty with the deviations: z = x
  std::vector<double> deviation = {};  // of each column, above 0

  static constexpr double least_deviation = 1e-15, most = 1e15;  // of deviations; of means their absolute value

  bool empty() const { return mean.empty() && deviation.empty(); }
  // One deviation for all columns, as an isotropic scale has.
  bool uniform() const;
  // Those of `count` columns from `first` on; empty of an empty one.
  Standardisation columns(std::int64_t first, std::int64_t count) const;
  // Σ ln deviation: log p(x) = log p(z) − log_volume().
  double log_volume() const;
  // Throws Error unless it is empty or has `dimension` finite means and deviations within the ranges above.
  void validate(std::int64_t dimension) const;

  bool operator==(const Standardisation&) const = default;
};

}  // namespace fokker
