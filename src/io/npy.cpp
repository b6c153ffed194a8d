#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include "core/quote.hpp"
#include "fmt/format.h"
#include "fokker/array.hpp"
#include "fokker/error.hpp"
#include "io/array_formats.hpp"
#include "io/file.hpp"
#include "io/half.hpp"

// The format: numpy/lib/format.py. "\x93NUMPY", major, minor, the header's length (2 bytes little-endian in version 1,
// 4 in 2 and 3), the header — a Python dictionary {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } —, the
// data.
namespace fokker {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are copied as they are");

// The dictionary literal of a header, and no more of Python than that.
class HeaderParser {
 public:
  struct Header {
    std::string descr;  // "fields" of a structured array
    bool fortran_order = false;
    std::vector<std::int64_t> shape;
  };

  explicit HeaderParser(std::string_view text) : text_(text) {}

  // Nothing where the text is not such a dictionary.
  std::optional<Header> parse() {
    Header header;
    bool has_descr = false, has_order = false, has_shape = false;
    if (!take('{')) return {};
    while (!take('}')) {
      std::string key;
      if (!string(key) || !take(':')) return {};
      if (key == "descr" && !has_descr) {
        if (at('[')) {
          if (!skip_list()) return {};
          header.descr = "fields";
        } else if (!string(header.descr)) {
          return {};
        }
        has_descr = true;
      } else if (key == "fortran_order" && !has_order) {
        if (!boolean(header.fortran_order)) return {};
        has_order = true;
      } else if (key == "shape" && !has_shape) {
        if (!tuple(header.shape)) return {};
        has_shape = true;
      } else {
        return {};
      }
      if (!take(',') && !at('}')) return {};
    }
    skip_blanks();
    if (!text_.empty() || !has_descr || !has_order || !has_shape) return {};
    return header;
  }

 private:
  void skip_blanks() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n' || text_[0] == '\t' || text_[0] == '\r')) {
      text_.remove_prefix(1);
    }
  }
  bool at(char c) {
    skip_blanks();
    return !text_.empty() && text_[0] == c;
  }
  bool take(char c) {
    if (!at(c)) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool take_word(std::string_view word) {
    skip_blanks();
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  bool string(std::string& value) {
    const char quote = at('"') ? '"' : '\'';
    if (!take(quote)) return false;
    const auto end = text_.find(quote);
    if (end == std::string_view::npos) return false;
    value = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return value.find('\\') == std::string::npos;
  }
  bool boolean(bool& value) {
    value = take_word("True");
    return value || take_word("False");
  }
  bool integer(std::int64_t& value) {
    skip_blanks();
    value = 0;
    std::size_t digits = 0;
    for (; !text_.empty() && text_[0] >= '0' && text_[0] <= '9'; ++digits, text_.remove_prefix(1)) {
      const int digit = text_[0] - '0';
      if (value > (std::numeric_limits<std::int64_t>::max() - digit) / 10) return false;
      value = 10 * value + digit;
    }
    if (digits > 0 && !text_.empty() && text_[0] == 'L')
      text_.remove_prefix(1);  // as Python 2 writes its long integers
    return digits > 0;
  }
  // The list of a structured array's fields, whatever they are.
  bool skip_list() {
    std::size_t open = 0;
    do {
      skip_blanks();
      if (text_.empty()) return false;
      std::string ignored;
      if (text_[0] == '\'' || text_[0] == '"') {
        if (!string(ignored)) return false;
        continue;
      }
      open += text_[0] == '[';
      open -= text_[0] == ']';
      text_.remove_prefix(1);
    } while (open > 0);
    return true;
  }
  // (), (n,) or (n, m, …): a comma after a single entry, as Python has it.
  bool tuple(std::vector<std::int64_t>& values) {
    if (!take('(')) return false;
    bool comma = true;
    while (!take(')')) {
      std::int64_t value;
      if (!comma || values.size() == 32 || !integer(value)) return false;
      values.push_back(value);
      comma = take(',');
    }
    return values.size() != 1 || comma;
  }

  std::string_view text_;
};

// Entries of an array of that shape; nothing where their bytes would not fit in 63 bits.
std::optional<std::int64_t> entries(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const std::int64_t n : shape) {
    if (n < 0 || (n > 0 && count > std::numeric_limits<std::int64_t>::max() / 8 / n)) return {};
    count *= n;
  }
  return count;
}

// A type of items as a header writes it, behind the mark of the byte order.
struct Type {
  std::string_view code;
  char kind;
  std::size_t item_bytes;
};
constexpr Type types[] = {{"b1", 'b', 1}, {"i1", 'i', 1}, {"i2", 'i', 2}, {"i4", 'i', 4},
                          {"i8", 'i', 8}, {"u1", 'u', 1}, {"u2", 'u', 2}, {"u4", 'u', 4},
                          {"u8", 'u', 8}, {"f2", 'f', 2}, {"f4", 'f', 4}, {"f8", 'f', 8}};

const Type* find_type(std::string_view descr) {
  for (const Type& type : types) {
    if (descr.size() != 3 || descr.substr(1) != type.code) continue;
    const bool has_order = descr[0] == '<' || descr[0] == '>';  // | where a byte has none
    if (has_order || (descr[0] == '|' && type.item_bytes == 1)) return &type;
  }
  return nullptr;
}

// The items in C order, from either order and byte order.
template <class Item, class Convert>
std::vector<double> widen(std::span<const std::byte> file, const NpyHeader& header, Convert convert) {
  std::vector<double> values((file.size() - header.data_begin) / sizeof(Item));
  const std::size_t columns = header.shape.size() == 2 ? static_cast<std::size_t>(header.shape[1]) : 1,
                    rows = columns == 0 ? 0 : values.size() / columns;
  const std::byte* const data = file.data() + header.data_begin;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t from = header.fortran_order ? i % columns * rows + i / columns : i;
    std::array<std::byte, sizeof(Item)> item;
    std::memcpy(item.data(), data + from * sizeof(Item), sizeof(Item));
    if (header.big_endian) std::reverse(item.begin(), item.end());
    values[i] = convert(std::bit_cast<Item>(item));
  }
  return values;
}

template <class T>
void save(const std::string& path, const std::vector<std::int64_t>& shape, const T* data) {
  const std::string header = npy_header(path, shape, sizeof(T), 2);
  const std::span<const std::byte> pieces[] = {
      std::as_bytes(std::span(header)), std::as_bytes(std::span(data, static_cast<std::size_t>(*entries(shape))))};
  write_file(path, pieces);
}

}  // namespace

std::string npy_header(const std::string& path, const std::vector<std::int64_t>& shape, std::size_t item_bytes,
                       std::size_t most_dimensions) {
  if (!entries(shape) || shape.empty() || shape.size() > most_dimensions) {
    throw Error(fmt::format("cannot write {}: an array has one to {} non-negative dimensions, not ({})",
                            in_quotes(path), most_dimensions, fmt::join(shape, ", ")));
  }
  std::string dictionary = fmt::format("{{'descr': '<f{}', 'fortran_order': False, 'shape': ({}{}), }}", item_bytes,
                                       fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  // The data begin at a multiple of 64 bytes.
  const std::size_t before = npy_magic.size() + 4;
  while ((before + dictionary.size() + 1) % 64 != 0) dictionary += ' ';
  dictionary += '\n';
  std::string header(npy_magic);
  header += {'\x01', '\x00', static_cast<char>(dictionary.size() & 0xff), static_cast<char>(dictionary.size() >> 8)};
  return header + dictionary;
}

NpyHeader read_npy_header(std::span<const std::byte> first_bytes, std::uint64_t file_bytes, const std::string& subject,
                          std::size_t most_dimensions) {
  const auto fail = [&](const std::string& why) { return Error(fmt::format("{}: {}", subject, why)); };
  const std::string_view text(reinterpret_cast<const char*>(first_bytes.data()), first_bytes.size());
  if (!text.starts_with(npy_magic)) throw fail("it does not begin with \\x93NUMPY");
  if (text.size() < 10) throw fail("it ends within its header");
  const int major = static_cast<unsigned char>(text[6]), minor = static_cast<unsigned char>(text[7]);
  if (major < 1 || major > 3 || minor != 0) {
    throw fail(fmt::format("its format version is {}.{}, known are 1.0, 2.0 and 3.0", major, minor));
  }
  const std::size_t length_bytes = major == 1 ? 2 : 4, start = 8 + length_bytes;
  if (text.size() < start) throw fail("it ends within its header");
  std::size_t length = 0;
  for (std::size_t i = length_bytes; i-- > 0;) length = length << 8 | static_cast<unsigned char>(text[8 + i]);
  if (length > file_bytes - start) throw fail("it ends within its header");
  if (length > text.size() - start) {
    throw fail(fmt::format("its header has {} bytes, allowed are {}", length, text.size() - start));
  }

  const auto parsed = HeaderParser(text.substr(start, length)).parse();
  if (!parsed) throw fail("its header is not {'descr': …, 'fortran_order': …, 'shape': …}");
  const std::string_view descr = parsed->descr;
  if (descr == "fields") throw fail("it is a structured array; save one field, as array['x'], or a plain array");
  const Type* const type = find_type(descr);
  if (type == nullptr) {
    throw fail(fmt::format(
        "its type is {}, allowed are bool, integers, float16, float32 and float64 of either byte "
        "order{}",
        in_quotes(descr, 40), descr.find('c') == 1 ? ", not complex numbers (array.real)" : " (array.astype('f8'))"));
  }
  if (parsed->shape.empty() || parsed->shape.size() > most_dimensions) {
    throw fail(fmt::format("it has {} dimensions, allowed are {}", parsed->shape.size(),
                           most_dimensions == 2 ? "1 and 2" : "1, 2 and 3"));
  }
  if (parsed->fortran_order && parsed->shape.size() > 2) {
    throw fail("it has 3 dimensions in Fortran order, allowed are 1 and 2, or C order");
  }
  const auto count = entries(parsed->shape);
  if (!count) throw fail(fmt::format("its shape ({}) is too large", fmt::join(parsed->shape, ", ")));
  const std::uint64_t present = file_bytes - start - length,
                      expected = static_cast<std::uint64_t>(*count) * type->item_bytes;
  if (present != expected) {
    throw fail(fmt::format("its shape ({}) needs {} bytes of data, it has {}", fmt::join(parsed->shape, ", "), expected,
                           present));
  }
  return {.kind = type->kind,
          .item_bytes = type->item_bytes,
          .big_endian = descr[0] == '>',
          .fortran_order = parsed->fortran_order,
          .shape = parsed->shape,
          .data_begin = start + length};
}

Array read_npy(std::span<const std::byte> file, const std::string& subject, std::size_t most_dimensions) {
  const NpyHeader header = read_npy_header(file, file.size(), subject, most_dimensions);
  const auto items = [&]<class T>(T) { return widen<T>(file, header, [](T value) { return double(value); }); };
  // Wider integers than double has bits for, though not than long double has.
  const auto long_integers = [&]<class T>(T) {
    return widen<T>(file, header, [&](T value) {
      const auto widened = static_cast<double>(value);
      if (static_cast<long double>(widened) == static_cast<long double>(value)) return widened;
      throw Error(fmt::format("{}: it holds {}, which double does not; subtract an offset from its integers first",
                              subject, value));
    });
  };
  Array array{.shape = header.shape, .is_float32 = header.item_bytes <= (header.kind == 'f' ? 4 : 2)};
  switch (header.kind) {
    case 'b':
      array.data = widen<std::uint8_t>(file, header, [](std::uint8_t bits) { return bits != 0 ? 1.0 : 0.0; });
      break;
    case 'f':
      array.data = header.item_bytes == 2   ? widen<std::uint16_t>(file, header, from_half)
                   : header.item_bytes == 4 ? items(float{})
                                            : items(double{});
      break;
    case 'i':
      array.data = header.item_bytes == 1   ? items(std::int8_t{})
                   : header.item_bytes == 2 ? items(std::int16_t{})
                   : header.item_bytes == 4 ? items(std::int32_t{})
                                            : long_integers(std::int64_t{});
      break;
    default:
      array.data = header.item_bytes == 1   ? items(std::uint8_t{})
                   : header.item_bytes == 2 ? items(std::uint16_t{})
                   : header.item_bytes == 4 ? items(std::uint32_t{})
                                            : long_integers(std::uint64_t{});
  }
  return array;
}

void save_npy(const std::string& path, const std::vector<std::int64_t>& shape, const float* data) {
  save(path, shape, data);
}

void save_npy(const std::string& path, const std::vector<std::int64_t>& shape, const double* data) {
  save(path, shape, data);
}

}  // namespace fokker
