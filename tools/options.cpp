#include "options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

#include "console.hpp"
#include "files.hpp"
#include "fokker/composition.hpp"
#include "ranks.hpp"

namespace fokker::tools {

namespace {

// What was typed, for a message.
std::string given(const std::string& text) { return text.empty() ? "''" : printable(text, 60); }

}  // namespace

template <class Int>
std::optional<Int> parse_count(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  // Digits d and how many of them follow a point: the number is d · 10^(exponent − after).
  std::uint64_t digits = 0;
  int after = 0, exponent = 0;
  bool point = false, digit_before = false;
  const auto multiply = [&](std::uint64_t factor, std::uint64_t summand) {
    return !__builtin_mul_overflow(digits, factor, &digits) && !__builtin_add_overflow(digits, summand, &digits);
  };
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    const char c = text[i];
    const bool digit = c >= '0' && c <= '9';
    if (digit) {
      if (!multiply(10, static_cast<std::uint64_t>(c - '0'))) return {};
      after += point;
    } else if (c == '.' && digit_before && !point) {
      point = true;
    } else if (c != '_' || !digit_before) {
      break;
    }
    digit_before = digit;
  }
  if (!digit_before) return {};
  if (const std::string_view unit = text.substr(i); unit == "k" || unit == "M" || unit == "G") {
    exponent = unit == "k" ? 3 : unit == "M" ? 6 : 9;
  } else if (!unit.empty()) {
    const char* begin = unit.data() + (unit.size() > 1 && unit[1] == '+' ? 2 : 1);
    const auto [end, failure] = std::from_chars(begin, unit.data() + unit.size(), exponent);
    const bool right = (unit[0] == 'e' || unit[0] == 'E') && failure == std::errc() && end == unit.data() + unit.size();
    if (!right || *begin == '-') return {};
  }
  for (; after > 0 && digits % 10 == 0 && after > exponent; --after) digits /= 10;
  for (; exponent > after && digits > 0; --exponent) {
    if (!multiply(10, 0)) return {};
  }
  if (digits > 0 && after > exponent) return {};
  if (negative && (!std::is_signed_v<Int> || digits > std::uint64_t{1} << 63)) return {};
  if (negative) return static_cast<Int>(~digits + 1);
  if (!std::in_range<Int>(digits)) return {};
  return static_cast<Int>(digits);
}

template <class Int>
Int parse_integer(const std::string& name, const std::string& text, Int low, Int high) {
  const std::optional<Int> value = parse_count<Int>(text);
  if (value && *value >= low && *value <= high) return *value;
  throw CLI::ValidationError(fmt::format("{} {} given; allowed: integers from {} to {}", name, given(text), low, high));
}

template <class Int>
CLI::Option* add_integer(CLI::App& app, const std::string& name, Int& value, const std::string& help, Int low,
                         Int high) {
  const auto store = [name, &value, low, high](const std::string& text) {
    value = parse_integer<Int>(name, text, low, high);
  };
  return app.add_option_function<std::string>(name, store, help)
      ->type_name("INTEGER")
      ->default_str(std::to_string(value));
}

template std::optional<std::int64_t> parse_count(std::string_view);
template std::optional<std::uint64_t> parse_count(std::string_view);
template std::int64_t parse_integer(const std::string&, const std::string&, std::int64_t, std::int64_t);
template CLI::Option* add_integer(CLI::App&, const std::string&, std::int64_t&, const std::string&, std::int64_t,
                                  std::int64_t);
template CLI::Option* add_integer(CLI::App&, const std::string&, std::uint64_t&, const std::string&, std::uint64_t,
                                  std::uint64_t);

namespace {

double parse_number(const std::string& name, const std::string& text) {
  double value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size()) {
    throw CLI::ValidationError(fmt::format("{} {} given; allowed: a number", name, given(text)));
  }
  return value;
}

// The parts of `text` between commas, each by `parse`; throws CLI::ValidationError where that does.
template <class T, class Parse>
std::vector<T> parse_list(const std::string& name, const std::string& text, const std::string& allowed,
                          const Parse& parse) {
  std::vector<T> values;
  for (std::size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = text.find(',', begin);
    try {
      values.push_back(parse(text.substr(begin, end - begin)));
    } catch (const CLI::ValidationError&) {
      throw CLI::ValidationError(
          fmt::format("{} {} given; allowed: {} with commas between", name, given(text), allowed));
    }
  }
  return values;
}

}  // namespace

CLI::Option* add_number(CLI::App& app, const std::string& name, double& value, const std::string& help) {
  const auto store = [name, &value](const std::string& text) { value = parse_number(name, text); };
  return app.add_option_function<std::string>(name, store, help)
      ->type_name("NUMBER")
      ->default_str(fmt::format("{}", value));
}

CLI::Option* add_numbers(CLI::App& app, const std::string& name, std::vector<double>& values, const std::string& help) {
  const auto store = [name, &values](const std::string& text) {
    values =
        parse_list<double>(name, text, "numbers", [&](const std::string& part) { return parse_number(name, part); });
  };
  return app.add_option_function<std::string>(name, store, help)
      ->type_name("NUMBER,...")
      ->default_str(fmt::format("{}", fmt::join(values, ",")));
}

CLI::Option* add_box(CLI::App& app, const std::string& name, Grid& grid, const std::string& help) {
  const auto limits = [name](const std::string& text) -> Interval {
    const std::size_t colon = text.find(':');
    const double last = parse_number(name, colon == std::string::npos ? text : text.substr(colon + 1));
    return {colon == std::string::npos ? -last : parse_number(name, text.substr(0, colon)), last};
  };
  const auto store = [name, &grid, limits](const std::string& text) {
    const std::string allowed =
        "a half-width above 0, or LOW:HIGH with HIGH above LOW, or one of these for each axis, as "
        "-1:4,0:10";
    try {
      const auto axes = parse_list<Interval>(name, text, allowed, limits);
      const Grid box{.n = grid.n, .x = axes.front(), .y = axes.back()};
      box.validate();
      if (axes.size() <= 2) {
        grid = box;
        return;
      }
    } catch (const std::runtime_error&) {  // of the command line or of the library
    }
    throw CLI::ValidationError(fmt::format("{} {} given; allowed: {}", name, given(text), allowed));
  };
  return app.add_option_function<std::string>(name, store, help)
      ->type_name("BOX")
      ->default_str(fmt::format("{}", grid.x.high));  // of defaults, which are the same about 0 on both axes
}

CLI::Option* add_integers(CLI::App& app, const std::string& name, std::vector<std::int64_t>& values,
                          const std::string& help, std::int64_t low, std::int64_t high) {
  const auto store = [name, &values, low, high](const std::string& text) {
    values = parse_list<std::int64_t>(name, text, fmt::format("integers from {} to {}", low, high),
                                      [&](const std::string& part) { return parse_integer(name, part, low, high); });
  };
  return app.add_option_function<std::string>(name, store, help)
      ->type_name("INTEGER,...")
      ->default_str(fmt::format("{}", fmt::join(values, ",")));
}

CLI::Validator usable(std::function<void(std::string&)> use) {
  return CLI::Validator(
      [use = std::move(use)](std::string& text) {
        try {
          use(text);
        } catch (const Error& error) {
          return std::string(error.what());
        }
        return std::string();
      },
      "");
}

CLI::Validator ends_in(const std::vector<std::string>& endings) {
  return usable([endings](const std::string& text) {
    for (const std::string& ending : endings) {
      if (text.ends_with(ending)) return;
    }
    throw Error(fmt::format("'{}' given; allowed: a name that ends in {}", text, fmt::join(endings, " or ")));
  });
}

CLI::Validator data_name() {
  return usable([](const std::string& text) {
    if (file_of_data(text).empty()) DataSet::named(text);
  });
}

std::string grid_in_digits(const std::string& text) {
  const std::size_t begin = text.find(':') + 1, end = std::min(text.find(':', begin), text.size());
  if (begin == 0 || !file_of_text(text).empty()) return text;
  const std::optional<std::int64_t> steps = parse_count<std::int64_t>(text.substr(begin, end - begin));
  return steps ? fmt::format("{}{}{}", text.substr(0, begin), *steps, text.substr(end)) : text;
}

CLI::Validator grid_text() {
  return usable([](std::string& text) {
    text = grid_in_digits(text);
    TimeGrid::check(text);
  });
}

std::string activations_help() { return fmt::format("{}", fmt::join(activation_names(), ", ")); }

void check_usage(const std::function<void()>& check) {
  try {
    check();
  } catch (const Error& error) {
    throw CLI::ValidationError(std::string(error.what()));
  }
}

CLI::Option* add_data(CLI::App& app, std::string& data, const std::string& role) {
  return app
      .add_option("--data", data,
                  role + ": blob, circles2 or checker, which are planar, MIXTURE.json or SAMPLES.npy, .npz or .csv")
      ->check(data_name());
}

CLI::Option* add_grid(CLI::App& app, std::string& grid) {
  return app
      .add_option(
          "--grid", grid,
          "times of the steps, from the horizon T down: paper (890 steps to 0), uniform:STEPS[:END] (END is 0 if "
          "not given), geometric:STEPS[:END] (END is t_min if not given), log-snr:STEPS[:END], equal steps of ln "
          "sigma/m, "
          "karras:STEPS[:END[:RHO]] (RHO is 7 if not given), edm:STEPS[:END[:RHO]], the same with a last step to 0, or "
          "file:TIMES.npy (or .npz, .csv), decreasing; where the default is paper, networks in a form get "
          "geometric:300, those of ve "
          "uniform:300:t_min, and with the SDE ddpm the ends of its steps")
      ->capture_default_str()
      ->transform(grid_text());
}

void suit_grid(const CLI::App& app, const Model& model, std::string& grid) {
  if (app.count("--grid") == 0) grid = usual_grid(model);
}

CLI::Option* add_samples(CLI::App& app, std::int64_t& samples, const std::string& help, std::int64_t low) {
  return add_integer<std::int64_t>(app, "--samples", samples, help, low, max_samples);
}

CLI::Option* add_seed(CLI::App& app, std::uint64_t& seed, const std::string& help) {
  return add_integer(app, "--seed", seed, help);
}

CLI::Option* add_json(CLI::App& app, bool& json) {
  return app.add_flag("--json", json, "print one JSON object instead of text");
}

CLI::Option* add_precision(CLI::App& app, std::string& precision) {
  return app
      .add_option(
          "--precision", precision,
          "how CUDA computes the products of hidden layers: split (close to float, on tensor cores), fp32, or "
          "half (relative errors of 1e-3; values and scores only, no training). The CPU works in float whatever "
          "is given")
      ->capture_default_str()
      ->check(usable([](const std::string& text) { parse_precision(text); }));
}

std::string parameter_option(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

bool is_activation_list(const std::string& activations) { return activations.find_first_of(",(") != std::string::npos; }

void check_activation_parameters(const CLI::App& app, const std::string& activation) {
  const bool list = is_activation_list(activation);
  const char* const own = list ? nullptr : traits_of(parse_activation(activation)).parameter.name;
  for (const auto& [name, meaning] : activation_parameters()) {
    const std::string option = parameter_option(name);
    if (app.count(option) == 0 || (own && name == own)) continue;
    throw CLI::ValidationError(
        list ? fmt::format("{} given with the list of activations {}; allowed: in the list, as softplus(3)", option,
                           activation)
             : fmt::format("{} given with the activation {}, which has no such parameter{}", option, activation,
                           own ? "; allowed: " + parameter_option(own) : ""));
  }
}

std::string activation_help() {
  return "activation of the hidden layers, or one for each with commas between: " + activations_help();
}
std::string parameter_help(const std::string& meaning) { return meaning + "; not with other activations"; }
const std::string output_help = fmt::format(
    "what the network puts out: potential or potential:FORM, whose gradient is the score in a form, or for a vector "
    "net "
    "the form itself: {}",
    fmt::join(output_names(), ", "));
const std::string inputs_help =
    "order of the network's inputs and what it takes for the time: t,x or x,t, where t may be [SCALE*]NAME[+OFFSET], "
    "NAME "
    "one of t, sigma, log-sigma, log-snr, as in x,0.25*log-sigma; sigma is the deviation of x_t given x_0, m its "
    "mean's "
    "factor, snr m^2/sigma^2; y is the condition of a network that takes one, as in x,t,y";
const std::string data_deviation_help = "standard deviation of the data, for the output edm";
std::string branch_help(const std::string& of) {
  return fmt::format(
      "layers that make an embedding of {}, from first to last: [fixed:]ACTIVATION:WIDTH with commas between, as in "
      "fixed:sine:32,silu:32",
      of);
}
std::string into_help(const std::string& of) {
  return fmt::format("names of the layers that take {} or its embedding beside their other inputs, or none", of);
}
const std::string residual_help = "names of the hidden layers that add their input to their output";
const std::string sde_help = fmt::format("forward SDE: {}", fmt::join(sde_names(), ", "));
const std::string sde_parameters_help =
    "parameters of the SDE as JSON, as in '{\"rate\": 1, \"T\": 10}'; 'fokker --help' lists them with their defaults";

std::string files_help(const std::vector<std::string>& options) {
  std::string text = fmt::format("\nFiles of {}:", fmt::join(options, ", "));
  const bool model = std::find(options.begin(), options.end(), "--model") != options.end();
  if (model) {
    text += R"(
  NAME.safetensors  an MLP of t and x_1 ... x_d, in the order that --inputs or the file says, as tensors
                    LAYER.weight [out, in] and LAYER.bias [out]
  SUM.json          a composition, the model of the weighted sum of scores; a term is a file of a network or a mixture,
                    a mixture, or the likelihood of numbers y = H x + b + noise of the covariance that were observed,
                    with the law of x that it takes for the prior:
                    {"terms": [{"weight": 2, "model": "cats.safetensors"}, {"weight": -1, "model": "all.safetensors"},
                               {"likelihood": {"matrix": [[1, 0]], "offset": [0], "covariance": 0.01,
                                "observation": [0.3], "prior": {"weights": [1], "means": [[0, 0]], "covariances": 1}}}]})";
  }
  if (options.size() > (model ? 1 : 0)) {
    text += R"(
  ARRAY.npy         an array of float16, float32, float64, integers or booleans: samples [N, d], or [N] for d = 1;
                    as data they are drawn with replacement
  ARRAY.npz         the only array in it, or the only one of two dimensions; ARRAY.npz:NAME names one
  ARRAY.csv         rows of numbers with commas between, after at most one line of the columns' names)";
  }
  return text + R"(
  MIXTURE.json      a Gaussian mixture of K components: weights [K], means [K][d], and covariances, [K][d][d],
                    [K][d] for diagonals or [K] for multiples of the identity; sde and sde_parameters may be left
                    out, and are ou's then. For example:
                    {"weights": [1, 1], "means": [[1.5, -0.5], [0.5, -1]], "covariances": [0.05, 0.1]}
)";
}

void MachineOptions::add_to(CLI::App& app) {
  app.add_option("--backend", backend,
                 "where the work runs; auto is CUDA where this build and machine have it, else the CPU")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  add_integer<std::int64_t>(
      app, "--threads", threads,
      "number of CPU threads; 0 is OMP_NUM_THREADS or all, at most as many as this process may run on", 0, 1024);
  add_precision(app, precision);
}

namespace {

// The GPU of one of several ranks on a machine, one each, or shared out in turn where there are fewer; −1: the current
// one, as of a rank whose launcher shows it but one, and where none is to be used.
int gpu_of_rank(BackendKind backend) {
  const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
  const bool own = visible != nullptr && *visible != 0 && std::string_view(visible).find(',') == std::string_view::npos;
  const RankOfMachine rank = rank_of_machine();
  if (backend == BackendKind::cpu || rank.size == 1 || own) return -1;
  const BackendStatus cuda = backend_status()[1];
  return cuda.available ? rank.rank % cuda.devices : -1;
}

}  // namespace

Context MachineOptions::context() const {
  ContextOptions options{
      .backend = parse_backend(backend), .threads = static_cast<int>(threads), .precision = parse_precision(precision)};
  options.gpu = gpu_of_rank(options.backend);
  const Context context(options);
  if (!context.note().empty()) write_message(context.note() + '\n');
  return context;
}

namespace {

struct Override {
  std::string key, option, type, help;
  std::function<void(const std::string&)> check;
};

// A value for the first activation that has the parameter.
void check_parameter(std::string_view name, const std::string& text) {
  for (const ActivationTraits& traits : Activations::traits) {
    if (!traits.has_parameter() || traits.parameter.name != name) continue;
    Architecture any{.hidden = {1}, .activation = traits.activation};
    if (!CLI::detail::lexical_cast(text, any.beta)) throw Error(fmt::format("'{}' given; allowed: a number", text));
    return any.validate();
  }
}

void check_activations(const std::string& text) {
  if (is_activation_list(text)) {
    parse_activations(text);
  } else {
    parse_activation(text);
  }
}

void check_list(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_array() && std::all_of(json.begin(), json.end(), [](const Json& v) { return v.is_number(); })) return;
  throw Error(fmt::format("'{}' given, which is not a list of numbers; allowed: as [1000,0]", text));
}

const std::vector<Override>& override_options() {
  static const std::vector<Override> options = [] {
    std::vector<Override> all{{"activation", "--activation", "TEXT", activation_help(), check_activations}};
    for (const auto& [name, meaning] : activation_parameters()) {
      all.push_back({name, parameter_option(name), "NUMBER", parameter_help(meaning),
                     [name = name](const std::string& text) { check_parameter(name, text); }});
    }
    all.insert(all.end(),
               {{"output", "--output", "TEXT", output_help, parse_output},
                {"data_deviation", "--data-deviation", "NUMBER", data_deviation_help,
                 [](const std::string& text) {
                   if (double value = 0; !CLI::detail::lexical_cast(text, value)) {
                     throw Error(fmt::format("'{}' given; allowed: a number", text));
                   }
                 }},
                {"inputs", "--inputs", "TEXT", inputs_help,
                 [](const std::string& text) {
                   NetworkForm form;
                   parse_inputs(text, form);
                 }},
                {"layers", "--layers", "TEXT", "names of the layers from input to output, as in input,hidden1,output",
                 [](const std::string&) {}},
                {"condition", "--condition-width", "INTEGER", "how many numbers the condition has, of inputs with a y",
                 [](const std::string& text) {
                   const std::optional<std::int64_t> count = parse_count<std::int64_t>(text);
                   if (count && *count >= 1 && *count <= 4096) return;
                   throw Error(fmt::format("{} given; allowed: integers from 1 to 4096", given(text)));
                 }}});
    for (const auto& [what, of] : {std::pair{"time", "the time"}, std::pair{"condition", "the condition"}}) {
      const std::string key(what), option = "--" + key;
      all.push_back({key + "_branch", option + "-branch", "TEXT", branch_help(of), parse_branch});
      all.push_back({key + "_layers", option + "-layers", "TEXT",
                     fmt::format("names of the {0} branch's layers; if not given, {0}1,{0}2,...", key),
                     [](const std::string&) {}});
      all.push_back({key + "_into", option + "-into", "TEXT", into_help(of), [](const std::string&) {}});
    }
    all.insert(all.end(),
               {{"residual", "--residual", "TEXT", residual_help, [](const std::string&) {}},
                {"fixed", "--fixed", "TEXT", "names of the layers that training leaves as they are",
                 [](const std::string&) {}},
                {"column_means", "--column-means", "LIST",
                 "means of the columns of data that the network was trained on as (x - mean)/deviation, as [1000,0]",
                 check_list},
                {"column_deviations", "--column-deviations", "LIST", "their deviations, as [1,1e-6]", check_list},
                {"sde", "--sde", "TEXT", sde_help, [](const std::string& text) { ForwardSde::parse(text); }},
                {"sde_parameters", "--sde-parameters", "TEXT", sde_parameters_help, [](const std::string& text) {
                   if (!Json::parse(text, nullptr, false).is_object()) {
                     throw Error(fmt::format(
                         "'{}' given, which is not valid JSON of an object; allowed: as {{\"T\": 1}}", text));
                   }
                 }}});
    return all;
  }();
  return options;
}

}  // namespace

void ModelOptions::add_to(CLI::App& app, bool required) {
  app_ = &app;
  app.add_option("--model", path,
                 "file of the model: .safetensors of an MLP, or .json of a Gaussian mixture or a composition")
      ->type_name("FILE")
      ->required(required);
  for (const Override& o : override_options()) {
    app.add_option_function<std::string>(
           o.option, [this, key = o.key](const std::string& text) { overrides[key] = text; }, o.help)
        ->type_name(o.type)
        ->check(usable(o.check))
        ->group("What the model file does not say (these override its metadata)");
  }
}

namespace {

bool names_file(const std::string& condition) { return ArrayName(condition).has_extension(); }

std::vector<double> numbers_of(const std::string& condition) {
  return parse_list<double>("--condition", condition, "numbers",
                            [](const std::string& part) { return parse_number("--condition", part); });
}

}  // namespace

void ModelOptions::add_condition(CLI::App& app, const std::string& each) {
  each_ = each;
  condition_option_ =
      app.add_option(
             "--condition", condition,
             fmt::format("condition of a model that takes one: its numbers for all, as in 0.5,-1, none for what "
                         "training drops to{}",
                         each.empty() ? ""
                                      : fmt::format(", or a file of one for each {}, an array [N, c] (.npy, "
                                                    ".npz or .csv)",
                                                    each)))
          ->type_name("NUMBER,...")
          ->check(usable([files = !each.empty()](const std::string& text) {
            if (text == "none" || (files && names_file(text))) return;
            try {
              numbers_of(text);
            } catch (const CLI::ValidationError&) {
              throw Error(fmt::format("{} given; allowed: numbers with commas between, none{}", given(text),
                                      files ? ", or the name of a .npy, .npz or .csv file" : ""));
            }
          }));
  guidance_option_ =
      app.add_option(
             "--guidance", guidance_,
             "classifier-free guidance: the score without the condition, plus so many times what the numbers of "
             "--condition change; if not given, 1, which guides by nothing")
          ->type_name("NUMBER");
}

void ModelOptions::describe_condition(Json& json) const {
  if (!condition.empty()) json["condition"] = condition;
  if (guidance_option_ != nullptr && guidance_option_->count() > 0) json["guidance"] = guidance_;
}

// Zeros stand for no condition where training dropped it to them.
void ModelOptions::check_dropped() const {
  const ModelMetadata metadata = SafeTensors::load(path).metadata;
  const auto drop = metadata.find("condition_drop");
  const std::string what = condition == "none" ? "--condition none" : "--guidance";
  if (drop == metadata.end()) {
    warn(fmt::format("{} takes zeros for no condition; the file '{}' does not say that its training did", what, path));
  } else if (drop->second == "0") {
    throw Error(
        fmt::format("{} given, and the training of '{}' dropped no condition; allowed: a model of train "
                    "--condition-drop above 0",
                    what, path));
  }
}

std::string ModelOptions::condition_file() const {
  return names_file(condition) ? ArrayName(condition).file : std::string();
}

Model ModelOptions::load() const {
  if (const auto given = overrides.find("activation"); given != overrides.end()) {
    check_activation_parameters(*app_, given->second);
  }
  Model model = load_model(path, overrides);
  if (condition_option_ == nullptr) return model;
  const bool guides = guidance_option_->count() > 0;
  if (guides && (condition_option_->count() == 0 || condition == "none" || names_file(condition))) {
    throw Error(fmt::format("--guidance {} given {}; allowed: with --condition and its numbers for all", guidance_,
                            condition_option_->count() == 0 ? std::string("without --condition")
                                                            : fmt::format("with --condition {}", given(condition))));
  }
  const std::int64_t takes = model.condition();
  if (condition_option_->count() == 0) {
    if (takes == 0) return model;
    throw Error(fmt::format(
        "the model '{}' takes a condition of {}, and no --condition is given; allowed: {}, or none", path,
        counted(takes, "number"),
        each_.empty() ? "its numbers for all" : fmt::format("its numbers for all, a file of one for each {}", each_)));
  }
  if (takes == 0) {
    throw Error(fmt::format("--condition {} given, and the model '{}' takes none; allowed: no --condition",
                            given(condition), path));
  }
  if (condition == "none" || guides) check_dropped();
  if (condition == "none") return without_condition(model);
  if (names_file(condition)) return model;
  Model with = with_condition(model, numbers_of(condition));
  return guides && guidance_ != 1 ? guided(with, without_condition(model), guidance_) : with;
}

std::vector<float> ModelOptions::conditions(const Model& model, const std::string& points, std::int64_t n) const {
  if (!names_file(condition)) return {};
  const Array file = load_points(condition, model.condition());
  if (!points.empty() && file.shape[0] != n) {
    throw Error(fmt::format("--condition '{}' has {}, and '{}' has {}; allowed: as many", condition,
                            counted(file.shape[0], "row"), points, counted(n, "row")));
  }
  return finite_float32(file, condition, "conditions");
}

std::vector<std::string> ModelOptions::override_names() {
  std::vector<std::string> names;
  for (const Override& o : override_options()) names.emplace_back(o.option);
  return names;
}

void ProbeOptions::add_to(CLI::App& app) {
  add_integer<std::int64_t>(
      app, "--probes", probes,
      "number of Hutchinson's probes for the divergence (of a potential: the Laplacian); 0 computes "
      "it exactly",
      0, 65536);
  app.add_option("--law", law, "law of the probes: rademacher or gaussian")
      ->capture_default_str()
      ->check(CLI::IsMember({"rademacher", "gaussian"}));
  add_integer(app, "--probe-seed", seed, "seed of the probes");
}

Divergence ProbeOptions::divergence() const {
  return {.probes = static_cast<int>(probes), .law = parse_probe_law(law), .seed = seed};
}

std::string text_of(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

Json written(const Json& json) { return Json::parse(text_of(json)); }

void print_json(const Json& json) {
  // In ASCII: names in it may hold what steers a terminal.
  fmt::print("{}\n", json.dump(2, ' ', true, Json::error_handler_t::replace));
}

namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (line.starts_with("model name") && colon != std::string::npos && colon + 2 < line.size())
      return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

Json describe_machine() {
  Json backends = Json::array();
  for (const BackendStatus& status : backend_status()) {
    backends.push_back({{"name", status.name}, {"available", status.available}, {"detail", status.detail}});
  }
  return {{"version", version()},
          {"machine", {{"cpu", cpu_name()}, {"hardware_threads", std::thread::hardware_concurrency()}}},
          {"backends", backends}};
}

Json describe_arithmetic(const Context& context) {
  Json json{{"version", version()},
            {"backend", context.backend_name()},
            {"precision", to_string(context.precision())},
            {"backend_detail", ""}};
  for (const BackendStatus& status : backend_status()) {
    if (status.name != context.backend_name()) continue;
    std::string detail = status.detail;
    // "AVX-512, 2 threads" or "AVX-512 (…), 2 threads", of which the threads change no number; "NAME (compute capability
    // 9.0, 80 GiB), …; driver …", whose first device is the one that programs compute on.
    const bool cpu = context.device() == Device::cpu;
    detail.resize(std::min({detail.size(), detail.find(','), cpu ? detail.find(" (") : detail.size()}));
    json["backend_detail"] = cpu ? detail : detail + ')';
  }
  return json;
}

Json describe_sde(const ForwardSde& sde) {
  return {{"name", sde.name()}, {"parameters", Json::parse(sde.parameters_json())}};
}

std::string text_of(const ForwardSde& sde) {
  std::string parameters = sde.parameters_json();
  if (const std::size_t begin = parameters.find('['), end = parameters.find(']'); begin < end) {
    parameters.replace(begin, end - begin + 1, fmt::format("[{} numbers]", sde.betas().size()));
  }
  return fmt::format("{} {}", sde.name(), parameters);
}

namespace {

Json describe_architecture(const Architecture& architecture) {
  Json json{{"dimension", architecture.dimension},
            {"hidden", architecture.hidden},
            {"activation", architecture.activations.empty() ? std::string(to_string(architecture.activation))
                                                            : activations_text(architecture)},
            {"output", to_string(NetworkOutput{architecture.output, architecture.form.form})},
            {"inputs", inputs_of(architecture)}};
  if (architecture.form.form == Form::edm) json["data_deviation"] = architecture.form.data_deviation;
  const ActivationParameter& parameter = traits_of(architecture.activation).parameter;
  if (parameter.name && architecture.activations.empty()) json[parameter.name] = architecture.beta;
  const auto describe_branch = [&](const std::string& what, const Branch& branch) {
    if (!branch.layers.empty()) json[what + "_branch"] = branch_text(branch.layers);
    if (!branch.raw()) json[what + "_into"] = layers_text(branch.into, architecture.names());
  };
  if (architecture.conditional()) json["condition"] = architecture.condition.inputs;
  describe_branch("condition", architecture.condition);
  describe_branch("time", architecture.time);
  if (!architecture.residual.empty()) json["residual"] = layers_text(architecture.residual, architecture.names());
  if (!architecture.fixed.empty()) json["fixed"] = layers_text(architecture.fixed, architecture.names());
  return json;
}

}  // namespace

Json describe_model(const Model& model) {
  Json json;
  if (const auto* mlp = std::get_if<Mlp>(&model.network)) {
    const Architecture& architecture = mlp->architecture;
    json = {{"kind", "mlp"}, {"summary", architecture.describe()}};
    json.update(describe_architecture(architecture));
    json["layers"] = architecture.names();
    if (!architecture.condition.layers.empty()) json["condition_layers"] = architecture.condition_names();
    if (!architecture.time.layers.empty()) json["time_layers"] = architecture.time_names();
    json["parameters"] = architecture.parameter_count();
  } else if (const auto* mixture = std::get_if<GaussianMixture>(&model.network)) {
    json = {{"kind", "mixture"},
            {"summary", fmt::format("exact potential of a mixture of {} Gaussians in {} dimensions",
                                    mixture->components(), mixture->dimension())},
            {"dimension", mixture->dimension()},
            {"components", mixture->components()},
            {"output", "potential"}};
  } else {
    Json terms = Json::array();
    for (const auto& [weight, term] : std::get<Composition>(model.network).terms) {
      terms.push_back(describe_model(term));
      terms.back()["weight"] = weight;
      terms.back().erase("sde");  // that of the whole
    }
    json = {{"kind", "composition"},
            {"summary", fmt::format("weighted sum of the {}s of {} in {} dimensions", to_string(model.output()),
                                    counted(std::ssize(terms), "term"), model.dimension())},
            {"dimension", model.dimension()},
            {"output", to_string(model.output())},
            {"terms", terms}};
  }
  json["sde"] = describe_sde(model.sde);
  if (const Standardisation& s = model.standardisation; !s.empty()) {
    json["standardisation"] = {{"means", s.mean}, {"deviations", s.deviation}};
  }
  return json;
}

Json describe_recipe(const Architecture& architecture, const ForwardSde& sde, const DataSet& data,
                     const TrainOptions& options) {
  Json json{{"data", data.name()},
            {"residual_weight", options.residual_weight},
            {"architecture", describe_architecture(architecture)},
            {"sde", describe_sde(sde)},
            {"iterations", options.iterations},
            {"denoising_points", options.denoising_points},
            {"collocation_points", options.collocation_points},
            {"box", options.box},
            {"time_law", to_string(options.time_law)},
            {"schedule", to_string(options.schedule)},
            {"average", to_string(options.average)},
            {"clip_norm", options.clip_norm},
            {"seed", options.seed}};
  if (options.residual_probes > 0) {
    json["residual_probes"] = options.residual_probes;
    json["probe_law"] = to_string(options.probe_law);
  }
  if (options.condition_drop > 0) json["condition_drop"] = options.condition_drop;
  if (options.loss_weight != LossWeight::unit) json["loss_weight"] = to_string(options.loss_weight);
  for (const auto& [t, weight] : options.loss_weights) json["loss_weights"].push_back(Json::array({t, weight}));
  if (options.time_law == TimeLaw::log_normal) {
    json["log_sigma_mean"] = options.log_sigma_mean;
    json["log_sigma_deviation"] = options.log_sigma_deviation;
  }
  if (options.schedule != RateSchedule::paper) json["peak_rate"] = options.peak_rate;
  if (options.average == WeightAverage::exponential) json["average_decay"] = options.average_decay;
  if (options.average != WeightAverage::none) json["average_fraction"] = options.average_fraction;
  return json;
}

}  // namespace fokker::tools
