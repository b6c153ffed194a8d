#include "checks.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "rounding_noise.hpp"

namespace fokker::bench {
namespace {

bool failed = false;

}  // namespace

void fail(benchmark::State& state, const std::string& message) {
  failed = true;
  state.SkipWithError(message.c_str());
}

bool any_failed() { return failed; }

void FieldWork::evaluate(const Fields<float>& fields, const Points<float>& at, View<float> result) const {
  FieldOutputs<float> outputs;
  (residual ? outputs.residual : outputs.score) = result;
  fields.evaluate(at, outputs);
}

std::string check_fields(const Context& context, const FieldWork& work, double unit) {
  const Mlp& mlp = std::get<Mlp>(work.model.network);
  const std::vector<float> narrow(mlp.parameters.begin(), mlp.parameters.end());
  const auto net = testing::reference_network(mlp.architecture, widen(narrow));
  const std::vector<testing::Noisy> noisy(narrow.begin(), narrow.end());
  const auto sde = testing::reference_sde(work.model.sde);
  const std::int64_t d = work.model.dimension(), columns = work.columns();
  const RandomPoints points = work.points();
  Buffer<float> t(context, work.n), x(context, work.n, d), out(context, work.n, columns);
  copy(context, points.view().t, t.view());
  copy(context, points.view().x, x.view());
  const Fields<float> fields(context, work.model);
  work.evaluate(fields, {t.view(), x.view()}, out.view());
  std::vector<float> result(work.n * columns);
  copy(context, out.view(), View<float>(result, columns));
  context.synchronize();

  std::string wrong;
  const auto check = [&](std::int64_t i) {
    const std::vector<double> at(points.x.begin() + i * d, points.x.begin() + (i + 1) * d);
    const auto want = reference_field(net, net.parameters, sde, work.residual, points.t[i], at.data());
    std::vector<double> deviation(columns);
    testing::Noise::seed(static_cast<std::uint64_t>(i));
    for (int run = 0; run < testing::noise_runs; ++run) {
      const auto erring = reference_field(net, noisy, sde, work.residual, points.t[i], at.data());
      for (std::int64_t j = 0; j < columns; ++j) {
        deviation[j] = std::hypot(deviation[j], (erring[j].value - want[j]) / testing::noise_size);
      }
    }
    for (std::int64_t j = 0; j < columns; ++j) {
      const double got = result[i * columns + j];
      const double allowed = testing::most_deviations * unit * deviation[j] / std::sqrt(testing::noise_runs) + 1e-36;
      if (std::fabs(got - want[j]) <= allowed) continue;
      wrong = fmt::format("the {} is wrong at point {}: {} for {} (allowed {:.2e})",
                          work.residual ? "residual" : "score", i, got, want[j], allowed);
    }
  };
  const std::int64_t count = affordable(work.n, check);
  for (std::int64_t k = 0; k < count && wrong.empty(); ++k) check(spread(k, count, work.n));
  return wrong;
}

std::optional<std::string> take(int& argc, char** argv, const std::string& name) {
  const std::string start = "--" + name + "=";
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], start.c_str(), start.size()) != 0) continue;
    std::string value = argv[i] + start.size();
    std::rotate(argv + i, argv + i + 1, argv + argc--);
    return value;
  }
  return std::nullopt;
}

}  // namespace fokker::bench
