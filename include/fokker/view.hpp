#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

enum class Device { cpu, cuda };

// Internal: throws Error where `size` numbers do not fill rows of `columns`, and otherwise returns the number of rows.
std::int64_t view_rows(std::size_t size, std::int64_t columns);
// Internal: throws Error where rows first … first + count − 1 are not among `rows`.
void check_slice(std::int64_t first, std::int64_t count, std::int64_t rows);

// A dense row-major matrix [rows, columns] that somebody else owns, on the host or on a device; a vector is a matrix of
// one column. T is the type of an entry, const where the view is only read. An empty view (no data) stands for "not
// wanted" or "not given".
template <class T>
struct View {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 1;
  Device device = Device::cpu;

  View() = default;
  View(T* first, std::int64_t n_rows, std::int64_t n_columns = 1, Device where = Device::cpu)
      : data(first), rows(n_rows), columns(n_columns), device(where) {}
  // A vector, array or span of the host, as rows of `n_columns` entries. Throws Error where its size is no multiple of
  // n_columns, or n_columns is below 1.
  explicit View(std::span<T> values, std::int64_t n_columns = 1)
      : View(values.data(), view_rows(values.size(), n_columns), n_columns) {}
  // A temporary would be gone before its view is used: give it a name.
  template <class U>
  View(std::vector<U>&& temporary, std::int64_t n_columns = 1) = delete;
  template <class U>
  View(const std::vector<U>&& temporary, std::int64_t n_columns = 1) = delete;
  template <class U, std::size_t N>
  View(std::array<U, N>&& temporary, std::int64_t n_columns = 1) = delete;
  template <class U, std::size_t N>
  View(const std::array<U, N>&& temporary, std::int64_t n_columns = 1) = delete;
  // A view that may write, as one that only reads.
  template <class U>
  requires(!std::is_const_v<U> && std::is_same_v<const U, T>) View(const View<U>& other)
      : View(other.data, other.rows, other.columns, other.device) {}

  explicit operator bool() const { return data != nullptr; }
  std::int64_t size() const { return rows * columns; }
  // Rows first … first + count − 1. Throws Error where some of them are not there.
  View slice(std::int64_t first, std::int64_t count) const {
    check_slice(first, count, rows);
    return {data + first * columns, count, columns, device};
  }
};

template <class U>
View(std::vector<U>&, std::int64_t = 1) -> View<U>;
template <class U>
View(const std::vector<U>&, std::int64_t = 1) -> View<const U>;
template <class U, std::size_t N>
View(std::array<U, N>&, std::int64_t = 1) -> View<U>;
template <class U, std::size_t N>
View(const std::array<U, N>&, std::int64_t = 1) -> View<const U>;
template <class U, std::size_t N>
View(std::span<U, N>, std::int64_t = 1) -> View<U>;

class Context;

// Owns a dense row-major matrix [rows, columns] on the device of a context, aligned to 64 bytes and zeroed, for T = float
// and double. It moves and does not copy, stands for its view where one is taken, and leaves an empty one where it was
// moved from.
template <class T>
class Buffer {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "a Buffer holds float or double");

 public:
  Buffer() = default;
  // Throws Error where a size is negative or does not fit in memory.
  Buffer(const Context& context, std::int64_t rows, std::int64_t columns = 1);
  Buffer(Buffer&& other) noexcept : storage_(std::move(other.storage_)), view_(std::exchange(other.view_, {})) {}
  Buffer& operator=(Buffer&& other) noexcept {
    storage_ = std::move(other.storage_);
    view_ = std::exchange(other.view_, {});
    return *this;
  }

  View<T> view() { return view_; }
  View<const T> view() const { return view_; }
  operator View<T>() & { return view_; }
  operator View<const T>() const& { return view_; }
  operator View<const T>() && = delete;  // a temporary would be gone before the view is used
  T* data() { return view_.data; }
  const T* data() const { return view_.data; }
  std::int64_t rows() const { return view_.rows; }
  std::int64_t columns() const { return view_.columns; }
  std::int64_t size() const { return view_.size(); }

 private:
  std::shared_ptr<void> storage_;
  View<T> view_;
};

// Copies `from` to `to`, for T = float and double: each is on the host or on the context's device, their shapes are the
// same, and they do not overlap. On the CPU the copy has finished at return; on the CUDA backend it is queued on the
// context's stream, and both sides belong to it until Context::synchronize(). Throws Error.
template <class T>
void copy(const Context& context, std::type_identity_t<View<const T>> from, View<T> to);
template <class T>
void copy(const Context& context, std::type_identity_t<View<const T>> from, Buffer<T>& to) {
  copy<T>(context, from, to.view());
}

}  // namespace fokker
