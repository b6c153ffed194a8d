// Trainings side by side: each as if it were alone, in its state, its records and its end.
#include "training.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "backend_under_test.hpp"
#include "fokker/fokker.hpp"
#include "ranks_on_threads.hpp"
#include "scratch.hpp"

namespace fokker::tools {
namespace {

using fokker::testing::get;
using fokker::testing::message_of;
using fokker::testing::Scratch;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const Context context({.backend = fokker::testing::backend_under_test});
const DataSet data = DataSet::named("circles2");

TrainOptions options(std::int64_t iterations, double residual_weight, std::uint64_t seed) {
  TrainOptions o;
  o.iterations = iterations;
  o.denoising_points = 64;
  o.collocation_points = 16;
  o.residual_weight = residual_weight;
  o.seed = seed;
  return o;
}

Trainer trainer(const TrainOptions& o) {
  Architecture architecture;
  architecture.hidden = {8, 8};
  architecture.beta = 5;
  return Trainer(context, {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(architecture, o.seed)}, data, o);
}

template <class... T>
TrainingGroup group_of(T... members) {
  std::vector<Trainer> trainers;
  (trainers.push_back(std::move(members)), ...);
  return TrainingGroup(std::move(trainers));
}

std::vector<double> parameters(const Trainer& t) { return std::get<Mlp>(t.model().network).parameters; }

const SaveInterval never{.iterations = 0, .seconds = 1e9};

TEST(TrainingsSideBySide, AreAsAlone) {
  const Scratch scratch;
  const std::vector<TrainOptions> recipes{options(23, 0, 1), options(9, 1, 2), options(23, 1, 3)};
  std::vector<Trainer> trainers;
  std::vector<TrainingFiles> files;
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    trainers.push_back(trainer(recipes[i]));
    files.push_back({.state = scratch / fmt::format("{}.state", i), .log = scratch / fmt::format("{}.csv", i)});
  }
  // The third comes from a state, as after an interruption.
  trainers[2].run(5);
  trainers[2].save_state(scratch / "earlier");
  trainers[2] = Trainer::resume(context, scratch / "earlier", data);
  TrainingGroup together(std::move(trainers));
  Progress progress({{"training", "train", 1}});
  progress.begin();
  const std::vector<TrainingResult> results = run_trainings(together, files, never, progress);

  ASSERT_EQ(results.size(), 3u);
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    SCOPED_TRACE(i);
    Trainer one = trainer(recipes[i]);
    if (i == 2) one.run(5);
    TrainingGroup alone = group_of(std::move(one));
    const TrainingFiles own{.state = "", .log = scratch / "alone.csv"};
    Progress of_one({{"training", "train", 1}});
    of_one.begin();
    const TrainingResult result = run_training(alone, own, never, of_one);
    EXPECT_EQ(parameters(together[i]), parameters(alone[0]));
    EXPECT_EQ(results[i].last.iteration, recipes[i].iterations - 1);
    EXPECT_EQ(results[i].last.total, result.last.total);
    EXPECT_FALSE(results[i].interrupted);
    EXPECT_EQ(get(files[i].log), get(own.log));
    EXPECT_EQ(parameters(Trainer::resume(context, files[i].state, data)), parameters(alone[0]));
    std::filesystem::remove(own.log);
  }
}

// The activation study has its runs in the order data, seed, activation, weight: 18 of each architecture, 72 in all.
TEST(TrainingsSideBySide, AreThoseOfOneArchitecture) {
  std::vector<Architecture> architectures;
  for (int i = 0; i < 72; ++i) {
    Architecture& architecture = architectures.emplace_back();
    architecture.activation = i / 2 % 4 < 2    ? Activation::softplus
                              : i / 2 % 4 == 2 ? Activation::tanh
                                               : Activation::silu;
    if (i / 2 % 4 == 1) architecture.beta = 20;
  }
  const auto groups = side_by_side(architectures, 12);
  ASSERT_EQ(groups.size(), 8u);
  std::vector<std::size_t> places;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    EXPECT_EQ(groups[g].size(), g < 4 ? 12u : 6u);
    EXPECT_TRUE(std::is_sorted(groups[g].begin(), groups[g].end()));
    for (const std::size_t place : groups[g]) EXPECT_EQ(place / 2 % 4, g % 4);
    places.insert(places.end(), groups[g].begin(), groups[g].end());
  }
  std::sort(places.begin(), places.end());
  for (std::size_t i = 0; i < 72; ++i) EXPECT_EQ(places.at(i), i);

  const auto alone = side_by_side(architectures, 1);
  ASSERT_EQ(alone.size(), 72u);
  for (std::size_t i = 0; i < 72; ++i) EXPECT_EQ(alone[i], std::vector<std::size_t>{i});
}

// However often a run stops to save, after every record or every four iterations.
TEST(TrainingsSideBySide, AreAsAloneWhereverStatesAreSaved) {
  const std::vector<TrainOptions> recipes{options(9, 1, 1), options(7, 0, 2)};
  std::vector<std::vector<double>> expected;
  for (const TrainOptions& recipe : recipes) {
    Trainer alone = trainer(recipe);
    alone.run(recipe.iterations);
    expected.push_back(parameters(alone));
  }
  for (const SaveInterval& save :
       {SaveInterval{.iterations = 0, .seconds = 1e-9}, SaveInterval{.iterations = 4, .seconds = 0}}) {
    SCOPED_TRACE(save.iterations);
    const Scratch scratch;
    TrainingGroup both = group_of(trainer(recipes[0]), trainer(recipes[1]));
    const std::vector<TrainingFiles> files{{.state = scratch / "first", .log = scratch / "first.csv"},
                                           {.state = scratch / "second", .log = scratch / "second.csv"}};
    Progress progress({{"training", "train", 1}});
    progress.begin();
    run_trainings(both, files, save, progress);
    for (std::size_t i = 0; i < recipes.size(); ++i) {
      EXPECT_EQ(parameters(both[i]), expected[i]);
      EXPECT_EQ(parameters(Trainer::resume(context, files[i].state, data)), expected[i]);
      const std::string log = get(files[i].log);
      EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1 + recipes[i].iterations);
    }
  }
}

// A loss that is not finite stops one of them; the others end as if alone.
TEST(TrainingsSideBySide, GoOnWhereOneDiverges) {
  const Scratch scratch;
  TrainOptions wild = options(50, 0, 1);
  wild.schedule = RateSchedule::constant;
  wild.peak_rate = 1e30;
  wild.average = WeightAverage::none;
  TrainingGroup both = group_of(trainer(options(50, 0, 2)), trainer(wild));
  const Trainer &first = both[0], &second = both[1];
  const std::vector<TrainingFiles> files{{.state = scratch / "first", .log = scratch / "first.csv"},
                                         {.state = scratch / "second", .log = scratch / "second.csv"}};
  Progress progress({{"training", "train", 1}});
  progress.begin();
  // The failure is known with the states, before the other ends.
  std::int64_t known_at = 50;
  double seconds = 0;
  const Stopwatch clock;
  const auto saved = [&](std::span<const TrainingResult> now) {
    EXPECT_EQ(Trainer::resume(context, files[0].state, data).iteration(), first.iteration());
    EXPECT_GT(now[0].seconds, seconds);
    seconds = now[0].seconds;
    if (!now[1].failure.empty()) known_at = std::min(known_at, first.iteration());
  };
  const std::vector<TrainingResult> results =
      run_trainings(both, files, {.iterations = 10, .seconds = 0}, progress, saved);
  const double all = clock.seconds();
  ASSERT_EQ(results.size(), 2u);
  EXPECT_LT(known_at, 50);
  EXPECT_EQ(results[0].seconds, seconds);
  // The time is that of both together, the one that failed with it: what is left was not spent here.
  EXPECT_EQ(results[1].seconds, results[0].seconds);
  EXPECT_LE(results[0].seconds + results[1].seconds, all);
  EXPECT_EQ(results[0].failure, "");
  EXPECT_THAT(results[1].failure, HasSubstr("finite"));
  EXPECT_LT(Trainer::resume(context, files[1].state, data).iteration(), 50);
  TrainingGroup alone = group_of(trainer(options(50, 0, 2)));
  const TrainingFiles own{.state = "", .log = scratch / "alone.csv"};
  Progress of_alone({{"training", "train", 1}});
  of_alone.begin();
  run_training(alone, own, never, of_alone);
  EXPECT_EQ(parameters(first), parameters(alone[0]));
  EXPECT_EQ(parameters(Trainer::resume(context, files[0].state, data)), parameters(alone[0]));
  // No record is lost: of the one all, of the other those before it stopped.
  const auto lines = [](const std::string& path) {
    const std::string text = get(path);
    return std::count(text.begin(), text.end(), '\n');
  };
  EXPECT_EQ(get(files[0].log), get(own.log));
  EXPECT_EQ(lines(files[0].log), 1 + 50);
  EXPECT_EQ(lines(files[1].log), 1 + second.iteration());
  EXPECT_EQ(results[1].last.iteration, second.iteration() - 1);

  // Two at once, and one by itself, which is an error.
  TrainingGroup wild_ones = group_of(trainer(wild), trainer(wild));
  Progress of_two({{"training", "train", 1}});
  of_two.begin();
  for (const TrainingResult& result : run_trainings(wild_ones, files, never, of_two)) {
    EXPECT_EQ(result.failure, results[1].failure);
  }
  TrainingGroup wild_one = group_of(trainer(wild));
  Progress of_one({{"training", "train", 1}});
  of_one.begin();
  EXPECT_THAT(message_of([&] { run_training(wild_one, files[1], never, of_one); }),
              AllOf(HasSubstr("finite"), HasSubstr("second'"), Not(HasSubstr("beside it"))));
}

// Ranks that say how many of them, but the first, have come to a barrier, and of which the first interrupts the program at
// its next message where it is told to.
class CountedRanks final : public Ranks {
 public:
  CountedRanks(std::shared_ptr<Ranks> ranks, std::atomic<int>& arrived) : ranks_(std::move(ranks)), arrived_(arrived) {}
  int rank() const override { return ranks_->rank(); }
  int size() const override { return ranks_->size(); }
  void send(std::span<const std::byte> bytes, int to) override {
    if (std::exchange(interrupts, false)) std::raise(SIGTERM);
    ranks_->send(bytes, to);
  }
  void receive(std::span<std::byte> bytes, int from) override { ranks_->receive(bytes, from); }
  void barrier() override {
    if (rank() > 0) ++arrived_;
    ranks_->barrier();
  }
  bool interrupts = false;

 private:
  std::shared_ptr<Ranks> ranks_;
  std::atomic<int>& arrived_;
};

// A rank that goes on may fail and end the first, which is not to be in the midst of a save: after an interrupt, at the
// end, and where a loss is not finite.
TEST(TrainingsOnRanks, GoOnTogetherAfterASave) {
  TrainOptions wild = options(6, 0, 1);
  wild.schedule = RateSchedule::constant;
  wild.peak_rate = 1e30;
  wild.average = WeightAverage::none;
  for (const auto& [recipe, interrupted] :
       {std::pair(options(6, 0, 1), true), std::pair(options(6, 0, 1), false), std::pair(wild, false)}) {
    std::atomic<int> arrived{0}, gone_on{0}, saves{0};  // one save, at the end
    const TrainOptions own = recipe;
    const bool interrupts = interrupted;
    const auto body = [&](const std::shared_ptr<Ranks>& all) {
      const auto ranks = std::make_shared<CountedRanks>(all, arrived);
      Architecture architecture;
      architecture.hidden = {8, 8};
      architecture.beta = 5;
      std::vector<Trainer> one;
      one.emplace_back(Context({.backend = BackendKind::cpu, .threads = 1}),
                       Model{ForwardSde::defaults(SdeKind::ou), Mlp::initialise(architecture, own.seed)}, data, own,
                       ranks);
      TrainingGroup group(std::move(one));
      Progress progress({{"training", "train", 1}});
      progress.begin();
      const std::vector<TrainingFiles> files(1);
      const auto saved = [&](std::span<const TrainingResult>) {
        ++saves;
        while (arrived < ranks->size() - 1 && gone_on == 0) std::this_thread::yield();  // one of which comes
        EXPECT_EQ(gone_on, 0);
      };
      ranks->interrupts = interrupts && ranks->rank() == 0;
      try {
        run_trainings(group, files, never, progress, saved);
      } catch (const Error&) {
        ++gone_on;
        throw;
      }
      ++gone_on;
    };
    const auto train = [&] { fokker::testing::RanksOnThreads::run(3, body); };
    if (interrupted) {
      EXPECT_THAT(message_of(train), HasSubstr("interrupted after"));
    } else {
      train();
    }
    EXPECT_EQ(saves, 1);
  }
}

}  // namespace
}  // namespace fokker::tools
