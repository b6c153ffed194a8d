#include "core/parallel.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/processors.hpp"
#include "fokker/error.hpp"

namespace fokker {
namespace {

// A helper or a caller looks this often for what it waits for, about half a millisecond, before it sleeps: an
// iteration of training calls several times, and a thread that sleeps takes tens of microseconds to wake.
constexpr int looks = 10'000;

template <class T>
void wait_while(const std::atomic<T>& value, T old) {
  for (int look = 0; look < looks; ++look) {
    if (value.load(std::memory_order_acquire) != old) return;
#if defined(__SSE2__)
    _mm_pause();
#endif
  }
  value.wait(old, std::memory_order_acquire);
}

thread_local bool within_body = false;

// Helpers that work together, for one caller at a time.
class Crew {
 public:
  Crew() = default;
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew() {
    leave_those_of_a_parent();
    dismiss(0);
  }

  // Makes helpers until there are `count`, or the system makes no more; returns how many of `count` there are.
  int hire(int count) {
    leave_those_of_a_parent();
    try {
      helpers_.reserve(static_cast<std::size_t>(std::max(0, count)));
      while (size() < count) {
        auto helper = std::make_unique<Helper>();
        helper->thread = std::thread([this, &self = *helper, number = size() + 1] { help(self, number); });
        helpers_.push_back(std::move(helper));
      }
    } catch (const std::exception&) {
      // Neither memory nor a thread is to be had.
    }
    return std::min(size(), count);
  }
  // Ends helpers until there are `count`.
  void dismiss(int count) {
    while (size() > count) {
      Helper& last = *helpers_.back();
      last.ends = true;
      call(last);
      last.thread.join();
      helpers_.pop_back();
    }
  }
  int size() const { return static_cast<int>(helpers_.size()); }

  std::unique_ptr<Crew> next;  // of those that wait

  void run(int threads, void (*task)(void*, int), void* body) {
    const int helpers = hire(threads - 1);
    task_ = task;
    body_ = body;
    at_work_.store(helpers, std::memory_order_relaxed);
    for (int k = 0; k < helpers; ++k) call(*helpers_[static_cast<std::size_t>(k)]);
    within_body = true;
    task(body, 0);
    within_body = false;
    for (int left; (left = at_work_.load(std::memory_order_acquire)) != 0;) wait_while(at_work_, left);
  }

 private:
  struct Helper {
    std::atomic<unsigned> calls{0};
    bool ends = false;
    std::thread thread;
  };

  static void call(Helper& helper) {
    helper.calls.fetch_add(1, std::memory_order_release);
    helper.calls.notify_one();
  }

  void help(Helper& self, int number) {
    within_body = true;
    for (unsigned calls = 0;; ++calls) {
      wait_while(self.calls, calls);
      if (self.ends) return;
      task_(body_, number);
      if (at_work_.fetch_sub(1, std::memory_order_acq_rel) == 1) at_work_.notify_one();
    }
  }

  // A process that was forked has none of its parent's threads.
  void leave_those_of_a_parent() {
    if (process_ == ::getpid()) return;
    for (std::unique_ptr<Helper>& helper : helpers_) helper.release();  // NOLINT: its thread is no thread here
    helpers_.clear();
    process_ = ::getpid();
  }

  std::vector<std::unique_ptr<Helper>> helpers_;
  pid_t process_ = ::getpid();
  void (*task_)(void*, int) = nullptr;
  void* body_ = nullptr;
  std::atomic<int> at_work_{0};
};

// The crews that wait for a caller; who leaves last is taken first. They belong to no thread: what a thread's end would
// run has to be noted where the thread first calls, and the C library ends the process where it has no memory for that.
class WaitingCrews {
 public:
  std::unique_ptr<Crew> take() {
    const std::lock_guard lock(mutex_);
    if (!first_) return std::make_unique<Crew>();
    std::unique_ptr<Crew> crew = std::move(first_);
    first_ = std::move(crew->next);
    return crew;
  }
  void leave(std::unique_ptr<Crew> crew) {
    const std::lock_guard lock(mutex_);
    crew->next = std::move(first_);
    first_ = std::move(crew);
  }
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
  std::unique_ptr<Crew> first_;
};
constinit WaitingCrews waiting_crews;

// A process that is forked while another thread takes or leaves a crew would find them locked for good.
[[maybe_unused]] const int at_fork =
    ::pthread_atfork([] { waiting_crews.lock(); }, [] { waiting_crews.unlock(); }, [] { waiting_crews.unlock(); });

}  // namespace

int make_threads(int asked) {
  std::unique_ptr<Crew> crew = waiting_crews.take();
  const int before = crew->size(), threads = asked > 0 ? asked : default_threads();
  const int made = 1 + crew->hire(threads - 1);
  if (made < threads && asked > 0) crew->dismiss(std::min(before, crew->size()));
  waiting_crews.leave(std::move(crew));
  if (made == threads || asked == 0) return made;
  throw Error(
      fmt::format("{} threads asked for, and the system makes no more than {} here (ulimit -u, ulimit -v); "
                  "allowed: fewer, or 0 for as many as there are processors",
                  asked, made));
}

void run_on_threads(int threads, void (*task)(void* body, int thread), void* body) {
  if (within_body) return task(body, 0);
  std::unique_ptr<Crew> crew = waiting_crews.take();
  crew->run(threads, task, body);
  waiting_crews.leave(std::move(crew));
}

}  // namespace fokker
