#pragma once

// Whether this build and machine can run the CUDA backend, and the sentence that says why not. What is asked of the
// machine (query_devices) is apart from what is concluded from it, so that every sentence can be tested on any machine.
#include <string>
#include <vector>

namespace fokker::cuda {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  double memory_gib = 0;
  int multiprocessors = 0;
  int shared_bytes = 0;  // of a block, opted in
};

// Versions are CUDA's integers, 13000 for 13.0.
struct DeviceQuery {
  std::string missing = {};  // why this build has no CUDA parts; empty where it has
  int driver = 0;            // 0: none installed
  int runtime = 0;
  std::string failure = {};  // the runtime's own words where it failed for another reason than those below; else empty
  std::vector<DeviceInfo> devices = {};
  int device = 0;        // the one that a context takes: as asked for, or the calling thread's
  bool has_code = true;  // this build holds code that runs on it
};

// `gpu` as ContextOptions has it.
DeviceQuery query_devices(int gpu = -1);  // device.cpp, or absent.cpp in a build without CUDA

// Why a context cannot run on that device: one sentence, without a final point; empty where it can.
std::string why_not(const DeviceQuery& query);
// why_not(), or the devices and versions.
std::string describe(const DeviceQuery& query);

}  // namespace fokker::cuda
