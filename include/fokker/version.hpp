#pragma once

#include "fokker/public.hpp"

namespace fokker FOKKER_PUBLIC {

// The version of the library that was linked, "MAJOR.MINOR.PATCH".
const char* version();

}  // namespace FOKKER_PUBLIC
