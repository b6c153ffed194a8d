#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fokker/array.hpp"

namespace fokker {

// The formats of arrays, read from memory. Each throws Error on what it cannot use, in a sentence that `subject` begins,
// as "'a.npy' holds no array that can be used".
constexpr std::string_view npy_magic = "\x93NUMPY";

// From there on a double may stand for another integer, which it does not hold.
constexpr double first_inexact_integer = 0x1p53;

struct NpyHeader {
  char kind = 0;  // as numpy.dtype.kind: b, i, u or f
  std::size_t item_bytes = 0;
  bool big_endian = false;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
  std::size_t data_begin = 0;  // in the file
};

// The header of a .npy file of that many bytes, of which the first are given. Throws Error also where the array has more
// than `most_dimensions`, 2 or 3.
NpyHeader read_npy_header(std::span<const std::byte> first_bytes, std::uint64_t file_bytes, const std::string& subject,
                          std::size_t most_dimensions);
// What stands before the numbers, float or double in C order, of a .npy file. Throws Error, which `path` is named in,
// where the shape has more than `most_dimensions` or is no shape.
std::string npy_header(const std::string& path, const std::vector<std::int64_t>& shape, std::size_t item_bytes,
                       std::size_t most_dimensions);
Array read_npy(std::span<const std::byte> file, const std::string& subject, std::size_t most_dimensions);
// `name` is that of the file and of the array in it.
Array read_npz(std::span<const std::byte> file, const ArrayName& name, const std::string& subject,
               std::size_t most_dimensions);
Array read_csv(std::string_view text, const std::string& subject);

}  // namespace fokker
