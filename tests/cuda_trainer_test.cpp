// Training on CUDA: the points of an iteration against formulas in double on the CPU's draws of x_0; the update against
// Adam in double; iterations against the loss in double of their points; reruns, resumed runs and models side by side
// bit for bit; the news of a run; data sets from device memory.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "compare.hpp"
#include "cuda/data.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/runtime.hpp"
#include "device_test.hpp"
#include "fokker/error.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/safetensors.hpp"
#include "fokker/trainer.hpp"
#include "kernels/training_launch.hpp"
#include "loss_reference.hpp"
#include "operations/train_schedule.hpp"
#include "scratch.hpp"
#include "trainer_checks.hpp"

namespace fokker {
namespace {

using cuda::check;
using cuda::DeviceMemory;
using cuda::upload;
using testing::agrees;
using ::testing::AllOf;
using testing::Bound;
using testing::diverging_options;
using ::testing::HasSubstr;
using testing::message_of;
using testing::parameters_of;
using testing::Scratch;
using testing::small_model;
using testing::small_options;
using testing::state_bytes;
using Index = std::int64_t;

class CudaTrainer : public ::testing::Test {
 protected:
  void SetUp() override {
    const BackendStatus status = backend_status()[1];
    if (!status.available) GTEST_SKIP() << status.detail;
  }
};

const Context& cpu() {
  static const Context context({.backend = BackendKind::cpu, .threads = 2});
  return context;
}

const Context& gpu() {
  static const Context context({.backend = BackendKind::cuda});
  return context;
}

template <class T>
std::vector<T> on_host(const DeviceMemory& memory, std::size_t count) {
  std::vector<T> values(count);
  if (count > 0) {
    check(cudaMemcpy(values.data(), memory.data(), count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
  return values;
}

template <class T>
void to_device(T* to, const T* from, std::size_t count) {
  check(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
}

// Points.

struct DataCase {
  const char* name;
  DataSet set;
};
std::vector<DataCase> data_sets() {
  const std::vector<double> weights = {1.0, 2.0, 0.5};
  const auto means = [](Index d) {
    std::vector<double> m(static_cast<std::size_t>(3 * d));
    for (std::size_t i = 0; i < m.size(); ++i) m[i] = std::sin(3.0 * static_cast<double>(i));
    return m;
  };
  const auto full = [&](Index d) {
    std::vector<double> c(static_cast<std::size_t>(3 * d * d));
    for (Index k = 0; k < 3; ++k) {
      for (Index i = 0; i < d; ++i) {
        for (Index j = 0; j < d; ++j) {
          c[static_cast<std::size_t>((k * d + i) * d + j)] = (i == j ? 1.0 : 0.3 / static_cast<double>(k + 1));
        }
      }
    }
    return DataSet::mixture(GaussianMixture(d, weights, means(d), c));
  };
  std::vector<float> stored(7 * 19);
  for (std::size_t i = 0; i < stored.size(); ++i) stored[i] = std::cos(static_cast<float>(i));
  return {{"blob", DataSet::named("blob")},
          {"circles2", DataSet::named("circles2")},
          {"checker", DataSet::named("checker")},
          {"isotropic_1", DataSet::mixture(GaussianMixture::isotropic(1, weights, means(1), {0.2, 0.1, 0.3}))},
          {"isotropic_7", DataSet::mixture(GaussianMixture::isotropic(7, weights, means(7), {0.2, 0.1, 0.3}))},
          {"full_2", full(2)},
          {"full_6", full(6)},
          {"samples_7", DataSet::samples(stored, 7)}};
}

TEST_F(CudaTrainer, PointsAreThoseOfTheDocumentedWords) {
  const std::array sdes{SdeKind::ou, SdeKind::vp_linear, SdeKind::vp_cosine, SdeKind::subvp, SdeKind::ve};
  const std::array laws{TimeLaw::importance, TimeLaw::paper, TimeLaw::uniform};
  std::size_t turn = 0;
  for (const DataCase& c : data_sets()) {
    SCOPED_TRACE(c.name);
    const ForwardSde sde = ForwardSde::defaults(sdes[turn % sdes.size()]);
    const TimeLaw law = laws[turn % laws.size()];
    ++turn;
    const Index n = 99, first = 19, d = c.set.dimension(), iteration = (Index{1} << 33) + 3;
    const std::uint64_t seed = 0x1234567890ull;
    const std::vector<float> edges = importance_edges(sde, 4096);
    const DeviceMemory device_edges = upload(edges), step = upload(std::vector<Index>{iteration});
    const cuda::DeviceData data(c.set);
    const auto t_min = static_cast<float>(sde.t_min()), horizon = static_cast<float>(sde.horizon());
    const kernels::TrainingDraw draw{.data = data.source(),
                                     .sde = sde.formulas(),
                                     .time = {law, t_min, horizon, device_edges.as<const float>(), 4096},
                                     .seed = seed,
                                     .iteration = step.as<const Index>(),
                                     .denoising_points = first + n,
                                     .collocation_points = first + n,
                                     .box = 3.5f};
    const auto count = static_cast<std::size_t>(n);
    DeviceMemory t(count * 4), x(count * d * 4), target(count * d * 4), weight(count * 4);
    check(kernels::launch_denoising_points(draw, first, n, t.as<float>(), x.as<float>(), target.as<float>(),
                                           weight.as<float>(), nullptr),
          "launch_denoising_points");
    DeviceMemory tc(count * 4), xc(count * d * 4);
    check(kernels::launch_collocation_points(draw, first, n, tc.as<float>(), xc.as<float>(), nullptr),
          "launch_collocation_points");

    std::vector<float> x_0(count * d);
    c.set.draw(cpu(), View<float>(x_0, d), seed, first, iteration);
    const TimeDraw time{law, t_min, horizon, edges.data(), 4096};
    std::vector<double> wt(count), ww(count), wx(count * d), wtarget(count * d), wtc(count), wxc(count * d), each;
    for (std::size_t i = 0; i < count; ++i) {
      const auto word = [&](RandomUse use, std::size_t w) {
        return philox4x32_10(seed, first + i, philox_offset(use, static_cast<std::uint32_t>(w / 4), iteration))
            .word[w % 4];
      };
      float w = 0;
      wt[i] = time(uniform_from_word(word(RandomUse::time, 0)), w);
      ww[i] = w;
      const auto at = sde.at(wt[i]);
      for (std::size_t j = 0; j < static_cast<std::size_t>(d); ++j) {
        const double u = uniform_from_word(word(RandomUse::denoising, j / 2 * 2));
        const double v = uniform_from_word(word(RandomUse::denoising, j / 2 * 2 + 1));
        const double angle = 2 * std::acos(-1.0) * v;
        const double z = std::sqrt(-2 * std::log(u)) * (j % 2 == 0 ? std::cos(angle) : std::sin(angle));
        wx[i * d + j] = at.mean * double{x_0[i * d + j]} + std::sqrt(at.variance) * z;
        wtarget[i * d + j] = -z / std::sqrt(at.variance);
        // A normal of the float formula errs by 3e-6 at most, relative to 1.
        each.push_back(3e-6 / std::sqrt(at.variance));
        const double uniform = uniform_from_word(word(RandomUse::collocation, 1 + j));
        wxc[i * d + j] = 3.5 * (2 * uniform - 1);
      }
      const double uniform = uniform_from_word(word(RandomUse::collocation, 0));
      wtc[i] = sde.t_min() + (sde.horizon() - sde.t_min()) * uniform;
    }
    // Times and weights by one float formula; a product and a sum may be fused.
    const Bound rounding{.relative = 4e-7, .of_rms = 1e-7, .norm = 4e-7, .absolute = 0};
    EXPECT_TRUE(agrees(on_host<float>(t, count), wt, rounding));
    EXPECT_TRUE(agrees(on_host<float>(weight, count), ww, rounding));
    EXPECT_TRUE(agrees(on_host<float>(tc, count), wtc, rounding));
    EXPECT_TRUE(agrees(on_host<float>(xc, count * d), wxc, rounding));
    // Means, deviations and their product with a number below 6 in float.
    EXPECT_TRUE(
        agrees(on_host<float>(x, count * d), wx, Bound{.relative = 2e-6, .of_rms = 3e-6, .norm = 2e-6, .absolute = 0}));
    EXPECT_TRUE(agrees(on_host<float>(target, count * d), wtarget,
                       Bound{.relative = 2e-6, .of_rms = 0, .norm = 3e-6, .absolute = 0, .each = each}));
  }
}

// The update.

struct UpdateModel {
  Index count;
  double clip;
  bool averaged;
};

TEST_F(CudaTrainer, UpdateFollowsADoubleReference) {
  // Sizes below, at and beyond a block, and beyond the blocks of the smaller ones.
  const std::vector<UpdateModel> models = {{1, 0, true}, {99, 0.5, true}, {989, 0, false}, {2'501, 3, true}};
  const Index steps = 30, restart = 12, average_from = 20;
  std::vector<kernels::UpdateStep> table;
  for (Index k = 0; k < steps; ++k) {
    const Index before = k < restart ? k : k - restart;
    table.push_back({.adam = AdamStep(k < restart ? 1e-2 : 1e-3, before + 1, 1),
                     .restart = before == 0,
                     .share = k < average_from ? 0 : 1 / static_cast<double>(k - average_from + 1)});
  }
  struct OnDevice {
    DeviceMemory parameters, first, second, average, gradient, values, squares, plan, report;
  };
  std::mt19937_64 engine(3);
  std::normal_distribution<double> normal;
  std::vector<OnDevice> memory;
  std::vector<kernels::UpdateTask> tasks;
  std::vector<std::vector<double>> p, m, v, average;
  const Index first_iteration = 5'000'000'000;
  for (const UpdateModel& model : models) {
    std::vector<float> start(static_cast<std::size_t>(model.count));
    for (float& value : start) value = static_cast<float>(normal(engine) / 2);
    p.emplace_back(start.begin(), start.end());
    m.emplace_back(start.size(), 0.0), v.emplace_back(start.size(), 0.0), average.emplace_back(start.size(), 0.0);
    const std::vector<float> wrong(start.size(), 7.0f);  // the restart of iteration 0 clears it
    OnDevice& d = memory.emplace_back(
        OnDevice{upload(start), upload(wrong), upload(wrong), upload(average.back()), DeviceMemory(start.size() * 4),
                 DeviceMemory(3 * 8), DeviceMemory(sizeof(kernels::GradientSquares)),
                 DeviceMemory(sizeof(kernels::UpdatePlan)), DeviceMemory(sizeof(kernels::UpdateReport))});
    // What has no average has no shares.
    std::vector<kernels::UpdateStep> own = table;
    if (!model.averaged) {
      for (kernels::UpdateStep& step : own) step.share = 0;
    }
    to_device(&d.plan.as<kernels::UpdatePlan>()->first, &first_iteration, 1);
    to_device(d.plan.as<kernels::UpdatePlan>()->steps, own.data(), own.size());
    to_device(&d.report.as<kernels::UpdateReport>()->iteration, &first_iteration, 1);
    tasks.push_back({.parameter_count = model.count,
                     .parameters = d.parameters.as<float>(),
                     .first_moment = d.first.as<float>(),
                     .second_moment = d.second.as<float>(),
                     .average = model.averaged ? d.average.as<double>() : nullptr,
                     .gradient = d.gradient.as<const float>(),
                     .values = d.values.as<const double>(),
                     .squares = d.squares.as<const kernels::GradientSquares>(),
                     .clip_norm = model.clip,
                     .plan = d.plan.as<const kernels::UpdatePlan>(),
                     .report = d.report.as<kernels::UpdateReport>()});
  }
  const DeviceMemory device_tasks = upload(tasks);

  std::vector<std::vector<double>> norms(models.size());
  for (Index k = 0; k < steps; ++k) {
    const std::array<int, 4> counts{1, 19, kernels::most_square_parts, 64};
    for (std::size_t i = 0; i < models.size(); ++i) {
      const int parts = counts[i];
      // Of Σ h (p − 1)²/2 with noise, h over six orders of magnitude.
      std::vector<float> gradient(p[i].size());
      for (std::size_t j = 0; j < gradient.size(); ++j) {
        const double h = std::pow(10.0, static_cast<double>(j % 7) - 3);
        gradient[j] = static_cast<float>(h * (p[i][j] - 1 + 0.1 * normal(engine)));
      }
      to_device(memory[i].gradient.as<float>(), gradient.data(), gradient.size());
      const std::array values{1.0 + static_cast<double>(k), 2.0, 3.0};
      to_device(memory[i].values.as<double>(), values.data(), values.size());
      kernels::GradientSquares squares{
          .iteration = on_host<Index>(memory[i].report, 1)[0], .count = parts, .parts = {}};
      double square = 0;
      for (std::size_t j = 0; j < gradient.size(); ++j) {
        const double g_squared = double{gradient[j]} * double{gradient[j]};
        square += g_squared;
        squares.parts[j % parts] += g_squared;
      }
      to_device(memory[i].squares.as<kernels::GradientSquares>(), &squares, 1);
      const double norm = std::sqrt(square), clip = models[i].clip;
      norms[i].push_back(norm);
      const double scale = clip > 0 && norm > clip ? clip / norm : 1;
      const Index t = (k < restart ? k : k - restart) + 1;
      if (t == 1) std::fill(m[i].begin(), m[i].end(), 0.0), std::fill(v[i].begin(), v[i].end(), 0.0);
      const double rate = k < restart ? 1e-2 : 1e-3;
      for (std::size_t j = 0; j < gradient.size(); ++j) {
        const double g = scale * double{gradient[j]};
        m[i][j] = 0.9 * m[i][j] + 0.1 * g;
        v[i][j] = 0.999 * v[i][j] + 0.001 * g * g;
        const double m_hat = m[i][j] / (1 - std::pow(0.9, t)), v_hat = v[i][j] / (1 - std::pow(0.999, t));
        p[i][j] -= rate * m_hat / (std::sqrt(v_hat) + 1e-8);
        if (k >= average_from) average[i][j] += (p[i][j] - average[i][j]) / static_cast<double>(k - average_from + 1);
      }
    }
    check(kernels::launch_update(device_tasks.as<const kernels::UpdateTask>(), static_cast<int>(models.size()),
                                 models.back().count, nullptr),
          "launch_update");
  }
  for (std::size_t i = 0; i < models.size(); ++i) {
    SCOPED_TRACE(models[i].count);
    const std::size_t count = p[i].size();
    // A float step rounds the parameter by half a unit of |p| ≤ 4 and the update by a few of its own.
    const Bound of_p{.relative = 0, .of_rms = 0, .norm = 0, .absolute = static_cast<double>(steps) * 0x1p-22};
    EXPECT_TRUE(agrees(on_host<float>(memory[i].parameters, count), p[i], of_p));
    // v rounds β₂, the square, their product and the sum in each of the steps since the restart; all are positive.
    const double of_v = 4 * static_cast<double>(steps - restart) * 0x1p-24;
    EXPECT_TRUE(agrees(on_host<float>(memory[i].second, count), v[i],
                       Bound{.relative = of_v, .of_rms = 0, .norm = of_v, .absolute = 0}));
    // Sums of ten terms or so, of both signs.
    EXPECT_TRUE(agrees(on_host<float>(memory[i].first, count), m[i],
                       Bound{.relative = 1e-5, .of_rms = 1e-6, .norm = 1e-6, .absolute = 0}));
    if (models[i].averaged) {
      EXPECT_TRUE(agrees(on_host<double>(memory[i].average, count), average[i], of_p));
    }
    const kernels::UpdateReport report = on_host<kernels::UpdateReport>(memory[i].report, 1)[0];
    EXPECT_EQ(report.iteration, first_iteration + steps);
    for (Index k = 0; k < steps; ++k) {
      const kernels::UpdateRecord& record = report.records[k];
      EXPECT_EQ(record.denoising, 1.0 + static_cast<double>(k));
      EXPECT_EQ(record.residual, 2.0);
      EXPECT_EQ(record.total, 3.0);
      EXPECT_TRUE(agrees(record.gradient_norm, norms[i][static_cast<std::size_t>(k)], 1e-13)) << k;
    }
  }
}

// The parts of Σ g² that a loss leaves are of the gradient that it leaves, and of the iteration that it drew.
TEST_F(CudaTrainer, LossesLeaveTheSquaresOfTheirGradient) {
  const cuda::Queue queue = testing::queue(Precision::split);
  const ForwardSde sde;
  const cuda::DeviceData data(DataSet::named("checker"));
  struct Shape {
    std::vector<Index> hidden;
    Output output;
  };
  for (const Shape& shape : {Shape{{80, 80, 80}, Output::potential}, Shape{{19}, Output::score},
                             Shape{{150, 30}, Output::potential}, Shape{{150}, Output::score}}) {
    SCOPED_TRACE(
        fmt::format("{} layers, the first of {}, {}", shape.hidden.size(), shape.hidden[0], to_string(shape.output)));
    const Mlp mlp = std::get<Mlp>(small_model(2, shape.output, sde, shape.hidden).network);
    const std::vector<float> start(mlp.parameters.begin(), mlp.parameters.end());
    const DeviceMemory parameters = upload(start), iteration = upload(std::vector<Index>{41}), values(3 * 8),
                       gradient(start.size() * 4), squares(sizeof(kernels::GradientSquares));
    const kernels::LossTask task{.parameters = parameters.as<float>(),
                                 .drawn = true,
                                 .points = {.data = data.source(),
                                            .sde = sde.formulas(),
                                            .time = {TimeLaw::uniform, static_cast<float>(sde.t_min()),
                                                     static_cast<float>(sde.horizon()), nullptr, 0},
                                            .seed = 7,
                                            .iteration = iteration.as<Index>(),
                                            .denoising_points = 19,
                                            .collocation_points = shape.output == Output::potential ? 7 : 0,
                                            .box = 3},
                                 .residual_weight = 0.5,
                                 .values = values.as<double>(),
                                 .gradient = gradient.as<float>(),
                                 .squares = squares.as<kernels::GradientSquares>()};
    const auto loss = cuda::make_device_loss(queue, mlp.architecture, sde);
    cuda::TrainingLoss* const one = loss.get();
    loss->evaluate({&one, 1}, {&task, 1});
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    const auto left = on_host<kernels::GradientSquares>(squares, 1)[0];
    EXPECT_EQ(left.iteration, 41);
    ASSERT_GE(left.count, 1);
    ASSERT_LE(left.count, kernels::most_square_parts);
    double expected = 0;
    for (const float g : on_host<float>(gradient, start.size())) expected += double{g} * double{g};
    EXPECT_GT(expected, 0);
    // Both add at most P numbers of one sign.
    EXPECT_TRUE(agrees(std::accumulate(left.parts, left.parts + left.count, 0.0), expected,
                       2 * static_cast<double>(start.size()) * 0x1p-53));
  }
}

// Trainers.

std::vector<double> tensor_of(const Trainer& trainer, const char* name) {
  const Scratch folder;
  trainer.save_state(folder / "state.safetensors");
  return SafeTensors::load(folder / "state.safetensors").at(name).to_double();
}

double norm_of(const std::vector<double>& v) {
  return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
}

struct RunCase {
  DataSet data;
  ForwardSde sde;
  TimeLaw law;
  Output output;
  Index denoising, collocation;
  std::vector<Index> hidden = {19, 7};
};

// The points that the device draws for an iteration, at these parameters.
testing::Problem problem_of(const RunCase& c, const TrainOptions& options, Index iteration,
                            const std::vector<double>& parameters) {
  const std::vector<float> edges = importance_edges(c.sde, 4096);
  const DeviceMemory device_edges = upload(edges), step = upload(std::vector<Index>{iteration});
  const cuda::DeviceData data(c.data);
  const Index n = options.denoising_points, m = options.residual_weight > 0 ? options.collocation_points : 0,
              d = c.data.dimension();
  const kernels::TrainingDraw draw{.data = data.source(),
                                   .sde = c.sde.formulas(),
                                   .time = {c.law, static_cast<float>(c.sde.t_min()), static_cast<float>(c.sde.horizon()),
                                            device_edges.as<const float>(), 4096},
                                   .seed = options.seed,
                                   .iteration = step.as<const Index>(),
                                   .denoising_points = n,
                                   .collocation_points = m,
                                   .box = static_cast<float>(options.box)};
  const DeviceMemory t(n * 4), x(n * d * 4), target(n * d * 4), weight(n * 4), residual_t(m * 4), residual_x(m * d * 4);
  check(kernels::launch_denoising_points(draw, 0, n, t.as<float>(), x.as<float>(), target.as<float>(),
                                         weight.as<float>(), nullptr),
        "launch_denoising_points");
  if (m > 0) {
    check(kernels::launch_collocation_points(draw, 0, m, residual_t.as<float>(), residual_x.as<float>(), nullptr),
          "launch_collocation_points");
  }
  const auto numbers = [](const DeviceMemory& memory) {
    const std::vector<float> narrow = on_host<float>(memory, memory.bytes() / 4);
    return std::vector<double>(narrow.begin(), narrow.end());
  };
  return {parameters,      numbers(t),          numbers(x),         numbers(target),
          numbers(weight), numbers(residual_t), numbers(residual_x)};
}

// Records are of the loss in double at the parameters before the iteration and the points that the device draws for it,
// to within the rounding that the reference shows; so is the first gradient, ten times the first moment after a step.
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
  for (const RunCase& c : cases) {
    SCOPED_TRACE(fmt::format("{} {} {}, {} + {} points", c.data.name(), c.sde.name(), to_string(c.output), c.denoising,
                             c.collocation));
    TrainOptions options = small_options();
    options.denoising_points = c.denoising;
    options.collocation_points = c.collocation;
    options.time_law = c.law;
    options.residual_weight = c.output == Output::score || c.collocation == 0 ? 0 : 0.5;
    options.schedule = RateSchedule::constant;
    const Model model = small_model(c.data.dimension(), c.output, c.sde, c.hidden);
    const Architecture& architecture = std::get<Mlp>(model.network).architecture;
    Trainer trainer(gpu(), model, c.data, options);
    for (Index k = 0; k < 3; ++k) {
      SCOPED_TRACE(k);
      const testing::Problem p = problem_of(c, options, k, tensor_of(trainer, "parameters"));
      const auto net = testing::reference_network(architecture, p.parameters);
      const auto denoising = testing::reference_denoising_loss(net, p.t, p.x, p.target, p.weight);
      testing::ReferenceLoss residual{0, std::vector<double>(p.parameters.size(), 0.0)};
      if (!p.residual_t.empty()) {
        residual = testing::reference_residual_loss(net, testing::reference_sde(c.sde), p.residual_t, p.residual_x);
      }
      const testing::LossDeviations deviations = testing::loss_deviations(architecture, c.sde, p);
      constexpr double roundoff = 0x1p-22;  // of split products
      const TrainRecord record = trainer.run(1)[0];
      EXPECT_EQ(record.iteration, k);
      EXPECT_EQ(record.rate, options.peak_rate);
      EXPECT_TRUE(testing::value_agrees(record.denoising, denoising.value, deviations.denoising, roundoff));
      EXPECT_TRUE(testing::value_agrees(record.residual, residual.value, deviations.residual, roundoff));
      EXPECT_TRUE(agrees(record.total, record.denoising + options.residual_weight * record.residual, 1e-15));
      if (k > 0) continue;
      std::vector<double> gradient(p.parameters.size());
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        gradient[i] = denoising.gradient[i] + options.residual_weight * residual.gradient[i];
      }
      Bound bound = testing::gradient_rounding(
          testing::gradient_errors(architecture, c.sde, p, options.residual_weight, gradient), gradient, roundoff);
      // Norms differ by that of the difference at most.
      EXPECT_TRUE(agrees(record.gradient_norm, norm_of(gradient), bound.norm));
      // The moment is a product in float with 0.1 as float.
      bound.relative += 0x1p-23;
      bound.norm += 0x1p-23;
      std::vector<double> of_moment = tensor_of(trainer, "first_moment");
      for (double& m : of_moment) m *= 10;
      EXPECT_TRUE(agrees(of_moment, gradient, bound));
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
  for (const Model& model :
       {small_model(), small_model(2, Output::potential, {}, {130, 20}), small_model(2, Output::score)}) {
    const DataSet data = DataSet::named("circles2");
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

TEST_F(CudaTrainer, ClippingScalesTheGradientToTheNormAndNoFurther) {
  const auto moment_norm = [&](double clip, double& norm) {
    TrainOptions options = small_options();
    options.clip_norm = clip;
    Trainer trainer(gpu(), small_model(), DataSet::named("checker"), options);
    norm = trainer.run(1)[0].gradient_norm;
    return 10 * norm_of(tensor_of(trainer, "first_moment"));
  };
  double norm = 0, clipped = 0, loose = 0;
  const double unclipped_moment = moment_norm(0, norm);
  EXPECT_TRUE(agrees(unclipped_moment, norm, 1e-6));
  const double clipped_moment = moment_norm(norm / 3, clipped);
  EXPECT_TRUE(agrees(clipped_moment, norm / 3, 1e-6));
  const double loose_moment = moment_norm(3 * norm, loose);
  EXPECT_TRUE(agrees(loose_moment, norm, 1e-6));
  EXPECT_EQ(clipped, norm);  // the record tells the norm before clipping
  EXPECT_EQ(loose, norm);
}

TEST_F(CudaTrainer, AverageIsExponentialOrTheMeanOfTheTail) { testing::check_averages(gpu()); }

TEST_F(CudaTrainer, StopsWithTheParametersBeforeTheFailingIteration) {
  const TrainOptions options = diverging_options();
  Trainer trainer(gpu(), small_model(), DataSet::named("blob"), options);
  std::string message;
  std::size_t before = 0;
  try {
    trainer.run(20);
  } catch (const TrainingStopped& stopped) {
    message = stopped.what();
    before = stopped.records.size();
  }
  const Index stopped = trainer.iteration();
  EXPECT_GE(stopped, 1);
  EXPECT_LT(stopped, 20);
  EXPECT_EQ(before, static_cast<std::size_t>(stopped));
  EXPECT_THAT(message, AllOf(HasSubstr(fmt::format("stopped at iteration {}", stopped)), HasSubstr("not finite")));
  const std::vector<double> kept = parameters_of(trainer.model());
  for (const double value : kept) ASSERT_TRUE(std::isfinite(value));

  // They are what the iterations before it made.
  Trainer again(gpu(), small_model(), DataSet::named("blob"), options);
  again.run(stopped);
  EXPECT_EQ(parameters_of(again.model()), kept);
  EXPECT_EQ(message_of([&] { trainer.run(1); }), message);  // and it stays there
}

// Side by side.

struct Together {
  Model model;
  DataSet data;
  TrainOptions options;
};
std::vector<Together> side_by_side() {
  std::vector<Together> all;
  for (int k = 0; k < 5; ++k) {
    TrainOptions options = small_options();
    options.denoising_points = 19;
    options.collocation_points = 7;
    options.seed = static_cast<std::uint64_t>(k);
    all.push_back(
        {small_model(), DataSet::named(std::array{"blob", "circles2", "checker", "blob", "blob"}[k]), options});
  }
  all[1].options.iterations = 4;  // ends earlier
  all[2].options.residual_weight = 0;
  all[2].options.denoising_points = 99;
  all[3].model = small_model(2, Output::score);  // of another shape
  all[3].options.residual_weight = 0;
  all[4].model = small_model(2, Output::potential, {}, {130});
  // Of the first one's shape, with other activations.
  for (const double beta : {100, 20}) {
    all.push_back(all[0]);
    Architecture& architecture = std::get<Mlp>(all.back().model.network).architecture;
    architecture.activation = Activation::softplus;
    architecture.beta = beta;
  }
  return all;
}

TEST_F(CudaTrainer, SideBySideIsAsAlone) {
  const std::vector<Together> all = side_by_side();
  for (const Context& context : {gpu(), cpu()}) {
    SCOPED_TRACE(context.backend_name());
    std::vector<Trainer> members;
    for (const Together& t : all) members.emplace_back(context, t.model, t.data, t.options);
    TrainingGroup trainers(std::move(members));
    const auto records = trainers.run(6);
    ASSERT_EQ(records.size(), all.size());
    for (std::size_t k = 0; k < all.size(); ++k) {
      SCOPED_TRACE(k);
      const Index expected = std::min<Index>(6, all[k].options.iterations);
      EXPECT_EQ(trainers[k].iteration(), expected);
      ASSERT_EQ(records[k].size(), static_cast<std::size_t>(expected));
      Trainer alone(context, all[k].model, all[k].data, all[k].options);
      testing::expect_same_records(records[k], alone.run(6));
      EXPECT_TRUE(state_bytes(trainers[k]) == state_bytes(alone));
    }
  }
}

TEST_F(CudaTrainer, NewsTellsEveryRecordOnce) { testing::NewsOfARun(gpu()).check_records(); }
TEST_F(CudaTrainer, NewsStopsWhereTheSinkSaysSo) { testing::NewsOfARun(gpu()).check_stop(false); }
TEST_F(CudaTrainer, NewsTellsWhatWasBeforeAFailure) { testing::NewsOfARun(gpu()).check_failure(); }
TEST_F(CudaTrainer, NewsComesOfTheGroupsMembers) { testing::NewsOfARun(gpu()).check_members(); }
TEST_F(CudaTrainer, NewsRefusesTheTrainersInTheSink) { testing::NewsOfARun(gpu()).check_use_in_the_sink(); }

#ifdef FOKKER_EMULATION
// With every news but the last the slice that follows is under way already.
TEST_F(CudaTrainer, NewsComesWhileTheNextSliceRuns) {
  Trainer other(gpu(), small_model(), DataSet::named("blob"), small_options());
  other.run(1);
  std::size_t before = emulated_launches();
  other.run(1);
  const std::size_t of_one = emulated_launches() - before;

  Trainer trainer(gpu(), small_model(), DataSet::named("blob"), small_options());
  before = emulated_launches();
  std::size_t told = 0, calls = 0;
  const std::size_t all = 9;
  trainer.run(all, [&](const TrainingNews& news) {
    told += news.records.size();
    // What is launched ahead of the capture is less than an iteration.
    const std::size_t launched = (emulated_launches() - before) / of_one;
    EXPECT_GE(launched, std::min(told + 1, all)) << "at news " << calls;
    return ++calls > 0;
  });
  EXPECT_EQ(told, all);
  EXPECT_GE(calls, 3u);
}

// A launch that fails among slices: the trainers are where the device is, and go on as if undisturbed.
TEST_F(CudaTrainer, AFailedLaunchLosesNoIteration) {
  for (const std::size_t launches : {0, 2, 5}) {
    SCOPED_TRACE(launches);
    std::vector<Trainer> trainers;
    for (std::uint64_t seed = 0; seed < 2; ++seed) {
      TrainOptions options = small_options();
      options.seed = seed;
      options.denoising_points = 19;
      options.collocation_points = 7;
      trainers.emplace_back(gpu(), small_model(), DataSet::named("blob"), options);
    }
    TrainingGroup group(std::move(trainers));
    emulate_failure(launches, 1);
    EXPECT_THAT(message_of([&] { group.run(9); }), HasSubstr("cudaGraphLaunch"));
    trainers = group.release();
    for (Trainer& trainer : trainers) {
      EXPECT_EQ(trainer.iteration(), static_cast<Index>(launches));
      Trainer alone(gpu(), small_model(), DataSet::named("blob"), trainer.options());
      alone.run(static_cast<Index>(launches));
      EXPECT_TRUE(state_bytes(trainer) == state_bytes(alone));
      testing::expect_same_records(trainer.run(2), alone.run(2));
      EXPECT_TRUE(state_bytes(trainer) == state_bytes(alone));
    }
  }
}

TEST_F(CudaTrainer, WhereItStandsUnknownATrainerIsRefused) {
  Trainer trainer(gpu(), small_model(), DataSet::named("blob"), small_options());
  emulate_failure(3, 2);  // and what asks the device
  EXPECT_THAT(message_of([&] { trainer.run(9); }), HasSubstr("cudaGraphLaunch"));
  const char* const refused = "its iteration on the GPU could not be read";
  EXPECT_THAT(message_of([&] { trainer.run(1); }), HasSubstr(refused));
  EXPECT_THAT(message_of([&] { trainer.model(); }), HasSubstr(refused));
}
#endif

// Within the sink the thread is as its caller has it.
TEST_F(CudaTrainer, NewsComesInTheCallersCaptureMode) {
  Trainer trainer(gpu(), small_model(), DataSet::named("blob"), small_options());
  const auto mode = [] {
    const cuda::CaptureMode any(cudaStreamCaptureModeRelaxed);
    return any.before();
  };
  for (const cudaStreamCaptureMode own : {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal}) {
    const cuda::CaptureMode here(own);
    std::size_t calls = 0;
    trainer.run(2, [&](const TrainingNews&) {
      EXPECT_EQ(mode(), own);
      return ++calls > 0;
    });
    EXPECT_GE(calls, 1u);
    EXPECT_EQ(mode(), own);
  }
}

// The launches of kernels in one iteration of each, after one in which it was captured; 0 where they are not counted.
std::size_t launches_of(TrainingGroup& group) {
  group.run(1);
#ifdef FOKKER_EMULATION
  const std::size_t before = emulated_launches();
  group.run(1);
  return emulated_launches() - before;
#else
  group.run(1);
  return 0;
#endif
}

// The paper's twelve on a small network and few points, and one more than a launch takes.
TEST_F(CudaTrainer, TheTwelveOfThePaperShareTheLaunchesOfOne) {
  Architecture architecture;
  architecture.hidden = {20, 20, 20};
  architecture.beta = 100;
  TrainOptions options;
  options.iterations = 100'000;
  options.denoising_points = 64;
  options.collocation_points = 16;
  options.time_law = TimeLaw::paper;
  options.schedule = RateSchedule::paper;
  options.average = WeightAverage::none;
  const Model model{ForwardSde{}, Mlp::initialise(architecture, options.seed)};
  std::vector<Together> all;
  for (const char* data : {"blob", "circles2", "checker"}) {
    for (const double weight : {0.0, 0.1, 1.0, 10.0}) {
      options.residual_weight = weight;
      all.push_back({model, DataSet::named(data), options});
    }
  }
  ASSERT_EQ(std::ssize(all), kernels::most_models);
  options.seed = 1;
  all.push_back({model, DataSet::named("blob"), options});
  std::vector<Trainer> last, trainers;
  for (const Together& t : all) trainers.emplace_back(gpu(), t.model, t.data, t.options);
  last.push_back(std::move(trainers.back()));
  trainers.pop_back();
  TrainingGroup one(std::move(last)), twelve(std::move(trainers));
  const std::size_t of_one = launches_of(one), of_twelve = launches_of(twelve);
  trainers = twelve.release();
  trainers.push_back(std::move(one.release().front()));
  TrainingGroup thirteen(std::move(trainers));
  const std::size_t of_thirteen = launches_of(thirteen);
#ifdef FOKKER_EMULATION
  // Packing, sweeps and the sum over blocks for each group of twelve; the update for all.
  EXPECT_EQ(of_one, 4u);
#endif
  EXPECT_EQ(of_twelve, of_one);
  EXPECT_EQ(of_thirteen, of_one > 0 ? of_one + 3 : 0);
  for (std::size_t k = 0; k < all.size(); ++k) {
    SCOPED_TRACE(k);
    EXPECT_EQ(thirteen[k].iteration(), 4);
    Trainer alone(gpu(), all[k].model, all[k].data, all[k].options);
    alone.run(4);
    EXPECT_TRUE(state_bytes(thirteen[k]) == state_bytes(alone));
  }
}

TEST_F(CudaTrainer, HalfIsRefused) {
  const Context half({.backend = BackendKind::cuda, .precision = Precision::half});
  EXPECT_THAT(message_of([&] { Trainer(half, small_model(), DataSet::named("blob"), small_options()); }),
              HasSubstr("half"));
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
