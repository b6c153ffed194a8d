// Ascending sort of numbers by CUB's radix sort (Merrill and Garland 2016); by the standard library on the emulation.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "device.hpp"
#include "transport_launch.hpp"

#ifndef FOKKER_EMULATION
#include <cub/device/device_radix_sort.cuh>
#endif

namespace fokker::kernels {

#ifdef FOKKER_EMULATION

Status sort_workspace(std::int64_t, std::size_t& bytes) {
  bytes = 0;
  return 0;
}

Status launch_sort(const double* in, double* out, std::int64_t n, void*, std::size_t, Stream stream) {
  return emulation::submit(stream, [=] {
    std::copy(in, in + n, out);
    std::sort(out, out + n);
    return 0;
  });
}

#else

Status sort_workspace(std::int64_t n, std::size_t& bytes) {
  bytes = 0;
  double* none = nullptr;
  return cub::DeviceRadixSort::SortKeys(nullptr, bytes, none, none, n);
}

Status launch_sort(const double* in, double* out, std::int64_t n, void* workspace, std::size_t workspace_bytes,
                   Stream stream) {
  return cub::DeviceRadixSort::SortKeys(workspace, workspace_bytes, in, out, n, 0, 64,
                                        static_cast<cudaStream_t>(stream));
}

#endif

}  // namespace fokker::kernels
