#pragma once

// How a workspace is laid out.
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fokker::cuda {

// Parts of one allocation, each from a multiple of 256 bytes. Without memory it counts.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}
  template <class V>
  V* take(std::int64_t count) {
    char* const part = base_ ? base_ + used_ : nullptr;
    used_ += (static_cast<std::size_t>(count) * sizeof(V) + 255) / 256 * 256;
    return reinterpret_cast<V*>(part);
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

// An array [rows, stride] of each hidden layer; nullptr where it is not wanted.
template <class T>
using Planes = std::vector<T*>;

// Rows of numbers on the device, `stride` from one to the next.
template <class T>
struct Rows {
  const T* data = nullptr;
  std::int64_t stride = 0;
};

}  // namespace fokker::cuda
