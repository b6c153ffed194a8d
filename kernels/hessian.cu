// Products of a resident network's Hessian (of a vector net: its Jacobian) with a vector, and the whole matrix, column
// by column, by one tangent and one adjoint sweep each; see mlp.hpp. The lower triangle of a potential's Hessian is
// that of the upper one, so that the matrix is symmetric to the bit.
#include "mlp.hpp"

namespace fokker::kernels {
namespace {

template <Precision P, int W>
__global__ void __launch_bounds__(32 * most_warps, 1) resident_hessian(ResidentPlan plan, HessianArguments a) {
  load_image(plan);
  const ResidentMlp& net = plan.net;
  WarpMlp<P, W, Work::hessian> mlp(plan);
  const int d = net.dimension;
  for_tiles(a.n, [&](std::int64_t first, int rows) {
    float* direction = mlp.array(0);
    mlp.load_points(a.t, a.t_stride, a.x, first, rows);
    for (int i = lane_index(); a.direction && i < tile_rows * d; i += 32) {
      direction[i] = i < rows * d ? a.direction[first * d + i] : 0.0f;
    }
    Tile<W> tile;
    float value[2];
    mlp.template forward<false>(tile, value);
    if (net.potential) mlp.reverse(tile);

    const int columns = a.hessian ? d : 1;
#pragma unroll 1
    for (int k = 0; k < columns; ++k) {
      if (a.hessian) {
        mlp.set_axis(k, tile);
      } else {
        mlp.set_direction(direction, tile);
      }
      if (net.potential) {
        float square[2] = {0, 0};
        mlp.tangent(tile, square);
        mlp.adjoint(tile);
      } else {
        mlp.vector_tangent(tile);
      }
#pragma unroll 1
      for (int i = a.hessian && net.potential ? k : 0; i < d; ++i) {
        float product[2];
        mlp.score_derivative(i, tile, product);
        if (!leads_rows()) continue;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = tile_row(r);
          if (row >= rows) continue;
          if (!a.hessian) {
            a.product[(first + row) * d + i] = product[r];
            continue;
          }
          float* matrix = a.hessian + (first + row) * d * d;
          matrix[i * d + k] = product[r];
          if (net.potential) matrix[k * d + i] = product[r];
        }
      }
    }
  });
}

}  // namespace

Status prepare_resident_hessian(const ResidentMlp& net, const DeviceLimits& limits) {
  return with_resident_kernel<Work::hessian>(
      net, [&]<Precision P, int W>() { return prepare(resident_hessian<P, W>, limits.shared_bytes); });
}

Status launch_resident_hessian(const ResidentMlp& net, int warps, const HessianArguments& a, const DeviceLimits& limits,
                               Stream stream) {
  if (a.n == 0) return 0;
  const ResidentLaunch with = resident_launch(net, Work::hessian, warps, a.n, limits);
  return with_resident_kernel<Work::hessian>(
      net, [&]<Precision P, int W>() { return launch(resident_hessian<P, W>, with.shape, stream, with.plan, a); });
}

}  // namespace fokker::kernels
