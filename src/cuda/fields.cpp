// Fields at points on the device: which implementation a model gets, and the operation of the table on top of it.
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

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
  if (const auto* mixture = std::get_if<GaussianMixture>(&model.network)) {
    return make_mixture_field<T>(queue, *mixture, model.sde);
  }
  if (const auto* composition = std::get_if<Composition>(&model.network)) {
    // In a form that is all terms' the sum is one of networks, else of scores.
    std::vector<WeightedField<T>> terms;
    for (const auto& [weight, term] : composition->terms) {
      terms.push_back(
          {weight, model.form().plain() ? make_device_field<T>(queue, term) : make_network_field<T>(queue, term)});
    }
    return make_sum_field(queue, std::move(terms));
  }
  const auto* mlp = std::get_if<Mlp>(&model.network);
  if constexpr (std::is_same_v<T, float>) {
    if (plan_residency(mlp->architecture, queue.precision, queue.limits).score.resident()) {
      return make_resident_field(queue, *mlp, model.sde);
    }
  }
  return make_wide_field<T>(queue, *mlp, model.sde);
}

template <class T>
std::unique_ptr<DeviceField<T>> make_device_field(const Queue& queue, const Model& model) {
  std::unique_ptr<DeviceField<T>> network = make_network_field<T>(queue, model);
  if (model.form().plain() && !std::holds_alternative<Composition>(model.network)) return network;
  return make_formed_field(queue, std::move(network), model.form(), model.sde);
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
