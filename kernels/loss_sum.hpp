#pragma once

// The second pass of the resident loss, loss_sum.cu, as the first one launches it.
#include <cstdint>

#include "loss_layout.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {

// Pointers are to device memory.
struct LossSumArguments {
  ResidentMlp net;
  LossGradientLayout gradient;
  struct {
    int partial_count;  // blocks of the first pass
    const LayerShape* layers;
    const float* partial;          // [partial_count, gradient.size]
    const double* partial_values;  // [partial_count, 2]
    std::int64_t denoising_points, collocation_points;
    double residual_weight;
    const std::int64_t* iteration;
    double* values;
    float* gradient;           // or nullptr
    GradientSquares* squares;  // or nullptr
  } tasks[most_models];
};

Status prepare_loss_sum();
// For the first `count` tasks.
Status launch_loss_sum(const LossSumArguments& arguments, int count, Stream stream);

}  // namespace fokker::kernels
