#pragma once

// How many threads the host runs where the caller leaves it open.
#include <string>

namespace fokker {

// The processors that this process may use: those of its affinity, but no more than the CPU quota of its control
// groups, rounded up.
int available_processors();
// The quota of the groups that the file `self` lists (/proc/self/cgroup), of version 1 or 2, and of those above them,
// in a hierarchy at `root` (/sys/fs/cgroup); INT_MAX where there is none.
int processor_quota(const std::string& root, const std::string& self);

// As many as OMP_NUM_THREADS asks for, else all; never more than available_processors().
int default_threads();
// What default_threads() does not follow: "OMP_NUM_THREADS asks for 64 threads where 2 may run", or that it is no number
// of threads; empty where it follows.
std::string refused_threads();

}  // namespace fokker
