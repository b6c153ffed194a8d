#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "fokker/error.hpp"
#include "fokker/public.hpp"

namespace FOKKER_PUBLIC fokker {

// Processes that do one piece of work together, numbered from 0 on. The library knows no way to pass messages itself: an
// application hands in one of these over what it has, as fokker's own programs do over MPI. All ranks make the same calls
// in the same order, one at a time, from one thread each; a call of several ranks takes equal numbers of bytes on all of
// them. A call throws Error, or ends the process, where another rank has ended or took another number of bytes.
class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual int rank() const = 0;  // of this process, from 0 to size() − 1
  virtual int size() const = 0;

  // From one rank to another, in the order of the calls. `bytes` may be used again when send() returns, which may be
  // before or after the other rank receives: two ranks that both send to each other first may wait for ever.
  virtual void send(std::span<const std::byte> bytes, int to) = 0;
  virtual void receive(std::span<std::byte> bytes, int from) = 0;

  // Calls of all ranks. By send() and receive() unless an implementation has them faster.
  // `bytes` of rank `from` to all others.
  virtual void broadcast(std::span<std::byte> bytes, int from);
  // `mine` of every rank, in the order of ranks, to all: `all` has size() times as many bytes.
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all);
  // Returns when all ranks have called it.
  virtual void barrier();
};

// Thrown where this rank cannot go on since another one failed, which throws its own exception.
struct OtherRankFailed : Error {
  using Error::Error;
};

// Every rank throws the same Error, which calls it `work`, unless all have the same hash of what they are about to do:
// hash_bytes() of all that the result depends on. All ranks call it.
void check_same_work(Ranks& ranks, std::uint64_t hash, const std::string& work);

// Ranks of which each has a GPU, for trainings on CUDA: what their GPUs exchange goes by an NCCL communicator, which an
// application that already has one hands in. NCCL 2 (libnccl.so.2) is loaded when the first of them are made.
class GpuRanks : public Ranks {
 public:
  virtual int gpu() const = 0;  // the communicator's device
  // Whether a trainer has ended the communicator by ncclCommAbort, which alone ends a GPU's wait for another: its work
  // has failed on a rank, or waited longer than the patience. It is destroyed then, and of no use to anybody.
  virtual bool aborted() const = 0;
};

// communicator: an ncclComm_t of the application, which destroys it after the ranks and all trainers that were made with
// them, unless it is aborted() then, and meanwhile makes no calls with it while a trainer does. rank() and size() are the
// communicator's. It has to come from the libnccl.so.2 that is loaded here, not from a copy that the application was linked
// with. Messages between hosts, few and short, go by `messages`, the same rank of as many; without it by the communicator
// too, and then none between two ranks (send(), receive()), and a training's go behind the slice that is queued, so that
// the GPU waits for the next. patience: for how many seconds a host waits for its GPU, whose work takes about 0.1 s at a
// time unless another rank's does not come to it; for messages it waits as long as `messages` do. Throws Error where NCCL
// is missing or does not know the communicator, where `messages` are other ranks, and in a build without CUDA.
std::shared_ptr<GpuRanks> gpu_ranks(void* communicator, std::shared_ptr<Ranks> messages = nullptr,
                                    double patience = 600);
// The same with a communicator of their own, of the GPUs that each of `messages` names. All of these call it; all throw
// Error where one of them cannot use NCCL on its GPU, or two name one GPU.
std::shared_ptr<GpuRanks> connect_gpus(int gpu, std::shared_ptr<Ranks> messages, double patience = 600);

// The only rank there is.
std::shared_ptr<Ranks> one_rank();

// Ranks first … first + count − 1 of others, numbered from 0 on. Throws Error unless these are there and this process is
// one of them.
std::shared_ptr<Ranks> range_of(std::shared_ptr<Ranks> ranks, int first, int count);

}  // namespace fokker
