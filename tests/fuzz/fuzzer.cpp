// libFuzzer's entry for the target that the macro TARGET names.
#include <cstddef>
#include <cstdint>

#include "targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fokker::fuzz::Target& target = fokker::fuzz::find_target(TARGET);
  target.read(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
