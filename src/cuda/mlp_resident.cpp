// A network that fits a multiprocessor's shared memory: packs it into the image that the resident kernels copy there
// (kernels/mlp.hpp), and launches them.
#include "cuda/mlp_resident.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fokker::cuda {
namespace {

using kernels::ImageLayout;
using kernels::ResidentMlp;
using kernels::Work;

// IEEE binary16 of |x| < 65504, rounded to nearest even.
std::uint16_t half_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const float magnitude = std::fabs(x);
  if (magnitude < 0x1p-14f) {  // denormal: multiples of 2^−24
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::nearbyint(magnitude * 0x1p24f)));
  }
  bits &= 0x7FFFFFFFu;
  bits += 0xFFFu + (bits >> 13 & 1u);  // a carry into the exponent is the rounding up to the next power of two
  return static_cast<std::uint16_t>(sign | ((bits - (112u << 23)) >> 13));
}

float half_value(std::uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                        : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return h & 0x8000 ? -magnitude : magnitude;
}

// The power of two that brings the largest magnitude into [2^8, 2^9), as for rows of activations.
float scale_of(const float* w, std::int64_t count) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(w[i]));
  if (largest == 0) return 1;
  return std::ldexp(1.0f, std::clamp(8 - std::ilogb(largest), -120, 120));
}

// Where entry (row, column) of a matrix [width, width] lies among blocks of 16 × 16, each of four 8 × 8 matrices (2 ·
// rows' half + columns' half) with `parts` consecutive copies: the number of 16-bit words before it.
std::int64_t block_offset(int width, int row, int column, int parts) {
  const std::int64_t block = std::int64_t{row / 16} * (width / 16) + column / 16;
  const int matrix = 2 * (row % 16 / 8) + column % 16 / 8;
  return block * 256 * parts + matrix * 64 + row % 8 * 8 + column % 8;
}

std::vector<char> pack(const ResidentMlp& net, const Mlp& mlp) {
  const Architecture& a = mlp.architecture;
  const int width = net.width;
  const ImageLayout at = kernels::image_layout(net);
  std::vector<char> image(static_cast<std::size_t>(at.bytes), 0);
  const auto numbers = [&](int offset) { return reinterpret_cast<float*>(image.data() + offset); };
  const auto weight = [&](std::int64_t layer, std::int64_t row, std::int64_t column) {
    return static_cast<float>(mlp.parameters[a.weight_offset(layer) + row * a.inputs(layer) + column]);
  };
  for (std::int64_t i = 0; i < a.inputs(0); ++i) {
    for (std::int64_t j = 0; j < a.outputs(0); ++j) numbers(at.input)[i * width + j] = weight(0, j, i);
  }
  for (int l = 0; l < net.hidden; ++l) {
    for (std::int64_t j = 0; j < a.outputs(l); ++j) {
      numbers(at.bias)[l * width + j] = static_cast<float>(mlp.parameters[a.bias_offset(l) + j]);
    }
  }
  for (int i = 0; i < net.outputs; ++i) {
    for (std::int64_t j = 0; j < a.inputs(net.hidden); ++j)
      numbers(at.output)[i * width + j] = weight(net.hidden, i, j);
    numbers(at.output_bias)[i] = static_cast<float>(mlp.parameters[a.bias_offset(net.hidden) + i]);
  }
  for (int l = 1; l < net.hidden; ++l) {
    std::vector<float> w(static_cast<std::size_t>(width) * width, 0.0f);
    for (std::int64_t j = 0; j < a.outputs(l); ++j) {
      for (std::int64_t i = 0; i < a.inputs(l); ++i) w[j * width + i] = weight(l, j, i);
    }
    char* matrix = image.data() + at.matrices + (l - 1) * at.matrix_bytes;
    float& factor = numbers(at.factors)[l - 1];
    if (net.precision == Precision::fp32) {
      factor = 1;
      for (int j = 0; j < width; ++j) {
        std::memcpy(matrix + j * (width + 4) * sizeof(float), w.data() + j * width, width * sizeof(float));
      }
      continue;
    }
    const float scale = scale_of(w.data(), static_cast<std::int64_t>(w.size()));
    factor = 1 / scale;
    const int parts = net.precision == Precision::split ? 2 : 1;
    auto* words = reinterpret_cast<std::uint16_t*>(matrix);
    for (int j = 0; j < width; ++j) {
      for (int i = 0; i < width; ++i) {
        const float x = w[j * width + i] * scale;
        const std::uint16_t high = half_bits(x);
        const std::int64_t place = block_offset(width, j, i, parts);
        words[place] = high;
        if (parts == 2) words[place + 256] = half_bits(x - half_value(high));
      }
    }
  }
  return image;
}

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
                                           .sde = sde_,
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

ResidentNetwork::ResidentNetwork(const Queue& queue, const Mlp& mlp)
    : net_(resident_shape(mlp.architecture, queue.precision)), image_(upload(pack(net_, mlp))) {
  net_.image = image_.data();
}

std::unique_ptr<DeviceField<float>> make_resident_field(const Queue& queue, const Mlp& mlp, const ForwardSde& sde) {
  return std::make_unique<ResidentField>(queue, mlp, sde);
}

}  // namespace fokker::cuda
