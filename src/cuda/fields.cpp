// Fields at points on the device: which implementation a model gets, and the operation of the table on top of it.
#include <memory>
#include <type_traits>

#include "cuda/backend.hpp"
#include "cuda/device_field.hpp"
#include "cuda/residency.hpp"

namespace fokker::cuda {
namespace {

template <class T>
class CudaFields final : public FieldOperator<T> {
 public:
  CudaFields(const Queue& queue, const Model& model)
      : device_(queue.device), field_(make_device_field<T>(queue, model)) {}

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& divergence) override {
    const CurrentDevice guard(device_);
    field_->evaluate(points, outputs, divergence);
  }
  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) override {
    const CurrentDevice guard(device_);
    field_->hessian_vector(points, direction, product);
  }
  std::size_t workspace_bytes() const override { return field_->workspace_bytes(); }

 private:
  int device_;
  std::unique_ptr<DeviceField<T>> field_;
};

}  // namespace

template <class T>
std::unique_ptr<DeviceField<T>> make_network_field(const Queue& queue, const Model& model) {
  const auto* mlp = std::get_if<Mlp>(&model.network);
  if (mlp == nullptr) return make_mixture_field<T>(queue, std::get<GaussianMixture>(model.network), model.sde);
  if constexpr (std::is_same_v<T, float>) {
    if (plan_residency(mlp->architecture, queue.precision, queue.limits).score.resident()) {
      return make_resident_field(queue, *mlp, model.sde);
    }
  }
  return make_wide_field<T>(queue, *mlp, model.sde);
}

template <class T>
std::unique_ptr<DeviceField<T>> make_device_field(const Queue& queue, const Model& model) {
  return make_formed_field(queue, make_network_field<T>(queue, model), model.form(), model.sde);
}

template std::unique_ptr<DeviceField<float>> make_network_field(const Queue&, const Model&);
template std::unique_ptr<DeviceField<double>> make_network_field(const Queue&, const Model&);
template std::unique_ptr<DeviceField<float>> make_device_field(const Queue&, const Model&);
template std::unique_ptr<DeviceField<double>> make_device_field(const Queue&, const Model&);

template <class T>
std::unique_ptr<FieldOperator<T>> make_fields(const Queue& queue, const Model& model) {
  return std::make_unique<CudaFields<T>>(queue, model);
}

template std::unique_ptr<FieldOperator<float>> make_fields(const Queue&, const Model&);
template std::unique_ptr<FieldOperator<double>> make_fields(const Queue&, const Model&);

}  // namespace fokker::cuda
