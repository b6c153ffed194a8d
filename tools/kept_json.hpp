#pragma once

// JSON that an earlier call left, or that someone wrote: held to the shape in which it is written before any of it is
// used.
#include <string>

#include "options.hpp"

namespace fokker::tools {

// Throws Error where the file cannot be read, or is no JSON as results are.
Json read_json(const std::string& path);

// The first key, with its path, whose values differ, and both: "seed: 1 there, 2 asked for".
std::string first_difference(const Json& found, const Json& wanted, const std::string& where_wanted = "asked for");

// Throws Error, which names the file, the key and `advice`, unless the JSON has a shape. A shape is "number" (or null,
// as a number that is not finite is written), "text", "flag", a list with the shape of each item, or an object with the
// shape of each key; what a key that ends in '?' names may be null or missing. Other keys are passed over.
void check_shape(const Json& json, const Json& shape, const std::string& path, const std::string& advice);

}  // namespace fokker::tools
