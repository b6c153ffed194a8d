#pragma once

// What one thread needs of a model: its fields on a block of points at host addresses. Fields and samplers are loops over
// blocks; a network, an exact mixture and a weighted sum of those are the implementations.
#include <cstdint>
#include <memory>
#include <vector>

#include "fokker/fields.hpp"
#include "fokker/model.hpp"

namespace fokker::cpu {

// A thread's own memory: aligned, grown on first use, kept.
class Scratch {
 public:
  virtual ~Scratch() = default;
};

template <class T>
struct BlockPoints {
  const T* t;             // t[i · t_stride]
  std::int64_t t_stride;  // 1, or 0: one time for all
  const T* x;             // [n, d]
  std::int64_t n;
  std::uint64_t first_index = 0;  // of the first point, for probes
  const T* condition = nullptr;   // y [n, c], of a network that takes one
  bool same_conditions = false;   // as in the last call with this scratch, whose points were as many
  // For probes, [n] where the points' indices are not one after another; then first_index is not read.
  const std::uint64_t* indices = nullptr;
};

// As FieldOutputs; nullptr: not wanted.
template <class T>
struct BlockOutputs {
  T* value = nullptr;
  T* dt = nullptr;
  T* score = nullptr;
  T* divergence = nullptr;
  T* hessian = nullptr;
  T* residual = nullptr;
};

template <class T>
class BlockField {
 public:
  virtual ~BlockField() = default;
  virtual std::int64_t dimension() const = 0;
  // Points a call handles best; any n is allowed. A point's result does not depend on its block.
  virtual std::int64_t block_size() const = 0;
  virtual std::unique_ptr<Scratch> make_scratch() const = 0;
  virtual void evaluate(const BlockPoints<T>& points, const BlockOutputs<T>& outputs, const Divergence& divergence,
                        Scratch& scratch) const = 0;
  virtual void hessian_vector(const BlockPoints<T>& points, const T* direction, T* product, Scratch& scratch) const = 0;
};

template <class T>
std::unique_ptr<BlockField<T>> make_mlp_field(const Mlp& mlp, const ForwardSde& sde);  // mlp.cpp
template <class T>
std::unique_ptr<BlockField<T>> make_mixture_field(const GaussianMixture& mixture,
                                                  const ForwardSde& sde);  // mixture.cpp

template <class T>
struct WeightedField {
  double weight;
  std::unique_ptr<BlockField<T>> field;
};
// Sums of all but the residual, which is none of its terms': FormedField makes it of the others. Of one term or more.
template <class T>
std::unique_ptr<BlockField<T>> make_sum_field(std::vector<WeightedField<T>> terms);  // composition.cpp

// form.cpp: the fields of the network itself, whatever its form says of its output: the one switch on what a model is.
template <class T>
std::unique_ptr<BlockField<T>> make_network_field(const Model& model);
// Those of the model.
template <class T>
std::unique_ptr<BlockField<T>> make_block_field(const Model& model);

}  // namespace fokker::cpu
