#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fokker/formulas/precision.hpp"
#include "fokker/public.hpp"
#include "fokker/view.hpp"

namespace FOKKER_PUBLIC fokker {

enum class BackendKind { automatic, cpu, cuda };

// "auto", "cpu" or "cuda"; throws Error on any other name.
BackendKind parse_backend(std::string_view name);
std::string_view to_string(BackendKind kind);

Precision parse_precision(std::string_view name);  // split, fp32, half; throws Error on any other name
std::string_view to_string(Precision precision);

struct ContextOptions {
  BackendKind backend = BackendKind::automatic;  // automatic: CUDA where this build and machine have it, else the CPU
  // CPU threads, up to 1024; 0: as many as OMP_NUM_THREADS says, else one a processor, and never more than the
  // process's affinity and the CPU quota of its control group allow.
  int threads = 0;
  // The caller's cudaStream_t, used as it is and never destroyed; nullptr: the default stream.
  void* stream = nullptr;
  int gpu = -1;                            // CUDA only: the device's number; -1: the one that is current
  Precision precision = Precision::split;  // CUDA only
};

// What is in this build and on this machine, for `fokker info` and for messages.
struct BackendStatus {
  std::string name = {};  // "cpu", "cuda"
  bool available = false;
  // cpu: instruction set and threads; cuda: devices and driver, or the reason why not available, without a final point.
  std::string detail = {};
  int devices = 0;  // cuda: how many GPUs this process sees, usable or not
};
std::vector<BackendStatus> backend_status();

class Backend;  // internal: one table of operations per backend

// Where work runs. Passed first to everything that computes; cheap to copy; copies share the backend. Two contexts may
// be used from two threads at once; one context from one thread at a time.
//
// On CUDA a context stays on the device that it names, or that is current when it is made, whichever is current later,
// and on one stream.
// Making an object with a context is set-up: it allocates and may wait for the device. It is refused while the
// context's own stream is capturing. Another thread's capture of another stream, in whatever mode, forbids no set-up
// and is not ended by it; CUDA itself refuses the default stream while a stream that waits for it is capturing.
//
// After set-up the calls of Fields, Loss, Sampler and DataSet::draw() are queued on the stream and return: they
// allocate nothing, wait for nothing, read and write only the views given and their own workspace, and can be captured
// into a CUDA graph; where products go through cuBLAS (networks that are not resident) call once before capturing,
// since it loads its kernels then. draw() also puts a set on the device at its first call, where it stays as long as
// the context, and Sampler the coefficients of steps that are not their scheme's own, where they stay as long as it.
// copy() is asynchronous where host memory is page-locked, and a captured copy reads its host memory again at every
// launch. Calls whose result is on the host (histograms, moments, distances, residuals, AdaptiveSampler) wait for it,
// allocate what they need for the call, and are refused during a capture as set-up is. Every error of the CUDA runtime
// is thrown as Error with the call, file and line; one that happens while the device works, by a later call or by
// synchronize().
class Context {
 public:
  // Throws Error where the backend or the GPU asked for is not available, with the reason; `automatic` takes the CPU
  // then. Throws Error too where the system does not make as many threads as are asked for; for 0 it takes those there
  // can be.
  explicit Context(const ContextOptions& options = {});
  explicit Context(BackendKind backend) : Context(ContextOptions{.backend = backend}) {}
  // There is no move, which would leave a context without a backend.
  Context(const Context&) = default;
  Context& operator=(const Context&) = default;

  Device device() const;
  int gpu() const;  // number of the CUDA device; -1 on the CPU
  int threads() const;
  // "cpu" or "cuda".
  std::string backend_name() const;
  // As asked for on CUDA; fp32 on the CPU.
  Precision precision() const;
  // Why `automatic` chose what it chose, and an OMP_NUM_THREADS that asks for more threads than may run or for no number
  // of them; empty where there is neither.
  const std::string& note() const;
  // Waits for everything queued through this context. On the CPU calls have finished when they return.
  void synchronize() const;

  Backend& backend() const { return *backend_; }

 private:
  std::shared_ptr<Backend> backend_;
  std::string note_;
};

}  // namespace fokker
