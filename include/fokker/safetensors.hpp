#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// One tensor of a safetensors file. dtype as in the format: F64, F32, F16, BF16, I64, …
struct Tensor {
  std::string dtype = "F32";
  std::vector<std::int64_t> shape = {};
  std::vector<std::byte> bytes = {};  // little-endian, row-major

  // The number of its entries. Throws Error where the shape is none: a negative size, or more than 63 bits hold.
  std::int64_t size() const;
  // Any floating-point dtype widened; throws Error for the others.
  std::vector<double> to_double() const;
  // Throw Error where the shape is none, and where there are entries and no data.
  static Tensor from_float(std::vector<std::int64_t> shape, const float* data);
  static Tensor from_double(std::vector<std::int64_t> shape, const double* data);
  static Tensor from_int64(std::vector<std::int64_t> shape, const std::int64_t* data);
};

// The whole of a file, as safetensors.torch.load_file and save_file see it.
struct SafeTensors {
  std::map<std::string, Tensor> tensors = {};
  std::map<std::string, std::string> metadata = {};

  // Every offset, size and count is checked before it is used. Throws Error.
  static SafeTensors load(const std::string& path);
  // The same of a file's contents, which messages call `subject`.
  static SafeTensors parse(std::span<const std::byte> contents, const std::string& subject = "what was given");
  // Written to a temporary name beside `path`, synced, renamed: a failure leaves what was there. Throws Error.
  void save(const std::string& path) const;
  // What save() writes. Throws Error.
  std::vector<std::byte> contents() const;
  const Tensor& at(const std::string& name) const;  // throws Error naming the tensors there are
};

}  // namespace fokker
