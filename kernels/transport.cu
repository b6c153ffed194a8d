// Statistics of samples: histograms, moments, and what sliced W2² needs beside a sort. Every result is the same from
// run to run: counts are integers, and sums in double go through trees whose shape is a function of the sizes alone.
//
// Data path: a block counts in shared memory where the grid fits (64 × 64 nodes take 16 KiB) and adds its counts to the
// global ones at its end; a larger grid is counted where it is. Projections give a sample 1 to 32 lanes, four
// coordinates a lane up to d = 128. The quantile integral gives a thread one step of the larger sample, which overlaps
// at most two of the smaller. Moments give a block one entry and a part of the samples. Cost: bandwidth of the samples,
// d² times over for the covariance.
// Ours and not CUB's histogram and sums, whose order depends on the device, and so that the emulation runs them.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "device.hpp"
#include "grid.hpp"
#include "random.hpp"
#include "transport_launch.hpp"

namespace fokker::kernels {
namespace {

// ---- histogram

constexpr int shared_counts_bytes = 48 << 10;

// As on the CPU, in every bit: the product is rounded before ½ is added.
__device__ bool node_of(const HistogramArguments& a, std::int64_t i, std::int64_t& node) {
  const double x = a.x[2 * i], y = a.x[2 * i + 1];
  const auto inside = [](double v, const HistogramAxis& axis) {
    return v > axis.low && v < axis.high;
  };  // false for NaN
  if (!inside(x, a.axes[0]) || !inside(y, a.axes[1])) return false;
  const auto nearest = [&](double v, const HistogramAxis& axis) {
    const auto k = static_cast<std::int64_t>(std::floor(rounded_product(v - axis.low, axis.per_node) + 0.5));
    return k < a.nodes ? k : a.nodes - 1;
  };
  node = a.nodes * nearest(y, a.axes[1]) + nearest(x, a.axes[0]);
  return true;
}

__global__ void count_in_shared_memory(HistogramArguments a) {
  unsigned* const counts = shared_array<unsigned>();  // [nodes²]; a block counts fewer than 2^32
  const std::int64_t size = a.nodes * a.nodes;
  for (std::int64_t node = thread_index(); node < size; node += block_threads()) counts[node] = 0;
  sync_block();
  for (std::int64_t i = first_item(); i < a.n; i += item_stride()) {
    std::int64_t node;
    if (node_of(a, i, node)) atomic_add(counts + node, 1u);
  }
  sync_block();
  for (std::int64_t node = thread_index(); node < size; node += block_threads()) {
    if (counts[node] != 0) atomic_add(a.counts + node, static_cast<unsigned long long>(counts[node]));
  }
}

__global__ void count_in_place(HistogramArguments a) {
  for (std::int64_t i = first_item(); i < a.n; i += item_stride()) {
    std::int64_t node;
    if (node_of(a, i, node)) atomic_add(a.counts + node, 1ull);
  }
}

// ---- samples inside a box, or finite

struct InsideArguments {
  Samples samples;
  double half_width;
  unsigned char* inside;
  unsigned long long* count;
};

__global__ void mark_inside(InsideArguments a) {
  const std::int64_t d = a.samples.dimension;
  unsigned long long mine = 0;
  for (std::int64_t i = first_item(); i < a.samples.n; i += item_stride()) {
    bool inside = true;  // false for NaN
    for (std::int64_t j = 0; j < d; ++j) {
      inside = inside && std::fabs(static_cast<double>(a.samples.x[i * d + j])) < a.half_width;
    }
    a.inside[i] = inside ? 1 : 0;
    mine += inside ? 1 : 0;
  }
  for (int mask = 16; mask > 0; mask /= 2) mine += shuffle_xor(mine, mask);
  if (lane_index() == 0 && mine > 0) atomic_add(a.count, mine);
}

// ---- sliced W2²

struct DirectionArguments {
  double* directions;  // [projections, d]
  int projections, dimension;
  std::uint64_t seed;
};

// A warp a direction.
__global__ void draw_directions(DirectionArguments a) {
  for (std::int64_t i = first_item() / 32; i < a.projections; i += item_stride() / 32) {
    double* direction = a.directions + i * a.dimension;
    double square = 0;
    for (int first = 4 * lane_index(); first < a.dimension; first += 4 * 32) {
      float z[4];
      normals4(a.seed, static_cast<std::uint64_t>(i), RandomUse::projection, static_cast<std::uint32_t>(first / 4), 0,
               z);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if (first + w >= a.dimension) continue;
        const double v = z[w];
        direction[first + w] = v;
        square += v * v;
      }
    }
    for (int mask = 16; mask > 0; mask /= 2) square += shuffle_xor(square, mask);
    const double length = std::sqrt(square);
    for (int first = 4 * lane_index(); first < a.dimension; first += 4 * 32) {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if (first + w < a.dimension) direction[first + w] /= length;
      }
    }
  }
}

struct ProjectArguments {
  Samples samples;
  const double* direction;  // [d]
  double* out;              // [n]
  int lanes;                // of a sample: a power of two up to 32
  double beyond;            // what a sample that is not inside gets
};

__global__ void project(ProjectArguments a) {
  const std::int64_t d = a.samples.dimension, items = a.samples.n * a.lanes;
  // A warp goes on together: its lanes exchange.
  for (std::int64_t item = first_item(); item - lane_index() < items; item += item_stride()) {
    const std::int64_t i = item / a.lanes, lane = item - i * a.lanes;
    double sum = 0;
    if (i < a.samples.n) {
      for (std::int64_t j = lane; j < d; j += a.lanes) sum += a.direction[j] * a.samples.x[i * d + j];
    }
    for (int mask = a.lanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (i < a.samples.n && lane == 0) a.out[i] = a.samples.inside[i] != 0 ? sum : a.beyond;
  }
}

struct QuantileArguments {
  const double *p, *q;  // [n], [m] ascending
  std::int64_t n, m;    // n ≥ m
  double* parts;        // [blocks]
};

// Quantile functions are steps at multiples of 1/n and 1/m: step i of p is [i m, (i + 1) m) in units of 1/(n m).
__global__ void quantile_distance(QuantileArguments a) {
  double total = 0;
  for (std::int64_t i = first_item(); i < a.n; i += item_stride()) {
    std::int64_t j = i * a.m / a.n;
    for (std::int64_t start = i * a.m; start < (i + 1) * a.m; ++j) {
      const std::int64_t p_end = (i + 1) * a.m, q_end = (j + 1) * a.n, end = p_end < q_end ? p_end : q_end;
      const double difference = a.p[i] - a.q[j];
      total += static_cast<double>(end - start) * difference * difference;
      start = end;
    }
  }
  const double sum = block_sum(total);
  if (thread_index() == 0) a.parts[block_index()] = sum;
}

// ---- moments

struct MomentArguments {
  Samples samples;
  const double* mean;  // [d]; nullptr: sums of the samples themselves
  double* parts;       // [n_parts, entries]
  int n_parts;
};

// Block part · entries + entry.
__global__ void moment(MomentArguments a) {
  const std::int64_t d = a.samples.dimension, entries = a.mean != nullptr ? d * d : d;
  const std::int64_t part = block_index() / entries, entry = block_index() - part * entries;
  const std::int64_t row = entry / d, column = entry - row * d;
  if (row > column) return;  // for all of the block
  double total = 0;
  for (std::int64_t i = part * block_threads() + thread_index(); i < a.samples.n; i += a.n_parts * block_threads()) {
    if (a.samples.inside[i] == 0) continue;
    const float* x = a.samples.x + i * d;
    total += a.mean != nullptr ? (x[row] - a.mean[row]) * (x[column] - a.mean[column]) : x[column];
  }
  const double sum = block_sum(total);
  if (thread_index() == 0) a.parts[block_index()] = sum;
}

Status launch_moment(const MomentArguments& arguments, std::int64_t entries, Stream stream) {
  return launch(moment, {static_cast<int>(arguments.n_parts * entries), item_threads, block_sum_bytes(item_threads)},
                stream, arguments);
}

}  // namespace

Status launch_histogram(const HistogramArguments& arguments, Stream stream) {
  if (arguments.n == 0) return 0;
  const std::int64_t bytes = arguments.nodes * arguments.nodes * static_cast<std::int64_t>(sizeof(unsigned));
  if (bytes > shared_counts_bytes) return launch(count_in_place, one_item_a_thread(arguments.n), stream, arguments);
  // Samples enough for a block to be worth its clearing and adding of counts.
  constexpr std::int64_t block_samples = 16 * item_threads, most_blocks = 1024;
  const std::int64_t blocks = std::min((arguments.n + block_samples - 1) / block_samples, most_blocks);
  return launch(count_in_shared_memory, {static_cast<int>(blocks), item_threads, static_cast<int>(bytes)}, stream,
                arguments);
}

Status launch_inside(const Samples& samples, double half_width, unsigned char* inside, unsigned long long* count,
                     Stream stream) {
  if (samples.n == 0) return 0;
  return launch(mark_inside, one_item_a_thread(samples.n), stream, InsideArguments{samples, half_width, inside, count});
}

Status launch_directions(double* directions, int projections, int dimension, std::uint64_t seed, Stream stream) {
  return launch(draw_directions, one_item_a_thread(std::int64_t{32} * projections), stream,
                DirectionArguments{directions, projections, dimension, seed});
}

Status launch_project(const Samples& samples, const double* direction, double* out, Stream stream) {
  if (samples.n == 0) return 0;
  int lanes = 1;
  while (lanes < 32 && 4 * lanes < samples.dimension) lanes *= 2;
  return launch(project, one_item_a_thread(samples.n * lanes), stream,
                ProjectArguments{samples, direction, out, lanes, HUGE_VAL});
}

int quantile_parts(std::int64_t n) {
  constexpr std::int64_t most_parts = 256;
  return one_item_a_thread(n, most_parts).blocks;
}

Status launch_quantile_distance(const double* p, std::int64_t n, const double* q, std::int64_t m, double* parts,
                                Stream stream) {
  return launch(quantile_distance, {quantile_parts(n), item_threads, block_sum_bytes(item_threads)}, stream,
                QuantileArguments{p, q, n, m, parts});
}

int moment_parts(std::int64_t n, std::int64_t entries) {
  constexpr std::int64_t most_parts = 256, most_blocks = 1 << 16;
  const std::int64_t most = std::clamp<std::int64_t>(most_blocks / entries, 1, most_parts);
  return one_item_a_thread(std::max<std::int64_t>(n, 1), most).blocks;
}

Status launch_sums(const Samples& samples, double* parts, Stream stream) {
  const std::int64_t entries = samples.dimension;
  return launch_moment({samples, nullptr, parts, moment_parts(samples.n, entries)}, entries, stream);
}

Status launch_products(const Samples& samples, const double* mean, double* parts, Stream stream) {
  const std::int64_t entries = samples.dimension * samples.dimension;
  return launch_moment({samples, mean, parts, moment_parts(samples.n, entries)}, entries, stream);
}

}  // namespace fokker::kernels
