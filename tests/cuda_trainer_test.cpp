// Training on CUDA: the points of an iteration against formulas in double on the CPU's draws of x_0.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "compare.hpp"
#include "cuda/data.hpp"
#include "cuda/runtime.hpp"
#include "fokker/error.hpp"
#include "fokker/philox.hpp"
#include "fokker/trainer.hpp"
#include "kernels/training_launch.hpp"
#include "train_schedule.hpp"

namespace fokker {
namespace {

using cuda::check;
using cuda::DeviceMemory;
using cuda::upload;
using testing::agrees;
using testing::Bound;
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

template <class T>
std::vector<T> on_host(const DeviceMemory& memory, std::size_t count) {
  std::vector<T> values(count);
  if (count > 0) {
    check(cudaMemcpy(values.data(), memory.data(), count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
  return values;
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
    const auto t_min = static_cast<float>(sde.t_min), horizon = static_cast<float>(sde.horizon);
    const kernels::TrainingDraw draw{.data = data.source(),
                                     .sde = sde,
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
      wtc[i] = sde.t_min + (sde.horizon - sde.t_min) * uniform;
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

}  // namespace
}  // namespace fokker
