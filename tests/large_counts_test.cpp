// Every kernel that takes counts, where its arrays have more than 2^31 numbers, on the emulation: memory is reserved
// and never touched but for the last rows and what a block comes by, and of a launch runs the block alone that has the
// last rows. They get the bits that a launch of these rows alone gives them. An index of 32 bits takes them elsewhere.
//
// Left out: launch_sort(), which is CUB's; launch_pack_image(), whose network fits a block's shared memory; and
// launch_total(), one block of which reads all of an array: of the wide losses' chunks, 2^16 rows at most.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "emulation.hpp"
#include "fokker/sde.hpp"
#include "kernels/adaptive_launch.hpp"
#include "kernels/data_launch.hpp"
#include "kernels/data_points.hpp"
#include "kernels/form_launch.hpp"
#include "kernels/grid.hpp"
#include "kernels/loss_launch.hpp"
#include "kernels/loss_layout.hpp"
#include "kernels/mixture_launch.hpp"
#include "kernels/shared_layout.hpp"
#include "kernels/standardise_launch.hpp"
#include "kernels/training_launch.hpp"
#include "kernels/transport_launch.hpp"
#include "kernels/wide_launch.hpp"

namespace fokker::kernels {
namespace {

using Index = std::int64_t;

constexpr Index tail = 5;                              // rows that are compared
constexpr Index many = (Index{1} << 31) + tail;        // rows of few numbers
constexpr Index many_tiles = (Index{1} << 35) + tail;  // rows, of which a tile has 16
constexpr Index wide_rows = (Index{1} << 15) + tail;   // rows of wide_stride numbers
constexpr int wide_stride = 1 << 16;

std::mt19937& generator() {
  static std::mt19937 instance(7);
  return instance;
}

template <class T>
T any_number() {
  return static_cast<T>(std::uniform_real_distribution<double>(0.1, 0.9)(generator()));
}

// Numbers that read as zero and take no memory before they are written.
template <class T>
class Reserved {
 public:
  explicit Reserved(Index count) : bytes_(static_cast<std::size_t>(count) * sizeof(T)) {
    void* const memory =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    numbers_ = static_cast<T*>(memory);
  }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  ~Reserved() { munmap(numbers_, bytes_); }
  T* get() const { return numbers_; }

 private:
  std::size_t bytes_;
  T* numbers_;
};

// Of a launch of all rows, or of the last ones alone.
struct Side {
  bool whole;
  Index n, first;
};

// An array [n, columns], and one [tail, columns] that has its last rows.
template <class T>
class Rows {
 public:
  Rows(Index n, Index columns, bool filled = false)
      : columns_(columns), whole_(n * columns), last_(whole_.get() + (n - tail) * columns), part_(tail * columns) {
    for (T& v : part_) v = filled ? any_number<T>() : T(0);
    copy_part();
  }
  T* of(const Side& side) { return side.whole ? whole_.get() : part_.data(); }
  // The last rows are those of the part again.
  void copy_part() { std::copy(part_.begin(), part_.end(), last_); }
  Index columns() const { return columns_; }
  std::vector<T> last() const { return {last_, last_ + tail * columns_}; }
  const std::vector<T>& part() const { return part_; }

 private:
  Index columns_;
  Reserved<T> whole_;
  T* last_;
  std::vector<T> part_;
};
template <class T>
void expect_same(const char* name, const Rows<T>& rows, Index count = tail) {
  const auto bytes = rows.part().size() / tail * static_cast<std::size_t>(count) * sizeof(T);
  const std::vector<T> last = rows.last();
  EXPECT_EQ(std::memcmp(last.data() + (tail - count) * rows.columns(),
                        rows.part().data() + (tail - count) * rows.columns(), bytes),
            0)
      << name << " of the last rows";
  EXPECT_NE(rows.part(), std::vector<T>(last.size())) << name << " is zero";
}

// Grids are a device's: one block of many has the last items.
[[maybe_unused]] const std::int64_t on_a_device = most_item_blocks = 1 << 14;

constexpr int last_block = -1;
// The block that has one of many items, the last.
int block_of(Index item, Index items) {
  return static_cast<int>(item % (Index{one_item_a_thread(items).blocks} * item_threads) / item_threads);
}
int block_of_last(Index items) { return block_of(items - 1, items); }

// The error of a launch, or of its work when that is done.
int finished(Status status) { return status != 0 ? status : cudaDeviceSynchronize(); }

// launch(side) for all n rows, of which that block runs, and for the last rows.
template <class Launch>
void on_both_sides(Index n, int block, const Launch& launch) {
  emulation::run_only({block});
  EXPECT_EQ(finished(launch(Side{true, n, 0})), 0);
  emulation::run_only({});
  EXPECT_EQ(finished(launch(Side{false, tail, n - tail})), 0);
}

// In two dimensions.
DataSource data_source(DataKind kind, const MixtureDraw& mixture = {}) { return {kind, 2, mixture, nullptr, 0}; }

SdeFormulas sde() { return ForwardSde::defaults(SdeKind::vp_linear).formulas(); }

TrainingDraw training_draw(const DataSource& data, const std::int64_t* iteration) {
  TrainingDraw draw{};
  draw.data = data;
  draw.sde = sde();
  draw.time = {TimeLaw::uniform, 0.1f, 1, 0, nullptr};
  draw.iteration = iteration;
  draw.box = 3;
  return draw;
}

// ---- resident networks ----------------------------------------------------------------------------------------------

// A potential in two dimensions with any weights, in fp32: its image is floats.
class Resident : public ::testing::Test {
 protected:
  Resident() {
    for (float& w : image_) w = any_number<float>() - 0.5f;
    net_.image = image_.data();
  }
  int warps(Work work) const { return resident_warps(net_, work, limits_.shared_bytes); }

  ResidentMlp net_{.image = nullptr,
                   .precision = Precision::fp32,
                   .dimension = 2,
                   .hidden = 2,
                   .width = 32,
                   .outputs = 1,
                   .potential = true,
                   .activation = Activation::tanh,
                   .beta = 1};
  // Enough multiprocessors for each tile of a loss to have a block.
  DeviceLimits limits_{.multiprocessors = 1 << 30, .shared_bytes = 227 << 10};
  int block_of_last_tile() const { return static_cast<int>(((many_tiles - 1) / 16) % limits_.multiprocessors); }
  std::vector<float> image_ = std::vector<float>(static_cast<std::size_t>(image_layout(net_).bytes) / sizeof(float));
  Rows<float> t_{many_tiles, 1, true}, x_{many_tiles, 2, true};
};

TEST_F(Resident, Fields) {
  ASSERT_EQ(prepare_resident_fields(net_, Work::curvature, limits_), 0);
  Rows<float> value(many_tiles, 1), dt(many_tiles, 1), score(many_tiles, 2), divergence(many_tiles, 1),
      residual(many_tiles, 1);
  for (const int probes : {0, 2}) {
    on_both_sides(many_tiles, block_of_last_tile(), [&](const Side& side) {
      const FieldArguments a{.n = side.n,
                             .t = t_.of(side),
                             .t_stride = 1,
                             .x = x_.of(side),
                             .value = value.of(side),
                             .dt = dt.of(side),
                             .score = score.of(side),
                             .divergence = divergence.of(side),
                             .residual = residual.of(side),
                             .sde = sde(),
                             .estimate = {.probes = probes, .first_index = static_cast<std::uint64_t>(side.first)}};
      return launch_resident_fields(net_, warps(Work::curvature), a, limits_, nullptr);
    });
    expect_same("value", value);
    expect_same("dt", dt);
    expect_same("score", score);
    expect_same("divergence", divergence);
    expect_same("residual", residual);
  }
}

TEST_F(Resident, Hessian) {
  ASSERT_EQ(prepare_resident_hessian(net_, limits_), 0);
  Rows<float> direction(many_tiles, 2, true), product(many_tiles, 2), hessian(many_tiles, 4);
  for (const bool matrix : {false, true}) {
    on_both_sides(many_tiles, block_of_last_tile(), [&](const Side& side) {
      const HessianArguments a{.n = side.n,
                               .t = t_.of(side),
                               .t_stride = 1,
                               .x = x_.of(side),
                               .direction = matrix ? nullptr : direction.of(side),
                               .product = product.of(side),
                               .hessian = matrix ? hessian.of(side) : nullptr};
      return launch_resident_hessian(net_, warps(Work::hessian), a, limits_, nullptr);
    });
  }
  expect_same("product", product);
  expect_same("hessian", hessian);
}

TEST_F(Resident, PathsAndLogDensities) {
  for (const Work work : {Work::sample, Work::log_density}) {
    ASSERT_EQ(prepare_resident_sample(net_, work, false, limits_), 0);
    for (const bool stochastic : {true, false}) {
      if (stochastic && work == Work::log_density) continue;
      std::vector<Stage> stages(4, {.time = 0.5f,
                                    .node = 0.5f,
                                    .weight = 0.5f,
                                    .coefficients = {-0.1f, -0.1f, stochastic ? 0.2f : 0.0f},
                                    .trace = -0.1f});
      for (std::size_t k = 0; k < stages.size() && !stochastic; ++k) {
        stages[k].opens = k % 2 == 0, stages[k].closes = k % 2 == 1;
      }
      Rows<float> snapshots(2 * many_tiles, 2), log_density(many_tiles, 1), x(many_tiles, 2, true);
      on_both_sides(many_tiles, block_of_last_tile(), [&](const Side& side) {
        SampleArguments a{};
        a.n = side.n;
        a.x = x.of(side);
        a.stages = stages.data();
        a.steps = 2;
        a.stages_per_step = stochastic ? 1 : 2;
        a.draw_prior = stochastic;
        a.prior_deviation = 1;
        a.seed = 5;
        a.first_index = a.estimate.first_index = static_cast<std::uint64_t>(side.first);
        a.snapshot_count = work == Work::sample ? 2 : 0;
        // The last rows of all snapshots are those of the second.
        a.snapshot_steps[0] = side.whole ? 1 : 2;
        a.snapshot_steps[1] = side.whole ? 2 : 1000;
        a.snapshots = snapshots.of(side);
        a.log_density = work == Work::log_density ? log_density.of(side) : nullptr;
        a.prior_variance = 1;
        a.estimate.probes = 2;
        return launch_resident_sample(net_, warps(work), a, limits_, nullptr);
      });
      if (work == Work::sample) {
        expect_same("x", x);
        expect_same("snapshots", snapshots);
      } else {
        expect_same("log-density", log_density);
      }
    }
  }
}

// A warp a block. The last block's rows have the last places, and after their first paths take the last samples.
TEST_F(Resident, PathsWithStepsOfTheirOwn) {
  const Index places = resident_places(many_tiles, 1, limits_);
  const Reserved<AdaptiveTotals> totals(places);
  for (const Work work : {Work::adaptive_sample, Work::adaptive_log_density}) {
    ASSERT_EQ(prepare_resident_adaptive(net_, work, limits_), 0);
    const bool density = work == Work::adaptive_log_density;
    Rows<float> states(many_tiles, 2), log_density(many_tiles, 1);
    std::vector<AdaptiveTotals> own_totals(tile_rows);
    on_both_sides(many_tiles, limits_.multiprocessors - 1, [&](const Side& side) {
      unsigned long long taken = side.whole ? static_cast<unsigned long long>(many_tiles - tail - places) : 0;
      ResidentAdaptiveArguments a{};
      a.task.rule = {tsitouras(), {}, sde(), 2, density ? 3 : 2, 1, 0.5, 0.01, 0.01, 100, 1e-6};
      a.task.from = density ? x_.of(side) : nullptr;
      a.task.prior_deviation = 1;
      a.task.seed = 5;
      a.task.first_index = a.estimate.first_index = static_cast<std::uint64_t>(side.first);
      a.task.states = density ? nullptr : states.of(side);
      a.task.log_density = density ? log_density.of(side) : nullptr;
      a.task.prior_variance = 1;
      a.task.totals = side.whole ? totals.get() : own_totals.data();
      a.n = side.n;
      a.taken = &taken;
      a.estimate.probes = 2;
      const Status status = launch_resident_adaptive(net_, 1, a, limits_, nullptr);
      return finished(status);  // before `taken` is gone
    });
    if (density) {
      expect_same("log-density", log_density);
    } else {
      expect_same("states", states);
    }
    Index paths = 0;
    for (int row = 0; row < tile_rows; ++row) {
      EXPECT_EQ(own_totals[row].paths, row < tail);
      AdaptiveTotals& of_row = totals.get()[places - tile_rows + row];
      paths += std::exchange(of_row.paths, 0);
    }
    EXPECT_EQ(paths, tile_rows + tail);
  }
}

TEST_F(Resident, Losses) {
  ASSERT_EQ(prepare_resident_loss(net_, limits_), 0);
  constexpr int block_warps = 4;
  const std::vector<LayerShape> layers{{3, 32, 0}, {32, 32, 4 * 32}, {32, 1, 4 * 32 + 33 * 32}};
  std::vector<float> parameters(4 * 32 + 33 * 32 + 33), image(image_.size());
  for (float& w : parameters) w = any_number<float>() - 0.5f;
  const std::int64_t iteration = 3;
  const TrainingDraw draw = training_draw(data_source(DataKind::circles2), &iteration);

  Rows<float> target(many_tiles, 2), weight(many_tiles, 1);
  const Side part{false, tail, many_tiles - tail}, whole{true, many_tiles, 0};
  constexpr Index blocks = (many_tiles + 16 * block_warps - 1) / (16 * block_warps);
  for (const bool residual : {false, true}) {
    if (residual) {
      ASSERT_EQ(finished(launch_collocation_points(draw, part.first, tail, t_.of(part), x_.of(part), nullptr)), 0);
    } else {
      ASSERT_EQ(finished(launch_denoising_points(draw, {}, part.first, tail, t_.of(part), x_.of(part), target.of(part),
                                                 weight.of(part), nullptr)),
                0);
    }
    for (const auto& rows : {&t_, &x_, &target, &weight}) rows->copy_part();
    // The last block's two sums.
    const auto sums = [&](const Side& side, bool drawn) {
      const Reserved<double> partial_values(2 * blocks);
      double values[3];
      LossTask task{};
      task.parameters = parameters.data();
      task.points = draw;
      if (!drawn) task.points.iteration = nullptr;
      (residual ? task.points.collocation_points : task.points.denoising_points) = side.n;
      task.denoising_t = task.collocation_t = t_.of(side);
      task.denoising_x = task.collocation_x = x_.of(side);
      task.denoising_target = target.of(side);
      task.denoising_weight = weight.of(side);
      task.residual_weight = 1;
      task.values = values;
      task.layers = layers.data();
      task.image = image.data();
      task.partial_values = partial_values.get();
      if (side.whole) emulation::run_only({last_block});
      EXPECT_EQ(finished(launch_resident_loss(net_, {}, block_warps, &task, 1, limits_, nullptr)), 0);
      emulation::run_only({});
      const double* const of_block = partial_values.get() + (side.whole ? 2 * (blocks - 1) : 0);
      return std::vector<double>{of_block[0], of_block[1]};
    };
    const std::vector<double> expected = sums(part, false);  // which leaves the image
    EXPECT_GT(expected[residual], 0.0);
    EXPECT_EQ(sums(whole, false), expected);
    EXPECT_EQ(sums(whole, true), expected);
  }
}

// ---- draws ----------------------------------------------------------------------------------------------------------

// Sources in two dimensions.
struct Sources {
  std::vector<float> thresholds{0.4f}, means{1, 2, 3, 4}, deviations{0.5f, 0.25f}, factors{1, 0, 0.5f, 1, 2, 0, 1, 1};
  DataSource planar = data_source(DataKind::checker);
  DataSource isotropic =
      data_source(DataKind::mixture, {2, thresholds.data(), means.data(), deviations.data(), nullptr});
  DataSource full = data_source(DataKind::mixture, {2, thresholds.data(), means.data(), nullptr, factors.data()});
};

void expect_same_draws(const DataSource& data, int block) {
  Rows<float> out(many, 2);
  on_both_sides(many, block, [&](const Side& side) {
    return launch_draw(data, {side.n, 5, static_cast<std::uint64_t>(side.first), 2, out.of(side)}, nullptr);
  });
  expect_same("draws", out);
}

TEST(Draws, OfData) {
  const Sources sources;
  expect_same_draws(sources.planar, block_of_last(many));
  expect_same_draws(sources.isotropic, block_of_last(many));
  expect_same_draws(sources.full, static_cast<int>((many - 1) / 256 % (1 << 14)));  // 256 points a block
}

// Every sample is its own number.
TEST(Draws, OfManySamples) {
  const Reserved<float> samples(2 * many);
  const DataSource data{DataKind::samples, 2, {}, samples.get(), static_cast<std::uint64_t>(many)};
  std::vector<float> expected, out(2 * 1000);
  Index largest = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const Index chosen = chosen_of(data, {5, i, 2});
    largest = std::max(largest, chosen);
    for (Index j = 0; j < 2; ++j) {
      expected.push_back(static_cast<float>(chosen % 1000003 + j));
      samples.get()[2 * chosen + j] = expected.back();
    }
  }
  EXPECT_GT(2 * largest, Index{1} << 31);
  EXPECT_EQ(finished(launch_draw(data, {1000, 5, 0, 2, out.data()}, nullptr)), 0);
  EXPECT_EQ(out, expected);
}

TEST(Draws, OfTrainingPoints) {
  const Sources sources;
  const std::int64_t iteration = 3;
  for (const DataSource* data : {&sources.planar, &sources.isotropic, &sources.full}) {
    for (const int condition : {0, 1}) {  // of the two columns
      TrainingDraw draw = training_draw(*data, &iteration);
      draw.condition = condition;
      draw.condition_drop = 0.3f;
      const int d = draw.dimension();
      Rows<float> t(many, 1), x(many, d), target(many, d), weight(many, 1), y(many, 1);
      on_both_sides(many, block_of_last(many), [&](const Side& side) {
        return launch_denoising_points(draw, {}, side.first, side.n, t.of(side), x.of(side), target.of(side),
                                       weight.of(side), nullptr, y.of(side));
      });
      expect_same("t", t);
      expect_same("x", x);
      expect_same("target", target);
      expect_same("weight", weight);
      if (condition > 0) expect_same("condition", y);
      if (data != &sources.planar) continue;
      Rows<float> uniform_t(many, 1), uniform_x(many, d), uniform_y(many, 1);
      on_both_sides(many, block_of_last(many), [&](const Side& side) {
        return launch_collocation_points(draw, side.first, side.n, uniform_t.of(side), uniform_x.of(side), nullptr,
                                         uniform_y.of(side));
      });
      expect_same("t of collocation", uniform_t);
      expect_same("x of collocation", uniform_x);
      if (condition > 0) expect_same("condition of collocation", uniform_y);
    }
  }
}

// ---- integrators ----------------------------------------------------------------------------------------------------

TEST(Integrators, Prior) {
  Rows<float> x(many, 2);
  on_both_sides(many, block_of_last(many), [&](const Side& side) {
    return launch_prior(x.of(side), side.n, 2, 0.5f, 5, static_cast<std::uint64_t>(side.first), nullptr);
  });
  expect_same("x", x);
}

TEST(Integrators, Stages) {
  for (const bool stochastic : {true, false}) {
    for (const bool last : {true, false}) {
      // A thread of the flow has a coordinate, and of the first n the point's log-density.
      for (const bool log : {true, false}) {
        if (stochastic && log) continue;
        const Index d = log ? 1 : 2;
        Rows<float> score(many, d, true), divergence(many, 1, true), x(many, d, true), stage_x(many, d, true),
            sum(many, d, true);
        Rows<double> log_density(many, 1, true);
        on_both_sides(many, block_of_last(stochastic ? many : many * d), [&](const Side& side) {
          StageArguments a{};
          a.n = side.n;
          a.dimension = static_cast<int>(d);
          a.stage = {.time = 0.5f,
                     .node = 0.5f,
                     .weight = 0.5f,
                     .coefficients = {-0.1f, -0.1f, stochastic ? 0.2f : 0.0f},
                     .trace = -0.1f,
                     .opens = false,
                     .closes = last};
          a.seed = 5;
          a.first_index = static_cast<std::uint64_t>(side.first);
          a.score = score.of(side);
          a.divergence = divergence.of(side);
          a.x = x.of(side);
          a.stage_x = stage_x.of(side);
          a.sum = sum.of(side);
          a.next_node = 0.25f;
          a.log_density = log ? log_density.of(side) : nullptr;
          return launch_stage(a, nullptr);
        });
        expect_same("x", x);
        expect_same("stage_x", stage_x);
        expect_same("sum", sum);
        expect_same("log-density", log_density);
      }
    }
  }
}

TEST(Integrators, Lift) {
  Rows<float> x(many, 2, true);
  on_both_sides(many, block_of_last(many), [&](const Side& side) {
    StageArguments a{};
    a.n = side.n;
    a.dimension = 2;
    a.stage.lift = -0.1f, a.stage.lift_noise = 0.2f;
    a.seed = 5;
    a.first_index = static_cast<std::uint64_t>(side.first);
    a.x = x.of(side);
    return launch_lift(a, nullptr);
  });
  expect_same("x", x);
}

TEST(Integrators, PriorLogDensity) {
  Rows<float> x(wide_rows, wide_stride, true), out(wide_rows, 1);
  Rows<double> integral(wide_rows, 1, true);
  on_both_sides(wide_rows, block_of_last(32 * wide_rows), [&](const Side& side) {
    return launch_prior_log_density(x.of(side), integral.of(side), out.of(side), side.n, wide_stride, 1.0, nullptr);
  });
  expect_same("log-density", out);
}

TEST(Integrators, Scaled) {
  Rows<float> x(many, 1, true), out(many, 1, true);
  on_both_sides(many, block_of_last(many),
                [&](const Side& side) { return launch_scaled(x.of(side), 0.3f, true, side.n, out.of(side), nullptr); });
  expect_same("out", out);
}

// From the first evaluation of each path to its end, which some ten more lead to.
TEST(Integrators, AdaptivePaths) {
  constexpr Index rows = 6;  // of numbers: a state, a point and four slopes
  Rows<float> from(many, 1, true), time(many, 1), input(many, 1), output(many, 1, true), states(many, 1);
  const Reserved<AdaptivePlace> places(many);
  const Reserved<AdaptiveTotals> totals(many);
  const Reserved<double> numbers(rows * many);
  std::vector<AdaptivePlace> own_places(tail);
  std::vector<AdaptiveTotals> own_totals(tail);
  std::vector<double> own_numbers(rows * tail);
  unsigned long long ended = 0, own_ended = 0;
  for (int evaluation = 0; evaluation < 20; ++evaluation) {
    on_both_sides(many, block_of_last(many), [&](const Side& side) {
      AdaptiveArguments<float> a{};
      a.task.rule = {bogacki_shampine(), {}, sde(), 1, 1, 1, 0.9, 1, 1, 100, 1e-15};
      a.task.from = from.of(side);
      a.task.states = states.of(side);
      a.task.totals = side.whole ? totals.get() : own_totals.data();
      a.begin = evaluation == 0;
      a.places = side.n;
      a.limit = side.n;
      a.place = side.whole ? places.get() : own_places.data();
      a.numbers = side.whole ? numbers.get() : own_numbers.data();
      a.time = time.of(side);
      a.input = input.of(side);
      a.output = output.of(side);
      a.finished = side.whole ? &ended : &own_ended;
      return launch_advance_paths(a, nullptr);
    });
    expect_same("time", time);
    expect_same("input", input);
  }
  expect_same("states", states);
  EXPECT_EQ(own_ended, static_cast<unsigned long long>(tail));
}

// ---- standardised columns -------------------------------------------------------------------------------------------

template <class T>
class Standardised : public ::testing::Test {};
using ColumnNumbers = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Standardised, ColumnNumbers);

TYPED_TEST(Standardised, ColumnsAndTraces) {
  using T = TypeParam;
  const std::vector<double> mean{3, -2, 0.5}, deviation{2, 0.25, 7};
  Rows<T> from(many, 3, true), to(many, 3);
  const auto arguments = [&](const Side& side) {
    return StandardiseArguments<T>{.n = side.n,
                                   .columns = 3,
                                   .mean = mean.data(),
                                   .deviation = deviation.data(),
                                   .from = from.of(side),
                                   .to = to.of(side)};
  };
  // Of the last rows all numbers are one block's.
  on_both_sides(many, block_of_last(3 * many),
                [&](const Side& side) { return launch_standardise<T>(arguments(side), nullptr); });
  expect_same("z", to);
  if constexpr (sizeof(T) == 4) {
    on_both_sides(many, block_of_last(3 * many),
                  [&](const Side& side) { return launch_restore(arguments(side), nullptr); });
    expect_same("x", to);
  }
  Rows<T> matrices(many, 9, true), traces(many, 1);
  on_both_sides(many, block_of_last(many), [&](const Side& side) {
    return launch_weighted_traces<T>({.n = side.n,
                                      .dimension = 3,
                                      .weights = deviation.data(),
                                      .matrices = matrices.of(side),
                                      .traces = traces.of(side)},
                                     nullptr);
  });
  expect_same("traces", traces);
}

// ---- forms ----------------------------------------------------------------------------------------------------------

template <class T>
class Forms : public ::testing::Test {};
using FormNumbers = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Forms, FormNumbers);

TYPED_TEST(Forms, PointsFieldsAndDerivatives) {
  using T = TypeParam;
  Rows<T> t(many, 1, true), x(many, 2, true), target(many, 2, true), weight(many, 1, true), net_t(many, 1),
      net_x(many, 2), net_target(many, 2), net_weight(many, 1);
  const auto points_of = [&](const Side& side) {
    return FormPoints<T>{.n = side.n,
                         .dimension = 2,
                         .form = {.form = Form::edm, .time_input = TimeInput::log_sigma},
                         .sde = sde(),
                         .t = t.of(side),
                         .t_stride = 1,
                         .x = x.of(side)};
  };
  on_both_sides(many, block_of_last(many), [&](const Side& side) {
    return launch_network_points<T>({.points = points_of(side),
                                     .target = target.of(side),
                                     .weight = weight.of(side),
                                     .net_t = net_t.of(side),
                                     .net_x = net_x.of(side),
                                     .net_target = net_target.of(side),
                                     .net_weight = net_weight.of(side)},
                                    nullptr);
  });
  expect_same("net_t", net_t);
  expect_same("net_x", net_x);
  expect_same("net_target", net_target);
  expect_same("net_weight", net_weight);

  Rows<T> net_value(many, 1, true), net_dt(many, 1, true), net_score(many, 2, true), net_divergence(many, 1, true),
      value(many, 1), dt(many, 1), score(many, 2), divergence(many, 1), residual(many, 1);
  on_both_sides(many, block_of_last(many), [&](const Side& side) {
    return launch_form_fields<T>({.points = points_of(side),
                                  .net_value = net_value.of(side),
                                  .net_dt = net_dt.of(side),
                                  .net_score = net_score.of(side),
                                  .net_divergence = net_divergence.of(side),
                                  .value = value.of(side),
                                  .dt = dt.of(side),
                                  .score = score.of(side),
                                  .divergence = divergence.of(side),
                                  .residual = residual.of(side)},
                                 nullptr);
  });
  expect_same("value", value);
  expect_same("dt", dt);
  expect_same("score", score);
  expect_same("divergence", divergence);
  expect_same("residual", residual);

  Rows<T> direction(many, 2, true), product(many, 2, true), jacobian(many, 4, true);
  on_both_sides(many, block_of_last(many), [&](const Side& side) {
    return launch_form_derivative<T>(
        {.points = points_of(side), .direction = direction.of(side), .derivative = product.of(side)}, nullptr);
  });
  on_both_sides(many, block_of_last(2 * many), [&](const Side& side) {
    return launch_form_derivative<T>({.points = points_of(side), .direction = nullptr, .derivative = jacobian.of(side)},
                                     nullptr);
  });
  expect_same("product", product);
  expect_same("jacobian", jacobian);
}

// ---- mixtures -------------------------------------------------------------------------------------------------------

template <class T>
class Mixture : public ::testing::Test {};
using Numbers = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Mixture, Numbers);

TYPED_TEST(Mixture, Fields) {
  using T = TypeParam;
  const std::vector<double> means{1, 2, -1, 0.5}, eigenvalues{1, 1, 2, 0.5}, log_weights{-0.7, -0.7},
      rotations{0.6, 0.8, -0.8, 0.6}, rotated_means{1, 2, -0.2, 1.1};
  const std::vector<std::int32_t> rotation{-1, 0}, isotropic{1, 0};
  const MixtureParameters mixture{.dimension = 2,
                                  .components = 2,
                                  .means = means.data(),
                                  .eigenvalues = eigenvalues.data(),
                                  .rotated_means = rotated_means.data(),
                                  .log_weights = log_weights.data(),
                                  .rotation = rotation.data(),
                                  .rotations = rotations.data(),
                                  .isotropic = isotropic.data(),
                                  .rotated = true,
                                  .sde = sde()};
  constexpr Index slots = Index{1} << 28;  // whose scratch has as many numbers, and more
  const Reserved<double> scratch(mixture_scratch(mixture) * slots);
  double log_norm[2];
  Rows<T> t(many, 1, true), x(many, 2, true), direction(many, 2, true), value(many, 1), dt(many, 1), score(many, 2),
      divergence(many, 1), hessian(many, 4), residual(many, 1), product(many, 2);
  for (const int probes : {0, 2}) {
    on_both_sides(many, static_cast<int>((many - 1) % slots / 128), [&](const Side& side) {
      const MixtureArguments<T> a{
          .n = side.n,
          .t = t.of(side),
          .t_stride = 1,
          .x = x.of(side),
          .value = value.of(side),
          .dt = dt.of(side),
          .score = score.of(side),
          .divergence = divergence.of(side),
          .hessian = hessian.of(side),
          .residual = residual.of(side),
          .direction = direction.of(side),
          .product = product.of(side),
          .estimate = {.probes = probes, .first_index = static_cast<std::uint64_t>(side.first)}};
      return launch_mixture(mixture, {scratch.get(), slots, log_norm}, a, nullptr);
    });
    expect_same("value", value);
    expect_same("dt", dt);
    expect_same("score", score);
    expect_same("divergence", divergence);
    expect_same("hessian", hessian);
    expect_same("residual", residual);
    expect_same("product", product);
  }
}

// ---- statistics of samples ------------------------------------------------------------------------------------------

TEST(Statistics, Histogram) {
  // Zero is in the middle of a grid with an odd number of nodes; the last samples are at another node.
  for (const Index nodes : {Index{3}, Index{301}}) {
    const Reserved<float> x(2 * many);
    for (Index i = 2 * (many - tail); i < 2 * many; ++i) x.get()[i] = 0.9f;
    std::vector<unsigned long long> counts(static_cast<std::size_t>(nodes * nodes));
    // In shared memory a block of the 1024 counts; of many nodes, every block where they are.
    const int blocks = nodes == 3 ? 1024 : one_item_a_thread(many).blocks;
    emulation::run_only({static_cast<int>((many - 1) % (blocks * item_threads) / item_threads)});
    const double per_node = static_cast<double>(nodes - 1) / 2;
    const HistogramArguments a{.n = many,
                               .x = x.get(),
                               .nodes = nodes,
                               .axes = {{-1, 1, per_node}, {-1, 1, per_node}},
                               .counts = counts.data()};
    EXPECT_EQ(finished(launch_histogram(a, nullptr)), 0);
    emulation::run_only({});
    const Index nearest = std::lround(1.9 * static_cast<double>(nodes - 1) / 2);
    EXPECT_EQ(counts[static_cast<std::size_t>(nodes * nearest + nearest)], static_cast<unsigned long long>(tail));
    EXPECT_EQ(counts[static_cast<std::size_t>(nodes * nodes / 2)],
              static_cast<unsigned long long>(((many - 1) / (blocks * item_threads)) * item_threads));
  }
}

TEST(Statistics, InsideAndProjection) {
  Rows<float> x(many, 2, true);
  Rows<unsigned char> inside(many, 1);
  unsigned long long counts[2] = {};
  on_both_sides(many, block_of_last(many), [&](const Side& side) {
    return launch_inside({side.n, 2, x.of(side), nullptr}, 0.5, inside.of(side), &counts[side.whole], nullptr);
  });
  expect_same("inside", inside);
  EXPECT_EQ(counts[1] - counts[0], static_cast<unsigned long long>(
                                       (many - 1) / (one_item_a_thread(many).blocks * item_threads) * item_threads));

  const double direction[] = {0.6, 0.8};
  Rows<double> out(many, 1);
  on_both_sides(many, block_of_last(many), [&](const Side& side) {
    return launch_project({side.n, 2, x.of(side), inside.of(side)}, direction, out.of(side), nullptr);
  });
  expect_same("projection", out);
}

TEST(Statistics, Directions) {
  const Reserved<double> directions(wide_rows * wide_stride);
  emulation::run_only({block_of_last(32 * wide_rows)});
  EXPECT_EQ(finished(launch_directions(directions.get(), static_cast<int>(wide_rows), wide_stride, 5, nullptr)), 0);
  emulation::run_only({});
  for (Index row = wide_rows - tail; row < wide_rows; ++row) {
    const double* const v = directions.get() + row * wide_stride;
    double square = 0;
    for (Index j = 0; j < wide_stride; ++j) square += v[j] * v[j];
    EXPECT_NEAR(square, 1.0, 1e-12) << row;
  }
}

// The quantile function of p is 0 but for its last steps, that of q but for its last of three; there both are 2.
TEST(Statistics, QuantileDistance) {
  const Reserved<double> p(many), q(3);
  for (Index i = many - tail; i < many; ++i) p.get()[i] = 2;
  q.get()[2] = 2;
  const int parts = quantile_parts(many), last = static_cast<int>((many - 1) % (parts * item_threads) / item_threads);
  std::vector<double> sums(static_cast<std::size_t>(parts));
  emulation::run_only({last});
  EXPECT_EQ(finished(launch_quantile_distance(p.get(), many, q.get(), 3, sums.data(), nullptr)), 0);
  emulation::run_only({});
  Index apart = 0;  // of the block's steps, none of which is in two of q's
  for (Index first = last * item_threads; first < many - tail; first += parts * item_threads) {
    if (3 * first >= 2 * many) apart += std::min<Index>(item_threads, many - tail - first);
  }
  EXPECT_EQ(sums[static_cast<std::size_t>(last)], 3.0 * 4 * static_cast<double>(apart));
}

// All samples but the last are outside.
TEST(Statistics, Moments) {
  const Reserved<float> x(2 * many);
  const Reserved<unsigned char> inside(many);
  for (Index i = many - tail; i < many; ++i) {
    inside.get()[i] = 1;
    x.get()[2 * i] = 3;
    x.get()[2 * i + 1] = 5;
  }
  const double mean[] = {1, 1};
  for (const bool products : {false, true}) {
    const int entries = products ? 4 : 2, parts = moment_parts(many, entries),
              part = static_cast<int>((many - 1) % (parts * item_threads) / item_threads);
    std::vector<double> sums(static_cast<std::size_t>(parts * entries));
    emulation::run_only({part * entries + 1});  // the second coordinate; the product of both
    const Samples samples{many, 2, x.get(), inside.get()};
    EXPECT_EQ(finished(products ? launch_products(samples, mean, sums.data(), nullptr)
                                : launch_sums(samples, sums.data(), nullptr)),
              0);
    emulation::run_only({});
    EXPECT_EQ(sums[static_cast<std::size_t>(part * entries + 1)], products ? 2.0 * 4 * tail : 5.0 * tail);
  }
}

// ---- the loss's values and the update --------------------------------------------------------------------------------

// The last of the parts has the last numbers.
TEST(Losses, SquaresOfManyDerivatives) {
  const Reserved<float> gradient(many);
  for (Index i = many - tail; i < many; ++i) gradient.get()[i] = 3;
  const double sums[2] = {1, 2};
  double values[3];
  const std::int64_t iteration = 3;
  GradientSquares squares{};
  emulation::run_only({last_block});
  EXPECT_EQ(finished(launch_loss_values({.sums = sums,
                                         .denoising_count = 1,
                                         .residual_count = 1,
                                         .residual_weight = 1,
                                         .values = values,
                                         .squares = &squares,
                                         .parameter_count = many,
                                         .gradient = gradient.get(),
                                         .iteration = &iteration},
                                        nullptr)),
            0);
  emulation::run_only({});
  EXPECT_EQ(squares.parts[most_square_parts - 1], 9.0 * tail);
}

TEST(Update, OfManyParameters) {
  const Reserved<UpdatePlan> plan(1);
  plan.get()->first = 3;
  plan.get()->steps[0] = {AdamStep(0.1, 2, 1), false, 0.5};
  const Reserved<UpdateReport> report(1);
  GradientSquares squares{.iteration = 3, .count = 1, .parts = {4.0}};
  const double values[3] = {1, 2, 3};
  Rows<float> parameters(many, 1, true), first_moment(many, 1, true), second_moment(many, 1, true),
      gradient(many, 1, true);
  Rows<double> average(many, 1, true);
  on_both_sides(many, static_cast<int>((many - 1) % (4096 * item_threads) / item_threads), [&](const Side& side) {
    const UpdateTask task{.parameter_count = side.n,
                          .parameters = parameters.of(side),
                          .first_moment = first_moment.of(side),
                          .second_moment = second_moment.of(side),
                          .average = average.of(side),
                          .gradient = gradient.of(side),
                          .values = values,
                          .squares = &squares,
                          .clip_norm = 0,
                          .plan = plan.get(),
                          .report = report.get()};
    return launch_update(&task, 1, side.n, nullptr);
  });
  expect_same("parameters", parameters);
  expect_same("first moment", first_moment);
  expect_same("second moment", second_moment);
  expect_same("average", average);
}

// ---- wide networks --------------------------------------------------------------------------------------------------

// Rows of three units, far apart; a warp has a row.
template <class T>
class Wide : public ::testing::Test {
 protected:
  static constexpr int width = 3;

  struct Operand {
    Rows<Half> halves{wide_rows, 3 * Index{wide_stride}};
    Rows<float> unscale{wide_rows, 1};
    float matrix = 0.5f;

    HalfOperand of(const Side& side) {
      return sizeof(T) == 8 ? HalfOperand{} : HalfOperand{halves.of(side), unscale.of(side), &matrix, 3};
    }
    void expect_same_on_both_sides() const {
      if (sizeof(T) == 8) return;
      expect_same("halves", halves);
      expect_same("unscale", unscale);
    }
  };

  static Rows<T> numbers() { return {wide_rows, wide_stride, true}; }
  template <class Launch>
  static void on_both_sides_by_warps(const Launch& launch) {
    on_both_sides(wide_rows, block_of_last(32 * wide_rows), launch);
  }
};
TYPED_TEST_SUITE(Wide, Numbers);

// An item is a number of the rows: the block has the first numbers of the last one.
TYPED_TEST(Wide, Input) {
  using T = TypeParam;
  Rows<T> t(wide_rows, 1, true), x(wide_rows, 3, true), input(wide_rows, wide_stride);
  on_both_sides(wide_rows, block_of((wide_rows - 1) * wide_stride, wide_rows * wide_stride), [&](const Side& side) {
    return launch_input(InputArguments<T>{side.n, 3, wide_stride, t.of(side), 1, x.of(side), input.of(side)}, nullptr);
  });
  expect_same("input", input, 1);
}

TYPED_TEST(Wide, Probes) {
  using T = TypeParam;
  Rows<T> input(wide_rows, wide_stride);
  on_both_sides(wide_rows, block_of_last(wide_rows), [&](const Side& side) {
    const ProbeArguments<T> a{side.n,
                              3,
                              wide_stride,
                              {.probes = 2, .law = ProbeLaw::gaussian},
                              static_cast<std::uint64_t>(side.first),
                              1,
                              input.of(side)};
    return launch_probe(a, nullptr);
  });
  expect_same("input", input);
}

TYPED_TEST(Wide, Activation) {
  using T = TypeParam;
  auto z = this->numbers(), d1 = this->numbers(), d2 = this->numbers(), d3 = this->numbers();
  const std::vector<T> bias{1, 2, 3};
  Rows<float> unscale(wide_rows, 1, true);
  typename TestFixture::Operand operand;
  this->on_both_sides_by_warps([&](const Side& side) {
    const ActivationArguments<T> a{side.n,           this->width, wide_stride, z.of(side),  bias.data(),
                                   unscale.of(side), d1.of(side), d2.of(side), d3.of(side), operand.of(side)};
    return launch_activation(Activation::tanh, 1, a, nullptr);
  });
  expect_same("z", z);
  expect_same("d1", d1);
  expect_same("d2", d2);
  expect_same("d3", d3);
  operand.expect_same_on_both_sides();
}

TYPED_TEST(Wide, Reverse) {
  using T = TypeParam;
  auto p = this->numbers(), d1 = this->numbers(), d2 = this->numbers(), curvature = this->numbers(),
       d3 = this->numbers(), source = this->numbers(), delta = this->numbers();
  Rows<float> unscale(wide_rows, 1, true);
  typename TestFixture::Operand operand;
  this->on_both_sides_by_warps([&](const Side& side) {
    const ReverseArguments<T> a{side.n,           this->width,    wide_stride,     p.of(side),         wide_stride,
                                unscale.of(side), d1.of(side),    d2.of(side),     curvature.of(side), d3.of(side),
                                source.of(side),  delta.of(side), operand.of(side)};
    return launch_reverse(a, nullptr);
  });
  expect_same("curvature", curvature);
  expect_same("d3", d3);
  expect_same("delta", delta);
  operand.expect_same_on_both_sides();
}

TYPED_TEST(Wide, Tangent) {
  using T = TypeParam;
  auto z = this->numbers(), factor = this->numbers(), curvature = this->numbers(), curved = this->numbers(),
       unscaled = this->numbers(), to = this->numbers();
  Rows<float> unscale(wide_rows, 1, true);
  Rows<T> trace(wide_rows, 1, true);
  typename TestFixture::Operand operand;
  this->on_both_sides_by_warps([&](const Side& side) {
    const TangentArguments<T> a{side.n,
                                1,
                                this->width,
                                wide_stride,
                                {z.of(side), wide_stride, 0, 1, unscale.of(side)},
                                factor.of(side),
                                curvature.of(side),
                                trace.of(side),
                                T(0.5),
                                false,
                                curved.of(side),
                                unscaled.of(side),
                                to.of(side),
                                operand.of(side)};
    return launch_tangent(a, nullptr);
  });
  expect_same("trace", trace);
  expect_same("curved", curved);
  expect_same("unscaled", unscaled);
  expect_same("to", to);
  operand.expect_same_on_both_sides();
}

TYPED_TEST(Wide, AxisAdjoint) {
  using T = TypeParam;
  auto p = this->numbers(), z = this->numbers(), d1 = this->numbers(), d2 = this->numbers(),
       curvature = this->numbers(), source = this->numbers(), squares = this->numbers(), alpha = this->numbers();
  Rows<float> unscale(wide_rows, 1, true);
  Rows<T> weight(wide_rows, 1, true);
  typename TestFixture::Operand operand;
  this->on_both_sides_by_warps([&](const Side& side) {
    const AxisAdjointArguments<T> a{side.n,
                                    this->width,
                                    wide_stride,
                                    p.of(side),
                                    unscale.of(side),
                                    z.of(side),
                                    wide_stride,
                                    1,
                                    d1.of(side),
                                    d2.of(side),
                                    curvature.of(side),
                                    weight.of(side),
                                    source.of(side),
                                    squares.of(side),
                                    false,
                                    alpha.of(side),
                                    operand.of(side)};
    return launch_axis_adjoint(a, nullptr);
  });
  expect_same("source", source);
  expect_same("squares", squares);
  expect_same("alpha", alpha);
  operand.expect_same_on_both_sides();
}

TYPED_TEST(Wide, SeedTangent) {
  using T = TypeParam;
  auto u = this->numbers(), d1 = this->numbers(), curvature = this->numbers(), d2 = this->numbers(),
       d3 = this->numbers(), squares = this->numbers(), source = this->numbers(), to = this->numbers();
  Rows<float> unscale(wide_rows, 1, true);
  typename TestFixture::Operand operand, source_operand;
  this->on_both_sides_by_warps([&](const Side& side) {
    const SeedTangentArguments<T> a{side.n,
                                    this->width,
                                    wide_stride,
                                    u.of(side),
                                    unscale.of(side),
                                    d1.of(side),
                                    curvature.of(side),
                                    squares.of(side),
                                    d2.of(side),
                                    d3.of(side),
                                    source.of(side),
                                    false,
                                    to.of(side),
                                    operand.of(side),
                                    source_operand.of(side)};
    return launch_seed_tangent(a, nullptr);
  });
  expect_same("source", source);
  expect_same("to", to);
  operand.expect_same_on_both_sides();
  source_operand.expect_same_on_both_sides();
}

TYPED_TEST(Wide, Add) {
  using T = TypeParam;
  auto from = this->numbers(), more = this->numbers(), to = this->numbers();
  Rows<float> unscale(wide_rows, 1, true);
  typename TestFixture::Operand operand;
  this->on_both_sides_by_warps([&](const Side& side) {
    const AddArguments<T> a{side.n,        this->width, wide_stride, from.of(side),   unscale.of(side),
                            more.of(side), wide_stride, to.of(side), operand.of(side)};
    return launch_add(a, nullptr);
  });
  expect_same("to", to);
  operand.expect_same_on_both_sides();
}

TYPED_TEST(Wide, RowDots) {
  using T = TypeParam;
  auto a = this->numbers(), b = this->numbers(), out = this->numbers();
  this->on_both_sides_by_warps([&](const Side& side) {
    return launch_row_dots(RowDotArguments<T>{side.n, this->width, a.of(side), wide_stride, b.of(side), wide_stride,
                                              out.of(side), wide_stride},
                           nullptr);
  });
  expect_same("out", out, 1);
}

TYPED_TEST(Wide, Columns) {
  using T = TypeParam;
  auto from = this->numbers();
  const std::vector<T> bias{1, 2, 3};
  Rows<T> out(wide_rows, 3);
  on_both_sides(wide_rows, block_of_last(3 * wide_rows), [&](const Side& side) {
    return launch_columns(ColumnArguments<T>{side.n, 3, wide_stride, from.of(side), bias.data(), out.of(side)},
                          nullptr);
  });
  expect_same("out", out);
}

TYPED_TEST(Wide, Jacobian) {
  using T = TypeParam;
  constexpr int d = 256;
  auto column = this->numbers(), directions = this->numbers();
  Rows<T> divergence(wide_rows, 1), jacobian(wide_rows, d * d);
  on_both_sides(wide_rows, block_of_last(wide_rows), [&](const Side& side) {
    JacobianArguments<T> a;
    a.rows = side.n;
    a.dimension = d;
    a.stride = a.directions_stride = wide_stride;
    a.column = column.of(side);
    a.axis = 7;
    a.directions = directions.of(side);
    a.divergence = divergence.of(side);
    a.jacobian = jacobian.of(side);
    return launch_jacobian(a, nullptr);
  });
  expect_same("divergence", divergence);
  expect_same("jacobian", jacobian);
}

TYPED_TEST(Wide, ResidualAndMisfit) {
  using T = TypeParam;
  auto gradient = this->numbers(), seed = this->numbers(), misfit_seed = this->numbers();
  Rows<T> trace(wide_rows, 1, true), other_trace(wide_rows, 1, true), t(wide_rows, 1, true), x(wide_rows, 3, true),
      residual(wide_rows, 1), weight(wide_rows, 1), other_weight(wide_rows, 1), target(wide_rows, 3, true);
  Rows<double> square(wide_rows, 1), loss(wide_rows, 1);
  const std::vector<T> bias{1, 2, 3};
  on_both_sides(wide_rows, block_of_last(wide_rows), [&](const Side& side) {
    ResidualArguments<T> a{side.n,
                           3,
                           wide_stride,
                           gradient.of(side),
                           trace.of(side),
                           t.of(side),
                           1,
                           x.of(side),
                           sde(),
                           residual.of(side),
                           square.of(side),
                           0.5,
                           seed.of(side),
                           wide_stride,
                           weight.of(side)};
    a.other_trace = other_trace.of(side), a.other_weight = other_weight.of(side);
    if (const Status status = launch_residual(a, nullptr)) return status;
    const MisfitArguments<T> b{
        side.n,          3,   gradient.of(side), wide_stride,          bias.data(), target.of(side),
        weight.of(side), 0.5, loss.of(side),     misfit_seed.of(side), wide_stride, true};
    return launch_misfit(b, nullptr);
  });
  expect_same("residual", residual);
  expect_same("square", square);
  expect_same("seed", seed);
  expect_same("weight", weight);
  expect_same("other weight", other_weight);
  expect_same("loss", loss);
  expect_same("seed of the misfit", misfit_seed);
}

// All blocks, of rows that are zero but for the last, whose sums are exact.
TYPED_TEST(Wide, ColumnSum) {
  using T = TypeParam;
  const Reserved<T> from(wide_rows * wide_stride), partial(3 * most_column_parts);
  for (Index row = wide_rows - tail; row < wide_rows; ++row) {
    for (Index c = 0; c < 3; ++c) from.get()[row * wide_stride + c] = static_cast<T>(1 + c);
  }
  std::vector<T> to(3, T(10));
  const ColumnSumArguments<T> a{wide_rows, 3, wide_stride, from.get(), to.data(), 1, partial.get()};
  EXPECT_EQ(finished(launch_column_sum(a, nullptr)), 0);
  EXPECT_EQ(to, (std::vector<T>{10 + tail, 10 + 2 * tail, 10 + 3 * tail}));
}

TEST(WideMatrix, Pack) {
  Rows<float> w(wide_rows, wide_stride, true), largest(wide_rows, 1);
  Rows<Half> forward(wide_rows, 3 * Index{wide_stride});
  const Reserved<Half> reverse(3 * wide_rows * wide_stride);
  std::vector<Half> reverse_part(3 * tail * wide_stride);
  float unscale;
  on_both_sides(wide_rows, block_of_last(32 * wide_rows), [&](const Side& side) {
    return launch_pack({side.n, wide_stride, side.n, wide_stride, w.of(side), wide_stride, 3, largest.of(side),
                        forward.of(side), side.whole ? reverse.get() : reverse_part.data(), &unscale},
                       nullptr);
  });
  expect_same("largest", largest);
  expect_same("forward", forward);
  EXPECT_EQ(std::memcmp(reverse.get() + (3 * wide_rows - tail) * wide_stride,
                        reverse_part.data() + 2 * tail * wide_stride, tail * wide_stride * sizeof(Half)),
            0);
}

// The block has the last eight axes of the last point.
TEST(WideMatrix, HessianSum) {
  constexpr int d = 64;
  constexpr Index points = (Index{1} << 31) / (d * d) + tail;
  Rows<float> z(points, wide_stride, true), curvature(points, wide_stride, true), hessian(points, d * d, true);
  on_both_sides(points, block_of_last(32 * points * d), [&](const Side& side) {
    const HessianSumArguments<float> a{
        side.n,          d, 3, wide_stride, {z.of(side), wide_stride, 3, 1, nullptr}, curvature.of(side), false,
        hessian.of(side)};
    return launch_hessian_sum(a, nullptr);
  });
  const std::vector<float> last = hessian.last();
  for (std::size_t i = last.size() - 8 * d; i < last.size(); ++i) EXPECT_EQ(last[i], hessian.part()[i]) << i;
}

}  // namespace
}  // namespace fokker::kernels
