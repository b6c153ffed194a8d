#include "fokker/context.hpp"

#include <fmt/format.h>

#include "core/operations.hpp"
#include "core/processors.hpp"
#include "cpu/backend.hpp"
#include "cuda/backend.hpp"
#include "fokker/error.hpp"
#include "fokker/version.hpp"

namespace fokker {

const char* version() { return FOKKER_VERSION; }

std::vector<BackendStatus> backend_status() {
  const cuda::DeviceQuery query = cuda::query_devices();
  return {{"cpu", true, cpu::describe()},
          {"cuda", cuda::why_not(query).empty(), cuda::describe(query), static_cast<int>(query.devices.size())}};
}

std::vector<KernelPlan> kernel_plans(const Model& model, Precision precision) {
  model.validate();
  return cuda::kernel_plans(model, precision, cuda::query_devices());
}

Context::Context(const ContextOptions& options) {
  constexpr int most_threads = 1024;
  if (options.threads < 0 || options.threads > most_threads) {
    throw Error(fmt::format("{} threads asked for; allowed: 1 to {}, or 0 for all", options.threads, most_threads));
  }
  if (options.backend != BackendKind::cpu) {
    const cuda::DeviceQuery query = cuda::query_devices(options.gpu);
    const std::string reason = cuda::why_not(query);
    const bool automatic = options.backend == BackendKind::automatic;
    if (!automatic && !reason.empty()) {
      throw Error(fmt::format("backend 'cuda' is not available: {}; allowed here: auto, cpu", reason));
    }
    if (automatic) note_ = fmt::format("backend {}: {}", reason.empty() ? "cuda" : "cpu", cuda::describe(query));
    if (reason.empty()) backend_ = cuda::make_backend(options, query);
  }
  if (backend_ == nullptr) backend_ = cpu::make_backend(options.threads);
  if (const std::string refused = options.threads == 0 ? refused_threads() : ""; !refused.empty()) {
    note_ += (note_.empty() ? "" : "; ") + refused;
  }
}

Device Context::device() const { return backend_->device(); }
int Context::gpu() const { return backend_->gpu(); }
int Context::threads() const { return backend_->threads(); }
std::string Context::backend_name() const { return backend_->name(); }
Precision Context::precision() const { return backend_->precision(); }
const std::string& Context::note() const { return note_; }
void Context::synchronize() const { backend_->synchronize(); }

}  // namespace fokker
