// What a user writes compiles without a warning, and what would dangle or drop numbers does not compile or throws.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fokker/diagnostics/energy.hpp"
#include "fokker/diagnostics/radial_slopes.hpp"
#include "fokker/diagnostics/residual_statistics.hpp"
#include "fokker/diagnostics/sde_density.hpp"
#include "fokker/diagnostics/upper_bound.hpp"
#include "fokker/fokker.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using Doubles = std::vector<double>;
using Three = std::array<double, 3>;

template <class View, class Range>
constexpr bool is_made_of = std::is_constructible_v<View, Range>&& std::is_constructible_v<View, Range, std::int64_t>;

// Vectors, arrays and spans that have a name, of the entries that the view has.
static_assert(is_made_of<View<double>, Doubles&> && is_made_of<View<const double>, Doubles&>);
static_assert(is_made_of<View<const double>, const Doubles&> && !is_made_of<View<double>, const Doubles&>);
static_assert(is_made_of<View<double>, Three&> && is_made_of<View<const double>, const Three&>);
static_assert(is_made_of<View<double>, std::span<double>> && is_made_of<View<const double>, std::span<double>>);
static_assert(!is_made_of<View<double>, const Three&> && !is_made_of<View<double>, std::span<const double>>);
static_assert(!std::is_constructible_v<View<double>, std::vector<float>&> &&
              !std::is_constructible_v<View<const double>, std::vector<float>&>);
// No temporary that would be gone before the view is used.
template <class View, class Range>
constexpr bool is_refused = !std::is_constructible_v<View, Range> && !std::is_constructible_v<View, Range, int>;
static_assert(is_refused<View<double>, Doubles> && is_refused<View<const double>, Doubles>);
static_assert(is_refused<View<const double>, const Doubles> && is_refused<View<const double>, const Three>);
static_assert(is_refused<View<double>, Three> && is_refused<View<const double>, Three>);
// A view may lose the right to write, and does not gain it.
static_assert(std::is_convertible_v<View<double>, View<const double>>);
static_assert(!std::is_constructible_v<View<double>, View<const double>>);
static_assert(!std::is_constructible_v<View<const double>, View<const float>>);
static_assert(std::is_trivially_copyable_v<View<double>> && std::is_trivially_copyable_v<View<const double>>);
// A buffer is one owner's, and stands for its view.
static_assert(!std::is_copy_constructible_v<Buffer<float>> && !std::is_copy_assignable_v<Buffer<float>>);
static_assert(std::is_nothrow_move_constructible_v<Buffer<float>> && std::is_nothrow_move_assignable_v<Buffer<float>>);
static_assert(std::is_convertible_v<Buffer<float>&, View<float>>);
static_assert(std::is_convertible_v<Buffer<float>&, View<const float>>);
static_assert(std::is_convertible_v<const Buffer<float>&, View<const float>>);
static_assert(!std::is_convertible_v<const Buffer<float>&, View<float>>);
static_assert(!std::is_convertible_v<Buffer<float>, View<float>> &&
              !std::is_convertible_v<Buffer<float>, View<const float>>);

TEST(Views, DeduceTheirEntries) {
  Doubles v{1, 2, 3, 4, 5, 6};
  const Doubles& constant = v;
  Three a{1, 2, 3};
  const std::span<const double, 2> two(v.data(), 2);
  static_assert(std::is_same_v<decltype(View(v)), View<double>>);
  static_assert(std::is_same_v<decltype(View(v, 2)), View<double>>);
  static_assert(std::is_same_v<decltype(View(constant)), View<const double>>);
  static_assert(std::is_same_v<decltype(View(a)), View<double>>);
  static_assert(std::is_same_v<decltype(View(std::as_const(a))), View<const double>>);
  static_assert(std::is_same_v<decltype(View(two)), View<const double>>);
  static_assert(std::is_same_v<decltype(View(v.data(), 3, 2)), View<double>>);
  static_assert(std::is_same_v<decltype(View(View(v))), View<double>>);
  const View rows(v, 2);
  EXPECT_THAT((std::array{rows.rows, rows.columns, rows.size()}), ElementsAre(3, 2, 6));
  EXPECT_EQ(rows.data, v.data());
  EXPECT_EQ(rows.device, Device::cpu);
  EXPECT_EQ(View(a).rows, 3);
}

TEST(Views, HoldWholeRows) {
  Doubles v{1, 2, 3, 4, 5}, none;
  EXPECT_THAT(message_of([&] { View(v, 2); }), HasSubstr("5 numbers in rows of 2"));
  for (const std::int64_t columns : {0, -1}) {
    EXPECT_THAT(message_of([&] { View<const double>(v, columns); }), HasSubstr("allowed: 1 or more"));
    EXPECT_THAT(message_of([&] { View<const double>(none, columns); }), HasSubstr("allowed: 1 or more"));
  }
  EXPECT_EQ(View(none, 3).rows, 0);
  EXPECT_EQ(View(none, 3).columns, 3);
}

TEST(Views, HaveSlicesOfTheirRows) {
  Doubles v{1, 2, 3, 4, 5, 6};
  const View rows(v, 2);
  const View last = rows.slice(1, 2);
  EXPECT_EQ(last.data, v.data() + 2);
  EXPECT_THAT((std::array{last.rows, last.columns}), ElementsAre(2, 2));
  EXPECT_EQ(rows.slice(3, 0).rows, 0);
  EXPECT_EQ(View<double>().slice(0, 0).data, nullptr);
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{1, 3}, {4, 0}, {-1, 1}, {0, -1}}) {
    EXPECT_THAT(message_of([&, first = first, count = count] { rows.slice(first, count); }), HasSubstr("3 rows"));
  }
}

TEST(Buffers, MoveAndAreCopiedByCopy) {
  const Context context(BackendKind::cpu);
  Buffer<float> first(context, 3, 2), second(context, 3, 2);
  for (std::int64_t i = 0; i < 6; ++i) first.data()[i] = float(i);
  copy(context, first, second);
  EXPECT_EQ(second.data()[5], 5);
  std::vector<float> host(6);
  copy(context, second, View(host, 2));
  EXPECT_THAT(host, ElementsAre(0, 1, 2, 3, 4, 5));
  host[0] = 7;
  copy(context, View(host, 2), first);
  copy(context, std::as_const(first), second);
  EXPECT_EQ(second.data()[0], 7);

  const float* data = second.data();
  Buffer<float> moved = std::move(second);
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(second.rows(), 0);  // NOLINT: what is left is an empty buffer
  EXPECT_EQ(second.data(), nullptr);
  first = std::move(moved);
  EXPECT_EQ(first.data(), data);
  EXPECT_EQ(moved.size(), 0);  // NOLINT
}

TEST(Calls, TakeTheirDefaults) {
  const Context context(BackendKind::cpu);
  const Model model{ForwardSde::ou(), GaussianMixture::isotropic(1, {1.0}, {0.0}, {1.0})};
  const Sampler sampler(context, model, TimeGrid::uniform(10, 1, 3));
  Buffer<float> samples(context, 5);
  sampler.sample(samples);
  sampler.integrate(samples.view());
  const Doubles t{0.5}, x{0.75};
  Doubles score{0};
  Fields<double>(context, model).evaluate({.t = View(t), .x = View(x)}, {.score = View(score)});
  EXPECT_LT(score[0], 0);
}

// Compiled with -Wextra as an error: one member is named, and none of the others is missed.
TEST(Aggregates, AreMadeByNamingAMember) {
  Doubles v{1};
  const Points<double> points{.x = View(v)};
  const FieldOutputs<double> outputs{.score = View(v)};
  const DenoisingBatch<double> denoising{.t = View(v)};
  const CollocationBatch<double> collocation{.t = View(v)};
  EXPECT_EQ(points.x.data, outputs.score.data);
  EXPECT_EQ(denoising.t.data, collocation.t.data);
  EXPECT_EQ((ContextOptions{.threads = 2}).threads, 2);
  EXPECT_EQ((BackendStatus{.available = true}).name, "");
  EXPECT_EQ((KernelPlan{.device = "a"}).detail, "");
  EXPECT_EQ((SampleOptions{.seed = 3}).first_index, 0u);
  EXPECT_EQ((Divergence{.probes = 3}).seed, 0u);
  EXPECT_EQ((Architecture{.dimension = 3}).beta, 100);
  EXPECT_EQ((Mlp{.architecture = {.dimension = 3}}).parameters.size(), 0u);
  EXPECT_EQ((Model{.sde = ForwardSde::ve()}).sde.kind(), SdeKind::ve);
  EXPECT_EQ((TrainOptions{.iterations = 3}).box, 3.5);
  EXPECT_EQ((TrainRecord{.iteration = 3}).rate, 0);
  EXPECT_EQ((TrainingNews{.trainer = 3}).stopped, nullptr);
  EXPECT_EQ((Grid{.n = 3}).x.low, -3.5);
  EXPECT_EQ((Grid{.y = {.high = 7}}).y.low, -3.5);
  EXPECT_EQ((Histogram{.inside = 3}).outside, 0);
  EXPECT_EQ((Moments{.count = 3}).left_out, 0);
  EXPECT_EQ((TransportResult{.w2_squared = 3}).dual_value, 0);
  EXPECT_EQ((EmpiricalLaw{.dimension = 3}).escaped, 0);
  EXPECT_EQ((GapOptions{.samples = 3}).seed, 0u);
  EXPECT_EQ((SlicedGap{.samples = 3}).noise_floor, 0);
  EXPECT_EQ((GapState{.sde = {.drawn = 3}}).ode.drawn, 0);
  EXPECT_EQ((ResidualOptions{.seed = 3}).box, 3.5);
  EXPECT_EQ((Estimate{.value = 3}).step_error, 0);
  EXPECT_EQ((RadialSlopeOptions{.seed = 3}).seed, 3u);
  EXPECT_EQ((RadialSlopes{.time = 3}).reason, "");
  EXPECT_EQ((SdeDensityOptions{.seed = 3}).common_paths, false);
  EXPECT_EQ((SdeDensity{.log_density = {3}}).tail_index.size(), 0u);
  EXPECT_EQ((EnergyOptions{.seed = 3}).nodes, 0);
  EXPECT_EQ((Energy{.times = {3}}).warnings.size(), 0u);
  EXPECT_EQ((EnergyIdentity{.kl_end = {.value = 3}}).kl_prior.value, 0);
  EXPECT_EQ((UpperBoundOptions{.seed = 3}).box, 3.5);
  EXPECT_EQ((UpperBound{.times = {3}}).warnings.size(), 0u);
  EXPECT_EQ((Array{.shape = {3}}).data.size(), 0u);
  EXPECT_EQ((Tensor{.dtype = "F64"}).bytes.size(), 0u);
  EXPECT_EQ((SafeTensors{.metadata = {{"a", "b"}}}).tensors.size(), 0u);
}

}  // namespace
}  // namespace fokker
