#pragma once

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// The version of the library that was linked, "MAJOR.MINOR.PATCH".
const char* version();

}  // namespace fokker
