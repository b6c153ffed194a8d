#include "cuda/status.hpp"

#include <fmt/format.h>

namespace fokker::cuda {
namespace {

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

}  // namespace

std::string describe(const DeviceQuery& query) {
  if (query.driver == 0) return "no NVIDIA driver is installed";
  // Within a major version an older driver runs a newer runtime (CUDA's minor version compatibility).
  if (query.driver / 1000 < query.runtime / 1000) {
    return fmt::format("the NVIDIA driver supports CUDA {}, and this build needs {}.0 or newer", version(query.driver),
                       query.runtime / 1000);
  }
  if (!query.failure.empty()) return fmt::format("CUDA could not be started: {}", query.failure);
  if (query.devices.empty()) return "the NVIDIA driver finds no GPU";
  std::string list;
  for (const DeviceInfo& device : query.devices) {
    list += fmt::format("{}{} (compute capability {}.{}, {:.0f} GiB)", list.empty() ? "" : ", ", device.name,
                        device.major, device.minor, device.memory_gib);
  }
  return fmt::format("{}, driver for CUDA {}, runtime {}", list, version(query.driver), version(query.runtime));
}

// The machinery around a backend comes first: this version asks for devices and has no backend to run on them.
bool available() { return false; }

std::string status() {
  constexpr const char* missing = "this version of fokker has no CUDA backend yet";
#ifdef FOKKER_WITH_CUDA
  return fmt::format("{} ({})", missing, describe(query_devices()));
#else
  return fmt::format("{} (and this build has no CUDA: {})", missing, FOKKER_NO_CUDA_REASON);
#endif
}

}  // namespace fokker::cuda
