#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

namespace fokker {

enum class Device { cpu, cuda };

// A dense row-major matrix that somebody else owns; a vector is a matrix of one column. An empty view (no data) stands
// for "not wanted" or "not given".
template <class T>
struct View {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 1;
  Device device = Device::cpu;

  View() = default;
  View(T* first, std::int64_t n_rows, std::int64_t n_columns = 1, Device where = Device::cpu)
      : data(first), rows(n_rows), columns(n_columns), device(where) {}
  // A host vector as one column, or as rows of `n_columns` entries.
  template <class U>
    requires std::is_same_v<std::remove_const_t<T>, U>
  explicit View(std::vector<U>& v, std::int64_t n_columns = 1)
      : View(v.data(), static_cast<std::int64_t>(v.size()) / n_columns, n_columns) {}
  template <class U>
    requires(std::is_const_v<T> && std::is_same_v<std::remove_const_t<T>, U>)
  explicit View(const std::vector<U>& v, std::int64_t n_columns = 1)
      : View(v.data(), static_cast<std::int64_t>(v.size()) / n_columns, n_columns) {}

  operator View<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {data, rows, columns, device};
  }
  explicit operator bool() const { return data != nullptr; }
  std::int64_t size() const { return rows * columns; }
};

class Context;

// Owns a dense row-major matrix on the device of a context, aligned to 64 bytes and zeroed.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Context& context, std::int64_t rows, std::int64_t columns = 1);

  View<T> view() { return view_; }
  View<const T> view() const { return view_; }
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

}  // namespace fokker
