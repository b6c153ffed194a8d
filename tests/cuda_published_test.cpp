// The published checkpoints on the CUDA backend in every precision: fields against the reference file's float64
// autograd, as fields_test.cpp does for the CPU, and how far each precision moves the samples. Prints the errors it
// finds, in the form of README's table: rms of the difference over rms of the quantity.
//
// A rounding of one unit stands for 2^−24 in fp32, 2^−22 in split (what two fp16 halves leave out) and 2^−11 in half;
// the special functions of a GPU are within two units of 2^−24.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <string>
#include <variant>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fields_reference.hpp"
#include "fokker/safetensors.hpp"
#include "fokker/sampler.hpp"
#include "paper_data.hpp"

namespace fokker {
namespace {

using namespace testing;

class CudaPublished : public GpuTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    const std::string folder = paper_data();
    if (folder.empty()) return;
    stem_ = folder + "/checkpoints/" + GetParam();
    model_ = load_model(stem_ + ".safetensors");
  }

  std::string stem_;
  Model model_;
};

Buffer<float> to_device(const Context& context, const std::vector<double>& v, std::int64_t columns) {
  const std::vector<float> narrow(v.begin(), v.end());
  Buffer<float> there(context, static_cast<std::int64_t>(v.size()) / columns, columns);
  copy(context, View<const float>(narrow, columns), there.view());
  context.synchronize();
  return there;
}

TEST_P(CudaPublished, EveryFieldInEveryPrecision) {
  const SafeTensors reference = SafeTensors::load(stem_ + ".reference.safetensors");
  const auto of = [&](const char* name) { return reference.at(name).to_double(); };
  Problem p{2, of("t"), of("x"), {}};
  ASSERT_EQ(p.n(), 512);
  p.direction.assign(p.x.size(), 1.0);
  const Expected deviations = rounding_deviations(model_, p);

  for (const Precision precision : {Precision::fp32, Precision::split, Precision::half}) {
    const Context context({.backend = BackendKind::cuda, .precision = precision});
    const Buffer<float> t = to_device(context, p.t, 1), x = to_device(context, p.x, 2);
    Buffer<float> value(context, 512), dt(context, 512), score(context, 512, 2), divergence(context, 512),
        residual(context, 512);
    FieldOutputs<float> outputs;
    outputs.value = value.view();
    outputs.score = score.view();
    const bool half = precision == Precision::half;
    if (!half) outputs.dt = dt.view(), outputs.divergence = divergence.view(), outputs.residual = residual.view();
    Fields<float>(context, model_).evaluate({t.view(), x.view()}, outputs);

    const double unit_roundoff = half ? 0x1p-11 : precision == Precision::split ? 0x1p-22 : 0x1p-24;
    std::string row = fmt::format("{} | {} |", GetParam(), to_string(precision));
    const auto check = [&](const char* in_file, const Buffer<float>& there, const std::vector<double>& deviation) {
      if (half && in_file != std::string("phi") && in_file != std::string("score")) return;
      const std::vector<double> expected = of(in_file);
      const std::vector<float> actual = to_host(context, there);
      EXPECT_TRUE(agrees(actual, expected,
                         rounding_bound(deviation, static_cast<std::size_t>(there.columns()), expected, unit_roundoff)))
          << in_file << ", " << to_string(precision);
      double square = 0, error = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        square += expected[i] * expected[i];
        error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
      }
      row += fmt::format(" {:.1e} |", std::sqrt(error / square));
    };
    check("phi", value, deviations.value);
    check("score", score, deviations.score);
    check("dphi_dt", dt, deviations.dt);
    check("laplacian", divergence, deviations.divergence);
    check("residual", residual, deviations.residual);
    std::cout << row << std::endl;
  }
}

// Samples of the same noise in two precisions, on a coarser grid of times. The mean square of the distances between the
// two of a pair bounds W2² from above; pairs of which one escaped are left out, as W2² on the grid leaves them out.
// Measured on the emulation, the largest of the eight (2000 samples of blob_w0.0, 160 of each other), from fp32:
//
//          split      half      the CPU's float
//   ODE    2.3e-10    3.4e-3    3.6e-10
//   SDE    4.3e-11    1.0e-4    9.0e-12
//
// Few samples make most of it, those that the flow spreads most. Allowed are ten times half's, and a hundred times
// split's, ten times in distance: there the special functions of a GPU add to the roundings.
TEST_P(CudaPublished, HowFarAPrecisionMovesTheSamples) {
#ifdef FOKKER_EMULATION
  constexpr std::int64_t n = 16;
#else
  constexpr std::int64_t n = 20000;
#endif
  const auto samples = [&](Precision precision, Scheme scheme) {
    const Context context({.backend = BackendKind::cuda, .precision = precision});
    Buffer<float> x(context, n, 2);
    Sampler(context, model_, TimeGrid::geometric(10, 1e-3, 223)).sample(x.view(), {.scheme = scheme, .seed = 1});
    return to_host(context, x);
  };
  for (const Scheme scheme : {Scheme::euler, Scheme::euler_maruyama}) {
    const std::vector<float> exact = samples(Precision::fp32, scheme);
    for (const Precision precision : {Precision::split, Precision::half}) {
      const std::vector<float> moved = samples(precision, scheme);
      double square = 0;
      int compared = 0;
      for (std::size_t i = 0; i < exact.size(); i += 2) {
        const auto inside = [](float v) { return std::fabs(v) < 3.5f; };
        if (!inside(exact[i]) || !inside(exact[i + 1]) || !inside(moved[i]) || !inside(moved[i + 1])) continue;
        square += std::pow(double(moved[i]) - exact[i], 2) + std::pow(double(moved[i + 1]) - exact[i + 1], 2);
        ++compared;
      }
      ASSERT_GT(compared, n / 2);
      std::cout << fmt::format("{} | {} | {} | {:.1e}", GetParam(), to_string(scheme), to_string(precision),
                               square / compared)
                << std::endl;
      const bool ode = scheme == Scheme::euler, split = precision == Precision::split;
      EXPECT_LE(square / compared, split ? (ode ? 2.3e-8 : 4.3e-9) : (ode ? 3.4e-2 : 1.0e-3));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, CudaPublished, ::testing::ValuesIn(paper_checkpoints),
                         [](const auto& test) { return name_in_test(test.param); });

}  // namespace
}  // namespace fokker
