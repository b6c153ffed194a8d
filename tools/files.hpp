#pragma once

#include <string>
#include <vector>

namespace fokker::tools {

// Written to a temporary name beside `path` and renamed: a failure leaves what was there. Throws Error.
void write_text(const std::string& path, const std::string& text);
std::string read_text(const std::string& path);
bool is_file(const std::string& path);
// Creates the folder and its parents; throws Error where a regular file is in the way.
void make_folder(const std::string& path);
// Throws Error where a file of that name could not be written: asked before long work, so that it is not lost at its
// end.
void check_writable(const std::string& path);
// As check_writable for each that is not empty, and throws Error where two outputs, or an output and an input, are one
// file.
void check_outputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs);

}  // namespace fokker::tools
