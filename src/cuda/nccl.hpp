#pragma once

// The functions of NCCL that ranks of GPUs call, loaded when the first of them are made, for the reasons that cublas.hpp
// has. Declared here as NCCL 2 has them, so that no header of it is needed.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

struct ncclComm;

namespace fokker::cuda {

enum class NcclResult : int {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7,
};
enum class NcclDataType : int { int8 = 0 };
struct NcclUniqueId {
  char internal[128];
};

struct Nccl {
  NcclResult (*get_unique_id)(NcclUniqueId* id);
  NcclResult (*comm_init_rank)(ncclComm** communicator, int ranks, NcclUniqueId id, int rank);
  NcclResult (*comm_destroy)(ncclComm* communicator);
  NcclResult (*comm_abort)(ncclComm* communicator);  // destroys it too
  NcclResult (*comm_count)(const ncclComm* communicator, int* ranks);
  NcclResult (*comm_user_rank)(const ncclComm* communicator, int* rank);
  NcclResult (*comm_cu_device)(const ncclComm* communicator, int* device);
  NcclResult (*comm_get_async_error)(ncclComm* communicator, NcclResult* error);
  // `count` numbers of each rank, in the order of ranks; in place where send is receive + rank · count.
  NcclResult (*all_gather)(const void* send, void* receive, std::size_t count, NcclDataType type,
                           ncclComm* communicator, cudaStream_t stream);
  const char* (*get_error_string)(NcclResult result);
};

// Throws Error where there is no such library, or it lacks a function.
Nccl load_nccl(const std::string& file);
// Of libnccl.so.2. (The emulation has a stand-in of the same interface.)
const Nccl& nccl();

}  // namespace fokker::cuda
