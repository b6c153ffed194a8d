// The extension module fokker._core: exceptions, and its parts.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"

namespace fokker::python {
namespace {

template <class T>
nb::object empty(const std::vector<std::size_t>& shape, bool cuda, int device) {
  std::int64_t count = 1;
  for (const std::size_t size : shape) count *= static_cast<std::int64_t>(size);
  auto kept = std::make_unique<Buffer<T>>(Place{cuda, device, 0}.context(), count);
  T* const data = kept->data();
  const nb::capsule owner(kept.release(), [](void* p) noexcept { delete static_cast<Buffer<T>*>(p); });
  return nb::cast(nb::ndarray<nb::array_api, T>(data, shape.size(), shape.data(), owner, nullptr, nb::dtype<T>(),
                                                cuda ? nb::device::cuda::value : nb::device::cpu::value, device));
}

}  // namespace
}  // namespace fokker::python

NB_MODULE(_core, module) {
  using namespace fokker::python;
  module.doc() = "What fokker computes by. Internal: the package fokker around it is the API.";
  nb::exception<fokker::Error>(module, "Error", PyExc_ValueError).doc() =
      "The library refused: one sentence that names what was given and what is allowed. A ValueError.";
  nb::exception<fokker::TrainingStopped>(module, "TrainingStopped", module.attr("Error")).doc() =
      "A loss or gradient is not finite. The trainer keeps the parameters before that iteration.";
  module.attr("version") = fokker::version();
  module.def("backends", [] {
    nb::dict found;
    for (const fokker::BackendStatus& status : fokker::backend_status()) {
      found[status.name.c_str()] = nb::make_tuple(status.available, status.detail);
    }
    return found;
  });
  // Memory of a context, dense and zeroed, for a framework whose arrays cannot be written.
  module.def("empty", [](const std::vector<std::size_t>& shape, bool is_double, bool cuda, int device) {
    return is_double ? empty<double>(shape, cuda, device) : empty<float>(shape, cuda, device);
  });
  // Where the library finds the numbers of an array.
  module.def("address", [](const Given& array) { return reinterpret_cast<std::uintptr_t>(array.data()); });
  module.def("wait", [](bool cuda, int device) {
    const nb::gil_scoped_release released;
    if (cuda) Place{true, device, 0}.context().synchronize();
  });
  bind_models(module);
  bind_paths(module);
  bind_training(module);
}
