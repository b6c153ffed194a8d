#pragma once

// What stands side by side in the inputs of a layer: a file's order, and ours.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fokker/model.hpp"

namespace fokker {

// How many inputs of a layer are each of its parts.
struct InputWidths {
  std::int64_t condition = 0, time = 0, x = 0;  // x: of what is not taken beside it, h of a later layer

  std::int64_t of(LayerInput part) const {
    return part == LayerInput::condition ? condition : part == LayerInput::time ? time : x;
  }
  std::int64_t sum() const { return condition + time + x; }
};

inline bool has(const std::vector<LayerInput>& order, LayerInput part) {
  return std::find(order.begin(), order.end(), part) != order.end();
}

// Weights [outputs, inputs] whose columns stand in `order`, with those of the condition first, then those of the time.
inline void to_own_order(std::vector<double>& weights, const std::vector<LayerInput>& order,
                         const InputWidths& widths) {
  const std::vector<double> in_file = weights;
  std::size_t next = 0;
  const auto columns = static_cast<std::size_t>(widths.sum());
  for (std::size_t row = 0; row < in_file.size(); row += columns) {
    for (const LayerInput part : {LayerInput::condition, LayerInput::time, LayerInput::x}) {
      std::size_t begin = row;
      for (auto before = order.begin(); before != order.end() && *before != part; ++before) {
        begin += static_cast<std::size_t>(widths.of(*before));
      }
      for (std::int64_t i = 0; i < widths.of(part); ++i) weights[next++] = in_file[begin++];
    }
  }
}

}  // namespace fokker
