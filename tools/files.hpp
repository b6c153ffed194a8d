#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fokker/error.hpp"
#include "fokker/file.hpp"
#include "fokker/safetensors.hpp"

namespace fokker::tools {

std::string read_text(const std::string& path);
bool is_file(const std::string& path);
// A count that a saved file holds as a double; throws Error, which `name` begins, where it is no integer from 0 to 2^53.
std::int64_t count_of(double value, const std::string& name);
// Names contents: hash_bytes() as text.
std::string fingerprint(std::string_view bytes);
// Whether both names lead to one file, through links, symbolic or hard, or as two spellings of a path.
bool same_file(const std::string& a, const std::string& b);
// Creates the folder and its parents; throws Error where a regular file is in the way.
void make_folder(const std::string& path);
// Throws Error where a file of that name could not be written. Called before long work, whose result would be lost.
void check_writable(const std::string& path);
// As check_writable for each that is not empty, and throws Error where two outputs, or an output and an input, are one
// file. Empty inputs are passed over.
void check_outputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs);

// A file in which a call saves unfinished work, so that the next goes on from there with the same result. It is passed
// over where it was saved for any other `work`, a text that names all the result depends on.
struct SavedWork {
  std::string file;  // empty: nothing is saved
  std::string work;
  double seconds_between_saves = 20;

  std::optional<SafeTensors> load() const;
  void save(SafeTensors state) const;
  // An Error which says that what load() found cannot be gone on with.
  Error unusable(const std::string& why) const;
};

// The file that a data set's name (--data) or a time grid's text (--grid) reads; empty where it reads none.
std::string file_of_data(const std::string& name);
std::string file_of_grid(const std::string& text);

}  // namespace fokker::tools
