#pragma once

// Data sets on the device.
#include <cstdint>
#include <deque>

#include "cuda/device_field.hpp"
#include "cuda/runtime.hpp"
#include "fokker/data.hpp"
#include "kernels/data_launch.hpp"

namespace fokker::cuda {

// A data set with its tables on the current device, uploaded by the constructor.
class DeviceData {
 public:
  explicit DeviceData(const DataSet& data);
  // out [N, d]: draws first_index … first_index + N − 1 of (seed, step). Asynchronous on the queue's stream, allocates
  // nothing.
  void draw(const Queue& queue, View<float> out, std::uint64_t seed, std::uint64_t first_index,
            std::uint64_t step) const;
  // The tables as kernels take them; valid as long as this object, wherever it is moved.
  kernels::DataSource source() const;
  // Whether `data` is a copy of the set that this was made from.
  bool holds(const DataSet& data) const;

 private:
  DataSet data_;  // shares its tables, so their addresses stay taken
  DeviceMemory thresholds_, means_, deviations_, factors_, samples_;
};

// The data sets that a context has drawn from. Each is uploaded at its first draw and stays as long as the context, since
// a captured graph may draw from any of them.
class DataCache {
 public:
  const DeviceData& of(const DataSet& data);

 private:
  std::deque<DeviceData> sets_;  // the latest first
};

}  // namespace fokker::cuda
