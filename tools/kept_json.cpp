#include "kept_json.hpp"

#include <fmt/format.h>

#include <string_view>
#include <type_traits>
#include <variant>

#include "files.hpp"
#include "io/json.hpp"

namespace fokker::tools {
namespace {

// As deep as results are, and more.
constexpr int deepest = 16;

Json json_of(const JsonValue& value) {
  if (const std::string* text = value.string()) return *text;
  if (const JsonValue::Array* array = value.array()) {
    Json list = Json::array();
    for (const JsonValue& item : *array) list.push_back(json_of(item));
    return list;
  }
  if (const JsonValue::Object* object = value.object()) {
    Json json = Json::object();
    // At the end of the list that it is: no key is there twice, and looking for one would take time quadratic in keys.
    Json::object_t::Container& members = json.get_ref<Json::object_t&>();
    for (const auto& [key, member] : *object) members.emplace_back(key, json_of(member));
    return json;
  }
  return std::visit(
      [](const auto& scalar) -> Json {
        if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(scalar)>>) return scalar;
        return nullptr;
      },
      value.value());
}

// What stands at `where` and is not as it should be; empty where all is.
std::string fault(const Json& json, const Json& shape, const std::string& where) {
  const auto below = [&](const std::string& key) { return where.empty() ? key : where + "." + key; };
  if (shape.is_object()) {
    if (!json.is_object()) return fmt::format("{} is no object", where.empty() ? "it" : where);
    for (const auto& [name, inner] : shape.items()) {
      const bool optional = name.back() == '?';
      const std::string key = optional ? name.substr(0, name.size() - 1) : name;
      const auto found = json.find(key);
      if (found == json.end() && !optional) return "it has no " + below(key);
      if (found == json.end() || (optional && found->is_null())) continue;
      if (std::string wrong = fault(*found, inner, below(key)); !wrong.empty()) return wrong;
    }
    return "";
  }
  if (shape.is_array()) {
    if (!json.is_array()) return where + " is no list";
    for (const Json& item : json) {
      if (std::string wrong = fault(item, shape.front(), where); !wrong.empty()) return wrong;
    }
    return "";
  }
  const std::string& kind = shape.get_ref<const std::string&>();
  const bool right = kind == "number" ? json.is_number() || json.is_null()
                     : kind == "text" ? json.is_string()
                                      : json.is_boolean();
  return right ? "" : fmt::format("{} is no {}", where, kind);
}

}  // namespace

Json read_json(const std::string& path) {
  const std::string text = read_text(path);
  try {
    return json_of(parse_json(text, "it", deepest));
  } catch (const Error& error) {
    throw Error(fmt::format("'{}' cannot be used: {}; remove it, or choose another --out", path, error.what()));
  }
}

std::string first_difference(const Json& found, const Json& wanted, const std::string& where_wanted) {
  const auto value_in = [](const Json& json, const std::string& key) {
    return json.is_object() && json.contains(key) ? json[key] : Json();
  };
  for (const Json* keys : {&wanted, &found}) {
    for (const auto& [key, any] : keys->items()) {
      const Json there = value_in(found, key), value = value_in(wanted, key);
      if (there == value) continue;
      if (value.is_object()) return fmt::format("{}.{}", key, first_difference(there, value, where_wanted));
      return fmt::format("{}: {} there, {} {}", key, there.dump(), value.dump(), where_wanted);
    }
  }
  return "other keys";
}

void check_shape(const Json& json, const Json& shape, const std::string& path, const std::string& advice) {
  const std::string wrong = fault(json, shape, "");
  if (!wrong.empty()) throw Error(fmt::format("'{}' is not as it was written: {}; {}", path, wrong, advice));
}

}  // namespace fokker::tools
