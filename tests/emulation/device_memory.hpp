#pragma once

// Pieces of memory and where they lie, and device memory itself.
#include <cstddef>
#include <functional>
#include <map>
#include <mutex>

namespace fokker::emulated {

// Device memory of exactly `bytes`, aligned to 256 bytes, NaN where nothing was written; nullptr where there is not
// enough. What lies beyond it, and what is used after its release, ends the process: by AddressSanitizer, or because
// no address is given out twice and there is nothing around it, up to what the alignment leaves.
void* take_device_memory(std::size_t bytes);
void release_device_memory(void* begin, std::size_t bytes);

// Every piece of a kind of memory by its begin.
class Allocations {
 public:
  void add(void* begin, std::size_t bytes, int device = 0);
  // The piece's size; 0: there is none that begins here.
  std::size_t remove(void* begin);
  std::size_t calls() const;  // of both
  std::size_t bytes() const;
  // How much of the memory there is from here on; 0: not in it.
  std::size_t bytes_from(const void* pointer) const;
  int device_of(const void* pointer) const;  // of a piece that this is in

 private:
  mutable std::mutex mutex_;
  std::size_t calls_ = 0;
  struct Piece {
    std::size_t bytes;
    int device;
  };
  std::map<const char*, Piece, std::less<>> pieces_;
};

}  // namespace fokker::emulated
