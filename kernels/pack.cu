// Packs parameters into the image that resident kernels copy into shared memory (mlp.hpp says what it holds): a block
// for each layer of each network. A hidden matrix in fp16 takes one power of two, from its largest weight: the block
// reads the matrix twice.
#include "mlp.hpp"

namespace fokker::kernels {
namespace {

constexpr int pack_threads = 256;

struct PackArguments {
  ResidentMlp net;
  ImageLayout image;
  PackTask tasks[most_models];
};

// max |w| over the block's threads.
__device__ __forceinline__ float block_max(float v) {
  float* const of_warps = shared_array<float>();
  v = largest_of_lanes<32>(v);
  if (lane_index() == 0) of_warps[warp_index()] = v;
  sync_block();
  for (int w = 0; w < block_threads() / 32; ++w) v = fmaxf(v, of_warps[w]);
  return v;
}

// Where entry (row, column) of a matrix [width, width] lies among blocks of 16 × 16, each of four 8 × 8 matrices (2 ·
// rows' half + columns' half) with `parts` consecutive copies: the number of 16-bit words before it.
__device__ __forceinline__ int block_offset(int width, int row, int column, int parts) {
  const int block = row / 16 * (width / 16) + column / 16, matrix = 2 * (row % 16 / 8) + column % 16 / 8;
  return block * 256 * parts + matrix * 64 + row % 8 * 8 + column % 8;
}

__device__ __forceinline__ void pack_matrix(const ResidentMlp& net, const LayerShape& layer, const float* weights,
                                            void* matrix, float* factor) {
  const int count = layer.outputs * layer.inputs, width = net.width;
  if (net.precision == Precision::fp32) {
    for (int i = thread_index(); i < count; i += block_threads()) {
      const int row = i / layer.inputs, column = i - row * layer.inputs;
      static_cast<float*>(matrix)[row * (width + 4) + column] = weights[i];
    }
    if (thread_index() == 0) *factor = 1;
    return;
  }
  float largest = 0;
  for (int i = thread_index(); i < count; i += block_threads()) largest = fmaxf(largest, fabsf(weights[i]));
  const RowScale scale(block_max(largest));
  const int parts = net.precision == Precision::split ? 2 : 1;
  auto* words = static_cast<std::uint16_t*>(matrix);
  for (int i = thread_index(); i < count; i += block_threads()) {
    const int row = i / layer.inputs, column = i - row * layer.inputs;
    const float x = weights[i] * scale.up;
    const SplitPair halves(x, 0);
    std::uint16_t* entry = words + block_offset(width, row, column, parts);
    entry[0] = static_cast<std::uint16_t>(halves.high);
    if (parts == 2) entry[256] = static_cast<std::uint16_t>(halves.low);
  }
  if (thread_index() == 0) *factor = scale.down;
}

__global__ void __launch_bounds__(pack_threads) pack_image(PackArguments a) {
  const int l = block_index() % (a.net.hidden + 1), width = a.net.width;
  const PackTask& task = a.tasks[block_index() / (a.net.hidden + 1)];
  const LayerShape layer = task.layers[l];
  const float *weights = task.parameters + layer.weight, *biases = task.parameters + layer.bias();
  char* image = static_cast<char*>(task.image);
  float* bias = l < a.net.hidden ? a.image.bias.in(image) + l * width : a.image.output_bias.in(image);
  for (int i = thread_index(); i < layer.outputs; i += block_threads()) bias[i] = biases[i];
  if (l > 0 && l < a.net.hidden) {
    pack_matrix(a.net, layer, weights, a.image.matrices.in(image) + (l - 1) * a.image.matrix_bytes,
                a.image.factors.in(image) + l - 1);
    return;
  }
  for (int i = thread_index(); i < layer.outputs * layer.inputs; i += block_threads()) {
    const int row = i / layer.inputs, column = i - row * layer.inputs;
    if (l == 0) {
      a.image.input.in(image)[column * width + row] = weights[i];
    } else {
      a.image.output.in(image)[row * width + column] = weights[i];
    }
  }
}

}  // namespace

Status prepare_pack_image() { return prepare(pack_image, 0); }

Status launch_pack_image(const ResidentMlp& net, const PackTask* tasks, int count, Stream stream) {
  PackArguments a{.net = net, .image = image_layout(net), .tasks = {}};
  for (int k = 0; k < count; ++k) a.tasks[k] = tasks[k];
  const LaunchShape shape{count * (net.hidden + 1), pack_threads, pack_threads / 32 * static_cast<int>(sizeof(float))};
  return launch(pack_image, shape, stream, a);
}

}  // namespace fokker::kernels
