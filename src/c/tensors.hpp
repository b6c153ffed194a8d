#pragma once

// A DLTensor of a caller as a view, once it was looked at. For the C API and the Python package.
#include <dlpack/dlpack.h>
#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "fokker/error.hpp"
#include "fokker/view.hpp"

namespace fokker {

template <class T>
T& given(T* pointer, const char* what) {
  if (pointer == nullptr)
    throw Error(fmt::format("{} is NULL; allowed: one that this library or the caller made", what));
  return *pointer;
}

inline const char* name_of(DLDeviceType device) {
  switch (device) {
    case kDLCPU: return "cpu";
    case kDLCUDA: return "cuda";
    case kDLCUDAHost: return "page-locked host memory";
    default: return "another kind";
  }
}

inline std::string type_of(const DLDataType& type) {
  const char* name = "another kind of ";
  switch (type.code) {
    case kDLFloat: name = "float"; break;
    case kDLInt: name = "int"; break;
    case kDLUInt: name = "uint"; break;
    case kDLBfloat: name = "bfloat"; break;
    case kDLComplex: name = "complex"; break;
    default: break;
  }
  return fmt::format("{}{}{}", name, type.bits, type.lanes == 1 ? "" : fmt::format("×{}", type.lanes));
}

// The view of a tensor [rows, columns] of T, of which a vector has one column and rows may be any number. T may be const.
// A tensor on CUDA has to be on that GPU, where one is named.
template <class T>
View<T> view_of(const DLTensor* tensor, const char* what, int gpu = -1) {
  using Entry = std::remove_const_t<T>;
  if (tensor == nullptr) return {};
  const DLDataType& type = tensor->dtype;
  if (type.code != kDLFloat || type.bits != 8 * sizeof(Entry) || type.lanes != 1) {
    throw Error(fmt::format("{} is of type {}; allowed here: float{}", what, type_of(type), 8 * sizeof(Entry)));
  }
  if (tensor->ndim != 1 && tensor->ndim != 2) {
    throw Error(fmt::format("{} has {} axes; allowed: [N] or [N, d]", what, tensor->ndim));
  }
  if (tensor->shape == nullptr) throw Error(fmt::format("{} has no shape", what));
  const std::int64_t rows = tensor->shape[0], columns = tensor->ndim == 2 ? tensor->shape[1] : 1;
  if (rows < 0 || columns < 0) {
    throw Error(fmt::format("{} has shape [{}, {}]; allowed: sizes of 0 or more", what, rows, columns));
  }
  Device device;
  if (tensor->device.device_type == kDLCPU || tensor->device.device_type == kDLCUDAHost) {
    device = Device::cpu;
  } else if (tensor->device.device_type == kDLCUDA) {
    device = Device::cuda;
    if (gpu >= 0 && tensor->device.device_id != gpu) {
      throw Error(
          fmt::format("{} is on GPU {}; allowed here: GPU {}, the context's", what, tensor->device.device_id, gpu));
    }
  } else {
    throw Error(
        fmt::format("{} is on a device of {}; allowed: cpu and cuda", what, name_of(tensor->device.device_type)));
  }
  if (rows == 0 || columns == 0) return View<T>(nullptr, rows, columns, device);
  if (tensor->strides != nullptr) {
    const std::int64_t of_row = tensor->strides[0], of_column = tensor->ndim == 2 ? tensor->strides[1] : 1;
    const bool dense = (columns == 1 || of_column == 1) && (rows == 1 || of_row == columns);
    if (!dense) {
      throw Error(fmt::format("{} of shape [{}, {}] has strides [{}, {}]; allowed: dense and row-major, [{}, 1]", what,
                              rows, columns, of_row, of_column, columns));
    }
  }
  if (tensor->data == nullptr) throw Error(fmt::format("{} of shape [{}, {}] has no data", what, rows, columns));
  const auto address = reinterpret_cast<std::uintptr_t>(tensor->data) + tensor->byte_offset;
  if (address % alignof(Entry) != 0) {
    throw Error(fmt::format("{} begins {} bytes off the alignment of float{}; allowed: aligned data", what,
                            address % alignof(Entry), 8 * sizeof(Entry)));
  }
  return View<T>(reinterpret_cast<T*>(address), rows, columns, device);
}

// A tensor that has to be there. One without rows may have no data, and its view stands for none.
template <class T>
View<T> required(const DLTensor* tensor, const char* what, int gpu) {
  given(tensor, what);
  return view_of<T>(tensor, what, gpu);
}

}  // namespace fokker
