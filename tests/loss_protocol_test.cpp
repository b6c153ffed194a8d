// The sweeps of a resident loss are held to their protocol (kernels/loss_sweeps.hpp): in their order they run, and out
// of it the process ends with a sentence, on the emulation.
#include <gtest/gtest.h>

#include <vector>

#include "cuda_runtime.h"
#include "kernels/loss_sweeps.hpp"

namespace fokker::kernels {
namespace {

enum class Order {
  right,
  reverse_first,
  no_reverse,
  an_axis_left_out,
  first_axis_first,
  no_axis_adjoint,
  no_seed_tangent,
  planes_of_other_points
};

// One tile of collocation points, in an order of the sweeps.
class Ordered : public LossSweeps<Precision::fp32, 32> {
 public:
  using LossSweeps<Precision::fp32, 32>::LossSweeps;

  void sweep(Order order, int dimension) {
    using Indices = LossMemory<Precision::fp32, 32>;
    Indices::set_index(Indices::Index::tile, 0);
    if (order == Order::right) return sum_tile();
    Tile<32> tile;
    Layer<32> layer;
    float trace[2] = {};
    LossPoints<Precision::fp32, 32>::load_points();
    if (order != Order::reverse_first) forward(layer, tile);
    if (order != Order::no_reverse) reverse(layer, tile);
    for (int i = order == Order::an_axis_left_out ? 1 : 0; i < dimension; ++i) axis_tangent(i, layer, tile, trace);
    if (order == Order::planes_of_other_points) LossPoints<Precision::fp32, 32>::load_points();
    for (int k = 0; k < dimension && order != Order::no_axis_adjoint; ++k) {
      Indices::set_index(Indices::Index::axis, order == Order::first_axis_first ? k : dimension - 1 - k);
      axis_adjoint(layer, tile);
    }
    if (order == Order::no_seed_tangent) return adjoint(layer, tile);
    seed_tangent(layer, tile);
  }
};

__global__ void ordered_kernel(ResidentLossPlan plan, LossTask task, Order order) {
  Ordered sweeps(plan);
  if (thread_index() == 0) sweeps.block_task() = {task, {1, 1, 1, 0}, 1, {}, 0, true, false};
  for (int i = thread_index(); i < plan.image.bytes / 4; i += 32) reinterpret_cast<float*>(shared_memory())[i] = 0;
  sync_block();
  sweeps.clear_sums();
  sweeps.sweep(order, plan.net.dimension);
}

ResidentMlp network(int hidden, bool potential) {
  return {.image = nullptr,
          .precision = Precision::fp32,
          .dimension = 2,
          .hidden = hidden,
          .width = 32,
          .outputs = potential ? 1 : 2,
          .potential = potential,
          .activation = Activation::tanh,
          .beta = 1};
}

int run(Order order) {
  const std::vector<float> t(16, 0.5f), x(32, 0.25f);
  std::vector<float> gradient(1);
  LossTask task{};
  task.collocation_t = t.data();
  task.collocation_x = x.data();
  task.points.collocation_points = 16;
  task.residual_weight = 1;
  task.gradient = gradient.data();
  const ResidentLossPlan plan = resident_loss_plan(network(3, true), false, 1, 227 << 10);
  EXPECT_EQ(plan.shared_planes, plan.planes);
  prepare(ordered_kernel, 227 << 10);
  launch(ordered_kernel, {1, 32, plan.block.bytes + plan.warp_bytes}, nullptr, plan, task, order);
  return cudaDeviceSynchronize();
}

TEST(LossProtocol, LetsTheRightOrderThrough) { EXPECT_EQ(run(Order::right), cudaSuccess); }

TEST(LossProtocolDeath, EveryOtherHasItsSentence) {
  EXPECT_DEATH(run(Order::reverse_first),
               "loss protocol: the sweep reverse needs z of the last layer in the tile, which holds anything");
  EXPECT_DEATH(run(Order::no_reverse), "the sweep axis_tangent needs the first layer in `layer`, which holds anything");
  EXPECT_DEATH(run(Order::an_axis_left_out),
               "the sweep axis_tangent reads part 1 of plane squares of layer 1, which holds nothing");
  EXPECT_DEATH(run(Order::first_axis_first),
               "the sweep axis_adjoint reads part 1 of plane source of layer 1, which holds nothing");
  EXPECT_DEATH(run(Order::no_axis_adjoint),
               "the sweep seed_tangent needs the first layer in `layer`, which holds the last layer");
  EXPECT_DEATH(run(Order::no_seed_tangent), "the sweep adjoint needs ζ of the last layer in the tile");
  EXPECT_DEATH(run(Order::planes_of_other_points),
               "the sweep axis_adjoint needs ż of the last layer in the tile, which holds anything");
}

TEST(LossProtocolDeath, PlanesHaveTheirLayers) {
  LossProtocol protocol;
  protocol.begin(3);
  protocol.enter("of a test", TileHolds::anything, LayerHolds::anything);
  EXPECT_DEATH(protocol.write(LossPlane::squares, 0, 1), "takes plane squares of layer 0 of 3, which has none");
  EXPECT_DEATH(protocol.write(LossPlane::tangent, 2, 0), "takes plane tangent of layer 2 of 3, which has none");
  protocol.write(LossPlane::tangent, 1, 1);
  EXPECT_DEATH(protocol.read(LossPlane::tangent, 1, 0), "reads part 0 of plane tangent of layer 1, which holds part 1");
}

// Every plane has a place of its own, and the places are as many as there are planes.
TEST(LossPlanes, AreNumberedWithoutGaps) {
  for (int hidden = 2; hidden <= 8; ++hidden) {
    int next = 0;
    for (int k = 0; k < static_cast<int>(LossPlane::count); ++k) {
      const auto plane = static_cast<LossPlane>(k);
      const LossPlaneLayers layers = layers_of(plane);
      for (int l = layers.lowest; l < hidden - layers.without; ++l) EXPECT_EQ(plane_number(plane, hidden, l), next++);
    }
    EXPECT_EQ(loss_planes(network(hidden, true)), next);
  }
  EXPECT_EQ(loss_planes(network(1, true)), 1);
  EXPECT_EQ(loss_planes(network(5, false)), 5);
}

}  // namespace
}  // namespace fokker::kernels
