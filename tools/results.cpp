#include "results.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "console.hpp"

namespace fokker::tools {
namespace {

using Group = std::vector<const Json*>;  // runs that differ in their seeds alone

struct Published {
  const char* data;
  double weight, ode_sde, ode_truth, sde_truth, escaped_ode, escaped_sde, mean_square;
};
constexpr double published_noise_floor = 5.5e-4;  // of 3 000 000 samples each
constexpr Published published_results[] = {
    {"blob", 0, 0.01160, 0.01097, 0.00218, 0.00147, 0.00052, 12.5},
    {"blob", 0.1, 0.00311, 0.00604, 0.00294, 0.00163, 0.00156, 0.0101},
    {"blob", 1, 0.00290, 0.00528, 0.00427, 0.00349, 0.00357, 0.0036},
    {"blob", 10, 0.00221, 0.01723, 0.01599, 0.02480, 0.02591, 0.0012},
    {"checker", 0, 0.02720, 0.02442, 0.00368, 0.00058, 0, 251},
    {"checker", 0.1, 0.00716, 0.01139, 0.00539, 0.00174, 0.00164, 0.063},
    {"checker", 1, 0.00353, 0.01143, 0.01155, 0.00333, 0.00330, 0.0068},
    {"checker", 10, 0.00210, 0.03305, 0.03216, 0.02327, 0.02420, 0.00096},
};

// The statistics of a number that the gap.json of each run has.
template <class ValueOf>
Json over_seeds(const Group& group, const ValueOf& value_of) {
  std::vector<double> values;
  for (const Json* run : group) values.push_back(number(value_of(run->at("gap"))));
  if (!std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); })) return nullptr;
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  double mean = 0, square = 0;
  for (const double value : values) mean += value / double(n);
  for (const double value : values) square += (value - mean) * (value - mean);
  return {{"mean", mean},
          {"deviation", n > 1 ? Json(std::sqrt(square / double(n - 1))) : Json()},
          {"least", values.front()},
          {"median", 0.5 * (values[(n - 1) / 2] + values[n / 2])},
          {"most", values.back()}};
}

// The same at each of the times of the gap over time; null where a run has none.
Json over_time(const Group& group) {
  if (!std::all_of(group.begin(), group.end(),
                   [](const Json* run) { return run->at("gap").value("along_the_way", Json()).is_object(); })) {
    return nullptr;
  }
  const Json& first = group.front()->at("gap").at("along_the_way");
  Json statistics{{"times", first.at("times")}, {"w2_squared", Json::object()}};
  const auto list_over_seeds = [&](const Json::json_pointer& where) {
    Json list = Json::array();
    for (std::size_t k = 0; k < first.at(where).size(); ++k) {
      list.push_back(over_seeds(group, [&](const Json& gap) {
        const Json& way = gap.at("along_the_way");
        return way.contains(where) && k < way.at(where).size() ? way.at(where)[k] : Json();
      }));
    }
    return list;
  };
  for (const char* pair : {"ode_sde", "potential_sde", "potential_ode"}) {
    if (first.at("w2_squared").contains(pair)) {
      statistics["w2_squared"][pair] = list_over_seeds(Json::json_pointer(fmt::format("/w2_squared/{}", pair)));
    }
  }
  statistics["noise_floor"] = list_over_seeds(Json::json_pointer("/noise_floor"));
  return statistics;
}

// The gap's curve in η; null where a run has none, or has others of its points.
Json along_eta(const Group& group) {
  const auto etas = [](const Json* run) {
    Json list = Json::array();
    const Json curve = run->at("gap").value("along_eta", Json());
    for (const Json& of : curve.is_array() ? curve : Json::array()) list.push_back(of.at("eta"));
    return list;
  };
  Json curve{{"eta", etas(group.front())}};
  if (curve["eta"].empty()) return nullptr;
  for (const Json* run : group) {
    if (etas(run) != curve["eta"]) return nullptr;
  }
  for (const char* name : {"ode", "truth", "escaped"}) {
    Json list = Json::array();
    for (std::size_t k = 0; k < curve["eta"].size(); ++k) {
      list.push_back(over_seeds(group, [&](const Json& gap) { return gap.at("along_eta")[k].at(name); }));
    }
    curve[name] = std::move(list);
  }
  return curve;
}

// The largest share of a sampler's samples that a seed of an entry of the summary lost; all where that is not known.
double escaped(const Json& entry) {
  double share = 0;
  for (const char* sampler : {"escaped_ode", "escaped_sde"}) {
    const Json& statistic = entry.at(sampler);
    share = std::max(share, statistic.is_null() ? 1.0 : std::clamp(number(statistic.at("most")), 0.0, 1.0));
  }
  return share;
}

std::string verdict(const Json& without, const Json& with, std::int64_t samples) {
  if (without["ode_sde"].is_null() || with["ode_sde"].is_null()) {
    return "no distance between the samplers, since all samples of one lie outside the box or are not finite";
  }
  const auto mean = [](const Json& entry, const char* name) {
    return entry[name].is_null() ? std::nan("") : number(entry[name]["mean"]);
  };
  const double before = mean(without, "ode_sde"), after = mean(with, "ode_sde"), change = std::abs(before - after),
               floor = mean(without, "noise_floor"), lost = std::max(escaped(without), escaped(with));
  const std::int64_t seeds = without["seeds"];
  const std::string by =
      lost > most_escaped
          ? fmt::format("{} (of {} samples as few as {} stayed near the data, so that no noise floor compares)",
                        number_or_dash(change), samples, std::llround((1 - lost) * double(samples)))
      : floor > 0  ? fmt::format("{} noise floors", number_or_dash(change / floor, "{:.1f}"))
      : floor == 0 ? fmt::format("{} with a noise floor of 0", number_or_dash(change))
                   : number_or_dash(change);
  return fmt::format("the ODE–SDE gap {} from {} at w_R = 0 to {} at w_R = {}{}, by {}; SDE–truth goes from {} to {}",
                     after < before ? "falls" : "rises", number_or_dash(before), number_or_dash(after),
                     number(with["residual_weight"]), seeds > 1 ? fmt::format(" in the mean over {} seeds", seeds) : "",
                     by, number_or_dash(mean(without, "sde_truth")), number_or_dash(mean(with, "sde_truth")));
}

}  // namespace

double number(const Json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }

const Json& distances(const Json& gap) {
  const auto planar = gap.find("w2_squared");
  return planar != gap.end() && !planar->is_null() ? *planar : gap.at("sliced_w2_squared");
}

Json without_failed(const Json& runs) {
  Json finished = Json::array();
  for (const Json& run : runs) {
    if (!run.contains("failed")) finished.push_back(run);
  }
  return finished;
}

double seconds_of(const Json& runs) {
  double sum = 0;
  for (const Json& run : runs) {
    if (run.contains("training")) sum += number(run["training"].at("seconds"));
    if (run.contains("failed")) continue;
    for (const Json& seconds : run.at("gap").at("seconds")) sum += number(seconds);
    if (!run.at("diagnosis").is_null()) sum += number(run["diagnosis"].at("seconds"));
  }
  return sum;
}

Json summarise(const Json& finished) {
  const auto key = [](const Json& run) {
    return std::tie(run["data"], run["activation"]["name"], run["residual_weight"]);
  };
  std::vector<Group> groups;
  for (const Json& run : finished) {
    const auto group =
        std::find_if(groups.begin(), groups.end(), [&](const Group& others) { return key(*others[0]) == key(run); });
    if (group == groups.end()) {
      groups.push_back({&run});
    } else {
      group->push_back(&run);
    }
  }
  Json summary = Json::array();
  for (const Group& group : groups) {
    const Json& first = *group.front();
    Json entry{{"data", first["data"]},
               {"activation", first["activation"]},
               {"residual_weight", first["residual_weight"]},
               {"seeds", group.size()}};
    for (const char* pair : {"ode_sde", "ode_truth", "sde_truth"}) {
      entry[pair] = over_seeds(group, [&](const Json& gap) { return distances(gap).at(pair); });
    }
    entry["noise_floor"] = over_seeds(group, [](const Json& gap) { return gap.at("noise_floor"); });
    entry["grid_bias"] = over_seeds(group, [](const Json& gap) { return gap.value("grid_bias", Json()); });
    for (const char* sampler : {"ode", "sde"}) {
      entry[fmt::format("escaped_{}", sampler)] =
          over_seeds(group, [&](const Json& gap) { return gap.at("escaped").at(sampler); });
    }
    for (const char* name : {"mean_square", "centred_mean_square"}) {
      entry[name] = over_seeds(group, [&](const Json& gap) {
        const Json residual = gap.value("residual", Json());
        return residual.is_null() ? Json() : residual.at(name);
      });
    }
    entry["denoising_loss"] = over_seeds(group, [](const Json& gap) { return gap.at("denoising_loss"); });
    entry["along_the_way"] = over_time(group);
    entry["along_eta"] = along_eta(group);
    summary.push_back(std::move(entry));
  }
  return summary;
}

Json verdicts(const Json& summary, std::int64_t samples) {
  Json found = Json::array();
  for (const Json& without : summary) {
    if (without["residual_weight"] != 0) continue;
    const Json* with = nullptr;
    const auto from_one = [](const Json& entry) { return std::abs(std::log(number(entry["residual_weight"]))); };
    for (const Json& entry : summary) {
      if (entry["data"] != without["data"] || entry["activation"] != without["activation"]) continue;
      if (entry["residual_weight"] > 0 && (with == nullptr || from_one(entry) < from_one(*with))) with = &entry;
    }
    if (with == nullptr) continue;
    found.push_back({{"data", without["data"]},
                     {"activation", without["activation"]["name"]},
                     {"text", verdict(without, *with, samples)}});
  }
  return found;
}

Json published(const std::string& data, double weight) {
  for (const Published& p : published_results) {
    if (p.data != data || p.weight != weight) continue;
    return {{"w2_squared", {{"ode_sde", p.ode_sde}, {"ode_truth", p.ode_truth}, {"sde_truth", p.sde_truth}}},
            {"noise_floor", published_noise_floor},
            {"escaped", {{"ode", p.escaped_ode}, {"sde", p.escaped_sde}}},
            {"mean_square", p.mean_square}};
  }
  return nullptr;
}

Json acceptance(const Json& summary) {
  struct Value {
    double median = std::nan(""), floor = std::nan("");
    std::int64_t seeds = 0;
    bool known() const { return std::isfinite(median); }
    std::string text() const {
      return known() ? number_or_dash(median, "{:.4f}") : seeds > 0 ? "too many lost" : "not run";
    }
  };
  const auto value_of = [&](const std::string& data, double weight, const char* pair) -> Value {
    for (const Json& entry : summary) {
      if (entry["data"] != data || entry["residual_weight"] != weight) continue;
      Value value{std::nan(""), std::nan(""), entry["seeds"]};
      if (entry[pair].is_null() || escaped(entry) > most_escaped) return value;
      value.median = number(entry[pair]["median"]);
      if (const Json& floor = entry["noise_floor"]; !floor.is_null()) value.floor = number(floor["median"]);
      return value;
    }
    return {};
  };
  Json entries = Json::array();
  // One step that is not as it should be decides; else one that is not known does.
  const auto add = [&](const std::string& data, const std::string& criterion, bool violated, bool known,
                       const std::string& numbers) {
    entries.push_back({{"data", data},
                       {"criterion", criterion},
                       {"outcome", violated ? "not met"
                                   : known  ? "met"
                                            : "not evaluated"},
                       {"numbers", numbers}});
  };
  // How far `to` lies above `from`, in noise floors; NaN where one is not known.
  const auto rise = [](const Value& from, const Value& to) {
    return (to.median - from.median) / std::max(from.floor, to.floor);
  };
  const auto texts = [](const std::vector<Value>& values) {
    std::string text;
    for (const Value& value : values) text += (text.empty() ? "" : ", ") + value.text();
    double floor = std::nan("");
    for (const Value& value : values) floor = std::fmax(floor, value.floor);
    return text + fmt::format("; noise floor {}", number_or_dash(floor, "{:.4f}"));
  };
  const auto all_known = [](const std::vector<Value>& values) {
    return std::all_of(values.begin(), values.end(), [](const Value& value) { return value.known(); });
  };
  for (const char* data : {"blob", "circles2", "checker"}) {
    std::vector<Value> gaps;
    for (const double weight : {0.0, 0.1, 10.0}) gaps.push_back(value_of(data, weight, "ode_sde"));
    const bool violated = rise(gaps[0], gaps[1]) >= -1 || rise(gaps[1], gaps[2]) >= -1;
    add(data, "ODE–SDE falls from w_R = 0 to 0.1 and from 0.1 to 10 by more than the noise floor", violated,
        all_known(gaps), texts(gaps));
  }
  for (const char* data : {"blob", "checker"}) {
    for (const auto& [pair, name] : {std::pair("ode_sde", "ODE–SDE"), std::pair("ode_truth", "ODE–truth")}) {
      bool violated = false, known = true;
      std::string numbers;
      std::int64_t seeds = 3;
      for (const Published& p : published_results) {
        if (std::string(p.data) != data) continue;
        const double theirs = std::string(pair) == "ode_sde" ? p.ode_sde : p.ode_truth;
        const Value ours = value_of(data, p.weight, pair);
        const double ratio = ours.median / theirs;
        const bool enough = ours.known() && ours.seeds >= 3;
        violated = violated || (enough && (ratio > 2 || ratio < 0.5));
        known = known && enough;
        if (ours.seeds > 0) seeds = std::min(seeds, ours.seeds);
        numbers += fmt::format("{}{} where {:.4f} is published", numbers.empty() ? "" : ", ", ours.text(), theirs);
      }
      if (seeds < 3) numbers += fmt::format("; {} of 3 seeds", seeds);
      add(data, fmt::format("{} at w_R = 0, 0.1, 1 and 10 within a factor 2 of the published", name), violated, known,
          numbers);
    }
    std::vector<Value> steps;
    for (const double weight : {0.0, 0.1, 1.0, 10.0}) steps.push_back(value_of(data, weight, "sde_truth"));
    bool violated = rise(steps.front(), steps.back()) <= 1;
    for (std::size_t k = 1; k < steps.size(); ++k) violated = violated || rise(steps[k - 1], steps[k]) < -1;
    add(data, "SDE–truth rises from w_R = 0 to 10 by more than the noise floor and falls by more at no step between",
        violated, all_known(steps), texts(steps));
  }
  return entries;
}

}  // namespace fokker::tools
