#include "adaptive.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "console.hpp"

namespace fokker::tools {
namespace {

constexpr std::array methods = {AdaptiveMethod::bs32, AdaptiveMethod::tsit5, AdaptiveMethod::dopri5};

std::optional<double> number_in(const std::string& text) {
  double value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

}  // namespace

bool is_adaptive(const std::string& scheme) {
  return std::any_of(methods.begin(), methods.end(),
                     [&](AdaptiveMethod method) { return scheme == to_string(method); });
}

void check_scheme(const std::string& scheme) {
  if (is_adaptive(scheme)) return;
  try {
    parse_scheme(scheme);
  } catch (const Error& error) {
    throw Error(fmt::format("{}, bs32, tsit5, dopri5", error.what()));
  }
}

void AdaptiveStepOptions::add_to(CLI::App& app) {
  app_ = &app;
  const auto store = [this](const std::string& text) {
    const std::size_t colon = std::min(text.find(':'), text.size());
    const std::optional<double> relative = number_in(text.substr(0, colon)),
                                absolute = colon < text.size() ? number_in(text.substr(colon + 1)) : relative;
    if (!relative || !absolute || !(std::min(*relative, *absolute) >= 1e-6 && std::max(*relative, *absolute) <= 1)) {
      throw CLI::ValidationError(
          fmt::format("--tolerance '{}' given; allowed: R or R:A, numbers from 1e-6 to 1", text));
    }
    relative_ = *relative, absolute_ = *absolute;
  };
  app.add_option_function<std::string>(
         "--tolerance", store,
         "relative and absolute tolerance of a step's error with bs32, tsit5 and dopri5, A as R if not given, 1e-5 if "
         "neither is, and no less than 1e-6")
      ->type_name("R[:A]");
  add_integer<std::int64_t>(
      app, "--most-steps", most_steps_,
      "number of steps, taken and refused, after which a path with bs32, tsit5 or dopri5 is given "
      "up; if not given, 10000",
      1, 100'000'000)
      ->default_str("");
}

void AdaptiveStepOptions::check(const std::string& scheme, const std::vector<std::string>& others) const {
  const bool adaptive = is_adaptive(scheme);
  const auto refuse = [&](const std::vector<std::string>& options, const char* allowed) {
    for (const std::string& option : options) {
      if (app_->count(option) == 0) continue;
      throw CLI::ValidationError(fmt::format("{} given with --scheme {}; allowed: with {}", option, scheme, allowed));
    }
  };
  if (adaptive) refuse(others, "a scheme that steps along --grid");
  if (!adaptive) refuse({"--tolerance", "--most-steps"}, "bs32, tsit5 and dopri5, whose steps follow a tolerance");
}

AdaptiveOptions AdaptiveStepOptions::options(const std::string& scheme) const {
  return {.method = parse_adaptive_method(scheme),
          .relative_tolerance = relative_,
          .absolute_tolerance = absolute_,
          .most_steps = most_steps_};
}

AdaptiveSampler<float> adaptive_sampler(const Context& context, const Model& model, const TimeGrid& grid,
                                        const AdaptiveOptions& options) {
  return {context, model, grid.times().front(), grid.times().back(), options};
}

void check_flow_density(const Context& context, const AdaptiveSampler<float>& sampler, const Divergence& divergence,
                        const std::string& given) {
  if (context.precision() == Precision::half) {
    throw Error(given + " given with --precision half, which serves values and scores only; allowed: split, fp32");
  }
  sampler.log_density({}, {}, divergence);
}

Json describe_steps(const AdaptiveOptions& options, const AdaptiveReport& report) {
  Json json{{"tolerance", {options.relative_tolerance, options.absolute_tolerance}},
            {"most", options.most_steps},
            {"taken", report.accepted},
            {"refused", report.refused},
            {"evaluations", report.evaluations},
            {"most_evaluations", report.most_evaluations},
            {"failed", report.failed}};
  json["first_failed"] =
      report.failed > 0 ? Json{{"number", report.first_failed}, {"time", report.time_of_first}} : Json();
  return json;
}

std::string text_of(const AdaptiveReport& report) {
  return fmt::format("{} taken and {} refused", counted(report.accepted, "step"), report.refused);
}

}  // namespace fokker::tools
