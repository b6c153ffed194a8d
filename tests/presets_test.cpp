// Every preset, number by number: what a run of that name is.
#include "presets.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace fokker::tools {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> names(const Preset& preset) {
  std::vector<std::string> names;
  for (const NetworkActivation& activation : preset.activations) names.push_back(activation.name());
  return names;
}

std::size_t runs(const Preset& preset) {
  return preset.data.size() * std::size_t(preset.seeds) * preset.activations.size() * preset.weights.size();
}

// The full size, as the paper has it.
void expect_the_papers_recipe(const Preset& preset) {
  const TrainOptions& train = preset.train;
  EXPECT_THAT(preset.data, ElementsAre("blob", "circles2", "checker"));
  EXPECT_EQ(train.iterations, 100000);
  EXPECT_EQ(train.denoising_points, 200000);
  EXPECT_EQ(train.collocation_points, 50000);
  EXPECT_EQ(train.box, 3.5);
  EXPECT_EQ(train.time_law, TimeLaw::paper);
  EXPECT_EQ(train.schedule, RateSchedule::paper);
  EXPECT_EQ(train.average, WeightAverage::none);
  EXPECT_EQ(train.clip_norm, 0);
  EXPECT_EQ(preset.gap.samples, 3000000);
  EXPECT_EQ(preset.grid, "paper");
  EXPECT_EQ(preset.gap.ode_scheme, Scheme::euler);
  EXPECT_TRUE(preset.gap.in_detail);
  EXPECT_TRUE(preset.bounds);
  EXPECT_EQ(preset.energy_nodes, 0);
}

void expect_a_small_recipe(const Preset& preset) {
  const TrainOptions& train = preset.train;
  EXPECT_THAT(preset.data, ElementsAre("circles2"));
  EXPECT_THAT(preset.weights, ElementsAre(0, 1));
  EXPECT_EQ(train.time_law, TimeLaw::importance);
  EXPECT_EQ(train.schedule, RateSchedule::one_cycle);
  EXPECT_EQ(train.peak_rate, 5e-3);
  EXPECT_EQ(train.average, WeightAverage::exponential);
  EXPECT_FALSE(preset.bounds);
  EXPECT_FALSE(preset.published);
}

TEST(Presets, HaveTheseNames) {
  EXPECT_THAT(preset_names, ElementsAre("smoke", "quick", "paper", "activations", "activations-quick"));
  for (const std::string& name : preset_names) EXPECT_EQ(find_preset(name).name, name);
}

TEST(Presets, PaperIsTwelveRuns) {
  const Preset preset = find_preset("paper");
  expect_the_papers_recipe(preset);
  EXPECT_EQ(preset.seeds, 1);
  EXPECT_THAT(names(preset), ElementsAre("softplus 100"));
  EXPECT_THAT(preset.weights, ElementsAre(0, 0.1, 1, 10));
  EXPECT_TRUE(preset.published);
  EXPECT_EQ(runs(preset), 12u);
}

TEST(Presets, ActivationsAreSeventyTwoRuns) {
  const Preset preset = find_preset("activations");
  expect_the_papers_recipe(preset);
  EXPECT_EQ(preset.seeds, 3);
  EXPECT_THAT(names(preset), ElementsAre("softplus 100", "softplus 20", "tanh", "silu"));
  EXPECT_THAT(preset.weights, ElementsAre(0, 1));
  EXPECT_FALSE(preset.published);
  EXPECT_EQ(runs(preset), 72u);
}

TEST(Presets, QuickActivationsAreTwentyFourSmallRuns) {
  const Preset preset = find_preset("activations-quick");
  expect_a_small_recipe(preset);
  EXPECT_EQ(preset.seeds, 3);
  EXPECT_THAT(names(preset), ElementsAre("softplus 100", "softplus 20", "tanh", "silu"));
  EXPECT_EQ(preset.train.iterations, 3000);
  EXPECT_EQ(preset.train.denoising_points, 4096);
  EXPECT_EQ(preset.train.collocation_points, 1024);
  EXPECT_EQ(preset.gap.samples, 40000);
  EXPECT_EQ(preset.grid, "geometric:150:1e-3");
  EXPECT_EQ(preset.gap.ode_scheme, Scheme::heun);
  EXPECT_TRUE(preset.gap.in_detail);
  EXPECT_EQ(runs(preset), 24u);
}

TEST(Presets, QuickAndSmokeAreTwoSmallRuns) {
  const Preset quick = find_preset("quick"), smoke = find_preset("smoke");
  for (const Preset& preset : {quick, smoke}) {
    SCOPED_TRACE(preset.name);
    expect_a_small_recipe(preset);
    EXPECT_EQ(preset.seeds, 1);
    EXPECT_EQ(runs(preset), 2u);
    EXPECT_EQ(preset.gap.ode_scheme, Scheme::euler);
  }
  EXPECT_THAT(names(quick), ElementsAre("softplus 40"));
  EXPECT_EQ(quick.train.iterations, 5000);
  EXPECT_EQ(quick.train.denoising_points, 4096);
  EXPECT_EQ(quick.train.collocation_points, 1024);
  EXPECT_EQ(quick.gap.samples, 50000);
  EXPECT_EQ(quick.grid, "paper");
  EXPECT_TRUE(quick.gap.in_detail);
  EXPECT_EQ(quick.energy_nodes, 0);
  EXPECT_THAT(names(smoke), ElementsAre("softplus 20"));
  EXPECT_EQ(smoke.train.iterations, 300);
  EXPECT_EQ(smoke.train.denoising_points, 1024);
  EXPECT_EQ(smoke.train.collocation_points, 256);
  EXPECT_EQ(smoke.gap.samples, 5000);
  EXPECT_EQ(smoke.grid, "geometric:100:1e-3");
  EXPECT_FALSE(smoke.gap.in_detail);
  EXPECT_EQ(smoke.energy_nodes, 48);
}

// softplus β: β/4; tanh: 4/(3√3), at tanh² z = 1/3; SiLU: 1/2.
TEST(NetworkActivation, KnowsItsNameAndRoughness) {
  EXPECT_EQ((NetworkActivation{Activation::softplus, 2.5}.name()), "softplus 2.5");
  EXPECT_EQ((NetworkActivation{Activation::silu, 2.5}.name()), "silu");
  EXPECT_NEAR((NetworkActivation{Activation::softplus, 20}.roughness()), 5, 5e-5);
  EXPECT_NEAR(NetworkActivation{Activation::tanh}.roughness(), 4 / (3 * std::sqrt(3.0)), 1e-5);
  EXPECT_NEAR(NetworkActivation{Activation::silu}.roughness(), 0.5, 1e-5);
}

}  // namespace
}  // namespace fokker::tools
