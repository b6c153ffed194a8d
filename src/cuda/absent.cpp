// In place of what needs CUDA of this folder, and of the kernels, in a build without it.
#include <memory>
#include <utility>

#include "cuda/backend.hpp"
#include "fokker/error.hpp"
#include "fokker/ranks.hpp"

namespace fokker::cuda {

DeviceQuery query_devices(int) {
  DeviceQuery query;
  query.missing = FOKKER_NO_CUDA_REASON;
  return query;
}

std::shared_ptr<Backend> make_backend(const ContextOptions&, const DeviceQuery& query) { throw Error(why_not(query)); }

}  // namespace fokker::cuda

namespace fokker {

std::shared_ptr<GpuRanks> gpu_ranks(void*, std::shared_ptr<Ranks>, double) {
  throw Error("ranks of GPUs were asked for, and this build has no CUDA: " FOKKER_NO_CUDA_REASON);
}
std::shared_ptr<GpuRanks> connect_gpus(int, std::shared_ptr<Ranks> messages, double) {
  return gpu_ranks(nullptr, std::move(messages), 0);
}

}  // namespace fokker
