// Times of the library's work at the paper's sizes. Each result is checked before it is timed, once a process: against
// the tests' reference in double, which shares no code with the library, at as many points as take a fifth of a second,
// with bounds from runs of that reference whose operations err at random; a distance against its certificate. A check
// that fails is an error of the program.
//
// Counters: `gflops` counts the matrix products alone (two FLOP a weight, sweep and point), `fraction_of_peak` divides
// it by `fma_peak_gflops`, the multiply-add peak of all threads. Other tenants of a machine can only lower a measured
// peak, so it is measured at the start and again before each benchmark, and the largest so far in the run counts.
//
// usage: fokker_bench [--threads=N] [--write_reference=FILE] [Google Benchmark's options]
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checks.hpp"
#include "fma_peak.hpp"
#include "reference_network.hpp"
#include "work.hpp"

namespace fokker::bench {
namespace {

class Machine {
 public:
  explicit Machine(const Context& with) : context(with) { measure_peak(); }

  void measure_peak() { peak_gflops_ = std::max(peak_gflops_, fma_peak_gflops(context.threads())); }
  double peak_gflops() const { return peak_gflops_; }

  // What check() says of the benchmark of this name, asked once; the peak is measured again on the way.
  template <class Check>
  const std::string& checked(const std::string& name, Check&& check) {
    const auto found = verdicts_.find(name);
    if (found != verdicts_.end()) return found->second;
    measure_peak();
    return verdicts_[name] = check();
  }

  const Context context;

 private:
  double peak_gflops_ = 0;
  std::map<std::string, std::string> verdicts_;
};

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
  state.counters["fraction_of_peak"] = Counter(flop * 1e-9 / machine.peak_gflops(), Counter::kIsIterationInvariantRate);
  state.counters["fma_peak_gflops"] = machine.peak_gflops();
}

void time_fields(benchmark::State& state, const Machine& machine, const FieldWork& work) {
  const RandomPoints points = work.points();
  std::vector<float> result(work.n * work.columns());
  const View<float> out(result, work.columns());
  const Fields<float> fields(machine.context, work.model);
  work.evaluate(fields, points.view(), out);
  for (auto _ : state) work.evaluate(fields, points.view(), out);
  count(state, machine, work.flop());
}

// The losses and the gradient that a training step starts from. Bounds as in the tests: a gradient's errors are some
// tens of roundings, and 2 β more where σ″ and σ‴ magnify the error of a pre-activation; of one element 25 times as
// much.
std::string compare_losses(const std::vector<double>& got, const std::vector<float>& got_gradient,
                           const std::vector<double>& want, const std::vector<double>& gradient, double beta) {
  const std::vector<float> losses(got.begin(), got.end());
  const double bound = (60 + 2 * beta) * roundoff;
  const auto n = static_cast<std::int64_t>(gradient.size());
  if (auto wrong = compare("a loss", losses.data(), want.data(), 3, bound, bound); !wrong.empty()) return wrong;
  return compare("the gradient", got_gradient.data(), gradient.data(), n, bound, 25 * bound);
}

// The first points of both batches against the reference, then whole batches against the library in double.
std::string check_loss(const Machine& machine, const Model& model, const RandomBatch& batch,
                       const RandomPoints& collocation, std::vector<double>& gradient) {
  const Mlp& mlp = std::get<Mlp>(model.network);
  const std::vector<float> parameters(mlp.parameters.begin(), mlp.parameters.end());
  const std::vector<double> wide = widen(parameters);
  const double beta = mlp.architecture.beta;
  std::vector<double> got(3), want(3);
  std::vector<float> got_gradient(parameters.size());
  const Loss<float> loss(machine.context, mlp.architecture, model.sde);
  const auto evaluate = [&](std::int64_t n, std::int64_t m) {
    loss.evaluate(View<const float>(parameters),
                  {View<const float>(batch.t.data(), n),
                   View<const float>(batch.x.data(), n, 2),
                   View<const float>(batch.target.data(), n, 2),
                   {}},
                  {View<const float>(collocation.t.data(), m), View<const float>(collocation.x.data(), m, 2)}, 1.0,
                  View<double>(got), View<float>(got_gradient));
  };
  const std::vector<double> t = widen(batch.t), x = widen(batch.x), target = widen(batch.target);
  const std::vector<double> t_at = widen(collocation.t), x_at = widen(collocation.x);

  constexpr std::int64_t few = 48;  // a millisecond or two each
  const auto first = [](const std::vector<double>& v, std::int64_t n) {
    return std::vector<double>(v.begin(), v.begin() + n);
  };
  const auto net = testing::reference_network(mlp.architecture, wide);
  const auto denoising =
      testing::reference_denoising_loss(net, first(t, few), first(x, 2 * few), first(target, 2 * few));
  const auto residual =
      testing::reference_residual_loss(net, testing::reference_sde(model.sde), first(t_at, few), first(x_at, 2 * few));
  want = {denoising.value, residual.value, denoising.value + residual.value};
  gradient = denoising.gradient;
  for (std::size_t k = 0; k < gradient.size(); ++k) gradient[k] += residual.gradient[k];
  evaluate(few, few);
  if (auto wrong = compare_losses(got, got_gradient, want, gradient, beta); !wrong.empty()) return wrong;

  evaluate(static_cast<std::int64_t>(t.size()), static_cast<std::int64_t>(t_at.size()));
  Loss<double>(machine.context, mlp.architecture, model.sde)
      .evaluate(View<const double>(wide),
                {View<const double>(t), View<const double>(x, 2), View<const double>(target, 2), {}},
                {View<const double>(t_at), View<const double>(x_at, 2)}, 1.0, View<double>(want),
                View<double>(gradient));
  return compare_losses(got, got_gradient, want, gradient, beta);
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

struct TrainWork {
  double beta;
  std::int64_t denoising, collocation;
};

std::string check_training(const Machine& machine, const TrainWork& work) {
  const Model model = paper_model(work.beta);
  std::vector<double> gradient;
  const std::string wrong = check_loss(machine, model, random_batch(model.sde, work.denoising, 2),
                                       random_points(model.sde, 2, work.collocation, 3), gradient);
  return wrong.empty() ? check_trainer(machine, model, paper_training(work.denoising, work.collocation), gradient)
                       : wrong;
}

// A whole iteration: points, times and noise drawn, both losses, their gradient, Adam.
void time_training(benchmark::State& state, const Machine& machine, const TrainWork& work) {
  Trainer trainer(machine.context, paper_model(work.beta), DataSet::named("circles2"),
                  paper_training(work.denoising, work.collocation));
  trainer.run(1);
  for (auto _ : state) trainer.run(1);
  count(state, machine,
        flop_per_sweep(Architecture{}) *
            (6 * static_cast<double>(work.denoising) + 12 * static_cast<double>(work.collocation)));
}

// The first steps of the paper's grid, from random states, noise included: a sampler that no state's history slows
// down.
struct StepWork {
  static constexpr int steps = 5;
  static constexpr std::int64_t n = 50'000;
  Model model = paper_model();
  RandomPoints start = random_points(model.sde, 2, n, 1);
  SampleOptions options;

  StepWork() {
    options.seed = 7;
    options.noise_in_last_step = true;
  }
  TimeGrid grid() const {
    const std::vector<double> paper = TimeGrid::paper(model.sde.horizon).times();
    return TimeGrid({paper.begin(), paper.begin() + steps + 1});
  }
};

// Against the scheme written out in double with the reference's score and the sampler's noise.
std::string check_step(const Machine& machine, const StepWork& work) {
  const Mlp& mlp = std::get<Mlp>(work.model.network);
  const std::vector<float> narrow(mlp.parameters.begin(), mlp.parameters.end());
  const auto net = testing::reference_network(mlp.architecture, widen(narrow));
  const auto sde = testing::reference_sde(work.model.sde);
  const std::vector<double> times = work.grid().times();
  std::vector<float> after = work.start.x;
  Sampler(machine.context, work.model, work.grid()).integrate(View<float>(after, 2), work.options);

  std::string wrong;
  const auto check = [&](std::int64_t i) {
    double x[2] = {work.start.x[2 * i], work.start.x[2 * i + 1]}, largest = 1;
    for (int step = 0; step < StepWork::steps; ++step) {
      const double t = times[step], dt = t - times[step + 1], g2 = sde.diffusion_squared(t);
      const PhiloxBlock words = philox4x32_10(work.options.seed, static_cast<std::uint64_t>(i),
                                              philox_offset(RandomUse::noise, 0, static_cast<std::uint64_t>(step)));
      float z[2];
      normals_from_words(words.word[0], words.word[1], z[0], z[1]);
      const auto score = reference_field(net, net.parameters, sde, false, t, x);
      for (int j = 0; j < 2; ++j) {
        x[j] += -dt * (sde.drift(t) * x[j] - g2 * score[j]) + std::sqrt(g2 * dt) * z[j];
        largest = std::max(largest, std::fabs(x[j]));
      }
    }
    // A step rounds some eight numbers of at most this size, a normal among them; the score's error is multiplied by
    // dt = 0.0125, and so short a path amplifies nothing.
    const double allowed = 8 * StepWork::steps * roundoff * largest;
    for (int j = 0; j < 2; ++j) {
      if (std::fabs(after[2 * i + j] - x[j]) <= allowed) continue;
      wrong = fmt::format("sample {} is wrong after {} steps: {} for {} (allowed {:.2e})", i, StepWork::steps,
                          after[2 * i + j], x[j], allowed);
    }
  };
  const std::int64_t count = affordable(StepWork::n, check);
  for (std::int64_t k = 0; k < count && wrong.empty(); ++k) check(spread(k, count, StepWork::n));
  return wrong;
}

// One Euler–Maruyama step: a run of five divided by five. `ratio_to_score` is against score evaluations of as many
// points, timed between the runs.
void time_step(benchmark::State& state, const Machine& machine, const StepWork& work) {
  const Sampler sampler(machine.context, work.model, work.grid());
  const Fields<float> fields(machine.context, work.model);
  std::vector<float> score(2 * StepWork::n), samples;
  FieldOutputs<float> outputs;
  outputs.score = View<float>(score, 2);
  const auto run = [&] {
    samples = work.start.x;
    return seconds([&] { sampler.integrate(View<float>(samples, 2), work.options); }) / StepWork::steps;
  };
  const auto evaluate_score = [&] { return seconds([&] { fields.evaluate(work.start.view(), outputs); }); };
  evaluate_score();
  run();
  double step_total = 0, score_total = 0;
  for (auto _ : state) {
    const double step_time = run();
    score_total += (evaluate_score() + evaluate_score()) / 2;
    step_total += step_time;
    state.SetIterationTime(step_time);
  }
  count(state, machine, 2 * flop_per_sweep(Architecture{}) * static_cast<double>(StepWork::n));
  state.counters["ratio_to_score"] = step_total / score_total;
}

// ODE against SDE of the published blob histograms; nothing where they are absent.
struct BlobHistograms {
  std::vector<double> ode, sde;
};
std::optional<BlobHistograms> blob_histograms() {
  const char* folder = std::getenv("FOKKER_PAPER_DATA");
  if (folder == nullptr || !std::filesystem::is_directory(std::filesystem::path(folder) / "histograms")) return {};
  const std::string histograms = std::string(folder) + "/histograms/";
  return BlobHistograms{load_npy(histograms + "blob_w0.0_ode.npy").data,
                        load_npy(histograms + "blob_w0.0_sde.npy").data};
}

std::string check_w2() {
  const auto blob = blob_histograms();
  if (!blob) return "";
  const TransportResult result = w2_squared(blob->ode, blob->sde);
  // Six digits by the certificate; the published table has five decimals.
  if (std::fabs(result.certificate_gap()) <= 1e-7 * result.w2_squared &&
      std::fabs(result.w2_squared - 0.01160) <= 5e-6) {
    return "";
  }
  return fmt::format("W2² is {} with dual value {}; published: 0.01160", result.w2_squared, result.dual_value);
}

void time_w2(benchmark::State& state) {
  const auto blob = blob_histograms();
  if (!blob) return skip(state, "skipped: FOKKER_PAPER_DATA does not name a folder with histograms/");
  TransportResult result;
  for (auto _ : state) benchmark::DoNotOptimize(result = w2_squared(blob->ode, blob->sde));
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

void register_all(Machine& machine) {
  using benchmark::State;
  const auto add = [&machine](const char* name, auto check, auto time) {
    const auto body = [&machine, name, check, time](State& state) {
      const std::string& wrong = machine.checked(name, check);
      if (!wrong.empty()) return fail(state, wrong);
      time(state);
    };
    return benchmark::RegisterBenchmark(name, body)->Unit(benchmark::kMillisecond);
  };
  const auto add_fields = [&](const char* name, const FieldWork& work) {
    add(
        name, [&machine, work] { return check_fields(machine.context, work, roundoff); },
        [&machine, work](State& state) { time_fields(state, machine, work); })
        ->UseRealTime();
  };
  const auto add_training = [&](const char* name, const TrainWork& work) {
    add(
        name, [&machine, work] { return check_training(machine, work); },
        [&machine, work](State& state) { time_training(state, machine, work); })
        ->UseRealTime();
  };
  Architecture silu;
  silu.activation = Activation::silu;
  add_fields("score/paper/50000", {paper_model(), 50'000, false, 2});
  add_fields("score/silu/50000", {network(silu), 50'000, false, 2});
  add_fields("score/potential_d16_w128/20000", {wide_network(Output::potential), 20'000, false, 2});
  add_fields("score/vector_d16_w128/20000", {wide_network(Output::score), 20'000, false, 1});
  add_fields("residual/paper/50000", {paper_model(), 50'000, true, 4});
  add_training("train/paper/20000_5000", {100, 20'000, 5'000});
  add_training("train/beta20/4096_1024", {20, 4'096, 1'024});
  const StepWork step;
  add(
      "sample_step/paper/50000", [&machine, step] { return check_step(machine, step); },
      [&machine, step](State& state) { time_step(state, machine, step); })
      ->UseManualTime();
  add("w2/blob", check_w2, time_w2)->UseRealTime();
}

int run(int argc, char** argv) {
  ContextOptions options;
  options.backend = BackendKind::cpu;
  if (const auto threads = take(argc, argv, "threads")) {
    const char* end = threads->data() + threads->size();
    const auto [rest, error] = std::from_chars(threads->data(), end, options.threads);
    if (error != std::errc() || rest != end || options.threads < 1 || options.threads > 1024) {
      std::fprintf(stderr, "fokker_bench: --threads=%s: a number from 1 to 1024 is allowed\n", threads->c_str());
      return 2;
    }
  }
  const Context context(options);
  if (const auto path = take(argc, argv, "write_reference")) {
    write_reference(*path, context, {.fields = 50'000, .denoising = 20'000, .collocation = 5'000});
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  Machine machine(context);
  benchmark::AddCustomContext("fokker", fmt::format("{}, {}", version(), backend_status()[0].detail));
  benchmark::AddCustomContext("threads", fmt::format("{}", context.threads()));
  benchmark::AddCustomContext("fma_peak_gflops", fmt::format("{:.1f}", machine.peak_gflops()));
  register_all(machine);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return any_failed() ? 1 : 0;
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
