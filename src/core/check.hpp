#pragma once

// What every public function that takes views checks of them before any work.
#include <cstdint>
#include <string>

#include "fmt/format.h"
#include "fokker/error.hpp"
#include "fokker/view.hpp"

namespace fokker {

inline const char* name_of(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

// In place of a number of rows: any that is not negative.
constexpr std::int64_t any_rows = -1;

// Throws Error where `view` is not [rows, columns] on `device`. A view without rows holds nothing, so neither its
// columns nor its device matter.
template <class T>
void check_view(const std::string& what, const View<T>& view, std::int64_t rows, std::int64_t columns, Device device) {
  const bool rows_fit = view.rows >= 0 && (rows == any_rows || view.rows == rows);
  if (!rows_fit || (view.rows > 0 && view.columns != columns)) {
    const std::int64_t n = rows == any_rows ? view.rows : rows;
    throw Error(fmt::format("{} has shape [{}, {}]; allowed here: [{}, {}]", what, view.rows, view.columns,
                            n < 0 ? "N" : std::to_string(n), columns));
  }
  if (view.rows == 0) return;
  if (!view.data) throw Error(fmt::format("{} of shape [{}, {}] has no data", what, view.rows, view.columns));
  if (view.device != device) {
    throw Error(fmt::format("{} is on device {}; allowed here: {}, where the context is", what, name_of(view.device),
                            name_of(device)));
  }
}

}  // namespace fokker
