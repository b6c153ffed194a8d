// In place of what needs CUDA of this folder, and of the kernels, in a build without it.
#include "cuda/backend.hpp"
#include "fokker/error.hpp"

namespace fokker::cuda {

DeviceQuery query_devices(int) {
  DeviceQuery query;
  query.missing = FOKKER_NO_CUDA_REASON;
  return query;
}

std::shared_ptr<Backend> make_backend(const ContextOptions&, const DeviceQuery& query) { throw Error(why_not(query)); }

}  // namespace fokker::cuda
