// The paper's experiment: for each data set and each weight w_R of the Fokker–Planck residual, and in a study for
// several activations and seeds, train, sample by the reverse SDE and by the probability-flow ODE, and measure the gap.
// DIR/DATA_ACTIVATION_wW_sSEED holds each run: recipe.json, state.safetensors while it trains, log.csv, training.json,
// then model.safetensors, samples.safetensors while it is sampled, gap.json, the histograms, along_the_way.npy and,
// where it was asked for, energy.safetensors while it is diagnosed and diagnosis.json. States, samples and energies are
// saved every 20 seconds. A second call goes on where the first stopped, and one that asks for more weights, seeds or
// activations takes over the runs that are there; DIR/results.json gathers what is finished. A run whose loss was not
// finite leaves failed.json and is not tried again until its folder is removed; the others go on.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <span>
#include <utility>

#include "console.hpp"
#include "diagnose.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "measure.hpp"
#include "options.hpp"
#include "presets.hpp"
#include "results.hpp"
#include "training.hpp"

namespace fokker::tools {
namespace {

// Runs whose trainings share a GPU, which one small network does not fill: the paper's twelve, and as many as the
// library trains in one launch.
constexpr std::size_t most_together = 12;

// In a run's folder, until model.safetensors, gap.json and diagnosis.json are there.
constexpr const char *kept_training = "state.safetensors", *kept_samples = "samples.safetensors",
                     *kept_energy = "energy.safetensors";

struct Run {
  DataSet data;
  std::uint64_t seed;  // of the training and of the samples
  NetworkActivation activation;
  Architecture architecture;
  TrainOptions train;
  std::string folder, title;
  Json recipe;

  std::string file(const char* name) const { return fmt::format("{}/{}", folder, name); }
  bool trained() const { return is_file(file("model.safetensors")) && is_file(file("training.json")); }
  bool failed() const { return is_file(file("failed.json")); }
};

Json read_json(const std::string& path) {
  try {
    return Json::parse(read_text(path));
  } catch (const Json::parse_error&) {
    throw Error(fmt::format("'{}' is not JSON; remove it, or choose another --out", path));
  }
}

// training.json of a run that ended.
Json read_training(const Run& run) {
  const Json training = read_json(run.file("training.json"));
  if (!training.is_object() || !training.contains("seconds") || !training["seconds"].is_number()) {
    throw Error(fmt::format("'{}' has no number \"seconds\"; remove the folder '{}' to train again",
                            run.file("training.json"), run.folder));
  }
  return training;
}

// The sentence in failed.json.
std::string read_failure(const Run& run) {
  const Json found = read_json(run.file("failed.json"));
  if (!found.is_object() || !found.contains("failed") || !found["failed"].is_string()) {
    throw Error(fmt::format("'{}' has no text \"failed\"; remove the folder '{}' to train again",
                            run.file("failed.json"), run.folder));
  }
  return found["failed"];
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
    for (const char* name : {"model.safetensors", kept_training}) {
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
  if (run.failed()) read_failure(run);
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
           "smoke (seconds), quick (circles2 at w_R = 0 and 1 in minutes on two cores), paper (full size, meant for a "
           "GPU), activations (four of them at w_R = 0 and 1 with three seeds, full size) or activations-quick (the "
           "same small and on circles2, a quarter of an hour on two cores)")
        ->capture_default_str()
        ->check(CLI::IsMember(preset_names));
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
    app.add_option("--activation", activation_, "instead of the preset's: " + activations_help());
    add_number(app, "--beta", beta_, "of softplus, instead of the preset's")->default_str("");
    add_integer(app, "--seed", seed_, "of everything random")->capture_default_str();
    add_integer<std::int64_t>(app, "--seeds", seeds_, "instead of the preset's number of seeds, from --seed on", 1,
                              1000)
        ->default_str("");
    app.add_option(
           "--detail", detail_,
           "yes or no instead of the preset's: the gap between T and 0, and on a finer grid, of planar data, some "
           "five seconds a run")
        ->check(CLI::IsMember({"yes", "no"}));
    app.add_option(
           "--bounds", bounds_,
           "yes or no instead of the preset's: the energy of the reverse SDE and the upper bound of the gap, of "
           "planar data, half a minute a run on two cores")
        ->check(CLI::IsMember({"yes", "no"}));
    machine_.add_to(app);
    app.footer(
        std::string(
            "Examples:\n"
            "  reproduce --preset quick --out quick\n"
            "  reproduce --preset quick --data checker --weights 0,0.1,1 --activation silu --out checker\n\n"
            "A second call with the same options goes on where the first was ended. Killed in the midst of a "
            "save, it leaves\nthe earlier file and beside it a file .fokker-PID-N.tmp, which may be removed.\n\n") +
        exit_codes_help);
  }

  void run() {
    configure();
    const Context context = machine_.context();
    if (context.device() == Device::cuda) together_ = most_together;
    Progress progress(phases());
    Json results = describe_machine();
    results["preset"] = preset_.name;
    results["backend"] = context.backend_name();
    results["threads"] = context.threads();
    results["gap_options"] = gap_options_json(context, preset_.gap);
    results["seeds"] = preset_.seeds;
    results["box"] = Grid{}.half_width;
    progress.say(fmt::format("{} on the {} backend, {}, into '{}'", counted(std::ssize(runs_), "run"),
                             context.backend_name(), counted(context.threads(), "thread"), out_));
    std::vector<Json> entries;
    for (const Run& run : runs_) entries.push_back(entry_of(context, run));
    std::map<std::pair<std::string, std::uint64_t>, TruthOfRun> truths;  // of each data set and seed
    for (const Group& group : groups()) {
      train(context, group, progress);
      for (const Run* const member : group) {
        const Run& run = *member;
        const int phases = gap_steps + (has_bounds(run) ? 1 : 0);
        if (run.failed()) {
          for (int phase = 0; phase < phases; ++phase) progress.skip();
        } else {
          std::filesystem::remove(run.file(kept_training));
          if (!measured(context, run)) {
            const Stopwatch clock;
            const auto of = std::pair(run.data.name(), run.seed);
            if (!truths.contains(of)) {
              if (run.data.dimension() != 2) truths.clear();  // of samples rather than histograms one is enough
              truths[of] = truth_for(context, run);
            }
            measure(context, run, truths[of], clock.seconds(), progress);
          } else {
            for (int step = 0; step < gap_steps; ++step) progress.skip();
          }
          std::filesystem::remove(run.file(kept_samples));
          if (has_bounds(run)) diagnose_run(context, run, progress);
          std::filesystem::remove(run.file(kept_energy));
        }
        entries[std::size_t(&run - runs_.data())] = entry_of(context, run);
        gather(entries, results);
      }
    }
    progress.clear();
    print(results);
    fmt::print("\n{} of training, sampling and measuring; results in '{}/results.json'\n",
               format_duration(number(results["seconds"])), out_);
    std::fflush(stdout);
    const auto failed = std::ssize(results["runs"]) - std::ssize(without_failed(results["runs"]));
    if (failed > 0) {
      throw Error(
          fmt::format("{} of {} failed, which '{}/results.json' explains; one whose folder is removed trains again",
                      failed, counted(std::ssize(runs_), "run"), out_));
    }
  }

 private:
  using Group = std::vector<const Run*>;  // whose trainings run side by side

  bool given(const char* option) const { return app_.count(option) > 0; }

  void configure() {
    preset_ = find_preset(preset_name_);
    preset_.gap.seed = seed_;
    if (given("--data")) preset_.data = data_;
    if (given("--weights")) preset_.weights = weights_;
    if (given("--iterations")) preset_.train.iterations = iterations_;
    if (given("--samples")) preset_.gap.samples = samples_;
    if (given("--grid")) preset_.gap.grid = grid_;
    if (given("--detail")) preset_.gap.in_detail = detail_ == "yes";
    if (given("--bounds")) preset_.bounds = bounds_ == "yes";
    if (given("--seeds")) preset_.seeds = seeds_;
    if (given("--activation")) {
      check_usage([&] { preset_.activations = {{parse_activation(activation_), preset_.activations.front().beta}}; });
    }
    // One softplus, where the preset has several.
    if (given("--beta")) preset_.activations = {{preset_.activations.front().activation, beta_}};
    for (const char* option : {"--iterations", "--grid", "--activation", "--beta"}) {
      if (given(option)) preset_.published = false;  // another recipe, which other numbers are of
    }
    const std::vector<double> times = TimeGrid::parse(preset_.gap.grid, sde_).times();
    grid_contents_ = fingerprint({reinterpret_cast<const char*>(times.data()), times.size() * sizeof(double)});

    for (const std::string& name : preset_.data) {
      const DataSet data = DataSet::named(name);
      for (std::int64_t i = 0; i < preset_.seeds; ++i) {
        for (const NetworkActivation& activation : preset_.activations) {
          for (const double weight : preset_.weights) {
            Architecture architecture;
            architecture.dimension = data.dimension();
            architecture.activation = activation.activation;
            architecture.beta = activation.beta;
            check_usage([&] { architecture.validate(); });
            TrainOptions train = preset_.train;
            train.residual_weight = weight;
            train.seed = seed_ + static_cast<std::uint64_t>(i);
            check_usage([&] { train.validate(); });
            std::string word = activation.name(), title = name;
            std::erase(word, ' ');
            const std::string folder = fmt::format(
                "{}/{}_{}_w{}_s{}", out_, std::filesystem::path(name).stem().string(), word, weight, train.seed);
            if (preset_.activations.size() > 1) title += ", " + activation.name();
            title += fmt::format(", w_R = {}", weight);
            if (preset_.seeds > 1) title += fmt::format(", seed {}", train.seed);
            for (const Run& run : runs_) {
              if (run.folder != folder) continue;
              throw Error(fmt::format(
                  "two runs would share the folder '{}'; allowed: weights that differ, and data of names that differ",
                  folder));
            }
            runs_.push_back({.data = data,
                             .seed = train.seed,
                             .activation = activation,
                             .architecture = architecture,
                             .train = train,
                             .folder = folder,
                             .title = title,
                             .recipe = recipe_of(architecture, sde_, data, train)});
          }
        }
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

  static std::string title_of(const Group& group) {
    return group.size() == 1 ? group.front()->title
                             : fmt::format("{} and {} more", group.front()->title, group.size() - 1);
  }

  // Costs in seconds on two cores of 2024; what counts is their ratio, until the first of each kind has been timed.
  std::vector<Progress::Phase> phases() const {
    std::vector<Progress::Phase> phases;
    const double sampling = 0.4e-6 * double(preset_.gap.samples) * TimeGrid::parse(preset_.gap.grid, sde_).steps();
    for (const Group& group : groups()) {
      double training = 0;
      for (const Run* const run : group) {
        const TrainOptions& o = run->train;
        const double points =
            double(o.denoising_points) + (o.residual_weight > 0 ? 2.0 * double(o.collocation_points) : 0);
        training += 1e-6 * points * double(o.iterations);
      }
      phases.push_back({title_of(group) + ": training", "train", training});
      for (const Run* const run : group) {
        phases.push_back({run->title + ": reverse SDE", "sample", sampling});
        phases.push_back({run->title + ": probability-flow ODE", "sample", sampling});
        phases.push_back({run->title + ": distances", "measure", 4});
        if (has_bounds(*run)) phases.push_back({run->title + ": bound", "bound", 20});
      }
    }
    return phases;
  }

  GapOptions gap_options(const Run& run) const {
    GapOptions options = preset_.gap;
    options.seed = run.seed;
    return options;
  }

  static Json gap_options_json(const Context& context, const GapOptions& o) {
    return {{"samples", o.samples},
            {"seed", o.seed},
            {"grid", o.grid},
            {"ode_scheme", to_string(o.ode_scheme)},
            {"precision", to_string(context.precision())}};
  }

  // What gap.json was measured with and from: files of the same names may hold something else by the next call.
  Json measured_from(const Context& context, const Run& run) const {
    Json json = gap_options_json(context, gap_options(run));
    json["model_contents"] = fingerprint(read_text(run.file("model.safetensors")));
    json["grid_contents"] = grid_contents_;
    json["gap_version"] = gap_version;
    return json;
  }

  // The text that unfinished work made `from` that is kept under. It also names what computes: one result is not made
  // of two backends, instruction sets, devices or versions.
  static std::string kept_work(const Context& context, Json from) {
    from["version"] = version();
    from["backend"] = context.backend_name();
    from["precision"] = to_string(context.precision());
    for (const BackendStatus& status : backend_status()) {
      if (status.name == context.backend_name()) from["backend_detail"] = status.detail;
    }
    return text_of(from);
  }

  std::vector<Group> groups() const {
    std::vector<Architecture> architectures;
    for (const Run& run : runs_) architectures.push_back(run.architecture);
    std::vector<Group> groups;
    for (const std::vector<std::size_t>& places : side_by_side(architectures, together_)) {
      Group& group = groups.emplace_back();
      for (const std::size_t place : places) group.push_back(&runs_[place]);
    }
    return groups;
  }

  // The run's trainer, where an earlier call left it.
  Trainer trainer_of(const Context& context, const Run& run) const {
    const std::string state = run.file(kept_training);
    if (!is_file(state)) {
      return Trainer(context, {sde_, Mlp::initialise(run.architecture, run.train.seed)}, run.data, run.train);
    }
    Trainer trainer = Trainer::resume(context, state, run.data);
    const Model model = trainer.model();
    const Json found = recipe_of(std::get<Mlp>(model.network).architecture, model.sde, run.data, trainer.options());
    if (found != run.recipe) {
      throw Error(fmt::format("'{}' is the state of another recipe ({}); remove it to train anew", state,
                              first_difference(found, run.recipe)));
    }
    return trainer;
  }

  // Leaves model.safetensors and training.json in the folder of each, or failed.json. All but the model are written
  // with every state: what ends this call loses no more than the time since, and no iteration that failed runs again.
  void train(const Context& context, const Group& group, Progress& progress) const {
    std::vector<const Run*> runs;
    std::vector<Trainer> trainers;
    std::vector<TrainingFiles> files;
    std::vector<std::int64_t> first;
    std::vector<double> seconds_before;
    double done = 0, all = 0;
    for (const Run* const member : group) {
      const Run& run = *member;
      if (run.trained() || run.failed()) continue;
      runs.push_back(&run);
      const bool resumes = is_file(run.file(kept_training)) && is_file(run.file("training.json"));
      seconds_before.push_back(resumes ? read_training(run)["seconds"].get<double>() : 0);
      trainers.push_back(trainer_of(context, run));
      files.push_back({.state = run.file(kept_training),
                       .log = run.file("log.csv"),
                       .log_every = std::max<std::int64_t>(1, run.train.iterations / 10000)});
      first.push_back(trainers.back().iteration());
      done += double(first.back());
      all += double(run.train.iterations);
    }
    if (runs.empty()) return progress.skip();
    std::vector<Trainer*> pointers;
    for (Trainer& trainer : trainers) pointers.push_back(&trainer);
    progress.begin(done / all);
    const auto record = [&](std::span<const TrainingResult> results) {
      for (std::size_t i = 0; i < runs.size(); ++i) {
        const Json training{{"seconds", seconds_before[i] + results[i].seconds},
                            {"first_iteration", first[i]},
                            {"iterations", runs[i]->train.iterations},
                            {"trained_together", runs.size()}};
        write_text(runs[i]->file("training.json"), training.dump(1) + "\n");
        if (results[i].failure.empty()) continue;
        const Json failure{{"failed", results[i].failure}, {"iteration", trainers[i].iteration()}};
        write_text(runs[i]->file("failed.json"), text_of(failure, 1) + "\n");
      }
    };
    const std::vector<TrainingResult> results =
        run_trainings(pointers, files, {.iterations = 0, .seconds = 20}, progress, record);
    for (std::size_t i = 0; i < runs.size(); ++i) {
      if (!results[i].failure.empty()) continue;
      save_model(runs[i]->file("model.safetensors"), trainers[i].model(), {{"training", text_of(runs[i]->recipe)}});
    }
    if (results.front().interrupted) {
      throw Error(fmt::format("interrupted; {} is trained, and a second call goes on from there", title_of(group)));
    }
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
    return !in_detail(run) ||
           (found.contains("along_the_way") && is_file(fmt::format("{}/{}.npy", run.folder, way_file)));
  }

  // What the runs of one data set and seed are compared with.
  struct TruthOfRun {
    Truth truth;
    std::vector<double> noise_floors_along_the_way;
  };
  TruthOfRun truth_for(const Context& context, const Run& run) const {
    TruthOfRun found{measure_truth(context, run.data, gap_options(run)), {}};
    if (in_detail(run)) {
      found.noise_floors_along_the_way = noise_floors_along_the_way(context, sde_, run.data, gap_options(run));
    }
    return found;
  }

  // `truth_seconds` were spent on the truth and count as measuring.
  void measure(const Context& context, const Run& run, const TruthOfRun& truth, double truth_seconds,
               Progress& progress) const {
    const Model model = load_model(run.file("model.safetensors"));
    const Json from = measured_from(context, run);
    Json sampled_from = from;
    sampled_from["in_detail"] = in_detail(run);
    sampled_from["box"] = {{"nodes", Grid{}.n}, {"half_width", Grid{}.half_width}};
    const Gap gap = measure_gap(context, model, truth.truth, gap_options(run),
                                [&](int, double done) -> FractionDone {
                                  progress.begin(done);
                                  return [&](double now) { progress.update(now); };
                                },
                                {.file = run.file(kept_samples), .work = kept_work(context, sampled_from)});
    if (run.data.dimension() == 2) save_histograms(run.folder, gap, truth.truth);
    Json json = gap_json(gap, truth.truth, gap_options(run));
    const Stopwatch clock;
    json["denoising_loss"] = denoising_loss(context, model, run.data, run.seed);
    if (gap.along_the_way) json["along_the_way"]["noise_floor"] = truth.noise_floors_along_the_way;
    json.update(from);
    json["seconds"]["measure"] = truth_seconds + gap.measure_seconds + clock.seconds();
    write_text(run.file("gap.json"), text_of(json, 1) + "\n");
  }

  bool in_detail(const Run& run) const { return preset_.gap.in_detail && run.data.dimension() == 2; }
  bool has_bounds(const Run& run) const { return preset_.bounds && run.data.dimension() == 2; }

  // Times of the diagnosis: uniform from T to T/10, where potentials without the residual in their loss change fast,
  // and with a constant ratio from there to the end of the samplers' times, or t_min where that is 0.
  std::vector<double> diagnosis_times() const {
    constexpr int early = 90, late = 70;
    const double horizon = sde_.horizon(), middle = 0.1 * horizon,
                 end = std::max(TimeGrid::parse(preset_.gap.grid, sde_).times().back(), sde_.t_min());
    std::vector<double> times;
    for (int k = 0; k < early; ++k) times.push_back(std::lerp(horizon, std::max(middle, end), double(k) / early));
    for (int k = 0; k < late && end < middle; ++k) times.push_back(middle * std::pow(end / middle, double(k) / late));
    times.push_back(end);
    return times;
  }

  EnergyOptions energy_options() const {
    EnergyOptions energy;
    energy.nodes = preset_.energy_nodes;
    return energy;
  }

  // What diagnosis.json was computed from and how; the library's defaults go with its version.
  Json diagnosed_from(const Run& run) const {
    const std::vector<double> times = diagnosis_times();
    return {
        {"model_contents", fingerprint(read_text(run.file("model.safetensors")))},
        {"grid_contents", fingerprint({reinterpret_cast<const char*>(times.data()), times.size() * sizeof(double)})},
        {"seed", run.seed},
        {"nodes", energy_options().nodes},
        {"box", energy_options().box},
        {"method", fmt::format("fokker {}, diagnosis {}", version(), diagnosis_version)}};
  }

  // Leaves diagnosis.json in the run's folder, and beside the folders the times that it is for.
  void diagnose_run(const Context& context, const Run& run, Progress& progress) const {
    if (diagnosed(run)) return progress.skip();
    const std::vector<double> times = diagnosis_times();
    const std::string times_file = out_ + "/diagnosis_times.npy";
    const Json from = diagnosed_from(run);
    save_npy(times_file, {std::ssize(times)}, times.data());
    const DiagnoseOptions options{
        .grid = "file:" + times_file, .energy = energy_options(), .bound = {}, .samples = 0, .seed = run.seed};
    // The energy takes most of the time, and no samples are drawn.
    static constexpr double energy_share = 0.9;
    const Diagnosis found =
        diagnose(context, load_model(run.file("model.safetensors")), options,
                 [&](int step, double done) -> FractionDone {
                   if (step == 0) progress.begin(energy_share * done);
                   return [&progress, step](double now) {
                     progress.update(step == 0 ? energy_share * now : energy_share + (1 - energy_share) * now);
                   };
                 },
                 {.file = run.file(kept_energy), .work = kept_work(context, from)});
    Json json = diagnosis_json(found, options);
    json.erase("gap");  // measured elsewhere
    json["grid"] = "file:diagnosis_times.npy";
    json.update(from);
    json["seconds"] = found.seconds;
    write_text(run.file("diagnosis.json"), text_of(json, 1) + "\n");
  }

  // diagnosis.json without its lists over all times.
  static Json read_diagnosis(const Run& run) {
    Json json = read_json(run.file("diagnosis.json"));
    for (const char* list : {"times", "energy", "standard_error", "step_error", "mass"}) json["energy"].erase(list);
    for (const char* where : {"over_samples", "over_box"}) {
      Json& bound = json["upper_bound"][where];
      bound.erase("largest_eigenvalue");
      const double log = number(bound["log_bound"]);
      bound["text"] = std::isfinite(log) ? Json(exponential(log)) : Json();  // the bound itself no double may hold
    }
    return json;
  }

  bool diagnosed(const Run& run) const {
    if (!is_file(run.file("diagnosis.json"))) return false;
    const Json found = read_json(run.file("diagnosis.json")), wanted = diagnosed_from(run);
    if (!found.is_object() || !found.contains("upper_bound")) return false;
    for (const auto& [key, value] : wanted.items()) {
      if (found.value(key, Json()) != value) return false;
    }
    return true;
  }

  // What results.json has of a run; null where it is not finished, by whichever call.
  Json entry_of(const Context& context, const Run& run) const {
    const bool finished = run.trained() && measured(context, run) && (!has_bounds(run) || diagnosed(run));
    return run.failed() || finished ? describe(run) : Json();
  }

  // Writes results.json. entries: as entry_of(), in the order of runs_.
  void gather(const std::vector<Json>& entries, Json& results) const {
    results["runs"] = Json::array();
    for (const Json& entry : entries) {
      if (!entry.is_null()) results["runs"].push_back(entry);
    }
    Json summary = summarise(without_failed(results["runs"]));
    results["verdicts"] = verdicts(summary, preset_.gap.samples);
    if (preset_.published) {
      results["acceptance"] = acceptance(summary);
      for (Json& entry : summary) entry["published"] = published(entry["data"], entry["residual_weight"]);
    }
    results["summary"] = std::move(summary);
    results["most_escaped"] = most_escaped;
    results["finished"] = results["runs"].size() == runs_.size();
    results["seconds"] = seconds_of(results["runs"]);
    write_text(out_ + "/results.json", text_of(results, 1) + "\n");
  }

  // A finished run as results.json has it; of one that failed, what and why.
  Json describe(const Run& run) const {
    Json result{
        {"folder", std::filesystem::path(run.folder).filename().string()},
        {"data", run.data.name()},
        {"residual_weight", run.train.residual_weight},
        {"seed", run.seed},
        {"activation", {{"name", run.activation.name()}, {"largest_second_derivative", run.activation.roughness()}}},
        {"recipe", run.recipe}};
    if (run.failed()) {
      result["failed"] = read_failure(run);
      if (is_file(run.file("training.json"))) result["training"] = read_training(run);
      return result;
    }
    result["model"] = describe_model(load_model(run.file("model.safetensors")));
    result["training"] = read_training(run);
    result["gap"] = read_json(run.file("gap.json"));
    result["diagnosis"] = has_bounds(run) ? read_diagnosis(run) : Json();
    return result;
  }

  static std::string cell(const Json& value, const char* format = "{:.5f}") {
    return number_or_dash(number(value), format);
  }

  // What tells a run's row from others: "circles2", and in a study "circles2, tanh, seed 1".
  std::string label(const Json& run) const {
    std::string text = run["data"];
    if (preset_.activations.size() > 1) text += ", " + run["activation"]["name"].get<std::string>();
    if (preset_.seeds > 1 && run.contains("seed")) text += fmt::format(", seed {}", run["seed"].get<std::uint64_t>());
    return text;
  }

  void print(const Json& results) const {
    const auto planar = std::count_if(runs_.begin(), runs_.end(), [](const Run& r) { return r.data.dimension() == 2; });
    fmt::print("{} of {} samples each{}; R is the Fokker–Planck residual, centred: its mean at each time removed\n\n",
               planar == 0 ? "Sliced W2²" : "W2²", preset_.gap.samples,
               planar == 0 || planar == std::ssize(runs_) ? "" : ", sliced where the data are not planar");
    std::size_t width = 10;
    for (const Json& run : results["runs"]) width = std::max(width, label(run).size());
    fmt::print("{:<{}} {:>5}  {:>9} {:>9} {:>9} {:>9}  {:>8} {:>8}  {:>9} {:>9}  {:>8} {:>8}\n", "data", width, "w_R",
               "ODE–SDE", "ODE–truth", "SDE–truth", "floor", "esc. ODE", "esc. SDE", "mean R²", "centred", "training",
               "sampling");
    for (const Json& run : results["runs"]) {
      if (run.contains("failed")) {
        fmt::print("{:<{}} {:>5}  failed: {}\n", label(run), width, number(run["residual_weight"]),
                   run["failed"].get<std::string>());
        continue;
      }
      const Json& gap = run["gap"];
      const Json& w2 = distances(gap);
      const Json residual = gap["residual"].is_null() ? Json::object() : gap["residual"];
      const double seconds = number(gap["seconds"]["ode"]) + number(gap["seconds"]["sde"]);
      const double weight = run["residual_weight"];
      fmt::print("{:<{}} {:>5}  {:>9} {:>9} {:>9} {:>9}  {:>8} {:>8}  {:>9} {:>9}  {:>6.0f} s {:>6.0f} s\n", label(run),
                 width, weight, cell(w2["ode_sde"]), cell(w2["ode_truth"]), cell(w2["sde_truth"]),
                 cell(gap["noise_floor"]), cell(gap["escaped"]["ode"]), cell(gap["escaped"]["sde"]),
                 cell(residual.value("mean_square", Json()), "{:.3g}"),
                 cell(residual.value("centred_mean_square", Json()), "{:.3g}"), number(run["training"]["seconds"]),
                 seconds);
      const Json p = preset_.published ? published(run["data"], weight) : Json();
      if (p.is_null()) continue;
      fmt::print("{:<{}} {:>5}  {:>9} {:>9} {:>9} {:>9}  {:>8} {:>8}  {:>9}\n", "  published", width, "",
                 cell(p["w2_squared"]["ode_sde"]), cell(p["w2_squared"]["ode_truth"]),
                 cell(p["w2_squared"]["sde_truth"]), cell(p["noise_floor"]), cell(p["escaped"]["ode"]),
                 cell(p["escaped"]["sde"]), cell(p["mean_square"], "{:.3g}"));
    }
    if (preset_.seeds > 1) print_summary(results["summary"]);
    const Json finished = without_failed(results["runs"]);
    print_bounds(finished);
    fmt::print("\n");
    for (const Json& verdict : results["verdicts"]) {
      fmt::print("{}{}: {}\n", verdict["data"].get<std::string>(),
                 preset_.activations.size() > 1 ? ", " + verdict["activation"].get<std::string>() : "",
                 verdict["text"].get<std::string>());
    }
    if (preset_.name == "paper" && !preset_.published)
      fmt::print("Not the paper's recipe: no published numbers beside it\n");
    if (results.contains("acceptance")) {
      fmt::print("\nWhat the paper's runs have to show, of medians over seeds\n");
      for (const Json& entry : results["acceptance"]) {
        fmt::print("{}: {}: {}{}\n", entry["data"].get<std::string>(), entry["criterion"].get<std::string>(),
                   entry["outcome"].get<std::string>(),
                   entry["numbers"].empty() ? "" : fmt::format(" ({})", entry["numbers"].get<std::string>()));
      }
    }
    std::fflush(stdout);
    for (const Json& run : finished) {
      for (const auto& [key, sampler] : {std::pair("ode", "ODE"), std::pair("sde", "SDE")}) {
        if (number(run["gap"]["escaped"][key]) != 1) continue;
        note_all_lost("reproduce", fmt::format("all {} samples of the {} for {}, w_R = {}", preset_.gap.samples,
                                               sampler, label(run), number(run["residual_weight"])));
      }
    }
  }

  // "0.0182 ± 0.0031".
  static std::string spread(const Json& statistic, const char* format) {
    if (statistic.is_null()) return "–";
    const std::string mean = number_or_dash(number(statistic["mean"]), format);
    return statistic["deviation"].is_null()
               ? mean
               : fmt::format("{} ± {}", mean, number_or_dash(number(statistic["deviation"]), format));
  }

  void print_summary(const Json& summary) const {
    fmt::print("\nMean ± standard deviation over seeds\n");
    fmt::print("{:<24} {:>5} {:>5}  {:>17} {:>17} {:>17}  {:>7}  {:>8} {:>8}  {:>15}\n", "data", "w_R", "seeds",
               "ODE–SDE", "ODE–truth", "SDE–truth", "floor", "esc. ODE", "esc. SDE", "centred R²");
    for (const Json& entry : summary) {
      const auto mean = [&](const char* name, const char* format) {
        return entry[name].is_null() ? "–" : cell(entry[name]["mean"], format);
      };
      fmt::print(
          "{:<24} {:>5} {:>5}  {:>17} {:>17} {:>17}  {:>7}  {:>8} {:>8}  {:>15}\n",
          fmt::format("{}, {}", entry["data"].get<std::string>(), entry["activation"]["name"].get<std::string>()),
          number(entry["residual_weight"]), entry["seeds"].get<std::int64_t>(), spread(entry["ode_sde"], "{:.4f}"),
          spread(entry["ode_truth"], "{:.4f}"), spread(entry["sde_truth"], "{:.4f}"), mean("noise_floor", "{:.4f}"),
          mean("escaped_ode", "{:.5f}"), mean("escaped_sde", "{:.5f}"), spread(entry["centred_mean_square"], "{:.2g}"));
    }
  }

  static std::string bound_cell(const Json& bound) {
    return bound["text"].is_null() ? "–" : bound["text"].get<std::string>() + (bound["vacuous"] ? "*" : "");
  }

  // Of planar data; others have no diagnosis.
  void print_bounds(const Json& runs) const {
    std::size_t width = 10;
    bool any = false;
    for (const Json& run : runs) {
      if (run["diagnosis"].is_null()) continue;
      any = true;
      width = std::max(width, label(run).size());
    }
    if (!any) return;
    fmt::print(
        "\nW2 between the samplers beside an estimate of its upper bound (a maximum over samples, or points of the "
        "box, is no bound)\nand both sides of the energy identity, ± their change from half the nodes and times; * "
        "vacuous: no "
        "more "
        "than that both are in the box\n"
        "Not resolved: the energy, and with it the bound and both sides, is not to be trusted, for the reasons in "
        "results.json\n");
    fmt::print("{:<{}} {:>5}  {:>8} {:>14} {:>12}  {:>16} {:>16}\n", "data", width, "w_R", "W2", "bound, samples",
               "bound, box", "left side", "right side");
    for (const Json& run : runs) {
      const Json& diagnosis = run["diagnosis"];
      if (diagnosis.is_null()) continue;
      const Json &samples = diagnosis["upper_bound"]["over_samples"], &box = diagnosis["upper_bound"]["over_box"],
                 &identity = diagnosis["identity"];
      const auto side = [&](const char* name) {
        if (identity.is_null()) return std::string("no Z");
        return cell(identity[name]["value"], "{:.4f}") + " ± " + cell(identity[name]["step_error"], "{:.1g}");
      };
      fmt::print("{:<{}} {:>5}  {:>8} {:>14} {:>12}  {:>16} {:>16}{}\n", label(run), width,
                 number(run["residual_weight"]),
                 number_or_dash(std::sqrt(number(distances(run["gap"])["ode_sde"])), "{:.4f}"), bound_cell(samples),
                 bound_cell(box), side("left"), side("right"), diagnosis["resolved"] ? "" : "  not resolved");
    }
  }

  CLI::App& app_;
  std::string preset_name_ = "quick", out_, grid_, activation_, detail_, bounds_;
  std::vector<std::string> data_;
  std::vector<double> weights_;
  std::int64_t iterations_ = 0, samples_ = 0, seeds_ = 0;
  double beta_ = 0;
  std::uint64_t seed_ = 0;
  std::string grid_contents_;
  MachineOptions machine_;

  Preset preset_;
  ForwardSde sde_ = ForwardSde::defaults(SdeKind::ou);
  std::vector<Run> runs_;
  std::size_t together_ = 1;
};

int main_of_reproduce(int argc, char** argv) {
  CLI::App app("Reproduce the ODE–SDE gap and how the Fokker–Planck residual closes it.", "reproduce");
  Reproduction reproduction(app);
  return run_main(app, argc, argv, [&] { reproduction.run(); });
}

}  // namespace
}  // namespace fokker::tools

int main(int argc, char** argv) { return fokker::tools::main_of_reproduce(argc, argv); }
