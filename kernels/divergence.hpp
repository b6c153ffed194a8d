#pragma once

// ∇·s of a tile of a resident network, exact or by Hutchinson's probes drawn here; shared by fields and log-densities.
#include "mlp.hpp"
#include "random.hpp"

namespace fokker::kernels {

// v [16, d] = probe `probe` of rows 0 … 15, which are samples index_of(row).
template <class IndexOf>
__device__ __forceinline__ void draw_probes(const Divergence& estimate, const IndexOf& index_of, int probe, int d,
                                            float* v) {
  sync_warp();  // the last probe's readers
  const int blocks = (d + 3) / 4;
  for (int i = lane_index(); i < tile_rows * blocks; i += 32) {
    const int row = i / blocks, block = i - row * blocks;
    float entries[4];
    probe4(estimate, index_of(row), static_cast<std::uint32_t>(block), probe, entries);
    for (int k = 0; k < 4 && 4 * block + k < d; ++k) v[row * d + 4 * block + k] = entries[k];
  }
  sync_warp();
}

// The divergence in the lane's rows, from the derivatives that forward (and reverse) left. index_of(row): of its sample.
template <Precision P, int W, Work kWork, bool kTimed, class IndexOf>
__device__ __forceinline__ void divergence(const ResidentMlp& net, WarpMlp<P, W, kWork, kTimed>& mlp,
                                           const Divergence& estimate, const IndexOf& index_of, float* probe,
                                           float (&sum)[2]) {
  sum[0] = sum[1] = 0;
  const bool exact = estimate.probes == 0;
  const int count = exact ? net.dimension : estimate.probes;
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    Tile<W> tile;
    if (exact) {
      mlp.set_axis(k, tile);
    } else {
      draw_probes(estimate, index_of, k, net.dimension, probe);
      mlp.set_direction(probe, tile);
    }
    if (net.potential) {
      mlp.tangent(tile, sum);
      continue;
    }
    mlp.vector_tangent(tile);
    float along[2];
    if (exact) {
      mlp.score_derivative(k, tile, along);
    } else {
      mlp.along(tile, probe, along);
    }
    sum[0] += along[0];
    sum[1] += along[1];
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (net.potential) sum[r] = row_sum(sum[r]);
    if (!exact) sum[r] /= static_cast<float>(estimate.probes);
  }
}

}  // namespace fokker::kernels
