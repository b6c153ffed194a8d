#pragma once

// What the parts of the extension module fokker._core share: arrays as views, contexts where arrays are, models.
//
// The module is internal: the package around it (src/python/fokker) finds out whose arrays it was given, allocates those that
// come out, and says which CUDA stream is current. Here an array is what DLPack says of it. The GIL is released while the
// library works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <compare>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "c/tensors.hpp"
#include "fokker/fokker.hpp"

namespace fokker::python {

namespace nb = nanobind;

using Given = nb::ndarray<nb::ro>;  // read; one that is not valid stands for None
using Wanted = nb::ndarray<>;       // written

template <class Array>
DLTensor tensor_of(const Array& array) {
  DLTensor tensor{};
  tensor.data = const_cast<void*>(static_cast<const void*>(array.data()));
  tensor.device = {static_cast<DLDeviceType>(array.device_type()), array.device_id()};
  tensor.ndim = static_cast<std::int32_t>(array.ndim());
  tensor.dtype = {array.dtype().code, array.dtype().bits, array.dtype().lanes};
  tensor.shape = const_cast<std::int64_t*>(array.shape_ptr());
  tensor.strides = const_cast<std::int64_t*>(array.stride_ptr());
  return tensor;
}

// Whether it is of float64. Throws Error where it is neither that nor float32.
template <class Array>
bool is_double(const Array& array, const char* what) {
  const DLDataType type = tensor_of(array).dtype;
  if (type.code != kDLFloat || type.lanes != 1 || (type.bits != 32 && type.bits != 64)) {
    throw Error(fmt::format("{} is of type {}; allowed: float32, float64", what, type_of(type)));
  }
  return type.bits == 64;
}

// Where an array is, and the CUDA stream that its framework works on there.
struct Place {
  bool cuda = false;
  int device = 0;
  std::uintptr_t stream = 0;

  auto operator<=>(const Place&) const = default;
  Context context() const {
    return Context({.backend = cuda ? BackendKind::cuda : BackendKind::cpu,
                    .stream = reinterpret_cast<void*>(stream),
                    .gpu = cuda ? device : -1});
  }
};
template <class Array>
Place place_of(const Array& array, std::uintptr_t stream) {
  if (array.device_type() != kDLCUDA) return {};
  return {true, array.device_id(), stream};
}

// The view [N, columns] of an array, as the C API takes it; empty where there is none. One on CUDA has to be on the GPU of the
// place that the call works at.
template <class T, class Array>
View<T> view(const Array& array, const char* what, const Place& place) {
  if (!array.is_valid()) return {};
  const DLTensor tensor = tensor_of(array);
  return view_of<T>(&tensor, what, place.cuda ? place.device : -1);
}

inline Divergence divergence_of(int probes, const std::string& law, std::uint64_t seed, std::uint64_t first_index = 0) {
  return {.probes = probes, .law = parse_probe_law(law), .seed = seed, .first_index = first_index};
}

// A model, and what was made to evaluate it. A call takes an evaluator that no other call has, so that calls from several
// threads at once are several contexts; copies share them.
class ModelObject {
 public:
  explicit ModelObject(Model model) : state_(std::make_shared<State>(std::move(model))) {}
  const Model& model() const { return state_->model; }

  // use(fields): of Fields<T>, at a place. For a caller without the GIL.
  template <class T, class Use>
  void with_fields(const Place& place, const Use& use) const {
    std::unique_ptr<Evaluator> evaluator = state_->take(place, sizeof(T));
    if (!evaluator) {
      const Context context = place.context();
      evaluator = std::make_unique<Evaluator>(Evaluator{place, sizeof(T), context, Fields<T>(context, state_->model)});
    }
    use(std::get<Fields<T>>(evaluator->fields));  // one that throws is not used again
    state_->give_back(std::move(evaluator));
  }

 private:
  struct Evaluator {
    Place place;
    std::size_t bytes;  // of a number
    Context context;
    std::variant<Fields<float>, Fields<double>> fields;
  };
  struct State {
    explicit State(Model m) : model(std::move(m)) {}
    std::unique_ptr<Evaluator> take(const Place& place, std::size_t bytes);
    void give_back(std::unique_ptr<Evaluator> evaluator);

    const Model model;
    std::mutex mutex;
    std::vector<std::unique_ptr<Evaluator>> idle;
  };
  std::shared_ptr<State> state_;
};

// What a call that takes long returns, without the GIL.
template <class Work>
auto without_gil(const Work& work) {
  const nb::gil_scoped_release released;
  return work();
}

// A model as Python has it: fokker.Model, whose methods are written there.
nb::object to_python(Model model);

// The parts of the module.
void bind_models(nb::module_& module);
void bind_paths(nb::module_& module);
void bind_training(nb::module_& module);

}  // namespace fokker::python
