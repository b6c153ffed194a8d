#include "cuda/wide_network.hpp"

#include <fmt/format.h>

#include <type_traits>
#include <utility>

#include "fokker/error.hpp"

namespace fokker::cuda {
namespace {

constexpr std::int64_t widest_layer = 4096;

std::int64_t padded(std::int64_t n) {
  return (n + kernels::wide_padding - 1) / kernels::wide_padding * kernels::wide_padding;
}

template <class T>
T* plane_or_null(const Planes<T>& planes, std::int64_t l) {
  return planes.empty() ? nullptr : planes[static_cast<std::size_t>(l)];
}

}  // namespace

template <class T>
WideNetwork<T>::WideNetwork(const Queue& queue, const Architecture& architecture, bool reverse,
                            const WideBudget& budget)
    : stream_(queue.stream),
      architecture_(architecture),
      budget_(budget),
      gemm_(queue.stream, budget.products),
      condition_(queue.stream, gemm_, architecture.condition,
                 architecture.conditional() && !architecture.condition.into.empty()),
      time_(queue.stream, gemm_, architecture.time, !architecture.time.raw() && !architecture.time.into.empty()) {
  for (std::size_t l = 0; l < architecture.hidden.size(); ++l) {
    if (architecture.hidden[l] <= widest_layer) continue;
    throw Error(fmt::format("hidden layer {} has {} units; the CUDA backend takes up to {}", l + 1,
                            architecture.hidden[l], widest_layer));
  }
  for (const auto& [name, branch] : {std::pair("time", &time_), std::pair("condition's", &condition_)}) {
    if (branch->widest() <= widest_layer) continue;
    throw Error(fmt::format("a layer of the {} branch has {} units; the CUDA backend takes up to {}", name,
                            branch->widest(), widest_layer));
  }
  if constexpr (std::is_same_v<T, float>) {
    operand_.parts = queue.precision == Precision::split ? 3 : queue.precision == Precision::half ? 1 : 0;
  }
  if (operand_.parts == 0) return;
  halves_.resize(static_cast<std::size_t>(hidden()));
  const auto lay_out = [&](char* base) {
    Arena arena(base);
    largest_ = arena.take<float>(widest());
    for (std::int64_t l = 1; l < hidden(); ++l) {
      const std::int64_t count = std::int64_t{operand_.parts} * stride(l) * stride(l - 1);
      halves_[l].forward = arena.take<kernels::Half>(count);
      if (reverse) halves_[l].reverse = arena.take<kernels::Half>(count);
      halves_[l].unscale = arena.take<float>(1);
    }
    return arena.used();
  };
  packed_.reserve(lay_out(nullptr));
  lay_out(packed_.as<char>());
}

template <class T>
void WideNetwork<T>::use(const T* parameters) {
  parameters_ = parameters;
  for (WideBranch<T>* branch : branches()) branch->use(parameters + branch_offset(*branch));
  if constexpr (std::is_same_v<T, float>) {
    if (operand_.parts == 0) return;
    for (std::int64_t l = 1; l < hidden(); ++l) {
      const Halves& h = halves_[l];
      check(kernels::launch_pack({width(l), width(l - 1), stride(l), stride(l - 1), weights(l), architecture_.inputs(l),
                                  operand_.parts, largest_, h.forward, h.reverse, h.unscale},
                                 stream_),
            "launch_pack");
    }
  }
}

template <class T>
int WideNetwork<T>::stride(std::int64_t l) const {
  return static_cast<int>(padded(width(l)));
}
template <class T>
int WideNetwork<T>::widest() const {
  int widest = 0;
  for (std::int64_t l = 0; l < hidden(); ++l) widest = std::max(widest, stride(l));
  return widest;
}
template <class T>
int WideNetwork<T>::input_stride() const {
  return static_cast<int>(padded(1 + dimension()));
}
template <class T>
int WideNetwork<T>::output_stride() const {
  return static_cast<int>(padded(std::max(1 + dimension(), architecture_.outputs(hidden()))));
}

// ---- workspace -----------------------------------------------------------------------------------------------------

template <class T>
Planes<T> WideNetwork<T>::take_planes(Arena& arena, std::int64_t rows) const {
  Planes<T> planes;
  for (std::int64_t l = 0; l < hidden(); ++l) planes.push_back(arena.take<T>(rows * stride(l)));
  return planes;
}

template <class T>
Planes<T> WideNetwork<T>::take_ping_pong(Arena& arena, std::int64_t rows) const {
  T* const one = arena.take<T>(rows * widest());
  T* const other = arena.take<T>(rows * widest());
  Planes<T> planes;
  for (std::int64_t l = 0; l < hidden(); ++l) planes.push_back(l % 2 == 0 ? one : other);
  return planes;
}

template <class T>
void WideNetwork<T>::take_own(Arena& arena, std::int64_t rows, bool gradient) {
  if (operand_.parts > 0) {
    operand_.halves = arena.take<kernels::Half>(rows * operand_.parts * widest());
    operand_.unscale = arena.take<float>(rows);
  }
  if (!architecture_.residual.empty()) kept_ = arena.take<T>(rows * widest());
  time_.take(arena, rows, true, gradient);
  condition_.take(arena, rows, false, gradient);
  start_.clear();
  for (std::int64_t l = 0; l <= hidden(); ++l) {
    start_.push_back(embedded(l, time_) > 0 ? arena.take<T>(architecture_.outputs(l)) : nullptr);
  }
}

// ---- sweeps --------------------------------------------------------------------------------------------------------

template <class T>
void WideNetwork<T>::embed_conditions(std::int64_t n, const T* conditions, bool back) {
  if (!condition_.there()) return;
  condition_.forward(n, {conditions, condition_.shape().inputs}, back && condition_.trains(), false);
}

template <class T>
void WideNetwork<T>::embed_times(std::int64_t n, const T* input, bool one_time, bool by_time, bool back) {
  if (!time_.there()) return;
  one_time_ = one_time;
  back = back && time_.trains();
  time_.forward(one_time ? 1 : n, {input, input_stride()}, by_time || back, by_time && back);
  for (std::int64_t l = 0; one_time && l <= hidden(); ++l) {
    if (embedded(l, time_) == 0) continue;
    const std::int64_t outputs = architecture_.outputs(l);
    check(cudaMemcpyAsync(start_[l], parameters_ + architecture_.bias_offset(l),
                          static_cast<std::size_t>(outputs) * sizeof(T), cudaMemcpyDeviceToDevice, stream_),
          "cudaMemcpyAsync");
    add_embeddings(1, l, {{}, time_.embedding()}, nullptr, start_[l], outputs);
  }
}

template <class T>
void WideNetwork<T>::forward(std::int64_t n, const T* input, const Planes<T>& value, const Planes<T>& d1,
                             const Planes<T>& d2, const Planes<T>& d3) const {
  for (std::int64_t l = 0; l < hidden(); ++l) {
    if (l == 0) {
      along_input(n, input, value[0]);
    } else {
      product(n, l, Direction::forward, value[l - 1], value[l]);
    }
    const float* const scale = add_embeddings(n, l, embeddings(), l == 0 ? nullptr : unscale(), value[l], stride(l));
    const LayerActivation activation = architecture_.activation_of(l);
    check(kernels::launch_activation<T>(activation.activation, activation.beta,
                                        {n, width(l), stride(l), value[l], bias(l), scale, plane_or_null(d1, l),
                                         plane_or_null(d2, l), plane_or_null(d3, l), operand_of(l)},
                                        stream_),
          "launch_activation");
    add_connection(n, l, value);
  }
}

template <class T>
void WideNetwork<T>::reverse(std::int64_t n, const Planes<T>& delta, const Planes<T>& d1, const Planes<T>& d2,
                             const Planes<T>& curvature, const Planes<T>& d3, bool by_time) const {
  T* const bar = by_time && time_.there() ? time_.tangent_bar() : nullptr;
  if (bar != nullptr) {  // begins with the output layer's U
    const std::int64_t embedding = time_.width();
    if (embedded(hidden(), time_) > 0) {
      check(kernels::launch_columns<T>(
                {n, static_cast<int>(embedding), 0, parameters_ + embedding_offset(hidden(), time_), nullptr, bar},
                stream_),
            "launch_columns");
    } else {
      check(cudaMemsetAsync(bar, 0, static_cast<std::size_t>(n * embedding) * sizeof(T), stream_), "cudaMemsetAsync");
    }
  }
  Adjoint<T> p{weights(hidden())};
  for (std::int64_t l = hidden() - 1; l >= 0; --l) {
    if (l + 1 < hidden()) p = adjoint_below(n, l, delta[l + 1], delta[l], p);
    check(kernels::launch_reverse<T>({.rows = n,
                                      .width = width(l),
                                      .stride = stride(l),
                                      .p = p.p,
                                      .p_stride = p.stride,
                                      .unscale = p.unscale,
                                      .d1 = d1[l],
                                      .d2 = plane_or_null(d2, l),
                                      .curvature = plane_or_null(curvature, l),
                                      .d3 = plane_or_null(d3, l),
                                      .source = nullptr,
                                      .delta = delta[l],
                                      .operand = operand(l)},
                                     stream_),
          "launch_reverse");
    if (bar != nullptr) add_embedding_bar(n, l, time_, delta[l], stride(l), bar);
  }
}

// With residual connections the next layer down may add P_l to its own: then it is kept, without a scale.
template <class T>
Adjoint<T> WideNetwork<T>::adjoint_below(std::int64_t n, std::int64_t l, const T* gamma, T* c,
                                         const Adjoint<T>& above) const {
  product(n, l + 1, Direction::reverse, gamma, c);
  const bool adds = residual(l + 1) && above.p != nullptr;
  if (!adds && !residual(l)) return {c, stride(l), unscale()};
  add(n, l, c, unscale(), adds ? Rows<T>{above.p, above.stride} : Rows<T>{}, kept_, {});
  return {kept_, stride(l)};
}

template <class T>
void WideNetwork<T>::adjoint_rule(std::int64_t n, std::int64_t l, const Planes<T>& gamma, const Planes<T>& d1,
                                  const Planes<T>& source, const Adjoint<T>& p) const {
  check(kernels::launch_reverse<T>({.rows = n,
                                    .width = width(l),
                                    .stride = stride(l),
                                    .p = p.p,
                                    .p_stride = p.stride,
                                    .unscale = p.unscale,
                                    .d1 = d1[l],
                                    .d2 = nullptr,
                                    .curvature = nullptr,
                                    .d3 = nullptr,
                                    .source = plane_or_null(source, l),
                                    .delta = gamma[l],
                                    .operand = operand(l)},
                                   stream_),
        "launch_reverse");
}

template <class T>
void WideNetwork<T>::add(std::int64_t n, std::int64_t l, const T* from, const float* unscale, const Rows<T>& more,
                         T* to, const kernels::HalfOperand& operand) const {
  check(kernels::launch_add<T>({.rows = n,
                                .width = width(l),
                                .stride = stride(l),
                                .from = from,
                                .unscale = unscale,
                                .more = more.data,
                                .more_stride = more.stride,
                                .to = to,
                                .operand = operand},
                               stream_),
        "launch_add");
}

// ---- products ------------------------------------------------------------------------------------------------------

template <class T>
void WideNetwork<T>::product(std::int64_t n, std::int64_t l, Direction direction, const T* a, T* c) const {
  const bool forward = direction == Direction::forward;
  const std::int64_t from = forward ? l - 1 : l, to = forward ? l : l - 1;
  if (operand_.parts == 0) {
    gemm_.multiply(Product<T, T>{n, width(to), width(from), a, stride(from), weights(l), architecture_.inputs(l),
                                 forward, c, stride(to)});
  } else if constexpr (std::is_same_v<T, float>) {
    const std::int64_t depth = std::int64_t{operand_.parts} * stride(from);
    gemm_.multiply(Product<kernels::Half, float>{n, stride(to), depth, operand_.halves, depth,
                                                 forward ? halves_[l].forward : halves_[l].reverse,
                                                 forward ? depth : stride(to), forward, c, stride(to)});
  }
}

template <class T>
kernels::HalfOperand WideNetwork<T>::operand(std::int64_t l) const {
  if (operand_.parts == 0 || l <= 0 || l >= hidden()) return {};
  kernels::HalfOperand operand = operand_;
  operand.matrix = halves_[l].unscale;
  return operand;
}

template <class T>
void WideNetwork<T>::along_input(std::int64_t n, const T* input, T* c) const {
  gemm_.multiply(Product<T, T>{n, width(0), times() + dimension(), input + 1 - times(), input_stride(), weights(0),
                               architecture_.inputs(0), true, c, stride(0)});
}

template <class T>
const float* WideNetwork<T>::add_embeddings(std::int64_t n, std::int64_t l, const Embeddings<T>& embeddings,
                                            const float* unscale, T* to, std::int64_t to_stride) const {
  const auto take = [&](const WideBranch<T>& branch, const Rows<T>& embedding) {
    if (embedding.data == nullptr || embedded(l, branch) == 0) return;
    if (unscale != nullptr) add(n, l, to, unscale, {}, to, {});
    unscale = nullptr;
    gemm_.multiply(Product<T, T>{n, architecture_.outputs(l), embedded(l, branch), embedding.data, embedding.stride,
                                 parameters_ + embedding_offset(l, branch), architecture_.inputs(l), true, to,
                                 to_stride, false, true});
  };
  take(condition_, embeddings.condition);
  take(time_, embeddings.time);
  return unscale;
}

template <class T>
void WideNetwork<T>::add_embedding_bar(std::int64_t n, std::int64_t l, const WideBranch<T>& branch, const T* d,
                                       std::int64_t d_stride, T* bar) const {
  const std::int64_t columns = embedded(l, branch);
  if (columns == 0) return;
  gemm_.multiply(Product<T, T>{n, columns, architecture_.outputs(l), d, d_stride,
                               parameters_ + embedding_offset(l, branch), architecture_.inputs(l), false, bar, columns,
                               false, true});
}

template <class T>
Score<T> WideNetwork<T>::score(std::int64_t n, const Planes<T>& planes, T* c) const {
  if (potential()) return {score_derivative(n, planes, c), nullptr};
  outputs(n, planes.back(), c);
  return {c, bias(hidden())};
}

template <class T>
const T* WideNetwork<T>::score_derivative(std::int64_t n, const Planes<T>& planes, T* c) const {
  if (!potential()) {
    output(n, planes.back(), c);
    return c;
  }
  gemm_.multiply(Product<T, T>{n, times() + dimension(), width(0), planes.front(), stride(0), weights(0),
                               architecture_.inputs(0), false, c + 1 - times(), output_stride()});
  return c + 1;
}

template <class T>
void WideNetwork<T>::time_derivative(std::int64_t n, T* c) {
  if (times() > 0) return;
  if (time_.there()) time_.tangent(one_time_ ? 1 : n, {}, false);
  const Rows<T> rate = time_.derivative();
  check(kernels::launch_row_dots<T>({.rows = n,
                                     .columns = time_.there() ? static_cast<int>(time_.width()) : 0,
                                     .a = time_.tangent_bar(),
                                     .a_stride = time_.width(),
                                     .b = rate.data,
                                     .b_stride = one_time_ ? 0 : rate.stride,
                                     .out = c,
                                     .out_stride = output_stride()},
                                    stream_),
        "launch_row_dots");
}

template <class T>
void WideNetwork<T>::outputs(std::int64_t n, const T* h, T* c) const {
  output(n, h, c);
  add_embeddings(n, hidden(), embeddings(), nullptr, c, output_stride());
}

template <class T>
void WideNetwork<T>::output(std::int64_t n, const T* h, T* c) const {
  const std::int64_t last = hidden() - 1;
  gemm_.multiply(Product<T, T>{n, architecture_.outputs(hidden()), width(last), h, stride(last), weights(hidden()),
                               architecture_.inputs(hidden()), true, c, output_stride()});
}

template <class T>
void WideNetwork<T>::from_output(std::int64_t n, const T* a, std::int64_t a_stride, T* c) const {
  const std::int64_t last = hidden() - 1;
  gemm_.multiply(Product<T, T>{n, width(last), architecture_.outputs(hidden()), a, a_stride, weights(hidden()),
                               architecture_.inputs(hidden()), false, c, stride(last)});
}

template <class T>
void WideNetwork<T>::add_outer(std::int64_t outputs, std::int64_t inputs, std::int64_t n, const T* d,
                               std::int64_t d_stride, const Rows<T>& h, T* to, std::int64_t to_stride) const {
  gemm_.multiply(Product<T, T>{outputs, inputs, n, d, d_stride, h.data, h.stride, false, to, to_stride, true, true});
}

template class WideNetwork<float>;
template class WideNetwork<double>;

}  // namespace fokker::cuda
