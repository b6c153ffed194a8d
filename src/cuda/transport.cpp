// Histograms, counts, moments and sliced W2 of samples on the device. All of them return to the host, so they wait, and
// allocate what they need for the call.
//
// Sliced W2² takes one direction after another: both sides are projected in double, sorted and integrated, and the host
// waits only after the last. A sample that is not finite projects to +∞ and is sorted behind those that are.
#include <fmt/format.h>

#include <limits>
#include <numeric>

#include "cuda/backend.hpp"
#include "cuda/device_field.hpp"
#include "cuda/runtime.hpp"
#include "fokker/error.hpp"
#include "kernels/transport_launch.hpp"

namespace fokker::cuda {
namespace {

template <class T>
std::vector<T> download(const Queue& queue, const DeviceMemory& memory, std::size_t count) {
  std::vector<T> values(count);
  check(cudaMemcpyAsync(values.data(), memory.data(), count * sizeof(T), cudaMemcpyDeviceToHost, queue.stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(queue.stream), "cudaStreamSynchronize");
  return values;
}

template <class T>
DeviceMemory numbers(std::int64_t count) {
  return DeviceMemory(static_cast<std::size_t>(count) * sizeof(T));
}

DeviceMemory zeros(const Queue& queue, std::int64_t count) {
  DeviceMemory memory = numbers<unsigned long long>(count);
  check(cudaMemsetAsync(memory.data(), 0, memory.bytes(), queue.stream), "cudaMemsetAsync");
  return memory;
}

// Samples with the marks of those that are inside (−half_width, half_width)^d; by default, of those that are finite.
struct MarkedSamples {
  DeviceMemory inside;
  kernels::Samples samples;
  std::int64_t count;  // inside

  MarkedSamples(const Queue& queue, View<const float> view, double half_width = std::numeric_limits<double>::infinity())
      : inside(numbers<unsigned char>(view.rows)),
        samples{view.rows, view.columns, view.data, inside.as<const unsigned char>()} {
    const DeviceMemory counter = zeros(queue, 1);
    check(kernels::launch_inside(samples, half_width, inside.as<unsigned char>(), counter.as<unsigned long long>(),
                                 queue.stream),
          "launch_inside");
    count = static_cast<std::int64_t>(download<unsigned long long>(queue, counter, 1)[0]);
  }
};

// The projections of one side and their memory.
class Projected {
 public:
  Projected(const Queue& queue, View<const float> view, const char* name)
      : queue_(queue),
        marked_(queue, view),
        projected_(numbers<double>(view.rows)),
        sorted_(numbers<double>(view.rows)) {
    if (marked_.count == 0) {
      throw Error(fmt::format("sliced W2 needs a finite sample on both sides, and {} has none", name));
    }
    std::size_t bytes = 0;
    check(kernels::sort_workspace(view.rows, bytes), "sort_workspace");
    workspace_.reserve(bytes);
  }

  std::int64_t count() const { return marked_.count; }
  const double* sorted() const { return sorted_.as<const double>(); }
  void project(const double* direction) {
    check(kernels::launch_project(marked_.samples, direction, projected_.as<double>(), queue_.stream),
          "launch_project");
    check(kernels::launch_sort(projected_.as<const double>(), sorted_.as<double>(), marked_.samples.n,
                               workspace_.data(), workspace_.bytes(), queue_.stream),
          "launch_sort");
  }

 private:
  const Queue& queue_;
  MarkedSamples marked_;
  DeviceMemory projected_, sorted_, workspace_;
};

}  // namespace

std::vector<std::int64_t> histogram(const Queue& queue, View<const float> samples, const Grid& grid) {
  const DeviceMemory counts = zeros(queue, grid.n * grid.n);
  const auto axis = [](const Interval& limits, double spacing) {
    return kernels::HistogramAxis{limits.low, limits.high, 1 / spacing};
  };
  check(kernels::launch_histogram({.n = samples.rows,
                                   .x = samples.data,
                                   .nodes = grid.n,
                                   .axes = {axis(grid.x, grid.spacing(0)), axis(grid.y, grid.spacing(1))},
                                   .counts = counts.as<unsigned long long>()},
                                  queue.stream),
        "launch_histogram");
  return download<std::int64_t>(queue, counts, static_cast<std::size_t>(grid.n * grid.n));
}

std::int64_t count_escaped(const Queue& queue, View<const float> samples, double half_width) {
  return samples.rows - MarkedSamples(queue, samples, half_width).count;
}

double sliced_w2_squared(const Queue& queue, View<const float> a, View<const float> b, int projections,
                         std::uint64_t seed) {
  Projected first(queue, a, "the first"), second(queue, b, "the second");
  const bool in_order = first.count() >= second.count();
  Projected &larger = in_order ? first : second, &smaller = in_order ? second : first;
  const std::int64_t d = a.columns;
  const int parts = kernels::quantile_parts(larger.count());
  const DeviceMemory directions = numbers<double>(projections * d),
                     distances = numbers<double>(projections * std::int64_t{parts});
  check(kernels::launch_directions(directions.as<double>(), projections, static_cast<int>(d), seed, queue.stream),
        "launch_directions");
  for (int i = 0; i < projections; ++i) {
    larger.project(directions.as<const double>() + i * d);
    smaller.project(directions.as<const double>() + i * d);
    check(kernels::launch_quantile_distance(larger.sorted(), larger.count(), smaller.sorted(), smaller.count(),
                                            distances.as<double>() + std::int64_t{i} * parts, queue.stream),
          "launch_quantile_distance");
  }
  const auto values = download<double>(queue, distances, static_cast<std::size_t>(projections) * parts);
  // In units of 1/(n m).
  const double total = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(larger.count());
  return total / static_cast<double>(smaller.count()) / projections;
}

Moments moments(const Queue& queue, View<const float> view) {
  const std::int64_t d = view.columns;
  Moments result{.mean = std::vector<double>(d, 0.0), .covariance = std::vector<double>(d * d, 0.0)};
  const MarkedSamples marked(queue, view);
  result.count = marked.count;
  result.left_out = view.rows - marked.count;
  if (result.count == 0) return result;
  const auto count = static_cast<double>(result.count);

  const int sum_parts = kernels::moment_parts(view.rows, d);
  const DeviceMemory sums = numbers<double>(sum_parts * d);
  check(kernels::launch_sums(marked.samples, sums.as<double>(), queue.stream), "launch_sums");
  const auto sum = download<double>(queue, sums, static_cast<std::size_t>(sum_parts * d));
  for (std::size_t i = 0; i < sum.size(); ++i) result.mean[i % d] += sum[i];
  for (double& v : result.mean) v /= count;

  const int product_parts = kernels::moment_parts(view.rows, d * d);
  const DeviceMemory mean = upload(result.mean), products = numbers<double>(product_parts * d * d);
  check(kernels::launch_products(marked.samples, mean.as<const double>(), products.as<double>(), queue.stream),
        "launch_products");
  const auto product = download<double>(queue, products, static_cast<std::size_t>(product_parts * d * d));
  for (std::int64_t row = 0; row < d; ++row) {
    for (std::int64_t column = row; column < d; ++column) {
      double total = 0;
      for (int part = 0; part < product_parts; ++part) total += product[(part * d + row) * d + column];
      result.covariance[row * d + column] = result.covariance[column * d + row] = total / count;
    }
  }
  return result;
}

}  // namespace fokker::cuda
