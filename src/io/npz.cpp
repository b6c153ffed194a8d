#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/quote.hpp"
#include "fokker/array.hpp"
#include "fokker/error.hpp"
#include "io/array_formats.hpp"
#include "io/file.hpp"
#include "io/inflate.hpp"

// The format: a ZIP archive (PKWARE's APPNOTE.TXT) of .npy files. At its end lies a directory, which is all that is gone
// by: the headers before the members repeat it, and writers that do not know a size yet leave it out there.
//
//   member      "PK\3\4", …, at 26 lengths of name and extra (2 bytes each); both of these, from 30 on; the data
//   directory   an entry a member: "PK\1\2", …, at 8 flags, method (2 each), at 16 CRC-32, compressed and whole size (4
//               each), at 28 lengths of name, extra and comment (2 each), at 42 the member's place (4); all three, from 46
//   its end     "PK\5\6", …, at 10 the entries (2), their bytes and their place (4 each), length of a comment (2); that
//
// Where a number is too large for its field, that is filled with ones, and the number stands in 8 bytes in the entry's
// extra field of kind 1, or in another end of the directory: "PK\6\6", …, at 32 the same three, which "PK\6\7", …, at 8
// its place, leads to from 20 bytes before the end.
namespace fokker {
namespace {

struct Member {
  std::string name = {};
  bool compressed = false;
  std::uint32_t checksum = 0;
  std::uint64_t bytes = 0;               // of the file that it holds
  std::span<const std::byte> data = {};  // as they are stored
};

constexpr std::size_t header_bytes = 4096;  // of a .npy file that are looked at before the rest is read
constexpr std::uint64_t always_allowed = std::uint64_t{1} << 26, most_expansion = 200;

// CRC-32 of bytes that follow those of the CRC-32 `before`, eight at a time: `tables[k][b]` is what byte b comes to by k
// more bytes of zero.
std::uint32_t checksum_of(std::span<const std::byte> bytes, std::uint32_t before = 0) {
  static constexpr auto tables = [] {
    std::array<std::array<std::uint32_t, 256>, 8> t{};
    for (std::uint32_t b = 0; b < 256; ++b) {
      t[0][b] = b;
      for (int bit = 0; bit < 8; ++bit) t[0][b] = t[0][b] >> 1 ^ (t[0][b] & 1 ? 0xEDB88320u : 0);
    }
    for (std::size_t k = 1; k < 8; ++k) {
      for (std::size_t b = 0; b < 256; ++b) t[k][b] = t[k - 1][b] >> 8 ^ t[0][t[k - 1][b] & 255];
    }
    return t;
  }();
  std::uint32_t crc = ~before;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    std::uint64_t eight;
    std::memcpy(&eight, bytes.data(), 8);
    eight ^= crc;
    crc = 0;
    for (std::size_t i = 0; i < 8; ++i) crc ^= tables[7 - i][eight >> 8 * i & 255];
  }
  for (const std::byte byte : bytes) crc = crc >> 8 ^ tables[0][(crc ^ std::to_integer<std::uint32_t>(byte)) & 255];
  return ~crc;
}

class Archive {
 public:
  Archive(std::span<const std::byte> file, const std::string& subject) : file_(file), subject_(subject) {
    auto [count, place] = find_directory();
    // Each entry takes 46 bytes of the file, so the count needs no other bound.
    for (std::uint64_t i = 0; i < count; ++i) place = read_entry(place);
  }

  const std::vector<Member>& members() const { return members_; }

  // The first bytes of a member, at most that many.
  std::vector<std::byte> beginning(const Member& member, std::size_t at_most) const {
    const std::size_t bytes = static_cast<std::size_t>(std::min<std::uint64_t>(member.bytes, at_most));
    if (!member.compressed) return {member.data.begin(), member.data.begin() + static_cast<std::ptrdiff_t>(bytes)};
    std::vector<std::byte> found(bytes);
    found.resize(inflate(member.data, found).bytes);
    return found;
  }

 private:
  struct Directory {
    std::uint64_t count, place;
  };

  Error broken(const char* what) const {
    return Error(fmt::format("{}: it is a damaged or cut .npz file ({})", subject_, what));
  }

  // A number of the file. Throws Error where it ends before.
  template <class T>
  T number(std::uint64_t at) const {
    if (at > file_.size() || file_.size() - at < sizeof(T)) throw broken("it ends within its directory");
    T value;
    std::memcpy(&value, file_.data() + at, sizeof(T));
    return value;
  }
  std::span<const std::byte> bytes(std::uint64_t at, std::uint64_t count) const {
    if (at > file_.size() || file_.size() - at < count) throw broken("what its directory names is not there");
    return file_.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count));
  }
  static constexpr std::uint32_t mark(int third, int fourth) { return 0x4B50u | third << 16 | fourth << 24; }

  Directory find_directory() const {
    constexpr std::size_t end_bytes = 22, most_comment = 0xFFFF;
    for (std::size_t back = end_bytes; back <= std::min(file_.size(), end_bytes + most_comment); ++back) {
      const std::uint64_t at = file_.size() - back;
      if (number<std::uint32_t>(at) != mark(5, 6) || number<std::uint16_t>(at + 20) != back - end_bytes) continue;
      const Directory directory{number<std::uint16_t>(at + 10), number<std::uint32_t>(at + 16)};
      if (directory.count != 0xFFFF && directory.place != 0xFFFFFFFF) return directory;
      if (at < 20 || number<std::uint32_t>(at - 20) != mark(6, 7)) return directory;
      const auto wide = number<std::uint64_t>(at - 12);
      if (number<std::uint32_t>(wide) != mark(6, 6)) throw broken("its directory has no end");
      return {number<std::uint64_t>(wide + 32), number<std::uint64_t>(wide + 48)};
    }
    throw broken("its directory has no end");
  }

  // Returns the place of the next.
  std::uint64_t read_entry(std::uint64_t at) {
    if (number<std::uint32_t>(at) != mark(1, 2)) throw broken("its directory is not where it should be");
    const std::uint64_t name_bytes = number<std::uint16_t>(at + 28), extra_bytes = number<std::uint16_t>(at + 30),
                        comment_bytes = number<std::uint16_t>(at + 32);
    const auto name = bytes(at + 46, name_bytes), extra = bytes(at + 46 + name_bytes, extra_bytes);
    std::uint64_t stored = number<std::uint32_t>(at + 20), whole = number<std::uint32_t>(at + 24),
                  place = number<std::uint32_t>(at + 42);
    replace_by_wide(extra, {&whole, &stored, &place});
    const auto flags = number<std::uint16_t>(at + 8), method = number<std::uint16_t>(at + 10);
    Member member{.name = {reinterpret_cast<const char*>(name.data()), name.size()},
                  .compressed = method != 0,
                  .checksum = number<std::uint32_t>(at + 16),
                  .bytes = whole};
    const std::uint64_t next = at + 46 + name_bytes + extra_bytes + comment_bytes;
    constexpr std::string_view extension = ".npy";
    if (!member.name.ends_with(extension)) return next;  // no array
    member.name.resize(member.name.size() - extension.size());
    const auto refuse = [&](const char* what) {
      return Error(
          fmt::format("{}: its array {} is {}, allowed are those that numpy.savez and numpy.savez_compressed "
                      "write",
                      subject_, in_quotes(member.name, 40), what));
    };
    if (flags & 1) throw refuse("encrypted");
    if (method == 8 && !has_zlib) {
      throw Error(
          fmt::format("{}: its array {} is compressed, and this build was made without zlib; numpy.savez writes "
                      "arrays as they are",
                      subject_, in_quotes(member.name, 40)));
    }
    if (method != 0 && method != 8) throw refuse("compressed by another method than DEFLATE");
    if (number<std::uint32_t>(place) != mark(3, 4)) throw broken("an array is not where it should be");
    const std::uint64_t data = place + 30 + number<std::uint16_t>(place + 26) + number<std::uint16_t>(place + 28);
    member.data = bytes(data, stored);
    if (!member.compressed && stored != whole) throw broken("an array has two sizes");
    members_.push_back(std::move(member));
    return next;
  }

  // Those of the numbers that are all ones stand, in their order, in the extra field of kind 1.
  void replace_by_wide(std::span<const std::byte> extra, std::array<std::uint64_t*, 3> numbers) const {
    while (extra.size() >= 4) {
      std::uint16_t kind, length;
      std::memcpy(&kind, extra.data(), 2);
      std::memcpy(&length, extra.data() + 2, 2);
      extra = extra.subspan(4);
      if (length > extra.size()) return;
      if (kind == 1) {
        auto field = extra.first(length);
        for (std::uint64_t* wide : numbers) {
          if (*wide != 0xFFFFFFFF || field.size() < 8) continue;
          std::memcpy(wide, field.data(), 8);
          field = field.subspan(8);
        }
        return;
      }
      extra = extra.subspan(length);
    }
  }

  std::span<const std::byte> file_;
  const std::string& subject_;
  std::vector<Member> members_;
};

// The names as a list that leaves room for the rest of a message.
std::string list_of(const std::vector<Member>& members) {
  std::string list;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const std::string name = in_quotes(members[i].name, 30);
    if (list.size() + name.size() > 120) return list + fmt::format(" and {} more", members.size() - i);
    list += (i == 0 ? "" : ", ") + name;
  }
  return list;
}

const Member& choose(const Archive& archive, const ArrayName& name, const std::string& subject) {
  const std::vector<Member>& members = archive.members();
  if (members.empty()) throw Error(subject + ": it is an archive without a .npy file, and so no .npz");
  const Member* chosen = nullptr;
  int found = 0;
  const auto take = [&](const Member& member) { chosen = &member, ++found; };
  if (!name.member.empty()) {
    for (const Member& member : members) {
      if (name.member == member.name || name.member == member.name + ".npy") take(member);
    }
    if (found == 1) return *chosen;
    throw Error(fmt::format("{}: it has {} array {}; there are {}", subject, found == 0 ? "no" : "more than one",
                            in_quotes(name.member, 40), list_of(members)));
  }
  if (members.size() == 1) return members[0];
  for (const Member& member : members) {
    try {
      const std::vector<std::byte> first = archive.beginning(member, header_bytes);
      if (read_npy_header(first, std::max<std::uint64_t>(member.bytes, first.size()), subject, 2).shape.size() == 2)
        take(member);
    } catch (const Error&) {
      // Not what is looked for; another may be.
    }
  }
  if (found == 1) return *chosen;
  throw Error(fmt::format("{}: it holds {} arrays, of which {} have two dimensions: {}; name one, as FILE.npz:{}",
                          subject, members.size(), found == 0 ? "none" : fmt::format("{}", found), list_of(members),
                          printable(members[0].name, 30)));
}

}  // namespace

Array read_npz(std::span<const std::byte> file, const ArrayName& name, const std::string& subject,
               std::size_t most_dimensions) {
  const Archive archive(file, subject);
  const Member& member = choose(archive, name, subject);
  const std::string of_member =
      fmt::format("array {} of {} cannot be used", in_quotes(member.name, 40), in_quotes(name.file, 80));
  const auto fail = [&](const std::string& why) { return Error(fmt::format("{}: {}", of_member, why)); };
  const auto check = [&](std::span<const std::byte> contents) {
    if (checksum_of(contents) != member.checksum) throw fail("its bytes are not those that were written (CRC-32)");
  };
  if (!member.compressed) {
    check(member.data);
    return read_npy(member.data, of_member, most_dimensions);
  }
  // The size is the file's word until the header of the array bears it out, and memory is taken for what may be.
  const std::vector<std::byte> first = archive.beginning(member, header_bytes);
  if (first.size() < std::min<std::uint64_t>(member.bytes, header_bytes))
    throw fail("its compressed bytes are damaged");
  read_npy_header(first, member.bytes, of_member, most_dimensions);
  if (member.bytes > always_allowed && member.bytes / most_expansion > member.data.size()) {
    throw fail(fmt::format("{} bytes are to become {}, more than {} times as many; numpy.savez writes them as they are",
                           member.data.size(), member.bytes, most_expansion));
  }
  std::vector<std::byte> contents(static_cast<std::size_t>(member.bytes) + 1);  // one that stays free
  const Inflated inflated = inflate(member.data, contents);
  if (!inflated.whole || inflated.bytes != member.bytes) throw fail("its compressed bytes are damaged");
  contents.pop_back();
  check(contents);
  return read_npy(contents, of_member, most_dimensions);
}

std::vector<std::string> names_in_npz(const std::string& path) {
  const std::vector<std::byte> file = read_file(path);
  const Archive archive(file, in_quotes(path) + " is no .npz file");
  std::vector<std::string> names;
  for (const Member& member : archive.members()) names.push_back(member.name);
  return names;
}

namespace {

// Up to 8 bytes of a number.
void append(std::string& to, std::uint64_t number, int bytes) {
  for (int i = 0; i < bytes; ++i) to += static_cast<char>(number >> 8 * i & 255);
}

}  // namespace

void save_npz(const std::string& path, const std::vector<NamedArray>& arrays) {
  constexpr std::uint64_t most_bytes = 0xFFFFFFFF;  // that places and sizes hold without their wide forms
  std::vector<std::string> headers;                 // of a member, up to its numbers
  std::vector<std::span<const std::byte>> numbers;
  std::string directory;
  std::uint64_t place = 0;
  for (const NamedArray& array : arrays) {
    const auto [header, data] = std::visit(
        [&]<class T>(const T* values) {
          const std::string before = npy_header(path, array.shape, sizeof(T), 3);
          const auto count =
              std::accumulate(array.shape.begin(), array.shape.end(), std::int64_t{1}, std::multiplies<>());
          return std::pair(before, std::as_bytes(std::span(values, static_cast<std::size_t>(count))));
        },
        array.data);
    const std::uint64_t bytes = header.size() + data.size();
    const std::uint32_t checksum = checksum_of(data, checksum_of(std::as_bytes(std::span(header))));
    const std::string name = array.name + ".npy";
    // What the directory repeats: version 2.0, no flags, stored as it is, the first moment that there is.
    std::string facts;
    append(facts, 20, 2);
    append(facts, 0, 4);
    append(facts, 0x21'0000, 4);
    append(facts, checksum, 4);
    append(facts, bytes, 4);
    append(facts, bytes, 4);
    append(facts, name.size(), 2);
    append(facts, 0, 2);
    headers.push_back("PK\3\4" + facts + name + header);
    numbers.push_back(data);
    directory += "PK\1\2";
    append(directory, 20, 2);
    directory += facts;
    append(directory, 0, 2);  // no comment
    append(directory, 0, 8);  // the first disk; no attributes
    append(directory, place, 4);
    directory += name;
    place += headers.back().size() + data.size();
  }
  std::string end = "PK\5\6";
  append(end, 0, 4);
  append(end, arrays.size(), 2);
  append(end, arrays.size(), 2);
  append(end, directory.size(), 4);
  append(end, place, 4);
  append(end, 0, 2);
  const std::uint64_t bytes = place + directory.size() + end.size();
  if (bytes > most_bytes || arrays.size() >= 0xFFFF) {
    throw Error(
        fmt::format("cannot write {}: it would have {} arrays in {} bytes; allowed: fewer than 65535 in up to {}",
                    in_quotes(path), arrays.size(), bytes, most_bytes));
  }
  std::vector<std::span<const std::byte>> pieces;
  for (std::size_t i = 0; i < headers.size(); ++i) {
    pieces.push_back(std::as_bytes(std::span(headers[i])));
    pieces.push_back(numbers[i]);
  }
  pieces.push_back(std::as_bytes(std::span(directory)));
  pieces.push_back(std::as_bytes(std::span(end)));
  write_file(path, pieces);
}

}  // namespace fokker
