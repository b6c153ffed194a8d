#include "fokker/context.hpp"

#include <fmt/format.h>

#include <limits>

#include "core/check.hpp"
#include "core/names.hpp"
#include "core/operations.hpp"
#include "cpu/backend.hpp"
#include "cuda/backend.hpp"
#include "fokker/error.hpp"
#include "fokker/version.hpp"

namespace fokker {

const char* version() { return FOKKER_VERSION; }

BackendKind parse_backend(const std::string& name) {
  static constexpr Named<BackendKind> backends[] = {
      {"auto", BackendKind::automatic}, {"cpu", BackendKind::cpu}, {"cuda", BackendKind::cuda}};
  return names("backend", backends).parse(name);
}

std::vector<BackendStatus> backend_status() {
  const cuda::DeviceQuery query = cuda::query_devices();
  return {{"cpu", true, cpu::describe(0)}, {"cuda", cuda::why_not(query).empty(), cuda::describe(query)}};
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
    const cuda::DeviceQuery query = cuda::query_devices();
    const std::string reason = cuda::why_not(query);
    const bool automatic = options.backend == BackendKind::automatic;
    if (!automatic && !reason.empty()) {
      throw Error(fmt::format("backend 'cuda' is not available: {}; allowed here: auto, cpu", reason));
    }
    if (automatic) note_ = fmt::format("backend {}: {}", reason.empty() ? "cuda" : "cpu", cuda::describe(query));
    if (reason.empty()) backend_ = cuda::make_backend(options, query);
  }
  if (backend_ == nullptr) backend_ = cpu::make_backend(options.threads);
}

Device Context::device() const { return backend_->device(); }
int Context::threads() const { return backend_->threads(); }
std::string Context::backend_name() const { return backend_->name(); }
Precision Context::precision() const { return backend_->precision(); }
const std::string& Context::note() const { return note_; }
void Context::synchronize() const { backend_->synchronize(); }

template <class T>
Buffer<T>::Buffer(const Context& context, std::int64_t rows, std::int64_t columns) {
  constexpr auto most = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(2 * sizeof(T));
  if (rows < 0 || columns < 0 || (columns > 0 && rows > most / columns)) {
    throw Error(
        fmt::format("a buffer of {} x {} asked for; allowed: sizes of 0 or more that fit in memory", rows, columns));
  }
  storage_ = context.backend().allocate(static_cast<std::size_t>(rows * columns) * sizeof(T));
  view_ = {static_cast<T*>(storage_.get()), rows, columns, context.device()};
}

template class Buffer<float>;
template class Buffer<double>;

template <class T>
void copy(const Context& context, std::type_identity_t<View<const T>> from, View<T> to) {
  const auto check = [&](const char* what, View<const T> view) {
    if (view.columns < 0) {
      throw Error(fmt::format("{} of a copy has {} columns; allowed: 0 or more", what, view.columns));
    }
    check_view(fmt::format("{} of a copy", what), view, any_rows, view.columns,
               view.device == Device::cpu ? Device::cpu : context.device());
  };
  check("the source", from);
  check("the target", to);
  if (from.rows != to.rows || from.columns != to.columns) {
    throw Error(fmt::format("a copy from shape [{}, {}] to shape [{}, {}] asked for; allowed: two views of one shape",
                            from.rows, from.columns, to.rows, to.columns));
  }
  if (to.size() > 0) context.backend().copy(from.data, to.data, static_cast<std::size_t>(to.size()) * sizeof(T));
}

template void copy<float>(const Context&, View<const float>, View<float>);
template void copy<double>(const Context&, View<const double>, View<double>);

}  // namespace fokker
