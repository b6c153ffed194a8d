#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fokker {

// A NumPy .npy array (format 1.0 to 3.0; float16, float32 or float64 of either byte order; one or two dimensions, in C
// or in Fortran order), widened.
struct NpyArray {
  std::vector<std::int64_t> shape = {};
  std::vector<double> data = {};  // in C order
  bool is_float32 = false;        // no number needs more than float32
};

// Throws Error on anything else, and on a file that is shorter or longer than its header says.
NpyArray load_npy(const std::string& path);
// Its numbers in float32, row by row. Throws Error, which calls the array `name`, where rounding changes a column by
// more than a thousandth of its standard deviation, as it does times in seconds since 1970: what differs would become
// equal. Columns whose numbers are all equal, to the rounding of double, are taken.
std::vector<float> to_float32(const NpyArray& array, const std::string& name);
// Written to a temporary name beside `path`, synced, renamed. Throws Error.
void save_npy(const std::string& path, const std::vector<std::int64_t>& shape, const float* data);
void save_npy(const std::string& path, const std::vector<std::int64_t>& shape, const double* data);

}  // namespace fokker
