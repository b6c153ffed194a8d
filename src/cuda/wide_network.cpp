#include "cuda/wide_network.hpp"

#include <fmt/format.h>

#include <type_traits>

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
    : stream_(queue.stream), architecture_(architecture), budget_(budget), gemm_(queue.stream, budget.products) {
  for (std::size_t l = 0; l < architecture.hidden.size(); ++l) {
    if (architecture.hidden[l] <= widest_layer) continue;
    throw Error(fmt::format("hidden layer {} has {} units; the CUDA backend takes up to {}", l + 1,
                            architecture.hidden[l], widest_layer));
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
  if constexpr (std::is_same_v<T, float>) {
    if (operand_.parts == 0) return;
    for (std::int64_t l = 1; l < hidden(); ++l) {
      const Halves& h = halves_[l];
      check(kernels::launch_pack({width(l), width(l - 1), stride(l), stride(l - 1), weights(l), operand_.parts,
                                  largest_, h.forward, h.reverse, h.unscale},
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
void WideNetwork<T>::take_operand(Arena& arena, std::int64_t rows) {
  if (operand_.parts == 0) return;
  operand_.halves = arena.take<kernels::Half>(rows * operand_.parts * widest());
  operand_.unscale = arena.take<float>(rows);
}

// ---- sweeps --------------------------------------------------------------------------------------------------------

template <class T>
void WideNetwork<T>::forward(std::int64_t n, const T* input, const Planes<T>& value, const Planes<T>& d1,
                             const Planes<T>& d2, const Planes<T>& d3) const {
  for (std::int64_t l = 0; l < hidden(); ++l) {
    if (l == 0) {
      along_input(n, input, value[0]);
    } else {
      product(n, l, Direction::forward, value[l - 1], value[l]);
    }
    check(kernels::launch_activation<T>(
              architecture_.activation, architecture_.beta,
              {n, width(l), stride(l), value[l], bias(l), l == 0 ? nullptr : unscale(), plane_or_null(d1, l),
               plane_or_null(d2, l), plane_or_null(d3, l), operand(l + 1)},
              stream_),
          "launch_activation");
  }
}

template <class T>
void WideNetwork<T>::reverse(std::int64_t n, const Planes<T>& delta, const Planes<T>& d1, const Planes<T>& d2,
                             const Planes<T>& curvature, const Planes<T>& d3) const {
  for (std::int64_t l = hidden() - 1; l >= 0; --l) {
    const bool last = l + 1 == hidden();
    if (!last) product(n, l + 1, Direction::reverse, delta[l + 1], delta[l]);
    check(kernels::launch_reverse<T>({.rows = n,
                                      .width = width(l),
                                      .stride = stride(l),
                                      .p = last ? weights(l + 1) : delta[l],
                                      .p_stride = last ? 0 : stride(l),
                                      .unscale = last ? nullptr : unscale(),
                                      .d1 = d1[l],
                                      .d2 = plane_or_null(d2, l),
                                      .curvature = plane_or_null(curvature, l),
                                      .d3 = plane_or_null(d3, l),
                                      .source = nullptr,
                                      .delta = delta[l],
                                      .operand = operand(l)},
                                     stream_),
          "launch_reverse");
  }
}

template <class T>
void WideNetwork<T>::adjoint_rule(std::int64_t n, std::int64_t l, const Planes<T>& gamma, const Planes<T>& d1,
                                  const Planes<T>& source) const {
  check(kernels::launch_reverse<T>({.rows = n,
                                    .width = width(l),
                                    .stride = stride(l),
                                    .p = gamma[l],
                                    .p_stride = stride(l),
                                    .unscale = unscale(),
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

// ---- products ------------------------------------------------------------------------------------------------------

template <class T>
void WideNetwork<T>::product(std::int64_t n, std::int64_t l, Direction direction, const T* a, T* c) const {
  const bool forward = direction == Direction::forward;
  const std::int64_t from = forward ? l - 1 : l, to = forward ? l : l - 1;
  if (operand_.parts == 0) {
    gemm_.multiply(
        Product<T, T>{n, width(to), width(from), a, stride(from), weights(l), width(l - 1), forward, c, stride(to)});
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
  gemm_.multiply(Product<T, T>{n, width(0), 1 + dimension(), input, input_stride(), weights(0), 1 + dimension(), true,
                               c, stride(0)});
}

template <class T>
Score<T> WideNetwork<T>::score(std::int64_t n, const Planes<T>& planes, T* c) const {
  if (!potential()) {
    output(n, planes.back(), c);
    return {c, bias(hidden())};
  }
  gemm_.multiply(Product<T, T>{n, 1 + dimension(), width(0), planes.front(), stride(0), weights(0), 1 + dimension(),
                               false, c, output_stride()});
  return {c + 1, nullptr};
}

template <class T>
void WideNetwork<T>::output(std::int64_t n, const T* h, T* c) const {
  const std::int64_t last = hidden() - 1;
  gemm_.multiply(Product<T, T>{n, architecture_.outputs(hidden()), width(last), h, stride(last), weights(hidden()),
                               width(last), true, c, output_stride()});
}

template <class T>
void WideNetwork<T>::from_output(std::int64_t n, const T* a, T* c) const {
  const std::int64_t last = hidden() - 1;
  gemm_.multiply(Product<T, T>{n, width(last), architecture_.outputs(hidden()), a, output_stride(), weights(hidden()),
                               width(last), false, c, stride(last)});
}

template <class T>
void WideNetwork<T>::add_weights(std::int64_t l, std::int64_t n, const T* d, std::int64_t d_stride, const T* h,
                                 std::int64_t h_stride, T* gradient) const {
  const std::int64_t outputs = architecture_.outputs(l), inputs = architecture_.inputs(l);
  gemm_.multiply(Product<T, T>{outputs, inputs, n, d, d_stride, h, h_stride, false,
                               gradient + architecture_.weight_offset(l), inputs, true, true});
}

template class WideNetwork<float>;
template class WideNetwork<double>;

}  // namespace fokker::cuda
