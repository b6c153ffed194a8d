#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// Numbers of a file, widened.
struct Array {
  std::vector<std::int64_t> shape = {};  // one or two dimensions, or three where load_array() was asked for them
  std::vector<double> data = {};         // in C order
  bool is_float32 = false;               // no number needs more than float32

  // [N, d] has d, and [N] one.
  std::int64_t columns() const { return shape.size() == 2 ? shape[1] : 1; }
};

// What names an array: a file, or FILE.npz:NAME for one of the arrays in it.
struct ArrayName {
  std::string file;
  std::string member;  // NAME; empty where none is given

  // Throws Error where nothing stands after "FILE.npz:".
  explicit ArrayName(const std::string& text);
  // Whether the file is called FILE.npy, FILE.npz or FILE.csv.
  bool has_extension() const;
};

// The array of that name, which its file's content says how to read:
//   .npy  formats 1.0 to 3.0; bool, integers, float16, float32 and float64 of either byte order; one or two dimensions,
//         in C or in Fortran order; where `most_dimensions` is 3, three in C order too
//   .npz  of numpy.savez or, where this build has zlib, numpy.savez_compressed: the array of that name; without a name
//         the only array, or the only one of two dimensions
//   .csv  a file of that extension: rows of numbers with commas between, the same count in each, after at most one line
//         of the columns' names
// Throws Error on anything else: on a file that is shorter or longer than it says, on contents of another checksum, and
// on integers that a double does not hold. Of a compressed array it takes at most 200 bytes for each of the
// file, or 64 MB.
Array load_array(const std::string& name, std::size_t most_dimensions = 2);
// Its numbers in float32, row by row. Throws Error, which calls the array `name`, where rounding changes a column by
// more than a thousandth of its standard deviation, as it does times in seconds since 1970: numbers that differ would
// become equal, and it says how many. Columns whose numbers are all equal, to the rounding of double, are taken.
std::vector<float> to_float32(const Array& array, const std::string& name);
// The names of a .npz file's arrays, in its order. Throws Error where it is none.
std::vector<std::string> names_in_npz(const std::string& path);
// Writes a .npy file, to a temporary name beside `path`, synced, renamed. Throws Error.
void save_npy(const std::string& path, const std::vector<std::int64_t>& shape, const float* data);
void save_npy(const std::string& path, const std::vector<std::int64_t>& shape, const double* data);

// One of the arrays of a file: its numbers in C order.
struct NamedArray {
  std::string name;
  std::vector<std::int64_t> shape;  // one to three dimensions
  std::variant<const float*, const double*> data;
};
// Writes a .npz file like that, uncompressed as numpy.savez does; load_array() reads those of its arrays that have one or
// two dimensions. Throws Error, also where the file would have 4 GiB or more.
void save_npz(const std::string& path, const std::vector<NamedArray>& arrays);

}  // namespace fokker
