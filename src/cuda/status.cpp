#include "cuda/status.hpp"

#include <fmt/format.h>

namespace fokker::cuda {
namespace {

// The first compute capability that the build has code for, and the first with products m16n8k16 of fp16.
constexpr int needed_major = 8;

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

}  // namespace

std::string why_not(const DeviceQuery& query) {
  if (!query.missing.empty()) return fmt::format("this build has no CUDA: {}", query.missing);
  if (query.driver == 0) return "no NVIDIA driver is installed";
  // Within a major version an older driver runs a newer runtime (CUDA's minor version compatibility).
  if (query.driver / 1000 < query.runtime / 1000) {
    return fmt::format("the NVIDIA driver supports CUDA {}, and this build needs {}.0 or newer", version(query.driver),
                       query.runtime / 1000);
  }
  if (!query.failure.empty()) return fmt::format("CUDA could not be started: {}", query.failure);
  if (query.devices.empty()) return "the NVIDIA driver finds no GPU";
  if (query.device < 0 || query.device >= static_cast<int>(query.devices.size())) {
    return fmt::format("GPU {} was asked for, and allowed here are 0 to {}, or -1 for the current one", query.device,
                       query.devices.size() - 1);
  }
  const DeviceInfo& device = query.devices[static_cast<std::size_t>(query.device)];
  if (device.major < needed_major) {
    return fmt::format("{} has compute capability {}.{}, and {}.0 or newer is needed", device.name, device.major,
                       device.minor, needed_major);
  }
  if (!query.has_code) {
    return fmt::format(
        "this build holds no code for {} (compute capability {}.{}); configure it with "
        "-DFOKKER_CUDA_ARCHITECTURES={}{}",
        device.name, device.major, device.minor, device.major, device.minor);
  }
  return "";
}

std::string describe(const DeviceQuery& query) {
  if (const std::string reason = why_not(query); !reason.empty()) return reason;
  std::string list;
  for (const DeviceInfo& device : query.devices) {
    list += fmt::format("{}{} (compute capability {}.{}, {:.0f} GiB)", list.empty() ? "" : ", ", device.name,
                        device.major, device.minor, device.memory_gib);
  }
  if (query.devices.size() > 1) list += fmt::format("; device {} is taken", query.device);
  return fmt::format("{}; driver for CUDA {}, runtime {}", list, version(query.driver), version(query.runtime));
}

}  // namespace fokker::cuda
