// The peer of the CUDA benchmarks (bench/library_peer.hpp) on Thrust's C++ backend, with plain loops for cuBLAS: its
// fields and losses by the checks that the benchmarks make, its paths and its training against the library's. And what
// it counts.
#include "bench/library_peer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bench/checks.hpp"
#include "bench/work.hpp"
#include "scratch.hpp"

namespace fokker::bench {
namespace {

void multiply(const cuda::Product<float, float>& p) {
  for (std::int64_t i = 0; i < p.rows; ++i) {
    for (std::int64_t j = 0; j < p.columns; ++j) {
      double sum = p.add ? p.c[i * p.c_stride + j] : 0;
      for (std::int64_t k = 0; k < p.depth; ++k) {
        const float a = p.a_transposed ? p.a[k * p.a_stride + i] : p.a[i * p.a_stride + k];
        const float b = p.b_transposed ? p.b[j * p.b_stride + k] : p.b[k * p.b_stride + j];
        sum += static_cast<double>(a) * b;
      }
      p.c[i * p.c_stride + j] = static_cast<float>(sum);
    }
  }
}

Model silu_potential() { return network({.hidden = {12, 7}, .activation = Activation::silu}); }

LibraryPeer peer_of(const Model& model) {
  return LibraryPeer(std::get<Mlp>(model.network), model.sde, nullptr, multiply);
}

const Context& cpu() {
  static const Context context({.backend = BackendKind::cpu});
  return context;
}

TEST(LibraryPeer, FieldsAreThoseOfTheReference) {
  for (const Model& model : {paper_model(), silu_potential()}) {
    for (const bool residual : {false, true}) {
      LibraryPeer peer = peer_of(model);
      const FieldWork work{model, 200, residual, residual ? 4.0 : 2.0};
      EXPECT_EQ(check_fields(cpu(), work, roundoff,
                             [&](const Points<float>& at, View<float> result) {
                               residual ? peer.residual(at, result) : peer.score(at, result);
                             }),
                "");
    }
  }
}

TEST(LibraryPeer, LossesAndTheirGradientAreThoseOfTheReference) {
  for (const Model& model : {paper_model(), silu_potential()}) {
    LibraryPeer peer = peer_of(model);
    EXPECT_EQ(check_losses(cpu(), {model, 300, 70}, roundoff,
                           [&](const auto& parameters, const auto& denoising, const auto& collocation,
                               const auto& values, const auto& gradient) {
                             peer.losses(parameters.data, denoising, collocation, 1.0, values.data, gradient.data);
                           }),
              "");
  }
}

TEST(LibraryPeer, PathsAreThoseOfTheSampler) {
  const Model model = trained_model(20);
  const TimeGrid grid = TimeGrid::uniform(model.sde.horizon(), 0.5, 40);
  std::vector<float> want(2 * 33), got(2 * 33);
  SampleOptions options;
  options.seed = 7;
  Sampler(cpu(), model, grid).sample(View<float>(want, 2), options);
  peer_of(model).sample(grid.times(), 7, View<float>(got, 2));
  // A rounding a step, each of which grows as the path itself does.
  const std::vector<double> wide(want.begin(), want.end());
  EXPECT_EQ(compare("a path", got.data(), wide.data(), std::ssize(got), 40 * roundoff, 4 * 40 * roundoff), "");
}

// The library's losses to rounding; later ones differ as Adam magnifies the roundings of a gradient's small elements.
TEST(LibraryPeer, TrainingIsThatOfTheTrainer) {
  const Model model = paper_model();
  const TrainOptions options = paper_training(200, 50);
  Trainer trainer(cpu(), model, DataSet::named("circles2"), options);
  LibraryPeer peer = peer_of(model);
  for (const double bound : {2e-6, 2e-4, 2e-4}) {
    const TrainRecord want = trainer.run(1).back();
    peer.train(options, 1);
    const std::vector<double> got = peer.last_record();
    EXPECT_NEAR(got[0] / want.denoising, 1, bound);
    EXPECT_NEAR(got[1] / want.residual, 1, bound);
    EXPECT_NEAR(got[2] / want.total, 1, bound);
    EXPECT_NEAR(got[3] / want.gradient_norm, 1, 10 * bound);
  }
}

// A score of the paper's network: the inputs; a product and a pointwise step a layer, forwards and, but for the last,
// backwards; the product that ends it.
TEST(LibraryPeer, CountsWhatItWouldCost) {
  const Model model = paper_model();
  LibraryPeer counting(std::get<Mlp>(model.network), model.sde, nullptr, nullptr), computing = peer_of(model);
  const RandomPoints points = random_points(model.sde, 2, 50, 1);
  std::vector<float> out(100);
  for (LibraryPeer* peer : {&counting, &computing}) {
    peer->score(points.view(), View<float>(out, 2));
    const LibraryCost cost = peer->take_cost();
    EXPECT_EQ(cost.launches, 1 + 2 * 3 + 2 * 2 + 1);
    // Inputs [50, 3], weights, planes [50, 80] of z and h: a product reads and writes once, a step reads z and writes both.
    const double inputs = 4 * 50 * 3, plane = 4 * 50 * 80, first = 4 * 80 * 3, square = 4 * 80 * 80, score = 4 * 50 * 2;
    const double forward = inputs + first + plane + 2 * (plane + square + plane),
                 activations = 3 * 2 * plane + 2 * plane;
    const double reverse = 2 * (plane + square + plane) + 2 * 3 * plane + plane + 4 * 80 * 2 + score;
    EXPECT_EQ(cost.bytes, 2 * inputs + forward + activations + reverse);
    EXPECT_EQ(cost.flop, 2.0 * 50 * (2 * (3 * 80 + 2 * 80 * 80) - 80));
    EXPECT_DOUBLE_EQ(cost.seconds, 12 * h200_seconds_a_launch);  // each is short
    EXPECT_EQ(peer->take_cost().launches, 0);
  }
  std::vector<float> samples(2);
  counting.sample(TimeGrid::paper(10).times(), 1, View<float>(samples, 2));
  EXPECT_EQ(counting.take_cost().launches, 1 + 890 * (12 + 1));
}

TEST(LibraryPeer, RefusesOtherNetworks) {
  const auto refusal = [](const Architecture& architecture) {
    return testing::message_of([&] { peer_of(network(architecture)); });
  };
  EXPECT_THAT(refusal({.output = Output::score}), ::testing::HasSubstr("allowed are potentials of the plane"));
  EXPECT_THAT(refusal({.dimension = 3}), ::testing::HasSubstr("allowed are potentials of the plane"));
  EXPECT_THAT(refusal({.activation = Activation::tanh}), ::testing::HasSubstr("allowed are potentials of the plane"));
  EXPECT_THAT(refusal({.form = {.form = Form::edm}}), ::testing::HasSubstr("allowed are potentials of the plane"));
  Model ddpm = paper_model();
  ddpm.sde = ForwardSde::defaults(SdeKind::ddpm);
  EXPECT_THAT(testing::message_of([&] { peer_of(ddpm); }), ::testing::HasSubstr("under ddpm: allowed"));
  LibraryPeer peer = peer_of(paper_model());
  EXPECT_THAT(testing::message_of([&] { peer.last_record(); }), ::testing::HasSubstr("no iteration yet"));
  TrainOptions options = paper_training(20, 5);
  options.time_law = TimeLaw::importance;
  EXPECT_THAT(testing::message_of([&] { peer.train(options, 1); }),
              ::testing::HasSubstr("the paper's times or uniform ones"));
}

}  // namespace
}  // namespace fokker::bench
