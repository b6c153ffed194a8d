// Trainers that run together on CUDA: each as alone, bit for bit; the launches that they share; the news of a run; runs in
// which CUDA fails.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "cuda/runtime.hpp"
#include "cuda_trainer.hpp"
#include "fokker/trainer.hpp"
#include "kernels/training_launch.hpp"

namespace fokker {
namespace {

using testing::cpu;
using testing::gpu;
using ::testing::HasSubstr;
using testing::message_of;
using testing::small_model;
using testing::small_options;
using testing::state_bytes;
using Index = std::int64_t;

class CudaTrainingGroup : public testing::GpuTest {};

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
  // These have the shape of the first one, and other activations.
  for (const double beta : {100, 20}) {
    all.push_back(all[0]);
    Architecture& architecture = std::get<Mlp>(all.back().model.network).architecture;
    architecture.activation = Activation::softplus;
    architecture.beta = beta;
  }
  return all;
}

TEST_F(CudaTrainingGroup, SideBySideIsAsAlone) {
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

TEST_F(CudaTrainingGroup, NewsTellsEveryRecordOnce) { testing::NewsOfARun(gpu()).check_records(); }
TEST_F(CudaTrainingGroup, NewsStopsWhereTheSinkSaysSo) { testing::NewsOfARun(gpu()).check_stop(false); }
TEST_F(CudaTrainingGroup, NewsTellsWhatWasBeforeAFailure) { testing::NewsOfARun(gpu()).check_failure(); }
TEST_F(CudaTrainingGroup, NewsComesOfTheGroupsMembers) { testing::NewsOfARun(gpu()).check_members(); }
TEST_F(CudaTrainingGroup, NewsRefusesTheTrainersInTheSink) { testing::NewsOfARun(gpu()).check_use_in_the_sink(); }

#ifdef FOKKER_EMULATION
// With every news but the last the slice that follows is under way already.
TEST_F(CudaTrainingGroup, NewsComesWhileTheNextSliceRuns) {
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
TEST_F(CudaTrainingGroup, AFailedLaunchLosesNoIteration) {
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

TEST_F(CudaTrainingGroup, WhereItStandsUnknownATrainerIsRefused) {
  Trainer trainer(gpu(), small_model(), DataSet::named("blob"), small_options());
  emulate_failure(3, 2);  // and what asks the device
  EXPECT_THAT(message_of([&] { trainer.run(9); }), HasSubstr("cudaGraphLaunch"));
  const char* const refused = "its iteration on the GPU could not be read";
  EXPECT_THAT(message_of([&] { trainer.run(1); }), HasSubstr(refused));
  EXPECT_THAT(message_of([&] { trainer.model(); }), HasSubstr(refused));
}
#endif

// Within the sink the thread is as its caller has it.
TEST_F(CudaTrainingGroup, NewsComesInTheCallersCaptureMode) {
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
TEST_F(CudaTrainingGroup, TheTwelveOfThePaperShareTheLaunchesOfOne) {
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

}  // namespace
}  // namespace fokker
