#include "fokker/view.hpp"

#include <fmt/format.h>

#include <limits>

#include "core/check.hpp"
#include "core/operations.hpp"
#include "fokker/context.hpp"
#include "fokker/error.hpp"

namespace fokker {

std::int64_t view_rows(std::size_t size, std::int64_t columns) {
  if (columns < 1) throw Error(fmt::format("a view of {} columns asked for; allowed: 1 or more", columns));
  const auto n = static_cast<std::int64_t>(size);
  if (n % columns != 0) {
    throw Error(fmt::format("a view of {} numbers in rows of {} asked for; allowed: a multiple of it", n, columns));
  }
  return n / columns;
}

void check_slice(std::int64_t first, std::int64_t count, std::int64_t rows) {
  if (first >= 0 && count >= 0 && count <= rows - first) return;
  throw Error(fmt::format("{} rows from row {} on asked for of a view of {} rows; allowed: rows that it has", count,
                          first, rows));
}

template <class T>
Buffer<T>::Buffer(const Context& context, std::int64_t rows, std::int64_t columns) {
  constexpr auto most = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(2 * sizeof(T));
  if (rows < 0 || columns < 0 || (columns > 0 && rows > most / columns)) {
    throw Error(
        fmt::format("a buffer of {} x {} asked for; allowed: sizes of 0 or more that fit in memory", rows, columns));
  }
  storage_ = context.backend().allocate(static_cast<std::size_t>(rows * columns) * sizeof(T));
  view_ = {static_cast<T*>(storage_.get()), rows, columns, context.device()};
}

template class Buffer<float>;
template class Buffer<double>;

template <class T>
void copy(const Context& context, std::type_identity_t<View<const T>> from, View<T> to) {
  const auto check = [&](const char* what, View<const T> view) {
    check_view(fmt::format("{} of a copy", what), view, any_rows, view.columns,
               view.device == Device::cpu ? Device::cpu : context.device());
  };
  check("the source", from);
  check("the target", to);
  if (from.rows != to.rows || from.columns != to.columns) {
    throw Error(fmt::format("a copy from shape [{}, {}] to shape [{}, {}] asked for; allowed: two views of one shape",
                            from.rows, from.columns, to.rows, to.columns));
  }
  check_apart({{"the target of a copy", to}}, {{"its source", from}});
  if (to.size() > 0) context.backend().copy(from.data, to.data, static_cast<std::size_t>(to.size()) * sizeof(T));
}

// g++ does not take this from the declaration, as clang does.
template __attribute__((visibility("default"))) void copy<float>(const Context&, View<const float>, View<float>);
template __attribute__((visibility("default"))) void copy<double>(const Context&, View<const double>, View<double>);

}  // namespace fokker
