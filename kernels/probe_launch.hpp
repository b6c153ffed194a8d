#pragma once

#include "launch.hpp"

namespace fokker::kernels {

// Launches a kernel that does nothing: its status says whether this build holds code that the current device runs.
Status launch_nothing(Stream stream);

}  // namespace fokker::kernels
