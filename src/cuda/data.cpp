#include "cuda/data.hpp"

#include <algorithm>
#include <utility>

#include "data_tables.hpp"
#include "kernels/data_launch.hpp"

namespace fokker::cuda {
namespace {}  // namespace

DeviceData::DeviceData(const DataSet& data) : data_(data) {
  if (const MixtureTables* tables = data.tables()) {
    thresholds_ = upload(tables->thresholds);
    means_ = upload(tables->means);
    deviations_ = upload(tables->deviations);
    factors_ = upload(tables->factors);
  }
  if (const std::vector<float>* samples = data.stored()) samples_ = upload(*samples);
}

void DeviceData::draw(const Queue& queue, View<float> out, std::uint64_t seed, std::uint64_t first_index,
                      std::uint64_t step) const {
  const auto dimension = static_cast<int>(data_.dimension());
  const kernels::DrawArguments draw{
      .n = out.rows, .dimension = dimension, .seed = seed, .first_index = first_index, .step = step, .out = out.data};
  switch (data_.kind()) {
    case DataSet::Kind::circles2: return check(kernels::launch_circles2(draw, queue.stream), "launch_circles2");
    case DataSet::Kind::checker: return check(kernels::launch_checker(draw, queue.stream), "launch_checker");
    case DataSet::Kind::samples: {
      const std::uint64_t count = data_.stored()->size() / static_cast<std::uint64_t>(dimension);
      return check(kernels::launch_stored(draw, samples_.as<const float>(), count, queue.stream), "launch_stored");
    }
    case DataSet::Kind::blob:
    case DataSet::Kind::mixture: break;
  }
  const kernels::MixtureDraw mixture{.components = static_cast<int>(data_.exact()->components()),
                                     .thresholds = thresholds_.as<const float>(),
                                     .means = means_.as<const float>(),
                                     .deviations = deviations_.as<const float>(),
                                     .factors = factors_.as<const float>()};
  check(kernels::launch_mixture_draw(draw, mixture, queue.stream), "launch_mixture_draw");
}

bool DeviceData::holds(const DataSet& data) const {
  return data.kind() == data_.kind() && data.tables() == data_.tables() && data.stored() == data_.stored();
}

const DeviceData& DataCache::of(const DataSet& data) {
  const auto found = std::find_if(sets_.begin(), sets_.end(), [&](const DeviceData& set) { return set.holds(data); });
  if (found != sets_.end()) return *found;
  return sets_.emplace_front(data);
}

}  // namespace fokker::cuda
