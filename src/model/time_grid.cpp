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
    "allowed are paper, uniform:STEPS[:END], geometric:STEPS[:END], log-snr:STEPS[:END], karras:STEPS[:END[:RHO]], "
    "edm:STEPS[:END[:RHO]] and file:TIMES.npy (or .npz, .csv)";

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

// KIND:STEPS[:END[:RHO]] as it is written, before an SDE says where the times begin.
struct Kind {
  const char* name;
  bool reaches_zero;  // END may be 0, and is where it is not given; otherwise t_min
  bool takes_rho;
};
constexpr Kind kinds[] = {{"uniform", true, false},
                          {"geometric", false, false},
                          {"log-snr", false, false},
                          {"karras", false, true},
                          {"edm", false, true}};
struct Formula {
  const Kind* kind = nullptr;
  int steps = 0;
  std::optional<double> end;
  double rho = 7;

  bool is(std::string_view name) const { return kind->name == name; }
};

Formula parse_formula(const std::string& text) {
  std::string_view rest = text;
  // What stands before the next colon, and whether anything stands after it.
  const auto next = [&rest](bool& more) {
    const std::size_t colon = rest.find(':');
    const std::string_view part = rest.substr(0, colon);
    more = colon != std::string_view::npos;
    rest = more ? rest.substr(colon + 1) : std::string_view();
    return part;
  };
  bool more = false;
  const std::string_view name = next(more);
  Formula formula;
  for (const Kind& kind : kinds) {
    if (name == kind.name) formula.kind = &kind;
  }
  if (!formula.kind || !more) throw Error(fmt::format("time grid {} is not known; {}", in_quotes(text), all_grids));
  if (!formula.kind->takes_rho) {  // the end is all that is left
    const std::size_t colon = rest.find(':');
    formula.steps = parse_number<int>(rest.substr(0, colon), "number of steps", text);
    if (colon != std::string_view::npos) formula.end = parse_number<double>(rest.substr(colon + 1), "end", text);
    return formula;
  }
  formula.steps = parse_number<int>(next(more), "number of steps", text);
  if (more) formula.end = parse_number<double>(next(more), "end", text);
  if (more) formula.rho = parse_number<double>(rest, "rho", text);
  return formula;
}

void check_edm_steps(int steps) {
  if (steps < 2) throw Error(fmt::format("an edm time grid needs 2 to {} steps; {} was given", most_steps, steps));
}

void check_rho(double rho) {
  if (!(rho >= 1 && rho <= 1000)) throw Error(fmt::format("a time grid with rho {}; allowed: 1 to 1000", rho));
}

// ln σ/m, which increases with t.
double log_ratio(const ForwardSde& sde, double t) {
  const SdeCoefficients<double> c = sde.at(t);
  return std::log(c.variance) / 2 - std::log(c.mean);
}

// The time between `low` and `high` at which it is `ratio`, by bisection to the last bit.
double time_of(const ForwardSde& sde, double ratio, double low, double high) {
  for (;;) {
    // By ratios first, so that few steps find the time's magnitude.
    const double middle = high > 2 * low ? std::sqrt(low * high) : low + (high - low) / 2;
    if (!(middle > low && middle < high)) return high;
    (log_ratio(sde, middle) < ratio ? low : high) = middle;
  }
}

// From T to `end` by steps of which ratio(k / steps, first, last) says ln r.
template <class Ratio>
std::vector<double> times_by_ratio(const char* name, const ForwardSde& sde, double end, int steps, const Ratio& ratio) {
  const double horizon = sde.horizon();
  check_range(name, horizon, end, true, steps);
  const double first = log_ratio(sde, horizon), last = log_ratio(sde, end);
  if (!std::isfinite(first)) {
    throw Error(
        fmt::format("a {} time grid needs a finite ratio of noise to signal at T, and that of the SDE {} at {} is "
                    "infinite; allowed: a smaller T",
                    name, sde.name(), horizon));
  }
  std::vector<double> times{horizon};
  for (int k = 1; k < steps; ++k) {
    times.push_back(time_of(sde, ratio(static_cast<double>(k) / steps, first, last), end, times.back()));
  }
  times.push_back(end);
  return times;
}

std::vector<double> karras_times(const char* name, const ForwardSde& sde, double end, int steps, double rho) {
  check_rho(rho);
  return times_by_ratio(name, sde, end, steps, [rho](double part, double first, double last) {
    // As a share of the first, which may be too large for a number.
    return first + rho * std::log1p(part * std::expm1((last - first) / rho));
  });
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

TimeGrid TimeGrid::karras(const ForwardSde& sde, double end, int steps, double rho) {
  return TimeGrid(karras_times("karras", sde, end, steps, rho));
}

TimeGrid TimeGrid::edm(const ForwardSde& sde, double end, int steps, double rho) {
  check_edm_steps(steps);
  std::vector<double> times = karras_times("edm", sde, end, steps - 1, rho);
  times.push_back(0);
  return TimeGrid(std::move(times));
}

TimeGrid TimeGrid::log_snr(const ForwardSde& sde, double end, int steps) {
  return TimeGrid(times_by_ratio("log-snr", sde, end, steps,
                                 [](double part, double first, double last) { return std::lerp(first, last, part); }));
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
  const double end = formula.end.value_or(formula.kind->reaches_zero ? 0 : sde.t_min());
  if (formula.is("geometric")) return geometric(sde.horizon(), end, formula.steps);
  if (formula.is("log-snr")) return log_snr(sde, end, formula.steps);
  if (formula.is("karras")) return karras(sde, end, formula.steps, formula.rho);
  if (formula.is("edm")) return edm(sde, end, formula.steps, formula.rho);
  return uniform(sde.horizon(), end, formula.steps);
}

void TimeGrid::check(const std::string& text) {
  if (text == "paper" || file_of(text)) return;
  const Formula formula = parse_formula(text);
  check_steps(formula.kind->name, formula.steps);
  if (formula.is("edm")) check_edm_steps(formula.steps);
  check_rho(formula.rho);
  if (!formula.end) return;
  const double end = *formula.end;
  const bool reaches_zero = formula.kind->reaches_zero;
  if (std::isfinite(end) && (reaches_zero ? end >= 0 : end > 0)) return;
  throw Error(fmt::format("a {} time grid needs a finite end {} 0; {} was given", formula.kind->name,
                          reaches_zero ? "of at least" : "above", end));
}

}  // namespace fokker
