#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {  // other libraries of this project call it

// A value of JSON from outside. It takes memory in proportion to the text it was read from, and ending it asks for
// none, so that memory which runs out while one is read is an exception like any other.
class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Object = std::vector<std::pair<std::string, JsonValue>>;  // in the order of the text
  using Value = std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::unique_ptr<std::string>,
                             std::unique_ptr<Array>, std::unique_ptr<Object>>;

  JsonValue() = default;
  explicit JsonValue(Value value) : value_(std::move(value)) {}

  const Value& value() const { return value_; }
  bool is_number() const { return value_.index() >= 2 && value_.index() <= 4; }
  // Null where it is of another type.
  const std::string* string() const { return inside<std::string>(); }
  const Array* array() const { return inside<Array>(); }
  const Object* object() const { return inside<Object>(); }
  Array* array() { return inside<Array>(); }
  Object* object() { return inside<Object>(); }
  const JsonValue* find(std::string_view key) const;  // null where it is no object or has no such key

  // As T: bool, std::int64_t, std::uint64_t, double (any number), std::string, and vectors of these. Throws Error that
  // begins with `name` where it is something else, be it a number that T does not hold.
  template <class T>
  T to(const std::string& name) const;
  // The same of the value of a key, which `name` is put before in messages. Throws Error also where there is none.
  template <class T>
  T get(const std::string& name, const char* key) const {
    return at(name, key).to<T>(name + " " + key);
  }
  const JsonValue& at(const std::string& name, const char* key) const;

  std::string dump() const;         // as JSON
  std::string description() const;  // for a message: a number, a text in quotes, "an array of 3"

 private:
  template <class T>
  T* inside() const {
    const auto* pointer = std::get_if<std::unique_ptr<T>>(&value_);
    return pointer ? pointer->get() : nullptr;
  }

  Value value_;
};

// JSON as strictly as a file format needs: well-formed UTF-8, no key twice in one object, no number out of range, no
// deeper than `deepest`; in time proportional to the text, but for the sorting of keys. `what` begins the message of
// the Error.
JsonValue parse_json(std::string_view text, const std::string& what, int deepest);

// Scalars and lists as JSON. A text that is not UTF-8 throws Error, or has its wrong bytes replaced.
enum class NotUtf8 { refused, replaced };
std::string json_text(std::string_view text, NotUtf8 wrong = NotUtf8::refused);
std::string json_text(bool value);
std::string json_text(double value);  // null where it is not finite
std::string json_text(std::int64_t value);
std::string json_text(std::uint64_t value);
std::string json_text(const std::vector<std::int64_t>& values);
std::string json_text(const std::vector<std::string>& values);

}  // namespace fokker
