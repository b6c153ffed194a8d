#pragma once

// Programs started as several ranks, where the build has MPI.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "sanitizer.hpp"

namespace fokker::testing {

// Why no program can be started so here; empty where one can, by FOKKER_MPIRUN -n COUNT.
inline std::string why_no_ranks() {
  if (std::string(FOKKER_MPIRUN).empty()) return "this build has no MPI";
  if (with_tsan) return "MPI is not compiled for ThreadSanitizer";
  // More ranks than processors, of any user, each on all of them; messages without the reads of another process's memory
  // that containers forbid.
  for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"}) ::setenv(name, "1", 1);
  ::setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
  ::setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
  ::setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
  if (with_asan) ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // those of MPI
  return "";
}

}  // namespace fokker::testing
