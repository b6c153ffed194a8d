// Times of the library's work at the paper's sizes. Each result is checked against a double-precision evaluation, or a
// certificate, before it is timed; a check that fails is an error of the program. Counters: `gflops` counts the matrix
// products alone (two FLOP a weight, sweep and point), `fraction_of_peak` divides it by the multiply-add peak of all
// threads measured at the start of the same run, printed in the context.
//
// usage: fokker_bench [--threads=N] [--write_reference=FILE] [Google Benchmark's options]
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fma_peak.hpp"
#include "work.hpp"

namespace fokker::bench {
namespace {

struct Machine {
  Context context;
  double peak_gflops;
};

bool any_failed = false;

void fail(benchmark::State& state, const std::string& message) {
  any_failed = true;
  state.SkipWithError(message.c_str());
}

// Google Benchmark before 1.8 knows no other way to leave a benchmark out than an error.
template <class State>
void skip(State& state, const std::string& message) {
  if constexpr (requires { state.SkipWithMessage(message); }) {
    state.SkipWithMessage(message);
  } else {
    state.SkipWithError(message.c_str());
  }
}

// flop: of one iteration.
void count(benchmark::State& state, const Machine& machine, double flop) {
  using benchmark::Counter;
  state.counters["gflops"] = Counter(flop * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["fraction_of_peak"] = Counter(flop * 1e-9 / machine.peak_gflops, Counter::kIsIterationInvariantRate);
}

double seconds(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::vector<double> widen(const std::vector<float>& v) { return {v.begin(), v.end()}; }

// Bounds of single precision, as rms of the error over rms of the quantity. One rounding is 6e-8. In a score it enters
// σ′ of softplus through β z, amplified by β (up to 100) and averaged over the 80 terms of each sum; a residual holds
// σ″, one more factor of β. A single element may be some fifty times the rms: the few units that stand at a steep
// place.
constexpr double score_rms_bound = 1e-5, score_element_bound = 5e-4;
constexpr double residual_rms_bound = 1e-4, residual_element_bound = 5e-3;
constexpr double gradient_rms_bound = 1e-3, gradient_element_bound = 1e-2;

// Everything of `wanted` at n random points: "score" or "residual", checked on as many as 20 000 of them.
void fields(benchmark::State& state, const Machine& machine, const Model& model, std::int64_t n, bool residual,
            double sweeps) {
  const std::int64_t d = model.dimension(), n_checked = std::min<std::int64_t>(n, 20'000), columns = residual ? 1 : d;
  const RandomPoints points = random_points(model.sde, d, n, 1);
  std::vector<float> result(n * columns);
  FieldOutputs<float> outputs;
  (residual ? outputs.residual : outputs.score) = View<float>(result, columns);
  const Fields<float> fields(machine.context, model);
  fields.evaluate(points.view(), outputs);

  const std::vector<double> t = widen({points.t.begin(), points.t.begin() + n_checked});
  const std::vector<double> x = widen({points.x.begin(), points.x.begin() + n_checked * d});
  std::vector<double> want(n_checked * columns);
  FieldOutputs<double> want_outputs;
  (residual ? want_outputs.residual : want_outputs.score) = View<double>(want, columns);
  Fields<double>(machine.context, model).evaluate({View<const double>(t), View<const double>(x, d)}, want_outputs);
  const std::string wrong =
      residual
          ? compare("the residual", result.data(), want.data(), n_checked, residual_rms_bound, residual_element_bound)
          : compare("the score", result.data(), want.data(), n_checked * d, score_rms_bound, score_element_bound);
  if (!wrong.empty()) return fail(state, wrong);

  for (auto _ : state) fields.evaluate(points.view(), outputs);
  count(state, machine, sweeps * flop_per_sweep(std::get<Mlp>(model.network).architecture) * static_cast<double>(n));
}

// The losses and the gradient that a training step starts from, in float against double on one batch.
std::string check_loss(const Machine& machine, const Model& model, const RandomBatch& batch,
                       const RandomPoints& collocation, std::vector<double>& gradient) {
  const Mlp& mlp = std::get<Mlp>(model.network);
  const std::vector<float> parameters(mlp.parameters.begin(), mlp.parameters.end());
  const std::vector<double> wide = widen(parameters);
  std::vector<double> got(3), want(3);
  std::vector<float> got_gradient(parameters.size());
  gradient.assign(parameters.size(), 0);
  const Points<float> at = collocation.view();
  Loss<float>(machine.context, mlp.architecture, model.sde)
      .evaluate(View<const float>(parameters), batch.view(), {at.t, at.x}, 1.0, View<double>(got),
                View<float>(got_gradient));

  const std::vector<double> t = widen(batch.t), x = widen(batch.x), target = widen(batch.target);
  const std::vector<double> t_at = widen(collocation.t), x_at = widen(collocation.x);
  Loss<double>(machine.context, mlp.architecture, model.sde)
      .evaluate(View<const double>(wide),
                {View<const double>(t), View<const double>(x, 2), View<const double>(target, 2), {}},
                {View<const double>(t_at), View<const double>(x_at, 2)}, 1.0, View<double>(want),
                View<double>(gradient));
  const std::vector<float> losses(got.begin(), got.end());
  if (auto wrong = compare("a loss", losses.data(), want.data(), 3, 1e-5, 1e-5); !wrong.empty()) return wrong;
  return compare("the gradient", got_gradient.data(), gradient.data(), static_cast<std::int64_t>(gradient.size()),
                 gradient_rms_bound, gradient_element_bound);
}

// What the trainer's first iteration reports and does, against losses of other draws from the same laws.
std::string check_trainer(const Machine& machine, const Model& model, const TrainOptions& options,
                          const std::vector<double>& gradient) {
  const Mlp& mlp = std::get<Mlp>(model.network);
  const std::vector<float> parameters(mlp.parameters.begin(), mlp.parameters.end());
  const Loss<float> loss(machine.context, mlp.architecture, model.sde);
  constexpr int batches = 12;
  double sum[2] = {}, squares[2] = {};
  for (int b = 0; b < batches; ++b) {
    const RandomBatch batch = random_batch(model.sde, options.denoising_points, 100 + b);
    const RandomPoints collocation = random_points(model.sde, 2, options.collocation_points, 200 + b);
    std::vector<double> values(3);
    const Points<float> at = collocation.view();
    loss.evaluate(View<const float>(parameters), batch.view(), {at.t, at.x}, 1.0, View<double>(values), {});
    for (int k = 0; k < 2; ++k) sum[k] += values[k], squares[k] += values[k] * values[k];
  }
  Trainer trainer(machine.context, model, DataSet::named("circles2"), options);
  const std::vector<TrainRecord> records = trainer.run(1);
  if (records.size() != 1) return "the trainer did not run one iteration";
  const double got[2] = {records[0].denoising, records[0].residual};
  for (int k = 0; k < 2; ++k) {
    // Six standard deviations of one batch.
    const double mean = sum[k] / batches, deviation = std::sqrt(std::max(0.0, squares[k] / batches - mean * mean));
    if (!(std::fabs(got[k] - mean) <= 6 * deviation)) {
      return fmt::format("the trainer's {} loss is {}, and other draws give {} with standard deviation {}",
                         k == 0 ? "denoising" : "residual", got[k], mean, deviation);
    }
  }
  // Adam's first step is −rate · sign of the gradient, up to ε: against another batch's gradient, downhill.
  const std::vector<double> after = std::get<Mlp>(trainer.model().network).parameters;
  double largest = 0, slope = 0;
  for (std::size_t k = 0; k < after.size(); ++k) {
    largest = std::max(largest, std::fabs(after[k] - parameters[k]));
    slope += gradient[k] * (after[k] - parameters[k]);
  }
  if (!(largest <= 1.01 * options.peak_rate && largest > 0.5 * options.peak_rate && slope < 0)) {
    return fmt::format("the trainer's first step moves a parameter by {} at rate {}, with slope {}", largest,
                       options.peak_rate, slope);
  }
  return "";
}

// A whole iteration: points, times and noise drawn, both losses, their gradient, Adam.
void train(benchmark::State& state, const Machine& machine, double beta, std::int64_t denoising,
           std::int64_t collocation) {
  const Model model = paper_model(beta);
  const TrainOptions options = paper_training(denoising, collocation);
  std::vector<double> gradient;
  std::string wrong = check_loss(machine, model, random_batch(model.sde, denoising, 2),
                                 random_points(model.sde, 2, collocation, 3), gradient);
  if (wrong.empty()) wrong = check_trainer(machine, model, options, gradient);
  if (!wrong.empty()) return fail(state, wrong);

  Trainer trainer(machine.context, model, DataSet::named("circles2"), options);
  trainer.run(1);
  for (auto _ : state) trainer.run(1);
  count(state, machine,
        flop_per_sweep(Architecture{}) * (6 * static_cast<double>(denoising) + 12 * static_cast<double>(collocation)));
}

// The sampler against the scheme written out in double with its own noise, on the first few hundred samples.
std::string check_sampler(const Machine& machine, const Model& model, const Sampler& sampler,
                          const SampleOptions& options) {
  constexpr std::int64_t n = 500;
  const std::vector<double>& times = sampler.grid().times();
  std::vector<float> got(2 * n);
  sampler.sample(View<float>(got, 2), options);

  const auto draw = [&](RandomUse use, int step, std::vector<double>& z) {
    for (std::int64_t i = 0; i < n; ++i) {
      float z0, z1;
      const PhiloxBlock words = philox4x32_10(options.seed, static_cast<std::uint64_t>(i),
                                              philox_offset(use, 0, static_cast<std::uint64_t>(step)));
      normals_from_words(words.word[0], words.word[1], z0, z1);
      z[2 * i] = z0, z[2 * i + 1] = z1;
    }
  };
  const Fields<double> fields(machine.context, model);
  std::vector<double> x(2 * n), z(2 * n), score(2 * n), t(1);
  draw(RandomUse::prior, 0, x);
  for (double& v : x) v *= std::sqrt(model.sde.prior_variance());
  FieldOutputs<double> outputs;
  outputs.score = View<double>(score, 2);
  for (int step = 0; step < sampler.grid().steps(); ++step) {
    t[0] = times[step];
    const double dt = times[step] - times[step + 1];
    fields.evaluate({View<const double>(t), View<const double>(x, 2)}, outputs);
    draw(RandomUse::noise, step, z);
    const auto c = model.sde.at(t[0]);
    for (std::int64_t k = 0; k < 2 * n; ++k) {
      x[k] += -dt * (c.drift * x[k] - c.diffusion_squared * score[k]) + std::sqrt(c.diffusion_squared * dt) * z[k];
    }
  }
  // Each step rounds at 6e-8 and adds the score's error times dt; the drift does not amplify them over so short a time.
  return compare("a sample", got.data(), x.data(), 2 * n, 1e-5, 1e-4);
}

// One Euler–Maruyama step, noise included: a run along the first twenty steps of the paper's grid, divided by twenty.
// `ratio_to_score` is against score evaluations of as many points, timed between the runs.
void sample_step(benchmark::State& state, const Machine& machine, std::int64_t n) {
  constexpr int steps = 20;
  const Model model = paper_model();
  const std::vector<double> paper = TimeGrid::paper(model.sde.horizon).times();
  const Sampler sampler(machine.context, model, TimeGrid({paper.begin(), paper.begin() + steps + 1}));
  SampleOptions options;
  options.seed = 7;
  options.noise_in_last_step = true;
  if (auto wrong = check_sampler(machine, model, sampler, options); !wrong.empty()) return fail(state, wrong);

  const RandomPoints points = random_points(model.sde, 2, n, 1);
  const Fields<float> fields(machine.context, model);
  std::vector<float> score(2 * n), samples(2 * n);
  FieldOutputs<float> outputs;
  outputs.score = View<float>(score, 2);
  const auto evaluate_score = [&] {
    for (int k = 0; k < 5; ++k) fields.evaluate(points.view(), outputs);
  };
  evaluate_score();
  sampler.sample(View<float>(samples, 2), options);
  double step_total = 0, score_total = 0;
  for (auto _ : state) {
    const double step_time = seconds([&] { sampler.sample(View<float>(samples, 2), options); }) / steps;
    score_total += seconds(evaluate_score) / 5;
    step_total += step_time;
    state.SetIterationTime(step_time);
  }
  count(state, machine, 2 * flop_per_sweep(Architecture{}) * static_cast<double>(n));
  state.counters["ratio_to_score"] = step_total / score_total;
}

// ODE against SDE of the published blob histograms at w_R = 0.
void w2_blob(benchmark::State& state) {
  const char* folder = std::getenv("FOKKER_PAPER_DATA");
  if (folder == nullptr || !std::filesystem::is_directory(std::filesystem::path(folder) / "histograms")) {
    return skip(state, "skipped: FOKKER_PAPER_DATA does not name a folder with histograms/");
  }
  const std::string histograms = std::string(folder) + "/histograms/";
  const NpyArray ode = load_npy(histograms + "blob_w0.0_ode.npy"), sde = load_npy(histograms + "blob_w0.0_sde.npy");
  TransportResult result = w2_squared(ode.data, sde.data);
  // Six digits by the certificate; the published table has five decimals.
  if (!(std::fabs(result.certificate_gap()) <= 1e-7 * result.w2_squared &&
        std::fabs(result.w2_squared - 0.01160) <= 5e-6)) {
    return fail(state,
                fmt::format("W2² is {} with dual value {}; published: 0.01160", result.w2_squared, result.dual_value));
  }
  for (auto _ : state) benchmark::DoNotOptimize(result = w2_squared(ode.data, sde.data));
  state.counters["w2_squared"] = result.w2_squared;
}

Model wide_network(Output output) {
  Architecture architecture;
  architecture.dimension = 16;
  architecture.hidden = {128, 128, 128};
  architecture.activation = Activation::silu;
  architecture.output = output;
  return network(architecture);
}

void register_all(const Machine& machine) {
  using benchmark::State;
  const auto add = [](const char* name, auto body) {
    return benchmark::RegisterBenchmark(name, body)->Unit(benchmark::kMillisecond);
  };
  const auto real = [&](const char* name, auto body) { add(name, body)->UseRealTime(); };
  Architecture silu;
  silu.activation = Activation::silu;
  real("score/paper/50000", [&](State& s) { fields(s, machine, paper_model(), 50'000, false, 2); });
  real("score/silu/50000", [&, silu](State& s) { fields(s, machine, network(silu), 50'000, false, 2); });
  real("score/potential_d16_w128/20000",
       [&](State& s) { fields(s, machine, wide_network(Output::potential), 20'000, false, 2); });
  real("score/vector_d16_w128/20000",
       [&](State& s) { fields(s, machine, wide_network(Output::score), 20'000, false, 1); });
  real("residual/paper/50000", [&](State& s) { fields(s, machine, paper_model(), 50'000, true, 4); });
  real("train/paper/20000_5000", [&](State& s) { train(s, machine, 100, 20'000, 5'000); });
  real("train/beta20/4096_1024", [&](State& s) { train(s, machine, 20, 4'096, 1'024); });
  add("sample_step/paper/50000", [&](State& s) { sample_step(s, machine, 50'000); })->UseManualTime();
  real("w2/blob", w2_blob);
}

// The value of --NAME=VALUE, taken out of the arguments.
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

int run(int argc, char** argv) {
  ContextOptions options;
  options.backend = BackendKind::cpu;
  if (const auto threads = take(argc, argv, "threads")) options.threads = std::atoi(threads->c_str());
  const Context context(options);
  if (const auto path = take(argc, argv, "write_reference")) {
    write_reference(*path, context);
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const Machine machine{context, fma_peak_gflops(context.threads())};
  benchmark::AddCustomContext("fokker", fmt::format("{}, {}", version(), backend_status()[0].detail));
  benchmark::AddCustomContext("threads", fmt::format("{}", context.threads()));
  benchmark::AddCustomContext("fma_peak_gflops", fmt::format("{:.1f}", machine.peak_gflops));
  register_all(machine);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return any_failed ? 1 : 0;
}

}  // namespace
}  // namespace fokker::bench

int main(int argc, char** argv) {
  try {
    return fokker::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fokker_bench: %s\n", error.what());
    return 1;
  }
}
