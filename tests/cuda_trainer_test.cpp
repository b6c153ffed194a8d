// Trainers on CUDA: iterations against the loss in double of their points; reruns and resumed runs bit for bit; data sets
// from device memory.
#include "cuda_trainer.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "cuda/data.hpp"
#include "cuda/runtime.hpp"
#include "fokker/trainer.hpp"
#include "kernels/training_launch.hpp"
#include "loss_reference.hpp"
#include "operations/train_schedule.hpp"

namespace fokker {
namespace {

using cuda::check;
using cuda::DeviceMemory;
using cuda::upload;
using testing::agrees;
using ::testing::AllOf;
using testing::Bound;
using testing::cpu;
using testing::data_sets;
using testing::DataCase;
using testing::gpu;
using testing::has_nccl;
using ::testing::HasSubstr;
using testing::message_of;
using testing::norm_of;
using testing::on_host;
using testing::parameters_of;
using testing::Scratch;
using testing::small_model;
using testing::small_options;
using testing::state_bytes;
using testing::tensor_of;
using Index = std::int64_t;

class CudaTrainer : public testing::GpuTest {};

// Trainers.

struct RunCase {
  DataSet data;
  ForwardSde sde;
  TimeLaw law;
  Output output;
  Index denoising, collocation;
  std::vector<Index> hidden = {19, 7};
  std::optional<Architecture> architecture = {};  // instead of one with those
  double drop = 0;                                // of conditions
  int probes = 0;

  Index condition() const { return architecture ? architecture->condition.inputs : 0; }
};

// Rows of `columns` numbers, x and then its condition.
DataSet stored_rows(Index columns) {
  std::vector<float> numbers(static_cast<std::size_t>(99 * columns));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(3 * static_cast<float>(i));
  return DataSet::samples(numbers, columns);
}

// The points that the device draws for an iteration, at these parameters: rows of x and its condition.
testing::Problem problem_of(const RunCase& c, const TrainOptions& options, Index iteration,
                            const std::vector<double>& parameters) {
  const std::vector<float> edges = time_law_edges(c.sde, {}, 4096);
  const DeviceMemory device_edges = upload(edges), step = upload(std::vector<Index>{iteration});
  const cuda::DeviceData data(c.data);
  const Index n = options.denoising_points, m = options.residual_weight > 0 ? options.collocation_points : 0,
              y = c.condition(), d = c.data.dimension() - y;
  const kernels::TrainingDraw draw{.data = data.source(),
                                   .sde = c.sde.formulas(),
                                   .time = {c.law, static_cast<float>(c.sde.t_min()),
                                            static_cast<float>(c.sde.horizon()), 4096, device_edges.as<const float>()},
                                   .seed = options.seed,
                                   .iteration = step.as<const Index>(),
                                   .denoising_points = n,
                                   .collocation_points = m,
                                   .box = static_cast<float>(options.box),
                                   .condition = static_cast<int>(y),
                                   .condition_drop = static_cast<float>(options.condition_drop)};
  const DeviceMemory t(n * 4), x(n * d * 4), target(n * d * 4), weight(n * 4), residual_t(m * 4), residual_x(m * d * 4),
      condition(n * y * 4), residual_condition(m * y * 4);
  check(kernels::launch_denoising_points(draw, {}, 0, n, t.as<float>(), x.as<float>(), target.as<float>(),
                                         weight.as<float>(), nullptr, condition.as<float>()),
        "launch_denoising_points");
  if (m > 0) {
    check(kernels::launch_collocation_points(draw, 0, m, residual_t.as<float>(), residual_x.as<float>(), nullptr,
                                             residual_condition.as<float>()),
          "launch_collocation_points");
  }
  const auto numbers = [](const DeviceMemory& memory) {
    const std::vector<float> narrow = on_host<float>(memory, memory.bytes() / 4);
    return std::vector<double>(narrow.begin(), narrow.end());
  };
  const auto rows = [&](const DeviceMemory& points, const DeviceMemory& conditions, Index count) {
    const std::vector<double> own = numbers(points), of = numbers(conditions);
    std::vector<double> all;
    for (Index i = 0; i < count; ++i) {
      all.insert(all.end(), own.begin() + i * d, own.begin() + (i + 1) * d);
      all.insert(all.end(), of.begin() + i * y, of.begin() + (i + 1) * y);
    }
    return all;
  };
  testing::Problem problem{parameters,
                           numbers(t),
                           rows(x, condition, n),
                           numbers(target),
                           numbers(weight),
                           numbers(residual_t),
                           rows(residual_x, residual_condition, m)};
  const std::uint64_t seed = probe_seed(options.seed, static_cast<std::uint64_t>(iteration));
  return c.probes > 0 ? testing::with_probes(std::move(problem), d, c.probes, seed, 0) : problem;
}

// Records are of the loss in double at the parameters before the iteration and the points that the device draws for it,
// to within the rounding that the reference shows; so is the first gradient, ten times the first moment after a step. And
// those of a rank, which sums by chunks.
TEST_F(CudaTrainer, IterationsHaveTheLossOfTheirPoints) {
  const auto sde = [](SdeKind kind) { return ForwardSde::defaults(kind); };
  std::vector<RunCase> cases;
  const std::array sizes{std::pair(Index{99}, Index{0}), std::pair(Index{1}, Index{1}), std::pair(Index{19}, Index{99}),
                         std::pair(Index{301}, Index{19}), std::pair(Index{19}, Index{301})};
  const std::array sdes{SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp, SdeKind::ou};
  const std::array laws{TimeLaw::importance, TimeLaw::paper, TimeLaw::uniform};
  std::size_t turn = 0;
  for (const DataCase& c : data_sets()) {
    const auto [n, m] = sizes[turn % sizes.size()];
    cases.push_back({c.set, sde(sdes[turn % sdes.size()]), laws[turn % laws.size()],
                     turn % 3 == 2 ? Output::score : Output::potential, n, m});
    ++turn;
  }
  cases.push_back({data_sets()[0].set, {}, TimeLaw::importance, Output::potential, 99, 19, {150, 30}});
  cases.push_back({data_sets()[7].set, {}, TimeLaw::paper, Output::score, 99, 0, {150}});
  for (const std::vector<Index>& hidden : {std::vector<Index>{19, 7}, std::vector<Index>{150}}) {
    cases.push_back({.data = data_sets()[0].set,
                     .sde = sde(SdeKind::vp_linear),
                     .law = TimeLaw::importance,
                     .output = Output::potential,
                     .denoising = 19,
                     .collocation = 99,
                     .hidden = hidden,
                     .probes = 2});
  }
  for (const Output output : {Output::potential, Output::score}) {
    for (const auto& [name, architecture] : testing::branched_networks(output)) {
      if (architecture.dimension != 2) continue;
      cases.push_back({data_sets()[1].set,
                       sde(SdeKind::vp_linear),
                       TimeLaw::importance,
                       output,
                       35,
                       output == Output::potential ? 19 : 0,
                       {},
                       architecture});
    }
    for (const auto& [name, architecture] : testing::conditional_networks(output)) {
      if (architecture.dimension > 2) continue;
      const Index columns = architecture.dimension + architecture.condition.inputs;
      // Data of any kind that has so many columns.
      DataSet data = stored_rows(columns);
      for (const DataCase& other : data_sets()) {
        if (other.set.dimension() == columns) data = other.set;
      }
      cases.push_back({data,
                       sde(SdeKind::vp_linear),
                       TimeLaw::importance,
                       output,
                       35,
                       output == Output::potential ? 19 : 0,
                       {},
                       architecture,
                       cases.size() % 2 == 0 ? 0.3 : 0});
    }
  }
  for (const RunCase& c : cases) {
    SCOPED_TRACE(fmt::format("{} {} {}, {} + {} points", c.data.name(), c.sde.name(), to_string(c.output), c.denoising,
                             c.collocation));
    TrainOptions options = small_options();
    options.denoising_points = c.denoising;
    options.collocation_points = c.collocation;
    options.time_law = c.law;
    options.condition_drop = c.drop;
    options.residual_probes = c.probes;
    options.residual_weight = c.output == Output::score || c.collocation == 0 ? 0 : 0.5;
    options.schedule = RateSchedule::constant;
    const Model model = c.architecture ? Model{c.sde, Mlp::initialise(*c.architecture, 5)}
                                       : small_model(c.data.dimension(), c.output, c.sde, c.hidden);
    const Architecture& architecture = std::get<Mlp>(model.network).architecture;
    Trainer trainer(gpu(), model, c.data, options);
    std::vector<Trainer> first;
    first.emplace_back(gpu(), model, c.data, options);
    if (has_nccl()) first.emplace_back(gpu(), model, c.data, options, connect_gpus(gpu().gpu(), nullptr));
    for (Index k = 0; k < 3; ++k) {
      SCOPED_TRACE(k);
      const testing::Problem p = problem_of(c, options, k, tensor_of(trainer, "parameters"));
      const auto net = testing::reference_network(architecture, p.parameters);
      const auto denoising = testing::reference_denoising_loss(net, p.t, p.x, p.target, p.weight);
      testing::ReferenceLoss residual{0, std::vector<double>(p.parameters.size(), 0.0)};
      if (!p.residual_t.empty()) {
        residual =
            testing::reference_residual_loss(net, testing::reference_sde(c.sde), p.residual_t, p.residual_x, p.probes);
      }
      const testing::LossDeviations deviations = testing::loss_deviations(architecture, c.sde, p);
      constexpr double roundoff = 0x1p-22;  // of split products
      const auto check_record = [&](const TrainRecord& record) {
        EXPECT_EQ(record.iteration, k);
        EXPECT_EQ(record.rate, options.peak_rate);
        EXPECT_TRUE(testing::value_agrees(record.denoising, denoising.value, deviations.denoising, roundoff));
        EXPECT_TRUE(testing::value_agrees(record.residual, residual.value, deviations.residual, roundoff));
        EXPECT_TRUE(agrees(record.total, record.denoising + options.residual_weight * record.residual, 1e-15));
      };
      check_record(trainer.run(1)[0]);
      if (k > 0) continue;
      std::vector<double> gradient(p.parameters.size());
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        gradient[i] = denoising.gradient[i] + options.residual_weight * residual.gradient[i];
      }
      Bound bound = testing::gradient_rounding(
          testing::gradient_errors(architecture, c.sde, p, options.residual_weight, gradient), gradient, roundoff);
      const double norm = bound.norm;
      // The moment is a product in float with 0.1 as float.
      bound.relative += 0x1p-23;
      bound.norm += 0x1p-23;
      for (Trainer& one : first) {
        const TrainRecord record = one.run(1)[0];
        check_record(record);
        EXPECT_TRUE(agrees(record.gradient_norm, norm_of(gradient), norm));  // as the norm of the difference allows
        std::vector<double> of_moment = tensor_of(one, "first_moment");
        for (double& m : of_moment) m *= 10;
        EXPECT_TRUE(agrees(of_moment, gradient, bound));
      }
    }
  }
}

// With the same points, whose normals err by a few roundings: other conditions change a gradient by a hundred times as
// much as is allowed here, and more.
TEST_F(CudaTrainer, ConditionsAreThoseOfTheCpu) {
  for (const Output output : {Output::potential, Output::score}) {
    for (const auto& [name, architecture] : testing::conditional_networks(output)) {
      if (architecture.dimension > 2) continue;
      SCOPED_TRACE(name);
      const Model model{ForwardSde::defaults(SdeKind::vp_linear), Mlp::initialise(architecture, 5)};
      const DataSet data = stored_rows(architecture.dimension + architecture.condition.inputs);
      TrainOptions options = small_options();
      options.denoising_points = 35;
      options.loss_weight = LossWeight::variance;
      options.residual_weight = output == Output::potential ? 1e-2 : 0;
      std::vector<double> before;
      for (const double drop : {0.0, 0.3, 1.0}) {
        SCOPED_TRACE(drop);
        options.condition_drop = drop;
        Trainer here(cpu(), model, data, options), there(gpu(), model, data, options);
        const TrainRecord expected = here.run(1)[0], actual = there.run(1)[0];
        EXPECT_TRUE(agrees(actual.denoising, expected.denoising, 1e-5));
        EXPECT_TRUE(agrees(actual.residual, expected.residual, 1e-5));
        EXPECT_TRUE(agrees(actual.gradient_norm, expected.gradient_norm, 1e-5));
        const std::vector<double> gradient = tensor_of(there, "first_moment");
        EXPECT_TRUE(agrees(gradient, tensor_of(here, "first_moment"), Bound{.of_rms = 2e-4, .norm = 2e-5}));
        if (!before.empty()) {
          EXPECT_FALSE(agrees(gradient, before, Bound{.of_rms = 1e3, .norm = 2e-3}));
        }
        before = gradient;
      }
    }
  }
}

TEST_F(CudaTrainer, OnAnyStreamAndInPiecesGivesTheSameBits) {
  TrainOptions options = small_options();
  options.iterations = 24;
  options.denoising_points = 19;
  options.schedule = RateSchedule::paper;  // restarts at 6 and 21
  options.clip_norm = 2;
  options.average = WeightAverage::tail;
  struct Run {
    Model model;
    int probes = 0;
  };
  for (const auto& [model, probes] : {Run{small_model()}, Run{small_model(2, Output::potential, {}, {130, 20})},
                                      Run{small_model(), 2}, Run{small_model(2, Output::score)}}) {
    const DataSet data = DataSet::named("circles2");
    options.residual_probes = probes;
    if (model.output() == Output::score) options.residual_weight = 0;
    Trainer whole(gpu(), model, data, options);
    const auto all = whole.run(24);
    const std::string expected = state_bytes(whole);

    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    {
      const Context own({.backend = BackendKind::cuda, .stream = stream});
      Trainer again(own, model, data, options);
      again.run(24);
      EXPECT_TRUE(state_bytes(again) == expected) << "another stream";
    }
    check(cudaStreamDestroy(stream), "cudaStreamDestroy");

    const Scratch folder;
    const std::string path = folder / "state.safetensors";
    Trainer(gpu(), model, data, options).save_state(path);
    std::size_t seen = 0;
    for (const Index stop : {0, 1, 5, 6, 7, 19, 20, 21, 24}) {  // the average from 19
      Trainer part = Trainer::resume(gpu(), path, data);
      for (const TrainRecord& record : part.run(stop - part.iteration())) {
        EXPECT_EQ(record.iteration, all[seen].iteration);
        EXPECT_EQ(record.total, all[seen].total) << seen;
        EXPECT_EQ(record.gradient_norm, all[seen].gradient_norm) << seen;
        EXPECT_EQ(record.rate, all[seen].rate) << seen;
        ++seen;
      }
      EXPECT_EQ(part.iteration(), stop);
      part.save_state(path);
    }
    EXPECT_EQ(seen, 24u);
    EXPECT_TRUE(testing::get(path) == expected) << "resumed";
    EXPECT_TRUE(whole.run(5).empty());
    EXPECT_EQ(whole.iteration(), 24);
  }
}

// The first two slices are of one iteration, the later ones of as many as 50 ms hold, up to kernels::most_iterations:
// on the emulation, whose clock is slow, the third has these.
TEST_F(CudaTrainer, LongRunsAreThoseOfShortOnes) {
  TrainOptions options = small_options();
#ifdef FOKKER_EMULATION
  options.iterations = kernels::most_iterations + 16;
#else
  options.iterations = 4 * kernels::most_iterations;
#endif
  options.denoising_points = 1;
  options.residual_weight = 0;
  const Model model = small_model(2, Output::score, {}, {3});
  Trainer once(gpu(), model, DataSet::named("checker"), options),
      often(gpu(), model, DataSet::named("checker"), options);
  std::vector<TrainRecord> all, pieces;
  std::vector<std::size_t> slices;
  once.run(options.iterations, [&](const TrainingNews& news) {
    all.insert(all.end(), news.records.begin(), news.records.end());
    slices.push_back(news.records.size());
    return true;
  });
  ASSERT_GE(slices.size(), 3u);
  EXPECT_EQ(slices[0], 1u);
  EXPECT_EQ(slices[1], 1u);
  const std::size_t longest = *std::max_element(slices.begin(), slices.end());
  EXPECT_LE(longest, kernels::most_iterations);
#ifdef FOKKER_EMULATION
  EXPECT_EQ(longest, kernels::most_iterations);
#else
  EXPECT_GT(longest, 1u);  // of one point, so that 50 ms hold more than one iteration even where a tool watches each
#endif
  while (often.iteration() < options.iterations) {
    const std::vector<TrainRecord> more = often.run(options.iterations / 2);
    pieces.insert(pieces.end(), more.begin(), more.end());
  }
  ASSERT_EQ(std::ssize(all), options.iterations);
  testing::expect_same_records(pieces, all);
  for (std::size_t k = 0; k < all.size(); ++k) ASSERT_EQ(all[k].iteration, static_cast<Index>(k));
  EXPECT_TRUE(state_bytes(once) == state_bytes(often));
}

// At a restart the moments are those of one gradient, v = 0.1 m².
TEST_F(CudaTrainer, MomentsRestartWithThePapersRates) {
  TrainOptions options = small_options();
  options.schedule = RateSchedule::paper;
  options.iterations = 40;  // restarts at 10 and 36
  Trainer trainer(gpu(), small_model(), DataSet::named("blob"), options);
  for (const Index stop : {1, 11, 37}) {
    trainer.run(stop - trainer.iteration());
    const std::vector<double> m = tensor_of(trainer, "first_moment"), v = tensor_of(trainer, "second_moment");
    std::vector<double> expected;
    for (const double value : m) expected.push_back(0.1 * value * value);
    EXPECT_TRUE(agrees(v, expected, Bound{.relative = 1e-6, .of_rms = 0, .norm = 1e-6, .absolute = 1e-40})) << stop;
    trainer.run(1);
    EXPECT_FALSE(agrees(tensor_of(trainer, "second_moment"), expected,
                        Bound{.relative = 1e-2, .of_rms = 0, .norm = 1e-2, .absolute = 0}))
        << "no step was taken";
  }
}

TEST_F(CudaTrainer, ClippingScalesTheGradientToTheNormAndNoFurther) { testing::check_clipping(gpu()); }

TEST_F(CudaTrainer, StepsAreAdamsFromItsRestartOn) { testing::check_steps(gpu()); }

TEST_F(CudaTrainer, AverageIsExponentialOrTheMeanOfTheTail) { testing::check_averages(gpu()); }

TEST_F(CudaTrainer, StopsWithTheParametersBeforeTheFailingIteration) {
  testing::check_stop_before_what_is_not_finite(gpu());
}

TEST_F(CudaTrainer, HalfIsRefused) {
  const Context half({.backend = BackendKind::cuda, .precision = Precision::half});
  EXPECT_THAT(message_of([&] { Trainer(half, small_model(), DataSet::named("blob"), small_options()); }),
              HasSubstr("half"));
}

TEST_F(CudaTrainer, SeveralRanksAreRefused) {
  class TwoRanks : public Ranks {
   public:
    int rank() const override { return 0; }
    int size() const override { return 2; }
    void send(std::span<const std::byte>, int) override { ADD_FAILURE() << "sent"; }
    void receive(std::span<std::byte>, int) override { ADD_FAILURE() << "received"; }
  };
  const auto two = std::make_shared<TwoRanks>();
  EXPECT_THAT(message_of([&] { Trainer(gpu(), small_model(), DataSet::named("blob"), small_options(), two); }),
              HasSubstr("2 ranks were given to train on the cuda backend without a communicator of their GPUs"));
}

TEST_F(CudaTrainer, OnTwoThreadsTrainAsOnOne) {
  const auto train = [] {
    const Context context({.backend = BackendKind::cuda});
    Trainer trainer(context, small_model(), DataSet::named("blob"), small_options());
    trainer.run(20);
    return state_bytes(trainer);
  };
  const std::string expected = train();
  std::array<std::string, 2> states;
  std::thread other([&] { states[1] = train(); });
  states[0] = train();
  other.join();
  for (const std::string& state : states) EXPECT_TRUE(state == expected);
}

// Data in device memory.

TEST_F(CudaTrainer, SamplesFromDeviceMemoryAreThoseOfTheHost) {
  std::vector<float> numbers(99 * 3);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(static_cast<float>(i));
  const DataSet host = DataSet::samples(numbers, 3);
  std::optional<DataSet> device;
  {
    Buffer<float> mine(gpu(), 99, 3);
    copy(gpu(), View<const float>(numbers, 3), mine.view());
    device.emplace(DataSet::samples(gpu(), mine.view()));
  }
  EXPECT_EQ(device->stored(), nullptr);
  EXPECT_EQ(device->dimension(), 3);
  EXPECT_EQ(device->fingerprint(), host.fingerprint());
  Buffer<float> a(gpu(), 989, 3), b(gpu(), 989, 3);
  host.draw(gpu(), a.view(), 5, 19, 3);
  device->draw(gpu(), b.view(), 5, 19, 3);
  std::vector<float> va(989 * 3), vb(989 * 3);
  copy(gpu(), a.view(), View<float>(va, 3));
  copy(gpu(), b.view(), View<float>(vb, 3));
  gpu().synchronize();
  EXPECT_EQ(va, vb);

  const Model model = small_model(3);
  Trainer one(gpu(), model, host, small_options()), other(gpu(), model, *device, small_options());
  one.run(3), other.run(3);
  // The name of a set is in its state, and both are "samples".
  EXPECT_TRUE(state_bytes(one) == state_bytes(other));
  const Scratch folder;
  other.save_state(folder / "state.safetensors");
  Trainer resumed = Trainer::resume(gpu(), folder / "state.safetensors", host);
  resumed.run(3), one.run(3);
  EXPECT_TRUE(state_bytes(one) == state_bytes(resumed));

  std::vector<float> out(2 * 3);
  EXPECT_THAT(message_of([&] { device->draw(cpu(), View<float>(out, 3), 1); }), HasSubstr("on a GPU"));
  EXPECT_THAT(message_of([&] { Trainer(cpu(), model, *device, small_options()); }), HasSubstr("on a GPU"));
  EXPECT_EQ(DataSet::samples(cpu(), View<const float>(numbers, 3)).fingerprint(), host.fingerprint());
}

TEST_F(CudaTrainer, SamplesFromDeviceMemoryAreChecked) {
  std::vector<float> numbers(99 * 3, 1.0f);
  numbers[3 * 19 + 1] = std::numeric_limits<float>::quiet_NaN();
  Buffer<float> mine(gpu(), 99, 3);
  copy(gpu(), View<const float>(numbers, 3), mine.view());
  EXPECT_THAT(message_of([&] { DataSet::samples(gpu(), mine.view()); }), HasSubstr("sample 19, coordinate 1 is nan"));
  EXPECT_THAT(message_of([&] { DataSet::samples(gpu(), View<const float>(numbers, 3)); }), HasSubstr("samples"));
  EXPECT_THAT(message_of([&] { DataSet::samples(gpu(), View<const float>(mine.data(), 0, 3, Device::cuda)); }),
              HasSubstr("no samples given"));
}

}  // namespace
}  // namespace fokker
