// The second pass of the resident loss (loss.cu): every derivative as the sum of the blocks' partial ones in their
// order, the losses likewise, and a part of the gradient's squares from each of this pass's own blocks. Of several ranks
// it sums the blocks of each chunk first, and then, as the wide loss does (cuda/loss_wide.cpp), the chunks of all ranks.
// Ours and not CUB's segmented sum, whose order depends on the device, while here the blocks of the loss say it.
#include <algorithm>
#include <cstdint>

#include "grid.hpp"
#include "loss_sum_launch.hpp"
#include "tile.hpp"

namespace fokker::kernels {
namespace {

// Row and column of number i among fragments of a matrix with `columns` columns.
__device__ __forceinline__ void fragment_place(int i, int columns, int& row, int& column) {
  const int block = i / fragment_floats, lane = i % fragment_floats / 4, e = i % 4;
  row = block / (columns / 8) * 16 + block_row(lane, e >> 1);
  column = block % (columns / 8) * 8 + block_column(lane, e & 1);
}

// The parameter whose derivative lies at `place` of a partial gradient; −1: padding.
__device__ __forceinline__ int parameter_of(const ResidentMlp& net, const LossGradientLayout& layout,
                                            const LayerShape* layers, int place) {
  if (layers == nullptr) return place;
  int row, column, l;
  if (place < layout.hidden) {
    l = 0;
    fragment_place(place, layout.first_columns, row, column);
  } else if (place < layout.bias) {
    const int size = net.width * net.width;
    l = 1 + (place - layout.hidden) / size;
    fragment_place((place - layout.hidden) % size, net.width, row, column);
  } else if (place < layout.output) {
    l = (place - layout.bias) / net.width;
    row = (place - layout.bias) % net.width;
    return row < layers[l].outputs ? layers[l].bias() + row : -1;
  } else if (place < layout.output_bias) {
    l = net.hidden;
    row = 0;
    column = place - layout.output;
    if (!net.potential) fragment_place(place - layout.output, net.width, row, column);
  } else {
    row = place - layout.output_bias;
    return row < net.outputs ? layers[net.hidden].bias() + row : -1;
  }
  const LayerShape layer = layers[l];
  return row < layer.outputs && column < layer.inputs ? layer.weight + row * layer.inputs + column : -1;
}

// Σ of number `place` of partial gradients, in their order.
__device__ __forceinline__ double sum_in_order(const float* partial, int count, std::int64_t stride, int place) {
  double sum = 0;
#pragma unroll 16  // loads in flight: nothing else hides their latency
  for (int b = 0; b < count; ++b) sum += partial[b * stride + place];
  return sum;
}

__global__ void __launch_bounds__(item_threads) sum_loss(LossSumArguments a, int blocks_of_task) {
  const auto& task = a.tasks[block_index() / blocks_of_task];
  const int part = block_index() % blocks_of_task;
  if (part == 0 && thread_index() == 0) {
    double sums[2] = {0, 0};
    for (int b = 0; b < task.partial_count; ++b) {
      sums[0] += task.partial_values[b * task.values_stride];
      sums[1] += task.partial_values[b * task.values_stride + 1];
    }
    const double n = static_cast<double>(task.denoising_points), m = static_cast<double>(task.collocation_points);
    const double denoising = n > 0 ? sums[0] / (n * a.net.dimension) : 0, residual = m > 0 ? sums[1] / m : 0;
    task.values[0] = denoising;
    task.values[1] = residual;
    task.values[2] = denoising + task.residual_weight * residual;
  }
  if (task.gradient == nullptr) return;
  double squares = 0;
  for (int place = part * block_threads() + thread_index(); place < a.gradient.size;
       place += blocks_of_task * block_threads()) {
    const int parameter = parameter_of(a.net, a.gradient, task.layers, place);
    if (parameter < 0) continue;
    const auto derivative =
        static_cast<float>(sum_in_order(task.partial, task.partial_count, task.partial_stride, place));
    task.gradient[parameter] = derivative;
    squares += double{derivative} * double{derivative};
  }
  if (task.squares == nullptr) return;
  squares = block_sum(squares);
  if (thread_index() == 0) task.squares->leave(part, blocks_of_task, *task.iteration, squares);
}

__global__ void __launch_bounds__(item_threads) sum_chunks(ChunkSumArguments a, int blocks_of_task) {
  const auto& task = a.tasks[block_index() / blocks_of_task];
  const std::int64_t items = std::int64_t{task.count} * a.size,
                     stride = static_cast<std::int64_t>(blocks_of_task) * block_threads();
  for (std::int64_t item = static_cast<std::int64_t>(block_index() % blocks_of_task) * block_threads() + thread_index();
       item < items; item += stride) {
    const int chunk = static_cast<int>(item / a.size), place = static_cast<int>(item - std::int64_t{chunk} * a.size);
    const int before = task.of.first_block(task.first + chunk) - task.of.first_block(task.first),
              count = task.of.first_block(task.first + chunk + 1) - task.of.first_block(task.first + chunk);
    float* const record = task.records + chunk * record_floats(a.size);
    record[record_head + place] =
        static_cast<float>(sum_in_order(task.partial + std::int64_t{before} * a.size, count, a.size, place));
    if (place > 0) continue;
    double sums[2] = {0, 0};
    for (int b = before; b < before + count; ++b) {
      sums[0] += task.partial_values[2 * b];
      sums[1] += task.partial_values[2 * b + 1];
    }
    reinterpret_cast<double*>(record)[0] = sums[0];
    reinterpret_cast<double*>(record)[1] = sums[1];
  }
}

}  // namespace

Status prepare_loss_sum() {
  if (const Status error = prepare(sum_chunks, 0)) return error;
  return prepare(sum_loss, 0);
}

Status launch_loss_sum(const LossSumArguments& arguments, int count, Stream stream) {
  const int blocks_of_task = one_item_a_thread(arguments.gradient.size, most_square_parts).blocks;
  const LaunchShape shape{count * blocks_of_task, item_threads, block_sum_bytes(item_threads)};
  return launch(sum_loss, shape, stream, arguments, blocks_of_task);
}

Status launch_chunk_sum(const ChunkSumArguments& arguments, int count, Stream stream) {
  std::int64_t most = 0;
  for (int k = 0; k < count; ++k) most = std::max<std::int64_t>(most, arguments.tasks[k].count);
  if (most == 0) return 0;
  const int blocks_of_task = one_item_a_thread(most * arguments.size, most_square_parts).blocks;
  return launch(sum_chunks, LaunchShape{count * blocks_of_task, item_threads, 0}, stream, arguments, blocks_of_task);
}

}  // namespace fokker::kernels
