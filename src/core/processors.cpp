#include "core/processors.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/quote.hpp"

namespace fokker {
namespace {

namespace fs = std::filesystem;

// Processors that a group may use: cpu.max holds "QUOTA PERIOD" or "max PERIOD" in version 2; in version 1 there are
// two files, and a quota of −1 is none.
double quota_of(const fs::path& group) {
  double quota = -1, period = 0;
  std::ifstream both(group / "cpu.max");
  if (!(both >> quota >> period)) {
    quota = -1;
    std::ifstream(group / "cpu.cfs_quota_us") >> quota;
    std::ifstream(group / "cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

// What OMP_NUM_THREADS asks for, by the first number of its list; 0 where it asks for none, as where it is no such list.
int asked_threads() {
  const char* const text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long first = std::strtol(text, &end, 10);
  while (*end == ' ') ++end;
  return *end == 0 || *end == ',' ? int(std::clamp(first, 0L, long{INT_MAX})) : 0;
}

// The kernel refuses a set that has no room for all its processors.
int affine_processors() {
  for (std::size_t room = CPU_SETSIZE; room <= 1 << 20; room *= 2) {
    std::vector<cpu_set_t> sets(room / CPU_SETSIZE);
    const std::size_t bytes = sets.size() * sizeof(cpu_set_t);
    if (::sched_getaffinity(0, bytes, sets.data()) == 0) return CPU_COUNT_S(bytes, sets.data());
    if (errno != EINVAL) break;
  }
  return int(::sysconf(_SC_NPROCESSORS_ONLN));
}

bool has_controller(const std::string& controllers, const std::string& name) {
  return ("," + controllers + ",").find("," + name + ",") != std::string::npos;
}

}  // namespace

int processor_quota(const std::string& root, const std::string& self) {
  double least = INFINITY;
  std::ifstream file(self);
  for (std::string line; std::getline(file, line);) {  // ID:CONTROLLERS:PATH, without controllers in version 2
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && !has_controller(controllers, "cpu")) continue;
    const fs::path hierarchy = controllers.empty() ? fs::path(root) : fs::path(root) / "cpu";
    fs::path group = fs::path(line.substr(second + 1)).relative_path();
    for (; !group.empty(); group = group.parent_path()) least = std::min(least, quota_of(hierarchy / group));
    least = std::min(least, quota_of(hierarchy));
  }
  return least < INT_MAX ? std::max(1, int(std::ceil(least))) : INT_MAX;
}

int available_processors() {
  return std::max(1, std::min(affine_processors(), processor_quota("/sys/fs/cgroup", "/proc/self/cgroup")));
}

int default_threads() {
  const int asked = asked_threads(), available = available_processors();
  return asked > 0 ? std::min(asked, available) : available;
}

std::string refused_threads() {
  const int asked = asked_threads(), available = available_processors();
  const char* const text = std::getenv("OMP_NUM_THREADS");
  if (asked == 0 && text != nullptr && *text != 0) {
    return fmt::format("OMP_NUM_THREADS is {}, which is no number of threads", in_quotes(text));
  }
  if (asked <= available) return {};
  return fmt::format("OMP_NUM_THREADS asks for {} threads where {} may run", asked, available);
}

}  // namespace fokker
