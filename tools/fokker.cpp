// The command line: train, sample, field, density, gap, diagnose, info.
#include "fokker/fokker.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>

#include "console.hpp"
#include "diagnose.hpp"
#include "files.hpp"
#include "measure.hpp"
#include "options.hpp"
#include "training.hpp"

namespace fokker::tools {
namespace {

void print_json(const Json& json) { fmt::print("{}\n", text_of(json, 2)); }

class Command {
 public:
  virtual ~Command() = default;
  virtual void run() = 0;
  bool chosen() const { return app_->parsed(); }

 protected:
  explicit Command(CLI::App* app) : app_(app) {}
  void teach(const std::string& text) { app_->footer(text + "\n" + exit_codes_help); }
  CLI::App* app_;
};

// ----------------------------------------------------------------------------------------------------------------
// train

class Train : public Command {
 public:
  explicit Train(CLI::App& parent) : Command(parent.add_subcommand("train", "Train an MLP on a data set")) {
    teach(
        "The defaults are a recipe that trains circles2 in about half a minute on two cores.\n"
        "SIGINT and SIGTERM end it after the iteration that is running, with its state saved; a second one at once.\n"
        "Interrupted or killed, a run with --state goes on from its last saved state with --resume, and ends with the\n"
        "parameters of an uninterrupted run, bit for bit. A loss that is not finite ends it with the records and the\n"
        "state before it. Killed in the midst of a save, it leaves the earlier state and a file .fokker-PID-N.tmp\n"
        "beside it, which may be removed.\n\n"
        "Examples:\n"
        "  fokker train --data circles2 --residual-weight 1 --out circles2.safetensors --log circles2.csv\n"
        "  fokker train --data blob --iterations 20000 --state blob.state --out blob.safetensors\n"
        "  fokker train --data blob --resume blob.state --out blob.safetensors\n"
        "  fokker train --data samples.npy --hidden 128,128 --activation silu --sde vp-linear --out "
        "mine.safetensors\n");
    app_->add_option("--data", data_, "blob, circles2, checker, MIXTURE.json or SAMPLES.npy ([N, d])")
        ->required()
        ->check(data_name());
    app_->add_option("--out", out_, "the trained model, a .safetensors file")
        ->required()
        ->check(ends_in({".safetensors"}));

    const std::string network = "Network and forward SDE";
    add_recipe(network, add_integers(*app_, "--hidden", architecture_.hidden, "widths of the hidden layers", 1, 16384));
    recipe(network, "--activation", activation_, activations_help());
    number(network, "--beta", architecture_.beta, "softplus: log(1 + exp(beta z))/beta");
    recipe(network, "--output", output_, "potential (score is its gradient) or score");
    recipe(network, "--sde", sde_, "ou, vp-linear, vp-cosine, subvp or ve");
    recipe(network, "--sde-parameters", sde_parameters_,
           "as JSON: '{\"rate\": 1, \"T\": 10}'; defaults: fokker --help");

    const std::string training = "Training";
    const auto count = [&](const char* name, std::int64_t& value, const char* help, std::int64_t low,
                           std::int64_t high) {
      add_recipe(training, add_integer<std::int64_t>(*app_, name, value, help, low, high));
    };
    count("--iterations", options_.iterations, "iterations of Adam", 1, 1'000'000'000'000);
    count("--denoising-points", options_.denoising_points, "fresh points an iteration", 1, 1'000'000'000);
    count("--collocation-points", options_.collocation_points, "fresh residual points an iteration", 0, 1'000'000'000);
    number(training, "--residual-weight", options_.residual_weight, "w_R, weight of the mean squared residual");
    number(training, "--box", options_.box, "residual points are uniform on [-box, box]^d");
    recipe(training, "--time-law", time_law_, "denoising times: paper, uniform or importance");
    recipe(training, "--schedule", schedule_, "rates: paper, one-cycle, cosine or constant");
    number(training, "--peak-rate", options_.peak_rate, "highest rate; not used by the paper's schedule");
    recipe(training, "--average", average_, "of the weights: none, exponential or tail");
    number(training, "--average-decay", options_.average_decay, "of the exponential average");
    number(training, "--average-fraction", options_.average_fraction,
           "share of the iterations that are averaged, the last ones");
    number(training, "--clip-norm", options_.clip_norm, "largest gradient norm; 0: no clipping");
    add_recipe(training, add_integer(*app_, "--seed", options_.seed, "of the parameters and of all draws"));

    const std::string files = "States and records";
    app_->add_option("--state", state_,
                     "file for the training state, which is not there yet; with --resume: that file, if not given")
        ->group(files);
    auto* resume = app_->add_option("--resume", resume_, "go on from this state; its recipe holds")->group(files);
    app_->add_option("--save-every", save_every_, "save the state every N iterations, or every Ns seconds")
        ->capture_default_str()
        ->check(usable(SaveInterval::parse))
        ->group(files);
    app_->add_option("--log", log_, "records of the iterations: FILE.csv, or FILE.jsonl for JSON lines")
        ->check(ends_in({".csv", ".jsonl"}))
        ->group(files);
    add_integer<std::int64_t>(*app_, "--log-every", log_every_, "one record in so many iterations", 1, max_samples)
        ->group(files);
    for (CLI::Option* option : recipe_) option->excludes(resume);
    app_->add_flag("--json", json_, "print one JSON object when done");
    machine_.add_to(*app_);
  }

  void run() override {
    if (resume_.empty()) check_usage([&] { read_recipe(); });
    const SaveInterval save = SaveInterval::parse(save_every_);
    if (state_.empty()) state_ = resume_;
    const bool same_state = !resume_.empty() && same_file(state_, resume_);
    check_outputs({out_, state_, log_}, {file_of_data(data_), same_state ? "" : resume_});
    if (!state_.empty() && !same_state && is_file(state_)) {
      throw Error(fmt::format(
          "--state '{0}' is there already: go on from the state in it with --resume '{0}', remove it, or name another",
          state_));
    }
    const DataSet data = DataSet::named(data_);
    const Context context = machine_.context();
    Trainer trainer = resume_.empty() ? start(context, data) : Trainer::resume(context, resume_, data);

    const std::int64_t first = trainer.iteration();
    Progress progress({{fmt::format("training on {}", data.name()), "train", 1}});
    progress.begin(double(first) / double(trainer.options().iterations));
    const TrainingResult result =
        run_training(trainer, {.state = state_, .log = log_, .log_every = log_every_}, save, progress);

    const Model model = trainer.model();
    const Json recipe = describe_recipe(std::get<Mlp>(model.network).architecture, model.sde, data, trainer.options());
    save_model(out_, model, {{"training", text_of(recipe)}});
    if (json_) {
      Json json{{"model", out_}, {"backend", context.backend_name()}, {"threads", context.threads()}};
      json["precision"] = to_string(context.precision());
      json["first_iteration"] = first;
      json["iterations"] = trainer.iteration();
      json["last"] = nullptr;
      if (result.last.iteration >= 0) {
        json["last"] = {{"denoising", result.last.denoising},
                        {"residual", result.last.residual},
                        {"total", result.last.total},
                        {"gradient_norm", result.last.gradient_norm}};
      }
      json["seconds"] = result.seconds;
      json["recipe"] = recipe;
      print_json(json);
    } else {
      progress.say(fmt::format("{} in {}; the model is in '{}'", counted(trainer.iteration() - first, "iteration"),
                               format_duration(result.seconds), out_));
    }
  }

 private:
  void add_recipe(const std::string& group, CLI::Option* option) { recipe_.push_back(option->group(group)); }
  void recipe(const std::string& group, const char* name, std::string& value, const std::string& help) {
    add_recipe(group, app_->add_option(name, value, help)->capture_default_str());
  }
  void number(const std::string& group, const char* name, double& value, const std::string& help) {
    add_recipe(group, add_number(*app_, name, value, help));
  }

  // What the command line says of the recipe; throws Error where that alone is wrong.
  void read_recipe() {
    architecture_.activation = parse_activation(activation_);
    architecture_.output = parse_output(output_);
    architecture_.validate();
    options_.time_law = parse_time_law(time_law_);
    options_.schedule = parse_rate_schedule(schedule_);
    options_.average = parse_weight_average(average_);
    options_.validate();
    forward_ = ForwardSde::parse(sde_, sde_parameters_);
  }

  Trainer start(const Context& context, const DataSet& data) {
    architecture_.dimension = data.dimension();
    return Trainer(context, {forward_, Mlp::initialise(architecture_, options_.seed)}, data, options_);
  }

  std::string data_, out_, state_, resume_, log_, save_every_ = "60s";
  std::string activation_ = "softplus", output_ = "potential", sde_ = "ou", sde_parameters_;
  Architecture architecture_{.beta = 20, .layer_names = {}};
  ForwardSde forward_;
  TrainOptions options_;
  std::string time_law_{to_string(options_.time_law)}, schedule_{to_string(options_.schedule)},
      average_{to_string(options_.average)};
  std::int64_t log_every_ = 1;
  bool json_ = false;
  std::vector<CLI::Option*> recipe_;
  MachineOptions machine_;
};

// ---------------------------------------------------------------------------------------------------------------
// sample

class Sample : public Command {
 public:
  explicit Sample(CLI::App& parent) : Command(parent.add_subcommand("sample", "Draw samples from a model")) {
    teach(
        "Sample i is a function of the seed and i alone, for any number of threads. With --json also the mean and the\n"
        "covariance of the samples that are finite, and how many those are, in up to 16 dimensions.\n\n"
        "Examples:\n"
        "  fokker sample --model circles2.safetensors --scheme sde --samples 100000 --out sde.npy\n"
        "  fokker sample --model circles2.safetensors --scheme heun --grid geometric:150:1e-3 --samples 10000 \\\n"
        "                --out ode.npy --log-density log_p.npy\n");
    model_.add_to(*app_);
    app_->add_option(
            "--scheme", scheme_,
            "euler-maruyama (or sde) on the reverse SDE; euler (or ode), heun, rk4 on the probability-flow ODE")
        ->capture_default_str()
        ->check(usable(parse_scheme));
    app_->add_option("--grid", grid_, "times: paper, uniform:STEPS[:END], geometric:STEPS[:END] or file:TIMES.npy")
        ->capture_default_str()
        ->check(grid_text());
    add_integer<std::int64_t>(*app_, "--samples", samples_, "how many", 1, max_samples);
    add_integer(*app_, "--seed", seed_, "names the prior's draw and the Brownian path of each sample");
    app_->add_option("--out", out_, "the samples, a .npy file: float32 [N, d]")->required()->check(ends_in({".npy"}));
    app_->add_option(
            "--log-density", log_density_,
            "also the ODE model's log density at the samples, a .npy file: float32 [N]; by the ODE scheme given, or "
            "by heun where the samples are the SDE's")
        ->check(ends_in({".npy"}));
    probes_.add_to(*app_);
    app_->add_flag("--json", json_, "print one JSON object when done");
    machine_.add_to(*app_);
  }

  void run() override {
    const Scheme scheme = parse_scheme(scheme_);
    const Divergence divergence = probes_.divergence();
    check_outputs({out_, log_density_}, {model_.path, file_of_grid(grid_)});
    const Model model = model_.load();
    const TimeGrid grid = TimeGrid::parse(grid_, model.sde);
    const Context context = machine_.context();
    if (!log_density_.empty() && context.precision() == Precision::half) {
      throw Error(
          "--log-density given with --precision half, which serves values and scores only; allowed: split, fp32");
    }

    Progress progress({{fmt::format("sampling {} by {}", samples_, to_string(scheme)), "sample", 1}});
    progress.begin();
    const Stopwatch clock;
    const Buffer<float> samples =
        draw_samples(context, model, grid, scheme, samples_, seed_, [&](double done) { progress.update(done); });
    const std::vector<float> here = to_host(context, samples.view());
    const double seconds = clock.seconds();
    save_npy(out_, {samples_, model.dimension()}, here.data());
    if (!log_density_.empty()) {
      progress.say("integrating the log density along the flow");
      Buffer<float> density(context, samples_);
      Sampler(context, model, grid)
          .log_density(samples.view(), density.view(), scheme == Scheme::euler_maruyama ? Scheme::heun : scheme,
                       divergence);
      save_npy(log_density_, {samples_}, to_host(context, density.view()).data());
    }
    if (json_) {
      Json json{{"samples", samples_}, {"dimension", model.dimension()}, {"scheme", to_string(scheme)}};
      json["grid"] = grid_;
      json["steps"] = grid.steps();
      json["seed"] = seed_;
      json["out"] = out_;
      json["log_density"] = log_density_.empty() ? Json() : Json(log_density_);
      json["moments"] = model.dimension() <= 16 ? describe(moments(context, samples.view())) : Json();
      json["backend"] = context.backend_name();
      json["precision"] = to_string(context.precision());
      json["threads"] = context.threads();
      json["seconds"] = seconds;
      print_json(json);
    } else {
      progress.say(fmt::format("{} in {}, in '{}'", counted(samples_, "sample"), format_duration(seconds), out_));
    }
  }

 private:
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
  ProbeOptions probes_;
  std::string scheme_ = "euler-maruyama", grid_ = "paper", out_, log_density_;
  std::int64_t samples_ = 10000;
  std::uint64_t seed_ = 0;
  bool json_ = false;
  MachineOptions machine_;
};

// ----------------------------------------------------------------------------------------------------------------
// field

class Field : public Command {
 public:
  explicit Field(CLI::App& parent) : Command(parent.add_subcommand("field", "Evaluate a model's fields at points")) {
    teach(
        "Points are [N, 1 + d], rows (t, x_1 ... x_d), float32 or float64. The output is a safetensors file of "
        "float32\n"
        "tensors: value, dt, laplacian, residual [N] and score [N, d] for a potential; score [N, d] and divergence [N] "
        "for\n"
        "a vector net. The residual is that of the Fokker-Planck equation for the potential as a log density. With\n"
        "--precision half on CUDA the tensors are value and score alone.\n\n"
        "Example:\n"
        "  fokker field --model circles2.safetensors --points points.npy --out fields.safetensors\n");
    model_.add_to(*app_);
    app_->add_option("--points", points_, "a .npy file")->required();
    app_->add_option("--out", out_, "a .safetensors file")->required()->check(ends_in({".safetensors"}));
    app_->add_flag("--hessian", hessian_,
                   "also hessian [N, d, d]: entry i, j is the derivative of score i along x_j; d <= 64");
    probes_.add_to(*app_);
    app_->add_flag("--json", json_, "print one JSON object when done");
    machine_.add_to(*app_);
  }

  void run() override {
    const Divergence divergence = probes_.divergence();
    check_outputs({out_}, {model_.path, points_});
    const Model model = model_.load();
    const std::int64_t d = model.dimension();
    const NpyArray points = load_npy(points_);
    if (points.shape.size() != 2 || points.shape[1] != 1 + d) {
      throw Error(fmt::format("'{}' has shape [{}]; needed for this model: [N, {}], rows (t, x_1 … x_{})", points_,
                              fmt::join(points.shape, ", "), 1 + d, d));
    }
    const std::int64_t n = points.shape[0];
    // A float32 file rounds a horizon such as 0.7 up or down.
    const double horizon = model.sde.horizon(), slack = 1e-6 * horizon;
    std::vector<float> t(n), x(n * d);
    for (std::int64_t i = 0; i < n; ++i) {
      t[i] = static_cast<float>(points.data[i * (1 + d)]);
      for (std::int64_t k = 0; k < d; ++k) x[i * d + k] = static_cast<float>(points.data[i * (1 + d) + 1 + k]);
      for (std::int64_t k = 0; k <= d; ++k) {
        const double value = points.data[i * (1 + d) + k];
        if (!std::isfinite(static_cast<float>(value))) {
          throw Error(
              fmt::format("row {}, column {} of '{}' is {}; points are finite float32 numbers", i, k, points_, value));
        }
      }
      if (const double time = points.data[i * (1 + d)]; time < -slack || time > horizon + slack) {
        throw Error(fmt::format("row {} of '{}' has the time {}; allowed for this model's SDE: 0 to {}", i, points_,
                                time, horizon));
      }
    }

    const bool potential = model.output() == Output::potential;
    using Outputs = FieldOutputs<float>;
    const Context context = machine_.context();
    std::vector<Wanted> wanted;
    wanted.push_back({"score", &Outputs::score, {n, d}});
    if (potential) wanted.push_back({"value", &Outputs::value, {n}});
    if (context.precision() != Precision::half) {
      wanted.push_back({potential ? "laplacian" : "divergence", &Outputs::divergence, {n}});
      if (potential) {
        wanted.push_back({"dt", &Outputs::dt, {n}});
        wanted.push_back({"residual", &Outputs::residual, {n}});
      }
    }
    if (hessian_) wanted.push_back({"hessian", &Outputs::hessian, {n, d, d}});

    const Stopwatch clock;
    const Fields<float> fields(context, model);
    // Chunk by chunk, so that a long evaluation shows how far it is; probes belong to points, not to chunks.
    std::int64_t widest = 1;
    for (const Wanted& w : wanted) widest = std::max(widest, w.columns());
    const std::int64_t chunk = std::min(n, std::clamp<std::int64_t>((1 << 22) / widest, 1, 1 << 16));
    Buffer<float> t_there(context, chunk), x_there(context, chunk, d);
    for (Wanted& w : wanted) {
      w.values.resize(static_cast<std::size_t>(n * w.columns()));
      w.there = Buffer<float>(context, chunk, w.columns());
    }
    Progress progress({{fmt::format("fields at {} points", n), "field", 1}});
    progress.begin();
    for (std::int64_t first = 0; first < n; first += chunk) {
      const std::int64_t count = std::min(chunk, n - first);
      const View<float> t_at{t_there.data(), count, 1, context.device()};
      const View<float> x_at{x_there.data(), count, d, context.device()};
      copy(context, {t.data() + first, count}, t_at);
      copy(context, {x.data() + first * d, count, d}, x_at);
      Outputs outputs;
      for (Wanted& w : wanted) outputs.*w.view = {w.there.data(), count, w.columns(), context.device()};
      Divergence probes = divergence;
      probes.first_index += static_cast<std::uint64_t>(first);
      fields.evaluate({t_at, x_at}, outputs, probes);
      for (Wanted& w : wanted) {
        copy(context, outputs.*w.view, View<float>(w.values.data() + first * w.columns(), count, w.columns()));
      }
      context.synchronize();
      progress.update(double(first + count) / double(n));
    }
    progress.clear();
    SafeTensors file;
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (const Wanted& w : wanted) {
      file.tensors[w.name] = Tensor::from_float(w.shape, w.values.data());
      shapes[w.name] = w.shape;
    }
    file.save(out_);
    if (json_) {
      Json json{{"points", n}, {"dimension", d}, {"out", out_}};
      json["tensors"] = shapes;
      json["backend"] = context.backend_name();
      json["precision"] = to_string(context.precision());
      json["threads"] = context.threads();
      json["seconds"] = clock.seconds();
      print_json(json);
    }
  }

 private:
  // One field of all points on the host, and of a chunk of them where it is computed.
  struct Wanted {
    std::string name;
    View<float> FieldOutputs<float>::*view;
    std::vector<std::int64_t> shape;
    std::vector<float> values = {};
    Buffer<float> there = {};

    std::int64_t columns() const {
      return std::accumulate(shape.begin() + 1, shape.end(), std::int64_t{1}, std::multiplies<>());
    }
  };

  ModelOptions model_;
  ProbeOptions probes_;
  std::string points_, out_;
  bool hessian_ = false, json_ = false;
  MachineOptions machine_;
};

// ----------------------------------------------------------------------------------------------------------------
// density

class Density : public Command {
 public:
  explicit Density(CLI::App& parent)
      : Command(parent.add_subcommand("density", "Log density of a model's reverse SDE at points")) {
    teach(
        "By Feynman and Kac along paths of the forward SDE from each point, so it is random: standard_error comes\n"
        "from the spread of the weights, step_error from leaving out every second time. A tail_index of 2 or below\n"
        "says that the largest weights fall off so slowly that it may not be trusted. Works in double, whatever\n"
        "--precision says.\n"
        "The ODE's log density: fokker sample --log-density.\n\n"
        "Example:\n"
        "  fokker density --model circles2.safetensors --points x.npy --out density.safetensors\n");
    model_.add_to(*app_);
    app_->add_option("--points", points_, "a .npy file [N, d], float32 or float64")->required();
    app_->add_option("--out", out_,
                     "a .safetensors file of float64 [N]: log_density, standard_error, step_error, effective_paths, "
                     "tail_index")
        ->required()
        ->check(ends_in({".safetensors"}));
    time_option_ = add_number(*app_, "--time", time_, "of the density; t_min of the model's SDE if not given");
    add_integer<std::int64_t>(*app_, "--paths", options_.paths, "of the forward SDE from each point", 2, max_samples);
    add_integer<std::int64_t>(*app_, "--steps", options_.steps, "of a path from t_min to T", 2, 1'000'000);
    add_integer(*app_, "--seed", options_.seed, "names the paths");
    app_->add_flag("--common-paths", options_.common_paths,
                   "the same noise for all points, so that differences between them are smooth");
    app_->add_flag("--json", json_, "print one JSON object when done");
    machine_.add_to(*app_);
  }

  void run() override {
    check_outputs({out_}, {model_.path, points_});
    const Model model = model_.load();
    const std::int64_t d = model.dimension();
    const NpyArray points = load_npy(points_);
    if (points.shape.size() != 2 || points.shape[1] != d) {
      throw Error(fmt::format("'{}' has shape [{}]; needed for this model: [N, {}]", points_,
                              fmt::join(points.shape, ", "), d));
    }
    const std::int64_t n = points.shape[0];
    if (time_option_->count() == 0) time_ = model.sde.t_min();
    const Context context = machine_.context();
    Progress progress({{fmt::format("log density at {}", counted(n, "point")), "density", 1}});
    progress.begin();
    const Stopwatch clock;
    options_.progress = [&](double done) { progress.update(done); };
    const SdeDensity density = sde_log_density(context, model, time_, {points.data.data(), n, d}, options_);
    progress.clear();
    SafeTensors file;
    file.tensors["log_density"] = Tensor::from_double({n}, density.log_density.data());
    file.tensors["standard_error"] = Tensor::from_double({n}, density.standard_error.data());
    file.tensors["step_error"] = Tensor::from_double({n}, density.step_error.data());
    file.tensors["effective_paths"] = Tensor::from_double({n}, density.effective_paths.data());
    file.tensors["tail_index"] = Tensor::from_double({n}, density.tail_index.data());
    file.save(out_);
    if (json_) {
      Json json{{"points", n}, {"dimension", d}, {"out", out_}, {"time", time_}};
      json["paths"] = options_.paths;
      json["steps"] = options_.steps;
      json["seed"] = options_.seed;
      json["heavy_tailed"] = density.heavy_tailed;
      json["backend"] = context.backend_name();
      json["threads"] = context.threads();
      json["seconds"] = clock.seconds();
      print_json(json);
    } else if (density.heavy_tailed > 0) {
      progress.say(
          fmt::format("the largest weights at {} of {} fall off so slowly that their errors may not be trusted",
                      density.heavy_tailed, counted(n, "point")));
    }
  }

 private:
  ModelOptions model_;
  std::string points_, out_;
  double time_ = 0;
  CLI::Option* time_option_ = nullptr;
  SdeDensityOptions options_;
  bool json_ = false;
  MachineOptions machine_;
};

// ------------------------------------------------------------------------------------------------------------------
// gap

class GapCommand : public Command {
 public:
  explicit GapCommand(CLI::App& parent)
      : Command(parent.add_subcommand("gap", "Measure the distance between a model's two samplers and the truth")) {
    teach(
        "Samples the model by the reverse SDE and by the probability-flow ODE, draws as many from the data, and prints "
        "the\n"
        "squared Wasserstein distances of their 64 x 64 histograms on [-3.5, 3.5]^2 (elsewhere than in the plane: the "
        "sliced\n"
        "distance), beside the noise floor: that of two draws of the data. Samples outside the box are left out and "
        "counted\n"
        "as escaped; elsewhere than in the plane, samples that are not finite are. residual: mean of R^2 over 512 "
        "times and\n"
        "512 points each, as it is and with its mean at each time removed.\n"
        "With --a and --b it compares two files of samples instead; --data adds the truth and the noise floor.\n\n"
        "Examples:\n"
        "  fokker gap --model circles2.safetensors --data circles2 --samples 100000 --json\n"
        "  fokker gap --a ode.npy --b sde.npy --data circles2 --json\n");
    model_.add_to(*app_, false);
    app_->get_option("--model")->group("Options");
    app_->add_option("--data", data_, "blob, circles2, checker, MIXTURE.json or SAMPLES.npy: the truth")
        ->check(data_name());
    auto* a = app_->add_option("--a", a_, "samples to compare, a .npy file [N, d]");
    auto* b = app_->add_option("--b", b_, "samples to compare with, a .npy file [M, d]");
    a->needs(b);
    b->needs(a);
    add_integer<std::int64_t>(*app_, "--samples", options_.samples, "draws of each kind", 1, max_samples);
    add_integer(*app_, "--seed", options_.seed, "of the samplers, the truth and the residual's points");
    app_->add_option("--grid", options_.grid,
                     "times: paper, uniform:STEPS[:END], geometric:STEPS[:END] or file:TIMES.npy")
        ->capture_default_str()
        ->check(grid_text());
    app_->add_option("--scheme", scheme_, "scheme of the ODE: euler, heun or rk4")
        ->capture_default_str()
        ->check(usable([](const std::string& text) {
          if (parse_scheme(text) != Scheme::euler_maruyama) return;
          throw Error(fmt::format("'{}' given; allowed for the ODE: euler, heun, rk4", text));
        }));
    app_->add_option("--histograms", histograms_,
                     "folder for ode.npy, sde.npy, truth.npy: float64 [4096], index 64 iy + ix");
    app_->add_flag("--json", json_, "print one JSON object");
    machine_.add_to(*app_);
    std::vector<std::string> of_models = ModelOptions::override_names();
    of_models.insert(of_models.end(), {"--model", "--samples", "--grid", "--scheme", "--histograms", "--precision"});
    for (const std::string& name : of_models) a->excludes(app_->get_option(name));
  }

  void run() override {
    if (app_->count("--a") > 0) {
      if (app_->count("--seed") > 0 && data_.empty()) {
        throw CLI::ValidationError("--seed given with --a and --b; allowed with --data, whose draws it names");
      }
      return compare_files();
    }
    if (app_->count("--model") == 0) throw CLI::ValidationError("gap needs --model, or --a and --b");
    if (data_.empty()) throw CLI::ValidationError("gap needs --data with --model");
    options_.ode_scheme = parse_scheme(scheme_);
    const DataSet data = DataSet::named(data_);
    const Model model = model_.load();
    if (data.dimension() != model.dimension()) {
      throw Error(fmt::format("the model '{}' has dimension {} and the data '{}' {}; they must be the same",
                              model_.path, model.dimension(), data_, data.dimension()));
    }
    TimeGrid::parse(options_.grid, model.sde);
    if (!histograms_.empty()) {
      if (data.dimension() != 2) {
        throw Error(fmt::format("--histograms given for data of dimension {}; allowed: 2", data.dimension()));
      }
      make_folder(histograms_);
      std::vector<std::string> outputs;
      for (const char* name : histogram_files) outputs.push_back(fmt::format("{}/{}.npy", histograms_, name));
      check_outputs(outputs, {model_.path, file_of_data(data_), file_of_grid(options_.grid)});
    }
    const Context context = machine_.context();

    const Stopwatch clock;
    Progress progress(
        {{"reverse SDE", "sample", 10}, {"probability-flow ODE", "sample", 10}, {"distances", "measure", 2}});
    const Truth truth = measure_truth(context, data, options_);
    const Gap gap = measure_gap(context, model, truth, options_, [&](int, double) -> FractionDone {
      progress.begin();
      return [&](double done) { progress.update(done); };
    });
    progress.clear();
    for (const auto& [name, cloud] : {std::pair("ODE", &gap.ode), std::pair("SDE", &gap.sde)}) {
      if (cloud->escaped == 1) note_all_lost("fokker", fmt::format("all {} samples of the {}", options_.samples, name));
    }
    Json json = gap_json(gap, truth, options_);
    json["model"] = model_.path;
    json["data"] = data_;
    json["backend"] = context.backend_name();
    json["threads"] = context.threads();
    json["seconds"]["total"] = clock.seconds();
    print(json, gap, truth);
    // The numbers are out before anything else can fail.
    std::fflush(stdout);
    if (!histograms_.empty()) save_histograms(histograms_, gap, truth);
  }

 private:
  void print(const Json& json, const Gap& gap, const Truth& truth) const {
    if (json_) return print_json(json);
    const bool planar = json["sliced_w2_squared"].is_null();
    fmt::print("{} of {} draws each\n", planar ? "W2²" : "sliced W2²", options_.samples);
    fmt::print("  ODE–SDE      {}\n  ODE–truth    {}\n  SDE–truth    {}\n", number_or_dash(gap.ode_sde.value),
               number_or_dash(gap.ode_truth.value), number_or_dash(gap.sde_truth.value));
    fmt::print("  noise floor  {:.5f}\n", truth.noise_floor);
    fmt::print("escaped: ODE {:.5f}, SDE {:.5f}\n", gap.ode.escaped, gap.sde.escaped);
    if (gap.residual) {
      fmt::print("mean R²: {:.4g}, centred at each time {:.4g}\n", gap.residual->mean_square,
                 gap.residual->centred_mean_square);
    }
  }

  static Cloud load_cloud(const Context& context, const std::string& path, std::int64_t& n) {
    const NpyArray array = load_npy(path);
    if (array.shape.size() != 2 || array.shape[0] < 1 || array.shape[1] < 1) {
      throw Error(fmt::format("'{}' has shape [{}]; samples are [N, d] with N and d at least 1", path,
                              fmt::join(array.shape, ", ")));
    }
    n = array.shape[0];
    return Cloud::of(context, to_device(context, {array.data.begin(), array.data.end()}, array.shape[1]));
  }

  void compare_files() {
    const Context context = machine_.context();
    std::int64_t n_a = 0, n_b = 0;
    const Cloud a = load_cloud(context, a_, n_a), b = load_cloud(context, b_, n_b);
    if (a.dimension != b.dimension) {
      throw Error(
          fmt::format("'{}' has dimension {} and '{}' {}; they must be the same", a_, a.dimension, b_, b.dimension));
    }
    const bool planar = a.histogram.has_value();
    for (const auto& [path, cloud] : {std::pair(a_, &a), std::pair(b_, &b)}) {
      if (cloud->escaped == 1) note_all_lost("fokker", fmt::format("all samples in '{}'", path));
    }
    const Distance a_b = distance(context, a, b);
    Json distances{{"a_b", a_b.value}}, floor;
    if (!data_.empty()) {
      const DataSet data = DataSet::named(data_);
      if (data.dimension() != a.dimension) {
        throw Error(fmt::format("the samples have dimension {} and the data '{}' {}; they must be the same",
                                a.dimension, data_, data.dimension()));
      }
      GapOptions options = options_;
      options.samples = std::min(n_a, n_b);
      const Truth truth = measure_truth(context, data, options);
      distances["a_truth"] = distance(context, a, truth.cloud).value;
      distances["b_truth"] = distance(context, b, truth.cloud).value;
      floor = truth.noise_floor;
    }
    if (json_) {
      Json json;
      json["w2_squared"] = planar ? distances : Json();
      json["sliced_w2_squared"] = planar ? Json() : distances;
      json["noise_floor"] = floor;
      json["escaped"] = {{"a", a.escaped}, {"b", b.escaped}};
      json["samples"] = {{"a", n_a}, {"b", n_b}};
      return print_json(json);
    }
    for (const auto& [name, value] : distances.items()) {
      fmt::print("{} {:<12} {}\n", planar ? "W2²" : "sliced W2²", name, number_or_dash(value.get<double>()));
    }
    if (!floor.is_null()) fmt::print("noise floor      {:.5f}\n", floor.get<double>());
    fmt::print("escaped: a {:.5f}, b {:.5f}\n", a.escaped, b.escaped);
  }

  ModelOptions model_;
  std::string data_, a_, b_, scheme_ = "euler", histograms_;
  GapOptions options_;
  bool json_ = false;
  MachineOptions machine_;
};

// -----------------------------------------------------------------------------------------------------------------
// diagnose

class Diagnose : public Command {
 public:
  explicit Diagnose(CLI::App& parent)
      : Command(parent.add_subcommand("diagnose", "What a potential says of the law that its reverse SDE draws from")) {
    teach(
        "Radial slopes: whether exp(phi) is integrable. Energy: e_t = E |grad log p_t - score|^2 under the law p_t of "
        "the\n"
        "reverse SDE, on a grid in one and two dimensions, by paths of the forward SDE beyond. Energy identity: both "
        "sides,\n"
        "with q = exp(phi)/Z; refused where exp(phi) is not integrable. Upper bound: of W2 between the two samplers, "
        "with\n"
        "the largest eigenvalue of the Hessian over samples and over the box, beside the W2 measured. A maximum over\n"
        "points is no bound, so these are estimates of it, called vacuous where they exceed the diameter of the box.\n"
        "Times begin at the end of --grid, which is t_min if not given.\n\n"
        "Examples:\n"
        "  fokker diagnose --model circles2.safetensors\n"
        "  fokker diagnose --model circles2.safetensors --grid geometric:400:1e-3 --nodes 256 --json\n");
    model_.add_to(*app_);
    app_->add_option("--grid", options_.grid,
                     "times: paper, uniform:STEPS[:END], geometric:STEPS[:END] or file:TIMES.npy")
        ->capture_default_str()
        ->check(grid_text());
    app_->add_option("--method", method_, "of the energy: auto, grid (in one and two dimensions) or paths")
        ->capture_default_str()
        ->check(usable([](const std::string& text) { parse_method(text); }));
    add_integer<std::int64_t>(*app_, "--nodes", options_.energy.nodes, "grid: an axis; 0: 1024 or 192", 0, 4096);
    add_number(*app_, "--box", box_, "half-width of the box that holds the data");
    add_integer<std::int64_t>(*app_, "--energy-samples", options_.energy.samples, "paths: a multiple of 16", 32,
                              max_samples);
    add_integer<std::int64_t>(*app_, "--paths", options_.energy.paths, "paths: a sample and time, even", 4, 65536);
    add_integer<std::int64_t>(*app_, "--bound-samples", options_.bound.samples, "of each sampler, for the Hessians", 1,
                              max_samples);
    add_integer<std::int64_t>(*app_, "--box-points", options_.bound.box_points, "a time, for the Hessians", 1,
                              max_samples);
    add_integer<std::int64_t>(*app_, "--samples", options_.samples,
                              "of each sampler, for the measured W2; 0 measures none", 0, max_samples);
    add_integer(*app_, "--seed", options_.seed, "of everything drawn");
    app_->add_flag("--json", json_, "print one JSON object");
    machine_.add_to(*app_);
  }

  void run() override {
    options_.energy.method = parse_method(method_);
    options_.energy.box = options_.bound.box = box_;
    check_usage([&] {
      options_.energy.validate();
      options_.bound.validate();
    });
    const Model model = model_.load();
    TimeGrid::parse(options_.grid, model.sde);
    const Context context = machine_.context();
    const Stopwatch clock;
    Progress progress({{"energy", "energy", 5}, {"upper bound", "bound", 2}, {"samplers", "sample", 2}});
    const Diagnosis diagnosis = diagnose(context, model, options_, [&](int, double) -> FractionDone {
      progress.begin();
      return [&](double done) { progress.update(done); };
    });
    progress.clear();
    if (!json_) return fmt::print("{}", diagnosis_text(diagnosis));
    Json json = diagnosis_json(diagnosis, options_);
    json["model"] = model_.path;
    json["backend"] = context.backend_name();
    json["threads"] = context.threads();
    json["seconds"] = clock.seconds();
    print_json(json);
  }

 private:
  static EnergyMethod parse_method(const std::string& text) {
    if (text == "auto") return EnergyMethod::automatic;
    if (text == "grid") return EnergyMethod::grid;
    if (text == "paths") return EnergyMethod::paths;
    throw Error(fmt::format("'{}' given; allowed: auto, grid, paths", text));
  }

  ModelOptions model_;
  std::string method_ = "auto";
  double box_ = 3.5;
  DiagnoseOptions options_;
  bool json_ = false;
  MachineOptions machine_;
};

// -----------------------------------------------------------------------------------------------------------------
// info

class Info : public Command {
 public:
  explicit Info(CLI::App& parent)
      : Command(parent.add_subcommand("info", "Describe a model file, this machine and the backends")) {
    teach(
        "With --model, also which kernels the CUDA backend takes for it: resident ones, which hold the weights in\n"
        "shared memory, or wide ones, which go through cuBLAS.\n\n"
        "Examples:\n"
        "  fokker info\n"
        "  fokker info --model circles2.safetensors --json\n");
    model_.add_to(*app_, false);
    add_precision(*app_, precision_);
    app_->add_flag("--json", json_, "print one JSON object");
  }

  void run() override {
    Json json = describe_machine();
    std::vector<KernelPlan> plans;
    if (app_->count("--model") > 0) {
      const Model described = model_.load();
      plans = kernel_plans(described, parse_precision(precision_));
      json["model"] = describe_model(described);
      json["model"]["kernels"] = Json::array();
      for (const KernelPlan& plan : plans) {
        json["model"]["kernels"].push_back(
            {{"device", plan.device}, {"precision", precision_}, {"detail", plan.detail}});
      }
      json["model"]["path"] = model_.path;
      json["model"]["metadata"] = nullptr;
      if (model_.path.ends_with(".safetensors")) json["model"]["metadata"] = SafeTensors::load(model_.path).metadata;
    }
    if (json_) return print_json(json);

    fmt::print("fokker {}\n", version());
    fmt::print("machine   {}, {}\n", json["machine"]["cpu"].get<std::string>(),
               counted(json["machine"]["hardware_threads"].get<unsigned>(), "thread"));
    for (const BackendStatus& backend : backend_status()) {
      fmt::print("backend   {}: {}{}\n", backend.name, backend.available ? "" : "not available: ", backend.detail);
    }
    if (!json.contains("model")) return;
    const Json& model = json["model"];
    fmt::print("model     {}\n", model_.path);
    fmt::print("  network     {}\n", model["summary"].get<std::string>());
    if (model.contains("layers")) {
      fmt::print("  layers      {}\n  parameters  {}\n",
                 fmt::join(model["layers"].get<std::vector<std::string>>(), ", "),
                 model["parameters"].get<std::int64_t>());
    }
    fmt::print("  SDE         {} {}\n", model["sde"]["name"].get<std::string>(), model["sde"]["parameters"].dump());
    for (const KernelPlan& plan : plans) {
      fmt::print("  kernels     on {}, {}: {}\n", plan.device, precision_, plan.detail);
    }
    if (!model["metadata"].is_object()) return;
    for (const auto& [key, value] : model["metadata"].items()) {
      fmt::print("  metadata    {} = {}\n", key, value.get<std::string>());
    }
  }

 private:
  ModelOptions model_;
  std::string precision_ = "split";
  bool json_ = false;
};

int main_of_fokker(int argc, char** argv) {
  CLI::App app("Score-based diffusion: train a network, sample it both ways, measure the gap between the two.",
               "fokker");
  app.set_version_flag("--version", std::string(version()));
  app.require_subcommand(1);
  app.footer(
      fmt::format("Forward SDEs (--sde, --sde-parameters) and their defaults:\n{}\n\n"
                  "{}\n\n"
                  "Example:\n"
                  "  fokker train --data circles2 --out circles2.safetensors && "
                  "fokker gap --model circles2.safetensors --data circles2\n\n"
                  "With --json the standard output holds one JSON object; progress and notes go to standard error.\n"
                  "More about a command, with examples: fokker COMMAND --help",
                  ForwardSde::describe_all(), exit_codes_help));
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<Train>(app));
  commands.push_back(std::make_unique<Sample>(app));
  commands.push_back(std::make_unique<Field>(app));
  commands.push_back(std::make_unique<Density>(app));
  commands.push_back(std::make_unique<GapCommand>(app));
  commands.push_back(std::make_unique<Diagnose>(app));
  commands.push_back(std::make_unique<Info>(app));
  return run_main(app, argc, argv, [&] {
    for (const auto& command : commands) {
      if (command->chosen()) command->run();
    }
  });
}

}  // namespace
}  // namespace fokker::tools

int main(int argc, char** argv) { return fokker::tools::main_of_fokker(argc, argv); }
