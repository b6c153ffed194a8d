#pragma once

// Losses of resident networks and their gradients (loss.cu); conventions as in launch.hpp.
#include <cstdint>

#include "launch.hpp"
#include "loss_layout.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {

// One network's losses and their gradient; pointers are to device memory.
struct LossTask {
  const float* parameters;  // [P], in the layout of Architecture
  // Points are drawn where they are used, or, where points.iteration is nullptr, given as in DenoisingBatch and
  // CollocationBatch. `points` holds their counts and the SDE of either.
  TrainingDraw points;
  const float *denoising_t = nullptr, *denoising_x = nullptr, *denoising_target = nullptr, *denoising_weight = nullptr,
              *collocation_t = nullptr, *collocation_x = nullptr;
  double residual_weight;
  double* values;   // [3] = denoising, mean squared residual, denoising + residual_weight · residual
  float* gradient;  // [P] of the third, or nullptr
  GradientSquares* squares = nullptr;  // those of a gradient of drawn points, or nullptr
  // A resident network's: where every launch packs it anew (PackTask), and resident_loss_workspace() bytes.
  const LayerShape* layers = nullptr;
  void* image = nullptr;
  float* planes = nullptr;
  float* partial = nullptr;
  double* partial_values = nullptr;

  FOKKER_HOST_DEVICE bool drawn() const { return points.iteration != nullptr; }
};

// At set-up, for a loss that fits: as prepare_resident_fields().
Status prepare_resident_loss(const ResidentMlp& net, const DeviceLimits& limits);
// 1 … most_models networks of one shape and form: packs them, and puts their values and gradients where the tasks say. A block
// has at most `warps`: resident_loss_warps(), or fewer, which leave each more planes in shared memory. The order of a
// task's sums depends on the shape, the device, `warps` and the task's numbers of points.
Status launch_resident_loss(const ResidentMlp& net, const NetworkForm& form, int warps, const LossTask* tasks,
                            int count, const DeviceLimits& limits, Stream stream);

// Of several ranks: the chunks of one of them.
struct RankChunks {
  LossChunks of;  // all ranks
  int first, count;
  float* records;  // [count, record_floats(size of a gradient)], on the device

  int blocks() const { return of.first_block(first + count) - of.first_block(first); }
};
// How a task is cut up on any number of ranks: by its points, the shape and the device alone.
LossChunks resident_loss_chunks(const TrainingDraw& points, int warps, const DeviceLimits& limits);
// In place of values and gradients the records of a rank's chunks, to be exchanged and summed (launch_loss_sum()). Each
// task's `partial` and `partial_values` have room for those of its blocks().
Status launch_resident_chunks(const ResidentMlp& net, const NetworkForm& form, int warps, const LossTask* tasks,
                              const RankChunks* chunks, int count, const DeviceLimits& limits, Stream stream);

}  // namespace fokker::kernels
