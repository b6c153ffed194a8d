// The stand-in for NCCL (src/cuda/nccl.hpp): ranks in one process or several of one machine, by a file that all of them
// map into memory, whose name is the communicator's identifier. An all-gather is a piece of work of its stream: it writes
// its rank's bytes when its turn comes, and is done when all ranks have written theirs; until then it is not ready, which
// keeps no host thread that does not wait for it. Two places take turns, so that a rank writes again only where all have
// read what it wrote two all-gathers ago. What waits for a rank that does not come ends by ncclCommAbort(), which shows
// as a remote error to the others, and a rank that does not join makes ncclCommInitRank() fail after two minutes.
#include "cuda/nccl.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "emulation.hpp"
#include "nccl.hpp"

namespace {

using fokker::cuda::NcclDataType;
using fokker::cuda::NcclResult;
using fokker::cuda::NcclUniqueId;

constexpr int most_ranks = 64;
constexpr std::size_t most_bytes = std::size_t{16} << 20;  // of a rank's part
constexpr auto longest_wait = std::chrono::minutes(2);

// At the beginning of the file, which is zero when it is made; ranks' parts lie behind it.
struct Shared {
  std::atomic<int> joined;
  struct Rank {
    std::atomic<std::uint64_t> written, read;  // all-gathers so far
    std::atomic<bool> aborted;
  } ranks[most_ranks];
};
constexpr std::size_t head = (sizeof(Shared) + 4095) / 4096 * 4096;

// The process's mapping of a communicator's file.
class Mapping {
 public:
  explicit Mapping(const char* path) {
    const int file = ::open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    if (::ftruncate(file, bytes) == 0) {
      at_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    }
    ::close(file);
  }
  ~Mapping() {
    if (there()) ::munmap(at_, bytes);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  bool there() const { return at_ != MAP_FAILED; }
  Shared& shared() const { return *static_cast<Shared*>(at_); }
  char* part(int rank, std::uint64_t number) const {
    return static_cast<char*>(at_) + head + (static_cast<std::size_t>(rank) * 2 + number % 2) * most_bytes;
  }

 private:
  static constexpr std::size_t bytes = head + 2 * most_ranks * most_bytes;
  void* at_ = MAP_FAILED;
};

// What queued work keeps after the communicator itself.
struct Member {
  Mapping mapping;
  int rank, size, device;
  std::uint64_t done = 0;  // all-gathers
  bool wrote = false;      // of the one under way

  Member(const char* path, int own, int all, int on) : mapping(path), rank(own), size(all), device(on) {}
  Shared::Rank& own() const { return mapping.shared().ranks[rank]; }

  template <class Condition>
  bool all(const Condition& condition) const {
    const Shared::Rank* const ranks = mapping.shared().ranks;
    return std::all_of(ranks, ranks + size, condition);
  }
  int all_gather(const char* send, char* receive, std::size_t bytes) {
    if (own().aborted) return cudaSuccess;
    if (!wrote) {
      if (!all([&](const Shared::Rank& r) { return r.read + 2 > done; })) return cudaErrorNotReady;
      std::memcpy(mapping.part(rank, done), send, bytes);
      own().written = done + 1;
      wrote = true;
    }
    if (!all([&](const Shared::Rank& r) { return r.written > done; })) return cudaErrorNotReady;
    for (int r = 0; r < size; ++r)
      std::memcpy(receive + static_cast<std::size_t>(r) * bytes, mapping.part(r, done), bytes);
    own().read = ++done;
    wrote = false;
    return cudaSuccess;
  }
};

NcclResult get_unique_id(NcclUniqueId* id) {
  std::string path = std::filesystem::temp_directory_path() / "fokker_nccl_XXXXXX";
  const int file = ::mkstemp(path.data());
  if (file < 0 || path.size() >= sizeof id->internal) return NcclResult::system_error;
  ::close(file);
  std::memset(id, 0, sizeof *id);
  std::memcpy(id->internal, path.data(), path.size());
  return NcclResult::success;
}

}  // namespace

struct ncclComm {
  std::shared_ptr<Member> member;
};

namespace {

NcclResult comm_init_rank(ncclComm** communicator, int ranks, NcclUniqueId id, int rank) {
  *communicator = nullptr;
  if (ranks < 1 || ranks > most_ranks || rank < 0 || rank >= ranks) return NcclResult::invalid_argument;
  int device = 0;
  cudaGetDevice(&device);
  auto member = std::make_shared<Member>(id.internal, rank, ranks, device);
  if (!member->mapping.there()) return NcclResult::system_error;
  std::atomic<int>& joined = member->mapping.shared().joined;
  if (++joined == ranks) ::unlink(id.internal);
  const auto begin = std::chrono::steady_clock::now();
  while (joined < ranks) {
    if (std::chrono::steady_clock::now() - begin > longest_wait) return NcclResult::system_error;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  *communicator = new ncclComm{std::move(member)};
  return NcclResult::success;
}

// Waits for what the communicator's streams have in it, as the real one does; here its caller has waited.
NcclResult comm_destroy(ncclComm* communicator) {
  delete communicator;
  return NcclResult::success;
}
NcclResult comm_abort(ncclComm* communicator) {
  communicator->member->own().aborted = true;
  return comm_destroy(communicator);
}
NcclResult comm_count(const ncclComm* communicator, int* ranks) {
  *ranks = communicator->member->size;
  return NcclResult::success;
}
NcclResult comm_user_rank(const ncclComm* communicator, int* rank) {
  *rank = communicator->member->rank;
  return NcclResult::success;
}
NcclResult comm_cu_device(const ncclComm* communicator, int* device) {
  *device = communicator->member->device;
  return NcclResult::success;
}
NcclResult comm_get_async_error(ncclComm* communicator, NcclResult* error) {
  const bool well = communicator->member->all([](const Shared::Rank& r) { return !r.aborted; });
  *error = well ? NcclResult::success : NcclResult::remote_error;
  return NcclResult::success;
}

NcclResult all_gather(const void* send, void* receive, std::size_t count, NcclDataType type, ncclComm* communicator,
                      cudaStream_t stream) {
  if (type != NcclDataType::int8 || count > most_bytes) return NcclResult::invalid_argument;
  int device = -1;
  cudaGetDevice(&device);
  if (device != communicator->member->device) return NcclResult::invalid_usage;
  const int error = fokker::kernels::emulation::submit(
      stream, [member = communicator->member, from = static_cast<const char*>(send), to = static_cast<char*>(receive),
               count] { return member->all_gather(from, to, count); });
  return error == cudaSuccess ? NcclResult::success : NcclResult::unhandled_cuda_error;
}

const char* get_error_string(NcclResult result) {
  switch (result) {
    case NcclResult::success: return "no error";
    case NcclResult::unhandled_cuda_error: return "unhandled cuda error";
    case NcclResult::system_error: return "unhandled system error";
    case NcclResult::internal_error: return "internal error";
    case NcclResult::invalid_argument: return "invalid argument";
    case NcclResult::invalid_usage: return "invalid usage";
    case NcclResult::remote_error: return "remote process exited or there was a network error";
    case NcclResult::in_progress: return "NCCL operation in progress";
  }
  return "unknown result code";
}

std::atomic<bool> is_there = std::getenv("FOKKER_EMULATION_WITHOUT_NCCL") == nullptr;

}  // namespace

bool emulate_nccl(bool there) { return is_there.exchange(there); }

namespace fokker::cuda {

const Nccl& nccl() {
  static constexpr Nccl functions{.get_unique_id = get_unique_id,
                                  .comm_init_rank = comm_init_rank,
                                  .comm_destroy = comm_destroy,
                                  .comm_abort = comm_abort,
                                  .comm_count = comm_count,
                                  .comm_user_rank = comm_user_rank,
                                  .comm_cu_device = comm_cu_device,
                                  .comm_get_async_error = comm_get_async_error,
                                  .all_gather = all_gather,
                                  .get_error_string = get_error_string};
  if (!is_there) load_nccl("libnccl-that-is-not-there.so.2");  // throws
  return functions;
}

}  // namespace fokker::cuda
