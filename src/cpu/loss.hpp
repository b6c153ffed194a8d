#pragma once

// Loss sums over chunks of points. The trainer and the public Loss share this; they differ in where points come from.
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "fokker/loss.hpp"
#include "fokker/model.hpp"
#include "fokker/ranks.hpp"

namespace fokker::cpu {

// Points of the network itself: what it is given for time and place, and what its output F, or the gradient of its
// potential, is compared with (fokker/formulas/form.hpp).
template <class T>
struct DenoisingChunk {
  const T* t;                    // [n] τ
  const T* x;                    // [n, d] C x
  const T* target;               // [n, d]
  const T* weight;               // [n], or nullptr: 1
  const T* condition = nullptr;  // [n, c], of a network that takes one
};
// Points of the model.
template <class T>
struct CollocationChunk {
  const T* t;  // [n]
  const T* x;  // [n, d]
  const T* condition = nullptr;
};

// How many numbers a point may take of a source's storage: t and a weight, x and a target with its condition, and once
// more both.
inline std::int64_t point_numbers(const Architecture& architecture) {
  return 2 + 2 * (architecture.dimension + architecture.condition.inputs) +
         (architecture.conditional() ? architecture.dimension : 0);
}

// Points first … first + n − 1 of the batch. `storage` has room for n point_numbers() and may hold what is returned, so
// that points are drawn on the thread, and into the cache, where they are used.
template <class T>
using DenoisingSource = std::function<DenoisingChunk<T>(std::int64_t first, std::int64_t n, T* storage)>;
template <class T>
using CollocationSource = std::function<CollocationChunk<T>(std::int64_t first, std::int64_t n, T* storage)>;

struct LossSums {
  double denoising = 0;  // mean over points and coordinates
  double residual = 0;   // mean over points; of R̂₁ R̂₂ by probes
};

// The number of chunks depends on the batch alone, and partial sums are added in chunk order: results are the same for
// any number of threads, and of ranks, each of which takes a range of the chunks and has the whole result.
template <class T>
class ChunkedLoss {
 public:
  ChunkedLoss(const Architecture& architecture, const ForwardSde& sde, int threads,
              std::shared_ptr<Ranks> ranks = one_rank());
  ~ChunkedLoss();
  ChunkedLoss(ChunkedLoss&&) noexcept;

  // parameters [P], gradient [P] (overwritten; nullptr: losses only): of denoising + residual_weight · residual, which
  // `divergence` tells as CollocationBatch has it.
  LossSums evaluate(const T* parameters, std::int64_t denoising_points, const DenoisingSource<T>& denoising,
                    std::int64_t collocation_points, const CollocationSource<T>& collocation, double residual_weight,
                    T* gradient, const Divergence& divergence = {});

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fokker::cpu
