#include "cuda/gpu_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fokker/error.hpp"

namespace fokker::cuda {
namespace {

constexpr std::size_t piece = std::size_t{1} << 20;  // bytes of a message that go at once

void check_nccl(NcclResult result, const char* call, const CallSite& where = CallSite::here()) {
  if (result == NcclResult::success) return;
  const std::string_view path = where.file;
  throw Error(fmt::format("NCCL: {} at {}:{} failed: {}", call, path.substr(path.rfind('/') + 1), where.line,
                          nccl().get_error_string(result)));
}

void pause() {
  const std::timespec briefly{0, 50'000};
  ::nanosleep(&briefly, nullptr);
}

}  // namespace

Communicator::Communicator(ncclComm* communicator, bool owned, double patience)
    : communicator_(communicator), owned_(owned), patience_(patience) {
  check_nccl(nccl().comm_count(communicator, &size_), "ncclCommCount");
  check_nccl(nccl().comm_user_rank(communicator, &rank_), "ncclCommUserRank");
  check_nccl(nccl().comm_cu_device(communicator, &device_), "ncclCommCuDevice");
  const CurrentDevice guard(device_);
  stream_ = std::make_unique<OwnStream>();
}

Communicator::~Communicator() {
  if (owned_ && communicator_ != nullptr) nccl().comm_destroy(communicator_);
}

void Communicator::check_not_aborted() const {
  if (!aborted()) return;
  throw Error(fmt::format(
      "the NCCL communicator of rank {} of {} was aborted after a failure; allowed: ranks by a new one", rank_, size_));
}

void Communicator::all_gather(void* all, std::size_t bytes) const {
  check_not_aborted();
  NcclResult result = nccl().all_gather(static_cast<const char*>(all) + static_cast<std::size_t>(rank_) * bytes, all,
                                        bytes, NcclDataType::int8, communicator_, stream());
  while (result == NcclResult::in_progress) {  // where the application made it so that its calls do not block
    pause();
    check_nccl(nccl().comm_get_async_error(communicator_, &result), "ncclCommGetAsyncError");
  }
  check_nccl(result, "ncclAllGather");
}

void Communicator::wait(const Event& event) {
  check_not_aborted();
  const auto begin = std::chrono::steady_clock::now();
  while (!event.reached()) {
    NcclResult failure = NcclResult::success;
    check_nccl(nccl().comm_get_async_error(communicator_, &failure), "ncclCommGetAsyncError");
    if (failure != NcclResult::success && failure != NcclResult::in_progress) {
      const std::string why = nccl().get_error_string(failure);
      abort();
      throw Error(fmt::format(
          "NCCL reports on rank {} of {}: {}; another rank may have failed, and the communicator was aborted", rank_,
          size_, why));
    }
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() > patience_) {
      abort();
      throw Error(fmt::format(
          "the GPU of rank {} of {} has waited for others for {} s, which have ended or make other calls; the NCCL "
          "communicator was aborted",
          rank_, size_, patience_));
    }
    pause();
  }
}

void Communicator::wait() {
  Event all;
  all.record(stream());
  wait(all);
}

// NCCL waits in an abort for the graphs that have its calls.
void Communicator::abort() noexcept {
  if (aborted()) return;
  for (const cudaGraphExec_t graph : graphs_) cudaGraphExecDestroy(graph);
  graphs_.clear();
  nccl().comm_abort(std::exchange(communicator_, nullptr));
  const RelaxedCapture relaxed;
  cudaStreamSynchronize(stream());  // what is left in it may use memory whose owners are to go
}

void Communicator::release(cudaGraphExec_t graph) {
  if (graphs_.erase(graph) > 0) cudaGraphExecDestroy(graph);
}

NcclRanks::NcclRanks(ncclComm* communicator, bool owned, std::shared_ptr<Ranks> messages, double patience)
    : communicator_(communicator, owned, patience), messages_(std::move(messages)) {
  if (messages_ && (messages_->size() != size() || messages_->rank() != rank())) {
    throw Error(
        fmt::format("an NCCL communicator's rank {} of {} was given with rank {} of {} for messages; allowed: the same "
                    "rank of as many",
                    rank(), size(), messages_->rank(), messages_->size()));
  }
}

Ranks& NcclRanks::between_two() {
  if (messages_) return *messages_;
  throw Error("a message between two ranks of an NCCL communicator; allowed: with ranks for messages beside it");
}

void NcclRanks::send(std::span<const std::byte> bytes, int to) { between_two().send(bytes, to); }
void NcclRanks::receive(std::span<std::byte> bytes, int from) { between_two().receive(bytes, from); }

void NcclRanks::broadcast(std::span<std::byte> bytes, int from) {
  if (messages_) return messages_->broadcast(bytes, from);
  std::vector<std::byte> all;
  while (!bytes.empty()) {
    const std::span<std::byte> part = bytes.first(std::min(bytes.size(), piece));
    all.resize(part.size() * static_cast<std::size_t>(size()));
    all_gather(part, all);
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(part.size()) * from, part.size(), part.begin());
    bytes = bytes.subspan(part.size());
  }
}

void NcclRanks::all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
  if (messages_) return messages_->all_gather(mine, all);
  const SetUp set_up(gpu(), communicator_.stream());
  communicator_.wait();  // with patience for what is queued, as allocations and copies would without
  const auto ranks = static_cast<std::size_t>(size()), own = static_cast<std::size_t>(rank());
  for (std::size_t first = 0; first < mine.size(); first += piece) {
    const std::size_t bytes = std::min(piece, mine.size() - first);
    staging_.reserve(ranks * bytes);
    const auto copy = [&](void* to, const void* from, cudaMemcpyKind kind) {
      cuda::check(cudaMemcpyAsync(to, from, bytes, kind, communicator_.stream()), "cudaMemcpyAsync");
    };
    copy(staging_.as<std::byte>() + own * bytes, mine.data() + first, cudaMemcpyHostToDevice);
    communicator_.all_gather(staging_.data(), bytes);
    communicator_.wait();  // a copy to memory that is not page-locked might wait for it itself, without patience
    for (std::size_t r = 0; r < ranks; ++r) {
      copy(all.data() + r * mine.size() + first, staging_.as<std::byte>() + r * bytes, cudaMemcpyDeviceToHost);
    }
    communicator_.wait();
  }
}

void NcclRanks::barrier() {
  if (messages_) return messages_->barrier();
  const std::byte nothing{};
  std::vector<std::byte> all(static_cast<std::size_t>(size()));
  all_gather({&nothing, 1}, all);
}

}  // namespace fokker::cuda

namespace fokker {

std::shared_ptr<GpuRanks> gpu_ranks(void* communicator, std::shared_ptr<Ranks> messages, double patience) {
  if (communicator == nullptr) throw Error("no NCCL communicator was given for ranks of GPUs; allowed: an ncclComm_t");
  if (!(patience > 0)) throw Error(fmt::format("a patience of {} s was given; allowed: more than 0", patience));
  return std::make_shared<cuda::NcclRanks>(static_cast<ncclComm*>(communicator), false, std::move(messages), patience);
}

std::shared_ptr<GpuRanks> connect_gpus(int gpu, std::shared_ptr<Ranks> messages, double patience) {
  if (!(patience > 0)) throw Error(fmt::format("a patience of {} s was given; allowed: more than 0", patience));
  if (!messages) messages = one_rank();
  // All ranks learn whether all of them can use NCCL, each on a GPU of its own, and the first's identifier, before any
  // waits for the others in it.
  struct Word {
    bool ready;
    std::array<char, 16> gpu;  // the device's UUID
    cuda::NcclUniqueId id;
  };
  Word own{};
  std::exception_ptr failure;
  std::optional<cuda::CurrentDevice> guard;
  try {
    guard.emplace(gpu);
    cudaDeviceProp device{};
    cuda::check(cudaGetDeviceProperties(&device, gpu), "cudaGetDeviceProperties");
    std::copy_n(device.uuid.bytes, own.gpu.size(), own.gpu.begin());
    const cuda::Nccl& nccl = cuda::nccl();
    if (messages->rank() == 0) cuda::check_nccl(nccl.get_unique_id(&own.id), "ncclGetUniqueId");
    own.ready = true;
  } catch (const Error&) {
    failure = std::current_exception();
  }
  std::vector<Word> all(static_cast<std::size_t>(messages->size()));
  messages->all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
  if (failure) std::rethrow_exception(failure);
  const auto failed = std::find_if(all.begin(), all.end(), [](const Word& word) { return !word.ready; });
  if (failed != all.end()) {
    throw OtherRankFailed(fmt::format("rank {} of {} cannot use NCCL on its GPU, which trainings on several GPUs need",
                                      failed - all.begin(), all.size()));
  }
  for (auto second = all.begin(); second != all.end(); ++second) {
    const auto first = std::find_if(all.begin(), second, [&](const Word& word) { return word.gpu == second->gpu; });
    if (first == second) continue;
    throw Error(fmt::format(
        "ranks {} and {} of {} were given one GPU to train on several; allowed: a GPU for each, or the CPU backend",
        first - all.begin(), second - all.begin(), all.size()));
  }
  ncclComm* communicator = nullptr;
  cuda::check_nccl(cuda::nccl().comm_init_rank(&communicator, messages->size(), all.front().id, messages->rank()),
                   "ncclCommInitRank");
  try {
    return std::make_shared<cuda::NcclRanks>(communicator, true, std::move(messages), patience);
  } catch (...) {
    cuda::nccl().comm_abort(communicator);
    throw;
  }
}

}  // namespace fokker
