// The names of the public enumerations: one table each, read in both directions.
#include <span>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "fokker/formulas/activation.hpp"
#include "fokker/context.hpp"
#include "fokker/error.hpp"
#include "fokker/model.hpp"
#include "fokker/sampler.hpp"
#include "fokker/trainer.hpp"
#include "core/quote.hpp"

namespace fokker {
namespace {

// The first entry of a value is its name; later ones are accepted for it.
template <class E>
struct Entry {
  std::string_view name;
  E value;
};

template <class E>
struct Table {
  std::string_view what;
  std::span<const Entry<E>> entries;

  E parse(std::string_view name) const {
    std::string allowed;
    for (const auto& entry : entries) {
      if (entry.name == name) return entry.value;
      allowed += (allowed.empty() ? "" : ", ") + std::string(entry.name);
    }
    throw Error(fmt::format("unknown {} {}: allowed are {}", what, in_quotes(name), allowed));
  }
  std::string_view name(E value) const {
    for (const auto& entry : entries) {
      if (entry.value == value) return entry.name;
    }
    throw Error(fmt::format("{} number {} does not exist", what, static_cast<int>(value)));
  }
};

constexpr Entry<Activation> activation_entries[] = {{"softplus", Activation::softplus},
                                                    {"tanh", Activation::tanh},
                                                    {"silu", Activation::silu},
                                                    {"sine", Activation::sine}};
constexpr Entry<Precision> precision_entries[] = {
    {"split", Precision::split}, {"fp32", Precision::fp32}, {"half", Precision::half}};
constexpr Entry<Output> output_entries[] = {{"potential", Output::potential}, {"score", Output::score}};
constexpr Entry<Scheme> scheme_entries[] = {{"euler-maruyama", Scheme::euler_maruyama},
                                            {"sde", Scheme::euler_maruyama},
                                            {"euler", Scheme::euler},
                                            {"ode", Scheme::euler},
                                            {"heun", Scheme::heun},
                                            {"rk4", Scheme::rk4}};
constexpr Entry<TimeLaw> time_law_entries[] = {
    {"paper", TimeLaw::paper}, {"uniform", TimeLaw::uniform}, {"importance", TimeLaw::importance}};
constexpr Entry<RateSchedule> schedule_entries[] = {{"paper", RateSchedule::paper},
                                                    {"one-cycle", RateSchedule::one_cycle},
                                                    {"cosine", RateSchedule::cosine},
                                                    {"constant", RateSchedule::constant}};
constexpr Entry<WeightAverage> average_entries[] = {
    {"none", WeightAverage::none}, {"exponential", WeightAverage::exponential}, {"tail", WeightAverage::tail}};

constexpr Table<Activation> activations{"activation", activation_entries};
constexpr Table<Precision> precisions{"precision", precision_entries};
constexpr Table<Output> outputs{"output", output_entries};
constexpr Table<Scheme> schemes{"scheme", scheme_entries};
constexpr Table<TimeLaw> time_laws{"time law", time_law_entries};
constexpr Table<RateSchedule> schedules{"rate schedule", schedule_entries};
constexpr Table<WeightAverage> averages{"weight average", average_entries};

}  // namespace

std::vector<std::string_view> activation_names() {
  std::vector<std::string_view> names;
  for (const auto& entry : activation_entries) names.push_back(entry.name);
  return names;
}

Activation parse_activation(std::string_view name) { return activations.parse(name); }
Precision parse_precision(std::string_view name) { return precisions.parse(name); }
Output parse_output(std::string_view name) { return outputs.parse(name); }
Scheme parse_scheme(std::string_view name) { return schemes.parse(name); }
TimeLaw parse_time_law(std::string_view name) { return time_laws.parse(name); }
RateSchedule parse_rate_schedule(std::string_view name) { return schedules.parse(name); }
WeightAverage parse_weight_average(std::string_view name) { return averages.parse(name); }

std::string_view to_string(Activation activation) { return activations.name(activation); }
std::string_view to_string(Precision precision) { return precisions.name(precision); }
std::string_view to_string(Output output) { return outputs.name(output); }
std::string_view to_string(Scheme scheme) { return schemes.name(scheme); }
std::string_view to_string(TimeLaw law) { return time_laws.name(law); }
std::string_view to_string(RateSchedule schedule) { return schedules.name(schedule); }
std::string_view to_string(WeightAverage average) { return averages.name(average); }

}  // namespace fokker
