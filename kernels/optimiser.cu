// The update that ends a training iteration, in two launches for any number of models:
//   squares   Σ g² in double, in 64 parts a model, each a range of the gradient that depends on P alone
//   update    every warp adds the parts in one order, so all agree on the norm, on clipping and on whether to go on;
//             then a thread has one parameter after another: Adam's moments, the parameter, the average
// Cost: 5 numbers read and 3 written a parameter, 9 and 5 with the average.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "device.hpp"
#include "grid.hpp"
#include "halves.hpp"
#include "training_launch.hpp"

namespace fokker::kernels {
namespace {

constexpr int warps = item_threads / 32;

__global__ void gradient_squares(const UpdateTask* tasks) {
  const UpdateTask& task = tasks[block_index() / square_parts];
  const std::int64_t part = block_index() % square_parts, count = task.parameter_count;
  const std::int64_t begin = count * part / square_parts, end = count * (part + 1) / square_parts;
  double sum = 0;
  for (std::int64_t i = begin + thread_index(); i < end; i += block_threads()) {
    const double g = task.gradient[i];
    sum += g * g;
  }
  auto* sums = reinterpret_cast<double*>(shared_memory());  // [warps]
  sum = sum_of_lanes<32>(sum);
  if (lane_index() == 0) sums[warp_index()] = sum;
  sync_block();
  if (thread_index() != 0) return;
  for (int w = 1; w < warps; ++w) sum += sums[w];
  task.squares[part] = sum;
  // The update's blocks all read this one, while the first of them moves the other on.
  if (part == 0) task.progress->updating = task.progress->iteration;
}

__global__ void update_parameters(const UpdateTask* tasks, int blocks) {
  const UpdateTask& task = tasks[block_index() / blocks];
  const int block = block_index() % blocks;
  const std::int64_t iteration = task.progress->updating, entry = iteration - task.progress->first;

  double square = 0;
  for (int part = lane_index(); part < square_parts; part += 32) square += task.squares[part];
  const double norm = std::sqrt(sum_of_lanes<32>(square)), total = task.values[2];
  // Adam squares the gradient in float.
  constexpr double largest = 1e18;
  const double clip = task.clip_norm > 0 && norm > task.clip_norm ? task.clip_norm / norm : 1.0;
  const bool goes_on = std::isfinite(total) && norm * clip <= largest;
  if (block == 0 && thread_index() == 0) {
    task.records[entry] = {task.values[0], task.values[1], total, norm};
    if (goes_on) task.progress->iteration = iteration + 1;
  }
  if (!goes_on) return;

  const UpdateStep step = task.steps[entry];
  AdamStep adam = step.adam;
  adam.gradient_scale = static_cast<float>(clip);
  const std::int64_t stride = static_cast<std::int64_t>(blocks) * block_threads();
  for (std::int64_t i = static_cast<std::int64_t>(block) * block_threads() + thread_index(); i < task.parameter_count;
       i += stride) {
    float first = step.restart ? 0 : task.first_moment[i], second = step.restart ? 0 : task.second_moment[i];
    float parameter = task.parameters[i];
    adam(task.gradient[i], parameter, first, second);
    task.first_moment[i] = first;
    task.second_moment[i] = second;
    task.parameters[i] = parameter;
    if (step.share > 0) task.average[i] += step.share * (double{parameter} - task.average[i]);
  }
}

}  // namespace

Status launch_update(const UpdateTask* tasks, int count, std::int64_t most_parameters, Stream stream) {
  const LaunchShape squares{count * square_parts, item_threads, warps * static_cast<int>(sizeof(double))};
  if (const Status error = launch(gradient_squares, squares, stream, tasks)) return error;
  const int blocks =
      static_cast<int>(std::min<std::int64_t>((most_parameters + item_threads - 1) / item_threads, 4096));
  return launch(update_parameters, {count * blocks, item_threads, 0}, stream, tasks, blocks);
}

Status prepare_update() {
  if (const Status error = prepare(gradient_squares, 0)) return error;
  return prepare(update_parameters, 0);
}

}  // namespace fokker::kernels
