// fokker gap: distances between a model's two samplers and the truth, or between two files of samples.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "commands/command.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "fokker/formulas/philox.hpp"
#include "measure.hpp"
#include "parts.hpp"
#include "rank_sampler.hpp"
#include "ranks.hpp"

namespace fokker::tools {
namespace {

class GapCommand : public Command {
 public:
  explicit GapCommand(CLI::App& parent)
      : Command(parent, "gap", "Measure the distance between a model's two samplers and the truth") {
    explain(R"(
With --model it samples the model by the reverse SDE and by the probability-flow ODE, draws as many from the data, and
prints the squared Wasserstein distances between the three, beside the noise floor, which is that of two draws of the
data. In the plane they are those of histograms on a box, samples outside the box are left out and counted as escaped,
and the sliced distances of up to 131072 samples stand beside them. In other dimensions they are sliced distances,
samples that are not finite are left out, and these and those with a coordinate beyond ten times the largest of the data
are counted as escaped. Of a potential it prints the mean of R^2 too, R being the Fokker-Planck residual, over 512 times
and 512 points each, as it is and with the mean of R taken off at each time.
With --a and --b it compares two files of samples instead. Then --data adds the truth and the noise floor, and the
options of the model and of its samplers are refused. With --points too the distances are those of the points
themselves, in any dimension and without a box, exact but for what certificate_gap says in --json.
As R ranks of MPI each draws a range of the samples, and the first measures them. Of processes without MPI the samples
are those of 'fokker sample --rank I/R', merged, for --a and --b.
)",
            files_help({"--model", "--data", "--a", "--b"}), R"(
  fokker train --data circles2 --out circles2.safetensors
  fokker gap --model circles2.safetensors --data circles2 --samples 100000 --json
  fokker sample --model circles2.safetensors --scheme sde --out sde.npy
  fokker sample --model circles2.safetensors --scheme heun --out ode.npy
  fokker gap --a ode.npy --b sde.npy --data circles2 --json
  fokker gap --a ode.npy --b sde.npy --box -2:2,-3:3 --nodes 128
)");
    model_.add_to(*app_, false);
    model_.add_condition(*app_);
    add_data(*app_, data_, "the truth");
    const std::string two_files = "Two files of samples, instead of a model";
    auto* a = app_->add_option("--a", a_, "file of samples to compare, an array [N, d] (.npy, .npz or .csv); with --b")
                  ->type_name("FILE")
                  ->group(two_files);
    auto* b = app_->add_option("--b", b_, "file of samples to compare them with, an array [M, d]")
                  ->type_name("FILE")
                  ->group(two_files);
    a->needs(b);
    b->needs(a);
    auto* points = app_->add_flag("--points", points_,
                                  "take the exact distance of the points themselves, for files whose numbers of points "
                                  "have a product of up to 2^25, as 5792 each")
                       ->group(two_files);
    points->needs(a);
    add_samples(*app_, options_.samples, "number of samples of each sampler and of draws of the data");
    points->excludes(
        add_box(*app_, "--box", options_.box,
                "box of planar histograms, which has to hold samples and data: a half-width b for [-b, b]^2, "
                "LOW:HIGH, or one of these for each axis, as -1:4,0:10"));
    points->excludes(
        add_integer<std::int64_t>(*app_, "--nodes", options_.box.n, "nodes of that box on each axis", 2, 256));
    add_seed(*app_, options_.seed, "seed of the samplers, of the draws of the data and of the residual's points");
    add_grid(*app_, grid_);
    app_->add_option("--scheme", scheme_, "scheme that integrates the ODE: euler, heun or rk4")
        ->capture_default_str()
        ->check(usable([](const std::string& text) {
          if (!is_stochastic(parse_scheme(text))) return;
          throw Error(fmt::format("'{}' given; allowed for the ODE: euler, heun, rk4", text));
        }));
    add_numbers(
        *app_, "--eta", etas_,
        "also the distances of these members of dx = [a x - (1 + eta^2)/2 g^2 s] dt + eta g dW, as 0,0.5,1: 0 is "
        "the ODE by Euler's steps, 1 the reverse SDE");
    app_->add_option("--histograms", histograms_,
                     "folder for the histograms of planar data: ode.npy, sde.npy and truth.npy, float64 [n^2] of n "
                     "--nodes, index n iy + ix")
        ->type_name("FOLDER");
    add_json(*app_, json_);
    machine_.add_to(*app_);
    std::vector<std::string> of_models = ModelOptions::override_names();
    of_models.insert(of_models.end(), {"--model", "--condition", "--guidance", "--samples", "--grid", "--scheme",
                                       "--eta", "--histograms", "--precision"});
    for (const std::string& name : of_models) a->excludes(app_->get_option(name));
  }

  bool on_ranks() const override { return true; }

  void run() override {
    check_usage([&] { options_.validate(); });
    if (app_->count("--a") > 0) {
      if (app_->count("--seed") > 0 && data_.empty()) {
        throw CLI::ValidationError("--seed given with --a and --b; allowed with --data, whose draws it names");
      }
      if (is_first_rank()) compare_files();
      return;
    }
    if (app_->count("--model") == 0) throw CLI::ValidationError("gap needs --model, or --a and --b");
    if (data_.empty()) throw CLI::ValidationError("gap needs --data with --model");
    options_.ode_scheme = parse_scheme(scheme_);
    options_.sliced = true;
    check_usage([&] {
      for (const double eta : etas_) SampleOptions{.eta = eta}.validate();
    });
    const DataSet data = DataSet::named(data_);
    const Model model = model_.load();
    if (data.dimension() != model.dimension()) {
      throw Error(fmt::format("the model '{}' has dimension {} and the data '{}' {}; they must be the same",
                              model_.path, model.dimension(), data_, data.dimension()));
    }
    suit_grid(*app_, model, grid_);
    const TimeGrid grid = TimeGrid::parse(grid_, model.sde);
    std::vector<Claim> claims;
    if (!histograms_.empty() && is_first_rank()) {
      if (data.dimension() != 2) {
        throw Error(fmt::format("--histograms given for data of dimension {}; allowed: 2", data.dimension()));
      }
      make_folder(histograms_);
      std::vector<std::string> outputs;
      for (const char* name : histogram_files) outputs.push_back(fmt::format("{}/{}.npy", histograms_, name));
      claims = claim_outputs(outputs, {model_.path, file_of_data(data_), file_of_text(grid_)});
    }
    const Context context = machine_.context();
    shared_call(false, *app_, context, model, {"--histograms"},
                {{"--model", model_.path},
                 {"--data", file_of_data(data_)},
                 {"--grid", file_of_text(grid_)},
                 {"--condition", model_.condition_file()}});
    std::optional<RankSampler> of_ranks;
    if (ranks()->size() > 1) {
      of_ranks.emplace(ranks(), context, model, grid);
      if (!is_first_rank()) return of_ranks->serve();
      options_.draw = [&](View<float> x, const SampleOptions& path) { of_ranks->sample(x, path); };
    }

    const Stopwatch clock;
    std::vector<Progress::Phase> phases{
        {"reverse SDE", "sample", 10}, {"probability-flow ODE", "sample", 10}, {"distances", "measure", 2}};
    if (!etas_.empty()) phases.push_back({"samplers of --eta", "sample", 11 * double(etas_.size())});
    Progress progress(std::move(phases));
    const GroundTruth truth = ground_truth(context, data, options_);
    const MeasuredGap measured = measure(context, model, truth, grid, options_, [&](int, double) -> FractionDone {
      progress.begin();
      return [&](double done) { progress.update(done); };
    });
    const SamplerGap& gap = measured.gap;
    Json json = gap_json(measured, options_, grid_);
    std::vector<EtaLaw> along_eta;
    if (!etas_.empty()) {
      progress.begin();
      options_.progress = [&](GapStage, double done) { progress.update(done); };
      along_eta = gap_along_eta(context, model, truth, gap.ode, grid, etas_, options_);
    }
    json["along_eta"] = Json::array();
    for (const EtaLaw& of : along_eta) {
      json["along_eta"].push_back(eta_json(of));
      for (const Json& text : json["along_eta"].back()["warnings"]) json["warnings"].push_back(text);
    }
    progress.clear();
    for (std::string& text : warnings_of("draws of the data", truth.law)) json["warnings"].push_back(std::move(text));
    warn(json["warnings"].get<Warnings>());
    json["model"] = model_.path;
    model_.describe_condition(json);
    json["sde"] = describe_sde(model.sde);
    json["box"] = box_json(options_.box);
    json["data"] = data_;
    json["backend"] = context.backend_name();
    json["threads"] = context.threads();
    json["seconds"]["total"] = clock.seconds();
    print(json, measured, along_eta, context, clock.seconds(), model.sde);
    // The numbers are out before anything else can fail.
    std::fflush(stdout);
    if (!histograms_.empty()) save_histograms(histograms_, gap, truth);
  }

 private:
  void print(const Json& json, const MeasuredGap& measured, const std::vector<EtaLaw>& along_eta,
             const Context& context, double seconds, const ForwardSde& sde) const {
    if (json_) return print_json(json);
    const SamplerGap& gap = measured.gap;
    fmt::print("gap by {} in {}; SDE {}\n", counted(context.threads(), "thread"), format_duration(seconds),
               text_of(sde));
    const auto print_distances = [](const char* what, const std::string& of, double ode_sde, double ode_truth,
                                    double sde_truth, double floor) {
      fmt::print("{} of {} draws each\n  ODE–SDE      {}\n  ODE–truth    {}\n  SDE–truth    {}\n  noise floor  {}\n",
                 what, of, number_or_dash(ode_sde), number_or_dash(ode_truth), number_or_dash(sde_truth),
                 number_or_dash(floor));
    };
    print_distances(gap.ode.dimension == 2 ? "W2²" : "sliced W2²", fmt::format("{}", options_.samples),
                    gap.ode_sde.w2_squared, gap.ode_truth.w2_squared, gap.sde_truth.w2_squared, gap.noise_floor);
    if (const auto& sliced = gap.sliced) {
      const bool all = sliced->samples == options_.samples;
      print_distances("sliced W2²", fmt::format("{}{}", all ? "" : "the first ", sliced->samples), sliced->ode_sde,
                      sliced->ode_truth, sliced->sde_truth, sliced->noise_floor);
    }
    fmt::print("escaped: ODE {:.5f}, SDE {:.5f}, truth {:.5f}\n", gap.ode.escaped, gap.sde.escaped, gap.truth_escaped);
    for (const EtaLaw& of : along_eta) {
      fmt::print("eta {:<6} to ODE {}, to truth {}, escaped {:.5f}\n", of.eta, number_or_dash(of.ode.w2_squared),
                 number_or_dash(of.truth.w2_squared), of.law.escaped);
    }
    if (measured.residual) {
      fmt::print("mean R²: {:.4g}, centred at each time {:.4g}\n", measured.residual->mean_square,
                 measured.residual->centred_mean_square);
    }
  }

  struct Loaded {
    EmpiricalLaw law;
    double scale;  // nine tenths of the finite numbers are within it
  };

  static double scale_of(std::vector<float> numbers) {
    std::erase_if(numbers, [](float v) { return !std::isfinite(v); });
    if (numbers.empty()) return 0;
    for (float& v : numbers) v = std::abs(v);
    const auto tenth = numbers.begin() + std::ssize(numbers) * 9 / 10;
    std::nth_element(numbers.begin(), tenth, numbers.end());
    return *tenth;
  }

  Loaded load(const Context& context, const std::string& path, double far) const {
    const Array array = load_array(path);
    if (array.data.empty()) {
      throw Error(fmt::format("'{}' has shape [{}]; samples are [N, d], or [N] for d = 1, with N and d at least 1",
                              path, fmt::join(array.shape, ", ")));
    }
    const std::vector<float> numbers = to_float32(array, path);
    Buffer<float> there = to_device(context, numbers, array.columns());
    return {points_ ? law_of_points(context, std::move(there), far)
                    : empirical_law(context, std::move(there), options_.box, far),
            scale_of(numbers)};
  }

  // As w2_squared() of laws, but for --points that of their points.
  TransportResult distance(const Context& context, const EmpiricalLaw& a, const EmpiricalLaw& b) const {
    if (!points_) return w2_squared(context, a, b);
    for (const EmpiricalLaw* law : {&a, &b}) {
      if (law->health.not_finite == law->health.count) return {std::nan(""), std::nan("")};
    }
    return w2_squared_of_points(context, a.samples, b.samples);
  }

  // The law of as many draws of the data, and the noise floors of both distances.
  GroundTruth truth_of(const Context& context, const DataSet& data, std::int64_t samples) const {
    GapOptions options = options_;
    options.samples = samples;
    options.sliced = true;
    if (!points_) return ground_truth(context, data, options);
    Buffer<float> draws(context, samples, data.dimension());
    data.draw(context, draws, options.seed, 0, ReservedStep::truth);
    GroundTruth truth;
    truth.far = data_scale(context, data).far();
    truth.law = law_of_points(context, std::move(draws), truth.far);
    const auto floor = [&](const SampleDistance& between) {
      return noise_floor(context, data, samples, options.seed, between);
    };
    truth.noise_floor = floor([&](View<const float> first, View<const float> second) {
      return w2_squared_of_points(context, first, second).w2_squared;
    });
    truth.sliced_noise_floor = floor([&](View<const float> first, View<const float> second) {
      return sliced_w2_squared(context, first, second, 256, options.seed);
    });
    return truth;
  }

  void compare_files() {
    const Context context = machine_.context();
    const Stopwatch clock;
    std::optional<DataSet> data;
    if (!data_.empty()) data = DataSet::named(data_);
    const double far = data ? data_scale(context, *data).far() : Reach().far;
    const Loaded first = load(context, a_, far), second = load(context, b_, far);
    const EmpiricalLaw &a = first.law, &b = second.law;
    if (a.dimension != b.dimension) {
      throw Error(
          fmt::format("'{}' has dimension {} and '{}' {}; they must be the same", a_, a.dimension, b_, b.dimension));
    }
    if (data && data->dimension() != a.dimension) {
      throw Error(fmt::format("the samples have dimension {} and the data '{}' {}; they must be the same", a.dimension,
                              data_, data->dimension()));
    }
    const bool on_grid = a.histogram.has_value(), exact = on_grid || points_;
    Warnings warnings;
    for (const auto& [path, law] : {std::pair(a_, &a), std::pair(b_, &b)}) {
      append(warnings, warnings_of(fmt::format("samples in '{}'", path), *law));
    }
    // Without data, the scale of one is all that the other can be held to; on a grid the box says more.
    const auto [less, more] = std::minmax(first.scale, second.scale);
    if (!data && !on_grid && more > 10 * less) {
      warnings.push_back(
          fmt::format("nine tenths of the numbers of '{}' are within {:.3g}, and of '{}' within {:.3g}: one may have "
                      "diverged, which --data would show",
                      a_, first.scale, b_, second.scale));
    }
    std::optional<GroundTruth> truth;
    if (data) {
      truth = truth_of(context, *data, std::min(a.health.count, b.health.count));
      append(warnings, warnings_of("draws of the data", truth->law));
    }
    warn(warnings);
    std::vector<std::pair<const char*, std::pair<const EmpiricalLaw*, const EmpiricalLaw*>>> pairs{{"a_b", {&a, &b}}};
    if (truth) {
      pairs.push_back({"a_truth", {&a, &truth->law}});
      pairs.push_back({"b_truth", {&b, &truth->law}});
    }
    Json distances, sliced, certificate_gap;
    for (const auto& [name, laws] : pairs) {
      const TransportResult result = distance(context, *laws.first, *laws.second);
      distances[name] = result.w2_squared;
      certificate_gap[name] = result.certificate_gap();
      sliced[name] = exact ? sliced_w2_squared(context, *laws.first, *laws.second) : result.w2_squared;
    }
    const auto of_each = [&](const auto& number_of) {
      Json json{{"a", number_of(a)}, {"b", number_of(b)}};
      if (truth) json["truth"] = number_of(truth->law);
      return json;
    };
    const Json escaped = of_each([](const EmpiricalLaw& law) { return law.escaped; });
    if (json_) {
      Json json;
      json["w2_squared"] = exact ? distances : Json();
      json["sliced_w2_squared"] = sliced;
      json["noise_floor"] = truth ? Json(truth->noise_floor) : Json();
      json["sliced_noise_floor"] = truth ? Json(*truth->sliced_noise_floor) : Json();
      json["certificate_gap"] = exact ? certificate_gap : Json();
      json["escaped"] = escaped;
      json["not_finite"] = {{"a", a.health.not_finite}, {"b", b.health.not_finite}};
      json["far_out"] = {{"a", a.health.far_out}, {"b", b.health.far_out}};
      json["far"] = far;
      json["warnings"] = warnings;
      json["points"] = points_;
      json["box"] = on_grid ? box_json(options_.box) : Json();
      json["samples"] = {{"a", a.health.count}, {"b", b.health.count}};
      json["backend"] = context.backend_name();
      json["threads"] = context.threads();
      return print_json(json);
    }
    fmt::print("gap by {} in {}\n", counted(context.threads(), "thread"), format_duration(clock.seconds()));
    const auto print_distances = [](const char* what, const Json& of, const std::optional<double>& floor) {
      for (const auto& [name, value] : of.items()) {
        fmt::print("{} {:<12} {}\n", what, name, number_or_dash(value.get<double>()));
      }
      if (floor) fmt::print("{} noise floor  {}\n", what, number_or_dash(*floor));
    };
    const std::optional<double> none;
    if (exact) print_distances("W2²", distances, truth ? std::optional(truth->noise_floor) : none);
    print_distances("sliced W2²", sliced, truth ? truth->sliced_noise_floor : none);
    std::string shares;
    for (const auto& [name, share] : escaped.items()) {
      shares += fmt::format("{}{} {:.5f}", shares.empty() ? "" : ", ", name, share.get<double>());
    }
    fmt::print("escaped: {}\n", shares);
  }

  ModelOptions model_;
  std::string data_, a_, b_, grid_ = "paper", scheme_ = "euler", histograms_;
  std::vector<double> etas_;
  GapOptions options_;
  bool points_ = false, json_ = false;
  MachineOptions machine_;
};

}  // namespace

std::unique_ptr<Command> gap_command(CLI::App& parent) { return std::make_unique<GapCommand>(parent); }

}  // namespace fokker::tools
