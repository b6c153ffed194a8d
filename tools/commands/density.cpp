// fokker density: log densities at points, of the law of either sampler.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "adaptive.hpp"
#include "commands/command.hpp"
#include "files.hpp"
#include "fokker/diagnostics/sde_density.hpp"
#include "fokker/fokker.hpp"
#include "measure.hpp"
#include "parts.hpp"
#include "ranks.hpp"
#include "warnings.hpp"

namespace fokker::tools {
namespace {

const std::string of_sde = "Of the reverse SDE (--scheme euler-maruyama)",
                  of_flow = "Of the probability-flow ODE (--scheme euler, heun, rk4, bs32, tsit5 or dopri5)";

// Of the finite ones of some numbers.
struct Mean {
  std::int64_t count = 0;
  double value = std::numeric_limits<double>::quiet_NaN();           // where there is one
  double standard_error = std::numeric_limits<double>::quiet_NaN();  // where there are two
};

template <class T>
Mean mean_of(const std::vector<T>& values) {
  Mean mean;
  double sum = 0, squares = 0;
  for (const T v : values) {
    if (std::isfinite(v)) ++mean.count, sum += v;
  }
  if (mean.count > 0) mean.value = sum / double(mean.count);
  for (const T v : values) {
    if (std::isfinite(v)) squares += (v - mean.value) * (v - mean.value);
  }
  if (mean.count > 1) mean.standard_error = std::sqrt(squares / double(mean.count) / double(mean.count - 1));
  return mean;
}

// The mean of independent estimates of the same N numbers, and its standard error from their spread, by Welford's sums.
class Repeated {
 public:
  explicit Repeated(std::int64_t n) : mean_(static_cast<std::size_t>(n)), squares_(static_cast<std::size_t>(n)) {}

  void add(const std::vector<float>& estimate) {
    ++count_;
    for (std::size_t i = 0; i < mean_.size(); ++i) {
      const double before = estimate[i] - mean_[i];
      mean_[i] += before / double(count_);
      squares_[i] += before * (estimate[i] - mean_[i]);
    }
  }
  std::vector<float> mean() const { return {mean_.begin(), mean_.end()}; }
  // Of two estimates or more.
  std::vector<float> standard_error() const {
    std::vector<float> errors;
    for (const double s : squares_) errors.push_back(float(std::sqrt(s / double(count_) / double(count_ - 1))));
    return errors;
  }

 private:
  std::int64_t count_ = 0;
  std::vector<double> mean_, squares_;
};

// The root of the mean square of the finite ones; not a number where there are none.
double typical(const std::vector<float>& errors) {
  std::vector<double> squares;
  for (const float e : errors) squares.push_back(double(e) * double(e));
  return std::sqrt(mean_of(squares).value);
}

class Density : public Command {
 public:
  explicit Density(CLI::App& parent) : Command(parent, "density", "Log density of a sampler's law at points") {
    explain(R"(
Densities are in nats, whatever --bits-per-dim adds. That of the probability-flow ODE is integrated along the flow from
each point to T, in float, with the divergence of its velocity; its time is the last of --grid. That of the reverse SDE,
which needs a potential, is by Feynman and Kac along random paths of the forward SDE from each point, in double whatever
--precision says.
A .npy or .csv file gets log_density alone, a .safetensors file of the reverse SDE all of these, float64 [N]:
  log_density      the estimate
  standard_error   its error, from the spread of the weights of the paths
  step_error       its error, from leaving out every second time of the paths
  effective_paths  how many paths of equal weights say as much
  tail_index       at 2 or below the largest weights fall off so slowly that standard_error is not to be trusted
and one of the ODE log_density and, with --probe-repeats, standard_error, that of the probes, float32 [N]. With
--bits-per-dim either has bits_per_dim too.
)",
            files_help({"--model", "--points", "--condition"}), R"(
  fokker train --data circles2 --out circles2.safetensors
  fokker sample --model circles2.safetensors --samples 100 --out x.npy
  fokker density --model circles2.safetensors --points x.npy --out density.safetensors
  fokker density --model circles2.safetensors --points x.npy --scheme heun --grid geometric:150 --out log_p.csv
  fokker density --model circles2.safetensors --points x.npy --scheme heun --grid geometric:150 --probes 1 \
                 --probe-repeats 8 --bits-per-dim 0 --out log_p.csv
)");
    model_.add_to(*app_);
    model_.add_condition(*app_, "point");
    app_->add_option("--points", points_,
                     "file of points, an array [N, d] (.npy, .npz or .csv): each row is x_1 ... x_d, without a time")
        ->required()
        ->type_name("FILE");
    app_->add_option("--out", out_, "file for the densities, a .npy, .csv or .safetensors file")
        ->required()
        ->type_name("FILE")
        ->check(ends_in({".npy", ".csv", ".safetensors"}));
    app_->add_option(
            "--scheme", scheme_,
            "whose law: euler-maruyama (or sde) for the reverse SDE; euler (or ode), heun or rk4 for the "
            "probability-flow ODE, and what integrates it along --grid; bs32, tsit5 or dopri5 for the ODE by steps "
            "of each point's own")
        ->capture_default_str()
        ->check(usable([](const std::string& text) {
          check_scheme(text);
          if (is_adaptive(text)) return;
          const Scheme scheme = parse_scheme(text);
          if (!is_stochastic(scheme) || scheme == Scheme::euler_maruyama) return;
          throw Error(fmt::format(
              "'{}' given; allowed for densities: euler-maruyama, euler, heun, rk4, bs32, tsit5, dopri5", text));
        }));
    add_number(*app_, "--time", time_, "time of the density, 0 to T; if not given, t_min of the SDE")->default_str("");
    add_integer<std::int64_t>(*app_, "--paths", options_.paths, "number of paths from each point", 2, 1'000'000'000);
    add_integer<std::int64_t>(*app_, "--steps", options_.steps,
                              "number of steps of a path from t_min to T; one that begins later takes its share", 2,
                              1'000'000);
    add_seed(*app_, options_.seed, "seed of the paths");
    app_->add_flag("--common-paths", options_.common_paths,
                   "take the same noise for all points, so that differences between them are smooth");
    add_number(*app_, "--bits-per-dim", bits_offset_,
               "also say bits per dimension, -log2(p)/d + OFFSET: with 0 those of the density of x, with log2 of the "
               "number of levels in a unit of x those of the levels, as 8 for images of 256 levels in [0, 1) and 7 in "
               "[-1, 1); there is no default")
        ->type_name("OFFSET")
        ->default_str("");
    add_grid(*app_, grid_);
    probes_.add_to(*app_);
    steps_.add_to(*app_);
    add_integer<std::int64_t>(*app_, "--probe-repeats", probe_repeats_,
                              "number of independent estimates by --probes probes each, of --probe-seed and the seeds "
                              "after it, whose mean is taken; from 2 with its standard error",
                              1, 1000);
    for (const char* name : {"--time", "--paths", "--steps", "--seed", "--common-paths"}) {
      app_->get_option(name)->group(of_sde);
    }
    for (const char* name :
         {"--grid", "--probes", "--law", "--probe-seed", "--probe-repeats", "--tolerance", "--most-steps"}) {
      app_->get_option(name)->group(of_flow);
    }
    rank_.add_to_outputs(*app_, "points");
    add_json(*app_, json_);
    machine_.add_to(*app_);
  }

  bool on_ranks() const override { return true; }

  void run() override {
    steps_.check(scheme_);
    const Scheme scheme = is_adaptive(scheme_) ? Scheme::heun : parse_scheme(scheme_);
    const bool of_the_sde = scheme == Scheme::euler_maruyama;
    refuse_options_of(of_the_sde ? of_flow : of_sde);
    if (probe_repeats_ > 1 && probes_.probes == 0) {
      throw CLI::ValidationError(fmt::format(
          "--probe-repeats {} given with the exact divergence, which has no such error; allowed: with --probes "
          "1 or more",
          probe_repeats_));
    }
    if (!std::isfinite(bits_offset_)) {
      throw CLI::ValidationError(fmt::format("--bits-per-dim {} given; allowed: a finite offset", bits_offset_));
    }
    rank_.check();
    const std::vector<Claim> claims = claim_outputs(
        rank_.files_of({out_}), {model_.path, file_of_text(grid_), ArrayName(points_).file, model_.condition_file()});
    const Model model = model_.load();
    if (of_the_sde && model.condition() > 0) {
      throw Error(
          fmt::format("--condition '{}' given with --scheme {}; allowed for the reverse SDE: one condition for all "
                      "points, and a file of one for each with euler, heun and rk4",
                      model_.condition, scheme_));
    }
    Array points = load_points(points_, model.dimension());
    const Context context = machine_.context();
    range_ = rank_.range(points.shape[0]);
    call_ = shared_call(rank_.in_parts(), *app_, context, model, {"--out"},
                        {{"--model", model_.path},
                         {"--points", ArrayName(points_).file},
                         {"--grid", file_of_text(grid_)},
                         {"--condition", model_.condition_file()}});
    Json json{
        {"points", rank_.in_parts() ? range_.count : range_.all}, {"dimension", model.dimension()}, {"out", out_}};
    json["rank"] = rank_.describe(range_);
    json["scheme"] = is_adaptive(scheme_) ? scheme_ : to_string(scheme);
    model_.describe_condition(json);
    if (of_the_sde) {
      run_sde(context, model, points, std::move(json));
    } else {
      run_flow(context, model, points, scheme, std::move(json));
    }
  }

 private:
  void refuse_options_of(const std::string& group) const {
    for (const CLI::Option* option : app_->get_options([&](const CLI::Option* o) { return o->get_group() == group; })) {
      if (option->count() == 0) continue;
      const bool flow = group == of_flow;
      throw CLI::ValidationError(
          fmt::format("{} given with --scheme {}; allowed: with {}{}", option->get_name(), scheme_,
                      flow ? "euler, heun and rk4, of the probability-flow ODE" : "euler-maruyama, of the reverse SDE",
                      option->get_name() == "--time" ? "; the ODE's density is that at the last time of --grid" : ""));
    }
  }

  void run_sde(const Context& context, const Model& model, const Array& points, Json json) {
    if (model.output() == Output::score) {
      throw Error(
          fmt::format("--scheme {} given for a score net, whose reverse SDE has no density that is known; "
                      "allowed: euler, heun and rk4, of the probability-flow ODE",
                      scheme_));
    }
    const std::int64_t n = range_.count, d = model.dimension();
    const Array own = range_.of_rows(points);
    options_.first_index = static_cast<std::uint64_t>(range_.first);
    if (app_->count("--time") == 0) time_ = model.sde.t_min();
    Progress progress({{fmt::format("log density at {}", counted(n, "point")), "density", 1}});
    progress.begin();
    const Stopwatch clock;
    options_.progress = [&](double done) { progress.update(done); };
    SdeDensity density = sde_log_density(context, model, time_, {own.data.data(), n, d}, options_);
    for (std::vector<double>* numbers : {&density.log_density, &density.standard_error, &density.step_error,
                                         &density.effective_paths, &density.tail_index}) {
      *numbers = gather_rows(std::move(*numbers), 1, range_);
    }
    density.heavy_tailed = sum_over_ranks(density.heavy_tailed);
    progress.clear();
    if (!is_first_rank()) return;
    std::map<std::string, std::vector<double>> beside{{"standard_error", density.standard_error},
                                                      {"step_error", density.step_error},
                                                      {"effective_paths", density.effective_paths},
                                                      {"tail_index", density.tail_index}};
    save(model, density.log_density, std::move(beside));
    Warnings warnings;
    if (density.heavy_tailed > 0) {
      warnings.push_back(
          fmt::format("the largest weights at {} of {} fall off so slowly that their errors may not be trusted",
                      density.heavy_tailed, counted(std::ssize(density.log_density), "point")));
    }
    json["time"] = time_;
    json["paths"] = options_.paths;
    json["steps"] = options_.steps;
    json["seed"] = options_.seed;
    json["heavy_tailed"] = density.heavy_tailed;
    // Beyond the numbers of float is beyond any reach.
    std::vector<float> rounded;
    constexpr double most = std::numeric_limits<float>::max();
    for (const double x : rank_.in_parts() ? own.data : points.data)
      rounded.push_back(static_cast<float>(std::clamp(x, -most, most)));
    report(context, model, rounded, density.log_density, "", warnings, std::move(json), clock, progress);
  }

  void run_flow(const Context& context, const Model& model, const Array& points, Scheme scheme, Json json) {
    Divergence divergence = probes_.divergence();
    suit_grid(*app_, model, grid_);
    const TimeGrid grid = TimeGrid::parse(grid_, model.sde);
    const Sampler sampler(context, model, grid);
    const bool adaptive = is_adaptive(scheme_);
    std::optional<AdaptiveSampler<float>> by_tolerance;
    if (adaptive) {
      by_tolerance.emplace(adaptive_sampler(context, model, grid, steps_.options(scheme_)));
      check_flow_density(context, *by_tolerance, divergence, "--scheme " + scheme_);
    } else {
      check_flow_density(context, sampler, scheme, divergence, "--scheme " + scheme_);
    }
    const std::int64_t n = range_.count, c = model.condition(), d = model.dimension();
    const std::vector<float> all_x = finite_float32(points, points_), x = range_.of_rows(all_x, d),
                             conditions = range_.of_rows(model_.conditions(model, points_, range_.all), c);
    divergence.first_index = static_cast<std::uint64_t>(range_.first);
    Progress progress({{fmt::format("log density at {}", counted(n, "point")), "density", 1}});
    progress.begin();
    const Stopwatch clock;
    const Buffer<float> there = to_device(context, x, d);
    Buffer<float> density(context, n), given;
    if (c > 0) given = to_device(context, conditions, c);
    // The paths are the same each time but for the steps of a tolerance: an estimate is linear in its probes, so this is that
    // by all of them.
    Repeated estimates(n);
    AdaptiveReport paths;
    for (std::int64_t k = 0; k < probe_repeats_; ++k, ++divergence.seed) {
      const PointsFinished finished =
          as_fraction([&](double done) { progress.update((double(k) + done) / double(probe_repeats_)); });
      if (adaptive) {
        add(paths, sum_over_ranks(by_tolerance->log_density(there.view(), density.view(), divergence,
                                                            {.condition = given.view(), .progress = finished}),
                                  range_));
      } else {
        sampler.log_density(there.view(), density.view(), scheme, divergence, finished, given.view());
      }
      estimates.add(to_host(context, density.view()));
    }
    const std::vector<float> log_density = gather_rows(estimates.mean(), 1, range_);
    std::vector<float> errors;
    if (probe_repeats_ > 1) errors = gather_rows(estimates.standard_error(), 1, range_);
    progress.clear();
    if (!is_first_rank()) return;
    std::map<std::string, std::vector<float>> beside;
    if (probe_repeats_ > 1) beside["standard_error"] = errors;
    save(model, log_density, std::move(beside));
    time_ = grid.times().back();
    json["time"] = time_;
    json["grid"] = grid_;
    json["steps"] = adaptive ? describe_steps(steps_.options(scheme_), paths) : Json(grid.steps());
    json["probes"] = divergence.probes;
    json["probe_seed"] = probes_.seed;
    json["probe_repeats"] = probe_repeats_;
    json["probe_error"] = probe_repeats_ > 1 ? Json(typical(errors)) : Json();
    Warnings warnings;
    append(warnings, {paths.failure()});
    report(context, model, rank_.in_parts() ? x : all_x, log_density, advice_on(grid), warnings, std::move(json), clock,
           progress, adaptive ? "; " + text_of(paths) : "");
  }

  // To the paths of the repeats before it.
  static void add(AdaptiveReport& all, const AdaptiveReport& repeat) {
    AdaptiveReport sum = all.failed > 0 ? all : repeat;  // the first failure is that of the first repeat that has one
    sum.paths = all.paths + repeat.paths, sum.failed = all.failed + repeat.failed;
    sum.accepted = all.accepted + repeat.accepted, sum.refused = all.refused + repeat.refused;
    sum.evaluations = all.evaluations + repeat.evaluations;
    sum.most_evaluations = std::max(all.most_evaluations, repeat.most_evaluations);
    all = sum;
  }

  // The file, as its ending says, with all that stands beside the log densities or without.
  template <class T>
  void save(const Model& model, const std::vector<T>& log_density, std::map<std::string, std::vector<T>> beside) const {
    const std::vector<std::int64_t> shape{std::ssize(log_density)};
    if (out_.ends_with(".safetensors")) {
      if (in_bits()) beside["bits_per_dim"] = bits_of(log_density, model.dimension());
      beside["log_density"] = log_density;
      SafeTensors file;
      for (const auto& [name, numbers] : beside) {
        if constexpr (std::is_same_v<T, float>) {
          file.tensors[name] = Tensor::from_float(shape, numbers.data());
        } else {
          file.tensors[name] = Tensor::from_double(shape, numbers.data());
        }
      }
      file.save(out_);
    } else {
      save_array(out_, "log_density", shape, log_density.data());
    }
    if (rank_.in_parts()) save_part({.file = out_, .holds = "log densities", .range = range_, .call = call_});
  }

  bool in_bits() const { return app_->count("--bits-per-dim") > 0; }
  template <class T>
  std::vector<T> bits_of(const std::vector<T>& log_density, std::int64_t d) const {
    std::vector<T> bits;
    for (const T v : log_density) bits.push_back(T(bits_offset_ - v / nats_of_a_bit(d)));
    return bits;
  }
  static double nats_of_a_bit(std::int64_t d) { return std::numbers::ln2 * double(d); }  // per dimension

  // advice: what the warning of densities that are not finite ends in; steps: what the line of the result ends in.
  template <class T>
  void report(const Context& context, const Model& model, const std::vector<float>& points,
              const std::vector<T>& log_density, const std::string& advice, const Warnings& warnings, Json json,
              const Stopwatch& clock, Progress& progress, const std::string& steps = "") const {
    const double seconds = clock.seconds();
    const std::int64_t n = std::ssize(log_density);
    const Mean mean = mean_of(log_density);
    const double in_nats = nats_of_a_bit(model.dimension()), bits = bits_offset_ - mean.value / in_nats,
                 bits_error = mean.standard_error / in_nats;
    const Reach reach = reach_at(time_, model, model_.path);
    const SampleHealth health = health_of(context, model, to_device(context, points, model.dimension()).view(), reach);
    std::string lost = warning_of("log densities", {.count = n, .not_finite = n - mean.count});
    if (!lost.empty()) lost += advice;
    Warnings all;
    append(all, {std::move(lost)});
    append(all, warnings);
    append(all, {warning_of("points", health, 0, reach.why)});
    warn(all);
    if (json_) {
      json["mean"] = mean.value;
      json["standard_error"] = mean.standard_error;
      json["bits_per_dim"] = nullptr;
      if (in_bits()) {
        json["bits_per_dim"] = {{"offset", bits_offset_}, {"mean", bits}, {"standard_error", bits_error}};
      }
      json["not_finite"] = n - mean.count;
      json["far_out"] = health.far_out;
      json["far"] = health.far;
      json["warnings"] = all;
      json["sde"] = describe_sde(model.sde);
      json["backend"] = context.backend_name();
      json["precision"] = to_string(context.precision());
      json["threads"] = context.threads();
      json["seconds"] = seconds;
      print_json(json);
    } else {
      std::string more;
      if (const Json probe_error = json.value("probe_error", Json()); probe_error.is_number()) {
        more += fmt::format(", of the probes {} a point", number_or_dash(probe_error.get<double>()));
      }
      if (in_bits()) {
        more += fmt::format("; {} bits per dimension with the offset {}, standard error {}", number_or_dash(bits),
                            bits_offset_, number_or_dash(bits_error));
      }
      progress.say(fmt::format("{} {} by {} in {}, in '{}'; mean {} nats, standard error {}{}, {} not finite{}; SDE {}",
                               n, n == 1 ? "log density" : "log densities", counted(context.threads(), "thread"),
                               format_duration(seconds), out_, number_or_dash(mean.value),
                               number_or_dash(mean.standard_error), more, n - mean.count, steps, text_of(model.sde)));
    }
  }

  ModelOptions model_;
  RankOption rank_;
  IndexRange range_;  // of the points
  Json call_;         // of a part
  ProbeOptions probes_;
  AdaptiveStepOptions steps_;
  std::string points_, out_, scheme_ = "euler-maruyama", grid_ = "paper";
  double time_ = 0, bits_offset_ = 0;
  std::int64_t probe_repeats_ = 1;
  SdeDensityOptions options_;
  bool json_ = false;
  MachineOptions machine_;
};

}  // namespace

std::unique_ptr<Command> density_command(CLI::App& parent) { return std::make_unique<Density>(parent); }

}  // namespace fokker::tools
