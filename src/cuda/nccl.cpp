#include "cuda/nccl.hpp"

#include "cuda/library.hpp"

namespace fokker::cuda {

Nccl load_nccl(const std::string& file) {
  const Library library("NCCL", "trainings on several GPUs need NCCL", {file});
  Nccl functions;
  library.find("ncclGetUniqueId", functions.get_unique_id);
  library.find("ncclCommInitRank", functions.comm_init_rank);
  library.find("ncclCommDestroy", functions.comm_destroy);
  library.find("ncclCommAbort", functions.comm_abort);
  library.find("ncclCommCount", functions.comm_count);
  library.find("ncclCommUserRank", functions.comm_user_rank);
  library.find("ncclCommCuDevice", functions.comm_cu_device);
  library.find("ncclCommGetAsyncError", functions.comm_get_async_error);
  library.find("ncclAllGather", functions.all_gather);
  library.find("ncclGetErrorString", functions.get_error_string);
  return functions;
}

#ifndef FOKKER_EMULATION

const Nccl& nccl() {
  static const Nccl functions = load_nccl("libnccl.so.2");
  return functions;
}

#endif

}  // namespace fokker::cuda
