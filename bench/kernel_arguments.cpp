// What the resident kernels of one network are launched with, for tools/kernel_cost, which follows their machine code by
// it. Compiled by that tool as the emulation's code is; a line for each launch:
//
//   launch KERNEL CASE WARPS BLOCKS TILES STEPS ARGUMENTS    ARGUMENTS: the kernel's parameters, bytes in hexadecimal
//   memory ADDRESS BYTES                                     what lies in the device's memory that they point to
//
// Two launches of a case differ by TILES tiles of a warp or STEPS steps, so that their difference is the cost of one.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "loss_memory.hpp"

namespace {

using namespace fokker;
using namespace fokker::kernels;

// A launch's parameters: `first`, then `second` at its alignment.
template <class... Arguments>
std::string bytes_of(const Arguments&... arguments) {
  std::string bytes;
  const auto append = [&](const auto& argument) {
    using Argument = std::decay_t<decltype(argument)>;
    while (bytes.size() % alignof(Argument) != 0) bytes.push_back('\0');
    bytes.append(reinterpret_cast<const char*>(&argument), sizeof(Argument));
  };
  (append(arguments), ...);
  return bytes;
}

void print_bytes(const std::string& bytes) {
  for (const char byte : bytes) std::printf("%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
  std::puts("");
}

void print_launch(const char* kernel, const char* name, int warps, int tiles, int steps, const std::string& bytes) {
  std::printf("launch %s %s %d 1 %d %d ", kernel, name, warps, tiles, steps);
  print_bytes(bytes);
}

// Somewhere in the device's memory, `block` of 2^32 bytes.
template <class T>
T* somewhere(std::uintptr_t block) {
  return reinterpret_cast<T*>((block + 1) << 32);
}

// One block, of which warp 0 has `tiles` tiles.
std::int64_t points_of(int tiles, int warps) { return std::int64_t{tile_rows} * warps * tiles; }

void sample_launches(const ResidentMlp& net, int shared_bytes) {
  const int warps = resident_warps(net, Work::sample, shared_bytes);
  if (warps == 0) return;
  const ResidentPlan plan{net, image_layout(net), warp_layout(net, Work::sample)};
  for (const bool stochastic : {true, false}) {
    std::vector<Stage> stages(
        16, {.time = 1, .node = 0.5f, .weight = 0.5f, .coefficients = {0.1f, 0.1f, stochastic ? 0.1f : 0.0f}});
    for (std::size_t k = 0; k < stages.size() && !stochastic; ++k)
      stages[k].opens = k % 2 == 0, stages[k].closes = k % 2 == 1;
    Stage* const there = somewhere<Stage>(stochastic ? 1 : 8);
    std::printf("memory %zu ", reinterpret_cast<std::size_t>(there));
    print_bytes({reinterpret_cast<const char*>(stages.data()), stages.size() * sizeof(Stage)});
    for (const int steps : {1, 2}) {
      SampleArguments a{};
      a.n = points_of(1, warps);
      a.x = somewhere<float>(0);
      a.stages = there;
      a.steps = steps;
      a.stages_per_step = stochastic ? 1 : 2;
      a.noise_in_last_step = stochastic;
      a.draw_prior = true;
      a.prior_deviation = 1;
      a.seed = 1;
      print_launch("resident_sample", stochastic ? "euler-maruyama" : "heun", warps, 1, steps, bytes_of(plan, a));
    }
  }
}

void field_launches(const ResidentMlp& net, Work work, int shared_bytes) {
  const int warps = resident_warps(net, work, shared_bytes);
  if (warps == 0) return;
  const ResidentPlan plan{net, image_layout(net), warp_layout(net, work)};
  for (const int tiles : {0, 1}) {
    FieldArguments a{};
    a.n = points_of(tiles, warps);
    a.t = somewhere<float>(0);
    a.t_stride = 1;
    a.x = somewhere<float>(1);
    a.score = somewhere<float>(2);
    if (work == Work::curvature) {
      a.divergence = somewhere<float>(3);
      if (net.potential) a.residual = somewhere<float>(4);
    }
    print_launch("resident_fields", work == Work::score ? "score" : "score,divergence,residual", warps, tiles, 0,
                 bytes_of(plan, a));
  }
}

void hessian_launches(const ResidentMlp& net, int shared_bytes) {
  const int warps = resident_warps(net, Work::hessian, shared_bytes);
  if (warps == 0) return;
  const ResidentPlan plan{net, image_layout(net), warp_layout(net, Work::hessian)};
  for (const int tiles : {0, 1}) {
    HessianArguments a{};
    a.n = points_of(tiles, warps);
    a.t = somewhere<float>(0);
    a.t_stride = 1;
    a.x = somewhere<float>(1);
    a.hessian = somewhere<float>(2);
    print_launch("resident_hessian", "matrix", warps, tiles, 0, bytes_of(plan, a));
  }
}

// As in loss.cu.
struct LossArguments {
  ResidentLossPlan plan;
  NetworkForm form;
  LaunchedShare shares[most_models];
  LossTask tasks[most_models];
};

// Points that are given: what drawing them costs is not in it.
void loss_launches(const ResidentMlp& net, int shared_bytes) {
  const int warps = resident_loss_warps(net, false, shared_bytes);
  if (warps == 0) return;
  for (const bool collocation : {false, true}) {
    for (const int tiles : {0, 1}) {
      LossArguments a{
          .plan = resident_loss_plan(net, false, warps, shared_bytes), .form = {}, .shares = {}, .tasks = {}};
      a.shares[0] = {.blocks = 1, .launched = 1, .first = 0, .warps = static_cast<std::uint16_t>(warps)};
      LossTask& task = a.tasks[0];
      std::memset(static_cast<void*>(&task), 0, sizeof task);
      task.points.sde = SdeFormulas();
      (collocation ? task.points.collocation_points : task.points.denoising_points) =
          std::int64_t{tile_rows} * warps * tiles;
      task.residual_weight = 1;
      task.denoising_t = somewhere<float>(0);
      task.denoising_x = somewhere<float>(1);
      task.denoising_target = somewhere<float>(2);
      task.denoising_weight = somewhere<float>(3);
      task.collocation_t = somewhere<float>(4);
      task.collocation_x = somewhere<float>(5);
      task.values = somewhere<double>(6);
      task.gradient = somewhere<float>(7);
      task.image = somewhere<char>(8);
      task.planes = somewhere<float>(9);
      task.partial = somewhere<float>(10);
      task.partial_values = somewhere<double>(11);
      print_launch("resident_loss", collocation ? "collocation" : "denoising", warps, tiles, 0, bytes_of(a));
    }
  }
}

}  // namespace

// usage: kernel_arguments WIDTH HIDDEN DIMENSION ACTIVATION SHARED_BYTES, of a potential of precision split;
// ACTIVATION: the number of its enumerator
int main(int count, char** arguments) {
  if (count != 6) return 2;
  const auto number = [&](int k) { return std::atoi(arguments[k]); };
  const ResidentMlp net{.image = somewhere<char>(12),
                        .precision = Precision::split,
                        .dimension = number(3),
                        .hidden = number(2),
                        .width = number(1),
                        .outputs = 1,
                        .potential = true,
                        .activation = static_cast<Activation>(number(4)),
                        .beta = 20};
  const int shared_bytes = number(5);
  sample_launches(net, shared_bytes);
  field_launches(net, Work::score, shared_bytes);
  field_launches(net, Work::curvature, shared_bytes);
  hessian_launches(net, shared_bytes);
  loss_launches(net, shared_bytes);
}
