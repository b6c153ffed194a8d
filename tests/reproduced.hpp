#pragma once

// What a reproduction left in its folder.
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "scratch.hpp"

namespace fokker::testing {

// All files of the runs, and of JSON what is not seconds.
inline std::map<std::string, std::string> results_in(const std::filesystem::path& folder) {
  std::map<std::string, std::string> results;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    const std::string name = std::filesystem::relative(entry.path(), folder);
    if (!entry.is_regular_file() || entry.path().extension() == ".tmp") continue;
    results[name] = get(entry.path());
    if (entry.path().extension() != ".json") continue;
    nlohmann::json json = nlohmann::json::parse(results[name]);
    const std::function<void(nlohmann::json&)> strip = [&](nlohmann::json& value) {
      for (const char* key : {"seconds", "first_iteration"}) {
        if (value.is_object()) value.erase(key);
      }
      if (value.is_structured()) {
        for (nlohmann::json& part : value) strip(part);
      }
    };
    strip(json);
    results[name] = json.dump();
  }
  return results;
}

}  // namespace fokker::testing
