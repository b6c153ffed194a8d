// Weighted sums of fields on the device: each term's own by whatever computes it, the first where the sum will be, the
// others chunk by chunk in a workspace, and a launch that adds them. Cost beside the terms: two reads and a write a number.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/arena.hpp"
#include "cuda/device_field.hpp"
#include "kernels/launch.hpp"

namespace fokker::cuda {
namespace {

template <class T>
class SumField final : public DeviceField<T> {
 public:
  SumField(const Queue& queue, std::vector<WeightedField<T>> terms)
      : stream_(queue.stream), terms_(std::move(terms)), d_(terms_[0].field->dimension()) {
    rows_ = workspace_rows([this](std::int64_t rows) { return lay_out(nullptr, rows); });
    workspace_.reserve(lay_out(nullptr, rows_));
    lay_out(workspace_.as<char>(), rows_);
  }

  std::int64_t dimension() const override { return d_; }
  std::size_t workspace_bytes() const override {
    std::size_t bytes = workspace_.bytes();
    for (const WeightedField<T>& term : terms_) bytes += term.field->workspace_bytes();
    return bytes;
  }

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& estimate) override {
    if (outputs.value || outputs.dt || outputs.score || outputs.divergence) {
      for_chunks(points, rows_, [&](std::int64_t first, const Points<T>& chunk) {
        Divergence own = estimate;
        own.first_index += static_cast<std::uint64_t>(first);
        sum(chunk, first, own, outputs.value, outputs.dt, outputs.score, outputs.divergence);
      });
    }
    if (!outputs.hessian) return;
    // In the whole workspace: a Hessian has more numbers than all others.
    const auto numbers = static_cast<std::int64_t>(workspace_.bytes() / sizeof(T));
    for_chunks(points, std::max<std::int64_t>(1, numbers / (d_ * d_)), [&](std::int64_t first, const Points<T>& chunk) {
      const std::int64_t n = chunk.x.rows;
      const View<T> whole = outputs.hessian.slice(first, n);
      for (std::size_t k = 0; k < terms_.size(); ++k) {
        const View<T> term = k == 0 ? whole : View<T>(workspace_.as<T>(), n, d_ * d_, Device::cuda);
        terms_[k].field->evaluate(chunk, {.hessian = term}, {});
        add(k, term, whole);
      }
    });
  }

  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) override {
    for_chunks(points, rows_, [&](std::int64_t first, const Points<T>& chunk) {
      const std::int64_t n = chunk.x.rows;
      const View<T> whole = product.slice(first, n);
      for (std::size_t k = 0; k < terms_.size(); ++k) {
        const View<T> term = k == 0 ? whole : View<T>(score_, n, d_, Device::cuda);
        terms_[k].field->hessian_vector(chunk, direction.slice(first, n), term);
        add(k, term, whole);
      }
    });
  }

 private:
  std::size_t lay_out(char* base, std::int64_t rows) {
    Arena arena(base);
    value_ = arena.take<T>(rows);
    dt_ = arena.take<T>(rows);
    score_ = arena.take<T>(rows * d_);
    divergence_ = arena.take<T>(rows);
    return arena.used();
  }

  // visit(first point, points)
  template <class Visit>
  void for_chunks(const Points<T>& points, std::int64_t rows, const Visit& visit) {
    for (std::int64_t first = 0; first < points.x.rows; first += rows) {
      const std::int64_t n = std::min(rows, points.x.rows - first);
      visit(first, Points<T>{points.t.rows == 1 ? points.t : points.t.slice(first, n), points.x.slice(first, n)});
    }
  }

  void sum(const Points<T>& chunk, std::int64_t first, const Divergence& estimate, View<T> value, View<T> dt,
           View<T> score, View<T> divergence) {
    const std::int64_t n = chunk.x.rows;
    const auto part = [&](View<T> of) { return of ? of.slice(first, n) : of; };
    const FieldOutputs<T> whole{
        .value = part(value), .dt = part(dt), .score = part(score), .divergence = part(divergence)};
    for (std::size_t k = 0; k < terms_.size(); ++k) {
      const auto own = [&](const View<T>& wanted, T* memory) {
        return k == 0 || !wanted ? wanted : View<T>(memory, n, wanted.columns, Device::cuda);
      };
      const FieldOutputs<T> term{.value = own(whole.value, value_),
                                 .dt = own(whole.dt, dt_),
                                 .score = own(whole.score, score_),
                                 .divergence = own(whole.divergence, divergence_)};
      terms_[k].field->evaluate(chunk, term, estimate);
      add(k, term.value, whole.value);
      add(k, term.dt, whole.dt);
      add(k, term.score, whole.score);
      add(k, term.divergence, whole.divergence);
    }
  }

  void add(std::size_t k, const View<T>& term, const View<T>& whole) {
    const T weight = static_cast<T>(terms_[k].weight);
    if (!whole || (k == 0 && weight == 1)) return;
    check(kernels::launch_scaled<T>(term.data, weight, k > 0, whole.size(), whole.data, stream_), "launch_scaled");
  }

  cudaStream_t stream_;
  std::vector<WeightedField<T>> terms_;
  std::int64_t d_;
  std::int64_t rows_ = 0;
  DeviceMemory workspace_;
  T *value_ = nullptr, *dt_ = nullptr, *score_ = nullptr, *divergence_ = nullptr;  // of a term
};

}  // namespace

template <class T>
std::unique_ptr<DeviceField<T>> make_sum_field(const Queue& queue, std::vector<WeightedField<T>> terms) {
  return std::make_unique<SumField<T>>(queue, std::move(terms));
}

template std::unique_ptr<DeviceField<float>> make_sum_field(const Queue&, std::vector<WeightedField<float>>);
template std::unique_ptr<DeviceField<double>> make_sum_field(const Queue&, std::vector<WeightedField<double>>);

}  // namespace fokker::cuda
