#include "fokker/time_grid.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "core/quote.hpp"
#include "fokker/array.hpp"
#include "fokker/error.hpp"

namespace fokker {
namespace {

constexpr int most_steps = 10'000'000;
constexpr const char* all_grids =
    "allowed are paper, uniform:STEPS[:END], geometric:STEPS[:END] and file:TIMES.npy (or .npz, .csv)";

void check_steps(const char* name, int steps) {
  if (steps >= 1 && steps <= most_steps) return;
  throw Error(fmt::format("a {} time grid needs 1 to {} steps; {} was given", name, most_steps, steps));
}

void check_range(const char* name, double horizon, double end, bool positive_end, int steps) {
  if (!(horizon > 0 && std::isfinite(horizon))) {
    throw Error(fmt::format("a {} time grid needs a finite horizon > 0; {} was given", name, horizon));
  }
  if (!((positive_end ? end > 0 : end >= 0) && end < horizon)) {
    throw Error(fmt::format("a {} time grid from {} needs an end in {}0, {}); {} was given", name, horizon,
                            positive_end ? "(" : "[", horizon, end));
  }
  check_steps(name, steps);
}

template <class T>
T parse_number(std::string_view text, const char* what, const std::string& grid) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Error(
        fmt::format("{} is not a valid {} in time grid {}; {}", in_quotes(text), what, in_quotes(grid), all_grids));
  }
  return value;
}

// The name after "file:"; nothing where the text does not begin so.
std::optional<std::string> file_of(std::string_view text) {
  constexpr std::string_view prefix = "file:";
  if (!text.starts_with(prefix)) return {};
  if (text == prefix) throw Error(fmt::format("time grid {} names no file; {}", in_quotes(text), all_grids));
  return std::string(text.substr(prefix.size()));
}

// KIND:STEPS[:END] as it is written, before an SDE says where the times begin.
struct Formula {
  bool geometric = false;
  int steps = 0;
  std::optional<double> end;

  const char* name() const { return geometric ? "geometric" : "uniform"; }
};

Formula parse_formula(const std::string& text) {
  const std::string_view view = text;
  const std::size_t colon = view.find(':');
  const std::string_view kind = view.substr(0, colon);
  Formula formula;
  formula.geometric = kind == "geometric";
  if (colon == std::string_view::npos || kind != formula.name()) {
    throw Error(fmt::format("time grid {} is not known; {}", in_quotes(text), all_grids));
  }
  const std::string_view rest = view.substr(colon + 1);
  const std::size_t end = rest.find(':');
  formula.steps = parse_number<int>(rest.substr(0, end), "number of steps", text);
  if (end != std::string_view::npos) formula.end = parse_number<double>(rest.substr(end + 1), "end", text);
  return formula;
}

}  // namespace

TimeGrid::TimeGrid(std::vector<double> times) : times_(std::move(times)) {
  if (times_.size() < 2) throw Error(fmt::format("a time grid needs at least two times; {} was given", times_.size()));
  if (times_.size() - 1 > static_cast<std::size_t>(most_steps)) {
    throw Error(fmt::format("a time grid may have at most {} steps; {} were given", most_steps, times_.size() - 1));
  }
  for (std::size_t i = 0; i < times_.size(); ++i) {
    if (!(std::isfinite(times_[i]) && times_[i] >= 0)) {
      throw Error(fmt::format("times of a grid must be finite and not negative; number {} is {}", i, times_[i]));
    }
    if (i > 0 && !(times_[i] < times_[i - 1])) {
      throw Error(
          fmt::format("times of a grid must strictly decrease; number {} is {} after {}", i, times_[i], times_[i - 1]));
    }
  }
}

TimeGrid TimeGrid::paper(double horizon) {
  check_range("paper", horizon, 0, false, 890);
  std::vector<double> times;
  times.reserve(891);
  for (int k = 800; k >= 10; --k) times.push_back(horizon * (k / 800.0));
  for (int k = 99; k >= 0; --k) times.push_back(horizon * (k / 8000.0));
  return TimeGrid(std::move(times));
}

TimeGrid TimeGrid::uniform(double horizon, double end, int steps) {
  check_range("uniform", horizon, end, false, steps);
  std::vector<double> times(static_cast<std::size_t>(steps) + 1);
  for (int k = 0; k <= steps; ++k) times[k] = std::lerp(horizon, end, static_cast<double>(k) / steps);
  return TimeGrid(std::move(times));
}

TimeGrid TimeGrid::geometric(double horizon, double end, int steps) {
  check_range("geometric", horizon, end, true, steps);
  std::vector<double> times(static_cast<std::size_t>(steps) + 1);
  const double log_ratio = std::log(end / horizon);
  for (int k = 0; k < steps; ++k) times[k] = horizon * std::exp(log_ratio * k / steps);
  times[steps] = end;
  return TimeGrid(std::move(times));
}

TimeGrid TimeGrid::parse(const std::string& text, const ForwardSde& sde) {
  if (text == "paper") return paper(sde.horizon());
  if (const auto path = file_of(text)) {
    Array file = load_array(*path);
    if (file.shape.size() != 1 && !(file.shape.size() == 2 && file.shape[1] == 1)) {
      throw Error(fmt::format("{} holds a matrix where a time grid is a vector of times", in_quotes(*path)));
    }
    TimeGrid grid(std::move(file.data));
    // A float32 file rounds a horizon such as 0.7 up or down.
    if (grid.times_.front() > sde.horizon() * (1 + 1e-6)) {
      throw Error(fmt::format("the time grid of {} starts at {}, beyond the horizon {}", in_quotes(*path),
                              grid.times_.front(), sde.horizon()));
    }
    return grid;
  }
  const Formula formula = parse_formula(text);
  if (formula.geometric) return geometric(sde.horizon(), formula.end.value_or(sde.t_min()), formula.steps);
  return uniform(sde.horizon(), formula.end.value_or(0), formula.steps);
}

void TimeGrid::check(const std::string& text) {
  if (text == "paper" || file_of(text)) return;
  const Formula formula = parse_formula(text);
  check_steps(formula.name(), formula.steps);
  if (!formula.end) return;
  const double end = *formula.end;
  if (std::isfinite(end) && (formula.geometric ? end > 0 : end >= 0)) return;
  throw Error(fmt::format("a {} time grid needs a finite end {} 0; {} was given", formula.name(),
                          formula.geometric ? "above" : "of at least", end));
}

}  // namespace fokker
