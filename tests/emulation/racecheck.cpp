// The functions that a compiler calls under -fsanitize=thread, and what they know of every byte; see racecheck.hpp.
// Compiled without that option.
#include "racecheck.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <utility>

#include "emulation.hpp"

namespace fokker::kernels::emulation::racecheck {
namespace {

enum class Kind { read, write, atomic };

// Who an access stands for: a thread, or several of the threads of its warp, block or grid.
enum class Reach : std::uint64_t { thread, warp, block, grid };

// The last access of a thread, or of several that nothing orders: then at the time of the last, which all that comes
// after every one of them comes after. 64 bits: tick 31, atomic 1, reach 2, block 20, thread 10; 0 is none.
class Access {
 public:
  Access() = default;
  Access(Tick tick, bool atomic, Reach reach, std::uint32_t block, std::uint32_t thread)
      : bits_(std::uint64_t{tick} << 33 | std::uint64_t{atomic} << 32 | static_cast<std::uint64_t>(reach) << 30 |
              (block & 0xFFFFFu) << 10 | thread) {}
  Tick tick() const { return static_cast<Tick>(bits_ >> 33); }
  bool atomic() const { return (bits_ >> 32 & 1) != 0; }
  Reach reach() const { return static_cast<Reach>(bits_ >> 30 & 3); }
  std::uint32_t block() const { return static_cast<std::uint32_t>(bits_ >> 10 & 0xFFFFFu); }
  std::uint32_t thread() const { return static_cast<std::uint32_t>(bits_ & 0x3FFu); }
  bool operator==(const Access&) const = default;

 private:
  std::uint64_t bits_ = 0;
};

// Of a byte.
struct Cell {
  Access written, read;  // the last write, or the last atomic additions; the reads since
  bool operator==(const Cell&) const = default;
};

constexpr std::uintptr_t page_bytes = 4096;

// What is known of a host thread's memory.
class Shadow {
 public:
  // body(cells, count) for the pieces of [begin, begin + bytes); of memory that nobody has come to if `all`.
  template <class Body>
  void for_cells(const void* begin, std::size_t bytes, bool all, const Body& body) {
    for (auto at = reinterpret_cast<std::uintptr_t>(begin); bytes > 0;) {
      const std::size_t offset = at % page_bytes, count = std::min(bytes, page_bytes - offset);
      if (Cell* const page = cells(at / page_bytes, all)) body(page + offset, count);
      at += count;
      bytes -= count;
    }
  }

 private:
  Cell* cells(std::uintptr_t page, bool wanted) {
    Recent& recent = recent_[page % std::size(recent_)];
    if (recent.cells != nullptr && recent.page == page) return recent.cells;
    auto found = pages_.find(page);
    if (found == pages_.end()) {
      if (!wanted) return nullptr;
      found = pages_.emplace(page, std::make_unique<Cell[]>(page_bytes)).first;
    }
    recent = {page, found->second.get()};
    return recent.cells;
  }

  struct Recent {
    std::uintptr_t page;
    Cell* cells;
  };
  std::unordered_map<std::uintptr_t, std::unique_ptr<Cell[]>> pages_;
  Recent recent_[512] = {};
};
Shadow& shadow() {
  static thread_local Shadow of_host_thread;
  return of_host_thread;
}

// Of this host thread.
constinit thread_local struct {
  bool running = false;
  Tick tick = 0;
  Thread now{};
} state;

// What is done meanwhile is ours, not the kernel's.
class Paused {
 public:
  Paused() : running_(std::exchange(state.running, false)) {}
  Paused(const Paused&) = delete;
  Paused& operator=(const Paused&) = delete;
  ~Paused() { state.running = running_; }

 private:
  bool running_;
};

// Whether the running thread comes after all that an access stands for.
bool follows(const Thread& now, Access old) {
  if (old.tick() < now.launch_ordered) return true;
  if (old.reach() == Reach::grid || old.block() != (now.block & 0xFFFFFu)) return false;
  if (old.tick() < now.block_ordered) return true;
  if (old.reach() == Reach::block || old.thread() / 32 != now.thread / 32) return false;
  if (old.tick() < now.warp_ordered) return true;
  return old.reach() == Reach::thread && old.thread() == now.thread;
}

// The running thread's access, and with it what it does not come after.
Access joined(const Thread& now, Access old, Access mine) {
  if (follows(now, old)) return mine;
  const Reach reach = old.reach() == Reach::grid || old.block() != mine.block()             ? Reach::grid
                      : old.reach() == Reach::block || old.thread() / 32 != now.thread / 32 ? Reach::block
                                                                                            : Reach::warp;
  return {mine.tick(), mine.atomic(), reach, mine.block(), mine.thread()};
}

[[noreturn]] void fail(Kind kind, const void* at, std::size_t bytes, Access old, bool old_read, const void* code) {
  constexpr const char* verbs[] = {"reads", "writes", "adds to"};
  const Thread& now = state.now;
  const auto address = reinterpret_cast<std::uintptr_t>(at),
             from_shared = address - reinterpret_cast<std::uintptr_t>(now.shared);
  const bool shared = from_shared < now.shared_bytes,
             other_block = old.reach() == Reach::grid || old.block() != (now.block & 0xFFFFFu);
  const std::string who = other_block                    ? "another block"
                          : old.reach() == Reach::thread ? "thread " + std::to_string(old.thread())
                                                         : "its block";
  Dl_info file{};
  dladdr(code, &file);
  std::fprintf(stderr,
               "racecheck: block %d, thread %d %s %zu bytes of %s %#zx, which %s has %s, and no barrier is between: "
               "addr2line -ife %s %#zx\n",
               position.block, position.thread, verbs[static_cast<int>(kind)], bytes,
               shared ? "shared memory at" : "memory at", shared ? from_shared : address, who.c_str(),
               old_read ? "read" : "written", file.dli_fname,
               reinterpret_cast<std::uintptr_t>(code) - reinterpret_cast<std::uintptr_t>(file.dli_fbase) - 1);
  std::abort();
}

void access(Kind kind, const void* at, std::size_t bytes, const void* code) {
  if (!state.running) return;
  const Thread& now = state.now;
  if (static_cast<std::size_t>(static_cast<const char*>(at) - now.stack) < now.stack_bytes) return;
  const Paused paused;
  const Access mine(state.tick, kind == Kind::atomic, Reach::thread, now.block, now.thread);
  const auto next = [&](const Cell& cell) -> Cell {
    const bool both_atomic = kind == Kind::atomic && cell.written.atomic();
    if (!both_atomic && !follows(now, cell.written)) fail(kind, at, bytes, cell.written, false, code);
    if (kind == Kind::read) return {cell.written, joined(now, cell.read, mine)};
    if (!follows(now, cell.read)) fail(kind, at, bytes, cell.read, true, code);
    if (kind == Kind::write) return {mine, {}};
    return {both_atomic ? joined(now, cell.written, mine) : mine, cell.read};
  };
  shadow().for_cells(at, bytes, true, [&](Cell* cells, std::size_t count) {
    // Most often the bytes of a number have the same past.
    Cell before = cells[0];
    const Cell after = next(before);
    cells[0] = after;
    for (std::size_t i = 1; i < count; ++i) cells[i] = cells[i] == before ? after : next(cells[i]);
  });
}

}  // namespace

Tick next_launch() {
  constexpr Tick late = 1u << 30;
  if (state.tick > late) {
    state.tick = 0;
    shadow() = Shadow();
  }
  return next_tick();
}
Tick next_tick() { return ++state.tick; }

void run_thread(const Thread& thread) {
  state.now = thread;
  state.running = true;
}
void run_host() { state.running = false; }

void read(const void* begin, std::size_t bytes) { access(Kind::read, begin, bytes, __builtin_return_address(0)); }

void forget(void* begin, std::size_t bytes) {
  const Paused paused;
  shadow().for_cells(begin, bytes, false,
                     [](Cell* cells, std::size_t count) { std::fill(cells, cells + count, Cell{}); });
}

}  // namespace fokker::kernels::emulation::racecheck

namespace racecheck = fokker::kernels::emulation::racecheck;

// What a kernel's thread has allocated may have been another's.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* const memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) throw std::bad_alloc();
  if (racecheck::state.running) racecheck::forget(memory, bytes);
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

// ---- the compiler's calls -------------------------------------------------------------------------------------------

namespace {

using racecheck::Kind;

// As a function's first statement.
#define FOKKER_SEEN(kind, at, bytes) \
  racecheck::access(kind, const_cast<const void*>(at), bytes, __builtin_return_address(0))

}  // namespace

#define FOKKER_PLAIN(name, kind, bytes) \
  void __tsan_##name##bytes(void* at) { FOKKER_SEEN(kind, at, bytes); }
#define FOKKER_PLAIN_SIZES(name, kind) \
  FOKKER_PLAIN(name, kind, 1)          \
  FOKKER_PLAIN(name, kind, 2) FOKKER_PLAIN(name, kind, 4) FOKKER_PLAIN(name, kind, 8) FOKKER_PLAIN(name, kind, 16)

#define FOKKER_FETCH(bits, type, operation)                                                  \
  type __tsan_atomic##bits##_fetch_##operation(volatile void* at, type v, int) {             \
    FOKKER_SEEN(Kind::atomic, at, sizeof(type));                                             \
    return __atomic_fetch_##operation(static_cast<volatile type*>(at), v, __ATOMIC_SEQ_CST); \
  }
#define FOKKER_COMPARE(bits, type, strength, weak)                                                        \
  bool __tsan_atomic##bits##_compare_exchange_##strength(volatile void* at, void* is, type v, int, int) { \
    FOKKER_SEEN(Kind::atomic, at, sizeof(type));                                                          \
    return __atomic_compare_exchange_n(static_cast<volatile type*>(at), static_cast<type*>(is), v, weak,  \
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                               \
  }
#define FOKKER_COMPARE_VALUE(bits, type)                                                                       \
  type __tsan_atomic##bits##_compare_exchange_val(volatile void* at, type is, type v, int first, int second) { \
    __tsan_atomic##bits##_compare_exchange_strong(at, &is, v, first, second);                                  \
    return is;                                                                                                 \
  }
#define FOKKER_ATOMIC(bits, type)                                                     \
  type __tsan_atomic##bits##_load(const volatile void* at, int) {                     \
    FOKKER_SEEN(Kind::atomic, at, sizeof(type));                                      \
    return __atomic_load_n(static_cast<const volatile type*>(at), __ATOMIC_SEQ_CST);  \
  }                                                                                   \
  void __tsan_atomic##bits##_store(volatile void* at, type v, int) {                  \
    FOKKER_SEEN(Kind::atomic, at, sizeof(type));                                      \
    __atomic_store_n(static_cast<volatile type*>(at), v, __ATOMIC_SEQ_CST);           \
  }                                                                                   \
  type __tsan_atomic##bits##_exchange(volatile void* at, type v, int) {               \
    FOKKER_SEEN(Kind::atomic, at, sizeof(type));                                      \
    return __atomic_exchange_n(static_cast<volatile type*>(at), v, __ATOMIC_SEQ_CST); \
  }                                                                                   \
  FOKKER_FETCH(bits, type, add)                                                       \
  FOKKER_FETCH(bits, type, sub)                                                       \
  FOKKER_FETCH(bits, type, and)                                                       \
  FOKKER_FETCH(bits, type, or)                                                        \
  FOKKER_FETCH(bits, type, xor)                                                       \
  FOKKER_FETCH(bits, type, nand)                                                      \
  FOKKER_COMPARE(bits, type, strong, false) FOKKER_COMPARE(bits, type, weak, true) FOKKER_COMPARE_VALUE(bits, type)

extern "C" {

FOKKER_PLAIN_SIZES(read, Kind::read)
FOKKER_PLAIN_SIZES(write, Kind::write)
FOKKER_PLAIN_SIZES(unaligned_read, Kind::read)
FOKKER_PLAIN_SIZES(unaligned_write, Kind::write)
void __tsan_read_range(void* at, unsigned long bytes) { FOKKER_SEEN(Kind::read, at, bytes); }
void __tsan_write_range(void* at, unsigned long bytes) { FOKKER_SEEN(Kind::write, at, bytes); }

FOKKER_ATOMIC(8, unsigned char)
FOKKER_ATOMIC(16, unsigned short)
FOKKER_ATOMIC(32, unsigned)
FOKKER_ATOMIC(64, unsigned long)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}

// The linker leads calls of memcpy and so on here, to which a compiler may turn accesses of its own accord.
void* __real_memcpy(void* to, const void* from, std::size_t bytes);
void* __real_memmove(void* to, const void* from, std::size_t bytes);
void* __real_memset(void* at, int value, std::size_t bytes);
void* __wrap_memcpy(void* to, const void* from, std::size_t bytes) {
  FOKKER_SEEN(Kind::read, from, bytes);
  FOKKER_SEEN(Kind::write, to, bytes);
  return __real_memcpy(to, from, bytes);
}
void* __wrap_memmove(void* to, const void* from, std::size_t bytes) {
  FOKKER_SEEN(Kind::read, from, bytes);
  FOKKER_SEEN(Kind::write, to, bytes);
  return __real_memmove(to, from, bytes);
}
void* __wrap_memset(void* at, int value, std::size_t bytes) {
  FOKKER_SEEN(Kind::write, at, bytes);
  return __real_memset(at, value, bytes);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void*) {}
void __tsan_vptr_update(void*, void*) {}

}  // extern "C"
