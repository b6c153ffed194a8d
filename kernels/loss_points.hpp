#pragma once

// The points of a resident loss: read or drawn where they are used, as the network takes them, and what its output at
// them gives, the loss and the seeds c, w and ν of its gradient (src/operations/LOSS_GRADIENT.md).
#include <cstdint>

#include "fokker/formulas/form_points.hpp"
#include "loss_products.hpp"
#include "training_points.hpp"

namespace fokker::kernels {

template <Precision P, int W>
class LossPoints : public LossProducts<P, W> {
  using Products = LossProducts<P, W>;

 protected:
  using Products::block_task, Products::coefficient, Products::formed, Products::inputs, Products::net_,
      Products::of_residual, Products::potential, Products::seeds, Products::share, Products::stride, Products::task,
      Products::tile_index, Products::value_seed, Products::values, Products::weights;
  using Products::Products;
  using typename Products::Coefficient;

  // The tile's points into inputs(); with weights() = their weight, seeds() = (0, target) of denoising points, and the
  // coefficients of collocation points. Rows beyond the last point, and all rows of a warp that holds none, have the
  // weight and the coefficients zero. The last tile's readers are done: behind all of them a warp or the block has met.
  __device__ __forceinline__ void load_points() {
    this->protocol_.begin(net_.hidden);
    const bool residual = of_residual();
    const int tile = residual ? tile_index() : tile_index() - block_task().collocation_tiles;
    const std::int64_t beyond = residual ? task().points.collocation_points : task().points.denoising_points;
    std::int64_t first = (std::int64_t{tile} * share().warps + warp_index()) * tile_rows;
    if (warp_index() >= share().warps) first = beyond;
    if (residual) {
      load_collocation(first);
      sync_warp();
      if (lane_index() < tile_rows) collocation_to_network(lane_index());
    } else {
      load_denoising(first);
      if (formed() && !task().drawn()) {
        sync_warp();
        if (lane_index() < tile_rows && first + lane_index() < beyond) denoising_to_network(lane_index());
      }
    }
    sync_warp();
  }

  // From δ_1, or h_L of a vector net: the loss, and seeds() = c in place of the target.
  __device__ __forceinline__ void seed_denoising(const Tile<W>& tile) {
    this->protocol_.enter("seed_denoising", potential() ? TileHolds::delta_first : TileHolds::h_last,
                          LayerHolds::anything);
    const int d = net_.dimension;
    const auto scale =
        static_cast<float>(2.0 / (static_cast<double>(task().points.denoising_points) * static_cast<double>(d)));
    double sum[2] = {0, 0};
#pragma unroll 1
    for (int i = 0; i < d; ++i) {
      float score[2];
      this->score(i, tile, score);
      if (!leads_rows()) continue;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& c = seeds()[tile_row(r) * stride() + 1 + i];
        const float error = score[r] - c, weight = weights()[tile_row(r)];
        sum[r] += static_cast<double>(weight) * error * error;
        c = scale * weight * error;
      }
    }
    if (leads_rows()) {
#pragma unroll
      for (int r = 0; r < 2; ++r) values()[tile_row(r)] += sum[r];
    }
    sync_warp();
  }

  // From δ_1, and where the form is not plain Φ in the first of seeds(): seeds() = (R but for its Laplacian, along h −
  // 2 gradient ∇Φ) and weights() = curvature, zero in rows that are not points.
  __device__ __forceinline__ void first_order_residual(const Tile<W>& tile) {
    this->protocol_.enter("first_order_residual", TileHolds::delta_first, LayerHolds::anything);
    const int d = net_.dimension;
    float along[2], gradient[2], sum[2];
    this->dot(tile, this->input(0), sum);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      along[r] = coefficient(Coefficient::along, tile_row(r));
      gradient[r] = coefficient(Coefficient::gradient, tile_row(r));
      sum[r] *= coefficient(Coefficient::time, tile_row(r));
      sum[r] += coefficient(Coefficient::constant, tile_row(r)) * static_cast<float>(d);
    }
#pragma unroll 1
    for (int i = 0; i < d; ++i) {
      float score[2];
      this->score(i, tile, score);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float flow = along[r] * inputs()[tile_row(r) * stride() + 1 + i];
        sum[r] = fmaf(score[r], fmaf(-gradient[r], score[r], flow), sum[r]);
        if (leads_rows()) {
          seeds()[tile_row(r) * stride() + 1 + i] = weights()[tile_row(r)] * fmaf(-2 * gradient[r], score[r], flow);
        }
      }
    }
    if (!leads_rows()) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float& seed = seeds()[tile_row(r) * stride()];
      if (formed()) {
        sum[r] +=
            fmaf(coefficient(Coefficient::value, tile_row(r)), seed, coefficient(Coefficient::square, tile_row(r)));
      }
      seed = weights()[tile_row(r)] * sum[r];
      weights()[tile_row(r)] *= coefficient(Coefficient::curvature, tile_row(r));
    }
  }

  // From there and the lanes' parts of the Laplacian: the loss, seeds() = c, weights() = w and ν.
  __device__ __forceinline__ void seed_residual(const float (&trace)[2]) {
    const auto scale =
        static_cast<float>(2 * task().residual_weight / static_cast<double>(task().points.collocation_points));
    const float laplacian[2] = {row_sum(trace[0]), row_sum(trace[1])};
    if (leads_rows()) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float *c = seeds() + tile_row(r) * stride(), &w = weights()[tile_row(r)];
        const float residual = fmaf(-w, laplacian[r], c[0]), factor = scale * residual;
        values()[tile_rows + tile_row(r)] += static_cast<double>(residual) * residual;
        w *= -factor;
        c[0] = coefficient(Coefficient::time, tile_row(r)) * factor;
        if (formed()) value_seed(tile_row(r)) = coefficient(Coefficient::value, tile_row(r)) * factor;
#pragma unroll 1
        for (int i = 1; i <= net_.dimension; ++i) c[i] *= factor;
      }
    }
    sync_warp();
  }

 private:
  // A row's point of the model as one of the network, with the coefficients of its residual; of the square's all of its
  // term.
  __device__ __forceinline__ void collocation_to_network(int row) {
    float* const point = inputs() + row * stride();
    ResidualCoefficients<float> c{};
    if (weights()[row] != 0) {
      const NetworkForm& form = block_task().form;
      const SdeFormulas& sde = task().points.sde;
      c = rounded<float>(residual_at(form, sde, static_cast<double>(point[0])));
      if (formed()) {
        float unused;
        network_point(form, sde, net_.dimension, point[0], point + 1, static_cast<const float*>(nullptr), 1.0f,
                      point[0], point + 1, static_cast<float*>(nullptr), unused);
        float squares = 0;
        for (int i = 1; i <= net_.dimension; ++i) squares = fmaf(point[i], point[i], squares);
        c.square *= squares;
      }
    }
    const float all[] = {c.constant, c.square, c.value, c.time, c.along, c.curvature, c.gradient};
#pragma unroll
    for (int k = 0; k < static_cast<int>(Coefficient::count); ++k)
      coefficient(static_cast<Coefficient>(k), row) = all[k];
  }
  __device__ __forceinline__ void denoising_to_network(int row) {
    float *const point = inputs() + row * stride(), *const target = seeds() + row * stride() + 1;
    network_point(block_task().form, task().points.sde, net_.dimension, point[0], point + 1,
                  static_cast<const float*>(target), weights()[row], point[0], point + 1, target, weights()[row]);
  }

  __device__ __forceinline__ void load_denoising(std::int64_t first) {
    const TrainingDraw& points = task().points;
    const int d = net_.dimension, lane = lane_index();
    if (task().drawn()) {
      if (lane < tile_rows) {
        const auto index = static_cast<std::uint64_t>(first + lane);
        float *x = inputs() + lane * stride(), *target = seeds() + lane * stride(), weight;
        denoising_point(points, block_task().form, static_cast<std::uint64_t>(*points.iteration), index, x[0], x + 1,
                        target + 1, weight);
        target[0] = 0;
        weights()[lane] = first + lane < points.denoising_points ? weight : 0.0f;
      }
    } else {
      for (int i = lane; i < tile_rows * (1 + d); i += 32) {
        const int r = i / (1 + d), column = i - r * (1 + d);
        const std::int64_t index = first + r, entry = index * d + column - 1;
        const bool there = index < points.denoising_points;
        inputs()[r * stride() + column] = !there        ? 0.0f
                                          : column == 0 ? task().denoising_t[index]
                                                        : task().denoising_x[entry];
        seeds()[r * stride() + column] = there && column > 0 ? task().denoising_target[entry] : 0.0f;
        if (column == 0) {
          weights()[r] = !there ? 0.0f : task().denoising_weight ? task().denoising_weight[index] : 1.0f;
        }
      }
    }
  }

  __device__ __forceinline__ void load_collocation(std::int64_t first) {
    const TrainingDraw& points = task().points;
    const int d = net_.dimension, lane = lane_index();
    if (task().drawn()) {
      if (lane < tile_rows) {
        float* x = inputs() + lane * stride();
        weights()[lane] = first + lane < points.collocation_points ? 1.0f : 0.0f;
        collocation_point(points, static_cast<std::uint64_t>(*points.iteration),
                          static_cast<std::uint64_t>(first + lane), x[0], x + 1);
      }
    } else {
      for (int i = lane; i < tile_rows * (1 + d); i += 32) {
        const int r = i / (1 + d), column = i - r * (1 + d);
        const std::int64_t index = first + r;
        const bool there = index < points.collocation_points;
        inputs()[r * stride() + column] = !there        ? 0.0f
                                          : column == 0 ? task().collocation_t[index]
                                                        : task().collocation_x[index * d + column - 1];
        if (column == 0) weights()[r] = there ? 1.0f : 0.0f;
      }
    }
  }
};

}  // namespace fokker::kernels
