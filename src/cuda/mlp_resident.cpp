// A network that fits a multiprocessor's shared memory: has it packed into the image that the resident kernels copy
// there (kernels/mlp.hpp), and launches them.
#include "cuda/mlp_resident.hpp"
#include "kernels/shared_layout.hpp"

namespace fokker::cuda {
namespace {

using kernels::ResidentMlp;
using kernels::Work;

class ResidentField final : public DeviceField<float> {
 public:
  ResidentField(const Queue& queue, const Mlp& mlp, const ForwardSde& sde)
      : queue_(queue), sde_(sde), network_(queue, mlp) {
    // A work that does not fit beside the image goes the wide way.
    const auto fits = [&](Work work) {
      return kernels::resident_warps(network_.get(), work, queue.limits.shared_bytes) > 0;
    };
    curvature_fits_ = fits(Work::curvature);
    hessian_fits_ = fits(Work::hessian);
    const ResidentMlp& net = network_.get();
    check(kernels::prepare_resident_fields(net, Work::score, queue.limits), "prepare_resident_fields");
    if (curvature_fits_ && queue.precision != Precision::half) {
      check(kernels::prepare_resident_fields(net, Work::curvature, queue.limits), "prepare_resident_fields");
    }
    if (hessian_fits_ && queue.precision != Precision::half) {
      check(kernels::prepare_resident_hessian(net, queue.limits), "prepare_resident_hessian");
    }
    const bool all_fit = curvature_fits_ && hessian_fits_;
    // Precision half is refused whatever would need it.
    if (!all_fit && queue.precision != Precision::half) wide_ = make_wide_field<float>(queue, mlp, sde);
  }

  std::int64_t dimension() const override { return network_.get().dimension; }
  std::size_t workspace_bytes() const override { return wide_ ? wide_->workspace_bytes() : 0; }

  void evaluate(const Points<float>& points, const FieldOutputs<float>& outputs, const Divergence& estimate) override {
    check_precision(queue_.precision, outputs);
    if ((outputs.divergence || outputs.residual) && !curvature_fits_) return wide_->evaluate(points, outputs, estimate);
    if (outputs.hessian) hessian(points, {}, {}, outputs.hessian);
    if (!outputs.value && !outputs.dt && !outputs.score && !outputs.divergence && !outputs.residual) return;
    check(kernels::launch_resident_fields(network_.get(),
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
    if (!hessian_fits_) return wide_->hessian_vector(points, direction, product);
    hessian(points, direction, product, {});
  }

 private:
  void hessian(const Points<float>& points, View<const float> direction, View<float> product, View<float> matrix) {
    if (!hessian_fits_) {
      FieldOutputs<float> outputs;
      outputs.hessian = matrix;
      return wide_->evaluate(points, outputs, {});
    }
    check(kernels::launch_resident_hessian(network_.get(),
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
  ForwardSde sde_;
  ResidentNetwork network_;
  bool curvature_fits_, hessian_fits_;
  std::unique_ptr<DeviceField<float>> wide_;
};

}  // namespace

ResidentImage::ResidentImage(const Queue& queue, const Architecture& architecture)
    : net_(resident_shape(architecture, queue.precision)),
      image_(static_cast<std::size_t>(kernels::image_layout(net_).bytes)) {
  std::vector<kernels::LayerShape> layers;
  for (std::int64_t l = 0; l < architecture.layers(); ++l) {
    layers.push_back({static_cast<int>(architecture.inputs(l)), static_cast<int>(architecture.outputs(l)),
                      static_cast<int>(architecture.weight_offset(l))});
  }
  layers_ = upload(layers);
  net_.image = image_.data();
  check(cudaMemsetAsync(image_.data(), 0, image_.bytes(), queue.stream), "cudaMemsetAsync");
}

ResidentNetwork::ResidentNetwork(const Queue& queue, const Mlp& mlp) : image_(queue, mlp.architecture) {
  const DeviceMemory parameters = upload(std::vector<float>(mlp.parameters.begin(), mlp.parameters.end()));
  const kernels::PackTask task = image_.pack(parameters.as<float>());
  check(kernels::launch_pack_image(image_.get(), &task, 1, queue.stream), "launch_pack_image");
  check(cudaStreamSynchronize(queue.stream), "cudaStreamSynchronize");  // the parameters are freed here
}

std::unique_ptr<DeviceField<float>> make_resident_field(const Queue& queue, const Mlp& mlp, const ForwardSde& sde) {
  return std::make_unique<ResidentField>(queue, mlp, sde);
}

}  // namespace fokker::cuda
