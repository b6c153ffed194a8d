// fokker sample: samples of either sampler, and their log density along the probability flow.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adaptive.hpp"
#include "commands/command.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "measure.hpp"
#include "parts.hpp"
#include "ranks.hpp"

namespace fokker::tools {
namespace {

class Sample : public Command {
 public:
  explicit Sample(CLI::App& parent) : Command(parent, "sample", "Draw samples from a model") {
    explain(R"(
Sample i depends on the seed and on i alone, for any number of threads: calls with --first-index 0 and 500 and 500
samples each draw those of one call with 1000. With --rank I/R a process draws part I of R, and 'fokker merge' makes of
the parts the file of one call; as R ranks of MPI the program writes that at once. --json prints the mean and the
covariance of the samples that are finite too, and how many those are, in up to 16 dimensions.
)",
            files_help({"--model", "--initial", "--condition"}), R"(
  fokker train --data circles2 --out circles2.safetensors
  fokker sample --model circles2.safetensors --scheme sde --samples 100000 --out sde.npy
  fokker sample --model circles2.safetensors --scheme heun --grid geometric:150:1e-3 --samples 10000 \
                --out ode.npy --log-density log_p.npy
  fokker sample --model circles2.safetensors --samples 500 --first-index 500 --out more.npy --trajectory paths.npz
  python3 -c 'import numpy; paths = numpy.load("paths.npz"); print(paths["t"], paths["x"].shape)'
)");
    model_.add_to(*app_);
    model_.add_condition(*app_, "sample");
    app_->add_option(
            "--scheme", scheme_,
            "euler (or ode), heun or rk4 for the probability-flow ODE; euler-maruyama (or sde), exponential, "
            "ddim, dpm++2m or stochastic-heun for it, the reverse SDE and what lies between and beyond them, as "
            "--eta says; bs32, tsit5 or dopri5 for the ODE from the first to the last time of --grid by steps of each "
            "sample's own")
        ->capture_default_str()
        ->check(usable(check_scheme));
    steps_.add_to(*app_);
    add_number(
        *app_, "--eta", eta_,
        "factor of the noise in dx = [a x - (1 + eta^2)/2 g^2 s] dt + eta g dW: 0 for the ODE, 1 for the reverse "
        "SDE, up to 100, with ddim up to 1; if not given, 1, and 0 for ddim and dpm++2m")
        ->default_str("");
    add_number(*app_, "--temperature", options_.temperature,
               "what the variance of the noise is multiplied by; below 1 samples gather where the density is high");
    app_->add_option(
            "--churn", churn_,
            "S[:FROM:TO[:NOISE]], noise before each step of euler, heun or rk4 where sigma/m is FROM to TO: it "
            "is raised by the factor 1 + min(S/steps, 0.414), by the forward SDE with NOISE times its noise; if "
            "FROM, TO and NOISE are not given, everywhere and by 1")
        ->type_name("TEXT")
        ->check(usable([](const std::string& text) { parse_churn(text); }));
    add_number(*app_, "--langevin", options_.langevin,
               "ratio r of a Langevin step x + e s + sqrt(2 e) z, e = 2 (r sigma)^2, before each step, as "
               "predictor-corrector samplers take it, 0 to 1: 0.16 is usual, 0 is none");
    add_grid(*app_, grid_);
    add_samples(*app_, samples_, "number of samples");
    add_seed(*app_, options_.seed, "seed of the prior's draw and of the Brownian path of each sample");
    add_integer<std::uint64_t>(*app_, "--first-index", options_.first_index,
                               "index of the first sample, for samples drawn in several calls", 0,
                               std::numeric_limits<std::int64_t>::max());
    rank_.add_to_outputs(*app_, "samples");
    app_->add_option(
            "--initial", initial_,
            "file of states, an array [N, d] (.npy, .npz or .csv), at the first time of --grid: paths begin there and "
            "not with draws of the prior, and there are as many samples")
        ->type_name("FILE");
    app_->add_option("--out", out_, "file for the samples, a .npy file, float32 [N, d], or a .csv file")
        ->required()
        ->type_name("FILE")
        ->check(ends_in(array_endings));
    app_->add_option(
            "--log-density", log_density_,
            "file for the log density of the ODE's law at the samples, a .npy file, float32 [N], or a .csv file; "
            "integrated along the paths of euler, heun and rk4, by a second pass of bs32, tsit5 and dopri5, or by heun "
            "where these do not draw the samples")
        ->type_name("FILE")
        ->check(ends_in(array_endings));
    probes_.add_to(*app_);
    CLI::Option* const trajectory =
        app_->add_option("--trajectory", trajectory_,
                         "file for the states on the way, a .npz file: x, float32 [K, N, d], whose first are those "
                         "that the paths begin with and whose last the samples, and their times t, float64 [K]")
            ->type_name("FILE")
            ->check(ends_in({".npz"}));
    add_integer<std::int64_t>(*app_, "--snapshots", snapshots_,
                              "number K of states of a trajectory, evenly over the steps; if not given, 11, or what "
                              "the grid has where that is less",
                              2, most_snapshots)
        ->default_str("")
        ->needs(trajectory);
    add_json(*app_, json_);
    machine_.add_to(*app_);
  }

  bool on_ranks() const override { return true; }

  void run() override {
    const bool adaptive = is_adaptive(scheme_);
    steps_.check(scheme_, {"--eta", "--temperature", "--churn", "--langevin", "--trajectory"});
    options_.scheme = adaptive ? Scheme::heun : parse_scheme(scheme_);
    if (app_->count("--eta") > 0) options_.eta = eta_;
    if (!churn_.empty()) options_.churn = parse_churn(churn_);
    check_usage([&] { options_.validate(); });
    Divergence divergence = probes_.divergence();
    rank_.check();
    const std::vector<Claim> claims =
        claim_outputs(rank_.files_of({out_, log_density_, trajectory_}),
                      {model_.path, file_of_text(grid_), ArrayName(initial_).file, model_.condition_file()});
    const Model model = model_.load();
    const std::int64_t d = model.dimension();
    suit_grid(*app_, model, grid_);
    const TimeGrid grid = TimeGrid::parse(grid_, model.sde);
    std::vector<float> initial = read_initial(d), conditions = model_.conditions(model);
    if (model.condition() > 0) take_number(model_.condition, "--condition", std::ssize(conditions) / model.condition());
    const IndexRange range = rank_.range(samples_);
    const bool shared = ranks()->size() > 1;  // over ranks, of which the first writes
    const std::vector<float> initial_of_all = shared && is_first_rank() ? initial : std::vector<float>();
    initial = range.of_rows(std::move(initial), d);
    conditions = range.of_rows(std::move(conditions), model.condition());
    const std::int64_t written = shared ? range.all : range.count;  // by one process its own, or those of all
    samples_ = range.count;
    const std::uint64_t first_index = options_.first_index;  // of all parts
    options_.first_index += static_cast<std::uint64_t>(range.first);
    divergence.first_index = options_.first_index;
    if (!trajectory_.empty()) options_.snapshot_steps = steps_to_keep(grid, written, d);
    const Context context = machine_.context();
    const Json call_of_part =
        shared_call(rank_.in_parts(), *app_, context, model, {"--out", "--log-density", "--trajectory"},
                    {{"--model", model_.path},
                     {"--grid", file_of_text(grid_)},
                     {"--initial", ArrayName(initial_).file},
                     {"--condition", model_.condition_file()}});
    const Sampler sampler(context, model, grid);
    const Scheme flow = is_stochastic(options_.scheme) ? Scheme::heun : options_.scheme;
    std::optional<AdaptiveSampler<float>> by_tolerance;
    if (adaptive) by_tolerance.emplace(adaptive_sampler(context, model, grid, steps_.options(scheme_)));
    if (!log_density_.empty() && adaptive) {
      check_flow_density(context, *by_tolerance, divergence, "--log-density");
    } else if (!log_density_.empty()) {
      check_flow_density(context, sampler, flow, divergence, "--log-density");
    }
    // The paths that draw the samples are the flow's from the prior, and have the log density too.
    const bool along_paths = !log_density_.empty() && !adaptive && flow == options_.scheme && initial_.empty() &&
                             options_.churn.amount == 0 && options_.langevin == 0;
    const bool afterwards = !log_density_.empty() && !along_paths;

    std::vector<Progress::Phase> phases{
        {fmt::format("sampling {} by {}", samples_, adaptive ? scheme_ : to_string(options_.scheme)), "sample", 1}};
    if (afterwards) phases.push_back({"integrating the log density along the flow", "density", 1});
    Progress progress(std::move(phases));
    progress.begin();
    const Stopwatch clock;
    Warnings warnings;
    const PointsFinished finished = as_fraction([&](double done) { progress.update(done); });
    Buffer<float> samples = initial_.empty() ? Buffer<float>(context, samples_, d) : to_device(context, initial, d);
    Buffer<float> kept(context, std::ssize(options_.snapshot_steps) * samples_, d);
    options_.snapshots = kept.view();
    Buffer<float> given;
    if (model.condition() > 0) {
      given = to_device(context, conditions, model.condition());
      options_.condition = given.view();
    }
    options_.progress = finished;
    Buffer<float> density(context, log_density_.empty() ? 0 : samples_);
    if (along_paths) options_.log_density = density.view(), options_.divergence = divergence;
    const AdaptiveCall<float> call{.seed = options_.seed,
                                   .first_index = options_.first_index,
                                   .condition = options_.condition,
                                   .progress = finished};
    AdaptiveReport paths, density_paths;
    if (initial_.empty() && adaptive) {
      paths = by_tolerance->sample(samples.view(), call);
    } else if (initial_.empty()) {
      sampler.sample(samples.view(), options_);
    } else {
      if (is_first_rank()) {
        const Reach reach = reach_at(grid.times().front(), model, model_.path);
        const Buffer<float> all = to_device(context, initial_of_all, d);
        const SampleHealth health = health_of(context, model, shared ? all.view() : samples.view(), reach);
        append(warnings, {warning_of("initial states", health, 0, reach.why)});
      }
      if (adaptive) {
        paths = by_tolerance->integrate(samples.view(), call);
      } else {
        sampler.integrate(samples.view(), options_);
      }
    }
    const std::vector<float> on_host = gather_rows(to_host(context, samples.view()), d, range);
    paths = sum_over_ranks(paths, range);
    const double seconds = clock.seconds();
    const bool writes = is_first_rank();
    const auto save_beside = [&](const std::string& file, const char* holds) {
      if (rank_.in_parts()) save_part({.file = file, .holds = holds, .range = range, .call = call_of_part});
    };
    if (writes) {
      save_array(out_, "x", {written, d}, on_host.data());
      save_beside(out_, "samples");
    }
    std::vector<double> times_kept;
    for (const std::int32_t step : options_.snapshot_steps) {
      times_kept.push_back(grid.times()[static_cast<std::size_t>(step)]);
    }
    if (!trajectory_.empty()) {
      const std::int64_t count = std::ssize(times_kept);
      std::vector<float> states;
      for (std::int64_t k = 0; k < count; ++k) {
        const View<const float> own = View<const float>(kept.view()).slice(k * samples_, samples_);
        const std::vector<float> of_all = gather_rows(to_host(context, own), d, range);
        states.insert(states.end(), of_all.begin(), of_all.end());
      }
      if (writes) {
        save_npz(trajectory_, {{"x", {count, written, d}, states.data()}, {"t", {count}, times_kept.data()}});
        save_beside(trajectory_, "states on the way");
      }
    }
    if (afterwards) {
      progress.begin();
      if (adaptive) {
        density_paths = by_tolerance->log_density(samples.view(), density.view(), divergence, call);
      } else {
        sampler.log_density(samples.view(), density.view(), flow, divergence, finished, options_.condition);
      }
      density_paths = sum_over_ranks(density_paths, range);
    }
    std::vector<float> densities;
    if (!log_density_.empty()) densities = gather_rows(to_host(context, density.view()), 1, range);
    progress.clear();
    if (!writes) return;
    const Reach reach = reach_of(model, model_.path);
    const Buffer<float> of_all = shared ? to_device(context, on_host, d) : std::move(samples);
    const SampleHealth health = health_of(context, model, of_all.view(), reach);
    SampleHealth density_health;
    if (!log_density_.empty()) {
      save_array(log_density_, "log_density", {written}, densities.data());
      save_beside(log_density_, "log densities");
      const Buffer<float> there = to_device(context, densities, 1);
      density_health = sample_health(context, there.view());
    }
    const std::string advice = health.not_finite > 0 ? advice_on(grid) : "";
    append(warnings, {paths.failure(), warning_of("samples", health, 0, reach.why) + advice, density_paths.failure(),
                      warning_of("log densities", density_health)});
    warn(warnings);
    if (json_) {
      Json json{{"samples", written}, {"dimension", d}};
      json["scheme"] = adaptive ? scheme_ : to_string(options_.scheme);
      json["eta"] = options_.chosen_eta();
      json["temperature"] = options_.temperature;
      json["churn"] = nullptr;
      if (options_.churn.amount > 0) {
        const Churn& churn = options_.churn;
        json["churn"] = {{"amount", churn.amount}, {"from", churn.from}, {"to", churn.to}, {"noise", churn.noise}};
      }
      json["langevin"] = options_.langevin;
      json["grid"] = grid_;
      json["steps"] = adaptive ? describe_steps(steps_.options(scheme_), paths) : Json(grid.steps());
      json["seed"] = options_.seed;
      json["first_index"] = shared ? first_index : options_.first_index;
      json["rank"] = rank_.describe(range);
      model_.describe_condition(json);
      json["initial"] = initial_.empty() ? Json() : Json(initial_);
      json["out"] = out_;
      json["log_density"] = log_density_.empty() ? Json() : Json(log_density_);
      if (adaptive && !log_density_.empty()) {
        json["log_density_steps"] = describe_steps(steps_.options(scheme_), density_paths);
      }
      json["trajectory"] = trajectory_.empty() ? Json() : Json{{"out", trajectory_}, {"times", times_kept}};
      json["sde"] = describe_sde(model.sde);
      json["not_finite"] = health.not_finite;
      json["far_out"] = health.far_out;
      json["far"] = health.far;
      json["warnings"] = warnings;
      json["moments"] = d <= 16 ? describe(moments(context, of_all.view())) : Json();
      json["backend"] = context.backend_name();
      json["precision"] = to_string(context.precision());
      json["threads"] = context.threads();
      json["seconds"] = seconds;
      print_json(json);
    } else {
      progress.say(fmt::format("{} by {} in {}, in '{}'{}; SDE {}", counted(written, "sample"),
                               counted(context.threads(), "thread"), format_duration(seconds), out_,
                               adaptive ? "; " + text_of(paths) : "", text_of(model.sde)));
    }
  }

 private:
  // S[:FROM:TO[:NOISE]].
  static Churn parse_churn(const std::string& text) {
    std::vector<double> numbers;
    std::string::size_type begin = 0;
    while (begin <= text.size()) {
      const auto end = std::min(text.find(':', begin), text.size());
      if (!CLI::detail::lexical_cast(text.substr(begin, end - begin), numbers.emplace_back())) numbers.clear();
      if (numbers.empty()) break;
      begin = end + 1;
    }
    if (numbers.size() != 1 && numbers.size() != 3 && numbers.size() != 4) {
      throw Error(
          fmt::format("'{}' given; allowed: S, S:FROM:TO or S:FROM:TO:NOISE, numbers as 40:0.05:50:1.003", text));
    }
    Churn churn{.amount = numbers[0]};
    if (numbers.size() > 1) churn.from = numbers[1], churn.to = numbers[2];
    if (numbers.size() > 3) churn.noise = numbers[3];
    SampleOptions{.scheme = Scheme::heun, .churn = churn}.validate();
    return churn;
  }

  // [N, d], of which it sets the number of samples; empty where paths begin with the prior.
  std::vector<float> read_initial(std::int64_t d) {
    if (app_->count("--initial") == 0) return {};
    const Array file = load_points(initial_, d);
    take_number(initial_, "--initial", file.shape[0]);
    return finite_float32(file, initial_, "states");
  }

  // The number of samples, which a file of something for each of them sets.
  void take_number(const std::string& file, const char* option, std::int64_t rows) {
    const std::string what = option == std::string("--initial") ? "state" : "condition";
    if (app_->count("--samples") > 0 && samples_ != rows) {
      throw Error(fmt::format("--samples {} given with {} '{}' of {}; allowed: {}, or no --samples", samples_, option,
                              file, counted(rows, what), rows));
    }
    if (number_from_ != nullptr && samples_ != rows) {
      throw Error(fmt::format("{} '{}' of {} given with {} of {}; allowed: as many", option, file, counted(rows, what),
                              number_from_, samples_));
    }
    samples_ = rows, number_from_ = option;
  }

  // Evenly from none to all of the grid's steps. Throws Error where it has too few, or the states are too many.
  std::vector<std::int32_t> steps_to_keep(const TimeGrid& grid, std::int64_t samples, std::int64_t d) const {
    const std::int64_t steps = grid.steps(), there = steps + 1,
                       count = app_->count("--snapshots") > 0 ? snapshots_ : std::min<std::int64_t>(11, there);
    if (count > there) {
      throw Error(fmt::format("--snapshots {} given; allowed: 2 to {} with a grid of {}", count, there,
                              counted(steps, "step")));
    }
    if (samples > most_kept / count / d) {
      throw Error(
          fmt::format("--trajectory with {} states of {} in {} would have {:.4g} numbers; allowed: up to {:.4g}, "
                      "by fewer --snapshots, or in several calls with --first-index",
                      count, counted(samples, "sample"), counted(d, "dimension"),
                      double(count) * double(samples) * double(d), double(most_kept)));
    }
    std::vector<std::int32_t> kept;
    for (std::int64_t k = 0; k < count; ++k) {
      kept.push_back(static_cast<std::int32_t>((k * steps + (count - 1) / 2) / (count - 1)));
    }
    return kept;
  }

  static Json describe(const Moments& moments) {
    Json covariance = Json::array();
    const auto row = static_cast<std::ptrdiff_t>(moments.mean.size());
    for (auto at = moments.covariance.begin(); at != moments.covariance.end(); at += row) {
      covariance.push_back(std::vector<double>(at, at + row));
    }
    return {{"count", moments.count},
            {"left_out", moments.left_out},
            {"mean", moments.mean},
            {"covariance", std::move(covariance)}};
  }

  ModelOptions model_;
  RankOption rank_;
  ProbeOptions probes_;
  AdaptiveStepOptions steps_;
  static constexpr std::int64_t most_kept = 500'000'000;  // numbers of trajectories, which memory holds twice

  double eta_ = 1;
  std::string scheme_ = "euler-maruyama", churn_, grid_ = "paper", initial_, out_, log_density_, trajectory_;
  SampleOptions options_;
  std::int64_t samples_ = 10000, snapshots_ = 11;
  const char* number_from_ = nullptr;  // the option whose file set the number of samples
  bool json_ = false;
  MachineOptions machine_;
};

}  // namespace

std::unique_ptr<Command> sample_command(CLI::App& parent) { return std::make_unique<Sample>(parent); }

}  // namespace fokker::tools
