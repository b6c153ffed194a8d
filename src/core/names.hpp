#pragma once

// Names of an enumeration's values, read in both directions.
#include <span>
#include <string>
#include <string_view>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/error.hpp"

namespace fokker {

// A row has a name, a value and whatever else there is to say of it. The first row of a value has the name that it is
// written with; further ones have names that are read as it.
template <class Row, class E>
struct NameTable {
  std::string_view what;  // is named, in messages
  std::span<const Row> rows;
  E Row::*value;

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
  const Row& row(E of) const {
    for (const Row& row : rows) {
      if (row.*value == of) return row;
    }
    throw Error(fmt::format("{} number {} does not exist", what, static_cast<int>(of)));
  }
  E parse(std::string_view name) const { return row(name).*value; }
  std::string_view name(E of) const { return row(of).name; }
};

// A row with no more than name and value.
template <class E>
struct Named {
  std::string_view name;
  E value;
};

template <class E, std::size_t N>
constexpr NameTable<Named<E>, E> names(std::string_view what, const Named<E> (&rows)[N]) {
  return {what, rows, &Named<E>::value};
}

}  // namespace fokker
