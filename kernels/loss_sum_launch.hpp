#pragma once

// Sums of partial gradients and losses in their order (loss_sum.cu); conventions as in launch.hpp.
#include <cstdint>

#include "loss_layout.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {

// Pointers are to device memory.
struct LossSumArguments {
  ResidentMlp net;              // of partial gradients without layers the dimension alone
  LossGradientLayout gradient;  // of those without layers the size alone
  struct {
    int partial_count;
    const LayerShape* layers;  // or nullptr: a partial gradient has its parameters' order
    const float* partial;      // gradient.size each, partial_stride apart
    std::int64_t partial_stride;
    const double* partial_values;  // two each, values_stride apart
    std::int64_t values_stride;
    std::int64_t denoising_points, collocation_points;
    double residual_weight;
    const std::int64_t* iteration;
    double* values;
    float* gradient;           // or nullptr
    GradientSquares* squares;  // or nullptr
  } tasks[most_models];
};

// Of several ranks: the sums of a resident loss's blocks over each of a rank's chunks.
struct ChunkSumArguments {
  int size;  // of a gradient
  struct {
    LossChunks of;  // all ranks
    int first, count;
    const float* partial;          // [blocks of these chunks, size]
    const double* partial_values;  // [blocks of these chunks, 2]
    float* records;                // [count, record_floats(size)]
  } tasks[most_models];
};

Status prepare_loss_sum();
// For the first `count` tasks.
Status launch_loss_sum(const LossSumArguments& arguments, int count, Stream stream);
Status launch_chunk_sum(const ChunkSumArguments& arguments, int count, Stream stream);

}  // namespace fokker::kernels
