#include "fokker/sde.hpp"

#include <cmath>
#include <functional>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "core/names.hpp"
#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"
#include "io/json.hpp"
#include "model/ddpm.hpp"

namespace fokker {
namespace {

struct Parameter {
  const char* key;
  std::function<double&(SdeFormulas&)> in;
  double most;
};

// All that is particular to a kind, besides its formulas and defaults.
struct Kind {
  const char* name;
  SdeFormulas defaults;
  const char* formula;
  std::vector<Parameter> parameters;
  std::vector<const char*> notes;  // for describe_all()
};

// Squares and ratios of squares of numbers in this range stay within float's.
constexpr double least_value = 1e-6, most_value = 1e6;

template <class Sde>
struct Key {
  const char* key;
  double Sde::*member;
  double most = most_value;
};

// A row of the table: `own` are the keys of the kind besides T and t_min, which every kind has.
template <class Sde>
Kind row(const char* name, Sde SdeFormulas::*sde, const char* formula, std::vector<Key<Sde>> own,
         double most_horizon = most_value, std::vector<const char*> notes = {}) {
  own.push_back({"T", &Sde::horizon, most_horizon});
  own.push_back({"t_min", &Sde::t_min});
  Kind kind{name, Sde{}, formula, {}, std::move(notes)};
  for (const auto& [key, member, most] : own) {
    kind.parameters.push_back({key, [sde, m = member](SdeFormulas& f) -> double& { return f.*sde.*m; }, most});
  }
  return kind;
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> table = {
      row("ou", &SdeFormulas::ou, "dx = −rate x dt + g dW", {{"rate", &OuSde::rate}, {"g", &OuSde::g}}),
      row("vp-linear", &SdeFormulas::vp_linear, "dx = −½ β x dt + √β dW, β linear in t",
          {{"beta_min", &VpLinearSde::beta_min}, {"beta_max", &VpLinearSde::beta_max}}),
      // Nichol and Dhariwal's offset is 0.008; a large one leaves nothing of the cosine.
      row("vp-cosine", &SdeFormulas::vp_cosine, "dx = −½ β x dt + √β dW, mean a cosine", {{"s", &VpCosineSde::s, 1}}),
      row("subvp", &SdeFormulas::subvp, "dx = −½ β x dt + √(β (1 − e^(−2∫β))) dW, β linear in t",
          {{"beta_min", &SubVpSde::beta_min}, {"beta_max", &SubVpSde::beta_max}}),
      row("ve", &SdeFormulas::ve, "dx = g dW, standard deviation geometric in t",
          {{"sigma_min", &VeSde::sigma_min}, {"sigma_max", &VeSde::sigma_max}}, most_value,
          {"dx = s^t dW is ve with sigma_min = 1/√(2 ln s), sigma_max = s sigma_min, T 1: for s = 25 0.394124 and "
           "9.8531"}),
      row("edm", &SdeFormulas::edm, "dx = √(2 t) dW, standard deviation t", {}),
      row("flow", &SdeFormulas::flow, "dx = −x/(1 − t) dt + √(2 t/(1 − t)) dW, x_t = (1 − t) x_0 + t ε", {}, 1),
      // And the keys of ddpm.hpp.
      row("ddpm", &SdeFormulas::ddpm, "dx = −½ β x dt + √β dW, β of DDPM's step at t", {}, most_value,
          {"steps 1000, schedule linear with beta_start 0.0001, beta_end 0.02, or schedule cosine with s 0.008;",
           "or betas, a list, in place of steps and schedule; T is steps, t_min T/steps if not given"}),
  };
  return table;
}

template <class NameOrKind>
const Kind& find(const NameOrKind& of) {
  static const auto kind_of = [](const Kind& kind) { return kind.defaults.kind; };
  static const NameTable<Kind, decltype(kind_of)> table{"SDE", kinds(), kind_of};
  return table.row(of);
}

// The smallest power of ten that is a normal float number, as is the variance at it; infinity where there is none.
double least_time(const SdeFormulas& sde) {
  for (int exponent = -37; exponent < 0; ++exponent) {
    const double t = std::pow(10.0, exponent);
    if (sde.at(static_cast<float>(t)).variance >= std::numeric_limits<float>::min()) return t;
  }
  return std::numeric_limits<double>::infinity();
}

}  // namespace

std::vector<std::string_view> sde_names() {
  std::vector<std::string_view> names;
  for (const Kind& kind : kinds()) names.emplace_back(kind.name);
  return names;
}

ForwardSde::ForwardSde(const SdeFormulas& formulas) : ForwardSde(formulas, nullptr) {}

ForwardSde::ForwardSde(const SdeFormulas& formulas, std::shared_ptr<const DdpmTable> table)
    : formulas_(formulas), table_(std::move(table)) {
  const Kind& kind = find(formulas.kind);
  if (formulas.kind == SdeKind::ddpm && table_ == nullptr) {
    throw Error("the formulas of the SDE ddpm were given without their betas; allowed: ForwardSde::ddpm()");
  }
  for (const Parameter& p : kind.parameters) {
    if (p.key == std::string_view("t_min")) continue;
    if (const double value = p.in(formulas_); !(value >= least_value && value <= p.most)) {
      throw Error(fmt::format("the SDE {} has {} = {}: it must lie between {} and {}", kind.name, p.key, value,
                              least_value, p.most));
    }
  }
  formulas.visit([&](const auto& sde) {
    if constexpr (requires { sde.beta_min; }) {
      if (sde.beta_min > sde.beta_max) {
        throw Error(
            fmt::format("the SDE {} has beta_min = {} above beta_max = {}", kind.name, sde.beta_min, sde.beta_max));
      }
    }
    if constexpr (requires { sde.sigma_min; }) {
      if (sde.sigma_min >= sde.sigma_max) {
        throw Error(fmt::format("the SDE {} has sigma_min = {}: it must be below sigma_max = {}", kind.name,
                                sde.sigma_min, sde.sigma_max));
      }
    }
  });
  if (const double least = least_time(formulas); !(t_min() >= least * (1 - 1e-12) && t_min() < horizon())) {
    constexpr const char* message =
        "the SDE {} has t_min = {}: it must be at least {:g}, from where float holds the variance, and below T = {}";
    throw Error(fmt::format(message, kind.name, t_min(), least, horizon()));
  }
}

bool ForwardSde::operator==(const ForwardSde& other) const {
  if (kind() != other.kind() || horizon() != other.horizon() || t_min() != other.t_min()) return false;
  const Kind& of = find(kind());
  SdeFormulas a = formulas_, b = other.formulas_;
  for (const Parameter& parameter : of.parameters) {
    if (parameter.in(a) != parameter.in(b)) return false;
  }
  return betas() == other.betas();
}

ForwardSde ForwardSde::ou(const OuSde& parameters) { return ForwardSde(parameters); }
ForwardSde ForwardSde::vp_linear(const VpLinearSde& parameters) { return ForwardSde(parameters); }
ForwardSde ForwardSde::vp_cosine(const VpCosineSde& parameters) { return ForwardSde(parameters); }
ForwardSde ForwardSde::subvp(const SubVpSde& parameters) { return ForwardSde(parameters); }
ForwardSde ForwardSde::ve(const VeSde& parameters) { return ForwardSde(parameters); }
ForwardSde ForwardSde::edm(const EdmSde& parameters) { return ForwardSde(parameters); }
ForwardSde ForwardSde::flow(const FlowSde& parameters) { return ForwardSde(parameters); }
ForwardSde ForwardSde::ddpm(const DdpmBetas& betas, std::optional<double> horizon, std::optional<double> t_min) {
  std::shared_ptr<const DdpmTable> table = make_ddpm_table(betas);
  DdpmSde sde;
  sde.table = table->steps.data();
  sde.steps = static_cast<std::int32_t>(table->steps.size());
  sde.horizon = horizon.value_or(sde.steps);
  sde.t_min = t_min.value_or(sde.horizon / sde.steps);
  return {sde, std::move(table)};
}

ForwardSde ForwardSde::defaults(SdeKind kind) {
  return kind == SdeKind::ddpm ? ddpm() : ForwardSde(find(kind).defaults);
}

std::vector<double> ForwardSde::betas() const { return table_ ? table_->betas : std::vector<double>(); }

ForwardSde ForwardSde::parse(const std::string& name, const std::string& parameters_json) {
  const Kind& kind = find(name);
  SdeFormulas formulas = kind.defaults;
  const bool has_betas = formulas.kind == SdeKind::ddpm;
  if (!parameters_json.empty()) {
    const std::string what = fmt::format("the parameter object of the SDE {}", name);
    const JsonValue json = parse_json(parameters_json, what, has_betas ? 2 : 1);
    if (json.object() == nullptr) throw Error(what + " must be a JSON object, as {\"T\": 1}");
    if (has_betas) {
      const DdpmParameters parameters = read_ddpm(json, what);
      return ddpm(parameters.betas, parameters.horizon, parameters.t_min);
    }
    for (const auto& [key, value] : *json.object()) {
      const Parameter* parameter = nullptr;
      std::string allowed;
      for (const Parameter& p : kind.parameters) {
        if (p.key == key) parameter = &p;
        allowed += (allowed.empty() ? "" : ", ") + std::string(p.key);
      }
      if (!parameter) throw Error(fmt::format("{} has no {}: allowed are {}", what, in_quotes(key), allowed));
      if (!value.is_number()) throw Error(fmt::format("{}: {} must be a number", what, key));
      parameter->in(formulas) = value.to<double>(key);
    }
  }
  return has_betas ? ddpm() : ForwardSde(formulas);
}

std::string ForwardSde::name() const { return find(kind()).name; }

std::string ForwardSde::parameters_json() const {
  std::string text = table_ ? text_of(table_->given) : "";
  SdeFormulas formulas = formulas_;
  for (const Parameter& p : find(kind()).parameters) {
    text += fmt::format("{}\"{}\":{}", text.empty() ? "" : ",", p.key, json_text(p.in(formulas)));
  }
  return fmt::format("{{{}}}", text);
}

std::string ForwardSde::describe_all() {
  std::string text;
  for (const Kind& kind : kinds()) {
    std::string parameters;
    SdeFormulas defaults = kind.defaults;
    for (const Parameter& p : kind.parameters) {
      parameters += fmt::format("{}{} {}", parameters.empty() ? "" : ", ", p.key, p.in(defaults));
    }
    text += fmt::format("{:<10} {:<48} {}\n", kind.name, parameters, kind.formula);
    for (const char* const note : kind.notes) text += fmt::format("{:<10} {}\n", "", note);
  }
  return text;
}

}  // namespace fokker
