#pragma once

// The embedding that a branch makes of rows of times or of conditions, its derivative along the time, and the way back. A
// branch is small beside the network it feeds: its products are those of mlp_primitives.hpp, what stands between them are
// plain loops.
//   forward   h_0 = τ or y, ḣ_0 = dτ;  z = W h + b, ż = W ḣ;  h = σ(z), ḣ = σ′ ż
//   back      with a and b the derivatives of a loss by h and ḣ: σ′ a + σ″ ż b by z, σ′ b by ż; those times W are a and b
//             of the layer before, and with its h and ḣ they make dW and, the first of them, db
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/mlp_primitives.hpp"

namespace fokker::cpu {

template <class T>
class PackedBranch {
 public:
  // A thread's own memory.
  struct Scratch {
    struct Layer {
      AlignedMemory<T> value, tangent;    // h_k and ḣ_k, of the inputs first
      AlignedMemory<T> slope, curvature;  // σ′ and σ″ ż of the layer that made them
    };
    std::vector<Layer> layers;
    AlignedMemory<T> one, other, tangent_one, tangent_other;
  };

  explicit PackedBranch(const Branch& branch)
      : branch_(branch), p_(mlp_primitives<T>()), stride_(p_.padded(branch.width())) {
    for (const BranchLayer& layer : branch.layers) widest_ = std::max(widest_, p_.padded(layer.width));
    widest_ = std::max(widest_, stride_);
    while (first_trained_ < layers() && branch.layers[first_trained_].fixed) ++first_trained_;
  }

  // Whether back() has anything to do.
  bool trains() const { return first_trained_ < layers(); }
  std::int64_t stride() const { return stride_; }  // of a row of the embedding

  // `parameters`: the branch's own.
  template <class U>
  void pack(const U* parameters) {
    layers_.resize(branch_.layers.size());
    for (std::int64_t k = 0; k < layers(); ++k) {
      layers_[k].pack_layer(parameters + branch_.weight_offset(k), parameters + branch_.bias_offset(k), 0, 0,
                            branch_.inputs_of(k), branch_.layers[k].width);
    }
  }

  // The embedding [n, stride] of `inputs` [n, branch.inputs]. With `tangent`, its derivative along the time too, whose
  // own derivative is rate[i], or 1 for nullptr. `keep`: for back().
  void forward(std::int64_t n, const T* inputs, bool tangent, const T* rate, bool keep, Scratch& s) const {
    s.layers.resize(static_cast<std::size_t>(layers()) + 1);
    std::int64_t a_stride = input_stride();
    fill(n, s.layers[0].value, [&](std::int64_t i, std::int64_t j) { return inputs[i * branch_.inputs + j]; });
    if (tangent) {
      fill(n, s.layers[0].tangent, [&](std::int64_t i, std::int64_t) { return rate ? rate[i] : T(1); });
    }
    for (std::int64_t k = 0; k < layers(); ++k) {
      const PackedLayer<T>& layer = layers_[k];
      const LayerActivation& activation = branch_.layers[k].activation;
      const std::int64_t size = n * layer.output_stride;
      typename Scratch::Layer& from = s.layers[k];
      typename Scratch::Layer& to = s.layers[k + 1];
      T* const value = to.value.reserve(size);
      layer.multiply(n, from.value.data(), a_stride, layer.bias.data(), false, value);
      T* const slope = tangent || keep ? to.slope.reserve(size) : nullptr;
      T* const curvature = tangent && keep ? to.curvature.reserve(size) : nullptr;
      p_.activate(activation.activation, static_cast<T>(activation.beta), size, value, value, slope, curvature,
                  nullptr);
      if (tangent) {
        T* const along = to.tangent.reserve(size);
        layer.multiply(n, from.tangent.data(), a_stride, nullptr, false, along);
        if (curvature) p_.multiply(size, curvature, along, curvature);
        p_.multiply(size, slope, along, along);
      }
      a_stride = layer.output_stride;
    }
  }
  const T* embedding(const Scratch& s) const { return s.layers[static_cast<std::size_t>(layers())].value.data(); }
  const T* derivative(const Scratch& s) const { return s.layers[static_cast<std::size_t>(layers())].tangent.data(); }

  // How many numbers back() adds to, and where layer k's are: W [outputs, padded(inputs)], then b [padded(outputs)].
  std::int64_t gradient_size() const { return gradient_offset(layers()); }

  // Adds the branch's gradient, of the derivatives by e [n, stride] and, unless nullptr, by its derivative along τ.
  void back(std::int64_t n, const T* by_value, const T* by_tangent, Scratch& s, T* gradient) const {
    const T *value = by_value, *tangent = by_tangent;
    for (std::int64_t k = layers() - 1; k >= first_trained_; --k) {
      const PackedLayer<T>& layer = layers_[k];
      const std::int64_t size = n * layer.output_stride,
                         in_stride = k == 0 ? input_stride() : layers_[k - 1].output_stride;
      const typename Scratch::Layer &from = s.layers[k], &to = s.layers[k + 1];
      T* const z = s.one.reserve(n * widest_);
      T* const dz = tangent ? s.tangent_one.reserve(n * widest_) : nullptr;
      const T* slope = to.slope.data();
      for (std::int64_t i = 0; i < size; ++i) {
        const T bar = slope[i] * value[i];
        z[i] = tangent ? bar + to.curvature.data()[i] * tangent[i] : bar;
        if (tangent) dz[i] = slope[i] * tangent[i];
      }
      T* const weights = gradient + gradient_offset(k);
      const std::int64_t stride = p_.padded(layer.inputs);
      add(n, layer, z, from.value.data(), in_stride, weights, stride);
      if (tangent) add(n, layer, dz, from.tangent.data(), in_stride, weights, stride);
      p_.sum_rows(n, layer.outputs, z, layer.output_stride, weights + layer.outputs * stride);
      if (k == first_trained_) break;
      value = reverse(n, layer, z, s.other.reserve(n * widest_));
      if (tangent) tangent = reverse(n, layer, dz, s.tangent_other.reserve(n * widest_));
    }
  }

  // From back()'s layout to that of Architecture; fixed layers have the gradient zero.
  T* unpack(const T* padded, T* gradient) const {
    for (std::int64_t k = 0; k < layers(); ++k) {
      const PackedLayer<T>& layer = layers_[k];
      const T* from = padded + gradient_offset(k);
      const std::int64_t stride = p_.padded(layer.inputs);
      if (branch_.layers[k].fixed) {
        gradient = std::fill_n(gradient, layer.outputs * (layer.inputs + 1), T(0));
        continue;
      }
      for (std::int64_t j = 0; j < layer.outputs; ++j) {
        for (std::int64_t i = 0; i < layer.inputs; ++i) *gradient++ = from[j * stride + i];
      }
      gradient = std::copy_n(from + layer.outputs * stride, layer.outputs, gradient);
    }
    return gradient;
  }

 private:
  std::int64_t layers() const { return static_cast<std::int64_t>(branch_.layers.size()); }

  std::int64_t gradient_offset(std::int64_t layer) const {
    std::int64_t offset = 0;
    for (std::int64_t k = 0; k < layer; ++k) {
      const std::int64_t outputs = branch_.layers[k].width;
      offset += outputs * p_.padded(branch_.inputs_of(k)) + p_.padded(outputs);
    }
    return offset;
  }

  // A single number that a layer takes is no whole vector.
  std::int64_t input_stride() const { return layers() > 0 && branch_.inputs == 1 ? 1 : p_.padded(branch_.inputs); }

  template <class Number>
  void fill(std::int64_t n, AlignedMemory<T>& to, const Number& number) const {
    const std::int64_t stride = input_stride();
    T* const rows = to.reserve(n * stride);
    std::fill_n(rows, n * stride, T(0));
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < branch_.inputs; ++j) rows[i * stride + j] = number(i, j);
    }
  }

  const T* reverse(std::int64_t n, const PackedLayer<T>& layer, const T* d, T* c) const {
    p_.product({.rows = n,
                .depth = layer.outputs,
                .columns = layer.inputs,
                .a = d,
                .a_stride = layer.output_stride,
                .packed = layer.reverse.data(),
                .c = c,
                .c_stride = layer.input_stride});
    return c;
  }

  void add(std::int64_t n, const PackedLayer<T>& layer, const T* d, const T* h, std::int64_t h_stride, T* weights,
           std::int64_t stride) const {
    if (layer.inputs > 1 || h_stride >= p_.lanes) {
      p_.gradient(n, layer.outputs, layer.inputs, d, layer.output_stride, h, h_stride, weights, stride);
      return;
    }
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t j = 0; j < layer.outputs; ++j) weights[j * stride] += d[r * layer.output_stride + j] * h[r];
    }
  }

  Branch branch_;
  const MlpPrimitives<T>& p_;
  std::int64_t stride_ = 0, widest_ = 0;
  std::int64_t first_trained_ = 0;  // below it all layers are fixed, and nobody asks for their gradient
  std::vector<PackedLayer<T>> layers_;
};

}  // namespace fokker::cpu
