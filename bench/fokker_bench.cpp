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
#include "fokker/formulas/philox.hpp"
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

// A whole iteration: points, times and noise drawn, both losses, their gradient, Adam.
void time_training(benchmark::State& state, const Machine& machine, const TrainWork& work) {
  Trainer trainer(machine.context, work.model, DataSet::named("circles2"), work.options());
  trainer.run(1);
  for (auto _ : state) trainer.run(1);
  count(state, machine, work.flop());
}

// The first steps of the paper's grid, from random states, noise included: a sampler that no state's history slows
// down.
struct StepWork {
  static constexpr int steps = 5;
  static constexpr std::int64_t n = 50'000;
  Model model;
  RandomPoints start;
  SampleOptions options;

  explicit StepWork(const Model& of) : model(of), start(random_points(of.sde, 2, n, 1)) {
    options.seed = 7;
    options.noise_in_last_step = true;
  }
  TimeGrid grid() const {
    const std::vector<double> paper = TimeGrid::paper(model.sde.horizon()).times();
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
      const auto score = reference_field(net, net.parameters, sde, false, t, x, output_factor(mlp.architecture, t));
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
// points, timed between the runs; `ratio_to_raw_time` against steps of the same network with a raw time, if one is given.
void time_step(benchmark::State& state, const Machine& machine, const StepWork& work, const StepWork* raw_time) {
  const Sampler sampler(machine.context, work.model, work.grid());
  const Fields<float> fields(machine.context, work.model);
  std::vector<float> score(2 * StepWork::n), samples;
  FieldOutputs<float> outputs;
  outputs.score = View<float>(score, 2);
  const auto run_of = [&](const Sampler& of, const StepWork& by) {
    samples = by.start.x;
    return seconds([&] { of.integrate(View<float>(samples, 2), by.options); }) / StepWork::steps;
  };
  const auto run = [&] { return run_of(sampler, work); };
  std::optional<Sampler> other;
  if (raw_time) other.emplace(machine.context, raw_time->model, raw_time->grid());
  const auto evaluate_score = [&] { return seconds([&] { fields.evaluate(work.start.view(), outputs); }); };
  evaluate_score();
  run();
  if (other) run_of(*other, *raw_time);
  double step_total = 0, score_total = 0, other_total = 0;
  for (auto _ : state) {
    const double step_time = run();
    if (other) other_total += run_of(*other, *raw_time);
    score_total += (evaluate_score() + evaluate_score()) / 2;
    step_total += step_time;
    state.SetIterationTime(step_time);
  }
  // A step's time is common to its samples: what the network makes of it is not counted.
  const Architecture& architecture = std::get<Mlp>(work.model.network).architecture;
  const Architecture without{.hidden = architecture.hidden, .output = architecture.output};
  const double sweeps = architecture.output == Output::potential ? 2 : 1;
  count(state, machine, sweeps * flop_per_sweep(without) * static_cast<double>(StepWork::n));
  state.counters["ratio_to_score"] = step_total / score_total;
  if (other) state.counters["ratio_to_raw_time"] = step_total / other_total;
}

// ODE against SDE of the published blob histograms; nothing where they are absent.
struct BlobHistograms {
  std::vector<double> ode, sde;
};
std::optional<BlobHistograms> blob_histograms() {
  const char* folder = std::getenv("FOKKER_PAPER_DATA");
  if (folder == nullptr || !std::filesystem::is_directory(std::filesystem::path(folder) / "histograms")) return {};
  const std::string histograms = std::string(folder) + "/histograms/";
  return BlobHistograms{load_array(histograms + "blob_w0.0_ode.npy").data,
                        load_array(histograms + "blob_w0.0_sde.npy").data};
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
        name, [&machine, work] { return check_training(machine.context, work, roundoff); },
        [&machine, work](State& state) { time_training(state, machine, work); })
        ->UseRealTime();
  };
  Architecture silu;
  silu.activation = Activation::silu;
  add_fields("score/paper/50000", {paper_model(), 50'000, false, 2});
  add_fields("score/silu/50000", {network(silu), 50'000, false, 2});
  add_fields("score/potential_d16_w128/20000", {wide_network(Output::potential), 20'000, false, 2});
  add_fields("score/vector_d16_w128/20000", {wide_network(Output::score), 20'000, false, 1});
  add_fields("score/noise_w128/50000", {noise_model(false), 50'000, false, 1});
  add_fields("score/noise_w128_time32/50000", {noise_model(true), 50'000, false, 1});
  add_fields("residual/paper/50000", {paper_model(), 50'000, true, 4});
  add_training("train/paper/20000_5000", {paper_model(), 20'000, 5'000});
  add_training("train/beta20/4096_1024", {paper_model(20), 4'096, 1'024});
  const auto add_step = [&](const char* name, const Model& model, const std::optional<StepWork>& raw_time) {
    const StepWork step(model);
    add(
        name, [&machine, step] { return check_step(machine, step); },
        [&machine, step, raw_time](State& state) { time_step(state, machine, step, raw_time ? &*raw_time : nullptr); })
        ->UseManualTime();
  };
  add_step("sample_step/paper/50000", paper_model(), {});
  add_step("sample_step/noise_w128/50000", noise_model(false), {});
  add_step("sample_step/noise_w128_time32/50000", noise_model(true), StepWork(noise_model(false)));
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
