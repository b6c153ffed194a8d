#pragma once

// What is measured: models, random points and batches, the same for every run and for the comparison with other
// libraries.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fokker/fokker.hpp"

namespace fokker::bench {

// The paper's network with parameters drawn at random, β as given.
Model paper_model(double beta = 100);
Model network(const Architecture& architecture);
// A noise net of three layers of 128 with SiLU, whose time is raw or goes through a branch of 32 into every hidden layer.
Model noise_model(bool time_branch);
// The paper's network after so many iterations on circles2. A few hundred keep the samples of the reverse SDE where
// those of a well trained network stay; with random parameters they grow by e^T.
Model trained_model(std::int64_t iterations);
inline constexpr std::int64_t sampling_iterations = 400;

// Multiply-adds of one sweep through the network and its time branch at one point, two FLOP each.
double flop_per_sweep(const Architecture& architecture);

// Times uniform on [t_min, T], positions uniform on [−3.5, 3.5]^d: [N], [N, d].
struct RandomPoints {
  std::vector<float> t, x;
  std::int64_t dimension;

  Points<float> view() const { return {View<const float>(t), View<const float>(x, dimension)}; }
};
RandomPoints random_points(const ForwardSde& sde, std::int64_t dimension, std::int64_t n, std::uint64_t seed);

// Denoising points of circles2 under the paper's law of times, and their targets −(x_t − m x_0)/σ².
struct RandomBatch {
  std::vector<float> t, x, target;
  DenoisingBatch<float> view() const {
    return {View<const float>(t), View<const float>(x, 2), View<const float>(target, 2), {}};
  }
};
RandomBatch random_batch(const ForwardSde& sde, std::int64_t n, std::uint64_t seed);

TrainOptions paper_training(std::int64_t denoising_points, std::int64_t collocation_points);

// `got` against `want`: rms of the difference over rms of `want` at most `rms_bound`, and no element further than
// `element_bound` times that rms. Returns a sentence where it is not so (or where something is not finite), else "".
std::string compare(const std::string& name, const float* got, const double* want, std::int64_t n, double rms_bound,
                    double element_bound);

// Points of the fields, of a training iteration (0: none) and samples of whole paths (0: none).
struct ReferenceSizes {
  std::int64_t fields = 50'000, denoising = 0, collocation = 0, samples = 0;
};
// Inputs, parameters and our results of the measured works, in float32 and one safetensors file, so that another
// library can show that it does the same work.
void write_reference(const std::string& path, const Context& context, const ReferenceSizes& sizes);

}  // namespace fokker::bench
