// A network that fits a multiprocessor's shared memory: has it packed into the image that the resident kernels copy
// there (kernels/mlp.hpp), and launches them.
#include "cuda/mlp_resident.hpp"

#include <utility>

#include "cuda/device_sde.hpp"
#include "kernels/shared_layout.hpp"

namespace fokker::cuda {
namespace {

using kernels::Work;

class ResidentField final : public DeviceField<float> {
 public:
  ResidentField(const Queue& queue, const Mlp& mlp, const ForwardSde& sde, std::shared_ptr<const ResidentImage> packed)
      : queue_(queue), sde_(sde), packed_(std::move(packed)) {
    const auto prepare = [&](Work work) {
      check(kernels::prepare_resident_fields(packed_->get(), work, queue.limits), "prepare_resident_fields");
    };
    prepare(Work::score);
    if (plan().curvature.resident()) prepare(Work::curvature);
    if (plan().hessian.resident()) {
      check(kernels::prepare_resident_hessian(packed_->get(), queue.limits), "prepare_resident_hessian");
    }
    if (plan().curvature.wide() || plan().hessian.wide()) wide_ = make_wide_field<float>(queue, mlp, sde);
  }

  std::int64_t dimension() const override { return packed_->get().dimension; }
  std::size_t workspace_bytes() const override { return wide_ ? wide_->workspace_bytes() : 0; }

  void evaluate(const Points<float>& points, const FieldOutputs<float>& outputs, const Divergence& estimate) override {
    check_precision(queue_.precision, outputs);
    const bool curvature = outputs.divergence || outputs.residual;
    if (curvature && plan().curvature.wide()) return wide_->evaluate(points, outputs, estimate);
    if (outputs.hessian) hessian(points, {}, {}, outputs.hessian);
    if (!outputs.value && !outputs.dt && !outputs.score && !curvature) return;
    check(kernels::launch_resident_fields(packed_->get(), curvature ? plan().curvature.warps : plan().score.warps,
                                          {.n = points.x.rows,
                                           .t = points.t.data,
                                           .t_stride = points.t.rows == 1 ? 0 : 1,
                                           .x = points.x.data,
                                           .value = outputs.value.data,
                                           .dt = outputs.dt.data,
                                           .score = outputs.score.data,
                                           .divergence = outputs.divergence.data,
                                           .residual = outputs.residual.data,
                                           .sde = sde_.formulas(),
                                           .estimate = estimate},
                                          queue_.limits, queue_.stream),
          "launch_resident_fields");
  }

  void hessian_vector(const Points<float>& points, View<const float> direction, View<float> product) override {
    check_precision<float>(queue_.precision, true);
    if (plan().hessian.wide()) return wide_->hessian_vector(points, direction, product);
    hessian(points, direction, product, {});
  }

 private:
  const Residency& plan() const { return packed_->plan(); }

  void hessian(const Points<float>& points, View<const float> direction, View<float> product, View<float> matrix) {
    if (plan().hessian.wide()) {
      FieldOutputs<float> outputs;
      outputs.hessian = matrix;
      return wide_->evaluate(points, outputs, {});
    }
    check(kernels::launch_resident_hessian(packed_->get(), plan().hessian.warps,
                                           {.n = points.x.rows,
                                            .t = points.t.data,
                                            .t_stride = points.t.rows == 1 ? 0 : 1,
                                            .x = points.x.data,
                                            .direction = direction.data,
                                            .product = product.data,
                                            .hessian = matrix.data},
                                           queue_.limits, queue_.stream),
          "launch_resident_hessian");
  }

  Queue queue_;
  DeviceSde sde_;
  std::shared_ptr<const ResidentImage> packed_;
  std::unique_ptr<DeviceField<float>> wide_;  // where a work is wide
};

}  // namespace

ResidentImage::ResidentImage(const Queue& queue, const Architecture& architecture)
    : plan_(plan_residency(architecture, queue.precision, queue.limits)),
      image_(static_cast<std::size_t>(kernels::image_layout(plan_.shape).bytes)) {
  std::vector<kernels::LayerShape> layers;
  for (std::int64_t l = 0; l < architecture.layers(); ++l) {
    layers.push_back({static_cast<int>(architecture.inputs(l)), static_cast<int>(architecture.outputs(l)),
                      static_cast<int>(architecture.weight_offset(l))});
  }
  layers_ = upload(layers);
  plan_.shape.image = image_.data();
  check(cudaMemsetAsync(image_.data(), 0, image_.bytes(), queue.stream), "cudaMemsetAsync");
}

std::shared_ptr<const ResidentImage> pack_network(const Queue& queue, const Mlp& mlp) {
  auto image = std::make_shared<const ResidentImage>(queue, mlp.architecture);
  const DeviceMemory parameters = upload(std::vector<float>(mlp.parameters.begin(), mlp.parameters.end()));
  const kernels::PackTask task = image->pack(parameters.as<float>());
  check(kernels::launch_pack_image(image->get(), &task, 1, queue.stream), "launch_pack_image");
  check(cudaStreamSynchronize(queue.stream), "cudaStreamSynchronize");  // the parameters are freed here
  return image;
}

std::unique_ptr<DeviceField<float>> make_resident_field(const Queue& queue, const Mlp& mlp, const ForwardSde& sde,
                                                        std::shared_ptr<const ResidentImage> packed) {
  if (packed == nullptr) packed = pack_network(queue, mlp);
  return std::make_unique<ResidentField>(queue, mlp, sde, std::move(packed));
}

}  // namespace fokker::cuda
