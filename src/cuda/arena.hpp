#pragma once

// How a workspace is laid out.
#include <algorithm>
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

// How many rows of a workspace go through at a time: what 8 MiB take, in steps of 256 and never fewer, for a network's
// products of fewer would be slow. bytes_of(rows): of that many.
template <class BytesOf>
std::int64_t workspace_rows(const BytesOf& bytes_of) {
  constexpr std::size_t limit = std::size_t{8} << 20;
  constexpr std::int64_t fewest = 256;
  return std::max(fewest, static_cast<std::int64_t>(limit / bytes_of(fewest)) * fewest);
}

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
