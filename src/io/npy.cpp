#include "fokker/npy.hpp"

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
#include "fokker/error.hpp"
#include "io/file.hpp"
#include "io/half.hpp"

// The format: numpy/lib/format.py. "\x93NUMPY", major, minor, the header's length (2 bytes little-endian in version 1,
// 4 in 2 and 3), the header — a Python dictionary {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } —, the
// data.
namespace fokker {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are copied as they are");

constexpr std::string_view magic = "\x93NUMPY";

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

// The items of [rows, columns] in C order, from either order and byte order.
template <class Bits, class Convert>
std::vector<double> widen(std::span<const std::byte> bytes, bool big_endian, std::size_t rows, std::size_t columns,
                          bool fortran_order, Convert convert) {
  std::vector<double> values(rows * columns);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t from = fortran_order ? i % columns * rows + i / columns : i;
    std::array<std::byte, sizeof(Bits)> item;
    std::memcpy(item.data(), bytes.data() + from * sizeof(Bits), sizeof(Bits));
    if (big_endian) std::reverse(item.begin(), item.end());
    values[i] = convert(std::bit_cast<Bits>(item));
  }
  return values;
}

template <class T>
void save(const std::string& path, const std::vector<std::int64_t>& shape, const T* data) {
  const auto count = entries(shape);
  if (!count || shape.empty() || shape.size() > 2) {
    throw Error(fmt::format("cannot write {}: an array has one or two non-negative dimensions, not ({})",
                            in_quotes(path), fmt::join(shape, ", ")));
  }
  std::string dictionary = fmt::format("{{'descr': '<f{}', 'fortran_order': False, 'shape': ({}{}), }}", sizeof(T),
                                       fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  // The data begin at a multiple of 64 bytes.
  const std::size_t before = magic.size() + 4;
  while ((before + dictionary.size() + 1) % 64 != 0) dictionary += ' ';
  dictionary += '\n';
  std::string header(magic);
  header += {'\x01', '\x00', static_cast<char>(dictionary.size() & 0xff), static_cast<char>(dictionary.size() >> 8)};
  header += dictionary;
  const std::span<const std::byte> pieces[] = {std::as_bytes(std::span(header.data(), header.size())),
                                               std::as_bytes(std::span(data, static_cast<std::size_t>(*count)))};
  write_file(path, pieces);
}

}  // namespace

NpyArray load_npy(const std::string& path) {
  const std::vector<std::byte> file = read_file(path);
  const auto fail = [&](const std::string& why) {
    return Error(fmt::format("{} is not a .npy file that can be used: {}", in_quotes(path), why));
  };
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (!text.starts_with(magic)) throw fail("it does not begin with \\x93NUMPY");
  if (text.size() < 10) throw fail("it ends within its header");
  const int major = static_cast<unsigned char>(text[6]), minor = static_cast<unsigned char>(text[7]);
  if (major < 1 || major > 3 || minor != 0) {
    throw fail(fmt::format("its format version is {}.{}, known are 1.0, 2.0 and 3.0", major, minor));
  }
  const std::size_t length_bytes = major == 1 ? 2 : 4, start = 8 + length_bytes;
  if (text.size() < start) throw fail("it ends within its header");
  std::size_t length = 0;
  for (std::size_t i = length_bytes; i-- > 0;) length = length << 8 | static_cast<unsigned char>(text[8 + i]);
  if (length > text.size() - start) throw fail("it ends within its header");

  const auto header = HeaderParser(text.substr(start, length)).parse();
  if (!header) throw fail("its header is not {'descr': …, 'fortran_order': …, 'shape': …}");
  if (header->descr == "fields")
    throw fail("it is a structured array; save one field, as array['x'], or a plain array");
  const std::string_view descr = header->descr;
  const bool known = descr.size() == 3 && (descr[0] == '<' || descr[0] == '>') && descr[1] == 'f' &&
                     (descr[2] == '2' || descr[2] == '4' || descr[2] == '8');
  if (!known) {
    throw fail(
        fmt::format("its type is {}, allowed are float16, float32 and float64: '<f2', '<f4', '<f8' and '>' for "
                    "big-endian (array.astype('f4'))",
                    in_quotes(descr, 40)));
  }
  if (header->shape.empty() || header->shape.size() > 2) {
    throw fail(fmt::format("it has {} dimensions, allowed are 1 and 2", header->shape.size()));
  }
  const std::size_t item_bytes = descr[2] - '0';
  const auto count = entries(header->shape);
  const std::size_t present = text.size() - start - length;
  if (!count) throw fail(fmt::format("its shape ({}) is too large", fmt::join(header->shape, ", ")));
  const auto expected = static_cast<std::uint64_t>(*count) * item_bytes;
  if (present != expected) {
    throw fail(fmt::format("its shape ({}) needs {} bytes of data, it has {}", fmt::join(header->shape, ", "), expected,
                           present));
  }
  const auto read = [&]<class Bits>(Bits, auto convert) {
    const std::size_t columns = header->shape.size() == 2 ? header->shape[1] : 1, all = *count;
    return widen<Bits>(std::span(file).subspan(start + length), descr[0] == '>', columns == 0 ? 0 : all / columns,
                       columns, header->fortran_order, convert);
  };
  const auto itself = [](auto value) { return double{value}; };
  return {header->shape,
          item_bytes == 2   ? read(std::uint16_t{}, from_half)
          : item_bytes == 4 ? read(float{}, itself)
                            : read(double{}, itself),
          item_bytes <= 4};
}

std::vector<float> to_float32(const NpyArray& array, const std::string& name) {
  struct Column {
    double sum = 0, squares = 0, errors = 0, largest = 0;
  };
  std::vector<float> rounded(array.data.begin(), array.data.end());
  if (array.is_float32 || rounded.empty()) return rounded;
  std::vector<Column> columns(array.shape.size() == 2 ? static_cast<std::size_t>(array.shape[1]) : 1);
  const double rows = double(rounded.size() / columns.size());
  for (std::size_t i = 0; i < rounded.size(); ++i) {
    const std::size_t j = i % columns.size();
    // The first row is near the others, so that little cancels in the sums.
    const double value = array.data[i], from_first = value - array.data[j], error = rounded[i] - value;
    columns[j].sum += from_first;
    columns[j].squares += from_first * from_first;
    columns[j].errors += error * error;
    columns[j].largest = std::max(columns[j].largest, std::fabs(value));
  }
  for (std::size_t j = 0; j < columns.size(); ++j) {
    const auto& [sum, squares, errors, largest] = columns[j];
    const double mean = sum / rows, deviation = std::sqrt(std::max(0.0, squares / rows - mean * mean)),
                 error = std::sqrt(errors / rows);
    // Also false where a number is not finite, which is for the caller to refuse.
    if (!(error > 1e-3 * deviation && deviation > 1e-13 * largest && std::isfinite(error))) continue;
    throw Error(fmt::format(
        "column {} of {} does not fit in float32, which fokker computes in: of numbers up to {:.3g} with a standard "
        "deviation of {:.3g} it rounds off {:.2g}; subtract an offset from the column first, or scale it",
        j, in_quotes(name, 80), largest, deviation, error));
  }
  return rounded;
}

void save_npy(const std::string& path, const std::vector<std::int64_t>& shape, const float* data) {
  save(path, shape, data);
}

void save_npy(const std::string& path, const std::vector<std::int64_t>& shape, const double* data) {
  save(path, shape, data);
}

}  // namespace fokker
