#pragma once

// Threads of the host: the one place that makes them, for the CPU backend and for work that is the host's on any. Who
// calls has helpers that serve nobody else until it is done: they are made when they are first needed and then wait for
// the next caller. Where the system makes no more of them, those that are there do all the work, with the same result;
// OpenMP's runtime ends the process then.
#include <atomic>
#include <cstdint>
#include <exception>

#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {  // other libraries of this project call it

// The threads of a context, `asked` or for 0 default_threads() (processors.hpp), whose helpers are made now. Throws
// Error where the system makes fewer than were asked for; for 0 it takes those.
int make_threads(int asked);

// Internal: task(body, thread) on the calling thread, as thread 0, and on up to `threads` − 1 helpers. It may not
// throw.
void run_on_threads(int threads, void (*task)(void* body, int thread), void* body);

// Calls body(item, thread) for every item in [0, items), items handed out one at a time; thread < threads, and 0 is the
// calling thread. A call from within a body is done on its thread alone. The first exception stops the hand-out and is
// rethrown on the calling thread.
template <class Body>
void parallel_for(int threads, std::int64_t items, Body&& body) {
  if (threads > items) threads = static_cast<int>(items);
  if (threads <= 1) {
    for (std::int64_t i = 0; i < items; ++i) body(i, 0);
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  auto take_items = [&](int thread) {
    try {
      for (std::int64_t i; !failed.load(std::memory_order_relaxed) && (i = next.fetch_add(1)) < items;) body(i, thread);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
  using Task = decltype(take_items);
  run_on_threads(
      threads, [](void* task, int thread) { (*static_cast<Task*>(task))(thread); }, &take_items);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fokker
