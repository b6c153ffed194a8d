// State files: resumed and killed runs have the bits of uninterrupted ones, and a file that is not whole is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fmt/format.h"
#include "fokker/safetensors.hpp"
#include "fokker/trainer.hpp"
#include "networks.hpp"
#include "process.hpp"
#include "trainer_checks.hpp"

namespace fokker {
namespace {

using testing::agrees;
using ::testing::AllOf;
using testing::Arguments;
using testing::Bound;
using testing::cpu;
using testing::gaussian;
using testing::get;
using ::testing::HasSubstr;
using testing::message_of;
using testing::parameters_of;
using testing::Process;
using testing::Scratch;
using testing::small_model;
using testing::small_options;
using testing::state_bytes;

// Bit for bit.

struct ResumeCase {
  RateSchedule schedule;
  WeightAverage average;
  TimeLaw law;
  double clip;
  Output output;
  int probes = 0;
};

class Resume : public ::testing::TestWithParam<ResumeCase> {};

TEST_P(Resume, GivesTheBitsOfAnUninterruptedRun) {
  TrainOptions options = small_options();
  options.schedule = GetParam().schedule;
  options.average = GetParam().average;
  options.time_law = GetParam().law;
  options.clip_norm = GetParam().clip;
  if (GetParam().output == Output::score) options.residual_weight = 0;
  options.residual_probes = GetParam().probes;
  if (GetParam().probes > 0) options.probe_law = ProbeLaw::gaussian;
  const DataSet data = DataSet::named("circles2");
  Trainer uninterrupted(cpu(), small_model(2, GetParam().output), data, options);
  const auto all = uninterrupted.run(60);

  const Scratch folder;
  const std::string path = folder / "state.safetensors";
  Trainer(cpu(), small_model(2, GetParam().output), data, options).save_state(path);
  std::size_t seen = 0;
  for (const std::int64_t stop : {0, 1, 14, 15, 16, 48, 49, 54, 60}) {  // restarts at 15 and 54, the average from 48
    Trainer part = Trainer::resume(cpu(), path, data);
    EXPECT_EQ(part.options().seed, options.seed);
    EXPECT_EQ(part.options().residual_probes, options.residual_probes);
    EXPECT_EQ(part.options().probe_law, options.probe_law);
    for (const TrainRecord& record : part.run(stop - part.iteration())) {
      EXPECT_EQ(record.iteration, all[seen].iteration);
      EXPECT_EQ(record.total, all[seen].total) << seen;
      EXPECT_EQ(record.rate, all[seen].rate) << seen;
      ++seen;
    }
    EXPECT_EQ(part.iteration(), stop);
    part.save_state(path);
  }
  EXPECT_EQ(seen, 60u);
  EXPECT_EQ(folder.list().size(), 1u);  // no temporary name left behind
  const Trainer resumed = Trainer::resume(cpu(), path, data);
  EXPECT_EQ(parameters_of(resumed.model()), parameters_of(uninterrupted.model()));
  EXPECT_TRUE(state_bytes(resumed) == state_bytes(uninterrupted));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Resume,
    ::testing::Values(
        ResumeCase{RateSchedule::paper, WeightAverage::exponential, TimeLaw::importance, 0, Output::potential},
        ResumeCase{RateSchedule::one_cycle, WeightAverage::tail, TimeLaw::paper, 0.5, Output::potential, 2},
        ResumeCase{RateSchedule::cosine, WeightAverage::none, TimeLaw::uniform, 0, Output::score},
        ResumeCase{RateSchedule::constant, WeightAverage::exponential, TimeLaw::importance, 2, Output::score}),
    [](const auto& instance) {
      std::string name(to_string(instance.param.schedule));
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// Another process trains and saves after every iteration until SIGKILL ends it, most likely in the middle of a save;
// what it leaves is a whole state that goes on as if nothing had happened.
// x and a condition, normal and independent.
DataSet rows_with_conditions(std::int64_t columns) {
  return DataSet::mixture(GaussianMixture::isotropic(columns, {1}, std::vector<double>(columns, 0.5), {1}));
}

// Every part of a network with branches is in the state, and what is fixed stays.
TEST(Branches, ResumeToTheBitsOfAnUninterruptedRunAndKeepFixedLayers) {
  TrainOptions options = small_options();
  options.iterations = 20;
  for (auto& [name, a] : testing::all_networks(Output::potential)) {
    if (a.dimension != 2) continue;
    SCOPED_TRACE(name);
    const DataSet data = a.conditional() ? rows_with_conditions(2 + a.condition.inputs) : DataSet::named("circles2");
    options.condition_drop = a.conditional() ? 0.25 : 0;
    for (std::size_t l = 0; l < a.condition.layers.size(); ++l) {
      a.condition.layer_names.push_back(fmt::format("of_y{}", l));
    }
    for (std::size_t l = 0; l < a.time.layers.size(); ++l) a.time.layer_names.push_back(fmt::format("own{}", l));
    const Model initial{ForwardSde{}, Mlp::initialise(a, 5)};
    Trainer uninterrupted(cpu(), initial, data, options);
    uninterrupted.run(20);
    const Scratch folder;
    Trainer half(cpu(), initial, data, options);
    half.run(9);
    half.save_state(folder / "state.safetensors");
    Trainer resumed = Trainer::resume(cpu(), folder / "state.safetensors", data);
    resumed.run(11);
    const Mlp trained = std::get<Mlp>(resumed.model().network);
    if (a.layer_names.empty()) a.layer_names = a.names();  // as in the state
    EXPECT_EQ(trained.architecture, a);
    EXPECT_EQ(trained.parameters, parameters_of(uninterrupted.model()));
    const std::vector<double>& before = std::get<Mlp>(initial.network).parameters;
    const auto changed = [&](std::int64_t begin, std::int64_t end) {
      std::int64_t count = 0;
      for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
        count += trained.parameters[k] != before[k];
      }
      return count;
    };
    const auto check_branch = [&](const Branch& branch, std::int64_t first) {
      for (std::int64_t l = 0; l < std::ssize(branch.layers); ++l) {
        const std::int64_t begin = first + branch.weight_offset(l), end = first + branch.weight_offset(l + 1);
        EXPECT_EQ(changed(begin, end), branch.layers[static_cast<std::size_t>(l)].fixed ? 0 : end - begin) << l;
      }
    };
    check_branch(a.condition, 0);
    check_branch(a.time, a.time_offset());
    for (std::int64_t l = 0; l < a.layers(); ++l) {
      const bool is_output = l + 1 == a.layers();  // whose bias is no part of the loss, nor is a condition there
      const std::int64_t begin = a.weight_offset(l), end = is_output ? a.bias_offset(l) : a.weight_offset(l + 1);
      const std::int64_t learned = end - begin - (is_output ? a.conditioned(l) : 0);
      EXPECT_EQ(changed(begin, end), a.is_fixed(l) ? 0 : learned) << l;
    }
  }
}

// Betas and loss weights are in the state, to the last bit.
TEST(Tables, ResumeToTheBitsOfAnUninterruptedRun) {
  TrainOptions options = small_options();
  options.iterations = 20;
  options.loss_weight = LossWeight::given;
  options.loss_weights = {{0, 1.0 / 3}, {1.0 / 7, 0}, {1, 2}};
  std::vector<double> betas;
  for (int j = 0; j < 100; ++j) betas.push_back((1 + j) / 3000.0);
  const Model initial = small_model(2, Output::potential, ForwardSde::ddpm(betas));
  const DataSet data = DataSet::named("circles2");
  Trainer uninterrupted(cpu(), initial, data, options);
  uninterrupted.run(20);
  const Scratch folder;
  Trainer half(cpu(), initial, data, options);
  half.run(9);
  half.save_state(folder / "state.safetensors");
  Trainer resumed = Trainer::resume(cpu(), folder / "state.safetensors", data);
  EXPECT_EQ(resumed.options().loss_weights, options.loss_weights);
  EXPECT_EQ(resumed.model().sde.betas(), betas);
  resumed.run(11);
  EXPECT_TRUE(state_bytes(resumed) == state_bytes(uninterrupted));
}

TEST(Killed, RunResumesToTheBitsOfAnUninterruptedOne) {
  TrainOptions options = small_options();
  options.iterations = 1'000'000;
  options.schedule = RateSchedule::constant;
  options.average_fraction = 1;
  const DataSet data = DataSet::named("blob");
  const Scratch folder;
  const std::string path = folder / "state.safetensors";
  Trainer(cpu(), small_model(), data, options).save_state(path);
  std::int64_t reached = 0;
  for (int kill = 0; kill < 5; ++kill) {
    const std::string before = get(path);
    const Process process(folder.folder(), Arguments{KILLED_TRAINER, path});
    ASSERT_TRUE(process.wait_until([&] { return get(path) != before; })) << process.wait().err;
    process.send(SIGKILL);
    ASSERT_EQ(process.wait().signal, SIGKILL);

    const Trainer left = Trainer::resume(cpu(), path, data);
    EXPECT_GT(left.iteration(), reached);
    reached = left.iteration();
  }
  Trainer resumed = Trainer::resume(cpu(), path, data);
  resumed.run(10);
  Trainer uninterrupted(cpu(), small_model(), data, options);
  uninterrupted.run(reached + 10);
  EXPECT_TRUE(state_bytes(resumed) == state_bytes(uninterrupted));
}

TEST(BadInput, InStateFilesIsRefusedInOneSentence) {
  const Scratch folder;
  const std::string good = folder / "good.safetensors", bad = folder / "bad.safetensors";
  TrainOptions options = small_options();
  const DataSet data = gaussian();
  Trainer trainer(cpu(), small_model(), data, options);
  trainer.run(50);
  trainer.save_state(good);
  const auto resume = [&](const std::string& path, const DataSet& of) {
    return message_of([&] { Trainer::resume(cpu(), path, of); });
  };
  EXPECT_NO_THROW(Trainer::resume(cpu(), good, data));
  EXPECT_THAT(resume(folder / "absent.safetensors", data), HasSubstr("absent.safetensors"));

  // Another data set, and one that changed.
  EXPECT_THAT(resume(good, DataSet::named("blob")),
              AllOf(HasSubstr("'mixture'"), HasSubstr("'blob'"), HasSubstr(good)));
  EXPECT_THAT(resume(good, DataSet::mixture(GaussianMixture(2, {1.0}, {0.5, -0.3}, {0.3, 0.0, 0.0, 0.9}))),
              HasSubstr("changed contents"));
  EXPECT_THAT(resume(good, DataSet::samples({0.5f, -0.3f}, 2)), HasSubstr("'mixture'"));

  // Not a training state.
  save_model(bad, trainer.model());
  EXPECT_THAT(resume(bad, data), AllOf(HasSubstr("not a training state"), HasSubstr(bad)));
  const std::string whole = get(good);
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    std::ofstream(bad, std::ios::binary).write(whole.data(), static_cast<std::streamsize>(length));
    EXPECT_THAT(resume(bad, data), HasSubstr("bad.safetensors")) << length;
  }

  const auto spoilt = [&](const std::function<void(SafeTensors&)>& spoil) {
    SafeTensors file = SafeTensors::load(good);
    spoil(file);
    file.save(bad);
    const std::string message = resume(bad, data);
    EXPECT_THAT(message, HasSubstr("bad.safetensors"));
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  };
  const auto set_int = [](const char* name, std::int64_t value) {
    return [=](SafeTensors& file) { file.tensors[name] = Tensor::from_int64({1}, &value); };
  };
  const auto set_first = [](const char* name, float value) {
    return [=](SafeTensors& file) { std::memcpy(file.tensors.at(name).bytes.data(), &value, sizeof value); };
  };
  const auto replace = [](const std::string& from, const std::string& to) {
    return [=](SafeTensors& file) {
      std::string& text = file.metadata.at("configuration");
      const std::size_t at = text.find(from);
      ASSERT_NE(at, std::string::npos) << from << " in " << text;
      text.replace(at, from.size(), to);
    };
  };
  for (const char* name : {"parameters", "first_moment", "second_moment", "average", "iteration", "average_count"}) {
    EXPECT_THAT(spoilt([&](SafeTensors& file) { file.tensors.erase(name); }), HasSubstr(name));
    EXPECT_THAT(spoilt([&](SafeTensors& file) {
                  const std::vector<float> three(3);
                  file.tensors[name] = Tensor::from_float({3}, three.data());
                }),
                HasSubstr(name));
  }
  EXPECT_THAT(spoilt(set_int("iteration", -1)), HasSubstr("its iteration is -1; allowed: 0 to 60"));
  EXPECT_THAT(spoilt(set_int("iteration", 61)), HasSubstr("its iteration is 61; allowed: 0 to 60"));
  EXPECT_THAT(spoilt(set_int("iteration", 51)), HasSubstr("average"));
  EXPECT_THAT(spoilt(set_int("average_count", 1)), HasSubstr("average"));
  EXPECT_THAT(spoilt(set_first("parameters", std::nanf(""))), HasSubstr("parameters"));
  EXPECT_THAT(spoilt(set_first("second_moment", -1.0f)), HasSubstr("second_moment"));
  EXPECT_THAT(spoilt([](SafeTensors& file) { file.metadata.erase("configuration"); }), HasSubstr("configuration"));
  EXPECT_THAT(spoilt([](SafeTensors& file) { file.metadata["configuration"] = "[1, 2"; }), HasSubstr("configuration"));
  EXPECT_THAT(spoilt([](SafeTensors& file) { file.metadata["configuration"] = "{}"; }), HasSubstr("architecture"));
  EXPECT_THAT(spoilt([](SafeTensors& file) { file.metadata["version"] = "99"; }), HasSubstr("99"));
  EXPECT_THAT(spoilt(replace("[19,7]", "[19,8]")), HasSubstr("parameters"));
  EXPECT_THAT(spoilt(replace("[19,7]", "[0,7]")), HasSubstr("width 0"));
  EXPECT_THAT(spoilt(replace("[19,7]", "\"wide\"")), HasSubstr("its architecture hidden is 'wide'"));
  EXPECT_THAT(spoilt(replace("\"silu\"", "\"glu\"")), HasSubstr("'glu'"));
  EXPECT_THAT(spoilt(replace("\"one-cycle\"", "\"two-cycle\"")), HasSubstr("two-cycle"));
  EXPECT_THAT(spoilt(replace("\"iterations\":60", "\"iterations\":-60")), HasSubstr("-60"));
  EXPECT_THAT(spoilt(replace("\"iterations\":60", "\"iterations\":60.9")),
              HasSubstr("iterations is 60.9 where an integer"));
  EXPECT_THAT(spoilt(replace("\"iterations\":60", "\"iterations\":1e300")), HasSubstr("iterations is 1e+300"));
  EXPECT_THAT(spoilt(replace("\"iterations\":60", "\"iterations\":1e999")), HasSubstr("out of range"));
  EXPECT_THAT(spoilt(replace("\"iterations\":60", "\"iterations\":true")), HasSubstr("iterations is true"));
  EXPECT_THAT(spoilt(replace("\"seed\":", "\"seed\":-1,\"was\":")),
              HasSubstr("seed is -1 where a non-negative integer"));
  EXPECT_THAT(spoilt(replace("\"hidden\":[19,7]", "\"hidden\":[19.5,7]")), HasSubstr("hidden is 19.5"));
  EXPECT_THAT(spoilt(replace("\"box\":", "\"box\":{},\"was\":")), HasSubstr("box is an object of 0 where a number"));
}

// The state says in words what it is, for whoever opens it with another tool.
TEST(State, IsReadable) {
  const Scratch folder;
  Trainer trainer(cpu(), small_model(), DataSet::named("checker"), small_options());
  trainer.run(3);
  trainer.save_state(folder / "state.safetensors");
  const SafeTensors file = SafeTensors::load(folder / "state.safetensors");
  EXPECT_TRUE(agrees(file.at("parameters").to_double(), parameters_of(trainer.model()), Bound{}));
  EXPECT_EQ(file.at("iteration").dtype, "I64");
  for (const char* word :
       {"silu", "potential", "\"ou\"", "checker", "one-cycle", "importance", "exponential", "[19,7]"}) {
    EXPECT_THAT(file.metadata.at("configuration"), HasSubstr(word));
  }
  EXPECT_THAT(message_of([&] { trainer.save_state(folder / "absent/state.safetensors"); }), HasSubstr("absent"));
  EXPECT_EQ(trainer.iteration(), 3);
}

}  // namespace
}  // namespace fokker
