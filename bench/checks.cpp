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
  const Fields<float> fields(context, work.model);
  return check_fields(context, work, unit,
                      [&](const Points<float>& at, View<float> result) { work.evaluate(fields, at, result); });
}

std::string check_fields(const Context& context, const FieldWork& work, double unit, const FieldEvaluation& evaluate) {
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
  evaluate({t.view(), x.view()}, out.view());
  std::vector<float> result(work.n * columns);
  copy(context, out.view(), View<float>(result, columns));
  context.synchronize();

  std::string wrong;
  const auto check = [&](std::int64_t i) {
    const std::vector<double> at(points.x.begin() + i * d, points.x.begin() + (i + 1) * d);
    const double factor = output_factor(mlp.architecture, points.t[i]);
    const auto want = reference_field(net, net.parameters, sde, work.residual, points.t[i], at.data(), factor);
    std::vector<double> deviation(columns);
    for (int run = 0; run < testing::noise_runs; ++run) {
      testing::Noise::seed(static_cast<std::uint64_t>(testing::noise_runs * i + run));
      const auto erring = reference_field(net, noisy, sde, work.residual, points.t[i], at.data(), factor);
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

namespace {

// Losses on a context's device, of host data.
class HostLoss {
 public:
  HostLoss(const Context& context, const Model& model, const LossEvaluation& evaluation)
      : context_(context),
        evaluate_(evaluation),
        parameters_(context, std::ssize(std::get<Mlp>(model.network).parameters)),
        gradient_(context, parameters_.rows()),
        values_(context, 3) {
    values.resize(3);
    gradient.resize(static_cast<std::size_t>(gradient_.rows()));
    const std::vector<double>& parameters = std::get<Mlp>(model.network).parameters;
    const std::vector<float> narrow(parameters.begin(), parameters.end());
    copy(context_, View<const float>(narrow), parameters_.view());
    context_.synchronize();
  }

  // The first n and m points.
  void evaluate(const RandomBatch& batch, std::int64_t n, const RandomPoints& collocation, std::int64_t m) {
    const Buffer<float> t = there(batch.t, n, 1), x = there(batch.x, n, 2), target = there(batch.target, n, 2);
    const Buffer<float> t_at = there(collocation.t, m, 1), x_at = there(collocation.x, m, 2);
    evaluate_(parameters_.view(), {t.view(), x.view(), target.view(), {}}, {t_at.view(), x_at.view()}, values_.view(),
              gradient_.view());
    copy(context_, values_.view(), View<double>(values));
    copy(context_, gradient_.view(), View<float>(gradient));
    context_.synchronize();
  }

  std::vector<double> values;   // [3]
  std::vector<float> gradient;  // [P]

 private:
  Buffer<float> there(const std::vector<float>& from, std::int64_t rows, std::int64_t columns) const {
    Buffer<float> to(context_, rows, columns);
    copy(context_, View<const float>(from.data(), rows, columns), to.view());
    return to;
  }

  const Context& context_;
  const LossEvaluation& evaluate_;
  Buffer<float> parameters_, gradient_;
  Buffer<double> values_;
};

// The gradient's errors are some tens of roundings, and 2 β more where σ″ and σ‴ of softplus magnify the error of a
// pre-activation; of one element 25 times as much.
double loss_bound(const Architecture& architecture, double unit) {
  return (60 + 2 * (architecture.activation == Activation::softplus ? architecture.beta : 1)) * unit;
}

std::string compare_losses(const HostLoss& got, const std::vector<double>& want, const std::vector<double>& gradient,
                           double bound) {
  const std::vector<float> losses(got.values.begin(), got.values.end());
  const auto n = static_cast<std::int64_t>(gradient.size());
  if (auto wrong = compare("a loss", losses.data(), want.data(), 3, bound, bound); !wrong.empty()) return wrong;
  return compare("the gradient", got.gradient.data(), gradient.data(), n, bound, 25 * bound);
}

// The first points of both batches against the reference, then whole batches against the CPU in double, whose gradient
// is left in `gradient`.
std::string check_loss(HostLoss& loss, const TrainWork& work, double unit, std::vector<double>& gradient) {
  const Model& model = work.model;
  const RandomBatch batch = random_batch(model.sde, work.denoising, 2);
  const RandomPoints collocation = random_points(model.sde, 2, work.collocation, 3);
  const double bound = loss_bound(work.architecture(), unit);
  const Mlp& mlp = std::get<Mlp>(model.network);
  const std::vector<double> parameters = widen({mlp.parameters.begin(), mlp.parameters.end()});
  const std::vector<double> t = widen(batch.t), x = widen(batch.x), target = widen(batch.target);
  const std::vector<double> t_at = widen(collocation.t), x_at = widen(collocation.x);

  // A millisecond or two each of the paper's network.
  const auto few = [](const std::vector<double>& all) { return std::min<std::int64_t>(48, std::ssize(all)); };
  const std::int64_t n = few(t), m = few(t_at);
  const auto first = [](const std::vector<double>& v, std::int64_t count) {
    return std::vector<double>(v.begin(), v.begin() + count);
  };
  const auto net = testing::reference_network(mlp.architecture, parameters);
  const auto denoising = testing::reference_denoising_loss(net, first(t, n), first(x, 2 * n), first(target, 2 * n));
  std::vector<double> want = {denoising.value, 0, denoising.value};
  gradient = denoising.gradient;
  if (m > 0) {
    const auto residual =
        testing::reference_residual_loss(net, testing::reference_sde(model.sde), first(t_at, m), first(x_at, 2 * m));
    want = {denoising.value, residual.value, denoising.value + residual.value};
    for (std::size_t k = 0; k < gradient.size(); ++k) gradient[k] += residual.gradient[k];
  }
  loss.evaluate(batch, n, collocation, m);
  if (auto wrong = compare_losses(loss, want, gradient, bound); !wrong.empty()) return wrong;

  loss.evaluate(batch, std::ssize(t), collocation, std::ssize(t_at));
  Loss<double>(Context({.backend = BackendKind::cpu}), mlp.architecture, model.sde)
      .evaluate(View<const double>(parameters),
                {View<const double>(t), View<const double>(x, 2), View<const double>(target, 2), {}},
                {View<const double>(t_at), View<const double>(x_at, 2)}, 1.0, View<double>(want),
                View<double>(gradient));
  return compare_losses(loss, want, gradient, bound);
}

// What the trainer's first iteration reports and does, against losses of other draws from the same laws.
std::string check_trainer(const Context& context, HostLoss& loss, const Model& model, const TrainOptions& options,
                          const std::vector<double>& gradient) {
  constexpr int batches = 12;
  double sum[2] = {}, squares[2] = {};
  for (int b = 0; b < batches; ++b) {
    loss.evaluate(random_batch(model.sde, options.denoising_points, 100 + b), options.denoising_points,
                  random_points(model.sde, 2, options.collocation_points, 200 + b), options.collocation_points);
    for (int k = 0; k < 2; ++k) sum[k] += loss.values[k], squares[k] += loss.values[k] * loss.values[k];
  }
  Trainer trainer(context, model, DataSet::named("circles2"), options);
  const std::vector<TrainRecord> records = trainer.run(1);
  if (records.size() != 1) return "the trainer did not run one iteration";
  const double got[2] = {records[0].denoising, records[0].residual};
  for (int k = 0; k < (options.collocation_points > 0 ? 2 : 1); ++k) {
    // Six standard deviations of one batch.
    const double mean = sum[k] / batches, deviation = std::sqrt(std::max(0.0, squares[k] / batches - mean * mean));
    if (!(std::fabs(got[k] - mean) <= 6 * deviation)) {
      return fmt::format("the trainer's {} loss is {}, and other draws give {} with standard deviation {}",
                         k == 0 ? "denoising" : "residual", got[k], mean, deviation);
    }
  }
  // Adam's first step is −rate · sign of the gradient, up to ε: against another batch's gradient, downhill.
  const std::vector<double> after = std::get<Mlp>(trainer.model().network).parameters;
  const std::vector<double>& before = std::get<Mlp>(model.network).parameters;
  double largest = 0, slope = 0;
  for (std::size_t k = 0; k < after.size(); ++k) {
    const double step = after[k] - static_cast<double>(static_cast<float>(before[k]));
    largest = std::max(largest, std::fabs(step));
    slope += gradient[k] * step;
  }
  if (!(largest <= 1.01 * options.peak_rate && largest > 0.5 * options.peak_rate && slope < 0)) {
    return fmt::format("the trainer's first step moves a parameter by {} at rate {}, with slope {}", largest,
                       options.peak_rate, slope);
  }
  return "";
}

}  // namespace

std::string check_losses(const Context& context, const TrainWork& work, double unit, const LossEvaluation& evaluate) {
  HostLoss loss(context, work.model, evaluate);
  std::vector<double> gradient;
  return check_loss(loss, work, unit, gradient);
}

std::string check_training(const Context& context, const TrainWork& work, double unit) {
  const Loss<float> of(context, work.architecture(), work.model.sde);
  const LossEvaluation evaluate = [&](const auto& parameters, const auto& denoising, const auto& collocation,
                                      const auto& values, const auto& gradient) {
    of.evaluate(parameters, denoising, collocation, 1.0, values, gradient);
  };
  HostLoss loss(context, work.model, evaluate);
  std::vector<double> gradient;
  if (auto wrong = check_loss(loss, work, unit, gradient); !wrong.empty()) return wrong;
  return check_trainer(context, loss, work.model, work.options(), gradient);
}

std::string check_together(TrainingGroup together, std::vector<Trainer>& alone) {
  constexpr int iterations = 2;
  const auto records = together.run(iterations);
  for (std::size_t k = 0; k < together.size(); ++k) {
    const TrainRecord own = alone[k].run(iterations).back(), beside = records[k].back();
    if (own.total != beside.total || own.gradient_norm != beside.gradient_norm) {
      return fmt::format("model {} has loss {} and gradient norm {} beside others, and {} and {} alone", k,
                         beside.total, beside.gradient_norm, own.total, own.gradient_norm);
    }
    const auto parameters = [](const Trainer& trainer) { return std::get<Mlp>(trainer.model().network).parameters; };
    if (parameters(together[k]) != parameters(alone[k])) {
      return fmt::format("model {} has other parameters beside others than alone", k);
    }
  }
  return "";
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
