// Kernels of a training iteration: the points that it draws against formulas in double on the CPU's draws of x_0, the
// update against Adam in double, the squares that a loss leaves of its gradient.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "compare.hpp"
#include "cuda/data.hpp"
#include "cuda/device_loss.hpp"
#include "cuda/runtime.hpp"
#include "cuda_trainer.hpp"
#include "device_test.hpp"
#include "fokker/formulas/philox.hpp"
#include "fokker/trainer.hpp"
#include "kernels/training_launch.hpp"
#include "operations/train_schedule.hpp"

namespace fokker {
namespace {

using cuda::check;
using cuda::DeviceMemory;
using cuda::upload;
using testing::agrees;
using testing::Bound;
using testing::cpu;
using testing::data_sets;
using testing::DataCase;
using testing::on_host;
using testing::small_model;
using testing::to_device;
using Index = std::int64_t;

class CudaTrainingKernels : public testing::GpuTest {};

TEST_F(CudaTrainingKernels, PointsAreThoseOfTheDocumentedWords) {
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
    const std::vector<float> edges = time_law_edges(sde, {}, 4096);
    const DeviceMemory device_edges = upload(edges), step = upload(std::vector<Index>{iteration});
    const cuda::DeviceData data(c.set);
    const auto t_min = static_cast<float>(sde.t_min()), horizon = static_cast<float>(sde.horizon());
    const kernels::TrainingDraw draw{.data = data.source(),
                                     .sde = sde.formulas(),
                                     .time = {law, t_min, horizon, 4096, device_edges.as<const float>()},
                                     .seed = seed,
                                     .iteration = step.as<const Index>(),
                                     .denoising_points = first + n,
                                     .collocation_points = first + n,
                                     .box = 3.5f};
    const auto count = static_cast<std::size_t>(n);
    DeviceMemory t(count * 4), x(count * d * 4), target(count * d * 4), weight(count * 4);
    check(kernels::launch_denoising_points(draw, {}, first, n, t.as<float>(), x.as<float>(), target.as<float>(),
                                           weight.as<float>(), nullptr),
          "launch_denoising_points");
    DeviceMemory tc(count * 4), xc(count * d * 4);
    check(kernels::launch_collocation_points(draw, first, n, tc.as<float>(), xc.as<float>(), nullptr),
          "launch_collocation_points");

    std::vector<float> x_0(count * d);
    c.set.draw(cpu(), View<float>(x_0, d), seed, first, iteration);
    const TimeDraw time{law, t_min, horizon, 4096, edges.data()};
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

TEST_F(CudaTrainingKernels, UpdateFollowsADoubleReference) {
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
      // The gradient of Σ h (p − 1)²/2 with noise, h over six orders of magnitude.
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
TEST_F(CudaTrainingKernels, LossesLeaveTheSquaresOfTheirGradient) {
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
                                 .points = {.data = data.source(),
                                            .sde = sde.formulas(),
                                            .time = {TimeLaw::uniform, static_cast<float>(sde.t_min()),
                                                     static_cast<float>(sde.horizon()), 0, nullptr},
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

}  // namespace
}  // namespace fokker
