#pragma once

// What the sweeps of an MLP are made of: one table of functions per working precision, chosen once by the instruction
// set.
//
// A tile holds rows (samples, or (stream, sample) pairs) × features, row-major; a row's stride is its width padded to
// whole vectors. All three products of a network are broadcast × vector, so nothing is ever transposed:
//   forward   Z = H Wᵀ + b           product(H, pack(Wᵀ))
//   reverse   P = D W                product(D, pack(W))
//   gradient  G += Σ_r D[r]ᵀ H[r]    gradient(D, H)
// Every element of a product is one chain of fused multiply-adds in ascending order of the summed index, whatever the
// number of rows: a row's result depends on nothing but that row.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "fokker/formulas/activation.hpp"
#include "fokker/model.hpp"

namespace fokker::cpu {

// What becomes of a product P [rows, columns] while it is in registers, instead of by a pass of its own:
// C = P ⊙ scale or, with `add`, C += P ⊙ scale; and times ⊙= P. Both have C's stride.
template <class T>
struct Epilogue {
  const T* scale = nullptr;  // nullptr: 1
  bool add = false;          // with a scale, without times
  T* times = nullptr;        // nullptr: none

  Epilogue from(std::int64_t offset) const {
    return {scale ? scale + offset : nullptr, add, times ? times + offset : nullptr};
  }
};

// P = A B, with bias and C where they are added, A [rows, depth] and B [depth, columns] packed. Columns up to the next whole
// vector are written too, without A B, since B's padding is zero.
template <class T>
struct Product {
  std::int64_t rows, depth, columns;
  const T* a;
  std::int64_t a_stride;
  const T* packed;
  T* c;
  std::int64_t c_stride;
  const T* bias = nullptr;  // [padded(columns)]: each row begins with it
  bool accumulate = false;  // what C holds is added
  Epilogue<T> epilogue = {};
};

template <class T>
struct MlpPrimitives {
  const char* target;         // its instruction set: "AVX2", …
  std::int64_t lanes;         // of a vector
  std::int64_t row_block;     // rows a product takes at a time: any number is allowed, multiples are fastest
  std::int64_t column_block;  // columns of one packed block

  std::int64_t padded(std::int64_t width) const { return (width + lanes - 1) / lanes * lanes; }
  std::int64_t packed_size(std::int64_t depth, std::int64_t columns) const { return depth * padded(columns); }

  // B(k, j) = b[k · depth_stride + j · column_stride], k < depth, j < columns.
  void (*pack)(const T* b, std::int64_t depth, std::int64_t columns, std::int64_t depth_stride,
               std::int64_t column_stride, T* packed);
  void (*product)(const Product<T>& product);
  // g [outputs, inputs] += Σ_r d[r, j] h[r, i]. Columns of g up to the next whole vector are touched too.
  void (*gradient)(std::int64_t rows, std::int64_t outputs, std::int64_t inputs, const T* d, std::int64_t d_stride,
                   const T* h, std::int64_t h_stride, T* g, std::int64_t g_stride);
  // out[j] += Σ_r a[r, j] over whole vectors of a row.
  void (*sum_rows)(std::int64_t rows, std::int64_t width, const T* a, std::int64_t a_stride, T* out);
  // out[r · out_stride + c] = start + Σ_i a[r, i] w[c, i], c < columns, start[c] or 0: for few columns. Whole vectors
  // of a and w are read; w's padding must be zero.
  void (*dots)(std::int64_t rows, std::int64_t width, std::int64_t columns, const T* a, std::int64_t a_stride,
               const T* w, std::int64_t w_stride, const T* start, T* out, std::int64_t out_stride);
  // out[r · out_stride] += Σ_i a[r, i] b[r, i] c[r, i] over whole vectors of a row.
  void (*triple_dots)(std::int64_t rows, std::int64_t stride, const T* a, const T* b, const T* c, T* out,
                      std::int64_t out_stride);
  // h = σ(z) and its derivatives over n values (a multiple of lanes); nullptr: not wanted, and costs nothing. An output
  // may be z itself.
  void (*activate)(Activation activation, T parameter, std::int64_t n, const T* z, T* h, T* d1, T* d2, T* d3);

  // Pointwise over n values (a multiple of lanes); out may be any of the inputs.
  void (*multiply)(std::int64_t n, const T* a, const T* b, T* out);                               // a ⊙ b
  void (*scale_columns)(std::int64_t rows, std::int64_t stride, const T* a, const T* w, T* out);  // a[r, j] w[j]
};

// The table for this machine, T = float or double.
template <class T>
const MlpPrimitives<T>& mlp_primitives();

// Memory aligned to 64 bytes that only grows; contents are not kept when it does. Fresh memory is zero.
template <class T>
class AlignedMemory {
 public:
  T* reserve(std::int64_t count) {
    if (count > count_) {
      const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
      void* p = std::aligned_alloc(64, bytes);
      if (p == nullptr) throw std::bad_alloc();
      data_.reset(static_cast<T*>(p));
      count_ = count;
      for (std::size_t i = 0; i < bytes / sizeof(T); ++i) data_.get()[i] = T(0);
    }
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  std::int64_t count_ = 0;
};

// A matrix as the products want it.
template <class T>
struct PackedMatrix {
  std::int64_t inputs = 0, outputs = 0;
  std::int64_t input_stride = 0, output_stride = 0;  // padded
  AlignedMemory<T> forward;                          // Wᵀ packed
  AlignedMemory<T> reverse;                          // W packed
  AlignedMemory<T> rows;                             // W [outputs, input_stride], rows padded with zeros

  // W(j, i) = w[j · stride + i]. Again with a matrix of the same size nothing is allocated.
  template <class U>
  void pack(const U* w, std::int64_t stride, std::int64_t all_inputs, std::int64_t all_outputs) {
    const MlpPrimitives<T>& p = mlp_primitives<T>();
    inputs = all_inputs, outputs = all_outputs;
    input_stride = p.padded(inputs), output_stride = p.padded(outputs);
    T* own = rows.reserve(outputs * input_stride);
    for (std::int64_t j = 0; j < outputs; ++j) {
      for (std::int64_t i = 0; i < inputs; ++i) own[j * input_stride + i] = static_cast<T>(w[j * stride + i]);
    }
    p.pack(own, inputs, outputs, 1, input_stride, forward.reserve(p.packed_size(inputs, outputs)));
    p.pack(own, outputs, inputs, input_stride, 1, reverse.reserve(p.packed_size(outputs, inputs)));
  }

  // c [n, output_stride] = start + a Wᵀ with start [output_stride] or nullptr for 0, or c + a Wᵀ.
  void multiply(std::int64_t n, const T* a, std::int64_t a_stride, const T* start, bool accumulate, T* c) const {
    mlp_primitives<T>().product({.rows = n,
                                 .depth = inputs,
                                 .columns = outputs,
                                 .a = a,
                                 .a_stride = a_stride,
                                 .packed = forward.data(),
                                 .c = c,
                                 .c_stride = output_stride,
                                 .bias = accumulate ? nullptr : start,
                                 .accumulate = accumulate});
  }
};

// One layer's parameters: the matrix that takes h, which takes a raw time too where it is beside x, the bias, and the
// matrices that take the embeddings of a condition and of the time, without inputs where the layer has none.
template <class T>
struct PackedLayer : PackedMatrix<T> {
  AlignedMemory<T> bias;  // [output_stride]
  PackedMatrix<T> condition, time;

  template <class U>
  void pack_layer(const U* w, const U* b, std::int64_t conditioned, std::int64_t embedded, std::int64_t all_inputs,
                  std::int64_t all_outputs) {
    const std::int64_t before = conditioned + embedded;
    this->pack(w + before, all_inputs, all_inputs - before, all_outputs);
    if (conditioned > 0) condition.pack(w, all_inputs, conditioned, all_outputs);
    if (embedded > 0) time.pack(w + conditioned, all_inputs, embedded, all_outputs);
    T* own = bias.reserve(this->output_stride);
    for (std::int64_t j = 0; j < all_outputs; ++j) own[j] = static_cast<T>(b[j]);
  }
};

// Packs all layers of a parameter vector in the layout of Architecture. May be called again with new parameters of the
// same architecture; then nothing is allocated.
template <class T, class U>
void pack_layers(const Architecture& architecture, const U* parameters, std::vector<PackedLayer<T>>& layers) {
  layers.resize(static_cast<std::size_t>(architecture.layers()));
  for (std::int64_t l = 0; l < architecture.layers(); ++l) {
    layers[static_cast<std::size_t>(l)].pack_layer(
        parameters + architecture.weight_offset(l), parameters + architecture.bias_offset(l),
        architecture.conditioned(l), architecture.time.raw() ? 0 : architecture.embedded(l), architecture.inputs(l),
        architecture.outputs(l));
  }
}

}  // namespace fokker::cpu
