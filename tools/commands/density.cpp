// fokker density: the log density of the reverse SDE's law at points.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "commands/command.hpp"
#include "files.hpp"
#include "fokker/diagnostics/sde_density.hpp"
#include "fokker/fokker.hpp"
#include "warnings.hpp"

namespace fokker::tools {
namespace {

class Density : public Command {
 public:
  explicit Density(CLI::App& parent)
      : Command(parent, "density", "Log density of a potential's reverse SDE at points") {
    explain(R"(
The density is that of the law which the reverse SDE draws from, by Feynman and Kac along random paths of the forward
SDE from each point. The output holds float64 tensors of shape [N]:
  log_density      the estimate
  standard_error   its error, from the spread of the weights of the paths
  step_error       its error, from leaving out every second time of the paths
  effective_paths  how many paths of equal weights say as much
  tail_index       at 2 or below the largest weights fall off so slowly that standard_error is not to be trusted
It is computed in double, whatever --precision says. A score net has no such density. The log density of the ODE's law:
fokker sample --log-density.
)",
            files_help({"--model", "--points"}), R"(
  fokker train --data circles2 --out circles2.safetensors
  fokker sample --model circles2.safetensors --samples 100 --out x.npy
  fokker density --model circles2.safetensors --points x.npy --out density.safetensors
)");
    model_.add_to(*app_);
    app_->add_option("--points", points_,
                     "file of points, an array [N, d] (.npy, .npz or .csv): each row is x_1 ... x_d, without a time")
        ->required()
        ->type_name("FILE");
    app_->add_option("--out", out_, "file for the densities, a .safetensors file")
        ->required()
        ->type_name("FILE")
        ->check(ends_in({".safetensors"}));
    time_option_ = add_number(*app_, "--time", time_, "time of the density, 0 to T; if not given, t_min of the SDE")
                       ->default_str("");
    add_integer<std::int64_t>(*app_, "--paths", options_.paths, "number of paths from each point", 2, 1'000'000'000);
    add_integer<std::int64_t>(*app_, "--steps", options_.steps,
                              "number of steps of a path from t_min to T; one that begins later takes its share", 2,
                              1'000'000);
    add_seed(*app_, options_.seed, "seed of the paths");
    app_->add_flag("--common-paths", options_.common_paths,
                   "take the same noise for all points, so that differences between them are smooth");
    add_json(*app_, json_);
    machine_.add_to(*app_);
  }

  void run() override {
    const std::vector<Claim> claims = claim_outputs({out_}, {model_.path, ArrayName(points_).file});
    const Model model = model_.load();
    const std::int64_t d = model.dimension();
    const Array points = load_array(points_);
    if (points.columns() != d) {
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
    const std::int64_t not_finite = std::count_if(density.log_density.begin(), density.log_density.end(),
                                                  [](double v) { return !std::isfinite(v); });
    Warnings warnings;
    if (not_finite > 0) {
      warnings.push_back(warning_of("log densities", {.count = n, .not_finite = not_finite}));
    }
    if (density.heavy_tailed > 0) {
      warnings.push_back(
          fmt::format("the largest weights at {} of {} fall off so slowly that their errors may not be trusted",
                      density.heavy_tailed, counted(n, "point")));
    }
    warn(warnings);
    if (json_) {
      Json json{{"points", n}, {"dimension", d}, {"out", out_}, {"time", time_}};
      json["paths"] = options_.paths;
      json["steps"] = options_.steps;
      json["seed"] = options_.seed;
      json["heavy_tailed"] = density.heavy_tailed;
      json["not_finite"] = not_finite;
      json["warnings"] = warnings;
      json["sde"] = describe_sde(model.sde);
      json["backend"] = context.backend_name();
      json["threads"] = context.threads();
      json["seconds"] = clock.seconds();
      print_json(json);
    } else {
      progress.say(fmt::format("{} by {} in {}, in '{}'; SDE {}", counted(n, "log density"),
                               counted(context.threads(), "thread"), format_duration(clock.seconds()), out_,
                               text_of(model.sde)));
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

}  // namespace

std::unique_ptr<Command> density_command(CLI::App& parent) { return std::make_unique<Density>(parent); }

}  // namespace fokker::tools
