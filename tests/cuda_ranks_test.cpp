// Ranks of GPUs on threads, each with a context of its own: a training on any number of ranks has the bits of one, and
// ends on all of them where it ends on one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/rank_answers.hpp"
#include "cuda_trainer.hpp"
#include "expect_error.hpp"
#include "fokker/trainer.hpp"
#include "networks.hpp"
#include "ranks_on_threads.hpp"

#ifdef FOKKER_EMULATION
#include "nccl.hpp"
#endif

namespace fokker {
namespace {

using testing::agrees;
using testing::cpu;
using testing::expect_error;
using testing::expect_same_records;
using testing::gaussian;
using testing::get;
using ::testing::HasSubstr;
using testing::message_of;
using testing::RanksOnThreads;
using testing::Scratch;
using testing::small_model;
using testing::small_options;
using testing::state_bytes;

using Own = std::shared_ptr<Ranks>;

class CudaRanks : public testing::GpuTest {
 protected:
  void SetUp() override {
    testing::GpuTest::SetUp();
    if (!testing::has_nccl()) GTEST_SKIP() << "there is no NCCL";
#ifdef FOKKER_EMULATION
    before_ = emulate_devices(7, 24);
  }
  void TearDown() override { emulate_devices(before_, 2); }

  int before_ = 1;
#else
  }
#endif

  // Those of `sizes` for which there are GPUs.
  static std::vector<int> possible(const std::vector<int>& sizes) {
    int devices = 0;
    cuda::check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    std::vector<int> there;
    for (const int size : sizes) {
      if (size <= devices) there.push_back(size);
    }
    return there;
  }
};

// body(context, ranks) on as many threads, each with a GPU, with messages by the host where `by_host`.
using Body = std::function<void(const Context&, const std::shared_ptr<GpuRanks>&)>;
void run(int size, bool by_host, const Body& body, double patience = 600) {
  cuda::NcclUniqueId id;
  if (!by_host) {
    ASSERT_EQ(cuda::nccl().get_unique_id(&id), cuda::NcclResult::success);
  }
  RanksOnThreads::run(size, [&](const Own& hosts) {
    const Context context({.backend = BackendKind::cuda, .gpu = hosts->rank()});
    if (by_host) return body(context, connect_gpus(context.gpu(), hosts, patience));
    // A communicator of the application.
    const cuda::CurrentDevice device(context.gpu());
    ncclComm* communicator = nullptr;
    ASSERT_EQ(cuda::nccl().comm_init_rank(&communicator, size, id, hosts->rank()), cuda::NcclResult::success);
    bool aborted = false;
    {
      const std::shared_ptr<GpuRanks> ranks = gpu_ranks(communicator, nullptr, patience);
      EXPECT_EQ(ranks->rank(), hosts->rank());
      EXPECT_EQ(ranks->size(), size);
      body(context, ranks);
      aborted = ranks->aborted();
    }
    if (!aborted) cuda::nccl().comm_destroy(communicator);
  });
}

// What is trained, and how.
struct Training {
  std::string name;
  Model model;
  DataSet data;
  TrainOptions options;
};

std::vector<Training> trainings() {
  TrainOptions options = small_options();
  options.iterations = 6;
  options.average_fraction = 0.5;
  options.denoising_points = 601;
  options.collocation_points = 301;
  options.clip_norm = 1;
  std::vector<Training> all{{"potential", small_model(), DataSet::named("blob"), options}};  // 15 chunks of a block
  TrainOptions few = options;                                                                // fewer chunks than ranks
  few.denoising_points = 99, few.collocation_points = 19;
  all.push_back({"few_points", small_model(), DataSet::named("circles2"), few});
  TrainOptions many = options;  // 64 chunks, on 24 multiprocessors of 99 blocks
  many.denoising_points = 6'301, many.residual_weight = 0, many.iterations = 2;
  all.push_back({"vector", small_model(3, Output::score, ForwardSde::vp_linear(), {7}),
                 DataSet::mixture(GaussianMixture::isotropic(3, {1}, {1, 0, -1}, {0.2})), many});
  Model standardised = small_model();
  standardised.standardisation = {{0.5, -0.3}, {0.55, 0.9}};
  all.push_back({"standardised", standardised, gaussian(), few});
  TrainOptions wide = options;  // three chunks
  wide.denoising_points = 1'900, wide.collocation_points = 1'301, wide.iterations = 4;
  TrainOptions probed = wide;
  probed.residual_probes = 2;
  all.push_back({"probes", small_model(2, Output::potential, {}, {7}), DataSet::named("blob"), probed});
  for (auto& [name, a] : testing::all_networks(Output::potential)) {
    if (a.dimension != 2 || !a.conditional()) continue;
    TrainOptions dropped = wide;
    dropped.condition_drop = 0.25;
    const std::int64_t columns = 2 + a.condition.inputs;
    all.push_back({name,
                   {ForwardSde{}, Mlp::initialise(a, 5)},
                   DataSet::mixture(GaussianMixture::isotropic(columns, {1}, std::vector<double>(columns, 0.5), {1})),
                   dropped});
    break;
  }
  return all;
}

// What a training leaves.
struct Left {
  std::vector<TrainRecord> records;
  std::string state;
};
Left left_by(Trainer& trainer) {
  Left left{trainer.run(trainer.options().iterations), {}};
  left.state = state_bytes(trainer);
  return left;
}

TEST_F(CudaRanks, TrainToTheBitsOfOne) {
  bool by_host = false, conditional = false;
  for (const Training& t : trainings()) {
    SCOPED_TRACE(t.name);
    conditional = conditional || t.model.condition() > 0;
    Left one;
    for (const int size : possible({1, 2, 3, 4, 7})) {
      SCOPED_TRACE(size);
      by_host = !by_host;
      run(size, by_host, [&](const Context& context, const std::shared_ptr<GpuRanks>& ranks) {
        Trainer trainer(context, t.model, t.data, t.options, ranks);
        const Left own = left_by(trainer);
        if (size == 1) {
          one = own;
        } else {
          expect_same_records(own.records, one.records);
          EXPECT_TRUE(own.state == one.state) << ranks->rank();
        }
      });
    }
    // And to those of a training that is no rank's, but for the order of its sums.
    Trainer alone(testing::gpu(), t.model, t.data, t.options);
    const std::vector<TrainRecord> records = alone.run(1);
    ASSERT_EQ(one.records.size(), static_cast<std::size_t>(t.options.iterations));
    EXPECT_TRUE(agrees(one.records[0].denoising, records[0].denoising, 1e-6));
    EXPECT_TRUE(agrees(one.records[0].residual, records[0].residual, 1e-6));
    EXPECT_TRUE(agrees(one.records[0].gradient_norm, records[0].gradient_norm, 1e-5));
  }
  EXPECT_TRUE(conditional);
}

// A state that three ranks left goes on on two, and ends as if undisturbed.
TEST_F(CudaRanks, ResumeOnAnyNumber) {
  const Training t = trainings()[1];
  const Scratch folder;
  const std::string path = folder / "state.safetensors";
  std::string whole;
  run(1, true, [&](const Context& context, const Own& ranks) {
    Trainer trainer(context, t.model, t.data, t.options, ranks);
    whole = left_by(trainer).state;
  });
  const std::vector<int> sizes = possible({3, 2});
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    run(sizes[k], k == 0, [&](const Context& context, const Own& ranks) {
      // Only the first sees the file.
      Trainer trainer = k == 0 ? Trainer(context, t.model, t.data, t.options, ranks)
                               : Trainer::resume(context, ranks->rank() == 0 ? path : folder / "absent", t.data, ranks);
      EXPECT_EQ(trainer.iteration(), k == 0 ? 0 : 4);
      trainer.run(k == 0 ? 4 : 6);
      if (k > 0) {
        EXPECT_TRUE(state_bytes(trainer) == whole);
      }
      if (k == 0 && ranks->rank() == 0) trainer.save_state(path);
    });
  }
}

// Trainers that share launches, one of which stops on the way: on all ranks alike, and as on one.
TEST_F(CudaRanks, TrainGroups) {
  const Training t = trainings()[0];
  std::string message, states[3];
  for (const int size : possible({1, 3})) {
    run(size, true, [&](const Context& context, const Own& ranks) {
      std::vector<Trainer> all;
      for (const bool wild : {false, true, false}) {
        TrainOptions options = wild ? testing::diverging_options() : t.options;
        options.seed += all.size();
        all.emplace_back(context, t.model, t.data, options, ranks);
      }
      TrainingGroup group(std::move(all));
      const std::string own = message_of([&] { group.run(20); });
      if (size == 1) message = own;
      EXPECT_THAT(own, HasSubstr("training stopped at iteration"));
      EXPECT_EQ(own, message);
      for (std::size_t k = 0; k < 3; ++k) {
        if (size == 1) states[k] = state_bytes(group[k]);
        EXPECT_TRUE(state_bytes(group[k]) == states[k]) << k;
      }
      std::vector<Trainer> mixed = group.release();
      mixed.pop_back();
      mixed.emplace_back(context, t.model, t.data, t.options);
      expect_error([&] { TrainingGroup(std::move(mixed)); }, {"trainer 2 of 3 was made with other ranks"});
    });
  }
}

// A sink that returns false on one rank, or throws, ends the run on all after the same iteration; they go on later as if
// undisturbed.
TEST_F(CudaRanks, EndOnAllWhereASinkEndsIt) {
  Training t = trainings()[1];
  t.options.iterations = 40;
  std::string whole;
  run(1, true, [&](const Context& context, const Own& ranks) {
    Trainer trainer(context, t.model, t.data, t.options, ranks);
    whole = left_by(trainer).state;
  });
  for (const int size : possible({3})) {
    for (const bool by_host : {true, false}) {
      run(size, by_host, [&](const Context& context, const Own& ranks) {
        const bool ends = ranks->rank() == 2;
        Trainer trainer(context, t.model, t.data, t.options, ranks);
        // The first two slices have an iteration each, and the second has begun when the first is reported.
        trainer.run(10, [&](const TrainingNews&) { return !ends; });
        EXPECT_EQ(trainer.iteration(), 2);
        const auto go_on = [&] {
          trainer.run(1, [&](const TrainingNews&) -> bool {
            if (ends) throw std::runtime_error("the disk is full");
            return true;
          });
        };
        if (ends) {
          EXPECT_THAT(go_on, ::testing::ThrowsMessage<std::runtime_error>("the disk is full"));
        } else {
          EXPECT_THAT(go_on, ::testing::ThrowsMessage<OtherRankFailed>(HasSubstr("since rank 2 of 3 failed")));
        }
        EXPECT_EQ(trainer.iteration(), 3);
        trainer.run(40);
        EXPECT_TRUE(state_bytes(trainer) == whole);
      });
    }
  }
}

TEST_F(CudaRanks, AreOfOneTraining) {
  const Training training = trainings()[1];
  for (const int size : possible({3})) {
    for (const bool by_host : {true, false}) {
      run(size, by_host, [&](const Context& context, const Own& ranks) {
        TrainOptions own = training.options;
        if (ranks->rank() == 1) own.seed += 1;
        expect_error([&] { Trainer(context, training.model, training.data, own, ranks); },
                     {"rank 1 of 3 was given another training than rank 0"});
      });
    }
  }
}

TEST_F(CudaRanks, RefuseWhatDoesNotFit) {
  const Training t = trainings()[1];
  const auto train = [&](const Context& context, const Own& ranks) {
    Trainer(context, t.model, t.data, t.options, ranks);
  };
  run(1, true, [&](const Context& context, const std::shared_ptr<GpuRanks>& ranks) {
    EXPECT_EQ(ranks->gpu(), context.gpu());
    train(context, ranks);
    expect_error([&] { train(cpu(), ranks); }, {"rank 0 of 1 of an NCCL communicator, on GPU 0", "on the CPU backend"});
  });
  expect_error([] { gpu_ranks(nullptr); }, {"no NCCL communicator was given", "ncclComm_t"});
  expect_error([] { connect_gpus(0, nullptr, 0); }, {"a patience of 0 s"});
  run(1, false, [&](const Context&, const std::shared_ptr<GpuRanks>& ranks) {
    expect_error([&] { ranks->send({}, 0); }, {"between two ranks of an NCCL communicator"});
    ranks->barrier();
  });
  // Messages of two ranks with a communicator of one.
  RanksOnThreads::run(2, [&](const Own& hosts) {
    const Context context({.backend = BackendKind::cuda, .gpu = 0});
    cuda::NcclUniqueId id;
    ncclComm* communicator = nullptr;
    ASSERT_EQ(cuda::nccl().get_unique_id(&id), cuda::NcclResult::success);
    ASSERT_EQ(cuda::nccl().comm_init_rank(&communicator, 1, id, 0), cuda::NcclResult::success);
    expect_error([&] { gpu_ranks(communicator, hosts); },
                 {"rank 0 of 1 was given with rank " + std::to_string(hosts->rank()) + " of 2 for messages"});
    cuda::nccl().comm_destroy(communicator);
    expect_error([&] { train(context, hosts); }, {"2 ranks were given to train on the cuda backend", "GpuRanks"});
  });
  for (const int size : possible({2})) {
    run(size, true, [&](const Context& context, const std::shared_ptr<GpuRanks>& ranks) {
      const int other = 1 - context.gpu();
      expect_error(
          [&] { train(Context({.backend = BackendKind::cuda, .gpu = other}), ranks); },
          {"on GPU " + std::to_string(context.gpu()) + ", was given to train on GPU " + std::to_string(other)});
    });
  }
}

TEST(Nccl, IsMissedInASentence) {
  expect_error([] { cuda::load_nccl("libnccl-that-is-not-there.so.2"); },
               {"trainings on several GPUs need NCCL", "libnccl-that-is-not-there.so.2 cannot be loaded"});
  expect_error([] { cuda::load_nccl("libc.so.6"); }, {"NCCL has no function ncclGetUniqueId"});
}

#ifdef FOKKER_EMULATION

TEST_F(CudaRanks, AllSayWhereOneHasNoLibrary) {
  emulate_nccl(false);
  RanksOnThreads::run(2, [](const Own& hosts) {
    expect_error([&] { connect_gpus(hosts->rank(), hosts); }, {"trainings on several GPUs need NCCL"});
  });
  emulate_nccl(true);
}

// Where a rank's launch fails the others' GPUs would wait for its part for ever.
TEST_F(CudaRanks, EndOnAllWhereALaunchFailsOnOne) {
  const Training t = trainings()[1];
  const auto others_end = [](const Own& ranks, bool by_host) {
    return by_host ? std::string("the training has ended since rank 1 of 3 failed")
                   : "NCCL reports on rank " + std::to_string(ranks->rank()) + " of 3: remote process";
  };
  for (const bool by_host : {true, false}) {
    run(3, by_host, [&](const Context& context, const std::shared_ptr<GpuRanks>& ranks) {
      Trainer trainer(context, t.model, t.data, t.options, ranks);
      trainer.run(2);
      const std::string state = state_bytes(trainer);
      if (ranks->rank() == 1) emulate_failure(0, 1);
      const std::string message = message_of([&] { trainer.run(2); });
      if (ranks->rank() == 1) {
        EXPECT_THAT(message, HasSubstr("cudaGraphLaunch"));
        EXPECT_TRUE(state_bytes(trainer) == state);
      } else {
        EXPECT_THAT(message, HasSubstr(others_end(ranks, by_host)));
        EXPECT_THAT(message_of([&] { trainer.model(); }), HasSubstr("to resume from a saved state"));
      }
      EXPECT_TRUE(ranks->aborted());
      EXPECT_THAT(message_of([&] { trainer.run(1); }), HasSubstr("was aborted after a failure"));
      expect_error([&] { Trainer(context, t.model, t.data, t.options, ranks); }, {"was aborted after a failure"});
    });
  }
}

// Those that catch its Error go on together, with messages by the host: after as many answers.
TEST_F(CudaRanks, ExchangeMessagesAfterALaunchHasFailedOnOne) {
  const Training t = trainings()[1];
  for (const std::size_t launches : {std::size_t{1}, std::size_t{2}}) {  // the first of the next two slices
    SCOPED_TRACE(launches);
    run(3, true, [&](const Context& context, const std::shared_ptr<GpuRanks>& ranks) {
      Trainer trainer(context, t.model, t.data, t.options, ranks);
      if (ranks->rank() == 1) emulate_failure(launches, 1);
      const std::string message = message_of([&] { trainer.run(6); });
      if (ranks->rank() == 1) {
        EXPECT_THAT(message, HasSubstr("cudaGraphLaunch"));
      } else {  // what ends it first
        EXPECT_THAT(message, ::testing::AnyOf(HasSubstr("the training has ended since rank "),
                                              HasSubstr("remote process exited")));
      }
      EXPECT_TRUE(ranks->aborted());
      const auto own = static_cast<std::byte>(7 + ranks->rank());
      std::vector<std::byte> all(3);
      ranks->all_gather({&own, 1}, all);
      EXPECT_EQ(all, (std::vector{std::byte{7}, std::byte{8}, std::byte{9}}));
    });
  }
}

TEST_F(CudaRanks, WaitForARankNoLongerThanTheirPatience) {
  const Training t = trainings()[1];
  for (const bool by_host : {true, false}) {
    run(
        2, by_host,
        [&](const Context& context, const std::shared_ptr<GpuRanks>& ranks) {
          Trainer trainer(context, t.model, t.data, t.options, ranks);
          if (ranks->rank() == 0) {
            EXPECT_THAT(message_of([&] { trainer.run(1); }), HasSubstr("has waited for others for 0.2 s"));
            EXPECT_TRUE(ranks->aborted());
          } else if (by_host) {  // its host answers, and its GPU does nothing
            EXPECT_FALSE(answers_of_all(*ranks, {RankAnswer::goes_on, 1}).left);
            EXPECT_TRUE(answers_of_all(*ranks, {RankAnswer::goes_on, 1}).left);
          }
        },
        0.2);
  }
}

// A rank whose GPU cannot be used, or which is given that of another, tells the others.
TEST_F(CudaRanks, AreNotConnectedWhereTheirGpusDoNotFit) {
  RanksOnThreads::run(3, [](const Own& hosts) {
    const std::string one = message_of([&] { connect_gpus(hosts->rank() == 1 ? 99 : hosts->rank(), hosts); });
    EXPECT_THAT(one, HasSubstr(hosts->rank() == 1 ? "cudaSetDevice" : "rank 1 of 3 cannot use NCCL on its GPU"));
    expect_error([&] { connect_gpus(hosts->rank() == 2 ? 0 : hosts->rank(), hosts); },
                 {"ranks 0 and 2 of 3 were given one GPU", "a GPU for each"});
    hosts->barrier();
  });
}

// Ranks of an application's own have no communicator that the library knows.
TEST_F(CudaRanks, AreThoseOfTheLibrary) {
  class Foreign final : public GpuRanks {
   public:
    int rank() const override { return 0; }
    int size() const override { return 1; }
    int gpu() const override { return 0; }
    bool aborted() const override { return false; }
    void send(std::span<const std::byte>, int) override {}
    void receive(std::span<std::byte>, int) override {}
  };
  const Training t = trainings()[1];
  const Context context({.backend = BackendKind::cuda, .gpu = 0});
  expect_error([&] { Trainer(context, t.model, t.data, t.options, std::make_shared<Foreign>()); },
               {"ranks of GPUs that the library did not make", "gpu_ranks() or connect_gpus()"});
}

#endif

}  // namespace
}  // namespace fokker
