#include "device_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <vector>

#include "streams.hpp"
#include "tests/sanitizer.hpp"

namespace fokker::emulated {
namespace {

constexpr std::size_t alignment = 256;

#if !defined(FOKKER_ASAN) && !defined(FOKKER_TSAN)
constexpr std::size_t page = 4096, piece = std::size_t{2} << 20, gap = std::size_t{64} << 10;

std::size_t rounded_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

// A file of NaN. Mapped privately it is memory whose pages cost nothing until they are written.
int open_nan() {
  const int file = memfd_create("nan", MFD_CLOEXEC);
  const std::vector<char> nan(piece, static_cast<char>(0xFF));
  if (file < 0 || write(file, nan.data(), nan.size()) != static_cast<ssize_t>(nan.size())) {
    fail("no memory for the file of NaN");
  }
  return file;
}
#endif

}  // namespace

#if defined(FOKKER_ASAN) || defined(FOKKER_TSAN)
void* take_device_memory(std::size_t bytes) {
  void* begin = nullptr;
  if (posix_memalign(&begin, alignment, bytes) != 0) return nullptr;
  return std::memset(begin, 0xFF, bytes);
}
void release_device_memory(void* begin, std::size_t bytes) {
  std::memset(begin, 0xFF, bytes);
  std::free(begin);
}
#else
// It ends where its last page does.
void* take_device_memory(std::size_t bytes) {
  static const int nan = open_nan();
  static std::atomic<std::uintptr_t> next = std::uintptr_t{1} << 44;  // far from what others map
  const std::size_t mapped = rounded_up(bytes, page);
  void* const hint = reinterpret_cast<void*>(next.fetch_add(mapped + gap));
  void* const memory = mmap(hint, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(memory);
  for (std::size_t at = 0; at < mapped; at += piece) {
    if (mmap(begin + at, std::min(piece, mapped - at), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
             nan, 0) == MAP_FAILED) {
      munmap(memory, mapped);
      return nullptr;
    }
  }
  return begin + (mapped - rounded_up(bytes, alignment));
}
void release_device_memory(void* begin, std::size_t bytes) {
  const std::size_t mapped = rounded_up(bytes, page);
  munmap(static_cast<char*>(begin) + rounded_up(bytes, alignment) - mapped, mapped);
}
#endif

void Allocations::add(void* begin, std::size_t bytes, int device) {
  const std::scoped_lock lock(mutex_);
  ++calls_;
  pieces_.emplace(static_cast<char*>(begin), Piece{bytes, device});
}

std::size_t Allocations::remove(void* begin) {
  const std::scoped_lock lock(mutex_);
  ++calls_;
  const auto found = pieces_.find(static_cast<char*>(begin));
  if (found == pieces_.end()) return 0;
  const std::size_t bytes = found->second.bytes;
  pieces_.erase(found);
  return bytes;
}

std::size_t Allocations::calls() const {
  const std::scoped_lock lock(mutex_);
  return calls_;
}

std::size_t Allocations::bytes() const {
  const std::scoped_lock lock(mutex_);
  std::size_t all = 0;
  for (const auto& [begin, piece_there] : pieces_) all += piece_there.bytes;
  return all;
}

std::size_t Allocations::bytes_from(const void* pointer) const {
  const std::scoped_lock lock(mutex_);
  auto above = pieces_.upper_bound(static_cast<const char*>(pointer));
  if (above == pieces_.begin()) return 0;
  const auto& [begin, found] = *--above;
  const auto offset = static_cast<std::size_t>(static_cast<const char*>(pointer) - begin);
  return offset < found.bytes ? found.bytes - offset : 0;
}

int Allocations::device_of(const void* pointer) const {
  const std::scoped_lock lock(mutex_);
  return std::prev(pieces_.upper_bound(static_cast<const char*>(pointer)))->second.device;
}

}  // namespace fokker::emulated
