#pragma once

// Threads of the host: the one place that makes them, for the CPU backend and for work that is the host's on any.
#include <omp.h>

#include <atomic>
#include <cstdint>
#include <exception>

namespace fokker {

// As OMP_NUM_THREADS or the program has it; all processors where neither says.
inline int asked_threads() { return omp_get_max_threads(); }

// Calls body(item, thread) for every item in [0, items), items handed out one at a time. The first exception stops the
// hand-out and is rethrown on the calling thread.
template <class Body>
void parallel_for(int threads, std::int64_t items, Body&& body) {
  if (threads > items) threads = static_cast<int>(items);
  if (threads <= 1) {
    for (std::int64_t i = 0; i < items; ++i) body(i, 0);
    return;
  }
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (std::int64_t i = 0; i < items; ++i) {
    if (failed.load(std::memory_order_relaxed)) continue;
    try {
      body(i, omp_get_thread_num());
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fokker
