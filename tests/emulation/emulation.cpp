// The scheduler of the emulation: fibers, the choice of the next one, and the operations at which they meet.
//
// Every host thread has its own scheduler with fibers that live as long as it does: a fiber runs a kernel, parks, and
// runs the next block's. Where a block has ended, the next one takes its fibers. Fibers switch to each other directly,
// one switch for each lane of an operation; the last lane to arrive computes for all. A switch is a _setjmp and a
// _longjmp, which make no system call: 50 ns or so. Sanitizers are told of it; ThreadSanitizer watches longjmp all the
// same, so that with it a switch is a getcontext and a setcontext, and takes 1 µs.
#undef _FORTIFY_SOURCE  // its longjmp refuses to go to another stack
#include "emulation.hpp"

#ifdef __F16C__
#include <immintrin.h>
#endif
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "racecheck.hpp"
#include "tests/sanitizer.hpp"

#ifdef FOKKER_ASAN
#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FOKKER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace fokker::kernels {
namespace emulation {

constinit thread_local Position position;

namespace {

constexpr int lanes = 32, most_threads = 1024, most_shared_bytes = 227 << 10;
constexpr int most_blocks_at_once = 16;
#ifdef FOKKER_TSAN  // which takes some 8000 fibers in all
constexpr int most_threads_at_once = 2 * most_threads;
#else
constexpr int most_threads_at_once = 4 * most_threads;
#endif
constexpr std::size_t stack_bytes = 256 << 10;

[[noreturn]] void fail(const std::string& sentence) {
  std::fprintf(stderr, "emulation: %s\n", sentence.c_str());
  std::abort();
}

std::string place() {
  return "block " + std::to_string(position.block) + " of " + std::to_string(position.blocks) + ", thread " +
         std::to_string(position.thread) + " of " + std::to_string(position.threads);
}

// Where a thread stands between two of its turns.
enum class At { ready, sync_block, sync_warp, shuffle, load, load_transposed, multiply_add, returned, count };
constexpr const char* names[] = {"can go on",
                                 "wait at sync_block",
                                 "wait at sync_warp",
                                 "wait at shuffle_xor",
                                 "wait at load_matrices",
                                 "wait at load_matrices_transposed",
                                 "wait at multiply_add",
                                 "have returned"};

struct Shuffle {
  std::uint64_t bits;
  int mask;
};
struct Load {
  std::uint32_t* r;
  const void* row;
};
struct MultiplyAdd {
  float* c;
  const std::uint32_t* a;
  std::uint32_t b0, b1;
};

// What the lanes of a warp brought to an operation: pointers to one of the structs above.
using Operands = std::array<void*, lanes>;
template <class T>
T& of(const Operands& operands, int lane) {
  return *static_cast<T*>(operands[lane]);
}

void complete_shuffle(const Operands& operands) {
  std::array<std::uint64_t, lanes> bits;
  for (int l = 0; l < lanes; ++l) bits[l] = of<Shuffle>(operands, l).bits;
  for (int l = 0; l < lanes; ++l) of<Shuffle>(operands, l).bits = bits[l ^ of<Shuffle>(operands, l).mask];
}

void complete_load(const Operands& operands, bool transposed) {
  std::uint16_t matrix[4][8][8];
  for (int l = 0; l < lanes; ++l) std::memcpy(matrix[l / 8][l % 8], of<Load>(operands, l).row, 16);
  for (int l = 0; l < lanes; ++l) {
    const int g = l / 4, q = l % 4 * 2;
    for (int m = 0; m < 4; ++m) {
      const std::uint32_t low = transposed ? matrix[m][q][g] : matrix[m][g][q];
      const std::uint32_t high = transposed ? matrix[m][q + 1][g] : matrix[m][g][q + 1];
      of<Load>(operands, l).r[m] = low | high << 16;
    }
  }
}

// Eight halves.
void widen(const std::uint16_t* halves, double* numbers) {
#ifdef __F16C__
  const __m256 floats = _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(halves)));
  _mm256_store_pd(numbers, _mm256_cvtps_pd(_mm256_castps256_ps128(floats)));
  _mm256_store_pd(numbers + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(floats, 1)));
#else
  for (int i = 0; i < 8; ++i) numbers[i] = float_of_half(halves[i]);
#endif
}

void complete_multiply_add(const Operands& operands) {
  // A row at a time: left to itself g++ takes numbers one by one here.
  using Row = double __attribute__((vector_size(8 * sizeof(double))));
  alignas(Row) std::uint16_t a_halves[16][16], b_halves[16][8];
  alignas(Row) double a[16][16];
  Row b[16];
  float c[16][8];
  for (int l = 0; l < lanes; ++l) {
    const MultiplyAdd& mine = of<MultiplyAdd>(operands, l);
    const int g = l / 4, q = l % 4 * 2;
    for (int r = 0; r < 4; ++r) std::memcpy(&a_halves[g + r % 2 * 8][q + r / 2 * 8], &mine.a[r], sizeof mine.a[r]);
    b_halves[q][g] = static_cast<std::uint16_t>(mine.b0);
    b_halves[q + 1][g] = static_cast<std::uint16_t>(mine.b0 >> 16);
    b_halves[q + 8][g] = static_cast<std::uint16_t>(mine.b1);
    b_halves[q + 9][g] = static_cast<std::uint16_t>(mine.b1 >> 16);
    for (int r = 0; r < 4; ++r) c[g + r / 2 * 8][q + r % 2] = mine.c[r];
  }
  for (int k = 0; k < 16; ++k) {
    for (int half = 0; half < 16; half += 8) widen(&a_halves[k][half], &a[k][half]);
    widen(b_halves[k], reinterpret_cast<double*>(&b[k]));
  }
  for (int i = 0; i < 16; ++i) {
    Row sum;
    for (int j = 0; j < 8; ++j) sum[j] = c[i][j];
    for (int k = 0; k < 16; ++k) sum += a[i][k] * b[k];
    for (int j = 0; j < 8; ++j) {
      const auto nearest = static_cast<float>(sum[j]);
      // The float next to another towards zero has the bits before its own; without a branch, which would go
      // either way as often.
      c[i][j] = float_of(bits_of(nearest) - (std::fabs(double{nearest}) > std::fabs(sum[j])));
    }
  }
  for (int l = 0; l < lanes; ++l) {
    const int g = l / 4, q = l % 4 * 2;
    for (int r = 0; r < 4; ++r) of<MultiplyAdd>(operands, l).c[r] = c[g + r / 2 * 8][q + r % 2];
  }
}

void complete(At operation, const Operands& operands) {
  switch (operation) {
    case At::shuffle: return complete_shuffle(operands);
    case At::load: return complete_load(operands, false);
    case At::load_transposed: return complete_load(operands, true);
    case At::multiply_add: return complete_multiply_add(operands);
    default: return;  // sync_warp computes nothing
  }
}

#ifdef FOKKER_ASAN
// The C library's own: AddressSanitizer's would take the frames of the fiber that it leaves for ended ones.
void jump(jmp_buf to, int value) {
  static const auto longjmp_of_libc =
      reinterpret_cast<void (*)(jmp_buf, int)>(dlsym(dlopen("libc.so.6", RTLD_LAZY), "_longjmp"));
  longjmp_of_libc(to, value);
}
#elif !defined(FOKKER_TSAN)
[[noreturn]] void jump(jmp_buf to, int value) { _longjmp(to, value); }
#endif

// Memory below which a page stops what outgrows it.
class Stack {
 public:
  Stack() : guard_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    memory_ = static_cast<char*>(mmap(nullptr, guard_ + stack_bytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(memory_, guard_, PROT_NONE) != 0) fail("no memory for a fiber's stack");
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() {
#ifdef FOKKER_ASAN
    ASAN_UNPOISON_MEMORY_REGION(begin(), stack_bytes);  // the frames of a parked fiber end here
#endif
    munmap(memory_, guard_ + stack_bytes);
  }
  char* begin() const { return memory_ + guard_; }

 private:
  std::size_t guard_;
  char* memory_;
};

// The host thread, or a fiber.
struct Fiber {
  ucontext_t context;
#ifdef FOKKER_TSAN
  bool leaving;
#else
  jmp_buf place;
  bool started = false;
#endif
#ifdef FOKKER_ASAN
  const void* stack_begin = nullptr;
  std::size_t stack_size = 0;
  void* fake_stack = nullptr;
#endif
#ifdef FOKKER_TSAN
  void* tsan = nullptr;
#endif
  int number = 0;
  int slot = 0;  // of its block
  At at = At::returned;
};

void enter();

struct OwnedFiber : Fiber {
  Stack stack;
  explicit OwnedFiber(int index) {
    number = index;
    getcontext(&context);
    context.uc_stack.ss_sp = stack.begin();
    // Stacks lie a multiple of a page apart: begun alike, those of a warp would share a few sets of the cache.
    context.uc_stack.ss_size = stack_bytes - static_cast<std::size_t>(index) * 7 % 64 * 64;
    context.uc_link = nullptr;
    makecontext(&context, enter, 0);
#ifdef FOKKER_ASAN
    stack_begin = stack.begin();
    stack_size = stack_bytes;
#endif
#ifdef FOKKER_TSAN
    tsan = __tsan_create_fiber(0);
#endif
  }
#ifdef FOKKER_TSAN
  ~OwnedFiber() { __tsan_destroy_fiber(tsan); }
#endif
};

struct Warp {
  std::array<std::uint8_t, lanes> ready;  // lanes that can go on, the first `ready_count`
  int ready_count = 0;
  int place = 0;                                         // of this warp in ready_warps_, where a lane is ready
  std::array<int, static_cast<int>(At::count)> arrived;  // lanes at each operation
  Operands operands;
  racecheck::Tick ordered = 0;  // what its lanes did before is done before whatever they do now
};

// A block that runs.
struct Block {
  int index = 0;                 // in the grid
  int live = 0, at_barrier = 0;  // threads that have not returned; those of them at sync_block
  std::uint32_t number = 0;      // of those that this launch has begun
  racecheck::Tick ordered = 0;   // as a warp's
  std::unique_ptr<char, void (*)(void*)> shared{nullptr, std::free};
};

class Scheduler {
 public:
  Scheduler() {
    const char* seed = std::getenv("FOKKER_EMULATION_SEED");
    random_ = seed != nullptr ? std::strtoull(seed, nullptr, 0) : 1;
  }

  void set_seed(std::uint64_t seed) { random_ = seed; }

  void run_only(std::vector<int> blocks) { only_ = std::move(blocks); }

  int run(const LaunchShape& shape, void (*body)(const void*), const void* argument) {
    shape_ = shape;
    body_ = body;
    argument_ = argument;
    order_blocks();
    const int at_once = std::min<int>({static_cast<int>(waiting_.size()), most_threads_at_once / shape.threads,
                                       1 + static_cast<int>(below(most_blocks_at_once))});
    const int fibers = at_once * shape.threads;
    while (static_cast<int>(fibers_.size()) < fibers) {
      fibers_.push_back(std::make_unique<OwnedFiber>(static_cast<int>(fibers_.size())));
    }
    blocks_.resize(at_once);
    warps_.resize(fibers / lanes);
    launched_ = racecheck::next_launch();
    begun_ = 0;
    running_blocks_ = at_once;
    for (int slot = 0; slot < at_once; ++slot) begin_block(slot);
    leave();
    blocks_.clear();
    position = {};
    return cudaSuccess;
  }

  // The running thread waits for its block.
  void meet_block() {
    need_kernel();
    racecheck::run_host();
    running_->at = At::sync_block;
    ++block().at_barrier;
    release_block_if_complete();
    leave();
  }

  // The running thread waits for its warp; the operation is done on return.
  void meet_warp(At operation, void* operands) {
    need_kernel();
    racecheck::run_host();
    const int w = running_->number / lanes;
    Warp& warp = warps_[w];
    running_->at = operation;
    warp.operands[running_->number % lanes] = operands;
    if (++warp.arrived[static_cast<int>(operation)] == lanes) {
      complete(operation, warp.operands);
      // The others converge a warp and order no memory: so the CUDA programming guide of shuffles, and the PTX
      // documentation names no order for ldmatrix and mma either.
      if (operation == At::sync_warp) warp.ordered = racecheck::next_tick();
      warp.arrived[static_cast<int>(operation)] = 0;
      for (int l = 0; l < lanes; ++l) make_ready(w * lanes + l);
    }
    leave();
  }

  bool is_shared(const void* begin, std::size_t bytes) const {
    const auto at = reinterpret_cast<std::uintptr_t>(begin), shared = reinterpret_cast<std::uintptr_t>(position.shared);
    return at >= shared && at + bytes <= shared + shape_.shared_bytes;
  }

  // A fiber's life: it returns here from one kernel and goes on with the next.
  [[noreturn]] void live() {
#ifdef FOKKER_ASAN
    const void* begin;
    std::size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &begin, &size);
    if (previous_ == &host_) host_.stack_begin = begin, host_.stack_size = size;
#endif
    for (;;) {
      body_(argument_);
      racecheck::run_host();
      running_->at = At::returned;
      if (--block().live > 0) {
        release_block_if_complete();
      } else if (!waiting_.empty()) {
        begin_block(running_->slot);
      } else {
        --running_blocks_;
      }
      leave();
    }
  }

 private:
  void need_kernel() const {
    if (running_ == &host_) fail("an operation of device code is called outside a kernel");
  }

  Block& block() { return blocks_[running_->slot]; }

  // The blocks of the launch, the first to begin last.
  void order_blocks() {
    if (only_.empty()) {
      waiting_.resize(shape_.blocks);
      std::iota(waiting_.begin(), waiting_.end(), 0);
    } else {
      waiting_ = only_;
      for (int& index : waiting_) {
        if (index < 0) index += shape_.blocks;
        if (index < 0 || index >= shape_.blocks)
          fail("a block was chosen beyond a grid of " + std::to_string(shape_.blocks));
      }
    }
    for (std::size_t i = waiting_.size() - 1; i > 0; --i) std::swap(waiting_[i], waiting_[below(i + 1)]);
  }

  // The next block takes a slot: its threads' fibers, warps and place among blocks_.
  void begin_block(int slot) {
    Block& block = blocks_[slot];
    block.index = waiting_.back();
    waiting_.pop_back();
    block.live = shape_.threads;
    block.at_barrier = 0;
    block.number = begun_++;
    block.ordered = launched_;
    block.shared.reset(static_cast<char*>(std::malloc(shape_.shared_bytes)));
    if (block.shared == nullptr && shape_.shared_bytes > 0) fail("no memory for a block's shared memory");
    if (shape_.shared_bytes > 0) std::memset(block.shared.get(), 0xFF, shape_.shared_bytes);
    racecheck::forget(block.shared.get(), shape_.shared_bytes);
    // Warps in turn after every operation, warps that run a while, warps that run until they have to wait: bugs of
    // neighbouring operations show under the first, those of warps that overtake one another by many under the last.
    constexpr std::uint32_t choices[] = {0, 0xF000, 0x10000};
    patience_ = choices[below(3)];
    const int first = slot * shape_.threads;
    for (int w = first / lanes; w < (first + shape_.threads) / lanes; ++w) {
      warps_[w].ready_count = 0;
      warps_[w].arrived.fill(0);
      warps_[w].ordered = launched_;
    }
    for (int i = first; i < first + shape_.threads; ++i) {
      fibers_[i]->slot = slot;
      make_ready(i);
    }
  }

  void release_block_if_complete() {
    Block& all = block();
    if (all.at_barrier == 0 || all.at_barrier < all.live) return;
    all.at_barrier = 0;
    all.ordered = racecheck::next_tick();
    const int first = running_->slot * shape_.threads;
    for (int i = first; i < first + shape_.threads; ++i) {
      if (fibers_[i]->at == At::sync_block) make_ready(i);
    }
  }

  void make_ready(int fiber) {
    fibers_[fiber]->at = At::ready;
    Warp& warp = warps_[fiber / lanes];
    if (warp.ready_count == 0) {
      warp.place = static_cast<int>(ready_warps_.size());
      ready_warps_.push_back(fiber / lanes);
    }
    warp.ready[warp.ready_count++] = static_cast<std::uint8_t>(fiber % lanes);
  }

  Fiber& next() {
    if (running_blocks_ == 0) return host_;
    if (ready_warps_.empty()) fail(deadlock());
    const bool stay =
        running_ != &host_ && warps_[running_->number / lanes].ready_count > 0 && (random() & 0xFFFFu) < patience_;
    const int w = stay ? running_->number / lanes : ready_warps_[below(ready_warps_.size())];
    Warp& warp = warps_[w];
    const std::uint32_t choice = below(warp.ready_count);
    const int lane = warp.ready[choice];
    warp.ready[choice] = warp.ready[--warp.ready_count];
    if (warp.ready_count == 0) {
      ready_warps_[warp.place] = ready_warps_.back();
      warps_[ready_warps_[warp.place]].place = warp.place;
      ready_warps_.pop_back();
    }
    return *fibers_[w * lanes + lane];
  }

  // Gives the turn to the next thread, or to the host where all have returned; comes back when it is this one's again.
  void leave() {
    Fiber &from = *running_, &to = next();
    if (&to != &host_) place_thread(to);
    if (&from == &to) return;
    previous_ = &from;
    running_ = &to;
#ifdef FOKKER_ASAN
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_begin, to.stack_size);
#endif
#ifdef FOKKER_TSAN
    if (from.tsan == nullptr) from.tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.tsan, 0);
#endif
#ifdef FOKKER_TSAN
    from.leaving = true;
    getcontext(&from.context);  // comes back a second time, when `from` is resumed
    if (from.leaving) {
      from.leaving = false;
      setcontext(&to.context);
    }
#else
    from.started = true;
    if (_setjmp(from.place) == 0) {
      if (to.started) jump(to.place, 1);
      setcontext(&to.context);
    }
#endif
#ifdef FOKKER_ASAN
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
  }

  void place_thread(const Fiber& fiber) {
    const Block& block = blocks_[fiber.slot];
    position = {fiber.number - fiber.slot * shape_.threads, shape_.threads, block.index, shape_.blocks,
                block.shared.get()};
    racecheck::run_thread({.block = block.number,
                           .thread = static_cast<std::uint32_t>(position.thread),
                           .launch_ordered = launched_,
                           .block_ordered = block.ordered,
                           .warp_ordered = warps_[fiber.number / lanes].ordered,
                           .stack = fibers_[fiber.number]->stack.begin(),
                           .shared = position.shared,
                           .stack_bytes = stack_bytes,
                           .shared_bytes = static_cast<std::size_t>(shape_.shared_bytes)});
  }

  // Of the first block that has threads left.
  std::string deadlock() const {
    const auto stuck = std::find_if(blocks_.begin(), blocks_.end(), [](const Block& block) { return block.live > 0; });
    const int first_warp = static_cast<int>(stuck - blocks_.begin()) * shape_.threads / lanes;
    std::string text = "deadlock in block " + std::to_string(stuck->index) + " of " + std::to_string(shape_.blocks) +
                       ", where no thread can go on:";
    for (int w = 0; w < shape_.threads / lanes; ++w) {
      text += (w > 0 ? "; warp " : " warp ") + std::to_string(w);
      const auto at_of = [&](int lane) { return fibers_[(first_warp + w) * lanes + lane]->at; };
      for (int first = 0; first < lanes;) {
        int last = first;
        while (last + 1 < lanes && at_of(last + 1) == at_of(first)) ++last;
        text += (first > 0 ? ", lanes " : ": lanes ") + std::to_string(first) + " to " + std::to_string(last) + " " +
                names[static_cast<int>(at_of(first))];
        first = last + 1;
      }
    }
    return text;
  }

  // splitmix64
  std::uint64_t random() {
    std::uint64_t z = random_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  std::uint32_t below(std::uint64_t n) { return static_cast<std::uint32_t>((random() >> 32) * n >> 32); }

  Fiber host_;
  // Of `slot`, the fibers from slot · threads on are the threads of blocks_[slot].
  std::vector<std::unique_ptr<OwnedFiber>> fibers_;
  std::vector<Block> blocks_;
  std::vector<Warp> warps_;
  std::vector<int> ready_warps_;  // those with a lane that can go on, in no order
  std::vector<int> waiting_;      // blocks that have not begun, the next one last
  std::vector<int> only_;
  Fiber *running_ = &host_, *previous_ = &host_;
  LaunchShape shape_{};
  void (*body_)(const void*) = nullptr;
  const void* argument_ = nullptr;
  int running_blocks_ = 0;
  std::uint32_t begun_ = 0;     // blocks of this launch
  std::uint32_t patience_ = 0;  // of 65536: how likely a warp keeps the turn
  racecheck::Tick launched_ = 0;
  std::uint64_t random_;
};

Scheduler& scheduler() {
  static thread_local Scheduler instance;
  return instance;
}

void enter() { scheduler().live(); }

}  // namespace

void set_seed(std::uint64_t seed) { scheduler().set_seed(seed); }
void run_only(std::vector<int> blocks) { scheduler().run_only(std::move(blocks)); }

namespace {

struct Allowed {
  std::mutex mutex;
  std::map<const void*, int> bytes;  // by kernel
};
Allowed& allowed() {
  static Allowed all;
  return all;
}

}  // namespace

int allow(const void* kernel, int shared_bytes) {
  if (shared_bytes < 0 || shared_bytes > most_shared_bytes) return cudaErrorInvalidValue;
  const std::lock_guard lock(allowed().mutex);
  if (shared_bytes > 0) allowed().bytes[kernel] = shared_bytes;
  return cudaSuccess;
}

int check_launch(const void* kernel, const LaunchShape& shape) {
  if (position.threads > 0) fail("a kernel launches a kernel (" + place() + ")");
  if (shape.blocks < 1 || shape.threads < 1 || shape.threads > most_threads || shape.threads % lanes != 0 ||
      shape.shared_bytes < 0 || shape.shared_bytes > most_shared_bytes) {
    return remembered(cudaErrorInvalidConfiguration);
  }
  if (shape.shared_bytes <= 48 << 10) return cudaSuccess;
  const std::lock_guard lock(allowed().mutex);
  const auto found = allowed().bytes.find(kernel);
  const bool fits = found != allowed().bytes.end() && shape.shared_bytes <= found->second;
  return remembered(fits ? cudaSuccess : cudaErrorInvalidValue);
}

int run(const LaunchShape& shape, void (*body)(const void*), const void* argument) {
  return scheduler().run(shape, body, argument);
}

std::uint64_t shuffle_xor_bits(std::uint64_t bits, int mask) {
  if (mask < 0 || mask >= lanes) {
    fail("shuffle_xor by " + std::to_string(mask) + " in " + place() + "; allowed: 0 to 31");
  }
  Shuffle operands{bits, mask};
  scheduler().meet_warp(At::shuffle, &operands);
  return operands.bits;
}

namespace {

void load(At operation, std::uint32_t (&r)[4], const void* row) {
  constexpr std::size_t row_bytes = 16;
  if (reinterpret_cast<std::uintptr_t>(row) % row_bytes != 0) {
    fail("a row of load_matrices is not aligned to 16 bytes in " + place());
  }
  if (!scheduler().is_shared(row, row_bytes)) {
    fail("a row of load_matrices lies outside the shared memory of " + place());
  }
  racecheck::read(row, row_bytes);
  Load operands{r, row};
  scheduler().meet_warp(operation, &operands);
}

}  // namespace
}  // namespace emulation

void sync_block() { emulation::scheduler().meet_block(); }
void sync_warp() { emulation::scheduler().meet_warp(emulation::At::sync_warp, nullptr); }

void load_matrices(std::uint32_t (&r)[4], const void* row) { emulation::load(emulation::At::load, r, row); }
void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  emulation::load(emulation::At::load_transposed, r, row);
}

void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulation::MultiplyAdd operands{c, a, b0, b1};
  emulation::scheduler().meet_warp(emulation::At::multiply_add, &operands);
}

}  // namespace fokker::kernels
