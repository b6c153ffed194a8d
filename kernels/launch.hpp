#pragma once

// The boundary between the host and device code: plain structs of raw device pointers in, launches out. Compiles
// without CUDA. Every launch is asynchronous on `stream` (a cudaStream_t), allocates nothing, and returns the runtime's
// error code (cudaError_t; 0: none). Matrices are row-major, counts are of points.
#include <cstddef>
#include <cstdint>

#include "fokker/formulas/activation.hpp"
#include "fokker/formulas/divergence.hpp"
#include "fokker/formulas/integrator.hpp"
#include "fokker/formulas/precision.hpp"
#include "fokker/formulas/sde.hpp"

namespace fokker::kernels {

using Stream = void*;
using Status = int;

// ---- resident multilayer perceptrons: weights in shared memory, a warp's samples in registers (mlp.hpp) -------------

inline constexpr int tile_rows = 16;  // samples of a warp

// The activations that kernels are compiled for each, the first of the list; the others share code that chooses one for
// every number. Resident training has the former alone: with the choice its registers do not suffice.
FOKKER_HOST_DEVICE constexpr bool has_own_code(Activation activation) { return activation <= Activation::sine; }

inline constexpr int most_warps = 8;  // of a block: 255 registers a thread leave room for no more

// A network as the resident kernels take it.
struct ResidentMlp {
  const void* image;  // device, as image_layout() says: copied into shared memory as it is
  Precision precision;
  int dimension;  // 1 … most_resident_dimension (shared_layout.hpp)
  int hidden;     // hidden layers, ≥ 1
  int width;      // one of resident_widths
  int outputs;    // 1 for a potential, else d
  bool potential;
  Activation activation;
  float beta;
};

// A layer of Architecture, input layer first: W [outputs, inputs] row-major from parameter `weight` on, and b [outputs]
// behind it.
struct LayerShape {
  int inputs, outputs;
  int weight;

  FOKKER_HOST_DEVICE int bias() const { return weight + inputs * outputs; }
};

// Packs a network's parameters into its image (pack.cu). What the parameters do not determine, which is zero, is not
// written: the image has to be cleared once.
struct PackTask {
  const float* parameters;   // [P], in the layout of Architecture
  const LayerShape* layers;  // device, [hidden + 1]
  void* image;
};
inline constexpr int most_models = 12;  // of one launch: kernels take their tasks by value
// Loads the kernel; called once, at set-up.
Status prepare_pack_image();
// Packs 1 … most_models networks of one shape; net.image is not read.
Status launch_pack_image(const ResidentMlp& net, const PackTask* tasks, int count, Stream stream);

// What a kernel of resident networks does. A warp's shared memory follows from it: planes of tile_rows × width numbers
// (σ′ of the layers, curvatures κ, and κ ż for the Hessian), and some numbers a sample (shared_layout.hpp).
enum class Work { score, curvature, hessian, sample, log_density, adaptive_sample, adaptive_log_density };
// Whether a work takes second derivatives of a potential, and first ones of a vector net.
FOKKER_HOST_DEVICE inline constexpr bool needs_curvature(Work work) {
  return work != Work::score && work != Work::sample && work != Work::adaptive_sample;
}

// What the device allows.
struct DeviceLimits {
  int multiprocessors;
  int shared_bytes;             // of a block, opted in
  int loss_warps = most_warps;  // of a block at most, for benchmarks; fewer leave each more planes in shared memory
};

// Loads the kernel of a work that fits, and allows it the device's shared memory; called once, at set-up.
Status prepare_resident_fields(const ResidentMlp& net, Work work, const DeviceLimits& limits);
Status prepare_resident_hessian(const ResidentMlp& net, const DeviceLimits& limits);
// `timed`: with biases of the stages.
Status prepare_resident_sample(const ResidentMlp& net, Work work, bool timed, const DeviceLimits& limits);

struct FieldArguments {
  std::int64_t n;
  const float* t;         // t[i · t_stride]
  std::int64_t t_stride;  // 1, or 0: one time for all
  const float* x;         // [n, d]
  // nullptr: not wanted
  float* value;       // [n]
  float* dt;          // [n]
  float* score;       // [n, d]
  float* divergence;  // [n]
  float* residual;    // [n]
  SdeFormulas sde;
  Divergence estimate;
};
// `warps` of a block, here and below: resident_warps() of the work, Work::curvature where divergence or residual is
// wanted, else Work::score.
Status launch_resident_fields(const ResidentMlp& net, int warps, const FieldArguments& arguments,
                              const DeviceLimits& limits, Stream stream);

struct HessianArguments {
  std::int64_t n;
  const float* t;
  std::int64_t t_stride;
  const float* x;          // [n, d]
  const float* direction;  // [n, d], or nullptr where the Hessian is wanted
  float* product;          // [n, d]
  float* hessian;          // [n, d·d], or nullptr
};
Status launch_resident_hessian(const ResidentMlp& net, int warps, const HessianArguments& arguments,
                               const DeviceLimits& limits, Stream stream);

inline constexpr int most_snapshots = 64;

struct SampleArguments {
  std::int64_t n;
  float* x;             // [n, d], read unless `draw_prior`; written
  const Stage* stages;  // device, [steps · stages_per_step]
  // Of a network whose biases depend on the time: row bias_rows[k] of biases, [hidden, width] and [outputs] behind it, has
  // those of stage k, in place of the image's. Else nullptr.
  const float* biases;            // device, rows bias_stride apart, which is even
  const std::int32_t* bias_rows;  // device, [steps · stages_per_step]
  int bias_stride;
  int steps;
  int stages_per_step;
  bool noise_in_last_step;  // of stages that are not before_step
  bool draw_prior;
  float prior_deviation;
  std::uint64_t seed, first_index;
  // x after steps snapshot_steps[k] (counted from 1, increasing) goes to snapshots [snapshot_count, n, d].
  std::int32_t snapshot_steps[most_snapshots];
  int snapshot_count;
  float* snapshots;
  // Log-density: ∫ ∇·(a x − ½ g² s) dt along the path is added to the prior's log-density at its end, and x is not written;
  // or, where the path is from_prior, taken from the prior's at its beginning.
  float* log_density;  // [n], or nullptr
  bool from_prior;
  double prior_log_norm, prior_variance;  // log N(x; 0, variance I) = log_norm − |x|²/(2 variance)
  Divergence estimate;                    // probes stay fixed along a path
};
Status launch_resident_sample(const ResidentMlp& net, int warps, const SampleArguments& arguments,
                              const DeviceLimits& limits, Stream stream);

// ---- the same integrators a stage at a time, for models whose fields are not fused (integrate.cu) -------------------

// Loads the kernels of this part; called once, at set-up.
Status prepare_integrators();

// x [n, d] = deviation · normals of (seed, first_index + i), use prior.
Status launch_prior(float* x, std::int64_t n, int dimension, float deviation, std::uint64_t seed,
                    std::uint64_t first_index, Stream stream);

struct StageArguments {
  std::int64_t n;
  int dimension;
  Stage stage;
  std::uint64_t seed, first_index, step;
  const float* score;       // [n, d] the network's output at (stage.time, stage.in · stage_x)
  const float* divergence;  // [n] its trace at stage.in · stage_x, or nullptr
  float* x;                 // [n, d] x, y and sum of take_stage()
  float* stage_x;           // [n, d]; where the stage opens y is x, and this is not read
  float* sum;               // [n, d]
  float next_node;          // of the next stage, where this one does not close
  double* log_density;      // [n] running integral, or nullptr
};
Status launch_stage(const StageArguments& arguments, Stream stream);
// x ← x + lift x + lift_noise z of the stage, which comes before its evaluation where lift_noise is not 0.
Status launch_lift(const StageArguments& arguments, Stream stream);

// out [count] = factor · x, added to what is there where `add`; x may be out. T = float or double.
template <class T>
Status launch_scaled(const T* x, T factor, bool add, std::int64_t count, T* out, Stream stream);

// out [n] = integral [n] + log N(x; 0, variance I), of a path that ends at the prior.
Status launch_prior_log_density(const float* x, const double* integral, float* out, std::int64_t n, int dimension,
                                double variance, Stream stream);
// Of a path that begins there: first integral [n] = −log N(x; 0, variance I), and at its end out [n] = −integral.
Status launch_begin_log_density(const float* x, double* integral, std::int64_t n, int dimension, double variance,
                                Stream stream);
Status launch_end_log_density(const double* integral, float* out, std::int64_t n, Stream stream);

}  // namespace fokker::kernels
