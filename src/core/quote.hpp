#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fokker {

// Text from outside, for a message: printable(), in quotes, with '?' for quotes in it.
std::string in_quotes(std::string_view text, std::size_t longest = 120);

}  // namespace fokker
