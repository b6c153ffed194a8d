#pragma once

#include <string>
#include <vector>

namespace fokker::cuda {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  double memory_gib = 0;
};

// What the CUDA runtime says about this machine. Versions are CUDA's integers, 13000 for 13.0; driver 0: none
// installed.
struct DeviceQuery {
  int driver = 0;
  int runtime = 0;
  std::string failure;  // the runtime's own words where it failed for another reason than those below; else empty
  std::vector<DeviceInfo> devices;
};

DeviceQuery query_devices();  // device.cpp; builds with CUDA only

// One sentence, without a final point: the devices and versions, or why there are none.
std::string describe(const DeviceQuery& query);

// Whether this build and machine have a CUDA backend, and the sentence that `fokker info` prints and an explicit
// request for it repeats.
bool available();
std::string status();

}  // namespace fokker::cuda
