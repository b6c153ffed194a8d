// Times of the CUDA backend's work, by device events on the context's stream. Each result is checked before it is
// timed, once a process: fields as in fokker_bench.cpp, against the tests' reference in double within the rounding of
// the precision; training against losses in double and of other draws; whole sample paths against the same steps in
// double, within some times the CPU backend's own distance. Data are random, and the L2 cache is overwritten before
// each run.
//
// Counters: `gflops` counts the matrix products alone (two FLOP a weight, sweep and point). `fraction_of_limit` is the
// time the work would take at the device's limit over the time it took; of two limits the one that binds, which the
// label names: products at the rate of the precision (split: a third of half), and the activations' exp, log and 1/x,
// one each a unit and point for softplus and exp and 1/x for SiLU, at the rate of the special-function units. The
// limits are those of an H200 (132 multiprocessors at 1.98 GHz: 67 TFLOP/s fp32, 990 half and so 330 split, 3.7e12/s
// special functions), scaled to the device by its multiprocessors, its highest clock and what a multiprocessor of its
// compute capability does in a clock; where that is not known there is no fraction. `limit_us` is the limit's time.
// Hopper reaches its rate of half by wgmma alone; mma.sync, which the kernels use, to about 0.63 of it (Luo et al.
// 2024, arXiv 2402.13499), so that no work bound by products reaches a fraction of 1 there. `over_tiny_cuda_nn`, of
// scores in half, is `gflops` over what tiny-cuda-nn has published for the plain forward pass of a network of that
// width at as many points, both two FLOP a weight and sweep: on an RTX 3090, whatever the device here
// (peers/published.json). `over_alone`, of twelve models trained side by side, is the time of an iteration of one after
// another over that of all together. loss/ is a network's losses by resident and by wide kernels, to see from which
// size on the one or the other is faster, and the paper's with fewer warps a block than fit.
// `memory_beside_samples_mib` is what the device has less of free memory while a sampler and n samples are there,
// without those samples. library/ is the paper's works by the toolkit's libraries (library_peer.hpp), held to the same
// checks in fp32; `over_fokker` is its time over that of fokker's in split, and `launches`, `gigabytes` and
// `least_memory_mib` are what it asks the device for.
//
// usage: fokker_gpu_bench [--small] [--write_reference=FILE] [--count_library] [Google Benchmark's options]
//   --small          99 points and 5 steps, checks included: shows that everything runs, and is what a sanitizer is given
//   --count_library  a table of what library/ would ask a device for and the time that takes at an H200's limits, as
//                    JSON; on any machine
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numbers>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checks.hpp"
#include "core/parallel.hpp"
#include "core/processors.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/runtime.hpp"
#include "fokker/formulas/philox.hpp"
#include "library_peer.hpp"
#include "reference_network.hpp"
#include "work.hpp"

namespace fokker::bench {
namespace {

using cuda::check;

// What a device does a second, and which special functions count.
struct Limits {
  double fp32, half, special;  // FLOP, FLOP, evaluations

  double products(Precision precision) const {
    return precision == Precision::fp32 ? fp32 : precision == Precision::half ? half : half / 3;
  }
};

// What a multiprocessor does in a clock, over what one of compute capability 9.0 does, from the CUDA C++ Programming
// Guide's table of arithmetic instructions (64 or 128 fp32 multiply-adds, 16 special functions) and the architectures' white papers
// (dense fp16 products with fp32 sums: 2048, 4096 and 8192 FLOP).
struct PerClock {
  int major, minor;
  double fp32, half, special;
};
constexpr PerClock per_clock[] = {{8, 0, 0.5, 0.5, 1}, {9, 0, 1, 1, 1}, {10, 0, 1, 2, 1}};

std::optional<Limits> limits_of(const cudaDeviceProp& device, int clock_khz) {
  for (const PerClock& of : per_clock) {
    if (of.major != device.major || of.minor != device.minor) continue;
    const double scale = device.multiProcessorCount / 132.0 * (clock_khz / 1.98e6);
    return Limits{67e12 * of.fp32 * scale, 990e12 * of.half * scale, 3.7e12 * of.special * scale};
  }
  return std::nullopt;
}

class Gpu {
 public:
  Gpu() {
    // Says in one sentence where there is no device, before the runtime is asked for anything.
    contexts_.emplace(Precision::split, Context({.backend = BackendKind::cuda}));
    check(cudaStreamCreate(&stream_), "cudaStreamCreate");
    for (const Precision precision : {Precision::split, Precision::fp32, Precision::half}) {
      contexts_.insert_or_assign(precision,
                                 Context({.backend = BackendKind::cuda, .stream = stream_, .precision = precision}));
    }
    int current = 0, clock_khz = 0;
    check(cudaGetDevice(&current), "cudaGetDevice");
    check(cudaGetDeviceProperties(&device, current), "cudaGetDeviceProperties");
    check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, current), "cudaDeviceGetAttribute");
    limits = limits_of(device, clock_khz);
    flushed_.reserve(2 * static_cast<std::size_t>(device.l2CacheSize) + 1);
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
    benchmark::AddCustomContext("device", device.name);
    benchmark::AddCustomContext("multiprocessors", fmt::format("{}", device.multiProcessorCount));
    benchmark::AddCustomContext("clock_mhz", fmt::format("{:.0f}", clock_khz / 1e3));
    if (!limits) return;
    benchmark::AddCustomContext("limit_tflops_fp32", fmt::format("{:.1f}", limits->fp32 * 1e-12));
    benchmark::AddCustomContext("limit_tflops_split",
                                fmt::format("{:.1f}", limits->products(Precision::split) * 1e-12));
    benchmark::AddCustomContext("limit_tflops_half", fmt::format("{:.1f}", limits->half * 1e-12));
    benchmark::AddCustomContext("limit_special_per_s", fmt::format("{:.2e}", limits->special));
  }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;
  ~Gpu() {
    cudaEventDestroy(end_);
    cudaEventDestroy(begin_);
    contexts_.clear();
    cudaStreamDestroy(stream_);
  }

  const Context& context(Precision precision) const { return contexts_.at(precision); }
  cudaStream_t stream() const { return stream_; }
  // What the internals of such a context are given.
  cuda::Queue queue(Precision precision) const {
    int current = 0;
    check(cudaGetDevice(&current), "cudaGetDevice");
    return {.device = current,
            .stream = stream_,
            .limits = {.multiprocessors = device.multiProcessorCount,
                       .shared_bytes = static_cast<int>(device.sharedMemPerBlockOptin)},
            .precision = precision};
  }

  // Seconds that the device takes for what `work` queues; where that is on another stream too, `flushed_first` keeps it
  // from beginning before the cache is overwritten.
  double time(const std::function<void()>& work, bool flushed_first = false) const {
    check(cudaMemsetAsync(flushed_.data(), 0, flushed_.bytes(), stream_), "cudaMemsetAsync");
    if (flushed_first) check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    work();
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return 1e-3 * milliseconds;
  }
  static std::size_t free_memory() {
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }

  cudaDeviceProp device = {};
  std::optional<Limits> limits;

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  std::map<Precision, Context> contexts_;
  cuda::DeviceMemory flushed_;
};

// Once to warm up, then as Google Benchmark asks. `work` does `repeats` times what is timed; flop and special: of one.
void time_and_count(benchmark::State& state, const Gpu& gpu, Precision precision, double flop, double special,
                    const std::function<void()>& work, int repeats = 1) {
  using benchmark::Counter;
  gpu.time(work, repeats > 1);
  for (auto _ : state) state.SetIterationTime(gpu.time(work, repeats > 1) / repeats);
  state.counters["gflops"] = Counter(flop * 1e-9, Counter::kIsIterationInvariantRate);
  if (!gpu.limits) return state.SetLabel("no limit is known for this device");
  const double products = flop / gpu.limits->products(precision), functions = special / gpu.limits->special;
  const double limit = std::max(products, functions);
  state.counters["fraction_of_limit"] = Counter(limit, Counter::kIsIterationInvariantRate);
  state.counters["limit_us"] = 1e6 * limit;
  state.SetLabel(products > functions ? fmt::format("limit: {} products", to_string(precision))
                                      : std::string("limit: special functions"));
}

// The number that one evaluation at a point takes.
double special_functions(const Architecture& architecture) {
  double units = 0;
  for (const std::int64_t width : architecture.hidden) units += static_cast<double>(width);
  return units * (architecture.activation == Activation::softplus ? 3 : 2);
}

// How far results of a precision may round, as the unit of a float arithmetic in all operations. fp32: approximate exp,
// log and 1/x to 2 ulp among exact operations. split: each operand to 22 bits and without the product of the low parts.
// half: operands to 11 bits.
double unit_of(Precision precision) {
  return precision == Precision::fp32 ? 0x1p-22 : precision == Precision::split ? 0x1p-21 : 0x1p-11;
}

// FLOP a second that tiny-cuda-nn has published for a width; none for others.
std::optional<double> tiny_cuda_nn(std::int64_t width) {
  if (width == 64) return 1e12 * TINY_CUDA_NN_TFLOPS_W64;
  if (width == 128) return 1e12 * TINY_CUDA_NN_TFLOPS_W128;
  return std::nullopt;
}

// A work's points on the device of a context.
struct PointsThere {
  Buffer<float> t, x;

  PointsThere(const Context& context, const FieldWork& work)
      : t(context, work.n), x(context, work.n, work.model.dimension()) {
    const RandomPoints points = work.points();
    copy(context, points.view().t, t.view());
    copy(context, points.view().x, x.view());
    context.synchronize();  // the host's points are gone afterwards
  }
  Points<float> view() const { return {t.view(), x.view()}; }
};

void time_fields(benchmark::State& state, const Gpu& gpu, const FieldWork& work, Precision precision) {
  const Context& context = gpu.context(precision);
  const PointsThere points(context, work);
  Buffer<float> out(context, work.n, work.columns());
  const Fields<float> fields(context, work.model);
  const Points<float> at = points.view();
  time_and_count(state, gpu, precision, work.flop(),
                 special_functions(work.architecture()) * static_cast<double>(work.n),
                 [&] { work.evaluate(fields, at, out.view()); });
  const auto published = tiny_cuda_nn(work.architecture().hidden[0]);
  if (precision == Precision::half && published) {
    state.counters["over_tiny_cuda_nn"] =
        benchmark::Counter(work.flop() / *published, benchmark::Counter::kIsIterationInvariantRate);
  }
}

// Paths of the reverse SDE from the prior on.
struct SampleWork {
  Model model;
  std::vector<double> times;
  std::int64_t n;
  SampleOptions options;

  SampleWork(std::int64_t samples, bool small)
      : model(trained_model(small ? 20 : sampling_iterations)),
        times(TimeGrid::paper(model.sde.horizon()).times()),
        n(samples) {
    if (small) times.resize(6);
    options.seed = 7;
  }
  TimeGrid grid() const { return TimeGrid(times); }
  std::int64_t steps() const { return static_cast<std::int64_t>(times.size()) - 1; }
};

// Two normals from the words that are the sampler's, in double.
std::array<double, 2> normals(const SampleWork& work, std::int64_t i, RandomUse use, std::int64_t step) {
  const PhiloxBlock words = philox4x32_10(work.options.seed, static_cast<std::uint64_t>(i),
                                          philox_offset(use, 0, static_cast<std::uint64_t>(step)));
  const auto uniform = [](std::uint32_t w) { return (static_cast<double>(w >> 9) + 0.5) * 0x1p-23; };
  const double radius = std::sqrt(-2 * std::log(uniform(words.word[0])));
  const double angle = 2 * std::numbers::pi * uniform(words.word[1]);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

std::array<double, 2> reference_path(const SampleWork& work, const testing::ReferenceNetwork& net, std::int64_t i) {
  const auto sde = testing::reference_sde(work.model.sde);
  auto x = normals(work, i, RandomUse::prior, 0);
  for (double& v : x) v *= std::sqrt(work.model.sde.prior_variance());
  for (std::int64_t k = 0; k < work.steps(); ++k) {
    const double t = work.times[k], dt = t - work.times[k + 1], g2 = sde.diffusion_squared(t);
    const bool last = k + 1 == work.steps();  // adds no noise
    const auto z = normals(work, i, RandomUse::noise, k);
    const auto score = reference_field(net, net.parameters, sde, false, t, x.data());
    for (int j = 0; j < 2; ++j) {
      x[j] += -dt * (sde.drift(t) * x[j] - g2 * score[j]) + (last ? 0 : std::sqrt(g2 * dt) * z[j]);
    }
  }
  return x;
}

// A path of 890 steps amplifies roundings by an amount of its own, and the CPU backend, which works in float, says by
// how much: its distances to the paths in double are some 1e-6, and the device's median, upper decile and largest
// distance may be ten times the CPU's. (Under the emulation they are up to 1.8 times as large, in split and in fp32;
// tensor cores and special-function units round more coarsely than it does.)
// `sample` leaves the samples in device memory.
std::string check_sample(const Gpu& gpu, const SampleWork& work, const std::function<void(View<float>)>& sample) {
  const Context& context = gpu.context(Precision::split);
  Buffer<float> samples(context, work.n, 2);
  sample(samples.view());
  std::vector<float> got(2 * work.n);
  copy(context, samples.view(), View<float>(got, 2));
  context.synchronize();
  for (std::int64_t i = 0; i < work.n; ++i) {
    if (!std::isfinite(got[2 * i]) || !std::isfinite(got[2 * i + 1])) return fmt::format("sample {} is not finite", i);
  }

  const Mlp& mlp = std::get<Mlp>(work.model.network);
  const auto net = testing::reference_network(mlp.architecture,
                                              widen(std::vector<float>(mlp.parameters.begin(), mlp.parameters.end())));
  const Sampler on_cpu(Context({.backend = BackendKind::cpu}), work.model, work.grid());
  const std::int64_t count = std::min<std::int64_t>(work.n, 64);
  std::vector<double> of_device(count), of_cpu(count);
  std::vector<std::array<double, 2>> want(count);
  parallel_for(default_threads(), count,
               [&](std::int64_t k, int) { want[k] = reference_path(work, net, spread(k, count, work.n)); });
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t i = spread(k, count, work.n);
    SampleOptions options = work.options;
    options.first_index = static_cast<std::uint64_t>(i);
    std::vector<float> one(2);
    on_cpu.sample(View<float>(one, 2), options);
    of_device[k] = std::hypot(got[2 * i] - want[k][0], got[2 * i + 1] - want[k][1]);
    of_cpu[k] = std::hypot(one[0] - want[k][0], one[1] - want[k][1]);
  }
  std::sort(of_device.begin(), of_device.end());
  std::sort(of_cpu.begin(), of_cpu.end());
  if (!(of_cpu.back() <= 1e-4)) {
    return fmt::format("paths in double are {:.2e} from the CPU's, so they cannot judge the device's", of_cpu.back());
  }
  constexpr double allowed = 10;
  for (const auto& [name, k] :
       {std::pair("median", count / 2), std::pair("upper decile", count * 9 / 10), std::pair("largest", count - 1)}) {
    if (of_device[k] <= allowed * of_cpu[k]) continue;
    return fmt::format(
        "samples are wrong: their {} distance to paths in double is {:.2e}, and the CPU's {:.2e} (allowed {} times)",
        name, of_device[k], of_cpu[k], allowed);
  }
  return "";
}

std::string check_sampler(const Gpu& gpu, const SampleWork& work, Precision precision) {
  const Sampler sampler(gpu.context(precision), work.model, work.grid());
  return check_sample(gpu, work, [&](View<float> samples) { sampler.sample(samples, work.options); });
}

void time_sample(benchmark::State& state, const Gpu& gpu, const SampleWork& work, Precision precision) {
  const Context& context = gpu.context(precision);
  const std::size_t before = Gpu::free_memory();
  Buffer<float> samples(context, work.n, 2);
  const Sampler sampler(context, work.model, work.grid());
  const Architecture& architecture = std::get<Mlp>(work.model.network).architecture;
  const double evaluations = static_cast<double>(work.n) * static_cast<double>(work.steps());
  time_and_count(state, gpu, precision, 2 * flop_per_sweep(architecture) * evaluations,
                 special_functions(architecture) * evaluations, [&] { sampler.sample(samples.view(), work.options); });
  const double used = static_cast<double>(before) - static_cast<double>(Gpu::free_memory());
  state.counters["memory_beside_samples_mib"] = (used - 8.0 * static_cast<double>(work.n)) / (1 << 20);
}

double special_functions(const TrainWork& work) {
  return special_functions(work.architecture()) *
         (static_cast<double>(work.denoising) + static_cast<double>(work.collocation));
}

// Iterations in calls of the trainer of twenty, after each of which the host reads their records.
void time_training(benchmark::State& state, const Gpu& gpu, const TrainWork& work, Precision precision) {
  constexpr int iterations = 20;
  Trainer trainer(gpu.context(precision), work.model, DataSet::named("circles2"), work.options());
  time_and_count(
      state, gpu, precision, work.flop(), special_functions(work), [&] { trainer.run(iterations); }, iterations);
}

// The paper's twelve models, of which the three without a residual draw no collocation points.
std::vector<Trainer> twelve(const Context& context, const TrainWork& each) {
  std::vector<Trainer> trainers;
  for (const char* data : {"blob", "circles2", "checker"}) {
    for (const double weight : {0.0, 0.1, 1.0, 10.0}) {
      TrainOptions options = each.options();
      options.residual_weight = weight;
      trainers.emplace_back(context, each.model, DataSet::named(data), options);
    }
  }
  return trainers;
}

std::string check_twelve(const Gpu& gpu, const TrainWork& each, Precision precision) {
  std::vector<Trainer> alone = twelve(gpu.context(precision), each);
  return check_together(TrainingGroup(twelve(gpu.context(precision), each)), alone);
}

// An iteration of all twelve.
void time_twelve(benchmark::State& state, const Gpu& gpu, const TrainWork& each, Precision precision) {
  constexpr int iterations = 20;
  std::vector<Trainer> trainers = twelve(gpu.context(precision), each);
  double alone = 0;
  for (Trainer& trainer : trainers) {
    trainer.run(iterations);
    alone += gpu.time([&] { trainer.run(iterations); }, true) / iterations;
  }
  TrainingGroup group(std::move(trainers));
  const TrainWork without{each.model, each.denoising, 0};
  time_and_count(
      state, gpu, precision, 9 * each.flop() + 3 * without.flop(),
      9 * special_functions(each) + 3 * special_functions(without), [&] { group.run(iterations); }, iterations);
  state.counters["over_alone"] = benchmark::Counter(alone, benchmark::Counter::kIsIterationInvariantRate);
}

// Losses and their gradient by resident kernels of up to `warps` warps a block, or by wide ones where that is 0,
// whichever of them a network would get.
std::shared_ptr<cuda::TrainingLoss> loss_by(const Gpu& gpu, const TrainWork& work, int warps, Precision precision) {
  cuda::Queue queue = gpu.queue(precision);
  if (warps == 0) return cuda::make_wide_loss(queue, work.architecture(), work.model.sde);
  queue.limits.loss_warps = warps;
  return cuda::make_resident_loss(queue, work.architecture(), work.model.sde);
}

std::string check_loss_by(const Gpu& gpu, const TrainWork& work, int warps, Precision precision) {
  const auto loss = loss_by(gpu, work, warps, precision);
  return check_losses(gpu.context(precision), work, unit_of(precision),
                      [&](const auto& parameters, const auto& denoising, const auto& collocation, const auto& values,
                          const auto& gradient) {
                        loss->evaluate(parameters.data, denoising, collocation, 1.0, values.data, gradient.data);
                      });
}

void time_loss_by(benchmark::State& state, const Gpu& gpu, const TrainWork& work, int warps, Precision precision) {
  const Context& context = gpu.context(precision);
  const auto there = [&](const std::vector<float>& from, std::int64_t columns) {
    Buffer<float> to(context, std::ssize(from) / columns, columns);
    copy(context, View<const float>(from, columns), to.view());
    context.synchronize();
    return to;
  };
  const RandomBatch batch = random_batch(work.model.sde, work.denoising, 2);
  const RandomPoints points = random_points(work.model.sde, 2, work.collocation, 3);
  const std::vector<double>& of = std::get<Mlp>(work.model.network).parameters;
  const Buffer<float> parameters = there({of.begin(), of.end()}, 1), t = there(batch.t, 1), x = there(batch.x, 2),
                      target = there(batch.target, 2), t_at = there(points.t, 1), x_at = there(points.x, 2);
  Buffer<double> values(context, 3);
  Buffer<float> gradient(context, parameters.rows());
  const auto loss = loss_by(gpu, work, warps, precision);
  time_and_count(state, gpu, precision, work.flop(), special_functions(work), [&] {
    loss->evaluate(parameters.view().data, {t.view(), x.view(), target.view(), {}}, {t_at.view(), x_at.view()}, 1.0,
                   values.view().data, gradient.view().data);
  });
}

// ---- the same by the toolkit's libraries ------------------------------------------------------------------------------

LibraryPeer library_peer(const Gpu& gpu, const Model& model) {
  // cuBLAS may split the depth of a gradient's products.
  const auto gemm = std::make_shared<cuda::Gemm>(gpu.stream(), std::size_t{32} << 20);
  return LibraryPeer(std::get<Mlp>(model.network), model.sde, gpu.stream(),
                     [gemm](const cuda::Product<float, float>& product) { gemm->multiply(product); });
}

// `ours` is timed as the peer is, three times: warmed up, and the cache overwritten before. What the peer asks the device
// for is counted apart, from its second call, which has its memory.
void time_library(benchmark::State& state, const Gpu& gpu, const Model& model,
                  const std::function<void(LibraryPeer&)>& work, const std::function<void()>& ours, int repeats = 1) {
  using benchmark::Counter;
  ours();
  std::array<double, 3> times;
  for (double& time : times) time = gpu.time(ours, repeats > 1) / repeats;
  std::sort(times.begin(), times.end());
  LibraryPeer counting(std::get<Mlp>(model.network), model.sde, nullptr, nullptr), peer = library_peer(gpu, model);
  work(counting);
  counting.take_cost();
  work(counting);
  const LibraryCost cost = counting.take_cost();
  const auto theirs = [&] { work(peer); };
  theirs();
  for (auto _ : state) state.SetIterationTime(gpu.time(theirs, repeats > 1) / repeats);
  state.counters["over_fokker"] = Counter(times[1], Counter::kIsIterationInvariantRate | Counter::kInvert);
  state.counters["launches"] = static_cast<double>(cost.launches) / repeats;
  state.counters["gigabytes"] = 1e-9 * cost.bytes / repeats;
  state.counters["least_memory_mib"] = cost.memory / (1 << 20);
  state.counters["fraction_of_limit"] = Counter(cost.seconds / repeats, Counter::kIsIterationInvariantRate);
  state.SetLabel("limit: the sum over launches at an H200's bandwidth, fp32 rate and launch time");
}

std::string check_library_fields(const Gpu& gpu, const FieldWork& work) {
  LibraryPeer peer = library_peer(gpu, work.model);
  return check_fields(gpu.context(Precision::fp32), work, unit_of(Precision::fp32),
                      [&](const Points<float>& at, View<float> result) {
                        work.residual ? peer.residual(at, result) : peer.score(at, result);
                      });
}

void time_library_fields(benchmark::State& state, const Gpu& gpu, const FieldWork& work) {
  const Context& context = gpu.context(Precision::split);
  const PointsThere points(context, work);
  Buffer<float> out(context, work.n, work.columns());
  const Fields<float> fields(context, work.model);
  const Points<float> at = points.view();
  time_library(
      state, gpu, work.model,
      [&](LibraryPeer& peer) { work.residual ? peer.residual(at, out.view()) : peer.score(at, out.view()); },
      [&] { work.evaluate(fields, at, out.view()); });
}

void time_library_sample(benchmark::State& state, const Gpu& gpu, const SampleWork& work) {
  const Context& context = gpu.context(Precision::split);
  Buffer<float> samples(context, work.n, 2);
  const Sampler sampler(context, work.model, work.grid());
  time_library(
      state, gpu, work.model, [&](LibraryPeer& peer) { peer.sample(work.times, work.options.seed, samples.view()); },
      [&] { sampler.sample(samples.view(), work.options); });
}

// Its losses against the reference, and its iterations against the trainer's: the first to rounding, later ones as far as
// Adam magnifies the roundings of a gradient's small elements.
std::string check_library_training(const Gpu& gpu, const TrainWork& work) {
  LibraryPeer peer = library_peer(gpu, work.model);
  if (auto wrong = check_losses(gpu.context(Precision::fp32), work, unit_of(Precision::fp32),
                                [&](const auto& parameters, const auto& denoising, const auto& collocation,
                                    const auto& values, const auto& gradient) {
                                  peer.losses(parameters.data, denoising, collocation, 1.0, values.data, gradient.data);
                                });
      !wrong.empty()) {
    return wrong;
  }
  Trainer trainer(gpu.context(Precision::fp32), work.model, DataSet::named("circles2"), work.options());
  for (const double bound : {1e-5, 1e-3}) {
    const TrainRecord want = trainer.run(1).back();
    peer.train(work.options(), 1);
    const double got = peer.last_record()[2];
    if (std::fabs(got - want.total) <= bound * want.total) continue;
    return fmt::format("an iteration's loss is {}, and the trainer's {} (allowed {} of it)", got, want.total, bound);
  }
  return "";
}

void time_library_training(benchmark::State& state, const Gpu& gpu, const TrainWork& work) {
  constexpr int iterations = 20;
  Trainer trainer(gpu.context(Precision::split), work.model, DataSet::named("circles2"), work.options());
  time_library(
      state, gpu, work.model, [&](LibraryPeer& peer) { peer.train(work.options(), iterations); },
      [&] { trainer.run(iterations); }, iterations);
}

// What library/ asks a device for, a line each of a JSON array.
void count_library() {
  const Model model = paper_model();
  auto print = [&, first = true](const std::string& name, const std::function<void(LibraryPeer&)>& work) mutable {
    LibraryPeer peer(std::get<Mlp>(model.network), model.sde, nullptr, nullptr);
    work(peer);
    peer.take_cost();
    work(peer);  // without what only the first does
    const LibraryCost cost = peer.take_cost();
    fmt::print(
        "{}\n{{\"work\": \"{}\", \"launches\": {}, \"gigabytes\": {:.4g}, \"gflop\": {:.4g}, \"memory_mib\": {:.0f}, "
        "\"predicted_us\": {:.4g}}}",
        first ? "[" : ",", name, cost.launches, 1e-9 * cost.bytes, 1e-9 * cost.flop, cost.memory / (1 << 20),
        1e6 * cost.seconds);
    first = false;
  };
  float* const none = nullptr;
  for (const std::int64_t n : {std::int64_t{50'000}, std::int64_t{1} << 20}) {
    const Points<float> at{{none, n, 1}, {none, n, 2}};
    print(fmt::format("score/paper/{}", n), [&](LibraryPeer& peer) { peer.score(at, {none, n, 2}); });
    print(fmt::format("residual/paper/{}", n), [&](LibraryPeer& peer) { peer.residual(at, {none, n, 1}); });
  }
  for (const std::int64_t m : {5'000, 50'000}) {
    print(fmt::format("train/paper/{}_{}", 4 * m, m),
          [&](LibraryPeer& peer) { peer.train(paper_training(4 * m, m), 1); });
  }
  print("sample/paper/3000000", [&](LibraryPeer& peer) {
    peer.sample(TimeGrid::paper(model.sde.horizon()).times(), 7, {none, 3'000'000, 2});
  });
  fmt::print("\n]\n");
}

// Hidden layers of one width.
Model square_network(std::int64_t width, std::size_t layers, Output output = Output::potential) {
  Architecture architecture;
  architecture.hidden.assign(layers, width);
  architecture.activation = Activation::silu;
  architecture.output = output;
  return network(architecture);
}

std::string name_of(const char* work, std::int64_t n, Precision precision) {
  return fmt::format("gpu/{}/{}/{}", work, n, to_string(precision));
}

void register_all(const Gpu& gpu, bool small) {
  using benchmark::State;
  const auto add = [](const std::string& name, auto check_result, auto time) {
    return benchmark::RegisterBenchmark(
               name.c_str(),
               [check_result, time, verdict = std::optional<std::string>()](State& state) mutable {
                 if (!verdict) verdict = check_result();
                 if (!verdict->empty()) return fail(state, *verdict);
                 time(state);
               })
        ->UseManualTime();
  };
  const std::int64_t points = small ? 99 : std::int64_t{1} << 20, samples = small ? 99 : 3'000'000;
  const auto add_fields = [&](const char* name, const Model& model, bool residual, Precision precision) {
    const FieldWork work{model, points, residual, residual ? 4.0 : 2.0};
    add(
        name_of(name, points, precision),
        [&gpu, work, precision] { return check_fields(gpu.context(precision), work, unit_of(precision)); },
        [&gpu, work, precision](State& state) { time_fields(state, gpu, work, precision); })
        ->Unit(benchmark::kMicrosecond);
  };
  const SampleWork sampling(samples, small);
  add_fields("score/w64", square_network(64, 4), false, Precision::half);
  add_fields("score/w128", square_network(128, 4), false, Precision::half);
  const auto add_training = [&](const std::string& name, const TrainWork& work, Precision precision, auto check_result,
                                auto time) {
    add(
        fmt::format("gpu/{}/{}_{}/{}", name, work.denoising, work.collocation, to_string(precision)),
        [&gpu, work, precision, check_result] { return check_result(gpu, work, precision); },
        [&gpu, work, precision, time](State& state) { time(state, gpu, work, precision); })
        ->Unit(benchmark::kMicrosecond);
  };
  const auto check_alone = [](const Gpu& on, const TrainWork& work, Precision precision) {
    return check_training(on.context(precision), work, unit_of(precision));
  };
  const auto points_of = [small](std::int64_t n) { return small ? std::int64_t{99} : n; };
  const auto collocation_of = [small](std::int64_t m) { return small ? std::int64_t{19} : m; };
  // By split first: these are the figures to be reached.
  for (const Precision precision : {Precision::split, Precision::fp32}) {
    add_fields("score/paper", paper_model(), false, precision);
    add_fields("residual/paper", paper_model(), true, precision);
    for (const std::int64_t m : small ? std::vector<std::int64_t>{19} : std::vector<std::int64_t>{5'000, 50'000}) {
      add_training("train/paper", {paper_model(), points_of(4 * m), m}, precision, check_alone, time_training);
    }
    add(
        name_of("sample/paper", samples, precision),
        [&gpu, sampling, precision] { return check_sampler(gpu, sampling, precision); },
        [&gpu, sampling, precision](State& state) { time_sample(state, gpu, sampling, precision); })
        ->Unit(benchmark::kMillisecond)
        ->Iterations(3);
  }
  const TrainWork paper{paper_model(), points_of(200'000), collocation_of(50'000)};
  add_training("train/twelve", paper, Precision::split, check_twelve, time_twelve);
  if (!small) {  // what one model alone does not fill a large device with
    add_training("train/twelve", {paper_model(), 4096, 1024}, Precision::split, check_twelve, time_twelve);
  }
  Architecture vector;
  vector.output = Output::score;
  add_training("train/vector", {network(vector), points_of(200'000), 0}, Precision::split, check_alone, time_training);
  add_training("train/wide", {square_network(256, 4), points_of(20'000), collocation_of(5'000)}, Precision::split,
               check_alone, time_training);
  add_training("train/wide_vector", {square_network(256, 4, Output::score), points_of(20'000), 0}, Precision::split,
               check_alone, time_training);
  const auto add_loss = [&](const std::string& name, const Model& model, int warps) {
    add_training(
        "loss/" + name, {model, paper.denoising, paper.collocation}, Precision::split,
        [warps](const Gpu& on, const TrainWork& work, Precision precision) {
          return check_loss_by(on, work, warps, precision);
        },
        [warps](State& state, const Gpu& on, const TrainWork& work, Precision precision) {
          time_loss_by(state, on, work, warps, precision);
        });
  };
  for (const std::int64_t width : {32, 64, 80}) {
    add_loss(fmt::format("w{}_resident", width), square_network(width, 3), kernels::most_warps);
    add_loss(fmt::format("w{}_wide", width), square_network(width, 3), 0);
  }
  for (const int warps : {4, 5, 6, kernels::most_warps}) {
    add_loss(fmt::format("paper_{}_warps", warps), paper_model(), warps);
  }
  for (const bool residual : {false, true}) {
    const FieldWork work{paper_model(), points, residual, residual ? 4.0 : 2.0};
    add(
        fmt::format("gpu/library/{}/paper/{}", residual ? "residual" : "score", points),
        [&gpu, work] { return check_library_fields(gpu, work); },
        [&gpu, work](State& state) { time_library_fields(state, gpu, work); })
        ->Unit(benchmark::kMicrosecond);
  }
  add(
      fmt::format("gpu/library/train/paper/{}_{}", paper.denoising, paper.collocation),
      [&gpu, paper] { return check_library_training(gpu, paper); },
      [&gpu, paper](State& state) { time_library_training(state, gpu, paper); })
      ->Unit(benchmark::kMicrosecond);
  add(
      fmt::format("gpu/library/sample/paper/{}", samples),
      [&gpu, sampling] {
        LibraryPeer peer = library_peer(gpu, sampling.model);
        return check_sample(gpu, sampling,
                            [&](View<float> to) { peer.sample(sampling.times, sampling.options.seed, to); });
      },
      [&gpu, sampling](State& state) { time_library_sample(state, gpu, sampling); })
      ->Unit(benchmark::kMillisecond)
      ->Iterations(1);
}

int run(int argc, char** argv) {
  const auto reference = take(argc, argv, "write_reference");
  const auto at = std::find_if(argv + 1, argv + argc, [](const char* a) { return std::strcmp(a, "--small") == 0; });
  const bool small = at != argv + argc;
  if (small) std::rotate(at, at + 1, argv + argc--);
  if (argc == 2 && std::strcmp(argv[1], "--count_library") == 0) return count_library(), 0;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const Gpu gpu;
  if (reference) {
    write_reference(
        *reference, gpu.context(Precision::split),
        {.fields = std::int64_t{1} << 20, .denoising = 200'000, .collocation = 50'000, .samples = 3'000'000});
    return 0;
  }
  benchmark::AddCustomContext("fokker", fmt::format("{}, {}", version(), backend_status()[1].detail));
  register_all(gpu, small);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::ClearRegisteredBenchmarks();
  benchmark::Shutdown();
  return any_failed() ? 1 : 0;
}

}  // namespace
}  // namespace fokker::bench

int main(int argc, char** argv) {
  try {
    return fokker::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fokker_gpu_bench: %s\n", error.what());
    return 1;
  }
}
