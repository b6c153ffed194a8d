// fokker train: options of network, SDE and training; states, records and the trained model.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "commands/command.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "ranks.hpp"
#include "training.hpp"
#include "warnings.hpp"

namespace fokker::tools {
namespace {

class Train : public Command {
 public:
  explicit Train(CLI::App& parent) : Command(parent, "train", "Train an MLP on a data set") {
    explain(R"(
The defaults train circles2 in about half a minute on two cores. They are made for data of about this size, which lie
within the box; --standardise brings any samples or mixture to it, column by column. For ou they are the paper's: a
potential of t and x. For another SDE, and with --standardise, the network is preconditioned, as --output potential:edm
--inputs -0.125*log-snr,x with the data's own deviation, and times are uniform, or log-normal for edm and flow.
SIGINT, SIGTERM or SIGHUP ends a training after the iterations that have begun, with its state saved; a second signal
ends it at once. With --resume a training that was ended or killed goes on from the state that it saved last, and its
parameters are those of an uninterrupted one, bit for bit. A loss that is not finite ends a training too; its records
and the state before that iteration are saved. A training that is killed while it saves leaves the earlier state.
As several ranks, by mpirun -n R fokker train ..., it trains on as many processes, on one machine or several that share
their files, to the same bits, on CUDA from two ranks on; the first writes the files. On CUDA each rank has a GPU of its
machine, and NCCL is needed.
Beside its outputs a killed command leaves files .fokker-PID-N.tmp, which may be removed, and .fokker-HASH.lock, which
the next one that writes there takes over and removes.
)",
            files_help({"--data"}), R"(
  fokker train --data circles2 --residual-weight 1 --out circles2.safetensors --log circles2.csv
  fokker train --data blob --iterations 20000 --state blob.state --out blob.safetensors
  fokker train --data blob --resume blob.state --out blob.safetensors
  fokker sample --model blob.safetensors --out samples.npy
  fokker train --data samples.npy --activation silu --sde vp-linear --standardise --out mine.safetensors
  fokker train --data samples.npy --condition 1 --sde vp-linear --iterations 500 --out given.safetensors
  fokker sample --model given.safetensors --condition 0.5 --out given.npy
)");
    add_data(*app_, data_, "what to train on")->required();
    app_->add_option("--out", out_, "file for the trained model, a .safetensors file")
        ->required()
        ->type_name("FILE")
        ->check(ends_in({".safetensors"}));

    recipe_group_ = "Network and forward SDE (not with --resume, whose state holds them)";
    recipe(add_integers(*app_, "--hidden", architecture_.hidden, "widths of the hidden layers, from first to last", 1,
                        16384));
    recipe("--activation", activation_, activation_help());
    for (const ActivationTraits& traits : Activations::traits) {
      if (traits.has_parameter()) parameters_[traits.parameter.name] = traits.parameter.usual;
    }
    parameters_["beta"] = 20;
    // Defaults that follow from other options are said, not shown.
    const auto follows = [&](const std::string& option) { app_->get_option(option)->default_str(""); };
    for (const auto& [name, meaning] : activation_parameters()) {
      recipe(parameter_option(name), parameters_[name],
             fmt::format("{}; if not given, {:g}", parameter_help(meaning), parameters_[name]));
      follows(parameter_option(name));
    }
    recipe("--output", output_,
           output_help + "; if not given, potential with ou, and potential:edm with other SDEs or --standardise");
    follows("--output");
    recipe("--data-deviation", architecture_.form.data_deviation,
           data_deviation_help + "; if not given, that of --data");
    follows("--data-deviation");
    recipe("--inputs", inputs_, inputs_help + "; if not given, t,x, and for edm -0.125*log-snr,x");
    follows("--inputs");
    recipe(add_integer<std::int64_t>(*app_, "--condition", architecture_.condition.inputs,
                                     "how many columns of --data, the last ones, are a condition that the network is "
                                     "given: it learns the law of the others given these",
                                     0, 4096));
    for (const auto& [what, of, text] :
         {std::tuple{"time", "the time", &time_}, {"condition", "the condition", &condition_}}) {
      recipe(fmt::format("--{}-branch", what), text->branch,
             branch_help(of) + fmt::format("; if not given, the network takes {} itself", of));
      recipe(fmt::format("--{}-into", what), text->into,
             into_help(of) + fmt::format(", of input,hidden1,...,output; if not given, all hidden layers with "
                                         "--{}-branch, else the first",
                                         what));
      follows(fmt::format("--{}-branch", what)), follows(fmt::format("--{}-into", what));
    }
    recipe("--residual", residual_,
           residual_help + ", of hidden1,hidden2,..., whose widths are that of the layer before");
    follows("--residual");
    recipe(app_->add_flag("--standardise", standardise_,
                          "train on (x - mean)/deviation of each column of --data, and keep both in the model, whose "
                          "samples and fields are those of x; --box is in deviations then"));
    recipe("--sde", sde_, sde_help);
    recipe("--sde-parameters", sde_parameters_, sde_parameters_help);

    recipe_group_ = "Training (not with --resume, whose state holds it)";
    const auto count = [&](const char* name, std::int64_t& value, const char* help, std::int64_t low,
                           std::int64_t high) {
      recipe(add_integer<std::int64_t>(*app_, name, value, help, low, high));
    };
    count("--iterations", options_.iterations, "number of iterations of Adam", 1, TrainOptions::most_iterations);
    count("--denoising-points", options_.denoising_points, "points that an iteration draws for the denoising loss", 1,
          TrainOptions::most_points);
    count("--collocation-points", options_.collocation_points,
          "points that an iteration draws for the residual; none at --residual-weight 0", 0, TrainOptions::most_points);
    recipe("--residual-weight", options_.residual_weight,
           "w_R, the weight of the mean squared Fokker-Planck residual in the loss; above 0 for potentials only");
    recipe(add_integer<std::int64_t>(
        *app_, "--residual-probes", residual_probes_,
        "number of Hutchinson's probes of each of two independent estimates of the residual, whose product stands for "
        "its square: its mean is the same, and its cost that of twice as many columns as there are probes; 0 computes "
        "the residual exactly, at a cost that grows with the columns",
        0, most_residual_probes));
    recipe(app_->add_option("--probe-law", probe_law_, "law of those probes: rademacher or gaussian")
               ->capture_default_str()
               ->check(CLI::IsMember({"rademacher", "gaussian"})));
    recipe("--box", options_.box, "half-width b of the box [-b, b]^d that the points of the residual are uniform on");
    recipe("--time-law", time_law_,
           "law of the times in the denoising loss: paper, uniform, importance or log-normal; if not given, importance "
           "for a score, else uniform, and log-normal with the SDEs edm and flow");
    follows("--time-law");
    recipe("--log-sigma-mean", options_.log_sigma_mean,
           "mean of ln(sigma/m) in the time law log-normal; if not given, -1.2");
    follows("--log-sigma-mean");
    recipe("--log-sigma-deviation", options_.log_sigma_deviation,
           "deviation of ln(sigma/m) in the time law log-normal; if not given, 1.2");
    follows("--log-sigma-deviation");
    recipe(
        "--loss-weight", loss_weight_,
        "weight of the denoising loss at a time: unit, which makes the network's own targets count alike, score, which "
        "weighs squared errors of the score alike, variance, which multiplies those by sigma^2, or file:WEIGHTS.csv "
        "(or "
        ".npy, .npz), rows of a time and what multiplies them there, linear between the times and constant beyond");
    recipe("--schedule", schedule_, "schedule of the learning rate: paper, one-cycle, cosine or constant");
    recipe("--peak-rate", options_.peak_rate, "largest learning rate; the schedule paper has rates of its own");
    recipe("--average", average_, "average of the weights that the model is made of: none, exponential or tail");
    recipe("--average-decay", options_.average_decay, "decay of the exponential average in an iteration");
    recipe("--average-fraction", options_.average_fraction,
           "share of the iterations, the last ones, that an average is taken over");
    recipe("--condition-drop", options_.condition_drop,
           "probability with which a point's condition is replaced by zeros in training, after --standardise; samples "
           "are then drawn without a condition too, by --condition none");
    recipe("--clip-norm", options_.clip_norm, "norm that a larger gradient is scaled down to; 0 scales none");
    recipe(add_seed(*app_, options_.seed, "seed of the initial weights and of all points"));

    const std::string files = "States and records";
    app_->add_option("--state", state_,
                     "file to save the state of the training to, which must not exist; if not given, the file of "
                     "--resume, or none")
        ->type_name("FILE")
        ->group(files);
    auto* resume =
        app_->add_option("--resume", resume_, "file with a saved state to go on from")->type_name("FILE")->group(files);
    app_->add_option("--save-every", save_every_,
                     "how often the state is saved: every N iterations, or every Ns seconds")
        ->capture_default_str()
        ->check(usable(SaveInterval::parse))
        ->group(files);
    app_->add_option("--log", log_, "file for the records of the iterations: .csv, or .jsonl for JSON lines")
        ->type_name("FILE")
        ->check(ends_in({".csv", ".jsonl"}))
        ->group(files);
    add_integer<std::int64_t>(*app_, "--log-every", log_every_, "write every N-th record only, from the first on", 1,
                              max_samples)
        ->group(files);
    for (CLI::Option* option : recipe_) option->excludes(resume);
    add_json(*app_, json_);
    machine_.add_to(*app_);
  }

  bool on_ranks() const override { return true; }

  void run() override {
    if (resume_.empty()) check_usage([&] { read_recipe(); });
    const SaveInterval save = SaveInterval::parse(save_every_);
    if (state_.empty()) state_ = resume_;
    const bool same_state = !resume_.empty() && same_file(state_, resume_);
    const bool writes = is_first_rank();
    std::vector<Claim> claims;
    if (writes) {
      claims = claim_outputs({out_, state_, log_},
                             {file_of_data(data_), file_of_text(loss_weight_), same_state ? "" : resume_});
    }
    if (writes && !state_.empty() && !same_state && is_file(state_)) {
      throw Error(fmt::format(
          "--state '{0}' is there already: go on from the state in it with --resume '{0}', remove it, or name another",
          state_));
    }
    const DataSet data = DataSet::named(data_);
    const Context context = machine_.context();
    std::vector<Trainer> one;
    const std::shared_ptr<Ranks> all = training_ranks(context, ranks());
    one.push_back(resume_.empty() ? start(context, data, all) : Trainer::resume(context, resume_, data, all));
    TrainingGroup group(std::move(one));
    const Trainer& trainer = group[0];

    const Standardisation columns = trainer.model().standardisation;
    const Warnings warnings = warnings_before_training(data.standardised(context, columns), trainer.model().dimension(),
                                                       trainer.model().sde, trainer.options(), !columns.empty());
    warn(warnings);
    const std::int64_t first = trainer.iteration();
    Progress progress({{fmt::format("training on {}", data.name()), "train", 1}});
    progress.begin(double(first) / double(trainer.options().iterations));
    const TrainingResult result =
        run_training(group, {.state = state_, .log = log_, .log_every = log_every_}, save, progress);

    const Model model = trainer.model();
    Json recipe = describe_recipe(std::get<Mlp>(model.network).architecture, model.sde, data, trainer.options());
    if (!columns.empty()) recipe["standardise"] = true;
    ModelMetadata metadata = training_metadata(text_of(recipe), data, model);
    if (model.condition() > 0) metadata["condition_drop"] = fmt::format("{}", trainer.options().condition_drop);
    if (writes) save_model(out_, model, metadata);
    if (json_) {
      Json json{{"model", out_}, {"backend", context.backend_name()}, {"threads", context.threads()}};
      json["precision"] = to_string(context.precision());
      json["ranks"] = ranks()->size();
      json["first_iteration"] = first;
      json["iterations"] = trainer.iteration();
      json["last"] = nullptr;
      if (result.last.iteration >= 0) {
        json["last"] = {{"denoising", result.last.denoising},
                        {"residual", result.last.residual},
                        {"total", result.last.total},
                        {"gradient_norm", result.last.gradient_norm}};
      }
      json["warnings"] = warnings;
      json["seconds"] = result.seconds;
      json["recipe"] = recipe;
      print_json(json);
    } else {
      progress.say(fmt::format("{} in {} by {}; the model is in '{}': {}, SDE {}",
                               counted(trainer.iteration() - first, "iteration"), format_duration(result.seconds),
                               counted(context.threads(), "thread") +
                                   (ranks()->size() > 1 ? fmt::format(" on each of {} ranks", ranks()->size()) : ""),
                               out_, std::get<Mlp>(model.network).architecture.describe(), text_of(model.sde)));
    }
  }

 private:
  // Options of the recipe, which a resumed state has already.
  void recipe(CLI::Option* option) { recipe_.push_back(option->group(recipe_group_)); }
  void recipe(const std::string& name, std::string& value, const std::string& help) {
    recipe(app_->add_option(name, value, help)->capture_default_str());
  }
  void recipe(const std::string& name, double& value, const std::string& help) {
    recipe(add_number(*app_, name, value, help));
  }

  // What the command line says of the recipe; throws Error where that alone is wrong.
  void read_recipe() {
    check_activation_parameters(*app_, activation_);
    if (is_activation_list(activation_)) {
      architecture_.activations = parse_activations(activation_);
    } else {
      architecture_.activation = parse_activation(activation_);
      const ActivationParameter& parameter = traits_of(architecture_.activation).parameter;
      architecture_.beta = parameters_.at(parameter.name ? parameter.name : "beta");
    }
    const std::vector<std::string> names = architecture_.names();
    for (const char* option : {"--condition-branch", "--condition-into"}) {
      if (app_->count(option) == 0 || architecture_.conditional()) continue;
      throw Error(
          fmt::format("{} given without --condition; allowed: with the number of columns that are one", option));
    }
    read_branch(time_, names, architecture_.time);
    read_branch(condition_, names, architecture_.condition);
    if (!residual_.empty()) architecture_.residual = parse_layers(residual_, names);
    forward_ = ForwardSde::parse(sde_, sde_parameters_);
    const auto given = [&](const char* option) { return app_->count(option) > 0; };
    // The paper's recipe is for ou and data as they are.
    if (!given("--output") && (forward_.kind() != SdeKind::ou || standardise_)) output_ = "potential:edm";
    const NetworkOutput output = parse_output(output_);
    if (!given("--inputs") && output.form == Form::edm) inputs_ = "-0.125*log-snr,x";
    const bool wide = forward_.kind() == SdeKind::edm || forward_.kind() == SdeKind::flow;
    if (!given("--time-law") && output.form != Form::score) time_law_ = wide ? "log-normal" : "uniform";
    architecture_.output = output.output, architecture_.form.form = output.form;
    const std::vector<LayerInput> order = parse_inputs(inputs_, architecture_.form);
    if (order.back() != LayerInput::x || order.size() > 2) {
      throw Error(fmt::format("--inputs {} given; allowed in a training: the time first, and x", inputs_));
    }
    architecture_.validate();
    options_.residual_probes = static_cast<int>(residual_probes_), options_.probe_law = parse_probe_law(probe_law_);
    options_.time_law = parse_time_law(time_law_);
    if (file_of_text(loss_weight_).empty()) {
      const auto allowed = {LossWeight::unit, LossWeight::score, LossWeight::variance};
      const auto* const found = std::find_if(allowed.begin(), allowed.end(),
                                             [&](LossWeight weight) { return to_string(weight) == loss_weight_; });
      if (found == allowed.end()) {
        throw Error(
            fmt::format("--loss-weight {} given; allowed: unit, score, variance or file:WEIGHTS.csv (or .npy, "
                        ".npz)",
                        printable(loss_weight_)));
      }
      options_.loss_weight = *found;
    }
    options_.schedule = parse_rate_schedule(schedule_);
    options_.average = parse_weight_average(average_);
    const auto refuse = [&](const char* option, bool unread, const char* with, const std::string& name) {
      if (app_->count(option) == 0 || !unread) return;
      throw Error(fmt::format("{} given with {} {}, which does not read it", option, with, name));
    };
    refuse("--data-deviation", output.form != Form::edm, "the output", output_);
    for (const char* option : {"--log-sigma-mean", "--log-sigma-deviation"}) {
      refuse(option, options_.time_law != TimeLaw::log_normal, "the time law", time_law_);
    }
    refuse("--residual-probes", residual_probes_ > 0 && options_.residual_weight == 0, "--residual-weight", "0");
    refuse("--probe-law", residual_probes_ == 0, "--residual-probes", "0");
    refuse("--peak-rate", options_.schedule == RateSchedule::paper, "the schedule", schedule_);
    refuse("--average-decay", options_.average != WeightAverage::exponential, "the average", average_);
    refuse("--average-fraction", options_.average == WeightAverage::none, "the average", average_);
    options_.validate();
  }

  // A branch as its options say it.
  struct BranchText {
    std::string branch, into;
  };
  void read_branch(const BranchText& text, const std::vector<std::string>& names, Branch& branch) const {
    if (!text.branch.empty()) {
      branch.layers = parse_branch(text.branch);
      branch.into.clear();
      for (std::int64_t l = 0; l + 1 < architecture_.layers(); ++l) branch.into.push_back(l);
    }
    if (!text.into.empty()) branch.into = parse_layers(text.into, names);
  }

  // Of the first d coordinates together, to three digits.
  static double deviation_of(const Context& context, const DataSet& data, std::int64_t d) {
    double squares = 0;
    for (const double deviation : data_scale(context, data, data.dimension() - d).deviation)
      squares += deviation * deviation;
    const double deviation = std::sqrt(squares / static_cast<double>(d));
    if (!(deviation > 0)) {
      throw Error(fmt::format("the data set '{}' has no deviation for the output edm; allowed: one by --data-deviation",
                              printable(data.name())));
    }
    return std::stod(fmt::format("{:.3g}", deviation));
  }

  // Those of --loss-weight file:NAME.
  void read_loss_weights() {
    const std::string name = loss_weight_.substr(loss_weight_.find(':') + 1);
    const Array rows = load_array(name);
    if (rows.columns() != 2) {
      throw Error(fmt::format("'{}' has shape [{}]; needed for loss weights: [N, 2], times and weights", name,
                              fmt::join(rows.shape, ", ")));
    }
    options_.loss_weight = LossWeight::given;
    for (std::size_t k = 0; k < rows.data.size(); k += 2) {
      options_.loss_weights.push_back({rows.data[k], rows.data[k + 1]});
    }
  }

  Trainer start(const Context& context, const DataSet& data, const std::shared_ptr<Ranks>& all) {
    if (!file_of_text(loss_weight_).empty()) read_loss_weights();
    const std::int64_t condition = architecture_.condition.inputs;
    if (condition >= data.dimension()) {
      throw Error(
          fmt::format("--condition {} given with --data '{}' of {}; allowed: less than that, the others being x",
                      condition, data_, counted(data.dimension(), "column")));
    }
    architecture_.dimension = data.dimension() - condition;
    Standardisation columns;
    if (standardise_) columns = standardisation_of(context, data, condition);
    if (architecture_.form.form == Form::edm && app_->count("--data-deviation") == 0) {
      architecture_.form.data_deviation =
          deviation_of(context, data.standardised(context, columns), architecture_.dimension);
    }
    return Trainer(context, {forward_, Mlp::initialise(architecture_, options_.seed), columns}, data, options_, all);
  }

  std::string data_, out_, state_, resume_, log_, save_every_ = "60s";
  std::string activation_ = "softplus", output_ = "potential", inputs_ = "t,x", sde_ = "ou", sde_parameters_;
  std::string residual_;
  BranchText time_, condition_;
  std::map<std::string, double> parameters_;  // of activations
  Architecture architecture_;
  ForwardSde forward_;
  TrainOptions options_;
  std::string time_law_{to_string(options_.time_law)}, loss_weight_{to_string(options_.loss_weight)},
      schedule_{to_string(options_.schedule)}, average_{to_string(options_.average)},
      probe_law_{to_string(options_.probe_law)};
  std::int64_t residual_probes_ = 0, log_every_ = 1;
  bool standardise_ = false, json_ = false;
  std::string recipe_group_;
  std::vector<CLI::Option*> recipe_;
  MachineOptions machine_;
};

}  // namespace

std::unique_ptr<Command> train_command(CLI::App& parent) { return std::make_unique<Train>(parent); }

}  // namespace fokker::tools
