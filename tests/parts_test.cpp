// Work split over ranks: whose range is which, and that samples and gaps of several ranks are those of one.
#include "parts.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fokker/fokker.hpp"
#include "rank_sampler.hpp"
#include "ranks_on_threads.hpp"
#include "run_measurement.hpp"
#include "run_training.hpp"
#include "scratch.hpp"

namespace fokker::tools {
namespace {

using fokker::testing::get;
using fokker::testing::message_of;
using fokker::testing::RanksOnThreads;
using ::testing::HasSubstr;

TEST(Parts, TouchAndDifferInSizeByOneAtMost) {
  for (const std::int64_t all : {0L, 1L, 19L, 989L, 1'000'000'000'000L}) {
    for (const std::int64_t ranks : {1L, 2L, 7L, 1000L}) {
      std::int64_t end = 0;
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        const IndexRange range = IndexRange::of({rank, ranks}, all);
        EXPECT_EQ(range.first, end);
        EXPECT_GE(range.count, all / ranks);
        EXPECT_LE(range.count, (all + ranks - 1) / ranks);
        end += range.count;
      }
      EXPECT_EQ(end, all);
    }
  }
  const IndexRange last = IndexRange::of({999'999, 1'000'000}, max_samples);
  EXPECT_EQ(last.first + last.count, max_samples);
  EXPECT_EQ((IndexRange{1, 2, 4}.of_rows({0, 1, 2, 3, 4, 5, 6, 7}, 2)), (std::vector<float>{2, 3, 4, 5}));
  EXPECT_TRUE((IndexRange{1, 2, 4}.of_rows(std::vector<float>(), 3)).empty());
}

TEST(Parts, AreNumberedFromZero) {
  const RankOf rank = RankOf::parse("2/3");
  EXPECT_EQ(rank.rank, 2);
  EXPECT_EQ(rank.ranks, 3);
  for (const char* wrong :
       {"3/3", "-1/3", "1", "/3", "1/", "0/0", "0x1/2", " 0/2", "0/1000001", "99999999999999999999/2"}) {
    EXPECT_THAT(message_of([&] { RankOf::parse(wrong); }), HasSubstr("allowed: I/R, rank I of R, from 0/R")) << wrong;
  }
}

// No rank has more to do than the least has and one piece of work, and the same pieces are dealt alike everywhere.
TEST(Parts, OfWorkCostAboutAsMuch) {
  const std::vector<double> costs{1, 3, 1, 3, 1, 3};
  const std::vector<std::int64_t> of_two = deal(costs, 2);
  for (const std::int64_t rank : {0, 1}) {
    double sum = 0;
    for (std::size_t i = 0; i < costs.size(); ++i) sum += of_two[i] == rank ? costs[i] : 0;
    EXPECT_EQ(sum, 6) << rank;
  }
  EXPECT_EQ(deal({5, 5, 5}, 7), (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_TRUE(deal({}, 3).empty());
}

Model potential() {
  Architecture architecture;
  architecture.hidden = {17, 9};
  architecture.beta = 5;
  return {ForwardSde::defaults(SdeKind::ou), Mlp::initialise(architecture, 3)};
}

// What each rank does that takes part.
void on_ranks(int ranks, const Model& model, const TimeGrid& grid,
              const std::function<void(const Context&, const RankSampler&)>& first) {
  RanksOnThreads::run(ranks, [&](const std::shared_ptr<Ranks>& all) {
    const Context context({.backend = BackendKind::cpu, .threads = 1});
    const RankSampler sampler(all, context, model, grid);
    if (all->rank() == 0) {
      first(context, sampler);
    } else {
      sampler.serve();
    }
  });
}

TEST(RankSampler, DrawsTheSamplesOfASampler) {
  const Model model = potential();
  const TimeGrid grid = TimeGrid::parse("geometric:9:1e-3", model.sde);
  std::vector<SampleOptions> calls(3);
  calls[0] = {.seed = 5, .first_index = 7, .noise_in_last_step = true, .temperature = 0.5, .langevin = 0.1};
  calls[1] = {.scheme = Scheme::heun, .seed = 5, .churn = {.amount = 2}};
  calls[2] = {.scheme = Scheme::ddim, .seed = 1, .eta = 0.5};
  for (const std::int64_t n : {0, 3, 99}) {
    std::vector<std::vector<float>> expected;
    for (SampleOptions call : calls) {
      expected.resize(expected.size() + 2);
      std::vector<float>&x = expected[expected.size() - 2], &states = expected.back();
      x.resize(2 * n), states.resize(3 * 2 * n);
      call.snapshot_steps = {0, 4, 9};
      call.snapshots = View<float>(states, 2);
      Sampler(Context(BackendKind::cpu), model, grid).sample(View<float>(x, 2), call);
    }
    for (const int ranks : {1, 2, 3, 7}) {
      on_ranks(ranks, model, grid, [&](const Context&, const RankSampler& sampler) {
        std::size_t at = 0;
        for (SampleOptions call : calls) {
          std::vector<float> x(2 * n), states(3 * 2 * n);
          call.snapshot_steps = {0, 4, 9};
          call.snapshots = View<float>(states, 2);
          sampler.sample(View<float>(x, 2), call);
          EXPECT_EQ(x, expected[at++]) << n << " by " << ranks;
          EXPECT_EQ(states, expected[at++]) << n << " by " << ranks;
        }
      });
    }
  }
}

// All that a gap is made of: histograms at all times, distances, kept samples; in parts that are saved, too.
TEST(RankSampler, MeasuresTheGapOfASampler) {
  const Model model = potential();
  const TimeGrid grid = TimeGrid::parse("geometric:9:1e-3", model.sde);
  const Context context({.backend = BackendKind::cpu, .threads = 1});
  const DataSet data = DataSet::named("blob");
  GapOptions options{.samples = 997, .seed = 3, .in_detail = true, .sliced = true, .box = Grid::within(3.5, 16)};
  const GroundTruth truth = ground_truth(context, data, options);
  const SamplerGap one = measure_gap(context, model, truth, grid, options);
  const std::vector<double> etas{0.5, 2};
  const std::vector<EtaLaw> curve = gap_along_eta(context, model, truth, one.ode, grid, etas, options);
  for (const int ranks : {2, 7}) {
    on_ranks(ranks, model, grid, [&](const Context& own, const RankSampler& sampler) {
      GapOptions shared = options;
      shared.draw = [&](View<float> x, const SampleOptions& path) { sampler.sample(x, path); };
      const SamplerGap gap = measure_gap(own, model, truth, grid, shared);
      for (const auto& [law, expected] : {std::pair(&gap.ode, &one.ode), std::pair(&gap.sde, &one.sde)}) {
        EXPECT_EQ(law->histogram->weights, expected->histogram->weights);
        EXPECT_EQ(law->histogram->outside, expected->histogram->outside);
        EXPECT_EQ(law->health.far_out, expected->health.far_out);
      }
      EXPECT_EQ(gap.ode_sde.w2_squared, one.ode_sde.w2_squared);
      EXPECT_EQ(gap.sliced->ode_sde, one.sliced->ode_sde);
      EXPECT_EQ(gap.sliced->sde_truth, one.sliced->sde_truth);
      ASSERT_EQ(gap.over_time->sde.size(), one.over_time->sde.size());
      for (std::size_t k = 0; k < one.over_time->sde.size(); ++k) {
        EXPECT_EQ(gap.over_time->sde[k].weights, one.over_time->sde[k].weights);
        EXPECT_EQ(gap.over_time->ode_sde[k].w2_squared, one.over_time->ode_sde[k].w2_squared);
      }
      const std::vector<EtaLaw> laws = gap_along_eta(own, model, truth, gap.ode, grid, etas, shared);
      for (std::size_t k = 0; k < etas.size(); ++k) EXPECT_EQ(laws[k].ode.w2_squared, curve[k].ode.w2_squared);
    });
  }
}

// Ranks whose send() returns when its message is received, as that of a long one does over MPI. Two that send to each
// other would wait for ever: both throw.
class SynchronousRanks final : public Ranks {
 public:
  // What those of all threads share, [from, to].
  struct Meeting {
    explicit Meeting(int size)
        : open(static_cast<std::size_t>(size), std::vector<int>(static_cast<std::size_t>(size))) {}
    void end() {
      const std::lock_guard lock(mutex);
      ended = true;
      changed.notify_all();
    }

    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::vector<int>> open;  // messages that are sent and not received
    bool ended = false, waits_for_ever = false;
  };

  SynchronousRanks(std::shared_ptr<Ranks> ranks, Meeting& meeting) : ranks_(std::move(ranks)), meeting_(meeting) {}
  int rank() const override { return ranks_->rank(); }
  int size() const override { return ranks_->size(); }
  void send(std::span<const std::byte> bytes, int to) override {
    std::unique_lock lock(meeting_.mutex);
    const auto me = static_cast<std::size_t>(rank()), other = static_cast<std::size_t>(to);
    ++meeting_.open[me][other];
    ranks_->send(bytes, to);
    if (meeting_.open[other][me] > 0) meeting_.ended = meeting_.waits_for_ever = true;
    meeting_.changed.notify_all();
    meeting_.changed.wait(lock, [&] { return meeting_.open[me][other] == 0 || meeting_.ended; });
    if (meeting_.open[me][other] > 0) throw OtherRankFailed("the message is not received");
  }
  void receive(std::span<std::byte> bytes, int from) override {
    ranks_->receive(bytes, from);
    const std::lock_guard lock(meeting_.mutex);
    --meeting_.open[static_cast<std::size_t>(from)][static_cast<std::size_t>(rank())];
    meeting_.changed.notify_all();
  }

 private:
  std::shared_ptr<Ranks> ranks_;
  Meeting& meeting_;
};

// The first fails while the others send it their samples: it ends them, and does not wait for them.
TEST(RankSampler, EndsTheOthersWhereTheFirstFails) {
  const Model model = potential();
  const TimeGrid grid = TimeGrid::parse("geometric:9:1e-3", model.sde);
  SynchronousRanks::Meeting meeting(3);
  const auto body = [&](const std::shared_ptr<Ranks>& all) {
    const Context context({.backend = BackendKind::cpu, .threads = 1});
    try {
      const RankSampler sampler(std::make_shared<SynchronousRanks>(all, meeting), context, model, grid);
      if (all->rank() > 0) return sampler.serve();
      std::vector<float> x(2 * 99);
      SampleOptions call;
      call.progress = [](std::int64_t, std::int64_t) { throw std::runtime_error("the disk is full"); };
      sampler.sample(View<float>(x, 2), call);
    } catch (...) {
      meeting.end();
      throw;
    }
  };
  EXPECT_THAT([&] { RanksOnThreads::run(3, body); }, ::testing::ThrowsMessage<std::runtime_error>("the disk is full"));
  EXPECT_FALSE(meeting.waits_for_ever);
}

TEST(RankSampler, RefusesMoreSnapshotsThanItTellsTheOthersOf) {
  const Model model = potential();
  const TimeGrid grid = TimeGrid::parse("uniform:99", model.sde);
  on_ranks(2, model, grid, [&](const Context&, const RankSampler& sampler) {
    SampleOptions call;
    call.snapshot_steps.resize(most_snapshots + 1);
    std::iota(call.snapshot_steps.begin(), call.snapshot_steps.end(), 0);
    std::vector<float> x(2 * 3), states(2 * 3 * call.snapshot_steps.size());
    call.snapshots = View<float>(states, 2);
    EXPECT_THAT(message_of([&] { sampler.sample(View<float>(x, 2), call); }),
                HasSubstr("65 snapshots asked for; allowed: up to 64"));
    call = {};
    sampler.sample(View<float>(x, 2), call);  // goes on
  });
}

// A run's files are the first rank's, and the others, which have none of them here, do what it says.
TEST(RunOnRanks, IsAsTheFirstFindsIt) {
  const fokker::testing::Scratch scratch;
  Preset preset = find_preset("smoke");
  preset.data = {"blob"}, preset.weights = {1}, preset.grid = "geometric:9:1e-2", preset.bounds = false;
  preset.gap.samples = 200, preset.train.iterations = 6;
  const ForwardSde sde = ForwardSde::defaults(SdeKind::ou);
  const TimeGrid grid = TimeGrid::parse(preset.grid, sde);
  const auto begin = [&](const std::string& name) {
    std::vector<tools::Run> runs = plan_runs(preset, sde, 3, scratch / name);
    prepare_folders(runs, scratch / name);
    return runs.at(0);
  };
  const auto reproduce = [&](const tools::Run& run, const std::string& out, std::shared_ptr<Ranks> ranks) {
    const Context context({.backend = BackendKind::cpu, .threads = 1});
    RunMeasurement measurement(context, preset, sde, grid, out);
    std::vector<Progress::Phase> phases{{run.title, "train", 1}};
    for (const Progress::Phase& phase : measurement.phases(run)) phases.push_back(phase);
    Progress progress(phases);
    train(context, {&run}, progress, ranks);
    measurement.measure(run, progress, ranks);
  };
  const tools::Run alone = begin("alone");
  reproduce(alone, scratch / "alone", one_rank());
  const tools::Run first = begin("first");
  {
    Trainer trainer(Context({.backend = BackendKind::cpu, .threads = 1}),
                    {first.sde, Mlp::initialise(first.architecture, first.train.seed)}, first.data, first.train);
    trainer.run(4);
    trainer.save_state(first.file(saved_training));
  }
  for (int call = 0; call < 2; ++call) {  // the second has nothing to do
    RanksOnThreads::run(3, [&](const std::shared_ptr<Ranks>& ranks) {
      const std::string out = ranks->rank() == 0 ? "first" : fmt::format("{}_{}", ranks->rank(), call);
      const tools::Run own = ranks->rank() == 0 ? first : begin(out);
      reproduce(own, scratch / out, ranks);
      EXPECT_EQ(own.trained(), ranks->rank() == 0);
    });
  }
  for (const char* name : {"model.safetensors", "sde.npy", "ode.npy"}) {
    EXPECT_TRUE(get(first.file(name)) == get(alone.file(name))) << name;
  }
}

}  // namespace
}  // namespace fokker::tools
