// What a GPU application asks of the CUDA backend: the caller's own stream and memory, capture into a CUDA graph, two
// contexts on two streams and threads at once, set-up and training on one thread while another captures, no allocation
// after set-up. And two results at sizes that only a GPU takes in seconds: the weak order of Euler–Maruyama, residual
// statistics.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "cuda/runtime.hpp"
#include "fields_reference.hpp"
#include "fokker/composition.hpp"
#include "fokker/data.hpp"
#include "fokker/diagnostics/residual_statistics.hpp"
#include "fokker/loss.hpp"
#include "fokker/sampler.hpp"
#include "fokker/trainer.hpp"
#include "fokker/transport.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using cuda::check;
using testing::agrees;
using testing::architecture_of;
using testing::message_of;
using testing::model_of;
using testing::to_host;

#ifdef FOKKER_EMULATION
constexpr std::int64_t kSamples = 19, kManySamples = 35;
#else
constexpr std::int64_t kSamples = 989, kManySamples = 100000;
#endif

class CudaStream : public testing::GpuTest {};

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  Context context() const { return Context({.backend = BackendKind::cuda, .stream = stream_}); }

 private:
  cudaStream_t stream_ = nullptr;
};

struct Case {
  const char* name;
  Model model;
};
// A network guided by another of another path, and what was observed.
Model composition() {
  Architecture wide = architecture_of(2, {8, 8}, Activation::tanh, 1, Output::potential);
  wide.residual = {1};
  const Model with = model_of(architecture_of(2, {8, 8}, Activation::silu, 1, Output::potential), SdeKind::ou, 1),
              without = model_of(wide, SdeKind::ou, 2);
  return compose({{1, guided(with, without, 1.5)},
                  {1, gaussian_likelihood(with.sde, GaussianMixture::isotropic(2, {1}, {0, 0}, {1}),
                                          {{1, 0.5}, {}, {0.1}, {0.3}})}});
}

std::vector<Case> models() {
  Model standardised =
      model_of(architecture_of(2, {80, 80, 80}, Activation::softplus, 20, Output::potential), SdeKind::ou, 1);
  standardised.standardisation = {{0.5, -1}, {2, 0.25}};
  Model conditional = model_of(testing::conditional_networks(Output::potential)[3].architecture, SdeKind::ou, 5);
  Model standardised_conditional = conditional;
  standardised_conditional.standardisation = {{0.5, -1, 3, 0, 1}, {2, 0.25, 4, 1, 0.5}};
  return {{"deeper",
           model_of(architecture_of(2, {80, 80, 80, 80}, Activation::silu, 1, Output::potential), SdeKind::ou, 4)},
          {"resident",
           model_of(architecture_of(2, {80, 80, 80}, Activation::softplus, 20, Output::potential), SdeKind::ou, 1)},
          {"wide", model_of(architecture_of(2, {200, 150}, Activation::tanh, 1, Output::potential), SdeKind::ou, 2)},
          {"timed", model_of(testing::branched_networks(Output::potential)[0].architecture, SdeKind::ou, 6)},
          {"branched", model_of(testing::branched_networks(Output::potential)[8].architecture, SdeKind::ou, 3)},
          {"standardised", standardised},
          {"conditional", conditional},
          {"standardised_conditional", standardised_conditional},
          {"mixture", {ForwardSde{}, GaussianMixture::isotropic(2, {0.4, 0.6}, {-1, 0, 1, 0.5}, {0.2, 0.3})}},
          {"composition", composition()}};
}

// Conditions of n points; nothing for a model that takes none.
struct Conditions {
  Conditions(const Context& context, std::int64_t n, std::int64_t numbers) {
    if (numbers == 0) return;
    buffer.emplace(context, n, numbers);
    std::vector<float> y(static_cast<std::size_t>(n * numbers));
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = std::sin(static_cast<float>(i));
    copy(context, View<const float>(y, numbers), buffer->view());
    context.synchronize();
  }
  View<const float> view() const { return buffer ? View<const float>(buffer->view()) : View<const float>(); }

  std::optional<Buffer<float>> buffer;
};

// Everything that a model does asynchronously, on memory made before: queued as often as called.
struct Work {
  Work(const Context& context, const Model& model, std::int64_t n)
      : where(context),
        fields(context, model),
        sampler(context, model, TimeGrid::uniform(10, 0.5, 12)),
        condition(context, n, model.condition()),
        t(context, n),
        x(context, n, 2),
        score(context, n, 2),
        residual(context, n),
        samples(context, n, 2),
        snapshots(context, 2 * n, 2),
        density(context, n),
        drawn(context, n, 2) {
    data.draw(context, drawn.view(), 1, 0, 0);  // puts the set on the device
  }

  void queue() {
    const View<const float> y = condition.view();
    sampler.sample(samples.view(), {.scheme = Scheme::euler_maruyama, .seed = 3, .condition = y});
    sampler.sample(x.view(), {.scheme = Scheme::heun, .seed = 4, .condition = y});
    sampler.sample(x.view(), {.scheme = Scheme::exponential, .seed = 4, .condition = y});
    sampler.sample(x.view(), {.scheme = Scheme::ddim, .seed = 4, .condition = y});
    FieldOutputs<float> outputs;
    outputs.score = score.view();
    outputs.residual = residual.view();
    fields.evaluate({t.view(), x.view(), y}, outputs);
    sampler.log_density(x.view(), density.view(), Scheme::euler, {.probes = 1, .seed = 5}, {}, y);
    sampler.integrate(
        samples.view(),
        {.scheme = Scheme::euler, .snapshot_steps = {1, 12}, .snapshots = snapshots.view(), .condition = y});
    data.draw(where, drawn.view(), 2, 0, 0);
  }
  std::vector<Buffer<float>*> outputs() { return {&x, &score, &residual, &samples, &snapshots, &density, &drawn}; }
  std::vector<std::vector<float>> results(const Context& context) {
    std::vector<std::vector<float>> all;
    for (Buffer<float>* b : outputs()) all.push_back(to_host(context, b->view()));
    return all;
  }
  void clear(const Context& context) {
    for (Buffer<float>* b : outputs()) {
      const std::vector<float> zeros(static_cast<std::size_t>(b->size()), 0.0f);
      copy(context, View<const float>(zeros, b->columns()), b->view());
      context.synchronize();
    }
  }

  Context where;
  DataSet data = DataSet::named("blob");
  Fields<float> fields;
  Sampler sampler;
  Conditions condition;
  Buffer<float> t, x, score, residual, samples, snapshots, density, drawn;
};

TEST_F(CudaStream, WorkIsCapturedIntoAGraphThatGivesTheSameBits) {
  for (const Case& c : models()) {
    SCOPED_TRACE(c.name);
    const Stream stream;
    const Context context = stream.context();
    Work work(context, c.model, kSamples);
    // The first call of a resident network is captured; a wide one has a call before, in which cuBLAS loads its kernels.
    const std::string name = c.name;
    if (name == "wide" || name == "branched" || name == "composition" || c.model.condition() > 0) work.queue();
    work.clear(context);

    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    work.queue();
    check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    const auto untouched = work.results(context);
    work.clear(context);
    work.queue();
    const auto expected = work.results(context);
    EXPECT_NE(untouched, expected) << "capturing ran the work";
    for (int run = 0; run < 2; ++run) {
      work.clear(context);
      check(cudaGraphLaunch(executable, stream.get()), "cudaGraphLaunch");
      EXPECT_EQ(work.results(context), expected) << "launch " << run;
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
}

// Coefficients of steps that are not their scheme's own go to the device at their first call, which is set-up.
TEST_F(CudaStream, StepsOfTheirOwnAreCapturedOnceTheyWereTaken) {
  const SampleOptions own{.scheme = Scheme::exponential, .seed = 6, .eta = 0.5};
  for (const Case& c : {models()[1], models()[2], models()[3]}) {
    SCOPED_TRACE(c.name);
    const Stream stream;
    const Context context = stream.context();
    const Sampler sampler(context, c.model, TimeGrid::uniform(10, 0.5, 12));
    Buffer<float> x(context, kSamples, 2);
    sampler.sample(x, {.scheme = Scheme::exponential, .seed = 6});  // loads what a wide network's products take
    const std::size_t before = sampler.workspace_bytes();

    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    EXPECT_THAT(message_of([&] { sampler.sample(x, own); }), ::testing::HasSubstr("capturing"));
    check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
    cudaGraphDestroy(graph);

    sampler.sample(x, own);
    const std::vector<float> expected = to_host(context, x.view());
    EXPECT_GT(sampler.workspace_bytes(), before);
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    sampler.sample(x, own);
    check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    sampler.sample(x, {.scheme = Scheme::euler, .seed = 7});
    EXPECT_NE(to_host(context, x.view()), expected);
    check(cudaGraphLaunch(executable, stream.get()), "cudaGraphLaunch");
    EXPECT_EQ(to_host(context, x.view()), expected);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
}

// Another thread makes and drops objects of every kind, and asks for results on the host, while a stream is captured in
// the mode that forbids such calls to all threads.
TEST_F(CudaStream, SetUpOnOneThreadLeavesTheCaptureOfAnother) {
  const Case captured = models()[1];
  const Stream stream;
  const Context context = stream.context();
  Work work(context, captured.model, kSamples);
  work.queue();
  const auto expected = work.results(context);
  work.clear(context);

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  std::string failure;
  std::thread([&] {
    try {
      for (const Case& c : models()) {
        const Stream own;
        const Work dropped(own.context(), c.model, kSamples);
        const Buffer<float> x(own.context(), kSamples, 2);
        EXPECT_EQ(histogram(own.context(), x.view()).inside, kSamples);
        EXPECT_EQ(moments(own.context(), x.view()).count, kSamples);
      }
    } catch (const Error& error) {
      failure = error.what();
    }
  }).join();
  work.queue();
  check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  check(cudaGraphLaunch(executable, stream.get()), "cudaGraphLaunch");
  EXPECT_EQ(work.results(context), expected);
  EXPECT_EQ(failure, "");
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

TEST_F(CudaStream, SetUpIsRefusedWhileTheStreamOfItsContextIsCapturing) {
  const Stream stream;
  const Context context = stream.context();
  const Case c = models()[1];
  Buffer<float> x(context, 3, 2);
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  for (const auto& set_up : std::vector<std::function<void()>>{
           [&] { Buffer<float>(context, 3, 2); }, [&] { Fields<float>(context, c.model); },
           [&] { Fields<double>(context, c.model); }, [&] { Sampler(context, c.model, TimeGrid::uniform(10, 0.5, 2)); },
           [&] { histogram(context, x.view()); }, [&] { moments(context, x.view()); }}) {
    EXPECT_THAT(message_of(set_up), ::testing::HasSubstr("the context's stream is capturing a CUDA graph"));
  }
  check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
  cudaGraphDestroy(graph);
}

// Losses of zeros, their parameters and results.
template <class T>
struct LossWork {
  LossWork(const Context& context, const Architecture& architecture, std::int64_t n)
      : loss(context, architecture, ForwardSde{}),
        parameters(context, architecture.parameter_count()),
        gradient(context, architecture.parameter_count()),
        t(context, n),
        x(context, n, architecture.dimension),
        target(context, n, architecture.dimension),
        values(context, 3) {
    if (architecture.conditional()) condition.emplace(context, n, architecture.condition.inputs);
  }

  void queue() {
    const View<const T> y = condition ? View<const T>(condition->view()) : View<const T>();
    loss.evaluate(parameters.view(), {t.view(), x.view(), target.view(), {}, y}, {t.view(), x.view(), y}, 1,
                  values.view(), gradient.view());
  }

  Loss<T> loss;
  Buffer<T> parameters, gradient, t, x, target;
  std::optional<Buffer<T>> condition;
  Buffer<double> values;
};

#ifdef FOKKER_EMULATION
// A device allocates in larger pieces than the emulation.
std::size_t free_bytes() {
  std::size_t free = 0, all = 0;
  check(cudaMemGetInfo(&free, &all), "cudaMemGetInfo");
  return free;
}

// At this width samples are resident and log-densities wide, by a field whose score is resident: it shares the sampler's
// packed network, so a sampler keeps no more beside its workspace than a field does.
TEST_F(CudaStream, ASamplerPacksItsNetworkOnce) {
  const Stream stream;
  const Context context = stream.context();
  const Architecture a = architecture_of(2, {128, 128}, Activation::softplus, 100, Output::potential);
  const Model model = model_of(a, SdeKind::ou, 3);
  const auto beside_workspace = [](const auto& make) {
    const std::size_t before = free_bytes();
    const auto made = make();
    return before - free_bytes() - made.workspace_bytes();
  };
  const std::size_t field = beside_workspace([&] { return Fields<float>(context, model); });
  const std::size_t sampler = beside_workspace([&] { return Sampler(context, model, TimeGrid::uniform(10, 1, 2)); });
  const std::size_t stages = 16384;  // of every scheme
  EXPECT_LT(sampler, field + stages);
  EXPECT_GT(field, 4 * static_cast<std::size_t>(a.parameter_count()));
}

TEST_F(CudaStream, ALossKeepsTheMemoryThatItSays) {
  const Stream stream;
  const Context context = stream.context();
  const auto keeps_what_it_says = [&]<class T>(const Model& model, T) {
    const std::size_t before = free_bytes();
    const Loss<T> loss(context, std::get<Mlp>(model.network).architecture, model.sde);
    const std::size_t taken = before - free_bytes(), said = loss.workspace_bytes();
    EXPECT_GT(said, 0u);
    EXPECT_LE(said, taken);
    // A wide network has two halves of its matrices and of their transposes, padded.
    const auto parameters = static_cast<std::size_t>(std::get<Mlp>(model.network).architecture.parameter_count());
    EXPECT_LE(taken - said, 16 * parameters);
  };
  for (const Case& c : models()) {
    if (!std::holds_alternative<Mlp>(c.model.network)) continue;
    SCOPED_TRACE(c.name);
    keeps_what_it_says(c.model, 0.0f);
    keeps_what_it_says(c.model, 0.0);
  }
}
#endif

// On the emulation every call that allocates or releases is counted, from construction on; on a GPU what is free
// afterwards, once the kernels are loaded.
TEST_F(CudaStream, NothingIsAllocatedAfterSetUp) {
  for (const Case& c : models()) {
    SCOPED_TRACE(c.name);
    const Stream stream;
    const Context context = stream.context();
    Work work(context, c.model, kManySamples);
    const Fields<double> fields(context, c.model);
    Buffer<double> t(context, kManySamples), x(context, kManySamples, 2), residual(context, kManySamples);
    Buffer<float> hessian(context, kManySamples, 4), product(context, kManySamples, 2);
    std::optional<Buffer<double>> condition;
    if (c.model.condition() > 0) condition.emplace(context, kManySamples, c.model.condition());
    FieldOutputs<float> curvature;
    curvature.hessian = hessian.view();
    FieldOutputs<double> in_double;
    in_double.residual = residual.view();
    std::optional<LossWork<float>> loss;
    std::optional<LossWork<double>> loss_in_double;
    if (const Mlp* mlp = std::get_if<Mlp>(&c.model.network)) {
      loss.emplace(context, mlp->architecture, kSamples);
      loss_in_double.emplace(context, mlp->architecture, kSamples);
    }
    const auto queue = [&] {
      work.queue();
      if (loss) loss->queue(), loss_in_double->queue();
      const Points<float> points{work.t.view(), work.x.view(), work.condition.view()};
      work.fields.evaluate(points, curvature);
      work.fields.hessian_vector(points, work.samples.view(), product.view());
      fields.evaluate({t.view(), x.view(), condition ? View<const double>(condition->view()) : View<const double>()},
                      in_double, {.probes = 2});
    };
#ifdef FOKKER_EMULATION
    const auto memory = [] { return emulated_allocations(); };
#else
    queue();  // loads the kernels
    const auto memory = [] {
      std::size_t free = 0, all = 0;
      check(cudaMemGetInfo(&free, &all), "cudaMemGetInfo");
      return free;
    };
#endif
    context.synchronize();
    const std::size_t before = memory();
    for (int run = 0; run < 2; ++run) queue();
    context.synchronize();
    EXPECT_EQ(memory(), before);
  }
}

TEST_F(CudaStream, TwoContextsOnTwoStreamsAndThreadsDoNotDisturbEachOther) {
  const auto all = models();
  std::vector<std::vector<std::vector<float>>> expected;
  for (const Case& c : all) {
    const Stream stream;
    Work work(stream.context(), c.model, kSamples);
    work.queue();
    expected.push_back(work.results(stream.context()));
  }
  std::array<int, 2> wrong = {0, 0};
  const auto body = [&](int thread) {
    for (int round = 0; round < 4; ++round) {
      const std::size_t k = static_cast<std::size_t>(thread + round) % all.size();
      const Stream stream;
      const Context context = stream.context();
      Work work(context, all[k].model, kSamples);
      for (int run = 0; run < 3; ++run) work.queue();
      wrong[static_cast<std::size_t>(thread)] += work.results(context) != expected[k];
    }
  };
  std::thread other(body, 1);
  body(0);
  other.join();
  EXPECT_EQ(wrong[0], 0);
  EXPECT_EQ(wrong[1], 0);
}

// A trainer captures its iterations on a stream of its own, whatever stream its context has.
TEST_F(CudaStream, TrainingAndTheCaptureOfAnotherThreadLeaveEachOtherAlone) {
  const auto train = [](const Context& context) {
    TrainOptions options;
    options.iterations = 3;
    options.denoising_points = 99;
    Trainer trainer(context, model_of(architecture_of(2, {19}, Activation::silu, 1, Output::potential), SdeKind::ou, 1),
                    DataSet::named("checker"), options);
    trainer.run(3);
    return std::get<Mlp>(trainer.model().network).parameters;
  };
  const std::vector<double> expected = train(Context({.backend = BackendKind::cuda}));
  const Stream stream;
  const Context context = stream.context();
  Work work(context, models()[1].model, 99);
  work.queue();
  const auto results = work.results(context);
  work.clear(context);

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  std::vector<double> beside;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  std::thread([&] { beside = train(Context({.backend = BackendKind::cuda})); }).join();
  work.queue();
  check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  check(cudaGraphLaunch(executable, stream.get()), "cudaGraphLaunch");
  EXPECT_EQ(work.results(context), results);
  EXPECT_EQ(beside, expected);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

// An application's own allocation, at its own offset.
TEST_F(CudaStream, TakesTheCallersMemoryAndStream) {
  const Stream stream;
  const Context context = stream.context();
  const Case c = models()[1];
  const std::int64_t n = 99;
  cuda::DeviceMemory mine(static_cast<std::size_t>(2 * n + 2) * sizeof(float));
  const Sampler sampler(context, c.model, TimeGrid::uniform(10, 0.5, 5));
  const View<float> view{mine.as<float>() + 2, n, 2, Device::cuda};
  sampler.sample(view, {.seed = 6});
  Buffer<float> ours(context, n, 2);
  sampler.sample(ours.view(), {.seed = 6});
  EXPECT_EQ(to_host(context, view), to_host(context, ours.view()));
}

#ifndef FOKKER_EMULATION

// Gaussian data: the score is −x/v(t), so the scheme's variance follows from a recursion, and its distance from v falls
// by half with the step (weak order 1). 2^24 samples put the statistical error far below that distance.
TEST_F(CudaStream, EulerMaruyamaHasWeakOrderOne) {
  const Context context({.backend = BackendKind::cuda});
  const Model model{ForwardSde{}, GaussianMixture::isotropic(1, {1.0}, {0.0}, {2.0})};
  const auto v = [](double t) { return 2 * std::exp(-2 * t) + 0.5 * (1 - std::exp(-2 * t)); };
  constexpr std::int64_t n = std::int64_t{1} << 24;
  Buffer<float> x(context, n, 1);
  std::vector<double> bias;
  for (const int steps : {40, 80, 160}) {
    const TimeGrid grid = TimeGrid::uniform(10, 0.5, steps);
    double expected = 0.5;
    for (int k = 0; k < steps; ++k) {
      const double t = grid.times()[k], h = t - grid.times()[k + 1], factor = 1 + h * (1 - 1 / v(t));
      expected = factor * factor * expected + h;
    }
    Sampler(context, model, grid).sample(x.view(), {.seed = 11, .noise_in_last_step = true});
    double square = 0;
    for (const float sample : to_host(context, x.view())) square += double(sample) * sample;
    const double variance = square / double(n);
    EXPECT_NEAR(variance, expected, 5 * expected * std::sqrt(2 / double(n))) << steps;
    bias.push_back(variance - v(0.5));
  }
  for (int k = 0; k < 2; ++k) EXPECT_NEAR(std::log2(bias[k] / bias[k + 1]), 1, 0.25) << bias[k] << ", " << bias[k + 1];
}

// The residual of a network on both backends, over the points of the statistics.
TEST_F(CudaStream, ResidualStatisticsAreThoseOfTheCpu) {
  const Context gpu({.backend = BackendKind::cuda}), cpu({.backend = BackendKind::cpu});
  const Case c = models()[1];
  const auto there = residual_statistics(gpu, c.model), here = residual_statistics(cpu, c.model);
  // Means of 2^18 squares: their rounding averages out, and a relative error of R of 1e-4 is what split is allowed.
  EXPECT_TRUE(agrees(there.mean_square, here.mean_square, 1e-4));
  EXPECT_TRUE(agrees(there.centred_mean_square, here.centred_mean_square, 1e-4));
}

#endif

}  // namespace
}  // namespace fokker
