#pragma once

// A model's operators in the data's x from those of its network's z (include/fokker/standardisation.hpp).
#include <memory>

#include "core/operations.hpp"
#include "fokker/context.hpp"
#include "fokker/standardisation.hpp"

namespace fokker {

// Without a standardisation the operator as it is. The exact divergence under unequal deviations is from the Hessian,
// up to largest_hessian dimensions; without it, and with probes, it throws Error.
template <class T>
std::unique_ptr<FieldOperator<T>> standardised_fields(const Context& context, std::unique_ptr<FieldOperator<T>> of_z,
                                                      const Standardisation& standardisation);
std::unique_ptr<SampleOperator> standardised_sampler(const Context& context, std::unique_ptr<SampleOperator> of_z,
                                                     const Standardisation& standardisation);

// Columns on a context's device. Set-up: waits for the copy.
class ColumnTable {
 public:
  ColumnTable(const Context& context, const std::vector<double>& mean, const std::vector<double>& deviation);
  Columns columns() const { return {mean_.view(), deviation_.view()}; }
  std::size_t bytes() const;

 private:
  Buffer<double> mean_, deviation_;
};

}  // namespace fokker
