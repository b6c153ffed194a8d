#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "fokker/file.hpp"

namespace fokker {

// The whole of a regular file. Throws Error naming the path and the system's reason.
std::vector<std::byte> read_file(const std::string& path);
// Writes the pieces one after another to a temporary name beside `path`, syncs, renames: a failure (a full disk, a missing
// folder, a folder of that name) leaves what was there, removes the temporary and throws Error.
void write_file(const std::string& path, std::span<const std::span<const std::byte>> pieces);

}  // namespace fokker
