#pragma once

#include <cstdint>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {  // other libraries of this project call it

// Eigenvalues [d] and rows of eigenvectors [d, d] of a symmetric matrix [d, d] (destroyed) by cyclic Jacobi rotations
// (Golub and Van Loan, Matrix Computations, 8.5): quadratic convergence, every eigenvalue to a few units of rounding of
// the largest, and a diagonal matrix comes back untouched with the unit vectors.
void eigen_decomposition(std::int64_t d, double* matrix, double* values, double* vectors);

}  // namespace fokker
