#include "cuda/data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "fokker/error.hpp"
#include "operations/data_tables.hpp"

namespace fokker::cuda {

DeviceData::DeviceData(const DataSet& data) : data_(data) {
  if (const MixtureTables* tables = data.tables()) {
    thresholds_ = upload(tables->thresholds);
    means_ = upload(tables->means);
    deviations_ = upload(tables->deviations);
    factors_ = upload(tables->factors);
  }
  if (const std::vector<float>* samples = data.stored()) samples_ = upload(*samples);
  if (const DeviceSamples* samples = data.device_samples()) {
    int device = 0;
    cudaPointerAttributes attributes;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaPointerGetAttributes(&attributes, samples->samples.data()), "cudaPointerGetAttributes");
    if (attributes.device != device) {
      throw Error(
          fmt::format("data set '{}' is on device {} and was given to a context of device {}; allowed: one device",
                      data.name(), attributes.device, device));
    }
  }
}

kernels::DataSource DeviceData::source() const {
  const std::int64_t dimension = data_.dimension();
  View<const float> stored;
  if (data_.stored() != nullptr) {
    stored = {samples_.as<const float>(), static_cast<std::int64_t>(data_.stored()->size()) / dimension, dimension};
  } else if (data_.device_samples() != nullptr) {
    stored = data_.device_samples()->samples.view();
  }
  return {.kind = data_.kind(),
          .dimension = static_cast<int>(dimension),
          .mixture = {.components = data_.exact() == nullptr ? 0 : static_cast<int>(data_.exact()->components()),
                      .thresholds = thresholds_.as<const float>(),
                      .means = means_.as<const float>(),
                      .deviations = deviations_.as<const float>(),
                      .factors = factors_.as<const float>()},
          .samples = stored.data,
          .count = static_cast<std::uint64_t>(stored.rows)};
}

void DeviceData::draw(const Queue& queue, View<float> out, std::uint64_t seed, std::uint64_t first_index,
                      std::uint64_t step) const {
  check(kernels::launch_draw(source(),
                             {.n = out.rows, .seed = seed, .first_index = first_index, .step = step, .out = out.data},
                             queue.stream),
        "launch_draw");
}

bool DeviceData::holds(const DataSet& data) const {
  return data.kind() == data_.kind() && data.tables() == data_.tables() && data.stored() == data_.stored() &&
         data.device_samples() == data_.device_samples();
}

const DeviceData& DataCache::of(const DataSet& data) {
  const auto found = std::find_if(sets_.begin(), sets_.end(), [&](const DeviceData& set) { return set.holds(data); });
  if (found != sets_.end()) return *found;
  return sets_.emplace_front(data);
}

}  // namespace fokker::cuda
