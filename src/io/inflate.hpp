#pragma once

#include <cstddef>
#include <span>

namespace fokker {

// Whether this build was made with zlib, without which there is no inflate().
extern const bool has_zlib;

struct Inflated {
  std::size_t bytes = 0;  // written
  bool whole = false;     // the stream came to its end with them, at the end of what was given
};

// Writes the beginning of what a raw stream of DEFLATE (RFC 1951) stands for. Nothing is written of a stream that is
// damaged where that is found.
Inflated inflate(std::span<const std::byte> from, std::span<std::byte> to);

}  // namespace fokker
