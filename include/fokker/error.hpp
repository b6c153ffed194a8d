#pragma once

#include <stdexcept>

namespace fokker {

// The one exception of the library: what() is a single sentence that names what was given and what is allowed. Beside
// it only std::bad_alloc leaves a call, where memory does not suffice. Every use of an object that was moved from throws
// it, until something is assigned to that object.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace fokker
