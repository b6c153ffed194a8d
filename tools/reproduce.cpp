// The paper's experiment: for each data set and each weight w_R of the Fokker–Planck residual, train, sample by the
// reverse SDE and by the probability-flow ODE, and measure the gap. DIR/DATA_wW holds each run: recipe.json,
// state.safetensors while it trains, log.csv, then model.safetensors, training.json, gap.json and the histograms. A
// second call goes on where the first stopped; DIR/results.json gathers what is finished.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "console.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "measure.hpp"
#include "options.hpp"
#include "training.hpp"

namespace fokker::tools {
namespace {

struct Preset {
  std::string name;
  std::vector<std::string> data;
  std::vector<double> weights;
  Architecture architecture;
  TrainOptions train;
  GapOptions gap;
};

Preset find_preset(const std::string& name) {
  // The paper's network has softplus beta 100; training that short does not fit one so sharp. At 40 the gap falls from
  // w_R = 0 to 1 by 1.8 noise floors or more for each of the seeds tried (0, 1, 2); at 20 for some by less than one.
  Preset preset{.name = name, .data = {"circles2"}, .weights = {0, 1}, .architecture = {}, .train = {}, .gap = {}};
  preset.architecture.beta = 40;
  preset.gap.samples = 50000;
  if (name == "smoke") {
    preset.architecture.beta = 20;  // what so few iterations fit
    preset.train.iterations = 300;
    preset.train.denoising_points = 1024;
    preset.train.collocation_points = 256;
    preset.gap.samples = 5000;
    preset.gap.grid = "geometric:100:1e-3";
  } else if (name == "paper") {
    preset.data = {"blob", "circles2", "checker"};
    preset.weights = {0, 0.1, 1, 10};
    preset.architecture.beta = 100;
    preset.train.iterations = 100000;
    preset.train.denoising_points = 200000;
    preset.train.collocation_points = 50000;
    preset.train.time_law = TimeLaw::paper;
    preset.train.schedule = RateSchedule::paper;
    preset.train.average = WeightAverage::none;
    preset.gap.samples = 3000000;
  }
  return preset;
}

// W2² between the histograms that the paper's authors published (network simplex), and mean R² of their checkpoints.
struct Published {
  const char* data;
  double weight, ode_sde, ode_truth, sde_truth, escaped_ode, escaped_sde, mean_square;
};
constexpr Published published_results[] = {
    {"blob", 0, 0.01160, 0.01097, 0.00218, 0.00147, 0.00052, 12.5},
    {"blob", 0.1, 0.00311, 0.00604, 0.00294, 0.00163, 0.00156, 0.0101},
    {"blob", 1, 0.00290, 0.00528, 0.00427, 0.00349, 0.00357, 0.0036},
    {"blob", 10, 0.00221, 0.01723, 0.01599, 0.02480, 0.02591, 0.0012},
    {"checker", 0, 0.02720, 0.02442, 0.00368, 0.00058, 0, 251},
    {"checker", 0.1, 0.00716, 0.01139, 0.00539, 0.00174, 0.00164, 0.063},
    {"checker", 1, 0.00353, 0.01143, 0.01155, 0.00333, 0.00330, 0.0068},
    {"checker", 10, 0.00210, 0.03305, 0.03216, 0.02327, 0.02420, 0.00096},
};

// The noise floor is that of two full draws of the truth; with more samples lost than this, a distance is between other
// laws, and its ratio to the floor says nothing.
constexpr double most_escaped = 0.05;

struct Run {
  DataSet data;
  Architecture architecture;
  TrainOptions train;
  std::string folder, title;
  Json recipe;

  std::string file(const char* name) const { return fmt::format("{}/{}", folder, name); }
  bool trained() const { return is_file(file("model.safetensors")) && is_file(file("training.json")); }
};

Json read_json(const std::string& path) {
  try {
    return Json::parse(read_text(path));
  } catch (const Json::parse_error&) {
    throw Error(fmt::format("'{}' is not JSON; remove it, or choose another --out", path));
  }
}

// training.json of a finished run.
Json read_training(const Run& run) {
  const Json training = read_json(run.file("training.json"));
  if (!training.is_object() || !training.contains("seconds") || !training["seconds"].is_number()) {
    throw Error(fmt::format("'{}' has no number \"seconds\"; remove the folder '{}' to train again",
                            run.file("training.json"), run.folder));
  }
  return training;
}

// The first key, with its path, whose values differ.
std::string first_difference(const Json& found, const Json& wanted) {
  for (const auto& [key, value] : wanted.items()) {
    const Json other = found.is_object() && found.contains(key) ? found[key] : Json();
    if (other == value) continue;
    if (value.is_object()) return fmt::format("{}.{}", key, first_difference(other, value));
    return fmt::format("{}: {} there, {} asked for", key, other.dump(), value.dump());
  }
  return "other keys";
}

Json recipe_of(const Architecture& architecture, const ForwardSde& sde, const DataSet& data,
               const TrainOptions& train) {
  Json recipe = describe_recipe(architecture, sde, data, train);
  recipe["data_contents"] = data.fingerprint();  // a file of the same name may hold another law by the next call
  return recipe;
}

// What is there already is overwritten only where a reproduction wrote it.
void check_results(const std::string& path) {
  check_writable(path);
  if (!is_file(path)) return;
  const Json found = read_json(path);
  if (found.is_object() && found.contains("preset") && found.contains("runs")) return;
  throw Error(fmt::format(
      "'{}' is there and is not of a reproduction, which has \"preset\" and \"runs\"; choose another --out", path));
}

// A folder that holds what was trained also says by which recipe, and both say the same.
void check_run(const Run& run) {
  const std::string advice = "choose another --out, or remove that folder";
  if (!is_file(run.file("recipe.json"))) {
    for (const char* name : {"model.safetensors", "state.safetensors"}) {
      if (!is_file(run.file(name))) continue;
      throw Error(
          fmt::format("'{}' holds {} and no recipe.json that says how it was trained; {}", run.folder, name, advice));
    }
    return;
  }
  const Json found = read_json(run.file("recipe.json"));
  if (found != run.recipe) {
    throw Error(fmt::format("'{}' holds a run with another recipe ({}); {}", run.folder,
                            first_difference(found, run.recipe), advice));
  }
  if (!run.trained()) return;
  read_training(run);
  const ModelMetadata metadata = SafeTensors::load(run.file("model.safetensors")).metadata;
  const auto trained_by = metadata.find("training");
  if (trained_by == metadata.end() || trained_by->second != text_of(run.recipe)) {
    throw Error(
        fmt::format("'{}' was not trained by the recipe.json beside it; {}", run.file("model.safetensors"), advice));
  }
}

class Reproduction {
 public:
  explicit Reproduction(CLI::App& app) : app_(app) {
    app.add_option(
           "--preset", preset_name_,
           "smoke (seconds), quick (circles2 at w_R = 0 and 1 in minutes on two cores) or paper (full size, meant "
           "for a GPU)")
        ->capture_default_str()
        ->check(CLI::IsMember({"smoke", "quick", "paper"}));
    app.add_option("--out", out_, "folder for models, states, logs and results; going on where an earlier run stopped")
        ->required();
    app.add_option("--data", data_, "instead of the preset's: blob, circles2, checker, MIXTURE.json, SAMPLES.npy")
        ->delimiter(',')
        ->check(data_name());
    // What stands for the preset's own has no default to show.
    add_numbers(app, "--weights", weights_, "instead of the preset's weights w_R: 0,0.1,1,10")->default_str("");
    add_integer<std::int64_t>(app, "--iterations", iterations_, "instead of the preset's number of training iterations",
                              1, max_samples)
        ->default_str("");
    add_integer<std::int64_t>(app, "--samples", samples_, "instead of the preset's number of samples", 1, max_samples)
        ->default_str("");
    app.add_option("--grid", grid_,
                   "instead of the preset's times: paper, uniform:STEPS[:END], geometric:STEPS[:END], file:TIMES.npy")
        ->check(grid_text());
    app.add_option("--activation", activation_, "of the network: " + activations_help() + "; softplus where not given");
    add_number(app, "--beta", beta_, "instead of the preset's beta of softplus")->default_str("");
    add_integer(app, "--seed", seed_, "of everything random")->capture_default_str();
    machine_.add_to(app);
    app.footer(
        std::string("Examples:\n"
                    "  reproduce --preset quick --out quick\n"
                    "  reproduce --preset quick --data checker --weights 0,0.1,1 --activation silu --out checker\n\n") +
        exit_codes_help);
  }

  void run() {
    const Stopwatch clock;
    configure();
    const Context context = machine_.context();
    Progress progress(phases());
    Json results = describe_machine();
    results["preset"] = preset_.name;
    results["backend"] = context.backend_name();
    results["threads"] = context.threads();
    results["gap_options"] = gap_options_json(context);
    results["box"] = Grid{}.half_width;
    results["runs"] = Json::array();
    progress.say(fmt::format("{} on the {} backend, {}, into '{}'", counted(std::ssize(runs_), "run"),
                             context.backend_name(), counted(context.threads(), "thread"), out_));
    std::string truth_of;
    Truth truth;
    for (const Run& run : runs_) {
      const Model model = train(context, run, progress);
      if (!measured(context, run)) {
        if (truth_of != run.data.name()) truth = measure_truth(context, run.data, preset_.gap);
        truth_of = run.data.name();
        measure(context, run, model, truth, progress);
      } else {
        for (int step = 0; step < gap_steps; ++step) progress.skip();
      }
      Json result{{"folder", std::filesystem::path(run.folder).filename().string()},
                  {"data", run.data.name()},
                  {"residual_weight", run.train.residual_weight},
                  {"recipe", run.recipe},
                  {"model", describe_model(model)},
                  {"training", read_training(run)},
                  {"gap", read_json(run.file("gap.json"))}};
      results["runs"].push_back(std::move(result));
      results["finished"] = results["runs"].size() == runs_.size();
      results["seconds"] = clock.seconds();
      write_text(out_ + "/results.json", text_of(results, 1) + "\n");
    }
    progress.clear();
    print(results);
    fmt::print("\n{} in all; results in '{}/results.json'\n", format_duration(clock.seconds()), out_);
  }

 private:
  bool given(const char* option) const { return app_.count(option) > 0; }

  void configure() {
    preset_ = find_preset(preset_name_);
    if (given("--data")) preset_.data = data_;
    if (given("--weights")) preset_.weights = weights_;
    if (given("--iterations")) preset_.train.iterations = iterations_;
    if (given("--samples")) preset_.gap.samples = samples_;
    if (given("--grid")) preset_.gap.grid = grid_;
    if (given("--activation")) {
      check_usage([&] { preset_.architecture.activation = parse_activation(activation_); });
    }
    if (given("--beta")) preset_.architecture.beta = beta_;
    preset_.train.seed = preset_.gap.seed = seed_;
    const std::vector<double> times = TimeGrid::parse(preset_.gap.grid, sde_).times();
    grid_contents_ = fingerprint({reinterpret_cast<const char*>(times.data()), times.size() * sizeof(double)});

    for (const std::string& name : preset_.data) {
      const DataSet data = DataSet::named(name);
      for (const double weight : preset_.weights) {
        Architecture architecture = preset_.architecture;
        architecture.dimension = data.dimension();
        check_usage([&] { architecture.validate(); });
        TrainOptions train = preset_.train;
        train.residual_weight = weight;
        check_usage([&] { train.validate(); });
        const std::string folder = fmt::format("{}/{}_w{}", out_, std::filesystem::path(name).stem().string(), weight);
        for (const Run& run : runs_) {
          if (run.folder == folder) throw Error(fmt::format("two runs would share the folder '{}'", folder));
        }
        runs_.push_back({.data = data,
                         .architecture = architecture,
                         .train = train,
                         .folder = folder,
                         .title = fmt::format("{}, w_R = {}", name, weight),
                         .recipe = recipe_of(architecture, sde_, data, train)});
      }
    }
    // All folders are looked at before any work, so that a mistake costs nothing.
    make_folder(out_);
    check_results(out_ + "/results.json");
    for (const Run& run : runs_) check_run(run);
    for (const Run& run : runs_) {
      make_folder(run.folder);
      if (!is_file(run.file("recipe.json"))) write_text(run.file("recipe.json"), text_of(run.recipe, 1) + "\n");
    }
  }

  // Costs in seconds on two cores of 2024; what counts is their ratio, until the first of each kind has been timed.
  std::vector<Progress::Phase> phases() const {
    std::vector<Progress::Phase> phases;
    for (const Run& run : runs_) {
      const TrainOptions& o = run.train;
      const double points =
          double(o.denoising_points) + (o.residual_weight > 0 ? 2.0 * double(o.collocation_points) : 0);
      const double sampling = 0.4e-6 * double(preset_.gap.samples) * TimeGrid::parse(preset_.gap.grid, sde_).steps();
      phases.push_back({run.title + ": training", "train", 1e-6 * points * double(o.iterations)});
      phases.push_back({run.title + ": reverse SDE", "sample", sampling});
      phases.push_back({run.title + ": probability-flow ODE", "sample", sampling});
      phases.push_back({run.title + ": distances", "measure", 3});
    }
    return phases;
  }

  Json gap_options_json(const Context& context) const {
    const GapOptions& o = preset_.gap;
    return {{"samples", o.samples},
            {"seed", o.seed},
            {"grid", o.grid},
            {"ode_scheme", to_string(o.ode_scheme)},
            {"precision", to_string(context.precision())}};
  }

  // What gap.json was measured with and from: files of the same names may hold something else by the next call.
  Json measured_from(const Context& context, const Run& run) const {
    Json json = gap_options_json(context);
    json["model_contents"] = fingerprint(read_text(run.file("model.safetensors")));
    json["grid_contents"] = grid_contents_;
    return json;
  }

  Model train(const Context& context, const Run& run, Progress& progress) const {
    const std::string model_file = run.file("model.safetensors"), state = run.file("state.safetensors");
    if (run.trained()) {
      progress.skip();
      return load_model(model_file);
    }
    const bool resumed = is_file(state);
    Trainer trainer =
        resumed ? Trainer::resume(context, state, run.data)
                : Trainer(context, {sde_, Mlp::initialise(run.architecture, run.train.seed)}, run.data, run.train);
    if (resumed) {
      const Model model = trainer.model();
      const Json found = recipe_of(std::get<Mlp>(model.network).architecture, model.sde, run.data, trainer.options());
      if (found != run.recipe) {
        throw Error(fmt::format("'{}' is the state of another recipe ({}); remove it to train anew", state,
                                first_difference(found, run.recipe)));
      }
    }
    const std::int64_t first = trainer.iteration();
    progress.begin(double(first) / double(run.train.iterations));
    const TrainingResult result = run_training(trainer,
                                               {.state = state,
                                                .save = {.iterations = 0, .seconds = 20},
                                                .log = run.file("log.csv"),
                                                .log_every = std::max<std::int64_t>(1, run.train.iterations / 10000)},
                                               progress);
    const Json training{{"seconds", result.seconds}, {"first_iteration", first}, {"iterations", run.train.iterations}};
    write_text(run.file("training.json"), training.dump(1) + "\n");
    save_model(model_file, trainer.model(), {{"training", text_of(run.recipe)}});
    std::filesystem::remove(state);
    if (result.interrupted) {
      throw Error(fmt::format("interrupted; {} is trained, and a second call goes on from there", run.title));
    }
    return load_model(model_file);
  }

  bool measured(const Context& context, const Run& run) const {
    if (!is_file(run.file("gap.json"))) return false;
    const bool planar = run.data.dimension() == 2;
    for (const char* name : histogram_files) {
      if (planar && !is_file(fmt::format("{}/{}.npy", run.folder, name))) return false;
    }
    const Json found = read_json(run.file("gap.json"));
    const Json wanted = measured_from(context, run);
    for (const auto& [key, value] : wanted.items()) {
      if (!found.contains(key) || found[key] != value) return false;
    }
    const std::string distances = planar ? "/w2_squared" : "/sliced_w2_squared";
    for (const std::string& path :
         {distances + "/ode_sde", distances + "/ode_truth", distances + "/sde_truth", std::string("/noise_floor"),
          std::string("/escaped/ode"), std::string("/escaped/sde"), std::string("/seconds/ode"),
          std::string("/seconds/sde"), std::string("/residual"), std::string("/w2_squared")}) {
      if (!found.contains(Json::json_pointer(path))) return false;
    }
    return true;
  }

  void measure(const Context& context, const Run& run, const Model& model, const Truth& truth,
               Progress& progress) const {
    const Gap gap = measure_gap(context, model, truth, preset_.gap, [&](int) -> FractionDone {
      progress.begin();
      return [&](double done) { progress.update(done); };
    });
    if (run.data.dimension() == 2) save_histograms(run.folder, gap, truth);
    Json json = gap_json(gap, truth, preset_.gap);
    json.update(measured_from(context, run));
    write_text(run.file("gap.json"), text_of(json, 1) + "\n");
  }

  static double number(const Json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }
  static std::string cell(const Json& value, const char* format = "{:.5f}") {
    return number_or_dash(number(value), format);
  }

  static const Json& distances(const Json& gap) {
    return gap["w2_squared"].is_null() ? gap["sliced_w2_squared"] : gap["w2_squared"];
  }

  void print(const Json& results) const {
    const auto planar = std::count_if(runs_.begin(), runs_.end(), [](const Run& r) { return r.data.dimension() == 2; });
    fmt::print("{} of {} samples each{}; R is the Fokker–Planck residual, centred: its mean at each time removed\n\n",
               planar == 0 ? "Sliced W2²" : "W2²", preset_.gap.samples,
               planar == 0 || planar == std::ssize(runs_) ? "" : ", sliced where the data are not planar");
    fmt::print("{:<10} {:>5}  {:>9} {:>9} {:>9} {:>9}  {:>8} {:>8}  {:>9} {:>9}  {:>8} {:>8}\n", "data", "w_R",
               "ODE–SDE", "ODE–truth", "SDE–truth", "floor", "esc. ODE", "esc. SDE", "mean R²", "centred", "training",
               "sampling");
    for (const Json& run : results["runs"]) {
      const Json& gap = run["gap"];
      const Json& w2 = distances(gap);
      const Json residual = gap["residual"].is_null() ? Json::object() : gap["residual"];
      const double seconds = number(gap["seconds"]["ode"]) + number(gap["seconds"]["sde"]);
      const std::string data = run["data"];
      const double weight = run["residual_weight"];
      fmt::print("{:<10} {:>5}  {:>9} {:>9} {:>9} {:>9}  {:>8} {:>8}  {:>9} {:>9}  {:>6.0f} s {:>6.0f} s\n", data,
                 weight, cell(w2["ode_sde"]), cell(w2["ode_truth"]), cell(w2["sde_truth"]), cell(gap["noise_floor"]),
                 cell(gap["escaped"]["ode"]), cell(gap["escaped"]["sde"]),
                 cell(residual.value("mean_square", Json()), "{:.3g}"),
                 cell(residual.value("centred_mean_square", Json()), "{:.3g}"), number(run["training"]["seconds"]),
                 seconds);
      if (preset_.name != "paper") continue;
      for (const Published& p : published_results) {
        if (p.data != data || p.weight != weight) continue;
        fmt::print("{:<10} {:>5}  {:>9.5f} {:>9.5f} {:>9.5f} {:>9.5f}  {:>8.5f} {:>8.5f}  {:>9.3g}\n", "  published",
                   "", p.ode_sde, p.ode_truth, p.sde_truth, 5.5e-4, p.escaped_ode, p.escaped_sde, p.mean_square);
      }
    }
    fmt::print("\n");
    for (const std::string& name : preset_.data) print_verdict(results, name);
    std::fflush(stdout);
    for (const Json& run : results["runs"]) {
      for (const auto& [key, sampler] : {std::pair("ode", "ODE"), std::pair("sde", "SDE")}) {
        if (number(run["gap"]["escaped"][key]) != 1) continue;
        note_all_lost("reproduce",
                      fmt::format("all {} samples of the {} for {}, w_R = {}", preset_.gap.samples, sampler,
                                  run["data"].get<std::string>(), number(run["residual_weight"])));
      }
    }
  }

  // The experiment's statement for one data set: does the gap at the weight nearest 1 fall by more than the noise
  // floor?
  void print_verdict(const Json& results, const std::string& name) const {
    const Json *without = nullptr, *with = nullptr;
    for (const Json& run : results["runs"]) {
      if (run["data"] != name) continue;
      const double weight = run["residual_weight"];
      if (weight == 0) without = &run;
      if (weight > 0 &&
          (with == nullptr || std::abs(std::log(weight)) < std::abs(std::log(number((*with)["residual_weight"]))))) {
        with = &run;
      }
    }
    if (without == nullptr || with == nullptr) return;
    const double before = number(distances((*without)["gap"])["ode_sde"]),
                 after = number(distances((*with)["gap"])["ode_sde"]);
    if (!std::isfinite(before) || !std::isfinite(after)) return;
    const double floor = number((*without)["gap"]["noise_floor"]), change = std::abs(before - after);
    double escaped = 0;
    for (const Json* run : {without, with}) {
      for (const Json& fraction : (*run)["gap"]["escaped"]) escaped = std::max(escaped, number(fraction));
    }
    const std::int64_t samples = preset_.gap.samples;
    const std::string by =
        escaped > most_escaped
            ? fmt::format("{:.5f}; of {} samples as few as {} were left, so that no noise floor compares", change,
                          samples, std::llround((1 - escaped) * double(samples)))
        : floor > 0  ? fmt::format("{:.1f} noise floors", change / floor)
        : floor == 0 ? fmt::format("{:.5f} with a noise floor of 0", change)
                     : fmt::format("{:.5f}", change);
    fmt::print("{}: the ODE–SDE gap {} from {:.5f} at w_R = 0 to {:.5f} at w_R = {}, by {}\n", name,
               after < before ? "falls" : "rises", before, after, number((*with)["residual_weight"]), by);
  }

  CLI::App& app_;
  std::string preset_name_ = "quick", out_, grid_, activation_;
  std::vector<std::string> data_;
  std::vector<double> weights_;
  std::int64_t iterations_ = 0, samples_ = 0;
  double beta_ = 0;
  std::uint64_t seed_ = 0;
  std::string grid_contents_;
  MachineOptions machine_;

  Preset preset_;
  ForwardSde sde_ = ForwardSde::defaults(SdeKind::ou);
  std::vector<Run> runs_;
};

int main_of_reproduce(int argc, char** argv) {
  CLI::App app("Reproduce the ODE–SDE gap and how the Fokker–Planck residual closes it.", "reproduce");
  Reproduction reproduction(app);
  return run_main(app, argc, argv, [&] { reproduction.run(); });
}

}  // namespace
}  // namespace fokker::tools

int main(int argc, char** argv) { return fokker::tools::main_of_reproduce(argc, argv); }
