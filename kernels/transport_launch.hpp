#pragma once

// Statistics of samples (transport.cu) and the sort of their projections (sort.cu); conventions as in launch.hpp.
// Samples are x [n, d].
#include <cstddef>
#include <cstdint>

#include "launch.hpp"

namespace fokker::kernels {

struct HistogramAxis {
  double low, high, per_node;  // 1/spacing
};
struct HistogramArguments {
  std::int64_t n;
  const float* x;              // [n, 2]
  std::int64_t nodes;          // a side
  HistogramAxis axes[2];       // of x and of y
  unsigned long long* counts;  // [nodes²], zero before
};
Status launch_histogram(const HistogramArguments& arguments, Stream stream);

struct Samples {
  std::int64_t n;
  std::int64_t dimension;
  const float* x;               // [n, d]
  const unsigned char* inside;  // [n] 1 where all coordinates are inside (−half_width, half_width), else 0
};
// Writes `inside` [n] for samples.x; count, zero before: how many are. An infinite half width takes what is finite.
Status launch_inside(const Samples& samples, double half_width, unsigned char* inside, unsigned long long* count,
                     Stream stream);

// directions [projections, d]: of length 1, from normals of (seed, projection), use projection.
Status launch_directions(double* directions, int projections, int dimension, std::uint64_t seed, Stream stream);
// out [n] = x · direction; +∞ where a sample is not inside.
Status launch_project(const Samples& samples, const double* direction, double* out, Stream stream);

// out [n] = in [n], ascending.
Status sort_workspace(std::int64_t n, std::size_t& bytes);
Status launch_sort(const double* in, double* out, std::int64_t n, void* workspace, std::size_t workspace_bytes,
                   Stream stream);

// Sorted samples p [n], q [m], n ≥ m ≥ 1: parts of n m ∫_0^1 (F_p⁻¹ − F_q⁻¹)², as many as quantile_parts(n).
int quantile_parts(std::int64_t n);
Status launch_quantile_distance(const double* p, std::int64_t n, const double* q, std::int64_t m, double* parts,
                                Stream stream);

// Sums over the samples inside, in parts to be added: of x_j to parts [moment_parts(n, d), d]; around a mean [d] of
// (x_j − mean_j)(x_l − mean_l), j ≤ l, to parts [moment_parts(n, d·d), d·d], whose other entries are not
// written. A block has an entry of a part: d·d < 2^31, and moments() takes d up to 4096.
int moment_parts(std::int64_t n, std::int64_t entries);
Status launch_sums(const Samples& samples, double* parts, Stream stream);
Status launch_products(const Samples& samples, const double* mean, double* parts, Stream stream);

}  // namespace fokker::kernels
