// fokker residual: how far a net is from the Fokker–Planck equation of its SDE, over a box.
#include <fmt/format.h>

#include <string>

#include "commands/command.hpp"
#include "fokker/diagnostics/residual_statistics.hpp"
#include "fokker/fokker.hpp"

namespace fokker::tools {
namespace {

class Residual : public Command {
 public:
  explicit Residual(CLI::App& parent)
      : Command(parent, "residual", "Measure how far a net is from solving the Fokker-Planck equation of its SDE") {
    explain(R"(
The mean square, over times from t_min to T and points of the box [-b, b]^d, of
  of a potential phi  R = dphi/dt + div f + f.grad phi - 1/2 g^2 (lap phi + |grad phi|^2), and that of R less its mean
                      at each time, since phi is free by a function of time that moves no sample
  of a score net s    r = ds/dt - grad[1/2 g^2 (div s + |s|^2) - f.s - div f], which is grad R where s is grad phi
It is 0 where the net is the forward SDE's own density or score. By --probes each square is the product of two independent
estimates, whose mean has no bias. Of a standardised model box and residual are of the network's z.
)",
            files_help({"--model"}), R"(
  fokker train --data circles2 --iterations 300 --output score --out score.safetensors
  fokker residual --model score.safetensors
  fokker residual --model score.safetensors --probes 2 --times 200 --points 20 --json
)");
    model_.add_to(*app_);
    model_.add_condition(*app_);
    add_integer<std::int64_t>(*app_, "--times", options_.times, "number of times", 1, 1'000'000);
    add_integer<std::int64_t>(*app_, "--points", options_.points, "number of points at each time", 1, 1'000'000);
    add_number(*app_, "--box", options_.box, "half-width b of the box, above 0");
    add_seed(*app_, options_.seed, "seed of times, points and probes");
    add_integer<std::int64_t>(*app_, "--probes", probes_,
                              "number of probes of each of two estimates; 0 computes the residual exactly", 0, 65536);
    app_->add_option("--law", law_, "law of the probes: rademacher or gaussian")
        ->capture_default_str()
        ->check(CLI::IsMember({"rademacher", "gaussian"}));
    add_json(*app_, json_);
    machine_.add_to(*app_);
  }

  void run() override {
    options_.probes = static_cast<int>(probes_), options_.law = parse_probe_law(law_);
    const Model model = model_.load();
    const Context context = machine_.context();
    if (context.precision() == Precision::half) {
      throw Error("--precision half serves values and scores only; allowed for residuals: split, fp32");
    }
    const Stopwatch clock;
    const ResidualStatistics found = residual_statistics(context, model, options_);
    const bool potential = model.output() == Output::potential;
    if (!json_) {
      fmt::print("residual at {} points by {} in {}; SDE {}\n", options_.times * options_.points,
                 counted(context.threads(), "thread"), format_duration(clock.seconds()), text_of(model.sde));
      fmt::print("mean {}  {:.6g}{}\n", potential ? "R²" : "|r|²", found.mean_square,
                 options_.times > 1 ? fmt::format(" ± {:.2g}", found.standard_error) : "");
      if (potential) fmt::print("centred at each time  {:.6g}\n", found.centred_mean_square);
      return;
    }
    Json json{{"model", model_.path},
              {"of", potential ? "density" : "score"},
              {"mean_square", found.mean_square},
              {"standard_error", found.standard_error},
              {"centred_mean_square", potential ? Json(found.centred_mean_square) : Json()},
              {"times", options_.times},
              {"points", options_.points},
              {"box", options_.box},
              {"seed", options_.seed},
              {"probes", options_.probes},
              {"law", law_}};
    model_.describe_condition(json);
    json["sde"] = describe_sde(model.sde);
    json["backend"] = context.backend_name();
    json["precision"] = to_string(context.precision());
    json["threads"] = context.threads();
    json["seconds"] = clock.seconds();
    print_json(json);
  }

 private:
  ModelOptions model_;
  ResidualOptions options_;
  std::string law_ = "rademacher";
  std::int64_t probes_ = 0;
  bool json_ = false;
  MachineOptions machine_;
};

}  // namespace

std::unique_ptr<Command> residual_command(CLI::App& parent) { return std::make_unique<Residual>(parent); }

}  // namespace fokker::tools
