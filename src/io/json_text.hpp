#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"

namespace fokker {

// JSON from outside, read as strictly as a file format needs: well-formed UTF-8, no key twice, nesting and number of
// values bounded before anything of that size is built. `what` begins the message of the Error.
inline nlohmann::json parse_json(std::string_view text, const std::string& what, int deepest, std::size_t most_values) {
  using nlohmann::json;
  // The library's lexer takes a zero byte for the end of the text and would not see what follows.
  if (text.find('\0') != std::string_view::npos) throw Error(what + " is not JSON: it holds a zero byte");
  std::vector<std::set<std::string>> keys;
  std::size_t values = 0;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (++values > most_values) throw Error(fmt::format("{} holds more than {} values", what, most_values));
    switch (event) {
      case json::parse_event_t::object_start: keys.emplace_back(); [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= deepest) throw Error(fmt::format("{} is nested more than {} deep", what, deepest));
        break;
      case json::parse_event_t::object_end: keys.pop_back(); break;
      case json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys.back().insert(key).second)
          throw Error(fmt::format("{} holds the key {} twice", what, in_quotes(key)));
        break;
      }
      default: break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& error) {
    throw Error(fmt::format("{} is not valid JSON at byte {}", what, error.byte));
  } catch (const json::exception&) {  // a number beyond double's range
    throw Error(what + " is not valid JSON: a number in it is out of range");
  }
}

}  // namespace fokker
