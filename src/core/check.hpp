#pragma once

// What public functions check of views, counts and objects before any work.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>

#include "fmt/format.h"
#include "fokker/error.hpp"
#include "fokker/view.hpp"

namespace fokker {

inline const char* name_of(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

// In place of a number of rows: any that is not negative.
constexpr std::int64_t any_rows = -1;

// Throws Error where `view` is not [rows, columns] on `device`, or larger than any memory. A view without rows holds
// nothing, so neither its columns nor its device matter.
template <class T>
void check_view(const std::string& what, const View<T>& view, std::int64_t rows, std::int64_t columns, Device device) {
  const bool rows_fit = view.rows >= 0 && (rows == any_rows || view.rows == rows);
  if (!rows_fit || (view.rows > 0 && view.columns != columns)) {
    const std::int64_t n = rows == any_rows ? view.rows : rows;
    throw Error(fmt::format("{} has shape [{}, {}]; allowed here: [{}, {}]", what, view.rows, view.columns,
                            n < 0 ? "N" : std::to_string(n), columns));
  }
  if (view.rows == 0) return;
  constexpr auto most = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(sizeof(T));
  if (view.columns < 0 || (view.columns > 0 && view.rows > most / view.columns)) {
    throw Error(fmt::format("{} has shape [{}, {}]; allowed: sizes of 0 or more that fit in memory", what, view.rows,
                            view.columns));
  }
  if (!view.data) throw Error(fmt::format("{} of shape [{}, {}] has no data", what, view.rows, view.columns));
  if (view.device != device) {
    throw Error(fmt::format("{} is on device {}; allowed here: {}, where the context is", what, name_of(view.device),
                            name_of(device)));
  }
}

// Throws Error where the conditions of `rows` points are not [rows, numbers], or are given to a model that takes none.
template <class T>
void check_condition(const View<const T>& condition, std::int64_t rows, std::int64_t numbers, Device device) {
  if (numbers == 0 && condition.rows > 0 && condition.columns > 0) {
    throw Error(fmt::format("a condition of shape [{}, {}] is given to a model that takes none", condition.rows,
                            condition.columns));
  }
  if (numbers > 0 && rows > 0 && !condition) {
    throw Error(
        fmt::format("no condition is given to a model that takes one of {0} numbers; allowed: one a point, [{1}, "
                    "{0}], or one for all by with_condition()",
                    numbers, rows));
  }
  if (numbers > 0) check_view("the condition", condition, rows, numbers, device);
}

// Memory that a call reads or writes; none for an empty view.
struct Extent {
  const char* what;
  const std::byte *begin, *end;

  template <class T>
  Extent(const char* name, const View<T>& view)
      : what(name),
        begin(reinterpret_cast<const std::byte*>(view.data)),
        end(begin + (view.data ? static_cast<std::size_t>(view.size()) * sizeof(T) : 0)) {}
};

// Throws Error where an output shares memory with an input or another output. To be called after check_view() of each.
inline void check_apart(std::initializer_list<Extent> outputs, std::initializer_list<Extent> inputs) {
  const auto check = [](const Extent& a, const Extent& b) {
    const std::less<const std::byte*> before;
    if (a.begin == a.end || b.begin == b.end || !before(a.begin, b.end) || !before(b.begin, a.end)) return;
    throw Error(fmt::format("{} and {} share memory; allowed: an output that overlaps nothing else", a.what, b.what));
  };
  for (const Extent* output = outputs.begin(); output != outputs.end(); ++output) {
    for (const Extent* other = outputs.begin(); other != output; ++other) check(*output, *other);
    for (const Extent& input : inputs) check(*output, input);
  }
}

// Throws Error where `value` is not from `least` to `most`.
inline void check_count(const char* what, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    throw Error(fmt::format("{} is {}; allowed: {} to {}", what, value, least, most));
  }
}

// What an object that can be moved holds. Throws Error where it was moved away.
template <class T>
T& held(const std::unique_ptr<T>& content, const char* type) {
  if (content == nullptr) {
    throw Error(
        fmt::format("a {0} that was moved from is used; allowed: a {0} that was not, or that was assigned to", type));
  }
  return *content;
}

}  // namespace fokker
