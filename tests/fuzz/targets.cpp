#include "targets.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "diagnose.hpp"
#include "files.hpp"
#include "fokker/fokker.hpp"
#include "kept_json.hpp"
#include "measure.hpp"
#include "operations/trainer_state.hpp"
#include "options.hpp"
#include "parts.hpp"
#include "results.hpp"
#include "run.hpp"
#include "run_measurement.hpp"
#include "training.hpp"

namespace fokker::fuzz {
namespace {

using tools::Json;

// A file with the input, removed with its folder when the process ends.
class InputFile {
 public:
  InputFile() {
    const auto memory = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string pattern = (memory / "fokker_fuzz_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
    folder_ = pattern;
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string with(const std::string& input, const char* name) const {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary | std::ios::trunc) << input;
    return path;
  }

 private:
  std::filesystem::path folder_;
};

std::string file(const std::string& input, const char* name) {
  static const InputFile folder;
  return folder.with(input, name);
}
std::string file_in_own_folder(const char* name) {
  static const InputFile folder;
  return folder.with("", name);
}

void expect(bool right, const char* what) {
  if (!right) throw std::logic_error(what);
}

void expect_sentence(const std::string& text) {
  expect(!text.empty() && printable(text, Error::longest) == text, "a refusal that is not one short printable line");
}

template <class Read>
void read_or_refuse(const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    expect_sentence(error.what());
  }
}

// The parts between line feeds.
std::vector<std::string> lines_of(const std::string& input) {
  std::vector<std::string> lines{""};
  for (const char c : input) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += c;
    }
  }
  return lines;
}

void read_array(const std::string& input, const char* name, std::size_t most) {
  read_or_refuse([&] {
    const Array array = load_array(file(input, name));
    std::size_t count = 1;
    for (const std::int64_t n : array.shape) count *= static_cast<std::size_t>(n);
    expect(count == array.data.size() && count <= most, "an array of another size than its shape");
    to_float32(array, "an array");
  });
}

void read_npy(const std::string& input) { read_array(input, "input.npy", input.size()); }
void read_csv(const std::string& input) { read_array(input, "input.csv", input.size()); }
void read_npz(const std::string& input) {
  read_array(input, "input.npz", std::size_t{1} << 26);
  read_or_refuse([&] { load_array(file(input, "input.npz") + ":x", 3); });
}

void read_safetensors(const std::string& input) {
  read_or_refuse([&] {
    const SafeTensors tensors = SafeTensors::load(file(input, "input.safetensors"));
    for (const auto& entry : tensors.tensors) read_or_refuse([&] { entry.second.to_double(); });
    const std::string path = file("", "again.safetensors");
    tensors.save(path);
    const SafeTensors again = SafeTensors::load(path);
    expect(again.metadata == tensors.metadata && again.tensors.size() == tensors.tensors.size(),
           "a file that changes when it is saved");
  });
}

void read_model(const std::string& input) {
  const std::string path = file(input, "input.safetensors");
  read_or_refuse([&] { load_model(path).validate(); });
  read_or_refuse([&] { load_model(path, {{"activation", "tanh"}, {"output", "score"}}).validate(); });
}

// Recipes for a network with all that a recipe may name.
void read_recipe(const std::string& input) {
  static const std::string weights = [] {
    SafeTensors file;
    const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
      std::int64_t size = 1;
      for (const std::int64_t n : shape) size *= n;
      const std::vector<float> numbers(static_cast<std::size_t>(size), 0.25f);
      file.tensors[name] = Tensor::from_float(std::move(shape), numbers.data());
    };
    for (const auto& [name, outputs, inputs] : {std::tuple{"net.0", 12, 2 + 6}, std::tuple{"net.2", 12, 12},
                                                std::tuple{"net.4", 2, 12}, std::tuple{"emb.1", 6, 8}}) {
      add(std::string(name) + ".weight", {outputs, inputs});
      add(std::string(name) + ".bias", {outputs});
    }
    add("net.6.kernel", {12, 2});
    add("net.8.weight_g", {12, 1});
    add("net.8.weight_v", {12, 8});
    add("W", {4});
    const std::string path = file_in_own_folder("weights.safetensors");
    file.save(path);
    return path;
  }();
  const std::string recipe = file(input, "recipe.json");
  read_or_refuse([&] { import_model(weights, recipe).validate(); });
}

void read_mixture(const std::string& input) {
  read_or_refuse([&] {
    const Model model = load_model(file(input, "input.json"));
    model.validate();
    const auto bounded = [&](const Model& of) {
      const auto* mixture = std::get_if<GaussianMixture>(&of.network);
      expect(mixture && mixture->covariances().size() <= std::max(input.size(), std::size_t{1} << 22),
             "more numbers than the file asks");
    };
    if (const auto* composition = std::get_if<Composition>(&model.network)) {
      for (const Term& term : composition->terms) bounded(term.model);
    } else {
      bounded(model);
    }
  });
}

// What a reproduction left: a number for the file, then its text.
void read_kept(const std::string& input) {
  const char which = input.empty() ? '0' : input.front();
  const std::string text = input.empty() ? input : input.substr(1);
  if (which == '3' || which == '4') {
    static tools::Run run{DataSet::named("blob"), 0, {}, {}, {}, {}, {}, {}, {}};
    const char* const name = which == '3' ? "training.json" : "failed.json";
    run.folder = std::filesystem::path(file(text, name)).parent_path();
    read_or_refuse([&] {
      if (which == '4') return static_cast<void>(tools::read_failure(run));
      expect(std::isfinite(tools::read_training(run).at("seconds").get<double>()), "a training of no finite time");
    });
    return;
  }
  read_or_refuse([&] {
    const std::string path = file(text, "kept.json");
    const Json found = tools::read_json(path);
    tools::text_of(found);
    if (which == '0') {
      tools::check_shape(found, tools::gap_shape(true), path, "remove it");
      Json run{{"data", "blob"},      {"activation", {{"name", "tanh"}}}, {"residual_weight", 0},
               {"seed", 0},           {"training", {{"seconds", 1}}},     {"gap", found},
               {"diagnosis", nullptr}};
      Json runs = Json::array({run});
      run["residual_weight"] = 1;
      runs.push_back(run);
      const Json summary = tools::summarise(runs);
      tools::text_of(tools::verdicts(summary, 100));
      tools::text_of(tools::acceptance(summary));
      tools::seconds_of(runs);
    } else if (which == '1') {
      tools::check_shape(found, tools::diagnosis_shape(), path, "remove it");
      tools::number(found.at("upper_bound").at("over_box").at("log_bound"));
    } else {
      tools::first_difference(found, {{"data", "blob"}, {"sde", {{"name", "ou"}}}});
    }
  });
}

void read_trainer_state(const std::string& input) {
  static const DataSet data = DataSet::named("blob");
  read_or_refuse([&] { read_training(file(input, "input.safetensors"), data, *one_rank()); });
}

// The smallest work that has such states; its steps say nothing.
const Context& context() {
  static const Context on_one_thread({.backend = BackendKind::cpu, .threads = 1});
  return on_one_thread;
}

tools::FractionDone in_silence(int, double) {
  return [](double) {};
}

// Runs `work` on the file; where it takes what is there, once more on what it then left, for the same result.
template <class Work>
void go_on_twice(const std::string& input, const Work& work) {
  const tools::SavedWork saved{.file = file(input, "state.safetensors"), .work = "fuzz", .seconds_between_saves = 0};
  std::optional<Json> first;
  read_or_refuse([&] { first = work(saved); });
  if (first) expect(work(saved) == *first, "a state that is gone on from to another result");
}

struct GapWork {
  explicit GapWork(std::int64_t d)
      : data(DataSet::mixture(GaussianMixture::isotropic(d, {1}, std::vector<double>(std::size_t(d), 0.5), {0.3}))),
        model{ForwardSde::ou(),
              Mlp::initialise(Architecture{.dimension = d, .hidden = {2}, .output = Output::score}, 1)},
        grid(TimeGrid::uniform(model.sde.horizon(), 1, 2)),
        truth(ground_truth(context(), data, options)) {}

  Json from(const tools::SavedWork& saved) const {
    const tools::MeasuredGap measured = tools::measure(context(), model, truth, grid, options, in_silence, saved);
    Json json = tools::gap_json(measured, options, "uniform:2:1");
    json["denoising_loss"] = 0;
    if (measured.gap.over_time) json["along_the_way"]["noise_floor"] = Json::array();
    expect(std::isfinite(measured.gap.ode_seconds) && std::isfinite(measured.gap.sde_seconds), "no finite time");
    for (const EmpiricalLaw* law : {&measured.gap.ode, &measured.gap.sde}) {
      expect(law->health.count == options.samples && law->escaped >= 0 && law->escaped <= 1, "a share that is none");
    }
    try {
      tools::check_shape(json, tools::gap_shape(model.dimension() == 2), "gap.json", "remove it");
    } catch (const Error& error) {
      throw std::logic_error(error.what());
    }
    json.erase("seconds");
    return tools::written(json);  // in which what is no number is null, and equal to itself
  }

  DataSet data;
  Model model;
  TimeGrid grid;
  GapOptions options{.samples = 8, .in_detail = true, .box = {.n = 4}};
  GroundTruth truth;
};

void read_gap_state(const std::string& input) {
  static const GapWork planar(2), spatial(3);
  for (const GapWork* work : {&planar, &spatial}) {
    go_on_twice(input, [&](const tools::SavedWork& saved) { return work->from(saved); });
  }
}

void read_energy_state(const std::string& input) {
  static const Model model{ForwardSde::ou(), GaussianMixture::isotropic(1, {1}, {0.5}, {0.3})};
  static const TimeGrid grid = TimeGrid::uniform(model.sde.horizon(), 1, 2);
  static const tools::DiagnoseOptions options{
      .energy = {.nodes = 16}, .bound = {.samples = 1, .box_points = 1}, .samples = 0};
  go_on_twice(input, [&](const tools::SavedWork& saved) {
    const tools::Diagnosis found = tools::diagnose(context(), model, grid, options, in_silence, saved);
    tools::diagnosis_text(found);
    Json json = tools::diagnosis_json(found, options, "uniform:2:1");
    expect(std::isfinite(found.seconds), "no finite time");
    json["seconds"] = found.seconds;
    try {
      tools::check_shape(json, tools::diagnosis_shape(), "diagnosis.json", "remove it");
    } catch (const Error& error) {
      throw std::logic_error(error.what());
    }
    json.erase("seconds");
    return tools::written(json);
  });
}

// A log that a training goes on with from iteration 5: one of JSON lines after a 'j', else of CSV.
void read_log(const std::string& input) {
  const bool json = input.starts_with('j');
  const std::string path = file(json ? input.substr(1) : input, json ? "log.jsonl" : "log.csv");
  const auto go_on = [&] {
    const TrainRecord record{.iteration = 5};
    tools::RecordLog log(path, 5, 1);
    log.write({&record, 1});
    log.sync();
    return tools::read_text(path);
  };
  std::optional<std::string> first;
  read_or_refuse([&] { first = go_on(); });
  if (!first) return;
  expect(first->size() <= input.size() + 200, "a log that grows");
  expect(go_on() == *first, "a log that changes when it is gone on with");
}

void read_grid_file(const std::string& input) {
  read_or_refuse([&] {
    const TimeGrid grid = TimeGrid::parse("file:" + file(input, "times.npy"), ForwardSde::ou());
    const std::vector<double>& times = grid.times();
    expect(std::is_sorted(times.rbegin(), times.rend()) && times.back() >= 0, "times that do not fall");
  });
}

void read_time_grid(const std::string& input) {
  read_or_refuse([&] {
    const std::string text = tools::grid_in_digits(lines_of(input).front());
    if (!tools::file_of_text(text).empty()) return;
    TimeGrid::check(text);
    TimeGrid::parse(text, ForwardSde::ve());
  });
}

void read_sde(const std::string& input) {
  const std::size_t end = input.find('\n');
  read_or_refuse([&] {
    const ForwardSde sde =
        ForwardSde::parse(input.substr(0, end), end == std::string::npos ? "" : input.substr(end + 1));
    const ForwardSde again = ForwardSde::parse(sde.name(), sde.parameters_json());
    expect(again.parameters_json() == sde.parameters_json(), "an SDE that changes when it is written");
  });
}

// Each line as the value of options of numbers.
void read_numbers(const std::string& input) {
  for (const std::string& line : lines_of(input)) {
    const auto refused = [](const auto& read) {
      try {
        read();
      } catch (const CLI::ParseError& error) {
        expect_sentence(printable(error.what(), Error::longest));
      }
    };
    constexpr auto most = std::numeric_limits<std::int64_t>::max();
    refused([&] { tools::parse_integer<std::int64_t>("--count", line, -most, most); });
    read_or_refuse([&] {
      const tools::RankOf rank = tools::RankOf::parse(line);
      expect(0 <= rank.rank && rank.rank < rank.ranks, "a rank that is none of its ranks");
    });
    tools::parse_count<std::uint64_t>(line);
    read_or_refuse([&] { tools::SaveInterval::parse(line); });
    refused([&] {
      CLI::App app;
      double number = 0;
      std::vector<double> numbers;
      std::vector<std::int64_t> integers;
      tools::add_number(app, "--number", number, "");
      tools::add_numbers(app, "--numbers", numbers, "");
      tools::add_integers(app, "--integers", integers, "", 1, 100);
      app.parse({"--integers=" + line, "--numbers=" + line, "--number=" + line});
    });
    refused([&] {
      CLI::App app;
      Grid grid;
      tools::add_box(app, "--box", grid, "");
      app.parse({"--box=" + line});
      grid.validate();
    });
  }
}

// What stands beside a part; the part itself is an empty file.
void read_part(const std::string& input) {
  read_or_refuse([&] {
    const std::string part = file("", "part.npy");
    file(input, "part.npy.part.json");
    tools::load_part(part);
  });
}

constexpr Target all[] = {{"npy", read_npy},
                          {"npz", read_npz},
                          {"csv", read_csv},
                          {"safetensors", read_safetensors},
                          {"model", read_model},
                          {"recipe", read_recipe},
                          {"mixture", read_mixture},
                          {"kept_json", read_kept},
                          {"trainer_state", read_trainer_state},
                          {"gap_state", read_gap_state},
                          {"energy_state", read_energy_state},
                          {"log", read_log},
                          {"grid_file", read_grid_file},
                          {"time_grid", read_time_grid},
                          {"sde", read_sde},
                          {"numbers", read_numbers},
                          {"part", read_part}};

}  // namespace

std::span<const Target> targets() { return all; }

const Target& find_target(std::string_view name) {
  std::string names;
  for (const Target& target : all) {
    if (target.name == name) return target;
    names += (names.empty() ? "" : ", ") + std::string(target.name);
  }
  throw std::invalid_argument("there is no target '" + std::string(name) + "': allowed are " + names);
}

}  // namespace fokker::fuzz
