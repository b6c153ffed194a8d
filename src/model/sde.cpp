#include "fokker/sde.hpp"

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "fmt/format.h"
#include "fokker/error.hpp"
#include "io/json_text.hpp"
#include "core/quote.hpp"

namespace fokker {
namespace {

struct Parameter {
  const char* key;
  double ForwardSde::*member;
};

// All that is particular to a kind, besides its formulas.
struct Kind {
  const char* name;
  ForwardSde defaults;
  std::vector<Parameter> parameters;
  const char* formula;
};

const std::vector<Kind>& kinds() {
  static const Parameter horizon{"T", &ForwardSde::horizon}, t_min{"t_min", &ForwardSde::t_min};
  static const auto of = [](const char* first, const char* second) {
    std::vector<Parameter> parameters{{first, &ForwardSde::first}};
    if (second) parameters.push_back({second, &ForwardSde::second});
    parameters.push_back(horizon);
    parameters.push_back(t_min);
    return parameters;
  };
  static const std::vector<Kind> table = {
      {"ou", {SdeKind::ou, 1, 1, 10, 1e-4}, of("rate", "g"), "dx = −rate x dt + g dW"},
      {"vp-linear",
       {SdeKind::vp_linear, 0.1, 20, 1, 1e-3},
       of("beta_min", "beta_max"),
       "dx = −½ β x dt + √β dW, β linear in t"},
      {"vp-cosine", {SdeKind::vp_cosine, 0.008, 1, 1, 1e-3}, of("s", nullptr), "dx = −½ β x dt + √β dW, mean a cosine"},
      {"subvp",
       {SdeKind::subvp, 0.1, 20, 1, 1e-3},
       of("beta_min", "beta_max"),
       "dx = −½ β x dt + √(β (1 − e^(−2∫β))) dW, β linear in t"},
      {"ve",
       {SdeKind::ve, 0.01, 50, 1, 1e-3},
       of("sigma_min", "sigma_max"),
       "dx = g dW, standard deviation geometric in t"},
  };
  return table;
}

const Kind& find(SdeKind kind) {
  for (const Kind& k : kinds()) {
    if (k.defaults.kind == kind) return k;
  }
  throw Error(fmt::format("SDE kind number {} does not exist", static_cast<int>(kind)));
}

const Kind& find(const std::string& name) {
  std::string allowed;
  for (const Kind& k : kinds()) {
    if (k.name == name) return k;
    allowed += (allowed.empty() ? "" : ", ") + std::string(k.name);
  }
  throw Error(fmt::format("unknown SDE {}: allowed are {}", in_quotes(name), allowed));
}

// The smallest power of ten that is a normal float number, as is the variance at it; infinity where there is none.
double least_time(const ForwardSde& sde) {
  for (int exponent = -37; exponent < 0; ++exponent) {
    const double t = std::pow(10.0, exponent);
    if (sde.at(static_cast<float>(t)).variance >= std::numeric_limits<float>::min()) return t;
  }
  return std::numeric_limits<double>::infinity();
}

}  // namespace

ForwardSde ForwardSde::defaults(SdeKind kind) { return find(kind).defaults; }

ForwardSde ForwardSde::parse(const std::string& name, const std::string& parameters_json) {
  const Kind& kind = find(name);
  ForwardSde sde = kind.defaults;
  if (!parameters_json.empty()) {
    const std::string what = fmt::format("the parameter object of the SDE {}", name);
    const auto json = parse_json(parameters_json, what, 1, 1000);
    if (!json.is_object()) throw Error(what + " must be a JSON object, as {\"T\": 1}");
    for (const auto& [key, value] : json.items()) {
      const Parameter* parameter = nullptr;
      std::string allowed;
      for (const Parameter& p : kind.parameters) {
        if (p.key == key) parameter = &p;
        allowed += (allowed.empty() ? "" : ", ") + std::string(p.key);
      }
      if (!parameter) throw Error(fmt::format("{} has no {}: allowed are {}", what, in_quotes(key), allowed));
      if (!value.is_number()) throw Error(fmt::format("{}: {} must be a number", what, key));
      sde.*parameter->member = value.get<double>();
    }
  }
  sde.validate();
  return sde;
}

std::string ForwardSde::name() const { return find(kind).name; }

std::string ForwardSde::parameters_json() const {
  nlohmann::ordered_json json;
  for (const Parameter& p : find(kind).parameters) json[p.key] = this->*p.member;
  return json.dump();
}

std::string ForwardSde::describe_all() {
  std::string text;
  for (const Kind& kind : kinds()) {
    std::string parameters;
    for (const Parameter& p : kind.parameters) {
      parameters += fmt::format("{}{} {}", parameters.empty() ? "" : ", ", p.key, kind.defaults.*p.member);
    }
    text += fmt::format("{:<10} {:<48} {}\n", kind.name, parameters, kind.formula);
  }
  return text;
}

void ForwardSde::validate() const {
  const Kind& k = find(kind);
  // Squares and ratios of squares of numbers in this range stay within float's.
  constexpr double least = 1e-6, most = 1e6;
  for (const Parameter& p : k.parameters) {
    if (p.member == &ForwardSde::t_min) continue;
    const double value = this->*p.member;
    // The cosine's offset: Nichol and Dhariwal's is 0.008; a large one leaves nothing of the cosine.
    const double limit = kind == SdeKind::vp_cosine && p.member == &ForwardSde::first ? 1 : most;
    if (!(value >= least && value <= limit)) {
      throw Error(
          fmt::format("the SDE {} has {} = {}: it must lie between {} and {}", k.name, p.key, value, least, limit));
    }
  }
  if ((kind == SdeKind::vp_linear || kind == SdeKind::subvp) && first > second) {
    throw Error(fmt::format("the SDE {} has beta_min = {} above beta_max = {}", k.name, first, second));
  }
  if (kind == SdeKind::ve && first >= second) {
    throw Error(fmt::format("the SDE ve has sigma_min = {}: it must be below sigma_max = {}", first, second));
  }
  const double first_time = least_time(*this);
  if (!(t_min >= first_time * (1 - 1e-12) && t_min < horizon)) {
    throw Error(
        fmt::format("the SDE {} has t_min = {}: it must be at least {:g}, from where float holds the variance, and "
                    "below T = {}",
                    k.name, t_min, first_time, horizon));
  }
}

double ForwardSde::prior_variance() const {
  switch (kind) {
    case SdeKind::ou: return second * second / (2 * first);
    case SdeKind::ve: return at(horizon).variance;
    case SdeKind::vp_linear:
    case SdeKind::vp_cosine:
    case SdeKind::subvp: break;
  }
  return 1;
}

}  // namespace fokker
