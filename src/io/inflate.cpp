#include "io/inflate.hpp"

#ifdef FOKKER_WITH_ZLIB

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <new>

namespace fokker {
namespace {

struct Stream {
  z_stream state = {};

  Stream() {
    constexpr int raw = -15;  // neither zlib's header nor gzip's, windows of 2^15 bytes
    if (::inflateInit2(&state, raw) != Z_OK) throw std::bad_alloc();
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { ::inflateEnd(&state); }
};

// zlib counts in 32 bits.
uInt piece(std::size_t bytes) {
  return static_cast<uInt>(std::min<std::size_t>(bytes, std::numeric_limits<uInt>::max()));
}

}  // namespace

const bool has_zlib = true;

Inflated inflate(std::span<const std::byte> from, std::span<std::byte> to) {
  Stream stream;
  z_stream& z = stream.state;
  const std::size_t all = to.size();
  for (;;) {
    z.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(from.data()));
    z.avail_in = piece(from.size());
    z.next_out = reinterpret_cast<Bytef*>(to.data());
    z.avail_out = piece(to.size());
    const uInt in = z.avail_in, out = z.avail_out;
    const int result = ::inflate(&z, Z_NO_FLUSH);
    if (result == Z_MEM_ERROR) throw std::bad_alloc();
    from = from.subspan(in - z.avail_in);
    to = to.subspan(out - z.avail_out);
    if (result != Z_OK || to.empty()) return {all - to.size(), result == Z_STREAM_END && from.empty()};
  }
}

}  // namespace fokker

#else

namespace fokker {

const bool has_zlib = false;

Inflated inflate(std::span<const std::byte>, std::span<std::byte>) { return {}; }

}  // namespace fokker

#endif
