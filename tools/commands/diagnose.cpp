// fokker diagnose: integrability, energy, energy identity and upper bound of a potential.
#include "diagnose.hpp"

#include <fmt/format.h>

#include <string>

#include "commands/command.hpp"
#include "fokker/fokker.hpp"
#include "measure.hpp"

namespace fokker::tools {
namespace {

class Diagnose : public Command {
 public:
  explicit Diagnose(CLI::App& parent)
      : Command(parent, "diagnose", "What a potential says of the law that its reverse SDE draws from") {
    explain(R"(
p_t is the law of the reverse SDE of the potential phi at time t, s the score grad phi, R the Fokker-Planck residual,
and 0 stands for the last time of --grid. A score net has none of these:
  radial slopes    whether exp(phi) is integrable, so that q = exp(phi)/Z is a density
  energy           e_t = E |grad log p_t - s|^2 under p_t
  energy identity  KL(p_0, q_0) + 1/2 int g^2 e_t dt = KL(prior, q_T) + int (E_p R - E_q R) dt, both sides; only
                   where exp(phi) is integrable
  upper bound      of W2 between the two samplers, from the energy and the largest eigenvalue of Hessians, over
                   samples and over points of the box, beside the W2 measured; d <= 64. A maximum over points
                   is no bound, so this is an estimate, called vacuous where it exceeds the diameter of the box
)",
            files_help({"--model"}), R"(
  fokker train --data circles2 --out circles2.safetensors
  fokker diagnose --model circles2.safetensors
  fokker diagnose --model circles2.safetensors --grid geometric:400:1e-3 --nodes 256 --json
)");
    model_.add_to(*app_);
    model_.add_condition(*app_);
    add_grid(*app_, grid_);
    app_->add_option(
            "--method", method_,
            "method of the energy: grid (one and two dimensions), paths, or auto, which takes grid where it can")
        ->capture_default_str()
        ->check(usable([](const std::string& text) { parse_energy_method(text); }));
    add_integer<std::int64_t>(
        *app_, "--nodes", options_.energy.nodes,
        "nodes of the grid on each axis, 16 to 4096; if not given, 1024 in one dimension and 192 in "
        "two",
        0, 4096)
        ->default_str("");
    add_number(*app_, "--box", box_, "half-width b of the box [-b, b]^d, which has to hold the data");
    add_integer<std::int64_t>(*app_, "--energy-samples", options_.energy.samples,
                              "number of samples for the energy by paths, a multiple of 16", 32, max_samples);
    add_integer<std::int64_t>(*app_, "--paths", options_.energy.paths,
                              "number of paths from each of them at each time, even", 4, 65536);
    add_integer<std::int64_t>(*app_, "--bound-samples", options_.bound.samples,
                              "number of samples of each sampler whose Hessians the upper bound looks at", 1,
                              max_samples);
    add_integer<std::int64_t>(*app_, "--box-points", options_.bound.box_points,
                              "number of points of the box, at each time, whose Hessians it looks at", 1, max_samples);
    add_samples(*app_, options_.samples, "number of samples of each sampler for the measured W2; 0 measures none", 0);
    add_seed(*app_, options_.seed, "seed of everything that is drawn");
    add_json(*app_, json_);
    machine_.add_to(*app_);
  }

  void run() override {
    options_.energy.method = parse_energy_method(method_);
    options_.energy.box = options_.bound.box = box_;
    check_usage([&] {
      options_.energy.validate();
      options_.bound.validate();
    });
    const Model of_x = model_.load(), model = of_x.of_z();
    const bool standardised = !of_x.standardisation.empty();
    const TimeGrid grid = TimeGrid::parse(grid_, model.sde);
    const Context context = machine_.context();
    options_.reach = reach_of(model, model_.path);
    const Stopwatch clock;
    Progress progress({{"energy", "energy", 5}, {"upper bound", "bound", 2}, {"samplers", "sample", 2}});
    const Diagnosis diagnosis = diagnose(context, model, grid, options_, [&](int, double) -> FractionDone {
      progress.begin();
      return [&](double done) { progress.update(done); };
    });
    progress.clear();
    warn(diagnosis.warnings());
    if (!json_) {
      return fmt::print("diagnosis by {} in {}; SDE {}{}\n{}", counted(context.threads(), "thread"),
                        format_duration(clock.seconds()), text_of(model.sde),
                        standardised ? "; in the network's z = (x − mean)/deviation, all of it" : "",
                        diagnosis_text(diagnosis));
    }
    Json json = diagnosis_json(diagnosis, options_, grid_);
    json["model"] = model_.path;
    model_.describe_condition(json);
    if (standardised) json["coordinates"] = "standardised";
    json["sde"] = describe_sde(model.sde);
    json["backend"] = context.backend_name();
    json["threads"] = context.threads();
    json["seconds"] = clock.seconds();
    print_json(json);
  }

 private:
  ModelOptions model_;
  std::string grid_ = "geometric:200", method_ = "auto";
  double box_ = 3.5;
  DiagnoseOptions options_;
  bool json_ = false;
  MachineOptions machine_;
};

}  // namespace

std::unique_ptr<Command> diagnose_command(CLI::App& parent) { return std::make_unique<Diagnose>(parent); }

}  // namespace fokker::tools
