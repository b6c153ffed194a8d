// fokker sample: samples of either sampler, and their log density along the probability flow.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "commands/command.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "measure.hpp"

namespace fokker::tools {
namespace {

class Sample : public Command {
 public:
  explicit Sample(CLI::App& parent) : Command(parent, "sample", "Draw samples from a model") {
    explain(R"(
Sample i depends on the seed and on i alone, for any number of threads. --json prints the mean and the covariance of
the samples that are finite too, and how many those are, in up to 16 dimensions.
)",
            files_help({"--model"}), R"(
  fokker train --data circles2 --out circles2.safetensors
  fokker sample --model circles2.safetensors --scheme sde --samples 100000 --out sde.npy
  fokker sample --model circles2.safetensors --scheme heun --grid geometric:150:1e-3 --samples 10000 \
                --out ode.npy --log-density log_p.npy
)");
    model_.add_to(*app_);
    app_->add_option(
            "--scheme", scheme_,
            "euler-maruyama (or sde) for the reverse SDE; euler (or ode), heun or rk4 for the probability-flow "
            "ODE")
        ->capture_default_str()
        ->check(usable(parse_scheme));
    add_grid(*app_, grid_);
    add_samples(*app_, samples_, "number of samples");
    add_seed(*app_, seed_, "seed of the prior's draw and of the Brownian path of each sample");
    app_->add_option("--out", out_, "file for the samples, a .npy file: float32 [N, d]")
        ->required()
        ->type_name("FILE")
        ->check(ends_in({".npy"}));
    app_->add_option(
            "--log-density", log_density_,
            "file for the log density of the ODE's law at the samples, a .npy file: float32 [N]; integrated by "
            "the ODE's --scheme, or by heun where the samples are the SDE's")
        ->type_name("FILE")
        ->check(ends_in({".npy"}));
    probes_.add_to(*app_);
    add_json(*app_, json_);
    machine_.add_to(*app_);
  }

  void run() override {
    const Scheme scheme = parse_scheme(scheme_);
    const Divergence divergence = probes_.divergence();
    const std::vector<Claim> claims = claim_outputs({out_, log_density_}, {model_.path, file_of_grid(grid_)});
    const Model model = model_.load();
    suit_grid(*app_, model, grid_);
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
    const std::vector<float> on_host = to_host(context, samples.view());
    const double seconds = clock.seconds();
    save_npy(out_, {samples_, model.dimension()}, on_host.data());
    const Reach reach = reach_of(model, model_.path);
    const SampleHealth health = sample_health(context, samples.view(), reach.far);
    SampleHealth density_health;
    if (!log_density_.empty()) {
      progress.say("integrating the log density along the flow");
      Buffer<float> density(context, samples_);
      Sampler(context, model, grid)
          .log_density(samples.view(), density.view(), scheme == Scheme::euler_maruyama ? Scheme::heun : scheme,
                       divergence);
      density_health = sample_health(context, density.view());
      save_npy(log_density_, {samples_}, to_host(context, density.view()).data());
    }
    progress.clear();
    Warnings warnings;
    for (std::string text :
         {warning_of("samples", health, 0, reach.why), warning_of("log densities", density_health)}) {
      if (!text.empty()) warnings.push_back(std::move(text));
    }
    if (health.not_finite > 0 && grid.times().back() == 0) {
      warnings.front() += "; a score may be infinite at 0, and --grid geometric:150 ends above";
    }
    warn(warnings);
    if (json_) {
      Json json{{"samples", samples_}, {"dimension", model.dimension()}, {"scheme", to_string(scheme)}};
      json["grid"] = grid_;
      json["steps"] = grid.steps();
      json["seed"] = seed_;
      json["out"] = out_;
      json["log_density"] = log_density_.empty() ? Json() : Json(log_density_);
      json["sde"] = describe_sde(model.sde);
      json["not_finite"] = health.not_finite;
      json["far_out"] = health.far_out;
      json["far"] = health.far;
      json["warnings"] = warnings;
      json["moments"] = model.dimension() <= 16 ? describe(moments(context, samples.view())) : Json();
      json["backend"] = context.backend_name();
      json["precision"] = to_string(context.precision());
      json["threads"] = context.threads();
      json["seconds"] = seconds;
      print_json(json);
    } else {
      progress.say(fmt::format("{} by {} in {}, in '{}'; SDE {}", counted(samples_, "sample"),
                               counted(context.threads(), "thread"), format_duration(seconds), out_,
                               text_of(model.sde)));
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

}  // namespace

std::unique_ptr<Command> sample_command(CLI::App& parent) { return std::make_unique<Sample>(parent); }

}  // namespace fokker::tools
