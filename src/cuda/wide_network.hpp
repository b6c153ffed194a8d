#pragma once

// What fields and losses of wide networks share: the parameters as products take them, and the sweeps whose every
// product is a matrix product of the device and everything between two products one launch (kernels/wide.cu).
//
// Parameters are read where they lie on the device, in the layout of Architecture. The matrices between hidden layers
// are multiplied in the queue's precision where T is float: in fp32, or with fp16 halves side by side, so that one
// product over a depth of three widths adds high · high, high · low and low · high. The layers at both ends are fp32
// whatever the precision: what enters and leaves is not rounded, and they are thin. The launch that makes a row finds
// its power of two; the launch that takes the product undoes it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/device_field.hpp"
#include "cuda/gemm.hpp"
#include "cuda/runtime.hpp"
#include "kernels/wide_launch.hpp"

namespace fokker::cuda {

// Parts of one allocation, each from a multiple of 256 bytes. Without memory it counts.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}
  template <class V>
  V* take(std::int64_t count) {
    char* const part = base_ ? base_ + used_ : nullptr;
    used_ += (static_cast<std::size_t>(count) * sizeof(V) + 255) / 256 * 256;
    return reinterpret_cast<V*>(part);
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

// An array [rows, stride] of each hidden layer; nullptr where it is not wanted.
template <class T>
using Planes = std::vector<T*>;

// Device memory that a wide network may keep beside its parameters: in all, and of that for cuBLAS. With the budget of
// fields a sampler stays under 64 MiB. Losses take more rows at a time, and the products of their gradients are small in
// rows and columns and deep: cuBLAS splits those in its workspace, and asks for 32 MiB of it on Hopper.
struct WideBudget {
  std::size_t workspace, products;
};
inline constexpr WideBudget field_budget{std::size_t{48} << 20, std::size_t{8} << 20},
    loss_budget{std::size_t{256} << 20, std::size_t{32} << 20};

// Where WideNetwork::score() left a score.
template <class T>
struct Score {
  const T* columns;  // [n, output_stride], of each row the first d numbers
  const T* bias;     // [d], still to be added, or nullptr
};

// Layers are counted from 0: hidden() of them, and the output layer.
template <class T>
class WideNetwork {
 public:
  // `reverse`: whether there will be products in reverse. Throws Error beyond a width of 4096.
  WideNetwork(const Queue& queue, const Architecture& architecture, bool reverse, const WideBudget& budget);

  // Sweeps from here on are of these parameters [P], on the device, which have to live and stay as long. Asynchronous.
  void use(const T* parameters);

  std::int64_t dimension() const { return architecture_.dimension; }
  bool potential() const { return architecture_.output == Output::potential; }
  std::int64_t hidden() const { return static_cast<std::int64_t>(architecture_.hidden.size()); }
  int width(std::int64_t l) const { return static_cast<int>(architecture_.hidden[static_cast<std::size_t>(l)]); }
  int stride(std::int64_t l) const;
  int widest() const;         // stride
  int input_stride() const;   // of rows (t, x)
  int output_stride() const;  // of rows of outputs, or of (∂_t φ, ∇φ)
  const Architecture& architecture() const { return architecture_; }
  const T* weights(std::int64_t l) const { return parameters_ + architecture_.weight_offset(l); }
  const T* bias(std::int64_t l) const { return parameters_ + architecture_.bias_offset(l); }
  // The tangents of the first layer along x_i, the same for all points: column 1 + i of W_1.
  kernels::Tangents<T> axis_tangents(std::int64_t i) const {
    return {weights(0) + 1 + i, 0, 1, 1 + dimension(), nullptr};
  }

  // ---- workspace ----

  // The most rows whose workspace of bytes_of(rows) bytes fits the budget beside that of the products. Never fewer than
  // 256, even where those exceed the budget: products of fewer rows would leave the device idle.
  template <class Bytes>
  std::int64_t rows_that_fit(const Bytes& bytes_of) const {
    constexpr std::int64_t fewest = 256, most = 1 << 16;
    const std::size_t available = budget_.workspace - gemm_.workspace_bytes();
    return std::clamp(static_cast<std::int64_t>(available / bytes_of(fewest)) * fewest, fewest, most);
  }
  std::size_t workspace_bytes() const { return gemm_.workspace_bytes(); }
  // An array [rows, stride] for each hidden layer.
  Planes<T> take_planes(Arena& arena, std::int64_t rows) const;
  // Two arrays [rows, widest] that hidden layers use in turn: a product reads one and writes the other.
  Planes<T> take_ping_pong(Arena& arena, std::int64_t rows) const;
  // Takes room for the halves of a product's left operand.
  void take_operand(Arena& arena, std::int64_t rows);

  // ---- sweeps of n rows ----

  // h_l into value[l], σ′, σ″ and σ‴ into the others, from input [n, input_stride] = (t, x). Planes without arrays are
  // not wanted.
  void forward(std::int64_t n, const T* input, const Planes<T>& value, const Planes<T>& d1, const Planes<T>& d2,
               const Planes<T>& d3) const;
  // For a potential: δ_l into delta[l], κ_l into curvature[l], which may be σ″, τ_l in place of σ‴.
  void reverse(std::int64_t n, const Planes<T>& delta, const Planes<T>& d1, const Planes<T>& d2,
               const Planes<T>& curvature, const Planes<T>& d3) const;
  // γ_l into gamma[l], from γ of the last hidden layer there: γ_l = source_l + σ′_l W_{l+1}ᵀ γ_{l+1}; source without
  // arrays is 0. visit(l) after each of them, the last hidden layer's first.
  template <class Visit>
  void adjoint(std::int64_t n, const Planes<T>& gamma, const Planes<T>& d1, const Planes<T>& source,
               const Visit& visit) const {
    visit(hidden() - 1);
    for (std::int64_t l = hidden() - 2; l >= 0; --l) {
      product(n, l + 1, Direction::reverse, gamma[l + 1], gamma[l]);
      adjoint_rule(n, l, gamma, d1, source);
      visit(l);
    }
  }
  // ż_l into z[l], but for the first layer's, which is `start`, and σ′ ⊙ ż_l into to[l], which may be z[l]. visit(l,
  // rule) may add to what layer l's launch does. Rows are those of `streams` times `points`.
  template <class Visit>
  void tangent(std::int64_t points, std::int64_t streams, kernels::Tangents<T> start, const Planes<T>& z,
               const Planes<T>& to, const Planes<T>& d1, const Visit& visit) const {
    for (std::int64_t l = 0; l < hidden(); ++l) {
      kernels::Tangents<T> tangents = start;
      if (l > 0) {
        product(points * streams, l, Direction::forward, to[l - 1], z[l]);
        tangents = {z[l], stride(l), points * stride(l), 1, unscale()};
      }
      kernels::TangentArguments<T> rule{.points = points,
                                        .streams = streams,
                                        .width = width(l),
                                        .stride = stride(l),
                                        .tangents = tangents,
                                        .factor = d1[l],
                                        .curvature = nullptr,
                                        .trace = nullptr,
                                        .weight = 1,
                                        .begin = false,
                                        .curved = nullptr,
                                        .unscaled = nullptr,
                                        .squares = nullptr,
                                        .begin_squares = false,
                                        .to = to[l],
                                        .operand = operand(l + 1)};
      visit(l, rule);
      check(kernels::launch_tangent<T>(rule, stream_), "launch_tangent");
    }
  }

  // ---- products of n rows ----

  enum class Direction { forward, reverse };
  // The product between hidden layers l − 1 and l: c = a W_lᵀ, or in reverse c = a W_l. In halves `a` has to be the
  // array that the last launch with operand() split, and the launch that reads c takes unscale().
  void product(std::int64_t n, std::int64_t l, Direction direction, const T* a, T* c) const;
  // Where a launch puts the halves that product() with hidden matrix l reads; empty where there is no such matrix or
  // halves are not used.
  kernels::HalfOperand operand(std::int64_t l) const;
  const float* unscale() const { return operand_.unscale; }
  // c [n, stride] = input W_1ᵀ.
  void along_input(std::int64_t n, const T* input, T* c) const;
  // The score of n rows in c [n, output_stride]: of a potential (∂_t φ, ∇φ) from δ_1, the first layer's of `planes`, of a
  // vector net the output from h_L, the last layer's. From adjoints γ_1 or tangents ḣ_L instead, its derivative along
  // them, to which no bias belongs.
  Score<T> score(std::int64_t n, const Planes<T>& planes, T* c) const;
  // c [n, output_stride] = h Wᵀ with the output layer's W, and its reverse c [n, stride] = a W, a [n, output_stride].
  void output(std::int64_t n, const T* h, T* c) const;
  void from_output(std::int64_t n, const T* a, T* c) const;
  // Layer l's part of gradient [P] += Dᵀ H, D [n, d_stride], H [n, h_stride]; always in T.
  void add_weights(std::int64_t l, std::int64_t n, const T* d, std::int64_t d_stride, const T* h, std::int64_t h_stride,
                   T* gradient) const;

 private:
  void adjoint_rule(std::int64_t n, std::int64_t l, const Planes<T>& gamma, const Planes<T>& d1,
                    const Planes<T>& source) const;

  struct Halves {  // a hidden matrix
    kernels::Half* forward = nullptr;
    kernels::Half* reverse = nullptr;
    float* unscale = nullptr;
  };

  cudaStream_t stream_;
  Architecture architecture_;
  WideBudget budget_;
  Gemm gemm_;
  const T* parameters_ = nullptr;
  DeviceMemory packed_;
  std::vector<Halves> halves_;  // of each layer; none at both ends
  float* largest_ = nullptr;    // [widest]
  kernels::HalfOperand operand_;
};

}  // namespace fokker::cuda
