#pragma once

// Options that several commands share, and descriptions as JSON.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fokker/fokker.hpp"

namespace fokker::tools {

using Json = nlohmann::ordered_json;

// What is wrong with the value of an option, by itself, is wrong usage: a CLI::ParseError, thrown while the command
// line is parsed.

// An integer as people type it: 100000, 1e5, 100_000, 100k or 1.5M; nothing where it is none, or beyond Int.
template <class Int>
std::optional<Int> parse_count(std::string_view text);
// An option for an integer from `low` to `high`, as parse_count() reads it.
template <class Int>
CLI::Option* add_integer(CLI::App& app, const std::string& name, Int& value, const std::string& help, Int low = 0,
                         Int high = std::numeric_limits<Int>::max());
// Throws CLI::ValidationError, naming the option, where `text` is not an integer from `low` to `high`.
template <class Int>
Int parse_integer(const std::string& name, const std::string& text, Int low, Int high);
// An option for any number; whether it is in its range is for what it is used in to say.
CLI::Option* add_number(CLI::App& app, const std::string& name, double& value, const std::string& help);
// Numbers as 0,0.1,1.
CLI::Option* add_numbers(CLI::App& app, const std::string& name, std::vector<double>& values, const std::string& help);
// The box of a grid: 7 for [-7, 7] or LOW:HIGH, for both axes or, with a comma between, for each.
CLI::Option* add_box(CLI::App& app, const std::string& name, Grid& grid, const std::string& help);
// Widths as 80,80,80.
CLI::Option* add_integers(CLI::App& app, const std::string& name, std::vector<std::int64_t>& values,
                          const std::string& help, std::int64_t low, std::int64_t high);

// For CLI::Option::check: `use` throws Error where the value is not allowed. For CLI::Option::transform it may change
// the value.
CLI::Validator usable(std::function<void(std::string&)> use);
CLI::Validator ends_in(const std::vector<std::string>& endings);
// What save_array() writes.
inline const std::vector<std::string> array_endings{".npy", ".csv"};
CLI::Validator data_name();
// The text of a time grid with its steps in digits, which are typed as parse_count() reads them; what is no such count
// stays as it is.
std::string grid_in_digits(const std::string& text);
// Takes a time grid that is well formed, in digits: whether it fits an SDE's horizon shows later, and so does a file's
// contents. For CLI::Option::transform.
CLI::Validator grid_text();
// The names of the activations, for a help text.
std::string activations_help();
// An Error of `check`, which looks at values of the command line alone, is wrong usage too.
void check_usage(const std::function<void()>& check);

// Options that several commands have, each with the same text. --data: `role` says what the data are there for.
CLI::Option* add_data(CLI::App& app, std::string& data, const std::string& role);
CLI::Option* add_grid(CLI::App& app, std::string& grid);
// Where --grid is not given, usual_grid().
void suit_grid(const CLI::App& app, const Model& model, std::string& grid);
CLI::Option* add_samples(CLI::App& app, std::int64_t& samples, const std::string& help, std::int64_t low = 1);
CLI::Option* add_seed(CLI::App& app, std::uint64_t& seed, const std::string& help);
CLI::Option* add_json(CLI::App& app, bool& json);
CLI::Option* add_precision(CLI::App& app, std::string& precision);

// The option of an activation's parameter: "--negative-slope" of negative_slope.
std::string parameter_option(std::string name);
// Wrong usage where an option of the command line gives a parameter that the activation does not have.
void check_activation_parameters(const CLI::App& app, const std::string& activation);
// Whether an activation is given for each layer, or with its parameter; one for all may have it in an option of its own.
bool is_activation_list(const std::string& activations);

// The texts of options that describe a network and its SDE, whether they make a model or override a file's metadata.
std::string activation_help();
std::string parameter_help(const std::string& meaning);  // of activation_parameters()
extern const std::string output_help, inputs_help, data_deviation_help, sde_help, sde_parameters_help;
extern const std::string residual_help;
// Of a branch, whose embedding is that of "the time" or "the condition".
std::string branch_help(const std::string& of);
std::string into_help(const std::string& of);
// What the files of these options hold, a model's of --model and arrays of any other, in whole lines after an empty one.
std::string files_help(const std::vector<std::string>& options);

// Where work runs.
struct MachineOptions {
  std::string backend = "auto", precision = "split";
  std::int64_t threads = 0;

  // --backend, --threads and --precision.
  void add_to(CLI::App& app);
  // Says on standard error what `auto` took and why, and which OMP_NUM_THREADS counts for nothing.
  Context context() const;
};

// --model, what overrides the metadata of the file, and --condition for what works with one.
struct ModelOptions {
  std::string path;
  ModelMetadata overrides;
  std::string condition;  // as it was given

  void add_to(CLI::App& app, bool required = true);
  // --condition: numbers for all or, where `each` names what they are of, as "sample", a file of one for each; and
  // --guidance by such numbers. What does not add them gets models as their files have them.
  void add_condition(CLI::App& app, const std::string& each = "");
  // The names of the options that override.
  static std::vector<std::string> override_names();
  // The model, given the condition that is one for all. Throws Error where it takes one and none is given, or the other
  // way round.
  Model load() const;
  // Adds what was given of both to a result.
  void describe_condition(Json& json) const;
  // The file of --condition; empty where it names none.
  std::string condition_file() const;
  // What that file has, [N, c]; empty where there is none. Throws Error where its columns do not fit the model, or its
  // rows the N of `points`, the file of what it has a condition for each of; without a name any N is allowed.
  std::vector<float> conditions(const Model& model, const std::string& points = "", std::int64_t n = 0) const;

 private:
  const CLI::App* app_ = nullptr;
  void check_dropped() const;

  CLI::Option *condition_option_ = nullptr, *guidance_option_ = nullptr;
  double guidance_ = 1;
  std::string each_;
};

// --probes, --law, --probe-seed.
struct ProbeOptions {
  std::int64_t probes = 0;
  std::string law = "rademacher";
  std::uint64_t seed = 0;

  void add_to(CLI::App& app);
  Divergence divergence() const;
};

constexpr std::int64_t max_samples = 1'000'000'000'000;

// JSON as text; bytes of a file name that are not UTF-8 are replaced.
std::string text_of(const Json& json, int indent = -1);
// What is read back of JSON that was written.
Json written(const Json& json);
void print_json(const Json& json);

Json describe_machine();
// What computes, as far as numbers depend on it: version, backend, precision, and of the backend the instruction set or
// the device's name and compute capability.
Json describe_arithmetic(const Context& context);
Json describe_sde(const ForwardSde& sde);
// "ou {"rate":1.0,...}", and for a list how long it is.
std::string text_of(const ForwardSde& sde);
Json describe_model(const Model& model);
Json describe_recipe(const Architecture& architecture, const ForwardSde& sde, const DataSet& data,
                     const TrainOptions& options);

}  // namespace fokker::tools
