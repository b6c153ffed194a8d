// The paper's experiment: for each data set and each weight w_R of the Fokker–Planck residual, and in a study for
// several activations and seeds, train, sample by the reverse SDE and by the probability-flow ODE, and measure the gap.
// Each run has a folder (run.hpp) in DIR, and DIR/results.json gathers those that are finished; report.py renders it.
// States, samples and energies are saved every 20 seconds. A second call goes on where the first stopped, and one that
// asks for more weights, seeds or activations takes over the runs that are there. Where one run fails the others go on.
// Several calls may work in one DIR, on one machine or many: each takes the runs that no other has.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "console.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "options.hpp"
#include "parts.hpp"
#include "presets.hpp"
#include "ranks.hpp"
#include "results.hpp"
#include "run.hpp"
#include "run_measurement.hpp"
#include "run_training.hpp"
#include "training.hpp"
#include "warnings.hpp"

namespace fokker::tools {
namespace {

// Runs whose trainings share a GPU, which one small network does not fill: the paper's twelve, and as many as the
// library trains in one launch.
constexpr std::size_t most_together = 12;
static_assert(most_together + 1 < most_removed_claims, "a claim for each, and that of results.json");

class Reproduction {
 public:
  // command: the words that it was called by.
  Reproduction(CLI::App& app, std::vector<std::string> command) : app_(app), command_(std::move(command)) {
    app.add_option("--preset", preset_name_,
                   "smoke (seconds: shows that everything runs, its numbers mean nothing), quick (circles2 at w_R = 0 "
                   "and 1 in minutes on two cores), paper (full size, meant for a GPU), activations (four of them at "
                   "w_R = 0 and 1 with three seeds, full size) or activations-quick (the same small and on circles2, a "
                   "quarter of an hour on two cores)")
        ->capture_default_str()
        ->check(CLI::IsMember(preset_names));
    app.add_option("--out", out_,
                   "folder for models, states, logs and results; a call goes on where an earlier one stopped there")
        ->required();
    app.add_option(
           "--data", data_,
           "data sets, with commas between: blob, circles2, checker, MIXTURE.json or SAMPLES.npy, .npz or .csv; if not "
           "given, the preset's")
        ->delimiter(',')
        ->check(data_name());
    // What stands for the preset's own has no default to show.
    add_numbers(app, "--weights", weights_,
                "weights w_R of the residual in the loss, as 0,0.1,1,10; if not given, the preset's")
        ->default_str("");
    add_integer<std::int64_t>(app, "--iterations", iterations_,
                              "number of training iterations; if not given, the preset's", 1, max_samples)
        ->default_str("");
    add_integer<std::int64_t>(app, "--samples", samples_,
                              "number of samples of each sampler and of the data; if not given, the preset's", 1,
                              max_samples)
        ->default_str("");
    app.add_option(
           "--grid", grid_,
           "times of the samplers' steps: paper, uniform:STEPS[:END], geometric:STEPS[:END], log-snr:STEPS[:END], "
           "karras:STEPS[:END[:RHO]], edm:STEPS[:END[:RHO]] or file:TIMES.npy (or .npz, .csv); if not given, the "
           "preset's")
        ->transform(grid_text());
    add_numbers(
        app, "--eta", etas_,
        "members of dx = [a x - (1 + eta^2)/2 g^2 s] dt + eta g dW whose distances are measured, as 0,0.5,1; if "
        "not given, the preset's")
        ->default_str("");
    app.add_option("--activation", activation_, activation_help() + "; if not given, the preset's");
    for (const auto& [name, meaning] : activation_parameters()) {
      const std::string help =
          parameter_help(meaning) + "; if not given, the preset's, or PyTorch's where that has none";
      add_number(app, parameter_option(name), parameters_[name], help)->default_str("");
    }
    add_integer(app, "--seed", seed_, "seed of everything that is drawn, the first where there are several")
        ->capture_default_str();
    add_integer<std::int64_t>(app, "--seeds", seeds_, "number of seeds, from --seed on; if not given, the preset's", 1,
                              1000)
        ->default_str("");
    app.add_option("--detail", detail_,
                   "yes or no: whether the gap of planar data is measured also between T and 0 and on a finer grid, "
                   "which takes some five seconds a run; if not given, as the preset has it")
        ->check(CLI::IsMember({"yes", "no"}));
    app.add_option("--bounds", bounds_,
                   "yes or no: whether the energy of the reverse SDE and the upper bound of the gap are computed for "
                   "planar data, which takes half a minute a run on two cores; if not given, as the preset has it")
        ->check(CLI::IsMember({"yes", "no"}));
    const std::string of_several = "Several calls in one folder";
    CLI::Option* const one =
        app.add_option("--run", run_, "name of a run's folder: only that run is done")->type_name("NAME");
    rank_.add_to(app, "only part I, from 0 to R - 1, of the runs, dealt to R calls so that they take about as long");
    CLI::Option* const list =
        app.add_flag("--list", list_,
                     "do nothing and print, for each run that is not finished and that no other call does, the command "
                     "that does it");
    CLI::Option* const gather =
        app.add_flag("--gather", gather_,
                     "do no run and write results.json of what is there; the runs that are not finished are named");
    CLI::Option* const rank = app.get_option("--rank");
    one->excludes(rank);
    list->excludes(one);
    gather->excludes(one);
    gather->excludes(rank);
    gather->excludes(list);
    for (CLI::Option* const option : {one, rank, list, gather}) option->group(of_several);
    machine_.add_to(app);
    app.footer(
        std::string(
            "Examples:\n"
            "  reproduce --preset quick --out quick\n"
            "  reproduce --preset quick --data checker --weights 0,0.1,1 --activation silu --out checker\n"
            "  reproduce --preset quick --seeds 3 --out seeds --list > commands\n"
            "  xargs -d '\\n' -P 2 -n 1 sh -c < commands && reproduce --preset quick --seeds 3 --out seeds --gather\n\n"
            "report.py renders the results. A second call with the same options goes on where the first was ended;\n"
            "one at the same time does the runs that the first has not begun.\nKilled in the midst of a save, it "
            "leaves "
            "the earlier file and beside it a file "
            ".fokker-PID-N.tmp, which may be\nremoved, and .fokker-HASH.lock, which the next call takes over and "
            "removes.\n\n") +
        exit_codes_help);
  }

  void run() {
    configure();
    rank_.check();
    const TimeGrid grid = TimeGrid::parse(preset_.grid, sde_);
    const std::vector<Run> runs = plan_runs(preset_, sde_, seed_, out_);
    if (given("--run")) check_run(runs);
    const Warnings warnings = check_data(runs);
    if ((list_ || gather_) && !is_first_rank()) return;
    if (list_ || gather_) {
      check_folders(runs, out_);
    } else if (is_first_rank()) {
      prepare_folders(runs, out_);
    }
    const Context context = machine_.context();
    if (!list_ && !gather_) check_ranks(work_of(runs, context, grid), "reproduction");
    RunGroup own;
    std::shared_ptr<Ranks> team = one_rank();
    RunMeasurement measurement(context, preset_, sde_, grid, out_);
    share_out(runs, measurement, own, team);
    if (list_) return list(own, measurement);
    if (!gather_) ranks()->barrier();  // the folders are there
    warn(warnings);
    const std::vector<RunGroup> groups =
        group_runs(gather_ ? RunGroup() : own, context.device() == Device::cuda ? most_together : 1);
    Progress progress(phases(groups, measurement));
    if (!gather_) {
      const std::string of_all = own.size() < runs.size() ? fmt::format(" of {}", runs.size()) : "";
      progress.say(fmt::format("{}{} on the {} backend, {}, into '{}'", counted(std::ssize(own), "run"), of_all,
                               context.backend_name(), counted(context.threads(), "thread"), out_));
    }
    Json results = describe_machine();
    results["preset"] = preset_.name;
    results["backend"] = context.backend_name();
    results["threads"] = context.threads();
    results["warnings"] = warnings;
    results["gap_options"] = gap_options_json(context, preset_, seed_);
    results["seeds"] = preset_.seeds;
    results["box"] = preset_.gap.box.x.high;  // of presets it is [-b, b]^2
    const bool writes = team->rank() == 0;
    std::shared_ptr<Ranks> trains = team;  // on GPUs by a communicator, from the first training on
    for (const RunGroup& group : groups) {
      // Those of the group that no other process has; each is released as soon as it is measured.
      std::map<const Run*, Claim> claims;
      std::vector<std::byte> is_taken(group.size());
      for (std::size_t i = 0; i < group.size() && writes; ++i) {
        try {
          claims.emplace(group[i], claim_run(*group[i]));
          is_taken[i] = std::byte{1};
        } catch (const InUse& busy) {
          progress.say(fmt::format("{}: skipped, {} does it", group[i]->title, busy.holder));
        }
      }
      team->broadcast(is_taken, 0);
      RunGroup taken;
      for (std::size_t i = 0; i < group.size(); ++i) {
        if (is_taken[i] == std::byte{1}) taken.push_back(group[i]);
      }
      train(context, taken, progress, trains);
      for (std::size_t i = 0; i < group.size(); ++i) {
        const Run& run = *group[i];
        if (is_taken[i] == std::byte{0}) {
          for (std::size_t phase = 0; phase < measurement.phases(run).size(); ++phase) progress.skip();
          continue;
        }
        measurement.measure(run, progress, team);
        claims.erase(&run);
        if (writes) try_to_write_results(runs, measurement, results);
      }
    }
    if (!gather_) ranks()->barrier();  // all runs are done
    if (!is_first_rank()) return;
    write_results(runs, measurement, results);
    progress.clear();
    if (ranks()->size() > 1) own = selected(runs);
    conclude(results, runs, own);
  }

 private:
  bool given(const char* option) const { return app_.count(option) > 0; }

  void configure() {
    preset_ = find_preset(preset_name_);
    if (given("--data")) preset_.data = data_;
    if (given("--weights")) preset_.weights = weights_;
    if (given("--iterations")) preset_.train.iterations = iterations_;
    if (given("--samples")) preset_.gap.samples = samples_;
    if (given("--grid")) preset_.grid = grid_;
    if (given("--eta")) preset_.etas = etas_;
    check_usage([&] {
      for (const double eta : preset_.etas) SampleOptions{.eta = eta}.validate();
    });
    if (given("--detail")) preset_.gap.in_detail = detail_ == "yes";
    if (given("--bounds")) preset_.bounds = bounds_ == "yes";
    if (given("--seeds")) preset_.seeds = seeds_;
    if (given("--activation")) {
      NetworkActivation one = preset_.activations.front();
      check_usage([&] { one.activation = parse_activation(activation_); });
      const ActivationTraits& traits = traits_of(one.activation);
      if (traits.has_parameter() && one.activation != preset_.activations.front().activation) {
        one.beta = traits.parameter.usual;
      }
      preset_.activations = {one};
    }
    std::vector<std::string> changes{"--iterations", "--grid", "--activation"};
    check_activation_parameters(app_, std::string(to_string(preset_.activations.front().activation)));
    for (const auto& [name, value] : parameters_) {
      changes.push_back(parameter_option(name));
      // One softplus, where the preset has several.
      if (given(changes.back().c_str())) preset_.activations = {{preset_.activations.front().activation, value}};
    }
    for (const std::string& option : changes) {
      if (given(option.c_str())) preset_.published = false;  // the published numbers are of the paper's own recipe
    }
  }

  void check_run(const std::vector<Run>& runs) const {
    if (std::any_of(runs.begin(), runs.end(), [&](const Run& run) { return name_of(run) == run_; })) return;
    throw CLI::ValidationError(fmt::format("--run '{}' given; allowed: one of the {} of this call, as '{}'", run_,
                                           counted(std::ssize(runs), "run"), name_of(runs.front())));
  }

  // Those that this call, on all of its ranks, is to do.
  RunGroup selected(const std::vector<Run>& runs) const {
    RunGroup chosen;
    for (const Run& run : runs) {
      if (!given("--run") || name_of(run) == run_) chosen.push_back(&run);
    }
    return chosen;
  }

  // The runs that are this process's: as --rank says, or of several ranks those of its team. Where there are fewer runs
  // than ranks, more than one of these are a team.
  void share_out(const std::vector<Run>& runs, const RunMeasurement& measurement, RunGroup& own,
                 std::shared_ptr<Ranks>& team) const {
    const RunGroup all = selected(runs);
    RankOf part = rank_.rank();
    if (!rank_.in_parts() && (list_ || gather_)) {
      part = {};  // the first rank's alone
    } else if (!rank_.in_parts() && part.ranks > 1) {
      const std::int64_t ranks_there = part.ranks, teams = std::min(ranks_there, std::ssize(all));
      for (std::int64_t k = 0; k < teams; ++k) {
        const IndexRange members = IndexRange::of({k, teams}, ranks_there);
        if (ranks()->rank() < members.first || ranks()->rank() >= members.first + members.count) continue;
        part = {k, teams};
        team = range_of(ranks(), int(members.first), int(members.count));
      }
    }
    std::vector<double> costs;
    for (const Run* const run : all) {
      double& cost = costs.emplace_back(training_cost(*run));
      for (const Progress::Phase& phase : measurement.phases(*run)) cost += phase.cost;
    }
    const std::vector<std::int64_t> taken_by = deal(costs, part.ranks);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (taken_by[i] == part.rank) own.push_back(all[i]);
    }
  }

  // Prints the commands of those that are left to do.
  void list(const RunGroup& runs, const RunMeasurement& measurement) const {
    std::string command;
    for (std::size_t i = 0; i < command_.size(); ++i) {
      const bool of_value = command_[i] == "--rank";
      if (of_value || command_[i].starts_with("--rank=") || command_[i].starts_with("--list")) {
        i += of_value ? 1 : 0;
        continue;
      }
      command += shell_word(command_[i]) + ' ';
    }
    for (const Run* const run : runs) {
      if (!measurement.entry_of(*run).is_null()) continue;
      if (const std::string holder = holder_of(*run); !holder.empty()) {
        write_message(fmt::format("{} is in progress: {}\n", printable(name_of(*run)), holder));
      } else {
        fmt::print("{}--run {}\n", command, shell_word(name_of(*run)));
      }
    }
  }

  // What training and measuring cannot do well with the data, each set looked at once, by its run of the largest
  // weight: only the points of the residual ask for more. Throws Error where all of a planar law lies outside the box of
  // its distances.
  Warnings check_data(const std::vector<Run>& runs) const {
    std::vector<const Run*> of_data;
    for (const Run& run : runs) {
      const auto same = [&](const Run* other) { return other->data.name() == run.data.name(); };
      const auto found = std::find_if(of_data.begin(), of_data.end(), same);
      if (found == of_data.end()) {
        of_data.push_back(&run);
      } else if (run.train.residual_weight > (*found)->train.residual_weight) {
        *found = &run;
      }
    }
    Warnings warnings;
    for (const Run* const run : of_data) {
      Warnings of_run;
      if (run->planar()) {
        const double width = preset_.gap.box.x.high,
                     outside = share_outside(run->data, run->architecture.dimension, width);
        if (outside == 1) {
          throw Error(fmt::format("all data of '{}' lie outside the box [-{}, {}]^2 of the distances; scale the data",
                                  run->data.name(), width, width));
        }
        if (outside >= many_escaped) {
          of_run.push_back(
              fmt::format("{:.3g} % of the data are outside the box [-{}, {}]^2, and distances leave them out",
                          100 * outside, width, width));
        }
      }
      append(of_run, warnings_before_training(run->data, run->architecture.dimension, run->sde, run->train));
      for (const std::string& text : of_run) warnings.push_back(fmt::format("{}: {}", run->data.name(), text));
    }
    return warnings;
  }

  static std::string name_of(const Run& run) { return run.folder.substr(run.folder.rfind('/') + 1); }

  // As a POSIX shell reads it.
  static std::string shell_word(const std::string& text) {
    const auto plain = [](unsigned char c) {
      return std::isalnum(c) != 0 || std::string_view("-_./,:=+@%").find(char(c)) != std::string_view::npos;
    };
    if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
    std::string quoted = "'";
    for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return quoted + '\'';
  }

  // In seconds on two cores of 2024, as those of RunMeasurement::phases().
  static double training_cost(const Run& run) {
    const TrainOptions& o = run.train;
    const double points = double(o.denoising_points) + (o.residual_weight > 0 ? 2.0 * double(o.collocation_points) : 0);
    return 1e-6 * points * double(o.iterations);
  }

  static std::vector<Progress::Phase> phases(const std::vector<RunGroup>& groups, const RunMeasurement& measurement) {
    std::vector<Progress::Phase> phases;
    for (const RunGroup& group : groups) {
      double training = 0;
      for (const Run* const run : group) training += training_cost(*run);
      phases.push_back({title_of(group) + ": training", "train", training});
      for (const Run* const run : group) {
        for (Progress::Phase& phase : measurement.phases(*run)) phases.push_back(std::move(phase));
      }
    }
    return phases;
  }

  // All that the numbers depend on.
  Json work_of(const std::vector<Run>& runs, const Context& context, const TimeGrid& grid) const {
    Json work = describe_arithmetic(context);
    work["gap_options"] = gap_options_json(context, preset_, seed_);
    work["times"] = grid.times();
    work["runs"] = Json::array();
    for (const Run& run : runs) work["runs"].push_back(run.recipe);
    return work;
  }

  // After a run, unless another process is writing, which has this run in its next.
  void try_to_write_results(const std::vector<Run>& runs, const RunMeasurement& measurement, Json& results) const {
    try {
      write_results(runs, measurement, results, 0);
    } catch (const InUse&) {
    }
  }

  // Of all runs that are finished, by whichever call: they are read while this process may write, so that what it
  // leaves is never older than what it replaces.
  void write_results(const std::vector<Run>& runs, const RunMeasurement& measurement, Json& results,
                     double patience = 60) const {
    const Claim claim = claim_results(out_, patience);
    results["runs"] = Json::array();
    for (const Run& run : runs) {
      if (Json entry = measurement.entry_of(run); !entry.is_null()) results["runs"].push_back(std::move(entry));
    }
    Json summary = summarise(without_failed(results["runs"]));
    results["verdicts"] = verdicts(summary, preset_.gap.samples);
    if (preset_.published) {
      results["acceptance"] = acceptance(summary);
      for (Json& entry : summary) entry["published"] = published(entry["data"], entry["residual_weight"]);
    }
    results["summary"] = std::move(summary);
    results["most_escaped"] = most_escaped;
    results["finished"] = results["runs"].size() == runs.size();
    results["seconds"] = seconds_of(results["runs"]);
    write_text(out_ + "/results.json", text_of(results, 1) + "\n");
  }

  // The experiment's statements, and where its numbers are. Throws Error where of the `own` runs of this call some failed
  // or are not finished.
  void conclude(const Json& results, const std::vector<Run>& runs, const RunGroup& own) const {
    const bool several = preset_.activations.size() > 1;
    for (const Json& verdict : results["verdicts"]) {
      fmt::print("{}{}: {}\n", printable(verdict["data"].get<std::string>()),
                 several ? ", " + verdict["activation"].get<std::string>() : "", verdict["text"].get<std::string>());
    }
    if (preset_.name == "paper" && !preset_.published) {
      fmt::print("The recipe is not the paper's, so no published numbers stand beside it\n");
    }
    fmt::print("{} of training, sampling and measuring; results in '{}/results.json', which report.py renders\n",
               format_duration(number(results["seconds"])), printable(out_));
    if (preset_.only_tries()) {
      fmt::print(
          "The smoke preset shows that everything runs; it trains too little for its numbers to mean anything\n");
    }
    std::fflush(stdout);
    const auto is_own = [&](const std::string& name) {
      return std::any_of(own.begin(), own.end(), [&](const Run* run) { return name_of(*run) == name; });
    };
    std::set<std::string> finished;
    std::int64_t failed = 0;
    for (const Json& run : results["runs"]) {
      finished.insert(run["folder"].get<std::string>());
      if (run.contains("failed")) {
        failed += is_own(run["folder"].get<std::string>()) ? 1 : 0;
        continue;
      }
      for (const Json& text : run["gap"]["warnings"]) {
        warn(fmt::format("{}: {}", run["folder"].get<std::string>(), text.get<std::string>()));
      }
    }
    std::int64_t unfinished = 0, of_others = 0;
    for (const Run& run : runs) {
      if (finished.contains(name_of(run))) continue;
      if (!is_own(name_of(run))) {
        ++of_others;
        continue;
      }
      ++unfinished;
      const std::string holder = holder_of(run);
      write_message(
          fmt::format("{} is {}\n", printable(name_of(run)), holder.empty() ? "missing" : "in progress: " + holder));
    }
    if (of_others > 0) write_message(fmt::format("{} of other calls not finished yet\n", counted(of_others, "run")));
    const std::string of_runs = counted(std::ssize(own), "run");
    if (failed > 0) {
      throw Error(
          fmt::format("{} of {} failed, which '{}/results.json' explains; one whose folder is removed trains again",
                      failed, of_runs, out_));
    }
    if (unfinished > 0) {
      throw Error(fmt::format("{} of {} not finished, so that '{}/results.json' is without; a later call adds what is",
                              unfinished, of_runs, out_));
    }
  }

  CLI::App& app_;
  std::vector<std::string> command_;
  std::string preset_name_ = "quick", out_, grid_, activation_, detail_, bounds_, run_;
  RankOption rank_;
  bool list_ = false, gather_ = false;
  std::vector<std::string> data_;
  std::vector<double> weights_, etas_;
  std::int64_t iterations_ = 0, samples_ = 0, seeds_ = 0;
  std::map<std::string, double> parameters_;  // of activations
  std::uint64_t seed_ = 0;
  MachineOptions machine_;

  Preset preset_;
  ForwardSde sde_ = ForwardSde::defaults(SdeKind::ou);
};

int main_of_reproduce(int argc, char** argv) {
  start_ranks();
  CLI::App app("Reproduce the ODE–SDE gap and how the Fokker–Planck residual closes it.", "reproduce");
  Reproduction reproduction(app, {argv, argv + argc});
  return end_ranks(run_main(app, argc, argv, [&] { reproduction.run(); }));
}

}  // namespace
}  // namespace fokker::tools

int main(int argc, char** argv) { return fokker::tools::main_of_reproduce(argc, argv); }
