#pragma once

// ZIP archives and .npy files, byte by byte as their formats say, for tests of what reads them.
#include <cstdint>
#include <string>
#include <vector>

namespace fokker::testing {

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// The lowest bytes of a number, the lowest first.
inline std::string little(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> 8 * i & 0xff);
  return text;
}

inline std::string npy(const std::string& dictionary, const std::string& data, char major = 1) {
  return "\x93NUMPY" + std::string{major, '\0'} + little(dictionary.size(), major == 1 ? 2 : 4) + dictionary + data;
}

inline std::string npy_of(const std::string& descr, const std::string& shape, const std::string& data) {
  return npy("{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n", data);
}

// CRC-32 by its definition: the remainder of the bits, the lowest of each byte first.
inline std::uint32_t crc32_of(const std::string& bytes) {
  std::uint32_t remainder = 0xFFFFFFFF;
  for (const char byte : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool odd = (remainder ^ static_cast<unsigned char>(byte) >> bit) & 1;
      remainder = remainder >> 1 ^ (odd ? 0xEDB88320u : 0);
    }
  }
  return ~remainder;
}

// A stream of DEFLATE whose blocks hold their bytes as they are.
inline std::string deflated(const std::string& bytes, std::size_t block = 50) {
  std::string stream;
  std::size_t at = 0;
  do {
    const std::string piece = bytes.substr(at, block);
    at += piece.size();
    stream += static_cast<char>(at == bytes.size() ? 1 : 0);
    stream += little(piece.size(), 2) + little(~piece.size(), 2) + piece;
  } while (at < bytes.size());
  return stream;
}

struct ArchiveMember {
  std::string name, bytes;  // whole
  bool compressed = false;
  bool wide = false;  // its numbers stand in extra fields of 8 bytes
  int flags = 0, method = compressed ? 8 : 0;
  std::uint64_t declared = bytes.size();  // what the directory says of its size
  std::string data = compressed ? deflated(bytes) : bytes;
  std::uint32_t crc = crc32_of(bytes);
};

struct ArchiveOptions {
  std::string comment = {};
  bool wide = false;  // the directory's place and count stand in an end of its own
};

inline std::string archive(const std::vector<ArchiveMember>& members, const ArchiveOptions& options = {}) {
  std::string file, directory;
  for (const ArchiveMember& m : members) {
    const std::uint64_t place = file.size();
    const std::string moment(4, '\0');
    // As Python's zipfile writes them where it does not know the size yet, the headers before members hold none.
    file += "PK\3\4" + little(45, 2) + little(m.flags, 2) + little(m.method, 2) + moment + little(0, 4) +
            little(0xFFFFFFFF, 4) + little(0xFFFFFFFF, 4) + little(m.name.size(), 2) + little(20, 2) + m.name +
            little(1, 2) + little(16, 2) + little(0, 8) + little(0, 8) + m.data;
    const std::string other = little(0x5455, 2) + little(1, 2) + "\7",
                      extra = m.wide ? other + little(1, 2) + little(24, 2) + little(m.declared, 8) +
                                           little(m.data.size(), 8) + little(place, 8)
                                     : other;
    const auto number = [&](std::uint64_t value) { return little(m.wide ? 0xFFFFFFFF : value, 4); };
    directory += "PK\1\2" + little(45, 2) + little(45, 2) + little(m.flags, 2) + little(m.method, 2) + moment +
                 little(m.crc, 4) + number(m.data.size()) + number(m.declared) + little(m.name.size(), 2) +
                 little(extra.size(), 2) + little(3, 2) + little(0, 2) + little(0, 2) + little(0, 4) + number(place) +
                 m.name + extra + "abc";
  }
  const std::uint64_t place = file.size(), count = members.size(), end = place + directory.size();
  file += directory;
  if (options.wide) {
    file += "PK\6\6" + little(44, 8) + little(45, 2) + little(45, 2) + little(0, 4) + little(0, 4) + little(count, 8) +
            little(count, 8) + little(directory.size(), 8) + little(place, 8);
    file += "PK\6\7" + little(0, 4) + little(end, 8) + little(1, 4);
  }
  const std::uint64_t shown = options.wide ? 0xFFFF : count, where = options.wide ? 0xFFFFFFFF : place;
  return file + "PK\5\6" + little(0, 2) + little(0, 2) + little(shown, 2) + little(shown, 2) +
         little(directory.size(), 4) + little(where, 4) + little(options.comment.size(), 2) + options.comment;
}

}  // namespace fokker::testing
