#include "model/symmetric_eigen.hpp"

#include <cmath>

namespace fokker {

void eigen_decomposition(std::int64_t d, double* matrix, double* values, double* vectors) {
  for (std::int64_t i = 0; i < d; ++i) {
    for (std::int64_t j = 0; j < d; ++j) vectors[i * d + j] = i == j;
  }
  for (int sweep = 0; sweep < 100; ++sweep) {
    bool rotated = false;
    for (std::int64_t p = 0; p < d; ++p) {
      for (std::int64_t q = p + 1; q < d; ++q) {
        const double off = matrix[p * d + q], at_p = matrix[p * d + p], at_q = matrix[q * d + q];
        if (std::abs(off) <= 1e-17 * std::hypot(at_p, at_q)) continue;
        rotated = true;
        const double theta = (at_q - at_p) / (2 * off);
        const double tangent = std::copysign(1.0, theta) / (std::abs(theta) + std::hypot(theta, 1.0));
        const double cosine = 1 / std::hypot(tangent, 1.0), sine = tangent * cosine;
        for (std::int64_t k = 0; k < d; ++k) {
          const double kp = matrix[k * d + p], kq = matrix[k * d + q];
          matrix[k * d + p] = cosine * kp - sine * kq;
          matrix[k * d + q] = sine * kp + cosine * kq;
        }
        for (std::int64_t k = 0; k < d; ++k) {
          const double pk = matrix[p * d + k], qk = matrix[q * d + k];
          matrix[p * d + k] = cosine * pk - sine * qk;
          matrix[q * d + k] = sine * pk + cosine * qk;
          const double vp = vectors[p * d + k], vq = vectors[q * d + k];
          vectors[p * d + k] = cosine * vp - sine * vq;
          vectors[q * d + k] = sine * vp + cosine * vq;
        }
        matrix[p * d + q] = matrix[q * d + p] = 0;
      }
    }
    if (!rotated) break;
  }
  for (std::int64_t i = 0; i < d; ++i) values[i] = matrix[i * d + i];
}

}  // namespace fokker
