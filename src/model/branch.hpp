#pragma once

// Branches in double on the host, for inputs that many points have in common.
#include <cstdint>
#include <vector>

#include "fokker/model.hpp"

namespace fokker {

// b + W h of W [outputs, inputs] and b [outputs]; of a shorter h the first columns of W.
std::vector<double> dense(const double* weights, std::int64_t inputs, const double* biases, std::int64_t outputs,
                          const std::vector<double>& h);
// Of `h` [branch.inputs]. `parameters`: the branch's own.
std::vector<double> embedding(const Branch& branch, const double* parameters, std::vector<double> h);

}  // namespace fokker
