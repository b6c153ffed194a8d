#include "fokker/standardisation.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "fmt/format.h"
#include "fokker/error.hpp"

namespace fokker {

bool Standardisation::uniform() const {
  return std::all_of(deviation.begin(), deviation.end(), [&](double v) { return v == deviation.front(); });
}

Standardisation Standardisation::columns(std::int64_t first, std::int64_t count) const {
  if (empty()) return {};
  return {{mean.begin() + first, mean.begin() + first + count},
          {deviation.begin() + first, deviation.begin() + first + count}};
}

double Standardisation::log_volume() const {
  double sum = 0;
  for (const double v : deviation) sum += std::log(v);
  return sum;
}

void Standardisation::validate(std::int64_t dimension) const {
  if (empty()) return;
  if (std::ssize(mean) != dimension || std::ssize(deviation) != dimension) {
    throw Error(fmt::format("a standardisation of {} means and {} deviations is given for {} columns; allowed: {} each",
                            mean.size(), deviation.size(), dimension, dimension));
  }
  for (std::size_t i = 0; i < mean.size(); ++i) {
    if (!(std::fabs(mean[i]) <= most)) {
      throw Error(fmt::format("the mean of column {} is {}; allowed in a standardisation: {:g} to {:g}", i, mean[i],
                              -most, most));
    }
    if (!(deviation[i] >= least_deviation && deviation[i] <= most)) {
      throw Error(fmt::format("the deviation of column {} is {}; allowed in a standardisation: {:g} to {:g}", i,
                              deviation[i], least_deviation, most));
    }
  }
}

}  // namespace fokker
