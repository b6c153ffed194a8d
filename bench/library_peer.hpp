#pragma once

// The paper's work by the libraries of the CUDA toolkit alone, as one writes it without fokker: cuBLAS for products,
// Thrust for what is pointwise, cuRAND for random words, CUB for sums, one launch after another, everything in fp32. A
// peer of fokker_gpu_bench, and what its figures are compared with. For potentials of the plane with softplus or SiLU.
//
// Scores are a forward and a reverse sweep. Losses carry derivatives through the layers beside the values: a layer's
// plane is [streams][points][units], whose streams are the value, ∂_t (of the residual), ∂_x, ∂_y and the Laplacian (of
// the residual), so that a layer is one product of all streams and one pointwise step, and their gradient is the same
// backwards: 9 sweeps of products for a denoising point and 15 for a collocation point, where fokker takes 6 and 12.
//
// Compiled twice: by nvcc, and as C++ on Thrust's C++ backend with plain loops for cuBLAS, where tests hold its numbers
// to the reference without a GPU.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cuda/gemm.hpp"
#include "fokker/fokker.hpp"

namespace fokker::bench {

// What calls have asked of a device: launches, bytes of device memory that they read and wrote, FLOP of products; the
// time that these take at the limits of an H200, the largest of three a launch, which leaves out what its caches hold;
// and the memory in use.
struct LibraryCost {
  std::int64_t launches = 0;
  double bytes = 0, flop = 0, seconds = 0, memory = 0;
};
inline constexpr double h200_bytes_per_second = 4.8e12, h200_flop_per_second = 67e12, h200_seconds_a_launch = 2e-6;

class LibraryPeer {
 public:
  using Multiply = std::function<void(const cuda::Product<float, float>&)>;

  // `multiply` queues products on `stream`. Without it nothing is computed and no pointer is used: calls count what they
  // would cost. Throws Error for other networks than those above.
  LibraryPeer(const Mlp& potential, const ForwardSde& sde, cudaStream_t stream, Multiply multiply);
  ~LibraryPeer();

  // All pointers are of the device, and the calls asynchronous. Points t [N], x [N, 2] with N · width < 2^31.
  void score(const Points<float>& at, View<float> score);        // [N, 2]
  void residual(const Points<float>& at, View<float> residual);  // [N]
  // As Loss<float>::evaluate(), of the peer's parameters where `parameters` is null; without weights of points.
  void losses(const float* parameters, const DenoisingBatch<float>& denoising,
              const CollocationBatch<float>& collocation, double residual_weight, double* values, float* gradient);
  // Paths of the reverse SDE from the prior on, by the words of Sampler's; samples [N, 2].
  void sample(const std::vector<double>& times, std::uint64_t seed, View<float> samples);
  // Iterations of Adam on circles2, by the words of Trainer's. Throws Error for other times than the paper's or uniform
  // ones, another rate than a constant one, a weight or an average.
  void train(const TrainOptions& options, int iterations);
  // Denoising loss, residual loss, total and norm of the gradient of the last iteration, one at least; waits for it.
  std::vector<double> last_record() const;

  // Of the calls since the last.
  LibraryCost take_cost();

 private:
  class Work;
  std::unique_ptr<Work> work_;
};

}  // namespace fokker::bench
