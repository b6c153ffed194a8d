// Paths with steps of their own on the CUDA backend, through the public API, beside those of the CPU: of resident networks
// in one launch, of all other models an evaluation at a time.
//
// The backends round differently, so a step may be accepted on one and refused on the other; then the paths differ by as
// much as each may be off: the tolerance, as the flow enlarges it. The networks here are smooth, and errors are compared
// with the tolerance times the rms of the numbers (1 at least, as the tolerance is absolute too): all together at most 10
// of it, one at most 100. That is far above the roundings of the split products, 2^−22.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend_under_test.hpp"
#include "compare.hpp"
#include "fields_reference.hpp"
#include "fokker/adaptive_sampler.hpp"
#include "fokker/composition.hpp"
#include "fokker/error.hpp"
#include "fokker/sampler.hpp"
#include "scratch.hpp"

namespace fokker {
namespace {

using testing::agrees;
using testing::architecture_of;
using testing::Bound;
using testing::from;
using ::testing::HasSubstr;
using testing::message_of;
using testing::model_of;
using testing::on;
using Index = std::int64_t;

constexpr double kTolerance = 1e-3;

Context backend(BackendKind kind, Precision precision = Precision::split) {
  return Context({.backend = kind, .precision = precision});
}

// `of`: what is compared; the states whose tolerances are relative are of about 1.
template <class T>
Bound bound(const std::vector<T>& of, double tolerance = kTolerance) {
  double square = 0;
  for (const T v : of) square += std::isfinite(v) ? static_cast<double>(v) * v : 0;
  const double scale = std::max(1.0, std::sqrt(square / static_cast<double>(of.size())));
  return {.absolute = 10 * tolerance * scale, .each = std::vector<double>(of.size(), 90 * tolerance * scale)};
}

struct Case {
  std::string name;
  Model model;
  bool wide = false;  // its products go through cuBLAS
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// The resident path, the wide one, an embedding of the time, conditions, a form, a mixture, and a sum.
std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const std::string& name, const Architecture& architecture, SdeKind sde, bool wide) {
    all.push_back({name, model_of(architecture, sde, 5), wide});
  };
  add("resident", architecture_of(2, {16, 20}, Activation::tanh, 1, Output::potential), SdeKind::vp_linear, false);
  add("resident_5d", architecture_of(5, {33}, Activation::silu, 1, Output::score), SdeKind::ou, false);
  add("wide", architecture_of(2, {130, 7}, Activation::tanh, 1, Output::score), SdeKind::vp_linear, true);
  for (const testing::NamedNetwork& network : testing::all_networks(Output::score)) {
    if (network.name == "embedding_into_all_score" || network.name == "state_and_time_score") {
      add(network.name, network.architecture, SdeKind::subvp, true);
    }
  }
  Architecture noise = architecture_of(3, {20}, Activation::silu, 1, Output::score);
  add("noise", noise, SdeKind::vp_cosine, false);
  std::get<Mlp>(all.back().model.network).architecture.form = {.form = Form::noise, .time_scale = 0.7};
  all.push_back({"mixture",
                 {ForwardSde::defaults(SdeKind::ou),
                  GaussianMixture(2, {0.3, 0.7}, {-1, 0.5, 1, 0}, {0.5, 0.1, 0.1, 0.3, 0.4, 0, 0, 0.4})}});
  all.push_back({"sum", compose({{2, all[0].model}, {-1, all[0].model}})});
  return all;
}

template <class T>
std::vector<T> spread(Index count) {
  std::vector<T> v;
  for (Index i = 0; i < count; ++i) v.push_back(static_cast<T>(1.5 * std::sin(0.7 * static_cast<double>(i))));
  return v;
}

// One sampler and what it makes of points and conditions that are functions of their index.
template <class T>
struct Paths {
  Paths(const Context& where, const Case& c, AdaptiveMethod method = AdaptiveMethod::tsit5,
        double tolerance = kTolerance)
      : context(where),
        d(c.model.dimension()),
        numbers(c.model.condition()),
        sampler(where, c.model, c.model.sde.horizon(), 0.05 * c.model.sde.horizon(),
                {.method = method, .relative_tolerance = tolerance, .absolute_tolerance = tolerance}) {}

  AdaptiveCall<T> call_of(Index first, Index n) {
    reports.assign(static_cast<std::size_t>(n), {});
    AdaptiveCall<T> call{.seed = 3, .first_index = 7 + static_cast<std::uint64_t>(first), .paths = reports};
    if (numbers > 0) {
      const std::vector<T> all = spread<T>((first + n) * numbers);
      condition = on(context, std::vector<T>(all.begin() + first * numbers, all.end()), numbers);
      call.condition = condition.view();
    }
    return call;
  }
  std::vector<T> sample(Index first, Index n) {
    Buffer<T> x(context, n, d);
    report = sampler.sample(x.view(), call_of(first, n));
    return from(context, x);
  }
  std::vector<T> log_density(Index first, Index n, int probes) {
    const std::vector<T> all = spread<T>((first + n) * d);
    const Buffer<T> x = on(context, std::vector<T>(all.begin() + first * d, all.end()), d);
    Buffer<T> density(context, n);
    report = sampler.log_density(
        x.view(), density.view(),
        {.probes = probes, .seed = 12, .first_index = 1000 + static_cast<std::uint64_t>(first)}, call_of(first, n));
    return from(context, density);
  }

  Context context;
  Index d, numbers;
  AdaptiveSampler<T> sampler;
  Buffer<T> condition;
  std::vector<AdaptivePathReport> reports;
  AdaptiveReport report;
};

auto all_of(const AdaptivePathReport& path) {
  return std::tuple(path.accepted, path.refused, path.evaluations, path.ended, path.time);
}
std::int32_t steps_of(const AdaptivePathReport& path) { return path.accepted + path.refused; }

// What a network's paths found in one launch, and those of a sum of it alone, which go an evaluation at a time.
void expect_same(const Paths<float>& whole, const std::vector<float>& found, const Paths<float>& staged,
                 const std::vector<float>& expected, double tolerance) {
  EXPECT_TRUE(agrees(found, expected, bound(expected, tolerance)));
#ifdef FOKKER_EMULATION  // where no compiler contracts, these are the same roundings
  EXPECT_EQ(found, expected);
  for (std::size_t i = 0; i < whole.reports.size(); ++i) {
    EXPECT_EQ(all_of(whole.reports[i]), all_of(staged.reports[i])) << i;
  }
  EXPECT_EQ(whole.report.accepted, staged.report.accepted);
  EXPECT_EQ(whole.report.refused, staged.report.refused);
#else
  static_cast<void>(whole), static_cast<void>(staged);
#endif
}

class CudaAdaptive : public testing::GpuTest {};
class CudaAdaptiveOf : public CudaAdaptive, public ::testing::WithParamInterface<Case> {};

TEST_P(CudaAdaptiveOf, PathsAreThoseOfTheCpu) {
  const Case& c = GetParam();
  const Index n = 19;
  Paths<float> there(backend(BackendKind::cuda), c), here(backend(BackendKind::cpu), c);
  const auto samples = here.sample(0, n);
  EXPECT_TRUE(agrees(there.sample(0, n), samples, bound(samples)));
  EXPECT_EQ(there.report.failed, 0);
  for (const int probes : {0, 2}) {
    SCOPED_TRACE(probes);
    const auto density = here.log_density(0, n, probes);
    EXPECT_TRUE(agrees(there.log_density(0, n, probes), density, bound(density)));
    EXPECT_EQ(there.report.failed, 0);
  }
}

TEST_P(CudaAdaptiveOf, ReportsAddUp) {
  const Case& c = GetParam();
  for (const auto& [method, per_step] : {std::pair(AdaptiveMethod::bs32, 3), std::pair(AdaptiveMethod::dopri5, 6)}) {
    Paths<float> run(backend(BackendKind::cuda), c, method, 0.03);
    run.sample(0, 5);
    AdaptiveReport sums;
    for (const AdaptivePathReport& path : run.reports) {
      EXPECT_EQ(path.ended, PathEnd::reached);
      EXPECT_EQ(path.evaluations, 2 + per_step * (path.accepted + path.refused));
      EXPECT_EQ(path.time, 0.05 * c.model.sde.horizon());
      sums.accepted += path.accepted, sums.refused += path.refused, sums.evaluations += path.evaluations;
      sums.most_evaluations = std::max<Index>(sums.most_evaluations, path.evaluations);
    }
    EXPECT_EQ(run.report.paths, 5);
    EXPECT_EQ(run.report.accepted, sums.accepted);
    EXPECT_EQ(run.report.refused, sums.refused);
    EXPECT_EQ(run.report.evaluations, sums.evaluations);
    EXPECT_EQ(run.report.most_evaluations, sums.most_evaluations);
  }
}

TEST_P(CudaAdaptiveOf, AnySplitGivesTheSameBits) {
  const Case& c = GetParam();
#ifndef FOKKER_EMULATION
  if (c.wide) GTEST_SKIP() << "cuBLAS may add in another order for another number of rows";
#endif
  const Index n = 18;
  Paths<float> run(backend(BackendKind::cuda), c);
  const auto samples = run.sample(0, n), exact = run.log_density(0, n, 0), estimated = run.log_density(0, n, 2);
  std::vector<float> sample_parts, exact_parts, estimated_parts;
  Index first = 0;
  for (const Index size : {1, 16, 1}) {
    const auto append = [](std::vector<float>& to, const std::vector<float>& part) {
      to.insert(to.end(), part.begin(), part.end());
    };
    append(sample_parts, run.sample(first, size));
    append(exact_parts, run.log_density(first, size, 0));
    append(estimated_parts, run.log_density(first, size, 2));
    first += size;
  }
  EXPECT_EQ(sample_parts, samples);
  EXPECT_EQ(exact_parts, exact);
  EXPECT_EQ(estimated_parts, estimated);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaAdaptiveOf, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

// Every kernel of resident networks.
class CudaAdaptiveKernel : public CudaAdaptive, public ::testing::WithParamInterface<std::tuple<Precision, Index>> {};

TEST_P(CudaAdaptiveKernel, PathsAreThoseOfTheCpu) {
  const Precision precision = std::get<0>(GetParam());
  const Index width = std::get<1>(GetParam()), n = 3;
  constexpr double tolerance = 0.01;  // 1.4e-3 is what half loses
  for (const Output output : {Output::potential, Output::score}) {
    const Activation activation = output == Output::potential ? Activation::mish : Activation::sine;
    const Case c{"", model_of(architecture_of(2, {width, width - 3}, activation, 1, output), SdeKind::vp_linear, 5)};
    Paths<float> there(backend(BackendKind::cuda, precision), c, AdaptiveMethod::bs32, tolerance),
        here(backend(BackendKind::cpu), c, AdaptiveMethod::bs32, tolerance);
    const auto samples = here.sample(0, n);
    EXPECT_TRUE(agrees(there.sample(0, n), samples, bound(samples, tolerance)));
    if (precision == Precision::half || width > 80) continue;
    for (const int probes : {0, 1}) {
      const auto density = here.log_density(0, n, probes);
      EXPECT_TRUE(agrees(there.log_density(0, n, probes), density, bound(density, tolerance))) << probes;
    }
  }
}

TEST_P(CudaAdaptiveKernel, PathsAreThoseOfAnEvaluationAtATimeInAnySplit) {
  const Precision precision = std::get<0>(GetParam());
  const Index width = std::get<1>(GetParam()), n = 3;
  constexpr double tolerance = 0.01;
  const Context gpu = backend(BackendKind::cuda, precision);
  for (const Output output : {Output::potential, Output::score}) {
    SCOPED_TRACE(to_string(output));
    const Activation activation = output == Output::potential ? Activation::mish : Activation::sine;
    const Case c{"", model_of(architecture_of(2, {width, width - 3}, activation, 1, output), SdeKind::vp_linear, 5)};
    Paths<float> whole(gpu, c, AdaptiveMethod::bs32, tolerance),
        staged(gpu, {"", compose({{1, c.model}})}, AdaptiveMethod::bs32, tolerance);
    const auto check = [&](const auto& numbers_of) {
      const std::vector<float> found = numbers_of(whole, 0, n);
      expect_same(whole, found, staged, numbers_of(staged, 0, n), tolerance);
      std::vector<float> parts = numbers_of(whole, 0, 1);
      const std::vector<float> others = numbers_of(whole, 1, n - 1);
      parts.insert(parts.end(), others.begin(), others.end());
      EXPECT_EQ(parts, found);
    };
    check([](Paths<float>& paths, Index first, Index count) { return paths.sample(first, count); });
    if (precision == Precision::half || width > 80) continue;
    for (const int probes : {0, 1}) {
      SCOPED_TRACE(probes);
      check([&](Paths<float>& paths, Index first, Index count) { return paths.log_density(first, count, probes); });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, CudaAdaptiveKernel,
                         ::testing::Combine(::testing::Values(Precision::split, Precision::fp32, Precision::half),
                                            ::testing::Values(32, 64, 80, 128)),
                         [](const auto& test) {
                           return fmt::format("{}_{}", to_string(std::get<0>(test.param)), std::get<1>(test.param));
                         });

// A sum of one model has its numbers, and goes an evaluation at a time: in places, of which resident paths keep none.
TEST_F(CudaAdaptive, OfAResidentNetworkAreThoseOfAnEvaluationAtATime) {
  const Context gpu = backend(BackendKind::cuda);
  constexpr std::size_t some = std::size_t{8} << 20;
  const Index n = 17;
  for (const Case& c : cases()) {
    if (c.name != "resident" && c.name != "resident_5d" && c.name != "noise") continue;
    SCOPED_TRACE(c.name);
    const Case sum{c.name, compose({{1, c.model}})};
    for (const AdaptiveMethod method : {AdaptiveMethod::bs32, AdaptiveMethod::tsit5, AdaptiveMethod::dopri5}) {
      SCOPED_TRACE(to_string(method));
      Paths<float> whole(gpu, c, method), staged(gpu, sum, method);
      EXPECT_LT(whole.sampler.workspace_bytes(), some);
      EXPECT_GT(staged.sampler.workspace_bytes(), some);
      expect_same(whole, whole.sample(0, n), staged, staged.sample(0, n), kTolerance);
      if (method != AdaptiveMethod::tsit5) continue;
      for (const int probes : {0, 2}) {
        expect_same(whole, whole.log_density(0, n, probes), staged, staged.log_density(0, n, probes), kTolerance);
      }
    }
  }
}

// Of an embedding, whose times are those of the rows, of a condition and in double.
TEST_F(CudaAdaptive, OfWhatIsNotResidentGoAnEvaluationAtATime) {
  const Context gpu = backend(BackendKind::cuda);
  const auto keeps_places = [](const auto& sampler) { return sampler.workspace_bytes() > std::size_t{8} << 20; };
  for (const Case& c : cases()) {
    const bool resident = c.name == "resident" || c.name == "resident_5d" || c.name == "noise";
    EXPECT_EQ(keeps_places(AdaptiveSampler<float>(gpu, c.model, c.model.sde.horizon(), 0.1)), !resident) << c.name;
    EXPECT_TRUE(keeps_places(AdaptiveSampler<double>(gpu, c.model, c.model.sde.horizon(), 0.1))) << c.name;
  }
}

// So many samples that rows of the tiles take another one when they have ended.
TEST_F(CudaAdaptive, RowsAreFilledAgain) {
#ifdef FOKKER_EMULATION  // with 256 rows
  const Index n = 300;
#else
  const Index n = 50000;
#endif
  const Case c{"", model_of(architecture_of(2, {7}, Activation::tanh, 1, Output::potential), SdeKind::vp_linear, 5)};
  constexpr double tolerance = 0.1;
  Paths<float> there(backend(BackendKind::cuda), c, AdaptiveMethod::bs32, tolerance),
      here(backend(BackendKind::cpu), c, AdaptiveMethod::bs32, tolerance);
  const auto check = [&](const auto& numbers_of, Index columns) {
    const std::vector<float> expected = numbers_of(here, 0, n), found = numbers_of(there, 0, n);
    EXPECT_TRUE(agrees(found, expected, bound(expected, tolerance)));
    EXPECT_EQ(there.report.paths, n);
    EXPECT_EQ(there.report.failed, 0);
    const std::vector<float> last = numbers_of(there, n - 3, 3), one = numbers_of(there, n / 2, 1);
    EXPECT_TRUE(std::equal(last.begin(), last.end(), found.end() - 3 * columns));
    EXPECT_TRUE(std::equal(one.begin(), one.end(), found.begin() + n / 2 * columns));
  };
  check([](Paths<float>& paths, Index first, Index count) { return paths.sample(first, count); }, 2);
  for (const int probes : {0, 1}) {
    check([&](Paths<float>& paths, Index first, Index count) { return paths.log_density(first, count, probes); }, 1);
  }
}

// Paths of a tile of which some are lost and some take too many steps: those of the others have the bits that they have
// without.
TEST_F(CudaAdaptive, RowsThatFailLeaveTheOthersAlone) {
  const Case c = cases()[0];
  const Context gpu = backend(BackendKind::cuda);
  const double horizon = c.model.sde.horizon(), end = 0.05 * horizon;
  const Index n = 19;
  AdaptiveOptions options{.relative_tolerance = kTolerance, .absolute_tolerance = kTolerance};
  std::vector<float> states = spread<float>(2 * n);
  std::vector<AdaptivePathReport> paths(n);
  const auto results = [&] {
    Buffer<float> x = on(gpu, states, 2);
    const AdaptiveReport report =
        AdaptiveSampler<float>(gpu, c.model, horizon, end, options).integrate(x.view(), {.paths = paths});
    return std::pair(from(gpu, x), report);
  };
  const auto expected = results();
  ASSERT_EQ(expected.second.failed, 0);
  const std::vector<AdaptivePathReport> of_all = paths;
  std::int32_t most = 0, fewest = std::numeric_limits<std::int32_t>::max();
  for (const AdaptivePathReport& path : of_all) {
    most = std::max(most, steps_of(path)), fewest = std::min(fewest, steps_of(path));
  }
  ASSERT_LT(fewest, most);

  options.most_steps = most - 1;
  states[2 * 3 + 1] = std::numeric_limits<float>::quiet_NaN();
  states[2 * 18] = std::numeric_limits<float>::infinity();
  const auto found = results();
  Index failed = 0, first_failed = -1;
  for (Index i = 0; i < n; ++i) {
    SCOPED_TRACE(i);
    const bool lost = i == 3 || i == 18, too_many = !lost && steps_of(of_all[i]) == most;
    if (lost || too_many) {
      EXPECT_EQ(paths[i].ended, lost ? PathEnd::lost : PathEnd::too_many_steps);
      EXPECT_EQ(steps_of(paths[i]), lost ? 0 : most - 1);
      EXPECT_TRUE(paths[i].time == horizon || !lost);
      EXPECT_TRUE(std::isnan(found.first[2 * i]) && std::isnan(found.first[2 * i + 1]));
      if (failed++ == 0) first_failed = i;
      continue;
    }
    EXPECT_EQ(all_of(paths[i]), all_of(of_all[i]));
    EXPECT_EQ(found.first[2 * i], expected.first[2 * i]);
    EXPECT_EQ(found.first[2 * i + 1], expected.first[2 * i + 1]);
  }
  EXPECT_EQ(found.second.failed, failed);
  EXPECT_EQ(found.second.first_failed, first_failed);
  EXPECT_EQ(found.second.why_first, paths[first_failed].ended);
  EXPECT_EQ(found.second.time_of_first, paths[first_failed].time);
  EXPECT_NE(found.second.failure(), "");
}

// In double both backends have the same network to 1e-15, and steps that are refused on one alone are rare: what remains
// is the tolerance.
TEST_F(CudaAdaptive, InDoubleMeetsSmallTolerances) {
  for (const Case& c : cases()) {
    if (c.name != "mixture" && c.name != "resident") continue;
    SCOPED_TRACE(c.name);
    Paths<double> there(backend(BackendKind::cuda), c, AdaptiveMethod::dopri5, 1e-8),
        here(backend(BackendKind::cpu), c, AdaptiveMethod::dopri5, 1e-8);
    const auto samples = here.sample(0, 5), density = here.log_density(0, 5, 0);
    EXPECT_TRUE(agrees(there.sample(0, 5), samples, bound(samples, 1e-8)));
    EXPECT_TRUE(agrees(there.log_density(0, 5, 0), density, bound(density, 1e-8)));
  }
}

// So many coordinates that there are fewer places than samples: those that end are given the samples that wait, and with
// probes are filled together.
TEST_F(CudaAdaptive, PlacesAreFilledAgain) {
  const Index d = 600, n = 300;
  std::vector<double> means(2 * d);
  for (Index j = 0; j < 2 * d; ++j) means[j] = std::cos(static_cast<double>(j));
  const Case c{
      "mixture in many dimensions",
      {ForwardSde::defaults(SdeKind::vp_linear), GaussianMixture::isotropic(d, {0.5, 0.5}, means, {0.5, 0.8})}};
  Paths<float> there(backend(BackendKind::cuda), c, AdaptiveMethod::bs32, 0.1),
      here(backend(BackendKind::cpu), c, AdaptiveMethod::bs32, 0.1);
  const auto samples = here.sample(0, n), found = there.sample(0, n);
  EXPECT_TRUE(agrees(found, samples, bound(samples, 0.1)));
  EXPECT_EQ(there.report.paths, n);
  EXPECT_EQ(there.report.failed, 0);
  const auto last = there.sample(n - 3, 3);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), found.end() - 3 * d));
  for (const int probes : {0, 1}) {
    const auto density = there.log_density(0, n, probes);
    EXPECT_EQ(there.report.paths, n);
    const auto last_density = there.log_density(n - 3, 3, probes);
    EXPECT_TRUE(std::equal(last_density.begin(), last_density.end(), density.end() - 3)) << probes;
  }
}

// The prior's draws are those of this backend's Sampler, bit for bit: paths that are given those end as paths that draw.
TEST_F(CudaAdaptive, BeginsWithThePriorOfTheSampler) {
  const Case c = cases()[0];
  const Context gpu = backend(BackendKind::cuda);
  const double horizon = c.model.sde.horizon(), end = 0.05 * horizon;
  const Index n = 19;
  Buffer<float> x(gpu, n, 2), prior(gpu, n, 2), drawn(gpu, n, 2);
  SampleOptions options{.scheme = Scheme::heun, .seed = 3, .first_index = 7};
  options.snapshot_steps = {0};
  options.snapshots = prior.view();
  Sampler(gpu, c.model, TimeGrid::uniform(horizon, end, 2)).sample(x.view(), options);
  const AdaptiveSampler<float> sampler(gpu, c.model, horizon, end);
  sampler.integrate(prior.view());
  sampler.sample(drawn.view(), {.seed = 3, .first_index = 7});
  EXPECT_EQ(from(gpu, prior), from(gpu, drawn));
}

TEST_F(CudaAdaptive, NamesThePathsThatDoNotReachTheirEnd) {
  // A score times 1e9, at whose zero a state stays; and states that are not finite.
  const Model stiff = compose({{1e9, {ForwardSde::ou(), GaussianMixture::isotropic(2, {1}, {0, 0}, {0.5})}}});
  const Context gpu = backend(BackendKind::cuda);
  const double nan = std::nan("");
  const Buffer<double> given = on(gpu, std::vector<double>{0, 0, 0, 0, 1, 2, 0, nan, 0, 0}, 2);
  Buffer<double> x(gpu, 5, 2);
  copy<double>(gpu, given.view(), x.view());
  std::vector<AdaptivePathReport> paths(5);
  const AdaptiveSampler<double> sampler(gpu, stiff, 10, 0, {.most_steps = 30});
  const AdaptiveReport report = sampler.integrate(x.view(), {.paths = paths});
  EXPECT_EQ(report.paths, 5);
  EXPECT_EQ(report.failed, 2);
  EXPECT_EQ(report.first_failed, 2);
  EXPECT_EQ(report.why_first, PathEnd::too_many_steps);
  EXPECT_EQ(report.time_of_first, paths[2].time);
  EXPECT_THAT(report.failure(),
              HasSubstr("of 5 paths 2 did not reach their end, the first of them number 2, which took 30 "
                        "steps, the most that are allowed, to t = 9.9999"));
  EXPECT_EQ(paths[3].ended, PathEnd::lost);
  EXPECT_EQ(paths[3].time, 10);
  const std::vector<double> ends = from(gpu, x);
  for (const Index i : {0, 1, 4}) {
    EXPECT_EQ(paths[i].ended, PathEnd::reached);
    EXPECT_EQ(ends[2 * i], 0);
  }
  for (const Index i : {2, 3}) EXPECT_TRUE(std::isnan(ends[2 * i]) && std::isnan(ends[2 * i + 1]));
}

// z = (x − mean)/deviation: the paths of z, restored.
TEST_F(CudaAdaptive, OfAStandardisedModelAreThoseOfTheCpu) {
  Case c = cases()[0];
  c.model.standardisation = {{1000, -3}, {0.5, 20}};
  const Context gpu = backend(BackendKind::cuda), cpu = backend(BackendKind::cpu);
  const Index n = 9;
  const std::vector<double> z = spread<double>(2 * n);
  const auto results = [&]<class T>(const Context& context, T) {
    std::vector<T> x;
    for (Index i = 0; i < 2 * n; ++i) {
      x.push_back(
          static_cast<T>(c.model.standardisation.mean[i % 2] + c.model.standardisation.deviation[i % 2] * z[i]));
    }
    const AdaptiveSampler<T> sampler(context, c.model, 1, 0.05,
                                     {.relative_tolerance = kTolerance, .absolute_tolerance = kTolerance});
    Buffer<T> states = on(context, x, 2), density(context, n);
    EXPECT_EQ(sampler.log_density(states.view(), density.view()).failed, 0);
    EXPECT_EQ(sampler.integrate(states.view()).failed, 0);
    std::vector<double> all;
    for (const T v : from(context, density)) all.push_back(v);
    const std::vector<T> moved = from(context, states);
    for (Index i = 0; i < 2 * n; ++i) {
      all.push_back((moved[i] - c.model.standardisation.mean[i % 2]) / c.model.standardisation.deviation[i % 2]);
    }
    return all;
  };
  const std::vector<double> expected = results(cpu, 0.0);
  EXPECT_TRUE(agrees(results(gpu, 0.0), expected, bound(expected)));
  EXPECT_TRUE(agrees(results(gpu, 0.0f), expected, bound(expected)));  // resident
}

TEST_F(CudaAdaptive, EmptyRequestsReturnAndMemoryIsBelow64MiB) {
  for (const Case& c : cases()) {
    const AdaptiveSampler<float> sampler(backend(BackendKind::cuda), c.model, c.model.sde.horizon(), 0.1);
    EXPECT_EQ(sampler.integrate({}).paths, 0);
    EXPECT_EQ(sampler.log_density({}, {}).paths, 0);
    EXPECT_LT(sampler.workspace_bytes(), std::size_t{64} << 20) << c.name;
    EXPECT_GT(sampler.workspace_bytes(), 0u);
  }
}

TEST_F(CudaAdaptive, RefusesWhatHalfDoesNotServe) {
  const Case c = cases()[0];
  const Context gpu = backend(BackendKind::cuda, Precision::half);
  Buffer<float> x(gpu, 3, 2), density(gpu, 3);
  const AdaptiveSampler<float> sampler(gpu, c.model, 1, 0.1);
  EXPECT_THAT(message_of([&] { sampler.log_density(x.view(), density.view()); }), HasSubstr("half"));
}

}  // namespace
}  // namespace fokker
