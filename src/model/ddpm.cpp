#include "model/ddpm.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numbers>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "core/quote.hpp"
#include "fokker/error.hpp"

namespace fokker {
namespace {

constexpr std::int64_t fewest_steps = 2, most_steps = 100'000;

void check_steps(std::int64_t steps) {
  if (steps >= fewest_steps && steps <= most_steps) return;
  throw Error(fmt::format("the SDE ddpm has {} steps: their number must lie between {} and {}", steps, fewest_steps,
                          most_steps));
}

// Of the first, which is a variance that float holds.
constexpr double least_first = 1e-36;
void check_first(double beta) {
  if (beta >= least_first) return;
  throw Error(fmt::format("the SDE ddpm has {} as its first beta: it must be at least {:g}", beta, least_first));
}

void check_beta(const std::string& name, double beta) {
  if (beta > 0 && beta < 1) return;
  throw Error(fmt::format("the SDE ddpm has {} = {}: it must lie between 0 and 1, both excluded", name, beta));
}

std::vector<double> list_of(const LinearBetas& linear) {
  check_steps(linear.steps);
  check_beta("beta_start", linear.beta_start);
  check_beta("beta_end", linear.beta_end);
  std::vector<double> betas(static_cast<std::size_t>(linear.steps));
  const double last = static_cast<double>(linear.steps - 1);
  for (std::size_t i = 0; i < betas.size(); ++i) {
    betas[i] = std::lerp(linear.beta_start, linear.beta_end, static_cast<double>(i) / last);
  }
  return betas;
}

// β_j = 1 − ᾱ(j/N)/ᾱ((j − 1)/N) with ᾱ(τ) = cos²(c (τ + s)), c = π/2/(1 + s). As 1 − cos² b/cos² a =
// sin(b − a) sin(b + a)/cos² a no digits of a small one are lost.
std::vector<double> list_of(const CosineBetas& cosine) {
  check_steps(cosine.steps);
  if (constexpr double least = 1e-6, most = 1; !(cosine.s >= least && cosine.s <= most)) {
    throw Error(fmt::format("the SDE ddpm has s = {}: it must lie between {} and {}", cosine.s, least, most));
  }
  constexpr double most_beta = 0.999;
  std::vector<double> betas(static_cast<std::size_t>(cosine.steps));
  const double c = std::numbers::pi / 2 / (1 + cosine.s), width = c / static_cast<double>(cosine.steps);
  for (std::size_t i = 0; i < betas.size(); ++i) {
    const double j = static_cast<double>(i), before = std::cos(width * j + c * cosine.s);
    const double beta = std::sin(width) * std::sin(width * (2 * j + 1) + 2 * c * cosine.s) / (before * before);
    betas[i] = std::min(beta, most_beta);
  }
  return betas;
}

std::vector<double> list_of(const std::vector<double>& betas) {
  check_steps(std::ssize(betas));
  for (std::size_t i = 0; i < betas.size(); ++i) check_beta(fmt::format("beta number {}", i + 1), betas[i]);
  return betas;
}

constexpr std::string_view own_keys[] = {"steps", "schedule", "beta_start", "beta_end", "s", "betas"};

}  // namespace

std::shared_ptr<const DdpmTable> make_ddpm_table(const DdpmBetas& betas) {
  auto table = std::make_shared<DdpmTable>();
  table->given = betas;
  table->betas = std::visit([](const auto& given) { return list_of(given); }, betas);
  check_first(table->betas.front());
  long double sum = 0;
  for (const double beta : table->betas) {
    const long double rate = -std::log1p(-static_cast<long double>(beta));
    table->steps.push_back({static_cast<double>(sum), static_cast<double>(rate)});
    sum += rate;
  }
  return table;
}

DdpmParameters read_ddpm(const JsonValue& object, const std::string& what) {
  DdpmParameters parameters;
  const auto number = [&](const char* key, double& value) {
    const JsonValue* const json = object.find(key);
    if (json == nullptr) return;
    if (!json->is_number()) throw Error(fmt::format("{}: {} must be a number", what, key));
    value = json->to<double>(key);
  };
  for (const auto& [key, horizon] : {std::pair{"T", &parameters.horizon}, std::pair{"t_min", &parameters.t_min}}) {
    if (object.find(key) != nullptr) number(key, horizon->emplace());
  }
  // What else may stand there with betas, or with a schedule.
  const auto allow = [&](const std::vector<std::string_view>& allowed, const std::string& with) {
    for (const auto& [key, value] : *object.object()) {
      if (key == "T" || key == "t_min" || std::find(allowed.begin(), allowed.end(), key) != allowed.end()) continue;
      const bool known = std::find(std::begin(own_keys), std::end(own_keys), key) != std::end(own_keys);
      throw Error(
          known
              ? fmt::format("{} has {} beside {}: allowed are {}, T, t_min", what, key, with, fmt::join(allowed, ", "))
              : fmt::format("{} has no {}: allowed are {}, T, t_min", what, in_quotes(key), fmt::join(own_keys, ", ")));
    }
  };
  if (const JsonValue* const betas = object.find("betas"); betas != nullptr) {
    allow({"betas"}, "betas");
    parameters.betas = betas->to<std::vector<double>>(what + ": betas");
    return parameters;
  }
  const auto steps = [&](std::int64_t& value) {
    if (object.find("steps") != nullptr) value = object.get<std::int64_t>(what + ":", "steps");
  };
  const std::string schedule =
      object.find("schedule") == nullptr ? "linear" : object.get<std::string>(what + ":", "schedule");
  if (schedule == "linear") {
    allow({"steps", "schedule", "beta_start", "beta_end"}, "the schedule linear");
    LinearBetas linear;
    steps(linear.steps);
    number("beta_start", linear.beta_start);
    number("beta_end", linear.beta_end);
    parameters.betas = linear;
  } else if (schedule == "cosine") {
    allow({"steps", "schedule", "s"}, "the schedule cosine");
    CosineBetas cosine;
    steps(cosine.steps);
    number("s", cosine.s);
    parameters.betas = cosine;
  } else {
    throw Error(fmt::format("{} has the schedule {}: allowed are linear and cosine", what, in_quotes(schedule)));
  }
  return parameters;
}

std::string text_of(const DdpmBetas& betas) {
  if (const auto* linear = std::get_if<LinearBetas>(&betas)) {
    return fmt::format(R"("steps":{},"schedule":"linear","beta_start":{},"beta_end":{})", linear->steps,
                       json_text(linear->beta_start), json_text(linear->beta_end));
  }
  if (const auto* cosine = std::get_if<CosineBetas>(&betas)) {
    return fmt::format(R"("steps":{},"schedule":"cosine","s":{})", cosine->steps, json_text(cosine->s));
  }
  std::string list;
  for (const double beta : std::get<std::vector<double>>(betas)) {
    list += fmt::format("{}{}", list.empty() ? "" : ",", json_text(beta));
  }
  return fmt::format("\"betas\":[{}]", list);
}

}  // namespace fokker
