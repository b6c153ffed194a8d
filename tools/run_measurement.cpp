#include "run_measurement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <variant>

#include "diagnose.hpp"
#include "files.hpp"
#include "rank_sampler.hpp"
#include "results.hpp"

namespace fokker::tools {
namespace {

std::string fingerprint_of(const TimeGrid& grid) {
  const std::vector<double>& times = grid.times();
  return fingerprint({reinterpret_cast<const char*>(times.data()), times.size() * sizeof(double)});
}

// Uniform from T to T/10, where potentials without the residual in their loss change fast, and with a constant ratio
// from there to the end of the samplers' times, or t_min where that is 0.
TimeGrid diagnosis_grid(const TimeGrid& samplers, double t_min) {
  constexpr int early = 90, late = 70;
  const double horizon = samplers.times().front(), middle = 0.1 * horizon,
               end = std::max(samplers.times().back(), t_min);
  std::vector<double> times;
  for (int k = 0; k < early; ++k) times.push_back(std::lerp(horizon, std::max(middle, end), double(k) / early));
  for (int k = 0; k < late && end < middle; ++k) times.push_back(middle * std::pow(end / middle, double(k) / late));
  times.push_back(end);
  return TimeGrid(times);
}

const std::string advice = "remove it to have it measured again";

// Whether the file was made from what is `wanted`; throws Error where it was, and is not as it was written.
bool is_kept(const std::string& path, const Json& wanted, const Json& shape) {
  if (!is_file(path)) return false;
  const Json found = read_json(path);
  for (const auto& [key, value] : wanted.items()) {
    if (!found.is_object() || !found.contains(key) || found[key] != value) return false;
  }
  check_shape(found, shape, path, advice);
  return true;
}

// diagnosis.json without its lists over all times.
Json read_diagnosis(const Run& run) {
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

// Of a trained run, as the first rank finds it in its file, which the others may see later.
Model model_of(const Run& run, Ranks& ranks) {
  if (ranks.size() == 1) return load_model(run.file("model.safetensors"));
  Model model = ranks.rank() == 0 ? load_model(run.file("model.safetensors"))
                                  : Model{run.sde, Mlp::initialise(run.architecture, run.train.seed)};
  ranks.broadcast(std::as_writable_bytes(std::span(std::get<Mlp>(model.network).parameters)), 0);
  return model;
}

Json eta_shape() {
  return Json::array({Json{{"eta", "number"},
                           {"ode", "number"},
                           {"truth", "number"},
                           {"escaped", "number"},
                           {"warnings", Json::array({"text"})},
                           {"seconds", "number"}}});
}

}  // namespace

Json gap_shape(bool planar) {
  const Json pairs{{"ode_sde", "number"}, {"ode_truth", "number"}, {"sde_truth", "number"}};
  const Json samplers{{"ode", "number"}, {"sde", "number"}};
  const Json list = Json::array({"number"});
  return {{"w2_squared?", pairs},
          {"sliced_w2_squared?", pairs},
          {planar ? "w2_squared" : "sliced_w2_squared", pairs},
          {"noise_floor", "number"},
          {"escaped", samplers},
          {"warnings", Json::array({"text"})},
          {"residual?", {{"mean_square", "number"}, {"centred_mean_square", "number"}}},
          {"certificate_gap?", pairs},
          {"grid_bias?", "number"},
          {"denoising_loss", "number"},
          {"along_the_way?",
           {{"times", list},
            {"w2_squared", {{"ode_sde", list}, {"potential_sde", list}, {"potential_ode", list}}},
            {"escaped", {{"ode", list}, {"sde", list}}},
            {"potential_integrable", Json::array({"flag"})},
            {"share_of_growing_directions", list},
            {"noise_floor", list}}},
          {"along_eta?", eta_shape()},
          {"seconds", {{"ode", "number"}, {"sde", "number"}, {"along_eta?", "number"}, {"measure", "number"}}}};
}

Json diagnosis_shape() {
  const Json estimate{{"value", "number"}, {"standard_error", "number"}, {"step_error", "number"}};
  const Json bound{{"log_bound", "number"}, {"vacuous", "flag"}};
  return {
      {"radial_slopes", {{"integrable", "flag"}, {"reason?", "text"}}},
      {"energy",
       {{"dissipation", estimate}, {"balance", {{"left", estimate}, {"right", estimate}, {"difference", estimate}}}}},
      {"identity?",
       {{"kl_end", estimate},
        {"dissipation", estimate},
        {"kl_prior", estimate},
        {"residual_work", estimate},
        {"left", estimate},
        {"right", estimate},
        {"difference", estimate}}},
      {"upper_bound", {{"over_samples", bound}, {"over_box", bound}, {"diameter", "number"}}},
      {"resolved", "flag"},
      {"warnings", Json::array({"text"})},
      {"seconds", "number"}};
}

Json gap_options_json(const Context& context, const Preset& preset, std::uint64_t seed) {
  Json json{{"samples", preset.gap.samples},
            {"seed", seed},
            {"grid", preset.grid},
            {"ode_scheme", to_string(preset.gap.ode_scheme)},
            {"precision", to_string(context.precision())}};
  if (!preset.etas.empty()) json["etas"] = preset.etas;
  return json;
}

RunMeasurement::RunMeasurement(const Context& context, const Preset& preset, const ForwardSde& sde,
                               const TimeGrid& grid, std::string out)
    : context_(context),
      preset_(preset),
      grid_(grid),
      out_(std::move(out)),
      diagnosis_grid_(diagnosis_grid(grid, sde.t_min())) {}

// Costs in seconds on two cores of 2024; what counts is their ratio, until the first of each kind has been timed.
std::vector<Progress::Phase> RunMeasurement::phases(const Run& run) const {
  const double sampling = 0.4e-6 * double(preset_.gap.samples) * grid_.steps();
  std::vector<Progress::Phase> phases{{run.title + ": reverse SDE", "sample", sampling},
                                      {run.title + ": probability-flow ODE", "sample", sampling},
                                      {run.title + ": distances", "measure", 4}};
  if (!preset_.etas.empty()) {
    phases.push_back({run.title + ": samplers of --eta", "sample", sampling * double(preset_.etas.size())});
  }
  if (has_bounds(run)) phases.push_back({run.title + ": bound", "bound", 20});
  return phases;
}

void RunMeasurement::measure(const Run& run, Progress& progress, const std::shared_ptr<Ranks>& ranks) {
  // The first rank says what there is to do, which the others may see later.
  std::byte samples{ranks->rank() == 0 && !run.failed() && !measured(run)};
  ranks->broadcast({&samples, 1}, 0);
  if (ranks->rank() > 0) {
    if (samples == std::byte{1}) RankSampler(ranks, context_, model_of(run, *ranks), grid_).serve();
    return;
  }
  if (run.failed()) {
    for (std::size_t phase = 0; phase < phases(run).size(); ++phase) progress.skip();
    return;
  }
  std::filesystem::remove(run.file(saved_training));
  if (samples == std::byte{0}) {
    for (int stage = 0; stage < gap_stages + (preset_.etas.empty() ? 0 : 1); ++stage) progress.skip();
  } else {
    measure_gap_of(run, progress, ranks);
  }
  std::filesystem::remove(run.file(saved_samples));
  std::filesystem::remove(run.file(saved_etas));
  if (has_bounds(run)) diagnose_run(run, progress);
  std::filesystem::remove(run.file(saved_energy));
}

Json RunMeasurement::entry_of(const Run& run) const {
  const bool finished = run.trained() && measured(run) && (!has_bounds(run) || diagnosed(run));
  if (!run.failed() && !finished) return {};
  Json entry{
      {"folder", std::filesystem::path(run.folder).filename().string()},
      {"data", run.data.name()},
      {"residual_weight", run.train.residual_weight},
      {"seed", run.seed},
      {"activation", {{"name", run.activation.name()}, {"largest_second_derivative", run.activation.roughness()}}},
      {"recipe", run.recipe}};
  if (run.failed()) {
    entry["failed"] = read_failure(run);
    if (is_file(run.file("training.json"))) entry["training"] = read_training(run);
    return entry;
  }
  entry["model"] = describe_model(load_model(run.file("model.safetensors")));
  entry["training"] = read_training(run);
  entry["gap"] = read_json(run.file("gap.json"));
  entry["diagnosis"] = has_bounds(run) ? read_diagnosis(run) : Json();
  return entry;
}

GapOptions RunMeasurement::gap_options(const Run& run) const {
  GapOptions options = preset_.gap;
  options.seed = run.seed;
  return options;
}

EnergyOptions RunMeasurement::energy_options() const {
  EnergyOptions energy;
  energy.nodes = preset_.energy_nodes;
  return energy;
}

// What gap.json was measured with and from: files of the same names may hold something else by the next call.
Json RunMeasurement::measured_from(const Run& run) const {
  Json json = gap_options_json(context_, preset_, run.seed);
  json["model_contents"] = fingerprint(read_text(run.file("model.safetensors")));
  json["grid_contents"] = fingerprint_of(grid_);
  json["gap_version"] = gap_version;
  return json;
}

// What diagnosis.json was computed from and how; the library's defaults go with its version.
Json RunMeasurement::diagnosed_from(const Run& run) const {
  return {{"model_contents", fingerprint(read_text(run.file("model.safetensors")))},
          {"grid_contents", fingerprint_of(diagnosis_grid_)},
          {"seed", run.seed},
          {"nodes", energy_options().nodes},
          {"box", energy_options().box},
          {"method", fmt::format("fokker {}, diagnosis {}", version(), diagnosis_version)}};
}

// The text that unfinished work made `from` that is saved under. It also names what computes: one result is not made of
// two backends, instruction sets, devices or versions.
std::string RunMeasurement::saved_work(Json from) const {
  from.update(describe_arithmetic(context_));
  return text_of(from);
}

bool RunMeasurement::measured(const Run& run) const {
  const std::string path = run.file("gap.json");
  if (!is_kept(path, measured_from(run), gap_shape(run.planar()))) return false;
  for (const char* name : histogram_files) {
    if (run.planar() && !is_file(fmt::format("{}/{}.npy", run.folder, name))) return false;
  }
  const Json found = read_json(path);
  return !in_detail(run) ||
         (found.contains("along_the_way") && is_file(fmt::format("{}/{}.npy", run.folder, over_time_file)));
}

bool RunMeasurement::diagnosed(const Run& run) const {
  return is_kept(run.file("diagnosis.json"), diagnosed_from(run), diagnosis_shape());
}

const RunMeasurement::Truth& RunMeasurement::truth_of(const Run& run) {
  const auto key = std::pair(run.data.name(), run.seed);
  if (const auto found = truths_.find(key); found != truths_.end()) return found->second;
  if (!run.planar()) truths_.clear();  // samples rather than histograms: one of them is enough
  const GapOptions options = gap_options(run);
  Truth truth{ground_truth(context_, run.data, options), {}};
  if (in_detail(run)) {
    std::vector<double> times;
    for (const std::int32_t step : gap_steps(grid_)) times.push_back(grid_.times()[step]);
    truth.floors_over_time = marginal_noise_floors(context_, run.sde, run.data, times, options);
  }
  return truths_.emplace(key, std::move(truth)).first->second;
}

void RunMeasurement::measure_gap_of(const Run& run, Progress& progress, const std::shared_ptr<Ranks>& ranks) {
  const Stopwatch truth_clock;
  const Truth& truth = truth_of(run);
  const double truth_seconds = truth_clock.seconds();
  const Model model = model_of(run, *ranks);
  GapOptions options = gap_options(run);
  std::optional<RankSampler> of_ranks;
  if (ranks->size() > 1) {
    of_ranks.emplace(ranks, context_, model, grid_);
    options.draw = [&](View<float> x, const SampleOptions& path) { of_ranks->sample(x, path); };
  }
  const Json from = measured_from(run);
  Json sampled_from = from;
  sampled_from["in_detail"] = in_detail(run);
  sampled_from["box"] = box_json(options.box);
  const MeasuredGap measured = tools::measure(context_, model, truth.law, grid_, options,
                                              [&](int, double done) -> FractionDone {
                                                progress.begin(done);
                                                return [&](double now) { progress.update(now); };
                                              },
                                              {.file = run.file(saved_samples), .work = saved_work(sampled_from)});
  if (run.planar()) save_histograms(run.folder, measured.gap, truth.law);
  Json json = gap_json(measured, options, preset_.grid);
  json["along_eta"] = nullptr;
  if (!preset_.etas.empty()) {
    json["along_eta"] = along_eta(model, truth.law, measured.gap.ode, options,
                                  {.file = run.file(saved_etas), .work = saved_work(from)}, progress);
    double seconds = 0;
    for (const Json& of : json["along_eta"]) {
      for (const Json& text : of["warnings"]) json["warnings"].push_back(text);
      seconds += number(of["seconds"]);
    }
    json["seconds"]["along_eta"] = seconds;
  }
  const Stopwatch clock;
  json["denoising_loss"] = denoising_loss(context_, model, run.data, run.seed);
  if (measured.gap.over_time) json["along_the_way"]["noise_floor"] = truth.floors_over_time;
  json.update(from);
  json["seconds"]["measure"] = truth_seconds + measured.measure_seconds + clock.seconds();
  write_text(run.file("gap.json"), text_of(json, 1) + "\n");
}

// The gap's curve, a member of the family after the other: those that are finished are kept until gap.json is there.
Json RunMeasurement::along_eta(const Model& model, const GroundTruth& truth, const EmpiricalLaw& ode,
                               GapOptions options, const SavedWork& saved, Progress& progress) const {
  Json kept{{"work", saved.work}, {"along_eta", Json::array()}};
  if (is_kept(saved.file, {{"work", saved.work}}, {{"along_eta", eta_shape()}})) kept = read_json(saved.file);
  Json& laws = kept["along_eta"];
  const auto part = [&](double of_this) { return (double(laws.size()) + of_this) / double(preset_.etas.size()); };
  progress.begin(part(0));
  options.progress = [&](GapStage, double done) { progress.update(part(done)); };
  while (laws.size() < preset_.etas.size()) {
    const std::vector<double> eta{preset_.etas[laws.size()]};
    laws.push_back(eta_json(gap_along_eta(context_, model, truth, ode, grid_, eta, options).front()));
    write_text(saved.file, text_of(kept));
  }
  return laws;
}

// Leaves diagnosis.json in the run's folder, and beside the folders the times that it is for.
void RunMeasurement::diagnose_run(const Run& run, Progress& progress) const {
  if (diagnosed(run)) return progress.skip();
  const std::vector<double>& times = diagnosis_grid_.times();
  const Json from = diagnosed_from(run);
  {
    const Claim claim = claim_results(out_);
    save_npy(out_ + "/diagnosis_times.npy", {std::ssize(times)}, times.data());
  }
  DiagnoseOptions options;
  options.energy = energy_options();
  options.samples = 0;
  options.seed = run.seed;
  // The energy takes most of the time, and no samples are drawn.
  static constexpr double energy_share = 0.9;
  const Diagnosis found =
      diagnose(context_, load_model(run.file("model.safetensors")), diagnosis_grid_, options,
               [&](int step, double done) -> FractionDone {
                 if (step == 0) progress.begin(energy_share * done);
                 return [&progress, step](double now) {
                   progress.update(step == 0 ? energy_share * now : energy_share + (1 - energy_share) * now);
                 };
               },
               {.file = run.file(saved_energy), .work = saved_work(from)});
  Json json = diagnosis_json(found, options, "file:diagnosis_times.npy");
  json.erase("gap");  // measured elsewhere
  json.update(from);
  json["seconds"] = found.seconds;
  write_text(run.file("diagnosis.json"), text_of(json, 1) + "\n");
}

}  // namespace fokker::tools
