#include "cuda/wide_branch.hpp"

#include <algorithm>

#include "kernels/wide_launch.hpp"

namespace fokker::cuda {

template <class T>
WideBranch<T>::WideBranch(cudaStream_t stream, const Gemm& gemm, const Branch& branch, bool there)
    : stream_(stream), gemm_(gemm), branch_(branch), there_(there) {
  while (first_trained_ < layers() && branch.layers[first_trained_].fixed) ++first_trained_;
}

template <class T>
std::int64_t WideBranch<T>::widest() const {
  std::int64_t widest = 1;
  for (const BranchLayer& layer : branch_.layers) widest = std::max(widest, layer.width);
  return widest;
}

template <class T>
void WideBranch<T>::take(Arena& arena, std::int64_t rows, bool tangent, bool gradient) {
  if (!there()) return;
  const auto planes = [&](bool wanted) {
    Planes<T> all;
    for (std::int64_t k = 0; wanted && k < layers(); ++k) all.push_back(arena.take<T>(rows * width(k)));
    return all;
  };
  value_ = planes(true);
  tangent_ = planes(tangent);
  d1_ = planes(tangent || gradient);
  d2_ = planes(tangent && gradient);
  if (tangent) tangent_bar_ = arena.take<T>(rows * widest());
  if (!gradient) return;
  bar_ = arena.take<T>(rows * widest());
  other_ = arena.take<T>(rows * widest());
}

template <class T>
void WideBranch<T>::forward(std::int64_t n, const Rows<T>& inputs, bool d1, bool d2) {
  inputs_ = inputs;
  for (std::int64_t k = 0; k < layers(); ++k) {
    const LayerActivation& activation = branch_.layers[k].activation;
    product(n, k, input(k), value_[k]);
    check(kernels::launch_activation<T>(activation.activation, activation.beta,
                                        {.rows = n,
                                         .width = width(k),
                                         .stride = width(k),
                                         .z = value_[k],
                                         .bias = parameters_ + branch_.bias_offset(k),
                                         .unscale = nullptr,
                                         .d1 = d1 ? d1_[k] : nullptr,
                                         .d2 = d2 ? d2_[k] : nullptr,
                                         .d3 = nullptr,
                                         .operand = {}},
                                        stream_),
          "launch_activation");
  }
}

template <class T>
void WideBranch<T>::tangent(std::int64_t n, const Rows<T>& rates, bool back) {
  rates_ = rates;
  for (std::int64_t k = 0; k < layers(); ++k) {
    kernels::Tangents<T> z{weights(0), 0, 0, 1, nullptr};  // along τ itself ż_1 is W_1
    if (tangent_input(k).data != nullptr) {
      product(n, k, tangent_input(k), tangent_[k]);
      z = {tangent_[k], width(k), 0, 1, nullptr};
    }
    check(kernels::launch_tangent<T>({.points = n,
                                      .streams = 1,
                                      .width = width(k),
                                      .stride = width(k),
                                      .tangents = z,
                                      .factor = d1_[k],
                                      .curvature = back ? d2_[k] : nullptr,
                                      .trace = nullptr,
                                      .weight = 1,
                                      .begin = false,
                                      .curved = back ? d2_[k] : nullptr,
                                      .unscaled = nullptr,
                                      .to = tangent_[k],
                                      .operand = {}},
                                     stream_),
          "launch_tangent");
  }
}

template <class T>
void WideBranch<T>::back_rule(std::int64_t n, std::int64_t k, bool with_tangent) const {
  T* const curvature = with_tangent ? d2_[k] : nullptr;
  kernels::ReverseArguments<T> rule{.rows = n,
                                    .width = width(k),
                                    .stride = width(k),
                                    .p = tangent_bar_,
                                    .p_stride = width(k),
                                    .unscale = nullptr,
                                    .d1 = d1_[k],
                                    .d2 = curvature,
                                    .curvature = curvature,
                                    .d3 = nullptr,
                                    .source = nullptr,
                                    .delta = tangent_bar_,
                                    .operand = {}};
  if (with_tangent) {  // σ″ ż becomes σ″ ż ḣ̄, the source of z̄
    check(kernels::launch_reverse<T>(rule, stream_), "launch_reverse");
    rule.source = curvature;
  }
  rule.p = rule.delta = bar_;
  rule.curvature = nullptr;
  check(kernels::launch_reverse<T>(rule, stream_), "launch_reverse");
}

template <class T>
void WideBranch<T>::product(std::int64_t n, std::int64_t k, const Rows<T>& a, T* c) const {
  const std::int64_t inputs = branch_.inputs_of(k);
  gemm_.multiply(Product<T, T>{n, width(k), inputs, a.data, a.stride, weights(k), inputs, true, c, width(k)});
}

template <class T>
void WideBranch<T>::reverse(std::int64_t n, std::int64_t k, const T* a, T* c) const {
  const std::int64_t inputs = branch_.inputs_of(k);
  gemm_.multiply(Product<T, T>{n, inputs, width(k), a, width(k), weights(k), inputs, false, c, inputs});
}

template class WideBranch<float>;
template class WideBranch<double>;

}  // namespace fokker::cuda
