// Ranks on threads: messages and calls of all by the library's own ways; a training on any number of ranks has the bits
// of one alone, and ends on all of them where it ends on one.
#include "fokker/ranks.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "expect_error.hpp"
#include "fokker/trainer.hpp"
#include "networks.hpp"
#include "ranks_on_threads.hpp"
#include "trainer_checks.hpp"

namespace fokker {
namespace {

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

template <class T>
std::span<const std::byte> bytes(const std::vector<T>& numbers) {
  return std::as_bytes(std::span(numbers));
}
template <class T>
std::span<std::byte> bytes(std::vector<T>& numbers) {
  return std::as_writable_bytes(std::span(numbers));
}

TEST(Ranks, BroadcastGatherAndWaitForEachOther) {
  for (const int size : {1, 2, 3, 4, 7, 8}) {
    SCOPED_TRACE(size);
    std::atomic<int> arrived{0};
    RanksOnThreads::run(size, [&](const Own& ranks) {
      EXPECT_EQ(ranks->size(), size);
      for (int from = 0; from < size; ++from) {
        std::vector<int> told{ranks->rank(), ranks->rank() + 1};
        ranks->broadcast(bytes(told), from);
        EXPECT_EQ(told, (std::vector<int>{from, from + 1}));
      }
      std::vector<int> expected(2 * static_cast<std::size_t>(size)), all(expected.size());
      std::iota(expected.begin(), expected.end(), 0);
      const std::vector<int> mine{2 * ranks->rank(), 2 * ranks->rank() + 1};
      ranks->all_gather(bytes(mine), bytes(all));
      EXPECT_EQ(all, expected);
      ++arrived;
      ranks->barrier();
      EXPECT_EQ(arrived, size);
    });
  }
}

TEST(Ranks, OfARangeAreNumberedFromNoughtOn) {
  RanksOnThreads::run(7, [](const Own& ranks) {
    const int first = ranks->rank() < 3 ? 0 : 3, count = first == 0 ? 3 : 4;
    const Own part = range_of(ranks, first, count);
    EXPECT_EQ(part->size(), count);
    EXPECT_EQ(part->rank(), ranks->rank() - first);
    std::vector<int> all(static_cast<std::size_t>(count)), expected(all.size());
    std::iota(expected.begin(), expected.end(), first);
    part->all_gather(bytes(std::vector<int>{ranks->rank()}), bytes(all));
    EXPECT_EQ(all, expected);
    part->barrier();
    const int other = first == 0 ? 3 : 0;
    expect_error([&] { range_of(ranks, other, 3); }, {"3 ranks from rank", "by rank", "of 7"});
    expect_error([&] { range_of(ranks, 0, 8); }, {"8 ranks from rank 0 on"});
  });
  expect_error([] { one_rank()->receive({}, 1); }, {"rank 1", "which is alone"});
}

TEST(Ranks, EndWhereOneThrows) {
  std::atomic<int> ended{0};
  const auto body = [&](const Own& ranks) {
    if (ranks->rank() == 2) throw std::runtime_error("no more of this");
    try {
      ranks->barrier();
    } catch (const OtherRankFailed& failed) {
      EXPECT_THAT(failed.what(), HasSubstr("rank 2 of 4"));
      ++ended;
      throw;
    }
  };
  EXPECT_THAT([&] { RanksOnThreads::run(4, body); }, ::testing::ThrowsMessage<std::runtime_error>("no more of this"));
  EXPECT_EQ(ended, 3);
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
  options.denoising_points = 2'000;  // 8 chunks
  options.collocation_points = 989;  // 4 chunks
  options.clip_norm = 1;
  std::vector<Training> all{{"potential", small_model(), DataSet::named("blob"), options}};
  // Of a gradient that goes in several pieces, with the paper's widths.
  all.push_back({"wide", small_model(2, Output::potential, {}, {80, 80, 80}), DataSet::named("checker"), options});
  TrainOptions few = options;  // fewer chunks than ranks
  few.denoising_points = 300, few.collocation_points = 99;
  all.push_back({"few_points", small_model(), DataSet::named("circles2"), few});
  TrainOptions probed = options;
  probed.residual_probes = 2;
  all.push_back({"probes", small_model(), DataSet::named("blob"), probed});
  TrainOptions plain = options;
  plain.residual_weight = 0;
  all.push_back({"vector", small_model(3, Output::score, ForwardSde::vp_linear()),
                 DataSet::mixture(GaussianMixture::isotropic(3, {1}, {1, 0, -1}, {0.2})), plain});
  Model standardised = small_model();
  standardised.standardisation = {{0.5, -0.3}, {0.55, 0.9}};
  all.push_back({"standardised", standardised, gaussian(), options});
  for (auto& [name, a] : testing::all_networks(Output::potential)) {
    if (a.dimension != 2 || !a.conditional()) continue;
    TrainOptions dropped = options;
    dropped.condition_drop = 0.25;
    const std::int64_t columns = 2 + a.condition.inputs;
    all.push_back({name,
                   {ForwardSde{}, Mlp::initialise(a, 5)},
                   DataSet::mixture(GaussianMixture::isotropic(columns, {1}, std::vector<double>(columns, 0.5), {1})),
                   dropped});
  }
  return all;
}

TEST(TrainingOnRanks, HasTheBitsOfOneAlone) {
  bool conditional = false;
  for (const Training& t : trainings()) {
    SCOPED_TRACE(t.name);
    conditional = conditional || t.model.condition() > 0;
    Trainer alone(cpu(), t.model, t.data, t.options);
    const std::vector<TrainRecord> records = alone.run(6);
    ASSERT_EQ(records.size(), 6u);
    const std::string state = state_bytes(alone);
    for (const int size : {1, 2, 3, 4, 7}) {
      SCOPED_TRACE(size);
      RanksOnThreads::run(size, [&](const Own& ranks) {
        Trainer trainer(cpu(1 + ranks->rank() % 2), t.model, t.data, t.options, ranks);
        expect_same_records(trainer.run(6), records);
        EXPECT_TRUE(state_bytes(trainer) == state) << ranks->rank();
      });
    }
  }
  EXPECT_TRUE(conditional);
}

// A gradient of G bytes, padded, goes once along the ranks and once to all others of each iteration, and beside it two
// sums of losses and each rank's word on whether to go on.
TEST(TrainingOnRanks, PassesTheGradientOnOnceAndToAllOnce) {
  const Training training = trainings()[1];
  const double gradient = 4.0 * static_cast<double>(std::get<Mlp>(training.model.network).parameters.size());
  for (const int size : {2, 3, 4}) {
    SCOPED_TRACE(size);
    const auto sent = [&](std::int64_t iterations) {
      return RanksOnThreads::run(size, [&](const Own& ranks) {
        Trainer trainer(cpu(1), training.model, training.data, training.options, ranks);
        trainer.run(iterations);
      });
    };
    const std::size_t others = static_cast<std::size_t>(size) - 1,
                      small = others * (2 * 16 + 16 * (1 + static_cast<std::size_t>(size)));
    const std::size_t of_gradient = sent(3) - sent(2) - small;
    EXPECT_EQ(of_gradient % (2 * others), 0u);
    const double each = static_cast<double>(of_gradient / (2 * others));
    EXPECT_GE(each, gradient);
    EXPECT_LE(each, 1.1 * gradient);  // rows of 80 fill vectors; the padding is that of the output's layer
  }
}

// A state that three ranks left goes on on two, with another number of threads, and ends as if undisturbed.
TEST(TrainingOnRanks, ResumesOnAnyNumber) {
  const Training t = trainings()[0];
  Trainer alone(cpu(), t.model, t.data, t.options);
  alone.run(6);
  const Scratch folder;
  const std::string path = folder / "state.safetensors";
  RanksOnThreads::run(3, [&](const Own& ranks) {
    Trainer trainer(cpu(1), t.model, t.data, t.options, ranks);
    trainer.run(4);
    if (ranks->rank() == 0) trainer.save_state(path);
  });
  RanksOnThreads::run(2, [&](const Own& ranks) {
    // Only the first sees the file.
    Trainer trainer = Trainer::resume(cpu(2), ranks->rank() == 0 ? path : folder / "absent", t.data, ranks);
    EXPECT_EQ(trainer.iteration(), 4);
    EXPECT_EQ(trainer.ranks(), ranks);
    trainer.run(6);
    EXPECT_TRUE(state_bytes(trainer) == state_bytes(alone));
  });
}

// Of two trainers, the second of which stops on the way: on all ranks alike.
TEST(TrainingOnRanks, GoesInGroups) {
  const Training training = trainings()[0];
  const auto make = [&](const Own& ranks) {
    std::vector<Trainer> all;
    all.emplace_back(cpu(1), training.model, training.data, training.options, ranks);
    all.emplace_back(cpu(1), training.model, training.data, testing::diverging_options(), ranks);
    return TrainingGroup(std::move(all));
  };
  TrainingGroup alone = make(nullptr);
  const std::string message = message_of([&] { alone.run(20); });
  RanksOnThreads::run(3, [&](const Own& ranks) {
    TrainingGroup group = make(ranks);
    EXPECT_EQ(message_of([&] { group.run(20); }), message);
    for (const std::size_t k : {0u, 1u}) EXPECT_TRUE(state_bytes(group[k]) == state_bytes(alone[k])) << k;
  });
}

// Members that wait for other ranks than the rest would wait for ever.
TEST(TrainingOnRanks, OfAGroupAreTheSame) {
  const Training t = trainings()[0];
  RanksOnThreads::run(2, [&](const Own& ranks) {
    const auto group = [&](const Own& first, const Own& second) {
      std::vector<Trainer> all;
      for (const Own& own : {first, second}) all.emplace_back(cpu(1), t.model, t.data, t.options, own);
      return TrainingGroup(std::move(all));
    };
    EXPECT_EQ(group(ranks, ranks).size(), 2u);
    EXPECT_EQ(group(nullptr, one_rank()).size(), 2u);
    for (const Own& other : {Own(), range_of(ranks, 0, 2)}) {
      expect_error([&] { group(ranks, other); }, {"trainer 1 of 2 was made with other ranks than trainer 0"});
      expect_error([&] { group(other, ranks); }, {"trainer 1 of 2 was made with other ranks than trainer 0"});
    }
  });
}

// A sink that returns false on one rank, or throws, ends the run on all after that iteration; they go on later as if
// undisturbed.
TEST(TrainingOnRanks, EndsOnAllWhereASinkEndsIt) {
  const Training t = trainings()[0];
  Trainer alone(cpu(), t.model, t.data, t.options);
  alone.run(6);
  for (const int one : {0, 2}) {
    SCOPED_TRACE(one);
    RanksOnThreads::run(3, [&](const Own& ranks) {
      const bool ends = ranks->rank() == one;
      Trainer trainer(cpu(1), t.model, t.data, t.options, ranks);
      trainer.run(6, [&](const TrainingNews& news) { return !ends || news.records.back().iteration < 1; });
      EXPECT_EQ(trainer.iteration(), 2);
      const auto run = [&] {
        trainer.run(6, [&](const TrainingNews&) -> bool {
          if (ends) throw std::runtime_error("the disk is full");
          return true;
        });
      };
      if (ends) {
        EXPECT_THAT(run, ::testing::ThrowsMessage<std::runtime_error>("the disk is full"));
      } else {
        EXPECT_THAT(run, ::testing::ThrowsMessage<OtherRankFailed>(
                             HasSubstr("since rank " + std::to_string(one) + " of 3 failed")));
      }
      EXPECT_EQ(trainer.iteration(), 3);
      trainer.run(6);
      EXPECT_TRUE(state_bytes(trainer) == state_bytes(alone));
    });
  }
  // Where the exception leaves the rank, it is the one that is told.
  const auto body = [&](const Own& ranks) {
    Trainer trainer(cpu(1), t.model, t.data, t.options, ranks);
    trainer.run(6, [&](const TrainingNews&) -> bool {
      if (ranks->rank() == 1) throw std::runtime_error("the disk is full");
      return true;
    });
  };
  EXPECT_THAT([&] { RanksOnThreads::run(3, body); }, ::testing::ThrowsMessage<std::runtime_error>("the disk is full"));
}

// Every rank is told where one was given another training.
TEST(TrainingOnRanks, AreOfOneTraining) {
  const Training training = trainings()[0];
  const auto refused = [&](const auto& change) {
    RanksOnThreads::run(3, [&](const Own& ranks) {
      Training own = training;
      if (ranks->rank() == 1) change(own);
      expect_error([&] { Trainer(cpu(1), own.model, own.data, own.options, ranks); },
                   {"rank 1 of 3 was given another training than rank 0"});
    });
  };
  refused([](Training& own) { own.options.seed += 1; });
  refused([](Training& own) { std::get<Mlp>(own.model.network).parameters[3] += 0.5; });
  refused([](Training& own) { own.data = DataSet::named("checker"); });
  refused([](Training& own) { own.model.sde = ForwardSde::vp_linear(); });
}

}  // namespace
}  // namespace fokker
