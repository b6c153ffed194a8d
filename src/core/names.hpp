#pragma once

// Names of an enumeration's values, read in both directions.
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"

namespace fokker {

// A row has a name, whatever else there is to say, and by value_of(row) a value. The first row of a value has the name
// that it is written with; further ones have names that are read as it.
template <class Row, class ValueOf>
struct NameTable {
  using Value = std::remove_cvref_t<std::invoke_result_t<ValueOf, const Row&>>;

  std::string_view what;  // is named, in messages
  std::span<const Row> rows;
  ValueOf value_of;

  // Throws Error, with the names there are.
  const Row& row(std::string_view name) const {
    std::string allowed;
    for (const Row& row : rows) {
      if (row.name == name) return row;
      allowed += (allowed.empty() ? "" : ", ") + std::string(row.name);
    }
    throw Error(fmt::format("unknown {} {}: allowed are {}", what, in_quotes(name), allowed));
  }
  // Throws Error where no row has the value.
  const Row& row(Value value) const {
    for (const Row& row : rows) {
      if (std::invoke(value_of, row) == value) return row;
    }
    throw Error(fmt::format("{} number {} does not exist", what, static_cast<int>(value)));
  }
  Value parse(std::string_view name) const { return std::invoke(value_of, row(name)); }
  std::string_view name(Value value) const { return row(value).name; }
};

// A row with no more than name and value, and the table of such.
template <class E>
struct Named {
  std::string_view name;
  E value;
};
template <class E, std::size_t N>
constexpr auto names(std::string_view what, const Named<E> (&rows)[N]) {
  return NameTable<Named<E>, E Named<E>::*>{what, rows, &Named<E>::value};
}

}  // namespace fokker
