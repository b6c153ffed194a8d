// Conditions: the one given once for all against the one given with each point, standardised ones, training from rows of
// x and y, dropping, and what is refused. That fields, losses, samples and states with the points' own conditions are right
// is shown beside those without, in their own tests.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fields_reference.hpp"
#include "fokker/context.hpp"
#include "fokker/data.hpp"
#include "fokker/error.hpp"
#include "fokker/fields.hpp"
#include "fokker/loss.hpp"
#include "fokker/sampler.hpp"
#include "fokker/trainer.hpp"
#include "networks.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::all_of;
using testing::Bound;
using testing::conditional_networks;
using testing::evaluate;
using testing::Expected;
using ::testing::HasSubstr;
using testing::make_problem;
using testing::model_of;
using testing::Problem;

const Context& cpu() {
  static const Context context({BackendKind::cpu, 2});
  return context;
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Every point of the problem with the condition of the first.
Problem with_one_condition(Problem p) {
  for (std::int64_t i = 1; i < p.n(); ++i) {
    std::copy_n(p.row(0) + p.d, p.c, &p.x[static_cast<std::size_t>(i * (p.d + p.c) + p.d)]);
  }
  return p;
}

// What holds the rows' x alone.
Problem without_conditions(const Problem& p) {
  return {p.d, p.t, testing::columns_of(p.x, p.d + p.c, 0, p.d), p.direction, 0};
}

TEST(OneConditionForAll, GivesTheFieldsOfPointsThatHaveIt) {
  for (const Output output : {Output::potential, Output::score}) {
    for (const auto& [name, a] : conditional_networks(output)) {
      SCOPED_TRACE(name);
      const Model model = model_of(a, SdeKind::vp_linear, 5);
      const Problem p = with_one_condition(make_problem(a.dimension, model.sde, 19, false, 6, a.condition.inputs));
      const std::vector<double> y(p.row(0) + p.d, p.row(0) + p.d + p.c);
      const Model given = with_condition(model, y);
      EXPECT_EQ(given.condition(), 0);
      const Expected expected = testing::reference(model, p), deviations = testing::rounding_deviations(model, p);
      const auto actual = evaluate(Fields<double>(cpu(), given), without_conditions(p), all_of(output));
      std::size_t at = 0;
      testing::for_each_quantity<double>(
          actual, [&](testing::Quantity q, const char* field, const std::vector<double>& v) {
            const std::vector<double>& e = *testing::quantities(expected)[at];
            const std::vector<double>& d =
                q == testing::residual ? deviations.residual_in_double : *testing::quantities(deviations)[at];
            ++at;
            EXPECT_TRUE(agrees(v, e, testing::rounding<double>(d, p.n(), e, testing::both_sides))) << field;
          });
    }
  }
}

TEST(OneConditionForAll, WithoutItIsThatOfZerosForTheNetwork) {
  const Architecture a = conditional_networks(Output::score)[3].architecture;
  Model model = model_of(a, SdeKind::vp_linear, 5);
  const auto parameters = [](const Model& m) { return std::get<Mlp>(m.network).parameters; };
  EXPECT_EQ(parameters(without_condition(model)), parameters(with_condition(model, {0, 0, 0})));
  model.standardisation = {{0, 0, 7, -2, 0.5}, {1, 1, 2, 4, 1}};
  EXPECT_EQ(parameters(without_condition(model)), parameters(with_condition(model, {7, -2, 0.5})));
  EXPECT_EQ(without_condition(model).standardisation, (Standardisation{{0, 0}, {1, 1}}));
  // What takes no condition stays as it is.
  const Model given = without_condition(model);
  EXPECT_EQ(parameters(with_condition(given, {})), parameters(given));
  EXPECT_EQ(parameters(without_condition(given)), parameters(given));
}

// x = mean + deviation z of both: fields at (x, y) are those of z at its own points, in the units of x.
TEST(StandardisedConditions, AreThoseOfTheNetworkInUnitsOfTheirOwn) {
  for (const auto& [name, a] : conditional_networks(Output::score)) {
    if (a.dimension != 2) continue;
    SCOPED_TRACE(name);
    const Model plain = model_of(a, SdeKind::vp_linear, 5);
    Model model = plain;
    Standardisation& s = model.standardisation;
    for (std::int64_t i = 0; i < 2 + a.condition.inputs; ++i) {
      s.mean.push_back(3 - 2 * static_cast<double>(i));
      s.deviation.push_back(i < 2 ? 4 : 0.25 * static_cast<double>(i));
    }
    const Problem p = make_problem(2, plain.sde, 19, false, 6, a.condition.inputs);
    Problem of_x = p;
    for (std::size_t k = 0; k < p.x.size(); ++k) {
      const std::size_t i = k % s.mean.size();
      of_x.x[k] = s.mean[i] + s.deviation[i] * p.x[k];
    }
    const unsigned wanted = testing::score | testing::divergence;
    const auto z = evaluate(Fields<double>(cpu(), plain), p, wanted);
    const auto x = evaluate(Fields<double>(cpu(), model), of_x, wanted);
    std::vector<double> score = z.score, divergence = z.divergence;
    for (double& v : score) v /= 4;
    for (double& v : divergence) v /= 16;
    // Roundings of x and y, and of sums of up to 30 terms in four layers.
    const Bound bound{.of_rms = 1e-12, .norm = 1e-12};
    EXPECT_TRUE(agrees(x.score, score, bound));
    EXPECT_TRUE(agrees(x.divergence, divergence, bound));

    const std::vector<double> y(of_x.row(0) + 2, of_x.row(0) + 2 + p.c);
    const Problem one = with_one_condition(of_x);
    const auto own = evaluate(Fields<double>(cpu(), model), one, wanted);
    const auto given = evaluate(Fields<double>(cpu(), with_condition(model, y)), without_conditions(one), wanted);
    EXPECT_TRUE(agrees(given.score, own.score, bound));
    EXPECT_TRUE(agrees(given.divergence, own.divergence, bound));
  }
}

// Samples and log-densities of each sample's own condition are those of the model that was given it.
TEST(SampledConditions, AreThoseOfTheModelGivenThem) {
  const Architecture a = conditional_networks(Output::score)[3].architecture;
  Model model = model_of(a, SdeKind::vp_linear, 5);
  model.standardisation = {{1, 2, 7, -2, 0.5}, {2, 2, 2, 4, 1}};
  const TimeGrid grid = TimeGrid::uniform(1, 0.01, 20);
  const std::int64_t n = 700;
  std::vector<float> x(2 * n), condition(3 * n), log_density(n);
  const std::vector<std::vector<double>> given = {{7, -1, 0}, {9.5, 3, 1}};
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) condition[3 * i + j] = static_cast<float>(given[i % 2][j]);
  }
  const View<const float> rows(condition, 3);
  const Sampler sampler(cpu(), model, grid);
  sampler.sample(View<float>(x, 2), {.scheme = Scheme::euler_maruyama, .seed = 3, .condition = rows});
  sampler.log_density(View<const float>(x, 2), View<float>(log_density), Scheme::heun, {}, {}, rows);
  for (std::size_t k = 0; k < given.size(); ++k) {
    const Sampler of_one(cpu(), with_condition(model, given[k]), grid);
    std::vector<float> same(2 * n), same_density(n);
    of_one.sample(View<float>(same, 2), {.scheme = Scheme::euler_maruyama, .seed = 3});
    of_one.log_density(View<const float>(x, 2), View<float>(same_density), Scheme::heun);
    const auto half = [&](const std::vector<float>& all, std::int64_t columns) {
      std::vector<float> part;
      for (std::int64_t i = static_cast<std::int64_t>(k); i < n; i += 2) {
        part.insert(part.end(), all.begin() + i * columns, all.begin() + (i + 1) * columns);
      }
      return part;
    };
    const std::vector<float> e = half(same, 2), l = half(same_density, 1);
    // Twenty steps whose states and scores are rounded in another way.
    EXPECT_TRUE(agrees(half(x, 2), std::vector<double>(e.begin(), e.end()), Bound{.of_rms = 2e-5, .norm = 2e-6}));
    EXPECT_TRUE(
        agrees(half(log_density, 1), std::vector<double>(l.begin(), l.end()), Bound{.of_rms = 2e-5, .norm = 5e-6}));
  }
}

// (x, y) jointly normal with unit variances and correlation ρ: x given y is N(ρ y, 1 − ρ²), x_t given y is
// N(m ρ y, m² (1 − ρ²) + σ²), and its score is known. Points whose condition was dropped teach that of N(0, m² + σ²). Zero
// is a value of y, so a column of ones beside it tells a dropped one apart.
TEST(ConditionalTraining, LearnsTheScoreGivenTheCondition) {
  const double rho = 0.9, shift = 1000, scale = 50;
  Architecture a = testing::architecture_of(1, {24, 24}, Activation::silu, 1, Output::score);
  a.form.form = Form::noise;
  a.condition = {{}, {0, 1}, {}, 2};
  const Model initial{ForwardSde::defaults(SdeKind::vp_linear), Mlp::initialise(a, 3), {{0, shift, 0}, {1, scale, 1}}};
  const DataSet data = DataSet::mixture(
      GaussianMixture(3, {1}, {0, shift, 1}, {1, rho * scale, 0, rho * scale, scale * scale, 0, 0, 0, 0}));
  Trainer trainer(
      cpu(), initial, data,
      {.iterations = 2000, .denoising_points = 256, .time_law = TimeLaw::uniform, .condition_drop = 0.25, .seed = 4});
  trainer.run(2000);
  const Model model = trainer.model();
  const std::int64_t n = 400;
  std::vector<double> t, x, y, given, dropped;
  for (int k = 0; k < n; ++k) {
    const double v = 1.5 * std::cos(2.9 * k), time = 0.05 + 0.4 * ((k * 37) % n) / double(n);
    const auto c = model.sde.at(time);
    const double own = c.mean * c.mean * (1 - rho * rho) + c.variance, all = c.mean * c.mean + c.variance;
    t.push_back(time), y.push_back(shift + scale * v), y.push_back(1);
    x.push_back(c.mean * rho * v + 1.5 * std::sqrt(own) * std::sin(1.7 * k));
    given.push_back((x.back() - c.mean * rho * v) / own * std::sqrt(c.variance));
    dropped.push_back(x.back() / all * std::sqrt(c.variance));
  }
  // The network's noise is what it learns: −σ s.
  const auto noise_of = [&](const Model& of, View<const double> condition) {
    std::vector<double> score(n);
    Fields<double>(cpu(), of).evaluate({View<const double>(t), View<const double>(x, 1), condition},
                                       {.score = View<double>(score, 1)});
    for (std::size_t k = 0; k < score.size(); ++k) score[k] *= -std::sqrt(model.sde.at(t[k]).variance);
    return score;
  };
  const auto miss = [](const std::vector<double>& v, const std::vector<double>& e) {
    double square = 0, all = 0;
    for (std::size_t k = 0; k < v.size(); ++k) square += std::pow(v[k] - e[k], 2), all += e[k] * e[k];
    return std::sqrt(square / all);
  };
  // Half a million points leave errors of some hundredths; without a condition they would be those of the last line.
  EXPECT_LT(miss(noise_of(model, View<const double>(y, 2)), given), 0.1);
  EXPECT_LT(miss(noise_of(without_condition(model), {}), dropped), 0.1);
  EXPECT_GT(miss(given, dropped), 0.5);
}

// With every condition dropped nothing is learned by the weights that take it, with none dropped all are.
TEST(ConditionalTraining, LearnsNothingFromWhatIsAlwaysDropped) {
  Architecture a = testing::architecture_of(2, {16}, Activation::silu, 1, Output::score);
  a.condition = {{}, {0}, {}, 2};
  const Model initial{ForwardSde{}, Mlp::initialise(a, 3)};
  const DataSet data = DataSet::mixture(GaussianMixture::isotropic(4, {1}, {0, 0, 1, -1}, {1}));
  for (const double drop : {0.0, 0.5, 1.0}) {
    Trainer trainer(cpu(), initial, data,
                    {.iterations = 3,
                     .denoising_points = 64,
                     .schedule = RateSchedule::constant,
                     .average = WeightAverage::none,
                     .condition_drop = drop});
    trainer.run(3);
    const Mlp trained = std::get<Mlp>(trainer.model().network), &before = std::get<Mlp>(initial.network);
    int changed = 0;
    for (std::int64_t k = 0; k < 16 * a.inputs(0); ++k) {
      if (k % a.inputs(0) >= 2) continue;
      const auto at = static_cast<std::size_t>(a.weight_offset(0) + k);
      changed += trained.parameters[at] != before.parameters[at];
    }
    EXPECT_EQ(changed, drop == 1 ? 0 : 32) << drop;
  }
}

TEST(Conditions, AreRefusedWhereTheyDoNotFit) {
  const Architecture a = conditional_networks(Output::score)[3].architecture;
  const Model model = model_of(a, SdeKind::vp_linear, 5);
  EXPECT_EQ(message_of([&] {
              with_condition(model, {1, 2});
            }),
            "a condition of 2 numbers is given to a model that takes one of 3");
  EXPECT_EQ(message_of([&] {
              with_condition(model, {1, NAN, 2});
            }),
            "number 1 of a condition is nan: it must be finite");
  EXPECT_EQ(message_of([&] { with_condition(without_condition(model), {1}); }),
            "a condition of 1 numbers is given to a model that takes none");

  const std::vector<float> t(4, 0.5f), x(8, 1.0f), y(12, 1.0f);
  std::vector<float> score(8);
  const Fields<float> fields(cpu(), model);
  const FieldOutputs<float> out{.score = View<float>(score, 2)};
  const View<const float> at(t), points(x, 2);
  EXPECT_EQ(
      message_of([&] {
        fields.evaluate({at, points}, out);
      }),
      "no condition is given to a model that takes one of 3 numbers; allowed: one a point, [4, 3], or one for all by "
      "with_condition()");
  EXPECT_EQ(message_of([&] {
              fields.evaluate({at, points, View<const float>(y, 2)}, out);
            }),
            "the condition has shape [6, 2]; allowed here: [4, 3]");
  EXPECT_EQ(message_of([&] {
              Fields<float>(cpu(), without_condition(model)).evaluate({at, points, View<const float>(y, 3)}, out);
            }),
            "a condition of shape [4, 3] is given to a model that takes none");
  const Sampler sampler(cpu(), model, TimeGrid::uniform(1, 0.1, 3));
  EXPECT_THAT(message_of([&] { sampler.sample(View<float>(score, 2)); }), HasSubstr("no condition is given"));
  std::vector<float> log_density(4);
  EXPECT_THAT(message_of([&] { sampler.log_density(points, View<float>(log_density)); }),
              HasSubstr("no condition is given"));

  Architecture bad = a;
  bad.condition.inputs = -1;
  EXPECT_EQ(message_of([&] { bad.validate(); }), "the width of a condition is -1; allowed: 0 to 4096");
  bad.condition.inputs = 0;
  EXPECT_EQ(message_of([&] { bad.validate(); }),
            "a condition of width 0 has layers or is taken by layers; allowed: a condition of width 1 or more");
  bad = a, bad.condition.into = {0, 7};
  EXPECT_THAT(message_of([&] { bad.validate(); }), HasSubstr("the layers that take the condition name layer 7"));
  bad = a, bad.condition.layer_names = {"time1", "of_y"};
  EXPECT_EQ(message_of([&] { bad.validate(); }), "the layer name 'time1' is given twice");

  const auto train = [&](const Model& initial, std::int64_t columns, double drop) {
    Trainer(cpu(), initial,
            DataSet::mixture(GaussianMixture::isotropic(columns, {1}, std::vector<double>(columns), {1})),
            {.condition_drop = drop});
  };
  EXPECT_THAT(message_of([&] { train(model, 2, 0); }),
              HasSubstr("a model of dimension 2 with a condition of 3 numbers was given data set"));
  EXPECT_THAT(message_of([&] { train(without_condition(model), 2, 0.1); }),
              HasSubstr("dropped with probability 0.1, and the network takes none; allowed: 0"));
  EXPECT_THAT(message_of([&] { train(model, 5, 1.5); }), HasSubstr("the probability of dropping a condition is 1.5"));
}

}  // namespace
}  // namespace fokker
