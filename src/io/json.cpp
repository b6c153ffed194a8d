#include "io/json.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"

namespace fokker {
namespace {

// Builds the value from the events of the library's parser. The library's own values are not used: ending one of them
// allocates, which ends the process where there is no memory, and so does parsing with a callback, which besides takes
// time quadratic in siblings.
class Builder {
 public:
  Builder(std::string what, int deepest) : what_(std::move(what)), deepest_(static_cast<std::size_t>(deepest)) {}

  JsonValue take() { return std::move(root_); }

  bool null() { return add(JsonValue()); }
  bool boolean(bool value) { return add(JsonValue(JsonValue::Value(value))); }
  bool number_integer(std::int64_t value) { return add(JsonValue(JsonValue::Value(value))); }
  bool number_unsigned(std::uint64_t value) { return add(JsonValue(JsonValue::Value(value))); }
  bool number_float(double value, const std::string&) { return add(JsonValue(JsonValue::Value(value))); }
  bool string(std::string& value) {
    return add(JsonValue(JsonValue::Value(std::make_unique<std::string>(std::move(value)))));
  }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(JsonValue::Value(std::make_unique<JsonValue::Object>())); }
  bool start_array(std::size_t) { return open(JsonValue::Value(std::make_unique<JsonValue::Array>())); }
  bool key(std::string& key) {
    open_.back()->object()->emplace_back(std::move(key), JsonValue());
    return true;
  }
  bool end_array() {
    open_.pop_back();
    return true;
  }
  bool end_object() {
    const JsonValue::Object& object = *open_.back()->object();
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : object) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) throw Error(fmt::format("{} holds the key {} twice", what_, in_quotes(*twice)));
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
    constexpr int out_of_range = 406;
    if (error.id == out_of_range) throw Error(what_ + " is not valid JSON: a number in it is out of range");
    throw Error(fmt::format("{} is not valid JSON at byte {}", what_, position));
  }

 private:
  // A value that is open does not move: what it lies in grows only once it is closed.
  bool open(JsonValue::Value value) {
    if (open_.size() >= deepest_) throw Error(fmt::format("{} is nested more than {} deep", what_, deepest_));
    open_.push_back(&place(JsonValue(std::move(value))));
    return true;
  }
  bool add(JsonValue value) {
    place(std::move(value));
    return true;
  }
  JsonValue& place(JsonValue value) {
    if (open_.empty()) return root_ = std::move(value);
    if (JsonValue::Array* array = open_.back()->array()) return array->emplace_back(std::move(value));
    return open_.back()->object()->back().second = std::move(value);
  }

  std::string what_;
  std::size_t deepest_;
  JsonValue root_;
  std::vector<JsonValue*> open_;
};

template <class T>
constexpr const char* name_of_type = nullptr;
template <>
constexpr const char* name_of_type<bool> = "true or false";
template <>
constexpr const char* name_of_type<double> = "a number";
template <>
constexpr const char* name_of_type<std::int64_t> = "an integer of 64 bits";
template <>
constexpr const char* name_of_type<std::uint64_t> = "a non-negative integer of 64 bits";
template <>
constexpr const char* name_of_type<std::string> = "a string";

template <class T>
std::optional<T> convert(const JsonValue& json) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (const std::string* text = json.string()) return *text;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (const bool* value = std::get_if<bool>(&json.value())) return *value;
  } else {
    return std::visit(
        [](const auto& value) -> std::optional<T> {
          using V = std::remove_cvref_t<decltype(value)>;
          if constexpr (std::is_same_v<T, double> && (std::is_same_v<V, double> || std::is_same_v<V, std::int64_t> ||
                                                      std::is_same_v<V, std::uint64_t>)) {
            return static_cast<double>(value);
          } else if constexpr (std::is_same_v<V, std::int64_t> || std::is_same_v<V, std::uint64_t>) {
            if (std::in_range<T>(value)) return static_cast<T>(value);
          }
          return {};
        },
        json.value());
  }
  return {};
}

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
  if (object() == nullptr) return nullptr;
  for (const auto& [name, value] : *object()) {
    if (name == key) return &value;
  }
  return nullptr;
}

const JsonValue& JsonValue::at(const std::string& name, const char* key) const {
  if (object() == nullptr) throw Error(fmt::format("{} is {} where an object is needed", name, description()));
  const JsonValue* value = find(key);
  if (value == nullptr) throw Error(fmt::format("{} has no {}", name, key));
  return *value;
}

template <class T>
T JsonValue::to(const std::string& name) const {
  if constexpr (requires { typename T::value_type; } && !std::is_same_v<T, std::string>) {
    if (array() == nullptr) throw Error(fmt::format("{} is {} where an array is needed", name, description()));
    T values;
    for (const JsonValue& item : *array()) values.push_back(item.to<typename T::value_type>(name));
    return values;
  } else {
    if (std::optional<T> value = convert<T>(*this)) return *std::move(value);
    throw Error(fmt::format("{} is {} where {} is needed", name, description(), name_of_type<T>));
  }
}
template bool JsonValue::to(const std::string&) const;
template double JsonValue::to(const std::string&) const;
template std::int64_t JsonValue::to(const std::string&) const;
template std::uint64_t JsonValue::to(const std::string&) const;
template std::string JsonValue::to(const std::string&) const;
template std::vector<double> JsonValue::to(const std::string&) const;
template std::vector<std::int64_t> JsonValue::to(const std::string&) const;
template std::vector<std::string> JsonValue::to(const std::string&) const;

std::string JsonValue::dump() const {
  std::string text;
  if (const Array* items = array()) {
    for (const JsonValue& item : *items) text += fmt::format("{}{}", text.empty() ? "" : ",", item.dump());
    return fmt::format("[{}]", text);
  }
  if (const Object* members = object()) {
    for (const auto& [key, value] : *members) {
      text += fmt::format("{}{}:{}", text.empty() ? "" : ",", json_text(key), value.dump());
    }
    return fmt::format("{{{}}}", text);
  }
  if (string() != nullptr) return json_text(*string());
  return std::visit(
      [&](const auto& value) -> std::string {
        if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(value)>>) return json_text(value);
        return "null";
      },
      value_);
}

std::string JsonValue::description() const {
  if (array() != nullptr) return fmt::format("an array of {}", array()->size());
  if (object() != nullptr) return fmt::format("an object of {}", object()->size());
  if (string() != nullptr) return in_quotes(*string(), 40);
  return dump();
}

JsonValue parse_json(std::string_view text, const std::string& what, int deepest) {
  // The library's lexer takes a zero byte for the end of the text and would not see what follows.
  if (text.find('\0') != std::string_view::npos) throw Error(what + " is not JSON: it holds a zero byte");
  Builder builder(what, deepest);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

// The library's scalars, which end without asking for memory.
std::string json_text(std::string_view text, NotUtf8 wrong) {
  using Handler = nlohmann::json::error_handler_t;
  try {
    return nlohmann::json(text).dump(-1, ' ', false, wrong == NotUtf8::refused ? Handler::strict : Handler::replace);
  } catch (const nlohmann::json::exception&) {
    throw Error(fmt::format("{} is not UTF-8", in_quotes(text, 60)));
  }
}
std::string json_text(bool value) { return value ? "true" : "false"; }
std::string json_text(double value) { return nlohmann::json(value).dump(); }
std::string json_text(std::int64_t value) { return std::to_string(value); }
std::string json_text(std::uint64_t value) { return std::to_string(value); }

namespace {
template <class T>
std::string list_text(const std::vector<T>& values) {
  std::string text;
  for (const T& value : values) text += fmt::format("{}{}", text.empty() ? "" : ",", json_text(value));
  return fmt::format("[{}]", text);
}
}  // namespace
std::string json_text(const std::vector<std::int64_t>& values) { return list_text(values); }
std::string json_text(const std::vector<std::string>& values) { return list_text(values); }

}  // namespace fokker
