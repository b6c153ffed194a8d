#include "core/quote.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "fmt/format.h"
#include "fokker/error.hpp"

namespace fokker {
namespace {

// The length of the UTF-8 sequence that `text` begins with, and its code point; {1, 0} where there is none.
std::pair<std::size_t, std::uint32_t> code_point(std::string_view text) {
  const auto byte = [&](std::size_t i) { return std::uint32_t{static_cast<unsigned char>(text[i])}; };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return {1, first};
  const std::size_t length = first >= 0xf8 ? 0 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 0;
  if (length == 0 || length > text.size()) return {1, 0};
  std::uint32_t code = first & (0x7f >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {1, 0};
    code = code << 6 | (byte(i) & 0x3f);
  }
  constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  if (code < least[length] || code > 0x10ffff || surrogate) return {1, 0};
  return {length, code};
}

// Whether it is something to see, and nothing that moves what stands around it.
bool is_harmless(std::uint32_t code) {
  constexpr std::array<std::pair<std::uint32_t, std::uint32_t>, 10> harmful{{{0x00, 0x1f},      // C0
                                                                             {0x7f, 0x9f},      // delete and C1
                                                                             {0xad, 0xad},      // soft hyphen
                                                                             {0x61c, 0x61c},    // Arabic letter mark
                                                                             {0x180e, 0x180e},  // a vowel separator
                                                                             {0x200b, 0x200f},  // without width, marks
                                                                             {0x2028, 0x202e},  // separators, overrides
                                                                             {0x2060, 0x206f},  // isolates
                                                                             {0xfeff, 0xfeff},  // byte order mark
                                                                             {0xfff9, 0xfffb}}};  // annotations
  const bool tag = code >= 0xe0000 && code <= 0xe0fff;
  return !tag && std::none_of(harmful.begin(), harmful.end(),
                              [=](const auto& range) { return code >= range.first && code <= range.second; });
}

bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; }

}  // namespace

std::string printable(std::string_view text, std::size_t longest) {
  std::string clean;
  std::size_t characters = 0;
  for (std::size_t length; !text.empty(); text.remove_prefix(length), ++characters) {
    const auto [bytes, code] = code_point(text);
    length = bytes;
    clean += is_harmless(code) ? text.substr(0, length) : "?";
  }
  if (characters <= longest) return clean;
  // The beginning says what it is about, and the end what is wrong or allowed.
  const std::size_t head = (longest - 1) / 2, tail = longest - 1 - head;
  std::size_t begin = 0, end = 0;
  for (std::size_t i = 0, seen = 0; i < clean.size(); ++i) {
    if (!begins_character(clean[i])) continue;
    if (seen == head) begin = i;
    if (seen == characters - tail) end = i;
    ++seen;
  }
  return fmt::format("{}…{}", clean.substr(0, begin), tail > 0 ? clean.substr(end) : "");
}

FOKKER_PUBLIC std::string in_quotes(std::string_view text, std::size_t longest) {
  std::string out = printable(text, longest);
  std::replace(out.begin(), out.end(), '\'', '?');
  return fmt::format("'{}'", out);
}

}  // namespace fokker
