#pragma once

// Races between the threads of a kernel: two accesses to one byte, one of them at least a write and not both atomic,
// that no barrier orders. Found whatever the schedule, in the variant of the emulation whose device code is compiled
// with -fsanitize=thread: the compiler then calls a function at every access, and those functions are ours
// (racecheck.cpp). One sentence says what met, and the process aborts.
//
// What orders: a launch all that ran before it, sync_block a block, sync_warp a warp, and nothing else. Atomic
// additions order nothing and do not race with one another. Shuffles, ldmatrix and mma bring a warp together and order
// no memory, so stricter than a run on any one device shows.
//
// Its limit: launches are ordered as they ran, whatever their streams. Two kernels in two streams without an event
// between them race on a device and not here; such a fault shows where the streams' random mode (streams.hpp) runs them
// in another order, and then in the results.
//
// ThreadSanitizer's own runtime keeps the last four accesses to eight bytes and a clock of every thread's time in each
// thread. Barriers are of whole blocks and warps here, so that one time of each is enough, and a byte needs to know who
// has written it last, and who has read it since: no access is forgotten, and there may be any number of threads.
#include <cstddef>
#include <cstdint>

namespace fokker::kernels::emulation::racecheck {

// Time as barriers make it: it goes on at each one's completion and at each launch.
using Tick = std::uint32_t;

// The thread that runs, and what is done before its accesses: all accesses in the block, the warp, before these ticks.
struct Thread {
  std::uint32_t block, thread;  // block: its number among those that the launch has begun
  Tick launch_ordered, block_ordered, warp_ordered;
  const char *stack, *shared;  // accesses to the thread's own stack are nobody else's
  std::size_t stack_bytes, shared_bytes;
};

#ifdef FOKKER_RACECHECK

Tick next_launch();
Tick next_tick();
void run_thread(const Thread& thread);
void run_host();  // or the emulation itself
void read(const void* begin, std::size_t bytes);
// The memory is another's from here on.
void forget(void* begin, std::size_t bytes);

#else

inline Tick next_launch() { return 0; }
inline Tick next_tick() { return 0; }
inline void run_thread(const Thread&) {}
inline void run_host() {}
inline void read(const void*, std::size_t) {}
inline void forget(void*, std::size_t) {}

#endif

}  // namespace fokker::kernels::emulation::racecheck
