#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// Text from outside as one line that does nothing to a terminal: control characters (C0, C1 and delete), line
// separators, marks that are not seen or change the direction of writing, and bytes that are not UTF-8 become '?'. Of
// more than `longest` ≥ 2 characters the middle is left out, as in "beginning…end".
std::string printable(std::string_view text, std::size_t longest = std::string_view::npos);

// The one exception of the library: what() is a single printable() sentence of at most 300 characters that names what
// was given and what is allowed. Beside it only std::bad_alloc leaves a call, where memory does not suffice. Every
// use of an object that was moved from throws it, until something is assigned to that object.
class Error : public std::runtime_error {
 public:
  static constexpr std::size_t longest = 300;
  explicit Error(const std::string& sentence) : std::runtime_error(printable(sentence, longest)) {}
};

}  // namespace fokker
