#pragma once

#include "launch.hpp"

namespace fokker::kernels {

// Its status says whether this build holds code that the current device runs. Launches nothing.
Status find_code();

}  // namespace fokker::kernels
