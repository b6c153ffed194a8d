#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fokker/view.hpp"

namespace fokker {

enum class BackendKind { automatic, cpu, cuda };

// "auto", "cpu" or "cuda"; throws Error on any other name.
BackendKind parse_backend(const std::string& name);

struct ContextOptions {
  BackendKind backend = BackendKind::automatic;  // automatic: CUDA where this build and machine have it, else the CPU
  int threads = 0;                               // CPU threads; 0: all that the process may run on
  void* stream = nullptr;                        // the caller's cudaStream_t; nullptr: the default stream
};

// What is in this build and on this machine, for `fokker info` and for messages.
struct BackendStatus {
  std::string name;    // "cpu", "cuda"
  bool available = false;
  std::string detail;  // cpu: instruction set and threads; cuda: devices and driver, or the reason why not available
};
std::vector<BackendStatus> backend_status();

class Backend;  // internal: one table of operations per backend

// Where work runs. Passed first to everything that computes; cheap to copy; copies share the backend. Two contexts may be
// used from two threads at once; one context from one thread at a time.
class Context {
 public:
  explicit Context(const ContextOptions& options = {});

  Device device() const;
  int threads() const;
  // "cpu" or "cuda".
  std::string backend_name() const;
  // Why `automatic` chose what it chose; empty where the choice was explicit.
  const std::string& note() const;
  // Waits for everything queued through this context. On the CPU calls have finished when they return.
  void synchronize() const;

  Backend& backend() const { return *backend_; }

 private:
  std::shared_ptr<Backend> backend_;
  std::string note_;
};

}  // namespace fokker
