#pragma once

// The streams of the emulated device. A call queues its work and returns; it is done by a host thread that waits for
// it, and before that where the mode says so: `eager` at the call, `lazy` not at all, `random` a part of some stream's
// work at any call of the runtime, as FOKKER_EMULATION_SEED has it. FOKKER_EMULATION_STREAMS names the mode; without it
// the streams are lazy, or random where a seed is named. All three are what a device may do.
//
// Work has a number, in the order of all calls. What is queued before it in its stream comes first, and so does what an
// event stands for that its stream was told to wait for; between the default stream and a stream that is not
// cudaStreamNonBlocking whatever has a smaller number. Nothing else is ordered: where several streams have work, the
// seed says whose turn it is, and host threads that wait for different streams do their work at once.
//
// Host memory that queued work reads has to stay as it is until then, or the process ends with a sentence; what queued
// work writes is NaN until then.
//
// Each device has streams of its own, and a thread's current one says which a call is about. Work that waits for another
// device is done when that has come to it: until then a host thread that waits for it tries again, and what may go on
// without it does.
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_runtime_api.h"

namespace fokker::emulated {

using Number = std::uint64_t;

struct HostRange {
  char* begin = nullptr;
  std::size_t bytes = 0;
};

// What a stream does as one, or a node of a graph.
struct Node {
  std::function<int()> work;  // returns a cudaError_t; cudaErrorNotReady, and it is called again
  HostRange reads = {}, writes = {};
  bool kernel = false;
};

// A place in a stream.
struct Place {
  std::shared_ptr<CUstream_st> stream;
  Number number = 0;
};

struct Item {
  Number number;
  Node node;
  std::vector<char> read = {};              // node.reads at the call; empty where it may change until its turn
  std::shared_ptr<const Place> after = {};  // of another stream
};

}  // namespace fokker::emulated

struct CUgraph_st {
  std::vector<fokker::emulated::Node> nodes;
};

struct CUstream_st : std::enable_shared_from_this<CUstream_st> {
  std::deque<fokker::emulated::Item> queue = {};  // the first may be under way
  bool busy = false;                              // a host thread does its work
  bool blocking = true;                           // waits for the default stream, and that one for it
  int device = 0;
  bool destroyed = false;                         // as soon as its work is done
  std::unique_ptr<CUgraph_st> capture = nullptr;  // under way
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool valid = true;
};

namespace fokker::emulated {

// A call of the runtime that has to do with streams: while it lives, no other thread's does anything to them but the
// work that is under way. Begins with what the seed has done at it.
class Call {
 public:
  Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Queues work on a stream, the default one where it is nullptr, and returns its number.
  Number queue(cudaStream_t stream, Node node, std::shared_ptr<const Place> after = nullptr);
  // The work of a stream up to a number has been done on return, and that of every stream.
  void finish(cudaStream_t stream, Number last = std::numeric_limits<Number>::max());
  void finish_all();  // of the current device
  // As much of it as need not wait for other devices.
  void advance_to(const Place& place);
  // What is queued next on the stream; it is reached when all before it has been done.
  std::shared_ptr<const Place> mark(cudaStream_t stream);
  bool reached(const Place& place) const;
  bool uses(const HostRange& memory) const;  // whether queued work reads or writes any of it

  cudaStream_t add_stream(bool blocking);
  void remove_stream(cudaStream_t stream);  // which does its work all the same

  EmulatedStreams mode() const;
  // A number below n as the seed has it.
  std::size_t choose(std::size_t n);
  // The first error of queued work, which all later calls return.
  cudaError_t error() const;

 private:
  void advance();
  void prune();
  std::unique_lock<std::mutex> lock_;
};

// Of this thread; numbers as cudaSetDevice() has them.
int current_device();
void set_current_device(int device);

EmulatedStreams set_mode(EmulatedStreams mode, std::uint64_t seed);  // returns the one that was
std::size_t queued_kernels();

[[noreturn]] void fail(const char* sentence);

}  // namespace fokker::emulated
