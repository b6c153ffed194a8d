// The update that ends a training iteration, in one launch for any number of models. The loss has left the gradient,
// its values, and Σ g² in parts: every warp adds the parts in one order, so all agree on the norm, on clipping and on
// whether to go on; then a thread has one parameter after another: clipping, Adam's moments, the parameter, the
// average. No parameter may move before the whole norm is known, for clipping and for the promise that a failed
// iteration changes nothing. Without a barrier across the grid that takes a launch of its own: the sum over blocks that
// makes the gradient and this one are the fewest there can be. Cost: 5 numbers read and 3 written a parameter, 9 and 5
// with the average.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "device.hpp"
#include "grid.hpp"
#include "halves.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {
namespace {

__global__ void update_parameters(const UpdateTask* tasks, int blocks) {
  const UpdateTask& task = tasks[block_index() / blocks];
  const int block = block_index() % blocks;
  const std::int64_t iteration = task.squares->iteration, entry = iteration - task.plan->first;
  if (entry < 0) return;  // it failed in an earlier slice

  double square = 0;
  for (int part = lane_index(); part < task.squares->count; part += 32) square += task.squares->parts[part];
  const double norm = std::sqrt(sum_of_lanes<32>(square)), total = task.values[2];
  const double clip = task.clip_norm > 0 && norm > task.clip_norm ? task.clip_norm / norm : 1.0;
  const bool goes_on = std::isfinite(total) && norm * clip <= largest_norm;
  if (block == 0 && thread_index() == 0) {
    task.report->records[entry] = {task.values[0], task.values[1], total, norm};
    if (goes_on) task.report->iteration = iteration + 1;
  }
  if (!goes_on) return;

  const UpdateStep step = task.plan->steps[entry];
  AdamStep adam = step.adam;
  adam.gradient_scale = static_cast<float>(clip);
  const std::int64_t stride = static_cast<std::int64_t>(blocks) * block_threads();
  for (std::int64_t i = static_cast<std::int64_t>(block) * block_threads() + thread_index(); i < task.parameter_count;
       i += stride) {
    float first_moment = step.restart ? 0 : task.first_moment[i];
    float second_moment = step.restart ? 0 : task.second_moment[i];
    float parameter = task.parameters[i];
    adam(task.gradient[i], parameter, first_moment, second_moment);
    task.first_moment[i] = first_moment;
    task.second_moment[i] = second_moment;
    task.parameters[i] = parameter;
    if (step.share > 0) task.average[i] += step.share * (double{parameter} - task.average[i]);
  }
}

}  // namespace

Status launch_update(const UpdateTask* tasks, int count, std::int64_t most_parameters, Stream stream) {
  const int blocks = one_item_a_thread(most_parameters, 4096).blocks;
  return launch(update_parameters, {count * blocks, item_threads, 0}, stream, tasks, blocks);
}

Status prepare_update() { return prepare(update_parameters, 0); }

}  // namespace fokker::kernels
