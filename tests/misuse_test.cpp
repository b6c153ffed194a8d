// The public API used wrongly: every call ends in an Error of one sentence and changes nothing, or does its work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
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

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using testing::message_of;

constexpr std::int64_t huge = std::int64_t{1} << 62;
constexpr int most_int = std::numeric_limits<int>::max();

Context cpu() { return Context({.backend = BackendKind::cpu, .threads = 2}); }
Architecture small_network() { return {.dimension = 2, .hidden = {7, 5}, .beta = 5}; }
Model network() { return {ForwardSde(), Mlp::initialise(small_network(), 1)}; }
TimeGrid grid() { return TimeGrid::uniform(10, 0, 3); }
TrainOptions few() { return {.iterations = 3, .denoising_points = 8}; }

// The sentence of an Error, which fits in three lines.
std::string refusal(const std::function<void()>& call) {
  std::string text = message_of(call);
  EXPECT_LE(text.size(), 300u) << text;
  return text;
}

// ------------------------------------------------------------------------------------------- kinked activations

// What takes second derivatives of a potential net is refused where σ′ of its activation jumps, and nothing else is.
TEST(Misuse, SecondDerivativesOfAKinkedPotential) {
  const Context context = cpu();
  std::vector<float> t(1, 0.5f), x(2, 0.25f), one(1), two(2), four(4);
  std::vector<double> values(3);
  const Points<float> points{.t = View<const float>(t), .x = View<const float>(x, 2)};
  const DataSet data = DataSet::named("blob");
  // Calls that take second derivatives, of a network.
  const auto calls = [&](const Architecture& a) {
    const Model model{ForwardSde(), Mlp::initialise(a, 1)};
    const auto evaluate = [=, &context](const FieldOutputs<float>& outputs) {
      return [=, &context] { Fields<float>(context, model).evaluate(points, outputs); };
    };
    const auto loss = [=, &context, &values](std::int64_t n, std::int64_t m, bool with_gradient) {
      return [=, &context, &values] {
        const std::vector<float> parameters(static_cast<std::size_t>(a.parameter_count()), 0.1f);
        std::vector<float> gradient(parameters.size());
        const View<const float> times(points.t.data, n), states(points.x.data, n, 2);
        Loss<float>(context, a, model.sde)
            .evaluate(View<const float>(parameters), {times, states, states},
                      {View<const float>(points.t.data, m), View<const float>(points.x.data, m, 2)}, 1, View(values),
                      with_gradient ? View(gradient) : View<float>());
      };
    };
    const bool potential = a.output == Output::potential;
    std::vector<std::pair<const char*, std::function<void()>>> list{
        {"the divergence", evaluate({.divergence = View(one)})},
        {"the Hessian", evaluate({.hessian = View(four, 4)})},
        {"the Hessian times a vector",
         [=, &context, &two] { Fields<float>(context, model).hessian_vector(points, points.x, View(two, 2)); }},
        {"the log-density", [=, &context, &one] { Sampler(context, model, grid()).log_density(points.x, View(one)); }},
        {"a loss's gradient", loss(1, 0, true)},
        {"training", [=, &context] { Trainer(context, model, data, few()); }}};
    if (potential) {
      list.push_back({"the residual", evaluate({.residual = View(one)})});
      list.push_back({"the residual", loss(0, 1, false)});
    }
    return list;
  };
  for (const ActivationTraits& traits : Activations::traits) {
    for (const double parameter : {traits.parameter.usual, 1.0, 0.5}) {
      for (const Output output : {Output::potential, Output::score}) {
        const Architecture a{
            .dimension = 2, .hidden = {7, 5}, .activation = traits.activation, .beta = parameter, .output = output};
        SCOPED_TRACE(a.describe());
        const bool kinked = traits.activation == Activation::relu || traits.activation == Activation::leaky_relu ||
                            traits.activation == Activation::elu || traits.activation == Activation::selu;
        for (const auto& [what, call] : calls(a)) {
          if (kinked && output == Output::potential) {
            EXPECT_THAT(refusal(call), AllOf(HasSubstr(std::string(what) + " is asked for of a potential net of"),
                                             HasSubstr(traits.name), HasSubstr("σ′ or σ″ jumps at 0"),
                                             HasSubstr("allowed: a smooth activation")));
          } else {
            EXPECT_NO_THROW(call()) << what;
          }
        }
        // These take first derivatives.
        const Model model{ForwardSde(), Mlp::initialise(a, 1)};
        EXPECT_NO_THROW(Fields<float>(context, model).evaluate(points, {.score = View(two, 2)}));
        EXPECT_NO_THROW(Sampler(context, model, grid()).sample(View(two, 2)));
      }
    }
  }
}

// -------------------------------------------------------------------------------------------------------- shapes

// No rows of no columns, and no negative ones, of any memory.
TEST(Misuse, ViewsOfNoShape) {
  const Context context = cpu();
  std::vector<float> numbers(12, 0.5f);
  const Fields<float> fields(context, network());
  const Sampler sampler(context, network(), grid());
  const DataSet data = DataSet::named("circles2");
  const std::vector<std::pair<std::int64_t, std::int64_t>> shapes{{3, 0},   {3, -1},   {-3, 2},
                                                                  {-1, -1}, {huge, 2}, {2, huge}};
  for (const auto& [rows, columns] : shapes) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << columns);
    const View<float> view(numbers.data(), rows, columns);
    const View<const float> read = view;
    refusal([&] { DataSet::samples(context, read); });
    refusal([&] { data.draw(context, view, 1); });
    refusal([&] { histogram(context, read); });
    refusal([&] { count_escaped(context, read); });
    refusal([&] { moments(context, read); });
    refusal([&] { sliced_w2_squared(context, read, read); });
    refusal([&] { sampler.sample(view); });
    refusal([&] { sampler.integrate(view); });
    refusal([&] { sampler.log_density(read, View<float>(numbers.data(), 3)); });
    refusal([&] { fields.evaluate({.t = View<const float>(numbers.data(), 1), .x = read}, {.score = view}); });
    if (columns != 0) refusal([&] { copy(context, read, view); });
  }
  EXPECT_THAT(numbers, Each(0.5f));
  for (const std::int64_t columns : {0, -1}) {
    EXPECT_THAT(refusal([&] { View<float>(numbers, columns); }), HasSubstr("allowed: 1 or more"));
    EXPECT_THAT(refusal([&] { DataSet::samples(numbers, columns); }), HasSubstr("allowed: 1 to 262140"));
  }
  // A buffer may be empty, and a law of it is none.
  EXPECT_THAT(refusal([&] { empirical_law(context, Buffer<float>(context, 3, 0)); }), HasSubstr("[3, 0]"));
  EXPECT_THAT(refusal([&] { Buffer<float>(context, huge, 2); }), HasSubstr("fit in memory"));
}

// Counts that no memory holds and no one waits for.
TEST(Misuse, CountsOutOfRange) {
  const Context context = cpu();
  const Model model = network();
  const std::vector<double> point{0.5, 0.5};
  const View<const double> x(point, 2);
  std::vector<float> two(2), one(1);
  const Points<float> points{.t = View<const float>(one), .x = View<const float>(two, 2)};
  for (const int probes : {-1, 65537, most_int}) {
    EXPECT_THAT(
        refusal([&] { Fields<float>(context, model).evaluate(points, {.divergence = View(one)}, {.probes = probes}); }),
        HasSubstr("allowed: 0 to 65536"));
    EXPECT_THAT(refusal([&] {
                  Sampler(context, model, grid())
                      .log_density(View<const float>(two, 2), View(one), Scheme::heun, {.probes = probes});
                }),
                HasSubstr("allowed: 0 to 65536"));
  }
  const std::vector<std::function<void(std::int64_t)>> counts{
      [&](std::int64_t n) { sde_log_density(context, model, 0, x, {.paths = n}); },
      [&](std::int64_t n) { sde_log_density(context, model, 0, x, {.steps = n}); },
      [&](std::int64_t n) { residual_statistics(context, model, {.times = n}); },
      [&](std::int64_t n) { residual_statistics(context, model, {.points = n}); },
      [&](std::int64_t n) { radial_slopes(context, model, 1, {.directions = n}); },
      [&](std::int64_t n) { EnergyOptions{.samples = n}.validate(); },
      [&](std::int64_t n) { EnergyOptions{.paths = n}.validate(); },
      [&](std::int64_t n) { EnergyOptions{.nodes = n}.validate(); },
      [&](std::int64_t n) { UpperBoundOptions{.samples = n}.validate(); },
      [&](std::int64_t n) { UpperBoundOptions{.box_points = n}.validate(); },
      [&](std::int64_t n) { TrainOptions{.iterations = n}.validate(); },
      [&](std::int64_t n) { TrainOptions{.denoising_points = n}.validate(); },
      [&](std::int64_t n) { TrainOptions{.collocation_points = n}.validate(); },
      [&](std::int64_t n) { noise_floor(context, DataSet::named("blob"), n, 1); },
      [&](std::int64_t n) { ground_truth(context, DataSet::named("blob"), {.samples = n}); },
      [&](std::int64_t n) { Buffer<double>(context, n); },
      [&](std::int64_t n) { DataSet::samples(two, n); },
  };
  for (std::size_t k = 0; k < counts.size(); ++k) {
    SCOPED_TRACE(k);
    for (const std::int64_t n : {std::int64_t{-1}, -huge, huge}) refusal([&] { counts[k](n); });
  }
  for (const int n : {-1, 0, most_int}) {
    SCOPED_TRACE(n);
    refusal([&] { sliced_w2_squared(context, View<const float>(two, 2), View<const float>(two, 2), n); });
    refusal([&] { TimeGrid::uniform(10, 0, n); });
    refusal([&] { TimeGrid::geometric(10, 1, n); });
    refusal([&] { EnergyOptions{.path_steps = n}.validate(); });
    refusal([&] { EnergyOptions{.times = n}.validate(); });
  }
  for (const int threads : {-1, 1025, most_int}) refusal([&] { Context({.threads = threads}); });
}

TEST(Misuse, ArchitecturesAndTensorsThatCannotBeCounted) {
  const Architecture network = small_network();
  for (const std::int64_t layer : {std::int64_t{-1}, std::int64_t{3}, std::int64_t{99}, huge}) {
    EXPECT_THAT(refusal([&] { network.inputs(layer); }), HasSubstr("allowed: 0 to 2"));
    EXPECT_THAT(refusal([&] { network.outputs(layer); }), HasSubstr("allowed: 0 to 2"));
  }
  EXPECT_EQ(network.weight_offset(3), network.parameter_count());
  for (const std::int64_t layer : {std::int64_t{-1}, std::int64_t{4}, huge}) {
    EXPECT_THAT(refusal([&] { network.weight_offset(layer); }), HasSubstr("allowed: 0 to 3"));
  }
  EXPECT_THAT(refusal([&] { network.bias_offset(3); }), HasSubstr("allowed: 0 to 2"));
  Architecture wide = network;
  wide.hidden = {huge, huge};
  EXPECT_THAT(refusal([&] { wide.parameter_count(); }), HasSubstr("width"));
  wide = network;
  wide.dimension = -5;
  EXPECT_THAT(refusal([&] { wide.parameter_count(); }), HasSubstr("dimension -5"));
  wide = network;
  wide.hidden.clear();
  EXPECT_THAT(refusal([&] { wide.parameter_count(); }), HasSubstr("0 hidden layers"));

  for (const std::vector<std::int64_t>& shape : std::vector<std::vector<std::int64_t>>{{huge, 4}, {-1}, {2, -3}}) {
    EXPECT_THAT(refusal([&] { (void)Tensor{.shape = shape}.size(); }), HasSubstr("cannot have the shape"));
    EXPECT_THAT(refusal([&] { Tensor::from_float(shape, nullptr); }), HasSubstr("cannot have the shape"));
  }
  EXPECT_EQ((Tensor{.shape = {huge, 0}}.size()), 0);
  EXPECT_THAT(refusal([] { Tensor::from_float({2, 3}, nullptr); }), HasSubstr("no numbers"));
  EXPECT_THAT(refusal([] { Tensor::from_double({1}, nullptr); }), HasSubstr("no numbers"));
  EXPECT_THAT(refusal([] { Tensor::from_int64({1}, nullptr); }), HasSubstr("no numbers"));
  EXPECT_EQ(Tensor::from_float({0, 3}, nullptr).size(), 0);
}

// -------------------------------------------------------------------------------------------------------- memory

// An output that shares memory with anything else of a call is refused, by whatever byte.
TEST(Misuse, OutputsThatOverlap) {
  const Context context = cpu();
  std::vector<float> memory(400, 0.25f);
  const auto at = [&](std::int64_t first, std::int64_t rows, std::int64_t columns) {
    return View<float>(memory.data() + first, rows, columns);
  };
  const View<float> t = at(0, 3, 1), x = at(3, 3, 2);
  const Points<float> points{.t = t, .x = x};
  const Fields<float> fields(context, network());
  const auto expect_shared = [&](const std::function<void()>& call) {
    EXPECT_THAT(refusal(call), HasSubstr("share memory"));
  };
  expect_shared([&] { fields.evaluate(points, {.score = x}); });
  expect_shared([&] { fields.evaluate(points, {.score = at(8, 3, 2)}); });
  expect_shared([&] { fields.evaluate(points, {.value = t}); });
  expect_shared([&] { fields.evaluate(points, {.value = at(50, 3, 1), .dt = at(52, 3, 1)}); });
  expect_shared([&] { fields.evaluate(points, {.hessian = at(50, 3, 4), .residual = at(61, 3, 1)}); });
  expect_shared([&] { fields.hessian_vector(points, at(50, 3, 2), at(50, 3, 2)); });
  expect_shared([&] { fields.hessian_vector(points, at(50, 3, 2), x); });

  const Sampler sampler(context, network(), grid());
  expect_shared([&] { sampler.sample(at(50, 3, 2), {.snapshot_steps = {1, 3}, .snapshots = at(55, 6, 2)}); });
  expect_shared([&] { sampler.integrate(at(50, 3, 2), {.snapshot_steps = {1}, .snapshots = at(50, 3, 2)}); });
  expect_shared([&] { sampler.log_density(at(50, 3, 2), at(53, 3, 1)); });

  const Architecture architecture = small_network();
  const Loss<float> loss(context, architecture, ForwardSde());
  const std::int64_t count = architecture.parameter_count();
  std::vector<double> values(3);
  const DenoisingBatch<float> denoising{.t = t, .x = x, .target = at(9, 3, 2)};
  const View<float> parameters = at(20, count, 1);
  expect_shared([&] { loss.evaluate(parameters, denoising, {}, 0, View(values), parameters); });
  expect_shared([&] { loss.evaluate(parameters, denoising, {}, 0, View(values), at(10, count, 1)); });
  expect_shared([&] { loss.evaluate(at(120, count, 1), {}, {.t = t, .x = x}, 1, View(values), at(8, count, 1)); });
  expect_shared([&] {
    loss.evaluate(at(120, count, 1), denoising, {}, 0, View<double>(reinterpret_cast<double*>(memory.data() + 4), 3),
                  {});
  });

  expect_shared([&] { copy(context, x, x); });
  expect_shared([&] { copy(context, at(50, 3, 2), at(52, 3, 2)); });
  expect_shared([&] { copy(context, at(52, 3, 2), at(50, 3, 2)); });
  EXPECT_THAT(memory, Each(0.25f));

  // Neighbours share nothing, and inputs may share all.
  copy(context, at(50, 3, 2), at(56, 3, 2));
  fields.evaluate({.t = t, .x = x}, {.value = at(9, 3, 1), .score = at(12, 3, 2)});
  fields.hessian_vector({.t = t, .x = x}, x, at(50, 3, 2));
  loss.evaluate(parameters, {.t = t, .x = x, .target = x}, {}, 0, View(values), at(20 + count, count, 1));
}

// ---------------------------------------------------------------------------------------------- moved-from objects

// Each is moved from, and used in every way that there is.
TEST(Misuse, MovedFrom) {
  const Context context = cpu();
  std::vector<float> numbers(6, 0.5f), one(3);
  const View<float> x(numbers, 2), t(one);
  const auto expect_moved = [](const char* type, const std::vector<std::function<void()>>& uses) {
    for (std::size_t k = 0; k < uses.size(); ++k) {
      EXPECT_THAT(refusal(uses[k]), AllOf(HasSubstr(type), HasSubstr("moved from"))) << k;
    }
  };
  Fields<float> fields(context, network());
  Fields<float> other_fields = std::move(fields);
  expect_moved("Fields", {[&] { fields.evaluate({.t = t, .x = x}, {}); },  // NOLINT(bugprone-use-after-move)
                          [&] { fields.hessian_vector({.t = t, .x = x}, x, x); }, [&] { fields.workspace_bytes(); }});
  fields = std::move(other_fields);
  fields.evaluate({.t = t, .x = x}, {});

  Sampler sampler(context, network(), grid());
  const Sampler other_sampler = std::move(sampler);
  expect_moved("Sampler", {[&] { sampler.sample(x); }, [&] { sampler.integrate(x); },  // NOLINT
                           [&] { sampler.log_density(x, t); }, [&] { sampler.workspace_bytes(); }});
  EXPECT_EQ(sampler.grid().steps(), 3);  // NOLINT

  Loss<float> loss(context, small_network(), ForwardSde());
  const Loss<float> other_loss = std::move(loss);
  std::vector<double> values(3);
  expect_moved("Loss", {[&] { loss.evaluate({}, {}, {}, 0, View(values), {}); },  // NOLINT
                        [&] { loss.workspace_bytes(); }});

  Trainer trainer(context, network(), DataSet::named("blob"), few());
  std::vector<Trainer> trainers;
  trainers.push_back(std::move(trainer));
  expect_moved("Trainer", {[&] { trainer.run(1); }, [&] { trainer.iteration(); }, [&] { trainer.options(); },  // NOLINT
                           [&] { trainer.model(); }, [&] { trainer.save_state("nowhere"); },
                           [&] { trainer.run(1, [](const TrainingNews&) { return true; }); }});
  TrainingGroup group(std::move(trainers));
  for (const std::size_t k : {std::size_t{1}, std::size_t{99}, ~std::size_t{0}}) {
    EXPECT_THAT(refusal([&] { (void)group[k]; }), HasSubstr("a group of 1"));
  }
  TrainingGroup other_group = std::move(group);
  expect_moved("TrainingGroup", {[&] { group.run(1); }, [&] { group.size(); }, [&] { (void)group[0]; },  // NOLINT
                                 [&] { group.release(); }});
  EXPECT_EQ(other_group.release().size(), 1u);

  Buffer<float> buffer(context, 3, 2);
  const Buffer<float> other_buffer = std::move(buffer);
  EXPECT_EQ(buffer.data(), nullptr);  // NOLINT
  EXPECT_EQ(buffer.size(), 0);
  EXPECT_THAT(refusal([&] { copy(context, other_buffer, buffer); }), HasSubstr("allowed: two views of one shape"));

  // These are copied instead.
  Context moved_context = context;
  const Context other_context = std::move(moved_context);
  EXPECT_EQ(moved_context.threads(), 2);  // NOLINT
  DataSet data = DataSet::named("blob");
  const DataSet other_data = std::move(data);
  std::vector<float> drawn(6), drawn_too(6);
  data.draw(context, View(drawn, 2), 3);  // NOLINT
  other_data.draw(context, View(drawn_too, 2), 3);
  EXPECT_EQ(drawn, drawn_too);
  TimeGrid times = grid();
  const TimeGrid other_times = std::move(times);
  EXPECT_EQ(times.times(), other_times.times());  // NOLINT

  // Plain values that are empty then.
  GaussianMixture mixture = GaussianMixture::isotropic(2, {1}, {0, 0}, {1});
  const GaussianMixture other_mixture = std::move(mixture);
  EXPECT_THAT(refusal([&] { DataSet::mixture(mixture); }), HasSubstr("without components"));  // NOLINT
  EXPECT_THAT(refusal([&] { Sampler(context, {ForwardSde(), mixture}, grid()); }), HasSubstr("no components"));
  Model model = network();
  const Model other_model = std::move(model);
  EXPECT_THAT(refusal([&] { Sampler(context, model, grid()); }), HasSubstr("0 hidden layers"));  // NOLINT
  EXPECT_THAT(refusal([&] { w2_squared(context, EmpiricalLaw{}, EmpiricalLaw{}); }), HasSubstr("finite sample"));
  EXPECT_THAT(refusal([&] { measure_gap(context, network(), GroundTruth{}, grid(), {.samples = 9}); }),
              HasSubstr("must be the same"));
}

}  // namespace
}  // namespace fokker
