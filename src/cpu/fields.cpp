// Fields at points: a parallel loop over blocks; a point's result depends on the point alone.
#include <algorithm>
#include <memory>
#include <vector>

#include "core/parallel.hpp"
#include "cpu/backend.hpp"
#include "cpu/block_field.hpp"

namespace fokker::cpu {
namespace {

template <class T>
class CpuFields final : public FieldOperator<T> {
 public:
  CpuFields(const Model& model, int threads) : field_(make_block_field<T>(model)), threads_(threads) {
    for (int i = 0; i < threads; ++i) scratch_.push_back(field_->make_scratch());
  }

  void evaluate(const Points<T>& points, const FieldOutputs<T>& outputs, const Divergence& divergence) override {
    const std::int64_t d = field_->dimension();
    const auto at = [](const View<T>& view, std::int64_t i) { return view ? view.data + i : nullptr; };
    for_blocks(points, divergence.first_index, [&](std::int64_t i, const BlockPoints<T>& block, Scratch& scratch) {
      const BlockOutputs<T> out{at(outputs.value, i),           at(outputs.dt, i),
                                at(outputs.score, i * d),       at(outputs.divergence, i),
                                at(outputs.hessian, i * d * d), at(outputs.residual, i)};
      field_->evaluate(block, out, divergence, scratch);
    });
  }

  void hessian_vector(const Points<T>& points, View<const T> direction, View<T> product) override {
    const std::int64_t d = field_->dimension();
    for_blocks(points, 0, [&](std::int64_t i, const BlockPoints<T>& block, Scratch& scratch) {
      field_->hessian_vector(block, direction.data + i * d, product.data + i * d, scratch);
    });
  }

 private:
  // visit(first point, block, scratch)
  template <class Visit>
  void for_blocks(const Points<T>& points, std::uint64_t first_index, Visit&& visit) {
    const std::int64_t n = points.x.rows, size = field_->block_size(), t_stride = points.t.rows == n ? 1 : 0;
    parallel_for(threads_, (n + size - 1) / size, [&](std::int64_t item, int thread) {
      const std::int64_t i = item * size;
      const BlockPoints<T> block{points.t.data + i * t_stride,
                                 t_stride,
                                 points.x.data + i * field_->dimension(),
                                 std::min(size, n - i),
                                 first_index + static_cast<std::uint64_t>(i),
                                 points.condition ? points.condition.data + i * points.condition.columns : nullptr};
      visit(i, block, *scratch_[static_cast<std::size_t>(thread)]);
    });
  }

  std::unique_ptr<BlockField<T>> field_;
  int threads_;
  std::vector<std::unique_ptr<Scratch>> scratch_;
};

}  // namespace

template <class T>
std::unique_ptr<FieldOperator<T>> make_fields(const Model& model, int threads) {
  return std::make_unique<CpuFields<T>>(model, threads);
}

template std::unique_ptr<FieldOperator<float>> make_fields(const Model&, int);
template std::unique_ptr<FieldOperator<double>> make_fields(const Model&, int);

}  // namespace fokker::cpu
