#pragma once

// Losses of resident networks and their gradients (loss.cu); conventions as in launch.hpp.
#include <cstdint>

#include "launch.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {

// One network's loss; device pointers.
struct ResidentLossTask {
  PackTask network;  // packed anew by every launch
  // Workspace, of resident_loss_workspace() bytes.
  float* planes;
  float* partial;
  double* partial_values;
  // Points as in DenoisingBatch and CollocationBatch, or all nullptr: drawn. `points` holds their counts and the SDE.
  const float *denoising_t, *denoising_x, *denoising_target, *denoising_weight, *collocation_t, *collocation_x;
  bool drawn;
  TrainingDraw points;
  double residual_weight;
  double* values;            // [3]
  float* gradient;           // [P], or nullptr
  GradientSquares* squares;  // of a gradient of drawn points, or nullptr
};

// At set-up, for a loss that fits: as prepare_resident_fields().
Status prepare_resident_loss(const ResidentMlp& net, const DeviceLimits& limits);
// 1 … most_models networks of one shape: packs them, and puts their values and gradients where the tasks say. A block
// has at most `warps`: resident_loss_warps(), or fewer, which leave each more planes in shared memory. The order of a
// task's sums depends on the shape, the device, `warps` and the task's numbers of points.
Status launch_resident_loss(const ResidentMlp& net, int warps, const ResidentLossTask* tasks, int count,
                            const DeviceLimits& limits, Stream stream);

}  // namespace fokker::kernels
