#pragma once

// What the trainers of both backends have to show alike: averages of the weights, clipping, the stop before what is not
// finite, and the news of a run.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "compare.hpp"
#include "fokker/safetensors.hpp"
#include "fokker/trainer.hpp"
#include "scratch.hpp"

namespace fokker::testing {

inline Model small_model(std::int64_t d = 2, Output output = Output::potential, ForwardSde sde = {},
                         std::vector<std::int64_t> hidden = {19, 7}) {
  Architecture architecture;
  architecture.dimension = d;
  architecture.hidden = std::move(hidden);
  architecture.activation = Activation::silu;
  architecture.output = output;
  return {sde, Mlp::initialise(architecture, 5)};
}

inline TrainOptions small_options() {
  TrainOptions options;
  options.iterations = 60;
  options.denoising_points = 99;
  options.collocation_points = 19;
  options.residual_weight = 0.5;
  options.peak_rate = 1e-2;
  options.seed = 7;
  return options;
}

inline Context cpu(int threads = 2) { return Context({.backend = BackendKind::cpu, .threads = threads}); }

// The known law: N((0.5, −0.3), diag(0.3, 0.8)).
inline DataSet gaussian() { return DataSet::mixture(GaussianMixture(2, {1.0}, {0.5, -0.3}, {0.3, 0.0, 0.0, 0.8})); }

inline const std::vector<double>& parameters_of(const Model& model) { return std::get<Mlp>(model.network).parameters; }

// The whole state as the bytes of its file.
inline std::string state_bytes(const Trainer& trainer) {
  const Scratch folder;
  trainer.save_state(folder / "state.safetensors");
  return get(folder / "state.safetensors");
}

// A tensor of the state.
inline std::vector<double> tensor_of(const Trainer& trainer, const char* name) {
  const Scratch folder;
  trainer.save_state(folder / "state.safetensors");
  return SafeTensors::load(folder / "state.safetensors").at(name).to_double();
}

inline void expect_same_records(const std::vector<TrainRecord>& a, const std::vector<TrainRecord>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(a[i].iteration, b[i].iteration);
    EXPECT_EQ(a[i].denoising, b[i].denoising);
    EXPECT_EQ(a[i].residual, b[i].residual);
    EXPECT_EQ(a[i].total, b[i].total);
    EXPECT_EQ(a[i].gradient_norm, b[i].gradient_norm);
    EXPECT_EQ(a[i].rate, b[i].rate);
  }
}

// Every step is that of Kingma and Ba's algorithm 1 from the moments that it leaves, with their bias corrected by the
// number of steps since the latest restart.
inline void check_steps(const Context& context) {
  TrainOptions options = small_options();
  options.schedule = RateSchedule::paper;
  options.iterations = 24;  // restarts at 6 and 21
  Trainer trainer(context, small_model(), DataSet::named("blob"), options);
  std::vector<double> expected = tensor_of(trainer, "parameters");
  for (int k = 0; k < 9; ++k) {
    const double rate = trainer.run(1)[0].rate, t = k < 6 ? k + 1 : k - 5;
    const std::vector<double> m = tensor_of(trainer, "first_moment"), v = tensor_of(trainer, "second_moment");
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double m_hat = m[i] / (1 - std::pow(0.9, t)), v_hat = v[i] / (1 - std::pow(0.999, t));
      expected[i] -= rate * m_hat / (std::sqrt(v_hat) + 1e-8);
    }
    const std::vector<double> parameters = tensor_of(trainer, "parameters");
    // Half a unit of |p| ≤ 4, and some units of a step of a few rates.
    const Bound bound{.relative = 0, .of_rms = 0, .norm = 0, .absolute = 0x1p-23 + 0x1p-20 * rate};
    EXPECT_TRUE(agrees(parameters, expected, bound)) << k;
    expected = parameters;
  }
}

// Averages are of the very parameters that a run without one goes through.
inline void check_averages(const Context& context) {
  const DataSet data = DataSet::named("blob");
  TrainOptions options = small_options();
  options.iterations = 20;
  options.average_fraction = 0.25;  // from iteration 15 on
  options.average = WeightAverage::none;
  Trainer plain(context, small_model(), data, options);
  options.average = WeightAverage::exponential;
  options.average_decay = 0.9;
  Trainer exponential(context, small_model(), data, options);
  options.average = WeightAverage::tail;
  Trainer tail(context, small_model(), data, options);

  std::vector<double> decayed, sum;
  for (Trainer* trainer : {&plain, &exponential, &tail}) trainer->run(14);
  for (int k = 14; k < 20; ++k) {
    for (Trainer* trainer : {&plain, &exponential, &tail}) trainer->run(1);
    const std::vector<double> now = parameters_of(plain.model());
    if (k < 15) {
      EXPECT_EQ(parameters_of(exponential.model()), now);
      EXPECT_EQ(parameters_of(tail.model()), now);
      continue;
    }
    if (k == 15) decayed = now, sum.assign(now.size(), 0.0);
    std::vector<double> mean(now.size());
    for (std::size_t i = 0; i < now.size(); ++i) {
      decayed[i] = 0.9 * decayed[i] + 0.1 * now[i];
      sum[i] += now[i];
      mean[i] = sum[i] / (k - 14);
    }
    const Bound bound{.relative = 0, .of_rms = 1e-14, .norm = 1e-14, .absolute = 0};
    EXPECT_TRUE(agrees(parameters_of(exponential.model()), decayed, bound)) << k;
    EXPECT_TRUE(agrees(parameters_of(tail.model()), mean, bound)) << k;
  }
  EXPECT_NE(parameters_of(exponential.model()), parameters_of(plain.model()));
}

inline double norm_of(const std::vector<double>& v) {
  return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
}

// After the first step Adam's first moment is 0.1 times the gradient it was given.
inline void check_clipping(const Context& context) {
  const auto moment_norm = [&](double clip, double& norm) {
    TrainOptions options = small_options();
    options.clip_norm = clip;
    Trainer trainer(context, small_model(), DataSet::named("checker"), options);
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

// The loss is not finite after a few iterations.
inline TrainOptions diverging_options() {
  TrainOptions options = small_options();
  options.schedule = RateSchedule::constant;
  options.peak_rate = 1e30;
  options.average = WeightAverage::none;
  return options;
}

inline void check_stop_before_what_is_not_finite(const Context& context) {
  const TrainOptions options = diverging_options();
  Trainer trainer(context, small_model(), DataSet::named("blob"), options);
  std::string message;
  std::size_t before = 0;
  try {
    trainer.run(20);
  } catch (const TrainingStopped& stopped) {
    message = stopped.what();
    before = stopped.records.size();
  }
  const std::int64_t stopped = trainer.iteration();
  EXPECT_GE(stopped, 1);
  EXPECT_LT(stopped, 20);
  EXPECT_EQ(before, static_cast<std::size_t>(stopped));
  using ::testing::HasSubstr;
  EXPECT_THAT(message, ::testing::AllOf(HasSubstr(fmt::format("stopped at iteration {}", stopped)),
                                        HasSubstr("denoising"), HasSubstr("residual"), HasSubstr("not finite")));
  const std::vector<double> parameters = parameters_of(trainer.model());
  for (const double value : parameters) ASSERT_TRUE(std::isfinite(value));

  // They are what the iterations before it made.
  Trainer again(context, small_model(), DataSet::named("blob"), options);
  again.run(stopped);
  EXPECT_EQ(parameters_of(again.model()), parameters);
  EXPECT_EQ(message_of([&] { trainer.run(1); }), message);  // and it stays there
}

// Three trainers of which the last is of another shape and the second ends early, and what each of them does alone.
class NewsOfARun {
 public:
  explicit NewsOfARun(const Context& context) : context_(context) {
    for (std::uint64_t k = 0; k < 3; ++k) {
      recipes_.push_back(small_options());
      recipes_[k].iterations = 25;
      recipes_[k].denoising_points = 19;
      recipes_[k].collocation_points = 7;
      recipes_[k].seed = k;
    }
    recipes_[1].iterations = 9;
  }

  // All records, each once and in their order.
  void check_records() {
    Set set = make();
    set.trainers.run(21, set.take());
    for (std::size_t k = 0; k < 3; ++k) {
      SCOPED_TRACE(k);
      Trainer alone = trainer(k);
      expect_same_records(set.told[k], alone.run(21));
      EXPECT_EQ(set.told[k].size(), k == 1 ? 9u : 21u);
      EXPECT_EQ(set.stopped[k], "");
      EXPECT_TRUE(state_bytes(set.trainers[k]) == state_bytes(alone));
    }
    Trainer single = trainer(0);
    std::vector<TrainRecord> records;
    single.run(21, [&](const TrainingNews& news) {
      EXPECT_EQ(news.trainer, 0u);
      records.insert(records.end(), news.records.begin(), news.records.end());
      return true;
    });
    expect_same_records(records, set.told[0]);
    single.run(0, [](const TrainingNews&) { return ADD_FAILURE() << "news of nothing", true; });
  }

  // After false nothing begins, what has begun is told, and the trainers go on later as if undisturbed; likewise after
  // an exception, which comes through, but for the telling. at_once: nothing is under way.
  void check_stop(bool at_once) {
    Set set = make();
    set.stop_after = 1;
    set.trainers.run(25, set.take());
    for (std::size_t k = 0; k < 3; ++k) {
      SCOPED_TRACE(k);
      EXPECT_EQ(set.trainers[k].iteration(), std::ssize(set.told[k]));
      EXPECT_LT(set.trainers[k].iteration(), recipes_[k].iterations);
      EXPECT_LE(set.calls[k], 2u);  // of the slice that the first false is on, and of the one under way
    }
    EXPECT_EQ(set.calls[2], 0u);
    if (at_once) {
      EXPECT_EQ(set.told[0].size(), 1u);
      EXPECT_EQ(set.told[1].size() + set.told[2].size(), 0u);
    }
    std::size_t news_taken = 0;
    const auto fail = [&](const TrainingNews&) -> bool {
      ++news_taken;
      throw std::runtime_error("the disk is full");
    };
    EXPECT_THAT([&] { set.trainers.run(25, fail); }, ::testing::ThrowsMessage<std::runtime_error>("the disk is full"));
    EXPECT_EQ(news_taken, 1u);
    set.stop_after = 1000;
    for (std::size_t k = 0; k < 3; ++k) set.told[k].clear();
    set.trainers.run(25, set.take());
    for (std::size_t k = 0; k < 3; ++k) {
      SCOPED_TRACE(k);
      EXPECT_EQ(set.trainers[k].iteration(), recipes_[k].iterations);
      if (!set.told[k].empty()) {
        EXPECT_EQ(set.told[k].back().iteration + 1, recipes_[k].iterations);
      }
      Trainer alone = trainer(k);
      alone.run(25);
      EXPECT_TRUE(state_bytes(set.trainers[k]) == state_bytes(alone));
    }
  }

  // Where one diverges its records before that are told, then that it stopped, once; the others lose nothing.
  void check_failure() {
    recipes_[1] = diverging_options();
    Trainer wild = trainer(1);
    std::vector<TrainRecord> before;
    const std::string message = message_of([&] {
      try {
        wild.run(25);
      } catch (const TrainingStopped& stopped) {
        before = stopped.records;
        throw;
      }
    });
    Set set = make();
    EXPECT_EQ(message_of([&] { set.trainers.run(25, set.take()); }), message);
    expect_same_records(set.told[1], before);
    EXPECT_EQ(set.trainers[1].iteration(), std::ssize(before));
    EXPECT_TRUE(state_bytes(set.trainers[1]) == state_bytes(wild));
    for (std::size_t k = 0; k < 3; ++k) {
      SCOPED_TRACE(k);
      EXPECT_EQ(set.stopped[k], k == 1 ? message : "");
      if (k == 1) continue;
      Trainer alone = trainer(k);
      expect_same_records(set.told[k], alone.run(25));
      EXPECT_TRUE(state_bytes(set.trainers[k]) == state_bytes(alone));
    }
    for (std::vector<TrainRecord>& told : set.told) told.clear();
    set.trainers.run(25, set.take());  // leaves out the one that stopped
    for (const std::vector<TrainRecord>& told : set.told) EXPECT_TRUE(told.empty());
    std::vector<Trainer> released = set.trainers.release();
    EXPECT_EQ(message_of([&] { released[1].run(1); }), message);
  }

  // What a group takes and gives back.
  void check_members() {
    Set set = make();
    set.trainers.run(2, set.take());
    std::vector<Trainer> released = set.trainers.release();
    EXPECT_EQ(set.trainers.size(), 0u);
    EXPECT_TRUE(set.trainers.run(1).empty());
    ASSERT_EQ(released.size(), 3u);
    for (std::size_t k = 0; k < 3; ++k) {
      SCOPED_TRACE(k);
      Trainer alone = trainer(k);
      alone.run(3);
      released[k].run(1);
      EXPECT_TRUE(state_bytes(released[k]) == state_bytes(alone));
    }
    TrainingGroup again(std::move(released));
    EXPECT_THAT(message_of([&] { again.run(-1); }), ::testing::HasSubstr("-1 iterations"));
    again.run(1, [&](const TrainingNews&) {
      EXPECT_THAT(message_of([&] { again.release(); }), ::testing::HasSubstr("used in the sink of its own run"));
      return true;
    });
    released = again.release();
    EXPECT_EQ(released[0].iteration(), 4);
    const Trainer taken = std::move(released[1]);
    EXPECT_THAT(message_of([&] { TrainingGroup(std::move(released)); }),
                ::testing::HasSubstr("trainer 1 of 3 was moved away"));
  }

  void check_use_in_the_sink() {
    Trainer one = trainer(0), other = trainer(1);
    const Scratch folder;
    one.run(1, [&](const TrainingNews&) {
      const char* const refused = "used in the sink of its own run";
      EXPECT_THAT(message_of([&] { one.model(); }), ::testing::HasSubstr(refused));
      EXPECT_THAT(message_of([&] { one.run(1); }), ::testing::HasSubstr(refused));
      EXPECT_THAT(message_of([&] { one.save_state(folder / "state"); }), ::testing::HasSubstr(refused));
      EXPECT_FALSE(other.model().network.valueless_by_exception());
      return true;
    });
    EXPECT_EQ(one.iteration(), 1);
    EXPECT_THAT(message_of([&] { one.run(1, TrainingSink()); }), ::testing::HasSubstr("empty sink"));
    EXPECT_EQ(one.run(1).size(), 1u);
  }

 private:
  struct Set {
    TrainingGroup trainers;
    std::vector<std::vector<TrainRecord>> told = std::vector<std::vector<TrainRecord>>(3);
    std::vector<std::string> stopped = std::vector<std::string>(3);
    std::vector<std::size_t> calls{0, 0, 0};  // of the sink, about each
    std::size_t stop_after = 1000;            // records of the first

    TrainingSink take() {
      return [this](const TrainingNews& news) {
        EXPECT_EQ(stopped[news.trainer], "") << "news of one that stopped";
        EXPECT_TRUE(!news.records.empty() || news.stopped != nullptr);
        told[news.trainer].insert(told[news.trainer].end(), news.records.begin(), news.records.end());
        if (news.stopped != nullptr) stopped[news.trainer] = news.stopped->what();
        ++calls[news.trainer];
        return told[0].size() < stop_after;
      };
    }
  };

  Trainer trainer(std::size_t k) const {
    const Model model = k == 2 ? small_model(2, Output::potential, {}, {7}) : small_model();
    return Trainer(context_, model, DataSet::named("circles2"), recipes_[k]);
  }
  Set make() const {
    std::vector<Trainer> trainers;
    for (std::size_t k = 0; k < 3; ++k) trainers.push_back(trainer(k));
    return {.trainers = TrainingGroup(std::move(trainers))};
  }

  Context context_;
  std::vector<TrainOptions> recipes_;
};

}  // namespace fokker::testing
