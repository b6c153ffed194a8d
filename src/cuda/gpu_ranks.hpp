#pragma once

// Ranks of GPUs by an NCCL communicator: their messages, and what a training's iterations exchange.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <set>
#include <span>

#include "cuda/nccl.hpp"
#include "cuda/runtime.hpp"
#include "fokker/ranks.hpp"

namespace fokker::cuda {

// All that goes by the communicator is on one stream of its own, so that it is in one order on all ranks.
class Communicator {
 public:
  // patience: for how many seconds a wait may last. Throws Error where NCCL is missing or does not know the communicator.
  Communicator(ncclComm* communicator, bool owned, double patience);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int device() const { return device_; }
  cudaStream_t stream() const { return stream_->get(); }
  // Rank r's `bytes` bytes, at r · bytes of `all`, to all ranks; in the stream. Throws Error once it was aborted.
  void all_gather(void* all, std::size_t bytes) const;
  // For an event in the stream, and for all that is in it. Throws Error where NCCL reports a failure, as of a rank that
  // has ended, or the patience is at its end; the communicator has been aborted then, which ends what is in the stream,
  // with numbers that mean nothing.
  void wait(const Event& event);
  void wait();
  void abort() noexcept;
  void check_not_aborted() const;
  bool aborted() const { return communicator_ == nullptr; }

  // A graph that has calls of the communicator must not outlive it: it is destroyed by release(), or by abort().
  void keep(cudaGraphExec_t graph) { graphs_.insert(graph); }
  void release(cudaGraphExec_t graph);

 private:
  ncclComm* communicator_;
  bool owned_;
  double patience_;
  int rank_ = 0, size_ = 1, device_ = 0;
  std::unique_ptr<OwnStream> stream_;
  std::set<cudaGraphExec_t> graphs_;
};

class NcclRanks final : public GpuRanks {
 public:
  // messages: or nullptr, and then they go by the communicator.
  NcclRanks(ncclComm* communicator, bool owned, std::shared_ptr<Ranks> messages, double patience);
  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  int gpu() const override { return communicator_.device(); }
  bool aborted() const override { return communicator_.aborted(); }
  void send(std::span<const std::byte> bytes, int to) override;
  void receive(std::span<std::byte> bytes, int from) override;
  void broadcast(std::span<std::byte> bytes, int from) override;
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override;
  void barrier() override;

  Communicator& communicator() { return communicator_; }

 private:
  Ranks& between_two();

  Communicator communicator_;
  std::shared_ptr<Ranks> messages_;
  DeviceMemory staging_;  // [size, piece]
};

}  // namespace fokker::cuda
