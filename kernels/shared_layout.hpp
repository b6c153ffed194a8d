#pragma once

// Which networks are resident, and where everything lies in the shared memory of a resident kernel's block: the
// network's image, and behind it a piece for each warp. The host decides it, passes it with the launch, and asks here
// how many warps fit. Compiles without CUDA.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "adaptive_launch.hpp"
#include "launch.hpp"

namespace fokker::kernels {

// Widths are padded to one of these; the kernels are compiled for each.
inline constexpr int resident_widths[] = {32, 64, 80, 128};
inline constexpr int widest_resident = 128, most_resident_dimension = 64;
// For second derivatives: at 128 the planes leave room for two warps a block, and the compiler spills.
inline constexpr int widest_resident_curvature = 80;
inline constexpr int padded_width(int width) {
  for (const int w : resident_widths) {
    if (width <= w) return w;
  }
  return 0;
}

// ---- laying memory out ----------------------------------------------------------------------------------------------

// Numbers of one type, from a place on that is `offset` bytes behind the start of a piece of memory.
template <class T>
struct Place {
  int offset = 0;

  FOKKER_HOST_DEVICE T* in(char* memory) const { return reinterpret_cast<T*>(memory + offset); }
  FOKKER_HOST_DEVICE const T* in(const char* memory) const { return reinterpret_cast<const T*>(memory + offset); }
};

// Hands out places one behind another.
class LayoutBuilder {
 public:
  // The next place for `count` numbers, a multiple of `alignment` bytes behind the start.
  template <class T>
  constexpr Place<T> take(int count, int alignment = static_cast<int>(alignof(T))) {
    const int offset = (bytes_ + alignment - 1) / alignment * alignment;
    bytes_ = offset + count * static_cast<int>(sizeof(T));
    return {offset};
  }
  // From the start to the end of what was taken last.
  constexpr int bytes() const { return bytes_; }

 private:
  int bytes_ = 0;
};

// What 16-byte loads read, and what is copied in whole, starts at a multiple of this.
inline constexpr int load_alignment = 16;

// ---- a block's image and a warp's piece -----------------------------------------------------------------------------

// A packed network: global memory has it, and blocks copy it as it is. Everything padded is zero.
struct ImageLayout {
  Place<float> input;        // [1 + d, width]: column i of W_1 in row i
  Place<float> bias;         // [hidden, width]
  Place<float> output;       // [outputs, width]
  Place<float> output_bias;  // [outputs]
  Place<float> factors;      // [hidden − 1]: what a product of the packed matrix has to be multiplied by
  Place<char> matrices;      // [hidden − 1] matrices of matrix_bytes each
  int matrix_bytes;          // fp32: float [width, width + 4] row-major; split, half: fp16 in blocks, see mlp.hpp
  int bytes;                 // of the whole, a multiple of load_alignment
};

inline ImageLayout image_layout(const ResidentMlp& net) {
  const int matrices = net.hidden - 1, entries = net.width * net.width;
  LayoutBuilder memory;
  ImageLayout image;
  image.input = memory.take<float>((1 + net.dimension) * net.width, load_alignment);
  image.bias = memory.take<float>(net.hidden * net.width, load_alignment);
  image.output = memory.take<float>(net.outputs * net.width, load_alignment);
  image.output_bias = memory.take<float>(net.outputs, load_alignment);
  image.factors = memory.take<float>(matrices, load_alignment);
  image.matrix_bytes = net.precision == Precision::fp32    ? net.width * (net.width + 4) * 4
                       : net.precision == Precision::split ? entries * 4
                                                           : entries * 2;
  image.matrices = memory.take<char>(matrices * image.matrix_bytes, load_alignment);
  image.bytes = memory.bytes();
  return image;
}

// Row (t, x) of a sample takes 1 + dimension numbers made odd, so that rows start in different banks.
inline int input_stride(const ResidentMlp& net) { return (1 + net.dimension) | 1; }

// What a warp has for one of the works.
inline constexpr int most_arrays = 5, row_scalars = 3;
struct WarpLayout {
  Place<float> inputs;  // [tile_rows, input_stride]: (t, x) of a sample
  int input_stride;
  Place<float> arrays[most_arrays];  // [tile_rows, dimension] each, of those that the work has
  Place<double> scalars;             // [row_scalars, tile_rows]
  // Adaptive works only: a place for each row, and states, points and slopes.
  Place<AdaptivePlace> path_places;  // [tile_rows]
  Place<double> path_numbers;        // [(2 + stages) · components, tile_rows]
  Place<float> stage;                // fp32 only: [tile_rows, width + 4]
  Place<float> planes;               // [planes, tile_rows, width]
  int bytes;
};

inline WarpLayout warp_layout(const ResidentMlp& net, Work work) {
  const int layers = net.hidden;
  int planes = 0, arrays = 0;
  switch (work) {
    case Work::score:
    case Work::sample:
    case Work::adaptive_sample:
      planes = net.potential ? layers - 1 : 0;
      // x, stage state, score, sum of slopes, normals; of paths with steps of their own the score
      arrays = work == Work::sample ? 5 : work == Work::adaptive_sample ? 1 : 0;
      break;
    case Work::curvature:
    case Work::log_density:
    case Work::adaptive_log_density:
      planes = net.potential ? 2 * layers - 1 : layers;
      arrays = work == Work::log_density ? 5 : work == Work::adaptive_log_density ? 2 : 1;  // as above; probes
      break;
    case Work::hessian:
      planes = net.potential ? 3 * layers - 1 : layers;
      arrays = 1;  // direction
      break;
  }
  const bool adaptive = work == Work::adaptive_sample || work == Work::adaptive_log_density;
  const int components = net.dimension + (work == Work::adaptive_log_density);
  LayoutBuilder memory;
  WarpLayout warp;
  warp.input_stride = input_stride(net);
  warp.inputs = memory.take<float>(tile_rows * warp.input_stride, load_alignment);
  for (int k = 0; k < most_arrays; ++k) warp.arrays[k] = memory.take<float>(k < arrays ? tile_rows * net.dimension : 0);
  warp.scalars = memory.take<double>(row_scalars * tile_rows, load_alignment);
  warp.path_places = memory.take<AdaptivePlace>(adaptive ? tile_rows : 0);
  constexpr int most_stages = static_cast<int>(std::extent_v<decltype(EmbeddedTableau::node)>);
  warp.path_numbers = memory.take<double>(adaptive ? (2 + most_stages) * components * tile_rows : 0);
  warp.stage = memory.take<float>(net.precision == Precision::fp32 ? tile_rows * (net.width + 4) : 0, load_alignment);
  warp.planes = memory.take<float>(planes * tile_rows * net.width, load_alignment);
  warp.bytes = memory.bytes();
  return warp;
}

// Blocks of a launch for n samples: one a tile, and at most one a multiprocessor.
inline int resident_blocks(std::int64_t n, const DeviceLimits& limits) {
  return static_cast<int>(std::min<std::int64_t>((n + tile_rows - 1) / tile_rows, limits.multiprocessors));
}
// The places of adaptive paths in it: a row of a warp each.
inline std::int64_t resident_places(std::int64_t n, int warps, const DeviceLimits& limits) {
  return std::int64_t{resident_blocks(n, limits)} * warps * tile_rows;
}

// Warps of a block that has `shared_bytes` of shared memory, of which some are the block's own; 0: none fits.
inline int warps_that_fit(int shared_bytes, int of_block, int of_warp) {
  return std::clamp((shared_bytes - of_block) / of_warp, 0, most_warps);
}

// Warps of a block for this work where a block may have `shared_bytes` of shared memory; 0: it does not fit.
inline int resident_warps(const ResidentMlp& net, Work work, int shared_bytes) {
  if (needs_curvature(work) && net.width > widest_resident_curvature) return 0;
  return warps_that_fit(shared_bytes, image_layout(net).bytes, warp_layout(net, work).bytes);
}

}  // namespace fokker::kernels
