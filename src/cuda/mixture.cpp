// Fields of an exact mixture on the device: parameters uploaded once, scratch for a bounded number of points in flight.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/device_field.hpp"
#include "cuda/device_sde.hpp"
#include "cuda/runtime.hpp"
#include "kernels/mixture_launch.hpp"

namespace fokker::cuda {
namespace {

// Points in flight: as many as fit this much scratch, but no more than occupy any device.
constexpr std::int64_t most_slots = 1 << 16, scratch_bytes = 48 << 20;

template <class T>
class MixtureField final : public DeviceField<T> {
 public:
  MixtureField(const Queue& queue, const GaussianMixture& mixture, const ForwardSde& sde) : queue_(queue), sde_(sde) {
    const std::int64_t d = mixture.dimension(), components = mixture.components();
    const std::vector<double>&means = mixture.means(), &values = mixture.eigenvalues(), &q = mixture.eigenvectors();
    std::vector<double> log_weights, rotated_means(means), rotations;
    std::vector<std::int32_t> rotation, isotropic;
    for (std::int64_t k = 0; k < components; ++k) {
      log_weights.push_back(std::log(mixture.weights()[k]));
      isotropic.push_back(
          std::all_of(&values[k * d], &values[k * d] + d, [&](double v) { return v == values[k * d]; }));
      const double* vectors = &q[k * d * d];
      bool diagonal = isotropic.back() != 0;
      if (!diagonal) {
        diagonal = true;
        for (std::int64_t i = 0; i < d * d; ++i) diagonal &= vectors[i] == (i % (d + 1) == 0);
      }
      rotation.push_back(diagonal ? -1 : static_cast<std::int32_t>(rotations.size() / (d * d)));
      if (diagonal) continue;
      rotations.insert(rotations.end(), vectors, vectors + d * d);
      for (std::int64_t j = 0; j < d; ++j) {
        double sum = 0;
        for (std::int64_t i = 0; i < d; ++i) sum += vectors[j * d + i] * means[k * d + i];
        rotated_means[k * d + j] = sum;
      }
    }
    mixture_ = {.dimension = d,
                .components = components,
                .means = upload_table(means),
                .eigenvalues = upload_table(values),
                .rotated_means = upload_table(rotated_means),
                .log_weights = upload_table(log_weights),
                .rotation = upload_table(rotation),
                .rotations = upload_table(rotations),
                .isotropic = upload_table(isotropic),
                .rotated = !rotations.empty(),
                .sde = sde_.formulas()};
    const std::int64_t numbers = kernels::mixture_scratch(mixture_);
    const std::int64_t fit = scratch_bytes / (numbers * static_cast<std::int64_t>(sizeof(double)));
    workspace_.slots = std::clamp<std::int64_t>(fit, 1, most_slots);
    scratch_.reserve(static_cast<std::size_t>(numbers * workspace_.slots) * sizeof(double));
    log_norm_.reserve(static_cast<std::size_t>(components) * sizeof(double));
    workspace_.scratch = scratch_.as<double>();
    workspace_.log_norm = log_norm_.as<double>();
  }

  std::int64_t dimension() const override { return mixture_.dimension; }

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& estimate) override {
    kernels::MixtureArguments<T> arguments = arguments_at(points);
    arguments.value = outputs.value.data;
    arguments.dt = outputs.dt.data;
    arguments.score = outputs.score.data;
    arguments.divergence = outputs.divergence.data;
    arguments.hessian = outputs.hessian.data;
    arguments.residual = outputs.residual.data;
    arguments.estimate = estimate;
    check(kernels::launch_mixture(mixture_, workspace_, arguments, queue_.stream), "launch_mixture");
  }

  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) override {
    kernels::MixtureArguments<T> arguments = arguments_at(points);
    arguments.direction = direction.data;
    arguments.product = product.data;
    check(kernels::launch_mixture(mixture_, workspace_, arguments, queue_.stream), "launch_mixture");
  }

  std::size_t workspace_bytes() const override { return scratch_.bytes() + log_norm_.bytes(); }

 private:
  template <class U>
  const U* upload_table(const std::vector<U>& table) {
    if (table.empty()) return nullptr;
    tables_.push_back(upload(table));
    return tables_.back().template as<const U>();
  }

  static kernels::MixtureArguments<T> arguments_at(const Points<T>& points) {
    kernels::MixtureArguments<T> arguments{};
    arguments.n = points.x.rows;
    arguments.t = points.t.data;
    arguments.t_stride = points.t.rows == 1 ? 0 : 1;
    arguments.x = points.x.data;
    return arguments;
  }

  Queue queue_;
  DeviceSde sde_;
  std::vector<DeviceMemory> tables_;
  DeviceMemory scratch_, log_norm_;
  kernels::MixtureParameters mixture_{};
  kernels::MixtureWorkspace workspace_{};
};

}  // namespace

template <class T>
std::unique_ptr<DeviceField<T>> make_mixture_field(const Queue& queue, const GaussianMixture& mixture,
                                                   const ForwardSde& sde) {
  return std::make_unique<MixtureField<T>>(queue, mixture, sde);
}

template std::unique_ptr<DeviceField<float>> make_mixture_field<float>(const Queue&, const GaussianMixture&,
                                                                       const ForwardSde&);
template std::unique_ptr<DeviceField<double>> make_mixture_field<double>(const Queue&, const GaussianMixture&,
                                                                         const ForwardSde&);

}  // namespace fokker::cuda
