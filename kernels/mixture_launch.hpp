#pragma once

// Exact fields of a Gaussian mixture (mixture.cu); conventions as in launch.hpp.
#include <cstddef>
#include <cstdint>

#include "fokker/formulas/divergence.hpp"
#include "fokker/formulas/sde.hpp"
#include "launch.hpp"

namespace fokker::kernels {

struct MixtureParameters {
  std::int64_t dimension, components;
  const double* means;            // [K, d]
  const double* eigenvalues;      // [K, d]
  const double* rotated_means;    // [K, d] Q_k μ_k
  const double* log_weights;      // [K]
  const std::int32_t* rotation;   // [K] where Q_k is among the rotations; −1: the covariance is diagonal
  const double* rotations;        // [·, d, d] row j: eigenvector j
  const std::int32_t* isotropic;  // [K] not 0: all eigenvalues are the same
  bool rotated;                   // some covariance is not diagonal
  SdeFormulas sde;
};

// Numbers that one point needs besides its inputs and outputs.
std::int64_t mixture_scratch(const MixtureParameters& mixture);

// Scratch of the points in flight.
struct MixtureWorkspace {
  double* scratch;  // [mixture_scratch(), slots]: neighbouring points side by side
  std::int64_t slots;
  double* log_norm;  // [K] at the one time of all points
};

template <class T>
struct MixtureArguments {
  std::int64_t n;
  const T* t;             // t[i · t_stride]
  std::int64_t t_stride;  // 1, or 0: one time for all
  const T* x;             // [n, d]
  // nullptr: not wanted
  T* value;            // [n]
  T* dt;               // [n]
  T* score;            // [n, d]
  T* divergence;       // [n]
  T* hessian;          // [n, d·d]
  T* residual;         // [n]
  const T* direction;  // [n, d]
  T* product;          // [n, d] Hessian times direction
  Divergence estimate;
};

template <class T>
Status launch_mixture(const MixtureParameters& mixture, const MixtureWorkspace& workspace,
                      const MixtureArguments<T>& arguments, Stream stream);

}  // namespace fokker::kernels
