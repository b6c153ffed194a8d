#include "fokker/context.hpp"

#include <fmt/format.h>

#include <cstdlib>

#include "operations.hpp"
#include "cpu/backend.hpp"
#include "fokker/error.hpp"
#include "fokker/version.hpp"

namespace fokker {

const char* version() { return FOKKER_VERSION; }

BackendKind parse_backend(const std::string& name) {
  if (name == "auto") return BackendKind::automatic;
  if (name == "cpu") return BackendKind::cpu;
  if (name == "cuda") return BackendKind::cuda;
  throw Error(fmt::format("unknown backend '{}'; allowed: auto, cpu, cuda", name));
}

namespace {

// No CUDA backend is in this version yet; the sentence is what `fokker info` and an explicit request print.
const char* const cuda_missing = "this version of fokker has no CUDA backend yet";

}  // namespace

std::vector<BackendStatus> backend_status() {
  return {{"cpu", true, cpu::describe(0)}, {"cuda", false, cuda_missing}};
}

Context::Context(const ContextOptions& options) {
  if (options.threads < 0) {
    throw Error(fmt::format("{} threads asked for; allowed: 1 or more, or 0 for all", options.threads));
  }
  if (options.backend == BackendKind::cuda) {
    throw Error(fmt::format("backend 'cuda' is not available: {}; allowed here: auto, cpu", cuda_missing));
  }
  if (options.backend == BackendKind::automatic) note_ = fmt::format("backend cpu: {}", cuda_missing);
  backend_ = cpu::make_backend(options.threads);
}

Device Context::device() const { return backend_->device(); }
int Context::threads() const { return backend_->threads(); }
std::string Context::backend_name() const { return backend_->name(); }
const std::string& Context::note() const { return note_; }
void Context::synchronize() const { backend_->synchronize(); }

template <class T>
Buffer<T>::Buffer(const Context& context, std::int64_t rows, std::int64_t columns) {
  if (rows < 0 || columns < 0) throw Error(fmt::format("a buffer of {} x {} asked for; allowed: sizes of 0 or more", rows, columns));
  storage_ = context.backend().allocate(static_cast<std::size_t>(rows * columns) * sizeof(T));
  view_ = {static_cast<T*>(storage_.get()), rows, columns, context.device()};
}

template class Buffer<float>;
template class Buffer<double>;

}  // namespace fokker
