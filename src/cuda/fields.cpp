// Fields at points on the device: which implementation a model gets, and the operation of the table on top of it.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <type_traits>

#include "cuda/backend.hpp"
#include "cuda/device_field.hpp"
#include "kernels/loss_launch.hpp"
#include "kernels/shared_layout.hpp"

namespace fokker::cuda {
namespace {

bool fits(const kernels::ResidentMlp& shape, kernels::Work work, int shared_bytes) {
  return shape.width > 0 && kernels::resident_warps(shape, work, shared_bytes) > 0;
}

template <class T>
class CudaFields final : public FieldOperator<T> {
 public:
  CudaFields(const Queue& queue, const Model& model)
      : device_(queue.device), field_(make_device_field<T>(queue, model)) {}

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& divergence) override {
    const OnDevice here(device_);
    field_->evaluate(points, outputs, divergence);
  }
  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) override {
    const OnDevice here(device_);
    field_->hessian_vector(points, direction, product);
  }
  std::size_t workspace_bytes() const override { return field_->workspace_bytes(); }

 private:
  int device_;
  std::unique_ptr<DeviceField<T>> field_;
};

std::string describe_plan(const Model& model, Precision precision, int shared_bytes) {
  const auto* mlp = std::get_if<Mlp>(&model.network);
  if (mlp == nullptr) return "kernels of exact mixtures, in double inside";
  const kernels::ResidentMlp shape = resident_shape(mlp->architecture, precision);
  if (!fits(shape, kernels::Work::score, shared_bytes)) return "all wide";
  using enum kernels::Work;
  std::string text;
  const auto add = [&](const char* what, int warps) {
    text +=
        fmt::format("{}{} {}", text.empty() ? "" : ", ", what,
                    warps == 0 ? "wide" : fmt::format("resident with {} warp{} a block", warps, warps == 1 ? "" : "s"));
  };
  for (const auto& [what, work] :
       {std::pair("score", score), std::pair("residual and divergence", curvature), std::pair("Hessian", hessian),
        std::pair("samples", sample), std::pair("log density", log_density)}) {
    // Residuals and the like need precise derivatives: half is not offered for them.
    if (precision == Precision::half && work != score && work != sample) continue;
    add(what, kernels::resident_warps(shape, work, shared_bytes));
  }
  if (precision != Precision::half) add("training", kernels::resident_loss_warps(shape, shared_bytes));
  return text;
}

}  // namespace

kernels::ResidentMlp resident_shape(const Architecture& architecture, Precision precision) {
  const auto widest = *std::max_element(architecture.hidden.begin(), architecture.hidden.end());
  const auto hidden = static_cast<int>(architecture.hidden.size());
  const bool potential = architecture.output == Output::potential;
  kernels::ResidentMlp shape{.image = nullptr,
                             .precision = precision,
                             .dimension = static_cast<int>(architecture.dimension),
                             .hidden = hidden,
                             .width = 0,
                             .outputs = potential ? 1 : static_cast<int>(architecture.dimension),
                             .potential = potential,
                             .activation = architecture.activation,
                             .beta = static_cast<float>(architecture.beta)};
  constexpr int most_hidden = 128;  // more never fit
  if (widest <= kernels::widest_resident && architecture.dimension <= kernels::most_resident_dimension &&
      hidden <= most_hidden) {
    shape.width = kernels::padded_width(static_cast<int>(widest));
  }
  return shape;
}

template <class T>
std::unique_ptr<DeviceField<T>> make_device_field(const Queue& queue, const Model& model) {
  const auto* mlp = std::get_if<Mlp>(&model.network);
  if (mlp == nullptr) return make_mixture_field<T>(queue, std::get<GaussianMixture>(model.network), model.sde);
  if constexpr (std::is_same_v<T, float>) {
    if (fits(resident_shape(mlp->architecture, queue.precision), kernels::Work::score, queue.limits.shared_bytes)) {
      return make_resident_field(queue, *mlp, model.sde);
    }
  }
  return make_wide_field<T>(queue, *mlp, model.sde);
}

template std::unique_ptr<DeviceField<float>> make_device_field(const Queue&, const Model&);
template std::unique_ptr<DeviceField<double>> make_device_field(const Queue&, const Model&);

template <class T>
std::unique_ptr<FieldOperator<T>> make_fields(const Queue& queue, const Model& model) {
  return std::make_unique<CudaFields<T>>(queue, model);
}

template std::unique_ptr<FieldOperator<float>> make_fields(const Queue&, const Model&);
template std::unique_ptr<FieldOperator<double>> make_fields(const Queue&, const Model&);

std::vector<KernelPlan> kernel_plans(const Model& model, Precision precision, const DeviceQuery& query) {
  if (why_not(query).empty()) {
    const DeviceInfo& device = query.devices[static_cast<std::size_t>(query.current)];
    return {{device.name, describe_plan(model, precision, device.shared_bytes)}};
  }
  // What a block may have on the data-centre chips: 163 and 227 KiB.
  return {{"compute capability 8.0", describe_plan(model, precision, 163 << 10)},
          {"compute capability 9.0", describe_plan(model, precision, 227 << 10)}};
}

}  // namespace fokker::cuda
