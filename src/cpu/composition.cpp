// Weighted sums of fields: each term's own on the block, the first where the sum will be, the others in scratch and
// added. Cost beside the terms: a multiplication and an addition a number.
#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/block_field.hpp"
#include "cpu/mlp_primitives.hpp"

namespace fokker::cpu {
namespace {

template <class T>
struct SumScratch final : Scratch {
  std::vector<std::unique_ptr<Scratch>> terms;
  AlignedMemory<T> value, dt, score, divergence, hessian;  // of a term
};

template <class T>
class SumField final : public BlockField<T> {
 public:
  explicit SumField(std::vector<WeightedField<T>> terms) : terms_(std::move(terms)), d_(terms_[0].field->dimension()) {}

  std::int64_t dimension() const override { return d_; }
  std::int64_t block_size() const override {
    std::int64_t largest = 1;
    for (const WeightedField<T>& term : terms_) largest = std::max(largest, term.field->block_size());
    return largest;
  }
  std::unique_ptr<Scratch> make_scratch() const override {
    auto scratch = std::make_unique<SumScratch<T>>();
    for (const WeightedField<T>& term : terms_) scratch->terms.push_back(term.field->make_scratch());
    return scratch;
  }

  void evaluate(const BlockPoints<T>& points, const BlockOutputs<T>& out, const Divergence& divergence,
                Scratch& scratch) const override {
    auto& s = static_cast<SumScratch<T>&>(scratch);
    const std::int64_t n = points.n;
    for (std::size_t k = 0; k < terms_.size(); ++k) {
      const auto own = [&](T* sum, AlignedMemory<T>& memory, std::int64_t count) {
        return k == 0 || !sum ? sum : memory.reserve(count);
      };
      const BlockOutputs<T> term{.value = own(out.value, s.value, n),
                                 .dt = own(out.dt, s.dt, n),
                                 .score = own(out.score, s.score, n * d_),
                                 .divergence = own(out.divergence, s.divergence, n),
                                 .hessian = own(out.hessian, s.hessian, n * d_ * d_)};
      terms_[k].field->evaluate(points, term, divergence, *s.terms[k]);
      add(k, term.value, n, out.value);
      add(k, term.dt, n, out.dt);
      add(k, term.score, n * d_, out.score);
      add(k, term.divergence, n, out.divergence);
      add(k, term.hessian, n * d_ * d_, out.hessian);
    }
  }

  void hessian_vector(const BlockPoints<T>& points, const T* direction, T* product, Scratch& scratch) const override {
    auto& s = static_cast<SumScratch<T>&>(scratch);
    const std::int64_t count = points.n * d_;
    for (std::size_t k = 0; k < terms_.size(); ++k) {
      T* const term = k == 0 ? product : s.score.reserve(count);
      terms_[k].field->hessian_vector(points, direction, term, *s.terms[k]);
      add(k, term, count, product);
    }
  }

 private:
  void add(std::size_t k, const T* term, std::int64_t count, T* sum) const {
    if (!sum) return;
    const T weight = static_cast<T>(terms_[k].weight);
    for (std::int64_t i = 0; i < count; ++i) sum[i] = k == 0 ? weight * term[i] : sum[i] + weight * term[i];
  }

  std::vector<WeightedField<T>> terms_;
  std::int64_t d_;
};

}  // namespace

template <class T>
std::unique_ptr<BlockField<T>> make_sum_field(std::vector<WeightedField<T>> terms) {
  return std::make_unique<SumField<T>>(std::move(terms));
}

template std::unique_ptr<BlockField<float>> make_sum_field(std::vector<WeightedField<float>>);
template std::unique_ptr<BlockField<double>> make_sum_field(std::vector<WeightedField<double>>);

}  // namespace fokker::cpu
