#pragma once

namespace fokker {

// The version of the library that was linked, "MAJOR.MINOR.PATCH".
const char* version();

}  // namespace fokker
