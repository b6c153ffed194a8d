#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fokker {

// Text from outside, for a message: in quotes, on one line (control characters and quotes become '?') and at most
// `longest` bytes of it.
inline std::string in_quotes(std::string_view text, std::size_t longest = 200) {
  std::string out = "'";
  for (const char c : text.substr(0, longest)) {
    const auto code = static_cast<unsigned char>(c);
    out += code < 0x20 || code == 0x7f || c == '\'' ? '?' : c;
  }
  return out + (text.size() > longest ? "…'" : "'");
}

}  // namespace fokker
