#pragma once

// What fields and losses of wide networks share: the parameters as products take them, and the sweeps whose every
// product is a matrix product of the device and everything between two products one launch (kernels/wide.cu).
//
// Parameters are read where they lie on the device, in the layout of Architecture. The matrices between hidden layers
// are multiplied in the queue's precision where T is float: in fp32, or with fp16 halves side by side, so that one
// product over a depth of three widths adds high · high, high · low and low · high. The layers at both ends are fp32
// whatever the precision: what enters and leaves is not rounded, and they are thin. The launch that makes a row finds
// its power of two; the launch that takes the product undoes it.
//
// Where layers take an embedding c of a condition or e of the time (wide_branch.hpp), W_l here is what multiplies h,
// V_l what multiplies c and U_l what multiplies e; they are columns of one matrix of the parameters. V_l c and U_l e
// are products more in T, or, where all points have one time, U_l e is a part of the bias. A residual connection is a
// launch more, on the way there and back, that adds what the layer took.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/arena.hpp"
#include "cuda/device_field.hpp"
#include "cuda/gemm.hpp"
#include "cuda/runtime.hpp"
#include "cuda/wide_branch.hpp"
#include "kernels/wide_launch.hpp"

namespace fokker::cuda {

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

// P_l, the derivative by h_l, as a sweep in reverse finds it.
template <class T>
struct Adjoint {
  const T* p = nullptr;     // [n, stride of layer l], or nullptr: 0
  std::int64_t stride = 0;  // or 0: the same for all rows
  const float* unscale = nullptr;
};

// What layers take of the branches beside h; without data nothing.
template <class T>
struct Embeddings {
  Rows<T> condition, time;
};

// Layers are counted from 0: hidden() of them, and the output layer.
template <class T>
class WideNetwork {
 public:
  // `reverse`: whether there will be products in reverse. Throws Error beyond a width of 4096.
  WideNetwork(const Queue& queue, const Architecture& architecture, bool reverse, const WideBudget& budget);
  WideNetwork(const WideNetwork&) = delete;
  WideNetwork& operator=(const WideNetwork&) = delete;

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
  // How many times are beside x: 1, or 0 where the network has its time by an embedding or none.
  std::int64_t times() const { return architecture_.time.raw() ? 1 : 0; }
  bool residual(std::int64_t l) const { return architecture_.is_residual(l); }
  const WideBranch<T>& time() const { return time_; }
  const WideBranch<T>& condition() const { return condition_; }
  WideBranch<T>& time() { return time_; }
  std::array<WideBranch<T>*, 2> branches() { return {&condition_, &time_}; }
  // How many of layer l's inputs are a branch's embedding, and how many are those of the branches, the first ones.
  std::int64_t embedded(std::int64_t l, const WideBranch<T>& branch) const {
    if (!branch.there()) return 0;
    return &branch == &time_ ? architecture_.embedded(l) : architecture_.conditioned(l);
  }
  std::int64_t embedded(std::int64_t l) const { return embedded(l, condition_) + embedded(l, time_); }
  // Where the parameters of a branch, its columns of layer l's weights, and W_l begin; rows of the latter are
  // architecture().inputs(l) apart.
  std::int64_t branch_offset(const WideBranch<T>& branch) const {
    return &branch == &time_ ? architecture_.time_offset() : 0;
  }
  std::int64_t embedding_offset(std::int64_t l, const WideBranch<T>& branch) const {
    return architecture_.weight_offset(l) + (&branch == &time_ ? embedded(l, condition_) : 0);
  }
  std::int64_t weight_offset(std::int64_t l) const { return architecture_.weight_offset(l) + embedded(l); }
  const T* weights(std::int64_t l) const { return parameters_ + weight_offset(l); }
  // With U_l e where all points have one time.
  const T* bias(std::int64_t l) const {
    return one_time_ && embedded(l, time_) > 0 ? start_[l] : parameters_ + architecture_.bias_offset(l);
  }
  // The tangents of the first layer along x_i, the same for all points: a column of W_1.
  kernels::Tangents<T> axis_tangents(std::int64_t i) const {
    return {weights(0) + times() + i, 0, 1, architecture_.inputs(0), nullptr};
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
  // Takes room for what sweeps of so many rows have for themselves, with that of the branches' gradients where
  // `gradient`: the halves of a product's left operand, P, and what is of the branches.
  void take_own(Arena& arena, std::int64_t rows, bool gradient);

  // ---- sweeps of n rows ----

  // The embeddings, of which all other sweeps are: of the times of input [n, input_stride] = (t, x), or of its first
  // one where all have that time, which then is that of further sweeps until another call; and of conditions [n, c].
  // With what derivatives by the time take where `by_time`, and what back() takes where `back`.
  void embed_times(std::int64_t n, const T* input, bool one_time, bool by_time, bool back);
  void embed_conditions(std::int64_t n, const T* conditions, bool back);
  // h_l into value[l], σ′, σ″ and σ‴ into the others, from input [n, input_stride] = (t, x). Planes without arrays are
  // not wanted.
  void forward(std::int64_t n, const T* input, const Planes<T>& value, const Planes<T>& d1, const Planes<T>& d2,
               const Planes<T>& d3) const;
  // For a potential: δ_l into delta[l], κ_l into curvature[l], which may be σ″, τ_l in place of σ‴; where `by_time` the
  // derivative by e, too, into time().tangent_bar().
  void reverse(std::int64_t n, const Planes<T>& delta, const Planes<T>& d1, const Planes<T>& d2,
               const Planes<T>& curvature, const Planes<T>& d3, bool by_time) const;
  // P_l of γ_{l+1}, by a product in c, which may stay there.
  Adjoint<T> adjoint_below(std::int64_t n, std::int64_t l, const T* gamma, T* c, const Adjoint<T>& above) const;
  // γ_l into gamma[l], from γ of the last hidden layer there and, where it is not 0, its P: γ_l = source_l + σ′_l P_l;
  // source without arrays is 0. visit(l) after each of them, the last hidden layer's first.
  template <class Visit>
  void adjoint(std::int64_t n, const Planes<T>& gamma, const Planes<T>& d1, const Planes<T>& source, const Visit& visit,
               Adjoint<T> above = {}) const {
    visit(hidden() - 1);
    for (std::int64_t l = hidden() - 2; l >= 0; --l) {
      above = adjoint_below(n, l, gamma[l + 1], gamma[l], above);
      adjoint_rule(n, l, gamma, d1, source, above);
      visit(l);
    }
  }
  // ż_l into z[l], but for the first layer's, which is `start`, and ḣ_l into to[l], which may be z[l]. visit(l, rule) may
  // change what layer l's launch does, and of a potential where ḣ of the last hidden layer goes. Rows are those of
  // `streams` times `points`.
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
                                        .to = to[l],
                                        .operand = operand_of(l)};
      visit(l, rule);
      check(kernels::launch_tangent<T>(rule, stream_), "launch_tangent");
      if (l + 1 < hidden() || !potential()) add_connection(points * streams, l, to);
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
  // What the launch that makes h_l or a tangent of it, but for a residual connection, has for the next product; and what
  // that connection adds to layer l's plane, before that product.
  kernels::HalfOperand operand_of(std::int64_t l) const {
    return residual(l) ? kernels::HalfOperand{} : operand(l + 1);
  }
  void add_connection(std::int64_t n, std::int64_t l, const Planes<T>& planes) const {
    if (residual(l)) add(n, l, planes[l], nullptr, {planes[l - 1], stride(l)}, planes[l], operand(l + 1));
  }
  const float* unscale() const { return operand_.unscale; }
  // c [n, stride] = input W_1ᵀ.
  void along_input(std::int64_t n, const T* input, T* c) const;
  // What layers take of the branches at each row: no time where all have one.
  Embeddings<T> embeddings() const { return {condition_.embedding(), one_time_ ? Rows<T>{} : time_.embedding()}; }
  // to [n, to_stride] of layer l's product += c V_lᵀ + e U_lᵀ, without its scale if it has one, where the layer takes
  // them and they are there. Returns the scale that is left.
  const float* add_embeddings(std::int64_t n, std::int64_t l, const Embeddings<T>& embeddings, const float* unscale,
                              T* to, std::int64_t to_stride) const;
  // bar [n, width of the embedding] += D V_l or D U_l, D [n, d_stride].
  void add_embedding_bar(std::int64_t n, std::int64_t l, const WideBranch<T>& branch, const T* d, std::int64_t d_stride,
                         T* bar) const;
  // The score of n rows in c [n, output_stride]: of a potential (∂_t φ, ∇φ) from δ_1, the first layer's of `planes`, but
  // for a ∂_t φ that comes from an embedding; of a vector net the output from h_L, the last layer's.
  Score<T> score(std::int64_t n, const Planes<T>& planes, T* c) const;
  // From adjoints γ_1 or tangents ḣ_L instead, its derivative along them.
  const T* score_derivative(std::int64_t n, const Planes<T>& planes, T* c) const;
  // ∂_t φ into the first column of c, where it comes from an embedding: by what reverse() and embed_times() have left.
  void time_derivative(std::int64_t n, T* c);
  // The outputs from h_L in c [n, output_stride], to which their bias is still to be added.
  void outputs(std::int64_t n, const T* h, T* c) const;
  // c [n, output_stride] = h Wᵀ with the output layer's W, and its reverse c [n, stride] = a W, a [n, a_stride].
  void output(std::int64_t n, const T* h, T* c) const;
  void from_output(std::int64_t n, const T* a, std::int64_t a_stride, T* c) const;
  // Where P of the last hidden layer is kept, for adjoint(): an array of its own with residual connections.
  T* kept() const { return kept_; }
  // to [outputs, to_stride] += Dᵀ H, D [n, d_stride], H [n, inputs]; always in T.
  void add_outer(std::int64_t outputs, std::int64_t inputs, std::int64_t n, const T* d, std::int64_t d_stride,
                 const Rows<T>& h, T* to, std::int64_t to_stride) const;

 private:
  void adjoint_rule(std::int64_t n, std::int64_t l, const Planes<T>& gamma, const Planes<T>& d1,
                    const Planes<T>& source, const Adjoint<T>& p) const;
  // to = unscale · from + more in rows of layer l.
  void add(std::int64_t n, std::int64_t l, const T* from, const float* unscale, const Rows<T>& more, T* to,
           const kernels::HalfOperand& operand) const;

  struct Halves {  // a hidden matrix
    kernels::Half* forward = nullptr;
    kernels::Half* reverse = nullptr;
    float* unscale = nullptr;
  };

  cudaStream_t stream_;
  Architecture architecture_;
  WideBudget budget_;
  Gemm gemm_;
  WideBranch<T> condition_, time_;
  bool one_time_ = false;  // whether e is one row, and its part of each layer's product in start_
  std::vector<T*> start_;  // [outputs] of each layer that takes e
  T* kept_ = nullptr;      // [rows, widest], P where a residual connection adds it
  const T* parameters_ = nullptr;
  DeviceMemory packed_;
  std::vector<Halves> halves_;  // of each layer; none at both ends
  float* largest_ = nullptr;    // [widest]
  kernels::HalfOperand operand_;
};

}  // namespace fokker::cuda
